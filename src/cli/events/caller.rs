//! The calls of `events`: within the rate, again after a failure that may pass, and never after a stop.
//!
//! The SDK makes each attempt once. It would repeat a call without asking the budget, and hide the throttle that must
//! slow the next calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cognito_auth_core::backoff::Backoff;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::complain;
use crate::rate_limiter::RateLimiter;
use crate::source::cognito::Cognito;
use crate::source::cognito::wire::WirePage;
use crate::source::{Listing, Operation, PageToken, Source as _, SourceError, UserPage};

/// Listing calls per second. A page names 60 users, so this is far ahead of any reading of them. The quota is 30 per
/// second, of which an exporter takes 5 by default.
const LISTS_PER_SECOND: f64 = 1.0;

/// Attempts of a call that fails in a way that may pass, the same as boto3's.
const ATTEMPTS: u32 = 5;

/// The pauses between these attempts.
const PAUSES: Backoff = Backoff::doubling(Duration::from_millis(500), Duration::from_secs(8));

/// Throttled attempts of one call in a row. At the lowest rate they take five minutes: the quota is used up by others.
const THROTTLES_MAX: u32 = 30;

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// The command was stopped.
    Stopped,
    /// The service or the way to it failed.
    Source(SourceError),
}

/// Calls one pool.
pub(super) struct Caller {
    source: Cognito,
    /// Quota category UserResourceRead.
    reads: RateLimiter,
    /// Quota category UserList.
    lists: RateLimiter,
    stop: CancellationToken,
    told_throttle: AtomicBool,
}

impl Caller {
    /// Makes a caller with this many calls for events per second.
    pub(super) fn new(source: Cognito, requests_per_second: f64, stop: CancellationToken) -> Self {
        Self {
            source,
            reads: RateLimiter::new(requests_per_second),
            lists: RateLimiter::new(LISTS_PER_SECOND),
            stop,
            told_throttle: AtomicBool::new(false),
        }
    }

    /// Reads a page of a user's history.
    ///
    /// # Errors
    /// The last attempt failed, or the command was stopped.
    pub(super) async fn history(
        &self,
        username: &str,
        token: Option<&str>,
        page_size: Option<u8>,
    ) -> Result<WirePage, CallError> {
        self.attempts(&self.reads, async || self.source.history(username, token, page_size).await).await
    }

    /// Reads a page of a listing.
    ///
    /// # Errors
    /// Those of [`Caller::history`].
    pub(super) async fn users(&self, listing: &Listing, token: Option<&PageToken>) -> Result<UserPage, CallError> {
        self.attempts(&self.lists, async || self.source.users(listing, token).await).await
    }

    /// Reads about how many users the pool has; None if that cannot be known. One attempt: it is for the progress only.
    pub(super) async fn estimated_users(&self) -> Option<u64> {
        let description = self.stop.run_until_cancelled(self.source.describe()).await?;
        description.ok()?.estimated_users
    }

    /// Waits, unless the command is stopped meanwhile.
    ///
    /// # Errors
    /// The command was stopped.
    pub(super) async fn pause_until(&self, time: Instant) -> Result<(), CallError> {
        self.unless_stopped(tokio::time::sleep_until(time)).await
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, CallError> {
        self.stop.run_until_cancelled(work).await.ok_or(CallError::Stopped)
    }

    async fn attempts<T>(
        &self,
        rate_limiter: &RateLimiter,
        call: impl AsyncFn() -> Result<T, SourceError>,
    ) -> Result<T, CallError> {
        let (mut failures, mut throttles) = (PAUSES, 0);
        loop {
            self.unless_stopped(rate_limiter.acquire()).await?;
            let started = Instant::now();
            let error = match self.unless_stopped(call()).await? {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match error {
                SourceError::Throttled(_) if throttles < THROTTLES_MAX => {
                    throttles += 1;
                    rate_limiter.throttled(started);
                    if !self.told_throttle.swap(true, Ordering::Relaxed) {
                        complain("Cognito throttles the calls; continuing more slowly");
                    }
                }
                SourceError::Timeout(_) | SourceError::Passing(_) if failures.failures() + 1 < ATTEMPTS => {
                    let pause = failures.failed();
                    self.pause_until(Instant::now() + pause).await?;
                }
                error => return Err(CallError::Source(error)),
            }
        }
    }
}

/// The error with what to do about it, in words for the arguments of `events`.
pub(super) fn with_remedy(error: &SourceError, operation: Operation, pool_id: &str) -> String {
    let remedy = match (error, operation) {
        (SourceError::Throttled(_), _) => {
            "wait, or lower --requests-per-second: the pool's applications and a running exporter share the quota"
                .to_owned()
        }
        (SourceError::InvalidParameter(_), Operation::ListUsersInGroup) => "check --group".to_owned(),
        _ => error.remedy(operation, pool_id),
    };
    format!("{error} ({remedy})")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::lifecycle::Clock;
    use crate::source::cognito::{Clients, Connection};

    fn caller(rate: f64) -> Caller {
        let connection = Connection { region: "eu-west-1".into(), profile: None, role_arn: None, external_id: None };
        let clients = Clients::simulated("http://cognito.invalid");
        let source = clients.connect("eu-west-1_X", connection, Duration::from_secs(1), Clock::system());
        Caller::new(source, rate, CancellationToken::new())
    }

    /// Makes calls in virtual time, each with the next of these answers. Returns the seconds at which they began.
    async fn begun(caller: &Caller, answers: Vec<Result<(), SourceError>>) -> Vec<f64> {
        let began = Instant::now();
        let (answers, begun) = (RefCell::new(answers.into_iter()), RefCell::new(vec![]));
        while answers.borrow().len() > 0 {
            let call = async || {
                begun.borrow_mut().push(began.elapsed().as_secs_f64());
                answers.borrow_mut().next().unwrap_or(Ok(()))
            };
            let _ = caller.attempts(&caller.reads, call).await;
        }
        begun.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn calls_keep_the_rate_also_when_they_are_repeated() {
        let failing = || Err(SourceError::Passing("reset".into()));
        let answers = vec![Ok(()), failing(), failing(), Ok(()), Ok(()), failing(), Ok(()), Ok(())];
        let begun = begun(&caller(0.5), answers).await;
        assert_eq!(begun.len(), 8);
        assert!(begun.windows(2).all(|pair| pair[1] - pair[0] > 1.999), "{begun:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttle_slows_the_next_calls_and_is_waited_out() {
        let throttled = || Err(SourceError::Throttled("TooManyRequestsException".into()));
        let mut answers = vec![Ok(()), throttled()];
        answers.extend((0..5).map(|_| Ok(())));
        let begun = begun(&caller(10.0), answers).await;
        assert_eq!(begun.len(), 7);
        assert!(begun[1] < 0.11 && begun[2] - begun[1] >= 1.0, "a pause: {begun:?}");
        assert!(begun[3] - begun[2] > 0.12, "slower than before: {begun:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_stays_is_returned_after_five_attempts_and_a_refusal_at_once() {
        let caller = caller(100.0);
        let passing = caller.attempts::<()>(&caller.reads, async || Err(SourceError::Passing("reset".into()))).await;
        assert!(matches!(passing, Err(CallError::Source(SourceError::Passing(_)))));
        let all: Vec<_> = (0..5).map(|_| Err(SourceError::Passing("reset".into()))).collect();
        assert_eq!(begun(&caller, all).await.len(), 5);
        assert_eq!(begun(&caller, vec![Err(SourceError::UserNotFound)]).await.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_a_wait_and_a_call() {
        let caller = caller(0.01);
        caller.stop.cancel();
        let stopped = caller.attempts(&caller.reads, async || Ok(())).await;
        assert!(matches!(stopped, Err(CallError::Stopped)));
    }
}
