//! `demo`: runs the exporter without an AWS account.
//!
//! It starts a simulated Cognito on loopback with a few hundred active users. The exporter is that of `run`, with a
//! temporary state directory, records on stdout and short intervals. On a terminal, records are sentences above the
//! addresses of the status page and the metrics; otherwise they are JSON. It reads no configuration and leaves no
//! files. Its only connection to another machine is to the receiver that an argument names.

mod event_line;
mod screen;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use cognito_auth_simulator::export::{ExportSettings, ExportSource};
use cognito_auth_simulator::population::Population;
use cognito_auth_simulator::quota::Quotas;
use cognito_auth_simulator::{Options, Simulation};
use tracing::Level;

use self::screen::Screen;
use super::logging::{self, LogArgs};
use super::run::exit_code;
use super::state_command::counted;
use crate::app::App;
use crate::config::{Audit, Config, ExportConfig, LogConfig, OtlpConfig, PoolConfig, Proxies, Rate};
use crate::http::BindError;
use crate::lifecycle::Signals;
use crate::sink::stdout::StdoutSink;
use crate::source::cognito::Clients;
use cognito_auth_core::record::TimestampSource;
use cognito_auth_core::users::selection::HistoryDepth;

/// The demo's pool.
const POOL: &str = "eu-west-1_DemoPool1";

/// The log group that receives the pool's export.
const LOG_GROUP: &str = "/aws/vendedlogs/cognito/demo";

/// Time after which the log group forgets a log event, so that a long demo stays small.
const LOG_RETENTION: Duration = Duration::from_mins(30);

/// Time between two activities of the simulated users.
const TICK: Duration = Duration::from_millis(200);

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Number of users in the simulated pool.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    users: u32,
    /// Seed of all random ids and decisions.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Address that serves `/` and `/metrics`.
    #[arg(long, default_value = "127.0.0.1:10588")]
    listen: SocketAddr,
    /// Also let the simulated Cognito export its events to a simulated log group, and read them from there.
    #[arg(long)]
    export: bool,
    /// Also deliver the records to an OTLP receiver over HTTP, such as "http://localhost:4318".
    #[arg(long)]
    otlp_endpoint: Option<String>,
    #[command(flatten)]
    log: LogArgs,
    /// Print no records.
    #[arg(long, short)]
    quiet: bool,
    /// Stop after this time, such as "30s". Without it the demo runs until Ctrl-C.
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

/// Runs until Ctrl-C, the end of `--duration`, or the end of the reader of stdout.
///
/// # Errors
/// The port is taken, or there is no room for a temporary directory.
pub async fn demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let state = tempfile::Builder::new().prefix("cognito-auth-exporter-demo-").tempdir()?;
    let simulation = simulate(args).await?;
    let app = App::build(configuration(args, state.path()), Clients::simulated(simulation.url()));
    let app = app.await.map_err(|error| match error.downcast() {
        Ok(BindError { address, source, .. }) => {
            anyhow!("cannot listen on {address}: {source}; --listen 127.0.0.1:0 takes a free port")
        }
        Err(other) => other,
    })?;

    let at = app.http_addr()?;
    let screen = Screen::new(args.quiet, &format!("http://{at}/  http://{at}/metrics  Ctrl-C ends"));
    greet(args, &screen, at, &simulation.url());
    // Between sentences, a person wants to see what is wrong and nothing else.
    let level = if screen.is_terminal() { Level::WARN } else { Level::INFO };
    let log = screen.clone();
    let _set_level = logging::start_on(&LogConfig { level, ..LogConfig::default() }, &args.log, move || log.log());
    let printer = StdoutSink::to(Box::new(screen.clone()) as _, TimestampSource::Event, screen.format());

    let mut duration = args.duration;
    let stop = async || {
        let ended = async {
            match duration.take() {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            signal = signals.next() => signal,
            () = ended => "the end of --duration",
            () = screen.closed(), if !screen.is_closed() => "the end of the reader of standard output",
        }
    };
    let outcome = app.printing(printer).with_temporary_state().run(stop).await?;
    screen.clear();
    part(&screen);
    Ok(exit_code(&outcome))
}

/// Starts the simulated Cognito with its users.
async fn simulate(args: &DemoArgs) -> anyhow::Result<Simulation> {
    // No other client shares this Cognito, so it needs no quotas.
    let options = Options { seed: args.seed, quotas: Quotas::unlimited(), ..Options::default() };
    let simulation = Simulation::start(options).await?;
    let mut people = Population::lively(args.seed, args.users as usize);
    simulation.world(|world| {
        people.move_in(world, POOL, world.now());
        if args.export {
            // The export begins after the history: Cognito exports what happens from the activation on.
            world.export_events(POOL, export());
            world.log_group_mut(LOG_GROUP).retention = Some(LOG_RETENTION);
        }
    });
    simulation.enliven(people, TICK);
    Ok(simulation)
}

/// Makes the demo's configuration. Its intervals are shorter than the defaults of `run`, because a demo lasts a minute
/// and has a Cognito of its own.
fn configuration(args: &DemoArgs, state: &Path) -> Config {
    let mut pool = PoolConfig::new(POOL);
    pool.name = "demo".into();
    pool.selection.all_users = true;
    pool.export = args.export.then(|| ExportConfig {
        log_group: Some(LOG_GROUP.to_owned()),
        // Both sources are seen beside one another, and what the export loses is soon said.
        audit: Audit::Full,
        read_interval: Duration::from_secs(1),
        overlap: Duration::from_mins(1),
        grace: Duration::from_mins(1),
        ..ExportConfig::default()
    });
    let mut config = Config::for_pools(vec![pool]);
    // Polls the default number of users in two seconds, so that most events in progress are seen before their outcome.
    // With an export in twenty, so that polls come first for some events, and the export for others.
    config.poll.requests_per_second = Rate::PerSecond(if args.export { 15.0 } else { 150.0 });
    config.poll.min_interval = Duration::from_secs(1);
    config.poll.first_run = HistoryDepth::Last(Duration::from_mins(10));
    config.discovery.interval = Duration::from_secs(10);
    config.state.path = state.to_owned();
    config.stdout_enabled = true;
    config.otlp = args.otlp_endpoint.as_ref().map(|endpoint| OtlpConfig {
        proxies: Proxies::of_environment(&std::env::vars_os().collect::<Vec<_>>()),
        ..OtlpConfig::new(endpoint)
    });
    config.http.listen = args.listen;
    config.http.first_scrape_wait = Duration::ZERO;
    config
}

/// Makes the settings of the simulated export. It is faster than Cognito's, and loses and repeats more.
fn export() -> ExportSettings {
    ExportSettings {
        delay: Duration::from_secs(2)..=Duration::from_secs(6),
        overtaken: 0.05,
        extra_delay: Duration::from_secs(5)..=Duration::from_secs(20),
        lost: 0.02,
        repeated: 0.02,
        source: ExportSource::Seen,
        ..ExportSettings::to_log_group(LOG_GROUP)
    }
}

/// Says what is there and how to end it.
fn greet(args: &DemoArgs, screen: &Screen, at: SocketAddr, cognito: &str) {
    let users = args.users;
    let records = match (args.quiet, screen.is_terminal()) {
        (true, _) => "not printed, as --quiet asks",
        (false, true) => "one sentence each, below; as JSON if stdout is no terminal",
        (false, false) => "one JSON line each, on stdout",
    };
    let export = if args.export { "\n  export   through a simulated log group, beside polling" } else { "" };
    screen.say(&format!(
        "\n  A simulated Cognito pool with {users} users, and the exporter that reads it.\n\
         \n  status   http://{at}/\
         \n  metrics  http://{at}/metrics\
         \n  records  {records}{export}\
         \n  Cognito  AWS_ENDPOINT_URL_COGNITO_IDENTITY_PROVIDER={cognito}, pool {POOL}, any keys: for other commands\n\
         \n  Ctrl-C ends it; nothing stays behind.\n"
    ));
}

/// Says what was shown, and what to try next.
fn part(screen: &Screen) {
    let shown = counted(usize::try_from(screen.records()).unwrap_or(usize::MAX), "record");
    let why = if screen.is_closed() { ", because the reader of stdout has closed it" } else { "" };
    screen.say(&format!(
        "\n  The demo has ended{why}. It printed {shown}, and its state is removed.\
         \n  Next: write config.toml (config.example.toml has every key), then `cognito-auth-exporter check`."
    ));
}
