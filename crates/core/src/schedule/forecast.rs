//! Forecasts for a budget how long a round takes, and how long events wait to be seen.
//!
//! The forecast solves the schedule's own rule for a budget. Each user is polled every price/√λ seconds, within the
//! least and the kept interval. The price is the one at which the polls use the budget that they get. An event waits
//! for half of its user's interval on average.
//!
//! Two measurements correct this. Looks, further pages and backlog take calls: [`CallUse`] measures the share of calls
//! that is left for polls. Rates change before the schedule has learnt them, as in an attack: [`Calibration`] compares
//! the delays that were found with those that were foreseen.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rate_buckets::{Census, RateBuckets};
use super::ticks::{Ticks, seconds as in_seconds};
use super::{FoundEvent, Intervals, PoolSlot};

/// The forecast for a budget, if users stay as active as they are.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Forecast {
    /// The time to poll each user of all pools in full once; None while there are no such users.
    pub round: Option<Duration>,
    /// The mean time from an event to its sighting, for each pool in full with users.
    pub delays: BTreeMap<PoolSlot, Duration>,
    /// The time in which a sample comes to each user once, for each pool with users that is polled by a sample. Its
    /// users are in no other figure.
    pub sample_rounds: BTreeMap<PoolSlot, Duration>,
}

/// The least and the greatest interval between a user's polls, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) least: f64,
    pub(super) kept: f64,
}

impl Limits {
    pub(super) fn interval(self, price: f64, root: f64) -> f64 {
        (price / root).clamp(self.least, self.kept)
    }
}

/// The kept interval in seconds for an objective in seconds, where a round through all users within the objective takes
/// this share of the budget.
pub(super) fn kept_interval(objective: f64, share: f64) -> f64 {
    if share <= 1.0 { objective } else { objective * share * share.min(2.0) }
}

/// The number of halvings, in logarithm, of the range of the price. After so many it is as exact as a double.
const STEPS: u32 = 60;

/// Computes the round at `per_second` calls per second, and the delays if `for_polls` of them are for polls.
pub(super) fn forecast(pools: &[(PoolSlot, &Census)], per_second: f64, for_polls: f64, limits: Limits) -> Forecast {
    let mut all_users = Census::default();
    pools.iter().for_each(|(_, census)| all_users.add(census));
    let users = all_users.len();
    if users == 0.0 {
        return Forecast::default();
    }
    let price = price(&all_users.buckets().collect::<Vec<_>>(), for_polls, limits);
    let delay = |census: &Census| delay(census.buckets(), price, limits);
    Forecast {
        round: Some(seconds((users / per_second).max(limits.least))),
        delays: pools.iter().filter_map(|(pool, census)| Some((*pool, delay(census)?))).collect(),
        sample_rounds: BTreeMap::new(),
    }
}

/// The mean delays that a budget gives to users whose rates are not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AssumedDelays {
    /// Of all events.
    pub of_events: Duration,
    /// Of the events of a user with an event an hour.
    pub of_active_user: Duration,
    /// Of an event of a dormant user. At most twice this time passes.
    pub of_idle_user: Duration,
}

/// The mean delay that a budget gives to users whose rates are not known. They are taken to be as in the trace *60 %
/// dormant* of docs/scheduling.md. None without users.
pub fn assumed_delay(users: u64, per_second: f64, intervals: Intervals) -> Option<Duration> {
    assumed_delays(users, per_second, intervals).map(|delays| delays.of_events)
}

/// The same for all events, and for single users. None without users.
pub fn assumed_delays(users: u64, per_second: f64, intervals: Intervals) -> Option<AssumedDelays> {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let users = users as f64;
    let objective = intervals.max.max(intervals.min).as_secs_f64();
    let kept = kept_interval(objective, users / per_second / objective);
    let limits = Limits { least: intervals.min.as_secs_f64(), kept };
    let assumed: Vec<_> = assumed_rates().map(|(rate, share)| (f64::sqrt(rate), share * users)).collect();
    let price = price(&assumed, per_second, limits);
    let of_user = |rate: f64| seconds(limits.interval(price, rate.sqrt()) / 2.0);
    Some(AssumedDelays {
        of_events: delay(assumed.iter().copied(), price, limits)?,
        of_active_user: of_user(ACTIVE),
        of_idle_user: of_user(DORMANT),
    })
}

/// The rate of a dormant user, in events per second: an event in two months.
const DORMANT: f64 = 1.0 / (60.0 * 86_400.0);

/// The rate of an active user, in events per second: an event an hour.
const ACTIVE: f64 = 1.0 / 3600.0;

/// Rates in events per second, each with its share of the users. 60 % have an event in two months. The others are
/// log-normal, and the average of all users is an event in two hours.
fn assumed_rates() -> impl Iterator<Item = (f64, f64)> {
    const DORMANT_SHARE: f64 = 0.6;
    const MEAN: f64 = 0.5 / 3600.0 / (1.0 - DORMANT_SHARE);
    /// The standard deviation of the logarithm.
    const SIGMA: f64 = 1.5;
    // The normal distribution in steps of a quarter.
    let steps = || (-16..=16).map(|step| f64::from(step) / 4.0);
    let density = |normal: f64| (-normal * normal / 2.0).exp();
    let all: f64 = steps().map(density).sum();
    let lively = steps().map(move |normal| {
        let rate = MEAN * (SIGMA * normal - SIGMA * SIGMA / 2.0).exp();
        (rate, (1.0 - DORMANT_SHARE) * density(normal) / all)
    });
    std::iter::once((DORMANT, DORMANT_SHARE)).chain(lively)
}

/// The mean delay of the events of these users: √λ, and how many have it. None without events.
fn delay(users: impl Iterator<Item = (f64, f64)>, price: f64, limits: Limits) -> Option<Duration> {
    // In each group, `rate` events per second wait for half of the interval.
    let (events, waiting) = users.fold((0.0, 0.0), |(events, waiting), (root, users)| {
        let rate = users * root * root;
        (events + rate, waiting + rate * limits.interval(price, root) / 2.0)
    });
    (events > 0.0).then(|| seconds(waiting / events))
}

/// The price at which the polls of these users, by √λ, use the whole budget. The higher the price, the fewer polls
/// there are.
fn price(all_users: &[(f64, f64)], per_second: f64, limits: Limits) -> f64 {
    let calls =
        |price: f64| -> f64 { all_users.iter().map(|(root, users)| users / limits.interval(price, *root)).sum() };
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

/// The calls of all turns so far, by their purpose.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct CallUse {
    /// The first calls of polls, except looks and samples.
    pub polls: u64,
    /// The first calls of looks at events in progress.
    pub looks: u64,
    /// The first calls of polls for a sample.
    pub samples: u64,
    /// The further calls of polls and looks: more pages, and full pages after short ones that did not suffice.
    pub further: u64,
    /// The calls for backlog.
    pub backlog: u64,
    /// The share of the latest calls that were for anything but polls.
    share_of_others: f64,
    /// The number of calls behind this share, up to [`CallUse::AVERAGED`].
    averaged: f64,
}

impl CallUse {
    /// The number of latest calls whose use is measured: three and a half minutes at 5 calls per second. An attack
    /// shows soon, and one turn of 50 pages changes the share little.
    const AVERAGED: f64 = 1024.0;

    /// The least share of calls that counts as left for polls. The schedule leaves them more than that.
    const LEAST: f64 = 0.01;

    /// The share of the calls that is left for polls, looks excluded.
    pub(super) fn share_of_polls(&self) -> f64 {
        (1.0 - self.share_of_others).max(Self::LEAST)
    }

    pub(super) fn poll(&mut self) {
        self.polls += 1;
        self.average(0.0, 1);
    }

    pub(super) fn look(&mut self) {
        self.looks += 1;
        self.average(1.0, 1);
    }

    pub(super) fn sample(&mut self) {
        self.samples += 1;
        self.average(1.0, 1);
    }

    pub(super) fn further(&mut self, calls: u32) {
        self.further += u64::from(calls);
        self.average(1.0, calls);
    }

    pub(super) fn backlog(&mut self, calls: u32) {
        self.backlog += u64::from(calls);
        self.average(1.0, calls);
    }

    fn average(&mut self, is_other: f64, calls: u32) {
        self.averaged = (self.averaged + f64::from(calls)).min(Self::AVERAGED);
        let kept = (1.0 - 1.0 / self.averaged.max(1.0)).powf(f64::from(calls));
        self.share_of_others = is_other + (self.share_of_others - is_other) * kept;
    }
}

/// The delays of a pool's events, as found and as foreseen.
///
/// Sums over the events of the last quarter of an hour, and over the latest [`Calibration::EVENTS`] at least. Older
/// events fade.
#[derive(Debug, Default)]
pub(super) struct Calibration {
    events: f64,
    /// The sum of the events' delays, in seconds.
    waited: f64,
    /// The sum of the delays that were foreseen for them, in seconds.
    foreseen: f64,
    /// The delay that the rule gives at present, in seconds.
    rule: Option<f64>,
    faded: Ticks,
}

impl Calibration {
    /// The least number of events that are compared. The mean delay of so many events is exact to two or three
    /// percent.
    const EVENTS: f64 = 1000.0;

    /// The window in seconds, where it has more events. An attack is to show while it lasts.
    const WINDOW: f64 = 600.0;

    /// The number of events that would have to be found before they count half. Fewer events say little.
    const ASSUMED: f64 = 50.0;

    /// Takes the delay that the rule gives, and returns the delay to expect.
    pub(super) fn calibrate(&mut self, rule: Duration) -> Duration {
        let rule = rule.as_secs_f64();
        self.rule = Some(rule);
        let assumed = Self::ASSUMED * rule;
        seconds(rule * (self.waited + assumed) / (self.foreseen + assumed))
    }

    /// Compares events that were found with the latest forecast, except those that waited for longer than `until`.
    pub(super) fn found(&mut self, events: &[FoundEvent], until: Duration, now: Ticks) {
        let Some(rule) = self.rule.filter(|_| !events.is_empty()) else { return };
        let by_time = (-in_seconds(now - self.faded) / Self::WINDOW).exp();
        let kept = by_time.max((Self::EVENTS / self.events).min(1.0));
        self.faded = now;
        for sum in [&mut self.events, &mut self.waited, &mut self.foreseen] {
            *sum *= kept;
        }
        for event in events.iter().filter(|event| event.age <= until) {
            self.events += 1.0;
            self.waited += event.age.as_secs_f64();
            self.foreseen += rule;
        }
    }
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
        forecast(&[(POOL, census)], per_second, per_second, LIMITS).delays[&POOL].as_secs_f64()
    }

    #[test]
    fn users_of_one_rate_wait_for_half_a_round() {
        let alike = census(&[(20, 600)]);
        let expected = forecast(&[(POOL, &alike)], 1.0, 1.0, LIMITS);
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
    fn calls_for_other_things_are_not_for_polls() {
        let mut calls = CallUse::default();
        assert!((calls.share_of_polls() - 1.0).abs() < 1e-9);
        for _ in 0..1000 {
            calls.poll();
            calls.further(1);
            calls.look();
            calls.backlog(1);
        }
        assert!((calls.share_of_polls() - 0.25).abs() < 0.001, "{}", calls.share_of_polls());
        assert_eq!((calls.polls, calls.looks, calls.further, calls.backlog), (1000, 1000, 1000, 1000));
        calls.backlog(50);
        assert!((0.22..0.25).contains(&calls.share_of_polls()), "a long turn changes little: {calls:?}");
        (0..100).for_each(|_| calls.backlog(1000));
        assert!(calls.share_of_polls() > 0.0, "the budget is never 0");
    }

    fn waited(seconds: u64) -> FoundEvent {
        FoundEvent { age: Duration::from_secs(seconds), high_risk: false }
    }

    #[test]
    fn what_was_found_corrects_what_is_foreseen() {
        let (mut calibration, rule, hour) = (Calibration::default(), Duration::from_secs(100), Duration::from_hours(1));
        calibration.found(&[waited(900)], hour, 0);
        assert_eq!(calibration.calibrate(rule), rule, "nothing was foreseen for this event");
        calibration.found(&[waited(200), waited(4000)], hour, 0);
        let little = calibration.calibrate(rule).as_secs_f64();
        assert!((101.0..105.0).contains(&little), "one event, the other is from a pause: {little}");
        calibration.found(&[waited(200); 5000], hour, 0);
        let much = calibration.calibrate(rule).as_secs_f64();
        assert!((197.0..200.0).contains(&much), "{much}");
        // It fades with events and not with time alone.
        let later = crate::schedule::ticks::nanos(Duration::from_hours(10));
        calibration.found(&[waited(100); 1], hour, later);
        let kept = calibration.calibrate(rule).as_secs_f64();
        assert!((190.0..200.0).contains(&kept), "{kept}");
        (0..5000).for_each(|_| calibration.found(&[waited(100)], hour, later));
        let new = calibration.calibrate(rule).as_secs_f64();
        assert!((115.0..118.0).contains(&new), "{new}");
    }

    #[test]
    fn a_longer_maximum_interval_shortens_the_mean_delay_while_the_budget_keeps_it() {
        let delay = |hours: u64| {
            let intervals = Intervals { min: Duration::from_secs(15), max: Duration::from_hours(hours) };
            assumed_delay(10_000, 10.0, intervals).unwrap()
        };
        // A round takes 1,000 s.
        let delays = [1, 2, 4].map(|hours| delay(hours).as_secs());
        assert_eq!(delays, [138, 127, 125]);
        assert_eq!(
            assumed_delay(0, 5.0, Intervals { min: Duration::from_secs(15), max: Duration::from_hours(1) }),
            None
        );
    }

    #[test]
    fn an_active_user_waits_for_less_than_an_idle_one_who_waits_for_half_of_the_kept_interval() {
        let intervals = Intervals { min: Duration::from_secs(15), max: Duration::from_hours(1) };
        // A round takes 5.6 h, so the kept interval is twice that.
        let delays = assumed_delays(200_000, 10.0, intervals).unwrap();
        assert_eq!([delays.of_events, delays.of_active_user].map(|delay| delay.as_secs() / 60), [54, 80]);
        assert_eq!(delays.of_idle_user, Duration::from_secs(20_000));
        assert_eq!(assumed_delay(200_000, 10.0, intervals), Some(delays.of_events));
    }

    #[test]
    fn of_nobody_nothing_is_foreseen() {
        assert_eq!(forecast(&[(POOL, &Census::default())], 5.0, 5.0, LIMITS), Forecast::default());
        let others = forecast(&[(POOL, &Census::default()), (PoolSlot(4), &census(&[(9, 1)]))], 5.0, 5.0, LIMITS);
        assert_eq!(others.delays.into_keys().collect::<Vec<_>>(), [PoolSlot(4)]);
    }
}
