//! The state that the writer keeps in memory, and how each request changes it.
//!
//! While a batch is collected, this state is ahead of the disk. If the write fails, the state is dropped and read again
//! from the store, so nothing has to be undone.

mod outbox;
mod users;

use std::collections::HashSet;

use cognito_auth_core::entry::OutboxId;
use cognito_auth_core::event::UnixMillis;

pub(super) use self::outbox::{OutboxIndex, Size};
use super::commits::CommitRequest;
use super::engine::{Engine, Reader};
use super::envelope::{Count, Instance, LostSince, StoreFormat, StoredRecord as _};
use super::error::LedgerError;
use super::keys;
use super::store::{Change, Store as _, StoreReader as _};
use super::told::{ArrivalRequest, ForgetTold, ToldOverlay};
use super::totals::{RaisedTotals, Totals};
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
    /// Exported events.
    Arrive(Box<ArrivalRequest>),
    /// Told events that are forgotten.
    ForgetTold(ForgetTold),
    /// A page. It is refused unless its user is enrolled as before.
    Commit(CommitRequest),
    /// Users whose events since a time are logged again.
    Rewind { users: Vec<Vec<u8>>, from: UnixMillis },
    /// A user who moves to the present name in the ledger, followed or gone as before.
    Rename { from: Vec<u8>, to: (Vec<u8>, Box<UserRecord>) },
    /// A pool whose record, totals and read position are removed.
    ForgetPool(String),
    /// Entries that leave the outbox.
    Settle(Settlement),
    /// A value for the quarantine that was never in the outbox.
    PutAside { reason: String, value: Vec<u8> },
    /// Entries that move from the quarantine back to the outbox.
    Retry(Vec<OutboxId>),
    /// Entries that are removed from the quarantine.
    Drop(Vec<OutboxId>),
}

impl WriteRequest {
    /// Estimates how many places in the store the request touches. Each key is a place, but entries of the outbox are
    /// neighbours.
    pub(super) fn places(&self) -> usize {
        match self {
            Self::Put(changes) => changes.len(),
            Self::Enroll(users) => users.len(),
            Self::ReplaceUser { .. } => 2,
            Self::StillMerged { .. } => 1,
            Self::MergeUser { .. } | Self::Merge { .. } => 6,
            Self::Rename { .. } | Self::Part { .. } => 4,
            Self::Commit(commit) => commit.places(),
            Self::Arrive(arrivals) => arrivals.places(),
            Self::ForgetTold(forget) => forget.places(),
            Self::Rewind { users, .. } => users.len(),
            // Its totals are neighbours, and it is rare.
            Self::ForgetPool(_) => 1,
            Self::Settle(Settlement { delivered, quarantined }) => {
                Self::places_of_entries(delivered.len()) + 2 * quarantined.len()
            }
            Self::PutAside { .. } => 1,
            Self::Retry(ids) => 2 * ids.len(),
            Self::Drop(ids) => ids.len(),
        }
    }

    /// Estimates how many places neighbouring entries of the outbox take. A page of the store holds 8 to 16 segments.
    pub(super) fn places_of_entries(entries: usize) -> usize {
        const ENTRIES_OF_A_PLACE: usize = 64;
        entries / ENTRIES_OF_A_PLACE
    }
}

/// Changes that are written together.
#[derive(Default)]
pub(super) struct WriteBatch {
    pub(super) changes: Vec<Change>,
    /// The totals that the batch raises.
    pub(super) raised: RaisedTotals,
    /// The told events that the batch changes.
    pub(super) told: ToldOverlay,
    /// Sealed entries that the batch adds to the outbox, in order.
    pub(super) entries: Vec<Vec<u8>>,
    /// Numbers of the entries that the batch removes from the outbox or the quarantine.
    leaving: HashSet<u64>,
}

impl WriteBatch {
    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.told.is_empty() && self.entries.is_empty()
    }

    /// Reads a key as it will be once the batch is written.
    pub(super) fn stored(&self, key: &[u8], reader: &Reader) -> Result<Option<Vec<u8>>, LedgerError> {
        let waiting = self.changes.iter().rev().find(|(changed, _)| changed == key);
        waiting.map_or_else(|| reader.get(key), |(_, value)| Ok(value.clone()))
    }
}

/// The state that the writer keeps in memory.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct WriterState {
    pub(super) instance_id: String,
    pub(super) totals: Totals,
    pub(super) outbox: OutboxIndex,
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
        Ok(Self {
            instance_id: Instance::open(&instance)?.id,
            totals: Totals::read(reader)?,
            outbox: OutboxIndex::read(count(keys::SEQUENCE)?, reader)?,
            batches: count(keys::GROUPS)?,
        })
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
            WriteRequest::Commit(commit) => commit.stage(self, reader, batch)?,
            WriteRequest::Arrive(arrivals) => arrivals.stage(self, reader, batch)?,
            WriteRequest::ForgetTold(forget) => forget.stage(reader, batch)?,
            WriteRequest::Rewind { users, from } => users::rewind(users, from, reader, batch)?,
            WriteRequest::Rename { from, to } => users::rename(from, to, reader, batch)?,
            WriteRequest::ForgetPool(pool_id) => {
                self.totals.forget(&pool_id, batch);
                batch.changes.extend([(keys::pool(&pool_id), None), (keys::read_position(&pool_id), None)]);
            }
            WriteRequest::Settle(settlement) => self.outbox.settle(settlement, now, reader, batch)?,
            WriteRequest::PutAside { reason, value } => self.outbox.put_aside(reason, value, now, batch),
            WriteRequest::Retry(ids) => self.outbox.retry(ids, reader, batch)?,
            WriteRequest::Drop(ids) => self.outbox.drop_quarantined(ids, reader, batch)?,
        }
        Ok(())
    }

    /// Completes the batch that is written next: adds what its requests share, and numbers it.
    pub(super) fn complete(&mut self, batch: &mut WriteBatch) {
        batch.changes.extend(batch.raised.changes());
        batch.changes.extend(batch.told.changes());
        self.outbox.queue(batch);
        self.batches += 1;
        let batches = Count { value: self.batches };
        batch.changes.push((keys::GROUPS.to_vec(), Some(batches.seal())));
    }

    /// Returns the state that is published once the batch is written.
    pub(super) fn publish(&mut self, reader: &Reader) -> Result<Published, LedgerError> {
        self.outbox.publish(reader)
    }
}
