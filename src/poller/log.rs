//! The log lines of the poller about a pool. Each lasting fault has one line when it begins, changes and ends.

use cognito_auth_core::audit::ExportHealth;
use cognito_auth_core::entry::PoolIdentity;
use tokio::time::Instant;
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

/// Logs when throttling begins, and when the budget is whole again. `since` is when the log has it as begun.
pub(super) fn throttling(identity: &PoolIdentity, budget: f64, limit: f64, since: &mut Option<Instant>) {
    let (account, region) = (identity.account_id.as_deref().unwrap_or("unknown"), identity.region.as_str());
    let (budget, limit) = (tenths(budget), tenths(limit));
    match *since {
        None if budget < limit => {
            *since = Some(Instant::now());
            info!(account, region, budget, limit, "Cognito throttles calls; calling less often");
        }
        Some(began) if budget >= limit => {
            *since = None;
            let after_seconds = began.elapsed().as_secs();
            info!(account, region, budget, after_seconds, "throttling has ended; the budget is whole again");
        }
        _ => {}
    }
}

/// Rounds a rate for people.
fn tenths(per_second: f64) -> f64 {
    (per_second * 10.0).round() / 10.0
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::captured_log::CapturedLog;

    #[tokio::test(start_paused = true)]
    async fn throttling_has_a_line_when_it_begins_and_one_when_it_ends() {
        let (log, _guard) = CapturedLog::begin();
        let (id, region) = ("eu-west-1_A".to_owned(), "eu-west-1".to_owned());
        let identity = PoolIdentity { id, name: "a".into(), region, account_id: Some("111122223333".into()) };
        let mut since = None;
        for budget in [5.0, 3.5, 1.75, 4.749, 4.96, 4.999, 5.0, 5.0] {
            throttling(&identity, budget, 5.0, &mut since);
            tokio::time::advance(Duration::from_secs(30)).await;
        }
        let quota = "account=\"111122223333\" region=\"eu-west-1\"";
        let lines = [
            format!(" INFO Cognito throttles calls; calling less often {quota} budget=3.5 limit=5.0"),
            format!(" INFO throttling has ended; the budget is whole again {quota} budget=5.0 after_seconds=90"),
        ];
        assert_eq!(log.text().lines().collect::<Vec<_>>(), lines);
    }
}
