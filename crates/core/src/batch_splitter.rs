//! Splits one batch by a receiver's answers: which part to send next, and the fate of each record.
//!
//! Pure. An answer leads to this:
//!
//! ```text
//!             +---------- Retry, Refused: wait, the same part again ----------+
//!             v                                                              |
//! batch -> [part] -- sent --> Accepted ---------------> Fate::Delivered      |
//!             ^                  TooLarge, Invalid                            |
//!             |                     | many records: two halves --------------+
//!             +---------------------+ one: with evidence Fate::Quarantined, without it Fate::SetAside
//! ```
//!
//! A record is quarantined on evidence only. The receiver must have refused it alone, then accepted another record,
//! then refused it alone again. Until the receiver has accepted another record, the cause may be the receiver: a wrong
//! tenant, a wrong port, a full disk. So a record that is refused alone is *set aside*. It stays in the outbox, other
//! records go on, and the refusal is kept in memory ([`ReceiverStanding`]). After a restart the record is tried again.
//!
//! A receiver may call a record too large that is not large ([`RECORD_LARGE_BYTES`]). Then the receiver's limit is
//! wrong, and the record stays set aside until the receiver accepts it.
//!
//! When [`SET_ASIDE_MAX`] records wait for evidence, the receiver has lost its credit. From then on refused records are
//! Fate::Held, except the batch's last part. That part goes on after a wait, down to one record. This is slow, but
//! finds every acceptable record, and one acceptance restores the credit. Held records are not remembered one by one.
//!
//! A batch of n records, g of which the receiver refuses, takes at most 1 + 2 g log2 n sends besides repeats, and g
//! more for the evidence.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::answer::Answer;
use crate::backoff::{Backoff, with_jitter};
use crate::entry::OutboxId;

/// The first wait after a passing failure. It doubles with each further failure.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait after passing failures, unless the receiver asks for more. The end of an outage is noticed within a
/// minute.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// The longest wait that a receiver can ask for. A request for more is more likely a mistake than meant.
pub const AFTER_MAX: Duration = Duration::from_secs(3600);
/// The first wait where a person must act. It doubles with each further failure.
pub const REFUSED_FIRST: Duration = Duration::from_secs(30);
/// The longest wait where a person must act. The repair is noticed within a minute, as the end of an outage is.
pub const REFUSED_MAX: Duration = Duration::from_secs(60);
/// The number of records waiting for evidence at which the receiver is taken to be the cause. Records that have
/// evidence against them are at most a batch more, and leave before the next batch is sent.
pub const SET_ASIDE_MAX: usize = 100;
/// A record of more bytes than this may itself be too large. Receivers accept messages of 1 MiB (nginx) to 4 MiB
/// (gRPC).
pub const RECORD_LARGE_BYTES: usize = 1024 * 1024;

/// The waits after failures in a row. A failure of another failure begins with the first wait of its own.
#[derive(Debug, Default)]
pub struct SendBackoff {
    latest: Option<(FailureKind, Backoff)>,
}

/// What is known about a receiver from its answers so far. It lives as long as the delivery task.
#[derive(Debug, Default)]
pub struct ReceiverStanding {
    backoff: SendBackoff,
    /// Exports of which it took something.
    accepted: u64,
    /// The records that it refused alone.
    set_aside: BTreeMap<OutboxId, Suspicion>,
}

/// Why a record was refused alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Suspicion {
    /// The receiver says that the record is bad. Until then it had accepted this number of exports.
    Record { accepted: u64 },
    /// The receiver has a limit that is too low for log records.
    Limit,
}

/// Whether a failure needs a person.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// The failure may end by itself.
    Passing,
    /// The failure ends when a person has acted.
    Lasting,
}

/// A wait before the next send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait {
    /// The length of the wait.
    pub delay: Duration,
    /// The kind of failure that is waited for.
    pub failure: FailureKind,
    /// Whether the receiver itself asked for this wait.
    pub asked: bool,
}

/// The fate of some records of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The receiver has accepted them.
    Delivered,
    /// The receiver refuses this record and accepts others.
    Quarantined {
        /// The receiver's reason.
        reason: String,
    },
    /// The record stays in the outbox, because the receiver refuses it and may refuse every record.
    SetAside,
    /// The records stay in the outbox for now, because the receiver refuses every record.
    Held,
}

/// The consequence of an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SplitStep {
    /// The records whose fate is known now, by their positions in the batch.
    pub fate: Option<(Range<usize>, Fate)>,
    /// The wait before the next send; None: it may follow at once.
    pub wait: Option<Wait>,
}

/// A record of a batch: its id and its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parcel {
    /// The entry's number in the outbox.
    pub id: OutboxId,
    /// The size on the wire in bytes, before compression.
    pub bytes: usize,
}

/// A batch in delivery.
#[derive(Debug)]
pub struct BatchSplitter {
    parcels: Vec<Parcel>,
    /// The parts that are still to be sent, the next one last. No part is empty, and each ends where the one before it
    /// in this list begins.
    parts: Vec<Range<usize>>,
}

impl FailureKind {
    fn backoff(self) -> Backoff {
        match self {
            Self::Passing => Backoff::doubling(RETRY_FIRST, RETRY_MAX),
            Self::Lasting => Backoff::doubling(REFUSED_FIRST, REFUSED_MAX),
        }
    }
}

impl SendBackoff {
    /// Counts a failure, and returns the wait. It is not before `after` if the receiver named a time. `jitter` is from
    /// 0 to 1.
    pub fn failed(&mut self, failure: FailureKind, after: Option<Duration>, jitter: f64) -> Wait {
        // "In no time" (a date that is past, a RetryInfo of 0) names none: the own back-off spares the receiver.
        let after = after.filter(|after| !after.is_zero());
        let mut backoff = match self.latest {
            Some((latest, backoff)) if latest == failure => backoff,
            _ => failure.backoff(),
        };
        let own = backoff.failed();
        self.latest = Some((failure, backoff));
        let delay = match after {
            // Never before the time that was named, and spread a little after it.
            Some(after) => after.clamp(RETRY_FIRST, AFTER_MAX).mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 10.0),
            None => with_jitter(own, jitter),
        };
        Wait { delay, failure, asked: after.is_some() }
    }
}

impl ReceiverStanding {
    /// Whether [`SET_ASIDE_MAX`] records wait for evidence, so that a refusal says nothing about a record any more.
    pub fn lost_credit(&self) -> bool {
        self.set_aside.values().filter(|suspicion| !self.proves(**suspicion)).count() >= SET_ASIDE_MAX
    }

    /// Whether any record is set aside.
    pub fn sets_aside(&self) -> bool {
        !self.set_aside.is_empty()
    }

    /// Whether there is evidence against a record that is set aside, so that it is to be tried once more.
    pub fn has_evidence(&self) -> bool {
        self.set_aside.values().any(|suspicion| self.proves(*suspicion))
    }

    /// Whether a record that was passed over is worth another try as soon as the receiver accepts any record. One that
    /// waits for evidence, or for another limit, is not.
    pub fn is_worth_a_try(&self, id: OutboxId) -> bool {
        self.set_aside.get(&id).is_none_or(|suspicion| self.proves(*suspicion))
    }

    /// The wait before records that were set aside are tried again, without evidence; `jitter` is from 0 to 1.
    pub fn again(jitter: f64) -> Duration {
        with_jitter(REFUSED_MAX, jitter)
    }

    /// Whether the receiver has accepted another record since the refusal.
    fn proves(&self, suspicion: Suspicion) -> bool {
        matches!(suspicion, Suspicion::Record { accepted } if accepted < self.accepted)
    }

    fn accepted(&mut self, parcels: &[Parcel], rejected: u64) {
        self.backoff = SendBackoff::default();
        // A receiver that has rejected all of it has taken no record.
        if rejected < parcels.len() as u64 {
            self.accepted += 1;
        }
        let mut limits = false;
        for parcel in parcels {
            limits |= self.set_aside.remove(&parcel.id) == Some(Suspicion::Limit);
        }
        // The receiver's limit was raised, so the other records that exceeded it are worth another try.
        if limits {
            self.set_aside.retain(|_, suspicion| *suspicion != Suspicion::Limit);
        }
    }

    /// Accounts for a record that was refused alone. Answers whether that is evidence against it.
    fn refused_alone(&mut self, id: OutboxId, suspicion: Suspicion) -> bool {
        match self.set_aside.get(&id).copied() {
            Some(before) if self.proves(before) && suspicion != Suspicion::Limit => {
                self.set_aside.remove(&id);
                return true;
            }
            None if self.lost_credit() => {}
            _ => {
                self.set_aside.insert(id, suspicion);
            }
        }
        false
    }
}

impl BatchSplitter {
    /// Begins a batch of these records, in the order of their ids. None of them was sent yet.
    pub fn of(parcels: Vec<Parcel>) -> Self {
        let whole = 0..parcels.len();
        Self { parcels, parts: (!whole.is_empty()).then_some(whole).into_iter().collect() }
    }

    /// The next part to send, as positions in the batch; None when every record's fate is known.
    pub fn part(&self) -> Option<Range<usize>> {
        self.parts.last().cloned()
    }

    /// Accounts for the answer to the part that was sent. `jitter` is from 0 to 1, evenly spread.
    pub fn answered(&mut self, answer: &Answer, standing: &mut ReceiverStanding, jitter: f64) -> SplitStep {
        let Some(part) = self.part() else {
            return SplitStep::default();
        };
        match answer {
            Answer::Accepted { rejected, .. } => {
                standing.accepted(&self.parcels[part], *rejected);
                self.settled(Fate::Delivered)
            }
            Answer::Retry { after, .. } => {
                SplitStep { fate: None, wait: Some(standing.backoff.failed(FailureKind::Passing, *after, jitter)) }
            }
            Answer::Refused { .. } => {
                SplitStep { fate: None, wait: Some(standing.backoff.failed(FailureKind::Lasting, None, jitter)) }
            }
            Answer::TooLarge { message } if self.parcels[part.start].bytes <= RECORD_LARGE_BYTES => {
                self.refused(Suspicion::Limit, message, standing, jitter)
            }
            Answer::TooLarge { message } => {
                let suspicion = Suspicion::Record { accepted: standing.accepted };
                self.refused(suspicion, &format!("too large: {message}"), standing, jitter)
            }
            Answer::Invalid { message } => {
                self.refused(Suspicion::Record { accepted: standing.accepted }, message, standing, jitter)
            }
        }
    }

    /// Accounts for a part that the receiver refused because of its records.
    fn refused(
        &mut self,
        suspicion: Suspicion,
        reason: &str,
        standing: &mut ReceiverStanding,
        jitter: f64,
    ) -> SplitStep {
        let Some(part) = self.part() else {
            return SplitStep::default();
        };
        let is_alone = part.len() == 1;
        if is_alone && standing.refused_alone(self.parcels[part.start].id, suspicion) {
            standing.backoff = SendBackoff::default();
            return self.settled(Fate::Quarantined { reason: reason.to_owned() });
        }
        if standing.lost_credit() {
            let wait = standing.backoff.failed(FailureKind::Lasting, None, jitter);
            return SplitStep { fate: Some((self.pass_over(part), Fate::Held)), wait: Some(wait) };
        }
        standing.backoff = SendBackoff::default();
        if is_alone {
            return self.settled(Fate::SetAside);
        }
        self.parts.pop();
        let middle = part.start + part.len() / 2;
        self.parts.push(middle..part.end);
        self.parts.push(part.start..middle);
        SplitStep::default()
    }

    /// Leaves records for later: those in front of the batch's last part, else the first half of that part, else its
    /// only record. Answers with the records left.
    fn pass_over(&mut self, part: Range<usize>) -> Range<usize> {
        let from = part.start;
        self.parts.truncate(1);
        let last = self.parts.first().cloned().unwrap_or(part);
        let to = match (last.start > from, last.len()) {
            (true, _) => last.start,
            (false, 1) => last.end,
            (false, records) => last.start + records / 2,
        };
        self.parts = (to < last.end).then_some(to..last.end).into_iter().collect();
        from..to
    }

    /// Gives the part that was sent its fate.
    fn settled(&mut self, fate: Fate) -> SplitStep {
        SplitStep { fate: self.parts.pop().map(|part| (part, fate)), wait: None }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn accepted() -> Answer {
        Answer::Accepted { rejected: 0, message: None }
    }

    fn retry(after: Option<u64>) -> Answer {
        Answer::Retry { after: after.map(Duration::from_secs), message: String::new() }
    }

    fn invalid() -> Answer {
        Answer::Invalid { message: "bad".into() }
    }

    fn too_large() -> Answer {
        Answer::TooLarge { message: "4 at most".into() }
    }

    /// A batch of `records` small records, from this id on.
    fn small(first: u64, records: usize) -> BatchSplitter {
        sized(first, &vec![1000; records])
    }

    fn sized(first: u64, bytes: &[usize]) -> BatchSplitter {
        BatchSplitter::of((first..).zip(bytes).map(|(id, bytes)| Parcel { id: OutboxId(id), bytes: *bytes }).collect())
    }

    /// The fates that answers lead to, in turn.
    fn fates(mut splitter: BatchSplitter, standing: &mut ReceiverStanding, answers: &[Answer]) -> Vec<Fate> {
        let step = |answer| splitter.answered(answer, standing, 0.5).fate.map(|(_, fate)| fate);
        answers.iter().filter_map(step).collect()
    }

    fn bad() -> Fate {
        Fate::Quarantined { reason: "bad".into() }
    }

    fn refused() -> Answer {
        Answer::Refused { message: String::new() }
    }

    /// The waits, in seconds, that answers lead to without jitter's help or harm (`jitter` 1).
    fn waits(answers: &[Answer]) -> Vec<f64> {
        let (mut splitter, mut standing) = (small(0, 1), ReceiverStanding::default());
        answers
            .iter()
            .filter_map(|answer| splitter.answered(answer, &mut standing, 1.0).wait)
            .map(|wait| wait.delay.as_secs_f64())
            .collect()
    }

    #[test]
    fn passing_failures_double_the_wait_up_to_a_minute() {
        assert_eq!(waits(&vec![retry(None); 9]), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]);
    }

    #[test]
    fn lasting_failures_wait_longer_and_start_anew_after_passing_ones() {
        assert_eq!(
            waits(&[retry(None), retry(None), refused(), refused(), refused(), refused(), refused(), retry(None)]),
            [1.0, 2.0, 30.0, 60.0, 60.0, 60.0, 60.0, 1.0]
        );
    }

    #[test]
    fn jitter_halves_the_wait_at_most() {
        let wait = SendBackoff::default().failed(FailureKind::Passing, None, 0.0);
        assert_eq!(wait.delay, Duration::from_millis(500));
    }

    #[test]
    fn a_named_time_is_honoured_within_reason_and_never_undercut() {
        for (after, least, most) in [(7, 7.0, 7.7), (300, 300.0, 330.0), (999_999, 3600.0, 3960.0)] {
            for jitter in [0.0, 0.5, 1.0] {
                let wait =
                    SendBackoff::default().failed(FailureKind::Passing, Some(Duration::from_secs(after)), jitter);
                let delay = wait.delay.as_secs_f64();
                assert!((least..=most).contains(&delay), "{after} {jitter}: {delay}");
                assert!(wait.asked);
            }
        }
    }

    #[test]
    fn a_time_that_is_now_or_past_names_none() {
        assert_eq!(waits(&vec![retry(Some(0)); 4]), [1.0, 2.0, 4.0, 8.0]);
        assert!(!SendBackoff::default().failed(FailureKind::Passing, Some(Duration::ZERO), 0.5).asked);
    }

    #[test]
    fn an_acceptance_and_a_refusal_of_records_end_the_back_off() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for answer in [accepted(), invalid(), too_large()] {
            for records in [1, 8] {
                let mut standing = ReceiverStanding::default();
                let mut wait = |answer: &Answer| {
                    small(0, records).answered(answer, &mut standing, 1.0).wait.map(|wait| wait.delay)
                };
                assert_eq!([wait(&retry(None)), wait(&retry(None))], [seconds(1), seconds(2)]);
                assert_eq!(wait(&answer), None);
                assert_eq!(wait(&retry(None)), seconds(1), "after {answer:?} to {records}");
            }
        }
    }

    #[test]
    fn jitter_outside_its_range_is_held_at_the_ends() {
        for (jitter, millis) in [(-1.0, 500), (0.0, 500), (1.0, 1000), (2.0, 1000)] {
            let wait = SendBackoff::default().failed(FailureKind::Passing, None, jitter);
            assert_eq!(wait.delay, Duration::from_millis(millis), "{jitter}");
            assert!(!wait.asked);
        }
    }

    #[test]
    fn records_that_were_set_aside_are_tried_again_after_half_a_minute_to_a_minute() {
        for (jitter, seconds) in [(-1.0, 30), (0.0, 30), (0.5, 45), (1.0, 60), (2.0, 60)] {
            assert_eq!(ReceiverStanding::again(jitter), Duration::from_secs(seconds), "{jitter}");
        }
    }

    #[test]
    fn a_partial_success_is_evidence_if_any_record_was_accepted() {
        for (rejected, is_evidence) in [(0, true), (1, true), (2, false), (3, false)] {
            let mut standing = ReceiverStanding::default();
            fates(small(7, 1), &mut standing, &[invalid()]);
            fates(small(100, 2), &mut standing, &[Answer::Accepted { rejected, message: None }]);
            assert_eq!(standing.has_evidence(), is_evidence, "{rejected} of 2 rejected");
            assert_eq!(standing.is_worth_a_try(OutboxId(7)), is_evidence);
            assert!(standing.is_worth_a_try(OutboxId(8)), "one that was never refused alone");
        }
    }

    #[test]
    fn a_hundred_small_records_that_are_too_large_are_the_receivers_fault_too() {
        let mut standing = ReceiverStanding::default();
        for id in 0..99 {
            fates(small(id, 1), &mut standing, &[too_large()]);
        }
        assert!(!standing.lost_credit() && standing.sets_aside());
        fates(small(99, 1), &mut standing, &[too_large()]);
        assert!(standing.lost_credit());
        fates(small(200, 1), &mut standing, &[accepted()]);
        assert!(standing.lost_credit(), "a limit is proven by no acceptance of another record");
    }

    #[test]
    fn an_empty_batch_is_done() {
        assert_eq!(small(0, 0).part(), None);
    }

    #[test]
    fn a_batch_is_halved_down_to_the_guilty_record_which_is_quarantined_when_it_is_refused_again() {
        let (mut splitter, mut standing) = (small(0, 4), ReceiverStanding::default());
        let mut sent = Vec::new();
        let mut fates = Vec::new();
        while let Some(part) = splitter.part() {
            sent.push((part.start, part.end));
            let answer = if part.contains(&2) { invalid() } else { accepted() };
            fates.extend(splitter.answered(&answer, &mut standing, 0.5).fate);
        }
        assert_eq!(sent, [(0, 4), (0, 2), (2, 4), (2, 3), (3, 4)]);
        assert_eq!(fates, [(0..2, Fate::Delivered), (2..3, Fate::SetAside), (3..4, Fate::Delivered)]);
        assert!(standing.has_evidence() && standing.is_worth_a_try(OutboxId(2)));
        assert_eq!(small(2, 1).answered(&invalid(), &mut standing, 0.5).fate, Some((0..1, bad())));
        assert!(!standing.sets_aside());
    }

    #[test]
    fn evidence_is_another_record_that_is_taken_between_two_refusals() {
        let rejected_all = Answer::Accepted { rejected: 1, message: None };
        // The answers go in turn to record 1 and to another record; then the fate of record 1 follows.
        for (answers, expected) in [
            (vec![invalid(), accepted(), invalid()], bad()),
            (vec![invalid(), invalid(), invalid()], Fate::SetAside),
            (vec![invalid(), accepted(), accepted()], Fate::Delivered),
            // A record that was accepted and rejected is no evidence.
            (vec![invalid(), rejected_all, invalid()], Fate::SetAside),
            // The receiver calls the record too large, which it is not.
            (vec![too_large(), accepted(), too_large(), accepted(), too_large()], Fate::SetAside),
            (vec![too_large(), accepted(), invalid()], Fate::SetAside),
            (vec![too_large(), accepted(), invalid(), accepted(), invalid()], bad()),
            (vec![invalid(), accepted(), too_large()], Fate::SetAside),
            // What it says of a limit takes the earlier refusal back.
            (vec![invalid(), accepted(), too_large(), accepted(), invalid()], Fate::SetAside),
        ] {
            let mut standing = ReceiverStanding::default();
            let mut last = None;
            for (turn, answer) in (0..).zip(&answers) {
                let step = small(if turn % 2 == 0 { 1 } else { 100 + turn }, 1).answered(answer, &mut standing, 0.5);
                assert_eq!(step.wait, None);
                if turn % 2 == 0 {
                    last = step.fate.map(|(_, fate)| fate);
                }
            }
            assert_eq!(last, Some(expected), "{answers:?}");
        }
    }

    #[test]
    fn a_large_record_is_quarantined_as_too_large_and_a_small_one_never() {
        let mut standing = ReceiverStanding::default();
        for (bytes, quarantined) in [(1_048_576, false), (1_048_577, true)] {
            for round in 0..3 {
                let fate = fates(sized(7, &[bytes]), &mut standing, &[too_large()]);
                let expected = match round {
                    0 => Fate::SetAside,
                    1 if quarantined => Fate::Quarantined { reason: "too large: 4 at most".into() },
                    _ => Fate::SetAside,
                };
                assert_eq!(fate, [expected], "{bytes} {round}");
                fates(small(100, 1), &mut standing, &[accepted()]);
            }
            standing = ReceiverStanding::default();
        }
    }

    #[test]
    fn a_limit_that_was_raised_gives_all_that_it_stopped_another_chance() {
        let mut standing = ReceiverStanding::default();
        for id in 0..9 {
            fates(small(id, 1), &mut standing, &[too_large()]);
        }
        assert!(!standing.has_evidence() && (0..9).all(|id| !standing.is_worth_a_try(OutboxId(id))));
        fates(small(3, 1), &mut standing, &[accepted()]);
        assert!(!standing.sets_aside() && (0..9).all(|id| standing.is_worth_a_try(OutboxId(id))));
    }

    #[test]
    fn a_hundred_refused_alone_are_the_receivers_fault() {
        let mut standing = ReceiverStanding::default();
        let first = u64::try_from(SET_ASIDE_MAX).unwrap() - 1;
        for id in 0..first {
            let step = small(id, 1).answered(&invalid(), &mut standing, 0.5);
            assert_eq!((step.fate, step.wait), (Some((0..1, Fate::SetAside)), None), "{id}");
        }
        // The same record again does not count twice.
        assert_eq!(fates(small(0, 1), &mut standing, &[invalid()]), [Fate::SetAside]);
        // The hundredth record is held, and a wait follows.
        let step = small(first, 1).answered(&invalid(), &mut standing, 0.5);
        assert_eq!(step.fate, Some((0..1, Fate::Held)));
        assert_eq!(step.wait.map(|wait| wait.failure), Some(FailureKind::Lasting));
        // So are the records of the next batch, until the last one is tried alone.
        let mut splitter = small(500, 8);
        for held in [0..4, 4..6, 6..7, 7..8] {
            let step = splitter.answered(&invalid(), &mut standing, 0.5);
            assert_eq!(step.fate, Some((held, Fate::Held)));
            assert_eq!(step.wait.map(|wait| wait.failure), Some(FailureKind::Lasting));
        }
        assert_eq!(splitter.part(), None);
        assert_eq!(standing.set_aside.len(), SET_ASIDE_MAX, "what is held takes no memory");
        // One acceptance restores the credit, and is evidence.
        fates(small(600, 7), &mut standing, &[accepted()]);
        assert!(!standing.lost_credit());
        assert_eq!(fates(small(0, 1), &mut standing, &[invalid()]), [bad()]);
    }

    #[test]
    fn a_receiver_that_loses_its_credit_within_a_batch_is_tried_with_its_last_part() {
        let mut standing = ReceiverStanding::default();
        let mut splitter = small(0, 512);
        let fate = loop {
            if let Some((part, Fate::Held)) = splitter.answered(&invalid(), &mut standing, 0.5).fate {
                break part;
            }
        };
        assert_eq!((fate, splitter.part()), (99..256, Some(256..512)));
    }

    /// A receiver that refuses batches with a guilty record as invalid and heavy ones as too large, and fails at times.
    #[derive(Debug, Clone)]
    struct Tastes {
        sizes: Vec<u32>,
        guilty: BTreeSet<usize>,
        size_max: u32,
        /// The failures of successive requests; None: the receiver judges the request.
        moods: Vec<Option<Mood>>,
    }

    #[derive(Debug, Clone, Copy)]
    enum Mood {
        Retry,
        Refused,
        /// The receiver accepts the request, and the answer is lost.
        Lost,
    }

    fn tastes() -> impl Strategy<Value = Tastes> {
        let mood = prop_oneof![
            6 => Just(None),
            1 => Just(Some(Mood::Retry)),
            1 => Just(Some(Mood::Refused)),
            1 => Just(Some(Mood::Lost)),
        ];
        (1_usize..200).prop_flat_map(move |records| {
            (
                prop::collection::vec(1_u32..100, records),
                prop::collection::btree_set(0..records, 0..records.min(20)),
                prop_oneof![Just(u32::MAX), 60_u32..2000],
                prop::collection::vec(mood.clone(), 0..60),
            )
                .prop_map(|(sizes, guilty, size_max, moods)| Tastes { sizes, guilty, size_max, moods })
        })
    }

    /// Sends batches as the delivery task does, with second looks, until no record is left or `sends_max` sends were
    /// made. Answers with the fate of each record.
    fn carried(records: &[usize], sends_max: usize, mut judge: impl FnMut(&[usize]) -> Answer) -> Vec<Option<Fate>> {
        const BATCH: usize = 64;
        let mut standing = ReceiverStanding::default();
        let mut fates = vec![None; records.len()];
        let mut sends = 0;
        let mut from = 0;
        let mut passed_over = Vec::new();
        while sends < sends_max && (from < records.len() || !passed_over.is_empty()) {
            let look = standing.has_evidence() || from == records.len();
            let all = !standing.has_evidence();
            let waiting =
                if look { std::mem::take(&mut passed_over) } else { (from..records.len()).collect::<Vec<_>>() };
            let worth = |record: &usize| all || standing.is_worth_a_try(OutboxId(*record as u64));
            let (mut batch, left): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|record| !look || worth(record));
            if look {
                passed_over = left;
            } else {
                batch.truncate(BATCH);
                from += batch.len();
            }
            let parcel = |record: &usize| Parcel { id: OutboxId(*record as u64), bytes: records[*record] };
            let mut splitter = BatchSplitter::of(batch.iter().map(parcel).collect());
            while let Some(part) = splitter.part() {
                sends += 1;
                if sends > sends_max {
                    break;
                }
                let answer = judge(&batch[part]);
                match splitter.answered(&answer, &mut standing, 0.5).fate {
                    Some((part, Fate::SetAside | Fate::Held)) => passed_over.extend_from_slice(&batch[part]),
                    Some((part, fate)) => {
                        for record in &batch[part] {
                            assert!(fates[*record].replace(fate.clone()).is_none(), "two fates");
                        }
                    }
                    None => {}
                }
            }
            passed_over.sort_unstable();
        }
        assert!(standing.set_aside.len() <= SET_ASIDE_MAX + BATCH, "{} set aside", standing.set_aside.len());
        fates
    }

    proptest! {
        /// The receiver fails only at times. The last record is good, and is the evidence.
        #[test]
        fn every_record_is_delivered_or_quarantined_and_the_guilty_never_delivered(tastes in tastes()) {
            let last = tastes.sizes.len();
            let bytes = |size: u32| if size > tastes.size_max { 2 * RECORD_LARGE_BYTES } else { 1000 };
            let sizes: Vec<usize> = tastes.sizes.iter().map(|size| bytes(*size)).chain([1]).collect();
            let mut arrivals = vec![0_usize; last + 1];
            let mut losses = vec![0_usize; last + 1];
            let mut moods = tastes.moods.iter().copied();
            let fates = carried(&sizes, 5000, |part| {
                let size: u32 = part.iter().filter_map(|record| tastes.sizes.get(*record)).sum();
                let verdict = if size > tastes.size_max {
                    too_large()
                } else if part.iter().any(|record| tastes.guilty.contains(record)) {
                    invalid()
                } else {
                    accepted()
                };
                let is_accepted = matches!(verdict, Answer::Accepted { .. });
                let answer = match moods.next().flatten() {
                    None => verdict,
                    Some(Mood::Refused) => refused(),
                    Some(Mood::Lost) if is_accepted => {
                        part.iter().for_each(|record| losses[*record] += 1);
                        retry(None)
                    }
                    Some(_) => retry(Some(3)),
                };
                if matches!(answer, Answer::Accepted { .. }) {
                    part.iter().for_each(|record| arrivals[*record] += 1);
                }
                answer
            });
            for record in 0..last {
                let hopeless = tastes.guilty.contains(&record) || tastes.sizes[record] > tastes.size_max;
                match &fates[record] {
                    Some(Fate::Delivered) => {
                        prop_assert!(!hopeless);
                        prop_assert_eq!(arrivals[record], 1);
                    }
                    Some(Fate::Quarantined { .. }) => {
                        prop_assert!(hopeless, "an innocent record in quarantine");
                        prop_assert_eq!(arrivals[record], 0);
                    }
                    // Refused after the last acceptance: the record waits for another one.
                    None => prop_assert!(hopeless && arrivals[record] == 0, "{} was forgotten", record),
                    other => prop_assert!(false, "record {} ended as {:?}", record, other),
                }
            }
        }

        /// Whatever the form of the refusal, and however large the records are.
        #[test]
        fn a_receiver_that_refuses_everything_gets_no_record_into_quarantine_and_all_of_them_after_its_cure(
            sizes in prop::collection::vec(prop_oneof![Just(1000_usize), Just(2 * RECORD_LARGE_BYTES)], 1..400),
            answers in prop::collection::vec(0_u8..6, 1..500),
        ) {
            let mut answers = answers.into_iter();
            let fates = carried(&sizes, 30_000, |part| match answers.next() {
                None => accepted(),
                Some(0) => retry(None),
                Some(1) => refused(),
                Some(2) => too_large(),
                // A record that is rejected by partial success is settled.
                Some(3) if part.len() == 1 => Answer::Accepted { rejected: 1, message: None },
                Some(_) => invalid(),
            });
            prop_assert!(fates.iter().all(|fate| *fate == Some(Fate::Delivered)), "{:?}", fates);
        }

        #[test]
        fn whatever_is_answered_nothing_is_settled_twice(
            records in 0_usize..50,
            answers in prop::collection::vec(0_u8..5, 0..300),
            jitter in 0.0_f64..1.0,
        ) {
            let (mut splitter, mut standing) = (small(0, records), ReceiverStanding::default());
            let mut settled = BTreeSet::new();
            for answer in answers {
                let answer = match answer {
                    0 => accepted(),
                    1 => retry(None),
                    2 => too_large(),
                    3 => invalid(),
                    _ => refused(),
                };
                let step = splitter.answered(&answer, &mut standing, jitter);
                for record in step.fate.into_iter().flat_map(|(part, _)| part) {
                    prop_assert!(settled.insert(record));
                }
                if let Some(wait) = step.wait {
                    prop_assert!(wait.delay <= REFUSED_MAX);
                }
            }
            let waiting: BTreeSet<usize> = splitter.parts.iter().cloned().flatten().collect();
            prop_assert!(settled.is_disjoint(&waiting));
            prop_assert_eq!(settled.len() + waiting.len(), records);
        }
    }
}
