//! The progress of reading the histories of a pool's users, and when to log it.
//!
//! Pure. A first run may take days, so its progress is logged at every tenth, at most once a minute, and at the end.
//! The first end is always logged; a single user that joins later is not. A user that was not read since the process
//! started counts as not walked, because only its cursor shows it.

use std::time::{Duration, Instant};

/// The least time that a pace is measured over; on average it is half as much again. A changed budget shows after this
/// time.
const WINDOW: Duration = Duration::from_mins(5);

/// The least time between two log lines.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// The progress of a pool at one time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HistoryStanding {
    /// Users whose history is read to its end.
    pub walked: u64,
    /// All users.
    pub users: u64,
    /// How long the rest takes at the present pace; None while there is no pace.
    pub left: Option<Duration>,
}

/// A line for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HistoryNotice {
    /// Another tenth of the histories is read.
    Further,
    /// All histories are read, after this time.
    Done(Duration),
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    walked: u64,
}

/// A time in which some histories are not read to their ends.
#[derive(Clone, Copy, Debug)]
struct Walking {
    began: Instant,
    /// The mark that the pace is measured from.
    from: Mark,
    /// The mark that takes its place when it is two windows old.
    next: Mark,
    logged_at: Instant,
    logged_tenths: u64,
    /// Whether the log has a line about it, so that its end is logged, too.
    is_logged: bool,
}

/// The history progress of a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct HistoryProgress {
    walking: Option<Walking>,
    walked_before: bool,
}

impl HistoryProgress {
    /// Measures the progress: `left` of `users` histories are not read to their ends.
    pub fn look(&mut self, users: u64, left: u64, now: Instant) -> (HistoryStanding, Option<HistoryNotice>) {
        let walked = users.saturating_sub(left);
        let mut standing = HistoryStanding { walked, users, left: None };
        if left == 0 {
            standing.left = (users > 0).then_some(Duration::ZERO);
            let ended = self.walking.take();
            let is_first = users > 0 && !self.walked_before;
            self.walked_before |= is_first;
            let is_news = users > 0 && (is_first || ended.is_some_and(|walking| walking.is_logged));
            // Without a beginning, it began and ended between two measurements.
            let took = ended.map_or(Duration::ZERO, |walking| now.saturating_duration_since(walking.began));
            return (standing, is_news.then_some(HistoryNotice::Done(took)));
        }
        let tenths = walked.saturating_mul(10) / users.max(1);
        let mark = Mark { at: now, walked };
        let walking = self.walking.get_or_insert(Walking {
            began: now,
            from: mark,
            next: mark,
            logged_at: now,
            logged_tenths: tenths,
            is_logged: false,
        });
        if now.saturating_duration_since(walking.next.at) >= WINDOW {
            (walking.from, walking.next) = (walking.next, mark);
        }
        standing.left = walking.from.pace(mark).and_then(|pace| {
            #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
            let left = left as f64;
            Duration::try_from_secs_f64(left / pace).ok()
        });
        // Users that join set the progress back.
        walking.logged_tenths = walking.logged_tenths.min(tenths);
        let is_time = now.saturating_duration_since(walking.logged_at) >= LOG_EVERY;
        let is_further = is_time && tenths > walking.logged_tenths;
        if is_further {
            (walking.logged_at, walking.logged_tenths, walking.is_logged) = (now, tenths, true);
        }
        (standing, is_further.then_some(HistoryNotice::Further))
    }
}

impl Mark {
    /// Users a second from this mark to a later one; None if there were none.
    fn pace(self, there: Self) -> Option<f64> {
        let walked = there.walked.checked_sub(self.walked).filter(|walked| *walked > 0)?;
        let seconds = there.at.saturating_duration_since(self.at).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
        let walked = walked as f64;
        (seconds > 0.0).then_some(walked / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Measures a pool once a second, with `left` histories to read; answers the log lines and their seconds.
    fn logged(
        history_progress: &mut HistoryProgress,
        users: u64,
        seconds: u64,
        left: impl Fn(u64) -> u64,
    ) -> Vec<(u64, HistoryNotice)> {
        let start = Instant::now();
        let look = |second: u64| {
            let now = start + Duration::from_secs(second);
            Some((second, history_progress.look(users, left(second), now).1?))
        };
        (0..=seconds).filter_map(look).collect()
    }

    #[test]
    fn a_long_walk_is_told_at_every_tenth_and_at_the_end() {
        let left = |second: u64| 3000_u64.saturating_sub(second);
        let further = (1..10).map(|tenth| (tenth * 300, HistoryNotice::Further));
        let expected: Vec<_> = further.chain([(3000, HistoryNotice::Done(SECOND * 3000))]).collect();
        assert_eq!(logged(&mut HistoryProgress::default(), 3000, 4000, left), expected);
    }

    #[test]
    fn a_quick_walk_is_told_once_a_minute_and_at_the_end() {
        let left = |second: u64| 150_u64.saturating_sub(second);
        let expected =
            [(60, HistoryNotice::Further), (120, HistoryNotice::Further), (150, HistoryNotice::Done(SECOND * 150))];
        assert_eq!(logged(&mut HistoryProgress::default(), 150, 300, left), expected);
    }

    #[test]
    fn a_walk_that_stands_still_is_not_told_over_and_over() {
        assert_eq!(logged(&mut HistoryProgress::default(), 100, 10_000, |_| 45), []);
    }

    #[test]
    fn who_joins_later_is_no_news_unless_there_are_many() {
        let mut history_progress = HistoryProgress::default();
        assert_eq!(
            logged(&mut history_progress, 5, 2, |second| u64::from(second < 2)),
            [(2, HistoryNotice::Done(SECOND * 2))]
        );
        assert_eq!(logged(&mut history_progress, 6, 90, |second| u64::from(second < 80)), []);
        let many = logged(&mut history_progress, 1000, 200, |second| 800_u64.saturating_sub(second * 5));
        assert_eq!(
            many,
            [(60, HistoryNotice::Further), (120, HistoryNotice::Further), (160, HistoryNotice::Done(SECOND * 160))]
        );
    }

    #[test]
    fn a_pool_of_nobody_has_nothing_to_tell() {
        let mut history_progress = HistoryProgress::default();
        assert_eq!(history_progress.look(0, 0, Instant::now()), (HistoryStanding::default(), None));
        // All users have left before they were read.
        history_progress.look(9, 9, Instant::now());
        assert_eq!(history_progress.look(0, 0, Instant::now()), (HistoryStanding::default(), None));
        assert_eq!(
            logged(&mut history_progress, 2, 9, |_| 0),
            [(0, HistoryNotice::Done(Duration::ZERO))],
            "read between two looks"
        );
    }

    #[test]
    fn the_time_left_follows_the_present_pace() {
        let (mut history_progress, start) = (HistoryProgress::default(), Instant::now());
        let mut left_after = |second: u64, left: u64| {
            history_progress.look(10_000, left, start + SECOND * u32::try_from(second).unwrap()).0.left
        };
        assert_eq!(left_after(0, 10_000), None, "there is no pace yet");
        assert_eq!(left_after(100, 9_000), Some(SECOND * 900));
        assert_eq!(left_after(300, 7_000), Some(SECOND * 700));
        // A tenth of the budget: the pace of before is forgotten within two windows.
        assert_eq!(left_after(600, 6_700), Some(SECOND * 6_700));
        assert_eq!(left_after(900, 6_400), Some(SECOND * 6_400));
        // At a standstill there is no estimate.
        assert_eq!((left_after(1050, 6_400), left_after(1500, 6_400)), (Some(SECOND * 9_600), None));
        assert_eq!(left_after(1501, 0), Some(Duration::ZERO));
    }
}
