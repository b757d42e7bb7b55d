//! Builds every stage, spawns it, runs until a stop, drains. The one place that knows all of them.

mod delivery_report;
mod gauges;
mod lanes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::delivery_report::DeliveryReport;
use self::gauges::Gauges;
use self::lanes::{LaneKey, Lanes};
use crate::config::{Config, PoolConfig, TimestampSource};
use crate::courier::{BatchLimits, Courier};
use crate::entry::PoolIdentity;
use crate::event::UnixMillis;
use crate::gate::Gate;
use crate::http::{HttpServer, Router, Scrapes, Web};
use crate::ledger::{Ledger, LedgerError, Opened, PoolRecord};
use crate::lifecycle::{Clock, Duty, Lifecycle, Outcome};
use crate::metrics::Metrics;
use crate::poller::health::{Health, Trouble};
use crate::poller::turn::Means;
use crate::poller::{Message, Pace, Poller};
use crate::pool::Pool;
use crate::schedule::PoolSlot;
use crate::sink::otlp::OtlpSink;
use crate::sink::stdout::StdoutSink;
use crate::source::cognito::Clients;
use crate::source::metered::Metered;
use crate::source::{CallOutcome, Operation, PoolDescription, Source, SourceError};
use crate::status::StatusBoard;
use crate::stop_point::{self, Step};
use crate::targets::discovery::Discovery;
use crate::targets::roster::Joining;
use crate::walk::Rules;

/// Pause between attempts to describe a pool whose endpoint cannot be reached: first and longest.
const DESCRIBE_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Records on stdout alone: at once, and as many as there are.
const STDOUT_BATCHES: BatchLimits = BatchLimits { records: 512, delay: Duration::ZERO };

/// The exporter, built and ready to run.
pub struct App {
    config: Arc<Config>,
    clock: Clock,
    lifecycle: Lifecycle,
    metrics: Metrics,
    status: StatusBoard,
    http: HttpServer,
    web: Web,
    ledger: Ledger,
    clients: Clients,
    /// When each pool was first followed, in the configuration's order.
    pools: Vec<PoolRecord>,
}

impl App {
    /// Binds the port, opens the ledger, restores the counters. Nothing is polled yet.
    ///
    /// # Errors
    /// The port is taken, the state directory cannot be used, a receiver's settings cannot be: each says what to do.
    pub async fn build(config: Config, clients: Clients) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let metrics = Metrics::new(clock.now());
        let status = StatusBoard::new(clock.now());
        let web_config = config.http.web_config_file.clone();
        let web = tokio::task::spawn_blocking(move || Web::load(web_config.as_deref()));
        let web = web.await.context("read the web configuration")??;
        let http = HttpServer::bind(config.http.listen).await?.behind(web.clone());
        let (state, opens_at) = (config.state.clone(), clock.clone());
        let opened = tokio::task::spawn_blocking(move || Ledger::open(&state, opens_at.now()))
            .await
            .context("open the ledger")??;
        let ledger = settle_in(opened, &metrics);
        let pools = pool_records(&ledger, &config, clock.now()).await?;
        config.pools.iter().for_each(|pool| metrics.add_pool(&identity(pool, None)));
        let shown = metrics.clone();
        ledger.show_totals(move |pool_id, totals| shown.totals(pool_id, totals)).await?;
        metrics.outbox_limit(config.state.outbox_limit_bytes);
        Ok(Self {
            config: Arc::new(config),
            clock,
            lifecycle: Lifecycle::new(),
            metrics,
            status,
            http,
            web,
            ledger,
            clients,
            pools,
        })
    }

    /// Where the HTTP server listens.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn http_addr(&self) -> std::io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Runs until `next_signal` names one, or a fault, and drains; a second signal ends it at once.
    ///
    /// # Errors
    /// A receiver's settings cannot be used.
    pub async fn run(self, next_signal: impl AsyncFnMut() -> &'static str) -> anyhow::Result<Outcome> {
        let Self { config, clock, lifecycle, metrics, status, http, web, ledger, clients, pools } = self;
        let receiver = config.otlp.as_ref().map(|otlp| OtlpSink::connect(otlp, ledger.instance_id())).transpose()?;
        let timestamp = config.otlp.as_ref().map_or(TimestampSource::Event, |otlp| otlp.timestamp);
        let printer = config.stdout_enabled.then(|| StdoutSink::new(timestamp));
        let queue = receiver.is_some() || printer.is_some();
        if !queue {
            info!("no sink is configured (otlp.endpoint, stdout.enabled): only metrics are exported");
        }

        let listen = http.local_addr()?;
        let scrapes = Scrapes::new();
        let router =
            Router { metrics: metrics.clone(), board: status.clone(), scrapes: scrapes.clone(), clock: clock.clone() };
        let serving = &lifecycle.stops(Duty::Serve).soft;
        lifecycle.spawn(Duty::Serve, "http", http.serve(router, serving.clone()));
        let scheme = web.scheme();
        lifecycle.spawn(Duty::Serve, "web configuration", web.keep(serving.clone()));
        let gauges = Gauges {
            metrics: metrics.clone(),
            status: status.clone(),
            ledger: ledger.clone(),
            outbox_limit_bytes: config.state.outbox_limit_bytes,
        };
        lifecycle.spawn(Duty::Serve, "gauges", gauges.run(serving.clone()));
        if queue {
            let report = DeliveryReport { metrics: metrics.clone(), status: status.clone(), clock: clock.clone() };
            let limits = config
                .otlp
                .as_ref()
                .map_or(STDOUT_BATCHES, |otlp| BatchLimits { records: otlp.batch_size, delay: otlp.batch_delay });
            let courier = Courier::new(ledger.clone(), printer, receiver, report, limits);
            let stops = lifecycle.stops(Duty::Deliver).clone();
            lifecycle.spawn(Duty::Deliver, "courier", courier.run(stops.soft, stops.hard));
        }

        let means = Arc::new(Means {
            ledger: ledger.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            calls: Arc::new(Semaphore::new(config.poll.concurrency)),
            page_size: config.poll.page_size,
            queue,
            outbox_limit_bytes: config.state.outbox_limit_bytes,
            stop: lifecycle.stops(Duty::Gather).soft.clone(),
        });
        let lanes = Lanes::new(config.poll.requests_per_second, config.discovery.requests_per_second);
        for ((slot, pool), record) in (0..).map(PoolSlot).zip(&config.pools).zip(pools) {
            let follower = Follower {
                slot,
                config: pool.clone(),
                record,
                lanes: lanes.clone(),
                means: means.clone(),
                app: config.clone(),
                status: status.clone(),
                lifecycle: lifecycle.clone(),
                scrapes: scrapes.clone(),
            };
            let source = clients.pool(pool, config.poll.timeout, clock.clone());
            let stop = lifecycle.stops(Duty::Gather).soft.clone();
            lifecycle.spawn(Duty::Gather, format!("pool {}", pool.id), follower.run(source, stop));
        }
        status.ready();
        info!(pools = config.pools.len(), listen = %listen, scheme, "cognito-auth-exporter is running");

        let close = async {
            let waiting = ledger.outbox_state().records;
            ledger.close().await;
            info!(waiting, "stopped; records that wait are delivered after the next start");
        };
        Ok(lifecycle.run(next_signal, || status.stopping(), close).await)
    }
}

/// Brings a pool from its configuration to its poller, and keeps its roster.
struct Follower<S> {
    slot: PoolSlot,
    config: PoolConfig,
    record: PoolRecord,
    lanes: Arc<Lanes<S>>,
    means: Arc<Means>,
    app: Arc<Config>,
    status: StatusBoard,
    lifecycle: Lifecycle,
    scrapes: Scrapes,
}

impl<S: Source> Follower<S> {
    async fn run(self, source: S, stop: CancellationToken) {
        let Some(identity) = stop.run_until_cancelled(self.identify(&source)).await else { return };
        let identity = Arc::new(identity);
        self.means.metrics.add_pool(&identity);
        let lane = self
            .lanes
            .lane(LaneKey::of(&identity, &self.config), |gate, messages| self.begin_poller(&identity, gate, messages));
        let pool = Arc::new(Pool {
            slot: self.slot,
            source: Metered::new(source, identity.clone(), self.means.metrics.clone(), lane.reads, lane.lists),
            identity,
            rules: Rules {
                overlap: self.app.poll.overlap,
                settle: self.app.poll.settle,
                followed_since: self.config.followed_since,
            },
        });
        if lane.poller.send(Message::Follow(pool.clone())).await.is_err() {
            return; // the poller has stopped, and so will everything
        }
        let discovery = Discovery {
            joining: Joining {
                pool_followed_since: self.record.followed_since,
                lost_since: self.record.lost_since,
                configured_since: self.config.followed_since,
                first_run: self.app.poll.first_run,
            },
            config: self.config,
            pool,
            record: self.record,
            forget_after: self.app.discovery.forget_after,
            interval: self.app.discovery.interval,
            ledger: self.means.ledger.clone(),
            metrics: self.means.metrics.clone(),
            status: self.status,
            clock: self.means.clock.clone(),
            poller: lane.poller,
        };
        discovery.run(stop).await;
    }

    /// Learns the pool's account, whose quota its calls count in. A caller who may not ask goes without.
    async fn identify(&self, source: &S) -> PoolIdentity {
        let (mut again_in, again_max) = DESCRIBE_AGAIN;
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
                    return known;
                }
                Err(SourceError::Throttled(_)) => {}
                Err(error @ (SourceError::Timeout(_) | SourceError::Passing(_))) => {
                    self.status.pool_error(&self.config.id, &error.to_string(), self.means.clock.now());
                    if !std::mem::replace(&mut told, true) {
                        warn!(pool = self.config.id, %error, "the pool cannot be reached yet; trying on");
                    }
                    if began.elapsed() >= Health::UNREACHABLE_AFTER {
                        self.means.metrics.pool_up(&self.config.id, false);
                    }
                }
                Err(error) => {
                    // What every call meets is told by those that matter.
                    if !Trouble::of(&error).is_some_and(Trouble::meets_every_call) {
                        warn!(
                            pool = self.config.id,
                            %error,
                            "the pool cannot be described; its budget is shared with the pools of the same credentials"
                        );
                    }
                    return known;
                }
            }
            tokio::time::sleep(again_in).await;
            again_in = (again_in * 2).min(again_max);
        }
    }

    fn begin_poller(&self, identity: &PoolIdentity, gate: Gate, messages: mpsc::Receiver<Message<S>>) {
        let pace = Pace {
            turns_max: self.app.poll.concurrency,
            min_interval: self.app.poll.min_interval,
            max_interval: self.app.poll.max_interval,
        };
        let poller = Poller::new(self.means.clone(), pace, gate, self.status.clone());
        // A series first scraped at 1 is invisible to increase(): Prometheus has to see the zeros first.
        let (scraped, wait_max) = (self.scrapes.next(), self.app.http.first_scrape_wait);
        let may_begin = async move {
            let _scraped_or_waited = tokio::time::timeout(wait_max, scraped).await;
        };
        let account = identity.account_id.as_deref().unwrap_or("unknown");
        let hard = self.lifecycle.stops(Duty::Gather).hard.clone();
        self.lifecycle.spawn(Duty::Gather, format!("poller {account} {}", identity.region), async move {
            // Cut, it drops the turns that still wait for their commits: written or not, these are whole.
            hard.run_until_cancelled(poller.run(messages, may_begin)).await;
        });
    }
}

/// What a pool is called before its account is known: a role names its account, everything else does not.
fn identity(pool: &PoolConfig, account_id: Option<String>) -> PoolIdentity {
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

/// Says what became of a damaged ledger.
fn settle_in(opened: Opened, metrics: &Metrics) -> Ledger {
    if let Some(rebuilt) = opened.rebuilt {
        metrics.state_rebuilt();
        let live = match rebuilt.last_commit {
            Some(time) => format!("events since {time} are live"),
            None => "when it was last written is not known, so everything up to now is history".to_owned(),
        };
        error!(
            problem = rebuilt.problem,
            moved_to = %rebuilt.moved_to.display(),
            "the ledger was damaged and has been moved aside; it is rebuilt from Cognito's history, counters begin at 0, \
             and {live}"
        );
    }
    opened.ledger
}

/// Since when each pool is followed, in the configuration's order. A pool that is new begins now; in a rebuilt ledger, when
/// the lost one ended.
async fn pool_records(ledger: &Ledger, config: &Config, now: UnixMillis) -> Result<Vec<PoolRecord>, LedgerError> {
    let lost_since = ledger.lost_since()?.map(|time| time.min(now));
    let mut records = Vec::new();
    for pool in &config.pools {
        let record = match ledger.pool(&pool.id)? {
            Some(record) => record,
            None => {
                let record = PoolRecord { followed_since: lost_since.unwrap_or(now), lost_since, selection: None };
                ledger.follow_pool(&pool.id, record.clone()).await?;
                stop_point::reached(Step::PoolRecorded);
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
