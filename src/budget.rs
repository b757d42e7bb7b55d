//! When the next call may be made: evenly spaced, never above the budget, and backing off after a throttle.
//!
//! Pure: time comes in as an argument. There is one [`Budget`] per account, region and quota category, shared by all
//! pools, because that is how AWS counts: the application's own calls are in the same category, and theirs come first.

use std::time::{Duration, Instant};

/// The default limit of the quota category UserResourceRead, in requests per second, for each account and region
/// (<https://docs.aws.amazon.com/cognito/latest/developerguide/quotas.html>).
pub const DEFAULT_READ_LIMIT: f64 = 50.0;

/// A rate of calls, lowered by throttles and recovering by itself.
#[derive(Clone, Debug)]
pub struct Budget {
    limit_per_second: f64,
    rate_per_second: f64,
    /// When the next call may start.
    next: Option<Instant>,
    last_throttle: Option<Instant>,
    last_recovery: Option<Instant>,
}

impl Budget {
    /// What a throttle leaves of the rate. Half, as TCP does: whoever shares the quota notices at once.
    const AFTER_THROTTLE: f64 = 0.5;

    /// The share of the limit that is won back each second without a throttle: 25 seconds from half to whole.
    const RECOVERY_PER_SECOND: f64 = 0.02;

    /// The smallest share of the limit: enough to notice that the quota is free again.
    const FLOOR: f64 = 0.02;

    /// Calls in flight together are throttled together: one lesson, not sixteen.
    const ONE_LESSON: Duration = Duration::from_secs(1);

    /// A call that starts late may be made up for within this time, or a timer's granularity would waste the budget.
    const CATCH_UP: Duration = Duration::from_millis(100);

    /// A budget of so many calls per second (above 0).
    pub fn new(limit_per_second: f64) -> Self {
        let limit_per_second = limit_per_second.max(f64::MIN_POSITIVE);
        Self {
            limit_per_second,
            rate_per_second: limit_per_second,
            next: None,
            last_throttle: None,
            last_recovery: None,
        }
    }

    /// Calls per second at present, after back-off.
    pub fn rate_per_second(&self) -> f64 {
        self.rate_per_second
    }

    /// When a call could start that were reserved now.
    pub fn next_at(&self, now: Instant) -> Instant {
        self.next.map_or(now, |next| next.max(now))
    }

    /// Reserves the next call and answers when it may start.
    pub fn reserve(&mut self, now: Instant) -> Instant {
        self.recover(now);
        let earliest = now.checked_sub(Self::CATCH_UP).unwrap_or(now);
        let slot = self.next.map_or(now, |next| next.max(earliest));
        self.next = Some(slot + Duration::from_secs_f64((1.0 / self.rate_per_second).min(86_400.0)));
        slot.max(now)
    }

    /// Slows down after a throttle: at once, and for everybody who shares the budget.
    pub fn throttled(&mut self, now: Instant) {
        if self.last_throttle.is_some_and(|last| now.saturating_duration_since(last) < Self::ONE_LESSON) {
            return;
        }
        self.last_throttle = Some(now);
        self.last_recovery = Some(now);
        self.rate_per_second = (self.rate_per_second * Self::AFTER_THROTTLE).max(self.limit_per_second * Self::FLOOR);
        let pause_ends = now + Self::ONE_LESSON;
        self.next = Some(self.next.map_or(pause_ends, |next| next.max(pause_ends)));
    }

    fn recover(&mut self, now: Instant) {
        if self.rate_per_second < self.limit_per_second {
            let since = self.last_recovery.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
            let regained = self.limit_per_second * Self::RECOVERY_PER_SECOND * since.as_secs_f64();
            self.rate_per_second = (self.rate_per_second + regained).min(self.limit_per_second);
        }
        self.last_recovery = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls per second of virtual time, each made as soon as it may be, `late` after its slot.
    fn run(budget: &mut Budget, start: Instant, seconds: u32, late: Duration) -> Vec<u32> {
        let mut made = vec![0; seconds as usize];
        let mut now = start;
        loop {
            now = budget.reserve(now) + late;
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
        budget.reserve(start);
        for _ in 0..16 {
            budget.throttled(start);
        }
        assert!((budget.rate_per_second() - 5.0).abs() < 1e-9);
        assert!(budget.reserve(start) >= start + Budget::ONE_LESSON, "a pause first");
    }

    #[test]
    fn it_recovers_to_the_limit_and_not_above_and_never_stops_altogether() {
        let start = Instant::now();
        let mut budget = Budget::new(10.0);
        for second in 0..100 {
            budget.throttled(start + Duration::from_secs(second * 2));
        }
        assert!(budget.rate_per_second() >= 0.2);
        budget.reserve(start + Duration::from_secs(200));
        budget.reserve(start + Duration::from_secs(10_000));
        assert!((budget.rate_per_second() - 10.0).abs() < 1e-9);
    }
}
