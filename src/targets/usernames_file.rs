//! A pool's `usernames_file`: read again when it holds something else.
//!
//! What it holds is compared, not its date and size: Kubernetes, Nix and `cp --preserve` write other names under the same.
//! Reading is bounded, and what is no regular file is not read at all.

use std::path::Path;

use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::selection;

/// Bytes of a file of usernames: half a million names of full length.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes that are read at once to see whether anything has changed.
const PIECE_BYTES: usize = 64 * 1024;

/// A digest of what a file held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Content([u8; 32]);

/// The names in a file, and what it held.
pub(crate) type Names = (Vec<String>, Content);

/// Reads the names in a file.
///
/// # Errors
/// It cannot be read, is no text, is no regular file, or is too large.
pub(crate) async fn read(path: &Path) -> Result<Names, String> {
    let mut text = Vec::new();
    open(path).await?.read_to_end(&mut text).await.map_err(|error| error.to_string())?;
    // It may have grown since it was opened.
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(too_large());
    }
    let content = Content(Sha256::digest(&text).into());
    let text = std::str::from_utf8(&text).map_err(|error| error.to_string())?;
    Ok((selection::names_in(text), content))
}

/// Reads the names in a file if it holds something else than `known`; None if it does not.
///
/// # Errors
/// Those of [`read`].
pub(crate) async fn read_if_changed(path: &Path, known: Option<Content>) -> Result<Option<Names>, String> {
    if known.is_some() && Some(content(path).await?) == known {
        return Ok(None);
    }
    let (names, content) = read(path).await?;
    Ok(Some((names, content)).filter(|_| Some(content) != known))
}

/// What a file holds, of which no more than a piece is in memory.
async fn content(path: &Path) -> Result<Content, String> {
    let (mut file, mut digest, mut piece) = (open(path).await?, Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece).await.map_err(|error| error.to_string())? {
            0 => return Ok(Content(digest.finalize().into())),
            bytes => digest.update(&piece[..bytes]),
        }
    }
}

async fn open(path: &Path) -> Result<impl AsyncRead + Unpin + use<>, String> {
    let metadata = tokio::fs::metadata(path).await.map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        // A pipe could wait for ever, and a device never end.
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
        let (names, content) = read_if_changed(&path, None).await.unwrap().unwrap();
        assert_eq!(names, ["ann", "ben"]);
        assert_eq!(read_if_changed(&path, Some(content)).await, Ok(None));
        write("ann\ncyd\n");
        let (names, changed) = read_if_changed(&path, Some(content)).await.unwrap().unwrap();
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
        let known = Some(Content([0; 32]));
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
