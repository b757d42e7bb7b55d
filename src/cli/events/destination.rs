//! Where the bytes go: a stream such as stdout, or a file that appears when it is whole.
//!
//! A file is written beside its place and moved there at the end. A run with a journal writes to `FILE.partial`, which
//! stays when the run is interrupted: the next run cuts it to the length that the journal names.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tempfile::NamedTempFile;

/// A destination of bytes.
pub(super) struct Destination {
    kind: DestinationKind,
    /// The bytes written, in this run and before.
    written: u64,
}

enum DestinationKind {
    /// None while a write is under way, and after one that was given up.
    Stream(Option<Box<dyn Write + Send>>),
    /// A file that is dropped unless it is completed.
    Temporary { file: NamedTempFile, path: PathBuf },
    /// A file that a later run continues.
    Partial { file: File, partial: PathBuf, path: PathBuf },
}

impl Destination {
    /// A stream that has taken `written` bytes in earlier runs.
    pub(super) fn stream(stream: Box<dyn Write + Send>, written: u64) -> Self {
        Self { kind: DestinationKind::Stream(Some(stream)), written }
    }

    /// A file that appears at the end of this run.
    ///
    /// # Errors
    /// Its folder cannot be written.
    pub(super) fn file(path: &Path) -> anyhow::Result<Self> {
        let file = NamedTempFile::new_in(folder(path)).with_context(|| format!("write beside {}", path.display()))?;
        Ok(Self { kind: DestinationKind::Temporary { file, path: path.to_owned() }, written: 0 })
    }

    /// A file that has taken `written` bytes in earlier runs. Further bytes are cut off: an earlier run died before it
    /// had noted them.
    ///
    /// # Errors
    /// The file cannot be written, or has fewer bytes.
    pub(super) fn continued_file(path: &Path, written: u64) -> anyhow::Result<Self> {
        let partial = partial_path(path);
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(&partial);
        let mut file = open.with_context(|| format!("write {}", partial.display()))?;
        let length = file.metadata().with_context(|| format!("look at {}", partial.display()))?.len();
        if length < written {
            bail!(
                "{} has {length} bytes, and the journal says {written}: it is not the file of that run; remove both to \
                 begin anew",
                partial.display()
            );
        }
        file.set_len(written).and_then(|()| file.seek(SeekFrom::End(0))).context("continue the partial file")?;
        Ok(Self { kind: DestinationKind::Partial { file, partial, path: path.to_owned() }, written })
    }

    /// The bytes written, in this run and before.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The file that holds the events of an incomplete run.
    pub(super) fn partial(&self) -> Option<&Path> {
        match &self.kind {
            DestinationKind::Partial { partial, .. } => Some(partial),
            DestinationKind::Stream(_) | DestinationKind::Temporary { .. } => None,
        }
    }

    /// Writes bytes. A stream is written on a thread for it, so that a reader who does not read does not hold up a
    /// stop.
    ///
    /// # Errors
    /// The destination cannot be written.
    pub(super) async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let count = bytes.len() as u64;
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.kind {
            DestinationKind::Stream(stream) => {
                let mut taken = stream.take().ok_or_else(|| io::Error::other("an earlier write was given up"))?;
                let write = move || {
                    let written = taken.write_all(&bytes).and_then(|()| taken.flush());
                    (taken, written)
                };
                let (taken, written) = tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?;
                *stream = Some(taken);
                written?;
            }
            DestinationKind::Temporary { file, .. } => file.write_all(&bytes)?,
            DestinationKind::Partial { file, .. } => {
                file.write_all(&bytes)?;
                // The journal must never know of more than the disk has.
                file.sync_data()?;
            }
        }
        self.written += count;
        Ok(())
    }

    /// Whether what was written can be taken back.
    pub(super) fn takes_back(&self) -> bool {
        matches!(self.kind, DestinationKind::Partial { .. })
    }

    /// Takes back everything beyond `written` bytes. It has no effect where nothing can be taken back.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn take_back(&mut self, written: u64) -> io::Result<()> {
        if let DestinationKind::Partial { file, .. } = &mut self.kind {
            file.set_len(written)?;
            file.seek(SeekFrom::End(0))?;
            self.written = written;
        }
        Ok(())
    }

    /// Ends a whole output: a file appears at its place.
    ///
    /// # Errors
    /// The file cannot be written or moved.
    pub(super) fn complete(self) -> anyhow::Result<()> {
        match self.kind {
            DestinationKind::Stream(_) => Ok(()),
            DestinationKind::Temporary { file, path } => {
                file.as_file().sync_all().with_context(|| format!("write {}", path.display()))?;
                file.persist(&path).with_context(|| format!("move the events to {}", path.display()))?;
                Ok(())
            }
            DestinationKind::Partial { file, partial, path } => {
                file.sync_all().with_context(|| format!("write {}", partial.display()))?;
                std::fs::rename(&partial, &path).with_context(|| format!("move the events to {}", path.display()))
            }
        }
    }
}

/// The folder of a file.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name of the file of an incomplete run.
fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_appears_when_it_is_whole_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.csv");
        let mut destination = Destination::file(&path).unwrap();
        destination.write(b"one\n".to_vec()).await.unwrap();
        assert!(!path.exists());
        destination.complete().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        // One that is given up leaves nothing, and the earlier file as it was.
        let mut destination = Destination::file(&path).unwrap();
        destination.write(b"two\n".to_vec()).await.unwrap();
        drop(destination);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_continued_file_is_cut_to_what_was_noted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.csv");
        let mut destination = Destination::continued_file(&path, 0).unwrap();
        destination.write(b"one\ntwo\n".to_vec()).await.unwrap();
        drop(destination);
        let mut destination = Destination::continued_file(&path, 4).unwrap();
        destination.write(b"three\n".to_vec()).await.unwrap();
        assert_eq!(destination.written(), 10);
        destination.complete().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\nthree\n");
        assert!(!partial_path(&path).exists());
        let error = Destination::continued_file(&path, 4).err().unwrap().to_string();
        assert!(error.contains("remove both"), "{error}");
    }
}
