//! A user's position in its history: the state between two pages.
//!
//! Pure. A history is taken in stretches of time. At or above the [`Cursor`]'s *watermark* every taken event is
//! remembered one by one, so that a late arrival can be told from a known event. Below the watermark every event counts
//! as taken, except inside an [`OpenWalk`], which is a stretch that was begun and not finished:
//!
//! ```text
//!   newest                                                                   oldest
//!   last_seen          watermark         lower edge     (open walk)      end
//!   ----|-----------------|--------------|#########################|---------------->
//!       taken, remembered     taken           not taken, except       taken, or older
//!       one by one            and forgotten   events in `seen`        than wanted
//! ```
//!
//! One table, `seen`, remembers single events, each under its [`EventKey`] alone. An event's CreationDate is no part of
//! its identity, because the service may show one event with two dates, or with another date than before. So `seen`
//! keeps the oldest and the newest date of each event. An event stays in `seen` for one of four reasons:
//!
//! | reason | why |
//! |---|---|
//! | its newest date is at or above the watermark | a poll would take it for new |
//! | its dates touch an open walk, or a stretch that is delivered again | that walk would take it for new, or needs its revision |
//! | it is watched for its outcome | the outcome is a revision |
//! | it was shown without a date, as one of the last [`Cursor::UNDATED_MAX`] | no place in time says whether it was taken |
//!
//! The first two allow for a date that moves by up to [`Cursor::DATE_DRIFT`]. A date may move further after its event
//! was forgotten; then the event counts as another one. A date may also move out of an open walk before its event was
//! read; then the event is missed. A bounded memory cannot prevent either.
//!
//! No date is trusted. `last_seen` and the watermark never pass the time at which the history was read, as
//! [`walk`](crate::walk) determines it. [`walk`](crate::walk) moves the cursor, and this module keeps the rules that
//! hold between two moves.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::event::{AuthEvent, EventKey, EventResponse, Facts, Label, MutableDigest, UnixMillis};
use crate::page::PageToken;

/// The newest event that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastSeen {
    /// Its CreationDate, or the time of reading where the CreationDate was ahead of that.
    pub time: UnixMillis,
    /// Its EventId, where it had one.
    pub id: Option<String>,
}

/// The oldest and the newest CreationDate that an event was shown with. They are nearly always equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dates {
    /// The oldest date.
    pub oldest: UnixMillis,
    /// The newest date.
    pub newest: UnixMillis,
}

impl Dates {
    /// The dates of an event that was shown with this date only.
    pub fn of(date: UnixMillis) -> Self {
        Self { oldest: date, newest: date }
    }

    fn and(self, other: Self) -> Self {
        Self { oldest: self.oldest.min(other.oldest), newest: self.newest.max(other.newest) }
    }
}

/// The state with which a sighting is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compared {
    /// With one that the same source told: every detail of the mutable part counts.
    WithItsOwn,
    /// With one that another source may have told: only facts that both can tell count.
    WithAnother,
}

/// The remembered state of one event that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// The dates that it was shown with; None if it never had one.
    pub dates: Option<Dates>,
    /// Digest of its mutable part in its latest revision.
    pub digest: MutableDigest,
    /// Digests of the earlier revisions, oldest first, at most [`Sighting::FORMER_MAX`]. The service may show one event
    /// in two states by turns, and a state that was told is not told again.
    pub former: Vec<MutableDigest>,
    /// The number of revisions so far; 0 at first sight.
    pub revision: u32,
    /// Whether it is counted as live. That is decided at first sight and never changes.
    pub live: bool,
    /// The event as the counters see it.
    pub facts: Facts,
    /// The wait for its outcome, while it is in progress.
    pub watch: Option<Watch>,
}

impl Sighting {
    /// The largest number of former states that are remembered. A normal event has a handful: the steps of a sign-in,
    /// its outcome, feedback. An event with this many tells no further revisions, so a history that never settles
    /// cannot make the exporter write without end.
    pub const FORMER_MAX: usize = 64;

    /// The first sighting of an event, without a watch.
    pub(crate) fn first(event: &AuthEvent, live: bool, compared: Compared) -> Self {
        let digest = match compared {
            Compared::WithItsOwn => event.mutable_digest(),
            Compared::WithAnother => event.shared_digest(),
        };
        let (dates, facts) = (event.creation_date.map(Dates::of), event.facts());
        Self { dates, digest, former: Vec::new(), revision: 0, live, facts, watch: None }
    }

    /// The revision in which this state was told, if it was.
    pub fn revision_of(&self, digest: MutableDigest) -> Option<u32> {
        if digest == self.digest {
            return Some(self.revision);
        }
        let since = self.former.iter().rev().position(|former| *former == digest)?;
        Some(self.revision.saturating_sub(u32::try_from(since).unwrap_or(u32::MAX).saturating_add(1)))
    }

    /// Compares the event with its state as a source tells it now. If that is a revision, remembers it and answers the
    /// facts before. A state that was told before is no revision, and an outcome is final.
    pub(crate) fn revise(&mut self, event: &AuthEvent, compared: Compared) -> Option<Facts> {
        let falls_back = matches!(self.facts.response, Label::Known(EventResponse::Pass | EventResponse::Fail))
            && event.in_progress();
        // A pool's export may have been switched on or off since the event was remembered, so both digests count.
        let digests: [fn(&AuthEvent) -> MutableDigest; 2] = match compared {
            Compared::WithItsOwn => [AuthEvent::mutable_digest, AuthEvent::shared_digest],
            Compared::WithAnother => [AuthEvent::shared_digest, AuthEvent::mutable_digest],
        };
        let [digest, other] = digests;
        let digest = digest(event);
        let was_told = self.revision_of(digest).or_else(|| self.revision_of(other(event))).is_some();
        if falls_back || was_told || self.former.len() >= Self::FORMER_MAX {
            return None;
        }
        let told = event.facts();
        let facts = match compared {
            // Compromised credentials are counted when they are first found, and stay found.
            Compared::WithItsOwn => Facts { compromised: told.compromised || self.facts.compromised, ..told },
            Compared::WithAnother if self.facts.are_changed_by(&told) => self.facts.changed_by(&told),
            Compared::WithAnother => return None,
        };
        self.former.push(std::mem::replace(&mut self.digest, digest));
        self.revision = self.revision.saturating_add(1);
        if !event.in_progress() {
            self.watch = None;
        }
        Some(std::mem::replace(&mut self.facts, facts))
    }

    /// Takes over what another source has told of the event since.
    pub(crate) fn catch_up_with(&mut self, told: &Self) {
        if told.revision <= self.revision {
            return;
        }
        (self.digest, self.revision) = (told.digest, told.revision);
        (self.former, self.facts) = (told.former.clone(), told.facts.clone());
        if self.facts.response != Label::Known(EventResponse::InProgress) {
            self.watch = None;
        }
    }

    /// Adds a date that the event was shown with.
    pub(crate) fn shown_at(&mut self, date: UnixMillis) {
        self.dates = Some(self.dates.map_or(Dates::of(date), |dates| dates.and(Dates::of(date))));
    }

    /// Merges two sightings of one event, which was remembered under two names, or by a build that told events apart by
    /// their dates. The newer state stays. Both states were told, so neither is told again.
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
    /// When a poll must reach down to the event again.
    pub next_look: UnixMillis,
    /// The number of polls so far that set out for the look after `until`.
    pub last_looks: u32,
}

/// A stretch of history that was begun and not finished. Every event in it, from `end` to `lower_edge` inclusive, is
/// still to be taken, except the events that the cursor has `seen`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenWalk {
    /// The token of Cognito's next page; None: from the top again.
    pub token: Option<PageToken>,
    /// The time of the oldest event read so far. Other events may share its millisecond.
    pub lower_edge: UnixMillis,
    /// The oldest time that belongs to the walk.
    pub end: UnixMillis,
}

impl OpenWalk {
    /// Whether an event of this time lies in the walk, and so may still have to be taken.
    pub fn contains(&self, time: UnixMillis) -> bool {
        self.end <= time && time <= self.lower_edge
    }

    /// Whether an event of these dates may be shown to the walk.
    fn touches(&self, dates: Dates) -> bool {
        self.end.minus(Cursor::DATE_DRIFT) <= dates.newest && dates.oldest <= self.lower_edge.plus(Cursor::DATE_DRIFT)
    }
}

/// A place in a history that a walk has passed: the token of the page below it. A deep part of the history is read
/// again from there, without the pages above.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bookmark {
    /// The token of the page below.
    pub token: PageToken,
    /// The time of the oldest event above.
    pub time: UnixMillis,
}

impl Bookmark {
    /// The largest number of bookmarks of one user. With the shortest spacing they reach over 80 minutes, and with the
    /// longest overlap over four times that overlap.
    pub const KEPT_MAX: usize = 32;

    /// The shortest time between two bookmarks: half of the time between two re-readings.
    pub const SPACING_MIN: Duration = Duration::from_secs(150);

    /// The largest token that is kept, in bytes. AWS's samples have about 60, and the API allows 131,072.
    pub const TOKEN_BYTES_MAX: usize = 512;
}

/// The state of one user's history between two pages. Written with what it accounts for, in one atomic write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// Events at or after this time are live, older ones history.
    pub live_since: UnixMillis,
    /// The newest event taken.
    pub last_seen: Option<LastSeen>,
    /// Every event taken at or above this time is in `seen`. It never moves back, unless it was ahead of every clock.
    pub watermark: UnixMillis,
    /// When a poll last began to read an overlap of several pages in full.
    pub reread_at: UnixMillis,
    /// From this time on a poll may again go deeper than it would, for events in progress.
    pub looks_from: UnixMillis,
    /// Places above the watermark from which a deep overlap can be read again, at most [`Bookmark::KEPT_MAX`].
    pub bookmarks: Vec<Bookmark>,
    /// The events that are remembered one by one.
    pub seen: BTreeMap<EventKey, Sighting>,
    /// The events of `seen` that were shown without a CreationDate, in the order of their first sight, at most
    /// [`Cursor::UNDATED_MAX`].
    pub undated: VecDeque<EventKey>,
    /// The stretches that were begun and not finished.
    pub open: Vec<OpenWalk>,
    /// The rest of a stretch that was taken before and is to be logged again; see [`Cursor::rewind`].
    pub redelivery: Option<OpenWalk>,
}

impl Cursor {
    /// The largest number of events without a CreationDate that are remembered. The service has never been seen to send
    /// one. The bound keeps the cursor small if it does.
    pub const UNDATED_MAX: usize = 256;

    /// How far a CreationDate may move, or two dates of one event may lie apart, just below the remembered events. The
    /// API's dates have milliseconds, and Cognito's export cuts them to seconds. A minute also allows for two clocks.
    pub const DATE_DRIFT: Duration = Duration::from_mins(1);

    /// The cursor of a new user. Events from `live_since` on are live, and events before `history_from` are not wanted.
    pub fn new(live_since: UnixMillis, history_from: UnixMillis) -> Self {
        Self {
            live_since,
            last_seen: None,
            watermark: history_from.min(live_since),
            reread_at: UnixMillis::MIN,
            looks_from: UnixMillis::MIN,
            bookmarks: Vec::new(),
            seen: BTreeMap::new(),
            undated: VecDeque::new(),
            open: Vec::new(),
            redelivery: None,
        }
    }

    /// The time from which on events are live; older events are history.
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

    /// The time from which on every taken event is remembered one by one.
    pub fn watermark(&self) -> UnixMillis {
        self.watermark
    }

    /// The number of events that are remembered one by one.
    pub fn remembered(&self) -> usize {
        self.seen.len()
    }

    /// The number of events in progress that are watched for their outcome.
    pub fn watched(&self) -> usize {
        self.watches().count()
    }

    /// The events in progress that are watched for their outcome, each with its watch.
    pub fn watched_events(&self) -> impl Iterator<Item = (&Sighting, Watch)> {
        self.seen.values().filter_map(|sighting| Some((sighting, sighting.watch?)))
    }

    /// The stretch that is still to be logged again.
    pub fn redelivery(&self) -> Option<&OpenWalk> {
        self.redelivery.as_ref()
    }

    /// Marks every event that was taken from `from` on to be logged again. Answers false if there is none.
    ///
    /// No event is counted again, by this rule: *the walk over such a stretch moves no counter, and takes no event that
    /// a poll or an open walk has yet to take.* A taken event is below the watermark and outside every open walk, or it
    /// is remembered in `seen`. So no other mark is needed, and every other rule stays as it is.
    pub fn rewind(&mut self, from: UnixMillis) -> bool {
        let newest = self.seen.values().filter_map(|sighting| sighting.dates).map(|dates| dates.newest).max();
        let Some(lower_edge) = newest.max(self.last_seen.as_ref().map(|last| last.time)) else { return false };
        let end = self.redelivery.as_ref().map_or(from, |before| before.end.min(from));
        if end <= lower_edge {
            self.redelivery = Some(OpenWalk { token: None, lower_edge, end });
        }
        end <= lower_edge
    }

    /// When a poll must next look for the outcome of an event in progress; None if none is watched.
    pub fn next_look(&self) -> Option<UnixMillis> {
        self.watches().map(|(_, _, watch)| watch.next_look).min()
    }

    /// The watched events, with the dates at which to look for them, and their watches.
    pub(crate) fn watches(&self) -> impl Iterator<Item = (EventKey, Option<Dates>, Watch)> {
        self.seen.iter().filter_map(|(key, sighting)| Some((*key, sighting.dates, sighting.watch?)))
    }

    /// Whether an event of this time lies in a stretch that is still to be taken.
    pub(crate) fn in_open_walk(&self, time: UnixMillis) -> bool {
        self.open.iter().any(|walk| walk.contains(time))
    }

    /// Notes that an event of `seen` was shown without a CreationDate. It is kept while it is one of the last
    /// [`Cursor::UNDATED_MAX`] of those.
    pub(crate) fn keep_undated(&mut self, key: EventKey) {
        if self.undated.contains(&key) {
            return;
        }
        if self.undated.len() >= Self::UNDATED_MAX {
            // It may still have a date that keeps it in `seen`; `prune` decides.
            self.undated.pop_front();
        }
        self.undated.push_back(key);
    }

    /// Brings back a cursor that is ahead of every clock, because no time can have been read before it came. `served`
    /// is the service's time of an answer, `received` the local clock's. Answers whether anything was ahead.
    ///
    /// No event is remembered from the time between, so every event that arrives from now on is taken. An event that an
    /// older build passed there is not found again.
    ///
    /// | the cursor | comes from | is brought back to |
    /// |---|---|---|
    /// | has taken nothing | a local clock that is ahead: the user has joined in the service's future | as long before `served` as it was before `received` |
    /// | has taken something | a build that followed an event dated ahead | the later of both clocks |
    ///
    /// The later of both counts, because a lower watermark makes more events be taken again. One clock that is behind
    /// must not cause that.
    pub(crate) fn set_right(&mut self, served: UnixMillis, received: UnixMillis) -> bool {
        if self.last_seen.is_none() && self.seen.is_empty() && self.open.is_empty() {
            let is_ahead = self.live_since > served;
            if is_ahead {
                // `served` is the end of a second, and the answer may have been written at its beginning.
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
    pub(crate) fn raise_watermark(&mut self, watermark: UnixMillis) {
        self.watermark = self.watermark.max(watermark);
        self.bookmarks.retain(|bookmark| bookmark.time > self.watermark);
    }

    /// Joins the cursors of a history that was followed twice: by this cursor, and later, from its own `live_since` on,
    /// by `later`. The events between the two are still to be taken.
    ///
    /// ```text
    ///   newest                                                      oldest
    ///   ---- later, live ----| live_since       watermark |---- self ------->
    ///                        |#######  open walk  ######|
    /// ```
    pub fn joined_by(mut self, later: Self) -> Self {
        let end = self.watermark;
        self.watermark = self.watermark.max(later.watermark);
        // Events below its live_since were not counted by `later`. Events at or above the watermark are remembered one
        // by one.
        let lower_edge = UnixMillis(later.live_since.min(self.watermark).0.saturating_sub(1));
        if end <= lower_edge {
            self.open.push(OpenWalk { token: None, lower_edge, end });
        }
        self.open.extend(later.open);
        self.live_since = self.live_since.min(later.live_since);
        self.last_seen = later.last_seen.or(self.last_seen);
        self.reread_at = self.reread_at.max(later.reread_at);
        self.looks_from = self.looks_from.max(later.looks_from);
        // A token belongs to the name that it was issued for.
        self.bookmarks.clear();
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

    /// Extends the new cursor of a user whose history began at `since`, under a name that another user had `before`.
    /// The new cursor takes over the events since then, which polls under that name have taken already.
    pub fn succeeding(mut self, before: Self, since: UnixMillis) -> Self {
        if before.last_seen.as_ref().is_none_or(|last| last.time < since) {
            return self; // the newest event that was taken is the other user's
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

    /// The remembered events that have a date, newest first.
    pub fn newest(&self) -> impl Iterator<Item = EventKey> {
        let dated = self.seen.iter().filter_map(|(key, sighting)| Some((sighting.dates?.newest, *key)));
        let mut newest: Vec<_> = dated.collect();
        newest.sort_unstable_by(|one, other| other.cmp(one));
        newest.into_iter().map(|(_, key)| key)
    }

    /// Adds the events that `other` remembers, and nothing else of it. Whether the events below its watermark belong to
    /// this history is not known.
    pub fn remember_with(&mut self, other: &Self) {
        for (key, sighting) in &other.seen {
            self.seen.entry(*key).or_insert_with(|| sighting.clone());
        }
        other.undated.iter().for_each(|key| self.keep_undated(*key));
        self.prune();
    }

    /// The time from which on an event is remembered whether it is watched or not: [`Cursor::DATE_DRIFT`] below the
    /// watermark.
    pub(crate) fn remembered_from(&self) -> UnixMillis {
        self.watermark.minus(Self::DATE_DRIFT)
    }

    /// Forgets every event that none of the four reasons keeps. Answers whether it forgot any.
    pub(crate) fn prune(&mut self) -> bool {
        let remembered = self.seen.len();
        let (remembered_from, undated) = (self.remembered_from(), &self.undated);
        let walks = || self.open.iter().chain(&self.redelivery);
        self.seen.retain(|key, sighting| {
            sighting.watch.is_some()
                || sighting
                    .dates
                    .is_some_and(|dates| dates.newest >= remembered_from || walks().any(|walk| walk.touches(dates)))
                || undated.contains(key)
        });
        self.seen.len() < remembered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventFeedback, Word};

    #[test]
    fn details_of_a_state_are_a_revision_beside_the_same_source_and_none_beside_another() {
        let plain = AuthEvent { response: Some(Word::parse("Pass")), ..AuthEvent::default() };
        let feedback = |value: &str, provider: &str| AuthEvent {
            feedback: Some(EventFeedback {
                value: Some(Word::parse(value)),
                provider: Some(provider.into()),
                date: None,
            }),
            ..plain.clone()
        };
        let states = [plain.clone(), feedback("Valid", "one"), feedback("Valid", "two"), plain.clone()];
        for (compared, revisions) in [(Compared::WithItsOwn, 2), (Compared::WithAnother, 1)] {
            let mut sighting = Sighting::first(&plain, true, compared);
            let found = states.iter().filter(|state| sighting.revise(state, compared).is_some()).count();
            assert_eq!((found, sighting.revision), (revisions, u32::try_from(revisions).unwrap()), "{compared:?}");
        }
    }

    #[test]
    fn a_state_stays_told_when_another_source_begins_or_ends() {
        let [waits, passed] = ["InProgress", "Pass"]
            .map(|response| AuthEvent { response: Some(Word::parse(response)), ..AuthEvent::default() });
        for (first, then) in
            [(Compared::WithItsOwn, Compared::WithAnother), (Compared::WithAnother, Compared::WithItsOwn)]
        {
            let mut sighting = Sighting::first(&waits, true, first);
            assert_eq!(sighting.revise(&waits, then), None, "{first:?}");
            assert_eq!(sighting.revise(&passed, then).map(|before| before.response), Some(waits.facts().response));
            assert_eq!(sighting.revise(&passed, first), None);
            assert_eq!(sighting.revise(&waits, then), None, "an outcome is final");
        }
    }

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
    fn pruning_says_whether_it_forgot_an_event() {
        let mut cursor = taken(0, 1_000_000, &[1, 2_000_000]);
        assert!(cursor.prune());
        assert!(!cursor.prune(), "nothing is left to forget");
        assert_eq!(cursor.remembered(), 1);
    }

    #[test]
    fn an_event_is_remembered_down_to_a_minute_below_the_watermark() {
        let mut cursor = taken(0, 100_000, &[39_999, 40_000, 100_000]);
        cursor.prune();
        assert_eq!(times(&cursor), [40_000, 100_000]);
        assert_eq!(cursor.remembered_from(), UnixMillis(40_000));
    }

    #[test]
    fn an_open_walk_holds_both_of_its_ends() {
        let walk = OpenWalk { token: None, lower_edge: UnixMillis(20), end: UnixMillis(10) };
        for (time, inside) in [(9, false), (10, true), (20, true), (21, false)] {
            assert_eq!(walk.contains(UnixMillis(time)), inside, "{time}");
        }
    }

    #[test]
    fn the_latest_two_hundred_and_fifty_six_events_without_a_date_are_remembered() {
        let times: Vec<i64> = (0..257).collect();
        let mut cursor = taken(0, 1_000_000, &times);
        let keys: Vec<EventKey> = cursor.seen.keys().copied().collect();
        keys.iter().for_each(|key| cursor.keep_undated(*key));
        keys[1..].iter().for_each(|key| cursor.keep_undated(*key));
        cursor.prune();
        assert_eq!(cursor.remembered(), 256);
        assert!(!cursor.seen.contains_key(&keys[0]), "the first is forgotten");
    }

    #[test]
    fn a_user_who_joined_in_the_services_future_has_joined_as_long_ago_by_its_clock() {
        let mut cursor = Cursor::new(UnixMillis(100_000), UnixMillis(40_000));
        let before = cursor.clone();
        assert!(!cursor.set_right(UnixMillis(100_000), UnixMillis(110_000)));
        assert_eq!(cursor, before);
        // Ten seconds after joining by the local clock, and a second for the rounding of the service's.
        assert!(cursor.set_right(UnixMillis(50_000), UnixMillis(110_000)));
        assert_eq!((cursor.live_since, cursor.watermark), (UnixMillis(39_000), UnixMillis(-21_000)));
    }

    #[test]
    fn a_state_has_the_revision_in_which_it_was_told() {
        let mut cursor = taken(0, 0, &[10]);
        let sighting = cursor.seen.values_mut().next().unwrap();
        sighting.former = vec![MutableDigest(1), MutableDigest(2)];
        (sighting.digest, sighting.revision) = (MutableDigest(3), 2);
        for (digest, revision) in [(1, Some(0)), (2, Some(1)), (3, Some(2)), (4, None)] {
            assert_eq!(sighting.revision_of(MutableDigest(digest)), revision, "{digest}");
        }
    }

    #[test]
    fn of_two_sightings_of_one_event_the_one_with_an_outcome_stays_and_no_state_is_told_again() {
        let sighting = |response: &str, time: i64, digest: u64| Sighting {
            dates: Some(Dates::of(UnixMillis(time))),
            digest: MutableDigest(digest),
            former: vec![],
            revision: 0,
            live: true,
            facts: AuthEvent { response: Some(crate::event::Word::parse(response)), ..AuthEvent::default() }.facts(),
            watch: None,
        };
        let (ended, waiting) = (sighting("Pass", 10, 1), sighting("InProgress", 20, 2));
        for merged in [ended.clone().merged_with(waiting.clone()), waiting.merged_with(ended)] {
            assert_eq!((merged.digest, merged.former.as_slice()), (MutableDigest(1), [MutableDigest(2)].as_slice()));
            assert_eq!(merged.dates, Some(Dates { oldest: UnixMillis(10), newest: UnixMillis(20) }));
        }
    }

    /// A sighting that was told in the states `former` and then `digest`.
    fn told(former: &[u64], digest: u64) -> Sighting {
        let mut cursor = taken(0, 0, &[10]);
        let (_, sighting) = cursor.seen.pop_first().unwrap();
        Sighting {
            former: former.iter().copied().map(MutableDigest).collect(),
            digest: MutableDigest(digest),
            ..sighting
        }
    }

    #[test]
    fn of_two_sightings_of_one_event_every_state_is_remembered_once_and_at_most_sixty_four() {
        let former = |sighting: Sighting| sighting.former.into_iter().map(|digest| digest.0).collect::<Vec<_>>();
        let merged = told(&[1, 2], 3).merged_with(told(&[2, 4], 5));
        assert_eq!((merged.digest, former(merged)), (MutableDigest(5), vec![1, 2, 3, 4]), "of equals the other stays");
        assert_eq!(former(told(&[1, 5], 2).merged_with(told(&[], 5))), [1, 2], "the state that stays is no former one");
        let many: Vec<u64> = (0..60).collect();
        let merged = former(told(&many, 60).merged_with(told(&[61, 62, 63, 64], 65)));
        assert_eq!(merged, (0..64).collect::<Vec<u64>>());
    }

    #[test]
    fn credentials_that_one_of_two_sightings_found_compromised_stay_so() {
        let compromised = || {
            let mut sighting = told(&[], 1);
            sighting.facts.compromised = true;
            sighting
        };
        assert!(compromised().merged_with(told(&[], 2)).facts.compromised);
        assert!(told(&[], 2).merged_with(compromised()).facts.compromised);
        assert!(!told(&[], 2).merged_with(told(&[], 3)).facts.compromised);
    }

    #[test]
    fn an_event_whose_dates_touch_an_open_walk_or_a_rewound_stretch_is_remembered() {
        let (edge, end, drift) = (500_000, 200_000, 60_000);
        let around = [end - drift - 1, end - drift, edge + drift, edge + drift + 1];
        let walk = OpenWalk { token: None, lower_edge: UnixMillis(edge), end: UnixMillis(end) };
        for rewound in [false, true] {
            let mut cursor = taken(0, 1_000_000, &around);
            if rewound {
                cursor.redelivery = Some(walk.clone());
            } else {
                cursor.open = vec![walk.clone()];
            }
            cursor.prune();
            assert_eq!(times(&cursor), around[1..3]);
            assert_eq!(cursor.redelivery(), rewound.then_some(&walk));
        }
    }

    #[test]
    fn watched_events_are_counted_and_remembered_wherever_they_lie() {
        let mut cursor = taken(0, 1_000_000, &[10, 20, 30]);
        let watch = Some(Watch { until: UnixMillis(50), next_look: UnixMillis(40), last_looks: 0 });
        cursor.seen.values_mut().take(2).for_each(|sighting| sighting.watch = watch);
        cursor.prune();
        assert_eq!((cursor.watched(), cursor.remembered(), cursor.next_look()), (2, 2, Some(UnixMillis(40))));
    }

    #[test]
    fn a_cursor_that_has_taken_something_is_brought_back_to_the_later_clock_and_only_from_ahead_of_it() {
        let (served, received) = (UnixMillis(900), UnixMillis(1000));
        let forgetful = |last: i64, watermark| {
            let mut cursor = taken(2000, watermark, &[last]);
            cursor.seen.clear();
            cursor
        };
        for (last, watermark, is_ahead) in [(1000, 1000, false), (1001, 1000, true), (1000, 1001, true)] {
            for mut cursor in [taken(2000, watermark, &[last]), forgetful(last, watermark)] {
                assert_eq!(cursor.set_right(served, received), is_ahead, "{last} {watermark}");
                assert_eq!((cursor.last_seen().unwrap().time, cursor.watermark()), (received, received));
                assert_eq!(cursor.live_since(), UnixMillis(2000), "what was counted live stays live");
            }
        }
        let mut undated = taken(2000, 1001, &[10]);
        undated.last_seen = None;
        let mut open = Cursor::new(UnixMillis(2000), UnixMillis(1001));
        open.open = vec![OpenWalk { token: None, lower_edge: UnixMillis(20), end: UnixMillis(10) }];
        for mut cursor in [undated, open] {
            assert!(cursor.set_right(served, received));
            assert_eq!((cursor.live_since(), cursor.watermark()), (UnixMillis(2000), received));
        }
    }

    #[test]
    fn the_newest_events_come_first_and_those_without_a_date_not_at_all() {
        let mut cursor = taken(0, 0, &[20, 10, 30, 40]);
        let key = |time: i64| AuthEvent { id: Some(time.to_string()), ..AuthEvent::default() }.key();
        cursor.seen.get_mut(&key(40)).unwrap().dates = None;
        assert_eq!(cursor.newest().collect::<Vec<_>>(), [30, 20, 10].map(key));
    }

    #[test]
    fn what_another_cursor_remembers_is_known_and_its_watermark_is_not() {
        let mut cursor = taken(100, 300_000, &[300_000]);
        let mut other = taken(0, 1_000_000, &[10, 240_000, 300_000]);
        let (undated, ours) = (UnixMillis(10), UnixMillis(300_000));
        let key_of = |cursor: &Cursor, time| {
            let is_it = |sighting: &Sighting| sighting.dates == Some(Dates::of(time));
            cursor.seen.iter().find(|(_, sighting)| is_it(sighting)).map(|(key, _)| *key).unwrap()
        };
        let key = key_of(&other, undated);
        other.keep_undated(key);
        let shared = key_of(&other, ours);
        other.seen.get_mut(&shared).unwrap().revision = 7;
        let before = cursor.clone();
        cursor.remember_with(&other);
        assert_eq!(times(&cursor), [10, 240_000, 300_000]);
        assert_eq!(cursor.seen[&shared], before.seen[&shared], "what was remembered already stays as it is");
        assert_eq!(Cursor { seen: before.seen.clone(), undated: VecDeque::new(), ..cursor }, before);
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
        assert_eq!(times(&fresh.clone().succeeding(before(), UnixMillis(700))), [700]);
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
