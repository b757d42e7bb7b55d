//! The promises of a [`Store`] as tests, for any engine. A crash is a copy of the directory, taken while the store is
//! open. A torn write is such a copy with the end of a file cut off.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Change, Store, StoreReader as _};
use crate::ledger::error::LedgerError;

const CACHE_BYTES: u64 = 8 << 20;

/// Bytes of a value that no engine stores among small ones.
const LARGE_BYTES: usize = 300 << 10;

/// How long a store that was dropped may take to close its files.
const CLOSING_MAX: Duration = Duration::from_secs(20);

/// Cuts that are tried in each file that grew.
const CUTS: u64 = 24;

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Tests every promise.
pub(in crate::ledger) fn test<S: Store>() {
    a_batch_is_applied_whole_and_the_last_change_of_a_key_wins::<S>();
    a_range_is_in_the_order_of_its_keys_and_without_its_end::<S>();
    a_reading_ends_when_its_caller_asks_or_fails::<S>();
    a_store_has_one_opener_at_a_time::<S>();
    what_was_synced_is_there_when_the_store_is_opened_again::<S>();
    what_was_synced_survives_a_crash::<S>();
    what_was_not_synced_is_whole_or_absent_after_a_crash::<S>();
    a_torn_tail_takes_whole_batches_or_is_refused::<S>();
}

fn key(number: u32) -> Vec<u8> {
    [b"k/".as_slice(), &number.to_be_bytes()].concat()
}

fn put(number: u32, value: &[u8]) -> Change {
    (key(number), Some(value.to_vec()))
}

fn remove(number: u32) -> Change {
    (key(number), None)
}

/// A batch of 40 records from `first` on, one of them large.
fn batch(first: u32) -> Vec<Change> {
    let small = (first..first + 39).map(|number| put(number, &[b'x'; 300]));
    small.chain([put(first + 39, &vec![b'y'; LARGE_BYTES])]).collect()
}

fn expected(batches: &[Vec<Change>]) -> Records {
    batches.iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect()
}

fn everything<S: Store>(store: &S) -> Records {
    let mut records = Records::new();
    let read = store.reader().each(vec![]..vec![0xff], |key, value| {
        records.insert(key.to_vec(), value.to_vec());
        Ok(())
    });
    read.unwrap();
    records
}

/// Opens a store. One that this process dropped a moment ago may still be closing.
fn try_open<S: Store>(directory: &Path) -> Result<S, LedgerError> {
    let begun = Instant::now();
    loop {
        match S::open(directory, CACHE_BYTES) {
            Err(LedgerError::Locked(_)) if begun.elapsed() < CLOSING_MAX => thread::sleep(Duration::from_millis(10)),
            opened => return opened,
        }
    }
}

fn new<S: Store>() -> (TempDir, S) {
    let directory = tempfile::tempdir().unwrap();
    let store = S::open(directory.path(), CACHE_BYTES).unwrap();
    (directory, store)
}

/// Copies the directory of an open store, as a process that dies now would leave it.
fn crash(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (path, _) in files(directory) {
        let to = copy.path().join(&path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        match fs::copy(directory.join(path), to) {
            // Meanwhile the engine may rename and remove its files.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            fs::create_dir_all(copy.path().join(entry.file_name())).unwrap();
        }
    }
    copy
}

/// The files below a directory, by their path in it, with their sizes.
fn files(directory: &Path) -> BTreeMap<PathBuf, u64> {
    fn gather(root: &Path, directory: &Path, files: &mut BTreeMap<PathBuf, u64>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                gather(root, &path, files);
            } else {
                // A file that the engine has just removed has no size.
                let size = path.metadata().map_or(0, |file| file.len());
                files.insert(path.strip_prefix(root).unwrap().to_owned(), size);
            }
        }
    }
    let mut found = BTreeMap::new();
    gather(directory, directory, &mut found);
    found
}

fn a_batch_is_applied_whole_and_the_last_change_of_a_key_wins<S: Store>() {
    let (_directory, mut store) = new::<S>();
    store.write(vec![put(1, b"one"), put(2, b"two"), put(3, b"three")]).unwrap();
    let reader = store.reader().clone();
    store.write(vec![put(1, b"first"), put(1, b"last"), put(4, b"four"), remove(4), remove(2), remove(9)]).unwrap();
    assert_eq!(reader.get(&key(1)), Ok(Some(b"last".to_vec())));
    assert_eq!(reader.get(&key(2)), Ok(None));
    assert_eq!(reader.get(&key(4)), Ok(None));
    assert_eq!(everything(&store), expected(&[vec![put(1, b"last"), put(3, b"three")]]));
    store.write(vec![]).unwrap();
    assert!(reader.size_bytes().unwrap() > 0);
}

fn a_range_is_in_the_order_of_its_keys_and_without_its_end<S: Store>() {
    let (_directory, mut store) = new::<S>();
    // Each number once, in no order; keys of one, two and three bytes are between them.
    for part in 0..10 {
        store.write((0..50).map(|at| put((at * 37 + part * 50 * 37) % 500, b"")).collect()).unwrap();
    }
    store.write([&b"a"[..], b"k", b"k/", b"l", b"\xfe"].map(|key| (key.to_vec(), Some(vec![]))).to_vec()).unwrap();
    let reader = store.reader();
    let numbers = |from, to| (from..to).map(key).collect::<Vec<_>>();
    assert_eq!(reader.keys(key(0)..key(500), usize::MAX), Ok(numbers(0, 500)));
    assert_eq!(reader.keys(key(255)..key(258), usize::MAX), Ok(numbers(255, 258)));
    assert_eq!(reader.keys(key(10)..key(500), 7), Ok(numbers(10, 17)));
    assert_eq!(reader.keys(key(500)..key(600), usize::MAX), Ok(vec![]));
    assert_eq!(reader.keys(key(7)..key(7), usize::MAX), Ok(vec![]));
    assert_eq!(reader.keys(key(0)..key(9), 0), Ok(vec![]));
    let all = reader.keys(vec![]..vec![0xff], usize::MAX).unwrap();
    assert_eq!((all.len(), all.is_sorted()), (505, true));
}

fn a_reading_ends_when_its_caller_asks_or_fails<S: Store>() {
    let (_directory, mut store) = new::<S>();
    store.write((0..20).map(|number| put(number, &number.to_be_bytes())).collect()).unwrap();
    let mut seen = vec![];
    let read = store.reader().each_while(key(3)..key(20), |key, value| {
        assert!(key.ends_with(value));
        seen.push(key.to_vec());
        Ok(seen.len() < 4)
    });
    assert_eq!((read, seen), (Ok(()), (3..7).map(key).collect()));
    let mut seen = 0;
    let read = store.reader().each(key(0)..key(20), |_, _| {
        seen += 1;
        if seen < 5 { Ok(()) } else { Err(LedgerError::Closed) }
    });
    assert_eq!((read, seen), (Err(LedgerError::Closed), 5));
}

fn a_store_has_one_opener_at_a_time<S: Store>() {
    let (directory, store) = new::<S>();
    assert!(matches!(S::open(directory.path(), CACHE_BYTES), Err(LedgerError::Locked(_))));
    assert!(matches!(S::rewrite_files(directory.path()), Err(LedgerError::Locked(_))));
    let reader = store.reader().clone();
    drop(store);
    assert!(matches!(S::open(directory.path(), CACHE_BYTES), Err(LedgerError::Locked(_))), "a reader has it open");
    drop(reader);
    try_open::<S>(directory.path()).unwrap();
}

fn what_was_synced_is_there_when_the_store_is_opened_again<S: Store>() {
    let (directory, mut store) = new::<S>();
    let (first, second) = (batch(0), batch(100));
    store.write(first.clone()).unwrap();
    store.write(second.clone()).unwrap();
    for _ in 0..2 {
        drop(store);
        let begun = Instant::now();
        while S::rewrite_files(directory.path()).is_err() {
            assert!(begun.elapsed() < CLOSING_MAX);
            thread::sleep(Duration::from_millis(10));
        }
        store = try_open(directory.path()).unwrap();
        assert!(everything(&store) == expected(&[first.clone(), second.clone()]));
    }
    store.write(first.iter().map(|(key, _)| (key.clone(), None)).collect()).unwrap();
    drop(store);
    let store: S = try_open(directory.path()).unwrap();
    assert!(everything(&store) == expected(&[second]), "what was removed stays removed");
}

fn what_was_synced_survives_a_crash<S: Store>() {
    let (directory, mut store) = new::<S>();
    let mut written = vec![];
    for round in 0..4 {
        written.push(batch(round * 100));
        store.write(written.last().unwrap().clone()).unwrap();
        let crashed = crash(directory.path());
        let found: S = try_open(crashed.path()).unwrap();
        assert!(everything(&found) == expected(&written), "after {round} batches");
    }
}

fn what_was_not_synced_is_whole_or_absent_after_a_crash<S: Store>() {
    let (directory, mut store) = new::<S>();
    let mut written = vec![];
    for round in 0..4 {
        let next = batch(round * 100);
        store.apply(next.clone()).unwrap();
        let crashed = crash(directory.path());
        let found = everything(&try_open::<S>(crashed.path()).unwrap());
        let with_next = [written.as_slice(), std::slice::from_ref(&next)].concat();
        assert!(found == expected(&written) || found == expected(&with_next), "batch {round} is half there");
        store.sync().unwrap();
        written.push(next);
    }
}

/// A file that ends too early. The batch that was written last may be missing, but not a part of it, and not one before
/// it.
fn a_torn_tail_takes_whole_batches_or_is_refused<S: Store>() {
    let (directory, mut store) = new::<S>();
    let small = |first| (first..first + 30).map(|number| put(number, &[b'z'; 200])).collect::<Vec<_>>();
    let (first, second) = (small(0), small(100));
    store.write(first.clone()).unwrap();
    let before = files(directory.path());
    store.write(second.clone()).unwrap();
    let after = files(directory.path());
    let (without, with) = (expected(std::slice::from_ref(&first)), expected(&[first, second]));
    let (mut cuts, mut lost) = (0, 0);
    for (path, size) in after {
        let known = before.get(&path).copied().unwrap_or(0);
        let grown = size.saturating_sub(known);
        for cut in (0..CUTS.min(grown)).map(|part| known + grown * part / CUTS.min(grown)) {
            let crashed = crash(directory.path());
            let Ok(file) = fs::File::options().write(true).open(crashed.path().join(&path)) else { continue };
            file.set_len(cut).unwrap();
            cuts += 1;
            match try_open::<S>(crashed.path()) {
                Ok(store) => {
                    let found = everything(&store);
                    assert!(found == without || found == with, "{} cut at {cut} of {size}", path.display());
                    lost += u32::from(found == without);
                }
                Err(error) => {
                    assert!(matches!(error, LedgerError::Corrupt { .. }), "{error}");
                    lost += 1;
                }
            }
        }
    }
    assert!(cuts > 0 && lost > 0, "{cuts} cuts in files that grew by the batch, of which {lost} took it");
}
