//! The sample mode, alone and beside pools that are polled in full.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::schedule::{
    ActivityEstimate, Allowed, Backlog, FoundEvent, Intervals, Lane, PollAnswer, PollMode, PoolSlot, Schedule,
    TurnEnded, UserSlot,
};

const POOL: PoolSlot = PoolSlot(0);
const OTHER: PoolSlot = PoolSlot(1);
const ALL: Allowed = Allowed { live: true, history: true };
const NOTHING: PollAnswer = PollAnswer { next_look: None, backlog: None, calls: 1, found: &[], whole: true };
const DONE: TurnEnded = TurnEnded::Answered(NOTHING);
const SAMPLE: PollMode = PollMode::Sample { per_second: 0.2, seed: 1 };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn schedule() -> Schedule {
    Schedule::new(Intervals { min: seconds(15), max: seconds(3600) })
}

/// The activity of a user with so many events in the last hour.
fn known(events: usize) -> ActivityEstimate {
    let mut activity = ActivityEstimate::UNKNOWN;
    activity.polled(Duration::ZERO, &vec![FoundEvent { age: seconds(1800), high_risk: false }; events], true);
    activity
}

/// Makes every turn that is due, a fifth of a second apart at least, and tells the users and times in seconds.
fn turns(schedule: &mut Schedule, start: Instant, span: std::ops::Range<u64>) -> Vec<(u64, u32)> {
    let mut turns = vec![];
    for step in span.start * 5..span.end * 5 {
        let now = start + Duration::from_millis(200) * u32::try_from(step).unwrap();
        let is_due = schedule.next_at(now, ALL).is_some_and(|at| at <= now);
        let Some((user, lane)) = schedule.next(now, ALL) else { continue };
        assert!(is_due, "or the poller would have slept");
        turns.push((step / 5, user.0));
        schedule.ended(user, lane, DONE, now);
    }
    turns
}

#[test]
fn a_sample_comes_to_each_user_once_in_a_cycle_at_its_rate_in_random_order() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.set_mode(POOL, SAMPLE, start, start);
    (0..100).for_each(|user| schedule.join(POOL, UserSlot(user), known(1), start));
    (100..200).for_each(|user| schedule.join(OTHER, UserSlot(user), known(1), start));
    let polled = turns(&mut schedule, start, 0..1000);
    let sampled: Vec<u32> = polled.iter().map(|(_, user)| *user).filter(|user| *user < 100).collect();
    // The cycle begins when its first user is drawn.
    assert_eq!(sampled.len(), 200, "0.2 per second");
    let (first, second) = sampled.split_at(100);
    for cycle in [first, second] {
        assert_eq!(cycle.iter().collect::<BTreeSet<_>>().len(), 100, "each user once");
    }
    assert_ne!(first, second);
    assert!(first.windows(2).filter(|pair| pair[0] < pair[1]).count() < 70, "in no order: {first:?}");
    // Users 0 to 49 are no more in the first half than chance allows.
    let low = first[..50].iter().filter(|user| **user < 50).count();
    assert!((15..35).contains(&low), "{low}");
}

#[test]
fn newcomers_are_polled_once_and_then_only_by_the_sample() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.set_mode(POOL, PollMode::Sample { per_second: 0.001, seed: 1 }, start, start);
    (0..500).for_each(|user| schedule.join(POOL, UserSlot(user), ActivityEstimate::UNKNOWN, start));
    let polled = turns(&mut schedule, start, 0..100);
    assert_eq!(polled.iter().map(|(_, user)| user).collect::<BTreeSet<_>>().len(), 500, "first polls");
    assert_eq!(polled.len(), 500);
    let later = turns(&mut schedule, start, 100..20_000).len();
    assert!((19..=20).contains(&later), "{later} polls, and max_interval has passed five times");
    schedule.join(POOL, UserSlot(500), ActivityEstimate::UNKNOWN, start + seconds(20_000));
    assert_eq!(turns(&mut schedule, start, 20_000..20_010)[0].1, 500);
}

#[test]
fn a_first_poll_that_fails_is_made_again_when_its_rest_ends() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.set_mode(POOL, PollMode::Sample { per_second: 1e-6, seed: 1 }, start, start);
    (0..2).for_each(|user| schedule.join(POOL, UserSlot(user), ActivityEstimate::UNKNOWN, start));
    let (user, lane) = schedule.next(start, ALL).unwrap();
    schedule.ended(user, lane, TurnEnded::Failed { pause: seconds(60) }, start);
    let (other, lane) = schedule.next(start, ALL).unwrap();
    schedule.ended(other, lane, TurnEnded::Postponed, start);
    assert_eq!(schedule.next(start, ALL), Some((other, Lane::Poll)), "a postponed one stays a newcomer");
    schedule.ended(other, lane, DONE, start);
    assert_eq!(turns(&mut schedule, start, 0..59), []);
    assert_eq!(turns(&mut schedule, start, 59..200), [(60, user.0)]);
}

#[test]
fn looks_and_backlog_go_on_in_sample_mode() {
    let start = Instant::now();
    let mut schedule = schedule();
    (0..2).for_each(|user| schedule.join(POOL, UserSlot(user), known(1), start));
    schedule.set_mode(POOL, PollMode::Sample { per_second: 0.01, seed: 1 }, start, start);
    let (user, lane) = schedule.next(start, ALL).unwrap();
    assert!(!schedule.is_look(user), "the sample");
    let look = start + seconds(40);
    let open = PollAnswer { next_look: Some(look), backlog: Some(Backlog::Live), ..NOTHING };
    schedule.ended(user, lane, TurnEnded::Answered(open), start);
    assert_eq!(schedule.next(start, ALL), Some((user, Lane::Backlog)));
    schedule.ended(user, Lane::Backlog, TurnEnded::Answered(PollAnswer { next_look: Some(look), ..NOTHING }), start);
    assert_eq!(schedule.next_at(start, ALL), Some(look));
    assert_eq!(schedule.next(look, ALL), Some((user, Lane::Poll)));
    assert!(schedule.is_look(user));
}

#[test]
fn a_pool_in_full_beside_a_sample_has_the_rest_of_the_budget() {
    let start = Instant::now();
    let polls = |sampled: bool| {
        let mut schedule = schedule();
        (0..2000).for_each(|user| schedule.join(OTHER, UserSlot(user), known(1), start));
        if sampled {
            schedule.set_mode(POOL, SAMPLE, start, start);
            (2000..50_000).for_each(|user| schedule.join(POOL, UserSlot(user), known(1), start));
        }
        turns(&mut schedule, start, 0..3600).into_iter().partition::<Vec<_>, _>(|(_, user)| *user < 2000)
    };
    let (alone, _) = polls(false);
    let (beside, sample) = polls(true);
    assert_eq!(sample.len(), 720);
    assert_eq!(alone.len(), beside.len() + sample.len(), "no call is left unused");
    let oldest = |polls: &[(u64, u32)]| {
        let mut latest: BTreeMap<u32, u64> = (0..2000).map(|user| (user, 0)).collect();
        polls.iter().map(|(at, user)| at - latest.insert(*user, *at).unwrap()).max().unwrap()
    };
    let (alone, beside) = (oldest(&alone), oldest(&beside));
    assert!(beside < alone + 100, "{beside} s and {alone} s");
}

#[test]
fn many_samples_take_every_other_poll_at_most() {
    let start = Instant::now();
    let mut schedule = schedule();
    for pool in 2..52 {
        schedule.set_mode(PoolSlot(pool), SAMPLE, start, start);
        (0..100).for_each(|user| schedule.join(PoolSlot(pool), UserSlot(pool * 100 + user), known(1), start));
    }
    (0..100).for_each(|user| schedule.join(OTHER, UserSlot(user), known(1), start));
    let polled = turns(&mut schedule, start, 0..100);
    let in_full = polled.iter().filter(|(_, user)| *user < 100).count();
    assert_eq!((polled.len(), in_full), (500, 250), "10 per second are asked for, and 5 are allowed");
}

#[test]
fn a_pool_in_trouble_is_not_sampled() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.set_mode(POOL, SAMPLE, start, start);
    (0..100).for_each(|user| schedule.join(POOL, UserSlot(user), known(1), start));
    schedule.hold(POOL, start + seconds(60));
    assert_eq!(turns(&mut schedule, start, 0..60), []);
    let (probe, lane) = schedule.next(start + seconds(60), ALL).unwrap();
    assert_eq!(schedule.next(start + seconds(70), ALL), None, "one probe at a time");
    schedule.set_mode(POOL, PollMode::Full, start, start + seconds(70));
    assert_eq!(schedule.next(start + seconds(70), ALL), None, "in full as well");
    schedule.ended(probe, lane, DONE, start + seconds(70));
    assert!(schedule.next(start + seconds(70), ALL).is_some());
}

#[test]
fn a_pool_that_goes_back_to_full_polls_the_active_first_and_nobody_is_late() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.set_mode(POOL, SAMPLE, start, start);
    // One user of ten is active. All were seen long ago.
    (0..1000).for_each(|user| schedule.join(POOL, UserSlot(user), known(if user % 10 == 0 { 5 } else { 0 }), start));
    let down = 50_000;
    turns(&mut schedule, start, 0..1);
    let now = start + seconds(down);
    schedule.set_mode(POOL, PollMode::Full, now - seconds(900), now);
    let polled = turns(&mut schedule, start, down..down + 20);
    assert_eq!(polled.len(), 100, "one call after the other, as the budget allows");
    let active = polled.iter().filter(|(_, user)| user % 10 == 0).count();
    assert!(active >= 95, "{active} of 100");
    // And everybody within the kept interval.
    let mut waiting: BTreeSet<u32> = (0..1000).collect();
    turns(&mut schedule, start, down + 20..down + 3600).iter().chain(&polled).for_each(|(_, user)| {
        waiting.remove(user);
    });
    assert_eq!(waiting, BTreeSet::new());
    assert_eq!(schedule.unpolled(POOL, now), 0);
    assert_ne!(schedule.unpolled(POOL, now + seconds(3590)), 0);
    // Back to the sample: nobody is polled for its worth any more.
    let up = down + 3600;
    schedule.set_mode(POOL, SAMPLE, start + seconds(up), start + seconds(up));
    assert_eq!(turns(&mut schedule, start, up..up + 1000).len(), 200);
}

#[test]
fn a_sampled_pool_has_a_round_of_its_own_in_the_forecast() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.set_mode(POOL, SAMPLE, start, start);
    (0..600).for_each(|user| schedule.join(POOL, UserSlot(user), known(1), start));
    assert_eq!(schedule.forecast(5.0).round, None, "there is nobody to poll in full");
    (600..700).for_each(|user| schedule.join(OTHER, UserSlot(user), known(1), start));
    let forecast = schedule.forecast(5.0);
    assert_eq!(forecast.sample_rounds, BTreeMap::from([(POOL, seconds(3000))]));
    assert_eq!(forecast.round, Some(seconds(20)));
    assert_eq!(forecast.delays.into_keys().collect::<Vec<_>>(), [OTHER]);
    schedule.set_mode(POOL, PollMode::Sample { per_second: 0.1, seed: 5 }, start, start);
    assert_eq!(schedule.forecast(5.0).sample_rounds[&POOL], seconds(6000), "the rate may change");
    schedule.set_mode(POOL, PollMode::Full, start, start);
    let forecast = schedule.forecast(5.0);
    assert_eq!((forecast.round, forecast.sample_rounds), (Some(seconds(140)), BTreeMap::new()));
}

#[test]
fn a_slot_of_another_user_is_no_harm_to_the_cycle() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.set_mode(POOL, SAMPLE, start, start);
    (0..50).for_each(|user| schedule.join(POOL, UserSlot(user), known(1), start));
    let first = turns(&mut schedule, start, 0..1);
    (0..25).filter(|user| *user != first[0].1).for_each(|user| {
        schedule.leave(UserSlot(user));
        if user % 2 == 0 {
            schedule.join(OTHER, UserSlot(user), known(1), start);
        }
    });
    schedule.hold(OTHER, start + seconds(100_000));
    let polled = turns(&mut schedule, start, 1..1000);
    assert!(polled.iter().all(|(_, user)| *user >= 25 || *user == first[0].1), "{polled:?}");
    assert_eq!(polled.len(), 199);
}

/// Random turns, arrivals, departures, exported events and modes of three pools.
#[test]
fn whatever_happens_in_any_mode_the_rules_hold_and_nobody_is_forgotten() {
    for seed in 0..20 {
        let mut rng = Rng::with_seed(seed);
        let (mut schedule, start) = (schedule(), Instant::now());
        let mut now = start;
        let mut users: BTreeMap<UserSlot, Option<Instant>> = BTreeMap::new();
        let mut busy: Vec<(UserSlot, Lane)> = vec![];
        let mut left: BTreeSet<UserSlot> = BTreeSet::new();
        for _ in 0..3000 {
            now += Duration::from_millis(rng.u64(0..3000));
            match rng.u8(0..24) {
                0 if users.len() < 60 => {
                    let free = |slot: &UserSlot| !users.contains_key(slot) && !left.contains(slot);
                    let slot = (0..).map(UserSlot).find(free).unwrap();
                    let activity = if rng.bool() { known(rng.usize(0..5)) } else { ActivityEstimate::UNKNOWN };
                    schedule.join(PoolSlot(rng.u32(0..3)), slot, activity, now);
                    users.insert(slot, None);
                }
                1 if !users.is_empty() && rng.u8(0..4) == 0 => {
                    let slot = *users.keys().nth(rng.usize(0..users.len())).unwrap();
                    schedule.leave(slot);
                    users.remove(&slot);
                    if busy.iter().any(|(user, _)| *user == slot) {
                        left.insert(slot);
                    }
                }
                2 if rng.u8(0..4) == 0 => {
                    let modes = [PollMode::Full, PollMode::Sample { per_second: rng.f64() + 0.01, seed }];
                    let (pool, seen) = (PoolSlot(rng.u32(0..3)), now - seconds(rng.u64(0..900)));
                    schedule.set_mode(pool, modes[rng.usize(0..2)], seen, now);
                }
                3 if rng.u8(0..8) == 0 => schedule.hold(PoolSlot(rng.u32(0..3)), now + seconds(rng.u64(0..120))),
                4..=8 => {
                    let slot = UserSlot(rng.u32(0..60));
                    let events = [FoundEvent { age: seconds(rng.u64(0..100)), high_risk: rng.bool() }; 2];
                    let look = rng.bool().then(|| now + seconds(rng.u64(0..300)));
                    schedule.heard(slot, &events[..rng.usize(0..3)], look, now);
                }
                9..=15 if busy.len() < 16 => match schedule.next(now, ALL) {
                    Some((slot, lane)) => {
                        let polled = users[&slot];
                        assert!(busy.iter().all(|(user, _)| *user != slot), "one turn at a time");
                        let is_early = polled.is_some_and(|polled| now < polled + seconds(15));
                        assert!(lane == Lane::Backlog || !is_early, "the minimum interval");
                        busy.push((slot, lane));
                    }
                    None => assert!(schedule.next_at(now, ALL).is_none_or(|at| at > now), "or it is asked in vain"),
                },
                16..24 if !busy.is_empty() => {
                    let (slot, lane) = busy.swap_remove(rng.usize(0..busy.len()));
                    let found = [FoundEvent { age: seconds(rng.u64(0..500)), high_risk: false }; 3];
                    let answer = PollAnswer {
                        next_look: (rng.u8(0..5) == 0).then(|| now + seconds(rng.u64(0..300))),
                        backlog: [None, None, Some(Backlog::Live), Some(Backlog::History)][rng.usize(0..4)],
                        calls: rng.u32(1..20),
                        found: &found[..rng.usize(0..4)],
                        whole: rng.bool(),
                    };
                    let ended = match rng.u8(0..10) {
                        0 => TurnEnded::Postponed,
                        1 => TurnEnded::Failed { pause: seconds(60) },
                        _ => TurnEnded::Answered(answer),
                    };
                    let is_poll = lane == Lane::Poll && matches!(ended, TurnEnded::Answered(_));
                    schedule.ended(slot, lane, ended, now);
                    left.remove(&slot);
                    if let Some(polled) = users.get_mut(&slot).filter(|_| is_poll) {
                        *polled = Some(now);
                    }
                }
                _ => {}
            }
        }
        busy.iter().for_each(|(slot, lane)| schedule.ended(*slot, *lane, TurnEnded::Postponed, now));
        // Every remaining user has a turn before long, half of the pools by a sample.
        (0..3).for_each(|pool| {
            let mode = [PollMode::Full, PollMode::Sample { per_second: 1.0, seed }][usize::from(rng.bool())];
            schedule.set_mode(PoolSlot(pool), mode, now, now);
        });
        let mut waiting: BTreeSet<UserSlot> = users.keys().copied().collect();
        for _ in 0..4000 {
            now += seconds(3);
            if let Some((slot, lane)) = schedule.next(now, ALL) {
                if lane == Lane::Poll {
                    waiting.remove(&slot);
                }
                schedule.ended(slot, lane, DONE, now);
            }
        }
        assert_eq!(waiting, BTreeSet::new(), "seed {seed}");
        users.keys().for_each(|slot| schedule.leave(*slot));
        assert_eq!(schedule.next(now + seconds(10_000), ALL), None, "nobody is left");
    }
}
