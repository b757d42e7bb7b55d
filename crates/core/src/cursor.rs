//! What is known of one user's history: the state between two pages.
//!
//! Pure. A history is taken in stretches of time. Everything at or above the [`Cursor`]'s *watermark* that was taken is
//! remembered one by one, so that a late arrival there can be told from an old acquaintance; below the watermark everything
//! counts as taken, except inside an [`OpenWalk`], a stretch that was begun and not finished:
//!
//! ```text
//!   newest                                                                   oldest
//!   last_seen          watermark         lower edge     (open walk)      end
//!   ----|-----------------|--------------|#########################|---------------->
//!       taken, remembered     taken           not taken, but for      taken, or older than
//!       one by one            and forgotten   what `seen` holds       anybody wants
//! ```
//!
//! One table, `seen`, remembers single events, each under its [`EventKey`] alone. An event's CreationDate is no part of its
//! identity: the service may show one event with two dates or with another date than before. So `seen` keeps the oldest and
//! the newest date that each event was shown with. An event stays in `seen` for one of four reasons:
//!
//! | reason | why |
//! |---|---|
//! | its newest date is at or above the watermark | a poll would take it for new |
//! | its dates touch an open walk, or a stretch that is delivered again | that walk would take it for new, or must know its revision |
//! | it is watched for its outcome | the outcome is a revision |
//! | it was shown without a date, as one of the last [`Cursor::UNDATED_MAX`] | no place in time says whether it was taken |
//!
//! The first two allow for a date that moves by up to [`Cursor::DATE_DRIFT`]. One that moves further after its event was
//! forgotten makes it another event, and one that moves out of an open walk before its event was read hides it; no bounded
//! memory can tell.
//!
//! No date is trusted. `last_seen` and the watermark never pass the time at which the history was read, as
//! [`walk`](crate::walk) determines it. [`walk`](crate::walk) makes the moves; this file keeps what must hold between them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::event::{EventKey, EventResponse, Facts, Label, MutableDigest, UnixMillis};
use crate::page::PageToken;

/// The newest event that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastSeen {
    /// Its CreationDate; the time of reading, where the CreationDate was ahead of that.
    pub time: UnixMillis,
    /// Its EventId, where it had one.
    pub id: Option<String>,
}

/// The oldest and the newest CreationDate that an event was shown with; nearly always the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dates {
    /// The oldest.
    pub oldest: UnixMillis,
    /// The newest.
    pub newest: UnixMillis,
}

impl Dates {
    /// The dates of an event that was shown with this one only.
    pub fn of(date: UnixMillis) -> Self {
        Self { oldest: date, newest: date }
    }

    fn and(self, other: Self) -> Self {
        Self { oldest: self.oldest.min(other.oldest), newest: self.newest.max(other.newest) }
    }
}

/// What is remembered of one event that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// The dates that it was shown with, if any.
    pub dates: Option<Dates>,
    /// Digest of its mutable part in its latest revision.
    pub digest: MutableDigest,
    /// Digests of the revisions before, oldest first, at most [`Sighting::FORMER_MAX`]. The service may show one event in
    /// two states at once; a state that was told is not told again.
    pub former: Vec<MutableDigest>,
    /// Revisions seen so far.
    pub revision: u32,
    /// Whether it is counted live, decided at first sight for good: history stays history.
    pub live: bool,
    /// What the counters know of it.
    pub facts: Facts,
    /// Present while it is in progress and its outcome is awaited.
    pub watch: Option<Watch>,
}

impl Sighting {
    /// Former states that are remembered. An event has a handful: a sign-in's steps, its outcome, feedback. One that has
    /// shown so many tells nothing more, which bounds what a history that never settles can make the exporter write.
    pub const FORMER_MAX: usize = 64;

    /// The revision in which this state was told, if it was.
    pub fn revision_of(&self, digest: MutableDigest) -> Option<u32> {
        if digest == self.digest {
            return Some(self.revision);
        }
        let since = self.former.iter().rev().position(|former| *former == digest)?;
        Some(self.revision.saturating_sub(u32::try_from(since).unwrap_or(u32::MAX).saturating_add(1)))
    }

    /// Takes note of a date that the event was shown with.
    pub fn shown_at(&mut self, date: UnixMillis) {
        self.dates = Some(self.dates.map_or(Dates::of(date), |dates| dates.and(Dates::of(date))));
    }

    /// One event that was remembered twice: by a build that told events apart by their dates, or under two names. Its state
    /// is the newer one; both were told, so neither is told again.
    pub fn merged_with(self, other: Self) -> Self {
        let age = |sighting: &Self| {
            let has_ended = sighting.facts.response != Label::Known(EventResponse::InProgress);
            (has_ended, sighting.dates.map(|dates| dates.newest), sighting.revision)
        };
        let (older, mut newer) = if age(&self) > age(&other) { (other, self) } else { (self, other) };
        newer.dates = match (newer.dates, older.dates) {
            (Some(dates), Some(others)) => Some(dates.and(others)),
            (one, other) => one.or(other),
        };
        newer.revision = newer.revision.max(older.revision);
        newer.facts.compromised |= older.facts.compromised;
        let mut former: Vec<MutableDigest> = vec![];
        for digest in older.former.into_iter().chain([older.digest]).chain(newer.former) {
            if digest != newer.digest && !former.contains(&digest) && former.len() < Self::FORMER_MAX {
                former.push(digest);
            }
        }
        newer.former = former;
        newer
    }
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

/// A stretch of history that was begun and not finished: everything in it, from `end` to `lower_edge` inclusive, is still to be
/// taken, except what the cursor has `seen`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenWalk {
    /// Where Cognito's paging goes on; None: from the top again.
    pub token: Option<PageToken>,
    /// Time of the oldest event read so far. Others may share its millisecond.
    pub lower_edge: UnixMillis,
    /// The oldest time that belongs to the walk.
    pub end: UnixMillis,
}

impl OpenWalk {
    /// Whether an event of this time may be one that the walk has yet to take.
    pub fn contains(&self, time: UnixMillis) -> bool {
        self.end <= time && time <= self.lower_edge
    }

    /// Whether an event of these dates may be shown to the walk.
    fn touches(&self, dates: Dates) -> bool {
        self.end.minus(Cursor::DATE_DRIFT) <= dates.newest && dates.oldest <= self.lower_edge.plus(Cursor::DATE_DRIFT)
    }
}

/// The state of one user's history between two pages. Written with what it accounts for, in one atomic write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// Events at or after this time are live, older ones history.
    pub live_since: UnixMillis,
    /// The newest event taken, in a poll from the top.
    pub last_seen: Option<LastSeen>,
    /// Everything taken at or above this time is in `seen`. It never moves back, unless it was ahead of every clock.
    pub watermark: UnixMillis,
    /// When a poll last read an overlap of several pages in full.
    pub reread_at: UnixMillis,
    /// Events that are remembered one by one.
    pub seen: BTreeMap<EventKey, Sighting>,
    /// Those of `seen` that were shown without a CreationDate, oldest acquaintance first, at most [`Cursor::UNDATED_MAX`].
    pub undated: VecDeque<EventKey>,
    /// Stretches begun and not finished.
    pub open: Vec<OpenWalk>,
    /// What is left of a stretch that was taken before and is to be logged again; see [`Cursor::rewind`].
    pub redelivery: Option<OpenWalk>,
}

impl Cursor {
    /// Events without a CreationDate that are remembered. The service has never been seen to send one; the bound keeps
    /// the cursor small if it does.
    pub const UNDATED_MAX: usize = 256;

    /// How far a CreationDate may move, or two dates of one event may lie apart, at the edge of what is remembered. The
    /// API's dates have milliseconds, Cognito's export cuts them to seconds, and a minute allows for two clocks.
    pub const DATE_DRIFT: Duration = Duration::from_mins(1);

    /// A user of whom nothing is known: events from `live_since` on are live, and nothing older than `history_from` is
    /// wanted.
    pub fn new(live_since: UnixMillis, history_from: UnixMillis) -> Self {
        Self {
            live_since,
            last_seen: None,
            watermark: history_from.min(live_since),
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
    pub fn watermark(&self) -> UnixMillis {
        self.watermark
    }

    /// How many events are remembered one by one.
    pub fn remembered(&self) -> usize {
        self.seen.len()
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
    /// or an open walk has yet to take.* What was taken is below the watermark and outside every open walk, or it is
    /// remembered in `seen`; so nothing else has to be marked, and every other rule stays as it is.
    pub fn rewind(&mut self, from: UnixMillis) -> bool {
        let newest = self.seen.values().filter_map(|sighting| sighting.dates).map(|dates| dates.newest).max();
        let Some(lower_edge) = newest.max(self.last_seen.as_ref().map(|last| last.time)) else { return false };
        let end = self.redelivery.as_ref().map_or(from, |before| before.end.min(from));
        if end <= lower_edge {
            self.redelivery = Some(OpenWalk { token: None, lower_edge, end });
        }
        end <= lower_edge
    }

    /// When a poll shall look for the outcome of an event in progress, if any is watched.
    pub fn next_look(&self) -> Option<UnixMillis> {
        self.watches().map(|(_, _, watch)| watch.next_look).min()
    }

    /// The watched events, where they are to be looked for, and their watches.
    pub fn watches(&self) -> impl Iterator<Item = (EventKey, Option<Dates>, Watch)> {
        self.seen.iter().filter_map(|(key, sighting)| Some((*key, sighting.dates, sighting.watch?)))
    }

    /// Whether an event of this time lies in a stretch that is still to be taken.
    pub fn in_open_walk(&self, time: UnixMillis) -> bool {
        self.open.iter().any(|walk| walk.contains(time))
    }

    /// Keeps an event of `seen`, shown without a CreationDate, for as long as it is one of the latest of those.
    pub fn keep_undated(&mut self, key: EventKey) {
        if self.undated.contains(&key) {
            return;
        }
        if self.undated.len() >= Self::UNDATED_MAX {
            // What dates it has may keep it; `prune` decides.
            self.undated.pop_front();
        }
        self.undated.push_back(key);
    }

    /// Brings back what lies ahead of every clock: no time can have been read that had not come. `served` is the service's
    /// time of an answer, `received` the local clock's.
    ///
    /// Nothing is remembered of the time between, so what comes from now on is taken, as it should be. What an older build
    /// passed there is not found again.
    ///
    /// | the cursor | comes from | is brought back to |
    /// |---|---|---|
    /// | has taken nothing | a local clock that is ahead: the user has joined in the service's future | as long before `served` as it was before `received` |
    /// | has taken something | a build that followed an event dated ahead | the later of both clocks |
    ///
    /// The later of both, because the lower a watermark is brought, the more is taken again: one clock that is behind must not
    /// do that alone. Answers whether anything was ahead.
    pub fn set_right(&mut self, served: UnixMillis, received: UnixMillis) -> bool {
        if self.last_seen.is_none() && self.seen.is_empty() && self.open.is_empty() {
            let is_ahead = self.live_since > served;
            if is_ahead {
                // `served` is the end of a second: the answer may have been written at its beginning.
                let joined = served.minus(received.since(self.live_since)).minus(Duration::from_secs(1));
                let by = self.live_since.since(joined);
                (self.live_since, self.watermark) = (joined, self.watermark.minus(by));
            }
            return is_ahead;
        }
        let latest = served.max(received);
        let last = self.last_seen.as_mut().filter(|last| last.time > latest);
        let is_ahead = last.is_some() || self.watermark > latest;
        if let Some(last) = last {
            last.time = latest;
        }
        self.watermark = self.watermark.min(latest);
        is_ahead
    }

    /// Moves the watermark up to `watermark`; it never moves down.
    pub fn raise_watermark(&mut self, watermark: UnixMillis) {
        self.watermark = self.watermark.max(watermark);
    }

    /// What is known of a history that was followed twice: by this cursor, and later, from its own `live_since` on, by
    /// `later`. What lies between the two is still to be taken.
    ///
    /// ```text
    ///   newest                                                      oldest
    ///   ---- later, live ----| live_since       watermark |---- self ------->
    ///                        |#######  open walk  ######|
    /// ```
    pub fn joined_by(mut self, later: Self) -> Self {
        let end = self.watermark;
        self.watermark = self.watermark.max(later.watermark);
        // What `later` took below its live_since it did not count, and what is at or above the watermark is told one by one.
        let lower_edge = UnixMillis(later.live_since.min(self.watermark).0.saturating_sub(1));
        if end <= lower_edge {
            self.open.push(OpenWalk { token: None, lower_edge, end });
        }
        self.open.extend(later.open);
        self.live_since = self.live_since.min(later.live_since);
        self.last_seen = later.last_seen.or(self.last_seen);
        self.reread_at = self.reread_at.max(later.reread_at);
        self.redelivery = self.redelivery.or(later.redelivery);
        for (key, sighting) in later.seen {
            let sighting = match self.seen.remove(&key) {
                Some(before) => before.merged_with(sighting),
                None => sighting,
            };
            self.seen.insert(key, sighting);
        }
        later.undated.into_iter().for_each(|key| self.keep_undated(key));
        self.prune();
        self
    }

    /// What is known of somebody whose history began at `since`, under a name that was another's before: what a new cursor
    /// knows, and what was taken of it already by polls that knew no better.
    pub fn succeeding(mut self, before: Self, since: UnixMillis) -> Self {
        if before.last_seen.as_ref().is_none_or(|last| last.time < since) {
            return self; // the newest that was taken was the other's
        }
        (self.last_seen, self.watermark, self.reread_at) = (before.last_seen, before.watermark, before.reread_at);
        let is_its_own = |sighting: &Sighting| sighting.dates.is_none_or(|dates| dates.newest >= since);
        self.seen = before.seen.into_iter().filter(|(_, sighting)| is_its_own(sighting)).collect();
        self.undated = before.undated.into_iter().filter(|key| self.seen.contains_key(key)).collect();
        let its_own = |walk: OpenWalk| {
            let end = walk.end.max(since);
            (walk.lower_edge >= since).then_some(OpenWalk { end, ..walk })
        };
        self.open = before.open.into_iter().filter_map(its_own).collect();
        self.redelivery = before.redelivery.and_then(its_own);
        self
    }

    /// The newest events that are remembered, newest first; none of those without a date.
    pub fn newest(&self) -> impl Iterator<Item = EventKey> {
        let dated = self.seen.iter().filter_map(|(key, sighting)| Some((sighting.dates?.newest, *key)));
        let mut newest: Vec<_> = dated.collect();
        newest.sort_unstable_by(|one, other| other.cmp(one));
        newest.into_iter().map(|(_, key)| key)
    }

    /// Takes what `other` remembers for taken, and nothing else that it says: whether all below its watermark was of this history
    /// is not known.
    pub fn remember_with(&mut self, other: &Self) {
        for (key, sighting) in &other.seen {
            self.seen.entry(*key).or_insert_with(|| sighting.clone());
        }
        other.undated.iter().for_each(|key| self.keep_undated(*key));
        self.prune();
    }

    /// From this time on an event is remembered, whether it is watched or not.
    pub fn remembered_from(&self) -> UnixMillis {
        self.watermark.minus(Self::DATE_DRIFT)
    }

    /// Forgets every event that no rule keeps.
    pub fn prune(&mut self) {
        let (remembered_from, undated) = (self.remembered_from(), &self.undated);
        let walks = || self.open.iter().chain(&self.redelivery);
        self.seen.retain(|key, sighting| {
            sighting.watch.is_some()
                || sighting
                    .dates
                    .is_some_and(|dates| dates.newest >= remembered_from || walks().any(|walk| walk.touches(dates)))
                || undated.contains(key)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::AuthEvent;

    /// A cursor that has taken events at these times, followed live since `live_since`.
    fn taken(live_since: i64, watermark: i64, times: &[i64]) -> Cursor {
        let mut cursor = Cursor::new(UnixMillis(live_since), UnixMillis(live_since));
        cursor.watermark = UnixMillis(watermark);
        for time in times {
            let event = AuthEvent { id: Some(time.to_string()), ..AuthEvent::default() };
            let sighting = Sighting {
                dates: Some(Dates::of(UnixMillis(*time))),
                digest: event.mutable_digest(),
                former: vec![],
                revision: 0,
                live: true,
                facts: event.facts(),
                watch: None,
            };
            cursor.seen.insert(event.key(), sighting);
            cursor.last_seen = Some(LastSeen { time: UnixMillis(*time), id: event.id });
        }
        cursor
    }

    fn times(cursor: &Cursor) -> Vec<i64> {
        let mut times: Vec<_> = cursor.seen.values().map(|sighting| sighting.dates.unwrap().newest.0).collect();
        times.sort_unstable();
        times
    }

    #[test]
    fn a_history_followed_twice_is_taken_in_between_and_nowhere_else() {
        let joined = taken(100, 900, &[950, 1000]).joined_by(taken(5000, 5900, &[5950, 6000]));
        assert_eq!(joined.open, [OpenWalk { token: None, lower_edge: UnixMillis(4999), end: UnixMillis(900) }]);
        assert_eq!((joined.live_since, joined.watermark), (UnixMillis(100), UnixMillis(5900)));
        assert_eq!(times(&joined), [950, 1000, 5950, 6000], "those in between are known there");
        assert_eq!(joined.last_seen.unwrap().time, UnixMillis(6000));
    }

    #[test]
    fn a_history_followed_twice_at_one_time_has_nothing_in_between() {
        let joined = taken(100, 900, &[1000]).joined_by(taken(800, 950, &[1000, 1100]));
        assert_eq!((joined.open.as_slice(), joined.watermark), ([].as_slice(), UnixMillis(950)));
        assert_eq!(times(&joined), [1000, 1100]);
    }

    #[test]
    fn who_takes_a_name_over_knows_its_own_and_nothing_of_the_other() {
        let fresh = Cursor::new(UnixMillis::MIN, UnixMillis::MIN);
        let before = || {
            let mut before = taken(100, 400, &[500, 600, 700]);
            let walk =
                |lower_edge, end| OpenWalk { token: None, lower_edge: UnixMillis(lower_edge), end: UnixMillis(end) };
            before.open = vec![walk(550, 450), walk(650, 300)];
            before
        };
        assert_eq!(fresh.clone().succeeding(before(), UnixMillis(701)), fresh);
        let successor = fresh.succeeding(before(), UnixMillis(600));
        assert_eq!(times(&successor), [600, 700]);
        assert_eq!(successor.live_since, UnixMillis::MIN);
        assert_eq!(successor.open, [OpenWalk { token: None, lower_edge: UnixMillis(650), end: UnixMillis(600) }]);
    }

    #[test]
    fn a_rewind_goes_from_the_newest_taken_down_and_a_second_one_adds_to_it() {
        let mut cursor = taken(100, 900, &[500, 950, 1000]);
        assert!(cursor.rewind(UnixMillis(700)));
        assert!(cursor.rewind(UnixMillis(800)));
        assert_eq!(
            cursor.redelivery,
            Some(OpenWalk { token: None, lower_edge: UnixMillis(1000), end: UnixMillis(700) })
        );
        assert!(!taken(100, 900, &[1000]).rewind(UnixMillis(1001)), "newer than everything");
        assert!(!taken(100, 900, &[]).rewind(UnixMillis(0)), "nothing was taken");
    }
}
