//! The numbers and sizes of the outbox and the quarantine, and how requests move entries: to the outbox, out of it,
//! into the quarantine, and back.

use std::collections::{BTreeMap, BTreeSet};

use cognito_auth_core::entry::OutboxId;
use cognito_auth_core::event::UnixMillis;

use super::{Published, WriteBatch};
use crate::delivery::Settlement;
use crate::ledger::OutboxState;
use crate::ledger::engine::Reader;
use crate::ledger::envelope::{Count, StoredRecord as _};
use crate::ledger::error::LedgerError;
use crate::ledger::keys;
use crate::ledger::outbox;
use crate::ledger::store::{Change, StoreReader as _};
use crate::ledger::stored_entry::{StoredEntry, StoredRefusal};

/// A number of entries, and their bytes with keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::ledger) struct Size {
    pub(in crate::ledger) records: u64,
    pub(in crate::ledger) bytes: u64,
}

impl Size {
    /// The size of a record of the store that holds some entries.
    fn of(entries: usize, key: &[u8], value_bytes: usize) -> Self {
        let wide = |number| u64::try_from(number).unwrap_or(u64::MAX);
        Self { records: wide(entries), bytes: wide(key.len() + value_bytes) }
    }

    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
    }

    fn remove(&mut self, other: Self) {
        self.records = self.records.saturating_sub(other.records);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// The outbox and the quarantine in numbers, so that the writer need not read them.
#[derive(PartialEq, Eq, Debug)]
pub(in crate::ledger) struct OutboxIndex {
    entries: Size,
    quarantine: Size,
    /// A lower bound of the keys' numbers in the outbox.
    first: u64,
    /// The number of the next entry.
    next: u64,
    /// When the first entry was observed that can be read.
    oldest: Option<UnixMillis>,
    /// The number in the key of that entry's record; without such an entry the number of the next one.
    oldest_in: u64,
    /// Whether another entry may be the first one by now.
    is_first_unknown: bool,
}

/// A record of the outbox, as it is stored.
struct StoredEntries {
    /// The number in its key.
    first: u64,
    /// The numbers of its entries, in ascending order.
    numbers: Vec<u64>,
    value: Vec<u8>,
}

impl OutboxIndex {
    /// Reads the outbox and the quarantine of a store, whose next entry has at least the number `next`.
    pub(super) fn read(next: u64, reader: &Reader) -> Result<Self, LedgerError> {
        let nothing = Size::default();
        let mut index = Self {
            entries: nothing,
            quarantine: nothing,
            first: 0,
            next,
            oldest: None,
            oldest_in: next,
            is_first_unknown: true,
        };
        reader.each(keys::outbox_all(), |key, value| {
            let first = keys::sequence_of(key).unwrap_or_default();
            outbox::refuse_newer(first, value)?;
            let entries = outbox::entries_of(first, value)?;
            index.entries.add(Size::of(entries.len(), key, value.len()));
            let last = entries.last().map_or(first, |(number, _)| *number);
            index.next = index.next.max(last.saturating_add(1));
            Ok(())
        })?;
        reader.each(keys::quarantine_from(0), |key, value| {
            if let Ok(refusal) = StoredRefusal::examine(value)? {
                StoredEntry::refuse_newer(&refusal.value)?;
            }
            index.quarantine.add(Size::of(1, key, value.len()));
            Ok(())
        })?;
        index.find_first(reader)?;
        Ok(index)
    }

    /// Adds the batch's entries to the end of the outbox. Entries of several commits share a segment.
    pub(super) fn queue(&mut self, batch: &mut WriteBatch) {
        let entries = std::mem::take(&mut batch.entries);
        if entries.is_empty() {
            return;
        }
        self.is_first_unknown |= self.oldest.is_none();
        for range in outbox::divided(&entries) {
            let first = self.next;
            let numbered: Vec<_> = (first..).zip(entries[range].iter().map(Vec::as_slice)).collect();
            let (key, value) = (keys::outbox(first), outbox::record_of(first, &numbered));
            self.entries.add(Size::of(numbered.len(), &key, value.len()));
            self.next += numbered.len() as u64;
            batch.changes.push((key, Some(value)));
        }
        batch.changes.push(self.sequence());
    }

    /// The number of the next entry as it is stored, so that no number is used twice, even when the outbox was empty at
    /// a restart.
    fn sequence(&self) -> Change {
        (keys::SEQUENCE.to_vec(), Some(Count { value: self.next }.seal()))
    }

    /// Removes entries from the outbox. Skips those that are not there, so that a settlement may be repeated.
    pub(super) fn settle(
        &mut self,
        settlement: Settlement,
        now: UnixMillis,
        reader: &Reader,
        batch: &mut WriteBatch,
    ) -> Result<(), LedgerError> {
        let mut fates: BTreeMap<u64, Option<String>> = BTreeMap::new();
        for (OutboxId(number), reason) in settlement.quarantined {
            fates.insert(number, Some(reason));
        }
        fates.extend(settlement.delivered.into_iter().map(|OutboxId(number)| (number, None)));
        fates.retain(|number, _| !batch.leaving.contains(number));
        let mut records: Vec<StoredEntries> = Vec::new();
        for number in fates.keys() {
            if !records.last().is_some_and(|record| record.has(*number)) {
                records.extend(StoredEntries::with(*number, reader)?);
            }
        }
        for record in records {
            self.settle_record(&record, &fates, now, reader, batch)?;
        }
        Ok(())
    }

    /// Removes the settled entries of one record, and writes the rest of it again.
    fn settle_record(
        &mut self,
        record: &StoredEntries,
        fates: &BTreeMap<u64, Option<String>>,
        now: UnixMillis,
        reader: &Reader,
        batch: &mut WriteBatch,
    ) -> Result<(), LedgerError> {
        let key = keys::outbox(record.first);
        let mut present = outbox::entries_of(record.first, &record.value)?;
        let stored = present.len();
        present.retain(|(number, _)| !batch.leaving.contains(number));
        // An earlier request of this batch may have taken entries out of it.
        let bytes = match present.len() {
            all if all == stored => record.value.len(),
            _ => outbox::record_of(record.first, &present).len(),
        };
        self.entries.remove(Size::of(present.len(), &key, bytes));
        let (settled, rest): (Vec<_>, Vec<_>) = present.into_iter().partition(|(number, _)| fates.contains_key(number));
        let rest_value = (!rest.is_empty()).then(|| outbox::record_of(record.first, &rest));
        if let Some(value) = &rest_value {
            self.entries.add(Size::of(rest.len(), &key, value.len()));
        }
        self.is_first_unknown |= record.first <= self.oldest_in;
        batch.changes.push((key, rest_value));
        for (number, entry) in settled {
            batch.leaving.insert(number);
            if let Some(Some(reason)) = fates.get(&number) {
                let refusal = StoredRefusal { reason: reason.clone(), at: now.0, value: entry.to_vec() }.seal();
                let key = keys::quarantine(self.number_in_quarantine(number, reader, batch)?);
                self.quarantine.add(Size::of(1, &key, refusal.len()));
                batch.changes.push((key, Some(refusal)));
            }
        }
        Ok(())
    }

    /// Puts a value into the quarantine that was never in the outbox.
    pub(super) fn put_aside(&mut self, reason: String, value: Vec<u8>, now: UnixMillis, batch: &mut WriteBatch) {
        let refusal = StoredRefusal { reason, at: now.0, value }.seal();
        let key = keys::quarantine(self.next);
        self.next += 1;
        self.quarantine.add(Size::of(1, &key, refusal.len()));
        batch.changes.push((key, Some(refusal)));
        batch.changes.push(self.sequence());
    }

    /// Returns the number that an entry has in quarantine: its own, or the next free one where its own is taken. A
    /// segment with a damaged table has the number of its first entry, which may have gone to the quarantine before.
    fn number_in_quarantine(
        &mut self,
        number: u64,
        reader: &Reader,
        batch: &mut WriteBatch,
    ) -> Result<u64, LedgerError> {
        if reader.get(&keys::quarantine(number))?.is_none() {
            return Ok(number);
        }
        let free = self.next;
        self.next += 1;
        batch.changes.push(self.sequence());
        Ok(free)
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
        batch.entries.extend(entries);
        Ok(())
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
            self.quarantine.remove(Size::of(1, &key, value.len()));
            batch.leaving.insert(number);
            batch.changes.push((key, None));
        }
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
        if !std::mem::take(&mut self.is_first_unknown) {
            return Ok(());
        }
        let (mut first, mut oldest, mut oldest_in) = (self.next, None, self.next);
        reader.each_while(keys::outbox_between(self.first, self.next), |key, value| {
            let key = keys::sequence_of(key).unwrap_or(first);
            first = first.min(key);
            for (_, entry) in outbox::entries_of(key, value)? {
                // The age of a damaged entry is unknown.
                if let Ok(entry) = StoredEntry::examine(entry)? {
                    (oldest, oldest_in) = (Some(UnixMillis(entry.observed)), key);
                    break;
                }
            }
            Ok(oldest.is_none())
        })?;
        (self.first, self.oldest, self.oldest_in) = (first, oldest, oldest_in);
        Ok(())
    }
}

impl StoredEntries {
    /// Reads the record that holds the entry with this number; None if the entry is not in the outbox.
    fn with(number: u64, reader: &Reader) -> Result<Option<Self>, LedgerError> {
        let mut first = Some(number);
        let mut value = reader.get(&keys::outbox(number))?;
        if value.is_none() {
            // It may be in a segment that begins earlier.
            let before = keys::outbox_between(outbox::earliest_key_of(number), number);
            first = reader.keys(before, outbox::SEGMENT_ENTRIES_MAX)?.last().and_then(|key| keys::sequence_of(key));
            value = first.map(|first| reader.get(&keys::outbox(first))).transpose()?.flatten();
        }
        let Some((first, value)) = first.zip(value) else { return Ok(None) };
        let numbers = outbox::entries_of(first, &value)?.iter().map(|(number, _)| *number).collect();
        Ok(Some(Self { first, numbers, value }).filter(|record| record.has(number)))
    }

    fn has(&self, number: u64) -> bool {
        self.numbers.binary_search(&number).is_ok()
    }
}
