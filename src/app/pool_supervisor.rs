//! The followed pools, and how they change while the process runs.
//!
//! A pool is the unit: pools are unfollowed and added without effect on the others. All pools share some settings:
//! intervals, the timeout of a call, how histories are read. When one of these changes, all pools are unfollowed and
//! followed anew, as at a start, and keep their budgets. The supervisor waits for each pool that it unfollows, so no
//! pool is followed twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::export::log_group::LogGroup;
use cognito_auth_core::schedule::PoolSlot;
use cognito_auth_core::shard::Shares;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::first_scrape::FirstScrape;
use super::poller_users::PollerUsers;
use super::pool_task::{Begin, Leaving, PoolTask, discovery_settings, identity};
use super::quota_groups::{QuotaGroups, RateLimiters};
use super::show_totals;
use crate::config::{Config, PoolConfig, Rate};
use crate::export::intake::ExportIntake;
use crate::failpoint::{self, Failpoint};
use crate::ledger::{Ledger, LedgerError, PoolRecord};
use crate::lifecycle::{Clock, Duty, Lifecycle};
use crate::metrics::Metrics;
use crate::poller::turn::TurnContext;
use crate::source::cognito::{Clients, CloudWatchLogs, Cognito};
use crate::status::StatusBoard;
use crate::targets::discovery::DiscoverySettings;

/// The parts of the program that every pool uses, under every configuration.
pub(super) struct AppServices {
    pub(super) ledger: Ledger,
    pub(super) metrics: Metrics,
    pub(super) status: StatusBoard,
    pub(super) clock: Clock,
    pub(super) lifecycle: Lifecycle,
    pub(super) first_scrape: FirstScrape,
    pub(super) clients: Clients,
    /// Whether there is a sink.
    pub(super) queue: bool,
    /// Takes the records of the pools' exports.
    pub(super) intake: ExportIntake<PollerUsers<Leaving<Cognito>>>,
}

/// The pools that are followed.
pub(super) struct PoolSupervisor {
    services: AppServices,
    config: Arc<Config>,
    rate_limiters: RateLimiters,
    groups: Arc<QuotaGroups<Leaving<Cognito>>>,
    turn_context: Arc<TurnContext>,
    pools: BTreeMap<String, FollowedPool>,
    next_slot: u32,
}

/// A pool that is followed.
struct FollowedPool {
    config: PoolConfig,
    stop: CancellationToken,
    /// Cancelled when no call for the pool can be made any more.
    gone: CancellationToken,
    settings: watch::Sender<DiscoverySettings>,
}

/// The pools that a change of the configuration concerned.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) added: usize,
    pub(super) removed: usize,
    pub(super) changed: usize,
    /// Whether all pools are followed anew.
    pub(super) anew: bool,
}

impl AppServices {
    /// The context of all turns under a configuration.
    fn turn_context(&self, config: &Config) -> Arc<TurnContext> {
        Arc::new(TurnContext {
            ledger: self.ledger.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            calls: Arc::new(Semaphore::new(config.poll.concurrency)),
            page_size: config.poll.page_size,
            queue: self.queue,
            outbox_limit_bytes: config.state.outbox_limit_bytes,
            stop: self.lifecycle.stops(Duty::Gather).soft.child_token(),
        })
    }
}

impl PoolSupervisor {
    /// Follows every pool of a configuration. `records` has the pools' records in the same order.
    pub(super) fn begin(services: AppServices, config: &Arc<Config>, records: Vec<PoolRecord>) -> Self {
        let rate_limiters = RateLimiters::new(config);
        let (groups, turn_context) = (QuotaGroups::new(rate_limiters.clone()), services.turn_context(config));
        let mut supervisor = Self {
            services,
            config: config.clone(),
            rate_limiters,
            groups,
            turn_context,
            pools: BTreeMap::new(),
            next_slot: 0,
        };
        for (pool, record) in config.pools.iter().zip(records) {
            supervisor.follow(pool, record, Begin::WithThePoller);
        }
        supervisor
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Applies another configuration. The future may be dropped before its end only when the process stops.
    ///
    /// # Errors
    /// The ledger cannot store since when a new pool is followed; then nothing has changed.
    pub(super) async fn change(&mut self, config: Config) -> Result<Changed, LedgerError> {
        let records = pool_records(&self.services.ledger, &config, self.services.clock.now()).await?;
        let config = Arc::new(config);
        let before = std::mem::replace(&mut self.config, config.clone());
        self.rate_limiters.change(&before, &config);
        self.services.first_scrape.set_wait_max(config.http.first_scrape_wait);
        if before.poll.requests_per_second != config.poll.requests_per_second {
            self.services.metrics.forget_limits();
        }
        let (leaving, anew) = self.stop_pools(&before, &config);
        let mut changed = Changed { anew, ..Changed::default() };
        changed.removed = self.wait_for_stopped(&leaving, &config).await;
        if anew {
            self.groups = QuotaGroups::new(self.rate_limiters.clone());
            self.turn_context = self.services.turn_context(&config);
        }
        for (pool, record) in config.pools.iter().zip(records) {
            self.apply_pool(pool, record, leaving.get(&pool.id), &mut changed).await;
        }
        Ok(changed)
    }

    /// Stops the pools that the configuration has no longer or calls in another way, or all pools if their shared
    /// settings differ. Returns the stopped pools, and whether these are all.
    fn stop_pools(&mut self, before: &Config, after: &Config) -> (BTreeMap<String, FollowedPool>, bool) {
        let wanted: BTreeMap<&String, &PoolConfig> = after.pools.iter().map(|pool| (&pool.id, pool)).collect();
        let must_stop = |id: &String, followed: &FollowedPool| {
            wanted.get(id).is_none_or(|pool| !is_followed_alike(&followed.config, pool))
        };
        // Where the budget is a share of the account's limit, one pool asks for the limit on behalf of all.
        let asks = matches!(before.poll.requests_per_second, Rate::ShareOfLimit(_));
        let any_must_stop = self.pools.iter().any(|(id, followed)| must_stop(id, followed));
        let anew = must_begin_anew(before, after) || asks && any_must_stop;
        let leaving: BTreeMap<_, _> =
            self.pools.extract_if(.., |id, followed| anew || must_stop(id, followed)).collect();
        leaving.values().for_each(|followed| followed.stop.cancel());
        if anew {
            self.turn_context.stop.cancel();
        }
        (leaving, anew)
    }

    /// Waits for stopped pools, and removes the series of those that the configuration has no longer. Returns how many
    /// these are.
    async fn wait_for_stopped(&self, leaving: &BTreeMap<String, FollowedPool>, after: &Config) -> usize {
        let mut removed = 0;
        for (id, followed) in leaving {
            followed.gone.cancelled().await;
            if after.pools.iter().all(|pool| pool.id != *id || pool.export.is_none()) {
                self.services.intake.remove_pool(id);
                self.services.metrics.remove_export(id);
            }
            if after.pools.iter().all(|pool| pool.id != *id) {
                self.services.metrics.remove_pool(id);
                self.services.status.remove_pool(id);
                removed += 1;
            }
        }
        removed
    }

    /// Applies the configuration of one pool: sends new settings to its discovery, or follows it. `stopped` is the pool
    /// as it was followed until now, if it was stopped for this configuration.
    async fn apply_pool(
        &mut self,
        pool: &PoolConfig,
        record: PoolRecord,
        stopped: Option<&FollowedPool>,
        changed: &mut Changed,
    ) {
        if let Some(followed) = self.pools.get_mut(&pool.id) {
            changed.changed += usize::from(followed.config != *pool);
            followed.config = pool.clone();
            let settings = discovery_settings(&self.config, pool);
            followed.settings.send_if_modified(|present| {
                let is_another = *present != settings;
                *present = settings;
                is_another
            });
        } else if let Some(before) = stopped {
            changed.changed += usize::from(before.config != *pool);
            // Its discovery may have written the record meanwhile. A ledger that cannot be read pauses everything
            // anyway.
            let record = self.services.ledger.pool(&pool.id).ok().flatten().unwrap_or(record);
            // Without a scrape so far, the process has only just begun.
            let was_scraped = self.services.first_scrape.was_scraped();
            self.follow(pool, record, if was_scraped { Begin::AtOnce } else { Begin::AfterItsScrape });
        } else {
            changed.added += 1;
            self.services.metrics.add_pool(&identity(pool, None));
            // A pool that was followed before goes on with its totals.
            let _closed = show_totals(&self.services.ledger, &self.services.metrics).await;
            self.follow(pool, record, Begin::AfterItsScrape);
        }
    }

    /// The reader of a pool's log group, if its export is in one.
    fn log_group(&self, pool: &PoolConfig) -> Option<CloudWatchLogs> {
        let log_group = LogGroup::new(pool.export.as_ref()?.log_group.as_ref()?);
        let (timeout, clock) = (self.config.poll.timeout, self.services.clock.clone());
        Some(self.services.clients.log_group(log_group, pool.into(), timeout, clock))
    }

    fn follow(&mut self, pool: &PoolConfig, record: PoolRecord, begin: Begin) {
        let stop = self.turn_context.stop.child_token();
        let (calls, gone) = (CancellationToken::new(), CancellationToken::new());
        let (settings, new_settings) = watch::channel(discovery_settings(&self.config, pool));
        if pool.export.is_some() {
            self.services.intake.expect_pool(&pool.id);
            self.services.metrics.add_export(&pool.id);
        }
        let slot = PoolSlot(self.next_slot);
        self.next_slot += 1;
        let pool_task = PoolTask {
            slot,
            config: pool.clone(),
            record,
            begin,
            calls: calls.clone(),
            new_settings,
            groups: self.groups.clone(),
            turn_context: self.turn_context.clone(),
            app: self.config.clone(),
            status: self.services.status.clone(),
            lifecycle: self.services.lifecycle.clone(),
            first_scrape: self.services.first_scrape.clone(),
            intake: self.services.intake.clone(),
            log_group: self.log_group(pool),
        };
        let source = self.services.clients.pool(pool, self.config.poll.timeout, self.services.clock.clone());
        let source = Leaving::new(source, calls, gone.clone());
        let task = pool_task.run(source, stop.clone());
        self.services.lifecycle.spawn_part(Duty::Gather, format!("pool {}", pool.id), stop.clone(), task);
        self.pools.insert(pool.id.clone(), FollowedPool { config: pool.clone(), stop, gone, settings });
    }
}

/// Whether only the selection of a pool's users differs, which its discovery can apply while it runs.
fn is_followed_alike(before: &PoolConfig, after: &PoolConfig) -> bool {
    // The intake of an export knows the selection, too.
    let selects_alike = before.export.is_none() || before.selection == after.selection;
    selects_alike && PoolConfig { selection: after.selection.clone(), ..before.clone() } == *after
}

/// Whether what was changed concerns the pollers themselves.
fn must_begin_anew(before: &Config, after: &Config) -> bool {
    let mut poll = before.poll.clone();
    if let (Rate::PerSecond(_), Rate::PerSecond(_)) = (poll.requests_per_second, after.poll.requests_per_second) {
        poll.requests_per_second = after.poll.requests_per_second;
    }
    poll.first_run = after.poll.first_run;
    poll != after.poll
}

/// Reads the record of each pool, in the configuration's order. A new pool is followed from now on; in a rebuilt
/// ledger, from the last write of the lost one on.
pub(super) async fn pool_records(
    ledger: &Ledger,
    config: &Config,
    now: UnixMillis,
) -> Result<Vec<PoolRecord>, LedgerError> {
    let lost_since = ledger.lost_since()?.map(|time| time.min(now));
    let mut records = Vec::new();
    for pool in &config.pools {
        let record = match ledger.pool(&pool.id)? {
            Some(mut record) => {
                if record.shares.go_on_with(config.shard, now) {
                    // In one write: from now on users that come over can be distinguished from users that were here,
                    // and the stored users are not trusted.
                    record.lost_since = Some(record.lost_since.map_or(now, |lost| lost.min(now)));
                    record.selection = None;
                    ledger.follow_pool(&pool.id, record.clone()).await?;
                    info!(pool = pool.id, shard = %config.shard, "shard assignment changed");
                }
                record
            }
            None => {
                let followed_since = lost_since.unwrap_or(now);
                let record = PoolRecord {
                    followed_since,
                    // Until now, other shards may have had the users of this one.
                    lost_since: lost_since.or((!config.shard.is_whole()).then_some(now)),
                    selection: None,
                    shares: Shares::begun(config.shard, followed_since),
                };
                ledger.follow_pool(&pool.id, record.clone()).await?;
                failpoint::reached(Failpoint::PoolRecorded);
                record
            }
        };
        records.push(record);
    }
    // Only when each pool has the loss in its own record: a pool that is added later is simply new.
    if lost_since.is_some() {
        ledger.forget_loss().await?;
    }
    Ok(records)
}
