//! What is known of one user's history: the state between two pages.
//!
//! Pure. A history is taken in stretches of time. Everything at or above the [`Cursor`]'s *horizon* that was taken is
//! remembered one by one, so that a late arrival there can be told from an old acquaintance; below the horizon everything
//! counts as taken, except inside an [`OpenWalk`], a stretch that was begun and not finished:
//!
//! ```text
//!   newest                                                                   oldest
//!   last_seen          horizon         foot     (open walk)      end
//!   ----|-----------------|--------------|#########################|---------------->
//!       taken, remembered     taken           not taken, but for      taken, or older than
//!       one by one            and forgotten   what `seen` holds       anybody wants
//! ```
//!
//! One table, `seen`, remembers single events. An event stays in it for one of three reasons: it is at or above the
//! horizon, it is watched for its outcome, or it lies inside an open walk (or in a stretch that is delivered again, which
//! then knows its revision) and is known there. [`walk`](crate::walk) makes
//! the moves; this file keeps what must hold between them.

use std::collections::{BTreeMap, VecDeque};

use crate::event::{EventKey, Facts, MutableDigest, UnixMillis};
use crate::source::PageToken;

/// The newest event that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastSeen {
    /// Its CreationDate.
    pub time: UnixMillis,
    /// Its EventId, where it had one.
    pub id: Option<String>,
}

/// What is remembered of one event that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// Digest of its mutable part when it was last seen.
    pub digest: MutableDigest,
    /// Revisions seen so far.
    pub revision: u32,
    /// Whether it is counted live, decided at first sight for good: history stays history.
    pub live: bool,
    /// What the counters know of it.
    pub facts: Facts,
    /// Present while it is in progress and its outcome is awaited.
    pub watch: Option<Watch>,
}

/// The wait for an event's outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watch {
    /// When the wait ends; the next look after it decides.
    pub until: UnixMillis,
    /// When a poll shall reach down to the event again.
    pub next_look: UnixMillis,
    /// Polls that set out for the look after `until` so far.
    pub last_looks: u32,
}

/// A stretch of history that was begun and not finished: everything in it, from `end` to `foot` inclusive, is still to be
/// taken, except what the cursor has `seen`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenWalk {
    /// Where Cognito's paging goes on; None: from the top again.
    pub token: Option<PageToken>,
    /// Time of the oldest event read so far. Others may share its millisecond.
    pub foot: UnixMillis,
    /// The oldest time that belongs to the walk.
    pub end: UnixMillis,
}

impl OpenWalk {
    /// Whether an event of this time may be one that the walk has yet to take.
    pub fn contains(&self, time: UnixMillis) -> bool {
        self.end <= time && time <= self.foot
    }
}

/// The state of one user's history between two pages. Written with what it accounts for, in one atomic write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// Events at or after this time are live, older ones history.
    pub(crate) live_since: UnixMillis,
    /// The newest event taken, in a poll from the top.
    pub(crate) last_seen: Option<LastSeen>,
    /// Everything taken at or above this time is in `seen`; never moves back.
    pub(crate) horizon: UnixMillis,
    /// When a poll last read an overlap of several pages in full.
    pub(crate) reread_at: UnixMillis,
    /// Events that are remembered one by one.
    pub(crate) seen: BTreeMap<(UnixMillis, EventKey), Sighting>,
    /// Events without a CreationDate, oldest acquaintance first, at most [`Cursor::UNDATED_MAX`].
    pub(crate) undated: VecDeque<(EventKey, Sighting)>,
    /// Stretches begun and not finished.
    pub(crate) open: Vec<OpenWalk>,
    /// What is left of a stretch that was taken before and is to be logged again; see [`Cursor::rewind`].
    pub(crate) redelivery: Option<OpenWalk>,
}

impl Cursor {
    /// Events without a CreationDate that are remembered. The service has never been seen to send one; the bound keeps
    /// the cursor small if it does.
    pub const UNDATED_MAX: usize = 256;

    /// A user of whom nothing is known: events from `live_since` on are live, and nothing older than `history_from` is
    /// wanted.
    pub fn new(live_since: UnixMillis, history_from: UnixMillis) -> Self {
        Self {
            live_since,
            last_seen: None,
            horizon: history_from.min(live_since),
            reread_at: UnixMillis::MIN,
            seen: BTreeMap::new(),
            undated: VecDeque::new(),
            open: Vec::new(),
            redelivery: None,
        }
    }

    /// Events at or after this time are live.
    pub fn live_since(&self) -> UnixMillis {
        self.live_since
    }

    /// The newest event taken.
    pub fn last_seen(&self) -> Option<&LastSeen> {
        self.last_seen.as_ref()
    }

    /// The stretches that wait in the lane for backlog.
    pub fn open_walks(&self) -> &[OpenWalk] {
        &self.open
    }

    /// From this time on everything that was taken is remembered one by one.
    pub fn horizon(&self) -> UnixMillis {
        self.horizon
    }

    /// How many events are remembered one by one.
    pub fn remembered(&self) -> usize {
        self.seen.len() + self.undated.len()
    }

    /// How many events in progress are watched for their outcome.
    pub fn watched(&self) -> usize {
        self.watches().count()
    }

    /// What is still to be logged again.
    pub fn redelivery(&self) -> Option<&OpenWalk> {
        self.redelivery.as_ref()
    }

    /// Has everything that was taken from `from` on logged again; answers false if there is nothing.
    ///
    /// Nothing is counted again, by this rule: *the walk over such a stretch moves no counter, and takes nothing that a poll
    /// or an open walk has yet to take.* What was taken is below the horizon and outside every open walk, or it is
    /// remembered in `seen`; so nothing else has to be marked, and every other rule stays as it is.
    pub fn rewind(&mut self, from: UnixMillis) -> bool {
        let newest = self.seen.keys().next_back().map(|(time, _)| *time);
        let Some(foot) = newest.max(self.last_seen.as_ref().map(|last| last.time)) else { return false };
        let end = self.redelivery.as_ref().map_or(from, |before| before.end.min(from));
        if end <= foot {
            self.redelivery = Some(OpenWalk { token: None, foot, end });
        }
        end <= foot
    }

    /// When a poll shall look for the outcome of an event in progress, if any is watched.
    pub fn next_look(&self) -> Option<UnixMillis> {
        self.watches().map(|(_, watch)| watch.next_look).min()
    }

    /// The watched events' places and watches.
    pub(crate) fn watches(&self) -> impl Iterator<Item = ((UnixMillis, EventKey), Watch)> {
        self.seen.iter().filter_map(|(place, sighting)| sighting.watch.map(|watch| (*place, watch)))
    }

    /// Whether an event of this time lies in a stretch that is still to be taken.
    pub(crate) fn in_open_walk(&self, time: UnixMillis) -> bool {
        self.open.iter().any(|walk| walk.contains(time))
    }

    /// Remembers an event without a CreationDate, forgetting the oldest acquaintance at the bound.
    pub(crate) fn remember_undated(&mut self, key: EventKey, sighting: Sighting) {
        if self.undated.len() >= Self::UNDATED_MAX {
            self.undated.pop_front();
        }
        self.undated.push_back((key, sighting));
    }

    /// Moves the horizon up to `horizon`; it never moves down.
    pub(crate) fn raise_horizon(&mut self, horizon: UnixMillis) {
        self.horizon = self.horizon.max(horizon);
    }

    /// What is known of a history that was followed twice: by this cursor, and later, from its own `live_since` on, by
    /// `later`. What lies between the two is still to be taken.
    ///
    /// ```text
    ///   newest                                                      oldest
    ///   ---- later, live ----| live_since       horizon |---- self ------->
    ///                        |#######  open walk  ######|
    /// ```
    pub(crate) fn joined_by(mut self, later: Self) -> Self {
        let end = self.horizon;
        self.horizon = self.horizon.max(later.horizon);
        // What `later` took below its live_since it did not count, and what is at or above the horizon is told one by one.
        let foot = UnixMillis(later.live_since.min(self.horizon).0.saturating_sub(1));
        if end <= foot {
            self.open.push(OpenWalk { token: None, foot, end });
        }
        self.open.extend(later.open);
        self.live_since = self.live_since.min(later.live_since);
        self.last_seen = later.last_seen.or(self.last_seen);
        self.reread_at = self.reread_at.max(later.reread_at);
        self.redelivery = self.redelivery.or(later.redelivery);
        self.seen.extend(later.seen);
        later.undated.into_iter().for_each(|(key, sighting)| self.remember_undated(key, sighting));
        self.prune();
        self
    }

    /// What is known of somebody whose history began at `since`, under a name that was another's before: what a new cursor
    /// knows, and what was taken of it already by polls that knew no better.
    pub(crate) fn succeeding(mut self, before: Self, since: UnixMillis) -> Self {
        if before.last_seen.as_ref().is_none_or(|last| last.time < since) {
            return self; // the newest that was taken was the other's
        }
        (self.last_seen, self.horizon, self.reread_at) = (before.last_seen, before.horizon, before.reread_at);
        self.seen = before.seen.into_iter().filter(|((time, _), _)| *time >= since).collect();
        self.undated = before.undated;
        let its_own = |walk: OpenWalk| {
            let end = walk.end.max(since);
            (walk.foot >= since).then_some(OpenWalk { end, ..walk })
        };
        self.open = before.open.into_iter().filter_map(its_own).collect();
        self.redelivery = before.redelivery.and_then(its_own);
        self
    }

    /// The newest events that are remembered, newest first.
    pub(crate) fn newest(&self) -> impl Iterator<Item = EventKey> {
        self.seen.keys().rev().map(|(_, key)| *key)
    }

    /// Takes what `other` remembers for taken, and nothing else that it says: whether all below its horizon was of this history
    /// is not known.
    pub(crate) fn remember_with(&mut self, other: &Self) {
        for (place, sighting) in &other.seen {
            self.seen.entry(*place).or_insert_with(|| sighting.clone());
        }
        self.prune();
    }

    /// Forgets every event that no rule keeps.
    pub(crate) fn prune(&mut self) {
        let (horizon, open, redelivery) = (self.horizon, &self.open, &self.redelivery);
        self.seen.retain(|(time, _), sighting| {
            *time >= horizon
                || sighting.watch.is_some()
                || open.iter().chain(redelivery).any(|walk| walk.contains(*time))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::AuthEvent;

    /// A cursor that has taken events at these times, followed live since `live_since`.
    fn taken(live_since: i64, horizon: i64, times: &[i64]) -> Cursor {
        let mut cursor = Cursor::new(UnixMillis(live_since), UnixMillis(live_since));
        cursor.horizon = UnixMillis(horizon);
        for time in times {
            let event = AuthEvent { id: Some(time.to_string()), ..AuthEvent::default() };
            let sighting =
                Sighting { digest: event.mutable_digest(), revision: 0, live: true, facts: event.facts(), watch: None };
            cursor.seen.insert((UnixMillis(*time), event.key()), sighting);
            cursor.last_seen = Some(LastSeen { time: UnixMillis(*time), id: event.id });
        }
        cursor
    }

    fn times(cursor: &Cursor) -> Vec<i64> {
        cursor.seen.keys().map(|(time, _)| time.0).collect()
    }

    #[test]
    fn a_history_followed_twice_is_taken_in_between_and_nowhere_else() {
        let joined = taken(100, 900, &[950, 1000]).joined_by(taken(5000, 5900, &[5950, 6000]));
        assert_eq!(joined.open, [OpenWalk { token: None, foot: UnixMillis(4999), end: UnixMillis(900) }]);
        assert_eq!((joined.live_since, joined.horizon), (UnixMillis(100), UnixMillis(5900)));
        assert_eq!(times(&joined), [950, 1000, 5950, 6000], "those in between are known there");
        assert_eq!(joined.last_seen.unwrap().time, UnixMillis(6000));
    }

    #[test]
    fn a_history_followed_twice_at_one_time_has_nothing_in_between() {
        let joined = taken(100, 900, &[1000]).joined_by(taken(800, 950, &[1000, 1100]));
        assert_eq!((joined.open.as_slice(), joined.horizon), ([].as_slice(), UnixMillis(950)));
        assert_eq!(times(&joined), [1000, 1100]);
    }

    #[test]
    fn who_takes_a_name_over_knows_its_own_and_nothing_of_the_other() {
        let fresh = Cursor::new(UnixMillis::MIN, UnixMillis::MIN);
        let before = || {
            let mut before = taken(100, 400, &[500, 600, 700]);
            let walk = |foot, end| OpenWalk { token: None, foot: UnixMillis(foot), end: UnixMillis(end) };
            before.open = vec![walk(550, 450), walk(650, 300)];
            before
        };
        assert_eq!(fresh.clone().succeeding(before(), UnixMillis(701)), fresh);
        let successor = fresh.succeeding(before(), UnixMillis(600));
        assert_eq!(times(&successor), [600, 700]);
        assert_eq!(successor.live_since, UnixMillis::MIN);
        assert_eq!(successor.open, [OpenWalk { token: None, foot: UnixMillis(650), end: UnixMillis(600) }]);
    }

    #[test]
    fn a_rewind_goes_from_the_newest_taken_down_and_a_second_one_adds_to_it() {
        let mut cursor = taken(100, 900, &[500, 950, 1000]);
        assert!(cursor.rewind(UnixMillis(700)));
        assert!(cursor.rewind(UnixMillis(800)));
        assert_eq!(cursor.redelivery, Some(OpenWalk { token: None, foot: UnixMillis(1000), end: UnixMillis(700) }));
        assert!(!taken(100, 900, &[1000]).rewind(UnixMillis(1001)), "newer than everything");
        assert!(!taken(100, 900, &[]).rewind(UnixMillis(0)), "nothing was taken");
    }
}
