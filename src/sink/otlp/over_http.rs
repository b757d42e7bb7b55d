//! OTLP over HTTP: opentelemetry-otlp's exporter on an HTTP client of our own.
//!
//! The exporter encodes, compresses and addresses the request. Its result is not usable: it is Ok for a partial success
//! and for a page of HTML, and its error is one string. So the client under it keeps the receiver's whole answer, which
//! is interpreted instead. The exporter also reads `OTEL_EXPORTER_OTLP_*` by itself. The configuration has already
//! merged those variables with its file, so the client replaces the exporter's headers and compression by the
//! configuration's.

use std::fmt;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cognito_auth_core::answer::Answer;
use cognito_auth_core::record::SERVICE_NAME;
use flate2::read::GzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{LogExporter, Protocol, RetryPolicy, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _};
use parking_lot::Mutex;

use super::answer::{self, HttpReply};
use super::connector::Connector;
use super::tls::TlsInForce;
use super::{OtlpSetupError, USER_AGENT_VALUE};
use crate::config::{Compression, OtlpConfig};
use crate::lifecycle::Clock;

/// The time for which an unused connection is kept: less than the minute after which common proxies close theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// Exports over HTTP.
pub(super) struct HttpTransport {
    exporter: LogExporter,
    client: Arc<RecordingClient>,
    accept_any_2xx: bool,
}

impl HttpTransport {
    /// Makes the transport. It connects with the first export.
    pub(super) fn new(
        config: &OtlpConfig,
        protocol: Protocol,
        resource: &opentelemetry_sdk::Resource,
        tls: Option<TlsInForce>,
        clock: Clock,
    ) -> Result<Self, OtlpSetupError> {
        let endpoint = endpoint(config)?;
        let connector = Connector::new(config, &endpoint, tls, true)?;
        let client = Arc::new(RecordingClient::new(connector, config.compression, clock));
        let mut builder = LogExporter::builder()
            .with_http()
            .with_shared_http_client(client.clone())
            .with_endpoint(endpoint.to_string())
            .with_protocol(protocol)
            .with_timeout(config.timeout)
            .with_retry_policy(RetryPolicy::disabled());
        if config.compression == Compression::Gzip {
            builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
        }
        let mut exporter = builder.build().map_err(OtlpSetupError::exporter)?;
        exporter.set_resource(resource);
        Ok(Self { exporter, client, accept_any_2xx: config.accept_any_2xx })
    }

    /// Drops the connections, so that new ones are made.
    pub(super) fn reconnect(&self) {
        *self.client.inner() = client(&self.client.connector);
    }

    /// Exports a batch with `headers`, and interprets the answer. Has no timeout of its own.
    pub(super) async fn export(&self, batch: LogBatch<'_>, headers: HeaderMap) -> Answer {
        self.client.begin(headers);
        let exported = self.exporter.export(batch).await;
        match (self.client.end(), exported) {
            (Some(Ok(reply)), _) => answer::of_http(&reply, self.accept_any_2xx),
            (Some(Err(failure)), _) => answer::no_answer(&failure),
            // The exporter failed before it called the client.
            (None, Err(error)) => Answer::Refused { message: answer::bounded(&answer::chain(&error)) },
            (None, Ok(())) => answer::no_answer("nothing was sent"),
        }
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The exporter's own Debug shows the Authorization header.
        f.write_str("HttpTransport")
    }
}

/// Returns the URL that records are posted to: `/v1/logs` under the base URL, before its query.
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

type HyperClient = Client<Connector, Full<Bytes>>;

/// The client under the exporter: sends one request and keeps its answer for [`HttpTransport::export`].
struct RecordingClient {
    connector: Connector,
    inner: Mutex<HyperClient>,
    compression: Compression,
    clock: Clock,
    exchange: Mutex<Exchange>,
}

fn client(connector: &Connector) -> HyperClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build(connector.clone())
}

#[derive(Default)]
struct Exchange {
    headers: HeaderMap,
    outcome: Option<Result<HttpReply, String>>,
}

impl RecordingClient {
    fn new(connector: Connector, compression: Compression, clock: Clock) -> Self {
        let inner = Mutex::new(client(&connector));
        Self { connector, inner, compression, clock, exchange: Mutex::default() }
    }

    fn inner(&self) -> parking_lot::MutexGuard<'_, HyperClient> {
        self.inner.lock()
    }

    fn begin(&self, headers: HeaderMap) {
        *self.exchange() = Exchange { headers, outcome: None };
    }

    fn end(&self) -> Option<Result<HttpReply, String>> {
        std::mem::take(&mut *self.exchange()).outcome
    }

    fn exchange(&self) -> parking_lot::MutexGuard<'_, Exchange> {
        self.exchange.lock()
    }

    /// Gives the exporter's request the configuration's headers and compression.
    fn configured(&self, request: Request<Bytes>) -> Result<Request<Full<Bytes>>, HttpError> {
        let (mut parts, mut body) = request.into_parts();
        let made = std::mem::replace(&mut parts.headers, self.exchange().headers.clone());
        parts.headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT_VALUE));
        if let Some(authorization) = self.connector.proxy_authorization() {
            parts.headers.insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        parts.headers.remove(CONTENT_ENCODING);
        for name in [CONTENT_TYPE, CONTENT_ENCODING] {
            if let Some(value) = made.get(&name) {
                parts.headers.insert(name, value.clone());
            }
        }
        // Without a compression of its own the exporter uses the environment's.
        if self.compression == Compression::None && parts.headers.remove(CONTENT_ENCODING).is_some() {
            let mut plain = Vec::new();
            GzDecoder::new(&*body).read_to_end(&mut plain)?;
            body = plain.into();
        }
        Ok(Request::from_parts(parts, Full::new(body)))
    }

    async fn send(&self, request: Request<Bytes>) -> Result<HttpReply, HttpError> {
        let client = self.inner().clone();
        let response = client.request(self.configured(request)?).await?;
        Ok(super::read(response, &self.clock).await?)
    }
}

#[async_trait]
impl HttpClient for RecordingClient {
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

impl fmt::Debug for RecordingClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SERVICE_NAME)
    }
}
