//! Whatever the OTLP receiver does, nothing is lost, nothing is counted twice, the counters stay live, and people are told:
//! the built binary against a simulated Cognito and a receiver that errs, over gRPC and over HTTP.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/exporter.rs"]
mod exporter;
#[path = "support/receiver.rs"]
mod receiver;
#[path = "support/stage.rs"]
mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cognito_auth_exporter::event::{AuthEvent, UnixMillis};
use cognito_auth_exporter::simulate::world::{Pool, World};
use exporter::{Exporter, Scrape};
use receiver::{Pki, Received, Receiver, Reply};
use serde_json::Value;
use stage::{MINUTE, Stage, Terms, is, now, said, sign_ins};
use tonic::Code;

const POOL: &str = "eu-west-1_Receiver";
const USERS: usize = 10;

/// Quick, and everything is live.
const CONFIG: &str = r#"
[[pools]]
id = "eu-west-1_Receiver"
all_users = true
followed_since = "2020-01-01T00:00:00Z"
[poll]
requests_per_second = 400
min_interval = "1s"
max_interval = "10s"
first_run = "none"
"#;

const REQUESTS: &str = "cognito_exporter_otlp_requests_total";
const RECORDS: &str = "cognito_exporter_otlp_records_total";
const WAITING: &str = "cognito_exporter_outbox_records";
const EVENTS: &str = "cognito_auth_events_total";
const QUARANTINED: &str = "cognito_exporter_quarantined_records";

/// How a scenario's receiver is spoken to.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Over {
    Grpc,
    Http,
}

impl Over {
    async fn receiver(self) -> Receiver {
        match self {
            Self::Grpc => Receiver::grpc().await,
            Self::Http => Receiver::http().await,
        }
    }

    async fn tls_receiver(self, pki: &Pki) -> Receiver {
        match self {
            Self::Grpc => Receiver::grpc_tls(pki).await,
            Self::Http => Receiver::http_tls(pki).await,
        }
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        }
    }

    /// A stage with ten users of `events` events each; `otlp` are further lines of its section.
    async fn stage(self, otlp: &str, events: i64) -> Stage {
        self.stage_with(otlp, |world| populate(world, events)).await
    }

    async fn stage_with(self, otlp: &str, populate: impl FnOnce(&mut World)) -> Stage {
        self.stage_for(self.receiver().await, otlp, populate).await
    }

    async fn stage_for(self, receiver: Receiver, otlp: &str, populate: impl FnOnce(&mut World)) -> Stage {
        Stage::set_for(receiver, self.protocol(), &format!("{otlp}{CONFIG}"), populate).await
    }
}

/// Makes two tests of each scenario, one over each transport.
macro_rules! over_both {
    ($($scenario:ident)*) => {
        mod over_grpc {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario(super::Over::Grpc).await;
            })*
        }
        mod over_http {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario(super::Over::Http).await;
            })*
        }
    };
}

over_both! {
    a_receiver_that_is_down_costs_nothing_but_time
    a_receiver_that_hangs_is_given_up_on_and_one_that_is_slow_is_not
    no_request_comes_before_the_time_that_the_receiver_named
    a_lost_answer_repeats_its_batch_under_the_same_uids
    what_is_rejected_is_counted_and_told_and_never_sent_again
    one_poisoned_record_among_two_thousand_is_found_and_the_rest_comes_once
    what_is_too_large_is_split_and_what_alone_is_too_large_is_quarantined
    what_only_a_person_can_cure_is_loud_and_everything_comes_after_the_cure
    tls_that_does_not_fit_is_named_and_everything_comes_after_the_cure
    a_full_outbox_pauses_history_then_polling_and_loses_nothing
    a_flapping_receiver_gets_everything_and_each_lost_answer_once_more
}

fn populate(world: &mut World, events: i64) {
    world.add_pool(Pool::new(POOL));
    for user in 0..USERS {
        let name = format!("user-{user}");
        world.add_user(POOL, &name);
        sign_ins(world, POOL, &name, events, UnixMillis(now().0 - MINUTE));
    }
}

/// A sign-in that a receiver may know by its id, and by its length.
fn strange(world: &mut World, id: &str, device: String) {
    let mut event = AuthEvent { id: Some(id.into()), ..world.sign_in(UnixMillis(now().0 - MINUTE)) };
    event.context.as_mut().unwrap().device_name = Some(device);
    world.arrive(POOL, "user-0", &event);
}

fn is_poison(record: &Received) -> bool {
    record.text("aws.cognito.event.id").starts_with("poison")
}

/// Something new happens to everybody.
fn go_on(stage: &Stage) {
    stage
        .simulation
        .world(|world| (0..USERS).for_each(|user| sign_ins(world, POOL, &format!("user-{user}"), 1, now())));
}

/// Waits until every event is counted, whatever becomes of its record.
fn until_counted(stage: &Stage, exporter: &Exporter) -> Scrape {
    let events = stage.truth(&[POOL]).len() as f64;
    exporter.until("every event, counted", |scrape| is(scrape, EVENTS, &[], events))
}

fn of_outcome(scrape: &Scrape, metric: &str, outcome: &str) -> f64 {
    scrape.sum(metric, &[&format!("outcome={outcome:?}")])
}

fn requests(scrape: &Scrape, outcome: &str) -> f64 {
    of_outcome(scrape, REQUESTS, outcome)
}

/// Waits until so many requests ended so.
fn until_requests(exporter: &Exporter, outcome: &str, least: f64) -> Scrape {
    exporter.until(&format!("{least} {outcome}"), |scrape| requests(scrape, outcome) >= least)
}

/// Whether records were accepted, rejected, quarantined so often.
fn came_to(scrape: &Scrape, counts: [usize; 3]) -> bool {
    let outcomes = ["accepted", "rejected", "quarantined"].into_iter().zip(counts);
    outcomes.into_iter().all(|(outcome, count)| (of_outcome(scrape, RECORDS, outcome) - count as f64).abs() < 0.5)
}

fn progress(scrape: &Scrape, stage: &str) -> f64 {
    scrape.sum("cognito_exporter_last_progress_timestamp_seconds", &[&format!("stage={stage:?}")])
}

/// The lines that say that delivery fails.
fn begun(exporter: &Exporter) -> Vec<String> {
    said(&exporter.log(), &["the OTLP receiver takes no records"])
}

/// How often it was said that delivery works again.
fn ended(exporter: &Exporter) -> usize {
    said(&exporter.log(), &["INFO", "the OTLP receiver takes records again"]).len()
}

/// What `/status` says that went wrong, with how often.
fn errors(exporter: &Exporter) -> BTreeMap<String, u64> {
    let status: Value = serde_json::from_str(&exporter.get("/status")).unwrap();
    let errors = status["delivery"]["last_errors"].as_array().unwrap().iter();
    errors.map(|error| (error["cause"].as_str().unwrap().to_owned(), error["count"].as_u64().unwrap())).collect()
}

/// Checks that people were told once, at this level and in these words, in the log as on `/status`.
fn told(exporter: &Exporter, level: &str, words: &str) {
    let begun = begun(exporter);
    assert_eq!(begun.len(), 1, "{}", exporter.log());
    assert!(begun[0].contains(level) && begun[0].contains(words), "{words}: {begun:?}");
    let errors = errors(exporter);
    assert!(errors.keys().any(|cause| cause.contains(words)), "{words}: {errors:?}");
}

/// The receiver is of no concern to whoever restarts pods or sends traffic.
fn stays_live_and_ready(exporter: &Exporter) {
    for path in ["/healthz", "/readyz"] {
        assert!(exporter.answer(path).starts_with("HTTP/1.1 200"), "{}", exporter.answer(path));
    }
}

async fn a_receiver_that_is_down_costs_nothing_but_time(over: Over) {
    let stage = over.stage("", 7).await;
    stage.receiver.stop().await;
    let exporter = stage.exporter();
    let scrape = exporter.until("a failure", |scrape| requests(scrape, "retry") >= 1.0);
    let stuck = progress(&scrape, "deliver");
    told(&exporter, "WARN", "refused");

    // The counters go on, and the outbox holds what they count.
    for _ in 0..2 {
        go_on(&stage);
        let scrape = until_counted(&stage, &exporter);
        let waiting = scrape.sum(WAITING, &[]);
        exporter.until("the outbox of all events", |scrape| is(scrape, WAITING, &[], scrape.sum(EVENTS, &[])));
        assert!(waiting <= scrape.sum(EVENTS, &[]));
    }
    let scrape = exporter.scrape();
    assert!(came_to(&scrape, [0, 0, 0]), "{}", scrape.interesting());
    assert!(scrape.sum("cognito_exporter_outbox_oldest_timestamp_seconds", &[]) > 0.0);
    assert!((progress(&scrape, "deliver") - stuck).abs() < f64::EPSILON, "nothing was delivered, and that shows");
    assert!(progress(&scrape, "commit") > stuck, "{}", scrape.interesting());
    assert_eq!(begun(&exporter).len(), 1, "once, not for each attempt: {}", exporter.log());
    stays_live_and_ready(&exporter);

    // Nor does it cost anything to die meanwhile.
    exporter.kill();
    let exporter = stage.exporter();
    until_counted(&stage, &exporter);
    until_requests(&exporter, "retry", 1.0);
    assert_eq!(ended(&exporter), 0);
    stage.receiver.start().await;
    stage.conserved(&exporter, &[POOL]).await;
    let scrape = exporter.scrape();
    assert!(came_to(&scrape, [stage.receiver.records().len(), 0, 0]), "{}", scrape.interesting());
    assert!(progress(&scrape, "deliver") > stuck);
    assert_eq!((begun(&exporter).len(), ended(&exporter)), (1, 1), "{}", exporter.log());

    // Down once more, in the middle of its life.
    stage.receiver.stop().await;
    go_on(&stage);
    until_counted(&stage, &exporter);
    exporter.until("the second failure", |_| begun(&exporter).len() == 2);
    stage.receiver.start().await;
    stage.conserved(&exporter, &[POOL]).await;
    assert_eq!((begun(&exporter).len(), ended(&exporter)), (2, 2), "{}", exporter.log());
    assert!(exporter.stop().success());
}

async fn a_receiver_that_hangs_is_given_up_on_and_one_that_is_slow_is_not(over: Over) {
    let stage = over.stage("timeout = \"3s\"\nbatch_size = 20\n", 3).await;
    stage.receiver.answer_always(Reply::Slow(Duration::from_millis(300)));
    let exporter = stage.exporter();
    stage.conserved(&exporter, &[POOL]).await;
    let scrape = exporter.scrape();
    assert!(is(&scrape, REQUESTS, &["outcome=\"retry\""], 0.0), "slow is not down: {}", scrape.interesting());
    assert_eq!((begun(&exporter).len(), errors(&exporter).len()), (0, 0), "{}", exporter.log());

    stage.receiver.answer_always(Reply::Hang);
    go_on(&stage);
    until_requests(&exporter, "retry", 1.0);
    told(&exporter, "WARN", "timed out after 3s");
    go_on(&stage);
    until_counted(&stage, &exporter);
    stays_live_and_ready(&exporter);
    stage.receiver.answer_always(Reply::Ok);
    stage.conserved(&exporter, &[POOL]).await;
    assert_eq!((begun(&exporter).len(), ended(&exporter)), (1, 1), "{}", exporter.log());
    assert!(exporter.stop().success());
}

async fn no_request_comes_before_the_time_that_the_receiver_named(over: Over) {
    let raw = |status, headers| Reply::Raw { status, headers, body: "slow down" };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    // What it answers, and the seconds that it names: more than the exporter would wait on its own account.
    let (answers, told_of) = match over {
        Over::Grpc => (
            vec![
                (Reply::RetryInfo(Code::ResourceExhausted, seconds(3)), 3),
                (Reply::RetryInfo(Code::Unavailable, seconds(5)), 5),
            ],
            "ResourceExhausted: later",
        ),
        Over::Http => {
            let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
            let until = ("retry-after", "Sun, 06 Nov 1994 08:49:42 GMT");
            (
                vec![(raw(429, vec![("retry-after", "3")]), 3), (raw(503, vec![date, until]), 5)],
                "429 Too Many Requests: slow down",
            )
        }
    };
    let stage = over.stage("", 3).await;
    answers.iter().for_each(|(reply, _)| stage.receiver.answer_next(reply.clone()));
    let exporter = stage.exporter();
    stage.conserved(&exporter, &[POOL]).await;
    let exports = stage.receiver.exports();
    for (index, (reply, named)) in answers.iter().enumerate() {
        let gap = exports[index + 1].at - exports[index].at;
        assert!(gap >= Duration::from_secs(*named), "{gap:?} after {reply:?}");
        assert_eq!(exports[index].records, exports[index + 1].records, "the same batch again, whole");
    }
    let scrape = exporter.scrape();
    assert!(requests(&scrape, "refused") < 0.5 && came_to(&scrape, [30, 0, 0]), "{}", scrape.interesting());
    assert!(is(&scrape, REQUESTS, &["outcome=\"retry\""], answers.len() as f64), "{}", scrape.interesting());
    told(&exporter, "WARN", told_of);
    assert_eq!(ended(&exporter), 1, "{}", exporter.log());
    assert!(exporter.stop().success());
}

async fn a_lost_answer_repeats_its_batch_under_the_same_uids(over: Over) {
    const LOST: usize = 2;
    let stage = over.stage("batch_size = 25\n", 20).await;
    (0..LOST).for_each(|_| stage.receiver.answer_next(Reply::Lost));
    let exporter = stage.exporter();
    exporter.until("an empty outbox", |scrape| {
        requests(scrape, "retry") >= LOST as f64 && is(scrape, WAITING, &[], 0.0) && is(scrape, EVENTS, &[], 200.0)
    });
    let lost: usize = stage.receiver.exports()[..LOST].iter().map(|export| export.records).sum();
    stage.conserved_on(&exporter, &[POOL], Terms { repeats_max: lost, ..Terms::default() }).await;
    // What is counted as accepted was acknowledged.
    assert_eq!(stage.receiver.records().len(), 200 + lost);
    assert!(came_to(&exporter.scrape(), [200, 0, 0]), "{}", exporter.scrape().interesting());
    told(&exporter, "WARN", "no answer");
    assert_eq!(ended(&exporter), 1, "{}", exporter.log());
    assert!(exporter.stop().success());
}

async fn what_is_rejected_is_counted_and_told_and_never_sent_again(over: Over) {
    let stage = over.stage("", 5).await;
    stage.receiver.answer_next(Reply::Partial(3, "three lines are too old"));
    let exporter = stage.exporter();
    stage.conserved(&exporter, &[POOL]).await;
    go_on(&stage);
    stage.conserved(&exporter, &[POOL]).await;
    let scrape = exporter.scrape();
    assert!(came_to(&scrape, [57, 3, 0]), "{}", scrape.interesting());
    assert!(requests(&scrape, "retry") + requests(&scrape, "refused") < 0.5, "{}", scrape.interesting());
    let begun = said(&exporter.log(), &["takes records with reservations"]);
    assert_eq!(begun.len(), 1, "{}", exporter.log());
    assert!(begun[0].contains("ERROR") && begun[0].contains("three lines are too old"), "{begun:?}");
    assert_eq!(said(&exporter.log(), &["INFO", "without reservations again"]).len(), 1, "{}", exporter.log());
    assert!(exporter.stop().success());
}

async fn one_poisoned_record_among_two_thousand_is_found_and_the_rest_comes_once(over: Over) {
    let stage = over
        .stage_with("", |world| {
            populate(world, 200);
            world.keep_newest(POOL, "user-0", 199);
            strange(world, "poison", "Browser".into());
        })
        .await;
    let refusal = match over {
        Over::Grpc => Reply::Code(Code::InvalidArgument, "line 7 is malformed"),
        Over::Http => Reply::Status(422, "line 7 is malformed"),
    };
    stage.receiver.answer_by(move |records| if records.iter().any(is_poison) { refusal.clone() } else { Reply::Ok });
    let exporter = stage.exporter();
    stage.conserved_on(&exporter, &[POOL], Terms { quarantined: 1, ..Terms::default() }).await;
    let scrape = exporter.scrape();
    assert!(came_to(&scrape, [1999, 0, 1]), "{}", scrape.interesting());
    // From a batch of at most 512 down to one, and no waiting.
    assert!((1.0..=10.0).contains(&requests(&scrape, "refused")), "{}", scrape.interesting());
    assert!(requests(&scrape, "retry") < 0.5);
    assert!(errors(&exporter).keys().any(|cause| cause.contains("line 7 is malformed")));
    let warned = said(&exporter.log(), &["WARN", "records are in quarantine", "line 7 is malformed"]);
    assert_eq!((warned.len(), begun(&exporter).len()), (1, 0), "{}", exporter.log());
    assert!(exporter.stop().success());
}

async fn what_is_too_large_is_split_and_what_alone_is_too_large_is_quarantined(over: Over) {
    // Over gRPC what counts is the length after decompression.
    let stage = over
        .stage_with("compression = \"none\"\n", |world| {
            populate(world, 30);
            strange(world, "monster", "M".repeat(100_000));
        })
        .await;
    stage.receiver.limit_messages(50_000).await;
    let exporter = stage.exporter();
    stage.conserved_on(&exporter, &[POOL], Terms { quarantined: 1, ..Terms::default() }).await;
    let scrape = exporter.scrape();
    assert!(came_to(&scrape, [300, 0, 1]), "{}", scrape.interesting());
    assert!(requests(&scrape, "refused") >= 2.0 && requests(&scrape, "retry") < 0.5, "{}", scrape.interesting());
    assert!(errors(&exporter).keys().any(|cause| cause.contains("too large")), "{:?}", errors(&exporter));
    assert_eq!(said(&exporter.log(), &["WARN", "records are in quarantine", "too large"]).len(), 1);
    assert!(!said(&exporter.log(), &["WARN", "finds exports too large; they are split"]).is_empty());
    assert_eq!(begun(&exporter).len(), 0, "{}", exporter.log());
    assert!(exporter.stop().success());
}

/// RESOURCE_EXHAUSTED as C++ and Go have it for a message over their limit.
#[tokio::test(flavor = "multi_thread")]
async fn exhaustion_without_a_time_is_a_batch_too_large() {
    let stage = Over::Grpc.stage("", 10).await;
    stage.receiver.answer_by(|records| match records.len() {
        ..=7 => Reply::Ok,
        _ => Reply::Code(Code::ResourceExhausted, "received message larger than max"),
    });
    let exporter = stage.exporter();
    stage.conserved(&exporter, &[POOL]).await;
    let scrape = exporter.scrape();
    assert!(came_to(&scrape, [100, 0, 0]) && requests(&scrape, "retry") < 0.5, "{}", scrape.interesting());
    assert!(stage.receiver.exports().len() >= 15, "halves of halves");
    assert_eq!(begun(&exporter).len(), 0, "{}", exporter.log());
    stage.receiver.answer_always(Reply::Ok);
    (0..3).for_each(|_| go_on(&stage));
    stage.conserved(&exporter, &[POOL]).await;
    assert_eq!(said(&exporter.log(), &["WARN", "they are split"]).len(), 1, "{}", exporter.log());
    assert_eq!(said(&exporter.log(), &["INFO", "exports of that size again"]).len(), 1, "{}", exporter.log());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_refuses_each_record_fills_no_quarantine_and_gets_its_credit_back() {
    let stage = Over::Http.stage("", 20).await;
    stage.receiver.answer_always(Reply::Status(400, "unknown tenant"));
    let exporter = stage.exporter();
    exporter.until("the loss of credit", |_| !begun(&exporter).is_empty());
    told(&exporter, "ERROR", "unknown tenant");
    assert!(begun(&exporter)[0].contains("it refuses each one"), "{:?}", begun(&exporter));
    let scrape = exporter.until("what is quarantined", |scrape| is(scrape, QUARANTINED, &[], 99.0));
    let refused = requests(&scrape, "refused");
    go_on(&stage);
    let scrape = until_counted(&stage, &exporter);
    assert!(is(&scrape, WAITING, &[], 210.0 - 99.0) || scrape.sum(WAITING, &[]) < 210.0, "{}", scrape.interesting());
    assert!(requests(&scrape, "refused") <= refused + 1.0, "slowly from now on: {}", scrape.interesting());

    // Cured, but for one record: it goes to quarantine as if nothing had been.
    stage.receiver.answer_by(
        |records| {
            if records.iter().any(is_poison) { Reply::Status(400, "malformed") } else { Reply::Ok }
        },
    );
    stage.simulation.world(|world| strange(world, "poison", "Browser".into()));
    stage.conserved_on(&exporter, &[POOL], Terms { quarantined: 100, ..Terms::default() }).await;
    assert!(came_to(&exporter.scrape(), [111, 0, 100]), "{}", exporter.scrape().interesting());
    assert_eq!((begun(&exporter).len(), ended(&exporter)), (1, 1), "{}", exporter.log());
    assert!(exporter.stop().success());
}

async fn what_only_a_person_can_cure_is_loud_and_everything_comes_after_the_cure(over: Over) {
    let html = || vec![("content-type", "text/html")];
    let raw = |status, headers, body| Reply::Raw { status, headers, body };
    let answers = match over {
        Over::Grpc => vec![
            (Reply::Code(Code::Unauthenticated, "who are you?"), "Unauthenticated: who are you?"),
            (Reply::Code(Code::PermissionDenied, "not you"), "PermissionDenied: not you"),
            (Reply::Code(Code::Unimplemented, "no logs here"), "Unimplemented: no logs here"),
            (Reply::Code(Code::Internal, "oops"), "Internal: oops"),
        ],
        Over::Http => vec![
            (raw(200, html(), "<html>Please log in</html>"), "Please log in"),
            (raw(200, vec![("content-type", "text/plain")], "stored"), "no OTLP response (text/plain): stored"),
            (raw(302, vec![("location", "https://login.example/")], ""), "https://login.example/"),
            (Reply::Status(401, "who are you?"), "401 Unauthorized: who are you?"),
            (Reply::Status(403, "not you"), "403 Forbidden: not you"),
            (Reply::Status(404, "no logs here"), "404 Not Found: no logs here"),
            (Reply::Status(500, "oops"), "500 Internal Server Error: oops"),
        ],
    };
    let stage = over.stage("", 5).await;
    for (reply, words) in answers {
        stage.receiver.answer_always(reply);
        let exporter = stage.exporter();
        let scrape = until_requests(&exporter, "refused", 1.0);
        assert!(requests(&scrape, "refused") < 1.5, "the next try is half a minute away: {}", scrape.interesting());
        told(&exporter, "ERROR", words);
        go_on(&stage);
        until_counted(&stage, &exporter);
        let scrape =
            exporter.until("the outbox of all events", |scrape| is(scrape, WAITING, &[], scrape.sum(EVENTS, &[])));
        assert!(came_to(&scrape, [0, 0, 0]) && is(&scrape, QUARANTINED, &[], 0.0), "{}", scrape.interesting());
        assert!(requests(&scrape, "retry") + requests(&scrape, "ok") < 0.5, "{}", scrape.interesting());
        stays_live_and_ready(&exporter);
        // A stop does not wait for a person.
        assert!(exporter.stop().success());
    }
    stage.receiver.answer_always(Reply::Ok);
    let exporter = stage.exporter();
    stage.conserved(&exporter, &[POOL]).await;
    assert_eq!(begun(&exporter).len(), 0, "{}", exporter.log());
    assert!(exporter.stop().success());
}

async fn tls_that_does_not_fit_is_named_and_everything_comes_after_the_cure(over: Over) {
    let (pki, strangers, old) = (Pki::new(true), Pki::new(true), Pki::expired());
    let stage = over.stage_for(over.tls_receiver(&pki).await, "", |world| populate(world, 5)).await;
    let (expired, plain) = (over.tls_receiver(&old).await, over.receiver().await);
    let right = stage.receiver.endpoint();
    let exporter = |endpoint: &str, ca: &Pki, identity: Option<&Pki>| {
        let mut command = exporter::command(&stage.simulation.url());
        command.arg("run").arg("--config").arg(stage.config());
        command.env("COGNITO_EXPORTER_OTLP__ENDPOINT", endpoint);
        command.env("COGNITO_EXPORTER_OTLP__CA_FILE", ca.ca_file());
        if let Some(identity) = identity {
            command.env("COGNITO_EXPORTER_OTLP__CERT_FILE", identity.cert_file());
            command.env("COGNITO_EXPORTER_OTLP__KEY_FILE", identity.key_file());
        }
        Exporter::started(command)
    };
    for (endpoint, ca, identity, words) in [
        (right.clone(), &strangers, Some(&pki), "otlp.ca_file"),
        (right.replace("localhost", "127.0.0.1"), &pki, Some(&pki), "not valid for name"),
        (expired.endpoint(), &old, None, "certificate expired"),
        (right.clone(), &pki, None, "asks for otlp.cert_file"),
        (plain.endpoint().replace("http:", "https:"), &pki, None, "speaks no TLS"),
        (right.replace("https:", "http:"), &pki, None, "TLS"),
    ] {
        let exporter = exporter(&endpoint, ca, identity);
        let scrape = until_requests(&exporter, "retry", 1.0);
        assert!(came_to(&scrape, [0, 0, 0]) && requests(&scrape, "ok") < 0.5, "{}", scrape.interesting());
        told(&exporter, "WARN", words);
        exporter.kill();
    }
    assert!(expired.records().is_empty() && plain.records().is_empty());
    let exporter = exporter(&right, &pki, Some(&pki));
    stage.conserved(&exporter, &[POOL]).await;
    assert_eq!(begun(&exporter).len(), 0, "{}", exporter.log());
    assert!(exporter.stop().success());
}

async fn a_full_outbox_pauses_history_then_polling_and_loses_nothing(over: Over) {
    const LIMIT: f64 = 1024.0 * 1024.0;
    const CATCHING_UP: &str = "cognito_exporter_catching_up";
    const BYTES: &str = "cognito_exporter_outbox_bytes";
    const PAUSED: &str = "cognito_exporter_paused";
    let live_since = UnixMillis(now().0 - 60 * MINUTE);
    let broad = |world: &mut World, user: &str, at: i64| {
        let mut event = world.sign_in(UnixMillis(at));
        event.context.as_mut().unwrap().device_name = Some("D".repeat(1000));
        world.arrive(POOL, user, &event);
    };
    let stage = over
        .stage_with("", |world| {
            world.add_pool(Pool::new(POOL));
            for user in 0..4 {
                let name = format!("user-{user}");
                world.add_user(POOL, &name);
                // More history than the outbox holds.
                (0..400).for_each(|event| broad(world, &name, live_since.0 - (event + 1) * MINUTE));
            }
        })
        .await;
    stage.receiver.stop().await;
    let exporter = {
        let mut command = exporter::command(&stage.simulation.url());
        command.arg("run").arg("--config").arg(stage.config());
        command.env("COGNITO_EXPORTER_STATE__OUTBOX_LIMIT", "1MiB");
        let pool = format!(
            "[{{id={POOL:?},all_users=true,followed_since={:?}}}]",
            time::OffsetDateTime::from_unix_timestamp(live_since.0 / 1000)
                .unwrap()
                .format(&time::format_description::well_known::Rfc3339)
                .unwrap()
        );
        command.env("COGNITO_EXPORTER_POOLS", pool);
        command.env("COGNITO_EXPORTER_POLL__FIRST_RUN", "all");
        Exporter::started(command)
    };
    // Half of it is for live events: history waits, live events do not.
    exporter.until("half an outbox", |scrape| scrape.sum(BYTES, &[]) >= LIMIT / 2.0);
    let live = |exporter: &Exporter, users: i64, each: i64| {
        let before = exporter.scrape().sum(EVENTS, &[]);
        stage.simulation.world(|world| {
            (0..users).for_each(|user| (0..each).for_each(|_| broad(world, &format!("user-{user}"), now().0)));
        });
        before + (users * each) as f64
    };
    let counted = live(&exporter, 4, 2);
    let scrape = exporter.until("live events", |scrape| is(scrape, EVENTS, &[], counted));
    assert!(is(&scrape, CATCHING_UP, &[], 1.0), "history waits: {}", scrape.interesting());
    assert!(is(&scrape, PAUSED, &[], 0.0), "{}", scrape.interesting());
    assert!(scrape.sum(BYTES, &[]) < LIMIT, "{}", scrape.interesting());

    // All of it is full: polling waits, and says so.
    let never = live(&exporter, 4, 500);
    let scrape = exporter.until("a pause", |scrape| is(scrape, PAUSED, &["reason=\"outbox_full\""], 1.0));
    assert!(scrape.sum(BYTES, &[]) >= LIMIT, "{}", scrape.interesting());
    let status: Value = serde_json::from_str(&exporter.get("/status")).unwrap();
    assert_eq!(status["paused"], serde_json::json!(["outbox_full"]));
    let pauses = |exporter: &Exporter| said(&exporter.log(), &["WARN", "outbox_full", "polling pauses"]).len();
    exporter.until("the word of it", |_| pauses(&exporter) == 1);
    stays_live_and_ready(&exporter);
    // The turns that were under way have ended; no further one begins, for as long as two attempts to deliver take.
    let attempts = requests(&exporter.scrape(), "retry");
    until_requests(&exporter, "retry", attempts + 1.0);
    stage.forget_calls();
    let scrape = until_requests(&exporter, "retry", attempts + 2.0);
    assert!(stage.reads(|_| true).is_empty(), "{:?}", stage.reads(|_| true));
    assert!(scrape.sum(EVENTS, &[]) < never, "{}", scrape.interesting());

    stage.receiver.start().await;
    stage.conserved_on(&exporter, &[POOL], Terms { live_since, ..Terms::default() }).await;
    exporter.until("no pause", |scrape| is(scrape, PAUSED, &[], 0.0) && is(scrape, CATCHING_UP, &[], 0.0));
    exporter.until("the word of its end", |_| {
        said(&exporter.log(), &["INFO", "polling goes on"]).len() == pauses(&exporter)
    });
    assert_eq!((begun(&exporter).len(), ended(&exporter)), (1, 1), "{}", exporter.log());
    assert!(exporter.stop().success());
}

async fn a_flapping_receiver_gets_everything_and_each_lost_answer_once_more(over: Over) {
    const EXPORTS: usize = 300;
    let seed = std::env::var("FLAPPING_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("FLAPPING_SEED={seed}");
    let stage = over
        .stage_with("batch_size = 16\ntimeout = \"5s\"\n", |world| {
            populate(world, 200);
            (0..3).for_each(|number| strange(world, &format!("poison-{number}"), "Browser".into()));
        })
        .await;
    let (lost, rejected) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (losses, rejections) = (lost.clone(), rejected.clone());
    let mut random = fastrand::Rng::with_seed(seed);
    let mut exports = 0;
    stage.receiver.answer_by(move |records| {
        exports += 1;
        let mood = if exports > EXPORTS { 0 } else { random.u32(0..100) };
        let poisoned = records.iter().any(is_poison);
        match (mood, over) {
            // Each costs a wait of half a second or more.
            (92.., _) if !poisoned => {
                losses.fetch_add(records.len(), Ordering::SeqCst);
                Reply::Lost
            }
            (90.., _) => Reply::Close,
            (89, Over::Grpc) => Reply::RetryInfo(Code::ResourceExhausted, Some(Duration::from_millis(10))),
            (89, Over::Http) => Reply::Raw { status: 429, headers: vec![("retry-after", "1")], body: "" },
            (88, Over::Grpc) => Reply::Code(Code::Unavailable, "restarting"),
            (88, Over::Http) => {
                Reply::Raw { status: 502, headers: vec![("content-type", "text/html")], body: "<html>" }
            }
            // None of these does.
            (70.., Over::Grpc) if records.len() > 1 => Reply::Code(Code::ResourceExhausted, "too much"),
            (70.., Over::Http) if records.len() > 1 => Reply::Status(413, "too much"),
            (_, Over::Grpc) if poisoned => Reply::Code(Code::InvalidArgument, "malformed"),
            (_, Over::Http) if poisoned => Reply::Status(400, "malformed"),
            (60.., _) => {
                rejections.fetch_add(1, Ordering::SeqCst);
                Reply::Partial(1, "too old")
            }
            (50.., _) => Reply::Slow(Duration::from_millis(20)),
            _ => Reply::Ok,
        }
    });
    let exporter = stage.exporter();
    // It goes on happening while it flaps.
    while stage.receiver.exports().len() < EXPORTS {
        go_on(&stage);
        until_counted(&stage, &exporter);
        let seen = stage.receiver.exports().len();
        stage.receiver.wait_for_exports(seen + 1).await;
    }
    exporter.until("an empty outbox", |scrape| is(scrape, WAITING, &[], 0.0));
    let (lost, rejected) = (lost.load(Ordering::SeqCst), rejected.load(Ordering::SeqCst));
    stage.conserved_on(&exporter, &[POOL], Terms { repeats_max: lost, quarantined: 3, ..Terms::default() }).await;
    let events = stage.truth(&[POOL]).len();
    assert_eq!(stage.receiver.records().len(), events - 3 + lost, "each lost answer costs its batch once");
    let scrape = exporter.scrape();
    assert!(came_to(&scrape, [events - 3 - rejected, rejected, 3]), "{rejected} rejected: {}", scrape.interesting());
    let answered: f64 = ["ok", "retry", "refused"].into_iter().map(|outcome| requests(&scrape, outcome)).sum();
    assert!((answered - stage.receiver.exports().len() as f64).abs() < 0.5, "each request has its outcome");
    assert_eq!(begun(&exporter).len(), ended(&exporter), "{}", exporter.log());
    assert!(exporter.stop().success());
}
