//! The quarantine from a user's side. The built binary runs against a receiver that refuses some records; commands show
//! these records, put them back, and drop them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::entry::OutboxId;
use cognito_auth_core::entry::{Entry, EventSource, PoolIdentity, UserIdentity};
use cognito_auth_core::event::{AuthEvent, Challenge, Facts, UnixMillis, Word};
use cognito_auth_core::export::ExportDetails;
use cognito_auth_core::masking::Modes;
use cognito_auth_core::privacy::Privacy;
use cognito_auth_exporter::config::StateConfig;
use cognito_auth_exporter::delivery::{Outbox as _, Settlement};
use cognito_auth_exporter::ledger::{Commit, Ledger, UserRecord};
use cognito_auth_simulator::world::World;
use serde_json::Value;
use tonic::Code;

use crate::exporter;
use crate::exporter::{Exporter, PATIENCE, Scrape};
use crate::folders::{copy, inventory};
use crate::outputs::{expecting, json_lines, stderr, stdout};
use crate::peers;
use crate::receiver::{Received, Receiver, Reply};
use crate::store;
use crate::test_env::{MINUTE, TestEnv, all_live, ids, is, now, populate, said, sign_ins};

const POOL: &str = "eu-west-1_Quarantine";

/// Adds a sign-in that the receiver refuses by its id.
fn poison(world: &mut World, id: &str, device: String) {
    let mut event = AuthEvent { id: Some(id.into()), ..world.sign_in(UnixMillis(now().0 - MINUTE)) };
    event.context.as_mut().unwrap().device_name = Some(device);
    world.arrive(POOL, "user-0", &event);
}

/// The same with a record of more than 600 KiB, in texts that are exported whole.
fn large_poison(world: &mut World, id: &str) {
    let text = "C".repeat(20 << 10);
    let challenge = Challenge { name: Some(Word::parse(&text)), response: Some(Word::parse(&text)) };
    let mut event = AuthEvent { id: Some(id.into()), ..world.sign_in(UnixMillis(now().0 - MINUTE)) };
    event.challenges = vec![challenge; Facts::CHALLENGES_MAX];
    world.arrive(POOL, "user-0", &event);
}

fn is_poison(record: &Received) -> bool {
    record.text("aws.cognito.event.id").starts_with("poison")
}

fn refuse_poison(receiver: &Receiver, refusal: Reply) {
    receiver.answer_by(move |records| if records.iter().any(is_poison) { refusal.clone() } else { Reply::Ok });
}

/// The quarantine as JSON.
fn listed(env: &TestEnv) -> Vec<Value> {
    let output = expecting(0, env.run(&["quarantine", "list", "--output", "json"]));
    json_lines(&output)
}

fn empties(env: &TestEnv) {
    let output = expecting(0, env.run(&["quarantine", "list"]));
    assert_eq!((stdout(&output).as_str(), stderr(&output).trim()), ("", "the quarantine is empty"));
}

fn outbox_is_empty(scrape: &Scrape) -> bool {
    is(scrape, "cognito_exporter_outbox_records", &[], 0.0)
}

fn sent(scrape: &Scrape, outcome: &str, records: f64) -> bool {
    is(scrape, "cognito_exporter_otlp_records_total", &[&format!("outcome={outcome:?}")], records)
}

/// The receiver refuses one record among two thousand. All others arrive exactly once, and the record is in quarantine.
/// Returns the record as listed, and the durable counters.
async fn one_guilty_among_two_thousand(env: &TestEnv, refusal: Reply, reason: &str) -> (Value, BTreeSet<String>) {
    refuse_poison(&env.receiver, refusal);
    let exporter = env.exporter();
    let scrape = exporter.until("one in quarantine and the rest delivered", |scrape| {
        is(scrape, "cognito_exporter_quarantined_records", &[], 1.0)
            && is(scrape, "cognito_auth_events_total", &[], 2000.0)
            && outbox_is_empty(scrape)
            && sent(scrape, "accepted", 1999.0)
    });
    assert!(sent(&scrape, "quarantined", 1.0) && sent(&scrape, "rejected", 0.0), "{}", scrape.interesting());
    let truth: BTreeSet<_> = env.truth(&[POOL]).into_iter().filter_map(|event| event.id).collect();
    let records = env.receiver.records();
    assert_eq!((truth.len(), records.len()), (2000, 1999), "each is delivered once");
    let mut delivered = ids(&records, &[POOL]);
    assert!(delivered.insert("poison".into()));
    assert_eq!(delivered, truth);

    let held = expecting(1, env.run(&["quarantine", "drop", "--all", "--yes"]));
    assert!(stderr(&held).contains("in use by another process: stop that one"), "{}", stderr(&held));
    let counted = exporter.durable_counters();
    assert!(exporter.stop().success());

    let [record] = <[Value; 1]>::try_from(listed(env)).unwrap();
    assert_eq!((&record["event_id"], &record["user_pool_id"]), (&"poison".into(), &POOL.into()));
    assert!(record["log_record_uid"].as_str().unwrap().starts_with("poison.0."), "{record}");
    assert!(record["reason"].as_str().unwrap().contains(reason), "{record}");
    (record, counted)
}

/// An environment with two thousand events, one of which the receiver refuses.
async fn two_thousand(receiver: Receiver, protocol: &str) -> TestEnv {
    TestEnv::set_for(receiver, protocol, &all_live(POOL), |world| {
        populate(world, POOL, 40, 50);
        world.keep_newest(POOL, "user-0", 49);
        poison(world, "poison", "Poisoned\u{1b}[2J Browser".into());
    })
    .await
}

/// Puts the record back and lets the receiver accept it. The same record arrives, and the counters do not change.
async fn retried_after_the_cure(env: &TestEnv, (record, counted): (Value, BTreeSet<String>)) {
    let number = record["number"].as_u64().unwrap();
    let unknown = (number + 1).to_string();
    let refused = expecting(1, env.run(&["quarantine", "retry", &number.to_string(), &unknown]));
    assert!(stderr(&refused).contains(&format!("not in quarantine: {unknown}; nothing was done")), "{refused:?}");
    assert_eq!(listed(env), std::slice::from_ref(&record));
    let retried = expecting(0, env.run(&["quarantine", "retry", "--all"]));
    assert_eq!((stdout(&retried).as_str(), stderr(&retried).trim()), ("", "back in the outbox: 1 record"));
    empties(env);

    env.receiver.answer_always(Reply::Ok);
    let exporter = env.exporter();
    exporter.until("the record delivered", |scrape| sent(scrape, "accepted", 1.0) && outbox_is_empty(scrape));
    let records = env.receiver.records();
    assert_eq!(records.len(), 2000);
    assert_eq!(Value::from(records.last().unwrap().uid()), record["log_record_uid"]);
    let scrape = exporter.scrape();
    assert!(is(&scrape, "cognito_exporter_quarantined_records", &[], 0.0), "{}", scrape.interesting());
    assert_eq!(exporter.durable_counters(), counted);
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_grpc_receiver_refuses_is_listed_without_personal_data_and_delivered_after_its_cure() {
    let env = two_thousand(Receiver::grpc().await, "grpc").await;
    let refusal = Reply::Code(Code::InvalidArgument, "a field of this record");
    let found = one_guilty_among_two_thousand(&env, refusal, "a field of this record").await;

    let table = stdout(&expecting(0, env.run(&["quarantine", "list"])));
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    for cell in ["poison", POOL, "SignIn", "a field of this record", &found.0["number"].to_string()] {
        assert!(lines[1].contains(cell), "{cell}: {table}");
    }
    let json = found.0.to_string();
    assert!([&table, &json].iter().all(|text| !text.contains("user-0") && !text.contains("Poisoned")), "{table}{json}");
    let personal = stdout(&expecting(0, env.run(&["quarantine", "list", "--personal"])));
    assert!(personal.contains("user-0") && personal.contains("Poisoned\u{fffd}[2J Browser"), "{personal}");
    let personal = stdout(&expecting(0, env.run(&["quarantine", "list", "--personal", "--output", "json"])));
    let personal: Value = serde_json::from_str(&personal).unwrap();
    assert_eq!((&personal["username"], personal["ip_address"].is_string()), (&"user-0".into(), true));

    retried_after_the_cure(&env, found).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_http_receiver_refuses_with_400_is_delivered_after_its_cure() {
    let env = two_thousand(Receiver::http().await, "http/protobuf").await;
    let found = one_guilty_among_two_thousand(&env, Reply::Status(400, "not like this"), "not like this").await;
    retried_after_the_cure(&env, found).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_http_receiver_refuses_with_422_can_be_dropped_and_never_comes() {
    let env = two_thousand(Receiver::http().await, "http/json").await;
    let found = one_guilty_among_two_thousand(&env, Reply::Status(422, "not like this"), "not like this").await;
    let number = found.0["number"].to_string();
    let hesitant = expecting(2, env.run(&["quarantine", "drop", &number]));
    assert!(stderr(&hesitant).contains("would drop 1 record") && stderr(&hesitant).contains("--yes"), "{hesitant:?}");
    let unknown = expecting(1, env.run(&["quarantine", "drop", "--yes", &number, "999999"]));
    assert!(stderr(&unknown).contains("not in quarantine: 999999; nothing was done"), "{unknown:?}");
    assert_eq!(listed(&env), std::slice::from_ref(&found.0));
    expecting(0, env.run(&["quarantine", "drop", "--yes", &number, &number]));
    empties(&env);

    env.receiver.answer_always(Reply::Ok);
    let exporter = env.exporter();
    // A new event follows it.
    env.simulation.world(|world| sign_ins(world, POOL, "user-1", 1, now()));
    env.until_received(|records| records.len() > 1999).await;
    exporter.until("an empty outbox", outbox_is_empty);
    assert!(!env.receiver.records().iter().any(is_poison));
    assert!(exporter.stop().success());
}

/// Adds sign-ins until the condition holds. A refused record waits until the receiver has accepted another one.
fn go_on_until(env: &TestEnv, exporter: &Exporter, what: &str, condition: impl Fn(&Scrape) -> bool) -> Scrape {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let scrape = exporter.scrape();
        if condition(&scrape) {
            return scrape;
        }
        assert!(Instant::now() < deadline, "{what} did not come\n{}\n{}", exporter.log(), scrape.interesting());
        // While the outbox is not empty, it needs only time.
        if scrape.sum("cognito_exporter_outbox_records", &[]) < 3.5 {
            env.simulation.world(|world| sign_ins(world, POOL, "user-1", 1, now()));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quarantine_stops_delivery_loudly_until_some_is_dropped() {
    let env = TestEnv::set(&all_live(POOL), |world| {
        populate(world, POOL, 3, 10);
        large_poison(world, "poison-1");
        large_poison(world, "poison-2");
    })
    .await;
    let text = fs::read_to_string(env.path("config.toml")).unwrap();
    env.file("config.toml", &text.replace("[state]\n", "[state]\nquarantine_limit = \"1MiB\"\n"));
    refuse_poison(&env.receiver, Reply::Code(Code::InvalidArgument, "bad"));
    let exporter = env.exporter();
    let full =
        |scrape: &Scrape, is_full: f64| is(scrape, "cognito_exporter_paused", &["reason=\"quarantine_full\""], is_full);
    let scrape = go_on_until(&env, &exporter, "both in quarantine", |scrape| {
        is(scrape, "cognito_exporter_quarantined_records", &[], 2.0) && outbox_is_empty(scrape)
    });
    assert!(full(&scrape, 0.0), "it is full, but nothing waits for it");

    env.simulation.world(|world| poison(world, "poison-3", String::new()));
    go_on_until(&env, &exporter, "the pause", |scrape| full(scrape, 1.0));
    env.simulation.world(|world| sign_ins(world, POOL, "user-2", 5, now()));
    let events = env.truth(&[POOL]).len();
    let counted = |scrape: &Scrape| {
        is(scrape, "cognito_auth_events_total", &[], events as f64)
            && scrape.sum("cognito_exporter_outbox_records", &[]) >= 1.0
    };
    let scrape = exporter.until("all of them counted nevertheless, and waiting", counted);
    assert!(is(&scrape, "cognito_exporter_quarantined_records", &[], 2.0));
    assert_eq!(said(&exporter.log(), &["ERROR", "the quarantine is full"]).len(), 1, "{}", exporter.log());
    assert!(exporter.stop().success());

    let number = listed(&env)[0]["number"].to_string();
    expecting(0, env.run(&["quarantine", "drop", "--yes", &number]));
    let exporter = env.exporter();
    let scrape = go_on_until(&env, &exporter, "delivery going on", |scrape| {
        is(scrape, "cognito_exporter_quarantined_records", &[], 2.0) && outbox_is_empty(scrape)
    });
    assert!(full(&scrape, 0.0));
    // The last sign-in may have come after the last poll.
    let events = env.truth(&[POOL]).len();
    exporter.until("the last of them delivered", |scrape| {
        is(scrape, "cognito_auth_events_total", &[], events as f64) && outbox_is_empty(scrape)
    });
    // The gauge of the outbox may be of the time before the last event was counted.
    env.until_received(|records| records.len() >= events - 3).await;
    let (records, events) = (env.receiver.records(), events - 3);
    assert_eq!((records.len(), ids(&records, &[POOL]).len()), (events, events), "each is delivered once");
    assert!(exporter.stop().success());
    assert_eq!(listed(&env)[1]["event_id"], "poison-3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_of_the_outbox_is_put_aside_and_the_rest_is_delivered() {
    let env = TestEnv::set(&all_live(POOL), |world| populate(world, POOL, 4, 10)).await;
    env.receiver.answer_always(Reply::Code(Code::Unavailable, "later"));
    let exporter = env.exporter();
    exporter.until("all of them waiting", |scrape| is(scrape, "cognito_exporter_outbox_records", &[], 40.0));
    assert!(exporter.stop().success());
    // Each of these records holds several entries, and ends with one.
    let store = store::open(&env.path("state").join("ledger"));
    let keys: Vec<_> = store.scan_prefix("o/").keys().map(Result::unwrap).collect();
    for key in &keys[..2] {
        let mut value = store.get(key).unwrap().unwrap().to_vec();
        *value.last_mut().unwrap() ^= 1;
        store.insert(key, value).unwrap();
    }
    store.flush().unwrap();
    drop(store);

    env.receiver.answer_always(Reply::Ok);
    let exporter = env.exporter();
    let scrape = exporter.until("the rest delivered", |scrape| sent(scrape, "accepted", 38.0));
    assert!(is(&scrape, "cognito_exporter_state_rebuilds_total", &[], 0.0));
    let scrape = exporter.until("nothing left behind", outbox_is_empty);
    assert!(sent(&scrape, "quarantined", 2.0), "{}", scrape.interesting());
    assert!(is(&scrape, "cognito_auth_events_total", &[], 40.0), "{}", scrape.interesting());
    assert_eq!(ids(&env.receiver.records(), &[POOL]).len(), 38);
    let error = said(&exporter.log(), &["ERROR", "records=2", "damaged", "cannot be read: its checksum is wrong"]);
    assert_eq!(error.len(), 1, "{}", exporter.log());
    assert!(exporter.stop().success());

    let table = stdout(&expecting(0, env.run(&["quarantine", "list"])));
    assert_eq!(said(&table, &["cannot be read: its checksum is wrong"]).len(), 2, "{table}");
    let records = listed(&env);
    assert!(
        records.iter().all(|record| record["unreadable"] == "cannot be read: its checksum is wrong"),
        "{records:?}"
    );
    let refused = expecting(1, env.run(&["quarantine", "retry", "--all"]));
    assert_eq!(said(&stderr(&refused), &["cannot be read", "stays in quarantine"]).len(), 2, "{refused:?}");
    assert_eq!(listed(&env), records);
    expecting(0, env.run(&["quarantine", "drop", "--all", "--yes"]));
    empties(&env);
}

#[test]
fn without_a_sound_ledger_nothing_is_made_and_bad_usage_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = exporter::configure(directory.path(), &all_live(POOL));
    let run = |arguments: &[&str]| {
        let mut command = exporter::command("http://127.0.0.1:9");
        command.arg("quarantine").args(arguments).arg("--config").arg(&path).output().unwrap()
    };
    for arguments in [&["list"][..], &["retry", "--all"], &["drop", "--all", "--yes"]] {
        let refused = expecting(1, run(arguments));
        assert!(stderr(&refused).contains("there is no ledger in"), "{refused:?}");
        assert_eq!(inventory(directory.path()), ["config.toml".to_owned()].into());
    }
    for arguments in [&["retry"][..], &["drop", "--yes"], &["retry", "1", "--all"], &["retry", "one"], &[]] {
        expecting(2, run(arguments));
    }
    expecting(
        2,
        exporter::command("http://127.0.0.1:9").args(["quarantine", "list", "--config", "/none"]).output().unwrap(),
    );

    let state = directory.path().join("state");
    fs::create_dir_all(state.join("ledger")).unwrap();
    fs::write(state.join("ledger").join("db"), [0xa5; 4096]).unwrap();
    let refused = expecting(1, run(&["list"]));
    assert!(stderr(&refused).contains("the ledger is damaged") && stderr(&refused).contains("left in its place"));
    assert!(inventory(&state).iter().all(|name| name == "ledger" || name == "lock"), "{:?}", inventory(&state));
}

/// The number of records during the kills below: enough for six writes. strace counts a thread's calls, and the thread
/// that opens the ledger makes the first four.
const QUARANTINED: u64 = 300;

/// The number of records that one write puts back.
const PUT_BACK_AT_ONCE: usize = 50;

/// A separate ledger in `state` with all its records in quarantine.
async fn quarantined(state: &StateConfig) {
    let ledger = Ledger::open(state, now()).unwrap().ledger;
    let pool =
        Arc::new(PoolIdentity { id: POOL.into(), name: POOL.into(), region: "eu-west-1".into(), account_id: None });
    let entry = |number| Entry {
        pool: pool.clone(),
        user: Arc::new(UserIdentity { username: "ann".into(), sub: None }),
        event: AuthEvent { id: Some(format!("event-{number}")), ..AuthEvent::default() },
        revision: 0,
        history: false,
        observed: now(),
        told_by: EventSource::default(),
        details: ExportDetails::default(),
        masked: Modes::default(),
    };
    let record = UserRecord { joined: now(), sub: None, cursor: Cursor::new(now(), now()), activity: None };
    let entries = (0..QUARANTINED).map(entry).collect();
    ledger.enroll(POOL, vec![("ann".into(), record.clone())]).await.unwrap();
    let commit = Commit { pool: pool.clone(), username: "ann".into(), record, totals: vec![], entries, told: vec![] };
    ledger.commit(commit).await.unwrap();
    let quarantined = (0..QUARANTINED).map(|number| (OutboxId(number), "bad".to_owned())).collect();
    ledger.settle(Settlement { delivered: vec![], quarantined }).await.unwrap();
    ledger.close().await;
}

/// The numbers of events in the outbox and in quarantine. Each event is in exactly one of them.
async fn where_they_are(state: &StateConfig) -> (usize, usize) {
    let ledger = Ledger::open_existing(state, &Privacy::default(), now()).unwrap();
    let id = |entry: Entry| entry.event.id.unwrap();
    let waiting = ledger.read(None, usize::MAX).unwrap();
    assert!(waiting.iter().all(|(id, _)| id.0 >= QUARANTINED), "an id is never used again");
    let aside = ledger.read_quarantine(None, usize::MAX).unwrap();
    let sizes = (waiting.len(), aside.len());
    let waiting = waiting.into_iter().map(|(_, entry)| id(entry.unwrap()));
    let all: Vec<_> = waiting.chain(aside.into_iter().map(|(_, record)| id(record.entry.unwrap()))).collect();
    assert_eq!(all.len() as u64, QUARANTINED);
    assert_eq!(BTreeSet::from_iter(all).len() as u64, QUARANTINED, "each in one place");
    let counted = (ledger.outbox_state().records, ledger.quarantine_state().0);
    assert_eq!((sizes.0 as u64, sizes.1 as u64), counted);
    ledger.close().await;
    sizes
}

#[tokio::test]
async fn a_retry_killed_at_any_write_leaves_each_record_in_one_place() {
    if !peers::strace_works() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let state = |path: &Path| StateConfig { path: path.to_owned(), ..StateConfig::default() };
    let original = directory.path().join("original");
    quarantined(&state(&original)).await;
    let config = exporter::configure(directory.path(), &all_live(POOL));
    let path = directory.path().join("state");
    let mut seen = BTreeSet::new();
    for write in 1.. {
        copy(&original, &path);
        let mut retry = Command::new("strace");
        retry.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fsync", "-e"]);
        retry.arg(format!("inject=pwrite64,fsync:signal=KILL:when={write}"));
        retry.arg(env!("CARGO_BIN_EXE_cognito-auth-exporter")).args(["quarantine", "retry", "--all", "--config"]);
        let status = retry.arg(&config).output().unwrap().status;
        let (waiting, aside) = where_they_are(&state(&path)).await;
        seen.insert(waiting);
        if status.success() {
            assert_eq!(aside, 0);
            break;
        }
        assert_eq!(status.signal(), Some(9));
        // A second request continues from there.
        let mut again = exporter::command("http://127.0.0.1:9");
        expecting(0, again.args(["quarantine", "retry", "--all", "--config"]).arg(&config).output().unwrap());
        assert_eq!(where_they_are(&state(&path)).await, (usize::try_from(QUARANTINED).unwrap(), 0));
        fs::remove_dir_all(&path).unwrap();
    }
    let between: Vec<_> = seen.into_iter().filter(|moved| (1..QUARANTINED).contains(&(*moved as u64))).collect();
    assert!(between.len() > 1, "no kill fell between two writes");
    assert!(between.iter().all(|moved| moved.is_multiple_of(PUT_BACK_AT_ONCE)), "{between:?}");
}
