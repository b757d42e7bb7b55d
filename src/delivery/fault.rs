//! Logs a fault that lasts: once when it begins, when it changes and when it ends.

use std::time::Duration;

use cognito_auth_core::batch_splitter::FailureKind;
use cognito_auth_core::lasting_fault::LastingFault;
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
    kind: LastingFault<FailureKind>,
    /// The error that was logged last.
    error: LastingFault<String>,
    began: Instant,
    logged: Instant,
    times: u64,
}

impl FaultLog {
    pub(super) fn new(lasts: &'static str, ended: &'static str) -> Self {
        let now = Instant::now();
        let (kind, error) = (LastingFault::default(), LastingFault::default());
        Self { lasts, ended, kind, error, began: now, logged: now, times: 0 }
    }

    /// Notes a failure. Logs it if it is news: as an error if a person must act, and otherwise as a warning.
    pub(super) fn failed(&mut self, pace: FailureKind, error: &str) {
        self.failed_with_remedy(pace, error, None);
    }

    /// Notes a failure that has a remedy.
    pub(super) fn failed_with_remedy(&mut self, pace: FailureKind, error: &str, remedy: Option<&str>) {
        let is_news = self.is_news(pace, error, Instant::now());
        let times = self.times;
        match pace {
            _ if !is_news => {}
            FailureKind::Passing => tracing::warn!(error, remedy, times, "{}", self.lasts),
            FailureKind::Lasting => tracing::error!(error, remedy, times, "{}", self.lasts),
        }
    }

    /// Notes a success. Logs the end of the fault, if there was one.
    pub(super) fn succeeded(&mut self) {
        if self.kind.succeeded() {
            self.error.succeeded();
            let seconds = self.began.elapsed().as_secs();
            tracing::info!(seconds, times = self.times, "{}", self.ended);
        }
    }

    /// Counts a failure. Returns whether it is to be logged: it is the first, it is of another kind, or its words have
    /// changed and the last ones are old enough.
    fn is_news(&mut self, pace: FailureKind, error: &str, now: Instant) -> bool {
        if !self.kind.lasts() {
            (self.began, self.times) = (now, 0);
        }
        self.times += 1;
        let is_other_kind = self.kind.failed(pace);
        let may_change = is_other_kind || now - self.logged >= CHANGES_EVERY;
        let is_news = may_change && self.error.failed(error.to_owned()) || is_other_kind;
        if is_news {
            self.logged = now;
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_news_when_it_changes_its_kind_or_after_a_while_its_words() {
        let start = Instant::now();
        let mut fault = FaultLog::new("it fails", "it works again");
        for (seconds, pace, error, expected) in [
            (0, FailureKind::Passing, "busy", true),
            (1, FailureKind::Passing, "busy", false),
            (2, FailureKind::Passing, "busy since 2 s", false),
            (70, FailureKind::Passing, "busy", false),
            (71, FailureKind::Passing, "busy since 71 s", true),
            (72, FailureKind::Passing, "busy since 72 s", false),
            (73, FailureKind::Lasting, "unauthorized", true),
            (3600, FailureKind::Lasting, "unauthorized", false),
            (3601, FailureKind::Passing, "busy", true),
        ] {
            let news = fault.is_news(pace, error, start + Duration::from_secs(seconds));
            assert_eq!(news, expected, "after {seconds} s");
        }
        assert_eq!((fault.began, fault.times), (start, 9));
        fault.succeeded();
        let later = start + Duration::from_secs(3602);
        assert!(fault.is_news(FailureKind::Passing, "busy", later), "it has begun again");
        assert_eq!((fault.began, fault.times), (later, 1));
    }
}
