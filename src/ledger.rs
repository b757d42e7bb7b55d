//! The ledger: all the state that survives the process. Cursors, totals, outbox and quarantine are records of one
//! store, so that *one atomic write* holds a page's cursor with everything that the page changes.
//!
//! ```text
//!  commit, enroll, settle ... --> [bounded queue] --> writer thread --> one batch --> fsync --> every caller answered
//!  user, totals, read     <------------------------------------------ the store as it is, from any thread
//! ```
//!
//! A write that answers Ok is on the disk. So is every entry that is read from the outbox: a power cut cannot take back
//! what was delivered. After a write that failed, its result is unknown: callers read what is stored and continue from
//! it.
//!
//! A full disk does not end the process. The writer opens the store again until it works, and [`Ledger::failure`] says
//! why it waits. Only a damaged store is replaced, at the start, and it is kept beside the new one.
//!
//! | file | contents |
//! |---|---|
//! | `users`, `pools`, `commits`, `told`, `export`, `outbox`, `quarantine` | what callers do with the ledger, by subject |
//! | `writer`, `writer_state`, `totals` | the thread that writes; its state in memory and how each request changes it |
//! | `store`, `engine` | what the ledger needs of a storage engine; that engine, and the only file that names it |
//! | `state_dir`, `custody` | the state directory and how a store in it is replaced; who may own the files there |
//! | `keys`, `names`, `envelope`, `stored_user`, `stored_entry` | keys, names outside the ledger, and stored formats |
//! | `transfer`, `rekey` | a whole ledger exported, imported and verified; rewritten under other privacy settings |
//!
//! Callers decide how full the outbox may be, when to try again, and what the loss of a ledger means for the users.

mod commits;
mod custody;
mod engine;
mod envelope;
mod error;
mod export;
mod keys;
mod names;
mod outbox;
mod pools;
mod quarantine;
mod rekey;
mod scrapes;
mod state_dir;
mod store;
mod stored_entry;
mod stored_user;
mod told;
mod totals;
mod transfer;
mod users;
mod writer;
mod writer_state;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::privacy::Privacy;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::commits::Commit;
use self::engine::{Engine, Reader};
pub use self::error::LedgerError;
pub use self::export::ReadPosition;
pub use self::names::RecordName;
pub use self::outbox::OutboxState;
pub use self::pools::PoolRecord;
pub use self::quarantine::{QuarantineReason, Quarantined};
pub use self::scrapes::ScrapeNote;
pub use self::state_dir::Rebuilt;
use self::state_dir::StateDir;
use self::store::{Store as _, StoreReader as _};
pub use self::told::{ArrivalKind, ArrivalResult, Arrivals, ExportedArrival, ToldChange, WaitingUsers};
pub use self::transfer::Import;
pub use self::users::{ActivityAt, Twin, UserRecord, UserStanding};
use self::writer::{StoreAccess, TimeOfDay, WAITING_MAX, Writer, WriterMessage, WriterShared};
use self::writer_state::WriterState;
use crate::config::StateConfig;

/// A handle of the durable state, cheap to clone. One process at a time has the state open.
#[derive(Clone)]
pub struct Ledger(Arc<Handle>);

struct Handle {
    instance_id: String,
    privacy: Privacy,
    quarantine_limit_bytes: u64,
    shared: Arc<WriterShared>,
    messages: mpsc::Sender<WriterMessage>,
    /// The writer's thread. Senders wake it while it waits to open the store again.
    writer: thread::Thread,
}

/// A ledger, and what happened when it was opened.
pub struct Opened {
    /// The ledger.
    pub ledger: Ledger,
    /// The loss, if the former ledger was damaged and has been replaced.
    pub rebuilt: Option<Rebuilt>,
}

impl Ledger {
    /// Bytes of entries that one call reads at most from the outbox or the quarantine, but always one entry. A batch
    /// for the receiver is smaller.
    pub const READ_BYTES_MAX: usize = 8 << 20;

    /// Opens the ledger in `<state.path>/ledger`, and makes it if it is not there. Blocks. `now` is the time of day,
    /// from which the ledger counts its own times.
    ///
    /// # Errors
    /// Nothing has been changed when this fails. Each error says what to do.
    pub fn open(state: &StateConfig, now: UnixMillis) -> Result<Opened, LedgerError> {
        Self::open_private(state, &Privacy::default(), now)
    }

    /// Opens the ledger like [`Ledger::open`], to store only what `privacy` allows. A ledger that was stored under
    /// other settings is rewritten first.
    ///
    /// # Errors
    /// As `open`; or the ledger knows its users by hashes under a key that is not given.
    pub fn open_private(state: &StateConfig, privacy: &Privacy, now: UnixMillis) -> Result<Opened, LedgerError> {
        let time = TimeOfDay::from(now);
        let mut state_dir = StateDir::enter(state)?;
        let (engine, writer_state, rebuilt) = state_dir.open(now)?;
        let (engine, writer_state) = rekey::make_private(&mut state_dir, engine, writer_state, privacy)?;
        Ok(Opened { ledger: Self::begin(state_dir, engine, writer_state, state, privacy.clone(), time)?, rebuilt })
    }

    /// Opens a ledger that exists, as it is: makes none, repairs none and replaces none. For commands on the state of a
    /// stopped exporter.
    ///
    /// # Errors
    /// There is no ledger, it is in use, or it is damaged.
    pub fn open_existing(state: &StateConfig, privacy: &Privacy, now: UnixMillis) -> Result<Self, LedgerError> {
        let time = TimeOfDay::from(now);
        let state_dir = StateDir::enter_existing(state)?;
        let (engine, writer_state) = state_dir.open_existing()?;
        Self::begin(state_dir, engine, writer_state, state, privacy.clone(), time)
    }

    fn begin(
        state_dir: StateDir,
        engine: Engine,
        mut writer_state: WriterState,
        state: &StateConfig,
        privacy: Privacy,
        time: TimeOfDay,
    ) -> Result<Self, LedgerError> {
        let published = writer_state.publish(engine.reader())?;
        let shared = Arc::new(WriterShared {
            access: RwLock::new(StoreAccess::Open(engine.reader().clone())),
            published: watch::Sender::new(published),
            writing: Mutex::default(),
            changes: watch::Sender::default(),
        });
        let (messages, waiting) = mpsc::channel(WAITING_MAX);
        let instance_id = writer_state.instance_id.clone();
        let writer = Writer::new(state_dir, shared.clone(), waiting, time);
        let thread = thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run(engine, writer_state))
            .map_err(|error| LedgerError::Storage(format!("cannot start the writer's thread: {error}")))?;
        Ok(Self(Arc::new(Handle {
            instance_id,
            privacy,
            quarantine_limit_bytes: state.quarantine_limit_bytes,
            shared,
            messages,
            writer: thread.thread().clone(),
        })))
    }

    /// Makes the state directory if it is not there, and checks that no other user could have put files in it.
    ///
    /// # Errors
    /// Another user could have; or the directory cannot be made or read. Each error says what to do.
    pub fn look_at_directory(state: &StateConfig) -> Result<(), LedgerError> {
        StateDir::look(state).map(|_custody| ())
    }

    /// Returns whether there is a ledger to open.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn exists(state: &StateConfig) -> Result<bool, LedgerError> {
        StateDir::is_inhabited(state)
    }

    /// Returns what the ledger may store of users.
    pub fn privacy(&self) -> &Privacy {
        &self.0.privacy
    }

    /// Returns the UUID that was made with the ledger.
    pub fn instance_id(&self) -> &str {
        &self.0.instance_id
    }

    /// Returns the store's bytes on the disk; 0 while they cannot be counted.
    pub fn size_bytes(&self) -> u64 {
        self.reading(Reader::size_bytes).unwrap_or(0)
    }

    /// Returns why the ledger cannot be used at present: it is being opened again, or its disk does not answer. Returns
    /// None while it works.
    pub fn failure(&self) -> Option<String> {
        self.fault().map(|error| error.to_string())
    }

    fn fault(&self) -> Option<LedgerError> {
        match &*self.access() {
            StoreAccess::Open(_) => self.0.shared.overdue(),
            StoreAccess::Failed(error) => Some(error.clone()),
            StoreAccess::Closed => None,
        }
    }

    /// Waits until all earlier requests are done, and closes the ledger for every handle. The state can be opened again
    /// when this returns.
    pub async fn close(self) {
        let (reply, closed) = oneshot::channel();
        if self.0.messages.send(WriterMessage::Close(reply)).await.is_ok() {
            self.0.writer.unpark();
            // An error means that another handle closed it first, and that the writer has ended.
            let _ = closed.await;
        }
    }

    /// Reads the store. The engine stays open until `read` returns.
    fn reading<T>(&self, read: impl FnOnce(&Reader) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        match &*self.access() {
            StoreAccess::Open(reader) => read(reader),
            StoreAccess::Failed(error) => Err(error.clone()),
            StoreAccess::Closed => Err(LedgerError::Closed),
        }
    }

    fn access(&self) -> RwLockReadGuard<'_, StoreAccess> {
        // A panic while reading leaves nothing half changed.
        self.0.shared.access.read()
    }
}
