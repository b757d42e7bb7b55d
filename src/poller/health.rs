//! The health of a pool: whether it answers, how long to leave it alone, and what to log about it.
//!
//! Pure. The log gets one line when trouble begins, when its cause changes and when it ends, and none for each user or
//! attempt.

use std::time::{Duration, Instant};

use cognito_auth_core::backoff::Backoff;
use cognito_auth_core::lasting_fault::LastingFault;

use crate::source::{RefusalCause, SourceError};
use crate::trouble::Trouble;

/// A change of a pool's health that is to be logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Trouble has begun, or has another cause.
    Trouble(SourceError),
    /// The trouble is over, after this time.
    Recovered(Duration),
}

/// The part that a failed call concerns: the user, the pool or the quota.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// The user alone: other users may be polled.
    User,
    /// The pool, the caller or the connection: no user of the pool is polled during this pause.
    Pool {
        /// How long to leave the pool alone.
        hold: Duration,
    },
    /// The quota: the rate limiter has slowed down already.
    Quota,
}

/// A pool's health.
#[derive(Clone, Debug, Default)]
pub struct PoolHealth {
    answered_before: bool,
    /// Errors of the pool, the caller or the connection since the latest answer.
    failures: u32,
    failing_since: Option<Instant>,
    /// The trouble that is in the log.
    logged: LastingFault<Trouble>,
    held_until: Option<Instant>,
    /// The error in force: the refusal that was the latest answer, or else the latest connection error.
    cause: Option<SourceError>,
}

impl PoolHealth {
    /// Connection errors in a row, over all users, that count as trouble of the pool.
    const STREAK: u32 = 5;

    /// An endpoint that cannot be reached for this long is down (`cognito_exporter_pool_up`, docs/metrics.md).
    pub const UNREACHABLE_AFTER: Duration = Duration::from_mins(1);

    /// First pause after a refusal: a role or a plan changes in minutes, not in seconds.
    const REFUSED_HOLD: Duration = Duration::from_secs(15);

    /// Longest pause after refusals: it bounds how late a repair is noticed.
    const HOLD_MAX: Duration = Duration::from_mins(5);

    /// First pause while an endpoint cannot be reached. An outage may end in any second, and one call in this time
    /// costs nothing.
    const UNREACHABLE_HOLD: Duration = Duration::from_secs(1);

    /// Longest pause while an endpoint cannot be reached.
    const UNREACHABLE_HOLD_MAX: Duration = Duration::from_secs(15);

    /// Takes note of an answer.
    pub fn answered(&mut self, now: Instant) -> Option<Notice> {
        let is_over = self.logged.succeeded();
        let began = self.failing_since.filter(|_| is_over);
        *self = Self { answered_before: true, ..Self::default() };
        began.map(|since| Notice::Recovered(now.saturating_duration_since(since)))
    }

    /// Takes note of an error about one user. It ends a trouble only if a service in that trouble could not have
    /// answered so. It is not documented whether the service looks for the user before it checks the pool's plan.
    fn answered_for_a_user(&mut self, error: &SourceError, now: Instant) -> Option<Notice> {
        let is_disproved = match (self.refusal(), error) {
            (None, _) => true,
            // The pool is there, and the caller may ask: the service has looked for the user.
            (Some(Trouble::Caller(_) | Trouble::Pool(RefusalCause::NoSuchPool)), error) => {
                *error == SourceError::UserNotFound
            }
            (Some(_), _) => false,
        };
        if is_disproved { self.answered(now) } else { None }
    }

    /// Takes note of an error. A throttle concerns the quota that all pools of the account share, and not this pool.
    pub fn failed(&mut self, error: &SourceError, now: Instant) -> (Blame, Option<Notice>) {
        match error {
            SourceError::Throttled(_) => return (Blame::Quota, None),
            SourceError::UserNotFound | SourceError::InvalidParameter(_) => {
                return (Blame::User, self.answered_for_a_user(error, now));
            }
            // There was no answer, so the refusal stays the latest one.
            SourceError::Timeout(_) | SourceError::Passing(_) if self.refusal().is_some() => {}
            _ => self.cause = Some(error.clone()),
        }
        let refused = self.refusal().is_some();
        let (first, longest) = if refused {
            (Self::REFUSED_HOLD, Self::HOLD_MAX)
        } else {
            (Self::UNREACHABLE_HOLD, Self::UNREACHABLE_HOLD_MAX)
        };
        self.failing_since.get_or_insert(now);
        let trouble = self.cause.as_ref().and_then(Trouble::of);
        let notice = |logged: &mut LastingFault<Trouble>| {
            let is_news = trouble.is_some_and(|trouble| logged.failed(trouble));
            is_news.then(|| Notice::Trouble(error.clone()))
        };
        // Calls that were in flight together fail together, and count as one failure.
        if let Some(left) =
            self.held_until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
        {
            return (Blame::Pool { hold: left }, notice(&mut self.logged));
        }
        self.failures = self.failures.saturating_add(1);
        if !refused && self.failures < Self::STREAK {
            return (Blame::User, None);
        }
        let counted = if refused { self.failures } else { self.failures - Self::STREAK + 1 };
        let hold = Backoff::doubling(first, longest).wait_after(counted);
        self.held_until = Some(now + hold);
        (Blame::Pool { hold }, notice(&mut self.logged))
    }

    /// When the pool may be asked again, one user at a time, while it or the caller is refused.
    pub fn refused_until(&self) -> Option<Instant> {
        self.refusal().and(self.held_until)
    }

    /// Why the pool is down, while it is.
    pub fn down_because(&self, now: Instant) -> Option<&SourceError> {
        self.cause.as_ref().filter(|_| self.up(now) == Some(false))
    }

    fn refusal(&self) -> Option<Trouble> {
        let refusal =
            self.cause.as_ref().filter(|cause| matches!(cause, SourceError::Pool(_) | SourceError::Caller(_)));
        refusal.and_then(Trouble::of)
    }

    /// `cognito_exporter_pool_up`; None before the first answer.
    pub fn up(&self, now: Instant) -> Option<bool> {
        let unreachable =
            self.failing_since.is_some_and(|since| now.saturating_duration_since(since) >= Self::UNREACHABLE_AFTER);
        if self.refusal().is_some() || unreachable { Some(false) } else { self.answered_before.then_some(true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Refusal;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn trouble_is_told_when_it_begins_changes_and_ends_and_not_in_between() {
        let start = Instant::now();
        let mut health = PoolHealth::default();
        let denied = SourceError::Caller("denied".into());
        assert_eq!(health.up(start), None, "nothing is known yet");
        assert_eq!(
            health.failed(&denied, start),
            (Blame::Pool { hold: seconds(15) }, Some(Notice::Trouble(denied.clone())))
        );
        let again = start + seconds(15);
        assert_eq!(health.failed(&denied, again), (Blame::Pool { hold: seconds(30) }, None));
        assert_eq!(health.up(start), Some(false));
        let plan = SourceError::Pool("no threat protection".into());
        let (_, notice) = health.failed(&plan, start);
        assert_eq!(notice, Some(Notice::Trouble(plan)));
        assert_eq!(health.answered(start + seconds(90)), Some(Notice::Recovered(seconds(90))));
        assert_eq!(health.answered(start + seconds(91)), None);
        assert_eq!(health.up(start + seconds(91)), Some(true));
    }

    #[test]
    fn a_single_reset_is_the_users_bad_luck_and_a_streak_is_the_endpoint() {
        let start = Instant::now();
        let mut health = PoolHealth::default();
        health.answered(start);
        let reset = SourceError::Passing("connection reset".into());
        for _ in 1..PoolHealth::STREAK {
            assert_eq!(health.failed(&reset, start), (Blame::User, None));
        }
        let (blame, notice) = health.failed(&reset, start);
        assert_eq!(blame, Blame::Pool { hold: seconds(1) });
        assert!(notice.is_some());
        assert_eq!(health.up(start + seconds(59)), Some(true), "not for a minute yet");
        assert_eq!(health.up(start + seconds(60)), Some(false));
    }

    fn throttled() -> SourceError {
        SourceError::Throttled("rate exceeded".into())
    }

    fn refusal(cause: RefusalCause) -> Refusal {
        Refusal { cause, text: "refused".into() }
    }

    #[test]
    fn a_missing_user_is_up_and_a_throttle_says_nothing() {
        let start = Instant::now();
        let mut health = PoolHealth::default();
        assert_eq!(health.failed(&throttled(), start), (Blame::Quota, None));
        assert_eq!(health.up(start), None, "the pool has not answered yet");
        assert_eq!(health.failed(&SourceError::UserNotFound, start), (Blame::User, None));
        assert_eq!(health.up(start), Some(true));
        assert_eq!(health.failed(&throttled(), start), (Blame::Quota, None));
        assert_eq!(health.up(start), Some(true));
    }

    #[test]
    fn a_refusal_ends_with_an_answer_that_it_excludes_and_with_nothing_else() {
        use RefusalCause::{NoSuchPool, NoThreatProtection, NotAllowed};
        let user = || SourceError::UserNotFound;
        let parameter = || SourceError::InvalidParameter("username".into());
        let timeout = || SourceError::Timeout("none after 10s".into());
        let pool = |cause| SourceError::Pool(refusal(cause));
        let denied = || SourceError::Caller(refusal(NotAllowed));
        for (trouble, then, ends) in [
            (pool(NoThreatProtection), throttled(), false),
            (pool(NoThreatProtection), user(), false),
            (pool(NoThreatProtection), parameter(), false),
            (pool(NoThreatProtection), timeout(), false),
            (pool(NoSuchPool), throttled(), false),
            (pool(NoSuchPool), user(), true),
            (pool(NoSuchPool), parameter(), false),
            (denied(), user(), true),
            (denied(), parameter(), false),
            (denied(), timeout(), false),
        ] {
            let start = Instant::now();
            let mut health = PoolHealth::default();
            health.answered(start);
            assert!(health.failed(&trouble, start).1.is_some());
            let later = start + seconds(20);
            let (_, notice) = health.failed(&then, later);
            assert_eq!(notice, ends.then_some(Notice::Recovered(seconds(20))), "{trouble}, then {then}");
            assert_eq!(health.up(later), Some(ends), "{trouble}, then {then}");
            assert_eq!(health.down_because(later), (!ends).then_some(&trouble), "{trouble}, then {then}");
            assert_eq!(health.failed(&trouble, later).1.is_some(), ends, "{trouble} again is news if it had ended");
            assert!(health.answered(later + seconds(1)).is_some(), "a page ends everything");
            assert_eq!(health.up(later + seconds(1)), Some(true));
        }
    }

    #[test]
    fn an_endpoint_that_could_not_be_reached_is_reached_when_it_speaks_of_a_user_and_not_by_a_throttle() {
        let reset = SourceError::Passing("connection reset".into());
        for (then, ends) in
            [(throttled(), false), (SourceError::UserNotFound, true), (SourceError::InvalidParameter("x".into()), true)]
        {
            let start = Instant::now();
            let mut health = PoolHealth::default();
            (0..PoolHealth::STREAK).for_each(|_| drop(health.failed(&reset, start)));
            assert_eq!(health.failed(&then, start + seconds(60)).1.is_some(), ends, "{then}");
            assert_eq!(health.up(start + seconds(60)), Some(ends), "{then}");
        }
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let start = Instant::now();
        let mut health = PoolHealth::default();
        let denied = SourceError::Caller("denied".into());
        let holds: Vec<_> = (0..40).map(|hour| health.failed(&denied, start + seconds(hour * 3600)).0).collect();
        assert_eq!(holds[39], Blame::Pool { hold: PoolHealth::HOLD_MAX });
    }

    #[test]
    fn calls_in_flight_together_that_fail_together_are_one_failure() {
        let start = Instant::now();
        let mut health = PoolHealth::default();
        let denied = SourceError::Caller("denied".into());
        (0..15).for_each(|_| drop(health.failed(&denied, start)));
        assert_eq!(health.failed(&denied, start + seconds(5)), (Blame::Pool { hold: seconds(10) }, None));
        assert_eq!(health.failed(&denied, start + seconds(15)).0, Blame::Pool { hold: seconds(30) });
    }

    #[test]
    fn the_same_trouble_in_other_words_is_no_news() {
        let start = Instant::now();
        let mut health = PoolHealth::default();
        let unreadable = |bytes: u64| SourceError::Passing(format!("answer cannot be read ({bytes} bytes)"));
        let told = (0..50).filter(|hour| health.failed(&unreadable(*hour), start + seconds(hour * 3600)).1.is_some());
        assert_eq!(told.count(), 1);
        let timeout = SourceError::Timeout("none after 10s".into());
        assert_eq!(health.failed(&timeout, start + seconds(900_000)).1, None);
    }
}
