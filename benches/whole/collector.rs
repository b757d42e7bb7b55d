//! A fast OTLP receiver: it decodes requests, counts the records, and acknowledges them.

#![allow(dead_code, reason = "shared by benchmarks, each of which uses its own part")]

use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message as _;
use tokio::net::TcpListener;

/// The receiver, for HTTP with protobuf on any path.
pub(crate) struct Collector {
    address: SocketAddr,
    received: Arc<CollectorState>,
}

#[derive(Default)]
struct CollectorState {
    records: AtomicUsize,
    last: Mutex<Vec<u8>>,
}

impl Collector {
    /// Serves until the runtime ends.
    #[expect(clippy::disallowed_methods, reason = "a benchmark's server; its runtime ends it")]
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, received) = (listener.local_addr().unwrap(), Arc::<CollectorState>::default());
        let shared = received.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                let service = service_fn(move |request| take(shared.clone(), request));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, received }
    }

    /// The base URL.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The number of acknowledged records so far.
    pub(crate) fn records(&self) -> usize {
        self.received.records.load(Ordering::SeqCst)
    }

    /// The last request's message.
    pub(crate) fn last(&self) -> Vec<u8> {
        self.received.last.lock().unwrap().clone()
    }
}

async fn take(received: Arc<CollectorState>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_gzip = request.headers().get("content-encoding").is_some_and(|value| value == "gzip");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut plain = Vec::new();
    if is_gzip {
        flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).unwrap();
    } else {
        plain.extend_from_slice(&body);
    }
    let request = ExportLogsServiceRequest::decode(&*plain).unwrap();
    let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
    received.records.fetch_add(scopes.map(|scope| scope.log_records.len()).sum(), Ordering::SeqCst);
    *received.last.lock().unwrap() = plain;
    // A success response has no members.
    let mut response = Response::new(Full::new(Bytes::new()));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/x-protobuf"));
    Ok(response)
}
