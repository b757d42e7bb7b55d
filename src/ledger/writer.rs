//! The one writer: a thread that gathers what waits into a batch, writes it at once, and answers everybody only when it
//! is on the disk.
//!
//! ```text
//!             first request          batch on the disk
//!   waiting --------------> collecting --------------> waiting, everybody answered
//!      ^                        | write failed
//!      +---- failed: reopening, 1 s to 30 s apart; everybody is told to try again from what is stored then
//! ```
//!
//! A thread, because every step blocks on the disk. One, because then totals and the outbox's order need no locks, and one
//! fsync serves all who wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cognito_auth_core::counters::Series;
use cognito_auth_core::event::UnixMillis;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, error, info};

use super::engine::{Engine, Reader};
use super::error::LedgerError;
use super::state_dir::{LastCommit, StateDir};
use super::writer_state::{Published, WriteBatch, WriteRequest, WriterState};
use crate::failpoint::{self, Failpoint};

/// Requests that wait for the writer. Beyond it callers wait to be heard: a poller has at most as many turns at once.
pub(super) const WAITING_MAX: usize = 256;

/// Places in the store that one batch touches, unless a single request has more: sled's memory grows with a batch's random keys
/// (measured: 114 MB at 100 keys, 3 GB at 1,000, a million users).
pub(super) const BATCH_PLACES_MAX: usize = 100;

/// How often the last commit is noted beside the store so that a power cut cannot take the note back; a young store's more
/// often, whenever it has twice as many groups as were noted. It matters only after the store was lost.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// A write that takes longer is taken for a disk that does not answer. A busy one has been seen to take seconds.
pub(super) const WRITE_MAX: Duration = Duration::from_secs(30);

/// Pause before the store is opened again after a failure: first and longest.
const REOPEN_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Where the answer goes.
pub(super) type Reply = oneshot::Sender<Result<(), LedgerError>>;

/// Shows totals of a pool as they are on the disk.
pub(super) type ShowTotals = Box<dyn Fn(&str, &[(Series, u64)]) + Send>;

/// What a caller sends.
pub(super) enum Request {
    Write(Box<WriteRequest>, Reply),
    /// From now on, beginning with all of them.
    Show(ShowTotals, Reply),
    Close(Reply),
}

/// The store as readers find it.
pub(super) enum Access {
    Open(Reader),
    /// It failed and is being opened again; why.
    Failed(LedgerError),
    Closed,
}

impl Access {
    /// Whatever the store as a whole cannot do is passing to those who ask for a record: it says nothing of that.
    fn failed(error: &LedgerError) -> Self {
        Self::Failed(match error {
            LedgerError::Storage(_) => error.clone(),
            other => LedgerError::Storage(other.to_string()),
        })
    }
}

/// What the writer shares with the ledger's handles.
pub(super) struct Shared {
    /// Written only when the store fails, is open again, or closes. Held by readers while they read, so that an engine
    /// that is dropped is really gone.
    pub(super) access: RwLock<Access>,
    pub(super) published: watch::Sender<Published>,
    /// Since when a write is under way.
    pub(super) writing: Mutex<Option<Instant>>,
    /// Moves with what is published, and with the access.
    pub(super) changes: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn set(&self, access: Access) {
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

    /// The error of a disk that does not answer: nobody knows when a write ends that takes this long.
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
    /// It is `now`: to be asked at once, because opening a store takes its time.
    pub(super) fn from(now: UnixMillis) -> Self {
        Self { opened: now, at: Instant::now() }
    }

    fn now(self) -> UnixMillis {
        self.opened.plus(self.at.elapsed())
    }
}

pub(super) struct Writer {
    state_dir: StateDir,
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    /// Did not fit the last batch.
    put_back: Option<Request>,
    show_totals: ShowTotals,
    /// The number of the last batch that is on the disk.
    durable: u64,
    time: TimeOfDay,
    /// When the last commit was noted to the disk, and its batch; and the one since then that is to be noted next.
    noted: Option<(Instant, u64)>,
    unnoted: Option<LastCommit>,
}

/// Why the writer stopped serving.
enum Ended {
    /// Somebody asked for it, or (None) nobody is left.
    Closed(Option<Reply>),
    Failed(LedgerError),
}

impl Writer {
    pub(super) fn new(
        state_dir: StateDir,
        shared: Arc<Shared>,
        requests: mpsc::Receiver<Request>,
        time: TimeOfDay,
    ) -> Self {
        Self {
            state_dir,
            shared,
            requests,
            put_back: None,
            show_totals: Box::new(|_, _| ()),
            durable: 0,
            time,
            noted: None,
            unnoted: None,
        }
    }

    /// Serves until closed.
    pub(super) fn run(mut self, engine: Engine, writer_state: WriterState) {
        let mut open = (engine, writer_state);
        let closed = loop {
            let error = match self.serve(open.0, open.1) {
                Ended::Closed(reply) => break reply,
                Ended::Failed(error) => error,
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
        self.shared.set(Access::Closed);
        // With the lock: whoever is answered may open the ledger again.
        drop(self);
        failpoint::reached(Failpoint::LedgerClosed);
        if let Some(reply) = closed {
            let _ = reply.send(Ok(()));
        }
    }

    /// WriteBatch after batch. The engine is gone when this returns.
    fn serve(&mut self, mut engine: Engine, mut writer_state: WriterState) -> Ended {
        self.durable = writer_state.groups;
        loop {
            let request = self.put_back.take().or_else(|| self.requests.blocking_recv());
            let (work, reply) = match request {
                Some(Request::Write(work, reply)) => (*work, reply),
                Some(Request::Show(show_totals, reply)) => {
                    self.show_totals = show_totals;
                    self.show(writer_state.totals());
                    answer(vec![reply], &Ok(()));
                    continue;
                }
                Some(Request::Close(reply)) => return self.last_words(engine, Some(reply)),
                None => return self.last_words(engine, None),
            };
            let mut replies = Vec::new();
            let mut batch = self.gather(work, reply, &mut writer_state, engine.reader(), &mut replies);
            let counted = std::mem::take(&mut batch.counted);
            failpoint::reached(Failpoint::LedgerAsked);
            let written = if batch.changes.is_empty() {
                Ok(())
            } else {
                writer_state.number(&mut batch);
                self.shared.set_writing(Some(Instant::now()));
                let written = engine.write(batch.changes);
                self.shared.set_writing(None);
                written
            };
            match written.and_then(|()| writer_state.publish(engine.reader())) {
                Ok(published) => {
                    failpoint::reached(Failpoint::LedgerSynced);
                    self.durable = writer_state.groups;
                    self.jot_last_commit();
                    // Readable and shown first, answered then: whoever was answered finds what it wrote.
                    self.shared.publish(published);
                    self.show(writer_state.totals_of(&counted));
                    failpoint::reached(Failpoint::LedgerPublished);
                    answer(replies, &Ok(()));
                    failpoint::reached(Failpoint::LedgerAnswered);
                    if self
                        .noted
                        .is_none_or(|(at, batch)| at.elapsed() >= NOTE_EVERY || writer_state.groups / 2 >= batch)
                    {
                        self.note_last_commit();
                    }
                }
                Err(error) => {
                    // Callers look here before they try again.
                    self.shared.set(Access::failed(&error));
                    answer(replies, &Err(error.clone()));
                    return Ended::Failed(error);
                }
            }
        }
    }

    /// Stages the first request, and what waits behind it while there is room.
    fn gather(
        &mut self,
        first: WriteRequest,
        reply: Reply,
        writer_state: &mut WriterState,
        reader: &Reader,
        replies: &mut Vec<Reply>,
    ) -> WriteBatch {
        let now = self.time.now();
        let mut batch = WriteBatch::default();
        let mut places = first.places();
        let mut next = Some((first, reply));
        while let Some((work, reply)) = next.take() {
            match writer_state.stage(work, now, reader, &mut batch) {
                Ok(()) => replies.push(reply),
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            }
            next = match self.requests.try_recv() {
                Ok(Request::Write(work, reply)) if places + work.places() <= BATCH_PLACES_MAX => {
                    places += work.places();
                    Some((*work, reply))
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

    fn last_words(&self, mut engine: Engine, reply: Option<Reply>) -> Ended {
        // Everything that was answered is on the disk already.
        if let Err(error) = engine.sync() {
            debug!(%error, "a last sync of the ledger failed");
        }
        self.shared.set(Access::Closed);
        Ended::Closed(reply)
    }

    fn show(&self, totals: BTreeMap<&str, Vec<(Series, u64)>>) {
        for (pool_id, totals) in totals {
            (self.show_totals)(pool_id, &totals);
        }
    }

    /// Tries to open the store again until it works; meanwhile refuses what comes. Ends early (Err) if asked to close.
    fn reopen(&mut self) -> Result<(Engine, WriterState), Option<Reply>> {
        let (mut pause, longest) = REOPEN_AFTER;
        loop {
            self.refuse_for(pause)?;
            match self.reopen_once() {
                Ok((engine, writer_state, published)) => {
                    // A page whose write failed may be there after all, and nobody else would show it.
                    self.show(writer_state.totals());
                    self.shared.publish(published);
                    self.shared.set(Access::Open(engine.reader().clone()));
                    return Ok((engine, writer_state));
                }
                Err(error) => self.shared.set(Access::failed(&error)),
            }
            pause = (pause * 2).min(longest);
        }
    }

    fn reopen_once(&self) -> Result<(Engine, WriterState, Published), LedgerError> {
        let (mut engine, mut writer_state) = self.state_dir.reopen(self.durable)?;
        // An open store is one that takes a write.
        let mut batch = WriteBatch::default();
        writer_state.number(&mut batch);
        engine.write(batch.changes)?;
        let published = writer_state.publish(engine.reader())?;
        Ok((engine, writer_state, published))
    }

    /// Refuses every request for this long. Senders unpark this thread.
    fn refuse_for(&mut self, pause: Duration) -> Result<(), Option<Reply>> {
        let begun = Instant::now();
        loop {
            loop {
                let request = match self.put_back.take() {
                    Some(request) => request,
                    None => match self.requests.try_recv() {
                        Ok(request) => request,
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) => return Err(None),
                    },
                };
                match request {
                    Request::Write(_, reply) => answer(vec![reply], &Err(self.failure())),
                    Request::Show(show_totals, reply) => {
                        // They are shown when the store is open again.
                        self.show_totals = show_totals;
                        answer(vec![reply], &Ok(()));
                    }
                    Request::Close(reply) => return Err(Some(reply)),
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
            Access::Failed(error) => error.clone(),
            Access::Open(_) | Access::Closed => LedgerError::Closed,
        }
    }

    /// Notes what is durable before anybody hears of it: a store that is damaged after a kill must not pass for an older one.
    fn jot_last_commit(&mut self) {
        let last = LastCommit { time: Some(self.time.now()), batch: self.durable };
        self.unnoted = Some(last);
        if let Err(error) = self.state_dir.jot(last) {
            debug!(%error, "the last commit cannot be noted");
        }
    }

    fn note_last_commit(&mut self) {
        let Some(last) = self.unnoted.take() else { return };
        self.noted = Some((Instant::now(), last.batch));
        // A full disk shows soon enough where it matters.
        if let Err(error) = self.state_dir.remember(last) {
            debug!(%error, "the time of the last commit cannot be noted");
        }
    }
}

fn answer(replies: Vec<Reply>, result: &Result<(), LedgerError>) {
    for reply in replies {
        // Who does not wait any more (a turn that was stopped) finds out from what is stored.
        let _ = reply.send(result.clone());
    }
}
