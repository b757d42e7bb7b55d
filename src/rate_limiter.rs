//! The rate limiter: waits until the budget allows the next call. It is the shell around [`Budget`].
//!
//! There is one for each account, region and quota category. Every call acquires it first, and reports throttles to it.

use std::sync::Arc;

use cognito_auth_core::budget::Budget;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A budget that tasks share. Clones share it, too.
#[derive(Clone, Debug)]
pub struct RateLimiter(Arc<SharedBudget>);

#[derive(Debug)]
struct SharedBudget {
    budget: Mutex<Budget>,
    /// Notified when there is another limit, because calls that wait for a slot of the old one may go sooner.
    limit_set: Notify,
}

impl RateLimiter {
    /// Makes a rate limiter for `per_second` calls per second (above 0).
    pub fn new(per_second: f64) -> Self {
        Self(Arc::new(SharedBudget { budget: Mutex::new(Budget::new(per_second)), limit_set: Notify::new() }))
    }

    /// Waits for the next call's time. If the rate changes meanwhile, it waits for the time that the new rate gives.
    pub async fn acquire(&self) {
        loop {
            let mut limit_set = std::pin::pin!(self.0.limit_set.notified());
            // Enabled before the slot is taken: a limit that is set in between is not missed.
            limit_set.as_mut().enable();
            let slot = self.budget().reserve(Instant::now().into_std());
            tokio::select! {
                () = tokio::time::sleep_until(slot.at.into()) => {}
                () = limit_set => {}
            }
            if Instant::now() >= slot.at.into() && !self.budget().is_void(&slot) {
                return;
            }
        }
    }

    /// Reserves the next call, and answers the time from which on it may be made.
    pub fn reserve(&self) -> Instant {
        self.budget().reserve(Instant::now().into_std()).at.into()
    }

    /// The start of a call that would be reserved now.
    pub fn next_at(&self) -> Instant {
        self.budget().next_at(Instant::now().into_std()).into()
    }

    /// Slows all later calls down, after the throttle of a call that started at `started`.
    pub fn throttled(&self, started: Instant) {
        self.budget().throttled(started.into_std(), Instant::now().into_std());
    }

    /// Changes the limit to `per_second` calls per second (above 0), for all clones.
    pub fn set_limit(&self, per_second: f64) {
        self.budget().set_limit(per_second, Instant::now().into_std());
        self.0.limit_set.notify_waiters();
    }

    /// Calls per second without back-off.
    pub fn limit_per_second(&self) -> f64 {
        self.budget().limit_per_second()
    }

    /// Calls per second at present, after back-off.
    pub fn per_second(&self) -> f64 {
        self.budget().rate_per_second(Instant::now().into_std())
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        // A panic elsewhere cannot leave a number half written.
        self.0.budget.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_goes_on_at_the_new_limit_at_once() {
        let rate_limiter = RateLimiter::new(0.01);
        rate_limiter.acquire().await;
        let began = Instant::now();
        let waiting = async { tokio::join!(rate_limiter.acquire(), rate_limiter.acquire(), rate_limiter.acquire()) };
        let set = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            rate_limiter.set_limit(10.0);
            rate_limiter.set_limit(10.0);
        };
        tokio::join!(waiting, set);
        let took = began.elapsed();
        assert!((Duration::from_millis(1300)..Duration::from_millis(1400)).contains(&took), "one by one: {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttle_holds_back_those_who_wait_already() {
        let rate_limiter = RateLimiter::new(10.0);
        let began = Instant::now();
        let passed = async |rate_limiter: RateLimiter| {
            rate_limiter.acquire().await;
            began.elapsed()
        };
        rate_limiter.acquire().await;
        let throttled = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            rate_limiter.throttled(began);
        };
        let (first, second, third, ()) = tokio::join!(
            passed(rate_limiter.clone()),
            passed(rate_limiter.clone()),
            passed(rate_limiter.clone()),
            throttled
        );
        assert!(first < Duration::from_millis(150), "its time came before: {first:?}");
        let pause_ends = Duration::from_millis(1150);
        assert!(second >= pause_ends && third > second, "after the pause, one by one: {second:?}, {third:?}");
    }
}
