//! The events that polls found: those that wait for the export, and those that were judged lately.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::Auditor;
use crate::event::UnixMillis;

/// An event of which it is known whether the export told it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Judged {
    pub(super) created: UnixMillis,
    pub(super) missed: bool,
}

/// Whether an event was judged.
#[derive(Clone, Copy, Debug)]
enum Standing {
    Waiting {
        created: UnixMillis,
        told: bool,
    },
    /// Remembered, so that the event is not audited again while it is on the pages of polls.
    Judged,
}

/// The found events, of which at most `limit` are remembered.
#[derive(Debug)]
pub(super) struct FoundEvents {
    events: HashMap<u64, Standing>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// All of them, in the order in which they were found.
    order: VecDeque<(Instant, u64)>,
    limit: usize,
}

impl FoundEvents {
    /// An event is too old to be found again after this time.
    const KEPT: Duration = Duration::from_secs(Auditor::HORIZON.as_secs() + Auditor::SKEW.as_secs());

    pub(super) fn new(limit: usize) -> Self {
        Self { events: HashMap::new(), deadlines: BTreeSet::new(), order: VecDeque::new(), limit }
    }

    /// Adds an event that was found and is judged at the given times. An event that is remembered stays as it is.
    pub(super) fn add(&mut self, key: u64, created: UnixMillis, (found, judged): (Instant, Instant), told: bool) {
        if self.events.len() >= self.limit || self.events.contains_key(&key) {
            return;
        }
        self.events.insert(key, Standing::Waiting { created, told });
        self.deadlines.insert((judged, key));
        self.order.push_back((found, key));
    }

    /// Takes note that the export told an event.
    pub(super) fn told(&mut self, key: u64) {
        if let Some(Standing::Waiting { told, .. }) = self.events.get_mut(&key) {
            *told = true;
        }
    }

    /// Judges the events whose time has come.
    pub(super) fn judge(&mut self, now: Instant) -> Vec<Judged> {
        let mut judged = vec![];
        while let Some((deadline, key)) = self.deadlines.pop_first() {
            if deadline > now {
                self.deadlines.insert((deadline, key));
                break;
            }
            if let Some(Standing::Waiting { created, told }) = self.events.insert(key, Standing::Judged) {
                judged.push(Judged { created, missed: !told });
            }
        }
        judged
    }

    /// Forgets the judged events that no poll will find as young enough again.
    pub(super) fn forget(&mut self, now: Instant) {
        while let Some((found, key)) = self.order.front() {
            let is_judged = matches!(self.events.get(key), Some(Standing::Judged));
            if !is_judged || now.saturating_duration_since(*found) <= Self::KEPT {
                break;
            }
            self.events.remove(key);
            self.order.pop_front();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.events.len().max(self.deadlines.len()).max(self.order.len())
    }
}
