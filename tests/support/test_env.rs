//! The environment of a test: a simulated Cognito, a receiver, and a directory for configuration and state. Exporters
//! start and stop in it.

#![allow(dead_code, unreachable_pub, reason = "shared by test crates, each of which uses its own part")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its environment is to fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use cognito_auth_core::event::{AuthEvent, UnixMillis};
use cognito_auth_exporter::config::StateConfig;
use cognito_auth_exporter::ledger::Ledger;
use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_simulator::calls::Call;
use cognito_auth_simulator::quota::Quotas;
use cognito_auth_simulator::world::{SimulatedPool, World};
use cognito_auth_simulator::{Options, Simulation};
use tempfile::TempDir;

use crate::exporter::{self, Exporter, Scrape};
use crate::receiver::{Received, Receiver};

/// A minute in milliseconds.
pub const MINUTE: i64 = 60_000;

/// The operation that reads a user's history.
pub const READ: &str = "AdminListUserAuthEvents";

/// The environment of an exporter.
pub struct TestEnv {
    /// The simulated Cognito.
    pub simulation: Simulation,
    /// The receiver of the records.
    pub receiver: Receiver,
    config: PathBuf,
    directory: TempDir,
}

impl TestEnv {
    /// Sets up the environment. `config` is the configuration without the receiver, the state and the listener.
    /// `{directory}` in it is the directory of [`TestEnv::file`].
    pub async fn set(config: &str, populate: impl FnOnce(&mut World)) -> Self {
        Self::set_for(Receiver::grpc().await, "grpc", config, populate).await
    }

    /// The same for a receiver of another protocol.
    pub async fn set_for(receiver: Receiver, protocol: &str, config: &str, populate: impl FnOnce(&mut World)) -> Self {
        let options = Options { quotas: Quotas::unlimited(), ..Options::default() };
        let simulation = Simulation::start(options).await.unwrap();
        simulation.world(populate);
        let directory = tempfile::tempdir().unwrap();
        let config = configure(&receiver, protocol, directory.path(), config);
        Self { simulation, receiver, config, directory }
    }

    /// Changes the configuration of later exporters, for an environment with a receiver over gRPC.
    pub fn reconfigure(&self, config: &str) {
        configure(&self.receiver, "grpc", self.directory.path(), config);
    }

    /// Opens the ledger of a stopped exporter.
    pub fn opened_ledger(&self) -> Ledger {
        let state = StateConfig { path: self.state(), ..StateConfig::default() };
        Ledger::open(&state, now()).unwrap().ledger
    }

    /// Starts an exporter.
    pub fn exporter(&self) -> Exporter {
        Exporter::started(self.command())
    }

    /// The command that starts an exporter.
    pub fn command(&self) -> Command {
        self.command_against(&self.simulation.url())
    }

    /// The command that starts an exporter against another Cognito.
    pub fn command_against(&self, cognito: &str) -> Command {
        let mut command = exporter::command(cognito);
        command.arg("run").arg("--config").arg(&self.config);
        command
    }

    /// Writes a file atomically.
    pub fn file(&self, name: &str, text: &str) {
        let (draft, path) = (self.path("draft"), self.path(name));
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, path).unwrap();
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// The ledger's directory.
    pub fn ledger(&self) -> PathBuf {
        self.state().join("ledger")
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Runs another command with the configuration, and waits for its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        exporter::command(&self.simulation.url()).args(arguments).arg("--config").arg(&self.config).output().unwrap()
    }

    /// A path beside the configuration.
    pub fn path(&self, name: &str) -> PathBuf {
        Path::join(self.directory.path(), name)
    }

    /// Every event of every user of some pools, in its present state.
    pub fn truth(&self, pools: &[&str]) -> Vec<AuthEvent> {
        self.simulation.world(|world| {
            let names = |pool: &str| -> Vec<_> {
                world.pool(pool).unwrap().users().map(|user| user.username.clone()).collect()
            };
            let of_pool =
                |pool: &&str| -> Vec<_> { names(pool).iter().flat_map(|name| world.history(pool, name)).collect() };
            pools.iter().flat_map(of_pool).collect()
        })
    }

    /// The users of a pool whose history was read since the calls were last forgotten.
    pub fn polled(&self, pool: &str) -> BTreeSet<String> {
        self.reads(|call| call.pool.as_deref() == Some(pool)).into_iter().filter_map(|call| call.user).collect()
    }

    /// The calls for histories that `wanted` selects, oldest first.
    pub fn reads(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Call> {
        self.simulation.world(|world| world.calls().of(READ).filter(|call| wanted(call)).cloned().collect())
    }

    /// Clears the log of calls.
    pub fn forget_calls(&self) {
        self.simulation.world(|world| world.calls_mut().clear());
    }

    /// Waits until the condition holds for the world.
    pub async fn until(&self, what: &str, condition: impl FnMut(&World) -> bool) {
        let waiting = self.simulation.until(condition);
        assert!(tokio::time::timeout(exporter::PATIENCE, waiting).await.is_ok(), "{what} did not come");
    }

    /// Waits until a user was polled `times` more times.
    pub async fn until_polled(&self, pool: &str, user: &str, times: usize) {
        let asked = |world: &World| {
            let of_user = |call: &&Call| call.pool.as_deref() == Some(pool) && call.user.as_deref() == Some(user);
            world.calls().of(READ).filter(of_user).count()
        };
        let before = self.simulation.world(|world| asked(world));
        self.until(&format!("a poll of {user}"), |world| asked(world) >= before + times).await;
    }

    /// Waits until all these users were polled since the calls were last forgotten.
    pub async fn until_all_polled(&self, pool: &str, users: &BTreeSet<String>) {
        let polled = |world: &World| {
            let of_pool = |call: &&Call| call.pool.as_deref() == Some(pool);
            let names: BTreeSet<_> =
                world.calls().of(READ).filter(of_pool).filter_map(|call| call.user.as_ref()).collect();
            users.iter().all(|user| names.contains(user))
        };
        self.until(&format!("a round through {pool}"), polled).await;
    }

    /// Checks the conservation of events, all of them live: see [`TestEnv::conserved_on`].
    pub async fn conserved(&self, exporter: &Exporter, pools: &[&str]) {
        self.conserved_on(exporter, pools, Terms::default()).await;
    }

    /// Waits until all events of some pools are delivered or in quarantine. Every outcome must be counted as often as
    /// the pools hold it. Every event must be delivered in its present state after each of its revisions, and not more
    /// often than the terms allow. Checks that nothing changes while every user is polled again. Returns the number of
    /// repeated records.
    pub async fn conserved_on(&self, exporter: &Exporter, pools: &[&str], terms: Terms) -> usize {
        let truth = self.truth(pools);
        let is_live = |event: &AuthEvent| event.creation_date.is_none_or(|created| created >= terms.live_since);
        let outcomes = outcomes(truth.iter().filter(|event| is_live(event)));
        let history = truth.iter().filter(|event| !is_live(event)).count();
        let is_counted = |scrape: &Scrape| {
            let of_history = |pool: &&str| scrape.sum("cognito_auth_history_events_total", &[&of(pool)]);
            let of_history: f64 = pools.iter().map(of_history).sum();
            counted(scrape, pools) == outcomes && (of_history - history as f64).abs() < 0.5
        };
        let is_quarantined =
            |scrape: &Scrape| is(scrape, "cognito_exporter_quarantined_records", &[], terms.quarantined as f64);
        exporter.until("every event, counted", is_counted);
        // A change without a new outcome, such as feedback, may come with a later poll than the counts.
        self.until_all_came(&truth, pools, terms).await;
        exporter.until("an empty outbox", |scrape| scrape.sum("cognito_exporter_outbox_records", &[]) < 0.5);
        exporter.until("the quarantine", is_quarantined);
        // When a user is polled a second time, its first poll is answered and committed.
        for _ in 0..2 {
            self.forget_calls();
            for pool in pools {
                let users: Vec<_> = self
                    .simulation
                    .world(|world| world.pool(pool).unwrap().users().map(|user| user.username.clone()).collect());
                self.until_all_polled(pool, &users.into_iter().collect()).await;
            }
        }
        let scrape = exporter.scrape();
        assert!(is_counted(&scrape), "{:?} is not {outcomes:?}", counted(&scrape, pools));
        assert!(is_quarantined(&scrape), "{}", scrape.interesting());
        self.until_all_came(&truth, pools, terms).await
    }

    /// Waits until the delivered records match the events. Returns the number of repeated records.
    async fn until_all_came(&self, truth: &[AuthEvent], pools: &[&str], terms: Terms) -> usize {
        let deadline = Instant::now() + exporter::PATIENCE;
        loop {
            let began = Instant::now();
            let mut records = self.receiver.records();
            records.retain(|record| pools.contains(&record.text("aws.cognito.user_pool.id")));
            match all_came(&records, truth, terms) {
                Ok(repeats) => return repeats,
                Err(wrong) => assert!(Instant::now() < deadline, "{wrong}"),
            }
            // Checking many records takes a while, and the receiver needs time to answer.
            tokio::time::sleep(Duration::from_millis(50).max(began.elapsed() * 4)).await;
        }
    }

    /// Waits until the condition holds for the received records.
    pub async fn until_received(&self, enough: impl Fn(&[Received]) -> bool) {
        let deadline = Instant::now() + exporter::PATIENCE;
        while !enough(&self.receiver.records()) {
            assert!(Instant::now() < deadline, "{} records came", self.receiver.records().len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Writes the configuration: the given text, and the additions of [`TestEnv::set`].
fn configure(receiver: &Receiver, protocol: &str, directory: &Path, config: &str) -> PathBuf {
    let text = format!(
        "[otlp]\nendpoint = {:?}\nprotocol = {protocol:?}\nbatch_delay = \"50ms\"\n{}",
        receiver.endpoint(),
        config.replace("{directory}", directory.to_str().unwrap())
    );
    exporter::configure(directory, &text)
}

/// The terms of the conservation of events. By default each event is live and delivered once.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Events before this time are history.
    pub live_since: UnixMillis,
    /// The most repeated records: those in flight at a kill, or whose answer was lost.
    pub repeats_max: usize,
    /// The number of events that are in quarantine instead of delivered.
    pub quarantined: usize,
}

impl Default for Terms {
    fn default() -> Self {
        Self { live_since: UnixMillis::MIN, repeats_max: 0, quarantined: 0 }
    }
}

/// Compares the delivered records with the events: every event in its present state, after each of its revisions, and
/// no more. Returns the number of repeated records, or the missing event. An error that cannot be resolved later fails
/// at once.
fn all_came(records: &[Received], truth: &[AuthEvent], terms: Terms) -> Result<usize, String> {
    // The digest of each revision, by event.
    let mut came: BTreeMap<&str, BTreeMap<u32, &str>> = BTreeMap::new();
    let mut uids = BTreeSet::new();
    for uid in records.iter().map(Received::uid) {
        uids.insert(uid);
        let (id, revision, digest) = parts(uid);
        let before = came.entry(id).or_default().insert(revision, digest);
        assert!(before.is_none_or(|before| before == digest), "revision {revision} of {id} has two digests");
    }
    let repeats = records.len() - uids.len();
    assert!(repeats <= terms.repeats_max, "{repeats} repeats, {} allowed", terms.repeats_max);
    let mut missing = 0;
    for event in truth {
        // The exporter chooses the key of an event without an id.
        let id = event.id.clone().unwrap_or_else(|| event.key().to_string());
        let Some(revisions) = came.remove(id.as_str()) else {
            missing += 1;
            continue;
        };
        if !revisions.keys().copied().eq(0..u32::try_from(revisions.len()).unwrap()) {
            return Err(format!("a revision of {id} is missing: {revisions:?}"));
        }
        let (_, last) = revisions.last_key_value().unwrap();
        if *last != event.mutable_digest().to_string() {
            return Err(format!("{id} did not come as it is now"));
        }
    }
    assert!(came.is_empty(), "events that the pools do not hold: {came:?}");
    if missing != terms.quarantined {
        return Err(format!("{missing} events did not come, {} are in quarantine", terms.quarantined));
    }
    Ok(repeats)
}

/// EventId, revision and digest of a `log.record.uid`.
fn parts(uid: &str) -> (&str, u32, &str) {
    let mut parts = uid.rsplitn(3, '.');
    let (digest, revision, id) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    (id, revision.parse().unwrap(), digest)
}

/// The current time.
pub fn now() -> UnixMillis {
    Clock::system().now()
}

/// A configuration that follows all users of a pool with fast polling, and with all events live.
pub fn all_live(pool: &str) -> String {
    format!(
        "[[pools]]\nid = {pool:?}\nall_users = true\nfollowed_since = \"2020-01-01T00:00:00Z\"\n\
         [poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\nfirst_run = \"none\"\n"
    )
}

/// Adds a pool of `users` users, `user-0` and on, with `events` sign-ins each, the newest a minute ago.
pub fn populate(world: &mut World, pool: &str, users: usize, events: i64) {
    world.add_pool(SimulatedPool::new(pool));
    for user in 0..users {
        let name = format!("user-{user}");
        world.add_user(pool, &name);
        sign_ins(world, pool, &name, events, UnixMillis(now().0 - MINUTE));
    }
}

/// Adds one more sign-in of each user.
pub fn go_on(env: &TestEnv, pool: &str, users: usize) {
    env.simulation.world(|world| {
        (0..users).for_each(|user| sign_ins(world, pool, &format!("user-{user}"), 1, now()));
    });
}

/// Adds `count` sign-ins of a user, a minute apart, the newest at `newest`.
pub fn sign_ins(world: &mut World, pool: &str, user: &str, count: i64, newest: UnixMillis) {
    for event in 0..count {
        let event = world.sign_in(UnixMillis(newest.0 - event * MINUTE));
        world.arrive(pool, user, &event);
    }
}

/// The event ids of the records of some pools, without events that have none.
pub fn ids(records: &[Received], pools: &[&str]) -> BTreeSet<String> {
    let ids = of_pools(records, pools).map(|record| record.text("aws.cognito.event.id").to_owned());
    ids.filter(|id| !id.is_empty()).collect()
}

fn of_pools<'a>(records: &'a [Received], pools: &[&str]) -> impl Iterator<Item = &'a Received> {
    records.iter().filter(|record| pools.contains(&record.text("aws.cognito.user_pool.id")))
}

/// The values of event_type, event_response and risk_decision.
pub type OutcomeLabels = [String; 3];

/// The number of events by outcome.
pub fn outcomes<'a>(events: impl Iterator<Item = &'a AuthEvent>) -> BTreeMap<OutcomeLabels, i64> {
    let mut outcomes = BTreeMap::new();
    for event in events {
        let outcome = event.facts().outcome();
        let labels = [outcome.event_type.as_str(), outcome.response.as_str(), outcome.decision.as_str()];
        *outcomes.entry(labels.map(str::to_owned)).or_default() += 1;
    }
    outcomes
}

/// The same from the counters: events minus superseded ones, without zeros.
pub fn counted(scrape: &Scrape, pools: &[&str]) -> BTreeMap<OutcomeLabels, i64> {
    let mut counted = BTreeMap::new();
    for (metric, sign) in [("cognito_auth_events_total", 1), ("cognito_auth_superseded_outcomes_total", -1)] {
        for (series, value) in scrape.matching(metric, &[]) {
            if pools.contains(&exporter::label(series, "user_pool_id")) {
                let outcome = ["event_type", "event_response", "risk_decision"];
                #[expect(clippy::cast_possible_truncation, reason = "a count of a test")]
                let count = value as i64;
                let labels = outcome.map(|name| exporter::label(series, name).to_owned());
                *counted.entry(labels).or_default() += sign * count;
            }
        }
    }
    counted.retain(|_, count| *count != 0);
    counted
}

/// The pool's label in metrics.
pub fn of(pool: &str) -> String {
    format!("user_pool_id=\"{pool}\"")
}

/// Whether the series of a metric with these labels add up to this whole number.
pub fn is(scrape: &Scrape, metric: &str, labels: &[&str], value: f64) -> bool {
    scrape.count(metric, labels) > 0 && (scrape.sum(metric, labels) - value).abs() < 0.5
}

/// A count as a metric shows it.
#[expect(clippy::cast_precision_loss, reason = "a count of a test")]
pub fn as_float(count: usize) -> f64 {
    count as f64
}

/// Whether this many users are followed.
pub fn followed(scrape: &Scrape, users: usize) -> bool {
    is(scrape, "cognito_exporter_users", &[], as_float(users))
}

/// Waits until this many users are followed.
pub fn until_followed(exporter: &Exporter, users: usize) {
    exporter.until(&format!("{users} followed"), |scrape| followed(scrape, users));
}

/// The lines of a log that contain all of `words`.
pub fn said(log: &str, words: &[&str]) -> Vec<String> {
    let says = |line: &&str| words.iter().all(|word| line.contains(word));
    log.lines().filter(says).map(str::to_owned).collect()
}
