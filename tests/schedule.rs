//! The schedule's promises, and that it is as good as docs/scheduling.md says. The tests use virtual time. The figures
//! are ratios between policies on the same seeded trace, so they do not depend on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use cognito_auth_core::schedule::{
    ActivityEstimate, Allowed, Backlog, CallUse, FoundEvent, Intervals, Lane, PollAnswer, PoolSlot, Schedule,
    TurnEnded, UserSlot,
};
use fastrand::Rng;

use crate::export_sim::{ExportFigures, ExportTerms, Sources, run_export};
use crate::schedule_sim::{
    Delays, HOUR, Learnt, Policy, RoundRobin, ShortPages, SimReport, SimTerms, TraceShape, contestants, mean, run,
    trace,
};
use crate::turn_sim::{InProgress, TurnFigures, TurnTerms, add_history, run_turns};

const ALL: Allowed = Allowed { live: true, history: true };
const NOTHING: PollAnswer = PollAnswer { next_look: None, backlog: None, calls: 1, found: &[], whole: true };
const INTERVALS: Intervals = Intervals { min: seconds(15), max: seconds(3600) };

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A budget with which one round of `users` takes this many minutes.
fn terms(users: u32, round_minutes: f64) -> SimTerms {
    SimTerms { calls_per_second: f64::from(users) / (round_minutes * 60.0), min_interval: 15.0, max_interval: HOUR }
}

/// The mean delays of all and of high-risk events: round-robin, square-root rule with known and with foreseen rates,
/// and the daemon's schedule.
fn delays(shape: TraceShape) -> [(f64, f64); 4] {
    let terms = terms(400, 20.0);
    let trace = trace(shape, 400, 24.0 * HOUR, 1.5 * HOUR, 7);
    contestants(&trace, &terms, 7).map(|mut policy| {
        let delays = run(&trace, &terms, policy.as_mut());
        (mean(&delays.all), mean(&delays.high_risk))
    })
}

#[test]
fn with_steady_rates_it_comes_close_to_the_rule_that_knows_them() {
    let [(round_robin, _), (known, _), _, (learnt, _)] = delays(TraceShape::Dormant);
    assert!(learnt < 1.25 * known, "{learnt:.0} s against {known:.0} s");
    assert!(2.5 * learnt < round_robin, "{learnt:.0} s against {round_robin:.0} s");
}

#[test]
fn with_everybody_alike_it_is_round_robin() {
    let [(round_robin, _), _, _, (learnt, _)] = delays(TraceShape::Uniform);
    assert!(learnt < 1.08 * round_robin, "{learnt:.0} s against {round_robin:.0} s");
}

#[test]
fn an_attack_is_seen_far_sooner_than_with_the_rates_that_were_known() {
    let [(_, round_robin_risk), (known, known_risk), _, (learnt, learnt_risk)] = delays(TraceShape::Attacks);
    assert!(learnt < 0.8 * known, "{learnt:.0} s against {known:.0} s");
    assert!(learnt_risk < 0.4 * known_risk, "{learnt_risk:.0} s against {known_risk:.0} s");
    assert!(learnt_risk < 0.5 * round_robin_risk, "{learnt_risk:.0} s against {round_robin_risk:.0} s");
}

#[test]
fn rates_that_change_are_followed() {
    let [_, (known, _), (foreseen, _), (learnt, _)] = delays(TraceShape::Shifting);
    assert!(learnt < 0.7 * known, "{learnt:.0} s against {known:.0} s");
    assert!(learnt < 1.25 * foreseen, "{learnt:.0} s against {foreseen:.0} s");
}

#[test]
fn nobody_gets_older_than_the_maximum_interval_while_the_budget_can_prevent_it() {
    for (shape, round_minutes) in [(TraceShape::Dormant, 15.0), (TraceShape::Zipf, 30.0), (TraceShape::Attacks, 40.0)] {
        let terms = terms(300, round_minutes);
        let trace = trace(shape, 300, 8.0 * HOUR, 1.5 * HOUR, 3);
        let delays = run(&trace, &terms, &mut Learnt::new(&trace, &terms));
        assert!(delays.oldest <= HOUR, "{shape:?}: {:.0} s", delays.oldest);
        assert!(delays.closest >= 15.0, "{shape:?}: {:.0} s", delays.closest);
    }
}

#[test]
fn a_budget_that_is_too_small_delays_everybodys_round_to_its_double_at_most() {
    let terms = terms(300, 150.0);
    let trace = trace(TraceShape::Dormant, 300, 24.0 * HOUR, 8.0 * HOUR, 3);
    let delays = run(&trace, &terms, &mut Learnt::new(&trace, &terms));
    assert!(delays.oldest <= 2.0 * 150.0 * 60.0, "{:.0} s", delays.oldest);
    let round_robin = run(&trace, &terms, &mut RoundRobin::new(&trace));
    assert!(2.0 * mean(&delays.all) < mean(&round_robin.all), "which is worth it");
}

#[test]
fn the_same_reports_give_the_same_decisions() {
    let terms = terms(300, 20.0);
    let trace = trace(TraceShape::Attacks, 300, 6.0 * HOUR, HOUR, 5);
    let polls = || run(&trace, &terms, &mut Learnt::new(&trace, &terms)).polls;
    assert_eq!(polls(), polls());
}

#[test]
fn a_wave_of_sign_ups_leaves_those_who_were_known_before_half_of_the_calls() {
    const ESTABLISHED: u32 = 100;
    const NEWCOMERS: u32 = 2000;
    let (start, call) = (Instant::now(), Duration::from_millis(50));
    let mut schedule = Schedule::new(INTERVALS);
    let join = |schedule: &mut Schedule, users: std::ops::Range<u32>, now| {
        users.for_each(|user| schedule.join(PoolSlot(0), UserSlot(user), ActivityEstimate::UNKNOWN, now));
    };
    join(&mut schedule, 0..ESTABLISHED, start);
    let mut polled: BTreeMap<u32, Instant> = BTreeMap::new();
    let (mut oldest, mut of_newcomers) = (Duration::ZERO, BTreeSet::new());
    // The new users join after a minute. Polling each of them takes twice as long as it would without the others.
    let wave = start + seconds(60);
    let mut now = start;
    while of_newcomers.len() < NEWCOMERS as usize {
        if now == wave {
            join(&mut schedule, ESTABLISHED..ESTABLISHED + NEWCOMERS, now);
        }
        if let Some((user, lane)) = schedule.next(now, ALL) {
            // A sign-up waits for its code, and gets a look.
            let is_new = user.0 >= ESTABLISHED;
            let found = [FoundEvent { age: seconds(30), high_risk: false }];
            let next_look = is_new.then_some(now + seconds(60));
            let found = if is_new && of_newcomers.insert(user.0) { &found[..] } else { &[] };
            schedule.ended(user, lane, TurnEnded::Answered(PollAnswer { next_look, found, ..NOTHING }), now);
            let before = polled.insert(user.0, now);
            if let Some(before) = before.filter(|_| !is_new && now > wave) {
                oldest = oldest.max(now - before);
            }
        }
        now += call;
        assert!(now < wave + seconds(900), "{} were asked", of_newcomers.len());
    }
    // They are due in groups of five seconds, which take ten seconds at half of the calls.
    assert!(oldest <= seconds(21), "{oldest:?}");
}

/// A schedule whose process ends in the middle, and the stored state for the next process.
struct Restarted {
    schedule: Learnt,
    users: u32,
    at: f64,
    remembers: bool,
}

impl Policy for Restarted {
    fn next(&mut self, now: f64) -> Option<(u32, Lane)> {
        if now >= self.at {
            self.at = f64::INFINITY;
            let old = std::mem::replace(&mut self.schedule.schedule, Schedule::new(INTERVALS));
            let now = self.schedule.at(now);
            for user in (0..self.users).map(UserSlot) {
                let stored = ActivityEstimate::from_bytes(old.activity(user, now).to_bytes());
                let activity = if self.remembers { stored } else { ActivityEstimate::UNKNOWN };
                self.schedule.schedule.join(PoolSlot(0), user, activity, now);
            }
        }
        self.schedule.next(now)
    }
    fn next_at(&self, now: f64) -> f64 {
        self.schedule.next_at(now)
    }
    fn ended(&mut self, user: u32, lane: Lane, report: &SimReport, now: f64) {
        self.schedule.ended(user, lane, report, now);
    }
}

#[test]
fn what_was_learnt_outlives_a_restart() {
    let terms = terms(500, 40.0);
    let begin = 8.0 * HOUR;
    let mut trace = trace(TraceShape::Dormant, 500, 10.0 * HOUR, 1.5 * HOUR, 11);
    trace.measured.start = begin;
    let run = |mut policy: Box<dyn Policy>| -> (f64, BTreeMap<u32, u32>) {
        let delays: Delays = run(&trace, &terms, policy.as_mut());
        let mut polls = BTreeMap::new();
        delays
            .polls
            .iter()
            .filter(|(time, _)| *time > begin)
            .for_each(|(_, user)| *polls.entry(*user).or_default() += 1);
        (mean(&delays.all), polls)
    };
    let restarted = |remembers| {
        Box::new(Restarted { schedule: Learnt::new(&trace, &terms), users: 500, at: begin, remembers })
            as Box<dyn Policy>
    };
    let (undisturbed, polls) = run(Box::new(Learnt::new(&trace, &terms)));
    let (remembering, remembered_polls) = run(restarted(true));
    let (forgetting, _) = run(restarted(false));
    assert!(remembering < 1.1 * undisturbed, "{remembering:.0} s against {undisturbed:.0} s");
    assert!(forgetting > 1.2 * undisturbed, "or the test could not tell: {forgetting:.0} s against {undisturbed:.0} s");
    // The same users are polled as often as before.
    let moved: u32 = (0..500)
        .map(|user| {
            let count = |polls: &BTreeMap<u32, u32>| polls.get(&user).copied().unwrap_or(0);
            count(&polls).abs_diff(count(&remembered_polls))
        })
        .sum();
    let all: u32 = polls.values().sum();
    assert!(moved * 4 < all, "{moved} of {all} polls went elsewhere");
}

#[test]
fn backlog_has_a_quarter_of_the_calls_while_polls_wait_however_long_its_turns_are() {
    let start = Instant::now();
    let mut schedule = Schedule::new(INTERVALS);
    (0..20_000).for_each(|user| schedule.join(PoolSlot(0), UserSlot(user), ActivityEstimate::UNKNOWN, start));
    let (mut polls, mut backlog, mut now) = (0, 0, start);
    while polls + backlog < 20_000 {
        let (user, lane) = schedule.next(now, ALL).unwrap();
        let calls = if lane == Lane::Backlog { 50 } else { 1 };
        *if lane == Lane::Backlog { &mut backlog } else { &mut polls } += calls;
        now += Duration::from_millis(20) * calls;
        let open = PollAnswer { backlog: Some(Backlog::History), calls, ..NOTHING };
        schedule.ended(user, lane, TurnEnded::Answered(open), now);
    }
    assert!((4500..=5500).contains(&backlog), "{backlog} calls of {}", polls + backlog);
}

#[test]
fn a_decision_does_not_look_at_everybody_nor_at_every_pool() {
    // With a slower algorithm this would take hours.
    const USERS: u32 = 50_000;
    const POOLS: u32 = 1_000;
    let start = Instant::now();
    let mut schedule = Schedule::new(INTERVALS);
    (0..USERS).for_each(|user| schedule.join(PoolSlot(user % POOLS), UserSlot(user), ActivityEstimate::UNKNOWN, start));
    (0..POOLS).step_by(2).for_each(|pool| schedule.hold(PoolSlot(pool), start + seconds(50_000)));
    let mut seen = BTreeSet::new();
    for step in 0..USERS {
        let now = start + Duration::from_millis(200) * step;
        assert!(schedule.next_at(now, ALL).unwrap() <= now);
        let (user, lane) = schedule.next(now, ALL).unwrap();
        assert_eq!(user.0 % POOLS % 2, 1, "the others are held");
        seen.insert(user);
        let found = [FoundEvent { age: seconds(60), high_risk: false }];
        let found = if user.0 % 10 == 1 { &found[..] } else { &[] };
        schedule.ended(user, lane, TurnEnded::Answered(PollAnswer { found, ..NOTHING }), now);
    }
    assert_eq!(seen.len(), 25_000, "everybody of the open pools had a turn");
}

/// The model's knowledge of a user.
#[derive(Clone, Copy, Debug)]
struct ModelUser {
    pool: u32,
    /// The user may not be chosen earlier.
    not_before: Instant,
    waits: bool,
}

#[test]
fn whatever_happens_the_rules_hold_and_nobody_is_forgotten() {
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let start = Instant::now();
        let mut now = start;
        let mut schedule = Schedule::new(INTERVALS);
        let mut users: BTreeMap<UserSlot, ModelUser> = BTreeMap::new();
        let mut gone: BTreeSet<UserSlot> = BTreeSet::new();
        let mut turns: Vec<(UserSlot, Lane)> = vec![];
        let mut held = [start; 3];
        for _ in 0..3000 {
            now += Duration::from_millis(rng.u64(0..3000));
            match rng.u8(0..20) {
                0 if users.len() < 60 => {
                    let pool = rng.u32(0..3);
                    let taken = |user: &UserSlot| users.contains_key(user) || gone.contains(user);
                    let user = (0..).map(UserSlot).find(|user| !taken(user)).unwrap();
                    schedule.join(PoolSlot(pool), user, ActivityEstimate::UNKNOWN, now);
                    users.insert(user, ModelUser { pool, not_before: now, waits: true });
                }
                1 if !users.is_empty() && rng.u8(0..4) == 0 => {
                    let user = *users.keys().nth(rng.usize(0..users.len())).unwrap();
                    schedule.leave(user);
                    if !users.remove(&user).unwrap().waits {
                        gone.insert(user);
                    }
                }
                2 if rng.u8(0..8) == 0 => {
                    let pool = rng.usize(0..3);
                    held[pool] = now + seconds(rng.u64(0..120));
                    schedule.hold(PoolSlot(u32::try_from(pool).unwrap()), held[pool]);
                }
                3..=11 if turns.len() < 16 => {
                    let choice = schedule.next(now, ALL);
                    let ready = |known: &ModelUser| known.waits && known.not_before <= now;
                    match choice {
                        Some((user, lane)) => {
                            let known = users.get_mut(&user).unwrap();
                            assert!(known.waits, "one turn at a time");
                            assert!(lane == Lane::Backlog || known.not_before <= now, "the minimum interval");
                            assert!(held[known.pool as usize] <= now, "a pool that is held");
                            known.waits = false;
                            turns.push((user, lane));
                        }
                        None => {
                            let open = |known: &&ModelUser| {
                                let pool = known.pool as usize;
                                // A pool that was held may be waiting for its probe.
                                held[pool] == start
                            };
                            assert!(!users.values().filter(open).any(ready), "a call is made while anybody is due");
                            assert!(
                                schedule.next_at(now, ALL).is_none_or(|at| at > now),
                                "or it would be asked in vain"
                            );
                        }
                    }
                }
                12..20 if !turns.is_empty() => {
                    let (user, lane) = turns.swap_remove(rng.usize(0..turns.len()));
                    let found = [FoundEvent { age: seconds(rng.u64(0..500)), high_risk: rng.u8(0..10) == 0 }; 3];
                    let answer = PollAnswer {
                        next_look: (rng.u8(0..5) == 0).then(|| now + seconds(rng.u64(0..300))),
                        backlog: [None, None, Some(Backlog::Live), Some(Backlog::History)][rng.usize(0..4)],
                        calls: rng.u32(1..20),
                        found: &found[..rng.usize(0..4)],
                        whole: rng.bool(),
                    };
                    let (ended, pause) = match rng.u8(0..10) {
                        0 => (TurnEnded::Postponed, None),
                        1 => (TurnEnded::Failed { pause: seconds(60) }, Some(seconds(60))),
                        _ if lane == Lane::Poll => (TurnEnded::Answered(answer), Some(INTERVALS.min)),
                        _ => (TurnEnded::Answered(answer), None),
                    };
                    schedule.ended(user, lane, ended, now);
                    if !gone.remove(&user) {
                        let known = users.get_mut(&user).unwrap();
                        known.waits = true;
                        known.not_before = pause.map_or(known.not_before, |pause| now + pause);
                    }
                }
                _ => {}
            }
        }
        for (user, lane) in turns {
            schedule.ended(user, lane, TurnEnded::Postponed, now);
        }
        // Every remaining user has a turn before long.
        let mut waiting: BTreeSet<UserSlot> = users.keys().copied().collect();
        for _ in 0..2000 {
            now += seconds(5);
            if let Some((user, lane)) = schedule.next(now, ALL) {
                if lane == Lane::Poll {
                    waiting.remove(&user);
                }
                schedule.ended(user, lane, TurnEnded::Answered(NOTHING), now);
            }
        }
        assert_eq!(waiting, BTreeSet::new(), "seed {seed}");
    }
}

/// The polls of each of two users in an hour with a call every ten seconds, among 200 users without events.
fn polls_of(first: &[FoundEvent], second: &[FoundEvent]) -> [usize; 2] {
    let start = Instant::now();
    let mut schedule = Schedule::new(INTERVALS);
    (0..202).for_each(|user| schedule.join(PoolSlot(0), UserSlot(user), ActivityEstimate::UNKNOWN, start));
    let mut polls = [0, 0];
    let mut polled = BTreeSet::new();
    for step in 0..720 {
        let now = start + seconds(10) * step;
        let (user, lane) = schedule.next(now, ALL).unwrap();
        let found = match user.0 {
            0 if polled.insert(user) => first,
            1 if polled.insert(user) => second,
            _ => &[],
        };
        if let Some(count) = polls.get_mut(user.0 as usize) {
            *count += 1;
        }
        schedule.ended(user, lane, TurnEnded::Answered(PollAnswer { found, ..NOTHING }), now);
    }
    polls
}

#[test]
fn a_burst_brings_its_user_back_within_minutes_and_is_forgotten_in_time() {
    let burst = [FoundEvent { age: seconds(120), high_risk: false }; 10];
    let [bursting, quiet] = polls_of(&burst, &[]);
    assert!(bursting >= 3 * quiet, "{bursting} polls against {quiet}");
    assert!(bursting < 120, "a sixth of the budget: {bursting} polls");
}

#[test]
fn an_event_of_high_risk_brings_its_user_back_sooner() {
    let event = |high_risk| [FoundEvent { age: seconds(1200), high_risk }; 3];
    let [risky, ordinary] = polls_of(&event(true), &event(false));
    assert!(2 * risky >= 3 * ordinary, "{risky} polls against {ordinary}");
}

#[test]
fn a_newcomer_goes_before_those_who_do_little() {
    let start = Instant::now();
    let mut schedule = Schedule::new(INTERVALS);
    (0..200).for_each(|user| schedule.join(PoolSlot(0), UserSlot(user), ActivityEstimate::UNKNOWN, start));
    let turn = |schedule: &mut Schedule, step: u32| {
        let now = start + seconds(5) * step;
        let (user, lane) = schedule.next(now, ALL).unwrap();
        schedule.ended(user, lane, TurnEnded::Answered(NOTHING), now);
        user
    };
    (0..500).for_each(|step| {
        turn(&mut schedule, step);
    });
    let newcomer = UserSlot(200);
    schedule.join(PoolSlot(0), newcomer, ActivityEstimate::UNKNOWN, start + seconds(5) * 500);
    let before = (500..700).position(|step| turn(&mut schedule, step) == newcomer).unwrap();
    assert!(before < 100, "{before} went before it, of a round of 200");
}

#[test]
fn a_stored_activity_that_is_damaged_is_no_activity() {
    assert_eq!(ActivityEstimate::from_bytes([0xff; ActivityEstimate::STORED]), ActivityEstimate::UNKNOWN);
    assert_eq!(ActivityEstimate::from_bytes([0; ActivityEstimate::STORED]), ActivityEstimate::UNKNOWN);
    assert_eq!(ActivityEstimate::from_bytes(ActivityEstimate::UNKNOWN.to_bytes()), ActivityEstimate::UNKNOWN);
}

/// Runs whole turns of users, a fifth of whose sign-ins have a second factor and some of which are given up. Each has
/// this many past events to be read.
fn turns(shape: TraceShape, users: u32, past_events: u32, hours: f64) -> TurnFigures {
    let terms = TurnTerms {
        terms: terms(users, 20.0),
        in_progress: InProgress { answered: 0.2, abandoned: 0.03 },
        history: past_events > 0,
        forecast_every: 60.0,
    };
    let mut trace = trace(shape, users, hours * HOUR, 3.0 * HOUR, 1);
    add_history(&mut trace, past_events);
    run_turns(&trace, &terms, 2.0 * HOUR)
}

/// The mean forecast of these hours, as a multiple of the mean delay of their events.
fn forecast_of_the_truth(figures: &TurnFigures, hours: Range<f64>) -> f64 {
    let time = hours.start * HOUR..hours.end * HOUR;
    figures.mean_forecast(&time) / figures.mean_delay(&time)
}

#[test]
fn the_delay_that_is_forecast_is_the_delay_that_comes() {
    for shape in [TraceShape::Zipf, TraceShape::Dormant, TraceShape::Attacks] {
        let figures = turns(shape, 1000, 0, 20.0);
        let ratio = forecast_of_the_truth(&figures, 8.0..20.0);
        assert!((0.95..1.05).contains(&ratio), "{shape:?}: {ratio:.3} of the truth");
    }
}

/// Nobody can foresee an attack on quiet users. Each of them is polled within the kept interval, an hour.
#[test]
fn an_attack_that_lasts_is_in_the_forecast() {
    let figures = turns(TraceShape::Siege, 1500, 0, 17.0);
    for hours in [8.0..12.0, 14.0..16.0] {
        let ratio = forecast_of_the_truth(&figures, hours.clone());
        assert!((0.95..1.05).contains(&ratio), "hours {hours:?}: {ratio:.3} of the truth");
    }
    let (quiet, attacked) = (8.0 * HOUR..12.0 * HOUR, 14.0 * HOUR..16.0 * HOUR);
    let change = figures.mean_delay(&attacked) / figures.mean_delay(&quiet);
    assert!(change < 0.9, "or the test could not tell: {change:.2}");
}

#[test]
fn the_calls_for_backlog_are_in_the_forecast() {
    let figures = turns(TraceShape::Dormant, 1000, 1500, 9.0);
    let CallUse { polls, looks, further, backlog, .. } = figures.calls;
    let share = backlog as f64 / (polls + looks + further + backlog) as f64;
    assert!((0.2..0.3).contains(&share), "a quarter of the calls: {share:.2}");
    let ratio = forecast_of_the_truth(&figures, 2.0..8.0);
    assert!((0.95..1.05).contains(&ratio), "{ratio:.3} of the truth");
}

#[test]
fn what_to_expect_of_a_user_grows_with_the_time_since_its_answer_and_is_unknown_before_one() {
    let start = Instant::now();
    let mut schedule = Schedule::new(INTERVALS);
    schedule.join(PoolSlot(0), UserSlot(0), ActivityEstimate::UNKNOWN, start);
    let mut turn = |at: Instant, ended: TurnEnded<'_>| {
        let (user, lane) = schedule.next(at, ALL).unwrap();
        schedule.ended(user, lane, ended, at);
        [60, 600, 1200].map(|later| schedule.expected(user, at + seconds(later)))
    };
    assert_eq!(turn(start, TurnEnded::Postponed), [None; 3]);
    // Four events per hour, for five hours.
    let found: Vec<_> = (0..20).map(|event| FoundEvent { age: seconds(300 + 900 * event), high_risk: true }).collect();
    let [soon, later, last] =
        turn(start, TurnEnded::Answered(PollAnswer { found: &found, ..NOTHING })).map(Option::unwrap);
    assert!((0.03..0.15).contains(&soon), "{soon} in a minute");
    assert!(
        (0.3..1.5).contains(&later) && later < last && last < 2.1 * later,
        "{later} in ten minutes, {last} in twenty"
    );
    let failed = start + seconds(60);
    assert_eq!(turn(failed, TurnEnded::Failed { pause: seconds(60) }), [None; 3], "nobody knows since when");
    let [again, ..] = turn(failed + seconds(120), TurnEnded::Answered(NOTHING));
    assert!(again.is_some_and(|again| again > 0.0));
}

/// The bytes of an event as the simulated Cognito sends it, and of the rest of an answer's body.
const EVENT_BYTES: f64 = 432.0;
const BODY_BYTES: f64 = 92.0;

/// Prints the table of docs/performance.md: `cargo test short_pages -- --nocapture`.
#[test]
fn short_pages_hold_a_fraction_of_the_events_and_cost_next_to_no_calls() {
    println!(
        "| trace | a round takes | polls | events a poll | with short pages | kB a poll | with short pages | calls |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    // First with enough budget for the objective. Then with far too little, when hours pass between the polls of a
    // user.
    for (round_minutes, least) in [(20.0, 4.0), (150.0, 3.0)] {
        for shape in TraceShape::ALL {
            let users = 200;
            let terms = terms(users, round_minutes);
            let trace = trace(shape, users, 24.0 * HOUR, 1.5 * terms.kept_interval(users as usize), 7);
            let delays = run(&trace, &terms, &mut ShortPages(Learnt::new(&trace, &terms)));
            let polls = (delays.polls.len() - trace.users.len()) as f64;
            let [short, full] = delays.pages;
            let [events, full_events] = [short, full].map(|pages| pages.events as f64 / polls);
            let [kilobytes, full_kilobytes] = [short, full]
                .map(|pages| (pages.events as f64 * EVENT_BYTES + pages.calls as f64 * BODY_BYTES) / polls / 1000.0);
            let calls = short.calls as f64 / full.calls as f64;
            println!(
                "| {} | {round_minutes} min | {polls} | {full_events:.1} | {events:.1} ({:.1} times less) | \
                 {full_kilobytes:.1} | {kilobytes:.1} | {:+.2} % |",
                shape.name(),
                full_events / events,
                100.0 * (calls - 1.0)
            );
            assert!(calls <= 1.02, "{shape:?}: {} pages were too short", short.missed);
            assert!(full_events >= least * events, "{shape:?}: {full_events:.1} and {events:.1} events a poll");
        }
    }
}

/// A pool whose round takes 2.8 hours, with an export of a mean delay of 20 s. The first round is over at the third
/// hour.
fn with_export(users: u32, sources: Sources, loss: f64, outage: Range<f64>) -> ExportFigures {
    let terms = SimTerms { calls_per_second: f64::from(users) / 10_000.0, min_interval: 15.0, max_interval: HOUR };
    let mut trace = trace(TraceShape::Uniform, users, outage.end.max(5.0 * HOUR), 2.0 * HOUR, 1);
    trace.measured.start = 3.0 * HOUR;
    run_export(&trace, &ExportTerms { terms, sources, loss, outage }, 2.0 * HOUR)
}

#[test]
fn with_an_export_events_are_seen_within_half_a_minute_and_without_one_after_an_hour() {
    // A tenth of the users at a tenth of the budget waits as long.
    let polling = with_export(5_000, Sources::Polling, 0.0, 0.0..0.0);
    assert!(mean(&polling.all) > 0.9 * HOUR, "{:.0} s", mean(&polling.all));
    // 50,000 users at 5 calls per second.
    let exported = with_export(50_000, Sources::Sample(0.2), 0.005, 0.0..0.0);
    let (told, all) = (mean(&exported.told), mean(&exported.all));
    assert!(told <= 30.0, "{told:.0} s");
    // A lost event waits for a look at its user or for the sample. Half of the budget is left.
    assert!(all <= 180.0, "{all:.0} s");
    assert!(exported.calls_per_second < 2.5, "{:.1} calls per second", exported.calls_per_second);
    let (low, high) = exported.loss.interval();
    assert!(exported.changes.is_empty() && (low..=high).contains(&0.005), "{:?}", exported.loss);
}

#[test]
fn an_export_that_stops_is_noticed_within_the_hour_and_what_it_lost_is_found() {
    let (from, to) = (4.0 * HOUR, 6.0 * HOUR);
    let polling = with_export(10_000, Sources::Polling, 0.0, from..to);
    let exported = with_export(10_000, Sources::Sample(0.2), 0.005, from..to);
    let [(down, false), (up, true)] = exported.changes[..] else { panic!("{:?}", exported.changes) };
    assert!((from..from + 0.75 * HOUR).contains(&down), "{:.1} h", down / HOUR);
    assert!((to..to + 1.75 * HOUR).contains(&up), "{:.1} h", up / HOUR);
    let [exported, polling] = [mean(&exported.in_outage), mean(&polling.in_outage)];
    assert!(exported < 1.25 * polling, "as soon as by polls alone: {exported:.0} s and {polling:.0} s");
}
