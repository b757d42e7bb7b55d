//! Tests of the delivery task with an outbox in memory, sinks with scripted answers, and paused time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use cognito_auth_core::batch_splitter;
use cognito_auth_core::event::AuthEvent;
use cognito_auth_core::fixtures::bare_entry;
use parking_lot::Mutex;

use super::*;

#[derive(Default)]
struct StoredOutbox {
    waiting: BTreeMap<OutboxId, Entry>,
    quarantine: Vec<(OutboxId, String)>,
    quarantine_max: Option<usize>,
    damaged: BTreeSet<OutboxId>,
    settlements: usize,
    /// The number of next writes that fail.
    failures: usize,
}

#[derive(Clone)]
struct MemoryOutbox {
    stored: Arc<Mutex<StoredOutbox>>,
    changes: watch::Sender<u64>,
}

impl MemoryOutbox {
    fn holding(entries: u64) -> Self {
        let outbox = Self { stored: Arc::default(), changes: watch::Sender::new(0) };
        outbox.add(1..=entries);
        outbox
    }

    fn add(&self, ids: impl IntoIterator<Item = u64>) {
        self.edit(|stored| {
            stored.waiting.extend(ids.into_iter().map(|id| (OutboxId(id), entry(id))));
        });
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut StoredOutbox) -> T) -> T {
        let done = edit(&mut self.stored.lock());
        self.changes.send_modify(|version| *version += 1);
        done
    }

    fn waiting(&self) -> Vec<u64> {
        self.stored.lock().waiting.keys().map(|id| id.0).collect()
    }

    fn quarantined(&self) -> Vec<u64> {
        self.stored.lock().quarantine.iter().map(|(id, _)| id.0).collect()
    }
}

impl Outbox for MemoryOutbox {
    type Error = io::Error;

    fn read(&self, after: Option<OutboxId>, limit: usize) -> io::Result<Vec<OutboxEntry>> {
        let stored = self.stored.lock();
        let beyond = stored.waiting.iter().filter(|(id, _)| Some(**id) > after);
        let waiting = beyond.take(limit).map(|(id, entry)| match stored.damaged.contains(id) {
            true => (*id, Err(Unreadable("torn".into()))),
            false => (*id, Ok(entry.clone())),
        });
        Ok(waiting.collect())
    }

    async fn settle(&self, settlement: Settlement) -> io::Result<()> {
        self.edit(|stored| {
            if stored.failures > 0 {
                stored.failures -= 1;
                return Err(io::Error::other("disk full"));
            }
            stored.settlements += 1;
            for id in settlement.delivered {
                assert!(stored.waiting.remove(&id).is_some(), "{id:?} is settled twice");
            }
            for (id, reason) in settlement.quarantined {
                assert!(stored.waiting.remove(&id).is_some(), "{id:?} is settled twice");
                stored.quarantine.push((id, reason));
            }
            Ok(())
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn quarantine_full(&self) -> bool {
        let stored = self.stored.lock();
        stored.quarantine_max.is_some_and(|max| stored.quarantine.len() >= max)
    }
}

fn entry(id: u64) -> Entry {
    Entry { event: AuthEvent { id: Some(id.to_string()), ..AuthEvent::default() }, ..bare_entry() }
}

fn id_of(entry: &Entry) -> u64 {
    entry.event.id.as_ref().unwrap().parse().unwrap()
}

type Judge = Box<dyn FnMut(&[u64]) -> Answer + Send>;
type Offer = (Instant, Vec<u64>);

/// A sink that records the batches it was given and their times.
#[derive(Clone)]
struct TestSink {
    /// The entries whose records were made.
    made: Arc<Mutex<Vec<u64>>>,
    offered: Arc<Mutex<Vec<Offer>>>,
    taken: Arc<Mutex<Vec<u64>>>,
    judge: Arc<Mutex<Judge>>,
    entry_bytes: usize,
}

impl TestSink {
    fn answering(judge: impl FnMut(&[u64]) -> Answer + Send + 'static) -> Self {
        Self {
            made: Arc::default(),
            offered: Arc::default(),
            taken: Arc::default(),
            judge: Arc::new(Mutex::new(Box::new(judge))),
            entry_bytes: 1000,
        }
    }

    fn willing() -> Self {
        Self::answering(|_| accepted())
    }

    fn now_answering(&self, judge: impl FnMut(&[u64]) -> Answer + Send + 'static) {
        *self.judge.lock() = Box::new(judge);
    }

    fn offered(&self) -> Vec<Vec<u64>> {
        self.offered.lock().iter().map(|(_, ids)| ids.clone()).collect()
    }

    fn taken(&self) -> Vec<u64> {
        self.taken.lock().clone()
    }
}

impl Sink for TestSink {
    type Record = u64;

    fn record(&self, entry: &Entry) -> u64 {
        let id = id_of(entry);
        self.made.lock().push(id);
        id
    }

    async fn deliver(&mut self, batch: &[u64]) -> Answer {
        assert!(!batch.is_empty());
        tokio::task::yield_now().await;
        let ids = batch.to_vec();
        self.offered.lock().push((Instant::now(), ids.clone()));
        let answer = (self.judge.lock())(&ids);
        if matches!(answer, Answer::Accepted { .. }) {
            self.taken.lock().extend(ids);
        }
        tokio::task::yield_now().await;
        answer
    }

    fn size_of(&self, _: &u64) -> usize {
        self.entry_bytes
    }
}

/// Records the delivery task's reports.
#[derive(Clone, Default)]
struct RecordingReport(Arc<Mutex<ReportedCounts>>);

#[derive(Default, Clone, Debug, PartialEq)]
struct ReportedCounts {
    causes: Vec<String>,
    ok: u64,
    retry: u64,
    refused: u64,
    accepted: u64,
    rejected: u64,
    quarantined: u64,
    full: Vec<bool>,
    progress: u64,
}

impl RecordingReport {
    fn counts(&self) -> ReportedCounts {
        self.0.lock().clone()
    }
}

impl DeliveryObserver for RecordingReport {
    fn failed(&self, cause: &str) {
        self.0.lock().causes.push(cause.to_owned());
    }

    fn request(&self, outcome: RequestOutcome) {
        let mut counts = self.0.lock();
        match outcome {
            RequestOutcome::Ok => counts.ok += 1,
            RequestOutcome::Retry => counts.retry += 1,
            RequestOutcome::Refused => counts.refused += 1,
        }
    }

    fn records(&self, accepted: u64, rejected: u64) {
        let mut counts = self.0.lock();
        counts.accepted += accepted;
        counts.rejected += rejected;
    }

    fn quarantined(&self, records: u64) {
        self.0.lock().quarantined += records;
    }

    fn quarantine_full(&self, full: bool) {
        self.0.lock().full.push(full);
    }

    fn progress(&self) {
        self.0.lock().progress += 1;
    }
}

fn accepted() -> Answer {
    Answer::Accepted { rejected: 0, message: None }
}

fn retry() -> Answer {
    Answer::Retry { after: None, message: "busy".into() }
}

fn invalid() -> Answer {
    Answer::Invalid { message: "malformed".into() }
}

fn refused() -> Answer {
    Answer::Refused { message: "who are you?".into() }
}

const LIMITS: BatchLimits = BatchLimits { records: 8, delay: Duration::from_secs(1) };

/// Runs a delivery task that drains from the start, until it ends.
async fn drained(outbox: &MemoryOutbox, printer: Option<&TestSink>, receiver: Option<&TestSink>) -> ReportedCounts {
    let (report, drain) = (RecordingReport::default(), CancellationToken::new());
    drain.cancel();
    Delivery::new(outbox.clone(), printer.cloned(), receiver.cloned(), report.clone(), LIMITS)
        .run(drain, CancellationToken::new())
        .await;
    report.counts()
}

/// Runs a delivery task for `time`, then drops it, as kill -9 would.
async fn killed_after(
    outbox: &MemoryOutbox,
    printer: Option<&TestSink>,
    receiver: Option<&TestSink>,
    time: Duration,
) -> ReportedCounts {
    let report = RecordingReport::default();
    let delivery = Delivery::new(outbox.clone(), printer.cloned(), receiver.cloned(), report.clone(), LIMITS);
    let _ = tokio::time::timeout(time, delivery.run(CancellationToken::new(), CancellationToken::new())).await;
    report.counts()
}

#[tokio::test(start_paused = true)]
async fn entries_leave_the_outbox_in_batches_once_they_are_acknowledged() {
    let (outbox, receiver) = (MemoryOutbox::holding(20), TestSink::willing());
    let counts = drained(&outbox, None, Some(&receiver)).await;
    assert_eq!(receiver.offered(), [(1..=8).collect::<Vec<_>>(), (9..=16).collect(), (17..=20).collect()]);
    assert!(outbox.waiting().is_empty());
    assert_eq!((counts.ok, counts.accepted), (3, 20));
}

#[tokio::test(start_paused = true)]
async fn a_single_sink_of_either_kind_is_enough() {
    let (outbox, printer) = (MemoryOutbox::holding(3), TestSink::willing());
    let counts = drained(&outbox, Some(&printer), None).await;
    assert_eq!(printer.taken(), [1, 2, 3]);
    assert!(outbox.waiting().is_empty());
    assert_eq!(counts.ok, 0, "printing is no OTLP request");
}

#[tokio::test(start_paused = true)]
async fn a_record_is_made_once_however_often_it_is_sent() {
    let (outbox, printer) = (MemoryOutbox::holding(3), TestSink::willing());
    let mut answers = vec![invalid(), retry(), retry()];
    let receiver = TestSink::answering(move |_| answers.pop().unwrap_or_else(accepted));
    drained(&outbox, Some(&printer), Some(&receiver)).await;
    assert_eq!(receiver.offered()[..3], [[1, 2, 3], [1, 2, 3], [1, 2, 3]]);
    assert!(receiver.offered().len() > 4, "the refused batch is sent in parts");
    assert_eq!((printer.made.lock().clone(), receiver.made.lock().clone()), (vec![1, 2, 3], vec![1, 2, 3]));
}

#[tokio::test(start_paused = true)]
async fn what_is_printed_is_not_printed_again_when_its_export_fails() {
    let outbox = MemoryOutbox::holding(3);
    let printer = TestSink::willing();
    let mut answers = vec![accepted(), retry(), retry()];
    let receiver = TestSink::answering(move |_| answers.pop().unwrap_or_else(accepted));
    let counts = killed_after(&outbox, Some(&printer), Some(&receiver), Duration::from_secs(60)).await;
    assert_eq!(printer.offered(), [[1, 2, 3]]);
    assert_eq!(receiver.offered(), [[1, 2, 3], [1, 2, 3], [1, 2, 3]]);
    assert_eq!((counts.retry, counts.ok, counts.accepted), (2, 1, 3));
    assert!(outbox.waiting().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_exported_or_settled_before_it_is_printed() {
    let outbox = MemoryOutbox::holding(3);
    let (printer, receiver) = (TestSink::answering(|_| refused()), TestSink::willing());
    let counts = killed_after(&outbox, Some(&printer), Some(&receiver), Duration::from_secs(3600)).await;
    assert!(printer.offered().len() > 5, "it is tried again and again");
    assert_eq!(counts.causes.len(), printer.offered().len(), "and people see why");
    assert!(receiver.offered().is_empty());
    assert_eq!(outbox.waiting(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_a_receiver_quotes_of_a_user_reaches_nobody() {
    let (outbox, report) = (MemoryOutbox::holding(1), RecordingReport::default());
    let user = entry(1).user.username.clone();
    let said = format!("no such label: user.name=\"{user}\"");
    let receiver = TestSink::answering(move |_| Answer::Refused { message: said.clone() });
    let delivery = Delivery::new(outbox.clone(), None::<TestSink>, Some(receiver), report.clone(), LIMITS);
    let (drain, halt) = (CancellationToken::new(), CancellationToken::new());
    let _ = tokio::time::timeout(Duration::from_mins(1), delivery.run(drain, halt)).await;
    assert_eq!(report.counts().causes.first().unwrap(), "no such label (text withheld: it quotes a record)");
}

#[tokio::test(start_paused = true)]
async fn a_part_filled_batch_waits_for_its_delay_and_a_full_one_does_not() {
    let (outbox, receiver) = (MemoryOutbox::holding(2), TestSink::willing());
    let began = Instant::now();
    let delivery =
        Delivery::new(outbox.clone(), None::<TestSink>, Some(receiver.clone()), RecordingReport::default(), LIMITS);
    let feeding = async {
        sleep(Duration::from_millis(600)).await;
        outbox.add([3]);
        sleep(Duration::from_secs(10)).await;
        outbox.add([4]);
        sleep(Duration::from_millis(10)).await;
        outbox.add(5..=11);
        sleep(Duration::from_secs(10)).await;
    };
    tokio::select! {
        () = delivery.run(CancellationToken::new(), CancellationToken::new()) => panic!("nothing stopped it"),
        () = feeding => {}
    }
    let offered: Vec<_> = receiver.offered.lock().clone();
    let offered: Vec<_> = offered.iter().map(|(at, ids)| ((*at - began).as_millis(), ids.len())).collect();
    assert_eq!(offered, [(1000, 3), (10_610, 8)]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_bounded_in_bytes_and_one_larger_entry_goes_alone() {
    let outbox = MemoryOutbox::holding(5);
    let mut receiver = TestSink::willing();
    receiver.entry_bytes = BATCH_BYTES_MAX / 2;
    drained(&outbox, None, Some(&receiver)).await;
    assert_eq!(receiver.offered(), [vec![1, 2], vec![3, 4], vec![5]]);

    outbox.add(6..=7);
    receiver.entry_bytes = BATCH_BYTES_MAX + 1;
    drained(&outbox, None, Some(&receiver)).await;
    assert_eq!(receiver.offered()[3..], [[6], [7]]);
}

#[tokio::test(start_paused = true)]
async fn the_guilty_record_goes_to_quarantine_and_the_rest_goes_through() {
    let outbox = MemoryOutbox::holding(20);
    let receiver = TestSink::answering(|ids| if ids.contains(&5) { invalid() } else { accepted() });
    let counts = drained(&outbox, None, Some(&receiver)).await;
    assert!(outbox.waiting().is_empty());
    assert_eq!(outbox.stored.lock().quarantine, [(OutboxId(5), "malformed".to_owned())]);
    let mut taken = receiver.taken();
    taken.sort_unstable();
    assert_eq!(taken, (1..=20).filter(|id| *id != 5).collect::<Vec<_>>());
    assert_eq!((counts.accepted, counts.quarantined), (19, 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_is_settled_before_the_delivery_waits() {
    let outbox = MemoryOutbox::holding(8);
    let receiver = TestSink::answering(|ids| match ids {
        _ if ids.len() > 4 => Answer::TooLarge { message: "4 at most".into() },
        [1, ..] => accepted(),
        _ => retry(),
    });
    killed_after(&outbox, None, Some(&receiver), Duration::from_secs(600)).await;
    assert_eq!(outbox.waiting(), [5, 6, 7, 8]);
}

#[tokio::test(start_paused = true)]
async fn a_full_quarantine_stops_delivery_until_it_has_room() {
    let outbox = MemoryOutbox::holding(8);
    outbox.edit(|stored| stored.quarantine_max = Some(1));
    let receiver = TestSink::answering(|ids| match ids {
        ids if ids.contains(&3) || ids.contains(&6) => invalid(),
        _ => accepted(),
    });
    // Both records of one batch may go, because unwritten ones do not count. The next batch stops.
    killed_after(&outbox, None, Some(&receiver), Duration::from_secs(100)).await;
    assert_eq!(outbox.quarantined(), [3, 6]);
    outbox.add([9, 10, 11]);
    receiver.now_answering(|ids| if ids.contains(&10) { invalid() } else { accepted() });
    let counts = killed_after(&outbox, None, Some(&receiver), Duration::from_secs(100)).await;
    assert_eq!(outbox.waiting(), [10], "what was taken is settled all the same");
    assert_eq!(counts.full, [true]);
    outbox.add([11]);
    assert_eq!(drained(&outbox, None, Some(&receiver)).await.quarantined, 0, "a drain does not wait for room");

    outbox.add([11]);
    let report = RecordingReport::default();
    let delivery = Delivery::new(outbox.clone(), None::<TestSink>, Some(receiver.clone()), report.clone(), LIMITS);
    let making_room = async {
        sleep(Duration::from_secs(100)).await;
        outbox.edit(|stored| stored.quarantine.clear());
        sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        () = delivery.run(CancellationToken::new(), CancellationToken::new()) => panic!("nothing stopped it"),
        () = making_room => {}
    }
    assert_eq!(outbox.quarantined(), [10]);
    assert_eq!(report.counts().full, [true, false]);
}

#[tokio::test(start_paused = true)]
async fn damaged_entries_go_to_quarantine_as_they_are_and_the_rest_goes_on() {
    // At every place of a batch, whole batches of them, and the last of all.
    let damaged = |id: &u64| matches!(id, 1 | 4 | 5 | 8 | 20..=40 | 60);
    let holding = || {
        let outbox = MemoryOutbox::holding(60);
        outbox.edit(|stored| stored.damaged = (1..=60).filter(damaged).map(OutboxId).collect());
        outbox
    };
    let (printer, receiver) = (TestSink::willing(), TestSink::willing());
    for (printer, receiver) in [(None, Some(&receiver)), (Some(&printer), None)] {
        let outbox = holding();
        let counts = drained(&outbox, printer, receiver).await;
        assert!(outbox.waiting().is_empty(), "{:?}", outbox.waiting());
        assert_eq!(outbox.quarantined(), (1..=60).filter(damaged).collect::<Vec<_>>());
        assert_eq!(outbox.stored.lock().quarantine[0].1, "cannot be read: torn");
        assert_eq!(counts.quarantined, 26);
        let taken = printer.or(receiver).unwrap().taken();
        assert_eq!(taken, (1..=60).filter(|id| !damaged(id)).collect::<Vec<_>>());
    }

    // Without room they stay, and what was taken beside them is settled all the same.
    let outbox = holding();
    outbox.edit(|stored| stored.quarantine_max = Some(0));
    let counts = killed_after(&outbox, None, Some(&receiver), Duration::from_secs(100)).await;
    assert_eq!(outbox.waiting()[..5], [1, 4, 5, 8, 9]);
    assert_eq!((counts.full, counts.quarantined), (vec![true], 0));
    outbox.edit(|stored| stored.quarantine_max = None);
    assert_eq!(drained(&outbox, None, Some(&receiver)).await.quarantined, 26);
    assert!(outbox.waiting().is_empty());
}

/// Runs a delivery task as long as `life` lasts.
async fn while_it_runs(outbox: &MemoryOutbox, receiver: &TestSink, life: impl Future<Output = ()>) -> ReportedCounts {
    let report = RecordingReport::default();
    let delivery = Delivery::new(outbox.clone(), None::<TestSink>, Some(receiver.clone()), report.clone(), LIMITS);
    tokio::select! {
        () = delivery.run(CancellationToken::new(), CancellationToken::new()) => panic!("nothing stopped it"),
        () = life => {}
    }
    report.counts()
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_refuses_everything_fills_no_quarantine_and_gets_everything_after_its_cure() {
    let outbox = MemoryOutbox::holding(300);
    let (printer, receiver) = (TestSink::willing(), TestSink::answering(|_| invalid()));
    let delivery = Delivery::new(
        outbox.clone(),
        Some(printer.clone()),
        Some(receiver.clone()),
        RecordingReport::default(),
        LIMITS,
    );
    let life = async {
        sleep(Duration::from_hours(4)).await;
        assert_eq!((outbox.quarantined().len(), outbox.waiting().len()), (0, 300));
        let calm = receiver.offered().len();
        sleep(Duration::from_hours(1)).await;
        let sends = receiver.offered().len() - calm;
        assert!((60..=120).contains(&sends), "{sends} sends in an hour");
        receiver.now_answering(|ids| if ids.contains(&200) { invalid() } else { accepted() });
        sleep(Duration::from_mins(5)).await;
        // The guilty record may be the only one left. Then it waits for another one.
        outbox.add([301]);
        sleep(Duration::from_mins(1)).await;
    };
    tokio::select! {
        () = delivery.run(CancellationToken::new(), CancellationToken::new()) => panic!("nothing stopped it"),
        () = life => {}
    }
    assert_eq!((outbox.waiting(), outbox.quarantined()), (vec![], vec![200]));
    let mut taken = receiver.taken();
    taken.sort_unstable();
    assert_eq!(taken, (1..=301).filter(|id| *id != 200).collect::<Vec<_>>(), "each once");
    assert_eq!(printer.taken(), (1..=301).collect::<Vec<_>>(), "each once, in order");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_of_any_temper_that_takes_nothing_gets_nothing_into_quarantine_and_is_not_hurried() {
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let entries = random.u64(1..300);
        let outbox = MemoryOutbox::holding(entries);
        // Each temper has a favourite answer.
        let favourite = random.u8(0..5);
        let mut receiver =
            TestSink::answering(move |_| match if random.bool() { favourite } else { random.u8(0..5) } {
                0 => retry(),
                1 => refused(),
                2 => Answer::TooLarge { message: "too large".into() },
                _ => invalid(),
            });
        receiver.entry_bytes = if seed % 2 == 0 { 1000 } else { batch_splitter::RECORD_LARGE_BYTES + 1 };
        let life = async {
            sleep(Duration::from_hours(2)).await;
            let calm = receiver.offered().len();
            sleep(Duration::from_hours(1)).await;
            let sends = receiver.offered().len() - calm;
            // Records that are set aside are sent twice a minute, each alone.
            assert!((30..=2 * batch_splitter::SET_ASIDE_MAX * 150).contains(&sends), "{sends} sends in an hour");
            assert_eq!((outbox.quarantined().len(), outbox.waiting().len() as u64), (0, entries), "seed {seed}");
            receiver.now_answering(|_| accepted());
            sleep(Duration::from_mins(3)).await;
        };
        let counts = while_it_runs(&outbox, &receiver, life).await;
        assert_eq!((outbox.waiting(), outbox.quarantined()), (vec![], vec![]), "seed {seed}");
        assert_eq!((counts.accepted, counts.quarantined), (entries, 0));
        let mut taken = receiver.taken();
        taken.sort_unstable();
        assert_eq!(taken, (1..=entries).collect::<Vec<_>>(), "each once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_of_guilty_records_does_not_wedge_the_stream() {
    // More than the receiver has credit for, then one guilty record in every batch.
    let outbox = MemoryOutbox::holding(400);
    let guilty = |id: &u64| *id <= 150 || id.is_multiple_of(7);
    let receiver = TestSink::answering(move |ids| if ids.iter().any(guilty) { invalid() } else { accepted() });
    killed_after(&outbox, None, Some(&receiver), Duration::from_hours(1)).await;
    assert!(outbox.waiting().is_empty(), "{:?}", outbox.waiting());
    let quarantined: BTreeSet<_> = outbox.quarantined().into_iter().collect();
    assert_eq!(quarantined, (1..=400).filter(guilty).collect());
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_refused_with_nothing_else_to_send_waits_until_another_one_was_taken() {
    let outbox = MemoryOutbox::holding(1);
    let receiver = TestSink::answering(|ids| if ids.contains(&1) { invalid() } else { accepted() });
    let counts = while_it_runs(&outbox, &receiver, async {
        sleep(Duration::from_hours(1)).await;
        assert_eq!((outbox.waiting(), outbox.quarantined()), (vec![1], vec![]));
        let tries = receiver.offered().len();
        assert!((60..=121).contains(&tries), "{tries} tries in an hour");
        // The new record waits only for its batch's delay.
        outbox.add([2]);
        sleep(LIMITS.delay + Duration::from_millis(1)).await;
        assert_eq!((outbox.waiting(), outbox.quarantined()), (vec![], vec![1]));
        assert_eq!(receiver.taken(), [2]);
    });
    let counts = counts.await;
    assert_eq!((counts.accepted, counts.quarantined, counts.retry), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_small_record_that_is_called_too_large_is_in_nobodys_way_and_comes_when_the_limit_is_raised() {
    let outbox = MemoryOutbox::holding(20);
    let receiver = TestSink::answering(|ids| match ids {
        ids if ids.contains(&5) || ids.contains(&6) => Answer::TooLarge { message: "larger than max".into() },
        _ => accepted(),
    });
    while_it_runs(&outbox, &receiver, async {
        sleep(Duration::from_hours(1)).await;
        assert_eq!((outbox.waiting(), outbox.quarantined()), (vec![5, 6], vec![]));
        let tries = receiver.offered().len();
        assert!(tries < 500, "{tries} tries in an hour");
        outbox.add([21]);
        sleep(LIMITS.delay * 2).await;
        assert_eq!(outbox.waiting(), [5, 6]);
        receiver.now_answering(|_| accepted());
        sleep(Duration::from_mins(1)).await;
        assert_eq!((outbox.waiting(), outbox.quarantined()), (vec![], vec![]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pressure_is_waited_out_and_splits_nothing() {
    let outbox = MemoryOutbox::holding(300);
    let receiver = TestSink::answering(|_| retry());
    while_it_runs(&outbox, &receiver, async {
        sleep(Duration::from_secs(20)).await;
        assert!(receiver.offered().iter().all(|ids| ids.len() == LIMITS.records));
        receiver.now_answering(|_| accepted());
        sleep(Duration::from_mins(1)).await;
    })
    .await;
    assert_eq!((outbox.waiting(), outbox.quarantined()), (vec![], vec![]));
    assert_eq!(receiver.taken(), (1..=300).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn everything_is_delivered_within_a_minute_after_a_fault_that_only_a_person_can_cure() {
    for outage in [90, 1000, 10_000] {
        let (outbox, receiver) = (MemoryOutbox::holding(30), TestSink::answering(|_| refused()));
        while_it_runs(&outbox, &receiver, async {
            sleep(Duration::from_secs(outage)).await;
            receiver.now_answering(|_| accepted());
            sleep(Duration::from_secs(61)).await;
        })
        .await;
        assert!(outbox.waiting().is_empty(), "{outage} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_fails_is_written_again_and_its_batch_not_sent_again() {
    let (outbox, receiver) = (MemoryOutbox::holding(3), TestSink::willing());
    outbox.edit(|stored| stored.failures = 3);
    killed_after(&outbox, None, Some(&receiver), Duration::from_secs(60)).await;
    assert_eq!(receiver.offered(), [[1, 2, 3]]);
    assert!(outbox.waiting().is_empty());
}

#[tokio::test(start_paused = true)]
async fn partial_success_counts_what_was_rejected_and_repeats_nothing() {
    let outbox = MemoryOutbox::holding(3);
    let receiver = TestSink::answering(|_| Answer::Accepted { rejected: 1, message: Some("too old".into()) });
    let counts = drained(&outbox, None, Some(&receiver)).await;
    assert_eq!((counts.ok, counts.accepted, counts.rejected), (1, 2, 1));
    assert_eq!(receiver.offered().len(), 1);
    assert!(outbox.waiting().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_idle_delivery_says_so_again_and_again() {
    let outbox = MemoryOutbox::holding(0);
    let counts = killed_after(&outbox, None, Some(&TestSink::willing()), Duration::from_secs(65)).await;
    assert_eq!(counts.progress, 7);
}

#[tokio::test(start_paused = true)]
async fn a_drain_tries_a_passing_failure_again_and_does_not_wait_for_a_person() {
    let outbox = MemoryOutbox::holding(3);
    let mut failures = 3;
    let receiver = TestSink::answering(move |_| {
        failures -= 1;
        if failures >= 0 { retry() } else { accepted() }
    });
    drained(&outbox, None, Some(&receiver)).await;
    assert!(outbox.waiting().is_empty());

    outbox.add([4]);
    let receiver = TestSink::answering(|_| refused());
    drained(&outbox, None, Some(&receiver)).await;
    assert_eq!(receiver.offered().len(), 1);
    assert_eq!(outbox.waiting(), [4]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_begins_during_a_wait_tries_at_once_unless_the_receiver_named_the_time() {
    // The batch leaves after its delay of a second. Its own wait is half a second or more.
    for (after, expected_ms) in [(None, 0..1), (Some(Duration::from_secs(5)), 4600..5200)] {
        let outbox = MemoryOutbox::holding(1);
        let mut first = true;
        let receiver = TestSink::answering(move |_| {
            let answer = Answer::Retry { after, message: "busy".into() };
            if std::mem::take(&mut first) { answer } else { accepted() }
        });
        let drain = CancellationToken::new();
        let delivery =
            Delivery::new(outbox.clone(), None::<TestSink>, Some(receiver.clone()), RecordingReport::default(), LIMITS);
        let stopping = async {
            sleep(Duration::from_millis(1400)).await;
            drain.cancel();
            Instant::now()
        };
        let (asked, ()) = tokio::join!(stopping, delivery.run(drain.clone(), CancellationToken::new()));
        let (at, _) = receiver.offered.lock()[1].clone();
        let waited = (at - asked).as_millis();
        assert!(expected_ms.contains(&waited), "{waited} ms");
        assert!(outbox.waiting().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_halt_ends_a_request_that_hangs_and_keeps_what_it_carries() {
    #[derive(Clone)]
    struct Hanging;
    impl Sink for Hanging {
        type Record = ();
        fn record(&self, _: &Entry) {}
        async fn deliver(&mut self, _: &[()]) -> Answer {
            std::future::pending().await
        }
        fn size_of(&self, (): &()) -> usize {
            1
        }
    }
    let outbox = MemoryOutbox::holding(3);
    let delivery = Delivery::new(outbox.clone(), None::<Hanging>, Some(Hanging), RecordingReport::default(), LIMITS);
    let (drain, halt) = (CancellationToken::new(), CancellationToken::new());
    let stopping = async {
        drain.cancel();
        sleep(Duration::from_secs(20)).await;
        halt.cancel();
    };
    tokio::join!(delivery.run(drain.clone(), halt.clone()), stopping);
    assert_eq!(outbox.waiting(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_moment_the_delivery_loses_nothing_and_repeats_at_most_a_batch() {
    let mut random = fastrand::Rng::with_seed(17);
    for _ in 0..300 {
        let entries = random.u64(1..60);
        let outbox = MemoryOutbox::holding(entries);
        let printer = TestSink::willing();
        let mut moods = random.fork();
        let receiver = TestSink::answering(move |ids| match moods.u8(0..6) {
            0 => retry(),
            1 => refused(),
            2 if ids.len() > 3 => Answer::TooLarge { message: String::new() },
            _ if ids.contains(&7) => invalid(),
            _ => accepted(),
        });
        let (mut kills, mut last) = (0, entries);
        while !outbox.waiting().is_empty() {
            // Each run gets a new record: refused records wait for one.
            last += 1;
            outbox.add([last]);
            outbox.edit(|stored| {
                stored.failures = random.usize(0..2);
                stored.damaged = [OutboxId(9), OutboxId(10)].into();
            });
            // Most kills fall between two steps, because the work takes no time here.
            let delivery = Delivery::new(
                outbox.clone(),
                Some(printer.clone()),
                Some(receiver.clone()),
                RecordingReport::default(),
                LIMITS,
            );
            let mut life = Box::pin(delivery.run(CancellationToken::new(), CancellationToken::new()));
            for _ in 0..random.usize(1..40) {
                let step = std::future::poll_fn(|context| std::task::Poll::Ready(life.as_mut().poll(context)));
                assert!(step.await.is_pending(), "nothing stopped it");
                sleep(Duration::from_secs(random.u64(0..100))).await;
            }
            kills += 1;
            assert!(kills < 1000, "the outbox does not empty: {:?}", outbox.waiting());
        }
        let taken = receiver.taken();
        let mut arrived: BTreeSet<u64> = taken.iter().copied().collect();
        assert!([7, 9, 10].iter().all(|guilty| !arrived.contains(guilty)));
        arrived.extend(outbox.quarantined());
        assert_eq!(arrived, (1..=last).collect(), "each is delivered or in quarantine");
        let repeats = taken.len() + outbox.quarantined().len() - arrived.len();
        assert!(repeats <= kills * LIMITS.records, "{repeats} repeats after {kills} kills");
    }
}
