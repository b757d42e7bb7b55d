//! The memory of `--follow`: which events of a user were seen, and how they looked. Pure.
//!
//! Polls overlap, because an event can become visible late. So an event is known by its identity and not by its date:
//!
//! | the event | then |
//! |---|---|
//! | older than the horizon | old: never printed |
//! | not seen, and the first poll shows it from before the start | known: it is remembered, not printed |
//! | not seen otherwise | new |
//! | seen, with another mutable part | revised: printed again |
//! | seen, as it was | known |
//!
//! The horizon follows the time of reading, so memory is bounded. An event behind it is forgotten and stays old.

use std::collections::HashMap;
use std::time::Duration;

use cognito_auth_core::event::{AuthEvent, EventKey, MutableDigest, UnixMillis};

use super::super::window::LATENESS;

/// How long an event is remembered: the code of a SignUp lives 24 hours, and its use revises the event.
const REMEMBERED: Duration = Duration::from_hours(26);

/// Maximum number of remembered events of a user. Under an attack a user can have more events in a day; then the oldest
/// are forgotten, and stay old.
const EVENTS_MAX: usize = 5_000;

/// The standing of an event with a follower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EventStanding {
    /// Not seen before.
    New,
    /// Seen before, and changed.
    Revised,
    /// Seen before as it is, or from before the start.
    Known,
    /// From before the horizon.
    Old,
}

/// The memory of one user's events.
#[derive(Clone, Debug)]
pub(super) struct UserMemory {
    /// Events from this time on are printed at the first poll.
    printed_since: UnixMillis,
    /// Events before this time are ignored.
    horizon: UnixMillis,
    /// The newest date seen, at most the time of its reading.
    newest: Option<UnixMillis>,
    is_first_poll: bool,
    seen: HashMap<EventKey, SeenEvent>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SeenEvent {
    /// None for an event without a date, which is not forgotten.
    date: Option<UnixMillis>,
    mutable: MutableDigest,
}

impl UserMemory {
    /// The memory of a user whose events since a time are wanted, also those that are there already.
    pub(super) fn since(since: UnixMillis) -> Self {
        Self { printed_since: since, horizon: since, newest: None, is_first_poll: true, seen: HashMap::new() }
    }

    /// The memory of a user whose events from now on are wanted, and those that become visible late.
    pub(super) fn from_now(now: UnixMillis) -> Self {
        Self { horizon: now.minus(LATENESS), ..Self::since(now) }
    }

    /// The time since which the next poll reads, and [`LATENESS`] further down.
    pub(super) fn reads_since(&self) -> UnixMillis {
        self.newest.map_or(self.horizon, |newest| newest.max(self.horizon))
    }

    /// Judges an event of a page that was read at `read_at`, and remembers it.
    pub(super) fn see(&mut self, event: &AuthEvent, read_at: UnixMillis) -> EventStanding {
        let date = event.creation_date;
        if date.is_some_and(|date| date < self.horizon) {
            return EventStanding::Old;
        }
        if let Some(date) = date {
            // A date ahead of the clock must not make the next poll stop too early.
            self.newest = self.newest.max(Some(date.min(read_at)));
        }
        let now = SeenEvent { date, mutable: event.mutable_digest() };
        let key = event.key();
        let is_full = self.seen.len() >= EVENTS_MAX;
        match self.seen.get_mut(&key) {
            Some(seen) if seen.mutable == now.mutable => EventStanding::Known,
            Some(seen) => {
                *seen = now;
                EventStanding::Revised
            }
            None if date.is_none() && is_full => EventStanding::Old,
            None => {
                self.seen.insert(key, now);
                let is_earlier = date.is_none_or(|date| date < self.printed_since);
                if self.is_first_poll && is_earlier { EventStanding::Known } else { EventStanding::New }
            }
        }
    }

    /// Ends a poll that was read at `read_at`: forgets what is too old.
    pub(super) fn end_poll(&mut self, read_at: UnixMillis) {
        self.is_first_poll = false;
        self.horizon = self.horizon.max(read_at.minus(REMEMBERED));
        if self.seen.len() > EVENTS_MAX {
            let mut dates: Vec<_> = self.seen.values().filter_map(|seen| seen.date).collect();
            dates.sort_unstable_by(|a, b| b.cmp(a));
            if let Some(first_forgotten) = dates.get(EVENTS_MAX) {
                self.horizon = self.horizon.max(first_forgotten.plus(Duration::from_millis(1)));
            }
        }
        let horizon = self.horizon;
        self.seen.retain(|_, seen| seen.date.is_none_or(|date| date >= horizon));
    }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::event::{EventResponse, Word};
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_750_000_000_000);
    const MINUTE: i64 = 60_000;

    /// An event so many minutes from now.
    fn event(id: &str, minutes: i64, response: EventResponse) -> AuthEvent {
        AuthEvent {
            id: Some(id.into()),
            creation_date: Some(UnixMillis(NOW.0 + minutes * MINUTE)),
            response: Some(Word::Known(response)),
            ..AuthEvent::default()
        }
    }

    fn at(minutes: i64) -> UnixMillis {
        UnixMillis(NOW.0 + minutes * MINUTE)
    }

    #[test]
    fn the_first_poll_prints_nothing_from_before_the_start_and_a_late_event_is_printed_later() {
        let mut memory = UserMemory::from_now(NOW);
        assert_eq!(memory.see(&event("before", -5, EventResponse::Pass), NOW), EventStanding::Known);
        assert_eq!(memory.see(&event("since", 1, EventResponse::Pass), at(2)), EventStanding::New);
        memory.end_poll(at(2));
        assert_eq!(memory.see(&event("before", -5, EventResponse::Pass), at(3)), EventStanding::Known);
        assert_eq!(memory.see(&event("late", -6, EventResponse::Pass), at(3)), EventStanding::New);
        assert_eq!(memory.see(&event("yesterday", -1500, EventResponse::Pass), at(3)), EventStanding::Old);
    }

    #[test]
    fn with_since_the_first_poll_prints_what_is_there() {
        let mut memory = UserMemory::since(at(-120));
        assert_eq!(memory.see(&event("inside", -119, EventResponse::Pass), NOW), EventStanding::New);
        assert_eq!(memory.see(&event("before", -121, EventResponse::Pass), NOW), EventStanding::Old);
    }

    #[test]
    fn an_outcome_that_comes_later_is_a_revision_once() {
        let mut memory = UserMemory::from_now(NOW);
        assert_eq!(memory.see(&event("a", 1, EventResponse::InProgress), at(1)), EventStanding::New);
        assert_eq!(memory.see(&event("a", 1, EventResponse::Pass), at(2)), EventStanding::Revised);
        assert_eq!(memory.see(&event("a", 1, EventResponse::Pass), at(3)), EventStanding::Known);
    }

    #[test]
    fn a_date_ahead_of_the_clock_does_not_move_the_reading() {
        let mut memory = UserMemory::from_now(NOW);
        assert_eq!(memory.see(&event("tomorrow", 1440, EventResponse::Pass), at(1)), EventStanding::New);
        memory.end_poll(at(1));
        assert_eq!(memory.reads_since(), at(1));
    }

    #[test]
    fn memory_is_bounded_and_what_it_forgot_is_not_new_again() {
        let mut memory = UserMemory::since(at(-100_000));
        let events: Vec<_> = (0..6_000).map(|n| event(&n.to_string(), -n / 10, EventResponse::Pass)).collect();
        assert!(events.iter().all(|event| memory.see(event, NOW) == EventStanding::New));
        memory.end_poll(NOW);
        assert!(memory.seen.len() <= EVENTS_MAX);
        assert!(events.iter().all(|event| memory.see(event, NOW) != EventStanding::New));
    }

    #[test]
    fn an_event_without_a_date_is_printed_once() {
        let undated = |id: &str| AuthEvent { creation_date: None, ..event(id, 0, EventResponse::Pass) };
        let mut memory = UserMemory::from_now(NOW);
        assert_eq!(memory.see(&undated("before"), NOW), EventStanding::Known);
        memory.end_poll(NOW);
        assert_eq!(memory.see(&undated("since"), NOW), EventStanding::New);
        memory.end_poll(at(100_000));
        assert_eq!(memory.see(&undated("since"), at(100_000)), EventStanding::Known);
    }

    proptest! {
        /// Events appear late, change, and are read again and again. Every sight is printed once.
        #[test]
        fn every_event_and_every_revision_is_printed_exactly_once(
            events in prop::collection::vec((0_i64..600, 0_i64..60, prop::option::of(0_i64..60)), 0..40),
            pauses in prop::collection::vec(1_i64..90, 1..20),
        ) {
            let mut memory = UserMemory::since(NOW);
            let mut printed = vec![];
            let mut now = 0;
            // The last poll comes when everything is visible.
            for pause in pauses.into_iter().chain([800]) {
                now += pause;
                let floor = memory.reads_since().minus(LATENESS);
                for (id, (date, lateness, settles)) in events.iter().enumerate() {
                    let is_settled = settles.is_some_and(|after| date + lateness + after <= now);
                    let response = if is_settled { EventResponse::Pass } else { EventResponse::InProgress };
                    let event = event(&id.to_string(), *date, response);
                    let is_read = event.creation_date >= Some(floor);
                    if date + lateness > now || !is_read {
                        continue;
                    }
                    match memory.see(&event, at(now)) {
                        EventStanding::New | EventStanding::Revised => printed.push((id, is_settled)),
                        EventStanding::Known => {}
                        EventStanding::Old => prop_assert!(event.creation_date < Some(at(now).minus(REMEMBERED))),
                    }
                }
                memory.end_poll(at(now));
            }
            let mut once = printed.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), printed.len(), "a sight was printed twice");
            for id in 0..events.len() {
                prop_assert!(printed.iter().any(|(printed, _)| *printed == id), "an event was not printed");
            }
        }
    }
}
