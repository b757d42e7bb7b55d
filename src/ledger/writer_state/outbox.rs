//! The numbers and sizes of the outbox and the quarantine, and how requests move entries: to the outbox, out of it,
//! into the quarantine, and back.

use std::collections::{BTreeSet, HashSet};

use cognito_auth_core::entry::OutboxId;
use cognito_auth_core::event::UnixMillis;

use super::{Published, WriteBatch};
use crate::delivery::Settlement;
use crate::ledger::OutboxState;
use crate::ledger::engine::Reader;
use crate::ledger::envelope::{Count, StoredRecord as _};
use crate::ledger::error::LedgerError;
use crate::ledger::keys;
use crate::ledger::store::StoreReader as _;
use crate::ledger::stored_entry::{StoredEntry, StoredRefusal};

/// A number of records, and their bytes with keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::ledger) struct Size {
    pub(in crate::ledger) records: u64,
    pub(in crate::ledger) bytes: u64,
}

impl Size {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records += 1;
        self.bytes += bytes(key, value);
    }

    fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes(key, value));
    }
}

fn bytes(key: &[u8], value: &[u8]) -> u64 {
    u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX)
}

/// The outbox and the quarantine in numbers, so that the writer need not read them.
#[derive(PartialEq, Eq, Debug)]
pub(in crate::ledger) struct OutboxIndex {
    entries: Size,
    quarantine: Size,
    /// A lower bound of the numbers in the outbox.
    first: u64,
    /// The number of the next entry.
    next: u64,
    /// When the first entry was observed.
    oldest: Option<UnixMillis>,
}

impl OutboxIndex {
    /// Reads the outbox and the quarantine of a store, whose next entry has at least the number `next`.
    pub(super) fn read(next: u64, reader: &Reader) -> Result<Self, LedgerError> {
        let mut index = Self { entries: Size::default(), quarantine: Size::default(), first: 0, next, oldest: None };
        reader.each(keys::outbox_all(), |key, value| {
            StoredEntry::refuse_newer(value)?;
            index.entries.add(key, value);
            index.next = index.next.max(keys::sequence_of(key).unwrap_or_default().saturating_add(1));
            Ok(())
        })?;
        reader.each(keys::quarantine_from(0), |key, value| {
            if let Ok(refusal) = StoredRefusal::examine(value)? {
                StoredEntry::refuse_newer(&refusal.value)?;
            }
            index.quarantine.add(key, value);
            Ok(())
        })?;
        index.find_first(reader)?;
        Ok(index)
    }

    /// Adds entries to the end of the outbox.
    pub(in crate::ledger) fn queue(&mut self, entries: Vec<Vec<u8>>, batch: &mut WriteBatch) {
        if entries.is_empty() {
            return;
        }
        for entry in entries {
            let key = keys::outbox(self.next);
            self.next += 1;
            self.entries.add(&key, &entry);
            batch.changes.push((key, Some(entry)));
        }
        // Stored, so that no number is used twice, even when the outbox was empty at a restart.
        let next = Count { value: self.next };
        batch.changes.push((keys::SEQUENCE.to_vec(), Some(next.seal())));
    }

    /// Removes entries from the outbox. Skips those that are not there, so that a settlement may be repeated.
    pub(super) fn settle(
        &mut self,
        settlement: Settlement,
        now: UnixMillis,
        reader: &Reader,
        batch: &mut WriteBatch,
    ) -> Result<(), LedgerError> {
        let delivered = settlement.delivered.into_iter().map(|id| (id, None));
        let refused = settlement.quarantined.into_iter().map(|(id, reason)| (id, Some(reason)));
        let mut leaving = Vec::new();
        let mut numbers = HashSet::new();
        for (OutboxId(number), reason) in delivered.chain(refused) {
            let key = keys::outbox(number);
            if batch.leaving.contains(&number) || !numbers.insert(number) {
                continue;
            }
            let Some(value) = reader.get(&key)? else { continue };
            leaving.push((number, key, value, reason));
        }
        for (number, key, value, reason) in leaving {
            self.entries.remove(&key, &value);
            batch.leaving.insert(number);
            batch.changes.push((key, None));
            if let Some(reason) = reason {
                let refusal = StoredRefusal { reason, at: now.0, value }.seal();
                let key = keys::quarantine(number);
                self.quarantine.add(&key, &refusal);
                batch.changes.push((key, Some(refusal)));
            }
        }
        Ok(())
    }

    /// Moves entries from the quarantine to the end of the outbox, under new numbers. Refuses an entry that cannot be
    /// read: delivery would return it to the quarantine at once.
    pub(super) fn retry(
        &mut self,
        ids: Vec<OutboxId>,
        reader: &Reader,
        batch: &mut WriteBatch,
    ) -> Result<(), LedgerError> {
        let leaving = self.quarantined(ids, reader, batch)?;
        let mut entries = Vec::with_capacity(leaving.len());
        for (_, stored) in &leaving {
            let value = StoredRefusal::open(stored)?.value;
            StoredEntry::open(&value)?;
            entries.push(value);
        }
        self.leave_quarantine(leaving, batch);
        self.queue(entries, batch);
        Ok(())
    }

    /// Reads those of the entries that are in quarantine. Skips the others, so that a request may be repeated.
    fn quarantined(
        &self,
        ids: Vec<OutboxId>,
        reader: &Reader,
        batch: &WriteBatch,
    ) -> Result<Vec<(u64, Vec<u8>)>, LedgerError> {
        let numbers: BTreeSet<_> = ids.into_iter().map(|OutboxId(number)| number).collect();
        let mut stored = Vec::with_capacity(numbers.len());
        for number in numbers.into_iter().filter(|number| !batch.leaving.contains(number)) {
            stored.extend(reader.get(&keys::quarantine(number))?.map(|value| (number, value)));
        }
        Ok(stored)
    }

    /// Removes entries from the quarantine.
    fn leave_quarantine(&mut self, leaving: Vec<(u64, Vec<u8>)>, batch: &mut WriteBatch) {
        for (number, value) in leaving {
            let key = keys::quarantine(number);
            self.quarantine.remove(&key, &value);
            batch.leaving.insert(number);
            batch.changes.push((key, None));
        }
    }

    /// Removes entries from the quarantine. Skips those that are not there.
    pub(super) fn drop_quarantined(
        &mut self,
        ids: Vec<OutboxId>,
        reader: &Reader,
        batch: &mut WriteBatch,
    ) -> Result<(), LedgerError> {
        let leaving = self.quarantined(ids, reader, batch)?;
        self.leave_quarantine(leaving, batch);
        Ok(())
    }

    /// Returns the state that is published once the batch is written.
    pub(super) fn publish(&mut self, reader: &Reader) -> Result<Published, LedgerError> {
        self.find_first(reader)?;
        Ok(Published {
            outbox: OutboxState { records: self.entries.records, bytes: self.entries.bytes, oldest: self.oldest },
            quarantine: self.quarantine,
            end: self.next,
        })
    }

    /// Finds the first entry of the outbox that can be read, and when it was observed.
    fn find_first(&mut self, reader: &Reader) -> Result<(), LedgerError> {
        let (mut first, mut oldest) = (self.next, None);
        reader.each_while(keys::outbox_between(self.first, self.next), |key, value| {
            first = first.min(keys::sequence_of(key).unwrap_or(first));
            // The age of a damaged entry is unknown.
            oldest = StoredEntry::examine(value)?.ok().map(|entry| UnixMillis(entry.observed));
            Ok(oldest.is_none())
        })?;
        self.first = first;
        self.oldest = oldest;
        Ok(())
    }
}
