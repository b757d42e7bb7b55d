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
//! horizon, it is watched for its outcome, or it lies inside an open walk and is known there. [`walk`](crate::walk) makes
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
        let its_own = before.open.into_iter().filter(|walk| walk.foot >= since);
        self.open = its_own.map(|walk| OpenWalk { end: walk.end.max(since), ..walk }).collect();
        self
    }

    /// Forgets every event that no rule keeps.
    pub(crate) fn prune(&mut self) {
        let (horizon, open) = (self.horizon, &self.open);
        self.seen.retain(|(time, _), sighting| {
            *time >= horizon || sighting.watch.is_some() || open.iter().any(|walk| walk.contains(*time))
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
}
