//! The loop: due users -> pages -> walk -> ledger.
//!
//! One [`Poller`] for each account and region: its pools share one budget, hence one schedule. It owns who is followed and
//! how they fare; a turn ([`turn`]) is a task of its own that only reports back. So the loop decides and the turns wait.

pub mod health;
pub mod turn;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use self::health::{Blame, Health, Notice};
use self::turn::{Means, Report, TurnError};
use crate::entry::UserIdentity;
use crate::event::UnixMillis;
use crate::gate::Gate;
use crate::metrics::{Stage, UserCounts};
use crate::pool::Pool;
use crate::schedule::{Answer, Ended, Habit, Intervals, Lane, PoolSlot, Schedule, UserSlot};
use crate::source::{Source, SourceError};
use crate::status::StatusBoard;

/// How often the gauges are refreshed, and a pause is looked at again.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Failures of its own after which a user counts as failing: one may be bad luck.
const FAILING_AFTER: u32 = 3;

/// What the poller is told by discovery. Pools and users come in before their first turn and in this order.
pub enum Message<S> {
    /// A pool is to be followed.
    Follow(Arc<Pool<S>>),
    /// Users joined the roster; their records are in the ledger.
    Joined(PoolSlot, Vec<UserIdentity>),
    /// Users left it.
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

/// A user on the roster.
struct Member {
    identity: Arc<UserIdentity>,
    pool: PoolSlot,
    /// When the service last answered for it, or it joined.
    polled: UnixMillis,
    catching_up: bool,
    failures: u32,
    missing: bool,
}

struct Followed<S> {
    pool: Arc<Pool<S>>,
    health: Health,
}

struct TurnEnd {
    user: UserSlot,
    lane: Lane,
    result: Result<Report, TurnError>,
}

/// The loop of one account and region.
pub struct Poller<S> {
    means: Arc<Means>,
    pace: Pace,
    gate: Gate,
    status: StatusBoard,
    schedule: Schedule,
    pools: HashMap<PoolSlot, Followed<S>>,
    members: HashMap<UserSlot, Member>,
    slots: HashMap<(PoolSlot, String), UserSlot>,
    turns: JoinSet<TurnEnd>,
    /// Whose turns are under way, also of those who have left meanwhile.
    under_way: HashMap<UserSlot, (PoolSlot, Arc<UserIdentity>)>,
    /// Users who are back while the turn of when they left is under way. Two turns at once would take an event twice.
    returning: Vec<(PoolSlot, UserIdentity)>,
    paused: Option<&'static str>,
}

impl<S: Source> Poller<S> {
    /// A poller without pools.
    pub fn new(means: Arc<Means>, pace: Pace, gate: Gate, status: StatusBoard) -> Self {
        Self {
            schedule: Schedule::new(Intervals { min: pace.min_interval, max: pace.max_interval }),
            means,
            pace,
            gate,
            status,
            pools: HashMap::new(),
            members: HashMap::new(),
            slots: HashMap::new(),
            turns: JoinSet::new(),
            under_way: HashMap::new(),
            returning: Vec::new(),
            paused: None,
        }
    }

    /// Polls until the soft stop, the first time not before `may_begin`; then lets the turns under way end:
    /// they wait for nothing but their commits.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Message<S>>, may_begin: impl Future<Output = ()>) {
        let stop = self.means.stop.clone();
        let mut report = tokio::time::interval(REPORT_EVERY);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut may_begin = std::pin::pin!(may_begin);
        let mut begun = false;
        loop {
            let begin_at = if begun { self.begin_at() } else { None };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = &mut may_begin, if !begun => begun = true,
                Some(message) = messages.recv() => self.told(message),
                Some(end) = self.turns.join_next() => self.turn_ended(end),
                _ = report.tick() => self.report(),
                () = tokio::time::sleep_until(begin_at.unwrap_or_else(Instant::now)), if begin_at.is_some() => self.begin_turn(),
            }
        }
        while let Some(end) = self.turns.join_next().await {
            self.turn_ended(end);
        }
        self.report();
    }

    fn told(&mut self, message: Message<S>) {
        match message {
            Message::Follow(pool) => {
                self.pools.insert(pool.slot, Followed { pool, health: Health::default() });
            }
            Message::Joined(pool, users) => users.into_iter().for_each(|user| self.join(pool, user)),
            Message::Left(pool, usernames) => usernames.into_iter().for_each(|username| self.leave(pool, username)),
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

    fn join(&mut self, pool: PoolSlot, user: UserIdentity) {
        let place = (pool, user.username.clone());
        if let Some(member) = self.slots.get(&place).and_then(|slot| self.members.get_mut(slot)) {
            member.identity = Arc::new(user);
            return;
        }
        if self.under_way.values().any(|(of, turn)| *of == pool && turn.username == user.username) {
            self.returning.push((pool, user));
            return;
        }
        let slot = self.schedule.join(pool, Habit::UNKNOWN, Instant::now().into_std());
        self.slots.insert(place, slot);
        let polled = self.means.clock.now();
        self.members.insert(
            slot,
            Member { identity: Arc::new(user), pool, polled, catching_up: false, failures: 0, missing: false },
        );
    }

    fn leave(&mut self, pool: PoolSlot, username: String) {
        self.returning.retain(|(of, user)| *of != pool || user.username != username);
        if let Some(slot) = self.slots.remove(&(pool, username)) {
            self.members.remove(&slot);
            self.schedule.leave(slot);
        }
    }

    /// When the next turn may begin: somebody is due, the budget allows a call, and nothing pauses.
    fn begin_at(&self) -> Option<Instant> {
        if self.turns.len() >= self.pace.turns_max {
            return None;
        }
        let due = self.schedule.next_at(Instant::now().into_std(), self.means.allowed())?;
        Some(self.gate.next_at().max(due.into()))
    }

    fn begin_turn(&mut self) {
        let Some((user, lane)) = self.schedule.next(Instant::now().into_std(), self.means.allowed()) else { return };
        let Some(member) = self.members.get(&user) else { return self.schedule.leave(user) };
        let Some(followed) = self.pools.get(&member.pool) else { return self.schedule.leave(user) };
        let (means, pool, identity) = (self.means.clone(), followed.pool.clone(), member.identity.clone());
        let is_known = self.schedule.habit(user).is_some_and(|habit| habit.is_known());
        let start = self.gate.reserve();
        self.under_way.insert(user, (member.pool, identity.clone()));
        self.turns.spawn(async move {
            let result = turn::take(&means, &pool, &identity, lane, is_known, start).await;
            TurnEnd { user, lane, result }
        });
    }

    fn turn_ended(&mut self, end: Result<TurnEnd, tokio::task::JoinError>) {
        let end = match end {
            Ok(end) => end,
            // A turn that panicked is a fault of the program: the process stops rather than forget the user.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => return,
            },
        };
        self.under_way.remove(&end.user);
        for (pool, user) in std::mem::take(&mut self.returning) {
            self.join(pool, user);
        }
        let now = Instant::now().into_std();
        let Some(member) = self.members.get_mut(&end.user) else {
            return self.schedule.ended(end.user, end.lane, Ended::Postponed, now);
        };
        let Some(followed) = self.pools.get_mut(&member.pool) else { return };
        let activity;
        let (ended, notice) = match end.result {
            Ok(report) => {
                let wall = self.means.clock.now();
                (member.failures, member.missing) = (0, false);
                member.catching_up = report.backlog.is_some();
                if end.lane == Lane::Poll {
                    member.polled = wall;
                }
                let next_look = report.next_look.map(|look| now + look.since(wall));
                activity = report.activity;
                let answer = Answer {
                    next_look,
                    backlog: report.backlog,
                    calls: activity.pages,
                    found: &activity.found,
                    whole: activity.whole,
                };
                (Ended::Answered(answer), followed.health.answered(now))
            }
            Err(TurnError::Source(error)) => {
                let (blame, notice) = followed.health.failed(&error, now);
                self.status.pool_error(&followed.pool.identity.id, &error.to_string(), self.means.clock.now());
                let ended = match blame {
                    Blame::Quota => Ended::Postponed,
                    Blame::Pool { hold } => {
                        self.schedule.hold(member.pool, now + hold);
                        Ended::Postponed
                    }
                    Blame::User => {
                        member.missing = error == SourceError::UserNotFound;
                        if member.missing {
                            member.polled = self.means.clock.now();
                        }
                        member.failures = member.failures.saturating_add(1);
                        let doubled = self.pace.min_interval.saturating_mul(1 << member.failures.min(16));
                        let pause = if member.missing { self.pace.max_interval } else { doubled };
                        Ended::Failed { pause: pause.min(self.pace.max_interval) }
                    }
                };
                (ended, notice)
            }
            // The ledger's own trouble is told by the ledger; the page is read again when it is over, or after a start.
            Err(TurnError::Ledger(_) | TurnError::Stopped) => (Ended::Postponed, None),
            Err(error @ TurnError::NotEnrolled) => {
                warn!(pool = followed.pool.identity.id, %error, "a user is left out until it joins again");
                (Ended::Failed { pause: self.pace.max_interval }, None)
            }
        };
        tell(&followed.pool.identity.id, notice.as_ref());
        self.schedule.ended(end.user, end.lane, ended, now);
    }

    /// Refreshes what people see of every pool.
    fn report(&mut self) {
        self.tell_of_pause();
        let (now, wall) = (Instant::now().into_std(), self.means.clock.now());
        let mut counts: HashMap<PoolSlot, PoolCounts> = HashMap::new();
        for member in self.members.values() {
            counts.entry(member.pool).or_default().add(member);
        }
        let per_second = self.gate.per_second();
        // All pools of the account wait for the same budget.
        let users = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let round =
            (users > 0).then(|| Duration::from_secs_f64(f64::from(users) / per_second).max(self.pace.min_interval));
        for (slot, followed) in &self.pools {
            let counts = counts.remove(slot).unwrap_or_default();
            let identity = &followed.pool.identity;
            let metrics = &self.means.metrics;
            if let Some(up) = followed.health.up(now) {
                metrics.pool_up(&identity.id, up);
            }
            metrics.users(&identity.id, counts.users);
            metrics.oldest_poll(&identity.id, counts.oldest);
            metrics.poll_objective(&identity.id, self.pace.max_interval);
            metrics.round_estimate(&identity.id, round);
            metrics.catching_up(&identity.id, counts.catching_up > 0);
            metrics.api_budget(identity.account_id.as_deref(), &identity.region, per_second);
            self.status.backlog_walks(&identity.id, counts.catching_up);
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
        Some(Notice::Trouble(cause)) => warn!(pool, cause, "the pool cannot be polled; other pools go on"),
        Some(Notice::Recovered(after)) => {
            info!(pool, after_seconds = after.as_secs(), "the pool can be polled again");
        }
        None => {}
    }
}

#[derive(Default)]
struct PoolCounts {
    users: UserCounts,
    oldest: Option<UnixMillis>,
    catching_up: u64,
}

impl PoolCounts {
    fn add(&mut self, member: &Member) {
        if member.missing {
            self.users.missing += 1;
        } else if member.failures >= FAILING_AFTER {
            self.users.failing += 1;
        } else {
            self.users.ok += 1;
        }
        self.catching_up += u64::from(member.catching_up);
        self.oldest = Some(self.oldest.map_or(member.polled, |oldest| oldest.min(member.polled)));
    }
}
