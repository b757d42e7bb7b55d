//! The OTLP sink against a real receiver on loopback: the delivered records, and the meaning of each answer.

use std::path::Path;
use std::time::Duration;

use cognito_auth_core::answer::Answer;
use cognito_auth_core::entry::Entry;
use cognito_auth_core::event::{EventContext, UnixMillis, Word};
use cognito_auth_core::fixtures::{bare_entry, full_entry};
use cognito_auth_core::masking::Mode;
use cognito_auth_core::ocsf::{self, OcsfVersion};
use cognito_auth_core::record::Record;
use cognito_auth_core::record::TimestampSource;
use cognito_auth_exporter::config::{Compression, OtlpConfig, OtlpProtocol, Proxies, Schema, Secret};
use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_exporter::sink::Sink;
use cognito_auth_exporter::sink::otlp::{OtlpSetupError, OtlpSink};
use cognito_auth_exporter::sink::stdout::JsonValue;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Code;

use crate::receiver::{Pki, Receiver, Reply};
use OtlpProtocol::{Grpc, HttpJson, HttpProtobuf};

fn config(protocol: OtlpProtocol, endpoint: String) -> OtlpConfig {
    OtlpConfig {
        endpoint,
        endpoint_is_exact: false,
        protocol,
        headers: vec![],
        headers_file: None,
        compression: Compression::Gzip,
        timeout: Duration::from_secs(10),
        ca_file: None,
        cert_file: None,
        key_file: None,
        accept_any_2xx: false,
        batch_size: 512,
        batch_delay: Duration::from_secs(1),
        timestamp: TimestampSource::Event,
        schema: Schema::Cognito,
        proxies: Proxies::default(),
        resource_attributes: vec![("deployment.environment.name".into(), "test".into())],
    }
}

async fn receiver_of(protocol: OtlpProtocol) -> Receiver {
    match protocol {
        Grpc => Receiver::grpc().await,
        HttpProtobuf | HttpJson => Receiver::http().await,
    }
}

async fn pair(protocol: OtlpProtocol) -> (Receiver, OtlpSink) {
    let receiver = receiver_of(protocol).await;
    let sink = OtlpSink::connect(&config(protocol, receiver.endpoint()), "instance-1", &Clock::system())
        .expect("the configuration is good");
    (receiver, sink)
}

async fn deliver(sink: &mut OtlpSink, batch: &[Entry]) -> Answer {
    let records: Vec<_> = batch.iter().map(|entry| sink.record(entry)).collect();
    sink.deliver(&records).await
}

fn accepted() -> Answer {
    Answer::Accepted { rejected: 0, message: None }
}

#[tokio::test]
async fn every_attribute_arrives_over_every_protocol() {
    let mut entry = full_entry();
    entry.observed = UnixMillis(1_723_136_200_123);
    let context = entry.event.context.as_mut().unwrap();
    (context.city, context.country) = (Some("Saint-Étienne".into()), Some("France".into()));
    for protocol in [Grpc, HttpProtobuf, HttpJson] {
        let (receiver, mut sink) = pair(protocol).await;
        assert_eq!(deliver(&mut sink, &[entry.clone(), bare_entry()]).await, accepted());
        let records = receiver.records();
        let [full, bare] = &records[..] else {
            panic!("two records were sent: {records:?}");
        };

        assert_eq!(full.timestamp, 1_723_136_049_929_000_000);
        assert_eq!(full.observed, 1_723_136_200_123_000_000);
        assert_eq!(full.event_name, "aws.cognito.auth.sign_in");
        assert_eq!((full.severity_number, full.severity_text.as_str()), (17, "ERROR"));
        assert_eq!(
            full.body,
            "Sign-in of alice in customers from 192.0.2.1 (Saint-Étienne, France) passed, \
             account takeover suspected (risk High)."
        );
        assert_eq!(
            serde_json::to_value(&full.attributes).unwrap(),
            json!({
                "log.record.uid": entry.uid(),
                "aws.cognito.user_pool.id": "eu-west-1_Abc123",
                "aws.cognito.user_pool.name": "customers",
                "aws.cognito.user_pool.region": "eu-west-1",
                "aws.cognito.user_pool.account_id": "111122223333",
                "aws.cognito.event.id": "4ad59ba8-0df1-4b1c-9a3e-3f2b5bf0d5ce",
                "aws.cognito.event.type": "SignIn",
                "aws.cognito.event.response": "Pass",
                "aws.cognito.event.creation_date": "2024-08-08T16:54:09.929Z",
                "aws.cognito.event.revision": 2,
                "aws.cognito.event.history": false,
                "aws.cognito.event.source": "poll",
                "aws.cognito.risk.decision": "AccountTakeover",
                "aws.cognito.risk.level": "High",
                "aws.cognito.risk.compromised_credentials": false,
                "aws.cognito.challenges": [
                    {"name": "Password", "response": "Success"},
                    {"name": "Mfa"},
                ],
                "user.name": "alice",
                "user.id": "sub-of-alice",
                "client.address": "192.0.2.1",
                "aws.cognito.device.name": "Chrome 126, Windows 10",
                "aws.cognito.timezone": "-07:00",
                "geo.locality.name": "Saint-Étienne",
                "aws.cognito.country": "France",
                "geo.country.iso_code": "FR",
                "aws.cognito.feedback.value": "Invalid",
                "aws.cognito.feedback.provider": "Admin",
                "aws.cognito.feedback.date": "2024-08-08T16:55:00.000Z",
            })
        );
        assert_eq!(
            serde_json::to_value(&full.resource).unwrap(),
            json!({
                "service.name": "cognito-auth-exporter",
                "service.version": env!("CARGO_PKG_VERSION"),
                "service.instance.id": "instance-1",
                "deployment.environment.name": "test",
            })
        );
        assert_eq!(full.scope, ("cognito-auth-exporter".into(), env!("CARGO_PKG_VERSION").into()));

        assert_eq!(bare.timestamp, 0);
        assert_eq!(bare.event_name, "aws.cognito.auth.other");
        assert!(!bare.attributes.contains_key("aws.cognito.event.type"));
    }
}

#[tokio::test]
async fn an_ocsf_body_is_the_same_map_over_every_protocol() {
    let entry = full_entry();
    let mut made = Record::of(&entry, TimestampSource::Event);
    made.body = ocsf::body(OcsfVersion::V1_8, &entry, &made);
    for protocol in [Grpc, HttpProtobuf, HttpJson] {
        let receiver = receiver_of(protocol).await;
        let config = OtlpConfig { schema: Schema::Ocsf(OcsfVersion::V1_8), ..config(protocol, receiver.endpoint()) };
        let mut sink = OtlpSink::connect(&config, "instance-1", &Clock::system()).unwrap();
        assert_eq!(deliver(&mut sink, std::slice::from_ref(&entry)).await, accepted());
        let body: Value = serde_json::from_str(&receiver.records()[0].body).unwrap();
        assert_eq!(body, serde_json::to_value(JsonValue(&made.body)).unwrap(), "{protocol:?}");
        assert_eq!(body["type_uid"], 300_201);
    }
}

/// A request as JSON. The order of attributes in a resource and of members in a map has no meaning, so they are sorted.
fn sorted(request: &ExportLogsServiceRequest) -> Value {
    fn sort(value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(sort),
            Value::Object(members) => members.values_mut().for_each(sort),
            _ => {}
        }
        let list = match value.pointer("/kvlistValue/values") {
            Some(_) => value.pointer_mut("/kvlistValue/values"),
            None => value.pointer_mut("/resource/attributes"),
        };
        if let Some(Value::Array(pairs)) = list {
            pairs.sort_by_key(|pair| pair["key"].to_string());
        }
    }
    let mut json = serde_json::to_value(request).unwrap();
    sort(&mut json);
    json
}

/// Receivers rely on these requests. After an intended change: `GOLDEN=write cargo test otlp::`. Every body is also
/// what opentelemetry-proto makes of the same request, byte by byte.
#[tokio::test]
async fn requests_are_in_each_schema_what_the_golden_files_say() {
    let mut sign_up = bare_entry();
    sign_up.event.event_type = Some(Word::parse("SignUp"));
    sign_up.event.context =
        Some(EventContext {
            device_name: Some("D".repeat(200)), country: Some("é".into()), ..EventContext::default()
        });
    sign_up.masked.username = Mode::Hash;
    let batch = [full_entry(), bare_entry(), sign_up];
    for (schema, name) in [
        (Schema::Cognito, "cognito"),
        (Schema::Ocsf(OcsfVersion::V1_8), "ocsf"),
        (Schema::Ocsf(OcsfVersion::V1_9), "ocsf-1.9"),
    ] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/otlp-{name}.json"));
        for protocol in [Grpc, HttpProtobuf, HttpJson] {
            let receiver = receiver_of(protocol).await;
            let config = OtlpConfig { schema, ..config(protocol, receiver.endpoint()) };
            let mut sink = OtlpSink::connect(&config, "instance-1", &Clock::system()).unwrap();
            assert_eq!(deliver(&mut sink, &batch).await, accepted());

            let body = receiver.exports().remove(0).body;
            let request = if protocol == HttpJson {
                let request = serde_json::from_slice(&body).unwrap();
                assert!(serde_json::to_vec_pretty(&request).unwrap() == body, "{name}");
                request
            } else {
                let request = ExportLogsServiceRequest::decode(&*body).unwrap();
                assert!(request.encode_to_vec() == body, "{protocol:?} {name}");
                request
            };
            let text = format!("{:#}\n", sorted(&request)).replace(env!("CARGO_PKG_VERSION"), "<version>");
            if protocol == Grpc && std::env::var_os("GOLDEN").is_some_and(|word| word == "write") {
                std::fs::write(&file, &text).unwrap();
            }
            assert_eq!(text, std::fs::read_to_string(&file).unwrap(), "{protocol:?} {name}");
        }
    }
}

#[tokio::test]
async fn both_compressions_arrive_and_the_answer_is_the_same() {
    for protocol in [Grpc, HttpProtobuf, HttpJson] {
        for (compression, encoding) in [(Compression::Gzip, Some("gzip")), (Compression::None, None)] {
            let receiver = receiver_of(protocol).await;
            let mut config = config(protocol, receiver.endpoint());
            config.compression = compression;
            let mut sink = OtlpSink::connect(&config, "i", &Clock::system()).unwrap();
            assert_eq!(deliver(&mut sink, &[full_entry()]).await, accepted());
            let export = &receiver.exports()[0];
            let name = if protocol == Grpc { "grpc-encoding" } else { "content-encoding" };
            let sent = export.headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!(sent.filter(|encoding| *encoding != "identity"), encoding);
        }
    }
}

#[tokio::test]
async fn the_path_is_appended_unless_the_endpoint_is_exact() {
    let receiver = Receiver::http().await;
    for (path, exact, expected) in [
        ("", false, "/v1/logs"),
        ("/", false, "/v1/logs"),
        ("/otlp/", false, "/otlp/v1/logs"),
        ("/otlp?tenant=a", false, "/otlp/v1/logs?tenant=a"),
        ("/ingest", true, "/ingest"),
    ] {
        let mut config = config(HttpProtobuf, receiver.endpoint() + path);
        config.endpoint_is_exact = exact;
        let mut sink = OtlpSink::connect(&config, "i", &Clock::system()).unwrap();
        assert_eq!(deliver(&mut sink, &[bare_entry()]).await, accepted());
        assert_eq!(receiver.exports().last().unwrap().path, expected);
    }
}

#[tokio::test]
async fn headers_go_along_and_the_file_is_read_anew() {
    for protocol in [Grpc, HttpProtobuf, HttpJson] {
        let receiver = receiver_of(protocol).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        std::fs::write(&path, "authorization=Bearer%20one\n").unwrap();
        let mut config = config(protocol, receiver.endpoint());
        config.headers = vec![("x-tenant".into(), Secret::new("a"))];
        config.headers_file = Some(path.clone());
        let mut sink = OtlpSink::connect(&config, "i", &Clock::system()).unwrap();
        assert_eq!(deliver(&mut sink, &[bare_entry()]).await, accepted());
        std::fs::write(&path, "authorization=Bearer%20two\n").unwrap();
        assert_eq!(deliver(&mut sink, &[bare_entry()]).await, accepted());

        let exports = receiver.exports();
        assert_eq!(exports[0].headers["x-tenant"], "a");
        assert_eq!(exports[0].headers["authorization"], "Bearer one");
        assert_eq!(exports[1].headers["authorization"], "Bearer two");
        let agent = exports[0].headers["user-agent"].to_str().unwrap();
        assert!(agent.starts_with("cognito-auth-exporter/"), "{agent}");
        assert!(!exports[0].headers.contains_key("x-environment"));
        assert!(!format!("{sink:?}").contains("Bearer"), "{sink:?}");
    }
}

/// opentelemetry-otlp reads the environment by itself, although the configuration has already combined it with the
/// file.
#[test]
fn the_environment_does_not_overrule_the_configuration() {
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "otlp::both_compressions_arrive_and_the_answer_is_the_same"])
        .args(["otlp::headers_go_along_and_the_file_is_read_anew"])
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-environment=1,authorization=nobody")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && out.contains("2 passed"), "{out}");
}

/// An answer without its text.
#[derive(Debug, PartialEq)]
enum AnswerKind {
    Accepted(u64),
    Retry(Option<Duration>),
    TooLarge,
    Invalid,
    Refused,
}

fn kind(answer: &Answer) -> AnswerKind {
    match answer {
        Answer::Accepted { rejected, .. } => AnswerKind::Accepted(*rejected),
        Answer::Retry { after, .. } => AnswerKind::Retry(*after),
        Answer::TooLarge { .. } => AnswerKind::TooLarge,
        Answer::Invalid { .. } => AnswerKind::Invalid,
        Answer::Refused { .. } => AnswerKind::Refused,
    }
}

fn text(answer: &Answer) -> &str {
    match answer {
        Answer::Accepted { message, .. } => message.as_deref().unwrap_or_default(),
        Answer::Retry { message, .. }
        | Answer::TooLarge { message }
        | Answer::Invalid { message }
        | Answer::Refused { message } => message,
    }
}

#[tokio::test]
async fn each_grpc_answer_is_what_the_table_says() {
    let (receiver, mut sink) = pair(Grpc).await;
    let seven = Some(Duration::from_secs(7));
    for (reply, expected, message) in [
        (Reply::Ok, AnswerKind::Accepted(0), ""),
        (Reply::Partial(1, "too old"), AnswerKind::Accepted(1), "too old"),
        (Reply::Partial(0, "mind the gap"), AnswerKind::Accepted(0), "mind the gap"),
        (Reply::Code(Code::Unavailable, "restarting"), AnswerKind::Retry(None), "restarting"),
        (Reply::RetryInfo(Code::Unavailable, seven), AnswerKind::Retry(seven), "later"),
        (Reply::RetryInfo(Code::ResourceExhausted, seven), AnswerKind::Retry(seven), "later"),
        (Reply::RetryInfo(Code::ResourceExhausted, None), AnswerKind::Retry(None), "later"),
        (
            Reply::Code(Code::ResourceExhausted, "data refused due to high memory usage"),
            AnswerKind::Retry(None),
            "high memory",
        ),
        (Reply::Code(Code::ResourceExhausted, "message larger than max"), AnswerKind::TooLarge, "larger than max"),
        (Reply::Code(Code::InvalidArgument, "bad"), AnswerKind::Invalid, "bad"),
        (Reply::Code(Code::Unauthenticated, "who?"), AnswerKind::Refused, "who?"),
        (Reply::Code(Code::Unimplemented, "what?"), AnswerKind::Refused, "what?"),
        (Reply::Code(Code::Internal, "oops"), AnswerKind::Refused, "oops"),
        (Reply::Code(Code::Unknown, "oops"), AnswerKind::Refused, "oops"),
        (Reply::Close, AnswerKind::Retry(None), "no answer"),
        (Reply::Lost, AnswerKind::Retry(None), "no answer"),
        (Reply::Ok, AnswerKind::Accepted(0), ""),
    ] {
        receiver.answer_next(reply.clone());
        let answer = deliver(&mut sink, &[full_entry()]).await;
        assert_eq!(kind(&answer), expected, "{reply:?}: {answer:?}");
        assert!(text(&answer).contains(message), "{reply:?}: {answer:?}");
    }
}

#[tokio::test]
async fn each_http_answer_is_what_the_table_says() {
    let raw = |status, headers, body| Reply::Raw { status, headers, body };
    let later = vec![("retry-after", "7"), ("content-type", "text/plain")];
    for protocol in [HttpProtobuf, HttpJson] {
        let (receiver, mut sink) = pair(protocol).await;
        for (reply, expected, message) in [
            (Reply::Ok, AnswerKind::Accepted(0), ""),
            (Reply::Partial(1, "too old"), AnswerKind::Accepted(1), "too old"),
            (raw(204, vec![], ""), AnswerKind::Accepted(0), ""),
            (raw(200, vec![("content-type", "text/html")], "<html>Log in</html>"), AnswerKind::Refused, "Log in"),
            (raw(302, vec![("location", "/login")], ""), AnswerKind::Refused, "redirects are not followed"),
            (Reply::Status(400, "bad"), AnswerKind::Invalid, "bad"),
            (Reply::Status(401, "who?"), AnswerKind::Refused, "who?"),
            (Reply::Status(404, "where?"), AnswerKind::Refused, "where?"),
            (Reply::Status(413, "20 MiB"), AnswerKind::TooLarge, "20 MiB"),
            (Reply::Status(422, "bad"), AnswerKind::Invalid, "bad"),
            (Reply::Status(429, "slow"), AnswerKind::Retry(None), "slow"),
            (raw(429, later.clone(), ""), AnswerKind::Retry(Some(Duration::from_secs(7))), "429"),
            (Reply::Status(500, "oops"), AnswerKind::Refused, "oops"),
            (Reply::Status(502, "proxy"), AnswerKind::Retry(None), "proxy"),
            (Reply::Status(503, "busy"), AnswerKind::Retry(None), "busy"),
            (Reply::Close, AnswerKind::Retry(None), "no answer"),
            (Reply::Lost, AnswerKind::Retry(None), "no answer"),
            (Reply::Ok, AnswerKind::Accepted(0), ""),
        ] {
            receiver.answer_next(reply.clone());
            let answer = deliver(&mut sink, &[full_entry()]).await;
            assert_eq!(kind(&answer), expected, "{reply:?}: {answer:?}");
            assert!(text(&answer).contains(message), "{reply:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_or_is_gone_gives_no_answer_and_the_next_export_arrives() {
    for protocol in [Grpc, HttpProtobuf, HttpJson] {
        let receiver = receiver_of(protocol).await;
        let mut config = config(protocol, receiver.endpoint());
        config.timeout = Duration::from_millis(300);
        let mut sink = OtlpSink::connect(&config, "i", &Clock::system()).unwrap();

        receiver.answer_next(Reply::Hang);
        let answer = deliver(&mut sink, &[bare_entry()]).await;
        assert_eq!(kind(&answer), AnswerKind::Retry(None));
        assert_eq!(text(&answer), "no answer: timed out after 300ms");

        receiver.stop().await;
        let answer = deliver(&mut sink, &[bare_entry()]).await;
        assert_eq!(kind(&answer), AnswerKind::Retry(None), "{answer:?}");

        receiver.start().await;
        assert_eq!(deliver(&mut sink, &[bare_entry()]).await, accepted(), "{protocol:?}");
        assert_eq!(receiver.records().len(), 1);
    }
}

#[tokio::test]
async fn connections_that_the_receiver_closed_between_two_exports_cost_neither() {
    for protocol in [Grpc, HttpProtobuf, HttpJson] {
        let (receiver, mut sink) = pair(protocol).await;
        for _ in 0..3 {
            assert_eq!(deliver(&mut sink, &[bare_entry()]).await, accepted(), "{protocol:?}");
            receiver.close_idle().await;
        }
        assert_eq!(receiver.exports().len(), 3);
    }
}

/// A receiver may give a reason for each rejected record. If its answer could not be read, the batch would be sent
/// again without end.
#[tokio::test]
async fn a_partial_success_with_a_very_long_message_is_one() {
    let message: &'static str = "line too old; ".repeat(40_000).leak();
    for protocol in [Grpc, HttpProtobuf, HttpJson] {
        let (receiver, mut sink) = pair(protocol).await;
        receiver.answer_next(Reply::Partial(2, message));
        let answer = deliver(&mut sink, &[bare_entry(), full_entry()]).await;
        assert_eq!(kind(&answer), AnswerKind::Accepted(2), "{protocol:?}");
        assert!(text(&answer).len() < 3000, "as much as is looked through");
        assert!(text(&answer.redacted([])).len() < 1000);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_none() {
    for protocol in [HttpProtobuf, HttpJson] {
        let (receiver, mut sink) = pair(protocol).await;
        receiver.answer_next(Reply::Cut);
        let answer = deliver(&mut sink, &[bare_entry()]).await;
        assert_eq!(kind(&answer), AnswerKind::Retry(None), "{answer:?}");
    }
}

/// A server that refuses a message by its length does not read it. The answer comes while the message is being sent,
/// and the connection ends. If this counted as a lost connection, the message would be sent again without end.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_refused_unread_is_too_large() {
    let mut entry = full_entry();
    entry.event.context.as_mut().unwrap().device_name = Some("D".repeat(100_000));
    for (protocol, compression) in [
        (Grpc, Compression::Gzip),
        (Grpc, Compression::None),
        (HttpProtobuf, Compression::None),
        (HttpJson, Compression::None),
    ] {
        let receiver = receiver_of(protocol).await;
        receiver.limit_messages(50_000).await;
        let config = OtlpConfig { compression, ..config(protocol, receiver.endpoint()) };
        let mut sink = OtlpSink::connect(&config, "i", &Clock::system()).unwrap();
        for _ in 0..3 {
            let answer = deliver(&mut sink, &[entry.clone()]).await;
            assert_eq!(kind(&answer), AnswerKind::TooLarge, "{protocol:?}: {answer:?}");
        }
        assert_eq!(deliver(&mut sink, &[full_entry()]).await, accepted());
    }
}

/// The address of a server that supports HTTP/2 but not gRPC, and answers every request with this page.
#[expect(clippy::unwrap_used, reason = "a test that cannot set up its server fails")]
#[expect(clippy::disallowed_methods, reason = "a test's server; the test's runtime ends it")]
async fn web_server(status: u16) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let page = move |_| async move {
        let page = http_body_util::Full::new(bytes::Bytes::from_static(b"<html>nginx</html>"));
        http::Response::builder().status(status).header("content-type", "text/html").body(page)
    };
    tokio::task::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (io, page) = (hyper_util::rt::TokioIo::new(stream), hyper::service::service_fn(page));
            let server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            tokio::task::spawn(server.serve_connection(io, page));
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_proxys_page_in_place_of_a_grpc_answer_is_judged_by_its_status() {
    for (status, expected) in [
        (200, AnswerKind::Refused),
        (204, AnswerKind::Refused),
        (302, AnswerKind::Refused),
        (401, AnswerKind::Refused),
        (404, AnswerKind::Refused),
        (400, AnswerKind::Refused),
        (413, AnswerKind::TooLarge),
        (429, AnswerKind::Retry(None)),
        (500, AnswerKind::Refused),
        (502, AnswerKind::Retry(None)),
        (503, AnswerKind::Retry(None)),
    ] {
        let mut sink = OtlpSink::connect(&config(Grpc, web_server(status).await), "i", &Clock::system()).unwrap();
        let answer = deliver(&mut sink, &[full_entry()]).await;
        assert_eq!(kind(&answer), expected, "{status}: {answer:?}");
    }
}

#[tokio::test]
async fn a_connection_without_the_right_tls_says_what_is_wrong() {
    let (pki, strict, expired, other) = (Pki::new(false), Pki::new(true), Pki::expired(), Pki::new(false));
    for protocol in [Grpc, HttpProtobuf] {
        let (plain, tls, asking, old) = match protocol {
            Grpc => (
                Receiver::grpc().await,
                Receiver::grpc_tls(&pki).await,
                Receiver::grpc_tls(&strict).await,
                Receiver::grpc_tls(&expired).await,
            ),
            HttpProtobuf | HttpJson => (
                Receiver::http().await,
                Receiver::http_tls(&pki).await,
                Receiver::http_tls(&strict).await,
                Receiver::http_tls(&expired).await,
            ),
        };
        for (endpoint, ca, words) in [
            (tls.endpoint(), other.ca_file(), "otlp.ca_file"),
            (tls.endpoint().replace("localhost", "127.0.0.1"), pki.ca_file(), "the name in otlp.endpoint"),
            (old.endpoint(), expired.ca_file(), "expired"),
            (asking.endpoint(), strict.ca_file(), "otlp.cert_file"),
            (plain.endpoint().replace("http:", "https:"), pki.ca_file(), "http://"),
            (tls.endpoint().replace("https:", "http:"), pki.ca_file(), "TLS"),
        ] {
            let config = OtlpConfig { ca_file: Some(ca), ..config(protocol, endpoint) };
            let mut sink = OtlpSink::connect(&config, "i", &Clock::system()).unwrap();
            let answer = deliver(&mut sink, &[full_entry()]).await;
            assert_eq!(kind(&answer), AnswerKind::Retry(None), "{answer:?}");
            assert!(text(&answer).contains(words), "{protocol:?}, {words}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_receiver_of_the_other_transport_is_no_acknowledgement() {
    let http = Receiver::http().await;
    let mut sink = OtlpSink::connect(&config(Grpc, http.endpoint()), "i", &Clock::system()).unwrap();
    let answer = deliver(&mut sink, &[bare_entry()]).await;
    assert_eq!(kind(&answer), AnswerKind::Retry(None));
    assert!(text(&answer).contains("speak gRPC"), "{answer:?}");

    let grpc = Receiver::grpc().await;
    let mut sink = OtlpSink::connect(&config(HttpProtobuf, grpc.endpoint()), "i", &Clock::system()).unwrap();
    let answer = deliver(&mut sink, &[bare_entry()]).await;
    assert_eq!(kind(&answer), AnswerKind::Retry(None));
    assert!(text(&answer).contains("port for gRPC"), "{answer:?}");
}

#[tokio::test]
async fn a_probe_asks_without_a_record() {
    for protocol in [Grpc, HttpProtobuf, HttpJson] {
        let (receiver, mut sink) = pair(protocol).await;
        assert_eq!(sink.probe().await, accepted());
        assert_eq!(receiver.exports()[0].records, 0);
    }
}

#[tokio::test]
async fn the_sizes_of_entries_bound_the_request() {
    for protocol in [Grpc, HttpProtobuf] {
        let (receiver, mut sink) = pair(protocol).await;
        let batch = vec![full_entry(); 100];
        let bound: usize = batch.iter().map(|entry| sink.size_of(&sink.record(entry))).sum();
        assert_eq!(deliver(&mut sink, &batch).await, accepted());
        let sent = receiver.exports()[0].bytes;
        assert!(sent <= bound && bound <= sent * 3 / 2, "{sent} sent, bound {bound}");
    }
    let (_receiver, sink) = pair(HttpJson).await;
    assert!(sink.size_of(&sink.record(&full_entry())) > 3000, "JSON is reckoned as JSON");
}

#[tokio::test]
async fn tls_is_trusted_by_the_file_and_by_nothing_else() {
    let pki = Pki::new(false);
    for protocol in [Grpc, HttpProtobuf, HttpJson] {
        let receiver = match protocol {
            Grpc => Receiver::grpc_tls(&pki).await,
            HttpProtobuf | HttpJson => Receiver::http_tls(&pki).await,
        };
        let mut config = config(protocol, receiver.endpoint());
        config.ca_file = Some(pki.ca_file());
        let mut sink = OtlpSink::connect(&config, "i", &Clock::system()).unwrap();
        assert_eq!(deliver(&mut sink, &[full_entry()]).await, accepted(), "{protocol:?}");

        let other = Pki::new(false);
        config.ca_file = Some(other.ca_file());
        let mut sink = OtlpSink::connect(&config, "i", &Clock::system()).unwrap();
        let answer = deliver(&mut sink, &[full_entry()]).await;
        assert_eq!(kind(&answer), AnswerKind::Retry(None), "{answer:?}");
        assert!(text(&answer).contains("certificate"), "{answer:?}");
        assert_eq!(receiver.records().len(), 1);
    }
}

#[tokio::test]
async fn mutual_tls_shows_who_we_are() {
    let pki = Pki::new(true);
    for protocol in [Grpc, HttpProtobuf, HttpJson] {
        let receiver = match protocol {
            Grpc => Receiver::grpc_tls(&pki).await,
            HttpProtobuf | HttpJson => Receiver::http_tls(&pki).await,
        };
        let mut config = config(protocol, receiver.endpoint());
        config.ca_file = Some(pki.ca_file());
        let mut stranger = OtlpSink::connect(&config, "i", &Clock::system()).unwrap();
        let answer = deliver(&mut stranger, &[full_entry()]).await;
        assert_eq!(kind(&answer), AnswerKind::Retry(None), "{answer:?}");
        assert_eq!(receiver.records().len(), 0);

        config.cert_file = Some(pki.cert_file());
        config.key_file = Some(pki.key_file());
        let mut known = OtlpSink::connect(&config, "i", &Clock::system()).unwrap();
        assert_eq!(deliver(&mut known, &[full_entry()]).await, accepted(), "{protocol:?}");
    }
}

#[tokio::test]
async fn what_cannot_work_is_said_at_once_and_says_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let junk = folder.path().join("junk.pem");
    std::fs::write(&junk, "junk").unwrap();
    let missing = folder.path().join("missing.pem");
    for protocol in [Grpc, HttpProtobuf, HttpJson] {
        let connect = |change: &dyn Fn(&mut OtlpConfig)| {
            let mut config = config(protocol, "https://localhost:4318".into());
            change(&mut config);
            OtlpSink::connect(&config, "i", &Clock::system()).unwrap_err()
        };
        for endpoint in ["", "localhost:4317", "ftp://localhost", "http://", "not a url"] {
            let error = connect(&|config| config.endpoint = endpoint.into());
            assert!(matches!(error, OtlpSetupError::Endpoint), "{endpoint}: {error}");
        }
        let error = connect(&|config| config.ca_file = Some(missing.clone()));
        assert!(matches!(error, OtlpSetupError::Unreadable { key: "otlp.ca_file", .. }), "{error}");
        let error = connect(&|config| config.ca_file = Some(junk.clone()));
        assert!(matches!(error, OtlpSetupError::Unusable { key: "otlp.ca_file", .. }), "{error}");
        let error = connect(&|config| config.headers_file = Some(missing.clone()));
        assert!(matches!(error, OtlpSetupError::Unreadable { key: "otlp.headers_file", .. }), "{error}");
        let error = connect(&|config| config.headers = vec![("x y".into(), Secret::new("s3cret"))]);
        assert!(matches!(error, OtlpSetupError::Header { key: "otlp.headers", pair: 1 }), "{error}");
        assert!(!error.to_string().contains("s3cret"));
    }
}
