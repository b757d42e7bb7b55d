//! The commit of pages: cursor, counter increments and outgoing entries in one write, and the numbers shown after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::counters::{self, Series};
use cognito_auth_core::entry::{Entry, UserIdentity};
use cognito_auth_core::masking::Modes;
use cognito_auth_core::walk::{Finding, Taken};

use super::TurnContext;
use crate::failpoint::{self, Failpoint};
use crate::ledger::{Commit, LedgerError, UserRecord};
use crate::metrics::{PageEvents, Stage};
use crate::pool::Pool;
use crate::source::Page;

/// Commits pages, then shows them. `record` is the user's record if its cursor has changed; without a change nothing is
/// written. The ledger itself shows the durable counters, even if the turn is dropped.
pub(super) async fn commit_pages<S>(
    context: &TurnContext,
    pool: &Pool<S>,
    user: &Arc<UserIdentity>,
    record: Option<&UserRecord>,
    pages: Vec<(Taken, Page)>,
) -> Result<(), LedgerError> {
    let shown: Vec<_> =
        pages.iter().map(|(taken, page)| (page.received, page_events(taken), live_delays(taken, page))).collect();
    if let Some(record) = record {
        let commit = Commit {
            pool: pool.identity.clone(),
            username: user.username.clone(),
            record: record.clone(),
            totals: totals(pages.iter().map(|(taken, _)| taken)),
            entries: pages
                .into_iter()
                .filter(|_| context.queue)
                .flat_map(|(taken, page)| entries(pool, user, taken, &page))
                .collect(),
        };
        context.ledger.commit(commit).await?;
    }
    let metrics = &context.metrics;
    for (received, events, delays) in shown {
        metrics.page_taken(&pool.identity.id, events);
        delays.into_iter().for_each(|delay| metrics.event_delay(&pool.identity.id, delay));
        metrics.progress(Stage::Poll, received);
        metrics.progress(Stage::Commit, received);
    }
    failpoint::reached(Failpoint::MetricsShown);
    Ok(())
}

/// The outgoing entries of a page.
fn entries<S>(pool: &Pool<S>, user: &Arc<UserIdentity>, taken: Taken, page: &Page) -> Vec<Entry> {
    let entry = |finding: Finding| Entry {
        pool: pool.identity.clone(),
        user: user.clone(),
        event: finding.event,
        revision: finding.revision,
        history: !finding.live,
        observed: page.received,
        masked: Modes::default(),
    };
    taken.findings.into_iter().chain(taken.again).map(entry).collect()
}

/// The increments of the pool's durable counters.
fn totals<'a>(pages: impl Iterator<Item = &'a Taken>) -> Vec<(Series, u64)> {
    let mut totals = BTreeMap::new();
    for taken in pages {
        let seen = taken.findings.iter().flat_map(|finding| match &finding.before {
            None => counters::first_sight(&finding.facts, finding.live),
            Some(before) => counters::revision(before, &finding.facts, finding.live),
        });
        let unfinished = taken.unfinished.iter().flat_map(|facts| counters::unfinished(facts, true));
        for (series, increment) in seen.chain(unfinished) {
            *totals.entry(series).or_default() += increment;
        }
    }
    totals.into_iter().collect()
}

/// The time from creation to first sight, for each new live event.
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
