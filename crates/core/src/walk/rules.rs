//! The settings of a walk, and the times at which an event in progress is looked at again.

use std::time::Duration;

use crate::cursor::Watch;
use crate::event::{EventType, Facts, Label, UnixMillis};
use crate::page::Page;

/// The settings of a walk that the operator may change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// How far behind the newest event a poll reads again (`poll.overlap`).
    pub overlap: Duration,
    /// How long an event in progress is watched (`poll.settle`).
    pub settle: Duration,
    /// Events at or after this time are live, whatever the cursor says (`pools[].followed_since`).
    pub followed_since: Option<UnixMillis>,
}

impl Rules {
    /// An overlap of several pages is read in full at most this often. Otherwise an attack of 3,000 events an hour
    /// would cost 50 calls a poll.
    pub const REREAD_EVERY: Duration = Duration::from_mins(5);

    /// The largest overlap, in pages, that is read again whole every [`Rules::REREAD_EVERY`]. It costs a busy user a
    /// call every 25 seconds.
    pub const REREAD_PAGES: u32 = 12;

    /// The time that has to pass for each page of known events which a deep poll has read, before the next one. It is
    /// [`Rules::REREAD_EVERY`] for [`Rules::REREAD_PAGES`].
    pub const PAGE_EVERY: Duration = Duration::from_secs(25);

    /// The deepest look, in pages of known events, for which a poll goes down. It keeps such a poll as short as any
    /// other.
    pub const LOOK_PAGES_MAX: u32 = Self::POLL_PAGES_MAX;

    /// The time from the beginning to the end of the second that a Date header names. The service's time is that end.
    pub const REST_OF_THE_SECOND: Duration = Duration::from_millis(999);

    /// The longest watch for whose end the re-reading of a deep overlap waits: that of a forgotten password. Otherwise
    /// its outcome would need a second reading. A user has one sign-up, which is not waited for.
    pub const REREAD_WAITS_MAX: Duration = Self::FORGOT_PASSWORD_SETTLE;

    /// Pages of one poll. The lane for backlog reads the rest, so that one busy user does not hold up the others.
    pub const POLL_PAGES_MAX: u32 = 20;

    /// The number of remembered events that may be written for each page: about 12 kB.
    pub const REMEMBERED_A_PAGE: usize = 256;

    /// The largest number of pages in one commit. They are in memory until then, and are read again after a crash.
    pub const COMMIT_PAGES_MAX: usize = 16;

    /// The longest time for which a page waits for further pages before their commit, as far as these come at once.
    pub const COMMIT_WAIT_MAX: Duration = Duration::from_secs(2);

    /// Pages of one turn in the lane for backlog, once it has got further.
    pub const BACKLOG_PAGES_MAX: u32 = 50;

    /// Pages of any turn: the way from the top down to a lower edge, after a token has expired.
    pub const TURN_PAGES_MAX: u32 = 5000;

    /// The largest number of open walks of one user. At this bound the user's next turn finishes one before it polls
    /// the top.
    pub const OPEN_WALKS_MAX: usize = 4;

    /// A sign-up code lives 24 hours, and its event is in progress until then.
    const SIGN_UP_SETTLE: Duration = Duration::from_hours(25);

    /// A code for a forgotten password lives one hour.
    const FORGOT_PASSWORD_SETTLE: Duration = Duration::from_mins(65);

    /// The ages at which a watched event is looked at. After the last of them it is looked at again each time that its
    /// age reaches another multiple of it.
    const LOOKS: [Duration; 5] = [
        Duration::from_mins(1),
        Duration::from_mins(2),
        Duration::from_mins(5),
        Duration::from_mins(15),
        Duration::from_mins(30),
    ];

    /// The pause between looks for an event whose watch has ended, until a poll reaches the event.
    const LAST_LOOK_EVERY: Duration = Duration::from_mins(5);

    /// The largest number of polls that set out for a last look. If none reaches the event, its latest known state
    /// becomes final. The bound counts attempts and not time, so an exporter that was down for a day still looks.
    pub const LAST_LOOKS_MAX: u32 = 12;

    /// How long an event in progress is watched, from its creation on.
    pub(super) fn watch_for(&self, facts: &Facts) -> Duration {
        match facts.event_type {
            Label::Known(EventType::SignUp) => Self::SIGN_UP_SETTLE,
            Label::Known(EventType::ForgotPassword) => Self::FORGOT_PASSWORD_SETTLE,
            _ => self.settle,
        }
    }

    /// The watch of an event at first sight. The service's clock gives its age, which is zero if its date is ahead.
    /// From then on the local clock measures.
    pub(super) fn watch(&self, facts: &Facts, created: UnixMillis, page: &Page) -> Watch {
        self.watch_from(facts, created, page.read_at(), page.received)
    }

    /// The watch of an event that was read at `read_at` by the service's clock, where that is known, and at `received`
    /// by the local one.
    pub(crate) fn watch_from(
        &self,
        facts: &Facts,
        created: UnixMillis,
        read_at: UnixMillis,
        received: UnixMillis,
    ) -> Watch {
        let until = received.minus(read_at.since(created)).plus(self.watch_for(facts));
        Watch { until, next_look: self.next_look(facts, until, received), last_looks: 0 }
    }

    /// The time of the next look at an event that is watched until `until`.
    pub(super) fn next_look(&self, facts: &Facts, until: UnixMillis, now: UnixMillis) -> UnixMillis {
        if now >= until {
            return now.plus(Self::LAST_LOOK_EVERY);
        }
        let age = now.since(until.minus(self.watch_for(facts)));
        let [.., step] = Self::LOOKS;
        let next_age = Self::LOOKS
            .into_iter()
            .find(|look| *look > age)
            .unwrap_or_else(|| step * (u32::try_from(age.as_secs() / step.as_secs()).unwrap_or(u32::MAX - 1) + 1));
        // Counted from now and not from the event's creation, because the clock may have been set back since.
        now.plus(next_age.saturating_sub(age)).min(until)
    }

    /// Whether a look that was planned for `planned` is due. No look is planned further ahead than the longest pause
    /// between two. A look beyond that was planned before the clock was set back, and is due at once.
    pub(super) fn is_due(planned: UnixMillis, now: UnixMillis) -> bool {
        let [.., longest_pause] = Self::LOOKS;
        planned <= now || planned > now.plus(longest_pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AuthEvent, Word};

    const RULES: Rules =
        Rules { overlap: Duration::from_hours(1), settle: Duration::from_mins(30), followed_since: None };
    const NOON: UnixMillis = UnixMillis(43_200_000);

    fn facts(event_type: &str) -> Facts {
        AuthEvent { event_type: Some(Word::parse(event_type)), ..AuthEvent::default() }.facts()
    }

    fn minutes(minutes: u64) -> Duration {
        Duration::from_mins(minutes)
    }

    #[test]
    fn an_event_is_watched_for_as_long_as_its_code_lives() {
        let page = Page { events: vec![], next: None, received: NOON.plus(minutes(5)), served: Some(NOON) };
        for (event_type, watched) in
            [("SignUp", 25 * 60), ("ForgotPassword", 65), ("SignIn", 30), ("PasswordChange", 30), ("Passkey", 30)]
        {
            // Created ten minutes ago by the service's clock, whose time the local clock does not share.
            let watch = RULES.watch(&facts(event_type), NOON.minus(minutes(10)), &page);
            assert_eq!(watch.until, page.received.plus(minutes(watched - 10)), "{event_type}");
            assert_eq!(watch.last_looks, 0);
            let ahead = RULES.watch(&facts(event_type), NOON.plus(minutes(10)), &page);
            assert_eq!(ahead.until, page.received.plus(minutes(watched)), "{event_type} dated ahead");
        }
    }

    #[test]
    fn looks_come_at_their_ages_and_then_every_half_an_hour() {
        let facts = facts("SignUp");
        let until = NOON.plus(minutes(25 * 60));
        for (age, next) in
            [(0, 1), (1, 2), (2, 5), (4, 5), (5, 15), (15, 30), (29, 30), (30, 60), (61, 90), (1499, 1500)]
        {
            let look = RULES.next_look(&facts, until, NOON.plus(minutes(age)));
            assert_eq!(look, NOON.plus(minutes(next)), "at the age of {age} minutes");
        }
        for over in [0, 7] {
            let now = until.plus(minutes(over));
            assert_eq!(RULES.next_look(&facts, until, now), now.plus(minutes(5)), "the watch has ended");
        }
    }

    #[test]
    fn an_event_that_is_watched_for_ever_is_looked_at_all_the_same() {
        let ages = Rules { settle: Duration::MAX, ..RULES };
        assert_eq!(ages.next_look(&facts("SignIn"), UnixMillis(NOON.0 + 1), NOON), NOON, "at every poll");
    }

    #[test]
    fn a_look_is_due_when_its_time_has_come_or_lies_too_far_ahead() {
        for (ahead, due) in [(0, true), (1, false), (1_800_000, false), (1_800_001, true)] {
            assert_eq!(Rules::is_due(UnixMillis(NOON.0 + ahead), NOON), due, "{ahead} ms ahead");
        }
        assert!(Rules::is_due(NOON.minus(minutes(1)), NOON));
    }
}
