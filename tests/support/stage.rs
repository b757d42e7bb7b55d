//! A simulated Cognito, a receiver, and a place for configuration and state: what a test plays on. The exporter comes and
//! goes.
//!
//! Include it with `#[path = "support/stage.rs"] mod stage;`, beside `exporter` and `receiver`.

#![allow(dead_code, unreachable_pub, reason = "shared by test crates, each of which uses its own part")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its stage is to fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cognito_auth_exporter::event::{AuthEvent, EventResponse, Label, UnixMillis};
use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_exporter::simulate::calls::Call;
use cognito_auth_exporter::simulate::quota::Quotas;
use cognito_auth_exporter::simulate::world::World;
use cognito_auth_exporter::simulate::{Options, Simulation};
use tempfile::TempDir;

use crate::exporter::{self, Exporter, Scrape};
use crate::receiver::{Received, Receiver};

/// Milliseconds of a minute.
pub const MINUTE: i64 = 60_000;

/// The operation that reads a user's history.
pub const READ: &str = "AdminListUserAuthEvents";

/// What the exporter plays with.
pub struct Stage {
    /// Cognito.
    pub simulation: Simulation,
    /// Where the records go.
    pub receiver: Receiver,
    config: PathBuf,
    directory: TempDir,
}

impl Stage {
    /// Sets the stage: `config` is the configuration but for the receiver, the state and the listener; `{directory}` in it
    /// is where [`Stage::file`] writes.
    pub async fn set(config: &str, populate: impl FnOnce(&mut World)) -> Self {
        let options = Options { quotas: Quotas::unlimited(), ..Options::default() };
        let simulation = Simulation::start(options).await.unwrap();
        simulation.world(populate);
        let receiver = Receiver::grpc().await;
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[otlp]\nendpoint = {:?}\nprotocol = \"grpc\"\nbatch_delay = \"50ms\"\n{}",
            receiver.endpoint(),
            config.replace("{directory}", directory.path().to_str().unwrap())
        );
        let config = exporter::configure(directory.path(), &text);
        Self { simulation, receiver, config, directory }
    }

    /// Starts an exporter.
    pub fn exporter(&self) -> Exporter {
        self.exporter_by_way_of(&self.simulation.url())
    }

    /// Starts an exporter with some more variables in its environment.
    pub fn exporter_in(&self, environment: &[(&str, &str)]) -> Exporter {
        Exporter::start_in(&self.config, &self.simulation.url(), environment)
    }

    /// Starts an exporter that finds Cognito at another URL than the simulation's own.
    pub fn exporter_by_way_of(&self, url: &str) -> Exporter {
        Exporter::start(&self.config, url)
    }

    /// Writes a file as careful people do: whole, or not at all.
    pub fn file(&self, name: &str, text: &str) {
        let (draft, path) = (self.path("draft"), self.path(name));
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, path).unwrap();
    }

    /// Where a file of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        Path::join(self.directory.path(), name)
    }

    /// Every event of every user of some pools, as they hold it now.
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

    /// Whose history of a pool was asked for since the calls were last forgotten.
    pub fn polled(&self, pool: &str) -> BTreeSet<String> {
        self.reads(|call| call.pool.as_deref() == Some(pool)).into_iter().filter_map(|call| call.user).collect()
    }

    /// The calls for histories that are `wanted`, oldest first.
    pub fn reads(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Call> {
        self.simulation.world(|world| world.calls().of(READ).filter(|call| wanted(call)).cloned().collect())
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        self.simulation.world(|world| world.calls_mut().clear());
    }

    /// Waits until the world is as wanted.
    pub async fn until(&self, what: &str, condition: impl FnMut(&World) -> bool) {
        let waiting = self.simulation.until(condition);
        assert!(tokio::time::timeout(exporter::PATIENCE, waiting).await.is_ok(), "{what} did not come");
    }

    /// Waits until a user was asked about `times` more.
    pub async fn until_polled(&self, pool: &str, user: &str, times: usize) {
        let asked = |world: &World| {
            let of_user = |call: &&Call| call.pool.as_deref() == Some(pool) && call.user.as_deref() == Some(user);
            world.calls().of(READ).filter(of_user).count()
        };
        let before = self.simulation.world(|world| asked(world));
        self.until(&format!("a poll of {user}"), |world| asked(world) >= before + times).await;
    }

    /// Waits until all these users were asked about since the calls were last forgotten.
    pub async fn until_all_polled(&self, pool: &str, users: &BTreeSet<String>) {
        let polled = |world: &World| {
            let of_pool = |call: &&Call| call.pool.as_deref() == Some(pool);
            let names: BTreeSet<_> =
                world.calls().of(READ).filter(of_pool).filter_map(|call| call.user.as_ref()).collect();
            users.iter().all(|user| names.contains(user))
        };
        self.until(&format!("a round through {pool}"), polled).await;
    }

    /// Waits until the receiver has every event that some pools hold, and checks that all were live, that each was counted
    /// and delivered exactly once, and that it stays so while every user of theirs is polled again.
    pub async fn conserved(&self, exporter: &Exporter, pools: &[&str]) {
        let truth = self.truth(pools);
        let outcomes = outcomes(&truth);
        let is_counted = |scrape: &Scrape| counted(scrape, pools) == outcomes;
        exporter.until("every event, counted", is_counted);
        let expected: BTreeSet<String> = truth.iter().filter_map(|event| event.id.clone()).collect();
        self.until_received(|records| ids(records, pools).is_superset(&expected)).await;
        exporter.until("an empty outbox", |scrape| scrape.sum("cognito_exporter_outbox_records", &[]) < 0.5);
        self.forget_calls();
        for pool in pools {
            let users: Vec<_> = self
                .simulation
                .world(|world| world.pool(pool).unwrap().users().map(|user| user.username.clone()).collect());
            self.until_all_polled(pool, &users.into_iter().collect()).await;
        }
        let scrape = exporter.scrape();
        assert!(is_counted(&scrape), "{:?} is not {outcomes:?}", counted(&scrape, pools));
        let records: Vec<_> = of_pools(&self.receiver.records(), pools).cloned().collect();
        assert!(ids(&records, pools) == expected, "other events than the pools hold");
        assert_eq!(records.len(), truth.len(), "each is delivered once");
    }

    /// Waits until what the receiver holds is enough.
    pub async fn until_received(&self, enough: impl Fn(&[Received]) -> bool) {
        let deadline = Instant::now() + exporter::PATIENCE;
        while !enough(&self.receiver.records()) {
            assert!(Instant::now() < deadline, "{} records came", self.receiver.records().len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What time it is.
pub fn now() -> UnixMillis {
    Clock::system().now()
}

/// `count` sign-ins of a user, the newest at `newest`, a minute apart.
pub fn sign_ins(world: &mut World, pool: &str, user: &str, count: i64, newest: UnixMillis) {
    for event in 0..count {
        let event = world.sign_in(UnixMillis(newest.0 - event * MINUTE));
        world.arrive(pool, user, &event);
    }
}

/// Ids of the records of some pools, where they have one.
pub fn ids(records: &[Received], pools: &[&str]) -> BTreeSet<String> {
    let ids = of_pools(records, pools).map(|record| record.text("aws.cognito.event.id").to_owned());
    ids.filter(|id| !id.is_empty()).collect()
}

fn of_pools<'a>(records: &'a [Received], pools: &[&str]) -> impl Iterator<Item = &'a Received> {
    records.iter().filter(|record| pools.contains(&record.text("aws.cognito.user_pool.id")))
}

/// Events by their EventResponse's label.
pub fn outcomes(events: &[AuthEvent]) -> BTreeMap<String, u64> {
    let mut outcomes = BTreeMap::new();
    for event in events {
        *outcomes.entry(Label::<EventResponse>::of(event.response.as_ref()).as_str().to_owned()).or_default() += 1;
    }
    outcomes
}

/// The same as the counters say: events less superseded; without those that there are none of.
pub fn counted(scrape: &Scrape, pools: &[&str]) -> BTreeMap<String, u64> {
    let sum = |metric: &str, response: &str| -> f64 {
        let label = format!("event_response=\"{response}\"");
        pools.iter().map(|pool| scrape.sum(metric, &[&of(pool), &label])).sum()
    };
    ["Pass", "Fail", "InProgress", "none", "other"]
        .into_iter()
        .map(|response| {
            let left = sum("cognito_auth_superseded_outcomes_total", response);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of a test")]
            (response.to_owned(), (sum("cognito_auth_events_total", response) - left) as u64)
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// A pool's label.
pub fn of(pool: &str) -> String {
    format!("user_pool_id=\"{pool}\"")
}

/// Whether a metric's series of these labels add up to this whole number.
pub fn is(scrape: &Scrape, metric: &str, labels: &[&str], value: f64) -> bool {
    scrape.count(metric, labels) > 0 && (scrape.sum(metric, labels) - value).abs() < 0.5
}

/// The lines of a log that hold all of `words`.
pub fn said(log: &str, words: &[&str]) -> Vec<String> {
    let says = |line: &&str| words.iter().all(|word| line.contains(word));
    log.lines().filter(says).map(str::to_owned).collect()
}
