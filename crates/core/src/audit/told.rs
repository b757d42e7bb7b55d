//! The events that an export told lately.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::Auditor;

/// The keys of the events that were told within [`ToldKeys::KEPT`], and of at most `limit` events.
#[derive(Debug)]
pub(super) struct ToldKeys {
    keys: HashSet<u64>,
    order: VecDeque<(Instant, u64)>,
    limit: usize,
    forgotten_until: Option<Instant>,
}

impl ToldKeys {
    /// A telling counts for events of the horizon. The clocks may differ.
    const KEPT: Duration = Duration::from_secs(Auditor::HORIZON.as_secs() + Auditor::SKEW.as_secs());

    pub(super) fn new(limit: usize) -> Self {
        Self { keys: HashSet::new(), order: VecDeque::new(), limit, forgotten_until: None }
    }

    pub(super) fn add(&mut self, key: u64, now: Instant) {
        if self.keys.insert(key) {
            self.order.push_back((now, key));
        }
        while self.order.len() > self.limit {
            self.forget_first();
        }
    }

    pub(super) fn has(&self, key: u64) -> bool {
        self.keys.contains(&key)
    }

    /// The time up to which tellings may be forgotten; None while none is.
    pub(super) fn forgotten_until(&self) -> Option<Instant> {
        self.forgotten_until
    }

    pub(super) fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(told, _)| now.saturating_duration_since(*told) > Self::KEPT) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((told, key)) = self.order.pop_front() {
            self.keys.remove(&key);
            self.forgotten_until = Some(told);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}
