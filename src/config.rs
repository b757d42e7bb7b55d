//! What the operator asked for: `Settings` as written, [`Config`] as meant.
//!
//! Every other module sees only [`Config`]: parsed, in range, free of contradictions. What is wrong with the settings is
//! said all at once, each mistake with its key and its origin (file or environment variable).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::event::UnixMillis;

/// The whole configuration, validated. Durations and sizes are in range; names are of the service's form.
#[derive(Debug, Clone)]
pub struct Config {
    pub pools: Vec<PoolConfig>,
    pub poll: PollConfig,
    pub discovery: DiscoveryConfig,
    pub state: StateConfig,
    /// None: no OTLP delivery.
    pub otlp: Option<OtlpConfig>,
    pub stdout_enabled: bool,
    pub http: HttpConfig,
    pub log: LogConfig,
}

/// One user pool: where it is, as whom to call, and whom to follow.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    pub id: String,
    pub name: String,
    pub region: String,
    pub profile: Option<String>,
    pub role_arn: Option<String>,
    pub external_id: Option<String>,
    pub usernames: Vec<String>,
    pub usernames_file: Option<PathBuf>,
    pub groups: Vec<String>,
    pub all_users: bool,
    pub filter: Option<String>,
    pub exclude: Vec<String>,
    pub include_disabled: bool,
    pub include_federated: bool,
    pub followed_since: Option<UnixMillis>,
}

/// `poll.requests_per_second`: a rate, or a share of the account's limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Requests per second, above 0.
    PerSecond(f64),
    /// Share of the account's limit, above 0 and at most 1 ("20%" is 0.2).
    ShareOfLimit(f64),
}

/// `poll.first_run`: how far back a newly followed user's history is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstRun {
    None,
    Last(Duration),
    All,
}

#[derive(Debug, Clone)]
pub struct PollConfig {
    pub requests_per_second: Rate,
    pub concurrency: usize,
    pub page_size: u8,
    pub min_interval: Duration,
    pub max_interval: Duration,
    pub overlap: Duration,
    pub settle: Duration,
    pub first_run: FirstRun,
    pub timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct DiscoveryConfig {
    pub interval: Duration,
    pub requests_per_second: f64,
    pub forget_after: Duration,
}

#[derive(Debug, Clone)]
pub struct StateConfig {
    pub path: PathBuf,
    pub cache_bytes: u64,
    pub outbox_limit_bytes: u64,
    pub quarantine_limit_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    Grpc,
    HttpProtobuf,
    HttpJson,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
}

/// Which time an OTLP record carries as its Timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampSource {
    Event,
    Observed,
}

/// Debug of this type never shows header values.
#[derive(Debug, Clone)]
pub struct OtlpConfig {
    /// Base URL as the operator gave it; `/v1/logs` is appended over HTTP unless `endpoint_is_exact`.
    pub endpoint: String,
    /// True when the endpoint came from OTEL_EXPORTER_OTLP_LOGS_ENDPOINT, which the OTLP specification takes as it is.
    pub endpoint_is_exact: bool,
    pub protocol: OtlpProtocol,
    pub headers: Vec<(String, Secret)>,
    pub headers_file: Option<PathBuf>,
    pub compression: Compression,
    pub timeout: Duration,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub batch_size: usize,
    pub batch_delay: Duration,
    pub timestamp: TimestampSource,
    /// Attributes of the resource from OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, in their order.
    pub resource_attributes: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    pub first_scrape_wait: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone)]
pub struct LogConfig {
    pub level: tracing::Level,
    pub format: LogFormat,
}

/// A value that is never shown: its Debug says only that it is there.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Gives the value itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
