//! Brings a pool from its configuration to its poller, and keeps its followed users, until it is asked to let go.

use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::backoff::Backoff;
use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::schedule::PoolSlot;
use cognito_auth_core::walk::Rules;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::limit::LimitWatch;
use super::quota_groups::{QuotaGroupKey, QuotaGroups};
use crate::config::{Config, PoolConfig, Rate};
use crate::http::Scrapes;
use crate::ledger::PoolRecord;
use crate::lifecycle::{Duty, Lifecycle};
use crate::poller::health::{Health, Trouble};
use crate::poller::turn::Means;
use crate::poller::{Message, Pace, Poller};
use crate::pool::Pool;
use crate::rate_limiter::RateLimiter;
use crate::source::metered::Metered;
use crate::source::{CallOutcome, Listing, Operation, Page, PageToken, PoolDescription, Source, SourceError, UserPage};
use crate::status::StatusBoard;
use crate::targets::discovery::{Discovery, Wishes};
use crate::targets::names::NamingRules;
use crate::targets::selection::Joining;

/// Waits between attempts to describe a pool whose endpoint cannot be reached.
const DESCRIBE_AGAIN: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(15));

/// Whether polling waits for a scrape, so that the first increase can be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begin {
    /// The pollers do, each once: the process has just started, and every pool is shown already.
    WithThePoller,
    /// The pool does: it was added to a process that runs, or begins anew before anybody has looked.
    AfterItsScrape,
    /// Nobody does: it has been shown all along.
    AtOnce,
}

/// Brings a pool from its configuration to its poller, and keeps its followed users.
pub(super) struct PoolTask<S> {
    pub(super) slot: PoolSlot,
    pub(super) config: PoolConfig,
    pub(super) record: PoolRecord,
    pub(super) begin: Begin,
    /// Cuts the calls of its turns.
    pub(super) calls: CancellationToken,
    pub(super) wishes: watch::Receiver<Wishes>,
    pub(super) groups: Arc<QuotaGroups<S>>,
    pub(super) means: Arc<Means>,
    pub(super) app: Arc<Config>,
    pub(super) status: StatusBoard,
    pub(super) lifecycle: Lifecycle,
    pub(super) scrapes: Scrapes,
}

impl<S: Source> PoolTask<S> {
    pub(super) async fn run(self, source: S, stop: CancellationToken) {
        let Some((identity, rules)) = stop.run_until_cancelled(self.identify(&source)).await else { return };
        let identity = Arc::new(identity);
        self.means.metrics.add_pool(&identity);
        if self.begin == Begin::AfterItsScrape && stop.run_until_cancelled(self.scraped()).await.is_none() {
            return;
        }
        let group = self.groups.group(QuotaGroupKey::of(&identity, &self.config), |rate_limiter, messages| {
            self.begin_poller(&identity, rate_limiter, messages);
        });
        let rate_limiters = (group.reads.clone(), group.lists.clone());
        let pool = Arc::new(Pool {
            slot: self.slot,
            source: Metered::new(
                source,
                identity.clone(),
                self.means.metrics.clone(),
                rate_limiters.0,
                rate_limiters.1,
            ),
            identity,
            rules: Rules {
                overlap: self.app.poll.overlap,
                settle: self.app.poll.settle,
                followed_since: self.config.followed_since,
            },
        });
        if group.poller.send(Message::Follow(pool.clone())).await.is_err() {
            return; // the poller has stopped, and so will everything
        }
        if let Rate::ShareOfLimit(share) = self.app.poll.requests_per_second
            && group.begin_watch()
        {
            self.begin_limit_watch(pool.clone(), share);
        }
        let discovery = Discovery {
            joining: Joining {
                pool_followed_since: self.record.followed_since,
                lost_since: self.record.lost_since,
                configured_since: self.config.followed_since,
                first_run: self.app.poll.first_run,
            },
            config: self.config,
            shard: self.app.shard,
            pool,
            record: self.record,
            rules,
            forget_after: self.app.discovery.forget_after,
            interval: self.app.discovery.interval,
            ledger: self.means.ledger.clone(),
            metrics: self.means.metrics.clone(),
            status: self.status,
            clock: self.means.clock.clone(),
            poller: group.poller,
            wishes: self.wishes,
        };
        let poller = discovery.poller.clone();
        let (slot, calls) = (self.slot, self.calls);
        discovery.run(stop).await;
        // Where everything stops the poller does, too, and needs not be told.
        let _ = poller.send(Message::Unfollow(slot, calls.drop_guard())).await;
    }

    /// Waits until the pool's series were scraped as they are now, but not for ever.
    fn scraped(&self) -> impl Future<Output = ()> + Send + use<S> {
        let (scraped, wait_max) = (self.scrapes.next(), self.app.http.first_scrape_wait);
        async move {
            let _scraped_or_waited = tokio::time::timeout(wait_max, scraped).await;
        }
    }

    /// Learns the pool's account, whose quota its calls count in, and what names its users. A caller who may not ask goes
    /// without.
    async fn identify(&self, source: &S) -> (PoolIdentity, NamingRules) {
        let mut again = DESCRIBE_AGAIN;
        let mut told = false;
        let began = Instant::now();
        loop {
            let asked = Instant::now();
            let described = source.describe().await;
            let account = described.as_ref().ok().and_then(|pool| pool.account_id.clone());
            let known = identity(&self.config, account);
            let outcome = described.as_ref().err().map_or(CallOutcome::Ok, SourceError::outcome);
            self.means.metrics.api_request(
                known.account_id.as_deref(),
                &known.region,
                Operation::DescribeUserPool,
                outcome,
                asked.elapsed(),
            );
            match described {
                Ok(description) => {
                    if told {
                        info!(
                            pool = self.config.id,
                            after_seconds = began.elapsed().as_secs(),
                            "the pool can be reached"
                        );
                    }
                    warn_of_plan(&self.config.id, &description);
                    return (known, NamingRules::new(description.sign_in_names));
                }
                // Others have used the quota up for a moment; more than that is news.
                Err(SourceError::Throttled(_)) if again.failures() == 0 => {}
                Err(error @ (SourceError::Throttled(_) | SourceError::Timeout(_) | SourceError::Passing(_))) => {
                    self.status.pool_error(&self.config.id, &error.to_string(), self.means.clock.now());
                    if !std::mem::replace(&mut told, true) {
                        let remedy = error.remedy(Operation::DescribeUserPool, &self.config.id);
                        warn!(pool = self.config.id, %error, remedy, "the pool cannot be reached yet; trying on");
                    }
                    let is_throttled = matches!(error, SourceError::Throttled(_));
                    if !is_throttled && began.elapsed() >= Health::UNREACHABLE_AFTER {
                        self.means.metrics.pool_up(&self.config.id, false);
                    }
                }
                Err(error) => {
                    // What every call meets is told by those that matter.
                    if !Trouble::of(&error).is_some_and(Trouble::meets_every_call) {
                        warn!(
                            pool = self.config.id,
                            %error,
                            remedy = error.remedy(Operation::DescribeUserPool, &self.config.id),
                            "the pool cannot be described; its budget is shared with the pools of the same credentials, \
                             and only usernames and subs name its users, as written"
                        );
                    }
                    return (known, NamingRules::default());
                }
            }
            tokio::time::sleep(again.failed()).await;
        }
    }

    /// The first pool of an account and region asks for its limit, until all pools are let go.
    fn begin_limit_watch(&self, pool: Arc<Pool<S>>, share: f64) {
        let account = pool.identity.account_id.as_deref().unwrap_or("unknown");
        let name = format!("limit of {account} {}", pool.identity.region);
        let (metrics, status, clock) = (self.means.metrics.clone(), self.status.clone(), self.means.clock.clone());
        let watch = LimitWatch { pool, share, shard: self.app.shard, metrics, status, clock };
        let stop = self.means.stop.clone();
        self.lifecycle.spawn_part(Duty::Gather, name, stop.clone(), watch.run(stop));
    }

    fn begin_poller(&self, identity: &PoolIdentity, rate_limiter: RateLimiter, messages: mpsc::Receiver<Message<S>>) {
        let pace = Pace {
            turns_max: self.app.poll.concurrency,
            min_interval: self.app.poll.min_interval,
            max_interval: self.app.poll.max_interval,
        };
        let poller = Poller::new(self.means.clone(), pace, rate_limiter, self.status.clone());
        let begin = self.begin;
        // A series first scraped at 1 is invisible to increase(): Prometheus has to see the zeros first.
        let scraped = self.scraped();
        let may_begin = async move {
            if begin == Begin::WithThePoller {
                scraped.await;
            }
        };
        let account = identity.account_id.as_deref().unwrap_or("unknown");
        let hard = self.lifecycle.stops(Duty::Gather).hard.clone();
        let stop = self.means.stop.clone();
        let name = format!("poller {account} {}", identity.region);
        self.lifecycle.spawn_part(Duty::Gather, name, stop, async move {
            // Cut, it drops the turns that still wait for their commits: written or not, these are whole.
            hard.run_until_cancelled(poller.run(messages, may_begin)).await;
        });
    }
}

/// What a pool is called before its account is known: a role names its account, everything else does not.
pub(super) fn identity(pool: &PoolConfig, account_id: Option<String>) -> PoolIdentity {
    let of_role = || pool.role_arn.as_ref().and_then(|arn| arn.split(':').nth(4)).map(str::to_owned);
    PoolIdentity {
        id: pool.id.clone(),
        name: pool.name.clone(),
        region: pool.region.clone(),
        account_id: account_id.or_else(of_role),
    }
}

fn warn_of_plan(pool: &str, description: &PoolDescription) {
    if let Some(mode) = description.threat_protection.as_deref().filter(|mode| *mode == "OFF") {
        warn!(
            pool,
            mode,
            "threat protection is off: Cognito keeps no auth events; set it to audit-only or full-function (Plus plan)"
        );
    }
}

/// The source of a pool that may be let go. The calls of turns are cut then, and when the last who could make one has gone,
/// that is known: before, nobody else may follow the pool, for two turns of a user at once would take an event twice.
pub(super) struct Leaving<S> {
    source: S,
    calls: CancellationToken,
    _gone: DropGuard,
}

impl<S: Source> Leaving<S> {
    /// Calls until `calls` is cancelled; `gone` is cancelled when nobody is left to call.
    pub(super) fn new(source: S, calls: CancellationToken, gone: CancellationToken) -> Self {
        Self { source, calls, _gone: gone.drop_guard() }
    }
}

impl<S: Source> Source for Leaving<S> {
    async fn page(&self, username: &str, token: Option<&PageToken>, max_results: u8) -> Result<Page, SourceError> {
        let page = self.calls.run_until_cancelled(self.source.page(username, token, max_results)).await;
        page.unwrap_or_else(|| Err(SourceError::Passing("the pool is followed no longer".into())))
    }

    // Who lists and describes is dropped as a whole.
    async fn users(&self, listing: &Listing, token: Option<&PageToken>) -> Result<UserPage, SourceError> {
        self.source.users(listing, token).await
    }

    async fn describe(&self) -> Result<PoolDescription, SourceError> {
        self.source.describe().await
    }

    fn events_cut(&self) -> u64 {
        self.source.events_cut()
    }

    async fn read_limit(&self) -> Result<f64, SourceError> {
        self.source.read_limit().await
    }
}
