//! What the log says of a fault that lasts: that it began, that it changed, that it ended; once each.

use std::time::Duration;

use tokio::time::Instant;

use super::delivery::Pace;

/// How often a fault that goes on may say that it says something else now: some put a time or a number in each message.
const CHANGES_EVERY: Duration = Duration::from_secs(60);

/// A fault that is going on, or none.
#[derive(Debug)]
pub(super) struct FaultLog {
    /// What to say while it lasts.
    lasts: &'static str,
    /// What to say when it is over.
    over: &'static str,
    current: Option<Fault>,
}

#[derive(Debug)]
struct Fault {
    pace: Pace,
    what: String,
    began: Instant,
    told: Instant,
    times: u64,
}

impl FaultLog {
    pub(super) fn new(lasts: &'static str, over: &'static str) -> Self {
        Self { lasts, over, current: None }
    }

    /// It failed. An error if a person must act, else a warning; nothing if it was said before.
    pub(super) fn failed(&mut self, pace: Pace, what: &str) {
        let now = Instant::now();
        let fault = match self.current.take() {
            None => Fault { pace, what: what.to_owned(), began: now, told: now, times: 1 },
            Some(fault) => {
                let times = fault.times + 1;
                let news = fault.pace != pace || (fault.what != what && now - fault.told >= CHANGES_EVERY);
                if !news {
                    self.current = Some(Fault { times, ..fault });
                    return;
                }
                Fault { pace, what: what.to_owned(), told: now, times, ..fault }
            }
        };
        match pace {
            Pace::Passing => tracing::warn!(error = what, times = fault.times, "{}", self.lasts),
            Pace::Lasting => tracing::error!(error = what, times = fault.times, "{}", self.lasts),
        }
        self.current = Some(fault);
    }

    /// It works.
    pub(super) fn succeeded(&mut self) {
        if let Some(fault) = self.current.take() {
            let seconds = fault.began.elapsed().as_secs();
            tracing::info!(seconds, times = fault.times, "{}", self.over);
        }
    }
}
