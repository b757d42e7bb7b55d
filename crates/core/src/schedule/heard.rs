//! Teaches the schedule the events that arrive without a poll, by Cognito's own export.
//!
//! The user's activity learns from such an event as from one that a poll found. The event is known already, so a poll
//! of the user is worth less: the user's age begins again. The age is what orders the users of a pool in full mode.
//!
//! But an export may lose events, and one that arrives says nothing of another that does not. So in full mode exported
//! events put a poll off by [`Put::UNITS`] units at most, which are one `max_interval`, counted from the latest poll.
//! So a user that is heard of all the time is polled at least once in two kept intervals. Users with lost events are
//! put off less than others. The loss that full polling measures is therefore somewhat too high. A pool that is always
//! polled in full should not be heard of.
//!
//! The pool's distribution of rates learns from polls alone. A user is heard of only because it is active, so the
//! distribution would forget the silent ones.

use std::time::{Duration, Instant};

use super::rate_prior::RatePrior;
use super::ticks::Ticks;
use super::user::{ScheduledUser, SlotState, UserFlags};
use super::{FoundEvent, Schedule, UserSlot};

/// The time by which a poll was put off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Put {
    /// The units of `max_interval`. With an hour a unit is 14 s, about the least `min_interval`.
    unit: Ticks,
}

impl Put {
    /// The number of units in `max_interval`: what a byte counts.
    const UNITS: u8 = u8::MAX;

    pub(super) fn new(max_interval: Ticks) -> Self {
        Self { unit: (max_interval / Ticks::from(Self::UNITS)).max(1) }
    }

    /// The time of the user's latest poll or failure.
    pub(super) fn latest_poll(self, user: &ScheduledUser) -> Ticks {
        user.polled - self.unit * Ticks::from(user.put_off)
    }

    /// Moves the beginning of a user's age to the last whole unit before `now`, and its activity with it.
    fn off(self, user: &mut ScheduledUser, in_sample: bool, now: Ticks) {
        let units = ((now - user.polled) / self.unit).max(0);
        let room = Self::UNITS - user.put_off;
        let begin = match u8::try_from(units).ok().filter(|units| *units <= room) {
            Some(units) => {
                user.put_off += units;
                user.polled + self.unit * Ticks::from(units)
            }
            None if in_sample => {
                // Nobody waits for this poll. When the latest one was is forgotten.
                user.put_off = 0;
                user.flags.set(UserFlags::ANSWERED, false);
                now
            }
            None => {
                user.put_off = Self::UNITS;
                user.polled + self.unit * Ticks::from(room)
            }
        };
        user.activity = user.activity.aged(user.silence(begin));
        user.polled = begin;
    }
}

impl Schedule {
    /// Learns of exported events of a user that were not known before, and of a look that they need. Their ages are
    /// those of `now`. A user of which nothing is known stays a newcomer: its first page tells more.
    pub fn heard(&mut self, slot: UserSlot, events: &[FoundEvent], next_look: Option<Instant>, now: Instant) {
        let now_ticks = self.ticks(now);
        let look = next_look.map(|look| self.ticks(look));
        let Some(state) = self.users.get(slot).map(|user| user.state).filter(|state| *state != SlotState::Gone) else {
            return;
        };
        let is_waiting = state == SlotState::Waiting;
        if is_waiting {
            self.dequeue(slot);
        }
        let (put, price, min_interval) = (Put::new(self.max_interval), self.pace.price, self.min_interval);
        if let Some(user) = self.users.get_mut(slot) {
            if let Some(look) = look {
                let earliest = put.latest_poll(user) + min_interval;
                if state == SlotState::Resting {
                    user.flags.set(UserFlags::LOOK_AFTER, true);
                } else {
                    user.look = user.look.min(look.max(earliest));
                    // The turn under way may have read its page before the event.
                    user.flags.set(UserFlags::LOOK_AFTER, state == SlotState::Busy);
                }
            }
            let pool = self.pools.entry(user.pool).or_default();
            if user.activity.is_known() && !events.is_empty() {
                put.off(user, pool.sample.is_some(), now_ticks);
                learn(user, events, now_ticks);
                pool.census.leave(user.bucket);
                user.bucket = bucket(user, &pool.rate_prior, price);
                pool.census.join(user.bucket);
            }
        }
        if is_waiting {
            self.enqueue(slot);
        }
    }
}

/// Adds events to an activity that is not quite as young as they are.
fn learn(user: &mut ScheduledUser, events: &[FoundEvent], now: Ticks) {
    let since = user.silence(now);
    for event in events {
        let event = FoundEvent { age: event.age.saturating_sub(since), ..*event };
        user.activity.polled(Duration::ZERO, &[event], false);
    }
}

fn bucket(user: &ScheduledUser, rate_prior: &RatePrior, price: f64) -> u8 {
    Schedule::bucket(&user.activity, rate_prior, price)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{ActivityEstimate, Allowed, Intervals, Lane, PollAnswer, PollMode, PoolSlot, TurnEnded};

    const POOL: PoolSlot = PoolSlot(0);
    const ALL: Allowed = Allowed { live: true, history: true };
    const NOTHING: PollAnswer = PollAnswer { next_look: None, backlog: None, calls: 1, found: &[], whole: true };
    const DONE: TurnEnded = TurnEnded::Answered(NOTHING);
    const EVENT: [FoundEvent; 1] = [FoundEvent { age: Duration::from_secs(20), high_risk: false }];

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A schedule of users that were each polled once, within the first minute.
    fn schedule(users: u32, start: Instant) -> Schedule {
        let mut schedule = Schedule::new(Intervals { min: seconds(15), max: seconds(3600) });
        (0..users).for_each(|user| schedule.join(POOL, UserSlot(user), ActivityEstimate::UNKNOWN, start));
        for _ in 0..users {
            let (user, lane) = schedule.next(start, ALL).unwrap();
            let found = [FoundEvent { age: seconds(1800), high_risk: false }];
            schedule.ended(user, lane, TurnEnded::Answered(PollAnswer { found: &found, ..NOTHING }), start);
        }
        schedule
    }

    /// The polls of each user from one second to another, one in ten seconds. `hear` tells who is heard of before each.
    fn polls(schedule: &mut Schedule, start: Instant, span: std::ops::Range<u64>, heard: &[u32]) -> Vec<(u64, u32)> {
        let polls = span.step_by(10).filter_map(|second| {
            let now = start + seconds(second);
            heard.iter().for_each(|user| schedule.heard(UserSlot(*user), &EVENT, None, now));
            let (user, lane) = schedule.next(now, ALL)?;
            schedule.ended(user, lane, DONE, now);
            Some((second, user.0))
        });
        polls.collect()
    }

    #[test]
    fn a_user_that_was_just_heard_of_needs_no_poll() {
        let start = Instant::now();
        let mut schedule = schedule(60, start);
        // Half of them are heard of once, after ten minutes.
        let now = start + seconds(600);
        (0..30).for_each(|user| schedule.heard(UserSlot(user), &EVENT, None, now));
        let polled = polls(&mut schedule, start, 600..900, &[]);
        assert!(polled.iter().all(|(_, user)| *user >= 30), "{polled:?}");
    }

    #[test]
    fn who_is_heard_of_all_the_time_is_polled_once_in_two_intervals() {
        let start = Instant::now();
        let mut schedule = schedule(60, start);
        let polled = polls(&mut schedule, start, 600..36_000, &[7]);
        let of_it: Vec<u64> = polled.iter().filter(|(_, user)| *user == 7).map(|(second, _)| *second).collect();
        let longest = of_it.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!((1800..7200).contains(&longest), "{longest} s");
    }

    #[test]
    fn who_is_heard_of_often_is_known_to_be_active_when_the_export_stops() {
        let start = Instant::now();
        let mut schedule = schedule(60, start);
        polls(&mut schedule, start, 600..3600, &[7]);
        let polled = polls(&mut schedule, start, 3600..4800, &[]);
        let count = |user: u32| polled.iter().filter(|(_, polled)| *polled == user).count();
        assert!(count(7) > 3 * count(8).max(1), "{} polls and {}", count(7), count(8));
    }

    #[test]
    fn a_newcomer_stays_one_and_a_stranger_is_ignored() {
        let start = Instant::now();
        let mut schedule = schedule(1, start);
        schedule.join(POOL, UserSlot(1), ActivityEstimate::UNKNOWN, start);
        schedule.heard(UserSlot(1), &EVENT, None, start);
        schedule.heard(UserSlot(9), &EVENT, Some(start), start);
        assert_eq!(schedule.activity(UserSlot(1), start), ActivityEstimate::UNKNOWN);
        assert_eq!(schedule.next(start, ALL), Some((UserSlot(1), Lane::Poll)));
    }

    #[test]
    fn a_look_that_an_exported_event_needs_is_made_whatever_the_user_does() {
        let start = Instant::now();
        let look = start + seconds(100);
        for ended in [None, Some(DONE), Some(TurnEnded::Postponed), Some(TurnEnded::Failed { pause: seconds(60) })] {
            let mut schedule = schedule(2, start);
            schedule.set_mode(POOL, PollMode::Sample { per_second: 1e-6, seed: 1 }, start, start + seconds(20));
            let now = start + seconds(20);
            let (user, lane) = schedule.next(now, ALL).unwrap();
            if ended.is_none() {
                schedule.ended(user, lane, DONE, now);
            }
            schedule.heard(user, &EVENT, Some(look), now);
            if let Some(ended) = ended {
                schedule.ended(user, lane, ended, now);
            }
            let mut looked = vec![];
            for second in 21..140 {
                while let Some((other, lane)) = schedule.next(start + seconds(second), ALL) {
                    looked.extend((other == user && schedule.is_look(other)).then_some(second));
                    schedule.ended(other, lane, DONE, start + seconds(second));
                }
            }
            assert_eq!(looked, [if matches!(ended, Some(TurnEnded::Failed { .. })) { 80 } else { 100 }], "{ended:?}");
        }
    }

    #[test]
    fn what_to_expect_of_a_poll_is_counted_from_the_latest_poll() {
        let start = Instant::now();
        let mut schedule = schedule(2, start);
        let expected =
            |schedule: &Schedule, user: u32| schedule.expected(UserSlot(user), start + seconds(3000)).unwrap();
        let before = expected(&schedule, 0);
        schedule.heard(UserSlot(0), &EVENT, None, start + seconds(2990));
        assert!(expected(&schedule, 0) > before, "a page has to hold the exported event as well");
        assert!((expected(&schedule, 1) - before).abs() < 1e-9);
        // In a sample, when that was is forgotten in the end.
        schedule.set_mode(POOL, PollMode::Sample { per_second: 0.001, seed: 1 }, start, start);
        schedule.heard(UserSlot(0), &EVENT, None, start + seconds(10_000));
        assert_eq!(schedule.expected(UserSlot(0), start + seconds(10_000)), None);
    }
}
