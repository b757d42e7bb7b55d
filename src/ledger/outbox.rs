//! The outbox and the quarantine: entries that no receiver has accepted yet, and entries that were put aside.

use std::ops::Range;

use cognito_auth_core::entry::{Entry, OutboxId};
use cognito_auth_core::event::UnixMillis;
use tokio::sync::watch;

use super::envelope::StoredRecord as _;
use super::store::StoreReader as _;
use super::stored_entry::{StoredEntry, StoredRefusal};
use super::writer::BATCH_PLACES_MAX;
use super::writer_state::WriteRequest;
use super::{Ledger, LedgerError, keys};
use crate::delivery::{Outbox, OutboxEntry, Settlement, Unreadable};

/// The number and size of the entries in the outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OutboxState {
    /// Number of entries.
    pub records: u64,
    /// Their bytes as stored, keys included.
    pub bytes: u64,
    /// When the first of them was observed.
    pub oldest: Option<UnixMillis>,
}

/// An entry of the quarantine: the receiver refused it finally, or it is damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// The entry.
    pub entry: Result<Entry, Unreadable>,
    /// Why and when it was put aside; None if that cannot be read either.
    pub refusal: Option<QuarantineReason>,
}

/// Why and when an entry was put aside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuarantineReason {
    /// The receiver's answer, or the damage of the entry.
    pub reason: String,
    /// When the entry was put aside.
    pub at: UnixMillis,
}

impl Ledger {
    /// Returns the number and size of the durable entries in the outbox.
    pub fn outbox_state(&self) -> OutboxState {
        self.0.shared.published.borrow().outbox
    }

    /// Returns the number of entries in quarantine, and their bytes as stored.
    pub fn quarantine_state(&self) -> (u64, u64) {
        let size = self.0.shared.published.borrow().quarantine;
        (size.records, size.bytes)
    }

    /// Reads up to `limit` entries of the quarantine behind `after` (None: from the first), in order.
    ///
    /// # Errors
    /// The ledger has failed or is closed.
    pub fn read_quarantine(
        &self,
        after: Option<OutboxId>,
        limit: usize,
    ) -> Result<Vec<(OutboxId, Quarantined)>, LedgerError> {
        let first = after.map_or(0, |after| after.0.saturating_add(1));
        let values = self.numbered(keys::quarantine_from(first), limit)?;
        values
            .into_iter()
            .map(|(id, value)| {
                let quarantined = match StoredRefusal::examine(&value)? {
                    Ok(StoredRefusal { reason, at, value }) => Quarantined {
                        entry: StoredEntry::examine(&value)?.map(Entry::from),
                        refusal: Some(QuarantineReason { reason, at: UnixMillis(at) }),
                    },
                    Err(unreadable) => Quarantined { entry: Err(unreadable), refusal: None },
                };
                Ok((id, quarantined))
            })
            .collect()
    }

    /// Moves entries from the quarantine to the end of the outbox, under new numbers. Skips those that are not in
    /// quarantine. At any moment each entry is in exactly one of the two places.
    ///
    /// # Errors
    /// One of them cannot be read, or the ledger has failed or is closed. Those before it may be back in the outbox.
    pub async fn retry(&self, ids: &[OutboxId]) -> Result<(), LedgerError> {
        for part in ids.chunks(BATCH_PLACES_MAX / 2) {
            self.write(WriteRequest::Retry(part.to_vec())).await?;
        }
        Ok(())
    }

    /// Removes entries from the quarantine. Skips those that are not there.
    ///
    /// # Errors
    /// Some may still be there: the ledger has failed or is closed.
    pub async fn drop_quarantined(&self, ids: &[OutboxId]) -> Result<(), LedgerError> {
        for part in ids.chunks(BATCH_PLACES_MAX) {
            self.write(WriteRequest::Drop(part.to_vec())).await?;
        }
        Ok(())
    }

    /// Reads the values under numbered keys, as many as the limits allow.
    fn numbered(&self, range: Range<Vec<u8>>, limit: usize) -> Result<Vec<(OutboxId, Vec<u8>)>, LedgerError> {
        let mut bytes = 0;
        let mut values = Vec::new();
        self.reading(|reader| {
            reader.each_while(range, |key, value| {
                bytes += value.len();
                if values.len() >= limit || (bytes > Self::READ_BYTES_MAX && !values.is_empty()) {
                    return Ok(false);
                }
                values.extend(keys::sequence_of(key).map(|number| (OutboxId(number), value.to_vec())));
                Ok(true)
            })
        })?;
        Ok(values)
    }
}

impl Outbox for Ledger {
    type Error = LedgerError;

    fn read(&self, after: Option<OutboxId>, limit: usize) -> Result<Vec<OutboxEntry>, LedgerError> {
        let first = after.map_or(0, |after| after.0.saturating_add(1));
        let end = self.0.shared.published.borrow().end;
        let mut entries: Vec<OutboxEntry> = Vec::new();
        for (id, value) in self.numbered(keys::outbox_between(first, end), limit)? {
            let mut entry = StoredEntry::examine(&value)?.map(Entry::from);
            // Most neighbours are of one pool, and share its identity in memory.
            if let (Some((_, Ok(before))), Ok(entry)) = (entries.last(), &mut entry)
                && before.pool == entry.pool
            {
                entry.pool = before.pool.clone();
            }
            entries.push((id, entry));
        }
        Ok(entries)
    }

    async fn settle(&self, settlement: Settlement) -> Result<(), LedgerError> {
        self.write(WriteRequest::Settle(settlement)).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.shared.changes.subscribe()
    }

    fn quarantine_full(&self) -> bool {
        self.quarantine_state().1 >= self.0.quarantine_limit_bytes
    }
}
