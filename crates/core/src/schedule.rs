//! Decides which user is polled next, and when.
//!
//! Calls are scarce, so they go to the users whose events wait longest. Suppose that a user's events come at a rate λ,
//! and that its *age* is the time since its last poll. A poll is then worth λ·age²/2, which is the delay that the
//! user's unseen events have gathered. The user whose poll is worth most goes first. With known rates and a fixed
//! budget this polls each user in proportion to √λ, which is the optimum. The rates are learnt from the events that
//! polls find (`activity`) and from the pool's other users (`rate_prior`), so the schedule also follows bursts. The
//! schedule does not know the budget. The worth at which users are polled, the *price*, follows from it.
//!
//! Users of about one rate share a bucket (`rate_buckets`), longest unseen first. The first user of a bucket is worth
//! most in it. So a decision compares about 50 users, however many there are. `docs/scheduling.md` has the reasons and
//! the figures.
//!
//! Five more rules hold:
//! - No user is polled more often than `min_interval`. While any user is due, a call is made.
//! - A user that was not polled for `max_interval` goes first, as long as the budget can keep that interval for all
//!   users.
//! - A look at an event in progress goes before its user's turn, in every other poll at most.
//! - A crowd of newcomers takes at most half of the turns while a user is due that was known before the crowd came.
//! - Backlog has a lane of its own. It takes the spare calls, and a quarter of the calls when none are spare.
//!
//! A pool in trouble is held back as a whole, and then probed by one user at a time. So its failures cost the other
//! pools nothing.
//!
//! A pool whose events arrive by Cognito's own export may be in *sample* mode (`sample`). The order by worth, the late
//! rule and the sleepers' round then leave its users out. Newcomers, looks and backlog go on as before, and a uniform
//! random sample of users is polled at a rate of its own. In either mode the schedule learns from exported events
//! (`heard`).
//!
//! Pure: time is an argument, and nothing is random but the order of a sample, whose seed is an argument. The same
//! reports give the same decisions.

mod activity;
mod forecast;
mod heap;
mod heard;
mod pool_queue;
mod rate_buckets;
mod rate_prior;
mod sample;
mod ticks;
mod user;
mod user_plan;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use self::activity::{ActivityEstimate, FoundEvent};
pub use self::forecast::{AssumedDelays, CallUse, Forecast, assumed_delay, assumed_delays};
use self::forecast::{Calibration, Limits};
use self::heard::Put;
use self::pool_queue::{Few, PoolAccess, PoolQueue};
use self::rate_buckets::{Census, RateBuckets};
use self::rate_prior::RatePrior;
pub use self::sample::PollMode;
use self::sample::Sample;
use self::ticks::{NEVER, Ticks, instant, nanos, seconds, ticks};
use self::user::{ScheduledUser, ScheduledUsers, SlotState, UserFlags};
pub use self::user_plan::{NextTurn, UserPlan};

/// A user's number in the schedule. The caller may give it to another user only after this user has left and its last
/// turn has ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UserSlot(pub u32);

/// A pool's number among the pools that share this schedule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolSlot(pub u32);

/// The purpose of a user's turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Poll the user from the top.
    Poll,
    /// Continue a stretch of its history.
    Backlog,
}

/// The open part of a user's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backlog {
    /// A stretch that holds live events.
    Live,
    /// A stretch with events from before the user was followed only.
    History,
}

/// The end of a turn, as the schedule needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TurnEnded<'a> {
    /// The service answered for this user.
    Answered(PollAnswer<'a>),
    /// The turn failed for a reason other than the user: throttling, or a pool or endpoint in trouble. The user waits
    /// as before.
    Postponed,
    /// The user itself cannot be read, and is not polled again before this pause has passed.
    Failed {
        /// The length of the pause.
        pause: Duration,
    },
}

/// The result of an answered turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PollAnswer<'a> {
    /// When an event in progress needs another look.
    pub next_look: Option<Instant>,
    /// The open part of the user's history.
    pub backlog: Option<Backlog>,
    /// The number of calls of the turn.
    pub calls: u32,
    /// The events that were not known before; of backlog only the live ones. For a user's first poll: every event of
    /// the page, with history.
    pub found: &'a [FoundEvent],
    /// For a user's first poll: whether the page was the user's whole history.
    pub whole: bool,
}

/// The turns that may begin at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Whether polls and backlog with live events may.
    pub live: bool,
    /// Whether backlog of history may.
    pub history: bool,
}

/// How often users are polled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Intervals {
    /// The shortest time between two polls of a user (`poll.min_interval`).
    pub min: Duration,
    /// The longest time between two polls of a user, as far as the budget allows (`poll.max_interval`).
    pub max: Duration,
}

/// A pool as the schedule sees it.
#[derive(Debug, Default)]
struct ScheduledPool {
    rate_prior: RatePrior,
    census: Census,
    calibration: Calibration,
    /// The sample of its users, unless they are polled in full.
    sample: Option<Sample>,
    newcomers: usize,
    /// The number of its users whose turn is under way.
    busy: usize,
    in_trouble: bool,
    held_until: Option<Ticks>,
    /// Whether no call may be made for it: while it is held, and in trouble while another call is under way.
    closed: bool,
}

/// The schedule of all pools that share one budget.
#[derive(Debug)]
pub struct Schedule {
    min_interval: Ticks,
    max_interval: Ticks,
    /// The moment from which ticks are counted.
    first: Option<Instant>,
    users: ScheduledUsers,
    pools: BTreeMap<PoolSlot, ScheduledPool>,
    /// The waiting users that are established.
    established: RateBuckets,
    /// The waiting users that joined with the latest newcomers and were polled. They are one crowd with the newcomers
    /// until each was polled once, so that the first of them do not count as established for the rest.
    crowd: RateBuckets,
    /// The waiting newcomers. Nothing was known of a newcomer when it joined, and it was not polled yet.
    new: RateBuckets,
    /// The number of newcomers, waiting or not.
    newcomers: usize,
    /// The number of users that only a sample polls: those of pools in sample mode, except newcomers.
    left_to_samples: usize,
    /// When the next user of each sample is due; of the pools that are not held.
    samples: BTreeSet<(Ticks, PoolSlot)>,
    /// The waiting users that have an event in progress to look at.
    looks: PoolQueue<Few>,
    live_backlog: PoolQueue<Few>,
    history_backlog: PoolQueue<Few>,
    resting: BTreeSet<(Ticks, UserSlot)>,
    held: BTreeSet<(Ticks, PoolSlot)>,
    tickets: u32,
    pace: BudgetPace,
    turns: Turns,
    call_use: CallUse,
}

/// The budget as the schedule has learnt it from its own decisions.
#[derive(Debug, Default)]
struct BudgetPace {
    /// The mean time between two polls that are not looks, in seconds.
    gap: f64,
    /// The mean √λ·age, in √seconds, of the users that are polled for their worth.
    price: f64,
    latest: Option<Ticks>,
    samples: f64,
}

/// The latest kinds of turns, so that no kind always goes first.
#[derive(Debug, Default)]
struct Turns {
    look_was_last: bool,
    /// Whether the latest poll was of a sample.
    sample_was_last: bool,
    /// Whether the latest poll was of the crowd. The next is then of an established user, if one is due.
    crowd_was_last: bool,
    /// The number of polls that are due to sleepers.
    sleepers_due: f64,
    /// The number of polls of the oldest user in a row.
    oldest_in_a_row: u32,
    /// The number of polls that go before the next call for backlog.
    backlog_debt: u32,
}

/// A user to poll, and the reason.
#[derive(Clone, Copy, Debug)]
enum Choice {
    Look(UserSlot),
    Sample(UserSlot),
    Oldest(UserSlot),
    /// With its √λ·age.
    Worthiest(UserSlot, f64),
}

impl Schedule {
    /// The number of poll calls after each call for backlog, while polls are waiting.
    const POLLS_PER_BACKLOG: u32 = 3;

    /// The largest debt of the backlog lane, in calls. After a long walk the lane would otherwise rest for hours.
    const BACKLOG_DEBT_MAX: u32 = 1000;

    /// The rate of a newcomer, as a multiple of the pool's mean rate. Its first page tells more than any later page.
    const NEWCOMER: f64 = 4.0;

    /// The length of the sleepers' round, as a share of the kept interval.
    const ROUND: f64 = 0.97;

    /// The age, as a share of the kept interval, from which on the oldest user goes first in any case. It leaves time
    /// for the call to be answered.
    const LATE: f64 = 0.985;

    /// The age, as a share of the kept interval, before which the round does not poll the oldest user.
    const EARLY: f64 = 0.5;

    /// The number of late users in a row after which the worthiest goes first, while three quarters of the budget or
    /// less keep the interval. After a pause all users are late.
    const LATE_IN_A_ROW: u32 = 3;

    /// The number of calls over which gap and price are averaged: about a minute.
    const AVERAGED: f64 = 256.0;

    /// The longest gap between two polls that counts, in seconds. A longer one is a pause and says nothing of the
    /// budget.
    const GAP_MAX: f64 = 60.0;

    /// The time since a user's last poll, in seconds, with which a poll counts as a whole lesson for the pool. A
    /// shorter time counts less, so that active users do not dominate.
    const LESSON: f64 = 3600.0;

    /// Makes an empty schedule that keeps these intervals.
    pub fn new(intervals: Intervals) -> Self {
        Self {
            min_interval: nanos(intervals.min),
            max_interval: nanos(intervals.max.max(intervals.min)),
            first: None,
            users: ScheduledUsers::default(),
            pools: BTreeMap::new(),
            established: RateBuckets::default(),
            crowd: RateBuckets::default(),
            new: RateBuckets::default(),
            newcomers: 0,
            left_to_samples: 0,
            samples: BTreeSet::new(),
            looks: PoolQueue::default(),
            live_backlog: PoolQueue::default(),
            history_backlog: PoolQueue::default(),
            resting: BTreeSet::new(),
            held: BTreeSet::new(),
            tickets: 0,
            pace: BudgetPace::default(),
            turns: Turns::default(),
            call_use: CallUse::default(),
        }
    }

    /// Adds a user at a free slot. It is due at once. Its backlog, if any, is known after its first turn. A stored
    /// `activity` must be [aged](ActivityEstimate::aged) to the present.
    pub fn join(&mut self, pool: PoolSlot, slot: UserSlot, activity: ActivityEstimate, now: Instant) {
        let now = self.ticks(now);
        let ScheduledPool { rate_prior, census, newcomers, sample, .. } = self.pools.entry(pool).or_default();
        if activity.is_known() {
            activity.teach(rate_prior, 1.0);
            self.left_to_samples += usize::from(sample.is_some());
        } else {
            *newcomers += 1;
            self.newcomers += 1;
        }
        let bucket = Self::bucket(&activity, rate_prior, self.pace.price);
        census.join(bucket);
        self.users.insert(slot, ScheduledUser::new(pool, activity, bucket, now - self.min_interval));
        self.enqueue(slot);
    }

    /// Removes a user. A turn that is under way may still end; its report is ignored.
    pub fn leave(&mut self, slot: UserSlot) {
        match self.users.get_mut(slot) {
            Some(user) if user.state == SlotState::Busy => user.state = SlotState::Gone,
            Some(user) if user.state != SlotState::Gone => {
                self.dequeue(slot);
                self.forget(slot);
            }
            _ => {}
        }
    }

    fn forget(&mut self, slot: UserSlot) {
        if let Some(user) = self.users.remove(slot) {
            let pool = self.pools.entry(user.pool).or_default();
            pool.census.leave(user.bucket);
            if user.flags.has(UserFlags::TRIED) {
                self.left_to_samples -= usize::from(pool.sample.is_some());
            } else {
                pool.newcomers -= 1;
                self.newcomers -= 1;
            }
        }
    }

    /// Changes how a pool is polled. A new pool is polled in full.
    ///
    /// From a sample to full, all its users count as seen at `seen`, because the export told their events until then.
    /// So none is late, and the most active are first. The cost does not depend on the number of users: the first user
    /// of each bucket moves. Only the first draw of a cycle reads all users once. A pool that is followed no longer
    /// goes back to full, or its sample would go on looking for users.
    pub fn set_mode(&mut self, slot: PoolSlot, mode: PollMode, seen: Instant, now: Instant) {
        let (seen, now) = (self.ticks(seen), self.ticks(now));
        let pool = self.pools.entry(slot).or_default();
        let before = pool.access_by_worth();
        let users = pool.census.total() - pool.newcomers;
        match (mode, &mut pool.sample) {
            (PollMode::Full, None) => return,
            (PollMode::Full, Some(sample)) => {
                self.samples.remove(&(sample.due, slot));
                pool.sample = None;
                self.left_to_samples -= users;
                // The time since the latest poll says nothing of the budget.
                self.pace.latest = None;
                self.established.seen_until(slot, seen);
                self.crowd.seen_until(slot, seen);
            }
            (PollMode::Sample { per_second, .. }, Some(sample)) => {
                self.samples.remove(&(sample.due, slot));
                sample.set_rate(per_second, now);
            }
            (PollMode::Sample { per_second, seed }, sample @ None) => {
                *sample = Some(Sample::new(per_second, seed, now));
                self.left_to_samples += users;
            }
        }
        if let Some(sample) = pool.sample.as_ref().filter(|_| !pool.closed) {
            self.samples.insert((sample.due, slot));
        }
        let change = (before, pool.access_by_worth());
        if change.0 != change.1 {
            self.established.set_access(slot, change, &self.users);
            self.crowd.set_access(slot, change, &self.users);
        }
    }

    /// The number of a pool's users that no poll has answered since then, except users that rest. After an outage the
    /// export does not tell what it lost, so a pool stays in full until this is 0. Reads all users: about 10 ms for a
    /// million.
    pub fn unpolled(&self, slot: PoolSlot, since: Instant) -> usize {
        let Some(first) = self.first else { return 0 };
        let (since, put) = (ticks(first, since), Put::new(self.max_interval));
        let unpolled = |user: &ScheduledUser| user.pool == slot && put.latest_poll(user) < since;
        self.users.iter().filter(|(_, user)| unpolled(user) && user.state != SlotState::Resting).count()
    }

    /// Whether the latest turn of a user was a look at an event in progress, and not a poll of the user for its own
    /// sake.
    pub fn is_look(&self, slot: UserSlot) -> bool {
        self.users.get(slot).is_some_and(|user| user.flags.has(UserFlags::LOOKED))
    }

    /// Computes the round and the delays that a budget of `per_second` calls per second (above 0) gives. The delays of
    /// the events that are found until the next forecast are compared with this one.
    pub fn forecast(&mut self, per_second: f64) -> Forecast {
        let for_polls = per_second * self.call_use.share_of_polls();
        let share = count(self.polled_in_full()) / for_polls / seconds(self.max_interval);
        let limits = Limits { least: seconds(self.min_interval), kept: self.kept_interval(share) };
        let in_full = self.pools.iter().filter(|(_, pool)| pool.sample.is_none());
        let pools: Vec<_> = in_full.map(|(slot, pool)| (*slot, &pool.census)).collect();
        let mut forecast = forecast::forecast(&pools, per_second, for_polls, limits);
        let samples = self.pools.iter().filter_map(|(slot, pool)| Some((*slot, pool.sample_round()?)));
        forecast.sample_rounds = samples.collect();
        for (slot, delay) in &mut forecast.delays {
            *delay = self.pools.entry(*slot).or_default().calibration.calibrate(*delay);
        }
        forecast
    }

    /// The calls of all turns so far, by their purpose.
    pub fn call_use(&self) -> CallUse {
        self.call_use
    }

    /// The activity of a user at `now`, if no event came since its latest answered poll. Unknown for an absent user.
    pub fn activity(&self, slot: UserSlot, now: Instant) -> ActivityEstimate {
        let (Some(first), Some(user)) = (self.first, self.users.get(slot)) else { return ActivityEstimate::UNKNOWN };
        user.activity.aged(user.silence(ticks(first, now)))
    }

    /// The mean number of new events to expect from a poll of this user. None before its first answer and after a
    /// failure, because the time since its last poll is then unknown.
    pub fn expected(&self, slot: UserSlot, now: Instant) -> Option<f64> {
        let user = self.users.get(slot).filter(|user| user.flags.has(UserFlags::ANSWERED))?;
        let outlook = user.activity.expected(&self.pools.get(&user.pool)?.rate_prior);
        let polled = Put::new(self.max_interval).latest_poll(user);
        Some(outlook.events_within(seconds(ticks(self.first?, now) - polled).max(0.0)))
    }

    /// Decides which user has the next turn. The user is busy until [`Schedule::ended`].
    pub fn next(&mut self, now: Instant, allowed: Allowed) -> Option<(UserSlot, Lane)> {
        let now = self.ticks(now);
        self.wake(now);
        let backlog = self.next_backlog(allowed);
        let may_poll = allowed.live && (backlog.is_none() || self.turns.backlog_debt > 0);
        let poll = if may_poll { self.next_poll_or_sample(now) } else { None };
        let (slot, lane) = match (poll, backlog) {
            (Some(poll), _) => (self.chosen(poll, now), Lane::Poll),
            (None, backlog) => (backlog?, Lane::Backlog),
        };
        self.charge(lane, 1);
        match (lane, &poll) {
            (Lane::Poll, Some(Choice::Look(_))) => self.call_use.look(),
            (Lane::Poll, Some(Choice::Sample(_))) => self.call_use.sample(),
            (Lane::Poll, _) => self.call_use.poll(),
            (Lane::Backlog, _) => self.call_use.backlog(1),
        }
        self.dequeue(slot);
        let user = self.users.get_mut(slot)?;
        user.state = SlotState::Busy;
        user.flags.set(UserFlags::LOOKED, lane == Lane::Poll && matches!(poll, Some(Choice::Look(_))));
        user.flags.set(UserFlags::LOOK_AFTER, false);
        let pool = user.pool;
        self.pools.entry(pool).or_default().busy += 1;
        self.settle(pool);
        Some((slot, lane))
    }

    /// The time at which the next user will be due, if nothing else happens before; None while no user waits.
    pub fn next_at(&self, now: Instant, allowed: Allowed) -> Option<Instant> {
        let first = self.first?;
        let oldest = self.all_buckets().filter_map(RateBuckets::oldest_seen).min();
        let due = oldest.map(|polled| polled + self.min_interval);
        let sample = self.samples.first().map(|(due, _)| *due);
        let polls = [due, self.looks.first_key(), sample].into_iter().filter(|_| allowed.live);
        let changes = [self.held.first().map(|(until, _)| *until), self.resting.first().map(|(until, _)| *until)];
        let earliest = polls.chain(changes).flatten().min().map(|moment| instant(first, moment));
        let backlog = self.next_backlog(allowed).map(|_| now);
        [earliest, backlog].into_iter().flatten().min()
    }

    /// Reports how a turn ended.
    pub fn ended(&mut self, slot: UserSlot, lane: Lane, ended: TurnEnded<'_>, now: Instant) {
        let first = *self.first.get_or_insert(now);
        let now = ticks(first, now);
        // An event that has waited for longer was found after a pause, which says nothing of the delay that comes.
        let counted_until = Duration::try_from_secs_f64(2.0 * self.kept_interval(self.round_share()));
        let put = Put::new(self.max_interval);
        let Some(user) =
            self.users.get_mut(slot).filter(|user| matches!(user.state, SlotState::Busy | SlotState::Gone))
        else {
            return;
        };
        let pool_slot = user.pool;
        let pool = self.pools.entry(pool_slot).or_default();
        pool.busy = pool.busy.saturating_sub(1);
        if !matches!(ended, TurnEnded::Postponed) {
            pool.in_trouble = false;
        }
        if user.state == SlotState::Gone {
            self.forget(slot);
            return self.settle(pool_slot);
        }
        user.state = SlotState::Waiting;
        if !matches!(ended, TurnEnded::Postponed) {
            if !user.flags.has(UserFlags::TRIED) {
                user.flags.set(UserFlags::TRIED, true);
                pool.newcomers -= 1;
                self.newcomers -= 1;
                self.left_to_samples += usize::from(pool.sample.is_some());
            }
            if self.newcomers == 0 {
                user.flags.set(UserFlags::ESTABLISHED, true);
            }
        }
        match ended {
            TurnEnded::Answered(answer) => {
                let further_calls = answer.calls.saturating_sub(1);
                // The first page of a user shows its past.
                if lane == Lane::Backlog || user.flags.has(UserFlags::ANSWERED) {
                    pool.calibration.found(answer.found, counted_until.unwrap_or(Duration::MAX), now);
                }
                if lane == Lane::Poll {
                    pool.learn_from_poll(user, answer, (self.pace.price, put), now);
                    self.call_use.further(further_calls);
                } else {
                    self.call_use.backlog(further_calls);
                }
                // The minimum interval holds for looks as well. A look that is due still goes before the round.
                let earliest = put.latest_poll(user) + self.min_interval;
                let asked = if user.flags.has(UserFlags::LOOK_AFTER) { user.look } else { NEVER };
                let look = answer.next_look.map_or(NEVER, |look| ticks(first, look)).min(asked);
                user.look = if look == NEVER { NEVER } else { look.max(earliest) };
                user.flags.set(UserFlags::LOOK_AFTER, false);
                user.flags.set_backlog(answer.backlog);
                self.tickets = self.tickets.wrapping_add(1);
                user.ticket = self.tickets;
                self.charge(lane, further_calls);
            }
            TurnEnded::Postponed => {}
            TurnEnded::Failed { pause } => {
                user.rest(nanos(pause).max(self.min_interval), now);
                if pool.sample.is_some() && !user.activity.is_known() {
                    // Its turn was its first poll, which a sample would make up for in days.
                    user.flags.set(UserFlags::LOOK_AFTER, true);
                }
            }
        }
        self.settle(pool_slot);
        self.enqueue(slot);
    }

    /// Holds a pool back until a time. Afterwards one user at a time probes it, until one is answered.
    pub fn hold(&mut self, slot: PoolSlot, until: Instant) {
        let until = self.ticks(until);
        let pool = self.pools.entry(slot).or_default();
        pool.in_trouble = true;
        if let Some(before) = pool.held_until.replace(until) {
            self.held.remove(&(before, slot));
        }
        self.held.insert((until, slot));
        self.settle(slot);
    }

    /// Releases the held pools and the resting users whose time has come.
    fn wake(&mut self, now: Ticks) {
        while let Some(&(until, pool)) = self.held.first().filter(|(until, _)| *until <= now) {
            self.held.remove(&(until, pool));
            self.pools.entry(pool).or_default().held_until = None;
            self.settle(pool);
        }
        while let Some(&(until, user)) = self.resting.first().filter(|(until, _)| *until <= now) {
            self.resting.remove(&(until, user));
            if let Some(user) = self.users.get_mut(user) {
                let look = if user.flags.has(UserFlags::LOOK_AFTER) { until } else { NEVER };
                user.flags.set(UserFlags::LOOK_AFTER, false);
                (user.state, user.look) = (SlotState::Waiting, look);
            }
            self.enqueue(user);
        }
    }

    /// The user that a poll is for. A sample takes every other poll at most, so that many samples leave the other pools
    /// half of the budget.
    fn next_poll_or_sample(&mut self, now: Ticks) -> Option<Choice> {
        let poll = if self.turns.sample_was_last { self.next_poll(now) } else { None };
        poll.or_else(|| self.draw(now)).or_else(|| self.next_poll(now))
    }

    /// Draws a user from the samples that are due.
    fn draw(&mut self, now: Ticks) -> Option<Choice> {
        let seen_before = now - self.min_interval;
        while let Some(&(due, slot)) = self.samples.first().filter(|(due, _)| *due <= now) {
            self.samples.remove(&(due, slot));
            let pool = self.pools.entry(slot).or_default();
            let may_poll = pool.census.total() > pool.newcomers;
            let Some(sample) = &mut pool.sample else { continue };
            // A newcomer is polled anyway, and so is a user that was polled just now.
            let may_come = |user: &ScheduledUser| {
                let put = Put::new(self.max_interval);
                user.state == SlotState::Waiting
                    && user.flags.has(UserFlags::TRIED)
                    && put.latest_poll(user) <= seen_before
            };
            let user = if may_poll { sample.draw(slot, &self.users, now, may_come) } else { None };
            if user.is_none() {
                sample.skip(now);
            }
            self.samples.insert((sample.due, slot));
            if let Some(user) = user {
                return Some(Choice::Sample(user));
            }
        }
        None
    }

    /// The user that a poll would be for, samples aside.
    fn next_poll(&self, now: Ticks) -> Option<Choice> {
        let look =
            || self.looks.first(&self.users).filter(|(look, _)| *look <= now).map(|(_, user)| Choice::Look(user));
        let turn = || self.turn(now, &[&self.established, &self.crowd, &self.new]);
        if self.is_turn_of_the_established()
            && let Some(choice) = self.turn(now, &[&self.established])
        {
            return Some(choice);
        }
        if self.turns.look_was_last { turn().or_else(look) } else { look().or_else(turn) }
    }

    /// Whether the crowd has had its half of the turns.
    fn is_turn_of_the_established(&self) -> bool {
        self.newcomers > 0 && self.turns.crowd_was_last
    }

    /// The user of these buckets that has the next turn.
    fn turn(&self, now: Ticks, bucket_sets: &[&RateBuckets]) -> Option<Choice> {
        self.oldest(now, bucket_sets).or_else(|| self.worthiest(now, bucket_sets))
    }

    fn worthiest(&self, now: Ticks, bucket_sets: &[&RateBuckets]) -> Option<Choice> {
        let worthiest =
            bucket_sets.iter().filter_map(|buckets| buckets.worthiest(now, now - self.min_interval, &self.users));
        let (user, worth) = worthiest.max_by(|(_, one), (_, other)| one.total_cmp(other))?;
        Some(Choice::Worthiest(user, worth))
    }

    /// The oldest user, if its turn has come: in the sleepers' round, which is spread evenly over the kept interval, or
    /// because it would miss the kept interval.
    fn oldest(&self, now: Ticks, bucket_sets: &[&RateBuckets]) -> Option<Choice> {
        let (polled, user) = bucket_sets.iter().filter_map(|buckets| buckets.oldest(&self.users)).min()?;
        let age = now - polled;
        let part = seconds(age) / self.kept_interval(self.round_share());
        let may_be_late = self.turns.oldest_in_a_row >= Self::LATE_IN_A_ROW && self.round_share() <= 0.75;
        let in_the_round = self.turns.sleepers_due >= 1.0 && part >= Self::EARLY;
        let due = in_the_round || (part >= Self::LATE && !may_be_late);
        (due && age >= self.min_interval).then_some(Choice::Oldest(user))
    }

    /// The kept interval in seconds, where a round through all users takes this share of the budget. It is
    /// `max_interval` while that is within reach. Beyond it the round takes less and less of the budget, down to half,
    /// and then lasts twice as long as it would alone.
    fn kept_interval(&self, share: f64) -> f64 {
        forecast::kept_interval(seconds(self.max_interval), share)
    }

    /// The share of the budget that polling each user once in `max_interval` takes.
    fn round_share(&self) -> f64 {
        count(self.polled_in_full()) * self.pace.gap / seconds(self.max_interval)
    }

    /// The number of users that are polled for their worth.
    fn polled_in_full(&self) -> usize {
        self.users.len() - self.left_to_samples
    }

    /// The share of the budget that polling the sleepers in time takes.
    fn sleepers_share(&self) -> f64 {
        let round = self.kept_interval(self.round_share()) * Self::ROUND;
        let sleepers = self.all_buckets().map(|buckets| buckets.sleepers(self.pace.price, round)).sum();
        count(sleepers) * self.pace.gap / round
    }

    fn all_buckets(&self) -> impl Iterator<Item = &RateBuckets> {
        [&self.established, &self.crowd, &self.new].into_iter()
    }

    fn next_backlog(&self, allowed: Allowed) -> Option<UserSlot> {
        let live = || self.live_backlog.first(&self.users).filter(|_| allowed.live);
        let history = || self.history_backlog.first(&self.users).filter(|_| allowed.history);
        live().or_else(history).map(|(_, user)| user)
    }

    /// Accounts for a choice and answers with its user.
    fn chosen(&mut self, choice: Choice, now: Ticks) -> UserSlot {
        let (Choice::Worthiest(user, _) | Choice::Oldest(user) | Choice::Look(user) | Choice::Sample(user)) = choice;
        self.turns.sample_was_last = matches!(choice, Choice::Sample(_));
        if self.turns.sample_was_last {
            return user;
        }
        let is_established = self.users.get(user).is_some_and(|user| user.flags.has(UserFlags::ESTABLISHED));
        // The turn of an established user between two of the crowd does not change whether a look is next in the crowd.
        if !(is_established && self.is_turn_of_the_established()) {
            self.turns.look_was_last = matches!(choice, Choice::Look(_));
        }
        self.turns.crowd_was_last = !is_established;
        if let Choice::Look(user) = choice {
            return user;
        }
        let pace = &mut self.pace;
        if let Some(latest) = pace.latest.replace(now) {
            pace.samples = (pace.samples + 1.0).min(Self::AVERAGED);
            pace.gap += (seconds(now - latest).clamp(0.0, Self::GAP_MAX) - pace.gap) / pace.samples;
        }
        // Polls that are due to the sleepers and cannot be made do not add up without end.
        self.turns.sleepers_due = (self.turns.sleepers_due + self.sleepers_share()).min(2.0);
        match choice {
            Choice::Worthiest(user, worth) => {
                self.turns.oldest_in_a_row = 0;
                self.pace.price += (worth - self.pace.price) / self.pace.samples.max(1.0);
                user
            }
            Choice::Oldest(user) | Choice::Look(user) | Choice::Sample(user) => {
                self.turns.oldest_in_a_row = self.turns.oldest_in_a_row.saturating_add(1);
                self.turns.sleepers_due = (self.turns.sleepers_due - 1.0).max(-1.0);
                user
            }
        }
    }

    fn charge(&mut self, lane: Lane, calls: u32) {
        let debt = &mut self.turns.backlog_debt;
        *debt = match lane {
            Lane::Poll => debt.saturating_sub(calls),
            Lane::Backlog => {
                debt.saturating_add(calls.saturating_mul(Self::POLLS_PER_BACKLOG)).min(Self::BACKLOG_DEBT_MAX)
            }
        };
    }

    /// The bucket of a user, by the rate to expect until it will be polled at this price.
    fn bucket(activity: &ActivityEstimate, rate_prior: &RatePrior, price: f64) -> u8 {
        let rate = if activity.is_known() {
            let outlook = activity.outlook(rate_prior);
            // The interval depends on the rate, and the rate on the interval. A few steps settle both within a bucket.
            let mut rate = outlook.rate_over(0.0);
            for _ in 0..6 {
                rate = outlook.rate_over(price / rate.sqrt());
            }
            rate
        } else {
            rate_prior.mean() * Self::NEWCOMER
        };
        RateBuckets::bucket(rate)
    }

    /// Opens or closes a pool as its state demands.
    fn settle(&mut self, slot: PoolSlot) {
        let pool = self.pools.entry(slot).or_default();
        let closed = pool.held_until.is_some() || (pool.in_trouble && pool.busy > 0);
        if pool.closed != closed {
            let before = (pool.access(), pool.access_by_worth());
            pool.closed = closed;
            let (change, by_worth) = ((before.0, pool.access()), (before.1, pool.access_by_worth()));
            if by_worth.0 != by_worth.1 {
                self.established.set_access(slot, by_worth, &self.users);
                self.crowd.set_access(slot, by_worth, &self.users);
            }
            self.new.set_access(slot, change, &self.users);
            for queue in [&mut self.looks, &mut self.live_backlog, &mut self.history_backlog] {
                queue.set_access(slot, change, &self.users);
            }
            match &pool.sample {
                Some(sample) if closed => _ = self.samples.remove(&(sample.due, slot)),
                Some(sample) => _ = self.samples.insert((sample.due, slot)),
                None => {}
            }
        }
    }

    fn enqueue(&mut self, slot: UserSlot) {
        self.update_queues(slot, true);
    }

    fn dequeue(&mut self, slot: UserSlot) {
        self.update_queues(slot, false);
    }

    /// Puts a user into every queue that it belongs in, or removes it from them.
    fn update_queues(&mut self, slot: UserSlot, put: bool) {
        let Some(user) = self.users.get(slot) else { return };
        let &ScheduledUser { polled, look, ticket, pool, bucket, state, flags, .. } = user;
        if state == SlotState::Resting {
            let _changed = if put { self.resting.insert((look, slot)) } else { self.resting.remove(&(look, slot)) };
            return;
        }
        let of_pool = self.pools.get(&pool);
        let access = of_pool.map_or(PoolAccess::Open, ScheduledPool::access);
        let by_worth = of_pool.map_or(PoolAccess::Open, ScheduledPool::access_by_worth);
        let users = &mut self.users;
        let change = if put { RateBuckets::put } else { RateBuckets::remove };
        // The flags change only in turns, so a user is removed from the same buckets that it was put into.
        let (buckets, of_bucket) = if !flags.has(UserFlags::TRIED) {
            (&mut self.new, access)
        } else if flags.has(UserFlags::ESTABLISHED) {
            (&mut self.established, by_worth)
        } else {
            (&mut self.crowd, by_worth)
        };
        change(buckets, bucket, (polled, pool, slot), of_bucket, users);
        let backlog = match flags.backlog() {
            Some(Backlog::Live) => Some(&mut self.live_backlog),
            Some(Backlog::History) => Some(&mut self.history_backlog),
            None => None,
        };
        let look = (look != NEVER).then_some((look, &mut self.looks));
        let change = if put { PoolQueue::put } else { PoolQueue::remove };
        for (key, queue) in look.into_iter().chain(backlog.map(|queue| (ticket.into(), queue))) {
            change(queue, (key, pool, slot), access, users);
        }
    }

    fn ticks(&mut self, now: Instant) -> Ticks {
        ticks(*self.first.get_or_insert(now), now)
    }
}

impl ScheduledPool {
    /// The access to its users in the queues of turns that no sample replaces.
    fn access(&self) -> PoolAccess {
        if self.closed { PoolAccess::Closed } else { PoolAccess::Open }
    }

    /// The access to its users, except newcomers, in the order by worth.
    fn access_by_worth(&self) -> PoolAccess {
        if self.sample.is_some() { PoolAccess::LeftOut } else { self.access() }
    }

    /// The time in which its sample comes to each user once; None while it is polled in full or has no users.
    fn sample_round(&self) -> Option<Duration> {
        let users = self.census.len();
        let per_second = self.sample.as_ref()?.per_second();
        (users > 0.0).then(|| Duration::try_from_secs_f64(users / per_second).unwrap_or(Duration::MAX))
    }

    /// Learns from a user's poll, for the user and for the pool, and moves the user to its new bucket.
    fn learn_from_poll(
        &mut self,
        user: &mut ScheduledUser,
        answer: PollAnswer<'_>,
        (price, put): (f64, Put),
        now: Ticks,
    ) {
        let silence = user.silence(now);
        let unpolled = seconds(now - put.latest_poll(user)).max(0.0);
        let lesson = if user.activity.is_known() { unpolled / Schedule::LESSON } else { 1.0 };
        user.activity.polled(silence, answer.found, answer.whole);
        user.activity.teach(&mut self.rate_prior, lesson.min(1.0));
        self.census.leave(user.bucket);
        user.bucket = Schedule::bucket(&user.activity, &self.rate_prior, price);
        self.census.join(user.bucket);
        user.polled = now;
        user.put_off = 0;
        user.flags.set(UserFlags::ANSWERED, true);
    }
}

/// A number of users as a float, exact up to 2^32.
fn count(users: usize) -> f64 {
    f64::from(u32::try_from(users).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: PoolSlot = PoolSlot(0);
    const ALL: Allowed = Allowed { live: true, history: true };
    const MIN_INTERVAL: Duration = Duration::from_secs(15);
    const MAX_INTERVAL: Duration = Duration::from_secs(3600);
    const NOTHING: PollAnswer = PollAnswer { next_look: None, backlog: None, calls: 1, found: &[], whole: true };
    const DONE: TurnEnded = TurnEnded::Answered(NOTHING);

    fn schedule(users: u32, now: Instant) -> Schedule {
        let mut schedule = Schedule::new(Intervals { min: MIN_INTERVAL, max: MAX_INTERVAL });
        (0..users).for_each(|user| schedule.join(POOL, UserSlot(user), ActivityEstimate::UNKNOWN, now));
        schedule
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn everybody_has_a_turn_before_anybody_has_two() {
        let start = Instant::now();
        let mut schedule = schedule(100, start);
        let mut seen = vec![];
        for step in 0..300 {
            let now = start + seconds(step);
            let (user, lane) = schedule.next(now, ALL).expect("work-conserving");
            seen.push(user.0);
            schedule.ended(user, lane, DONE, now);
        }
        for round in seen.chunks(100) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_crowd_takes_half_of_the_turns_while_others_are_due_and_all_of_them_when_nobody_is() {
        let start = Instant::now();
        let mut schedule = schedule(20, start);
        let of_the_crowd = |schedule: &mut Schedule, after: u64, turns: u32| -> u32 {
            let now = start + seconds(after);
            let polls = (0..turns).map(|_| {
                let (user, lane) = schedule.next(now, ALL).expect("a user is due");
                schedule.ended(user, lane, DONE, now);
                u32::from(user.0 >= 20)
            });
            polls.sum()
        };
        // The first round, in which all users are newcomers, and one more.
        assert_eq!((of_the_crowd(&mut schedule, 0, 20), of_the_crowd(&mut schedule, 20, 20)), (0, 0));
        (20..120).for_each(|user| schedule.join(POOL, UserSlot(user), ActivityEstimate::UNKNOWN, start + seconds(20)));
        assert_eq!(of_the_crowd(&mut schedule, 34, 10), 10, "no other user is due");
        assert_eq!(of_the_crowd(&mut schedule, 36, 40), 20, "every other turn");
        assert_eq!(of_the_crowd(&mut schedule, 36, 20), 20, "no other user is due any more");
        // A user that was polled once stays in the crowd while others of it were not polled.
        assert_eq!(of_the_crowd(&mut schedule, 60, 40), 20);
    }

    #[test]
    fn nobody_is_polled_more_often_than_the_minimum_interval() {
        let start = Instant::now();
        let mut schedule = schedule(1, start);
        let (user, lane) = schedule.next(start, ALL).unwrap();
        assert_eq!(schedule.next(start, ALL), None, "busy");
        schedule.ended(user, lane, DONE, start);
        assert_eq!(schedule.next(start + seconds(14), ALL), None);
        assert_eq!(schedule.next_at(start, ALL), Some(start + MIN_INTERVAL));
        assert!(schedule.next(start + MIN_INTERVAL, ALL).is_some());
    }

    #[test]
    fn a_look_goes_before_the_round_but_does_not_starve_it() {
        let start = Instant::now();
        let mut schedule = schedule(50, start);
        let (user, lane) = schedule.next(start, ALL).unwrap();
        let look = start + seconds(60);
        schedule.ended(user, lane, TurnEnded::Answered(PollAnswer { next_look: Some(look), ..NOTHING }), start);
        let now = start + seconds(61);
        let first_two = [schedule.next(now, ALL).unwrap().0, schedule.next(now, ALL).unwrap().0];
        assert!(first_two.contains(&user), "{first_two:?}");
        assert!(first_two.iter().any(|other| *other != user), "{first_two:?}");
    }

    #[test]
    fn backlog_takes_what_is_spare_and_a_quarter_when_nothing_is() {
        let start = Instant::now();
        let mut schedule = schedule(40, start);
        let (walker, lane) = schedule.next(start, ALL).unwrap();
        let open = TurnEnded::Answered(PollAnswer { backlog: Some(Backlog::History), ..NOTHING });
        schedule.ended(walker, lane, open, start);
        let mut backlog = 0;
        for _ in 0..32 {
            let (user, lane) = schedule.next(start, ALL).unwrap();
            backlog += u32::from(lane == Lane::Backlog);
            schedule.ended(user, lane, if user == walker { open } else { DONE }, start);
        }
        assert_eq!(backlog, 8, "a quarter while polls wait");
        let no_history = Allowed { live: true, history: false };
        while let Some((user, lane)) = schedule.next(start, no_history) {
            assert_eq!(lane, Lane::Poll);
            schedule.ended(user, lane, DONE, start);
        }
        assert_eq!(schedule.next_at(start, no_history), Some(start + MIN_INTERVAL));
    }

    #[test]
    fn a_pool_in_trouble_is_held_and_then_probed_by_one_while_the_others_go_on() {
        let start = Instant::now();
        let mut schedule = schedule(3, start);
        let other = UserSlot(3);
        schedule.join(PoolSlot(1), other, ActivityEstimate::UNKNOWN, start + seconds(1));
        let (failed, lane) = schedule.next(start, ALL).unwrap();
        schedule.hold(POOL, start + seconds(30));
        schedule.ended(failed, lane, TurnEnded::Postponed, start);
        assert_eq!(schedule.next(start + seconds(2), ALL), Some((other, Lane::Poll)));
        assert_eq!(schedule.next(start + seconds(29), ALL), None);
        let later = start + seconds(30);
        let (probe, lane) = schedule.next(later, ALL).unwrap();
        assert_eq!(schedule.next(later, ALL), None, "one probe at a time");
        schedule.ended(probe, lane, DONE, later);
        assert!(schedule.next(later, ALL).is_some() && schedule.next(later, ALL).is_some(), "and then every user");
    }

    #[test]
    fn who_left_is_not_asked_again_and_a_late_report_is_ignored() {
        let start = Instant::now();
        let mut schedule = schedule(2, start);
        let (user, lane) = schedule.next(start, ALL).unwrap();
        schedule.leave(user);
        schedule.ended(user, lane, DONE, start);
        let (last, lane) = schedule.next(start, ALL).unwrap();
        assert_ne!(last, user);
        schedule.ended(last, lane, TurnEnded::Failed { pause: seconds(3600) }, start);
        assert_eq!(schedule.next(start + seconds(3599), ALL), None);
    }
}
