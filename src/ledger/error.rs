//! The ledger's errors, divided by what the caller can do about them.

use std::io;
use std::path::{Path, PathBuf};

/// Why the ledger did not do what it was asked. It is `Clone` because one failed write fails all requests of its batch.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process has the state open. Only a person can decide which of the two continues.
    #[error(
        "the state in {} is in use by another process: stop that one, or give this one another state.path",
        .0.display()
    )]
    Locked(PathBuf),
    /// Another user could have put a file there that the ledger would use. Only a person can decide what it is.
    #[error("will not use {}: {problem}; {remedy}", .path.display())]
    Untrusted {
        /// The directory or file.
        path: PathBuf,
        /// Why it is not used.
        problem: String,
        /// The remedy.
        remedy: String,
    },
    /// There is no ledger in the directory.
    #[error("there is no ledger in {}: is it the state.path of an exporter that has run?", .0.display())]
    Absent(PathBuf),
    /// The disk is full, a permission is missing, or the device fails. This error is passing: while the process runs,
    /// the ledger tries to open its store again. Callers then read what is stored and try again.
    #[error("cannot use the ledger: {0}")]
    Storage(String),
    /// A stored record or the store is damaged.
    #[error("the ledger is damaged: {what}: {problem}")]
    Corrupt {
        /// The kind of record, without a user's name.
        what: &'static str,
        /// The damage.
        problem: String,
    },
    /// A newer build has written this record. It is unchanged.
    #[error(
        "{what} in the ledger has version {found}, this build knows versions up to {known}: run the newer build again"
    )]
    NewerVersion {
        /// The kind of record.
        what: &'static str,
        /// The version that was found.
        found: u32,
        /// The newest version that this build reads.
        known: u32,
    },
    /// The ledger is damaged, and no more damaged ledgers are kept beside it. A person has to look.
    #[error(
        "the ledger is damaged ({problem}), and {kept} damaged ones are kept already: look at {} and remove what is not \
         needed",
        beside.display()
    )]
    DamagedAgain {
        /// The damage of the present ledger.
        problem: String,
        /// Number of damaged ledgers that are kept.
        kept: usize,
        /// The directory that has them.
        beside: PathBuf,
    },
    /// The ledger has users hashed with a key that is not given.
    #[error(
        "users in the ledger are known by hashes under the key {key}, which is not given: give it as \
         privacy.former_hash_key_file until every user was listed again; without it they would be counted again"
    )]
    UnknownKey {
        /// The key's name.
        key: String,
    },
    /// The page's user was forgotten meanwhile, or another person has the name now. Nothing of the page was written,
    /// and the caller drops it.
    #[error("the user of this page is not enrolled any more")]
    NotEnrolled,
    /// The export has told an event of this page since the page was judged. Nothing of the page was written, and the
    /// caller judges it again.
    #[error("the export has told an event of this page meanwhile")]
    ToldMeanwhile,
    /// The ledger has been closed: the process is stopping.
    #[error("the ledger is closed")]
    Closed,
}

impl LedgerError {
    /// Makes a `Storage` error with the operation, its path, the system's error, and a remedy where one is known.
    pub(super) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory => {
                "; state.path has to be a directory that the exporter's user can write to"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room on that disk",
            _ => "",
        };
        Self::Storage(format!("{doing} {}: {error}{remedy}", path.display()))
    }

    /// Makes the error of a directory or file that another user could have put there.
    pub(super) fn untrusted(path: &Path, problem: &str, remedy: &str) -> Self {
        Self::Untrusted { path: path.to_owned(), problem: problem.to_owned(), remedy: remedy.to_owned() }
    }

    /// Makes the error of a damaged record.
    pub(super) fn corrupt(what: &'static str, problem: impl Into<String>) -> Self {
        Self::Corrupt { what, problem: problem.into() }
    }
}
