//! The state directory: `<state.path>`, its lock, the store in it, and the files beside the store.
//!
//! ```text
//! <state.path>/lock                           locked while a process uses the state
//! <state.path>/ledger/                        the store
//! <state.path>/ledger.corrupt-20261124T...Z/  a damaged store, moved aside: at most two, removed by people only
//! <state.path>/ledger.replaced-1/             a store that an import replaced, removed by people only
//! <state.path>/last-commit                    time and number of a recent durable write, read when the store is lost
//! <state.path>/lost-since                     while a damaged store is replaced: the loss, for the new store
//! ```
//!
//! `last-commit` also reveals a loss: a damaged store may open in an older state. The file is there before the first
//! commit. Every commit overwrites it in place before its callers are answered. Every [`NOTE_EVERY`](super::writer) it
//! is written as a new file and synced. So a store that lost writes is noticed: after a kill, if it lost any commit;
//! after a power cut, if it lost more than those of the last seconds.
//!
//! A damaged store is replaced in steps. If the process dies between two of them, the next start does the rest:
//!
//! ```text
//!   step                              on the disk                          a start that finds this
//!   the time of the last commit is    damaged store, last-commit           begins with the first step
//!     written to lost-since           damaged store, lost-since            begins with the first step
//!   the store is moved aside          no store, lost-since                 makes the new store
//!   a new store is made, with the     new store with the loss, lost-since  removes the file, and reports the loss
//!     loss in its first write
//!   the file is removed               new store with the loss              continues
//! ```
//!
//! An imported store replaces the present one in steps. The next process that enters the directory does the rest:
//!
//! ```text
//!   step                              on the disk                          a process that finds this
//!   the new store is built            ledger?, ledger.importing            uses the ledger; an import starts again
//!   it is renamed: now it counts      ledger?, ledger.imported             does the following steps
//!   the old store's notes go          ledger?, ledger.imported             does the following steps
//!   the old store is moved aside      ledger.replaced-1, ledger.imported   does the last step
//!   the new store is renamed          ledger.replaced-1, ledger            continues
//! ```
//!
//! A store that was rewritten for other privacy settings (`ledger.private`) takes the same steps, except that the old
//! store becomes `ledger.outdated` and is removed.
//!
//! [`custody`](super::custody) checks which other users could have written to the directory.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::custody::{self, Custody, make_directory, read_small};
use super::engine::{self, Engine};
use super::envelope::{StoreFormat, StoredRecord as _};
use super::error::LedgerError;
use super::keys;
use super::store::{Store as _, StoreReader as _};
use super::writer_state::WriterState;
use crate::config::StateConfig;
use crate::failpoint::{self, Failpoint};

/// Damaged ledgers that are kept. With one, a second accident on the same day would need its place; many would fill a
/// disk.
const DAMAGED_MAX: usize = 2;

/// A store that an import is building.
const IMPORTING: &str = "ledger.importing";

/// An imported store that is complete and replaces the ledger.
const IMPORTED: &str = "ledger.imported";

/// The prefix, before a number, of a store that an import replaced. People remove it.
const REPLACED: &str = "ledger.replaced-";

/// A store that was rewritten for other privacy settings and replaces the ledger.
const PRIVATE: &str = "ledger.private";

/// The store that `ledger.private` replaced, until it is removed.
const OUTDATED: &str = "ledger.outdated";

/// How long a store that this process has closed may keep its files locked. The engine's threads end later than it, and
/// a child process has copies of the files between fork and exec. On a busy machine this took seconds.
const UNLOCK_MAX: Duration = Duration::from_secs(20);

/// Bytes that are written and removed before a store counts as damaged, so that a full disk does not look like damage.
const PROBE_BYTES: usize = 1 << 20;

/// The state directory, locked against other processes until this is dropped.
pub(super) struct StateDir {
    path: PathBuf,
    cache_bytes: u64,
    lock: File,
    custody: Custody,
    /// The open file `last-commit`; None until this process has written a new one.
    note: Option<File>,
}

/// The loss of a store that was damaged and has been replaced by a new one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// The directory to which the damaged store was moved.
    pub moved_to: PathBuf,
    /// The damage.
    pub problem: String,
    /// When the damaged store was last written, to about ten seconds; None if that is not known.
    pub last_commit: Option<UnixMillis>,
}

/// The time and the number of a durable batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LastCommit {
    /// None if that is not known: the store was imported.
    pub(super) time: Option<UnixMillis>,
    pub(super) batch: u64,
}

impl StateDir {
    /// Makes the directory if it is not there, checks that no other user could have put files in it, and locks it.
    pub(super) fn enter(state: &StateConfig) -> Result<Self, LedgerError> {
        let path = &state.path;
        let custody = Self::look(state)?;
        let lock_path = path.join("lock");
        let lock = custody::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|error| custody::unopened("cannot open", &lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LedgerError::Locked(path.clone())),
            Err(TryLockError::Error(error)) => return Err(LedgerError::io("cannot lock", &lock_path, &error)),
        }
        let state_dir = Self { path: path.clone(), cache_bytes: state.cache_bytes, lock, custody, note: None };
        state_dir.put_imported_in_place()?;
        state_dir.put_private_in_place()?;
        Ok(state_dir)
    }

    /// Makes the directory if it is not there, and checks that no other user could have put files in it.
    pub(super) fn look(state: &StateConfig) -> Result<Custody, LedgerError> {
        Custody::of(&state.path, is_ours)
    }

    /// Locks a state directory that has a store. Makes none.
    pub(super) fn enter_existing(state: &StateConfig) -> Result<Self, LedgerError> {
        if Self::is_inhabited(state)? { Self::enter(state) } else { Err(LedgerError::Absent(state.path.clone())) }
    }

    /// Returns whether there is a store, or a complete one that has yet to be renamed.
    pub(super) fn is_inhabited(state: &StateConfig) -> Result<bool, LedgerError> {
        for name in ["ledger", IMPORTED, PRIVATE] {
            let store = state.path.join(name).join(engine::DB);
            match store.try_exists() {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => return Err(LedgerError::io("cannot look for", &store, &error)),
            }
        }
        Ok(false)
    }

    /// Makes a new store beside the present one.
    pub(super) fn begin_import(&self) -> Result<Engine, LedgerError> {
        self.abandon_import()?;
        let importing = self.path.join(IMPORTING);
        make_directory(&importing)?;
        engine::sync_directory(&self.path)?;
        Engine::open(&importing, self.cache_bytes)
    }

    /// Removes the store of an import that did not finish.
    pub(super) fn abandon_import(&self) -> Result<(), LedgerError> {
        let importing = self.path.join(IMPORTING);
        match fs::remove_dir_all(&importing) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(LedgerError::io("cannot remove", &importing, &error))
            }
            _ => Ok(()),
        }
    }

    /// Replaces the present store by an imported one, which is built, synced and closed and has so many batches.
    /// Returns the directory of the replaced store.
    pub(super) fn complete_import(&mut self, batches: u64) -> Result<Option<PathBuf>, LedgerError> {
        self.rename(&self.path.join(IMPORTING), &self.path.join(IMPORTED))?;
        let replaced = self.put_imported_in_place()?;
        // Not an error: the store is in its place, and the first process that opens it notes it.
        if let Err(error) = self.note_anew(LastCommit { time: None, batch: batches }) {
            tracing::debug!(%error, "an imported ledger cannot be noted");
        }
        Ok(replaced)
    }

    /// Replaces the present store by one that was rewritten for other privacy settings, and removes the present one.
    pub(super) fn complete_private(&self) -> Result<(), LedgerError> {
        self.rename(&self.path.join(IMPORTING), &self.path.join(PRIVATE))?;
        self.put_private_in_place()
    }

    fn put_private_in_place(&self) -> Result<(), LedgerError> {
        let (private, outdated) = (self.path.join(PRIVATE), self.path.join(OUTDATED));
        if private.exists() {
            self.forget_notes()?;
            if self.store().exists() {
                self.rename(&self.store(), &outdated)?;
            }
            self.rename(&private, &self.store())?;
        }
        match fs::remove_dir_all(&outdated) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(LedgerError::io("cannot remove", &outdated, &error))
            }
            _ => Ok(()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), LedgerError> {
        fs::rename(from, to).map_err(|error| LedgerError::io("cannot rename", from, &error))?;
        engine::sync_directory(&self.path)
    }

    /// Removes the notes on the store that is replaced. Measured by them, the new store would seem to have lost writes.
    fn forget_notes(&self) -> Result<(), LedgerError> {
        remove_if_there(&self.last_commit_path())?;
        remove_if_there(&self.loss_path())?;
        engine::sync_directory(&self.path)
    }

    fn put_imported_in_place(&self) -> Result<Option<PathBuf>, LedgerError> {
        let imported = self.path.join(IMPORTED);
        if !imported.exists() {
            return Ok(None);
        }
        self.forget_notes()?;
        let mut replaced = None;
        if self.store().exists() {
            let free = |number: &u32| !self.path.join(format!("{REPLACED}{number}")).exists();
            let number = (1..u32::MAX).find(free).unwrap_or(u32::MAX);
            let aside = self.path.join(format!("{REPLACED}{number}"));
            self.rename(&self.store(), &aside)?;
            replaced = Some(aside);
        }
        self.rename(&imported, &self.store())?;
        Ok(replaced)
    }

    /// Opens the store and reads the writer's state. Replaces a store that is certainly damaged by a new one. Notes the
    /// store, so that it cannot pass for a new one later.
    pub(super) fn open(&mut self, now: UnixMillis) -> Result<(Engine, WriterState, Option<Rebuilt>), LedgerError> {
        let (engine, writer_state) = match self.open_or_begin() {
            Err(LedgerError::Corrupt { what, problem }) => {
                self.probe()?;
                self.move_aside(&format!("{what}: {problem}"), now)?;
                self.open_or_begin()?
            }
            opened => opened?,
        };
        // The file may report a loss that did not happen: the store was never moved, and could be opened after all.
        let rebuilt = self.loss()?.filter(|rebuilt| rebuilt.moved_to.exists());
        // Noted before the file is removed: if this store is lost, too, the time of the first loss is still known.
        let time = match &rebuilt {
            Some(rebuilt) => rebuilt.last_commit,
            // A new store has lost nothing. For any other store the time is not known.
            None => (writer_state.batches == 0).then_some(now),
        };
        self.note_opened(writer_state.batches, time)?;
        remove_if_there(&self.loss_path())?;
        Ok((engine, writer_state, rebuilt))
    }

    /// Notes an opened store that has so many batches. `time` is for a store that was not noted before.
    pub(super) fn note_opened(&mut self, batches: u64, time: Option<UnixMillis>) -> Result<(), LedgerError> {
        match self.last_commit() {
            // The noted time stays: it is older than the last write, which is safe.
            Some(noted) if noted.batch < batches => {
                // Not an error: a full disk fails the next write, too.
                if let Err(error) = self.remember(LastCommit { batch: batches, ..noted }) {
                    tracing::debug!(%error, "the number of the last commit cannot be noted");
                }
                Ok(())
            }
            Some(_) => Ok(()),
            None => self.note_anew(LastCommit { time, batch: batches }),
        }
    }

    fn note_anew(&mut self, last: LastCommit) -> Result<(), LedgerError> {
        self.remember(last).map_err(|error| LedgerError::io("cannot write", &self.last_commit_path(), &error))?;
        engine::sync_directory(&self.path)
    }

    /// Opens the store again that this process had open, and which has at least `batches_known` batches. Fails with
    /// another store or without one (the volume is gone): a running process never continues on a new store.
    pub(super) fn reopen(&self, batches_known: u64) -> Result<(Engine, WriterState), LedgerError> {
        if !self.is_begun() {
            return Err(LedgerError::Storage(format!("there is no store in {}", self.store().display())));
        }
        // On a full disk the store would fail again with its first write.
        self.probe()?;
        self.patiently(|| Engine::rewrite_files(&self.store()))?;
        self.open_store(Some(batches_known), None)
    }

    /// Opens the store, or makes a new one if there is none.
    fn open_or_begin(&self) -> Result<(Engine, WriterState), LedgerError> {
        if !self.is_begun() {
            if self.store().exists() && self.batches_noted().is_some() && self.loss()?.is_none() {
                // A new store's directory is made only after the former store's note was removed.
                return Err(LedgerError::corrupt("the store", "its file is missing"));
            }
            // The note is the former store's.
            remove_if_there(&self.last_commit_path())?;
            make_directory(&self.store())?;
            engine::sync_directory(&self.path)?;
        }
        self.open_store(None, self.loss()?.and_then(|loss| loss.last_commit))
    }

    /// Opens the store and reads the writer's state. Removes redundant files if the store does not open with them.
    fn open_store(
        &self,
        batches_known: Option<u64>,
        lost_since: Option<UnixMillis>,
    ) -> Result<(Engine, WriterState), LedgerError> {
        let store = self.store();
        engine::put_damaged_conf_aside(&store)?;
        let engine = match self.open_engine() {
            Err(LedgerError::Corrupt { .. }) => {
                engine::remove_snapshots(&store)?;
                self.open_engine()?
            }
            opened => opened?,
        };
        // The engine recovers a log only up to its first damage, without an error: the number of batches reveals the
        // loss.
        WriterState::of(engine, self.batches_noted().max(batches_known), lost_since)
    }

    fn is_begun(&self) -> bool {
        self.store().join(engine::DB).exists()
    }

    /// Opens the store that is there and reads the writer's state. Makes and removes nothing, except that the engine
    /// ends a damaged log at its first damage, as always.
    pub(super) fn open_existing(&self) -> Result<(Engine, WriterState), LedgerError> {
        let engine = self.open_engine()?;
        if engine.reader().get(keys::FORMAT)?.is_none() {
            return Err(LedgerError::corrupt(StoreFormat::WHAT, "it is missing"));
        }
        WriterState::of(engine, self.batches_noted(), None)
    }

    /// Returns how many batches the store must have; None if no store was noted. A note that cannot be read still shows
    /// that there was a store.
    fn batches_noted(&self) -> Option<u64> {
        self.last_commit_path().exists().then(|| self.last_commit().map_or(0, |last| last.batch))
    }

    /// Checks who could have put files in the store's directory, and opens the store.
    pub(super) fn open_engine(&self) -> Result<Engine, LedgerError> {
        self.custody.check(&self.store(), engine::is_ours)?;
        let blobs = self.store().join(engine::BLOBS);
        if blobs.exists() {
            self.custody.check(&blobs, |_| true)?;
        }
        self.patiently(|| Engine::open(&self.store(), self.cache_bytes))
    }

    /// Repeats a call while it finds the store locked by this process.
    fn patiently<T>(&self, enter: impl Fn() -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        const PAUSE: Duration = Duration::from_millis(20);
        let mut waited = Duration::ZERO;
        loop {
            match enter() {
                // No other process is here, because we have the state directory's lock. This process closed it a moment
                // ago.
                Err(LedgerError::Locked(_)) if waited < UNLOCK_MAX => {
                    std::thread::sleep(PAUSE);
                    waited += PAUSE;
                }
                Err(LedgerError::Locked(_)) => {
                    return Err(LedgerError::Locked(self.path.clone()));
                }
                entered => return entered,
            }
        }
    }

    fn store(&self) -> PathBuf {
        self.path.join("ledger")
    }

    fn last_commit_path(&self) -> PathBuf {
        self.path.join("last-commit")
    }

    fn loss_path(&self) -> PathBuf {
        self.path.join("lost-since")
    }

    /// Checks that the disk takes new data, so that a store that cannot be read is damaged, and not short of room.
    fn probe(&self) -> Result<(), LedgerError> {
        let path = self.path.join("probe");
        let written = custody::new_file(&path).and_then(|mut file| {
            file.write_all(&vec![0; PROBE_BYTES])?;
            file.sync_all()
        });
        let removed = fs::remove_file(&path);
        written.and(removed).map_err(|error| LedgerError::io("cannot write", &path, &error))
    }

    /// Writes `lost-since`, and moves the damaged store aside.
    fn move_aside(&self, problem: &str, now: UnixMillis) -> Result<(), LedgerError> {
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
        let name = format!("{PREFIX}{}", compact(now));
        let last_commit = time_text(self.last_commit().and_then(|last| last.time));
        write_whole(&self.loss_path(), &format!("{last_commit}\n{name}\n{problem}\n")).map_err(failed)?;
        engine::sync_directory(&self.path)?;
        fs::rename(self.store(), self.path.join(name)).map_err(failed)?;
        engine::sync_directory(&self.path)
    }

    /// Reads `lost-since`; None if no damaged store is being replaced.
    fn loss(&self) -> Result<Option<Rebuilt>, LedgerError> {
        let text = match read_small(&self.loss_path()) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(custody::unopened("cannot read", &self.loss_path(), &error)),
        };
        let mut lines = text.splitn(3, '\n');
        let mut line = || lines.next().unwrap_or_default().trim();
        Ok(Some(Rebuilt {
            last_commit: parse_time(line()),
            moved_to: self.path.join(line()),
            problem: line().to_owned(),
        }))
    }

    /// Reads the note of the last commit. It may be older than the last durable write, never newer.
    pub(super) fn last_commit(&self) -> Option<LastCommit> {
        let text = String::from_utf8(read_small(&self.last_commit_path()).ok()?).ok()?;
        let (time, batch) = text.trim().split_once(' ')?;
        let time = if time == UNKNOWN { None } else { Some(parse_time(time)?) };
        Some(LastCommit { time, batch: batch.parse().ok()? })
    }

    /// Notes the last commit in a new file, and syncs it.
    pub(super) fn remember(&mut self, last: LastCommit) -> io::Result<()> {
        // Even if this fails, nothing may be written to the former file.
        self.note = None;
        self.note = Some(write_whole(&self.last_commit_path(), &last.text())?);
        Ok(())
    }

    /// Notes the last commit in the present file, without a sync. A kill cannot take it back, a power cut can.
    pub(super) fn jot(&mut self, last: LastCommit) -> io::Result<()> {
        match &self.note {
            // A kill cannot tear a write of so few bytes. The next text is never shorter.
            Some(note) => note.write_all_at(last.text().as_bytes(), 0),
            None => self.remember(last),
        }
    }
}

impl LastCommit {
    fn text(self) -> String {
        format!("{} {}\n", time_text(self.time), self.batch)
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // Closing the file does not unlock it while a child process has a copy of the handle, between fork and exec.
        let _ = self.lock.unlock();
    }
}

/// Formats a time as `20261124T123556Z`.
fn compact(time: UnixMillis) -> String {
    time.to_string().split('.').next().unwrap_or_default().replace(['-', ':'], "") + "Z"
}

fn parse_time(text: &str) -> Option<UnixMillis> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(UnixMillis::from_secs_and_nanos(time.unix_timestamp(), time.nanosecond()))
}

/// The text for a time that is not known.
const UNKNOWN: &str = "unknown";

fn time_text(time: Option<UnixMillis>) -> String {
    time.map_or_else(|| UNKNOWN.to_owned(), |time| time.to_string())
}

/// Returns whether the ledger may open, move or remove an entry with this name in the state directory.
fn is_ours(name: &str) -> bool {
    matches!(name, "lock" | "probe" | "last-commit" | "last-commit.new" | "lost-since" | "lost-since.new")
        || name == "ledger"
        || name.starts_with("ledger.")
}

/// Replaces a small file in one step, so that a crash leaves the old text or the new one. Returns the new file, open.
fn write_whole(path: &Path, text: &str) -> io::Result<File> {
    let draft = path.with_extension("new");
    let mut file = custody::new_file(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    failpoint::reached(Failpoint::NoteDrafted);
    fs::rename(draft, path)?;
    failpoint::reached(Failpoint::NoteRenamed);
    Ok(file)
}

fn remove_if_there(path: &Path) -> Result<(), LedgerError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(LedgerError::io("cannot remove", path, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_ledger_is_named_after_the_second() {
        assert_eq!(compact(UnixMillis(1_795_523_756_123)), "20261124T123556Z");
    }
}
