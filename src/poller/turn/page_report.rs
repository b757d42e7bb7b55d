//! A turn's report of a page to the metrics, beside the durable counters.

use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::walk::Taken;

use crate::metrics::{Metrics, PageEvents, Stage};
use crate::source::Page;

/// The numbers of a page that are shown once it is committed. A restart forgets them.
pub(super) struct PageReport {
    received: UnixMillis,
    events: PageEvents,
    /// The time from creation to first sight, for each new live event.
    delays: Vec<Duration>,
}

impl PageReport {
    /// Makes the report of a page.
    pub(super) fn of(taken: &Taken, page: &Page) -> Self {
        Self { received: page.received, events: page_events(taken), delays: live_delays(taken, page) }
    }

    /// Shows the page's numbers, and that polling and committing get on.
    pub(super) fn show(self, metrics: &Metrics, pool_id: &str) {
        metrics.page_taken(pool_id, self.events);
        self.delays.into_iter().for_each(|delay| metrics.event_delay(pool_id, delay));
        metrics.progress(Stage::Poll, self.received);
        metrics.progress(Stage::Commit, self.received);
    }
}

fn live_delays(taken: &Taken, page: &Page) -> Vec<Duration> {
    let new_and_live = taken.findings.iter().filter(|finding| finding.live && finding.before.is_none());
    new_and_live
        .filter_map(|finding| finding.event.creation_date)
        .map(|created| page.read_at().since(created))
        .collect()
}

fn page_events(taken: &Taken) -> PageEvents {
    let mut events = PageEvents {
        known: u64::try_from(taken.known).unwrap_or(u64::MAX),
        out_of_order: taken.out_of_order,
        ..PageEvents::default()
    };
    for finding in &taken.findings {
        match (&finding.before, finding.live) {
            (Some(_), _) => events.revisions += 1,
            (None, true) => events.new += 1,
            (None, false) => events.history += 1,
        }
        events.late += u64::from(finding.late);
    }
    events
}
