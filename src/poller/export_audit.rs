//! The audit of a pool's export by its polls: what the poller hears and shows, and how the pool is therefore polled.
//!
//! Pure but for the reader's state, which it looks up. `cognito_auth_core::audit` judges.

use std::time::{Duration, Instant};

use cognito_auth_core::arrival::HeardEvent;
use cognito_auth_core::audit::{AuditClock, AuditReview, Auditor, ExportStanding};
use cognito_auth_core::event::{EventKey, UnixMillis};
use cognito_auth_core::schedule::{PollMode, PoolSlot, Schedule};

/// An event that a poll has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShownEvent {
    /// The event.
    pub key: EventKey,
    /// Its CreationDate.
    pub created: Option<UnixMillis>,
}

/// Whether the export can be read at present.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExportReading {
    /// There was no answer yet.
    Unknown,
    /// It can be read; or it is delivered, and the endpoint is open.
    Readable,
    /// It cannot be read, for this reason.
    Unreadable(String),
}

/// The audit of one pool's export.
pub struct ExportAudit {
    auditor: Auditor,
    /// The sample; None where polling goes on as if there were no export.
    sample: Option<PollMode>,
    reading: Box<dyn FnMut() -> ExportReading + Send>,
    mode: PollMode,
    /// Since when the export is up again, while users are left that were not polled since.
    up_again: Option<Instant>,
    unpolled_looked_up: Option<Instant>,
    delay: MeanDelay,
}

/// A mean of the latest delays, in which each counts a hundredth.
#[derive(Clone, Copy, Debug, Default)]
struct MeanDelay(Option<f64>);

impl MeanDelay {
    const SHARE: f64 = 0.01;

    fn add(&mut self, delay: Duration) {
        let seconds = delay.as_secs_f64();
        self.0 = Some(self.0.map_or(seconds, |mean| mean + Self::SHARE * (seconds - mean)));
    }
}

impl ExportAudit {
    /// The pause between two counts of the users that were not polled since an outage. A count reads all users.
    const COUNT_EVERY: Duration = Duration::from_secs(30);

    /// Makes the audit of an export. `sample` is the rate of the sample in users per second, and its seed; None where
    /// polling goes on in full. `reading` says whether the export can be read.
    pub fn new(
        grace: Duration,
        sample: Option<(f64, u64)>,
        reading: impl FnMut() -> ExportReading + Send + 'static,
    ) -> Self {
        Self {
            auditor: Auditor::new(grace),
            sample: sample.map(|(per_second, seed)| PollMode::Sample { per_second, seed }),
            reading: Box::new(reading),
            mode: PollMode::Full,
            up_again: None,
            unpolled_looked_up: None,
            delay: MeanDelay::default(),
        }
    }

    /// How the pool's users are polled when it is followed.
    pub fn first_mode(&mut self) -> PollMode {
        self.mode = self.sample.unwrap_or(PollMode::Full);
        self.mode
    }

    /// Whether polls may be put off because of what the export tells. Otherwise they go on as if there were no export.
    pub fn spares_polls(&self) -> bool {
        self.sample.is_some()
    }

    /// The export has told an event.
    pub fn heard(&mut self, event: &HeardEvent, clock: AuditClock) {
        self.auditor.told(event.key, clock);
        if let Some(created) = event.created {
            self.delay.add(clock.wall.since(created));
        }
    }

    /// A poll that is no look has shown events.
    pub fn shown(&mut self, events: &[ShownEvent], clock: AuditClock) {
        events.iter().for_each(|event| self.auditor.found(event.key, event.created, clock));
    }

    /// Judges the export, and changes the pool's mode in the schedule where that follows.
    pub fn review(&mut self, slot: PoolSlot, schedule: &mut Schedule, clock: AuditClock) -> AuditReview {
        match (self.reading)() {
            ExportReading::Unknown => {}
            ExportReading::Readable => self.auditor.readable(clock),
            ExportReading::Unreadable(why) => self.auditor.unreadable(&why, clock),
        }
        let review = self.auditor.review(clock);
        if let Some(change) = &review.change {
            self.up_again = change.is_up().then_some(clock.now);
            self.unpolled_looked_up = None;
        }
        let mode = self.mode_now(slot, schedule, clock.now);
        if mode != self.mode {
            self.mode = mode;
            schedule.set_mode(slot, mode, clock.now, clock.now);
        }
        review
    }

    /// The mode that the export's health allows. After an outage polling goes on in full until every user was polled,
    /// because the export does not tell what it lost.
    fn mode_now(&mut self, slot: PoolSlot, schedule: &Schedule, now: Instant) -> PollMode {
        let Some(sample) = self.sample.filter(|_| self.auditor.health().is_up()) else { return PollMode::Full };
        let Some(since) = self.up_again else { return sample };
        let is_due = self.unpolled_looked_up.is_none_or(|at| now.duration_since(at) >= Self::COUNT_EVERY);
        if !is_due {
            return PollMode::Full;
        }
        self.unpolled_looked_up = Some(now);
        if schedule.unpolled(slot, since) > 0 {
            return PollMode::Full;
        }
        self.up_again = None;
        sample
    }

    /// The results for people.
    pub fn standing(&self) -> ExportStanding {
        ExportStanding {
            health: self.auditor.health(),
            loss: self.auditor.recent_loss(),
            delay_seconds: self.delay.0,
            is_sampled: self.mode != PollMode::Full,
        }
    }
}
