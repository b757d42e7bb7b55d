//! How active the users of a pool are: the prior that its users share.
//!
//! Users are very unequal: most sleep, some sign in daily, a few services sign in every minute. No family of curves fits every
//! pool, so the distribution is a histogram over rates, each twice the one before, learnt as the pool is polled. What one user
//! shows, so many events in so much time, then gives the rate to expect of it by Bayes' rule: two events in an hour mean much
//! in a pool of sleepers and little in one of machines.
//!
//! Learning is Newton's predictive recursion: each user's posterior is mixed into the histogram, a little of what was there
//! is forgotten. (M. A. Newton, On a nonparametric recursive estimator of the mixing distribution, Sankhya A 64, 2002.)

/// Rates that are told apart.
const RATES: usize = RATE_COUNT as usize;
const RATE_COUNT: u8 = 24;

/// Events per second of the slowest: one in 128 days. The fastest is one in a little more than a second.
const SLOWEST: f64 = 1.0 / (128.0 * 86_400.0);

/// What is assumed of a pool of which nothing is known counts as much as so many of its users.
const ASSUMED: f64 = 8.0;

/// The histogram speaks of about so many latest lessons: enough to be smooth, few enough to follow a pool that changes.
const LESSONS: f64 = 4096.0;

/// The distribution of its users' rates, as far as a pool has shown it.
#[derive(Clone, Debug)]
pub(super) struct RatePrior {
    shares: [f64; RATES],
    lessons: f64,
}

impl Default for RatePrior {
    /// Of two rates the double one is 1.4 times rarer: mostly sleepers, and one event an hour on average.
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
    /// Events per second of an average user.
    pub(super) fn mean(&self) -> f64 {
        mean(&self.shares)
    }

    /// Events per second to expect of a user who had `count` events in `exposure` seconds. Both may have decayed.
    pub(super) fn rate(&self, count: f64, exposure: f64) -> f64 {
        mean(&self.posterior(count, exposure))
    }

    /// Takes in what a user showed, as `weight` (0 to 1) of a lesson.
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

/// Events per second to expect of a user whose rate is `usual`, unless it changed of late, which it has with a probability
/// of `changed`, then to any rate; `count` and `exposure` are what was seen of late.
pub(super) fn shifted(usual: f64, changed: f64, count: f64, exposure: f64) -> f64 {
    // Unchanged in front, then every rate alike, as likelihoods relative to "unchanged" so that nothing overflows.
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
    // Measured from the likeliest, or all of them could underflow.
    let top = posterior.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for (place, prior) in posterior.iter_mut().zip(prior) {
        // A share that was lost would be lost for good.
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

    /// A pool of which one in so many has an event a minute, and the rest sleeps; each was seen for an hour.
    fn pool(one_in: u32) -> RatePrior {
        let mut rate_prior = RatePrior::default();
        for user in 0..3000 {
            rate_prior.learn(if user % one_in == 0 { 60.0 } else { 0.0 }, 3600.0, 1.0);
        }
        rate_prior
    }

    #[test]
    fn a_pool_teaches_its_mean_rate() {
        // Of rates that are told apart by a factor of two, the nearer one is found.
        let mean = pool(10).mean() * 60.0;
        assert!((0.07..0.14).contains(&mean), "{mean} a minute");
    }

    #[test]
    fn an_event_means_more_in_a_pool_where_the_active_are_very_active() {
        let (sleepers, mixed) = (pool(1000), pool(2));
        assert!(sleepers.rate(0.0, 600.0) < 0.05 * mixed.mean(), "who shows nothing is a sleeper");
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
