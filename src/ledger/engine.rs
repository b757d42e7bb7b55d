//! The storage engine: the only file that names sled 0.34. It implements [`Store`], and works around these properties:
//!
//! - `flush` hands the log to the operating system, but does not sync it (upstream issue 1452). [`Engine::sync`]
//!   therefore calls fsync on its own handle of the same file. An fsync concerns the file, whichever handle asks for
//!   it.
//! - A page beyond 128 KiB (a quarter of a segment) is a file of its own under `blobs`, which sled never syncs.
//!   Recovery skips the page if that file is missing. New files there are synced, and their directory, before a batch
//!   counts as durable.
//! - Damaged files can cause a panic in any call. Every call is guarded.
//! - Closing panics when an fsync fails (`Log::drop`), and hangs when a thread of sled's has panicked. A separate
//!   thread closes the store ([`OpenDb`]), and the caller waits for it no longer than [`CLOSING_MAX`].
//! - After an I/O error sled refuses every later write. The caller drops the engine and opens another one. Before that,
//!   [`Engine::rewrite_files`](Store::rewrite_files) repairs the effects of a failed fsync.
//! - The cache defaults to 1 GiB and takes more than it counts. It is set to a sixth of the configured size. The
//!   setting `mode` has no effect in this version.
//! - The file `conf` describes the others, and is the same for every store that this engine makes. sled never syncs it,
//!   and a damaged one can make every opening fail ([`put_damaged_conf_aside`]).
//! - A thread of sled's flushes, collects garbage and calls fsync every [`COLLECT_EVERY`], also when nothing was
//!   written. At its default of half a second, an idle disk would empty its cache twice a second.

use std::any::Any;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::custody;
use super::error::LedgerError;
use super::store::{Change, Store, StoreReader};
use crate::failpoint::{self, Failpoint};

/// The longest time that closing the store may take. It writes at most a few segments of 512 KiB.
const CLOSING_MAX: Duration = Duration::from_secs(10);

/// Memory that a byte of sled's cache takes, about, at the default of 64 MiB with a million users. sled counts pages as
/// they are on the disk. In memory every key and value is an allocation, which doubles their size. sled checks the
/// limit only after 64 accesses in each of 256 parts. By then, 30 to 40 MiB more may be in use (docs/scale.md).
const CACHE_TAKES: u64 = 6;

/// Bytes that are rewritten at once: few enough to hold in memory, enough to be quick.
const REWRITTEN_BYTES: usize = 1 << 20;

/// The pause between two garbage collections. A collection may take as long as the pause, so a longer pause costs no
/// less. Meanwhile the log grows by what is written, at most some 10 MB a second.
const COLLECT_EVERY: Duration = Duration::from_secs(2);

/// The name of the store as a whole in errors.
const WHAT: &str = "the store";

/// The file with the log of all records.
pub(super) const DB: &str = "db";

/// The directory of large pages.
pub(super) const BLOBS: &str = "blobs";

/// The prefix of snapshot files, which only make opening faster.
const SNAPSHOT: &str = "snap.";

/// The file that describes the others. It ends with a checksum.
const CONF: &str = "conf";
const CONF_CHECKSUM_BYTES: usize = 4;

/// Returns whether the engine opens an entry with this name in a store's directory.
pub(super) fn is_ours(name: &str) -> bool {
    matches!(name, DB | CONF | BLOBS) || name.starts_with(SNAPSHOT)
}

/// The open store, for reading.
#[derive(Clone)]
pub(super) struct Reader(Arc<OpenDb>);

/// The open store, for writing.
pub(super) struct Engine {
    reader: Reader,
    directory: PathBuf,
    /// Our own handle of sled's file.
    file: File,
    /// Blobs that are on the disk already.
    synced_blobs: HashSet<OsString>,
}

/// The open database; None only while it is dropped.
struct OpenDb(Option<sled::Db>);

impl OpenDb {
    fn db(&self) -> &sled::Db {
        self.0.as_ref().expect("the database is taken out only by drop")
    }
}

impl Drop for OpenDb {
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

impl StoreReader for Reader {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        guarded(|| Ok(self.0.db().get(key)?.map(|value| value.to_vec())))
    }

    fn keys(&self, range: Range<Vec<u8>>, limit: usize) -> Result<Vec<Vec<u8>>, LedgerError> {
        guarded(|| {
            let keys = self.0.db().range(range).keys().take(limit);
            keys.map(|key| key.map(|key| key.to_vec())).collect()
        })
    }

    fn each_while(
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

    fn size_bytes(&self) -> Result<u64, LedgerError> {
        guarded(|| self.0.db().size_on_disk())
    }
}

impl Store for Engine {
    type Reader = Reader;

    fn open(directory: &Path, cache_bytes: u64) -> Result<Self, LedgerError> {
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
            reader: Reader(Arc::new(OpenDb(Some(db)))),
            directory: directory.to_owned(),
            file,
            synced_blobs: HashSet::new(),
        };
        // Recovered records may be in the operating system's cache only, and new files in no directory on the disk.
        engine.sync()?;
        sync_directory(directory)?;
        Ok(engine)
    }

    /// After a failed fsync the operating system may call pages clean that never reached the disk
    /// (<https://lwn.net/Articles/752063/>): they can be read, the next fsync succeeds, and a power cut loses them.
    fn rewrite_files(directory: &Path) -> Result<(), LedgerError> {
        let path = directory.join(DB);
        let failed = |error: &io::Error| custody::unopened("cannot write again", &path, error);
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
        // Closing the file does not unlock it while a child process has a copy of the handle, between fork and exec.
        written.and(db.unlock()).map_err(|error| failed(&error))
    }

    fn reader(&self) -> &Reader {
        &self.reader
    }

    fn apply(&mut self, changes: Vec<Change>) -> Result<(), LedgerError> {
        #[cfg(test)]
        self.fail_if_asked("before it")?;
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        guarded(|| self.reader.0.db().apply_batch(batch))
    }

    fn sync(&mut self) -> Result<(), LedgerError> {
        guarded(|| self.reader.0.db().flush())?;
        failpoint::reached(Failpoint::LedgerFlushed);
        // Blobs first: the log refers to them.
        self.sync_blobs()?;
        self.file.sync_all().map_err(|error| LedgerError::io("cannot sync", &self.directory.join(DB), &error))?;
        #[cfg(test)]
        self.fail_if_asked("after it")?;
        Ok(())
    }
}

impl Engine {
    fn sync_blobs(&mut self) -> Result<(), LedgerError> {
        let blobs = self.directory.join(BLOBS);
        let failed = |error| LedgerError::io("cannot sync", &blobs, &error);
        let mut present = HashSet::new();
        for blob in fs::read_dir(&blobs).map_err(failed)? {
            let name = blob.map_err(failed)?.file_name();
            if !self.synced_blobs.contains(&name) {
                match custody::options().read(true).open(blobs.join(&name)).and_then(|file| file.sync_all()) {
                    Ok(()) => {}
                    // sled removes a blob when it writes its page again.
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

    /// Fails once if a test has put a file in the directory. Its text says whether to fail before or after the write.
    #[cfg(test)]
    fn fail_if_asked(&self, when: &str) -> Result<(), LedgerError> {
        let asked = self.directory.join("fail-next-write");
        if fs::read_to_string(&asked).is_ok_and(|asked| asked == when) && fs::remove_file(asked).is_ok() {
            return Err(LedgerError::Storage("no space left, says a test".into()));
        }
        Ok(())
    }
}

fn write_over_itself(file: &mut File) -> io::Result<()> {
    let mut part = vec![0; REWRITTEN_BYTES];
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

/// Removes snapshot files. They only make opening faster, and a torn one makes every opening fail.
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

/// Renames a damaged configuration file. sled then writes a new one, the same as for every store that this engine
/// makes.
pub(super) fn put_damaged_conf_aside(directory: &Path) -> Result<(), LedgerError> {
    if !conf_is_damaged(directory)? {
        return Ok(());
    }
    let (conf, aside) = (directory.join(CONF), directory.join("conf.corrupt"));
    fs::rename(&conf, &aside).map_err(|error| LedgerError::io("cannot rename", &conf, &error))?;
    sync_directory(directory)?;
    let moved_to = aside.display();
    tracing::warn!(%moved_to, "the storage engine's configuration file was damaged; a new one is written");
    Ok(())
}

/// Returns whether the configuration file is there and damaged. A sound one may be of another version of sled.
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

/// Syncs a directory: its list of entries is on the disk when this answers Ok.
pub(super) fn sync_directory(directory: &Path) -> Result<(), LedgerError> {
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|error| LedgerError::io("cannot sync", directory, &error))
}

/// Calls sled, and turns a panic into an error.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, LedgerError> {
    // The caller drops the engine after an error, with any state that a panic left behind.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => Ok(result?),
        Err(panic) => Err(LedgerError::Storage(panicked(panic.as_ref()))),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the storage engine panicked: {}", text.unwrap_or("no message"))
}

impl From<sled::Error> for LedgerError {
    fn from(error: sled::Error) -> Self {
        match error {
            // The log ends in the middle of a record.
            sled::Error::Io(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
                Self::corrupt(WHAT, error.to_string())
            }
            sled::Error::Io(error) => Self::Storage(error.to_string()),
            sled::Error::Unsupported(why) => Self::Storage(why),
            error @ sled::Error::Corruption { .. } => Self::corrupt(WHAT, error.to_string()),
            // sled reports a bug of its own where its files hold what it never writes.
            sled::Error::ReportableBug(what) => Self::corrupt(WHAT, what),
            // Its Display shows the collection's name, and there is only the default one.
            sled::Error::CollectionNotFound(_) => Self::corrupt(WHAT, "the tree is missing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Engine;
    use crate::ledger::store::conformance;

    #[test]
    fn the_engine_keeps_every_promise_of_a_store() {
        conformance::test::<Engine>();
    }
}
