//! OTLP over HTTP with JSON: opentelemetry-otlp's exporter, with the SDK's records, on an HTTP client of our own.
//!
//! The exporter converts, encodes and compresses the batch. Its result is not usable: it is Ok for a partial success
//! and for a page of HTML, and its error is one string. So the client under it keeps the receiver's whole answer, which
//! is interpreted instead. The exporter also reads `OTEL_EXPORTER_OTLP_*` by itself. The configuration has already
//! merged those variables with its file, so the client replaces the exporter's headers and compression by the
//! configuration's.
//!
//! The SDK's record type has no constructor, and the documentation of `LogBatch::new` says that it may become private.
//! Only this file uses both.

use std::collections::HashMap;
use std::fmt;
use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use cognito_auth_core::answer::Answer;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::record::{Pairs, Record, SERVICE_NAME, SERVICE_VERSION, Severity, Value};
use flate2::read::GzDecoder;
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};
use http::{Request, Response};
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity as OtelSeverity};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::HttpError;
use opentelemetry_otlp::{LogExporter, Protocol, RetryPolicy, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _, SdkLogRecord, SdkLogger, SdkLoggerProvider};
use parking_lot::Mutex;

use super::OtlpSetupError;
use super::answer::{self, HttpReply};
use super::http_client::{HttpClient, HttpContent};
use super::tls::TlsInForce;
use crate::config::{Compression, OtlpConfig};
use crate::lifecycle::Clock;

/// Exports over HTTP with JSON.
pub(super) struct HttpJsonTransport {
    records: SdkRecords,
    exporter: LogExporter,
    client: Arc<RecordingClient>,
    accept_any_2xx: bool,
}

impl HttpJsonTransport {
    /// Makes the transport of a resource with these attributes. It connects with the first export.
    pub(super) fn new<'a>(
        config: &OtlpConfig,
        resource: impl IntoIterator<Item = (&'a str, &'a str)>,
        tls: Option<TlsInForce>,
        clock: Clock,
    ) -> Result<Self, OtlpSetupError> {
        let records = SdkRecords::new(resource);
        let client = Arc::new(RecordingClient {
            client: HttpClient::new(config, tls, clock)?,
            compression: config.compression,
            exchange: Mutex::default(),
        });
        let mut builder = LogExporter::builder()
            .with_http()
            .with_shared_http_client(client.clone())
            .with_endpoint(client.client.endpoint().to_string())
            .with_protocol(Protocol::HttpJson)
            .with_timeout(config.timeout)
            .with_retry_policy(RetryPolicy::disabled());
        if config.compression == Compression::Gzip {
            builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
        }
        let mut exporter = builder.build().map_err(OtlpSetupError::exporter)?;
        exporter.set_resource(&records.resource);
        Ok(Self { records, exporter, client, accept_any_2xx: config.accept_any_2xx })
    }

    /// Drops the connections, so that new ones are made.
    pub(super) fn reconnect(&self) {
        self.client.client.reconnect();
    }

    /// Makes the SDK's record of a record.
    pub(super) fn record(&self, record: Record<'_>) -> SdkLogRecord {
        self.records.record(record)
    }

    /// Returns the size of a request with this record alone. The exporter writes indented JSON.
    pub(super) fn size_of(&self, record: &SdkLogRecord) -> usize {
        let request = self.records.request(&[record]);
        serde_json::to_vec_pretty(&request).map_or(0, |text| text.len())
    }

    /// Exports records with `headers`, and interprets the answer. Has no timeout of its own.
    pub(super) async fn export(&self, records: &[&SdkLogRecord], headers: HeaderMap) -> Answer {
        *self.client.exchange.lock() = Exchange { headers, outcome: None };
        let exported = self.exporter.export(LogBatch::new(&self.records.scoped(records))).await;
        let exchange = std::mem::take(&mut *self.client.exchange.lock());
        match (exchange.outcome, exported) {
            (Some(Ok(reply)), _) => answer::of_http(&reply, self.accept_any_2xx),
            (Some(Err(failure)), _) => answer::no_answer(&failure),
            // The exporter failed before it called the client.
            (None, Err(error)) => Answer::Refused { message: answer::bounded(&answer::chain(&error)) },
            (None, Ok(())) => answer::no_answer("nothing was sent"),
        }
    }
}

impl fmt::Debug for HttpJsonTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The exporter's own Debug shows the Authorization header.
        f.write_str("HttpJsonTransport")
    }
}

/// Makes the SDK's records, and what surrounds them in a request.
pub(super) struct SdkRecords {
    /// Makes empty records. It has no processor and emits nothing.
    logger: SdkLogger,
    scope: InstrumentationScope,
    resource: Resource,
}

impl SdkRecords {
    /// Makes records of a resource with these attributes.
    pub(super) fn new<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let attributes = attributes.into_iter().map(|(name, value)| KeyValue::new(name.to_owned(), value.to_owned()));
        Self {
            logger: SdkLoggerProvider::builder().build().logger(SERVICE_NAME),
            scope: InstrumentationScope::builder(SERVICE_NAME).with_version(SERVICE_VERSION).build(),
            resource: Resource::builder_empty().with_attributes(attributes).build(),
        }
    }

    /// Makes the SDK's record of a record.
    pub(super) fn record(&self, made: Record<'_>) -> SdkLogRecord {
        let mut record = self.logger.create_log_record();
        if let Some(timestamp) = made.timestamp.and_then(system_time) {
            record.set_timestamp(timestamp);
        }
        // The conversion panics without an observed time.
        record.set_observed_timestamp(system_time(made.observed).unwrap_or(SystemTime::UNIX_EPOCH));
        record.set_event_name(made.event_name);
        record.set_severity_number(match made.severity {
            Severity::Info => OtelSeverity::Info,
            Severity::Warn => OtelSeverity::Warn,
            Severity::Error => OtelSeverity::Error,
        });
        record.set_severity_text(made.severity.as_str());
        record.set_body(any_value(made.body));
        record.add_attributes(made.attributes.into_iter().map(|(name, value)| (name, any_value(value))));
        record
    }

    /// Makes the request that the exporter makes of records.
    pub(super) fn request(&self, records: &[&SdkLogRecord]) -> ExportLogsServiceRequest {
        let scoped = self.scoped(records);
        let resource_logs = group_logs_by_resource_and_scope(&LogBatch::new(&scoped), &(&self.resource).into());
        ExportLogsServiceRequest { resource_logs }
    }

    /// Pairs records with their scope, as [`LogBatch::new`] requires.
    fn scoped<'a>(&'a self, records: &[&'a SdkLogRecord]) -> Vec<(&'a SdkLogRecord, &'a InstrumentationScope)> {
        records.iter().map(|record| (*record, &self.scope)).collect()
    }
}

/// Converts a time if OTLP can carry it: nanoseconds since 1970 in 64 bits, up to the year 2554.
fn system_time(time: UnixMillis) -> Option<SystemTime> {
    let millis = u64::try_from(time.0).ok()?;
    millis.checked_mul(1_000_000)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

fn any_value(value: Value<'_>) -> AnyValue {
    match value {
        Value::Text(text) => AnyValue::from(text.into_owned()),
        Value::Integer(number) => AnyValue::Int(number),
        Value::Bool(truth) => AnyValue::Boolean(truth),
        Value::Texts(texts) => list(texts.iter().map(|text| AnyValue::from(*text))),
        Value::Map(pairs) => map(pairs),
        Value::Maps(maps) => list(maps.into_iter().map(map)),
    }
}

fn list(values: impl Iterator<Item = AnyValue>) -> AnyValue {
    AnyValue::ListAny(Box::new(values.collect()))
}

fn map(pairs: Pairs<'_>) -> AnyValue {
    let map: HashMap<_, _> = pairs.into_iter().map(|(name, value)| (name.into(), any_value(value))).collect();
    AnyValue::Map(Box::new(map))
}

/// The client under the exporter: sends one request and keeps its answer for [`HttpJsonTransport::export`].
struct RecordingClient {
    client: HttpClient,
    compression: Compression,
    exchange: Mutex<Exchange>,
}

#[derive(Default)]
struct Exchange {
    headers: HeaderMap,
    outcome: Option<Result<HttpReply, String>>,
}

impl RecordingClient {
    /// Posts what the exporter made, with the configuration's headers and compression.
    async fn send(&self, request: Request<Bytes>) -> Result<HttpReply, HttpError> {
        let (made, mut body) = request.into_parts();
        let mut is_gzip = made.headers.contains_key(CONTENT_ENCODING);
        // Without a compression of its own the exporter uses the environment's.
        if self.compression == Compression::None && is_gzip {
            let mut plain = Vec::new();
            GzDecoder::new(&*body).read_to_end(&mut plain)?;
            (body, is_gzip) = (plain.into(), false);
        }
        let content = HttpContent { media_type: HeaderValue::from_static("application/json"), is_gzip, body };
        let headers = self.exchange.lock().headers.clone();
        self.client.post(content, headers).await
    }
}

#[async_trait]
impl opentelemetry_http::HttpClient for RecordingClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let outcome = self.send(request).await;
        self.exchange.lock().outcome = Some(match &outcome {
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
