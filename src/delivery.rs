//! Delivers entries from the outbox to the sinks, and removes settled entries from the outbox.
//!
//! The loop has four steps: *collect* a batch, *print* it (standard output), *export* it (OTLP), *settle* it. An entry
//! leaves the outbox in one of three cases:
//! - Every configured sink has accepted it.
//! - The receiver refuses it and accepts others. It goes to the quarantine.
//! - It cannot be read. It goes to the quarantine.
//!
//! No entry is dropped by age or number. While a receiver is down the loop waits, and the ledger limits the outbox.
//!
//! A record that is refused without evidence against it stays in the outbox and is passed over. A *second look* offers
//! it again: as soon as the receiver accepts something, and otherwise at most twice a minute. New entries do not wait
//! for that.
//!
//! [`batch_splitter`](cognito_auth_core::batch_splitter) decides without I/O what follows from an answer. This file
//! sends, waits, settles and logs.
//!
//! A crash between a sink's answer and the settlement's write repeats at most the batch in flight. While the process
//! runs, no entry is printed twice, however often its export fails.

use std::time::Duration;

use cognito_auth_core::answer::Answer;
use cognito_auth_core::entry::{Entry, OutboxId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::failpoint::{self, Failpoint};
use crate::sink::Sink;

mod fault;
mod outbox;

#[cfg(test)]
mod tests;

use cognito_auth_core::batch_splitter::{
    BatchSplitter, FailureKind, Fate, Parcel, ReceiverStanding, SendBackoff, Wait,
};
use fault::FaultLog;
pub use outbox::{DeliveryObserver, Outbox, OutboxEntry, RequestOutcome, Settlement, Unreadable};

/// The most bytes of one export before compression. Receivers' usual limit for a message is 4 MiB.
pub const BATCH_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The interval at which an idle delivery task reports progress, so that "no progress" differs from "no work".
const IDLE_REPORT: Duration = Duration::from_secs(10);

/// The limits of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchLimits {
    /// The most records, at least 1.
    pub records: usize,
    /// The longest wait of a batch that is not full.
    pub delay: Duration,
}

/// The delivery task: one outbox and up to two sinks.
#[derive(Debug)]
pub struct Delivery<O, P, S, R> {
    outbox: O,
    printer: Option<P>,
    receiver: Option<S>,
    report: R,
    limits: BatchLimits,
    standing: ReceiverStanding,
    /// The last entry that was printed.
    printed: Option<OutboxId>,
    /// The entries of the last batch. A receiver's text may quote one of them.
    before: Vec<Entry>,
    /// The last entry that was offered to the receiver. Entries in the outbox up to it were passed over.
    offered: Option<OutboxId>,
    /// Whether entries were passed over because the receiver had lost its credit.
    held: bool,
    /// The receiver's message about the last record that it refused alone, and the remedy.
    refusal: (String, Option<&'static str>),
    /// The time at which records that were set aside are offered again without evidence.
    again: Option<Instant>,
    second_look: Option<SecondLook>,
    /// Bytes of the smallest export that the receiver found too large.
    too_large_bytes: Option<usize>,
    stops: DeliveryStops,
    faults: DeliveryFaults,
}

#[derive(Debug)]
struct DeliveryStops {
    /// Tells the task to end when the outbox is empty.
    drain: CancellationToken,
    /// Tells the task to end at once.
    halt: CancellationToken,
}

#[derive(Debug)]
struct DeliveryFaults {
    outbox: FaultLog,
    printer: FaultLog,
    receiver: FaultLog,
    rejections: FaultLog,
    sizes: FaultLog,
    set_aside: FaultLog,
}

/// A pass through the entries that were passed over.
#[derive(Clone, Copy, Debug)]
struct SecondLook {
    /// The last entry that was offered again.
    read_to: Option<OutboxId>,
    /// Whether it offers entries without evidence against them, too.
    all: bool,
}

/// The task was told to end, or waits for something that cannot happen before the end.
#[derive(Debug)]
struct Stopped;

/// A batch in delivery. Entries with a known fate are in the settlement.
struct Batch<P: Sink, S: Sink> {
    /// The last id that was read.
    read_to: Option<OutboxId>,
    ids: Vec<OutboxId>,
    sizes: Vec<usize>,
    entries: Vec<Entry>,
    /// The receiver's records of the entries.
    records: Vec<S::Record>,
    /// The printer's records of the entries that were not printed before.
    lines: Vec<P::Record>,
    /// The damaged entries, with the reason.
    unreadable: Vec<(OutboxId, String)>,
    bytes: usize,
    full: bool,
    settlement: Settlement,
}

impl<P: Sink, S: Sink> Default for Batch<P, S> {
    fn default() -> Self {
        Self {
            read_to: None,
            ids: Vec::new(),
            sizes: Vec::new(),
            entries: Vec::new(),
            records: Vec::new(),
            lines: Vec::new(),
            unreadable: Vec::new(),
            bytes: 0,
            full: false,
            settlement: Settlement::default(),
        }
    }
}

impl<P: Sink, S: Sink> Batch<P, S> {
    fn len(&self) -> usize {
        self.ids.len() + self.unreadable.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<O, P, S, R> Delivery<O, P, S, R>
where
    O: Outbox,
    P: Sink,
    S: Sink,
    R: DeliveryObserver,
{
    /// Makes a delivery task from `outbox` to a printer and a receiver. At least one sink is required: without any,
    /// entries would wait for ever.
    pub fn new(outbox: O, printer: Option<P>, receiver: Option<S>, report: R, limits: BatchLimits) -> Self {
        Self {
            outbox,
            printer,
            receiver,
            report,
            limits,
            standing: ReceiverStanding::default(),
            printed: None,
            before: Vec::new(),
            offered: None,
            held: false,
            refusal: Default::default(),
            again: None,
            second_look: None,
            too_large_bytes: None,
            stops: DeliveryStops { drain: CancellationToken::new(), halt: CancellationToken::new() },
            faults: DeliveryFaults {
                outbox: FaultLog::new(
                    "the outbox cannot be read or written",
                    "the outbox can be read and written again",
                ),
                printer: FaultLog::new("standard output takes no records", "standard output takes records again"),
                receiver: FaultLog::new("the OTLP receiver takes no records", "the OTLP receiver takes records again"),
                rejections: FaultLog::new(
                    "the OTLP receiver takes records with reservations",
                    "the OTLP receiver takes records without reservations again",
                ),
                sizes: FaultLog::new(
                    "the OTLP receiver finds exports too large; they are split, and a lower otlp.batch_size would avoid \
                     that",
                    "the OTLP receiver takes exports of that size again",
                ),
                set_aside: FaultLog::new(
                    "the OTLP receiver refuses single records; they wait in the outbox and go to the quarantine once it \
                     has accepted another record",
                    "no refused record waits for the OTLP receiver any more",
                ),
            },
        }
    }

    /// Delivers until told to end. After `drain` it delivers the rest of the outbox and ends. Then it waits neither for
    /// more entries nor for a fault that a person must fix. After `halt` it ends at once. Entries that are not settled
    /// then are delivered after the next start.
    pub async fn run(mut self, drain: CancellationToken, halt: CancellationToken) {
        self.stops = DeliveryStops { drain, halt };
        let mut changes = self.outbox.changes();
        while let Ok(mut batch) = self.collect(&mut changes).await {
            failpoint::reached(Failpoint::BatchCollected);
            let delivered = self.deliver(&mut batch, &mut changes).await;
            let settled = self.settle(&mut batch).await;
            if delivered.and(settled).is_err() {
                return;
            }
            match &mut self.second_look {
                Some(look) => look.read_to = batch.read_to,
                None => self.offered = batch.read_to,
            }
            self.before = batch.entries;
        }
    }

    /// Waits for a batch that is full or past its delay. In a drain it returns the entries that are there; with none,
    /// it ends.
    async fn collect(&mut self, changes: &mut watch::Receiver<u64>) -> Result<Batch<P, S>, Stopped> {
        let mut batch = Batch::default();
        let mut due = None;
        loop {
            changes.borrow_and_update();
            if batch.is_empty() {
                self.look_again();
            }
            self.top_up(&mut batch).await?;
            let draining = self.stops.drain.is_cancelled();
            if batch.is_empty() {
                if self.second_look.take().is_some() {
                    batch = Batch::default();
                    continue;
                }
                // While the receiver has no credit every refusal waits, so this is not a busy loop.
                if self.held || self.is_second_look_due() {
                    self.begin_second_look(true);
                    continue;
                }
                if !self.standing.sets_aside() {
                    self.report.progress();
                }
                if draining {
                    return Err(Stopped);
                }
                let idle = Instant::now() + IDLE_REPORT;
                self.stops.await_change(changes, self.again.map_or(idle, |again| again.min(idle))).await?;
            } else {
                let due = *due.get_or_insert_with(|| Instant::now() + self.limits.delay);
                if batch.full || draining || Instant::now() >= due {
                    return Ok(batch);
                }
                self.stops.await_change(changes, due).await?;
            }
        }
    }

    /// Returns whether records that were set aside are due without evidence.
    fn is_second_look_due(&self) -> bool {
        self.again.is_some_and(|again| Instant::now() >= again)
    }

    /// Begins a second look at all entries that were passed over, or at those that are worth a try.
    fn begin_second_look(&mut self, all: bool) {
        self.second_look = Some(SecondLook { read_to: None, all });
        if all {
            self.again = None;
        }
        self.held = false;
    }

    /// Begins a second look if there is a reason for one. Otherwise logs whether refused records wait.
    fn look_again(&mut self) {
        let has_credit = !self.standing.lost_credit();
        // Without credit every refusal waits, so new entries go first. One that is accepted restores the credit.
        let is_due = has_credit && self.is_second_look_due();
        let is_cured = self.held && has_credit;
        if self.second_look.is_none() && (is_due || is_cured || self.standing.has_evidence()) {
            self.begin_second_look(is_due);
        }
        if self.second_look.is_some() {
            return;
        }
        if !self.standing.sets_aside() {
            self.faults.set_aside.succeeded();
        } else if !self.standing.lost_credit() {
            let (message, remedy) = &self.refusal;
            self.faults.set_aside.failed_with_remedy(FailureKind::Lasting, message, *remedy);
        }
    }

    /// Adds entries of the outbox to the batch, up to the limits.
    async fn top_up(&mut self, batch: &mut Batch<P, S>) -> Result<(), Stopped> {
        while !batch.full && self.read_more(batch).await? {}
        Ok(())
    }

    /// Adds the entries of one reading. Returns whether another reading may find more at once, because some were left
    /// out.
    async fn read_more(&mut self, batch: &mut Batch<P, S>) -> Result<bool, Stopped> {
        let mut failures = SendBackoff::default();
        let more = loop {
            let after = batch.read_to.or(self.second_look.map_or(self.offered, |look| look.read_to));
            match self.outbox.read(after, self.limits.records - batch.len()) {
                Ok(more) => break more,
                Err(error) => self.outbox_failed(&error, &mut failures).await?,
            }
        };
        let mut left_out = false;
        self.faults.outbox.succeeded();
        for (id, entry) in more {
            if let Some(look) = self.second_look {
                if Some(id) > self.offered {
                    // The batch goes at once.
                    batch.full = !batch.is_empty();
                    return Ok(false);
                }
                if !look.all && !self.standing.is_worth_a_try(id) {
                    batch.read_to = Some(id);
                    left_out = true;
                    continue;
                }
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(unreadable) => {
                    batch.read_to = Some(id);
                    batch.unreadable.push((id, unreadable.to_string()));
                    continue;
                }
            };
            let record = self.receiver.as_ref().map(|receiver| sized_record(receiver, &entry));
            let printer = self.printer.as_ref().filter(|_| Some(id) > self.printed);
            let line = printer.map(|printer| sized_record(printer, &entry));
            let size = match (&record, &line) {
                (Some((_, size)), _) | (None, Some((_, size))) => *size,
                (None, None) => 0,
            };
            // An entry above the limit of a batch is sent alone.
            if !batch.ids.is_empty() && batch.bytes + size > BATCH_BYTES_MAX {
                batch.full = true;
                break;
            }
            batch.read_to = Some(id);
            batch.ids.push(id);
            batch.sizes.push(size);
            batch.entries.push(entry);
            batch.records.extend(record.map(|(record, _)| record));
            batch.lines.extend(line.map(|(line, _)| line));
            batch.bytes += size;
        }
        batch.full |= batch.len() >= self.limits.records || batch.bytes >= BATCH_BYTES_MAX;
        if !left_out {
            // A second look does not wait for more entries.
            batch.full |= self.second_look.is_some() && !batch.is_empty();
        }
        Ok(left_out)
    }

    /// Sends a batch to every sink, and its damaged entries to the quarantine.
    async fn deliver(&mut self, batch: &mut Batch<P, S>, changes: &mut watch::Receiver<u64>) -> Result<(), Stopped> {
        self.print(batch).await?;
        if self.receiver.is_none() {
            batch.settlement.delivered.append(&mut batch.ids);
        } else {
            self.export(batch, changes).await?;
        }
        // Last, because it may have to wait for room in the quarantine.
        self.quarantine_unreadable(batch, changes).await
    }

    /// Moves unreadable entries to the quarantine, so that they do not block the outbox for ever.
    async fn quarantine_unreadable(
        &mut self,
        batch: &mut Batch<P, S>,
        changes: &mut watch::Receiver<u64>,
    ) -> Result<(), Stopped> {
        let Some((_, reason)) = batch.unreadable.first() else { return Ok(()) };
        tracing::error!(
            records = batch.unreadable.len(),
            reason,
            "records that wait for delivery are damaged; they go to the quarantine as they are"
        );
        self.await_quarantine(batch, changes).await?;
        batch.settlement.quarantined.append(&mut batch.unreadable);
        Ok(())
    }

    /// Prints the entries of the batch that were not printed before. A failure never concerns the records, only the
    /// printer.
    async fn print(&mut self, batch: &Batch<P, S>) -> Result<(), Stopped> {
        let Some(printer) = &mut self.printer else {
            return Ok(());
        };
        let mut failures = SendBackoff::default();
        while !batch.lines.is_empty() {
            let answer = unless(&self.stops.halt, printer.deliver(&batch.lines)).await?;
            let (message, pace) = match answer {
                Answer::Accepted { .. } => break,
                Answer::Retry { message, .. } => (message, FailureKind::Passing),
                Answer::TooLarge { message } | Answer::Invalid { message } | Answer::Refused { message } => {
                    (message, FailureKind::Lasting)
                }
            };
            self.report.failed(&message);
            self.faults.printer.failed(pace, &message);
            let wait = failures.failed(pace, None, fastrand::f64());
            self.stops.pause(wait).await?;
        }
        self.faults.printer.succeeded();
        self.printed = batch.ids.last().copied().max(self.printed);
        Ok(())
    }

    /// Exports a batch until every entry's fate is known. Entries with a known fate are settled before every wait.
    async fn export(&mut self, batch: &mut Batch<P, S>, changes: &mut watch::Receiver<u64>) -> Result<(), Stopped> {
        let parcels = batch.ids.iter().zip(&batch.sizes).map(|(id, bytes)| Parcel { id: *id, bytes: *bytes });
        let mut splitter = BatchSplitter::of(parcels.collect());
        while let (Some(part), Some(receiver)) = (splitter.part(), &mut self.receiver) {
            let answer = unless(&self.stops.halt, receiver.deliver(&batch.records[part.clone()])).await?;
            failpoint::reached(Failpoint::BatchAnswered);
            // The remedy depends on texts that the redaction may remove.
            let remedy = answer.remedy();
            // An answer may quote entries that were sent before this part.
            let answer = answer.redacted(batch.entries.iter().chain(&self.before));
            let step = splitter.answered(&answer, &mut self.standing, fastrand::f64());
            self.report_answer(&answer, remedy, &batch.sizes[part]);
            match step.fate {
                Some((part, Fate::Delivered)) => {
                    batch.settlement.delivered.extend_from_slice(&batch.ids[part]);
                }
                Some((part, Fate::Quarantined { reason })) => {
                    // The receiver has accepted other records, so the fault is the record's.
                    self.faults.receiver.succeeded();
                    self.await_quarantine(batch, changes).await?;
                    let refused = batch.ids[part].iter().map(|id| (*id, reason.clone()));
                    batch.settlement.quarantined.extend(refused);
                }
                Some((_, Fate::SetAside)) => {
                    self.again.get_or_insert_with(|| Instant::now() + ReceiverStanding::again(fastrand::f64()));
                }
                Some((_, Fate::Held)) => self.held = true,
                None => {}
            }
            if let Some(wait) = step.wait {
                self.settle(batch).await?;
                self.stops.pause(wait).await?;
            }
        }
        Ok(())
    }

    /// Reports an answer, and logs changes of the receiver's faults. `sent` are the sizes of the records that were
    /// sent.
    fn report_answer(&mut self, answer: &Answer, remedy: Option<&'static str>, sent: &[usize]) {
        let bytes: usize = sent.iter().sum();
        let outcome = match answer {
            Answer::Accepted { rejected, message } => {
                // Twice, because the sum of the records' sizes may exceed the export's size by half.
                if self.too_large_bytes.is_some_and(|least| bytes >= 2 * least) {
                    self.too_large_bytes = None;
                    self.faults.sizes.succeeded();
                }
                let records = sent.len() as u64;
                let rejected = (*rejected).min(records);
                self.report.records(records - rejected, rejected);
                self.faults.receiver.succeeded();
                match message.as_deref() {
                    reason if rejected > 0 => {
                        let what =
                            format!("it rejects some records permanently: {}", reason.unwrap_or("no reason given"));
                        self.faults.rejections.failed(FailureKind::Lasting, &what);
                    }
                    Some(warning) => self.faults.rejections.failed(FailureKind::Passing, warning),
                    None => self.faults.rejections.succeeded(),
                }
                RequestOutcome::Ok
            }
            Answer::Retry { message, .. } => {
                self.report.failed(message);
                self.faults.receiver.failed_with_remedy(FailureKind::Passing, message, remedy);
                RequestOutcome::Retry
            }
            Answer::Refused { message } => {
                self.report.failed(message);
                self.faults.receiver.failed_with_remedy(FailureKind::Lasting, message, remedy);
                RequestOutcome::Refused
            }
            Answer::TooLarge { message } | Answer::Invalid { message } => {
                self.report.failed(message);
                if matches!(answer, Answer::TooLarge { .. }) && sent.len() > 1 {
                    self.too_large_bytes = Some(self.too_large_bytes.map_or(bytes, |least| least.min(bytes)));
                    self.faults.sizes.failed(FailureKind::Passing, message);
                }
                if sent.len() == 1 {
                    self.refusal = (message.clone(), remedy);
                }
                if self.standing.lost_credit() {
                    let what = format!("it refuses every record, so none is quarantined: {message}");
                    self.faults.receiver.failed_with_remedy(FailureKind::Lasting, &what, remedy);
                }
                RequestOutcome::Refused
            }
        };
        self.report.request(outcome);
    }

    /// Waits until the quarantine has room for one more record. Records count when they are written, so one batch may
    /// exceed the limit.
    async fn await_quarantine(
        &mut self,
        batch: &mut Batch<P, S>,
        changes: &mut watch::Receiver<u64>,
    ) -> Result<(), Stopped> {
        if !self.outbox.quarantine_full() {
            return Ok(());
        }
        tracing::error!("the quarantine is full: delivery stops until records are retried or dropped from it");
        self.report.quarantine_full(true);
        self.settle(batch).await?;
        loop {
            changes.borrow_and_update();
            if !self.outbox.quarantine_full() {
                break;
            }
            if self.stops.drain.is_cancelled() {
                return Err(Stopped);
            }
            self.stops.await_change(changes, Instant::now() + IDLE_REPORT).await?;
        }
        self.report.quarantine_full(false);
        tracing::info!("the quarantine has room again");
        Ok(())
    }

    /// Writes the settlement. Repeats the write until it succeeds or the task must end.
    async fn settle(&mut self, batch: &mut Batch<P, S>) -> Result<(), Stopped> {
        let mut failures = SendBackoff::default();
        while !batch.settlement.is_empty() {
            match self.outbox.settle(batch.settlement.clone()).await {
                Ok(()) => {
                    failpoint::reached(Failpoint::BatchSettled);
                    tracing::debug!(records = batch.settlement.delivered.len(), "records were delivered");
                    let quarantined = batch.settlement.quarantined.len() as u64;
                    if let Some((_, reason)) = batch.settlement.quarantined.first() {
                        failpoint::reached(Failpoint::QuarantineSettled);
                        tracing::warn!(
                            records = quarantined,
                            reason,
                            "records are in quarantine; `cognito-auth-exporter quarantine list` shows them"
                        );
                        self.report.quarantined(quarantined);
                    }
                    self.report.progress();
                    self.faults.outbox.succeeded();
                    batch.settlement = Settlement::default();
                }
                Err(error) => self.outbox_failed(&error, &mut failures).await?,
            }
        }
        Ok(())
    }

    async fn outbox_failed(&mut self, error: &O::Error, failures: &mut SendBackoff) -> Result<(), Stopped> {
        self.faults.outbox.failed(FailureKind::Passing, &error.to_string());
        let wait = failures.failed(FailureKind::Passing, None, fastrand::f64());
        self.stops.pause(wait).await
    }
}

impl DeliveryStops {
    /// Waits for a change of the outbox, the time `until`, or the beginning of the drain.
    async fn await_change(&self, changes: &mut watch::Receiver<u64>, until: Instant) -> Result<(), Stopped> {
        let changed = async {
            // If the outbox reports no changes any more, only the time counts.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let waited = async {
            tokio::select! {
                () = changed => {}
                () = sleep_until(until) => {}
                () = self.drain.cancelled() => {}
            }
        };
        unless(&self.halt, waited).await
    }

    /// Waits after a failure. A drain shortens a wait that the receiver did not ask for, and does not wait for a
    /// person.
    async fn pause(&self, wait: Wait) -> Result<(), Stopped> {
        let draining = self.drain.is_cancelled();
        if draining && wait.failure == FailureKind::Lasting {
            return Err(Stopped);
        }
        let drain_begins = async {
            if draining || wait.asked {
                std::future::pending::<()>().await;
            }
            self.drain.cancelled().await;
        };
        let waited = async {
            tokio::select! {
                () = sleep(wait.delay) => {}
                () = drain_begins => {}
            }
        };
        unless(&self.halt, waited).await
    }
}

/// Makes a sink's record of an entry. Returns it with its size.
fn sized_record<K: Sink>(sink: &K, entry: &Entry) -> (K::Record, usize) {
    let record = sink.record(entry);
    let size = sink.size_of(&record);
    (record, size)
}

/// Runs `work` to its end, unless `halt` comes first.
async fn unless<T>(halt: &CancellationToken, work: impl Future<Output = T>) -> Result<T, Stopped> {
    tokio::select! {
        biased;
        () = halt.cancelled() => Err(Stopped),
        done = work => Ok(done),
    }
}
