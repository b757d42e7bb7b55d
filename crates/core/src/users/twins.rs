//! Names that are one user's: how they are found, and which name waits as another name of which user.
//!
//! A name listed by hand that no listing gives may be another name of a followed user, and only the service knows that.
//! Both names show the same history then, and an EventId belongs to one event. So before a page of such a name is
//! committed, its EventIds are compared with those that the other such names of the pool have shown:
//!
//! ```text
//!              shows an event of the other name         shows other events
//!   followed ---------------------------------> waits -------------------> followed, live since the latest check
//!                 nothing of it is committed     |  ^
//!                                                +--+ checked every CHECK_EVERY, after a poll of the user that has it
//! ```
//!
//! A name that is gone is compared, too: its user may have come back under this name, which then takes its cursor over.
//! At most [`NameSightings::PER_NAME`] events of each such name are kept in memory. Names of different shards are not
//! compared.
//!
//! An EventId is a random UUID of the service, and no user can choose it. So no user can make two users seem one. A
//! name that is moved to another user is found out, and that user is followed from the move on.
//!
//! Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::event::{AuthEvent, EventKey, UnixMillis};

/// How often a name that waits is checked. One call an hour for each name costs little. A user to whom the name is
/// moved is followed that much later, and loses no event by it.
pub const CHECK_EVERY: Duration = Duration::from_hours(1);

/// The newest events that the names of a pool have shown which no listing gives, and the name of each event.
#[derive(Debug, Default)]
pub struct NameSightings {
    by_event: HashMap<EventKey, Arc<str>>,
    by_name: HashMap<Arc<str>, Vec<EventKey>>,
}

impl NameSightings {
    /// Events of one name that are kept: a page. Another name of the same history shows its newest events first, too,
    /// and goes on until it comes to these.
    pub const PER_NAME: usize = 60;

    /// Replaces the events of a name by its newest ones.
    pub fn replace(&mut self, name: &str, newest: impl Iterator<Item = EventKey>) {
        self.forget(name);
        let name: Arc<str> = name.into();
        let events: Vec<_> = newest.take(Self::PER_NAME).collect();
        for event in &events {
            self.by_event.entry(*event).or_insert_with(|| name.clone());
        }
        self.by_name.insert(name, events);
    }

    /// The other name that has shown one of these events before. An event without an EventId is ignored, because two
    /// users may have one that looks the same.
    pub fn other_name(&self, name: &str, events: &[AuthEvent]) -> Option<Arc<str>> {
        let shown = events.iter().filter(|event| event.id.is_some());
        shown.filter_map(|event| self.by_event.get(&event.key())).find(|other| &***other != name).cloned()
    }

    /// Forgets the events of a name that is not followed any more.
    pub fn forget(&mut self, name: &str) {
        for event in self.by_name.remove(name).into_iter().flatten() {
            if self.by_event.get(&event).is_some_and(|of| &**of == name) {
                self.by_event.remove(&event);
            }
        }
    }
}

/// The names of a pool that wait, by the ledger's name of the user that has them.
#[derive(Debug, Default)]
pub struct Twins {
    by_user: HashMap<String, Vec<WaitingName>>,
    names: HashSet<String>,
}

#[derive(Debug)]
struct WaitingName {
    name: String,
    /// The ledger's name for it.
    stored: String,
    /// When both names were last seen to be one user's.
    seen: UnixMillis,
}

impl Twins {
    /// Whether no name waits.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The number of names that wait.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether this name waits.
    pub fn holds(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Lets a name wait as another name of `of`. `stored` is the ledger's name for it, and `seen` is when both were
    /// last seen to be one user's. Names that wait with this name wait with that user from now on.
    pub fn wait(&mut self, name: &str, stored: &str, of: &str, seen: UnixMillis) {
        self.remove(name);
        let is_of = |waiting: &[WaitingName]| waiting.iter().any(|waiting| waiting.stored == of);
        let root = self.by_user.iter().find(|(_, waiting)| is_of(waiting)).map(|(user, _)| user.clone());
        let mut its_own = self.by_user.remove(stored).unwrap_or_default();
        let waiting = self.by_user.entry(root.unwrap_or_else(|| of.to_owned())).or_default();
        waiting.push(WaitingName { name: name.to_owned(), stored: stored.to_owned(), seen });
        waiting.append(&mut its_own);
        self.names.insert(name.to_owned());
    }

    /// Removes a name that has left; answers whether it waited.
    pub fn remove(&mut self, name: &str) -> bool {
        let waited = self.names.remove(name);
        if waited {
            self.by_user.values_mut().for_each(|waiting| waiting.retain(|waiting| waiting.name != name));
            self.by_user.retain(|_, waiting| !waiting.is_empty());
        }
        waited
    }

    /// Removes and answers the names that wait with a user, which has left. `of` is the ledger's name for it.
    pub fn release(&mut self, of: &str) -> Vec<String> {
        let names: Vec<_> = self.by_user.remove(of).into_iter().flatten().map(|waiting| waiting.name).collect();
        names.iter().for_each(|name| _ = self.names.remove(name));
        names
    }

    /// The names of a user that are to be checked.
    pub fn due(&self, of: &str, now: UnixMillis) -> Vec<String> {
        let waiting = self.by_user.get(of).map_or(&[][..], Vec::as_slice);
        // A clock that was set back delays no check.
        let is_due = |seen: UnixMillis| now < seen || now.since(seen) >= CHECK_EVERY;
        waiting.iter().filter(|waiting| is_due(waiting.seen)).map(|waiting| waiting.name.clone()).collect()
    }

    /// Takes note that a name was checked.
    pub fn checked(&mut self, name: &str, now: UnixMillis) {
        let all = self.by_user.values_mut().flatten();
        all.filter(|waiting| waiting.name == name).for_each(|waiting| waiting.seen = now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str) -> AuthEvent {
        AuthEvent { id: Some(id.into()), ..AuthEvent::default() }
    }

    #[test]
    fn the_same_event_id_tells_that_two_names_are_one_users_and_nothing_else_does() {
        let mut shown = NameSightings::default();
        shown.replace("ann", [event("1").key(), AuthEvent::default().key()].into_iter());
        assert_eq!(shown.other_name("ann@example.com", &[event("2"), event("1")]).as_deref(), Some("ann"));
        assert_eq!(shown.other_name("ann", &[event("1")]), None, "it is its own");
        assert_eq!(
            shown.other_name("ben", &[event("2"), AuthEvent::default()]),
            None,
            "an event without an EventId is ignored"
        );
        shown.replace("ann", [event("2").key()].into_iter());
        assert_eq!(shown.other_name("ben", &[event("1")]), None, "only the newest are kept");
        shown.forget("ann");
        assert_eq!(shown.other_name("ben", &[event("2")]), None);
        let many = (0..100).map(|id| event(&id.to_string()).key());
        shown.replace("ann", many);
        assert_eq!(
            (shown.by_event.len(), shown.by_name["ann"].len()),
            (NameSightings::PER_NAME, NameSightings::PER_NAME)
        );
    }

    #[test]
    fn names_wait_with_the_user_who_is_followed_and_are_looked_at_again() {
        let (now, hour) = (UnixMillis(1_000_000), |hours: u32| CHECK_EVERY * hours);
        let mut twins = Twins::default();
        assert!(twins.is_empty());
        twins.wait("ann@example.com", "ann@example.com", "ann", now);
        assert!(!twins.is_empty());
        twins.wait("+1555", "+1555", "ann@example.com", now);
        assert_eq!((twins.len(), twins.holds("+1555"), twins.holds("ann")), (2, true, false));
        assert_eq!(twins.due("ann", now.plus(hour(1) / 2)), Vec::<String>::new());
        assert_eq!(twins.due("ann", now.plus(hour(1))), ["ann@example.com", "+1555"]);
        twins.checked("+1555", now.plus(hour(1)));
        assert_eq!(twins.due("ann", now.plus(hour(1))), ["ann@example.com"]);
        assert_eq!(twins.due("ann", UnixMillis(0)).len(), 2, "the clock was set back");
        twins.wait("ann", "ann", "zoe", now);
        assert_eq!(twins.release("ann"), Vec::<String>::new());
        assert!(twins.remove("ann@example.com") && !twins.remove("ann@example.com"));
        let mut released = twins.release("zoe");
        released.sort_unstable();
        assert_eq!((released, twins.is_empty()), (vec!["+1555".to_owned(), "ann".to_owned()], true));
    }
}
