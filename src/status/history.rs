//! A pool's last hour in slots of half a minute, for the chart of the status page.
//!
//! The module is pure. It receives totals and keeps their increase in each slot. It begins with the process: the first
//! totals are the base of the increase.

use std::collections::VecDeque;
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use serde::Serialize;

use crate::metrics::{DELAY_BOUNDS_SECS, PoolCounters};

/// The length of a slot.
pub const SLOT: Duration = Duration::from_secs(30);

/// Maximum number of slots: an hour.
pub const SLOTS_MAX: usize = 120;

/// Events and calls within one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct HistorySlot {
    /// Live outcomes `Pass`.
    pub passed: u64,
    /// Live outcomes `Fail`.
    pub failed: u64,
    /// Events that threat protection acted on.
    pub risk: u64,
    /// Calls of the account and region that were throttled.
    pub throttled: u64,
    #[serde(skip)]
    calls: u64,
    #[serde(skip)]
    delays: [u64; DELAY_BOUNDS_SECS.len() + 1],
}

/// One pool's last hour.
#[derive(Clone, Debug, Default)]
pub struct History {
    last: Option<PoolCounters>,
    /// The number of the newest slot since 1970.
    newest: i64,
    /// The newest last.
    slots: VecDeque<HistorySlot>,
}

impl History {
    /// Notes the totals at `now`. If the clock is set back, the newest slot takes the increase. If it jumps ahead, the
    /// slots in between are empty.
    pub fn note(&mut self, now: UnixMillis, counts: &PoolCounters) {
        let number = now.0.div_euclid(i64::try_from(SLOT.as_millis()).unwrap_or(i64::MAX));
        if self.slots.is_empty() {
            self.newest = number;
            self.slots.push_back(HistorySlot::default());
        }
        let ahead = usize::try_from(number.saturating_sub(self.newest)).unwrap_or(0);
        if ahead > 0 {
            self.newest = number;
            self.slots.extend(std::iter::repeat_n(HistorySlot::default(), ahead.min(SLOTS_MAX)));
            self.slots.drain(..self.slots.len().saturating_sub(SLOTS_MAX));
        }
        let before = self.last.replace(counts.clone());
        if let (Some(before), Some(slot)) = (before, self.slots.back_mut()) {
            slot.add(&before, counts);
        }
    }

    /// Returns the slots, the newest last.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = &HistorySlot> {
        self.slots.iter()
    }

    /// Returns the sum of all slots.
    pub fn sum(&self) -> HistorySlot {
        self.slots.iter().fold(HistorySlot::default(), |mut sum, slot| {
            sum.passed += slot.passed;
            sum.failed += slot.failed;
            sum.risk += slot.risk;
            sum.throttled += slot.throttled;
            sum.calls += slot.calls;
            sum.delays.iter_mut().zip(slot.delays).for_each(|(sum, count)| *sum += count);
            sum
        })
    }
}

impl HistorySlot {
    fn add(&mut self, before: &PoolCounters, after: &PoolCounters) {
        // The totals of a pool that left the configuration and came back begin at 0.
        let grown = |before: u64, after: u64| after.saturating_sub(before);
        self.passed += grown(before.passed, after.passed);
        self.failed += grown(before.failed, after.failed);
        self.risk += grown(before.risk, after.risk);
        self.throttled += grown(before.throttled, after.throttled);
        self.calls += grown(before.calls, after.calls);
        let delays = before.delays.iter().zip(after.delays);
        self.delays.iter_mut().zip(delays).for_each(|(sum, (before, after))| *sum += grown(*before, after));
    }

    /// Returns the number of calls of the account and region.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Returns the delay in seconds that this share of the live events did not exceed, estimated as Prometheus's
    /// `histogram_quantile` does. None without events.
    pub fn delay_quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.delays.iter().sum();
        let rank = share * as_f64(total);
        let (mut below, mut lower) = (0, 0.0);
        for (count, upper) in self.delays.iter().zip(DELAY_BOUNDS_SECS) {
            if *count > 0 && as_f64(below + count) >= rank {
                return Some(lower + (upper - lower) * (rank - as_f64(below)).max(0.0) / as_f64(*count));
            }
            below += count;
            lower = upper;
        }
        (total > 0).then_some(lower)
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64) -> PoolCounters {
        PoolCounters { passed, ..PoolCounters::default() }
    }

    fn passed(history: &History) -> Vec<u64> {
        history.slots().map(|slot| slot.passed).collect()
    }

    #[test]
    fn growth_is_noted_in_the_slot_of_its_time_and_nothing_before_the_first_total() {
        let mut history = History::default();
        for (seconds, total) in [(0, 1000), (10, 1003), (35, 1003), (40, 1007), (95, 1008)] {
            history.note(UnixMillis(seconds * 1000), &counts(total));
        }
        assert_eq!(passed(&history), [3, 4, 0, 1]);
        assert_eq!(history.sum().passed, 8);
    }

    #[test]
    fn an_hour_is_kept_whatever_the_clock_does() {
        let mut history = History::default();
        for slot in 0..500 {
            history.note(UnixMillis(slot * 30_000), &counts(u64::try_from(slot).unwrap()));
        }
        assert_eq!(passed(&history), [1; SLOTS_MAX]);
        history.note(UnixMillis(0), &counts(510));
        assert_eq!(passed(&history).last(), Some(&12));
        history.note(UnixMillis(i64::MAX), &counts(511));
        assert_eq!(history.sum().passed, 1);
        history.note(UnixMillis(i64::MIN), &counts(0));
        history.note(UnixMillis(i64::MAX), &counts(2));
        assert_eq!(history.sum().passed, 3, "what began anew grows anew");
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let mut slot = HistorySlot::default();
        assert_eq!(slot.delay_quantile(0.5), None);
        // Ten up to 5 s, ten up to 15 s, and one in more than a day.
        (slot.delays[0], slot.delays[1], slot.delays[12]) = (10, 10, 1);
        assert_eq!(slot.delay_quantile(0.0), Some(0.0));
        let median = slot.delay_quantile(0.5).unwrap();
        assert!((median - 5.5).abs() < 1e-9, "{median}");
        assert_eq!(slot.delay_quantile(1.0), Some(86_400.0));
    }
}
