//! How far a pool's users' histories are walked, and what the log says of it when.
//!
//! Pure. A first run may take days, so people are told where it stands: at every tenth, but once a minute at most, and at
//! the end. The first end is always told; somebody who joins later is no news. Whoever was not read since the process started counts as not walked:
//! only the first look into its cursor tells.

use std::time::{Duration, Instant};

/// What a pace is measured over, at least; it is half as much again on average. A budget that was changed shows in that time.
const WINDOW: Duration = Duration::from_mins(5);

/// Lines are so far apart at least.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// Where the walks of a pool's histories stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Users of whom nothing of the history is left.
    pub walked: u64,
    /// Users.
    pub users: u64,
    /// How long the rest takes at the present pace; None while there is none.
    pub left: Option<Duration>,
}

/// What the log is to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// Another tenth.
    Further,
    /// Nothing is left, after so long.
    Done(Duration),
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    walked: u64,
}

/// A stretch of time in which histories are left.
#[derive(Clone, Copy, Debug)]
struct Walking {
    began: Instant,
    /// What the pace is measured from, and what it will be when that is two windows old.
    from: Mark,
    next: Mark,
    told_at: Instant,
    told_tenths: u64,
    /// People were told of it, and want to know that it has ended.
    is_known: bool,
}

/// A pool's history_progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct HistoryProgress {
    walking: Option<Walking>,
    walked_before: bool,
}

impl HistoryProgress {
    /// Looks at how many users there are, and how many of their histories are left.
    pub fn look(&mut self, users: u64, left: u64, now: Instant) -> (Standing, Option<Told>) {
        let walked = users.saturating_sub(left);
        let mut standing = Standing { walked, users, left: None };
        if left == 0 {
            standing.left = (users > 0).then_some(Duration::ZERO);
            let ended = self.walking.take();
            let is_first = users > 0 && !self.walked_before;
            self.walked_before |= is_first;
            let is_news = users > 0 && (is_first || ended.is_some_and(|walking| walking.is_known));
            // None: it began and ended between two looks.
            let took = ended.map_or(Duration::ZERO, |walking| now.saturating_duration_since(walking.began));
            return (standing, is_news.then_some(Told::Done(took)));
        }
        let tenths = walked.saturating_mul(10) / users.max(1);
        let mark = Mark { at: now, walked };
        let walking = self.walking.get_or_insert(Walking {
            began: now,
            from: mark,
            next: mark,
            told_at: now,
            told_tenths: tenths,
            is_known: false,
        });
        if now.saturating_duration_since(walking.next.at) >= WINDOW {
            (walking.from, walking.next) = (walking.next, mark);
        }
        standing.left = walking.from.pace(mark).and_then(|pace| {
            #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
            let left = left as f64;
            Duration::try_from_secs_f64(left / pace).ok()
        });
        // Users who join put it back.
        walking.told_tenths = walking.told_tenths.min(tenths);
        let is_time = now.saturating_duration_since(walking.told_at) >= TOLD_EVERY;
        let is_further = is_time && tenths > walking.told_tenths;
        if is_further {
            (walking.told_at, walking.told_tenths, walking.is_known) = (now, tenths, true);
        }
        (standing, is_further.then_some(Told::Further))
    }
}

impl Mark {
    /// Users a second from here to there; None if there were none.
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

    /// Looks at a pool once a second while `left` of its users says how many are left; answers what was told at which second.
    fn told(
        history_progress: &mut HistoryProgress,
        users: u64,
        seconds: u64,
        left: impl Fn(u64) -> u64,
    ) -> Vec<(u64, Told)> {
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
        let further = (1..10).map(|tenth| (tenth * 300, Told::Further));
        let expected: Vec<_> = further.chain([(3000, Told::Done(SECOND * 3000))]).collect();
        assert_eq!(told(&mut HistoryProgress::default(), 3000, 4000, left), expected);
    }

    #[test]
    fn a_quick_walk_is_told_once_a_minute_and_at_the_end() {
        let left = |second: u64| 150_u64.saturating_sub(second);
        let expected = [(60, Told::Further), (120, Told::Further), (150, Told::Done(SECOND * 150))];
        assert_eq!(told(&mut HistoryProgress::default(), 150, 300, left), expected);
    }

    #[test]
    fn a_walk_that_stands_still_is_not_told_over_and_over() {
        assert_eq!(told(&mut HistoryProgress::default(), 100, 10_000, |_| 45), []);
    }

    #[test]
    fn who_joins_later_is_no_news_unless_there_are_many() {
        let mut history_progress = HistoryProgress::default();
        assert_eq!(told(&mut history_progress, 5, 2, |second| u64::from(second < 2)), [(2, Told::Done(SECOND * 2))]);
        assert_eq!(told(&mut history_progress, 6, 90, |second| u64::from(second < 80)), []);
        let many = told(&mut history_progress, 1000, 200, |second| 800_u64.saturating_sub(second * 5));
        assert_eq!(many, [(60, Told::Further), (120, Told::Further), (160, Told::Done(SECOND * 160))]);
    }

    #[test]
    fn a_pool_of_nobody_has_nothing_to_tell() {
        let mut history_progress = HistoryProgress::default();
        assert_eq!(history_progress.look(0, 0, Instant::now()), (Standing::default(), None));
        // All have left before they were read.
        history_progress.look(9, 9, Instant::now());
        assert_eq!(history_progress.look(0, 0, Instant::now()), (Standing::default(), None));
        assert_eq!(
            told(&mut history_progress, 2, 9, |_| 0),
            [(0, Told::Done(Duration::ZERO))],
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
        // At a standstill nobody knows.
        assert_eq!((left_after(1050, 6_400), left_after(1500, 6_400)), (Some(SECOND * 9_600), None));
        assert_eq!(left_after(1501, 0), Some(Duration::ZERO));
    }
}
