//! The access keys of the endpoint: one a line of a file, which is read again when it changes.
//!
//! Several keys are accepted at a time, so that a key can be rotated: add the new one, change it in Firehose, remove
//! the old one.
//!
//! The memory holds digests of the keys under a random key, not the keys. A request's key is compared with every
//! digest, and every comparison reads all bytes. So the time does not depend on how much of a key is right, or on which
//! key it is.

use std::fs::File;
use std::hint::black_box;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::lasting_fault::LastingFault;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::FirehoseServer;

/// The header that holds the access key.
const HEADER: &str = "x-amz-firehose-access-key";

/// Maximum size of an access key in bytes, by Firehose's contract.
const KEY_BYTES_MAX: usize = 4096;

/// Maximum size of the file in bytes: 256 of the longest keys. A rotation needs two keys.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Time between two looks at the file. A person who removes a key expects an effect soon.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Error of a file of access keys. Its text shows nothing of the keys.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{} (firehose.access_keys_file): {what}", path.display())]
pub struct AccessKeysError {
    /// The file.
    pub path: PathBuf,
    /// The mistake, and what would be accepted.
    pub what: String,
}

/// The accepted keys. Clones share them.
#[derive(Clone)]
pub(super) struct AccessKeys(Arc<KeysFile>);

struct KeysFile {
    path: PathBuf,
    /// Random, and never stored or shown.
    digest_key: [u8; 32],
    loaded: Mutex<LoadedKeys>,
}

/// What a file of keys holds.
#[derive(Default, PartialEq, Eq)]
struct ReadKeys {
    digests: Vec<[u8; 32]>,
    /// How many are shorter than advised.
    short: usize,
}

#[derive(Default)]
struct LoadedKeys {
    keys: ReadKeys,
    /// The error of the last attempt to read the file, as it was logged.
    fault: LastingFault<AccessKeysError>,
}

impl AccessKeys {
    /// Reads the keys. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, has no key, or has a line that is no key.
    pub(super) fn load(path: &Path) -> Result<Self, AccessKeysError> {
        let mut digest_key = [0; 32];
        for half in digest_key.chunks_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        let file = KeysFile { path: path.to_owned(), digest_key, loaded: Mutex::default() };
        file.loaded.lock().keys = file.read()?;
        Ok(Self(Arc::new(file)))
    }

    /// Returns whether a request has one of the keys. A request with several keys has none.
    pub(super) fn accept(&self, headers: &HeaderMap) -> bool {
        let mut keys = headers.get_all(HEADER).iter();
        let (Some(key), None) = (keys.next(), keys.next()) else { return false };
        let digest = self.0.digest(key.as_bytes());
        self.0.loaded.lock().keys.digests.iter().fold(false, |is_known, known| is_known | is_same(known, &digest))
    }

    /// Returns how many keys are shorter than [`FirehoseServer::KEY_BYTES_ADVISED`].
    pub(super) fn short_keys(&self) -> usize {
        self.0.loaded.lock().keys.short
    }

    /// Reads the file again whenever it changes, until `stop`.
    pub(super) async fn keep(self, stop: CancellationToken) {
        loop {
            let pause = tokio::time::sleep(CHECK_INTERVAL);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
            let keys = self.clone();
            // On a file system that hangs the check never ends, and the keys in force stay.
            let check = tokio::task::spawn_blocking(move || keys.reload());
            if stop.run_until_cancelled(check).await.is_none() {
                return;
            }
        }
    }

    /// Reads the file again. Keys of a file that cannot be used change nothing. Blocks.
    fn reload(&self) {
        let read = self.0.read();
        let mut loaded = self.0.loaded.lock();
        match read {
            Ok(keys) => {
                if loaded.fault.succeeded() | (keys != loaded.keys) {
                    let count = keys.digests.len();
                    tracing::info!(path = %self.0.path.display(), keys = count, "access keys reloaded");
                }
                loaded.keys = keys;
            }
            Err(error) => {
                if loaded.fault.failed(error.clone()) {
                    tracing::error!(%error, "access keys reload failed; keeping the current ones");
                }
            }
        }
    }
}

impl KeysFile {
    fn digest(&self, key: &[u8]) -> [u8; 32] {
        // The digest's key stands before and after the input, so that nothing can be appended.
        let digest = Sha256::new().chain_update(self.digest_key).chain_update(key).chain_update(self.digest_key);
        digest.finalize().into()
    }

    fn read(&self) -> Result<ReadKeys, AccessKeysError> {
        let error = |what: String| AccessKeysError { path: self.path.clone(), what };
        let mut text = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text));
        read.map_err(|cause| {
            error(format!("cannot read the access keys: {cause}; the exporter's user has to be able to read the file"))
        })?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(error(format!("it is larger than {FILE_BYTES_MAX} bytes; accepted: one access key a line")));
        }
        let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut keys = ReadKeys::default();
        for (index, line) in lines.enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()) {
            check(line).map_err(|what| error(format!("line {}: {what}", index + 1)))?;
            keys.digests.push(self.digest(line));
            keys.short += usize::from(line.len() < FirehoseServer::KEY_BYTES_ADVISED);
        }
        if keys.digests.is_empty() {
            return Err(error("it has no access key; accepted: one access key a line".to_owned()));
        }
        Ok(keys)
    }
}

/// Checks that HTTP can carry a key as it stands in the file.
fn check(key: &[u8]) -> Result<(), String> {
    if key.len() > KEY_BYTES_MAX {
        return Err(format!("the access key is longer than {KEY_BYTES_MAX} bytes, which Data Firehose does not send"));
    }
    if key.trim_ascii().len() != key.len() {
        return Err("the access key begins or ends with a space, which an HTTP header cannot".to_owned());
    }
    match HeaderValue::from_bytes(key) {
        Ok(_) => Ok(()),
        Err(_) => Err("the access key has a control character, which an HTTP header cannot".to_owned()),
    }
}

/// Compares two digests in the same time, whatever they are.
fn is_same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let difference = one.iter().zip(other).fold(0, |difference, (one, other)| black_box(difference | (one ^ other)));
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &[u8]) -> (Result<AccessKeys, String>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, text).unwrap();
        let shown = format!("{} (firehose.access_keys_file): ", path.display());
        (AccessKeys::load(&path).map_err(|error| error.to_string().replace(&shown, "")), folder)
    }

    fn with(keys: &[&[u8]]) -> HeaderMap {
        keys.iter().map(|key| (HEADER.parse().unwrap(), HeaderValue::from_bytes(key).unwrap())).collect()
    }

    #[test]
    fn every_line_is_a_key_and_nothing_else_is() {
        let (keys, _folder) = keys(b"first key\r\n\n  \nse\xc3\xa9cond\nthird");
        let keys = keys.unwrap();
        assert_eq!(keys.short_keys(), 3);
        for key in [&b"first key"[..], b"se\xc3\xa9cond", b"third"] {
            assert!(keys.accept(&with(&[key])));
        }
        for key in [&b""[..], b"first", b"first key2", b"First key", b"third\t", b"  "] {
            assert!(!keys.accept(&with(&[key])), "{key:?}");
        }
        assert!(!keys.accept(&HeaderMap::new()));
        assert!(!keys.accept(&with(&[b"third", b"third"])), "one key a request");
    }

    #[test]
    fn a_file_that_holds_no_keys_is_an_error_that_shows_nothing_of_it() {
        let long = [b'a'; KEY_BYTES_MAX + 1];
        for (text, told) in [
            (&b""[..], "it has no access key; accepted: one access key a line"),
            (b"\n \r\n", "it has no access key; accepted: one access key a line"),
            (b"a\n sEcReT", "line 2: the access key begins or ends with a space, which an HTTP header cannot"),
            (b"sEc\x01ReT", "line 1: the access key has a control character, which an HTTP header cannot"),
            (&long, "line 1: the access key is longer than 4096 bytes, which Data Firehose does not send"),
        ] {
            assert_eq!(keys(text).0.map(|_| ()), Err(told.to_owned()));
        }
        assert!(keys(&long[1..]).0.is_ok());
        assert!(AccessKeys::load(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn a_changed_file_replaces_the_keys_and_a_file_without_keys_does_not() {
        let (keys, folder) = keys(b"old\n");
        let keys = keys.unwrap();
        let accepted = || ["old", "new"].map(|key| keys.accept(&with(&[key.as_bytes()])));
        for (text, then) in [("old\nnew\n", [true, true]), ("new\n", [false, true]), ("", [false, true])] {
            std::fs::write(folder.path().join("keys"), text).unwrap();
            keys.reload();
            assert_eq!(accepted(), then, "{text:?}");
        }
        assert!(keys.0.loaded.lock().fault.lasts());
        std::fs::remove_file(folder.path().join("keys")).unwrap();
        keys.reload();
        assert_eq!(accepted(), [false, true]);
        std::fs::write(folder.path().join("keys"), "old").unwrap();
        keys.reload();
        assert_eq!(accepted(), [true, false]);
        assert!(!keys.0.loaded.lock().fault.lasts());
    }
}
