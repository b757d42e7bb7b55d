//! The clock: the time of day from the system, or in tests from the runtime or from the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use cognito_auth_core::event::UnixMillis;
use tokio::time::Instant;

/// The source of the time of day.
#[derive(Clone, Debug)]
pub struct Clock(ClockSource);

#[derive(Clone, Debug)]
enum ClockSource {
    System,
    Runtime { start: UnixMillis, origin: Instant },
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(ClockSource::System)
    }

    /// A clock that shows `start` now and advances with the runtime's time, which a test can pause. For tests.
    pub fn runtime(start: UnixMillis) -> Self {
        Self(ClockSource::Runtime { start, origin: Instant::now() })
    }

    /// A clock that shows `start` until it is set. Clones are set together. For tests.
    pub fn manual(start: UnixMillis) -> Self {
        Self(ClockSource::Manual(Arc::new(AtomicI64::new(start.0))))
    }

    /// Returns the time of day.
    pub fn now(&self) -> UnixMillis {
        match &self.0 {
            ClockSource::System => system_now(),
            ClockSource::Runtime { start, origin } => start.plus(origin.elapsed()),
            ClockSource::Manual(millis) => UnixMillis(millis.load(Ordering::SeqCst)),
        }
    }

    /// Sets a manual clock. It has no effect on other clocks.
    pub fn set(&self, time: UnixMillis) {
        if let ClockSource::Manual(millis) = &self.0 {
            millis.store(time.0, Ordering::SeqCst);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the only place that reads the system's clock")]
fn system_now() -> UnixMillis {
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => UnixMillis(0).plus(after),
        Err(before) => UnixMillis(0).minus(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clocks_show_the_time_they_are_given() {
        let runtime = Clock::runtime(UnixMillis(1_000));
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(runtime.now(), UnixMillis(1_250));

        let manual = Clock::manual(UnixMillis(1_000));
        let shared = manual.clone();
        manual.set(UnixMillis(5));
        assert_eq!(shared.now(), UnixMillis(5));

        let year_2024 = UnixMillis(1_704_067_200_000);
        assert!(Clock::system().now() > year_2024);
    }
}
