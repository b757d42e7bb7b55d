//! The share of events that an export loses, as estimated from those that were audited.

/// The audited events, and those that the export missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LossEstimate {
    /// The number of events that polls found and the export was asked for.
    pub audited: u64,
    /// The number of these events that the export did not tell.
    pub missed: u64,
}

impl LossEstimate {
    /// The quantile of the normal distribution for an interval of 95 %.
    const Z: f64 = 1.959_964;

    /// Adds one audited event.
    pub(super) fn add(&mut self, missed: bool) {
        self.audited += 1;
        self.missed += u64::from(missed);
    }

    /// The share that was missed, from 0 to 1. None while nothing was audited.
    pub fn share(self) -> Option<f64> {
        (self.audited > 0).then(|| float(self.missed) / float(self.audited))
    }

    /// The interval that holds the true share with a probability of 95 %: Wilson's score interval. Unlike the share
    /// plus and minus its standard error it is right for few events and for a share near 0. Without events it is 0 to
    /// 1. (E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.)
    pub fn interval(self) -> (f64, f64) {
        let Some(share) = self.share() else { return (0.0, 1.0) };
        let (events, z2) = (float(self.audited), Self::Z * Self::Z);
        let centre = share + z2 / (2.0 * events);
        let half = Self::Z * (share * (1.0 - share) / events + z2 / (4.0 * events * events)).sqrt();
        let norm = 1.0 + z2 / events;
        (((centre - half) / norm).max(0.0), ((centre + half) / norm).min(1.0))
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 events")]
fn float(events: u64) -> f64 {
    events as f64
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    #[test]
    fn the_interval_is_wilsons() {
        // R: binom::binom.wilson(11, 200) and (0, 20).
        let close = |(low, high): (f64, f64), expected: (f64, f64)| {
            assert!((low - expected.0).abs() < 5e-5 && (high - expected.1).abs() < 5e-5, "{low} to {high}");
        };
        close(LossEstimate { audited: 200, missed: 11 }.interval(), (0.0310, 0.0958));
        close(LossEstimate { audited: 20, missed: 0 }.interval(), (0.0, 0.1611));
        close(LossEstimate { audited: 20, missed: 20 }.interval(), (0.8389, 1.0));
        close(LossEstimate::default().interval(), (0.0, 1.0));
        assert_eq!(LossEstimate::default().share(), None);
    }

    #[test]
    fn the_interval_holds_the_injected_loss_in_about_95_of_100_cases() {
        let mut random = Rng::with_seed(1);
        for (loss, events) in [(0.005, 2000), (0.02, 400), (0.05, 200), (0.1, 200), (0.5, 100), (0.9, 60)] {
            const RUNS: u32 = 4000;
            let held = (0..RUNS).filter(|_| {
                let mut estimate = LossEstimate::default();
                (0..events).for_each(|_| estimate.add(random.f64() < loss));
                let (low, high) = estimate.interval();
                (low..=high).contains(&loss)
            });
            let share = f64::from(u32::try_from(held.count()).unwrap()) / f64::from(RUNS);
            assert!((0.93..0.97).contains(&share), "{share} at a loss of {loss} among {events}");
        }
    }
}
