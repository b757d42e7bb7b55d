//! Reloading: reads the configuration again while the process runs, on SIGHUP and when its file has changed.
//!
//! The configuration is validated as at a start, and comes into force as a whole or not at all. A mistake, or a key
//! that only a start can change, leaves everything as it was and is logged in one line. So the configuration in force
//! is always that of one version of the file.
//!
//! | change | effect |
//! |---|---|
//! | a pool is added, removed, or called in another way | this pool is followed anew or no longer |
//! | the selected users of a pool; `discovery.interval`, `forget_after`; `poll.first_run` | from its next pass over the listings on |
//! | `poll.requests_per_second` as a number, `discovery.requests_per_second` | from the next call on |
//! | all else in `[poll]` | all pools are followed anew, with the budgets as they are |
//! | `http.web_config_file`, `http.first_scrape_wait`, `log.level` | at once; TLS, client certificates and passwords are not taken away |
//! | everything else | none before a restart |

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cognito_auth_core::lasting_fault::LastingFault;
use tokio_util::sync::CancellationToken;
use tracing::{Level, error, info};

use super::pool_supervisor::PoolSupervisor;
use crate::config::{Config, ConfigErrors, DEFAULT_FILES, HttpConfig, LogConfig};
use crate::http::Web;
use crate::lifecycle::{Clock, Hangups};
use crate::metrics::Metrics;

/// Time between two checks of the files for a change. A change is applied when two checks in a row see the same. A file
/// that is being written may be half there, and half of it may be valid.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How a configuration is read again.
pub struct Reloads {
    /// SIGHUP.
    pub hangups: Hangups,
    /// The files, as they were just before the configuration in force was read.
    pub files: ConfigFiles,
    /// Reads and validates all of it.
    pub load: Arc<dyn Fn() -> Result<Config, ConfigErrors> + Send + Sync>,
    /// Sets the level of the program's own log.
    pub set_level: Box<dyn Fn(Level) + Send + Sync>,
}

/// Applies new configurations.
pub(super) struct Reloader {
    pub(super) reloads: Reloads,
    pub(super) supervisor: PoolSupervisor,
    pub(super) web: Web,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
}

/// The files of a configuration, and their stamps.
#[derive(Debug)]
pub struct ConfigFiles {
    paths: Vec<PathBuf>,
    seen: FileStamps,
}

/// Date, size and inode of each file; None for a file that is not there. They differ after a file was written, replaced
/// or removed.
type FileStamps = Vec<Option<(SystemTime, u64, u64)>>;

impl ConfigFiles {
    /// Stamps the named file, or without one the default files, as they are now.
    pub fn stamped(named: Option<&Path>) -> Self {
        let paths = named.map_or_else(|| DEFAULT_FILES.map(PathBuf::from).to_vec(), |file| vec![file.to_owned()]);
        let seen = paths.iter().map(|path| stamp(&std::fs::metadata(path).ok()?)).collect();
        Self { paths, seen }
    }

    /// The file that the configuration is read from: the named one, or the first default one that is there.
    pub fn in_use(&self) -> Option<&Path> {
        self.paths.iter().zip(&self.seen).find(|(_, seen)| seen.is_some()).map(|(path, _)| path.as_path())
    }

    async fn stamps_now(&self) -> FileStamps {
        let mut seen = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            seen.push(tokio::fs::metadata(path).await.ok().and_then(|metadata| stamp(&metadata)));
        }
        seen
    }
}

fn stamp(metadata: &Metadata) -> Option<(SystemTime, u64, u64)> {
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

impl Reloader {
    /// Reloads until the stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(mut self) {
        let mut last = self.reloads.files.seen.clone();
        let mut fault = LastingFault::default();
        loop {
            let reason = tokio::select! {
                () = self.reloads.hangups.next() => Some("SIGHUP"),
                () = tokio::time::sleep(CHECK_INTERVAL) => None,
            };
            let now = self.reloads.files.stamps_now().await;
            let is_stable = now == std::mem::replace(&mut last, now.clone());
            let is_another = is_stable && now != self.reloads.files.seen;
            if let Some(reason) = reason.or(is_another.then_some("the file has changed")) {
                // Stamped before it is read, so that a later change counts as another one.
                self.reloads.files.seen = now;
                // A person waits for the result, so the same fault is logged again.
                fault = LastingFault::default();
                self.reload(reason, &mut fault).await;
            } else if fault.lasts() {
                // The fault may lie in a file that it names (a certificate, a secret that is mounted later), or pass by
                // itself.
                self.reload("it failed before", &mut fault).await;
            }
        }
    }

    /// Reloads once, and notes in `lasting` whether that failed.
    async fn reload(&mut self, reason: &'static str, lasting: &mut LastingFault<String>) {
        let outcome = self.try_reload().await;
        self.metrics.config_reloaded(outcome.is_ok(), self.clock.now());
        match outcome {
            Ok(what) => {
                lasting.succeeded();
                info!(reason, what, "configuration reloaded");
            }
            Err(fault) => {
                if lasting.failed(fault.clone()) {
                    error!(reason, fault, "configuration reload failed; keeping the current one");
                }
            }
        }
    }

    /// Reads and applies the configuration. Returns a text about what has changed, or the fault for which nothing has.
    async fn try_reload(&mut self) -> Result<String, String> {
        let load = self.reloads.load.clone();
        let config = blocking(move || load()).await?.map_err(|errors| errors.to_string().replace('\n', "; "))?;
        let before = self.supervisor.config().clone();
        let fixed = needs_restart(&before, &config);
        if !fixed.is_empty() {
            return Err(format!("{} can be changed by a restart only", fixed.join(", ")));
        }
        let path = config.http.web_config_file.clone();
        let door = blocking(move || Web::load(path.as_deref())).await?.map_err(|error| error.to_string())?;
        self.web.allows(&door).map_err(|error| error.to_string())?;
        if config == before {
            self.web.take_over(&door);
            return Ok("nothing has changed".to_owned());
        }
        let (level, rates_differ) = (config.log.level, config.poll != before.poll);
        let changed = self.supervisor.change(config).await.map_err(|error| error.to_string())?;
        self.web.take_over(&door);
        (self.reloads.set_level)(level);
        let mut what: Vec<String> =
            [(changed.added, "added"), (changed.removed, "removed"), (changed.changed, "changed")]
                .into_iter()
                .filter(|(pools, _)| *pools > 0)
                .map(|(pools, how)| format!("pools {how}: {pools}"))
                .collect();
        if changed.anew {
            what.push("all pools are followed anew".to_owned());
        } else if rates_differ {
            what.push("rates".to_owned());
        }
        Ok(if what.is_empty() { "settings".to_owned() } else { what.join(", ") })
    }
}

/// Reads on a thread for blocking work, so that a file system that hangs holds up only the reload.
async fn blocking<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(read).await.map_err(|panic| panic.to_string())
}

/// The keys that differ and that need a restart. The patterns name every key, so that none is forgotten: keys that are
/// ignored here are applied elsewhere.
fn needs_restart(before: &Config, after: &Config) -> Vec<&'static str> {
    let Config {
        pools: _,
        poll: _,
        discovery: _,
        state,
        otlp,
        stdout_enabled,
        http,
        firehose,
        zero_series,
        privacy,
        log,
        shard,
        set_aside: _,
    } = before;
    let HttpConfig { listen, first_scrape_wait: _, web_config_file: _, links } = http;
    let LogConfig { level: _, format } = log;
    [
        ("state.path", state.path != after.state.path),
        ("state.cache", state.cache_bytes != after.state.cache_bytes),
        ("state.outbox_limit", state.outbox_limit_bytes != after.state.outbox_limit_bytes),
        ("state.quarantine_limit", state.quarantine_limit_bytes != after.state.quarantine_limit_bytes),
        ("[otlp]", *otlp != after.otlp),
        ("stdout.enabled", *stdout_enabled != after.stdout_enabled),
        ("http.listen", *listen != after.http.listen),
        ("http.dashboard_url, http.runbook_url", *links != after.http.links),
        ("[firehose]", *firehose != after.firehose),
        ("metrics.zero_series", *zero_series != after.zero_series),
        // A start rewrites the ledger for it, before the ledger is used.
        ("[privacy]", *privacy != after.privacy),
        ("log.format", *format != after.log.format),
        ("[shard]", *shard != after.shard),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(key, _)| key)
    .collect()
}
