//! OTLP over HTTP: opentelemetry-otlp's exporter on an HTTP client of our own.
//!
//! The exporter encodes, compresses and addresses. It cannot be asked what came of it: it answers Ok to a partial success
//! and to a page of HTML, and its error is one string. So the client under it keeps the receiver's whole answer, which is
//! judged in place of the exporter's. The exporter also reads `OTEL_EXPORTER_OTLP_*` by itself; the configuration has
//! already weighed those against the file, so the client sends the configuration's headers and compression whatever the
//! exporter made of the environment.

use std::fmt;
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{LogExporter, Protocol, RetryPolicy, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _};

use super::answer::{self, Reply};
use super::tls::Tls;
use super::{CONNECT_TIMEOUT, OtlpSetupError, USER_AGENT_VALUE};
use crate::config::{Compression, OtlpConfig};
use crate::sink::Answer;
use crate::sink::record::SERVICE_NAME;

/// How long an unused connection is kept: less than the minute after which common proxies close theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// Exports over HTTP.
pub(super) struct HttpTransport {
    exporter: LogExporter,
    wire: Arc<Wire>,
    accept_any_2xx: bool,
}

impl HttpTransport {
    /// Prepares to export; connects with the first export.
    pub(super) fn new(
        config: &OtlpConfig,
        protocol: Protocol,
        resource: &opentelemetry_sdk::Resource,
    ) -> Result<Self, OtlpSetupError> {
        let endpoint = endpoint(config)?;
        let wire = Arc::new(Wire::new(config, &endpoint)?);
        let mut builder = LogExporter::builder()
            .with_http()
            .with_shared_http_client(wire.clone())
            .with_endpoint(endpoint.to_string())
            .with_protocol(protocol)
            .with_timeout(config.timeout)
            .with_retry_policy(RetryPolicy::disabled());
        if config.compression == Compression::Gzip {
            builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
        }
        let mut exporter = builder.build().map_err(OtlpSetupError::exporter)?;
        exporter.set_resource(resource);
        Ok(Self { exporter, wire, accept_any_2xx: config.accept_any_2xx })
    }

    /// Exports a batch with `headers`, and judges the answer. Has no timeout of its own.
    pub(super) async fn export(&self, batch: LogBatch<'_>, headers: HeaderMap) -> Answer {
        self.wire.begin(headers);
        let exported = self.exporter.export(batch).await;
        match (self.wire.end(), exported) {
            (Some(Ok(reply)), _) => answer::of_http(&reply, self.accept_any_2xx),
            (Some(Err(failure)), _) => answer::no_answer(&failure),
            // The exporter gave up before it asked the client.
            (None, Err(error)) => Answer::Refused { message: answer::bounded(&answer::chain(&error)) },
            (None, Ok(())) => answer::no_answer("nothing was sent"),
        }
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The exporter's own Debug prints the Authorization header.
        f.write_str("HttpTransport")
    }
}

/// The URL that records are posted to: `/v1/logs` under the base, before its query.
fn endpoint(config: &OtlpConfig) -> Result<Uri, OtlpSetupError> {
    let base = super::base_url(config)?;
    if config.endpoint_is_exact {
        return Ok(base);
    }
    let path = base.path().trim_end_matches('/');
    let query = base.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(format!("{path}/v1/logs{query}").parse().map_err(|_| OtlpSetupError::Endpoint)?);
    Uri::from_parts(parts).map_err(|_| OtlpSetupError::Endpoint)
}

/// The client under the exporter: sends one request and keeps its answer for [`HttpTransport::export`].
struct Wire {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    compression: Compression,
    exchange: Mutex<Exchange>,
}

#[derive(Default)]
struct Exchange {
    headers: HeaderMap,
    outcome: Option<Result<Reply, String>>,
}

impl Wire {
    fn new(config: &OtlpConfig, endpoint: &Uri) -> Result<Self, OtlpSetupError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new();
        let connector = if endpoint.scheme_str() == Some("https") {
            let tls = Tls::read(config)?.for_http()?;
            connector.with_tls_config(tls).https_only().enable_http1().wrap_connector(tcp)
        } else {
            // No certificate is asked for: an image without the system's roots exports to a neighbour over plain HTTP.
            let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(OtlpSetupError::tls)?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            connector.with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp)
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Ok(Self { client, compression: config.compression, exchange: Mutex::default() })
    }

    fn begin(&self, headers: HeaderMap) {
        *self.exchange() = Exchange { headers, outcome: None };
    }

    fn end(&self) -> Option<Result<Reply, String>> {
        std::mem::take(&mut *self.exchange()).outcome
    }

    fn exchange(&self) -> std::sync::MutexGuard<'_, Exchange> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exporter's request with the configuration's headers and compression.
    fn ours(&self, request: Request<Bytes>) -> Result<Request<Full<Bytes>>, HttpError> {
        let (mut parts, mut body) = request.into_parts();
        let made = std::mem::replace(&mut parts.headers, self.exchange().headers.clone());
        parts.headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT_VALUE));
        parts.headers.remove(CONTENT_ENCODING);
        for name in [CONTENT_TYPE, CONTENT_ENCODING] {
            if let Some(value) = made.get(&name) {
                parts.headers.insert(name, value.clone());
            }
        }
        // Without a compression of its own the exporter takes the environment's.
        if self.compression == Compression::None && parts.headers.remove(CONTENT_ENCODING).is_some() {
            let mut plain = Vec::new();
            GzDecoder::new(&*body).read_to_end(&mut plain)?;
            body = plain.into();
        }
        Ok(Request::from_parts(parts, Full::new(body)))
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Reply, HttpError> {
        let response = self.client.request(self.ours(request)?).await?;
        Ok(super::read(response).await?)
    }
}

#[async_trait]
impl HttpClient for Wire {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let outcome = self.send(request).await;
        self.exchange().outcome = Some(match &outcome {
            Ok(reply) => Ok(reply.clone()),
            Err(error) => Err(answer::chain(&**error)),
        });
        let reply = outcome?;
        let mut response = Response::new(reply.body);
        *response.status_mut() = reply.status;
        Ok(response)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SERVICE_NAME)
    }
}
