//! Everything durable: cursors, totals, outbox, quarantine.
//!
//! A [`Commit`] is a page's cursor with all that it accounts for, in one atomic write, on disk before anyone hears of it. So
//! there is no unsafe moment to die: before the write the page is simply read again, after it nothing is left to do.
//!
//! - One thread writes (`writer`): commits that wait together share one batch and one flush to disk.
//! - `engine` knows sled and its ways; `keys` and `stored` know what lies in it. Nobody else does.
//! - A value that cannot be read is never guessed at: a newer build's is refused, a damaged one is an error.

mod engine;
mod keys;
mod stored;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{mpsc, oneshot, watch};

use self::engine::{Engine, EngineError};
use self::stored::{StoredEntry, StoredError, StoredPool, StoredText, StoredTotal, StoredUser};
use self::writer::{Request, Writer};
use crate::config::StateConfig;
use crate::courier::{Outbox, OutboxId, Settlement};
use crate::cursor::Cursor;
use crate::entry::{Entry, PoolIdentity};
use crate::event::UnixMillis;
use crate::tally::Series;

/// Requests to the writer that may wait. Each is a page at most, so this is a few megabytes.
const REQUESTS_MAX: usize = 256;

/// Why the ledger did not do what it was asked. Texts name what and where, never a user.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process has it.
    #[error("the state in {} is in use by another process; stop it, or give this one another state.path", .0.display())]
    Locked(PathBuf),
    /// The disk or its permissions: may pass.
    #[error("{0}")]
    Storage(String),
    /// A record that is damaged.
    #[error("{0}")]
    Corrupt(String),
    /// A record of a newer build: untouched.
    #[error("{what} was {cause}; run that build again, or start with another state.path")]
    NewerVersion {
        /// The kind of record.
        what: &'static str,
        /// Which version.
        cause: String,
    },
    /// Damaged ledgers were moved aside too often.
    #[error(
        "the ledger is damaged, and {} damaged ones lie in {} already: look at them, then remove them",
        engine::CORRUPT_MAX,
        .0.display()
    )]
    TooManyCorrupt(PathBuf),
    /// The ledger was closed.
    #[error("the ledger is closed")]
    Closed,
}

impl From<EngineError> for LedgerError {
    fn from(error: EngineError) -> Self {
        Self::Storage(error.to_string())
    }
}

/// Names the kind of record that could not be read.
fn unreadable(what: &'static str) -> impl Fn(StoredError) -> LedgerError {
    move |error| match error {
        StoredError::Newer(_) => LedgerError::NewerVersion { what, cause: error.to_string() },
        StoredError::Damaged(_) => LedgerError::Corrupt(format!("{what} is {error}")),
    }
}

/// What is kept of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolRecord {
    /// When the pool was first followed.
    pub followed_since: UnixMillis,
}

/// What is kept of a user.
#[derive(Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// When the user was first on the roster.
    pub joined: UnixMillis,
    /// The user's `sub`, where a listing gave it.
    pub sub: Option<String>,
    /// What is known of its history.
    pub cursor: Cursor,
}

/// One atomic write: a page's cursor with what it accounts for.
pub struct Commit {
    /// The user's pool.
    pub pool: Arc<PoolIdentity>,
    /// The user.
    pub username: String,
    /// The user's record after the page.
    pub record: UserRecord,
    /// By how much the pool's durable counters move.
    pub totals: Vec<(Series, u64)>,
    /// What is to be delivered.
    pub entries: Vec<Entry>,
}

/// What waits for delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OutboxState {
    /// Entries.
    pub records: u64,
    /// Their size in the ledger.
    pub bytes: u64,
    /// When the oldest was observed.
    pub oldest: Option<UnixMillis>,
}

/// A ledger that has been opened.
pub struct Opened {
    /// The ledger.
    pub ledger: Ledger,
    /// Present if a damaged one had to be moved aside.
    pub rebuilt: Option<Rebuilt>,
}

/// What became of a damaged ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// Where it lies now.
    pub moved_to: PathBuf,
    /// When it was last written, as far as the file beside it remembers: what happened since is live.
    pub last_commit: Option<UnixMillis>,
}

/// The ledger. Clones are the same one.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

/// What readers and the writer share.
struct Shared {
    /// None while it is being opened again after an error.
    engine: RwLock<Option<Engine>>,
    instance_id: String,
    cache_bytes: u64,
    quarantine_limit_bytes: u64,
    outbox: watch::Sender<Waiting>,
    /// Moves with every change of the outbox.
    changes: watch::Sender<u64>,
    failure: watch::Sender<Option<String>>,
    closed: watch::Sender<bool>,
}

/// The outbox and the quarantine as far as they are durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Waiting {
    /// The newest entry that may be read.
    last: Option<OutboxId>,
    outbox: OutboxState,
    quarantined: u64,
    quarantined_bytes: u64,
}

impl Shared {
    fn engine<T>(&self, read: impl FnOnce(&Engine) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        match engine.as_ref() {
            Some(engine) => read(engine),
            None => Err(LedgerError::Storage("the ledger is being opened again after an error".into())),
        }
    }
}

impl Ledger {
    /// Opens the ledger in `<state.path>/ledger`, or begins one. Blocks while it reads.
    ///
    /// # Errors
    /// [`LedgerError::Locked`], [`LedgerError::Storage`], [`LedgerError::NewerVersion`],
    /// [`LedgerError::TooManyCorrupt`]; a damaged ledger is no error but [`Opened::rebuilt`].
    pub fn open(state: &StateConfig, now: UnixMillis) -> Result<Opened, LedgerError> {
        let (engine, rebuilt) = Engine::open_or_rebuild(&state.path, state.cache_bytes, now)?;
        let instance_id = instance_id(&engine, &state.path, now)?;
        let shared = Arc::new(Shared {
            engine: RwLock::new(Some(engine)),
            instance_id,
            cache_bytes: state.cache_bytes,
            quarantine_limit_bytes: state.quarantine_limit_bytes,
            outbox: watch::Sender::default(),
            changes: watch::Sender::default(),
            failure: watch::Sender::default(),
            closed: watch::Sender::default(),
        });
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        Writer::start(shared.clone(), waiting)?;
        Ok(Opened { ledger: Self { shared, requests }, rebuilt })
    }

    /// `service.instance.id`: made when the ledger was begun, kept since.
    pub fn instance_id(&self) -> &str {
        &self.shared.instance_id
    }

    /// Reads a pool.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn pool(&self, pool_id: &str) -> Result<Option<PoolRecord>, LedgerError> {
        self.shared.engine(|engine| {
            let value = engine.get(&keys::pool(pool_id))?;
            let stored = value.map(|value| stored::open::<StoredPool>(&value)).transpose();
            Ok(stored.map_err(unreadable("a pool's record"))?.map(PoolRecord::from))
        })
    }

    /// Reads a pool's durable totals. A series that this build does not know is left alone.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn totals(&self, pool_id: &str) -> Result<Vec<(Series, u64)>, LedgerError> {
        self.shared.engine(|engine| {
            let mut totals = Vec::new();
            for item in engine.scan(&keys::total(pool_id, "")) {
                let (key, value) = item?;
                let total: StoredTotal = stored::open(&value).map_err(unreadable("a total"))?;
                let series = keys::parse_total(&key).and_then(|(_, series)| Series::from_key(series));
                totals.extend(series.map(|series| (series, total.total)));
            }
            Ok(totals)
        })
    }

    /// Reads a user.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn user(&self, pool_id: &str, username: &str) -> Result<Option<UserRecord>, LedgerError> {
        self.shared.engine(|engine| {
            let Some(value) = engine.get(&keys::user(pool_id, username))? else { return Ok(None) };
            let stored: StoredUser = stored::open(&value).map_err(unreadable("a user's record"))?;
            Ok(Some(stored.try_into().map_err(unreadable("a user's record"))?))
        })
    }

    /// Writes down that a pool is followed.
    ///
    /// # Errors
    /// It could not be written; nothing was.
    pub async fn follow_pool(&self, pool_id: &str, record: PoolRecord) -> Result<(), LedgerError> {
        let value = stored::seal(&StoredPool::from(&record));
        self.request(|done| Request::Put { items: vec![(keys::pool(pool_id), value)], done }).await
    }

    /// Writes down users who join.
    ///
    /// # Errors
    /// They could not all be written; those that were stay.
    pub async fn enroll(&self, pool_id: &str, users: Vec<(String, UserRecord)>) -> Result<(), LedgerError> {
        for users in users.chunks(writer::KEYS_AT_ONCE) {
            let items = users
                .iter()
                .map(|(username, record)| (keys::user(pool_id, username), stored::seal(&StoredUser::from(record))))
                .collect();
            self.request(|done| Request::Put { items, done }).await?;
        }
        Ok(())
    }

    /// Writes a page. On disk when it returns; a caller that stops waiting does not undo it.
    ///
    /// # Errors
    /// It may not have been written: the cursor has to be read again.
    pub async fn commit(&self, commit: Commit) -> Result<(), LedgerError> {
        self.request(|done| Request::Commit { commit: Box::new(commit), done }).await
    }

    /// What waits for delivery.
    pub fn outbox_state(&self) -> OutboxState {
        self.shared.outbox.borrow().outbox
    }

    /// Entries in the quarantine, and their bytes.
    pub fn quarantine_state(&self) -> (u64, u64) {
        let waiting = self.shared.outbox.borrow();
        (waiting.quarantined, waiting.quarantined_bytes)
    }

    /// Why nothing can be written at present.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.borrow().clone()
    }

    /// Bytes on disk; 0 while they cannot be told.
    pub fn size_bytes(&self) -> u64 {
        self.shared.engine(|engine| Ok(engine.size_bytes())).unwrap_or(0)
    }

    /// Ends the writer after what it was asked before, with all of it on disk.
    pub async fn close(self) {
        let mut closed = self.shared.closed.subscribe();
        let _already_gone = self.requests.send(Request::Close).await;
        // The writer says so when it ends, also through an error.
        let _ended = closed.wait_for(|closed| *closed).await;
    }

    async fn request(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<(), LedgerError>>) -> Request,
    ) -> Result<(), LedgerError> {
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).await.map_err(|_| LedgerError::Closed)?;
        answer.await.unwrap_or(Err(LedgerError::Closed))
    }
}

impl Outbox for Ledger {
    type Error = LedgerError;

    fn read(&self, after: Option<OutboxId>, limit: usize) -> Result<Vec<(OutboxId, Entry)>, LedgerError> {
        let Some(last) = self.shared.outbox.borrow().last else { return Ok(Vec::new()) };
        let first = after.map_or(OutboxId(0), |after| OutboxId(after.0.saturating_add(1)));
        if first > last {
            return Ok(Vec::new());
        }
        self.shared.engine(|engine| {
            let mut entries = Vec::new();
            for item in engine.range(&keys::outbox(first), &keys::outbox(last)).take(limit) {
                let (key, value) = item?;
                let Some(id) = keys::parse_id(&key) else { continue };
                let entry: StoredEntry = stored::open(&value).map_err(unreadable("an entry of the outbox"))?;
                entries.push((id, entry.try_into().map_err(unreadable("an entry of the outbox"))?));
            }
            Ok(entries)
        })
    }

    async fn settle(&self, settlement: Settlement) -> Result<(), LedgerError> {
        self.request(|done| Request::Settle { settlement, done }).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn quarantine_full(&self) -> bool {
        self.shared.outbox.borrow().quarantined_bytes >= self.shared.quarantine_limit_bytes
    }
}

/// The instance id of a ledger; of a new one it is its first record, and the file beside it says that it was begun.
fn instance_id(engine: &Engine, state: &Path, now: UnixMillis) -> Result<String, LedgerError> {
    if let Some(value) = engine.get(keys::INSTANCE)? {
        let stored: StoredText = stored::open(&value).map_err(unreadable("the ledger's format"))?;
        return Ok(stored.text);
    }
    let text = uuid::Uuid::new_v4().to_string();
    engine.put(keys::INSTANCE, stored::seal(&StoredText { text: text.clone() }))?;
    engine::write_last_commit(state, now)
        .map_err(|cause| LedgerError::Storage(format!("cannot write to {}: {cause}", state.display())))?;
    Ok(text)
}
