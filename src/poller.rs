//! The loop that polls: it takes a due user from the schedule, runs its turn, and schedules the user again.
//!
//! One [`Poller`] for each account and region: its pools share one budget, and therefore one schedule. The poller owns
//! the table of followed users. A turn ([`turn`]) is a task of its own that only reports back, so the loop decides and
//! the turns wait. Follow a user through `begin_turn`, [`turn::run`], `turn_ended` and `settle_turn`.

pub mod export_audit;
pub mod health;
pub mod history_progress;
mod log;
pub mod names;
pub mod turn;
mod user_place;
pub mod user_table;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use cognito_auth_core::arrival::HeardEvent;
use cognito_auth_core::audit::AuditClock;
use cognito_auth_core::backoff::Backoff;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::schedule::{
    ActivityEstimate, Forecast, FoundEvent, Intervals, Lane, PollAnswer, PollMode, PoolSlot, Schedule, TurnEnded,
    UserSlot,
};
use cognito_auth_core::users::twins::Twins;
use cognito_auth_core::walk::page_size::Credit;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tracing::{debug, warn};

use self::export_audit::ExportAudit;
use self::health::{Blame, PoolHealth};
use self::history_progress::HistoryProgress;
use self::names::PoolSightings;
use self::turn::{ExpectedActivity, TurnContext, TurnError, TurnReport, TurnRequest};
use self::user_table::{AfterTurn, Left, UserTable};
use crate::ledger::Twin;
use crate::metrics::{PollForecast, Stage, UserCounts};
use crate::pool::Pool;
use crate::rate_limiter::RateLimiter;
use crate::source::{Source, SourceError};
use crate::status::user_place::{PlaceQuestion, PlaceSender, QUESTIONS_MAX};
use crate::status::{HistoryWalks, StatusBoard};

/// How often the gauges are refreshed, and a pause is checked.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The same while no turn or message comes: an idle process does not wake up for it.
const IDLE_REPORT_EVERY: Duration = Duration::from_secs(10);

/// Turns of a user in a row without a record in the ledger, after which it is logged. Before that, discovery is about
/// to report the user's change.
const NOT_ENROLLED_LOGGED_AT: u8 = 3;

/// A message to the poller. Pools and users come before their first turn, in this order.
pub enum PollerMessage<S> {
    /// Follow a pool.
    Follow(Arc<Pool<S>>, Option<Box<ExportAudit>>),
    /// Follow a pool and its users no longer. The guard is dropped after that, which ends the calls under way; their
    /// answers are ignored.
    Unfollow(PoolSlot, DropGuard),
    /// Follow these users; their records are in the ledger.
    Joined(PoolSlot, Vec<(String, ActivityEstimate)>),
    /// Follow these users no longer. A user that leaves and joins again is due at once.
    Left(PoolSlot, Vec<String>),
    /// The pool's export has told events of these users.
    Heard(PoolSlot, Vec<HeardEvent>),
    /// Exported events of these users wait for their outcome: a poll must look for each at this time.
    Waiting(PoolSlot, Vec<(String, UnixMillis)>),
    /// So many of the users are names listed by hand that no listing gives. They may not be in the pool.
    AsGiven(PoolSlot, u64),
    /// A pool without followed users was asked for its users. No poll can say whether such a pool answers.
    Listed(PoolSlot, Result<(), SourceError>),
}

/// The settings of the loop.
#[derive(Clone, Copy, Debug)]
pub struct PollPace {
    /// `poll.concurrency`.
    pub turns_max: usize,
    /// `poll.min_interval`.
    pub min_interval: Duration,
    /// `poll.max_interval`.
    pub max_interval: Duration,
}

impl PollPace {
    /// How long a user is not polled after failures in a row.
    fn after_failures(&self, failures: u8) -> Duration {
        Backoff::doubling(self.min_interval, self.max_interval).wait_after(1 + u32::from(failures.min(16)))
    }
}

/// A pool that is polled.
struct PolledPool<S> {
    pool: Arc<Pool<S>>,
    health: PoolHealth,
    /// Whether its users may be asked for short pages.
    short_pages: Credit,
    history_progress: HistoryProgress,
    sightings: PoolSightings,
    twins: Twins,
    /// How many of its users are names listed by hand that no listing gives.
    as_given: u64,
    /// The audit of its export, if it has one.
    export: Option<Box<ExportAudit>>,
    logged: PoolLogState,
}

/// The state of the log about a pool, and the counts for its next lines.
#[derive(Default)]
struct PoolLogState {
    /// The missing users that the log has.
    missing: log::MissingUsers,
    /// Names that began to wait as other names of users.
    merged: u64,
    /// Names that were found to belong to other users.
    parted: u64,
}

impl<S> PolledPool<S> {
    fn new(pool: Arc<Pool<S>>, export: Option<Box<ExportAudit>>) -> Self {
        Self {
            pool,
            health: PoolHealth::default(),
            short_pages: Credit::FULL,
            history_progress: HistoryProgress::default(),
            sightings: PoolSightings::default(),
            twins: Twins::default(),
            as_given: 0,
            export,
            logged: PoolLogState::default(),
        }
    }

    fn id(&self) -> &str {
        &self.pool.identity.id
    }
}

/// A turn that has ended.
struct FinishedTurn {
    place: TurnPlace,
    result: Result<TurnReport, TurnError>,
    /// Other names of the user that were checked, and whether they still are.
    checked: Vec<(String, Result<bool, TurnError>)>,
}

/// The place of a turn in the schedule.
#[derive(Clone, Copy)]
struct TurnPlace {
    user: UserSlot,
    lane: Lane,
}

/// The poller of one account and region.
pub struct Poller<S> {
    context: Arc<TurnContext>,
    pace: PollPace,
    rate_limiter: RateLimiter,
    status: StatusBoard,
    schedule: Schedule,
    pools: HashMap<PoolSlot, PolledPool<S>>,
    users: UserTable,
    turns: JoinSet<FinishedTurn>,
    /// Whether polling has begun: the series were scraped, or the wait for that is over.
    begun: bool,
    paused: Option<&'static str>,
    /// Since when the log has calls as throttled.
    throttled_since: Option<Instant>,
    /// Questions for the place of a user, and where they are sent.
    questions: mpsc::Receiver<PlaceQuestion>,
    ask: mpsc::Sender<PlaceQuestion>,
    reported: Instant,
    /// Whether a turn or a message came since the latest report.
    stirred: bool,
}

impl<S: Source> Poller<S> {
    /// Makes a poller without pools.
    pub fn new(context: Arc<TurnContext>, pace: PollPace, rate_limiter: RateLimiter, status: StatusBoard) -> Self {
        let (ask, questions) = mpsc::channel(QUESTIONS_MAX);
        Self {
            schedule: Schedule::new(Intervals { min: pace.min_interval, max: pace.max_interval }),
            context,
            pace,
            rate_limiter,
            status,
            pools: HashMap::new(),
            users: UserTable::default(),
            turns: JoinSet::new(),
            begun: false,
            paused: None,
            throttled_since: None,
            questions,
            ask,
            reported: Instant::now(),
            stirred: true,
        }
    }

    /// Polls until the soft stop, the first time not before `may_begin`. Then it lets the turns under way end, which
    /// wait only for their commits.
    pub async fn run(mut self, mut messages: mpsc::Receiver<PollerMessage<S>>, may_begin: impl Future<Output = ()>) {
        let stop = self.context.stop.clone();
        self.report();
        let mut may_begin = std::pin::pin!(may_begin);
        loop {
            let begin_at = if self.begun { self.begin_at() } else { None };
            let report_at = self.report_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = &mut may_begin, if !self.begun => self.begin(),
                Some(turn) = self.turns.join_next() => self.turn_ended(turn),
                () = tokio::time::sleep_until(report_at) => self.report(),
                () = tokio::time::sleep_until(begin_at.unwrap_or_else(Instant::now)), if begin_at.is_some() => self.begin_turn(),
                Some(question) = self.questions.recv() => self.answer(question),
                // Last: a million names in a row do not hold up the polls, which the budget bounds.
                Some(message) = messages.recv() => self.receive(message),
            }
        }
        while let Some(turn) = self.turns.join_next().await {
            self.turn_ended(turn);
        }
        self.report();
    }

    /// Begins to poll. Users that joined before were not waiting for a poll.
    fn begin(&mut self) {
        self.begun = true;
        self.stirred = true;
        self.users.none_waited(self.context.clock.now());
    }

    fn receive(&mut self, message: PollerMessage<S>) {
        self.stirred = true;
        match message {
            PollerMessage::Follow(pool, export) => self.follow(pool, export),
            PollerMessage::Unfollow(pool, _calls_may_go_on) => {
                self.users.names_of(pool).iter().for_each(|username| self.remove_user(pool, username));
                if let Some(polled) = self.pools.remove(&pool) {
                    self.status.answers_no_places(polled.id());
                }
                let now = Instant::now().into_std();
                self.schedule.set_mode(pool, PollMode::Full, now, now);
            }
            PollerMessage::Joined(pool, users) => {
                users.iter().for_each(|(username, activity)| self.add_user(pool, username, *activity));
            }
            PollerMessage::Left(pool, names) => names.iter().for_each(|username| self.user_left(pool, username)),
            PollerMessage::Heard(pool, events) => self.heard(pool, &events),
            PollerMessage::Waiting(pool, users) => self.look_for(pool, &users),
            PollerMessage::AsGiven(pool, users) => {
                if let Some(polled) = self.pools.get_mut(&pool) {
                    polled.as_given = users;
                }
            }
            PollerMessage::Listed(pool, result) => self.pool_listed(pool, result),
        }
    }

    /// Follows a pool. Its users join later.
    fn follow(&mut self, pool: Arc<Pool<S>>, mut export: Option<Box<ExportAudit>>) {
        let (slot, now) = (pool.slot, Instant::now().into_std());
        if let Some(export) = &mut export {
            self.schedule.set_mode(slot, export.first_mode(), now, now);
        }
        self.status.answers_places(&pool.identity.id, PlaceSender::new(slot, self.ask.clone()));
        self.pools.insert(slot, PolledPool::new(pool, export));
    }

    /// Learns from events that a pool's export has told.
    fn heard(&mut self, pool: PoolSlot, events: &[HeardEvent]) {
        let clock = self.audit_clock();
        for event in events {
            let Some(polled) = self.pools.get_mut(&pool) else { return };
            let spares_polls = polled.export.as_ref().is_some_and(|export| export.spares_polls());
            if let Some(export) = &mut polled.export {
                export.heard(event, clock);
            }
            let Some(slot) = self.users.slot(pool, &event.username).filter(|_| event.is_new) else { continue };
            let age = event.created.filter(|_| spares_polls).map(|created| clock.wall.since(created));
            let found = age.map(|age| FoundEvent { age, high_risk: event.high_risk });
            let look = event.next_look.map(|look| clock.now + look.since(clock.wall));
            self.schedule.heard(slot, found.as_slice(), look, clock.now);
        }
    }

    /// Plans looks at users whose exported events wait for their outcome.
    fn look_for(&mut self, pool: PoolSlot, users: &[(String, UnixMillis)]) {
        let clock = self.audit_clock();
        let privacy = self.context.ledger.privacy();
        // The ledger may know users by hashes only.
        let names: HashMap<String, String> = if privacy.modes().hides_names() {
            self.users.names_of(pool).into_iter().map(|name| (privacy.ledger_name(&name), name)).collect()
        } else {
            HashMap::new()
        };
        for (stored, look) in users {
            let username = names.get(stored).unwrap_or(stored);
            let Some(slot) = self.users.slot(pool, username) else { continue };
            self.schedule.heard(slot, &[], Some(clock.now + look.since(clock.wall)), clock.now);
        }
    }

    fn audit_clock(&self) -> AuditClock {
        AuditClock { wall: self.context.clock.now(), now: Instant::now().into_std() }
    }

    /// Takes note of whether a pool answers. Discovery has logged the result.
    fn pool_listed(&mut self, pool: PoolSlot, result: Result<(), SourceError>) {
        let Some(polled) = self.pools.get_mut(&pool) else { return };
        let now = Instant::now().into_std();
        let _logged_already = match result {
            Ok(()) => polled.health.answered(now),
            Err(error) => polled.health.failed(&error, now).1,
        };
    }

    /// Adds a user to the table and the schedule. A name that waits as another name of a user stays where it is.
    fn add_user(&mut self, pool: PoolSlot, username: &str, activity: ActivityEstimate) {
        if self.pools.get(&pool).is_some_and(|polled| polled.twins.holds(username)) {
            return;
        }
        if let Some(slot) = self.users.join(pool, username, self.context.clock.now()) {
            self.schedule.join(pool, slot, activity, Instant::now().into_std());
        }
    }

    fn remove_user(&mut self, pool: PoolSlot, username: &str) {
        if let Some(slot) = self.users.leave(pool, username) {
            self.schedule.leave(slot);
        }
    }

    /// Removes a user that is wanted no longer. Names that waited as other names of it are polled by themselves again.
    fn user_left(&mut self, pool: PoolSlot, username: &str) {
        self.remove_user(pool, username);
        let Some(polled) = self.pools.get_mut(&pool) else { return };
        polled.twins.remove(username);
        let stored = self.context.ledger.privacy().ledger_name(username);
        for name in polled.twins.release(&stored) {
            self.add_user(pool, &name, ActivityEstimate::UNKNOWN);
        }
    }

    /// When the next turn may begin: a user is due, the budget allows a call, and nothing pauses.
    fn begin_at(&self) -> Option<Instant> {
        if self.turns.len() >= self.pace.turns_max {
            return None;
        }
        let due = self.schedule.next_at(Instant::now().into_std(), self.context.allowed())?;
        Some(self.rate_limiter.next_at().max(due.into()))
    }

    /// Takes the next due user from the schedule and spawns its turn.
    fn begin_turn(&mut self) {
        self.stirred = true;
        let now = Instant::now().into_std();
        let Some((user, lane)) = self.schedule.next(now, self.context.allowed()) else { return };
        let Some((pool, username)) = self.users.begin(user) else { return self.schedule.leave(user) };
        let Some(polled) = self.pools.get(&pool) else { return self.schedule.leave(user) };
        let new_events = self.schedule.expected(user, now).filter(|_| polled.short_pages.suffices());
        let expected = ExpectedActivity { activity: self.schedule.activity(user, now), new_events };
        let to_check = if lane == Lane::Poll { self.names_to_check(polled, &username) } else { vec![] };
        let (context, pool, sightings) = (self.context.clone(), polled.pool.clone(), polled.sightings.clone());
        let start = self.rate_limiter.reserve();
        let request = TurnRequest { username: username.clone(), lane, expected, start };
        self.turns.spawn(async move {
            let result = turn::run(&context, &pool, &sightings, request).await;
            // A name that belongs to no user any more has other names that may still belong to one.
            let answered = matches!(result, Ok(_) | Err(TurnError::Source(SourceError::UserNotFound)));
            let mut checked = vec![];
            for name in to_check.into_iter().filter(|_| answered) {
                let is_still = names::is_still(&context, &pool, &username, &name).await;
                checked.push((name, is_still));
            }
            FinishedTurn { place: TurnPlace { user, lane }, result, checked }
        });
    }

    /// Other names of a user that are to be checked after its poll.
    fn names_to_check(&self, polled: &PolledPool<S>, username: &str) -> Vec<String> {
        if polled.twins.is_empty() {
            return vec![];
        }
        polled.twins.due(&self.context.ledger.privacy().ledger_name(username), self.context.clock.now())
    }

    /// Takes a finished turn, unless its user has left meanwhile.
    fn turn_ended(&mut self, turn: Result<FinishedTurn, JoinError>) {
        self.stirred = true;
        let Some(turn) = unless_cancelled(turn) else { return };
        let now = Instant::now().into_std();
        match self.users.ended(turn.place.user) {
            AfterTurn::Stays(pool) => self.settle_turn(pool, turn, now),
            AfterTurn::Left => self.postpone(turn.place, now),
            AfterTurn::Back(pool, username) => {
                self.postpone(turn.place, now);
                if self.pools.contains_key(&pool) {
                    self.add_user(pool, &username, ActivityEstimate::UNKNOWN);
                }
            }
        }
    }

    /// Applies the result of a turn to its user and its pool.
    fn settle_turn(&mut self, pool: PoolSlot, turn: FinishedTurn, now: StdInstant) {
        let FinishedTurn { place, result, checked } = turn;
        match result {
            Err(TurnError::Gone(username)) => {
                self.user_left(pool, &username);
                self.postpone(place, now);
            }
            Err(TurnError::OtherName { username, twin, anew }) => {
                self.remove_user(pool, &username);
                self.postpone(place, now);
                self.let_name_wait(pool, &username, &twin, anew);
            }
            result => {
                self.names_checked(pool, checked);
                self.schedule_again(pool, place, result, now);
            }
        }
    }

    /// Lets a name wait that is another name of a followed user.
    fn let_name_wait(&mut self, pool: PoolSlot, username: &str, twin: &Twin, anew: bool) {
        let Some(polled) = self.pools.get_mut(&pool) else { return };
        let stored = self.context.ledger.privacy().ledger_name(username);
        polled.twins.wait(username, &stored, &twin.of, twin.seen);
        polled.logged.merged += u64::from(anew);
    }

    /// Takes note of checked names. A name that could not be checked is checked again as late as one that could.
    fn names_checked(&mut self, pool: PoolSlot, names: Vec<(String, Result<bool, TurnError>)>) {
        for (name, is_still) in names {
            let Some(polled) = self.pools.get_mut(&pool) else { return };
            if !matches!(is_still, Ok(false)) {
                polled.twins.checked(&name, self.context.clock.now());
            } else if polled.twins.remove(&name) {
                polled.logged.parted += 1;
                self.add_user(pool, &name, ActivityEstimate::UNKNOWN);
            }
        }
    }

    /// Schedules the next turn of a user that is still followed, by the result of this one.
    fn schedule_again(
        &mut self,
        pool: PoolSlot,
        place: TurnPlace,
        result: Result<TurnReport, TurnError>,
        now: StdInstant,
    ) {
        if !self.pools.contains_key(&pool) {
            return;
        }
        match result {
            Ok(report) => self.after_answer(pool, place, &report, now),
            Err(TurnError::Source(error)) => self.after_error(pool, place, &error, now),
            Err(error @ TurnError::NotEnrolled) => self.after_missing_record(pool, place, &error, now),
            // The ledger logs its own trouble. The page is read again when that is over, or after a start.
            Err(
                TurnError::Ledger(_)
                | TurnError::Stopped
                | TurnError::Gone(_)
                | TurnError::OtherName { .. }
                | TurnError::Joined,
            ) => self.postpone(place, now),
        }
    }

    /// The service answered: the schedule learns from the findings.
    fn after_answer(&mut self, pool: PoolSlot, place: TurnPlace, report: &TurnReport, now: StdInstant) {
        let Some(polled) = self.pools.get_mut(&pool) else { return };
        let wall = self.context.clock.now();
        let polled_at = (place.lane == Lane::Poll).then_some(wall);
        let left = Left { catching_up: report.backlog.is_some(), unwalked: report.history };
        self.users.answered(place.user, polled_at, left);
        debug!(
            pool = polled.id(),
            lane = ?place.lane,
            calls = report.findings.pages,
            new_events = report.findings.found.len(),
            "a user was read"
        );
        polled.short_pages.spend(report.findings.fit);
        if let Some(export) = &mut polled.export
            && place.lane == Lane::Poll
            && !self.schedule.is_look(place.user)
        {
            export.shown(&report.shown, AuditClock { wall, now });
        }
        if let Some(notice) = polled.health.answered(now) {
            log::health(polled.id(), &notice);
        }
        let answer = PollAnswer {
            next_look: report.next_look.map(|look| now + look.since(wall)),
            backlog: report.backlog,
            calls: report.findings.pages,
            found: &report.findings.found,
            whole: report.findings.whole,
        };
        self.schedule.ended(place.user, place.lane, TurnEnded::Answered(answer), now);
    }

    /// The service gave no page: the error concerns the user, the pool or the quota.
    fn after_error(&mut self, pool: PoolSlot, place: TurnPlace, error: &SourceError, now: StdInstant) {
        let Some(polled) = self.pools.get_mut(&pool) else { return };
        let (blame, notice) = polled.health.failed(error, now);
        if let Some(notice) = notice {
            log::health(polled.id(), &notice);
        }
        let wall = self.context.clock.now();
        self.status.pool_error(polled.id(), &error.to_string(), wall);
        match blame {
            Blame::Quota => self.postpone(place, now),
            Blame::Pool { hold } => {
                self.schedule.hold(pool, now + hold);
                self.postpone(place, now);
            }
            Blame::User => {
                let missing = *error == SourceError::UserNotFound;
                let failures = self.users.failed(place.user, missing.then_some(wall));
                let pause = if missing { self.pace.max_interval } else { self.pace.after_failures(failures) };
                self.pause_user(pool, place, pause, now);
            }
        }
    }

    /// The ledger has no record of the user.
    fn after_missing_record(&mut self, pool: PoolSlot, place: TurnPlace, error: &TurnError, now: StdInstant) {
        let Some(polled) = self.pools.get(&pool) else { return };
        let failures = self.users.failed(place.user, None);
        if failures == NOT_ENROLLED_LOGGED_AT {
            warn!(pool = polled.id(), %error, "a user is left out until it joins again");
        }
        self.pause_user(pool, place, self.pace.after_failures(failures), now);
    }

    /// Ends a turn without a result: the user is due as before.
    fn postpone(&mut self, place: TurnPlace, now: StdInstant) {
        self.schedule.ended(place.user, place.lane, TurnEnded::Postponed, now);
    }

    /// Ends a turn of a user that could not be read, and pauses the user. An answer about one user releases a refused
    /// pool for its other users only if it shows that the refusal is over; otherwise the pool stays on hold.
    fn pause_user(&mut self, pool: PoolSlot, place: TurnPlace, pause: Duration, now: StdInstant) {
        let refused_until = self.pools.get(&pool).and_then(|polled| polled.health.refused_until());
        self.schedule.ended(place.user, place.lane, TurnEnded::Failed { pause }, now);
        if let Some(until) = refused_until {
            self.schedule.hold(pool, until.max(now));
        }
    }

    fn report_at(&self) -> Instant {
        let soon = self.stirred || self.paused.is_some();
        self.reported + if soon { REPORT_EVERY } else { IDLE_REPORT_EVERY }
    }

    /// Refreshes the gauges, the status and the log of every pool.
    fn report(&mut self) {
        (self.reported, self.stirred) = (Instant::now(), false);
        self.report_pause();
        let (now, wall) = (Instant::now().into_std(), self.context.clock.now());
        let per_second = self.rate_limiter.per_second();
        if let Some(polled) = self.pools.values().next() {
            let limit = self.rate_limiter.limit_per_second();
            log::throttling(&polled.pool.identity, per_second, limit, &mut self.throttled_since);
        }
        // All pools of the account wait for the same budget.
        let forecast = self.schedule.forecast(per_second);
        let slots: Vec<_> = self.pools.keys().copied().collect();
        for slot in slots {
            self.report_users(slot, &forecast, per_second);
            self.report_health(slot, now);
            self.report_progress(slot, now);
            self.report_export(slot, AuditClock { wall, now });
        }
        if self.schedule.next_at(now, self.context.allowed()).is_some_and(|at| at > now) {
            self.context.metrics.progress(Stage::Poll, wall);
        }
    }

    fn report_pause(&mut self) {
        let reason = match (self.context.ledger.failure(), self.context.allowed().live) {
            (Some(_), _) => Some("state_error"),
            (None, false) => Some("outbox_full"),
            (None, true) => None,
        };
        if reason != self.paused {
            log::paused(reason);
            self.paused = reason;
        }
    }

    /// Shows the numbers of a pool's users and how often they are polled.
    fn report_users(&self, slot: PoolSlot, forecast: &Forecast, per_second: f64) {
        let Some(polled) = self.pools.get(&slot) else { return };
        let (counts, metrics, identity) = (self.users.counts(slot), &self.context.metrics, &polled.pool.identity);
        let (ok, missing, failing) = (counts.ok, counts.missing, counts.failing);
        metrics.users(&identity.id, UserCounts { ok, missing, failing });
        metrics.oldest_poll(&identity.id, counts.oldest.filter(|_| self.begun));
        metrics.poll_objective(&identity.id, self.pace.max_interval);
        #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
        let users = (ok + missing + failing) as f64;
        let forecast = PollForecast {
            round: forecast.sample_rounds.get(&slot).copied().or(forecast.round),
            event_delay: forecast.delays.get(&slot).copied(),
            required_per_second: Some(users / self.pace.max_interval.as_secs_f64()),
        };
        metrics.forecast(&identity.id, forecast);
        metrics.api_budget(identity.account_id.as_deref(), &identity.region, per_second);
    }

    /// Judges a pool's export, and shows and logs the result.
    fn report_export(&mut self, slot: PoolSlot, clock: AuditClock) {
        let Some(polled) = self.pools.get_mut(&slot) else { return };
        let Some(export) = &mut polled.export else { return };
        let review = export.review(slot, &mut self.schedule, clock);
        let (id, standing) = (&polled.pool.identity.id, export.standing());
        self.context.metrics.export_audited(id, review.audited, review.missed);
        self.context.metrics.export_up(id, standing.health.is_up());
        if let Some(change) = &review.change {
            log::export(id, change, standing.is_sampled);
        }
        self.status.export(id, &standing);
    }

    /// Shows whether a pool answers.
    fn report_health(&self, slot: PoolSlot, now: StdInstant) {
        let Some(polled) = self.pools.get(&slot) else { return };
        if let Some(up) = polled.health.up(now) {
            self.context.metrics.pool_up(polled.id(), up);
        }
        self.status.pool_down(polled.id(), polled.health.down_because(now).map(ToString::to_string));
    }

    /// Shows how far a pool's histories are read, and logs what has changed among its users.
    fn report_progress(&mut self, slot: PoolSlot, now: StdInstant) {
        let Some(polled) = self.pools.get_mut(&slot) else { return };
        let counts = self.users.counts(slot);
        let users = counts.ok + counts.missing + counts.failing;
        let (standing, notice) = polled.history_progress.look(users, counts.unwalked, now);
        let id = &polled.pool.identity.id;
        self.context.metrics.catching_up(id, counts.catching_up > 0);
        self.status.backlog_walks(id, counts.catching_up);
        let walks = HistoryWalks {
            users_done: standing.walked,
            users: standing.users,
            seconds_left_estimate: standing.left.map(|left| left.as_secs()),
        };
        self.status.history_walks(id, walks);
        if let Some(notice) = notice {
            log::history(id, standing, notice);
        }
        // A listed user that is missing was deleted, and leaves with the next listing.
        let configured_missing = counts.missing.min(polled.as_given);
        self.status.configured_users_missing(id, configured_missing);
        let PoolLogState { missing, merged, parted } = &mut polled.logged;
        log::missing_users(id, counts.missing, configured_missing, missing);
        log::names(id, merged, parted);
    }
}

/// The turn, or None for one that was cancelled. A turn that panicked is a fault of the program: the process stops
/// rather than forget the user.
fn unless_cancelled(turn: Result<FinishedTurn, JoinError>) -> Option<FinishedTurn> {
    match turn {
        Ok(turn) => Some(turn),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => None,
        },
    }
}
