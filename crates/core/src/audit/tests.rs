//! The auditor's rules as sentences, and its promises as properties.

use fastrand::Rng;
use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_mins(15);
const DAY: UnixMillis = UnixMillis(1_795_523_756_000);

/// An auditor at a virtual time.
struct Audit {
    auditor: Auditor,
    start: Instant,
    /// The seconds since the export was first read.
    now: u64,
    changes: Vec<(u64, ExportHealth)>,
}

impl Audit {
    /// An auditor of an export that could be read for an hour.
    fn new() -> Self {
        Self::with_limits(MemoryLimits::DEFAULT)
    }

    fn with_limits(limits: MemoryLimits) -> Self {
        let auditor = Auditor::with_limits(GRACE, limits);
        let mut audit = Self { auditor, start: Instant::now(), now: 0, changes: vec![] };
        audit.readable();
        audit.at(3600)
    }

    fn at(mut self, now: u64) -> Self {
        self.pass(now - self.now);
        self
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
    }

    fn clock(&self) -> AuditClock {
        let since = Duration::from_secs(self.now);
        AuditClock { wall: DAY.plus(since), now: self.start + since }
    }

    fn readable(&mut self) {
        let clock = self.clock();
        self.auditor.readable(clock);
    }

    fn unreadable(&mut self) {
        let clock = self.clock();
        self.auditor.unreadable("access denied", clock);
    }

    fn told(&mut self, event: u64) {
        let clock = self.clock();
        self.auditor.told(key(event), clock);
    }

    /// A poll finds an event of this age in seconds; a negative age lies ahead.
    fn found(&mut self, event: u64, age: i64) {
        let clock = self.clock();
        self.auditor.found(key(event), Some(UnixMillis(clock.wall.0 - age * 1000)), clock);
    }

    /// The numbers of audited and missed events.
    fn review(&mut self) -> (u64, u64) {
        let clock = self.clock();
        let review = self.auditor.review(clock);
        self.changes.extend(review.change.map(|health| (self.now, health)));
        (review.audited, review.missed)
    }

    /// Lets `events` events come, one in `seconds`, and each be found at once. The export loses those that `is_lost`
    /// says. Then their grace passes.
    fn come(&mut self, events: u64, seconds: u64, mut is_lost: impl FnMut(u64) -> bool) {
        for number in 0..events {
            self.pass(seconds);
            let event = self.now << 16 | number;
            self.found(event, 0);
            if !is_lost(number) {
                self.told(event);
            }
            self.review();
        }
    }

    fn is_up(&self) -> bool {
        self.auditor.health().is_up()
    }

    fn reason(&self) -> String {
        match self.auditor.health() {
            ExportHealth::Up => "up".to_owned(),
            ExportHealth::Down(reason) => reason.to_string(),
        }
    }
}

fn key(event: u64) -> EventKey {
    EventKey((u128::from(event) << 64).to_be_bytes())
}

#[test]
fn an_event_arrives_before_or_after_a_poll_finds_it_or_is_missed() {
    let mut audit = Audit::new();
    audit.told(1);
    (1..=3).for_each(|event| audit.found(event, 10));
    audit.pass(100);
    audit.told(2);
    audit.told(2);
    audit.pass(799);
    assert_eq!(audit.review(), (0, 0), "told events wait as well");
    audit.pass(1);
    assert_eq!(audit.review(), (3, 1));
    audit.told(3);
    assert_eq!(audit.review(), (0, 0), "too late");
    assert_eq!(audit.auditor.total_loss(), LossEstimate { audited: 3, missed: 1 });
}

#[test]
fn the_grace_begins_when_the_event_was_created_and_found() {
    let mut audit = Audit::new();
    audit.found(1, 3000);
    audit.found(2, -240);
    audit.pass(899);
    assert_eq!(audit.review(), (0, 0), "the reader may be behind");
    audit.told(1);
    audit.pass(1);
    assert_eq!(audit.review(), (1, 0));
    audit.pass(239);
    assert_eq!(audit.review(), (0, 0), "the local clock may be behind");
    audit.pass(1);
    assert_eq!(audit.review(), (1, 1));
}

#[test]
fn a_date_that_proves_nothing_is_not_audited() {
    let mut audit = Audit::new();
    let clock = audit.clock();
    audit.auditor.found(key(1), None, clock);
    audit.found(2, -301);
    audit.found(3, 3301);
    audit.found(4, 3300);
    audit.auditor.found(key(5), Some(UnixMillis::MAX), clock);
    audit.auditor.found(key(6), Some(UnixMillis::MIN), clock);
    audit.pass(2000);
    assert_eq!(audit.review(), (1, 1), "only the fourth: created five minutes after the export began to be read");
    audit.pass(7200);
    audit.found(7, 3601);
    audit.found(8, 3600);
    audit.pass(2000);
    assert_eq!(audit.review(), (1, 1), "only the last hour");
}

#[test]
fn nothing_is_audited_before_the_export_is_read() {
    let mut audit = Audit::new();
    audit.auditor = Auditor::new(GRACE);
    audit.found(1, 0);
    audit.pass(3600);
    assert_eq!(audit.review(), (0, 0));
    assert!(audit.is_up(), "nothing is known against it");
}

#[test]
fn an_event_is_audited_once_however_often_polls_find_it() {
    let mut audit = Audit::new();
    audit.found(1, 0);
    let mut audited = 0;
    for _ in 0..120 {
        audit.pass(60);
        let age = i64::try_from(audit.now - 3600).unwrap();
        audit.found(1, age);
        audited += audit.review().0;
    }
    assert_eq!(audited, 1);
    assert_eq!(audit.auditor.found.len(), 0, "and is forgotten then");
}

#[test]
fn nobody_is_judged_while_the_export_cannot_be_read_nor_before_its_grace_after_that() {
    let mut audit = Audit::new();
    audit.found(1, 0);
    audit.found(2, 0);
    audit.pass(60);
    audit.unreadable();
    audit.pass(7200);
    assert_eq!(audit.review(), (0, 0));
    audit.readable();
    audit.pass(600);
    audit.told(1);
    audit.pass(299);
    assert_eq!(audit.review(), (0, 0));
    audit.pass(1);
    assert_eq!(audit.review(), (2, 1));
}

#[test]
fn an_export_that_cannot_be_read_is_down_after_two_minutes_and_up_after_five() {
    let mut audit = Audit::new();
    for failures in [11, 12] {
        for _ in 0..=failures {
            audit.unreadable();
            audit.review();
            audit.pass(10);
        }
        assert_eq!(audit.is_up(), failures == 11, "{}", audit.reason());
        if failures == 11 {
            audit.readable();
        }
    }
    assert_eq!(audit.reason(), "the export cannot be read: access denied");
    audit.readable();
    audit.pass(299);
    audit.review();
    assert_eq!(audit.reason(), "the export cannot be read: it can be read again, but not for 5 min yet");
    audit.unreadable();
    audit.pass(10);
    audit.readable();
    audit.pass(299);
    audit.review();
    assert!(!audit.is_up(), "without a break");
    audit.pass(1);
    audit.review();
    assert!(audit.is_up());
    assert_eq!(audit.changes.len(), 2);
}

#[test]
fn ten_of_two_hundred_may_be_missed_and_eleven_not() {
    let mut audit = Audit::new();
    audit.come(1200, 10, |number| number % 20 == 7);
    audit.come(90, 10, |_| false);
    assert!(audit.is_up(), "{}", audit.reason());
    assert_eq!(audit.auditor.recent_loss(), LossEstimate { audited: 200, missed: 10 });
    // One more among the last two hundred.
    audit.come(1, 10, |_| true);
    audit.come(300, 10, |number| number % 20 == 7);
    assert_eq!(audit.reason(), "11 of the last 200 events that polls found were not exported");
}

#[test]
fn none_of_the_last_twenty_arrived_and_older_ones_that_did_are_no_excuse() {
    let mut audit = Audit::new();
    // The export stops. Polls then find old events, which were told, and new ones.
    for number in 0..40 {
        let is_new = number % 2 == 0;
        if !is_new {
            audit.told(number);
        }
        audit.found(number, if is_new { 0 } else { 1800 });
        audit.pass(1);
    }
    audit.pass(899);
    audit.review();
    assert_eq!(audit.reason(), "none of the last 20 events that polls found was exported");
}

#[test]
fn nineteen_events_are_too_few_to_call_it_silent() {
    let mut audit = Audit::new();
    audit.come(10, 1, |_| true);
    audit.pass(1000);
    audit.review();
    assert!(audit.is_up(), "{}", audit.reason());
}

/// An export that was down for an hour, since the second 3,600.
fn after_an_outage() -> Audit {
    let mut audit = Audit::new();
    audit.come(360, 10, |_| true);
    assert!(!audit.is_up());
    audit
}

#[test]
fn a_trial_without_a_miss_takes_125_events_and_the_grace() {
    let mut audit = after_an_outage();
    let again = audit.now;
    audit.come(600, 10, |_| false);
    let (at, health) = audit.changes.last().unwrap();
    assert!(health.is_up());
    let took = at - again;
    // Misses of the outage are judged for 15 minutes more, and begin the trial anew.
    assert!((1250 + 900..=1250 + 2 * 900).contains(&took), "{took} s");
}

#[test]
fn events_of_the_outage_that_polls_still_find_do_not_delay_the_way_back() {
    let mut audit = after_an_outage();
    let again = audit.now;
    for number in 0..400 {
        audit.come(1, 10, |_| false);
        audit.found(number, i64::try_from(audit.now - again).unwrap() + 600);
        audit.review();
    }
    let (at, health) = audit.changes.last().unwrap();
    assert!(health.is_up() && at - again < 2400, "{} s", at - again);
    audit.come(400, 10, |_| false);
    assert!(audit.is_up(), "nor bring it down again: {}", audit.reason());
}

#[test]
fn an_export_that_recovers_is_up_again_soon_whatever_little_it_loses() {
    for seed in 0..20 {
        let mut random = Rng::with_seed(seed);
        let mut audit = after_an_outage();
        audit.come(1500, 10, |_| random.f64() < 0.005);
        assert!(audit.is_up(), "seed {seed}: {}", audit.reason());
        assert_eq!(audit.changes.len(), 2, "seed {seed}: down and up");
    }
}

#[test]
fn it_does_not_flap_at_a_steady_loss_about_the_limit() {
    for loss in [0.04, 0.05, 0.06] {
        let changes: Vec<usize> = (0..10)
            .map(|seed| {
                let mut random = Rng::with_seed(seed);
                let mut audit = Audit::new();
                audit.come(20_000, 10, |_| random.f64() < loss);
                audit.changes.len()
            })
            .collect();
        assert!(changes.iter().all(|changes| *changes <= 5), "{loss}: {changes:?}");
        assert!(changes.iter().sum::<usize>() <= 30, "{loss}: {changes:?} in 58 hours each");
    }
}

#[test]
fn a_small_steady_loss_does_not_bring_it_down_and_a_large_one_does() {
    for (loss, up) in [(0.0, true), (0.005, true), (0.01, true), (0.1, false), (0.5, false)] {
        let mut random = Rng::with_seed(7);
        let mut audit = Audit::new();
        audit.come(10_000, 10, |_| random.f64() < loss);
        assert_eq!(audit.changes.len(), usize::from(!up), "{loss}: {}", audit.reason());
    }
}

#[test]
fn the_injected_loss_lies_in_the_interval_also_where_memory_is_short() {
    for limits in [MemoryLimits::DEFAULT, MemoryLimits { told: 300, found: 100 }] {
        let mut held = 0;
        for seed in 0..100 {
            let mut random = Rng::with_seed(seed);
            let mut audit = Audit::with_limits(limits);
            // Polls find events of the last half an hour, and those of the last minutes twice.
            let mut events: Vec<u64> = vec![];
            for _ in 0..3000 {
                audit.pass(2);
                let event = audit.now;
                events.push(event);
                if random.f64() >= 0.05 {
                    audit.told(event);
                }
                let back = random.usize(0..900).min(events.len() - 1);
                let event = events[events.len() - 1 - back];
                audit.found(event, i64::try_from(audit.now - event).unwrap());
                if event.is_multiple_of(60) {
                    audit.review();
                }
            }
            audit.pass(900);
            audit.review();
            let loss = audit.auditor.total_loss();
            assert!(loss.audited >= 100, "{loss:?}");
            let (low, high) = loss.interval();
            held += usize::from((low..=high).contains(&0.05));
        }
        assert!((88..=100).contains(&held), "{held} of 100 with {limits:?}");
    }
}

/// Something that happens to an auditor.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Told(u64),
    Found(u64, i64),
    Readable,
    Unreadable,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..1200_u64).prop_map(Step::Pass),
        (0..500_u64).prop_map(Step::Told),
        ((0..500_u64), (-600..7200_i64)).prop_map(|(event, age)| Step::Found(event, age)),
        Just(Step::Readable),
        Just(Step::Unreadable),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_memory_is_bounded_and_counts_add_up(steps in prop::collection::vec(step(), 0..600)) {
        let limits = MemoryLimits { told: 40, found: 30 };
        let mut audit = Audit::with_limits(limits);
        let mut sum = LossEstimate::default();
        let mut was_up = true;
        for step in steps {
            match step {
                Step::Pass(seconds) => audit.pass(seconds),
                Step::Told(event) => audit.told(event),
                Step::Found(event, age) => audit.found(event, age),
                Step::Readable => audit.readable(),
                Step::Unreadable => audit.unreadable(),
            }
            let (audited, missed) = audit.review();
            prop_assert!(missed <= audited);
            sum = LossEstimate { audited: sum.audited + audited, missed: sum.missed + missed };
            prop_assert_eq!(audit.auditor.total_loss(), sum);
            prop_assert!(audit.auditor.recent_loss().audited <= 200);
            prop_assert!(audit.auditor.told.len() <= limits.told);
            prop_assert!(audit.auditor.found.len() <= limits.found);
            let changed = audit.changes.pop();
            prop_assert_eq!(changed.is_some(), was_up != audit.is_up(), "a change is reported once");
            was_up = audit.is_up();
        }
    }
}
