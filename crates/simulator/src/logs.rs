//! A log group of the simulated CloudWatch Logs: its log events, and the pages of FilterLogEvents.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html>

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use fastrand::Rng;

use super::seeds::random_for;
use super::wire;

/// The most bytes of a page: 1 MB of log events.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// The bytes that a log event counts beside its message.
const EVENT_OVERHEAD_BYTES: usize = 26;

/// A log group. By default it never forgets, every page is as full as it can be, and a token lives 24 hours.
#[derive(Debug)]
pub struct SimulatedLogGroup {
    /// Its name, such as `/aws/vendedlogs/cognito`.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its AWS account, twelve digits.
    pub account_id: String,
    /// Monitoring accounts, whose callers may read the log group by its ARN.
    pub monitored_by: Vec<String>,
    /// How long log events are kept after their timestamp. None is forever.
    pub retention: Option<Duration>,
    /// The share of pages that end early, with a token (0 to 1).
    pub part_filled: f64,
    /// The share of pages without log events but with a token, although more log events follow. Below 1, or a reader
    /// never comes to the end.
    pub empty: f64,
    /// The share of last pages with a token, which leads to an empty page (0 to 1).
    pub token_on_last: f64,
    /// How long a token is valid.
    pub token_lifetime: Duration,
    random: Rng,
    events: BTreeMap<LogKey, LogEvent>,
    next_number: u64,
    tokens_issued: u64,
}

/// The order of log events: timestamp, ingestion, and then the order of their arrival.
pub(crate) type LogKey = (UnixMillis, UnixMillis, u64);

/// A log event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEvent {
    /// `timestamp`.
    pub timestamp: UnixMillis,
    /// `ingestionTime`. Clients do not see the log event before.
    pub ingested: UnixMillis,
    /// `logStreamName`.
    pub stream: String,
    /// `message`.
    pub message: String,
}

/// The part of a log group that a chain of pages covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogRange {
    /// The least timestamp.
    pub(crate) start: UnixMillis,
    /// The greatest timestamp.
    pub(crate) end: UnixMillis,
}

/// A page of log events, and the place after which the next page begins.
#[derive(Debug)]
pub(crate) struct LogPage<'a> {
    pub(crate) events: Vec<(&'a LogKey, &'a LogEvent)>,
    pub(crate) next: Option<LogKey>,
}

impl SimulatedLogGroup {
    /// An empty log group.
    pub fn new(name: &str, region: &str, account_id: &str) -> Self {
        Self {
            name: name.to_owned(),
            region: region.to_owned(),
            account_id: account_id.to_owned(),
            monitored_by: vec![],
            retention: None,
            part_filled: 0.0,
            empty: 0.0,
            token_on_last: 0.0,
            token_lifetime: Duration::from_secs(24 * 3600),
            random: random_for(1, name),
            events: BTreeMap::new(),
            next_number: 1,
            tokens_issued: 0,
        }
    }

    /// Its ARN.
    pub fn arn(&self) -> String {
        let (region, account, name) = (&self.region, &self.account_id, &self.name);
        format!("arn:{}:logs:{region}:{account}:log-group:{name}", wire::partition(region))
    }

    /// Adds a log event. Removes those whose retention has ended at its ingestion.
    pub fn put(&mut self, event: LogEvent) {
        if let Some(oldest) = self.retention.map(|retention| event.ingested.minus(retention)) {
            while self.events.first_key_value().is_some_and(|(key, _)| key.0 < oldest) {
                self.events.pop_first();
            }
        }
        let number = self.next_number;
        self.next_number += 1;
        self.events.insert((event.timestamp, event.ingested, number), event);
    }

    /// The log events that clients see at `now`, in their order.
    pub fn visible(&self, now: UnixMillis) -> impl Iterator<Item = &LogEvent> {
        self.events.values().filter(move |event| self.is_visible(event, now))
    }

    /// A number for a new token. Two tokens of one place differ, because boto3 fails at a token that it knows.
    pub(crate) fn token_number(&mut self) -> u64 {
        self.tokens_issued += 1;
        self.tokens_issued
    }

    /// Seeds the choice of the pages that end early.
    pub(crate) fn seed(&mut self, seed: u64) {
        self.random = random_for(seed, &self.arn());
    }

    /// The page of at most `limit` log events after `after`; None is the first page.
    pub(crate) fn page(
        &mut self,
        range: LogRange,
        after: Option<LogKey>,
        limit: usize,
        now: UnixMillis,
    ) -> LogPage<'_> {
        let (is_empty, is_part, has_token) =
            (self.chance(self.empty), self.chance(self.part_filled), self.chance(self.token_on_last));
        let share = self.random.f64();
        let after = after.unwrap_or((range.start, UnixMillis::MIN, 0));
        let last = (range.end, UnixMillis(i64::MAX), u64::MAX);
        let mut events = vec![];
        let mut bytes = 0;
        let mut is_more = false;
        if after < last {
            let found = self.events.range((Bound::Excluded(after), Bound::Included(last)));
            for (key, event) in found.filter(|(_, event)| self.is_visible(event, now)) {
                bytes += event.message.len() + EVENT_OVERHEAD_BYTES;
                // A single log event is below the limit of bytes in reality.
                if events.len() == limit || bytes > PAGE_BYTES_MAX && !events.is_empty() {
                    is_more = true;
                    break;
                }
                events.push((key, event));
            }
        }
        if is_empty && !events.is_empty() {
            events.clear();
            is_more = true;
        } else if is_part && events.len() > 1 {
            events.truncate(part_of(events.len(), share));
            is_more = true;
        }
        let is_last_with_token = has_token && !events.is_empty();
        let next = (is_more || is_last_with_token).then(|| events.last().map_or(after, |(key, _)| **key));
        LogPage { events, next }
    }

    fn is_visible(&self, event: &LogEvent, now: UnixMillis) -> bool {
        let is_kept = self.retention.is_none_or(|retention| event.timestamp >= now.minus(retention));
        event.ingested <= now && is_kept
    }

    fn chance(&mut self, share: f64) -> bool {
        self.random.f64() < share
    }
}

/// A number from 1 to `count` - 1 for a share from 0 to 1. `count` is above 1.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small positive number")]
fn part_of(count: usize, share: f64) -> usize {
    ((count as f64 * share) as usize).clamp(1, count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: LogRange = LogRange { start: UnixMillis(0), end: UnixMillis(i64::MAX) };
    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn event(timestamp: i64, ingested: i64, message: &str) -> LogEvent {
        LogEvent {
            timestamp: UnixMillis(timestamp),
            ingested: UnixMillis(ingested),
            stream: "s".into(),
            message: message.into(),
        }
    }

    fn group(events: impl IntoIterator<Item = LogEvent>) -> SimulatedLogGroup {
        let mut group = SimulatedLogGroup::new("g", "eu-west-1", "111122223333");
        events.into_iter().for_each(|event| group.put(event));
        group
    }

    fn pages(group: &mut SimulatedLogGroup, range: LogRange, limit: usize) -> Vec<Vec<String>> {
        let (mut pages, mut after) = (vec![], None);
        loop {
            let page = group.page(range, after, limit, NOW);
            pages.push(page.events.iter().map(|(_, event)| event.message.clone()).collect());
            after = page.next;
            if after.is_none() {
                return pages;
            }
        }
    }

    #[test]
    fn log_events_are_ordered_by_timestamp_and_then_by_ingestion() {
        let mut group = group([event(5, 9, "d"), event(3, 8, "b"), event(3, 7, "a"), event(3, 8, "c")]);
        assert_eq!(pages(&mut group, EVERYTHING, 3), [vec!["a", "b", "c"], vec!["d"]]);
    }

    #[test]
    fn both_ends_of_the_range_belong_to_it() {
        let mut group = group((1..=5).map(|at| event(at, at, &at.to_string())));
        let range = |start, end| LogRange { start: UnixMillis(start), end: UnixMillis(end) };
        assert_eq!(pages(&mut group, range(2, 4), 10), [["2", "3", "4"]]);
        assert_eq!(pages(&mut group, range(3, 3), 10), [["3"]]);
        assert_eq!(pages(&mut group, range(6, 9), 10), [[""; 0]]);
    }

    #[test]
    fn a_log_event_is_seen_from_its_ingestion_until_the_end_of_its_retention() {
        let mut group = group([event(1, 999_999, "old"), event(999_000, 1_000_001, "late"), event(999_000, 5, "seen")]);
        assert_eq!(pages(&mut group, EVERYTHING, 10), [["old", "seen"]]);
        group.retention = Some(Duration::from_secs(10));
        assert_eq!(pages(&mut group, EVERYTHING, 10), [["seen"]]);
    }

    #[test]
    fn a_page_has_at_most_a_megabyte() {
        let large = "x".repeat(400_000);
        let mut group = group((0..5).map(|at| event(at, at, &large)));
        let lengths: Vec<_> = pages(&mut group, EVERYTHING, 10_000).iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 2, 1]);
    }

    #[test]
    fn part_filled_and_empty_pages_lose_nothing_and_repeat_nothing() {
        let mut group = group((0..500).map(|at| event(at / 3, at, &at.to_string())));
        (group.part_filled, group.empty, group.token_on_last) = (0.5, 0.3, 1.0);
        let pages = pages(&mut group, EVERYTHING, 20);
        assert!(pages.iter().any(Vec::is_empty) && pages.last().is_some_and(Vec::is_empty));
        assert!(pages.iter().any(|page| (1..20).contains(&page.len())));
        let expected: Vec<_> = (0..500).map(|at| at.to_string()).collect();
        assert_eq!(pages.concat(), expected);
    }
}
