//! A client of `/status`: one request, with a password or a certificate, bounded in time and size.
//!
//! It uses no proxy: the exporter is on this machine or in this network.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Maximum time to connect.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Maximum time for the whole answer. It is longer than the exporter waits for a poller.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Maximum size of an answer in bytes. Fifty pools take about 2 MB.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Maximum size of a password file in bytes. bcrypt uses 72.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// The variable that holds the password.
const PASSWORD_VARIABLE: &str = "COGNITO_AUTH_STATUS_PASSWORD";

/// How the exporter is accessed.
#[derive(Args, Debug)]
pub(super) struct Access {
    /// User of the exporter's web configuration. The password is in --auth-password-file, or in the variable
    /// COGNITO_AUTH_STATUS_PASSWORD.
    #[arg(long, value_name = "NAME")]
    auth_user: Option<String>,
    /// File with the password of --auth-user; - is standard input.
    #[arg(long, value_name = "FILE", requires = "auth_user")]
    auth_password_file: Option<PathBuf>,
    /// File with the certificates (PEM) to trust in place of the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// File with a client certificate (PEM), where the exporter requires one.
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// File with the key of --cert-file (PEM).
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
}

/// The address of an exporter: what may be shown of its URL, and what is asked for.
#[derive(PartialEq, Debug)]
struct ExporterAddress {
    /// Scheme, host and port.
    origin: String,
    /// The path before `/status`, without a slash at its end.
    path: String,
}

impl ExporterAddress {
    /// Reads a URL. No error shows it, because it may hold a password or a token.
    ///
    /// # Errors
    /// The URL has no scheme, host or port that can be used, or has parts that may be secret.
    fn parse(url: &str) -> anyhow::Result<Self> {
        const ACCEPTED: &str = "accepted: scheme, host and port, such as http://localhost:10588";
        if url.contains('@') {
            bail!("--url holds a user or password; give it as --auth-user and --auth-password-file");
        }
        if url.contains(['?', '#']) {
            bail!("--url holds a query or fragment, which may be secret and is not used; {ACCEPTED}");
        }
        let uri: Uri = url.parse().with_context(|| format!("--url is not a URL; {ACCEPTED}"))?;
        let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!("--url cannot be used; {ACCEPTED}");
        };
        // What follows the host may be a password in the place of a port.
        let port = authority.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        if authority.host().is_empty() || *authority != *format!("{}{port}", authority.host()) {
            bail!("--url has no host and port that can be used; {ACCEPTED}");
        }
        let path = uri.path().trim_end_matches('/').trim_end_matches("/status").to_owned();
        Ok(Self { origin: format!("{scheme}://{authority}"), path })
    }
}

/// A client of one exporter.
pub(super) struct StatusClient {
    address: ExporterAddress,
    authorization: Option<HeaderValue>,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl StatusClient {
    /// Makes a client. It connects with the request.
    ///
    /// # Errors
    /// The URL or a file cannot be used.
    pub(super) fn new(url: &str, access: &Access) -> anyhow::Result<Self> {
        let address = ExporterAddress::parse(url)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_MAX));
        let tls = access.client_config(address.origin.starts_with("https:"))?;
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new()).build(https.wrap_connector(tcp));
        Ok(Self { address, authorization: access.authorization()?, client })
    }

    /// Returns scheme, host and port of the exporter, for people.
    pub(super) fn origin(&self) -> &str {
        &self.address.origin
    }

    /// Asks for the report, or for the place of a user by pool and name.
    ///
    /// # Errors
    /// Nobody answers in time, or the answer is too large.
    pub(super) async fn get(&self, user: Option<(&str, &str)>) -> anyhow::Result<(StatusCode, Bytes)> {
        let query = user.map(|(pool, name)| {
            let mut query = form_urlencoded::Serializer::new("?".to_owned());
            query.append_pair("user_pool_id", pool).append_pair("username", name).finish()
        });
        let ExporterAddress { origin, path } = &self.address;
        let mut request = Request::get(format!("{origin}{path}/status{}", query.unwrap_or_default()))
            .header(USER_AGENT, concat!("cognito-auth-exporter/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let request = request.body(Empty::new()).context("make a request")?;
        let answered = async {
            let response = self.client.request(request).await.map_err(|error| {
                let cause = anyhow!(error);
                let root = cause.root_cause().to_string();
                anyhow!("cannot reach the exporter at {origin}: {root}; is it running there? --url names another")
            })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow!("the answer of {origin} cannot be read: {error}"))?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(ANSWER_MAX, answered)
            .await
            .map_err(|_| anyhow!("{origin} did not answer within {} s", ANSWER_MAX.as_secs()))?
    }
}

impl Access {
    /// Whether a user was given.
    pub(super) fn has_user(&self) -> bool {
        self.auth_user.is_some()
    }

    /// The header with user and password (RFC 7617).
    fn authorization(&self) -> anyhow::Result<Option<HeaderValue>> {
        let Some(user) = &self.auth_user else { return Ok(None) };
        let password = match (&self.auth_password_file, std::env::var(PASSWORD_VARIABLE)) {
            (Some(file), _) => password_in(file)?,
            (None, Ok(password)) => password,
            (None, Err(_)) => bail!("--auth-user needs --auth-password-file, or the variable {PASSWORD_VARIABLE}"),
        };
        if user.contains(':') {
            bail!("--auth-user holds a colon, which no user of basic authentication can");
        }
        let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// The TLS configuration. Roots are read only where they are needed.
    fn client_config(&self, is_needed: bool) -> anyhow::Result<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        let config = match &self.ca_file {
            _ if !is_needed => config.with_root_certificates(RootCertStore::empty()),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(file)? {
                    roots.add(certificate).with_context(|| format!("--ca-file {}", file.display()))?;
                }
                config.with_root_certificates(roots)
            }
            None => config.with_native_roots().context("the system has no certificates to trust; use --ca-file")?,
        };
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) if is_needed => {
                let key_of = |error| anyhow!("{}: not an unencrypted key in PEM format: {error}", key.display());
                let private_key = PrivateKeyDer::from_pem_file(key).map_err(key_of)?;
                Ok(config.with_client_auth_cert(certificates(cert)?, private_key)?)
            }
            _ => Ok(config.with_no_client_auth()),
        }
    }
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => bail!("{} holds no certificate in PEM format", file.display()),
        Err(error) => bail!("{}: certificates in PEM format cannot be read: {error}", file.display()),
    }
}

/// Reads the password, without the newline that editors add.
fn password_in(file: &Path) -> anyhow::Result<String> {
    let mut password = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(PASSWORD_BYTES_MAX).read_to_string(&mut password)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(PASSWORD_BYTES_MAX).read_to_string(&mut password))
    };
    read.with_context(|| format!("read the password in {}", file.display()))?;
    Ok(password.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_scheme_host_port_and_the_path_before_status() {
        for (url, origin, path) in [
            ("http://localhost:10588", "http://localhost:10588", ""),
            ("https://exporter.example/", "https://exporter.example", ""),
            ("http://[::1]:3/status/", "http://[::1]:3", ""),
            ("https://h:1/cognito/status", "https://h:1", "/cognito"),
        ] {
            let expected = ExporterAddress { origin: origin.into(), path: path.into() };
            assert_eq!(ExporterAddress::parse(url).unwrap(), expected, "{url}");
        }
    }

    #[test]
    fn an_error_about_a_url_shows_nothing_of_it() {
        for (url, words) in [
            ("http://user:SECRET@h", "--auth-user and --auth-password-file"),
            ("http://user:SECRET pw@h", "--auth-user and --auth-password-file"),
            ("ftp://user:SECRET@h", "--auth-user and --auth-password-file"),
            ("user:SECRET@h", "--auth-user and --auth-password-file"),
            ("http:///user:SECRET@h", "--auth-user and --auth-password-file"),
            ("http://user:SE/CRET@h", "--auth-user and --auth-password-file"),
            ("http://h/?token=SECRET", "a query or fragment"),
            ("http://h#SECRET", "a query or fragment"),
            ("http://user:SECRET", "such as http://localhost:10588"),
            ("http://h:1:SECRET", "such as http://localhost:10588"),
            ("http://h/ SECRET", "such as http://localhost:10588"),
            ("SECRET://h", "such as http://localhost:10588"),
            ("http:///SECRET", "such as http://localhost:10588"),
            ("/SECRET", "such as http://localhost:10588"),
            ("SECRET", "such as http://localhost:10588"),
            ("", "such as http://localhost:10588"),
        ] {
            let error = format!("{:?}", ExporterAddress::parse(url).unwrap_err());
            assert!(error.contains(words), "{url}: {error}");
            assert!(!error.contains("SE") && !error.contains("user:"), "{url}: {error}");
        }
    }
}
