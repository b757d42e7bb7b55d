//! The quarantine: entries that the receiver refused finally, and entries that are damaged.

use cognito_auth_core::entry::{Entry, OutboxId};
use cognito_auth_core::event::UnixMillis;

use super::envelope::StoredRecord as _;
use super::store::StoreReader as _;
use super::stored_entry::{StoredEntry, StoredRefusal};
use super::writer::BATCH_PLACES_MAX;
use super::writer_state::WriteRequest;
use super::{Ledger, LedgerError, keys};
use crate::delivery::Unreadable;

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

/// How the reason of an exported record begins that cannot be read. Its value is no entry and no damage.
const UNREADABLE_EXPORT: &str = "an exported record that cannot be read";

/// Checks a record of the quarantine.
pub(super) fn check(bytes: &[u8]) -> Result<(), LedgerError> {
    let refusal = StoredRefusal::open(bytes)?;
    if refusal.reason.starts_with(UNREADABLE_EXPORT) { Ok(()) } else { StoredEntry::open(&refusal.value).map(drop) }
}

impl Quarantined {
    fn read(value: &[u8]) -> Result<Self, LedgerError> {
        Ok(match StoredRefusal::examine(value)? {
            Ok(StoredRefusal { reason, at, value }) => Self {
                entry: StoredEntry::examine(&value)?.map(Entry::from),
                refusal: Some(QuarantineReason { reason, at: UnixMillis(at) }),
            },
            Err(unreadable) => Self { entry: Err(unreadable), refusal: None },
        })
    }
}

impl Ledger {
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
        let mut bytes = 0;
        let mut quarantined = Vec::new();
        self.reading(|reader| {
            reader.each_while(keys::quarantine_from(first), |key, value| {
                bytes += value.len();
                let is_full = quarantined.len() >= limit || (bytes > Self::READ_BYTES_MAX && !quarantined.is_empty());
                if !is_full && let Some(number) = keys::sequence_of(key) {
                    quarantined.push((OutboxId(number), Quarantined::read(value)?));
                }
                Ok(!is_full)
            })
        })?;
        Ok(quarantined)
    }

    /// Puts an exported record that cannot be read, and why, into the quarantine, as it came. Where personal data may
    /// not be stored, only the reason is kept. Where the quarantine is half full, nothing is: senders of such records
    /// must not stop delivery. Answers whether it was put there.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn quarantine_exported(&self, why: &str, bytes: Vec<u8>) -> Result<bool, LedgerError> {
        let (_, waiting) = self.quarantine_state();
        if waiting >= self.0.quarantine_limit_bytes / 2 {
            return Ok(false);
        }
        let value = if self.0.privacy.modes().keep_all() { bytes } else { Vec::new() };
        let reason = format!("{UNREADABLE_EXPORT}: {why}");
        self.write(WriteRequest::PutAside { reason, value }).await?;
        Ok(true)
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
}
