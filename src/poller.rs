//! The loop: due users -> pages -> walk -> ledger.
//!
//! One [`Poller`] for each account and region: its pools share one budget, hence one schedule. It owns who is followed and
//! how they fare; a turn ([`turn`]) is a task of its own that only reports back. So the loop decides and the turns wait.

pub mod health;
pub mod history_progress;
pub mod names;
pub mod turn;
pub mod twins;
pub mod user_table;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::backoff::Backoff;
use cognito_auth_core::schedule::{
    ActivityEstimate, Intervals, Lane, PollAnswer, PoolSlot, Schedule, TurnEnded, UserSlot,
};
use cognito_auth_core::walk::page_size::Credit;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tracing::{info, warn};

use self::health::{Blame, Health, Notice};
use self::history_progress::{HistoryProgress, Standing, Told};
use self::names::Names;
use self::turn::{Known, Means, Report, TurnError};
use self::twins::Twins;
use self::user_table::{AfterTurn, Left, UserTable};
use crate::metrics::{PollForecast, Stage, UserCounts};
use crate::pool::Pool;
use crate::rate_limiter::RateLimiter;
use crate::source::{Operation, Source, SourceError};
use crate::status::StatusBoard;

/// How often the gauges are refreshed, and a pause is looked at again.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The same while nothing happens: whoever is not used does not wake up for it.
const IDLE_REPORT_EVERY: Duration = Duration::from_secs(10);

/// Turns of a user in a row that found no record of it, after which people are told. Before, discovery is about to say
/// where it is.
const NOT_ENROLLED_TOLD_AT: u8 = 3;

/// What the poller is told by discovery. Pools and users come in before their first turn and in this order.
pub enum Message<S> {
    /// A pool is to be followed.
    Follow(Arc<Pool<S>>),
    /// A pool is followed no longer, nor is anybody in it. When that is so the guard is dropped, which cuts the calls under way,
    /// and nothing of them is told.
    Unfollow(PoolSlot, DropGuard),
    /// Users joined the followed users; their records are in the ledger.
    Joined(PoolSlot, Vec<(String, ActivityEstimate)>),
    /// Users left it. One who leaves and joins is due at once.
    Left(PoolSlot, Vec<String>),
    /// A pool of whom nobody is followed yet was asked for its users: no poll can say whether it answers.
    Listed(PoolSlot, Result<(), SourceError>),
}

/// What the operator may set of the loop.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// `poll.concurrency`.
    pub turns_max: usize,
    /// `poll.min_interval`.
    pub min_interval: Duration,
    /// `poll.max_interval`.
    pub max_interval: Duration,
}

impl Pace {
    /// How long a user is left alone that could not be read so often in a row.
    fn after_failures(&self, failures: u8) -> Duration {
        Backoff::doubling(self.min_interval, self.max_interval).wait_after(1 + u32::from(failures.min(16)))
    }
}

struct Followed<S> {
    pool: Arc<Pool<S>>,
    health: Health,
    /// Whether its users may be asked for short pages.
    short_pages: Credit,
    history_progress: HistoryProgress,
    /// Whether people were told of users who are missing.
    any_missing: bool,
    names: Names,
    twins: Twins,
    /// Names that began to wait as other names of users, and those that were found to be other users', since people were told.
    merged: u64,
    parted: u64,
}

struct TurnEnd {
    user: UserSlot,
    lane: Lane,
    result: Result<Report, TurnError>,
    /// Other names of its that were looked at, and whether they still are.
    looked_at: Vec<(String, Result<bool, TurnError>)>,
}

/// The loop of one account and region.
pub struct Poller<S> {
    means: Arc<Means>,
    pace: Pace,
    rate_limiter: RateLimiter,
    status: StatusBoard,
    schedule: Schedule,
    pools: HashMap<PoolSlot, Followed<S>>,
    users: UserTable,
    turns: JoinSet<TurnEnd>,
    paused: Option<&'static str>,
    reported: Instant,
    /// Whether there was a turn or a message since.
    stirred: bool,
}

impl<S: Source> Poller<S> {
    /// A poller without pools.
    pub fn new(means: Arc<Means>, pace: Pace, rate_limiter: RateLimiter, status: StatusBoard) -> Self {
        Self {
            schedule: Schedule::new(Intervals { min: pace.min_interval, max: pace.max_interval }),
            means,
            pace,
            rate_limiter,
            status,
            pools: HashMap::new(),
            users: UserTable::default(),
            turns: JoinSet::new(),
            paused: None,
            reported: Instant::now(),
            stirred: true,
        }
    }

    /// Polls until the soft stop, the first time not before `may_begin`; then lets the turns under way end:
    /// they wait for nothing but their commits.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Message<S>>, may_begin: impl Future<Output = ()>) {
        let stop = self.means.stop.clone();
        self.report();
        let mut may_begin = std::pin::pin!(may_begin);
        let mut begun = false;
        loop {
            let begin_at = if begun { self.begin_at() } else { None };
            let report_at = self.report_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = &mut may_begin, if !begun => begun = true,
                Some(end) = self.turns.join_next() => self.turn_ended(end),
                () = tokio::time::sleep_until(report_at) => self.report(),
                () = tokio::time::sleep_until(begin_at.unwrap_or_else(Instant::now)), if begin_at.is_some() => self.begin_turn(),
                // Last: a million names in a row do not hold up the polls, which the budget bounds.
                Some(message) = messages.recv() => self.told(message),
            }
        }
        while let Some(end) = self.turns.join_next().await {
            self.turn_ended(end);
        }
        self.report();
    }

    fn report_at(&self) -> Instant {
        let soon = self.stirred || self.paused.is_some();
        self.reported + if soon { REPORT_EVERY } else { IDLE_REPORT_EVERY }
    }

    fn told(&mut self, message: Message<S>) {
        self.stirred = true;
        match message {
            Message::Follow(pool) => {
                let (health, history_progress) = (Health::default(), HistoryProgress::default());
                self.pools.insert(
                    pool.slot,
                    Followed {
                        pool,
                        health,
                        short_pages: Credit::FULL,
                        history_progress,
                        any_missing: false,
                        names: Names::default(),
                        twins: Twins::default(),
                        merged: 0,
                        parted: 0,
                    },
                );
            }
            Message::Unfollow(pool, _calls_may_go_on) => {
                self.users.names_of(pool).iter().for_each(|username| self.leave(pool, username));
                self.pools.remove(&pool);
            }
            Message::Joined(pool, users) => users.iter().for_each(|(user, activity)| self.join(pool, user, *activity)),
            Message::Left(pool, usernames) => usernames.iter().for_each(|username| self.left(pool, username)),
            Message::Listed(pool, result) => self.listed(pool, result),
        }
    }

    fn listed(&mut self, pool: PoolSlot, result: Result<(), SourceError>) {
        let Some(followed) = self.pools.get_mut(&pool) else { return };
        let now = Instant::now().into_std();
        // Discovery has told people already.
        let _notice = match result {
            Ok(()) => followed.health.answered(now),
            Err(error) => followed.health.failed(&error, now).1,
        };
    }

    /// A name that waits as another name of a user stays where it is.
    fn join(&mut self, pool: PoolSlot, username: &str, activity: ActivityEstimate) {
        if self.pools.get(&pool).is_some_and(|followed| followed.twins.holds(username)) {
            return;
        }
        if let Some(slot) = self.users.join(pool, username, self.means.clock.now()) {
            self.schedule.join(pool, slot, activity, Instant::now().into_std());
        }
    }

    fn leave(&mut self, pool: PoolSlot, username: &str) {
        if let Some(slot) = self.users.leave(pool, username) {
            self.schedule.leave(slot);
        }
    }

    /// A name is wanted no longer. Those that waited as other names of its go on by themselves.
    fn left(&mut self, pool: PoolSlot, username: &str) {
        self.leave(pool, username);
        let Some(followed) = self.pools.get_mut(&pool) else { return };
        followed.twins.remove(username);
        let stored = self.means.ledger.privacy().ledger_name(username);
        for name in followed.twins.release(&stored) {
            self.join(pool, &name, ActivityEstimate::UNKNOWN);
        }
    }

    /// When the next turn may begin: somebody is due, the budget allows a call, and nothing pauses.
    fn begin_at(&self) -> Option<Instant> {
        if self.turns.len() >= self.pace.turns_max {
            return None;
        }
        let due = self.schedule.next_at(Instant::now().into_std(), self.means.allowed())?;
        Some(self.rate_limiter.next_at().max(due.into()))
    }

    fn begin_turn(&mut self) {
        self.stirred = true;
        let now = Instant::now().into_std();
        let Some((user, lane)) = self.schedule.next(now, self.means.allowed()) else { return };
        let Some((pool, username)) = self.users.begin(user) else { return self.schedule.leave(user) };
        let Some(followed) = self.pools.get(&pool) else { return self.schedule.leave(user) };
        let (means, pool) = (self.means.clone(), followed.pool.clone());
        let expected = self.schedule.expected(user, now).filter(|_| followed.short_pages.suffices());
        let known = Known { activity: self.schedule.activity(user, now), expected };
        let start = self.rate_limiter.reserve();
        let (shown, mut others) = (followed.names.clone(), vec![]);
        if lane == Lane::Poll && !followed.twins.is_empty() {
            others = followed.twins.due(&means.ledger.privacy().ledger_name(&username), means.clock.now());
        }
        self.turns.spawn(async move {
            let result = turn::take(&means, &pool, username.clone(), lane, known, &shown, start).await;
            let mut looked_at = vec![];
            // Also if this name is nobody's any more: the others may be somebody's.
            if matches!(result, Ok(_) | Err(TurnError::Source(SourceError::UserNotFound))) {
                for other in others {
                    let is_still = names::is_still(&means, &pool, &username, &other).await;
                    looked_at.push((other, is_still));
                }
            }
            TurnEnd { user, lane, result, looked_at }
        });
    }

    fn turn_ended(&mut self, end: Result<TurnEnd, tokio::task::JoinError>) {
        self.stirred = true;
        let end = match end {
            Ok(end) => end,
            // A turn that panicked is a fault of the program: the process stops rather than forget the user.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => return,
            },
        };
        let now = Instant::now().into_std();
        let pool = match self.users.ended(end.user) {
            AfterTurn::Stays(pool) => pool,
            AfterTurn::Left => return self.schedule.ended(end.user, end.lane, TurnEnded::Postponed, now),
            AfterTurn::Back(pool, username) => {
                self.schedule.ended(end.user, end.lane, TurnEnded::Postponed, now);
                if self.pools.contains_key(&pool) {
                    self.join(pool, &username, ActivityEstimate::UNKNOWN);
                }
                return;
            }
        };
        match &end.result {
            Err(TurnError::Gone(username)) => {
                self.left(pool, username);
                return self.schedule.ended(end.user, end.lane, TurnEnded::Postponed, now);
            }
            Err(TurnError::OtherName { username, twin, anew }) => {
                self.leave(pool, username);
                self.schedule.ended(end.user, end.lane, TurnEnded::Postponed, now);
                if let Some(followed) = self.pools.get_mut(&pool) {
                    let stored = self.means.ledger.privacy().ledger_name(username);
                    followed.twins.wait(username, &stored, &twin.of, twin.seen);
                    followed.merged += u64::from(*anew);
                }
                return;
            }
            _ => self.looked_at(pool, end.looked_at),
        }
        let Some(followed) = self.pools.get_mut(&pool) else { return };
        let findings;
        let (ended, notice) = match end.result {
            Ok(report) => {
                let wall = self.means.clock.now();
                let polled = (end.lane == Lane::Poll).then_some(wall);
                let left = Left { catching_up: report.backlog.is_some(), unwalked: report.history };
                self.users.answered(end.user, polled, left);
                let next_look = report.next_look.map(|look| now + look.since(wall));
                findings = report.findings;
                followed.short_pages.spend(findings.fit);
                let answer = PollAnswer {
                    next_look,
                    backlog: report.backlog,
                    calls: findings.pages,
                    found: &findings.found,
                    whole: findings.whole,
                };
                (TurnEnded::Answered(answer), followed.health.answered(now))
            }
            Err(TurnError::Source(error)) => {
                let (blame, notice) = followed.health.failed(&error, now);
                self.status.pool_error(&followed.pool.identity.id, &error.to_string(), self.means.clock.now());
                let ended = match blame {
                    Blame::Quota => TurnEnded::Postponed,
                    Blame::Pool { hold } => {
                        self.schedule.hold(pool, now + hold);
                        TurnEnded::Postponed
                    }
                    Blame::User => {
                        let missing = error == SourceError::UserNotFound;
                        let failures = self.users.failed(end.user, missing.then(|| self.means.clock.now()));
                        let pause = if missing { self.pace.max_interval } else { self.pace.after_failures(failures) };
                        TurnEnded::Failed { pause }
                    }
                };
                (ended, notice)
            }
            // The ledger's own trouble is told by the ledger; the page is read again when it is over, or after a start.
            Err(
                TurnError::Ledger(_)
                | TurnError::Stopped
                | TurnError::Gone(_)
                | TurnError::OtherName { .. }
                | TurnError::Joined,
            ) => (TurnEnded::Postponed, None),
            Err(error @ TurnError::NotEnrolled) => {
                let failures = self.users.failed(end.user, None);
                if failures == NOT_ENROLLED_TOLD_AT {
                    warn!(pool = followed.pool.identity.id, %error, "a user is left out until it joins again");
                }
                (TurnEnded::Failed { pause: self.pace.after_failures(failures) }, None)
            }
        };
        tell(&followed.pool.identity.id, notice.as_ref());
        let refused_until = followed.health.refused_until();
        self.schedule.ended(end.user, end.lane, ended, now);
        // What the service says of one user opens the pool to the others only if it shows that the refusal is over.
        if let (TurnEnded::Failed { .. }, Some(until)) = (ended, refused_until) {
            self.schedule.hold(pool, until.max(now));
        }
    }

    /// Takes note of what became of names that wait. One that could not be read is looked at again as late as one that could.
    fn looked_at(&mut self, pool: PoolSlot, names: Vec<(String, Result<bool, TurnError>)>) {
        for (name, is_still) in names {
            let Some(followed) = self.pools.get_mut(&pool) else { return };
            if !matches!(is_still, Ok(false)) {
                followed.twins.looked_at(&name, self.means.clock.now());
            } else if followed.twins.remove(&name) {
                followed.parted += 1;
                self.join(pool, &name, ActivityEstimate::UNKNOWN);
            }
        }
    }

    /// Refreshes what people see of every pool.
    fn report(&mut self) {
        (self.reported, self.stirred) = (Instant::now(), false);
        self.tell_of_pause();
        let (now, wall) = (Instant::now().into_std(), self.means.clock.now());
        let per_second = self.rate_limiter.per_second();
        // All pools of the account wait for the same budget.
        let forecast = self.schedule.forecast(per_second);
        for (slot, followed) in &mut self.pools {
            let counts = self.users.counts(*slot);
            let identity = &followed.pool.identity;
            let metrics = &self.means.metrics;
            if let Some(up) = followed.health.up(now) {
                metrics.pool_up(&identity.id, up);
            }
            self.status.pool_down(&identity.id, followed.health.down_because(now).map(ToString::to_string));
            let (ok, missing, failing) = (counts.ok, counts.missing, counts.failing);
            metrics.users(&identity.id, UserCounts { ok, missing, failing });
            metrics.oldest_poll(&identity.id, counts.oldest);
            metrics.poll_objective(&identity.id, self.pace.max_interval);
            #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
            let users = (ok + missing + failing) as f64;
            let forecast = PollForecast {
                round: forecast.round,
                event_delay: forecast.delays.get(slot).copied(),
                required_per_second: Some(users / self.pace.max_interval.as_secs_f64()),
            };
            metrics.forecast(&identity.id, forecast);
            metrics.catching_up(&identity.id, counts.catching_up > 0);
            metrics.api_budget(identity.account_id.as_deref(), &identity.region, per_second);
            self.status.backlog_walks(&identity.id, counts.catching_up);
            let (standing, told) = followed.history_progress.look(ok + missing + failing, counts.unwalked, now);
            self.status.history_walks(&identity.id, standing);
            tell_of_history(&identity.id, standing, told);
            tell_of_missing(&identity.id, missing, &mut followed.any_missing);
            tell_of_names(&identity.id, &mut followed.merged, &mut followed.parted);
        }
        if self.schedule.next_at(now, self.means.allowed()).is_some_and(|at| at > now) {
            self.means.metrics.progress(Stage::Poll, wall);
        }
    }

    fn tell_of_pause(&mut self) {
        let reason = match (self.means.ledger.failure(), self.means.allowed().live) {
            (Some(_), _) => Some("state_error"),
            (None, false) => Some("outbox_full"),
            (None, true) => None,
        };
        if reason != self.paused {
            match reason {
                Some(reason) => warn!(reason, "polling pauses; nothing is lost, Cognito keeps its history"),
                None => info!("polling goes on"),
            }
            self.paused = reason;
        }
    }
}

/// One line when trouble begins, changes or ends.
fn tell(pool: &str, notice: Option<&Notice>) {
    match notice {
        Some(Notice::Trouble(cause)) => {
            let remedy = cause.remedy(Operation::AdminListUserAuthEvents, pool);
            warn!(pool, %cause, remedy, "the pool cannot be polled; other pools go on");
        }
        Some(Notice::Recovered(after)) => {
            info!(pool, after_seconds = after.as_secs(), "the pool can be polled again");
        }
        None => {}
    }
}

/// One line when users are missing, and one when none is any more; however many they are, and whoever.
fn tell_of_missing(pool: &str, users: u64, told: &mut bool) {
    match (std::mem::replace(told, users > 0), users) {
        (false, 1..) => {
            info!(
                pool,
                users, "users are followed who are not in the pool: a name given by hand is wrong, or they left"
            );
        }
        (true, 0) => info!(pool, "every user who is followed is in the pool"),
        _ => {}
    }
}

/// One line for all names that began to wait since the latest, and one for those that wait no longer.
fn tell_of_names(pool: &str, merged: &mut u64, parted: &mut u64) {
    if let names @ 1.. = std::mem::take(merged) {
        info!(
            pool,
            names, "configured names belong to users who are followed under another name; each is followed once"
        );
    }
    if let names @ 1.. = std::mem::take(parted) {
        info!(pool, names, "configured names belong to other users than before; these are followed too");
    }
}

/// One line now and then while histories are walked, and one when they are.
fn tell_of_history(pool: &str, standing: Standing, told: Option<Told>) {
    let Standing { walked, users, left } = standing;
    match told {
        Some(Told::Further) => {
            info!(pool, walked, users, left_seconds = left.map(|left| left.as_secs()), "walking the users' histories");
        }
        Some(Told::Done(after)) => {
            info!(pool, users, after_seconds = after.as_secs(), "the users' histories are walked to their ends");
        }
        None => {}
    }
}
