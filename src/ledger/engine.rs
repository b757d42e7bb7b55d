//! The storage engine: the one file that names sled 0.34, and knows where it bites.
//!
//! - `flush` hands the log to the operating system and no further (upstream issue 1452). [`Engine::write`] therefore
//!   calls fsync on a handle of its own of the same file: fsync concerns the file, whichever handle asks.
//! - A page beyond 128 KiB (a quarter of a segment) lies in a file of its own under `blobs`, which sled never syncs; without
//!   it, recovery skips the page. New ones are synced, and their directory, before a write counts as durable.
//! - Damage can panic anywhere inside: every call is guarded.
//! - So can closing it, when an fsync fails (`Log::drop`), and it waits for ever for a thread of its that has panicked: it
//!   is closed by a thread of its own ([`Store`]), and not waited for any longer than that takes when all is well.
//! - After an I/O error sled refuses every write for good: whoever holds an engine drops it and opens another. Before that
//!   [`write_again`] makes good what a failed fsync may have left behind.
//! - The cache is set, because its default is 1 GiB, and to a sixth, because it takes more than it counts.
//!   `mode` changes nothing in this version.
//! - Its file `conf` says how the others are written, the same for every store of ours. It is never synced, and one that is
//!   damaged may make every opening fail ([`put_damaged_conf_aside`]).
//! - A thread of its flushes and collects garbage every [`COLLECT_EVERY`], and calls fsync each time, also when nobody wrote:
//!   at its default of half a second an idle disk is told to empty its cache twice a second.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::custody;
use super::error::LedgerError;
use crate::failpoint::{self, Failpoint};

/// One change of a write: a key and its new value, or none to remove it.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// How long closing the store may take. It writes what it has in hand, at most a few segments of 512 KiB.
const CLOSING_MAX: Duration = Duration::from_secs(10);

/// Memory that a byte of sled's cache takes, about, at the default of 64 MiB with a million users. It counts pages as they
/// lie on the disk; in memory every key and value is an allocation, which makes two of one, and it looks at what was used
/// only after 64 times in each of 256 parts, by when 30 to 40 MiB more may be there (docs/scale.md).
const CACHE_TAKES: u64 = 6;

/// Bytes that are written again at once: few enough to hold, enough to be quick.
const WRITTEN_AGAIN_BYTES: usize = 1 << 20;

/// How often garbage is collected. It may take half of the time, so the share of it is the same for any pause; meanwhile the
/// log grows by what is written, at most some 10 MB a second.
const COLLECT_EVERY: Duration = Duration::from_secs(2);

/// What errors call the store as a whole.
const WHAT: &str = "the store";

/// Where the engine puts large pages.
pub(super) const BLOBS: &str = "blobs";

/// The engine's file, and how the names begin of those from which it only starts faster.
const DB: &str = "db";
const SNAPSHOT: &str = "snap.";

/// Says how the other files are written; its last bytes are a checksum.
const CONF: &str = "conf";
const CONF_CHECKSUM_BYTES: usize = 4;

/// Whether the engine opens what has this name in a store's directory.
pub(super) fn is_ours(name: &str) -> bool {
    matches!(name, DB | CONF | BLOBS) || name.starts_with(SNAPSHOT)
}

/// The store, open for reading. Clones share it; it stays open until the last is gone.
#[derive(Clone)]
pub(super) struct Reader(Arc<Store>);

/// The open store; None only while it is being dropped.
struct Store(Option<sled::Db>);

/// The store, open for writing, by one thread.
pub(super) struct Engine {
    reader: Reader,
    directory: PathBuf,
    /// An own handle of sled's file.
    file: File,
    /// Blobs that are on the disk already.
    synced_blobs: HashSet<OsString>,
}

impl Store {
    fn db(&self) -> &sled::Db {
        self.0.as_ref().expect("the store is taken out of here when nobody has it any more")
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let db = self.0.take();
        let (closed, told) = mpsc::channel();
        let close = move || {
            let _panicked = catch_unwind(AssertUnwindSafe(|| drop(db)));
            let _ = closed.send(());
        };
        let closing =
            catch_unwind(AssertUnwindSafe(|| thread::Builder::new().name("ledger-close".into()).spawn(close)));
        if let Ok(Ok(_)) = closing {
            let _ = told.recv_timeout(CLOSING_MAX);
        }
    }
}

impl Reader {
    /// The value of one key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        guarded(|| Ok(self.0.db().get(key)?.map(|value| value.to_vec())))
    }

    /// At most `limit` keys of a range, in order.
    pub(super) fn keys(&self, range: Range<Vec<u8>>, limit: usize) -> Result<Vec<Vec<u8>>, LedgerError> {
        guarded(|| {
            let keys = self.0.db().range(range).keys().take(limit);
            keys.map(|key| key.map(|key| key.to_vec())).collect()
        })
    }

    /// Shows every record of a range to `see`, in order, until it objects.
    pub(super) fn each(
        &self,
        range: Range<Vec<u8>>,
        mut see: impl FnMut(&[u8], &[u8]) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        self.each_while(range, |key, value| see(key, value).map(|()| true))
    }

    /// Shows the records of a range to `see`, in order, while it answers true.
    pub(super) fn each_while(
        &self,
        range: Range<Vec<u8>>,
        mut see: impl FnMut(&[u8], &[u8]) -> Result<bool, LedgerError>,
    ) -> Result<(), LedgerError> {
        let mut seen = Ok(true);
        guarded(|| {
            for record in self.0.db().range(range) {
                let (key, value) = record?;
                seen = see(&key, &value);
                if seen != Ok(true) {
                    break;
                }
            }
            Ok(())
        })?;
        seen.map(|_| ())
    }

    /// Bytes on the disk.
    pub(super) fn size_bytes(&self) -> Result<u64, LedgerError> {
        guarded(|| self.0.db().size_on_disk())
    }
}

impl Engine {
    /// Opens the store in `directory`, which exists.
    ///
    /// # Errors
    /// `Locked`: this or another process has it. `Corrupt`: it cannot be read. `Storage`: anything else.
    pub(super) fn open(directory: &Path, cache_bytes: u64) -> Result<Self, LedgerError> {
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(cache_bytes / CACHE_TAKES)
            .flush_every_ms(u64::try_from(COLLECT_EVERY.as_millis()).ok());
        let db = match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => db,
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
                return Err(LedgerError::Locked(directory.to_owned()));
            }
            Ok(Err(error)) if conf_is_damaged(directory)? => {
                return Err(LedgerError::corrupt("the engine's configuration file", error.to_string()));
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(panic) => return Err(LedgerError::corrupt(WHAT, panicked(panic.as_ref()))),
        };
        let path = directory.join(DB);
        let file = custody::options().read(true).open(&path);
        let file = file.map_err(|error| custody::unopened("cannot open", &path, &error))?;
        let mut engine = Self {
            reader: Reader(Arc::new(Store(Some(db)))),
            directory: directory.to_owned(),
            file,
            synced_blobs: HashSet::new(),
        };
        // What was recovered may have reached the operating system only, and new files no directory yet.
        engine.sync()?;
        sync_directory(directory)?;
        Ok(engine)
    }

    /// The store, for reading.
    pub(super) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Makes the changes, all or none, the last one of a key winning; they are on the disk when this answers Ok. After
    /// an error nobody knows: drop the engine and look at what another one finds.
    pub(super) fn write(&mut self, changes: Vec<Change>) -> Result<(), LedgerError> {
        #[cfg(test)]
        self.fail_if_asked("before it")?;
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        guarded(|| self.reader.0.db().apply_batch(batch))?;
        failpoint::reached(Failpoint::LedgerApplied);
        self.sync()?;
        #[cfg(test)]
        self.fail_if_asked("after it")?;
        Ok(())
    }

    /// Puts everything written so far on the disk.
    pub(super) fn sync(&mut self) -> Result<(), LedgerError> {
        guarded(|| self.reader.0.db().flush())?;
        failpoint::reached(Failpoint::LedgerFlushed);
        // Blobs first: the log points at them.
        self.sync_blobs()?;
        self.file.sync_all().map_err(|error| LedgerError::io("cannot sync", &self.directory.join(DB), &error))
    }

    fn sync_blobs(&mut self) -> Result<(), LedgerError> {
        let blobs = self.directory.join(BLOBS);
        let failed = |error| LedgerError::io("cannot sync", &blobs, &error);
        let mut present = HashSet::new();
        for blob in fs::read_dir(&blobs).map_err(failed)? {
            let name = blob.map_err(failed)?.file_name();
            if !self.synced_blobs.contains(&name) {
                match custody::options().read(true).open(blobs.join(&name)).and_then(|file| file.sync_all()) {
                    Ok(()) => {}
                    // sled removes a blob when its page is written anew.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(failed(error)),
                }
            }
            present.insert(name);
        }
        let any_new = present.difference(&self.synced_blobs).next().is_some();
        self.synced_blobs = present;
        if any_new {
            sync_directory(&blobs)?;
        }
        Ok(())
    }

    /// Fails once if a test has put a file beside the store that says so, and whether the write is to have been done.
    #[cfg(test)]
    fn fail_if_asked(&self, when: &str) -> Result<(), LedgerError> {
        let asked = self.directory.join("fail-next-write");
        if fs::read_to_string(&asked).is_ok_and(|asked| asked == when) && fs::remove_file(asked).is_ok() {
            return Err(LedgerError::Storage("no space left, says a test".into()));
        }
        Ok(())
    }
}

/// Writes what the store's files hold over itself, and syncs it. After a failed fsync the operating system may call pages
/// clean that never reached the disk (<https://lwn.net/Articles/752063/>): they can be read, the next fsync succeeds, and a
/// power cut takes them. What a store that is opened again shows is to be on the disk.
///
/// # Errors
/// `Locked`: an engine still has the store.
pub(super) fn write_again(directory: &Path) -> Result<(), LedgerError> {
    let path = directory.join(DB);
    let failed = |error: &std::io::Error| custody::unopened("cannot write again", &path, error);
    let open = |path: &Path| custody::options().read(true).write(true).open(path);
    let mut db = open(&path).map_err(|error| failed(&error))?;
    match db.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(LedgerError::Locked(directory.to_owned())),
        Err(TryLockError::Error(error)) => return Err(failed(&error)),
    }
    let mut written = write_over_itself(&mut db);
    for blob in fs::read_dir(directory.join(BLOBS)).into_iter().flatten() {
        let blob = blob.and_then(|blob| open(&blob.path()));
        written = written.and(blob.and_then(|mut blob| write_over_itself(&mut blob)));
    }
    // To close the file is not enough: a child process has a copy of it between fork and exec.
    written.and(db.unlock()).map_err(|error| failed(&error))
}

fn write_over_itself(file: &mut File) -> std::io::Result<()> {
    let mut part = vec![0; WRITTEN_AGAIN_BYTES];
    let mut at = 0;
    loop {
        let len = file.read(&mut part)?;
        if len == 0 {
            return file.sync_all();
        }
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&part[..len])?;
        at += len as u64;
    }
}

/// Removes sled's snapshots, from which it only starts faster. A torn one makes every opening fail.
pub(super) fn remove_snapshots(directory: &Path) -> Result<(), LedgerError> {
    let failed = |error| LedgerError::io("cannot remove the snapshots in", directory, &error);
    for file in fs::read_dir(directory).map_err(failed)? {
        let file = file.map_err(failed)?;
        if file.file_name().to_string_lossy().starts_with(SNAPSHOT) {
            fs::remove_file(file.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Puts a damaged configuration file aside: sled writes a new one, the same as for every store of ours.
pub(super) fn put_damaged_conf_aside(directory: &Path) -> Result<(), LedgerError> {
    if !conf_is_damaged(directory)? {
        return Ok(());
    }
    let (conf, aside) = (directory.join(CONF), directory.join("conf.corrupt"));
    fs::rename(&conf, &aside).map_err(|error| LedgerError::io("cannot rename", &conf, &error))?;
    sync_directory(directory)?;
    let moved_to = aside.display();
    tracing::warn!(%moved_to, "the storage engine's configuration file was damaged; it is written anew");
    Ok(())
}

/// Whether the configuration file is there, and not as it was written. One that is sound may be of another version.
fn conf_is_damaged(directory: &Path) -> Result<bool, LedgerError> {
    let path = directory.join(CONF);
    let conf = match custody::read_small(&path) {
        Ok(conf) => conf,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(custody::unopened("cannot read", &path, &error)),
    };
    let sound = conf
        .split_last_chunk::<CONF_CHECKSUM_BYTES>()
        .is_some_and(|(text, checksum)| !text.is_empty() && crc32fast::hash(text) == u32::from_le_bytes(*checksum));
    Ok(!sound)
}

/// Puts a directory's own entries on the disk.
pub(super) fn sync_directory(directory: &Path) -> Result<(), LedgerError> {
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|error| LedgerError::io("cannot sync", directory, &error))
}

/// Calls the engine; a panic of its becomes an error.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, LedgerError> {
    // Whatever state a panic leaves behind is thrown away with the engine.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => Ok(result?),
        Err(panic) => Err(LedgerError::Storage(panicked(panic.as_ref()))),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the storage engine panicked: {}", text.unwrap_or("no message"))
}

impl From<sled::Error> for LedgerError {
    fn from(error: sled::Error) -> Self {
        match error {
            // The log ends in the middle of what it promises.
            sled::Error::Io(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
                Self::corrupt(WHAT, error.to_string())
            }
            sled::Error::Io(error) => Self::Storage(error.to_string()),
            sled::Error::Unsupported(why) => Self::Storage(why),
            error @ sled::Error::Corruption { .. } => Self::corrupt(WHAT, error.to_string()),
            // "Bugs" that sled reports are states that its own files should not have led to.
            sled::Error::ReportableBug(what) => Self::corrupt(WHAT, what),
            // Its Display shows the collection's name; there is only the default one.
            sled::Error::CollectionNotFound(_) => Self::corrupt(WHAT, "the tree is missing"),
        }
    }
}
