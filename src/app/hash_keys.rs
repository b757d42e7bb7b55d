//! The keys of hashes, from their files.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use tracing::warn;

use crate::config::PrivacyConfig;
use crate::privacy::{HashKey, Privacy};

/// Bytes of a key file at most: more than any key, and not a disk image given by mistake.
const FILE_BYTES_MAX: u64 = 4096;

/// Reads the keys that the configuration names.
///
/// # Errors
/// A file cannot be read, or holds no key: each says what to do.
pub fn privacy(config: &PrivacyConfig) -> anyhow::Result<Privacy> {
    let key = config.hash_key_file.as_deref().map(read).transpose().context("privacy.hash_key_file")?;
    let former = config.former_hash_key_file.as_deref().map(read).transpose();
    let privacy = Privacy::new(config.modes, key, former.context("privacy.former_hash_key_file")?);
    privacy.context("privacy.hash_key_file is needed")
}

fn read(path: &Path) -> anyhow::Result<HashKey> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    warn_of_readers(path, &file);
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        bail!("{shown} is larger than {FILE_BYTES_MAX} bytes, no key");
    }
    // An editor's line end is no part of the key.
    let key = bytes.strip_suffix(b"\n").map_or(bytes.as_slice(), |key| key.strip_suffix(b"\r").unwrap_or(key));
    HashKey::new(key).with_context(|| {
        let (least, len) = (HashKey::BYTES_MIN, key.len());
        format!("{shown} holds {len} bytes, and a key has {least} or more: make one with `openssl rand -hex {least}`")
    })
}

#[cfg(unix)]
fn warn_of_readers(path: &Path, file: &File) {
    use std::os::unix::fs::PermissionsExt as _;
    if file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0) {
        warn!(file = %path.display(), "every user of this machine may read the key of the hashes: chmod o= it");
    }
}

#[cfg(not(unix))]
fn warn_of_readers(_path: &Path, _file: &File) {}
