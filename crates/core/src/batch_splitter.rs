//! One batch's way to a receiver: what to send next, and what has become of each record.
//!
//! Pure. The answers' meaning is INTERFACE's table "BatchSplitter, by the receiver's answer":
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
//! A record is quarantined on evidence only: the receiver refused it alone, then took another one, then refused it alone again.
//! Until the receiver has taken another one, its refusals may be its own fault: a wrong tenant, a wrong port, a full disk. So a
//! record that is refused alone is *set aside*: it stays in the outbox, others go on, and what is known of it is kept in memory
//! ([`Standing`]). A process that dies forgets that, and the next one tries the record again.
//!
//! A record that a receiver calls too large and that is not large ([`RECORD_LARGE_BYTES`]) is set aside without an end: the
//! receiver's limit is wrong, not the record.
//!
//! When [`SET_ASIDE_MAX`] records wait for evidence the receiver has lost its credit. From then on what is refused is
//! Fate::Held but for the batch's last part, which goes on after a wait, down to one record: slow, but if anything is
//! acceptable it is found, and one acceptance gives credit back. What is held is not remembered one by one.
//!
//! A batch of n records with g guilty ones takes at most 1 + 2 g log2 n sends besides repeats, and g more for the evidence.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::answer::Answer;
use crate::backoff::{Backoff, with_jitter};
use crate::entry::OutboxId;

/// The first wait after a passing failure; it doubles.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait of our own choosing after passing failures: an outage's end is noticed within a minute.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// The longest wait that a receiver can ask for. What asks for more is more likely wrong than meant.
pub const AFTER_MAX: Duration = Duration::from_secs(3600);
/// The first wait where a person must act; it doubles.
pub const REFUSED_FIRST: Duration = Duration::from_secs(30);
/// The longest wait where a person must act: the cure is noticed within a minute, as an outage's end is.
pub const REFUSED_MAX: Duration = Duration::from_secs(60);
/// Records that wait for evidence against them at most; then the receiver is to blame. Those that have it are at most a batch
/// more, and leave before the next batch is sent.
pub const SET_ASIDE_MAX: usize = 100;
/// Bytes of a record from which on it may itself be too large. Receivers take messages of 1 MiB (nginx) to 4 MiB (gRPC).
pub const RECORD_LARGE_BYTES: usize = 1024 * 1024;

/// The waits after failures in a row. A failure of another pace begins with the first wait of its own.
#[derive(Debug, Default)]
pub struct SendBackoff {
    latest: Option<(Pace, Backoff)>,
}

/// What a receiver's answers so far say about the receiver itself. Lives as long as the delivery task.
#[derive(Debug, Default)]
pub struct Standing {
    backoff: SendBackoff,
    /// Exports of which it took something.
    accepted: u64,
    /// Records that it refused alone.
    set_aside: BTreeMap<OutboxId, Suspicion>,
}

/// Why a record was refused alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Suspicion {
    /// For what it is, or so the receiver says. It had accepted so many exports then.
    Record { accepted: u64 },
    /// For a limit that no receiver of logs should have.
    Limit,
}

/// How soon a failure may be over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// By itself.
    Passing,
    /// When a person has acted.
    Lasting,
}

/// A wait before the next send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait {
    /// How long.
    pub delay: Duration,
    /// Why.
    pub pace: Pace,
    /// Whether the receiver itself asked for this wait.
    pub asked: bool,
}

/// What becomes of some of a batch's records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The receiver has them.
    Delivered,
    /// The receiver refuses it and takes others.
    Quarantined {
        /// What the receiver said.
        reason: String,
    },
    /// It stays in the outbox, because the receiver refuses it and may refuse everything.
    SetAside,
    /// They stay in the outbox for now, because the receiver refuses everything.
    Held,
}

/// What follows from an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// Records whose fate is known now.
    pub fate: Option<(Range<usize>, Fate)>,
    /// The wait before the next send.
    pub wait: Option<Wait>,
}

/// A record as far as its way goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parcel {
    /// Which one.
    pub id: OutboxId,
    /// Its size, before compression.
    pub bytes: usize,
}

/// A batch on its way.
#[derive(Debug)]
pub struct BatchSplitter {
    parcels: Vec<Parcel>,
    /// What is still to be sent; the next part last. Parts are never empty, and end where the one before them begins.
    parts: Vec<Range<usize>>,
}

impl Pace {
    fn backoff(self) -> Backoff {
        match self {
            Self::Passing => Backoff::doubling(RETRY_FIRST, RETRY_MAX),
            Self::Lasting => Backoff::doubling(REFUSED_FIRST, REFUSED_MAX),
        }
    }
}

impl SendBackoff {
    /// Counts a failure, and returns the wait. It is not before `after` if the receiver named a time. `jitter` is from 0 to 1.
    pub fn failed(&mut self, pace: Pace, after: Option<Duration>, jitter: f64) -> Wait {
        // "In no time" (a date that is past, a RetryInfo of 0) names none: the own back-off spares the receiver.
        let after = after.filter(|after| !after.is_zero());
        let mut backoff = match self.latest {
            Some((latest, backoff)) if latest == pace => backoff,
            _ => pace.backoff(),
        };
        let own = backoff.failed();
        self.latest = Some((pace, backoff));
        let delay = match after {
            // Never before the time that was named, and spread a little after it.
            Some(after) => after.clamp(RETRY_FIRST, AFTER_MAX).mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 10.0),
            None => with_jitter(own, jitter),
        };
        Wait { delay, pace, asked: after.is_some() }
    }
}

impl Standing {
    /// Whether so many records were refused alone that refusals say nothing about records any more.
    pub fn lost_credit(&self) -> bool {
        self.set_aside.values().filter(|suspicion| !self.proves(**suspicion)).count() >= SET_ASIDE_MAX
    }

    /// Whether records that were refused alone are in the outbox.
    pub fn sets_aside(&self) -> bool {
        !self.set_aside.is_empty()
    }

    /// Whether there is evidence against a record: it is to be tried once more.
    pub fn has_evidence(&self) -> bool {
        self.set_aside.values().any(|suspicion| self.proves(*suspicion))
    }

    /// Whether a record that was passed over is worth another try as soon as the receiver takes anything: one that waits for
    /// evidence, or for another limit, is not.
    pub fn is_worth_a_try(&self, id: OutboxId) -> bool {
        self.set_aside.get(&id).is_none_or(|suspicion| self.proves(*suspicion))
    }

    /// The wait before records that were set aside are tried again, without evidence; `jitter` is from 0 to 1.
    pub fn again(jitter: f64) -> Duration {
        with_jitter(REFUSED_MAX, jitter)
    }

    /// Whether the receiver took another record since the refusal.
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
        // Its limit was raised, so that the others are worth a try, too.
        if limits {
            self.set_aside.retain(|_, suspicion| *suspicion != Suspicion::Limit);
        }
    }

    /// A record was refused alone, for what it is or for a limit: whether that is proven now.
    fn refused_alone(&mut self, id: OutboxId, suspicion: Suspicion) -> bool {
        match self.set_aside.get(&id).copied() {
            Some(before) if self.proves(before) && suspicion != Suspicion::Limit => {
                self.set_aside.remove(&id);
                return true;
            }
            // The first refusal counts.
            Some(Suspicion::Record { .. }) if suspicion != Suspicion::Limit => {}
            None if self.lost_credit() => {}
            _ => {
                self.set_aside.insert(id, suspicion);
            }
        }
        false
    }
}

impl BatchSplitter {
    /// A batch of these records, none of them sent yet, in the order of their ids.
    pub fn of(parcels: Vec<Parcel>) -> Self {
        let whole = 0..parcels.len();
        Self { parcels, parts: (!whole.is_empty()).then_some(whole).into_iter().collect() }
    }

    /// What to send next; None when every record's fate is known.
    pub fn part(&self) -> Option<Range<usize>> {
        self.parts.last().cloned()
    }

    /// Takes the answer to the part that was sent. `jitter` is from 0 to 1, evenly spread.
    pub fn answered(&mut self, answer: &Answer, standing: &mut Standing, jitter: f64) -> Step {
        let Some(part) = self.part() else {
            return Step::default();
        };
        match answer {
            Answer::Accepted { rejected, .. } => {
                standing.accepted(&self.parcels[part], *rejected);
                self.settled(Fate::Delivered)
            }
            Answer::Retry { after, .. } => {
                Step { fate: None, wait: Some(standing.backoff.failed(Pace::Passing, *after, jitter)) }
            }
            Answer::Refused { .. } => {
                Step { fate: None, wait: Some(standing.backoff.failed(Pace::Lasting, None, jitter)) }
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

    /// The part was refused for what is in it, or so the receiver says.
    fn refused(&mut self, suspicion: Suspicion, reason: &str, standing: &mut Standing, jitter: f64) -> Step {
        let Some(part) = self.part() else {
            return Step::default();
        };
        let is_alone = part.len() == 1;
        if is_alone && standing.refused_alone(self.parcels[part.start].id, suspicion) {
            standing.backoff = SendBackoff::default();
            return self.settled(Fate::Quarantined { reason: reason.to_owned() });
        }
        if standing.lost_credit() {
            let wait = standing.backoff.failed(Pace::Lasting, None, jitter);
            return Step { fate: Some((self.pass_over(part), Fate::Held)), wait: Some(wait) };
        }
        standing.backoff = SendBackoff::default();
        if is_alone {
            return self.settled(Fate::SetAside);
        }
        self.parts.pop();
        let middle = part.start + part.len() / 2;
        self.parts.push(middle..part.end);
        self.parts.push(part.start..middle);
        Step::default()
    }

    /// Leaves all for later but the last part, or the second half of that.
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

    /// The part on top has its fate.
    fn settled(&mut self, fate: Fate) -> Step {
        Step { fate: self.parts.pop().map(|part| (part, fate)), wait: None }
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

    /// So many small records, from this id on.
    fn small(first: u64, records: usize) -> BatchSplitter {
        sized(first, &vec![1000; records])
    }

    fn sized(first: u64, bytes: &[usize]) -> BatchSplitter {
        BatchSplitter::of((first..).zip(bytes).map(|(id, bytes)| Parcel { id: OutboxId(id), bytes: *bytes }).collect())
    }

    /// The fates that answers lead to, in turn.
    fn fates(mut splitter: BatchSplitter, standing: &mut Standing, answers: &[Answer]) -> Vec<Fate> {
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
        let (mut splitter, mut standing) = (small(0, 1), Standing::default());
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
        let wait = SendBackoff::default().failed(Pace::Passing, None, 0.0);
        assert_eq!(wait.delay, Duration::from_millis(500));
    }

    #[test]
    fn a_named_time_is_honoured_within_reason_and_never_undercut() {
        for (after, least, most) in [(7, 7.0, 7.7), (300, 300.0, 330.0), (999_999, 3600.0, 3960.0)] {
            for jitter in [0.0, 0.5, 1.0] {
                let wait = SendBackoff::default().failed(Pace::Passing, Some(Duration::from_secs(after)), jitter);
                let delay = wait.delay.as_secs_f64();
                assert!((least..=most).contains(&delay), "{after} {jitter}: {delay}");
                assert!(wait.asked);
            }
        }
    }

    #[test]
    fn a_time_that_is_now_or_past_names_none() {
        assert_eq!(waits(&vec![retry(Some(0)); 4]), [1.0, 2.0, 4.0, 8.0]);
        assert!(!SendBackoff::default().failed(Pace::Passing, Some(Duration::ZERO), 0.5).asked);
    }

    #[test]
    fn an_empty_batch_is_done() {
        assert_eq!(small(0, 0).part(), None);
    }

    #[test]
    fn a_batch_is_halved_down_to_the_guilty_record_which_is_quarantined_when_it_is_refused_again() {
        let (mut splitter, mut standing) = (small(0, 4), Standing::default());
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
        // What is answered to record 1, to record 2, and so on by turns; what becomes of record 1 in the end.
        for (answers, expected) in [
            (vec![invalid(), accepted(), invalid()], bad()),
            (vec![invalid(), invalid(), invalid()], Fate::SetAside),
            (vec![invalid(), accepted(), accepted()], Fate::Delivered),
            // Taken and rejected is not taken.
            (vec![invalid(), rejected_all, invalid()], Fate::SetAside),
            // Too large, which it is not.
            (vec![too_large(), accepted(), too_large(), accepted(), too_large()], Fate::SetAside),
            (vec![too_large(), accepted(), invalid()], Fate::SetAside),
            (vec![too_large(), accepted(), invalid(), accepted(), invalid()], bad()),
            (vec![invalid(), accepted(), too_large()], Fate::SetAside),
        ] {
            let mut standing = Standing::default();
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
        let mut standing = Standing::default();
        for (bytes, quarantined) in [(RECORD_LARGE_BYTES, false), (RECORD_LARGE_BYTES + 1, true)] {
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
            standing = Standing::default();
        }
    }

    #[test]
    fn a_limit_that_was_raised_gives_all_that_it_stopped_another_chance() {
        let mut standing = Standing::default();
        for id in 0..9 {
            fates(small(id, 1), &mut standing, &[too_large()]);
        }
        assert!(!standing.has_evidence() && (0..9).all(|id| !standing.is_worth_a_try(OutboxId(id))));
        fates(small(3, 1), &mut standing, &[accepted()]);
        assert!(!standing.sets_aside() && (0..9).all(|id| standing.is_worth_a_try(OutboxId(id))));
    }

    #[test]
    fn a_hundred_refused_alone_are_the_receivers_fault() {
        let mut standing = Standing::default();
        let first = u64::try_from(SET_ASIDE_MAX).unwrap() - 1;
        for id in 0..first {
            let step = small(id, 1).answered(&invalid(), &mut standing, 0.5);
            assert_eq!((step.fate, step.wait), (Some((0..1, Fate::SetAside)), None), "{id}");
        }
        // The same ones again are no more.
        assert_eq!(fates(small(0, 1), &mut standing, &[invalid()]), [Fate::SetAside]);
        // The hundredth: held, slowly.
        let step = small(first, 1).answered(&invalid(), &mut standing, 0.5);
        assert_eq!(step.fate, Some((0..1, Fate::Held)));
        assert_eq!(step.wait.map(|wait| wait.pace), Some(Pace::Lasting));
        // So is a batch after it, but for its last record, which is tried alone.
        let mut splitter = small(500, 8);
        for held in [0..4, 4..6, 6..7, 7..8] {
            let step = splitter.answered(&invalid(), &mut standing, 0.5);
            assert_eq!(step.fate, Some((held, Fate::Held)));
            assert_eq!(step.wait.map(|wait| wait.pace), Some(Pace::Lasting));
        }
        assert_eq!(splitter.part(), None);
        assert_eq!(standing.set_aside.len(), SET_ASIDE_MAX, "what is held takes no memory");
        // One acceptance gives all credit back, and is evidence.
        fates(small(600, 7), &mut standing, &[accepted()]);
        assert!(!standing.lost_credit());
        assert_eq!(fates(small(0, 1), &mut standing, &[invalid()]), [bad()]);
    }

    #[test]
    fn a_receiver_that_loses_its_credit_within_a_batch_is_tried_with_its_last_part() {
        let mut standing = Standing::default();
        let mut splitter = small(0, 512);
        let fate = loop {
            if let Some((part, Fate::Held)) = splitter.answered(&invalid(), &mut standing, 0.5).fate {
                break part;
            }
        };
        assert_eq!((fate, splitter.part()), (99..256, Some(256..512)));
    }

    /// A receiver with tastes: refuses batches with a guilty record as invalid, heavy ones as too large, and has moods.
    #[derive(Debug, Clone)]
    struct Tastes {
        sizes: Vec<u32>,
        guilty: BTreeSet<usize>,
        size_max: u32,
        /// What happens before the receiver looks at a request; None: it looks.
        moods: Vec<Option<Mood>>,
    }

    #[derive(Debug, Clone, Copy)]
    enum Mood {
        Retry,
        Refused,
        /// Takes the request, and the answer is lost.
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

    /// Sends batches as the delivery task does, second looks included, until nothing is left or the receiver has had its say `sends_max`
    /// times. Answers what became of each record.
    fn carried(records: &[usize], sends_max: usize, mut judge: impl FnMut(&[usize]) -> Answer) -> Vec<Option<Fate>> {
        const BATCH: usize = 64;
        let mut standing = Standing::default();
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
        /// The receiver is well but for its moods; the last record is good, and is the evidence.
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
                    // Refused after the last that was taken: it waits for another one.
                    None => prop_assert!(hopeless && arrivals[record] == 0, "{} was forgotten", record),
                    other => prop_assert!(false, "record {} ended as {:?}", record, other),
                }
            }
        }

        /// However it says so, and however large the records are.
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
                // All of it rejected is a refusal, but done with.
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
            let (mut splitter, mut standing) = (small(0, records), Standing::default());
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
