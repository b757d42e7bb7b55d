//! Who may ask, and how: what a web configuration becomes, and its being read again when it or a certificate changes.
//!
//! Everything is behind the same door, probes too, as in every exporter of this format. What is applied is one whole
//! reading of all files; one that is of no use changes nothing but the log, which says so once. So does one that would take
//! TLS, client certificates or passwords away: an emptied file looks like that, and only a restart means it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Request, StatusCode};
use rustls::ServerConfig;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::basic_auth::BasicAuthUsers;
use super::connections::ConnectionSlot;
use super::renderings::Renderings;
use super::router::{self, Router, RouterResponse};
use super::tls::{self, TlsError};
use crate::config::{ConfigErrors, Pem, RateLimit, TlsServerConfig, WebConfig, load_web};

/// How often the files are looked at for a change. A certificate is renewed days before it ends, and a person who took
/// somebody's password away does not wait long.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a web configuration cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// It has mistakes.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Its certificates have.
    #[error("{}: {cause}", path.display())]
    Tls {
        /// The web configuration.
        path: PathBuf,
        /// What is wrong.
        cause: TlsError,
    },
    /// Only a start may take protection away.
    #[error(
        "{} would be removed from the web configuration, and a reload removes no protection; restore it, or restart the \
         exporter to serve without it",
        .0.join(", ")
    )]
    Weaker(Vec<&'static str>),
}

/// The web configuration in force. Clones share it.
#[derive(Clone)]
pub struct Web(Arc<Mutex<LoadedWebConfig>>);

/// What was read last.
#[derive(Clone)]
struct LoadedWebConfig {
    path: Option<PathBuf>,
    access: Arc<AccessControl>,
    stamp: Stamp,
    /// Why what the files hold now is of no use, as the log was told.
    fault: Option<String>,
}

/// Every file that was read, and a digest of what they held.
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
    /// Plain HTTP for everybody.
    fn default() -> Self {
        let access = Arc::new(AccessControl::of(WebConfig::default(), None));
        Self(Arc::new(Mutex::new(LoadedWebConfig { path: None, access, stamp: Stamp::default(), fault: None })))
    }
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Web").field("scheme", &self.scheme()).finish_non_exhaustive()
    }
}

impl Web {
    /// Reads a web configuration and all that it names. Blocks.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: Option<&Path>) -> Result<Self, WebError> {
        let (access, stamp) = match path {
            Some(path) => AccessControl::load(path)?,
            None => (AccessControl::of(WebConfig::default(), None), Stamp::default()),
        };
        let reading = LoadedWebConfig { path: path.map(Path::to_owned), access: Arc::new(access), stamp, fault: None };
        Ok(Self(Arc::new(Mutex::new(reading))))
    }

    /// Whether what another has read may be put in force in place of this while clients are served: it demands of them what
    /// this demands.
    ///
    /// # Errors
    /// What it no longer demands.
    pub fn allows(&self, other: &Self) -> Result<(), WebError> {
        self.now().allows(&other.now())
    }

    /// Puts what another has read in force in place of this.
    pub fn take_over(&self, other: &Self) {
        let reading = other.reading().clone();
        *self.reading() = reading;
    }

    /// Whether TLS is spoken, for people.
    pub fn scheme(&self) -> &'static str {
        if self.now().tls.is_some() { "https" } else { "http" }
    }

    /// What is in force.
    pub(super) fn now(&self) -> Arc<AccessControl> {
        self.reading().access.clone()
    }

    fn reading(&self) -> MutexGuard<'_, LoadedWebConfig> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files again whenever they change, until the stop.
    pub async fn keep(self, stop: CancellationToken) {
        loop {
            let pause = tokio::time::sleep(LOOK_EVERY);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
            let web = self.clone();
            // On a file system that hangs this look never ends, and what is in force stays so.
            let look = tokio::task::spawn_blocking(move || web.look());
            if stop.run_until_cancelled(look).await.is_none() {
                return;
            }
        }
    }

    /// Reads the files again if they have changed. Blocks.
    pub fn look(&self) {
        let (path, stamp, fault) = {
            let reading = self.reading();
            let Some(path) = reading.path.clone() else { return };
            (path, reading.stamp.clone(), reading.fault.clone())
        };
        if fault.is_none() && stamp.is_of_now() {
            return;
        }
        let read = AccessControl::load(&path);
        let mut reading = self.reading();
        if reading.path.as_ref() != Some(&path) {
            return; // another has been put in force meanwhile
        }
        match read.and_then(|(access, stamp)| reading.access.allows(&access).map(|()| (access, stamp))) {
            Ok((access, stamp)) => {
                let (tls, users) = (access.tls.is_some(), access.users.are_listed());
                tracing::info!(path = %path.display(), tls, users, "the web configuration was read again");
                *reading = LoadedWebConfig { path: Some(path), access: Arc::new(access), stamp, fault: None };
            }
            Err(error) => {
                let error = error.to_string();
                if fault.as_ref() != Some(&error) {
                    tracing::error!(
                        path = %path.display(),
                        error,
                        "the web configuration is of no use: the one before it stays in force"
                    );
                }
                reading.fault = Some(error);
            }
        }
    }
}

/// One whole reading of the files.
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

    /// Whether clients of this may be served by another reading: it is not open to more of them by mistake.
    fn allows(&self, newer: &Self) -> Result<(), WebError> {
        let missing = self.config.demands_missing_in(&newer.config);
        if missing.is_empty() { Ok(()) } else { Err(WebError::Weaker(missing)) }
    }

    fn load(path: &Path) -> Result<(Self, Stamp), WebError> {
        let config = load_web(path)?;
        let pems = |tls: &TlsServerConfig| {
            let pems = [Some(tls.cert.clone()), Some(tls.key.clone()), tls.client_ca.clone()];
            pems.into_iter().flatten().filter_map(|pem| if let Pem::File(path) = pem { Some(path) } else { None })
        };
        let files = config.tls.iter().flat_map(pems);
        // Before the files are used: what changes in between is read again.
        let stamp = Stamp::of(std::iter::once(path.to_owned()).chain(files).collect());
        let tls = config.tls.as_ref().map(tls::server).transpose();
        let tls = tls.map_err(|cause| WebError::Tls { path: path.to_owned(), cause })?;
        Ok((Self::of(config, tls), stamp))
    }

    /// Answers those who may ask. Only their requests count for the rate limit and for the connection's place: whoever has
    /// no password uses up neither.
    pub(super) async fn answer<B>(
        &self,
        request: Request<B>,
        router: &Router,
        renderings: &Renderings,
        place: &Arc<ConnectionSlot>,
    ) -> RouterResponse {
        let mut answer = if !self.users.allow(request.headers()).await {
            let challenge = "Basic realm=\"cognito-auth-exporter\", charset=\"UTF-8\"";
            router::refusal(StatusCode::UNAUTHORIZED, "unauthorized\n", WWW_AUTHENTICATE, challenge)
        } else if !self.has_room() {
            let text = "too many requests; rate_limit in the web configuration says how many there may be\n";
            router::refusal(StatusCode::TOO_MANY_REQUESTS, text, RETRY_AFTER, "1")
        } else {
            place.answering();
            let mut answer = router.answer(request, renderings).await;
            answer.body_mut().written_at(place);
            answer
        };
        for (name, value) in &self.config.headers {
            answer.headers_mut().insert(name.clone(), value.clone());
        }
        answer
    }

    fn has_room(&self) -> bool {
        let Some(bucket) = &self.bucket else { return true };
        bucket.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }
}

/// A bucket of tokens.
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
