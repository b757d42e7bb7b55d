//! `demo`: the whole thing with no AWS account.
//!
//! A simulated Cognito on loopback with a few hundred lively users, and the very exporter that `run` runs, against it:
//! with a temporary state, records on stdout, and quick intervals. It reads no configuration, talks to nobody outside this
//! machine and leaves nothing behind.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::logging;
use super::run::exit_code;
use crate::app::App;
use crate::config::{Config, FirstRun, PoolConfig, Rate};
use crate::lifecycle::{Clock, Signals};
use crate::simulate::population::Population;
use crate::simulate::{Options, Simulation};
use crate::source::cognito::Clients;

/// The demo's pool.
const POOL: &str = "eu-west-1_DemoPool1";

/// How often the simulated people act.
const TICK: Duration = Duration::from_millis(200);

/// What the demo may be told.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Users of the simulated pool.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    users: u32,
    /// What every id and every chance follows from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where `/` and `/metrics` are served.
    #[arg(long, default_value = "127.0.0.1:10588")]
    listen: SocketAddr,
    /// Stop by itself after this long, such as "30s"; without it, Ctrl-C ends the demo.
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

/// Runs until Ctrl-C or `--duration`.
///
/// # Errors
/// The port is taken, or there is no room for a temporary directory.
pub async fn demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let signals = Signals::catch()?;
    let state = tempfile::tempdir()?;
    let mut config = configuration(args);
    config.state.path = state.path().to_owned();
    logging::start(&config.log);

    let simulation = Simulation::start(Options { seed: args.seed, ..Options::default() }).await?;
    let clock = Clock::system();
    let mut people = Population::lively(args.seed, args.users as usize);
    simulation.world(|world| people.move_in(world, POOL, clock.now()));

    let app = App::build(config, Clients::simulated(simulation.url())).await?;
    greet(args, app.http_addr()?);
    let life = async {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            simulation.world(|world| people.tick(world, clock.now()));
        }
    };
    let mut signals = signals;
    let mut duration = args.duration;
    let stop = async || match duration.take() {
        Some(duration) => {
            tokio::time::timeout(duration, signals.next()).await.unwrap_or("the end of --duration")
        }
        None => signals.next().await,
    };
    let outcome = tokio::select! {
        outcome = app.run(stop) => outcome?,
        () = life => return Ok(ExitCode::from(1)), // never: people go on living
    };
    simulation.stop().await;
    Ok(exit_code(&outcome))
}

/// Quick where `run` is considerate: a demo has a minute, and its Cognito is its own.
fn configuration(args: &DemoArgs) -> Config {
    let mut pool = PoolConfig::new(POOL);
    pool.name = "demo".into();
    pool.all_users = true;
    let mut config = Config::for_pools(vec![pool]);
    config.poll.requests_per_second = Rate::PerSecond(40.0);
    config.poll.min_interval = Duration::from_secs(2);
    config.poll.first_run = FirstRun::Last(Duration::from_hours(1));
    config.discovery.interval = Duration::from_secs(10);
    config.stdout_enabled = true;
    config.http.listen = args.listen;
    config.http.first_scrape_wait = Duration::ZERO;
    config
}

fn greet(args: &DemoArgs, at: SocketAddr) {
    let users = args.users;
    // With nobody to read it the demo goes on.
    let _ = writeln!(
        std::io::stderr(),
        "\n  A simulated Cognito pool with {users} lively users, and the exporter against it.\n\
         \n  status   http://{at}/\
         \n  metrics  http://{at}/metrics\
         \n  records  one JSON line each, on stdout\n\
         \n  Ctrl-C ends it; nothing stays behind.\n"
    );
}
