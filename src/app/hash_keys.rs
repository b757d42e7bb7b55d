//! The hash keys, read from their files at the start and at no other time.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use cognito_auth_core::privacy::{HashKey, Privacy};
use tracing::warn;

use crate::config::PrivacyConfig;

/// Largest key file, in bytes: more than any key, and less than a file that is named by mistake.
const FILE_BYTES_MAX: u64 = 4096;

/// The warning about a key that other users of the machine may read.
pub const TOO_OPEN: &str = "every user of this machine may read the key of the hashes: chmod o= it";

/// A key and the permissions of its file.
pub struct KeyFile {
    /// The key.
    pub key: HashKey,
    /// Whether every user of the machine may read the file.
    pub is_open: bool,
}

/// Reads the keys that the configuration names.
///
/// # Errors
/// A file cannot be read, or holds no key: each says what to do.
pub fn privacy(config: &PrivacyConfig) -> anyhow::Result<Privacy> {
    let read = |path: &Path| {
        let KeyFile { key, is_open } = read(path)?;
        if is_open {
            warn!(file = %path.display(), "{TOO_OPEN}");
        }
        anyhow::Ok(key)
    };
    let key = config.hash_key_file.as_deref().map(read).transpose().context("privacy.hash_key_file")?;
    let former = config.former_hash_key_file.as_deref().map(read).transpose();
    let privacy = Privacy::new(config.modes, key, former.context("privacy.former_hash_key_file")?);
    privacy.context("privacy.hash_key_file is needed")
}

/// Reads one key.
///
/// # Errors
/// The file cannot be read, or holds no key.
pub fn read(path: &Path) -> anyhow::Result<KeyFile> {
    let shown = path.display();
    let metadata = match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let least = HashKey::BYTES_MIN;
            bail!("there is no file {shown}: a key is made with `openssl rand -hex {least} >{shown}`");
        }
        metadata => metadata.with_context(|| format!("cannot open {shown}"))?,
    };
    // Reading a pipe could wait for ever, and reading a device never end.
    if !metadata.is_file() {
        bail!("{shown} is not a regular file");
    }
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    let is_open = is_open(&file);
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        bail!("{shown} is larger than {FILE_BYTES_MAX} bytes, no key");
    }
    // An editor's line end is no part of the key.
    let key = bytes.strip_suffix(b"\n").map_or(bytes.as_slice(), |key| key.strip_suffix(b"\r").unwrap_or(key));
    let key = HashKey::new(key).with_context(|| {
        let (least, len) = (HashKey::BYTES_MIN, key.len());
        format!("{shown} holds {len} bytes, and a key has {least} or more: make one with `openssl rand -hex {least}`")
    })?;
    Ok(KeyFile { key, is_open })
}

#[cfg(unix)]
fn is_open(file: &File) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0)
}

#[cfg(not(unix))]
fn is_open(_file: &File) -> bool {
    false
}
