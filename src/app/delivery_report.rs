//! The metrics and status of the delivery task.

use crate::delivery::{DeliveryObserver, RequestOutcome};
use crate::lifecycle::Clock;
use crate::metrics::{Metrics, PauseReason, RecordOutcome, Stage};
use crate::status::StatusBoard;

/// Reports what the delivery task does.
pub(super) struct DeliveryReport {
    pub(super) metrics: Metrics,
    pub(super) status: StatusBoard,
    pub(super) clock: Clock,
}

impl DeliveryObserver for DeliveryReport {
    fn request(&self, outcome: RequestOutcome) {
        self.metrics.otlp_request(outcome);
        if outcome == RequestOutcome::Ok {
            self.status.delivered(self.clock.now());
        }
    }

    fn failed(&self, cause: &str) {
        self.status.delivery_error(cause, self.clock.now());
    }

    fn records(&self, accepted: u64, rejected: u64) {
        self.metrics.otlp_records(RecordOutcome::Accepted, accepted);
        self.metrics.otlp_records(RecordOutcome::Rejected, rejected);
    }

    fn quarantined(&self, records: u64) {
        self.metrics.otlp_records(RecordOutcome::Quarantined, records);
    }

    fn quarantine_full(&self, full: bool) {
        self.metrics.paused(PauseReason::QuarantineFull, full);
    }

    fn progress(&self) {
        self.metrics.progress(Stage::Deliver, self.clock.now());
    }
}
