//! A line in the log every ten minutes: what the exporter did since the line before. It shows on a healthy day that the
//! exporter works, and on a bad one when that changed.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::metrics::Metrics;

/// Time between two lines: six an hour are read easily, and a person who looks at the log soon sees one.
const EVERY: Duration = Duration::from_mins(10);

/// Logs summaries until the stop. `has_receiver` is whether records are delivered to an OTLP receiver.
pub(super) async fn run(metrics: Metrics, has_receiver: bool, stop: CancellationToken) {
    stop.run_until_cancelled(keep(&metrics, has_receiver)).await;
}

async fn keep(metrics: &Metrics, has_receiver: bool) {
    let mut before = metrics.work_done();
    loop {
        tokio::time::sleep(EVERY).await;
        let now = metrics.work_done();
        let done = now.since(before);
        before = now;
        let waiting = metrics.exporter_now().outbox.map(|outbox| outbox.records);
        info!(
            polls = done.calls,
            throttled = done.throttled,
            new_events = done.new_events,
            delivered = has_receiver.then_some(done.delivered),
            waiting,
            "in the last ten minutes"
        );
    }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::call::{CallOutcome, Operation};
    use cognito_auth_core::event::UnixMillis;

    use super::*;
    use crate::captured_log::CapturedLog;
    use crate::metrics::{OutboxSize, RecordOutcome};

    #[tokio::test(start_paused = true)]
    async fn each_line_tells_the_work_since_the_line_before() {
        let (metrics, (log, _guard)) = (Metrics::new(UnixMillis(0)), CapturedLog::begin());
        let call = |outcome| {
            let operation = Operation::AdminListUserAuthEvents;
            metrics.api_request(Some("1"), "eu-west-1", operation, outcome, Duration::ZERO);
        };
        call(CallOutcome::Ok);
        let work = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            call(CallOutcome::Ok);
            call(CallOutcome::Throttled);
            metrics.otlp_records(RecordOutcome::Accepted, 7);
            metrics.outbox(OutboxSize { records: 3, bytes: 300, oldest: None });
            tokio::time::sleep(2 * EVERY).await;
        };
        tokio::select! {
            () = keep(&metrics, true) => {}
            () = work => {}
        }
        let text = log.text();
        let told: Vec<_> = text.lines().map(|line| line.split_once("in the last ten minutes").unwrap().1).collect();
        assert_eq!(
            told,
            [
                " polls=2 throttled=1 new_events=0 delivered=7 waiting=3",
                " polls=0 throttled=0 new_events=0 delivered=0 waiting=3"
            ]
        );
    }
}
