//! The state that the writer keeps in memory, and how each request changes it: totals, and the outbox's numbers and
//! size.
//!
//! While a batch is collected, this state is ahead of the disk. If the write fails, the state is dropped and read again
//! from the store, so nothing has to be undone.

mod users;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cognito_auth_core::counters::Series;
use cognito_auth_core::entry::OutboxId;
use cognito_auth_core::event::UnixMillis;

use super::engine::{Engine, Reader};
use super::envelope::{Count, Instance, LostSince, StoreFormat, StoredRecord as _};
use super::error::LedgerError;
use super::keys;
use super::store::{Change, Store as _, StoreReader as _};
use super::stored_entry::{StoredEntry, StoredRefusal};
use super::stored_user::StoredUser;
use super::{OutboxState, UserRecord};
use crate::delivery::Settlement;

/// A change that a caller asks for, encoded as far as that needs no state of the writer.
pub(super) enum WriteRequest {
    /// Records to write or remove as they are.
    Put(Vec<Change>),
    /// Users to write as followed. A user who is enrolled already keeps the stored cursor.
    Enroll(Vec<(Vec<u8>, UserRecord)>),
    /// Another person who has a user's name since this time, and gets this record.
    ReplaceUser { user: (Vec<u8>, Box<UserRecord>), since: UnixMillis },
    /// A user who moves to another key. The record is for a key that has none yet.
    MergeUser { from: Vec<u8>, to: (Vec<u8>, Box<UserRecord>) },
    /// Two names of one user, of which only one is followed from now on. The second key was followed first.
    Merge { keys: [Vec<u8>; 2], seen: UnixMillis },
    /// A name that is still another name of the user `of`, if that is noted.
    StillMerged { user: Vec<u8>, of: String, seen: UnixMillis },
    /// A name that is no longer another name of the user with the key `of`.
    Part { user: Vec<u8>, of: Vec<u8> },
    /// A page: the user's key and record, increments of totals, and entries for the outbox. It is refused unless the
    /// enrolled user joined at this time.
    Commit { user: (Vec<u8>, Vec<u8>), joined: UnixMillis, increments: Vec<(Vec<u8>, u64)>, entries: Vec<Vec<u8>> },
    /// Users whose events since a time are logged again.
    Rewind { users: Vec<Vec<u8>>, from: UnixMillis },
    /// A user who moves to the present name in the ledger, followed or gone as before.
    Rename { from: Vec<u8>, to: (Vec<u8>, Box<UserRecord>) },
    /// A pool whose record and totals are removed.
    ForgetPool(String),
    /// Entries that leave the outbox.
    Settle(Settlement),
    /// Entries that move from the quarantine back to the outbox.
    Retry(Vec<OutboxId>),
    /// Entries that are removed from the quarantine.
    Drop(Vec<OutboxId>),
}

impl WriteRequest {
    /// Estimates how many places in the store the request touches. Each key is a place, but entries of the outbox are
    /// neighbours.
    pub(super) fn places(&self) -> usize {
        const ENTRIES_OF_A_PLACE: usize = 16;
        match self {
            Self::Put(changes) => changes.len(),
            Self::Enroll(users) => users.len(),
            Self::ReplaceUser { .. } => 2,
            Self::StillMerged { .. } => 1,
            Self::MergeUser { .. } | Self::Merge { .. } => 6,
            Self::Rename { .. } | Self::Part { .. } => 4,
            Self::Commit { increments, entries, .. } => 1 + increments.len() + entries.len() / ENTRIES_OF_A_PLACE,
            Self::Rewind { users, .. } => users.len(),
            // Its totals are neighbours, and it is rare.
            Self::ForgetPool(_) => 1,
            Self::Settle(Settlement { delivered, quarantined }) => {
                delivered.len() / ENTRIES_OF_A_PLACE + 2 * quarantined.len()
            }
            Self::Retry(ids) => 2 * ids.len(),
            Self::Drop(ids) => ids.len(),
        }
    }
}

/// Changes that are written together.
#[derive(Default)]
pub(super) struct WriteBatch {
    pub(super) changes: Vec<Change>,
    /// Keys of the totals that the batch increments.
    pub(super) counted: HashSet<Vec<u8>>,
    /// Numbers of the entries that the batch removes from the outbox or the quarantine.
    leaving: HashSet<u64>,
}

impl WriteBatch {
    /// Reads a key as it will be once the batch is written.
    fn stored(&self, key: &[u8], reader: &Reader) -> Result<Option<Vec<u8>>, LedgerError> {
        let waiting = self.changes.iter().rev().find(|(changed, _)| changed == key);
        waiting.map_or_else(|| reader.get(key), |(_, value)| Ok(value.clone()))
    }
}

/// A number of records, and their bytes with keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Size {
    pub(super) records: u64,
    pub(super) bytes: u64,
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

/// The state that the writer keeps in memory.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct WriterState {
    pub(super) instance_id: String,
    /// Totals by their keys.
    totals: HashMap<Vec<u8>, u64>,
    outbox: Size,
    quarantine: Size,
    /// A lower bound of the numbers in the outbox.
    first: u64,
    /// The number of the next entry.
    next: u64,
    /// When the first entry was observed.
    oldest: Option<UnixMillis>,
    /// Batches written so far. A store that has fewer than it once had has lost some.
    pub(super) batches: u64,
}

/// The part of the writer's state that the handles read. It is published when it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Published {
    pub(super) outbox: OutboxState,
    pub(super) quarantine: Size,
    /// Entries of the outbox below this number are durable.
    pub(super) end: u64,
}

impl WriterState {
    /// Reads the state from a store that must have at least `batches_known` batches; None if the store may be new. A
    /// new store gets its format and instance id and, in the same write, the time since when the former store is lost.
    pub(super) fn of(
        mut engine: Engine,
        batches_known: Option<u64>,
        lost_since: Option<UnixMillis>,
    ) -> Result<(Engine, Self), LedgerError> {
        match engine.reader().get(keys::FORMAT)? {
            Some(format) => {
                let found = StoreFormat::open(&format)?.number;
                if found > StoreFormat::NUMBER {
                    return Err(LedgerError::NewerVersion {
                        what: StoreFormat::WHAT,
                        found,
                        known: StoreFormat::NUMBER,
                    });
                }
            }
            None if batches_known.is_some() => return Err(LedgerError::corrupt(StoreFormat::WHAT, "it is missing")),
            None => {
                let format = StoreFormat { number: StoreFormat::NUMBER_PLAIN };
                let instance = Instance { id: uuid::Uuid::new_v4().to_string() };
                let mut beginning = vec![
                    (keys::FORMAT.to_vec(), Some(format.seal())),
                    (keys::INSTANCE.to_vec(), Some(instance.seal())),
                ];
                let loss = lost_since.map(|time| LostSince { time: time.0 });
                beginning.extend(loss.map(|loss| (keys::LOST_SINCE.to_vec(), Some(loss.seal()))));
                engine.write(beginning)?;
            }
        }
        let writer_state = Self::read(engine.reader())?;
        if let Some(batches_known) = batches_known
            && writer_state.batches < batches_known
        {
            // With lower totals and older cursors, events would be counted again.
            let problem =
                format!("it ends at write {}, but write {batches_known} was on the disk", writer_state.batches);
            return Err(LedgerError::corrupt("the store", problem));
        }
        Ok((engine, writer_state))
    }

    fn read(reader: &Reader) -> Result<Self, LedgerError> {
        let Some(instance) = reader.get(keys::INSTANCE)? else {
            return Err(LedgerError::corrupt(Instance::WHAT, "it is missing"));
        };
        let count = |key| -> Result<u64, LedgerError> {
            let stored = reader.get(key)?;
            stored.map_or(Ok(0), |count| Ok(Count::open(&count)?.value))
        };
        let mut writer_state = Self {
            instance_id: Instance::open(&instance)?.id,
            totals: HashMap::new(),
            outbox: Size::default(),
            quarantine: Size::default(),
            first: 0,
            next: count(keys::SEQUENCE)?,
            oldest: None,
            batches: count(keys::GROUPS)?,
        };
        reader.each(keys::totals(None), |key, value| {
            writer_state.totals.insert(key.to_vec(), Count::open(value)?.value);
            Ok(())
        })?;
        reader.each(keys::outbox_all(), |key, value| {
            StoredEntry::refuse_newer(value)?;
            writer_state.outbox.add(key, value);
            writer_state.next = writer_state.next.max(keys::sequence_of(key).unwrap_or_default().saturating_add(1));
            Ok(())
        })?;
        reader.each(keys::quarantine_from(0), |key, value| {
            if let Ok(refusal) = StoredRefusal::examine(value)? {
                StoredEntry::refuse_newer(&refusal.value)?;
            }
            writer_state.quarantine.add(key, value);
            Ok(())
        })?;
        writer_state.find_first(reader)?;
        Ok(writer_state)
    }

    /// Adds a request to the batch: all of it, or nothing on an error.
    pub(super) fn stage(
        &mut self,
        request: WriteRequest,
        now: UnixMillis,
        reader: &Reader,
        batch: &mut WriteBatch,
    ) -> Result<(), LedgerError> {
        match request {
            WriteRequest::Put(changes) => batch.changes.extend(changes),
            WriteRequest::Enroll(users) => users::enroll(users, reader, batch)?,
            WriteRequest::ReplaceUser { user: (key, record), since } => {
                users::replace_user(key, *record, since, reader, batch)?;
            }
            WriteRequest::MergeUser { from, to: (to, record) } => {
                users::merge_user(&from, (to, *record), reader, batch)?;
            }
            WriteRequest::Merge { keys: [one, first], seen } => users::merge(one, first, seen, reader, batch)?,
            WriteRequest::StillMerged { user, of, seen } => users::still_merged(&user, of, seen, reader, batch)?,
            WriteRequest::Part { user, of } => users::part(user, &of, reader, batch)?,
            WriteRequest::Commit { user: (key, record), joined, increments, entries } => {
                // The user may have been forgotten or replaced during the turn. The page must not overwrite another
                // record.
                let enrolled = batch.stored(&key, reader)?.map(|stored| StoredUser::standing(&stored)).transpose()?;
                if enrolled.map(|enrolled| enrolled.joined) != Some(joined) {
                    return Err(LedgerError::NotEnrolled);
                }
                batch.changes.push((key, Some(record)));
                for (key, increment) in increments {
                    self.count(key, increment, batch);
                }
                self.queue(entries, batch);
            }
            WriteRequest::Rewind { users, from } => users::rewind(users, from, reader, batch)?,
            WriteRequest::Rename { from, to } => users::rename(from, to, reader, batch)?,
            WriteRequest::ForgetPool(pool_id) => {
                let range = keys::totals(Some(&pool_id));
                let totals = self.totals.extract_if(|key, _| range.contains(key));
                batch.changes.extend(totals.map(|(key, _)| (key, None)));
                batch.changes.push((keys::pool(&pool_id), None));
            }
            WriteRequest::Settle(settlement) => self.settle(settlement, now, reader, batch)?,
            WriteRequest::Retry(ids) => self.retry(ids, reader, batch)?,
            WriteRequest::Drop(ids) => {
                let leaving = self.quarantined(ids, reader, batch)?;
                self.leave_quarantine(leaving, batch);
            }
        }
        Ok(())
    }

    fn count(&mut self, key: Vec<u8>, increment: u64, batch: &mut WriteBatch) {
        let total = self.totals.entry(key.clone()).or_default();
        *total = total.saturating_add(increment);
        batch.changes.push((key.clone(), Some(Count { value: *total }.seal())));
        batch.counted.insert(key);
    }

    /// Returns all totals by pool, without series that only another build knows.
    pub(super) fn totals(&self) -> BTreeMap<&str, Vec<(Series, u64)>> {
        self.totals_of(self.totals.keys())
    }

    /// Returns the totals with these keys, by pool.
    pub(super) fn totals_of<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Vec<u8>>,
    ) -> BTreeMap<&'a str, Vec<(Series, u64)>> {
        let mut totals: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for key in keys {
            if let Some((pool_id, series)) = keys::total_of(key)
                && let (Some(series), Some(total)) = (Series::from_key(series), self.totals.get(key))
            {
                totals.entry(pool_id).or_default().push((series, *total));
            }
        }
        totals
    }

    /// Adds entries to the end of the outbox.
    fn queue(&mut self, entries: Vec<Vec<u8>>, batch: &mut WriteBatch) {
        if entries.is_empty() {
            return;
        }
        for entry in entries {
            let key = keys::outbox(self.next);
            self.next += 1;
            self.outbox.add(&key, &entry);
            batch.changes.push((key, Some(entry)));
        }
        // Stored, so that no number is used twice, even when the outbox was empty at a restart.
        let next = Count { value: self.next };
        batch.changes.push((keys::SEQUENCE.to_vec(), Some(next.seal())));
    }

    /// Removes entries from the outbox. Skips those that are not there, so that a settlement may be repeated.
    fn settle(
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
            self.outbox.remove(&key, &value);
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
    fn retry(&mut self, ids: Vec<OutboxId>, reader: &Reader, batch: &mut WriteBatch) -> Result<(), LedgerError> {
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

    /// Numbers the batch that is written next.
    pub(super) fn number(&mut self, batch: &mut WriteBatch) {
        self.batches += 1;
        let batches = Count { value: self.batches };
        batch.changes.push((keys::GROUPS.to_vec(), Some(batches.seal())));
    }

    /// Returns the state that is published once the batch is written.
    pub(super) fn publish(&mut self, reader: &Reader) -> Result<Published, LedgerError> {
        self.find_first(reader)?;
        Ok(Published {
            outbox: OutboxState { records: self.outbox.records, bytes: self.outbox.bytes, oldest: self.oldest },
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
