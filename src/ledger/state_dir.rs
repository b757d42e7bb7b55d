//! Where the ledger lives: `<state.path>`, its lock, the store inside, and what is beside it.
//!
//! ```text
//! <state.path>/lock                           held while a process uses the state
//! <state.path>/ledger/                        the store
//! <state.path>/ledger.corrupt-20261124T...Z/  a damaged one, moved aside: at most two, removed by people only
//! <state.path>/ledger.replaced-1/             one in whose place another was imported, removed by people only
//! <state.path>/last-commit                    time and number of a late durable write, for the day when the store is lost
//! <state.path>/lost-since                     while a damaged store is replaced: what the new one has to know
//! ```
//!
//! `last-commit` is also how a loss is noticed: a damaged store may well open, as it was some time ago. It is there before the
//! first commit, is written over in its place with every commit before anybody hears of that, and anew, to the disk, every
//! [`NOTE_EVERY`](super::writer): whatever is damaged after a kill is noticed to the last commit, and after a power cut to those
//! of the last seconds.
//!
//! A damaged store is replaced in steps, and a process that dies between any two of them leaves the rest to the next:
//!
//! ```text
//!                                      on the disk                          a start that finds this
//!   the time of the last commit is    damaged store, last-commit           begins with the first step
//!     written to lost-since           damaged store, lost-since            begins with the first step
//!   the store is moved aside          no store, lost-since                 makes the new one
//!   a new one is made, in one write   new store that knows, lost-since     removes the file, and tells of the loss
//!     with what lost-since says
//!   the file is removed               new store that knows                 goes on
//! ```
//!
//! A store that is imported takes the place of the one that is there, and whoever enters finishes what was begun:
//!
//! ```text
//!                                      on the disk                          who enters finds this, and
//!   it is built                       ledger?, ledger.importing            goes on with the ledger; an import begins anew
//!   it is renamed: now it counts      ledger?, ledger.imported             does the following steps
//!   the notes on the old one go       ledger?, ledger.imported             does the following steps
//!   the old one is moved aside        ledger.replaced-1, ledger.imported   does the last step
//!   it is renamed                     ledger.replaced-1, ledger            goes on
//! ```
//!
//! One that was made private anew (`ledger.private`) takes the same way, but for the old one: that becomes `ledger.outdated`,
//! and whoever enters removes it.
//!
//! Who else may have written to the directory, and what follows, is told in [`custody`](super::custody).

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
use super::envelope::{Format, Record as _};
use super::error::LedgerError;
use super::keys;
use super::writer_state::WriterState;
use crate::config::StateConfig;
use crate::failpoint::{self, Failpoint};

/// Damaged ledgers that are kept. One would be overwritten by the second accident of an afternoon, many would fill a disk.
const DAMAGED_MAX: usize = 2;

/// A store that is being built by an import; one that is complete, and is to take the ledger's place; and, in front of a
/// number, one whose place was taken, which people remove.
const IMPORTING: &str = "ledger.importing";
const IMPORTED: &str = "ledger.imported";
const REPLACED: &str = "ledger.replaced-";

/// One that was made private anew, and is to take the ledger's place; and the former one, which is removed.
const PRIVATE: &str = "ledger.private";
const OUTDATED: &str = "ledger.outdated";

/// How long a store that this very process has just left may take to let go of its files: sled's threads end after it,
/// and a child process has copies of them between fork and exec. On a busy machine seconds were seen.
const LET_GO: Duration = Duration::from_secs(20);

/// Written and removed again before a store is called damaged: a full disk must not be taken for one.
const PROBE_BYTES: usize = 1 << 20;

/// The state directory, held against other processes until dropped.
pub(super) struct StateDir {
    path: PathBuf,
    cache_bytes: u64,
    lock: File,
    custody: Custody,
    /// The note of the last commit, to be written over in its place; None until this process has written it anew.
    note: Option<File>,
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

/// The time of a durable batch, and its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LastCommit {
    /// None if that is not known: the store was put in from elsewhere.
    pub(super) time: Option<UnixMillis>,
    pub(super) batch: u64,
}

impl StateDir {
    /// Makes the directory (for the owner alone) if it is not there, makes sure that nobody else's files are in it, and takes
    /// its lock.
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

    /// Makes the directory if it is not there, and makes sure that nobody else's files are in it.
    pub(super) fn look(state: &StateConfig) -> Result<Custody, LedgerError> {
        Custody::of(&state.path, is_ours)
    }

    /// Takes the lock of a state directory that has a store; makes none.
    pub(super) fn enter_existing(state: &StateConfig) -> Result<Self, LedgerError> {
        if Self::is_inhabited(state)? { Self::enter(state) } else { Err(LedgerError::Absent(state.path.clone())) }
    }

    /// Whether there is a store, or one that has only to be put in its place.
    pub(super) fn is_inhabited(state: &StateConfig) -> Result<bool, LedgerError> {
        for name in ["ledger", IMPORTED, PRIVATE] {
            let store = state.path.join(name).join("db");
            match store.try_exists() {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => return Err(LedgerError::io("cannot look for", &store, &error)),
            }
        }
        Ok(false)
    }

    /// Begins a new store beside the one that is there.
    pub(super) fn begin_import(&self) -> Result<Engine, LedgerError> {
        self.abandon_import()?;
        let importing = self.path.join(IMPORTING);
        make_directory(&importing)?;
        engine::sync_directory(&self.path)?;
        Engine::open(&importing, self.cache_bytes)
    }

    /// Removes what an import has built, if it is not complete.
    pub(super) fn abandon_import(&self) -> Result<(), LedgerError> {
        let importing = self.path.join(IMPORTING);
        match fs::remove_dir_all(&importing) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(LedgerError::io("cannot remove", &importing, &error))
            }
            _ => Ok(()),
        }
    }

    /// Has a store of so many groups that is built, synced and closed take the place of the one that is there; answers where
    /// that one lies.
    pub(super) fn complete_import(&mut self, groups: u64) -> Result<Option<PathBuf>, LedgerError> {
        self.rename(&self.path.join(IMPORTING), &self.path.join(IMPORTED))?;
        let replaced = self.put_imported_in_place()?;
        // It is in its place already, and noted by whoever opens it first.
        if let Err(error) = self.note_anew(LastCommit { time: None, batch: groups }) {
            tracing::debug!(%error, "an imported ledger cannot be noted");
        }
        Ok(replaced)
    }

    /// Has a store that was made private, as above, take the place of the one that is there, which is removed.
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

    /// Removes what is noted beside the store. It tells of the one that leaves: by its note, the new one would be taken for one
    /// that has lost writes.
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

    /// Opens the store and reads its writer_state; replaces it by a new one if it is damaged beyond doubt. The store is noted: from
    /// then on it does not pass for a new one.
    pub(super) fn open(&mut self, now: UnixMillis) -> Result<(Engine, WriterState, Option<Rebuilt>), LedgerError> {
        let (engine, writer_state) = match self.open_or_begin() {
            Err(LedgerError::Corrupt { what, problem }) => {
                self.probe()?;
                self.move_aside(&format!("{what}: {problem}"), now)?;
                self.open_or_begin()?
            }
            opened => opened?,
        };
        // Of a store that could be opened after all, a file may tell that was never moved.
        let rebuilt = self.loss()?.filter(|rebuilt| rebuilt.moved_to.exists());
        // Before the file is removed: a store that is lost again has to know since when the first one was.
        let time = match &rebuilt {
            Some(rebuilt) => rebuilt.last_commit,
            // A store that is new has missed nothing before; of another one nobody knows.
            None => (writer_state.groups == 0).then_some(now),
        };
        self.note_opened(writer_state.groups, time)?;
        remove_if_there(&self.loss_path())?;
        Ok((engine, writer_state, rebuilt))
    }

    /// Notes a store that was opened, which has so many groups; `time` is for one of which nothing is noted.
    pub(super) fn note_opened(&mut self, groups: u64, time: Option<UnixMillis>) -> Result<(), LedgerError> {
        match self.last_commit() {
            // What was noted before remains older than the truth.
            Some(noted) if noted.batch < groups => {
                // A full disk shows soon enough where it matters.
                if let Err(error) = self.remember(LastCommit { batch: groups, ..noted }) {
                    tracing::debug!(%error, "the number of the last commit cannot be noted");
                }
                Ok(())
            }
            Some(_) => Ok(()),
            None => self.note_anew(LastCommit { time, batch: groups }),
        }
    }

    fn note_anew(&mut self, last: LastCommit) -> Result<(), LedgerError> {
        self.remember(last).map_err(|error| LedgerError::io("cannot write", &self.last_commit_path(), &error))?;
        engine::sync_directory(&self.path)
    }

    /// Opens the store again that this process had open, and in which at least `groups_known` groups were written. Another
    /// one, or none (the volume is gone), will not do: nothing is begun anew under a process that runs.
    pub(super) fn reopen(&self, groups_known: u64) -> Result<(Engine, WriterState), LedgerError> {
        if !self.is_begun() {
            return Err(LedgerError::Storage(format!("there is no store in {}", self.store().display())));
        }
        // A store that was opened on a full disk would fail again with its first write.
        self.probe()?;
        self.patiently(|| engine::write_again(&self.store()))?;
        self.open_store(Some(groups_known), None)
    }

    /// Opens the store as it is, or makes a new one if there is none.
    fn open_or_begin(&self) -> Result<(Engine, WriterState), LedgerError> {
        if !self.is_begun() {
            if self.store().exists() && self.groups_noted().is_some() && self.loss()?.is_none() {
                // Its directory is made only after the note on the one before was removed.
                return Err(LedgerError::corrupt("the store", "its file is missing"));
            }
            // A new store knows nothing of the one before.
            remove_if_there(&self.last_commit_path())?;
            make_directory(&self.store())?;
            engine::sync_directory(&self.path)?;
        }
        self.open_store(None, self.loss()?.and_then(|loss| loss.last_commit))
    }

    /// Opens the store and reads its writer_state. Only what is redundant is removed if that helps.
    fn open_store(
        &self,
        groups_known: Option<u64>,
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
        // sled reads a log up to the first thing that it does not understand, and calls that a recovery.
        WriterState::of(engine, self.groups_noted().max(groups_known), lost_since)
    }

    fn is_begun(&self) -> bool {
        self.store().join("db").exists()
    }

    /// Opens the store that is there, as it is, and reads its writer_state: makes and removes nothing. (To open is to recover for
    /// sled: it ends a damaged log where it stops understanding it, here as everywhere.)
    pub(super) fn open_existing(&self) -> Result<(Engine, WriterState), LedgerError> {
        let engine = self.open_engine()?;
        if engine.reader().get(keys::FORMAT)?.is_none() {
            return Err(LedgerError::corrupt(Format::WHAT, "it is missing"));
        }
        WriterState::of(engine, self.groups_noted(), None)
    }

    /// How many groups the store must have. Where something was noted there was something, also if the note cannot be read
    /// any more.
    fn groups_noted(&self) -> Option<u64> {
        self.last_commit_path().exists().then(|| self.last_commit().map_or(0, |last| last.batch))
    }

    pub(super) fn open_engine(&self) -> Result<Engine, LedgerError> {
        self.custody.check(&self.store(), engine::is_ours)?;
        let blobs = self.store().join(engine::BLOBS);
        if blobs.exists() {
            self.custody.check(&blobs, |_| true)?;
        }
        self.patiently(|| Engine::open(&self.store(), self.cache_bytes))
    }

    /// Does what needs the store's files for itself.
    fn patiently<T>(&self, enter: impl Fn() -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        const PAUSE: Duration = Duration::from_millis(20);
        let mut waited = Duration::ZERO;
        loop {
            match enter() {
                // Our lock says that no other process is here: it is what we ourselves closed a moment ago.
                Err(LedgerError::Locked(_)) if waited < LET_GO => {
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

    /// Shows that the disk takes new data, so that what cannot be read is damaged and not in want of room.
    fn probe(&self) -> Result<(), LedgerError> {
        let path = self.path.join("probe");
        let written = custody::new_file(&path).and_then(|mut file| {
            file.write_all(&vec![0; PROBE_BYTES])?;
            file.sync_all()
        });
        let removed = fs::remove_file(&path);
        written.and(removed).map_err(|error| LedgerError::io("cannot write", &path, &error))
    }

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

    /// What `lost-since` tells, if a damaged store was being replaced.
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

    /// What was last made durable, as the small file beside the store has it: older than the truth, never newer.
    pub(super) fn last_commit(&self) -> Option<LastCommit> {
        let text = String::from_utf8(read_small(&self.last_commit_path()).ok()?).ok()?;
        let (time, batch) = text.trim().split_once(' ')?;
        let time = if time == UNKNOWN { None } else { Some(parse_time(time)?) };
        Some(LastCommit { time, batch: batch.parse().ok()? })
    }

    /// Remembers what was last made durable, on the disk.
    pub(super) fn remember(&mut self, last: LastCommit) -> io::Result<()> {
        // Whatever happens, the former file is written to no more.
        self.note = None;
        self.note = Some(write_whole(&self.last_commit_path(), &last.text())?);
        Ok(())
    }

    /// Remembers what was last made durable, so that a kill cannot take it back. It costs no access to the disk.
    pub(super) fn jot(&mut self, last: LastCommit) -> io::Result<()> {
        match &self.note {
            // A write of so few bytes is whole or not at all, but for a power cut. The next text is never shorter.
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
        // To close the file is not enough: a child process has a copy of it between fork and exec.
        let _ = self.lock.unlock();
    }
}

/// `20261124T123556Z`.
fn compact(time: UnixMillis) -> String {
    time.to_string().split('.').next().unwrap_or_default().replace(['-', ':'], "") + "Z"
}

fn parse_time(text: &str) -> Option<UnixMillis> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(UnixMillis::from_secs_and_nanos(time.unix_timestamp(), time.nanosecond()))
}

/// What stands for a time that is not known.
const UNKNOWN: &str = "unknown";

fn time_text(time: Option<UnixMillis>) -> String {
    time.map_or_else(|| UNKNOWN.to_owned(), |time| time.to_string())
}

/// Whether the ledger may open, move or remove what has this name in the state directory.
fn is_ours(name: &str) -> bool {
    matches!(name, "lock" | "probe" | "last-commit" | "last-commit.new" | "lost-since" | "lost-since.new")
        || name == "ledger"
        || name.starts_with("ledger.")
}

/// Writes a small file that is whole at any moment: the old one or the new one. Answers the new one, still open.
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
