//! The built binary between a simulated Cognito and a real OTLP receiver: everything the pool holds comes out, and is
//! counted once, over crashes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/exporter.rs"]
mod exporter;
#[path = "support/receiver.rs"]
mod receiver;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cognito_auth_exporter::event::{AuthEvent, EventResponse, FeedbackValue, Label, UnixMillis, Word};
use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_exporter::simulate::quota::Quotas;
use cognito_auth_exporter::simulate::world::{Pool, World};
use cognito_auth_exporter::simulate::{Options, Simulation};
use exporter::{Exporter, Scrape};
use receiver::{Received, Receiver};
use tempfile::TempDir;

const POOL: &str = "eu-west-1_EndToEnd1";
const MINUTE: i64 = 60_000;

/// Cognito, receiver and a place for configuration and state. The exporter comes and goes.
struct Stage {
    simulation: Simulation,
    receiver: Receiver,
    config: PathBuf,
    _directory: TempDir,
}

impl Stage {
    async fn set(pool: &str, rest: &str, populate: impl FnOnce(&mut World)) -> Self {
        let simulation =
            Simulation::start(Options { quotas: Quotas::unlimited(), ..Options::default() }).await.unwrap();
        simulation.world(|world| {
            world.add_pool(Pool::new(POOL));
            populate(world);
        });
        let receiver = Receiver::grpc().await;
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[[pools]]\nid = {POOL:?}\n{pool}\n[otlp]\nendpoint = {:?}\nprotocol = \"grpc\"\nbatch_delay = \"50ms\"\n{rest}",
            receiver.endpoint()
        );
        let config = exporter::configure(directory.path(), &text);
        Self { simulation, receiver, config, _directory: directory }
    }

    fn exporter(&self) -> Exporter {
        Exporter::start(&self.config, &self.simulation.url())
    }

    /// Every event of every user, as the pool holds it now.
    fn truth(&self) -> Vec<AuthEvent> {
        self.simulation.world(|world| {
            let names: Vec<_> = world.pool(POOL).unwrap().users().map(|user| user.username.clone()).collect();
            names.iter().flat_map(|name| world.history(POOL, name)).collect()
        })
    }
}

/// The poll of tests: quick, and all of the history.
const QUICK: &str = "[poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\nfirst_run = \"all\"\n";

fn sign_in(world: &mut World, user: &str, at: UnixMillis, response: &str) -> AuthEvent {
    let mut event = world.sign_in(at);
    event.response = Some(Word::parse(response));
    world.arrive(POOL, user, &event);
    event
}

/// Final outcomes by EventResponse, as the counters say: events less superseded.
fn final_outcomes(scrape: &Scrape) -> BTreeMap<&'static str, u64> {
    ["Pass", "Fail", "InProgress"]
        .into_iter()
        .map(|response| {
            let label = format!("event_response=\"{response}\"");
            let events = scrape.sum("cognito_auth_events_total", &[&label]);
            let superseded = scrape.sum("cognito_auth_superseded_outcomes_total", &[&label]);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of a test")]
            (response, (events - superseded) as u64)
        })
        .collect()
}

/// Final outcomes by EventResponse of the events at or after `since`.
fn true_outcomes(events: &[AuthEvent], since: UnixMillis) -> BTreeMap<&'static str, u64> {
    let mut outcomes = BTreeMap::from([("Pass", 0), ("Fail", 0), ("InProgress", 0)]);
    for event in events.iter().filter(|event| event.creation_date.unwrap() >= since) {
        *outcomes.get_mut(Label::<EventResponse>::of(event.response.as_ref()).as_str()).unwrap() += 1;
    }
    outcomes
}

/// Waits until what the receiver holds is enough.
async fn until(receiver: &Receiver, enough: impl Fn(&[Received]) -> bool) {
    let deadline = std::time::Instant::now() + exporter::PATIENCE;
    while !enough(&receiver.records()) {
        assert!(std::time::Instant::now() < deadline, "{} records came", receiver.records().len());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn ids(records: &[Received]) -> BTreeSet<String> {
    records.iter().map(|record| record.text("aws.cognito.event.id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_delivered_and_counted_once_over_history_revisions_late_arrivals_and_kills() {
    let clock = Clock::system();
    let began = clock.now();
    let stage = Stage::set("all_users = true", QUICK, |world| {
        for user in 0..12_i64 {
            let name = format!("user-{user}");
            world.add_user(POOL, &name);
            for event in 0..user * 13 {
                sign_in(world, &name, UnixMillis(began.0 - 90 * MINUTE - event * 7 * MINUTE), "Pass");
            }
        }
    })
    .await;
    let history = stage.truth();

    // The first run: history is delivered and counted as such; nothing is live; every counter is there at 0.
    let exporter = stage.exporter();
    let scrape = exporter.scrape();
    assert_eq!(scrape.count("cognito_auth_events_total", &[]), 6 * 4 * 4, "zero-initialised");
    assert!(scrape.sum("cognito_auth_events_total", &[]).abs() < f64::EPSILON);
    let everything = |scrape: &Scrape, name: &str, count: usize| scrape.sum(name, &[]) >= count as f64;
    exporter.until("the history", |scrape| everything(scrape, "cognito_auth_history_events_total", history.len()));
    until(&stage.receiver, |records| ids(records).len() == history.len()).await;
    assert!(stage.receiver.records().iter().all(is_history));

    // Live events, more than a page of them, some in progress.
    let live_since = clock.now();
    let mut in_progress = vec![];
    stage.simulation.world(|world| {
        for event in 0..130 {
            sign_in(world, "user-3", UnixMillis(live_since.0 + event), if event % 3 == 0 { "Fail" } else { "Pass" });
        }
        for user in 0..12 {
            let name = format!("user-{user}");
            let event = sign_in(world, &name, UnixMillis(live_since.0 + 200), "InProgress");
            in_progress.push((name, event.id.unwrap()));
        }
    });
    exporter.until("the live events", |scrape| everything(scrape, "cognito_auth_events_total", 142));
    exporter.kill();

    // While it is down: outcomes, feedback, new events, and some that belong before what it has seen.
    stage.simulation.world(|world| {
        for (name, id) in &in_progress[..9] {
            world.revise(POOL, name, id, |event| event.response = Some(Word::parse("Pass")));
        }
        for user in 0..12 {
            sign_in(world, &format!("user-{user}"), UnixMillis(live_since.0 + 100 + user), "Fail");
        }
    });
    let exporter = stage.exporter();
    exporter.until("what happened meanwhile", |scrape| everything(scrape, "cognito_auth_events_total", 142 + 9 + 12));

    // Kills in the middle of the work.
    let mut exporter = Some(exporter);
    for round in 0..4_i64 {
        let now = clock.now();
        stage.simulation.world(|world| {
            for event in 0..150 {
                let user = format!("user-{}", event % 12);
                sign_in(world, &user, UnixMillis(now.0 + event), if event % 5 == 0 { "Fail" } else { "Pass" });
            }
            let (name, id) = &in_progress[0];
            let value = if round % 2 == 0 { FeedbackValue::Valid } else { FeedbackValue::Invalid };
            world.feedback(POOL, name, id, value, "an administrator");
        });
        let seen = stage.receiver.records().len();
        until(&stage.receiver, |records| records.len() >= seen + 20).await;
        exporter.take().unwrap().kill();
        exporter = Some(stage.exporter());
    }
    let exporter = exporter.unwrap();

    // At rest: what was counted is the truth, by outcome.
    let truth = stage.truth();
    let outcomes = true_outcomes(&truth, began);
    let scrape = exporter.until("the truth", |scrape| final_outcomes(scrape) == outcomes);
    assert!((scrape.sum("cognito_auth_history_events_total", &[]) - history.len() as f64).abs() < f64::EPSILON);
    until(&stage.receiver, |records| ids(records).len() == truth.len()).await;
    exporter.until("an empty outbox", |scrape| scrape.sum("cognito_exporter_outbox_records", &[]) < 0.5);
    assert_eq!(final_outcomes(&exporter.scrape()), outcomes, "and it stays the truth");

    // Every event came out, revisions too, and only what was in flight at a kill came out again.
    let records = stage.receiver.records();
    let expected: BTreeSet<String> = truth.iter().map(|event| event.id.clone().unwrap()).collect();
    assert_eq!(ids(&records), expected);
    for (_, id) in &in_progress[..9] {
        let told: BTreeSet<_> =
            records.iter().filter(|record| record.text("aws.cognito.event.id") == *id).map(response).collect();
        assert_eq!(told, BTreeSet::from(["InProgress".to_owned(), "Pass".to_owned()]), "a revision is delivered");
    }
    let uids: BTreeSet<&str> = records.iter().map(|record| record.uid()).collect();
    let repeats = records.len() - uids.len();
    assert!(repeats <= 5 * 512, "{repeats} repeats are more than the batches in flight at five kills");

    // The program's own log names no user, and nobody was made billable.
    assert!(!exporter.log().contains("user-"), "{}", exporter.log());
    stage.simulation.world(|world| assert!(world.calls().iter().all(|call| call.operation != "AdminGetUser")));
    assert!(exporter.stop().success());
}

fn is_history(record: &Received) -> bool {
    record.attributes["aws.cognito.event.history"] == serde_json::Value::Bool(true)
}

fn response(record: &Received) -> String {
    record.text("aws.cognito.event.response").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_survive_a_kill_without_a_new_event() {
    let now = Clock::system().now();
    let stage = Stage::set("usernames = [\"ann\"]\nfollowed_since = \"2020-01-01T00:00:00Z\"", QUICK, |world| {
        world.add_user(POOL, "ann");
        for event in 0..5 {
            sign_in(world, "ann", UnixMillis(now.0 - event * MINUTE), "Pass");
        }
    })
    .await;
    let exporter = stage.exporter();
    exporter.until("five events", |scrape| scrape.sum("cognito_auth_events_total", &[]) > 4.5);
    exporter.kill();
    // Nobody answers any more: what is shown can only come from the ledger.
    let config = stage.config.clone();
    let exporter = Exporter::start(&config, "http://127.0.0.1:9");
    let scrape = exporter.scrape();
    assert!((scrape.sum("cognito_auth_events_total", &[]) - 5.0).abs() < f64::EPSILON, "{}", scrape.interesting());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_flat_while_walking_a_user_with_fifty_thousand_events() {
    let now = Clock::system().now();
    let stage = Stage::set("usernames = [\"ann\"]", QUICK, |world| {
        world.add_user(POOL, "ann");
        for event in 0..50_000 {
            sign_in(world, "ann", UnixMillis(now.0 - MINUTE - event * MINUTE / 2), "Pass");
        }
    })
    .await;
    let exporter = stage.exporter();
    let taken = |scrape: &Scrape| scrape.sum("cognito_auth_history_events_total", &[]);
    exporter.until("the first tenth", |scrape| taken(scrape) >= 5_000.0);
    let early = exporter.resident_bytes();
    exporter.until("all of it", |scrape| taken(scrape) >= 50_000.0);
    let late = exporter.resident_bytes();
    println!("resident: {} KiB after 5,000 events, {} KiB after 50,000", early / 1024, late / 1024);
    // Most of what is there is sled's cache (64 MiB at most), which fills as it is used.
    assert!(late < early + 100 * 1024 * 1024, "{early} bytes became {late}");
    until(&stage.receiver, |records| ids(records).len() == 50_000).await;
    assert!(exporter.stop().success());
}
