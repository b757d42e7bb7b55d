//! The built binary on a disk that is full, read-only, failing or damaged: it says so, waits, and loses and repeats nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/exporter.rs"]
mod exporter;
#[path = "support/receiver.rs"]
mod receiver;
#[path = "support/stage.rs"]
mod stage;

use cognito_auth_exporter::event::UnixMillis;
use cognito_auth_exporter::simulate::world::{Pool, World};
use disk::{Disk, Tracer};
use exporter::Exporter;
use stage::{MINUTE, Stage, is, now, said, sign_ins};

const POOL: &str = "eu-west-1_Disk";
const USERS: usize = 6;

/// Quick, and everything is live.
const QUICK: &str = "all_users = true\n[poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\n\
                     first_run = \"none\"\n";

const PAUSED: &str = "cognito_exporter_paused";
const STATE_ERROR: &str = "reason=\"state_error\"";

async fn set() -> Stage {
    let config = format!("[[pools]]\nid = {POOL:?}\nfollowed_since = \"2020-01-01T00:00:00Z\"\n{QUICK}");
    Stage::set(&config, populate).await
}

fn populate(world: &mut World) {
    world.add_pool(Pool::new(POOL));
    for user in 0..USERS {
        world.add_user(POOL, &format!("user-{user}"));
        sign_ins(world, POOL, &format!("user-{user}"), 20, UnixMillis(now().0 - MINUTE));
    }
}

/// Something new happens to everybody.
fn go_on(stage: &Stage) {
    stage.simulation.world(|world| {
        (0..USERS).for_each(|user| sign_ins(world, POOL, &format!("user-{user}"), 1, now()));
    });
}

/// Lets things happen until polling pauses, and checks that everybody is told.
async fn until_it_pauses(stage: &Stage, exporter: &Exporter) {
    exporter.until("a pause", |scrape| {
        let pauses = is(scrape, PAUSED, &[STATE_ERROR], 1.0);
        if !pauses {
            go_on(stage);
        }
        pauses
    });
    let ready = exporter.answer("/readyz");
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(ready.contains("cannot use the ledger: ") || ready.contains("the ledger"), "{ready}");
    assert!(exporter.answer("/healthz").starts_with("HTTP/1.1 200 "));
    // What happens meanwhile waits in Cognito.
    go_on(stage);
}

/// Waits until polling goes on, and checks that nothing was lost or repeated, and that the `times`th fault was told once.
async fn until_it_goes_on(stage: &Stage, exporter: &Exporter, times: usize) {
    exporter.until("no pause", |scrape| is(scrape, PAUSED, &[STATE_ERROR], 0.0));
    stage.conserved(exporter, &[POOL]).await;
    assert!(exporter.answer("/readyz").starts_with("HTTP/1.1 200 "));
    let log = exporter.log();
    assert_eq!(said(&log, &["ERROR", "the ledger failed"]).len(), times, "{log}");
    assert_eq!(said(&log, &["ERROR"]).len(), times, "{log}");
    assert_eq!(said(&log, &["INFO", "the ledger is open again"]).len(), times, "{log}");
    assert!(!log.contains("user-"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_pauses_polling_and_costs_nothing_once_there_is_room_again() {
    let stage = set().await;
    let Some(disk) = Disk::mount(&stage.state(), 24) else { return };
    let exporter = stage.exporter();
    stage.conserved(&exporter, &[POOL]).await;
    for times in 1..=2 {
        disk.fill();
        until_it_pauses(&stage, &exporter).await;
        disk.free();
        until_it_goes_on(&stage, &exporter, times).await;
    }
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn system_calls_that_fail_pause_polling_and_cost_nothing_once_they_work_again() {
    let stage = set().await;
    let exporter = stage.exporter();
    stage.conserved(&exporter, &[POOL]).await;
    let faults: [&[&str]; 3] = [
        &["-e", "trace=fsync", "-e", "inject=fsync:error=EIO"],
        // As when the system has made a file system read-only under those who write to it.
        &["-e", "trace=pwrite64,fsync,rename", "-e", "inject=pwrite64,fsync,rename:error=EROFS"],
        &["-e", "trace=pwrite64", "-e", "inject=pwrite64:error=EIO:when=3+7"],
    ];
    for (times, fault) in (1..).zip(faults) {
        let Some(tracer) = Tracer::attach(exporter.pid(), fault) else { return };
        until_it_pauses(&stage, &exporter).await;
        drop(tracer);
        until_it_goes_on(&stage, &exporter, times).await;
    }
    assert!(exporter.stop().success());
}
