//! Shows how full and how large the state is, and why work pauses: read from the ledger when it changes, at most once a
//! second.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::delivery::Outbox as _;
use crate::ledger::Ledger;
use crate::lifecycle::Clock;
use crate::metrics::{Metrics, OutboxSize, PauseReason};
use crate::status::StatusBoard;

const EVERY: Duration = Duration::from_secs(1);

/// Looked at all the same while nothing changes: a disk that does not answer changes nothing.
const IDLE_EVERY: Duration = Duration::from_secs(10);

/// Asking the file system for the ledger's size is dear.
const SIZE_EVERY: Duration = Duration::from_secs(30);

/// A slot of the status page is half a minute.
const COUNTS_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Gauges {
    pub(super) metrics: Metrics,
    pub(super) status: StatusBoard,
    pub(super) ledger: Ledger,
    pub(super) clock: Clock,
    pub(super) outbox_limit_bytes: u64,
    /// Whether there is a sink.
    pub(super) queue: bool,
}

impl Gauges {
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(self) {
        let mut changes = self.ledger.changes();
        let (mut sized, mut counted): (Option<Instant>, Option<Instant>) = (None, None);
        loop {
            self.show();
            if sized.is_none_or(|at| at.elapsed() >= SIZE_EVERY) {
                sized = Some(Instant::now());
                self.metrics.state_size(self.ledger.size_bytes());
            }
            if counted.is_none_or(|at| at.elapsed() >= COUNTS_EVERY) {
                counted = Some(Instant::now());
                self.status.note_counts(&self.metrics, self.clock.now());
            }
            sleep(EVERY).await;
            // No change in that time is none; a ledger that is closed will not change.
            let _ = timeout(IDLE_EVERY - EVERY, changes.changed()).await;
        }
    }

    fn show(&self) {
        let outbox = self.ledger.outbox_state();
        let (quarantined, _bytes) = self.ledger.quarantine_state();
        let size = OutboxSize { records: outbox.records, bytes: outbox.bytes, oldest: outbox.oldest };
        // What an earlier configuration left there is shown, though nothing takes it.
        if self.queue || size.records > 0 {
            self.metrics.outbox(size);
        }
        self.metrics.quarantined_records(quarantined);
        let failure = self.ledger.failure();
        self.metrics.paused(PauseReason::OutboxFull, outbox.bytes >= self.outbox_limit_bytes);
        self.metrics.paused(PauseReason::StateError, failure.is_some());
        match failure {
            Some(failure) => self.status.stuck(&failure),
            None => self.status.unstuck(),
        }
    }
}
