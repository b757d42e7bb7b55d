//! Builds the HTTP client to AWS from the environment: trusted certificates and proxies.
//!
//! `AWS_CA_BUNDLE` replaces the system's root certificates, as in the AWS CLI and boto3. Without it the system's roots
//! are trusted, which `SSL_CERT_FILE` and `SSL_CERT_DIR` can name. Proxies come from `HTTPS_PROXY`, `HTTP_PROXY`,
//! `ALL_PROXY` and `NO_PROXY`. Loopback addresses and the link-local addresses of AWS credentials are reached without a
//! proxy: a proxy would connect to its own host instead.

use std::env;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use aws_sdk_cognitoidentityprovider::config::http::HttpRequest;
use aws_sdk_cognitoidentityprovider::config::{RuntimeComponents, SharedHttpClient};
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_http_client::{Connector, proxy::ProxyConfig};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

const CA_BUNDLE: &str = "AWS_CA_BUNDLE";

/// The most bytes of a bundle. A system's own bundle has about 220 KB.
const BUNDLE_BYTES_MAX: u64 = 4 << 20;

/// The variables that name a proxy.
const PROXIES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// The link-local addresses at which AWS provides credentials to ECS tasks, EKS pods and EC2 instances.
const AWS_LINK_LOCAL: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Why the environment's HTTP client to AWS cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The file cannot be read.
    #[error("cannot read AWS_CA_BUNDLE {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a bundle of certificates.
    #[error("AWS_CA_BUNDLE {} {what}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The fault, as the end of a sentence about the file.
        what: &'static str,
    },
}

impl TransportError {
    /// The remedy, in the imperative.
    pub const REMEDY: &str =
        "name a file of certificates in PEM format that the exporter's user can read, or unset AWS_CA_BUNDLE";
}

/// Builds the HTTP client that the environment describes.
///
/// # Errors
/// The file in `AWS_CA_BUNDLE` is not a bundle of certificates.
pub(super) fn from_environment() -> Result<SharedHttpClient, TransportError> {
    let bundle = env::var_os(CA_BUNDLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let trust = bundle.as_deref().map(trusted).transpose()?.unwrap_or_default();
    let direct = client(trust.clone(), ProxyConfig::disabled());
    if PROXIES.iter().all(|name| env::var_os(name).is_none_or(|url| url.is_empty())) {
        return Ok(direct);
    }
    let proxied = client(trust, ProxyConfig::from_env());
    Ok(SharedHttpClient::new(DirectOrProxied { direct, proxied }))
}

fn client(trust: TrustStore, proxy: ProxyConfig) -> SharedHttpClient {
    let tls = TlsContext::builder().with_trust_store(trust).build().expect("TLS requires only a trust store");
    aws_smithy_http_client::Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder();
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.set_proxy_config(Some(proxy.clone()));
        let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        connector.tls_provider(provider).tls_context(tls.clone()).build()
    })
}

/// Reads the certificates of a bundle. Certificates that rustls cannot use are left out: some systems' bundles hold
/// such.
fn trusted(path: &Path) -> Result<TrustStore, TransportError> {
    let unusable = |what| TransportError::Unusable { path: path.to_owned(), what };
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(BUNDLE_BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(|source| TransportError::Unreadable { path: path.to_owned(), source })?;
    if text.len() as u64 > BUNDLE_BYTES_MAX {
        return Err(unusable("is larger than 4 MiB"));
    }
    let certificates: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_| unusable("holds something that is no certificate in PEM format"))?;
    let is_usable = |certificate: &&CertificateDer<'_>| RootCertStore::empty().add((*certificate).clone()).is_ok();
    // The SDK requires PEM, and panics at a certificate that rustls refuses.
    let usable: String = certificates.iter().filter(is_usable).map(pem).collect();
    if usable.is_empty() {
        return Err(unusable("holds no certificate that can be used"));
    }
    Ok(TrustStore::empty().with_pem_certificate(usable))
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// A client that uses the proxied client for other hosts and the direct client for this host.
#[derive(Debug)]
struct DirectOrProxied {
    direct: SharedHttpClient,
    proxied: SharedHttpClient,
}

impl HttpClient for DirectOrProxied {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(DirectOrProxiedConnector {
            direct: self.direct.http_connector(settings, components),
            proxied: self.proxied.http_connector(settings, components),
        })
    }
}

#[derive(Debug)]
struct DirectOrProxiedConnector {
    direct: SharedHttpConnector,
    proxied: SharedHttpConnector,
}

impl HttpConnector for DirectOrProxiedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let uri: Result<Uri, _> = request.uri().parse();
        let is_here = uri.is_ok_and(|uri| uri.host().is_some_and(is_of_this_host));
        if is_here { self.direct.call(request) } else { self.proxied.call(request) }
    }
}

/// Returns whether a URL's host can be reached only from this host.
fn is_of_this_host(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match address.map(|address| address.to_canonical()) {
        Ok(address) => address.is_loopback() || AWS_LINK_LOCAL.contains(&address),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(url: &str) -> bool {
        is_of_this_host(url.parse::<Uri>().unwrap().host().unwrap())
    }

    #[test]
    fn credentials_of_this_host_are_asked_for_without_a_proxy_and_nothing_else_is() {
        for url in [
            "http://169.254.170.2/v2/credentials/7",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials",
            "http://169.254.169.254/latest/meta-data",
            "http://[fd00:ec2::254]/latest/meta-data",
            "http://127.0.0.1:8080/",
            "http://127.9.9.9/",
            "https://[::1]:8443/",
            "http://[::ffff:127.0.0.1]/",
            "http://localhost:51679/creds",
            "http://LocalHost/",
        ] {
            assert!(host(url), "{url}");
        }
        for url in [
            "https://cognito-idp.eu-west-1.amazonaws.com/",
            "https://sts.amazonaws.com/",
            "http://169.254.1.1/",
            "http://10.0.0.1/",
            "http://128.0.0.1/",
            "http://[fd00:ec2::253]/",
            "http://localhost.example.com/",
            "http://127.0.0.1.example.com/",
        ] {
            assert!(!host(url), "{url}");
        }
    }

    #[test]
    fn a_bundle_is_a_file_of_certificates_or_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.pem");
        let told = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            trusted(&path).map(|_| ()).map_err(|error| error.to_string())
        };
        let own = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap().pem()
        };
        let (one, two) = (own("one"), own("two"));
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(told(format!("# the company's\n{one}{nonsense}{two}").as_bytes()), Ok(()));
        for (text, expected) in [
            (b"".as_slice(), "holds no certificate that can be used"),
            (b"hello", "holds no certificate that can be used"),
            (nonsense.as_bytes(), "holds no certificate that can be used"),
            (one.replace("-----END", "-----").as_bytes(), "holds something that is no certificate in PEM format"),
            (&vec![b'\n'; 5 << 20], "is larger than 4 MiB"),
        ] {
            assert_eq!(told(text).unwrap_err(), format!("AWS_CA_BUNDLE {} {expected}", path.display()));
        }
        let absent = trusted(&folder.path().join("absent")).unwrap_err();
        assert!(absent.to_string().starts_with("cannot read AWS_CA_BUNDLE "), "{absent}");
        // The SDK accepts every certificate that passes.
        std::fs::write(&path, &one).unwrap();
        client(trusted(&path).unwrap(), ProxyConfig::disabled());
    }
}
