//! A simulated Firehose stream against an endpoint that answers in every way.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::export::decode;
use cognito_auth_simulator::export::ExportSettings;
use cognito_auth_simulator::firehose::{FirehoseSettings, FirehoseStream, RecordForm};
use cognito_auth_simulator::world::{SimulatedPool, World};
use cognito_auth_simulator::{Options, Simulation};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const POOL: &str = "eu-west-1_Example";
const STREAM: &str = "cognito";
const NOW: UnixMillis = UnixMillis(1_750_000_000_000);

/// What the endpoint does with a request.
#[derive(Clone, Copy)]
enum Reaction {
    Accept,
    Status(u16),
    /// Status 200 with this body.
    Body(&'static str),
    /// It closes the connection without an answer.
    Close,
}

/// A request as the endpoint has received it.
#[derive(Clone, Debug)]
struct Received {
    headers: BTreeMap<String, String>,
    body: Value,
}

impl Received {
    fn id(&self) -> &str {
        &self.headers["x-amz-firehose-request-id"]
    }

    /// The data of the records.
    fn data(&self) -> Vec<Vec<u8>> {
        let records = self.body["records"].as_array().unwrap();
        records.iter().map(|record| STANDARD.decode(record["data"].as_str().unwrap()).unwrap()).collect()
    }

    /// The EventIds of all records.
    fn event_ids(&self) -> Vec<String> {
        let documents = self.data().into_iter().map(|data| decode(&data, 1 << 20));
        documents.flat_map(|document| document.events).map(|exported| exported.event.id.unwrap()).collect()
    }
}

/// An endpoint with planned reactions. After the last it accepts everything.
struct Endpoint {
    addr: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    _task: tokio::task::JoinSet<()>,
}

impl Endpoint {
    async fn start(reactions: &[Reaction]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(vec![]));
        let planned = Arc::new(Mutex::new(reactions.iter().copied().collect::<VecDeque<_>>()));
        let mut task = tokio::task::JoinSet::new();
        let seen = Arc::clone(&received);
        task.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service_fn(|request| answer(request, &seen, &planned));
                // The error is that of a connection that was to be closed.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
        Self { addr, received, _task: task }
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }
}

async fn answer(
    request: hyper::Request<hyper::body::Incoming>,
    received: &Mutex<Vec<Received>>,
    planned: &Mutex<VecDeque<Reaction>>,
) -> Result<hyper::Response<Full<bytes::Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let mut body = body.collect().await.unwrap().to_bytes().to_vec();
    let headers: BTreeMap<_, _> =
        head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    if headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        let mut inflated = vec![];
        flate2::read::GzDecoder::new(&*body).read_to_end(&mut inflated).unwrap();
        body = inflated;
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let id = body["requestId"].clone();
    received.lock().push(Received { headers, body });
    let reaction = planned.lock().pop_front().unwrap_or(Reaction::Accept);
    let (status, body) = match reaction {
        Reaction::Accept => (200, json!({"requestId": id, "timestamp": 1_750_000_000_000_i64}).to_string()),
        Reaction::Status(status) => (status, json!({"requestId": id, "errorMessage": "no"}).to_string()),
        Reaction::Body(body) => (200, body.to_owned()),
        Reaction::Close => return Err(std::io::Error::other("closed")),
    };
    let response = hyper::Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::new(bytes::Bytes::from(body))).unwrap())
}

/// A simulation whose pool exports to a stream that delivers to the endpoint at once, with short waits.
async fn delivering(endpoint: &Endpoint, change: impl FnOnce(&mut FirehoseSettings)) -> Simulation {
    let mut settings = FirehoseSettings::to_endpoint(&format!("http://{}/path", endpoint.addr), "key with \"signs\"");
    settings.buffer_for = Duration::ZERO;
    settings.first_wait = Duration::from_millis(1);
    settings.wait_max = Duration::from_millis(4);
    change(&mut settings);
    let simulation = Simulation::start(Options::still(NOW)).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ada");
        world.add_firehose(FirehoseStream::new(STREAM, "eu-west-1", "111122223333", settings));
        world.export_events(POOL, ExportSettings::to_firehose(STREAM));
    });
    simulation.deliver_firehose(STREAM);
    simulation
}

/// Adds sign-ins of ada. Returns their EventIds.
fn sign_ins(world: &mut World, count: usize) -> Vec<String> {
    (0..count)
        .map(|_| {
            let event = world.sign_in(world.now());
            world.arrive(POOL, "ada", &event);
            event.id.unwrap()
        })
        .collect()
}

async fn until_delivered(simulation: &Simulation, records: u64) {
    simulation.until(|world| world.firehose(STREAM).delivered() == records).await;
}

#[tokio::test]
async fn a_request_has_the_documented_headers_and_body() {
    let endpoint = Endpoint::start(&[]).await;
    let attributes = r#"{"commonAttributes":{"a":"b"}}"#;
    let simulation = delivering(&endpoint, |settings| settings.common_attributes = Some(attributes.to_owned())).await;
    let ids = simulation.world(|world| sign_ins(world, 3));
    until_delivered(&simulation, 3).await;
    let received = endpoint.received();
    assert_eq!(received.len(), 1);
    let Received { headers, body } = &received[0];
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-amz-firehose-protocol-version", "1.0"),
        ("x-amz-firehose-source-arn", "arn:aws:firehose:eu-west-1:111122223333:deliverystream/cognito"),
        ("x-amz-firehose-access-key", "key with \"signs\""),
        ("x-amz-firehose-common-attributes", attributes),
    ] {
        assert_eq!(headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(headers.contains_key("content-length") && !headers.contains_key("content-encoding"));
    assert_eq!((body["requestId"].as_str(), &body["timestamp"]), (Some(received[0].id()), &json!(NOW.0)));
    assert_eq!(received[0].event_ids(), ids);
}

#[tokio::test]
async fn gzip_and_every_form_of_a_record_carry_the_same_events() {
    for (form, records) in [(RecordForm::Single, 5), (RecordForm::Concatenated(2), 3), (RecordForm::Subscription(3), 2)]
    {
        let endpoint = Endpoint::start(&[]).await;
        let simulation = delivering(&endpoint, |settings| (settings.gzip, settings.form) = (true, form)).await;
        let ids = simulation.world(|world| sign_ins(world, 5));
        until_delivered(&simulation, 5).await;
        let received = endpoint.received();
        assert_eq!(received[0].headers["content-encoding"], "gzip");
        assert_eq!(received[0].data().len(), records, "{form:?}");
        assert_eq!(received[0].event_ids(), ids, "{form:?}");
    }
}

#[tokio::test]
async fn anything_but_a_documented_success_is_retried_with_the_same_id() {
    let reactions =
        [Reaction::Status(503), Reaction::Close, Reaction::Body("{}"), Reaction::Status(401), Reaction::Body("<html>")];
    let endpoint = Endpoint::start(&reactions).await;
    let simulation = delivering(&endpoint, |_| {}).await;
    let ids = simulation.world(|world| sign_ins(world, 2));
    until_delivered(&simulation, 2).await;
    let received = endpoint.received();
    assert_eq!(received.len(), 6);
    assert!(received.iter().all(|request| request.id() == received[0].id() && request.event_ids() == ids));
    let statuses: Vec<_> =
        simulation.world(|world| world.firehose(STREAM).attempts().map(|attempt| attempt.status).collect());
    assert_eq!(statuses, [Some(503), None, Some(200), Some(401), Some(200), Some(200)]);
    let faults =
        simulation.world(|world| world.firehose(STREAM).attempts().filter(|attempt| attempt.fault.is_some()).count());
    assert_eq!(faults, 5);
}

#[tokio::test]
async fn after_the_retries_the_records_are_in_the_backup_and_can_be_replayed() {
    let endpoint = Endpoint::start(&[Reaction::Status(503)]).await;
    let simulation = delivering(&endpoint, |settings| settings.retry_for = Duration::ZERO).await;
    let ids = simulation.world(|world| sign_ins(world, 2));
    simulation.until(|world| world.firehose(STREAM).backup().len() == 2).await;
    assert_eq!(endpoint.received().len(), 1);
    simulation.world(|world| {
        let now = world.now();
        world.firehose_mut(STREAM).replay_backup(now);
    });
    until_delivered(&simulation, 2).await;
    let received = endpoint.received();
    assert_ne!(received[0].id(), received[1].id());
    assert_eq!(received[1].event_ids(), ids);
}

#[tokio::test]
async fn records_that_are_too_large_are_lost_at_once() {
    let endpoint = Endpoint::start(&[Reaction::Status(413)]).await;
    let simulation = delivering(&endpoint, |_| {}).await;
    simulation.world(|world| sign_ins(world, 2));
    simulation.until(|world| world.firehose(STREAM).lost().len() == 2).await;
    simulation.world(|world| assert!(world.firehose(STREAM).backup().is_empty()));
    let next = simulation.world(|world| sign_ins(world, 1));
    until_delivered(&simulation, 1).await;
    let received = endpoint.received();
    assert_eq!((received.len(), received[1].event_ids()), (2, next));
}

#[tokio::test]
async fn an_accepted_request_may_come_again() {
    let endpoint = Endpoint::start(&[]).await;
    let simulation = delivering(&endpoint, |settings| (settings.repeated, settings.new_id) = (1.0, 1.0)).await;
    let ids = simulation.world(|world| sign_ins(world, 1));
    until_delivered(&simulation, 1).await;
    let received = endpoint.received();
    assert_eq!(received.len(), 2);
    assert!(received.iter().all(|request| request.event_ids() == ids));
    assert_ne!(received[0].id(), received[1].id());
}

#[tokio::test]
async fn the_endpoint_can_move_while_a_request_is_retried() {
    let (gone, endpoint) = (Endpoint::start(&[]).await, Endpoint::start(&[]).await);
    let simulation = delivering(&gone, |settings| settings.endpoint = "http://127.0.0.1:1/".into()).await;
    let ids = simulation.world(|world| sign_ins(world, 1));
    simulation.until(|world| world.firehose(STREAM).attempts().len() > 1).await;
    simulation.world(|world| world.firehose_mut(STREAM).settings.endpoint = format!("http://{}/", endpoint.addr));
    until_delivered(&simulation, 1).await;
    assert_eq!(endpoint.received()[0].event_ids(), ids);
}

#[tokio::test]
async fn a_record_waits_for_its_delay_and_for_the_buffer() {
    let endpoint = Endpoint::start(&[]).await;
    let simulation = delivering(&endpoint, |settings| {
        settings.buffer_for = Duration::from_secs(900);
        settings.buffer_bytes = 1500;
    })
    .await;
    simulation.world(|world| {
        let delay = Duration::from_secs(5)..=Duration::from_secs(5);
        let export = world.pool_mut(POOL).export_mut().unwrap();
        export.settings.delay = delay;
        sign_ins(world, 4);
        assert_eq!(world.firehose(STREAM).waiting(), 4);
        world.advance(Duration::from_secs(5));
    });
    // A record has between 500 and 1500 bytes: the buffer is delivered as often as it is full.
    simulation.until(|world| world.firehose(STREAM).waiting() <= 1).await;
    assert!(endpoint.received().iter().all(|request| !request.event_ids().is_empty()));
}
