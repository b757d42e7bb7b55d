//! Where the bytes go: a stream such as stdout, or a file that appears when it is whole.
//!
//! A file is written beside its place and moved there at the end. A run with a journal writes to `FILE.partial`, which
//! stays when the run is interrupted: the next run cuts it to the length that the journal names. A file of this name
//! that the journal does not know is left alone.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tempfile::NamedTempFile;

use super::files::{self, MODE};
use super::output_place::OutputPlace;

/// The noun of the file of an incomplete run in messages.
const PARTIAL_FILE: &str = "file";

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
    Temporary { file: NamedTempFile, place: OutputPlace },
    /// A file that a later run continues.
    Partial { file: File, partial: PathBuf, place: OutputPlace },
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
    pub(super) fn file(place: OutputPlace) -> anyhow::Result<Self> {
        let write = || format!("write beside {}", place.path().display());
        let file = NamedTempFile::new_in(files::folder(place.path())).with_context(write)?;
        Ok(Self { kind: DestinationKind::Temporary { file, place }, written: 0 })
    }

    /// A file that has taken `written` bytes in earlier runs. Further bytes are cut off: an earlier run died before it
    /// had noted them. Unless it `is_ours`, it must be absent or empty.
    ///
    /// # Errors
    /// The file is in use, belongs to another journal, cannot be written, or has fewer bytes.
    pub(super) fn continued_file(place: OutputPlace, is_ours: bool, written: u64) -> anyhow::Result<Self> {
        let partial = place.partial();
        let shown = partial.display();
        let mut options = OpenOptions::new();
        options.write(true).mode(MODE);
        let (mut file, length) = match files::open(&partial, &options, PARTIAL_FILE)? {
            Some(file) => {
                let length = file.metadata().with_context(|| format!("look at {shown}"))?.len();
                (file, length)
            }
            None if written > 0 => {
                bail!("{shown} is missing, and the journal says {written} bytes: remove the journal to begin anew")
            }
            None => {
                let file = options.create_new(true).open(&partial).with_context(|| format!("write {shown}"))?;
                files::lock(&file, &partial, PARTIAL_FILE)?;
                (file, 0)
            }
        };
        if !is_ours && length > 0 {
            bail!(
                "{shown} is there and does not belong to this journal: continue the run that left it with its own \
                 journal, or remove it"
            );
        }
        if length < written {
            bail!(
                "{shown} has {length} bytes, and the journal says {written}: it is not the file of that run; remove \
                 both to begin anew"
            );
        }
        file.set_permissions(Permissions::from_mode(MODE)).with_context(|| format!("set the mode of {shown}"))?;
        file.set_len(written).and_then(|()| file.seek(SeekFrom::End(0))).context("continue the partial file")?;
        Ok(Self { kind: DestinationKind::Partial { file, partial, place }, written })
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

    /// Makes a whole output durable. Returns the number of its inode, where a later run may have to know the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn sync(&self) -> anyhow::Result<Option<u64>> {
        let (file, path) = match &self.kind {
            DestinationKind::Stream(_) => return Ok(None),
            DestinationKind::Temporary { file, place } => (file.as_file(), place.path()),
            DestinationKind::Partial { file, partial, .. } => (file, partial.as_path()),
        };
        let write = || format!("write {}", path.display());
        file.sync_all().with_context(write)?;
        Ok(Some(files::inode(&file.metadata().with_context(write)?).1))
    }

    /// Ends a whole output, which [`Destination::sync`] has made durable: a file appears at its place.
    ///
    /// # Errors
    /// The file cannot be moved.
    pub(super) fn complete(self) -> anyhow::Result<()> {
        let place = match self.kind {
            DestinationKind::Stream(_) => return Ok(()),
            DestinationKind::Temporary { file, place } => {
                place.permit(file.as_file())?;
                let moved = file.persist(place.path()).map_err(|error| error.error);
                moved.with_context(|| format!("move the events to {}", place.path().display()))?;
                place
            }
            DestinationKind::Partial { file, partial, place } => {
                place.permit(&file)?;
                let moved = fs::rename(&partial, place.path());
                moved.with_context(|| format!("move the events to {}", place.path().display()))?;
                place
            }
        };
        files::sync_folder(place.path()).with_context(|| format!("move the events to {}", place.path().display()))
    }

    /// Ends the output of an earlier run that died after it was whole, with `bytes` in the file of this inode. The
    /// file has been moved already, or it is moved now.
    ///
    /// # Errors
    /// The file is gone or is another one, or it cannot be moved.
    pub(super) fn complete_earlier(place: OutputPlace, inode: Option<u64>, bytes: u64) -> anyhow::Result<()> {
        let is_it = |path: &Path| {
            let found = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file);
            found.is_some_and(|found| Some(files::inode(&found).1) == inode && found.len() == bytes)
        };
        if is_it(place.path()) {
            files::sync_folder(place.path()).with_context(|| format!("sync the folder of {}", place.path().display()))
        } else if is_it(&place.partial()) {
            Self::continued_file(place, true, bytes)?.complete()
        } else {
            bail!(
                "the journal says that the events are complete in {}, and they are not there: remove the journal to \
                 begin anew",
                place.path().display()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &Path) -> OutputPlace {
        OutputPlace::of(path).unwrap()
    }

    #[tokio::test]
    async fn a_file_appears_when_it_is_whole_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.csv");
        let mut destination = Destination::file(place(&path)).unwrap();
        destination.write(b"one\n".to_vec()).await.unwrap();
        assert!(!path.exists());
        destination.complete().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        // One that is given up leaves nothing, and the earlier file as it was.
        let mut destination = Destination::file(place(&path)).unwrap();
        destination.write(b"two\n".to_vec()).await.unwrap();
        drop(destination);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_continued_file_is_cut_to_what_was_noted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.csv");
        let mut destination = Destination::continued_file(place(&path), false, 0).unwrap();
        destination.write(b"one\ntwo\n".to_vec()).await.unwrap();
        drop(destination);
        let mut destination = Destination::continued_file(place(&path), true, 4).unwrap();
        destination.write(b"three\n".to_vec()).await.unwrap();
        assert_eq!(destination.written(), 10);
        destination.complete().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\nthree\n");
        assert!(!place(&path).partial().exists());
        let error = Destination::continued_file(place(&path), true, 4).err().unwrap().to_string();
        assert!(error.contains("remove the journal to begin anew"), "{error}");
    }
    #[tokio::test]
    async fn a_partial_file_of_somebody_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.csv");
        let partial = place(&path).partial();
        let refused = |is_ours| Destination::continued_file(place(&path), is_ours, 0).err().unwrap().to_string();
        fs::write(&partial, "precious\n").unwrap();
        assert!(refused(false).contains("does not belong to this journal"), "{}", refused(false));
        assert_eq!(fs::read_to_string(&partial).unwrap(), "precious\n");
        fs::rename(&partial, folder.path().join("target")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("target"), &partial).unwrap();
        assert!(refused(true).contains("is a link, not a regular file"), "{}", refused(true));
        assert_eq!(fs::read_to_string(folder.path().join("target")).unwrap(), "precious\n");
        fs::remove_file(&partial).unwrap();
        // One that an earlier run had just made is taken, and only by one run at a time.
        fs::write(&partial, "").unwrap();
        fs::set_permissions(&partial, Permissions::from_mode(0o644)).unwrap();
        let mut ours = Destination::continued_file(place(&path), false, 0).unwrap();
        assert_eq!(fs::metadata(&partial).unwrap().permissions().mode() & 0o777, 0o600);
        ours.write(b"one\n".to_vec()).await.unwrap();
        assert!(refused(true).contains("another run uses the file"), "{}", refused(true));
        assert_eq!(fs::read_to_string(&partial).unwrap(), "one\n");
    }

    #[tokio::test]
    async fn a_run_that_died_around_its_last_move_is_completed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.csv");
        let mut whole = Destination::continued_file(place(&path), false, 0).unwrap();
        whole.write(b"one\n".to_vec()).await.unwrap();
        let inode = whole.sync().unwrap();
        drop(whole); // died before the move
        for _ in 0..2 {
            // The second time the file is there already: it died after the move.
            Destination::complete_earlier(place(&path), inode, 4).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
            assert!(!place(&path).partial().exists());
        }
        // A later file of that name is not taken for it.
        fs::rename(&path, folder.path().join("kept")).unwrap();
        fs::write(&path, "two\n").unwrap();
        let refused = Destination::complete_earlier(place(&path), inode, 4).err().unwrap().to_string();
        assert!(refused.contains("they are not there"), "{refused}");
    }
}
