//! What is learnt of one user: how often it is active, as a rule and of late.
//!
//! Events are counted in three windows that decay: a fortnight for what is usual, an hour and a half for what this time of day
//! does to it, a quarter of an hour for bursts. A count, and the time its window has seen, are all that Poisson's likelihood
//! wants; with the time since the last event, which tells who fell silent, six numbers are the whole memory. Silence needs no
//! writing down: a activity stored at the last event and [aged](ActivityEstimate::aged) by the time since is the activity at present.

use std::time::Duration;

use super::rate_prior::{RatePrior, shifted};

/// How long an event counts: after each so many seconds for 1/e.
const WINDOWS: [f64; 3] = [14.0 * 86_400.0, 90.0 * 60.0, 15.0 * 60.0];

/// How probable it is that a user does something else in a window than in the longer one before it.
const CHANGED: [f64; 2] = [0.05, 0.02];

/// How often a user falls silent for good, as far as anybody can tell: once in a hundred hours.
const FALLS_SILENT: f64 = 1.0 / (100.0 * 3600.0);

/// Delay of a high-risk event counts as much as the delay of so many others: its user is polled twice as often.
const RISK_WEIGHT: f64 = 4.0;

/// A history that is read to its end is at least so many seconds long: a user is known for longer than its events tell.
const HISTORY_AT_LEAST: f64 = 3600.0;

/// An event that a poll found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// How long ago it was created.
    pub age: Duration,
    /// Whether its risk level is high, or its credentials are compromised.
    pub high_risk: bool,
}

/// What is known of one user's activity, at one moment.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ActivityEstimate {
    /// Seconds of its history that were seen.
    known: f32,
    /// Seconds since its last event, or as many as are known.
    silent: f32,
    /// Events in each window.
    counts: [f32; 3],
    /// High-risk events in the middle window.
    high_risk: f32,
}

impl ActivityEstimate {
    /// Of a user of whom nothing is known.
    pub const UNKNOWN: Self = Self { known: 0.0, silent: 0.0, counts: [0.0; 3], high_risk: 0.0 };

    /// Bytes of the stored form.
    pub const STORED: usize = 12;

    /// Whether anything was learnt yet.
    pub fn is_known(&self) -> bool {
        self.known > 0.0
    }

    /// The activity after a time in which no event was found.
    #[must_use]
    pub fn aged(mut self, silence: Duration) -> Self {
        if self.is_known() {
            self.elapse(silence.as_secs_f64());
        }
        self
    }

    /// Takes in a poll: `silence` since the one before, and what it found. A first poll brings its whole page, and whether
    /// that is the `whole` history. A walk that stores the activity with each page calls it for each page.
    pub fn polled(&mut self, silence: Duration, found: &[Found], whole: bool) {
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

    /// What to expect of this user, weighted by risk.
    pub(super) fn outlook(&self, rate_prior: &RatePrior) -> Outlook {
        let risk = f64::from(self.high_risk) / (f64::from(self.counts[1]) + 1.0);
        self.expected(rate_prior).times(1.0 + (RISK_WEIGHT - 1.0) * risk)
    }

    /// What to expect of this user.
    pub(super) fn expected(&self, rate_prior: &RatePrior) -> Outlook {
        let [usual, today, now] = self.windows();
        let usual = rate_prior.rate(usual.0, usual.1);
        let today = shifted(usual, CHANGED[0], today.0, today.1);
        let now = shifted(today, CHANGED[1], now.0, now.1);
        Outlook { usual, excess: [today - usual, now - today] }.times(self.still_there(now, rate_prior))
    }

    /// What silence leaves of a rate. Either nothing changed and no event happened to come, or the user fell silent at some
    /// moment since its last event, and is now like anybody who was silent for as long.
    fn still_there(&self, rate: f64, rate_prior: &RatePrior) -> f64 {
        let silent = f64::from(self.silent);
        let unchanged = (-(FALLS_SILENT + rate) * silent).exp();
        let fell = FALLS_SILENT / (FALLS_SILENT + rate) * (1.0 - unchanged);
        let there = unchanged / (unchanged + fell);
        there + (1.0 - there) * (rate_prior.rate(0.0, silent) / rate).min(1.0)
    }

    /// Events and seconds seen, both decayed, in each window.
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

    /// Reads the stored form. Numbers that cannot be are taken for nothing known: a activity is worth no more than a poll.
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

/// A user's expected events per second: as usual in the long run, with two excesses (or lulls) that fade.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    usual: f64,
    excess: [f64; 2],
}

impl Outlook {
    fn times(self, factor: f64) -> Self {
        Self { usual: self.usual * factor, excess: self.excess.map(|excess| excess * factor) }
    }

    /// Events in the next `span` seconds.
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

/// How much of an excess that fades with exp(-t) delay until `span` feels: ∫ (span - t) exp(-t) dt over span²/2.
fn fading(span: f64) -> f64 {
    if span < 1e-3 { 1.0 - span / 3.0 } else { 2.0 * (span - 1.0 + (-span).exp()) / (span * span) }
}

#[expect(clippy::cast_possible_truncation, reason = "seven digits are more than is known of anybody")]
fn narrow(number: f64) -> f32 {
    number as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn found(ages: impl IntoIterator<Item = u64>) -> Vec<Found> {
        ages.into_iter().map(|age| Found { age: Duration::from_secs(age), high_risk: false }).collect()
    }

    /// Of a user with two events a day for ten days, an hour after it was polled last.
    fn ordinary() -> ActivityEstimate {
        let mut activity = ActivityEstimate::UNKNOWN;
        activity.polled(Duration::ZERO, &found((0..20).map(|half_day| DAY / 4 + half_day * DAY / 2)), true);
        activity.aged(Duration::from_hours(1))
    }

    /// Events an hour that are expected in the next ten minutes.
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
        let risky: Vec<_> = events.iter().map(|event| Found { high_risk: true, ..*event }).collect();
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
