//! Declares every metric once, and has the methods by which the stages report their work.
//!
//! A counter exists at 0 from the start, so that its first increase is visible. A gauge is absent until its value is
//! known.
//!
//! The ledger owns the durable `cognito_auth_*` totals. [`Metrics::totals`] receives their absolute values after they
//! are on disk, and keeps the larger of the present and the new value. So nothing is counted twice, and no counter
//! falls, in whatever order the reports come.
//!
//! A report about a pool that is not shown (it has just left the configuration) does nothing.

mod calls;
mod export;
mod exporter;
mod family;
mod labels;
mod pool;
mod snapshot;
mod totals;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::call::{CallOutcome, Operation};
use cognito_auth_core::counters::Series;
use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::shard::Shard;
use parking_lot::{Mutex, MutexGuard};
use prometheus::{Registry, TextEncoder};

use crate::config::ZeroSeries;

pub use self::calls::AccountLimit;
use self::calls::CallMetrics;
use self::export::SharedExportMetrics;
use self::exporter::ExporterMetrics;
use self::family::Exposition;
pub use self::labels::{
    ExportResult, Fetched, FirehoseOutcome, LabelValue, PauseReason, RecordOutcome, RequestOutcome, Stage, UserState,
};
pub use self::pool::DELAY_BOUNDS_SECS;
use self::pool::PoolMetrics;
pub use self::snapshot::{EventTypeCounts, ExporterSnapshot, PoolCounters, PoolSnapshot};

/// The text format's content type (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The release, as `build_info` and `/status` show it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that was built, if the build names it (`BUILD_REVISION` in the compiler's environment).
pub const REVISION: &str = match option_env!("BUILD_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The numbers of a page's events, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageEvents {
    /// Live events, seen for the first time.
    pub new: u64,
    /// Events seen before with another mutable part.
    pub revisions: u64,
    /// Events seen before, unchanged.
    pub known: u64,
    /// Events seen for the first time, from before their user was followed.
    pub history: u64,
    /// Of all these, the events taken behind the newest known event.
    pub late: u64,
    /// Whether the page was not newest first.
    pub out_of_order: bool,
}

/// The number of users in each state. Every user is in one state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct UserCounts {
    /// Users whose latest answer was a page.
    pub ok: u64,
    /// Users that Cognito does not know.
    pub missing: u64,
    /// Users whose latest answers were errors about them.
    pub failing: u64,
}

/// The forecast for a pool at the present budget. A value that cannot be forecast is None.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct PollForecast {
    /// The time to poll every user of all pools that share the budget once.
    pub round: Option<Duration>,
    /// The mean time from an event to its first sight.
    pub event_delay: Option<Duration>,
    /// The requests per second that are needed to meet the objective for all users of the pool.
    pub required_per_second: Option<f64>,
}

/// The size of the outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OutboxSize {
    /// The number of waiting records.
    pub records: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// The time at which the oldest record was observed; None if none waits.
    pub oldest: Option<UnixMillis>,
}

/// All metrics of the process. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    values: Arc<MetricValues>,
    /// The metrics of the process itself, such as its memory.
    process: Registry,
}

/// The values behind the metrics. A lock is held briefly, and never two at a time.
struct MetricValues {
    exporter: Mutex<ExporterMetrics>,
    pools: Mutex<BTreeMap<String, Arc<Mutex<PoolMetrics>>>>,
    calls: Mutex<CallMetrics>,
    exports: Mutex<SharedExportMetrics>,
}

impl Metrics {
    /// Makes the metrics of a process that loaded its configuration at `loaded`.
    pub fn new(loaded: UnixMillis) -> Self {
        let values = Arc::new(MetricValues {
            exporter: Mutex::new(ExporterMetrics::new(loaded)),
            pools: Mutex::default(),
            calls: Mutex::default(),
            exports: Mutex::default(),
        });
        let process = Registry::new();
        #[cfg(target_os = "linux")]
        process
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("the registry has no other process collector");
        Self { values, process }
    }

    /// Returns every metric in the text format 0.0.4.
    pub fn render(&self) -> String {
        let mut scrape = Exposition::default();
        self.values.exports.lock().put(&mut scrape);
        let pools: Vec<_> = self.values.pools.lock().values().cloned().collect();
        let zero_series = self.exporter().zero_series;
        for pool in pools {
            pool.lock().put(&mut scrape, zero_series);
        }
        self.values.calls.lock().put(&mut scrape);
        self.values.exporter.lock().put(&mut scrape);
        // The names of the process's metrics come after the exporter's.
        let process = TextEncoder::new().encode_to_string(&self.process.gather()).expect(
            "every family has a name, the registry drops families without samples, and writing to a String cannot fail",
        );
        scrape.into_text(&process)
    }

    /// Shows a pool with all its counters at 0. If the pool is shown already, only its identity is replaced.
    pub fn add_pool(&self, identity: &PoolIdentity) {
        {
            let mut pools = self.values.pools.lock();
            match pools.get(&identity.id) {
                Some(pool) => pool.lock().identity = identity.clone(),
                None => {
                    let pool = Arc::new(Mutex::new(PoolMetrics::new(identity.clone())));
                    pools.insert(identity.id.clone(), pool);
                }
            }
        }
        let mut calls = self.values.calls.lock();
        calls.account(identity.account_id.as_deref(), &identity.region);
        calls.durations(&identity.region);
    }

    /// Stops showing a pool, and removes all its series.
    pub fn remove_pool(&self, pool: &str) {
        self.values.pools.lock().remove(pool);
    }

    /// Sets the durable totals of a pool in the ledger. A scrape sees all of them or none.
    pub fn totals(&self, pool: &str, totals: &[(Series, u64)]) {
        self.with_pool(pool, |pool| pool.raise_totals(totals));
    }

    /// Observes the delay from a live event's creation date to its first sight.
    pub fn event_delay(&self, pool: &str, delay: Duration) {
        self.with_pool(pool, |pool| pool.event_delay(delay));
    }

    /// Counts the events of a page.
    pub fn page_taken(&self, pool: &str, events: PageEvents) {
        self.with_pool(pool, |pool| pool.page_taken(events));
    }

    /// Sets whether the pool answers.
    pub fn pool_up(&self, pool: &str, up: bool) {
        self.with_pool(pool, |pool| pool.up = Some(up));
    }

    /// Sets the numbers of the pool's users by state.
    pub fn users(&self, pool: &str, counts: UserCounts) {
        self.with_pool(pool, |pool| pool.users = Some(counts));
    }

    /// Sets the time at which the pool's least recently polled user was polled or joined; None if there is no user.
    pub fn oldest_poll(&self, pool: &str, oldest: Option<UnixMillis>) {
        self.with_pool(pool, |pool| pool.oldest_poll = oldest);
    }

    /// Sets the longest time that a user of the pool should go without a poll.
    pub fn poll_objective(&self, pool: &str, objective: Duration) {
        self.with_pool(pool, |pool| pool.objective = Some(objective));
    }

    /// Sets the forecast for the pool at the present budget.
    pub fn forecast(&self, pool: &str, forecast: PollForecast) {
        self.with_pool(pool, |pool| pool.forecast = forecast);
    }

    /// Sets the time at which the pool's users were last listed to the end.
    pub fn discovery_succeeded(&self, pool: &str, now: UnixMillis) {
        self.with_pool(pool, |pool| pool.discovery = Some(now));
    }

    /// Sets the number of users met in the pool's present round of listings.
    pub fn discovery_progress(&self, pool: &str, met: u64) {
        self.with_pool(pool, |pool| pool.met = Some(met));
    }

    /// Sets the number of events that were cut so far. An event counts each time it is read.
    pub fn events_cut(&self, pool: &str, cut: u64) {
        self.with_pool(pool, |pool| pool.cut = pool.cut.max(cut));
    }

    /// Observes the delay from a user's creation until it was followed. Only users created after their pool was first
    /// followed count.
    pub fn discovery_delay(&self, pool: &str, delay: Duration) {
        self.with_pool(pool, |pool| pool.discovery_delay(delay));
    }

    /// Sets whether backlog or history of the pool is being worked off.
    pub fn catching_up(&self, pool: &str, catching_up: bool) {
        self.with_pool(pool, |pool| pool.catching_up = Some(catching_up));
    }

    /// Counts a call to Cognito and its duration. `account` is None while it is not known.
    pub fn api_request(
        &self,
        account: Option<&str>,
        region: &str,
        operation: Operation,
        outcome: CallOutcome,
        took: Duration,
    ) {
        let mut calls = self.values.calls.lock();
        *calls.account(account, region).requests.of(operation).of(outcome) += 1;
        calls.durations(region).of(operation).observe(took.as_secs_f64());
    }

    /// Sets the present budget of an account and region for AdminListUserAuthEvents, in requests per second.
    pub fn api_budget(&self, account: Option<&str>, region: &str, per_second: f64) {
        self.values.calls.lock().account(account, region).budget_per_second = Some(per_second);
    }

    /// Sets the limit of an account and region. Its budget is a share of it.
    pub fn api_limit(&self, account: Option<&str>, region: &str, limit: AccountLimit) {
        self.values.calls.lock().account(account, region).limit = Some(limit);
    }

    /// Returns the limit of an account and region, if it was set.
    pub fn known_limit(&self, account: Option<&str>, region: &str) -> Option<AccountLimit> {
        self.values.calls.lock().account(account, region).limit
    }

    /// Removes all limits: no budget is a share of one any more.
    pub fn forget_limits(&self) {
        self.values.calls.lock().accounts.values_mut().for_each(|account| account.limit = None);
    }

    /// Sets the time at which a stage last finished work, or found none to do.
    pub fn progress(&self, stage: Stage, now: UnixMillis) {
        self.exporter().progress.insert(stage, now);
    }

    /// Sets the size of the outbox.
    pub fn outbox(&self, size: OutboxSize) {
        self.exporter().outbox = Some(size);
    }

    /// Sets the size of the outbox, in bytes, at which polling pauses.
    pub fn outbox_limit(&self, bytes: u64) {
        self.exporter().outbox_limit_bytes = Some(bytes);
    }

    /// Counts an OTLP request.
    pub fn otlp_request(&self, outcome: RequestOutcome) {
        *self.exporter().otlp_requests.of(outcome) += 1;
    }

    /// Counts records that left the outbox.
    pub fn otlp_records(&self, outcome: RecordOutcome, records: u64) {
        *self.exporter().otlp_records.of(outcome) += records;
    }

    /// Sets the number of records in the quarantine.
    pub fn quarantined_records(&self, records: u64) {
        self.exporter().quarantined = Some(records);
    }

    /// Sets whether work pauses for a reason.
    pub fn paused(&self, reason: PauseReason, paused: bool) {
        *self.exporter().paused.of(reason) = paused;
    }

    /// Sets the ledger's size on disk, in bytes.
    pub fn state_size(&self, bytes: u64) {
        self.exporter().state_size_bytes = Some(bytes);
    }

    /// Counts a corrupt ledger that was moved aside and begun anew.
    pub fn state_rebuilt(&self) {
        self.exporter().state_rebuilds += 1;
    }

    /// Sets which series of the pools' totals are shown.
    pub fn zero_series(&self, zero_series: ZeroSeries) {
        self.exporter().zero_series = zero_series;
    }

    /// Sets the share of the users that this instance follows.
    pub fn shard(&self, shard: Shard) {
        self.exporter().shard = shard;
    }

    /// Sets whether the latest reload of the configuration succeeded, and when one last did.
    pub fn config_reloaded(&self, successful: bool, now: UnixMillis) {
        let mut exporter = self.exporter();
        exporter.reload_successful = successful;
        exporter.reload_tried = now;
        if successful {
            exporter.reload_success = now;
        }
    }

    fn exporter(&self) -> MutexGuard<'_, ExporterMetrics> {
        self.values.exporter.lock()
    }

    fn with_pool(&self, pool: &str, change: impl FnOnce(&mut PoolMetrics)) {
        let pool = self.values.pools.lock().get(pool).cloned();
        if let Some(pool) = pool {
            change(&mut pool.lock());
        }
    }
}

#[cfg(test)]
mod tests;
