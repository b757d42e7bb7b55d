//! What can go wrong with the ledger, cut by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why the ledger did not do what it was asked. Clonable, because one failed write fails everybody who waited for it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LedgerError {
    /// Somebody else has it: only a person can tell which of the two shall go on.
    #[error(
        "the state in {} is in use by another process: stop that one, or give this one another state.path",
        .0.display()
    )]
    Locked(PathBuf),
    /// Somebody else could have put there what the ledger would use: only a person can tell what it is.
    #[error("will not use {}: {problem}; {remedy}", .path.display())]
    Untrusted {
        /// The directory or file.
        path: PathBuf,
        /// Why not.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// Nobody has kept a state there.
    #[error("there is no ledger in {}: is it the state.path of an exporter that has run?", .0.display())]
    Absent(PathBuf),
    /// The disk is full, a permission is missing, the device fails. Passing: while the process runs, the ledger tries to
    /// open itself anew, and what was refused may be tried again from what is stored then.
    #[error("cannot use the ledger: {0}")]
    Storage(String),
    /// A stored record is not what was written.
    #[error("the ledger is damaged: {what}: {problem}")]
    Corrupt {
        /// The kind of record; never whose it is.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A newer build has written this; it has been left as it is.
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
    /// The ledger is damaged, and so many damaged ones lie beside it already that a person has to look.
    #[error(
        "the ledger is damaged ({problem}), and {kept} damaged ones are kept already: look at {} and remove what is not \
         needed",
        beside.display()
    )]
    DamagedAgain {
        /// What is wrong this time.
        problem: String,
        /// Damaged ledgers that are kept.
        kept: usize,
        /// Where they lie.
        beside: PathBuf,
    },
    /// Users are known by hashes that nobody here can tell.
    #[error(
        "users in the ledger are known by hashes under the key {key}, which is not given: give it as \
         privacy.former_hash_key_file until every user was listed again; without it they would be counted again"
    )]
    UnknownKey {
        /// The key's name.
        key: String,
    },
    /// A page of a user who has been forgotten meanwhile, or whose name another person has now. Nothing of it was written,
    /// and nothing of it is to be: it was read for somebody else.
    #[error("the user of this page is not enrolled any more")]
    NotEnrolled,
    /// The ledger has been closed: the process is stopping.
    #[error("the ledger is closed")]
    Closed,
}

impl LedgerError {
    /// The storage's own words, with what was being done, and what to do where that is known.
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

    /// A directory or file that somebody else could have put there.
    pub(super) fn untrusted(path: &Path, problem: &str, remedy: &str) -> Self {
        Self::Untrusted { path: path.to_owned(), problem: problem.to_owned(), remedy: remedy.to_owned() }
    }

    /// A record whose bytes make no sense.
    pub(super) fn corrupt(what: &'static str, problem: impl Into<String>) -> Self {
        Self::Corrupt { what, problem: problem.into() }
    }
}
