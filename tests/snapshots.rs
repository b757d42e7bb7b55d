//! Backups of a running exporter: a snapshot of the state directory, taken at one moment under load, is a whole ledger
//! that has everything which `/metrics` had shown before.
//!
//! A snapshot of a volume shows all files as they are at one moment. The test makes such a moment: it stops the process
//! (SIGSTOP), copies the files, and lets it go on. A copy of the files one after the other, while they are written, is
//! no such moment: the second test prints how many of those can be opened, and checks that none passes for whole that
//! is not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;

use cognito_auth_core::counters::Series;
use cognito_auth_exporter::config::StateConfig;
use cognito_auth_exporter::ledger::Ledger;
use tempfile::TempDir;

use crate::exporter::{Exporter, Scrape};
use crate::folders::copy;
use crate::test_env::{Terms, TestEnv, all_live, go_on, now, populate};

const POOL: &str = "eu-west-1_Snapshots";

const COPIES: usize = 50;

const USERS: usize = 40;

/// New events of each user before each copy: more than are read until it is made.
const EVENTS: i64 = 5;

async fn env() -> TestEnv {
    let config = format!("batch_size = 10\n{}", all_live(POOL));
    TestEnv::set(&config, |world| populate(world, POOL, USERS, 1)).await
}

/// Puts the exporter under load: adds events, and waits until more than `before` are counted. Returns what is shown.
fn load(env: &TestEnv, exporter: &Exporter, before: f64) -> f64 {
    // None is dated back: late arrivals deep in an overlap would be read an hour later.
    (0..EVENTS).for_each(|_| go_on(env, POOL, USERS));
    counted(&exporter.until("the load", |scrape| counted(scrape) > before + 0.5))
}

fn counted(scrape: &Scrape) -> f64 {
    scrape.sum("cognito_auth_events_total", &[])
}

/// Waits until the kernel reports that a process is stopped.
fn until_stopped(exporter: &Exporter) {
    let stat = PathBuf::from(format!("/proc/{}/stat", exporter.pid()));
    let state = || {
        let text = std::fs::read_to_string(&stat).unwrap();
        text.rsplit_once(") ").unwrap().1.chars().next()
    };
    while state() != Some('T') {
        std::thread::yield_now();
    }
}

/// What a copy of the state turned out to be.
#[derive(Debug, PartialEq)]
enum CopiedLedger {
    /// It was opened as it is, every record can be read, and it counted this many events.
    Whole(u64),
    /// It was not opened as it is, and says why.
    Refused(String),
}

async fn opened(copy: &TempDir) -> CopiedLedger {
    let state = StateConfig { path: copy.path().join("state"), ..StateConfig::default() };
    let mut damage = Vec::new();
    let whole = Ledger::examine(&state, |name, wrong| {
        damage.extend(wrong.map(|wrong| format!("{name:?}: {wrong}")));
    });
    match whole {
        Ok(None) => {}
        Ok(Some(error)) | Err(error) => return CopiedLedger::Refused(error.to_string()),
    }
    if let Some(first) = damage.first() {
        return CopiedLedger::Refused(first.clone());
    }
    let opened = Ledger::open(&state, now()).unwrap();
    assert!(opened.rebuilt.is_none(), "a ledger that is whole was rebuilt");
    let totals = opened.ledger.totals(POOL).unwrap();
    let events = totals.iter().filter(|(series, _)| matches!(series, Series::Events(_))).map(|(_, total)| total).sum();
    opened.ledger.close().await;
    CopiedLedger::Whole(events)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_snapshot_of_a_running_ledger_is_whole_and_has_all_that_was_shown() {
    let env = env().await;
    let exporter = env.exporter();
    let mut last = 0;
    for number in 0..COPIES {
        let shown = load(&env, &exporter, last as f64);
        let snapshot = tempfile::tempdir().unwrap();
        exporter.signal("STOP");
        until_stopped(&exporter);
        copy(&env.state(), &snapshot.path().join("state"));
        exporter.signal("CONT");
        let CopiedLedger::Whole(events) = opened(&snapshot).await else {
            panic!("snapshot {number}: {:?}", opened(&snapshot).await)
        };
        assert!(events as f64 >= shown, "snapshot {number}: {events} events, and {shown} were shown before");
        assert!(events > last, "snapshot {number}: the ledger was not written since the one before");
        last = events;
    }
    println!("{COPIES} snapshots, all whole; the last has {last} events");
    exporter.kill();
    // The exporter that goes on from here counts and delivers the rest once.
    env.conserved_on(&env.exporter(), &[POOL], Terms { repeats_max: 10, ..Terms::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_file_by_file_is_whole_or_refused_and_never_in_between() {
    let env = env().await;
    let exporter = env.exporter();
    let (mut whole, mut refused, mut shown) = (0, 0, 0.0);
    for _ in 0..COPIES {
        shown = load(&env, &exporter, shown);
        let files = tempfile::tempdir().unwrap();
        copy(&env.state(), &files.path().join("state"));
        match opened(&files).await {
            CopiedLedger::Whole(events) => {
                whole += 1;
                assert!(events as f64 >= shown, "{events} events, and {shown} were shown before");
            }
            CopiedLedger::Refused(_) => refused += 1,
        }
    }
    println!("{COPIES} copies file by file: {whole} whole, {refused} refused");
    assert_eq!(whole + refused, COPIES);
}
