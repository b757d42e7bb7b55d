//! One batch's way to a receiver: what to send next, and what has become of each record.
//!
//! Pure. The answers' meaning is INTERFACE's table "Delivery, by the receiver's answer":
//!
//! ```text
//!             +---------- Retry, Refused: wait, the same part again ----------+
//!             v                                                              |
//! batch -> [part] -- sent --> Accepted ---------------> Fate::Delivered      |
//!             ^                  TooLarge, Invalid                            |
//!             |                     | many records: two halves --------------+
//!             +---------------------+ one: Fate::Quarantined
//! ```
//!
//! A receiver that has refused [`REFUSED_SINGLY_MAX`] single records without accepting one in between has lost its credit:
//! its refusals say nothing about records any more. From then on a refused part is Fate::Held in its first half, and its
//! second half goes on after a wait, down to one record: slow, but if anything is acceptable it is found, and one
//! acceptance gives all credit back.
//!
//! A batch of n records with g guilty ones takes at most 1 + 2 g log2 n sends besides repeats.

use std::ops::Range;
use std::time::Duration;

use crate::sink::Answer;

/// The first wait after a passing failure; it doubles.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait of our own choosing after passing failures: an outage's end is noticed within a minute.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// The longest wait that a receiver can ask for. What asks for more is more likely wrong than meant.
pub const AFTER_MAX: Duration = Duration::from_secs(3600);
/// The first wait where a person must act; it doubles.
pub const REFUSED_FIRST: Duration = Duration::from_secs(30);
/// The longest wait where a person must act: the cure is noticed within five minutes.
pub const REFUSED_MAX: Duration = Duration::from_secs(300);
/// Records refused singly, without one acceptance between them, from which on the receiver is to blame.
pub const REFUSED_SINGLY_MAX: u32 = 100;

/// What a receiver's answers so far say about the receiver itself. Lives as long as the courier.
#[derive(Debug, Default)]
pub struct Standing {
    refused_singly: u32,
    failures: Option<(Pace, u32)>,
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
    /// The receiver will never take it.
    Quarantined {
        /// What the receiver said.
        reason: String,
    },
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

/// A batch on its way.
#[derive(Debug)]
pub struct Delivery {
    /// What is still to be sent; the next part last. Parts are never empty.
    parts: Vec<Range<usize>>,
}

impl Standing {
    /// Whether the receiver refused so many single records in a row that its refusals say nothing about records.
    pub fn lost_credit(&self) -> bool {
        self.refused_singly >= REFUSED_SINGLY_MAX
    }

    fn accepted(&mut self) {
        *self = Self::default();
    }

    /// The wait after one more failure, not before `after` if the receiver named a time; `jitter` is from 0 to 1.
    pub fn failed(&mut self, pace: Pace, after: Option<Duration>, jitter: f64) -> Wait {
        // "In no time" (a date that is past, a RetryInfo of 0) names none: the own back-off spares the receiver.
        let after = after.filter(|after| !after.is_zero());
        let failures = match self.failures {
            Some((before, failures)) if before == pace => failures.saturating_add(1),
            _ => 0,
        };
        self.failures = Some((pace, failures));
        let (first, max) = match pace {
            Pace::Passing => (RETRY_FIRST, RETRY_MAX),
            Pace::Lasting => (REFUSED_FIRST, REFUSED_MAX),
        };
        let jitter = jitter.clamp(0.0, 1.0);
        let delay = match after {
            // Never before the time that was named, and spread a little after it.
            Some(after) => after.clamp(RETRY_FIRST, AFTER_MAX).mul_f64(1.0 + jitter / 10.0),
            None => first.saturating_mul(2_u32.saturating_pow(failures)).min(max).mul_f64(0.5 + jitter / 2.0),
        };
        Wait { delay, pace, asked: after.is_some() }
    }
}

impl Delivery {
    /// A batch of so many records, none of them sent yet.
    pub fn of(records: usize) -> Self {
        let whole = 0..records;
        Self { parts: (!whole.is_empty()).then_some(whole).into_iter().collect() }
    }

    /// What to send next; None when every record's fate is known.
    pub fn part(&self) -> Option<Range<usize>> {
        self.parts.last().cloned()
    }

    /// Takes the answer to the part that was sent. `jitter` is from 0 to 1, evenly spread.
    pub fn answered(&mut self, answer: &Answer, standing: &mut Standing, jitter: f64) -> Step {
        match answer {
            Answer::Accepted { .. } => {
                standing.accepted();
                self.settled(Fate::Delivered)
            }
            Answer::Retry { after, .. } => {
                Step { fate: None, wait: Some(standing.failed(Pace::Passing, *after, jitter)) }
            }
            Answer::Refused { .. } => Step { fate: None, wait: Some(standing.failed(Pace::Lasting, None, jitter)) },
            Answer::TooLarge { message } => self.refused(&format!("too large: {message}"), standing, jitter),
            Answer::Invalid { message } => self.refused(message, standing, jitter),
        }
    }

    /// The part was refused for what is in it, or so the receiver says.
    fn refused(&mut self, reason: &str, standing: &mut Standing, jitter: f64) -> Step {
        let Some(part) = self.part() else {
            return Step::default();
        };
        if part.len() == 1 {
            standing.refused_singly = standing.refused_singly.saturating_add(1);
        }
        let middle = part.start + part.len() / 2;
        if part.len() > 1 {
            self.parts.pop();
            self.parts.push(middle..part.end);
            self.parts.push(part.start..middle);
        }
        if standing.lost_credit() {
            return Step { wait: Some(standing.failed(Pace::Lasting, None, jitter)), ..self.settled(Fate::Held) };
        }
        standing.failures = None;
        if part.len() == 1 {
            return self.settled(Fate::Quarantined { reason: reason.to_owned() });
        }
        Step::default()
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

    fn refused() -> Answer {
        Answer::Refused { message: String::new() }
    }

    /// The waits, in seconds, that answers lead to without jitter's help or harm (`jitter` 1).
    fn waits(answers: &[Answer]) -> Vec<f64> {
        let (mut delivery, mut standing) = (Delivery::of(1), Standing::default());
        answers
            .iter()
            .filter_map(|answer| delivery.answered(answer, &mut standing, 1.0).wait)
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
            [1.0, 2.0, 30.0, 60.0, 120.0, 240.0, 300.0, 1.0]
        );
    }

    #[test]
    fn jitter_halves_the_wait_at_most() {
        let wait = Standing::default().failed(Pace::Passing, None, 0.0);
        assert_eq!(wait.delay, Duration::from_millis(500));
    }

    #[test]
    fn a_named_time_is_honoured_within_reason_and_never_undercut() {
        for (after, least, most) in [(7, 7.0, 7.7), (300, 300.0, 330.0), (999_999, 3600.0, 3960.0)] {
            for jitter in [0.0, 0.5, 1.0] {
                let wait = Standing::default().failed(Pace::Passing, Some(Duration::from_secs(after)), jitter);
                let delay = wait.delay.as_secs_f64();
                assert!((least..=most).contains(&delay), "{after} {jitter}: {delay}");
                assert!(wait.asked);
            }
        }
    }

    #[test]
    fn a_time_that_is_now_or_past_names_none() {
        assert_eq!(waits(&vec![retry(Some(0)); 4]), [1.0, 2.0, 4.0, 8.0]);
        assert!(!Standing::default().failed(Pace::Passing, Some(Duration::ZERO), 0.5).asked);
    }

    #[test]
    fn an_empty_batch_is_done() {
        assert_eq!(Delivery::of(0).part(), None);
    }

    #[test]
    fn a_batch_is_halved_down_to_the_guilty_record() {
        let (mut delivery, mut standing) = (Delivery::of(4), Standing::default());
        let mut sent = Vec::new();
        let mut fates = Vec::new();
        while let Some(part) = delivery.part() {
            sent.push((part.start, part.end));
            let answer = if part.contains(&2) { invalid() } else { accepted() };
            fates.extend(delivery.answered(&answer, &mut standing, 0.5).fate);
        }
        assert_eq!(sent, [(0, 4), (0, 2), (2, 4), (2, 3), (3, 4)]);
        assert_eq!(
            fates,
            [(0..2, Fate::Delivered), (2..3, Fate::Quarantined { reason: "bad".into() }), (3..4, Fate::Delivered)]
        );
    }

    #[test]
    fn a_hundred_refused_singly_are_the_receivers_fault() {
        let mut standing = Standing::default();
        for refused in 1..REFUSED_SINGLY_MAX {
            let step = Delivery::of(1).answered(&invalid(), &mut standing, 0.5);
            assert!(matches!(step.fate, Some((_, Fate::Quarantined { .. }))), "{refused}");
            assert_eq!(step.wait, None);
        }
        // The hundredth: held, slowly.
        let step = Delivery::of(1).answered(&invalid(), &mut standing, 0.5);
        assert_eq!(step.fate, Some((0..1, Fate::Held)));
        assert_eq!(step.wait.map(|wait| wait.pace), Some(Pace::Lasting));
        // So is a batch after it, but for its last record, which is tried alone.
        let mut delivery = Delivery::of(8);
        for held in [0..4, 4..6, 6..7, 7..8] {
            let step = delivery.answered(&invalid(), &mut standing, 0.5);
            assert_eq!(step.fate, Some((held, Fate::Held)));
            assert_eq!(step.wait.map(|wait| wait.pace), Some(Pace::Lasting));
        }
        assert_eq!(delivery.part(), None);
        // One acceptance gives all credit back.
        Delivery::of(7).answered(&accepted(), &mut standing, 0.5);
        let step = Delivery::of(1).answered(&invalid(), &mut standing, 0.5);
        assert!(matches!(step.fate, Some((_, Fate::Quarantined { .. }))));
    }

    #[test]
    fn a_receiver_that_calls_everything_too_large_loses_its_credit_too() {
        let (mut delivery, mut standing) = (Delivery::of(512), Standing::default());
        let mut quarantined = 0;
        while delivery.part().is_some() {
            let answer = Answer::TooLarge { message: "quota".into() };
            let step = delivery.answered(&answer, &mut standing, 0.5);
            quarantined += u32::from(matches!(step.fate, Some((_, Fate::Quarantined { .. }))));
        }
        assert_eq!(quarantined, REFUSED_SINGLY_MAX - 1);
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

    proptest! {
        #[test]
        fn every_record_is_delivered_or_quarantined_and_the_guilty_never_delivered(tastes in tastes()) {
            let records = tastes.sizes.len();
            let (mut delivery, mut standing) = (Delivery::of(records), Standing::default());
            let mut arrivals = vec![0_usize; records];
            let mut losses = vec![0_usize; records];
            let mut fates = vec![None; records];
            let mut moods = tastes.moods.iter().copied();
            let (mut sends, mut passing) = (0, 0);
            while let Some(part) = delivery.part() {
                sends += 1;
                prop_assert!(sends < 10_000, "the delivery does not end");
                let size: u32 = tastes.sizes[part.clone()].iter().sum();
                let spoiled = part.clone().any(|record| tastes.guilty.contains(&record));
                let verdict = if size > tastes.size_max {
                    Answer::TooLarge { message: String::new() }
                } else if spoiled {
                    invalid()
                } else {
                    accepted()
                };
                let answer = match (moods.next().flatten(), &verdict) {
                    (None, _) => verdict,
                    (Some(Mood::Refused), _) => refused(),
                    (Some(Mood::Lost), Answer::Accepted { .. }) => {
                        for record in part.clone() {
                            arrivals[record] += 1;
                            losses[record] += 1;
                        }
                        retry(None)
                    }
                    (Some(_), _) => retry(Some(3)),
                };
                passing += usize::from(matches!(answer, Answer::Retry { .. } | Answer::Refused { .. }));
                if let Answer::Accepted { .. } = answer {
                    for record in part.clone() {
                        arrivals[record] += 1;
                    }
                }
                let step = delivery.answered(&answer, &mut standing, 0.5);
                prop_assert_eq!(
                    step.wait.is_some(),
                    matches!(answer, Answer::Retry { .. } | Answer::Refused { .. })
                );
                if let Some((settled, fate)) = step.fate {
                    prop_assert_eq!(&settled, &part);
                    for record in settled {
                        prop_assert!(fates[record].replace(fate.clone()).is_none(), "two fates");
                    }
                }
            }
            let mut quarantined = 0;
            for record in 0..records {
                let hopeless = tastes.guilty.contains(&record) || tastes.sizes[record] > tastes.size_max;
                match &fates[record] {
                    Some(Fate::Delivered) => {
                        prop_assert!(!hopeless);
                        prop_assert_eq!(arrivals[record], 1 + losses[record], "repeats follow only lost answers");
                    }
                    Some(Fate::Quarantined { .. }) => {
                        quarantined += 1;
                        prop_assert!(hopeless, "an innocent record in quarantine");
                        prop_assert_eq!(arrivals[record], 0);
                    }
                    other => prop_assert!(false, "record {} ended as {:?}", record, other),
                }
            }
            if tastes.size_max == u32::MAX {
                let depth = (usize::BITS - records.leading_zeros()) as usize;
                prop_assert!(sends - passing <= 1 + 2 * quarantined * depth, "{} sends", sends);
            }
        }

        #[test]
        fn whatever_is_answered_nothing_is_settled_twice(
            records in 0_usize..50,
            answers in prop::collection::vec(0_u8..5, 0..300),
            jitter in 0.0_f64..1.0,
        ) {
            let (mut delivery, mut standing) = (Delivery::of(records), Standing::default());
            let mut settled = BTreeSet::new();
            for answer in answers {
                let answer = match answer {
                    0 => accepted(),
                    1 => retry(None),
                    2 => Answer::TooLarge { message: String::new() },
                    3 => invalid(),
                    _ => refused(),
                };
                let step = delivery.answered(&answer, &mut standing, jitter);
                for record in step.fate.into_iter().flat_map(|(part, _)| part) {
                    prop_assert!(settled.insert(record));
                }
                if let Some(wait) = step.wait {
                    prop_assert!(wait.delay <= REFUSED_MAX);
                }
            }
            let waiting: BTreeSet<usize> = delivery.parts.iter().cloned().flatten().collect();
            prop_assert!(settled.is_disjoint(&waiting));
            prop_assert_eq!(settled.len() + waiting.len(), records);
        }
    }
}
