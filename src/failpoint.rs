//! Failpoints: named steps at which a test lets the process die, to show that a crash loses nothing.
//!
//! In a build with debug assertions, `COGNITO_EXPORTER_TEST_STOP_AT` names a failpoint and a count
//! (`ledger-applied:3`). When the process reaches the failpoint for that time, it dies as by kill -9: nothing unwinds,
//! nothing is flushed, and no thread continues. In other builds a failpoint does nothing. `tests/crashes.rs` covers
//! [`Failpoint::ALL`]: it does not compile without a case for each failpoint.

/// The variable that names a failpoint and a count.
const VARIABLE: &str = "COGNITO_EXPORTER_TEST_STOP_AT";

/// Declares the failpoints once, so that none can be missing from [`Failpoint::ALL`].
macro_rules! failpoints {
    ($($(#[$doc:meta])+ $failpoint:ident = $name:literal,)+) => {
        /// A step of starting, reading, writing, delivering or stopping.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Failpoint {
            $($(#[$doc])+ $failpoint,)+
        }

        impl Failpoint {
            /// Every failpoint.
            pub const ALL: &[Self] = &[$(Self::$failpoint,)+];

            /// Returns the name in `COGNITO_EXPORTER_TEST_STOP_AT`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$failpoint => $name,)+
                }
            }
        }
    };
}

failpoints! {
    /// The ledger has the time since which a pool is followed.
    PoolRecorded = "pool-recorded",
    /// The ledger has newly followed users, and the poller does not have them yet.
    UsersEnrolled = "users-enrolled",
    /// The poller has the newly followed users, too.
    PollerTold = "poller-told",
    /// A page was read and is not evaluated yet.
    PageRead = "page-read",
    /// The ledger's writer has received a page's commit or another request, and has written nothing yet.
    LedgerAsked = "ledger-asked",
    /// A group of requests is in the store's memory.
    LedgerApplied = "ledger-applied",
    /// The store has flushed the group to the operating system.
    LedgerFlushed = "ledger-flushed",
    /// The group is on disk.
    LedgerSynced = "ledger-synced",
    /// Readers see the group, and the callers have no answer yet.
    LedgerPublished = "ledger-published",
    /// The callers have their answers.
    LedgerAnswered = "ledger-answered",
    /// The counters show a page's events.
    MetricsShown = "metrics-shown",
    /// The note of the last commit is written beside the previous one.
    NoteDrafted = "note-drafted",
    /// The note has replaced the previous one.
    NoteRenamed = "note-renamed",
    /// A batch is ready for the receiver.
    BatchCollected = "batch-collected",
    /// The receiver has answered, and the ledger does not have the answer yet.
    BatchAnswered = "batch-answered",
    /// The ledger has removed the delivered entries.
    BatchSettled = "batch-settled",
    /// The ledger has moved the refused entries to the quarantine.
    QuarantineSettled = "quarantine-settled",
    /// The ledger is closed by a stop.
    LedgerClosed = "ledger-closed",
}

/// Returns whether an environment variable is the one that names a failpoint. Builds without failpoints have none.
pub(crate) fn is_variable(name: &str) -> bool {
    cfg!(debug_assertions) && name == VARIABLE
}

/// Dies here if the test's variable names this failpoint.
#[inline]
pub fn reached(failpoint: Failpoint) {
    #[cfg(debug_assertions)]
    armed::reached(failpoint);
    #[cfg(not(debug_assertions))]
    let _ = failpoint;
}

#[cfg(debug_assertions)]
mod armed {
    use std::io::Write as _;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Failpoint, VARIABLE};

    /// The failpoint at which this process dies.
    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let armed = Armed::parse(&text);
        if armed.is_none() {
            die(&format!("{VARIABLE}={text} names no failpoint and count"));
        }
        armed
    });

    struct Armed {
        failpoint: Failpoint,
        count: u64,
        reached: AtomicU64,
    }

    impl Armed {
        fn parse(text: &str) -> Option<Self> {
            let (name, count) = text.split_once(':')?;
            let failpoint = *Failpoint::ALL.iter().find(|failpoint| failpoint.name() == name)?;
            Some(Self { failpoint, count: count.parse().ok()?, reached: AtomicU64::new(0) })
        }
    }

    pub(super) fn reached(failpoint: Failpoint) {
        if let Some(armed) = &*ARMED
            && armed.failpoint == failpoint
            && armed.reached.fetch_add(1, Ordering::Relaxed) + 1 == armed.count
        {
            die(&format!("died at {}:{}, as {VARIABLE} asks", failpoint.name(), armed.count));
        }
    }

    /// Prints the reason, and ends the process without another step of any thread.
    fn die(why: &str) -> ! {
        // The process dies even if stderr cannot be written.
        let _ = writeln!(std::io::stderr(), "{why}");
        std::process::abort()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Failpoint;

    #[test]
    fn each_step_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Failpoint::ALL.iter().map(|failpoint| failpoint.name()).collect();
        assert_eq!(names.len(), Failpoint::ALL.len());
    }
}
