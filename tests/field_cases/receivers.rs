//! Receivers under load, and addresses without a receiver.

use std::process::Output;

use cognito_auth_core::event::AuthEvent;
use cognito_auth_simulator::world::World;
use tonic::Code;

use crate::exporter::Exporter;
use crate::receiver::{Received, Reply};
use crate::test_env::{Terms, TestEnv, is, now, populate, said, sign_ins};
use crate::transports::{BEGUN, Came, ENDED, Over, for_each, requests, until_requests};

const POOL: &str = "eu-west-1_Receivers";
const USERS: usize = 6;
const EVENTS: i64 = 50;
/// The number of all records: 300.
const RECORDS: usize = USERS * 50;

const QUARANTINED: &str = "cognito_exporter_quarantined_records";
const WAITING: &str = "cognito_exporter_outbox_records";

async fn three_hundred(over: Over, otlp: &str) -> TestEnv {
    over.env(None, otlp, POOL, |world| populate(world, POOL, USERS, EVENTS)).await
}

fn http(status: u16, content_type: &'static str, body: &'static str) -> Reply {
    Reply::Raw { status, headers: vec![("content-type", content_type)], body }
}

/// Waits until all records wait, and checks that none is in quarantine.
fn all_waits(exporter: &Exporter) {
    let scrape = exporter.until("all of them waiting", |scrape| is(scrape, WAITING, &[], RECORDS as f64));
    assert!(is(&scrape, QUARANTINED, &[], 0.0) && requests(&scrape, "ok") < 0.5, "{}", scrape.interesting());
}

/// Checks the recovery: everything is delivered once, the quarantine is empty, and the end of the fault is logged.
async fn all_comes_after_the_cure(env: &TestEnv, exporter: Exporter) {
    env.receiver.answer_always(Reply::Ok);
    env.conserved(&exporter, &[POOL]).await;
    Came { accepted: RECORDS, ..Came::default() }.check(&exporter);
    exporter.until_said(ENDED);
    assert!(exporter.stop().success());
}

/// Checks the first report of a fault: its level, its text and its remedy.
fn told(exporter: &Exporter, level: &str, words: &str, remedy: &str) {
    exporter.until_said(BEGUN);
    let line = said(&exporter.log(), &[BEGUN]).remove(0);
    let (says, does) = line.split_once("remedy=").unwrap();
    assert!(
        says.contains(level) && says.contains(words) && does.contains(remedy),
        "{level} {words:?} {remedy:?}: {line}"
    );
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// The Collector's memory limiter over gRPC, from reports: RESOURCE_EXHAUSTED without RetryInfo. Good records went to
/// the quarantine.
#[test]
fn a_receiver_short_of_memory_is_waited_for_and_its_batches_stay_whole() {
    for_each(["data refused due to high memory usage", "sending queue is full", "quota exceeded"], async |words| {
        let env = three_hundred(Over::Grpc, "").await;
        env.receiver.answer_always(Reply::Code(Code::ResourceExhausted, words));
        let exporter = env.exporter();
        let scrape = until_requests(&exporter, "retry", 4.0);
        assert!(requests(&scrape, "refused") < 0.5, "{}", scrape.interesting());
        all_waits(&exporter);
        told(&exporter, "WARN", words, "raise what the receiver allows");
        let first = env.receiver.exports()[0].records;
        assert!(env.receiver.exports().iter().all(|export| export.records == first), "it was split");
        all_comes_after_the_cure(&env, exporter).await;
    });
}

/// nginx on a port for TLS, and a Go server: the usual mistakes with http:// and https://. Good records went to the
/// quarantine.
#[test]
fn a_server_that_wants_tls_has_refused_no_record_and_https_is_the_remedy() {
    const NGINX: &str = "<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>\r\n\
                         <body>\r\n\
        <center><h1>400 Bad Request</h1></center>\r\n<center>The plain HTTP request was sent to HTTPS port</center>\r\n\
        <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";
    const GO: &str = "Client sent an HTTP request to an HTTPS server.\n";
    let answers = [(http(400, "text/html", NGINX), "HTTPS port"), (http(400, "text/plain", GO), "HTTPS server")];
    for_each(answers, async |(reply, words)| {
        let env = three_hundred(Over::Http, "").await;
        env.receiver.answer_always(reply);
        let exporter = env.exporter();
        until_requests(&exporter, "refused", 1.0);
        all_waits(&exporter);
        told(&exporter, "ERROR", words, "https://");
        all_comes_after_the_cure(&env, exporter).await;
        // Each export was one request with a whole batch.
        let exports = env.receiver.exports();
        assert!(exports.iter().filter(|export| export.records < exports[0].records).count() <= 1, "it was split");
    });
}

/// Gateways and stores that answer 200 to records that they drop. Such records counted as delivered, and were lost.
#[test]
fn a_success_in_other_words_than_otlps_acknowledges_nothing() {
    let json = "application/json";
    let answers = [
        (http(200, json, r#"{"error":"storage is full"}"#), "accept_any_2xx"),
        (http(200, json, "[null]"), "accept_any_2xx"),
        (http(200, json, r#"{"status":"login required"}"#), "accept_any_2xx"),
        (http(202, json, r#"{"partialSuccess":{"rejectedLogRecords":"several"}}"#), "accept_any_2xx"),
        (http(200, "text/plain", "OK"), "accept_any_2xx"),
        (http(200, "text/html", "<html>Please log in</html>"), "check the endpoint"),
    ];
    for_each(answers, async |(reply, remedy)| {
        let env = three_hundred(Over::Http, "").await;
        env.receiver.answer_always(reply);
        let exporter = env.exporter();
        until_requests(&exporter, "refused", 1.0);
        all_waits(&exporter);
        told(&exporter, "ERROR", "20", remedy);
        all_comes_after_the_cure(&env, exporter).await;
    });
}

/// A receiver that stores records and answers "OK". The records were sent again without end, and no message named a
/// remedy.
#[test]
fn a_receiver_that_says_ok_is_believed_if_the_configuration_says_so_and_a_web_page_is_not() {
    for_each([("text/plain", "OK", true), ("text/html", "<html>OK</html>", false)], async |(kind, body, is_taken)| {
        let env = three_hundred(Over::Http, "accept_any_2xx = true\n").await;
        env.receiver.answer_always(http(200, kind, body));
        let exporter = env.exporter();
        if is_taken {
            exporter.until("all of them acknowledged", |scrape| {
                let accepted = &["outcome=\"accepted\""];
                is(scrape, "cognito_exporter_otlp_records_total", accepted, RECORDS as f64)
                    && is(scrape, WAITING, &[], 0.0)
            });
            assert!(said(&exporter.log(), &[BEGUN]).is_empty(), "{}", exporter.log());
            assert!(exporter.stop().success());
        } else {
            until_requests(&exporter, "refused", 1.0);
            all_waits(&exporter);
            all_comes_after_the_cure(&env, exporter).await;
        }
    });
}

/// Receivers that write JSON with the other field names of a protobuf library.
#[test]
fn a_partial_success_in_snake_case_is_one() {
    for_each([Over::Http], async |over| {
        let env = three_hundred(over, "batch_size = 1000\n").await;
        let body = r#"{"partial_success":{"rejected_log_records":"1","error_message":"too old"}}"#;
        env.receiver.answer_always(http(200, "application/json", body));
        let exporter = env.exporter();
        let scrape = exporter.until("all of them acknowledged", |scrape| {
            scrape.sum("cognito_exporter_otlp_records_total", &[]) >= RECORDS as f64
        });
        let rejected = scrape.sum("cognito_exporter_otlp_records_total", &["outcome=\"rejected\""]);
        assert!(rejected >= 1.0 && (rejected - requests(&scrape, "ok")).abs() < 0.5, "{}", scrape.interesting());
        exporter.until_said("too old");
        assert!(exporter.stop().success());
    });
}

/// A proxy that rewrites or joins `grpc-status-details-bin`, or a receiver that writes it in base64url. The library
/// panicked, and the process ended, also after each restart.
#[test]
fn details_of_a_status_that_are_not_base64_are_no_answer_and_end_nothing() {
    let places = [false, true];
    let cases = [
        ("!", Code::Unavailable),
        ("CA_-", Code::InvalidArgument),
        ("CAg,CAg", Code::ResourceExhausted),
        ("CA_-", Code::Ok),
    ];
    for_each(places, async |in_trailers| {
        for (details, code) in cases {
            // The library treats an OK without a message in the headers as an error of its own, before it reads the
            // details.
            if code == Code::Ok && !in_trailers {
                continue;
            }
            let env = three_hundred(Over::Grpc, "").await;
            env.receiver.answer_always(Reply::Details { code, details, in_trailers });
            let check = env.run(&["check"]);
            assert_eq!(check.status.code(), Some(1), "{}", stderr(&check));
            let exporter = env.exporter();
            let scrape = until_requests(&exporter, "retry", 2.0);
            assert!(requests(&scrape, "refused") < 0.5, "{}", scrape.interesting());
            all_waits(&exporter);
            told(&exporter, "WARN", "grpc-status-details-bin is not base64", "");
            assert_eq!(exporter.ask("/healthz").0, 200);
            assert!(!exporter.log().contains("panicked"), "{}", exporter.log());
            all_comes_after_the_cure(&env, exporter).await;
        }
    });
}

/// A receiver that gives reasons for each record, in more than the 4 MiB that gRPC accepts by default. The library's
/// own error about the answer was read as the receiver's error about the request, and all records went to the
/// quarantine.
#[test]
fn an_answer_that_is_too_large_to_read_is_no_verdict_on_records() {
    let reasons: &'static str = Box::leak("no such field; ".repeat(400_000).into_boxed_str());
    for_each(["gzip", "none"], async |compression| {
        let otlp = format!("compression = {compression:?}\nbatch_size = 1000\n");
        let env = three_hundred(Over::Grpc, &otlp).await;
        env.receiver.answer_always(Reply::Partial(1, reasons));
        let exporter = env.exporter();
        let scrape = until_requests(&exporter, "retry", 2.0);
        assert!(requests(&scrape, "refused") + requests(&scrape, "ok") < 0.5, "{}", scrape.interesting());
        assert!(is(&scrape, QUARANTINED, &[], 0.0), "{}", scrape.interesting());
        told(&exporter, "WARN", "answer cannot be read", "");
        // The receiver kept the records each time, and its answer could not be read.
        env.receiver.answer_always(Reply::Ok);
        env.conserved_on(&exporter, &[POOL], Terms { repeats_max: usize::MAX, ..Terms::default() }).await;
        assert!(exporter.stop().success());
    });
}

fn is_poison(record: &Received) -> bool {
    record.text("aws.cognito.event.id") == "poison"
}

fn poison(world: &mut World) {
    let event = AuthEvent { id: Some("poison".into()), ..world.sign_in(now()) };
    world.arrive(POOL, "user-0", &event);
}

/// A quiet pool, and one record that the receiver calls invalid. Whether the record is the cause is unknown until the
/// receiver has accepted another one. A process that restarts meanwhile tries the record again.
#[test]
fn a_record_that_is_refused_alone_is_quarantined_once_the_receiver_has_taken_another_one() {
    for_each(Over::BOTH, async |over| {
        let env = over.env(None, "", POOL, |world| populate(world, POOL, 2, 0)).await;
        let refusal = match over {
            Over::Grpc => Reply::Code(Code::InvalidArgument, "no such field"),
            Over::Http => Reply::Status(400, "no such field"),
        };
        env.receiver.answer_by(move |records| if records.iter().any(is_poison) { refusal.clone() } else { Reply::Ok });
        env.simulation.world(poison);
        for _ in 0..2 {
            let exporter = env.exporter();
            until_requests(&exporter, "refused", 1.0);
            exporter.until_said("refuses single records");
            let scrape = exporter.until("the record waiting", |scrape| is(scrape, WAITING, &[], 1.0));
            assert!(is(&scrape, QUARANTINED, &[], 0.0), "{}", scrape.interesting());
            exporter.kill();
        }
        let exporter = env.exporter();
        until_requests(&exporter, "refused", 1.0);
        env.simulation.world(|world| sign_ins(world, POOL, "user-1", 1, now()));
        env.conserved_on(&exporter, &[POOL], Terms { quarantined: 1, ..Terms::default() }).await;
        Came { accepted: 1, quarantined: 1, ..Came::default() }.check(&exporter);
        exporter.until_said("no refused record waits for the OTLP receiver any more");
        assert!(exporter.stop().success());
    });
}
