//! The log lines of the poller about a pool. Each lasting fault has one line when it begins, changes and ends.

use cognito_auth_core::audit::ExportHealth;
use tracing::{info, warn};

use super::health::Notice;
use super::history_progress::{HistoryNotice, HistoryStanding};
use crate::source::Operation;

/// Logs that polling pauses or goes on, over all pools.
pub(super) fn paused(reason: Option<&'static str>) {
    match reason {
        Some(reason) => warn!(reason, "polling pauses; nothing is lost, Cognito keeps its history"),
        None => info!("polling goes on"),
    }
}

/// Logs a change of a pool's health.
pub(super) fn health(pool: &str, notice: &Notice) {
    match notice {
        Notice::Trouble(cause) => {
            let remedy = cause.remedy(Operation::AdminListUserAuthEvents, pool);
            warn!(pool, %cause, remedy, "the pool cannot be polled; other pools go on");
        }
        Notice::Recovered(after) => info!(pool, after_seconds = after.as_secs(), "the pool can be polled again"),
    }
}

/// The users that are missing in a pool, as the log has them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum MissingUsers {
    /// None.
    #[default]
    Nobody,
    /// Users that a listing gave.
    Listed,
    /// Names listed by hand, which a person has to correct.
    Configured,
}

/// Logs when followed users are missing in the pool, and when none is any more. `configured` of them are names listed
/// by hand. `logged` is what the log has.
pub(super) fn missing_users(pool: &str, users: u64, configured: u64, logged: &mut MissingUsers) {
    let found = match (users, configured) {
        (0, _) => MissingUsers::Nobody,
        (_, 0) => MissingUsers::Listed,
        _ => MissingUsers::Configured,
    };
    if std::mem::replace(logged, found) == found {
        return;
    }
    match found {
        MissingUsers::Configured => warn!(
            pool,
            users = configured,
            remedy = "run `cognito-auth-exporter check`, which names them, and correct usernames or usernames_file",
            "configured users not found in the pool"
        ),
        MissingUsers::Listed => info!(pool, users, "followed users not found in the pool; they were deleted"),
        MissingUsers::Nobody => info!(pool, "all followed users found in the pool"),
    }
}

/// Logs names that began to wait as other names of users, and names that were found to belong to other users, since the
/// latest call.
pub(super) fn names(pool: &str, merged: &mut u64, parted: &mut u64) {
    if let names @ 1.. = std::mem::take(merged) {
        info!(
            pool,
            names, "configured names belong to users who are followed under another name; each is followed once"
        );
    }
    if let names @ 1.. = std::mem::take(parted) {
        info!(pool, names, "configured names belong to other users than before; these are followed too");
    }
}

/// Logs the progress of reading histories, and its end.
pub(super) fn history(pool: &str, standing: HistoryStanding, notice: HistoryNotice) {
    let HistoryStanding { walked, users, left } = standing;
    match notice {
        HistoryNotice::Further => {
            info!(pool, walked, users, left_seconds = left.map(|left| left.as_secs()), "walking the users' histories");
        }
        HistoryNotice::Done(after) => {
            info!(pool, users, after_seconds = after.as_secs(), "the users' histories are walked to their ends");
        }
    }
}

/// Logs that a pool's export cannot be relied on, or can again.
pub(super) fn export(pool: &str, health: &ExportHealth, is_sampled: bool) {
    match health {
        ExportHealth::Down(reason) => {
            warn!(pool, %reason, "the export is down; every user is polled until it is up again");
        }
        ExportHealth::Up if is_sampled => info!(pool, "the export is up again; polls audit a sample of the users"),
        ExportHealth::Up => info!(pool, "the export is up again; the users are polled once more each"),
    }
}
