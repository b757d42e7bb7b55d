//! A model of one user's history and of everything that may happen to a walk through it.
//!
//! proptest generates a sequence of steps (events, ties, late arrivals, outcomes, feedback, tokens of four kinds that
//! expire, polls and backlog cut or crashed at any step, short pages, lost commits) and applies them to the real walk
//! and cursor. Some events are odd: dated far ahead, far behind or not at all, with a date that moves, or shown twice
//! with two dates and in two states. The local clock may be hours wrong either way, and may jump.
//!
//! After every step: nothing is counted twice, no state is told twice, no outcome is taken back, revisions are in
//! sequence, bounds hold, no watermark is ahead of the service's time, and a short page that was enough told all that a
//! full one tells. A pool may have an export, which tells events by itself: early or late, repeated, in an older state,
//! with its date cut or rounded to a second, without its challenges, between a page and its commit, before or after
//! what was told is forgotten. At the end, when the service has shown everything: nothing is missing, every outcome is
//! known, every unfinished event was closed once, nothing more is told, and rewound events were told again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use cognito_auth_core::arrival::{Arrived, ArrivingEvent, ToldBefore, arrive, told_before};
use cognito_auth_core::cursor::{Bookmark, Cursor};
use cognito_auth_core::event::{AuthEvent, Challenge, EventKey, MutableDigest, UnixMillis, Word};
use cognito_auth_core::page::{Page, PageToken};
use cognito_auth_core::told::{ToldEvent, ToldEvents};
use cognito_auth_core::walk::{Finding, Kind, Next, Rules, Taken, Walk};
use proptest::prelude::*;

const MINUTE: i64 = 60_000;
const OVERLAP: i64 = 20 * MINUTE;
/// Longer than the overlap, as for a sign-up, so that a watched event sinks below the watermark.
const SETTLE: i64 = 45 * MINUTE;
const START: i64 = 1_000_000 * MINUTE;
const HOUR: i64 = 60 * MINUTE;
/// So far ahead that no case gets there.
const FAR_AHEAD: i64 = 24_000 * HOUR;
/// Older than any wanted event.
const FAR_BEHIND: i64 = -2 * START;
/// Readings six minutes apart, after which every part of a deep overlap was read again: the overlap, the longest watch
/// that is waited for, and the pause for each of 300 pages.
const REST_ROUNDS: usize = 40;
/// The same as [`Cursor::DATE_DRIFT`].
const DRIFT: i64 = MINUTE;

fn rules() -> Rules {
    let millis = |millis: i64| Duration::from_millis(u64::try_from(millis).unwrap());
    assert_eq!(millis(DRIFT), Cursor::DATE_DRIFT);
    Rules { overlap: millis(OVERLAP), settle: millis(SETTLE), followed_since: None }
}

/// The kind of the service's tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tokens {
    /// `id#time`: the page continues below that event, wherever it is now.
    Key,
    /// A position counted from the newest event. Arrivals shift the pages.
    Offset,
    /// As `Key`, but every token expires when the operation says so.
    Opaque,
    /// A number of pages to skip. With another page size it leads elsewhere.
    Pages,
}

/// How an event is odd.
#[derive(Clone, Debug, PartialEq)]
enum Odd {
    Nothing,
    /// Its date is wrong by this much.
    Dated(i64),
    Undated,
    /// Its date moves by this much when it ends, or disappears.
    Moves(Option<i64>),
    /// It is shown a second time, with a date wrong by this much or without a date; unchanged, or as an ended event.
    Twice {
        off: Option<i64>,
        ended: bool,
    },
}

#[derive(Clone, Debug)]
struct Happening {
    id: usize,
    time: i64,
    visible_at: i64,
    /// When it leaves InProgress. None: it never was in progress. Some(None): it never leaves it.
    in_progress_until: Option<Option<i64>>,
    feedback_at: Option<i64>,
    odd: Odd,
}

impl Happening {
    fn waits(&self, now: i64) -> bool {
        self.in_progress_until.is_some_and(|until| until.is_none_or(|until| now < until))
    }

    /// The date of one of its copies.
    fn date(&self, copy: usize, now: i64) -> Option<i64> {
        let off = match &self.odd {
            Odd::Dated(off) => Some(*off),
            Odd::Undated => None,
            Odd::Moves(off) if self.in_progress_until.is_some() && !self.waits(now) => *off,
            Odd::Twice { off, .. } if copy == 1 => *off,
            _ => Some(0),
        };
        off.map(|off| self.time.saturating_add(off))
    }

    /// Whether it became visible later than the overlap after its date, because the date had moved down by then. Such an
    /// event is not promised.
    fn is_too_late(&self) -> bool {
        let shown = (0..self.copies()).filter_map(|copy| self.date(copy, self.visible_at));
        shown.max().is_some_and(|date| self.visible_at.saturating_sub(date) > OVERLAP)
    }

    fn copies(&self) -> usize {
        1 + usize::from(matches!(self.odd, Odd::Twice { .. }))
    }

    /// All dates that it may be shown with.
    fn dates(&self) -> Vec<Option<i64>> {
        let moments = [i64::MIN, i64::MAX].into_iter();
        moments.flat_map(|now| (0..self.copies()).map(move |copy| self.date(copy, now))).collect()
    }

    /// Newest first; events of one millisecond in the service's own order.
    fn place(&self, copy: usize, now: i64) -> PlaceKey {
        (Reverse(self.date(copy, now).unwrap_or(self.time)), (self.id * 7919) % 104_729, copy)
    }

    fn told_at(&self, copy: usize, now: i64) -> AuthEvent {
        let ended = copy == 1 && matches!(self.odd, Odd::Twice { ended: true, .. });
        let waiting = self.waits(now) && !ended;
        AuthEvent {
            id: Some(format!("event-{}", self.id)),
            event_type: Some(Word::parse("SignIn")),
            creation_date: self.date(copy, now).map(UnixMillis),
            response: Some(Word::parse(if waiting { "InProgress" } else { "Pass" })),
            challenges: if self.feedback_at.is_some_and(|at| now >= at && !ended) {
                vec![Challenge { name: Some(Word::parse("Mfa")), response: None }]
            } else {
                vec![]
            },
            ..AuthEvent::default()
        }
    }
}

type PlaceKey = (Reverse<i64>, usize, usize);

/// The logged and counted state of one event: the durable result of the commits.
#[derive(Clone, Debug, Default)]
struct ModelAccount {
    first_sights: u32,
    live: bool,
    unfinished: u32,
    revisions: u32,
    told: BTreeMap<MutableDigest, u32>,
    last_in_progress: bool,
    /// The number of the last commit that told it.
    told_in: u64,
}

/// An event that was taken before the cursor was rewound, and must be told by a later commit.
struct Rewound {
    taken: BTreeSet<String>,
    commits: u64,
}

/// The table of told events, as the ledger keeps it.
#[derive(Clone, Debug, Default)]
struct ToldTable {
    events: BTreeMap<(i64, EventKey), ToldEvent>,
    /// Every event that was told with a later date is in the table.
    complete_since: i64,
}

impl ToldTable {
    fn get(&self, event: &AuthEvent) -> Option<&ToldEvent> {
        let key = event.key();
        ToldEvent::seconds_near(event.creation_date).find_map(|second| self.events.get(&(second, key)))
    }

    fn of(&self, page: &Page) -> ToldEvents {
        page.events.iter().filter_map(|event| Some((event.key(), self.get(event)?.clone()))).collect()
    }

    /// Writes what a poll tells. Below the time of completeness the cursor has it.
    fn write_polled(&mut self, key: EventKey, told: ToldEvent) {
        if told.second > self.complete_since {
            self.events.insert((told.second, key), told);
        } else {
            self.events.remove(&(told.second, key));
        }
    }

    fn forget_before(&mut self, second: i64) {
        self.complete_since = self.complete_since.max(second);
        self.events.retain(|(place, _), told| *place > second || !told.is_adopted);
    }
}

/// What waits for a commit: where it began, and the pages that were read since.
struct UncommittedPages {
    cursor: Cursor,
    walk: Walk,
    pages: Vec<(Page, ToldEvents)>,
}

struct WalkModel {
    now: i64,
    tokens: Tokens,
    full_page: usize,
    history: Vec<Happening>,
    /// The ledger: replaced as a whole by a commit, untouched by a crash.
    cursor: Cursor,
    accounts: BTreeMap<String, ModelAccount>,
    commits: u64,
    findings: usize,
    rewound: Vec<Rewound>,
    clocks: Clocks,
    /// Whether the local clock was ahead when it joined.
    joined_ahead: bool,
    /// Whether the local clock may jump.
    jumps: bool,
    /// Waits use the local clock, so a clock that jumps ends a wait too soon.
    clock_jumped: bool,
    /// What was told, in a pool with an export.
    told: Option<ToldTable>,
}

/// The clocks when a page is read.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    /// How far the local clock is ahead of the service's.
    local: i64,
    /// Whether the service sends its time.
    served: bool,
}

#[derive(Clone, Debug)]
enum ModelStep {
    /// The local clock is set.
    Clock {
        local: i64,
    },
    /// Events happen, each this long after the one before; zero is a tie.
    Happen {
        events: Vec<Arrival>,
    },
    Wait {
        minutes: i64,
    },
    Turn(ModelTurn),
    /// A turn for backlog. The token may have expired.
    Backlog {
        turn: ModelTurn,
        token_died: bool,
    },
    /// An operator rewinds the last minutes.
    Rewind {
        minutes: i64,
    },
    /// The export tells events.
    Export {
        exports: Vec<ExportedRecord>,
    },
    /// What was told longer ago than this is forgotten, as far as it may be.
    Forget {
        minutes: i64,
    },
}

/// A record of the export.
#[derive(Clone, Debug)]
struct ExportedRecord {
    /// The event, counted from the newest.
    event: usize,
    /// The age of the state that it tells.
    state_age: i64,
    /// Whether its date is rounded to a second, where others are cut.
    rounded: bool,
    /// Whether it lacks what the export may not tell: the challenges.
    bare: bool,
    times: usize,
}

/// A turn of the user.
#[derive(Clone, Debug)]
struct ModelTurn {
    /// The size of its first page.
    first_page: usize,
    pages_max: u32,
    /// The step before which it crashes: two for each page, its reading and its commit.
    crash_at: Option<u32>,
    /// The pages that are committed together.
    pages_a_commit: usize,
    /// Arrivals between pages.
    between: Vec<Arrival>,
    /// What the export tells after each page, before its commit.
    exports: Vec<ExportedRecord>,
}

impl ModelTurn {
    /// A turn that reads full pages to the end.
    const WHOLE: Self = Self {
        first_page: usize::MAX,
        pages_max: u32::MAX,
        crash_at: None,
        pages_a_commit: 1,
        between: vec![],
        exports: vec![],
    };
}

#[derive(Clone, Debug)]
struct Arrival {
    after: i64,
    late: i64,
    in_progress: Option<Option<i64>>,
    feedback: Option<i64>,
    odd: Odd,
}

impl WalkModel {
    fn new(tokens: Tokens, full_page: usize, history_from: i64, clocks: Clocks, jumps: bool) -> Self {
        // It joins by the local clock, and learns at its first poll how far that clock is ahead.
        let ahead = clocks.local.max(0);
        Self {
            now: START,
            tokens,
            full_page,
            history: vec![],
            cursor: Cursor::new(UnixMillis(START + ahead), UnixMillis(history_from + ahead)),
            accounts: BTreeMap::new(),
            commits: 0,
            findings: 0,
            rewound: vec![],
            clocks,
            joined_ahead: ahead > 0,
            jumps,
            clock_jumped: false,
            told: None,
        }
    }

    /// The export tells an event, if it may: it does not tell what happened before it began, and its dates do not move.
    fn export(&mut self, record: &ExportedRecord) {
        let Some(place) = self.history.len().checked_sub(1 + record.event) else { return };
        let happening = &self.history[place];
        let is_fit = matches!(happening.odd, Odd::Nothing | Odd::Undated | Odd::Dated(_));
        if !is_fit || happening.time < START || self.told.is_none() {
            return;
        }
        let mut event = happening.told_at(0, (self.now - record.state_age).max(happening.time));
        let up = if record.rounded { 500 } else { 0 };
        event.creation_date =
            event.creation_date.map(|date| UnixMillis(date.0.saturating_add(up).div_euclid(1000).saturating_mul(1000)));
        if record.bare {
            event.challenges.clear();
        }
        for _ in 0..record.times {
            self.arrive(&event);
        }
    }

    /// Checks that the cursor is right to have passed an exported event: it was told, or nobody wants it.
    fn check_the_passed(&self, event: &AuthEvent) {
        let id = event.id.as_deref().unwrap();
        let happening = &self.history[id.strip_prefix("event-").unwrap().parse::<usize>().unwrap()];
        let is_promised = happening.odd == Odd::Nothing && !happening.is_too_late() && !self.joined_ahead;
        assert!(!is_promised || self.accounts.contains_key(id), "passed and never told: {happening:?}");
    }

    /// One exported event, as in the ledger's writer.
    fn arrive(&mut self, event: &AuthEvent) {
        let Some(table) = &self.told else { return };
        let before = match table.get(event) {
            Some(told) => Some(told.clone()),
            None if ToldEvent::is_covered(event.creation_date, table.complete_since) => None,
            None => match told_before(&self.cursor, event) {
                ToldBefore::Remembered(told) => Some(told),
                ToldBefore::Passed => return self.check_the_passed(event),
                ToldBefore::Never => None,
            },
        };
        let latest = event.creation_date.map(|date| date.plus(Rules::REST_OF_THE_SECOND));
        let live = latest.is_none_or(|date| date >= self.cursor.live_since());
        let Arrived { finding, told, .. } =
            arrive(before, ArrivingEvent { event, live, received: self.local() }, &rules());
        if let Some(finding) = finding {
            self.account(&finding);
            self.commits += 1;
        }
        if let (Some(told), Some(table)) = (told, &mut self.told) {
            table.events.insert((told.second, event.key()), told);
        }
    }

    fn local(&self) -> UnixMillis {
        UnixMillis(self.now + self.clocks.local)
    }

    fn rewind(&mut self, minutes: i64) {
        let from = self.now - minutes * MINUTE;
        self.cursor.rewind(UnixMillis(from));
        let plain = self.history.iter().filter(|event| event.odd == Odd::Nothing);
        let recent = plain.filter(|event| event.time >= from).map(|event| format!("event-{}", event.id));
        // What only the export told lies outside the cursor, and is not rewound.
        let is_taken = |id: &String| {
            let event = self.history.iter().find(|event| format!("event-{}", event.id) == *id).unwrap();
            let (key, time) = (event.told_at(0, self.now).key(), UnixMillis(event.time));
            let is_open = self.cursor.open.iter().any(|open| open.contains(time));
            self.cursor.seen.contains_key(&key) || (time < self.cursor.watermark && !is_open)
        };
        let taken = recent.filter(|id| self.accounts.contains_key(id)).filter(is_taken).collect();
        self.rewound.push(Rewound { taken, commits: self.commits });
    }

    fn happen(&mut self, arrival: &Arrival) {
        self.now += arrival.after;
        self.history.push(Happening {
            id: self.history.len(),
            time: self.now,
            visible_at: self.now + arrival.late,
            in_progress_until: arrival.in_progress.map(|until| until.map(|after| self.now + after)),
            feedback_at: arrival.feedback.map(|after| self.now + after),
            odd: match &arrival.odd {
                // A clock that jumps may end the wait, so that the event is forgotten before its date moves far.
                Odd::Moves(off) if self.jumps && off.is_none_or(|off| off.abs() > DRIFT) => Odd::Nothing,
                // With tokens that count, the events below move up across the edge of a page, and no walk can tell.
                Odd::Moves(Some(..0)) if matches!(self.tokens, Tokens::Offset | Tokens::Pages) => Odd::Nothing,
                odd => odd.clone(),
            },
        });
    }

    fn visible(&self) -> Vec<(PlaceKey, &Happening)> {
        let visible = self.history.iter().filter(|event| event.visible_at <= self.now);
        let mut visible: Vec<_> = visible
            .flat_map(|event| (0..event.copies()).map(move |copy| (event.place(copy, self.now), event)))
            .collect();
        visible.sort_by_key(|(place, _)| *place);
        visible
    }

    fn page(&self, token: Option<&PageToken>, size: usize) -> Page {
        let visible = self.visible();
        let start = match (token, self.tokens) {
            (None, _) => 0,
            (Some(PageToken(text)), Tokens::Offset) => text.parse().unwrap(),
            (Some(PageToken(text)), Tokens::Pages) => text.parse::<usize>().unwrap() * size,
            (Some(PageToken(text)), Tokens::Key | Tokens::Opaque) => {
                let mut parts = text.split('#');
                let mut part = || parts.next().unwrap();
                let last = (Reverse(part().parse().unwrap()), part().parse().unwrap(), part().parse().unwrap());
                visible.partition_point(|(place, _)| *place <= last)
            }
        };
        let end = start + size;
        let events = &visible[start.min(visible.len())..end.min(visible.len())];
        let next = (end < visible.len()).then(|| match self.tokens {
            Tokens::Offset => PageToken(end.to_string()),
            Tokens::Pages => PageToken((end / size).to_string()),
            Tokens::Key | Tokens::Opaque => {
                let (Reverse(time), order, copy) = events.last().unwrap().0;
                PageToken(format!("{time}#{order}#{copy}"))
            }
        });
        Page {
            events: events.iter().map(|((.., copy), event)| event.told_at(*copy, self.now)).collect(),
            next,
            received: self.local(),
            served: self.clocks.served.then_some(UnixMillis(self.now / 1000 * 1000 + 999)),
        }
    }

    fn is_plain(&self, event: &AuthEvent) -> bool {
        let id = event.id.as_deref().unwrap().strip_prefix("event-").unwrap();
        self.history[id.parse::<usize>().unwrap()].odd == Odd::Nothing
    }

    /// One turn of the poller, as in poller/turn.rs, but any page from the top may be short. A crash drops uncommitted
    /// pages.
    fn turn(&mut self, walk: Walk, turn: &ModelTurn) {
        let &ModelTurn { first_page, pages_max, crash_at, ref between, ref exports, .. } = turn;
        let (mut between, mut exports) = (between.iter(), exports.iter());
        let mut size = if walk.token().is_none() { first_page.min(self.full_page) } else { self.full_page };
        let mut waiting = UncommittedPages { cursor: self.cursor.clone(), walk: walk.clone(), pages: vec![] };
        let (mut walk, mut cursor) = (walk, self.cursor.clone());
        for page in 0.. {
            if crash_at == Some(page * 2) {
                return; // before the page is read
            }
            let page_read = self.page(walk.token(), size);
            if size < self.full_page {
                if !walk.ends_with(&page_read) {
                    size = self.full_page;
                    between.next().into_iter().for_each(|arrival| self.happen(arrival));
                    continue;
                }
                if walk.known_above(&self.cursor).is_some() && self.told.is_none() {
                    self.check_the_short_page(&walk, &page_read);
                }
            }
            let told = self.told.as_ref().map(|table| table.of(&page_read)).unwrap_or_default();
            let taken = self.take(&mut walk, &mut cursor, &page_read, &told);
            waiting.pages.push((page_read, told));
            exports.next().into_iter().for_each(|record| self.export(record));
            if crash_at == Some(page * 2 + 1) {
                return; // the commit is lost
            }
            let ends = taken.next == Next::Finished || taken.token_repeated || walk.pages() >= pages_max;
            if ends || waiting.pages.len() >= turn.pages_a_commit {
                (walk, cursor) = self.commit_pages(&mut waiting);
            }
            if ends {
                return;
            }
            if let Some(arrival) = between.next() {
                self.happen(arrival);
            }
        }
    }

    fn take(&self, walk: &mut Walk, cursor: &mut Cursor, page: &Page, told: &ToldEvents) -> Taken {
        match self.told {
            Some(_) => walk.take_beside(cursor, page, &rules(), told),
            None => walk.take(cursor, page, &rules()),
        }
    }

    /// Commits the pages that wait. If the export has told one of their events meanwhile, they are judged again.
    fn commit_pages(&mut self, waiting: &mut UncommittedPages) -> (Walk, Cursor) {
        if let Some(table) = &self.told
            && waiting.pages.iter().any(|(page, told)| table.of(page) != *told)
        {
            waiting.pages.iter_mut().for_each(|(page, told)| *told = table.of(page));
        }
        let (mut walk, mut cursor) = (waiting.walk.clone(), waiting.cursor.clone());
        for (page, told) in std::mem::take(&mut waiting.pages) {
            let taken = self.take(&mut walk, &mut cursor, &page, &told);
            self.commit(cursor.clone(), &taken);
        }
        (waiting.walk, waiting.cursor) = (walk.clone(), cursor.clone());
        (walk, cursor)
    }

    /// Checks a short page that ends the walk against the full page in its place.
    fn check_the_short_page(&self, walk: &Walk, short: &Page) {
        let full = self.page(None, self.full_page);
        if !full.events.iter().skip(short.events.len()).all(|event| self.is_plain(event)) {
            return; // nobody foresees what lies out of its place
        }
        let [short, full] = [short, &full].map(|page| {
            let mut cursor = self.cursor.clone();
            let taken = walk.clone().take(&mut cursor, page, &rules());
            assert_eq!(taken.next, Next::Finished);
            (taken.findings, taken.unfinished, cursor)
        });
        assert_eq!(short, full, "a short page that is enough tells all");
    }

    fn backlog(&mut self, turn: &ModelTurn, token_died: bool) {
        let Some(mut walk) = Walk::resume(&self.cursor) else {
            return;
        };
        if token_died {
            assert!(walk.token_refused(&mut self.cursor), "backlog goes on without its token");
        }
        self.turn(walk, turn);
    }

    fn commit(&mut self, cursor: Cursor, taken: &Taken) {
        assert!(
            taken.cursor_changed
                || (taken.findings.is_empty() && taken.again.is_empty() && taken.unfinished.is_empty()),
            "what is counted is remembered"
        );
        assert!(cursor.open_walks().len() <= Rules::OPEN_WALKS_MAX, "open walks are bounded");
        assert!(cursor.bookmarks.len() <= Bookmark::KEPT_MAX, "bookmarks are bounded");
        assert!(cursor.bookmarks.iter().all(|bookmark| bookmark.time > cursor.watermark()), "and above the watermark");
        assert!(taken.cursor_changed || cursor == self.cursor, "a change is noticed");
        let time_of_reading =
            UnixMillis(if self.clocks.served { self.now + 999 } else { self.local().0.max(self.now) });
        assert!(cursor.watermark() <= time_of_reading, "the watermark is ahead");
        assert!(cursor.last_seen().is_none_or(|last| last.time <= time_of_reading), "the last seen event is ahead");
        let newest = |cursor: &Cursor| cursor.last_seen().map(|last| last.time);
        assert!(newest(&cursor) >= newest(&self.cursor), "the last seen event never moves back");
        taken.findings.iter().for_each(|finding| self.account(finding));
        if let Some(table) = &mut self.told {
            taken.told.iter().for_each(|(key, told)| table.write_polled(*key, told.clone()));
        }
        for again in &taken.again {
            let is_plain = self.is_plain(&again.event);
            // An event older than wanted may not have been told before.
            let Some(account) = self.accounts.get_mut(again.event.id.as_ref().unwrap()) else {
                let is_older = again.event.creation_date < Some(UnixMillis(START));
                assert!(is_older || !is_plain, "told again before it was counted");
                continue;
            };
            assert_eq!(again.before.as_ref(), Some(&again.facts), "what is told again counts nothing");
            assert!(!is_plain || again.live == account.live, "history stays history");
            assert!(again.revision <= account.revisions);
            account.told_in = self.commits + 1;
        }
        // The model's events differ only in what the facts contain. So an unfinished event is found by being in
        // progress: count them here, and check their identity at the end.
        let unfinished = self.accounts.entry("unfinished".into()).or_default();
        unfinished.unfinished += u32::try_from(taken.unfinished.len()).unwrap();
        self.cursor = cursor;
        self.commits += 1;
    }

    /// Logs and counts a finding.
    fn account(&mut self, finding: &Finding) {
        let account = self.accounts.entry(finding.event.id.clone().unwrap()).or_default();
        if finding.before.is_none() {
            account.first_sights += 1;
            assert_eq!(account.first_sights, 1, "counted twice: {:?}", finding.event.id);
            account.live = finding.live;
        } else {
            account.revisions += 1;
            assert_ne!(finding.before.as_ref(), Some(&finding.facts), "a revision changes a fact");
            let goes_back = finding.event.in_progress() && !account.last_in_progress;
            assert!(!goes_back, "an outcome is final: {:?}", finding.event.id);
        }
        let told = account.told.insert(finding.event.mutable_digest(), finding.revision);
        assert_eq!(told, None, "each state is told once: {:?}", finding.event.id);
        assert_eq!(finding.live, account.live, "history stays history");
        assert_eq!(finding.revision, account.revisions, "revisions come in sequence");
        account.last_in_progress = finding.event.in_progress();
        account.told_in = self.commits + 1;
        self.findings += 1;
    }

    fn step(&mut self, step: &ModelStep) {
        match step {
            ModelStep::Happen { events } => events.iter().for_each(|arrival| self.happen(arrival)),
            ModelStep::Wait { minutes } => self.now += minutes * MINUTE,
            ModelStep::Turn(turn) => {
                let walk = Walk::begin(&self.cursor, self.local());
                self.turn(walk, turn);
            }
            ModelStep::Backlog { turn, token_died } => {
                self.backlog(turn, *token_died || self.tokens == Tokens::Opaque);
            }
            ModelStep::Rewind { minutes } => self.rewind(*minutes),
            ModelStep::Export { exports } => exports.iter().for_each(|record| self.export(record)),
            ModelStep::Forget { minutes } => {
                let second = (self.now - minutes * MINUTE).div_euclid(1000);
                self.told.iter_mut().for_each(|table| table.forget_before(second));
            }
            ModelStep::Clock { local } => {
                if self.clocks.served {
                    self.clock_jumped |= self.clocks.local != *local;
                    self.clocks.local = *local;
                }
            }
        }
    }

    /// Lets the service show everything, and completes the walks.
    fn come_to_rest(&mut self) {
        self.now += OVERLAP + SETTLE;
        for _ in 0..REST_ROUNDS {
            self.read_everything();
            self.now += 6 * MINUTE;
        }
        // An event dated ahead is waited for from its first sight on.
        while self.cursor.next_look().is_some() {
            self.now += 6 * MINUTE;
            assert!(self.now < START + 500 * HOUR, "every watch ends");
            self.read_everything();
        }
        let findings = self.findings;
        self.now += 6 * MINUTE;
        self.read_everything();
        assert_eq!(self.findings, findings, "there is nothing more to tell");
    }

    fn read_everything(&mut self) {
        self.read_backlog();
        let walk = Walk::begin(&self.cursor, self.local());
        assert_eq!(walk.kind(), Kind::Poll);
        self.turn(walk, &ModelTurn::WHOLE);
        // A poll leaves a deep part that is to be read again to the lane for backlog.
        self.read_backlog();
        assert!(self.cursor.open_walks().is_empty());
    }

    fn read_backlog(&mut self) {
        while let Some(walk) = Walk::resume(&self.cursor) {
            self.turn(walk, &ModelTurn::WHOLE);
        }
    }

    fn check_the_whole(&self, history_from: i64) {
        let oldest_wanted = history_from.min(START);
        let mut unfinished_live = 0..=0;
        for event in &self.history {
            let told = self.accounts.get(&format!("event-{}", event.id));
            let dates = event.dates();
            // An event without a date has the place of its time.
            let is_wanted = |date: &Option<i64>| date.unwrap_or(event.time) >= oldest_wanted;
            // An event that joined by a clock that was ahead is known to the second.
            let is_close = |date: &i64| {
                [oldest_wanted, START].into_iter().any(|edge| (-1000..0).contains(&date.saturating_sub(edge)))
            };
            if self.joined_ahead && dates.iter().flatten().any(is_close) {
                continue;
            }
            if dates.iter().all(|date| date.is_some() && !is_wanted(date)) {
                assert!(told.is_none(), "older than anybody wants: {event:?}");
                continue;
            }
            let Some(told) = told else {
                // An event that was still to be read in an open walk may have moved above it.
                let moved_up = matches!(event.odd, Odd::Moves(Some(off)) if off > 0);
                assert!(moved_up || event.is_too_late() || !dates.iter().all(is_wanted), "missed: {event:?}");
                continue;
            };
            assert_eq!(told.first_sights, 1);
            if dates.iter().all(|date| date.is_none_or(|date| date >= START)) {
                assert!(told.live, "{event:?}");
            } else if dates.iter().all(|date| date.is_some_and(|date| date < START)) {
                assert!(!told.live, "{event:?}");
            }
            let waits_for_ever = event.in_progress_until == Some(None);
            let has_ended = !waits_for_ever || matches!(event.odd, Odd::Twice { ended: true, .. });
            // No walk looks for an event without a place.
            let is_certain = dates.iter().all(|date| date.is_some() && is_wanted(date))
                && !self.clock_jumped
                && !(self.told.is_some() && event.is_too_late());
            if is_certain {
                assert_eq!(told.last_in_progress, !has_ended, "the outcome is known: {event:?}");
            }
            if told.live && event.in_progress_until.is_some() {
                let is_unfinished = waits_for_ever && is_certain && !has_ended;
                // A poll between two pages misses an event that moves above it. Its outcome comes with the next poll.
                let may_be = waits_for_ever || !is_certain || matches!(event.odd, Odd::Moves(_));
                unfinished_live =
                    unfinished_live.start() + u32::from(is_unfinished)..=unfinished_live.end() + u32::from(may_be);
            }
        }
        for rewound in &self.rewound {
            for id in &rewound.taken {
                assert!(self.accounts[id].told_in > rewound.commits, "{id} was not told again");
            }
        }
        let unfinished = self.accounts.get("unfinished").map_or(0, |account| account.unfinished);
        assert!(unfinished_live.contains(&unfinished), "each unfinished live event is closed once: {unfinished}");
    }
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let after = prop_oneof![4 => Just(0), 4 => 1..5i64, 4 => (0..5i64).prop_map(|m| m * MINUTE / 2), 1 => Just(30 * MINUTE), 2 => 300..1300i64];
    let late = prop_oneof![6 => Just(0), 1 => 0..=OVERLAP, 1 => Just(OVERLAP)];
    let in_progress =
        prop_oneof![3 => Just(None), 1 => Just(Some(None)), 2 => (0..=SETTLE).prop_map(|after| Some(Some(after)))];
    let feedback = prop_oneof![4 => Just(None), 1 => (0..2 * OVERLAP).prop_map(Some)];
    (after, late, in_progress, feedback, odd()).prop_map(|(after, late, in_progress, feedback, odd)| Arrival {
        after,
        late,
        in_progress,
        feedback,
        odd,
    })
}

fn odd() -> impl Strategy<Value = Odd> {
    let little = || prop_oneof![Just(0), Just(3000), Just(-3000), Just(DRIFT), Just(-DRIFT)].prop_map(Some);
    let far = prop_oneof![Just(3 * HOUR), Just(FAR_AHEAD), Just(FAR_BEHIND), Just(i64::MAX), Just(i64::MIN)];
    let moves = prop_oneof![4 => little(), 1 => Just(Some(3 * HOUR)), 1 => Just(Some(FAR_BEHIND)), 1 => Just(None)];
    let twice = prop_oneof![4 => little(), 1 => Just(Some(FAR_AHEAD)), 1 => Just(Some(FAR_BEHIND)), 1 => Just(None)];
    prop_oneof![
        12 => Just(Odd::Nothing),
        1 => far.prop_map(Odd::Dated),
        1 => Just(Odd::Undated),
        1 => moves.prop_map(Odd::Moves),
        2 => (twice, any::<bool>()).prop_map(|(off, ended)| Odd::Twice { off, ended }),
    ]
}

/// Without the service's time, a local clock that is ahead cannot be told from events dated behind.
fn clocks() -> impl Strategy<Value = Clocks> {
    let clocks = |local, served| Just(Clocks { local, served });
    prop_oneof![
        4 => clocks(0, true),
        1 => clocks(0, false),
        1 => clocks(5 * HOUR, true),
        1 => clocks(-5 * HOUR, true),
        1 => clocks(-5 * HOUR, false),
    ]
}

fn turn(first_page: Range<usize>, between: Range<usize>) -> impl Strategy<Value = ModelTurn> {
    let crash = prop_oneof![3 => Just(None), 1 => (0..10u32).prop_map(Some)];
    let between = proptest::collection::vec(arrival(), between);
    let exports = proptest::collection::vec(exported(), 0..3);
    (first_page, 1..6u32, crash, 1..4usize, between, exports).prop_map(
        |(first_page, pages_max, crash_at, pages_a_commit, between, exports)| ModelTurn {
            first_page,
            pages_max,
            crash_at,
            pages_a_commit,
            between,
            exports,
        },
    )
}

fn exported() -> impl Strategy<Value = ExportedRecord> {
    let state_age = prop_oneof![3 => Just(0), 1 => 0..=SETTLE];
    let bare = prop_oneof![3 => Just(false), 1 => Just(true)];
    (0..12usize, state_age, any::<bool>(), bare, 1..3usize)
        .prop_map(|(event, state_age, rounded, bare, times)| ExportedRecord { event, state_age, rounded, bare, times })
}

fn step() -> impl Strategy<Value = ModelStep> {
    prop_oneof![
        4 => proptest::collection::vec(arrival(), 1..4).prop_map(|events| ModelStep::Happen { events }),
        1 => proptest::collection::vec(arrival(), 5..20).prop_map(|events| ModelStep::Happen { events }),
        3 => (1..12i64).prop_map(|minutes| ModelStep::Wait { minutes }),
        1 => Just(ModelStep::Wait { minutes: 90 }),
        5 => turn(1..14, 0..3).prop_map(ModelStep::Turn),
        3 => (turn(14..15, 0..1), any::<bool>())
            .prop_map(|(turn, token_died)| ModelStep::Backlog { turn, token_died }),
        1 => prop_oneof![0..150i64, Just(100_000)].prop_map(|minutes| ModelStep::Rewind { minutes }),
        4 => proptest::collection::vec(exported(), 1..8).prop_map(|exports| ModelStep::Export { exports }),
        1 => (1..180i64).prop_map(|minutes| ModelStep::Forget { minutes }),
        1 => prop_oneof![Just(0), Just(5 * HOUR), Just(-5 * HOUR)].prop_map(|local| ModelStep::Clock { local }),
    ]
}

/// 1,000 cases of about 10 ms; three times as many where CI=true, LONG_TESTS=1 or KILLS ask for long tests. proptest's
/// own variables (PROPTEST_CASES, PROPTEST_MAX_SHRINK_ITERS) have the last word.
fn model_config() -> ProptestConfig {
    let is_set = |name: &str| std::env::var_os(name).is_some();
    let equals = |name: &str, value: &str| std::env::var_os(name).is_some_and(|set| set == value);
    let is_thorough = equals("LONG_TESTS", "1") || equals("CI", "true") || is_set("KILLS");
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if !is_set("PROPTEST_CASES") {
        config.cases = if is_thorough { 3000 } else { 1000 };
    }
    if !is_set("PROPTEST_MAX_SHRINK_ITERS") {
        config.max_shrink_iters = 20_000;
    }
    config
}

proptest! {
    #![proptest_config(model_config())]

    #[test]
    fn nothing_is_lost_and_nothing_is_counted_twice(
        tokens in prop_oneof![Just(Tokens::Key), Just(Tokens::Offset), Just(Tokens::Opaque), Just(Tokens::Pages)],
        full_page in prop_oneof![Just(1), Just(3), Just(12)],
        past in proptest::collection::vec(arrival(), 0..25),
        history_from in prop_oneof![Just(START), Just(START - 40 * MINUTE), Just(0)],
        clocks in clocks(),
        jumps in any::<bool>(),
        has_export in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..45),
    ) {
        let mut world = WalkModel::new(tokens, full_page, history_from, clocks, jumps);
        world.now = START - 90 * MINUTE;
        for arrival in &past {
            world.happen(arrival);
        }
        world.now = world.now.max(START);
        world.told = has_export.then(|| ToldTable { complete_since: START / 1000, ..ToldTable::default() });
        if clocks.local > 0 {
            world.step(&ModelStep::Turn(ModelTurn { pages_max: 1, ..ModelTurn::WHOLE }));
        }
        for step in &steps {
            if jumps || !matches!(step, ModelStep::Clock { .. }) {
                world.step(step);
            }
        }
        world.come_to_rest();
        world.check_the_whole(history_from);
    }
}
