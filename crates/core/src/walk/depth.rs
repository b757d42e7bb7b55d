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
    use crate::cursor::{Dates, LastSeen, Watch};
    use crate::event::{AuthEvent, EventKey, Word};
    use crate::page::PageToken;
    use crate::walk::Next;

    const RULES: Rules =
        Rules { overlap: Duration::from_mins(10), settle: Duration::from_mins(30), followed_since: None };
    const SECOND: i64 = 1000;
    const MINUTE: i64 = 60 * SECOND;
    const START: i64 = 1_000_000 * MINUTE;
    const PAGE: usize = 10;
    const MS: Duration = Duration::from_millis(1);

    fn at(second: i64) -> UnixMillis {
        UnixMillis(START + second * SECOND)
    }

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

        /// A user whose last events are remembered, one of each second from zero on, above the watermark.
        fn remembering(events: i64) -> Self {
            let mut user = Self { last: events - 1, ..Self::new(&[]) };
            for second in 0..events {
                user.remember(second, "SignIn", None);
            }
            user.cursor.last_seen = Some(LastSeen { time: at(user.last), id: None });
            user
        }

        fn remember(&mut self, second: i64, event_type: &str, watch: Option<Watch>) -> EventKey {
            let event = AuthEvent { event_type: Some(Word::parse(event_type)), ..self.event(second) };
            let sighting = Sighting {
                dates: Some(Dates::of(at(second))),
                digest: event.mutable_digest(),
                former: vec![],
                revision: 0,
                live: true,
                facts: event.facts(),
                watch,
            };
            self.cursor.seen.insert(event.key(), sighting);
            event.key()
        }

        fn bookmark_at(&mut self, time: UnixMillis) {
            self.cursor.bookmarks.push(Bookmark { token: PageToken(time.0.to_string()), time });
        }

        /// Begins a poll that reads the overlap again, this long after the last one.
        fn begin_rereading(&mut self, now: i64, since_reread: Duration) -> Walk {
            let mut walk = Walk { since_reread, ..Walk::poll(&self.cursor, at(now)) };
            let page = self.page(None, now);
            let depths = Depths::of(&self.cursor, &page);
            walk.bound_rereading(&mut self.cursor, &depths, &page, &RULES);
            walk
        }

        /// The time of the bookmark from which the overlap is read again.
        fn rereading_from(&self, now: i64) -> Option<UnixMillis> {
            let walk = Walk::poll(&self.cursor, at(now));
            walk.bookmark_for_rereading(&self.cursor, &self.page(None, now), &RULES).map(|bookmark| bookmark.time)
        }

        /// Begins a poll that leaves the overlap, unless `end` says how deep it reads, and looks down to these times.
        /// Answers also whether the cursor was changed.
        fn begin_looking(&mut self, now: i64, end: Option<UnixMillis>, looks: &[UnixMillis]) -> (Walk, bool) {
            self.cursor.reread_at = at(now);
            let mut walk = Walk::poll(&self.cursor, at(now));
            walk.end = end.unwrap_or(walk.end);
            for (second, time) in (0..).zip(looks) {
                let watch = Watch { until: at(now), next_look: at(now), last_looks: 0 };
                walk.looks.insert(self.remember(second, "SignIn", Some(watch)), *time);
            }
            let mut taken = Taken::NOTHING;
            let page = self.page(None, now);
            walk.bound_depth(&mut self.cursor, &page, &RULES, &mut taken);
            (walk, taken.cursor_changed)
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

    #[test]
    fn an_event_too_many_costs_a_page_more_and_none_costs_none() {
        let depths = Depths { dates: (0..21).map(at).collect(), page_events: PAGE };
        let pages = [(21, 0), (20, 1), (11, 1), (10, 2), (1, 2), (0, 3), (-1, 3)];
        assert_eq!(pages.map(|(second, _)| (second, depths.pages_down_to(at(second)))), pages);
        assert_eq!(depths.pages_down_to(at(10).plus(MS)), 1);
    }

    #[test]
    fn an_event_without_a_date_has_no_depth_and_an_empty_page_still_counts() {
        let mut user = BusyUser::remembering(2);
        let undated = user.remember(2, "SignIn", None);
        user.cursor.seen.get_mut(&undated).unwrap().dates = None;
        let page = Page { events: vec![], ..user.page(None, 2) };
        let depths = Depths::of(&user.cursor, &page);
        assert_eq!((depths.dates, depths.page_events), (vec![at(0), at(1)], 1));
    }

    #[test]
    fn no_outcome_waits_where_one_page_shows_everything_that_is_remembered() {
        for (events, is_kept) in [(10, true), (11, false)] {
            let mut user = BusyUser::remembering(events);
            user.cursor.looks_from = at(1001);
            let (walk, changed) = user.begin_looking(1000, None, &[at(0).minus(MS)]);
            assert_eq!((walk.looks.len() == 1, changed), (is_kept, !is_kept), "{events} events");
        }
    }

    #[test]
    fn an_overlap_of_a_page_too_many_takes_no_calls_from_new_events() {
        for (events, is_whole) in [(120, true), (121, false)] {
            let mut user = BusyUser::remembering(events);
            let walk = user.begin_rereading(10_000, Duration::ZERO);
            let end = if is_whole { at(0) } else { at(events - 1) };
            assert_eq!((walk.full, walk.end), (is_whole, end), "{events} events");
            assert!(user.cursor.open.is_empty());
        }
    }

    #[test]
    fn a_poll_that_does_not_read_the_overlap_again_spends_no_bookmark() {
        let mut user = BusyUser::remembering(130);
        user.bookmark_at(at(50));
        user.cursor.reread_at = at(10_000);
        let before = user.cursor.clone();
        let walk = user.begin_rereading(10_000, Duration::ZERO);
        assert_eq!((walk.full, walk.end), (false, at(129)));
        assert_eq!(user.cursor, before);
    }

    #[test]
    fn a_late_arrival_is_found_where_the_newest_known_event_is_no_higher_than_the_watermark() {
        // The events are dated ahead of the reading.
        let mut user = BusyUser::remembering(130);
        user.cursor.last_seen = Some(LastSeen { time: at(0), id: None });
        let walk = user.begin_rereading(10_000, Duration::ZERO);
        assert_eq!((walk.full, walk.end), (true, at(0)));
    }

    #[test]
    fn a_late_arrival_waits_no_longer_than_the_pages_of_the_overlap_or_a_bookmark_need() {
        // 13 pages are paid for in 325 seconds. A bookmark is waited for by the overlap and the longest watch.
        let (paid, waited) = (Duration::from_secs(325), Duration::from_mins(75));
        for (has_bookmark, has_date, wait) in
            [(false, true, paid), (false, false, paid), (true, false, paid), (true, true, waited)]
        {
            for (since, is_whole) in [(wait.saturating_sub(MS), false), (wait, true)] {
                let mut user = BusyUser { has_date, ..BusyUser::remembering(130) };
                if has_bookmark {
                    user.bookmark_at(at(10_000));
                }
                let walk = user.begin_rereading(10_000, since);
                let end = if is_whole { at(0) } else { at(129) };
                assert_eq!((walk.full, walk.end), (is_whole, end), "{has_bookmark} {has_date} {since:?}");
            }
        }
    }

    #[test]
    fn a_part_that_is_left_to_an_open_walk_is_lost_neither_to_it_nor_to_the_poll() {
        let mut user = BusyUser::remembering(130);
        for second in [40, 60, 9400] {
            user.bookmark_at(at(second));
        }
        let walk = user.begin_rereading(10_000, Duration::MAX);
        let open = OpenWalk { token: Some(PageToken(at(60).0.to_string())), lower_edge: at(60), end: at(0) };
        assert_eq!(user.cursor.open, [open]);
        assert_eq!((user.cursor.watermark, user.cursor.reread_at), (at(60), at(10_000)));
        assert_eq!((walk.full, walk.end, walk.lower_bound), (false, at(129), at(60)));
        let kept: Vec<_> = user.cursor.bookmarks.iter().map(|bookmark| bookmark.time).collect();
        assert_eq!(kept, [at(9400)], "the bookmarks of parts that are left are dropped");
    }

    #[test]
    fn a_re_reading_leaves_room_for_the_poll_that_may_stay_open_beside_it() {
        for (walks, is_begun) in [(0, true), (2, true), (3, false), (4, false)] {
            let mut user = BusyUser::remembering(130);
            user.bookmark_at(at(50));
            user.cursor.open = vec![OpenWalk { token: None, lower_edge: at(-1), end: at(-1) }; walks];
            assert_eq!(user.rereading_from(10_000), is_begun.then_some(at(50)), "beside {walks} open walks");
        }
    }

    #[test]
    fn a_late_arrival_is_not_lost_below_a_bookmark_that_is_younger_than_the_overlap() {
        // The answer may have been written a second earlier.
        let settled = at(10_000 - 1 - 600);
        let mut user = BusyUser::remembering(130);
        user.bookmark_at(settled.plus(MS));
        assert_eq!(user.rereading_from(10_000), None);
        user.bookmark_at(settled.minus(MS));
        user.bookmark_at(settled);
        user.bookmark_at(at(50));
        assert_eq!(user.rereading_from(10_000), Some(settled), "the newest that is old enough");
        user.has_date = false;
        assert_eq!(user.rereading_from(10_000), None);
    }

    #[test]
    fn an_outcome_needs_no_second_reading_because_its_watch_is_waited_for() {
        let now = at(10_000);
        for (event_type, until, is_waited_for) in [
            ("SignIn", now.minus(MS), false),
            ("SignIn", now, false),
            ("SignIn", now.plus(MS), true),
            ("SignIn", now.plus(MS * 2), true),
            ("ForgotPassword", now.plus(MS), true),
            ("ForgotPassword", now.minus(MS), false),
            ("SignUp", now.plus(MS), false),
        ] {
            let mut user = BusyUser::remembering(130);
            user.bookmark_at(at(50));
            user.remember(20, event_type, Some(Watch { until, next_look: until, last_looks: 0 }));
            let from = (!is_waited_for).then_some(at(50));
            assert_eq!(user.rereading_from(10_000), from, "{event_type} until {until}");
        }
    }

    #[test]
    fn a_late_arrival_waits_only_for_watches_in_the_part_below_the_bookmark() {
        for (second, bookmark, is_ready) in [
            (-1, at(50), true), // It lies below the watermark, where nothing is read again.
            (0, at(50), false),
            (50, at(50), false),
            (50, at(50).plus(MS), false),
            (50, at(50).minus(MS), true),
            (80, at(50), true),
        ] {
            let mut user = BusyUser::remembering(130);
            user.bookmark_at(bookmark);
            let until = at(20_000);
            user.remember(second, "SignIn", Some(Watch { until, next_look: until, last_looks: 0 }));
            // The earliest watch counts.
            user.remember(100, "SignIn", Some(Watch { until, next_look: until, last_looks: 0 }));
            assert_eq!(user.rereading_from(10_000), is_ready.then_some(bookmark), "{second}: {bookmark}");
        }
    }

    #[test]
    fn no_calls_are_wasted_on_a_descent_before_the_last_is_paid_for() {
        let (now, longest) = (at(1000), Duration::from_secs(500));
        for (looks_from, is_begun) in [
            (now, true),
            (now.plus(MS), false),
            (now.plus(longest), false),
            // The clock was set back.
            (now.plus(longest).plus(MS), true),
        ] {
            let mut user = BusyUser::remembering(300);
            user.cursor.looks_from = looks_from;
            // 200 events lie above.
            let (walk, changed) = user.begin_looking(1000, None, &[at(100)]);
            assert_eq!((walk.looks.len() == 1, changed), (is_begun, !is_begun), "{looks_from}");
            let (next_look, pages, next_descent) =
                if is_begun { (now, 20, now.plus(longest)) } else { (looks_from, 0, looks_from) };
            assert_eq!((user.watch().next_look, walk.look_pages), (next_look, pages), "{looks_from}");
            assert_eq!(user.cursor.looks_from, next_descent, "{looks_from}");
        }
    }

    #[test]
    fn an_outcome_too_deep_for_a_poll_is_looked_for_only_where_nothing_else_reaches_it() {
        let (now, longest) = (at(1000), Duration::from_secs(500));
        // 201 events lie above.
        let look = at(99);
        for (watermark, is_looked_for) in
            [(look.minus(MS), false), (look, false), (look.plus(MS), true), (look.plus(MS * 2), true)]
        {
            let mut user = BusyUser::remembering(300);
            user.cursor.watermark = watermark;
            let (walk, changed) = user.begin_looking(1000, None, &[look]);
            assert_eq!((walk.looks.len() == 1, changed), (is_looked_for, !is_looked_for), "{watermark}");
            let next_look = if is_looked_for { now } else { now.plus(longest) };
            assert_eq!(user.watch().next_look, next_look, "{watermark}");
            let bounded = if is_looked_for { (20, now.plus(longest)) } else { (0, UnixMillis::MIN) };
            assert_eq!((walk.look_pages, user.cursor.looks_from), bounded, "{watermark}");
        }
    }

    #[test]
    fn one_descent_costs_as_much_as_its_deepest_look() {
        let mut user = BusyUser::remembering(300);
        let (walk, changed) = user.begin_looking(1000, None, &[at(250), at(200), at(240)]);
        assert_eq!((walk.looks.len(), walk.look_pages, changed), (3, 10, false));
        assert_eq!(user.cursor.looks_from, at(1250));
    }

    #[test]
    fn a_look_that_a_poll_reaches_anyway_is_never_put_off_and_costs_nothing() {
        // The page shows the events from 290 on. A poll that reads the overlap again ends deeper.
        for (end, reached) in [(None, at(290)), (Some(at(50)), at(50))] {
            for (looks_from, look, is_kept) in [
                (at(1001), reached, true),
                (at(1001), reached.plus(MS), true),
                (at(1001), reached.minus(MS), false),
                (UnixMillis::MIN, reached, true),
            ] {
                let mut user = BusyUser::remembering(300);
                user.cursor.looks_from = looks_from;
                let (walk, changed) = user.begin_looking(1000, end, &[look]);
                assert_eq!((walk.looks.len() == 1, changed), (is_kept, !is_kept), "{look}");
                assert_eq!((walk.look_pages, user.cursor.looks_from), (0, looks_from), "{look}");
            }
        }
    }

    #[test]
    fn a_look_that_was_put_off_is_no_attempt_so_its_watch_does_not_end_unread() {
        for (looks_from, attempts) in [(at(1001), 0), (at(1000), 1)] {
            let mut user = BusyUser::remembering(200);
            (user.cursor.looks_from, user.cursor.reread_at) = (looks_from, at(1000));
            user.remember(0, "SignIn", Some(Watch { until: at(1000), next_look: at(1000), last_looks: 0 }));
            let page = user.page(None, 1000);
            Walk::poll(&user.cursor, at(1000)).take(&mut user.cursor, &page, &RULES);
            assert_eq!(user.watch().last_looks, attempts);
        }
    }

    /// Whether the end of a deep page is bookmarked, after a change of one thing.
    fn is_bookmarked(change: impl FnOnce(&mut BusyUser, &mut Walk, &mut Page, &mut PageSpan)) -> bool {
        let mut user = BusyUser::remembering(121);
        let mut walk = Walk::poll(&user.cursor, at(120));
        let mut page = user.page(None, 120);
        let mut span = PageSpan::of(&page, None);
        change(&mut user, &mut walk, &mut page, &mut span);
        let before = user.cursor.bookmarks.len();
        walk.bookmark(&mut user.cursor, &page, span, &RULES);
        let added = user.cursor.bookmarks.split_off(before);
        assert!(added.iter().all(|it| Some(it.time) == span.lower_edge && Some(&it.token) == page.next.as_ref()));
        !added.is_empty()
    }

    #[test]
    fn no_calls_are_lost_to_a_bookmark_that_is_of_no_use() {
        assert!(is_bookmarked(|_, _, _, _| ()));
        assert!(!is_bookmarked(|_, _, page, _| page.next = None));
        assert!(!is_bookmarked(|_, _, _, span| span.lower_edge = None));
        assert!(!is_bookmarked(|_, _, _, span| span.out_of_order = true));
        assert!(!is_bookmarked(|user, _, _, _| user.cursor.watermark = at(111).plus(MS)));
        assert!(!is_bookmarked(|user, _, _, _| user.cursor.watermark = at(111)));
        assert!(is_bookmarked(|user, _, _, _| user.cursor.watermark = at(111).minus(MS)));
        assert!(!is_bookmarked(|user, _, _, _| drop(user.cursor.seen.pop_last())), "twelve pages are read whole");
        let token = |bytes| Some(PageToken("t".repeat(bytes)));
        assert!(is_bookmarked(|_, _, page, _| page.next = token(512)));
        assert!(!is_bookmarked(|_, _, page, _| page.next = token(513)));
    }

    #[test]
    fn a_cursor_keeps_no_bookmark_too_many() {
        for (bookmarks, is_kept) in [(30, true), (31, true), (32, false), (33, false)] {
            let add = |user: &mut BusyUser| (1..=bookmarks).for_each(|far| user.bookmark_at(at(111 + 200 * far)));
            assert_eq!(is_bookmarked(|user, _, _, _| add(user)), is_kept, "{bookmarks}");
        }
    }

    #[test]
    fn no_calls_are_wasted_on_tokens_of_a_walk_whose_own_token_was_refused() {
        for (kind, before, is_kept) in [
            (Kind::Poll, at(111), true),
            (Kind::Poll, UnixMillis::MAX, true),
            (Kind::Backlog, at(111), false),
            (Kind::Backlog, at(112), true),
            (Kind::Redelivery, at(111), false),
            (Kind::Redelivery, at(112), false),
        ] {
            let is_kept_by = is_bookmarked(|_, walk, _, _| {
                (walk.kind, walk.lower_edge, walk.lower_edge_before) = (kind, at(111), before);
            });
            assert_eq!(is_kept_by, is_kept, "{kind:?}, begun at {before}");
        }
    }

    #[test]
    fn bookmarks_keep_their_distance_on_both_sides_so_that_they_reach_over_the_overlap() {
        // An eighth of the overlap, or two and a half minutes.
        for (overlap, spacing) in [(10, 150), (20, 150), (40, 300)] {
            let rules = Rules { overlap: Duration::from_mins(overlap), ..RULES };
            let spacing = Duration::from_secs(spacing);
            let time = at(111);
            for (other, is_far) in [
                (time.plus(spacing), true),
                (time.plus(spacing).minus(MS), false),
                (time.minus(spacing), true),
                (time.minus(spacing).plus(MS), false),
                (time, false),
            ] {
                let mut user = BusyUser::remembering(121);
                user.cursor.watermark = at(-1000);
                user.bookmark_at(other);
                let (walk, page) = (Walk::poll(&user.cursor, at(120)), user.page(None, 120));
                walk.bookmark(&mut user.cursor, &page, PageSpan::of(&page, None), &rules);
                assert_eq!(user.cursor.bookmarks.len() == 2, is_far, "{other}, {spacing:?}");
            }
        }
    }

    #[test]
    fn a_commit_that_waits_for_a_page_too_many_would_read_it_again_after_a_crash() {
        let limit = Rules::COMMIT_WAIT_MAX;
        for (events, pages, waited, may_wait) in [
            (255, 0, Duration::ZERO, false),
            (256, 0, Duration::ZERO, true),
            (511, 1, Duration::ZERO, false),
            (512, 1, Duration::ZERO, true),
            (512, 2, Duration::ZERO, false),
            (512, 3, Duration::ZERO, false),
            (512, 0, limit.saturating_sub(MS), true),
            (512, 0, limit, false),
            (512, 0, limit + MS, false),
            (17 * 256, 15, Duration::ZERO, true),
            (17 * 256, 16, Duration::ZERO, false),
        ] {
            let user = BusyUser::remembering(events);
            let waits = Walk::commit_may_wait(&user.cursor, pages, waited);
            assert_eq!(waits, may_wait, "{events} events, {pages} pages, {waited:?}");
        }
    }

    #[test]
    fn no_turn_takes_a_call_too_many_from_other_users_or_ends_before_it_got_further() {
        let (old, new) = (UnixMillis::MAX, at(0));
        for (kind, lower_edge, before, newest, pages_max) in [
            (Kind::Poll, old, old, Some(new), 5000),
            (Kind::Poll, old, old, None, 5000),
            (Kind::Poll, new, old, None, 1),
            (Kind::Poll, new, old, Some(new), 27),
            (Kind::Backlog, new, new, None, 5000),
            (Kind::Backlog, new, old, Some(new), 50),
            (Kind::Redelivery, new, new, Some(new), 5000),
            (Kind::Redelivery, new, old, Some(new), 50),
        ] {
            let mut walk = Walk {
                kind,
                lower_edge,
                lower_edge_before: before,
                newest_before: newest,
                look_pages: 7,
                ..Walk::poll(&BusyUser::new(&[]).cursor, new)
            };
            for (pages, is_enough) in [(pages_max - 1, false), (pages_max, true), (pages_max + 1, true)] {
                walk.pages = pages;
                assert_eq!(walk.has_read_enough(), is_enough, "{kind:?} after {pages} of {pages_max} pages");
            }
        }
    }

    #[test]
    fn what_a_page_lets_go_is_forgotten_at_once_or_among_many_events_when_it_pays() {
        // Remembered events; whether the poll ends at the newest; whether the event far below is forgotten.
        for (events, is_shallow, is_forgotten) in [
            (500, false, true),  // few
            (550, false, false), // many
            (550, true, true),   // many, at the end of the walk
            (700, false, true),  // many, but the watermark rises
        ] {
            let mut user = BusyUser::remembering(events);
            let far_below = user.remember(-10_000, "SignIn", None);
            if is_shallow {
                user.cursor.reread_at = at(events);
            }
            let mut walk = Walk::poll(&user.cursor, at(events));
            let page = user.page(None, events);
            let taken = walk.take(&mut user.cursor, &page, &RULES);
            assert_eq!(taken.next == Next::Finished, is_shallow);
            assert_eq!(user.cursor.watermark > at(0), events == 700);
            assert_eq!(!user.cursor.seen.contains_key(&far_below), is_forgotten, "{events} {is_shallow}");
        }
    }

    #[test]
    fn a_cursor_that_was_ahead_takes_no_part_of_a_second_from_the_overlap() {
        let mut user = BusyUser::remembering(700);
        user.cursor.last_seen = Some(LastSeen { time: at(10_000), id: None });
        let mut walk = Walk::poll(&user.cursor, at(700));
        let page = user.page(None, 700);
        walk.take(&mut user.cursor, &page, &RULES);
        assert_eq!(user.cursor.watermark, at(100), "ten minutes before the beginning of the second");
    }

    #[test]
    fn a_reading_of_several_pages_is_not_repeated_while_no_event_comes() {
        let mut user = BusyUser::remembering(20);
        let mut walk = Walk::poll(&user.cursor, at(2000));
        for (events, watermark) in [(10, at(0)), (10, at(2000 - 600 - 1))] {
            let page = user.page(walk.token(), 2000);
            walk.take(&mut user.cursor, &page, &RULES);
            assert_eq!((page.events.len(), user.cursor.watermark), (events, watermark));
        }
    }
}
