//! The pools in the ledger: since when each is followed, and what has to be known after a loss.

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::shard::{Shard, Shares};

use super::envelope::{LostSince, Share, StoredPool, StoredRecord as _};
use super::store::StoreReader as _;
use super::writer_state::WriteRequest;
use super::{Ledger, LedgerError, keys};

/// A pool's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolRecord {
    /// When the pool was first followed, as far as is known. After a loss: when the lost ledger was last written.
    pub followed_since: UnixMillis,
    /// Present until discovery has enrolled the users whose records were lost, or whom other shards followed. Events
    /// since this time are live.
    pub lost_since: Option<UnixMillis>,
    /// Digest of the selection under which all followed users were enrolled; None while there is no such selection.
    pub selection: Option<u64>,
    /// The shares of the pool's users that this ledger had.
    pub shares: Shares,
}

impl Ledger {
    /// Reads a pool's record; None for a pool that was never followed.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn pool(&self, pool_id: &str) -> Result<Option<PoolRecord>, LedgerError> {
        let stored = self.reading(|reader| reader.get(&keys::pool(pool_id)))?;
        let record = |bytes: Vec<u8>| {
            let StoredPool { followed_since, lost_since, selection, shares } = StoredPool::open(&bytes)?;
            let (followed_since, lost_since) = (UnixMillis(followed_since), lost_since.map(UnixMillis));
            let share = |Share { index, count, since }| Some((Shard::new(index, count)?, UnixMillis(since)));
            let shares: Option<Vec<_>> = shares.into_iter().map(share).collect();
            let shares = shares.ok_or_else(|| LedgerError::corrupt(StoredPool::WHAT, "it has an impossible share"))?;
            let shares = Shares::remembered(shares).unwrap_or_else(|| Shares::begun(Shard::WHOLE, followed_since));
            Ok(PoolRecord { followed_since, lost_since, selection, shares })
        };
        stored.map(record).transpose()
    }

    /// Reads the ids of the pools that have a record, in order.
    ///
    /// # Errors
    /// The ledger has failed or is closed.
    pub fn pools(&self) -> Result<Vec<String>, LedgerError> {
        let keys = self.reading(|reader| reader.keys(keys::pools(), usize::MAX))?;
        Ok(keys.iter().filter_map(|key| String::from_utf8(key.get(2..)?.to_vec()).ok()).collect())
    }

    /// Writes a pool's record.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn follow_pool(&self, pool_id: &str, record: PoolRecord) -> Result<(), LedgerError> {
        let lost_since = record.lost_since.map(|time| time.0);
        let share =
            |(shard, since): &(Shard, UnixMillis)| Share { index: shard.index(), count: shard.count(), since: since.0 };
        let shares = record.shares.as_slice().iter().map(share).collect();
        let stored =
            StoredPool { followed_since: record.followed_since.0, lost_since, selection: record.selection, shares };
        self.write(WriteRequest::Put(vec![(keys::pool(pool_id), Some(stored.seal()))])).await
    }

    /// Removes a pool's told events, and then its record, totals and read position in one atomic write. Callers forget
    /// its users before; its entries in the outbox stay.
    ///
    /// # Errors
    /// They may still be there: the ledger has failed or is closed.
    pub async fn forget_pool(&self, pool_id: &str) -> Result<(), LedgerError> {
        self.remove_told(pool_id).await?;
        self.write(WriteRequest::ForgetPool(pool_id.to_owned())).await
    }

    /// Reads when the former ledger was last written, if this one replaced it. None once every pool's own record has
    /// that time (see [`Ledger::forget_loss`]).
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn lost_since(&self) -> Result<Option<UnixMillis>, LedgerError> {
        let stored = self.reading(|reader| reader.get(keys::LOST_SINCE))?;
        stored.map(|bytes| Ok(UnixMillis(LostSince::open(&bytes)?.time))).transpose()
    }

    /// Removes the time that [`Ledger::lost_since`] reads: every pool has it in its own record.
    ///
    /// # Errors
    /// It may still be there: the ledger has failed or is closed.
    pub async fn forget_loss(&self) -> Result<(), LedgerError> {
        self.write(WriteRequest::Put(vec![(keys::LOST_SINCE.to_vec(), None)])).await
    }
}
