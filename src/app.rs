//! The application: it builds and spawns every stage, runs until a stop, and drains. Only this module knows all stages.

mod delivery_report;
mod first_scrape;
mod gauges;
pub mod hash_keys;
mod limit;
mod poller_users;
mod pool_export;
mod pool_supervisor;
mod pool_task;
mod quota_groups;
mod reload;
mod summary;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cognito_auth_core::record::TimestampSource;
use tracing::{error, info, warn};

use self::delivery_report::DeliveryReport;
use self::first_scrape::FirstScrape;
use self::gauges::Gauges;
use self::pool_supervisor::{AppServices, PoolSupervisor, pool_records};
use self::pool_task::identity;
use self::reload::Reloader;
pub use self::reload::{ConfigFiles, Reloads};
use crate::config::Config;
use crate::control::{ControlSocket, RunCommand};
use crate::delivery::{BatchLimits, Delivery};
use crate::export::firehose::FirehoseServer;
use crate::export::intake::{ExportIntake, IntakeServices};
use crate::http::{HttpServer, Router, Scrapes, Web};
use crate::ledger::{Ledger, LedgerError, Opened, PoolRecord};
use crate::lifecycle::{Clock, Duty, Lifecycle, RunOutcome};
use crate::metrics::Metrics;
use crate::sink::otlp::OtlpSink;
use crate::sink::stdout::StdoutSink;
use crate::source::cognito::Clients;
use crate::status::StatusBoard;

/// Batches without an OTLP receiver: records go to stdout at once, as many as there are.
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
    /// The endpoint for Data Firehose, if it is configured.
    firehose: Option<FirehoseServer>,
    ledger: Ledger,
    clients: Clients,
    /// When each pool was first followed, in the configuration's order.
    pools: Vec<PoolRecord>,
    reloads: Option<Reloads>,
    /// Makes what runs commands over the control socket.
    runner: Option<fn(Ledger) -> RunCommand>,
    /// The printer of records, if it is not that of the configuration.
    printer: Option<StdoutSink>,
    /// Whether the state is removed after the run.
    is_state_temporary: bool,
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
        let firehose = match &config.firehose {
            Some(firehose) => Some(FirehoseServer::bind(firehose).await?),
            None => None,
        };
        let (state, keys, opens_at) = (config.state.clone(), config.privacy.clone(), clock.clone());
        let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<Opened> {
            let privacy = hash_keys::privacy(&keys)?;
            Ok(Ledger::open_private(&state, &privacy, opens_at.now())?)
        });
        let opened = opened.await.context("open the ledger")??;
        let ledger = report_opening(opened, &metrics);
        let pools = pool_records(&ledger, &config, clock.now()).await?;
        config.pools.iter().for_each(|pool| metrics.add_pool(&identity(pool, None)));
        show_totals(&ledger, &metrics).await?;
        metrics.outbox_limit(config.state.outbox_limit_bytes);
        metrics.shard(config.shard);
        metrics.zero_series(config.zero_series);
        status.links(config.http.links.clone());
        Ok(Self {
            config: Arc::new(config),
            clock,
            lifecycle: Lifecycle::new(),
            metrics,
            status,
            http,
            web,
            firehose,
            ledger,
            clients,
            pools,
            reloads: None,
            runner: None,
            printer: None,
            is_state_temporary: false,
        })
    }

    /// Lets the exporter read its configuration again while it runs.
    #[must_use]
    pub fn reloading(self, reloads: Reloads) -> Self {
        Self { reloads: Some(reloads), ..self }
    }

    /// Prints records with `printer`, whatever the configuration says.
    #[must_use]
    pub fn printing(self, printer: StdoutSink) -> Self {
        Self { printer: Some(printer), ..self }
    }

    /// Says that the state is removed after the run, so that nothing is delivered later.
    #[must_use]
    pub fn with_temporary_state(self) -> Self {
        Self { is_state_temporary: true, ..self }
    }

    /// Takes commands on the state over the control socket while the exporter runs. `runner` makes what runs them on
    /// the ledger.
    #[must_use]
    pub fn taking_commands(self, runner: fn(Ledger) -> RunCommand) -> Self {
        Self { runner: Some(runner), ..self }
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
    pub async fn run(self, next_signal: impl AsyncFnMut() -> &'static str) -> anyhow::Result<RunOutcome> {
        let Self { config, clock, lifecycle, metrics, status, http, web, firehose, ledger, clients, pools, .. } = self;
        let Self { reloads, runner, printer, is_state_temporary, .. } = self;
        let receiver =
            config.otlp.as_ref().map(|otlp| OtlpSink::connect(otlp, ledger.instance_id(), &clock)).transpose()?;
        let timestamp = config.otlp.as_ref().map_or(TimestampSource::Event, |otlp| otlp.timestamp);
        let printer = printer.or_else(|| config.stdout_enabled.then(|| StdoutSink::new(timestamp)));
        let queue = receiver.is_some() || printer.is_some();
        if let Some(otlp) = &config.otlp {
            let proxy = otlp.proxy();
            info!(endpoint = otlp.origin(), proxy, protocol = ?otlp.protocol, "records go to the OTLP receiver");
        }
        if !queue {
            info!("no sink is configured (otlp.endpoint, stdout.enabled): only metrics are exported");
        }

        let listen = http.local_addr()?;
        let scrapes = Scrapes::new();
        let first_scrape = {
            let wait_max = config.http.first_scrape_wait;
            FirstScrape::expect(&ledger, queue, wait_max, scrapes.clone(), status.clone(), clock.clone())?
        };
        let router = Router { metrics: metrics.clone(), board: status.clone(), scrapes, clock: clock.clone() };
        let serving = &lifecycle.stops(Duty::Serve).soft;
        let note = first_scrape.clone().keep_note(ledger.clone(), serving.clone());
        lifecycle.spawn(Duty::Serve, "note on scrapes", note);
        lifecycle.spawn(Duty::Serve, "http", http.serve(router, serving.clone()));
        let scheme = web.scheme();
        lifecycle.spawn(Duty::Serve, "web configuration", web.clone().keep(serving.clone()));
        let gauges = Gauges {
            metrics: metrics.clone(),
            status: status.clone(),
            ledger: ledger.clone(),
            clock: clock.clone(),
            outbox_limit_bytes: config.state.outbox_limit_bytes,
            queue,
        };
        lifecycle.spawn(Duty::Serve, "gauges", gauges.run(serving.clone()));
        lifecycle.spawn(Duty::Serve, "summary", summary::run(metrics.clone(), receiver.is_some(), serving.clone()));
        if queue {
            let report = DeliveryReport { metrics: metrics.clone(), status: status.clone(), clock: clock.clone() };
            let limits = config
                .otlp
                .as_ref()
                .map_or(STDOUT_BATCHES, |otlp| BatchLimits { records: otlp.batch_size, delay: otlp.batch_delay });
            let delivery = Delivery::new(ledger.clone(), printer, receiver, report, limits);
            let stops = lifecycle.stops(Duty::Deliver).clone();
            lifecycle.spawn(Duty::Deliver, "delivery", delivery.run(stops.soft, stops.hard));
        }

        if let Some(runner) = runner {
            match ControlSocket::bind(&config.state.path) {
                Ok(socket) => {
                    let serve = socket.serve(runner(ledger.clone()), serving.clone());
                    lifecycle.spawn(Duty::Serve, "control socket", serve);
                }
                Err(error) => {
                    warn!(%error, "no control socket in state.path; commands on the state need a stopped exporter");
                }
            }
        }

        let intake = ExportIntake::new(IntakeServices {
            ledger: ledger.clone(),
            metrics: metrics.clone(),
            queue,
            outbox_limit_bytes: config.state.outbox_limit_bytes,
            stop: lifecycle.stops(Duty::Gather).soft.clone(),
        });
        let services = AppServices {
            ledger: ledger.clone(),
            metrics: metrics.clone(),
            status: status.clone(),
            clock: clock.clone(),
            lifecycle: lifecycle.clone(),
            first_scrape,
            clients,
            queue,
            intake: intake.clone(),
        };
        let (followed, shard) = (config.pools.len(), config.shard);
        let supervisor = PoolSupervisor::begin(services, &config, pools);
        if let Some(firehose) = firehose {
            info!(listen = %firehose.local_addr()?, scheme = firehose.scheme(), "Data Firehose can deliver");
            let (metrics, stops) = (metrics.clone(), lifecycle.stops(Duty::Gather).clone());
            let serve = firehose.serve(Arc::new(intake), metrics, clock.clone(), stops);
            lifecycle.spawn(Duty::Gather, "firehose", serve);
        }
        if let Some(reloads) = reloads {
            let reloader = Reloader { reloads, supervisor, web, metrics, clock };
            let stop = lifecycle.stops(Duty::Gather).soft.clone();
            lifecycle.spawn(Duty::Gather, "configuration", reloader.run(stop));
        }
        status.ready();
        info!(pools = followed, shard = %shard, listen = %listen, scheme, "cognito-auth-exporter is running");

        let close = async {
            let waiting = ledger.outbox_state().records;
            ledger.close().await;
            if is_state_temporary {
                info!("stopped");
            } else {
                info!(waiting, "stopped; records that wait are delivered after the next start");
            }
        };
        Ok(lifecycle.run(next_signal, || status.stopping(), close).await)
    }
}

/// Logs a damaged ledger that was moved aside, and returns the ledger.
fn report_opening(opened: Opened, metrics: &Metrics) -> Ledger {
    if let Some(rebuilt) = opened.rebuilt {
        metrics.state_rebuilt();
        let live = match rebuilt.last_commit {
            Some(time) => format!("events since {time} are live"),
            None => "when it was last written is not known, so everything up to now is history".to_owned(),
        };
        error!(
            problem = rebuilt.problem,
            moved_to = %rebuilt.moved_to.display(),
            "the ledger was damaged and has been moved aside; it is rebuilt from Cognito's history, counters begin at \
             0, and {live}"
        );
    }
    opened.ledger
}

/// Lets the ledger show its totals: all of them now, and each when it has grown.
async fn show_totals(ledger: &Ledger, metrics: &Metrics) -> Result<(), LedgerError> {
    let shown = metrics.clone();
    ledger.show_totals(move |pool_id, totals| shown.totals(pool_id, totals)).await
}
