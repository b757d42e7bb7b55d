//! The findings of a turn that show how active its user is. The schedule learns from them.

use std::time::Duration;

use cognito_auth_core::event::{AuthEvent, Facts, Label, RiskLevel, UnixMillis};
use cognito_auth_core::schedule::{ActivityEstimate, FoundEvent};
use cognito_auth_core::walk::page_size::Fit;
use cognito_auth_core::walk::{Finding, Taken};

use crate::source::Page;

/// How long Cognito keeps an event.
const KEPT: Duration = Duration::from_hours(2 * 365 * 24);

/// The findings of a turn that concern its user's activity.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TurnFindings {
    /// Pages that were read, including short pages that had to be read again in full.
    pub pages: u32,
    /// The events that were not known before; of backlog only the live ones. For a user of unknown activity: all events
    /// of the first page.
    pub found: Vec<FoundEvent>,
    /// Whether the first page of a user of unknown activity was its whole history.
    pub whole: bool,
    /// Whether the size of the first page fitted.
    pub fit: Fit,
}

impl TurnFindings {
    /// Takes the first page of a user of unknown activity.
    pub(super) fn add_first_page(&mut self, page: &Page) {
        self.whole = page.next.is_none();
        self.found = page.events.iter().filter_map(|event| found(event, &event.facts(), page.read_at())).collect();
    }

    /// Takes the new events of a poll's page.
    pub(super) fn add_new_events(&mut self, taken: &Taken, read_at: UnixMillis) {
        self.add(taken, read_at, |_| true);
    }

    /// Takes the live new events of a page of backlog.
    pub(super) fn add_live_events(&mut self, taken: &Taken, read_at: UnixMillis) {
        self.add(taken, read_at, |finding| finding.live);
    }

    fn add(&mut self, taken: &Taken, read_at: UnixMillis, is_wanted: impl Fn(&Finding) -> bool) {
        let new = taken.findings.iter().filter(|finding| finding.before.is_none() && is_wanted(finding));
        self.found.extend(new.filter_map(|finding| found(&finding.event, &finding.facts, read_at)));
    }

    /// Estimates the activity after this turn, from the estimate before it.
    pub(super) fn activity_after(&self, mut before: ActivityEstimate) -> ActivityEstimate {
        before.polled(Duration::ZERO, &self.found, self.whole);
        before
    }
}

/// The age and risk of an event. A date in the future counts as now. A date that is older than Cognito keeps events
/// counts as the oldest one. So one wrong date does not decide how active a user seems.
fn found(event: &AuthEvent, facts: &Facts, read_at: UnixMillis) -> Option<FoundEvent> {
    let high_risk = facts.compromised || facts.level == Label::Known(RiskLevel::High);
    Some(FoundEvent { age: read_at.since(event.creation_date?).min(KEPT), high_risk })
}
