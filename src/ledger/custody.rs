//! Custody of the state directory: the ledger uses only files that no other user could have put there, and follows no
//! link.
//!
//! ```text
//!  the directory's owner      other users may write to it          result
//!   the exporter's user        no, or yes                           it is closed to others, mode 0700
//!   root                       no, or a group of the exporter's     it is used, and its group trusted like its owner
//!   root                       another group, or everybody          it is used, with a warning
//!   another user                                                    it is refused
//! ```
//!
//! The second row is also a volume of Kubernetes with `fsGroup`: owned by root, mode 2775, with a group of the pod.
//! Files in such a directory may belong to any user of the group. In any other directory they must belong to the
//! exporter's user or root. So other users cannot plant files in a directory of the third row, such as a volume with
//! mode 0777. They can remove or rename files there, and the warning says so.
//!
//! The exporter's user is the effective user, and also the owner of a file that the exporter makes there, because file
//! servers map users.
//!
//! The path of the directory itself may have links, because the operator chooses it (systemd makes one for
//! `DynamicUser`). Below it links are refused. `ledger` may be a mount.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::error::LedgerError;

/// The mode of a directory and of a file that the exporter makes.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The largest part of a small file that is read, in bytes.
const SMALL_FILE_BYTES_MAX: u64 = 64 << 10;

/// Mode bits: all rights of users other than the owner, and the rights to write of the group and of everybody.
const OTHERS: u32 = 0o077;
const GROUP_WRITES: u32 = 0o020;
const EVERYBODY_WRITES: u32 = 0o002;

const ROOT: u32 = 0;

/// The exporter's users and groups on one file system.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Us {
    users: Vec<u32>,
    groups: Vec<u32>,
}

/// Owner, group and mode of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DirectoryOwner {
    owner: u32,
    group: u32,
    mode: u32,
}

/// The result of judging a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// It belongs to the exporter's user.
    Ours,
    /// It belongs to root, and only root or our group can write to it. `any_owner`: the group is trusted.
    Roots { any_owner: bool },
    /// It belongs to root, and other users can write to it.
    Open,
    /// It belongs to this other user.
    Strangers(u32),
}

/// The state directory after its check.
#[derive(Clone, Debug)]
pub(super) struct Custody {
    us: Us,
    /// Only trusted users could have put files there, so files may have any owner.
    any_owner: bool,
}

impl Us {
    fn judge(&self, found: DirectoryOwner) -> Verdict {
        let DirectoryOwner { owner, group, mode } = found;
        if self.users.contains(&owner) {
            return Verdict::Ours;
        }
        if owner != ROOT {
            return Verdict::Strangers(owner);
        }
        let group_writes = mode & GROUP_WRITES != 0;
        if mode & EVERYBODY_WRITES != 0 || (group_writes && !self.groups.contains(&group)) {
            return Verdict::Open;
        }
        Verdict::Roots { any_owner: group_writes }
    }

    fn owns(&self, owner: u32) -> bool {
        owner == ROOT || self.users.contains(&owner)
    }
}

impl Custody {
    /// Makes the state directory if it is not there, for the exporter alone. Checks the directory and the entries that
    /// the ledger uses. Closes a directory of the exporter's user that is open to others.
    ///
    /// # Errors
    /// `Untrusted`: other users could have put files there. `Storage`: it cannot be made or read.
    pub(super) fn of(path: &Path, is_ours: impl Fn(&str) -> bool) -> Result<Self, LedgerError> {
        make_directory(path)?;
        let failed = |error: io::Error| LedgerError::io("cannot look at", path, &error);
        let directory = File::open(path).map_err(failed)?;
        let found = DirectoryOwner::of(&directory).map_err(failed)?;
        let mut us = Us::effective().map_err(failed)?;
        if !us.owns(found.owner) {
            // The owner of a new file. It has no name, so that no other file can be in its way.
            us.users.extend(tempfile::tempfile_in(path).and_then(|file| file.metadata()).map(|file| file.uid()));
        }
        let any_owner = match us.judge(found) {
            Verdict::Ours => {
                if close(&directory, found, path)? {
                    log_open_directory(path, found);
                }
                false
            }
            Verdict::Roots { any_owner } => any_owner,
            Verdict::Open => {
                log_writable_directory(path, found);
                false
            }
            Verdict::Strangers(owner) => {
                return Err(LedgerError::untrusted(
                    path,
                    &format!("it belongs to user {owner}"),
                    "run the exporter and its commands as that user, or give the directory to the exporter's with chown -R",
                ));
            }
        };
        let custody = Self { us, any_owner };
        custody.look_through(path, is_ours)?;
        Ok(custody)
    }

    /// Checks a store's directory in the state directory, and the entries that the engine uses.
    ///
    /// # Errors
    /// As [`Custody::of`].
    pub(super) fn check(&self, path: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), LedgerError> {
        let directory = open_directory(path)?;
        let found = DirectoryOwner::of(&directory).map_err(|error| LedgerError::io("cannot look at", path, &error))?;
        match self.us.judge(found) {
            Verdict::Ours => {
                close(&directory, found, path)?;
            }
            // Each entry is checked below.
            Verdict::Roots { .. } | Verdict::Open => {}
            // The volume's group is trusted.
            Verdict::Strangers(_) if self.any_owner && found.mode & EVERYBODY_WRITES == 0 => {}
            Verdict::Strangers(owner) => return Err(strange(path, owner)),
        }
        self.look_through(path, is_ours)
    }

    fn look_through(&self, directory: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), LedgerError> {
        let failed = |error: io::Error| LedgerError::io("cannot look through", directory, &error);
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !is_ours(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let path = entry.path();
            let found = match fs::symlink_metadata(&path) {
                Ok(found) => found,
                // Another process that uses the state has removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            if found.is_symlink() {
                return Err(linked(&path));
            }
            // Opening a named pipe could block.
            if !found.is_file() && !found.is_dir() {
                let problem = "it is neither a file nor a directory";
                return Err(LedgerError::untrusted(&path, problem, "look at what it is, and remove it"));
            }
            if !self.any_owner && !self.us.owns(found.uid()) {
                return Err(strange(&path, found.uid()));
            }
        }
        Ok(())
    }
}

impl Us {
    fn effective() -> io::Result<Self> {
        let mut groups: Vec<u32> = rustix::process::getgroups()?.into_iter().map(|group| group.as_raw()).collect();
        groups.push(rustix::process::getegid().as_raw());
        Ok(Self { users: vec![rustix::process::geteuid().as_raw()], groups })
    }
}

impl DirectoryOwner {
    fn of(directory: &File) -> io::Result<Self> {
        let found = directory.metadata()?;
        Ok(Self { owner: found.uid(), group: found.gid(), mode: found.mode() & 0o7777 })
    }

    /// Names the other users who can write to the directory.
    fn writers(self) -> &'static str {
        if self.mode & EVERYBODY_WRITES != 0 { "everybody" } else { "a group that is not the exporter's" }
    }

    fn others_write(self) -> bool {
        self.mode & (GROUP_WRITES | EVERYBODY_WRITES) != 0
    }
}

/// Closes a directory of the exporter's user to other users. Returns whether that was needed.
fn close(directory: &File, found: DirectoryOwner, path: &Path) -> Result<bool, LedgerError> {
    if found.mode & OTHERS == 0 {
        return Ok(false);
    }
    let closed =
        directory.set_permissions(Permissions::from_mode(DIRECTORY_MODE)).and_then(|()| DirectoryOwner::of(directory));
    match closed {
        Ok(closed) if !closed.others_write() => Ok(true),
        Ok(_) => Err(LedgerError::untrusted(
            path,
            "others can write to it, and its mode cannot be changed",
            "mount it so that only the exporter's user can",
        )),
        // Some file systems have no modes to change. Other users cannot write there.
        Err(_) if !found.others_write() => Ok(false),
        Err(error) => Err(LedgerError::io("cannot change the mode of", path, &error)),
    }
}

fn log_open_directory(path: &Path, found: DirectoryOwner) {
    const CLOSED: &str = "the state directory was open to other users; it is the exporter's alone now";
    let (path, mode) = (path.display(), format!("{:o}", found.mode));
    if found.others_write() {
        tracing::warn!(%path, mode, "{CLOSED}");
    } else {
        tracing::info!(%path, mode, "{CLOSED}");
    }
}

fn log_writable_directory(path: &Path, found: DirectoryOwner) {
    tracing::warn!(
        path = %path.display(),
        mode = format!("{:o}", found.mode),
        writers = found.writers(),
        remedy = "set state.path to a directory below it, which the exporter makes for itself alone",
        "the state directory belongs to root and others can write to it: they could remove or rename the ledger"
    );
}

fn linked(path: &Path) -> LedgerError {
    LedgerError::untrusted(
        path,
        "it is a symbolic link, and the exporter follows none in its state",
        "look at where it leads, and remove it; a ledger on another disk is mounted there, not linked",
    )
}

fn strange(path: &Path, owner: u32) -> LedgerError {
    LedgerError::untrusted(
        path,
        &format!("it belongs to user {owner}"),
        "look at what it is, and remove it, or give it to the exporter's user with chown -R",
    )
}

/// Makes a directory for the exporter alone, and those above it, if it is not there.
pub(super) fn make_directory(path: &Path) -> Result<(), LedgerError> {
    let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
    made.map_err(|error| LedgerError::io("cannot make the directory", path, &error))
}

/// Options to open files of the state: they follow no link, and new files are for the exporter alone.
pub(super) fn options() -> OpenOptions {
    let mut options = File::options();
    options.mode(FILE_MODE).custom_flags(flags(OFlags::NOFOLLOW));
    options
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

fn open_directory(path: &Path) -> Result<File, LedgerError> {
    let mut options = File::options();
    options.read(true).custom_flags(flags(OFlags::NOFOLLOW | OFlags::DIRECTORY));
    options.open(path).map_err(|error| unopened("cannot open", path, &error))
}

/// Makes the error of a file that could not be opened with [`options`].
pub(super) fn unopened(doing: &str, path: &Path, error: &io::Error) -> LedgerError {
    if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
        linked(path)
    } else {
        LedgerError::io(doing, path, error)
    }
}

/// Makes a new file. Removes a file that is there, which a process left when it died.
pub(super) fn new_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    options().write(true).create_new(true).open(path)
}

/// Reads a small file, up to its largest part.
pub(super) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    options().read(true).open(path)?.take(SMALL_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_judged_by_its_owner_its_group_and_its_mode() {
        let us = Us { users: vec![65532], groups: vec![65532, 2000] };
        let trusted = Verdict::Roots { any_owner: true };
        for (owner, group, mode, verdict) in [
            (65532, 0, 0o700, Verdict::Ours),
            (65532, 0, 0o777, Verdict::Ours),
            (0, 0, 0o755, Verdict::Roots { any_owner: false }),
            (0, 2000, 0o2775, trusted),
            (0, 65532, 0o2770, trusted),
            (0, 3000, 0o2775, Verdict::Open),
            (0, 2000, 0o2777, Verdict::Open),
            (0, 0, 0o1777, Verdict::Open),
            (1000, 2000, 0o700, Verdict::Strangers(1000)),
            (1000, 65532, 0o2775, Verdict::Strangers(1000)),
        ] {
            assert_eq!(us.judge(DirectoryOwner { owner, group, mode }), verdict, "{owner} {group} {mode:o}");
        }
    }
}
