//! What the writer knows by heart, and how each piece of work changes it: totals, the outbox's numbers and size.
//!
//! The writer's state run ahead of the disk while a batch of work is gathered. If the write then fails they are thrown away and read
//! again, so nothing here has to be undone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cognito_auth_core::counters::Series;
use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::entry::OutboxId;
use cognito_auth_core::event::UnixMillis;

use super::engine::{Change, Engine, Reader};
use super::envelope::{Count, Format, Instance, LostSince, OtherName, Record};
use super::error::LedgerError;
use super::keys;
use super::names::RecordName;
use super::stored_entry::{StoredEntry, StoredRefusal};
use super::stored_user::StoredUser;
use super::{OutboxState, UserRecord};
use crate::delivery::Settlement;

/// What one request wants, encoded as far as that needs no writer_state.
pub(super) enum WriteRequest {
    /// Records to write or remove as they are.
    Put(Vec<Change>),
    /// Users to write, but for the cursors of those who are there already. None of them is gone any more.
    Enroll(Vec<(Vec<u8>, UserRecord)>),
    /// Another person who has a user's name since then, and begins with this record.
    ReplaceUser { user: (Vec<u8>, Box<UserRecord>), since: UnixMillis },
    /// A user who goes on under another key; the record is what the other key gets if it has none.
    MergeUser { from: Vec<u8>, to: (Vec<u8>, Box<UserRecord>) },
    /// Two users, of whom the second was first, who are one: only one of them is followed from now on.
    Merge { keys: [Vec<u8>; 2], seen: UnixMillis },
    /// A name that still is another name of the user whom the ledger calls so, if that is noted.
    StillMerged { user: Vec<u8>, of: String, seen: UnixMillis },
    /// A user who is another's other name no longer. `of` is that one's key.
    Part { user: Vec<u8>, of: Vec<u8> },
    /// A page: the user, who is to be the one who joined then; increments of totals, entries for the outbox.
    Commit { user: (Vec<u8>, Vec<u8>), joined: UnixMillis, increments: Vec<(Vec<u8>, u64)>, entries: Vec<Vec<u8>> },
    /// Users whose histories are logged again from a time on.
    Rewind { users: Vec<Vec<u8>>, from: UnixMillis },
    /// A user who goes on under the name that the ledger has for it now, as it is, gone or not.
    Rename { from: Vec<u8>, to: (Vec<u8>, UserRecord) },
    /// A pool whose record and totals go.
    ForgetPool(String),
    /// Entries that leave the outbox.
    Settle(Settlement),
    /// Entries of the quarantine that go back into the outbox.
    Retry(Vec<OutboxId>),
    /// Entries of the quarantine to forget.
    Drop(Vec<OutboxId>),
}

impl WriteRequest {
    /// Places in the store that it touches, about. A key has one of its own; entries of the outbox lie side by side.
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
            // Neighbours, and seldom.
            Self::ForgetPool(_) => 1,
            Self::Settle(Settlement { delivered, quarantined }) => {
                delivered.len() / ENTRIES_OF_A_PLACE + 2 * quarantined.len()
            }
            Self::Retry(ids) => 2 * ids.len(),
            Self::Drop(ids) => ids.len(),
        }
    }
}

/// Changes that go to the disk together.
#[derive(Default)]
pub(super) struct WriteBatch {
    pub(super) changes: Vec<Change>,
    /// Keys of the totals that grow.
    pub(super) counted: HashSet<Vec<u8>>,
    /// Entries that leave the outbox, or the quarantine, with this batch.
    leaving: HashSet<u64>,
}

impl WriteBatch {
    /// What is stored under a key once the batch is written.
    fn stored(&self, key: &[u8], reader: &Reader) -> Result<Option<Vec<u8>>, LedgerError> {
        let waiting = self.changes.iter().rev().find(|(changed, _)| changed == key);
        waiting.map_or_else(|| reader.get(key), |(_, value)| Ok(value.clone()))
    }
}

/// A number of records and their bytes, keys included.
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

/// The writer's memory of what is stored.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct WriterState {
    pub(super) instance_id: String,
    /// By key.
    totals: HashMap<Vec<u8>, u64>,
    outbox: Size,
    quarantine: Size,
    /// No entry of the outbox has a lower number.
    first: u64,
    /// The number that the next entry gets.
    next: u64,
    /// When the first entry was observed.
    oldest: Option<UnixMillis>,
    /// Groups written so far. A store that tells fewer than it once did has lost some.
    pub(super) groups: u64,
}

/// The part of the writer's state that others see: published when it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Published {
    pub(super) outbox: OutboxState,
    pub(super) quarantine: Size,
    /// Every entry of the outbox below this number is durable.
    pub(super) end: u64,
}

impl WriterState {
    /// Reads the writer's state of a store in which at least `groups_known` groups were written; None: it may be new. A new one is
    /// given its format and name, and, in the same write, the time since when its predecessor is lost.
    pub(super) fn of(
        mut engine: Engine,
        groups_known: Option<u64>,
        lost_since: Option<UnixMillis>,
    ) -> Result<(Engine, Self), LedgerError> {
        match engine.reader().get(keys::FORMAT)? {
            Some(format) => {
                let found = Format::open(&format)?.number;
                if found > Format::NUMBER {
                    return Err(LedgerError::NewerVersion { what: Format::WHAT, found, known: Format::NUMBER });
                }
            }
            None if groups_known.is_some() => return Err(LedgerError::corrupt(Format::WHAT, "it is missing")),
            None => {
                let format = Format { number: Format::NUMBER_PLAIN };
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
        if let Some(groups_known) = groups_known
            && writer_state.groups < groups_known
        {
            // Going on from there would count again what was counted, on top of totals that had gone back.
            let problem = format!("it ends at write {}, but write {groups_known} was on the disk", writer_state.groups);
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
            groups: count(keys::GROUPS)?,
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

    /// Adds a piece of work to the batch: all of it, or, on an error, nothing.
    pub(super) fn stage(
        &mut self,
        work: WriteRequest,
        now: UnixMillis,
        reader: &Reader,
        batch: &mut WriteBatch,
    ) -> Result<(), LedgerError> {
        match work {
            WriteRequest::Put(changes) => batch.changes.extend(changes),
            WriteRequest::Enroll(users) => enroll(users, reader, batch)?,
            WriteRequest::ReplaceUser { user: (key, record), since } => {
                replace_user(key, *record, since, reader, batch)?;
            }
            WriteRequest::MergeUser { from, to: (to, record) } => merge_user(&from, (to, *record), reader, batch)?,
            WriteRequest::Merge { keys: [one, first], seen } => merge(one, first, seen, reader, batch)?,
            WriteRequest::StillMerged { user, of, seen } => {
                let note = keys::other_name(&user);
                let noted = batch.stored(&note, reader)?.map(|noted| OtherName::open(&noted)).transpose()?;
                if noted.is_some_and(|noted| noted.of == of) {
                    batch.changes.push((note, Some(OtherName { of, seen: seen.0 }.seal())));
                }
            }
            WriteRequest::Part { user, of } => part(user, &of, reader, batch)?,
            WriteRequest::Commit { user: (key, record), joined, increments, entries } => {
                // A turn may outlast its user's place among the followed users: its page must not come over another's record.
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
            WriteRequest::Rewind { users, from } => rewind(users, from, reader, batch)?,
            WriteRequest::Rename { from, to: (key, record) } => {
                let gone = keys::gone(&from);
                if let Some(note) = batch.stored(&gone, reader)? {
                    batch.changes.extend([(gone, None), (keys::gone(&key), Some(note))]);
                }
                batch.changes.push((keys::other_name(&from), None));
                batch.changes.extend([(from, None), (key, Some(StoredUser::from(&record).seal()))]);
            }
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

    /// Every total, by pool; without series that only another build knows.
    pub(super) fn totals(&self) -> BTreeMap<&str, Vec<(Series, u64)>> {
        self.totals_of(self.totals.keys())
    }

    /// Totals by their keys.
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
        // A number is never given twice, even after the outbox was empty at a restart.
        let next = Count { value: self.next };
        batch.changes.push((keys::SEQUENCE.to_vec(), Some(next.seal())));
    }

    /// Removes entries; what was removed before is passed over, so that a settlement may be repeated.
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

    /// Puts entries back behind what waits, under numbers that were never used. One that cannot be read would come straight
    /// back, and is refused.
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

    /// Those of these entries that are in quarantine; what has left it is passed over, so that leaving may be repeated.
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

    fn leave_quarantine(&mut self, leaving: Vec<(u64, Vec<u8>)>, batch: &mut WriteBatch) {
        for (number, value) in leaving {
            let key = keys::quarantine(number);
            self.quarantine.remove(&key, &value);
            batch.leaving.insert(number);
            batch.changes.push((key, None));
        }
    }

    /// Numbers a batch, which is written next.
    pub(super) fn number(&mut self, batch: &mut WriteBatch) {
        self.groups += 1;
        let groups = Count { value: self.groups };
        batch.changes.push((keys::GROUPS.to_vec(), Some(groups.seal())));
    }

    /// What others may know, once the batch has been written.
    pub(super) fn publish(&mut self, reader: &Reader) -> Result<Published, LedgerError> {
        self.find_first(reader)?;
        Ok(Published {
            outbox: OutboxState { records: self.outbox.records, bytes: self.outbox.bytes, oldest: self.oldest },
            quarantine: self.quarantine,
            end: self.next,
        })
    }

    fn find_first(&mut self, reader: &Reader) -> Result<(), LedgerError> {
        let (mut first, mut oldest) = (self.next, None);
        reader.each_while(keys::outbox_between(self.first, self.next), |key, value| {
            first = first.min(keys::sequence_of(key).unwrap_or(first));
            // A damaged entry says nothing of its age.
            oldest = StoredEntry::examine(value)?.ok().map(|entry| UnixMillis(entry.observed));
            Ok(oldest.is_none())
        })?;
        self.first = first;
        self.oldest = oldest;
        Ok(())
    }
}

/// A user who is there already and has not joined anew keeps the cursor: the one that came along may be older than the
/// last page's.
fn enroll(users: Vec<(Vec<u8>, UserRecord)>, reader: &Reader, batch: &mut WriteBatch) -> Result<(), LedgerError> {
    let mut changes = Vec::new();
    for (key, mut record) in users {
        // A page of the same user may wait in this very batch.
        if let Some(stored) = batch.stored(&key, reader)? {
            let stored = UserRecord::try_from(StoredUser::open(&stored)?)?;
            if stored.joined == record.joined {
                (record.cursor, record.activity) = (stored.cursor, stored.activity);
            }
        }
        back(&key, reader, batch, &mut changes)?;
        changes.push((key, Some(StoredUser::from(&record).seal())));
    }
    batch.changes.extend(changes);
    Ok(())
}

/// What was taken of the new person's history under the former one's record is known to it, and was counted.
fn replace_user(
    key: Vec<u8>,
    mut record: UserRecord,
    since: UnixMillis,
    reader: &Reader,
    batch: &mut WriteBatch,
) -> Result<(), LedgerError> {
    if let Some(before) = batch.stored(&key, reader)? {
        let before = UserRecord::try_from(StoredUser::open(&before)?)?;
        record.joined = record.joined.max(UnixMillis(before.joined.0.saturating_add(1)));
        record.cursor = record.cursor.succeeding(before.cursor, since);
    }
    let mut changes = vec![(keys::other_name(&key), None)];
    back(&key, reader, batch, &mut changes)?;
    changes.push((key, Some(StoredUser::from(&record).seal())));
    batch.changes.extend(changes);
    Ok(())
}

/// One history was followed under two names: from now on under one, with all that is known of it. Turns under way for either
/// find that they are not enrolled, and what they read is read again.
fn merge_user(
    from: &[u8],
    (to, mut record): (Vec<u8>, UserRecord),
    reader: &Reader,
    batch: &mut WriteBatch,
) -> Result<(), LedgerError> {
    let Some(carried) = user(from, reader, batch)? else { return Ok(()) };
    match user(&to, reader, batch)? {
        Some(there) => {
            record.joined = record.joined.max(UnixMillis(there.joined.0.saturating_add(1)));
            record.cursor = there.cursor.joined_by(carried.cursor);
        }
        // Since when it is followed under this name stays the newcomer's: an older time would make it seem another shard's.
        None => record.cursor = carried.cursor,
    }
    record.sub = record.sub.or(carried.sub);
    record.activity = carried.activity;
    let mut changes = vec![(from.to_vec(), None), (keys::other_name(from), None), (keys::other_name(&to), None)];
    back(from, reader, batch, &mut changes)?;
    back(&to, reader, batch, &mut changes)?;
    changes.push((to, Some(StoredUser::from(&record).seal())));
    batch.changes.extend(changes);
    Ok(())
}

/// A user as it is once the batch is written.
fn user(key: &[u8], reader: &Reader, batch: &WriteBatch) -> Result<Option<UserRecord>, LedgerError> {
    batch.stored(key, reader)?.map(|stored| StoredUser::open(&stored)?.try_into()).transpose()
}

/// Where the one that was first is gone, the other takes over what is known of the user: of the two cursors, that which has seen more.
/// Else the one that has been followed for longer is followed from now on, or else the one that was first; the other's record stays
/// as it is. What the other remembers was counted. Turns under way for either find that they are not enrolled, and what they
/// read is read again.
fn merge(
    one: Vec<u8>,
    first: Vec<u8>,
    seen: UnixMillis,
    reader: &Reader,
    batch: &mut WriteBatch,
) -> Result<(), LedgerError> {
    let is_there = |note: Vec<u8>| batch.stored(&note, reader).map(|note| note.is_some());
    if is_there(keys::gone(&one))? || is_there(keys::other_name(&first))? {
        return Err(LedgerError::NotEnrolled);
    }
    let followed = |key: &[u8]| user(key, reader, batch)?.ok_or(LedgerError::NotEnrolled);
    if is_there(keys::gone(&first))? {
        let (mut record, gone) = (followed(&one)?, followed(&first)?);
        let newest = |cursor: &Cursor| cursor.last_seen().map(|last| last.time);
        let (mut base, other) = (gone.cursor, record.cursor);
        if newest(&base) > newest(&other) {
            base.remember_with(&other);
            record.cursor = base;
        } else {
            record.cursor = other;
            record.cursor.remember_with(&base);
        }
        record.joined = UnixMillis(record.joined.0.saturating_add(1));
        batch.changes.push((one, Some(StoredUser::from(&record).seal())));
        return Ok(());
    }
    let [one, first] = [(followed(&one)?, one), (followed(&first)?, first)];
    let ((mut other, other_key), (mut kept, kept_key)) =
        if one.0.cursor.live_since() < first.0.cursor.live_since() { (first, one) } else { (one, first) };
    let Some(RecordName::User { username: of, .. }) = RecordName::of(&kept_key) else {
        return Err(LedgerError::NotEnrolled);
    };
    kept.cursor.remember_with(&other.cursor);
    for record in [&mut kept, &mut other] {
        record.joined = UnixMillis(record.joined.0.saturating_add(1));
    }
    batch.changes.extend([
        (keys::other_name(&kept_key), None),
        (keys::other_name(&other_key), Some(OtherName { of, seen: seen.0 }.seal())),
        (kept_key, Some(StoredUser::from(&kept).seal())),
        (other_key, Some(StoredUser::from(&other).seal())),
    ]);
    Ok(())
}

/// While the one whose other name it was is followed, it is another's now, and everything since both were last seen to be one is
/// live. Else the user goes on under this name, with what is known of it.
fn part(key: Vec<u8>, of: &[u8], reader: &Reader, batch: &mut WriteBatch) -> Result<(), LedgerError> {
    let note = keys::other_name(&key);
    let Some(stored) = batch.stored(&note, reader)? else { return Ok(()) };
    let seen = UnixMillis(OtherName::open(&stored)?.seen);
    let mut changes = vec![(note, None)];
    if let Some(mut record) = user(&key, reader, batch)? {
        let is_followed = batch.stored(&keys::gone(of), reader)?.is_none();
        let known = user(of, reader, batch)?.filter(|_| !is_followed);
        record.cursor = known.map_or_else(|| Cursor::new(seen, seen), |known| known.cursor);
        record.joined = UnixMillis(record.joined.0.saturating_add(1));
        changes.push((key, Some(StoredUser::from(&record).seal())));
    }
    batch.changes.extend(changes);
    Ok(())
}

fn rewind(users: Vec<Vec<u8>>, from: UnixMillis, reader: &Reader, batch: &mut WriteBatch) -> Result<(), LedgerError> {
    let mut changes = Vec::new();
    for key in users {
        let Some(stored) = batch.stored(&key, reader)? else { continue };
        let mut record = UserRecord::try_from(StoredUser::open(&stored)?)?;
        if record.cursor.rewind(from) {
            changes.push((key, Some(StoredUser::from(&record).seal())));
        }
    }
    batch.changes.extend(changes);
    Ok(())
}

/// Whoever was gone is not any more.
fn back(user: &[u8], reader: &Reader, batch: &WriteBatch, changes: &mut Vec<Change>) -> Result<(), LedgerError> {
    let gone = keys::gone(user);
    if batch.stored(&gone, reader)?.is_some() {
        changes.push((gone, None));
    }
    Ok(())
}
