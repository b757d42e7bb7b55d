//! The endpoint for Data Firehose over real sockets on loopback, with an intake that collects, refuses or blocks.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::export::DecodedDocument;
use cognito_auth_exporter::config::FirehoseConfig;
use cognito_auth_exporter::export::firehose::FirehoseServer;
use cognito_auth_exporter::export::{Intake, NotTaken};
use cognito_auth_exporter::lifecycle::{Clock, Duty, Lifecycle, RunOutcome};
use cognito_auth_exporter::metrics::Metrics;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

use crate::exporter::PATIENCE;
use crate::peers;
use crate::web::{TLS, folder};

const SAMPLE: &str = include_str!("samples/06-constructed-firehose-request.json");
const SAMPLE_ID: &str = "ed4acda5-034f-9f42-bba1-f29aea6d7d8f";
const SAMPLE_EVENT: &str = "a1b2c3d4-5678-90ab-cdef-EXAMPLE11111";
const KEY: &str = "a key of the tests";
const NOW: UnixMillis = UnixMillis(1_723_136_049_929);

/// An intake that collects what it takes. It can refuse, and it waits while its gate is closed.
struct StubIntake {
    taken: Mutex<Vec<DecodedDocument>>,
    calls: AtomicUsize,
    events: AtomicUsize,
    refuses: Mutex<Option<NotTaken>>,
    gate: Semaphore,
    keeps: bool,
}

impl StubIntake {
    fn new(keeps: bool) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::default(),
            calls: AtomicUsize::new(0),
            events: AtomicUsize::new(0),
            refuses: Mutex::default(),
            gate: Semaphore::new(1000),
            keeps,
        })
    }

    /// Lets calls wait until [`Self::open`].
    async fn close(&self) {
        self.gate.acquire_many(1000).await.unwrap().forget();
    }

    fn open(&self) {
        self.gate.add_permits(1000);
    }

    fn refuse(&self, not_taken: impl Into<Option<NotTaken>>) {
        *self.refuses.lock().unwrap() = not_taken.into();
    }

    fn event_ids(&self) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        let events = taken.iter().flat_map(|document| &document.events);
        events.map(|event| event.event.id.clone().unwrap()).collect()
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn until_called(&self, calls: usize) {
        while self.calls() < calls {
            tokio::task::yield_now().await;
        }
    }
}

impl Intake for StubIntake {
    async fn take(&self, documents: Vec<DecodedDocument>, received: UnixMillis) -> Result<(), NotTaken> {
        assert_eq!(received, NOW);
        self.calls.fetch_add(1, Ordering::SeqCst);
        let _permit = self.gate.acquire().await.unwrap();
        if let Some(not_taken) = self.refuses.lock().unwrap().clone() {
            return Err(not_taken);
        }
        let events: usize = documents.iter().map(|document| document.events.len()).sum();
        self.events.fetch_add(events, Ordering::SeqCst);
        if self.keeps {
            self.taken.lock().unwrap().extend(documents);
        }
        Ok(())
    }
}

/// An endpoint that runs beside the test.
struct EndpointUnderTest {
    address: SocketAddr,
    intake: Arc<StubIntake>,
    metrics: Metrics,
    lifecycle: Lifecycle,
    folder: TempDir,
}

fn config(folder: &Path) -> FirehoseConfig {
    std::fs::write(folder.join("keys"), format!("an older key\n{KEY}\n")).unwrap();
    FirehoseConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        access_keys_file: folder.join("keys"),
        web_config_file: None,
    }
}

impl EndpointUnderTest {
    async fn new() -> Self {
        Self::with(tempfile::tempdir().unwrap(), None, true).await
    }

    async fn with(folder: TempDir, web: Option<&str>, keeps: bool) -> Self {
        let mut config = config(folder.path());
        if let Some(web) = web {
            let file = folder.path().join("web.yml");
            std::fs::write(&file, web).unwrap();
            config.web_config_file = Some(file);
        }
        let server = FirehoseServer::bind(&config).await.unwrap();
        assert_eq!(server.scheme(), if web.is_some() { "https" } else { "http" });
        let address = server.local_addr().unwrap();
        let (intake, metrics, lifecycle) = (StubIntake::new(keeps), Metrics::new(NOW), Lifecycle::new());
        let stops = lifecycle.stops(Duty::Gather).clone();
        let serving = server.serve(intake.clone(), metrics.clone(), Clock::manual(NOW), stops);
        lifecycle.spawn(Duty::Gather, "firehose", serving);
        Self { address, intake, metrics, lifecycle, folder }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a request on a new connection, and returns the answer.
    async fn ask(&self, request: &FirehoseSender) -> EndpointReply {
        let mut stream = self.connect().await;
        stream.write_all(&request.bytes("close")).await.unwrap();
        EndpointReply::read(&mut stream).await
    }

    fn counted(&self, outcome: &str) -> u64 {
        let line = format!("cognito_exporter_firehose_requests_total{{outcome=\"{outcome}\"}} ");
        let metrics = self.metrics.render();
        metrics.lines().find_map(|shown| shown.strip_prefix(&line)).unwrap().parse().unwrap()
    }
}

/// A request as Firehose sends it, unless a test changes it.
#[derive(Clone, Debug)]
struct FirehoseSender {
    method: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl FirehoseSender {
    fn new(id: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = [
            ("X-Amz-Firehose-Protocol-Version", "1.0"),
            ("X-Amz-Firehose-Request-Id", id),
            ("X-Amz-Firehose-Source-Arn", "arn:aws:firehose:eu-west-1:123456789012:deliverystream/events"),
            ("X-Amz-Firehose-Access-Key", KEY),
            ("Content-Type", "application/json"),
        ];
        let headers = headers.map(|(name, value)| (name, value.to_owned())).into();
        Self { method: "POST", headers, body: body.into() }
    }

    fn sample() -> Self {
        Self::new(SAMPLE_ID, SAMPLE)
    }

    /// A request with records of these data.
    fn of(records: &[impl AsRef<[u8]>]) -> Self {
        let records: Vec<Value> = records.iter().map(|data| json!({ "data": STANDARD.encode(data) })).collect();
        Self::new("an id", json!({ "requestId": "an id", "timestamp": 1, "records": records }).to_string())
    }

    /// Sets a header, or removes it.
    fn with(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.extend(value.map(|value| (name, value.to_owned())));
        self
    }

    fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    fn head(&self, connection: &str, length: impl std::fmt::Display) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!(
            "{} /any/path HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n{headers}{length}\r\n\r\n",
            self.method
        )
    }

    fn bytes(&self, connection: &str) -> Vec<u8> {
        let head = self.head(connection, format_args!("Content-Length: {}", self.body.len()));
        [head.as_bytes(), &self.body].concat()
    }
}

#[derive(PartialEq, Debug)]
struct EndpointReply {
    status: u16,
    headers: Vec<(String, String)>,
    json: Value,
}

impl EndpointReply {
    async fn read(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Self {
        let mut bytes = vec![];
        loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = std::str::from_utf8(&bytes[..end]).unwrap();
                let (line, headers) = head.split_once("\r\n").unwrap();
                let headers: Vec<(String, String)> = headers
                    .lines()
                    .map(|line| line.split_once(": ").unwrap())
                    .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                    .collect();
                let length = headers.iter().find(|(name, _)| name == "content-length");
                let length: usize = length.map_or(0, |(_, length)| length.parse().unwrap());
                if bytes.len() >= end + 4 + length {
                    let json = serde_json::from_slice(&bytes[end + 4..end + 4 + length]).unwrap_or_default();
                    return Self { status: line.split(' ').nth(1).unwrap().parse().unwrap(), headers, json };
                }
            }
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "the answer ends early: {bytes:?}");
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The status, and the errorMessage of an answer that has the form that Firehose requires.
    fn told(&self, id: &str) -> (u16, &str) {
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!((self.header("content-encoding"), self.header("transfer-encoding")), (None, None));
        assert_eq!(self.header("content-length").unwrap(), self.json.to_string().len().to_string());
        let error = self.json["errorMessage"].as_str();
        let mut whole = json!({ "requestId": id, "timestamp": NOW.0 });
        if self.status != 200 {
            whole["errorMessage"] = error.unwrap().into();
        }
        assert_eq!(self.json, whole);
        (self.status, error.unwrap_or_default())
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A record of the export, as Cognito sends it.
fn record(event_id: &str) -> String {
    let sample: Value = serde_json::from_str(SAMPLE).unwrap();
    let record = STANDARD.decode(sample["records"][0]["data"].as_str().unwrap()).unwrap();
    String::from_utf8(record).unwrap().replace(SAMPLE_EVENT, event_id)
}

#[tokio::test]
async fn the_sample_is_taken_and_answered_exactly_as_firehose_requires() {
    let world = EndpointUnderTest::new().await;
    let reply = world.ask(&FirehoseSender::sample()).await;
    assert_eq!(reply.told(SAMPLE_ID), (200, ""));
    assert_eq!(world.intake.event_ids(), [SAMPLE_EVENT]);
    assert_eq!(["ok", "unauthorized", "invalid", "busy"].map(|outcome| world.counted(outcome)), [1, 0, 0, 0]);
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let world = EndpointUnderTest::new().await;
    let mut stream = world.connect().await;
    let refused = FirehoseSender::sample().with("X-Amz-Firehose-Protocol-Version", Some("2.0")).body("");
    for (request, status) in [
        (FirehoseSender::sample(), 200),
        (refused, 400),
        (FirehoseSender::sample().with("Content-Encoding", Some("gzip")).body(gzip(SAMPLE.as_bytes())), 200),
    ] {
        stream.write_all(&request.bytes("keep-alive")).await.unwrap();
        assert_eq!(EndpointReply::read(&mut stream).await.told(SAMPLE_ID).0, status);
    }
    assert_eq!(world.intake.event_ids().len(), 2);
}

#[tokio::test]
async fn records_of_every_form_are_taken_whatever_the_others_are() {
    let world = EndpointUnderTest::new().await;
    let messages: Vec<Value> = ["c", "d"].map(|id| json!({ "id": "1", "timestamp": 1, "message": record(id) })).into();
    let subscription = json!({ "messageType": "DATA_MESSAGE", "owner": "1", "logEvents": messages }).to_string();
    let mut request = FirehoseSender::of(&[
        format!("{}{}", record("a"), record("b")).into_bytes(),
        gzip(subscription.as_bytes()),
        b"no JSON".to_vec(),
        gzip(br#"{"messageType":"CONTROL_MESSAGE"}"#),
        record("e").into_bytes(),
    ]);
    let text = String::from_utf8(request.body).unwrap().replacen("{\"data\":", "{\"data\":\"%\"},{\"data\":", 1);
    request.body = text.into_bytes();
    assert_eq!(world.ask(&request).await.told("an id"), (200, ""));
    assert_eq!(world.intake.event_ids(), ["a", "b", "c", "d", "e"]);
    let taken = world.intake.taken.lock().unwrap();
    let unreadable: Vec<_> = taken.iter().flat_map(|document| &document.unreadable).collect();
    let unreadable: Vec<_> = unreadable.iter().map(|record| (&*record.bytes, record.reason.to_string())).collect();
    let expected = [(&b"%"[..], "the base64 is damaged".to_owned()), (b"no JSON", "not JSON".to_owned())];
    assert_eq!(unreadable, expected);
}

#[tokio::test]
async fn a_wrong_or_missing_key_is_answered_401_whatever_else_is_wrong() {
    let world = EndpointUnderTest::new().await;
    let older = FirehoseSender::sample().with("X-Amz-Firehose-Access-Key", Some("an older key"));
    assert_eq!(world.ask(&older).await.status, 200);
    for key in [None, Some(""), Some("a key"), Some("a key of the tests and more"), Some("A key of the tests")] {
        let request = FirehoseSender::sample().with("X-Amz-Firehose-Access-Key", key);
        for request in [request.clone(), request.clone().method("GET"), request.body("no JSON")] {
            let reply = world.ask(&request).await;
            assert_eq!(reply.told(SAMPLE_ID), (401, "the access key is wrong or missing"), "{key:?}");
        }
    }
    let nameless = FirehoseSender::new("", "").with("X-Amz-Firehose-Access-Key", None);
    assert_eq!(world.ask(&nameless).await.told("").0, 401);
    assert_eq!((world.counted("unauthorized"), world.intake.calls()), (16, 1));
}

#[tokio::test]
async fn a_malformed_request_is_answered_400_and_says_why_without_a_quotation() {
    let world = EndpointUnderTest::new().await;
    let sample = FirehoseSender::sample;
    for (request, told) in [
        (sample().method("GET"), "the method is not POST"),
        (sample().method("PUT"), "the method is not POST"),
        (sample().with("X-Amz-Firehose-Protocol-Version", None), "X-Amz-Firehose-Protocol-Version is not 1.0"),
        (sample().with("X-Amz-Firehose-Protocol-Version", Some("1.1")), "X-Amz-Firehose-Protocol-Version is not 1.0"),
        (sample().with("Content-Encoding", Some("br")), "Content-Encoding is neither gzip nor identity"),
        (sample().with("Content-Encoding", Some("gzip")), "the gzip of the body is damaged"),
        (
            sample().body(SAMPLE.replace("ed4a", "ed4b")),
            "the requestId of the body differs from X-Amz-Firehose-Request-Id",
        ),
        (sample().body(""), "the body is no JSON of a Data Firehose delivery"),
        (sample().body(r#"{"secret": sEcReT}"#), "the body is no JSON of a Data Firehose delivery"),
    ] {
        assert_eq!(world.ask(&request).await.told(SAMPLE_ID), (400, told));
    }
    let reply = world.ask(&sample().with("X-Amz-Firehose-Request-Id", None)).await;
    assert_eq!(reply.told(""), (400, "X-Amz-Firehose-Request-Id is missing or is no request id"));
    assert_eq!((world.counted("invalid"), world.intake.calls()), (10, 0));
}

#[tokio::test]
async fn an_oversized_request_is_answered_400_and_never_413() {
    let world = EndpointUnderTest::new().await;
    let many = FirehoseSender::of(&vec![b" "; 10_001]);
    let large = FirehoseSender::of(&[vec![b' '; 1_024_001]]);
    for (request, told) in
        [(many, "the body has more than 10000 records"), (large, "a record is larger than 1024000 bytes")]
    {
        assert_eq!(world.ask(&request).await.told("an id"), (400, told));
    }
    // The head alone is enough.
    let mut stream = world.connect().await;
    let head = FirehoseSender::new("an id", "").head("close", format_args!("Content-Length: {}", (88 << 20) + 1));
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(EndpointReply::read(&mut stream).await.told("an id"), (400, "the body is larger than 88 MiB"));
    // And so is a body of unknown length, while it streams. The client stops when the answer is there.
    for (start, piece, told) in [
        ("{\"requestId\":\"an id\",\"records\":[", " ", "the body is larger than 88 MiB"),
        ("{\"requestId\":\"an id\",\"records\":[{\"data\":\"", "A", "a record is larger than 1024000 bytes"),
        ("{\"x\":\"", "A", "the body is no JSON of a Data Firehose delivery"),
    ] {
        let stream = world.connect().await;
        let (mut answers, mut sending) = stream.into_split();
        let head = FirehoseSender::new("an id", "").head("close", "Transfer-Encoding: chunked");
        sending.write_all(format!("{head}{:x}\r\n{start}\r\n", start.len()).as_bytes()).await.unwrap();
        let chunk = format!("10000\r\n{}\r\n", piece.repeat(0x10000));
        let send = async {
            while sending.write_all(chunk.as_bytes()).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            reply = EndpointReply::read(&mut answers) => assert_eq!(reply.told("an id"), (400, told)),
            () = send => unreachable!("it sends until the answer is there"),
        }
    }
    assert_eq!(world.intake.calls(), 0);
}

#[tokio::test]
async fn what_cannot_be_taken_is_answered_503_and_taken_when_it_is_sent_again() {
    let world = EndpointUnderTest::new().await;
    for (not_taken, told) in [
        (NotTaken::OutboxFull, "the outbox is full"),
        (NotTaken::Ledger("no space left in /secret/place".to_owned()), "the ledger cannot be written"),
        (NotTaken::Stopping, "the exporter stops"),
    ] {
        world.intake.refuse(not_taken);
        assert_eq!(world.ask(&FirehoseSender::sample()).await.told(SAMPLE_ID), (503, told));
    }
    assert!(world.intake.event_ids().is_empty());
    world.intake.refuse(None);
    assert_eq!(world.ask(&FirehoseSender::sample()).await.status, 200);
    assert_eq!(world.intake.event_ids(), [SAMPLE_EVENT]);
    assert_eq!((world.counted("busy"), world.counted("ok")), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_200_waits_for_the_intake_and_the_ninth_request_does_not_wait() {
    let world = EndpointUnderTest::new().await;
    world.intake.close().await;
    let mut waiting = vec![];
    for _ in 0..8 {
        let mut stream = world.connect().await;
        stream.write_all(&FirehoseSender::sample().bytes("close")).await.unwrap();
        waiting.push(stream);
    }
    let told = loop {
        // The eight may not have been admitted yet. A ninth that is admitted before them is dropped, which frees its
        // place.
        let ninth = FirehoseSender::sample();
        if let Ok(reply) = tokio::time::timeout(Duration::from_millis(200), world.ask(&ninth)).await {
            break reply;
        }
    };
    assert_eq!(told.told(SAMPLE_ID), (503, "too many requests at a time"));
    assert!(world.intake.event_ids().is_empty());
    world.intake.open();
    for mut stream in waiting {
        assert_eq!(EndpointReply::read(&mut stream).await.status, 200);
    }
}

#[tokio::test]
async fn a_large_request_is_taken_in_batches_and_one_that_is_refused_ends_it() {
    let world = EndpointUnderTest::new().await;
    let records: Vec<String> =
        (0..20).map(|id| format!("{}{}", record(&id.to_string()), " ".repeat(500_000))).collect();
    let request = FirehoseSender::of(&records);
    assert_eq!(world.ask(&request).await.told("an id"), (200, ""));
    let ids: Vec<String> = (0..20).map(|id| id.to_string()).collect();
    assert_eq!((world.intake.event_ids(), world.intake.calls()), (ids, 3), "20 records of half a megabyte");
    world.intake.refuse(NotTaken::OutboxFull);
    assert_eq!(world.ask(&request).await.status, 503);
    assert_eq!(world.intake.calls(), 4);
}

#[tokio::test]
async fn a_record_inflates_within_limits_and_is_unreadable_beyond_them() {
    let world = EndpointUnderTest::new().await;
    let bomb = gzip(&vec![b' '; (16 << 20) + 1]);
    let request = FirehoseSender::of(&[bomb.clone(), record("a").into_bytes()]);
    assert_eq!(world.ask(&request).await.status, 200);
    assert_eq!(world.intake.event_ids(), ["a"]);
    let taken = world.intake.taken.lock().unwrap();
    let unreadable: Vec<_> = taken.iter().flat_map(|document| &document.unreadable).collect();
    assert_eq!((unreadable.len(), &unreadable[0].bytes), (1, &bomb), "as it came");
}

#[tokio::test]
async fn a_body_of_unknown_length_arrives_in_any_pieces() {
    let world = EndpointUnderTest::new().await;
    let mut stream = world.connect().await;
    let head = FirehoseSender::sample().head("close", "Transfer-Encoding: chunked");
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in SAMPLE.as_bytes().chunks(7) {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        stream.write_all(&chunk).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(EndpointReply::read(&mut stream).await.told(SAMPLE_ID), (200, ""));
    assert_eq!(world.intake.event_ids(), [SAMPLE_EVENT]);
}

/// A body without a key. The head asks whether to send it, so an answer without `100 Continue` shows that the server
/// read nothing of it.
#[tokio::test]
async fn without_a_key_no_byte_of_a_body_is_read() {
    let world = EndpointUnderTest::new().await;
    let stranger = FirehoseSender::sample().with("X-Amz-Firehose-Access-Key", None);
    let asking = stranger.clone().with("Expect", Some("100-continue"));
    let mut stream = world.connect().await;
    stream.write_all(asking.head("keep-alive", "Content-Length: 67108864").as_bytes()).await.unwrap();
    let reply = EndpointReply::read(&mut stream).await;
    assert_eq!((reply.status, reply.header("connection")), (401, Some("close")));
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    // A client that sends before it reads finds the answer, too, and no broken connection.
    let mut stream = world.connect().await;
    let body = vec![b'x'; 4 << 20];
    stream.write_all(&stranger.body(body).bytes("keep-alive")).await.unwrap();
    assert_eq!(EndpointReply::read(&mut stream).await.status, 401);
    // A client that never stops is cut.
    let mut stream = world.connect().await;
    let head = FirehoseSender::sample().with("X-Amz-Firehose-Access-Key", None);
    stream.write_all(head.head("close", "Transfer-Encoding: chunked").as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let cut = async { while stream.write_all(chunk.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, cut).await.unwrap();
    assert_eq!(world.intake.calls(), 0);
}

#[tokio::test]
async fn a_head_without_end_is_refused_and_a_long_one_is_not() {
    let world = EndpointUnderTest::new().await;
    let attributes = |bytes: usize| "x".repeat(bytes);
    let longest = FirehoseSender::sample().with("X-Amz-Firehose-Common-Attributes", Some(&attributes(64 << 10)));
    assert_eq!(world.ask(&longest).await.status, 200);
    let endless = FirehoseSender::sample().with("X-Amz-Firehose-Common-Attributes", Some(&attributes(100 << 10)));
    assert_eq!(world.ask(&endless).await.status, 431);
}

#[tokio::test]
async fn a_crowd_without_a_key_keeps_firehose_from_nothing() {
    let world = EndpointUnderTest::new().await;
    let head = FirehoseSender::sample().with("X-Amz-Firehose-Access-Key", None).head("keep-alive", "Content-Length: 9");
    let mut crowd = vec![];
    for number in 0..300 {
        let mut stream = world.connect().await;
        // The server may have closed the connection.
        let _ = stream.write_all(&head.as_bytes()[..number % (head.len() + 1)]).await;
        crowd.push(stream);
        if number % 100 == 99 {
            assert_eq!(world.ask(&FirehoseSender::sample()).await.status, 200, "beside {number} others");
        }
    }
}

#[tokio::test]
async fn a_crowd_that_does_not_read_its_answers_keeps_firehose_from_nothing() {
    let world = EndpointUnderTest::new().await;
    let stranger = FirehoseSender::new("an id", "").with("X-Amz-Firehose-Access-Key", None).bytes("keep-alive");
    let mut crowd = vec![];
    for number in 0..200 {
        let mut stream = world.connect().await;
        let _ = stream.write_all(&stranger.repeat(20)).await;
        crowd.push(stream);
        if number % 50 == 49 {
            assert_eq!(world.ask(&FirehoseSender::sample()).await.status, 200, "beside {number} others");
        }
    }
}

/// The runtime's clock is paused and advances by itself as soon as every task waits.
#[tokio::test(start_paused = true)]
async fn a_head_or_a_body_that_stops_arriving_ends_in_time() {
    let world = EndpointUnderTest::new().await;
    let began = tokio::time::Instant::now();
    let mut stream = world.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
    let _ = stream.read_to_end(&mut vec![]).await;
    assert!(began.elapsed() <= Duration::from_secs(77), "{:?}", began.elapsed());
    let began = tokio::time::Instant::now();
    let mut stream = world.connect().await;
    let head = FirehoseSender::sample().head("keep-alive", format_args!("Content-Length: {}", SAMPLE.len()));
    stream.write_all(&[head.as_bytes(), &SAMPLE.as_bytes()[..100]].concat()).await.unwrap();
    let reply = EndpointReply::read(&mut stream).await;
    assert_eq!(reply.told(SAMPLE_ID), (400, "the body did not arrive in time"));
    assert!(began.elapsed() <= Duration::from_secs(32), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_intake_that_never_answers_is_answered_for_before_firehose_gives_up() {
    let world = EndpointUnderTest::new().await;
    world.intake.close().await;
    let began = tokio::time::Instant::now();
    let reply = world.ask(&FirehoseSender::sample()).await;
    assert_eq!(reply.told(SAMPLE_ID), (503, "the records could not be written in time"));
    assert!(began.elapsed() < Duration::from_secs(180), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place() {
    let world = EndpointUnderTest::new().await;
    for _ in 0..20 {
        let mut stream = world.connect().await;
        let head = FirehoseSender::sample().head("keep-alive", format_args!("Content-Length: {}", SAMPLE.len()));
        stream.write_all(&[head.as_bytes(), &SAMPLE.as_bytes()[..100]].concat()).await.unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while world.ask(&FirehoseSender::sample()).await.status != 200 {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

impl EndpointUnderTest {
    /// Stops as a signal does. Returns how that ended.
    async fn stop(&self) -> RunOutcome {
        let (signal, mut signals) = mpsc::channel(1);
        signal.send("SIGTERM").await.unwrap();
        let next_signal = async || match signals.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        };
        self.lifecycle.run(next_signal, || (), async {}).await
    }
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_refuses_what_comes() {
    let world = EndpointUnderTest::new().await;
    world.intake.close().await;
    let mut in_flight = world.connect().await;
    in_flight.write_all(&FirehoseSender::sample().bytes("keep-alive")).await.unwrap();
    world.intake.until_called(1).await;
    let watch = async {
        world.lifecycle.stops(Duty::Gather).soft.cancelled().await;
        let reply = world.ask(&FirehoseSender::sample()).await;
        assert_eq!(reply.told(SAMPLE_ID), (503, "the exporter stops"));
        let stranger = FirehoseSender::sample().with("X-Amz-Firehose-Access-Key", None);
        assert_eq!(world.ask(&stranger).await.status, 401);
        world.intake.open();
        assert_eq!(EndpointReply::read(&mut in_flight).await.told(SAMPLE_ID), (200, ""));
    };
    let (outcome, ()) = tokio::join!(world.stop(), watch);
    assert_eq!(outcome, RunOutcome::Stopped);
    assert_eq!(world.intake.event_ids(), [SAMPLE_EVENT]);
    // A process that another test starts holds a copy of the listener until it runs its program.
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(world.address).await.is_ok() {
        assert!(Instant::now() < deadline, "the port is free again");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_longer_than_its_time() {
    let world = EndpointUnderTest::new().await;
    world.intake.close().await;
    let mut in_flight = world.connect().await;
    in_flight.write_all(&FirehoseSender::sample().bytes("keep-alive")).await.unwrap();
    world.intake.until_called(1).await;
    let (outcome, reply) = tokio::join!(world.stop(), EndpointReply::read(&mut in_flight));
    assert_eq!(outcome, RunOutcome::Stopped);
    assert_eq!(reply.told(SAMPLE_ID), (503, "the exporter stops"));
}

#[tokio::test]
async fn keys_are_rotated_without_a_restart_and_a_broken_file_changes_nothing() {
    let world = EndpointUnderTest::new().await;
    let ask = async |key: &str| {
        world.ask(&FirehoseSender::sample().with("X-Amz-Firehose-Access-Key", Some(key))).await.status
    };
    let until = async |key: &str, status: u16| {
        let deadline = Instant::now() + PATIENCE;
        while ask(key).await != status {
            assert!(Instant::now() < deadline, "{status} did not come");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let write = |text: &str| std::fs::write(world.folder.path().join("keys"), text).unwrap();
    write(&format!("{KEY}\nthe next key\n"));
    until("the next key", 200).await;
    assert_eq!((ask(KEY).await, ask("an older key").await), (200, 401));
    write("\n");
    write("the next key\n");
    until(KEY, 401).await;
    assert_eq!(ask("the next key").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_delivers_the_sample_over_tls() {
    if !peers::has("curl") {
        return;
    }
    let world = EndpointUnderTest::with(folder(), Some(TLS), true).await;
    let port = world.address.port();
    let curl = |key: &str, compressed: bool| {
        let mut command = Command::new("curl");
        command
            .current_dir(world.folder.path())
            .args(["--silent", "--include", "--max-time", "60", "--noproxy", "*", "--cacert", "ca.pem"])
            .args(["--connect-to", &format!("localhost:{port}:127.0.0.1:{port}"), "--data-binary", "@-"])
            .args(["--header", "X-Amz-Firehose-Protocol-Version: 1.0"])
            .args(["--header", &format!("X-Amz-Firehose-Request-Id: {SAMPLE_ID}")])
            .args(["--header", &format!("X-Amz-Firehose-Access-Key: {key}")])
            .args(compressed.then_some(["--header", "Content-Encoding: gzip"]).into_iter().flatten())
            .arg(format!("https://localhost:{port}/cognito"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let body = if compressed { gzip(SAMPLE.as_bytes()) } else { SAMPLE.as_bytes().to_vec() };
        child.stdin.take().unwrap().write_all(&body).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    let answered = format!("\r\n\r\n{{\"requestId\":\"{SAMPLE_ID}\",\"timestamp\":{}}}", NOW.0);
    for compressed in [false, true] {
        let answer = curl(KEY, compressed);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(&answered), "{answer}");
    }
    assert!(curl("wrong", false).starts_with("HTTP/1.1 401 Unauthorized\r\n"));
    assert_eq!(world.intake.event_ids(), [SAMPLE_EVENT, SAMPLE_EVENT]);
}

#[tokio::test]
async fn what_the_endpoint_cannot_start_with_is_named() {
    let world = EndpointUnderTest::new().await;
    let bind = async |config: &FirehoseConfig| FirehoseServer::bind(config).await.map(|_| ()).unwrap_err().to_string();
    let good = config(world.folder.path());
    let told = bind(&FirehoseConfig { listen: world.address, ..good.clone() }).await;
    assert!(told.starts_with(&format!("cannot listen on {} (firehose.listen): ", world.address)), "{told}");
    let missing = world.folder.path().join("missing");
    let told = bind(&FirehoseConfig { access_keys_file: missing, ..good.clone() }).await;
    assert!(told.contains("missing (firehose.access_keys_file): cannot read the access keys: "), "{told}");
    let web = world.folder.path().join("web.yml");
    let hash = bcrypt::hash("a", 4).unwrap();
    std::fs::write(&web, format!("basic_auth_users: {{a: {hash}}}\nrate_limit: {{interval: 1s, burst: 1}}\n")).unwrap();
    let told = bind(&FirehoseConfig { web_config_file: Some(web.clone()), ..good }).await;
    let why = "basic_auth_users, rate_limit cannot be used here, because Data Firehose identifies itself by its access \
               key, and repeats what is refused; accepted: tls_server_config and http_server_config";
    assert_eq!(told, format!("{}: {why}", web.display()));
}

/// 64 MiB of records, which neither side holds. The peak memory of this test, run alone, shows what a request takes.
#[tokio::test]
async fn the_largest_request_is_taken_while_it_arrives() {
    let world = EndpointUnderTest::with(tempfile::tempdir().unwrap(), None, false).await;
    let stream = world.connect().await;
    let (mut answers, mut sending) = stream.into_split();
    // Each record holds 800 events.
    let document = format!("{}\n", record("a").trim()).repeat(800);
    let data = format!("{{\"data\":\"{}\"}}", STANDARD.encode(&document));
    let records = (64 << 20) / document.len();
    let send = async {
        let head = FirehoseSender::new("an id", "").head("close", "Transfer-Encoding: chunked");
        sending.write_all(head.as_bytes()).await.unwrap();
        let mut chunk = async |text: &str| {
            sending.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await.unwrap();
        };
        chunk("{\"requestId\":\"an id\",\"timestamp\":1,\"records\":[").await;
        for number in 0..records {
            chunk(&data).await;
            chunk(if number + 1 < records { "," } else { "]}" }).await;
        }
        sending.write_all(b"0\r\n\r\n").await.unwrap();
    };
    let ((), reply) = tokio::join!(send, EndpointReply::read(&mut answers));
    assert_eq!(reply.told("an id"), (200, ""));
    assert_eq!(world.intake.events.load(Ordering::SeqCst), records * 800);
}

/// A request that is right except for what the property changes.
fn request() -> impl Strategy<Value = FirehoseSender> {
    let body = prop_oneof![
        any::<Vec<u8>>(),
        Just(SAMPLE.as_bytes().to_vec()),
        (0..SAMPLE.len(), any::<u8>()).prop_map(|(place, byte)| {
            let mut body = SAMPLE.as_bytes().to_vec();
            body[place] = byte;
            body
        }),
        (0..SAMPLE.len()).prop_map(|end| SAMPLE.as_bytes()[..end].to_vec()),
        "[ -~]{0,100}"
            .prop_map(|data| json!({ "requestId": SAMPLE_ID, "records": [{ "data": data }] }).to_string().into()),
        any::<Vec<u8>>().prop_map(|data| {
            let records = json!([{ "data": STANDARD.encode(data) }]);
            json!({ "requestId": SAMPLE_ID, "records": records }).to_string().into()
        }),
    ];
    let value = || prop_oneof![Just(None), "[ -~]{0,20}".prop_map(Some)];
    let header = prop_oneof![
        4 => Just(None),
        1 => (
            prop::sample::select(vec![
                "X-Amz-Firehose-Protocol-Version",
                "X-Amz-Firehose-Request-Id",
                "X-Amz-Firehose-Access-Key",
                "Content-Encoding",
            ]),
            value(),
        )
            .prop_map(Some),
    ];
    let method = prop_oneof![4 => Just("POST"), 1 => prop::sample::select(vec!["GET", "HEAD", "OPTIONS", "X"])];
    (body, header, any::<bool>(), method).prop_map(|(body, header, is_gzip, method)| {
        let mut request = FirehoseSender::sample().body(body).method(method);
        if is_gzip {
            request.body = gzip(&request.body);
            request = request.with("Content-Encoding", Some("gzip"));
        }
        match header {
            Some((name, value)) => request.with(name, value.as_deref()),
            None => request,
        }
    })
}

/// A runtime with an endpoint, for all cases of a property.
static RUNNING: LazyLock<(tokio::runtime::Runtime, EndpointUnderTest)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let world = runtime.block_on(EndpointUnderTest::new());
    (runtime, world)
});

proptest! {
    #[test]
    fn any_request_is_answered_with_a_status_of_the_contract(request in request()) {
        let (runtime, world) = &*RUNNING;
        let status = runtime.block_on(async {
            let mut stream = world.connect().await;
            stream.write_all(&request.bytes("close")).await.unwrap();
            let mut bytes = vec![];
            stream.read_to_end(&mut bytes).await.unwrap();
            String::from_utf8_lossy(&bytes).split(' ').nth(1).map(str::to_owned)
        });
        let status = status.as_deref().unwrap_or_default();
        prop_assert!(["200", "400", "401", "503"].contains(&status), "{}", status);
        prop_assert!(world.intake.taken.lock().unwrap().drain(..).count() == 0 || status == "200");
    }
}
