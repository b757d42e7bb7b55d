//! The writer: the thread that makes every change of the ledger. It collects waiting requests into a batch, writes the
//! batch, and answers the callers when the batch is on the disk.
//!
//! ```text
//!             first request          batch on the disk
//!   waiting --------------> collecting --------------> waiting, every caller answered
//!      ^                        | write failed
//!      +---- failed: opens the store again, 1 s to 30 s apart; callers get errors, and continue from what is stored
//! ```
//!
//! It is a thread, because every step blocks on the disk. It is only one, so that totals and the outbox's order need no
//! locks, and one fsync serves all requests of a batch.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cognito_auth_core::backoff::Backoff;
use cognito_auth_core::counters::Series;
use cognito_auth_core::event::UnixMillis;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, error, info};

use super::Ledger;
use super::engine::{Engine, Reader};
use super::error::LedgerError;
use super::state_dir::{LastCommit, StateDir};
use super::store::Store as _;
use super::writer_state::{Published, WriteBatch, WriteRequest, WriterState};
use crate::failpoint::{self, Failpoint};

/// Messages that wait for the writer. Beyond this, senders wait. A poller has at most as many turns at once.
pub(super) const WAITING_MAX: usize = 256;

/// Places in the store that one batch touches, unless a single request has more. The engine's memory grows with a
/// batch's random keys (measured with a million users: 114 MB at 100 keys, 3 GB at 1,000).
pub(super) const BATCH_PLACES_MAX: usize = 100;

/// How often the note of the last commit is synced, so that a power cut cannot take it back. For a young store it is
/// synced more often: whenever the number of batches has doubled. The note matters only after the store was lost.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// A write that takes longer counts as a disk that does not answer. A busy disk has been seen to take seconds.
pub(super) const WRITE_MAX: Duration = Duration::from_secs(30);

/// The waits before the store is opened again after a failure.
const REOPEN_AFTER: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(30));

/// Where the writer sends the result of a message.
pub(super) type ReplySender = oneshot::Sender<Result<(), LedgerError>>;

/// A callback that shows a pool's durable totals.
pub(super) type ShowTotals = Box<dyn Fn(&str, &[(Series, u64)]) + Send>;

/// A message to the writer.
pub(super) enum WriterMessage {
    /// Make a change.
    Write(Box<WriteRequest>, ReplySender),
    /// Show all totals now, and from now on those that grow.
    Show(ShowTotals, ReplySender),
    /// Close the store and end.
    Close(ReplySender),
}

impl Ledger {
    /// Has the writer make a change, and waits until it is on the disk.
    pub(super) async fn write(&self, request: WriteRequest) -> Result<(), LedgerError> {
        if let Some(error) = self.fault() {
            return Err(error);
        }
        self.send(|reply| WriterMessage::Write(Box::new(request), reply)).await
    }

    /// Sends a message to the writer, and waits for the reply.
    pub(super) async fn send(&self, message: impl FnOnce(ReplySender) -> WriterMessage) -> Result<(), LedgerError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.0.messages.send(message(reply)).await;
        sent.map_err(|_| LedgerError::Closed)?;
        self.0.writer.unpark();
        // A writer that ends before it reads the message drops the reply.
        answer.await.unwrap_or(Err(LedgerError::Closed))
    }
}

/// The store as readers see it.
pub(super) enum StoreAccess {
    /// It can be read.
    Open(Reader),
    /// It failed with this error and is being opened again.
    Failed(LedgerError),
    /// The ledger was closed.
    Closed,
}

impl StoreAccess {
    /// Turns any failure of the store into a passing one. For a caller who asks for one record, `Corrupt` would mean
    /// that this record is damaged.
    fn failed(error: &LedgerError) -> Self {
        Self::Failed(match error {
            LedgerError::Storage(_) => error.clone(),
            other => LedgerError::Storage(other.to_string()),
        })
    }
}

/// The state that the writer shares with the ledger's handles.
pub(super) struct WriterShared {
    /// Changes only when the store fails, is open again, or closes. Readers hold the lock while they read, so that
    /// nothing uses an engine after it was dropped.
    pub(super) access: RwLock<StoreAccess>,
    pub(super) published: watch::Sender<Published>,
    /// When the present write began.
    pub(super) writing: Mutex<Option<Instant>>,
    /// Incremented when `published` or `access` changes.
    pub(super) changes: watch::Sender<u64>,
}

impl WriterShared {
    pub(super) fn set(&self, access: StoreAccess) {
        let mut place = self.access.write();
        *place = access;
        drop(place);
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|change| *change = change.wrapping_add(1));
    }

    pub(super) fn set_writing(&self, since: Option<Instant>) {
        *self.writing.lock() = since;
    }

    /// Returns the error of a disk that does not answer, if the present write has taken too long.
    pub(super) fn overdue(&self) -> Option<LedgerError> {
        let since = *self.writing.lock();
        let seconds = since.map(|since| since.elapsed()).filter(|took| *took >= WRITE_MAX)?.as_secs();
        Some(LedgerError::Storage(format!("a write has not ended for {seconds} s")))
    }

    fn publish(&self, published: Published) {
        if self.published.send_replace(published) != published {
            self.changed();
        }
    }
}

/// The time of day, counted from the time at which the ledger was opened.
#[derive(Clone, Copy)]
pub(super) struct TimeOfDay {
    opened: UnixMillis,
    at: Instant,
}

impl TimeOfDay {
    /// Starts at `now`. Callers do this before they open a store, which may take long.
    pub(super) fn from(now: UnixMillis) -> Self {
        Self { opened: now, at: Instant::now() }
    }

    fn now(self) -> UnixMillis {
        self.opened.plus(self.at.elapsed())
    }
}

/// The writer, before and while it runs.
pub(super) struct Writer {
    state_dir: StateDir,
    shared: Arc<WriterShared>,
    messages: mpsc::Receiver<WriterMessage>,
    /// A message that did not fit the last batch.
    put_back: Option<WriterMessage>,
    show_totals: ShowTotals,
    /// The number of the last durable batch.
    durable: u64,
    time: TimeOfDay,
    /// When the note of the last commit was synced, and the batch in it.
    noted: Option<(Instant, u64)>,
    /// The commit that is to be noted and synced next.
    unnoted: Option<LastCommit>,
}

/// Why the writer stopped serving.
enum ServeEnd {
    /// A caller closed the ledger, or (None) dropped the last handle.
    Closed(Option<ReplySender>),
    /// The store failed.
    Failed(LedgerError),
}

impl Writer {
    pub(super) fn new(
        state_dir: StateDir,
        shared: Arc<WriterShared>,
        messages: mpsc::Receiver<WriterMessage>,
        time: TimeOfDay,
    ) -> Self {
        Self {
            state_dir,
            shared,
            messages,
            put_back: None,
            show_totals: Box::new(|_, _| ()),
            durable: 0,
            time,
            noted: None,
            unnoted: None,
        }
    }

    /// Serves until the ledger is closed.
    pub(super) fn run(mut self, engine: Engine, writer_state: WriterState) {
        let mut open = (engine, writer_state);
        let closed = loop {
            let error = match self.serve(open.0, open.1) {
                ServeEnd::Closed(reply) => break reply,
                ServeEnd::Failed(error) => error,
            };
            error!(%error, "the ledger failed; polling and delivery wait while it is opened again");
            self.note_last_commit();
            open = match self.reopen() {
                Ok(open) => open,
                Err(reply) => break reply,
            };
            info!("the ledger is open again");
        };
        self.note_last_commit();
        self.shared.set(StoreAccess::Closed);
        // This releases the state directory's lock: a caller who gets the reply may open the ledger again.
        drop(self);
        failpoint::reached(Failpoint::LedgerClosed);
        if let Some(reply) = closed {
            let _ = reply.send(Ok(()));
        }
    }

    /// Writes batch after batch until the store fails or is closed. The engine is dropped when this returns.
    fn serve(&mut self, mut engine: Engine, mut writer_state: WriterState) -> ServeEnd {
        self.durable = writer_state.batches;
        loop {
            let message = self.put_back.take().or_else(|| self.messages.blocking_recv());
            let (request, reply) = match message {
                Some(WriterMessage::Write(request, reply)) => (*request, reply),
                Some(WriterMessage::Show(show_totals, reply)) => {
                    self.show_totals = show_totals;
                    writer_state.totals.each(&self.show_totals);
                    answer(vec![reply], &Ok(()));
                    continue;
                }
                Some(WriterMessage::Close(reply)) => return self.finish(engine, Some(reply)),
                None => return self.finish(engine, None),
            };
            let mut replies = Vec::new();
            let mut batch = self.collect(request, reply, &mut writer_state, engine.reader(), &mut replies);
            failpoint::reached(Failpoint::LedgerAsked);
            let written = if batch.is_empty() {
                Ok(())
            } else {
                writer_state.complete(&mut batch);
                self.shared.set_writing(Some(Instant::now()));
                let written = engine.write(std::mem::take(&mut batch.changes));
                self.shared.set_writing(None);
                written
            };
            match written.and_then(|()| writer_state.publish(engine.reader())) {
                Ok(published) => {
                    failpoint::reached(Failpoint::LedgerSynced);
                    self.durable = writer_state.batches;
                    self.jot_last_commit();
                    // Replies come last: a caller who has its reply can read what it wrote.
                    self.shared.publish(published);
                    batch.raised.each(&self.show_totals);
                    failpoint::reached(Failpoint::LedgerPublished);
                    answer(replies, &Ok(()));
                    failpoint::reached(Failpoint::LedgerAnswered);
                    if self
                        .noted
                        .is_none_or(|(at, batch)| at.elapsed() >= NOTE_EVERY || writer_state.batches / 2 >= batch)
                    {
                        self.note_last_commit();
                    }
                }
                Err(error) => {
                    // Before the replies: callers look here before they try again.
                    self.shared.set(StoreAccess::failed(&error));
                    answer(replies, &Err(error.clone()));
                    return ServeEnd::Failed(error);
                }
            }
        }
    }

    /// Stages the first request, and the requests that wait behind it while the batch has room.
    fn collect(
        &mut self,
        first: WriteRequest,
        reply: ReplySender,
        writer_state: &mut WriterState,
        reader: &Reader,
        replies: &mut Vec<ReplySender>,
    ) -> WriteBatch {
        let now = self.time.now();
        let mut batch = WriteBatch::default();
        let mut places = first.places();
        let mut next = Some((first, reply));
        while let Some((request, reply)) = next.take() {
            match writer_state.stage(request, now, reader, &mut batch) {
                Ok(()) => replies.push(reply),
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            }
            next = match self.messages.try_recv() {
                Ok(WriterMessage::Write(request, reply)) if places + request.places() <= BATCH_PLACES_MAX => {
                    places += request.places();
                    Some((*request, reply))
                }
                Ok(other) => {
                    self.put_back = Some(other);
                    None
                }
                Err(_) => None,
            };
        }
        batch
    }

    /// Syncs the store a last time before it is closed.
    fn finish(&self, mut engine: Engine, reply: Option<ReplySender>) -> ServeEnd {
        // A failure loses nothing: every batch that was answered is on the disk.
        if let Err(error) = engine.sync() {
            debug!(%error, "a last sync of the ledger failed");
        }
        self.shared.set(StoreAccess::Closed);
        ServeEnd::Closed(reply)
    }

    /// Tries to open the store again until it works, and meanwhile refuses requests. Ends early (Err) when the ledger
    /// is closed.
    fn reopen(&mut self) -> Result<(Engine, WriterState), Option<ReplySender>> {
        let mut backoff = REOPEN_AFTER;
        loop {
            self.refuse_for(backoff.failed())?;
            match self.reopen_once() {
                Ok((engine, writer_state, published)) => {
                    // A page whose write failed may be there after all, and nothing else would show its totals.
                    writer_state.totals.each(&self.show_totals);
                    self.shared.publish(published);
                    self.shared.set(StoreAccess::Open(engine.reader().clone()));
                    return Ok((engine, writer_state));
                }
                Err(error) => self.shared.set(StoreAccess::failed(&error)),
            }
        }
    }

    fn reopen_once(&self) -> Result<(Engine, WriterState, Published), LedgerError> {
        let (mut engine, mut writer_state) = self.state_dir.reopen(self.durable)?;
        // The store counts as open only once it has taken a write.
        let mut batch = WriteBatch::default();
        writer_state.complete(&mut batch);
        engine.write(batch.changes)?;
        let published = writer_state.publish(engine.reader())?;
        Ok((engine, writer_state, published))
    }

    /// Refuses every request for this long. Senders unpark this thread.
    fn refuse_for(&mut self, pause: Duration) -> Result<(), Option<ReplySender>> {
        let begun = Instant::now();
        loop {
            loop {
                let message = match self.put_back.take() {
                    Some(message) => message,
                    None => match self.messages.try_recv() {
                        Ok(message) => message,
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) => return Err(None),
                    },
                };
                match message {
                    WriterMessage::Write(_, reply) => answer(vec![reply], &Err(self.failure())),
                    WriterMessage::Show(show_totals, reply) => {
                        // It gets the totals when the store is open again.
                        self.show_totals = show_totals;
                        answer(vec![reply], &Ok(()));
                    }
                    WriterMessage::Close(reply) => return Err(Some(reply)),
                }
            }
            let left = pause.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            thread::park_timeout(left);
        }
    }

    fn failure(&self) -> LedgerError {
        let access = self.shared.access.read();
        match &*access {
            StoreAccess::Failed(error) => error.clone(),
            StoreAccess::Open(_) | StoreAccess::Closed => LedgerError::Closed,
        }
    }

    /// Notes the last commit without a sync, before its replies are sent. A store that lost it, damaged after a kill,
    /// must not pass for a complete one.
    fn jot_last_commit(&mut self) {
        let last = LastCommit { time: Some(self.time.now()), batch: self.durable };
        self.unnoted = Some(last);
        if let Err(error) = self.state_dir.jot(last) {
            debug!(%error, "the last commit cannot be noted");
        }
    }

    /// Notes the last commit, and syncs the note.
    fn note_last_commit(&mut self) {
        let Some(last) = self.unnoted.take() else { return };
        self.noted = Some((Instant::now(), last.batch));
        // Not an error: a full disk fails the next write, too.
        if let Err(error) = self.state_dir.remember(last) {
            debug!(%error, "the time of the last commit cannot be noted");
        }
    }
}

fn answer(replies: Vec<ReplySender>, result: &Result<(), LedgerError>) {
    for reply in replies {
        // A caller that no longer waits, such as a turn that was stopped, reads what is stored.
        let _ = reply.send(result.clone());
    }
}
