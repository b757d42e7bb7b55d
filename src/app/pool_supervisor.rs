//! Who is followed at present, and how that changes while the process runs.
//!
//! A pool is the unit: one is let go, one is added, and the others notice nothing. What all pools share (intervals, what a
//! call may take, how histories are read) is changed for all of them at once, by letting all of them go and following them
//! anew, as a start does, with the budgets as they were. Whoever is let go is waited for: a pool is never followed twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::schedule::PoolSlot;
use cognito_auth_core::shard::Shares;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::pool_task::{Begin, Leaving, PoolTask, identity};
use super::quota_groups::{QuotaGroups, RateLimiters};
use super::show_totals;
use crate::config::{Config, PoolConfig, Rate};
use crate::failpoint::{self, Failpoint};
use crate::http::Scrapes;
use crate::ledger::{Ledger, LedgerError, PoolRecord};
use crate::lifecycle::{Clock, Duty, Lifecycle};
use crate::metrics::Metrics;
use crate::poller::turn::Means;
use crate::source::cognito::{Clients, Cognito};
use crate::status::StatusBoard;
use crate::targets::discovery::Wishes;

/// What every pool is followed with, whatever the configuration says.
pub(super) struct Shared {
    pub(super) ledger: Ledger,
    pub(super) metrics: Metrics,
    pub(super) status: StatusBoard,
    pub(super) clock: Clock,
    pub(super) lifecycle: Lifecycle,
    pub(super) scrapes: Scrapes,
    pub(super) clients: Clients,
    /// Whether there is a sink.
    pub(super) queue: bool,
}

/// The pools that are followed.
pub(super) struct PoolSupervisor {
    shared: Shared,
    config: Arc<Config>,
    rate_limiters: RateLimiters,
    groups: Arc<QuotaGroups<Leaving<Cognito>>>,
    means: Arc<Means>,
    pools: BTreeMap<String, Followed>,
    next_slot: u32,
}

struct Followed {
    config: PoolConfig,
    stop: CancellationToken,
    /// Nobody calls for it any more.
    gone: CancellationToken,
    wishes: watch::Sender<Wishes>,
}

/// What a change came to, for people.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) added: usize,
    pub(super) removed: usize,
    pub(super) changed: usize,
    /// All pools are followed anew.
    pub(super) anew: bool,
}

impl Shared {
    /// Nobody is followed yet.
    fn means(&self, config: &Config) -> Arc<Means> {
        Arc::new(Means {
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
    /// Follows every pool of a configuration. `records` are theirs, in its order.
    pub(super) fn begin(shared: Shared, config: &Arc<Config>, records: Vec<PoolRecord>) -> Self {
        let rate_limiters = RateLimiters::new(config);
        let (groups, means) = (QuotaGroups::new(rate_limiters.clone()), shared.means(config));
        let mut supervisor =
            Self { shared, config: config.clone(), rate_limiters, groups, means, pools: BTreeMap::new(), next_slot: 0 };
        for (pool, record) in config.pools.iter().zip(records) {
            supervisor.follow(pool, record, Begin::WithThePoller);
        }
        supervisor
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Follows what another configuration asks for; to be dropped half way only when everything stops.
    ///
    /// # Errors
    /// The ledger cannot note since when a new pool is followed: then nothing has changed.
    pub(super) async fn change(&mut self, config: Config) -> Result<Changed, LedgerError> {
        let records = pool_records(&self.shared.ledger, &config, self.shared.clock.now()).await?;
        let config = Arc::new(config);
        let before = std::mem::replace(&mut self.config, config.clone());
        self.rate_limiters.change(&before, &config);
        if before.poll.requests_per_second != config.poll.requests_per_second {
            self.shared.metrics.forget_limits();
        }
        let wanted: BTreeMap<&String, &PoolConfig> = config.pools.iter().map(|pool| (&pool.id, pool)).collect();
        let is_left = |id: &String, followed: &Followed| {
            wanted.get(id).is_none_or(|pool| !is_followed_alike(&followed.config, pool))
        };
        // Where the budget is a share of the account's limit, one pool asks for it on behalf of all.
        let asks = matches!(before.poll.requests_per_second, Rate::ShareOfLimit(_));
        let anew =
            must_begin_anew(&before, &config) || asks && self.pools.iter().any(|(id, followed)| is_left(id, followed));
        let must_leave = |id: &String, followed: &Followed| anew || is_left(id, followed);
        let mut changed = Changed { anew, ..Changed::default() };
        let leaving: BTreeMap<_, _> = self.pools.extract_if(.., |id, followed| must_leave(id, followed)).collect();
        leaving.values().for_each(|followed| followed.stop.cancel());
        if changed.anew {
            self.means.stop.cancel();
        }
        for (id, followed) in &leaving {
            followed.gone.cancelled().await;
            if !wanted.contains_key(id) {
                self.shared.metrics.remove_pool(id);
                self.shared.status.remove_pool(id);
                changed.removed += 1;
            }
        }
        if changed.anew {
            (self.groups, self.means) = (QuotaGroups::new(self.rate_limiters.clone()), self.shared.means(&config));
        }

        for (pool, record) in config.pools.iter().zip(records) {
            match (self.pools.get_mut(&pool.id), leaving.get(&pool.id)) {
                (Some(followed), _) => {
                    changed.changed += usize::from(followed.config != *pool);
                    followed.config = pool.clone();
                    let wishes = wishes(&config, pool);
                    followed.wishes.send_if_modified(|present| {
                        let is_another = *present != wishes;
                        *present = wishes;
                        is_another
                    });
                }
                (None, Some(before)) => {
                    changed.changed += usize::from(before.config != *pool);
                    // Its discovery may have written meanwhile; a ledger that cannot be read pauses everything anyway.
                    let record = self.shared.ledger.pool(&pool.id).ok().flatten().unwrap_or(record);
                    // Where none was shown yet, the process has only just begun.
                    let was_shown = self.shared.scrapes.any();
                    self.follow(pool, record, if was_shown { Begin::AtOnce } else { Begin::AfterItsScrape });
                }
                (None, None) => {
                    changed.added += 1;
                    self.shared.metrics.add_pool(&identity(pool, None));
                    // If it was followed before, its totals go on.
                    let _closed = show_totals(&self.shared.ledger, &self.shared.metrics).await;
                    self.follow(pool, record, Begin::AfterItsScrape);
                }
            }
        }
        Ok(changed)
    }

    fn follow(&mut self, pool: &PoolConfig, record: PoolRecord, begin: Begin) {
        let stop = self.means.stop.child_token();
        let (calls, gone) = (CancellationToken::new(), CancellationToken::new());
        let (wishes, wished) = watch::channel(wishes(&self.config, pool));
        let slot = PoolSlot(self.next_slot);
        self.next_slot += 1;
        let pool_task = PoolTask {
            slot,
            config: pool.clone(),
            record,
            begin,
            calls: calls.clone(),
            wishes: wished,
            groups: self.groups.clone(),
            means: self.means.clone(),
            app: self.config.clone(),
            status: self.shared.status.clone(),
            lifecycle: self.shared.lifecycle.clone(),
            scrapes: self.shared.scrapes.clone(),
        };
        let source = self.shared.clients.pool(pool, self.config.poll.timeout, self.shared.clock.clone());
        let source = Leaving::new(source, calls, gone.clone());
        let task = pool_task.run(source, stop.clone());
        self.shared.lifecycle.spawn_part(Duty::Gather, format!("pool {}", pool.id), stop.clone(), task);
        self.pools.insert(pool.id.clone(), Followed { config: pool.clone(), stop, gone, wishes });
    }
}

fn wishes(config: &Config, pool: &PoolConfig) -> Wishes {
    Wishes {
        config: pool.clone(),
        interval: config.discovery.interval,
        forget_after: config.discovery.forget_after,
        first_run: config.poll.first_run,
    }
}

/// Whether what was changed of a pool is only whom to follow, which its discovery can take up.
fn is_followed_alike(before: &PoolConfig, after: &PoolConfig) -> bool {
    let PoolConfig {
        usernames,
        usernames_file,
        groups,
        all_users,
        filter,
        exclude,
        include_disabled,
        include_federated,
        id: _,
        name: _,
        region: _,
        profile: _,
        role_arn: _,
        external_id: _,
        followed_since: _,
    } = after.clone();
    let selected = PoolConfig {
        usernames,
        usernames_file,
        groups,
        all_users,
        filter,
        exclude,
        include_disabled,
        include_federated,
        ..before.clone()
    };
    selected == *after
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

/// Since when each pool is followed, in the configuration's order. A pool that is new begins now; in a rebuilt ledger, when
/// the lost one ended.
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
                    // In one write: whoever comes over is told from whoever was here, and the followed users is no more than a memory.
                    record.lost_since = Some(record.lost_since.map_or(now, |lost| lost.min(now)));
                    record.selection = None;
                    ledger.follow_pool(&pool.id, record.clone()).await?;
                    info!(pool = pool.id, shard = %config.shard, "another share of the users than before");
                }
                record
            }
            None => {
                let followed_since = lost_since.unwrap_or(now);
                let record = PoolRecord {
                    followed_since,
                    // Of several shards, each may have been added to others that had its users until now.
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
    // Not before each pool has it in its own record: one that is added later is simply new.
    if lost_since.is_some() {
        ledger.forget_loss().await?;
    }
    Ok(records)
}
