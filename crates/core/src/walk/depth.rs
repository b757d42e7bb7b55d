//! How deep a poll goes for what is known already.
//!
//! A poll pages through known events for two reasons: late arrivals within the overlap, and events in progress. Among
//! few events that is a page or two. In a storm on one user it is hundreds of pages, and would take the calls that new
//! events need. So the cost decides, and it is known beforehand: the remembered events above a date, divided by the
//! events of a page.
//!
//! | the overlap has | it is read again |
//! |---|---|
//! | at most [`Rules::REREAD_PAGES`] | whole, every [`Rules::REREAD_EVERY`] |
//! | more, and has a bookmark | in parts, each once, when it is older than the overlap and its watches are over |
//! | more, without a bookmark | whole, after [`Rules::PAGE_EVERY`] for each of its pages |
//!
//! A bookmark is the token of a place that a walk has passed. With it a part is read again from its top down, without
//! the pages above. The part becomes an open walk, so all rules of open walks hold for it. A bookmark that does not
//! come of age, because the local clock is behind, is not waited for without end.
//!
//! One descent serves every look that is due on its way. The next one waits for [`Rules::PAGE_EVERY`] for each page of
//! the last. A look that lies deeper than [`Rules::LOOK_PAGES_MAX`] is left to the re-reading of its part, which waits
//! for the end of its watch.

use std::time::Duration;

use super::page_span::PageSpan;
use super::{Kind, Rules, Taken, Walk};
use crate::cursor::{Bookmark, Cursor, OpenWalk, Sighting};
use crate::event::UnixMillis;
use crate::page::Page;

/// The remembered events of a cursor by date, and how many of them a page holds.
struct Depths {
    /// Oldest first.
    dates: Vec<UnixMillis>,
    page_events: usize,
}

impl Depths {
    fn of(cursor: &Cursor, page: &Page) -> Self {
        let mut dates: Vec<_> =
            cursor.seen.values().filter_map(|sighting| sighting.dates).map(|dates| dates.newest).collect();
        dates.sort_unstable();
        Self { dates, page_events: page.events.len().max(1) }
    }

    /// The number of pages that show the remembered events from this time on.
    fn pages_down_to(&self, time: UnixMillis) -> u32 {
        let above = self.dates.len() - self.dates.partition_point(|date| *date < time);
        u32::try_from(above.div_ceil(self.page_events)).unwrap_or(u32::MAX)
    }
}

impl Walk {
    /// Decides on a poll's first page how deep it reads for what is known.
    pub(super) fn bound_depth(&mut self, cursor: &mut Cursor, page: &Page, rules: &Rules, taken: &mut Taken) {
        // Where one page shows everything that is remembered, nothing is deep.
        if self.kind != Kind::Poll || cursor.seen.len() <= page.events.len() {
            return;
        }
        let depths = Depths::of(cursor, page);
        self.bound_rereading(cursor, &depths, page, rules);
        self.bound_looks(cursor, &depths, page, taken);
    }

    /// Bounds a poll that would read a deep overlap again: it ends at the newest known event. The part of the overlap
    /// that is old enough becomes an open walk.
    fn bound_rereading(&mut self, cursor: &mut Cursor, depths: &Depths, page: &Page, rules: &Rules) {
        let Some(newest) = self.newest_before.filter(|newest| self.full && *newest > cursor.watermark) else { return };
        let pages = depths.pages_down_to(cursor.watermark);
        if pages <= Rules::REREAD_PAGES {
            return;
        }
        if let Some(bookmark) = self.bookmark_for_rereading(cursor, page, rules) {
            let end = cursor.watermark;
            cursor.raise_watermark(bookmark.time);
            cursor.open.push(OpenWalk { token: Some(bookmark.token), lower_edge: bookmark.time, end });
            (cursor.reread_at, self.lower_bound) = (page.received, cursor.watermark);
        } else {
            let may_wait = page.served.is_some() && !cursor.bookmarks.is_empty();
            let wait = if may_wait { rules.overlap + Rules::REREAD_WAITS_MAX } else { Duration::ZERO };
            if self.since_reread >= wait.max(Rules::PAGE_EVERY * pages) {
                return;
            }
        }
        (self.full, self.end) = (false, newest);
    }

    /// The newest bookmark below which everything is older than the overlap and no watch is to be waited for.
    fn bookmark_for_rereading(&self, cursor: &Cursor, page: &Page, rules: &Rules) -> Option<Bookmark> {
        // This walk and the poll itself may both stay open.
        if cursor.open.len() + 2 > Rules::OPEN_WALKS_MAX {
            return None;
        }
        let settled = settled_before(page)?.minus(rules.overlap);
        let is_waited_for = |sighting: &&Sighting| {
            sighting.watch.is_some_and(|watch| watch.until > page.received)
                && rules.watch_for(&sighting.facts) <= Rules::REREAD_WAITS_MAX
        };
        let waiting = cursor.seen.values().filter(is_waited_for).filter_map(|sighting| sighting.dates);
        let oldest_waiting = waiting.map(|dates| dates.oldest).filter(|date| *date >= cursor.watermark).min();
        let is_ready = |bookmark: &&Bookmark| {
            bookmark.time <= settled && oldest_waiting.is_none_or(|oldest| bookmark.time < oldest)
        };
        cursor.bookmarks.iter().filter(is_ready).max_by_key(|bookmark| bookmark.time).cloned()
    }

    /// Keeps the looks that this poll goes down for, and puts the others off.
    fn bound_looks(&mut self, cursor: &mut Cursor, depths: &Depths, page: &Page, taken: &mut Taken) {
        let now = page.received;
        let oldest_shown = PageSpan::of(page, None).lower_edge.unwrap_or(UnixMillis::MAX);
        let read_anyway = self.end.min(oldest_shown);
        let longest = Rules::PAGE_EVERY * Rules::LOOK_PAGES_MAX;
        let may_descend = cursor.looks_from <= now || cursor.looks_from > now.plus(longest);
        let put_off_to = if may_descend { None } else { Some(cursor.looks_from) };
        let mut deepest = 0;
        let watermark = cursor.watermark;
        self.looks.retain(|key, look| {
            if *look >= read_anyway {
                return true;
            }
            let pages = depths.pages_down_to(*look);
            // A part above the watermark is read again later. Nothing else reaches an event below it.
            let is_in_reach = pages <= Rules::LOOK_PAGES_MAX || *look < watermark;
            if may_descend && is_in_reach {
                deepest = deepest.max(pages.min(Rules::LOOK_PAGES_MAX));
                return true;
            }
            if let Some(watch) = cursor.seen.get_mut(key).and_then(|sighting| sighting.watch.as_mut()) {
                watch.next_look = put_off_to.unwrap_or(now.plus(longest));
                taken.cursor_changed = true;
            }
            false
        });
        if deepest > 0 {
            cursor.looks_from = now.plus(Rules::PAGE_EVERY * deepest);
            self.look_pages = deepest;
        }
    }

    /// Bookmarks the end of a page, where the stretch below is deep and the last bookmark is far.
    pub(super) fn bookmark(&self, cursor: &mut Cursor, page: &Page, span: PageSpan, rules: &Rules) {
        let (Some(token), Some(time)) = (&page.next, span.lower_edge) else { return };
        let deep = usize::try_from(Rules::REREAD_PAGES).unwrap_or(usize::MAX).saturating_mul(page.events.len());
        // A walk that only passes on its way from the top had its token refused. Its bookmarks would be refused, too.
        let is_passing = self.kind != Kind::Poll && !self.got_further();
        let is_of_use = self.kind != Kind::Redelivery
            && !is_passing
            && !span.out_of_order
            && time > cursor.watermark
            && cursor.seen.len() > deep
            && token.0.len() <= Bookmark::TOKEN_BYTES_MAX
            && cursor.bookmarks.len() < Bookmark::KEPT_MAX;
        let spacing = (rules.overlap / 8).max(Bookmark::SPACING_MIN);
        let is_far = |bookmark: &Bookmark| bookmark.time.minus(spacing) >= time || bookmark.time.plus(spacing) <= time;
        if is_of_use && cursor.bookmarks.iter().all(is_far) {
            cursor.bookmarks.push(Bookmark { token: token.clone(), time });
        }
    }

    /// Whether the commit of a page may wait for the next page of its turn, where this many `pages` have waited for it
    /// since `waited` already.
    ///
    /// A commit writes the whole cursor. So a cursor that remembers much is written less often, and a page costs about
    /// as much as that of a cursor which remembers [`Rules::REMEMBERED_A_PAGE`] events. If the process ends before the
    /// commit, these pages are read again.
    pub fn commit_may_wait(cursor: &Cursor, pages: usize, waited: Duration) -> bool {
        let pages_max = (cursor.remembered() / Rules::REMEMBERED_A_PAGE).min(Rules::COMMIT_PAGES_MAX);
        pages < pages_max && waited < Rules::COMMIT_WAIT_MAX
    }

    /// Whether a turn of this walk has read enough pages. A user's first poll leaves all but its newest page to the
    /// lane for backlog, so that the newest events of other users come first.
    pub fn has_read_enough(&self) -> bool {
        let pages_max = match self.kind {
            Kind::Poll if !self.has_lower_edge() => Rules::TURN_PAGES_MAX,
            Kind::Poll if self.is_first() => 1,
            Kind::Poll => Rules::POLL_PAGES_MAX + self.look_pages,
            Kind::Backlog | Kind::Redelivery if self.got_further() => Rules::BACKLOG_PAGES_MAX,
            Kind::Backlog | Kind::Redelivery => Rules::TURN_PAGES_MAX,
        };
        self.pages >= pages_max
    }
}

/// A time before which everything was visible by both clocks when a page was read. None without the service's time.
///
/// The service's time is the end of a second, and the answer may have been written at its beginning.
pub(super) fn settled_before(page: &Page) -> Option<UnixMillis> {
    Some(page.served?.min(page.received).minus(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Watch;
    use crate::event::{AuthEvent, Word};
    use crate::page::PageToken;
    use crate::walk::Next;

    const RULES: Rules =
        Rules { overlap: Duration::from_mins(10), settle: Duration::from_mins(30), followed_since: None };
    const SECOND: i64 = 1000;
    const MINUTE: i64 = 60 * SECOND;
    const START: i64 = 1_000_000 * MINUTE;
    const PAGE: usize = 10;

    /// A user with an event a second, of which some are in progress and never end.
    struct BusyUser {
        cursor: Cursor,
        in_progress: Vec<i64>,
        has_date: bool,
        /// The last second with an event.
        last: i64,
    }

    impl BusyUser {
        fn new(in_progress: &[i64]) -> Self {
            let start = UnixMillis(START);
            Self {
                cursor: Cursor::new(start, start),
                in_progress: in_progress.to_vec(),
                has_date: true,
                last: i64::MAX,
            }
        }

        fn event(&self, second: i64) -> AuthEvent {
            let response = if self.in_progress.contains(&second) { "InProgress" } else { "Pass" };
            AuthEvent {
                id: Some(second.to_string()),
                event_type: Some(Word::parse("SignIn")),
                creation_date: Some(UnixMillis(START + second * SECOND)),
                response: Some(Word::parse(response)),
                ..AuthEvent::default()
            }
        }

        /// The page below this second.
        fn page(&self, token: Option<&PageToken>, now: i64) -> Page {
            let below = token.map_or(now.min(self.last) + 1, |PageToken(second)| second.parse().unwrap());
            let oldest = (below - 10).max(0);
            let received = UnixMillis(START + now * SECOND);
            Page {
                events: (oldest..below).rev().map(|second| self.event(second)).collect(),
                next: (oldest > 0).then(|| PageToken(oldest.to_string())),
                received,
                served: self.has_date.then(|| received.plus(Duration::from_millis(999))),
            }
        }

        /// Reads on as a turn does. Answers with the number of pages, and of events that were taken.
        fn turn(&mut self, mut walk: Walk, now: i64) -> (u32, usize) {
            let mut found = 0;
            loop {
                let page = self.page(walk.token(), now);
                let taken = walk.take(&mut self.cursor, &page, &RULES);
                found += taken.findings.len();
                if taken.next == Next::Finished || walk.has_read_enough() {
                    return (walk.pages(), found);
                }
            }
        }

        fn poll(&mut self, now: i64) -> (u32, usize) {
            let walk = Walk::begin(&self.cursor, UnixMillis(START + now * SECOND));
            self.turn(walk, now)
        }

        /// The watch of an event in progress.
        fn watch(&mut self) -> &mut Watch {
            self.cursor.seen.values_mut().find_map(|sighting| sighting.watch.as_mut()).unwrap()
        }

        /// Polls every 15 seconds from one second to another. Answers with the sum of all turns.
        fn follow(&mut self, seconds: std::ops::Range<i64>) -> (u32, usize) {
            let mut sum = (0, 0);
            for now in seconds.step_by(15) {
                let mut add = |(pages, found)| sum = (sum.0 + pages, sum.1 + found);
                add(self.poll(now));
                while let Some(walk) = Walk::resume(&self.cursor) {
                    add(self.turn(walk, now));
                }
            }
            sum
        }
    }

    #[test]
    fn each_part_of_a_deep_overlap_is_read_again_once_from_a_bookmark() {
        let mut user = BusyUser::new(&[]);
        let (pages, found) = user.follow(0..3600);
        assert_eq!(found, 3586, "every event until the last poll");
        // Every other page is a poll's last. Without bookmarks there were 60 pages every five minutes.
        assert!(pages < 2 * 240 + 360, "{pages}");
        assert!(user.cursor.remembered() < 1200, "{}", user.cursor.remembered());
        assert!(user.cursor.bookmarks.len() <= 8, "{:?}", user.cursor.bookmarks);
    }

    #[test]
    fn a_deep_overlap_is_left_to_an_open_walk_below_the_newest_bookmark_that_is_old_enough() {
        let mut user = BusyUser::new(&[]);
        user.follow(0..900);
        let (watermark, bookmarks) = (user.cursor.watermark(), user.cursor.bookmarks.clone());
        user.cursor.reread_at = UnixMillis(START);
        user.poll(900);
        let [open] = user.cursor.open_walks() else { panic!("{:?}", user.cursor.open_walks()) };
        let old_enough = UnixMillis(START + 299 * SECOND);
        let newest = bookmarks.iter().filter(|bookmark| bookmark.time <= old_enough).max_by_key(|it| it.time).unwrap();
        assert_eq!((open.lower_edge, open.token.as_ref()), (newest.time, Some(&newest.token)));
        assert_eq!((open.end, user.cursor.watermark()), (watermark, newest.time));
    }

    #[test]
    fn a_bookmark_waits_for_the_watches_below_it_but_not_for_that_of_a_sign_up() {
        for (event, is_waited_for) in [(200, true), (899, false)] {
            let mut user = BusyUser::new(&[event]);
            user.follow(0..900);
            user.cursor.reread_at = UnixMillis(START);
            user.poll(900);
            assert_eq!(user.cursor.open_walks().is_empty(), is_waited_for, "{event}");
        }
        let facts = AuthEvent { event_type: Some(Word::parse("SignUp")), ..AuthEvent::default() }.facts();
        assert!(RULES.watch_for(&facts) > Rules::REREAD_WAITS_MAX);
    }

    #[test]
    fn without_a_bookmark_a_deep_overlap_is_read_again_when_its_pages_have_paid_for_it() {
        let mut user = BusyUser::new(&[]);
        user.has_date = false;
        user.follow(0..600);
        assert!(user.cursor.remembered() > 500);
        for (minutes, is_read) in [(1, false), (10, false), (24, false), (30, true)] {
            // 60 pages are paid for in 25 minutes.
            user.cursor.reread_at = UnixMillis(START + 600 * SECOND - minutes * MINUTE);
            let mut polled = BusyUser { cursor: user.cursor.clone(), in_progress: vec![], ..user };
            let (pages, _) = polled.poll(600);
            assert_eq!(pages > 3, is_read, "{minutes} minutes: {pages} pages");
        }
    }

    #[test]
    fn after_a_storm_its_overlap_is_read_once_more_and_then_no_more() {
        let mut user = BusyUser::new(&[]);
        user.last = 900;
        user.follow(0..900);
        let (pages, found) = user.follow(900..7200);
        assert_eq!(found, 15);
        assert!(pages < 420 + 200, "a page a poll, and the overlap: {pages}");
        assert!(user.cursor.remembered() <= PAGE, "{}", user.cursor.remembered());
    }

    #[test]
    fn one_descent_serves_all_looks_and_the_next_waits_until_its_pages_are_paid_for() {
        let waits: Vec<i64> = (0..600).step_by(10).collect();
        let mut user = BusyUser::new(&waits);
        let mut deep = vec![];
        for now in (0..600).step_by(15) {
            if user.poll(now).0 > 4 {
                deep.push(now);
            }
            while let Some(walk) = Walk::resume(&user.cursor) {
                user.turn(walk, now);
            }
        }
        assert!((2..=5).contains(&deep.len()), "{deep:?}");
        assert!(deep.windows(2).all(|pair| pair[1] - pair[0] >= 5 * 25), "{deep:?}");
    }

    #[test]
    fn a_look_that_is_too_deep_is_put_off_and_its_watch_ends_with_the_reading_of_its_part() {
        let mut user = BusyUser::new(&[5]);
        user.follow(0..600);
        assert_eq!(user.cursor.watched(), 1);
        user.follow(600..3000);
        assert_eq!(user.cursor.watched(), 0, "its watch has ended after half an hour, and its part is older");
    }

    #[test]
    fn watches_below_the_watermark_end_however_many_they_are() {
        let waits: Vec<i64> = (0..300).collect();
        let mut user = BusyUser::new(&waits);
        user.last = 300;
        user.follow(0..310);
        assert_eq!(user.cursor.watched(), 300);
        user.cursor.raise_watermark(UnixMillis(START + 3600 * SECOND));
        user.follow(7200..7200 + 4 * 3600);
        assert_eq!(user.cursor.watched(), 0);
    }

    #[test]
    fn where_tokens_are_refused_the_way_from_the_top_is_taken_once_in_an_overlap() {
        let mut user = BusyUser::new(&[]);
        let mut refused = vec![];
        for now in (0..3600).step_by(15) {
            user.poll(now);
            while let Some(mut walk) = Walk::resume(&user.cursor) {
                // The token of a bookmark has expired, that of a page just read has not.
                if walk.token().is_some() && refused.last() != Some(&now) {
                    assert!(walk.token_refused(&mut user.cursor));
                    refused.push(now);
                }
                user.turn(walk, now);
            }
        }
        assert!((3..=5).contains(&refused.len()), "{refused:?}");
        assert!(refused.windows(2).all(|pair| pair[1] - pair[0] >= 600), "{refused:?}");
        assert!(user.cursor.remembered() < 1800, "{}", user.cursor.remembered());
    }

    #[test]
    fn a_poll_that_only_puts_looks_off_has_changed_the_cursor() {
        let mut user = BusyUser::new(&[5]);
        user.follow(0..600);
        user.last = 600;
        user.poll(602);
        let now = UnixMillis(START + 603 * SECOND);
        user.cursor.reread_at = now;
        user.cursor.looks_from = now.plus(Duration::from_secs(60));
        user.watch().next_look = now;
        let (mut walk, page) = (Walk::begin(&user.cursor, now), user.page(None, 603));
        let taken = walk.take(&mut user.cursor, &page, &RULES);
        assert!(taken.cursor_changed && taken.findings.is_empty());
        let looks_from = user.cursor.looks_from;
        assert_eq!(user.watch().next_look, looks_from, "until the last descent is paid for");
    }

    #[test]
    fn a_time_is_settled_only_by_both_clocks() {
        let page = |served: Option<i64>, received: i64| Page {
            events: vec![],
            next: None,
            received: UnixMillis(received),
            served: served.map(UnixMillis),
        };
        assert_eq!(settled_before(&page(Some(5999), 9000)), Some(UnixMillis(4999)), "it may be the second's beginning");
        assert_eq!(settled_before(&page(Some(5999), 3000)), Some(UnixMillis(2000)));
        assert_eq!(settled_before(&page(None, 9000)), None);
    }

    #[test]
    fn a_commit_waits_only_where_much_is_remembered_and_not_for_long() {
        let mut user = BusyUser::new(&[]);
        let may_wait =
            |user: &BusyUser, pages, seconds| Walk::commit_may_wait(&user.cursor, pages, Duration::from_secs(seconds));
        user.follow(0..240);
        assert!(!may_wait(&user, 1, 0), "{} are remembered", user.cursor.remembered());
        user.follow(240..600);
        assert!(may_wait(&user, 1, 0) && !may_wait(&user, 2, 0), "{} are remembered", user.cursor.remembered());
        assert!(!may_wait(&user, 1, 2));
    }
}
