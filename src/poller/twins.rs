//! Names that are one user's: how they are found out, and who waits as another name of whom.
//!
//! A name listed by hand that no listing gives may be another name of a user who is followed already, and only the service
//! knows. Both names show the same history then, and an EventId is one event's. So before a page of such a name is written, its
//! EventIds are compared with those that the other such names of the pool have shown:
//!
//! ```text
//!                 shows what another has shown           shows other events
//!   followed ------------------------------> waits -------------------------> followed, live since both were last one
//!                 nothing of it is written     |  ^
//!                                              +--+ looked at every LOOK_AGAIN_EVERY, after a poll of the one it is a name of
//! ```
//!
//! A name that is gone is compared with too: its user may have come back under this one, which then takes over what is known.
//! At most [`Shown::OF_A_NAME`] events of each such name are kept in memory. What two shards follow is not compared.
//!
//! Whoever can write an event can not choose its EventId, which is a random UUID of the service: so nobody can have two users
//! taken for one. And a name that is moved to another user is found out, and that user is followed from the move on.
//!
//! Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::event::{AuthEvent, EventKey, UnixMillis};

/// How long a name that waits is taken for what it was. A call an hour for each is nothing, and whom it is moved to is followed
/// that much later, but loses nothing by it.
pub const LOOK_AGAIN_EVERY: Duration = Duration::from_hours(1);

/// Whose event each is, of the newest that the names of a pool have shown which no listing gives.
#[derive(Debug, Default)]
pub struct Shown {
    by_event: HashMap<EventKey, Arc<str>>,
    by_name: HashMap<Arc<str>, Vec<EventKey>>,
}

impl Shown {
    /// Events of one name that are kept: a page. What another name shows of the same history begins with the newest too, and
    /// goes on until it comes to them.
    pub const OF_A_NAME: usize = 60;

    /// The newest events of a name, in place of those that it had shown before.
    pub fn take(&mut self, name: &str, newest: impl Iterator<Item = EventKey>) {
        self.forget(name);
        let name: Arc<str> = name.into();
        let events: Vec<_> = newest.take(Self::OF_A_NAME).collect();
        for event in &events {
            self.by_event.entry(*event).or_insert_with(|| name.clone());
        }
        self.by_name.insert(name, events);
    }

    /// The name that has shown one of these events before, if it is another. An event without an EventId is no sign: two users
    /// may have one that looks the same.
    pub fn other_name(&self, name: &str, events: &[AuthEvent]) -> Option<Arc<str>> {
        let shown = events.iter().filter(|event| event.id.is_some());
        shown.filter_map(|event| self.by_event.get(&event.key())).find(|other| &***other != name).cloned()
    }

    /// Forgets what a name has shown, which is not followed any more.
    pub fn forget(&mut self, name: &str) {
        for event in self.by_name.remove(name).into_iter().flatten() {
            if self.by_event.get(&event).is_some_and(|of| &**of == name) {
                self.by_event.remove(&event);
            }
        }
    }
}

/// The names of a pool that wait, by the ledger's name of whom they are another name of.
#[derive(Debug, Default)]
pub struct Twins {
    by_user: HashMap<String, Vec<Waiting>>,
    names: HashSet<String>,
}

#[derive(Debug)]
struct Waiting {
    name: String,
    /// The ledger's name for it.
    stored: String,
    seen: UnixMillis,
}

impl Twins {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether this name waits.
    pub fn holds(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// A name (`stored`: as the ledger has it) waits as another name of `of`; `seen` is when both were last seen to be one.
    /// Whoever is itself another name of somebody passes its own on to that one.
    pub fn wait(&mut self, name: &str, stored: &str, of: &str, seen: UnixMillis) {
        self.remove(name);
        let is_of = |waiting: &[Waiting]| waiting.iter().any(|waiting| waiting.stored == of);
        let root = self.by_user.iter().find(|(_, waiting)| is_of(waiting)).map(|(user, _)| user.clone());
        let mut its_own = self.by_user.remove(stored).unwrap_or_default();
        let waiting = self.by_user.entry(root.unwrap_or_else(|| of.to_owned())).or_default();
        waiting.push(Waiting { name: name.to_owned(), stored: stored.to_owned(), seen });
        waiting.append(&mut its_own);
        self.names.insert(name.to_owned());
    }

    /// The name has left; answers whether it waited.
    pub fn remove(&mut self, name: &str) -> bool {
        let waited = self.names.remove(name);
        if waited {
            self.by_user.values_mut().for_each(|waiting| waiting.retain(|waiting| waiting.name != name));
            self.by_user.retain(|_, waiting| !waiting.is_empty());
        }
        waited
    }

    /// The user whom the ledger calls so has left: the names that waited with it.
    pub fn release(&mut self, of: &str) -> Vec<String> {
        let names: Vec<_> = self.by_user.remove(of).into_iter().flatten().map(|waiting| waiting.name).collect();
        names.iter().for_each(|name| _ = self.names.remove(name));
        names
    }

    /// The names of a user that are to be looked at again.
    pub fn due(&self, of: &str, now: UnixMillis) -> Vec<String> {
        let waiting = self.by_user.get(of).map_or(&[][..], Vec::as_slice);
        // A clock that was set back puts nothing off.
        let is_due = |seen: UnixMillis| now < seen || now.since(seen) >= LOOK_AGAIN_EVERY;
        waiting.iter().filter(|waiting| is_due(waiting.seen)).map(|waiting| waiting.name.clone()).collect()
    }

    /// A name was looked at.
    pub fn looked_at(&mut self, name: &str, now: UnixMillis) {
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
        let mut shown = Shown::default();
        shown.take("ann", [event("1").key(), AuthEvent::default().key()].into_iter());
        assert_eq!(shown.other_name("ann@example.com", &[event("2"), event("1")]).as_deref(), Some("ann"));
        assert_eq!(shown.other_name("ann", &[event("1")]), None, "it is its own");
        assert_eq!(shown.other_name("ben", &[event("2"), AuthEvent::default()]), None, "no EventId is no sign");
        shown.take("ann", [event("2").key()].into_iter());
        assert_eq!(shown.other_name("ben", &[event("1")]), None, "only the newest are kept");
        shown.forget("ann");
        assert_eq!(shown.other_name("ben", &[event("2")]), None);
        let many = (0..100).map(|id| event(&id.to_string()).key());
        shown.take("ann", many);
        assert_eq!((shown.by_event.len(), shown.by_name["ann"].len()), (Shown::OF_A_NAME, Shown::OF_A_NAME));
    }

    #[test]
    fn names_wait_with_the_user_who_is_followed_and_are_looked_at_again() {
        let (now, hour) = (UnixMillis(1_000_000), |hours: u32| LOOK_AGAIN_EVERY * hours);
        let mut twins = Twins::default();
        twins.wait("ann@example.com", "ann@example.com", "ann", now);
        twins.wait("+1555", "+1555", "ann@example.com", now);
        assert_eq!((twins.len(), twins.holds("+1555"), twins.holds("ann")), (2, true, false));
        assert_eq!(twins.due("ann", now.plus(hour(1) / 2)), Vec::<String>::new());
        assert_eq!(twins.due("ann", now.plus(hour(1))), ["ann@example.com", "+1555"]);
        twins.looked_at("+1555", now.plus(hour(1)));
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
