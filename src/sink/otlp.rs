//! Sink: exports to an OTLP receiver over gRPC, HTTP with protobuf, or HTTP with JSON.
//!
//! It makes one export at a time and one attempt for each, within a deadline. The delivery task waits and retries. The
//! parts:
//! - `payload` makes the request, and `size` computes its size.
//! - `over_http` and `over_grpc` are the transports; both connect through `connector`.
//! - `headers` and `tls` read the headers, certificates and keys.
//! - `answer` interprets the receiver's answer.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use cognito_auth_core::answer::Answer;
use cognito_auth_core::entry::Entry;
use http::Uri;
use http_body_util::BodyExt as _;
use opentelemetry_otlp::Protocol;
use opentelemetry_sdk::logs::LogBatch;

use crate::config::{OtlpConfig, OtlpProtocol};
use crate::lifecycle::Clock;
use crate::sink::Sink;

mod answer;
mod connector;
mod headers;
mod over_grpc;
mod over_http;
mod payload;
mod size;
mod tls;

use answer::HttpReply;
use headers::Headers;
use over_grpc::GrpcTransport;
use over_http::HttpTransport;
use payload::Packer;
use tls::TlsFiles;

/// The longest time to connect, within the export's own timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of an answer that are read: gRPC's usual limit. A receiver that rejects a batch may give a reason for
/// every record. An acknowledgement counts only when it is read to its end; otherwise the batch would be sent again for
/// ever.
const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const USER_AGENT_VALUE: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Why the sink cannot be set up. Every text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum OtlpSetupError {
    /// The endpoint is not a usable URL.
    #[error("otlp.endpoint must be a URL such as http://localhost:4318 or https://logs.example:4317")]
    Endpoint,
    /// A file cannot be read.
    #[error("{key}: {} cannot be read", path.display())]
    Unreadable {
        /// The configuration's key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file has the wrong content.
    #[error("{key} {what}")]
    Unusable {
        /// The configuration's key.
        key: &'static str,
        /// The fault, as the end of a sentence about the key.
        what: &'static str,
    },
    /// A header cannot be sent, or its pair has the wrong form.
    #[error("{key}: pair {pair} is not a header's name and value, as in name=value")]
    Header {
        /// The configuration's key.
        key: &'static str,
        /// The number of the pair, from 1. The pair itself is not shown, because its value may be a secret.
        pair: usize,
    },
    /// The system has no certificate authorities.
    #[error("no certificate authorities were found on this system: name them in otlp.ca_file, or SSL_CERT_FILE")]
    NoRoots,
    /// TLS cannot be set up with these files.
    #[error("otlp: TLS cannot be set up; do otlp.cert_file and otlp.key_file belong together?")]
    Tls(#[source] BoxError),
    /// The exporter cannot be built.
    #[error("otlp: the exporter cannot be built; look at otlp.* and OTEL_EXPORTER_OTLP_*")]
    Exporter(#[source] BoxError),
}

/// The message after a panic, a fault of this program or of a library. The panic's own text is left out, because it may
/// quote a record.
const PANICKED: &str = "the export panicked; report it with the panic's lines on standard error";

impl OtlpSetupError {
    fn tls(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Tls(Box::new(error))
    }

    fn exporter(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Exporter(Box::new(error))
    }
}

/// A sink that exports to an OTLP receiver.
#[derive(Debug)]
pub struct OtlpSink {
    packer: Packer,
    headers: Headers,
    /// None if the endpoint has no TLS.
    tls: Option<TlsFiles>,
    transport: Transport,
    timeout: Duration,
    json: bool,
    /// The bytes of a request without its records.
    envelope: usize,
}

#[derive(Debug)]
enum Transport {
    Grpc(Box<GrpcTransport>),
    Http(Box<HttpTransport>),
}

impl Transport {
    /// Drops the connections, so that new ones are made.
    fn reconnect(&mut self) {
        match self {
            Self::Grpc(grpc) => grpc.reconnect(),
            Self::Http(http) => http.reconnect(),
        }
    }
}

impl OtlpSink {
    /// Makes a sink that exports as the service instance `instance_id`. The first export connects. `clock` dates the
    /// answers.
    ///
    /// # Errors
    /// The endpoint is not a URL, or a configured file cannot be read or used.
    pub fn connect(config: &OtlpConfig, instance_id: &str, clock: &Clock) -> Result<Self, OtlpSetupError> {
        let packer = Packer::new(instance_id, &config.resource_attributes, config.timestamp, config.schema);
        let headers = Headers::open(&config.headers, config.headers_file.clone())?;
        let alpn: &[&[u8]] = if config.protocol == OtlpProtocol::Grpc { &[b"h2"] } else { &[] };
        let is_secure = base_url(config)?.scheme_str() == Some("https");
        // Plain HTTP requires no certificates, so it works in an image without the system's roots.
        let tls = is_secure.then(|| TlsFiles::open(config, alpn)).transpose()?;
        let in_force = tls.as_ref().map(TlsFiles::in_force);
        let http = |protocol| {
            let transport = HttpTransport::new(config, protocol, packer.resource(), in_force.clone(), clock.clone());
            transport.map(Box::new).map(Transport::Http)
        };
        let transport = match config.protocol {
            OtlpProtocol::Grpc => Transport::Grpc(Box::new(GrpcTransport::new(config, in_force, clock.clone())?)),
            OtlpProtocol::HttpProtobuf => http(Protocol::HttpBinary)?,
            OtlpProtocol::HttpJson => http(Protocol::HttpJson)?,
        };
        Ok(Self {
            envelope: packer.envelope(),
            packer,
            headers,
            tls,
            transport,
            timeout: config.timeout,
            json: config.protocol == OtlpProtocol::HttpJson,
        })
    }

    /// Sends an export without records, to check that the receiver accepts exports.
    pub async fn probe(&mut self) -> Answer {
        self.export(&[]).await.redacted([])
    }

    async fn export(&mut self, entries: &[Entry]) -> Answer {
        let attempt = tokio::time::timeout(self.timeout, caught(self.attempt(entries))).await;
        match attempt {
            Ok(Ok(answer)) => return answer,
            Ok(Err(Panicked)) => {}
            Err(_) => {
                self.transport.reconnect();
                return answer::no_answer(&format!("timed out after {:?}", self.timeout));
            }
        }
        // A connection is not used again after a panic.
        self.transport.reconnect();
        answer::no_answer(PANICKED)
    }

    async fn attempt(&mut self, entries: &[Entry]) -> Answer {
        let records = self.packer.records(entries);
        let scoped = self.packer.scoped(&records);
        let batch = LogBatch::new(&scoped);
        if let Some(tls) = &mut self.tls
            && tls.renewed().await
        {
            self.transport.reconnect();
        }
        let headers = self.headers.current().await;
        match &mut self.transport {
            Transport::Grpc(grpc) => grpc.export(self.packer.request(&batch), headers).await,
            Transport::Http(http) => http.export(batch, headers).await,
        }
    }
}

impl Sink for OtlpSink {
    async fn deliver(&mut self, batch: &[Entry]) -> Answer {
        self.export(batch).await
    }

    /// Returns the size of a request with this entry alone, or a few bytes more. A batch is smaller than the sum.
    fn size_of(&self, entry: &Entry) -> usize {
        if self.json {
            // The exporter writes indented JSON.
            let records = self.packer.records(std::slice::from_ref(entry));
            let request = self.packer.request(&LogBatch::new(&self.packer.scoped(&records)));
            serde_json::to_vec_pretty(&request).map_or(0, |text| text.len())
        } else {
            self.envelope + size::record(&self.packer.made(entry))
        }
    }
}

/// The error of a future that panicked while it was polled.
struct Panicked;

/// Runs `attempt` and catches a panic. A receiver's answer can make a library panic, and that must not end the process.
/// After a panic `attempt` and the values that it borrows may be half done.
async fn caught<T>(attempt: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut attempt = pin!(attempt);
    poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| attempt.as_mut().poll(context)))
            .map_or(Poll::Ready(Err(Panicked)), |polled| polled.map(Ok))
    })
    .await
}

/// Returns the endpoint as a URL with scheme and host.
fn base_url(config: &OtlpConfig) -> Result<Uri, OtlpSetupError> {
    let url: Uri = config.endpoint.trim().parse().map_err(|_| OtlpSetupError::Endpoint)?;
    let usable = matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some_and(|host| !host.is_empty());
    usable.then_some(url).ok_or(OtlpSetupError::Endpoint)
}

/// Reads a response, and its body up to [`REPLY_BYTES_MAX`]. The rest of a longer body is dropped with its connection.
async fn read<B>(response: http::Response<B>, clock: &Clock) -> Result<HttpReply, B::Error>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let (parts, mut body) = response.into_parts();
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data);
        }
        if read.len() >= REPLY_BYTES_MAX {
            read.truncate(REPLY_BYTES_MAX);
            break;
        }
    }
    Ok(HttpReply { at: clock.now(), status: parts.status, headers: parts.headers, body: read.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_attempt_and_nothing_else() {
        let steps = async {
            tokio::task::yield_now().await;
            7
        };
        assert!(matches!(caught(steps).await, Ok(7)));
        let panics = async {
            tokio::task::yield_now().await;
            panic!("as a library may");
        };
        assert!(matches!(caught::<()>(panics).await, Err(Panicked)));
    }
}
