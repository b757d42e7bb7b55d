//! A pool's `usernames_file`, read again when its bytes change.
//!
//! Its bytes are compared and not its date and size: Kubernetes, Nix and `cp --preserve` write other names with the
//! same date and size. Reading is bounded, and only a regular file is read.

use std::path::{Path, PathBuf};

use cognito_auth_core::lasting_fault::LastingFault;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tracing::warn;

use cognito_auth_core::users::selection;

/// Bytes of a file of usernames: half a million names of full length.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes that are read at once to compare a file's digest.
const PIECE_BYTES: usize = 64 * 1024;

/// The digest of a file's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileDigest([u8; 32]);

/// The configured file of a pool, and the names that were last read from it.
pub(super) struct UsernamesFile {
    path: Option<PathBuf>,
    names: Vec<String>,
    digest: Option<FileDigest>,
    /// Why the file cannot be read.
    fault: LastingFault<String>,
}

impl UsernamesFile {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, names: Vec::new(), digest: None, fault: LastingFault::default() }
    }

    /// Names another file. Its names are unknown until it is read.
    pub(super) fn set_path(&mut self, path: Option<&Path>) {
        if path != self.path.as_deref() {
            *self = Self::new(path.map(Path::to_owned));
        }
    }

    /// The names that were last read.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether the file cannot be read at present.
    pub(super) fn is_unreadable(&self) -> bool {
        self.fault.lasts()
    }

    /// Reads the file if there is one and it has changed; answers whether the names may have changed.
    pub(super) async fn refresh(&mut self, pool_id: &str) -> bool {
        let Some(path) = &self.path else { return false };
        match read_if_changed(path, self.digest).await {
            Ok(None) => false,
            Ok(Some((names, digest))) => {
                (self.names, self.digest) = (names, Some(digest));
                self.fault.succeeded();
                true
            }
            Err(cause) => {
                // One line for each cause; the names read before stay.
                if self.fault.failed(cause.clone()) {
                    warn!(
                        pool = pool_id,
                        file = %path.display(),
                        cause,
                        remedy = "it has to be there, be text, and be readable by the exporter's user",
                        "usernames_file cannot be read; the names read before stay followed"
                    );
                    // Once it can be read again it counts as changed, even with the same names.
                    self.digest = None;
                }
                false
            }
        }
    }
}

/// Reads the names in a file, and the digest of its bytes.
///
/// # Errors
/// It cannot be read, is no text, is no regular file, or is too large.
pub(crate) async fn read(path: &Path) -> Result<(Vec<String>, FileDigest), String> {
    let text = read_text(path).await?;
    Ok((selection::names_in(&text), FileDigest(Sha256::digest(&text).into())))
}

/// Reads a file of names as a text.
///
/// # Errors
/// Those of [`read`].
pub(crate) async fn read_text(path: &Path) -> Result<String, String> {
    let mut text = Vec::new();
    open(path).await?.read_to_end(&mut text).await.map_err(|error| error.to_string())?;
    // It may have grown since it was opened.
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(too_large());
    }
    String::from_utf8(text).map_err(|error| error.utf8_error().to_string())
}

/// Reads the names in a file if its digest is not `known`; answers None if it is.
///
/// # Errors
/// Those of [`read`].
async fn read_if_changed(path: &Path, known: Option<FileDigest>) -> Result<Option<(Vec<String>, FileDigest)>, String> {
    if known.is_some() && Some(digest_of(path).await?) == known {
        return Ok(None);
    }
    let (names, digest) = read(path).await?;
    Ok(Some((names, digest)).filter(|_| Some(digest) != known))
}

/// Digests a file. No more than a piece of it is in memory.
async fn digest_of(path: &Path) -> Result<FileDigest, String> {
    let (mut file, mut digest, mut piece) = (open(path).await?, Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece).await.map_err(|error| error.to_string())? {
            0 => return Ok(FileDigest(digest.finalize().into())),
            bytes => digest.update(&piece[..bytes]),
        }
    }
}

async fn open(path: &Path) -> Result<impl AsyncRead + Unpin + use<>, String> {
    let metadata = tokio::fs::metadata(path).await.map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        // Reading a pipe could wait for ever, and reading a device never end.
        return Err("it is not a regular file".to_owned());
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(too_large());
    }
    let file = File::open(path).await.map_err(|error| error.to_string())?;
    Ok(file.take(FILE_BYTES_MAX + 1))
}

fn too_large() -> String {
    format!("it is too large; at most {FILE_BYTES_MAX} bytes are read")
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[tokio::test]
    async fn a_file_is_read_when_it_holds_something_else_and_whatever_its_date_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("names");
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(date).unwrap();
        };
        write("ann\nben\n");
        let (names, digest) = read_if_changed(&path, None).await.unwrap().unwrap();
        assert_eq!(names, ["ann", "ben"]);
        assert_eq!(read_if_changed(&path, Some(digest)).await, Ok(None));
        write("ann\ncyd\n");
        let (names, changed) = read_if_changed(&path, Some(digest)).await.unwrap().unwrap();
        assert_eq!(names, ["ann", "cyd"]);
        assert_eq!(read_if_changed(&path, Some(changed)).await, Ok(None));
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(date + Duration::from_secs(1)).unwrap();
        assert_eq!(read_if_changed(&path, Some(changed)).await, Ok(None), "a date alone is no change");
    }

    #[tokio::test]
    async fn what_is_no_file_of_names_is_told_and_neither_waited_for_nor_read_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, large) = (folder.path().join("pipe"), folder.path().join("large"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let known = Some(FileDigest([0; 32]));
        for path in [folder.path(), &pipe, Path::new("/dev/zero")] {
            for known in [None, known] {
                let told = read_if_changed(path, known).await;
                assert_eq!(told, Err("it is not a regular file".to_owned()), "{path:?}");
            }
        }
        std::fs::File::create(&large).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        let told = read_if_changed(&large, known).await.unwrap_err();
        assert_eq!(told, "it is too large; at most 67108864 bytes are read");
        std::fs::write(&large, b"ann\xff\n").unwrap();
        let told = read_if_changed(&large, None).await;
        assert_eq!(told, Err("invalid utf-8 sequence of 1 bytes from index 3".to_owned()));
    }
}
