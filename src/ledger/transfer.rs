//! Taking a whole ledger out and putting one in, record by record; and reading one whole, to say what is damaged.
//!
//! What is put in is built beside the ledger that is there and takes its place in one step, see [`state_dir`](super::state_dir): a
//! process that dies leaves the one or the other, never something between.

use std::path::PathBuf;

use super::Ledger;
use super::engine::{Change, Engine};
use super::error::LedgerError;
use super::keys;
use super::names::RecordName;
use super::state_dir::StateDir;
use super::writer_state::WriterState;
use crate::config::StateConfig;

/// Records of one write of an import. They come in the order of their keys, so that a large write is cheap; and few enough
/// to hold, of users under attack too.
const AT_ONCE: usize = 500;

/// Bytes after which an import writes, however few the records are.
const AT_ONCE_BYTES: usize = 8 << 20;

/// A ledger that is being put in.
pub struct Import {
    state_dir: StateDir,
    /// None when it is complete, and between two writes never.
    engine: Option<Engine>,
    waiting: Vec<Change>,
    waiting_bytes: usize,
}

impl Ledger {
    /// Shows every record to `see`, in the order of the keys, as it lies: name, value, and what is wrong with it. What no
    /// build writes has no name. `see` may stop it.
    ///
    /// # Errors
    /// The ledger has failed or is closed.
    pub fn each_record(
        &self,
        mut see: impl FnMut(Option<RecordName>, &[u8], Option<LedgerError>) -> bool,
    ) -> Result<(), LedgerError> {
        self.reading(|reader| {
            reader.each_while(keys::everything(), |key, value| {
                let name = RecordName::of(key);
                let wrong = name.as_ref().and_then(|name| name.check(value).err());
                Ok(see(name, value, wrong))
            })
        })
    }

    /// Reads a ledger whole that may not even open: shows every record to `see` as [`Ledger::each_record`] does, then answers
    /// what is wrong with the ledger as a whole.
    ///
    /// # Errors
    /// There is none, it is in use, or the store itself cannot be read.
    pub fn examine(
        state: &StateConfig,
        mut see: impl FnMut(Option<RecordName>, Option<LedgerError>),
    ) -> Result<Option<LedgerError>, LedgerError> {
        let state_dir = StateDir::enter_existing(state)?;
        let engine = state_dir.open_engine()?;
        engine.reader().each(keys::everything(), |key, value| {
            let name = RecordName::of(key);
            let wrong = name.as_ref().and_then(|name| name.check(value).err());
            see(name, wrong);
            Ok(())
        })?;
        drop(engine);
        Ok(state_dir.open_existing().err())
    }

    /// Begins to put a ledger in: beside the one that is there, if there is one.
    ///
    /// # Errors
    /// The state is in use, or cannot be written.
    pub fn import(state: &StateConfig) -> Result<Import, LedgerError> {
        let state_dir = StateDir::enter(state)?;
        let engine = Some(state_dir.begin_import()?);
        Ok(Import { state_dir, engine, waiting: Vec::new(), waiting_bytes: 0 })
    }
}

impl Import {
    /// Takes a record.
    ///
    /// # Errors
    /// It is damaged, or a newer build has written it, or cannot be written here.
    pub fn add(&mut self, name: &RecordName, value: Vec<u8>) -> Result<(), LedgerError> {
        let Some(key) = name.key() else { return Err(LedgerError::corrupt("a name", "no ledger has such a record")) };
        name.check(&value)?;
        self.waiting_bytes += key.len() + value.len();
        self.waiting.push((key, Some(value)));
        if self.waiting.len() >= AT_ONCE || self.waiting_bytes >= AT_ONCE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), LedgerError> {
        self.waiting_bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        self.engine.as_mut().map_or(Ok(()), |engine| engine.write(waiting))
    }

    /// Puts the ledger in its place; answers where the one lies that was there.
    ///
    /// # Errors
    /// What was added is no whole ledger, or cannot be written. The ledger that was there is there still.
    pub fn finish(mut self) -> Result<Option<PathBuf>, LedgerError> {
        self.write()?;
        let mut groups = 0;
        if let Some(engine) = self.engine.take() {
            let (engine, writer_state) = WriterState::of(engine, Some(0), None)?;
            groups = writer_state.groups;
            drop(engine);
        }
        self.state_dir.complete_import(groups)
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        // Closed first; what cannot be removed now is removed by the next import.
        if self.engine.take().is_some() {
            let _ = self.state_dir.abandon_import();
        }
    }
}
