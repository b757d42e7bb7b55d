//! The gauges of the ledger: how full and how large it is, and why work pauses. They follow the ledger's changes, at
//! most once a second.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::delivery::Outbox as _;
use crate::ledger::Ledger;
use crate::lifecycle::Clock;
use crate::metrics::{Metrics, OutboxSize, PauseReason};
use crate::status::StatusBoard;

/// The least time between two updates.
const EVERY: Duration = Duration::from_secs(1);

/// The longest time between two updates without a change: a disk that does not answer reports no change.
const IDLE_EVERY: Duration = Duration::from_secs(10);

/// How often the ledger's size is read, which is slow.
const SIZE_EVERY: Duration = Duration::from_secs(30);

/// How often the counts of the status page are noted: a slot of it is half a minute.
const COUNTS_EVERY: Duration = Duration::from_secs(5);

/// Updates the gauges of the ledger.
pub(super) struct Gauges {
    pub(super) metrics: Metrics,
    pub(super) status: StatusBoard,
    pub(super) ledger: Ledger,
    pub(super) clock: Clock,
    pub(super) outbox_limit_bytes: u64,
    /// Whether there is a sink.
    pub(super) queue: bool,
}

impl Gauges {
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(self) {
        let mut changes = self.ledger.changes();
        let (mut sized, mut counted): (Option<Instant>, Option<Instant>) = (None, None);
        loop {
            self.show();
            if sized.is_none_or(|at| at.elapsed() >= SIZE_EVERY) {
                sized = Some(Instant::now());
                self.metrics.state_size(self.ledger.size_bytes());
            }
            if counted.is_none_or(|at| at.elapsed() >= COUNTS_EVERY) {
                counted = Some(Instant::now());
                self.status.note_counts(&self.metrics, self.clock.now());
            }
            sleep(EVERY).await;
            // An error means that the time is over, or that the ledger is closed; both lead to the next update.
            let _ = timeout(IDLE_EVERY - EVERY, changes.changed()).await;
        }
    }

    fn show(&self) {
        let outbox = self.ledger.outbox_state();
        let (quarantined, _bytes) = self.ledger.quarantine_state();
        let size = OutboxSize { records: outbox.records, bytes: outbox.bytes, oldest: outbox.oldest };
        // Entries that an earlier configuration left are shown even without a sink.
        if self.queue || size.records > 0 {
            self.metrics.outbox(size);
        }
        self.metrics.quarantined_records(quarantined);
        let failure = self.ledger.failure();
        self.metrics.paused(PauseReason::OutboxFull, outbox.bytes >= self.outbox_limit_bytes);
        self.metrics.paused(PauseReason::StateError, failure.is_some());
        match failure {
            Some(failure) => self.status.stuck(&failure),
            None => self.status.unstuck(),
        }
    }
}
