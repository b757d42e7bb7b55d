//! The whole program beside the usual alternative: the built binary, and a script with boto3, opentelemetry-python and
//! prometheus_client (`peer/peer.py`). They run as processes, in turn, against the same simulated Cognito and the same
//! receiver.
//!
//! ```text
//! pip install -r benches/peer/requirements.txt
//! cargo bench --bench whole                     # all of it; PEERS_PYTHON names another interpreter than python3
//! RUNS=9 cargo bench --bench whole -- catch-up  # some cases of: catch-up, intake, nothing-new, mix, scrape, idle
//! ```
//!
//! docs/performance.md has the tables of one run. Cognito and the receiver run in this process, so the figures of the
//! other process are its own: the kernel's count of its processor time from ready until its work is done. `EXPORTER`
//! names another binary to measure; `PART=10` measures with a tenth of the users.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

#[path = "whole/cast.rs"]
mod cast;
#[path = "whole/collector.rs"]
mod collector;
#[path = "../tests/support/exporter.rs"]
mod exporter;
#[path = "whole/intake.rs"]
mod intake;
#[path = "whole/process.rs"]
mod process;
#[path = "whole/table.rs"]
mod table;

use std::time::Duration;

use cast::{Contender, Field, READ, Run, ScrapeCost, Start, Variant, Work, name, populate};
use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::world::World;
use exporter::Exporter;
use intake::Pass;
use process::{usage, waits};
use table::{FigureTable, mib};

/// Several accounts' worth of budget. One account has at most 1,000 calls per second, so that 100,000 polls would take
/// long.
const POOLS: [&str; 4] = ["eu-west-1_Whole", "eu-west-2_Whole", "us-east-1_Whole", "us-west-2_Whole"];

/// The pool of the cases with the script, which reads one pool.
const POOL: &str = POOLS[0];

/// The events of each user in a catch-up: two full pages.
const CATCH_UP_EVENTS: usize = 120;

/// The events of each user in a round: a full page.
const PAST_EVENTS: usize = 60;

/// In the mix, one user in this many has signed in since the last round, up to three times.
const LIVELY_OF: usize = 10;

/// The interval after which the exporter polls a user again: at once, or not during the measurement.
const AT_ONCE: &str = "1s";
const NEVER_AGAIN: &str = "1d";

/// The size of the measurements.
struct Plan {
    runs: usize,
    /// Users of a catch-up.
    backward: usize,
    /// Events that Data Firehose delivers.
    delivered: usize,
    /// Users of a round.
    many: usize,
    /// Users of a round that the script makes, too. For `many` users it would take half an hour.
    few: usize,
}

impl Plan {
    fn of_environment() -> Self {
        let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
        let runs = number("RUNS", 5);
        let part = number("PART", 1);
        Self { runs, backward: 2_000 / part, delivered: 240_000 / part, many: 100_000 / part, few: 2_500 / part }
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _runtime = runtime.enter();
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let plan = Plan::of_environment();
    if !Contender::peer(POOL, 60).is_here() {
        println!(
            "PEERS_PYTHON, or python3, has not what benches/peer/requirements.txt lists: the exporter is measured alone"
        );
    }
    let case = |name: &str, measure: fn(&Plan)| {
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            println!("\n## {name}\n");
            measure(&plan);
        }
    };
    case("catch-up", catch_up);
    case("intake", take_in);
    case("nothing-new", nothing_new);
    case("mix", mix);
    case("scrape", scrape);
    case("idle", idle);
}

/// 2,000 new users with 120 events each.
fn catch_up(plan: &Plan) {
    let field = Field::new(|world| populate(world, &[POOL], plan.backward, CATCH_UP_EVENTS));
    let work = Work { warm_up: false, polls: plan.backward as u64, events: plan.backward * CATCH_UP_EVENTS };
    let contenders = contenders(NEVER_AGAIN, &[60]);
    let measured = by_turns(plan.runs, &contenders, |contender| field.run(contender, Start::Anew, work, |_| {}));
    compare(&contenders, &measured, "event", 100_000, |run| run.events as f64);
}

/// Events that only the pool's export tells of, delivered by Data Firehose, and then delivered once more.
fn take_in(plan: &Plan) {
    let field = Field::new(|world| populate(world, &[POOL], 0, 0));
    let requests = field.world(|world| intake::requests(world, POOL, plan.delivered));
    let keys = tempfile::NamedTempFile::new().unwrap();
    let contender = intake::contender(POOL, keys.path());
    let runs: Vec<_> = (0..plan.runs).map(|_| intake::run(&field, &contender, &requests, plan.delivered)).collect();
    let mut table = FigureTable::new(&[contender]);
    for (number, events) in ["new", "known"].into_iter().enumerate() {
        let mut row = |what: &str, figure: fn(&Pass) -> f64| {
            let figures: Vec<_> = runs.iter().map(|run| figure(&run[number])).collect();
            table.plain(&format!("{events} events: {what}"), &figures);
        };
        row("events/s until answered", |pass| pass.events as f64 / pass.answered.as_secs_f64());
        row("events/s until delivered", |pass| pass.events as f64 / pass.delivered.as_secs_f64());
        row("CPU seconds per 100000 events", |pass| pass.cpu_micros_per_event() / 10.0);
        row("CPU microseconds per event", Pass::cpu_micros_per_event);
        row("peak memory, MiB", |pass| mib(pass.peak_bytes));
        row("requests sent again", |pass| pass.repeated as f64);
        row("(the field's CPU per event, microseconds)", |pass| {
            pass.field_cpu.as_secs_f64() * 1e6 / pass.events as f64
        });
    }
    table.print();
}

/// One more poll of every user, without new events.
fn nothing_new(plan: &Plan) {
    let field = Field::new(|world| populate(world, &[POOL], plan.few, PAST_EVENTS));
    let mut contenders = contenders(AT_ONCE, &[60]);
    let work = Work { warm_up: true, polls: plan.few as u64, events: 0 };
    let run = |contender: &Contender| field.run(contender, Start::Skipping, work, |_| {});
    // One run to learn the page size of the exporter, which the script is to use, too.
    let page_size = run(&contenders[0]).page_size;
    contenders.extend(Some(Contender::peer(POOL, page_size)).filter(Contender::is_here));
    let mut measured = by_turns(plan.runs, &contenders, run);
    drop(field);

    let field = Field::new(|world| populate(world, &POOLS, plan.many, PAST_EVENTS));
    let many = Contender::exporter(&POOLS, AT_ONCE, Variant::named(&format!("exporter, {} users", plan.many)));
    let known = field.prepare(&many);
    let work = Work { warm_up: true, polls: plan.many as u64, events: 0 };
    let many = [many];
    measured.extend(by_turns(plan.runs, &many, |contender| field.run(contender, Start::From(&known), work, |_| {})));
    contenders.extend(many);

    compare(&contenders, &measured, "poll", 1_000, |run| run.calls as f64);
}

/// One more poll of every user; every tenth user has signed in since, up to three times.
fn mix(plan: &Plan) {
    let lively = || (0..plan.few).step_by(LIVELY_OF);
    let sign_ins = |user: usize| 1 + (user / LIVELY_OF) % 3;
    let sign_in = |world: &mut World| {
        for user in lively() {
            for age in 0..sign_ins(user) {
                let event = world.sign_in(UnixMillis(world.now().0 - age as i64));
                world.arrive(POOL, &name(user), &event);
            }
        }
    };
    let contenders = contenders(AT_ONCE, &[60]);
    let work = Work { warm_up: true, polls: plan.few as u64, events: lively().map(sign_ins).sum() };
    let measured = by_turns(plan.runs, &contenders, |contender| {
        // A new environment each time, because the events stay.
        let field = Field::new(|world| populate(world, &[POOL], plan.few, PAST_EVENTS));
        field.run(contender, Start::Skipping, work, sign_in)
    });
    compare(&contenders, &measured, "poll", 1_000, |run| run.calls as f64);
}

/// Prints the cost for each of the `done` things, `many` of them at a time.
fn compare(contenders: &[Contender], measured: &[Vec<Run>], thing: &str, many: u32, done: fn(&Run) -> f64) {
    let mut table = FigureTable::new(contenders);
    let cpu = format!("CPU seconds per {many} {thing}s");
    table.row(&cpu, measured, |run| run.cpu_per(done(run)) * f64::from(many));
    table.row(&format!("{thing}s/s"), measured, |run| done(run) / run.wall.as_secs_f64());
    table.common_rows(measured);
    table.ratio(&format!("CPU per {thing}, times the exporter's"), measured, |run| run.cpu_per(done(run)));
    table.ratio("peak memory, times the exporter's", measured, |run| run.peak_bytes as f64);
    table.print();
}

/// `/metrics` of 50 pools.
fn scrape(plan: &Plan) {
    const SCRAPES: u32 = 50;
    let pools: Vec<String> = (0..50).map(|pool| format!("eu-west-1_Scrape{pool}")).collect();
    let pools: Vec<&str> = pools.iter().map(String::as_str).collect();
    let field = Field::new(|world| populate(world, &pools, 50 * 10, 5));
    let contender = Contender::exporter(&pools, NEVER_AGAIN, Variant::default());
    let measured: Vec<ScrapeCost> = (0..plan.runs)
        .map(|_| {
            let env = field.env(&contender, Start::Anew);
            let exporter = env.exporter(&field);
            exporter
                .until("everybody polled", |scrape| scrape.sum("cognito_exporter_users", &["state=\"ok\""]) > 499.5);
            std::thread::sleep(Duration::from_secs(2));
            ScrapeCost::of(&exporter, SCRAPES)
        })
        .collect();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let mut table = FigureTable::new(&[contender]);
    table
        .plain("median time of a scrape, ms", &measured.iter().map(|run| milliseconds(run.median)).collect::<Vec<_>>());
    table.plain("CPU milliseconds of a scrape", &measured.iter().map(|run| milliseconds(run.cpu)).collect::<Vec<_>>());
    table.plain("KiB of a scrape", &measured.iter().map(|run| run.bytes as f64 / 1024.0).collect::<Vec<_>>());
    table.print();
}

/// A hundred users without new events: memory and wake-ups. Measured once after the first reading of all events, and
/// once after a start with a complete ledger.
fn idle(_: &Plan) {
    const WATCHED: Duration = Duration::from_secs(60);
    let field = Field::new(|world| populate(world, &[POOL], 100, PAST_EVENTS));
    let contender = Contender::exporter(&[POOL], NEVER_AGAIN, Variant::default());
    let known = field.prepare(&contender);
    for (what, start) in [("after a catch-up", Start::Anew), ("after a start", Start::From(&known))] {
        let calls = field.calls(READ);
        let env = field.env(&contender, start);
        let exporter: Exporter = env.exporter(&field);
        field.until("everybody polled", |field| field.calls(READ) >= calls + 100);
        std::thread::sleep(WATCHED);
        let (before, calls, cpu) = (waits(exporter.pid()), field.calls(READ), usage(exporter.pid()).cpu);
        std::thread::sleep(WATCHED);
        let (after, used) = (waits(exporter.pid()), usage(exporter.pid()));
        let wakes = |(name, waits): &(String, u64)| {
            let earlier = before.iter().find(|(earlier, _)| earlier == name).map_or(0, |(_, waits)| *waits);
            (waits - earlier) as f64 / WATCHED.as_secs_f64()
        };
        println!(
            "{what}: {:.1} MiB resident, {:.1} of them no file's, at most {:.1}; in {WATCHED:?} {} polls, {:?} of CPU and {:.1} wake-ups/s:\n",
            mib(used.resident_bytes),
            mib(used.anonymous_bytes),
            mib(used.peak_bytes),
            field.calls(READ) - calls,
            used.cpu.saturating_sub(cpu),
            after.iter().map(wakes).sum::<f64>(),
        );
        for thread in &after {
            println!("{:>8.2} {}", wakes(thread), thread.0);
        }
        println!();
    }
}

/// The exporter, which polls every user again after `again`, its variants, and the script with each of these page
/// sizes.
fn contenders(again: &str, page_sizes: &[u8]) -> Vec<Contender> {
    let variants = std::iter::once(Variant::default()).chain(Variant::asked_for());
    let exporters = variants.map(|variant| Contender::exporter(&[POOL], again, variant));
    let all = exporters.chain(page_sizes.iter().map(|size| Contender::peer(POOL, *size)));
    all.filter(Contender::is_here).collect()
}

/// Measures every contender `runs` times, in turn, so that other load on the machine affects all of them.
fn by_turns(runs: usize, contenders: &[Contender], mut run: impl FnMut(&Contender) -> Run) -> Vec<Vec<Run>> {
    let mut measured = vec![Vec::with_capacity(runs); contenders.len()];
    for _ in 0..runs {
        for (contender, measured) in contenders.iter().zip(&mut measured) {
            measured.push(run(contender));
        }
    }
    measured
}
