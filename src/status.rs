//! The status report of `/status` and `/`, and the probes of liveness and readiness.
//!
//! The report takes its numbers from the same source as `/metrics` ([`Metrics::pools`]), so the two cannot disagree.
//! The [`StatusBoard`] adds the texts of the last errors, which a metric cannot hold. The report contains no personal
//! data: it has pools, counts, times and error texts. An error text names an operation and a cause, never a user.
//!
//! Beside the report, [`StatusBoard::user_place`] asks a pool's poller for one user.
//!
//! ```text
//! starting --ready()--> ready --stopping()--> stopping      /readyz is 200 in the phase "ready", unless stuck
//! stuck(reason) .. unstuck() at any time                    /healthz is 200 unless stuck for five minutes
//! ```

mod history;
pub mod user_place;
mod verdict;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::audit::{ExportHealth, ExportStanding};
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::users::listing_pass::LeftOut;
use parking_lot::{Mutex, MutexGuard};
use serde::{Serialize, Serializer};
use tokio::time::Instant;

pub use self::history::{DAY_SLOT, DAY_SLOTS_MAX, DaySlot, History, HistorySlot, SLOT, SLOTS_MAX};
use self::user_place::{PlaceError, PlaceSender, UserPlace};
pub use self::verdict::{FindingSeverity, StatusFinding, Verdict};
use crate::config::StatusLinks;
use crate::metrics::{EventTypeCounts, Metrics, OutboxSize, PoolSnapshot, REVISION, UserCounts, VERSION};

/// Time for which the ledger may be unreachable before `/healthz` fails, so that the process is restarted. It is long
/// enough for a volume that comes back.
pub const STUCK_MAX: Duration = Duration::from_secs(5 * 60);

/// Maximum number of different errors that are remembered for each pool, and for delivery.
const ERRORS_MAX: usize = 5;

/// Maximum length of an error text in characters. A receiver may answer with a whole page.
const ERROR_CHARS_MAX: usize = 300;

/// The state that the stages report for `/status`. Clones share it.
#[derive(Clone, Debug)]
pub struct StatusBoard(Arc<Mutex<Board>>);

#[derive(Debug)]
struct Board {
    started: UnixMillis,
    phase: Phase,
    stuck: Option<(String, Instant)>,
    pools: BTreeMap<String, PoolNotes>,
    first_scrape: Option<FirstScrapeStatus>,
    links: StatusLinks,
    delivered: Option<UnixMillis>,
    delivery_errors: Errors,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Starting(&'static str),
    Ready,
    Stopping,
}

#[derive(Debug, Default)]
struct PoolNotes {
    down_because: Option<String>,
    configured_users_missing: u64,
    backlog_walks: u64,
    history_walks: HistoryWalks,
    export: Option<ExportStatus>,
    left_out: Option<LeftOut>,
    /// Asks the pool's poller for its users; None while no poller has the pool.
    places: Option<PlaceSender>,
    history: History,
    errors: Errors,
}

/// The latest errors, with one entry for each text, in the order of their last occurrence.
#[derive(Debug, Default)]
struct Errors(VecDeque<ErrorStatus>);

impl Errors {
    fn note(&mut self, cause: &str, now: UnixMillis) {
        let cause: String = cause.chars().take(ERROR_CHARS_MAX).collect();
        let known = self.0.iter().position(|error| error.cause == cause);
        let mut error =
            known.and_then(|at| self.0.remove(at)).unwrap_or(ErrorStatus { cause, count: 0, first: now, last: now });
        error.count += 1;
        error.last = now;
        if self.0.len() == ERRORS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(error);
    }

    fn latest(&self) -> Option<String> {
        self.0.back().map(|error| error.cause.clone())
    }

    fn latest_first(&self) -> Vec<ErrorStatus> {
        self.0.iter().rev().cloned().collect()
    }
}

/// The result of a probe. The error is the reason, for people.
pub type ProbeResult = Result<(), String>;

impl StatusBoard {
    /// Creates the board of a process that starts at `now`.
    pub fn new(now: UnixMillis) -> Self {
        Self(Arc::new(Mutex::new(Board {
            started: now,
            phase: Phase::Starting("starting"),
            stuck: None,
            pools: BTreeMap::new(),
            first_scrape: None,
            links: StatusLinks::default(),
            delivered: None,
            delivery_errors: Errors::default(),
        })))
    }

    /// Reports a step of the start, such as "opening the ledger".
    pub fn starting(&self, doing: &'static str) {
        self.board().phase = Phase::Starting(doing);
    }

    /// Reports that the ledger is open, and that counters are restored and zero-initialised.
    pub fn ready(&self) {
        self.board().phase = Phase::Ready;
    }

    /// Reports that the process was asked to stop.
    pub fn stopping(&self) {
        self.board().phase = Phase::Stopping;
    }

    /// Reports that the process makes no progress, because the ledger cannot be written. A repeated call changes only
    /// the reason.
    pub fn stuck(&self, reason: &str) {
        let mut board = self.board();
        let since = board.stuck.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        board.stuck = Some((reason.to_owned(), since));
    }

    /// Reports that the process makes progress again.
    pub fn unstuck(&self) {
        self.board().stuck = None;
    }

    /// Sets the pages that the status page links to.
    pub fn links(&self, links: StatusLinks) {
        self.board().links = links;
    }

    /// Reports that polling waits for a scrape of `/metrics` from `now` on, and at most until `until`.
    pub fn scrape_awaited(&self, now: UnixMillis, until: UnixMillis) {
        let mut board = self.board();
        let earlier = board.first_scrape.filter(|wait| wait.ended.is_none());
        let since = earlier.map_or(now, |wait| wait.since);
        let until = earlier.map_or(until, |wait| wait.until.max(until));
        board.first_scrape = Some(FirstScrapeStatus { since, until, ended: None });
    }

    /// Reports that polling no longer waits for a scrape.
    pub fn scrape_arrived(&self, now: UnixMillis) {
        if let Some(wait) = &mut self.board().first_scrape {
            wait.ended = Some(now);
        }
    }

    /// Reports an error of a pool. `cause` names no user.
    pub fn pool_error(&self, pool: &str, cause: &str, now: UnixMillis) {
        self.board().notes(pool).errors.note(cause, now);
    }

    /// Sets the reason why a pool is down, or None if it is up. The reason is an error of the calls for its users;
    /// other errors of the pool are reported by [`Self::pool_error`].
    pub fn pool_down(&self, pool: &str, cause: Option<String>) {
        self.board().notes(pool).down_because = cause;
    }

    /// Sets the number of walks of a pool's users that wait to be finished.
    pub fn backlog_walks(&self, pool: &str, walks: u64) {
        self.board().notes(pool).backlog_walks = walks;
    }

    /// Sets how far the histories of a pool's users are walked.
    pub fn history_walks(&self, pool: &str, walks: HistoryWalks) {
        self.board().notes(pool).history_walks = walks;
    }

    /// Sets how many names listed by hand are not in a pool.
    pub fn configured_users_missing(&self, pool: &str, users: u64) {
        self.board().notes(pool).configured_users_missing = users;
    }

    /// Shows the audit of a pool's export.
    pub fn export(&self, pool: &str, standing: &ExportStanding) {
        self.board().notes(pool).export = Some(ExportStatus::of(standing));
    }

    /// Sets the listed users of a pool that are not followed, as the latest complete listing has them.
    pub fn left_out(&self, pool: &str, left_out: Option<LeftOut>) {
        self.board().notes(pool).left_out = left_out;
    }

    /// Has a poller answer questions for a pool's users from now on.
    pub fn answers_places(&self, pool: &str, places: PlaceSender) {
        self.board().notes(pool).places = Some(places);
    }

    /// Has nobody answer questions for a pool's users any more.
    pub fn answers_no_places(&self, pool: &str) {
        self.board().notes(pool).places = None;
    }

    /// Asks for the place of a user. The answer comes from the pool's poller, within
    /// [`PLACE_WAIT_MAX`](user_place::PLACE_WAIT_MAX).
    ///
    /// # Errors
    /// The pool or the user is not followed, or the poller does not answer in time.
    pub async fn user_place(&self, pool: &str, username: &str) -> Result<UserPlace, PlaceError> {
        let places = match self.board().pools.get(pool) {
            None => return Err(PlaceError::NoSuchPool),
            Some(notes) => notes.places.clone().ok_or(PlaceError::NotPolled)?,
        };
        places.ask(username).await
    }

    /// Notes the pools' counts at `now`, for the charts. Call it every few seconds.
    pub fn note_counts(&self, metrics: &Metrics, now: UnixMillis) {
        let pools = metrics.pools();
        let mut board = self.board();
        for pool in pools {
            board.notes(&pool.identity.id).history.note(now, &pool.counts);
        }
    }

    /// Removes a pool that has left the configuration.
    pub fn remove_pool(&self, pool: &str) {
        self.board().pools.remove(pool);
    }

    /// Reports that the receiver has acknowledged a batch.
    pub fn delivered(&self, now: UnixMillis) {
        self.board().delivered = Some(now);
    }

    /// Reports that a batch could not be delivered. `cause` is the receiver's answer.
    pub fn delivery_error(&self, cause: &str, now: UnixMillis) {
        self.board().delivery_errors.note(cause, now);
    }

    /// Checks whether the process can make progress (`/healthz`, `/livez`). It does not depend on AWS and the receiver.
    ///
    /// # Errors
    /// The reason why the process makes no progress, for people.
    pub fn live(&self) -> ProbeResult {
        match &self.board().stuck {
            Some((reason, since)) if since.elapsed() >= STUCK_MAX => {
                Err(format!("stuck for {} s: {reason}", since.elapsed().as_secs()))
            }
            _ => Ok(()),
        }
    }

    /// Checks whether the process is ready (`/readyz`).
    ///
    /// # Errors
    /// The reason why the process is not ready, for people.
    pub fn is_ready(&self) -> ProbeResult {
        let board = self.board();
        match (board.phase, &board.stuck) {
            (Phase::Starting(doing), _) => Err(doing.to_owned()),
            (Phase::Stopping, _) => Err("stopping".to_owned()),
            (Phase::Ready, Some((reason, _))) => Err(format!("stuck: {reason}")),
            (Phase::Ready, None) => Ok(()),
        }
    }

    /// Makes the report at `now`.
    pub fn report(&self, metrics: &Metrics, now: UnixMillis) -> StatusReport {
        let (live, ready) = (self.live(), self.is_ready());
        let exporter = metrics.exporter_now();
        // The board is locked for one pool at a time, because pollers write to it.
        let pools: Vec<PoolStatus> = metrics
            .pools()
            .into_iter()
            .map(|pool| {
                let board = self.board();
                let notes = board.pools.get(&pool.identity.id);
                PoolStatus::of(pool, notes)
            })
            .collect();
        let (started, first_scrape, links, delivery) = {
            let board = self.board();
            let last_errors = board.delivery_errors.latest_first();
            (
                board.started,
                board.first_scrape,
                board.links.clone(),
                DeliveryStatus { last_success: board.delivered, last_errors },
            )
        };
        let mut report = StatusReport {
            flowing: None,
            verdict: Verdict::NotReady,
            headline: String::new(),
            findings: Vec::new(),
            version: VERSION,
            revision: REVISION,
            started,
            now,
            shard: ShardStatus { index: exporter.shard.index(), count: exporter.shard.count() },
            live: live.is_ok(),
            ready: ready.is_ok(),
            reason: live.err().or(ready.err()),
            first_scrape,
            links,
            totals: Totals::of(&pools),
            pools,
            outbox: exporter.outbox.map(|size| OutboxStatus::of(size, exporter.outbox_limit_bytes)),
            quarantined_records: exporter.quarantined,
            delivery,
            paused: exporter.paused,
            progress: exporter.progress.into_iter().map(|(stage, time)| (stage, Time(time))).collect(),
            state: StateStatus { size_bytes: exporter.state_size_bytes, rebuilds: exporter.state_rebuilds },
            config_reload_successful: exporter.reload_successful,
            config_loaded: exporter.reload_tried,
        };
        report.findings = verdict::findings(&report);
        report.verdict = Verdict::of(&report);
        report.flowing = report.verdict.flowing();
        report.headline = report.verdict.headline(&report);
        report
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock()
    }
}

impl Board {
    fn notes(&mut self, pool: &str) -> &mut PoolNotes {
        self.pools.entry(pool.to_owned()).or_default()
    }
}

/// The status report as `/status` shows it. Times are RFC 3339 in UTC. Unknown values are null.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StatusReport {
    /// Whether events flow from every pool to every sink, as far as the exporter knows. Null before every pool has
    /// answered for the first time.
    pub flowing: Option<bool>,
    /// The verdict, of which `flowing` is the short form.
    pub verdict: Verdict,
    /// The verdict for people.
    pub headline: String,
    /// Findings that a person should know, the worst first.
    pub findings: Vec<StatusFinding>,
    /// The release.
    pub version: &'static str,
    /// The commit that was built.
    pub revision: &'static str,
    /// When the process started.
    #[serde(serialize_with = "time")]
    pub started: UnixMillis,
    /// When the report was made.
    #[serde(serialize_with = "time")]
    pub now: UnixMillis,
    /// The share of the users that this instance follows.
    pub shard: ShardStatus,
    /// The result of `/healthz`.
    pub live: bool,
    /// The result of `/readyz`.
    pub ready: bool,
    /// The reason why the process is not live or not ready.
    pub reason: Option<String>,
    /// The pages that the status page links to.
    pub links: StatusLinks,
    /// The latest wait for the first scrape of `/metrics`; null if polling did not wait for one.
    pub first_scrape: Option<FirstScrapeStatus>,
    /// The reasons why work pauses, in the words of `cognito_exporter_paused`.
    pub paused: Vec<&'static str>,
    /// The pools' sums.
    pub totals: Totals,
    /// The pools, in ascending order of their ids.
    pub pools: Vec<PoolStatus>,
    /// The records that wait for delivery; null without a sink.
    pub outbox: Option<OutboxStatus>,
    /// The number of records that the receiver refused as invalid.
    pub quarantined_records: Option<u64>,
    /// The state of delivery.
    pub delivery: DeliveryStatus,
    /// When each stage last finished work, or had none to do.
    pub progress: BTreeMap<&'static str, Time>,
    /// The ledger.
    pub state: StateStatus,
    /// Whether the latest attempt to load the configuration succeeded.
    pub config_reload_successful: bool,
    /// The time of that attempt.
    #[serde(serialize_with = "time")]
    pub config_loaded: UnixMillis,
}

/// The calls that the pools of one account and region need together, and their budget.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct QuotaNeed {
    /// The requests per second that keep the objective for all users that are polled in full.
    pub required_per_second: f64,
    /// The present budget in requests per second.
    pub budget_per_second: f64,
}

impl QuotaNeed {
    /// The factor by which the need may exceed the budget, because both are shown rounded.
    const ROUNDING: f64 = 1.01;

    /// Whether the budget cannot keep the objective.
    pub fn is_insufficient(&self) -> bool {
        self.required_per_second > self.budget_per_second * Self::ROUNDING
    }
}

impl StatusReport {
    /// Computes the need of all pools that share this pool's quota. None while the budget is unknown.
    pub fn quota_need(&self, pool: &PoolStatus) -> Option<QuotaNeed> {
        let budget_per_second = pool.budget_requests_per_second?;
        let shares = |other: &&PoolStatus| (&other.account_id, &other.region) == (&pool.account_id, &pool.region);
        let in_full = self.pools.iter().filter(shares).filter(|other| !other.is_sampled());
        let required_per_second = in_full.filter_map(|other| other.required_requests_per_second).sum();
        Some(QuotaNeed { required_per_second, budget_per_second })
    }
}

/// A wait for the first scrape of `/metrics`, before which nothing is polled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct FirstScrapeStatus {
    /// When the wait began.
    #[serde(serialize_with = "time")]
    pub since: UnixMillis,
    /// When it ends at the latest (`http.first_scrape_wait`).
    #[serde(serialize_with = "time")]
    pub until: UnixMillis,
    /// When it ended; null while it lasts.
    #[serde(serialize_with = "optional_time")]
    pub ended: Option<UnixMillis>,
}

/// This instance's share of the users.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ShardStatus {
    /// The number of this instance, from 0 on.
    pub index: u32,
    /// The number of instances.
    pub count: u32,
}

/// A time as a value of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Time(#[serde(serialize_with = "time")] pub UnixMillis);

/// One pool.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PoolStatus {
    /// User pool id.
    pub id: String,
    /// The operator's name for it.
    pub name: String,
    /// AWS region.
    pub region: String,
    /// AWS account, where known.
    pub account_id: Option<String>,
    /// Whether it answers; null before its first answer.
    pub up: Option<bool>,
    /// The reason why it does not answer.
    pub reason: Option<String>,
    /// Its users by state.
    pub users: Option<UserCounts>,
    /// Its listed users that are not followed; null before the first complete listing, and with several listings.
    pub users_left_out: Option<LeftOutStatus>,
    /// Its missing users that are names listed by hand.
    pub configured_users_missing: u64,
    /// When its least recently polled user was polled or joined.
    #[serde(serialize_with = "optional_time")]
    pub oldest_poll: Option<UnixMillis>,
    /// The longest time that a user should go without a poll.
    pub objective_seconds: Option<u64>,
    /// How long it takes to poll every user once at the present budget.
    pub round_seconds_estimate: Option<u64>,
    /// The expected mean time from an event to its first sight at the present budget.
    pub event_delay_seconds_estimate: Option<u64>,
    /// The requests per second that are needed to keep the objective for all its users.
    pub required_requests_per_second: Option<f64>,
    /// The present budget of its account and region, which other pools may share.
    pub budget_requests_per_second: Option<f64>,
    /// The account's limit there, if the budget is a share of it.
    pub account_limit_requests_per_second: Option<f64>,
    /// When the limit was read from AWS; null while it is the documented default, or while it is not needed.
    #[serde(serialize_with = "optional_time")]
    pub account_limit_read: Option<UnixMillis>,
    /// Whether the poller reads backlog or history.
    pub catching_up: Option<bool>,
    /// Walks that wait to be finished.
    pub backlog_walks: u64,
    /// How far its users' histories are walked.
    pub history_walks: HistoryWalks,
    /// The audit of its export; null in a pool whose export is not read, or not audited.
    pub export: Option<ExportStatus>,
    /// When its users were last listed to the end.
    #[serde(serialize_with = "optional_time")]
    pub discovery_last_success: Option<UnixMillis>,
    /// Live events seen.
    pub events: u64,
    /// Live events that threat protection acted on.
    pub risk_events: u64,
    /// Events from before their user was followed.
    pub history_events: u64,
    /// The live events by event type and present outcome.
    pub event_types: Vec<EventTypeCounts>,
    /// The last hour, or the time since the process started.
    pub last_hour: LastHour,
    /// The last 24 hours, or the time since the process started.
    pub last_day: LastDay,
    /// The latest errors, the latest first.
    pub last_errors: Vec<ErrorStatus>,
}

/// The audit of a pool's export.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ExportStatus {
    /// Whether the export can be relied on.
    pub up: bool,
    /// Why it cannot.
    pub reason: Option<String>,
    /// Whether polls only audit it at present: a sample of the users is polled.
    pub sampled: bool,
    /// The latest events that polls found and that were looked up in the export, at most 200.
    pub audited: u64,
    /// Those of them that it missed.
    pub missed: u64,
    /// The share that it misses, 0 to 1; null before the first audited event.
    pub loss: Option<f64>,
    /// The bounds of the 95 % confidence interval of that share (Wilson's).
    pub loss_interval: [f64; 2],
    /// The mean time from an event to its arrival by the export, over about a hundred events.
    pub delay_seconds: Option<f64>,
}

impl ExportStatus {
    fn of(standing: &ExportStanding) -> Self {
        let (least, most) = standing.loss.interval();
        Self {
            up: standing.health.is_up(),
            reason: match &standing.health {
                ExportHealth::Up => None,
                ExportHealth::Down(reason) => Some(reason.to_string()),
            },
            sampled: standing.is_sampled,
            audited: standing.loss.audited,
            missed: standing.loss.missed,
            loss: standing.loss.share(),
            loss_interval: [least, most],
            delay_seconds: standing.delay_seconds,
        }
    }
}

/// How far the histories of a pool's users are walked. A user who was not read since the start counts as not walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct HistoryWalks {
    /// Users whose history is read to its end.
    pub users_done: u64,
    /// All users.
    pub users: u64,
    /// How long the rest takes at the pace of the last minutes; null if there is no pace yet.
    pub seconds_left_estimate: Option<u64>,
}

/// Events and calls of the last hour.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct LastHour {
    /// Median of the seconds from a live event's creation to its first sight.
    pub delay_median_seconds: Option<f64>,
    /// 95th percentile of the same seconds.
    pub delay_p95_seconds: Option<f64>,
    /// Calls for histories, of all pools of the account and region.
    pub calls: u64,
    /// The throttled ones among those calls.
    pub throttled: u64,
    /// The length of a slot.
    pub slot_seconds: u64,
    /// The slots, the newest last; at most an hour.
    pub slots: Vec<HistorySlot>,
}

impl LastHour {
    fn of(history: &History) -> Self {
        let sum = history.sum();
        Self {
            delay_median_seconds: sum.delay_quantile(0.5),
            delay_p95_seconds: sum.delay_quantile(0.95),
            calls: sum.calls(),
            throttled: sum.throttled,
            slot_seconds: SLOT.as_secs(),
            slots: history.slots().copied().collect(),
        }
    }
}

/// Events and throttled calls of the last 24 hours.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct LastDay {
    /// The length of a slot.
    pub slot_seconds: u64,
    /// The slots, the newest last; at most a day.
    pub slots: Vec<DaySlot>,
}

impl LastDay {
    fn of(history: &History) -> Self {
        Self { slot_seconds: DAY_SLOT.as_secs(), slots: history.day_slots().copied().collect() }
    }
}

/// The listed users of a pool that are not followed, by the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct LeftOutStatus {
    /// Disabled users, without `include_disabled`.
    pub disabled: u64,
    /// Users of another identity provider, without `include_federated`.
    pub federated: u64,
    /// Users that `exclude` names.
    pub excluded: u64,
}

impl From<LeftOut> for LeftOutStatus {
    fn from(left_out: LeftOut) -> Self {
        let LeftOut { disabled, federated, excluded } = left_out;
        Self { disabled, federated, excluded }
    }
}

/// An error and its repetitions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ErrorStatus {
    /// The error's text.
    pub cause: String,
    /// The number of occurrences.
    pub count: u64,
    /// The time of the first occurrence.
    #[serde(serialize_with = "time")]
    pub first: UnixMillis,
    /// The time of the last occurrence.
    #[serde(serialize_with = "time")]
    pub last: UnixMillis,
}

/// The pools' sums.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Totals {
    /// The number of pools.
    pub pools: u64,
    /// Pools that do not answer.
    pub pools_down: u64,
    /// Users by state.
    pub users: UserCounts,
    /// Live events seen.
    pub events: u64,
    /// Live events that threat protection acted on.
    pub risk_events: u64,
    /// Events from before their user was followed.
    pub history_events: u64,
    /// Walks that wait to be finished.
    pub backlog_walks: u64,
}

/// The records that wait for delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct OutboxStatus {
    /// The number of records.
    pub records: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// The size in bytes at which polling pauses.
    pub limit_bytes: Option<u64>,
    /// When the oldest record was observed; null if none waits.
    #[serde(serialize_with = "optional_time")]
    pub oldest: Option<UnixMillis>,
}

/// The state of delivery.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DeliveryStatus {
    /// When the receiver last acknowledged a batch.
    #[serde(serialize_with = "optional_time")]
    pub last_success: Option<UnixMillis>,
    /// The latest errors, the latest first.
    pub last_errors: Vec<ErrorStatus>,
}

/// The ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct StateStatus {
    /// Its size on disk.
    pub size_bytes: Option<u64>,
    /// The number of times that it was found damaged and begun anew.
    pub rebuilds: u64,
}

impl PoolStatus {
    /// Whether polls do not read every user at present.
    pub fn is_sampled(&self) -> bool {
        self.export.as_ref().is_some_and(|export| export.sampled)
    }

    fn of(pool: PoolSnapshot, notes: Option<&PoolNotes>) -> Self {
        Self {
            id: pool.identity.id,
            name: pool.identity.name,
            region: pool.identity.region,
            account_id: pool.identity.account_id,
            up: pool.up,
            reason: notes
                .filter(|_| pool.up == Some(false))
                .and_then(|notes| notes.down_because.clone().or_else(|| notes.errors.latest())),
            users: pool.users,
            users_left_out: notes.and_then(|notes| notes.left_out).map(LeftOutStatus::from),
            configured_users_missing: notes.map_or(0, |notes| notes.configured_users_missing),
            oldest_poll: pool.oldest_poll,
            objective_seconds: pool.objective.map(|objective| objective.as_secs()),
            round_seconds_estimate: pool.forecast.round.map(|round| round.as_secs()),
            event_delay_seconds_estimate: pool.forecast.event_delay.map(|delay| delay.as_secs()),
            required_requests_per_second: pool.forecast.required_per_second,
            budget_requests_per_second: pool.budget_per_second,
            account_limit_requests_per_second: pool.limit.map(|limit| limit.per_second),
            account_limit_read: pool.limit.and_then(|limit| limit.read),
            catching_up: pool.catching_up,
            backlog_walks: notes.map_or(0, |notes| notes.backlog_walks),
            history_walks: notes.map(|notes| notes.history_walks).unwrap_or_default(),
            export: notes.and_then(|notes| notes.export.clone()),
            discovery_last_success: pool.discovery,
            events: pool.events,
            risk_events: pool.risk_events,
            history_events: pool.history_events,
            event_types: pool.event_types,
            last_hour: notes.map(|notes| LastHour::of(&notes.history)).unwrap_or_default(),
            last_day: notes.map(|notes| LastDay::of(&notes.history)).unwrap_or_default(),
            last_errors: notes.map_or_else(Vec::new, |notes| notes.errors.latest_first()),
        }
    }
}

impl Totals {
    fn of(pools: &[PoolStatus]) -> Self {
        pools.iter().fold(Self::default(), |sum, pool| {
            let users = pool.users.unwrap_or_default();
            Self {
                pools: sum.pools + 1,
                pools_down: sum.pools_down + u64::from(pool.up == Some(false)),
                users: UserCounts {
                    ok: sum.users.ok + users.ok,
                    missing: sum.users.missing + users.missing,
                    failing: sum.users.failing + users.failing,
                },
                events: sum.events + pool.events,
                risk_events: sum.risk_events + pool.risk_events,
                history_events: sum.history_events + pool.history_events,
                backlog_walks: sum.backlog_walks + pool.backlog_walks,
            }
        })
    }
}

impl OutboxStatus {
    fn of(size: OutboxSize, limit_bytes: Option<u64>) -> Self {
        Self { records: size.records, bytes: size.bytes, limit_bytes, oldest: size.oldest }
    }
}

fn time<S: Serializer>(time: &UnixMillis, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn optional_time<S: Serializer>(time: &Option<UnixMillis>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::entry::PoolIdentity;

    use super::*;

    const START: UnixMillis = UnixMillis(1_723_136_049_929);

    fn pool(id: &str) -> PoolIdentity {
        PoolIdentity { id: id.into(), name: "customers".into(), region: "eu-west-1".into(), account_id: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_is_ready_between_starting_and_stopping_unless_stuck() {
        let board = StatusBoard::new(START);
        assert_eq!(board.is_ready(), Err("starting".into()));
        board.starting("opening the ledger");
        assert_eq!(board.is_ready(), Err("opening the ledger".into()));
        board.ready();
        assert_eq!(board.is_ready(), Ok(()));
        board.stuck("no space left");
        assert_eq!(board.is_ready(), Err("stuck: no space left".into()));
        board.unstuck();
        assert_eq!(board.is_ready(), Ok(()));
        board.stopping();
        assert_eq!(board.is_ready(), Err("stopping".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_is_live_until_it_has_been_stuck_for_five_minutes() {
        let board = StatusBoard::new(START);
        assert_eq!(board.live(), Ok(()));
        board.stuck("no space left");
        tokio::time::advance(Duration::from_secs(299)).await;
        board.stuck("input/output error");
        assert_eq!(board.live(), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(board.live(), Err("stuck for 300 s: input/output error".into()));
        board.unstuck();
        assert_eq!(board.live(), Ok(()));
    }

    #[test]
    fn errors_are_remembered_by_cause_the_latest_first_and_not_without_end() {
        let mut errors = Errors::default();
        for (second, cause) in ["a", "b", "c", "d", "e", "a", "f"].into_iter().enumerate() {
            errors.note(cause, START.plus(Duration::from_secs(second as u64)));
        }
        let causes: Vec<(String, u64)> =
            errors.latest_first().into_iter().map(|error| (error.cause, error.count)).collect();
        let expected = [("f", 1), ("a", 2), ("e", 1), ("d", 1), ("c", 1)];
        assert_eq!(causes, expected.map(|(cause, count)| (cause.to_owned(), count)));

        errors.note(&"ü".repeat(10_000), START);
        assert_eq!(errors.latest_first()[0].cause.chars().count(), ERROR_CHARS_MAX);
    }

    #[test]
    fn the_report_tells_the_numbers_of_the_metrics_and_the_words_of_the_errors() {
        let metrics = Metrics::new(START);
        let board = StatusBoard::new(START);
        for id in ["eu-west-1_A", "eu-west-1_B"] {
            metrics.add_pool(&pool(id));
            metrics.users(id, UserCounts { ok: 2, missing: 1, failing: 0 });
        }
        metrics.pool_up("eu-west-1_A", false);
        metrics.api_budget(None, "eu-west-1", 2.5);
        board.pool_error("eu-west-1_A", "not authorized", START);
        board.backlog_walks("eu-west-1_B", 4);
        board.history_walks("eu-west-1_B", HistoryWalks { users_done: 1, users: 3, seconds_left_estimate: Some(90) });
        board.delivered(START);

        let report = board.report(&metrics, START.plus(Duration::from_secs(60)));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["started"], "2024-08-08T16:54:09.929Z");
        assert_eq!(json["now"], "2024-08-08T16:55:09.929Z");
        assert_eq!(json["reason"], "starting");
        assert_eq!(json["totals"]["pools_down"], 1);
        assert_eq!(json["totals"]["users"]["ok"], 4);
        assert_eq!(json["totals"]["backlog_walks"], 4);
        assert_eq!(json["pools"][0]["up"], false);
        let history = serde_json::json!({"users_done": 1, "users": 3, "seconds_left_estimate": 90});
        assert_eq!(json["pools"][1]["history_walks"], history);
        assert_eq!(json["pools"][0]["last_errors"][0]["cause"], "not authorized");
        assert_eq!(json["pools"][0]["last_errors"][0]["last"], "2024-08-08T16:54:09.929Z");
        assert_eq!(json["pools"][1]["up"], serde_json::Value::Null);
        assert_eq!(json["pools"][1]["budget_requests_per_second"], 2.5);
        assert_eq!(json["outbox"], serde_json::Value::Null);
        assert_eq!(json["delivery"]["last_success"], "2024-08-08T16:54:09.929Z");
    }
}
