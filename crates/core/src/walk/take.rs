//! One step of a walk: from a page and a cursor to the findings and the next cursor.
//!
//! [`Walk::take`] is the whole step. The functions below it stand in the order in which it calls them.

use std::collections::VecDeque;
use std::mem;

use super::depth::settled_before;
use super::page_span::{PageSpan, date_of};
use super::{Finding, Kind, Next, Rules, Taken, Walk};
use crate::cursor::{Compared, Cursor, LastSeen, OpenWalk, Sighting};
use crate::event::{AuthEvent, EventKey, Facts, UnixMillis};
use crate::page::Page;
use crate::told::{ToldEvent, ToldEvents};

/// The largest number of remembered events that are looked through after each page for those to forget.
const PRUNED_ALWAYS: usize = 512;

/// The pages after which a walk looks through more than that.
const PRUNE_EVERY: u32 = 8;

/// All of a cursor but the remembered events. What a page costs must not depend on how many these are.
struct CursorHead {
    live_since: UnixMillis,
    last_seen: Option<LastSeen>,
    watermark: UnixMillis,
    reread_at: UnixMillis,
    looks_from: UnixMillis,
    bookmarks: usize,
    undated: VecDeque<EventKey>,
    open: Vec<OpenWalk>,
    redelivery: Option<OpenWalk>,
}

/// A page as a walk judges it.
struct Shown<'a> {
    page: &'a Page,
    rules: &'a Rules,
    /// What another source has told, in a pool that has one.
    told: Option<&'a ToldEvents>,
}

impl Shown<'_> {
    fn compared(&self) -> Compared {
        if self.told.is_some() { Compared::WithAnother } else { Compared::WithItsOwn }
    }
}

impl CursorHead {
    fn of(cursor: &Cursor) -> Self {
        Self {
            live_since: cursor.live_since,
            last_seen: cursor.last_seen.clone(),
            watermark: cursor.watermark,
            reread_at: cursor.reread_at,
            looks_from: cursor.looks_from,
            bookmarks: cursor.bookmarks.len(),
            undated: cursor.undated.clone(),
            open: cursor.open.clone(),
            redelivery: cursor.redelivery.clone(),
        }
    }

    /// Whether the cursor still has this head. Bookmarks go only when the watermark rises, so their number tells.
    fn is_of(&self, cursor: &Cursor) -> bool {
        self.live_since == cursor.live_since
            && self.last_seen == cursor.last_seen
            && self.watermark == cursor.watermark
            && self.reread_at == cursor.reread_at
            && self.looks_from == cursor.looks_from
            && self.bookmarks == cursor.bookmarks.len()
            && self.undated == cursor.undated
            && self.open == cursor.open
            && self.redelivery == cursor.redelivery
    }
}

impl Walk {
    /// Judges every event of a page, moves the cursor, and answers with the findings to log and count.
    ///
    /// The caller commits the cursor and the findings together. A page whose commit is lost is read again.
    pub fn take(&mut self, cursor: &mut Cursor, page: &Page, rules: &Rules) -> Taken {
        self.take_from(cursor, page, rules, None)
    }

    /// Takes a page of a pool that another source tells of as well: Cognito's export. `told` are the told events that
    /// the page shows ([`told`](crate::told)). What the other source has told is known, and [`Taken::told`] says what
    /// is told now.
    pub fn take_beside(&mut self, cursor: &mut Cursor, page: &Page, rules: &Rules, told: &ToldEvents) -> Taken {
        self.take_from(cursor, page, rules, Some(told))
    }

    fn take_from(&mut self, cursor: &mut Cursor, page: &Page, rules: &Rules, told: Option<&ToldEvents>) -> Taken {
        let shown = Shown { page, rules, told };
        let mut taken = Taken::NOTHING;
        let before = CursorHead::of(cursor);
        self.withdraw_from(cursor);
        let first_page = self.pages == 0;
        self.pages = self.pages.saturating_add(1);
        if first_page {
            (self.read_at, self.settled) = (page.read_at(), settled_before(page));
            self.set_right(cursor, page);
            self.bound_depth(cursor, page, rules, &mut taken);
            self.count_attempts(cursor, page.received, rules, &mut taken);
        }

        for event in &page.events {
            let found_before = taken.findings.len();
            self.judge(cursor, event, &shown, &mut taken);
            if let Some(told) = told {
                let is_found = taken.findings.len() > found_before;
                note_told(cursor, event, is_found, told, &mut taken);
            }
        }

        let span = PageSpan::of(page, self.previous_oldest);
        taken.out_of_order = span.out_of_order;
        taken.token_repeated = self.advance(page, span);
        self.bookmark(cursor, page, span, rules);
        let end_reached = span.reads_through(self.end);
        if end_reached && self.deepest_look().is_none_or(|look| span.reads_through(look)) {
            self.close_missed_looks(cursor, page.received, &mut taken);
        } else {
            taken.next = Next::Page;
        }
        if end_reached {
            self.close_covered_walks(cursor, page);
        } else {
            self.store_in(cursor);
        }
        self.raise_watermark(cursor, span, end_reached, page, rules);
        // Among many events, those that a page lets go are forgotten with those of the next pages.
        let is_time = end_reached || cursor.watermark != before.watermark || self.pages.is_multiple_of(PRUNE_EVERY);
        if is_time || cursor.seen.len() <= PRUNED_ALWAYS {
            taken.cursor_changed |= cursor.prune();
        }
        taken.cursor_changed |= !before.is_of(cursor);
        taken
    }

    /// Removes this walk from the cursor. [`Walk::store_in`] puts the rest of it back after the page. An open walk and
    /// a redelivery may be the same stretch, so the kind tells them apart.
    fn withdraw_from(&mut self, cursor: &mut Cursor) {
        let Some(stored) = self.stored.take() else { return };
        match self.kind {
            Kind::Poll | Kind::Backlog => cursor.open.retain(|open| *open != stored),
            Kind::Redelivery => drop(cursor.redelivery.take_if(|open| *open == stored)),
        }
    }

    /// Brings back a cursor that is ahead of every clock, before any event is judged by it. See [`Cursor::set_right`].
    fn set_right(&mut self, cursor: &mut Cursor, page: &Page) {
        if self.kind != Kind::Poll {
            return;
        }
        let Some(served) = page.served else { return };
        if cursor.set_right(served, page.received) {
            let begun_anew = Self::poll(cursor, page.received);
            *self = Self { read_at: self.read_at, settled: self.settled, pages: self.pages, ..begun_anew };
        }
    }

    /// Counts a poll's first page as an attempt at each of its looks. Every look is put off, so that one which the poll
    /// cannot reach does not come at every poll. A watch whose last look was tried too often is closed.
    fn count_attempts(&mut self, cursor: &mut Cursor, now: UnixMillis, rules: &Rules, taken: &mut Taken) {
        self.looks.retain(|key, _| {
            let Some(sighting) = cursor.seen.get_mut(key) else { return false };
            let Some(watch) = &mut sighting.watch else { return false };
            watch.next_look = rules.next_look(&sighting.facts, watch.until, now);
            watch.last_looks += u32::from(now >= watch.until);
            taken.cursor_changed = true;
            if watch.last_looks > Rules::LAST_LOOKS_MAX {
                close_watch(sighting, taken);
                return false;
            }
            true
        });
    }

    /// Judges one event by the table of [`walk`](super).
    fn judge(&mut self, cursor: &mut Cursor, event: &AuthEvent, shown: &Shown<'_>, taken: &mut Taken) {
        let (key, date) = (event.key(), date_of(event));
        let inside = date.map(|time| self.covers(time, cursor.watermark));
        let (compared, told) = (shown.compared(), shown.told.and_then(|told| told.get(&key)));
        if let Some(sighting) = cursor.seen.get_mut(&key) {
            self.looks.remove(&key);
            let before = sighting.clone();
            if let Some(told) = told {
                sighting.catch_up_with(&told.sighting);
            }
            let is_revised = revise(sighting, event, compared, taken);
            look(sighting, shown.page.received, shown.rules, taken);
            if self.kind == Kind::Redelivery && inside == Some(true) && !is_revised {
                deliver_again(sighting, event, compared, taken);
            }
            if let Some(date) = date {
                sighting.shown_at(date);
            }
            taken.cursor_changed |= *sighting != before;
            if date.is_none() {
                cursor.keep_undated(key);
            }
        } else if inside == Some(false) {
            taken.known += 1;
        } else if let (Kind::Redelivery, Some(told)) = (self.kind, told) {
            taken.known += 1;
            deliver_again(&told.sighting, event, compared, taken);
        } else if self.kind == Kind::Redelivery {
            deliver_forgotten_again(cursor, event, shown.rules, taken);
        } else if let Some(told) = told {
            self.adopt(cursor, told, event, shown, taken);
        } else {
            self.take_new(cursor, event, shown, taken);
        }
    }

    /// Takes an event that another source has told: it is remembered, and told only if it is a revision.
    fn adopt(&self, cursor: &mut Cursor, told: &ToldEvent, event: &AuthEvent, shown: &Shown<'_>, taken: &mut Taken) {
        let mut sighting = told.sighting.clone();
        revise(&mut sighting, event, shown.compared(), taken);
        if let Some(created) = date_of(event).filter(|_| event.in_progress()) {
            // The other source knew the event's age by the local clock alone, which may be wrong.
            sighting.watch = Some(shown.rules.watch(&sighting.facts, created, shown.page));
        }
        look(&mut sighting, shown.page.received, shown.rules, taken);
        if let Some(date) = date_of(event) {
            sighting.shown_at(date);
        }
        self.remember(cursor, event, sighting, taken);
    }

    /// Whether this walk may take an event of this time that is not remembered.
    ///
    /// A page may list an event below its place in time. At or above the watermark every taken event is remembered, and
    /// so it is up to [`Cursor::DATE_DRIFT`] above the lower edge. There an event that is not remembered is new. The
    /// lower edge of a redelivery is exact.
    fn covers(&self, time: UnixMillis, watermark: UnixMillis) -> bool {
        let may_be_forgotten = time > self.lower_edge.plus(Cursor::DATE_DRIFT) && time < watermark;
        let is_above = time > self.lower_edge && (self.kind == Kind::Redelivery || may_be_forgotten);
        self.lower_bound <= time && !is_above
    }

    /// Takes an event that is not remembered: tells it as a finding, and remembers it.
    fn take_new(&self, cursor: &mut Cursor, event: &AuthEvent, shown: &Shown<'_>, taken: &mut Taken) {
        let (date, page) = (date_of(event), shown.page);
        let mut sighting = Sighting::first(event, is_live(date, cursor, shown.rules), shown.compared());
        if let Some(created) = date.filter(|_| event.in_progress()) {
            sighting.watch = Some(shown.rules.watch(&sighting.facts, created, page));
            look(&mut sighting, page.received, shown.rules, taken);
        }
        let late = self.is_late(date, cursor);
        let (live, facts) = (sighting.live, sighting.facts.clone());
        taken.findings.push(Finding { event: event.clone(), revision: 0, live, facts, before: None, late });
        self.remember(cursor, event, sighting, taken);
    }

    fn remember(&self, cursor: &mut Cursor, event: &AuthEvent, sighting: Sighting, taken: &mut Taken) {
        let key = event.key();
        cursor.seen.insert(key, sighting);
        taken.cursor_changed = true;
        match date_of(event) {
            Some(date) => self.raise_last_seen(cursor, date, event),
            None => cursor.keep_undated(key),
        }
    }

    /// Whether a new event is older than the newest event that was known before, where everything had been read.
    fn is_late(&self, date: Option<UnixMillis>, cursor: &Cursor) -> bool {
        self.kind == Kind::Poll
            && self.newest_before.zip(date).is_some_and(|(newest, time)| time < newest)
            && !date.is_some_and(|time| cursor.in_open_walk(time))
    }

    /// Moves `last_seen` up to an event that was taken, and never beyond the time of reading.
    ///
    /// Only taken events move it. Backlog on its way from the top passes events that it does not take. If they moved
    /// `last_seen`, the next poll would end at them and leave them to the next full reading.
    fn raise_last_seen(&self, cursor: &mut Cursor, date: UnixMillis, event: &AuthEvent) {
        let time = date.min(self.read_at);
        if cursor.last_seen.as_ref().is_none_or(|last| time > last.time) {
            cursor.last_seen = Some(LastSeen { time, id: event.id.clone() });
        }
    }

    /// Moves the walk below a page. Answers whether the service gave back the token that it was asked with, which the
    /// walk then drops.
    fn advance(&mut self, page: &Page, span: PageSpan) -> bool {
        // A lower edge is the time of an event. Before the first event there is nothing to leave open.
        self.lower_edge = self.lower_edge.min(span.lower_edge.unwrap_or(UnixMillis::MAX));
        self.previous_oldest = span.lower_edge.or(self.previous_oldest);
        let token_repeated = page.next.is_some() && page.next == self.token;
        self.token = page.next.clone().filter(|_| !token_repeated);
        token_repeated
    }

    /// Gives up the looks at watched events that were not where they should be, because they were deleted or have
    /// expired. Where a watch has ended, the event's known state becomes final.
    fn close_missed_looks(&mut self, cursor: &mut Cursor, now: UnixMillis, taken: &mut Taken) {
        for (key, _) in mem::take(&mut self.looks) {
            if let Some(sighting) = cursor.seen.get_mut(&key)
                && sighting.watch.is_some_and(|watch| now >= watch.until)
            {
                close_watch(sighting, taken);
                taken.cursor_changed = true;
            }
        }
    }

    /// Removes the open walks that this poll has read as well, from the top down to its end or the end of the history.
    fn close_covered_walks(&self, cursor: &mut Cursor, page: &Page) {
        if self.kind == Kind::Poll {
            let covered_from = if page.next.is_none() { self.lower_bound } else { self.end };
            cursor.open.retain(|open| open.end < covered_from);
        }
    }

    /// Stores the rest of this walk in the cursor, so that a crash or the end of the turn loses nothing of it.
    fn store_in(&mut self, cursor: &mut Cursor) {
        if !self.has_lower_edge() {
            return;
        }
        let open = OpenWalk { token: self.token.clone(), lower_edge: self.lower_edge, end: self.end };
        match self.kind {
            Kind::Poll | Kind::Backlog => cursor.open.push(open.clone()),
            Kind::Redelivery => cursor.redelivery = Some(open.clone()),
        }
        self.stored = Some(open);
    }

    /// Moves the watermark after a poll's page to the overlap below the newest event. It moves only if the poll has
    /// read through to the old watermark, or has left an open walk that will.
    ///
    /// A reading of several pages moves it up also by the time, so that it is not repeated while no event comes. A
    /// reading of one page does not: it would have to be written, and costs nothing when it is repeated.
    fn raise_watermark(&self, cursor: &mut Cursor, span: PageSpan, end_reached: bool, page: &Page, rules: &Rules) {
        if self.kind != Kind::Poll {
            return;
        }
        if self.full && !end_reached {
            cursor.reread_at = page.received;
        }
        let is_through = end_reached && (self.full || span.reads_through(self.lower_bound));
        let is_left_open = self.full && self.stored.is_some();
        if let (true, Some(last)) = (is_through || is_left_open, &cursor.last_seen) {
            let settled = self.settled.filter(|_| self.full && self.pages > 1);
            let time = settled.map_or(last.time, |settled| settled.max(last.time));
            // The service's time is the end of a second, to which an event dated ahead has brought `last`.
            let read_after = self.settled.map_or(self.read_at, |_| self.read_at.minus(Rules::REST_OF_THE_SECOND));
            cursor.raise_watermark(time.min(read_after).minus(rules.overlap));
        }
    }
}

/// Notes what is told of an event now, for the other source: a finding, or a state that the cursor has from now on.
fn note_told(cursor: &Cursor, event: &AuthEvent, is_found: bool, told: &ToldEvents, taken: &mut Taken) {
    let key = event.key();
    let (Some(sighting), before) = (cursor.seen.get(&key), told.get(&key)) else { return };
    if is_found || before.is_some_and(|told| !told.is_adopted) {
        taken.told.push((key, ToldEvent::polled(sighting, before, event)));
    }
}

/// Whether an event that is not remembered is live. An event without a CreationDate is, because it has no place in
/// time.
fn is_live(date: Option<UnixMillis>, cursor: &Cursor, rules: &Rules) -> bool {
    let live_since = rules.followed_since.map_or(cursor.live_since, |since| since.min(cursor.live_since));
    date.is_none_or(|time| time >= live_since)
}

/// Compares a remembered event with its state on the page. Answers whether that is a revision.
fn revise(sighting: &mut Sighting, event: &AuthEvent, compared: Compared, taken: &mut Taken) -> bool {
    let Some(before) = sighting.revise(event, compared) else {
        taken.known += 1;
        return false;
    };
    taken.findings.push(Finding {
        event: event.clone(),
        revision: sighting.revision,
        live: sighting.live,
        facts: sighting.facts.clone(),
        before: Some(before),
        late: false,
    });
    true
}

/// Looks at an event that is still watched, and so is still in progress: plans the next look, or closes the watch when
/// its time is over.
fn look(sighting: &mut Sighting, now: UnixMillis, rules: &Rules, taken: &mut Taken) {
    let Some(watch) = &mut sighting.watch else { return };
    if now >= watch.until {
        close_watch(sighting, taken);
    } else if Rules::is_due(watch.next_look, now) {
        watch.next_look = rules.next_look(&sighting.facts, watch.until, now);
    }
}

/// Ends the watch of an event that is still in progress.
fn close_watch(sighting: &mut Sighting, taken: &mut Taken) {
    sighting.watch = None;
    if sighting.live {
        taken.unfinished.push(sighting.facts.clone());
    }
}

/// Tells a remembered event of a rewound stretch again, if its state was told before.
fn deliver_again(sighting: &Sighting, event: &AuthEvent, compared: Compared, taken: &mut Taken) {
    let digests = [event.mutable_digest(), event.shared_digest()];
    let told_in = digests.into_iter().find_map(|digest| sighting.revision_of(digest));
    // A state whose details only one source tells is the latest one.
    let same = (compared == Compared::WithAnother).then_some(sighting.revision);
    if let Some(revision) = told_in.or(same) {
        taken.again.push(unchanged(event, revision, sighting.live, event.facts()));
    }
}

/// Tells an event of a rewound stretch again that was taken and forgotten: one below the watermark and outside every
/// open walk. Any other is left to the poll or open walk that has yet to take it.
fn deliver_forgotten_again(cursor: &Cursor, event: &AuthEvent, rules: &Rules, taken: &mut Taken) {
    taken.known += 1;
    let date = date_of(event);
    if date.is_some_and(|time| time < cursor.watermark && !cursor.in_open_walk(time)) {
        taken.again.push(unchanged(event, 0, is_live(date, cursor, rules), event.facts()));
    }
}

/// A finding of an event of which nothing has changed.
fn unchanged(event: &AuthEvent, revision: u32, live: bool, facts: Facts) -> Finding {
    Finding { event: event.clone(), revision, live, before: Some(facts.clone()), facts, late: false }
}
