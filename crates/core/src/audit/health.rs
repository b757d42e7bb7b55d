//! Whether an export can be relied on: when it goes down, and when it is up again.
//!
//! | it goes down when | it is up again when |
//! |---|---|
//! | it could not be read for [`HealthRules::PATIENCE`] | it could be read for [`HealthRules::READABLE_FOR`] |
//! | none of the [`HealthRules::SILENT`] audited events that were created last arrived, or more than 5 % of the last 200 were missed | a trial has passed |
//!
//! A **trial** counts the audited events that were created since it began. It passes when the upper end of the 95 %
//! interval of their loss is below [`HealthRules::SURELY_BELOW`]. Without a miss that takes 125 events, with a loss of
//! 1 % about 400. A miss after which more than 5 % are missing begins a new trial. Polls go on finding events of an
//! outage for hours, and these do not delay the way back, because they are older than the trial. A trial lasts for the
//! grace at least.
//!
//! The measured loss of an export that loses about 5 % is now above the limit and now below it. Three rules keep the
//! export from going down and up with it. The way back has a lower limit than the way down. It needs certainty instead
//! of a share. An export that goes down again soon needs twice as many events. Being down costs calls and no events, so
//! patience is the cheaper mistake.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::found::Judged;
use super::{AuditClock, LossEstimate};
use crate::event::UnixMillis;

/// Whether an export can be relied on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExportHealth {
    /// Its events arrive, as far as is known. Polls only audit it.
    Up,
    /// It cannot be read or loses events. Its pool is polled in full.
    Down(DownReason),
}

impl ExportHealth {
    /// The number of the latest audited events that decide.
    pub const WINDOW: usize = 200;

    /// Whether the export can be relied on.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up)
    }
}

/// Why an export cannot be relied on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DownReason {
    /// It cannot be read.
    Unreadable {
        /// The reader's reason.
        why: String,
    },
    /// None of the latest audited events arrived.
    Silent,
    /// Too many of the latest audited events were missed.
    Lossy {
        /// The number of the latest audited events.
        audited: u64,
        /// Those of them that were missed.
        missed: u64,
    },
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { why } => write!(f, "the export cannot be read: {why}"),
            Self::Silent => write!(f, "none of the last {} events that polls found was exported", HealthRules::SILENT),
            Self::Lossy { audited, missed } => {
                write!(f, "{missed} of the last {audited} events that polls found were not exported")
            }
        }
    }
}

/// A time in which an export that lost events shows that it loses no more.
#[derive(Clone, Copy, Debug)]
struct Trial {
    since: UnixMillis,
    loss: LossEstimate,
}

impl Trial {
    fn new(since: UnixMillis) -> Self {
        Self { since, loss: LossEstimate::default() }
    }
}

/// The rules, and what they have to know.
#[derive(Debug, Default)]
pub(super) struct HealthRules {
    /// The latest audited events, in the order of their judgement.
    window: VecDeque<Judged>,
    /// Events from before this time do not decide: a trial has passed since.
    decides_from: Option<UnixMillis>,
    /// Since when the export cannot be read, and why.
    unreadable: Option<(Instant, String)>,
    /// Since when it can be read.
    readable_since: Option<Instant>,
    /// Whether it is down because it cannot be read.
    is_unreadable: bool,
    /// Why it is down, if it lost events, and the present trial.
    lost: Option<(DownReason, Trial)>,
    /// The events that were audited since the latest trial passed.
    audited_since_trial: u64,
    /// How often the number of events of a trial was doubled.
    doubled: u32,
    /// Whether events were audited since the latest decision.
    is_news: bool,
}

impl HealthRules {
    /// The time for which the export may be unreadable: a dozen reads. Later reads bring the events of this time.
    pub(super) const PATIENCE: Duration = Duration::from_mins(2);

    /// The time for which the export has to be readable without a break after that.
    pub(super) const READABLE_FOR: Duration = Duration::from_mins(5);

    /// The number of events that were created last of which one has to arrive.
    pub(super) const SILENT: usize = 20;

    /// The most missed events of a window: 5 %. One more decides before the window is full, because it would be too
    /// many for a full one.
    const MISSED_MAX: u64 = 10;

    /// The share of missed events that a trial has to exclude. The limit for going down is 5 %.
    pub(super) const SURELY_BELOW: f64 = 0.03;

    /// The share of missed events above which a trial begins anew.
    const TRIAL_LOSS_MAX: f64 = 0.05;

    /// The least number of events of a trial: so many without a miss exclude a loss of 3 %.
    const TRIAL: u64 = 125;

    /// The number of audited events after a trial within which going down again is a relapse. At a loss of 4 % it takes
    /// fewer, and at a loss of 1 % it does not happen.
    const RELAPSE: u64 = 2000;

    /// The most doublings. A trial then takes 2,000 events, and a loss of 4 % passes one in about ten thousand.
    const DOUBLED_MAX: u32 = 4;

    pub(super) fn readable(&mut self, now: Instant) {
        self.unreadable = None;
        self.readable_since.get_or_insert(now);
    }

    pub(super) fn unreadable(&mut self, why: &str, now: Instant) {
        self.readable_since = None;
        let since = self.unreadable.take().map_or(now, |(since, _)| since);
        self.unreadable = Some((since, why.to_owned()));
    }

    /// Whether the export has had its grace since it can be read.
    pub(super) fn may_judge(&self, grace: Duration, now: Instant) -> bool {
        self.readable_since.is_some_and(|since| now.saturating_duration_since(since) >= grace)
    }

    /// Takes note of an audited event.
    pub(super) fn judged(&mut self, event: Judged, wall: UnixMillis) {
        self.window.push_back(event);
        if self.window.len() > ExportHealth::WINDOW {
            self.window.pop_front();
        }
        self.audited_since_trial = self.audited_since_trial.saturating_add(1);
        self.is_news = true;
        if let Some((_, trial)) = &mut self.lost
            && event.created >= trial.since
        {
            trial.loss.add(event.missed);
            if event.missed && trial.loss.share().is_some_and(|share| share > Self::TRIAL_LOSS_MAX) {
                *trial = Trial::new(wall);
            }
        }
    }

    /// Applies the rules. Returns the health, if it went up or down.
    pub(super) fn decide(&mut self, clock: AuditClock) -> Option<ExportHealth> {
        let was_up = self.health().is_up();
        let lasts = |since: Instant| clock.now.saturating_duration_since(since);
        if self.unreadable.as_ref().is_some_and(|(since, _)| lasts(*since) >= Self::PATIENCE) {
            self.is_unreadable = true;
        } else if self.readable_since.is_some_and(|since| lasts(since) >= Self::READABLE_FOR) {
            self.is_unreadable = false;
        }
        match &self.lost {
            _ if !std::mem::take(&mut self.is_news) => {}
            Some((_, trial)) if self.passes(trial) => {
                self.decides_from = Some(trial.since);
                self.audited_since_trial = 0;
                self.lost = None;
            }
            Some(_) => {}
            None => {
                if let Some(reason) = self.lost_since(self.decides_from) {
                    let is_relapse = self.decides_from.is_some() && self.audited_since_trial <= Self::RELAPSE;
                    self.doubled = if is_relapse { (self.doubled + 1).min(Self::DOUBLED_MAX) } else { 0 };
                    self.lost = Some((reason, Trial::new(clock.wall)));
                }
            }
        }
        let health = self.health();
        (health.is_up() != was_up).then_some(health)
    }

    fn passes(&self, trial: &Trial) -> bool {
        trial.loss.audited >= Self::TRIAL << self.doubled
            && trial.loss.interval().1 < Self::SURELY_BELOW
            && self.lost_since(Some(trial.since)).is_none()
    }

    /// Why the latest events that were created since then say that the export is down.
    fn lost_since(&self, since: Option<UnixMillis>) -> Option<DownReason> {
        let deciding = || self.window.iter().filter(|event| Some(event.created) >= since);
        let mut loss = LossEstimate::default();
        deciding().for_each(|event| loss.add(event.missed));
        if loss.missed <= Self::MISSED_MAX {
            return None;
        }
        let mut latest: Vec<&Judged> = deciding().collect();
        latest.sort_by_key(|event| std::cmp::Reverse(event.created));
        let is_silent = latest.get(..Self::SILENT).is_some_and(|latest| latest.iter().all(|event| event.missed));
        let LossEstimate { audited, missed } = loss;
        Some(if is_silent { DownReason::Silent } else { DownReason::Lossy { audited, missed } })
    }

    pub(super) fn health(&self) -> ExportHealth {
        match (&self.unreadable, &self.lost) {
            (Some((_, why)), _) if self.is_unreadable => {
                ExportHealth::Down(DownReason::Unreadable { why: why.clone() })
            }
            (None, _) if self.is_unreadable => {
                let why = format!("it can be read again, but not for {} min yet", Self::READABLE_FOR.as_secs() / 60);
                ExportHealth::Down(DownReason::Unreadable { why })
            }
            (_, Some((reason, _))) => ExportHealth::Down(reason.clone()),
            (_, None) => ExportHealth::Up,
        }
    }

    pub(super) fn recent_loss(&self) -> LossEstimate {
        let mut loss = LossEstimate::default();
        self.window.iter().for_each(|event| loss.add(event.missed));
        loss
    }
}
