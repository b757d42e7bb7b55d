//! Whom to ask next, and when again.
//!
//! Pure: time comes in as an argument, users are slots of the roster. The plain policy: who was not seen for longest
//! goes first, nobody more often than `min_interval`; a look at an event in progress goes before its user's turn; backlog
//! has a lane of its own that takes what is spare and never starves. Work-conserving: while anybody is due, a call is made.
//!
//! A pool in trouble is held back as a whole, then probed by one user at a time, so that its failures cost the other pools
//! nothing.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A user's place in the roster.
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
pub enum Ended {
    /// The service answered for this user.
    Answered {
        /// When an event in progress wants another look.
        next_look: Option<Instant>,
        /// What is left open.
        backlog: Option<Backlog>,
    },
    /// Nothing came of it through no fault of the user's (throttled, pool or endpoint in trouble): as it was before.
    Postponed,
    /// The user itself cannot be read: not again before this pause.
    Failed {
        /// How long to leave the user alone.
        pause: Duration,
    },
}

/// What may be begun at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Polls and backlog with live events.
    pub live: bool,
    /// Backlog of history.
    pub history: bool,
}

#[derive(Debug)]
struct User {
    pool: PoolSlot,
    /// Where it stands in its pool's `due` while it is not busy.
    due: Instant,
    look: Option<Instant>,
    backlog: Option<Backlog>,
    busy: bool,
}

#[derive(Debug, Default)]
struct Pool {
    /// Everybody who is not busy, longest unseen first.
    due: BTreeSet<(Instant, UserSlot)>,
    /// Those of them who have an event in progress to look at.
    looks: BTreeSet<(Instant, UserSlot)>,
    live_backlog: VecDeque<UserSlot>,
    history_backlog: VecDeque<UserSlot>,
    busy: usize,
    in_trouble: bool,
    held_until: Option<Instant>,
}

impl Pool {
    fn open(&self, now: Instant) -> bool {
        self.held_until.is_none_or(|until| until <= now) && !(self.in_trouble && self.busy > 0)
    }
}

/// The schedule of all pools that share one budget.
#[derive(Debug)]
pub struct Schedule {
    min_interval: Duration,
    users: HashMap<UserSlot, User>,
    pools: HashMap<PoolSlot, Pool>,
    decisions: u64,
}

impl Schedule {
    /// While polls are waiting, one decision in so many goes to backlog, so that it cannot starve.
    const BACKLOG_EVERY: u64 = 4;

    /// While polls are waiting, one decision in so many ignores looks, so that they cannot starve the round.
    const ROUND_EVERY: u64 = 2;

    /// A schedule in which nobody is polled more often than `min_interval`.
    pub fn new(min_interval: Duration) -> Self {
        Self { min_interval, users: HashMap::new(), pools: HashMap::new(), decisions: 0 }
    }

    /// Takes a user in; it is due at once. Its backlog, if any, is known after its first turn.
    pub fn join(&mut self, pool: PoolSlot, user: UserSlot, now: Instant) {
        if self.users.contains_key(&user) {
            return;
        }
        self.users.insert(user, User { pool, due: now, look: None, backlog: None, busy: false });
        self.enqueue(user);
    }

    /// Takes a user out. A turn that is under way may end; its report is ignored.
    pub fn leave(&mut self, user: UserSlot) {
        self.dequeue(user);
        if let Some(gone) = self.users.remove(&user)
            && gone.busy
            && let Some(pool) = self.pools.get_mut(&gone.pool)
        {
            pool.busy -= 1;
        }
    }

    /// Decides whose turn it is. The user is busy until [`Schedule::ended`].
    pub fn next(&mut self, now: Instant, allowed: Allowed) -> Option<(UserSlot, Lane)> {
        self.decisions = self.decisions.wrapping_add(1);
        let backlog_first = self.decisions.is_multiple_of(Self::BACKLOG_EVERY);
        let looks_first = !self.decisions.is_multiple_of(Self::ROUND_EVERY);
        let poll = || {
            if allowed.live { self.next_poll(now, looks_first).map(|user| (user, Lane::Poll)) } else { None }
        };
        let backlog = || self.next_backlog(now, allowed).map(|user| (user, Lane::Backlog));
        let choice = if backlog_first { backlog().or_else(poll) } else { poll().or_else(backlog) }?;
        self.dequeue(choice.0);
        if let Some(user) = self.users.get_mut(&choice.0) {
            user.busy = true;
            self.pools.entry(user.pool).or_default().busy += 1;
        }
        Some(choice)
    }

    /// When somebody will be due, if nothing else happens before; None while nobody waits.
    pub fn next_at(&self, now: Instant, allowed: Allowed) -> Option<Instant> {
        let of_pool = |pool: &Pool| {
            if pool.in_trouble && pool.busy > 0 {
                return None;
            }
            let due = pool.due.first().filter(|_| allowed.live).map(|(due, _)| *due);
            let look = pool.looks.first().filter(|_| allowed.live).map(|(look, _)| *look);
            let backlog = (allowed.live && !pool.live_backlog.is_empty())
                || (allowed.history && !pool.history_backlog.is_empty());
            let earliest = [due, look, backlog.then_some(now)].into_iter().flatten().min()?;
            Some(pool.held_until.map_or(earliest, |held| earliest.max(held)))
        };
        self.pools.values().filter_map(of_pool).min()
    }

    /// Reports how a turn ended.
    pub fn ended(&mut self, slot: UserSlot, lane: Lane, ended: Ended, now: Instant) {
        let Some(user) = self.users.get_mut(&slot).filter(|user| user.busy) else {
            return;
        };
        user.busy = false;
        let pool = self.pools.entry(user.pool).or_default();
        pool.busy -= 1;
        match ended {
            Ended::Answered { next_look, backlog } => {
                pool.in_trouble = false;
                if lane == Lane::Poll {
                    user.due = now + self.min_interval;
                }
                // The minimum interval holds for looks too; being due, a look still goes before the round.
                user.look = next_look.map(|look| look.max(user.due));
                user.backlog = backlog;
            }
            Ended::Postponed => {}
            Ended::Failed { pause } => {
                pool.in_trouble = false;
                user.due = now + pause.max(self.min_interval);
                (user.look, user.backlog) = (None, None);
            }
        }
        self.enqueue(slot);
    }

    /// Holds a pool back; afterwards one user at a time probes it until one is answered.
    pub fn hold(&mut self, pool: PoolSlot, until: Instant) {
        let pool = self.pools.entry(pool).or_default();
        pool.in_trouble = true;
        pool.held_until = Some(until);
    }

    fn next_poll(&self, now: Instant, looks_first: bool) -> Option<UserSlot> {
        let open = || self.pools.values().filter(|pool| pool.open(now));
        let look = open().filter_map(|pool| pool.looks.first()).filter(|(look, _)| *look <= now).min();
        let due = open().filter_map(|pool| pool.due.first()).filter(|(due, _)| *due <= now).min();
        let (first, second) = if looks_first { (look, due) } else { (due, look) };
        first.or(second).map(|(_, user)| *user)
    }

    fn next_backlog(&self, now: Instant, allowed: Allowed) -> Option<UserSlot> {
        let open = || self.pools.values().filter(|pool| pool.open(now));
        let live = open().filter_map(|pool| pool.live_backlog.front()).next().filter(|_| allowed.live);
        let history = open().filter_map(|pool| pool.history_backlog.front()).next().filter(|_| allowed.history);
        live.or(history).copied()
    }

    fn enqueue(&mut self, slot: UserSlot) {
        let Some(user) = self.users.get(&slot) else { return };
        let pool = self.pools.entry(user.pool).or_default();
        pool.due.insert((user.due, slot));
        if let Some(look) = user.look {
            pool.looks.insert((look, slot));
        }
        match user.backlog {
            Some(Backlog::Live) => pool.live_backlog.push_back(slot),
            Some(Backlog::History) => pool.history_backlog.push_back(slot),
            None => {}
        }
    }

    fn dequeue(&mut self, slot: UserSlot) {
        let Some(user) = self.users.get(&slot) else { return };
        let pool = self.pools.entry(user.pool).or_default();
        pool.due.remove(&(user.due, slot));
        if let Some(look) = user.look {
            pool.looks.remove(&(look, slot));
        }
        match user.backlog {
            Some(Backlog::Live) => remove(&mut pool.live_backlog, slot),
            Some(Backlog::History) => remove(&mut pool.history_backlog, slot),
            None => {}
        }
    }
}

/// Takes a slot out of a queue; it is nearly always the first.
fn remove(queue: &mut VecDeque<UserSlot>, slot: UserSlot) {
    if let Some(place) = queue.iter().position(|waiting| *waiting == slot) {
        queue.remove(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: PoolSlot = PoolSlot(0);
    const ALL: Allowed = Allowed { live: true, history: true };
    const MIN_INTERVAL: Duration = Duration::from_secs(15);
    const DONE: Ended = Ended::Answered { next_look: None, backlog: None };

    fn schedule(users: u32, now: Instant) -> Schedule {
        let mut schedule = Schedule::new(MIN_INTERVAL);
        (0..users).for_each(|user| schedule.join(POOL, UserSlot(user), now));
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
        schedule.ended(user, lane, Ended::Answered { next_look: Some(look), backlog: None }, start);
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
        let open = Ended::Answered { next_look: None, backlog: Some(Backlog::History) };
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
        let other = UserSlot(9);
        schedule.join(PoolSlot(1), other, start + seconds(1));
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
