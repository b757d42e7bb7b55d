//! Sink: exports to an OTLP receiver over gRPC, HTTP with protobuf, or HTTP with JSON.
//!
//! It makes one export at a time and one attempt for each, within a deadline. The delivery task waits and retries. The
//! parts:
//! - `protobuf` writes records and requests.
//! - `over_grpc`, `over_http` and `over_http_json` are the transports. They connect through `connector`.
//! - `headers` and `tls` read the headers, certificates and keys.
//! - `answer` interprets the receiver's answer.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use cognito_auth_core::answer::Answer;
use cognito_auth_core::entry::Entry;
use cognito_auth_core::ocsf;
use cognito_auth_core::record::{Record, SERVICE_NAME, SERVICE_VERSION, TimestampSource};
use http::Uri;
use http_body_util::BodyExt as _;
use opentelemetry_sdk::logs::SdkLogRecord;

use crate::config::{OtlpConfig, OtlpProtocol, Schema};
use crate::lifecycle::Clock;
use crate::sink::Sink;

mod answer;
mod connector;
mod headers;
mod http_client;
mod over_grpc;
mod over_http;
mod over_http_json;
mod protobuf;
mod tls;

use answer::HttpReply;
use headers::Headers;
use over_grpc::GrpcTransport;
use over_http::HttpTransport;
use over_http_json::HttpJsonTransport;
use protobuf::RequestWriter;
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
    timestamp: TimestampSource,
    schema: Schema,
    requests: RequestWriter,
    headers: Headers,
    /// None if the endpoint has no TLS.
    tls: Option<TlsFiles>,
    transport: Transport,
    timeout: Duration,
}

/// A log record in the form that the sink's transport sends. All records of a sink have one form.
#[derive(Debug)]
pub struct OtlpRecord(RecordForm);

#[derive(Debug)]
enum RecordForm {
    /// The bytes of protobuf.
    Protobuf(Box<[u8]>),
    /// The SDK's record, and its size in JSON.
    Sdk(Box<SdkLogRecord>, usize),
}

#[derive(Debug)]
enum Transport {
    Grpc(Box<GrpcTransport>),
    Http(Box<HttpTransport>),
    HttpJson(Box<HttpJsonTransport>),
}

impl Transport {
    /// Drops the connections, so that new ones are made.
    fn reconnect(&mut self) {
        match self {
            Self::Grpc(grpc) => grpc.reconnect(),
            Self::Http(http) => http.reconnect(),
            Self::HttpJson(json) => json.reconnect(),
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
        let headers = Headers::open(&config.headers, config.headers_file.clone())?;
        let alpn: &[&[u8]] = if config.protocol == OtlpProtocol::Grpc { &[b"h2"] } else { &[] };
        let is_secure = base_url(config)?.scheme_str() == Some("https");
        // Plain HTTP requires no certificates, so it works in an image without the system's roots.
        let tls = is_secure.then(|| TlsFiles::open(config, alpn)).transpose()?;
        let in_force = tls.as_ref().map(TlsFiles::in_force);
        let resource = resource(instance_id, &config.resource_attributes);
        let requests = RequestWriter::new(resource.clone());
        let clock = clock.clone();
        let transport = match config.protocol {
            OtlpProtocol::Grpc => Transport::Grpc(Box::new(GrpcTransport::new(config, in_force, clock)?)),
            OtlpProtocol::HttpProtobuf => Transport::Http(Box::new(HttpTransport::new(config, in_force, clock)?)),
            OtlpProtocol::HttpJson => {
                Transport::HttpJson(Box::new(HttpJsonTransport::new(config, resource, in_force, clock)?))
            }
        };
        Ok(Self {
            timestamp: config.timestamp,
            schema: config.schema,
            requests,
            headers,
            tls,
            transport,
            timeout: config.timeout,
        })
    }

    /// Sends an export without records, to check that the receiver accepts exports.
    pub async fn probe(&mut self) -> Answer {
        self.export(&[]).await.redacted([])
    }

    async fn export(&mut self, records: &[OtlpRecord]) -> Answer {
        let attempt = tokio::time::timeout(self.timeout, caught(self.attempt(records))).await;
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

    async fn attempt(&mut self, records: &[OtlpRecord]) -> Answer {
        if let Some(tls) = &mut self.tls
            && tls.renewed().await
        {
            self.transport.reconnect();
        }
        let headers = self.headers.current().await;
        let request = || self.requests.request(&records.iter().map(OtlpRecord::protobuf).collect::<Vec<_>>());
        match &mut self.transport {
            Transport::Grpc(grpc) => grpc.export(request(), headers).await,
            Transport::Http(http) => http.export(request(), headers).await,
            Transport::HttpJson(json) => {
                json.export(&records.iter().map(OtlpRecord::sdk).collect::<Vec<_>>(), headers).await
            }
        }
    }
}

impl Sink for OtlpSink {
    type Record = OtlpRecord;

    fn record(&self, entry: &Entry) -> OtlpRecord {
        let mut record = Record::of(entry, self.timestamp);
        if let Schema::Ocsf(version) = self.schema {
            record.body = ocsf::body(version, entry, &record);
        }
        OtlpRecord(match &self.transport {
            Transport::Grpc(_) | Transport::Http(_) => RecordForm::Protobuf(protobuf::log_record(&record)),
            Transport::HttpJson(json) => {
                let record = json.record(record);
                let bytes = json.size_of(&record);
                RecordForm::Sdk(Box::new(record), bytes)
            }
        })
    }

    /// Returns the size of a request with this record alone, or a few bytes more. A batch is smaller than the sum.
    fn size_of(&self, record: &OtlpRecord) -> usize {
        match &record.0 {
            RecordForm::Protobuf(bytes) => self.requests.overhead_bytes_max() + bytes.len(),
            RecordForm::Sdk(_, bytes) => *bytes,
        }
    }

    async fn deliver(&mut self, batch: &[OtlpRecord]) -> Answer {
        self.export(batch).await
    }
}

impl OtlpRecord {
    fn protobuf(&self) -> &[u8] {
        match &self.0 {
            RecordForm::Protobuf(bytes) => bytes,
            RecordForm::Sdk(..) => unreachable!("a sink makes and sends records of one form"),
        }
    }

    fn sdk(&self) -> &SdkLogRecord {
        match &self.0 {
            RecordForm::Sdk(record, _) => record,
            RecordForm::Protobuf(_) => unreachable!("a sink makes and sends records of one form"),
        }
    }
}

/// Returns the resource's attributes: the service and its instance, overridden by the operator's attributes.
fn resource<'a>(instance_id: &'a str, operator: &'a [(String, String)]) -> BTreeMap<&'a str, &'a str> {
    let own =
        [("service.name", SERVICE_NAME), ("service.version", SERVICE_VERSION), ("service.instance.id", instance_id)];
    let operator = operator.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // A map, because a resource has each attribute once. The later value wins.
    own.into_iter().chain(operator).collect()
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

    #[test]
    fn the_operators_resource_attributes_win() {
        let operator = [("service.name".to_owned(), "mine".to_owned()), ("cloud.region".to_owned(), "r".to_owned())];
        let expected = [
            ("cloud.region", "r"),
            ("service.instance.id", "instance"),
            ("service.name", "mine"),
            ("service.version", SERVICE_VERSION),
        ];
        assert_eq!(resource("instance", &operator), expected.into());
    }

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
