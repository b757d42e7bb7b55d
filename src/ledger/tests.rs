//! The ledger with writes that fail, damaged records, and records of older and newer builds.

use std::collections::{BTreeMap, BTreeSet};

use cognito_auth_core::counters::Series;
use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::entry::{Entry, OutboxId, PoolIdentity};
use cognito_auth_core::masking::{Mode, Modes};
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::envelope::{Count, Gone, Instance, LostSince, Share, StoreFormat, StoredPool, StoredRecord, StoredScrapes};
use super::stored_entry::tests::{AT, REASON, known_entry, refusal_of_version_1};
use super::stored_entry::{StoredEntry, StoredRefusal};
use super::stored_user::StoredUser;
use super::writer_state::WriteBatch;
use super::*;
use crate::delivery::{Outbox as _, OutboxEntry, Settlement, Unreadable};
use crate::metrics::Metrics;

const NOW: UnixMillis = UnixMillis(1_795_523_756_000);
const POOL: &str = "eu-west-1_Test";

fn state(directory: &TempDir) -> StateConfig {
    StateConfig {
        path: directory.path().to_owned(),
        cache_bytes: 16 << 20,
        outbox_limit_bytes: 1 << 30,
        quarantine_limit_bytes: 100 << 20,
    }
}

fn open(directory: &TempDir) -> Ledger {
    let opened = Ledger::open(&state(directory), NOW).unwrap();
    assert_eq!(opened.rebuilt, None);
    opened.ledger
}

/// Opens a ledger and enrolls ann in it.
async fn with_ann(directory: &TempDir) -> Ledger {
    let ledger = open(directory);
    ledger.enroll(POOL, vec![("ann".into(), page(0).record)]).await.unwrap();
    ledger
}

/// Makes the next write fail, before or after it is done.
fn fail_next_write(directory: &TempDir, when: &str) {
    std::fs::write(directory.path().join("ledger/fail-next-write"), when).unwrap();
}

fn until_it_is_open_again(ledger: &Ledger) {
    // The writer opens the store again, a second later.
    while ledger.failure().is_some() {
        thread::park_timeout(std::time::Duration::from_millis(10));
    }
}

fn page(number: i64) -> Commit {
    Commit {
        pool: Arc::new(PoolIdentity {
            id: POOL.into(),
            name: POOL.into(),
            region: "eu-west-1".into(),
            account_id: None,
        }),
        username: "ann".into(),
        record: UserRecord { joined: NOW, sub: None, cursor: Cursor::new(UnixMillis(number), NOW), activity: None },
        totals: vec![(Series::History, 1)],
        entries: vec![],
        told: vec![],
    }
}

/// Writes to the store of a closed ledger.
fn tamper(directory: &TempDir, key: &[u8], value: Vec<u8>) {
    let state_dir = StateDir::enter(&state(directory)).unwrap();
    let (mut engine, _) = state_dir.reopen(0).unwrap();
    engine.write(vec![(key.to_vec(), Some(value))]).unwrap();
}

/// The engine behind a ledger that was closed. Its threads release the store some time after that.
fn engine_of(directory: &TempDir) -> Engine {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match Engine::open(&directory.path().join("ledger"), 1 << 20) {
            Err(LedgerError::Locked(_)) if std::time::Instant::now() < deadline => {
                thread::sleep(std::time::Duration::from_millis(10));
            }
            opened => return opened.unwrap(),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it takes the place of what it is given")]
fn newer(record: Vec<u8>) -> Vec<u8> {
    envelope::in_version(record[0] + 1, &record)
}

#[tokio::test]
async fn a_failed_write_is_told_and_cured_and_the_writers_state_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    ledger.commit(page(1)).await.unwrap();
    fail_next_write(&directory, "before it");
    let failed = ledger.commit(page(2)).await.unwrap_err();
    assert!(matches!(failed, LedgerError::Storage(_)), "{failed}");
    assert!(ledger.failure().is_some());
    assert!(matches!(ledger.user(POOL, "ann"), Err(LedgerError::Storage(_))));
    assert!(matches!(ledger.commit(page(2)).await, Err(LedgerError::Storage(_))));

    until_it_is_open_again(&ledger);
    assert_eq!(ledger.user(POOL, "ann").unwrap(), Some(page(1).record));
    assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, 1)]));
    ledger.commit(page(2)).await.unwrap();
    assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, 2)]));
    ledger.close().await;
}

#[tokio::test]
async fn a_disk_that_does_not_answer_is_a_failure_until_it_does() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    let before = std::time::Instant::now().checked_sub(writer::WRITE_MAX).unwrap();
    ledger.0.shared.set_writing(Some(before));
    let refused = ledger.commit(page(1)).await.unwrap_err();
    assert_eq!(refused.to_string(), "cannot use the ledger: a write has not ended for 30 s");
    assert_eq!(ledger.failure(), Some(refused.to_string()));
    assert_eq!(ledger.user(POOL, "ann"), Ok(Some(page(0).record)), "stored records can be read");
    ledger.0.shared.set_writing(None);
    ledger.commit(page(1)).await.unwrap();
    assert_eq!(ledger.failure(), None);
    ledger.close().await;
}

#[tokio::test]
async fn a_ledger_that_has_failed_can_be_closed_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    fail_next_write(&directory, "before it");
    ledger.commit(page(1)).await.unwrap_err();
    ledger.close().await;
    open(&directory).close().await;
}

#[tokio::test]
async fn totals_shown_are_the_ledgers_also_after_a_failed_write_that_was_done() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    ledger.commit(page(1)).await.unwrap();
    let metrics = Metrics::new(NOW);
    metrics.add_pool(&page(0).pool);
    let shown = metrics.clone();
    ledger.show_totals(move |pool_id, totals| shown.totals(pool_id, totals)).await.unwrap();
    let shows = |count: u64| {
        let series = format!("cognito_auth_history_events_total{{user_pool_id=\"{POOL}\"}} {count}\n");
        assert!(metrics.render().contains(&series), "{series}{}", metrics.render());
    };
    shows(1);
    ledger.commit(page(2)).await.unwrap();
    shows(2);
    // The totals of a write with an unknown result are shown once the result is known.
    for (when, held) in [("after it", 3), ("before it", 3), ("after it", 4)] {
        fail_next_write(&directory, when);
        ledger.commit(page(3)).await.unwrap_err();
        until_it_is_open_again(&ledger);
        assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, held)]), "{when}");
        shows(held);
    }
    // The totals of a commit count even if its caller does not wait for the reply. (On a busy machine it has the
    // reply.)
    tokio::select! {
        biased;
        answered = ledger.commit(page(4)) => answered.unwrap(),
        () = std::future::ready(()) => {}
    }
    ledger.commit(page(5)).await.unwrap();
    shows(6);
    ledger.close().await;
}

#[tokio::test]
async fn what_a_newer_build_has_written_is_refused_and_left_as_it_is() {
    let format = StoreFormat { number: StoreFormat::NUMBER + 1 };
    let total = keys::total(POOL, &Series::History.to_key());
    let newer_entry = StoredRefusal { value: newer(Count { value: 1 }.seal()), ..StoredRefusal::default() };
    let newer_things = [
        (keys::quarantine(1), newer_entry.seal()),
        (keys::FORMAT.to_vec(), format.seal()),
        (total, newer(Count { value: 1 }.seal())),
        (keys::outbox(1), envelope::in_version(3, &Count { value: 1 }.seal())),
    ];
    for (key, value) in newer_things {
        let directory = tempfile::tempdir().unwrap();
        open(&directory).close().await;
        tamper(&directory, &key, value.clone());
        for _ in 0..2 {
            let refused = Ledger::open(&state(&directory), NOW).err().unwrap();
            let is_newer = matches!(refused, LedgerError::NewerVersion { found, known, .. } if found == known + 1);
            assert!(is_newer, "{refused}");
        }
        let store = engine_of(&directory);
        assert_eq!(store.reader().get(&key), Ok(Some(value)));
    }
}

#[tokio::test]
async fn a_user_of_a_newer_build_or_a_damaged_one_concerns_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    ledger.commit(page(1)).await.unwrap();
    ledger.close().await;
    let sealed = StoredUser::from(&page(1).record).seal();
    tamper(&directory, &keys::user(POOL, "ben"), newer(sealed.clone()));
    tamper(&directory, &keys::user(POOL, "cy"), sealed[..9].to_vec());
    let ledger = open(&directory);
    assert_eq!(ledger.user(POOL, "ann"), Ok(Some(page(1).record)));
    assert!(matches!(ledger.user(POOL, "ben"), Err(LedgerError::NewerVersion { what: "a user", .. })));
    let damaged = ledger.user(POOL, "cy").unwrap_err();
    assert!(matches!(damaged, LedgerError::Corrupt { what: "a user", .. }));
    assert!(!damaged.to_string().contains("cy"), "{damaged}");
    ledger.close().await;
}

/// Values that make an entry unreadable, one for each kind of damage.
fn damaged_values() -> Vec<Vec<u8>> {
    let sealed = StoredEntry::from(known_entry()).seal();
    let no_protobuf = [0xff; 9];
    let sealed_no_protobuf = [&[1], &crc32fast::hash(&no_protobuf).to_le_bytes()[..], &no_protobuf].concat();
    let mut of_version_0 = sealed.clone();
    of_version_0[0] = 0;
    vec![vec![], sealed[..sealed.len() - 1].to_vec(), vec![0xa5; 300], sealed_no_protobuf, of_version_0]
}

#[tokio::test]
async fn damaged_entries_condemn_nothing_and_can_be_put_aside_as_they_are_and_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    ledger.close().await;
    // There is a sound entry before each damaged one, and one after the last, as an older build has stored them.
    let damaged = damaged_values();
    let sound = StoredEntry::from(known_entry()).seal();
    for number in 0..=damaged.len() as u64 {
        tamper(&directory, &keys::outbox(2 * number), sound.clone());
    }
    for (number, value) in (0..).zip(&damaged) {
        tamper(&directory, &keys::outbox(2 * number + 1), value.clone());
    }

    let ledger = open(&directory);
    let waiting = ledger.read(None, 100).unwrap();
    let (sound, unreadable): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(id, _)| id.0 % 2 == 0);
    assert!(sound.iter().all(|(_, entry)| *entry == Ok(known_entry())));
    let aside = |(id, entry): &OutboxEntry| (*id, entry.clone().unwrap_err().to_string());
    let quarantined: Vec<_> = unreadable.iter().map(aside).collect();
    assert_eq!((sound.len(), quarantined.len()), (damaged.len() + 1, damaged.len()));
    // From here on the first entry is damaged, and the state of the outbox is still published.
    ledger.settle(Settlement { delivered: vec![sound[0].0], quarantined: vec![] }).await.unwrap();
    assert_eq!(ledger.outbox_state().oldest, Some(known_entry().observed));
    let delivered = sound.iter().map(|(id, _)| *id).collect();
    ledger.settle(Settlement { delivered, quarantined: vec![] }).await.unwrap();
    assert_eq!((ledger.outbox_state().records, ledger.outbox_state().oldest), (damaged.len() as u64, None));
    ledger.settle(Settlement { delivered: vec![], quarantined: quarantined.clone() }).await.unwrap();
    assert_eq!(ledger.outbox_state(), OutboxState::default());
    let sizes = ledger.quarantine_state();
    ledger.close().await;

    let ledger = open(&directory);
    assert_eq!((ledger.outbox_state(), ledger.quarantine_state()), (OutboxState::default(), sizes));
    let listed = ledger.read_quarantine(None, 100).unwrap();
    assert_eq!(listed.len(), damaged.len());
    for ((id, found), (asked, reason)) in listed.iter().zip(&quarantined) {
        assert_eq!((id, &found.refusal.as_ref().unwrap().reason), (asked, reason));
        assert_eq!(&found.entry.as_ref().unwrap_err().to_string(), reason);
        let stored = ledger.reading(|reader| reader.get(&keys::quarantine(id.0))).unwrap().unwrap();
        assert_eq!(StoredRefusal::open(&stored).unwrap().value, damaged[usize::try_from(id.0 / 2).unwrap()]);
        assert!(matches!(ledger.retry(&[*id]).await, Err(LedgerError::Corrupt { .. })), "it would come back");
    }
    assert_eq!((ledger.outbox_state(), ledger.quarantine_state()), (OutboxState::default(), sizes));
    let ids: Vec<_> = listed.iter().map(|(id, _)| *id).collect();
    ledger.drop_quarantined(&ids).await.unwrap();
    assert_eq!(ledger.quarantine_state(), (0, 0));
    ledger.close().await;
}

/// Numbers of the outbox with the revisions of their entries, where they can be read.
type NumberedRevisions = Vec<(u64, Option<u32>)>;

/// What waits in the outbox, and the sizes of the outbox and the quarantine.
fn waiting(ledger: &Ledger) -> (NumberedRevisions, OutboxState, (u64, u64)) {
    let read = ledger.read(None, 10_000).unwrap();
    let revision = |(id, entry): OutboxEntry| (id.0, entry.ok().map(|entry| entry.revision));
    (read.into_iter().map(revision).collect(), ledger.outbox_state(), ledger.quarantine_state())
}

/// A page of entries with these revisions.
fn page_of(revisions: std::ops::Range<u32>) -> Commit {
    let entry = |revision| Entry { revision, observed: UnixMillis(revision.into()), ..known_entry() };
    Commit { entries: revisions.map(entry).collect(), ..page(1) }
}

fn delivered(numbers: impl IntoIterator<Item = u64>) -> Settlement {
    Settlement { delivered: numbers.into_iter().map(OutboxId).collect(), quarantined: vec![] }
}

#[tokio::test]
async fn the_outbox_of_an_older_build_is_delivered_before_the_segments_of_this_one() {
    let directory = tempfile::tempdir().unwrap();
    with_ann(&directory).await.close().await;
    for revision in 0..4 {
        let entry = StoredEntry::from(Entry { revision, ..known_entry() }).seal();
        tamper(&directory, &keys::outbox(revision.into()), entry);
    }
    tamper(&directory, keys::SEQUENCE, Count { value: 4 }.seal());
    let ledger = open(&directory);
    ledger.commit(page_of(4..10)).await.unwrap();
    let all: Vec<_> = (0..10).map(|number| (u64::from(number), Some(number))).collect();
    assert_eq!(waiting(&ledger).0, all);
    // A batch ends inside the segment.
    ledger.settle(delivered(0..6)).await.unwrap();
    assert_eq!(waiting(&ledger).0, all[6..]);
    let revisions = |entries: Vec<OutboxEntry>| entries.into_iter().map(|(_, entry)| entry.unwrap().revision);
    assert!(revisions(ledger.read(Some(OutboxId(7)), 1).unwrap()).eq([8]));
    let keys = ledger.reading(|reader| reader.keys(keys::outbox_all(), 9)).unwrap();
    assert_eq!(keys, [keys::outbox(4)]);
    ledger.settle(delivered(0..10)).await.unwrap();
    assert_eq!(ledger.outbox_state(), OutboxState::default());
    ledger.close().await;
}

#[tokio::test]
async fn entries_of_a_segment_keep_their_own_fates() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    ledger.commit(page_of(0..9)).await.unwrap();
    assert_eq!(ledger.reading(|reader| reader.keys(keys::outbox_all(), 9)), Ok(vec![keys::outbox(0)]));
    let refused = |number| Settlement { delivered: vec![], quarantined: vec![(OutboxId(number), "bad".to_owned())] };
    // They may wait together, too, and two of them name one entry.
    let settled = tokio::join!(
        ledger.settle(delivered([8, 1, 4])),
        ledger.settle(refused(3)),
        ledger.settle(delivered([4, 5, 77])),
    );
    settled.0.and(settled.1).and(settled.2).unwrap();
    let before = waiting(&ledger);
    assert_eq!(before.0, [0, 2, 6, 7].map(|number| (number, Some(u32::try_from(number).unwrap()))));
    assert_eq!(before.1.oldest, Some(UnixMillis(0)));
    let (id, quarantined) = ledger.read_quarantine(None, 9).unwrap().remove(0);
    assert_eq!((id, quarantined.entry.unwrap().revision), (OutboxId(3), 3));
    ledger.close().await;
    let ledger = open(&directory);
    assert_eq!(waiting(&ledger), before, "the writer's state is what is stored");
    ledger.settle(delivered([0])).await.unwrap();
    assert_eq!(ledger.outbox_state().oldest, Some(UnixMillis(2)));
    ledger.close().await;
}

#[test]
fn what_commits_that_wait_together_bring_is_one_segment() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path(), 1 << 20).unwrap();
    let (mut engine, mut writer_state) = WriterState::of(engine, None, None).unwrap();
    let mut batch = WriteBatch::default();
    for _ in 0..3 {
        batch.entries.push(StoredEntry::from(known_entry()).seal());
    }
    writer_state.complete(&mut batch);
    let outbox = batch.changes.iter().filter(|(key, _)| keys::outbox_all().contains(key)).count();
    assert_eq!((outbox, batch.changes.len()), (1, 3), "beside it the next number, and the number of the batch");
    engine.write(batch.changes).unwrap();
    assert_eq!(writer_state.publish(engine.reader()).unwrap().outbox.records, 3);
}

#[tokio::test]
async fn a_segment_with_a_damaged_table_is_put_aside_whole_and_one_with_a_damaged_entry_loses_that_entry() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    ledger.commit(page_of(0..3)).await.unwrap();
    ledger.commit(page_of(3..6)).await.unwrap();
    let stored = |first| ledger.reading(|reader| reader.get(&keys::outbox(first))).unwrap().unwrap();
    let (mut table_damaged, mut entry_damaged) = (stored(0), stored(3));
    ledger.close().await;
    table_damaged[11] ^= 1;
    *entry_damaged.last_mut().unwrap() ^= 1;
    tamper(&directory, &keys::outbox(0), table_damaged.clone());
    tamper(&directory, &keys::outbox(3), entry_damaged);

    let ledger = open(&directory);
    assert_eq!(waiting(&ledger).0, [(0, None), (3, Some(3)), (4, Some(4)), (5, None)]);
    let quarantined = [0, 5].map(|number| (OutboxId(number), "damaged".to_owned())).to_vec();
    ledger.settle(Settlement { delivered: vec![OutboxId(3)], quarantined }).await.unwrap();
    assert_eq!(waiting(&ledger).0, [(4, Some(4))]);
    assert_eq!(ledger.quarantine_state().0, 2);
    let aside = ledger.reading(|reader| reader.get(&keys::quarantine(0))).unwrap().unwrap();
    assert_eq!(StoredRefusal::open(&aside).unwrap().value, table_damaged, "nothing of it is lost");
    assert!(ledger.retry(&[OutboxId(0)]).await.is_err());
    ledger.close().await;
    let ledger = open(&directory);
    ledger.drop_quarantined(&[OutboxId(0), OutboxId(5)]).await.unwrap();
    assert_eq!(ledger.quarantine_state(), (0, 0));
    ledger.close().await;
}

#[tokio::test]
async fn a_segment_that_is_damaged_after_its_first_entry_was_put_aside_does_not_take_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    ledger.commit(page_of(0..3)).await.unwrap();
    let refused = |number| Settlement { delivered: vec![], quarantined: vec![(OutboxId(number), "bad".to_owned())] };
    ledger.settle(refused(0)).await.unwrap();
    let mut damaged = ledger.reading(|reader| reader.get(&keys::outbox(0))).unwrap().unwrap();
    ledger.close().await;
    damaged[11] ^= 1;
    tamper(&directory, &keys::outbox(0), damaged.clone());

    let ledger = open(&directory);
    assert_eq!(waiting(&ledger).0, [(0, None)]);
    ledger.settle(refused(0)).await.unwrap();
    ledger.commit(page_of(3..4)).await.unwrap();
    let quarantine = ledger.read_quarantine(None, 9).unwrap();
    let entries: Vec<_> =
        quarantine.iter().map(|(id, it)| (id.0, it.entry.as_ref().ok().map(|it| it.revision))).collect();
    assert_eq!(entries, [(0, Some(0)), (3, None)]);
    assert_eq!(ledger.quarantine_state().0, 2);
    let aside = ledger.reading(|reader| reader.get(&keys::quarantine(3))).unwrap().unwrap();
    assert_eq!(StoredRefusal::open(&aside).unwrap().value, damaged);
    assert_eq!(waiting(&ledger).0, [(4, Some(3))]);
    let before = (waiting(&ledger), quarantine);
    ledger.close().await;
    let ledger = open(&directory);
    assert_eq!((waiting(&ledger), ledger.read_quarantine(None, 9).unwrap()), before);
    ledger.close().await;
}

/// A step of the model of the outbox. Indices choose among the entries that are there.
#[derive(Clone, Debug)]
enum OutboxStep {
    Commit(u32),
    Settle { delivered: Vec<prop::sample::Index>, quarantined: Vec<prop::sample::Index> },
    Retry(prop::sample::Index),
    Reopen,
}

impl OutboxStep {
    fn any() -> impl Strategy<Value = Self> {
        let some = || vec(any::<prop::sample::Index>(), 0..40);
        prop_oneof![
            4 => (0..90_u32).prop_map(Self::Commit),
            4 => (some(), vec(any::<prop::sample::Index>(), 0..3))
                .prop_map(|(delivered, quarantined)| Self::Settle { delivered, quarantined }),
            1 => any::<prop::sample::Index>().prop_map(Self::Retry),
            1 => Just(Self::Reopen),
        ]
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_outbox_is_a_map_of_entries_whatever_is_done_to_it(steps in vec(OutboxStep::any(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let mut ledger = with_ann(&directory).await;
            let (mut outbox, mut quarantine) = (BTreeMap::new(), BTreeMap::new());
            let (mut next, mut made) = (0_u64, 0_u32);
            for step in steps {
                match step {
                    OutboxStep::Commit(entries) => {
                        ledger.commit(page_of(made..made + entries)).await.unwrap();
                        outbox.extend((next..).zip(made..made + entries));
                        (next, made) = (next + u64::from(entries), made + entries);
                    }
                    OutboxStep::Settle { delivered, quarantined } => {
                        let numbers: Vec<u64> = outbox.keys().copied().collect();
                        if numbers.is_empty() {
                            continue;
                        }
                        let delivered: BTreeSet<_> = delivered.iter().map(|index| *index.get(&numbers)).collect();
                        let quarantined: BTreeSet<_> = quarantined.iter().map(|index| *index.get(&numbers)).collect();
                        let refused: Vec<_> = quarantined.difference(&delivered).copied().collect();
                        let settlement = Settlement {
                            delivered: delivered.iter().copied().map(OutboxId).collect(),
                            quarantined: refused.iter().map(|number| (OutboxId(*number), "bad".to_owned())).collect(),
                        };
                        ledger.settle(settlement).await.unwrap();
                        outbox.retain(|number, _| !delivered.contains(number));
                        quarantine.extend(refused.iter().map(|number| (*number, outbox.remove(number).unwrap())));
                    }
                    OutboxStep::Retry(index) => {
                        let numbers: Vec<u64> = quarantine.keys().copied().collect();
                        if numbers.is_empty() {
                            continue;
                        }
                        let number = *index.get(&numbers);
                        ledger.retry(&[OutboxId(number)]).await.unwrap();
                        outbox.insert(next, quarantine.remove(&number).unwrap());
                        next += 1;
                    }
                    OutboxStep::Reopen => {
                        let before = waiting(&ledger);
                        ledger.close().await;
                        ledger = open(&directory);
                        assert_eq!(waiting(&ledger), before);
                    }
                }
                let (read, state, (quarantined, _)) = waiting(&ledger);
                assert_eq!(read, outbox.iter().map(|(number, revision)| (*number, Some(*revision))).collect::<Vec<_>>());
                assert_eq!((state.records, quarantined), (outbox.len() as u64, quarantine.len() as u64));
                let first = outbox.first_key_value().map(|(_, revision)| UnixMillis((*revision).into()));
                assert_eq!(state.oldest, first);
                let sizes = ledger.reading(|reader| {
                    let mut bytes = 0;
                    reader.each(keys::outbox_all(), |key, value| {
                        bytes += (key.len() + value.len()) as u64;
                        Ok(())
                    })?;
                    Ok(bytes)
                });
                assert_eq!(sizes, Ok(state.bytes));
            }
            ledger.close().await;
        });
    }
}

#[tokio::test]
async fn the_quarantine_of_an_older_build_is_read_retried_and_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    open(&directory).close().await;
    tamper(&directory, keys::SEQUENCE, Count { value: 8 }.seal());
    tamper(&directory, &keys::quarantine(7), refusal_of_version_1());
    // The record in quarantine can be damaged, too.
    tamper(&directory, &keys::quarantine(6), vec![2, 0, 0, 0]);
    let ledger = open(&directory);
    let refusal = Some(QuarantineReason { reason: REASON.into(), at: AT });
    let listed = ledger.read_quarantine(None, 10).unwrap();
    let damaged = Quarantined { entry: Err(Unreadable("it is cut short".into())), refusal: None };
    assert_eq!(listed[0], (OutboxId(6), damaged));
    assert_eq!(listed[1], (OutboxId(7), Quarantined { entry: Ok(known_entry()), refusal }));

    ledger.retry(&[OutboxId(7)]).await.unwrap();
    assert!(ledger.retry(&[OutboxId(6)]).await.is_err());
    ledger.drop_quarantined(&[OutboxId(6)]).await.unwrap();
    assert_eq!(ledger.quarantine_state(), (0, 0));
    assert_eq!(ledger.read(None, 10), Ok(vec![(OutboxId(8), Ok(known_entry()))]));
    ledger.settle(Settlement { delivered: vec![], quarantined: vec![(OutboxId(8), "again".into())] }).await.unwrap();
    let stored = ledger.reading(|reader| reader.get(&keys::quarantine(8))).unwrap().unwrap();
    assert_eq!(stored[0], StoredRefusal::VERSION);
    ledger.close().await;
}

#[tokio::test]
async fn what_is_asked_for_twice_leaves_the_quarantine_once() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    let mut commit = page(1);
    commit.entries = vec![known_entry(); 70];
    ledger.commit(commit).await.unwrap();
    let ids: Vec<_> = (0..70).map(OutboxId).collect();
    let quarantined = ids.iter().map(|id| (*id, "bad".to_owned())).collect();
    ledger.settle(Settlement { delivered: vec![], quarantined }).await.unwrap();
    let twice: Vec<_> = ids.iter().chain(&ids).copied().collect();
    let (retried, again, dropped) =
        tokio::join!(ledger.retry(&twice), ledger.retry(&ids), ledger.drop_quarantined(&ids));
    retried.and(again).and(dropped).unwrap();
    // Any request may have come first, but each entry moved once, and the writer's state is correct.
    assert_eq!(ledger.quarantine_state(), (0, 0));
    let waiting = ledger.read(None, 1000).unwrap();
    assert!(waiting.iter().all(|(id, _)| id.0 >= 70), "an id is never used again");
    assert!((1..=70).contains(&waiting.len()), "{}", waiting.len());
    let state = ledger.outbox_state();
    assert_eq!(state.records, waiting.len() as u64);
    ledger.close().await;
    let ledger = open(&directory);
    assert_eq!(ledger.outbox_state(), state);
    ledger.close().await;
}

#[tokio::test]
async fn what_is_there_is_opened_as_it_is_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let entries = || std::fs::read_dir(directory.path()).unwrap().count();
    let absent = LedgerError::Absent(directory.path().to_owned());
    assert_eq!(Ledger::open_existing(&state(&directory), &Privacy::default(), NOW).err(), Some(absent));
    assert_eq!(entries(), 0);

    let ledger = with_ann(&directory).await;
    ledger.commit(page(1)).await.unwrap();
    let locked = LedgerError::Locked(directory.path().to_owned());
    assert_eq!(Ledger::open_existing(&state(&directory), &Privacy::default(), NOW).err(), Some(locked));
    ledger.close().await;
    let ledger = Ledger::open_existing(&state(&directory), &Privacy::default(), NOW).unwrap();
    assert_eq!(ledger.totals(POOL), Ok(vec![(Series::History, 1)]));
    ledger.close().await;

    tamper(&directory, &keys::total(POOL, "history"), vec![1, 2, 3]);
    let before = entries();
    for _ in 0..2 {
        let damaged = Ledger::open_existing(&state(&directory), &Privacy::default(), NOW).err().unwrap();
        assert!(matches!(damaged, LedgerError::Corrupt { what: "a total", .. }), "{damaged}");
    }
    assert_eq!(entries(), before);
}

#[tokio::test]
async fn a_damaged_total_is_damage_of_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = with_ann(&directory).await;
    ledger.commit(page(1)).await.unwrap();
    ledger.close().await;
    tamper(&directory, &keys::total(POOL, "history"), vec![1, 2, 3]);
    let opened = Ledger::open(&state(&directory), NOW).unwrap();
    assert!(opened.rebuilt.unwrap().problem.starts_with("a total"));
    opened.ledger.close().await;
}

/// Damage of a stored record.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Vec<(prop::sample::Index, u8)>),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Replace(prop::sample::Index, Vec<u8>),
    Append(Vec<u8>),
}

impl Damage {
    fn any() -> impl Strategy<Value = Self> {
        let bytes = || vec(any::<u8>(), 1..20);
        prop_oneof![
            vec((any::<prop::sample::Index>(), any::<u8>()), 1..5).prop_map(Self::Flip),
            any::<prop::sample::Index>().prop_map(Self::Cut),
            (any::<prop::sample::Index>(), bytes()).prop_map(|(at, bytes)| Self::Insert(at, bytes)),
            (any::<prop::sample::Index>(), bytes()).prop_map(|(at, bytes)| Self::Replace(at, bytes)),
            bytes().prop_map(Self::Append),
        ]
    }

    fn done_to(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let len = bytes.len();
        if len == 0 {
            return bytes;
        }
        match self {
            Self::Flip(flips) => flips.iter().for_each(|(at, bits)| bytes[at.index(len)] ^= bits),
            Self::Cut(at) => bytes.truncate(at.index(len)),
            Self::Insert(at, more) => drop(bytes.splice(at.index(len)..at.index(len), more.iter().copied())),
            Self::Replace(at, other) => {
                let at = at.index(len);
                drop(bytes.splice(at..len.min(at + other.len()), other.iter().copied()));
            }
            Self::Append(more) => bytes.extend(more),
        }
        bytes
    }
}

/// Checks that a record can be read as it was written, and is refused after any damage.
fn only_what_was_written<R: StoredRecord + PartialEq + std::fmt::Debug>(record: &R, damage: &[Damage], bytes: &[u8]) {
    let sealed = record.seal();
    assert_eq!(R::open(&sealed).as_ref(), Ok(record));
    let damaged = damage.iter().fold(sealed.clone(), |bytes, damage| damage.done_to(&bytes));
    assert!(damaged == sealed || R::open(&damaged).is_err(), "{damaged:?} passes for {sealed:?}");
    let _ = (R::open(bytes), StoredUser::standing(bytes), StoredUser::standing(&damaged));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_record_of_any_kind_is_what_was_written_or_refused(
        (number, time, text) in (any::<u64>(), any::<i64>(), ".{0,40}"),
        user in stored_user::tests::record(),
        entry in stored_entry::tests::any_entry(),
        damage in vec(Damage::any(), 1..3),
        bytes in vec(any::<u8>(), 0..64),
    ) {
        only_what_was_written(&StoreFormat { number: u32::try_from(number >> 32).unwrap() }, &damage, &bytes);
        only_what_was_written(&Instance { id: text.clone() }, &damage, &bytes);
        only_what_was_written(&Count { value: number }, &damage, &bytes);
        let shares = vec![Share { index: 1, count: 2, since: time }];
        let pool = StoredPool { followed_since: time, lost_since: Some(time), selection: Some(number), shares };
        only_what_was_written(&pool, &damage, &bytes);
        only_what_was_written(&LostSince { time }, &damage, &bytes);
        only_what_was_written(&StoredScrapes { latest: Some(time) }, &damage, &bytes);
        only_what_was_written(&Gone { since: time }, &damage, &bytes);
        only_what_was_written(&StoredUser::from(&user), &damage, &bytes);
        let standing = UserStanding {
            sub: user.sub.clone(),
            joined: user.joined,
            gone_since: None,
            live_since: user.cursor.live_since(),
            activity: user.activity,
        };
        prop_assert_eq!(StoredUser::standing(&StoredUser::from(&user).seal()), Ok(standing));
        let entry = StoredEntry::from(entry);
        only_what_was_written(&entry, &damage, &bytes);
        only_what_was_written(&StoredRefusal { value: entry.seal(), reason: text, at: time }, &damage, &bytes);
    }
}

#[tokio::test]
async fn an_unreadable_exported_record_keeps_no_personal_data_when_the_settings_forbid_it() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = open(&directory);
    assert!(ledger.quarantine_exported("no date", b"a record of alice".to_vec()).await.unwrap());
    ledger.close().await;
    let modes = Modes { ip_address: Mode::Drop, ..Modes::default() };
    let privacy = Privacy::new(modes, None, None).unwrap();
    let ledger = Ledger::open_private(&state(&directory), &privacy, NOW).unwrap().ledger;
    ledger
        .each_record(|_, value, damage| {
            assert!(damage.is_none() && !value.windows(5).any(|part| part == b"alice"));
            true
        })
        .unwrap();
    assert_eq!(ledger.read_quarantine(None, 10).unwrap().len(), 1, "the reason stays");
    ledger.close().await;
}
