//! The rules of a walk: from a page and a cursor to the new events, the revisions, the end, and the next cursor.
//!
//! Pure. A walk reads down from the newest event until it meets events that are known:
//!
//! | an event of the page | is |
//! |---|---|
//! | remembered in the cursor, in a state that was told | known |
//! | remembered, in progress, with an outcome that was told | known: an outcome is final |
//! | remembered, in another state | a *revision* |
//! | not remembered, from the walk's lower bound to its lower edge, or above it where every taken event is remembered | *new*: taken |
//! | not remembered, elsewhere | taken before and forgotten, another walk's, or older than wanted: passed |
//!
//! An event is its [`EventKey`], whatever date it is shown with. The table asks for the key first, and for the date
//! only where the key is not remembered. So a history that shows one event in several states, or with several dates,
//! gives at most one record for each state and then none.
//!
//! A poll starts with its lower edge above everything, and its lower bound is the watermark. Each page is committed
//! when it was read. A crash, a stop, an error or the page limit can cut a walk short. The cursor then holds the rest
//! of it as an [`OpenWalk`]. To resume it is to walk again with a lower edge further down: the same rules hold. A token
//! is dropped when it is refused, has expired or repeats itself. The walk then goes down from the top again, and passes
//! everything above its lower edge.
//!
//! A stretch that an operator has rewound ([`Cursor::rewind`]) is walked in the same way, with another table. Two kinds
//! of events were taken there: those that are remembered, and those below the watermark and outside every open walk.
//! They are told *again*, to be logged and not counted. A revision is one, as everywhere. All other events are left to
//! the poll or open walk that has yet to take them.
//!
//! The service promises no order. So whole pages are judged, and the order inside a page does not matter. A page out of
//! order is counted, and one more page is read after it. Several events may share a millisecond, and a page may be
//! empty.
//!
//! No date is trusted either. An event's date moves nothing beyond the *time of reading*, which is the time of the
//! walk's first page ([`Page::read_at`]). An event dated ahead is taken and counted live, and moves neither the
//! watermark nor the end of the next poll beyond that time. The time of reading is the service's own where its answer
//! says so, because the service dates the events too. The local clock may be wrong by hours:
//!
//! | local clock | alone | beside the service's |
//! |---|---|---|
//! | ahead | an event dated ahead could lift the watermark above events to come | has no effect |
//! | behind | the watermark stays low, and more events are remembered | has no effect |
//!
//! The local clock measures only waiting, from the moment at which a page was received.

mod depth;
pub mod page_size;
mod page_span;
mod rules;
mod take;

use std::collections::BTreeMap;
use std::time::Duration;

use self::page_span::PageSpan;
pub use self::rules::Rules;
use crate::cursor::{Cursor, Dates, OpenWalk, Sighting};
use crate::event::{AuthEvent, EventKey, Facts, UnixMillis};
use crate::page::{Page, PageToken};
use crate::told::ToldEvent;

/// One sighting that is to be logged and counted.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    /// The event as the page shows it.
    pub event: AuthEvent,
    /// 0 at first sight, then 1 more for each revision.
    pub revision: u32,
    /// False for history, which is logged but never counted as live.
    pub live: bool,
    /// The event as the counters see it now.
    pub facts: Facts,
    /// The event as the counters saw it before; None at first sight.
    pub before: Option<Facts>,
    /// Whether a new event is older than the newest event known before, where everything had been read.
    pub late: bool,
}

/// The result of one page.
#[derive(Clone, PartialEq, Debug)]
pub struct Taken {
    /// New events and revisions, in the page's order.
    pub findings: Vec<Finding>,
    /// Events of a rewound stretch, to be logged once more and not counted.
    pub again: Vec<Finding>,
    /// What is told now of events that another source may tell, too. Empty in a pool without one.
    pub told: Vec<(EventKey, ToldEvent)>,
    /// Live events whose watch ended while they were still in progress.
    pub unfinished: Vec<Facts>,
    /// The number of events that told nothing new.
    pub known: usize,
    /// Whether the page was not newest first, in itself or against the page before.
    pub out_of_order: bool,
    /// Whether the service gave back the token that it was asked with. The walk has dropped that token.
    pub token_repeated: bool,
    /// Whether the cursor differs from the one before and must be written.
    pub cursor_changed: bool,
    /// What to do next.
    pub next: Next,
}

impl Taken {
    /// The result of a page on which nothing was found.
    const NOTHING: Self = Self {
        findings: Vec::new(),
        again: Vec::new(),
        told: Vec::new(),
        unfinished: Vec::new(),
        known: 0,
        out_of_order: false,
        token_repeated: false,
        cursor_changed: false,
        next: Next::Finished,
    };
}

/// Whether a walk goes on after a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// It goes on with the next page, see [`Walk::token`]. The turn may also end here, because the cursor holds the
    /// rest of the walk.
    Page,
    /// It has met what is known, and is finished.
    Finished,
}

/// The purpose of a walk, which decides its bounds and its lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Reads from the top down to what is known.
    Poll,
    /// Continues a stretch that was cut short, in the lane for backlog.
    Backlog,
    /// Reads a stretch that was taken before, to log it again. It uses the lane for backlog when no backlog is left
    /// there.
    Redelivery,
}

/// A walk under way, from its first page to its last in one turn of its user. It may be dropped at any moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Walk {
    kind: Kind,
    /// The token of the next page; None: at the top.
    token: Option<PageToken>,
    /// The oldest time that was read. Above it the walk takes no event that may have been forgotten.
    lower_edge: UnixMillis,
    lower_edge_before: UnixMillis,
    /// The walk takes no event below this time.
    lower_bound: UnixMillis,
    /// The time down to which the walk has to read. It lies above the lower bound only in a poll that leaves the
    /// overlap's depth for later.
    end: UnixMillis,
    /// Whether this is a poll that ends at the watermark.
    full: bool,
    /// The time since a poll last began to read a deep overlap again.
    since_reread: Duration,
    /// The watched events that this poll looks for, and the time down to which it reads for each.
    looks: BTreeMap<EventKey, UnixMillis>,
    /// The pages of known events that this poll may read for its looks, beyond those of any poll.
    look_pages: u32,
    /// When its first page was read.
    read_at: UnixMillis,
    /// A time before which everything was visible when its first page was read.
    settled: Option<UnixMillis>,
    /// The newest event known when the walk began.
    newest_before: Option<UnixMillis>,
    /// The oldest time of the page before.
    previous_oldest: Option<UnixMillis>,
    /// The part of the cursor that holds this walk.
    stored: Option<OpenWalk>,
    pages: u32,
}

impl Walk {
    /// Begins a user's turn with a poll; at the bound of open walks, with the newest of these instead.
    pub fn begin(cursor: &Cursor, now: UnixMillis) -> Self {
        match Self::resume(cursor) {
            Some(walk) if cursor.open.len() >= Rules::OPEN_WALKS_MAX => walk,
            _ => Self::poll(cursor, now),
        }
    }

    fn poll(cursor: &Cursor, now: UnixMillis) -> Self {
        let newest_before = cursor.last_seen.as_ref().map(|last| last.time);
        // A clock that was set back must not put the next full reading off.
        let since_reread = if now < cursor.reread_at { Duration::MAX } else { now.since(cursor.reread_at) };
        let reread_due = since_reread >= Rules::REREAD_EVERY;
        let (end, full) = match newest_before {
            Some(newest) if !reread_due && newest > cursor.watermark => (newest, false),
            _ => (cursor.watermark, true),
        };
        Self {
            kind: Kind::Poll,
            token: None,
            lower_edge: UnixMillis::MAX,
            lower_edge_before: UnixMillis::MAX,
            lower_bound: cursor.watermark,
            end,
            full,
            since_reread,
            look_pages: 0,
            looks: cursor
                .watches()
                .filter(|(_, _, watch)| Rules::is_due(watch.next_look, now))
                .map(|(key, dates, _)| (key, look_down_to(dates, newest_before)))
                .collect(),
            read_at: UnixMillis::MAX,
            settled: None,
            newest_before,
            previous_oldest: None,
            stored: None,
            pages: 0,
        }
    }

    /// Continues the newest open walk; without one, the stretch that is to be logged again. None if there is neither.
    pub fn resume(cursor: &Cursor) -> Option<Self> {
        let backlog = cursor.open.iter().max_by_key(|open| open.lower_edge).map(|open| (Kind::Backlog, open));
        let (kind, open) = backlog.or(cursor.redelivery.as_ref().map(|open| (Kind::Redelivery, open)))?;
        Some(Self {
            kind,
            token: open.token.clone(),
            lower_edge: open.lower_edge,
            lower_edge_before: open.lower_edge,
            lower_bound: open.end,
            end: open.end,
            full: false,
            since_reread: Duration::ZERO,
            look_pages: 0,
            looks: BTreeMap::new(),
            read_at: UnixMillis::MAX,
            settled: None,
            newest_before: cursor.last_seen.as_ref().map(|last| last.time),
            previous_oldest: None,
            stored: Some(open.clone()),
            pages: 0,
        })
    }

    /// The purpose of this walk.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The token of the next page; None: at the top.
    pub fn token(&self) -> Option<&PageToken> {
        self.token.as_ref()
    }

    /// Pages taken so far.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The number of remembered events above the watermark, all of which a short first page has to show.
    ///
    /// None where only a full page tells everything, because something deeper is remembered or still to be taken: a
    /// watched event, an open walk, an event without a date.
    pub fn known_above(&self, cursor: &Cursor) -> Option<usize> {
        let from_the_top = self.kind == Kind::Poll && self.pages == 0;
        let is_above =
            |sighting: &Sighting| sighting.dates.is_some_and(|dates| dates.newest >= cursor.remembered_from());
        let nothing_deeper = cursor.open.is_empty() && cursor.undated.is_empty() && cursor.seen.values().all(is_above);
        (from_the_top && nothing_deeper).then_some(cursor.seen.len())
    }

    /// Whether this page reaches below everything that the walk is about, which ends the walk.
    ///
    /// A short page that does not must not be taken. It says less than a full page, and its token may be valid only for
    /// its own size.
    pub fn ends_with(&self, page: &Page) -> bool {
        // A full page might also show what is remembered a little below.
        let lowest = self.lower_bound.minus(Cursor::DATE_DRIFT);
        let deepest = self.deepest_look().map_or(lowest, |look| lowest.min(look));
        PageSpan::of(page, self.previous_oldest).reads_through(deepest)
    }

    fn deepest_look(&self) -> Option<UnixMillis> {
        self.looks.values().min().copied()
    }

    /// Whether the walk has met a date. Until then it has nothing to leave open.
    pub fn has_lower_edge(&self) -> bool {
        self.lower_edge < UnixMillis::MAX
    }

    /// Whether this walk has read below its starting point. A walk that begins again at the top has not for a while.
    pub fn got_further(&self) -> bool {
        self.lower_edge < self.lower_edge_before
    }

    /// Whether this poll is its user's first. Behind its first page it can find only history and backlog.
    pub fn is_first(&self) -> bool {
        self.kind == Kind::Poll && self.newest_before.is_none()
    }

    /// Drops a token that the service refused. Backlog goes on from the top, now and after a restart. A poll has to
    /// begin anew; the cursor holds what it left open.
    ///
    /// Answers whether the walk can go on.
    pub fn token_refused(&mut self, cursor: &mut Cursor) -> bool {
        self.token = None;
        self.previous_oldest = None;
        // Older tokens are refused as well. Newer bookmarks are tried no sooner than they are older than the overlap.
        cursor.bookmarks.clear();
        if let Some(stored) = &mut self.stored {
            let of_kind = match self.kind {
                Kind::Poll | Kind::Backlog => cursor.open.as_mut_slice(),
                Kind::Redelivery => cursor.redelivery.as_mut_slice(),
            };
            for open in of_kind.iter_mut().filter(|open| *open == stored) {
                open.token = None;
            }
            stored.token = None;
        }
        self.kind != Kind::Poll
    }
}

/// The time down to which a poll reads for a watched event: a little below its date, which may move. Where the date is
/// ahead of every taken event, the newest of those counts instead.
fn look_down_to(dates: Option<Dates>, last_seen: Option<UnixMillis>) -> UnixMillis {
    let date = dates.map_or(UnixMillis::MAX, |dates| dates.newest);
    last_seen.map_or(date, |last| date.min(last)).minus(Cursor::DATE_DRIFT)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{EventRisk, Word};

    const RULES: Rules =
        Rules { overlap: Duration::from_hours(1), settle: Duration::from_mins(30), followed_since: None };
    const MINUTE: i64 = 60_000;
    /// The time of these tests, in minutes.
    const NOON: i64 = 1_000_000;

    fn at(minute: i64) -> UnixMillis {
        UnixMillis(minute * MINUTE)
    }

    fn event(id: &str, minute: i64, response: &str) -> AuthEvent {
        AuthEvent {
            id: Some(id.into()),
            event_type: Some(Word::parse("SignIn")),
            creation_date: Some(at(minute)),
            response: Some(Word::parse(response)),
            ..AuthEvent::default()
        }
    }

    fn page(minute: i64, events: &[AuthEvent], next: Option<&str>) -> Page {
        Page {
            events: events.to_vec(),
            next: next.map(|token| PageToken(token.into())),
            received: at(minute),
            served: None,
        }
    }

    /// A poll of one page; what it found, as `id.revision`.
    fn poll(cursor: &mut Cursor, page: &Page) -> (Vec<String>, Taken) {
        let taken = Walk::begin(cursor, page.received).take(cursor, page, &RULES);
        (names(&taken), taken)
    }

    fn names(taken: &Taken) -> Vec<String> {
        let name = |finding: &Finding| format!("{}.{}", finding.event.id.as_deref().unwrap_or("?"), finding.revision);
        taken.findings.iter().map(name).collect()
    }

    fn followed_user() -> Cursor {
        Cursor::new(at(NOON - 600), at(NOON - 600))
    }

    #[test]
    fn a_late_event_within_the_overlap_is_taken_once_and_called_late() {
        let mut cursor = followed_user();
        let (known, late) = (event("a", NOON - 5, "Pass"), event("b", NOON - 50, "Pass"));
        poll(&mut cursor, &page(NOON, std::slice::from_ref(&known), None));
        let both = [known, late];
        let (found, taken) = poll(&mut cursor, &page(NOON + 1, &both, None));
        assert_eq!(found, ["b.0"]);
        assert!(taken.findings[0].late);
        let (found, taken) = poll(&mut cursor, &page(NOON + 2, &both, None));
        assert_eq!((found.len(), taken.known, taken.cursor_changed), (0, 2, false));
    }

    #[test]
    fn an_outcome_is_a_revision_that_knows_what_was_before() {
        let mut cursor = followed_user();
        poll(&mut cursor, &page(NOON, &[event("a", NOON, "InProgress")], None));
        assert!(cursor.next_look().is_some());
        let (found, taken) = poll(&mut cursor, &page(NOON + 2, &[event("a", NOON, "Pass")], None));
        assert_eq!(found, ["a.1"]);
        let before = taken.findings[0].before.as_ref().unwrap();
        assert_eq!((before.response.as_str(), taken.findings[0].facts.response.as_str()), ("InProgress", "Pass"));
        assert_eq!(cursor.next_look(), None);
    }

    #[test]
    fn credentials_that_were_found_compromised_stay_so() {
        let mut cursor = followed_user();
        let risk = |found| Some(EventRisk { compromised_credentials: Some(found), ..EventRisk::default() });
        let begun = AuthEvent { risk: risk(true), ..event("a", NOON, "InProgress") };
        let ended = AuthEvent { risk: risk(false), ..event("a", NOON, "Pass") };
        poll(&mut cursor, &page(NOON, &[begun], None));
        let (_, taken) = poll(&mut cursor, &page(NOON + 1, &[ended], None));
        assert!(taken.findings[0].facts.compromised && taken.findings[0].before.as_ref().unwrap().compromised);
    }

    #[test]
    fn an_event_in_an_open_walk_is_not_late_and_the_overlap_is_read_in_full_every_five_minutes() {
        let mut cursor = followed_user();
        let newest = event("a", NOON, "Pass");
        poll(&mut cursor, &page(NOON, std::slice::from_ref(&newest), Some("more")));
        for (minute, full) in [(-1, true), (0, false), (4, false), (5, true)] {
            assert_eq!(Walk::poll(&cursor, at(NOON + minute)).full, full, "{minute} minutes later");
        }
        let (found, taken) = poll(&mut cursor, &page(NOON + 1, &[newest, event("b", NOON - 5, "Pass")], None));
        assert!(found == ["b.0"] && !taken.findings[0].late);
    }

    #[test]
    fn only_a_full_reading_that_is_left_open_puts_the_next_one_off() {
        let mut cursor = followed_user();
        poll(&mut cursor, &page(NOON, &[event("a", NOON, "Pass")], None));
        assert_eq!(cursor.reread_at, UnixMillis::MIN, "one page was enough");
        poll(&mut cursor, &page(NOON + 1, &[event("b", NOON + 1, "Pass")], Some("more")));
        assert_eq!(cursor.reread_at, at(NOON + 1));
        poll(&mut cursor, &page(NOON + 2, &[event("c", NOON + 2, "Pass")], Some("more")));
        assert_eq!(cursor.reread_at, at(NOON + 1), "a shallow poll that is cut short");
    }

    #[test]
    fn a_shallow_poll_that_reads_below_the_watermark_all_the_same_moves_it() {
        let mut cursor = followed_user();
        poll(&mut cursor, &page(NOON, &[event("a", NOON, "Pass")], Some("more")));
        assert_eq!(cursor.watermark(), at(NOON - 60));
        poll(&mut cursor, &page(NOON + 3, &[event("b", NOON + 3, "Pass"), event("a", NOON, "Pass")], Some("more")));
        assert_eq!(cursor.watermark(), at(NOON - 60), "it reads to the newest event only");
        let deep = [event("c", NOON + 4, "Pass"), event("old", NOON - 90, "Pass")];
        let mut walk = Walk::begin(&cursor, at(NOON + 4));
        assert!(!walk.full);
        walk.take(&mut cursor, &page(NOON + 4, &deep, Some("more")), &RULES);
        assert_eq!(cursor.watermark(), at(NOON - 56));
    }

    #[test]
    fn an_empty_page_at_the_top_moves_no_watermark() {
        let mut cursor = followed_user();
        poll(&mut cursor, &page(NOON, &[event("a", NOON, "Pass")], Some("more")));
        poll(&mut cursor, &page(NOON + 3, &[event("b", NOON + 3, "Pass")], Some("more")));
        let walk = Walk::begin(&cursor, at(NOON + 6));
        assert!(walk.full && cursor.last_seen().unwrap().time == at(NOON + 3));
        poll(&mut cursor, &page(NOON + 6, &[], Some("more")));
        assert_eq!(cursor.watermark(), at(NOON - 60));
    }

    #[test]
    fn what_was_taken_in_a_rewound_stretch_is_told_again_and_nothing_of_it_is_counted() {
        let mut cursor = followed_user();
        let events = [event("a", NOON, "Pass"), event("b", NOON - 120, "Pass"), event("c", NOON - 300, "Pass")];
        poll(&mut cursor, &page(NOON, &events, None));
        assert_eq!(cursor.remembered(), 1, "b and c are forgotten");
        cursor.rewind(at(NOON - 200));
        let [a, b, c] = events;
        let shown = [a, event("late", NOON - 60, "Pass"), b, c];
        let taken = Walk::resume(&cursor).unwrap().take(&mut cursor, &page(NOON, &shown, None), &RULES);
        let again: Vec<_> = taken.again.iter().map(|again| again.event.id.as_deref().unwrap()).collect();
        assert_eq!(
            (again, taken.findings.len(), taken.known),
            (vec!["a", "b"], 0, 4),
            "a poll has yet to take the late"
        );
        assert!(taken.again.iter().all(|again| again.before.as_ref() == Some(&again.facts)));
        assert_eq!(cursor.redelivery(), None);
    }

    #[test]
    fn a_rewound_stretch_that_equals_an_open_walk_is_still_to_be_told_again_after_it() {
        let mut cursor = followed_user();
        let events = [event("a", NOON, "Pass"), event("b", NOON, "Pass")];
        poll(&mut cursor, &page(NOON, &events[..1], Some("more")));
        let walk = OpenWalk { token: None, lower_edge: at(NOON), end: at(NOON) };
        cursor.open = vec![walk.clone()];
        cursor.redelivery = Some(walk.clone());
        let mut backlog = Walk::resume(&cursor).unwrap();
        assert!(backlog.token_refused(&mut cursor));
        backlog.take(&mut cursor, &page(NOON, &events, None), &RULES);
        assert_eq!((cursor.open_walks(), cursor.redelivery()), (&[][..], Some(&walk)));
        let taken = Walk::resume(&cursor).unwrap().take(&mut cursor, &page(NOON, &events, None), &RULES);
        assert_eq!((taken.again.len(), cursor.redelivery()), (2, None));
    }

    #[test]
    fn a_poll_that_reads_to_the_end_of_an_open_walk_closes_it() {
        let mut cursor = followed_user();
        let old = event("a", NOON - 590, "Pass");
        poll(&mut cursor, &page(NOON, std::slice::from_ref(&old), Some("more")));
        assert_eq!(cursor.open_walks().len(), 1);
        poll(&mut cursor, &page(NOON + 6, &[old], None));
        assert_eq!(cursor.open_walks(), []);
    }

    #[test]
    fn looks_thin_out_and_the_last_one_decides() {
        let mut cursor = followed_user();
        let waiting = event("a", NOON, "InProgress");
        let mut looks = vec![];
        let mut now = NOON;
        while let (_, taken) = poll(&mut cursor, &page(now, std::slice::from_ref(&waiting), None))
            && taken.unfinished.is_empty()
        {
            now = cursor.next_look().unwrap().0 / MINUTE;
            looks.push(now - NOON);
        }
        assert_eq!(looks, [1, 2, 5, 15, 30]);
        assert_eq!(cursor.next_look(), None);
        let (_, taken) = poll(&mut cursor, &page(now + 1, &[waiting], None));
        assert!(taken.unfinished.is_empty(), "counted once");
    }

    #[test]
    fn a_clock_that_is_set_back_or_is_behind_puts_no_look_off() {
        let mut cursor = followed_user();
        let two_days = 2 * 24 * 60;
        poll(&mut cursor, &page(NOON, &[event("a", NOON, "InProgress")], None));
        let set_back = NOON - two_days;
        assert_eq!(Walk::begin(&cursor, at(set_back)).looks.len(), 1, "it is looked for at once");
        poll(&mut cursor, &page(set_back, &[event("a", NOON, "InProgress")], None));
        assert_eq!(cursor.next_look(), Some(at(set_back + 1)), "and again as if it were young");
        assert!(Walk::begin(&cursor, at(set_back)).looks.is_empty(), "not at every poll");
    }

    #[test]
    fn a_watched_event_that_has_vanished_is_unfinished_when_its_time_is_over() {
        let mut cursor = followed_user();
        poll(&mut cursor, &page(NOON, &[event("a", NOON, "InProgress")], None));
        let (_, taken) = poll(&mut cursor, &page(NOON + 10, &[], None));
        assert_eq!(taken.unfinished.len(), 0, "it may come back");
        let (_, taken) = poll(&mut cursor, &page(NOON + 31, &[], None));
        assert_eq!(taken.unfinished.len(), 1);
        assert_eq!(cursor.next_look(), None);
    }

    #[test]
    fn an_event_that_no_poll_reaches_is_unfinished_after_twelve_last_looks() {
        let mut cursor = followed_user();
        poll(&mut cursor, &page(NOON, &[event("a", NOON, "InProgress")], None));
        let mut attempts = 0;
        let unfinished = loop {
            attempts += 1;
            let now = NOON + 30 + attempts * 6;
            // Each poll meets only newer events on its first page and is then cut short.
            let mut walk = Walk::poll(&cursor, at(now));
            let newer = event(&attempts.to_string(), now, "Pass");
            let taken = walk.take(&mut cursor, &page(now, &[newer], Some("more")), &RULES);
            cursor.open.clear();
            if !taken.unfinished.is_empty() {
                break taken.unfinished.len();
            }
        };
        assert_eq!((attempts, unfinished), (13, 1));
    }

    #[test]
    fn a_page_out_of_order_is_judged_whole_and_obliges_to_read_on() {
        let mut cursor = followed_user();
        let events = [event("a", NOON - 700, "Pass"), event("b", NOON - 1, "Pass"), event("c", NOON - 2, "Pass")];
        let mut walk = Walk::begin(&cursor, at(NOON));
        let taken = walk.take(&mut cursor, &page(NOON, &events, Some("more")), &RULES);
        assert_eq!(names(&taken), ["b.0", "c.0"], "and the one from before the user was followed is passed");
        assert!(taken.out_of_order && taken.next == Next::Page);
        let taken = walk.take(&mut cursor, &page(NOON, &[event("d", NOON - 701, "Pass")], Some("on")), &RULES);
        assert_eq!((taken.out_of_order, taken.next), (false, Next::Finished));
    }

    /// How many remembered events the first page of a poll has to show, so far as a short one will do.
    fn known_above(cursor: &Cursor, minute: i64) -> Option<usize> {
        Walk::begin(cursor, at(minute)).known_above(cursor)
    }

    #[test]
    fn a_short_page_will_do_that_shows_what_is_remembered_and_one_event_below() {
        let mut cursor = followed_user();
        assert_eq!(known_above(&cursor, NOON), Some(0), "a user without any event so far");
        let events = [event("a", NOON - 1, "Pass"), event("b", NOON - 61, "Pass"), event("c", NOON - 90, "Pass")];
        poll(&mut cursor, &page(NOON, &events, None));
        assert_eq!(known_above(&cursor, NOON + 300), Some(2));
        let walk = Walk::begin(&cursor, at(NOON + 300));
        let ends = |events: &[AuthEvent], next| walk.ends_with(&page(NOON + 300, events, next));
        assert!(ends(&events, Some("more")) && ends(&events[..2], None));
        assert!(!ends(&events[..2], Some("more")), "b lies at the watermark, and may be one of several");
        let [a, b, c] = events;
        assert!(!ends(&[b, a, c], Some("more")), "without order, newer events may follow");
    }

    #[test]
    fn a_short_page_reaches_below_the_watermark_also_where_a_full_one_might_leave_that_for_later() {
        let mut cursor = followed_user();
        let events = [event("a", NOON, "Pass"), event("b", NOON - 30, "Pass"), event("c", NOON - 90, "Pass")];
        poll(&mut cursor, &page(NOON, &events, None));
        cursor.reread_at = at(NOON);
        let walk = Walk::begin(&cursor, at(NOON + 1));
        assert!(!walk.full && walk.known_above(&cursor) == Some(2));
        assert!(!walk.ends_with(&page(NOON + 1, &events[..2], Some("more"))));
        assert!(walk.ends_with(&page(NOON + 1, &events, Some("more"))));
    }

    #[test]
    fn only_a_full_page_will_do_where_something_that_is_remembered_may_lie_deeper() {
        let waiting = event("a", NOON - 70, "InProgress");
        let sign_up = AuthEvent { event_type: Some(Word::parse("SignUp")), ..waiting };
        let undated = AuthEvent { creation_date: None, ..sign_up.clone() };
        let newest = event("b", NOON, "Pass");
        let after = |page| {
            let mut cursor = followed_user();
            poll(&mut cursor, &page);
            known_above(&cursor, NOON + 1)
        };
        assert_eq!(after(page(NOON, &[newest.clone(), event("a", NOON - 70, "Pass")], None)), Some(1));
        assert_eq!(after(page(NOON, &[newest.clone(), sign_up], None)), None, "it is watched");
        assert_eq!(after(page(NOON, &[newest.clone(), undated], None)), None, "its place in time is unknown");
        assert_eq!(after(page(NOON, &[newest], Some("more"))), None, "a walk is open");
    }

    #[test]
    fn a_short_page_is_enough_only_at_the_beginning_of_a_poll() {
        let mut cursor = followed_user();
        poll(&mut cursor, &page(NOON, &[event("a", NOON, "Pass")], None));
        let mut walk = Walk::begin(&cursor, at(NOON + 1));
        assert_eq!(walk.known_above(&cursor), Some(1));
        walk.take(&mut cursor, &page(NOON + 1, &[], Some("more")), &RULES);
        assert_eq!(walk.known_above(&cursor), None, "a poll under way");
        cursor.rewind(at(NOON - 1));
        let walk = Walk::resume(&cursor).unwrap();
        assert_eq!((walk.kind(), walk.known_above(&cursor)), (Kind::Redelivery, None));
    }

    #[test]
    fn a_user_is_polled_first_until_four_walks_are_open() {
        let mut cursor = followed_user();
        for minute in 0..4 {
            let walk = Walk::begin(&cursor, at(NOON + minute));
            assert_eq!(walk.kind(), Kind::Poll, "beside {minute} open walks");
            let open = |minute| OpenWalk { token: None, lower_edge: at(minute), end: at(minute) };
            cursor.open.push(open(NOON - 10 * minute));
        }
        let walk = Walk::begin(&cursor, at(NOON));
        assert_eq!((walk.kind(), walk.lower_edge), (Kind::Backlog, at(NOON)), "the newest of the four goes first");
    }

    #[test]
    fn without_an_overlap_a_poll_that_is_cut_short_leaves_the_rest_to_an_open_walk() {
        let without_overlap = Rules { overlap: Duration::ZERO, ..RULES };
        let mut cursor = followed_user();
        let read = |cursor: &mut Cursor, minute: i64, next| {
            let events = [event(&minute.to_string(), minute, "Pass")];
            Walk::begin(cursor, at(minute)).take(cursor, &page(minute, &events, next), &without_overlap)
        };
        read(&mut cursor, NOON, None);
        assert_eq!(cursor.watermark(), at(NOON));
        for minute in 1..3 {
            read(&mut cursor, NOON + minute, Some("more"));
            assert_eq!(
                (cursor.watermark(), cursor.open_walks().len()),
                (at(NOON + minute), usize::try_from(minute).unwrap())
            );
        }
    }

    #[test]
    fn a_users_first_poll_is_told_from_its_later_ones_and_from_backlog() {
        let mut cursor = followed_user();
        let mut walk = Walk::begin(&cursor, at(NOON));
        assert!(walk.is_first() && walk.pages() == 0);
        walk.take(&mut cursor, &page(NOON, &[event("a", NOON, "Pass")], Some("t")), &RULES);
        walk.take(&mut cursor, &page(NOON, &[event("b", NOON - 1, "Pass")], Some("u")), &RULES);
        assert!(walk.is_first() && walk.pages() == 2, "to its end");
        assert!(!Walk::begin(&cursor, at(NOON + 1)).is_first());
        cursor.last_seen = None;
        assert!(!Walk::resume(&cursor).unwrap().is_first(), "backlog is no poll");
    }

    #[test]
    fn backlog_that_begins_again_at_the_top_has_got_further_when_it_is_below_its_start() {
        let mut cursor = followed_user();
        let events = [event("a", NOON, "Pass"), event("b", NOON - 10, "Pass")];
        poll(&mut cursor, &page(NOON, &events, Some("t")));
        let mut walk = Walk::resume(&cursor).unwrap();
        assert!(walk.token().is_some() && walk.token_refused(&mut cursor), "backlog goes on without its token");
        assert_eq!((walk.token(), cursor.open_walks()[0].token.as_ref()), (None, None), "after a restart, too");
        for (events, further) in [(&events, false), (&events.clone().map(|event| older(&event, 10)), true)] {
            walk.take(&mut cursor, &page(NOON, events, Some("u")), &RULES);
            assert_eq!(walk.got_further(), further);
        }
        assert!(!Walk::poll(&cursor, at(NOON)).token_refused(&mut cursor), "a poll begins anew");
    }

    fn older(event: &AuthEvent, minutes: u64) -> AuthEvent {
        let date = event.creation_date.map(|date| date.minus(Duration::from_mins(minutes)));
        AuthEvent { id: event.id.as_ref().map(|id| format!("older-{id}")), creation_date: date, ..event.clone() }
    }

    #[test]
    fn a_poll_reads_to_a_minute_below_a_watched_event_or_below_the_newest_taken() {
        let dates = |oldest, newest| Some(Dates { oldest: at(oldest), newest: at(newest) });
        for (dates, last_seen, down_to) in [
            (dates(NOON - 9, NOON - 5), Some(at(NOON)), at(NOON - 6)),
            (dates(NOON, NOON + 5), Some(at(NOON)), at(NOON - 1)),
            (dates(NOON, NOON), None, at(NOON - 1)),
            (None, Some(at(NOON)), at(NOON - 1)),
        ] {
            assert_eq!(look_down_to(dates, last_seen), down_to);
        }
    }

    #[test]
    fn an_event_dated_at_the_end_of_time_leaves_a_walk_open() {
        let mut cursor = followed_user();
        let dated = AuthEvent { creation_date: Some(UnixMillis::MAX), ..event("a", NOON, "Pass") };
        let (found, _) = poll(&mut cursor, &page(NOON, &[dated], Some("more")));
        assert_eq!((found, cursor.open_walks().len()), (vec!["a.0".to_owned()], 1));
    }

    #[test]
    fn a_token_that_repeats_itself_is_dropped_and_the_stretch_stays_open() {
        let mut cursor = followed_user();
        let mut walk = Walk::begin(&cursor, at(NOON));
        walk.take(&mut cursor, &page(NOON, &[event("a", NOON - 1, "Pass")], Some("t")), &RULES);
        let taken = walk.take(&mut cursor, &page(NOON, &[event("b", NOON - 2, "Pass")], Some("t")), &RULES);
        assert!(taken.token_repeated);
        let [open] = cursor.open_walks() else { panic!("one open walk: {:?}", cursor.open_walks()) };
        assert_eq!((open.token.as_ref(), open.lower_edge), (None, at(NOON - 2)));
    }

    #[test]
    fn an_event_without_a_date_is_live_taken_once_and_revised() {
        let mut cursor = followed_user();
        let mut undated = event("a", NOON, "InProgress");
        undated.creation_date = None;
        let (found, taken) = poll(&mut cursor, &page(NOON, std::slice::from_ref(&undated), None));
        assert!(found == ["a.0"] && taken.findings[0].live);
        assert!(poll(&mut cursor, &page(NOON, std::slice::from_ref(&undated), None)).0.is_empty());
        undated.response = Some(Word::parse("Pass"));
        assert_eq!(poll(&mut cursor, &page(NOON, &[undated], None)).0, ["a.1"]);
    }

    #[test]
    fn empty_pages_with_tokens_are_walked_through() {
        let mut cursor = followed_user();
        let mut walk = Walk::begin(&cursor, at(NOON));
        let taken = walk.take(&mut cursor, &page(NOON, &[], Some("on")), &RULES);
        assert_eq!((taken.next, cursor.open_walks().len()), (Next::Page, 0), "nothing to leave open yet");
        let taken = walk.take(&mut cursor, &page(NOON, &[event("a", NOON, "Pass")], None), &RULES);
        assert_eq!((names(&taken), taken.next), (vec!["a.0".to_owned()], Next::Finished));
    }

    #[test]
    fn an_event_that_is_listed_a_page_below_its_place_is_taken_once() {
        // Above the watermark everything that was taken is remembered; below it, a little above the lower edge.
        for (newest, between) in [(NOON - 1, NOON - 30), (NOON - 300, NOON - 301)] {
            let mut cursor = followed_user();
            let mut walk = Walk::begin(&cursor, at(NOON));
            let above = [event("top", NOON, "Pass"), event("a", newest, "Pass"), event("b", between - 1, "Pass")];
            walk.take(&mut cursor, &page(NOON, &above, Some("t")), &RULES);
            let below = [event("c", between, "Pass"), event("d", between - 2, "Pass")];
            let taken = walk.take(&mut cursor, &page(NOON, &below, None), &RULES);
            assert_eq!(names(&taken), ["c.0", "d.0"], "{between}");
            assert!(taken.out_of_order);
            let again = [above, [below[0].clone(), below[1].clone(), event("top", NOON, "Pass")]].concat();
            assert_eq!(poll(&mut cursor, &page(NOON + 1, &again, None)).0, Vec::<String>::new());
        }
    }

    #[test]
    fn an_event_at_the_watermark_that_is_listed_a_page_below_its_place_is_new() {
        let mut cursor = followed_user();
        let mut walk = Walk::begin(&cursor, at(NOON));
        let above = [event("top", NOON, "Pass"), event("a", NOON - 300, "Pass")];
        walk.take(&mut cursor, &page(NOON, &above, Some("t")), &RULES);
        assert_eq!(cursor.watermark(), at(NOON - 60));
        let below = [event("b", NOON - 60, "Pass"), event("c", NOON - 61, "Pass")];
        let taken = walk.take(&mut cursor, &page(NOON, &below, None), &RULES);
        assert_eq!((names(&taken), taken.known), (vec!["b.0".to_owned()], 1), "c may have been forgotten");
    }

    #[test]
    fn of_two_events_of_one_millisecond_the_first_that_was_taken_is_the_newest_and_the_other_is_not_late() {
        let mut cursor = followed_user();
        let (first, other) = (event("a", NOON, "Pass"), event("b", NOON, "Pass"));
        poll(&mut cursor, &page(NOON, std::slice::from_ref(&first), None));
        let (found, taken) = poll(&mut cursor, &page(NOON + 1, &[other, first], None));
        assert!(found == ["b.0"] && !taken.findings[0].late);
        assert_eq!(cursor.last_seen().unwrap().id.as_deref(), Some("a"));
    }

    #[test]
    fn events_from_before_the_user_was_followed_tell_nothing_new() {
        let old: Vec<_> = (601..604).map(|age| event(&age.to_string(), NOON - age, "Pass")).collect();
        let (found, taken) = poll(&mut followed_user(), &page(NOON, &old, None));
        assert_eq!((found.len(), taken.known, taken.again.len()), (0, 3, 0));
    }

    #[test]
    fn a_poll_that_has_met_no_date_yet_has_nothing_that_it_could_leave_open() {
        let mut cursor = followed_user();
        let mut walk = Walk::begin(&cursor, at(NOON));
        let taken = walk.take(&mut cursor, &page(NOON, &[], Some("1")), &RULES);
        assert_eq!((taken.next, walk.has_lower_edge(), cursor.open_walks().len()), (Next::Page, false, 0));
        let taken = walk.take(&mut cursor, &page(NOON, &[event("a", NOON, "Pass")], Some("2")), &RULES);
        assert_eq!(
            (names(&taken), walk.has_lower_edge(), cursor.open_walks().len()),
            (vec!["a.0".to_owned()], true, 1)
        );
    }

    #[test]
    fn five_hundred_events_of_one_millisecond_over_nine_pages_are_taken_once() {
        let mut cursor = followed_user();
        let crowd: Vec<_> = (0..500).map(|id| event(&id.to_string(), NOON, "Pass")).collect();
        for round in 0..2 {
            let mut walk = Walk::begin(&cursor, at(NOON + round * 10));
            let mut found = 0;
            for (number, events) in crowd.chunks(60).enumerate() {
                let token = format!("page-{number}");
                let next = (events.len() == 60).then_some(token.as_str());
                found += walk.take(&mut cursor, &page(NOON + round * 10, events, next), &RULES).findings.len();
            }
            assert_eq!(found, if round == 0 { 500 } else { 0 });
        }
    }

    #[test]
    fn an_event_dated_ahead_hides_none_that_come_and_is_live_and_taken_once() {
        let mut cursor = followed_user();
        let ahead = event("ahead", NOON + 180, "Pass");
        let (found, taken) = poll(&mut cursor, &page(NOON, std::slice::from_ref(&ahead), None));
        assert!(found == ["ahead.0"] && taken.findings[0].live);
        assert_eq!((cursor.last_seen().unwrap().time, cursor.watermark()), (at(NOON), at(NOON - 60)));
        for (minute, id) in [(1, "a"), (70, "b"), (300, "c")] {
            let events = [ahead.clone(), event(id, NOON + minute, "Pass")];
            let (found, taken) = poll(&mut cursor, &page(NOON + minute, &events, None));
            assert_eq!(found, [format!("{id}.0")]);
            assert!(!taken.findings[0].late);
        }
        assert_eq!(cursor.remembered(), 1, "and it is forgotten, too");
    }

    #[test]
    fn the_services_clock_holds_the_dates_whatever_the_local_one_says() {
        for local in [-300, 300] {
            let mut cursor = followed_user();
            let read =
                |minute, events: &[AuthEvent]| Page { served: Some(at(minute)), ..page(minute + local, events, None) };
            let ahead = event("ahead", NOON + 180, "Pass");
            poll(&mut cursor, &read(NOON, &[ahead.clone(), event("waits", NOON, "InProgress")]));
            // The service's time is the end of a second. The answer may have been written at its beginning.
            assert_eq!(cursor.watermark(), at(NOON - 60).minus(Rules::REST_OF_THE_SECOND));
            assert_eq!(cursor.next_look(), Some(at(NOON + local + 1)), "waiting is the local clock's");
            let (found, _) = poll(&mut cursor, &read(NOON + 2, &[ahead, event("waits", NOON, "Pass")]));
            assert_eq!(found, ["waits.1"]);
        }
    }

    #[test]
    fn one_id_in_two_states_on_one_page_gives_a_record_for_each_and_then_none() {
        let (waits, passed) = (event("a", NOON, "InProgress"), event("a", NOON, "Pass"));
        for (states, records) in [([&waits, &passed], vec!["a.0", "a.1"]), ([&passed, &waits], vec!["a.0"])] {
            let mut cursor = followed_user();
            let states = states.map(Clone::clone);
            assert_eq!(poll(&mut cursor, &page(NOON, &states, None)).0, records);
            let (found, taken) = poll(&mut cursor, &page(NOON + 1, &states, None));
            assert_eq!((found.len(), taken.known, taken.cursor_changed), (0, 2, false));
        }
    }

    #[test]
    fn an_event_that_shows_ever_other_states_falls_silent() {
        let mut cursor = followed_user();
        let mut records = 0;
        for state in 0..200 {
            let word = format!("State{}", state % 100);
            records += poll(&mut cursor, &page(NOON, &[event("a", NOON, &word)], None)).0.len();
        }
        assert_eq!(records, 1 + Sighting::FORMER_MAX);
    }

    #[test]
    fn a_date_that_moves_or_goes_or_comes_makes_no_second_event() {
        let dates = [Some(at(NOON)), Some(at(NOON + 180)), None, Some(at(NOON - 30)), Some(UnixMillis::MAX)];
        for first in dates {
            let mut cursor = followed_user();
            let mut moving = event("a", NOON, "InProgress");
            moving.creation_date = first;
            assert_eq!(poll(&mut cursor, &page(NOON, std::slice::from_ref(&moving), None)).0, ["a.0"]);
            moving.response = Some(Word::parse("Pass"));
            for (revision, date) in dates.into_iter().enumerate() {
                moving.creation_date = date;
                let (found, _) = poll(&mut cursor, &page(NOON + 1, std::slice::from_ref(&moving), None));
                assert_eq!(found, ["a.1"][..usize::from(revision == 0)]);
            }
        }
    }

    #[test]
    fn a_watermark_that_an_older_build_left_ahead_is_brought_back_by_both_clocks_and_not_by_one() {
        let poisoned = || {
            let mut cursor = followed_user();
            poll(&mut cursor, &page(NOON + 180, &[event("ahead", NOON + 180, "Pass")], None));
            assert_eq!(cursor.watermark(), at(NOON + 120));
            cursor
        };
        let events =
            [event("ahead", NOON + 180, "Pass"), event("now", NOON + 1, "Pass"), event("old", NOON - 1, "Pass")];
        let read = |local, served| Page { served, ..page(local, &events, None) };
        let mut cursor = poisoned();
        assert_eq!(poll(&mut cursor, &read(NOON, Some(at(NOON)))).0, ["now.0"], "what is older may have been taken");
        assert_eq!(cursor.last_seen().unwrap().time, at(NOON));
        assert!(poll(&mut cursor, &read(NOON + 1, Some(at(NOON + 1)))).0.is_empty());
        for (local, served) in [(NOON + 180, Some(at(NOON))), (NOON, Some(at(NOON + 180))), (NOON, None)] {
            assert!(poll(&mut poisoned(), &read(local, served)).0.is_empty(), "one clock may be behind");
        }
    }

    #[test]
    fn who_joined_by_a_clock_that_was_ahead_is_followed_from_that_moment_on() {
        // By the local clock it joined at 18:00 and is polled two minutes later; the service says it is 12:02.
        let mut cursor = Cursor::new(at(NOON + 360), at(NOON + 300));
        let events = [event("b", NOON + 1, "Pass"), event("a", NOON - 1, "Pass"), event("old", NOON - 61, "Pass")];
        let page = Page { served: Some(at(NOON + 2)), ..page(NOON + 362, &events, None) };
        let mut walk = Walk::begin(&cursor, page.received);
        let taken = walk.take(&mut cursor, &page, &RULES);
        assert_eq!((names(&taken), walk.pages()), (vec!["b.0".to_owned(), "a.0".to_owned()], 1));
        assert!(taken.findings[0].live && !taken.findings[1].live);
    }

    #[test]
    fn an_event_dated_far_behind_at_the_top_of_a_page_hides_none_of_the_pages_below() {
        let mut cursor = followed_user();
        let mut walk = Walk::begin(&cursor, at(NOON));
        let top = [event("odd", -1, "Pass"), event("a", NOON - 1, "Pass"), event("b", NOON - 2, "Pass")];
        walk.take(&mut cursor, &page(NOON, &top, Some("more")), &RULES);
        let taken = walk.take(&mut cursor, &page(NOON, &[event("c", NOON - 3, "Pass")], None), &RULES);
        assert_eq!(names(&taken), ["c.0"]);
    }

    #[test]
    fn a_date_that_moves_across_the_watermark_makes_no_second_event() {
        let mut cursor = followed_user();
        let mut moving = event("a", NOON - 31, "Pass");
        poll(&mut cursor, &page(NOON, std::slice::from_ref(&moving), None));
        let newest = event("b", NOON + 30, "Pass");
        poll(&mut cursor, &page(NOON + 30, &[newest.clone(), moving.clone()], None));
        assert_eq!((cursor.watermark(), cursor.remembered()), (at(NOON - 30), 2), "a minute below it, and remembered");
        moving.creation_date = Some(at(NOON - 30));
        assert!(poll(&mut cursor, &page(NOON + 31, &[newest, moving], None)).0.is_empty());
    }

    #[test]
    fn a_look_reaches_a_little_below_the_date_that_may_have_moved() {
        let mut cursor = followed_user();
        let sign_up = |event| AuthEvent { event_type: Some(Word::parse("SignUp")), ..event };
        poll(&mut cursor, &page(NOON, &[sign_up(event("a", NOON, "InProgress"))], None));
        poll(&mut cursor, &page(NOON + 100, &[event("b", NOON + 100, "Pass"), event("old", NOON - 90, "Pass")], None));
        let mut walk = Walk::begin(&cursor, at(NOON + 140));
        let top = [event("b", NOON + 100, "Pass"), event("c", NOON - 1, "Pass")];
        let taken = walk.take(&mut cursor, &page(NOON + 140, &top, Some("more")), &RULES);
        assert_eq!(taken.next, Next::Page);
        let below = page(NOON + 140, &[sign_up(event("a", NOON - 1, "Pass"))], None);
        assert_eq!(names(&walk.take(&mut cursor, &below, &RULES)), ["a.1"]);
    }
}
