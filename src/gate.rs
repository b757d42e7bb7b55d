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

    /// Waits for the next call's time.
    pub async fn pass(&self) {
        let slot = self.reserve();
        tokio::time::sleep_until(slot).await;
    }

    /// Reserves the next call, to be made at the time answered or later.
    pub fn reserve(&self) -> Instant {
        self.budget().reserve(Instant::now().into_std()).into()
    }

    /// When a call could start that were reserved now.
    pub fn next_at(&self) -> Instant {
        self.budget().next_at(Instant::now().into_std()).into()
    }

    /// Slows everybody down who shares the gate.
    pub fn throttled(&self) {
        self.budget().throttled(Instant::now().into_std());
    }

    /// Calls per second at present, after back-off.
    pub fn per_second(&self) -> f64 {
        self.budget().rate_per_second()
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        // A panic elsewhere cannot leave a number half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
