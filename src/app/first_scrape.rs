//! The wait for the first scrape of `/metrics`.
//!
//! `increase()` does not see the first value of a series. So Prometheus has to see a pool's totals before polling
//! raises them, and polling waits, at most for `http.first_scrape_wait`. Where nobody scrapes, a wait would only delay
//! events. The ledger remembers the latest scrape, by earlier processes too:
//!
//! | the ledger remembers | a pool that begins |
//! |---|---|
//! | nothing: it is new | waits |
//! | a scrape within [`STILL_SCRAPED`] | waits |
//! | an older scrape, or that a wait was in vain | does not wait, unless this process was scraped, or there is no sink |
//!
//! A pool waits once: if it is followed anew meanwhile, because the configuration has changed, its wait goes on. If the
//! process dies before the note is written, the next one waits as this one did.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::http::Scrapes;
use crate::ledger::{Ledger, LedgerError, ScrapeNote};
use crate::lifecycle::Clock;
use crate::status::StatusBoard;

/// Time after the latest scrape for which somebody is taken to scrape. An exporter that is stopped for a holiday waits
/// again; one whose Prometheus was removed does not wait for ever.
const STILL_SCRAPED: Duration = Duration::from_hours(14 * 24);

/// Time between two writes of the note. It is small beside [`STILL_SCRAPED`], and costs the disk nothing.
const NOTE_EVERY: Duration = Duration::from_hours(1);

/// The wait for the first scrape. Clones share it.
#[derive(Clone)]
pub(super) struct FirstScrape(Arc<FirstScrapeWaits>);

struct FirstScrapeWaits {
    scrapes: Scrapes,
    status: StatusBoard,
    clock: Clock,
    note: Option<ScrapeNote>,
    /// Whether somebody is taken to scrape, by what was known at the start.
    is_expected: bool,
    /// `http.first_scrape_wait`, which a reload may change.
    wait_max: watch::Sender<Duration>,
    /// When each pool began to wait.
    begun: Mutex<BTreeMap<String, Instant>>,
    /// The waits under way, and since when there are any.
    waiting: Mutex<Option<(usize, Instant)>>,
    in_vain: Notify,
}

impl FirstScrape {
    /// Decides by the ledger whether polling waits. `has_sink` is whether records are delivered: without a sink,
    /// metrics are all that is exported, so somebody scrapes.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub(super) fn expect(
        ledger: &Ledger,
        has_sink: bool,
        wait_max: Duration,
        scrapes: Scrapes,
        status: StatusBoard,
        clock: Clock,
    ) -> Result<Self, LedgerError> {
        let note = ledger.scrapes()?;
        let is_expected = !has_sink || is_scraped(note, clock.now());
        Ok(Self::new(scrapes, status, clock, note, is_expected, wait_max))
    }

    fn new(
        scrapes: Scrapes,
        status: StatusBoard,
        clock: Clock,
        note: Option<ScrapeNote>,
        is_expected: bool,
        wait_max: Duration,
    ) -> Self {
        Self(Arc::new(FirstScrapeWaits {
            scrapes,
            status,
            clock,
            note,
            is_expected,
            wait_max: watch::Sender::new(wait_max),
            begun: Mutex::default(),
            waiting: Mutex::new(None),
            in_vain: Notify::new(),
        }))
    }

    /// Changes how long a pool waits at most, also for waits under way.
    pub(super) fn set_wait_max(&self, wait_max: Duration) {
        self.0.wait_max.send_if_modified(|present| std::mem::replace(present, wait_max) != wait_max);
    }

    /// Returns whether this process was scraped.
    pub(super) fn was_scraped(&self) -> bool {
        self.0.scrapes.any()
    }

    /// Waits for a scrape that begins after this call. It waits at most for `http.first_scrape_wait` from the time at
    /// which this pool first waited.
    pub(super) fn wait(&self, pool_id: &str) -> impl Future<Output = ()> + Send + use<> {
        let is_expected = self.0.is_expected || self.was_scraped();
        let scraped = self.0.scrapes.next();
        let (waits, pool_id) = (self.0.clone(), pool_id.to_owned());
        async move {
            if !is_expected {
                return;
            }
            let mut wait_max = waits.wait_max.subscribe();
            let began = *waits.begun.lock().entry(pool_id).or_insert_with(Instant::now);
            if began.elapsed() >= *wait_max.borrow_and_update() {
                return;
            }
            let wait = Wait::begin(&waits, began);
            let mut scraped = std::pin::pin!(scraped);
            let is_scraped = loop {
                let until = began + *wait_max.borrow_and_update();
                tokio::select! {
                    () = &mut scraped => break true,
                    () = tokio::time::sleep_until(until) => break false,
                    // `waits` owns the sender, so the channel cannot close while this waits.
                    _ = wait_max.changed() => {}
                }
            };
            wait.end(is_scraped);
        }
    }

    /// Keeps the note in the ledger up to date until the stop. Only this task writes it.
    pub(super) async fn keep_note(self, ledger: Ledger, stop: CancellationToken) {
        let Self(waits) = self;
        let keep = async {
            let mut note = waits.note;
            loop {
                let latest = tokio::select! {
                    biased;
                    () = waits.scrapes.next() => ScrapeNote::Served(waits.clock.now()),
                    () = waits.in_vain.notified(), if note.is_none() => ScrapeNote::NeverServed,
                };
                note = Some(latest);
                if let Err(error) = ledger.note_scrapes(latest).await {
                    debug!(%error, "the note on scrapes was not written");
                }
                if let ScrapeNote::Served(_) = latest {
                    tokio::time::sleep(NOTE_EVERY).await;
                }
            }
        };
        stop.run_until_cancelled(keep).await;
    }
}

/// Returns whether somebody is taken to scrape.
fn is_scraped(note: Option<ScrapeNote>, now: UnixMillis) -> bool {
    match note {
        None => true,
        Some(ScrapeNote::Served(latest)) => now.since(latest) <= STILL_SCRAPED,
        Some(ScrapeNote::NeverServed) => false,
    }
}

/// One wait under way. The first and the last of those at the same time are logged and shown.
struct Wait {
    waits: Arc<FirstScrapeWaits>,
    /// Whether a scrape ended it; None if it was given up, such as at a stop.
    is_scraped: Option<bool>,
}

impl Wait {
    fn begin(waits: &Arc<FirstScrapeWaits>, began: Instant) -> Self {
        let left = (began + *waits.wait_max.borrow()).saturating_duration_since(Instant::now());
        let mut waiting = waits.waiting.lock();
        match &mut *waiting {
            Some((count, _)) => *count += 1,
            None => {
                *waiting = Some((1, Instant::now()));
                // Rounded, because the first moments of a wait are past.
                let wait_max_seconds = (left + Duration::from_millis(500)).as_secs();
                info!(wait_max_seconds, "waiting for the first scrape of /metrics (http.first_scrape_wait)");
            }
        }
        let now = waits.clock.now();
        waits.status.scrape_awaited(now, now.plus(left));
        Self { waits: waits.clone(), is_scraped: None }
    }

    fn end(mut self, is_scraped: bool) {
        if !is_scraped && !self.waits.scrapes.any() {
            self.waits.in_vain.notify_one();
        }
        self.is_scraped = Some(is_scraped);
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waiting = self.waits.waiting.lock();
        let Some((count, began)) = *waiting else { return };
        *waiting = (count > 1).then_some((count - 1, began));
        if waiting.is_some() {
            return;
        }
        self.waits.status.scrape_arrived(self.waits.clock.now());
        let after_seconds = began.elapsed().as_secs();
        match self.is_scraped {
            Some(true) => info!(after_seconds, "/metrics was scraped; polling begins"),
            Some(false) => info!(after_seconds, "/metrics was not scraped; polling begins without a scrape"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_523_756_000);

    #[test]
    fn somebody_scrapes_until_a_wait_was_in_vain_or_the_latest_scrape_is_long_ago() {
        let served = |ago: Duration| Some(ScrapeNote::Served(NOW.minus(ago)));
        assert!(is_scraped(None, NOW));
        assert!(is_scraped(served(Duration::ZERO), NOW));
        assert!(is_scraped(served(STILL_SCRAPED), NOW));
        assert!(!is_scraped(served(STILL_SCRAPED + Duration::from_secs(1)), NOW));
        assert!(!is_scraped(Some(ScrapeNote::NeverServed), NOW));
    }

    fn waiting(wait_max: Duration) -> FirstScrape {
        let (status, clock) = (StatusBoard::new(NOW), Clock::manual(NOW));
        FirstScrape::new(Scrapes::new(), status, clock, None, true, wait_max)
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_is_followed_anew_meanwhile_waits_no_longer_than_once() {
        let first_scrape = waiting(Duration::from_secs(90));
        let began = Instant::now();
        for _ in 0..10 {
            // A reload drops the wait.
            let _ = tokio::time::timeout(Duration::from_secs(20), first_scrape.wait("eu-west-1_A")).await;
        }
        first_scrape.wait("eu-west-1_A").await;
        assert_eq!(began.elapsed(), Duration::from_secs(90));
        first_scrape.wait("eu-west-1_B").await;
        assert_eq!(began.elapsed(), Duration::from_secs(180), "another pool has a wait of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_setting_holds_for_waits_under_way() {
        let first_scrape = waiting(Duration::from_hours(1));
        let began = Instant::now();
        let changes = async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            first_scrape.set_wait_max(Duration::from_secs(60));
        };
        tokio::join!(first_scrape.wait("eu-west-1_A"), changes);
        assert_eq!(began.elapsed(), Duration::from_secs(60));
        first_scrape.set_wait_max(Duration::ZERO);
        first_scrape.wait("eu-west-1_B").await;
        assert_eq!(began.elapsed(), Duration::from_secs(60));
    }
}
