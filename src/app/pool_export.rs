//! The export of one pool: it has the intake take the pool's records, and forgets what was told long ago.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::audit::{DownReason, ExportHealth, ExportStanding, LossEstimate};
use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::shard::Shard;
use cognito_auth_core::users::selection::SelectionRules;
use cognito_auth_core::walk::Rules;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config::ExportConfig;
use crate::export::intake::{ExportIntake, IntakePool, SelectedUsers};
use crate::export::log_group::{LogGroupReader, LogGroupServices, LogGroupSettings, LogGroupStanding, LogGroupState};
use crate::ledger::{Ledger, LedgerError};
use crate::lifecycle::Clock;
use crate::metrics::Metrics;
use crate::poller::export_audit::ExportReading;
use crate::rate_limiter::RateLimiter;
use crate::source::cognito::CloudWatchLogs;
use crate::status::StatusBoard;
use crate::targets::user_change::{FollowedUsers, UserChange};

/// The time after a start before told events are looked through for those in progress.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The pause after told events were forgotten.
const FORGET_EVERY: Duration = Duration::from_mins(5);

/// The export of one pool.
pub(super) struct PoolExportTask<F> {
    pub(super) config: ExportConfig,
    pub(super) identity: Arc<PoolIdentity>,
    pub(super) rules: Rules,
    pub(super) selection: SelectionRules,
    pub(super) shard: Shard,
    /// Since when the pool is followed.
    pub(super) followed_since: UnixMillis,
    /// Hears of users; None where nothing is polled.
    pub(super) followed: Option<F>,
    pub(super) intake: ExportIntake<F>,
    /// Reads the pool's log group, if the export is in one.
    pub(super) reader: Option<LogGroupSource>,
    pub(super) ledger: Ledger,
    pub(super) metrics: Metrics,
    pub(super) status: StatusBoard,
    pub(super) clock: Clock,
}

/// A log group to read, and how.
pub(super) struct LogGroupSource {
    pub(super) source: CloudWatchLogs,
    pub(super) settings: LogGroupSettings,
    pub(super) rate_limiter: RateLimiter,
    pub(super) state: watch::Sender<LogGroupState>,
}

/// Whether a log group can be read, for the audit of its export.
pub(super) fn reading(state: &LogGroupState) -> ExportReading {
    match &state.standing {
        LogGroupStanding::Unknown => ExportReading::Unknown,
        LogGroupStanding::Readable => ExportReading::Readable,
        LogGroupStanding::Unreadable { error, .. } => ExportReading::Unreadable(error.clone()),
    }
}

impl<F: FollowedUsers + Clone> PoolExportTask<F> {
    /// Takes records once `may_begin`, until it is stopped. Whoever follows the pool again waits for the pool's last
    /// call; an event that arrives meanwhile is joined to its history by the ledger, whoever takes it.
    pub(super) async fn run(self, may_begin: impl Future<Output = ()> + Send, stop: CancellationToken) {
        if stop.run_until_cancelled(may_begin).await.is_none() {
            return;
        }
        let Self { config, identity, rules, selection, shard, followed_since, followed, intake, reader, .. } = self;
        let Self { ledger, metrics, status, clock, .. } = self;
        let is_polled = followed.is_some();
        let selected = if selection.all_users {
            let exclude: HashSet<String> = selection.exclude.into_iter().collect();
            SelectedUsers::Everybody { exclude, shard }
        } else {
            SelectedUsers::Enrolled
        };
        let (pool_id, hears) = (identity.id.clone(), followed.clone());
        let pool =
            intake.add_pool(IntakePool { identity: identity.clone(), rules, selected, followed_since, followed });
        let state = reader.as_ref().map(|reader| reader.state.subscribe());
        let read = async {
            let Some(LogGroupSource { source, settings, rate_limiter, state }) = reader else { return };
            let (intake, positions, metrics, clock) =
                (Arc::new(intake.clone()), ledger.clone(), metrics.clone(), clock.clone());
            let services = LogGroupServices { intake, positions, metrics, clock, rate_limiter, state };
            LogGroupReader::new(source, identity, settings, services).run(stop.clone()).await;
        };
        let work = async {
            tokio::join!(
                read,
                show(&pool_id, state, (!is_polled).then_some(&status), &metrics),
                forget_told(&ledger, &pool_id, config.replay, !is_polled, &clock),
                look_again(&ledger, &pool_id, hears),
            )
        };
        stop.run_until_cancelled(work).await;
        // Its records wait until the pool is followed again, or is no longer configured.
        intake.pause_pool(&pool);
    }
}

/// Shows how far a log group was read. Where no poll audits the export, it is up while it can be read, and `status`
/// shows that.
async fn show(
    pool_id: &str,
    mut state: Option<watch::Receiver<LogGroupState>>,
    status: Option<&StatusBoard>,
    metrics: &Metrics,
) {
    loop {
        let present = state.as_mut().map(|state| state.borrow_and_update().clone());
        if let Some(until) = present.as_ref().and_then(|state| state.read_until) {
            metrics.export_read_until(pool_id, until);
        }
        if let Some(status) = status {
            let reading = present.as_ref().map_or(ExportReading::Readable, reading);
            let has_answered = !matches!(reading, ExportReading::Unknown);
            let health = match reading {
                ExportReading::Unreadable(why) => ExportHealth::Down(DownReason::Unreadable { why }),
                ExportReading::Unknown | ExportReading::Readable => ExportHealth::Up,
            };
            metrics.export_up(pool_id, health.is_up());
            if has_answered {
                metrics.pool_up(pool_id, health.is_up());
            }
            let standing =
                ExportStanding { health, loss: LossEstimate::default(), delay_seconds: None, is_sampled: true };
            status.export(pool_id, &standing);
        }
        match &mut state {
            Some(state) => _ = state.changed().await,
            None => std::future::pending().await,
        }
    }
}

/// After a start, has polls look for the outcomes of exported events that no cursor watches yet.
async fn look_again<F: FollowedUsers>(ledger: &Ledger, pool_id: &str, followed: Option<F>) {
    let Some(followed) = followed else { return };
    // The stored users join first.
    tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    let mut after = Some(i64::MIN);
    while let Some(from) = after {
        match ledger.told_waiting(pool_id, from) {
            Ok((waiting, read_to)) => {
                if !waiting.is_empty() {
                    followed.apply(UserChange::Waiting(waiting)).await;
                }
                after = read_to;
                tokio::task::yield_now().await;
            }
            Err(error) => {
                debug!(pool = pool_id, %error, "exported events in progress are looked for later");
                tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            }
        }
    }
}

/// Forgets told events that are older than `replay`, again and again.
async fn forget_told(ledger: &Ledger, pool_id: &str, replay: Duration, unpolled: bool, clock: &Clock) {
    loop {
        if let Err(error) = forget_once(ledger, pool_id, clock.now().minus(replay), unpolled).await {
            debug!(pool = pool_id, %error, "told events are forgotten later");
        }
        tokio::time::sleep(FORGET_EVERY).await;
    }
}

async fn forget_once(ledger: &Ledger, pool_id: &str, until: UnixMillis, unpolled: bool) -> Result<(), LedgerError> {
    while ledger.forget_told(pool_id, until, unpolled).await? {}
    Ok(())
}
