//! The ledger on a real disk: durable, atomic, exact, and unhurt by what happens to its files and its process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use cognito_auth_exporter::config::StateConfig;
use cognito_auth_exporter::courier::{OutboxId, Settlement};
use cognito_auth_exporter::cursor::Cursor;
use cognito_auth_exporter::entry::{Entry, PoolIdentity, UserIdentity};
use cognito_auth_exporter::event::{AuthEvent, Challenge, EventContext, EventFeedback, EventRisk, UnixMillis, Word};
use cognito_auth_exporter::ledger::{Commit, Ledger, LedgerError, OutboxState, PoolRecord, UserRecord};
use cognito_auth_exporter::source::Page;
use cognito_auth_exporter::tally::{self, Series};
use cognito_auth_exporter::walk::{Rules, Walk};
use proptest::prelude::*;
use std::time::Duration;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const RULES: Rules = Rules { overlap: Duration::from_hours(1), settle: Duration::from_mins(30), followed_since: None };

fn state(directory: &Path) -> StateConfig {
    StateConfig { path: directory.to_owned(), cache_bytes: 8 << 20, ..StateConfig::default() }
}

fn open(directory: &Path) -> Ledger {
    Ledger::open(&state(directory), NOW).unwrap().ledger
}

fn pool() -> Arc<PoolIdentity> {
    Arc::new(PoolIdentity {
        id: "eu-west-1_Ledger".into(),
        name: "ledger".into(),
        region: "eu-west-1".into(),
        account_id: Some("123456789012".into()),
    })
}

fn user(username: &str) -> Arc<UserIdentity> {
    Arc::new(UserIdentity { username: username.into(), sub: None })
}

fn event(id: usize) -> AuthEvent {
    AuthEvent {
        id: Some(format!("event-{id}")),
        event_type: Some(Word::parse("SignIn")),
        creation_date: Some(NOW.plus(Duration::from_secs(id as u64))),
        response: Some(Word::parse("Pass")),
        ..AuthEvent::default()
    }
}

/// One page with these events, walked from this cursor and made into a commit.
fn commit(username: &str, mut record: UserRecord, events: Vec<AuthEvent>) -> Commit {
    let page = Page { events, next: None, received: NOW };
    let taken = Walk::begin(&record.cursor, NOW).take(&mut record.cursor, &page, &RULES);
    let totals = taken.findings.iter().flat_map(|finding| tally::first_sight(&finding.facts, true, false)).collect();
    let entries = taken.findings.into_iter().map(|finding| Entry {
        pool: pool(),
        user: user(username),
        event: finding.event,
        revision: finding.revision,
        history: false,
        observed: NOW,
    });
    Commit { pool: pool(), username: username.into(), totals, entries: entries.collect(), record }
}

fn newcomer() -> UserRecord {
    UserRecord { joined: NOW, sub: None, cursor: Cursor::new(UnixMillis::MIN, UnixMillis::MIN) }
}

fn counted(ledger: &Ledger) -> u64 {
    let totals = ledger.totals(&pool().id).unwrap();
    totals.iter().filter(|(series, _)| matches!(series, Series::Events(_))).map(|(_, total)| total).sum()
}

fn waiting(ledger: &Ledger) -> Vec<(OutboxId, Entry)> {
    ledger.read_outbox(None, usize::MAX).unwrap()
}

#[tokio::test]
async fn everything_is_there_again_after_opening_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = open(directory.path());
    let instance = ledger.instance_id().to_owned();
    ledger.follow_pool(&pool().id, PoolRecord { followed_since: NOW }).await.unwrap();
    let commit = commit("ann/with a slash", newcomer(), vec![event(2), event(1)]);
    let (cursor, entries) = (commit.record.cursor.clone(), commit.entries.clone());
    ledger.commit(commit).await.unwrap();
    let outbox = ledger.outbox_state();
    ledger.close().await;

    let ledger = open(directory.path());
    assert_eq!(ledger.instance_id(), instance);
    assert_eq!(ledger.pool(&pool().id).unwrap(), Some(PoolRecord { followed_since: NOW }));
    let record = ledger.user(&pool().id, "ann/with a slash").unwrap().unwrap();
    assert!(record.cursor == cursor && record.joined == NOW);
    assert_eq!(counted(&ledger), 2);
    assert_eq!(waiting(&ledger).into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(), entries);
    assert_eq!((ledger.outbox_state(), outbox.records), (outbox, 2));
    assert!(ledger.user(&pool().id, "ann").unwrap().is_none(), "a prefix of a name is another name");
}

#[tokio::test]
async fn settling_removes_what_was_delivered_and_keeps_what_was_refused_aside() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = open(directory.path());
    ledger.commit(commit("ann", newcomer(), (1..=4).map(event).rev().collect())).await.unwrap();
    let ids: Vec<OutboxId> = waiting(&ledger).into_iter().map(|(id, _)| id).collect();
    let settlement = Settlement {
        delivered: vec![ids[0], ids[2], ids[0], OutboxId(999)],
        quarantined: vec![(ids[1], "invalid".into())],
    };
    ledger.settle(settlement.clone()).await.unwrap();
    ledger.settle(settlement).await.unwrap();
    let check = |ledger: &Ledger| {
        assert_eq!(waiting(ledger).into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [ids[3]]);
        assert_eq!((ledger.outbox_state().records, ledger.quarantine_state().0), (1, 1));
    };
    check(&ledger);
    let sizes = (ledger.outbox_state(), ledger.quarantine_state());
    ledger.close().await;
    let ledger = open(directory.path());
    check(&ledger);
    assert_eq!((ledger.outbox_state(), ledger.quarantine_state()), sizes, "kept exactly");
    ledger.settle(Settlement { delivered: vec![ids[3]], quarantined: vec![] }).await.unwrap();
    assert_eq!(ledger.outbox_state(), OutboxState::default());
    ledger.commit(commit("ben", newcomer(), vec![event(9)])).await.unwrap();
    assert!(waiting(&ledger)[0].0 > ids[3], "an id is never used again while anything remembers it");
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_many_users_at_once_are_all_there_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = open(directory.path());
    let mut commits = tokio::task::JoinSet::new();
    for task in 0..100 {
        let ledger = ledger.clone();
        commits.spawn(async move {
            let events = vec![event(task * 2), event(task * 2 + 1)];
            ledger.commit(commit(&format!("user-{task}"), newcomer(), events)).await.unwrap();
        });
    }
    while let Some(done) = commits.join_next().await {
        done.unwrap();
    }
    assert_eq!((counted(&ledger), ledger.outbox_state().records), (200, 200));
    ledger.close().await;
    let ledger = open(directory.path());
    assert_eq!((counted(&ledger), waiting(&ledger).len()), (200, 200));
}

#[tokio::test]
async fn a_second_process_is_told_that_the_state_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    let refused = Ledger::open(&state(directory.path()), NOW).err().unwrap();
    assert!(matches!(refused, LedgerError::Locked(_)), "{refused}");
    first.close().await;
    drop(open(directory.path()));
}

#[tokio::test]
async fn a_damaged_ledger_is_moved_aside_and_a_third_one_asks_for_a_person() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..3_i64 {
        let ledger = open(directory.path());
        ledger.commit(commit("ann", newcomer(), (0..50).map(event).rev().collect())).await.unwrap();
        ledger.close().await;
        let files = directory.path().join("ledger");
        std::fs::write(files.join("db"), vec![0xA5; 600_000]).unwrap();
        let opened = Ledger::open(&state(directory.path()), UnixMillis(NOW.0 + round * 1000));
        if round == 2 {
            assert!(matches!(opened.err().unwrap(), LedgerError::TooManyCorrupt(_)));
            break;
        }
        let opened = opened.unwrap();
        let rebuilt = opened.rebuilt.unwrap();
        assert!(rebuilt.moved_to.is_dir());
        assert_eq!(rebuilt.last_commit, Some(NOW), "what happened since then is live");
        assert!(opened.ledger.user(&pool().id, "ann").unwrap().is_none());
        opened.ledger.close().await;
    }
}

#[tokio::test]
async fn a_torn_snapshot_costs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = open(directory.path());
    ledger.commit(commit("ann", newcomer(), vec![event(1)])).await.unwrap();
    ledger.close().await;
    open(directory.path()).close().await;
    let snapshots: Vec<_> = std::fs::read_dir(directory.path().join("ledger"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap."))
        .collect();
    assert!(!snapshots.is_empty(), "sled writes a snapshot");
    for snapshot in snapshots {
        let whole = std::fs::read(&snapshot).unwrap();
        std::fs::write(&snapshot, &whole[..whole.len() / 2]).unwrap();
    }
    let opened = Ledger::open(&state(directory.path()), NOW).unwrap();
    assert_eq!(opened.rebuilt, None);
    assert_eq!(counted(&opened.ledger), 1);
}

/// The other half of the next test: commits until it is killed, and says of each commit that it was acknowledged.
#[tokio::test]
async fn committer() {
    let Ok(directory) = std::env::var("LEDGER_TEST_DIRECTORY") else { return };
    let ledger = open(Path::new(&directory));
    for round in 0.. {
        let record = ledger.user(&pool().id, "ann").unwrap().unwrap_or_else(newcomer);
        let first = usize::try_from(counted(&ledger)).unwrap();
        ledger.commit(commit("ann", record, vec![event(first + 1), event(first)])).await.unwrap();
        println!("\nacknowledged {}", first + 2);
        if round % 5 == 4 {
            let ids = ledger.read_outbox(None, 3).unwrap().into_iter().map(|(id, _)| id).collect();
            ledger.settle(Settlement { delivered: ids, quarantined: vec![] }).await.unwrap();
        }
    }
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_acknowledged_and_tears_no_commit() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "committer", "--nocapture"])
            .env("LEDGER_TEST_DIRECTORY", directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut acknowledged = 0;
        let mut commits = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(count) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = count.parse().unwrap();
                commits += 1;
                if commits == 3 + round * 2 {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let ledger = open(directory.path());
        let there = counted(&ledger);
        assert!(there >= acknowledged, "{acknowledged} acknowledged, {there} there");
        let cursor = ledger.user(&pool().id, "ann").unwrap().unwrap().cursor;
        let newest = format!("event-{}", there - 1);
        assert_eq!(cursor.last_seen().unwrap().id.as_deref(), Some(newest.as_str()), "cursor and totals agree");
        let outbox = waiting(&ledger);
        assert_eq!(outbox.last().unwrap().1.event.creation_date, Some(NOW.plus(Duration::from_secs(there - 2))));
        ledger.close().await;
    }
}

fn texts() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(prop_oneof![
        Just("SignIn".to_owned()),
        Just("null".to_owned()),
        any::<String>(),
        "\\PC{0,40}",
        Just("x".repeat(70_000)),
    ])
}

prop_compose! {
    fn events()(
        id in texts(), event_type in texts(), time in proptest::option::of(any::<i64>()), response in texts(),
        decision in texts(), compromised in any::<Option<bool>>(), challenges in proptest::collection::vec((texts(), texts()), 0..3),
        city in texts(), provider in texts(), with in any::<(bool, bool, bool)>(),
    ) -> AuthEvent {
        AuthEvent {
            id,
            event_type: event_type.as_deref().map(Word::parse),
            creation_date: time.map(UnixMillis),
            response: response.as_deref().map(Word::parse),
            risk: with.0.then(|| EventRisk {
                decision: decision.as_deref().map(Word::parse),
                level: decision.as_deref().map(Word::parse),
                compromised_credentials: compromised,
            }),
            challenges: challenges
                .iter()
                .map(|(name, response)| Challenge {
                    name: name.as_deref().map(Word::parse),
                    response: response.as_deref().map(Word::parse),
                })
                .collect(),
            context: with.1.then(|| EventContext { city, ..EventContext::default() }),
            feedback: with.2.then(|| EventFeedback { value: None, provider, date: time.map(UnixMillis) }),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_service_sends_comes_back_as_it_was(events in proptest::collection::vec(events(), 0..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let ledger = open(directory.path());
            let commit = commit("zoë", newcomer(), events);
            let (cursor, entries) = (commit.record.cursor.clone(), commit.entries.clone());
            ledger.commit(commit).await.unwrap();
            assert!(ledger.user(&pool().id, "zoë").unwrap().unwrap().cursor == cursor);
            assert_eq!(waiting(&ledger).into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(), entries);
            ledger.close().await;
        });
    }
}
