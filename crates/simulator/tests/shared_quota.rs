//! The budget of the exporter against the quota of the simulated Cognito, which an application uses as well. The time
//! is virtual.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::{Duration, Instant};

use cognito_auth_core::budget::Budget;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::quota::{Category, Quotas};
use proptest::prelude::*;

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
