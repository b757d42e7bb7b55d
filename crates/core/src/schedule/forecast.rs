//! What a budget gives: how long a round takes, and how long events wait to be seen.
//!
//! It is the schedule's own rule, solved for a budget rather than followed. Everybody is polled every price/√λ seconds, but
//! neither more often than the least interval nor more seldom than the one that is kept, and the price is the one at which
//! the polls take the whole budget. An event waits for half of its user's interval on average. Looks, backlog and pages
//! behind the first take calls too, and are not foreseen.

use std::collections::BTreeMap;
use std::time::Duration;

use super::PoolSlot;
use super::rate_buckets::{Census, RateBuckets};

/// What to expect of a budget, if everybody stays as active as they are thought to be.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Forecast {
    /// How long it takes to poll everybody of all pools once; None while there is nobody.
    pub round: Option<Duration>,
    /// The mean time from an event to its sighting, for each pool that has users.
    pub delays: BTreeMap<PoolSlot, Duration>,
}

/// What the intervals between a user's polls are held between, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) least: f64,
    pub(super) kept: f64,
}

impl Limits {
    fn interval(self, price: f64, root: f64) -> f64 {
        (price / root).clamp(self.least, self.kept)
    }
}

/// Halvings of the range, in logarithm, in which the price lies: as exact as a double.
const STEPS: u32 = 60;

pub(super) fn forecast(pools: &[(PoolSlot, &Census)], per_second: f64, limits: Limits) -> Forecast {
    let mut everybody = Census::default();
    pools.iter().for_each(|(_, census)| everybody.add(census));
    let users = everybody.len();
    if users == 0.0 {
        return Forecast::default();
    }
    let price = price(&everybody, per_second, limits);
    let delay = |census: &Census| {
        // Of each rung, so many events a second wait for half the interval.
        let (events, waiting) = census.rungs().fold((0.0, 0.0), |(events, waiting), (root, users)| {
            let rate = users * root * root;
            (events + rate, waiting + rate * limits.interval(price, root) / 2.0)
        });
        (events > 0.0).then(|| seconds(waiting / events))
    };
    Forecast {
        round: Some(seconds((users / per_second).max(limits.least))),
        delays: pools.iter().filter_map(|(pool, census)| Some((*pool, delay(census)?))).collect(),
    }
}

/// The price at which the polls take the budget: the more a poll has to be worth, the fewer there are.
fn price(everybody: &Census, per_second: f64, limits: Limits) -> f64 {
    let calls =
        |price: f64| -> f64 { everybody.rungs().map(|(root, users)| users / limits.interval(price, root)).sum() };
    let (mut low, mut high) =
        (limits.least * RateBuckets::root(0), limits.kept * RateBuckets::root(RateBuckets::RUNGS - 1));
    for _ in 0..STEPS {
        let middle = f64::sqrt(low * high);
        *if calls(middle) > per_second { &mut low } else { &mut high } = middle;
    }
    high
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { least: 15.0, kept: 3600.0 };
    const POOL: PoolSlot = PoolSlot(3);

    fn census(users: &[(u8, u32)]) -> Census {
        let mut census = Census::default();
        users.iter().for_each(|(rung, users)| (0..*users).for_each(|_| census.join(*rung)));
        census
    }

    fn delay(census: &Census, per_second: f64) -> f64 {
        forecast(&[(POOL, census)], per_second, LIMITS).delays[&POOL].as_secs_f64()
    }

    #[test]
    fn users_of_one_rate_wait_for_half_a_round() {
        let alike = census(&[(20, 600)]);
        let expected = forecast(&[(POOL, &alike)], 1.0, LIMITS);
        assert_eq!(expected.round, Some(Duration::from_mins(10)));
        assert!((delay(&alike, 1.0) - 300.0).abs() < 0.1, "{}", delay(&alike, 1.0));
    }

    #[test]
    fn four_times_the_rate_is_polled_twice_as_often() {
        // Intervals T and 2T, so that 100/T + 100/2T = 1.
        let mixed = census(&[(20, 100), (24, 100)]);
        let interval = 150.0;
        let expected = (4.0 * interval + 2.0 * interval) / 5.0 / 2.0;
        assert!((delay(&mixed, 1.0) / expected - 1.0).abs() < 0.001, "{} for {expected}", delay(&mixed, 1.0));
    }

    #[test]
    fn neither_interval_is_passed_whatever_the_budget() {
        let mixed = census(&[(0, 100), (47, 100)]);
        assert!((delay(&mixed, 1e6) - 7.5).abs() < 0.01, "{}", delay(&mixed, 1e6));
        assert!((delay(&mixed, 1e-6) - 1800.0).abs() < 0.1, "{}", delay(&mixed, 1e-6));
    }

    #[test]
    fn of_nobody_nothing_is_foreseen() {
        assert_eq!(forecast(&[(POOL, &Census::default())], 5.0, LIMITS), Forecast::default());
        let others = forecast(&[(POOL, &Census::default()), (PoolSlot(4), &census(&[(9, 1)]))], 5.0, LIMITS);
        assert_eq!(others.delays.into_keys().collect::<Vec<_>>(), [PoolSlot(4)]);
    }
}
