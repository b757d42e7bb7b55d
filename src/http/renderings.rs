//! Renderings of metrics, status and page: made on threads for blocking work, few at a time, and shared while they are
//! fresh.
//!
//! With many pools a rendering takes tens of milliseconds. Polling needs the runtime's only worker, so renderings are
//! made on other threads. A client that asks often gets shared renderings: each is shared for [`REST_FACTOR`] times as
//! long as it took, and for [`AGE_MAX`] at most. So the renderings of one kind use at most a tenth of a processor, and
//! a client that asks seldom always gets a new rendering.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::scrapes::Scrape;

/// Maximum age of a shared rendering at the time of the request.
const AGE_MAX: Duration = Duration::from_secs(1);

/// A rendering is shared for this many times as long as it took.
const REST_FACTOR: u32 = 9;

/// Maximum number of renderings at the same time, of all kinds together.
const RENDERINGS_MAX: usize = 2;

static RENDERINGS: Semaphore = Semaphore::const_new(RENDERINGS_MAX);

/// The kinds of renderings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RenderingKind {
    /// `/metrics`.
    Metrics,
    /// `/metrics`, compressed.
    CompressedMetrics,
    /// `/status`.
    Status,
    /// `/`.
    Page,
    /// `/?still`, which does not refresh itself.
    StillPage,
}

/// The latest rendering of each kind, while it is fresh. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Renderings(Arc<[RenderingSlot; 5]>);

struct RenderingSlot {
    latest: Mutex<Option<Rendering>>,
    /// Held by the request that renders. The others wait for it and share the result.
    turn: Arc<Semaphore>,
}

impl Default for RenderingSlot {
    fn default() -> Self {
        Self { latest: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

/// A rendered answer, with the time at which it was begun and the time that it took.
#[derive(Clone, Debug)]
pub(super) struct Rendering {
    /// The answer's body.
    pub(super) bytes: Bytes,
    /// The scrape that the rendering belongs to; the default for kinds other than metrics.
    pub(super) scrape: Scrape,
    began: Instant,
    took: Duration,
}

impl Rendering {
    /// Returns whether the rendering may answer a request of time `asked`.
    fn is_fresh(&self, asked: Instant) -> bool {
        asked.saturating_duration_since(self.began) <= AGE_MAX.min(self.took.saturating_mul(REST_FACTOR))
    }

    /// Returns the rendering's age at time `asked`, if it was begun before.
    pub(super) fn shared_age(&self, asked: Instant) -> Option<Duration> {
        asked.checked_duration_since(self.began).filter(|age| !age.is_zero())
    }
}

impl Renderings {
    /// Returns a rendering that is fresh for a request of time `asked` and belongs to the scrape `since` or a later
    /// one. None if the rendering failed.
    pub(super) async fn get(
        &self,
        kind: RenderingKind,
        asked: Instant,
        since: Scrape,
        render: impl FnOnce() -> (Vec<u8>, Scrape) + Send + 'static,
    ) -> Option<Rendering> {
        let known = || self.slot(kind).latest().clone().filter(|known| known.is_fresh(asked) && known.scrape >= since);
        if let Some(known) = known() {
            return Some(known);
        }
        let turn = self.slot(kind).turn.clone().acquire_owned().await.ok()?;
        if let Some(known) = known() {
            return Some(known);
        }
        let rendering = RENDERINGS.acquire().await.ok()?;
        let renderings = self.clone();
        let rendered = tokio::task::spawn_blocking(move || {
            // The permits are held here, so that a client that goes away does not let the next rendering run beside
            // this one.
            let _permits = (turn, rendering);
            let began = Instant::now();
            let (bytes, scrape) = render();
            // Without the spare capacity of a grown buffer, which clients that do not read would hold, too.
            let bytes = bytes.into_boxed_slice().into();
            let rendering = Rendering { bytes, scrape, began, took: began.elapsed() };
            *renderings.slot(kind).latest() = Some(rendering.clone());
            rendering
        });
        rendered.await.ok()
    }

    /// Drops the renderings that are too old to be shared. Returns whether a fresh one remains.
    pub(super) fn forget_stale(&self, now: Instant) -> bool {
        let mut has_fresh = false;
        for slot in self.0.iter() {
            let mut latest = slot.latest();
            *latest = latest.take().filter(|rendering| rendering.is_fresh(now));
            has_fresh |= latest.is_some();
        }
        has_fresh
    }

    fn slot(&self, kind: RenderingKind) -> &RenderingSlot {
        &self.0[kind as usize]
    }
}

impl RenderingSlot {
    fn latest(&self) -> MutexGuard<'_, Option<Rendering>> {
        self.latest.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;
    use crate::http::Scrapes;

    fn took(took: Duration) -> Rendering {
        Rendering { bytes: Bytes::new(), scrape: Scrape::default(), began: Instant::now(), took }
    }

    #[test]
    fn a_rendering_is_shared_for_nine_times_as_long_as_it_took_and_a_second_at_most() {
        let millis = Duration::from_millis;
        for (cost, age, is_fresh) in [
            (millis(1), millis(9), true),
            (millis(1), millis(10), false),
            (millis(200), millis(1000), true),
            (millis(200), millis(1001), false),
            (Duration::from_secs(3600), millis(1001), false),
            (Duration::ZERO, millis(1), false),
        ] {
            let rendering = took(cost);
            assert_eq!(rendering.is_fresh(rendering.began + age), is_fresh, "{cost:?}, {age:?}");
            assert_eq!(rendering.shared_age(rendering.began + age), Some(age));
        }
        let rendering = took(millis(1));
        let earlier = rendering.began.checked_sub(millis(500)).expect("this process is older than that");
        assert!(rendering.is_fresh(earlier), "what was begun after it was asked for always is");
        assert_eq!(rendering.shared_age(earlier), None);
    }

    /// The clock stands still, so what was rendered stays fresh.
    #[tokio::test(start_paused = true)]
    async fn a_crowd_gets_one_rendering_and_shares_its_bytes() {
        let (renderings, rendered) = (Renderings::default(), Arc::new(AtomicUsize::new(0)));
        let asked = Instant::now();
        let mut crowd = JoinSet::new();
        for _ in 0..100 {
            let (renderings, rendered) = (renderings.clone(), rendered.clone());
            crowd.spawn(async move {
                let render = move || {
                    rendered.fetch_add(1, Ordering::Relaxed);
                    (vec![7; 1000], Scrape::default())
                };
                renderings.get(RenderingKind::Status, asked, Scrape::default(), render).await.unwrap().bytes.as_ptr()
                    as usize
            });
        }
        let bytes = crowd.join_all().await;
        assert_eq!(rendered.load(Ordering::Relaxed), 1);
        assert!(bytes.iter().all(|one| *one == bytes[0]), "not a copy");
        assert!(renderings.forget_stale(asked));
        assert!(!renderings.forget_stale(asked + AGE_MAX * 2));
        assert!(renderings.slot(RenderingKind::Status).latest().is_none(), "nothing is kept that is not shown again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_waits_to_have_seen_is_rendered_anew() {
        let (renderings, scrapes) = (Renderings::default(), Scrapes::new());
        let asked = Instant::now();
        let get = async || {
            let begins = scrapes.clone();
            let render = move || (vec![], begins.begin());
            renderings.get(RenderingKind::Metrics, asked, scrapes.awaited(), render).await.unwrap().scrape
        };
        let first = get().await;
        assert_eq!(get().await, first);
        let _waiting = scrapes.next();
        let second = get().await;
        assert!(second > first);
        assert_eq!(get().await, second);
    }

    #[tokio::test]
    async fn a_rendering_that_fails_holds_nobody_up() {
        let renderings = Renderings::default();
        for _ in 0..RENDERINGS_MAX + 1 {
            let failed =
                renderings.get(RenderingKind::Page, Instant::now(), Scrape::default(), || panic!("for the test")).await;
            assert!(failed.is_none());
        }
        let render = || (vec![1], Scrape::default());
        assert!(renderings.get(RenderingKind::Page, Instant::now(), Scrape::default(), render).await.is_some());
    }
}
