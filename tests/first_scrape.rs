//! The wait for the first scrape: it is said, nothing counts as late meanwhile, and nobody waits where nobody scrapes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::world::SimulatedPool;
use serde_json::Value;

use crate::exporter::{Exporter, PATIENCE};
use crate::test_env::{MINUTE, TestEnv, all_live, now, sign_ins};

const POOL: &str = "eu-west-1_FirstScrape";

/// One user with a few events.
async fn env() -> TestEnv {
    TestEnv::set(&all_live(POOL), |world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ann");
        sign_ins(world, POOL, "ann", 5, UnixMillis(now().0 - MINUTE));
    })
    .await
}

/// Starts an exporter that waits this long at most.
fn waiting(env: &TestEnv, wait_max: &str) -> Exporter {
    let mut command = env.command();
    command.env("COGNITO_EXPORTER_HTTP__FIRST_SCRAPE_WAIT", wait_max);
    Exporter::started(command)
}

fn status(exporter: &Exporter) -> Value {
    serde_json::from_str(&exporter.get("/status")).unwrap()
}

/// The status, once it is as wanted. A request for it is no scrape.
fn until_shown(exporter: &Exporter, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = status(exporter);
        if is_wanted(&shown) {
            return shown;
        }
        assert!(Instant::now() < deadline, "{shown}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_is_said_in_the_log_the_status_and_the_page_and_nothing_is_late_meanwhile() {
    let env = env().await;
    let exporter = waiting(&env, "1h");
    exporter.until_said("waiting for the first scrape of /metrics (http.first_scrape_wait) wait_max_seconds=3600");
    env.until("a listing", |world| world.calls().count("ListUsers") > 0).await;
    let shown = until_shown(&exporter, |status| status["totals"]["users"]["ok"] == 1);
    assert_eq!(shown["verdict"], "waiting_for_scrape");
    assert_eq!(shown["flowing"], Value::Null);
    assert_eq!(shown["first_scrape"]["ended"], Value::Null);
    assert_eq!(shown["findings"], Value::Array(vec![]));
    assert_eq!(shown["pools"][0]["oldest_poll"], Value::Null);
    let page = exporter.get("/");
    assert!(page.contains("Waiting for the first scrape of /metrics") && !page.contains("Sign-in events flow"));
    assert!(env.polled(POOL).is_empty(), "nobody has seen the zeros");

    exporter.until("her events", |scrape| scrape.sum("cognito_auth_events_total", &[]) > 4.5);
    exporter.until_said("/metrics was scraped; polling begins");
    let shown = until_shown(&exporter, |status| status["flowing"] == true);
    assert!(shown["first_scrape"]["ended"].is_string(), "{shown}");
    env.conserved(&exporter, &[POOL]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_wait_in_vain_no_start_waits_until_somebody_scrapes() {
    let env = env().await;
    let exporter = waiting(&env, "1s");
    exporter.until_said("/metrics was not scraped; polling begins without a scrape");
    env.until_received(|records| records.len() == 5).await;
    assert!(exporter.stop().success());

    env.forget_calls();
    let exporter = waiting(&env, "1h");
    env.until_polled(POOL, "ann", 2).await;
    assert!(!exporter.log().contains("waiting for the first scrape"), "{}", exporter.log());
    exporter.scrape();
    // The note of the scrape is on the disk before a commit that begins later.
    env.simulation.world(|world| sign_ins(world, POOL, "ann", 1, now()));
    env.until_received(|records| records.len() == 6).await;
    assert!(exporter.stop().success());

    env.forget_calls();
    let exporter = waiting(&env, "1h");
    exporter.until_said("waiting for the first scrape of /metrics");
    env.until("a listing", |world| world.calls().count("ListUsers") > 0).await;
    assert!(env.polled(POOL).is_empty(), "somebody scrapes, and has not seen the totals yet");
    env.conserved(&exporter, &[POOL]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sink_every_start_waits_because_metrics_are_all_that_is_exported() {
    let env = env().await;
    let only_metrics = std::fs::read_to_string(env.config()).unwrap();
    let (before, after) = only_metrics.split_once("[otlp]").unwrap();
    let (_, after) = after.split_once("[[pools]]").unwrap();
    std::fs::write(env.config(), format!("{before}[[pools]]{after}")).unwrap();
    let exporter = waiting(&env, "1s");
    exporter.until_said("polling begins without a scrape");
    env.until_polled(POOL, "ann", 2).await;
    assert!(exporter.stop().success());
    let exporter = waiting(&env, "1h");
    exporter.until_said("waiting for the first scrape of /metrics");
}
