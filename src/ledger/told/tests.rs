//! Exported events and pages of polls against a ledger on the disk.

use std::collections::BTreeMap;
use std::time::Duration;

use cognito_auth_core::counters::Series;
use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::entry::OutboxId;
use cognito_auth_core::event::Word;
use tempfile::TempDir;

use super::*;
use crate::config::StateConfig;
use crate::delivery::Outbox as _;
use crate::ledger::Commit;

const POOL: &str = "eu-west-1_Told";
/// The table begins here.
const NOW: UnixMillis = UnixMillis(1_795_523_756_000);
const RULES: Rules = Rules { overlap: Duration::from_hours(1), settle: Duration::from_mins(30), followed_since: None };

fn at(seconds: i64) -> UnixMillis {
    UnixMillis(NOW.0 + seconds * 1000)
}

fn open(directory: &TempDir) -> Ledger {
    let state = StateConfig { path: directory.path().to_owned(), ..StateConfig::default() };
    Ledger::open(&state, NOW).unwrap().ledger
}

/// A ledger in which ann is followed, with a table of told events.
async fn with_ann(directory: &TempDir) -> Ledger {
    let ledger = open(directory);
    let cursor = Cursor::new(NOW, NOW);
    let record = UserRecord { joined: NOW, sub: None, cursor, activity: None };
    ledger.enroll(POOL, vec![("ann".into(), record)]).await.unwrap();
    ledger.begin_told(POOL, NOW).await.unwrap();
    ledger
}

fn pool() -> Arc<PoolIdentity> {
    Arc::new(PoolIdentity { id: POOL.into(), name: POOL.into(), region: "eu-west-1".into(), account_id: None })
}

fn sign_in(id: &str, time: UnixMillis, response: &str) -> AuthEvent {
    AuthEvent {
        id: Some(id.into()),
        event_type: Some(Word::parse("SignIn")),
        creation_date: Some(time),
        response: Some(Word::parse(response)),
        ..AuthEvent::default()
    }
}

/// Has events of ann arrive; what became of them.
async fn arrive_with(ledger: &Ledger, is_polled: bool, events: &[AuthEvent]) -> Vec<ArrivalKind> {
    let arrival = |event: &AuthEvent| ExportedArrival {
        user: Arc::new(UserIdentity { username: "ann".into(), sub: None }),
        event: event.clone(),
        details: ExportDetails { client_id: Some("client".into()), ..ExportDetails::default() },
        live: true,
    };
    let arrivals = Arrivals {
        pool: pool(),
        rules: RULES,
        queue: true,
        is_polled,
        received: at(100),
        events: events.iter().map(arrival).collect(),
    };
    ledger.arrive(arrivals).await.unwrap().into_iter().map(|result| result.kind).collect()
}

async fn arrives(ledger: &Ledger, event: &AuthEvent) -> ArrivalKind {
    arrive_with(ledger, true, std::slice::from_ref(event)).await.remove(0)
}

/// The entries of the outbox: event, revision, history and source.
fn queued(ledger: &Ledger) -> Vec<String> {
    let entries = ledger.read(None, usize::MAX).unwrap();
    entries
        .into_iter()
        .map(|(_, entry)| {
            let entry = entry.unwrap();
            let history = if entry.history { " history" } else { "" };
            format!("{}.{}{history} {}", entry.event.id.unwrap(), entry.revision, entry.told_by.as_str())
        })
        .collect()
}

fn counted(ledger: &Ledger) -> u64 {
    let totals = ledger.totals(POOL).unwrap().into_iter();
    totals.filter(|(series, _)| matches!(series, Series::Events(_))).map(|(_, total)| total).sum()
}

/// Commits a poll's page of ann with what it tells of an event, which was told so before.
async fn polled(ledger: &Ledger, event: &AuthEvent, before: Option<ToldEvent>) -> Result<(), LedgerError> {
    let mut record = ledger.user(POOL, "ann").unwrap().unwrap();
    let page = cognito_auth_core::page::Page {
        events: vec![event.clone()],
        next: None,
        received: at(100),
        served: Some(at(100)),
    };
    let told: ToldEvents = before.clone().map(|told| (event.key(), told)).into_iter().collect();
    let mut walk = cognito_auth_core::walk::Walk::begin(&record.cursor, at(100));
    let taken = walk.take_beside(&mut record.cursor, &page, &RULES, &told);
    let told = taken.told.iter().map(|(key, after)| {
        (*key, ToldChange { date: event.creation_date, before: before.clone(), after: after.clone() })
    });
    let told = told.collect();
    let totals = counters::pages([&taken].into_iter());
    let user = Arc::new(UserIdentity { username: "ann".into(), sub: None });
    let entries = taken.findings.into_iter().map(|finding| Entry::of(finding, &pool(), &user, page.received)).collect();
    ledger.commit(Commit { pool: pool(), username: "ann".into(), record, totals, entries, told }).await
}

fn told(ledger: &Ledger, event: &AuthEvent) -> Option<ToldEvent> {
    ledger.told(POOL, std::slice::from_ref(event)).unwrap().remove(&event.key())
}

#[tokio::test]
async fn an_exported_event_is_told_once_however_often_it_arrives_and_whatever_starts_in_between() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    let (waits, ended) = (sign_in("a", at(10), "InProgress"), sign_in("a", at(10), "Pass"));
    let kinds = arrive_with(&ledger, true, &[waits.clone(), waits.clone(), ended.clone(), waits.clone()]).await;
    use ArrivalKind::{Known, New, Revision};
    assert_eq!(kinds, [New, Known, Revision, Known]);
    ledger.close().await;
    let ledger = open(&directory);
    ledger.begin_told(POOL, at(1_000_000)).await.unwrap();
    assert_eq!(arrive_with(&ledger, true, &[ended, waits]).await, [Known, Known]);
    assert_eq!(queued(&ledger), ["a.0 export", "a.1 export"]);
    assert_eq!(counted(&ledger), 2, "an outcome each");
    let entry = ledger.read(Some(OutboxId(0)), 1).unwrap().remove(0).1.unwrap();
    assert_eq!(entry.details.client_id.as_deref(), Some("client"));
    ledger.close().await;
}

#[tokio::test]
async fn a_date_in_whole_seconds_and_the_same_in_milliseconds_are_one_event_in_either_order() {
    for (exported_first, shift) in [(true, -929), (true, 71), (false, -929), (false, 71)] {
        let directory = tempfile::tempdir().unwrap();
        let ledger = with_ann(&directory).await;
        let exact = sign_in("a", UnixMillis(at(10).0 + 929), "Pass");
        let rounded =
            AuthEvent { creation_date: exact.creation_date.map(|date| UnixMillis(date.0 + shift)), ..exact.clone() };
        if exported_first {
            assert_eq!(arrives(&ledger, &rounded).await, ArrivalKind::New);
            polled(&ledger, &exact, told(&ledger, &exact)).await.unwrap();
        } else {
            polled(&ledger, &exact, None).await.unwrap();
            assert_eq!(arrives(&ledger, &rounded).await, ArrivalKind::Known);
        }
        assert_eq!((queued(&ledger).len(), counted(&ledger)), (1, 1), "{exported_first} {shift}");
        ledger.close().await;
    }
}

#[tokio::test]
async fn a_date_that_the_export_rounds_up_across_the_beginning_of_the_table_makes_no_second_event() {
    let rounded = |event: &AuthEvent, second| AuthEvent { creation_date: Some(at(second)), ..event.clone() };
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    // In the second of the beginning, and in a second whose events are forgotten.
    for (id, second) in [("a", 0), ("b", 10)] {
        let event = sign_in(id, UnixMillis(at(second).0 + 700), "Pass");
        polled(&ledger, &event, told(&ledger, &event)).await.unwrap();
        assert!(!ledger.forget_told(POOL, at(second), false).await.unwrap());
        assert_eq!(told(&ledger, &event), None, "{id}");
        assert_eq!(arrives(&ledger, &rounded(&event, second + 1)).await, ArrivalKind::Known, "{id}");
    }
    assert_eq!((queued(&ledger).len(), counted(&ledger)), (2, 2));
    ledger.close().await;
}

#[tokio::test]
async fn an_event_that_the_export_revises_while_it_is_to_be_forgotten_stays() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    let [waits, ended] = ["InProgress", "Pass"].map(|response| sign_in("a", at(10), response));
    polled(&ledger, &waits, None).await.unwrap();
    let place = keys::told(POOL, ToldEvent::second_of(waits.creation_date), waits.key());
    assert_eq!(arrives(&ledger, &ended).await, ArrivalKind::Revision);
    // What was read before the event arrived.
    let forgotten = vec![place];
    let since = ToldEvent::second_of(Some(at(30)));
    let forget = ForgetTold { pool_id: POOL.into(), forgotten, since, unpolled: false };
    ledger.write(WriteRequest::ForgetTold(forget)).await.unwrap();
    polled(&ledger, &ended, told(&ledger, &ended)).await.unwrap();
    assert_eq!(queued(&ledger), ["a.0 poll", "a.1 export"]);
    assert_eq!((counted(&ledger), ledger.told_since(POOL)), (2, Ok(Some(since))));
    ledger.close().await;
}

#[tokio::test]
async fn a_page_whose_event_was_exported_since_it_was_judged_is_refused_as_a_whole() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    let event = sign_in("a", at(10), "Pass");
    let judged_beside = told(&ledger, &event);
    assert_eq!(arrives(&ledger, &event).await, ArrivalKind::New);
    assert_eq!(polled(&ledger, &event, judged_beside).await, Err(LedgerError::ToldMeanwhile));
    assert_eq!(ledger.user(POOL, "ann").unwrap().unwrap().cursor.remembered(), 0);
    // Judged again, it is adopted and not told.
    polled(&ledger, &event, told(&ledger, &event)).await.unwrap();
    assert_eq!(ledger.user(POOL, "ann").unwrap().unwrap().cursor.remembered(), 1);
    assert_eq!((queued(&ledger).len(), counted(&ledger)), (1, 1));
    let adopted = told(&ledger, &event).unwrap();
    assert!(adopted.is_adopted && adopted.is_polled && adopted.is_exported);
    ledger.close().await;
}

#[tokio::test]
async fn what_polls_have_adopted_is_forgotten_and_known_from_the_cursor() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    let [adopted, alone, young] = [("a", 10), ("b", 20), ("c", 60)].map(|(id, time)| sign_in(id, at(time), "Pass"));
    for event in [&adopted, &alone, &young] {
        assert_eq!(arrives(&ledger, event).await, ArrivalKind::New);
    }
    polled(&ledger, &adopted, told(&ledger, &adopted)).await.unwrap();
    assert!(!ledger.forget_told(POOL, at(30), false).await.unwrap());
    assert_eq!(ledger.told_since(POOL), Ok(Some(at(30).0 / 1000)));
    let is_told = |event| told(&ledger, event).is_some();
    assert_eq!([&adopted, &alone, &young].map(is_told), [false, true, true], "a poll has not seen b");
    for event in [&adopted, &alone, &young] {
        assert_eq!(arrives(&ledger, event).await, ArrivalKind::Known);
    }
    // A poll that finds b now leaves nothing of it in the table.
    polled(&ledger, &alone, told(&ledger, &alone)).await.unwrap();
    assert!(!is_told(&alone));
    assert_eq!(arrives(&ledger, &alone).await, ArrivalKind::Known);
    // An event from before the table that no poll has told.
    assert_eq!(arrives(&ledger, &sign_in("d", at(25), "Pass")).await, ArrivalKind::New);
    assert_eq!(arrives(&ledger, &sign_in("e", at(-9_000), "Pass")).await, ArrivalKind::Known, "older than wanted");
    assert_eq!((queued(&ledger).len(), counted(&ledger)), (4, 4));
    ledger.close().await;
}

#[tokio::test]
async fn without_polls_everything_is_forgotten_in_parts_and_older_events_are_late_and_not_counted() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    let events: Vec<_> = (0..1200).map(|number| sign_in(&number.to_string(), at(2 + number / 100), "Pass")).collect();
    for part in events.chunks(100) {
        assert!(arrive_with(&ledger, false, part).await.iter().all(|kind| *kind == ArrivalKind::New));
    }
    let mut parts = 1;
    while ledger.forget_told(POOL, at(10), true).await.unwrap() {
        parts += 1;
        assert!(parts < 10, "it comes to an end");
    }
    assert!(parts > 1);
    assert_eq!(ledger.told(POOL, &events).unwrap().len(), 300, "those after the tenth second");
    let before = counted(&ledger);
    assert_eq!(arrive_with(&ledger, false, &events[..1]).await, [ArrivalKind::Late]);
    assert_eq!(arrive_with(&ledger, false, &events[1199..]).await, [ArrivalKind::Known]);
    assert_eq!(counted(&ledger), before);
    assert_eq!(queued(&ledger).last().map(String::as_str), Some("0.0 history export"));
    ledger.close().await;
}

#[tokio::test]
async fn that_events_were_forgotten_which_no_cursor_has_is_known_until_the_users_begin_anew() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    let event = sign_in("a", at(10), "Pass");
    arrive_with(&ledger, false, std::slice::from_ref(&event)).await;
    ledger.forget_told(POOL, at(5), false).await.unwrap();
    assert_eq!(ledger.has_forgotten_unpolled(POOL), Ok(false));
    ledger.forget_told(POOL, at(30), true).await.unwrap();
    ledger.close().await;
    let ledger = open(&directory);
    assert_eq!(ledger.has_forgotten_unpolled(POOL), Ok(true));
    ledger.users_begin_anew(POOL).await.unwrap();
    assert_eq!(ledger.has_forgotten_unpolled(POOL), Ok(false));
    assert_eq!(ledger.told_since(POOL), Ok(Some(at(30).0 / 1000)), "the table stays as it is");
    ledger.close().await;
}

#[tokio::test]
async fn events_of_one_second_are_forgotten_together() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    let events: Vec<_> = (0..1100).map(|number| sign_in(&number.to_string(), at(2), "Pass")).collect();
    for part in events.chunks(256) {
        arrive_with(&ledger, false, part).await;
    }
    while ledger.forget_told(POOL, at(2), true).await.unwrap() {}
    assert_eq!(ledger.told(POOL, &events).unwrap(), BTreeMap::new());
    assert_eq!(ledger.told_since(POOL), Ok(Some(at(2).0 / 1000)));
    ledger.close().await;
}

#[tokio::test]
async fn an_event_whose_record_is_damaged_counts_as_told() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    let event = sign_in("a", at(10), "Pass");
    arrives(&ledger, &event).await;
    let key = keys::told(POOL, at(10).0 / 1000, event.key());
    ledger.write(WriteRequest::Put(vec![(key, Some(b"damaged".to_vec()))])).await.unwrap();
    assert_eq!(arrives(&ledger, &event).await, ArrivalKind::Known);
    polled(&ledger, &event, told(&ledger, &event)).await.unwrap();
    assert_eq!((queued(&ledger).len(), counted(&ledger)), (1, 1));
    ledger.close().await;
}

#[tokio::test]
async fn users_with_exported_events_in_progress_are_known_after_a_restart_until_a_cursor_watches_them() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    let [waits, ended] = [("a", "InProgress"), ("b", "Pass")].map(|(id, response)| sign_in(id, at(10), response));
    arrive_with(&ledger, true, &[waits.clone(), ended]).await;
    ledger.close().await;
    let ledger = open(&directory);
    // It arrived 90 s after its creation, so the next look is two minutes after that.
    assert_eq!(ledger.told_waiting(POOL, 0).unwrap(), (vec![("ann".to_owned(), at(130))], None));
    polled(&ledger, &waits, told(&ledger, &waits)).await.unwrap();
    assert_eq!(ledger.told_waiting(POOL, 0).unwrap(), (vec![], None));
    ledger.close().await;
}

/// A told event as this version writes it, in progress and shown by both sources.
const GOLDEN: &str = "016aac1ac40a17198fff9d13a1e576352889043a090880dddb0110c0a90710c20e18052203616e6e";

#[test]
fn the_stored_form_is_what_the_golden_record_says_and_comes_back() {
    let event = sign_in("a", UnixMillis(at(10).0 + 929), "InProgress");
    let arrived = arrive(None, ArrivingEvent { event: &event, live: true, received: at(11) }, &RULES);
    let told = ToldEvent { is_polled: true, ..arrived.told.unwrap() };
    let sealed = StoredTold::of(event.key(), &told, Some("ann")).seal();
    let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN);
    assert_eq!(StoredTold::open(&sealed).unwrap().told(told.second, event.key()), Ok(told.clone()));
    let undated = ToldEvent { second: ToldEvent::UNDATED, ..told };
    let sighting = cognito_auth_core::cursor::Sighting { dates: None, watch: None, ..undated.sighting };
    let undated = ToldEvent { sighting, ..undated };
    let sealed = StoredTold::of(event.key(), &undated, None).seal();
    assert_eq!(StoredTold::open(&sealed).unwrap().told(ToldEvent::UNDATED, event.key()), Ok(undated));
}
