//! An exported event on its arrival: how it joins what was told of its pool.
//!
//! Pure. [`told`](crate::told) has the rules and a drawing.

use std::fmt;

use crate::cursor::{Compared, Cursor, Sighting};
use crate::event::{AuthEvent, EventKey, UnixMillis};
use crate::told::ToldEvent;
use crate::walk::{Finding, Rules};

/// What a cursor knows of an event that is not in the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToldBefore {
    /// It was told in this state.
    Remembered(ToldEvent),
    /// It was told and forgotten, or is older than wanted.
    Passed,
    /// It was never told.
    Never,
}

/// Asks a user's cursor for an event that the table does not have, because its date lies below the time from which the
/// table is complete.
///
/// The date may have been cut or rounded to a second, so the event may be up to a second younger or older than its date
/// says. Around the watermark and the edges of open walks every taken event is remembered ([`Cursor::DATE_DRIFT`]), so
/// one that is not remembered there was not taken.
pub fn told_before(cursor: &Cursor, event: &AuthEvent) -> ToldBefore {
    if let Some(sighting) = cursor.seen.get(&event.key()) {
        return ToldBefore::Remembered(ToldEvent::polled(sighting, None, event));
    }
    let Some(date) = event.creation_date else { return ToldBefore::Never };
    let (earliest, latest) = (date.minus(Rules::REST_OF_THE_SECOND), date.plus(Rules::REST_OF_THE_SECOND));
    let in_open_walk = cursor.open_walks().iter().any(|open| open.end <= latest && earliest <= open.lower_edge);
    if latest >= cursor.watermark() || in_open_walk { ToldBefore::Never } else { ToldBefore::Passed }
}

/// An exported event on its arrival.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ArrivingEvent<'a> {
    /// The event.
    pub event: &'a AuthEvent,
    /// Whether it is live, if it is new.
    pub live: bool,
    /// When it arrived, by the local clock.
    pub received: UnixMillis,
}

/// What an exported event is.
#[derive(Clone, PartialEq, Debug)]
pub struct Arrived {
    /// What is to be logged and counted: a new event or a revision. None for a known event.
    pub finding: Option<Finding>,
    /// What is to be written to the table. None if nothing changed.
    pub told: Option<ToldEvent>,
    /// Whether the export tells it for the first time.
    pub is_first_export: bool,
}

/// Joins an exported event to what was told. `before` is what was told of it, by whichever source.
pub fn arrive(before: Option<ToldEvent>, arrival: ArrivingEvent<'_>, rules: &Rules) -> Arrived {
    let ArrivingEvent { event, live, received } = arrival;
    let Some(mut told) = before else {
        let mut sighting = Sighting::first(event, live, Compared::WithAnother);
        if let Some(created) = event.creation_date.filter(|_| event.in_progress()) {
            sighting.watch = Some(rules.watch_from(&sighting.facts, created, received, received));
        }
        let facts = sighting.facts.clone();
        let finding = Finding { event: event.clone(), revision: 0, live, facts, before: None, late: false };
        let second = ToldEvent::second_of(event.creation_date);
        let told = ToldEvent { second, sighting, is_polled: false, is_adopted: false, is_exported: true };
        return Arrived { finding: Some(finding), told: Some(told), is_first_export: true };
    };
    let is_first_export = !std::mem::replace(&mut told.is_exported, true);
    let finding = told.sighting.revise(event, Compared::WithAnother).map(|facts_before| Finding {
        event: event.clone(),
        revision: told.sighting.revision,
        live: told.sighting.live,
        facts: told.sighting.facts.clone(),
        before: Some(facts_before),
        late: false,
    });
    told.is_adopted &= finding.is_none();
    let is_changed = is_first_export || finding.is_some();
    Arrived { finding, told: is_changed.then_some(told), is_first_export }
}

/// An event that a pool's export has told for the first time.
#[derive(Clone, PartialEq, Eq)]
pub struct HeardEvent {
    /// The user.
    pub username: String,
    /// The event.
    pub key: EventKey,
    /// Its CreationDate.
    pub created: Option<UnixMillis>,
    /// Whether its risk level is high, or its credentials are compromised.
    pub high_risk: bool,
    /// Whether no poll had told it before.
    pub is_new: bool,
    /// When a poll must look for its outcome, by the local clock.
    pub next_look: Option<UnixMillis>,
}

/// Shows no user.
impl fmt::Debug for HeardEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeardEvent").field("key", &self.key).field("is_new", &self.is_new).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cursor::OpenWalk;
    use crate::event::{EventRisk, Word};
    use crate::page::Page;
    use crate::told::ToldEvents;
    use crate::walk::{Taken, Walk};

    const RULES: Rules =
        Rules { overlap: Duration::from_hours(1), settle: Duration::from_mins(30), followed_since: None };
    /// The time of these tests, in seconds.
    const NOON: i64 = 60_000_000;
    const HOUR: i64 = 3600;

    fn at(second: i64) -> UnixMillis {
        UnixMillis(second * 1000)
    }

    fn event(second: i64, response: &str, level: &str) -> AuthEvent {
        AuthEvent {
            id: Some(format!("of {second}")),
            event_type: Some(Word::parse("SignIn")),
            creation_date: Some(at(second)),
            response: Some(Word::parse(response)),
            risk: Some(EventRisk { level: Some(Word::parse(level)), ..EventRisk::default() }),
            ..AuthEvent::default()
        }
    }

    fn arrived(before: Option<ToldEvent>, event: &AuthEvent, received: UnixMillis) -> Arrived {
        arrive(before, ArrivingEvent { event, live: true, received }, &RULES)
    }

    /// The table after an event has arrived, and what was found.
    fn arriving(table: &mut ToldEvents, event: &AuthEvent, received: UnixMillis) -> Option<u32> {
        let arrived = arrived(table.get(&event.key()).cloned(), event, received);
        table.extend(arrived.told.map(|told| (event.key(), told)));
        arrived.finding.map(|finding| finding.revision)
    }

    /// A poll that shows these events at `second` by the service's clock, `ahead` seconds later by the local one.
    fn poll(cursor: &mut Cursor, table: &mut ToldEvents, (second, ahead): (i64, i64), events: &[AuthEvent]) -> Taken {
        let page = Page {
            events: events.to_vec(),
            next: None,
            received: at(second + ahead),
            served: Some(UnixMillis(at(second).0 + 999)),
        };
        let taken = Walk::begin(cursor, page.received).take_beside(cursor, &page, &RULES, table);
        table.extend(taken.told.iter().cloned());
        taken
    }

    fn followed_user() -> Cursor {
        Cursor::new(at(NOON - 10 * HOUR), at(NOON - 10 * HOUR))
    }

    #[test]
    fn a_state_that_was_told_is_known_whichever_state_was_told_last() {
        let [low, high] = ["Low", "High"].map(|level| event(NOON, "Pass", level));
        let mut table = ToldEvents::new();
        let mut tell = |event| arriving(&mut table, event, at(NOON));
        assert_eq!([&low, &low, &high, &low, &high].map(&mut tell), [Some(0), None, Some(1), None, None]);
    }

    #[test]
    fn what_arrives_is_written_only_if_it_changes_anything_and_is_adopted_until_it_is_revised() {
        let event_of = |response| event(NOON, response, "Low");
        let (mut cursor, mut table) = (followed_user(), ToldEvents::new());
        assert_eq!(poll(&mut cursor, &mut table, (NOON, 0), &[event_of("InProgress")]).findings.len(), 1);
        let polled = table[&event_of("Pass").key()].clone();
        assert!(polled.is_polled && polled.is_adopted && !polled.is_exported);
        let first = arrived(Some(polled), &event_of("InProgress"), at(NOON));
        assert!(first.finding.is_none() && first.is_first_export);
        let told = first.told.unwrap();
        assert!(told.is_exported && told.is_adopted);
        let again = arrived(Some(told.clone()), &event_of("InProgress"), at(NOON));
        assert_eq!(again, Arrived { finding: None, told: None, is_first_export: false });
        let revision = arrived(Some(told), &event_of("Pass"), at(NOON));
        assert_eq!(revision.finding.map(|finding| (finding.revision, finding.before.is_some())), Some((1, true)));
        assert!(!revision.told.unwrap().is_adopted, "the cursor does not have this state");
    }

    #[test]
    fn a_poll_adopts_exported_events_tells_them_no_more_and_moves_on_to_the_newest() {
        let (mut cursor, mut table) = (followed_user(), ToldEvents::new());
        let (old, new) = (event(NOON - 3 * HOUR, "Pass", "Low"), event(NOON - 60, "Pass", "Low"));
        for event in [&old, &new] {
            assert_eq!(arriving(&mut table, event, at(NOON)), Some(0));
        }
        let taken = poll(&mut cursor, &mut table, (NOON, 0), &[new.clone(), old.clone()]);
        assert_eq!((taken.findings.len(), taken.told.len()), (0, 2));
        assert!(table.values().all(|told| told.is_adopted));
        assert_eq!(cursor.last_seen().map(|last| last.time), new.creation_date);
        assert_eq!(cursor.watermark(), at(NOON - 60 - HOUR), "the overlap below the newest");
        let taken = poll(&mut cursor, &mut table, (NOON, 0), &[new, old]);
        assert!(taken.findings.is_empty() && taken.told.is_empty() && !taken.cursor_changed);
    }

    #[test]
    fn a_local_clock_that_is_ahead_ends_no_wait_of_an_exported_event() {
        let (mut cursor, mut table) = (followed_user(), ToldEvents::new());
        let event_of = |response| event(NOON - 60, response, "Low");
        let ahead = 5 * HOUR;
        assert_eq!(arriving(&mut table, &event_of("InProgress"), at(NOON + ahead)), Some(0));
        let taken = poll(&mut cursor, &mut table, (NOON, ahead), &[event_of("InProgress")]);
        assert_eq!((taken.findings.len(), taken.unfinished.len()), (0, 0));
        let watch = cursor.seen[&event_of("Pass").key()].watch.unwrap();
        assert!(at(NOON + ahead) < watch.until && watch.until <= at(NOON + ahead).plus(RULES.settle));
        assert_eq!(poll(&mut cursor, &mut table, (NOON + 60, ahead), &[event_of("Pass")]).findings[0].revision, 1);
    }

    #[test]
    fn a_cursor_knows_the_events_that_it_remembers_or_has_passed() {
        let (mut cursor, mut table) = (followed_user(), ToldEvents::new());
        let (taken, newest) = (event(NOON - 1800, "Pass", "Low"), event(NOON, "Pass", "Low"));
        poll(&mut cursor, &mut table, (NOON, 0), &[newest, taken.clone()]);
        let told = told_before(&cursor, &taken);
        let ToldBefore::Remembered(told) = told else { panic!("{told:?}") };
        assert!(told.is_adopted && told.is_polled && !told.is_exported);
        let watermark = NOON - HOUR;
        assert_eq!(cursor.watermark(), at(watermark));
        for (second, expected) in [
            (NOON - 1799, ToldBefore::Never),
            (watermark, ToldBefore::Never),
            (watermark - 1, ToldBefore::Passed),
            (watermark - HOUR, ToldBefore::Passed),
        ] {
            assert_eq!(told_before(&cursor, &event(second, "Pass", "Low")), expected, "{second}");
        }
        let above = AuthEvent { creation_date: Some(UnixMillis(at(watermark).0 - 999)), ..event(0, "Pass", "Low") };
        assert_eq!(told_before(&cursor, &above), ToldBefore::Never, "its date may have been cut");
        let undated = AuthEvent { creation_date: None, ..event(1, "Pass", "Low") };
        assert_eq!(told_before(&cursor, &undated), ToldBefore::Never);
        let (edge, end) = (watermark - 100, watermark - 200);
        cursor.open.push(OpenWalk { token: None, lower_edge: at(edge), end: at(end) });
        for (second, expected) in [
            (edge + 1, ToldBefore::Passed),
            (edge, ToldBefore::Never),
            (end, ToldBefore::Never),
            (end - 1, ToldBefore::Passed),
        ] {
            assert_eq!(told_before(&cursor, &event(second, "Pass", "Low")), expected, "{second}");
        }
        // An event of the walk's last millisecond, whose date the export has rounded up.
        cursor.open[0].lower_edge = UnixMillis(at(edge).0 + 500);
        assert_eq!(told_before(&cursor, &event(edge + 1, "Pass", "Low")), ToldBefore::Never);
        assert_eq!(told_before(&cursor, &event(edge + 2, "Pass", "Low")), ToldBefore::Passed);
    }
}
