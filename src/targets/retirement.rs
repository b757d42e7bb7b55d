//! Retirement of users: notes users as gone when a complete pass did not find them, and removes their state later.

use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::privacy;
use tokio::time::Instant;
use tracing::info;

use super::pool_users::{NAMES_AT_ONCE, PoolUsers};
use super::user_change::FollowedUsers;
use crate::ledger::LedgerError;
use cognito_auth_core::users::listing_pass::Complete;

/// How often state is looked for that is to be removed: `discovery.forget_after` is a day at least.
const FORGET_EVERY: Duration = Duration::from_hours(1);

/// Retires the users of one pool.
pub(super) struct Retirement<F> {
    users: Arc<PoolUsers<F>>,
    /// Users noted as gone since [`Retirement::take_left`].
    left: usize,
    forgot_at: Option<Instant>,
}

impl<F: FollowedUsers> Retirement<F> {
    pub(super) fn new(users: Arc<PoolUsers<F>>) -> Self {
        Self { users, left: 0, forgot_at: None }
    }

    /// Notes every followed user as gone that a complete pass does not want; tries until the ledger has it.
    pub(super) async fn retire(&mut self, complete: &Complete) {
        while let Err(error) = self.retire_unwanted(complete).await {
            self.users.wait_for_ledger(&error).await;
        }
    }

    async fn retire_unwanted(&mut self, complete: &Complete) -> Result<(), LedgerError> {
        let users = self.users.clone();
        let mut followed = users.ledger.followed(&users.pool_id);
        loop {
            let part = followed.by_ref().take(NAMES_AT_ONCE).collect::<Result<Vec<_>, _>>()?;
            if part.is_empty() {
                return Ok(());
            }
            let gone: Vec<String> = part.into_iter().filter(|username| !complete.wants(username)).collect();
            if !gone.is_empty() {
                users.ledger.mark_gone(&users.pool_id, &gone, users.clock.now()).await?;
                self.left += gone.len();
                // The poller knows no hashed names. The next turn of such a user finds that it is gone.
                users.report_left(gone.into_iter().filter(|name| !privacy::is_hidden(name)).collect()).await;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Answers how many users were noted as gone since the latest call.
    pub(super) fn take_left(&mut self) -> usize {
        std::mem::take(&mut self.left)
    }

    /// Removes the state of users that have been gone for `forget_after`, once an hour. A failed removal is tried again
    /// an hour later.
    pub(super) async fn forget(&mut self, forget_after: Duration) {
        if self.forgot_at.is_some_and(|at| at.elapsed() < FORGET_EVERY) {
            return;
        }
        self.forgot_at = Some(Instant::now());
        let (ledger, pool_id) = (&self.users.ledger, &self.users.pool_id);
        let now = self.users.clock.now();
        let mut gone = ledger.gone(pool_id).map_while(Result::ok).peekable();
        let mut forgotten = 0;
        while gone.peek().is_some() {
            let part = gone.by_ref().take(NAMES_AT_ONCE).filter(|(_, since)| now.since(*since) >= forget_after);
            let names: Vec<_> = part.map(|(username, _)| username).collect();
            let count = names.len();
            if count > 0 && ledger.forget(pool_id, names).await.is_ok() {
                forgotten += count;
            }
            tokio::task::yield_now().await;
        }
        if forgotten > 0 {
            info!(pool = pool_id, forgotten, "state of users removed; they were gone for discovery.forget_after");
        }
    }
}
