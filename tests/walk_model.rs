//! A model of one user's history and of everything that may happen to a walk through it.
//!
//! proptest makes up a life (events, ties, late arrivals, outcomes, feedback, tokens of four kinds that die, polls and
//! backlog cut or crashed at any step, short pages, commits that are lost) and drives the real walk and cursor through it. After
//! every step: nothing counted twice, revisions in sequence, bounds kept, and a short page that was enough told all that a full
//! one tells. At the end, when the service has told everything: nothing missing, every outcome known, every unfinished event
//! closed once; and what was rewound was told again.

#![allow(clippy::unwrap_used, clippy::cast_possible_wrap, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cognito_auth_exporter::cursor::Cursor;
use cognito_auth_exporter::event::{AuthEvent, Challenge, MutableDigest, UnixMillis, Word};
use cognito_auth_exporter::source::{Page, PageToken};
use cognito_auth_exporter::walk::{Kind, Next, Rules, Taken, Walk};
use proptest::prelude::*;

const MINUTE: i64 = 60_000;
const OVERLAP: i64 = 20 * MINUTE;
/// Longer than the overlap, as a sign-up's: a watched event sinks below the horizon.
const SETTLE: i64 = 45 * MINUTE;
const START: i64 = 1_000_000 * MINUTE;

fn rules() -> Rules {
    let millis = |millis: i64| Duration::from_millis(u64::try_from(millis).unwrap());
    Rules { overlap: millis(OVERLAP), settle: millis(SETTLE), followed_since: None }
}

/// How the service's tokens behave.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tokens {
    /// `id#time`: go on below that event, wherever it is now.
    Key,
    /// A place counted from the top: arrivals shift the pages.
    Offset,
    /// As `Key`, but every token dies when the operation says so.
    Opaque,
    /// A number of pages to skip: with pages of another size it leads elsewhere.
    Pages,
}

#[derive(Clone, Debug)]
struct Happening {
    id: usize,
    time: i64,
    visible_at: i64,
    /// When it leaves InProgress, if it ever began there; None: it never does.
    in_progress_until: Option<Option<i64>>,
    feedback_at: Option<i64>,
}

impl Happening {
    fn told_at(&self, now: i64) -> AuthEvent {
        let waiting = self.in_progress_until.is_some_and(|until| until.is_none_or(|until| now < until));
        AuthEvent {
            id: Some(format!("event-{}", self.id)),
            event_type: Some(Word::parse("SignIn")),
            creation_date: Some(UnixMillis(self.time)),
            response: Some(Word::parse(if waiting { "InProgress" } else { "Pass" })),
            challenges: if self.feedback_at.is_some_and(|at| now >= at) {
                vec![Challenge { name: Some(Word::parse("Mfa")), response: None }]
            } else {
                vec![]
            },
            ..AuthEvent::default()
        }
    }
}

/// What was logged and counted of one event: the durable side of the commits.
#[derive(Clone, Debug, Default)]
struct Account {
    first_sights: u32,
    live: bool,
    unfinished: u32,
    revisions: u32,
    last_told: Option<MutableDigest>,
    last_in_progress: bool,
    /// The number of the commit that told of it last.
    told_in: u64,
}

/// What was taken when the cursor was rewound, and is to be told by a later commit.
struct Rewound {
    taken: BTreeSet<String>,
    commits: u64,
}

struct World {
    now: i64,
    tokens: Tokens,
    full_page: usize,
    history: Vec<Happening>,
    /// The ledger: replaced as a whole by a commit, untouched by a crash.
    cursor: Cursor,
    accounts: BTreeMap<String, Account>,
    commits: u64,
    rewound: Vec<Rewound>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Events happen, each some time after the one before; a tie when zero.
    Happen {
        events: Vec<Arrival>,
    },
    Wait {
        minutes: i64,
    },
    /// A user's turn: events that its first page may hold, pages at most, crash before the commit of a page, arrivals between
    /// pages.
    Turn {
        first_page: usize,
        pages_max: u32,
        crash_at: Option<u32>,
        between: Vec<Arrival>,
    },
    /// A turn in the lane for backlog; the token may have died.
    Backlog {
        pages_max: u32,
        crash_at: Option<u32>,
        token_died: bool,
    },
    /// An operator wants the last minutes logged again.
    Rewind {
        minutes: i64,
    },
}

#[derive(Clone, Debug)]
struct Arrival {
    after: i64,
    late: i64,
    in_progress: Option<Option<i64>>,
    feedback: Option<i64>,
}

impl World {
    fn new(tokens: Tokens, full_page: usize, history_from: i64) -> Self {
        Self {
            now: START,
            tokens,
            full_page,
            history: vec![],
            cursor: Cursor::new(UnixMillis(START), UnixMillis(history_from)),
            accounts: BTreeMap::new(),
            commits: 0,
            rewound: vec![],
        }
    }

    fn rewind(&mut self, minutes: i64) {
        let from = self.now - minutes * MINUTE;
        self.cursor.rewind(UnixMillis(from));
        let recent = self.history.iter().filter(|event| event.time >= from).map(|event| format!("event-{}", event.id));
        let taken = recent.filter(|id| self.accounts.contains_key(id)).collect();
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
        });
    }

    /// Newest first; events of one millisecond in an order of the service's own.
    fn visible(&self) -> Vec<&Happening> {
        let mut visible: Vec<_> = self.history.iter().filter(|event| event.visible_at <= self.now).collect();
        visible.sort_by_key(|event| (-event.time, (event.id * 7919) % 104_729));
        visible
    }

    fn page(&self, token: Option<&PageToken>, size: usize) -> Page {
        let visible = self.visible();
        let start = match (token, self.tokens) {
            (None, _) => 0,
            (Some(PageToken(text)), Tokens::Offset) => text.parse().unwrap(),
            (Some(PageToken(text)), Tokens::Pages) => text.parse::<usize>().unwrap() * size,
            (Some(PageToken(text)), Tokens::Key | Tokens::Opaque) => {
                visible.iter().position(|event| event.id.to_string() == *text).unwrap() + 1
            }
        };
        let end = start + size;
        let events = &visible[start.min(visible.len())..end.min(visible.len())];
        let next = (end < visible.len()).then(|| match self.tokens {
            Tokens::Offset => PageToken(end.to_string()),
            Tokens::Pages => PageToken((end / size).to_string()),
            Tokens::Key | Tokens::Opaque => PageToken(events.last().unwrap().id.to_string()),
        });
        Page {
            events: events.iter().map(|event| event.told_at(self.now)).collect(),
            next,
            received: UnixMillis(self.now),
        }
    }

    /// One turn of the poller, as poller/turn.rs does it, but that any page from the top may be short; a crash drops what was
    /// not committed.
    fn turn(&mut self, mut walk: Walk, first_page: usize, pages_max: u32, crash_at: Option<u32>, between: &[Arrival]) {
        let mut between = between.iter();
        let mut size = if walk.token().is_none() { first_page.min(self.full_page) } else { self.full_page };
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
                if walk.known_above(&self.cursor).is_some() {
                    self.check_the_short_page(&walk, &page_read);
                }
            }
            let mut cursor = self.cursor.clone();
            let taken = walk.take(&mut cursor, &page_read, &rules());
            if crash_at == Some(page * 2 + 1) {
                return; // the commit is lost
            }
            self.commit(cursor, &taken);
            if taken.next == Next::Finished || taken.token_repeated || walk.pages() >= pages_max {
                return;
            }
            if let Some(arrival) = between.next() {
                self.happen(arrival);
            }
        }
    }

    /// What a full page would have told in the place of a short one that ends the walk.
    fn check_the_short_page(&self, walk: &Walk, short: &Page) {
        let full = self.page(None, self.full_page);
        let [short, full] = [short, &full].map(|page| {
            let mut cursor = self.cursor.clone();
            let taken = walk.clone().take(&mut cursor, page, &rules());
            assert_eq!(taken.next, Next::Finished);
            (taken.findings, taken.unfinished, cursor)
        });
        assert_eq!(short, full, "a short page that is enough tells all");
    }

    fn backlog(&mut self, pages_max: u32, crash_at: Option<u32>, token_died: bool) {
        let Some(mut walk) = Walk::resume(&self.cursor) else {
            return;
        };
        if token_died {
            assert!(walk.token_refused(&mut self.cursor), "backlog goes on without its token");
        }
        self.turn(walk, self.full_page, pages_max, crash_at, &[]);
    }

    fn commit(&mut self, cursor: Cursor, taken: &Taken) {
        assert!(
            taken.cursor_changed
                || (taken.findings.is_empty() && taken.again.is_empty() && taken.unfinished.is_empty()),
            "what is counted is remembered"
        );
        assert!(cursor.open_walks().len() <= Rules::OPEN_WALKS_MAX, "open walks are bounded");
        let newest = |cursor: &Cursor| cursor.last_seen().map(|last| last.time);
        assert!(newest(&cursor) >= newest(&self.cursor), "the last seen event never moves back");
        for finding in &taken.findings {
            let account = self.accounts.entry(finding.event.id.clone().unwrap()).or_default();
            if finding.before.is_none() {
                account.first_sights += 1;
                assert_eq!(account.first_sights, 1, "counted twice: {:?}", finding.event.id);
                account.live = finding.live;
            } else {
                account.revisions += 1;
                assert_ne!(account.last_told, Some(finding.event.mutable_digest()), "a revision tells something new");
            }
            assert_eq!(finding.live, account.live, "history stays history");
            assert_eq!(finding.revision, account.revisions, "revisions come in sequence");
            account.last_told = Some(finding.event.mutable_digest());
            account.last_in_progress = finding.event.in_progress();
            account.told_in = self.commits + 1;
        }
        for again in &taken.again {
            // Older than anybody wanted, it may not have been told before.
            let Some(account) = self.accounts.get_mut(again.event.id.as_ref().unwrap()) else {
                assert!(again.event.creation_date < Some(UnixMillis(START)), "told again before it was counted");
                continue;
            };
            assert_eq!(again.before.as_ref(), Some(&again.facts), "what is told again counts nothing");
            assert_eq!(again.live, account.live, "history stays history");
            assert!(again.revision <= account.revisions);
            account.told_in = self.commits + 1;
        }
        // The model's events differ only in what the facts hold, so an unfinished one is found by being in progress:
        // count them; which they are is checked at the end.
        let unfinished = self.accounts.entry("unfinished".into()).or_default();
        unfinished.unfinished += u32::try_from(taken.unfinished.len()).unwrap();
        self.cursor = cursor;
        self.commits += 1;
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Happen { events } => events.iter().for_each(|arrival| self.happen(arrival)),
            Step::Wait { minutes } => self.now += minutes * MINUTE,
            Step::Turn { first_page, pages_max, crash_at, between } => {
                let walk = Walk::begin(&self.cursor, UnixMillis(self.now));
                self.turn(walk, *first_page, *pages_max, *crash_at, between);
            }
            Step::Backlog { pages_max, crash_at, token_died } => {
                self.backlog(*pages_max, *crash_at, *token_died || self.tokens == Tokens::Opaque);
            }
            Step::Rewind { minutes } => self.rewind(*minutes),
        }
    }

    /// Lets the service tell everything, and the walks end.
    fn come_to_rest(&mut self) {
        self.now += OVERLAP + SETTLE;
        for _ in 0..4 {
            while let Some(walk) = Walk::resume(&self.cursor) {
                self.turn(walk, self.full_page, u32::MAX, None, &[]);
            }
            let walk = Walk::begin(&self.cursor, UnixMillis(self.now));
            assert_eq!(walk.kind(), Kind::Poll);
            self.turn(walk, self.full_page, u32::MAX, None, &[]);
            self.now += 6 * MINUTE;
        }
        assert!(self.cursor.open_walks().is_empty());
        assert_eq!(self.cursor.next_look(), None, "every watch ends");
    }

    fn check_the_whole(&self, history_from: i64) {
        let mut unfinished_live = 0;
        for event in &self.history {
            let told = self.accounts.get(&format!("event-{}", event.id));
            if event.time < history_from.min(START) {
                assert!(told.is_none(), "older than anybody wants: {event:?}");
                continue;
            }
            let told = told.unwrap_or_else(|| panic!("missed: {event:?}"));
            assert_eq!(told.first_sights, 1);
            assert_eq!(told.live, event.time >= START);
            let waits_for_ever = event.in_progress_until == Some(None);
            assert_eq!(told.last_in_progress, waits_for_ever, "the outcome is known: {event:?}");
            unfinished_live += u32::from(waits_for_ever && told.live);
        }
        for rewound in &self.rewound {
            for id in &rewound.taken {
                assert!(self.accounts[id].told_in > rewound.commits, "{id} was not told again");
            }
        }
        let unfinished = self.accounts.get("unfinished").map_or(0, |account| account.unfinished);
        assert_eq!(unfinished, unfinished_live, "each unfinished live event is closed once");
    }
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let after =
        prop_oneof![4 => Just(0), 4 => 1..5i64, 4 => (0..5i64).prop_map(|m| m * MINUTE / 2), 1 => Just(30 * MINUTE)];
    let late = prop_oneof![3 => Just(0), 1 => 0..=OVERLAP];
    let in_progress =
        prop_oneof![3 => Just(None), 1 => Just(Some(None)), 2 => (0..=SETTLE).prop_map(|after| Some(Some(after)))];
    let feedback = prop_oneof![4 => Just(None), 1 => (0..2 * OVERLAP).prop_map(Some)];
    (after, late, in_progress, feedback).prop_map(|(after, late, in_progress, feedback)| Arrival {
        after,
        late,
        in_progress,
        feedback,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let crash = || prop_oneof![3 => Just(None), 1 => (0..10u32).prop_map(Some)];
    prop_oneof![
        4 => proptest::collection::vec(arrival(), 1..4).prop_map(|events| Step::Happen { events }),
        1 => proptest::collection::vec(arrival(), 5..20).prop_map(|events| Step::Happen { events }),
        3 => (1..12i64).prop_map(|minutes| Step::Wait { minutes }),
        1 => Just(Step::Wait { minutes: 90 }),
        5 => (1..14usize, 1..6u32, crash(), proptest::collection::vec(arrival(), 0..3)).prop_map(
            |(first_page, pages_max, crash_at, between)| Step::Turn { first_page, pages_max, crash_at, between }
        ),
        3 => (1..6u32, crash(), any::<bool>())
            .prop_map(|(pages_max, crash_at, token_died)| Step::Backlog { pages_max, crash_at, token_died }),
        1 => prop_oneof![0..150i64, Just(100_000)].prop_map(|minutes| Step::Rewind { minutes }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_is_counted_twice(
        tokens in prop_oneof![Just(Tokens::Key), Just(Tokens::Offset), Just(Tokens::Opaque), Just(Tokens::Pages)],
        full_page in prop_oneof![Just(3), Just(12)],
        past in proptest::collection::vec(arrival(), 0..25),
        history_from in prop_oneof![Just(START), Just(START - 40 * MINUTE), Just(0)],
        steps in proptest::collection::vec(step(), 1..45),
    ) {
        let mut world = World::new(tokens, full_page, history_from);
        world.now = START - 90 * MINUTE;
        for arrival in &past {
            world.happen(arrival);
        }
        world.now = world.now.max(START);
        for step in &steps {
            world.step(step);
        }
        world.come_to_rest();
        world.check_the_whole(history_from);
    }
}
