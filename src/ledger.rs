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

mod books;
mod engine;
mod envelope;
mod error;
mod home;
mod keys;
mod stored_entry;
mod stored_user;
mod writer;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, RwLock};
use std::thread;

use tokio::sync::{mpsc, oneshot, watch};

use self::books::Work;
use self::engine::Reader;
use self::envelope::{Count, LostSince, Pool, Record as _};
pub use self::error::LedgerError;
use self::home::Home;
pub use self::home::Rebuilt;
use self::stored_entry::{StoredEntry, StoredRefusal};
use self::stored_user::StoredUser;
use self::writer::{Access, GROUP_KEYS_MAX, Reply, Request, Shared, TimeOfDay, WAITING_MAX, Writer};
use crate::config::StateConfig;
use crate::courier::{Outbox, OutboxId, Settlement};
use crate::cursor::Cursor;
use crate::entry::{Entry, PoolIdentity};
use crate::event::UnixMillis;
use crate::tally::Series;

/// The durable state. A cheap handle; one process at a time has it open.
#[derive(Clone)]
pub struct Ledger(Arc<Handle>);

struct Handle {
    instance_id: String,
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
    /// Present while the users are not yet enrolled again whose records were lost: events since then are live.
    pub lost_since: Option<UnixMillis>,
}

/// What is kept of a user.
#[derive(Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// When the user was first on the roster.
    pub joined: UnixMillis,
    /// The user's `sub`, where a listing gave it.
    pub sub: Option<String>,
    /// What is known of the user's history.
    pub cursor: Cursor,
}

impl std::fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserRecord").field("joined", &self.joined).field("cursor", &self.cursor).finish_non_exhaustive()
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

/// An entry that a receiver refused for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// The entry.
    pub entry: Entry,
    /// What the receiver said.
    pub reason: String,
    /// When it was put aside.
    pub at: UnixMillis,
}

impl Ledger {
    /// Bytes of entries that one reading of the outbox or the quarantine gives at most, but always one entry: a batch for
    /// the receiver is smaller.
    pub const READ_BYTES_MAX: usize = 8 << 20;

    /// Opens the ledger in `<state.path>/ledger`, making what is not there, and reads its books. Blocks. `now` is the time
    /// of day, on which the ledger's own times are based.
    ///
    /// # Errors
    /// Nothing has been changed when this fails; each error says what to do.
    pub fn open(state: &StateConfig, now: UnixMillis) -> Result<Opened, LedgerError> {
        let time = TimeOfDay::from(now);
        let home = Home::enter(state)?;
        let (engine, mut books, rebuilt) = home.open(now)?;
        let published = books.publish(engine.reader())?;
        let shared = Arc::new(Shared {
            access: RwLock::new(Access::Open(engine.reader().clone())),
            published: watch::Sender::new(published),
            writing: Mutex::default(),
            changes: watch::Sender::default(),
        });
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        let instance_id = books.instance_id.clone();
        let writer = Writer::new(home, shared.clone(), waiting, time);
        let thread = thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run(engine, books))
            .map_err(|error| LedgerError::Storage(format!("cannot start the writer's thread: {error}")))?;
        let ledger = Self(Arc::new(Handle {
            instance_id,
            quarantine_limit_bytes: state.quarantine_limit_bytes,
            shared,
            requests,
            writer: thread.thread().clone(),
        }));
        Ok(Opened { ledger, rebuilt })
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
            let Pool { followed_since, lost_since } = Pool::open(&bytes)?;
            Ok(PoolRecord { followed_since: UnixMillis(followed_since), lost_since: lost_since.map(UnixMillis) })
        };
        stored.map(record).transpose()
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
        let stored = self.reading(|reader| reader.get(&keys::user(pool_id, username)))?;
        stored.map(|bytes| StoredUser::open(&bytes)?.try_into()).transpose()
    }

    /// Who is on the stored roster of a pool, in order; read a few at a time, each as it is then.
    pub fn usernames(&self, pool_id: &str) -> impl Iterator<Item = Result<String, LedgerError>> + use<> {
        Usernames {
            ledger: self.clone(),
            skipped: keys::users(pool_id).start.len(),
            left: Some(keys::users(pool_id)),
            read: VecDeque::new(),
        }
    }

    /// Writes since when a pool is followed.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn follow_pool(&self, pool_id: &str, record: PoolRecord) -> Result<(), LedgerError> {
        let lost_since = record.lost_since.map(|time| time.0);
        let stored = Pool { followed_since: record.followed_since.0, lost_since };
        self.ask(Work::Put(vec![(keys::pool(pool_id), Some(stored.seal()))])).await
    }

    /// Forgets what [`Ledger::lost_since`] tells: every pool has it in its own record.
    ///
    /// # Errors
    /// It may still be there: the ledger has failed or is closed.
    pub async fn forget_loss(&self) -> Result<(), LedgerError> {
        self.ask(Work::Put(vec![(keys::LOST_SINCE.to_vec(), None)])).await
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

    /// Puts users on the roster. One who is there already and has the same time of joining keeps the stored cursor, which
    /// may be newer than the one given here; so this may run beside the user's own commits.
    ///
    /// # Errors
    /// Some may not have been written: the ledger has failed or is closed.
    pub async fn enroll(&self, pool_id: &str, users: Vec<(String, UserRecord)>) -> Result<(), LedgerError> {
        let mut users = users.into_iter().map(|(username, record)| (keys::user(pool_id, &username), record));
        loop {
            let part: Vec<_> = users.by_ref().take(GROUP_KEYS_MAX).collect();
            if part.is_empty() {
                return Ok(());
            }
            self.ask(Work::Enroll(part)).await?;
        }
    }

    /// Removes users and their cursors; the totals stay.
    ///
    /// # Errors
    /// Some may still be there: the ledger has failed or is closed.
    pub async fn forget(&self, pool_id: &str, usernames: Vec<String>) -> Result<(), LedgerError> {
        for part in usernames.chunks(GROUP_KEYS_MAX) {
            let removed = part.iter().map(|username| (keys::user(pool_id, username), None));
            self.ask(Work::Put(removed.collect())).await?;
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
        let increments =
            commit.totals.iter().map(|(series, increment)| (keys::total(pool_id, &series.to_key()), *increment));
        self.ask(Work::Commit {
            user: (keys::user(pool_id, &commit.username), StoredUser::from(&commit.record).seal()),
            joined: commit.record.joined,
            increments: increments.collect(),
            entries: commit.entries.iter().map(|entry| StoredEntry::from(entry).seal()).collect(),
        })
        .await
    }

    /// Up to `limit` entries of the quarantine behind `after` (None: from the first), in order.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or an entry cannot be read.
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
                let refusal = StoredRefusal::open(&value)?;
                let Some(entry) = refusal.entry else {
                    return Err(LedgerError::corrupt(StoredRefusal::WHAT, "it holds no entry"));
                };
                let quarantined =
                    Quarantined { entry: entry.into(), reason: refusal.reason, at: UnixMillis(refusal.at) };
                Ok((id, quarantined))
            })
            .collect()
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

    async fn ask(&self, work: Work) -> Result<(), LedgerError> {
        if let Some(error) = self.fault() {
            return Err(error);
        }
        self.request(|reply| Request::Work(work, reply)).await
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

    fn access(&self) -> std::sync::RwLockReadGuard<'_, Access> {
        // Whoever panicked while reading has changed nothing.
        let access = self.0.shared.access.read();
        access.unwrap_or_else(std::sync::PoisonError::into_inner)
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

    fn read(&self, after: Option<OutboxId>, limit: usize) -> Result<Vec<(OutboxId, Entry)>, LedgerError> {
        let first = after.map_or(0, |after| after.0.saturating_add(1));
        let end = self.0.shared.published.borrow().end;
        let mut entries: Vec<(OutboxId, Entry)> = Vec::new();
        for (id, value) in self.numbered(keys::outbox_between(first, end), limit)? {
            let mut entry = Entry::from(StoredEntry::open(&value)?);
            // Most neighbours are of one pool.
            if let Some((_, before)) = entries.last()
                && before.pool == entry.pool
            {
                entry.pool = before.pool.clone();
            }
            entries.push((id, entry));
        }
        Ok(entries)
    }

    async fn settle(&self, settlement: Settlement) -> Result<(), LedgerError> {
        self.ask(Work::Settle(settlement)).await
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
            record: UserRecord { joined: NOW, sub: None, cursor: Cursor::new(UnixMillis(number), NOW) },
            totals: vec![(Series::History, 1)],
            entries: vec![],
        }
    }

    /// Writes to the store behind the ledger's back.
    fn tamper(directory: &TempDir, key: &[u8], value: Vec<u8>) {
        let home = Home::enter(&state(directory)).unwrap();
        let (mut engine, _) = home.reopen(0).unwrap();
        engine.write(vec![(key.to_vec(), Some(value))]).unwrap();
    }

    fn newer(mut record: Vec<u8>) -> Vec<u8> {
        record[0] = 2;
        record
    }

    #[tokio::test]
    async fn a_failed_write_is_told_and_cured_and_the_books_are_read_again() {
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
        // A turn that does not wait for its answer any more leaves nothing uncounted: it has asked, and is gone.
        tokio::select! {
            biased;
            answered = ledger.commit(page(4)) => panic!("answered at once: {answered:?}"),
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
        let newer_things = [
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
                assert!(matches!(refused, LedgerError::NewerVersion { found: 2, known: 1, .. }), "{refused}");
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
        let _ = (R::open(bytes), StoredUser::joined(bytes), StoredUser::joined(&damaged));
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
            only_what_was_written(&Pool { followed_since: time, lost_since: Some(time) }, &damage, &bytes);
            only_what_was_written(&LostSince { time }, &damage, &bytes);
            only_what_was_written(&StoredUser::from(&user), &damage, &bytes);
            prop_assert_eq!(StoredUser::joined(&StoredUser::from(&user).seal()), Ok(user.joined));
            let entry = StoredEntry::from(&entry);
            only_what_was_written(&entry, &damage, &bytes);
            only_what_was_written(&StoredRefusal { entry: Some(entry), reason: text, at: time }, &damage, &bytes);
        }
    }
}
