//! The ledger: everything that survives the process. Cursors, totals, outbox and quarantine lie in one tree of one store,
//! so that a page's cursor is written with what it accounts for in *one atomic write*.
//!
//! ```text
//!  commit, enroll, settle ... --> [bounded queue] --> writer thread --> one batch --> fsync --> everybody answered
//!  user, totals, read     <------------------------------------------ the store as it is, from any thread
//! ```
//!
//! An answer of Ok means: on the disk. What is read from the outbox is on the disk too, so nothing is ever delivered that
//! a power cut could take back. An error of a write means that nobody knows yet: read what is stored and go on from there.
//!
//! The store is sled, which nobody outside this module knows; its pitfalls are dealt with in `engine`. A disk that is full
//! for a while does not end the process: the writer opens the store again until it works ([`Ledger::failure`] says why it
//! waits). Only a store that is damaged beyond doubt is replaced at start, and kept beside the new one.
//!
//! To others it leaves: how full the outbox may be, when something is tried again, what a lost ledger means for the users.

mod custody;
mod engine;
mod envelope;
mod error;
mod keys;
mod names;
mod rekey;
mod state_dir;
mod stored_entry;
mod stored_user;
mod transfer;
mod writer;
mod writer_state;

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;

use cognito_auth_core::counters::Series;
use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::entry::OutboxId;
use cognito_auth_core::entry::{Entry, PoolIdentity};
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::privacy::Privacy;
use cognito_auth_core::schedule::ActivityEstimate;
use cognito_auth_core::shard::{Shard, Shares};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot, watch};

use self::engine::{Engine, Reader};
use self::envelope::{Count, Gone, LostSince, OtherName, Pool, Record as _, Share};
pub use self::error::LedgerError;
pub use self::names::RecordName;
pub use self::state_dir::Rebuilt;
use self::state_dir::StateDir;
use self::stored_entry::{StoredEntry, StoredRefusal};
use self::stored_user::StoredUser;
pub use self::transfer::Import;
use self::writer::{Access, BATCH_PLACES_MAX, Reply, Request, Shared, TimeOfDay, WAITING_MAX, Writer};
use self::writer_state::{WriteRequest, WriterState};
use crate::config::StateConfig;
use crate::delivery::{Outbox, Settlement, Unreadable, Waiting};

/// The durable state. A cheap handle; one process at a time has it open.
#[derive(Clone)]
pub struct Ledger(Arc<Handle>);

struct Handle {
    instance_id: String,
    privacy: Privacy,
    quarantine_limit_bytes: u64,
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    /// The writer, to be woken while it waits to open the store again.
    writer: thread::Thread,
}

/// A ledger, and what happened when it was opened.
pub struct Opened {
    /// The ledger.
    pub ledger: Ledger,
    /// Present if the one that was there was damaged and has been replaced.
    pub rebuilt: Option<Rebuilt>,
}

/// What is kept of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolRecord {
    /// When the pool was first followed, as far as is known: after a loss, when the lost ledger last wrote something.
    pub followed_since: UnixMillis,
    /// Present while the users are not yet enrolled whose records were lost, or whom other shards followed: events since then
    /// are live.
    pub lost_since: Option<UnixMillis>,
    /// Digest of the selection under which everybody was enrolled who is followed; None while that cannot be said.
    pub selection: Option<u64>,
    /// The shares of the pool's users that this ledger had.
    pub shares: Shares,
}

/// What the followed users knows of a user.
#[derive(Clone, PartialEq, Eq)]
pub struct Standing {
    /// The user's `sub`, where a listing gave it.
    pub sub: Option<String>,
    /// When the user joined.
    pub joined: UnixMillis,
    /// Since when the user is gone; None for one who is followed.
    pub gone_since: Option<UnixMillis>,
    /// How active the user was, if anything was learnt yet.
    pub activity: Option<ActivityAt>,
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Standing");
        shown.field("joined", &self.joined).field("gone_since", &self.gone_since).finish_non_exhaustive()
    }
}

/// Whose other name a name is.
#[derive(Clone, PartialEq, Eq)]
pub struct Twin {
    /// The name under which the user is followed, as the ledger has it.
    pub of: String,
    /// When both names showed the same history last.
    pub seen: UnixMillis,
}

impl std::fmt::Debug for Twin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Twin").field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// What is kept of a user.
#[derive(Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// When the user was first among the followed users.
    pub joined: UnixMillis,
    /// The user's `sub`, where a listing gave it.
    pub sub: Option<String>,
    /// What is known of the user's history.
    pub cursor: Cursor,
    /// How active the user was when the cursor was written, if anything was learnt yet.
    pub activity: Option<ActivityAt>,
}

impl std::fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserRecord").field("joined", &self.joined).field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

/// A user's activity as it was at a moment, in its stored form. It is written with pages that are written anyway, those that
/// brought something: what a poll finds nothing in tells nothing but silence, and [`ActivityAt::aged`] knows of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActivityAt {
    bytes: [u8; ActivityEstimate::STORED],
    at: UnixMillis,
}

impl ActivityAt {
    /// A activity at a moment.
    pub fn new(activity: ActivityEstimate, at: UnixMillis) -> Self {
        Self { bytes: activity.to_bytes(), at }
    }

    /// The activity at `now`, if nothing has happened since.
    pub fn aged(&self, now: UnixMillis) -> ActivityEstimate {
        ActivityEstimate::from_bytes(self.bytes).aged(now.since(self.at))
    }
}

/// One atomic write: a page's cursor with what it accounts for.
#[derive(Clone)]
pub struct Commit {
    /// The user's pool.
    pub pool: Arc<PoolIdentity>,
    /// The user.
    pub username: String,
    /// The user's record with the next cursor.
    pub record: UserRecord,
    /// By how much the pool's totals grow.
    pub totals: Vec<(Series, u64)>,
    /// What goes to the outbox.
    pub entries: Vec<Entry>,
}

/// How much waits for delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OutboxState {
    /// Entries.
    pub records: u64,
    /// Their bytes as stored, keys included.
    pub bytes: u64,
    /// When the first of them was observed.
    pub oldest: Option<UnixMillis>,
}

/// What was put aside: an entry that a receiver refused for good, or one that is damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// The entry.
    pub entry: Result<Entry, Unreadable>,
    /// Why and when it was put aside; None if not even that can be read.
    pub refusal: Option<Refusal>,
}

/// Why and when an entry was put aside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What the receiver said, or what is wrong with the entry.
    pub reason: String,
    /// When.
    pub at: UnixMillis,
}

impl Ledger {
    /// Bytes of entries that one reading of the outbox or the quarantine gives at most, but always one entry: a batch for
    /// the receiver is smaller.
    pub const READ_BYTES_MAX: usize = 8 << 20;

    /// Opens the ledger in `<state.path>/ledger`, making what is not there, and reads its writer_state. Blocks. `now` is the time
    /// of day, on which the ledger's own times are based.
    ///
    /// # Errors
    /// Nothing has been changed when this fails; each error says what to do.
    pub fn open(state: &StateConfig, now: UnixMillis) -> Result<Opened, LedgerError> {
        Self::open_private(state, &Privacy::default(), now)
    }

    /// [`Ledger::open`] for a ledger that stores what `privacy` allows; made private anew if it is not.
    ///
    /// # Errors
    /// As `open`; or its users are known by hashes under a key that is not given.
    pub fn open_private(state: &StateConfig, privacy: &Privacy, now: UnixMillis) -> Result<Opened, LedgerError> {
        let time = TimeOfDay::from(now);
        let mut state_dir = StateDir::enter(state)?;
        let (engine, writer_state, rebuilt) = state_dir.open(now)?;
        let (engine, writer_state) = rekey::make_private(&mut state_dir, engine, writer_state, privacy)?;
        Ok(Opened { ledger: Self::begin(state_dir, engine, writer_state, state, privacy.clone(), time)?, rebuilt })
    }

    /// Opens the ledger that is there, as it is: makes none, and repairs or replaces nothing. For whoever looks at the
    /// state of an exporter that is stopped.
    ///
    /// # Errors
    /// There is none, it is in use, or it is damaged.
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
        let shared = Arc::new(Shared {
            access: RwLock::new(Access::Open(engine.reader().clone())),
            published: watch::Sender::new(published),
            writing: Mutex::default(),
            changes: watch::Sender::default(),
        });
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
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
            requests,
            writer: thread.thread().clone(),
        })))
    }

    /// Makes the state directory if it is not there, and makes sure that nobody else could have put anything in it.
    ///
    /// # Errors
    /// Somebody could; or it cannot be made or looked at. Each error says what to do.
    pub fn look_at_directory(state: &StateConfig) -> Result<(), LedgerError> {
        StateDir::look(state).map(|_custody| ())
    }

    /// Whether there is a ledger to be opened.
    ///
    /// # Errors
    /// That cannot be found out.
    pub fn exists(state: &StateConfig) -> Result<bool, LedgerError> {
        StateDir::is_inhabited(state)
    }

    /// What it may store of users.
    pub fn privacy(&self) -> &Privacy {
        &self.0.privacy
    }

    /// Where a user lies, by its name or by the ledger's name for it.
    fn user_key(&self, pool_id: &str, username: &str) -> Vec<u8> {
        keys::user(pool_id, &self.0.privacy.ledger_name(username))
    }

    /// A record as it may be stored.
    fn private(&self, mut record: UserRecord) -> UserRecord {
        record.sub = record.sub.map(|sub| self.0.privacy.ledger_name(&sub));
        record
    }

    /// Lets a user go on who is known under other modes or another key, in one atomic write. `sub` is what a listing says: one
    /// that is stored and is another stays, so that another person is noticed.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed; or the record cannot be read.
    pub async fn recognise(&self, pool_id: &str, username: &str, sub: Option<&str>) -> Result<(), LedgerError> {
        let privacy = &self.0.privacy;
        let former_names = privacy.former_names(username);
        let key = self.user_key(pool_id, username);
        if former_names.is_empty() || self.reading(|reader| reader.get(&key))?.is_some() {
            return Ok(());
        }
        for name in former_names {
            let from = keys::user(pool_id, &name);
            let Some(stored) = self.reading(|reader| reader.get(&from))? else { continue };
            let mut record = UserRecord::try_from(StoredUser::open(&stored)?)?;
            if let (Some(stored), Some(sub)) = (&record.sub, sub)
                && privacy.is_name_of(stored, sub)
            {
                record.sub = Some(privacy.ledger_name(sub));
            }
            return self.ask(WriteRequest::Rename { from, to: (key, record) }).await;
        }
        Ok(())
    }

    /// The UUID that was made when the ledger was.
    pub fn instance_id(&self) -> &str {
        &self.0.instance_id
    }

    /// A pool, if it has been followed before.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn pool(&self, pool_id: &str) -> Result<Option<PoolRecord>, LedgerError> {
        let stored = self.reading(|reader| reader.get(&keys::pool(pool_id)))?;
        let record = |bytes: Vec<u8>| {
            let Pool { followed_since, lost_since, selection, shares } = Pool::open(&bytes)?;
            let (followed_since, lost_since) = (UnixMillis(followed_since), lost_since.map(UnixMillis));
            let share = |Share { index, count, since }| Some((Shard::new(index, count)?, UnixMillis(since)));
            let shares: Option<Vec<_>> = shares.into_iter().map(share).collect();
            let shares = shares.ok_or_else(|| LedgerError::corrupt(Pool::WHAT, "a share that cannot be"))?;
            let shares = Shares::remembered(shares).unwrap_or_else(|| Shares::begun(Shard::WHOLE, followed_since));
            Ok(PoolRecord { followed_since, lost_since, selection, shares })
        };
        stored.map(record).transpose()
    }

    /// The pools that have a record, in order.
    ///
    /// # Errors
    /// The ledger has failed or is closed.
    pub fn pools(&self) -> Result<Vec<String>, LedgerError> {
        let keys = self.reading(|reader| reader.keys(keys::pools(), usize::MAX))?;
        Ok(keys.iter().filter_map(|key| String::from_utf8(key.get(2..)?.to_vec()).ok()).collect())
    }

    /// When the ledger that was here before last wrote something, if this one was begun in its place and not every pool
    /// is followed again.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn lost_since(&self) -> Result<Option<UnixMillis>, LedgerError> {
        let stored = self.reading(|reader| reader.get(keys::LOST_SINCE))?;
        stored.map(|bytes| Ok(UnixMillis(LostSince::open(&bytes)?.time))).transpose()
    }

    /// A pool's totals, but for series that only another build knows.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or a record cannot be read.
    pub fn totals(&self, pool_id: &str) -> Result<Vec<(Series, u64)>, LedgerError> {
        let range = keys::totals(Some(pool_id));
        let skipped = range.start.len();
        let mut totals = Vec::new();
        self.reading(|reader| {
            reader.each(range, |key, value| {
                let series = key.get(skipped..).and_then(|key| std::str::from_utf8(key).ok());
                if let Some(series) = series.and_then(Series::from_key) {
                    totals.push((series, Count::open(value)?.value));
                }
                Ok(())
            })
        })?;
        Ok(totals)
    }

    /// A user.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn user(&self, pool_id: &str, username: &str) -> Result<Option<UserRecord>, LedgerError> {
        let stored = self.reading(|reader| reader.get(&self.user_key(pool_id, username)))?;
        stored.map(|bytes| StoredUser::open(&bytes)?.try_into()).transpose()
    }

    /// What the followed users knows of a user; the cursor is not read.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn standing(&self, pool_id: &str, username: &str) -> Result<Option<Standing>, LedgerError> {
        let key = self.user_key(pool_id, username);
        let Some(user) = self.reading(|reader| reader.get(&key))? else { return Ok(None) };
        let gone = self.reading(|reader| reader.get(&keys::gone(&key)))?;
        let standing = StoredUser::standing(&user)?;
        let gone = gone.map(|gone| Gone::open(&gone)).transpose()?;
        Ok(Some(Standing { gone_since: gone.map(|gone| UnixMillis(gone.since)), ..standing }))
    }

    /// Whose other name a name is, if it is not followed for that reason.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn twin(&self, pool_id: &str, username: &str) -> Result<Option<Twin>, LedgerError> {
        let note = self.reading(|reader| reader.get(&keys::other_name(&self.user_key(pool_id, username))))?;
        let twin =
            |note: Vec<u8>| OtherName::open(&note).map(|OtherName { of, seen }| Twin { of, seen: UnixMillis(seen) });
        note.map(twin).transpose()
    }

    /// Everybody of whom a pool has a record, by the ledger's name for them, in order, also those who are gone; read a few at a time, each as it is then.
    pub fn usernames(&self, pool_id: &str) -> impl Iterator<Item = Result<String, LedgerError>> + use<> {
        Usernames::within(self, keys::users(pool_id))
    }

    /// Who is followed: [`Ledger::usernames`] without those who are gone.
    pub fn followed(&self, pool_id: &str) -> impl Iterator<Item = Result<String, LedgerError>> + use<> {
        let users = Usernames::within(self, keys::users(pool_id));
        let mut gone = Usernames::within(self, keys::gone_users(pool_id)).peekable();
        users.filter(move |user| {
            let Ok(user) = user else { return true };
            // Both are in order. Who cannot be read here is found gone by the next round.
            while gone.next_if(|gone| gone.as_ref().is_ok_and(|gone| gone < user)).is_some() {}
            gone.next_if(|gone| gone.as_ref() == Ok(user)).is_none()
        })
    }

    /// Who is gone and not forgotten, and since when, in order.
    pub fn gone(&self, pool_id: &str) -> impl Iterator<Item = Result<(String, UnixMillis), LedgerError>> + use<> {
        let (ledger, pool_id) = (self.clone(), pool_id.to_owned());
        Usernames::within(self, keys::gone_users(&pool_id)).filter_map(move |username| {
            let since = |username: String| {
                let gone = ledger.reading(|reader| reader.get(&keys::gone(&keys::user(&pool_id, &username))))?;
                gone.map(|gone| Ok((username, UnixMillis(Gone::open(&gone)?.since)))).transpose()
            };
            username.and_then(since).transpose()
        })
    }

    /// Writes since when a pool is followed.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn follow_pool(&self, pool_id: &str, record: PoolRecord) -> Result<(), LedgerError> {
        let lost_since = record.lost_since.map(|time| time.0);
        let share =
            |(shard, since): &(Shard, UnixMillis)| Share { index: shard.index(), count: shard.count(), since: since.0 };
        let shares = record.shares.as_slice().iter().map(share).collect();
        let stored = Pool { followed_since: record.followed_since.0, lost_since, selection: record.selection, shares };
        self.ask(WriteRequest::Put(vec![(keys::pool(pool_id), Some(stored.seal()))])).await
    }

    /// Forgets what [`Ledger::lost_since`] tells: every pool has it in its own record.
    ///
    /// # Errors
    /// It may still be there: the ledger has failed or is closed.
    pub async fn forget_loss(&self) -> Result<(), LedgerError> {
        self.ask(WriteRequest::Put(vec![(keys::LOST_SINCE.to_vec(), None)])).await
    }

    /// Has the totals shown: all of them now, a pool's whenever some of them have grown and are on the disk, and all again
    /// when the store was opened anew, since a write that failed may have been done. `show` is told of absolute values, from
    /// the writer's thread.
    ///
    /// # Errors
    /// The ledger is closed.
    pub async fn show_totals(&self, show: impl Fn(&str, &[(Series, u64)]) + Send + 'static) -> Result<(), LedgerError> {
        self.request(|reply| Request::Show(Box::new(show), reply)).await
    }

    /// Puts users among the followed users, also those who were gone. One who is there already and has the same time of joining keeps
    /// the stored cursor, which may be newer than the one given here; so this may run beside the user's own commits.
    ///
    /// # Errors
    /// Some may not have been written: the ledger has failed or is closed.
    pub async fn enroll(&self, pool_id: &str, users: Vec<(String, UserRecord)>) -> Result<(), LedgerError> {
        let mut users =
            users.into_iter().map(|(username, record)| (self.user_key(pool_id, &username), self.private(record)));
        loop {
            let part: Vec<_> = users.by_ref().take(BATCH_PLACES_MAX).collect();
            if part.is_empty() {
                return Ok(());
            }
            self.ask(WriteRequest::Enroll(part)).await?;
        }
    }

    /// Gives a user's name to another person, whose history began at `since`: the record is a new one, but for what was taken
    /// of that history already. Pages that are under way for the former one are refused.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn replace_user(
        &self,
        pool_id: &str,
        username: &str,
        record: UserRecord,
        since: UnixMillis,
    ) -> Result<(), LedgerError> {
        let user = (self.user_key(pool_id, username), Box::new(self.private(record)));
        self.ask(WriteRequest::ReplaceUser { user, since }).await
    }

    /// Lets a user go on under another name, with what is known of it under both, in one atomic write. `record` is what the
    /// other name gets that has none; nothing happens if there is nobody of the first name.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn merge_user(&self, pool_id: &str, from: &str, to: &str, record: UserRecord) -> Result<(), LedgerError> {
        let (from, to) = (self.user_key(pool_id, from), self.user_key(pool_id, to));
        self.ask(WriteRequest::MergeUser { from, to: (to, Box::new(self.private(record))) }).await
    }

    /// Has two names of one user followed under one of them, in one atomic write: the one that has been followed for longer, or
    /// else `first`. `seen` is when both showed the same event. If `first` is gone, the user goes on under `name`, with what is
    /// known of it.
    ///
    /// # Errors
    /// `NotEnrolled`: nothing was written, because `name` is not followed or there is no `first`. Else it may not have been written: the ledger
    /// has failed or is closed.
    pub async fn merge(&self, pool_id: &str, name: &str, first: &str, seen: UnixMillis) -> Result<(), LedgerError> {
        let keys = [name, first].map(|name| self.user_key(pool_id, name));
        self.ask(WriteRequest::Merge { keys, seen }).await
    }

    /// Notes that two names still are one user's, if it is noted that they were.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn still_merged(&self, pool_id: &str, name: &str, twin: Twin) -> Result<(), LedgerError> {
        let (user, of) = (self.user_key(pool_id, name), self.0.privacy.ledger_name(&twin.of));
        self.ask(WriteRequest::StillMerged { user, of, seen: twin.seen }).await
    }

    /// Has a name followed again that was another name of `of`. While that one is followed, it is another user's name now, whose
    /// events are live since both were last seen to be one. Else the user goes on under it, with what is known of it.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn part(&self, pool_id: &str, name: &str, of: &str) -> Result<(), LedgerError> {
        let (user, of) = (self.user_key(pool_id, name), self.user_key(pool_id, of));
        self.ask(WriteRequest::Part { user, of }).await
    }

    /// Notes that users are gone; their records stay until they are forgotten.
    ///
    /// # Errors
    /// Of some it may not have been noted: the ledger has failed or is closed.
    pub async fn mark_gone(&self, pool_id: &str, usernames: &[String], since: UnixMillis) -> Result<(), LedgerError> {
        for part in usernames.chunks(BATCH_PLACES_MAX) {
            let gone = || Some(Gone { since: since.0 }.seal());
            let marks = part.iter().map(|username| (keys::gone(&self.user_key(pool_id, username)), gone()));
            self.ask(WriteRequest::Put(marks.collect())).await?;
        }
        Ok(())
    }

    /// Removes users and their cursors; the totals stay.
    ///
    /// # Errors
    /// Some may still be there: the ledger has failed or is closed.
    pub async fn forget(&self, pool_id: &str, usernames: Vec<String>) -> Result<(), LedgerError> {
        // Few have a note as another name.
        for part in usernames.chunks(BATCH_PLACES_MAX / 2) {
            let users = part.iter().map(|username| self.user_key(pool_id, username));
            let removed =
                users.flat_map(|user| [(keys::gone(&user), None), (keys::other_name(&user), None), (user, None)]);
            self.ask(WriteRequest::Put(removed.collect())).await?;
        }
        Ok(())
    }

    /// Removes a pool's record and totals, in one atomic write. Its users are forgotten before, its entries stay.
    ///
    /// # Errors
    /// They may still be there: the ledger has failed or is closed.
    pub async fn forget_pool(&self, pool_id: &str) -> Result<(), LedgerError> {
        self.ask(WriteRequest::ForgetPool(pool_id.to_owned())).await
    }

    /// Has what was taken of users' histories from `from` on logged again, and not counted again. Asked once more it changes
    /// nothing. Those of whom nothing is known are passed over.
    ///
    /// # Errors
    /// One of them cannot be read, or the ledger has failed or is closed. Those before it may be rewound.
    pub async fn rewind(&self, pool_id: &str, usernames: &[String], from: UnixMillis) -> Result<(), LedgerError> {
        for part in usernames.chunks(BATCH_PLACES_MAX) {
            let users = part.iter().map(|username| self.user_key(pool_id, username)).collect();
            self.ask(WriteRequest::Rewind { users, from }).await?;
        }
        Ok(())
    }

    /// Writes a page: all of it is on the disk when this answers Ok.
    ///
    /// # Errors
    /// `NotEnrolled`: nothing was written, because the record is not of the one who is enrolled (who joined at another time,
    /// or is nobody). Else all of it or nothing may have been written: the ledger has failed or is closed. Read the user
    /// again.
    pub async fn commit(&self, commit: Commit) -> Result<(), LedgerError> {
        let pool_id = &commit.pool.id;
        let private = |entry| StoredEntry::from(self.0.privacy.apply(entry)).seal();
        let increments =
            commit.totals.iter().map(|(series, increment)| (keys::total(pool_id, &series.to_key()), *increment));
        self.ask(WriteRequest::Commit {
            user: (self.user_key(pool_id, &commit.username), StoredUser::from(&commit.record).seal()),
            joined: commit.record.joined,
            increments: increments.collect(),
            // Nothing personal that may not be stored comes further than here.
            entries: commit.entries.into_iter().map(private).collect(),
        })
        .await
    }

    /// Up to `limit` entries of the quarantine behind `after` (None: from the first), in order.
    ///
    /// # Errors
    /// The ledger has failed or is closed.
    pub fn read_quarantine(
        &self,
        after: Option<OutboxId>,
        limit: usize,
    ) -> Result<Vec<(OutboxId, Quarantined)>, LedgerError> {
        let first = after.map_or(0, |after| after.0.saturating_add(1));
        let values = self.numbered(keys::quarantine_from(first), limit)?;
        values
            .into_iter()
            .map(|(id, value)| {
                let quarantined = match StoredRefusal::examine(&value)? {
                    Ok(StoredRefusal { reason, at, value }) => Quarantined {
                        entry: StoredEntry::examine(&value)?.map(Entry::from),
                        refusal: Some(Refusal { reason, at: UnixMillis(at) }),
                    },
                    Err(unreadable) => Quarantined { entry: Err(unreadable), refusal: None },
                };
                Ok((id, quarantined))
            })
            .collect()
    }

    /// Puts entries of the quarantine back into the outbox, behind what waits there and under new numbers. Those that are
    /// not in quarantine (any more) are passed over. At any moment each is in exactly one of the two places.
    ///
    /// # Errors
    /// One of them cannot be read, or the ledger has failed or is closed. Those before it may be back in the outbox.
    pub async fn retry(&self, ids: &[OutboxId]) -> Result<(), LedgerError> {
        for part in ids.chunks(BATCH_PLACES_MAX / 2) {
            self.ask(WriteRequest::Retry(part.to_vec())).await?;
        }
        Ok(())
    }

    /// Forgets entries of the quarantine. Those that are not there (any more) are passed over.
    ///
    /// # Errors
    /// Some may still be there: the ledger has failed or is closed.
    pub async fn drop_quarantined(&self, ids: &[OutboxId]) -> Result<(), LedgerError> {
        for part in ids.chunks(BATCH_PLACES_MAX) {
            self.ask(WriteRequest::Drop(part.to_vec())).await?;
        }
        Ok(())
    }

    /// How much waits for delivery, as far as it is durable.
    pub fn outbox_state(&self) -> OutboxState {
        self.0.shared.published.borrow().outbox
    }

    /// How many entries are in quarantine, and their bytes as stored.
    pub fn quarantine_state(&self) -> (u64, u64) {
        let size = self.0.shared.published.borrow().quarantine;
        (size.records, size.bytes)
    }

    /// Bytes on the disk; 0 while they cannot be counted.
    pub fn size_bytes(&self) -> u64 {
        self.reading(Reader::size_bytes).unwrap_or(0)
    }

    /// Why the ledger cannot be used at present: it is being opened again, or its disk does not answer. None while all is
    /// well.
    pub fn failure(&self) -> Option<String> {
        self.fault().map(|error| error.to_string())
    }

    fn fault(&self) -> Option<LedgerError> {
        match &*self.access() {
            Access::Failed(error) => Some(error.clone()),
            Access::Open(_) => self.0.shared.overdue(),
            Access::Closed => None,
        }
    }

    /// Waits until everything asked before is done, and closes the ledger for every handle. Another one can be opened when
    /// this returns.
    pub async fn close(self) {
        let (reply, closed) = oneshot::channel();
        if self.0.requests.send(Request::Close(reply)).await.is_ok() {
            self.0.writer.unpark();
            // An error means that somebody else closed it first, and that the writer has ended.
            let _ = closed.await;
        }
    }

    async fn ask(&self, work: WriteRequest) -> Result<(), LedgerError> {
        if let Some(error) = self.fault() {
            return Err(error);
        }
        self.request(|reply| Request::Write(Box::new(work), reply)).await
    }

    async fn request(&self, request: impl FnOnce(Reply) -> Request) -> Result<(), LedgerError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.0.requests.send(request(reply)).await;
        sent.map_err(|_| LedgerError::Closed)?;
        self.0.writer.unpark();
        // A writer that ends before its turn drops the question.
        answer.await.unwrap_or(Err(LedgerError::Closed))
    }

    fn reading<T>(&self, read: impl FnOnce(&Reader) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        match &*self.access() {
            Access::Open(reader) => read(reader),
            Access::Failed(error) => Err(error.clone()),
            Access::Closed => Err(LedgerError::Closed),
        }
    }

    fn access(&self) -> parking_lot::RwLockReadGuard<'_, Access> {
        self.0.shared.access.read()
    }

    /// Values under numbers, as many as the limits allow.
    fn numbered(&self, range: std::ops::Range<Vec<u8>>, limit: usize) -> Result<Vec<(OutboxId, Vec<u8>)>, LedgerError> {
        let mut bytes = 0;
        let mut values = Vec::new();
        self.reading(|reader| {
            reader.each_while(range, |key, value| {
                bytes += value.len();
                if values.len() >= limit || (bytes > Self::READ_BYTES_MAX && !values.is_empty()) {
                    return Ok(false);
                }
                values.extend(keys::sequence_of(key).map(|number| (OutboxId(number), value.to_vec())));
                Ok(true)
            })
        })?;
        Ok(values)
    }
}

/// Reads a pool's usernames a few at a time, so that no reader holds the store for long.
struct Usernames {
    ledger: Ledger,
    /// Bytes of a key in front of the username.
    skipped: usize,
    left: Option<std::ops::Range<Vec<u8>>>,
    read: VecDeque<Vec<u8>>,
}

impl Usernames {
    /// Names of one reading.
    const AT_ONCE: usize = 512;

    /// The names behind the pool in a range of keys that begins in front of the first.
    fn within(ledger: &Ledger, range: std::ops::Range<Vec<u8>>) -> Self {
        Self { ledger: ledger.clone(), skipped: range.start.len(), left: Some(range), read: VecDeque::new() }
    }

    fn read_on(&mut self) -> Result<(), LedgerError> {
        let Some(range) = self.left.take() else { return Ok(()) };
        let end = range.end.clone();
        self.read = self.ledger.reading(|reader| reader.keys(range, Self::AT_ONCE))?.into();
        if self.read.len() == Self::AT_ONCE
            && let Some(last) = self.read.back()
        {
            // The smallest key behind the last one.
            self.left = Some([last.as_slice(), &[0]].concat()..end);
        }
        Ok(())
    }
}

impl Iterator for Usernames {
    type Item = Result<String, LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read.is_empty()
            && let Err(error) = self.read_on()
        {
            return Some(Err(error));
        }
        let key = self.read.pop_front()?;
        let username = String::from_utf8(key.get(self.skipped..).unwrap_or_default().to_vec());
        Some(username.map_err(|_| LedgerError::corrupt(StoredUser::WHAT, "a username is not UTF-8")))
    }
}

impl Outbox for Ledger {
    type Error = LedgerError;

    fn read(&self, after: Option<OutboxId>, limit: usize) -> Result<Vec<Waiting>, LedgerError> {
        let first = after.map_or(0, |after| after.0.saturating_add(1));
        let end = self.0.shared.published.borrow().end;
        let mut entries: Vec<Waiting> = Vec::new();
        for (id, value) in self.numbered(keys::outbox_between(first, end), limit)? {
            let mut entry = StoredEntry::examine(&value)?.map(Entry::from);
            // Most neighbours are of one pool.
            if let (Some((_, Ok(before))), Ok(entry)) = (entries.last(), &mut entry)
                && before.pool == entry.pool
            {
                entry.pool = before.pool.clone();
            }
            entries.push((id, entry));
        }
        Ok(entries)
    }

    async fn settle(&self, settlement: Settlement) -> Result<(), LedgerError> {
        self.ask(WriteRequest::Settle(settlement)).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.shared.changes.subscribe()
    }

    fn quarantine_full(&self) -> bool {
        self.quarantine_state().1 >= self.0.quarantine_limit_bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::envelope::{Format, Instance, Record};
    use super::stored_entry::tests::{AT, REASON, known_entry, refusal_of_version_1};
    use super::*;
    use crate::metrics::Metrics;

    const NOW: UnixMillis = UnixMillis(1_795_523_756_000);
    const POOL: &str = "eu-west-1_Test";

    fn state(directory: &TempDir) -> StateConfig {
        StateConfig {
            path: directory.path().to_owned(),
            cache_bytes: 16 << 20,
            outbox_limit_bytes: 1 << 30,
            quarantine_limit_bytes: 100 << 20,
        }
    }

    fn open(directory: &TempDir) -> Ledger {
        let opened = Ledger::open(&state(directory), NOW).unwrap();
        assert_eq!(opened.rebuilt, None);
        opened.ledger
    }

    /// A ledger in which ann is enrolled.
    async fn with_ann(directory: &TempDir) -> Ledger {
        let ledger = open(directory);
        ledger.enroll(POOL, vec![("ann".into(), page(0).record)]).await.unwrap();
        ledger
    }

    /// Has the next write fail, before or after it was done.
    fn fail_next_write(directory: &TempDir, when: &str) {
        std::fs::write(directory.path().join("ledger/fail-next-write"), when).unwrap();
    }

    fn until_it_is_open_again(ledger: &Ledger) {
        // The writer opens the store again by itself, a second later.
        while ledger.failure().is_some() {
            thread::park_timeout(std::time::Duration::from_millis(10));
        }
    }

    fn page(number: i64) -> Commit {
        Commit {
            pool: Arc::new(PoolIdentity {
                id: POOL.into(),
                name: POOL.into(),
                region: "eu-west-1".into(),
                account_id: None,
            }),
            username: "ann".into(),
            record: UserRecord { joined: NOW, sub: None, cursor: Cursor::new(UnixMillis(number), NOW), activity: None },
            totals: vec![(Series::History, 1)],
            entries: vec![],
        }
    }

    /// Writes to the store behind the ledger's back.
    fn tamper(directory: &TempDir, key: &[u8], value: Vec<u8>) {
        let state_dir = StateDir::enter(&state(directory)).unwrap();
        let (mut engine, _) = state_dir.reopen(0).unwrap();
        engine.write(vec![(key.to_vec(), Some(value))]).unwrap();
    }

    #[expect(clippy::needless_pass_by_value, reason = "it takes the place of what it is given")]
    fn newer(record: Vec<u8>) -> Vec<u8> {
        envelope::in_version(record[0] + 1, &record)
    }

    #[tokio::test]
    async fn a_failed_write_is_told_and_cured_and_the_writer_state_are_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = with_ann(&directory).await;
        ledger.commit(page(1)).await.unwrap();
        fail_next_write(&directory, "before it");
        let failed = ledger.commit(page(2)).await.unwrap_err();
        assert!(matches!(failed, LedgerError::Storage(_)), "{failed}");
        assert!(ledger.failure().is_some());
        assert!(matches!(ledger.user(POOL, "ann"), Err(LedgerError::Storage(_))));
        assert!(matches!(ledger.commit(page(2)).await, Err(LedgerError::Storage(_))));

        until_it_is_open_again(&ledger);
        assert_eq!(ledger.user(POOL, "ann").unwrap(), Some(page(1).record));
        assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, 1)]));
        ledger.commit(page(2)).await.unwrap();
        assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, 2)]));
        ledger.close().await;
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_is_a_failure_until_it_does() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = with_ann(&directory).await;
        let before = std::time::Instant::now().checked_sub(writer::WRITE_MAX).unwrap();
        ledger.0.shared.set_writing(Some(before));
        let refused = ledger.commit(page(1)).await.unwrap_err();
        assert_eq!(refused.to_string(), "cannot use the ledger: a write has not ended for 30 s");
        assert_eq!(ledger.failure(), Some(refused.to_string()));
        assert_eq!(ledger.user(POOL, "ann"), Ok(Some(page(0).record)), "what is there can be read");
        ledger.0.shared.set_writing(None);
        ledger.commit(page(1)).await.unwrap();
        assert_eq!(ledger.failure(), None);
        ledger.close().await;
    }

    #[tokio::test]
    async fn a_ledger_that_has_failed_can_be_closed_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = with_ann(&directory).await;
        fail_next_write(&directory, "before it");
        ledger.commit(page(1)).await.unwrap_err();
        ledger.close().await;
        open(&directory).close().await;
    }

    #[tokio::test]
    async fn totals_shown_are_the_ledgers_also_after_a_failed_write_that_was_done() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = with_ann(&directory).await;
        ledger.commit(page(1)).await.unwrap();
        let metrics = Metrics::new(NOW);
        metrics.add_pool(&page(0).pool);
        let shown = metrics.clone();
        ledger.show_totals(move |pool_id, totals| shown.totals(pool_id, totals)).await.unwrap();
        let shows = |count: u64| {
            let series = format!("cognito_auth_history_events_total{{user_pool_id=\"{POOL}\"}} {count}\n");
            assert!(metrics.render().contains(&series), "{series}{}", metrics.render());
        };
        shows(1);
        ledger.commit(page(2)).await.unwrap();
        shows(2);
        // Of a write of which nobody knows nothing is shown, until it is known.
        for (when, held) in [("after it", 3), ("before it", 3), ("after it", 4)] {
            fail_next_write(&directory, when);
            ledger.commit(page(3)).await.unwrap_err();
            until_it_is_open_again(&ledger);
            assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, held)]), "{when}");
            shows(held);
        }
        // A turn that does not wait for its answer any more leaves nothing uncounted: it has asked, and is gone. (On a busy machine
        // it may have its answer by then.)
        tokio::select! {
            biased;
            answered = ledger.commit(page(4)) => answered.unwrap(),
            () = std::future::ready(()) => {}
        }
        ledger.commit(page(5)).await.unwrap();
        shows(6);
        ledger.close().await;
    }

    #[tokio::test]
    async fn what_a_newer_build_has_written_is_refused_and_left_as_it_is() {
        let format = Format { number: Format::NUMBER + 1 };
        let total = keys::total(POOL, &Series::History.to_key());
        let newer_entry = StoredRefusal { value: newer(Count { value: 1 }.seal()), ..StoredRefusal::default() };
        let newer_things = [
            (keys::quarantine(1), newer_entry.seal()),
            (keys::FORMAT.to_vec(), format.seal()),
            (total, newer(Count { value: 1 }.seal())),
            (keys::outbox(1), newer(Count { value: 1 }.seal())),
        ];
        for (key, value) in newer_things {
            let directory = tempfile::tempdir().unwrap();
            open(&directory).close().await;
            tamper(&directory, &key, value.clone());
            for _ in 0..2 {
                let refused = Ledger::open(&state(&directory), NOW).err().unwrap();
                let is_newer = matches!(refused, LedgerError::NewerVersion { found, known, .. } if found == known + 1);
                assert!(is_newer, "{refused}");
            }
            let store = engine::Engine::open(&directory.path().join("ledger"), 1 << 20).unwrap();
            assert_eq!(store.reader().get(&key), Ok(Some(value)));
        }
    }

    #[tokio::test]
    async fn a_user_of_a_newer_build_or_a_damaged_one_concerns_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = with_ann(&directory).await;
        ledger.commit(page(1)).await.unwrap();
        ledger.close().await;
        let sealed = StoredUser::from(&page(1).record).seal();
        tamper(&directory, &keys::user(POOL, "ben"), newer(sealed.clone()));
        tamper(&directory, &keys::user(POOL, "cy"), sealed[..9].to_vec());
        let ledger = open(&directory);
        assert_eq!(ledger.user(POOL, "ann"), Ok(Some(page(1).record)));
        assert!(matches!(ledger.user(POOL, "ben"), Err(LedgerError::NewerVersion { what: "a user", .. })));
        let damaged = ledger.user(POOL, "cy").unwrap_err();
        assert!(matches!(damaged, LedgerError::Corrupt { what: "a user", .. }));
        assert!(!damaged.to_string().contains("cy"), "{damaged}");
        ledger.close().await;
    }

    /// Every way in which an entry can be unreadable.
    fn damaged_values() -> Vec<Vec<u8>> {
        let sealed = StoredEntry::from(known_entry()).seal();
        let no_protobuf = [0xff; 9];
        let sealed_no_protobuf = [&[1], &crc32fast::hash(&no_protobuf).to_le_bytes()[..], &no_protobuf].concat();
        let mut of_version_0 = sealed.clone();
        of_version_0[0] = 0;
        vec![vec![], sealed[..sealed.len() - 1].to_vec(), vec![0xa5; 300], sealed_no_protobuf, of_version_0]
    }

    #[tokio::test]
    async fn damaged_entries_condemn_nothing_and_can_be_put_aside_as_they_are_and_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = with_ann(&directory).await;
        // A sound entry in front of each damaged one, and one behind the last.
        let damaged = damaged_values();
        let mut commit = page(1);
        commit.entries = vec![known_entry(); 2 * damaged.len() + 1];
        ledger.commit(commit).await.unwrap();
        ledger.close().await;
        for (number, value) in (0..).zip(&damaged) {
            tamper(&directory, &keys::outbox(2 * number + 1), value.clone());
        }

        let ledger = open(&directory);
        let waiting = ledger.read(None, 100).unwrap();
        let (sound, unreadable): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(id, _)| id.0 % 2 == 0);
        assert!(sound.iter().all(|(_, entry)| *entry == Ok(known_entry())));
        let aside = |(id, entry): &Waiting| (*id, entry.clone().unwrap_err().to_string());
        let quarantined: Vec<_> = unreadable.iter().map(aside).collect();
        assert_eq!((sound.len(), quarantined.len()), (damaged.len() + 1, damaged.len()));
        // The first is damaged from here on, and nothing stands still.
        ledger.settle(Settlement { delivered: vec![sound[0].0], quarantined: vec![] }).await.unwrap();
        assert_eq!(ledger.outbox_state().oldest, Some(known_entry().observed));
        let delivered = sound.iter().map(|(id, _)| *id).collect();
        ledger.settle(Settlement { delivered, quarantined: vec![] }).await.unwrap();
        assert_eq!((ledger.outbox_state().records, ledger.outbox_state().oldest), (damaged.len() as u64, None));
        ledger.settle(Settlement { delivered: vec![], quarantined: quarantined.clone() }).await.unwrap();
        assert_eq!(ledger.outbox_state(), OutboxState::default());
        let sizes = ledger.quarantine_state();
        ledger.close().await;

        let ledger = open(&directory);
        assert_eq!((ledger.outbox_state(), ledger.quarantine_state()), (OutboxState::default(), sizes));
        let listed = ledger.read_quarantine(None, 100).unwrap();
        assert_eq!(listed.len(), damaged.len());
        for ((id, found), (asked, reason)) in listed.iter().zip(&quarantined) {
            assert_eq!((id, &found.refusal.as_ref().unwrap().reason), (asked, reason));
            assert_eq!(&found.entry.as_ref().unwrap_err().to_string(), reason);
            let stored = ledger.reading(|reader| reader.get(&keys::quarantine(id.0))).unwrap().unwrap();
            assert_eq!(StoredRefusal::open(&stored).unwrap().value, damaged[usize::try_from(id.0 / 2).unwrap()]);
            assert!(matches!(ledger.retry(&[*id]).await, Err(LedgerError::Corrupt { .. })), "it would come back");
        }
        assert_eq!((ledger.outbox_state(), ledger.quarantine_state()), (OutboxState::default(), sizes));
        let ids: Vec<_> = listed.iter().map(|(id, _)| *id).collect();
        ledger.drop_quarantined(&ids).await.unwrap();
        assert_eq!(ledger.quarantine_state(), (0, 0));
        ledger.close().await;
    }

    #[tokio::test]
    async fn the_quarantine_of_an_older_build_is_read_retried_and_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        open(&directory).close().await;
        tamper(&directory, keys::SEQUENCE, Count { value: 8 }.seal());
        tamper(&directory, &keys::quarantine(7), refusal_of_version_1());
        // The record of a refusal can be damaged too.
        tamper(&directory, &keys::quarantine(6), vec![2, 0, 0, 0]);
        let ledger = open(&directory);
        let refusal = Some(Refusal { reason: REASON.into(), at: AT });
        let listed = ledger.read_quarantine(None, 10).unwrap();
        let damaged = Quarantined { entry: Err(Unreadable("it is cut short".into())), refusal: None };
        assert_eq!(listed[0], (OutboxId(6), damaged));
        assert_eq!(listed[1], (OutboxId(7), Quarantined { entry: Ok(known_entry()), refusal }));

        ledger.retry(&[OutboxId(7)]).await.unwrap();
        assert!(ledger.retry(&[OutboxId(6)]).await.is_err());
        ledger.drop_quarantined(&[OutboxId(6)]).await.unwrap();
        assert_eq!(ledger.quarantine_state(), (0, 0));
        assert_eq!(ledger.read(None, 10), Ok(vec![(OutboxId(8), Ok(known_entry()))]));
        ledger
            .settle(Settlement { delivered: vec![], quarantined: vec![(OutboxId(8), "again".into())] })
            .await
            .unwrap();
        let stored = ledger.reading(|reader| reader.get(&keys::quarantine(8))).unwrap().unwrap();
        assert_eq!(stored[0], StoredRefusal::VERSION);
        ledger.close().await;
    }

    #[tokio::test]
    async fn what_is_asked_for_twice_leaves_the_quarantine_once() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = with_ann(&directory).await;
        let mut commit = page(1);
        commit.entries = vec![known_entry(); 70];
        ledger.commit(commit).await.unwrap();
        let before = ledger.outbox_state();
        let ids: Vec<_> = (0..70).map(OutboxId).collect();
        let quarantined = ids.iter().map(|id| (*id, "bad".to_owned())).collect();
        ledger.settle(Settlement { delivered: vec![], quarantined }).await.unwrap();
        let twice: Vec<_> = ids.iter().chain(&ids).copied().collect();
        let (retried, again, dropped) =
            tokio::join!(ledger.retry(&twice), ledger.retry(&ids), ledger.drop_quarantined(&ids));
        retried.and(again).and(dropped).unwrap();
        // Which request came first is open, but each entry went one way, and the writer's state are right.
        assert_eq!(ledger.quarantine_state(), (0, 0));
        let waiting = ledger.read(None, 1000).unwrap();
        assert!(waiting.iter().all(|(id, _)| id.0 >= 70), "an id is never used again");
        assert!((1..=70).contains(&waiting.len()), "{}", waiting.len());
        let (records, bytes) = (ledger.outbox_state().records, ledger.outbox_state().bytes);
        assert_eq!(records, waiting.len() as u64);
        assert_eq!(bytes, before.bytes / 70 * records);
        ledger.close().await;
    }

    #[tokio::test]
    async fn what_is_there_is_opened_as_it_is_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let entries = || std::fs::read_dir(directory.path()).unwrap().count();
        let absent = LedgerError::Absent(directory.path().to_owned());
        assert_eq!(Ledger::open_existing(&state(&directory), &Privacy::default(), NOW).err(), Some(absent));
        assert_eq!(entries(), 0);

        let ledger = with_ann(&directory).await;
        ledger.commit(page(1)).await.unwrap();
        let locked = LedgerError::Locked(directory.path().to_owned());
        assert_eq!(Ledger::open_existing(&state(&directory), &Privacy::default(), NOW).err(), Some(locked));
        ledger.close().await;
        let ledger = Ledger::open_existing(&state(&directory), &Privacy::default(), NOW).unwrap();
        assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, 1)]));
        ledger.close().await;

        tamper(&directory, &keys::total(POOL, "history"), vec![1, 2, 3]);
        let before = entries();
        for _ in 0..2 {
            let damaged = Ledger::open_existing(&state(&directory), &Privacy::default(), NOW).err().unwrap();
            assert!(matches!(damaged, LedgerError::Corrupt { what: "a total", .. }), "{damaged}");
        }
        assert_eq!(entries(), before);
    }

    #[tokio::test]
    async fn a_damaged_total_is_damage_of_the_ledger() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = with_ann(&directory).await;
        ledger.commit(page(1)).await.unwrap();
        ledger.close().await;
        tamper(&directory, &keys::total(POOL, "history"), vec![1, 2, 3]);
        let opened = Ledger::open(&state(&directory), NOW).unwrap();
        assert!(opened.rebuilt.unwrap().problem.starts_with("a total"));
        opened.ledger.close().await;
    }

    /// What may happen to a stored record.
    #[derive(Clone, Debug)]
    enum Damage {
        Flip(Vec<(prop::sample::Index, u8)>),
        Cut(prop::sample::Index),
        Insert(prop::sample::Index, Vec<u8>),
        Replace(prop::sample::Index, Vec<u8>),
        Append(Vec<u8>),
    }

    impl Damage {
        fn any() -> impl Strategy<Value = Self> {
            let bytes = || vec(any::<u8>(), 1..20);
            prop_oneof![
                vec((any::<prop::sample::Index>(), any::<u8>()), 1..5).prop_map(Self::Flip),
                any::<prop::sample::Index>().prop_map(Self::Cut),
                (any::<prop::sample::Index>(), bytes()).prop_map(|(at, bytes)| Self::Insert(at, bytes)),
                (any::<prop::sample::Index>(), bytes()).prop_map(|(at, bytes)| Self::Replace(at, bytes)),
                bytes().prop_map(Self::Append),
            ]
        }

        fn done_to(&self, bytes: &[u8]) -> Vec<u8> {
            let mut bytes = bytes.to_vec();
            let len = bytes.len();
            if len == 0 {
                return bytes;
            }
            match self {
                Self::Flip(flips) => flips.iter().for_each(|(at, bits)| bytes[at.index(len)] ^= bits),
                Self::Cut(at) => bytes.truncate(at.index(len)),
                Self::Insert(at, more) => drop(bytes.splice(at.index(len)..at.index(len), more.iter().copied())),
                Self::Replace(at, other) => {
                    let at = at.index(len);
                    drop(bytes.splice(at..len.min(at + other.len()), other.iter().copied()));
                }
                Self::Append(more) => bytes.extend(more),
            }
            bytes
        }
    }

    /// Whatever is done to a record, it is refused, unless nothing was done.
    fn only_what_was_written<R: Record + PartialEq + std::fmt::Debug>(record: &R, damage: &[Damage], bytes: &[u8]) {
        let sealed = record.seal();
        assert_eq!(R::open(&sealed).as_ref(), Ok(record));
        let damaged = damage.iter().fold(sealed.clone(), |bytes, damage| damage.done_to(&bytes));
        assert!(damaged == sealed || R::open(&damaged).is_err(), "{damaged:?} passes for {sealed:?}");
        let _ = (R::open(bytes), StoredUser::standing(bytes), StoredUser::standing(&damaged));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn a_record_of_any_kind_is_what_was_written_or_refused(
            (number, time, text) in (any::<u64>(), any::<i64>(), ".{0,40}"),
            user in stored_user::tests::record(),
            entry in stored_entry::tests::any_entry(),
            damage in vec(Damage::any(), 1..3),
            bytes in vec(any::<u8>(), 0..64),
        ) {
            only_what_was_written(&Format { number: u32::try_from(number >> 32).unwrap() }, &damage, &bytes);
            only_what_was_written(&Instance { id: text.clone() }, &damage, &bytes);
            only_what_was_written(&Count { value: number }, &damage, &bytes);
            let shares = vec![Share { index: 1, count: 2, since: time }];
            let pool = Pool { followed_since: time, lost_since: Some(time), selection: Some(number), shares };
            only_what_was_written(&pool, &damage, &bytes);
            only_what_was_written(&LostSince { time }, &damage, &bytes);
            only_what_was_written(&Gone { since: time }, &damage, &bytes);
            only_what_was_written(&StoredUser::from(&user), &damage, &bytes);
            let standing = Standing { sub: user.sub.clone(), joined: user.joined, gone_since: None, activity: user.activity };
            prop_assert_eq!(StoredUser::standing(&StoredUser::from(&user).seal()), Ok(standing));
            let entry = StoredEntry::from(entry);
            only_what_was_written(&entry, &damage, &bytes);
            only_what_was_written(&StoredRefusal { value: entry.seal(), reason: text, at: time }, &damage, &bytes);
        }
    }
}
