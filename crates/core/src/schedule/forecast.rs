//! Forecasts for a budget how long a round takes, and how long events wait to be seen.
//!
//! The forecast solves the schedule's own rule for a budget. Each user is polled every price/√λ seconds, within the
//! least and the kept interval. The price is the one at which the polls use the whole budget. An event waits for half
//! of its user's interval on average. Calls for looks, backlog and second pages are not foreseen.

use std::collections::BTreeMap;
use std::time::Duration;

use super::PoolSlot;
use super::rate_buckets::{Census, RateBuckets};

/// The forecast for a budget, if each user stays as active as its estimate says.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Forecast {
    /// The time to poll each user of all pools once; None while there are no users.
    pub round: Option<Duration>,
    /// The mean time from an event to its sighting, for each pool with users.
    pub delays: BTreeMap<PoolSlot, Duration>,
}

/// The least and the greatest interval between a user's polls, in seconds.
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

/// The number of halvings, in logarithm, of the range of the price. After so many it is as exact as a double.
const STEPS: u32 = 60;

pub(super) fn forecast(pools: &[(PoolSlot, &Census)], per_second: f64, limits: Limits) -> Forecast {
    let mut all_users = Census::default();
    pools.iter().for_each(|(_, census)| all_users.add(census));
    let users = all_users.len();
    if users == 0.0 {
        return Forecast::default();
    }
    let price = price(&all_users, per_second, limits);
    let delay = |census: &Census| {
        // In each bucket, `rate` events per second wait for half of the interval.
        let (events, waiting) = census.buckets().fold((0.0, 0.0), |(events, waiting), (root, users)| {
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

/// The price at which the polls use the whole budget. The higher the price, the fewer polls there are.
fn price(all_users: &Census, per_second: f64, limits: Limits) -> f64 {
    let calls =
        |price: f64| -> f64 { all_users.buckets().map(|(root, users)| users / limits.interval(price, root)).sum() };
    let (mut low, mut high) =
        (limits.least * RateBuckets::root(0), limits.kept * RateBuckets::root(RateBuckets::BUCKETS - 1));
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
        users.iter().for_each(|(bucket, users)| (0..*users).for_each(|_| census.join(*bucket)));
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
