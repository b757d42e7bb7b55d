//! One user's turn: reads page after page, gives each to the walk, and commits it.
//!
//! [`run`] is the whole turn. It reads the user's record, begins a walk, and reads pages until the turn must end. A
//! page is one commit; where the cursor remembers much, several pages are ([`Walk::commit_may_wait`]). So a turn may
//! end between any two pages, and the process may die inside one. The cursor holds the parts that are still to be read.
//! A page whose commit is lost is read again.

mod findings;
mod judged;
mod other_names;
mod page_report;
#[cfg(test)]
mod tests;

use std::mem;
use std::sync::Arc;

use cognito_auth_core::counters;
use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::entry::{Entry, UserIdentity};
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::schedule::{ActivityEstimate, Allowed, Backlog, Lane};
use cognito_auth_core::walk::page_size::{Fit, page_size};
use cognito_auth_core::walk::{Kind, Next, Taken, Walk};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::findings::TurnFindings;
use self::judged::{JudgedPage, told_changes};
use self::other_names::{followed_record, name_to_compare};
use self::page_report::PageReport;
use crate::failpoint::{self, Failpoint};
use crate::ledger::{ActivityAt, Commit, Ledger, LedgerError, Twin, UserRecord};
use crate::lifecycle::Clock;
use crate::metrics::Metrics;
use crate::poller::export_audit::ShownEvent;
use crate::poller::names::PoolSightings;
use crate::pool::Pool;
use crate::source::{Page, Source, SourceError};

/// The largest number of times that pages are judged for one commit. Events of one user seldom arrive between a page
/// and its commit.
const JUDGED_MAX: u32 = 8;

/// The parts of the program that every turn uses.
pub struct TurnContext {
    /// The store of cursors, to which pages are committed.
    pub ledger: Ledger,
    /// Shows what is durable. The ledger itself shows the durable counters.
    pub metrics: Metrics,
    /// Calls in flight, over all pools (`poll.concurrency`).
    pub calls: Arc<Semaphore>,
    /// `poll.page_size`.
    pub page_size: u8,
    /// The clock of the walk.
    pub clock: Clock,
    /// Whether there is a sink. Without one no entry is queued.
    pub queue: bool,
    /// `state.outbox_limit`, in bytes. Polling pauses there, and history at half of it. Each page in flight may add to
    /// it.
    pub outbox_limit_bytes: u64,
    /// The soft stop: no turn reads or waits for a further page.
    pub stop: CancellationToken,
}

impl TurnContext {
    /// The kinds of turns that may begin, or go on to another page, at present.
    pub fn allowed(&self) -> Allowed {
        let waiting = self.ledger.outbox_state().bytes;
        let open = self.ledger.failure().is_none();
        Allowed {
            live: open && waiting < self.outbox_limit_bytes,
            history: open && waiting < self.outbox_limit_bytes / 2,
        }
    }
}

/// A turn that the schedule wants.
pub struct TurnRequest {
    /// The user.
    pub username: String,
    /// Whether to poll from the top or to go on with backlog.
    pub lane: Lane,
    /// The activity that the schedule expects.
    pub expected: ExpectedActivity,
    /// The time of the first call, as reserved at the rate limiter.
    pub start: Instant,
}

/// The activity that the schedule expects of a user before its turn.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedActivity {
    /// The estimate of the user's activity. The turn commits the estimate that follows from its findings.
    pub activity: ActivityEstimate,
    /// The number of new events to expect, where a poll may ask for a short page.
    pub new_events: Option<f64>,
}

impl ExpectedActivity {
    /// How many events to ask for first.
    fn page_size(&self, walk: &Walk, cursor: &Cursor, full: u8) -> u8 {
        let known_above = self.new_events.zip(walk.known_above(cursor));
        known_above.map_or(full, |(new_events, known)| page_size(known, new_events, full))
    }
}

/// The result of a turn for which the service answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TurnReport {
    /// When an event in progress is to be read again.
    pub next_look: Option<UnixMillis>,
    /// The kind of backlog that is still to be read.
    pub backlog: Option<Backlog>,
    /// Whether a part of the history is still to be read.
    pub history: bool,
    /// The findings that the schedule learns from.
    pub findings: TurnFindings,
    /// The events on the pages of a poll, in a pool whose export is audited.
    pub shown: Vec<ShownEvent>,
}

impl TurnReport {
    fn of(cursor: &Cursor, findings: TurnFindings, shown: Vec<ShownEvent>) -> Self {
        let history = cursor.open_walks().iter().any(|open| open.lower_edge < cursor.live_since());
        Self { next_look: cursor.next_look(), backlog: backlog(cursor), history, findings, shown }
    }
}

fn backlog(cursor: &Cursor) -> Option<Backlog> {
    let live = cursor.open_walks().iter().any(|open| open.lower_edge >= cursor.live_since());
    let backlog = if live { Backlog::Live } else { Backlog::History };
    let is_left = !cursor.open_walks().is_empty() || cursor.redelivery().is_some();
    is_left.then_some(backlog)
}

/// Why a turn ended without a report.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The service gave no page.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The ledger could not be read or written.
    #[error(transparent)]
    Ledger(LedgerError),
    /// The process stops. The turn stopped waiting for a call or its page, and committed nothing of it.
    #[error("the process stops")]
    Stopped,
    /// The user has no record in the ledger, or another record than the turn began with. The user goes on under another
    /// name, or the name belongs to another person now, and discovery is about to report it. Or the ledger was emptied.
    #[error("the user has no record in the ledger")]
    NotEnrolled,
    /// The name is another name of a followed user. Nothing of the page was committed.
    #[error("the name is another name of a user who is followed")]
    OtherName {
        /// The name.
        username: String,
        /// The user that has it.
        twin: Twin,
        /// Whether this turn found it; otherwise it was stored.
        anew: bool,
    },
    /// The user was followed under another name too. Its record has the events of both now, so the page is to be read
    /// again.
    #[error("the user was followed under another name too")]
    Joined,
    /// The user with this name has left the followed users. Where the ledger stores hashed names, only the turn finds
    /// that.
    #[error("the user is no longer followed")]
    Gone(String),
}

impl From<LedgerError> for TurnError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::NotEnrolled => Self::NotEnrolled,
            error => Self::Ledger(error),
        }
    }
}

/// Runs one turn: walks a user's history, with the first call not before the requested start.
///
/// # Errors
/// The user is not followed under this name, the service gave no page, the ledger failed, or the process stops. Pages
/// that were committed before stay committed.
pub async fn run<S: Source>(
    context: &TurnContext,
    pool: &Pool<S>,
    sightings: &PoolSightings,
    request: TurnRequest,
) -> Result<TurnReport, TurnError> {
    let TurnRequest { username, lane, expected, start } = request;
    let record = followed_record(context, &pool.identity.id, &username).await?;
    let given_name = name_to_compare(context, &pool.identity.id, &username, &record, sightings).await?;
    let walk = match lane {
        Lane::Poll => Some(Walk::begin(&record.cursor, context.clock.now())),
        Lane::Backlog => Walk::resume(&record.cursor),
    };
    let Some(walk) = walk else { return Ok(TurnReport::of(&record.cursor, TurnFindings::default(), vec![])) };
    unless_stopped(context, tokio::time::sleep_until(start)).await?;
    let mut turn = UserTurn {
        context,
        pool,
        sightings,
        given_name,
        user: Arc::new(UserIdentity { username, sub: record.sub.clone() }),
        activity: expected.activity,
        page_size: expected.page_size(&walk, &record.cursor, context.page_size),
        record,
        walk,
        token_refused: false,
        findings: TurnFindings::default(),
        uncommitted: Vec::new(),
        judged_from: None,
        shown: Vec::new(),
        uncommitted_since: start,
    };
    let read = turn.read_pages().await;
    // Also after an error: what was read need not be read again.
    let committed = turn.commit().await;
    read?;
    committed?;
    Ok(TurnReport::of(&turn.record.cursor, turn.findings, turn.shown))
}

/// The step after a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AfterPage {
    /// Another page is to be read.
    ReadOn,
    /// The turn ends.
    End,
}

/// A turn that reads pages.
struct UserTurn<'a, S> {
    context: &'a TurnContext,
    pool: &'a Pool<S>,
    sightings: &'a PoolSightings,
    /// The ledger's name of the user, if its pages are compared with those of other names.
    given_name: Option<String>,
    user: Arc<UserIdentity>,
    /// The activity estimate before the turn.
    activity: ActivityEstimate,
    /// How many events to ask for.
    page_size: u8,
    record: UserRecord,
    walk: Walk,
    /// Whether a paging token was refused in this turn.
    token_refused: bool,
    findings: TurnFindings,
    /// The pages that the walk has judged and that wait for their commit, and since when.
    uncommitted: Vec<JudgedPage>,
    /// In a pool with an export: the cursor and the walk before these pages.
    judged_from: Option<(Cursor, Walk)>,
    /// The events on the committed pages of a poll, in a pool with an export.
    shown: Vec<ShownEvent>,
    uncommitted_since: Instant,
}

impl<S: Source> UserTurn<'_, S> {
    /// Reads pages until the turn must end.
    async fn read_pages(&mut self) -> Result<(), TurnError> {
        while self.read_next_page().await? == AfterPage::ReadOn {
            unless_stopped(self.context, self.pool.source.reads().acquire()).await?;
        }
        Ok(())
    }

    /// Takes one step: requests the next page, judges it, and commits it, unless the commit may wait.
    async fn read_next_page(&mut self) -> Result<AfterPage, TurnError> {
        let page = match unless_stopped(self.context, self.request_page()).await? {
            Ok(page) => page,
            Err(error) => return self.after_refusal(error),
        };
        failpoint::reached(Failpoint::PageRead);
        self.findings.pages += 1;
        if self.is_too_short(&page) {
            (self.findings.fit, self.page_size) = (Fit::TooShort, self.context.page_size);
            return Ok(AfterPage::ReadOn);
        }
        if self.uncommitted.is_empty() {
            self.uncommitted_since = Instant::now();
            self.judged_from = self.pool.has_told.then(|| (self.record.cursor.clone(), self.walk.clone()));
        }
        let judged = self.judge(page)?;
        self.compare_with_other_names(&judged.page).await?;
        self.learn(&judged.taken, &judged.page);
        let (next, token_repeated) = (judged.taken.next, judged.taken.token_repeated);
        self.uncommitted.push(judged);
        if next == Next::Finished || !self.commit_may_wait() {
            self.commit().await?;
        }
        if token_repeated {
            return Err(SourceError::Passing("the service repeated its paging token".into()).into());
        }
        Ok(self.after_page(next))
    }

    /// Asks for a page, when a call may be in flight.
    async fn request_page(&self) -> Result<Page, SourceError> {
        let calls = &self.context.calls;
        let _in_flight = match calls.try_acquire() {
            Ok(free) => Some(free),
            Err(_) => {
                let free = calls.acquire().await.ok();
                // The reserved time of this call has passed. Without another one, all waiting calls would start at
                // once, above the budget.
                self.pool.source.reads().acquire().await;
                free
            }
        };
        self.pool.source.page(&self.user.username, self.walk.token(), self.page_size).await
    }

    /// Decides how to go on after a refused call. A paging token may have expired: then the walk begins again from the
    /// top, once in a turn. Nothing of it was committed, and nothing needs to be.
    fn after_refusal(&mut self, error: SourceError) -> Result<AfterPage, TurnError> {
        let is_of_token = matches!(error, SourceError::InvalidParameter(_)) && self.walk.token().is_some();
        if !is_of_token || std::mem::replace(&mut self.token_refused, true) {
            return Err(error.into());
        }
        let begins_again = self.walk.token_refused(&mut self.record.cursor);
        Ok(if begins_again { AfterPage::ReadOn } else { AfterPage::End })
    }

    /// Returns whether a short page did not show enough. It is dropped then, and a full one is read.
    fn is_too_short(&self, page: &Page) -> bool {
        self.page_size < self.context.page_size && !self.walk.ends_with(page)
    }

    /// Takes note of what a page says of the user's activity and of the page size.
    fn learn(&mut self, taken: &Taken, page: &Page) {
        if taken.out_of_order {
            self.findings.fit = Fit::OutOfOrder;
        }
        match self.walk.kind() {
            Kind::Poll if self.findings.pages == 1 && !self.activity.is_known() => self.findings.add_first_page(page),
            Kind::Poll => self.findings.add_new_events(taken, page.read_at()),
            Kind::Backlog => self.findings.add_live_events(taken, page.read_at()),
            Kind::Redelivery => {}
        }
    }

    /// Whether the judged pages may wait for the next page. A name that is compared with other names commits each page,
    /// because a match changes its record in the ledger.
    fn commit_may_wait(&self) -> bool {
        let waited = self.uncommitted_since.elapsed();
        self.given_name.is_none()
            && !self.walk.has_read_enough()
            && Walk::commit_may_wait(&self.record.cursor, self.uncommitted.len(), waited)
    }

    /// Commits the judged pages if they change something, and then reports them. The ledger itself shows the durable
    /// counters, even if the turn is dropped.
    async fn commit(&mut self) -> Result<(), LedgerError> {
        let Some(newest) = self.uncommitted.last() else { return Ok(()) };
        let is_poll = self.walk.kind() == Kind::Poll;
        // The first poll is committed even without a change, so that the activity of a silent user is stored.
        let is_first = is_poll && self.record.activity.is_none();
        if is_poll {
            let activity = self.findings.activity_after(self.activity);
            self.record.activity = Some(ActivityAt::new(activity, newest.page.received));
        }
        let mut tries = 1;
        let reports = loop {
            // In a pool with an export the pages may have to be judged again.
            let pages = if self.pool.has_told { self.uncommitted.clone() } else { mem::take(&mut self.uncommitted) };
            let is_changed = is_first || pages.iter().any(|judged| judged.taken.cursor_changed);
            let reports: Vec<_> = pages.iter().map(|judged| PageReport::of(&judged.taken, &judged.page)).collect();
            if !is_changed {
                break reports;
            }
            match self.context.ledger.commit(self.consequences(pages)).await {
                Ok(()) => break reports,
                Err(LedgerError::ToldMeanwhile) if tries < JUDGED_MAX => {
                    tries += 1;
                    self.judge_again()?;
                }
                Err(error) => {
                    self.uncommitted.clear();
                    return Err(error);
                }
            }
        };
        if is_poll && self.pool.has_told {
            let events = self.uncommitted.iter().flat_map(|judged| &judged.page.events);
            self.shown.extend(events.map(|event| ShownEvent { key: event.key(), created: event.creation_date }));
        }
        self.uncommitted.clear();
        reports.into_iter().for_each(|report| report.show(&self.context.metrics, &self.pool.identity.id));
        failpoint::reached(Failpoint::MetricsShown);
        Ok(())
    }

    /// Has the walk judge a page, beside what the pool's export has told.
    fn judge(&mut self, page: Page) -> Result<JudgedPage, LedgerError> {
        let pool = &self.pool;
        let told = pool.has_told.then(|| self.context.ledger.told(&pool.identity.id, &page.events)).transpose()?;
        Ok(JudgedPage::judge(&mut self.walk, &mut self.record.cursor, page, &pool.rules, told))
    }

    /// Judges the pages again, because the export has told one of their events since.
    fn judge_again(&mut self) -> Result<(), LedgerError> {
        let Some((cursor, walk)) = self.judged_from.clone() else { return Err(LedgerError::ToldMeanwhile) };
        (self.record.cursor, self.walk) = (cursor, walk);
        for judged in mem::take(&mut self.uncommitted) {
            let judged = self.judge(judged.page)?;
            self.uncommitted.push(judged);
        }
        Ok(())
    }

    /// Everything that pages change, in one write: the cursor, the counters, and the outgoing entries.
    fn consequences(&self, pages: Vec<JudgedPage>) -> Commit {
        let totals = counters::pages(pages.iter().map(|judged| &judged.taken));
        let told = told_changes(&pages);
        let entries = |JudgedPage { taken, page, .. }: JudgedPage| {
            let findings = taken.findings.into_iter().chain(taken.again);
            findings.map(move |finding| Entry::of(finding, &self.pool.identity, &self.user, page.received))
        };
        Commit {
            pool: self.pool.identity.clone(),
            username: self.user.username.clone(),
            record: self.record.clone(),
            totals,
            entries: pages.into_iter().filter(|_| self.context.queue).flat_map(entries).collect(),
            told,
        }
    }

    fn after_page(&self, next: Next) -> AfterPage {
        let allowed = self.context.allowed();
        let may_go_on = match backlog(&self.record.cursor) {
            Some(Backlog::History) => allowed.history,
            Some(Backlog::Live) | None => allowed.live,
        };
        let ends =
            next == Next::Finished || self.walk.has_read_enough() || self.context.stop.is_cancelled() || !may_go_on;
        if ends { AfterPage::End } else { AfterPage::ReadOn }
    }
}

/// Waits for a call's time or its page, but not beyond the soft stop: Cognito keeps what was not read. Commits are not
/// awaited like this, because a commit that was sent may be written.
pub(super) async fn unless_stopped<T>(context: &TurnContext, wait: impl Future<Output = T>) -> Result<T, TurnError> {
    context.stop.run_until_cancelled(wait).await.ok_or(TurnError::Stopped)
}
