//! Time as the schedule keeps it: nanoseconds since its first moment. A tick count takes eight bytes, an `Instant`
//! sixteen.

use std::time::{Duration, Instant};

/// Nanoseconds since the schedule's first moment; negative before it.
pub(super) type Ticks = i64;

/// A time later than every event.
pub(super) const NEVER: Ticks = Ticks::MAX;

pub(super) fn ticks(first: Instant, at: Instant) -> Ticks {
    match at.checked_duration_since(first) {
        Some(later) => nanos(later),
        None => -nanos(first.duration_since(at)),
    }
}

pub(super) fn instant(first: Instant, ticks: Ticks) -> Instant {
    let distance = Duration::from_nanos(ticks.unsigned_abs());
    let instant = if ticks < 0 { first.checked_sub(distance) } else { first.checked_add(distance) };
    instant.unwrap_or(first)
}

/// A duration in nanoseconds, at most a quarter of the range (73 years), so that times can be added.
pub(super) fn nanos(duration: Duration) -> Ticks {
    Ticks::try_from(duration.as_nanos()).unwrap_or(NEVER).min(NEVER / 4)
}

#[expect(clippy::cast_precision_loss, reason = "a double tells microseconds in centuries")]
pub(super) fn seconds(span: Ticks) -> f64 {
    span as f64 / 1e9
}
