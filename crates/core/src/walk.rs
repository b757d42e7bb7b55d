//! The rules of a walk: from a page and a cursor to what is new, what is revised, when to stop, and the next cursor.
//!
//! Pure; the first thing to get right. A walk reads down from the newest event until it meets what is known:
//!
//! | an event of the page | is |
//! |---|---|
//! | remembered in the cursor, in a state that was told | known |
//! | remembered, in progress, with an outcome that was told | known: an outcome is final |
//! | remembered, in another state | a *revision* |
//! | not remembered, from the walk's lower bound to its lower edge, or above it where every taken event is remembered | *new*: taken |
//! | not remembered, elsewhere | taken before and forgotten, another walk's, or older than anybody wants: passed |
//!
//! An event is its [`EventKey`], whatever date it is shown with: the table asks for the key first and for the date only where
//! the key is not remembered. A history that shows one event in several states, or with several dates, therefore gives at
//! most one record for each state and then none.
//!
//! A poll starts with its lower edge above everything; its lower bound is the watermark. Each page is committed when it was read,
//! and what is left of a walk that was cut short (crash, stop, error, page limit) is in the cursor as an [`OpenWalk`]. To
//! resume it is to walk again with a lower lower edge: the same rules. A token that is refused, has expired or repeats itself
//! is dropped: the walk goes down from the top again, passing what lies above its lower edge.
//!
//! A stretch that an operator has rewound ([`Cursor::rewind`]) is walked the same way, with another table: what is
//! remembered there, and what is below the watermark and outside every open walk, was taken; it is told *again*, to be logged
//! and not counted. A revision is one, as everywhere. The rest is left to those who have yet to take it.
//!
//! Nothing is trusted that is not promised: whole pages are judged, so order inside a page does not matter; a page out of
//! order is counted and obliges to read one more; several events may share a millisecond; a page may be empty.
//!
//! No date is trusted either. What an event's date would move is held at the *time of reading*, the time of the walk's first
//! page ([`Page::read_at`]): an event dated ahead is taken and counted live, and moves neither the watermark nor the end of the
//! next poll beyond that time. The time of reading is the service's own, where its answer says so, because it dates the
//! events too. The local clock may be wrong by hours:
//!
//! | local clock | alone | beside the service's |
//! |---|---|---|
//! | ahead | an event dated ahead could lift the watermark above events to come | has no say |
//! | behind | the watermark stays low, and what is remembered grows | has no say |
//!
//! Only waiting is measured by the local clock, from the moment a page was received.

pub mod page_size;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cursor::{Cursor, Dates, LastSeen, OpenWalk, Sighting, Watch};
use crate::event::{AuthEvent, EventKey, EventResponse, EventType, Facts, Label, MutableDigest, UnixMillis};
use crate::page::{Page, PageToken};

/// What the operator may set of the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// How far behind the newest event a poll re-reads (`poll.overlap`).
    pub overlap: Duration,
    /// How long an event in progress is watched (`poll.settle`).
    pub settle: Duration,
    /// Events at or after this time are live, whatever the cursor says (`pools[].followed_since`).
    pub followed_since: Option<UnixMillis>,
}

impl Rules {
    /// An overlap of several pages is read in full at most this often: an attack of 3,000 events an hour would otherwise
    /// cost 50 calls a poll.
    pub const REREAD_EVERY: Duration = Duration::from_mins(5);

    /// Open walks of one user. At the bound the user's next turn finishes one before it polls the top.
    pub const OPEN_WALKS_MAX: usize = 4;

    /// A sign-up code lives 24 hours, and the event waits for it.
    const SIGN_UP_SETTLE: Duration = Duration::from_hours(25);

    /// A code for a forgotten password lives one hour.
    const FORGOT_PASSWORD_SETTLE: Duration = Duration::from_mins(65);

    /// Ages at which a watched event is looked at; from the last on, each time that much later.
    const LOOKS: [Duration; 5] = [
        Duration::from_mins(1),
        Duration::from_mins(2),
        Duration::from_mins(5),
        Duration::from_mins(15),
        Duration::from_mins(30),
    ];

    /// Pause between looks for an event whose watch has ended but which no poll has reached yet.
    const LAST_LOOK_EVERY: Duration = Duration::from_mins(5);

    /// Polls that set out for a last look and did not get there before what is known is taken as final. Attempts, not
    /// time: an exporter that was down for a day still looks.
    pub const LAST_LOOKS_MAX: u32 = 12;

    /// How long an event in progress is watched, from its creation on.
    fn watch_for(&self, facts: &Facts) -> Duration {
        match facts.event_type {
            Label::Known(EventType::SignUp) => Self::SIGN_UP_SETTLE,
            Label::Known(EventType::ForgotPassword) => Self::FORGOT_PASSWORD_SETTLE,
            _ => self.settle,
        }
    }

    /// The watch of an event at first sight. Its age is what the service's clock says, and none if its date is ahead; from
    /// then on the local clock measures.
    fn watch(&self, facts: &Facts, created: UnixMillis, page: &Page) -> Watch {
        let until = page.received.minus(page.read_at().since(created)).plus(self.watch_for(facts));
        Watch { until, next_look: self.next_look(facts, until, page.received), last_looks: 0 }
    }

    /// When a watched event is looked at next.
    fn next_look(&self, facts: &Facts, until: UnixMillis, now: UnixMillis) -> UnixMillis {
        if now >= until {
            return now.plus(Self::LAST_LOOK_EVERY);
        }
        let age = now.since(until.minus(self.watch_for(facts)));
        let [.., step] = Self::LOOKS;
        let next_age = Self::LOOKS
            .into_iter()
            .find(|look| *look > age)
            .unwrap_or_else(|| step * (u32::try_from(age.as_secs() / step.as_secs()).unwrap_or(u32::MAX - 1) + 1));
        // From now on rather than from its creation: the clock may have been set back since.
        now.plus(next_age.saturating_sub(age)).min(until)
    }

    /// Whether a look that was planned for `planned` is due. None is planned further ahead than the longest pause between
    /// two; one that lies there was planned before the clock was set back, which must not put it off.
    fn is_due(planned: UnixMillis, now: UnixMillis) -> bool {
        let [.., longest_pause] = Self::LOOKS;
        planned <= now || planned > now.plus(longest_pause)
    }
}

/// One sighting that is to be logged and counted.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    /// The event as the page told it.
    pub event: AuthEvent,
    /// 0 at first sight.
    pub revision: u32,
    /// False for history, which is logged but never counted as live.
    pub live: bool,
    /// What the counters know of it now.
    pub facts: Facts,
    /// What they knew before; None at first sight.
    pub before: Option<Facts>,
    /// Whether a first sight came behind the newest event known, where everything had been read.
    pub late: bool,
}

/// What one page gave.
#[derive(Clone, PartialEq, Debug)]
pub struct Taken {
    /// New events and revisions, in the page's order.
    pub findings: Vec<Finding>,
    /// Events of a rewound stretch: to log once more, and to count nowhere.
    pub again: Vec<Finding>,
    /// Live events whose watch ended while they were still in progress.
    pub unfinished: Vec<Facts>,
    /// Events that told nothing new.
    pub known: usize,
    /// Whether the page was not newest first, in itself or against the page before.
    pub out_of_order: bool,
    /// Whether the service gave back the token it was asked with; the walk has dropped it.
    pub token_repeated: bool,
    /// Whether the cursor is another than before and must be written.
    pub cursor_changed: bool,
    /// What to do next.
    pub next: Next,
}

/// What a walk wants after a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The next page, see [`Walk::token`]. The turn may also end here: what is left is in the cursor.
    Page,
    /// Nothing: the walk has met what is known.
    Finished,
}

/// What a walk is for: decides its bounds and its lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// From the top to what is known.
    Poll,
    /// On with a stretch that was cut short, in the lane for backlog.
    Backlog,
    /// Over a stretch that was taken before, to log it again; in the same lane, when nothing else is left there.
    Redelivery,
}

/// A walk under way, from its first page to its last in one turn of its user. Dropping it at any moment is safe.
#[derive(Clone, PartialEq, Debug)]
pub struct Walk {
    kind: Kind,
    /// Where the next page starts; None: at the top.
    token: Option<PageToken>,
    /// The oldest time that was read. Above it nothing is taken that may have been forgotten.
    lower_edge: UnixMillis,
    lower_edge_before: UnixMillis,
    /// Nothing below it is taken.
    lower_bound: UnixMillis,
    /// What has to be read through. Above the lower bound only in a poll that leaves the overlap's depth for later.
    end: UnixMillis,
    /// A poll whose end is the watermark.
    full: bool,
    /// Watched events that this poll shall find, and the time down to which it reads for each.
    looks: BTreeMap<EventKey, UnixMillis>,
    /// When its first page was read.
    read_at: UnixMillis,
    /// The newest event known when the walk began.
    newest_before: Option<UnixMillis>,
    /// The oldest time of the page before.
    previous_oldest: Option<UnixMillis>,
    /// What the cursor holds of this walk.
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
        let reread_due = now < cursor.reread_at || now >= cursor.reread_at.plus(Rules::REREAD_EVERY);
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
            looks: cursor
                .watches()
                .filter(|(_, _, watch)| Rules::is_due(watch.next_look, now))
                .map(|(key, dates, _)| (key, look_down_to(dates, newest_before)))
                .collect(),
            read_at: UnixMillis::MAX,
            newest_before,
            previous_oldest: None,
            stored: None,
            pages: 0,
        }
    }

    /// Goes on with the newest open walk, if there is one, or else with what is to be logged again.
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
            looks: BTreeMap::new(),
            read_at: UnixMillis::MAX,
            newest_before: cursor.last_seen.as_ref().map(|last| last.time),
            previous_oldest: None,
            stored: Some(open.clone()),
            pages: 0,
        })
    }

    /// What this walk is for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the next page starts; None: at the top.
    pub fn token(&self) -> Option<&PageToken> {
        self.token.as_ref()
    }

    /// Pages taken so far.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// How many remembered events a short first page has to show, to tell all that a full one would: those above the watermark.
    /// None where only a full page will do, because something lies deeper that is remembered or still to be taken: a watched event,
    /// an open walk, an event without a date.
    pub fn known_above(&self, cursor: &Cursor) -> Option<usize> {
        let from_the_top = self.kind == Kind::Poll && self.pages == 0;
        let is_above =
            |sighting: &Sighting| sighting.dates.is_some_and(|dates| dates.newest >= cursor.remembered_from());
        let nothing_deeper = cursor.open.is_empty() && cursor.undated.is_empty() && cursor.seen.values().all(is_above);
        (from_the_top && nothing_deeper).then_some(cursor.seen.len())
    }

    /// Whether this page reaches below everything that the walk is about, which ends it. A short page that does not is not to be
    /// taken: it says less than a full one, and its token may be good for no more than it held.
    pub fn ends_with(&self, page: &Page) -> bool {
        // A full page might show what is remembered a little below, too.
        let lowest = self.lower_bound.minus(Cursor::DATE_DRIFT);
        let deepest = self.deepest_look().map_or(lowest, |look| lowest.min(look));
        Span::of(page, self.previous_oldest).reads_through(deepest)
    }

    fn deepest_look(&self) -> Option<UnixMillis> {
        self.looks.values().min().copied()
    }

    /// Whether it has met a date: until then there is nothing that it could leave open.
    pub fn has_lower_edge(&self) -> bool {
        self.lower_edge < UnixMillis::MAX
    }

    /// Whether this walk has read below where it began: on its way from the top it has not, for a while.
    pub fn got_further(&self) -> bool {
        self.lower_edge < self.lower_edge_before
    }

    /// Whether this poll is its user's first: all it can find behind the first page is history or backlog.
    pub fn is_first(&self) -> bool {
        self.kind == Kind::Poll && self.newest_before.is_none()
    }

    /// Drops a token that the service refused. Backlog goes on from the top, now and after a restart; a poll has to be
    /// begun anew, and what it left open is in the cursor.
    ///
    /// Answers whether the walk can go on.
    pub fn token_refused(&mut self, cursor: &mut Cursor) -> bool {
        self.token = None;
        self.previous_oldest = None;
        if let Some(stored) = &mut self.stored {
            for open in cursor.open.iter_mut().chain(&mut cursor.redelivery).filter(|open| *open == stored) {
                open.token = None;
            }
            stored.token = None;
        }
        self.kind != Kind::Poll
    }

    /// Judges every event of a page, moves the cursor, and says what to log and count.
    ///
    /// The cursor and what it accounts for are one commit; a page whose commit is lost is simply read again.
    pub fn take(&mut self, cursor: &mut Cursor, page: &Page, rules: &Rules) -> Taken {
        let before = cursor.clone();
        let now = page.received;
        let asked_with = self.token.clone();
        let first_page = self.pages == 0;
        self.pages = self.pages.saturating_add(1);
        if let Some(stored) = self.stored.take() {
            cursor.open.retain(|open| *open != stored);
            cursor.redelivery.take_if(|open| *open == stored);
        }

        let mut taken = Taken {
            findings: Vec::new(),
            again: Vec::new(),
            unfinished: Vec::new(),
            known: 0,
            out_of_order: false,
            token_repeated: false,
            cursor_changed: false,
            next: Next::Finished,
        };
        if first_page {
            self.read_at = page.read_at();
            self.set_right(cursor, page);
            self.count_the_attempt(cursor, now, rules, &mut taken);
        }

        for event in &page.events {
            self.judge(cursor, event, page, rules, &mut taken);
        }

        // A lower edge is the time of an event; before the first one there is nothing to leave open.
        let span = Span::of(page, self.previous_oldest);
        taken.out_of_order = span.out_of_order;
        self.lower_edge = self.lower_edge.min(span.lower_edge.unwrap_or(UnixMillis::MAX));
        self.previous_oldest = span.lower_edge.or(self.previous_oldest);
        taken.token_repeated = page.next.is_some() && page.next == asked_with;
        self.token = page.next.clone().filter(|_| !taken.token_repeated);

        let stretch_done = span.reads_through(self.end);
        let looks_done = self.deepest_look().is_none_or(|look| span.reads_through(look));
        if stretch_done && looks_done {
            self.close_missed_looks(cursor, now, &mut taken);
        } else {
            taken.next = Next::Page;
        }

        if stretch_done {
            self.cover(cursor, page.next.is_none());
        } else if self.lower_edge < UnixMillis::MAX {
            let open = OpenWalk { token: self.token.clone(), lower_edge: self.lower_edge, end: self.end };
            match self.kind {
                Kind::Poll | Kind::Backlog => cursor.open.push(open.clone()),
                Kind::Redelivery => cursor.redelivery = Some(open.clone()),
            }
            self.stored = Some(open);
        }
        if self.kind == Kind::Poll {
            if self.full && !stretch_done {
                cursor.reread_at = now;
            }
            let is_through = stretch_done && (self.full || span.reads_through(self.lower_bound));
            let is_left_open = self.full && self.stored.is_some();
            if let (true, Some(last)) = (is_through || is_left_open, &cursor.last_seen) {
                cursor.raise_watermark(last.time.minus(rules.overlap));
            }
        }
        cursor.prune();
        taken.cursor_changed = *cursor != before;
        taken
    }

    /// Brings back what lies ahead of every clock, before anything is judged by it; see [`Cursor::set_right`].
    fn set_right(&mut self, cursor: &mut Cursor, page: &Page) {
        if self.kind != Kind::Poll {
            return;
        }
        let Some(served) = page.served else { return };
        if cursor.set_right(served, page.received) {
            let begun_anew = Self::poll(cursor, page.received);
            *self = Self { read_at: self.read_at, pages: self.pages, ..begun_anew };
        }
    }

    /// Judges one event by the table above.
    fn judge(&mut self, cursor: &mut Cursor, event: &AuthEvent, page: &Page, rules: &Rules, taken: &mut Taken) {
        let (key, date) = (event.key(), date_of(event));
        // A page may list an event below its place. At or above the watermark, and a little above the lower edge, an event that was
        // taken is remembered, so one that is not is new. What is told again has a lower edge that is exact.
        let is_forgotten = |time| time > self.lower_edge.plus(Cursor::DATE_DRIFT) && time < cursor.watermark;
        let is_above = |time| time > self.lower_edge && (self.kind == Kind::Redelivery || is_forgotten(time));
        let inside = date.map(|time| self.lower_bound <= time && !is_above(time));
        if let Some(sighting) = cursor.seen.get_mut(&key) {
            self.looks.remove(&key);
            let digest = event.mutable_digest();
            let is_revised = revise(sighting, digest, event, taken);
            look(sighting, page.received, rules, taken);
            if self.kind == Kind::Redelivery
                && inside == Some(true)
                && !is_revised
                && let Some(revision) = sighting.revision_of(digest)
            {
                taken.again.push(again(event, revision, sighting.live, event.facts()));
            }
            match date {
                Some(date) => sighting.shown_at(date),
                None => cursor.keep_undated(key),
            }
            return;
        }
        if inside == Some(false) {
            taken.known += 1;
            return;
        }
        let is_open = date.is_some_and(|time| cursor.in_open_walk(time));
        // An event without a CreationDate has no place in time: it is new unless remembered, and live.
        let live_since = rules.followed_since.map_or(cursor.live_since, |since| since.min(cursor.live_since));
        let live = date.is_none_or(|time| time >= live_since);
        let facts = event.facts();
        if self.kind == Kind::Redelivery {
            taken.known += 1;
            if date.is_some_and(|time| time < cursor.watermark) && !is_open {
                taken.again.push(again(event, 0, live, facts));
            }
            return;
        }
        let late = self.kind == Kind::Poll
            && self.newest_before.zip(date).is_some_and(|(newest, time)| time < newest)
            && !is_open;
        let mut sighting = Sighting {
            dates: date.map(Dates::of),
            digest: event.mutable_digest(),
            former: Vec::new(),
            revision: 0,
            live,
            facts: facts.clone(),
            watch: None,
        };
        if let Some(created) = date.filter(|_| event.in_progress()) {
            sighting.watch = Some(rules.watch(&facts, created, page));
            look(&mut sighting, page.received, rules, taken);
        }
        taken.findings.push(Finding { event: event.clone(), revision: 0, live, facts, before: None, late });
        cursor.seen.insert(key, sighting);
        let Some(date) = date else { return cursor.keep_undated(key) };
        // Only over events that were taken. What backlog passes on its way from the top was not, and a poll that took it for
        // its end would leave it to the next full reading. And never beyond the time of reading, whatever the date says.
        let time = date.min(self.read_at);
        if cursor.last_seen.as_ref().is_none_or(|last| time > last.time) {
            cursor.last_seen = Some(LastSeen { time, id: event.id.clone() });
        }
    }

    /// At a poll's first page: puts off the looks it sets out for, so that one it cannot reach does not come at every
    /// poll; and closes a watch whose last look was tried too often.
    fn count_the_attempt(&mut self, cursor: &mut Cursor, now: UnixMillis, rules: &Rules, taken: &mut Taken) {
        self.looks.retain(|key, _| {
            let Some(sighting) = cursor.seen.get_mut(key) else { return false };
            let Some(watch) = &mut sighting.watch else { return false };
            watch.next_look = rules.next_look(&sighting.facts, watch.until, now);
            watch.last_looks += u32::from(now >= watch.until);
            if watch.last_looks > Rules::LAST_LOOKS_MAX {
                close_watch(sighting, taken);
                return false;
            }
            true
        });
    }

    /// Watched events that were not where they should be: deleted, or expired. If their time is over, what is known of
    /// them is final.
    fn close_missed_looks(&mut self, cursor: &mut Cursor, now: UnixMillis, taken: &mut Taken) {
        for (key, _) in std::mem::take(&mut self.looks) {
            if let Some(sighting) = cursor.seen.get_mut(&key)
                && sighting.watch.is_some_and(|watch| now >= watch.until)
            {
                close_watch(sighting, taken);
            }
        }
    }

    /// A poll that read through from the top to its end has finished every open walk inside that stretch.
    fn cover(&self, cursor: &mut Cursor, end_of_history: bool) {
        if self.kind == Kind::Poll {
            let covered_from = if end_of_history { self.lower_bound } else { self.end };
            cursor.open.retain(|open| open.end < covered_from);
        }
    }
}

/// How far down a page reaches.
#[derive(Clone, Copy)]
struct Span {
    oldest: Option<UnixMillis>,
    /// Above it nothing is left to read. The oldest time of a page in order. The newest of one that is not: an event dated
    /// far behind says nothing of those that follow it, and a lower edge that is too high only makes more be remembered.
    lower_edge: Option<UnixMillis>,
    /// Not newest first, in itself or against the page before.
    out_of_order: bool,
    end_of_history: bool,
}

impl Span {
    fn of(page: &Page, previous_oldest: Option<UnixMillis>) -> Self {
        let times = || page.events.iter().filter_map(date_of);
        let in_order = previous_oldest.into_iter().chain(times()).is_sorted_by(|newer, older| newer >= older);
        let (oldest, newest) = (times().min(), times().max());
        let lower_edge = if in_order { oldest } else { newest };
        Self { oldest, lower_edge, out_of_order: !in_order, end_of_history: page.next.is_none() }
    }

    /// Whether nothing at or above `bound` is left to read.
    fn reads_through(&self, bound: UnixMillis) -> bool {
        self.end_of_history || (!self.out_of_order && self.oldest.is_some_and(|oldest| oldest < bound))
    }
}

/// An event's CreationDate, below the end of the range, which stands for above every event.
fn date_of(event: &AuthEvent) -> Option<UnixMillis> {
    event.creation_date.map(|date| date.min(UnixMillis(i64::MAX - 1)))
}

/// The time down to which a watched event is looked for: a little below its date, which may move, and not above what was
/// taken, where its date is ahead.
fn look_down_to(dates: Option<Dates>, last_seen: Option<UnixMillis>) -> UnixMillis {
    let date = dates.map_or(UnixMillis::MAX, |dates| dates.newest);
    last_seen.map_or(date, |last| date.min(last)).minus(Cursor::DATE_DRIFT)
}

/// An event that is told once more: nothing of it has changed.
fn again(event: &AuthEvent, revision: u32, live: bool, facts: Facts) -> Finding {
    Finding { event: event.clone(), revision, live, before: Some(facts.clone()), facts, late: false }
}

/// Compares a remembered event with what the page says of it now; answers whether it is a revision.
fn revise(sighting: &mut Sighting, digest: MutableDigest, event: &AuthEvent, taken: &mut Taken) -> bool {
    let ended = matches!(sighting.facts.response, Label::Known(EventResponse::Pass | EventResponse::Fail))
        && event.in_progress();
    if ended || sighting.revision_of(digest).is_some() || sighting.former.len() >= Sighting::FORMER_MAX {
        taken.known += 1;
        return false;
    }
    let mut facts = event.facts();
    // Counted when first true: what was found once stays found.
    facts.compromised |= sighting.facts.compromised;
    sighting.former.push(std::mem::replace(&mut sighting.digest, digest));
    sighting.revision = sighting.revision.saturating_add(1);
    if !event.in_progress() {
        sighting.watch = None;
    }
    let before = std::mem::replace(&mut sighting.facts, facts);
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

/// A look at an event that is still watched, thus still in progress: waits on, or closes the watch when its time is over.
fn look(sighting: &mut Sighting, now: UnixMillis, rules: &Rules, taken: &mut Taken) {
    let Some(watch) = &mut sighting.watch else { return };
    if now >= watch.until {
        close_watch(sighting, taken);
    } else if Rules::is_due(watch.next_look, now) {
        watch.next_look = rules.next_look(&sighting.facts, watch.until, now);
    }
}

fn close_watch(sighting: &mut Sighting, taken: &mut Taken) {
    sighting.watch = None;
    if sighting.live {
        taken.unfinished.push(sighting.facts.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Word;

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
        assert_eq!(known_above(&cursor, NOON), Some(0), "who never showed anything");
        let events = [event("a", NOON - 1, "Pass"), event("b", NOON - 61, "Pass"), event("c", NOON - 90, "Pass")];
        poll(&mut cursor, &page(NOON, &events, None));
        assert_eq!(known_above(&cursor, NOON + 300), Some(2));
        let walk = Walk::begin(&cursor, at(NOON + 300));
        let ends = |events: &[AuthEvent], next| walk.ends_with(&page(NOON + 300, events, next));
        assert!(ends(&events, Some("more")) && ends(&events[..2], None));
        assert!(!ends(&events[..2], Some("more")), "b lies at the watermark, and may be one of several");
        let [a, b, c] = events;
        assert!(!ends(&[b, a, c], Some("more")), "who knows what follows, where order is not kept");
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
        assert_eq!(after(page(NOON, &[newest.clone(), undated], None)), None, "nobody knows where it stands");
        assert_eq!(after(page(NOON, &[newest], Some("more"))), None, "a walk is open");
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
            assert_eq!(cursor.watermark(), at(NOON - 60));
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
        let (found, taken) = poll(&mut cursor, &page);
        assert_eq!(found, ["b.0", "a.0"]);
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
