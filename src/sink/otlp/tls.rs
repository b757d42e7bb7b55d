//! TLS to the receiver: the trusted certificates and the client's own, from the files that the configuration names.
//!
//! Certificates are renewed while the exporter runs, so the files are read again before exports. All files are read
//! together, and a new connection uses one such reading. A reading that cannot be used is logged and changes nothing
//! else.
//!
//! opentelemetry-otlp implements neither `OTEL_EXPORTER_OTLP_CERTIFICATE` nor the client's key and certificate. Both
//! transports get them here, from the same files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use cognito_auth_core::lasting_fault::LastingFault;
use hyper_rustls::ConfigBuilderExt as _;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::OtlpSetupError;
use crate::config::OtlpConfig;

/// The shortest time between two readings of the files. They are a few small files, read before an export.
const READ_EVERY: Duration = Duration::from_secs(5);

const CA: &str = "otlp.ca_file";
const CERT: &str = "otlp.cert_file";
const KEY: &str = "otlp.key_file";

/// The TLS configuration of new connections. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct TlsInForce(Arc<Mutex<Arc<ClientConfig>>>);

impl TlsInForce {
    pub(super) fn now(&self) -> Arc<ClientConfig> {
        self.0.lock().clone()
    }

    fn replace(&self, config: Arc<ClientConfig>) {
        *self.0.lock() = config;
    }
}

/// The certificate files and the configuration that was made from them.
#[derive(Debug)]
pub(super) struct TlsFiles {
    paths: Paths,
    /// The ALPN protocol names.
    alpn: Vec<Vec<u8>>,
    in_force: TlsInForce,
    /// The digest of the files' content that is in force.
    digest: [u8; 32],
    read_at: Instant,
    /// The fault of the last reading. One that is found once may be due to a change that is not finished.
    found: Option<String>,
    /// The fault that was logged.
    fault: LastingFault<String>,
}

#[derive(Clone, Debug)]
struct Paths {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

/// The files' content, in PEM.
struct Contents {
    /// Certificates to trust instead of the system's roots.
    ca: Option<Vec<u8>>,
    /// The client's certificate chain and its key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl TlsFiles {
    /// Reads the files that the configuration names, for the first time.
    pub(super) fn open(config: &OtlpConfig, alpn: &[&[u8]]) -> Result<Self, OtlpSetupError> {
        let identity = match (&config.cert_file, &config.key_file) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) => return Err(unusable(CERT, "needs otlp.key_file beside it")),
            (None, Some(_)) => return Err(unusable(KEY, "needs otlp.cert_file beside it")),
        };
        let paths = Paths { ca: config.ca_file.clone(), identity };
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let contents = paths.read()?;
        let in_force = TlsInForce(Arc::new(Mutex::new(contents.client_config(&alpn)?)));
        Ok(Self {
            paths,
            alpn,
            in_force,
            digest: contents.digest(),
            read_at: Instant::now(),
            found: None,
            fault: LastingFault::default(),
        })
    }

    pub(super) fn in_force(&self) -> TlsInForce {
        self.in_force.clone()
    }

    /// Reads the files again, if that is due. Returns whether another configuration is in force; then older connections
    /// must be dropped.
    pub(super) async fn renewed(&mut self) -> bool {
        let has_files = self.paths.ca.is_some() || self.paths.identity.is_some();
        if !has_files || self.read_at.elapsed() < READ_EVERY {
            return false;
        }
        self.read_at = Instant::now();
        let (paths, alpn, digest) = (self.paths.clone(), self.alpn.clone(), self.digest);
        let reading = move || -> Result<Renewal, OtlpSetupError> {
            let contents = paths.read()?;
            let now = contents.digest();
            if now == digest { Ok(None) } else { Ok(Some((now, contents.client_config(&alpn)?))) }
        };
        // On a thread for blocking work: a file system that hangs delays this export and not the runtime.
        let read = tokio::task::spawn_blocking(reading).await;
        match read.unwrap_or_else(|panic| Err(OtlpSetupError::tls(panic))) {
            Ok(None) => {
                self.found = None;
                if self.fault.succeeded() {
                    tracing::info!("the certificate files of the OTLP receiver can be used again");
                }
                false
            }
            Ok(Some((digest, config))) => {
                self.found = None;
                self.fault.succeeded();
                self.digest = digest;
                self.in_force.replace(config);
                tracing::info!("the certificate files of the OTLP receiver have changed; new connections use them");
                true
            }
            Err(error) => {
                self.fault_found(super::answer::chain(&error));
                false
            }
        }
    }

    /// Logs a fault when it is found a second time in a row.
    fn fault_found(&mut self, fault: String) {
        if self.found.as_ref() == Some(&fault) && self.fault.failed(fault.clone()) {
            tracing::error!(
                fault,
                remedy = "correct the files; until then connections use their previous content",
                "the certificate files of the OTLP receiver have changed and cannot be used"
            );
        }
        self.found = Some(fault);
    }
}

/// Makes a configuration that trusts the system's authorities and has no client certificate, for proxies.
pub(super) fn system_config() -> Result<Arc<ClientConfig>, OtlpSetupError> {
    Contents { ca: None, identity: None }.client_config(&[])
}

impl Paths {
    fn read(&self) -> Result<Contents, OtlpSetupError> {
        let read = |key, path: &PathBuf| {
            fs::read(path).map_err(|source: io::Error| OtlpSetupError::Unreadable { key, path: path.clone(), source })
        };
        let ca = self.ca.as_ref().map(|path| read(CA, path)).transpose()?;
        let identity = match &self.identity {
            Some((cert, key)) => Some((read(CERT, cert)?, read(KEY, key)?)),
            None => None,
        };
        Ok(Contents { ca, identity })
    }
}

impl Contents {
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let identity = self.identity.iter().flat_map(|(cert, key)| [cert, key]);
        for file in self.ca.iter().chain(identity) {
            digest.update(Sha256::digest(file));
        }
        digest.finalize().into()
    }

    fn client_config(&self, alpn: &[Vec<u8>]) -> Result<Arc<ClientConfig>, OtlpSetupError> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(OtlpSetupError::tls)?;
        let config = match &self.ca {
            Some(ca) => config.with_root_certificates(roots(chain(CA, ca)?)?),
            None => config.with_native_roots().map_err(|_| OtlpSetupError::NoRoots)?,
        };
        let mut config = match &self.identity {
            Some((cert, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| unusable(KEY, "must hold an unencrypted private key in PEM format"))?;
                config.with_client_auth_cert(chain(CERT, cert)?, key).map_err(OtlpSetupError::tls)?
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.to_vec();
        Ok(Arc::new(config))
    }
}

/// The digest and configuration of changed files; None if they have not changed.
type Renewal = Option<([u8; 32], Arc<ClientConfig>)>;

type Chain = Vec<CertificateDer<'static>>;

fn chain(key: &'static str, pem: &[u8]) -> Result<Chain, OtlpSetupError> {
    let chain: Option<Chain> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok();
    chain.filter(|chain| !chain.is_empty()).ok_or_else(|| unusable(key, "must hold certificates in PEM format"))
}

fn roots(certificates: Chain) -> Result<RootCertStore, OtlpSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|_| unusable(CA, "holds a certificate that cannot be read"))?;
    }
    Ok(roots)
}

fn unusable(key: &'static str, what: &'static str) -> OtlpSetupError {
    OtlpSetupError::Unusable { key, what }
}
