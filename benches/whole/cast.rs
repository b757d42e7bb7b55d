//! The contenders, their environment, and one run of one of them.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::quota::Quotas;
use cognito_auth_simulator::world::{SimulatedPool, World};
use cognito_auth_simulator::{Options, Simulation};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::collector::Collector;
use crate::exporter::{self, Exporter};
use crate::process::{Usage, usage};

/// The operation that reads a user's history.
pub(crate) const READ: &str = "AdminListUserAuthEvents";

/// Longer than any measurement here.
const PATIENCE: Duration = Duration::from_secs(1800);

/// The time to finish after the last answered call or acknowledged record.
const SETTLE: Duration = Duration::from_millis(500);

/// The script's pause between two rounds, longer than [`SETTLE`].
const PAUSE: Duration = Duration::from_secs(2);

const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The pause before a scrape. The server shares a rendering for nine times as long as it took, and shares it for a
/// second at most. A scraper that asks seldom always gets a rendering of its own.
const SCRAPE_EVERY: Duration = Duration::from_millis(400);

/// The time between sign-ins of one user: seven hours, so that 60 events take two and a half weeks.
const BETWEEN_EVENTS_MS: i64 = 7 * 3_600_000;

/// The environment of all contenders: Cognito and a receiver.
pub(crate) struct Field {
    simulation: Simulation,
    collector: Collector,
}

/// A program that is measured.
pub(crate) enum Contender {
    Exporter {
        config: String,
        variant: Variant,
    },
    /// The script, which reads one pool. None without a suitable interpreter.
    Peer {
        python: Option<PathBuf>,
        pool: String,
        page_size: u8,
    },
}

/// A difference to the exporter that was built with this benchmark.
#[derive(Clone, Default)]
pub(crate) struct Variant {
    name: String,
    program: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

impl Variant {
    /// The variants in `VARIANTS`, as in `MALLOC_ARENA_MAX=1; EXPORTER=/path/to/another`: each by its assignments.
    /// `EXPORTER` is the binary, and all others are its environment.
    pub(crate) fn asked_for() -> Vec<Self> {
        let variants = std::env::var("VARIANTS").unwrap_or_default();
        let named = variants.split(';').map(str::trim).filter(|name| !name.is_empty());
        named.map(Self::of).collect()
    }

    /// The same exporter under another name.
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    fn of(name: &str) -> Self {
        let mut variant = Self::named(name);
        for assignment in name.split_whitespace() {
            match assignment.split_once('=').expect("a variant is assignments") {
                ("EXPORTER", program) => variant.program = Some(program.into()),
                (name, value) => variant.environment.push((name.to_owned(), value.to_owned())),
            }
        }
        variant
    }
}

/// A contender's state at the start.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Empty, and all events are exported.
    Anew,
    /// Empty, and the events of the first polls are not exported.
    Skipping,
    /// The state after a preparation.
    From(&'a StoredState),
}

/// The stored state of a contender.
pub(crate) struct StoredState(TempDir);

impl StoredState {
    /// Its size on disk.
    #[allow(dead_code, reason = "only the benchmark of growth uses it")]
    pub(crate) fn bytes(&self) -> u64 {
        size(self.0.path())
    }
}

/// The work of a run: it ends after this many polls and this many acknowledged records.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// Whether every user is polled once before the measurement.
    pub(crate) warm_up: bool,
    pub(crate) polls: u64,
    pub(crate) events: usize,
}

/// One run, from ready (or from the end of its warm-up) to the end of its work.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    /// Calls for histories.
    pub(crate) calls: u64,
    /// The MaxResults of most of them.
    pub(crate) page_size: u8,
    pub(crate) events: usize,
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    pub(crate) peak_bytes: u64,
    /// From the start of the process until it is ready, and until its first call for a history.
    pub(crate) ready: Duration,
    pub(crate) first_poll: Duration,
    /// The processor time of the environment in the same time, which belongs to no contender.
    pub(crate) field_cpu: Duration,
}

impl Run {
    /// Seconds of processor time per unit of work.
    pub(crate) fn cpu_per(&self, done: f64) -> f64 {
        self.cpu.as_secs_f64() / done
    }
}

impl Contender {
    /// The exporter with the fastest settings. A polled user is polled again after `again`, such as "1d".
    pub(crate) fn exporter(pools: &[&str], again: &str, variant: Variant) -> Self {
        let pools: String = pools.iter().map(|pool| format!("[[pools]]\nid = {pool:?}\nall_users = true\n")).collect();
        let config = format!(
            "{pools}[poll]\nrequests_per_second = 1000\nmin_interval = {again:?}\nmax_interval = \"1d\"\n\
             [discovery]\ninterval = \"1d\"\nrequests_per_second = 30\n"
        );
        Self::Exporter { config, variant }
    }

    /// The script, reading a pool in pages of this size.
    pub(crate) fn peer(pool: &str, page_size: u8) -> Self {
        let python = PathBuf::from(std::env::var_os("PEERS_PYTHON").unwrap_or_else(|| "python3".into()));
        let imports = ["-c", "import boto3, opentelemetry.exporter.otlp.proto.http, prometheus_client"];
        let imported = Command::new(&python).args(imports).stderr(Stdio::null()).status();
        let python = imported.is_ok_and(|status| status.success()).then_some(python);
        Self::Peer { python, pool: pool.to_owned(), page_size }
    }

    /// The name in a table.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Exporter { variant, .. } if variant.name.is_empty() => "exporter".to_owned(),
            Self::Exporter { variant, .. } => variant.name.clone(),
            Self::Peer { page_size, .. } => format!("script, pages of {page_size}"),
        }
    }

    /// Whether it is available.
    pub(crate) fn is_here(&self) -> bool {
        !matches!(self, Self::Peer { python: None, .. })
    }

    /// The name of the folder with its state.
    fn folder(&self) -> &'static str {
        match self {
            Self::Exporter { .. } => "state",
            Self::Peer { .. } => "peer",
        }
    }
}

/// The environment of one run of one contender.
pub(crate) struct RunEnv<'a> {
    contender: &'a Contender,
    start: Start<'a>,
    directory: TempDir,
}

impl Field {
    /// An environment with a populated Cognito without quotas. Must be called within a runtime.
    pub(crate) fn new(populate: impl FnOnce(&mut World)) -> Self {
        let options = Options { quotas: Quotas::unlimited(), ..Options::default() };
        let start = async { (Simulation::start(options).await.unwrap(), Collector::start().await) };
        let (simulation, collector) = Handle::current().block_on(start);
        simulation.world(populate);
        Self { simulation, collector }
    }

    /// Changes Cognito.
    pub(crate) fn world<R>(&self, change: impl FnOnce(&mut World) -> R) -> R {
        self.simulation.world(change)
    }

    /// The number of records that the receiver has acknowledged.
    #[allow(dead_code, reason = "only the benchmark of the whole uses it")]
    pub(crate) fn records(&self) -> usize {
        self.collector.records()
    }

    /// The number of calls of an operation.
    pub(crate) fn calls(&self, operation: &str) -> u64 {
        self.world(|world| world.calls().total_of(operation))
    }

    /// Waits until the condition holds.
    pub(crate) fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !condition(self) {
            assert!(began.elapsed() < PATIENCE, "{what} did not come");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until this many users were polled. Some are polled again before others are followed.
    fn until_all_polled(&self, users: u64) {
        let polled = |world: &mut World| world.calls().of(READ).map(|call| &call.user).collect::<HashSet<_>>().len();
        let began = Instant::now();
        while (self.world(polled) as u64) < users {
            assert!(began.elapsed() < PATIENCE, "not everybody was polled");
            std::thread::sleep(SETTLE);
        }
    }

    /// Lets the exporter read every user once without exporting, and keeps its state.
    pub(crate) fn prepare(&self, contender: &Contender) -> StoredState {
        let known = StoredState(tempfile::tempdir().unwrap());
        let users: usize = self.world(|world| world.pools().map(|pool| pool.users().len()).sum());
        let env = self.env(contender, Start::Skipping);
        let before = self.calls(READ);
        let exporter = env.exporter(self);
        self.until("everybody", |field| field.calls(READ) >= before + users as u64);
        assert!(exporter.stop().success());
        copy(&env.directory.path().join(contender.folder()), &known.0.path().join(contender.folder()));
        known
    }

    /// Prepares a run.
    pub(crate) fn env<'a>(&self, contender: &'a Contender, start: Start<'a>) -> RunEnv<'a> {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join(contender.folder());
        match start {
            Start::From(StoredState(known)) if known.path().join(contender.folder()).exists() => {
                copy(&known.path().join(contender.folder()), &state);
            }
            _ => std::fs::create_dir(state).unwrap(),
        }
        RunEnv { contender, start, directory }
    }

    /// Runs a contender until its work is done. `meanwhile` runs before the measurement.
    pub(crate) fn run(
        &self,
        contender: &Contender,
        start: Start<'_>,
        work: Work,
        meanwhile: impl FnOnce(&mut World),
    ) -> Run {
        self.world(|world| world.calls_mut().clear());
        let env = self.env(contender, start);
        let (mut calls, records) = (self.calls(READ), self.collector.records());
        let began = Instant::now();
        let mut process = env.start(self);
        let ready = began.elapsed();
        let (mut measured, mut before, mut field_before) = (Instant::now(), usage(process.pid()), own_cpu());
        self.until("a first poll", |field| field.calls(READ) > calls);
        let first_poll = began.elapsed();
        if work.warm_up {
            process.wait_for(self, &|field| field.calls(READ) >= calls + work.polls);
            if matches!(start, Start::Skipping) {
                self.until_all_polled(work.polls);
            }
            self.world(|world| world.calls_mut().clear());
            calls = self.calls(READ);
            (measured, before, field_before) = (Instant::now(), usage(process.pid()), own_cpu());
        }
        self.world(meanwhile);
        process.wait_for(self, &|field| {
            field.calls(READ) >= calls + work.polls && field.collector.records() >= records + work.events
        });
        let wall = measured.elapsed();
        std::thread::sleep(SETTLE);
        let after: Usage = usage(process.pid());
        let run = Run {
            calls: self.calls(READ) - calls,
            page_size: self.world(|world| usual_page(world)),
            events: self.collector.records() - records,
            cpu: after.cpu.saturating_sub(before.cpu),
            wall,
            peak_bytes: after.peak_bytes,
            ready,
            first_poll,
            field_cpu: own_cpu().saturating_sub(field_before),
        };
        process.end(work);
        assert_eq!(run.events, work.events, "everything once");
        run
    }
}

/// The cost of a scrape by a client that asks seldom.
pub(crate) struct ScrapeCost {
    /// The median time until the client has the whole answer.
    pub(crate) median: Duration,
    /// The mean processor time.
    pub(crate) cpu: Duration,
    /// The size of the last answer.
    pub(crate) bytes: usize,
}

impl ScrapeCost {
    /// Scrapes an idle exporter this many times.
    pub(crate) fn of(exporter: &Exporter, scrapes: u32) -> Self {
        let before = usage(exporter.pid()).cpu;
        let (mut took, mut bytes) = (vec![], 0);
        for _ in 0..scrapes {
            std::thread::sleep(SCRAPE_EVERY);
            let began = Instant::now();
            bytes = exporter.get("/metrics").len();
            took.push(began.elapsed());
        }
        let cpu = usage(exporter.pid()).cpu.saturating_sub(before) / scrapes;
        took.sort_unstable();
        Self { median: took[took.len() / 2], cpu, bytes }
    }
}

/// The MaxResults of most of the newest calls for histories.
fn usual_page(world: &World) -> u8 {
    let mut asked: Vec<_> = world.calls().of(READ).filter_map(|call| call.max_results).collect();
    asked.sort_unstable();
    asked.get(asked.len() / 2).map_or(60, |size| u8::try_from(*size).unwrap())
}

/// The processor time of this process, which is the environment.
pub(crate) fn own_cpu() -> Duration {
    usage(std::process::id()).cpu
}

fn size(path: &Path) -> u64 {
    if path.is_file() {
        return path.metadata().unwrap().len();
    }
    std::fs::read_dir(path).unwrap().map(|entry| size(&entry.unwrap().path())).sum()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl RunEnv<'_> {
    fn start(&self, field: &Field) -> Process {
        match self.contender {
            Contender::Exporter { .. } => Process::Exporter(self.exporter(field)),
            Contender::Peer { .. } => Process::Peer(self.peer(field)),
        }
    }

    /// Starts the exporter and waits until it is ready.
    pub(crate) fn exporter(&self, field: &Field) -> Exporter {
        let Contender::Exporter { config, variant } = self.contender else { panic!("another contender") };
        // New events are not history, and events of a known state are not exported.
        let first_run = match self.start {
            Start::Anew => "all",
            Start::Skipping | Start::From(_) => "none",
        };
        let config = config.replace("[poll]\n", &format!("[poll]\nfirst_run = {first_run:?}\n"));
        let config = match self.start {
            Start::Anew => {
                config.replace("all_users = true\n", "all_users = true\nfollowed_since = \"2020-01-01T00:00:00Z\"\n")
            }
            Start::Skipping | Start::From(_) => config,
        };
        let endpoint = field.collector.endpoint();
        let config = format!("{config}[otlp]\nendpoint = {endpoint:?}\nprotocol = \"http/protobuf\"\n");
        let config = exporter::configure(self.directory.path(), &config);
        let named = std::env::var_os("EXPORTER").map(PathBuf::from);
        let mut command = match variant.program.as_ref().or(named.as_ref()) {
            Some(program) => exporter::isolated(program, &field.simulation.url()),
            None => exporter::command(&field.simulation.url()),
        };
        command.arg("run").arg("--config").arg(config);
        command.envs(variant.environment.iter().map(|(name, value)| (name, value)));
        Exporter::started(command)
    }

    /// Starts the script and waits until it is ready.
    pub(crate) fn peer(&self, field: &Field) -> Peer {
        let Contender::Peer { python: Some(python), pool, page_size } = self.contender else {
            panic!("another contender")
        };
        let mut command = exporter::isolated(python, &field.simulation.url());
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peer/peer.py"))
            .args(["--pool", pool, "--page-size", &page_size.to_string(), "--otlp", &field.collector.endpoint()])
            .arg("--state")
            .arg(self.directory.path().join("peer/seen.db"))
            .args((!matches!(self.start, Start::Anew)).then_some("--skip-history"))
            .args(["--pause", &PAUSE.as_secs().to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut peer = Peer { child, lines };
        assert_eq!(peer.said()["ready"], true);
        peer
    }
}

enum Process {
    Exporter(Exporter),
    Peer(Peer),
}

impl Process {
    fn pid(&self) -> u32 {
        match self {
            Self::Exporter(exporter) => exporter.pid(),
            Self::Peer(peer) => peer.child.id(),
        }
    }

    /// Waits until the work is done: by the calls and records in the environment, and by the script's own report.
    fn wait_for(&mut self, field: &Field, is_done: &dyn Fn(&Field) -> bool) {
        if let Self::Peer(peer) = self {
            peer.said();
        }
        field.until("the work done", is_done);
    }

    /// Checks that it has counted the exported events, and ends it.
    fn end(self, work: Work) {
        match self {
            Self::Exporter(exporter) => {
                let is_counted = |scrape: &exporter::Scrape| {
                    let counted = scrape.sum("cognito_auth_events_total", &[]);
                    let waiting = scrape.sum("cognito_exporter_outbox_records", &[]);
                    (counted - work.events as f64).abs() < 0.5 && waiting < 0.5
                };
                exporter.until("everything counted", is_counted);
                assert!(exporter.stop().success());
            }
            Self::Peer(peer) => drop(peer),
        }
    }
}

/// The script as a process. Dropping it kills it.
pub(crate) struct Peer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// The next line of its output: when it is ready, and after every round.
    pub(crate) fn said(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().expect("the script goes on").unwrap()).unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Adds users by number, spread over the pools, with this many sign-ins each.
pub(crate) fn populate(world: &mut World, pools: &[&str], users: usize, events: usize) {
    for pool in pools {
        world.add_pool(SimulatedPool::new(pool));
    }
    let now = world.now().0;
    for user in 0..users {
        let pool = pools[user % pools.len()];
        let name = name(user);
        world.add_user_with(pool, &name, |user| user.created = UnixMillis(now - 2 * 365 * 86_400_000));
        // The newest is one to seven hours old. Oldest first, because appending is cheap.
        let newest = now - 3_600_000 - (user as i64 * 7_919) % (BETWEEN_EVENTS_MS - 3_600_000);
        for event in (0..events).rev() {
            let event = world.sign_in(UnixMillis(newest - event as i64 * BETWEEN_EVENTS_MS));
            world.arrive(pool, &name, &event);
        }
    }
}

/// A name of 36 characters, as Cognito generates it if users sign in with an address.
pub(crate) fn name(user: usize) -> String {
    format!("{user:08x}-7b1c-4c6e-9f0a-{user:012x}")
}
