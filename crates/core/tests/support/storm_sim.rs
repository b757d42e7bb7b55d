//! A storm in virtual time: few users with very many events, a budget of calls, and the daemon's own walk, cursor and
//! schedule.
//!
//! The service shows a history newest first, in pages of a fixed size. Its tokens are keys, as in AWS's samples. A turn
//! does what `src/poller/turn.rs` does: it waits for a call of the budget, reads a page, gives it to the walk, commits,
//! and goes on. A restart drops all turns between two commits. The ledger has one writer, and a write costs a fixed
//! time and a time for each remembered event in it. Everything is seeded, so the figures are the same on every machine.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "shared by a test and a benchmark")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "times and numbers of a simulation are small"
)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::event::{AuthEvent, UnixMillis, Word};
use cognito_auth_core::page::{Page, PageToken};
use cognito_auth_core::schedule::{
    ActivityEstimate, Allowed, Backlog, FoundEvent, Intervals, Lane, PollAnswer, PoolSlot, Schedule, TurnEnded,
    UserSlot,
};
use cognito_auth_core::walk::{Kind, Next, Rules, Taken, Walk};
use fastrand::Rng;

/// Milliseconds since the storm began.
pub type Millis = i64;

pub const SECOND: Millis = 1000;
pub const MINUTE: Millis = 60 * SECOND;
pub const HOUR: Millis = 60 * MINUTE;

/// The beginning of the storm, as a date.
const BEGIN: i64 = 1_800_000_000_000;

/// A storm, and the conditions under which it is read.
#[derive(Clone, Debug)]
pub struct StormTerms {
    pub users: usize,
    /// Events of each user, evenly spread over the storm.
    pub events: usize,
    /// How long the storm lasts.
    pub lasts: Millis,
    /// Events that are in progress, and how many of these end at some time; in percent.
    pub in_progress: u32,
    pub ending: u32,
    /// Events that become visible late, at most `overlap` after their creation; in percent.
    pub late: u32,
    pub page: usize,
    pub overlap: Duration,
    pub settle: Duration,
    pub calls_per_second: f64,
    pub turns_max: usize,
    pub min_interval: Duration,
    /// From a call to its page.
    pub latency: Millis,
    /// The time of a write, in microseconds: for the write, and for each remembered event in it.
    pub write_micros: i64,
    pub remembered_micros: i64,
    /// When the process is down.
    pub down: Vec<(Millis, Millis)>,
    /// The figures count from here on.
    pub measured_from: Millis,
    /// The simulation ends here, or where nothing is left to read.
    pub ends: Millis,
    /// Whether it goes on to `ends` also where nothing is left to read.
    pub to_the_end: bool,
    pub seed: u64,
}

impl StormTerms {
    /// The load of the trial: 60 users with 2,000 events each within five minutes, in pages of 7.
    pub fn trial() -> Self {
        Self {
            users: 60,
            events: 2000,
            lasts: 5 * MINUTE,
            in_progress: 3,
            ending: 0,
            late: 0,
            page: 7,
            overlap: Duration::from_mins(10),
            settle: Duration::from_mins(30),
            calls_per_second: 200.0,
            turns_max: 16,
            min_interval: Duration::from_secs(1),
            latency: 20,
            write_micros: 3000,
            remembered_micros: 5,
            down: vec![],
            measured_from: 0,
            ends: 10 * MINUTE,
            to_the_end: false,
            seed: 1,
        }
    }

    /// The same after many restarts: the process is up for eight seconds and down for 14 by turns, and it is down for
    /// the last 55 seconds of the storm.
    pub fn after_restarts(self) -> Self {
        let last = self.lasts - 55 * SECOND;
        let down = (0..).map(|turn| turn * 22 * SECOND + 8 * SECOND).take_while(|from| *from + 14 * SECOND < last);
        let down = down.map(|from| (from, from + 14 * SECOND)).chain([(last, self.lasts)]).collect();
        Self { down, measured_from: self.lasts, ends: 2 * self.lasts, ..self }
    }

    /// One user with 100,000 events in an hour, under the default configuration.
    pub fn one_user() -> Self {
        Self {
            users: 1,
            events: 100_000,
            lasts: HOUR,
            page: 60,
            overlap: Duration::from_hours(1),
            calls_per_second: 50.0,
            min_interval: Duration::from_secs(15),
            latency: 60,
            remembered_micros: 1,
            ends: HOUR,
            to_the_end: true,
            ..Self::trial()
        }
    }
}

/// The figures of a run, from `measured_from` on.
#[derive(Clone, Debug, Default)]
pub struct StormFigures {
    pub unseen_at_first: usize,
    pub open_walks_at_first: usize,
    pub calls: u64,
    /// The calls that the budget allowed until no event was unseen or the run ended.
    pub allowed: f64,
    pub new: u64,
    pub known: u64,
    pub revisions: u64,
    pub unfinished: u64,
    pub unseen: usize,
    pub open_walks: usize,
    /// The largest number of events that were visible and unseen at a time, looked at every second.
    pub unseen_most: usize,
    /// Until no event was unseen for the first time.
    pub seconds: Option<f64>,
    pub commits: u64,
    /// Remembered events that were written, over all commits.
    pub written: u64,
    pub remembered_most: usize,
    /// Calls by the kind of walk: polls, backlog.
    pub by_kind: [u64; 2],
    /// The longest time from the moment at which an event became visible to its sighting.
    pub delay_most: Millis,
    /// The longest time from an outcome that came while its event was watched to its sighting.
    pub outcome_delay_most: Millis,
    pub outcomes_missing: usize,
}

impl StormFigures {
    pub fn used(&self) -> f64 {
        self.calls as f64 / self.allowed.max(1.0)
    }

    pub fn share_new(&self) -> f64 {
        self.new as f64 / (self.new + self.known).max(1) as f64
    }

    pub fn written_per_page(&self) -> f64 {
        self.written as f64 / self.calls.max(1) as f64
    }
}

/// An event of the storm.
#[derive(Clone, Copy, Debug)]
struct StormEvent {
    id: usize,
    created: Millis,
    visible: Millis,
    /// None: it is not in progress at any time. Otherwise when it ends; `Millis::MAX` for never.
    ends: Option<Millis>,
}

impl StormEvent {
    fn shown(&self, user: usize, now: Millis) -> AuthEvent {
        let response = if self.ends.is_some_and(|ends| now < ends) { "InProgress" } else { "Pass" };
        AuthEvent {
            id: Some(format!("{user}-{}", self.id)),
            event_type: Some(Word::parse("SignIn")),
            creation_date: Some(date(self.created)),
            response: Some(Word::parse(response)),
            ..AuthEvent::default()
        }
    }
}

fn date(at: Millis) -> UnixMillis {
    UnixMillis(BEGIN + at)
}

/// One user's history and what the ledger holds of it.
struct StormUser {
    /// Oldest first.
    history: Vec<StormEvent>,
    /// Places in `history` in the order in which they become visible.
    by_visibility: Vec<usize>,
    shown: usize,
    seen: Vec<bool>,
    cursor: Cursor,
    activity: ActivityEstimate,
    /// When each outcome was told, by the event's place.
    outcomes: Vec<Option<Millis>>,
}

impl StormUser {
    fn new(terms: &StormTerms, rng: &mut Rng) -> Self {
        let mut times: Vec<Millis> = (0..terms.events).map(|_| rng.i64(0..terms.lasts)).collect();
        times.sort_unstable();
        let overlap = terms.overlap.as_millis() as i64;
        let event = |(id, created): (usize, Millis)| {
            let percent = |rng: &mut Rng, share: u32| rng.u32(0..100) < share;
            let visible = created + if percent(rng, terms.late) { rng.i64(0..overlap) } else { 0 };
            let ends = percent(rng, terms.in_progress).then(|| {
                let settle = terms.settle.as_millis() as i64;
                if percent(rng, terms.ending) { created + rng.i64(0..settle) } else { Millis::MAX }
            });
            StormEvent { id, created, visible, ends }
        };
        let history: Vec<_> = times.into_iter().enumerate().map(event).collect();
        let mut by_visibility: Vec<usize> = (0..history.len()).collect();
        by_visibility.sort_by_key(|place| history[*place].visible);
        Self {
            seen: vec![false; history.len()],
            outcomes: vec![None; history.len()],
            history,
            by_visibility,
            shown: 0,
            cursor: Cursor::new(date(-MINUTE), date(-MINUTE)),
            activity: ActivityEstimate::UNKNOWN,
        }
    }

    /// A page, newest first. A token is the place of the oldest event of the page before.
    fn page(&self, token: Option<&PageToken>, size: usize, now: Millis) -> Page {
        let below = match token {
            Some(PageToken(place)) => place.parse().unwrap_or(0),
            None => self.history.partition_point(|event| event.created <= now),
        };
        let mut older = self.history[..below].iter().enumerate().rev().filter(|(_, event)| event.visible <= now);
        let events: Vec<_> = older.by_ref().take(size).collect();
        let next = events.last().map(|(place, _)| PageToken(place.to_string())).filter(|_| older.next().is_some());
        Page {
            events: events.into_iter().map(|(_, event)| event).map(|event| event.shown(usize::MAX, now)).collect(),
            next,
            received: date(now),
            served: Some(UnixMillis(date(now).0 / 1000 * 1000 + 999)),
        }
    }
}

/// A turn under way.
struct StormTurn {
    user: usize,
    lane: Lane,
    walk: Walk,
    /// The cursor with pages that are not committed yet.
    cursor: Cursor,
    pending: Vec<Taken>,
    pending_since: Millis,
    found: Vec<FoundEvent>,
    calls: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Down,
    Up,
    /// A page comes for the turn with this number.
    PageRead(u64),
    Written,
    /// A turn may begin.
    Due,
    Second,
}

struct Storm<'a> {
    terms: &'a StormTerms,
    start: Instant,
    now: Millis,
    happenings: BinaryHeap<Reverse<(Millis, u64, Happening)>>,
    order: u64,
    users: Vec<StormUser>,
    schedule: Schedule,
    turns: Vec<(u64, StormTurn)>,
    turn_number: u64,
    up: bool,
    /// The budget's next call, in microseconds.
    next_call: i64,
    /// Turns whose commits wait for the writer, and those that it writes.
    waiting: VecDeque<u64>,
    writing: Vec<u64>,
    due_planned: Option<Millis>,
    unseen: usize,
    figures: StormFigures,
}

const ALL: Allowed = Allowed { live: true, history: true };

/// Runs a storm.
pub fn run(terms: &StormTerms) -> StormFigures {
    let mut rng = Rng::with_seed(terms.seed);
    let mut storm = Storm {
        start: Instant::now(),
        now: 0,
        happenings: BinaryHeap::new(),
        order: 0,
        users: (0..terms.users).map(|_| StormUser::new(terms, &mut rng)).collect(),
        schedule: Schedule::new(Storm::intervals(terms)),
        turns: vec![],
        turn_number: 0,
        up: false,
        next_call: 0,
        waiting: VecDeque::new(),
        writing: vec![],
        due_planned: None,
        unseen: 0,
        figures: StormFigures::default(),
        terms,
    };
    storm.plan(0, Happening::Up);
    storm.plan(SECOND, Happening::Second);
    for (from, to) in &terms.down {
        storm.plan(*from, Happening::Down);
        storm.plan(*to, Happening::Up);
    }
    storm.run();
    storm.figures
}

impl<'a> Storm<'a> {
    fn intervals(terms: &StormTerms) -> Intervals {
        Intervals { min: terms.min_interval, max: Duration::from_hours(1) }
    }

    fn rules(&self) -> Rules {
        Rules { overlap: self.terms.overlap, settle: self.terms.settle, followed_since: None }
    }

    fn at(&self, now: Millis) -> Instant {
        self.start + Duration::from_millis(now as u64)
    }

    fn plan(&mut self, at: Millis, what: Happening) {
        self.order += 1;
        self.happenings.push(Reverse((at, self.order, what)));
    }

    fn run(&mut self) {
        while let Some(Reverse((at, _, what))) = self.happenings.pop() {
            self.now = at.min(self.terms.ends);
            if at > self.terms.ends {
                break;
            }
            match what {
                Happening::Down => self.go_down(),
                Happening::Up => self.go_up(),
                Happening::PageRead(turn) => self.page_read(turn),
                Happening::Written => self.written(),
                Happening::Due => {
                    self.due_planned = None;
                    self.begin_turns();
                }
                Happening::Second => self.each_second(),
            }
            if self.figures.seconds.is_some() && !self.terms.to_the_end {
                break;
            }
        }
        self.figures.allowed =
            (self.now - self.terms.measured_from) as f64 / SECOND as f64 * self.terms.calls_per_second;
        self.figures.unseen = self.unseen;
        self.figures.open_walks = self.open_walks();
        self.check_outcomes();
    }

    fn open_walks(&self) -> usize {
        self.users.iter().map(|user| user.cursor.open_walks().len()).sum()
    }

    fn measures(&self) -> bool {
        self.now >= self.terms.measured_from
    }

    fn each_second(&mut self) {
        self.plan(self.now + SECOND, Happening::Second);
        self.show();
        self.note_the_end();
        if self.now == self.terms.measured_from {
            self.figures = StormFigures {
                unseen_at_first: self.unseen,
                open_walks_at_first: self.open_walks(),
                ..StormFigures::default()
            };
        }
        if !self.measures() {
            return;
        }
        self.figures.unseen_most = self.figures.unseen_most.max(self.unseen);
    }

    /// Notes when nothing is left to read.
    fn note_the_end(&mut self) {
        let every_shown = self.users.iter().all(|user| user.shown == user.history.len());
        if self.unseen == 0 && self.now > self.terms.lasts && every_shown && self.figures.seconds.is_none() {
            self.figures.seconds = Some((self.now - self.terms.measured_from) as f64 / 1000.0);
        }
    }

    /// Counts the events that have become visible.
    fn show(&mut self) {
        for user in &mut self.users {
            while let Some(place) = user.by_visibility.get(user.shown).copied() {
                if user.history[place].visible > self.now {
                    break;
                }
                self.unseen += usize::from(!user.seen[place]);
                user.shown += 1;
            }
        }
    }

    /// All that is not committed is lost.
    fn go_down(&mut self) {
        self.up = false;
        self.turns.clear();
        self.waiting.clear();
        self.writing.clear();
    }

    fn go_up(&mut self) {
        self.up = true;
        self.next_call = self.now * 1000;
        self.schedule = Schedule::new(Self::intervals(self.terms));
        let now = self.at(self.now);
        for (slot, user) in (0..).zip(&self.users) {
            self.schedule.join(PoolSlot(0), UserSlot(slot), user.activity, now);
        }
        self.begin_turns();
    }

    /// Reserves the next call and answers with its time.
    fn reserve(&mut self) -> Millis {
        let at = self.next_call.max(self.now * 1000);
        self.next_call = at + (1e6 / self.terms.calls_per_second) as i64;
        at / 1000
    }

    fn begin_turns(&mut self) {
        while self.up && self.turns.len() < self.terms.turns_max {
            let now = self.at(self.now);
            let Some(due) = self.schedule.next_at(now, ALL) else { return };
            let due = (due.duration_since(self.start).as_micros() as i64).max(self.next_call);
            if due > self.now * 1000 {
                let due = due / 1000 + 1;
                if self.due_planned.is_none_or(|planned| due < planned) {
                    self.due_planned = Some(due);
                    self.plan(due, Happening::Due);
                }
                return;
            }
            let Some((slot, lane)) = self.schedule.next(now, ALL) else { return };
            self.begin_turn(slot.0 as usize, lane);
        }
    }

    fn begin_turn(&mut self, user: usize, lane: Lane) {
        let cursor = self.users[user].cursor.clone();
        let walk = match lane {
            Lane::Poll => Some(Walk::begin(&cursor, date(self.now))),
            Lane::Backlog => Walk::resume(&cursor),
        };
        let Some(walk) = walk else {
            return self.report(user, lane, &[], 0);
        };
        self.turn_number += 1;
        let number = self.turn_number;
        let turn = StormTurn { user, lane, walk, cursor, pending: vec![], pending_since: 0, found: vec![], calls: 0 };
        self.turns.push((number, turn));
        self.call(number);
    }

    /// Plans the next page of a turn.
    fn call(&mut self, number: u64) {
        let at = self.reserve() + self.terms.latency;
        self.plan(at, Happening::PageRead(number));
    }

    fn turn(&mut self, number: u64) -> Option<&mut StormTurn> {
        self.turns.iter_mut().find(|(other, _)| *other == number).map(|(_, turn)| turn)
    }

    fn page_read(&mut self, number: u64) {
        let (rules, now, size, measures) = (self.rules(), self.now, self.terms.page, self.measures());
        let Some(index) = self.turns.iter().position(|(other, _)| *other == number) else { return };
        let turn = &mut self.turns[index].1;
        let page = self.users[turn.user].page(turn.walk.token(), size, now);
        turn.calls += 1;
        let is_poll = turn.walk.kind() == Kind::Poll;
        if measures {
            self.figures.calls += 1;
            self.figures.by_kind[usize::from(!is_poll)] += 1;
        }
        let is_first_sight = turn.calls == 1 && !self.users[turn.user].activity.is_known();
        let taken = turn.walk.take(&mut turn.cursor, &page, &rules);
        if is_poll {
            let new = taken.findings.iter().filter(|finding| finding.before.is_none());
            let events: Vec<&AuthEvent> =
                if is_first_sight { page.events.iter().collect() } else { new.map(|finding| &finding.event).collect() };
            let age = |event: &AuthEvent| page.read_at().since(event.creation_date.unwrap_or_default());
            turn.found.extend(events.into_iter().map(|event| FoundEvent { age: age(event), high_risk: false }));
        }
        let goes_on = taken.next == Next::Page && !turn.walk.has_read_enough();
        if turn.pending.is_empty() {
            turn.pending_since = now;
        }
        turn.pending.push(taken);
        let waited = Duration::from_millis((now - turn.pending_since) as u64);
        if goes_on && Walk::commit_may_wait(&turn.cursor, turn.pending.len(), waited) {
            return self.call(number);
        }
        self.waiting.push_back(number);
        self.write();
    }

    /// The writer takes all commits that wait.
    fn write(&mut self) {
        if !self.writing.is_empty() || self.waiting.is_empty() {
            return;
        }
        self.writing = self.waiting.drain(..).collect();
        let mut micros = 0;
        let writing = self.writing.clone();
        for number in writing {
            let Some(turn) = self.turn(number) else { continue };
            if turn.pending.iter().any(|taken| taken.cursor_changed) {
                micros += turn.cursor.remembered() as i64 * self.terms.remembered_micros;
                if micros > 0 && self.measures() {
                    let remembered = self.turn(number).map_or(0, |turn| turn.cursor.remembered());
                    self.figures.commits += 1;
                    self.figures.written += remembered as u64;
                    self.figures.remembered_most = self.figures.remembered_most.max(remembered);
                }
            }
        }
        if micros > 0 {
            micros += self.terms.write_micros;
        }
        self.plan(self.now + micros.div_euclid(1000) + i64::from(micros > 0), Happening::Written);
    }

    fn written(&mut self) {
        for number in std::mem::take(&mut self.writing) {
            let Some(index) = self.turns.iter().position(|(other, _)| *other == number) else { continue };
            self.commit(index);
            let turn = &mut self.turns[index].1;
            let next = turn.pending.last().map(|taken| taken.next);
            turn.pending.clear();
            if next == Some(Next::Page) && !turn.walk.has_read_enough() {
                self.call(number);
            } else {
                let (_, turn) = self.turns.remove(index);
                self.report(turn.user, turn.lane, &turn.found, turn.calls);
            }
        }
        self.note_the_end();
        self.write();
        self.begin_turns();
    }

    /// Makes a turn's pages durable.
    fn commit(&mut self, index: usize) {
        self.show();
        let (measures, now) = (self.measures(), self.now);
        let turn = &mut self.turns[index].1;
        let user = &mut self.users[turn.user];
        user.cursor.clone_from(&turn.cursor);
        if turn.walk.kind() == Kind::Poll && !user.activity.is_known() {
            user.activity.polled(Duration::ZERO, &turn.found, false);
        }
        for taken in &turn.pending {
            for finding in &taken.findings {
                let id = finding.event.id.as_deref().unwrap_or_default();
                let place: usize = id.rsplit('-').next().and_then(|id| id.parse().ok()).unwrap_or_default();
                if finding.before.is_none() {
                    assert!(!std::mem::replace(&mut user.seen[place], true), "counted twice");
                    self.unseen -= 1;
                    self.figures.new += u64::from(measures);
                    self.figures.delay_most = self.figures.delay_most.max(now - user.history[place].visible);
                } else {
                    self.figures.revisions += u64::from(measures);
                }
                if !finding.event.in_progress() {
                    user.outcomes[place] = Some(now);
                }
            }
            if measures {
                self.figures.known += taken.known as u64;
                self.figures.unfinished += taken.unfinished.len() as u64;
            }
        }
    }

    fn report(&mut self, user: usize, lane: Lane, found: &[FoundEvent], calls: u32) {
        let (now, wall) = (self.at(self.now), date(self.now));
        let cursor = &self.users[user].cursor;
        let live = cursor.open_walks().iter().any(|open| open.lower_edge >= cursor.live_since());
        let is_left = !cursor.open_walks().is_empty();
        let answer = PollAnswer {
            next_look: cursor.next_look().map(|look| now + look.since(wall)),
            backlog: is_left.then_some(if live { Backlog::Live } else { Backlog::History }),
            calls,
            found,
            whole: false,
        };
        self.schedule.ended(UserSlot(user as u32), lane, TurnEnded::Answered(answer), now);
    }

    fn check_outcomes(&mut self) {
        for user in &self.users {
            for (event, told) in user.history.iter().zip(&user.outcomes) {
                let Some(ends) = event.ends.filter(|ends| *ends < self.now) else { continue };
                match told {
                    Some(told) => self.figures.outcome_delay_most = self.figures.outcome_delay_most.max(told - ends),
                    None => self.figures.outcomes_missing += 1,
                }
            }
        }
    }
}
