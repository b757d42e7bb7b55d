//! A simulation of a pool whose events also arrive by Cognito's own export: the daemon's schedule and auditor in
//! virtual time.
//!
//! The export tells an event 5 to 60 seconds after its creation, 20 on average, and loses some. A poll finds every
//! event since the user's last poll, as in [`schedule_sim`](crate::schedule_sim). A fifth of the events are in progress
//! and need a look a minute later. The loop is what the poller does: it tells the schedule what it heard, tells the
//! auditor what was told and found, and changes the pool's mode when the export goes down. When the export is up again,
//! polling goes on in full until each user was polled once, which finds the events that the export lost.

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

use cognito_auth_core::audit::{AuditClock, Auditor, LossEstimate};
use cognito_auth_core::event::{EventKey, UnixMillis};
use cognito_auth_core::schedule::{
    ActivityEstimate, Allowed, CallUse, FoundEvent, Intervals, Lane, PollAnswer, PollMode, PoolSlot, Schedule,
    TurnEnded, UserSlot,
};
use fastrand::Rng;

use crate::schedule_sim::{PAGE, SimTerms, Trace};

const POOL: PoolSlot = PoolSlot(0);

/// The virtual time of the trace's start.
const START: UnixMillis = UnixMillis(1_795_523_756_000);

/// The share of the events that are in progress at first, and the time after which their outcome is looked for.
const IN_PROGRESS: f64 = 0.2;
const LOOK_AFTER: f64 = 60.0;

/// `pools[].export.grace`, and the time between two reads.
const GRACE: Duration = Duration::from_mins(15);
const READ_EVERY: f64 = 10.0;

/// Where a pool's events come from.
#[derive(Clone, Copy, PartialEq)]
pub enum Sources {
    /// From polls alone.
    Polling,
    /// From the export. Polls are a sample of so many users per second.
    Sample(f64),
    /// From the export and from polls, which go on as if there were no export.
    Full,
}

/// The conditions of a simulation beside the trace.
#[derive(Clone)]
pub struct ExportTerms {
    pub terms: SimTerms,
    pub sources: Sources,
    /// The share of events that the export loses.
    pub loss: f64,
    /// The time of which the export tells nothing, ever.
    pub outage: Range<f64>,
}

/// The results of a simulation. Times are in seconds. An event that was not seen has waited until the end.
#[derive(Default)]
pub struct ExportFigures {
    /// The delays of the measured events: all, those that the export told, the others, and those of the outage.
    pub all: Vec<f64>,
    pub told: Vec<f64>,
    pub lost: Vec<f64>,
    pub in_outage: Vec<f64>,
    /// The share of the lost events that a poll has found by the end.
    pub lost_found: f64,
    /// When the export went down or up.
    pub changes: Vec<(f64, bool)>,
    pub loss: LossEstimate,
    pub calls: CallUse,
    /// Calls per second within the measured time.
    pub calls_per_second: f64,
}

/// An event of the trace: its user and its number.
type EventPlace = (u32, u32);

/// Runs the daemon through a trace until its measured time and `tail` seconds more have passed.
pub fn run_export(trace: &Trace, terms: &ExportTerms, tail: f64) -> ExportFigures {
    let mut simulation = Simulation::new(trace, terms);
    let end = trace.measured.end + tail;
    while simulation.now < end {
        simulation.hear();
        simulation.read();
        simulation.turn();
    }
    simulation.figures()
}

struct Simulation<'a> {
    trace: &'a Trace,
    terms: &'a ExportTerms,
    start: Instant,
    now: f64,
    read_at: f64,
    schedule: Schedule,
    auditor: Auditor,
    /// The events that the export tells, and when; the latest first.
    tellings: Vec<(f64, EventPlace)>,
    /// When each event was seen, if it was, and whether the export told it.
    seen: Vec<Vec<Option<(f64, bool)>>>,
    /// The number of each user's events that its polls have read; none before the first.
    polled: Vec<Option<usize>>,
    /// Since when the export is up again, while lost events of its outage may still be found.
    catching_up: Option<f64>,
    changes: Vec<(f64, bool)>,
    calls: f64,
}

impl<'a> Simulation<'a> {
    fn new(trace: &'a Trace, terms: &'a ExportTerms) -> Self {
        let (start, seconds) = (Instant::now(), Duration::from_secs_f64);
        let intervals = Intervals { min: seconds(terms.terms.min_interval), max: seconds(terms.terms.max_interval) };
        let mut schedule = Schedule::new(intervals);
        if let Sources::Sample(per_second) = terms.sources {
            schedule.set_mode(POOL, PollMode::Sample { per_second, seed: 1 }, start, start);
        }
        for user in 0..trace.users.len() as u32 {
            schedule.join(POOL, UserSlot(user), ActivityEstimate::UNKNOWN, start);
        }
        Self {
            trace,
            terms,
            start,
            now: 0.0,
            read_at: 0.0,
            schedule,
            auditor: Auditor::new(GRACE),
            tellings: tellings(trace, terms),
            seen: trace.users.iter().map(|events| vec![None; events.len()]).collect(),
            polled: vec![None; trace.users.len()],
            catching_up: None,
            changes: vec![],
            calls: 0.0,
        }
    }

    fn instant(&self, at: f64) -> Instant {
        self.start + Duration::from_secs_f64(at)
    }

    fn clock(&self) -> AuditClock {
        AuditClock { wall: wall(self.now), now: self.instant(self.now) }
    }

    /// Takes what the export has told by now.
    fn hear(&mut self) {
        while let Some(&(at, place)) = self.tellings.last().filter(|(at, _)| *at <= self.now) {
            self.tellings.pop();
            let (user, number) = place;
            let (created, high_risk) = self.trace.users[user as usize][number as usize];
            self.auditor.told(key(place), self.clock());
            let seen = &mut self.seen[user as usize][number as usize];
            if seen.is_some() {
                continue;
            }
            *seen = Some((at, true));
            if self.terms.sources == Sources::Full {
                continue;
            }
            let heard = FoundEvent { age: age(at, created), high_risk };
            let look = is_in_progress(place).then(|| self.instant(created + LOOK_AFTER));
            self.schedule.heard(UserSlot(user), &[heard], look, self.instant(at.max(0.0)));
        }
    }

    /// Reads the export, and reviews what was audited.
    fn read(&mut self) {
        if self.now < self.read_at || self.terms.sources == Sources::Polling {
            return;
        }
        self.read_at = self.now + READ_EVERY;
        let clock = self.clock();
        self.auditor.readable(clock);
        let change = self.auditor.review(clock).change.map(|health| health.is_up());
        self.changes.extend(change.map(|is_up| (self.now, is_up)));
        let Sources::Sample(per_second) = self.terms.sources else { return };
        match change {
            Some(true) => self.catching_up = Some(self.now),
            Some(false) => {
                self.catching_up = None;
                self.schedule.set_mode(POOL, PollMode::Full, clock.now - GRACE, clock.now);
            }
            None => {}
        }
        if self.catching_up.is_some_and(|since| self.schedule.unpolled(POOL, self.instant(since)) == 0) {
            self.catching_up = None;
            self.schedule.set_mode(POOL, PollMode::Sample { per_second, seed: 2 }, clock.now, clock.now);
        }
    }

    fn turn(&mut self) {
        let allowed = Allowed { live: true, history: true };
        let Some((slot, lane)) = self.schedule.next(self.instant(self.now), allowed) else {
            let next = self.schedule.next_at(self.instant(self.now), allowed);
            let next = next.map_or(f64::INFINITY, |at| (at - self.start).as_secs_f64());
            let told = self.tellings.last().map_or(f64::INFINITY, |(at, _)| *at);
            // Slightly later, because the clock rounds. The sampled pool has nothing to do for seconds.
            self.now = next.min(told).min(self.now + READ_EVERY).max(self.now) + 1e-6;
            return;
        };
        assert_eq!(lane, Lane::Poll, "there is no backlog");
        let user = slot.0 as usize;
        let events = &self.trace.users[user];
        let visible = events.partition_point(|(created, _)| *created <= self.now);
        let before = self.polled[user].replace(visible);
        let new = before.unwrap_or(0)..visible;
        let mut found = vec![];
        for number in new.clone() {
            let seen = &mut self.seen[user][number];
            if seen.is_none() || before.is_none() {
                let (created, high_risk) = events[number];
                found.push(FoundEvent { age: age(self.now, created), high_risk });
            }
            seen.get_or_insert((self.now, false));
        }
        if !self.schedule.is_look(slot) && self.terms.sources != Sources::Polling {
            for number in (0..visible).rev().take(PAGE) {
                self.auditor.found(key((slot.0, number as u32)), Some(wall(events[number].0)), self.clock());
            }
        }
        let look = new
            .rev()
            .find(|number| events[*number].0 + LOOK_AFTER > self.now && is_in_progress((slot.0, *number as u32)));
        let calls = 1 + if before.is_none() { 0 } else { (visible - before.unwrap_or(0)) / PAGE };
        let answer = PollAnswer {
            next_look: look.map(|number| self.instant(events[number].0 + LOOK_AFTER)),
            backlog: None,
            calls: calls as u32,
            found: &found,
            whole: before.is_none(),
        };
        self.schedule.ended(slot, lane, TurnEnded::Answered(answer), self.instant(self.now));
        if self.trace.measured.contains(&self.now) {
            self.calls += calls as f64;
        }
        self.now += calls as f64 / self.terms.terms.calls_per_second;
    }

    fn figures(self) -> ExportFigures {
        let mut figures = ExportFigures {
            changes: self.changes,
            loss: self.auditor.total_loss(),
            calls: self.schedule.call_use(),
            calls_per_second: self.calls / (self.trace.measured.end - self.trace.measured.start),
            ..ExportFigures::default()
        };
        let mut lost_found = 0.0;
        for (events, seen) in self.trace.users.iter().zip(&self.seen) {
            for ((created, _), seen) in events.iter().zip(seen) {
                if !self.trace.measured.contains(created) {
                    continue;
                }
                let delay = seen.map_or(self.now, |(at, _)| at) - created;
                figures.all.push(delay);
                if seen.is_some_and(|(_, by_export)| by_export) {
                    figures.told.push(delay);
                } else {
                    figures.lost.push(delay);
                    lost_found += f64::from(u8::from(seen.is_some()));
                }
                if self.terms.outage.contains(created) {
                    figures.in_outage.push(delay);
                }
            }
        }
        figures.lost_found = lost_found / figures.lost.len().max(1) as f64;
        figures
    }
}

/// The events since the start that the export tells, and when; the latest first.
fn tellings(trace: &Trace, terms: &ExportTerms) -> Vec<(f64, EventPlace)> {
    if terms.sources == Sources::Polling {
        return vec![];
    }
    let mut rng = Rng::with_seed(3);
    let mut tellings = vec![];
    for (events, user) in trace.users.iter().zip(0..) {
        for ((created, _), number) in events.iter().zip(0..) {
            // From 5 to 60 seconds, short delays being more frequent: 20 on average.
            let delay = 5.0 + 55.0 * rng.f64().powf(8.0 / 3.0);
            let is_lost = rng.f64() < terms.loss || terms.outage.contains(created);
            if *created >= 0.0 && !is_lost {
                tellings.push((created + delay, (user, number)));
            }
        }
    }
    tellings.sort_by(|one, other| other.0.total_cmp(&one.0));
    tellings
}

fn is_in_progress((user, number): EventPlace) -> bool {
    Rng::with_seed(u64::from(user) << 32 | u64::from(number)).f64() < IN_PROGRESS
}

fn key((user, number): EventPlace) -> EventKey {
    EventKey((u128::from(user) << 96 | u128::from(number) << 64).to_be_bytes())
}

fn wall(at: f64) -> UnixMillis {
    UnixMillis(START.0 + (at * 1000.0) as i64)
}

fn age(now: f64, created: f64) -> Duration {
    Duration::from_secs_f64((now - created).max(0.0))
}
