//! The moments between which a crash must lose nothing, by name, so that a test can have the process die at each.
//!
//! In a build with debug assertions the process dies, as by kill -9, when it reaches for the n-th time the step that
//! `COGNITO_EXPORTER_TEST_STOP_AT` names (`ledger-applied:3`): nothing unwinds, nothing is flushed, no thread is asked. In
//! any other build this is nothing at all. `tests/crashes.rs` goes through [`Failpoint::ALL`]: a step that is added here is
//! killed there, or the test does not compile.

/// Declares the steps once, so that none can be missing from [`Failpoint::ALL`].
macro_rules! steps {
    ($($(#[$doc:meta])+ $step:ident = $name:literal,)+) => {
        /// A moment on an event's way, and on the way to being ready for it.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Failpoint {
            $($(#[$doc])+ $step,)+
        }

        impl Failpoint {
            /// Every step.
            pub const ALL: &[Self] = &[$(Self::$step,)+];

            /// What it is called from outside.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$step => $name,)+
                }
            }
        }
    };
}

steps! {
    /// It is written since when a pool is followed.
    PoolRecorded = "pool-recorded",
    /// Users are among the followed users in the ledger; the poller knows nothing of them.
    UsersEnrolled = "users-enrolled",
    /// The poller knows of the users, too.
    PollerTold = "poller-told",
    /// A page was read; nothing follows from it yet.
    PageRead = "page-read",
    /// A page's commit (or another request) has come to the ledger's writer, which has written nothing.
    LedgerAsked = "ledger-asked",
    /// A group of requests is in the store's memory.
    LedgerApplied = "ledger-applied",
    /// The operating system has what the store knows.
    LedgerFlushed = "ledger-flushed",
    /// The disk has it.
    LedgerSynced = "ledger-synced",
    /// Readers see it; who asked for it does not know.
    LedgerPublished = "ledger-published",
    /// Who asked for it knows.
    LedgerAnswered = "ledger-answered",
    /// The counters show what a page held.
    MetricsShown = "metrics-shown",
    /// The note of the last commit is written beside the one before.
    NoteDrafted = "note-drafted",
    /// It has taken its place.
    NoteRenamed = "note-renamed",
    /// A batch is ready for the receiver.
    BatchCollected = "batch-collected",
    /// The receiver has answered; the ledger does not know.
    BatchAnswered = "batch-answered",
    /// The ledger has forgotten what was delivered.
    BatchSettled = "batch-settled",
    /// The ledger has moved to the quarantine what was refused.
    QuarantineSettled = "quarantine-settled",
    /// The ledger is closed, for a stop.
    LedgerClosed = "ledger-closed",
}

/// Dies here if a test wants it.
#[inline]
pub fn reached(step: Failpoint) {
    #[cfg(debug_assertions)]
    armed::reached(step);
    #[cfg(not(debug_assertions))]
    let _ = step;
}

#[cfg(debug_assertions)]
mod armed {
    use std::io::Write as _;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Failpoint;

    const VARIABLE: &str = "COGNITO_EXPORTER_TEST_STOP_AT";

    /// Where to die, in this process.
    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let armed = Armed::parse(&text);
        if armed.is_none() {
            die(&format!("{VARIABLE}={text} names no step and count"));
        }
        armed
    });

    struct Armed {
        step: Failpoint,
        count: u64,
        reached: AtomicU64,
    }

    impl Armed {
        fn parse(text: &str) -> Option<Self> {
            let (name, count) = text.split_once(':')?;
            let step = *Failpoint::ALL.iter().find(|step| step.name() == name)?;
            Some(Self { step, count: count.parse().ok()?, reached: AtomicU64::new(0) })
        }
    }

    pub(super) fn reached(step: Failpoint) {
        if let Some(armed) = &*ARMED
            && armed.step == step
            && armed.reached.fetch_add(1, Ordering::Relaxed) + 1 == armed.count
        {
            die(&format!("died at {}:{}, as {VARIABLE} asks", step.name(), armed.count));
        }
    }

    /// Says why, and ends the process without another step of any thread.
    fn die(why: &str) -> ! {
        // To whom it cannot be said is no reason to live on.
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
        let names: BTreeSet<_> = Failpoint::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(names.len(), Failpoint::ALL.len());
    }
}
