//! The ledger's store as the engine has it, opened behind the exporter's back.

use std::path::Path;
use std::time::{Duration, Instant};

/// Nothing a test waits for takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens the store in a directory, once it is free: the engine's threads let go of its file some time after it was dropped, and
/// so does a process some time after it was killed.
pub(crate) fn open(directory: &Path) -> sled::Db {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match sled::open(directory) {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock") && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            opened => return opened.unwrap(),
        }
    }
}
