//! A simulation of whole turns: the daemon's schedule and walk against a simulated service, in virtual time.
//!
//! [`schedule_sim`](crate::schedule_sim) only counts pages. Here every turn is the daemon's walk with its cursor. It
//! reads the overlap again, looks at events in progress, drops short pages, and leaves backlog open. The loop is that
//! of `poller/turn.rs`, without the ledger. So the shares of calls are those of the daemon.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "shared by a test and a benchmark, each of which uses its own part"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds and event numbers of a simulation are small"
)]

use std::ops::Range;
use std::time::{Duration, Instant};

use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::event::{AuthEvent, EventResponse, EventRisk, EventType, RiskLevel, UnixMillis, Word};
use cognito_auth_core::page::{Page, PageToken};
use cognito_auth_core::schedule::{
    ActivityEstimate, Allowed, Backlog, CallUse, FoundEvent, Intervals, Lane, PollAnswer, PoolSlot, Schedule,
    TurnEnded, UserSlot,
};
use cognito_auth_core::walk::page_size::{Credit, Fit, page_size};
use cognito_auth_core::walk::{Kind, Next, Rules, Walk};

use crate::schedule_sim::{Event, HOUR, SimTerms, Trace};

const FULL_PAGE: u8 = 60;

/// The virtual time of the trace's start.
const START: UnixMillis = UnixMillis(1_795_523_756_000);

const RULES: Rules = Rules { overlap: Duration::from_hours(1), settle: Duration::from_mins(30), followed_since: None };

/// How events of a trace are in progress at first.
#[derive(Clone, Copy)]
pub struct InProgress {
    /// The share that is in progress for up to a minute and a half: sign-ins with a second factor.
    pub answered: f64,
    /// The share that stays in progress for ever: sign-ins that were given up.
    pub abandoned: f64,
}

/// The conditions of a simulation beside the trace.
#[derive(Clone, Copy)]
pub struct TurnTerms {
    pub terms: SimTerms,
    pub in_progress: InProgress,
    /// Whether events from before the start are read, too.
    pub history: bool,
    /// The seconds between two forecasts.
    pub forecast_every: f64,
}

/// The results of a simulation.
#[derive(Default)]
pub struct TurnFigures {
    /// Each event that was found: its creation and its delay.
    pub delays: Vec<(f64, f64)>,
    /// Each forecast of the mean delay: its time and the delay.
    pub forecasts: Vec<(f64, f64)>,
    /// The calls by purpose.
    pub calls: CallUse,
    /// Among the further calls: full pages after short ones that did not suffice.
    pub dropped: u64,
}

impl TurnFigures {
    /// The mean delay of the events of a time.
    pub fn mean_delay(&self, created: &Range<f64>) -> f64 {
        let within = self.delays.iter().filter(|(at, _)| created.contains(at));
        let (count, sum) = within.fold((0.0, 0.0), |(count, sum), (_, delay)| (count + 1.0, sum + delay));
        sum / count
    }

    /// The mean forecast of a time, where each forecast counts with the events until the next one.
    pub fn mean_forecast(&self, created: &Range<f64>) -> f64 {
        let (mut count, mut sum) = (0.0, 0.0);
        for pair in self.forecasts.windows(2) {
            let [(from, forecast), (to, _)] = *pair else { continue };
            if created.contains(&from) {
                let events = self.delays.iter().filter(|(at, _)| (from..to).contains(at)).count() as f64;
                count += events;
                sum += events * forecast;
            }
        }
        sum / count
    }
}

/// Gives every user of a trace this many more events before its start, seven hours apart.
pub fn add_history(trace: &mut Trace, events: u32) {
    for known in &mut trace.users {
        let oldest = known.first().map_or(0.0, |(created, _)| created.min(0.0));
        let past = (1..=events).rev().map(|age| (oldest - f64::from(age) * 7.0 * HOUR, false));
        known.splice(0..0, past);
    }
}

/// A user of the simulated service, and what the daemon stores of it.
struct SimUser<'a> {
    events: &'a [Event],
    number: u32,
    cursor: Cursor,
    known: bool,
}

impl SimUser<'_> {
    /// The number of its events that the service shows at `now`.
    fn visible(&self, now: f64) -> usize {
        self.events.partition_point(|(created, _)| *created <= now)
    }

    /// The service's answer. A token is the number of events below the page before.
    fn page(&self, token: Option<&PageToken>, size: u8, now: f64, in_progress: InProgress) -> Page {
        let from = token.map_or_else(|| self.visible(now), |token| token.0.parse().expect("the page before gave it"));
        let to = from.saturating_sub(usize::from(size));
        let events = (to..from).rev().map(|event| self.event(event, now, in_progress)).collect();
        let next = (to > 0).then(|| PageToken(to.to_string()));
        Page { events, next, received: at(now), served: None }
    }

    fn event(&self, event: usize, now: f64, in_progress: InProgress) -> AuthEvent {
        let (created, high_risk) = self.events[event];
        let chance = chance(self.number, event);
        let answered_after = if chance < in_progress.abandoned {
            f64::INFINITY
        } else if chance < in_progress.abandoned + in_progress.answered {
            // From 10 to 90 seconds.
            10.0 + 80.0 * (chance - in_progress.abandoned) / in_progress.answered
        } else {
            0.0
        };
        let response = if now < created + answered_after { EventResponse::InProgress } else { EventResponse::Pass };
        let level = if high_risk { RiskLevel::High } else { RiskLevel::Low };
        AuthEvent {
            id: Some(format!("{}-{event}", self.number)),
            event_type: Some(Word::Known(EventType::SignIn)),
            creation_date: Some(at(created)),
            response: Some(Word::Known(response)),
            risk: Some(EventRisk { level: Some(Word::Known(level)), ..EventRisk::default() }),
            ..AuthEvent::default()
        }
    }
}

/// A number from 0 to 1 that belongs to an event.
fn chance(user: u32, event: usize) -> f64 {
    fastrand::Rng::with_seed(u64::from(user) << 32 | event as u64).f64()
}

fn at(seconds: f64) -> UnixMillis {
    UnixMillis(START.0 + (seconds * 1000.0) as i64)
}

/// The result of a turn.
struct SimTurn {
    calls: u32,
    found: Vec<FoundEvent>,
    whole: bool,
    fit: Fit,
}

/// Runs the daemon through a trace until its measured time and `tail` seconds more have passed.
pub fn run_turns(trace: &Trace, terms: &TurnTerms, tail: f64) -> TurnFigures {
    let start = Instant::now();
    let instant = |now: f64| start + Duration::from_secs_f64(now);
    let seconds = Duration::from_secs_f64;
    let intervals = Intervals { min: seconds(terms.terms.min_interval), max: seconds(terms.terms.max_interval) };
    let mut schedule = Schedule::new(intervals);
    let history_from = if terms.history { UnixMillis(0) } else { START };
    let mut users: Vec<SimUser<'_>> = trace
        .users
        .iter()
        .zip(0..)
        .map(|(events, number)| {
            schedule.join(PoolSlot(0), UserSlot(number), ActivityEstimate::UNKNOWN, start);
            SimUser { events, number, cursor: Cursor::new(START, history_from), known: false }
        })
        .collect();
    let mut figures = TurnFigures::default();
    let mut credit = Credit::FULL;
    let call = 1.0 / terms.terms.calls_per_second;
    let allowed = Allowed { live: true, history: true };
    let (mut now, mut forecast_at) = (0.0, 0.0);
    while now < trace.measured.end + tail {
        if now >= forecast_at {
            let forecast = schedule.forecast(terms.terms.calls_per_second);
            figures.forecasts.extend(forecast.delays.get(&PoolSlot(0)).map(|delay| (now, delay.as_secs_f64())));
            forecast_at = now + terms.forecast_every;
        }
        let Some((slot, lane)) = schedule.next(instant(now), allowed) else {
            let next = schedule.next_at(instant(now), allowed).map_or(f64::INFINITY, |at| (at - start).as_secs_f64());
            // Slightly later, because the clock rounds.
            now = next.min(forecast_at).max(now) + 1e-6;
            continue;
        };
        let expected = schedule.expected(slot, instant(now)).filter(|_| credit.suffices());
        let user = &mut users[slot.0 as usize];
        let turn = turn(user, lane, expected, terms, (now, call), &mut figures);
        now += f64::from(turn.calls) * call;
        credit.spend(turn.fit);
        let wall = at(now);
        let answer = PollAnswer {
            next_look: user.cursor.next_look().map(|look| instant(now) + look.since(wall)),
            backlog: backlog(&user.cursor),
            calls: turn.calls,
            found: &turn.found,
            whole: turn.whole,
        };
        schedule.ended(slot, lane, TurnEnded::Answered(answer), instant(now));
    }
    figures.calls = schedule.call_use();
    figures
}

/// One turn, as `poller/turn.rs` makes it. Each page takes `call` seconds.
fn turn(
    user: &mut SimUser<'_>,
    lane: Lane,
    expected: Option<f64>,
    terms: &TurnTerms,
    (mut now, call): (f64, f64),
    figures: &mut TurnFigures,
) -> SimTurn {
    let mut turn = SimTurn { calls: 0, found: vec![], whole: false, fit: Fit::Enough };
    let walk = match lane {
        Lane::Poll => Some(Walk::begin(&user.cursor, at(now))),
        Lane::Backlog => Walk::resume(&user.cursor),
    };
    let Some(mut walk) = walk else { return turn };
    let known_above = expected.zip(walk.known_above(&user.cursor));
    let mut size = known_above.map_or(FULL_PAGE, |(new, known)| page_size(known, new, FULL_PAGE));
    loop {
        now += call;
        turn.calls += 1;
        let page = user.page(walk.token(), size, now, terms.in_progress);
        if size < FULL_PAGE && !walk.ends_with(&page) {
            (turn.fit, size) = (Fit::TooShort, FULL_PAGE);
            figures.dropped += 1;
            continue;
        }
        let taken = walk.take(&mut user.cursor, &page, &RULES);
        if walk.kind() == Kind::Poll {
            let age = |created: UnixMillis| at(now).since(created);
            if turn.calls == 1 && !user.known {
                turn.whole = page.next.is_none();
                turn.found = page.events.iter().map(|event| found(event, age)).collect();
            } else {
                let new = taken.findings.iter().filter(|finding| finding.before.is_none());
                turn.found.extend(new.map(|finding| found(&finding.event, age)));
            }
        }
        if walk.kind() == Kind::Backlog {
            let live = taken.findings.iter().filter(|finding| finding.live && finding.before.is_none());
            turn.found.extend(live.map(|finding| found(&finding.event, |created| at(now).since(created))));
        }
        for finding in taken.findings.iter().filter(|finding| finding.before.is_none()) {
            let created = finding.event.creation_date.expect("every event has a date");
            let created = (created.0 - START.0) as f64 / 1000.0;
            if created >= 0.0 {
                figures.delays.push((created, now - created));
            }
        }
        if taken.next == Next::Finished || walk.has_read_enough() {
            user.known = true;
            return turn;
        }
    }
}

fn found(event: &AuthEvent, age: impl Fn(UnixMillis) -> Duration) -> FoundEvent {
    let facts = event.facts();
    let high_risk = facts.level == cognito_auth_core::event::Label::Known(RiskLevel::High);
    FoundEvent { age: age(event.creation_date.expect("every event has a date")), high_risk }
}

fn backlog(cursor: &Cursor) -> Option<Backlog> {
    let live = cursor.open_walks().iter().any(|open| open.lower_edge >= cursor.live_since());
    let backlog = if live { Backlog::Live } else { Backlog::History };
    (!cursor.open_walks().is_empty()).then_some(backlog)
}
