//! The configuration read again while the process runs: on SIGHUP, and when its file has changed.
//!
//! It is validated as at a start, and then comes into force as a whole or not at all; a mistake, or a key that only a start
//! can change, leaves everything as it was and says so in one line. So what is in force is always what one version of the
//! file said.
//!
//! | what changes | how it comes into force |
//! |---|---|
//! | a pool is added, removed, or called in another way | this pool is followed anew or no longer |
//! | whom to follow of a pool; `discovery.interval`, `forget_after`; `poll.first_run` | from its next round of listings on |
//! | `poll.requests_per_second` as a number, `discovery.requests_per_second` | from the next call on |
//! | all else in `[poll]` | all pools are followed anew, within the budgets as they stand |
//! | `http.web_config_file`, `http.first_scrape_wait`, `log.level` | at once; TLS, client certificates and passwords are not taken away |
//! | everything else | not: it needs a restart |

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{Level, error, info};

use super::pool_supervisor::PoolSupervisor;
use crate::config::{Config, ConfigErrors, DEFAULT_FILES, HttpConfig, LogConfig};
use crate::http::Web;
use crate::lifecycle::{Clock, Hangups};
use crate::metrics::Metrics;

/// How often the file is looked at for a change, which is taken up when two looks see the same: what is written meanwhile
/// may be half of it, and half of it may be valid.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How a configuration is read again.
pub struct Reloads {
    /// SIGHUP.
    pub hangups: Hangups,
    /// The files, as they were before the configuration in force was read.
    pub files: ConfigFiles,
    /// Reads and validates all of it.
    pub load: Arc<dyn Fn() -> Result<Config, ConfigErrors> + Send + Sync>,
    /// Sets the level of the program's own log.
    pub set_level: Box<dyn Fn(Level) + Send + Sync>,
}

/// What brings a configuration into force.
pub(super) struct Reloader {
    pub(super) reloads: Reloads,
    pub(super) supervisor: PoolSupervisor,
    pub(super) web: Web,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
}

/// Where a configuration is, and what the file system says of it.
#[derive(Debug)]
pub struct ConfigFiles {
    paths: Vec<PathBuf>,
    seen: Seen,
}

/// What a file system says of the files there are: it differs when one was written, replaced or removed.
type Seen = Vec<Option<(SystemTime, u64, u64)>>;

impl ConfigFiles {
    /// The file that was named, or without one those that are looked for, as they are now.
    pub fn look(named: Option<&Path>) -> Self {
        let paths = named.map_or_else(|| DEFAULT_FILES.map(PathBuf::from).to_vec(), |file| vec![file.to_owned()]);
        let seen = paths.iter().map(|path| stamp(&std::fs::metadata(path).ok()?)).collect();
        Self { paths, seen }
    }

    async fn look_again(&self) -> Seen {
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
        // Why the latest attempt failed.
        let mut fault = None;
        loop {
            let reason = tokio::select! {
                () = self.reloads.hangups.next() => Some("SIGHUP"),
                () = tokio::time::sleep(LOOK_EVERY) => None,
            };
            let now = self.reloads.files.look_again().await;
            let is_settled = now == std::mem::replace(&mut last, now.clone());
            let is_another = is_settled && now != self.reloads.files.seen;
            if let Some(reason) = reason.or(is_another.then_some("the file has changed")) {
                // What is seen before it is read: a later change is another one.
                self.reloads.files.seen = now;
                fault = self.reload(reason, None).await;
            } else if fault.is_some() {
                // It may lie in what the file names (a certificate, a secret that is mounted later), or pass by itself.
                fault = self.reload("it failed before", fault).await;
            }
        }
    }

    /// Answers why it failed; the same again is not told again.
    async fn reload(&mut self, reason: &'static str, before: Option<String>) -> Option<String> {
        let outcome = self.try_reload().await;
        self.metrics.config_reloaded(outcome.is_ok(), self.clock.now());
        match &outcome {
            Ok(what) => info!(reason, what, "the configuration was read again and is in force"),
            Err(fault) if before.as_ref() == Some(fault) => {}
            Err(fault) => {
                error!(reason, fault, "the configuration was read again and is of no use: nothing was changed");
            }
        }
        outcome.err()
    }

    /// Answers what has changed, or why nothing has.
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
        let (level, told) = (config.log.level, config.poll != before.poll);
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
        } else if told {
            what.push("rates".to_owned());
        }
        Ok(if what.is_empty() { "settings".to_owned() } else { what.join(", ") })
    }
}

/// Reads on a thread for blocking work: a file system that hangs holds up nothing but the reload.
async fn blocking<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(read).await.map_err(|panic| panic.to_string())
}

/// The keys that differ and that a running process cannot change. A key is missing here only if another place takes it up:
/// the patterns name every one.
fn needs_restart(before: &Config, after: &Config) -> Vec<&'static str> {
    let Config {
        pools: _,
        poll: _,
        discovery: _,
        state,
        otlp,
        stdout_enabled,
        http,
        privacy,
        log,
        shard,
        set_aside: _,
    } = before;
    let HttpConfig { listen, first_scrape_wait: _, web_config_file: _ } = http;
    let LogConfig { level: _, format } = log;
    [
        ("state.path", state.path != after.state.path),
        ("state.cache", state.cache_bytes != after.state.cache_bytes),
        ("state.outbox_limit", state.outbox_limit_bytes != after.state.outbox_limit_bytes),
        ("state.quarantine_limit", state.quarantine_limit_bytes != after.state.quarantine_limit_bytes),
        ("[otlp]", *otlp != after.otlp),
        ("stdout.enabled", *stdout_enabled != after.stdout_enabled),
        ("http.listen", *listen != after.http.listen),
        // The ledger is rewritten for it, before anybody uses it.
        ("[privacy]", *privacy != after.privacy),
        ("log.format", *format != after.log.format),
        ("[shard]", *shard != after.shard),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(key, _)| key)
    .collect()
}
