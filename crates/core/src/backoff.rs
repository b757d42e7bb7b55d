//! Waits that grow with each failure in a row.
//!
//! ```text
//! failures in a row        1        2          3          n
//! wait                     first    first * 2  first * 4  first * 2^(n-1), at most max
//! ```
//!
//! The random part of a wait is an argument, so the core draws no random numbers.

use std::time::Duration;

/// The waits after failures in a row: the first wait, doubled for each further failure, up to a maximum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Makes a backoff without failures. If `first` is above `max`, every wait is `max`.
    pub const fn doubling(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// Returns the number of failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure, and returns the wait before the next try.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.wait_after(self.failures)
    }

    /// Counts a success: the next wait is the first one again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Returns the wait after so many failures in a row. Zero failures count as one.
    pub fn wait_after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1);
        self.first.saturating_mul(2_u32.saturating_pow(doublings)).min(self.max)
    }
}

/// Spreads a wait over its upper half, so that many instances do not retry at one time. `jitter` is from 0 (half of the
/// wait) to 1 (all of it).
pub fn with_jitter(wait: Duration, jitter: f64) -> Duration {
    wait.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn waits(mut backoff: Backoff, count: usize) -> Vec<u64> {
        std::iter::repeat_with(|| backoff.failed().as_secs()).take(count).collect()
    }

    #[test]
    fn waits_double_up_to_the_maximum() {
        assert_eq!(waits(Backoff::doubling(SECOND, SECOND * 60), 8), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits(Backoff::doubling(SECOND * 5, SECOND * 10), 4), [5, 10, 10, 10]);
        assert_eq!(waits(Backoff::doubling(SECOND * 90, SECOND * 60), 2), [60, 60]);
    }

    #[test]
    fn a_success_leads_back_to_the_first_wait() {
        let mut backoff = Backoff::doubling(SECOND, SECOND * 60);
        assert_eq!((backoff.failed(), backoff.failed(), backoff.failures()), (SECOND, SECOND * 2, 2));
        backoff.succeeded();
        assert_eq!((backoff.failures(), backoff.failed()), (0, SECOND));
    }

    #[test]
    fn jitter_halves_a_wait_at_most() {
        for (jitter, millis) in [(-1.0, 500), (0.0, 500), (0.5, 750), (1.0, 1000), (2.0, 1000)] {
            assert_eq!(with_jitter(SECOND, jitter), Duration::from_millis(millis));
        }
    }

    proptest! {
        #[test]
        fn no_number_of_failures_overflows_or_shortens_the_wait(
            first in 0_u64..=u64::MAX,
            max in 0_u64..=u64::MAX,
            failures in 0_u32..=u32::MAX,
        ) {
            let backoff = Backoff::doubling(Duration::from_secs(first), Duration::from_secs(max));
            let wait = backoff.wait_after(failures);
            prop_assert!(wait <= Duration::from_secs(max));
            prop_assert!(wait <= backoff.wait_after(failures.saturating_add(1)));
        }
    }
}
