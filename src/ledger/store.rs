//! What the ledger needs of a storage engine: an ordered map of byte keys to byte values in one directory.
//!
//! - **Atomic batches.** After a crash at any moment, all changes of a batch are there or none.
//! - **Order.** A range gives its records in the order of their keys.
//! - **Durability.** When [`Store::sync`] answers Ok, every batch applied before it is on the disk.
//! - **Reopening.** A store that was closed, or whose process died, opens again with every durable batch. A store that
//!   cannot keep this promise, because its files are damaged, answers `Corrupt`.
//!
//! `store/conformance.rs` tests these promises for any engine. `engine.rs` has the engine that the ledger uses. A
//! replacement of that file implements these traits, and the functions that manage the engine's files.

use std::ops::Range;
use std::path::Path;

use super::error::LedgerError;
use crate::failpoint::{self, Failpoint};

#[cfg(test)]
pub(super) mod conformance;

/// One change of a batch: a key and its new value, or None to remove it.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// Reads of an open store, from any thread. Clones share the store, and it stays open until the last one is dropped.
pub(super) trait StoreReader: Clone + Send + Sync + 'static {
    /// Reads the value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError>;

    /// Reads at most `limit` keys of a range, in order.
    fn keys(&self, range: Range<Vec<u8>>, limit: usize) -> Result<Vec<Vec<u8>>, LedgerError>;

    /// Calls `see` with the records of a range, in order, while it answers true. Its first error ends the reading.
    fn each_while(
        &self,
        range: Range<Vec<u8>>,
        see: impl FnMut(&[u8], &[u8]) -> Result<bool, LedgerError>,
    ) -> Result<(), LedgerError>;

    /// Calls `see` with every record of a range, in order. Its first error ends the reading.
    fn each(
        &self,
        range: Range<Vec<u8>>,
        mut see: impl FnMut(&[u8], &[u8]) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        self.each_while(range, |key, value| see(key, value).map(|()| true))
    }

    /// Returns the store's bytes on the disk.
    fn size_bytes(&self) -> Result<u64, LedgerError>;
}

/// An open store, written by one thread.
///
/// After an error of `apply` or `sync` the state of the store is unknown: drop it, call [`Store::rewrite_files`], open
/// it again, and read what it has.
pub(super) trait Store: Sized + Send + 'static {
    /// Reads of this store.
    type Reader: StoreReader;

    /// Opens the store in a directory that exists, and makes it if the directory has none.
    ///
    /// # Errors
    /// `Locked`: this process or another one has it open. `Corrupt`: its files are damaged. `Storage`: anything else.
    fn open(directory: &Path, cache_bytes: u64) -> Result<Self, LedgerError>;

    /// Writes the files of a closed store over themselves, and syncs them. After a failed fsync a file may read back
    /// bytes that are not on the disk. This puts them there before the store is opened again.
    ///
    /// # Errors
    /// `Locked`: the store is still open. `Storage`: anything else.
    fn rewrite_files(directory: &Path) -> Result<(), LedgerError>;

    /// Returns the store's reader, which sees every batch that was applied.
    fn reader(&self) -> &Self::Reader;

    /// Applies a batch: all of its changes or none. The last change of a key wins.
    fn apply(&mut self, changes: Vec<Change>) -> Result<(), LedgerError>;

    /// Waits until everything applied so far is on the disk.
    fn sync(&mut self) -> Result<(), LedgerError>;

    /// Applies a batch and syncs it.
    fn write(&mut self, changes: Vec<Change>) -> Result<(), LedgerError> {
        self.apply(changes)?;
        failpoint::reached(Failpoint::LedgerApplied);
        self.sync()
    }
}
