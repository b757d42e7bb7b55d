//! How a log group is read: which range, which page, and how far the position moves.
//!
//! Pure. A *reading* is a chain of pages over one range, each with the token of the page before. It begins `overlap`
//! before the position and ends at the time of its first request:
//!
//! ```text
//!              start                 position                      end
//!   -------------|----------------------|---------------------------|-------> timestamp of the log events
//!                |<----- overlap ------>|<---- not read before ---->|
//!                 page 1 | page 2 |  page 3   |   ...   | page n
//! ```
//!
//! **Everything up to the position was handed in**, as far as it had been ingested when it was read. A log event that
//! is ingested late is found, if it is at most `overlap` late. The position never passes the time at which the reading
//! began, so the next reading begins before this log event. These rules keep that true.
//!
//! - The position moves only after the intake has taken a page ([`ReadPlan::taken`]), and the caller stores it only
//!   then.
//! - AWS gives the oldest log events first. A page that lies above the pages before it confirms that these are
//!   complete: the position moves to their highest timestamp. After a page out of order it waits for the end of the
//!   reading.
//! - At the end of a reading the position moves to the end of the range.
//! - No date is trusted. The position never passes the end of the range, which is the local time, or the service's time
//!   when it answered the first page. So a log event that is dated ahead moves nothing. A stored position that lies
//!   ahead of the service's time is moved back.
//! - No id is trusted. A log event counts as handed in if its id, timestamp *and* message were handed in.
//! - A token is used for one chain, and for at most an hour. A refused or old token begins the reading anew, from the
//!   position.
//!
//! | the process dies                                | then |
//! |---|---|
//! | while it reads a page                           | the next reading begins from the stored position, as if the page had not been asked for |
//! | after the intake took a page, or a part of it   | the same; the intake knows what it has taken |
//! | after the position was stored                   | the next reading begins `overlap` before it; the intake knows the overlap |
//! | at any time, with the ids that were handed in   | they were in memory only; the first reading hands the overlap in once more |

use std::collections::BTreeSet;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::log_page::{LogGroupPage, LogMessage, ReadingRange};
use crate::event::UnixMillis;

/// Log events that are remembered at most: 10 MB of them. It is 400 log events a second over the default overlap. What
/// does not fit is handed in each time that it is read, and the intake knows it.
const SEEN_MAX: usize = 1 << 18;

/// The age from which on a token is not used. AWS accepts it for 24 hours. A service that answered an expired token
/// with an empty last page would seem to have nothing left, so no token gets near that age. A reading that begins anew
/// reads little again.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(3600);

/// How far a log group is read, and what is asked for next.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    overlap: Duration,
    position: UnixMillis,
    reading: Option<Reading>,
    seen: SeenLogEvents,
}

/// A reading in progress.
#[derive(Clone, Debug)]
struct Reading {
    range: ReadingRange,
    /// The token of the next page, and when it was given, by the local clock; None before the first page.
    token: Option<(String, UnixMillis)>,
    /// The service's time when it answered the first page, or the end of the range.
    position_max: UnixMillis,
    /// The highest timestamp of the pages so far.
    highest: Option<UnixMillis>,
    is_in_order: bool,
}

/// The page to ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRequest<'a> {
    /// The range of the reading.
    pub range: ReadingRange,
    /// The token; None for the first page.
    pub token: Option<&'a str>,
}

/// A page whose log events are being handed in. Only [`ReadPlan::sift`] makes it.
#[derive(Debug)]
pub struct SiftedPage {
    sightings: Vec<(UnixMillis, Sighting)>,
    served: Option<UnixMillis>,
    next: Option<String>,
}

/// What follows after a page was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadingStep {
    /// The reading has another page.
    NextPage,
    /// The whole range was read.
    Complete,
    /// The service repeated the token of this page. It would give the same page for ever, so the next reading begins
    /// anew.
    Stuck,
}

impl ReadPlan {
    /// Continues at a stored position. Each reading begins `overlap` before it.
    pub fn new(position: UnixMillis, overlap: Duration) -> Self {
        Self { overlap, position, reading: None, seen: SeenLogEvents::default() }
    }

    /// Returns the position: everything up to it was handed in.
    pub fn position(&self) -> UnixMillis {
        self.position
    }

    /// Returns the page to ask for at `now`, by the local clock.
    pub fn request(&mut self, now: UnixMillis) -> PageRequest<'_> {
        let is_usable =
            |reading: &Reading| reading.token.as_ref().is_some_and(|(_, given)| now.since(*given) < TOKEN_AGE_MAX);
        let reading = match self.reading.take().filter(is_usable) {
            Some(reading) => reading,
            None => {
                let range = ReadingRange { start: self.position.min(now).minus(self.overlap), end: now };
                Reading { range, token: None, position_max: now, highest: None, is_in_order: true }
            }
        };
        let reading = self.reading.insert(reading);
        PageRequest { range: reading.range, token: reading.token.as_ref().map(|(token, _)| token.as_str()) }
    }

    /// Divides a page into the log events to hand in and what [`ReadPlan::taken`] needs. Log events that were handed in
    /// before are left out.
    pub fn sift(&self, page: LogGroupPage) -> (Vec<LogMessage>, SiftedPage) {
        let sightings: Vec<_> = page.events.iter().map(|event| (event.timestamp, Sighting::of(event))).collect();
        let fresh = page.events.into_iter().zip(&sightings).filter(|(_, sighting)| !self.seen.0.contains(*sighting));
        let fresh = fresh.map(|(event, _)| event).collect();
        (fresh, SiftedPage { sightings, served: page.served, next: page.next })
    }

    /// Notes that the intake has taken a page, at `now` by the local clock, and moves the position.
    pub fn taken(&mut self, page: SiftedPage, now: UnixMillis) -> ReadingStep {
        let Some(mut reading) = self.reading.take() else { return ReadingStep::Complete };
        if reading.token.is_none() {
            reading.position_max = page.served.unwrap_or(reading.range.end);
        }
        let lowest = page.sightings.iter().map(|(timestamp, _)| *timestamp).min();
        if let (Some(lowest), Some(highest)) = (lowest, reading.highest) {
            reading.is_in_order &= lowest >= highest;
            if reading.is_in_order {
                let confirmed = highest.min(reading.range.end).min(reading.position_max);
                self.position = self.position.max(confirmed);
            }
        }
        reading.highest = reading.highest.max(page.sightings.iter().map(|(timestamp, _)| *timestamp).max());
        for sighting in page.sightings {
            self.seen.add(sighting);
        }
        let asked = reading.token.as_ref().map(|(token, _)| token);
        let step = match page.next {
            Some(next) if Some(&next) == asked => ReadingStep::Stuck,
            Some(next) => {
                reading.token = Some((next, now));
                self.reading = Some(reading);
                ReadingStep::NextPage
            }
            None => {
                self.position = self.position.max(reading.range.end).min(reading.position_max);
                ReadingStep::Complete
            }
        };
        self.seen.forget_before(self.position.minus(self.overlap));
        step
    }

    /// Notes that the service refused the parameters of a request. Returns whether a token was among them; the next
    /// reading then begins anew, without it.
    pub fn refused(&mut self) -> bool {
        self.reading.take().is_some_and(|reading| reading.token.is_some())
    }
}

/// The log events that were handed in and may be read again.
#[derive(Clone, Debug, Default)]
struct SeenLogEvents(BTreeSet<(UnixMillis, Sighting)>);

impl SeenLogEvents {
    fn add(&mut self, sighting: (UnixMillis, Sighting)) {
        if self.0.len() < SEEN_MAX {
            self.0.insert(sighting);
        }
    }

    /// Forgets what no reading reaches any more.
    fn forget_before(&mut self, start: UnixMillis) {
        self.0 = self.0.split_off(&(start, Sighting([0; 16])));
    }
}

/// The digest of a log event's id and message: the first half of their SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Sighting([u8; 16]);

impl Sighting {
    fn of(event: &LogMessage) -> Self {
        let mut digest = Sha256::new();
        // The length ends the id, so that no part of it can pass for the message.
        digest.update((event.id.len() as u64).to_le_bytes());
        digest.update(&event.id);
        digest.update(&event.message);
        let [first, _] = *digest.finalize().as_chunks().0 else { unreachable!("a SHA-256 has twice 16 bytes") };
        Self(first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OVERLAP: Duration = Duration::from_millis(100);

    fn event(timestamp: i64) -> LogMessage {
        LogMessage { id: timestamp.to_string(), timestamp: UnixMillis(timestamp), message: "{}".into() }
    }

    fn page(timestamps: &[i64], next: Option<&str>) -> LogGroupPage {
        let events = timestamps.iter().map(|timestamp| event(*timestamp)).collect();
        LogGroupPage { served: None, events, next: next.map(str::to_owned) }
    }

    /// A plan at a position, and the local time.
    struct Reader {
        plan: ReadPlan,
        now: UnixMillis,
    }

    impl Reader {
        fn at(position: i64, now: i64) -> Self {
            Self { plan: ReadPlan::new(UnixMillis(position), OVERLAP), now: UnixMillis(now) }
        }

        /// The range and token that it asks for.
        fn asks(&mut self) -> (i64, i64, Option<String>) {
            let PageRequest { range, token } = self.plan.request(self.now);
            (range.start.0, range.end.0, token.map(str::to_owned))
        }

        /// Asks for a page and takes it. Returns the timestamps that it hands in, and what follows.
        fn takes(&mut self, page: LogGroupPage) -> (Vec<i64>, ReadingStep) {
            self.asks();
            let (fresh, sifted) = self.plan.sift(page);
            let step = self.plan.taken(sifted, self.now);
            (fresh.iter().map(|event| event.timestamp.0).collect(), step)
        }

        fn position(&self) -> i64 {
            self.plan.position().0
        }
    }

    #[test]
    fn a_reading_begins_the_overlap_before_the_position_and_ends_now() {
        let mut reader = Reader::at(1000, 5000);
        assert_eq!(reader.asks(), (900, 5000, None));
        assert_eq!(reader.takes(page(&[950, 4000], None)), (vec![950, 4000], ReadingStep::Complete));
        assert_eq!(reader.position(), 5000);
        reader.now = UnixMillis(5010);
        assert_eq!(reader.asks(), (4900, 5010, None));
    }

    #[test]
    fn what_is_read_again_is_handed_in_once_until_the_overlap_has_passed() {
        let mut reader = Reader::at(1000, 1000);
        assert_eq!(reader.takes(page(&[950, 960], None)).0, [950, 960]);
        reader.now = UnixMillis(1040);
        assert_eq!(reader.takes(page(&[950, 955, 960], None)).0, [955], "only what is new");
        let mut other = page(&[955], None);
        other.events[0].message = "another message under the same id".into();
        assert_eq!(reader.takes(other).0, [955]);
        reader.now = UnixMillis(1200);
        assert_eq!(reader.takes(page(&[], None)).0, [0; 0]);
        assert!(reader.plan.seen.0.is_empty(), "no reading reaches them");
    }

    #[test]
    fn the_position_follows_the_pages_that_a_later_one_confirms() {
        let mut reader = Reader::at(1000, 9000);
        assert_eq!(reader.takes(page(&[950, 2000], Some("a"))).1, ReadingStep::NextPage);
        assert_eq!(reader.position(), 1000, "nothing confirms it yet");
        assert_eq!(reader.takes(page(&[], Some("b"))).1, ReadingStep::NextPage);
        assert_eq!(reader.position(), 1000, "an empty page confirms nothing");
        assert_eq!(reader.asks(), (900, 9000, Some("b".into())));
        reader.takes(page(&[2000, 3000], Some("c")));
        assert_eq!(reader.position(), 2000);
        reader.takes(page(&[2500, 4000], Some("d")));
        assert_eq!(reader.position(), 2000, "a page out of order: it waits for the end");
        reader.takes(page(&[4000], Some("e")));
        assert_eq!(reader.position(), 2000);
        assert_eq!(reader.takes(page(&[], None)).1, ReadingStep::Complete);
        assert_eq!(reader.position(), 9000);
    }

    #[test]
    fn a_date_ahead_moves_the_position_past_no_clock() {
        let mut reader = Reader::at(1000, 2000);
        reader.takes(page(&[999_999], Some("a")));
        reader.takes(page(&[999_999], Some("b")));
        assert_eq!(reader.position(), 2000, "the end of the range");
        reader.takes(page(&[], None));
        assert_eq!(reader.position(), 2000);

        let mut ahead = Reader::at(1000, 900_000);
        ahead.takes(LogGroupPage { served: Some(UnixMillis(1500)), ..page(&[1400], None) });
        assert_eq!(ahead.position(), 1500, "the service's time, where the local clock is ahead");
        ahead.now = UnixMillis(900_010);
        ahead.takes(LogGroupPage { served: Some(UnixMillis(1510)), ..page(&[1400], Some("a")) });
        ahead.takes(LogGroupPage { served: Some(UnixMillis(800_000)), ..page(&[], None) });
        assert_eq!(ahead.position(), 1510, "its time at the first page: a later page may have missed what came since");

        let mut ahead = Reader::at(1000, 900_000);
        ahead.takes(LogGroupPage { served: Some(UnixMillis(1500)), ..page(&[1400, 1600], Some("a")) });
        ahead.takes(page(&[1700], Some("b")));
        assert_eq!(ahead.position(), 1500, "the same while the reading goes on");
    }

    #[test]
    fn a_stored_position_that_lies_ahead_is_moved_back_and_a_clock_that_is_behind_moves_nothing_back() {
        let mut reader = Reader::at(50_000, 2000);
        assert_eq!(reader.asks(), (1900, 2000, None));
        reader.takes(LogGroupPage { served: Some(UnixMillis(2001)), ..page(&[], None) });
        assert_eq!(reader.position(), 2001);

        let mut behind = Reader::at(50_000, 2000);
        behind.takes(LogGroupPage { served: Some(UnixMillis(60_000)), ..page(&[], None) });
        assert_eq!(behind.position(), 50_000);
    }

    #[test]
    fn a_refused_or_old_token_begins_the_reading_anew() {
        let mut reader = Reader::at(1000, 2000);
        reader.takes(page(&[950], Some("a")));
        assert_eq!(reader.asks(), (900, 2000, Some("a".into())));
        assert!(reader.plan.refused());
        assert_eq!(reader.asks(), (900, 2000, None));
        assert!(!reader.plan.refused(), "there was no token");
        reader.takes(page(&[950], Some("b")));
        reader.now = reader.now.plus(TOKEN_AGE_MAX);
        assert_eq!(reader.asks(), (900, reader.now.0, None));
    }

    #[test]
    fn a_token_that_repeats_itself_ends_the_reading_without_moving_the_position() {
        let mut reader = Reader::at(1000, 2000);
        reader.takes(page(&[950], Some("a")));
        assert_eq!(reader.takes(page(&[950], Some("a"))).1, ReadingStep::Stuck);
        assert_eq!((reader.position(), reader.asks()), (1000, (900, 2000, None)));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut seen = SeenLogEvents::default();
        for number in 0..SEEN_MAX as u64 + 10 {
            let mut digest = [0; 16];
            digest[..8].copy_from_slice(&number.to_le_bytes());
            seen.add((UnixMillis(5), Sighting(digest)));
        }
        assert_eq!(seen.0.len(), SEEN_MAX);
        seen.forget_before(UnixMillis(6));
        assert_eq!(seen.0.len(), 0);
    }

    /// What happens next in the model.
    #[derive(Clone, Debug)]
    enum Step {
        /// Time passes, and a log event of this lateness is ingested.
        Ingest { after: i64, late: i64 },
        /// A page of at most this many log events is read, handed in, and its position stored, as far as the process
        /// lives.
        Page { events: usize, lives: Lives },
        /// The service refuses the token.
        Refuse,
    }

    /// When the process dies during a page.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    enum Lives {
        UntilRead,
        UntilTaken,
        UntilMoved,
        On,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let overlap = i64::try_from(OVERLAP.as_millis()).unwrap();
        let lives = prop_oneof![
            1 => Just(Lives::UntilRead),
            1 => Just(Lives::UntilTaken),
            1 => Just(Lives::UntilMoved),
            9 => Just(Lives::On),
        ];
        let step = prop_oneof![
            5 => (0..60_i64, 0..=overlap).prop_map(|(after, late)| Step::Ingest { after, late }),
            6 => (0..4_usize, lives).prop_map(|(events, lives)| Step::Page { events, lives }),
            1 => Just(Step::Refuse),
        ];
        prop::collection::vec(step, 1..80)
    }

    /// A log group, the disk, and a process that reads the one and writes the other.
    struct Model {
        now: i64,
        /// The timestamps and ids of what was ingested.
        log: Vec<(i64, usize)>,
        stored: UnixMillis,
        /// How often each log event was handed in.
        handed_in: Vec<u32>,
        plan: ReadPlan,
        lives: u32,
    }

    impl Model {
        fn new() -> Self {
            let (stored, now) = (UnixMillis(10_000), 10_000);
            let plan = ReadPlan::new(stored, OVERLAP);
            Self { now, log: vec![], stored, handed_in: vec![], plan, lives: 1 }
        }

        fn ingest(&mut self, late: i64) {
            self.log.push((self.now - late, self.log.len()));
            self.handed_in.push(0);
        }

        fn restart(&mut self) {
            self.plan = ReadPlan::new(self.stored, OVERLAP);
            self.lives += 1;
        }

        fn page(&mut self, events: usize, lives: Lives) -> ReadingStep {
            let PageRequest { range, token } = self.plan.request(UnixMillis(self.now));
            // A token names the last log event that was given, and how many pages there were.
            let (after, pages) = token.map_or(((i64::MIN, 0), 0), |token| {
                let parts: Vec<i64> = token.split('/').map(|part| part.parse().unwrap()).collect();
                ((parts[0], usize::try_from(parts[1]).unwrap()), parts[2])
            });
            let mut rest: Vec<_> = self
                .log
                .iter()
                .copied()
                .filter(|(time, id)| {
                    (range.start.0..=range.end.0).contains(time) && (token.is_none() || (*time, *id) > after)
                })
                .collect();
            rest.sort_unstable();
            // An empty page has a token, now and then.
            let given = if events == 0 && pages < 50 { &rest[..0] } else { &rest[..rest.len().min(events.max(1))] };
            let is_last = given.len() == rest.len() && events > 0;
            let last = given.last().copied().unwrap_or(after);
            let events = given.iter().map(|(timestamp, id)| LogMessage { id: id.to_string(), ..event(*timestamp) });
            let page = LogGroupPage {
                served: None,
                events: events.collect(),
                next: (!is_last).then(|| format!("{}/{}/{}", last.0, last.1, pages + 1)),
            };
            if lives == Lives::UntilRead {
                self.restart();
                return ReadingStep::NextPage;
            }
            let (fresh, sifted) = self.plan.sift(page);
            for event in fresh {
                self.handed_in[event.id.parse::<usize>().unwrap()] += 1;
            }
            if lives == Lives::UntilTaken {
                self.restart();
                return ReadingStep::NextPage;
            }
            let step = self.plan.taken(sifted, UnixMillis(self.now));
            self.stored = self.plan.position();
            if lives == Lives::UntilMoved {
                self.restart();
            }
            step
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_late_by_less_than_the_overlap_is_lost_however_often_the_process_dies(steps in steps()) {
            let mut model = Model::new();
            for step in steps {
                match step {
                    Step::Ingest { after, late } => {
                        model.now += after;
                        model.ingest(late);
                    }
                    Step::Page { events, lives } => {
                        model.page(events, lives);
                    }
                    Step::Refuse => {
                        model.plan.refused();
                    }
                }
                prop_assert!(model.stored.0 <= model.now, "the position is never ahead");
            }
            for _ in 0..2 {
                while model.page(3, Lives::On) != ReadingStep::Complete {}
            }
            prop_assert_eq!(model.stored.0, model.now);
            for (number, times) in model.handed_in.iter().enumerate() {
                prop_assert!((1..=model.lives).contains(times), "log event {} was handed in {} times", number, times);
            }
        }
    }
}
