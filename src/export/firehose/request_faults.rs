//! The log of requests that are not answered 200: one line when a kind of fault begins, and one when it is over.
//!
//! A fault is over when no request had it for [`QUIET`]. Firehose repeats a request within two minutes, and other
//! requests between its repetitions may succeed. So a success alone does not end a fault.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::{BusyCause, FirehoseFault};

/// Time without a fault after which it is over. It is more than twice the longest pause between two repetitions.
const QUIET: Duration = Duration::from_secs(5 * 60);

/// Time between two looks for faults that are over.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The faults that last. There is at most one of each kind, and the kinds are few.
#[derive(Default)]
pub(super) struct RequestFaults(Mutex<Vec<RequestFault>>);

/// A fault that lasts.
struct RequestFault {
    kind: FirehoseFault,
    /// The number of requests that had it.
    requests: u64,
    latest: Instant,
}

impl RequestFaults {
    /// Notes the fault of a request.
    pub(super) fn note(&self, kind: FirehoseFault, now: Instant) {
        // A stop is logged anyway.
        if kind != FirehoseFault::Busy(BusyCause::Stopping) && self.is_news(kind, now) {
            tracing::warn!(reason = %kind, "requests of Data Firehose are refused");
        }
    }

    /// Logs the faults that are over, until `stop`.
    pub(super) async fn watch(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await.is_some() {
            for RequestFault { kind, requests, .. } in self.over(Instant::now()) {
                tracing::info!(reason = %kind, requests, "requests of Data Firehose are no longer refused");
            }
        }
    }

    /// Notes a fault. Returns whether it begins.
    fn is_news(&self, kind: FirehoseFault, now: Instant) -> bool {
        let mut faults = self.0.lock();
        if let Some(fault) = faults.iter_mut().find(|fault| fault.kind == kind) {
            fault.requests += 1;
            fault.latest = now;
            return false;
        }
        faults.push(RequestFault { kind, requests: 1, latest: now });
        true
    }

    /// Removes and returns the faults that are over.
    fn over(&self, now: Instant) -> Vec<RequestFault> {
        self.0.lock().extract_if(.., |fault| now.saturating_duration_since(fault.latest) >= QUIET).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_news_when_it_begins_and_when_it_was_over() {
        let (faults, start) = (RequestFaults::default(), Instant::now());
        let (wrong_key, busy) = (FirehoseFault::Unauthorized, FirehoseFault::from(BusyCause::OutboxFull));
        let at = |seconds| start + Duration::from_secs(seconds);
        let news = [(wrong_key, 0), (busy, 0), (wrong_key, 200), (busy, 250)].map(|(it, t)| faults.is_news(it, at(t)));
        assert_eq!(news, [true, true, false, false]);
        assert!(faults.over(at(499)).is_empty());
        let over: Vec<_> = faults.over(at(500)).iter().map(|fault| (fault.kind, fault.requests)).collect();
        assert_eq!(over, [(wrong_key, 2)]);
        assert!(faults.is_news(wrong_key, at(500)) && !faults.is_news(busy, at(500)));
    }
}
