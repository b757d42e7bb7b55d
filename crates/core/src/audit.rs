//! The auditor of a pool's export: how many of the events that polls find did the export tell, and can it be relied on?
//!
//! Cognito's own export is best effort, and AWS does not say what it loses. A poll reads a user's history itself. So
//! the export must have told what a poll finds:
//!
//! ```text
//!   export tells K --------------> told, for an hour --+
//!                                                      |  grace over: told? --yes--> arrived --+--> totals, estimate
//!   poll finds K, created at t --> waits for grace ----+                 '--no----> missed ---+--> up or down
//! ```
//!
//! **What is audited.** The auditor takes every event on the pages of a poll, whether it is new or known. The event
//! must have been created within the last [`Auditor::HORIZON`] and after the export began to be read. It is audited
//! once. Looks do not count. An event that the export told causes a look, so looks find told events sooner than lost
//! ones. In a pool where every sign-in has a second factor, the estimate would be far too low. Backlog does not count
//! either.
//!
//! **How long an event waits.** The grace has to pass since the event was created and since a poll found it, whichever
//! is later. The reader of the export may be behind, because it was not running or could not read. The first poll of an
//! old event would then count it as missed, if the grace began at its creation. For the same reason the grace begins
//! again when the export can be read again. The creation matters where its date is ahead of the local clock. Told
//! events wait as well. Otherwise arrivals would count a quarter of an hour before misses.
//!
//! **What is trusted.** EventIds and dates are Cognito's, not the user's. An event without a date is not audited, nor
//! one whose date lies ahead by more than [`Auditor::SKEW`].
//!
//! Memory is bounded ([`MemoryLimits`]). When the tellings of an hour are too many, the horizon shrinks to the time
//! that is remembered. When too many found events are remembered, others are not audited. Neither depends on whether an
//! event was told, so the estimate stays right. Pure: time is an argument.

mod found;
mod health;
mod loss;
mod told;

use std::time::{Duration, Instant};

use self::found::FoundEvents;
use self::health::HealthRules;
pub use self::health::{DownReason, ExportHealth};
pub use self::loss::LossEstimate;
use self::told::ToldKeys;
use crate::event::{EventKey, UnixMillis};

/// The present time on both clocks. Waits are measured by `now`, dates are compared with `wall`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuditClock {
    /// The local clock.
    pub wall: UnixMillis,
    /// The monotonic clock.
    pub now: Instant,
}

/// The most events that an auditor remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryLimits {
    /// Events that the export told: about 40 bytes each.
    pub told: usize,
    /// Events that polls found: about 120 bytes each.
    pub found: usize,
}

impl MemoryLimits {
    /// 262,144 told events are those of an hour at 70 events per second, and take 10 MB. 32,768 found events are those
    /// of an hour at 9 per second, which is more than full polling finds with 5 calls per second, and take 4 MB.
    pub const DEFAULT: Self = Self { told: 262_144, found: 32_768 };
}

/// The results of the audit since the review before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditReview {
    /// The number of events of which it is now known whether the export told them.
    pub audited: u64,
    /// Those of them that it did not tell.
    pub missed: u64,
    /// The health of the export, if it went up or down.
    pub change: Option<ExportHealth>,
}

/// The results of the audit for people.
#[derive(Clone, PartialEq, Debug)]
pub struct ExportStanding {
    /// Whether the export can be relied on, and why not.
    pub health: ExportHealth,
    /// The loss among the latest audited events.
    pub loss: LossEstimate,
    /// The mean delay of the latest exported events, in seconds; None before the first.
    pub delay_seconds: Option<f64>,
    /// Whether polls only audit the export at present.
    pub is_sampled: bool,
}

/// Audits the export of one pool.
#[derive(Debug)]
pub struct Auditor {
    grace: Duration,
    /// When the export was first read.
    began: Option<Instant>,
    told: ToldKeys,
    found: FoundEvents,
    rules: HealthRules,
    total: LossEstimate,
}

impl Auditor {
    /// The age of the oldest events that are audited. An hour is what polls read again by default, and what the sample
    /// needs to find a few hundred events an hour. A longer time would show a failure later, because more of the found
    /// events would be from before it.
    pub const HORIZON: Duration = Duration::from_hours(1);

    /// The greatest difference between the local clock and Cognito's that is allowed for. AWS refuses requests that are
    /// signed with a clock further off.
    pub const SKEW: Duration = Duration::from_mins(5);

    /// Makes an auditor that gives events this time to arrive. The export counts as up.
    pub fn new(grace: Duration) -> Self {
        Self::with_limits(grace, MemoryLimits::DEFAULT)
    }

    /// Makes an auditor with other limits of its memory.
    pub fn with_limits(grace: Duration, limits: MemoryLimits) -> Self {
        Self {
            grace,
            began: None,
            told: ToldKeys::new(limits.told),
            found: FoundEvents::new(limits.found),
            rules: HealthRules::default(),
            total: LossEstimate::default(),
        }
    }

    /// The export was read: a read ended without an error, or its endpoint is open.
    pub fn readable(&mut self, clock: AuditClock) {
        self.began.get_or_insert(clock.now);
        self.rules.readable(clock.now);
    }

    /// The export cannot be read. `why` completes the sentence "the export cannot be read: …".
    pub fn unreadable(&mut self, why: &str, clock: AuditClock) {
        self.rules.unreadable(why, clock.now);
    }

    /// The export told an event. Repetitions are no harm.
    pub fn told(&mut self, key: EventKey, clock: AuditClock) {
        let key = short(key);
        self.told.add(key, clock.now);
        self.found.told(key);
    }

    /// A poll found an event. Call this for every event on the pages of a poll that is no look, also for those that
    /// were known.
    pub fn found(&mut self, key: EventKey, created: Option<UnixMillis>, clock: AuditClock) {
        let Some(created) = created else { return };
        let Some(age_max) = self.age_max(clock.now) else { return };
        let ahead = created.since(clock.wall);
        if ahead > Self::SKEW || clock.wall.since(created) > age_max {
            return;
        }
        let key = short(key);
        let deadline = clock.now + ahead + self.grace;
        self.found.add(key, created, (clock.now, deadline), self.told.has(key));
    }

    /// The age up to which every event's telling is remembered, if it was told; None if nothing can be audited yet.
    fn age_max(&self, now: Instant) -> Option<Duration> {
        let since = self.told.forgotten_until().max(self.began).filter(|_| self.began.is_some())?;
        let remembered = now.saturating_duration_since(since).checked_sub(Self::SKEW)?;
        Some(remembered.min(Self::HORIZON))
    }

    /// Judges the events whose time has come, and the export by them. Call this every few seconds.
    pub fn review(&mut self, clock: AuditClock) -> AuditReview {
        let mut review = AuditReview { audited: 0, missed: 0, change: None };
        if self.rules.may_judge(self.grace, clock.now) {
            for judged in self.found.judge(clock.now) {
                review.audited += 1;
                review.missed += u64::from(judged.missed);
                self.total.add(judged.missed);
                self.rules.judged(judged, clock.wall);
            }
        }
        self.found.forget(clock.now);
        self.told.forget(clock.now);
        review.change = self.rules.decide(clock);
        review
    }

    /// Whether the export is up, and why not.
    pub fn health(&self) -> ExportHealth {
        self.rules.health()
    }

    /// The loss among the last [`ExportHealth::WINDOW`] audited events.
    pub fn recent_loss(&self) -> LossEstimate {
        self.rules.recent_loss()
    }

    /// The loss among all audited events since the start.
    pub fn total_loss(&self) -> LossEstimate {
        self.total
    }
}

/// Half of an event's key. Two of a million events share it once in 37 million such sets.
fn short(EventKey(key): EventKey) -> u64 {
    let [high, _] = key.as_chunks().0 else { unreachable!("16 bytes are two chunks of 8") };
    u64::from_be_bytes(*high)
}

#[cfg(test)]
mod tests;
