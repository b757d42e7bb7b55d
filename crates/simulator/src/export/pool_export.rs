//! The export of one pool: which events it sends, when, and which it loses.
//!
//! Everything follows from the world's seed, the pool's id and the order of the events. The export has random numbers
//! of its own, so a pool has the same life with and without an export.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use cognito_auth_core::event::{AuthEvent, UnixMillis};
use fastrand::Rng;
use serde_json::json;

use super::record::{self, ExportRecord};
use super::{DateRounding, ExportSettings, ExportSource, LogTimestamp};
use crate::wire;

/// The export of a pool, and what it has sent and lost.
#[derive(Debug)]
pub struct PoolExport {
    /// How the next events are exported.
    pub settings: ExportSettings,
    random: Rng,
    lost: BTreeSet<String>,
    events_sent: u64,
    changes_sent: u64,
    records_sent: u64,
}

/// The user of an exported event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExportedUser<'a> {
    pub(crate) pool_id: &'a str,
    pub(crate) username: &'a str,
    pub(crate) sub: &'a str,
}

/// Why an event is exported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Occasion {
    /// It has happened.
    New,
    /// It has changed.
    Changed,
}

/// A record on its way to the destinations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SentRecord {
    /// When the destinations receive it.
    pub(crate) sent: UnixMillis,
    /// The `timestamp` of its log event.
    pub(crate) timestamp: UnixMillis,
    /// When CloudWatch Logs has it.
    pub(crate) ingested: UnixMillis,
    pub(crate) json: String,
}

impl PoolExport {
    pub(crate) fn new(settings: ExportSettings, random: Rng) -> Self {
        Self { settings, random, lost: BTreeSet::new(), events_sent: 0, changes_sent: 0, records_sent: 0 }
    }

    /// The EventIds of the events that were lost, on purpose or because no destination existed.
    pub fn lost(&self) -> &BTreeSet<String> {
        &self.lost
    }

    /// The number of events that were sent or are on their way, each counted once.
    pub fn events_sent(&self) -> u64 {
        self.events_sent
    }

    /// The number of changes of events that were sent or are on their way, each counted once.
    pub fn changes_sent(&self) -> u64 {
        self.changes_sent
    }

    /// The number of records that were sent or are on their way, with repeats.
    pub fn records_sent(&self) -> u64 {
        self.records_sent
    }

    /// The records of an event that has happened or changed at `now`: none, one, or two. An event without EventId has
    /// none.
    pub(crate) fn records_of(
        &mut self,
        user: ExportedUser<'_>,
        event: &AuthEvent,
        occasion: Occasion,
        now: UnixMillis,
    ) -> Vec<SentRecord> {
        let Some(id) = &event.id else {
            return vec![];
        };
        match occasion {
            Occasion::New if self.chance(self.settings.lost) => {
                self.lose(id);
                return vec![];
            }
            Occasion::New => self.events_sent += 1,
            Occasion::Changed if self.lost.contains(id) || !self.chance(self.settings.changes) => return vec![],
            Occasion::Changed => self.changes_sent += 1,
        }
        let copies = if self.chance(self.settings.repeated) { 2 } else { 1 };
        (0..copies).map(|_| self.record(user, event, now)).collect()
    }

    /// Any text on its way to the destinations, with the export's delay.
    pub(crate) fn record_of_text(&mut self, text: &str, now: UnixMillis) -> SentRecord {
        let sent = now.plus(self.delay());
        self.sent(sent, sent, text.to_owned())
    }

    /// Notes that an event was lost.
    pub(crate) fn lose(&mut self, event_id: &str) {
        self.lost.insert(event_id.to_owned());
    }

    fn record(&mut self, user: ExportedUser<'_>, event: &AuthEvent, now: UnixMillis) -> SentRecord {
        let sent = now.plus(self.delay());
        let source = match self.settings.source {
            ExportSource::Documented => "USER_ACTIVITY",
            ExportSource::Seen => "USER_AUTH_EVENTS",
            ExportSource::Both if self.random.bool() => "USER_ACTIVITY",
            ExportSource::Both => "USER_AUTH_EVENTS",
        };
        let ExportedUser { pool_id, username, sub } = user;
        let told = self.in_whole_seconds(event);
        let mut json = ExportRecord { pool_id, username, sub, event: &told, source, sent }.to_json();
        json["message"]["requestId"] = json!(wire::uuid(&mut self.random));
        if self.chance(self.settings.odd) {
            record::make_odd(&mut json, &mut self.random);
        }
        let timestamp = match self.settings.log_timestamp {
            LogTimestamp::Sent => sent,
            LogTimestamp::Created => event.creation_date.unwrap_or(sent),
        };
        self.sent(sent, timestamp, json.to_string())
    }

    fn sent(&mut self, sent: UnixMillis, timestamp: UnixMillis, json: String) -> SentRecord {
        self.records_sent += 1;
        let ingested = sent.plus(self.within(&self.settings.ingestion_delay.clone()));
        SentRecord { sent, timestamp, ingested, json }
    }

    /// The event with dates that become the right second when they are truncated.
    fn in_whole_seconds(&self, event: &AuthEvent) -> AuthEvent {
        let mut event = event.clone();
        if self.settings.dates == DateRounding::Nearest {
            let half_up = |date: UnixMillis| UnixMillis(date.0.saturating_add(500));
            event.creation_date = event.creation_date.map(half_up);
            if let Some(feedback) = &mut event.feedback {
                feedback.date = feedback.date.map(half_up);
            }
        }
        event
    }

    fn delay(&mut self) -> Duration {
        let delay = self.within(&self.settings.delay.clone());
        if self.chance(self.settings.overtaken) {
            delay + self.within(&self.settings.extra_delay.clone())
        } else {
            delay
        }
    }

    /// A random time of the range, in whole milliseconds.
    #[expect(clippy::cast_possible_truncation, reason = "a delay in milliseconds fits")]
    fn within(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        let (least, most) = (range.start().as_millis() as u64, range.end().as_millis() as u64);
        Duration::from_millis(self.random.u64(least..=most.max(least)))
    }

    fn chance(&mut self, share: f64) -> bool {
        self.random.f64() < share
    }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::event::{EventContext, Word};
    use cognito_auth_core::export::{DecodedDocument, decode};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_750_000_000_600);
    const ADA: ExportedUser<'_> = ExportedUser { pool_id: "eu-west-1_Example", username: "ada", sub: "s" };

    fn event(number: i64) -> AuthEvent {
        AuthEvent {
            id: Some(format!("event-{number}")),
            event_type: Some(Word::parse("SignIn")),
            creation_date: Some(NOW),
            response: Some(Word::parse("Pass")),
            ..AuthEvent::default()
        }
    }

    fn export(settings: ExportSettings) -> PoolExport {
        PoolExport::new(settings, Rng::with_seed(1))
    }

    fn records(export: &mut PoolExport, occasion: Occasion) -> Vec<SentRecord> {
        (0..1000).flat_map(|number| export.records_of(ADA, &event(number), occasion, NOW)).collect()
    }

    fn decoded(record: &SentRecord) -> DecodedDocument {
        decode(record.json.as_bytes(), 1 << 20)
    }

    #[test]
    fn shares_are_kept_and_counted_and_a_lost_event_stays_lost() {
        let mut export = export(ExportSettings { lost: 0.1, repeated: 0.2, changes: 0.5, ..Default::default() });
        let new = records(&mut export, Occasion::New);
        let lost = export.lost().len();
        assert!((60..140).contains(&lost), "{lost}");
        assert_eq!(export.events_sent(), (1000 - lost) as u64);
        let repeated = new.len() - (1000 - lost);
        assert!((120..240).contains(&repeated), "{repeated}");
        let changed = records(&mut export, Occasion::Changed);
        assert!((350..550).contains(&export.changes_sent()), "{}", export.changes_sent());
        assert_eq!(export.records_sent(), (new.len() + changed.len()) as u64);
        for record in changed {
            let id = decoded(&record).events[0].event.id.clone().unwrap();
            assert!(!export.lost().contains(&id), "{id}");
        }
    }

    #[test]
    fn the_same_seed_loses_the_same_events() {
        let lost = || {
            let mut export = export(ExportSettings { lost: 0.1, ..Default::default() });
            let records = records(&mut export, Occasion::New);
            (export.lost().clone(), records)
        };
        assert_eq!(lost(), lost());
    }

    #[test]
    fn some_records_are_overtaken() {
        let seconds = |seconds| Duration::from_secs(seconds);
        let mut export = export(ExportSettings {
            delay: seconds(1)..=seconds(2),
            overtaken: 0.1,
            extra_delay: seconds(60)..=seconds(120),
            ingestion_delay: seconds(3)..=seconds(3),
            ..Default::default()
        });
        let records = records(&mut export, Occasion::New);
        let late = records.iter().filter(|record| record.sent.0 - NOW.0 >= 60_000).count();
        assert!((60..140).contains(&late), "{late}");
        assert!(records.iter().all(|record| (1000..=122_000).contains(&(record.sent.0 - NOW.0))));
        assert!(records.iter().all(|record| record.ingested.0 - record.timestamp.0 == 3000));
    }

    #[test]
    fn an_odd_record_tells_the_same_event() {
        let mut whole = event(1);
        whole.context = Some(EventContext { ip_address: Some("192.0.2.1".into()), ..Default::default() });
        let mut odd = export(ExportSettings { odd: 1.0, source: ExportSource::Both, ..Default::default() });
        for event in [whole, event(2)] {
            let told = |record: &SentRecord| {
                let document = decoded(record);
                assert_eq!(document.unreadable, [], "{}", record.json);
                document.events.into_iter().next().unwrap().event
            };
            let plain = export(ExportSettings::default()).records_of(ADA, &event, Occasion::New, NOW);
            for _ in 0..50 {
                let odd = odd.records_of(ADA, &event, Occasion::New, NOW);
                assert!(odd[0].json.contains("unheardOf"));
                assert_eq!(told(&odd[0]), told(&plain[0]));
            }
        }
    }

    #[test]
    fn a_date_is_truncated_or_rounded() {
        for (dates, millis) in
            [(DateRounding::Truncated, 1_750_000_000_000), (DateRounding::Nearest, 1_750_000_001_000)]
        {
            let mut export = export(ExportSettings { dates, ..Default::default() });
            let record = &export.records_of(ADA, &event(1), Occasion::New, NOW)[0];
            assert_eq!(decoded(record).events[0].event.creation_date, Some(UnixMillis(millis)));
        }
    }
}
