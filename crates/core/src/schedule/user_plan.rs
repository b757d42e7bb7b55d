//! The plan for one user: how often it is polled at the present budget, and when it has its next turn.
//!
//! The plan follows from the present price, and the next decision may be another one. So it is an estimate for people,
//! and no decision rests on it.

use std::time::{Duration, Instant};

use super::forecast::Limits;
use super::rate_buckets::RateBuckets;
use super::ticks::{NEVER, Ticks, instant, nanos, seconds, ticks};
use super::user::{ScheduledUser, SlotState, UserFlags};
use super::{Backlog, Schedule, UserSlot};

/// A day in seconds.
const DAY: f64 = 86_400.0;

/// The plan for one user.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct UserPlan {
    /// When the user's next turn is expected, and why.
    pub next: NextTurn,
    /// The time between two polls of the user at the present budget. None for a newcomer, and where the pool is polled
    /// by a sample.
    pub interval: Option<Duration>,
    /// The events to expect in a day. None before the user's first poll.
    pub events_per_day: Option<f64>,
    /// The open part of the user's history.
    pub backlog: Option<Backlog>,
}

/// When a user's next turn is expected, and why. A time that has passed means that the turn is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextTurn {
    /// A turn is under way.
    UnderWay,
    /// The user was not polled before, and waits for a free call.
    First,
    /// The user's own poll.
    Poll(Instant),
    /// A look at an event in progress.
    Look(Instant),
    /// A turn failed, and the user is left alone until then.
    Retry(Instant),
    /// A part of the user's events is still to be read, before its next poll.
    Backlog,
    /// The pool is in trouble. It is held until then, if it is held, and then probed by one user at a time.
    PoolHeld(Option<Instant>),
    /// A random sample polls the pool, so the time of this user's poll is not known.
    Sample,
}

impl Schedule {
    /// Computes the plan for a user. None for an absent user. Reads nothing but the user and its pool.
    pub fn plan(&self, slot: UserSlot, now: Instant) -> Option<UserPlan> {
        let (first, user) = (self.first?, self.users.get(slot)?);
        let pool = self.pools.get(&user.pool)?;
        let is_newcomer = !user.flags.has(UserFlags::TRIED);
        let is_sampled = pool.sample.is_some();
        let interval = (!is_newcomer && !is_sampled).then(|| self.interval(user)).flatten();
        let next = match user.state {
            SlotState::Vacant | SlotState::Gone => return None,
            SlotState::Busy => NextTurn::UnderWay,
            SlotState::Resting => NextTurn::Retry(instant(first, user.look)),
            SlotState::Waiting if pool.closed => NextTurn::PoolHeld(pool.held_until.map(|until| instant(first, until))),
            SlotState::Waiting if is_newcomer => NextTurn::First,
            SlotState::Waiting => self.next_turn(user, interval, first),
        };
        let silence = user.silence(ticks(first, now));
        let expected = || user.activity.aged(silence).expected(&pool.rate_prior).events_within(DAY);
        let events_per_day = user.activity.is_known().then(expected);
        Some(UserPlan { next, interval, events_per_day, backlog: user.flags.backlog() })
    }

    /// The earliest of a waiting user's turns.
    fn next_turn(&self, user: &ScheduledUser, interval: Option<Duration>, first: Instant) -> NextTurn {
        let poll: Ticks = interval.map_or(NEVER, |interval| user.polled.saturating_add(nanos(interval)));
        if user.look < poll {
            return NextTurn::Look(instant(first, user.look));
        }
        match (user.flags.backlog(), interval) {
            (Some(_), _) => NextTurn::Backlog,
            (None, Some(_)) => NextTurn::Poll(instant(first, poll)),
            (None, None) => NextTurn::Sample,
        }
    }

    /// The time between two polls of a user at the present price.
    fn interval(&self, user: &ScheduledUser) -> Option<Duration> {
        let kept = self.kept_interval(self.round_share());
        let limits = Limits { least: seconds(self.min_interval).min(kept), kept };
        let interval = limits.interval(self.pace.price, RateBuckets::root(user.bucket));
        Duration::try_from_secs_f64(interval).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ActivityEstimate, Allowed, FoundEvent, Intervals, Lane, PollAnswer, PoolSlot, TurnEnded};
    use super::*;

    const POOL: PoolSlot = PoolSlot(0);
    const ALL: Allowed = Allowed { live: true, history: true };
    const MIN_INTERVAL: Duration = Duration::from_secs(15);
    const MAX_INTERVAL: Duration = Duration::from_secs(3600);
    const NOTHING: PollAnswer = PollAnswer { next_look: None, backlog: None, calls: 1, found: &[], whole: true };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn one_user(now: Instant) -> (Schedule, UserSlot) {
        let mut schedule = Schedule::new(Intervals { min: MIN_INTERVAL, max: MAX_INTERVAL });
        schedule.join(POOL, UserSlot(0), ActivityEstimate::UNKNOWN, now);
        (schedule, UserSlot(0))
    }

    fn next(schedule: &Schedule, user: UserSlot, now: Instant) -> NextTurn {
        schedule.plan(user, now).unwrap().next
    }

    #[test]
    fn the_plan_of_a_user_follows_its_turns() {
        let start = Instant::now();
        let (mut schedule, user) = one_user(start);
        assert_eq!(schedule.plan(UserSlot(7), start), None);
        let plan = schedule.plan(user, start).unwrap();
        assert_eq!((plan.next, plan.interval, plan.events_per_day), (NextTurn::First, None, None));
        assert_eq!(schedule.next(start, ALL), Some((user, Lane::Poll)));
        assert_eq!(next(&schedule, user, start), NextTurn::UnderWay);
        let look = start + seconds(20);
        let found = [FoundEvent { age: seconds(60), high_risk: false }];
        let answer = PollAnswer { next_look: Some(look), found: &found, ..NOTHING };
        schedule.ended(user, Lane::Poll, TurnEnded::Answered(answer), start);
        let plan = schedule.plan(user, start).unwrap();
        assert!(plan.events_per_day.unwrap() > 0.1, "{plan:?}");
        let interval = plan.interval.unwrap();
        assert!((MIN_INTERVAL..=MAX_INTERVAL).contains(&interval), "{interval:?}");
        let expected = if start + interval <= look { NextTurn::Poll(start + interval) } else { NextTurn::Look(look) };
        assert_eq!(plan.next, expected);

        let (turn, lane) = schedule.next(look, ALL).unwrap();
        let open = PollAnswer { backlog: Some(Backlog::Live), ..NOTHING };
        schedule.ended(turn, lane, TurnEnded::Answered(open), look);
        let plan = schedule.plan(user, look).unwrap();
        assert_eq!((plan.next, plan.backlog), (NextTurn::Backlog, Some(Backlog::Live)));
    }

    #[test]
    fn a_failed_user_waits_for_its_retry_and_a_user_of_a_held_pool_for_the_pool() {
        let start = Instant::now();
        let (mut schedule, user) = one_user(start);
        let (turn, lane) = schedule.next(start, ALL).unwrap();
        schedule.ended(turn, lane, TurnEnded::Failed { pause: seconds(90) }, start);
        assert_eq!(next(&schedule, user, start), NextTurn::Retry(start + seconds(90)));
        let (turn, lane) = schedule.next(start + seconds(90), ALL).unwrap();
        schedule.hold(POOL, start + seconds(200));
        schedule.ended(turn, lane, TurnEnded::Postponed, start + seconds(91));
        let held = NextTurn::PoolHeld(Some(start + seconds(200)));
        assert_eq!(next(&schedule, user, start + seconds(91)), held);
    }

    #[test]
    fn nobody_knows_when_a_sample_comes() {
        let start = Instant::now();
        let (mut schedule, user) = one_user(start);
        let (turn, lane) = schedule.next(start, ALL).unwrap();
        schedule.ended(turn, lane, TurnEnded::Answered(NOTHING), start);
        let sample = super::super::PollMode::Sample { per_second: 0.1, seed: 1 };
        schedule.set_mode(POOL, sample, start, start);
        let plan = schedule.plan(user, start).unwrap();
        assert_eq!((plan.next, plan.interval), (NextTurn::Sample, None));
    }
}
