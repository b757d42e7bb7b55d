//! What the log says of a fault that lasts: that it began, that it changed, that it ended; once each.

use std::time::Duration;

use cognito_auth_core::batch_splitter::FailureKind;
use tokio::time::Instant;

/// How often a fault that goes on may say that it says something else now: some put a time or a number in each message.
const CHANGES_EVERY: Duration = Duration::from_secs(60);

/// A fault that may be going on, and how the log tells of it.
#[derive(Debug)]
pub(super) struct FaultLog {
    /// What to say while it lasts.
    lasts: &'static str,
    /// What to say when it is over.
    over: &'static str,
    fault: Option<Fault>,
}

impl FaultLog {
    pub(super) fn new(lasts: &'static str, over: &'static str) -> Self {
        Self { lasts, over, fault: None }
    }

    /// It failed. An error if a person must act, else a warning; nothing if it was said before.
    pub(super) fn failed(&mut self, pace: FailureKind, error: &str) {
        self.failed_unless(pace, error, None);
    }

    /// The same of what a remedy helps against.
    pub(super) fn failed_unless(&mut self, pace: FailureKind, error: &str, remedy: Option<&str>) {
        let now = Instant::now();
        let (fault, news) = match self.fault.take() {
            None => (Fault::begun(pace, error, now), true),
            Some(fault) => fault.again(pace, error, now),
        };
        match pace {
            _ if !news => {}
            FailureKind::Passing => tracing::warn!(error, remedy, times = fault.times, "{}", self.lasts),
            FailureKind::Lasting => tracing::error!(error, remedy, times = fault.times, "{}", self.lasts),
        }
        self.fault = Some(fault);
    }

    /// It works.
    pub(super) fn succeeded(&mut self) {
        if let Some(fault) = self.fault.take() {
            let seconds = fault.began.elapsed().as_secs();
            tracing::info!(seconds, times = fault.times, "{}", self.over);
        }
    }
}

#[derive(Debug)]
struct Fault {
    pace: FailureKind,
    error: String,
    began: Instant,
    told: Instant,
    times: u64,
}

impl Fault {
    fn begun(pace: FailureKind, error: &str, now: Instant) -> Self {
        Self { pace, error: error.to_owned(), began: now, told: now, times: 1 }
    }

    /// One more failure, and whether it is news.
    fn again(self, pace: FailureKind, error: &str, now: Instant) -> (Self, bool) {
        let times = self.times + 1;
        let news = self.pace != pace || (self.error != error && now - self.told >= CHANGES_EVERY);
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
        let mut fault = Fault::begun(FailureKind::Passing, "busy", start);
        for (seconds, pace, error, expected) in [
            (1, FailureKind::Passing, "busy", false),
            (2, FailureKind::Passing, "busy since 2 s", false),
            (70, FailureKind::Passing, "busy", false),
            (71, FailureKind::Passing, "busy since 71 s", true),
            (72, FailureKind::Passing, "busy since 72 s", false),
            (73, FailureKind::Lasting, "who are you?", true),
            (3600, FailureKind::Lasting, "who are you?", false),
            (3601, FailureKind::Passing, "busy", true),
        ] {
            let news;
            (fault, news) = fault.again(pace, error, start + Duration::from_secs(seconds));
            assert_eq!(news, expected, "after {seconds} s");
        }
        assert_eq!((fault.began, fault.times), (start, 9));
    }
}
