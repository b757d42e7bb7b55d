//! TLS of the server: makes rustls's configuration from the web configuration.

use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io};

use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::web_config::{ClientAuth, Pem, TlsServerConfig, TlsVersion};

/// Error of the TLS configuration. It names the key and the file, and shows nothing of the file's contents.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{key}: cannot read {}: {cause}", path.display())]
    Unreadable {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// A file or an inline value does not hold the expected PEM.
    #[error("{key} {what}")]
    Unusable {
        /// The key that names the file or has the value.
        key: &'static str,
        /// The requirement that is not met.
        what: &'static str,
    },
    /// rustls refuses the configuration as a whole.
    #[error("tls_server_config: {0}")]
    Refused(String),
}

const CERT: &str = "tls_server_config.cert_file";
const KEY: &str = "tls_server_config.key_file";
const CA: &str = "tls_server_config.client_ca_file";

/// Makes the configuration of TLS handshakes.
pub(super) fn server(tls: &TlsServerConfig) -> Result<Arc<ServerConfig>, TlsError> {
    let refused = |error: rustls::Error| {
        TlsError::Refused(match error {
            rustls::Error::InconsistentKeys(_) => format!("{KEY} is not the key of {CERT}'s first certificate"),
            other => other.to_string(),
        })
    };
    let provider = Arc::new(provider(tls));
    let versions: Vec<&'static SupportedProtocolVersion> =
        [(TlsVersion::Tls12, &version::TLS12), (TlsVersion::Tls13, &version::TLS13)]
            .into_iter()
            .filter(|(version, _)| (tls.min_version..=tls.max_version).contains(version))
            .map(|(_, version)| version)
            .collect();
    let chain = certificates(CERT, &tls.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(KEY, &tls.key)?)
        .map_err(|_| TlsError::Unusable { key: KEY, what: "must hold an unencrypted private key in PEM format" })?;
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions);
    let builder = builder.map_err(refused)?;
    let builder = match &tls.client_ca {
        Some(authorities) if tls.client_auth != ClientAuth::None => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(CA, authorities)? {
                roots.add(authority).map_err(|_| TlsError::Unusable {
                    key: CA,
                    what: "holds a certificate that is no authority's or cannot be read",
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match tls.client_auth {
                ClientAuth::IfGiven => verifier.allow_unauthenticated(),
                ClientAuth::Required | ClientAuth::None => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| TlsError::Refused(error.to_string()))?)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(refused)?;
    config.ignore_client_order = tls.prefer_server_cipher_suites;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Returns a provider with the configured ciphers and groups in their order. The ciphers of TLS 1.3 are always on.
fn provider(tls: &TlsServerConfig) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if !tls.cipher_suites.is_empty() {
        let place =
            |suite: &rustls::SupportedCipherSuite| tls.cipher_suites.iter().position(|wanted| *wanted == suite.suite());
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || place(suite).is_some());
        provider.cipher_suites.sort_by_key(place);
    }
    if !tls.curve_preferences.is_empty() {
        let place = |group: &&dyn rustls::crypto::SupportedKxGroup| {
            tls.curve_preferences.iter().position(|wanted| *wanted == group.name())
        };
        provider.kx_groups.retain(|group| place(group).is_some());
        provider.kx_groups.sort_by_key(place);
    }
    provider
}

fn certificates(key: &'static str, pem: &Pem) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Option<Vec<_>> = CertificateDer::pem_slice_iter(&read(key, pem)?).collect::<Result<_, _>>().ok();
    chain
        .filter(|chain| !chain.is_empty())
        .ok_or(TlsError::Unusable { key, what: "must hold certificates in PEM format" })
}

fn read(key: &'static str, pem: &Pem) -> Result<Vec<u8>, TlsError> {
    match pem {
        Pem::Inline(text) => Ok(text.reveal().as_bytes().to_vec()),
        Pem::File(path) => fs::read(path).map_err(|cause| TlsError::Unreadable { key, path: path.clone(), cause }),
    }
}
