//! Logs a fault that lasts: once when it begins, when it changes and when it ends.

use std::time::Duration;

use cognito_auth_core::batch_splitter::FailureKind;
use tokio::time::Instant;

/// The shortest time between two log lines about another message of the same fault. Some messages contain a time or a
/// number.
const CHANGES_EVERY: Duration = Duration::from_secs(60);

/// A fault that may last, and its log messages.
#[derive(Debug)]
pub(super) struct FaultLog {
    /// The message while it lasts.
    lasts: &'static str,
    /// The message at its end.
    ended: &'static str,
    fault: Option<OngoingFault>,
}

impl FaultLog {
    pub(super) fn new(lasts: &'static str, ended: &'static str) -> Self {
        Self { lasts, ended, fault: None }
    }

    /// Notes a failure. Logs it if it is news: as an error if a person must act, and otherwise as a warning.
    pub(super) fn failed(&mut self, pace: FailureKind, error: &str) {
        self.failed_with_remedy(pace, error, None);
    }

    /// Notes a failure that has a remedy.
    pub(super) fn failed_with_remedy(&mut self, pace: FailureKind, error: &str, remedy: Option<&str>) {
        let now = Instant::now();
        let (fault, news) = match self.fault.take() {
            None => (OngoingFault::begun(pace, error, now), true),
            Some(fault) => fault.again(pace, error, now),
        };
        match pace {
            _ if !news => {}
            FailureKind::Passing => tracing::warn!(error, remedy, times = fault.times, "{}", self.lasts),
            FailureKind::Lasting => tracing::error!(error, remedy, times = fault.times, "{}", self.lasts),
        }
        self.fault = Some(fault);
    }

    /// Notes a success. Logs the end of the fault, if there was one.
    pub(super) fn succeeded(&mut self) {
        if let Some(fault) = self.fault.take() {
            let seconds = fault.began.elapsed().as_secs();
            tracing::info!(seconds, times = fault.times, "{}", self.ended);
        }
    }
}

#[derive(Debug)]
struct OngoingFault {
    pace: FailureKind,
    error: String,
    began: Instant,
    logged: Instant,
    times: u64,
}

impl OngoingFault {
    fn begun(pace: FailureKind, error: &str, now: Instant) -> Self {
        Self { pace, error: error.to_owned(), began: now, logged: now, times: 1 }
    }

    /// Counts one more failure. Returns whether it is news.
    fn again(self, pace: FailureKind, error: &str, now: Instant) -> (Self, bool) {
        let times = self.times + 1;
        let news = self.pace != pace || (self.error != error && now - self.logged >= CHANGES_EVERY);
        let fault = if news {
            Self { began: self.began, times, ..Self::begun(pace, error, now) }
        } else {
            Self { times, ..self }
        };
        (fault, news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_news_when_it_changes_its_kind_or_after_a_while_its_words() {
        let start = Instant::now();
        let mut fault = OngoingFault::begun(FailureKind::Passing, "busy", start);
        for (seconds, pace, error, expected) in [
            (1, FailureKind::Passing, "busy", false),
            (2, FailureKind::Passing, "busy since 2 s", false),
            (70, FailureKind::Passing, "busy", false),
            (71, FailureKind::Passing, "busy since 71 s", true),
            (72, FailureKind::Passing, "busy since 72 s", false),
            (73, FailureKind::Lasting, "unauthorized", true),
            (3600, FailureKind::Lasting, "unauthorized", false),
            (3601, FailureKind::Passing, "busy", true),
        ] {
            let news;
            (fault, news) = fault.again(pace, error, start + Duration::from_secs(seconds));
            assert_eq!(news, expected, "after {seconds} s");
        }
        assert_eq!((fault.began, fault.times), (start, 9));
    }
}
