//! The memory, time and disk space that the built binary needs for a million users, against a simulated Cognito.
//!
//! `cargo bench --bench scale` prints a table (docs/scale.md has one); `-- 10000 100000` measures these numbers of
//! users, and `RUNS=5` measures all of them five times. Each number is measured twice. *Cold* is with an empty ledger,
//! while all users are listed and polled as fast as the configuration allows. *Warm* is with the ledger of the first run
//! and almost no work.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

#[path = "../tests/support/exporter.rs"]
mod exporter;

use std::path::Path;
use std::time::{Duration, Instant};

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::fault::{FaultKind, InjectedFault};
use cognito_auth_simulator::quota::Quotas;
use cognito_auth_simulator::world::{SimulatedPool, World};
use cognito_auth_simulator::{Options, Simulation};
use exporter::{Exporter, Scrape};

/// One pool in each region. Listings have 30 requests per second in an account and region at most, so that one region
/// alone would take nine minutes.
const REGIONS: [&str; 8] =
    ["eu-west-1", "eu-west-2", "eu-central-1", "us-east-1", "us-east-2", "us-west-2", "ap-south-1", "ap-northeast-1"];

/// One user in this many has an event.
const EVENT_OF_EVERY: usize = 10;

/// The time in which freed memory is returned and sled writes.
const SETTLE: Duration = Duration::from_secs(5);

/// The least number of scrapes for a percentile.
const SCRAPES_MIN: usize = 200;

const SCRAPE_EVERY: Duration = Duration::from_millis(40);

/// Longer than any measurement here.
const PATIENCE: Duration = Duration::from_secs(900);

/// Listing at the quota, and 2,000 polls per second.
const BUSY: &str = "[poll]\nrequests_per_second = 250\nconcurrency = 64\nfirst_run = \"none\"\nmin_interval = \"15s\"\n\
                    [discovery]\ninterval = \"1d\"\nrequests_per_second = 30\n";

/// One poll per second in each region, and no listing that completes.
const IDLE: &str = "[poll]\nrequests_per_second = 1\nfirst_run = \"none\"\n\
                    [discovery]\ninterval = \"1d\"\nrequests_per_second = 0.01\n";

struct ScaleFigures {
    users: usize,
    start_cold: Duration,
    listed: Duration,
    start_warm: Duration,
    first_poll: Duration,
    all_warm: Duration,
    memory_cold: u64,
    memory_warm: u64,
    memory_ledger: u64,
    ledger_bytes: u64,
    idle: Vec<Duration>,
    busy: Vec<Duration>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _runtime = runtime.enter();
    let asked: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![10_000, 100_000, 1_000_000] } else { asked };
    let runs = std::env::var("RUNS").map_or(1, |text| text.parse().expect("a number"));
    let measured: Vec<Vec<ScaleFigures>> = (0..runs)
        .map(|_| {
            let measured: Vec<_> = sizes.iter().map(|users| measure(&runtime, *users)).collect();
            print(&measured);
            measured
        })
        .collect();
    print_slopes(&measured);
}

fn measure(runtime: &tokio::runtime::Runtime, users: usize) -> ScaleFigures {
    let options = Options { quotas: Quotas::unlimited(), ..Options::default() };
    let simulation = runtime.block_on(Simulation::start(options)).unwrap();
    simulation.world(|world| populate(world, users));
    let directory = tempfile::tempdir().unwrap();

    let began = Instant::now();
    let cold = Exporter::start(&configure(directory.path(), BUSY), &simulation.url());
    let start_cold = began.elapsed();
    let mut busy = vec![];
    let mut listed = None;
    while listed.is_none() || busy.len() < SCRAPES_MIN {
        if scrape(&cold, &mut busy) >= users {
            listed.get_or_insert_with(|| began.elapsed());
        }
        assert!(began.elapsed() < PATIENCE, "{users} users were not listed in time\n{}", cold.log());
    }
    std::thread::sleep(SETTLE);
    let memory_cold = cold.anonymous_bytes();
    assert!(cold.stop().success());
    simulation.world(|world| world.calls_mut().clear());

    let began = Instant::now();
    let warm = Exporter::start(&configure(directory.path(), IDLE), &simulation.url());
    let start_warm = began.elapsed();
    let polled = simulation.until(|world| world.calls().count("AdminListUserAuthEvents") > 0);
    runtime.block_on(polled);
    let first_poll = began.elapsed();
    while scrape(&warm, &mut vec![]) < users {
        assert!(began.elapsed() < PATIENCE, "{users} users were not there in time\n{}", warm.log());
    }
    let all_warm = began.elapsed();
    std::thread::sleep(SETTLE);
    let memory_warm = warm.anonymous_bytes();
    let mut idle = vec![];
    while idle.len() < SCRAPES_MIN {
        scrape(&warm, &mut idle);
    }
    assert!(warm.stop().success());

    // With another selection, the ledger is opened and no user is followed until a listing completes, which does not
    // happen.
    simulation.world(|world| {
        world.inject(InjectedFault::new(FaultKind::Hang).on("ListUsers"));
    });
    let other = configure(directory.path(), IDLE);
    let text = std::fs::read_to_string(&other).unwrap();
    std::fs::write(&other, text.replace("all_users = true", "all_users = true\nexclude = [\"nobody\"]")).unwrap();
    let nobody = Exporter::start(&other, &simulation.url());
    std::thread::sleep(SETTLE);
    let memory_ledger = nobody.anonymous_bytes();
    nobody.kill();
    let ledger_bytes = size(&directory.path().join("state"));
    runtime.block_on(simulation.stop());
    ScaleFigures {
        users,
        start_cold,
        listed: listed.unwrap(),
        start_warm,
        first_poll,
        all_warm,
        memory_cold,
        memory_warm,
        memory_ledger,
        ledger_bytes,
        idle,
        busy,
    }
}

/// Adds users with names of 36 characters, which Cognito generates if users sign in with an address.
fn populate(world: &mut World, users: usize) {
    for (number, region) in REGIONS.iter().enumerate() {
        let pool = id(region);
        world.add_pool(SimulatedPool::new(&pool));
        let before = UnixMillis(world.now().0 - 86_400_000);
        for user in (number..users).step_by(REGIONS.len()) {
            let username = world.new_id();
            world.add_user_with(&pool, &username, |user| user.created = before);
            if (user / REGIONS.len()).is_multiple_of(EVENT_OF_EVERY) {
                let now = world.now();
                let event = world.sign_in(now);
                world.arrive(&pool, &username, &event);
            }
        }
    }
}

fn id(region: &str) -> String {
    format!("{region}_Scale")
}

fn configure(directory: &Path, pace: &str) -> std::path::PathBuf {
    let pools: String =
        REGIONS.iter().map(|region| format!("[[pools]]\nid = {:?}\nall_users = true\n", id(region))).collect();
    exporter::configure(directory, &format!("{pools}{pace}"))
}

/// Scrapes once. Returns the number of users.
fn scrape(exporter: &Exporter, took: &mut Vec<Duration>) -> usize {
    let began = Instant::now();
    let text = exporter.get("/metrics");
    took.push(began.elapsed());
    let scrape = Scrape::parse(&text);
    std::thread::sleep(SCRAPE_EVERY);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of users")]
    let users = scrape.sum("cognito_exporter_users", &[]) as usize;
    users
}

fn size(path: &Path) -> u64 {
    let metadata = std::fs::metadata(path).unwrap();
    if metadata.is_file() {
        return metadata.len();
    }
    std::fs::read_dir(path).unwrap().map(|entry| size(&entry.unwrap().path())).sum()
}

fn percentile(took: &[Duration], percent: usize) -> f64 {
    let mut took = took.to_vec();
    took.sort_unstable();
    took[(took.len() * percent / 100).min(took.len() - 1)].as_secs_f64() * 1e3
}

fn print(measured: &[ScaleFigures]) {
    let row = |what: &str, value: &dyn Fn(&ScaleFigures) -> String| {
        let cells: Vec<_> = measured.iter().map(value).collect();
        println!("| {what} | {} |", cells.join(" | "));
    };
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64);
    row("users", &|m| m.users.to_string());
    row("---", &|_| "---:".to_owned());
    row("start-up, empty ledger", &|m| seconds(m.start_cold));
    row("everybody listed, enrolled and polled on the way", &|m| seconds(m.listed));
    row("start-up, warm ledger", &|m| seconds(m.start_warm));
    row("start to first poll, warm ledger", &|m| seconds(m.first_poll));
    row("start to everybody followed, warm ledger", &|m| seconds(m.all_warm));
    row("anonymous memory after listing", &|m| mib(m.memory_cold));
    row("anonymous memory after a warm start", &|m| mib(m.memory_warm));
    row("anonymous memory with the ledger open and nobody followed", &|m| mib(m.memory_ledger));
    row("ledger on disk", &|m| mib(m.ledger_bytes));
    row("/metrics p50, p99 idle", &|m| format!("{:.1}, {:.1} ms", percentile(&m.idle, 50), percentile(&m.idle, 99)));
    row("/metrics p50, p99 listing and polling", &|m| {
        format!("{:.1}, {:.1} ms", percentile(&m.busy, 50), percentile(&m.busy, 99))
    });
}

/// Prints what one more user costs between two numbers of users: the least, the median and the most of all runs.
fn print_slopes(runs: &[Vec<ScaleFigures>]) {
    let Some(first) = runs.first().filter(|run| run.len() > 1) else { return };
    println!(
        "\n| bytes a user, least / median / most of {} | after listing | after a warm start | ledger alone | on disk |",
        runs.len()
    );
    println!("|---|---:|---:|---:|---:|");
    for pair in 1..first.len() {
        let slope = |bytes: fn(&ScaleFigures) -> u64| {
            let slope = |run: &Vec<ScaleFigures>| {
                let (fewer, more) = (&run[pair - 1], &run[pair]);
                (bytes(more) as f64 - bytes(fewer) as f64) / (more.users - fewer.users) as f64
            };
            let mut slopes: Vec<f64> = runs.iter().map(slope).collect();
            slopes.sort_by(f64::total_cmp);
            let median = slopes[slopes.len() / 2];
            format!("{:.0} / {median:.0} / {:.0}", slopes[0], slopes[slopes.len() - 1])
        };
        println!(
            "| {} to {} users | {} | {} | {} | {} |",
            first[pair - 1].users,
            first[pair].users,
            slope(|m| m.memory_cold),
            slope(|m| m.memory_warm),
            slope(|m| m.memory_ledger),
            slope(|m| m.ledger_bytes)
        );
    }
}
