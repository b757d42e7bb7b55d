//! The distribution of the users' rates in a pool, which is the prior for each of its users.
//!
//! Users are very unequal: most are dormant, some sign in daily, a few services sign in every minute. No family of
//! distributions fits every pool. So the prior is a histogram over rates, each twice the one before, and is learnt as
//! the pool is polled. A user's events in a time then give its rate by Bayes' rule. Two events in an hour mean much in
//! a pool of dormant users, and little in a pool of machines.
//!
//! The histogram is learnt by Newton's predictive recursion: each user's posterior is mixed into it, and the earlier
//! content loses a little weight. (M. A. Newton, On a nonparametric recursive estimator of the mixing distribution,
//! Sankhya A 64, 2002.)

/// The number of rates in the histogram.
const RATES: usize = RATE_COUNT as usize;
const RATE_COUNT: u8 = 24;

/// The lowest rate, in events per second: one event in 128 days. The highest is one in a little more than a second.
const SLOWEST: f64 = 1.0 / (128.0 * 86_400.0);

/// The weight of the assumed distribution of a new pool, in users.
const ASSUMED: f64 = 8.0;

/// The number of latest lessons that the histogram averages over. It is enough for a smooth histogram, and few enough
/// to follow a pool that changes.
const LESSONS: f64 = 4096.0;

/// The distribution of the rates of a pool's users, as learnt so far.
#[derive(Clone, Debug)]
pub(super) struct RatePrior {
    shares: [f64; RATES],
    lessons: f64,
}

impl Default for RatePrior {
    /// Assumes mostly dormant users, and one event an hour on average. Twice the rate is 1.4 times rarer.
    fn default() -> Self {
        let mut shares = [0.0; RATES];
        let mut share = 1.0;
        for place in &mut shares {
            *place = share;
            share *= std::f64::consts::FRAC_1_SQRT_2;
        }
        normalise(&mut shares);
        Self { shares, lessons: ASSUMED }
    }
}

impl RatePrior {
    /// The mean rate of the users, in events per second.
    pub(super) fn mean(&self) -> f64 {
        mean(&self.shares)
    }

    /// The rate to expect of a user with `count` events in `exposure` seconds, in events per second. Both may have
    /// decayed.
    pub(super) fn rate(&self, count: f64, exposure: f64) -> f64 {
        mean(&self.posterior(count, exposure))
    }

    /// Learns from a user with `count` events in `exposure` seconds, with a `weight` from 0 to 1.
    pub(super) fn learn(&mut self, count: f64, exposure: f64, weight: f64) {
        let posterior = self.posterior(count, exposure);
        self.lessons = (self.lessons + weight).min(LESSONS);
        let step = weight / self.lessons;
        for (share, seen) in self.shares.iter_mut().zip(posterior) {
            *share += (seen - *share) * step;
        }
    }

    fn posterior(&self, count: f64, exposure: f64) -> [f64; RATES] {
        weigh(&self.shares, count, exposure)
    }
}

/// The recent rate to expect of a user whose rate is `usual`, in events per second. With the probability `changed` it
/// has changed to any rate. `count` events in `exposure` seconds were seen recently.
pub(super) fn shifted(usual: f64, changed: f64, count: f64, exposure: f64) -> f64 {
    // First the unchanged rate, then every rate with equal weight. Likelihoods are relative to "unchanged", so that
    // none overflows.
    let any = changed / f64::from(RATE_COUNT);
    let (mut evidence, mut rate_sum) = (1.0 - changed, (1.0 - changed) * usual);
    for rate in rates() {
        let likelihood = (count * (rate / usual).ln() - (rate - usual) * exposure).min(300.0).exp();
        evidence += any * likelihood;
        rate_sum += any * likelihood * rate;
    }
    rate_sum / evidence
}

fn rates() -> impl Iterator<Item = f64> {
    std::iter::successors(Some(SLOWEST), |rate| Some(rate * 2.0)).take(RATES)
}

fn mean(shares: &[f64; RATES]) -> f64 {
    shares.iter().zip(rates()).map(|(share, rate)| share * rate).sum()
}

/// Bayes' rule with the likelihood of a Poisson process.
fn weigh(prior: &[f64; RATES], count: f64, exposure: f64) -> [f64; RATES] {
    let mut posterior = [0.0; RATES];
    for (place, rate) in posterior.iter_mut().zip(rates()) {
        *place = count * rate.ln() - rate * exposure;
    }
    // Relative to the likeliest rate, because all likelihoods could underflow.
    let top = posterior.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for (place, prior) in posterior.iter_mut().zip(prior) {
        // A share of zero could never grow again.
        *place = prior.max(1e-9) * (*place - top).exp();
    }
    normalise(&mut posterior);
    posterior
}

fn normalise(shares: &mut [f64; RATES]) {
    let sum: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool in which one user of `one_in` has an event a minute, and the others are dormant. Each was seen for an
    /// hour.
    fn pool(one_in: u32) -> RatePrior {
        let mut rate_prior = RatePrior::default();
        for user in 0..3000 {
            rate_prior.learn(if user % one_in == 0 { 60.0 } else { 0.0 }, 3600.0, 1.0);
        }
        rate_prior
    }

    #[test]
    fn a_pool_teaches_its_mean_rate() {
        // The histogram's rates differ by a factor of two, and the nearer one is found.
        let mean = pool(10).mean() * 60.0;
        assert!((0.07..0.14).contains(&mean), "{mean} a minute");
    }

    #[test]
    fn an_event_means_more_in_a_pool_where_the_active_are_very_active() {
        let (sleepers, mixed) = (pool(1000), pool(2));
        assert!(sleepers.rate(0.0, 600.0) < 0.05 * mixed.mean(), "a user without events is dormant");
        assert!(mixed.rate(1.0, 60.0) > 1.5 * sleepers.rate(1.0, 600.0));
    }

    #[test]
    fn no_count_is_too_much() {
        let rate_prior = pool(10);
        for (count, exposure) in [(1e6, 1e6), (1e6, 1.0), (0.0, 1e9), (1e-30, 1e-30), (1e9, 1e9)] {
            for rate in [rate_prior.rate(count, exposure), shifted(1e-6, 0.05, count, exposure)] {
                assert!(rate.is_finite() && rate > 0.0, "{rate} of {count} in {exposure} s");
            }
        }
    }
}
