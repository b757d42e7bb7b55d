//! Waits until the budget allows the next call: the shell around [`Budget`].
//!
//! One gate for each account, region and quota category. Whoever makes a call passes it first, and tells it of throttles.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::budget::Budget;

/// A budget that tasks share. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Mutex<Budget>>);

impl Gate {
    /// A gate that lets so many calls per second pass (above 0).
    pub fn new(per_second: f64) -> Self {
        Self(Arc::new(Mutex::new(Budget::new(per_second))))
    }

    /// Waits for the next call's time; if a throttle comes meanwhile, for the one after that.
    pub async fn pass(&self) {
        loop {
            let slot = self.budget().reserve(Instant::now().into_std());
            tokio::time::sleep_until(slot.at.into()).await;
            if !self.budget().is_void(&slot) {
                return;
            }
        }
    }

    /// Reserves the next call, to be made at the time answered or later.
    pub fn reserve(&self) -> Instant {
        self.budget().reserve(Instant::now().into_std()).at.into()
    }

    /// When a call could start that were reserved now.
    pub fn next_at(&self) -> Instant {
        self.budget().next_at(Instant::now().into_std()).into()
    }

    /// Slows everybody down who shares the gate, after the throttle of a call that started at `started`.
    pub fn throttled(&self, started: Instant) {
        self.budget().throttled(started.into_std(), Instant::now().into_std());
    }

    /// Lets so many calls per second pass from now on (above 0), less while the service allows less.
    pub fn set_limit(&self, per_second: f64) {
        self.budget().set_limit(per_second);
    }

    /// Calls per second at present, after back-off.
    pub fn per_second(&self) -> f64 {
        self.budget().rate_per_second(Instant::now().into_std())
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        // A panic elsewhere cannot leave a number half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_throttle_holds_back_those_who_wait_already() {
        let gate = Gate::new(10.0);
        let began = Instant::now();
        let passed = async |gate: Gate| {
            gate.pass().await;
            began.elapsed()
        };
        gate.pass().await;
        let throttled = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            gate.throttled(began);
        };
        let (first, second, third, ()) =
            tokio::join!(passed(gate.clone()), passed(gate.clone()), passed(gate.clone()), throttled);
        assert!(first < Duration::from_millis(150), "its time came before: {first:?}");
        let pause_ends = Duration::from_millis(1150);
        assert!(second >= pause_ends && third > second, "after the pause, one by one: {second:?}, {third:?}");
    }
}
