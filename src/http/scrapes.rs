//! Scrapes by Prometheus, which a new pool waits for before it polls.
//!
//! `increase()` does not see the first value of a series. So a pool's counters must be scraped once before polling
//! increments them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// The scrapes of this process. Clones share them.
#[derive(Clone, Debug)]
pub struct Scrapes(Arc<ScrapeCounts>);

#[derive(Debug)]
struct ScrapeCounts {
    begun: AtomicU64,
    /// The number of the scrape that the latest caller of [`Scrapes::next`] waits for.
    awaited: AtomicU64,
    /// The greatest number of the scrapes that were served.
    served: watch::Sender<u64>,
}

/// The number of a scrape that has begun. A later scrape has a greater one. The default comes before all scrapes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Scrape(u64);

/// A scrape that counts as served once its response is written.
pub(super) struct PendingScrape {
    pub(super) scrapes: Scrapes,
    pub(super) scrape: Scrape,
}

impl PendingScrape {
    /// Reports that the response is written.
    pub(super) fn served(self) {
        self.scrapes.served(self.scrape);
    }
}

impl Default for Scrapes {
    fn default() -> Self {
        Self::new()
    }
}

impl Scrapes {
    /// The scrapes of a process that has had none yet.
    pub fn new() -> Self {
        Self(Arc::new(ScrapeCounts {
            begun: AtomicU64::new(0),
            awaited: AtomicU64::new(0),
            served: watch::Sender::new(0),
        }))
    }

    /// Resolves once a scrape has been served that begins after this call, not after the first poll of the future.
    /// Prometheus then has the values that are shown at the time of the call. A scrape under way may have missed them.
    pub fn next(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut served = self.0.served.subscribe();
        let before = self.0.begun.load(Ordering::SeqCst);
        self.0.awaited.fetch_max(before + 1, Ordering::SeqCst);
        let counts = self.0.clone();
        async move {
            // `counts` owns the sender, so the channel cannot close while this waits.
            let _ = served.wait_for(|latest| *latest > before).await;
            drop(counts);
        }
    }

    /// Returns whether any scrape has been served.
    pub fn any(&self) -> bool {
        *self.0.served.borrow() > 0
    }

    /// Begins a scrape. It shows all values that are set before this call.
    pub(super) fn begin(&self) -> Scrape {
        Scrape(self.0.begun.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Returns the earliest scrape that may be served: pools wait for it, so an earlier rendering is not shared.
    pub(super) fn awaited(&self) -> Scrape {
        Scrape(self.0.awaited.load(Ordering::SeqCst))
    }

    fn served(&self, scrape: Scrape) {
        self.0.served.send_modify(|latest| *latest = scrape.0.max(*latest));
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
        scrapes.served(under_way);
        assert!(!is_over(&mut waiting));
        let next = scrapes.begin();
        assert!(!is_over(&mut waiting));
        scrapes.served(next);
        assert!(is_over(&mut waiting));
    }

    #[test]
    fn what_somebody_waits_to_have_seen_is_not_in_an_earlier_scrape() {
        let scrapes = Scrapes::new();
        let earlier = scrapes.begin();
        assert!(earlier >= scrapes.awaited());
        let _waiting = scrapes.next();
        assert!(earlier < scrapes.awaited());
        assert!(scrapes.begin() >= scrapes.awaited());
    }

    #[test]
    fn responses_out_of_order_wake_whom_they_concern() {
        let scrapes = Scrapes::new();
        let mut first = Box::pin(scrapes.next());
        let slow = scrapes.begin();
        let mut second = Box::pin(scrapes.next());
        let quick = scrapes.begin();
        scrapes.served(quick);
        scrapes.served(slow);
        assert!(is_over(&mut first) && is_over(&mut second));
    }
}
