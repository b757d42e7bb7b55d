//! The window of time whose events are wanted, and the page that ends a reading. Pure.
//!
//! The service has no filter for times, and sends the newest events first. So the events above the window are read and
//! left out, and a reading ends below it. The order is not promised. A reading therefore ends only [`LATENESS`] below
//! the window, at a page whose events are in order or all older than that:
//!
//! ```text
//!   newest ............ until =========== since ......... since - LATENESS ......... oldest
//!            left out           printed          left out                   not read
//! ```

use std::time::Duration;

use cognito_auth_core::event::UnixMillis;

/// How far below the window a reading goes, for events that are out of order or arrived late. It is the default of
/// `poll.overlap`, for the same reason.
pub(super) const LATENESS: Duration = Duration::from_hours(1);

/// A window of time, open at an absent end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct TimeWindow {
    /// The first time inside.
    pub(super) since: Option<UnixMillis>,
    /// The first time behind it.
    pub(super) until: Option<UnixMillis>,
}

impl TimeWindow {
    /// Whether an event of this date is wanted. An event without a date is, because it may be inside.
    pub(super) fn holds(&self, date: Option<UnixMillis>) -> bool {
        let Some(date) = date else { return true };
        self.since.is_none_or(|since| date >= since) && self.until.is_none_or(|until| date < until)
    }

    /// Whether no event behind this page is wanted. `dates` are those of the page's events in the order sent.
    pub(super) fn ends_at(&self, dates: impl IntoIterator<Item = Option<UnixMillis>>) -> bool {
        let Some(since) = self.since else { return false };
        let floor = since.minus(LATENESS);
        let mut dates = dates.into_iter().flatten();
        let Some(first) = dates.next() else { return false };
        let (mut last, mut newest, mut is_in_order) = (first, first, true);
        for date in dates {
            is_in_order &= date <= last;
            newest = newest.max(date);
            last = date;
        }
        newest < floor || (is_in_order && last < floor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = 60_000;

    fn minutes(dates: &[i64]) -> Vec<Option<UnixMillis>> {
        dates.iter().map(|date| Some(UnixMillis(date * MINUTE))).collect()
    }

    fn since(minute: i64) -> TimeWindow {
        TimeWindow { since: Some(UnixMillis(minute * MINUTE)), until: None }
    }

    #[test]
    fn a_window_begins_with_its_first_time_and_ends_before_its_last() {
        let window = TimeWindow { until: Some(UnixMillis(200 * MINUTE)), ..since(100) };
        for (minute, is_inside) in [(99, false), (100, true), (199, true), (200, false)] {
            assert_eq!(window.holds(Some(UnixMillis(minute * MINUTE))), is_inside, "{minute}");
        }
        assert!(window.holds(None));
        assert!(TimeWindow::default().holds(Some(UnixMillis::MIN)));
    }

    #[test]
    fn a_page_ends_a_reading_by_the_table() {
        for (page, ends, why) in [
            (&[200, 150, 100][..], false, "all inside"),
            (&[200, 100, 41], false, "below the window, but an event may be an hour out of order"),
            (&[200, 100, 39], true, "in order, and an hour below"),
            (&[39, 38, 38], true, "wholly older"),
            (&[38, 39, 20], true, "wholly older, whatever the order"),
            (&[200, 39, 100, 38], false, "out of order, and not wholly older"),
            (&[], false, "an empty page says nothing"),
        ] {
            assert_eq!(since(100).ends_at(minutes(page)), ends, "{why}");
        }
        assert!(!since(100).ends_at([None, None]));
        assert!(since(100).ends_at([None, Some(UnixMillis(0)), None]));
        assert!(!TimeWindow::default().ends_at(minutes(&[0])));
    }

    proptest! {
        /// A history in which an event is at most an hour newer than one before it is read completely.
        #[test]
        fn no_wanted_event_is_left_unread_while_the_order_is_right_to_the_hour(
            history in prop::collection::vec((0_i64..2_000, 0_i64..60), 0..80),
            page_size in 1_usize..20,
            start in 0_i64..2_000,
        ) {
            // Each event stands where it would stand if it were up to an hour older.
            let mut history = history;
            history.sort_by_key(|(date, shift)| std::cmp::Reverse(date - shift));
            let dates = minutes(&history.iter().map(|(date, _)| *date).collect::<Vec<_>>());
            let window = since(start);
            let mut read = vec![];
            for page in dates.chunks(page_size) {
                read.extend(page.iter().copied().filter(|date| window.holds(*date)));
                if window.ends_at(page.iter().copied()) {
                    break;
                }
            }
            let wanted: Vec<_> = dates.into_iter().filter(|date| window.holds(*date)).collect();
            prop_assert_eq!(read, wanted);
        }
    }
}
