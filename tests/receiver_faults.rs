//! Whatever the OTLP receiver answers, nothing is lost or counted twice, the counters stay current, and the fault is
//! reported. The built binary runs against a simulated Cognito and a receiver with faults, over gRPC and over HTTP.
//! Each scenario ends with a check that all events are conserved.

use std::time::{Duration, Instant};

use cognito_auth_core::batch_splitter::{REFUSED_FIRST, RETRY_FIRST};
use serde_json::Value;
use tonic::Code;

use crate::exporter::{Exporter, PATIENCE};
use crate::receiver::Reply;
use crate::test_env::{Terms, TestEnv, go_on, is, now, populate, said, sign_ins};
use crate::transports::{BEGUN, Came, ENDED, Over, for_each, requests, until_requests};

const POOL: &str = "eu-west-1_Receiver";
const USERS: usize = 5;

const EVENTS: &str = "cognito_auth_events_total";

/// Adds a new event for every user. It is counted at once, and waits in the outbox with all undelivered records.
fn go_on_counting(env: &TestEnv, exporter: &Exporter, delivered: usize) {
    go_on(env, POOL, USERS);
    let events = env.truth(&[POOL]).len() as f64;
    exporter.until("every event, counted and waiting", |scrape| {
        is(scrape, EVENTS, &[], events)
            && is(scrape, "cognito_exporter_outbox_records", &[], events - delivered as f64)
            && scrape.sum("cognito_exporter_outbox_oldest_timestamp_seconds", &[]) > 0.0
    });
    // Liveness and readiness do not depend on the receiver.
    for path in ["/healthz", "/readyz"] {
        assert_eq!(exporter.ask(path).0, 200, "{path}");
    }
}

/// When there last was progress at a stage.
fn progress(exporter: &Exporter, stage: &str) -> f64 {
    exporter.scrape().sum("cognito_exporter_last_progress_timestamp_seconds", &[&format!("stage={stage:?}")])
}

/// Checks how often the log reports that delivery fails and that it works again. The lines may appear a little later.
fn told(exporter: &Exporter, begun: usize, ended: usize) {
    let deadline = Instant::now() + PATIENCE;
    let times = || (said(&exporter.log(), &[BEGUN]).len(), said(&exporter.log(), &["INFO", ENDED]).len());
    while (times().0 < begun || times().1 < ended) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(times(), (begun, ended), "{}", exporter.log());
}

/// Checks the level and the text of the latest reported fault, in the log and in `/status`.
fn told_why(exporter: &Exporter, level: &str, words: &str) {
    exporter.until_said(BEGUN);
    let line = said(&exporter.log(), &[BEGUN]).pop().unwrap();
    assert!(line.contains(level) && line.contains(words), "{level} {words:?}: {line}");
    assert!(line.contains("remedy="), "what to do: {line}");
    let status: Value = serde_json::from_str(&exporter.get("/status")).unwrap();
    let errors = status["delivery"]["last_errors"].as_array().unwrap();
    let says = |error: &Value| error["cause"].as_str().unwrap().contains(words) && error["count"].as_u64() >= Some(1);
    assert!(errors.iter().any(says), "{words:?}: {errors:?}");
}

#[test]
fn a_receiver_that_is_down_costs_nothing_but_time() {
    for_each(Over::BOTH, async |over| {
        let env = over.env(None, "", POOL, |world| populate(world, POOL, USERS, 7)).await;
        env.receiver.stop().await;
        let exporter = env.exporter();
        until_requests(&exporter, "retry", 1.0);
        told_why(&exporter, "WARN", "refused");
        let stuck = progress(&exporter, "deliver");
        go_on_counting(&env, &exporter, 0);
        until_requests(&exporter, "retry", 3.0);
        go_on_counting(&env, &exporter, 0);
        assert!((progress(&exporter, "deliver") - stuck).abs() < f64::EPSILON, "nothing is delivered, and that shows");
        assert!(progress(&exporter, "commit") > stuck);
        Came { accepted: 0, ..Came::default() }.check(&exporter);
        told(&exporter, 1, 0);

        // A restart in the meantime costs nothing, either.
        exporter.kill();
        let exporter = env.exporter();
        until_requests(&exporter, "retry", 1.0);
        go_on_counting(&env, &exporter, 0);
        env.receiver.start().await;
        env.conserved(&exporter, &[POOL]).await;
        let delivered = env.receiver.records().len();
        Came { accepted: delivered, ..Came::default() }.check(&exporter);
        assert!(progress(&exporter, "deliver") > stuck);
        told(&exporter, 1, 1);

        // The receiver is stopped once more while the exporter runs.
        env.receiver.stop().await;
        go_on_counting(&env, &exporter, delivered);
        told(&exporter, 2, 1);
        env.receiver.start().await;
        env.conserved(&exporter, &[POOL]).await;
        told(&exporter, 2, 2);
        let scrape = exporter.scrape();
        assert!(requests(&scrape, "refused") < 0.5, "{}", scrape.interesting());
        assert!(exporter.stop().success());
    });
}

#[test]
fn a_receiver_that_hangs_is_given_up_on_and_one_that_is_slow_is_not() {
    for_each(Over::BOTH, async |over| {
        // With a shorter timeout, a busy machine would count as a receiver that hangs.
        let env =
            over.env(None, "timeout = \"10s\"\nbatch_size = 10\n", POOL, |world| populate(world, POOL, USERS, 5)).await;
        env.receiver.answer_always(Reply::Slow(Duration::from_secs(1)));
        let exporter = env.exporter();
        env.conserved(&exporter, &[POOL]).await;
        let scrape = exporter.scrape();
        assert!(requests(&scrape, "ok") >= 3.0 && requests(&scrape, "retry") < 0.5, "{}", scrape.interesting());
        told(&exporter, 0, 0);

        let delivered = env.receiver.records().len();
        env.receiver.answer_always(Reply::Hang);
        go_on_counting(&env, &exporter, delivered);
        until_requests(&exporter, "retry", 1.0);
        told_why(&exporter, "WARN", "timed out after 10s");
        env.receiver.answer_always(Reply::Ok);
        env.conserved(&exporter, &[POOL]).await;
        told(&exporter, 1, 1);
        assert!(exporter.stop().success());
    });
}

#[test]
fn no_request_comes_before_the_time_that_the_receiver_named() {
    for_each(Over::BOTH, async |over| {
        let raw = |status, headers| Reply::Raw { status, headers, body: "slow down" };
        let seconds = Duration::from_secs;
        // The answers in turn, and the wait that each names, which is longer than the exporter's own. For "now" and for
        // no wait, the exporter's own is at least half of its first.
        let (answers, words) = match over {
            Over::Grpc => (
                vec![
                    (Reply::Code(Code::Unavailable, "restarting"), RETRY_FIRST / 2),
                    (Reply::RetryInfo(Code::ResourceExhausted, Some(seconds(3))), seconds(3)),
                    (Reply::RetryInfo(Code::Unavailable, Some(seconds(5))), seconds(5)),
                ],
                "Unavailable: restarting",
            ),
            Over::Http => {
                let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
                let until = ("retry-after", "Sun, 06 Nov 1994 08:49:42 GMT");
                (
                    vec![
                        (raw(503, vec![("retry-after", "0")]), RETRY_FIRST / 2),
                        (raw(429, vec![("retry-after", "3")]), seconds(3)),
                        (raw(503, vec![date, until]), seconds(5)),
                    ],
                    "503 Service Unavailable: slow down",
                )
            }
        };
        let env = over.env(None, "", POOL, |world| populate(world, POOL, USERS, 3)).await;
        answers.iter().for_each(|(reply, _)| env.receiver.answer_next(reply.clone()));
        let exporter = env.exporter();
        env.conserved(&exporter, &[POOL]).await;
        for (pair, (reply, named)) in env.receiver.exports().windows(2).zip(&answers) {
            let gap = pair[1].at - pair[0].at;
            assert!(gap >= *named, "{gap:?} after {reply:?}");
            assert_eq!(pair[0].records, pair[1].records, "the same batch again, whole");
        }
        let scrape = exporter.scrape();
        assert!((requests(&scrape, "retry") - answers.len() as f64).abs() < 0.5, "{}", scrape.interesting());
        assert!(requests(&scrape, "refused") < 0.5, "{}", scrape.interesting());
        Came { accepted: env.receiver.records().len(), ..Came::default() }.check(&exporter);
        told_why(&exporter, "WARN", words);
        told(&exporter, 1, 1);
        assert!(exporter.stop().success());
    });
}

#[test]
fn a_lost_answer_repeats_its_batch_under_the_same_uids_and_nothing_else() {
    for_each(Over::BOTH, async |over| {
        let losses = match over {
            Over::Grpc => [Reply::Lost, Reply::Lost],
            Over::Http => [Reply::Lost, Reply::Cut],
        };
        let env = over.env(None, "batch_size = 10\n", POOL, |world| populate(world, POOL, USERS, 8)).await;
        losses.iter().for_each(|loss| env.receiver.answer_next(loss.clone()));
        let exporter = env.exporter();
        until_requests(&exporter, "retry", losses.len() as f64);
        let lost = env.receiver.exports()[..losses.len()].iter().map(|export| export.records).sum();
        let terms = Terms { repeats_max: lost, ..Terms::default() };
        assert_eq!(env.conserved_on(&exporter, &[POOL], terms).await, lost, "each lost answer costs its batch once");
        // Records that count as accepted were acknowledged.
        Came { accepted: env.receiver.records().len() - lost, ..Came::default() }.check(&exporter);
        told_why(&exporter, "WARN", "no answer");
        told(&exporter, 1, 1);
        assert!(exporter.stop().success());
    });
}

#[test]
fn what_is_rejected_is_counted_and_told_and_never_sent_again() {
    for_each(Over::BOTH, async |over| {
        let env = over.env(None, "", POOL, |world| populate(world, POOL, USERS, 5)).await;
        env.receiver.answer_next(Reply::Partial(3, "three lines are too old"));
        let exporter = env.exporter();
        env.conserved(&exporter, &[POOL]).await;
        env.simulation.world(|world| sign_ins(world, POOL, "user-0", 1, now()));
        env.conserved(&exporter, &[POOL]).await;
        Came { accepted: env.receiver.records().len() - 3, rejected: 3, ..Came::default() }.check(&exporter);
        let scrape = exporter.scrape();
        assert!(requests(&scrape, "retry") + requests(&scrape, "refused") < 0.5, "{}", scrape.interesting());
        exporter.until_said("without reservations again");
        let told_of = said(&exporter.log(), &["ERROR", "with reservations", "three lines are too old"]);
        assert_eq!(told_of.len(), 1, "{}", exporter.log());
        told(&exporter, 0, 0);
        assert!(exporter.stop().success());
    });
}

#[test]
fn what_only_a_person_can_cure_is_loud_outlives_a_restart_and_everything_comes_after_the_cure() {
    let raw = |status, name, value, body| Reply::Raw { status, headers: vec![(name, value)], body };
    let answers = [
        (Over::Grpc, Reply::Code(Code::Unauthenticated, "who are you?"), "Unauthenticated: who are you?"),
        (Over::Grpc, Reply::Code(Code::Unimplemented, "no logs here"), "Unimplemented: no logs here"),
        (Over::Grpc, Reply::Code(Code::Internal, "oops"), "Internal: oops"),
        (Over::Http, raw(200, "content-type", "text/html", "<html>Please log in</html>"), "Please log in"),
        (Over::Http, raw(302, "location", "https://login.example", ""), "https://login.example"),
        (Over::Http, Reply::Status(401, "who are you?"), "401 Unauthorized: who are you?"),
        (Over::Http, Reply::Status(404, "no logs here"), "404 Not Found: no logs here"),
        (Over::Http, Reply::Status(500, "oops"), "500 Internal Server Error: oops"),
    ];
    for_each(answers, async |(over, reply, words)| {
        let env = over.env(None, "", POOL, |world| populate(world, POOL, USERS, 3)).await;
        env.receiver.answer_always(reply);
        let exporter = env.exporter();
        until_requests(&exporter, "refused", 1.0);
        told_why(&exporter, "ERROR", words);
        go_on_counting(&env, &exporter, 0);
        told(&exporter, 1, 0);
        // A stop does not wait until the fault is repaired.
        assert!(exporter.stop().success());

        let before = env.receiver.exports().len();
        let exporter = env.exporter();
        until_requests(&exporter, "refused", 1.0);
        env.receiver.answer_always(Reply::Ok);
        told_why(&exporter, "ERROR", words);
        env.conserved(&exporter, &[POOL]).await;
        let gap = env.receiver.exports()[before + 1].at - env.receiver.exports()[before].at;
        assert!(gap >= REFUSED_FIRST / 2, "nobody is hurried: {gap:?}");
        Came { accepted: env.receiver.records().len(), ..Came::default() }.check(&exporter);
        let scrape = exporter.scrape();
        assert!(requests(&scrape, "retry") < 0.5 && requests(&scrape, "ok") >= 1.0, "{}", scrape.interesting());
        told(&exporter, 1, 1);
        assert!(exporter.stop().success());
    });
}
