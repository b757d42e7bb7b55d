//! The built binary is stopped in every state. It exits with 0 within Kubernetes' grace period, and nothing is lost. A
//! second signal ends it at once, and nothing is lost either.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and the time of each stop is printed"
)]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cognito_auth_core::event::UnixMillis;
use cognito_auth_exporter::config::StateConfig;
use cognito_auth_exporter::ledger::{Ledger, OutboxState};
use cognito_auth_simulator::fault::{FaultKind, InjectedFault};
use cognito_auth_simulator::world::{SimulatedPool, World};

use crate::disk;
use crate::exporter;
use crate::exporter::{Exporter, Scrape};
use crate::receiver::Reply;
use crate::skips;
use crate::test_env::{MINUTE, READ, Terms, TestEnv, is, now, sign_ins};

/// The default of `terminationGracePeriodSeconds`. Afterwards Kubernetes kills the process.
const KUBERNETES_PATIENCE: Duration = Duration::from_secs(30);

/// The log message when something had to be cut.
const CUT: &str = "tasks did not finish in time";

const POOL: &str = "eu-west-1_Stopping";

/// Fast polling with all events live, and small batches, so that there are many.
fn config(rest: &str) -> String {
    format!(
        "batch_size = 10\n{rest}\n\
         [[pools]]\nid = {POOL:?}\nall_users = true\nfollowed_since = \"2020-01-01T00:00:00Z\"\n\
         [poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\nfirst_run = \"none\"\n"
    )
}

async fn env(users: usize, events: i64, rest: &str) -> TestEnv {
    TestEnv::set(&config(rest), |world| {
        world.add_pool(SimulatedPool::new(POOL));
        for user in 0..users {
            let name = format!("user-{user}");
            world.add_user(POOL, &name);
            sign_ins(world, POOL, &name, events, UnixMillis(now().0 - MINUTE));
        }
    })
    .await
}

/// Starts an exporter with one changed setting.
fn exporter_with(env: &TestEnv, variable: &str, value: &str) -> Exporter {
    let mut command = env.command();
    command.env(format!("COGNITO_EXPORTER_{variable}"), value);
    Exporter::started(command)
}

/// Adds new events for every user.
fn go_on(env: &TestEnv, events: i64) {
    env.simulation.world(|world| {
        let names: Vec<_> = world.pool(POOL).unwrap().users().map(|user| user.username.clone()).collect();
        names.iter().for_each(|name| sign_ins(world, POOL, name, events, now()));
    });
}

fn inject(env: &TestEnv, fault: InjectedFault) {
    env.simulation.world(|world| world.inject(fault));
}

/// Stops the exporter, checks its exit, and returns its log.
fn stop(state: &str, mut exporter: Exporter, signal: &str) -> String {
    let began = Instant::now();
    exporter.signal(signal);
    let status = exporter.ended();
    let took = began.elapsed();
    println!("{state}: stopped in {:.2} s", took.as_secs_f64());
    assert!(status.success(), "{state}: {status}\n{}", exporter.log());
    assert!(took < KUBERNETES_PATIENCE, "{state}: {took:?}\n{}", exporter.log());
    exporter.log()
}

/// Stops the exporter, and checks that no work was cut off.
fn stop_without_a_cut(state: &str, exporter: Exporter) {
    let log = stop(state, exporter, "TERM");
    assert!(!log.contains(CUT), "{state}\n{log}");
}

/// The records in the outbox of a stopped exporter.
async fn left(env: &TestEnv) -> OutboxState {
    let state = StateConfig { path: env.state(), ..StateConfig::default() };
    let ledger = Ledger::open(&state, now()).unwrap().ledger;
    let left = ledger.outbox_state();
    ledger.close().await;
    left
}

/// Starts the exporter again, and checks that everything is delivered once.
async fn nothing_is_lost(env: &TestEnv, terms: Terms) {
    let exporter = env.exporter();
    env.conserved_on(&exporter, &[POOL], terms).await;
    assert!(exporter.stop().success());
}

fn taken(scrape: &Scrape) -> f64 {
    scrape.sum("cognito_auth_events_total", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_by_either_signal() {
    let env = env(3, 5, "").await;
    for signal in ["TERM", "INT"] {
        let exporter = env.exporter();
        env.conserved(&exporter, &[POOL]).await;
        let log = stop("idle", exporter, signal);
        assert!(log.contains(&format!("SIG{signal}")) && !log.contains(CUT), "{log}");
        assert_eq!(left(&env).await, OutboxState::default());
        go_on(&env, 1);
    }
    nothing_is_lost(&env, Terms::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_its_first_scrape() {
    let env = env(3, 5, "").await;
    let exporter = exporter_with(&env, "HTTP__FIRST_SCRAPE_WAIT", "1h");
    env.until("a listing", |world| world.calls().count("ListUsers") > 0).await;
    stop_without_a_cut("waiting for its first scrape", exporter);
    assert_eq!(env.reads(|_| true), []);
    nothing_is_lost(&env, Terms::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_full_speed_with_a_willing_receiver_everything_committed_is_delivered() {
    let env = env(20, 150, "").await;
    // Repeatedly, while it works.
    for round in 1..=4 {
        // Large batches, so that a busy machine also has time for them.
        let exporter = exporter_with(&env, "OTLP__BATCH_SIZE", "100");
        exporter.until("some more", |scrape| taken(scrape) >= f64::from(round) * 600.0);
        stop_without_a_cut("walking long histories", exporter);
        assert_eq!(left(&env).await, OutboxState::default(), "round {round}");
    }
    nothing_is_lost(&env, Terms::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_pages_are_on_their_way_none_is_committed_that_nobody_delivers() {
    let env = env(20, 100, "").await;
    inject(&env, InjectedFault::new(FaultKind::Slow(Duration::from_secs(1))).on(READ));
    for round in 1..=2 {
        let exporter = env.exporter();
        env.until("calls under way", |world| world.calls().count(READ) >= round * 16).await;
        stop_without_a_cut("source slow", exporter);
        assert_eq!(left(&env).await, OutboxState::default(), "round {round}");
    }
    env.simulation.world(World::remove_all_faults);
    nothing_is_lost(&env, Terms::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_its_budget() {
    let env = env(1, 300, "").await;
    let exporter = exporter_with(&env, "POLL__REQUESTS_PER_SECOND", "0.1");
    // The first call is a poll, the second continues it, and then its turn waits ten seconds for the third.
    exporter.until("the second page", |scrape| taken(scrape) > 60.5);
    stop_without_a_cut("waiting for its budget", exporter);
    nothing_is_lost(&env, Terms::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_source_hangs() {
    let env = env(20, 100, "").await;
    inject(&env, InjectedFault::new(FaultKind::Hang).on(READ).after(10));
    // More calls than may be concurrent: some wait until others have ended, and then hang.
    let exporter = exporter_with(&env, "POLL__TIMEOUT", "60s");
    env.until("calls that hang", |world| world.calls().count(READ) >= 20).await;
    stop_without_a_cut("source hanging", exporter);
    env.simulation.world(World::remove_all_faults);
    nothing_is_lost(&env, Terms::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_listing_hangs_or_the_source_throttles() {
    let env = env(20, 100, "").await;
    inject(&env, InjectedFault::new(FaultKind::Hang).on("ListUsers"));
    let exporter = exporter_with(&env, "POLL__TIMEOUT", "60s");
    env.until("a listing that hangs", |world| world.calls().count("ListUsers") > 0).await;
    stop_without_a_cut("listing hanging", exporter);

    env.simulation.world(World::remove_all_faults);
    inject(&env, InjectedFault::throttle().on(READ).after(10));
    let exporter = env.exporter();
    let throttled = ["outcome=\"throttled\""];
    exporter.until("throttles", |scrape| scrape.sum("cognito_exporter_api_requests_total", &throttled) > 3.5);
    stop_without_a_cut("source throttling", exporter);

    env.simulation.world(World::remove_all_faults);
    nothing_is_lost(&env, Terms::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_up_against_a_pool_that_cannot_be_described() {
    let env = env(3, 5, "").await;
    for fault in [FaultKind::Hang, FaultKind::Reset] {
        inject(&env, InjectedFault::new(fault).on("DescribeUserPool"));
        let exporter = exporter_with(&env, "POLL__TIMEOUT", "60s");
        env.until("a question", |world| world.calls().count("DescribeUserPool") > 0).await;
        stop_without_a_cut("pool cannot be described", exporter);
        env.simulation.world(World::remove_all_faults);
        env.forget_calls();
    }
    nothing_is_lost(&env, Terms::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_receiver_is_down() {
    let env = env(5, 20, "").await;
    env.receiver.stop().await;
    let exporter = env.exporter();
    exporter.until("every event", |scrape| is(scrape, "cognito_exporter_outbox_records", &[], 100.0));
    let log = stop("receiver down", exporter, "TERM");
    assert!(log.contains(CUT) && log.contains("waiting=100"), "{log}");
    assert_eq!(left(&env).await.records, 100);
    env.receiver.start().await;
    nothing_is_lost(&env, Terms::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_receiver_hangs_and_at_once_by_a_second_signal() {
    let env = env(5, 20, "timeout = \"1m\"").await;
    env.receiver.answer_always(Reply::Hang);
    let exporter = env.exporter();
    exporter.until("every event", |scrape| is(scrape, "cognito_exporter_outbox_records", &[], 100.0));
    env.receiver.wait_for_exports(1).await;
    let log = stop("receiver hanging", exporter, "TERM");
    assert!(log.contains(CUT) && log.contains("waiting=100"), "{log}");

    for (first, second) in [("TERM", "TERM"), ("INT", "TERM")] {
        let mut exporter = env.exporter();
        exporter.signal(first);
        exporter.until_said("a second signal exits at once");
        let began = Instant::now();
        exporter.signal(second);
        // Only the second signal ends it with 1. The drain alone would have ended it with 0.
        assert_eq!(exporter.ended().code(), Some(1), "{}", exporter.log());
        println!("second signal: ended in {:.2} s", began.elapsed().as_secs_f64());
    }
    env.receiver.answer_always(Reply::Ok);
    nothing_is_lost(&env, Terms::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_receiver_is_slow_as_much_as_can_be_is_delivered() {
    let env = env(5, 40, "").await;
    env.receiver.answer_always(Reply::Slow(Duration::from_secs(2)));
    let exporter = env.exporter();
    exporter.until("every event", |scrape| taken(scrape) > 199.5);
    let before = env.receiver.records().len();
    let log = stop("receiver slow", exporter, "TERM");
    assert!(log.contains(CUT), "200 records at 10 in 2 s are more than can be drained\n{log}");
    let (after, left) = (env.receiver.records().len(), left(&env).await.records);
    assert!(after > before, "{before} records before the stop, {after} after it");
    // The receiver kept the batch in flight at the cut, and its answer is lost. So it is sent again.
    assert!((200 - after as u64..=210 - after as u64).contains(&left), "{after} came, {left} are left");
    env.receiver.answer_always(Reply::Ok);
    nothing_is_lost(&env, Terms { repeats_max: 10, ..Terms::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_can_be_watched_and_is_not_ready() {
    let env = env(5, 20, "timeout = \"3s\"").await;
    env.receiver.answer_always(Reply::Hang);
    let mut exporter = env.exporter();
    exporter.until("every event", |scrape| is(scrape, "cognito_exporter_outbox_records", &[], 100.0));
    assert_eq!(exporter.ask("/readyz"), (200, "ok\n".to_owned()));
    exporter.signal("TERM");
    exporter.until_said("a second signal exits at once");
    // Readiness changes before anything ends.
    while exporter.ask("/readyz") != (503, "stopping\n".to_owned()) {
        assert!(!exporter.log().contains(CUT), "{}", exporter.log());
    }
    let draining = exporter.scrape();
    assert!(is(&draining, "cognito_exporter_outbox_records", &[], 100.0), "{}", draining.interesting());
    let (status, json) = exporter.ask("/status");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, &json["ready"], &json["reason"]), (200, &false.into(), &"stopping".into()));
    assert_eq!(exporter.ask("/healthz").0, 200);

    // The receiver accepts records again, and the drain completes.
    env.receiver.answer_always(Reply::Ok);
    assert!(exporter.ended().success(), "{}", exporter.log());
    assert!(!exporter.log().contains(CUT), "{}", exporter.log());
    assert_eq!(left(&env).await, OutboxState::default());
    nothing_is_lost(&env, Terms::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_outbox_is_full() {
    let env = env(20, 200, "").await;
    env.receiver.stop().await;
    let exporter = exporter_with(&env, "STATE__OUTBOX_LIMIT", "1MiB");
    let reason = ["reason=\"outbox_full\""];
    exporter.until("a full outbox", |scrape| is(scrape, "cognito_exporter_paused", &reason, 1.0));
    let waiting = exporter.scrape().sum("cognito_exporter_outbox_bytes", &[]);
    // The open pages may exceed the limit: 16 with 60 events each.
    assert!(waiting < f64::from((1 << 20) + 16 * 60 * 1024), "{waiting} bytes");
    stop("outbox full", exporter, "TERM");
    env.receiver.start().await;
    nothing_is_lost(&env, Terms::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_ledger_fails_for_want_of_room() {
    let env = env(20, 20, "").await;
    let Some(disk) = SmallDisk::mount(&env.state()) else { return };
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    disk.fill();
    let reason = ["reason=\"state_error\""];
    let full = || {
        go_on(&env, 10);
        exporter.scrape()
    };
    let deadline = Instant::now() + exporter::PATIENCE;
    while !is(&full(), "cognito_exporter_paused", &reason, 1.0) {
        assert!(Instant::now() < deadline, "the disk is not full\n{}", exporter.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop("ledger failing", exporter, "TERM");
    disk.clear();
    nothing_is_lost(&env, Terms::default()).await;
}

/// A tmpfs of a few megabytes, mounted for a test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    const BYTES: u64 = 48 << 20;

    /// Mounts it, if permitted. In CI it must be.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={}", Self::BYTES);
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(Self(at.to_owned()));
        }
        skips::unless_there(false, disk::MOUNT, disk::AS_ROOT);
        None
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        while ballast.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    }

    fn clear(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A lazy unmount, because a failed test may leave an exporter that is about to be killed.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
