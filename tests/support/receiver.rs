//! A real OTLP receiver on loopback that keeps the records it receives and gives the answers that a test sets.
//!
//! ```ignore
//! let receiver = Receiver::http().await;                  // or grpc(), http_tls(&pki), grpc_tls(&pki)
//! // ... something exports to receiver.endpoint() ...
//! receiver.answer_next(Reply::Status(503, "busy"));       // once; then as before
//! receiver.answer_always(Reply::Lost);                    // until told otherwise
//! receiver.answer_by(|records| ...);                      // by what is in the request
//! let records = receiver.wait_for(3).await;               // panics after 30 s
//! receiver.stop().await; receiver.start().await;          // an outage; the address stays
//! receiver.restart_as(Some(&pki)).await;                  // with another certificate; None: without TLS
//! receiver.close_idle().await;                            // as servers do with connections that are not used
//! receiver.limit_messages(20_000).await;                  // over that it refuses them, without having read them
//! ```
//!
//! gRPC is tonic's server, HTTP is hyper's. Both take protobuf and gzip, HTTP takes JSON too.

#![allow(dead_code, unreachable_pub, reason = "shared by test crates, each of which uses its own part")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its receiver fails")]

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use prost::Message as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The timeout of [`Receiver::wait_for`], which then fails the test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The receiver's reaction to a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Keeps the records and acknowledges them.
    Ok,
    /// Keeps the records, and answers that it rejected this many with this reason.
    Partial(i64, &'static str),
    /// gRPC: this code and message; keeps nothing.
    Code(Code, &'static str),
    /// gRPC: this code with RetryInfo; keeps nothing.
    RetryInfo(Code, Option<Duration>),
    /// gRPC: this code with this as its `grpc-status-details-bin`, in the headers or in trailers; keeps nothing.
    Details {
        /// The code.
        code: Code,
        /// The header's value, as it is.
        details: &'static str,
        /// Whether it is in the trailers.
        in_trailers: bool,
    },
    /// HTTP: this status with this text; keeps nothing.
    Status(u16, &'static str),
    /// HTTP: this response; keeps nothing.
    Raw {
        /// The status.
        status: u16,
        /// Headers.
        headers: Vec<(&'static str, &'static str)>,
        /// The body.
        body: &'static str,
    },
    /// Keeps the records and acknowledges them after this delay.
    Slow(Duration),
    /// HTTP: keeps the records and closes the connection in the middle of the answer.
    Cut,
    /// Never answers; keeps nothing.
    Hang,
    /// Closes the connection without an answer; keeps nothing.
    Close,
    /// Keeps the records and closes the connection: the answer is lost.
    Lost,
}

/// A received log record, with its resource and scope.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// Nanoseconds since 1970, 0 for none.
    pub timestamp: u64,
    /// Nanoseconds since 1970.
    pub observed: u64,
    /// EventName.
    pub event_name: String,
    /// SeverityNumber.
    pub severity_number: i32,
    /// SeverityText.
    pub severity_text: String,
    /// The body; arrays and maps as JSON.
    pub body: String,
    /// The record's attributes; arrays and maps as JSON.
    pub attributes: BTreeMap<String, Value>,
    /// The resource's attributes.
    pub resource: BTreeMap<String, Value>,
    /// The scope's name and version.
    pub scope: (String, String),
}

impl Received {
    /// An attribute as text; empty if it is missing.
    pub fn text(&self, name: &str) -> &str {
        self.attributes.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// `log.record.uid`.
    pub fn uid(&self) -> &str {
        self.text("log.record.uid")
    }
}

/// A received request.
#[derive(Clone, Debug)]
pub struct Export {
    /// HTTP headers, or gRPC metadata.
    pub headers: HeaderMap,
    /// HTTP: path and query.
    pub path: String,
    /// The number of its records.
    pub records: usize,
    /// Bytes of its message after decompression, in protobuf.
    pub bytes: usize,
    /// Its message after decompression; for gRPC, encoded again.
    pub body: Bytes,
    /// The time of arrival.
    pub at: Instant,
}

type Judge = Box<dyn FnMut(&[Received]) -> Reply + Send>;

#[derive(Default)]
struct ReceiverState {
    records: Vec<Received>,
    exports: Vec<Export>,
    next: VecDeque<Reply>,
    judge: Option<Judge>,
}

struct SharedReceiver {
    state: Mutex<ReceiverState>,
    /// The number of requests so far.
    seen: watch::Sender<usize>,
    /// The most bytes of a message.
    limit: AtomicUsize,
    /// The number of open connections.
    open: watch::Sender<usize>,
    /// Increases when idle connections are to be closed.
    close_idle: watch::Sender<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum ReceiverTransport {
    Grpc,
    Http,
}

impl ReceiverTransport {
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Grpc => b"h2",
            Self::Http => b"http/1.1",
        }
    }
}

/// The receiver. Dropping it stops it.
pub struct Receiver {
    shared: Arc<SharedReceiver>,
    transport: ReceiverTransport,
    tls: Mutex<Option<TlsAcceptor>>,
    /// The scheme of [`Receiver::endpoint`].
    scheme: &'static str,
    address: SocketAddr,
    server: tokio::sync::Mutex<JoinSet<()>>,
}

impl Receiver {
    /// Serves gRPC.
    pub async fn grpc() -> Self {
        Self::serve(ReceiverTransport::Grpc, None).await
    }

    /// Serves HTTP, with protobuf and JSON, on any path.
    pub async fn http() -> Self {
        Self::serve(ReceiverTransport::Http, None).await
    }

    /// Serves gRPC over TLS. Requires a client certificate if the PKI says so.
    pub async fn grpc_tls(pki: &Pki) -> Self {
        Self::serve(ReceiverTransport::Grpc, Some(pki.acceptor(ReceiverTransport::Grpc.alpn()))).await
    }

    /// Serves HTTP over TLS. Requires a client certificate if the PKI says so.
    pub async fn http_tls(pki: &Pki) -> Self {
        Self::serve(ReceiverTransport::Http, Some(pki.acceptor(ReceiverTransport::Http.alpn()))).await
    }

    /// The base URL, without a path.
    pub fn endpoint(&self) -> String {
        // The name in the PKI's certificates.
        format!("{}://localhost:{}", self.scheme, self.address.port())
    }

    /// Sets the answer to the next request. Several calls queue up.
    pub fn answer_next(&self, reply: Reply) {
        self.state(|state| state.next.push_back(reply));
    }

    /// Sets the answer to every request after the queued ones.
    pub fn answer_always(&self, reply: Reply) {
        self.answer_by(move |_| reply.clone());
    }

    /// Sets the answer by the records of each request, after the queued answers.
    pub fn answer_by(&self, judge: impl FnMut(&[Received]) -> Reply + Send + 'static) {
        self.state(|state| state.judge = Some(Box::new(judge)));
    }

    /// The kept records, in order of arrival.
    pub fn records(&self) -> Vec<Received> {
        self.state(|state| state.records.clone())
    }

    /// The received requests, kept or not.
    pub fn exports(&self) -> Vec<Export> {
        self.state(|state| state.exports.clone())
    }

    /// Waits until at least `records` records were kept, and returns all.
    ///
    /// # Panics
    /// After [`PATIENCE`].
    pub async fn wait_for(&self, records: usize) -> Vec<Received> {
        self.wait_until(&format!("{records} records"), |state| state.records.len() >= records).await;
        self.records()
    }

    /// Waits until at least `exports` requests were received.
    ///
    /// # Panics
    /// After [`PATIENCE`].
    pub async fn wait_for_exports(&self, exports: usize) -> Vec<Export> {
        self.wait_until(&format!("{exports} exports"), |state| state.exports.len() >= exports).await;
        self.exports()
    }

    /// Closes the listener and every connection.
    pub async fn stop(&self) {
        self.server.lock().await.shutdown().await;
    }

    /// Closes every connection as servers close idle ones (HTTP/2: GOAWAY), and waits until they are closed.
    pub async fn close_idle(&self) {
        self.shared.close_idle.send_modify(|times| *times += 1);
        let mut open = self.shared.open.subscribe();
        let closed = tokio::time::timeout(PATIENCE, open.wait_for(|open| *open == 0)).await;
        closed.expect("connections are closed in good time").expect("the receiver holds the sender");
    }

    /// Refuses messages of more than this many bytes: for HTTP as sent, for gRPC decompressed. It does not read such a
    /// message, and for HTTP it closes the connection.
    pub async fn limit_messages(&self, bytes: usize) {
        self.shared.limit.store(bytes, Ordering::SeqCst);
        self.close_idle().await;
    }

    /// Serves again, at the same address.
    pub async fn start(&self) {
        // A process that is just being started has a copy of the old listener until it runs its program.
        let bound = tokio::time::timeout(PATIENCE, async {
            loop {
                match TcpListener::bind(self.address).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        self.listen(bound.await.expect("the port is ours")).await;
    }

    /// Serves again at the same address, with other certificates, or without TLS.
    pub async fn restart_as(&self, pki: Option<&Pki>) {
        self.stop().await;
        *self.tls.lock().unwrap() = pki.map(|pki| pki.acceptor(self.transport.alpn()));
        self.start().await;
    }

    async fn serve(transport: ReceiverTransport, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let receiver = Self {
            shared: Arc::new(SharedReceiver {
                state: Mutex::default(),
                seen: watch::Sender::new(0),
                limit: AtomicUsize::new(usize::MAX),
                open: watch::Sender::new(0),
                close_idle: watch::Sender::new(0),
            }),
            transport,
            scheme: if tls.is_some() { "https" } else { "http" },
            tls: Mutex::new(tls),
            address: listener.local_addr().expect("a bound socket has an address"),
            server: tokio::sync::Mutex::default(),
        };
        receiver.listen(listener).await;
        receiver
    }

    async fn listen(&self, listener: TcpListener) {
        let (shared, transport, tls) = (self.shared.clone(), self.transport, self.tls.lock().unwrap().clone());
        self.server.lock().await.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, tls) = (shared.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => connection(stream, shared, transport).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                connection(stream, shared, transport).await;
                            }
                        }
                    }
                });
            }
        });
    }

    fn state<T>(&self, look: impl FnOnce(&mut ReceiverState) -> T) -> T {
        look(&mut self.shared.state.lock().unwrap())
    }

    async fn wait_until(&self, what: &str, reached: impl Fn(&ReceiverState) -> bool) {
        let mut seen = self.shared.seen.subscribe();
        let waiting = async {
            while !self.state(|state| reached(state)) {
                seen.changed().await.expect("the receiver holds the sender");
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            let (records, exports) = self.state(|state| (state.records.len(), state.exports.len()));
            panic!("waited {PATIENCE:?} for {what}; there are {records} records of {exports} exports");
        }
    }
}

/// Serves one connection until it ends or a reply closes it.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shared: Arc<SharedReceiver>,
    transport: ReceiverTransport,
) {
    let close = CancellationToken::new();
    let io = TokioIo::new(stream);
    let desk = Desk { shared: shared.clone(), close: close.clone() };
    let mut close_idle = shared.close_idle.subscribe();
    let _open = Open::begin(shared.clone());
    /// Serves a connection until it ends. `close_idle` ends it without interrupting a request.
    macro_rules! serve {
        ($connection:expr) => {{
            let mut connection = std::pin::pin!($connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                () = close.cancelled() => return,
                _ = close_idle.changed() => connection.as_mut().graceful_shutdown(),
            }
            tokio::select! {
                _ = connection => {}
                () = close.cancelled() => {}
            }
        }};
    }
    match transport {
        ReceiverTransport::Http => {
            let service = service_fn(move |request| http_export(desk.clone(), request));
            serve!(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
        ReceiverTransport::Grpc => {
            let service = LogsServiceServer::new(desk)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(shared.limit.load(Ordering::SeqCst));
            let service = TowerToHyperService::new(service);
            let service = service_fn(move |request| {
                let answered = service.call(request);
                async move { Ok::<_, Infallible>(with_details(answered.await?)) }
            });
            serve!(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service));
        }
    }
}

/// An open connection.
struct Open(Arc<SharedReceiver>);

impl Open {
    fn begin(shared: Arc<SharedReceiver>) -> Self {
        shared.open.send_modify(|open| *open += 1);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// The handler of a connection's requests.
#[derive(Clone)]
struct Desk {
    shared: Arc<SharedReceiver>,
    close: CancellationToken,
}

impl Desk {
    /// Stores a request and returns the reply. For replies without an answer it never returns.
    async fn take(&self, request: ExportLogsServiceRequest, body: Bytes, headers: HeaderMap, path: String) -> Reply {
        let records = received(&request);
        let reply = {
            let mut state = self.shared.state.lock().unwrap();
            let reply = match (state.next.pop_front(), &mut state.judge) {
                (Some(reply), _) => reply,
                (None, Some(judge)) => judge(&records),
                (None, None) => Reply::Ok,
            };
            let (count, bytes, at) = (records.len(), request.encoded_len(), Instant::now());
            state.exports.push(Export { headers, path, records: count, bytes, body, at });
            if matches!(reply, Reply::Ok | Reply::Partial(..) | Reply::Slow(_) | Reply::Cut | Reply::Lost) {
                state.records.extend(records);
            }
            reply
        };
        self.shared.seen.send_modify(|seen| *seen += 1);
        match reply {
            Reply::Hang => std::future::pending().await,
            Reply::Slow(after) => {
                tokio::time::sleep(after).await;
                Reply::Ok
            }
            Reply::Close | Reply::Lost => {
                self.close.cancel();
                std::future::pending().await
            }
            reply => reply,
        }
    }
}

fn response(reply: &Reply) -> ExportLogsServiceResponse {
    ExportLogsServiceResponse {
        partial_success: match reply {
            Reply::Partial(rejected, message) => {
                Some(ExportLogsPartialSuccess { rejected_log_records: *rejected, error_message: (*message).into() })
            }
            _ => None,
        },
    }
}

#[tonic::async_trait]
impl LogsService for Desk {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let body = request.encode_to_vec().into();
        match self.take(request, body, metadata.into_headers(), String::new()).await {
            Reply::Code(code, message) => Err(Status::new(code, message)),
            Reply::Details { code, details, in_trailers } => {
                let mut status = Status::new(code, "details");
                let name = if in_trailers { DETAILS_IN_TRAILERS } else { DETAILS_IN_HEADERS };
                status.metadata_mut().insert(name, details.parse().expect("a test's header has a value"));
                Err(status)
            }
            Reply::RetryInfo(code, delay) => {
                Err(Status::with_error_details(code, "later", ErrorDetails::with_retry_info(delay)))
            }
            reply @ (Reply::Ok | Reply::Partial(..)) => Ok(tonic::Response::new(response(&reply))),
            reply => panic!("a gRPC receiver cannot answer {reply:?}"),
        }
    }
}

/// The header that stands for [`Reply::Details`], because tonic writes only well-formed details.
const DETAILS_IN_HEADERS: &str = "x-details-in-headers";
/// See [`DETAILS_IN_HEADERS`].
const DETAILS_IN_TRAILERS: &str = "x-details-in-trailers";

/// Puts the details into the response, in its headers or trailers.
fn with_details(mut response: Response<tonic::body::Body>) -> Response<tonic::body::Body> {
    const DETAILS: &str = "grpc-status-details-bin";
    if let Some(details) = response.headers_mut().remove(DETAILS_IN_HEADERS) {
        response.headers_mut().insert(DETAILS, details);
    }
    if let Some(details) = response.headers_mut().remove(DETAILS_IN_TRAILERS) {
        let mut trailers = HeaderMap::new();
        for name in ["grpc-status", "grpc-message"] {
            if let Some(value) = response.headers_mut().remove(name) {
                trailers.insert(name, value);
            }
        }
        trailers.insert(DETAILS, details);
        let body = Full::new(Bytes::new()).with_trailers(std::future::ready(Some(Ok(trailers))));
        *response.body_mut() = tonic::body::Body::new(body);
    }
    response
}

/// A body that ends in the middle.
struct HalfAnAnswer(bool);

impl hyper::body::Body for HalfAnAnswer {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(Some(match std::mem::replace(&mut self.0, true) {
            false => Ok(Frame::data(Bytes::from_static(b"half an ans"))),
            true => Err(std::io::Error::other("cut")),
        }))
    }
}

/// A body, or a part of one.
type ReceiverBody = UnsyncBoxBody<Bytes, std::io::Error>;

async fn http_export(desk: Desk, request: Request<Incoming>) -> Result<Response<ReceiverBody>, Infallible> {
    let (parts, body) = request.into_parts();
    if body.size_hint().lower() > desk.shared.limit.load(Ordering::SeqCst) as u64 {
        desk.shared.seen.send_modify(|seen| *seen += 1);
        return Ok(answer(413, &[("content-type", "text/plain")], "the message is too large"));
    }
    let Ok(body) = body.collect().await else {
        return Ok(answer(400, &[], "the body was cut short"));
    };
    let mut body = body.to_bytes().to_vec();
    if parts.headers.get("content-encoding").is_some_and(|value| value == "gzip") {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).expect("the exporter sends gzip where it says so");
        body = plain;
    }
    let json = parts.headers.get("content-type").is_some_and(|value| value == "application/json");
    let request = if json {
        serde_json::from_slice(&body).expect("the exporter sends OTLP JSON where it says so")
    } else {
        ExportLogsServiceRequest::decode(&*body).expect("the exporter sends OTLP protobuf where it says so")
    };
    let path = parts.uri.to_string();
    Ok(match desk.take(request, body.into(), parts.headers, path).await {
        Reply::Status(status, text) => answer(status, &[("content-type", "text/plain")], text),
        Reply::Raw { status, headers, body } => answer(status, &headers, body),
        Reply::Cut => Response::new(HalfAnAnswer(false).boxed_unsync()),
        reply @ (Reply::Ok | Reply::Partial(..)) => {
            let response = response(&reply);
            if json {
                let body = serde_json::to_vec(&response).expect("an OTLP response is JSON");
                answer(200, &[("content-type", "application/json")], body)
            } else {
                answer(200, &[("content-type", "application/x-protobuf")], response.encode_to_vec())
            }
        }
        reply => panic!("an HTTP receiver cannot answer {reply:?}"),
    })
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<ReceiverBody> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).expect("a test's status is one");
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().expect("a test's header has a name");
        response.headers_mut().insert(name, value.parse().expect("a test's header has a value"));
    }
    response
}

fn received(request: &ExportLogsServiceRequest) -> Vec<Received> {
    let mut records = Vec::new();
    for under_resource in &request.resource_logs {
        let resource = under_resource.resource.clone().unwrap_or_default();
        for under_scope in &under_resource.scope_logs {
            let scope = under_scope.scope.clone().unwrap_or_default();
            records.extend(under_scope.log_records.iter().map(|record| Received {
                timestamp: record.time_unix_nano,
                observed: record.observed_time_unix_nano,
                event_name: record.event_name.clone(),
                severity_number: record.severity_number,
                severity_text: record.severity_text.clone(),
                body: match &record.body {
                    Some(AnyValue { value: Some(any_value::Value::StringValue(text)) }) => text.clone(),
                    Some(body) => plain(&Some(body.clone())).to_string(),
                    None => String::new(),
                },
                attributes: attributes(&record.attributes),
                resource: attributes(&resource.attributes),
                scope: (scope.name.clone(), scope.version.clone()),
            }));
        }
    }
    records
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, Value> {
    let map: BTreeMap<_, _> = pairs.iter().map(|pair| (pair.key.clone(), plain(&pair.value))).collect();
    assert_eq!(map.len(), pairs.len(), "attribute names must be unique: {pairs:?}");
    map
}

fn plain(value: &Option<AnyValue>) -> Value {
    use any_value::Value as Any;
    match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone().into(),
        Some(Any::BoolValue(truth)) => (*truth).into(),
        Some(Any::IntValue(number)) => (*number).into(),
        Some(Any::DoubleValue(number)) => (*number).into(),
        Some(Any::ArrayValue(array)) => array.values.iter().map(|value| plain(&Some(value.clone()))).collect(),
        Some(Any::KvlistValue(list)) => list.values.iter().map(|pair| (pair.key.clone(), plain(&pair.value))).collect(),
        other => panic!("the exporter has no such values: {other:?}"),
    }
}

/// A test's own certificates: an authority, a server `localhost`, a client. Their files exist as long as this value.
pub struct Pki {
    folder: tempfile::TempDir,
    server: (Vec<u8>, Vec<u8>),
    ca: Vec<u8>,
    asks_client: bool,
}

impl Pki {
    /// Creates certificates. With `asks_client`, receivers require the client's.
    pub fn new(asks_client: bool) -> Self {
        Self::made(asks_client, 4096)
    }

    /// Creates certificates. The server's expired long ago.
    pub fn expired() -> Self {
        Self::made(false, 1999)
    }

    fn made(asks_client: bool, server_until: i32) -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ca_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).expect("a certificate of its own");
        let issuer = Issuer::new(params, ca_key);
        let issued = |name: &str, until| {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            let certificate = params.signed_by(&key, &issuer).expect("a signature");
            (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
        };
        let (server, client) = (issued("localhost", server_until), issued("exporter", 4096));
        let ca = ca.pem().into_bytes();
        for (name, contents) in [("ca.pem", &ca), ("client.pem", &client.0), ("client.key", &client.1)] {
            std::fs::write(folder.path().join(name), contents).expect("the temporary folder can be written");
        }
        Self { folder, server, ca, asks_client }
    }

    /// The authority's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The client's certificate.
    pub fn cert_file(&self) -> PathBuf {
        self.folder.path().join("client.pem")
    }

    /// The client's key.
    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("client.key")
    }

    /// Accepts TLS connections as `localhost`, speaking one protocol.
    pub fn acceptor(&self, alpn: &[u8]) -> TlsAcceptor {
        use rustls::server::WebPkiClientVerifier;
        use rustls_pki_types::pem::PemObject as _;
        use rustls_pki_types::{CertificateDer, PrivateKeyDer};
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&self.ca).unwrap()).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if self.asks_client {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(&self.server.0).unwrap()],
                PrivateKeyDer::from_pem_slice(&self.server.1).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}
