//! Who waits for Prometheus: a series first scraped at 1 is invisible to `increase()`, so a pool's totals are to be scraped
//! once before polling moves them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// The scrapes of this process. Clones share them.
#[derive(Clone, Debug)]
pub struct Scrapes(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    begun: AtomicU64,
    /// The latest begun of those that were answered.
    answered: watch::Sender<u64>,
}

/// A scrape that has begun.
#[derive(Debug)]
pub(super) struct Scrape(u64);

impl Default for Scrapes {
    fn default() -> Self {
        Self::new()
    }
}

impl Scrapes {
    /// None yet.
    pub fn new() -> Self {
        Self(Arc::new(Counts { begun: AtomicU64::new(0), answered: watch::Sender::new(0) }))
    }

    /// Resolves once a scrape that begins after this call (not: after the first poll of what it returns) was answered:
    /// what is shown now has then been seen. One that is under way may have missed it.
    pub fn next(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut answered = self.0.answered.subscribe();
        let before = self.0.begun.load(Ordering::SeqCst);
        let counts = self.0.clone();
        async move {
            // The sender lives in `counts`, so the channel cannot close while this waits.
            let _ = answered.wait_for(|latest| *latest > before).await;
            drop(counts);
        }
    }

    /// Whether there was one at all.
    pub fn any(&self) -> bool {
        *self.0.answered.borrow() > 0
    }

    pub(super) fn begin(&self) -> Scrape {
        Scrape(self.0.begun.fetch_add(1, Ordering::SeqCst) + 1)
    }

    #[expect(clippy::needless_pass_by_value, reason = "a scrape is answered once")]
    pub(super) fn answered(&self, scrape: Scrape) {
        self.0.answered.send_modify(|latest| *latest = scrape.0.max(*latest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_over(waiting: &mut (impl Future<Output = ()> + Unpin)) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(waiting).poll(&mut context).is_ready()
    }

    #[test]
    fn a_scrape_that_was_under_way_does_not_count() {
        let scrapes = Scrapes::new();
        let under_way = scrapes.begin();
        let mut waiting = Box::pin(scrapes.next());
        assert!(!is_over(&mut waiting));
        scrapes.answered(under_way);
        assert!(!is_over(&mut waiting));
        let next = scrapes.begin();
        assert!(!is_over(&mut waiting));
        scrapes.answered(next);
        assert!(is_over(&mut waiting));
    }

    #[test]
    fn answers_out_of_order_wake_whom_they_concern() {
        let scrapes = Scrapes::new();
        let mut first = Box::pin(scrapes.next());
        let slow = scrapes.begin();
        let mut second = Box::pin(scrapes.next());
        let quick = scrapes.begin();
        scrapes.answered(quick);
        scrapes.answered(slow);
        assert!(is_over(&mut first) && is_over(&mut second));
    }
}
