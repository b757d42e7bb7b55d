//! The metrics of the exporter as a whole: its stages, outbox, sink, state and build.

use std::collections::BTreeMap;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::shard::Shard;

use super::family::{Counter, Exposition, Family, Gauge};
use super::labels::{LabelValue as _, PauseReason, PerLabel, RecordOutcome, RequestOutcome, Stage};
use super::{OutboxSize, REVISION, VERSION};
use crate::config::ZeroSeries;

const LAST_PROGRESS: Family<Gauge, 1> = Family::new(
    "cognito_exporter_last_progress_timestamp_seconds",
    "When the stage last finished work, or found none to do.",
    ["stage"],
);
const OUTBOX_RECORDS: Family<Gauge, 0> =
    Family::new("cognito_exporter_outbox_records", "Records waiting for delivery.", []);
const OUTBOX_BYTES: Family<Gauge, 0> =
    Family::new("cognito_exporter_outbox_bytes", "Size of the records waiting for delivery.", []);
const OUTBOX_LIMIT: Family<Gauge, 0> = Family::new(
    "cognito_exporter_outbox_limit_bytes",
    "Size of the outbox at which polling pauses (state.outbox_limit).",
    [],
);
const OUTBOX_OLDEST: Family<Gauge, 0> = Family::new(
    "cognito_exporter_outbox_oldest_timestamp_seconds",
    "When the oldest record waiting for delivery was observed; absent while none waits.",
    [],
);
const OTLP_REQUESTS: Family<Counter, 1> = Family::new(
    "cognito_exporter_otlp_requests_total",
    "Batches sent to the OTLP receiver, by its answer.",
    ["outcome"],
);
const OTLP_RECORDS: Family<Counter, 1> = Family::new(
    "cognito_exporter_otlp_records_total",
    "Records that left the outbox, by what became of them.",
    ["outcome"],
);
const QUARANTINED: Family<Gauge, 0> = Family::new(
    "cognito_exporter_quarantined_records",
    "Records that the receiver refused as invalid, kept aside.",
    [],
);
const PAUSED: Family<Gauge, 1> = Family::new("cognito_exporter_paused", "Whether work pauses, and why.", ["reason"]);
const STATE_SIZE: Family<Gauge, 0> =
    Family::new("cognito_exporter_state_size_bytes", "Size of the ledger on disk.", []);
const STATE_REBUILDS: Family<Counter, 0> = Family::new(
    "cognito_exporter_state_rebuilds_total",
    "Times that a corrupt ledger was moved aside and begun anew.",
    [],
);
const SHARD_INFO: Family<Gauge, 2> =
    Family::new("cognito_exporter_shard_info", "Which share of the users this instance follows.", ["index", "count"]);
const RELOAD_SUCCESSFUL: Family<Gauge, 0> = Family::new(
    "cognito_exporter_config_last_reload_successful",
    "Whether the latest attempt to load the configuration succeeded.",
    [],
);
const RELOAD_SUCCESS_TIME: Family<Gauge, 0> = Family::new(
    "cognito_exporter_config_last_reload_success_timestamp_seconds",
    "When the configuration was last loaded successfully.",
    [],
);
const BUILD_INFO: Family<Gauge, 2> =
    Family::new("cognito_exporter_build_info", "The build that is running.", ["version", "revision"]);

/// The values of the exporter's metrics. A gauge without a value is None and not shown.
pub(super) struct ExporterMetrics {
    pub(super) progress: BTreeMap<Stage, UnixMillis>,
    pub(super) outbox: Option<OutboxSize>,
    pub(super) outbox_limit_bytes: Option<u64>,
    pub(super) otlp_requests: PerLabel<RequestOutcome, u64>,
    pub(super) otlp_records: PerLabel<RecordOutcome, u64>,
    pub(super) quarantined: Option<u64>,
    pub(super) paused: PerLabel<PauseReason, bool>,
    pub(super) state_size_bytes: Option<u64>,
    pub(super) state_rebuilds: u64,
    pub(super) shard: Shard,
    /// Which series of the pools' totals are shown.
    pub(super) zero_series: ZeroSeries,
    pub(super) reload_successful: bool,
    pub(super) reload_success: UnixMillis,
    pub(super) reload_tried: UnixMillis,
}

impl ExporterMetrics {
    pub(super) fn new(loaded: UnixMillis) -> Self {
        Self {
            progress: BTreeMap::new(),
            outbox: None,
            outbox_limit_bytes: None,
            otlp_requests: PerLabel::new(|| 0),
            otlp_records: PerLabel::new(|| 0),
            quarantined: None,
            paused: PerLabel::new(|| false),
            state_size_bytes: None,
            state_rebuilds: 0,
            shard: Shard::WHOLE,
            zero_series: ZeroSeries::default(),
            reload_successful: true,
            reload_success: loaded,
            reload_tried: loaded,
        }
    }

    pub(super) fn put(&self, scrape: &mut Exposition) {
        let mut progress: Vec<_> = self.progress.iter().map(|(stage, time)| (stage.as_str(), time)).collect();
        progress.sort_unstable();
        for (stage, time) in progress {
            scrape.put(&LAST_PROGRESS, [stage], time.as_secs_f64());
        }
        if let Some(outbox) = self.outbox {
            scrape.put(&OUTBOX_RECORDS, [], outbox.records as f64);
            scrape.put(&OUTBOX_BYTES, [], outbox.bytes as f64);
            scrape.put_known(&OUTBOX_OLDEST, [], outbox.oldest.map(UnixMillis::as_secs_f64));
        }
        scrape.put_known(&OUTBOX_LIMIT, [], self.outbox_limit_bytes.map(|bytes| bytes as f64));
        for (outcome, count) in self.otlp_requests.iter() {
            scrape.put(&OTLP_REQUESTS, [outcome], *count);
        }
        for (outcome, count) in self.otlp_records.iter() {
            scrape.put(&OTLP_RECORDS, [outcome], *count);
        }
        scrape.put_known(&QUARANTINED, [], self.quarantined.map(|records| records as f64));
        for (reason, paused) in self.paused.iter() {
            scrape.put(&PAUSED, [reason], f64::from(*paused));
        }
        scrape.put_known(&STATE_SIZE, [], self.state_size_bytes.map(|bytes| bytes as f64));
        scrape.put(&STATE_REBUILDS, [], self.state_rebuilds);
        let (index, count) = (self.shard.index().to_string(), self.shard.count().to_string());
        scrape.put(&SHARD_INFO, [&index, &count], 1.0);
        scrape.put(&RELOAD_SUCCESSFUL, [], f64::from(self.reload_successful));
        scrape.put(&RELOAD_SUCCESS_TIME, [], self.reload_success.as_secs_f64());
        scrape.put(&BUILD_INFO, [VERSION, REVISION], 1.0);
    }
}
