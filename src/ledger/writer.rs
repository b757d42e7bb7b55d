//! The one thread that writes.
//!
//! ```text
//! requests -> gather what waits -> one batch -> on disk -> readers may see it -> each caller is answered
//! ```
//!
//! Totals and the outbox's size are kept in memory and move with the disk: a batch that fails leaves them as they were, and
//! after an error everything is read anew from the ledger that was opened again.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::engine::{self, Engine};
use super::stored::{self, StoredEntry, StoredRefusal, StoredTotal, StoredUser};
use super::{Commit, LedgerError, Shared, Waiting, keys, unreadable};
use crate::courier::{OutboxId, Settlement};
use crate::event::UnixMillis;

/// Keys of one batch, unless a single request has more. sled 0.34.7 takes gigabytes for batches of a thousand.
pub(super) const KEYS_AT_ONCE: usize = 100;

/// Pauses before the ledger is opened again after an error: first and longest.
const REOPEN_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How often the time of the last commit is noted beside the ledger.
const NOTE_EVERY: Duration = Duration::from_secs(10);

type Answer = oneshot::Sender<Result<(), LedgerError>>;

/// What the writer can be asked.
pub(super) enum Request {
    Put { items: Vec<(Vec<u8>, Vec<u8>)>, done: Answer },
    Commit { commit: Box<Commit>, done: Answer },
    Settle { settlement: Settlement, done: Answer },
    Close,
}

impl Request {
    /// About how many keys it writes.
    fn keys(&self) -> usize {
        match self {
            Self::Put { items, .. } => items.len(),
            Self::Commit { commit, .. } => 1 + commit.totals.len() + commit.entries.len(),
            Self::Settle { settlement, .. } => settlement.delivered.len() + 2 * settlement.quarantined.len(),
            Self::Close => 0,
        }
    }
}

/// What the writer knows of the ledger, as far as it is on disk.
#[derive(Clone, Default)]
struct Books {
    totals: HashMap<Vec<u8>, u64>,
    waiting: Waiting,
    next_id: u64,
}

/// A batch in the making, with the books as they will be.
struct Draft {
    batch: sled::Batch,
    totals: HashMap<Vec<u8>, u64>,
    waiting: Waiting,
    next_id: u64,
    last_observed: Option<UnixMillis>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    books: Books,
    path: PathBuf,
    noted: Option<Instant>,
    last_observed: Option<UnixMillis>,
}

impl Writer {
    /// Reads the books and starts the thread.
    pub(super) fn start(shared: Arc<Shared>, requests: mpsc::Receiver<Request>) -> Result<(), LedgerError> {
        let (books, path) = shared.engine(|engine| Ok((Books::read(engine)?, engine.path().to_owned())))?;
        let mut writer = Self { shared, requests, books, path, noted: None, last_observed: None };
        writer.publish();
        thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run())
            .map_err(|cause| LedgerError::Storage(format!("cannot start the ledger's thread: {cause}")))?;
        Ok(())
    }

    fn run(&mut self) {
        let mut open = true;
        while open {
            let Some(first) = self.requests.blocking_recv() else { break };
            let mut keys = first.keys();
            let mut group = vec![first];
            while keys < KEYS_AT_ONCE
                && let Ok(next) = self.requests.try_recv()
            {
                keys += next.keys();
                group.push(next);
            }
            open = self.serve(group);
        }
        self.note_last_commit(true);
        // Dropping the store releases its lock: whoever waits for the close may open it again.
        self.shared.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.closed.send_replace(true);
    }

    /// Does a group of requests; answers whether there will be more.
    fn serve(&mut self, group: Vec<Request>) -> bool {
        let mut draft = Draft {
            batch: sled::Batch::default(),
            totals: HashMap::new(),
            waiting: self.books.waiting,
            next_id: self.books.next_id,
            last_observed: None,
        };
        let mut answers = Vec::new();
        let mut close = false;
        let mut drafted = Ok(());
        for request in group {
            let (step, done) = match request {
                Request::Put { items, done } => {
                    items.into_iter().for_each(|(key, value)| draft.batch.insert(key, value));
                    (Ok(()), done)
                }
                Request::Commit { commit, done } => {
                    self.draft_commit(&mut draft, &commit);
                    (Ok(()), done)
                }
                Request::Settle { settlement, done } => {
                    let engine = |engine: &Engine| draft_settlement(engine, &mut draft, &settlement);
                    (self.shared.engine(engine), done)
                }
                Request::Close => {
                    close = true;
                    continue;
                }
            };
            answers.push(done);
            drafted = drafted.and(step);
        }
        let result = drafted.and_then(|()| self.write(draft));
        let failure = result.as_ref().err().map(ToString::to_string);
        for done in answers {
            // A caller that went away does not need the answer.
            let _gone = done.send(match &failure {
                None => Ok(()),
                Some(cause) => Err(LedgerError::Storage(cause.clone())),
            });
        }
        if let Some(cause) = failure {
            return !close && self.recover(cause);
        }
        !close
    }

    fn draft_commit(&self, draft: &mut Draft, commit: &Commit) {
        let pool = &commit.pool.id;
        draft.batch.insert(keys::user(pool, &commit.username), stored::seal(&StoredUser::from(&commit.record)));
        for (series, increment) in &commit.totals {
            let key = keys::total(pool, &series.to_key());
            let total = draft
                .totals
                .entry(key.clone())
                .or_insert_with(|| self.books.totals.get(&key).copied().unwrap_or_default());
            *total = total.saturating_add(*increment);
            draft.batch.insert(key, stored::seal(&StoredTotal { total: *total }));
        }
        for entry in &commit.entries {
            let id = OutboxId(draft.next_id);
            draft.next_id += 1;
            let value = stored::seal(&StoredEntry::from(entry));
            let outbox = &mut draft.waiting.outbox;
            outbox.records += 1;
            outbox.bytes += value.len() as u64;
            outbox.oldest = outbox.oldest.or(Some(entry.observed));
            draft.waiting.last = Some(id);
            draft.last_observed = Some(entry.observed);
            draft.batch.insert(keys::outbox(id), value);
        }
    }

    /// Puts a draft on disk and moves the books with it.
    fn write(&mut self, draft: Draft) -> Result<(), LedgerError> {
        self.shared.engine(|engine| {
            engine.apply(draft.batch)?;
            Ok(engine.sync()?)
        })?;
        self.books.totals.extend(draft.totals);
        self.books.waiting = draft.waiting;
        self.books.next_id = draft.next_id;
        self.last_observed = draft.last_observed.or(self.last_observed);
        self.publish();
        self.note_last_commit(false);
        Ok(())
    }

    /// Lets readers see what is on disk.
    fn publish(&mut self) {
        let before = self.shared.outbox.send_replace(self.books.waiting);
        if before != self.books.waiting {
            self.shared.changes.send_modify(|change| *change = change.wrapping_add(1));
        }
    }

    fn note_last_commit(&mut self, at_once: bool) {
        let due = at_once || self.noted.is_none_or(|noted| noted.elapsed() >= NOTE_EVERY);
        let Some(time) = self.last_observed.filter(|_| due) else { return };
        let Some(state) = self.path.parent() else { return };
        self.noted = Some(Instant::now());
        if let Err(cause) = engine::write_last_commit(state, time) {
            tracing::debug!(%cause, "the time of the last commit could not be noted");
        }
    }

    /// After an error sled fails for good: the store is opened again, as often as it takes. Answers whether the writer
    /// goes on.
    fn recover(&mut self, cause: String) -> bool {
        tracing::error!(cause, "the ledger cannot be written; polling pauses until it can");
        self.shared.failure.send_replace(Some(cause));
        let (mut pause, pause_max) = REOPEN_AFTER;
        self.shared.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        loop {
            if !self.refuse_for(pause) {
                return false;
            }
            pause = (pause * 2).min(pause_max);
            let opened = Engine::reopen(&self.path, self.shared.cache_bytes)
                .and_then(|engine| Ok((Books::read(&engine).map_err(|error| error.to_string())?, engine)));
            match opened {
                Ok((books, engine)) => {
                    self.books = books;
                    *self.shared.engine.write().unwrap_or_else(PoisonError::into_inner) = Some(engine);
                    self.publish();
                    self.shared.failure.send_replace(None);
                    tracing::info!("the ledger can be written again");
                    return true;
                }
                Err(cause) => {
                    self.shared.failure.send_replace(Some(cause));
                }
            }
        }
    }

    /// Answers every request with the failure for a while; false if asked to close.
    fn refuse_for(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            match self.requests.try_recv() {
                Ok(Request::Close) | Err(mpsc::error::TryRecvError::Disconnected) => return false,
                Ok(Request::Put { done, .. } | Request::Commit { done, .. } | Request::Settle { done, .. }) => {
                    let cause = self.shared.failure.borrow().clone().unwrap_or_default();
                    // A caller that went away does not need the answer.
                    let _gone = done.send(Err(LedgerError::Storage(cause)));
                }
                Err(mpsc::error::TryRecvError::Empty) => thread::sleep(Duration::from_millis(20)),
            }
        }
        true
    }
}

impl Books {
    /// Reads what is on disk.
    fn read(engine: &Engine) -> Result<Self, LedgerError> {
        let mut books = Self::default();
        for item in engine.scan(keys::TOTALS) {
            let (key, value) = item?;
            let total: StoredTotal = stored::open(&value).map_err(unreadable("a total"))?;
            books.totals.insert(key.to_vec(), total.total);
        }
        for item in engine.scan(keys::OUTBOX) {
            let (key, value) = item?;
            let outbox = &mut books.waiting.outbox;
            outbox.records += 1;
            outbox.bytes += value.len() as u64;
            if outbox.oldest.is_none() {
                let entry: StoredEntry = stored::open(&value).map_err(unreadable("an entry of the outbox"))?;
                outbox.oldest = Some(UnixMillis(entry.observed));
            }
            books.waiting.last = keys::parse_id(&key).max(books.waiting.last);
        }
        let mut newest = books.waiting.last;
        for item in engine.scan(keys::QUARANTINE) {
            let (key, value) = item?;
            books.waiting.quarantined += 1;
            books.waiting.quarantined_bytes += value.len() as u64;
            newest = newest.max(keys::parse_id(&key));
        }
        books.next_id = newest.map_or(0, |newest| newest.0 + 1);
        Ok(books)
    }
}

/// Removes delivered entries and moves refused ones.
fn draft_settlement(engine: &Engine, draft: &mut Draft, settlement: &Settlement) -> Result<(), LedgerError> {
    let mut gone = std::collections::HashSet::new();
    let mut take = |draft: &mut Draft, id: OutboxId| -> Result<Option<sled::IVec>, LedgerError> {
        let key = keys::outbox(id);
        let value = engine.get(&key)?.filter(|_| gone.insert(id));
        if let Some(value) = &value {
            draft.waiting.outbox.records = draft.waiting.outbox.records.saturating_sub(1);
            draft.waiting.outbox.bytes = draft.waiting.outbox.bytes.saturating_sub(value.len() as u64);
            draft.batch.remove(key);
        }
        Ok(value)
    };
    for id in &settlement.delivered {
        take(draft, *id)?;
    }
    for (id, reason) in &settlement.quarantined {
        let Some(value) = take(draft, *id)? else { continue };
        let entry: StoredEntry = stored::open(&value).map_err(unreadable("an entry of the outbox"))?;
        let value = stored::seal(&StoredRefusal { entry: Some(entry), reason: reason.clone() });
        draft.waiting.quarantined += 1;
        draft.waiting.quarantined_bytes += value.len() as u64;
        draft.batch.insert(keys::quarantine(*id), value);
    }
    draft.waiting.outbox.oldest = oldest_but(engine, &gone)?;
    if draft.waiting.outbox.records == 0 {
        draft.waiting.outbox.oldest = None;
    }
    Ok(())
}

/// When the oldest entry was observed that stays in the outbox.
fn oldest_but(engine: &Engine, gone: &std::collections::HashSet<OutboxId>) -> Result<Option<UnixMillis>, LedgerError> {
    for item in engine.scan(keys::OUTBOX) {
        let (key, value) = item?;
        if keys::parse_id(&key).is_some_and(|id| !gone.contains(&id)) {
            let entry: StoredEntry = stored::open(&value).map_err(unreadable("an entry of the outbox"))?;
            return Ok(Some(UnixMillis(entry.observed)));
        }
    }
    Ok(None)
}
