//! Where the ledger lives: `<state.path>`, its lock, the store inside, and what is beside it.
//!
//! ```text
//! <state.path>/lock                           held while a process uses the state
//! <state.path>/ledger/                        the store
//! <state.path>/ledger.corrupt-20261124T...Z/  a damaged one, moved aside: at most two, removed by people only
//! <state.path>/last-commit                    time and number of a late durable write, for the day when the store is lost
//! ```
//!
//! The last one is also how a loss is noticed: a damaged store may well open, as it was some time ago.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::books::Books;
use super::engine::{self, Engine};
use super::error::LedgerError;
use crate::config::StateConfig;
use crate::event::UnixMillis;
use crate::stop_point::{self, Step};

/// Damaged ledgers that are kept. One would be overwritten by the second accident of an afternoon, many would fill a disk.
const DAMAGED_MAX: usize = 2;

/// How long a store that this very process has just left may take to let go of its files: sled's threads end after it,
/// and a child process has copies of them between fork and exec.
const LET_GO: Duration = Duration::from_secs(5);

/// Written and removed again before a store is called damaged: a full disk must not be taken for one.
const PROBE_BYTES: usize = 1 << 20;

/// The state directory, held against other processes until dropped.
pub(super) struct Home {
    path: PathBuf,
    cache_bytes: u64,
    lock: File,
}

/// A store that was damaged and has been replaced by a new one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// Where the damaged one lies.
    pub moved_to: PathBuf,
    /// What was wrong with it.
    pub problem: String,
    /// When something was last made durable in it, to about ten seconds; None if that is not known.
    pub last_commit: Option<UnixMillis>,
}

/// The time of a durable group, and its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LastCommit {
    pub(super) time: UnixMillis,
    pub(super) group: u64,
}

impl Home {
    /// Makes the directory (for the owner alone) if it is not there, and takes its lock.
    pub(super) fn enter(state: &StateConfig) -> Result<Self, LedgerError> {
        let path = &state.path;
        make_directory(path)?;
        let lock_path = path.join("lock");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|error| LedgerError::io("cannot open", &lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LedgerError::Locked(path.clone())),
            Err(TryLockError::Error(error)) => return Err(LedgerError::io("cannot lock", &lock_path, &error)),
        }
        Ok(Self { path: path.clone(), cache_bytes: state.cache_bytes, lock })
    }

    /// Opens the store and reads its books; replaces it by a new one if it is damaged beyond doubt.
    pub(super) fn open(&self, now: UnixMillis) -> Result<(Engine, Books, Option<Rebuilt>), LedgerError> {
        let problem = match self.reopen() {
            Ok((engine, books)) => return Ok((engine, books, None)),
            Err(LedgerError::Corrupt { what, problem }) => format!("{what}: {problem}"),
            Err(error) => return Err(error),
        };
        self.probe()?;
        let last_commit = self.last_commit().map(|last| last.time);
        let moved_to = self.move_aside(&problem, now)?;
        let (engine, books) = self.reopen()?;
        let rebuilt = Rebuilt { moved_to, problem, last_commit };
        Ok((engine, books, Some(rebuilt)))
    }

    /// Opens the store as it is and reads its books. Only snapshots, which are redundant, are removed if that helps.
    pub(super) fn reopen(&self) -> Result<(Engine, Books), LedgerError> {
        let store = self.store();
        let begun = store.join("db").exists();
        if !begun {
            self.forget_last_commit()?;
        }
        make_directory(&store)?;
        let engine = match self.open_engine() {
            Err(LedgerError::Corrupt { .. }) => {
                engine::remove_snapshots(&store)?;
                self.open_engine()?
            }
            opened => opened?,
        };
        // sled reads a log up to the first thing that it does not understand, and calls that a recovery.
        Books::of(engine, self.last_commit().map_or(0, |last| last.group))
    }

    fn open_engine(&self) -> Result<Engine, LedgerError> {
        const PAUSE: Duration = Duration::from_millis(20);
        let mut waited = Duration::ZERO;
        loop {
            match Engine::open(&self.store(), self.cache_bytes) {
                // Our lock says that no other process is here: it is what we ourselves closed a moment ago.
                Err(LedgerError::Locked(_)) if waited < LET_GO => {
                    std::thread::sleep(PAUSE);
                    waited += PAUSE;
                }
                Err(LedgerError::Locked(_)) => {
                    return Err(LedgerError::Locked(self.path.clone()));
                }
                opened => return opened,
            }
        }
    }

    fn store(&self) -> PathBuf {
        self.path.join("ledger")
    }

    fn last_commit_path(&self) -> PathBuf {
        self.path.join("last-commit")
    }

    /// Shows that the disk takes new data, so that what cannot be read is damaged and not in want of room.
    fn probe(&self) -> Result<(), LedgerError> {
        let path = self.path.join("probe");
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&vec![0; PROBE_BYTES])?;
            file.sync_all()
        });
        let removed = fs::remove_file(&path);
        written.and(removed).map_err(|error| LedgerError::io("cannot write", &path, &error))
    }

    fn move_aside(&self, problem: &str, now: UnixMillis) -> Result<PathBuf, LedgerError> {
        const PREFIX: &str = "ledger.corrupt-";
        let failed = |error| LedgerError::io("cannot move the damaged ledger aside in", &self.path, &error);
        let mut kept = 0;
        for beside in fs::read_dir(&self.path).map_err(failed)? {
            let name = beside.map_err(failed)?.file_name();
            kept += usize::from(name.to_string_lossy().starts_with(PREFIX));
        }
        if kept >= DAMAGED_MAX {
            return Err(LedgerError::DamagedAgain { problem: problem.to_owned(), kept, beside: self.path.clone() });
        }
        let moved_to = self.path.join(format!("{PREFIX}{}", compact(now)));
        fs::rename(self.store(), &moved_to).map_err(failed)?;
        engine::sync_directory(&self.path)?;
        Ok(moved_to)
    }

    /// What was last made durable, as the small file beside the store has it: older than the truth, never newer.
    fn last_commit(&self) -> Option<LastCommit> {
        let text = fs::read_to_string(self.last_commit_path()).ok()?;
        let (time, group) = text.trim().split_once(' ')?;
        let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
        Some(LastCommit {
            time: UnixMillis::from_secs_and_nanos(time.unix_timestamp(), time.nanosecond()),
            group: group.parse().ok()?,
        })
    }

    /// Remembers what was last made durable. The file is whole at any moment: the old one or the new one.
    pub(super) fn remember(&self, last: LastCommit) -> std::io::Result<()> {
        let draft = self.path.join("last-commit.new");
        let mut file = File::create(&draft)?;
        writeln!(file, "{} {}", last.time, last.group)?;
        file.sync_all()?;
        stop_point::reached(Step::NoteDrafted);
        fs::rename(draft, self.last_commit_path())?;
        stop_point::reached(Step::NoteRenamed);
        Ok(())
    }

    /// A new store knows nothing of the one before.
    fn forget_last_commit(&self) -> Result<(), LedgerError> {
        let path = self.last_commit_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(LedgerError::io("cannot remove", &path, &error)),
            _ => Ok(()),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // To close the file is not enough: a child process has a copy of it between fork and exec.
        let _ = self.lock.unlock();
    }
}

/// `20261124T123556Z`.
fn compact(time: UnixMillis) -> String {
    time.to_string().split('.').next().unwrap_or_default().replace(['-', ':'], "") + "Z"
}

fn make_directory(path: &Path) -> Result<(), LedgerError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| LedgerError::io("cannot make the directory", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_ledger_is_named_after_the_second() {
        assert_eq!(compact(UnixMillis(1_795_523_756_123)), "20261124T123556Z");
    }
}
