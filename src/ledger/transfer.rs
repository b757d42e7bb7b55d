//! A whole ledger, record by record: for export, for import, and to find damaged records.
//!
//! An import builds a new store beside the present one and then replaces that in one step (see
//! [`state_dir`](super::state_dir)). A process that dies leaves the one or the other.

use std::path::PathBuf;

use super::Ledger;
use super::engine::Engine;
use super::error::LedgerError;
use super::keys;
use super::names::RecordName;
use super::state_dir::StateDir;
use super::store::{Change, Store as _, StoreReader as _};
use super::writer_state::WriterState;
use crate::config::StateConfig;

/// Records of one write of an import. They come in the order of their keys, so that a large write is cheap. They fit in
/// memory even when the users are under attack.
const AT_ONCE: usize = 500;

/// Bytes after which an import writes, even with fewer records.
const AT_ONCE_BYTES: usize = 8 << 20;

/// An import in progress.
pub struct Import {
    state_dir: StateDir,
    /// The new store; None once it is complete.
    engine: Option<Engine>,
    waiting: Vec<Change>,
    waiting_bytes: usize,
}

impl Ledger {
    /// Calls `see` with every record in the order of the keys: its name, its stored value, and its damage. A record
    /// that no build writes has no name. `see` answers whether to continue.
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

    /// Reads a whole ledger that may be too damaged to open. Calls `see` like [`Ledger::each_record`], then returns the
    /// damage of the ledger as a whole.
    ///
    /// # Errors
    /// There is no ledger, it is in use, or its store cannot be read.
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

    /// Begins an import, beside the ledger that is there, if there is one.
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
    /// Adds a record.
    ///
    /// # Errors
    /// The record is damaged, a newer build has written it, or it cannot be written here.
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

    /// Replaces the ledger by the imported one, and returns the directory of the replaced one.
    ///
    /// # Errors
    /// The records are no complete ledger, or cannot be written. The ledger that was there is unchanged.
    pub fn finish(mut self) -> Result<Option<PathBuf>, LedgerError> {
        self.write()?;
        let mut batches = 0;
        if let Some(engine) = self.engine.take() {
            let (engine, writer_state) = WriterState::of(engine, Some(0), None)?;
            batches = writer_state.batches;
            drop(engine);
        }
        self.state_dir.complete_import(batches)
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        // The store is closed first. If it cannot be removed now, the next import removes it.
        if self.engine.take().is_some() {
            let _ = self.state_dir.abandon_import();
        }
    }
}
