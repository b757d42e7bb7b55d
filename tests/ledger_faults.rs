//! The built binary on a disk that is full, read-only, failing or damaged. It reports the fault, waits, and loses and
//! repeats nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cognito_auth_core::event::UnixMillis;
use serde_json::Value;

use crate::disk::{Disk, Tracer};
use crate::exporter;
use crate::exporter::{Exporter, Scrape};
use crate::receiver::Received;
use crate::store;
use crate::test_env::{MINUTE, TestEnv, go_on, is, now, populate, said, sign_ins};

const POOL: &str = "eu-west-1_Disk";
const USERS: usize = 6;

/// A configuration that polls quickly, with only live events.
const QUICK: &str = "all_users = true\n[poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\n\
                     max_interval = \"10s\"\n\
                     first_run = \"none\"\n";

const PAUSED: &str = "cognito_exporter_paused";
const STATE_ERROR: &str = "reason=\"state_error\"";

async fn set() -> TestEnv {
    let config = format!("[[pools]]\nid = {POOL:?}\nfollowed_since = \"2020-01-01T00:00:00Z\"\n{QUICK}");
    TestEnv::set(&config, |world| populate(world, POOL, USERS, 20)).await
}

/// Lets users sign in until polling pauses, and checks that metrics and /readyz show the pause.
async fn until_it_pauses(env: &TestEnv, exporter: &Exporter) {
    exporter.until("a pause", |scrape| {
        let pauses = is(scrape, PAUSED, &[STATE_ERROR], 1.0);
        if !pauses {
            go_on(env, POOL, USERS);
        }
        pauses
    });
    exporter.until("503", |_| exporter.answer("/readyz").starts_with("HTTP/1.1 503 "));
    let first = exporter.answer("/readyz");
    assert!(first.contains("cannot use the ledger: "), "{first}");
    assert!(exporter.answer("/healthz").starts_with("HTTP/1.1 200 "));
    // It tries to open the store again, which fails with another error.
    exporter.until("another try", |_| exporter.answer("/readyz") != first);
    // Meanwhile events wait in Cognito.
    go_on(env, POOL, USERS);
}

/// Waits until polling continues. Checks that nothing was lost or repeated, and that each of `times` faults was logged
/// once.
async fn until_it_goes_on(env: &TestEnv, exporter: &Exporter, times: usize) {
    exporter.until("no pause", |scrape| is(scrape, PAUSED, &[STATE_ERROR], 0.0));
    env.conserved(exporter, &[POOL]).await;
    assert!(exporter.answer("/readyz").starts_with("HTTP/1.1 200 "));
    let log = exporter.log();
    assert_eq!(said(&log, &["ERROR", "the ledger failed"]).len(), times, "{log}");
    assert_eq!(said(&log, &["ERROR"]).len(), times, "{log}");
    assert_eq!(said(&log, &["INFO", "the ledger is open again"]).len(), times, "{log}");
    assert!(!log.contains("user-"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_pauses_polling_and_costs_nothing_once_there_is_room_again() {
    let env = set().await;
    let Some(disk) = Disk::mount(&env.state(), 24) else { return };
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    for times in 1..=2 {
        disk.fill();
        until_it_pauses(&env, &exporter).await;
        disk.free();
        until_it_goes_on(&env, &exporter, times).await;
    }
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn system_calls_that_fail_pause_polling_and_cost_nothing_once_they_work_again() {
    let env = set().await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    let faults: [&[&str]; 3] = [
        &["-e", "trace=fsync", "-e", "inject=fsync:error=EIO"],
        // As when the kernel has remounted the file system read-only.
        &["-e", "trace=pwrite64,fsync,rename", "-e", "inject=pwrite64,fsync,rename:error=EROFS"],
        &["-e", "trace=pwrite64", "-e", "inject=pwrite64:error=EIO"],
    ];
    for (times, fault) in (1..).zip(faults) {
        let Some(tracer) = Tracer::attach(exporter.pid(), fault) else { return };
        until_it_pauses(&env, &exporter).await;
        drop(tracer);
        until_it_goes_on(&env, &exporter, times).await;
    }
    assert!(exporter.stop().success());
}

/// Starts an exporter that fails at once. Returns its exit code and its messages.
fn start_in_vain(env: &TestEnv) -> (Option<i32>, String) {
    let mut command = exporter::command(&env.simulation.url());
    let output = command.arg("run").arg("--config").arg(env.config()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_refused_at_the_start_and_serves_again_when_it_can_be_written() {
    let env = set().await;
    let Some(disk) = Disk::mount(&env.state(), 24) else { return };
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
    go_on(&env, POOL, USERS);

    disk.make_read_only(true);
    let before = Files::of(&env.state());
    let (code, said) = start_in_vain(&env);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
    assert_eq!(Files::of(&env.state()), before);

    disk.make_read_only(false);
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_state_is_refused_and_costs_the_first_nothing() {
    let env = set().await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    let (code, said) = start_in_vain(&env);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in use by another process"), "{said}");
    assert!(said.contains("give this one another state.path"), "{said}");
    go_on(&env, POOL, USERS);
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_snapshot_of_the_engine_costs_nothing() {
    let env = set().await;
    for _ in 0..2 {
        let exporter = env.exporter();
        env.conserved(&exporter, &[POOL]).await;
        exporter.kill();
    }
    let mut torn = 0;
    for file in fs::read_dir(env.ledger()).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("snap.") {
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
            torn += 1;
        }
    }
    assert!(torn > 0);
    go_on(&env, POOL, USERS);
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    assert!(is(&exporter.scrape(), "cognito_exporter_state_rebuilds_total", &[], 0.0));
    assert!(exporter.stop().success());
}

/// Every file of a directory, with all its bytes.
#[derive(PartialEq, Eq, Debug)]
struct Files(BTreeMap<PathBuf, Vec<u8>>);

impl Files {
    fn of(directory: &Path) -> Self {
        let mut files = Self(BTreeMap::new());
        files.gather(directory);
        files
    }

    fn gather(&mut self, directory: &Path) {
        for file in fs::read_dir(directory).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                self.gather(&path);
            } else {
                let bytes = fs::read(&path).unwrap();
                self.0.insert(path, bytes);
            }
        }
    }
}

/// Seals a record as the ledger does.
fn sealed(version: u8, payload: &[u8]) -> Vec<u8> {
    // From version 2 on the checksum covers the version, too.
    let checked = if version > 1 { [&[version], payload].concat() } else { payload.to_vec() };
    [&[version], crc32fast::hash(&checked).to_le_bytes().as_slice(), payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_has_written_is_refused_and_left_as_it_is_to_the_byte() {
    let newer: [(&[u8], Vec<u8>, &str); 4] = [
        // Field 1, a number: 99.
        (b"m/format", sealed(1, &[0x08, 99]), "the format in the ledger has version 99"),
        (b"t/eu-west-1_Disk/history", sealed(99, b"who knows"), "a total in the ledger has version 99"),
        (b"o/\0\0\0\0\0\0\xff\xff", sealed(99, b"who knows"), "has version 99"),
        (b"q/\0\0\0\0\0\0\xff\xff", sealed(99, b"who knows"), "has version 99"),
    ];
    let env = set().await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
    let store = || store::open(&env.ledger());
    for (key, value, words) in newer {
        let before = store().insert(key, value).unwrap();
        // After a write, the engine changes its files once more at the next opening.
        drop(store());
        let files = Files::of(&env.state());
        for _ in 0..2 {
            let (code, said) = start_in_vain(&env);
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains(words) && said.contains("run the newer build again"), "{said}");
            assert!(Files::of(&env.state()) == files, "{words}: the state was changed");
        }
        match before {
            Some(before) => store().insert(key, before).unwrap(),
            None => store().remove(key).unwrap(),
        };
    }
    // Without the newer build's record the ledger is as before.
    go_on(&env, POOL, USERS);
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    assert!(is(&exporter.scrape(), "cognito_exporter_state_rebuilds_total", &[], 0.0));
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_record_that_cannot_be_read_leaves_out_that_user_alone() {
    let env = set().await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
    let key = format!("u/{POOL}/user-1");
    let put = |value: &[u8]| {
        let store = store::open(&env.ledger());
        store.insert(&key, value).unwrap().unwrap()
    };
    for unreadable in [sealed(99, b"who knows"), b"nonsense".to_vec()] {
        let before = put(&unreadable);
        let exporter = env.exporter();
        exporter.until("the others", |scrape| is(scrape, "cognito_exporter_users", &[], USERS as f64 - 1.0));
        go_on(&env, POOL, USERS);
        let counted = |scrape: &Scrape| scrape.sum("cognito_auth_events_total", &[]);
        let truth = (env.truth(&[POOL]).len() - 1) as f64;
        exporter.until("what the others did", |scrape| (counted(scrape) - truth).abs() < 0.5);
        let log = exporter.log();
        assert_eq!(said(&log, &["WARN", "records of users cannot be read", "users=1"]).len(), 1, "{log}");
        assert!(!log.contains("user-"), "{log}");
        assert!(exporter.stop().success());

        // A build that can read the record finds it unchanged.
        assert!(put(&before) == unreadable);
        let exporter = env.exporter();
        env.conserved(&exporter, &[POOL]).await;
        assert!(exporter.stop().success());
    }
}

/// Ids of the records that were delivered after the first `came`, as history or not.
fn delivered(env: &TestEnv, came: usize, history: bool) -> BTreeSet<String> {
    let is_history = |record: &&Received| record.attributes["aws.cognito.event.history"] == Value::Bool(history);
    let records = env.receiver.records();
    records[came..].iter().filter(is_history).map(|record| record.text("aws.cognito.event.id").to_owned()).collect()
}

fn all_ids(env: &TestEnv) -> BTreeSet<String> {
    env.truth(&[POOL]).into_iter().filter_map(|event| event.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_ledger_is_rebuilt_and_what_happened_while_it_was_down_is_live_and_nothing_else() {
    let corrupt = |bytes: &mut Vec<u8>| bytes.fill(0xa5);
    let truncate = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 3);
    let damages: [fn(&mut Vec<u8>); 2] = [corrupt, truncate];
    for damage in damages {
        let config = format!(
            "[[pools]]\nid = {POOL:?}\nall_users = true\n[discovery]\ninterval = \"10s\"\n[poll]\n\
             requests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\nfirst_run = \"all\"\n"
        );
        let env = TestEnv::set(&config, |world| populate(world, POOL, USERS, 20)).await;
        let events = |live: usize, history: usize| {
            move |scrape: &Scrape| {
                is(scrape, "cognito_auth_events_total", &[], live as f64)
                    && is(scrape, "cognito_auth_history_events_total", &[], history as f64)
            }
        };
        let exporter = env.exporter();
        exporter.until("the history", events(0, 20 * USERS));
        go_on(&env, POOL, USERS);
        exporter.until("what is live", events(USERS, 20 * USERS));
        env.until_received(|records| records.len() == 21 * USERS).await;
        assert!(exporter.stop().success());
        let before = all_ids(&env);

        // While it is down, all users and a new one sign in, and the disk fails.
        go_on(&env, POOL, USERS);
        env.simulation.world(|world| {
            world.add_user(POOL, "user-new");
            sign_ins(world, POOL, "user-new", 2, now());
        });
        let path = env.ledger().join("db");
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let came = env.receiver.records().len();

        let exporter = env.exporter();
        let (live, history) = (USERS + 2, 21 * USERS);
        exporter.until("the truth after the loss", events(live, history));
        assert!(is(&exporter.scrape(), "cognito_exporter_state_rebuilds_total", &[], 1.0));
        let log = exporter.log();
        assert_eq!(said(&log, &["ERROR", "the ledger was damaged", "moved_to=", "are live"]).len(), 1, "{log}");
        env.until_received(|records| records.len() >= came + live + history).await;
        assert_eq!(delivered(&env, came, true), before);
        assert_eq!(delivered(&env, came, false), all_ids(&env).difference(&before).cloned().collect());
        let beside = fs::read_dir(env.state()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        assert_eq!(beside.filter(|name| name.starts_with("ledger.corrupt-")).count(), 1);

        // The enrolment is complete: a user who is added now and is old in the pool has a history, as always.
        env.simulation.world(|world| {
            world.add_user_with(POOL, "user-old", |user| user.created = UnixMillis(now().0 - 100_000 * MINUTE));
            sign_ins(world, POOL, "user-old", 3, now());
        });
        exporter.until("a history", events(live, history + 3));
        assert!(exporter.stop().success());
        let exporter = env.exporter();
        go_on(&env, POOL, USERS);
        exporter.until("more that is live", events(live + USERS, history + 3));
        assert!(is(&exporter.scrape(), "cognito_exporter_state_rebuilds_total", &[], 0.0));
        assert!(exporter.stop().success());
    }
}
