//! One user's turn: page after page through the walk into the ledger.
//!
//! Every page is one commit, so the turn may end between any two pages and the process may die inside one: what is left
//! open is in the cursor, and a page whose commit is lost is read again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::counters::{self, Series};
use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::entry::{Entry, UserIdentity};
use cognito_auth_core::event::{AuthEvent, Facts, Label, RiskLevel, UnixMillis};
use cognito_auth_core::masking::Modes;
use cognito_auth_core::schedule::{ActivityEstimate, Allowed, Backlog, Found, Lane};
use cognito_auth_core::walk::page_size::{Fit, page_size};
use cognito_auth_core::walk::{Kind, Next, Taken, Walk};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failpoint::{self, Failpoint};
use crate::ledger::{ActivityAt, Commit, Ledger, LedgerError, Twin, UserRecord};
use crate::lifecycle::Clock;
use crate::metrics::{Metrics, PageEvents, Stage};
use crate::poller::names::{self, Names};
use crate::pool::Pool;
use crate::source::{Page, Source, SourceError};

/// Pages of one poll. What is left goes to the lane for backlog, so that one busy user cannot hold up the others.
const POLL_PAGES_MAX: u32 = 20;

/// Pages of one turn in the lane for backlog, once it has got further.
const BACKLOG_PAGES_MAX: u32 = 50;

/// Pages of one turn in all: the way from the top down to a lower edge, when a token has died.
const TURN_PAGES_MAX: u32 = 5000;

/// How long Cognito keeps an event.
const KEPT: Duration = Duration::from_hours(2 * 365 * 24);

/// What every turn needs.
pub struct Means {
    /// Where cursors are read and commits go.
    pub ledger: Ledger,
    /// Where what happened is shown, after it is durable; the totals not, which the ledger shows.
    pub metrics: Metrics,
    /// Calls in flight, over all pools (`poll.concurrency`).
    pub calls: Arc<Semaphore>,
    /// `poll.page_size`.
    pub page_size: u8,
    /// What time it is for the walk.
    pub clock: Clock,
    /// Whether there is a sink: without one nothing is queued.
    pub queue: bool,
    /// `state.outbox_limit`: polling pauses; history at half of it. What is in flight then may go above it, a page each.
    pub outbox_limit_bytes: u64,
    /// The soft stop: no further page, and no waiting for one.
    pub stop: CancellationToken,
}

impl Means {
    /// What may be begun at present: a turn, and each of its pages.
    pub fn allowed(&self) -> Allowed {
        let waiting = self.ledger.outbox_state().bytes;
        let open = self.ledger.failure().is_none();
        Allowed {
            live: open && waiting < self.outbox_limit_bytes,
            history: open && waiting < self.outbox_limit_bytes / 2,
        }
    }
}

/// How a turn went, when the service answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// When an event in progress wants another look.
    pub next_look: Option<UnixMillis>,
    /// What is left open.
    pub backlog: Option<Backlog>,
    /// Whether something of the history is left open.
    pub history: bool,
    /// What it tells of the user's findings.
    pub findings: Findings,
}

/// What a turn tells of how active its user is: the schedule learns from it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// Pages asked for, short ones that did not do included.
    pub pages: u32,
    /// Of a poll: the events that were not known before. Of somebody whom the schedule does not know: all of the first page.
    pub found: Vec<Found>,
    /// Whether the first page of somebody whom the schedule does not know was the whole history.
    pub whole: bool,
    /// How the size of its first page did.
    pub fit: Fit,
}

impl Findings {
    /// Takes a page of somebody whom the schedule does not know.
    fn meet(&mut self, page: &Page) {
        self.whole = page.next.is_none();
        self.found = page.events.iter().filter_map(|event| found(event, &event.facts(), page.read_at())).collect();
    }

    /// What this makes of a activity.
    fn after(&self, mut activity: ActivityEstimate) -> ActivityEstimate {
        activity.polled(Duration::ZERO, &self.found, self.whole);
        activity
    }

    /// Takes what a page of a poll brought that was not known.
    fn add(&mut self, taken: &Taken, read_at: UnixMillis) {
        let new = taken.findings.iter().filter(|finding| finding.before.is_none());
        self.found.extend(new.filter_map(|finding| found(&finding.event, &finding.facts, read_at)));
    }
}

/// An event dated ahead has no age yet, and one dated far behind none beyond what Cognito keeps: a date may say anything,
/// and one event is not to say how active its user was.
fn found(event: &AuthEvent, facts: &Facts, read_at: UnixMillis) -> Option<Found> {
    let high_risk = facts.compromised || facts.level == Label::Known(RiskLevel::High);
    Some(Found { age: read_at.since(event.creation_date?).min(KEPT), high_risk })
}

/// Why a turn came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The service gave no page.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The ledger could not be read or written.
    #[error(transparent)]
    Ledger(LedgerError),
    /// The process stops: what the turn waited for it did without, and nothing of it was committed.
    #[error("the process stops")]
    Stopped,
    /// The user has no record in the ledger, or another than the turn began with: it goes on under another name, or another
    /// person has its name now, and the poller is about to be told. Or somebody emptied the ledger.
    #[error("the user has no record in the ledger")]
    NotEnrolled,
    /// The name is another name of a user who is followed, whether that is known just now (`anew`) or was stored. Nothing of
    /// the page is written.
    #[error("the name is another name of a user who is followed")]
    OtherName {
        /// The name.
        username: String,
        /// Whose.
        twin: Twin,
        /// Whether it was not known before.
        anew: bool,
    },
    /// The user was followed under another name too, whose events it knows now: the page is to be read again.
    #[error("the user was followed under another name too")]
    Joined,
    /// The user with this name has left the followed users. Where the ledger has no names, nobody else can say so.
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

/// What the schedule knows of a user before its turn.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// How active it is. What a turn finds is written with the activity that it makes of this one.
    pub activity: ActivityEstimate,
    /// New events to expect, where a poll may ask for a short page.
    pub expected: Option<f64>,
}

impl Known {
    /// How many events to ask for first.
    fn page_size(&self, walk: &Walk, cursor: &Cursor, full: u8) -> u8 {
        let known_above = self.expected.zip(walk.known_above(cursor));
        known_above.map_or(full, |(expected, known)| page_size(known, expected, full))
    }
}

/// Walks one user's history for one turn, its first call not before `start`. A first page tells how active somebody is of whom
/// nothing was known.
pub async fn take<S: Source>(
    means: &Means,
    pool: &Pool<S>,
    username: String,
    lane: Lane,
    known: Known,
    names: &Names,
    start: Instant,
) -> Result<Report, TurnError> {
    let (activity, pool_id) = (known.activity, &pool.identity.id);
    let mut record = means.ledger.user(&pool.identity.id, &username)?.ok_or(TurnError::NotEnrolled)?;
    if means.ledger.privacy().modes().hides_names() {
        let standing = means.ledger.standing(&pool.identity.id, &username)?;
        if standing.is_some_and(|standing| standing.gone_since.is_some()) {
            return Err(TurnError::Gone(username));
        }
    }
    if let Some(twin) = names::twin(&means.ledger, pool_id, &username)? {
        if names::is_followed(means, pool_id, &twin.of)? {
            return Err(TurnError::OtherName { username, twin, anew: false });
        }
        means.ledger.part(pool_id, &username, &twin.of).await?;
        record = means.ledger.user(pool_id, &username)?.ok_or(TurnError::NotEnrolled)?;
    }
    // Whoever is listed has one name.
    let given = record.sub.is_none().then(|| means.ledger.privacy().ledger_name(&username));
    if given.is_some() {
        names.known(&means.ledger, pool_id).await?;
    }
    let user = &Arc::new(UserIdentity { username, sub: record.sub.clone() });
    let walk = match lane {
        Lane::Poll => Some(Walk::begin(&record.cursor, means.clock.now())),
        Lane::Backlog => Walk::resume(&record.cursor),
    };
    let mut findings = Findings::default();
    let Some(mut walk) = walk else { return Ok(report(&record, findings)) };
    unless_stopped(means, tokio::time::sleep_until(start)).await?;
    let mut tokens_refused = 0;
    let mut page_size = known.page_size(&walk, &record.cursor, means.page_size);
    loop {
        let page = match unless_stopped(means, read(means, pool, user, &walk, page_size)).await? {
            Ok(page) => page,
            // Expired or refused: from the top, once. Nothing was committed of it, and nothing needs to be.
            Err(SourceError::InvalidParameter(_)) if walk.token().is_some() && tokens_refused == 0 => {
                tokens_refused += 1;
                if walk.token_refused(&mut record.cursor) {
                    unless_stopped(means, pool.source.reads().acquire()).await?;
                    continue;
                }
                return Ok(report(&record, findings));
            }
            Err(error) => return Err(error.into()),
        };
        failpoint::reached(Failpoint::PageRead);
        findings.pages += 1;
        if page_size < means.page_size && !walk.ends_with(&page) {
            (findings.fit, page_size) = (Fit::TooShort, means.page_size);
            unless_stopped(means, pool.source.reads().acquire()).await?;
            continue;
        }
        let taken = walk.take(&mut record.cursor, &page, &pool.rules);
        while let Some(name) = &given
            && let Some(first) = names.show(name, &page, &record.cursor)
        {
            match means.ledger.merge(pool_id, name, &first, page.received).await {
                Ok(()) => {
                    let username = user.username.clone();
                    let twin = means.ledger.twin(pool_id, &username)?;
                    names.merged(means, pool_id, if twin.is_some() { (name, &first) } else { (&first, name) })?;
                    return Err(twin.map_or(TurnError::Joined, |twin| TurnError::OtherName {
                        username,
                        twin,
                        anew: true,
                    }));
                }
                // There is no record of that one any more.
                Err(LedgerError::NotEnrolled) => names.forget(&first),
                Err(error) => return Err(error.into()),
            }
        }
        if taken.out_of_order {
            findings.fit = Fit::OutOfOrder;
        }
        match walk.kind() {
            Kind::Poll if findings.pages == 1 && !activity.is_known() => findings.meet(&page),
            Kind::Poll => findings.add(&taken, page.read_at()),
            Kind::Backlog | Kind::Redelivery => {}
        }
        // Without a change only once: that nobody forgets who showed nothing.
        let changed = taken.cursor_changed || (walk.kind() == Kind::Poll && record.activity.is_none());
        if walk.kind() == Kind::Poll {
            record.activity = Some(ActivityAt::new(findings.after(activity), page.received));
        }
        let (next, token_repeated) = (taken.next, taken.token_repeated);
        commit(means, pool, user, changed.then_some(&record), taken, &page).await?;
        if token_repeated {
            return Err(SourceError::Passing("the service repeated its paging token".into()).into());
        }
        let may_go_on = match backlog(&record) {
            Some(Backlog::History) => means.allowed().history,
            Some(Backlog::Live) | None => means.allowed().live,
        };
        if next == Next::Finished || is_enough(&walk) || means.stop.is_cancelled() || !may_go_on {
            return Ok(report(&record, findings));
        }
        unless_stopped(means, pool.source.reads().acquire()).await?;
    }
}

/// Waits for a call's time or its page, but not beyond the soft stop: whatever hangs there, nothing is lost by leaving it.
/// Commits are not waited for like this: one that was sent may be written.
pub(super) async fn unless_stopped<T>(means: &Means, wait: impl Future<Output = T>) -> Result<T, TurnError> {
    means.stop.run_until_cancelled(wait).await.ok_or(TurnError::Stopped)
}

async fn read<S: Source>(
    means: &Means,
    pool: &Pool<S>,
    user: &UserIdentity,
    walk: &Walk,
    page_size: u8,
) -> Result<Page, SourceError> {
    let _in_flight = match means.calls.try_acquire() {
        Ok(free) => Some(free),
        Err(_) => {
            let free = means.calls.acquire().await.ok();
            // The time this call had is over: all who waited with it would start at once now, above the budget.
            pool.source.reads().acquire().await;
            free
        }
    };
    pool.source.page(&user.username, walk.token(), page_size).await
}

/// A user's first poll leaves all but its newest page to the lane for backlog: the others' newest come first.
fn is_enough(walk: &Walk) -> bool {
    let pages_max = match walk.kind() {
        Kind::Poll if !walk.has_lower_edge() => TURN_PAGES_MAX,
        Kind::Poll if walk.is_first() => 1,
        Kind::Poll => POLL_PAGES_MAX,
        Kind::Backlog | Kind::Redelivery if walk.got_further() => BACKLOG_PAGES_MAX,
        Kind::Backlog | Kind::Redelivery => TURN_PAGES_MAX,
    };
    walk.pages() >= pages_max
}

fn report(record: &UserRecord, findings: Findings) -> Report {
    let cursor = &record.cursor;
    let history = cursor.open_walks().iter().any(|open| open.lower_edge < cursor.live_since());
    Report { next_look: cursor.next_look(), backlog: backlog(record), history, findings }
}

fn backlog(record: &UserRecord) -> Option<Backlog> {
    let cursor = &record.cursor;
    let live = cursor.open_walks().iter().any(|open| open.lower_edge >= cursor.live_since());
    let backlog = if live { Backlog::Live } else { Backlog::History };
    let is_left = !cursor.open_walks().is_empty() || cursor.redelivery().is_some();
    is_left.then_some(backlog)
}

/// Writes a page's cursor, if it has changed, with what it accounts for. The ledger itself shows the totals once they are durable, whatever
/// becomes of the turn.
async fn commit<S: Source>(
    means: &Means,
    pool: &Pool<S>,
    user: &Arc<UserIdentity>,
    record: Option<&UserRecord>,
    taken: Taken,
    page: &Page,
) -> Result<(), LedgerError> {
    let observed = page.received;
    let events = page_events(&taken);
    let delays: Vec<_> = taken
        .findings
        .iter()
        .filter(|finding| finding.live && finding.before.is_none())
        .filter_map(|finding| finding.event.creation_date)
        .map(|created| page.read_at().since(created))
        .collect();
    if let Some(record) = record {
        let totals = totals(&taken);
        let entry = |finding: cognito_auth_core::walk::Finding| Entry {
            pool: pool.identity.clone(),
            user: user.clone(),
            event: finding.event,
            revision: finding.revision,
            history: !finding.live,
            observed,
            masked: Modes::default(),
        };
        means
            .ledger
            .commit(Commit {
                pool: pool.identity.clone(),
                username: user.username.clone(),
                record: record.clone(),
                totals,
                entries: taken.findings.into_iter().chain(taken.again).filter(|_| means.queue).map(entry).collect(),
            })
            .await?;
    }
    means.metrics.page_taken(&pool.identity.id, events);
    delays.into_iter().for_each(|delay| means.metrics.event_delay(&pool.identity.id, delay));
    means.metrics.progress(Stage::Poll, observed);
    means.metrics.progress(Stage::Commit, observed);
    failpoint::reached(Failpoint::MetricsShown);
    Ok(())
}

/// By how much a page moves its pool's durable counters.
fn totals(taken: &Taken) -> Vec<(Series, u64)> {
    let mut totals = BTreeMap::new();
    let seen = taken.findings.iter().flat_map(|finding| match &finding.before {
        None => counters::first_sight(&finding.facts, finding.live),
        Some(before) => counters::revision(before, &finding.facts, finding.live),
    });
    let unfinished = taken.unfinished.iter().flat_map(|facts| counters::unfinished(facts, true));
    for (series, increment) in seen.chain(unfinished) {
        *totals.entry(series).or_default() += increment;
    }
    totals.into_iter().collect()
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

#[cfg(test)]
mod tests {
    use cognito_auth_core::entry::PoolIdentity;
    use cognito_auth_core::event::AuthEvent;
    use cognito_auth_core::schedule::PoolSlot;
    use cognito_auth_core::walk::Rules;

    use super::*;
    use crate::config::StateConfig;
    use crate::rate_limiter::RateLimiter;
    use crate::source::metered::Metered;
    use crate::source::{Listing, PageToken, PoolDescription, UserPage};

    const POOL: &str = "eu-west-1_Turn";
    const NOW: UnixMillis = UnixMillis(1_795_523_756_000);
    const NOBODY: Known = Known { activity: ActivityEstimate::UNKNOWN, expected: None };

    /// While it answers for ann, something happens to her place among the followed users.
    struct Meanwhile {
        ledger: Ledger,
        enrolled: Option<UserRecord>,
    }

    impl Source for Meanwhile {
        async fn page(&self, _: &str, _: Option<&PageToken>, _: u8) -> Result<Page, SourceError> {
            let happened = match self.enrolled.clone() {
                Some(record) => self.ledger.enroll(POOL, vec![("ann".into(), record)]).await,
                None => self.ledger.forget(POOL, vec!["ann".into()]).await,
            };
            happened.unwrap();
            let event = AuthEvent { id: Some("hers".into()), creation_date: Some(NOW), ..AuthEvent::default() };
            Ok(Page { events: vec![event], next: None, received: NOW, served: None })
        }

        async fn users(&self, _: &Listing, _: Option<&PageToken>) -> Result<UserPage, SourceError> {
            unreachable!("a turn lists nobody")
        }

        async fn describe(&self) -> Result<PoolDescription, SourceError> {
            unreachable!("a turn describes nothing")
        }

        fn events_cut(&self) -> u64 {
            0
        }

        async fn read_limit(&self) -> Result<f64, SourceError> {
            unreachable!("a turn asks for no limit")
        }
    }

    fn joined(joined: UnixMillis) -> UserRecord {
        UserRecord { joined, sub: None, cursor: Cursor::new(NOW, NOW), activity: None }
    }

    #[tokio::test]
    async fn a_page_read_for_somebody_who_has_gone_meanwhile_is_neither_written_nor_counted_nor_queued() {
        let another = joined(UnixMillis(NOW.0 + 1));
        for (enrolled, taken) in [(Some(another), false), (None, false), (Some(joined(NOW)), true)] {
            let directory = tempfile::tempdir().unwrap();
            let state = StateConfig {
                path: directory.path().to_owned(),
                cache_bytes: 16 << 20,
                outbox_limit_bytes: 1 << 30,
                quarantine_limit_bytes: 1 << 30,
            };
            let ledger = Ledger::open(&state, NOW).unwrap().ledger;
            ledger.enroll(POOL, vec![("ann".into(), joined(NOW))]).await.unwrap();
            let identity = Arc::new(PoolIdentity {
                id: POOL.into(),
                name: POOL.into(),
                region: "eu-west-1".into(),
                account_id: None,
            });
            let metrics = Metrics::new(NOW);
            metrics.add_pool(&identity);
            let shown = metrics.clone();
            ledger.show_totals(move |pool_id, totals| shown.totals(pool_id, totals)).await.unwrap();
            let none_counted = metrics.render();
            let means = Means {
                ledger: ledger.clone(),
                metrics: metrics.clone(),
                calls: Arc::new(Semaphore::new(1)),
                page_size: 60,
                clock: Clock::system(),
                queue: true,
                outbox_limit_bytes: u64::MAX,
                stop: CancellationToken::new(),
            };
            let source = Meanwhile { ledger: ledger.clone(), enrolled: enrolled.clone() };
            let (reads, lists) = (RateLimiter::new(1000.0), RateLimiter::new(1000.0));
            let pool = Pool {
                slot: PoolSlot(0),
                source: Metered::new(source, identity.clone(), metrics.clone(), reads, lists),
                identity,
                rules: Rules { overlap: Duration::ZERO, settle: Duration::ZERO, followed_since: None },
            };
            let names = Names::default();
            let turn = take(&means, &pool, "ann".to_owned(), Lane::Poll, NOBODY, &names, Instant::now()).await;
            let counters = |text: &str| -> Vec<String> {
                let durable = |line: &&str| line.starts_with("cognito_auth_") || line.contains("fetched_events");
                text.lines().filter(durable).map(str::to_owned).collect()
            };
            assert_eq!(turn.is_ok(), taken);
            assert_eq!(counters(&metrics.render()) != counters(&none_counted), taken);
            assert_eq!(ledger.outbox_state().records, u64::from(taken));
            assert_eq!(ledger.failure(), None);
            if !taken {
                assert!(matches!(turn, Err(TurnError::NotEnrolled)));
                assert_eq!(ledger.user(POOL, "ann"), Ok(enrolled));
            }
            ledger.close().await;
        }
    }
}
