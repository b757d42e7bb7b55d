//! The time of the next call: evenly spaced, never above the budget, and slower while the service throttles.
//!
//! Pure: time is an argument. There is one [`Budget`] per account, region and quota category. All pools share it,
//! because AWS counts so. The application's own calls are in the same category, and they take precedence.
//!
//! The configured rate is an upper bound. The service may grant less while the application is busy, and a throttle is
//! the only sign of that. So the rate follows the curve of CUBIC (RFC 9438), which was made for such a case. It
//! remembers the rate at which it was throttled, returns quickly to just below it, and stays there. Then it rises, ever
//! faster, until that ceiling is forgotten.
//!
//! ```text
//!   rate                                                             . the ceiling is forgotten
//!   ceiling . . . . . . . . . . . . . . . . . . . . . . . . . . . .'. . . . . . .
//!   NEAR . . . . . .  _______________________________________.---'
//!                .--'
//!             .-'   |                                   |
//!   low  ____/   BACK_AFTER                      PROBES_AFTER               since the throttle
//!       pause
//! ```
//!
//! Halving the rate and then adding a fixed share each second, as TCP once did, would leave a quarter of the allowed
//! rate unused. It would also cause a throttle at the tip of every saw tooth; here throttles are more than a minute
//! apart. At the ceiling the service refuses calls of the application as well. Hence the long plateau.

use std::time::{Duration, Instant};

/// The default limit of the quota category UserResourceRead, in requests per second, for each account and region
/// (<https://docs.aws.amazon.com/cognito/latest/developerguide/quotas.html>).
pub const DEFAULT_READ_LIMIT: f64 = 50.0;

/// The highest rate that may be configured, in requests per second, and the highest that a share of a limit results in.
/// It is 20 times the documented limit. A higher rate would be a mistake, and would remove every bound but the
/// network's.
pub const RATE_MAX_PER_SECOND: f64 = 1000.0;

/// A rate of calls that throttles lower and that recovers by itself.
#[derive(Clone, Debug)]
pub struct Budget {
    limit_per_second: f64,
    /// When the next call may start.
    next: Option<Instant>,
    lesson: Option<Lesson>,
    /// The number of changes of the rate so far, by a throttle or by another limit. A slot that was reserved before the
    /// latest change is void.
    changes: u64,
}

/// The latest throttle, and the rates that follow from it.
#[derive(Clone, Copy, Debug)]
struct Lesson {
    at: Instant,
    /// The rate at which the throttle came, in calls per second. It is more than the service allows.
    ceiling_per_second: f64,
    /// The rate just after the throttle, in calls per second.
    low_per_second: f64,
}

/// The reserved start of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallSlot {
    /// When the call may start.
    pub at: Instant,
    changes: u64,
}

impl Budget {
    /// The share of the rate that is left after a throttle: CUBIC's own factor. Together with the pause it frees quota
    /// at once for every other caller.
    const AFTER_THROTTLE: f64 = 0.7;

    /// The share of the rate that is left after another throttle within `SOON`. The allowed rate is then far below, and
    /// must be found in few steps.
    pub const AFTER_ANOTHER: f64 = 0.5;

    /// A throttle this soon after another shows that the first back-off was not enough.
    const SOON: Duration = Duration::from_secs(10);

    /// The pause of all calls after a throttle. The calls in flight return, and the application finds the quota free.
    pub const PAUSE: Duration = Duration::from_secs(1);

    /// The share of the ceiling at which the rate stays. The ceiling is a little above the allowed rate.
    const NEAR: f64 = 0.95;

    /// The time from a throttle until the rate is back there. The curve is steep at first, and flat where the ceiling
    /// may be lower by now.
    const BACK_AFTER: Duration = Duration::from_secs(20);

    /// The time from a throttle until the rate rises above the plateau. A longer time finds a rate that is free again
    /// later. A shorter time disturbs the application more often.
    const PROBES_AFTER: Duration = Duration::from_secs(90);

    /// The rise above the plateau, as a share of the limit, another `PROBES_AFTER` later. It grows with the limit and
    /// not with the ceiling, so even the lowest ceiling is forgotten within four minutes.
    const PROBE: f64 = 0.3;

    /// The lowest rate, in calls per second, unless the limit is lower. A quota that is used up altogether gets a call
    /// every ten seconds.
    const FLOOR_PER_SECOND: f64 = 0.1;

    /// The longest delay of a call that the next calls make up for. Without it a timer's granularity would waste
    /// budget.
    const CATCH_UP: Duration = Duration::from_millis(100);

    /// Makes a budget of `limit_per_second` calls per second (above 0).
    pub fn new(limit_per_second: f64) -> Self {
        let limit_per_second = limit_per_second.max(f64::MIN_POSITIVE);
        Self { limit_per_second, next: None, lesson: None, changes: 0 }
    }

    /// The rate without throttles, in calls per second.
    pub fn limit_per_second(&self) -> f64 {
        self.limit_per_second
    }

    /// The rate at `now`, in calls per second, with what throttles left of it.
    pub fn rate_per_second(&self, now: Instant) -> f64 {
        let Some(lesson) = &self.lesson else { return self.limit_per_second };
        let plateau = lesson.ceiling_per_second * Self::NEAR;
        let since = now.saturating_duration_since(lesson.at);
        let (missing, probing) = (Self::BACK_AFTER.saturating_sub(since), since.saturating_sub(Self::PROBES_AFTER));
        let below = (plateau - lesson.low_per_second) * missing.div_duration_f64(Self::BACK_AFTER).powi(3);
        let above = self.limit_per_second * Self::PROBE * probing.div_duration_f64(Self::PROBES_AFTER).powi(3);
        (plateau - below + above).max(Self::FLOOR_PER_SECOND).min(self.limit_per_second)
    }

    /// Changes the limit (calls per second, above 0). Reserved calls become void, and are to be reserved again at the
    /// new rate. The latest throttle stays in effect.
    pub fn set_limit(&mut self, limit_per_second: f64, now: Instant) {
        let limit_per_second = limit_per_second.max(f64::MIN_POSITIVE);
        if limit_per_second.to_bits() == self.limit_per_second.to_bits() {
            return;
        }
        self.limit_per_second = limit_per_second;
        self.changes = self.changes.wrapping_add(1);
        let pause_ends = self.lesson.map_or(now, |lesson| lesson.at + Self::PAUSE);
        let soonest = (now + self.spacing(now)).max(pause_ends);
        self.next = self.next.map(|next| next.min(soonest));
    }

    /// The time at which a call could start if it were reserved now.
    pub fn next_at(&self, now: Instant) -> Instant {
        self.next.map_or(now, |next| next.max(now))
    }

    /// Reserves the next call. Before it starts, the caller must ask [`Budget::is_void`].
    pub fn reserve(&mut self, now: Instant) -> CallSlot {
        let earliest = now.checked_sub(Self::CATCH_UP).unwrap_or(now);
        let at = self.next.map_or(now, |next| next.max(earliest));
        self.next = Some(at + self.spacing(now));
        CallSlot { at: at.max(now), changes: self.changes }
    }

    /// Whether the rate has changed since this call was reserved. Then it must be reserved again, at the present rate.
    pub fn is_void(&self, slot: &CallSlot) -> bool {
        slot.changes != self.changes
    }

    /// Slows down, at once and for every pool that shares the budget, after the throttle of a call that started at
    /// `started`.
    pub fn throttled(&mut self, started: Instant, now: Instant) {
        // Calls that are in flight together are throttled together. They count as one throttle.
        if self.lesson.is_some_and(|lesson| started <= lesson.at) {
            return;
        }
        let again = self.lesson.is_some_and(|lesson| now.saturating_duration_since(lesson.at) < Self::SOON);
        let ceiling_per_second = self.rate_per_second(now);
        let left = if again { Self::AFTER_ANOTHER } else { Self::AFTER_THROTTLE };
        self.lesson = Some(Lesson { at: now, ceiling_per_second, low_per_second: ceiling_per_second * left });
        self.changes = self.changes.wrapping_add(1);
        self.next = Some(now + Self::PAUSE.max(self.spacing(now)));
    }

    /// The time from one call to the next; at most a day.
    fn spacing(&self, now: Instant) -> Duration {
        Duration::from_secs_f64((1.0 / self.rate_per_second(now)).min(86_400.0))
    }
}
