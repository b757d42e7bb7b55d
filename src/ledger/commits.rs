//! Commits: the atomic write of a page, and the totals that it increments.

use std::sync::Arc;

use cognito_auth_core::counters::Series;
use cognito_auth_core::entry::{Entry, PoolIdentity};

use super::envelope::{Count, StoredRecord as _};
use super::store::StoreReader as _;
use super::stored_entry::StoredEntry;
use super::stored_user::StoredUser;
use super::writer::WriterMessage;
use super::writer_state::WriteRequest;
use super::{Ledger, LedgerError, UserRecord, keys};

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
    pub totals: Vec<(Series, u64)>,
    /// Entries for the outbox.
    pub entries: Vec<Entry>,
}

impl Ledger {
    /// Writes a page. All of it is on the disk when this answers Ok.
    ///
    /// # Errors
    /// `NotEnrolled`: nothing was written, because no user with this name and time of joining is enrolled. Any other
    /// error: all of it or nothing may have been written, because the ledger has failed or is closed. Read the user
    /// again.
    pub async fn commit(&self, commit: Commit) -> Result<(), LedgerError> {
        let pool_id = &commit.pool.id;
        let private = |entry| StoredEntry::from(self.0.privacy.apply(entry)).seal();
        let increments =
            commit.totals.iter().map(|(series, increment)| (keys::total(pool_id, &series.to_key()), *increment));
        self.write(WriteRequest::Commit {
            user: (self.user_key(pool_id, &commit.username), StoredUser::from(&commit.record).seal()),
            joined: commit.record.joined,
            increments: increments.collect(),
            // Personal data that may not be stored comes no further. Only a change of settings (`rekey.rs`) hides more
            // later.
            entries: commit.entries.into_iter().map(private).collect(),
        })
        .await
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
