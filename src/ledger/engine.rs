//! sled, and how to live with it: opening, locking, damage, and what "on disk" takes.
//!
//! What was measured of sled 0.34.7 and is answered here:
//! - `flush` hands the data to the kernel and does not wait for the disk on Linux (upstream issue 1452): [`Engine::sync`]
//!   flushes and then syncs the file itself, and the files of large values beside it.
//! - A torn snapshot makes every later open fail; snapshots are only a shortcut, and are removed.
//! - Damage to the file may panic inside `open`: caught, and taken as damage.
//! - After an error sled fails for good: the engine is dropped and opened again by the writer.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::stored::{StoredError, StoredText};
use super::{LedgerError, Rebuilt, keys, stored, unreadable};
use crate::event::UnixMillis;

/// Damaged ledgers that are kept. More are not made: a disk that damages one after another needs a person.
pub(super) const CORRUPT_MAX: usize = 2;

/// How often sled flushes by itself; its clearing up of old values lives in the same loop.
const FLUSH_EVERY_MS: u64 = 500;

/// The file beside the ledger that remembers when it was last written.
const LAST_COMMIT: &str = "last-commit";

/// Why sled did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the ledger in {}: {cause}", .path.display())]
pub(super) struct EngineError {
    doing: &'static str,
    path: PathBuf,
    cause: String,
}

/// The open store.
pub(super) struct Engine {
    db: sled::Db,
    path: PathBuf,
    /// A handle of our own on sled's file: sled does not sync it.
    file: File,
    /// Files of large values that are on disk already.
    synced_blobs: Mutex<HashSet<PathBuf>>,
}

/// Why a ledger could not be opened: decides whether it may be moved aside.
enum OpenError {
    Locked,
    /// The disk, its permissions, or a newer build: hands off.
    Other(LedgerError),
    Damaged(String),
}

impl Engine {
    /// Opens the ledger below `state`; a damaged one is moved aside and a new one begun.
    pub(super) fn open_or_rebuild(
        state: &Path,
        cache_bytes: u64,
        now: UnixMillis,
    ) -> Result<(Self, Option<Rebuilt>), LedgerError> {
        create_private_dir(state)?;
        let path = state.join("ledger");
        let was_begun = path.join("db").exists() && read_last_commit(state).is_some();
        let damage = match Self::open(&path, cache_bytes) {
            // sled takes a file in which it finds nothing for a new one.
            Ok(engine) if was_begun && engine.get(keys::INSTANCE)?.is_none() => "it is empty".into(),
            Ok(engine) => return Ok((engine, None)),
            Err(OpenError::Locked) => return Err(LedgerError::Locked(state.to_owned())),
            Err(OpenError::Other(error)) => return Err(error),
            Err(OpenError::Damaged(damage)) => damage,
        };
        tracing::warn!(cause = damage, "the ledger is damaged");
        let rebuilt = Rebuilt { moved_to: move_aside(state, &path, now)?, last_commit: read_last_commit(state) };
        match Self::open(&path, cache_bytes) {
            Ok(engine) => Ok((engine, Some(rebuilt))),
            Err(OpenError::Locked) => Err(LedgerError::Locked(state.to_owned())),
            Err(OpenError::Other(error)) => Err(error),
            Err(OpenError::Damaged(cause)) => Err(LedgerError::Storage(format!("cannot begin a new ledger: {cause}"))),
        }
    }

    /// Opens the ledger again after an error, as it is.
    pub(super) fn reopen(path: &Path, cache_bytes: u64) -> Result<Self, String> {
        Self::open(path, cache_bytes).map_err(|error| match error {
            OpenError::Locked => "it is in use by another process".into(),
            OpenError::Other(error) => error.to_string(),
            OpenError::Damaged(cause) => cause,
        })
    }

    fn open(path: &Path, cache_bytes: u64) -> Result<Self, OpenError> {
        let db = match open_sled(path, cache_bytes) {
            Err(OpenError::Damaged(_)) if remove_snapshots(path) => open_sled(path, cache_bytes),
            result => result,
        }?;
        let storage = |doing| move |cause| OpenError::Other(storage_error(doing, path, cause).into());
        let file = File::open(path.join("db")).map_err(storage("open"))?;
        let engine = Self { db, path: path.to_owned(), file, synced_blobs: Mutex::default() };
        engine.check_format()?;
        Ok(engine)
    }

    /// A ledger of a newer build, or one that is damaged in every place, shows in its first record.
    fn check_format(&self) -> Result<(), OpenError> {
        let value = self.get(keys::INSTANCE).map_err(|error| OpenError::Other(error.into()))?;
        match value.map(|value| stored::open::<StoredText>(&value)).transpose() {
            Ok(_) => Ok(()),
            Err(error @ StoredError::Newer(_)) => Err(OpenError::Other(unreadable("the ledger")(error))),
            Err(error @ StoredError::Damaged(_)) => Err(OpenError::Damaged(error.to_string())),
        }
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, EngineError> {
        self.db.get(key).map_err(|cause| self.error("read", cause))
    }

    /// Every record whose key begins with `prefix`, in the keys' order.
    pub(super) fn scan(&self, prefix: &[u8]) -> impl Iterator<Item = Result<(sled::IVec, sled::IVec), EngineError>> {
        self.db.scan_prefix(prefix).map(|item| item.map_err(|cause| self.error("read", cause)))
    }

    /// Every record between two keys, in the keys' order.
    pub(super) fn range(
        &self,
        first: &[u8],
        last: &[u8],
    ) -> impl Iterator<Item = Result<(sled::IVec, sled::IVec), EngineError>> {
        let range: RangeInclusive<&[u8]> = first..=last;
        self.db.range(range).map(|item| item.map_err(|cause| self.error("read", cause)))
    }

    /// Writes one record, on disk when it returns.
    pub(super) fn put(&self, key: &[u8], value: Vec<u8>) -> Result<(), EngineError> {
        let mut batch = sled::Batch::default();
        batch.insert(key, value);
        self.apply(batch)?;
        self.sync()
    }

    /// Applies a batch: all of it or, after a crash, nothing.
    pub(super) fn apply(&self, batch: sled::Batch) -> Result<(), EngineError> {
        self.db.apply_batch(batch).map_err(|cause| self.error("write", cause))
    }

    /// Puts everything that was applied on disk.
    pub(super) fn sync(&self) -> Result<(), EngineError> {
        self.db.flush().map_err(|cause| self.error("flush", cause))?;
        self.sync_blobs().and_then(|()| self.file.sync_all()).map_err(|cause| storage_error("sync", &self.path, cause))
    }

    /// sled keeps values too large for its pages in files of their own, which it does not sync either.
    fn sync_blobs(&self) -> io::Result<()> {
        let directory = self.path.join("blobs");
        let mut synced = self.synced_blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut there = HashSet::new();
        for blob in fs::read_dir(&directory)? {
            let path = blob?.path();
            if !synced.contains(&path) {
                match File::open(&path) {
                    Ok(file) => file.sync_all()?,
                    Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            there.insert(path);
        }
        let new = there.difference(&synced).next().is_some();
        *synced = there;
        if new { File::open(&directory)?.sync_all() } else { Ok(()) }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }

    fn error(&self, doing: &'static str, cause: impl std::fmt::Display) -> EngineError {
        EngineError { doing, path: self.path.clone(), cause: cause.to_string() }
    }
}

fn storage_error(doing: &'static str, path: &Path, cause: impl std::fmt::Display) -> EngineError {
    EngineError { doing, path: path.to_owned(), cause: cause.to_string() }
}

fn open_sled(path: &Path, cache_bytes: u64) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(cache_bytes)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
        .map_err(|_panic| OpenError::Damaged("sled panicked while opening it".into()))?;
    opened.map_err(|error| match error {
        // sled reports a lock that is held as an error of its own making.
        sled::Error::Io(cause) if cause.to_string().contains("could not acquire lock") => OpenError::Locked,
        sled::Error::Io(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => OpenError::Damaged(cause.to_string()),
        sled::Error::Io(cause) => OpenError::Other(storage_error("open", path, cause).into()),
        damage => OpenError::Damaged(damage.to_string()),
    })
}

/// Removes sled's snapshots; answers whether there were any.
fn remove_snapshots(path: &Path) -> bool {
    let Ok(files) = fs::read_dir(path) else { return false };
    let snapshots = files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("snap."));
    snapshots.filter(|file| fs::remove_file(file.path()).is_ok()).count() > 0
}

fn create_private_dir(path: &Path) -> Result<(), LedgerError> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|cause| LedgerError::Storage(format!("cannot create state.path {}: {cause}", path.display())))
}

/// Moves a damaged ledger to `ledger.corrupt-<UTC>`.
fn move_aside(state: &Path, path: &Path, now: UnixMillis) -> Result<PathBuf, LedgerError> {
    let cannot = |cause: io::Error| LedgerError::Storage(format!("cannot move {} aside: {cause}", path.display()));
    let corrupt = fs::read_dir(state)
        .map_err(cannot)?
        .flatten()
        .filter(|file| file.file_name().to_string_lossy().starts_with("ledger.corrupt-"))
        .count();
    if corrupt >= CORRUPT_MAX {
        return Err(LedgerError::TooManyCorrupt(state.to_owned()));
    }
    let moment: String = now.to_string().chars().filter(|letter| !['-', ':', '.'].contains(letter)).collect();
    let target = state.join(format!("ledger.corrupt-{moment}"));
    fs::rename(path, &target).map_err(cannot)?;
    Ok(target)
}

/// Remembers when the ledger was last written: whole or not at all.
pub(super) fn write_last_commit(state: &Path, now: UnixMillis) -> io::Result<()> {
    let new = state.join(format!("{LAST_COMMIT}.new"));
    fs::write(&new, format!("{}\n", now.0))?;
    fs::rename(new, state.join(LAST_COMMIT))
}

fn read_last_commit(state: &Path) -> Option<UnixMillis> {
    fs::read_to_string(state.join(LAST_COMMIT)).ok()?.trim().parse().ok().map(UnixMillis)
}
