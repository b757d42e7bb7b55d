//! The built binary between a simulated Cognito that exports its events, and a real OTLP receiver. Whichever source
//! tells an event first, it is delivered and counted once.

use std::net::SocketAddr;
use std::time::Duration;

use cognito_auth_core::event::{UnixMillis, Word};
use cognito_auth_simulator::export::ExportSettings;
use cognito_auth_simulator::firehose::{FirehoseSettings, FirehoseStream};
use cognito_auth_simulator::world::{SimulatedPool, World};

use crate::exporter::Exporter;
use crate::test_env::{MINUTE, Terms, TestEnv, is, now, sign_ins};

pub(crate) const POOL: &str = "eu-west-1_Exported1";
pub(crate) const STREAM: &str = "cognito";
pub(crate) const KEY: &str = "a key of this test";

/// A configuration of one pool with an export, and fast polling.
fn exported(audit: &str, source: &str) -> String {
    format!(
        "[[pools]]\nid = {POOL:?}\nall_users = true\n[pools.export]\naudit = {audit:?}\n{source}\n\
         [poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\nfirst_run = \"all\"\n"
    )
}

pub(crate) fn by_firehose(audit: &str) -> String {
    let endpoint = "[firehose]\nlisten = \"127.0.0.1:0\"\naccess_keys_file = \"{directory}/keys\"\n";
    format!("{}{endpoint}", exported(audit, "firehose = true"))
}

/// An export that loses a tenth, repeats a fifth, and changes the order.
pub(crate) fn faulty(settings: ExportSettings) -> ExportSettings {
    ExportSettings {
        delay: Duration::ZERO..=Duration::from_millis(300),
        overtaken: 0.3,
        extra_delay: Duration::ZERO..=Duration::from_millis(700),
        lost: 0.1,
        repeated: 0.2,
        changes: 0.5,
        odd: 0.3,
        ..settings
    }
}

/// The log line of an exporter whose endpoint is open.
pub(crate) const SAID: &str = "Data Firehose can deliver";

/// The address of an exporter's endpoint for Data Firehose.
fn endpoint(exporter: &Exporter) -> SocketAddr {
    exporter.until_said(SAID);
    let log = exporter.log();
    let line = log.lines().find(|line| line.contains(SAID)).unwrap();
    let listen = line.split("listen=").nth(1).and_then(|rest| rest.split_whitespace().next());
    listen.unwrap().parse().unwrap()
}

/// Has the stream deliver to an exporter from now on.
pub(crate) fn deliver_to(env: &TestEnv, exporter: &Exporter) {
    let url = format!("http://{}/", endpoint(exporter));
    env.simulation.world(|world| world.firehose_mut(STREAM).settings.endpoint = url);
}

pub(crate) fn stream() -> FirehoseStream {
    let quick = FirehoseSettings {
        buffer_for: Duration::from_millis(50),
        first_wait: Duration::from_millis(100),
        wait_max: Duration::from_millis(400),
        repeated: 0.1,
        ..FirehoseSettings::to_endpoint("http://127.0.0.1:9/", KEY)
    };
    FirehoseStream::new(STREAM, "eu-west-1", "111122223333", quick)
}

pub(crate) fn add_users(world: &mut World, users: i64) {
    world.add_pool(SimulatedPool::new(POOL));
    for user in 0..users {
        world.add_user(POOL, &format!("user-{user}"));
    }
}

/// Lets every user sign in, some of them with a second step to come; their names and events.
pub(crate) fn sign_in_all(world: &mut World, users: i64, at: UnixMillis) -> Vec<(String, String)> {
    let mut waiting = vec![];
    for event in 0..users * 4 {
        let (name, mut sign_in) = (format!("user-{}", event % users), world.sign_in(UnixMillis(at.0 + event * 7)));
        let response = ["Pass", "Fail", "InProgress"][usize::try_from(event % 3).unwrap()];
        sign_in.response = Some(Word::parse(response));
        world.arrive(POOL, &name, &sign_in);
        if response == "InProgress" {
            waiting.push((name, sign_in.id.unwrap()));
        }
    }
    waiting
}

/// A pool whose events come by polls and by a faulty export, while the exporter is killed again and again.
async fn conserve(config: &str, export: ExportSettings) {
    let began = now();
    let is_streamed = export.firehose.is_some();
    let env = TestEnv::set(config, |world| {
        add_users(world, 12);
        for user in 0..12 {
            sign_ins(world, POOL, &format!("user-{user}"), 5, UnixMillis(began.0 - 90 * MINUTE));
        }
        if is_streamed {
            world.add_firehose(stream());
        }
        world.export_events(POOL, faulty(export));
    })
    .await;
    env.file("keys", &format!("{KEY}\n"));
    let start = || {
        let exporter = env.exporter();
        if is_streamed {
            deliver_to(&env, &exporter);
        }
        exporter
    };
    if is_streamed {
        env.simulation.deliver_firehose(STREAM);
    }
    let mut exporter = start();
    exporter.until("the history", |scrape| is(scrape, "cognito_auth_history_events_total", &[], 60.0));
    for _ in 0..5 {
        let at = now();
        let waiting = env.simulation.world(|world| sign_in_all(world, 12, at));
        let seen = env.receiver.records().len();
        env.until_received(|records| records.len() >= seen + 20).await;
        exporter.kill();
        env.simulation.world(|world| {
            for (number, (name, id)) in waiting.iter().enumerate() {
                let outcome = if number % 2 == 0 { "Pass" } else { "Fail" };
                world.revise(POOL, name, id, |event| event.response = Some(Word::parse(outcome)));
            }
        });
        exporter = start();
    }
    let terms = Terms { live_since: began, repeats_max: 6 * 512, quarantined: 0 };
    env.conserved_on(&exporter, &[POOL], terms).await;
    exporter.until("both sources", |scrape| {
        scrape.sum("cognito_exporter_export_records_total", &["result=\"known\""]) > 0.0
    });
    let records = env.receiver.records();
    let told_by =
        |source: &str| records.iter().filter(|record| record.text("aws.cognito.event.source") == source).count();
    assert!(told_by("export") > 0 && told_by("poll") > 0, "{} {}", told_by("export"), told_by("poll"));
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_told_once_by_firehose_and_polls_over_losses_repeats_and_kills() {
    conserve(&by_firehose("full"), ExportSettings::to_firehose(STREAM)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_told_once_by_a_log_group_and_polls_over_losses_repeats_and_kills() {
    const GROUP: &str = "/aws/vendedlogs/cognito/exported";
    let source = format!("log_group = {GROUP:?}\nread_interval = \"1s\"\noverlap = \"1m\"");
    conserve(&exported("full", &source), ExportSettings::to_log_group(GROUP)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_an_export_that_works_only_a_sample_is_polled() {
    let env = TestEnv::set(&by_firehose("sample"), |world| {
        add_users(world, 30);
        world.add_firehose(stream());
        world.export_events(POOL, ExportSettings::to_firehose(STREAM));
    })
    .await;
    env.file("keys", KEY);
    env.simulation.deliver_firehose(STREAM);
    let exporter = env.exporter();
    deliver_to(&env, &exporter);
    env.until_all_polled(POOL, &(0..30).map(|user| format!("user-{user}")).collect()).await;
    exporter.until("idle polls", |scrape| is(scrape, "cognito_exporter_users", &["state=\"ok\""], 30.0));
    env.forget_calls();
    let began = std::time::Instant::now();
    for round in 1..=3 {
        let at = now();
        env.simulation.world(|world| {
            for user in 0..30 {
                let event = world.sign_in(UnixMillis(at.0 + user));
                world.arrive(POOL, &format!("user-{user}"), &event);
            }
        });
        let events = f64::from(30 * round);
        exporter.until("every event", |scrape| is(scrape, "cognito_auth_events_total", &[], events));
    }
    // The default sample is 0.2 users per second; its first draw is due at once.
    let polls = env.reads(|_| true).len() as f64;
    assert!(polls <= 2.0 + 0.2 * began.elapsed().as_secs_f64(), "{polls} polls");
    let status: serde_json::Value = serde_json::from_str(&exporter.get("/status")).unwrap();
    assert_eq!(status["pools"][0]["export"]["sampled"], true, "{status:#}");
    assert_eq!(status["pools"][0]["export"]["up"], true);
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_audit_nobody_is_listed_or_polled_and_every_exported_event_is_told_once() {
    let env = TestEnv::set(&by_firehose("off"), |world| {
        add_users(world, 5);
        world.add_firehose(stream());
        let settings = ExportSettings { repeated: 0.5, ..ExportSettings::to_firehose(STREAM) };
        world.export_events(POOL, settings);
    })
    .await;
    env.file("keys", KEY);
    env.simulation.deliver_firehose(STREAM);
    let mut exporter = env.exporter();
    exporter.scrape();
    deliver_to(&env, &exporter);
    for _ in 0..3 {
        let at = now();
        env.simulation.world(|world| {
            for (name, id) in sign_in_all(world, 5, at) {
                world.revise(POOL, &name, &id, |event| event.response = Some(Word::parse("Pass")));
            }
        });
        let events = env.truth(&[POOL]).len();
        let of = |scrape: &crate::exporter::Scrape| {
            let count = |name: &str| scrape.sum(name, &[]);
            count("cognito_auth_events_total") - count("cognito_auth_superseded_outcomes_total")
        };
        exporter.until("every event", |scrape| (of(scrape) - events as f64).abs() < 0.5);
        exporter.kill();
        exporter = env.exporter();
        exporter.scrape();
        deliver_to(&env, &exporter);
    }
    env.simulation.world(|world| {
        let calls: Vec<_> = world.calls().iter().map(|call| call.operation.to_string()).collect();
        assert!(calls.iter().all(|call| call == "DescribeUserPool"), "{calls:?}");
    });
    assert!(exporter.stop().success());
}
