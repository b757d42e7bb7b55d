//! How each cost grows with what drives it: the number of users and of pools, the events of one user, the records that
//! wait for delivery. `cargo bench --bench growth` prints the tables of docs/performance.md, each with the exponent of
//! every cost, and draws its plots.
//!
//! ```text
//! cargo bench --bench growth                   # everything at a tenth of the largest sizes: about ten minutes
//! PART=1 cargo bench --bench growth            # the largest sizes: a million users, 100,000 events
//! PART=100 cargo bench --bench growth -- pools # one driver: users, pools, events, cursor, outbox, delay
//! ```
//!
//! The exponent is the slope of a straight line through the points on logarithmic axes (least squares). A cost with the
//! exponent 0 does not grow. With 1 it grows as its driver does.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

#[allow(dead_code, reason = "shared with the benchmark of the whole program, which uses all of it")]
#[path = "whole/cast.rs"]
mod cast;
#[path = "whole/collector.rs"]
mod collector;
#[path = "../tests/support/exporter.rs"]
mod exporter;
#[path = "schedule/plot.rs"]
mod plot;
#[allow(dead_code, reason = "shared with the benchmark of the whole program, which uses all of it")]
#[path = "whole/process.rs"]
mod process;
#[path = "../tests/support/schedule_sim.rs"]
mod schedule_sim;
#[path = "../tests/support/turn_sim.rs"]
mod turn_sim;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cast::{Contender, Field, ScrapeCost, Start, Variant, Work, name, populate};
use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::entry::{Entry, EventSource, PoolIdentity, UserIdentity};
use cognito_auth_core::event::{AuthEvent, UnixMillis};
use cognito_auth_core::export::ExportDetails;
use cognito_auth_core::masking::Modes;
use cognito_auth_core::page::{Page, PageToken};
use cognito_auth_core::walk::{Rules, Walk};
use cognito_auth_exporter::config::StateConfig;
use cognito_auth_exporter::ledger::{Commit, Ledger, UserRecord};
use cognito_auth_simulator::quota::Quotas;
use cognito_auth_simulator::world::{SimulatedPool, World, WorldClock};
use plot::{Curve, Growth};
use process::usage;
use schedule_sim::{HOUR, SimTerms, TraceShape, trace};
use tempfile::TempDir;
use tokio::runtime::Handle;
use turn_sim::{InProgress, TurnTerms, run_turns};

/// Four regions, because a region lists 1,800 users per second at most.
const POOLS: [&str; 4] = ["eu-west-1_Growth", "eu-west-2_Growth", "us-east-1_Growth", "us-west-2_Growth"];

const POOL: &str = POOLS[0];

/// The polls over which the cost of one is measured.
const POLLS: u64 = 5_000;

/// The commits and walks of which the median is taken.
const REPEATS: usize = 50;

/// The scrapes of which the median is taken.
const SCRAPES: u32 = 50;

/// The events of a full page.
const PAGE: usize = 60;

/// The events of a catch-up by several users, and the most users of one.
const ALL_EVENTS: usize = 20_000;
const USERS_MAX: usize = 1_000;

const NOW: UnixMillis = UnixMillis(1_795_523_756_000);

const USERS: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
const POOL_COUNTS: [usize; 5] = [1, 10, 50, 100, 200];
const EVENTS: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
/// The last is about the default of `state.outbox_limit`, 1 GiB.
const WAITING: [usize; 5] = [0, 1_000, 10_000, 100_000, 1_000_000];
const SCHEDULED: [u32; 5] = [500, 1_000, 2_000, 4_000, 8_000];

/// One cost over its driver.
struct Cost {
    what: &'static str,
    points: Vec<(f64, f64)>,
}

/// The costs over one driver.
struct CostTable {
    driver: &'static str,
    file: &'static str,
    costs: Vec<Cost>,
}

impl CostTable {
    fn new(driver: &'static str, file: &'static str) -> Self {
        Self { driver, file, costs: vec![] }
    }

    fn add(&mut self, what: &'static str, driver: usize, value: f64) {
        let point = (driver as f64, value);
        match self.costs.iter_mut().find(|cost| cost.what == what) {
            Some(cost) => cost.points.push(point),
            None => self.costs.push(Cost { what, points: vec![point] }),
        }
    }

    /// Prints the table and draws the plot.
    fn show(&self) {
        let Some(first) = self.costs.first() else { return };
        let drivers: Vec<String> = first.points.iter().map(|(driver, _)| driver.to_string()).collect();
        println!("\n| {} | {} | exponent |", self.driver, drivers.join(" | "));
        println!("|---|{}--:|", "--:|".repeat(drivers.len()));
        for cost in &self.costs {
            let cells: Vec<String> = cost.points.iter().map(|(_, value)| digits(*value)).collect();
            println!("| {} | {} | {:.2} |", cost.what, cells.join(" | "), exponent(&cost.points));
        }
        let curves: Vec<Curve<'_>> =
            self.costs.iter().map(|cost| Curve { name: cost.what, points: cost.points.clone() }).collect();
        let title = format!("Costs over {}, each as a multiple of its first", self.driver);
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance");
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(format!("{folder}/{}", self.file), Growth { title: &title, curves: &curves }.draw()).unwrap();
        println!("\n![{title}](performance/{})", self.file);
    }
}

/// The slope of the line through the points on logarithmic axes. A driver of 0 counts as 1.
fn exponent(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<_> =
        points.iter().filter(|(_, value)| *value > 0.0).map(|(at, value)| (at.max(1.0).ln(), value.ln())).collect();
    let count = logs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let (together, alone) = logs.iter().fold((0.0, 0.0), |(together, alone), (at, value)| {
        (together + (at - x) * (value - y), alone + (at - x) * (at - x))
    });
    together / alone
}

/// A figure with three significant digits.
fn digits(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        1.0.. => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _runtime = runtime.enter();
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let part: usize = std::env::var("PART").map_or(10, |text| text.parse().expect("a number"));
    let case = |name: &str, measure: fn(usize)| {
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            measure(part);
        }
    };
    case("users", users);
    case("pools", pools);
    case("events", events);
    case("cursor", cursor);
    case("outbox", outbox);
    case("delay", delay);
}

/// The sizes up to the largest one divided by `part`, at least two of them.
fn up_to(sizes: &[usize], part: usize) -> impl Iterator<Item = usize> {
    let most = sizes.last().unwrap() / part;
    sizes.iter().enumerate().filter(move |(place, size)| *place < 2 || **size <= most).map(|(_, size)| *size)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Users without new events, and a ledger that knows all of them.
fn users(part: usize) {
    let mut table = CostTable::new("users", "growth-users.svg");
    for users in up_to(&USERS, part) {
        // A few events each: a million users with full pages would not fit into this process.
        let field = Field::new(|world| populate(world, &POOLS, users, 8));
        let contender = Contender::exporter(&POOLS, "1s", Variant::default());
        let known = field.prepare(&contender);
        let work = Work { warm_up: true, polls: POLLS, events: 0 };
        let run = field.run(&contender, Start::From(&known), work, |_| {});
        table.add("CPU of a poll, ms", users, run.cpu_per(run.calls as f64) * 1e3);
        table.add("start to ready, ms", users, milliseconds(run.ready));
        table.add("start to first poll, ms", users, milliseconds(run.first_poll));
        table.add("peak memory, MiB", users, run.peak_bytes as f64 / f64::from(1 << 20));
        table.add("ledger, MiB", users, known.bytes() as f64 / f64::from(1 << 20));
    }
    table.show();
}

/// Pools of ten users.
fn pools(part: usize) {
    let mut table = CostTable::new("pools", "growth-pools.svg");
    for count in up_to(&POOL_COUNTS, part.min(2)) {
        let names: Vec<String> = (0..count).map(|pool| format!("eu-west-1_Growth{pool}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let field = Field::new(|world| populate(world, &names, count * 10, 5));
        let contender = Contender::exporter(&names, "1d", Variant::default());
        let known = field.prepare(&contender);
        let env = field.env(&contender, Start::From(&known));
        let began = Instant::now();
        let exporter = env.exporter(&field);
        let ready = began.elapsed();
        std::thread::sleep(Duration::from_secs(3));
        let scrape = ScrapeCost::of(&exporter, SCRAPES);
        table.add("scrape, ms", count, milliseconds(scrape.median));
        table.add("CPU of a scrape, ms", count, milliseconds(scrape.cpu));
        table.add("size of a scrape, KiB", count, scrape.bytes as f64 / 1024.0);
        table.add("start to ready, ms", count, milliseconds(ready));
        table.add("memory, MiB", count, usage(exporter.pid()).resident_bytes as f64 / f64::from(1 << 20));
    }
    table.show();
}

/// The new events of one user: spread over two years, and in the last half an hour, which the cursor remembers. Where
/// the events are few there are more such users, so that the time of the process can be measured.
fn events(part: usize) {
    let mut table = CostTable::new("events of one user", "growth-events.svg");
    for count in up_to(&EVENTS, part) {
        for (what, apart_ms) in
            [("CPU of an event, ms", 600_000), ("CPU of an event in a burst, ms", (1_800_000 / count as i64).max(1))]
        {
            let users = (ALL_EVENTS / count).clamp(1, USERS_MAX);
            let field = Field::new(|world| lively_users(world, users, count, apart_ms));
            let contender = Contender::exporter(&[POOL], "1s", Variant::default());
            let work = Work { warm_up: false, polls: users as u64, events: users * count };
            let run = field.run(&contender, Start::Anew, work, |_| {});
            table.add(what, count, run.cpu_per(run.events as f64) * 1e3);
        }
    }
    table.show();
}

/// Adds users with events this far apart, the newest of them a minute old.
fn lively_users(world: &mut World, users: usize, events: usize, apart_ms: i64) {
    world.add_pool(SimulatedPool::new(POOL));
    let now = world.now().0;
    for user in 0..users {
        let name = name(user);
        world.add_user_with(POOL, &name, |user| user.created = UnixMillis(now - 2 * 365 * 86_400_000));
        for event in (0..events).rev() {
            let event = world.sign_in(UnixMillis(now - 60_000 - event as i64 * apart_ms));
            world.arrive(POOL, &name, &event);
        }
    }
}

/// A user whose cursor remembers events: the ledger alone.
fn cursor(part: usize) {
    let mut table = CostTable::new("remembered events", "growth-cursor.svg");
    let now = NOW;
    for remembered in up_to(&EVENTS, part) {
        let mut world = World::new(WorldClock::Manual(now), 1, Quotas::unlimited());
        let events: Vec<AuthEvent> = (0..remembered)
            .map(|age| world.sign_in(UnixMillis(now.0 - 1_800_000 * age as i64 / remembered as i64)))
            .collect();
        let (mut cursor, rules) = (Cursor::new(now.minus(Duration::from_hours(2)), UnixMillis(0)), rules());
        let mut walk = Walk::begin(&cursor, now);
        let pages = events.chunks(PAGE).enumerate();
        for (number, events) in pages {
            let next = ((number + 1) * PAGE < remembered).then(|| PageToken(number.to_string()));
            walk.take(&mut cursor, &Page { events: events.to_vec(), next, received: now, served: None }, &rules);
        }
        assert_eq!(cursor.remembered(), remembered);
        let (ledger, _directory) = ledger(now);
        let record = UserRecord { joined: now, sub: None, cursor: cursor.clone(), activity: None };
        let enrolled = vec![("ada".to_owned(), record.clone())];
        Handle::current().block_on(ledger.enroll(POOL, enrolled)).unwrap();
        let commit = |world: &mut World| {
            let events = (0..PAGE).map(|_| world.sign_in(now)).collect();
            let commit = commit_of(record.clone(), events, now);
            let began = Instant::now();
            Handle::current().block_on(ledger.commit(commit)).unwrap();
            began.elapsed()
        };
        let took = median((0..REPEATS).map(|_| commit(&mut world)).collect());
        table.add("commit of 60 events, ms", remembered, milliseconds(took));
        let known = Page { events: events.iter().take(8).cloned().collect(), next: None, received: now, served: None };
        let poll = || {
            let mut cursor = cursor.clone();
            let began = Instant::now();
            Walk::begin(&cursor, now).take(&mut cursor, &known, &rules);
            began.elapsed()
        };
        table.add(
            "walk of a page of 8 known events, ms",
            remembered,
            milliseconds(median((0..REPEATS).map(|_| poll()).collect())),
        );
        Handle::current().block_on(ledger.close());
    }
    table.show();
}

fn rules() -> Rules {
    Rules { overlap: Duration::from_hours(1), settle: Duration::from_mins(30), followed_since: None }
}

/// An empty ledger on a disk in memory, if there is one, because the time of a real disk is not the exporter's.
fn ledger(now: UnixMillis) -> (Ledger, (TempDir, StateConfig)) {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let state = StateConfig { path: directory.path().to_owned(), ..StateConfig::default() };
    (Ledger::open(&state, now).unwrap().ledger, (directory, state))
}

/// A ledger in which records wait for delivery.
fn outbox(part: usize) {
    let mut table = CostTable::new("waiting records", "growth-outbox.svg");
    let runtime = Handle::current();
    for waiting in up_to(&WAITING, part) {
        let now = NOW;
        let (ledger, (_directory, state)) = ledger(now);
        let record = UserRecord { joined: now, sub: None, cursor: Cursor::new(now, now), activity: None };
        runtime.block_on(ledger.enroll(POOL, vec![("ada".to_owned(), record.clone())])).unwrap();
        let mut world = World::new(WorldClock::Manual(now), 1, Quotas::unlimited());
        let mut commit = |events: usize| {
            let events = (0..events).map(|_| world.sign_in(now)).collect();
            let commit = commit_of(record.clone(), events, now);
            let began = Instant::now();
            runtime.block_on(ledger.commit(commit)).unwrap();
            began.elapsed()
        };
        for from in (0..waiting).step_by(PAGE) {
            commit(PAGE.min(waiting - from));
        }
        let took = median((0..REPEATS).map(|_| commit(PAGE)).collect());
        table.add("commit of 60 events, ms", waiting, milliseconds(took));
        table.add("ledger, MiB", waiting, ledger.size_bytes() as f64 / f64::from(1 << 20));
        runtime.block_on(ledger.close());
        let began = Instant::now();
        let again = Ledger::open(&state, now).unwrap().ledger;
        table.add("opening the ledger, ms", waiting, milliseconds(began.elapsed()));
        runtime.block_on(again.close());
    }
    table.show();
}

fn commit_of(record: UserRecord, events: Vec<AuthEvent>, now: UnixMillis) -> Commit {
    let pool = Arc::new(PoolIdentity {
        id: POOL.to_owned(),
        name: POOL.to_owned(),
        region: "eu-west-1".to_owned(),
        account_id: Some("111122223333".to_owned()),
    });
    let user = Arc::new(UserIdentity { username: "ada".to_owned(), sub: Some("a-sub".to_owned()) });
    let entry = |event| Entry {
        pool: pool.clone(),
        user: user.clone(),
        event,
        revision: 0,
        history: false,
        observed: now,
        told_by: EventSource::default(),
        details: ExportDetails::default(),
        masked: Modes::default(),
    };
    let entries = events.into_iter().map(entry).collect();
    Commit { pool: pool.clone(), username: "ada".to_owned(), record, totals: vec![], entries, told: vec![] }
}

/// The mean delay of users who share five calls per second, in virtual time.
fn delay(_: usize) {
    let mut table = CostTable::new("users at 5 calls per second", "growth-delay.svg");
    for users in SCHEDULED {
        for (what, shape) in [
            ("mean delay of equal users, s", TraceShape::Uniform),
            ("mean delay, 60 % dormant, s", TraceShape::Dormant),
            ("mean delay, attacks, s", TraceShape::Attacks),
        ] {
            let terms = SimTerms { calls_per_second: 5.0, min_interval: 15.0, max_interval: HOUR };
            let trace = trace(shape, users, 12.0 * HOUR, 3.0 * HOUR, 1);
            let in_progress = InProgress { answered: 0.2, abandoned: 0.03 };
            let terms = TurnTerms { terms, in_progress, history: false, forecast_every: 600.0 };
            let figures = run_turns(&trace, &terms, 2.0 * HOUR);
            table.add(what, users as usize, figures.mean_delay(&(4.0 * HOUR..12.0 * HOUR)));
        }
    }
    table.show();
}
