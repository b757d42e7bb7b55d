//! The built binary between a simulated Cognito and a real OTLP receiver. Every event of the pool is delivered, and is
//! counted once, over crashes.

use std::collections::BTreeSet;

use cognito_auth_core::event::{AuthEvent, FeedbackValue, UnixMillis, Word};
use cognito_auth_simulator::world::{SimulatedPool, World};
use serde_json::{Value, json};

use crate::exporter::{Exporter, Scrape};
use crate::long;
use crate::receiver::Received;
use crate::test_env::{MINUTE, Terms, TestEnv, ids, is, now, sign_ins};

const POOL: &str = "eu-west-1_EndToEnd1";

/// A configuration with one pool and the selection `pool`.
fn following(pool: &str) -> String {
    format!("[[pools]]\nid = {POOL:?}\n{pool}\n{QUICK}")
}

/// Fast polling with all of the history.
const QUICK: &str =
    "[poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\nfirst_run = \"all\"\n";

fn sign_in(world: &mut World, user: &str, at: UnixMillis, response: &str) -> AuthEvent {
    let mut event = world.sign_in(at);
    event.response = Some(Word::parse(response));
    world.arrive(POOL, user, &event);
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_delivered_and_counted_once_over_history_revisions_late_arrivals_and_kills() {
    let began = now();
    let env = TestEnv::set(&following("all_users = true"), |world| {
        world.add_pool(SimulatedPool::new(POOL));
        for user in 0..12_i64 {
            let name = format!("user-{user}");
            world.add_user(POOL, &name);
            sign_ins(world, POOL, &name, user * 13, UnixMillis(began.0 - 90 * MINUTE));
        }
    })
    .await;
    let history = env.truth(&[POOL]);

    // The first run delivers history and counts it as history. Nothing is live, and every counter is there at 0.
    let exporter = env.exporter();
    let scrape = exporter.scrape();
    assert_eq!(scrape.count("cognito_auth_events_total", &[]), 6 * 4 * 4, "zero-initialised");
    assert!(scrape.sum("cognito_auth_events_total", &[]).abs() < f64::EPSILON);
    let everything = |scrape: &Scrape, name: &str, count: usize| scrape.sum(name, &[]) >= count as f64;
    exporter.until("the history", |scrape| everything(scrape, "cognito_auth_history_events_total", history.len()));
    env.until_received(|records| ids(records, &[POOL]).len() == history.len()).await;
    let walked = json!({"users_done": 12, "users": 12, "seconds_left_estimate": 0});
    exporter.until("the word of it", |_| {
        let status: Value = serde_json::from_str(&exporter.get("/status")).unwrap();
        status["pools"][0]["history_walks"] == walked
    });
    exporter.until_said("the users' histories are walked to their ends");
    assert!(env.receiver.records().iter().all(is_history));

    // Live events, more than a page of them, some in progress.
    let live_since = now();
    let mut in_progress = vec![];
    env.simulation.world(|world| {
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

    // While the exporter is down: outcomes, feedback, new events, and events older than the newest it has seen.
    env.simulation.world(|world| {
        for (name, id) in &in_progress[..9] {
            world.revise(POOL, name, id, |event| event.response = Some(Word::parse("Pass")));
        }
        for user in 0..12 {
            sign_in(world, &format!("user-{user}"), UnixMillis(live_since.0 + 100 + user), "Fail");
        }
    });
    let exporter = env.exporter();
    exporter.until("what happened meanwhile", |scrape| everything(scrape, "cognito_auth_events_total", 142 + 9 + 12));

    // Kills while the exporter works.
    let mut exporter = Some(exporter);
    for round in 0..4_i64 {
        let now = now();
        env.simulation.world(|world| {
            for event in 0..150 {
                let user = format!("user-{}", event % 12);
                sign_in(world, &user, UnixMillis(now.0 + event), if event % 5 == 0 { "Fail" } else { "Pass" });
            }
            let (name, id) = &in_progress[0];
            let value = if round % 2 == 0 { FeedbackValue::Valid } else { FeedbackValue::Invalid };
            world.feedback(POOL, name, id, value, "an administrator");
        });
        let seen = env.receiver.records().len();
        env.until_received(|records| records.len() >= seen + 20).await;
        exporter.take().unwrap().kill();
        exporter = Some(env.exporter());
    }
    let exporter = exporter.unwrap();

    // Once idle: only records in flight at a kill were delivered again.
    let batch_size = 512;
    let terms = Terms { live_since: began, repeats_max: 5 * batch_size, quarantined: 0 };
    env.conserved_on(&exporter, &[POOL], terms).await;
    let records = env.receiver.records();
    for (_, id) in &in_progress[..9] {
        let told: BTreeSet<_> =
            records.iter().filter(|record| record.text("aws.cognito.event.id") == *id).map(response).collect();
        assert_eq!(told, BTreeSet::from(["InProgress".to_owned(), "Pass".to_owned()]), "a revision is delivered");
    }

    // The program's own log names no user, and no call has made a user billable.
    assert!(!exporter.log().contains("user-"), "{}", exporter.log());
    env.simulation.world(|world| assert!(world.calls().iter().all(|call| call.operation != "AdminGetUser")));
    assert!(exporter.stop().success());
}

fn is_history(record: &Received) -> bool {
    record.attributes["aws.cognito.event.history"] == Value::Bool(true)
}

fn response(record: &Received) -> String {
    record.text("aws.cognito.event.response").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_survive_a_kill_without_a_new_event() {
    let config = following("usernames = [\"ann\"]\nfollowed_since = \"2020-01-01T00:00:00Z\"");
    let env = TestEnv::set(&config, |world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ann");
        sign_ins(world, POOL, "ann", 5, now());
    })
    .await;
    let exporter = env.exporter();
    exporter.until("five events", |scrape| scrape.sum("cognito_auth_events_total", &[]) > 4.5);
    exporter.kill();
    // Cognito is unreachable, so the counters can only come from the ledger.
    let exporter = Exporter::started(env.command_against("http://127.0.0.1:9"));
    let scrape = exporter.scrape();
    assert!(is(&scrape, "cognito_auth_events_total", &[], 5.0), "{}", scrape.interesting());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_flat_while_walking_a_user_with_fifty_thousand_events() {
    if !long::are_wanted() {
        return;
    }
    let now = now();
    // With fifty thousand stored records, a receiver in a debug build may answer slowly.
    let config = format!("timeout = \"60s\"\n{}", following("usernames = [\"ann\"]"));
    let env = TestEnv::set(&config, |world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ann");
        for event in 0..50_000 {
            sign_in(world, "ann", UnixMillis(now.0 - MINUTE - event * MINUTE / 2), "Pass");
        }
    })
    .await;
    let exporter = env.exporter();
    let taken = |scrape: &Scrape| scrape.sum("cognito_auth_history_events_total", &[]);
    exporter.until("the first tenth", |scrape| taken(scrape) >= 5_000.0);
    let early = exporter.resident_bytes();
    for tenth in 2..=10 {
        exporter.until("the next tenth", |scrape| taken(scrape) >= f64::from(tenth * 5_000));
    }
    let late = exporter.resident_bytes();
    println!("resident: {} KiB after 5,000 events, {} KiB after 50,000", early / 1024, late / 1024);
    // Most of this memory is sled's cache (64 MiB at most), which fills with use.
    assert!(late < early + 100 * 1024 * 1024, "{early} bytes became {late}");
    env.conserved_on(&exporter, &[POOL], Terms { live_since: now, ..Terms::default() }).await;
    assert!(exporter.stop().success());
}
