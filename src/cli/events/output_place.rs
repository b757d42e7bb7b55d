//! The place of an output file: which file a path means, and whether a file may appear there.
//!
//! A run ends with a rename, and a rename replaces whatever has the name. So a link is followed, and everything but a
//! regular file is refused before the first call.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::BadUsage;
use super::files::{self, MODE};

/// A regular file, or a name that is free.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct OutputPlace {
    /// The path behind links.
    path: PathBuf,
}

impl OutputPlace {
    /// The place that a path of `--output-file` means.
    ///
    /// # Errors
    /// It is a device, a pipe, a socket, a directory or a link to nothing, or it cannot be looked at.
    pub(super) fn of(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                bail!(BadUsage(format!("--output-file {shown} is a directory: name a file")))
            }
            Ok(found) if !found.is_file() => bail!(BadUsage(format!(
                "--output-file {shown} is a {}, not a regular file: leave out --output-file, and redirect stdout to it",
                files::kind(found.file_type())
            ))),
            Err(error) if error.kind() == ErrorKind::NotFound && is_link => {
                bail!(BadUsage(format!("--output-file {shown} is a link to nothing: name the file itself")))
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("look at --output-file {shown}"))
            }
            _ if is_link => {
                let path = fs::canonicalize(path).with_context(|| format!("follow the link {shown}"))?;
                Ok(Self { path })
            }
            _ => Ok(Self { path: path.to_owned() }),
        }
    }

    /// The path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the file of an incomplete run.
    pub(super) fn partial(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".partial");
        name.into()
    }

    /// Whether a path is the file, or that of its incomplete run.
    pub(super) fn holds(&self, path: &Path) -> bool {
        files::are_one(&self.path, path) || files::are_one(&self.partial(), path)
    }

    /// Gives a new file the permissions of the one that it will replace.
    ///
    /// # Errors
    /// Something else has come to the place meanwhile, or the permissions cannot be read or set.
    pub(super) fn permit(&self, file: &File) -> anyhow::Result<()> {
        let shown = self.path.display();
        let mode = match fs::symlink_metadata(&self.path) {
            Ok(found) if !found.is_file() => {
                bail!("{shown} has become a {}: it is not replaced", files::kind(found.file_type()))
            }
            // Without the bits that would let a program run as somebody else.
            Ok(found) => found.permissions().mode() & 0o777,
            Err(error) if error.kind() == ErrorKind::NotFound => MODE,
            Err(error) => return Err(error).with_context(|| format!("look at {shown}")),
        };
        file.set_permissions(Permissions::from_mode(mode)).with_context(|| format!("set the mode of {shown}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_followed_and_what_is_no_regular_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let linked = |name: &str| fs::canonicalize(folder.path()).unwrap().join(name);
        fs::create_dir(at("far")).unwrap();
        fs::write(at("far/file"), "").unwrap();
        std::os::unix::fs::symlink(at("far/file"), at("link")).unwrap();
        assert_eq!(OutputPlace::of(&at("link")).unwrap().path(), linked("far/file"));
        assert_eq!(OutputPlace::of(&at("new")).unwrap().path(), at("new"));
        std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (name, told) in [
            ("dangling", "is a link to nothing"),
            ("fifo", "is a pipe, not a regular file: leave out --output-file, and redirect stdout"),
            ("socket", "is a socket, not a regular file"),
            ("far", "is a directory: name a file"),
            ("/dev/null", "is a device, not a regular file"),
        ] {
            let refused = OutputPlace::of(&at(name)).unwrap_err();
            assert!(refused.is::<BadUsage>() && refused.to_string().contains(told), "{refused}");
        }
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_new_one_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let place = OutputPlace::of(&path).unwrap();
        let file = File::create(folder.path().join("new")).unwrap();
        let mode = |file: &File| file.metadata().unwrap().permissions().mode() & 0o7777;
        place.permit(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o4644)).unwrap();
        place.permit(&file).unwrap();
        assert_eq!(mode(&file), 0o644);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(place.permit(&file).unwrap_err().to_string().contains("has become a directory"));
    }
}
