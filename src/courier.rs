//! stub, to be replaced
#![expect(missing_docs, reason = "stub")]
use crate::config::Config;
use crate::ledger::Ledger;
use crate::lifecycle::Clock;
use crate::metrics::{Metrics, RecordOutcome, RequestOutcome, Stage};
use crate::sink::{Answer, Sinks};
use crate::status::StatusBoard;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OutboxId(pub u64);
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settlement {
    pub delivered: Vec<OutboxId>,
    pub quarantined: Vec<(OutboxId, String)>,
}

pub struct Courier {
    ledger: Ledger,
    sinks: Sinks,
    metrics: Metrics,
    clock: Clock,
    batch: usize,
}
impl Courier {
    pub fn new(ledger: Ledger, sinks: Sinks, config: &Config, metrics: Metrics, _s: StatusBoard, clock: Clock) -> Self {
        Self { ledger, sinks, metrics, clock, batch: config.otlp.as_ref().map_or(512, |otlp| otlp.batch_size) }
    }
    pub async fn run(mut self, stop: CancellationToken, hard: CancellationToken) {
        let mut changes = self.ledger.outbox_changes();
        loop {
            changes.mark_unchanged();
            let entries = self.ledger.read_outbox(None, self.batch).unwrap_or_default();
            if entries.is_empty() {
                self.metrics.progress(Stage::Deliver, self.clock.now());
                if stop.is_cancelled() {
                    return;
                }
                tokio::select! { _ = changes.changed() => {}, () = stop.cancelled() => {}, () = tokio::time::sleep(Duration::from_secs(5)) => {} }
                continue;
            }
            let (ids, batch): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
            match self.sinks.deliver(&batch).await {
                Answer::Accepted { .. } => {
                    self.metrics.otlp_request(RequestOutcome::Ok);
                    self.metrics.otlp_records(RecordOutcome::Accepted, batch.len() as u64);
                    let _ = self.ledger.settle(Settlement { delivered: ids, quarantined: vec![] }).await;
                }
                other => {
                    tracing::warn!(?other, "delivery");
                    tokio::select! { () = hard.cancelled() => return, () = tokio::time::sleep(Duration::from_secs(1)) => {} }
                }
            }
            if hard.is_cancelled() {
                return;
            }
        }
    }
}
