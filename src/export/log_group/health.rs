//! Whether a log group can be read: when a fault begins, changes and ends.
//!
//! Pure. A refusal is a fault at once. A call without a proper answer, or a throttled one, is a fault only after a
//! while: the next call may succeed.

use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::lasting_fault::LastingFault;

use crate::source::SourceError;
use crate::trouble::Trouble;

/// How long calls may remain without an answer. It is the time after which an endpoint counts as unreachable for polls.
const UNANSWERED_MAX: Duration = Duration::from_mins(1);

/// The health of one log group.
#[derive(Debug, Default)]
pub(super) struct ReadingHealth {
    /// When the first call failed since the latest answer.
    failing_since: Option<UnixMillis>,
    fault: LastingFault<Trouble>,
}

impl ReadingHealth {
    /// Notes a failure, `lasted` after the first one since the latest answer, at `now` by the local clock. Returns
    /// since when the log group cannot be read, if it counts as a fault, and whether it is news.
    pub(super) fn failed(
        &mut self,
        error: &SourceError,
        lasted: Duration,
        now: UnixMillis,
    ) -> Option<(UnixMillis, bool)> {
        let since = *self.failing_since.get_or_insert(now);
        let trouble = Trouble::of(error).unwrap_or(Trouble::Unanswered);
        if trouble == Trouble::Unanswered && !self.fault.lasts() && lasted < UNANSWERED_MAX {
            return None;
        }
        Some((since, self.fault.failed(trouble)))
    }

    /// Notes an answer. Returns since when the log group could not be read, if a fault has ended.
    pub(super) fn answered(&mut self) -> Option<UnixMillis> {
        let since = self.failing_since.take();
        since.filter(|_| self.fault.succeeded())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_fault_at_once_and_a_missing_answer_after_a_minute() {
        let mut health = ReadingHealth::default();
        let (timeout, throttle) = (SourceError::Timeout("slow".into()), SourceError::Throttled("busy".into()));
        let denied = SourceError::Caller("denied".into());
        let at = |secs: i64| UnixMillis(secs * 1000);
        let after = Duration::from_secs;
        assert_eq!(health.failed(&timeout, after(0), at(0)), None);
        assert_eq!(health.failed(&throttle, after(59), at(59)), None);
        assert_eq!(health.answered(), None, "it was no fault");
        assert_eq!(health.failed(&timeout, after(0), at(100)), None);
        assert_eq!(health.failed(&throttle, after(60), at(160)), Some((at(100), true)));
        assert_eq!(health.failed(&timeout, after(61), at(161)), Some((at(100), false)), "the same fault");
        assert_eq!(health.failed(&denied, after(62), at(162)), Some((at(100), true)), "another one");
        assert_eq!(health.failed(&timeout, after(63), at(163)), Some((at(100), true)));
        assert_eq!(health.answered(), Some(at(100)));
        assert_eq!(health.answered(), None);
        assert_eq!(health.failed(&denied, after(0), at(200)), Some((at(200), true)));
    }
}
