//! A simulation that compares schedules: seeded traces of users' events, a budget of calls, and virtual time.
//!
//! It has the service's semantics. A poll finds every event since the user's last poll, at most 60 a page, and each
//! page is a call. A user's first page shows the events of the last hour before it was followed. The policy [`Learnt`]
//! is the schedule that the daemon runs. [`ShortPages`] also asks it for the size of the pages, as the daemon does.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "shared by a test and a benchmark, each of which uses its own part"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds and user numbers of a simulation are small"
)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use cognito_auth_core::schedule::{
    ActivityEstimate, Allowed, Backlog, FoundEvent, Intervals, Lane, PollAnswer, PoolSlot, Schedule, TurnEnded,
    UserSlot,
};
use cognito_auth_core::walk::page_size::page_size;
use fastrand::Rng;

pub const PAGE: usize = 60;
pub const HOUR: f64 = 3600.0;

/// The age of the oldest events that count on the first pages.
const HISTORY: f64 = HOUR;

/// How far a poll reads back before the newest known event.
const OVERLAP: f64 = HOUR;

/// How long Cognito keeps events. Events older than [`HISTORY`] do not count, but they fill pages.
const KEPT: f64 = 2.0 * 365.0 * 24.0 * HOUR;

/// The time in seconds since the start, and whether the risk is high.
pub type Event = (f64, bool);

/// The events of all users.
pub struct Trace {
    /// The events of each user in order of time.
    pub users: Vec<Vec<Event>>,
    /// Events per second of each user.
    pub rates: Vec<UserRate>,
    /// Events of this time are measured. The trace continues after it, so that all of them can be found under the same
    /// conditions.
    pub measured: Range<f64>,
}

/// Events per second of one user. Only [`SquareRoot`] knows it.
#[derive(Clone, Copy)]
pub struct UserRate {
    /// The rate that can be known at the start of the trace; of a cycle, its average.
    pub known: f64,
    /// The average rate over the measured time.
    pub foreseen: f64,
}

impl UserRate {
    fn steady(rate: f64) -> Self {
        Self { known: rate, foreseen: rate }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TraceShape {
    /// All users have the same rate.
    Uniform,
    /// The n-th busiest has 1/n of the busiest's events.
    Zipf,
    /// 60 % have an event in two months, the rest is log-normal.
    Dormant,
    /// The same, each by day and in one of three time zones.
    Daily,
    /// The same, and 2 % of the users, chosen at random, are attacked once: for four hours with an event every two
    /// minutes, most of high risk.
    Attacks,
    /// The same, but every user changes its rate about every eight hours.
    Shifting,
    /// As `Dormant`, but 2 % of the users are attacked at the same time ([`SIEGE`]), as in `Attacks`.
    Siege,
    /// As `Dormant`, but one user in a thousand is attacked at the same time, with an event every two seconds.
    Flood,
}

impl TraceShape {
    /// The shapes that the tables of the policies have.
    pub const ALL: [Self; 6] = [Self::Uniform, Self::Zipf, Self::Dormant, Self::Daily, Self::Attacks, Self::Shifting];

    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Dormant => "60 % dormant",
            Self::Daily => "daily cycle",
            Self::Attacks => "attacks",
            Self::Shifting => "rates that change",
            Self::Siege => "2 % attacked at once",
            Self::Flood => "0.1 % flooded at once",
        }
    }
}

/// The events per second of an average user in all traces.
const MEAN_RATE: f64 = 0.5 / HOUR;
const DORMANT_SHARE: f64 = 0.6;
const DORMANT_RATE: f64 = 1.0 / (60.0 * 24.0 * HOUR);
/// The standard deviation of the logarithm of the rate: the busiest of a hundred users has ten times the events of the
/// average.
const SIGMA: f64 = 1.5;
const ATTACK: f64 = 4.0 * HOUR;
const ATTACK_RATE: f64 = 30.0 / HOUR;
const FLOOD_RATE: f64 = 0.5;
/// The time of the attack on several users at once.
pub const SIEGE: Range<f64> = 12.0 * HOUR..16.0 * HOUR;

pub fn trace(shape: TraceShape, users: u32, measured: f64, tail: f64, seed: u64) -> Trace {
    let mut rng = Rng::with_seed(seed);
    let end = measured + tail;
    let harmonic: f64 = (1..=users).map(|rank| 1.0 / f64::from(rank)).sum();
    let mut trace = Trace { users: vec![], rates: vec![], measured: 0.0..measured };
    for rank in 1..=users {
        let (events, rate) = match shape {
            TraceShape::Uniform => steady(&mut rng, MEAN_RATE, end),
            TraceShape::Zipf => steady(&mut rng, MEAN_RATE * f64::from(users) / harmonic / f64::from(rank), end),
            TraceShape::Dormant => {
                let rate = somebody(&mut rng);
                steady(&mut rng, rate, end)
            }
            TraceShape::Daily => daily(&mut rng, measured, end),
            TraceShape::Attacks => attacked(&mut rng, measured, end),
            TraceShape::Shifting => shifting(&mut rng, measured, end),
            TraceShape::Siege => besieged(&mut rng, (0.02, ATTACK_RATE), measured, end),
            TraceShape::Flood => besieged(&mut rng, (0.001, FLOOD_RATE), measured, end),
        };
        trace.users.push(events);
        trace.rates.push(rate);
    }
    trace
}

/// A random rate of the log-normal population with its dormant part.
fn somebody(rng: &mut Rng) -> f64 {
    if rng.f64() < DORMANT_SHARE {
        return DORMANT_RATE;
    }
    let normal = (-2.0 * rng.f64().max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos();
    MEAN_RATE / (1.0 - DORMANT_SHARE) * (SIGMA * normal - SIGMA * SIGMA / 2.0).exp()
}

/// A Poisson process, thinned to `shape` times the rate.
fn poisson(rng: &mut Rng, rate: f64, (from, to): (f64, f64), shape: impl Fn(f64) -> f64) -> Vec<Event> {
    let mut events = vec![];
    let mut time = from;
    loop {
        time += -rng.f64().max(1e-12).ln() / rate;
        if time >= to {
            return events;
        }
        if rng.f64() < shape(time) {
            events.push((time, rng.f64() < 0.01));
        }
    }
}

fn steady(rng: &mut Rng, rate: f64, end: f64) -> (Vec<Event>, UserRate) {
    (poisson(rng, rate, (-HISTORY, end), |_| 1.0), UserRate::steady(rate))
}

fn daily(rng: &mut Rng, measured: f64, end: f64) -> (Vec<Event>, UserRate) {
    let rate = somebody(rng);
    let zone = f64::from(rng.u8(0..3)) / 3.0;
    let cycle = move |time: f64| (1.0 + 0.9 * (std::f64::consts::TAU * (time / (24.0 * HOUR) + zone)).sin()) / 1.9;
    let steps = 96;
    let mean = (0..steps).map(|step| 1.9 * cycle(measured * (f64::from(step) + 0.5) / f64::from(steps))).sum::<f64>()
        / f64::from(steps);
    (poisson(rng, rate * 1.9, (-HISTORY, end), cycle), UserRate { known: rate, foreseen: rate * mean })
}

fn attacked(rng: &mut Rng, measured: f64, end: f64) -> (Vec<Event>, UserRate) {
    let user = steady_somebody(rng, end);
    if rng.f64() >= 0.02 {
        return user;
    }
    let begin = rng.f64() * (measured - ATTACK);
    attack(rng, user, ATTACK_RATE, begin..begin + ATTACK, measured)
}

fn besieged(rng: &mut Rng, (share, rate): (f64, f64), measured: f64, end: f64) -> (Vec<Event>, UserRate) {
    let user = steady_somebody(rng, end);
    if rng.f64() < share { attack(rng, user, rate, SIEGE, measured) } else { user }
}

/// Adds the events of an attack to a user's.
fn attack(
    rng: &mut Rng,
    (mut events, usual): (Vec<Event>, UserRate),
    rate: f64,
    time: Range<f64>,
    measured: f64,
) -> (Vec<Event>, UserRate) {
    let mut attack = poisson(rng, rate, (time.start, time.end), |_| 1.0);
    attack.iter_mut().for_each(|(_, high_risk)| *high_risk = rng.f64() < 0.8);
    events.extend(attack);
    events.sort_by(|one, other| one.0.total_cmp(&other.0));
    (events, UserRate { foreseen: usual.known + rate * (time.end - time.start) / measured, ..usual })
}

fn steady_somebody(rng: &mut Rng, end: f64) -> (Vec<Event>, UserRate) {
    let rate = somebody(rng);
    steady(rng, rate, end)
}

fn shifting(rng: &mut Rng, measured: f64, end: f64) -> (Vec<Event>, UserRate) {
    let (mut events, mut known, mut foreseen) = (vec![], 0.0, 0.0);
    let mut from = -HISTORY;
    while from < end {
        let to = (from - rng.f64().max(1e-12).ln() * 8.0 * HOUR).min(end);
        let rate = somebody(rng);
        events.extend(poisson(rng, rate, (from, to), |_| 1.0));
        if from <= 0.0 {
            known = rate;
        }
        foreseen += rate * (to.min(measured) - from.max(0.0)).max(0.0) / measured;
        from = to;
    }
    (events, UserRate { known, foreseen })
}

/// The conditions for all policies.
#[derive(Clone, Copy)]
pub struct SimTerms {
    pub calls_per_second: f64,
    pub min_interval: f64,
    pub max_interval: f64,
}

impl SimTerms {
    /// The interval that can be kept for every user, as `docs/scheduling.md` defines it. It is the same for all
    /// policies.
    pub fn kept_interval(&self, users: usize) -> f64 {
        let share = users as f64 / self.calls_per_second / self.max_interval;
        if share <= 1.0 { self.max_interval } else { self.max_interval * share * share.min(2.0) }
    }
}

/// The result of a turn.
pub struct SimReport {
    pub found: Vec<FoundEvent>,
    pub whole: bool,
    pub calls: u32,
    pub more: bool,
}

pub trait Policy {
    fn next(&mut self, now: f64) -> Option<(u32, Lane)>;
    /// The next time at which a user is due. Called after `next` returned none.
    fn next_at(&self, now: f64) -> f64;
    fn ended(&mut self, user: u32, lane: Lane, report: &SimReport, now: f64);
    /// The number of events to ask for on the first page of a user of whom this many are remembered.
    fn page_size(&self, _user: u32, _known: usize, _now: f64) -> usize {
        PAGE
    }
}

/// Polls the user that was not polled for the longest time.
pub struct RoundRobin {
    queue: VecDeque<(f64, u32)>,
}

impl RoundRobin {
    pub fn new(trace: &Trace) -> Self {
        Self { queue: (0..trace.users.len() as u32).map(|user| (0.0, user)).collect() }
    }
}

impl Policy for RoundRobin {
    fn next(&mut self, now: f64) -> Option<(u32, Lane)> {
        let (due, user) = *self.queue.front()?;
        (due <= now).then(|| {
            self.queue.pop_front();
            (user, Lane::Poll)
        })
    }
    fn next_at(&self, _: f64) -> f64 {
        self.queue.front().map_or(f64::INFINITY, |(due, _)| *due)
    }
    fn ended(&mut self, user: u32, _: Lane, _: &SimReport, now: f64) {
        self.queue.push_back((now + 15.0, user));
    }
}

/// The square-root rule with every user's rate known. Polls are evenly spaced, and frequencies are in proportion to the
/// square root of the rate. They are limited by the two intervals, and scaled so that the budget is used up. The user
/// that is due earliest is next, also before its time if no user is due. The first polls are spread over each user's
/// interval.
pub struct SquareRoot {
    intervals: Vec<f64>,
    min_interval: f64,
    due: BinaryHeap<Reverse<(u64, u32)>>,
    polled: Vec<f64>,
}

impl SquareRoot {
    pub fn new(rates: &[f64], terms: &SimTerms, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x5eed);
        let intervals = Self::intervals(rates, terms);
        let due = intervals.iter().zip(0..).map(|(interval, user)| Reverse((micros(interval * rng.f64()), user)));
        Self {
            due: due.collect(),
            polled: vec![-terms.min_interval; intervals.len()],
            min_interval: terms.min_interval,
            intervals,
        }
    }

    fn intervals(rates: &[f64], terms: &SimTerms) -> Vec<f64> {
        let kept = terms.kept_interval(rates.len());
        let at = |price: f64| rates.iter().map(move |rate| (price / rate.sqrt()).clamp(terms.min_interval, kept));
        let (mut low, mut high) = (1e-6, 1e9);
        for _ in 0..200 {
            let middle = f64::sqrt(low * high);
            let calls: f64 = at(middle).map(|interval| 1.0 / interval).sum();
            if calls > terms.calls_per_second { low = middle } else { high = middle }
        }
        at(high).collect()
    }
}

impl Policy for SquareRoot {
    fn next(&mut self, now: f64) -> Option<(u32, Lane)> {
        let Reverse((_, user)) = *self.due.peek()?;
        (self.polled[user as usize] + self.min_interval <= now).then(|| {
            self.due.pop();
            (user, Lane::Poll)
        })
    }
    fn next_at(&self, _: f64) -> f64 {
        self.due.peek().map_or(f64::INFINITY, |Reverse((_, user))| self.polled[*user as usize] + self.min_interval)
    }
    fn ended(&mut self, user: u32, _: Lane, _: &SimReport, now: f64) {
        self.polled[user as usize] = now;
        self.due.push(Reverse((micros(now + self.intervals[user as usize]), user)));
    }
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

/// The daemon's schedule.
pub struct Learnt {
    pub schedule: Schedule,
    start: Instant,
}

impl Learnt {
    const ALL: Allowed = Allowed { live: true, history: true };

    pub fn new(trace: &Trace, terms: &SimTerms) -> Self {
        let start = Instant::now();
        let seconds = Duration::from_secs_f64;
        let intervals = Intervals { min: seconds(terms.min_interval), max: seconds(terms.max_interval) };
        let mut schedule = Schedule::new(intervals);
        for user in 0..trace.users.len() as u32 {
            schedule.join(PoolSlot(0), UserSlot(user), ActivityEstimate::UNKNOWN, start);
        }
        Self { schedule, start }
    }

    pub fn at(&self, now: f64) -> Instant {
        self.start + Duration::from_secs_f64(now)
    }
}

impl Policy for Learnt {
    fn next(&mut self, now: f64) -> Option<(u32, Lane)> {
        self.schedule.next(self.at(now), Self::ALL).map(|(slot, lane)| (slot.0, lane))
    }
    fn next_at(&self, now: f64) -> f64 {
        let at = self.schedule.next_at(self.at(now), Self::ALL);
        at.map_or(f64::INFINITY, |at| at.duration_since(self.start).as_secs_f64())
    }
    fn ended(&mut self, user: u32, lane: Lane, report: &SimReport, now: f64) {
        let answer = PollAnswer {
            next_look: None,
            backlog: report.more.then_some(Backlog::Live),
            calls: report.calls,
            found: &report.found,
            whole: report.whole,
        };
        let at = self.at(now);
        self.schedule.ended(UserSlot(user), lane, TurnEnded::Answered(answer), at);
    }
}

/// The daemon's schedule, with pages as short as it finds likely to suffice.
pub struct ShortPages(pub Learnt);

impl Policy for ShortPages {
    fn next(&mut self, now: f64) -> Option<(u32, Lane)> {
        self.0.next(now)
    }
    fn next_at(&self, now: f64) -> f64 {
        self.0.next_at(now)
    }
    fn ended(&mut self, user: u32, lane: Lane, report: &SimReport, now: f64) {
        self.0.ended(user, lane, report, now);
    }
    fn page_size(&self, user: u32, known: usize, now: f64) -> usize {
        let expected = self.0.schedule.expected(UserSlot(user), self.0.at(now));
        expected.map_or(PAGE, |expected| page_size(known, expected, PAGE as u8).into())
    }
}

/// The calls and events of polls.
#[derive(Clone, Copy, Default)]
pub struct Pages {
    pub calls: u64,
    pub events: u64,
    /// The number of these calls whose short page did not reach a known event. A full page followed.
    pub missed: u64,
}

impl Pages {
    fn read(&mut self, pages: usize, events: usize) {
        self.calls += pages as u64;
        self.events += events as u64;
    }
}

/// The waiting times of events until they were found.
#[derive(Default)]
pub struct Delays {
    pub all: Vec<f64>,
    pub high_risk: Vec<f64>,
    /// The longest time between two polls of one user.
    pub oldest: f64,
    /// The shortest time between two polls of one user.
    pub closest: f64,
    pub calls: u64,
    /// The calls and events of polls except first ones, and those of the same polls with full pages.
    pub pages: [Pages; 2],
    /// Each poll: time and user.
    pub polls: Vec<(f64, u32)>,
}

impl Delays {
    fn add(&mut self, trace: &Trace, (created, high_risk): Event, found: f64) {
        if trace.measured.contains(&created) {
            self.all.push(found - created);
            if high_risk {
                self.high_risk.push(found - created);
            }
        }
    }
}

/// The four policies, in the order of the table.
pub fn contestants(trace: &Trace, terms: &SimTerms, seed: u64) -> [Box<dyn Policy>; 4] {
    let told = |rate: fn(&UserRate) -> f64| trace.rates.iter().map(rate).collect::<Vec<_>>();
    [
        Box::new(RoundRobin::new(trace)),
        Box::new(SquareRoot::new(&told(|rate| rate.known), terms, seed)),
        Box::new(SquareRoot::new(&told(|rate| rate.foreseen), terms, seed)),
        Box::new(Learnt::new(trace, terms)),
    ]
}

pub fn mean(delays: &[f64]) -> f64 {
    delays.iter().sum::<f64>() / delays.len().max(1) as f64
}

/// The value below which this share of the delays is. Sorts the delays.
pub fn quantile(delays: &mut [f64], share: f64) -> f64 {
    delays.sort_by(f64::total_cmp);
    delays.get((delays.len() as f64 * share) as usize).or(delays.last()).copied().unwrap_or_default()
}

/// The part of a user's events that was read.
#[derive(Clone, Copy, Default)]
struct Read {
    /// Events before this index are found, except the open ones.
    next: usize,
    /// Events after the first page, still to be read.
    open: usize,
    polled: Option<f64>,
    /// All remembered events are at least this new.
    watermark: f64,
}

/// Runs a policy through a trace until all measured events are found.
pub fn run(trace: &Trace, terms: &SimTerms, policy: &mut dyn Policy) -> Delays {
    let mut delays = Delays { closest: f64::INFINITY, ..Delays::default() };
    let mut read = vec![Read::default(); trace.users.len()];
    let expected: usize = trace.users.iter().flatten().filter(|(created, _)| trace.measured.contains(created)).count();
    let end = trace.measured.end + terms.kept_interval(trace.users.len()) * 1.5;
    let call = 1.0 / terms.calls_per_second;
    let mut now = 0.0;
    while now < end && delays.all.len() < expected {
        let Some((user, lane)) = policy.next(now) else {
            // Slightly later, because the policies' clocks round.
            now = policy.next_at(now).max(now) + 1e-6;
            continue;
        };
        let events = &trace.users[user as usize];
        let state = &mut read[user as usize];
        let mut report = SimReport { found: vec![], whole: false, calls: 1, more: false };
        if lane == Lane::Backlog {
            let taken = state.open.min(PAGE);
            events[state.open - taken..state.open].iter().for_each(|event| delays.add(trace, *event, now));
            state.open -= taken;
        } else {
            let fresh = events[state.next..].iter().take_while(|(created, _)| *created <= now).count();
            let newest_first = (state.next..state.next + fresh).rev();
            let first = state.polled.is_none();
            let reads = if first { fresh.min(PAGE) } else { fresh };
            for (place, event) in newest_first.take(reads).enumerate() {
                let (created, high_risk) = events[event];
                delays.add(trace, events[event], now + (place / PAGE) as f64 * call);
                report.found.push(FoundEvent { age: Duration::from_secs_f64((now - created).max(0.0)), high_risk });
            }
            // A full page does not reach a known event and costs one more call.
            let full_pages = 1 + if first { 0 } else { fresh / PAGE };
            report.calls = full_pages as u32;
            if !first {
                let seen = &events[..state.next];
                let known = seen.len() - seen.partition_point(|(created, _)| *created < state.watermark);
                let size = policy.page_size(user, known, now);
                let there = (trace.rates[user as usize].known * KEPT) as usize + seen.len() + fresh;
                let enough = size > fresh + known || size > there;
                let [read, in_full_pages] = &mut delays.pages;
                in_full_pages.read(full_pages, there.min(full_pages * PAGE));
                if size < PAGE {
                    read.read(1, there.min(size));
                }
                if size < PAGE && !enough {
                    read.missed += 1;
                    report.calls += 1;
                }
                if size == PAGE || !enough {
                    read.read(full_pages, there.min(full_pages * PAGE));
                }
            }
            report.whole = first && fresh < PAGE;
            state.open = state.open.max(if first { state.next + fresh - reads } else { 0 });
            state.next += fresh;
            state.watermark = events[..state.next].last().map_or(state.watermark, |(newest, _)| newest - OVERLAP);
            let age = now - state.polled.unwrap_or(0.0);
            delays.oldest = delays.oldest.max(age);
            if let Some(polled) = state.polled.replace(now) {
                delays.closest = delays.closest.min(now - polled);
            }
            delays.polls.push((now, user));
        }
        report.more = state.open > 0;
        delays.calls += u64::from(report.calls);
        policy.ended(user, lane, &report, now);
        now += f64::from(report.calls) * call;
    }
    // An event that was never found has waited at least until now.
    for (state, events) in read.iter().zip(&trace.users) {
        let unread = events[state.next..].iter().chain(&events[..state.open]);
        unread.filter(|(created, _)| *created < now).for_each(|event| delays.add(trace, *event, now));
    }
    delays
}
