//! The activity of one user, usually and recently, as learnt from its events.
//!
//! Events are counted in three decaying windows: 14 days for the usual rate, 90 minutes for the effect of the time of
//! day, and 15 minutes for bursts. A count and the time that its window has seen are sufficient for the Poisson
//! likelihood. The time since the last event shows a user that became inactive. So six numbers are the whole memory.
//! Silence need not be stored: an estimate that was stored at the last event and is [aged](ActivityEstimate::aged) by
//! the time since is the present one.

use std::time::Duration;

use super::rate_prior::{RatePrior, shifted};

/// The windows in seconds. After this time an event counts for 1/e.
const WINDOWS: [f64; 3] = [14.0 * 86_400.0, 90.0 * 60.0, 15.0 * 60.0];

/// The probability that a user's rate in a window differs from its rate in the longer window before it.
const CHANGED: [f64; 2] = [0.05, 0.02];

/// The rate at which users become inactive, per second: once in a hundred hours.
const FALLS_SILENT: f64 = 1.0 / (100.0 * 3600.0);

/// The weight of a high-risk event's delay. A user with only such events is polled twice as often.
const RISK_WEIGHT: f64 = 4.0;

/// The least length of a whole history, in seconds. A user has existed for longer than its events show.
const HISTORY_AT_LEAST: f64 = 3600.0;

/// An event that a poll found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundEvent {
    /// The time since its creation.
    pub age: Duration,
    /// Whether its risk level is high, or its credentials are compromised.
    pub high_risk: bool,
}

/// The estimate of one user's activity at one moment.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ActivityEstimate {
    /// The length of the history that was seen, in seconds.
    known: f32,
    /// The time since its last event in seconds, at most `known`.
    silent: f32,
    /// The decayed number of events in each window.
    counts: [f32; 3],
    /// The decayed number of high-risk events in the middle window.
    high_risk: f32,
}

impl ActivityEstimate {
    /// The estimate of a user of which nothing is known.
    pub const UNKNOWN: Self = Self { known: 0.0, silent: 0.0, counts: [0.0; 3], high_risk: 0.0 };

    /// The size of the stored form, in bytes.
    pub const STORED: usize = 12;

    /// Whether any history was seen.
    pub fn is_known(&self) -> bool {
        self.known > 0.0
    }

    /// The estimate after a time in which no event was found.
    #[must_use]
    pub fn aged(mut self, silence: Duration) -> Self {
        if self.is_known() {
            self.elapse(silence.as_secs_f64());
        }
        self
    }

    /// Learns from a poll: the time since the poll before, and the events that it found. A first poll brings its whole
    /// page, and whether that is the `whole` history. A walk that stores the estimate with each page calls this for
    /// each page.
    pub fn polled(&mut self, silence: Duration, found: &[FoundEvent], whole: bool) {
        if self.is_known() {
            self.elapse(silence.as_secs_f64());
        } else {
            let reach = found.iter().map(|event| event.age.as_secs_f64()).fold(1.0, f64::max);
            self.known = narrow(if whole { reach.max(HISTORY_AT_LEAST) } else { reach });
            self.silent = self.known;
        }
        for event in found {
            self.silent = self.silent.min(narrow(event.age.as_secs_f64()));
            let kept = WINDOWS.map(|window| (-event.age.as_secs_f64() / window).exp());
            for (count, kept) in self.counts.iter_mut().zip(kept) {
                *count += narrow(kept);
            }
            if event.high_risk {
                self.high_risk += narrow(kept[1]);
            }
        }
    }

    fn elapse(&mut self, seconds: f64) {
        let kept = WINDOWS.map(|window| narrow((-seconds / window).exp()));
        self.known += narrow(seconds);
        self.silent += narrow(seconds);
        self.high_risk *= kept[1];
        for (count, kept) in self.counts.iter_mut().zip(kept) {
            *count *= kept;
        }
    }

    /// Lets the pool learn from this user.
    pub(super) fn teach(&self, rate_prior: &mut RatePrior, weight: f64) {
        let [(count, exposure), ..] = self.windows();
        rate_prior.learn(count, exposure, weight);
    }

    /// The expected rate of this user, weighted by risk.
    pub(super) fn outlook(&self, rate_prior: &RatePrior) -> Outlook {
        let risk = f64::from(self.high_risk) / (f64::from(self.counts[1]) + 1.0);
        self.expected(rate_prior).times(1.0 + (RISK_WEIGHT - 1.0) * risk)
    }

    /// The expected rate of this user.
    pub(super) fn expected(&self, rate_prior: &RatePrior) -> Outlook {
        let [usual, today, now] = self.windows();
        let usual = rate_prior.rate(usual.0, usual.1);
        let today = shifted(usual, CHANGED[0], today.0, today.1);
        let now = shifted(today, CHANGED[1], now.0, now.1);
        Outlook { usual, excess: [today - usual, now - today] }.times(self.still_there(now, rate_prior))
    }

    /// The share of a rate that is left after a silence. Either the rate did not change and no event came by chance. Or
    /// the user became inactive since its last event, and now has the rate of any user that was silent for as long.
    fn still_there(&self, rate: f64, rate_prior: &RatePrior) -> f64 {
        let silent = f64::from(self.silent);
        let unchanged = (-(FALLS_SILENT + rate) * silent).exp();
        let fell = FALLS_SILENT / (FALLS_SILENT + rate) * (1.0 - unchanged);
        let there = unchanged / (unchanged + fell);
        there + (1.0 - there) * (rate_prior.rate(0.0, silent) / rate).min(1.0)
    }

    /// The number of events and the seconds seen in each window, both decayed.
    fn windows(&self) -> [(f64, f64); 3] {
        let known = f64::from(self.known);
        let mut counts = self.counts.iter().map(|count| f64::from(*count));
        WINDOWS.map(|window| (counts.next().unwrap_or_default(), window * (1.0 - (-known / window).exp())))
    }

    /// The stored form: six numbers of three digits.
    pub fn to_bytes(self) -> [u8; Self::STORED] {
        let [usual, today, now] = self.counts;
        let mut bytes = [0; Self::STORED];
        let numbers = [self.known, self.silent, usual, today, now, self.high_risk];
        for (place, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
            let [high, low, rest, _] = number.to_bits().to_be_bytes();
            // Round to nearest; the numbers are far from the end of their range.
            *place = (u16::from_be_bytes([high, low]) + u16::from(rest >= 0x80)).to_be_bytes();
        }
        bytes
    }

    /// Reads the stored form. Impossible numbers give [`ActivityEstimate::UNKNOWN`], because an estimate is worth no
    /// more than a poll.
    pub fn from_bytes(bytes: [u8; Self::STORED]) -> Self {
        let mut numbers = [0.0; 6];
        for (number, [high, low]) in numbers.iter_mut().zip(bytes.as_chunks().0) {
            *number = f32::from_bits(u32::from_be_bytes([*high, *low, 0, 0]));
        }
        let [known, silent, usual, today, now, high_risk] = numbers;
        if numbers.iter().all(|number| (0.0..1e12).contains(number)) {
            Self { known, silent, counts: [usual, today, now], high_risk }
        } else {
            Self::UNKNOWN
        }
    }
}

/// A user's expected events per second: the usual rate, and two excesses (or deficits) that fade.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    usual: f64,
    excess: [f64; 2],
}

impl Outlook {
    fn times(self, factor: f64) -> Self {
        Self { usual: self.usual * factor, excess: self.excess.map(|excess| excess * factor) }
    }

    /// The mean number of events in the next `span` seconds.
    pub(super) fn events_within(&self, span: f64) -> f64 {
        let faded =
            self.excess.iter().zip(&WINDOWS[1..]).map(|(excess, window)| excess * window * -(-span / window).exp_m1());
        self.usual * span + faded.sum::<f64>()
    }

    /// The steady rate that would have caused the same delay by the end of the next `span` seconds.
    pub(super) fn rate_over(&self, span: f64) -> f64 {
        let [today, now] = self.excess;
        self.usual + today * fading(span / WINDOWS[1]) + now * fading(span / WINDOWS[2])
    }
}

/// The effect of an excess that fades with exp(-t) on the delay until `span`: ∫ (span - t) exp(-t) dt over span²/2.
fn fading(span: f64) -> f64 {
    if span < 1e-3 { 1.0 - span / 3.0 } else { 2.0 * (span - 1.0 + (-span).exp()) / (span * span) }
}

#[expect(clippy::cast_possible_truncation, reason = "seven digits are more than an estimate has")]
fn narrow(number: f64) -> f32 {
    number as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn found(ages: impl IntoIterator<Item = u64>) -> Vec<FoundEvent> {
        ages.into_iter().map(|age| FoundEvent { age: Duration::from_secs(age), high_risk: false }).collect()
    }

    /// The estimate of a user with two events a day for ten days, an hour after its last poll.
    fn ordinary() -> ActivityEstimate {
        let mut activity = ActivityEstimate::UNKNOWN;
        activity.polled(Duration::ZERO, &found((0..20).map(|half_day| DAY / 4 + half_day * DAY / 2)), true);
        activity.aged(Duration::from_hours(1))
    }

    /// The expected rate in the next ten minutes, in events per hour.
    fn hourly(activity: ActivityEstimate) -> f64 {
        activity.outlook(&RatePrior::default()).rate_over(600.0) * 3600.0
    }

    #[test]
    fn a_history_on_the_first_page_tells_the_rate() {
        let rate = hourly(ordinary());
        assert!((1.0 / 24.0..3.0 / 24.0).contains(&rate), "{rate} an hour of 2 a day");
    }

    #[test]
    fn a_burst_raises_a_user_for_minutes_not_for_days() {
        let mut bursting = ordinary();
        bursting.polled(Duration::from_mins(10), &found([30, 60, 120, 180, 300]), false);
        let (before, during) = (hourly(ordinary()), hourly(bursting));
        assert!(during > 30.0 * before, "{during} against {before}");
        let after = hourly(bursting.aged(Duration::from_hours(3)));
        assert!(after < 10.0 * before, "{after} against {before}");
        let day_after = hourly(bursting.aged(Duration::from_hours(24)));
        assert!(day_after < 2.0 * before, "{day_after} against {before}");
    }

    #[test]
    fn one_event_is_no_burst() {
        let mut active = ordinary();
        active.polled(Duration::from_mins(10), &found([120]), false);
        assert!(hourly(active) < 20.0 * hourly(ordinary()), "{} against {}", hourly(active), hourly(ordinary()));
    }

    #[test]
    fn high_risk_counts_fourfold() {
        let events = found([600, 1200, 1800, 2400]);
        let risky: Vec<_> = events.iter().map(|event| FoundEvent { high_risk: true, ..*event }).collect();
        let mut activity = [ordinary(), ordinary()];
        activity[0].polled(Duration::from_hours(1), &events, false);
        activity[1].polled(Duration::from_hours(1), &risky, false);
        let [ordinary, high_risk] = activity.map(hourly);
        assert!(high_risk > 2.5 * ordinary && high_risk < 4.0 * ordinary, "{high_risk} against {ordinary}");
    }

    #[test]
    fn who_falls_silent_is_let_go_sooner_than_the_windows_forget() {
        let mut busy = ActivityEstimate::UNKNOWN;
        busy.polled(Duration::ZERO, &found((0..60).map(|place| place * 600)), false);
        let silent = busy.aged(Duration::from_hours(4));
        assert!(hourly(busy) > 4.0, "{}", hourly(busy));
        assert!(hourly(silent) < 0.5, "{}", hourly(silent));
    }

    #[test]
    fn an_activity_estimate_is_stored_to_three_digits() {
        let mut activity = ordinary();
        activity.polled(Duration::from_hours(1), &found([100, 2000]), false);
        let stored = ActivityEstimate::from_bytes(activity.to_bytes());
        let (rate, again) = (hourly(activity), hourly(stored));
        assert!((rate / again - 1.0).abs() < 0.02, "{rate} and {again}");
        assert_eq!(ActivityEstimate::from_bytes(stored.to_bytes()), stored);
    }
}
