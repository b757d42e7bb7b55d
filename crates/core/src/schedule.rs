//! Whom to ask next, and when again.
//!
//! Calls are the scarce good, so they go where the delay is. If a user's events come at a rate λ and it was last polled an
//! age ago, polling it now is worth λ·age²/2: the delay its unseen events have gathered, which would only go on growing.
//! Whoever is worth most goes first. With known rates and a fixed budget this polls everybody in proportion to √λ, which is
//! the optimum; with rates that are learnt (`activity`) from what polls find, against what is usual in the pool (`rate_prior`), it
//! follows bursts as well. Nobody needs to know the budget: the worth at which users are served, the *price*, follows from it.
//!
//! Users of about one rate stand on one rung of a rate_buckets, longest unseen first: the worthiest of a rung is its first, so that
//! a decision compares some 50 firsts, however many users there are. `docs/scheduling.md` has the reasons and the figures.
//!
//! Around that stand five rules:
//! - Nobody is polled more often than `min_interval`; but while anybody is due, a call is made.
//! - Whoever was not seen for `max_interval` goes before the worthy, as long as the budget can keep that up for everybody.
//! - A look at an event in progress goes before its user's turn, in every other poll at most.
//! - A crowd of newcomers takes half of the turns at most while anybody is due who was known before it came.
//! - Backlog has a lane of its own that takes what is spare, and a quarter of the calls when nothing is.
//!
//! A pool in trouble is held back as a whole, then probed by one user at a time, so that its failures cost the other pools
//! nothing. Pure: time comes in as an argument; there is no chance in it, so that the same reports give the same decisions.

mod activity;
mod forecast;
mod heap;
mod pool_queue;
mod rate_buckets;
mod rate_prior;
mod ticks;
mod user;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use self::activity::{ActivityEstimate, Found};
pub use self::forecast::Forecast;
use self::forecast::Limits;
use self::pool_queue::{Few, PoolQueue};
use self::rate_buckets::{Census, RateBuckets};
use self::rate_prior::RatePrior;
use self::ticks::{NEVER, Ticks, instant, nanos, seconds, ticks};
use self::user::{Flags, State, User, Users};

/// A user's place. Whoever gives places gives one to another user only after this one has left and its last turn has ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UserSlot(pub u32);

/// A pool's place among the pools that share this schedule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolSlot(pub u32);

/// What a user's turn is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Poll the user from the top.
    Poll,
    /// Go on with a stretch of its history.
    Backlog,
}

/// What is left open of a user's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backlog {
    /// A stretch that holds live events.
    Live,
    /// Only events from before the user was followed.
    History,
}

/// How a turn ended, as far as the schedule cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended<'a> {
    /// The service answered for this user.
    Answered(Answer<'a>),
    /// Nothing came of it through no fault of the user's (throttled, pool or endpoint in trouble): as it was before.
    Postponed,
    /// The user itself cannot be read: not again before this pause.
    Failed {
        /// How long to leave the user alone.
        pause: Duration,
    },
}

/// What a turn brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer<'a> {
    /// When an event in progress wants another look.
    pub next_look: Option<Instant>,
    /// What is left open.
    pub backlog: Option<Backlog>,
    /// Calls it took.
    pub calls: u32,
    /// Of a poll: the events that were not known before. Of a user's first poll: every event of the page, history too.
    pub found: &'a [Found],
    /// Of a user's first poll: whether the page was the user's whole history.
    pub whole: bool,
}

/// What may be begun at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Polls and backlog with live events.
    pub live: bool,
    /// Backlog of history.
    pub history: bool,
}

/// How often users are polled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Intervals {
    /// No user more often than this (`poll.min_interval`).
    pub min: Duration,
    /// The objective for everybody (`poll.max_interval`).
    pub max: Duration,
}

#[derive(Debug, Default)]
struct Pool {
    rate_prior: RatePrior,
    census: Census,
    busy: usize,
    in_trouble: bool,
    held_until: Option<Ticks>,
    /// Whether a call may be made for it: not while it is held, and while it is in trouble one at a time.
    closed: bool,
}

/// The schedule of all pools that share one budget.
#[derive(Debug)]
pub struct Schedule {
    min_interval: Ticks,
    max_interval: Ticks,
    /// The first moment; everything is told from here.
    first: Option<Instant>,
    users: Users,
    pools: BTreeMap<PoolSlot, Pool>,
    /// Everybody who waits and is established.
    rate_buckets: RateBuckets,
    /// Everybody else who waits: newcomers, and those who came with the latest of them. They are one crowd until each was asked
    /// once, so that those who were first do not count as others for those who follow.
    crowd: RateBuckets,
    /// Newcomers: nothing was known of them when they joined, and they were not asked yet.
    newcomers: usize,
    /// Those of them who have an event in progress to look at.
    looks: PoolQueue<Few>,
    live_backlog: PoolQueue<Few>,
    history_backlog: PoolQueue<Few>,
    resting: BTreeSet<(Ticks, UserSlot)>,
    held: BTreeSet<(Ticks, PoolSlot)>,
    tickets: u32,
    pace: Pace,
    turns: Turns,
}

/// What the schedule has learnt of the budget, from its own decisions.
#[derive(Debug, Default)]
struct Pace {
    /// Seconds between two polls that are not looks.
    gap: f64,
    /// √λ · age of those who are polled for their worth.
    price: f64,
    latest: Option<Ticks>,
    samples: f64,
}

/// Who went before whom, so that nobody always does.
#[derive(Debug, Default)]
struct Turns {
    look_was_last: bool,
    /// The latest poll was the crowd's: the next is for those who are established, if one of them is due.
    crowd_was_last: bool,
    /// Polls that the sleepers have coming.
    sleepers_due: f64,
    /// Polls of the oldest in a row.
    oldest_in_a_row: u32,
    /// Polls that go before the next call for backlog.
    backlog_debt: u32,
}

/// Why a user is polled.
#[derive(Clone, Copy, Debug)]
enum Choice {
    Look(UserSlot),
    Oldest(UserSlot),
    /// With √λ · age.
    Worthiest(UserSlot, f64),
}

impl Schedule {
    /// While polls are waiting, each call for backlog is followed by so many for polls.
    const POLLS_PER_BACKLOG: u32 = 3;

    /// A long walk through backlog owes at most so many calls, or the lane would rest for hours after it.
    const BACKLOG_DEBT_MAX: u32 = 1000;

    /// How much more a newcomer is worth than an average user of its pool: its first page tells more than any later.
    const NEWCOMER: f64 = 4.0;

    /// The part of the interval that is to be kept in which the sleepers have their round.
    const ROUND: f64 = 0.97;

    /// The part of it after which the oldest goes first whatever the round: early enough for a call to be answered in time.
    const LATE: f64 = 0.985;

    /// The part of it before which the oldest need not be polled for the round's sake.
    const EARLY: f64 = 0.5;

    /// While three quarters of the budget or less keep the interval, of so many who are late one lets the worthiest go before:
    /// after a pause everybody is late.
    const LATE_IN_A_ROW: u32 = 3;

    /// Calls over which pace and price are averaged: a minute or so.
    const AVERAGED: f64 = 256.0;

    /// A longer gap between two polls is a pause, not the budget.
    const GAP_MAX: f64 = 60.0;

    /// Of an hour, what a user's poll teaches the pool: the time since its last, so that the active do not speak loudest.
    const LESSON: f64 = 3600.0;

    /// A schedule that keeps these intervals.
    pub fn new(intervals: Intervals) -> Self {
        Self {
            min_interval: nanos(intervals.min),
            max_interval: nanos(intervals.max.max(intervals.min)),
            first: None,
            users: Users::default(),
            pools: BTreeMap::new(),
            rate_buckets: RateBuckets::default(),
            crowd: RateBuckets::default(),
            newcomers: 0,
            looks: PoolQueue::default(),
            live_backlog: PoolQueue::default(),
            history_backlog: PoolQueue::default(),
            resting: BTreeSet::new(),
            held: BTreeSet::new(),
            tickets: 0,
            pace: Pace::default(),
            turns: Turns::default(),
        }
    }

    /// Takes a user in at a place that is free; it is due at once. Its backlog, if any, is known after its first turn. What
    /// was known of its activity is to be [aged](ActivityEstimate::aged) to the present.
    pub fn join(&mut self, pool: PoolSlot, slot: UserSlot, activity: ActivityEstimate, now: Instant) {
        let now = self.ticks(now);
        let Pool { rate_prior, census, .. } = self.pools.entry(pool).or_default();
        if activity.is_known() {
            activity.teach(rate_prior, 1.0);
        }
        let rung = Self::rung(&activity, rate_prior, self.pace.price);
        census.join(rung);
        self.newcomers += usize::from(!activity.is_known());
        self.users.insert(slot, User::new(pool, activity, rung, now - self.min_interval));
        self.enqueue(slot);
    }

    /// Takes a user out. A turn that is under way may end; its report is ignored.
    pub fn leave(&mut self, slot: UserSlot) {
        match self.users.get_mut(slot) {
            Some(user) if user.state == State::Busy => user.state = State::Gone,
            Some(user) if user.state != State::Gone => {
                self.dequeue(slot);
                self.forget(slot);
            }
            _ => {}
        }
    }

    fn forget(&mut self, slot: UserSlot) {
        if let Some(user) = self.users.remove(slot) {
            self.newcomers -= usize::from(!user.flags.has(Flags::TRIED));
            self.pools.entry(user.pool).or_default().census.leave(user.rung);
        }
    }

    /// What a budget of so many calls a second gives.
    pub fn forecast(&self, per_second: f64) -> Forecast {
        let pools: Vec<_> = self.pools.iter().map(|(slot, pool)| (*slot, &pool.census)).collect();
        let share = count(self.users.len()) / per_second / seconds(self.max_interval);
        let limits = Limits { least: seconds(self.min_interval), kept: self.kept_interval(share) };
        forecast::forecast(&pools, per_second, limits)
    }

    /// What is known of a user at present, if nothing happened since its latest answered poll.
    pub fn activity(&self, slot: UserSlot, now: Instant) -> ActivityEstimate {
        let (Some(first), Some(user)) = (self.first, self.users.get(slot)) else { return ActivityEstimate::UNKNOWN };
        user.activity.aged(silence(user, ticks(first, now)))
    }

    /// How many new events to expect of a poll of this user. None while nobody can say since when: before its first answer, and
    /// after a failure.
    pub fn expected(&self, slot: UserSlot, now: Instant) -> Option<f64> {
        let user = self.users.get(slot).filter(|user| user.flags.has(Flags::ANSWERED))?;
        let outlook = user.activity.expected(&self.pools.get(&user.pool)?.rate_prior);
        Some(outlook.events_within(silence(user, ticks(self.first?, now)).as_secs_f64()))
    }

    /// Decides whose turn it is. The user is busy until [`Schedule::ended`].
    pub fn next(&mut self, now: Instant, allowed: Allowed) -> Option<(UserSlot, Lane)> {
        let now = self.ticks(now);
        self.wake(now);
        let poll = if allowed.live { self.next_poll(now) } else { None };
        let backlog = self.next_backlog(allowed);
        let (slot, lane) = match (poll, backlog) {
            (Some(_), Some(user)) if self.turns.backlog_debt == 0 => (user, Lane::Backlog),
            (Some(poll), _) => (self.chosen(poll, now), Lane::Poll),
            (None, backlog) => (backlog?, Lane::Backlog),
        };
        self.charge(lane, 1);
        self.dequeue(slot);
        let user = self.users.get_mut(slot)?;
        user.state = State::Busy;
        let pool = user.pool;
        self.pools.entry(pool).or_default().busy += 1;
        self.settle(pool);
        Some((slot, lane))
    }

    /// When somebody will be due, if nothing else happens before; None while nobody waits.
    pub fn next_at(&self, now: Instant, allowed: Allowed) -> Option<Instant> {
        let first = self.first?;
        let oldest = self.rate_buckets().filter_map(RateBuckets::oldest_seen).min();
        let due = oldest.map(|polled| polled + self.min_interval);
        let polls = [due, self.looks.first_key()].into_iter().filter(|_| allowed.live);
        let changes = [self.held.first().map(|(until, _)| *until), self.resting.first().map(|(until, _)| *until)];
        let earliest = polls.chain(changes).flatten().min().map(|moment| instant(first, moment));
        let backlog = self.next_backlog(allowed).map(|_| now);
        [earliest, backlog].into_iter().flatten().min()
    }

    /// Reports how a turn ended.
    pub fn ended(&mut self, slot: UserSlot, lane: Lane, ended: Ended<'_>, now: Instant) {
        let first = *self.first.get_or_insert(now);
        let now = ticks(first, now);
        let Some(user) = self.users.get_mut(slot).filter(|user| matches!(user.state, State::Busy | State::Gone)) else {
            return;
        };
        let pool_slot = user.pool;
        let pool = self.pools.entry(pool_slot).or_default();
        pool.busy = pool.busy.saturating_sub(1);
        if !matches!(ended, Ended::Postponed) {
            pool.in_trouble = false;
        }
        if user.state == State::Gone {
            self.forget(slot);
            return self.settle(pool_slot);
        }
        user.state = State::Waiting;
        if !matches!(ended, Ended::Postponed) {
            self.newcomers -= usize::from(!user.flags.has(Flags::TRIED));
            user.flags.set(Flags::TRIED, true);
            if self.newcomers == 0 {
                user.flags.set(Flags::ESTABLISHED, true);
            }
        }
        match ended {
            Ended::Answered(answer) => {
                if lane == Lane::Poll {
                    let silence = silence(user, now);
                    let lesson = if user.activity.is_known() { silence.as_secs_f64() / Self::LESSON } else { 1.0 };
                    user.activity.polled(silence, answer.found, answer.whole);
                    user.activity.teach(&mut pool.rate_prior, lesson.min(1.0));
                    pool.census.leave(user.rung);
                    user.rung = Self::rung(&user.activity, &pool.rate_prior, self.pace.price);
                    pool.census.join(user.rung);
                    user.polled = now;
                    user.flags.set(Flags::ANSWERED, true);
                }
                // The minimum interval holds for looks too; being due, a look still goes before the round.
                let earliest = user.polled + self.min_interval;
                user.look = answer.next_look.map_or(NEVER, |look| ticks(first, look).max(earliest));
                user.backlog = answer.backlog;
                self.tickets = self.tickets.wrapping_add(1);
                user.ticket = self.tickets;
                self.charge(lane, answer.calls.saturating_sub(1));
            }
            Ended::Postponed => {}
            Ended::Failed { pause } => {
                user.state = State::Resting;
                // How long it was not asked stays known, though nothing was learnt in it.
                user.activity = user.activity.aged(silence(user, now));
                user.polled = now;
                user.flags.set(Flags::ANSWERED, false);
                user.look = now.saturating_add(nanos(pause).max(self.min_interval));
                user.backlog = None;
            }
        }
        self.settle(pool_slot);
        self.enqueue(slot);
    }

    /// Holds a pool back; afterwards one user at a time probes it until one is answered.
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

    /// Lets those go on whose time has come: pools that were held, users who rested.
    fn wake(&mut self, now: Ticks) {
        while let Some(&(until, pool)) = self.held.first().filter(|(until, _)| *until <= now) {
            self.held.remove(&(until, pool));
            self.pools.entry(pool).or_default().held_until = None;
            self.settle(pool);
        }
        while let Some(&(until, user)) = self.resting.first().filter(|(until, _)| *until <= now) {
            self.resting.remove(&(until, user));
            if let Some(user) = self.users.get_mut(user) {
                (user.state, user.look) = (State::Waiting, NEVER);
            }
            self.enqueue(user);
        }
    }

    /// Whom a poll would be for.
    fn next_poll(&self, now: Ticks) -> Option<Choice> {
        let look =
            || self.looks.first(&self.users).filter(|(look, _)| *look <= now).map(|(_, user)| Choice::Look(user));
        let turn = || self.turn(now, &[&self.rate_buckets, &self.crowd]);
        if self.is_turn_of_the_established()
            && let Some(choice) = self.turn(now, &[&self.rate_buckets])
        {
            return Some(choice);
        }
        if self.turns.look_was_last { turn().or_else(look) } else { look().or_else(turn) }
    }

    /// Whether the crowd has had its half.
    fn is_turn_of_the_established(&self) -> bool {
        self.newcomers > 0 && self.turns.crowd_was_last
    }

    /// Whose turn it is of those on these rate_buckets.
    fn turn(&self, now: Ticks, rate_buckets: &[&RateBuckets]) -> Option<Choice> {
        self.oldest(now, rate_buckets).or_else(|| self.worthiest(now, rate_buckets))
    }

    fn worthiest(&self, now: Ticks, rate_buckets: &[&RateBuckets]) -> Option<Choice> {
        let worthiest = rate_buckets
            .iter()
            .filter_map(|rate_buckets| rate_buckets.worthiest(now, now - self.min_interval, &self.users));
        let (user, worth) = worthiest.max_by(|(_, one), (_, other)| one.total_cmp(other))?;
        Some(Choice::Worthiest(user, worth))
    }

    /// The oldest, if its turn has come: in the sleepers' round, which is spread evenly over the interval that is kept, or
    /// because it would be too late for that.
    fn oldest(&self, now: Ticks, rate_buckets: &[&RateBuckets]) -> Option<Choice> {
        let (polled, user) = rate_buckets.iter().filter_map(|rate_buckets| rate_buckets.oldest(&self.users)).min()?;
        let age = now - polled;
        let part = seconds(age) / self.kept_interval(self.round_share());
        let may_be_late = self.turns.oldest_in_a_row >= Self::LATE_IN_A_ROW && self.round_share() <= 0.75;
        let in_the_round = self.turns.sleepers_due >= 1.0 && part >= Self::EARLY;
        let due = in_the_round || (part >= Self::LATE && !may_be_late);
        (due && age >= self.min_interval).then_some(Choice::Oldest(user))
    }

    /// Seconds in which a budget can poll everybody of which a round takes this share: the objective, or when that is out of reach, an interval that takes
    /// less and less of the budget, down to half: a round lasts twice as long then as if nothing else were done.
    fn kept_interval(&self, share: f64) -> f64 {
        let objective = seconds(self.max_interval);
        if share <= 1.0 { objective } else { objective * share * share.min(2.0) }
    }

    /// The part of the budget that polling everybody once in `max_interval` takes.
    fn round_share(&self) -> f64 {
        count(self.users.len()) * self.pace.gap / seconds(self.max_interval)
    }

    /// The part of the budget that it takes to poll those in time who would not be for their worth.
    fn sleepers_share(&self) -> f64 {
        let round = self.kept_interval(self.round_share()) * Self::ROUND;
        let sleepers = self.rate_buckets().map(|rate_buckets| rate_buckets.sleepers(self.pace.price, round)).sum();
        count(sleepers) * self.pace.gap / round
    }

    fn rate_buckets(&self) -> impl Iterator<Item = &RateBuckets> {
        [&self.rate_buckets, &self.crowd].into_iter()
    }

    fn next_backlog(&self, allowed: Allowed) -> Option<UserSlot> {
        let live = || self.live_backlog.first(&self.users).filter(|_| allowed.live);
        let history = || self.history_backlog.first(&self.users).filter(|_| allowed.history);
        live().or_else(history).map(|(_, user)| user)
    }

    /// Makes a note of a choice.
    fn chosen(&mut self, choice: Choice, now: Ticks) -> UserSlot {
        let (Choice::Worthiest(user, _) | Choice::Oldest(user) | Choice::Look(user)) = choice;
        let is_established = self.users.get(user).is_some_and(|user| user.flags.has(Flags::ESTABLISHED));
        // What the established get between two of the crowd does not change whether it is a look's turn there.
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
        // What is due to the sleepers and cannot be given is not saved up.
        self.turns.sleepers_due = (self.turns.sleepers_due + self.sleepers_share()).min(2.0);
        match choice {
            Choice::Worthiest(user, worth) => {
                self.turns.oldest_in_a_row = 0;
                self.pace.price += (worth - self.pace.price) / self.pace.samples.max(1.0);
                user
            }
            Choice::Oldest(user) | Choice::Look(user) => {
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

    /// The rung for a user: by the rate that is expected of it until it will be served at this price.
    fn rung(activity: &ActivityEstimate, rate_prior: &RatePrior, price: f64) -> u8 {
        let rate = if activity.is_known() {
            let outlook = activity.outlook(rate_prior);
            // The interval depends on the rate and the rate on the interval; this settles within a rung in a few steps.
            let mut rate = outlook.rate_over(0.0);
            for _ in 0..6 {
                rate = outlook.rate_over(price / rate.sqrt());
            }
            rate
        } else {
            rate_prior.mean() * Self::NEWCOMER
        };
        RateBuckets::rung(rate)
    }

    /// Opens or closes a pool as its state demands.
    fn settle(&mut self, slot: PoolSlot) {
        let pool = self.pools.entry(slot).or_default();
        let closed = pool.held_until.is_some() || (pool.in_trouble && pool.busy > 0);
        if pool.closed != closed {
            pool.closed = closed;
            self.rate_buckets.set_open(slot, !closed, &self.users);
            self.crowd.set_open(slot, !closed, &self.users);
            for line in [&mut self.looks, &mut self.live_backlog, &mut self.history_backlog] {
                line.set_open(slot, !closed, &self.users);
            }
        }
    }

    fn enqueue(&mut self, slot: UserSlot) {
        self.lines(slot, true);
    }

    fn dequeue(&mut self, slot: UserSlot) {
        self.lines(slot, false);
    }

    /// Puts a user into every line it belongs in, or takes it out of them.
    fn lines(&mut self, slot: UserSlot, put: bool) {
        let Some(user) = self.users.get(slot) else { return };
        let &User { polled, look, ticket, pool, rung, state, backlog, flags, .. } = user;
        if state == State::Resting {
            let _changed = if put { self.resting.insert((look, slot)) } else { self.resting.remove(&(look, slot)) };
            return;
        }
        let open = self.pools.get(&pool).is_none_or(|pool| !pool.closed);
        let users = &mut self.users;
        let change = if put { RateBuckets::put } else { RateBuckets::take };
        // The flags change with turns only, so that a user is taken off the rate_buckets that it was put on.
        let rate_buckets = if flags.has(Flags::ESTABLISHED) { &mut self.rate_buckets } else { &mut self.crowd };
        change(rate_buckets, rung, (polled, pool, slot), open, users);
        let backlog = match backlog {
            Some(Backlog::Live) => Some(&mut self.live_backlog),
            Some(Backlog::History) => Some(&mut self.history_backlog),
            None => None,
        };
        let look = (look != NEVER).then_some((look, &mut self.looks));
        let change = if put { PoolQueue::put } else { PoolQueue::take };
        for (key, line) in look.into_iter().chain(backlog.map(|line| (ticket.into(), line))) {
            change(line, (key, pool, slot), open, users);
        }
    }

    fn ticks(&mut self, now: Instant) -> Ticks {
        ticks(*self.first.get_or_insert(now), now)
    }
}

/// How long a user was not heard of.
fn silence(user: &User, now: Ticks) -> Duration {
    Duration::from_nanos(u64::try_from(now - user.polled).unwrap_or(0))
}

/// A number of users, as good as exact.
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
    const NOTHING: Answer = Answer { next_look: None, backlog: None, calls: 1, found: &[], whole: true };
    const DONE: Ended = Ended::Answered(NOTHING);

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
                let (user, lane) = schedule.next(now, ALL).expect("somebody is due");
                schedule.ended(user, lane, DONE, now);
                u32::from(user.0 >= 20)
            });
            polls.sum()
        };
        // The first round, in which everybody is a newcomer, and one more.
        assert_eq!((of_the_crowd(&mut schedule, 0, 20), of_the_crowd(&mut schedule, 20, 20)), (0, 0));
        (20..120).for_each(|user| schedule.join(POOL, UserSlot(user), ActivityEstimate::UNKNOWN, start + seconds(20)));
        assert_eq!(of_the_crowd(&mut schedule, 34, 10), 10, "nobody else is due");
        assert_eq!(of_the_crowd(&mut schedule, 36, 40), 20, "every other turn");
        assert_eq!(of_the_crowd(&mut schedule, 36, 20), 20, "nobody else is due any more");
        // Who was asked once is of the crowd still, while some of it were not asked.
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
        schedule.ended(user, lane, Ended::Answered(Answer { next_look: Some(look), ..NOTHING }), start);
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
        let open = Ended::Answered(Answer { backlog: Some(Backlog::History), ..NOTHING });
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
        schedule.ended(failed, lane, Ended::Postponed, start);
        assert_eq!(schedule.next(start + seconds(2), ALL), Some((other, Lane::Poll)));
        assert_eq!(schedule.next(start + seconds(29), ALL), None);
        let later = start + seconds(30);
        let (probe, lane) = schedule.next(later, ALL).unwrap();
        assert_eq!(schedule.next(later, ALL), None, "one probe at a time");
        schedule.ended(probe, lane, DONE, later);
        assert!(schedule.next(later, ALL).is_some() && schedule.next(later, ALL).is_some(), "and then everybody");
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
        schedule.ended(last, lane, Ended::Failed { pause: seconds(3600) }, start);
        assert_eq!(schedule.next(start + seconds(3599), ALL), None);
    }
}
