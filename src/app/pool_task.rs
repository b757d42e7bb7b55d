//! The task of one pool: it learns the pool's account, adds the pool to a poller, and runs its discovery until it is
//! stopped.

use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::backoff::Backoff;
use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::export::log_group::LogGroup;
use cognito_auth_core::lasting_fault::LastingFault;
use cognito_auth_core::schedule::PoolSlot;
use cognito_auth_core::walk::Rules;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::first_scrape::FirstScrape;
use super::limit::LimitWatch;
use super::poller_users::PollerUsers;
use super::pool_export::{LogGroupSource, PoolExportTask, reading};
use super::quota_groups::{QuotaGroup, QuotaGroupKey, QuotaGroups};
use crate::config::{Audit, Config, PoolConfig, Rate};
use crate::export::intake::ExportIntake;
use crate::export::log_group::LogGroupSettings;
use crate::ledger::{Ledger, LedgerError, PoolRecord};
use crate::lifecycle::{Duty, Lifecycle};
use crate::poller::export_audit::{ExportAudit, ExportReading};
use crate::poller::health::PoolHealth;
use crate::poller::turn::TurnContext;
use crate::poller::{PollPace, Poller, PollerMessage};
use crate::pool::Pool;
use crate::rate_limiter::RateLimiter;
use crate::source::cognito::CloudWatchLogs;
use crate::source::metered::Metered;
use crate::source::{CallOutcome, Listing, Operation, Page, PageToken, PoolDescription, Source, SourceError, UserPage};
use crate::status::StatusBoard;
use crate::targets::discovery::{DiscoveredPool, Discovery, DiscoveryServices, DiscoverySettings};
use crate::trouble::Trouble;
use cognito_auth_core::users::names::NamingRules;

/// Pause between attempts to read the ledger.
const LEDGER_AGAIN: Duration = Duration::from_secs(1);

/// Pause between attempts to describe a pool whose endpoint cannot be reached: first and longest.
const DESCRIBE_AGAIN: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(15));

/// Whether polling waits for a scrape, so that Prometheus sees the first increase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begin {
    /// Each poller waits once: the process has just started, and the series of every pool exist.
    WithThePoller,
    /// The pool waits: it was added to a running process, or begins anew before the first scrape.
    AfterItsScrape,
    /// Polling begins at once: the pool's series were scraped before.
    AtOnce,
}

/// The task of one pool.
pub(super) struct PoolTask<S> {
    pub(super) slot: PoolSlot,
    pub(super) config: PoolConfig,
    pub(super) record: PoolRecord,
    pub(super) begin: Begin,
    /// Ends the calls of its turns.
    pub(super) calls: CancellationToken,
    pub(super) new_settings: watch::Receiver<DiscoverySettings>,
    pub(super) groups: Arc<QuotaGroups<S>>,
    pub(super) turn_context: Arc<TurnContext>,
    pub(super) app: Arc<Config>,
    pub(super) status: StatusBoard,
    pub(super) lifecycle: Lifecycle,
    pub(super) first_scrape: FirstScrape,
    pub(super) intake: ExportIntake<PollerUsers<S>>,
    /// Reads the log group of its export, if there is one.
    pub(super) log_group: Option<CloudWatchLogs>,
}

impl<S: Source> PoolTask<S> {
    pub(super) async fn run(mut self, source: S, stop: CancellationToken) {
        let Some((identity, rules)) = stop.run_until_cancelled(self.identify(&source)).await else { return };
        let identity = Arc::new(identity);
        self.turn_context.metrics.add_pool(&identity);
        if self.begin == Begin::AfterItsScrape && stop.run_until_cancelled(self.scraped()).await.is_none() {
            return;
        }
        let Some(has_told) = stop.run_until_cancelled(self.begin_told()).await else { return };
        if self.is_export_alone() {
            let may_begin = self.may_take();
            let log_group = self.log_group_source(&identity);
            if let Some(export) = self.export(&identity, None, log_group) {
                export.run(may_begin, stop).await;
            }
            return;
        }
        let group = self.groups.group(QuotaGroupKey::of(&identity, &self.config), |rate_limiter, messages| {
            self.begin_poller(&identity, rate_limiter, messages);
        });
        let pool = self.pool(identity, source, &group, has_told);
        let log_group = self.log_group_source(&pool.identity);
        let audit = self.export_audit(log_group.as_ref()).map(Box::new);
        if group.poller.send(PollerMessage::Follow(pool.clone(), audit)).await.is_err() {
            return; // the poller has stopped, and so will everything
        }
        if let Rate::ShareOfLimit(share) = self.app.poll.requests_per_second
            && group.begin_watch()
        {
            self.begin_limit_watch(pool.clone(), share);
        }
        let (slot, calls) = (self.slot, self.calls.clone());
        let followed = PollerUsers { slot, poller: group.poller.clone() };
        if let Some(export) = self.export(&pool.identity, Some(followed), log_group) {
            let name = format!("export of pool {}", pool.identity.id);
            let task = export.run(self.may_take(), stop.clone());
            self.lifecycle.spawn_part(Duty::Gather, name, stop.clone(), task);
        }
        self.discovery(pool, rules, group.poller.clone()).run(stop).await;
        // At a stop of the whole process the poller stops, too, and needs no message.
        let _ = group.poller.send(PollerMessage::Unfollow(slot, calls.drop_guard())).await;
    }

    /// The pool as every stage sees it.
    fn pool(&self, identity: Arc<PoolIdentity>, source: S, group: &QuotaGroup<S>, has_told: bool) -> Arc<Pool<S>> {
        let metrics = self.turn_context.metrics.clone();
        Arc::new(Pool {
            slot: self.slot,
            source: Metered::new(source, identity.clone(), metrics, group.reads.clone(), group.lists.clone()),
            identity,
            rules: self.rules(),
            has_told,
        })
    }

    fn rules(&self) -> Rules {
        Rules {
            overlap: self.app.poll.overlap,
            settle: self.app.poll.settle,
            followed_since: self.config.followed_since,
        }
    }

    /// The audit of the pool's export by its polls, if it has one.
    fn export_audit(&self, log_group: Option<&LogGroupSource>) -> Option<ExportAudit> {
        let export = self.config.export.as_ref()?;
        let sample = (export.audit == Audit::Sample)
            .then(|| (self.app.shard.part_of(export.audit_requests_per_second), fastrand::u64(..)));
        let state = log_group.map(|log_group| log_group.state.subscribe());
        // An endpoint for Data Firehose is open while the process runs.
        let read = move || state.as_ref().map_or(ExportReading::Readable, |state| reading(&state.borrow()));
        Some(ExportAudit::new(export.grace, sample, read))
    }

    /// The log group of the pool's export, and how it is read.
    fn log_group_source(&mut self, identity: &PoolIdentity) -> Option<LogGroupSource> {
        let (source, export) = (self.log_group.take()?, self.config.export.as_ref()?);
        let settings = LogGroupSettings {
            log_group: LogGroup::new(export.log_group.as_ref()?),
            read_interval: export.read_interval,
            overlap: export.overlap,
            first_position: self.record.lost_since.unwrap_or_else(|| self.turn_context.clock.now()),
            replay: export.replay,
        };
        let rate_limiter = self.groups.log_reads(&QuotaGroupKey::of(identity, &self.config));
        Some(LogGroupSource { source, settings, rate_limiter, state: watch::Sender::default() })
    }

    /// The pool's export, if it has one.
    fn export(
        &self,
        identity: &Arc<PoolIdentity>,
        followed: Option<PollerUsers<S>>,
        reader: Option<LogGroupSource>,
    ) -> Option<PoolExportTask<PollerUsers<S>>> {
        Some(PoolExportTask {
            config: self.config.export.clone()?,
            identity: identity.clone(),
            rules: self.rules(),
            selection: self.config.selection.clone(),
            shard: self.app.shard,
            followed_since: self.record.followed_since.min(self.config.followed_since.unwrap_or(UnixMillis::MAX)),
            followed,
            intake: self.intake.clone(),
            reader,
            ledger: self.turn_context.ledger.clone(),
            metrics: self.turn_context.metrics.clone(),
            status: self.status.clone(),
            clock: self.turn_context.clock.clone(),
        })
    }

    /// Waits like the pool's poller until records may be taken: increase() ignores the first value of a series.
    fn may_take(&self) -> impl Future<Output = ()> + Send + use<S> {
        let (begin, scraped) = (self.begin, self.scraped());
        async move {
            if begin == Begin::WithThePoller {
                scraped.await;
            }
        }
    }

    /// Whether the pool's events come from its export alone: nobody is listed or polled.
    fn is_export_alone(&self) -> bool {
        self.config.export.as_ref().is_some_and(|export| export.audit == Audit::Off)
    }

    /// Has the pool's users begin anew where polls read the pool again after the export alone was read. Meanwhile old
    /// events were forgotten that no cursor has, and polls would count them again. So the pool counts as followed since
    /// now, and older events are history. Every step can be repeated: the note comes last.
    async fn begin_polling_again(&mut self, ledger: &Ledger, now: UnixMillis) -> Result<(), LedgerError> {
        let pool_id = &self.config.id;
        if self.is_export_alone() || !ledger.has_forgotten_unpolled(pool_id)? {
            return Ok(());
        }
        info!(pool = pool_id, "polls read the pool again; its users begin anew, and events before now are history");
        let users = ledger.usernames(pool_id).collect::<Result<Vec<_>, _>>()?;
        ledger.forget(pool_id, users).await?;
        self.record.followed_since = now;
        self.record.selection = None;
        ledger.follow_pool(pool_id, self.record.clone()).await?;
        ledger.users_begin_anew(pool_id).await
    }

    /// Begins the table of told events, if the pool has an export, and answers whether it has a table. Tries until the
    /// ledger answers.
    async fn begin_told(&mut self) -> bool {
        let (ledger, clock) = (self.turn_context.ledger.clone(), self.turn_context.clock.clone());
        loop {
            if let Err(error) = self.begin_polling_again(&ledger, clock.now()).await {
                tracing::debug!(pool = self.config.id, %error, "the users of the pool cannot begin anew yet");
                tokio::time::sleep(LEDGER_AGAIN).await;
                continue;
            }
            let begun = match &self.config.export {
                Some(_) if self.is_export_alone() && ledger.usernames(&self.config.id).next().is_none() => {
                    // Nothing was told of the pool before, so every event since it is followed is new. A table covers
                    // the events from two seconds after its beginning on.
                    let since = self.record.followed_since.minus(Duration::from_secs(2));
                    ledger.begin_told(&self.config.id, since).await
                }
                Some(_) => ledger.begin_told(&self.config.id, clock.now()).await,
                None => Ok(()),
            };
            match begun.and_then(|()| ledger.told_since(&self.config.id)) {
                Ok(since) => return since.is_some(),
                Err(error) => {
                    tracing::debug!(pool = self.config.id, %error, "the table of told events cannot be read yet");
                    tokio::time::sleep(LEDGER_AGAIN).await;
                }
            }
        }
    }

    /// The discovery of the pool's users, which reports them to the poller.
    fn discovery(
        self,
        pool: Arc<Pool<S>>,
        naming_rules: NamingRules,
        poller: mpsc::Sender<PollerMessage<S>>,
    ) -> Discovery<S, PollerUsers<S>> {
        let settings = discovery_settings(&self.app, &self.config);
        let services = DiscoveryServices {
            ledger: self.turn_context.ledger.clone(),
            metrics: self.turn_context.metrics.clone(),
            status: self.status,
            clock: self.turn_context.clock.clone(),
            followed: PollerUsers { slot: self.slot, poller },
        };
        let discovered = DiscoveredPool { pool, record: self.record, naming_rules };
        Discovery::new(discovered, settings, self.new_settings, services)
    }

    /// Waits until the pool's series were scraped as they are now, at most for `http.first_scrape_wait`.
    fn scraped(&self) -> impl Future<Output = ()> + Send + use<S> {
        self.first_scrape.wait(&self.config.id)
    }

    /// Learns the pool's account, in whose quota its calls count, and its sign-in names. Without the permission to
    /// describe the pool both stay unknown.
    async fn identify(&self, source: &S) -> (PoolIdentity, NamingRules) {
        let mut again = DESCRIBE_AGAIN;
        let mut fault = LastingFault::default();
        let began = Instant::now();
        loop {
            let asked = Instant::now();
            let described = source.describe().await;
            let account = described.as_ref().ok().and_then(|pool| pool.account_id.clone());
            let known = identity(&self.config, account);
            let outcome = described.as_ref().err().map_or(CallOutcome::Ok, SourceError::outcome);
            self.turn_context.metrics.api_request(
                known.account_id.as_deref(),
                &known.region,
                Operation::DescribeUserPool,
                outcome,
                asked.elapsed(),
            );
            match described {
                Ok(description) => {
                    if fault.succeeded() {
                        info!(
                            pool = self.config.id,
                            after_seconds = began.elapsed().as_secs(),
                            "the pool can be reached"
                        );
                    }
                    warn_of_plan(&self.config.id, &description);
                    return (known, NamingRules::new(description.sign_in_names));
                }
                // One throttle may come from other programs' calls; only further ones are logged.
                Err(SourceError::Throttled(_)) if again.failures() == 0 => {}
                Err(error @ (SourceError::Throttled(_) | SourceError::Timeout(_) | SourceError::Passing(_))) => {
                    self.status.pool_error(&self.config.id, &error.to_string(), self.turn_context.clock.now());
                    // A throttle is logged like a missing answer.
                    if fault.failed(Trouble::of(&error).unwrap_or(Trouble::Unanswered)) {
                        let remedy = error.remedy(Operation::DescribeUserPool, &self.config.id);
                        warn!(pool = self.config.id, %error, remedy, "the pool cannot be reached yet; retrying");
                    }
                    let is_throttled = matches!(error, SourceError::Throttled(_));
                    if !is_throttled && began.elapsed() >= PoolHealth::UNREACHABLE_AFTER {
                        self.turn_context.metrics.pool_up(&self.config.id, false);
                    }
                }
                Err(error) => {
                    // The polls log a fault that meets every call.
                    if !Trouble::of(&error).is_some_and(Trouble::meets_every_call) {
                        warn!(
                            pool = self.config.id,
                            %error,
                            remedy = error.remedy(Operation::DescribeUserPool, &self.config.id),
                            "the pool cannot be described; its budget is shared with the pools of the same \
                             credentials, and only usernames and subs name its users, as written"
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
        let (metrics, status, clock) =
            (self.turn_context.metrics.clone(), self.status.clone(), self.turn_context.clock.clone());
        let watch = LimitWatch { pool, share, shard: self.app.shard, metrics, status, clock };
        let stop = self.turn_context.stop.clone();
        self.lifecycle.spawn_part(Duty::Gather, name, stop.clone(), watch.run(stop));
    }

    fn begin_poller(
        &self,
        identity: &PoolIdentity,
        rate_limiter: RateLimiter,
        messages: mpsc::Receiver<PollerMessage<S>>,
    ) {
        let pace = PollPace {
            turns_max: self.app.poll.concurrency,
            min_interval: self.app.poll.min_interval,
            max_interval: self.app.poll.max_interval,
        };
        let poller = Poller::new(self.turn_context.clone(), pace, rate_limiter, self.status.clone());
        let begin = self.begin;
        // increase() ignores the first value of a series, so Prometheus has to see the zeros first.
        let scraped = self.scraped();
        let may_begin = async move {
            if begin == Begin::WithThePoller {
                scraped.await;
            }
        };
        let account = identity.account_id.as_deref().unwrap_or("unknown");
        let hard = self.lifecycle.stops(Duty::Gather).hard.clone();
        let stop = self.turn_context.stop.clone();
        let name = format!("poller {account} {}", identity.region);
        self.lifecycle.spawn_part(Duty::Gather, name, stop, async move {
            // The hard stop drops the turns that still wait for their commits: each commit is whole, written or not.
            hard.run_until_cancelled(poller.run(messages, may_begin)).await;
        });
    }
}

/// The settings of a pool's discovery.
pub(super) fn discovery_settings(config: &Config, pool: &PoolConfig) -> DiscoverySettings {
    DiscoverySettings {
        selection: pool.selection.clone(),
        shard: config.shard,
        interval: config.discovery.interval,
        forget_after: config.discovery.forget_after,
        history: config.poll.first_run,
    }
}

/// The identity of a pool. While its account is not known, the account of its role is taken, if it has one.
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

/// The source of a pool that may be unfollowed. The calls of turns are ended then. `gone` is cancelled when no call can
/// be made any more. Only then may the pool be followed again: two turns of a user at once would take an event twice.
pub(super) struct Leaving<S> {
    source: S,
    calls: CancellationToken,
    _gone: DropGuard,
}

impl<S: Source> Leaving<S> {
    /// A source that calls until `calls` is cancelled, and that cancels `gone` when it is dropped.
    pub(super) fn new(source: S, calls: CancellationToken, gone: CancellationToken) -> Self {
        Self { source, calls, _gone: gone.drop_guard() }
    }
}

impl<S: Source> Source for Leaving<S> {
    async fn page(&self, username: &str, token: Option<&PageToken>, max_results: u8) -> Result<Page, SourceError> {
        let page = self.calls.run_until_cancelled(self.source.page(username, token, max_results)).await;
        page.unwrap_or_else(|| Err(SourceError::Passing("the pool is followed no longer".into())))
    }

    // Discovery, which lists and describes, is dropped as a whole.
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
