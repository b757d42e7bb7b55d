//! The sections of the configuration: every key with its shape, its range and its contradictions.
//!
//! Each section has a function, in the order of `config.example.toml`, which gives the reasons for the ranges. Defaults
//! are those of the Config types. The reader notes a mistake and continues. The value that is returned beside a mistake
//! is a placeholder, which no other module sees.

use std::collections::{BTreeMap, BTreeSet};

use cognito_auth_core::budget::RATE_MAX_PER_SECOND;
use cognito_auth_core::masking::{Mode, Modes};
use cognito_auth_core::ocsf::OcsfVersion;
use cognito_auth_core::record::TimestampSource;
use cognito_auth_core::shard::{self, Shard};
use http::{HeaderName, HeaderValue, Uri};

use super::effective::{EffectiveSetting, HIDDEN, SettingsRecord};
use super::environment::{LOGS_ENDPOINT, POD_NAMES, RESOURCE_ATTRIBUTES, SERVICE_NAME, variable_name};
use super::key_path::KeyPath;
use super::keys::Keys;
use super::mistakes::{Mistake, SettingOrigin};
use super::reader::{SettingsFindings, SettingsTable};
use super::settings::{DEFAULT_FILES, Settings};
use super::shapes::{
    Given, Shape, duration, flag, line, moment, name, number, parsed, path, percentage, size, socket_address, text,
    whole, word,
};
use super::{
    Audit, Compression, Config, DiscoveryConfig, ExportConfig, FirehoseConfig, HttpConfig, LogConfig, LogFormat,
    OtlpConfig, OtlpProtocol, PollConfig, PoolConfig, PrivacyConfig, Proxies, Rate, Schema, Secret, StateConfig,
    StatusLinks, ZeroSeries, origin, pairs,
};
use cognito_auth_core::users::selection::{HistoryDepth, SelectionRules};

/// The result of reading the settings.
pub(super) struct ConfigReading {
    pub(super) config: Config,
    /// All mistakes.
    pub(super) mistakes: Vec<Mistake>,
    /// Mistakes in members of the specification's variables. Those members are ignored.
    pub(super) set_aside: Vec<Mistake>,
    /// The effective settings, if they were asked for.
    pub(super) effective: Vec<EffectiveSetting>,
}

/// Reads the whole configuration and collects its mistakes. `records` asks for the effective settings.
pub(super) fn read(settings: &Settings, records: bool) -> ConfigReading {
    let record = records.then(SettingsRecord::default);
    let mut findings = SettingsFindings { record, ..SettingsFindings::default() };
    let config = SettingsTable::read_root(settings, &mut findings, config);
    let mut record = findings.record.unwrap_or_default();
    if config.privacy.modes.hides_names() {
        record.hide(&NAMING_USERS);
    }
    let effective = record.into_settings();
    ConfigReading { config, mistakes: findings.mistakes, set_aside: findings.set_aside, effective }
}

/// Returns every known key: those that reading requests.
pub(super) fn keys() -> Keys {
    let mut findings = SettingsFindings::default();
    SettingsTable::read_root(&Settings::blank(), &mut findings, config);
    findings.requested
}

fn config(root: &mut SettingsTable<'_>) -> Config {
    let mut config = Config {
        pools: pools(root),
        poll: root.table("poll", poll),
        discovery: root.table("discovery", discovery),
        state: root.table("state", state),
        otlp: root.table("otlp", otlp),
        stdout_enabled: root.table("stdout", |stdout| stdout.or("enabled", false, &flag())),
        http: root.table("http", http),
        firehose: root.table("firehose", firehose),
        zero_series: root
            .table("metrics", |metrics| metrics.or("zero_series", ZeroSeries::default(), &word(ZERO_SERIES))),
        log: root.table("log", log),
        privacy: root.table("privacy", privacy),
        shard: Shard::WHOLE,
        set_aside: Vec::new(),
    };
    config.shard = root.table("shard", shard);
    reject_contradictions_of_export(root, &config);
    reject_large_audits(root, &config);
    config
}

fn pools(root: &mut SettingsTable<'_>) -> Vec<PoolConfig> {
    let file = match root.origin_of("pools") {
        SettingOrigin::Nowhere => format!(" in {}", DEFAULT_FILES.join(" or ")),
        _ => ", such as in config.example.toml".to_owned(),
    };
    let missing = format!("a [[pools]] table or more{file}, or JSON in {}", variable_name("pools"));
    let pools = root.tables("pools", &missing, pool);
    let mut first_use = BTreeMap::new();
    for (index, pool) in pools.iter().enumerate() {
        let Some(pool) = pool else { continue };
        let first = *first_use.entry(&pool.id).or_insert(index);
        if first != index {
            let path = path_of_pool(index, &pool.id).key("id");
            let text = format!("{} is the same as pools[{first}].id; accepted: each pool once", path.shown());
            root.reject_at(&path, text);
        }
    }
    pools.into_iter().flatten().collect()
}

/// Returns the path of a pool.
fn path_of_pool(index: usize, id: &str) -> KeyPath {
    let mut path = KeyPath::default().key("pools").element(index);
    path.identify(id);
    path
}

fn pool(pool: &mut SettingsTable<'_>) -> Option<PoolConfig> {
    let id = pool.required("id", &pool_id());
    id.iter().for_each(|id| pool.identify(id));
    let default = PoolConfig::new(id.clone().unwrap_or_default());
    let config = PoolConfig {
        name: pool.or("name", default.name, &line(128)),
        region: pool.or("region", default.region, &region()),
        profile: pool.optional("profile", &line(128)),
        role_arn: pool.optional("role_arn", &role_arn()),
        external_id: pool.optional("external_id", &external_id()),
        selection: selection(pool, &default.selection),
        followed_since: pool.optional("followed_since", &moment()),
        export: pool.table("export", export),
        id: default.id,
    };
    reject_contradictions_of_pool(pool, &config);
    id.map(|_| config)
}

fn export(export: &mut SettingsTable<'_>) -> Option<ExportConfig> {
    let default = ExportConfig::default();
    let config = ExportConfig {
        log_group: export.optional("log_group", &log_group()),
        read_interval: export.or("read_interval", default.read_interval, &duration("1s", "10m")),
        overlap: export.or("overlap", default.overlap, &duration("0s", "1d")),
        firehose: export.or("firehose", default.firehose, &flag()),
        audit: export.or("audit", default.audit, &word(AUDITS)),
        audit_requests_per_second: export.or(
            "audit_requests_per_second",
            default.audit_requests_per_second,
            &number(0.01..=50.0),
        ),
        grace: export.or("grace", default.grace, &duration("1m", "1d")),
        replay: export.or("replay", default.replay, &duration("3h", "31d")),
    };
    let has_source = config.log_group.is_some() || config.firehose;
    let is_misread = ["log_group", "firehose"].iter().any(|key| export.is_misread(key));
    if export.is_there() && !has_source && !is_misread {
        let [group, firehose] = ["log_group", "firehose"].map(|key| export.path_of(key));
        let text = format!("{} names no source; accepted: {group}, or {firehose} = true", export.path().shown());
        export.reject(&["log_group"], text);
    }
    if !has_source {
        export.has_no_effect(&[]);
    }
    has_source.then_some(config)
}

const AUDITS: &[(&str, Audit)] = &[("sample", Audit::Sample), ("full", Audit::Full), ("off", Audit::Off)];

fn selection(pool: &mut SettingsTable<'_>, default: &SelectionRules) -> SelectionRules {
    SelectionRules {
        usernames: pool.list("usernames", &username()),
        usernames_file: pool.optional("usernames_file", &path()),
        groups: pool.list("groups", &name(128)),
        all_users: pool.or("all_users", default.all_users, &flag()),
        filter: pool.optional("filter", &filter()),
        exclude: pool.list("exclude", &username()),
        include_disabled: pool.or("include_disabled", default.include_disabled, &flag()),
        include_federated: pool.or("include_federated", default.include_federated, &flag()),
    }
}

/// The keys whose values name users.
const NAMING_USERS: [&str; 3] = ["usernames", "filter", "exclude"];

/// The keys that select users.
const CHOICES: [&str; 5] = ["usernames", "usernames_file", "groups", "all_users", "filter"];

fn reject_contradictions_of_pool(pool: &mut SettingsTable<'_>, config: &PoolConfig) {
    // A contradiction begins with the key that is at fault, and may name others.
    let (shown, key) = (|name: &str| pool.shown(name), |name: &str| pool.path_of(name));
    let mut contradictions: Vec<(&[&str], String)> = Vec::new();
    if !config.id.is_empty() && !pool.is_set("region") && !is_region(&config.region) {
        contradictions.push((
            &["id"],
            format!(
                "{} does not begin with a region; accepted: such an id, or one with {}",
                shown("id"),
                key("region")
            ),
        ));
    }
    if pool.is_set("external_id") && !pool.is_set("role_arn") {
        let text = format!("{} is given without {}; accepted: both, or neither", shown("external_id"), key("role_arn"));
        contradictions.push((&["external_id"], text));
    }
    let SelectionRules { usernames, all_users, exclude, .. } = &config.selection;
    let selects_all =
        *all_users && !["usernames", "usernames_file", "groups", "filter"].iter().any(|key| pool.is_set(key));
    if config.export.as_ref().is_some_and(|export| export.audit == Audit::Off) && !selects_all {
        let text = format!(
            "{}.audit is \"off\", so no user is listed; accepted: {} = true and no other choice of users",
            shown("export"),
            key("all_users")
        );
        contradictions.push((&["export"], text));
    }
    if *all_users && pool.is_set("filter") {
        let text = format!("{} is true beside {}; accepted: one of them", shown("all_users"), key("filter"));
        contradictions.push((&["all_users"], text));
    }
    if !config.selection.select_users() && !CHOICES.iter().any(|choice| pool.is_misread(choice)) {
        let text = format!("{} selects nobody; accepted: at least one of {}", pool.path().shown(), CHOICES.join(", "));
        contradictions.push((&CHOICES, text));
    }
    let usernames: BTreeSet<&String> = usernames.iter().collect();
    for (index, excluded) in exclude.iter().enumerate() {
        if usernames.contains(excluded) {
            let text = format!("{}[{index}] is also in {}; accepted: one of them", shown("exclude"), key("usernames"));
            contradictions.push((&["exclude"], text));
        }
    }
    for (keys, text) in contradictions {
        pool.reject(keys, text);
    }
}

fn poll(poll: &mut SettingsTable<'_>) -> PollConfig {
    let default = PollConfig::default();
    let config = PollConfig {
        requests_per_second: poll.or("requests_per_second", default.requests_per_second, &rate()),
        concurrency: poll.or("concurrency", default.concurrency, &whole(1..=1000)),
        page_size: poll.or("page_size", default.page_size, &whole(1..=60)),
        min_interval: poll.or("min_interval", default.min_interval, &duration("1s", "1d")),
        max_interval: poll.or("max_interval", default.max_interval, &duration("10s", "30d")),
        overlap: poll.or("overlap", default.overlap, &duration("0s", "7d")),
        settle: poll.or("settle", default.settle, &duration("0s", "7d")),
        first_run: poll.or("first_run", default.first_run, &first_run()),
        timeout: poll.or("timeout", default.timeout, &duration("1s", "60s")),
    };
    let bounds = ["min_interval", "max_interval"];
    if config.min_interval > config.max_interval && !bounds.iter().any(|bound| poll.is_misread(bound)) {
        let [min, max] = [config.min_interval, config.max_interval].map(humantime::format_duration);
        let text = format!(
            "poll.min_interval ({min}) is longer than poll.max_interval ({max}); accepted: one that is at most as long"
        );
        poll.reject(&bounds, text);
    }
    config
}

fn discovery(discovery: &mut SettingsTable<'_>) -> DiscoveryConfig {
    let default = DiscoveryConfig::default();
    DiscoveryConfig {
        interval: discovery.or("interval", default.interval, &duration("10s", "1d")),
        requests_per_second: discovery.or("requests_per_second", default.requests_per_second, &number(0.01..=30.0)),
        forget_after: discovery.or("forget_after", default.forget_after, &duration("1d", "731d")),
    }
}

fn state(state: &mut SettingsTable<'_>) -> StateConfig {
    let default = StateConfig::default();
    StateConfig {
        path: state.or("path", default.path, &path()),
        cache_bytes: state.or("cache", default.cache_bytes, &size("8MiB", "64GiB")),
        outbox_limit_bytes: state.or("outbox_limit", default.outbox_limit_bytes, &size("1MiB", "1TiB")),
        quarantine_limit_bytes: state.or("quarantine_limit", default.quarantine_limit_bytes, &size("1MiB", "1TiB")),
    }
}

fn otlp(otlp: &mut SettingsTable<'_>) -> Option<OtlpConfig> {
    let is_exact = otlp.is_from_variable("endpoint", LOGS_ENDPOINT);
    let endpoint = otlp.optional("endpoint", &endpoint(is_exact));
    let is_wanted = otlp.is_set("endpoint");
    let default = OtlpConfig::new(endpoint.unwrap_or_default());
    let config = OtlpConfig {
        endpoint_is_exact: is_exact,
        protocol: otlp.or("protocol", default.protocol, &word(PROTOCOLS)),
        headers: headers(otlp),
        headers_file: otlp.optional("headers_file", &path()),
        compression: otlp.or("compression", default.compression, &word(COMPRESSIONS)),
        timeout: otlp.or("timeout", default.timeout, &duration("100ms", "5m")),
        ca_file: otlp.optional("ca_file", &path()),
        cert_file: otlp.optional("cert_file", &path()),
        key_file: otlp.optional("key_file", &path()),
        accept_any_2xx: otlp.or("accept_any_2xx", default.accept_any_2xx, &flag()),
        batch_size: otlp.or("batch_size", default.batch_size, &whole(1..=10_000)),
        batch_delay: otlp.or("batch_delay", default.batch_delay, &duration("0s", "1m")),
        timestamp: otlp.or("timestamp", default.timestamp, &word(TIMESTAMPS)),
        schema: otlp.or("schema", default.schema, &word(SCHEMAS)),
        resource_attributes: if is_wanted { resource_attributes(otlp) } else { Vec::new() },
        // The proxies of the environment are added after reading.
        proxies: Proxies::default(),
        endpoint: default.endpoint,
    };
    if let Some(fault) = fault_of_path(&config) {
        let both: &[&str] = &["endpoint", "protocol"];
        let keys = if config.protocol == OtlpProtocol::Grpc { both } else { &both[..1] };
        otlp.reject(keys, format!("otlp.endpoint {fault}"));
    }
    for [given, absent] in [["cert_file", "key_file"], ["key_file", "cert_file"]] {
        if otlp.is_set(given) && !otlp.is_set(absent) {
            let text = format!("otlp.{given} is given without otlp.{absent}; accepted: both, or neither");
            otlp.reject(&[given], text);
        }
    }
    for file in ["ca_file", "cert_file", "key_file"] {
        if otlp.is_set(file) && config.endpoint.starts_with("http:") {
            let text =
                format!("otlp.{file} is given, but otlp.endpoint has no TLS; accepted: an endpoint with https://");
            otlp.reject(&[file], text);
        }
    }
    if !is_wanted {
        otlp.has_no_effect(&["endpoint"]);
    }
    is_wanted.then_some(config)
}

fn http(http: &mut SettingsTable<'_>) -> HttpConfig {
    let default = HttpConfig::default();
    HttpConfig {
        listen: http.or("listen", default.listen, &socket_address()),
        first_scrape_wait: http.or("first_scrape_wait", default.first_scrape_wait, &duration("0s", "1h")),
        web_config_file: http.optional("web_config_file", &path()),
        links: StatusLinks {
            dashboard_url: http.optional("dashboard_url", &page_url()),
            runbook_url: http.optional("runbook_url", &page_url()),
        },
    }
}

/// The form of the URL of a page that people open.
fn page_url() -> Shape<String> {
    text("an http:// or https:// URL without user name or password", |url| {
        let Ok(uri) = url.parse::<Uri>() else { return false };
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        is_web && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    })
}

fn firehose(firehose: &mut SettingsTable<'_>) -> Option<FirehoseConfig> {
    let listen = firehose.optional("listen", &socket_address());
    let access_keys_file = firehose.optional("access_keys_file", &path());
    let web_config_file = firehose.optional("web_config_file", &path());
    let keys = ["listen", "access_keys_file"];
    if keys.iter().any(|key| firehose.is_misread(key)) {
        return None;
    }
    if !firehose.is_set("listen") {
        firehose.has_no_effect(&["listen"]);
    }
    if keys.iter().chain(&["web_config_file"]).any(|key| firehose.is_set(key)) {
        for key in keys {
            if !firehose.is_set(key) {
                let text =
                    format!("firehose.{key} is missing; accepted: both firehose.listen and firehose.access_keys_file");
                firehose.reject(&[key], text);
            }
        }
    }
    Some(FirehoseConfig { listen: listen?, access_keys_file: access_keys_file?, web_config_file })
}

/// Rejects pools whose export arrives in a way that the other sections exclude.
fn reject_contradictions_of_export(root: &mut SettingsTable<'_>, config: &Config) {
    let by_firehose = |pool: &PoolConfig| pool.export.as_ref().is_some_and(|export| export.firehose);
    let is_wanted = config.pools.iter().any(by_firehose);
    if is_wanted && config.firehose.is_none() && !root.is_misread("firehose") {
        let text = "pools[].export.firehose is true without firehose.listen and firehose.access_keys_file; accepted: all \
                    three, or none";
        root.reject(&["pools"], text.to_owned());
    }
    if is_wanted && !config.shard.is_whole() {
        let text = "pools[].export.firehose is true with a shard.count above 1; accepted: one instance, or a log group";
        root.reject(&["pools"], text.to_owned());
    }
}

/// Rejects samples that are larger than the budget of which they are a part. A budget that is a share of the account's
/// limit is unknown here.
fn reject_large_audits(root: &mut SettingsTable<'_>, config: &Config) {
    let Rate::PerSecond(budget) = config.poll.requests_per_second else { return };
    // Behind a mistake the pools may have other indexes.
    if root.is_misread("pools") || root.is_misread("poll") {
        return;
    }
    for (index, pool) in config.pools.iter().enumerate() {
        let Some(export) = pool.export.as_ref().filter(|export| export.audit == Audit::Sample) else { continue };
        let path = path_of_pool(index, &pool.id).key("export").key("audit_requests_per_second");
        if export.audit_requests_per_second > budget && root.has(&path) {
            let text = format!(
                "{} is {}, above poll.requests_per_second, of which it is a part; accepted: at most {budget}",
                path.shown(),
                export.audit_requests_per_second
            );
            root.reject_at(&path, text);
        }
    }
}

fn privacy(privacy: &mut SettingsTable<'_>) -> PrivacyConfig {
    let config = PrivacyConfig {
        modes: Modes {
            username: privacy.or("username", Mode::Keep, &word(MODES)),
            ip_address: privacy.or("ip_address", Mode::Keep, &word(ADDRESS_MODES)),
            device: privacy.or("device", Mode::Keep, &word(MODES)),
            location: privacy.or("location", Mode::Keep, &word(MODES)),
        },
        hash_key_file: privacy.optional("hash_key_file", &path()),
        former_hash_key_file: privacy.optional("former_hash_key_file", &path()),
    };
    if config.modes.need_key() && !privacy.is_set("hash_key_file") {
        let (key, why) = match config.modes {
            Modes { username: Mode::Drop, .. } => {
                ("username", "is \"drop\", and the ledger tells users apart by a hash")
            }
            Modes { username: Mode::Hash, .. } => ("username", "is \"hash\""),
            Modes { ip_address: Mode::Hash, .. } => ("ip_address", "is \"hash\""),
            Modes { device: Mode::Hash, .. } => ("device", "is \"hash\""),
            _ => ("location", "is \"hash\""),
        };
        let text = format!(
            "privacy.{key} {why}, without privacy.hash_key_file; accepted: a file with a key of 32 bytes or more"
        );
        privacy.reject(&[key], text);
    }
    if privacy.is_set("former_hash_key_file") && config.former_hash_key_file == config.hash_key_file {
        let text = "privacy.former_hash_key_file is privacy.hash_key_file; accepted: the key that was used before";
        privacy.reject(&["former_hash_key_file"], text.to_owned());
    }
    config
}

fn shard(shard: &mut SettingsTable<'_>) -> Shard {
    let index = shard.optional("index", &shard_index());
    if index.is_none() {
        shard.record("index", || Some(0.into()));
    }
    let count = shard.or("count", 1, &whole(1..=shard::COUNT_MAX));
    if shard.is_misread("index") || shard.is_misread("count") {
        return Shard::WHOLE;
    }
    let accepted = match count {
        1 => "0, or a pod's name that ends in it, such as \"exporter-0\"".to_owned(),
        _ => format!("a number from 0 to {}, or a pod's name that ends in one, such as \"exporter-0\"", count - 1),
    };
    match index {
        None if count == 1 => Shard::WHOLE,
        None => shard_of_pod(shard, count, &accepted),
        Some(index) => Shard::new(index, count).unwrap_or_else(|| {
            let text = format!("shard.index is {index} of a shard.count of {count}; accepted: {accepted}");
            shard.reject(&["index"], text);
            Shard::WHOLE
        }),
    }
}

/// Returns the share of a StatefulSet's pod, from its name.
fn shard_of_pod(shard: &mut SettingsTable<'_>, count: u32, accepted: &str) -> Shard {
    let environment = &shard.settings().environment;
    let named = POD_NAMES.iter().find_map(|variable| Some((variable, shard::index_in(environment.get(variable)?)?)));
    match named.map(|(variable, index)| (variable, index, Shard::new(index, count))) {
        Some((variable, index, Some(read))) => {
            shard.record_as("index", || Some(index.into()), Some(SettingOrigin::Variable((*variable).to_owned())));
            return read;
        }
        Some((variable, index, None)) => shard.reject_variable(
            variable,
            format!("the pod's name makes shard.index {index} of a shard.count of {count}; accepted: {accepted}"),
        ),
        None => {
            let names = POD_NAMES.join(" nor ");
            let text = format!("shard.index is missing, and neither {names} ends in a number; accepted: {accepted}");
            shard.reject(&["index", "count"], text);
        }
    }
    Shard::WHOLE
}

fn shard_index() -> Shape<u32> {
    let most = shard::COUNT_MAX - 1;
    let of_name = parsed("a pod's name that ends in one, such as \"exporter-0\"", shard::index_in);
    whole(0..=most).or(of_name)
}

fn log(log: &mut SettingsTable<'_>) -> LogConfig {
    let default = LogConfig::default();
    LogConfig {
        level: log.or("level", default.level, &word(LEVELS)),
        format: log.or("format", default.format, &word(FORMATS)),
    }
}

const PROTOCOLS: &[(&str, OtlpProtocol)] = &[
    ("grpc", OtlpProtocol::Grpc),
    ("http/protobuf", OtlpProtocol::HttpProtobuf),
    ("http/json", OtlpProtocol::HttpJson),
];
const COMPRESSIONS: &[(&str, Compression)] = &[("none", Compression::None), ("gzip", Compression::Gzip)];
const TIMESTAMPS: &[(&str, TimestampSource)] =
    &[("event", TimestampSource::Event), ("observed", TimestampSource::Observed)];
const SCHEMAS: &[(&str, Schema)] = &[
    ("cognito", Schema::Cognito),
    // Receivers rely on the version behind this word, so it stays.
    ("ocsf", Schema::Ocsf(OcsfVersion::V1_8)),
    ("ocsf-1.9", Schema::Ocsf(OcsfVersion::V1_9)),
];
const MODES: &[(&str, Mode)] = &[("keep", Mode::Keep), ("hash", Mode::Hash), ("drop", Mode::Drop)];
const ADDRESS_MODES: &[(&str, Mode)] =
    &[("keep", Mode::Keep), ("hash", Mode::Hash), ("truncate", Mode::Truncate), ("drop", Mode::Drop)];
const HISTORIES: &[(&str, HistoryDepth)] = &[("none", HistoryDepth::None), ("all", HistoryDepth::All)];
const ZERO_SERIES: &[(&str, ZeroSeries)] = &[("all", ZeroSeries::All), ("seen", ZeroSeries::Seen)];
const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
const LEVELS: &[(&str, tracing::Level)] = &[
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

fn rate() -> Shape<Rate> {
    let per_second = number(0.01..=RATE_MAX_PER_SECOND).map(Rate::PerSecond, |rate| match rate {
        Rate::PerSecond(rate) => Some(*rate),
        Rate::ShareOfLimit(_) => None,
    });
    let share = percentage().map(Rate::ShareOfLimit, |rate| match rate {
        Rate::ShareOfLimit(share) => Some(*share),
        Rate::PerSecond(_) => None,
    });
    per_second.or(share)
}

fn first_run() -> Shape<HistoryDepth> {
    // Cognito keeps two years of events, of which one may be a leap year.
    let last = duration("1s", "731d").map(HistoryDepth::Last, |depth| match depth {
        HistoryDepth::Last(duration) => Some(*duration),
        HistoryDepth::None | HistoryDepth::All => None,
    });
    word(HISTORIES).or(last)
}

/// The form of a user pool id in AWS's API: `[\w-]+_[0-9a-zA-Z]+`, 1 to 55 characters.
fn pool_id() -> Shape<String> {
    text("a user pool id, such as \"eu-west-1_Abc123\"", |id| {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        id.len() <= 55
            && id.rsplit_once('_').is_some_and(|(region, suffix)| {
                !region.is_empty()
                    && region.chars().all(is_word)
                    && !suffix.is_empty()
                    && suffix.chars().all(|c| c.is_ascii_alphanumeric())
            })
    })
}

fn region() -> Shape<String> {
    text("a region, such as \"eu-west-1\"", is_region)
}

/// Returns whether a text may be a region. A region becomes part of a host name. A list of regions would be out of
/// date.
fn is_region(text: &str) -> bool {
    let is_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=32).contains(&text.len()) && text.chars().all(is_label) && !text.starts_with('-') && !text.ends_with('-')
}

fn username() -> Shape<String> {
    name(128).secret()
}

/// The name or the ARN of a log group. Names have up to 512 letters, digits and `.-_/#` (the API's model).
fn log_group() -> Shape<String> {
    let accepted = "a log group's name, such as \"/aws/vendedlogs/cognito\", or its ARN, such as \
                    \"arn:aws:logs:eu-west-1:123456789012:log-group:/aws/vendedlogs/cognito\"";
    text(accepted, |text| {
        let is_name = |name: &str| {
            let is_fine = |c: char| c.is_ascii_alphanumeric() || ".-_/#".contains(c);
            (1..=512).contains(&name.len()) && name.chars().all(is_fine)
        };
        let parts: Vec<&str> = text.splitn(7, ':').collect();
        match parts.as_slice() {
            [name] => is_name(name),
            &["arn", partition, "logs", region, account, "log-group", name] => {
                partition.starts_with("aws")
                    && is_region(region)
                    && account.len() == 12
                    && account.chars().all(|c| c.is_ascii_digit())
                    && is_name(name.strip_suffix(":*").unwrap_or(name))
            }
            _ => false,
        }
    })
}

fn role_arn() -> Shape<String> {
    text("a role's ARN, such as \"arn:aws:iam::123456789012:role/exporter\"", |arn| {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let &["arn", partition, "iam", "", account, resource] = parts.as_slice() else {
            return false;
        };
        let is_role_name = |c: char| c.is_ascii_graphic();
        partition.starts_with("aws")
            && is_region(partition)
            && account.len() == 12
            && account.chars().all(|c| c.is_ascii_digit())
            && resource.strip_prefix("role/").is_some_and(|role| !role.is_empty() && role.chars().all(is_role_name))
    })
}

/// The form of an external id in STS's API: `[\w+=,.@:\/-]*`, 2 to 1224 characters. It is not shown. AWS calls it no
/// secret, but it protects the role from a confused deputy.
fn external_id() -> Shape<String> {
    let accepted = "2 to 1224 letters, digits and characters of _+=,.@:/-";
    text(accepted, |id| {
        (2..=1224).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@:/-".contains(c))
    })
    .secret()
    .written(|_| HIDDEN)
}

/// The form of a filter in ListUsers: an attribute, `=` or `^=`, and a value in quotes; at most 256 characters.
fn filter() -> Shape<String> {
    text(
        "a filter of ListUsers, such as 'status = \"Enabled\"' or 'email ^= \"a\"', 256 characters at most",
        |filter| {
            let Some((attribute, value)) = filter.split_once('=') else {
                return false;
            };
            let attribute = attribute.trim_end_matches('^').trim().trim_matches('"');
            let value = value.trim();
            filter.chars().count() <= 256
                && !attribute.is_empty()
                && attribute.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c))
                && value.len() >= 2
                && value.starts_with('"')
                && value.ends_with('"')
                && !value.chars().any(char::is_control)
        },
    )
    .secret()
}

/// The form of a receiver's URL. A mistake does not show the URL, which may contain a password.
fn endpoint(is_exact: bool) -> Shape<String> {
    let accepted = if is_exact {
        "an http:// or https:// URL without user name, password or fragment"
    } else {
        "an http:// or https:// URL without user name, password, query or fragment, such as \"http://localhost:4318\""
    };
    text(accepted, move |url| {
        let Ok(uri) = url.parse::<Uri>() else {
            return false;
        };
        let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return false;
        };
        let has_good_port = authority.as_str().len() == authority.host().len() || authority.port_u16().is_some();
        let has_good_path = is_exact || uri.query().is_none();
        !authority.host().is_empty() && !url.contains(['@', '#']) && has_good_port && has_good_path
    })
    .secret()
    .written(|url| shown_url(url))
}

/// Returns a URL without its path and query, which may contain a secret.
fn shown_url(url: &str) -> String {
    let Ok(uri) = url.trim().parse::<Uri>() else { return HIDDEN.to_owned() };
    match origin(&uri) {
        Some(origin) if uri.path() == "/" && uri.query().is_none() => origin,
        Some(origin) => format!("{origin}/{HIDDEN}"),
        None => HIDDEN.to_owned(),
    }
}

/// Returns the mistake in a base URL's path that would make every request fail, if there is one.
fn fault_of_path(config: &OtlpConfig) -> Option<&'static str> {
    let url = config.endpoint.parse::<Uri>().ok().filter(|_| !config.endpoint_is_exact)?;
    match url.path().trim_end_matches('/') {
        "" => None,
        _ if config.protocol == OtlpProtocol::Grpc => {
            Some("has a path, which gRPC has none of; accepted: scheme, host and port")
        }
        path if path.ends_with("/v1/logs") => {
            Some("ends in /v1/logs, which is appended to it; accepted: what is before that")
        }
        _ => None,
    }
}

/// Reads header names and values: a table in the file, pairs in a variable. A mistake shows no value, and no text that
/// is not a header name. The well-formed headers of a variable of the specification apply.
fn headers(otlp: &mut SettingsTable<'_>) -> Vec<(String, Secret)> {
    let Some(given) = otlp.given("headers") else {
        otlp.record("headers", || None);
        return Vec::new();
    };
    let mut wrong = Vec::new();
    let mut headers: Vec<(String, Secret)> = Vec::new();
    for (index, written) in written_headers(given).into_iter().enumerate() {
        match written.and_then(|(name, value)| header(given, &name, value, index + 1)) {
            Ok((name, _)) if headers.iter().any(|(earlier, _)| *earlier == name) => {
                let place = place_of_header(given, &name, index + 1);
                wrong.push(format!("{place} is given twice; accepted: each header once"));
            }
            Ok(header) => headers.push(header),
            Err(what) => wrong.push(what),
        }
    }
    otlp.record("headers", || Some(headers.iter().map(|(name, _)| (name.clone(), HIDDEN)).collect()));
    if !otlp.set_aside("headers", &wrong) {
        wrong.into_iter().for_each(|what| otlp.reject(&["headers"], what));
    }
    headers
}

fn header(given: Given<'_>, name: &str, value: Option<String>, place: usize) -> Result<(String, Secret), String> {
    // gRPC allows lower case only, and HTTP ignores the case.
    let header = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("otlp.headers: name {place} is no header name; accepted: letters, digits and -_."))?;
    let value = value.filter(|value| HeaderValue::from_str(value).is_ok()).ok_or_else(|| {
        let place = place_of_header(given, name, place);
        format!("{place} is not of the accepted form; accepted: text of visible ASCII characters")
    })?;
    Ok((header.as_str().to_owned(), Secret::new(value)))
}

fn place_of_header(given: Given<'_>, name: &str, place: usize) -> String {
    if given.from_variable { format!("otlp.headers: header {place}") } else { format!("otlp.headers.{name}") }
}

/// Returns names and values as they were written. A value that is not text is None.
fn written_headers(given: Given<'_>) -> Vec<Result<(String, Option<String>), String>> {
    if let (Some(text), true) = (given.text(), given.from_variable) {
        let pairs = pairs::parse_each(text).map(|pair| match pair {
            Ok((name, value)) => Ok((name, Some(value))),
            Err(wrong) => {
                Err(format!("otlp.headers is not of the accepted form: {wrong}; accepted: {}", pairs::ACCEPTED))
            }
        });
        return pairs.collect();
    }
    let Some(table) = given.table() else {
        let kind = given.kind();
        let accepted = "a table of texts, such as { authorization = \"Bearer ...\" }";
        return vec![Err(format!("otlp.headers is {kind}; accepted: {accepted}"))];
    };
    table.iter().map(|(name, value)| Ok((name.clone(), value.as_str().map(str::to_owned)))).collect()
}

/// Returns the resource's attributes. OTEL_SERVICE_NAME overrides service.name in OTEL_RESOURCE_ATTRIBUTES.
fn resource_attributes(otlp: &mut SettingsTable<'_>) -> Vec<(String, String)> {
    let environment = &otlp.settings().environment;
    let mut attributes: Vec<(String, String)> = Vec::new();
    let mut set = |key: String, value: String| {
        attributes.retain(|(earlier, _)| *earlier != key);
        attributes.push((key, value));
    };
    let mut wrong = Vec::new();
    for pair in pairs::parse_each(environment.get(RESOURCE_ATTRIBUTES).unwrap_or_default()) {
        match pair {
            Ok((key, value)) => set(key, value),
            Err(what) => wrong.push(format!("{what}; accepted: {}", pairs::ACCEPTED)),
        }
    }
    otlp.set_aside_of_variable(RESOURCE_ATTRIBUTES, &wrong);
    if let Some(name) = environment.get(SERVICE_NAME) {
        set("service.name".to_owned(), name.to_owned());
    }
    attributes
}
