//! The ledger's store, opened directly with the engine.

use std::path::Path;
use std::time::{Duration, Instant};

/// Longer than any wait of a test, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens the store in a directory once it is free. The engine's threads hold its file for a moment after a drop, and so
/// does a process after a kill.
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
