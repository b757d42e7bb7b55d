//! The told events of pools with an export, and how an exported event is written.
//!
//! `cognito_auth_core::told` has the rules. Here they meet the store: one write has an event's state in the table, its
//! totals and its entry for the outbox. The writer's thread decides, so an exported event and a page that shows it
//! cannot both tell it: whichever comes second finds what the first has written.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use cognito_auth_core::arrival::{Arrived, ArrivingEvent, ToldBefore, arrive, told_before};
use cognito_auth_core::counters;
use cognito_auth_core::entry::{Entry, PoolIdentity, UserIdentity};
use cognito_auth_core::event::{AuthEvent, EventKey, UnixMillis};
use cognito_auth_core::export::ExportDetails;
use cognito_auth_core::privacy::Privacy;
use cognito_auth_core::told::{ToldEvent, ToldEvents};
use cognito_auth_core::walk::Rules;
use tokio::sync::oneshot;

use super::engine::Reader;
use super::envelope::{StoredRecord, ToldSince};
use super::error::LedgerError;
use super::store::{Change, StoreReader as _};
use super::stored_entry::StoredEntry;
use super::stored_user::{StoredSighting, StoredUser, UNDATED};
use super::writer_state::{WriteBatch, WriteRequest, WriterState};
use super::{Ledger, UserRecord, keys};

/// The stored form of a told event. Its key has the second and the event.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StoredTold {
    /// The state. Its key is empty.
    #[prost(message, optional, tag = "1")]
    sighting: Option<StoredSighting>,
    /// The newest date less the second of the key; absent for an event without a date.
    #[prost(sint64, optional, tag = "2")]
    newest: Option<i64>,
    /// The sum of the flags that hold: [`StoredTold::POLLED`], [`StoredTold::ADOPTED`], [`StoredTold::EXPORTED`].
    #[prost(uint32, tag = "3")]
    flags: u32,
    /// The user, as the ledger has it; present while the event waits for its outcome and no cursor watches it.
    #[prost(string, optional, tag = "4")]
    waits_for: Option<String>,
}

impl StoredRecord for StoredTold {
    const WHAT: &'static str = "a told event";
}

impl StoredTold {
    /// A poll has told the event.
    const POLLED: u32 = 1;
    /// The user's cursor has the event.
    const ADOPTED: u32 = 2;
    /// The export has told the event.
    const EXPORTED: u32 = 4;

    fn of(key: EventKey, told: &ToldEvent, user: Option<&str>) -> Self {
        let newest = told.sighting.dates.map(|dates| dates.newest);
        let mut sighting = StoredSighting::of(key, &told.sighting, newest.unwrap_or(UNDATED));
        sighting.key.clear();
        let flag = |holds, flag| if holds { flag } else { 0 };
        Self {
            sighting: Some(sighting),
            newest: newest.map(|newest| newest.0.wrapping_sub(told.second.wrapping_mul(1000))),
            flags: flag(told.is_polled, Self::POLLED)
                | flag(told.is_adopted, Self::ADOPTED)
                | flag(told.is_exported, Self::EXPORTED),
            waits_for: user.filter(|_| told.sighting.watch.is_some() && !told.is_adopted).map(str::to_owned),
        }
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    fn told(self, second: i64, key: EventKey) -> Result<ToldEvent, LedgerError> {
        let [is_polled, is_adopted, is_exported] =
            [Self::POLLED, Self::ADOPTED, Self::EXPORTED].map(|flag| self.has(flag));
        let newest = self.newest.map(|newest| UnixMillis(newest.wrapping_add(second.wrapping_mul(1000))));
        let mut sighting = self.sighting.unwrap_or_default();
        sighting.key = key.0.to_vec();
        let (_, sighting) = sighting.sighting(newest)?;
        Ok(ToldEvent { second, sighting, is_polled, is_adopted, is_exported })
    }

    /// The record without its user, for a ledger that may not have the name.
    pub(super) fn without_user(bytes: &[u8]) -> Result<Vec<u8>, LedgerError> {
        Ok(Self { waits_for: None, ..Self::open(bytes)? }.seal())
    }

    /// Checks a record of any key.
    pub(super) fn check(bytes: &[u8]) -> Result<(), LedgerError> {
        Self::open(bytes)?.told(0, EventKey([0; 16])).map(drop)
    }
}

/// A told event as a page of a poll changes it.
#[derive(Clone, PartialEq, Debug)]
pub struct ToldChange {
    /// The event's date on the page.
    pub date: Option<UnixMillis>,
    /// The event as it was when the page was judged.
    pub before: Option<ToldEvent>,
    /// The event from now on.
    pub after: ToldEvent,
}

/// Users whose exported events wait for their outcome, and when a poll must look for each.
pub type WaitingUsers = Vec<(String, UnixMillis)>;

/// Exported events of one pool that have arrived together.
pub struct Arrivals {
    /// The pool.
    pub pool: Arc<PoolIdentity>,
    /// The pool's rules.
    pub rules: Rules,
    /// Whether entries are wanted: there is a sink.
    pub queue: bool,
    /// Whether the pool's users are polled, so that their cursors decide about events from before the table.
    pub is_polled: bool,
    /// When they arrived, by the local clock.
    pub received: UnixMillis,
    /// The events.
    pub events: Vec<ExportedArrival>,
}

/// One exported event that has arrived.
pub struct ExportedArrival {
    /// The user.
    pub user: Arc<UserIdentity>,
    /// The event.
    pub event: AuthEvent,
    /// What only the export tells.
    pub details: ExportDetails,
    /// Whether it is live, if it is new.
    pub live: bool,
}

/// What became of an exported event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArrivalResult {
    /// What it was.
    pub kind: ArrivalKind,
    /// Whether it is live.
    pub live: bool,
    /// Whether the export has told it for the first time.
    pub is_first_export: bool,
    /// When a poll must look for its outcome, if it is new and in progress.
    pub next_look: Option<UnixMillis>,
}

/// What an exported event was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArrivalKind {
    /// A new event.
    New,
    /// A revision of a told event.
    Revision,
    /// An event that was told.
    Known,
    /// An event from before the table, in a pool that is not polled. It is logged and not counted.
    Late,
}

/// Exported events on their way to the writer.
pub(super) struct ArrivalRequest {
    arrivals: Arrivals,
    privacy: Privacy,
    /// The keys of the users, in the order of the events.
    users: Vec<Vec<u8>>,
    results: oneshot::Sender<Vec<ArrivalResult>>,
}

/// Told events of one pool that are to be forgotten.
pub(super) struct ForgetTold {
    pool_id: String,
    /// Their keys.
    forgotten: Vec<Vec<u8>>,
    /// The second after which the table is complete without them.
    since: i64,
    /// Whether those may go, too, that no cursor has.
    unpolled: bool,
}

impl ForgetTold {
    pub(super) fn places(&self) -> usize {
        1 + WriteRequest::places_of_entries(self.forgotten.len())
    }

    /// Adds the removal to the batch. An event that the export has told anew since it was read stays: no cursor has
    /// its state.
    pub(super) fn stage(self, reader: &Reader, batch: &mut WriteBatch) -> Result<(), LedgerError> {
        let mut forgotten = Vec::with_capacity(self.forgotten.len());
        for key in self.forgotten {
            let Some((_, second, event)) = keys::told_of(&key) else { continue };
            let is_adopted = match batch.told.at(&key, second, event, reader)? {
                Some(ToldRecord::Readable(told)) => told.is_adopted,
                Some(ToldRecord::Damaged { .. }) | None => false,
            };
            if self.unpolled || is_adopted {
                forgotten.push((key, None));
            }
        }
        batch.told.0.extend(forgotten);
        let since = ToldSince { second: self.since, unpolled: self.unpolled };
        batch.changes.push((keys::told_since(&self.pool_id), Some(since.seal())));
        Ok(())
    }
}

/// The told events that a batch changes, with their new state; None for those that it forgets.
#[derive(Default)]
pub(super) struct ToldOverlay(BTreeMap<Vec<u8>, Option<WaitingTold>>);

/// The new state of a told event, and its user where that is known.
struct WaitingTold {
    told: ToldEvent,
    user: Option<String>,
}

impl ToldOverlay {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the changes of the store.
    pub(super) fn changes(&mut self) -> impl Iterator<Item = Change> {
        std::mem::take(&mut self.0).into_iter().map(|(key, told)| {
            let event = keys::told_of(&key).map(|(_, _, event)| event);
            let value =
                told.zip(event).map(|(told, event)| StoredTold::of(event, &told.told, told.user.as_deref()).seal());
            (key, value)
        })
    }

    /// Finds what was told of an event with this date.
    fn find(
        &self,
        pool_id: &str,
        key: EventKey,
        date: Option<UnixMillis>,
        reader: &Reader,
    ) -> Result<Option<ToldRecord>, LedgerError> {
        let mut place = Vec::new();
        // Most events have the date with which they were told.
        let at = ToldEvent::second_of(date);
        let others = ToldEvent::seconds_near(date).filter(|second| *second != at);
        for second in std::iter::once(at).chain(others) {
            keys::put_told(&mut place, pool_id, second, key);
            let found = self.at(&place, second, key, reader)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Returns what has this key in the store, once the batch is written.
    fn at(&self, place: &[u8], second: i64, key: EventKey, reader: &Reader) -> Result<Option<ToldRecord>, LedgerError> {
        match self.0.get(place) {
            Some(None) => Ok(None),
            Some(Some(waiting)) => Ok(Some(ToldRecord::Readable(Box::new(waiting.told.clone())))),
            None => ToldRecord::read(reader, place, second, key),
        }
    }

    fn put(&mut self, pool_id: &str, key: EventKey, told: ToldEvent, user: Option<String>) {
        self.0.insert(keys::told(pool_id, told.second, key), Some(WaitingTold { told, user }));
    }

    fn forget(&mut self, pool_id: &str, key: EventKey, second: i64) {
        self.0.insert(keys::told(pool_id, second, key), None);
    }
}

/// The record of a told event.
enum ToldRecord {
    Readable(Box<ToldEvent>),
    /// It says that the event was told, and nothing else.
    Damaged {
        second: i64,
    },
}

impl ToldRecord {
    fn read(reader: &Reader, place: &[u8], second: i64, key: EventKey) -> Result<Option<Self>, LedgerError> {
        let Some(bytes) = reader.get(place)? else { return Ok(None) };
        match StoredTold::open(&bytes).and_then(|stored| stored.told(second, key)) {
            Ok(told) => Ok(Some(Self::Readable(Box::new(told)))),
            Err(LedgerError::Corrupt { .. }) => Ok(Some(Self::Damaged { second })),
            Err(error) => Err(error),
        }
    }

    /// The event as it was told. Of a damaged record it is what the event is now.
    fn told(self, event: &AuthEvent) -> ToldEvent {
        match self {
            Self::Readable(told) => *told,
            Self::Damaged { second } => ToldEvent { second, ..ToldEvent::of_damaged_record(event) },
        }
    }

    /// Whether a page was judged by this record. Whatever a page made of a damaged one is right.
    fn is_as_judged(&self, before: Option<&ToldEvent>) -> bool {
        match self {
            Self::Readable(told) => before == Some(&**told),
            Self::Damaged { .. } => true,
        }
    }
}

impl Ledger {
    /// The largest number of told events that one write forgets.
    const FORGOTTEN_AT_ONCE: usize = 500;

    /// The largest number of told events that one reading looks through, but always whole seconds.
    const WAITING_AT_ONCE: usize = 5000;

    /// Begins the table of a pool's told events, complete for events after `since`. Does nothing if the pool has one:
    /// it goes on, also after a time without the export. A damaged record is replaced.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed; or the record is of a newer version.
    pub async fn begin_told(&self, pool_id: &str, since: UnixMillis) -> Result<(), LedgerError> {
        match self.read_told_since(pool_id) {
            Ok(Some(_)) => return Ok(()),
            // It begins again: below its beginning, the cursors decide.
            Ok(None) | Err(LedgerError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        self.write_told_since(pool_id, ToldSince { second: ToldEvent::second_of(Some(since)), unpolled: false }).await
    }

    /// Notes that no cursor of the pool misses what was forgotten: its users begin anew.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed; or the record cannot be read.
    pub async fn users_begin_anew(&self, pool_id: &str) -> Result<(), LedgerError> {
        match self.read_told_since(pool_id)? {
            Some(stored) => self.write_told_since(pool_id, ToldSince { unpolled: false, ..stored }).await,
            None => Ok(()),
        }
    }

    /// Reads whether told events of the pool were forgotten that no cursor has, because nothing was polled.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn has_forgotten_unpolled(&self, pool_id: &str) -> Result<bool, LedgerError> {
        Ok(self.read_told_since(pool_id)?.is_some_and(|stored| stored.unpolled))
    }

    fn read_told_since(&self, pool_id: &str) -> Result<Option<ToldSince>, LedgerError> {
        let stored = self.reading(|reader| reader.get(&keys::told_since(pool_id)))?;
        stored.map(|bytes| ToldSince::open(&bytes)).transpose()
    }

    async fn write_told_since(&self, pool_id: &str, since: ToldSince) -> Result<(), LedgerError> {
        self.write(WriteRequest::Put(vec![(keys::told_since(pool_id), Some(since.seal()))])).await
    }

    /// Reads the second from which on the table of a pool's told events is complete. None for a pool that never had an
    /// export.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn told_since(&self, pool_id: &str) -> Result<Option<i64>, LedgerError> {
        Ok(self.read_told_since(pool_id)?.map(|since| since.second))
    }

    /// Reads what was told of the events of a page.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or a record is of a newer version.
    pub fn told(&self, pool_id: &str, events: &[AuthEvent]) -> Result<ToldEvents, LedgerError> {
        let nothing = ToldOverlay::default();
        self.reading(|reader| {
            let mut told = ToldEvents::new();
            for event in events {
                let key = event.key();
                if let Some(known) = nothing.find(pool_id, key, event.creation_date, reader)? {
                    told.insert(key, known.told(event));
                }
            }
            Ok(told)
        })
    }

    /// Joins exported events to what was told, in their order. All of them are on the disk when this answers Ok, with
    /// what became of each.
    ///
    /// # Errors
    /// All of them or none may have been written: the ledger has failed or is closed. Arriving again is harmless.
    pub async fn arrive(&self, arrivals: Arrivals) -> Result<Vec<ArrivalResult>, LedgerError> {
        let (results, staged) = oneshot::channel();
        let pool_id = &arrivals.pool.id;
        let users = arrivals.events.iter().map(|event| self.user_key(pool_id, &event.user.username)).collect();
        let request = ArrivalRequest { privacy: self.0.privacy.clone(), users, arrivals, results };
        self.write(WriteRequest::Arrive(Box::new(request))).await?;
        staged.await.map_err(|_| LedgerError::Closed)
    }

    /// Reads which users have exported events that wait for their outcome and that no cursor watches, and when a poll
    /// must look for each. Reads some records with dates above `after`, and answers up to where it has read; None at
    /// the end.
    ///
    /// # Errors
    /// The ledger has failed or is closed.
    pub fn told_waiting(&self, pool_id: &str, after: i64) -> Result<(WaitingUsers, Option<i64>), LedgerError> {
        let (mut waiting, mut last, mut seen, mut is_end) = (Vec::new(), after, 0, true);
        self.reading(|reader| {
            reader.each_while(keys::told_between(pool_id, after, ToldEvent::UNDATED), |key, value| {
                let Some((_, second, event)) = keys::told_of(key) else { return Ok(true) };
                if seen >= Self::WAITING_AT_ONCE && second != last {
                    is_end = false;
                    return Ok(false);
                }
                (last, seen) = (second, seen + 1);
                // A damaged record waits for nothing.
                let Ok(stored) = StoredTold::open(value) else { return Ok(true) };
                if let Some(user) = stored.waits_for.clone()
                    && let Some(watch) = stored.told(second, event).ok().and_then(|told| told.sighting.watch)
                {
                    waiting.push((user, watch.next_look));
                }
                Ok(true)
            })
        })?;
        Ok((waiting, (!is_end).then_some(last)))
    }

    /// Forgets told events with dates up to `until`, some at a time: those that their users' cursors have, or with
    /// `unpolled` all of them. The table is complete after them. Answers whether there may be more.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed; or the record cannot be read.
    pub async fn forget_told(&self, pool_id: &str, until: UnixMillis, unpolled: bool) -> Result<bool, LedgerError> {
        let until = ToldEvent::second_of(Some(until));
        let Some(since) = self.told_since(pool_id)?.filter(|since| *since < until) else { return Ok(false) };
        let range = keys::told_between(pool_id, since, until);
        let (mut forgotten, mut last, mut seen) = (Vec::new(), until, 0);
        self.reading(|reader| {
            reader.each_while(range, |key, value| {
                let Some((_, second, _)) = keys::told_of(key) else { return Ok(true) };
                if seen >= Self::FORGOTTEN_AT_ONCE && second != last {
                    // Every event of the seconds before was seen.
                    last = second.saturating_sub(1);
                    return Ok(false);
                }
                (last, seen) = (second, seen + 1);
                if unpolled || StoredTold::open(value).is_ok_and(|told| told.has(StoredTold::ADOPTED)) {
                    forgotten.push(key.to_vec());
                }
                Ok(true)
            })
        })?;
        let is_more = seen >= Self::FORGOTTEN_AT_ONCE && last < until;
        let since = if is_more { last } else { until };
        let pool_id = pool_id.to_owned();
        self.write(WriteRequest::ForgetTold(ForgetTold { pool_id, forgotten, since, unpolled })).await?;
        Ok(is_more)
    }

    /// Removes all told events of a pool, some at a time.
    pub(super) async fn remove_told(&self, pool_id: &str) -> Result<(), LedgerError> {
        loop {
            let told = self.reading(|reader| reader.keys(keys::told_all(pool_id), Self::FORGOTTEN_AT_ONCE))?;
            if told.is_empty() {
                return self.write(WriteRequest::Put(vec![(keys::told_since(pool_id), None)])).await;
            }
            self.write(WriteRequest::Put(told.into_iter().map(|key| (key, None)).collect())).await?;
        }
    }
}

impl ArrivalRequest {
    /// Estimates how many places in the store the request touches. Events that arrive together are neighbours.
    pub(super) fn places(&self) -> usize {
        1 + WriteRequest::places_of_entries(2 * self.arrivals.events.len())
    }

    /// Adds the events to the batch. After an error some of them may be in it: each is complete in itself.
    pub(super) fn stage(
        self,
        writer_state: &mut WriterState,
        reader: &Reader,
        batch: &mut WriteBatch,
    ) -> Result<(), LedgerError> {
        let Self { arrivals: Arrivals { pool, rules, queue, is_polled, received, events }, privacy, users, results } =
            self;
        let complete_since = complete_since(&pool.id, reader, batch)?;
        let mut done = Vec::with_capacity(events.len());
        for (arrival, user) in events.into_iter().zip(users) {
            let ExportedArrival { user: identity, event, details, live } = arrival;
            let key = event.key();
            let is_covered = ToldEvent::is_covered(event.creation_date, complete_since);
            let before = match batch.told.find(&pool.id, key, event.creation_date, reader)? {
                Some(told) => ToldBefore::Remembered(told.told(&event)),
                None if is_covered => ToldBefore::Never,
                None if is_polled => cursor_knows(&user, &event, reader, batch)?,
                None => ToldBefore::Passed,
            };
            let is_new = before == ToldBefore::Never;
            let (result, told) = match before {
                ToldBefore::Passed if is_polled => (ArrivalResult::of(ArrivalKind::Known), None),
                ToldBefore::Passed => (ArrivalResult::of(ArrivalKind::Late), Some((event, 0, false))),
                ToldBefore::Remembered(_) | ToldBefore::Never => {
                    let before = if let ToldBefore::Remembered(told) = before { Some(told) } else { None };
                    let arrived = arrive(before, ArrivingEvent { event: &event, live, received }, &rules);
                    let result = ArrivalResult::new(&arrived, is_new);
                    if let Some(told) = arrived.told {
                        let waits_for = told.sighting.watch.and_then(|_| user_in(&pool.id, &user));
                        batch.told.put(&pool.id, key, told, waits_for);
                    }
                    let counted = arrived.finding.inspect(|finding| {
                        writer_state.totals.raise(pool.id.clone(), &counters::found(finding), batch);
                    });
                    (result, counted.map(|finding| (finding.event, finding.revision, finding.live)))
                }
            };
            if let Some((event, revision, live)) = told.filter(|_| queue) {
                let entry = Entry::exported(event, (revision, live), &pool, &identity, received);
                batch.entries.push(StoredEntry::from(privacy.apply(Entry { details, ..entry })).seal());
            }
            done.push(result);
        }
        // A caller that has gone does not need them.
        let _ = results.send(done);
        Ok(())
    }
}

impl ArrivalResult {
    fn of(kind: ArrivalKind) -> Self {
        Self { kind, live: false, is_first_export: false, next_look: None }
    }

    fn new(arrived: &Arrived, is_new: bool) -> Self {
        Self {
            kind: match &arrived.finding {
                None => ArrivalKind::Known,
                Some(_) if is_new => ArrivalKind::New,
                Some(_) => ArrivalKind::Revision,
            },
            live: arrived.finding.as_ref().is_some_and(|finding| finding.live),
            is_first_export: arrived.is_first_export,
            next_look: arrived.told.as_ref().and_then(|told| told.sighting.watch).map(|watch| watch.next_look),
        }
    }
}

/// The user in a user's key.
fn user_in(pool_id: &str, key: &[u8]) -> Option<String> {
    let name = key.get(keys::user(pool_id, "").len()..)?;
    String::from_utf8(name.to_vec()).ok()
}

/// Asks the user's cursor for an event from before the table. Nothing was told of a user without a record.
fn cursor_knows(
    user: &[u8],
    event: &AuthEvent,
    reader: &Reader,
    batch: &WriteBatch,
) -> Result<ToldBefore, LedgerError> {
    let Some(bytes) = batch.stored(user, reader)? else { return Ok(ToldBefore::Never) };
    let record = UserRecord::try_from(StoredUser::open(&bytes)?)?;
    Ok(told_before(&record.cursor, event))
}

/// Adds what a page of a poll tells to the batch. It is refused if one of its events was told meanwhile.
pub(super) fn stage_polled(
    pool_id: &str,
    changes: Vec<(EventKey, ToldChange)>,
    reader: &Reader,
    batch: &mut WriteBatch,
) -> Result<(), LedgerError> {
    if changes.is_empty() {
        return Ok(());
    }
    let complete_since = complete_since(pool_id, reader, batch)?;
    for (key, change) in &changes {
        let found = batch.told.find(pool_id, *key, change.date, reader)?;
        let is_as_judged = found.map_or(change.before.is_none(), |told| told.is_as_judged(change.before.as_ref()));
        if !is_as_judged {
            return Err(LedgerError::ToldMeanwhile);
        }
    }
    for (key, ToldChange { after, .. }) in changes {
        // Below, the cursor has it.
        if after.second > complete_since {
            batch.told.put(pool_id, key, after, None);
        } else {
            batch.told.forget(pool_id, key, after.second);
        }
    }
    Ok(())
}

/// The second from which on the table is complete. Without a record nothing is in it.
fn complete_since(pool_id: &str, reader: &Reader, batch: &WriteBatch) -> Result<i64, LedgerError> {
    let stored = batch.stored(&keys::told_since(pool_id), reader)?;
    stored.map_or(Ok(i64::MAX - 1), |bytes| Ok(ToldSince::open(&bytes)?.second))
}
