//! Commits: the atomic write of a page, and the totals that it increments.
//!
//! A caller encodes the commit ([`Ledger::commit`]). The writer's thread adds it to a batch ([`CommitRequest::stage`]).

use std::sync::Arc;

use cognito_auth_core::counters::{Deltas, Series};
use cognito_auth_core::entry::{Entry, PoolIdentity};
use cognito_auth_core::event::{EventKey, UnixMillis};

use super::engine::Reader;
use super::envelope::{Count, StoredRecord as _};
use super::store::StoreReader as _;
use super::stored_entry::StoredEntry;
use super::stored_user::StoredUser;
use super::writer::WriterMessage;
use super::writer_state::{WriteBatch, WriteRequest, WriterState};
use super::{Ledger, LedgerError, ToldChange, UserRecord, keys, told};

/// One atomic write: a page's cursor with everything that the page changes.
#[derive(Clone)]
pub struct Commit {
    /// The user's pool.
    pub pool: Arc<PoolIdentity>,
    /// The user.
    pub username: String,
    /// The user's record with the next cursor.
    pub record: UserRecord,
    /// Increments of the pool's totals.
    pub totals: Deltas,
    /// Entries for the outbox.
    pub entries: Vec<Entry>,
    /// What the page tells of events that the pool's export may tell, too.
    pub told: Vec<(EventKey, ToldChange)>,
}

/// A commit on its way to the writer, encoded as far as that needs no state of the writer.
pub(super) struct CommitRequest {
    pool_id: String,
    /// The user's key.
    user: Vec<u8>,
    /// The user's sealed record.
    record: Vec<u8>,
    joined: UnixMillis,
    totals: Deltas,
    /// Sealed entries.
    entries: Vec<Vec<u8>>,
    told: Vec<(EventKey, ToldChange)>,
}

impl Ledger {
    /// Writes a page. All of it is on the disk when this answers Ok.
    ///
    /// # Errors
    /// `NotEnrolled`: nothing was written, because no user with this name and time of joining is enrolled.
    /// `ToldMeanwhile`: nothing was written, because the pool's export has told one of the events since. Any other
    /// error: all of it or nothing may have been written, because the ledger has failed or is closed. Read the user
    /// again.
    pub async fn commit(&self, commit: Commit) -> Result<(), LedgerError> {
        let Commit { pool, username, record, totals, entries, told } = commit;
        // Personal data that may not be stored comes no further. Only a change of settings (`rekey.rs`) hides more
        // later.
        let private = |entry| StoredEntry::from(self.0.privacy.apply(entry)).seal();
        let request = CommitRequest {
            user: self.user_key(&pool.id, &username),
            record: StoredUser::from(&record).seal(),
            joined: record.joined,
            pool_id: pool.id.clone(),
            totals,
            entries: entries.into_iter().map(private).collect(),
            told,
        };
        self.write(WriteRequest::Commit(request)).await
    }

    /// Reads a pool's totals, without series that only another build knows.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or a record cannot be read.
    pub fn totals(&self, pool_id: &str) -> Result<Vec<(Series, u64)>, LedgerError> {
        let range = keys::totals(Some(pool_id));
        let skipped = range.start.len();
        let mut totals = Vec::new();
        self.reading(|reader| {
            reader.each(range, |key, value| {
                let series = key.get(skipped..).and_then(|key| std::str::from_utf8(key).ok());
                if let Some(series) = series.and_then(Series::from_key) {
                    totals.push((series, Count::open(value)?.value));
                }
                Ok(())
            })
        })?;
        Ok(totals)
    }

    /// Registers `show`, which the writer's thread calls with absolute totals: with all of them now, and with a pool's
    /// totals once an increment is on the disk. It gets all of them again when the store was opened again, because a
    /// write that failed may have been done.
    ///
    /// # Errors
    /// The ledger is closed.
    pub async fn show_totals(&self, show: impl Fn(&str, &[(Series, u64)]) + Send + 'static) -> Result<(), LedgerError> {
        self.send(|reply| WriterMessage::Show(Box::new(show), reply)).await
    }
}

impl CommitRequest {
    /// Estimates how many places in the store the commit touches. Entries of the outbox are neighbours.
    pub(super) fn places(&self) -> usize {
        1 + self.totals.len() + self.told.len() + WriteRequest::places_of_entries(self.entries.len())
    }

    /// Adds the commit to the batch, if the enrolled user joined at the commit's time. Otherwise the user was forgotten
    /// or replaced during the turn, and the page must not overwrite another record.
    pub(super) fn stage(
        self,
        writer_state: &mut WriterState,
        reader: &Reader,
        batch: &mut WriteBatch,
    ) -> Result<(), LedgerError> {
        let stored = batch.stored(&self.user, reader)?;
        let enrolled = stored.map(|stored| StoredUser::standing(&stored)).transpose()?;
        if enrolled.map(|enrolled| enrolled.joined) != Some(self.joined) {
            return Err(LedgerError::NotEnrolled);
        }
        told::stage_polled(&self.pool_id, self.told, reader, batch)?;
        batch.changes.push((self.user, Some(self.record)));
        writer_state.totals.raise(self.pool_id, &self.totals, batch);
        batch.entries.extend(self.entries);
        Ok(())
    }
}
