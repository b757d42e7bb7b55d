//! The steps of `check` that need no other machine: the state directory, the addresses to listen on, and the files that
//! the configuration names.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::report::CheckReport;
use crate::app::hash_keys::{self, KeyFile};
use crate::config::{Config, StateConfig};
use crate::export::firehose::{FirehoseError, FirehoseServer};
use crate::http::{HttpServer, Web};
use crate::ledger::Ledger;

/// Maximum time for a file system operation. A file system that hangs cannot hold the state.
const DISK_WAIT_MAX: Duration = Duration::from_secs(10);

/// The use of the state directory, as `check` finds it.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum StateDirUse {
    Created,
    There,
    InUse,
}

pub(super) async fn state(path: &Path, report: &mut CheckReport) -> Option<StateDirUse> {
    const REMEDY: &str = "state.path must be a directory that the exporter's user can write to, on a disk with room";
    let what = format!("state.path {}", path.display());
    let look = tokio::task::spawn_blocking({
        let path = path.to_owned();
        move || look_at_state(&path)
    });
    match tokio::time::timeout(DISK_WAIT_MAX, look).await {
        Ok(Ok(Ok(state))) => {
            match state {
                StateDirUse::Created => report.ok(&what, "created, and can be written to"),
                StateDirUse::There => report.ok(&what, "can be written to"),
                StateDirUse::InUse => {
                    report.note(&what, "in use by a running exporter; a second one cannot start until that one stops");
                }
            }
            return Some(state);
        }
        Ok(Ok(Err(error))) => report.failed(&what, format_args!("{error:#}"), REMEDY),
        Ok(Err(panic)) => report.failed(&what, panic, "please report this"),
        Err(_) => report.failed(&what, format_args!("no answer within {DISK_WAIT_MAX:?}"), REMEDY),
    }
    None
}

fn look_at_state(path: &Path) -> anyhow::Result<StateDirUse> {
    let was_there = path.is_dir();
    DirBuilder::new().recursive(true).mode(0o700).create(path).context("cannot be created")?;
    Ledger::look_at_directory(&StateConfig { path: path.to_owned(), ..StateConfig::default() })?;
    let write = || {
        let mut trial = tempfile::NamedTempFile::new_in(path)?;
        trial.write_all(b"a file of `check`, which removes it")?;
        trial.as_file().sync_all()
    };
    write().context("cannot be written to")?;
    // The ledger's engine holds a lock on its file while it runs.
    match File::options().read(true).write(true).open(path.join("ledger").join("db")) {
        Ok(ledger) => match ledger.try_lock() {
            Ok(()) => Ok(StateDirUse::There),
            Err(TryLockError::WouldBlock) => Ok(StateDirUse::InUse),
            Err(TryLockError::Error(error)) => Err(error).context("the ledger in it cannot be locked"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(if was_there { StateDirUse::There } else { StateDirUse::Created })
        }
        Err(error) => Err(error).context("the ledger in it cannot be opened"),
    }
}

pub(super) async fn listen(config: &Config, state: Option<StateDirUse>, report: &mut CheckReport) {
    let what = format!("http.listen {}", config.http.listen);
    match HttpServer::bind(config.http.listen).await {
        Ok(_released_at_once) => report.ok(&what, "free"),
        Err(error) if state == Some(StateDirUse::InUse) && error.source.kind() == io::ErrorKind::AddrInUse => {
            report.note(&what, "in use, most likely by the exporter that has the state");
        }
        Err(error) => {
            report.failed(&what, error.source, "choose an address of this machine and a free port");
        }
    }
}

pub(super) async fn web(config: &Config, report: &mut CheckReport) {
    let Some(path) = config.http.web_config_file.clone() else { return };
    let what = format!("http.web_config_file {}", path.display());
    let remedy = "the certificates and keys that it names must be there and be readable by the exporter's user";
    match tokio::task::spawn_blocking(move || Web::load(Some(&path))).await {
        Ok(Ok(web)) => report.ok(&what, format_args!("can be served with, over {}", web.scheme())),
        Ok(Err(error)) => report.failed(&what, error, remedy),
        Err(panic) => report.failed(&what, panic, "please report this"),
    }
}

pub(super) async fn firehose(config: &Config, state: Option<StateDirUse>, report: &mut CheckReport) {
    let Some(firehose) = &config.firehose else { return };
    let what = format!("firehose.listen {}", firehose.listen);
    match FirehoseServer::bind(firehose).await {
        Ok(server) => {
            report.ok(&what, format_args!("free; the keys can be used, over {}", server.scheme()));
            if let keys @ 1.. = server.short_keys() {
                let least = FirehoseServer::KEY_BYTES_ADVISED;
                report.note(
                    format!("firehose.access_keys_file {}", firehose.access_keys_file.display()),
                    format_args!(
                        "{keys} of its keys can be guessed, being shorter than {least} bytes; make one with `openssl \
                         rand -hex 32`"
                    ),
                );
            }
        }
        Err(FirehoseError::Bind(error))
            if state == Some(StateDirUse::InUse) && error.source.kind() == io::ErrorKind::AddrInUse =>
        {
            report.note(&what, "in use, most likely by the exporter that has the state");
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            report.failed(&what, format_args!("{error:#}"), "correct what this names");
        }
    }
    if !config.pools.iter().any(|pool| pool.export.as_ref().is_some_and(|export| export.firehose)) {
        report.note(&what, "no pool has export.firehose = true, so nothing is taken there");
    }
}

pub(super) async fn hash_keys(config: &Config, report: &mut CheckReport) {
    let privacy = &config.privacy;
    let keys = [("hash_key_file", &privacy.hash_key_file), ("former_hash_key_file", &privacy.former_hash_key_file)];
    for (key, path) in keys {
        let Some(path) = path.clone() else { continue };
        let what = format!("privacy.{key} {}", path.display());
        let remedy = "the file must be there, hold a key, and be readable by the exporter's user";
        let read = tokio::task::spawn_blocking(move || hash_keys::read(&path));
        match tokio::time::timeout(DISK_WAIT_MAX, read).await {
            Ok(Ok(Ok(KeyFile { key, is_open }))) => {
                report.ok(&what, format_args!("key {}", key.name()));
                if is_open {
                    report.note(&what, hash_keys::TOO_OPEN);
                }
            }
            Ok(Ok(Err(error))) => report.failed(&what, format_args!("{error:#}"), remedy),
            Ok(Err(panic)) => report.failed(&what, panic, "please report this"),
            Err(_) => report.failed(&what, format_args!("no answer within {DISK_WAIT_MAX:?}"), remedy),
        }
    }
}
