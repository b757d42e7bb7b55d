//! The budget in virtual time, alone. `crates/simulator/tests/shared_quota.rs` has it beside an application.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use cognito_auth_core::budget::{Budget, CallSlot};
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
