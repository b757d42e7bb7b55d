//! The configuration: settings as the operator wrote them become a valid [`Config`].
//!
//! Other modules see only [`Config`], which is parsed, in range and free of contradictions. All mistakes in the
//! settings are reported together. Each has its key and its origin (file or environment variable), and none shows a
//! secret value.
//!
//! Each step has a file:
//!
//! ```text
//! file, environment ==> Settings ==> SettingsTable ==> sections ==> Config
//!   (environment)      (settings)      (reader)       (sections)      |
//!                      layers and      collects       every key,      +- or ConfigErrors (mistakes)
//!                      origins         mistakes       its shape (shapes) and its range
//! ```
//!
//! `sections` is the only list of keys: it reads them, and a key that it does not read is unknown.

mod effective;
mod environment;
mod key_path;
mod keys;
mod mistakes;
mod pairs;
mod places;
mod proxies;
mod reader;
mod sections;
mod service_links;
mod settings;
pub(crate) mod shapes;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::masking::Modes;
use cognito_auth_core::ocsf::OcsfVersion;
use cognito_auth_core::record::TimestampSource;
use cognito_auth_core::shard::Shard;
use http::Uri;
use serde::Serialize;

pub use self::effective::{EffectiveSetting, HIDDEN};
pub use self::environment::{ENVIRONMENT_PREFIX, variable_name};
pub use self::mistakes::{ConfigErrors, Mistake, SettingOrigin};
pub use self::places::FilePlace;
pub use self::proxies::Proxies;
pub(crate) use self::reader::{SettingsTable, read_file};
pub use self::settings::DEFAULT_FILES;
pub(crate) use self::settings::Values;
use cognito_auth_core::users::selection::{HistoryDepth, SelectionRules};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MIB: u64 = 1 << 20;

/// Loads the configuration from a TOML file and the environment. The caller passes the environment
/// (`std::env::vars_os()`), so that tests can choose it.
///
/// Without `file` the first of [`DEFAULT_FILES`] that exists is read. If none exists, the environment alone suffices. A
/// `COGNITO_EXPORTER_*` variable overrides the file. The `OTEL_*` variables apply if both are silent. Operators write
/// them for many programs, so a mistake in one is listed in [`Config::set_aside`] and is no error. A mistake in an
/// endpoint is an error, because without an endpoint no record would be delivered.
///
/// # Errors
/// All mistakes together.
pub fn load<Name, Value>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (Name, Value)>,
) -> Result<Config, ConfigErrors>
where
    Name: Into<OsString>,
    Value: Into<OsString>,
{
    load_recorded(file, environment, false).map(|(config, _)| config)
}

/// Loads the configuration as [`load`] does, and returns beside it every key with its value in force and its origin.
///
/// # Errors
/// All mistakes together.
pub fn load_effective<Name, Value>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (Name, Value)>,
) -> Result<(Config, Vec<EffectiveSetting>), ConfigErrors>
where
    Name: Into<OsString>,
    Value: Into<OsString>,
{
    load_recorded(file, environment, true)
}

fn load_recorded<Name, Value>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (Name, Value)>,
    records: bool,
) -> Result<(Config, Vec<EffectiveSetting>), ConfigErrors>
where
    Name: Into<OsString>,
    Value: Into<OsString>,
{
    let environment: Vec<(OsString, OsString)> =
        environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let proxies = Proxies::of_environment(&environment);
    let known = sections::keys();
    let (mut settings, mut mistakes) = settings::Settings::gather(file, environment, &known)?;
    // A variable of the OpenTelemetry specification that has a mistake is ignored.
    let mut set_aside: Vec<Mistake> = mistakes.extract_if(.., |mistake| mistake.is_of_the_specification()).collect();
    let reading = loop {
        let mut reading = sections::read(&settings, records);
        let foreign: Vec<Mistake> =
            reading.mistakes.extract_if(.., |mistake| mistake.is_of_the_specification()).collect();
        if foreign.is_empty() {
            break reading;
        }
        settings = settings.without(&foreign);
        set_aside.extend(foreign);
    };
    mistakes.extend(reading.mistakes);
    ConfigErrors::none_or(mistakes)?;
    let mut config = reading.config;
    if let Some(otlp) = &mut config.otlp {
        set_aside.extend(reading.set_aside);
        set_aside.extend(proxies.unusable());
        otlp.proxies = proxies;
    }
    let mut listed = BTreeSet::new();
    set_aside.retain(|mistake| listed.insert(mistake.origin.to_string()));
    config.set_aside = set_aside;
    Ok((config, reading.effective))
}

/// Returns every key that a file may contain, such as `poll.page_size` and `pools[].id`, in alphabetical order.
pub fn keys() -> Vec<String> {
    sections::keys().into_names()
}

/// The whole configuration, validated. Durations and sizes are in range; names are of the service's form.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// At least one, each id once.
    pub pools: Vec<PoolConfig>,
    /// How users are polled.
    pub poll: PollConfig,
    /// How users are listed.
    pub discovery: DiscoveryConfig,
    /// The directory of the ledger, and its limits.
    pub state: StateConfig,
    /// OTLP delivery, if it is configured.
    pub otlp: Option<OtlpConfig>,
    /// Whether each record is also printed on stdout as one JSON line.
    pub stdout_enabled: bool,
    /// The server for metrics, health and status.
    pub http: HttpConfig,
    /// The endpoint for Data Firehose, if it is configured.
    pub firehose: Option<FirehoseConfig>,
    /// Which series of the counters are shown.
    pub zero_series: ZeroSeries,
    /// The program's own log.
    pub log: LogConfig,
    /// How personal data is stored and delivered.
    pub privacy: PrivacyConfig,
    /// This instance's share of the users.
    pub shard: Shard,
    /// Mistakes in variables that are written for many programs, one for each variable. The valid parts of the
    /// variables apply.
    pub set_aside: Vec<Mistake>,
}

/// How personal data is stored and delivered.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PrivacyConfig {
    /// The mode for each kind of personal data.
    pub modes: Modes,
    /// The file with the key of hashes; present if the modes need one.
    pub hash_key_file: Option<PathBuf>,
    /// The file with the key that was used before.
    pub former_hash_key_file: Option<PathBuf>,
}

impl Config {
    /// Creates a configuration with these pools and defaults for everything else.
    pub fn for_pools(pools: Vec<PoolConfig>) -> Self {
        Self {
            pools,
            poll: PollConfig::default(),
            discovery: DiscoveryConfig::default(),
            state: StateConfig::default(),
            otlp: None,
            stdout_enabled: false,
            http: HttpConfig::default(),
            firehose: None,
            zero_series: ZeroSeries::default(),
            log: LogConfig::default(),
            privacy: PrivacyConfig::default(),
            shard: Shard::WHOLE,
            set_aside: Vec::new(),
        }
    }
}

/// A user pool: its region, the credentials of calls, and the users to follow.
#[derive(Clone, PartialEq, Debug)]
pub struct PoolConfig {
    /// User pool id, such as `eu-west-1_Abc123`.
    pub id: String,
    /// Name for people; the id by default.
    pub name: String,
    /// AWS region; the id's prefix by default.
    pub region: String,
    /// Profile of the shared AWS configuration files.
    pub profile: Option<String>,
    /// Role to assume for every call.
    pub role_arn: Option<String>,
    /// External id that the role's trust policy requires; only with `role_arn`.
    pub external_id: Option<String>,
    /// The users to follow.
    pub selection: SelectionRules,
    /// Events from this time on count as live, regardless of the times in the ledger.
    pub followed_since: Option<UnixMillis>,
    /// Cognito's own export of the pool's events, if the exporter reads it.
    pub export: Option<ExportConfig>,
}

impl PoolConfig {
    /// Creates the pool with this id, in the region that the id names, with the SDK's default credentials and without
    /// users to follow.
    pub fn new(id: impl Into<String>) -> Self {
        let id = id.into();
        Self {
            name: id.clone(),
            region: id.rsplit_once('_').map_or("", |(region, _)| region).to_owned(),
            profile: None,
            role_arn: None,
            external_id: None,
            selection: SelectionRules::default(),
            followed_since: None,
            export: None,
            id,
        }
    }
}

/// Cognito's own export of a pool's events. Ranges and reasons: `config.example.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportConfig {
    /// Name or ARN of the log group to read.
    pub log_group: Option<String>,
    /// Pause between two reads of the log group; 1 s to 10 min.
    pub read_interval: Duration,
    /// How far each read of the log group goes back; 0 to 1 d.
    pub overlap: Duration,
    /// Whether the records arrive at the endpoint for Data Firehose.
    pub firehose: bool,
    /// What polling does beside the export.
    pub audit: Audit,
    /// Budget of the sample, 0.01 to 50 calls per second.
    pub audit_requests_per_second: f64,
    /// Time after which an event that a poll has found counts as missed by the export; 1 min to 1 d.
    pub grace: Duration,
    /// How long EventIds are remembered without an audit; 3 h to 31 d.
    pub replay: Duration,
}

impl Default for ExportConfig {
    fn default() -> Self {
        Self {
            log_group: None,
            read_interval: Duration::from_secs(10),
            overlap: 10 * MINUTE,
            firehose: false,
            audit: Audit::Sample,
            audit_requests_per_second: 0.2,
            grace: 15 * MINUTE,
            // A backup may be replayed a day later, and Firehose retries for two hours.
            replay: 26 * HOUR,
        }
    }
}

/// What polling does beside the export of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audit {
    /// It reads a sample of the users, and so audits the export.
    Sample,
    /// It goes on as if there were no export.
    Full,
    /// Nothing: there is no listing and no polling.
    Off,
}

/// The endpoint for Data Firehose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirehoseConfig {
    /// Address to listen on. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// File with one access key a line, re-read on change.
    pub access_keys_file: PathBuf,
    /// File with TLS, in the format of the server's web configuration, re-read on change.
    pub web_config_file: Option<PathBuf>,
}

/// `poll.requests_per_second`: a rate, or a share of the account's limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Requests per second, 0.01 to 1000.
    PerSecond(f64),
    /// Share of the account's limit, above 0 and at most 1 ("20%" is 0.2).
    ShareOfLimit(f64),
}

/// How users are polled. Ranges and reasons: `config.example.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct PollConfig {
    /// Budget for AdminListUserAuthEvents per account and region.
    pub requests_per_second: Rate,
    /// Maximum number of calls in flight, 1 to 1000.
    pub concurrency: usize,
    /// Largest MaxResults, 1 to 60.
    pub page_size: u8,
    /// Minimum time between two polls of a user; 1 s to 1 d, at most `max_interval`.
    pub min_interval: Duration,
    /// Objective for the longest time between two polls of a user; 10 s to 30 d.
    pub max_interval: Duration,
    /// How far below the newest known event a poll reads again; 0 to 7 d.
    pub overlap: Duration,
    /// How long an InProgress event is watched; 0 to 7 d.
    pub settle: Duration,
    /// How far back the history of a newly followed user is logged.
    pub first_run: HistoryDepth,
    /// Timeout of one API call; 1 to 60 s.
    pub timeout: Duration,
}

impl Default for PollConfig {
    fn default() -> Self {
        Self {
            // A tenth of the account's default limit of 50/s, because end users wait for calls of the same category.
            requests_per_second: Rate::PerSecond(5.0),
            // Enough for 5/s even if each call takes three seconds.
            concurrency: 16,
            // The service's maximum, which needs the fewest calls.
            page_size: 60,
            min_interval: Duration::from_secs(15),
            max_interval: HOUR,
            // AWS does not document how late events become visible, so this is generous.
            overlap: HOUR,
            // Twice the longest sign-in session (15 min).
            settle: Duration::from_secs(30 * 60),
            first_run: HistoryDepth::Last(DAY),
            timeout: Duration::from_secs(10),
        }
    }
}

/// How users are listed. Ranges and reasons: `config.example.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct DiscoveryConfig {
    /// Pause between two listings; 10 s to 1 d.
    pub interval: Duration,
    /// Budget for ListUsers and ListUsersInGroup, 0.01 to 30. The upper bound is the quota, which cannot be raised.
    pub requests_per_second: f64,
    /// Time after which the state of a user who is gone is removed; 1 to 731 d.
    pub forget_after: Duration,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            interval: 10 * MINUTE,
            // A sixth of the quota of 30/s, which lists a million users in an hour.
            requests_per_second: 5.0,
            forget_after: 30 * DAY,
        }
    }
}

/// The directory of the ledger, and its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateConfig {
    /// Directory that contains the directory `ledger`.
    pub path: PathBuf,
    /// Size of the engine's page cache in bytes, 8 MiB to 64 GiB.
    pub cache_bytes: u64,
    /// Size of the outbox in bytes at which polling pauses, 1 MiB to 1 TiB.
    pub outbox_limit_bytes: u64,
    /// Size of the quarantine in bytes at which delivery pauses, 1 MiB to 1 TiB.
    pub quarantine_limit_bytes: u64,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("./state"),
            // The engine's own default is 1 GiB, more than a small container has.
            cache_bytes: 64 * MIB,
            // About a million records.
            outbox_limit_bytes: 1024 * MIB,
            quarantine_limit_bytes: 100 * MIB,
        }
    }
}

/// The protocol of an OTLP receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with binary protobuf.
    HttpProtobuf,
    /// OTLP/HTTP with protobuf's JSON.
    HttpJson,
}

/// The compression of requests to an OTLP receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// No compression.
    None,
    /// gzip.
    Gzip,
}

/// The form of an OTLP record's body. The attributes are the same in both forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// A sentence for people.
    Cognito,
    /// An event of the Open Cybersecurity Schema Framework, in this version.
    Ocsf(OcsfVersion),
}

/// How records are delivered to an OTLP receiver. Debug of this type never shows header values.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpConfig {
    /// Base URL as the operator gave it, http or https. Over HTTP `/v1/logs` is appended unless `endpoint_is_exact`.
    pub endpoint: String,
    /// Whether the endpoint came from OTEL_EXPORTER_OTLP_LOGS_ENDPOINT, to which the OTLP specification appends
    /// nothing.
    pub endpoint_is_exact: bool,
    /// The receiver's protocol.
    pub protocol: OtlpProtocol,
    /// Valid header names in lower case, each once, and valid values.
    pub headers: Vec<(String, Secret)>,
    /// File with further headers, re-read on change.
    pub headers_file: Option<PathBuf>,
    /// The compression of requests.
    pub compression: Compression,
    /// Timeout of one export; 100 ms to 5 min.
    pub timeout: Duration,
    /// PEM file of the authorities to trust in place of the system's; only with https.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate; only with https and `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the client's key; only with https and `cert_file`.
    pub key_file: Option<PathBuf>,
    /// Whether every answer of status 2xx is a success, regardless of its body, unless the body is a web page.
    pub accept_any_2xx: bool,
    /// Maximum number of records in one export, 1 to 10,000.
    pub batch_size: usize,
    /// How long a part-filled batch waits; 0 to 1 min.
    pub batch_delay: Duration,
    /// The source of a record's Timestamp.
    pub timestamp: TimestampSource,
    /// The form of a record's body.
    pub schema: Schema,
    /// The environment's proxies.
    pub proxies: Proxies,
    /// Attributes of the resource from OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, in their order, each key once.
    pub resource_attributes: Vec<(String, String)>,
}

impl OtlpConfig {
    /// Returns scheme, host and port of the endpoint, for people. A path or query may contain a secret.
    pub fn origin(&self) -> String {
        let origin = self.endpoint.trim().parse().ok().as_ref().and_then(origin);
        origin.unwrap_or_else(|| "(not a URL)".to_owned())
    }

    /// Returns scheme, host and port of the receiver's proxy, if there is one, for people.
    pub fn proxy(&self) -> Option<String> {
        origin(self.proxies.for_url(&self.endpoint.trim().parse().ok()?)?.uri())
    }

    /// Creates the configuration of delivery to this base URL, with defaults for everything else.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            endpoint_is_exact: false,
            protocol: OtlpProtocol::HttpProtobuf,
            headers: Vec::new(),
            headers_file: None,
            compression: Compression::Gzip,
            timeout: Duration::from_secs(10),
            ca_file: None,
            cert_file: None,
            key_file: None,
            // A receiver whose answer is not OTLP's may have stored nothing.
            accept_any_2xx: false,
            // The OpenTelemetry specification's own batch size and delay for logs.
            batch_size: 512,
            batch_delay: Duration::from_secs(1),
            timestamp: TimestampSource::Event,
            schema: Schema::Cognito,
            proxies: Proxies::default(),
            resource_attributes: Vec::new(),
        }
    }
}

/// Returns scheme, host and port of a URL, the parts that may be shown. None if the URL has no host.
pub fn origin(url: &Uri) -> Option<String> {
    let (scheme, host) = (url.scheme_str()?, url.host()?);
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{scheme}://{host}{port}"))
}

/// The server for metrics, health and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Address to listen on. Port 0 takes a free one. `[::]` is every address of both families.
    pub listen: SocketAddr,
    /// How long a new pool waits for the first scrape of its counters; 0 to 1 h.
    pub first_scrape_wait: Duration,
    /// File with TLS and authentication, re-read on change. Without it the server speaks plain HTTP to every client.
    pub web_config_file: Option<PathBuf>,
    /// The pages that the status page links to.
    pub links: StatusLinks,
}

/// Pages elsewhere that help whoever reads the status page: http:// or https:// URLs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StatusLinks {
    /// The dashboard of the exporter.
    pub dashboard_url: Option<String>,
    /// The runbook of its alerts.
    pub runbook_url: Option<String>,
}

/// Which series of the `cognito_auth_*` counters are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroSeries {
    /// Every documented series from the start, also at 0, so that `increase()` sees the first event of each kind.
    #[default]
    All,
    /// Only series that are not 0.
    Seen,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 10588)),
            // One and a half times Prometheus's default scrape interval of a minute.
            first_scrape_wait: Duration::from_secs(90),
            web_config_file: None,
            links: StatusLinks::default(),
        }
    }
}

/// The format of the program's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// JSON for machines.
    Json,
}

/// The program's own log, on stderr.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The least important level that is logged.
    pub level: tracing::Level,
    /// The format of a line.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: tracing::Level::INFO, format: LogFormat::Text }
    }
}

/// A secret value. Its Debug shows `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the value, for the code that sends or compares it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
