//! A soak test: the built binary follows 20,000 active users while its receiver goes down, up, down and up, and its
//! memory is watched. `cargo bench --bench soak`
//!
//! It fails if the process ever exceeds the limit below. It also fails if at the end an event is missing, counted
//! wrongly, or delivered more often than the outages explain. Cognito and the receiver run in this process and the
//! exporter in its own, so only the exporter's memory is measured. `SOAK_SECONDS` and `SOAK_USERS` change the size.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints its results, and one that cannot go on fails"
)]

#[path = "../tests/support/exporter.rs"]
mod exporter;
#[path = "../tests/support/receiver.rs"]
mod receiver;
#[path = "../tests/support/test_env.rs"]
mod test_env;

use std::collections::{BTreeSet, VecDeque};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cognito_auth_core::event::{EventResponse, UnixMillis, Word};
use cognito_auth_simulator::world::{SimulatedPool, World};
use exporter::Exporter;
use test_env::{MINUTE, TestEnv, counted, now, outcomes, sign_ins};

/// The limit of the process at 20,000 users: 64 MiB of sled's cache, and twice as much for everything else.
const RESIDENT_MAX: u64 = 192 << 20;

const POOL: &str = "eu-west-1_Soak";

/// New events per second of all users together. Cognito's default quota for sign-ins is 120 per second.
const EVENTS_PER_SECOND: u32 = 120;

const TICK: Duration = Duration::from_millis(100);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
const ROW_EVERY: Duration = Duration::from_secs(10);

/// The longest time to finish after the last event: rounds through all users on a busy machine.
const SETTLE_MAX: Duration = Duration::from_secs(600);

/// One batch in flight at each outage may be repeated.
const REPEATS_MAX: usize = 2 * 512;

fn main() -> ExitCode {
    tokio::runtime::Runtime::new().unwrap().block_on(soak(number("SOAK_SECONDS", 300), number("SOAK_USERS", 20_000)))
}

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

async fn soak(seconds: u32, users: u32) -> ExitCode {
    let config = format!(
        "[[pools]]\nid = {POOL:?}\nall_users = true\nfollowed_since = \"2020-01-01T00:00:00Z\"\n\
         [poll]\nrequests_per_second = 500\nconcurrency = 32\nfirst_run = \"none\"\n\
         [discovery]\nrequests_per_second = 30\n"
    );
    let env = TestEnv::set(&config, |world| {
        world.add_pool(SimulatedPool::new(POOL));
        for user in 0..users {
            let name = format!("user-{user}");
            world.add_user(POOL, &name);
            sign_ins(world, POOL, &name, i64::from(user % 4), UnixMillis(now().0 - MINUTE));
        }
    })
    .await;
    let exporter = env.exporter();
    println!(
        "{users} users, {EVENTS_PER_SECOND} events a second for {seconds} s; the receiver goes down, up, down, up\n"
    );
    println!(
        "{:>8}  {:>8}  {:>9}  {:>9}  {:>8}  {:>8}",
        "seconds", "receiver", "RSS MiB", "anon MiB", "events", "outbox"
    );

    let mut life = SoakLife { random: fastrand::Rng::with_seed(1), users, in_progress: VecDeque::new() };
    let mut watch = MemoryWatch::new(exporter);
    for quarter in 0..4 {
        if quarter % 2 == 0 {
            env.receiver.stop().await;
        } else {
            env.receiver.start().await;
        }
        watch.receiver = if quarter % 2 == 0 { "down" } else { "up" };
        let ends = watch.began + Duration::from_secs(u64::from(seconds)) * (quarter + 1) / 4;
        while Instant::now() < ends {
            env.simulation.world(|world| life.tick(world));
            watch.look();
            tokio::time::sleep(TICK).await;
        }
    }
    env.simulation.world(|world| life.finish(world));
    let conserved = settle(&env, &mut watch).await;
    println!("\nat most {} MiB resident, {} MiB anonymous", watch.resident_max >> 20, watch.anonymous_max >> 20);
    let is_small = watch.resident_max <= RESIDENT_MAX;
    let stopped = watch.exporter.stop();
    println!("memory {} {} MiB", if is_small { "stayed within" } else { "EXCEEDED" }, RESIDENT_MAX >> 20);
    println!("{}", if conserved { "every event was counted and delivered" } else { "EVENTS WERE NOT CONSERVED" });
    println!("{}", if stopped.success() { "it stopped well" } else { "IT DID NOT STOP WELL" });
    if is_small && conserved && stopped.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits until every event is counted and delivered. Returns whether that happened, and without too many repeats.
async fn settle(env: &TestEnv, watch: &mut MemoryWatch) -> bool {
    let truth = env.truth(&[POOL]);
    let (ids, outcomes) = (truth.iter().map(|event| event.id.clone().unwrap()), outcomes(truth.iter()));
    let ids: BTreeSet<_> = ids.collect();
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        watch.look();
        let is_counted = counted(&watch.exporter.scrape(), &[POOL]) == outcomes;
        let waiting = watch.exporter.scrape().sum("cognito_exporter_outbox_records", &[]);
        if is_counted && waiting < 0.5 {
            // The gauge is a second old, so it is read once more.
            tokio::time::sleep(SAMPLE_EVERY * 2).await;
            let records = env.receiver.records();
            let uids: BTreeSet<_> = records.iter().map(|record| record.uid()).collect();
            let repeats = records.len() - uids.len();
            println!("\n{} events, {} records, {repeats} repeats", truth.len(), records.len());
            return test_env::ids(&records, &[POOL]) == ids && repeats <= REPEATS_MAX;
        }
        if Instant::now() > deadline {
            println!("\n{waiting} records wait; counted: {is_counted}");
            return false;
        }
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
}

/// The users' actions: few sign in often, some need a second factor.
struct SoakLife {
    random: fastrand::Rng,
    users: u32,
    /// The events in progress, oldest first, with their users.
    in_progress: VecDeque<(String, String)>,
}

impl SoakLife {
    fn tick(&mut self, world: &mut World) {
        for _ in 0..EVENTS_PER_SECOND / 10 {
            // With the cube, a tenth of the users make half of the sign-ins.
            let user = self.random.f64().powi(3) * f64::from(self.users);
            let name = format!("user-{user:.0}", user = user.floor());
            let mut event = world.sign_in(now());
            if self.random.u8(..5) == 0 {
                event.response = Some(Word::Known(EventResponse::InProgress));
                self.in_progress.push_back((name.clone(), event.id.clone().unwrap()));
            }
            world.arrive(POOL, &name, &event);
        }
        // The older ones end.
        while self.in_progress.len() > 200 {
            self.finish_one(world);
        }
    }

    fn finish_one(&mut self, world: &mut World) {
        if let Some((name, id)) = self.in_progress.pop_front() {
            world.revise(POOL, &name, &id, |event| event.response = Some(Word::Known(EventResponse::Pass)));
        }
    }

    fn finish(&mut self, world: &mut World) {
        while !self.in_progress.is_empty() {
            self.finish_one(world);
        }
    }
}

/// The exporter's memory over time.
struct MemoryWatch {
    exporter: Exporter,
    began: Instant,
    sampled: Instant,
    shown: Option<Instant>,
    receiver: &'static str,
    resident_max: u64,
    anonymous_max: u64,
}

impl MemoryWatch {
    fn new(exporter: Exporter) -> Self {
        let began = Instant::now();
        Self { exporter, began, sampled: began, shown: None, receiver: "up", resident_max: 0, anonymous_max: 0 }
    }

    /// Samples, and prints a row when it is time.
    fn look(&mut self) {
        if self.sampled.elapsed() < SAMPLE_EVERY {
            return;
        }
        self.sampled = Instant::now();
        let (resident, anonymous) = (self.exporter.resident_bytes(), self.exporter.anonymous_bytes());
        self.resident_max = self.resident_max.max(resident);
        self.anonymous_max = self.anonymous_max.max(anonymous);
        if self.shown.is_some_and(|shown| shown.elapsed() < ROW_EVERY) {
            return;
        }
        self.shown = Some(self.sampled);
        let scrape = self.exporter.scrape();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "{:>8}  {:>8}  {:>9.1}  {:>9.1}  {:>8}  {:>8}",
            self.began.elapsed().as_secs(),
            self.receiver,
            mib(resident),
            mib(anonymous),
            scrape.sum("cognito_auth_events_total", &[]),
            scrape.sum("cognito_exporter_outbox_records", &[]),
        );
    }
}
