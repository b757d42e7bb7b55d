//! The watch over an account's limit, for a budget that is a share of it. It asks AWS for the limit, and keeps the last
//! one that it read.
//!
//! There is one watch for each account and region. Until AWS has answered, the limit is the documented default, which
//! no account is below. AWS may never answer: the caller may lack the permission, or the endpoint may not know the
//! call. The log says when this begins and ends.

use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::budget::{DEFAULT_READ_LIMIT, RATE_MAX_PER_SECOND};
use cognito_auth_core::lasting_fault::LastingFault;
use cognito_auth_core::shard::Shard;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::lifecycle::Clock;
use crate::metrics::{AccountLimit, Metrics};
use crate::pool::Pool;
use crate::source::{Source, SourceError};
use crate::status::StatusBoard;
use crate::trouble::Trouble;

/// How often the limit is read. A raised limit is used five minutes later, for 288 calls a day in a category that the
/// exporter uses for nothing else. After an error the pause is the same: a permission is given in minutes.
const READ_EVERY: Duration = Duration::from_mins(5);

/// Pause after an error that passes by itself, while the limit is not known yet.
const RETRY_AFTER: Duration = Duration::from_secs(15);

/// The watch over an account's limit in a region.
pub(super) struct LimitWatch<S> {
    /// The pool through which AWS is asked; the limit is its account's.
    pub(super) pool: Arc<Pool<S>>,
    /// The deployment's share of the limit.
    pub(super) share: f64,
    /// This instance's part of that.
    pub(super) shard: Shard,
    pub(super) metrics: Metrics,
    pub(super) status: StatusBoard,
    pub(super) clock: Clock,
}

impl<S: Source> LimitWatch<S> {
    /// Watches until the soft stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(self) {
        let identity = &self.pool.identity;
        // An earlier watch may have read the limit.
        let known = self.metrics.known_limit(identity.account_id.as_deref(), &identity.region);
        let mut known = known.unwrap_or(AccountLimit { per_second: DEFAULT_READ_LIMIT, read: None });
        let mut fault = LastingFault::default();
        loop {
            let answer = self.pool.source.read_limit().await;
            let may_pass =
                matches!(answer, Err(SourceError::Throttled(_) | SourceError::Timeout(_) | SourceError::Passing(_)));
            self.note(answer, &mut known, &mut fault);
            let soon = may_pass && known.read.is_none();
            tokio::time::sleep(if soon { RETRY_AFTER } else { READ_EVERY }).await;
        }
    }

    fn note(&self, answer: Result<f64, SourceError>, known: &mut AccountLimit, fault: &mut LastingFault<Trouble>) {
        let identity = &self.pool.identity;
        let (account, region) = (identity.account_id.as_deref(), identity.region.as_str());
        let name = account.unwrap_or("unknown");
        match answer {
            Ok(per_second) => {
                let is_over = fault.succeeded();
                let is_news = is_over || known.read.is_none() || known.per_second.to_bits() != per_second.to_bits();
                *known = AccountLimit { per_second, read: Some(self.clock.now()) };
                let wanted = self.share * per_second;
                let budget = self.shard.part_of(wanted.min(RATE_MAX_PER_SECOND));
                self.pool.source.reads().set_limit(budget);
                if is_news {
                    info!(account = name, region, limit = per_second, budget, "the account's limit was read");
                }
                if is_news && wanted > RATE_MAX_PER_SECOND {
                    let most = RATE_MAX_PER_SECOND;
                    warn!(
                        account = name,
                        region,
                        limit = per_second,
                        budget,
                        "the account's limit is implausible; using the largest poll.requests_per_second, {most}"
                    );
                }
            }
            Err(error) => {
                self.status.pool_error(&identity.id, &error.to_string(), self.clock.now());
                // A throttle has no kind of trouble: it is logged like a missing answer.
                let trouble = Trouble::of(&error).unwrap_or(Trouble::Unanswered);
                // The polls log a fault that meets every call.
                if !trouble.meets_every_call() && fault.failed(trouble) {
                    let limit = known.per_second;
                    let why = if known.read.is_some() { "what it was before" } else { "the documented default" };
                    warn!(
                        account = name,
                        region,
                        cause = %error,
                        limit,
                        "the account's limit cannot be read; using {why}"
                    );
                }
            }
        }
        self.metrics.api_limit(account, region, *known);
    }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::entry::PoolIdentity;
    use cognito_auth_core::event::UnixMillis;
    use cognito_auth_core::schedule::PoolSlot;
    use cognito_auth_core::walk::Rules;
    use parking_lot::Mutex;

    use super::*;
    use crate::rate_limiter::RateLimiter;
    use crate::source::metered::Metered;
    use crate::source::{Listing, Page, PageToken, PoolDescription, UserPage};

    const POOL: &str = "eu-west-1_Limit";
    const NOW: UnixMillis = UnixMillis(1_795_523_756_000);

    /// A source that answers only for the limit.
    #[derive(Clone)]
    struct Aws(Arc<Mutex<Result<f64, SourceError>>>);

    impl Source for Aws {
        async fn page(&self, _: &str, _: Option<&PageToken>, _: u8) -> Result<Page, SourceError> {
            unreachable!("nobody is polled")
        }

        async fn users(&self, _: &Listing, _: Option<&PageToken>) -> Result<UserPage, SourceError> {
            unreachable!("nobody is listed")
        }

        async fn describe(&self) -> Result<PoolDescription, SourceError> {
            unreachable!("nothing is described")
        }

        fn events_cut(&self) -> u64 {
            0
        }

        async fn read_limit(&self) -> Result<f64, SourceError> {
            self.0.lock().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_follows_the_limit_and_an_error_leaves_it_where_it_is() {
        let aws = Aws(Arc::new(Mutex::new(Err(SourceError::Caller("not authorized".into())))));
        let identity = Arc::new(PoolIdentity {
            id: POOL.into(),
            name: POOL.into(),
            region: "eu-west-1".into(),
            account_id: Some("111122223333".into()),
        });
        let (metrics, rate_limiter) = (Metrics::new(NOW), RateLimiter::new(5.0));
        metrics.add_pool(&identity);
        let source =
            Metered::new(aws.clone(), identity.clone(), metrics.clone(), rate_limiter.clone(), RateLimiter::new(1.0));
        let rules = Rules { overlap: Duration::ZERO, settle: Duration::ZERO, followed_since: None };
        let pool = Arc::new(Pool { slot: PoolSlot(0), identity, source, rules, has_told: false });
        let (status, clock) = (StatusBoard::new(NOW), Clock::manual(NOW));
        let (share, shard) = (0.2, Shard::new(0, 2).unwrap());
        let watch = LimitWatch { pool, share, shard, metrics: metrics.clone(), status: status.clone(), clock };
        let acted = async {
            let budget_of = async |answer: Result<f64, SourceError>, after: Duration| {
                *aws.0.lock() = answer;
                tokio::time::sleep(after + Duration::from_secs(1)).await;
                rate_limiter.per_second()
            };
            let shown = || {
                let report = status.report(&metrics, NOW);
                let pool = &report.pools[0];
                (pool.account_limit_requests_per_second, pool.account_limit_read.is_some(), pool.last_errors.len())
            };
            let close = |budget: f64, wanted: f64| assert!((budget - wanted).abs() < 1e-9, "{budget}, not {wanted}");
            let denied = || Err(SourceError::Caller("not authorized".into()));
            let passing = || Err(SourceError::Passing("reset".into()));
            close(budget_of(denied(), Duration::ZERO).await, 5.0);
            assert_eq!(shown(), (Some(50.0), false, 1), "the default, and why");
            close(budget_of(Ok(200.0), READ_EVERY).await, 20.0);
            assert_eq!(shown(), (Some(200.0), true, 1));
            close(budget_of(Ok(120.0), READ_EVERY).await, 12.0);
            close(budget_of(denied(), READ_EVERY).await, 12.0);
            close(budget_of(passing(), READ_EVERY).await, 12.0);
            assert_eq!(shown(), (Some(120.0), true, 2), "what it was before");
            close(budget_of(Ok(f64::from(i32::MAX)), READ_EVERY).await, RATE_MAX_PER_SECOND / 2.0);
            assert_eq!(shown().0, Some(f64::from(i32::MAX)), "what AWS says is shown as it is");
            close(budget_of(Ok(50.0), READ_EVERY).await, 5.0);
        };
        tokio::select! {
            () = watch.keep() => {}
            () = acted => {}
        }
    }
}
