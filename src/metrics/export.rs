//! The metrics of Cognito's own export: of each pool that has one, and of the endpoint for Data Firehose.
//!
//! A pool without an export shows none of them, and neither does a process without the endpoint.

use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use prometheus::Histogram;

use super::Metrics;
use super::family::{Counter, Distribution, Exposition, Family, Gauge};
use super::labels::{ExportResult, FirehoseOutcome, LabelValue as _, PerLabel};
use super::pool::DELAY_BOUNDS_SECS;

const UP: Family<Gauge, 1> = Family::new(
    "cognito_exporter_export_up",
    "Whether the pool's export works: 0 while it cannot be read, or misses events that polls find.",
    ["user_pool_id"],
);
const RECORDS: Family<Counter, 2> = Family::new(
    "cognito_exporter_export_records_total",
    "Records of the pool's export, by what they turned out to be.",
    ["user_pool_id", "result"],
);
const DELAY: Family<Distribution, 1> = Family::new(
    "cognito_exporter_export_delay_seconds",
    "Time from an auth event's creation date to its arrival through the export.",
    ["user_pool_id"],
);
const AUDITED: Family<Counter, 1> = Family::new(
    "cognito_exporter_export_audited_events_total",
    "Events that polls found and that were looked up in the export.",
    ["user_pool_id"],
);
const MISSED: Family<Counter, 1> = Family::new(
    "cognito_exporter_export_missed_events_total",
    "Events that polls found and that did not arrive through the export in time.",
    ["user_pool_id"],
);
const READ_UNTIL: Family<Gauge, 1> = Family::new(
    "cognito_exporter_export_read_until_timestamp_seconds",
    "Time up to which the log group of the export has been read.",
    ["user_pool_id"],
);
const REQUESTS: Family<Counter, 1> = Family::new(
    "cognito_exporter_firehose_requests_total",
    "Requests to the endpoint for Data Firehose, by its answer.",
    ["outcome"],
);

/// The pool id of records whose pool is not known.
const NO_POOL: &str = "";

/// The metrics of one pool's export. A gauge without a value is None and not shown.
pub(super) struct ExportMetrics {
    up: Option<bool>,
    records: PerLabel<ExportResult, u64>,
    delay: Histogram,
    audited: u64,
    missed: u64,
    read_until: Option<UnixMillis>,
}

impl Default for ExportMetrics {
    fn default() -> Self {
        Self {
            up: None,
            records: PerLabel::new(|| 0),
            delay: Family::distribution(&DELAY_BOUNDS_SECS),
            audited: 0,
            missed: 0,
            read_until: None,
        }
    }
}

impl ExportMetrics {
    /// Adds the metrics of the pool `id` to a scrape.
    pub(super) fn put(&self, scrape: &mut Exposition, id: &str) {
        scrape.put_known(&UP, [id], self.up.map(f64::from));
        for (result, count) in self.records.iter() {
            scrape.put(&RECORDS, [id, result], *count);
        }
        scrape.put(&DELAY, [id], &self.delay);
        scrape.put(&AUDITED, [id], self.audited);
        scrape.put(&MISSED, [id], self.missed);
        scrape.put_known(&READ_UNTIL, [id], self.read_until.map(UnixMillis::as_secs_f64));
    }
}

/// The metrics of exports that belong to no pool. A counter that is None is not shown.
#[derive(Default)]
pub(super) struct SharedExportMetrics {
    /// Unreadable records whose pool is not known. They are shown once a pool has an export.
    unreadable: Option<u64>,
    /// Requests to the endpoint for Data Firehose.
    requests: Option<PerLabel<FirehoseOutcome, u64>>,
}

impl SharedExportMetrics {
    /// Adds these metrics to a scrape, before those of the pools: the empty pool id comes first.
    pub(super) fn put(&self, scrape: &mut Exposition) {
        if let Some(unreadable) = self.unreadable {
            scrape.put(&RECORDS, [NO_POOL, ExportResult::Unreadable.as_str()], unreadable);
        }
        for (outcome, count) in self.requests.iter().flat_map(PerLabel::iter) {
            scrape.put(&REQUESTS, [outcome], *count);
        }
    }
}

impl Metrics {
    /// Shows the metrics of a pool's export, with all counters at 0. If they are shown already, nothing changes.
    pub fn add_export(&self, pool: &str) {
        self.with_pool(pool, |pool| {
            pool.export.get_or_insert_default();
        });
        self.values.exports.lock().unreadable.get_or_insert_default();
    }

    /// Stops showing the metrics of a pool's export. [`Self::remove_pool`] does the same for a pool that leaves.
    pub fn remove_export(&self, pool: &str) {
        self.with_pool(pool, |pool| pool.export = None);
    }

    /// Sets whether the pool's export works.
    pub fn export_up(&self, pool: &str, up: bool) {
        self.with_export(pool, |export| export.up = Some(up));
    }

    /// Counts records of the pool's export. The pool of an unreadable record may be "", if it is not known.
    pub fn export_records(&self, pool: &str, result: ExportResult, records: u64) {
        if pool == NO_POOL && result == ExportResult::Unreadable {
            *self.values.exports.lock().unreadable.get_or_insert_default() += records;
        } else {
            self.with_export(pool, |export| *export.records.of(result) += records);
        }
    }

    /// Observes the delay from an event's creation date to its arrival through the export.
    pub fn export_delay(&self, pool: &str, delay: Duration) {
        self.with_export(pool, |export| export.delay.observe(delay.as_secs_f64()));
    }

    /// Counts events that polls found: those that were looked up in the export, and those among them that it missed.
    pub fn export_audited(&self, pool: &str, audited: u64, missed: u64) {
        self.with_export(pool, |export| {
            export.audited += audited;
            export.missed += missed;
        });
    }

    /// Sets the time up to which the log group of the pool's export has been read.
    pub fn export_read_until(&self, pool: &str, until: UnixMillis) {
        self.with_export(pool, |export| export.read_until = Some(until));
    }

    /// Shows the metrics of the endpoint for Data Firehose, with all counters at 0.
    pub fn add_firehose(&self) {
        self.values.exports.lock().requests.get_or_insert_with(|| PerLabel::new(|| 0));
    }

    /// Counts a request to the endpoint for Data Firehose.
    pub fn firehose_request(&self, outcome: FirehoseOutcome) {
        if let Some(requests) = &mut self.values.exports.lock().requests {
            *requests.of(outcome) += 1;
        }
    }

    fn with_export(&self, pool: &str, change: impl FnOnce(&mut ExportMetrics)) {
        self.with_pool(pool, |pool| {
            if let Some(export) = &mut pool.export {
                change(export);
            }
        });
    }
}
