//! Access control of the HTTP server: TLS, users and a rate limit from the web configuration, which is read again when
//! it or a certificate changes.
//!
//! Access control applies to all paths, probes included, as in every exporter of this format. All files are read
//! together and come into force together. If one of them has a mistake, the previous configuration stays in force, and
//! the log says so once. The same holds for a configuration that removes TLS, client certificates or passwords, because
//! a file that was emptied by accident looks like that. Only a restart removes protection.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::lasting_fault::LastingFault;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use parking_lot::{Mutex, MutexGuard};
use rustls::ServerConfig;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::basic_auth::BasicAuthUsers;
use super::connections::ConnectionSlot;
use super::responder::{MemoryResponse, Responder};
use super::router;
use super::tls::{self, TlsError};
use super::web_config::{ClientAuth, Pem, RateLimit, TlsServerConfig, WebConfig, load_web_config};
use crate::config::ConfigErrors;

/// Time between two checks of the files for a change. A certificate is renewed days before it expires, and an operator
/// who removes a user expects an effect soon.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Error of a web configuration that cannot come into force.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The web configuration has mistakes.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A certificate or key cannot be used.
    #[error("{}: {cause}", path.display())]
    Tls {
        /// The web configuration.
        path: PathBuf,
        /// The cause.
        cause: TlsError,
    },
    /// The web configuration holds settings that a server with a guard of its own cannot honour.
    #[error(
        "{}: {} cannot be used here, because {why}; accepted: tls_server_config and http_server_config",
        path.display(), keys.join(", ")
    )]
    NotSupported {
        /// The web configuration.
        path: PathBuf,
        /// The keys.
        keys: Vec<&'static str>,
        /// Why they cannot be used.
        why: &'static str,
    },
    /// The web configuration removes protection, which only a restart may do.
    #[error(
        "{} would be removed from the web configuration, and a reload removes no protection; restore it, or restart \
         the exporter to serve without it",
        .0.join(", ")
    )]
    Weaker(Vec<&'static str>),
}

/// The web configuration in force. Clones share it.
#[derive(Clone)]
pub struct Web(Arc<Mutex<LoadedWebConfig>>);

/// The settings of the format that a server supports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WebScope {
    /// All settings.
    All,
    /// TLS and headers: users and rate limits are refused, for this reason.
    TlsAndHeaders(&'static str),
}

/// The last web configuration that was loaded.
#[derive(Clone)]
struct LoadedWebConfig {
    path: Option<PathBuf>,
    scope: WebScope,
    access: Arc<AccessControl>,
    stamp: Stamp,
    /// The error of the last attempt to load it, as it was logged.
    fault: LastingFault<String>,
}

impl LoadedWebConfig {
    fn new(path: Option<PathBuf>, scope: WebScope, access: AccessControl, stamp: Stamp) -> Self {
        Self { path, scope, access: Arc::new(access), stamp, fault: LastingFault::default() }
    }
}

/// The files that were read, and a digest of their contents.
#[derive(Clone, PartialEq, Default)]
struct Stamp {
    files: Vec<PathBuf>,
    digest: [u8; 32],
}

impl Stamp {
    fn of(files: Vec<PathBuf>) -> Self {
        let mut digest = Sha256::new();
        for file in &files {
            let held = fs::read(file).map(Sha256::digest).map_err(|error| error.kind());
            digest.update(format!("{held:?}"));
        }
        Self { files, digest: digest.finalize().into() }
    }

    fn is_of_now(&self) -> bool {
        Self::of(self.files.clone()).digest == self.digest
    }
}

impl Default for Web {
    /// Plain HTTP without users and limits.
    fn default() -> Self {
        let access = AccessControl::of(WebConfig::default(), None);
        Self(Arc::new(Mutex::new(LoadedWebConfig::new(None, WebScope::All, access, Stamp::default()))))
    }
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Web").field("scheme", &self.scheme()).finish_non_exhaustive()
    }
}

impl Web {
    /// Reads a web configuration and the files that it names. Blocks.
    ///
    /// # Errors
    /// The web configuration has mistakes, all of which are listed, or its certificates cannot be used.
    pub fn load(path: Option<&Path>) -> Result<Self, WebError> {
        Self::load_scope(path, WebScope::All)
    }

    /// Reads a web configuration of which a server supports only a part. Blocks.
    ///
    /// # Errors
    /// As [`Self::load`]; and the web configuration holds settings that the server does not support.
    pub(crate) fn load_scope(path: Option<&Path>, scope: WebScope) -> Result<Self, WebError> {
        let (access, stamp) = match path {
            Some(path) => AccessControl::load(path, scope)?,
            None => (AccessControl::of(WebConfig::default(), None), Stamp::default()),
        };
        let loaded = LoadedWebConfig::new(path.map(Path::to_owned), scope, access, stamp);
        Ok(Self(Arc::new(Mutex::new(loaded))))
    }

    /// Checks whether `other` may replace this configuration while clients are served: it must not remove protection.
    ///
    /// # Errors
    /// The keys of the protection that `other` removes.
    pub fn allows(&self, other: &Self) -> Result<(), WebError> {
        self.now().allows(&other.now())
    }

    /// Replaces this configuration with `other`.
    pub fn take_over(&self, other: &Self) {
        let loaded = other.loaded().clone();
        *self.loaded() = loaded;
    }

    /// Returns the scheme of the server's URLs, `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.now().tls.is_some() { "https" } else { "http" }
    }

    /// Returns the access control that is in force.
    pub(super) fn now(&self) -> Arc<AccessControl> {
        self.loaded().access.clone()
    }

    fn loaded(&self) -> MutexGuard<'_, LoadedWebConfig> {
        self.0.lock()
    }

    /// Reads the files again whenever they change, until `stop`.
    pub async fn keep(self, stop: CancellationToken) {
        loop {
            let pause = tokio::time::sleep(CHECK_INTERVAL);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
            let web = self.clone();
            // On a file system that hangs the check never ends, and the configuration in force stays.
            let check = tokio::task::spawn_blocking(move || web.reload_changed());
            if stop.run_until_cancelled(check).await.is_none() {
                return;
            }
        }
    }

    /// Reads the files again if they have changed. Blocks.
    pub fn reload_changed(&self) {
        let (path, scope, stamp, failed_before) = {
            let loaded = self.loaded();
            let Some(path) = loaded.path.clone() else { return };
            (path, loaded.scope, loaded.stamp.clone(), loaded.fault.lasts())
        };
        if !failed_before && stamp.is_of_now() {
            return;
        }
        let read = AccessControl::load(&path, scope);
        let mut loaded = self.loaded();
        if loaded.path.as_ref() != Some(&path) {
            return; // another configuration came into force meanwhile
        }
        match read.and_then(|(access, stamp)| loaded.access.allows(&access).map(|()| (access, stamp))) {
            Ok((access, stamp)) => {
                let (tls, users) = (access.tls.is_some(), access.users.are_listed());
                tracing::info!(path = %path.display(), tls, users, "web configuration reloaded");
                *loaded = LoadedWebConfig::new(Some(path), scope, access, stamp);
            }
            Err(error) => {
                let error = error.to_string();
                if loaded.fault.failed(error.clone()) {
                    tracing::error!(
                        path = %path.display(),
                        error,
                        "web configuration reload failed; keeping the current one"
                    );
                }
            }
        }
    }
}

/// Marks a request whose client is known: it had a valid password, or a certificate was required of it. Only such a
/// client is shown personal data.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownClient;

/// The access control of one web configuration: TLS, users, rate limit and headers.
pub(super) struct AccessControl {
    config: WebConfig,
    pub(super) tls: Option<Arc<ServerConfig>>,
    users: BasicAuthUsers,
    bucket: Option<Mutex<TokenBucket>>,
}

impl AccessControl {
    fn of(config: WebConfig, tls: Option<Arc<ServerConfig>>) -> Self {
        Self {
            tls,
            users: BasicAuthUsers::new(config.users.clone()),
            bucket: config.rate_limit.map(|limit| Mutex::new(TokenBucket::full(limit, Instant::now()))),
            config,
        }
    }

    /// Checks that `newer` does not remove protection.
    fn allows(&self, newer: &Self) -> Result<(), WebError> {
        let missing = self.config.protection_missing_in(&newer.config);
        if missing.is_empty() { Ok(()) } else { Err(WebError::Weaker(missing)) }
    }

    fn load(path: &Path, scope: WebScope) -> Result<(Self, Stamp), WebError> {
        let config = load_web_config(path)?;
        if let WebScope::TlsAndHeaders(why) = scope {
            let given = [("basic_auth_users", !config.users.is_empty()), ("rate_limit", config.rate_limit.is_some())];
            let keys: Vec<_> = given.into_iter().filter(|(_, is_given)| *is_given).map(|(key, _)| key).collect();
            if !keys.is_empty() {
                return Err(WebError::NotSupported { path: path.to_owned(), keys, why });
            }
        }
        let pems = |tls: &TlsServerConfig| {
            let pems = [Some(tls.cert.clone()), Some(tls.key.clone()), tls.client_ca.clone()];
            pems.into_iter().flatten().filter_map(|pem| if let Pem::File(path) = pem { Some(path) } else { None })
        };
        let files = config.tls.iter().flat_map(pems);
        // The stamp is taken before the files are used, so that a change in between is noticed.
        let stamp = Stamp::of(std::iter::once(path.to_owned()).chain(files).collect());
        let tls = config.tls.as_ref().map(tls::server).transpose();
        let tls = tls.map_err(|cause| WebError::Tls { path: path.to_owned(), cause })?;
        Ok((Self::of(config, tls), stamp))
    }

    /// Has `responder` respond to a request that passes authentication and the rate limit; refuses others. A request
    /// without a valid password counts neither for the rate limit nor for the connection's slot.
    pub(super) async fn respond(
        &self,
        mut request: Request<Incoming>,
        responder: &impl Responder,
        slot: &Arc<ConnectionSlot>,
    ) -> MemoryResponse {
        let mut response = if !self.users.allow(request.headers()).await {
            let challenge = "Basic realm=\"cognito-auth-exporter\", charset=\"UTF-8\"";
            router::refusal(StatusCode::UNAUTHORIZED, "unauthorized\n", WWW_AUTHENTICATE, challenge)
        } else if !self.has_room() {
            let text = "too many requests; rate_limit in the web configuration says how many there may be\n";
            router::refusal(StatusCode::TOO_MANY_REQUESTS, text, RETRY_AFTER, "1")
        } else {
            if self.knows_clients() {
                request.extensions_mut().insert(KnownClient);
            }
            responder.respond(request, slot).await
        };
        for (name, value) in &self.config.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        response
    }

    /// Returns whether no request without a password or a certificate is answered.
    fn knows_clients(&self) -> bool {
        let requires_certificates =
            || self.config.tls.as_ref().is_some_and(|tls| tls.client_auth == ClientAuth::Required);
        self.users.are_listed() || requires_certificates()
    }

    fn has_room(&self) -> bool {
        let Some(bucket) = &self.bucket else { return true };
        bucket.lock().take(Instant::now())
    }
}

/// A token bucket: each request takes a token, and a token comes back each interval.
struct TokenBucket {
    limit: RateLimit,
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    fn full(limit: RateLimit, now: Instant) -> Self {
        Self { limit, tokens: f64::from(limit.burst), at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let back = now.saturating_duration_since(self.at).div_duration_f64(self.limit.interval);
        self.tokens = (self.tokens + back).min(f64::from(self.limit.burst));
        self.at = now;
        let has_one = self.tokens >= 1.0;
        if has_one {
            self.tokens -= 1.0;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_may_pass_and_then_one_each_interval() {
        let limit = RateLimit { interval: Duration::from_secs(2), burst: 3 };
        let mut bucket = TokenBucket::full(limit, Instant::now());
        assert_eq!([(); 4].map(|()| bucket.take(Instant::now())), [true, true, true, false]);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!([(); 2].map(|()| bucket.take(Instant::now())), [true, false]);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!([(); 4].map(|()| bucket.take(Instant::now())), [true, true, true, false]);
    }
}
