//! TLS towards the receiver: whom to trust, and who we are; as the files say that the configuration names, now.
//!
//! Certificates are renewed while the exporter runs, so the files are looked at again before exports. What a new connection
//! is made with is one whole reading of all files. One that is of no use changes nothing but the log.
//!
//! opentelemetry-otlp implements neither `OTEL_EXPORTER_OTLP_CERTIFICATE` nor the client's key and certificate, so both
//! transports get them here, from the same files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use hyper_rustls::ConfigBuilderExt as _;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::OtlpSetupError;
use crate::config::OtlpConfig;

/// How often the files are looked at for a change, at most: a few small files before an export.
const LOOK_EVERY: Duration = Duration::from_secs(5);

const CA: &str = "otlp.ca_file";
const CERT: &str = "otlp.cert_file";
const KEY: &str = "otlp.key_file";

/// What new connections are made with. Clones share it.
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

/// The files, and what came of them.
#[derive(Debug)]
pub(super) struct TlsFiles {
    paths: Paths,
    /// The protocols that are spoken over TLS, in ALPN's words.
    alpn: Vec<Vec<u8>>,
    in_force: TlsInForce,
    /// Of what the files held that is in force.
    digest: [u8; 32],
    looked: Instant,
    fault: Fault,
}

/// Why what the files hold is of no use.
#[derive(Debug)]
enum Fault {
    None,
    /// Seen once: they may be about to be written.
    Seen(String),
    /// Seen again, and told to the log.
    Told(String),
}

#[derive(Clone, Debug)]
struct Paths {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

/// What the files hold, PEM.
struct Contents {
    /// What to trust in place of the system's roots.
    ca: Option<Vec<u8>>,
    /// Our certificate chain and its key.
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
        Ok(Self { paths, alpn, in_force, digest: contents.digest(), looked: Instant::now(), fault: Fault::None })
    }

    pub(super) fn in_force(&self) -> TlsInForce {
        self.in_force.clone()
    }

    /// Looks at the files again, if that is due; answers whether another configuration is in force: connections that were
    /// made with the former are to be left.
    pub(super) async fn renewed(&mut self) -> bool {
        let has_files = self.paths.ca.is_some() || self.paths.identity.is_some();
        if !has_files || self.looked.elapsed() < LOOK_EVERY {
            return false;
        }
        self.looked = Instant::now();
        let (paths, alpn, digest) = (self.paths.clone(), self.alpn.clone(), self.digest);
        let reading = move || -> Result<Renewal, OtlpSetupError> {
            let contents = paths.read()?;
            let now = contents.digest();
            if now == digest { Ok(None) } else { Ok(Some((now, contents.client_config(&alpn)?))) }
        };
        // On a thread for blocking work: a file system that hangs costs this export, and not the runtime.
        let read = tokio::task::spawn_blocking(reading).await;
        match read.unwrap_or_else(|panic| Err(OtlpSetupError::tls(panic))) {
            Ok(None) => {
                if let Fault::Told(_) = std::mem::replace(&mut self.fault, Fault::None) {
                    tracing::info!("the certificate files of the OTLP receiver can be used again");
                }
                false
            }
            Ok(Some((digest, config))) => {
                self.fault = Fault::None;
                self.digest = digest;
                self.in_force.replace(config);
                tracing::info!("the certificate files of the OTLP receiver have changed; new connections use them");
                true
            }
            Err(error) => {
                self.fault_seen(super::answer::chain(&error));
                false
            }
        }
    }

    fn fault_seen(&mut self, fault: String) {
        self.fault = match std::mem::replace(&mut self.fault, Fault::None) {
            Fault::Told(before) if before == fault => Fault::Told(before),
            Fault::Seen(before) if before == fault => {
                tracing::error!(
                    fault,
                    remedy = "correct the files; until then connections use what they held before",
                    "the certificate files of the OTLP receiver have changed and cannot be used"
                );
                Fault::Told(fault)
            }
            _ => Fault::Seen(fault),
        };
    }
}

/// A configuration that trusts the system's authorities and shows no certificate, such as for a proxy.
pub(super) fn of_the_system() -> Result<Arc<ClientConfig>, OtlpSetupError> {
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

/// What changed files hold; None where they have not changed.
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
