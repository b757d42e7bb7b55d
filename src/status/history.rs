//! A pool's last hour in slots of half a minute, and its last day in slots of a quarter of an hour, for the charts of
//! the status page.
//!
//! The module is pure. It receives totals and keeps their increase in each slot. It begins with the process: the first
//! totals are the base of the increase. A pool takes at most 18 KiB for the hour, and 1.5 KiB for the day.

use std::collections::VecDeque;
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use serde::Serialize;

use crate::metrics::{DELAY_BOUNDS_SECS, PoolCounters};

/// The length of a slot.
pub const SLOT: Duration = Duration::from_secs(30);

/// Maximum number of slots: an hour.
pub const SLOTS_MAX: usize = 120;

/// The length of a slot of the day.
pub const DAY_SLOT: Duration = Duration::from_mins(15);

/// Maximum number of slots of the day.
pub const DAY_SLOTS_MAX: usize = 96;

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

/// Events and calls within one slot of the day. Four numbers of 32 bits: no pool has four billion events in a quarter
/// of an hour.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DaySlot {
    /// Live outcomes `Pass`.
    pub passed: u32,
    /// Live outcomes `Fail`.
    pub failed: u32,
    /// Events that threat protection acted on.
    pub risk: u32,
    /// Calls of the account and region that were throttled.
    pub throttled: u32,
}

/// One pool's last hour and last day.
#[derive(Clone, Debug, Default)]
pub struct History {
    last: Option<PoolCounters>,
    hour: Slots<HistorySlot>,
    day: Slots<DaySlot>,
}

/// Slots of one length, up to the present.
#[derive(Clone, Debug, Default)]
struct Slots<T> {
    /// The number of the newest slot since 1970.
    newest: i64,
    /// The newest last.
    slots: VecDeque<T>,
}

impl<T: Clone + Default> Slots<T> {
    /// Returns the slot of this time. If the clock is set back, this is the newest slot. If it jumps ahead, the slots
    /// in between are empty.
    fn at(&mut self, now: UnixMillis, length: Duration, slots_max: usize) -> Option<&mut T> {
        let number = now.0.div_euclid(i64::try_from(length.as_millis()).unwrap_or(i64::MAX));
        if self.slots.is_empty() {
            self.newest = number;
            self.slots.push_back(T::default());
        }
        let ahead = usize::try_from(number.saturating_sub(self.newest)).unwrap_or(0).min(slots_max);
        if ahead > 0 {
            self.newest = number;
            self.slots.drain(..(self.slots.len() + ahead).saturating_sub(slots_max).min(self.slots.len()));
            // Exactly as much room as will be needed, because every pool has these.
            self.slots.reserve_exact(slots_max.saturating_sub(self.slots.len()));
            self.slots.extend(std::iter::repeat_n(T::default(), ahead));
        }
        self.slots.back_mut()
    }
}

impl History {
    /// Notes the totals at `now`.
    pub fn note(&mut self, now: UnixMillis, counts: &PoolCounters) {
        let before = self.last.replace(counts.clone());
        let hour = self.hour.at(now, SLOT, SLOTS_MAX);
        let day = self.day.at(now, DAY_SLOT, DAY_SLOTS_MAX);
        let (Some(before), Some(hour), Some(day)) = (before, hour, day) else { return };
        hour.add(&before, counts);
        day.add(&before, counts);
    }

    /// Returns the slots of the last hour, the newest last.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = &HistorySlot> {
        self.hour.slots.iter()
    }

    /// Returns the slots of the last day, the newest last.
    pub fn day_slots(&self) -> impl ExactSizeIterator<Item = &DaySlot> {
        self.day.slots.iter()
    }

    /// Returns the sum of the last hour.
    pub fn sum(&self) -> HistorySlot {
        self.hour.slots.iter().fold(HistorySlot::default(), |mut sum, slot| {
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

/// The increase of a total. The totals of a pool that left the configuration and came back begin at 0.
fn grown(before: u64, after: u64) -> u64 {
    after.saturating_sub(before)
}

impl DaySlot {
    fn add(&mut self, before: &PoolCounters, after: &PoolCounters) {
        let add = |sum: &mut u32, before: u64, after: u64| {
            *sum = sum.saturating_add(u32::try_from(grown(before, after)).unwrap_or(u32::MAX));
        };
        add(&mut self.passed, before.passed, after.passed);
        add(&mut self.failed, before.failed, after.failed);
        add(&mut self.risk, before.risk, after.risk);
        add(&mut self.throttled, before.throttled, after.throttled);
    }
}

impl HistorySlot {
    fn add(&mut self, before: &PoolCounters, after: &PoolCounters) {
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
    fn a_day_is_kept_in_quarters_of_an_hour() {
        let mut history = History::default();
        let minute = |minute: i64| UnixMillis(minute * 60_000);
        for at in 0..3 * 24 * 60 {
            history.note(minute(at), &counts(u64::try_from(at).unwrap() * 2));
        }
        let day: Vec<u32> = history.day_slots().map(|slot| slot.passed).collect();
        assert_eq!(day, [30; DAY_SLOTS_MAX]);
        assert_eq!(passed(&history), [2, 0].repeat(60)[1..].iter().copied().chain([2]).collect::<Vec<_>>());
        let mut begun = History::default();
        begun.note(minute(0), &counts(0));
        begun.note(minute(61), &counts(7));
        let slots: Vec<u32> = begun.day_slots().map(|slot| slot.passed).collect();
        assert_eq!(slots, [0, 0, 0, 0, 7], "it begins with the process");
    }

    #[test]
    fn the_charts_of_a_pool_take_less_than_twenty_kilobytes() {
        let mut history = History::default();
        for slot in 0..5_000 {
            history.note(UnixMillis(slot * 30_000), &counts(0));
        }
        let bytes = |slots: usize, size: usize| slots * size;
        let hour = bytes(history.hour.slots.capacity(), size_of::<HistorySlot>());
        let day = bytes(history.day.slots.capacity(), size_of::<DaySlot>());
        assert!(hour <= 18 * 1024, "{hour} bytes for the hour");
        assert_eq!(day, 1_536, "96 slots of 16 bytes");
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
