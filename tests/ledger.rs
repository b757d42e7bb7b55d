//! The ledger on a real disk: acknowledged writes survive a kill, damage differs from a passing failure, and no write
//! is half done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use cognito_auth_core::counters::Series;
use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::entry::OutboxId;
use cognito_auth_core::entry::{Entry, EventSource, PoolIdentity, UserIdentity};
use cognito_auth_core::event::{AuthEvent, EventContext, UnixMillis, Word};
use cognito_auth_core::export::ExportDetails;
use cognito_auth_core::export::log_group::LogGroup;
use cognito_auth_core::masking::{Mode, Modes};
use cognito_auth_core::privacy::Privacy;
use cognito_auth_core::shard::{Shard, Shares};
use cognito_auth_exporter::config::StateConfig;
use cognito_auth_exporter::delivery::{Outbox as _, Settlement};
use cognito_auth_exporter::ledger::{
    Commit, Ledger, LedgerError, Opened, PoolRecord, ReadPosition, RecordName, UserRecord,
};
use tempfile::TempDir;

use crate::disk;

const NOW: UnixMillis = UnixMillis(1_795_523_756_000);
const POOL: &str = "eu-west-1_Test";

fn state(path: &Path) -> StateConfig {
    StateConfig {
        path: path.to_owned(),
        cache_bytes: 16 << 20,
        outbox_limit_bytes: 1 << 30,
        quarantine_limit_bytes: 100 << 20,
    }
}

fn open(path: &Path) -> Ledger {
    let Opened { ledger, rebuilt } = Ledger::open(&state(path), NOW).unwrap();
    assert_eq!(rebuilt, None);
    ledger
}

/// A path for the state directory, which the ledger makes.
fn place() -> (TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    (directory, path)
}

/// The record of a user after `number` committed pages.
fn record(number: i64) -> UserRecord {
    UserRecord { joined: NOW, sub: None, cursor: Cursor::new(UnixMillis(number), UnixMillis(0)), activity: None }
}

fn pool(id: &str) -> Arc<PoolIdentity> {
    Arc::new(PoolIdentity { id: id.into(), name: "a pool".into(), region: "eu-west-1".into(), account_id: None })
}

fn entry(username: &str, event_id: String) -> Entry {
    Entry {
        pool: pool(POOL),
        user: Arc::new(UserIdentity { username: username.into(), sub: None }),
        event: AuthEvent {
            id: Some(event_id),
            event_type: Some(Word::parse("SignIn")),
            creation_date: Some(NOW),
            ..AuthEvent::default()
        },
        revision: 0,
        history: true,
        observed: NOW,
        told_by: EventSource::default(),
        details: ExportDetails::default(),
        masked: Modes::default(),
    }
}

/// The record of a pool of which this ledger had one share and has another.
fn pool_record(followed_since: UnixMillis, lost_since: Option<UnixMillis>) -> PoolRecord {
    let mut shares = Shares::begun(Shard::WHOLE, followed_since);
    assert!(shares.go_on_with(Shard::new(2, 3).unwrap(), UnixMillis(followed_since.0 + 1)));
    PoolRecord { followed_since, lost_since, selection: None, shares }
}

/// The `number`th page of a user, with one event of history.
fn page(username: &str, number: i64) -> Commit {
    Commit {
        pool: pool(POOL),
        username: username.into(),
        record: record(number),
        totals: vec![(Series::History, 1)],
        entries: vec![entry(username, format!("{username}-{number}"))],
        told: vec![],
    }
}

/// Enrols a user. A user who is enrolled already keeps its record.
async fn enroll(ledger: &Ledger, username: &str) {
    ledger.enroll(POOL, vec![(username.into(), record(0))]).await.unwrap();
}

fn event_ids(ledger: &Ledger) -> Vec<String> {
    let entries = ledger.read(None, usize::MAX).unwrap();
    assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
    entries.into_iter().map(|(_, entry)| entry.unwrap().event.id.unwrap()).collect()
}

#[tokio::test]
async fn a_reopened_ledger_has_everything() {
    let (_directory, path) = place();
    let ledger = open(&path);
    let instance = ledger.instance_id().to_owned();
    assert_eq!(ledger.pool(POOL), Ok(None));
    ledger.follow_pool(POOL, pool_record(NOW, None)).await.unwrap();
    let names = ["a", "a/b", "ü", "\u{10ffff}"];
    let users = names.iter().map(|name| ((*name).to_owned(), record(0))).collect();
    ledger.enroll(POOL, users).await.unwrap();
    ledger.enroll("eu-west-1_Test2", vec![("elsewhere".into(), record(0))]).await.unwrap();
    ledger.commit(page("a/b", 1)).await.unwrap();
    ledger.commit(page("ü", 1)).await.unwrap();
    let standing = ledger.outbox_state();
    ledger.close().await;

    let ledger = open(&path);
    assert_eq!(ledger.instance_id(), instance);
    assert_eq!(ledger.pool(POOL), Ok(Some(pool_record(NOW, None))));
    let stored: Vec<_> = ledger.usernames(POOL).map(Result::unwrap).collect();
    assert_eq!(stored, names);
    assert_eq!(ledger.user(POOL, "a/b"), Ok(Some(record(1))));
    assert_eq!(ledger.user(POOL, "a"), Ok(Some(record(0))));
    assert_eq!(ledger.user(POOL, "b"), Ok(None));
    assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, 2)]));
    assert_eq!(ledger.totals("eu-west-1_Test2"), Ok(vec![]));
    assert_eq!(event_ids(&ledger), ["a/b-1", "ü-1"]);
    assert_eq!(ledger.outbox_state(), standing);
    assert_eq!((standing.records, standing.oldest), (2, Some(NOW)));
    assert!(ledger.size_bytes() > 0);

    ledger.forget(POOL, vec!["a/b".into(), "never there".into()]).await.unwrap();
    assert_eq!(ledger.user(POOL, "a/b"), Ok(None));
    assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, 2)]));
    ledger.close().await;
}

#[cfg(unix)]
#[tokio::test]
async fn the_state_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_directory, path) = place();
    let ledger = open(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    ledger.close().await;
}

#[tokio::test]
async fn a_large_roster_is_written_and_read_in_parts() {
    let (_directory, path) = place();
    let ledger = open(&path);
    let names: Vec<_> = (0..1300).map(|number| format!("user-{number:04}")).collect();
    let users = names.iter().map(|name| (name.clone(), record(0))).collect();
    ledger.enroll(POOL, users).await.unwrap();
    let stored: Vec<_> = ledger.usernames(POOL).map(Result::unwrap).collect();
    assert_eq!(stored, names);
    ledger.forget(POOL, names[..1000].to_vec()).await.unwrap();
    assert_eq!(ledger.usernames(POOL).count(), 300);
    ledger.close().await;
}

#[tokio::test]
async fn enrolling_a_user_again_keeps_the_cursor_unless_another_person_has_the_name() {
    let (_directory, path) = place();
    let ledger = open(&path);
    enroll(&ledger, "ann").await;
    ledger.commit(page("ann", 5)).await.unwrap();
    let with_sub = |joined| UserRecord { joined, sub: Some("sub".into()), ..record(1) };
    // The page and the older record may be in one batch or in two: the result is the same.
    let (committed, enrolled) =
        tokio::join!(ledger.commit(page("ann", 6)), ledger.enroll(POOL, vec![("ann".into(), with_sub(NOW))]));
    committed.unwrap();
    enrolled.unwrap();
    let stored = ledger.user(POOL, "ann").unwrap().unwrap();
    assert_eq!((stored.cursor, stored.sub.as_deref()), (record(6).cursor, Some("sub")));

    ledger.enroll(POOL, vec![("ann".into(), with_sub(UnixMillis(NOW.0 + 1)))]).await.unwrap();
    assert_eq!(ledger.user(POOL, "ann").unwrap().unwrap().cursor, record(1).cursor);
    ledger.close().await;
}

#[tokio::test]
async fn what_is_carried_to_another_name_is_of_who_has_that_name_since_then() {
    let (_directory, path) = place();
    let ledger = open(&path);
    for (to, is_there) in [("ann", false), ("bob", true)] {
        let alias = format!("{to}@example.com");
        enroll(&ledger, &alias).await;
        ledger.commit(page(&alias, 5)).await.unwrap();
        if is_there {
            enroll(&ledger, to).await;
        }
        let newcomer = UserRecord { joined: UnixMillis(NOW.0 + 1000), sub: Some("sub".into()), ..record(0) };
        ledger.merge_user(POOL, &alias, to, newcomer.clone()).await.unwrap();
        let carried = ledger.user(POOL, to).unwrap().unwrap();
        assert_eq!((carried.joined, carried.sub), (newcomer.joined, newcomer.sub), "{to}");
        assert!(carried.cursor.live_since() <= record(5).cursor.live_since(), "{to}: nothing becomes history by it");
        assert_eq!(carried.cursor.last_seen(), record(5).cursor.last_seen(), "{to}");
        assert_eq!(ledger.user(POOL, &alias), Ok(None));
    }
    ledger.close().await;
}

#[tokio::test]
async fn a_page_of_somebody_who_was_forgotten_or_replaced_meanwhile_is_refused_and_nothing_of_it_counts() {
    let (_directory, path) = place();
    let ledger = open(&path);
    assert_eq!(ledger.commit(page("ann", 1)).await, Err(LedgerError::NotEnrolled), "never among the followed users");
    enroll(&ledger, "ann").await;
    ledger.commit(page("ann", 1)).await.unwrap();

    let another = UserRecord { joined: UnixMillis(NOW.0 + 1), ..record(0) };
    // In one batch or in two, in either order: the former user's page does not overwrite the new record.
    let renamed = ledger.enroll(POOL, vec![("ann".into(), another.clone())]);
    let (renamed, late) = tokio::join!(renamed, ledger.commit(page("ann", 2)));
    renamed.unwrap();
    assert_eq!(late, Err(LedgerError::NotEnrolled));
    assert_eq!(ledger.user(POOL, "ann"), Ok(Some(another.clone())));
    let hers = Commit { record: another, entries: vec![entry("ann", "another-1".into())], ..page("ann", 1) };
    ledger.commit(hers.clone()).await.unwrap();

    let (forgotten, late) = tokio::join!(ledger.forget(POOL, vec!["ann".into()]), ledger.commit(hers));
    forgotten.unwrap();
    assert_eq!(late, Err(LedgerError::NotEnrolled));
    assert_eq!(ledger.user(POOL, "ann"), Ok(None));
    assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, 2)]));
    assert_eq!(event_ids(&ledger), ["ann-1", "another-1"]);
    assert_eq!(ledger.failure(), None);
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_users_at_once_lose_nothing() {
    let (_directory, path) = place();
    let ledger = open(&path);
    let mut turns = tokio::task::JoinSet::new();
    for user in 0..100 {
        let ledger = ledger.clone();
        turns.spawn(async move {
            let username = format!("user-{user}");
            enroll(&ledger, &username).await;
            for number in 1..=5 {
                ledger.commit(page(&username, number)).await.unwrap();
                // A caller that has its answer can read what it wrote.
                assert_eq!(ledger.user(POOL, &username), Ok(Some(record(number))));
                assert!(event_ids(&ledger).contains(&format!("{username}-{number}")));
            }
        });
    }
    turns.join_all().await;
    assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, 500)]));
    assert_eq!(ledger.outbox_state().records, 500);
    let ids = event_ids(&ledger);
    for user in 0..100 {
        let prefix = format!("user-{user}-");
        let of_user: Vec<_> = ids.iter().filter_map(|id| id.strip_prefix(&prefix)).collect();
        assert_eq!(of_user, ["1", "2", "3", "4", "5"]);
    }
    ledger.close().await;
}

#[tokio::test]
async fn a_settlement_removes_and_puts_aside_in_one_write_and_may_be_repeated() {
    let (_directory, path) = place();
    let ledger = open(&path);
    enroll(&ledger, "ann").await;
    for number in 1..=4 {
        ledger.commit(page("ann", number)).await.unwrap();
    }
    let entries = ledger.read(None, 10).unwrap();
    let ids: Vec<OutboxId> = entries.iter().map(|(id, _)| *id).collect();
    let settlement = Settlement {
        delivered: vec![ids[0], ids[2], OutboxId(1_000_000)],
        quarantined: vec![(ids[1], "refused".into())],
    };
    ledger.settle(settlement.clone()).await.unwrap();
    ledger.settle(settlement).await.unwrap();
    assert_eq!(event_ids(&ledger), ["ann-4"]);
    let quarantined = ledger.read_quarantine(None, 10).unwrap();
    assert_eq!(quarantined.len(), 1);
    assert_eq!(quarantined[0].0, ids[1]);
    assert_eq!(quarantined[0].1.entry, entries[1].1);
    let refusal = quarantined[0].1.refusal.clone().unwrap();
    assert_eq!(refusal.reason, "refused");
    assert!(refusal.at >= NOW);
    assert_eq!(ledger.quarantine_state().0, 1);
    let left = ledger.outbox_state();
    assert_eq!((left.records, left.oldest), (1, Some(NOW)));

    ledger.settle(Settlement { delivered: vec![ids[3]], quarantined: vec![] }).await.unwrap();
    assert_eq!(ledger.outbox_state(), Default::default());
    let standing = ledger.quarantine_state();
    ledger.close().await;

    // Numbers continue, although the outbox was empty.
    let ledger = open(&path);
    assert_eq!(ledger.quarantine_state(), standing);
    ledger.commit(page("ann", 5)).await.unwrap();
    assert!(ledger.read(None, 1).unwrap()[0].0 > ids[3]);
    ledger.close().await;
}

#[tokio::test]
async fn the_outbox_is_read_in_steps_of_bounded_size() {
    let (_directory, path) = place();
    let ledger = open(&path);
    let huge = |number: i64| {
        let mut commit = page("ann", number);
        commit.entries[0].event.context =
            Some(EventContext { city: Some("x".repeat(3 << 20)), ..EventContext::default() });
        commit
    };
    enroll(&ledger, "ann").await;
    for number in 1..=4 {
        ledger.commit(huge(number)).await.unwrap();
    }
    let first = ledger.read(None, 100).unwrap();
    assert_eq!(first.len(), 2);
    let rest = ledger.read(Some(first[1].0), 1).unwrap();
    assert_eq!(rest[0].1.as_ref().unwrap().event.id.as_deref(), Some("ann-3"));
    assert_eq!(ledger.read(Some(OutboxId(rest[0].0.0 + 1)), 100), Ok(vec![]));
    ledger.close().await;

    // A value of this size is outside the engine's log, and durable like the others.
    let ledger = open(&path);
    assert_eq!(ledger.read(None, 1).unwrap()[0].1, Ok(huge(1).entries[0].clone()));
    ledger.close().await;
}

#[tokio::test]
async fn a_second_opener_is_told_so_and_a_closed_ledger_says_so() {
    let (_directory, path) = place();
    let ledger = open(&path);
    let refused = Ledger::open(&state(&path), NOW).err().unwrap();
    assert_eq!(refused, LedgerError::Locked(path.clone()));
    assert!(refused.to_string().contains("in use by another process"));
    let other = ledger.clone();
    ledger.close().await;
    assert_eq!(other.commit(page("ann", 1)).await, Err(LedgerError::Closed));
    assert_eq!(other.user(POOL, "ann"), Err(LedgerError::Closed));
    other.close().await;
    open(&path).close().await;
}

/// Overwrites a part of a file. Its position and length are in hundredths.
fn damage(file: &Path, from: usize, to: usize) {
    let mut bytes = fs::read(file).unwrap();
    let len = bytes.len();
    bytes[len * from / 100..len * to / 100].fill(0xa5);
    fs::write(file, bytes).unwrap();
}

async fn filled(path: &Path) {
    let ledger = open(path);
    for number in 1..=60 {
        let username = format!("user-{}", number % 20);
        enroll(&ledger, &username).await;
        ledger.commit(page(&username, number)).await.unwrap();
    }
    ledger.close().await;
}

#[tokio::test]
async fn a_damaged_ledger_is_moved_aside_and_reported_and_a_third_one_waits_for_a_person() {
    let (_directory, path) = place();
    for accident in 0..3 {
        let now = UnixMillis(NOW.0 + accident * 1000);
        filled(&path).await;
        damage(&path.join("ledger/db"), 0, 100);
        match Ledger::open(&state(&path), now) {
            Ok(Opened { ledger, rebuilt }) => {
                assert!(accident < 2);
                let rebuilt = rebuilt.unwrap();
                let name = rebuilt.moved_to.file_name().unwrap().to_str().unwrap();
                assert_eq!(name, format!("ledger.corrupt-20261124T12355{}Z", 6 + accident));
                assert!(rebuilt.moved_to.join("db").exists());
                assert!(rebuilt.last_commit.unwrap() >= NOW);
                assert_eq!(ledger.user(POOL, "user-1"), Ok(None));
                assert_eq!(event_ids(&ledger), [""; 0]);
                ledger.close().await;
            }
            Err(error) => {
                assert_eq!(accident, 2);
                assert!(matches!(error, LedgerError::DamagedAgain { kept: 2, .. }), "{error}");
                assert!(path.join("ledger/db").exists());
            }
        }
    }
}

/// Replaces a damaged ledger with a process that dies after so many steps, as `state_dir.rs` draws them.
async fn die_replacing(path: &Path, steps: usize) {
    let aside = path.join("ledger.corrupt-20261124T120000Z");
    let last_commit = fs::read_to_string(path.join("last-commit")).unwrap();
    let lost_since =
        format!("{}\nledger.corrupt-20261124T120000Z\nthe store: broken\n", last_commit.split_once(' ').unwrap().0);
    if steps >= 1 {
        fs::write(path.join("lost-since"), &lost_since).unwrap();
    }
    if steps >= 2 {
        fs::rename(path.join("ledger"), &aside).unwrap();
    }
    if steps >= 3 {
        fs::remove_file(path.join("last-commit")).unwrap();
    }
    if steps >= 4 {
        // An empty file of the engine.
        fs::create_dir(path.join("ledger")).unwrap();
        fs::write(path.join("ledger/db"), "").unwrap();
    }
    if steps >= 5 {
        Ledger::open(&state(path), NOW).unwrap().ledger.close().await;
        fs::write(path.join("lost-since"), &lost_since).unwrap();
    }
    if steps >= 6 {
        fs::remove_file(path.join("lost-since")).unwrap();
    }
}

#[tokio::test]
async fn whoever_dies_while_a_damaged_ledger_is_replaced_the_next_one_ends_in_the_same_place() {
    for steps in 0..=6 {
        let (_directory, path) = place();
        filled(&path).await;
        damage(&path.join("ledger/db"), 0, 100);
        let noted = fs::read_to_string(path.join("last-commit")).unwrap();
        die_replacing(&path, steps).await;

        let Opened { ledger, rebuilt } = Ledger::open(&state(&path), UnixMillis(NOW.0 + 1000)).unwrap();
        // After the last step the loss was reported already.
        assert_eq!(rebuilt.is_some(), steps < 6, "{steps}");
        let lost_since = ledger.lost_since().unwrap().unwrap();
        assert!(noted.starts_with(&format!("{lost_since} ")), "{steps}: {lost_since} is not of {noted}");
        if let Some(rebuilt) = rebuilt {
            assert_eq!(rebuilt.last_commit, Some(lost_since), "{steps}");
            assert!(rebuilt.moved_to.join("db").exists(), "{steps}");
        }
        assert_eq!(ledger.totals(POOL), Ok(vec![]));
        assert!(!path.join("lost-since").exists());
        ledger.close().await;

        // The loss is known until every pool has it in its record.
        let ledger = open(&path);
        assert_eq!(ledger.lost_since(), Ok(Some(lost_since)));
        let record = pool_record(lost_since, Some(lost_since));
        ledger.follow_pool(POOL, record.clone()).await.unwrap();
        ledger.forget_loss().await.unwrap();
        ledger.close().await;
        let ledger = open(&path);
        assert_eq!(ledger.lost_since(), Ok(None));
        assert_eq!(ledger.pool(POOL), Ok(Some(record)));
        ledger.close().await;
    }
}

#[tokio::test]
async fn a_ledger_that_opens_after_all_has_lost_nothing_whatever_a_process_was_about_to_do() {
    let (_directory, path) = place();
    filled(&path).await;
    fs::write(path.join("lost-since"), "2026-11-24T12:00:00.000Z\nledger.corrupt-never\nit could not be read\n")
        .unwrap();
    let ledger = open(&path);
    assert_eq!(ledger.lost_since(), Ok(None));
    assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, 60)]));
    assert!(!path.join("lost-since").exists());
    ledger.close().await;
}

#[tokio::test]
async fn a_loss_of_which_no_time_is_known_is_told_so() {
    let (_directory, path) = place();
    filled(&path).await;
    damage(&path.join("ledger/db"), 0, 100);
    fs::write(path.join("last-commit"), "not long ago").unwrap();
    let Opened { ledger, rebuilt } = Ledger::open(&state(&path), NOW).unwrap();
    assert_eq!(rebuilt.unwrap().last_commit, None);
    assert_eq!(ledger.lost_since(), Ok(None));
    ledger.close().await;
}

#[tokio::test]
async fn damage_that_cost_anything_never_passes_for_a_recovery() {
    // The engine reads up to the first damage. Most of these stores open, in an older state.
    for (from, to) in [(0, 1), (0, 30), (1, 2), (3, 10), (20, 60), (50, 51), (90, 100)] {
        let (_directory, path) = place();
        filled(&path).await;
        damage(&path.join("ledger/db"), from, to);
        let Opened { ledger, rebuilt } = Ledger::open(&state(&path), NOW).unwrap();
        let total = if rebuilt.is_some() { vec![] } else { vec![(Series::History, 60)] };
        assert_eq!(ledger.totals(POOL), Ok(total), "{from}..{to}");
        assert!(rebuilt.is_some() || from >= 50, "{from}..{to}");
        ledger.close().await;
    }
}

/// Copies a state directory, as a kill at this moment would leave it.
fn killed(path: &Path, copy: &Path) {
    fs::create_dir_all(copy).unwrap();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let place = copy.join(path.file_name().unwrap());
        if path.is_dir() {
            killed(&path, &place);
        } else {
            // Meanwhile the engine may rename and remove its files.
            let copied = fs::copy(&path, &place);
            assert!(copied.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::NotFound), "{copied:?}");
        }
    }
}

#[tokio::test]
async fn damage_never_passes_for_a_recovery_in_a_ledgers_first_seconds_either() {
    let (directory, path) = place();
    let ledger = open(&path);
    // Killed before the first commit, and after every commit.
    killed(&path, &directory.path().join("0"));
    for number in 1..=8 {
        let username = format!("user-{number}");
        enroll(&ledger, &username).await;
        ledger.commit(page(&username, number)).await.unwrap();
        killed(&path, &directory.path().join(number.to_string()));
    }
    ledger.close().await;
    for number in 0..=8_u64 {
        for part in 0..10 {
            let (from, path) = (directory.path().join(number.to_string()), directory.path().join("damaged"));
            killed(&from, &path);
            let db = path.join("ledger/db");
            let bytes = fs::read(&db).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            fs::write(&db, &bytes[..used * part / 10]).unwrap();
            let Opened { ledger, rebuilt } = Ledger::open(&state(&path), NOW).unwrap();
            let counted = if rebuilt.is_some() { 0 } else { number };
            let total: u64 = ledger.totals(POOL).unwrap().iter().map(|(_, total)| total).sum();
            assert_eq!(total, counted, "{number} commits, cut at {part}/10");
            // The time of the loss is known, also for a ledger without commits.
            assert!(rebuilt.is_none_or(|rebuilt| rebuilt.last_commit.is_some()), "{number}, {part}");
            ledger.close().await;
            fs::remove_dir_all(&path).unwrap();
        }
    }
}

#[tokio::test]
async fn a_store_whose_file_is_gone_is_damaged() {
    let (_directory, path) = place();
    filled(&path).await;
    fs::remove_file(path.join("ledger/db")).unwrap();
    let Opened { ledger, rebuilt } = Ledger::open(&state(&path), NOW).unwrap();
    let rebuilt = rebuilt.unwrap();
    assert!(rebuilt.moved_to.join("conf").exists() && rebuilt.last_commit >= Some(NOW), "{rebuilt:?}");
    assert_eq!(ledger.lost_since(), Ok(rebuilt.last_commit));
    ledger.close().await;
}

#[tokio::test]
async fn a_ledger_that_was_put_in_or_made_private_does_not_pass_for_a_new_one() {
    let (_directory, path) = place();
    filled(&path).await;
    let ledger = open(&path);
    let mut import = Vec::new();
    ledger
        .each_record(|name, value, _| {
            import.push((name.unwrap(), value.to_vec()));
            true
        })
        .unwrap();
    ledger.close().await;
    let noted = || fs::read_to_string(path.join("last-commit")).unwrap();
    let (time, group) =
        noted().trim().split_once(' ').map(|(time, group)| (time.to_owned(), group.to_owned())).unwrap();
    let mut importing = Ledger::import(&state(&path)).unwrap();
    for (name, value) in import {
        importing.add(&name, value).unwrap();
    }
    importing.finish().unwrap();
    assert_eq!(noted(), format!("unknown {group}\n"));
    // A note with an unknown time is a note.
    fs::write(path.join("ledger/db"), "").unwrap();
    let Opened { ledger, rebuilt } = Ledger::open(&state(&path), NOW).unwrap();
    assert_eq!(rebuilt.unwrap().last_commit, None);
    ledger.close().await;

    fs::remove_dir_all(path.join("ledger")).unwrap();
    fs::rename(path.join("ledger.replaced-1"), path.join("ledger")).unwrap();
    fs::write(path.join("last-commit"), format!("{time} {group}\n")).unwrap();
    let modes = Modes { ip_address: Mode::Drop, ..Modes::default() };
    let privacy = Privacy::new(modes, None, None).unwrap();
    Ledger::open_private(&state(&path), &privacy, NOW).unwrap().ledger.close().await;
    assert_eq!(noted(), format!("{time} {group}\n"));
}

#[tokio::test]
async fn a_torn_snapshot_costs_nothing() {
    let (_directory, path) = place();
    filled(&path).await;
    // Opening the store writes a snapshot.
    open(&path).close().await;
    let snapshots: Vec<_> = fs::read_dir(path.join("ledger"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with("snap."))
        .collect();
    assert!(!snapshots.is_empty());
    for snapshot in snapshots {
        let bytes = fs::read(&snapshot).unwrap();
        fs::write(&snapshot, &bytes[..bytes.len() / 2]).unwrap();
    }
    let ledger = open(&path);
    assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, 60)]));
    assert_eq!(ledger.outbox_state().records, 60);
    ledger.close().await;
}

#[tokio::test]
async fn a_store_without_a_directory_is_begun_without_ado() {
    let (_directory, path) = place();
    filled(&path).await;
    fs::remove_dir_all(path.join("ledger")).unwrap();
    let ledger = open(&path);
    assert_eq!(ledger.totals(POOL), Ok(vec![]));
    ledger.close().await;
}

#[tokio::test]
async fn trouble_is_not_taken_for_damage() {
    let (_directory, path) = place();
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("ledger"), "a file in the way").unwrap();
    let refused = Ledger::open(&state(&path), NOW).err().unwrap();
    assert!(matches!(refused, LedgerError::Storage(_)), "{refused}");
    assert_eq!(fs::read(path.join("ledger")).unwrap(), b"a file in the way");
}

const CHILD: &str = "LEDGER_TEST_CHILD";
const CHILDS_USERS: usize = 4;

/// Not a test by itself: `everything_acknowledged_survives_a_kill` runs it in another process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_until_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let ledger = open(Path::new(&path));
    let mut turns = tokio::task::JoinSet::new();
    for user in 0..CHILDS_USERS {
        let ledger = ledger.clone();
        turns.spawn(async move {
            let username = format!("user-{user}");
            enroll(&ledger, &username).await;
            let mut number = committed(&ledger, &username);
            loop {
                number += 1;
                ledger.commit(page(&username, number)).await.unwrap();
                writeln!(std::io::stdout(), "acknowledged {username} {number}").unwrap();
            }
        });
    }
    turns.join_all().await;
}

/// Pages that [`commits_a_few`] commits, one after the other.
const A_FEW: i64 = 40;

/// Not a test by itself: `every_commit_is_synced_before_it_is_acknowledged` runs it under strace.
#[tokio::test]
async fn commits_a_few() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let ledger = open(Path::new(&path));
    enroll(&ledger, "ann").await;
    for number in 1..=A_FEW {
        ledger.commit(page("ann", number)).await.unwrap();
        writeln!(std::io::stdout(), "acknowledged {number}.").unwrap();
    }
    ledger.close().await;
}

/// A system call, with the lines of strace's output between which it ran.
struct SystemCall {
    name: String,
    arguments: String,
    began: usize,
    ended: usize,
}

impl SystemCall {
    /// Reads the output of `strace -f`: calls of several threads, some in two parts. Leaves out failed calls.
    fn all(trace: &str) -> Vec<Self> {
        let mut under_way: BTreeMap<&str, Self> = BTreeMap::new();
        let mut calls = Vec::new();
        for (at, line) in trace.lines().enumerate() {
            let (thread, told) = line.split_once(char::is_whitespace).unwrap();
            let (told, has_ended) = (told.trim_start(), !told.ends_with("<unfinished ...>"));
            let call = if told.starts_with("<... ") {
                under_way.remove(thread)
            } else {
                told.split_once('(').map(|(name, arguments)| Self {
                    name: name.to_owned(),
                    arguments: arguments.to_owned(),
                    began: at,
                    ended: at,
                })
            };
            let Some(mut call) = call else { continue };
            call.ended = at;
            if !has_ended {
                under_way.insert(thread, call);
            } else if !told.rsplit_once(" = ").is_some_and(|(_, result)| result.starts_with('-')) {
                calls.push(call);
            }
        }
        calls
    }

    fn is_of(&self, names: &[&str], file: &str) -> bool {
        let descriptor = self.arguments.split('>').next().unwrap_or_default();
        names.contains(&self.name.as_str()) && descriptor.ends_with(file)
    }
}

#[test]
fn every_commit_is_synced_before_it_is_acknowledged() {
    if !disk::has_strace() {
        return;
    }
    let (directory, path) = place();
    let trace = directory.path().join("trace");
    let traced = Command::new("strace")
        .args(["-f", "-qq", "-y", "-s", "1000000", "-e", "trace=pwrite64,write,fsync,fdatasync", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["ledger::commits_a_few", "--exact", "--nocapture"])
        .env(CHILD, &path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(traced.unwrap().success());
    let calls = SystemCall::all(&fs::read_to_string(&trace).unwrap());
    let of = |names: &'static [&str], file: &'static str| calls.iter().filter(move |call| call.is_of(names, file));
    for number in 1..=A_FEW {
        let acknowledged = calls
            .iter()
            .find(|call| call.name == "write" && call.arguments.contains(&format!("acknowledged {number}.")));
        let acknowledged = acknowledged.unwrap();
        // The event's id in the outbox's entry, without a digit after it.
        let id = format!("ann-{number}");
        let holds = |call: &&SystemCall| {
            call.arguments.split(&id).skip(1).any(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
        };
        let written = of(&["pwrite64"], "/ledger/db").find(holds).unwrap();
        let synced = of(&["fsync", "fdatasync"], "/ledger/db")
            .any(|sync| written.ended < sync.began && sync.ended < acknowledged.began);
        assert!(synced, "page {number}: written before line {}, told at {}", written.ended, acknowledged.began);
    }
    let synced = of(&["fsync", "fdatasync"], "/ledger/db").count();
    println!("{synced} fsyncs of the log for {A_FEW} commits, one after the other");
}

/// The number of a user's last page.
fn committed(ledger: &Ledger, username: &str) -> i64 {
    let Some(stored) = ledger.user(POOL, username).unwrap() else {
        return 0;
    };
    (0..100_000).find(|number| stored == record(*number)).unwrap()
}

#[tokio::test]
async fn everything_acknowledged_survives_a_kill() {
    let (_directory, path) = place();
    for round in 1..=4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["ledger::commits_until_killed", "--exact", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = BTreeMap::new();
        let mut note = |line: String| {
            if let Some(("", told)) = line.split_once("acknowledged ")
                && let Some((username, number)) = told.split_once(' ')
            {
                let number = number.parse::<i64>().unwrap();
                acknowledged.insert(username.to_owned(), number);
                return 1;
            }
            0
        };
        let mut seen = 0;
        while seen < 20 * round {
            seen += note(lines.next().unwrap().unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lines.map_while(Result::ok).for_each(|line| {
            note(line);
        });

        let ledger = open(&path);
        let mut expected = BTreeSet::new();
        for user in 0..CHILDS_USERS {
            let username = format!("user-{user}");
            let number = committed(&ledger, &username);
            assert!(number >= acknowledged.get(&username).copied().unwrap_or(0));
            expected.extend((1..=number).map(|number| format!("{username}-{number}")));
        }
        // Cursors, totals and outbox agree, also for commits that were not acknowledged.
        let ids = event_ids(&ledger);
        assert_eq!(ids.len(), expected.len());
        assert_eq!(BTreeSet::from_iter(ids), expected);
        let count = u64::try_from(expected.len()).unwrap();
        assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, count)]));
        assert_eq!(ledger.outbox_state().records, count);
        ledger.close().await;
    }
}

#[tokio::test]
async fn the_read_position_of_an_export_is_kept_until_its_pool_is_forgotten() {
    let (_directory, path) = place();
    let ledger = open(&path);
    assert_eq!(ledger.read_position(POOL).unwrap(), None);
    let position = |group: &str, millis| ReadPosition { log_group: LogGroup::new(group), position: UnixMillis(millis) };
    ledger.move_read_position(POOL, position("/aws/vendedlogs/old", 5)).await.unwrap();
    let other = position("other", -7);
    ledger.move_read_position("eu-west-1_Other", other.clone()).await.unwrap();
    ledger.move_read_position(POOL, position("/aws/vendedlogs/cognito", NOW.0)).await.unwrap();
    ledger.close().await;

    let ledger = open(&path);
    assert_eq!(ledger.read_position(POOL).unwrap(), Some(position("/aws/vendedlogs/cognito", NOW.0)));
    let mut records = vec![];
    let see = |name: Option<RecordName>, _: &[u8], wrong: Option<LedgerError>| {
        assert_eq!(wrong, None);
        records.extend(name.filter(|name| name.kind() == "read_position"));
        true
    };
    ledger.each_record(see).unwrap();
    let named = |pool: &str| RecordName::ReadPosition { user_pool_id: pool.into() };
    assert_eq!(records, [named("eu-west-1_Other"), named(POOL)]);
    ledger.forget_pool(POOL).await.unwrap();
    assert_eq!(ledger.read_position(POOL).unwrap(), None);
    assert_eq!(ledger.read_position("eu-west-1_Other").unwrap(), Some(other));
    ledger.close().await;
}
