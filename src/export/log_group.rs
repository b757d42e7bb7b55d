//! Reads the log group that receives a pool's export, and hands its records in. There is one reader for each pool.
//!
//! ```text
//!   rate limiter --> FilterLogEvents --> sift --> decode --> Intake::take --> position --> ledger
//!   (account, region)   (a page)      (is it new)            (on the disk)     (moves)
//! ```
//!
//! [`ReadPlan`] decides what is read and how far the position moves. It has the invariants, and says what happens if
//! the process dies at each step. Here the order of the steps keeps them: a page is taken before the plan hears of it,
//! and the position is stored after that. A position that could not be stored is stored with the next page; until then
//! a start reads more than it has to.
//!
//! All readers of one account and region share a rate limiter of [`CALLS_PER_SECOND`]. After a day of downtime a
//! reading has many pages, of about a thousand records each, and the rate is the same.
//!
//! [`LogGroupState`] tells others whether the log group can be read, and up to when it was read.

mod health;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::backoff::{Backoff, with_jitter};
use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::export::decode;
use cognito_auth_core::export::log_group::LogGroup;
use cognito_auth_core::export::log_page::{LogGroupPage, LogMessage};
use cognito_auth_core::export::read_plan::{ReadPlan, ReadingStep};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::health::ReadingHealth;
use super::Intake;
use crate::ledger::{Ledger, LedgerError, ReadPosition};
use crate::lifecycle::Clock;
use crate::metrics::Metrics;
use crate::rate_limiter::RateLimiter;
use crate::source::log_events::{LOG_EVENTS_MAX, LogEvents};
use crate::source::{CallOutcome, Operation, SourceError};

/// FilterLogEvents calls per second that all pools of an account and region make together. AWS allows 5, which people
/// and tools that search logs share, and does not raise them.
pub const CALLS_PER_SECOND: f64 = 1.0;

/// The most bytes that a message may inflate to, if it is gzip. A message of CloudWatch Logs has at most 1 MiB.
const INFLATED_BYTES_MAX: usize = 16 << 20;

/// Pauses after calls that failed. A permission or a log group is added in minutes, and an outage may end at any time.
const CALL_AGAIN: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(60));

/// Pauses after records that the intake could not take: the outbox is full, or the ledger is being opened again.
const TAKE_AGAIN: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(15));

/// Tokens in a row that the service may refuse before this counts as a fault. One may have become too old.
const REFUSED_TOKENS_MAX: u32 = 3;

/// How the log group of a pool is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogGroupSettings {
    /// The log group.
    pub log_group: LogGroup,
    /// Pause between two readings.
    pub read_interval: Duration,
    /// How far each reading goes back, for records that are ingested late.
    pub overlap: Duration,
    /// Where reading begins if the ledger has no position: the present time. In a ledger that replaced a lost one: the
    /// time of the loss.
    pub first_position: UnixMillis,
    /// How far before `first_position` reading begins if the stored position is damaged.
    pub replay: Duration,
}

/// The parts of the program that a reader uses.
pub struct LogGroupServices<I, P> {
    /// Takes the records.
    pub intake: Arc<I>,
    /// Stores the position.
    pub positions: P,
    /// Counts the calls.
    pub metrics: Metrics,
    /// The local clock.
    pub clock: Clock,
    /// The rate limiter of the account and region.
    pub rate_limiter: RateLimiter,
    /// Hears of the state.
    pub state: watch::Sender<LogGroupState>,
}

/// Whether a log group can be read, and how far it was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogGroupState {
    /// Everything up to this timestamp was handed in; None before the position is known.
    pub read_until: Option<UnixMillis>,
    /// Whether it can be read.
    pub standing: LogGroupStanding,
}

/// Whether a log group can be read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum LogGroupStanding {
    /// There was no answer yet.
    #[default]
    Unknown,
    /// The latest answer was a page.
    Readable,
    /// It cannot be read.
    Unreadable {
        /// Since when.
        since: UnixMillis,
        /// Why. The text names no user.
        error: String,
        /// The remedy, in the imperative.
        remedy: String,
    },
}

/// Where positions are stored. The ledger does; tests in virtual time have another one.
pub trait ReadPositions: Send + Sync + 'static {
    /// As [`Ledger::read_position`].
    ///
    /// # Errors
    /// Its errors.
    fn read_position(&self, pool_id: &str) -> Result<Option<ReadPosition>, LedgerError>;

    /// As [`Ledger::move_read_position`].
    fn move_read_position(
        &self,
        pool_id: &str,
        to: ReadPosition,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

impl ReadPositions for Ledger {
    fn read_position(&self, pool_id: &str) -> Result<Option<ReadPosition>, LedgerError> {
        Self::read_position(self, pool_id)
    }

    async fn move_read_position(&self, pool_id: &str, to: ReadPosition) -> Result<(), LedgerError> {
        Self::move_read_position(self, pool_id, to).await
    }
}

/// The reader of one pool's log group.
pub struct LogGroupReader<L, I, P> {
    source: L,
    pool: Arc<PoolIdentity>,
    settings: LogGroupSettings,
    services: LogGroupServices<I, P>,
    health: ReadingHealth,
    /// When the first call failed since the latest answer.
    failing_since: Option<Instant>,
    call_again: Backoff,
    /// Tokens that were refused since one was accepted.
    refused_tokens: u32,
}

impl<L: LogEvents, I: Intake, P: ReadPositions> LogGroupReader<L, I, P> {
    /// Makes the reader of a pool. `source` reads the log group of the settings.
    pub fn new(
        source: L,
        pool: Arc<PoolIdentity>,
        settings: LogGroupSettings,
        services: LogGroupServices<I, P>,
    ) -> Self {
        Self {
            source,
            pool,
            settings,
            services,
            health: ReadingHealth::default(),
            failing_since: None,
            call_again: CALL_AGAIN,
            refused_tokens: 0,
        }
    }

    /// Reads until `stop`. It may be dropped at any time.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(mut self) {
        let position = self.begin().await;
        self.services.state.send_modify(|state| state.read_until = Some(position));
        let log_group = self.settings.log_group.identifier();
        info!(pool = self.pool.id, log_group, from = %position, "reading the log group of the pool's export");
        let mut plan = ReadPlan::new(position, self.settings.overlap);
        loop {
            let pause = self.read_page(&mut plan).await;
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns the position from which to read, once it is stored. A position that is not stored would be another one
    /// after a crash, and what lies between would not be read.
    async fn begin(&self) -> UnixMillis {
        let first = self.settings.first_position;
        let mut again = TAKE_AGAIN;
        loop {
            let stored = match self.services.positions.read_position(&self.pool.id) {
                Ok(None) => Ok((first, true)),
                // Another group has received the export since some time after this position.
                Ok(Some(stored)) if !stored.log_group.may_be(&self.settings.log_group) => {
                    Ok((stored.position.min(first), true))
                }
                Ok(Some(stored)) => Ok((stored.position, false)),
                Err(LedgerError::Corrupt { problem, .. }) => {
                    let from = first.minus(self.settings.replay);
                    error!(
                        pool = self.pool.id,
                        problem,
                        %from,
                        "the stored read position of the export is damaged; reading the log group again"
                    );
                    Ok((from, true))
                }
                Err(failed) => Err(failed),
            };
            let failed = match stored {
                Ok((position, false)) => return position,
                Ok((position, true)) => match self.store(position).await {
                    Ok(()) => return position,
                    Err(failed) => failed,
                },
                Err(failed) => failed,
            };
            // The ledger's own log line says what is wrong.
            debug!(pool = self.pool.id, error = %failed, "the read position of the export cannot be used yet");
            tokio::time::sleep(again.failed()).await;
        }
    }

    async fn store(&self, position: UnixMillis) -> Result<(), LedgerError> {
        let to = ReadPosition { log_group: self.settings.log_group.clone(), position };
        self.services.positions.move_read_position(&self.pool.id, to).await
    }

    /// Reads a page and hands it in. Returns the pause before the next one.
    async fn read_page(&mut self, plan: &mut ReadPlan) -> Duration {
        self.services.rate_limiter.acquire().await;
        let request = plan.request(self.services.clock.now());
        let has_token = request.token.is_some();
        let started = Instant::now();
        let answer = self.source.log_events(request.range, LOG_EVENTS_MAX, request.token).await;
        let outcome = answer.as_ref().err().map_or(CallOutcome::Ok, SourceError::outcome);
        let (account, region) = (self.pool.account_id.as_deref(), &self.pool.region);
        self.services.metrics.api_request(account, region, Operation::FilterLogEvents, outcome, started.elapsed());
        match answer {
            Ok(page) => {
                self.answered(has_token || page.next.is_none());
                self.hand_in(plan, page).await
            }
            Err(error) => {
                if outcome == CallOutcome::Throttled {
                    self.services.rate_limiter.throttled(started);
                }
                self.failed(plan, &error)
            }
        }
    }

    /// Hands in what is new on a page, moves the position and stores it. Returns the pause before the next page.
    async fn hand_in(&self, plan: &mut ReadPlan, page: LogGroupPage) -> Duration {
        let received = self.services.clock.now();
        let (fresh, sifted) = plan.sift(page);
        self.take(&fresh, received).await;
        let before = plan.position();
        let step = plan.taken(sifted, self.services.clock.now());
        if plan.position() != before {
            self.services.state.send_modify(|state| state.read_until = Some(plan.position()));
            if let Err(failed) = self.store(plan.position()).await {
                debug!(pool = self.pool.id, error = %failed, "the read position of the export is not stored yet");
            }
        }
        match step {
            // The rate limiter paces the pages.
            ReadingStep::NextPage => Duration::ZERO,
            ReadingStep::Complete | ReadingStep::Stuck => self.settings.read_interval,
        }
    }

    /// Hands in log events, until the intake has taken them.
    async fn take(&self, fresh: &[LogMessage], received: UnixMillis) {
        if fresh.is_empty() {
            return;
        }
        let mut again = TAKE_AGAIN;
        loop {
            let documents = fresh.iter().map(|event| decode(event.message.as_bytes(), INFLATED_BYTES_MAX)).collect();
            match self.services.intake.take(documents, received).await {
                Ok(()) => return,
                // At a stop this reader is stopped, too, and its position waits for the next start.
                Err(failed) => {
                    debug!(pool = self.pool.id, error = %failed, "exported records cannot be taken yet; retrying");
                }
            }
            tokio::time::sleep(again.failed()).await;
        }
    }

    /// Notes an answer. `accepts_tokens`: it answers a token, or is all that there is.
    fn answered(&mut self, accepts_tokens: bool) {
        if accepts_tokens {
            self.refused_tokens = 0;
        }
        // A first page says nothing about a service that refuses each token.
        if self.refused_tokens > 0 {
            return;
        }
        self.call_again.succeeded();
        let seconds = self.failing_since.take().map_or(0, |since| since.elapsed().as_secs());
        if self.health.answered().is_some() {
            info!(pool = self.pool.id, after_seconds = seconds, "the log group of the pool's export can be read again");
        }
        self.services.state.send_if_modified(|state| {
            let is_news = state.standing != LogGroupStanding::Readable;
            state.standing = LogGroupStanding::Readable;
            is_news
        });
    }

    /// Notes a failed call. Returns the pause before the next one.
    fn failed(&mut self, plan: &mut ReadPlan, error: &SourceError) -> Duration {
        let lasted = self.failing_since.get_or_insert_with(Instant::now).elapsed();
        let pause = with_jitter(self.call_again.failed(), fastrand::f64());
        if matches!(error, SourceError::InvalidParameter(_)) && plan.refused() {
            self.refused_tokens += 1;
            if self.refused_tokens < REFUSED_TOKENS_MAX {
                debug!(pool = self.pool.id, %error, "a token of the log group was refused; the reading begins anew");
                return pause;
            }
        }
        if let Some((since, is_news)) = self.health.failed(error, lasted, self.services.clock.now()) {
            let remedy = error.remedy_for_logs(&self.settings.log_group, &self.pool.id);
            if is_news {
                let log_group = self.settings.log_group.identifier();
                warn!(
                    pool = self.pool.id,
                    log_group,
                    %error,
                    remedy,
                    "the log group of the pool's export cannot be read; retrying"
                );
            }
            let standing = LogGroupStanding::Unreadable { since, error: error.to_string(), remedy };
            self.services.state.send_if_modified(|state| {
                let is_other = state.standing != standing;
                state.standing = standing;
                is_other
            });
        }
        pause
    }
}

#[cfg(test)]
mod tests;
