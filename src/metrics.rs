//! Every metric, declared once, and the verbs by which the stages report what happened.
//!
//! The rule for what is shown: a counter exists at 0 from the start, so that its first increase can be seen; a gauge is
//! absent until it is known. The durable `cognito_auth_*` totals are the ledger's: [`Metrics::totals`] is told their absolute
//! values when they are durable, and takes the larger of shown and told, so that nothing here counts on its own account, and
//! nothing falls, in whatever order it is told.
//!
//! A verb about a pool that is not shown (it has just left the configuration) does nothing.

mod calls;
mod exporter;
mod family;
mod labels;
mod pool;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::counters::Series;
use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::shard::Shard;
use parking_lot::{Mutex, MutexGuard};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

pub use self::calls::AccountLimit;
use self::calls::Calls;
use self::exporter::Exporter;
use self::family::Exposition;
pub use self::labels::{Fetched, LabelValue, PauseReason, RecordOutcome, RequestOutcome, Stage, UserState};
pub use self::pool::DELAY_BOUNDS_SECS;
use self::pool::Pool;
pub use self::snapshot::{Counts, ExporterSnapshot, PoolSnapshot};
use crate::source::{CallOutcome, Operation};

/// The text format's content type (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The release, as `build_info` and `/status` show it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that was built, where the build told it (`BUILD_REVISION` in the compiler's environment).
pub const REVISION: &str = match option_env!("BUILD_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// What the events of one page turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageEvents {
    /// First seen, live.
    pub new: u64,
    /// Seen before, with another mutable part.
    pub revisions: u64,
    /// Seen before, as they were.
    pub known: u64,
    /// First seen, from before their user was followed.
    pub history: u64,
    /// Of all these, those taken behind the newest known event.
    pub late: u64,
    /// Whether the page was not newest first.
    pub out_of_order: bool,
}

/// How many users are in each state; every user is in one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct UserCounts {
    /// The latest answer was a page.
    pub ok: u64,
    /// Cognito does not know them.
    pub missing: u64,
    /// The latest answers were errors of theirs.
    pub failing: u64,
}

/// What the present budget gives for a pool; of what cannot be said, None.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct PollForecast {
    /// How long it takes to poll every user of all pools that share the budget once.
    pub round: Option<Duration>,
    /// The mean time from an event to its first sight.
    pub event_delay: Option<Duration>,
    /// Requests per second that it takes to keep the objective for all users of the pool.
    pub required_per_second: Option<f64>,
}

/// What waits for delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OutboxSize {
    /// Records waiting.
    pub records: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// When the oldest was observed; None while none waits.
    pub oldest: Option<UnixMillis>,
}

/// All metrics of the process. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    shown: Arc<Shown>,
    registry: Registry,
}

/// The values behind the metrics. Locks are held for moments and never two at a time.
struct Shown {
    exporter: Mutex<Exporter>,
    pools: Mutex<BTreeMap<String, Arc<Mutex<Pool>>>>,
    calls: Mutex<Calls>,
}

impl Metrics {
    /// Makes the metrics of a process whose configuration was loaded at `loaded`.
    pub fn new(loaded: UnixMillis) -> Self {
        let shown = Arc::new(Shown {
            exporter: Mutex::new(Exporter::new(loaded)),
            pools: Mutex::default(),
            calls: Mutex::default(),
        });
        let registry = Registry::new();
        registry
            .register(Box::new(ShownCollector(shown.clone())))
            .expect("the registry is new, and the collector describes nothing that could clash");
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("the registry has no other process collector");
        Self { shown, registry }
    }

    /// Every metric in the text format 0.0.4.
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("every family has a name, the registry drops those without samples, and a String takes all")
    }

    /// Shows a pool, all its counters at 0; of one that is shown already, only what it is called changes.
    pub fn add_pool(&self, identity: &PoolIdentity) {
        {
            let mut pools = lock(&self.shown.pools);
            match pools.get(&identity.id) {
                Some(pool) => lock(pool).identity = identity.clone(),
                None => {
                    let pool = Arc::new(Mutex::new(Pool::new(identity.clone())));
                    pools.insert(identity.id.clone(), pool);
                }
            }
        }
        let mut calls = lock(&self.shown.calls);
        calls.account(identity.account_id.as_deref(), &identity.region);
        calls.durations(&identity.region);
    }

    /// Stops showing a pool: all its series go.
    pub fn remove_pool(&self, pool: &str) {
        lock(&self.shown.pools).remove(pool);
    }

    /// The ledger holds these durable totals of a pool; a scrape sees all of them or nothing.
    pub fn totals(&self, pool: &str, totals: &[(Series, u64)]) {
        self.with_pool(pool, |pool| pool.reach(totals));
    }

    /// A live event was first seen `delay` after its creation date.
    pub fn event_delay(&self, pool: &str, delay: Duration) {
        self.with_pool(pool, |pool| pool.event_delay(delay));
    }

    /// A page was read and judged.
    pub fn page_taken(&self, pool: &str, events: PageEvents) {
        self.with_pool(pool, |pool| pool.page_taken(events));
    }

    /// The pool answers, or does not.
    pub fn pool_up(&self, pool: &str, up: bool) {
        self.with_pool(pool, |pool| pool.up = Some(up));
    }

    /// The pool's users were counted by state.
    pub fn users(&self, pool: &str, counts: UserCounts) {
        self.with_pool(pool, |pool| pool.users = Some(counts));
    }

    /// When the pool's least recently polled user was polled, or joined; None while there is no user.
    pub fn oldest_poll(&self, pool: &str, oldest: Option<UnixMillis>) {
        self.with_pool(pool, |pool| pool.oldest_poll = oldest);
    }

    /// The longest time that a user of the pool should go without a poll.
    pub fn poll_objective(&self, pool: &str, objective: Duration) {
        self.with_pool(pool, |pool| pool.objective = Some(objective));
    }

    /// What the present budget gives for the pool.
    pub fn forecast(&self, pool: &str, forecast: PollForecast) {
        self.with_pool(pool, |pool| pool.forecast = forecast);
    }

    /// The pool's users were listed to the end.
    pub fn discovery_succeeded(&self, pool: &str, now: UnixMillis) {
        self.with_pool(pool, |pool| pool.discovery = Some(now));
    }

    /// So many users were met in the pool's present round of listings.
    pub fn discovery_progress(&self, pool: &str, met: u64) {
        self.with_pool(pool, |pool| pool.met = Some(met));
    }

    /// So many events were cut so far to what is kept of one, once for each time that they were read.
    pub fn events_cut(&self, pool: &str, cut: u64) {
        self.with_pool(pool, |pool| pool.cut = pool.cut.max(cut));
    }

    /// A user who was created after its pool was first followed has joined the followed users, `delay` later.
    pub fn discovery_delay(&self, pool: &str, delay: Duration) {
        self.with_pool(pool, |pool| pool.discovery_delay(delay));
    }

    /// Backlog or history of the pool is being worked off, or no longer.
    pub fn catching_up(&self, pool: &str, catching_up: bool) {
        self.with_pool(pool, |pool| pool.catching_up = Some(catching_up));
    }

    /// A call to Cognito has ended. `account` is None while it is not known.
    pub fn api_request(
        &self,
        account: Option<&str>,
        region: &str,
        operation: Operation,
        outcome: CallOutcome,
        took: Duration,
    ) {
        let mut calls = lock(&self.shown.calls);
        *calls.account(account, region).requests.of(operation).of(outcome) += 1;
        calls.durations(region).of(operation).observe(took.as_secs_f64());
    }

    /// The budget for AdminListUserAuthEvents of an account and region at present, in requests per second.
    pub fn api_budget(&self, account: Option<&str>, region: &str, per_second: f64) {
        lock(&self.shown.calls).account(account, region).budget_per_second = Some(per_second);
    }

    /// The budget of an account and region is a share of this limit.
    pub fn api_limit(&self, account: Option<&str>, region: &str, limit: AccountLimit) {
        lock(&self.shown.calls).account(account, region).limit = Some(limit);
    }

    /// The limit of an account and region, as far as it was told.
    pub fn known_limit(&self, account: Option<&str>, region: &str) -> Option<AccountLimit> {
        lock(&self.shown.calls).account(account, region).limit
    }

    /// No budget is a share of a limit any more.
    pub fn forget_limits(&self) {
        lock(&self.shown.calls).accounts.values_mut().for_each(|account| account.limit = None);
    }

    /// A stage has finished work, or found none to do.
    pub fn progress(&self, stage: Stage, now: UnixMillis) {
        self.exporter().progress.insert(stage, now);
    }

    /// The outbox holds this much.
    pub fn outbox(&self, size: OutboxSize) {
        self.exporter().outbox = Some(size);
    }

    /// At this many bytes in the outbox polling pauses.
    pub fn outbox_limit(&self, bytes: u64) {
        self.exporter().outbox_limit_bytes = Some(bytes);
    }

    /// The receiver has answered a batch, or has not.
    pub fn otlp_request(&self, outcome: RequestOutcome) {
        *self.exporter().otlp_requests.of(outcome) += 1;
    }

    /// Records have left the outbox.
    pub fn otlp_records(&self, outcome: RecordOutcome, records: u64) {
        *self.exporter().otlp_records.of(outcome) += records;
    }

    /// The quarantine holds this many records.
    pub fn quarantined_records(&self, records: u64) {
        self.exporter().quarantined = Some(records);
    }

    /// Work pauses for a reason, or no longer.
    pub fn paused(&self, reason: PauseReason, paused: bool) {
        *self.exporter().paused.of(reason) = paused;
    }

    /// The ledger has this size on disk.
    pub fn state_size(&self, bytes: u64) {
        self.exporter().state_size_bytes = Some(bytes);
    }

    /// A corrupt ledger was moved aside and begun anew.
    pub fn state_rebuilt(&self) {
        self.exporter().state_rebuilds += 1;
    }

    /// This instance follows this share of the users.
    pub fn shard(&self, shard: Shard) {
        self.exporter().shard = shard;
    }

    /// The configuration was loaded again, or could not be.
    pub fn config_reloaded(&self, successful: bool, now: UnixMillis) {
        let mut exporter = self.exporter();
        exporter.reload_successful = successful;
        if successful {
            exporter.reload_success = now;
        }
    }

    fn exporter(&self) -> MutexGuard<'_, Exporter> {
        lock(&self.shown.exporter)
    }

    fn with_pool(&self, pool: &str, tell: impl FnOnce(&mut Pool)) {
        let pool = lock(&self.shown.pools).get(pool).cloned();
        if let Some(pool) = pool {
            tell(&mut lock(&pool));
        }
    }
}

/// A panic elsewhere does not make numbers wrong that are whole after every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// Hands the values to the registry. It describes nothing beforehand: the families are constants, and a test holds them
/// against the documented table.
struct ShownCollector(Arc<Shown>);

impl Collector for ShownCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut scrape = Exposition::default();
        let pools: Vec<_> = lock(&self.0.pools).values().cloned().collect();
        for pool in pools {
            lock(&pool).put(&mut scrape);
        }
        lock(&self.0.calls).put(&mut scrape);
        lock(&self.0.exporter).put(&mut scrape);
        scrape.into_families()
    }
}

#[cfg(test)]
mod tests;
