//! The budget in virtual time: alone, and against the quota of the simulated Cognito, which an application uses as
//! well.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::{Duration, Instant};

use cognito_auth_core::budget::{Budget, CallSlot};
use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::quota::{Category, Quotas};
use proptest::prelude::*;

/// The number of calls in each second of virtual time. Each call starts `late` after its slot.
fn run(budget: &mut Budget, start: Instant, seconds: u32, late: Duration) -> Vec<u32> {
    let mut made = vec![0; seconds as usize];
    let mut now = start;
    loop {
        now = budget.reserve(now).at + late;
        match usize::try_from(now.duration_since(start).as_secs()) {
            Ok(second) if second < made.len() => made[second] += 1,
            _ => return made,
        }
    }
}

#[test]
fn no_second_is_above_the_budget_and_none_is_wasted() {
    let start = Instant::now();
    for late in [Duration::ZERO, Duration::from_millis(2)] {
        let made = run(&mut Budget::new(50.0), start, 60, late);
        assert!(made.iter().all(|calls| *calls <= 60), "1.2 budgets at most: {made:?}");
        assert!(made.iter().sum::<u32>() >= 50 * 60 * 97 / 100, "97 % used: {made:?}");
    }
}

#[test]
fn idle_time_is_not_saved_up() {
    let start = Instant::now();
    let mut budget = Budget::new(5.0);
    run(&mut budget, start, 1, Duration::ZERO);
    let made = run(&mut budget, start + Duration::from_secs(3600), 1, Duration::ZERO);
    assert!(made[0] <= 6, "{made:?}");
}

#[test]
fn the_first_throttle_slows_down_at_once_and_a_burst_of_them_counts_once() {
    let start = Instant::now();
    let mut budget = Budget::new(10.0);
    let waiting = budget.reserve(start);
    let answered = start + Duration::from_millis(200);
    for call in 0..16 {
        budget.throttled(start + Duration::from_millis(call * 10), answered + Duration::from_millis(call * 10));
    }
    assert!((budget.rate_per_second(answered) - 7.0).abs() < 1e-9);
    assert!(budget.is_void(&waiting), "what was reserved before waits, too");
    let next = budget.reserve(answered);
    assert!(next.at >= answered + Budget::PAUSE, "a pause first");
    assert!(!budget.is_void(&next));
}

#[test]
fn a_throttle_soon_after_another_backs_off_more() {
    let start = Instant::now();
    let mut budget = Budget::new(10.0);
    budget.throttled(start, start);
    let again = start + Duration::from_secs(2);
    let before = budget.rate_per_second(again);
    budget.throttled(again, again);
    assert!((budget.rate_per_second(again) - before * Budget::AFTER_ANOTHER).abs() < 1e-9);
}

#[test]
fn it_comes_back_to_just_below_the_ceiling_stays_there_and_then_forgets_it() {
    let start = Instant::now();
    let mut budget = Budget::new(100.0);
    budget.throttled(start, start);
    let at = |seconds: u64| budget.rate_per_second(start + Duration::from_secs(seconds));
    assert!(at(5) > 80.0 && at(10) > 90.0, "quickly: {} {}", at(5), at(10));
    assert!((20..=90).all(|second| (at(second) - 95.0).abs() < 1e-9), "and stays");
    assert!((0..600).all(|second| at(second) <= at(second + 1) && at(second) <= 100.0), "it only rises");
    assert!((at(150) - 100.0).abs() < 1e-9, "the limit again: {}", at(150));
}

#[test]
fn the_rate_follows_its_curve() {
    let start = Instant::now();
    let mut budget = Budget::new(100.0);
    budget.throttled(start, start);
    for (millis, expected) in [
        (0, 70.0),
        (10_000, 95.0 - 25.0 / 8.0),
        (20_000, 95.0),
        (90_000, 95.0),
        (120_000, 95.0 + 30.0 / 27.0),
        (135_000, 95.0 + 30.0 / 8.0),
        (180_000, 100.0),
    ] {
        let rate = budget.rate_per_second(start + Duration::from_millis(millis));
        assert!((rate - expected).abs() < 1e-9, "{rate} for {expected} after {millis} ms");
    }
}

#[test]
fn a_throttle_within_ten_seconds_of_another_halves_the_rate_and_a_later_one_leaves_seven_tenths() {
    let start = Instant::now();
    for (millis, left) in [(9_999, 0.5), (10_000, 0.7)] {
        let mut budget = Budget::new(10.0);
        budget.throttled(start, start);
        let again = start + Duration::from_millis(millis);
        let before = budget.rate_per_second(again);
        budget.throttled(again, again);
        let after = budget.rate_per_second(again);
        assert!((after - before * left).abs() < 1e-9, "{after} of {before} after {millis} ms");
    }
}

#[test]
fn only_a_call_that_started_after_the_latest_throttle_can_be_another_one() {
    let (start, ms) = (Instant::now(), Duration::from_millis(1));
    let mut budget = Budget::new(10.0);
    budget.throttled(start, start);
    let slot = budget.reserve(start);
    budget.throttled(start, start + 5 * ms);
    assert!(!budget.is_void(&slot), "it was in flight");
    budget.throttled(start + ms, start + 5 * ms);
    assert!(budget.is_void(&slot));
}

#[test]
fn a_throttle_is_followed_by_a_second_without_calls_or_by_the_usual_spacing_where_that_is_longer() {
    let start = Instant::now();
    for (limit, seconds) in [(10.0, 1.0), (0.5, 1.0 / 0.35)] {
        let mut budget = Budget::new(limit);
        budget.throttled(start, start);
        let pause = budget.next_at(start).duration_since(start).as_secs_f64();
        assert!((pause - seconds).abs() < 1e-6, "{pause} s at {limit}");
    }
}

#[test]
fn a_tenth_of_a_second_that_a_call_is_late_is_made_up_for_and_no_more() {
    let start = Instant::now();
    let at = |millis: u64| start + Duration::from_millis(millis);
    for (late, start_of_next) in [(80, 200), (100, 200), (150, 250)] {
        let mut budget = Budget::new(10.0);
        budget.reserve(start);
        let slot = budget.reserve(at(100 + late));
        assert_eq!(slot.at, at(100 + late));
        assert_eq!(budget.next_at(start), at(start_of_next), "{late} ms late");
    }
}

#[test]
fn no_throttle_lowers_the_rate_below_a_tenth_of_a_call_per_second_or_the_limit() {
    let start = Instant::now();
    for (limit, lowest) in [(5.0, 0.1), (0.1, 0.1), (0.05, 0.05)] {
        let mut budget = Budget::new(limit);
        for second in 0..20 {
            let now = start + Duration::from_secs(second);
            budget.throttled(now, now);
        }
        let rate = budget.rate_per_second(start + Duration::from_secs(19));
        assert!((rate - lowest).abs() < 1e-9, "{rate} at {limit}");
    }
}

#[test]
fn a_budget_of_nothing_makes_a_call_a_day() {
    let start = Instant::now();
    let mut budget = Budget::new(0.0);
    assert_eq!(budget.next_at(start), start);
    budget.reserve(start);
    assert_eq!(budget.next_at(start), start + Duration::from_hours(24));
}

#[test]
fn another_limit_brings_the_next_call_forward_and_never_puts_it_off() {
    let start = Instant::now();
    for (before, after, seconds) in [(0.1, 2.0, 0.5), (2.0, 0.1, 0.5), (0.1, 0.2, 5.0)] {
        let mut budget = Budget::new(before);
        let slot = budget.reserve(start);
        budget.set_limit(after, start);
        assert!(budget.is_void(&slot));
        let next = budget.next_at(start).duration_since(start).as_secs_f64();
        assert!((next - seconds).abs() < 1e-6, "{next} s from {before} to {after}");
    }
}

#[test]
fn a_quota_that_is_used_up_costs_few_calls_and_is_found_again_when_it_is_free() {
    for limit in [0.05, 5.0, 50.0] {
        let start = Instant::now();
        let mut budget = Budget::new(limit);
        let hour = start + Duration::from_secs(3600);
        let (mut now, mut calls) = (start, 0);
        while now < hour {
            now = budget.reserve(now).at;
            budget.throttled(now, now);
            calls += 1;
        }
        assert!(calls <= 400, "{calls} calls in an hour without one that was answered, at {limit}");
        let found = budget.rate_per_second(now + Duration::from_secs(240));
        assert!((found - limit).abs() < 1e-9, "{found} of {limit} after four minutes");
    }
}

/// An account, its application, and an exporter that always has work. A call takes 50 to 300 ms.
#[derive(Clone, Copy, Debug)]
struct Play {
    /// The account's limit, in requests per second.
    limit: u32,
    /// The application's calls per second.
    others: f64,
    /// The exporter's budget per second.
    budget: f64,
    seed: u64,
}

/// The result of one stretch of time.
#[derive(Clone, Copy, Default, Debug)]
struct Played {
    seconds: f64,
    made: u32,
    throttled: u32,
    /// The application's calls that were refused.
    others_refused: u64,
    /// The most calls that were made in one second.
    most_in_a_second: u32,
}

impl Played {
    fn throttled_share(&self) -> f64 {
        f64::from(self.throttled) / f64::from(self.made.max(1))
    }

    fn granted_per_second(&self) -> f64 {
        f64::from(self.made - self.throttled) / self.seconds
    }
}

/// The next step of a worker. Times are in milliseconds of virtual time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum CallStep {
    /// A worker has work for a call; there are [`WORKERS`].
    Want,
    /// Its slot has come.
    Start(u64),
    /// The call with this start reaches the service, and takes this long.
    Arrive(u64, u64),
    /// The call with this start is answered: granted, or throttled.
    Answer(u64, bool),
}

/// `poll.concurrency`.
const WORKERS: usize = 16;

impl Play {
    /// The calls per second that the service allows the exporter.
    fn allowed(&self) -> f64 {
        (f64::from(self.limit) - self.others).min(self.budget)
    }

    /// Plays to the end of the last of `stretches` (in seconds). `change` is called for each second and may change the
    /// account.
    fn play(&self, stretches: &[Range<u64>], mut change: impl FnMut(u64, &mut Quotas)) -> Vec<Played> {
        let start = Instant::now();
        let (at, ms) = (
            |ms: u64| start + Duration::from_millis(ms),
            |at: Instant| u64::try_from((at - start).as_micros().div_ceil(1000)).unwrap(),
        );
        let mut quotas = Quotas::unlimited();
        quotas.set_limit(Category::UserResourceRead, Some(self.limit));
        quotas.set_other_calls_per_second(Category::UserResourceRead, self.others);
        let mut budget = Budget::new(self.budget);
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut played = vec![Played::default(); stretches.len()];
        let (mut second, mut in_second) = (0, 0);
        let mut slots = std::collections::HashMap::new();
        let mut steps: BinaryHeap<_> = (0..WORKERS as u64).map(|worker| Reverse((0, worker, CallStep::Want))).collect();
        let end = stretches.iter().map(|stretch| stretch.end).max().unwrap_or_default() * 1000;
        while let Some(Reverse((now, worker, step))) = steps.pop() {
            if now >= end {
                break;
            }
            while second < now / 1000 {
                second += 1;
                in_second = 0;
                change(second, &mut quotas);
            }
            let mut here: Vec<_> =
                played.iter_mut().zip(stretches).filter(|(_, stretch)| stretch.contains(&second)).collect();
            let next = match step {
                CallStep::Want => {
                    let slot = budget.reserve(at(now));
                    slots.insert(worker, slot);
                    (ms(slot.at), CallStep::Start(0))
                }
                CallStep::Start(_) if budget.is_void(&slots[&worker]) => (now, CallStep::Want),
                CallStep::Start(_) => {
                    in_second += 1;
                    here.iter_mut()
                        .for_each(|(played, _)| played.most_in_a_second = played.most_in_a_second.max(in_second));
                    let latency = random.u64(50..300);
                    (now + latency / 2, CallStep::Arrive(now, latency))
                }
                CallStep::Arrive(started, latency) => {
                    let refused_before = quotas.other_calls_refused();
                    let time = UnixMillis(i64::try_from(now).unwrap());
                    let granted = quotas.take("account", "region", Category::UserResourceRead, time);
                    for (played, stretch) in &mut here {
                        played.seconds = (stretch.end - stretch.start) as f64;
                        played.made += 1;
                        played.throttled += u32::from(!granted);
                        played.others_refused += quotas.other_calls_refused() - refused_before;
                    }
                    (now + latency - latency / 2, CallStep::Answer(started, granted))
                }
                CallStep::Answer(started, granted) => {
                    if !granted {
                        budget.throttled(at(started), at(now));
                    }
                    (now, CallStep::Want)
                }
            };
            steps.push(Reverse((next.0, worker, next.1)));
        }
        played
    }
}

#[test]
fn what_is_allowed_is_found_and_used_and_the_application_hardly_notices() {
    println!("limit others budget | throttled  used of allowed  others refused, of (in 15 minutes, once adapted)");
    for (limit, others) in [(50, 0.0), (50, 20.0), (50, 40.0), (50, 45.0), (15, 0.0)] {
        for budget in [5.0, 20.0, 50.0] {
            let play = Play { limit, others, budget, seed: 1 };
            let [learning, adapted] = play.play(&[0..300, 300..1200], |_, _| {})[..] else { unreachable!() };
            let (share, used) = (adapted.throttled_share(), adapted.granted_per_second() / play.allowed());
            let others_made = others * adapted.seconds;
            println!(
                "{limit:5} {others:6} {budget:6} | {:7.2} %  {:13.1} %  {:6} of {others_made:5}",
                share * 100.0,
                used * 100.0,
                adapted.others_refused
            );
            assert!(share < 0.01, "{play:?} {adapted:?}");
            assert!(used >= 0.93, "{play:?} {adapted:?}");
            // One in three hundred, where the application itself needs nine tenths of the limit.
            assert!(adapted.others_refused as f64 <= others_made / 300.0, "{play:?} {adapted:?}");
            assert!(learning.throttled_share() < 0.05 && learning.others_refused <= 100, "{play:?} {learning:?}");
            let most = (budget * 1.2).ceil();
            assert!(f64::from(learning.most_in_a_second.max(adapted.most_in_a_second)) <= most, "{play:?}");
        }
    }
}

#[test]
fn an_application_that_becomes_busy_and_idle_again_is_made_room_for_and_its_room_is_found_again() {
    let play = Play { limit: 50, others: 0.0, budget: 50.0, seed: 2 };
    let stretches = [0..300, 300..360, 360..900, 900..1140, 1140..1500];
    let change = |second, quotas: &mut Quotas| {
        quotas.set_other_calls_per_second(
            Category::UserResourceRead,
            if (300..900).contains(&second) { 45.0 } else { 0.0 },
        );
    };
    let [idle, making_room, busy, growing, idle_again] = play.play(&stretches, change)[..] else { unreachable!() };
    assert!(idle.throttled == 0 && idle.granted_per_second() > 48.5, "{idle:?}");
    assert!(making_room.others_refused <= 45 * 60 / 50, "within the first minute, too: {making_room:?}");
    assert!(busy.throttled_share() < 0.05 && busy.granted_per_second() > 4.5, "{busy:?}");
    assert!(growing.granted_per_second() > 10.0, "{growing:?}");
    assert!(idle_again.throttled == 0 && idle_again.granted_per_second() > 48.5, "{idle_again:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn whatever_the_account_allows_it_is_found(
        limit in 30_u32..100,
        taken in 0.0..0.9,
        budget in 1.0..80.0, // what WORKERS can make
        seed in any::<u64>(),
    ) {
        let play = Play { limit, others: f64::from(limit) * taken, budget, seed };
        let adapted = play.play(&[0..300, 300..1200], |_, _| {})[1];
        prop_assert!(adapted.throttled_share() < 0.05, "{play:?} {adapted:?}");
        prop_assert!(adapted.granted_per_second() >= 0.9 * play.allowed(), "{play:?} {adapted:?}");
        prop_assert!(f64::from(adapted.most_in_a_second) <= (budget * 1.2).ceil(), "{play:?} {adapted:?}");
        let others_made = play.others * adapted.seconds;
        prop_assert!(adapted.others_refused as f64 <= others_made / 100.0, "{play:?} {adapted:?}");
    }
}

/// The starts of all calls in virtual time, in order. Each of the `callers` always has another call to make. `change`
/// may set another limit before each step, and then answers true; the waiting callers are woken.
fn starts(
    budget: &mut Budget,
    callers: u64,
    seconds: u64,
    seed: u64,
    mut change: impl FnMut(Duration, &mut Budget, Instant) -> bool,
) -> Vec<Duration> {
    let (start, mut random) = (Instant::now(), fastrand::Rng::with_seed(seed));
    let mut steps: BinaryHeap<_> = (0..callers).map(|caller| Reverse((start, caller))).collect();
    let mut slots: std::collections::HashMap<u64, CallSlot> = std::collections::HashMap::new();
    let mut starts = Vec::new();
    while let Some(Reverse((now, caller))) = steps.pop() {
        if now - start >= Duration::from_secs(seconds) {
            break;
        }
        if change(now - start, budget, now) {
            let waiting: Vec<u64> =
                slots.drain().map(|(waiting, _)| waiting).filter(|waiting| *waiting != caller).collect();
            steps.retain(|Reverse((_, step))| !waiting.contains(step));
            steps.extend(waiting.into_iter().map(|waiting| Reverse((now, waiting))));
        }
        let next = match slots.remove(&caller).filter(|slot| !budget.is_void(slot)) {
            // Its time has come; the answer takes a while.
            Some(_) => {
                starts.push(now - start);
                now + Duration::from_millis(random.u64(50..300))
            }
            // A timer is never early.
            None => {
                let slot = budget.reserve(now);
                slots.insert(caller, slot);
                slot.at + Duration::from_micros(random.u64(0..2000))
            }
        };
        steps.push(Reverse((next, caller)));
    }
    starts
}

/// The most calls in any second, wherever it begins.
fn most_in_a_second(starts: &[Duration]) -> usize {
    let until = |first: &Duration| starts.partition_point(|start| *start < *first + Duration::from_secs(1));
    starts.iter().enumerate().map(|(at, first)| until(first) - at).max().unwrap_or_default()
}

#[test]
fn another_limit_holds_at_once_for_those_who_wait_and_no_second_has_more_than_it_allows() {
    for (before, after) in [(5.0, 50.0), (50.0, 5.0), (5.0, 6.0), (20.0, 19.0), (0.1, 40.0)] {
        const CHANGED: Duration = Duration::from_millis(20_300);
        let mut is_set = false;
        let made = starts(&mut Budget::new(before), 32, 60, 1, |since, budget, now| {
            if since < CHANGED || is_set {
                return false;
            }
            budget.set_limit(after, now);
            is_set = true;
            true
        });
        let (old, new) = made.split_at(made.partition_point(|start| *start < CHANGED));
        let most = |limit: f64| (limit * 1.2).ceil();
        assert!(most_in_a_second(old) as f64 <= most(before) && most_in_a_second(new) as f64 <= most(after));
        assert!(most_in_a_second(&made) as f64 <= most(before.max(after)), "{before} to {after}");
        let used = new.len() as f64 / (60.0 - CHANGED.as_secs_f64()) / after;
        // Here a new limit takes effect at the next step, which at 0.1/s may be ten seconds away.
        assert!(used >= if before < 1.0 { 0.7 } else { 0.97 }, "{used} of {after}, after {before}");
    }
}

#[test]
fn another_limit_forgets_no_throttle() {
    let start = Instant::now();
    let mut budget = Budget::new(10.0);
    budget.throttled(start, start);
    budget.set_limit(100.0, start);
    assert!((budget.rate_per_second(start) - 7.0).abs() < 1e-9, "found anew, and not at once");
    assert!(budget.reserve(start).at >= start + Budget::PAUSE);
    let slot = budget.reserve(start);
    budget.set_limit(100.0, start);
    assert!(!budget.is_void(&slot), "the same limit changes nothing");
}

proptest! {
    #[test]
    fn however_many_share_a_budget_it_is_smooth_and_used(
        budget in 0.5..60.0,
        callers in 24_u64..80,
        seed in any::<u64>(),
    ) {
        const SECONDS: u64 = 60;
        let made = starts(&mut Budget::new(budget), callers, SECONDS, seed, |_, _, _| false);
        let most = most_in_a_second(&made);
        prop_assert!(most as f64 <= (budget * 1.2).ceil(), "{most} in a second");
        let whole = budget * SECONDS as f64;
        prop_assert!(made.len() as f64 >= (whole * 0.97).floor(), "{} of {whole}", made.len());
        prop_assert!(made.len() as f64 <= whole + 1.0, "{} of {whole}", made.len());
    }
}
