//! A wall clock that jumps: the built binary under libfaketime. Its monotonic clock is left alone, as the kernel leaves
//! it. Cognito's own clock is always right.

use std::path::Path;

use cognito_auth_core::event::{EventResponse, UnixMillis, Word};
use cognito_auth_simulator::world::{SimulatedPool, World};

use crate::exporter::Exporter;
use crate::peers;
use crate::test_env::{MINUTE, TestEnv, is, now, said, sign_ins};

const POOL: &str = "eu-west-1_Clock";
const USERS: usize = 5;
/// Two days in milliseconds.
const TWO_DAYS: i64 = 2 * 24 * 60 * MINUTE;

/// Adds a sign-in in progress.
fn begins(world: &mut World, user: &str) -> String {
    let mut event = world.sign_in(now());
    event.response = Some(Word::Known(EventResponse::InProgress));
    world.arrive(POOL, user, &event);
    event.id.unwrap()
}

/// Sets the exporter's clock off by this much, and waits until the exporter uses it.
async fn set_clock(env: &TestEnv, exporter: &Exporter, off_ms: i64) {
    env.file("clock", &format!("{:+}s\n", off_ms / 1000));
    let what = format!("a clock {} s off", off_ms / 1000);
    exporter.until(&what, |scrape| {
        let oldest = scrape.sum("cognito_exporter_last_progress_timestamp_seconds", &["stage=\"poll\""]);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of this age fit")]
        let off = oldest * 1000.0 - now().0 as f64;
        (off - off_ms as f64).abs() < MINUTE as f64
    });
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

fn environment(library: &Path, clock: &str) -> Vec<(&'static str, String)> {
    vec![
        ("LD_PRELOAD", library.to_str().unwrap().to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_owned()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_by_days_and_back_loses_nothing_counts_nothing_twice_and_stops_no_poll() {
    let Some(library) = peers::faketime() else { return };
    let config = format!(
        "[[pools]]\nid = {POOL:?}\nall_users = true\nfollowed_since = \"2020-01-01T00:00:00Z\"\n\
         [poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\nsettle = \"10s\"\n"
    );
    let env = TestEnv::set(&config, |world| {
        world.add_pool(SimulatedPool::new(POOL));
        for number in 0..USERS {
            world.add_user(POOL, &user(number));
            sign_ins(world, POOL, &user(number), 70, UnixMillis(now().0 - MINUTE));
        }
    })
    .await;
    env.file("clock", "+0s\n");
    let clock = env.path("clock");
    let by_that_clock = || {
        let mut command = env.command();
        command.envs(environment(&library, clock.to_str().unwrap()));
        Exporter::started(command)
    };
    let exporter = by_that_clock();
    env.conserved(&exporter, &[POOL]).await;

    let mut abandoned = 0.0;
    for off in [TWO_DAYS, 0, -TWO_DAYS, 0] {
        // Sign-ins of three kinds: begun before the jump and ended after it, begun and ended after it, and never ended.
        let before: Vec<_> = env
            .simulation
            .world(|world| (0..USERS).map(|number| (user(number), begins(world, &user(number)))).collect());
        env.conserved(&exporter, &[POOL]).await;
        set_clock(&env, &exporter, off).await;
        let after: Vec<_> = env.simulation.world(|world| {
            begins(world, "user-0");
            (0..USERS).map(|number| (user(number), begins(world, &user(number)))).collect()
        });
        abandoned += 1.0;
        env.conserved(&exporter, &[POOL]).await;
        env.simulation.world(|world| {
            for (user, id) in before.iter().chain(&after) {
                world.revise(POOL, user, id, |event| event.response = Some(Word::Known(EventResponse::Pass)));
                sign_ins(world, POOL, user, 1, now());
            }
        });
        // Everything is counted and delivered, and every user is polled again, within a test's patience and not after
        // two days.
        env.conserved(&exporter, &[POOL]).await;
        exporter
            .until("everybody well", |scrape| is(scrape, "cognito_exporter_users", &["state=\"ok\""], USERS as f64));
    }
    // Each sign-in that never ended is unfinished once. A jump ahead may have ended the wait for others, too.
    let scrape =
        exporter.until("unfinished", |scrape| scrape.sum("cognito_auth_unfinished_events_total", &[]) >= abandoned);
    let unfinished = scrape.sum("cognito_auth_unfinished_events_total", &[]);
    assert!(unfinished <= abandoned + 2.0 * 4.0 * USERS as f64, "{}", scrape.interesting());
    assert!(is(&scrape, "cognito_auth_history_events_total", &[], 0.0), "{}", scrape.interesting());
    assert!(is(&scrape, "cognito_exporter_state_rebuilds_total", &[], 0.0), "{}", scrape.interesting());
    assert_eq!(said(&exporter.log(), &["WARN"]), Vec::<String>::new());
    assert_eq!(said(&exporter.log(), &["ERROR"]), Vec::<String>::new());

    // After a restart with a clock that was set back, the ledger opens as it was.
    set_clock(&env, &exporter, TWO_DAYS).await;
    env.simulation.world(|world| sign_ins(world, POOL, "user-0", 3, now()));
    env.conserved(&exporter, &[POOL]).await;
    exporter.kill();
    env.file("clock", &format!("{:+}s\n", -TWO_DAYS / 1000));
    let exporter = by_that_clock();
    env.simulation.world(|world| sign_ins(world, POOL, "user-0", 3, now()));
    env.conserved(&exporter, &[POOL]).await;
    assert!(is(&exporter.scrape(), "cognito_exporter_state_rebuilds_total", &[], 0.0));
    assert!(exporter.stop().success());
}
