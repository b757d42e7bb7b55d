//! Files that a run owns: regular ones, opened through no link and locked while they are open.
//!
//! A journal and the file of an incomplete run are cut, written and removed. So each must be the file that its name
//! means, and no other run may write it meanwhile.

use std::fs::{self, File, FileType, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::fs::OFlags;

/// The mode of new files: what they hold is personal data.
pub(super) const MODE: u32 = 0o600;

/// Opens a file that is there, and locks it. Returns None if there is none. `what` is its noun in messages.
///
/// # Errors
/// It is no regular file, is a link, is in use, or cannot be opened.
pub(super) fn open(path: &Path, options: &OpenOptions, what: &str) -> anyhow::Result<Option<File>> {
    let shown = path.display();
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("look at the {what} {shown}")),
    };
    // Opening a pipe or a device could wait for ever, so this comes before.
    if !found.is_file() {
        bail!("the {what} {shown} is a {}, not a regular file: name another one", kind(found.file_type()));
    }
    let mut options = options.clone();
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    let file = options.open(path).with_context(|| format!("open the {what} {shown}"))?;
    lock(&file, path, what)?;
    // Another run may have moved or removed it before the lock was free.
    if inode(&file.metadata()?) != inode(&found)
        || fs::symlink_metadata(path).ok().as_ref().map(inode) != inode_of(&file)
    {
        bail!("another run has just replaced the {what} {shown}: try again");
    }
    Ok(Some(file))
}

/// Locks a file until it is closed.
///
/// # Errors
/// Another run has it, or the file system has no locks.
pub(super) fn lock(file: &File, path: &Path, what: &str) -> anyhow::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => bail!("another run uses the {what} {}", path.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock the {what} {}", path.display())),
    }
}

/// The folder of a file.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the present names in a file's folder durable.
///
/// # Errors
/// The folder cannot be opened or synced.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// Whether two paths mean one file, which need not be there yet.
pub(super) fn are_one(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| Some(fs::canonicalize(folder(path)).ok()?.join(path.file_name()?));
    let found = |path: &Path| fs::metadata(path).ok().as_ref().map(inode);
    place(one).is_some_and(|at| place(other) == Some(at)) || found(one).is_some_and(|at| found(other) == Some(at))
}

/// The device and number of a file.
pub(super) fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn inode_of(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().as_ref().map(inode)
}

/// The kind of a file that is not a regular one.
pub(super) fn kind(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "directory"
    } else if file_type.is_symlink() {
        "link"
    } else if file_type.is_fifo() {
        "pipe"
    } else if file_type.is_socket() {
        "socket"
    } else {
        "device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_is_known_by_its_place_and_by_its_inode() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("real")).unwrap();
        std::os::unix::fs::symlink(at("real"), at("linked")).unwrap();
        assert!(are_one(&at("real/new"), &at("linked/new")) && are_one(&at("real/new"), &at("real/../real/new")));
        assert!(!are_one(&at("real/new"), &at("real/newer")) && !are_one(&at("none/new"), &at("none/new.partial")));
        fs::write(at("real/old"), "").unwrap();
        fs::hard_link(at("real/old"), at("other")).unwrap();
        assert!(are_one(&at("real/old"), &at("other")));
    }

    #[test]
    fn nothing_but_a_regular_file_is_opened_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let open = |name: &str| open(&at(name), OpenOptions::new().read(true).write(true), "journal");
        assert!(open("none").unwrap().is_none());
        let made = std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap();
        assert!(made.success());
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
        for (name, kind) in [("fifo", "pipe"), ("link", "link"), ("dangling", "link"), (".", "directory")] {
            let refused = format!("{:#}", open(name).unwrap_err());
            assert!(refused.contains(&format!("is a {kind}, not a regular file")), "{refused}");
            assert_eq!(refused.matches("the journal").count(), 1, "{refused}");
        }
        let held = open("file").unwrap();
        assert!(open("file").unwrap_err().to_string().contains("another run uses the journal"));
        drop(held);
        assert!(open("file").unwrap().is_some());
    }
}
