//! A source that measures every call. It hands on each answer unchanged. A throttled call slows down all pools that
//! share its quota.

use std::sync::Arc;

use cognito_auth_core::entry::PoolIdentity;
use tokio::time::Instant;

use super::{CallOutcome, Listing, Operation, Page, PageToken, PoolDescription, Source, SourceError, UserPage};
use crate::metrics::Metrics;
use crate::rate_limiter::RateLimiter;

/// A source with its pool's labels and its account's rate limiters.
pub struct Metered<S> {
    source: S,
    pool: Arc<PoolIdentity>,
    metrics: Metrics,
    /// Quota category UserResourceRead.
    reads: RateLimiter,
    /// Quota category UserList.
    lists: RateLimiter,
}

impl<S: Source> Metered<S> {
    /// Makes a source that measures the calls of one pool.
    pub fn new(source: S, pool: Arc<PoolIdentity>, metrics: Metrics, reads: RateLimiter, lists: RateLimiter) -> Self {
        Self { source, pool, metrics, reads, lists }
    }

    /// Returns the rate limiter of calls for a user's history.
    pub fn reads(&self) -> &RateLimiter {
        &self.reads
    }

    /// Returns the rate limiter of calls for listings.
    pub fn lists(&self) -> &RateLimiter {
        &self.lists
    }

    /// Makes a call: counts and times it, and slows its quota's rate limiter after a throttle.
    async fn measured<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let started = Instant::now();
        let result = call.await;
        let outcome = result.as_ref().err().map_or(CallOutcome::Ok, SourceError::outcome);
        let account = self.pool.account_id.as_deref();
        self.metrics.api_request(account, &self.pool.region, operation, outcome, started.elapsed());
        if outcome == CallOutcome::Throttled {
            match operation {
                Operation::AdminListUserAuthEvents => self.reads.throttled(started),
                Operation::ListUsers | Operation::ListUsersInGroup => self.lists.throttled(started),
                Operation::DescribeUserPool
                | Operation::GetProvisionedLimit
                | Operation::GetLogDeliveryConfiguration
                | Operation::FilterLogEvents => {}
            }
        }
        result
    }
}

impl<S: Source> Source for Metered<S> {
    async fn page(&self, username: &str, token: Option<&PageToken>, max_results: u8) -> Result<Page, SourceError> {
        let call = self.source.page(username, token, max_results);
        let page = self.measured(Operation::AdminListUserAuthEvents, call).await;
        self.metrics.events_cut(&self.pool.id, self.source.events_cut());
        page
    }

    async fn users(&self, listing: &Listing, token: Option<&PageToken>) -> Result<UserPage, SourceError> {
        self.measured(listing.operation(), self.source.users(listing, token)).await
    }

    async fn describe(&self) -> Result<PoolDescription, SourceError> {
        self.measured(Operation::DescribeUserPool, self.source.describe()).await
    }

    fn events_cut(&self) -> u64 {
        self.source.events_cut()
    }

    async fn read_limit(&self) -> Result<f64, SourceError> {
        self.measured(Operation::GetProvisionedLimit, self.source.read_limit()).await
    }
}
