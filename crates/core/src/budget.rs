//! When the next call may be made: evenly spaced, never above the budget, and finding out how much of it is allowed.
//!
//! Pure: time comes in as an argument. There is one [`Budget`] per account, region and quota category, shared by all
//! pools, because that is how AWS counts: the application's own calls are in the same category, and theirs come first.
//!
//! The configured rate is a promise of ours; how much of it the service grants nobody says. It may be less for as long as
//! the application is busy, and a throttle is the only sign. So the rate follows the curve of CUBIC (RFC 9438), which
//! was made for this: it remembers the rate at which it was throttled, comes back quickly to just below it, stays there,
//! and only then feels its way up, ever faster, until that ceiling is forgotten.
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
//! To halve and to win back a fixed share each second, as TCP once did, would be as polite and leave a quarter of what is
//! allowed unused, with a throttle at the tip of every saw tooth: here they come once in a minute and more. Every visit to
//! the ceiling costs the application some calls, too, because the service refuses whoever comes; hence the long plateau.

use std::time::{Duration, Instant};

/// The default limit of the quota category UserResourceRead, in requests per second, for each account and region
/// (<https://docs.aws.amazon.com/cognito/latest/developerguide/quotas.html>).
pub const DEFAULT_READ_LIMIT: f64 = 50.0;

/// The highest rate that may be configured, in requests per second, and the most that a share of a limit comes to: 20 times the
/// documented limit. A limit that leads to more is a mistake, and would let the exporter make as many calls as the network can carry.
pub const RATE_MAX_PER_SECOND: f64 = 1000.0;

/// A rate of calls, lowered by throttles and recovering by itself.
#[derive(Clone, Debug)]
pub struct Budget {
    limit_per_second: f64,
    /// When the next call may start.
    next: Option<Instant>,
    lesson: Option<Lesson>,
    /// Changes of the rate so far, by a throttle or by another limit: a slot reserved before the latest is void.
    changes: u64,
}

/// What the latest throttle taught.
#[derive(Clone, Copy, Debug)]
struct Lesson {
    at: Instant,
    /// The rate at which it came: more than is allowed.
    ceiling_per_second: f64,
    /// What it left of that.
    low_per_second: f64,
}

/// A call's reserved time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// When the call may start.
    pub at: Instant,
    changes: u64,
}

impl Budget {
    /// What a throttle leaves of the rate; CUBIC's own factor. Together with the pause everybody who shares the quota
    /// notices at once.
    const AFTER_THROTTLE: f64 = 0.7;

    /// What a throttle leaves that comes again within `SOON`: what is allowed is far below, and to be found in
    /// few steps.
    pub const AFTER_ANOTHER: f64 = 0.5;

    /// A throttle this soon after another shows that the first back-off was not enough.
    const SOON: Duration = Duration::from_secs(10);

    /// Nobody calls for so long after a throttle: the calls in flight come back, and the application finds the quota free.
    pub const PAUSE: Duration = Duration::from_secs(1);

    /// The share of the ceiling to stay at. The throttle came above what is allowed, but not far.
    const NEAR: f64 = 0.95;

    /// When the rate has come back to there: steeply at first, and slowly where the ceiling may be lower by now.
    const BACK_AFTER: Duration = Duration::from_secs(20);

    /// How long it stays there before it feels its way up. Longer, and a rate that is free again is found later; shorter,
    /// and the application is disturbed more often.
    const PROBES_AFTER: Duration = Duration::from_secs(90);

    /// How much of the limit the rate has risen above the plateau after as long again. It grows with the limit and not
    /// with the ceiling, so that even the lowest ceiling is forgotten within four minutes.
    const PROBE: f64 = 0.3;

    /// The lowest rate, where the limit is not lower: a quota that is used up altogether is asked every ten seconds.
    const FLOOR_PER_SECOND: f64 = 0.1;

    /// A call that starts late may be made up for within this time, or a timer's granularity would waste the budget.
    const CATCH_UP: Duration = Duration::from_millis(100);

    /// A budget of so many calls per second (above 0).
    pub fn new(limit_per_second: f64) -> Self {
        let limit_per_second = limit_per_second.max(f64::MIN_POSITIVE);
        Self { limit_per_second, next: None, lesson: None, changes: 0 }
    }

    /// Calls per second at `now`, after back-off.
    pub fn rate_per_second(&self, now: Instant) -> f64 {
        let Some(lesson) = &self.lesson else { return self.limit_per_second };
        let plateau = lesson.ceiling_per_second * Self::NEAR;
        let since = now.saturating_duration_since(lesson.at);
        let (missing, probing) = (Self::BACK_AFTER.saturating_sub(since), since.saturating_sub(Self::PROBES_AFTER));
        let below = (plateau - lesson.low_per_second) * missing.div_duration_f64(Self::BACK_AFTER).powi(3);
        let above = self.limit_per_second * Self::PROBE * probing.div_duration_f64(Self::PROBES_AFTER).powi(3);
        (plateau - below + above).max(Self::FLOOR_PER_SECOND).min(self.limit_per_second)
    }

    /// Changes the limit (calls per second, above 0). Calls that wait for their time are reserved anew, one after the other at
    /// the new rate; what throttles taught stays.
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

    /// When a call could start that were reserved now.
    pub fn next_at(&self, now: Instant) -> Instant {
        self.next.map_or(now, |next| next.max(now))
    }

    /// Reserves the next call. When its time has come the caller asks [`Budget::is_void`].
    pub fn reserve(&mut self, now: Instant) -> Slot {
        let earliest = now.checked_sub(Self::CATCH_UP).unwrap_or(now);
        let at = self.next.map_or(now, |next| next.max(earliest));
        self.next = Some(at + self.spacing(now));
        Slot { at: at.max(now), changes: self.changes }
    }

    /// Whether the rate has changed since this call was reserved: it is to be reserved anew, at the present one.
    pub fn is_void(&self, slot: &Slot) -> bool {
        slot.changes != self.changes
    }

    /// Slows down after the throttle of a call that started at `started`: at once, and for everybody who shares the budget.
    pub fn throttled(&mut self, started: Instant, now: Instant) {
        // Calls in flight together are throttled together: one lesson, not sixteen.
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

    /// From one call to the next; at most a day.
    fn spacing(&self, now: Instant) -> Duration {
        Duration::from_secs_f64((1.0 / self.rate_per_second(now)).min(86_400.0))
    }
}
