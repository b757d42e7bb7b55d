//! TLS towards the receiver: whom to trust, and who we are.
//!
//! opentelemetry-otlp implements neither `OTEL_EXPORTER_OTLP_CERTIFICATE` nor the client's key and certificate, so both
//! transports get them here, from the same files.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::OtlpSetupError;
use crate::config::OtlpConfig;

/// The files' contents, PEM.
pub(super) struct Tls {
    /// What to trust in place of the system's roots.
    ca: Option<Vec<u8>>,
    /// Our certificate chain and its key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// Reads the files that the configuration names.
    pub(super) fn read(config: &OtlpConfig) -> Result<Self, OtlpSetupError> {
        let ca = config
            .ca_file
            .as_deref()
            .map(|path| read("otlp.ca_file", path))
            .transpose()?;
        let identity = match (&config.cert_file, &config.key_file) {
            (Some(cert), Some(key)) => Some((read("otlp.cert_file", cert)?, read("otlp.key_file", key)?)),
            (None, None) => None,
            (Some(_), None) => return Err(unusable("otlp.cert_file", "needs otlp.key_file beside it")),
            (None, Some(_)) => return Err(unusable("otlp.key_file", "needs otlp.cert_file beside it")),
        };
        let tls = Self { ca, identity };
        // Both transports would say it later, and less clearly.
        tls.certificates()?;
        Ok(tls)
    }

    /// As hyper-rustls wants it.
    pub(super) fn for_http(&self) -> Result<ClientConfig, OtlpSetupError> {
        let (ca, identity) = self.certificates()?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(OtlpSetupError::tls)?;
        let config = match ca {
            Some(certificates) => config.with_root_certificates(roots(certificates)?),
            None => config.with_native_roots().map_err(|_| OtlpSetupError::NoRoots)?,
        };
        match identity {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).map_err(OtlpSetupError::tls),
            None => Ok(config.with_no_client_auth()),
        }
    }

    /// As tonic wants it.
    pub(super) fn for_grpc(&self) -> ClientTlsConfig {
        let config = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_enabled_roots(),
        };
        match &self.identity {
            Some((cert, key)) => config.identity(Identity::from_pem(cert, key)),
            None => config,
        }
    }

    fn certificates(&self) -> Result<Certificates, OtlpSetupError> {
        let ca = self.ca.as_deref().map(|pem| chain("otlp.ca_file", pem)).transpose()?;
        let identity = match &self.identity {
            Some((cert, key)) => {
                let chain = chain("otlp.cert_file", cert)?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| unusable("otlp.key_file", "must hold an unencrypted private key in PEM format"))?;
                Some((chain, key))
            }
            None => None,
        };
        Ok((ca, identity))
    }
}

type Chain = Vec<CertificateDer<'static>>;
type Certificates = (Option<Chain>, Option<(Chain, PrivateKeyDer<'static>)>);

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, OtlpSetupError> {
    fs::read(path).map_err(|source| OtlpSetupError::Unreadable {
        key,
        path: path.to_owned(),
        source,
    })
}

fn chain(key: &'static str, pem: &[u8]) -> Result<Chain, OtlpSetupError> {
    let chain: Option<Chain> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok();
    chain
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| unusable(key, "must hold certificates in PEM format"))
}

fn roots(certificates: Chain) -> Result<RootCertStore, OtlpSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|_| unusable("otlp.ca_file", "holds a certificate that cannot be read"))?;
    }
    Ok(roots)
}

fn unusable(key: &'static str, what: &'static str) -> OtlpSetupError {
    OtlpSetupError::Unusable { key, what }
}
