//! The web configuration: TLS and authentication of the HTTP server, in the format that Prometheus's exporters share
//! (<https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>).
//!
//! It is read like the configuration itself. All mistakes are reported together, each with its key and what would be
//! accepted, and no secret is shown.
//!
//! Settings of the format that this server does not support are refused rather than ignored, because an operator relies
//! on them. These are TLS before 1.2, ciphers without forward secrecy, and client certificates that are requested and
//! not verified. Two settings have no effect and are accepted: `http2` (every client also speaks HTTP/1.1), and the
//! names of TLS 1.3 ciphers, which Go does not configure either.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bcrypt::HashParts;
use http::{HeaderName, HeaderValue};
use rustls::{CipherSuite, NamedGroup};

use crate::config::shapes::{Shape, flag, parsed, path, text, whole, word};
use crate::config::{ConfigErrors, Secret, SettingsTable, Values, read_file};

/// Maximum size of the file in bytes. Ten users take a kilobyte.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Maximum number of users. For more the format's documentation recommends a proxy.
const USERS_MAX: usize = 100;

/// Maximum bcrypt cost of a password. A comparison of this cost takes a few seconds, and delays all others.
const COST_MAX: u32 = 16;

/// The web configuration. The default is plain HTTP without users and limits.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct WebConfig {
    /// TLS; None for plain HTTP.
    pub tls: Option<TlsServerConfig>,
    /// Headers of every response, which replace the server's own of the same name.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The users with the bcrypt hashes of their passwords. Without users every request is allowed.
    pub users: BTreeMap<String, Secret>,
    /// The limit on the rate of requests.
    pub rate_limit: Option<RateLimit>,
}

/// `tls_server_config`.
#[derive(Clone, PartialEq, Debug)]
pub struct TlsServerConfig {
    /// The server's certificate and the intermediate certificates.
    pub cert: Pem,
    /// The key of the certificate.
    pub key: Pem,
    /// The authorities of clients' certificates.
    pub client_ca: Option<Pem>,
    /// Whether clients need a certificate.
    pub client_auth: ClientAuth,
    /// The oldest accepted version.
    pub min_version: TlsVersion,
    /// The newest accepted version.
    pub max_version: TlsVersion,
    /// The ciphers of TLS 1.2; empty for all.
    pub cipher_suites: Vec<CipherSuite>,
    /// Whether the server's order of ciphers counts rather than the client's.
    pub prefer_server_cipher_suites: bool,
    /// The groups of the key exchange in order of preference; empty for all.
    pub curve_preferences: Vec<NamedGroup>,
}

/// Certificates or a key in PEM format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pem {
    /// The path of a file.
    File(PathBuf),
    /// PEM in the web configuration itself.
    Inline(Secret),
}

/// Whether clients need a certificate. A certificate that a client sends is always verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    /// No certificate is requested.
    None,
    /// A certificate is requested but optional.
    IfGiven,
    /// A certificate is required.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// `rate_limit`: a token bucket, from which each request takes a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// Time in which a token comes back.
    pub interval: Duration,
    /// Maximum number of tokens.
    pub burst: u32,
}

impl WebConfig {
    /// Returns the keys of the protection that this configuration has and `newer` lacks.
    pub fn protection_missing_in(&self, newer: &Self) -> Vec<&'static str> {
        let requires_certificates =
            |config: &Self| config.tls.as_ref().is_some_and(|tls| tls.client_auth == ClientAuth::Required);
        [
            ("tls_server_config", self.tls.is_some() && newer.tls.is_none()),
            ("tls_server_config.client_auth_type", requires_certificates(self) && !requires_certificates(newer)),
            ("basic_auth_users", !self.users.is_empty() && newer.users.is_empty()),
        ]
        .into_iter()
        .filter(|(_, is_missing)| *is_missing)
        .map(|(key, _)| key)
        .collect()
    }
}

/// Loads a web configuration. Relative paths in it start at its directory.
///
/// # Errors
/// All mistakes together.
pub fn load_web_config(file: &Path) -> Result<WebConfig, ConfigErrors> {
    let values = values(file).map_err(|text| ConfigErrors::of_file(file, text))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    read_file(file, values, |root| web(root, folder))
}

/// Reads the file and parses its YAML.
fn values(file: &Path) -> Result<Values, String> {
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => {
            return Err(format!("cannot read the web configuration: it is larger than {FILE_BYTES_MAX} bytes"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err("cannot read the web configuration: it is not text".to_owned());
        }
        Err(error) => {
            return Err(format!(
                "cannot read the web configuration: {error}; web_config_file has to name a file that the \
                 exporter's user can read"
            ));
        }
    }
    // A snippet of the text could contain a hash or a key.
    let options = serde_saphyr::options! { with_snippet: false };
    let values: Option<Values> =
        serde_saphyr::from_str_with_options(&text, options).map_err(|error| not_yaml(&error))?;
    // An editor or a full disk may have emptied the file. An empty file must not turn TLS and passwords off.
    values.ok_or_else(|| {
        "the web configuration is empty; accepted: TLS, users or limits in it, or `{}` for plain HTTP to everybody"
            .to_owned()
    })
}

/// Describes a syntax error by its place and kind. The parser's own text may quote the input, which may be secret.
fn not_yaml(error: &serde_saphyr::Error) -> String {
    let place = error.location().map_or_else(String::new, |at| format!("line {}, column {}: ", at.line(), at.column()));
    let kind = match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { .. } => "a key is there twice; accepted: each key once",
        _ => "not a YAML mapping; accepted: the format of the Prometheus exporter-toolkit's web configuration",
    };
    format!("{place}{kind}")
}

fn web(root: &mut SettingsTable<'_>, folder: &Path) -> WebConfig {
    for key in ["tls_server_config", "basic_auth_users"] {
        if root.is_blank(key) {
            let text =
                format!("{key} is empty, which would let everybody in; accepted: what it should hold, or no such key");
            root.reject(&[key], text);
        }
    }
    let tls = root.is_set("tls_server_config");
    let server = root.table("tls_server_config", |table| tls_server(table, folder));
    let headers = root.table("http_server_config", |server| {
        let _http2 = server.optional("http2", &flag());
        server.table("headers", headers)
    });
    WebConfig {
        tls: if tls { server } else { None },
        headers,
        users: users(root),
        rate_limit: root.table("rate_limit", rate_limit),
    }
}

fn tls_server(tls: &mut SettingsTable<'_>, folder: &Path) -> Option<TlsServerConfig> {
    let is_wanted = tls.is_there();
    let mut pem = |inline: &'static str, file: &'static str, needed: bool| {
        let text = tls.optional(inline, &pem_text()).map(|text| Pem::Inline(Secret::new(text)));
        let path = tls.optional(file, &path()).map(|path| Pem::File(folder.join(path)));
        let (has_text, has_path) = (tls.is_set(inline), tls.is_set(file));
        if has_text && has_path {
            let text = format!("{} is given beside {}; accepted: one of them", tls.path_of(inline), tls.path_of(file));
            tls.reject(&[inline], text);
        } else if needed && is_wanted && !has_text && !has_path {
            let text = format!("{} is missing; accepted: a path, or PEM in {}", tls.path_of(file), tls.path_of(inline));
            tls.reject(&[file], text);
        }
        path.or(text)
    };
    let cert = pem("cert", "cert_file", true);
    let key = pem("key", "key_file", true);
    let client_ca = pem("client_ca", "client_ca_file", false);
    let client_auth = tls.or("client_auth_type", ClientAuth::None, &word(CLIENT_AUTHS));
    let has_ca = tls.is_set("client_ca") || tls.is_set("client_ca_file");
    if client_auth != ClientAuth::None && !has_ca {
        let text = "tls_server_config.client_auth_type asks for certificates, but there is no authority to verify \
                    them; accepted: tls_server_config.client_ca_file beside it";
        tls.reject(&["client_auth_type"], text.to_owned());
    }
    if client_auth == ClientAuth::None && has_ca && !tls.is_misread("client_auth_type") {
        let text = "tls_server_config.client_ca_file is given, but clients are not asked for certificates; accepted: \
                    tls_server_config.client_auth_type = RequireAndVerifyClientCert beside it";
        tls.reject(&["client_ca_file", "client_ca"], text.to_owned());
    }
    tls.not_yet("client_allowed_sans", "an authority of its own for those who may ask", |_| false);
    let min_version = tls.or("min_version", TlsVersion::Tls12, &word(VERSIONS));
    let max_version = tls.or("max_version", TlsVersion::Tls13, &word(VERSIONS));
    if min_version > max_version {
        let text = "tls_server_config.min_version is newer than max_version; accepted: one that is not".to_owned();
        tls.reject(&["min_version"], text);
    }
    let suites = tls.list("cipher_suites", &word(CIPHER_SUITES));
    let of_tls12: Vec<CipherSuite> = suites.iter().copied().filter(|suite| *suite != OF_TLS13).collect();
    if !suites.is_empty() && of_tls12.is_empty() && max_version == TlsVersion::Tls12 {
        let text = "tls_server_config.cipher_suites has none for TLS 1.2, which alone is spoken; accepted: one that is";
        tls.reject(&["cipher_suites"], text.to_owned());
    }
    Some(TlsServerConfig {
        client_ca,
        client_auth,
        min_version,
        max_version,
        cipher_suites: of_tls12,
        prefer_server_cipher_suites: tls.or("prefer_server_cipher_suites", true, &flag()),
        curve_preferences: tls.list("curve_preferences", &word(CURVES)),
        cert: cert?,
        key: key?,
    })
}

fn headers(headers: &mut SettingsTable<'_>) -> Vec<(HeaderName, HeaderValue)> {
    // An empty value means that the header is not set.
    HEADERS
        .iter()
        .filter_map(|(written, values)| {
            let value = headers.optional(written, &header_value(values))?;
            let name = HeaderName::from_bytes(written.as_bytes()).ok()?;
            (!value.is_empty()).then_some((name, value))
        })
        .collect()
}

fn users(root: &mut SettingsTable<'_>) -> BTreeMap<String, Secret> {
    let Some(given) = root.given("basic_auth_users") else { return BTreeMap::new() };
    let Some(table) = given.table() else {
        let text =
            format!("basic_auth_users is {}; accepted: names, each with the bcrypt hash of a password", given.kind());
        root.reject(&["basic_auth_users"], text);
        return BTreeMap::new();
    };
    if table.len() > USERS_MAX {
        let text = format!("basic_auth_users has {} users; accepted: at most {USERS_MAX}", table.len());
        root.reject(&["basic_auth_users"], text);
    }
    let mut users = BTreeMap::new();
    for (name, hash) in table {
        match hash.as_str().filter(|hash| is_affordable(hash)) {
            // Basic authentication cannot send a name with a colon.
            Some(hash) if !name.is_empty() && !name.contains(':') => {
                users.insert(name.clone(), Secret::new(hash));
            }
            Some(_) => {
                let text =
                    "basic_auth_users has a name that is empty or holds a colon; accepted: one without".to_owned();
                root.reject(&["basic_auth_users"], text);
            }
            None => {
                let text = format!(
                    "basic_auth_users.{name} is not a bcrypt hash of cost 4 to {COST_MAX}; accepted: what \
                     `htpasswd -nBC 10 {name}` prints behind the colon"
                );
                root.reject(&["basic_auth_users"], text);
            }
        }
    }
    users
}

fn is_affordable(hash: &str) -> bool {
    hash.parse::<HashParts>().is_ok_and(|parts| (4..=COST_MAX).contains(&parts.get_cost()))
}

fn rate_limit(limit: &mut SettingsTable<'_>) -> Option<RateLimit> {
    let interval = limit.optional("interval", &interval());
    let burst = limit.or("burst", 0, &whole(0..=1_000_000));
    let interval = interval.filter(|interval| !interval.is_zero())?;
    if burst == 0 {
        let text = "rate_limit.burst is missing or 0, which lets no request pass; accepted: 1 to 1000000".to_owned();
        limit.reject(&["burst", "interval"], text);
    }
    Some(RateLimit { interval, burst })
}

/// Stands for every cipher of TLS 1.3. They are always on.
const OF_TLS13: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;

/// The ciphers with forward secrecy, by Go's names.
const CIPHER_SUITES: &[(&str, CipherSuite)] = &[
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_AES_128_GCM_SHA256", OF_TLS13),
    ("TLS_AES_256_GCM_SHA384", OF_TLS13),
    ("TLS_CHACHA20_POLY1305_SHA256", OF_TLS13),
];
const CURVES: &[(&str, NamedGroup)] =
    &[("X25519", NamedGroup::X25519), ("CurveP256", NamedGroup::secp256r1), ("CurveP384", NamedGroup::secp384r1)];
const VERSIONS: &[(&str, TlsVersion)] = &[("TLS12", TlsVersion::Tls12), ("TLS13", TlsVersion::Tls13)];
const CLIENT_AUTHS: &[(&str, ClientAuth)] = &[
    ("NoClientCert", ClientAuth::None),
    ("VerifyClientCertIfGiven", ClientAuth::IfGiven),
    ("RequireAndVerifyClientCert", ClientAuth::Required),
];

/// The headers of the format, with their accepted values. An empty list accepts every value.
const HEADERS: &[(&str, &[&str])] = &[
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

fn header_value(values: &'static [&'static str]) -> Shape<HeaderValue> {
    let accepted = if values.is_empty() { "visible ASCII characters".to_owned() } else { values.join(", ") };
    parsed(accepted, |text| {
        let is_known = text.is_empty() || values.is_empty() || values.contains(&text);
        HeaderValue::from_str(text).ok().filter(|_| is_known)
    })
}

fn pem_text() -> Shape<String> {
    text("text in PEM format", |text| text.contains("-----BEGIN ")).secret()
}

/// A duration, which may be written as in Go or as in the exporter's own configuration.
fn interval() -> Shape<Duration> {
    parsed("a duration from \"0s\" to \"1h\"", |text| {
        let text = text.trim();
        let interval = if text == "0" { Some(Duration::ZERO) } else { humantime::parse_duration(text).ok() };
        interval.filter(|interval| *interval <= Duration::from_hours(1))
    })
}
