//! The events that were told of a pool with two sources: polls of its users' histories, and Cognito's own export.
//!
//! Pure. Whichever source tells an event first, it is told once, and the other source finds it known. A *told event* is
//! the state in which an event was told last, in a table of the whole pool:
//!
//! ```text
//!   exported event --arrive--> known, new or a revision --+          +--> told event
//!                                                          |one write +--> totals, log record
//!   page of a poll --Walk::take_beside--> the same --------+          +--> cursor (a poll's only)
//! ```
//!
//! - **The table is complete from a time on.** Every event that either source told, with a date after that time, is in
//!   it. So an event that is not in it is new, and its user's cursor need not be read: the cost of an exported event
//!   does not depend on its user. A rounded date may be later than the event's own, so this holds from a second later
//!   on ([`ToldEvent::is_covered`]).
//! - **Below that time the cursor decides** (`arrival::told_before`). It remembers every event that polls took above
//!   its watermark, and below it every event was taken, except inside open walks.
//! - **A poll adopts what was told.** The walk takes a told event like any other, but tells it only if it is a
//!   revision. From then on the cursor remembers it, too ([`ToldEvent::is_adopted`]), until the export tells a
//!   revision. An adopted event may be forgotten when the time of completeness rises above it. Where nothing is
//!   polled, every event may.
//! - **The two sources tell some facts differently.** A revision needs a fact that both can tell, and that changed
//!   ([`Facts::are_changed_by`](crate::event::Facts::are_changed_by)).
//!
//! An event is found by its EventId and its date, to a second more or less: the export cuts dates to seconds, or rounds
//! them. Within a user's cursor the date is no part of an event's identity.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::cursor::{Compared, Sighting};
use crate::event::{AuthEvent, EventKey, UnixMillis};

/// The told events among those of a page.
pub type ToldEvents = BTreeMap<EventKey, ToldEvent>;

/// The state in which an event was told last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToldEvent {
    /// Its place in the table: the second of the date with which it was told first, or [`ToldEvent::UNDATED`].
    pub second: i64,
    /// Its state.
    pub sighting: Sighting,
    /// Whether a poll has shown it.
    pub is_polled: bool,
    /// Whether its user's cursor has it in this state, or has passed it.
    pub is_adopted: bool,
    /// Whether the export has told it.
    pub is_exported: bool,
}

impl ToldEvent {
    /// The place of events without a date.
    pub const UNDATED: i64 = i64::MAX;

    /// The place of an event with this date.
    pub fn second_of(date: Option<UnixMillis>) -> i64 {
        date.map_or(Self::UNDATED, |date| date.0.div_euclid(1000))
    }

    /// A date with which this event is found at its place.
    pub fn date_of_place(&self) -> Option<UnixMillis> {
        (self.second != Self::UNDATED).then_some(UnixMillis(self.second.saturating_mul(1000)))
    }

    /// The places at which an event with this date may have been told.
    pub fn seconds_near(date: Option<UnixMillis>) -> RangeInclusive<i64> {
        let second = Self::second_of(date);
        if date.is_none() { second..=second } else { second.saturating_sub(1)..=second.saturating_add(1) }
    }

    /// Whether a table that is complete after the second `complete_since` has an event with this date, if the event was
    /// told. The date may have been rounded up to the next second.
    pub fn is_covered(date: Option<UnixMillis>, complete_since: i64) -> bool {
        *Self::seconds_near(date).start() > complete_since
    }

    /// The event where the record of it cannot be read. It was told, and it counts as told in the state in which it is
    /// seen now.
    pub fn of_damaged_record(event: &AuthEvent) -> Self {
        Self {
            second: Self::second_of(event.creation_date),
            sighting: Sighting::first(event, true, Compared::WithAnother),
            is_polled: true,
            is_adopted: false,
            is_exported: true,
        }
    }

    /// The event as a poll has shown it. `before` is what was told of it before.
    pub(crate) fn polled(sighting: &Sighting, before: Option<&Self>, event: &AuthEvent) -> Self {
        Self {
            second: before.map_or(Self::second_of(event.creation_date), |before| before.second),
            // The cursor watches it.
            sighting: Sighting { watch: None, ..sighting.clone() },
            is_polled: true,
            is_adopted: true,
            is_exported: before.is_some_and(|before| before.is_exported),
        }
    }
}
