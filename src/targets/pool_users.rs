//! The users of one pool: their records in the ledger, and the port that receives changes.
//!
//! Enrolment and retirement share it. Both write to the ledger first and report the change afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use cognito_auth_core::schedule::ActivityEstimate;
use tracing::{debug, warn};

use super::user_change::{FollowedUsers, UserChange};
use crate::ledger::{Ledger, LedgerError, UserStanding};
use crate::lifecycle::Clock;

/// Pause while the ledger cannot be written.
pub(super) const LEDGER_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Names that are read from the ledger, noted there or reported at once: a few milliseconds of work, after which other
/// tasks run.
pub(super) const NAMES_AT_ONCE: usize = 500;

/// The stored and followed users of a pool.
pub(super) struct PoolUsers<F> {
    pub(super) pool_id: String,
    pub(super) ledger: Ledger,
    pub(super) clock: Clock,
    pub(super) followed: F,
}

impl<F: FollowedUsers> PoolUsers<F> {
    /// Reads what the ledger has of a user.
    pub(super) fn standing(&self, username: &str) -> Result<Option<UserStanding>, LedgerError> {
        self.ledger.standing(&self.pool_id, username)
    }

    /// Estimates a user's present activity from what is stored.
    pub(super) fn activity(&self, standing: Option<&UserStanding>) -> ActivityEstimate {
        let activity = standing.and_then(|standing| standing.activity);
        activity.map_or(ActivityEstimate::UNKNOWN, |activity| activity.aged(self.clock.now()))
    }

    /// Reports users that joined.
    pub(super) async fn report_joined(&self, users: Vec<(String, ActivityEstimate)>) {
        self.followed.apply(UserChange::Joined(users)).await;
    }

    /// Reports users that left.
    pub(super) async fn report_left(&self, usernames: Vec<String>) {
        self.followed.apply(UserChange::Left(usernames)).await;
    }

    /// Waits after a failed write, before the next attempt.
    pub(super) async fn wait_for_ledger(&self, error: &LedgerError) {
        debug!(pool = self.pool_id, %error, "followed users not stored; retrying");
        tokio::time::sleep(LEDGER_RETRY_AFTER).await;
    }
}

/// Users whose records cannot be read. They are left out and their records stay, for a build that can read them.
#[derive(Default)]
pub(super) struct UnreadableUsers {
    usernames: BTreeSet<String>,
    latest_error: Option<LedgerError>,
    /// How many of them the log has named.
    logged: usize,
}

impl UnreadableUsers {
    /// Whether an error concerns one record, and not the whole ledger.
    pub(super) fn is_unreadable(error: &LedgerError) -> bool {
        matches!(error, LedgerError::Corrupt { .. } | LedgerError::NewerVersion { .. })
    }

    pub(super) fn add(&mut self, username: &str, error: LedgerError) {
        self.usernames.insert(username.to_owned());
        self.latest_error = Some(error);
    }

    pub(super) fn remove(&mut self, username: &str) {
        self.usernames.remove(username);
    }

    pub(super) fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.usernames.retain(|username| is_kept(username));
    }

    pub(super) fn contains(&self, username: &str) -> bool {
        self.usernames.contains(username)
    }

    /// Writes a warning if another number of users is left out than the latest warning said.
    pub(super) fn log(&mut self, pool_id: &str) {
        let users = self.usernames.len();
        if let Some(error) = &self.latest_error
            && users > 0
            && users != self.logged
        {
            warn!(pool = pool_id, users, %error, "records of users cannot be read; these users are left out");
        }
        self.logged = users;
    }
}
