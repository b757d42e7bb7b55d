//! Turns against a service in memory and a ledger on the disk.

use std::time::Duration;

use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::AuthEvent;
use cognito_auth_core::export::ExportDetails;
use cognito_auth_core::schedule::PoolSlot;
use cognito_auth_core::walk::Rules;
use parking_lot::Mutex;

use super::*;
use crate::config::StateConfig;
use crate::ledger::{Arrivals, ExportedArrival};
use crate::rate_limiter::RateLimiter;
use crate::source::metered::Metered;
use crate::source::{Listing, PageToken, PoolDescription, UserPage};

const POOL: &str = "eu-west-1_Turn";
const NOW: UnixMillis = UnixMillis(1_795_523_756_000);

/// A service that answers a request for a page by a function of its token.
struct PageSource<F>(F);

impl<F, A> Source for PageSource<F>
where
    F: Fn(Option<PageToken>) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Page, SourceError>> + Send,
{
    async fn page(&self, _: &str, token: Option<&PageToken>, _: u8) -> Result<Page, SourceError> {
        (self.0)(token.cloned()).await
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

/// A pool in which ann is followed.
struct AnnsPool {
    context: TurnContext,
    identity: Arc<PoolIdentity>,
    _directory: tempfile::TempDir,
}

impl AnnsPool {
    async fn new(ann: UserRecord, page_size: u8) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = StateConfig { path: directory.path().to_owned(), ..StateConfig::default() };
        let ledger = Ledger::open(&state, NOW).unwrap().ledger;
        ledger.enroll(POOL, vec![("ann".into(), ann)]).await.unwrap();
        let identity =
            Arc::new(PoolIdentity { id: POOL.into(), name: POOL.into(), region: "eu-west-1".into(), account_id: None });
        let metrics = Metrics::new(NOW);
        metrics.add_pool(&identity);
        let shown = metrics.clone();
        ledger.show_totals(move |pool_id, totals| shown.totals(pool_id, totals)).await.unwrap();
        let context = TurnContext {
            ledger,
            metrics,
            calls: Arc::new(Semaphore::new(1)),
            page_size,
            clock: Clock::system(),
            queue: true,
            outbox_limit_bytes: u64::MAX,
            stop: CancellationToken::new(),
        };
        Self { context, identity, _directory: directory }
    }

    /// Polls ann, whose pages the service makes with `answer`.
    async fn poll<A>(
        &self,
        overlap: Duration,
        answer: impl Fn(Option<PageToken>) -> A + Send + Sync + 'static,
    ) -> Result<TurnReport, TurnError>
    where
        A: Future<Output = Result<Page, SourceError>> + Send + 'static,
    {
        let (reads, lists) = (RateLimiter::new(1000.0), RateLimiter::new(1000.0));
        let metrics = self.context.metrics.clone();
        let source = Metered::new(PageSource(answer), self.identity.clone(), metrics, reads, lists);
        let rules = Rules { overlap, settle: Duration::ZERO, followed_since: None };
        let has_told = self.context.ledger.told_since(POOL).unwrap().is_some();
        let pool = Pool { slot: PoolSlot(0), source, identity: self.identity.clone(), rules, has_told };
        let expected = ExpectedActivity { activity: ActivityEstimate::UNKNOWN, new_events: None };
        let request = TurnRequest { username: "ann".to_owned(), lane: Lane::Poll, expected, start: Instant::now() };
        run(&self.context, &pool, &PoolSightings::default(), request).await
    }

    fn ann(&self) -> Option<UserRecord> {
        self.context.ledger.user(POOL, "ann").unwrap()
    }

    /// The lines of the counters that events move.
    fn counters(&self) -> Vec<String> {
        let moves = |line: &&str| line.starts_with("cognito_auth_") || line.contains("fetched_events");
        self.context.metrics.render().lines().filter(moves).map(str::to_owned).collect()
    }
}

fn joined(joined: UnixMillis) -> UserRecord {
    UserRecord { joined, sub: None, cursor: Cursor::new(NOW, NOW), activity: None }
}

#[tokio::test]
async fn a_page_read_for_somebody_who_has_gone_meanwhile_is_neither_written_nor_counted_nor_queued() {
    let another = joined(UnixMillis(NOW.0 + 1));
    for (enrolled, taken) in [(Some(another), false), (None, false), (Some(joined(NOW)), true)] {
        let pool = AnnsPool::new(joined(NOW), 60).await;
        let none_counted = pool.counters();
        let (ledger, record) = (pool.context.ledger.clone(), enrolled.clone());
        // The record of ann changes in the ledger before the service answers for her.
        let turn = pool.poll(Duration::ZERO, move |_| {
            let (ledger, record) = (ledger.clone(), record.clone());
            async move {
                let happened = match record {
                    Some(record) => ledger.enroll(POOL, vec![("ann".into(), record)]).await,
                    None => ledger.forget(POOL, vec!["ann".into()]).await,
                };
                happened.unwrap();
                let event = AuthEvent { id: Some("hers".into()), creation_date: Some(NOW), ..AuthEvent::default() };
                Ok(Page { events: vec![event], next: None, received: NOW, served: None })
            }
        });
        let turn = turn.await;
        assert_eq!(turn.is_ok(), taken);
        assert_eq!(pool.counters() != none_counted, taken);
        let ledger = pool.context.ledger.clone();
        assert_eq!(ledger.outbox_state().records, u64::from(taken));
        assert_eq!(ledger.failure(), None);
        if !taken {
            assert!(matches!(turn, Err(TurnError::NotEnrolled)));
            assert_eq!(pool.ann(), enrolled);
        }
        ledger.close().await;
    }
}

/// The number of the call that fails.
const FAILS_AT: usize = 15;

/// The event with this place in the history.
fn event(place: i64) -> AuthEvent {
    AuthEvent { id: Some(place.to_string()), creation_date: Some(UnixMillis(NOW.0 - place)), ..AuthEvent::default() }
}

/// Polls ann, who remembers this many events below the first thousand, in pages of one event until a call fails.
/// Answers with what the ledger remembered at each call and in the end, and with the number of entries.
async fn poll_remembering(events: i64) -> (Vec<usize>, usize, u64) {
    const OVERLAP: Duration = Duration::from_hours(1);
    let since = UnixMillis(NOW.0 - 7_200_000);
    let mut cursor = Cursor::new(since, since);
    let known = Page { events: (1000..1000 + events).map(event).collect(), next: None, received: NOW, served: None };
    let rules = Rules { overlap: OVERLAP, settle: Duration::ZERO, followed_since: None };
    Walk::begin(&cursor, NOW).take(&mut cursor, &known, &rules);
    let pool = AnnsPool::new(UserRecord { sub: Some("ann".to_owned()), cursor, ..joined(NOW) }, 1).await;

    let remembered = Arc::new(Mutex::new(vec![]));
    let (ledger, seen) = (pool.context.ledger.clone(), remembered.clone());
    let turn = pool.poll(OVERLAP, move |token| {
        let mut remembered = seen.lock();
        remembered.push(ledger.user(POOL, "ann").unwrap().unwrap().cursor.remembered());
        let place: i64 = token.map_or(0, |token| token.0.parse().unwrap());
        let next = Some(PageToken((place + 1).to_string()));
        std::future::ready(match remembered.len() {
            FAILS_AT => Err(SourceError::Passing("no answer".into())),
            _ => Ok(Page { events: vec![event(place)], next, received: NOW, served: None }),
        })
    });
    let turn = turn.await;
    assert!(matches!(turn, Err(TurnError::Source(SourceError::Passing(_)))), "{turn:?}");
    let (left, entries) = (pool.ann().unwrap().cursor.remembered(), pool.context.ledger.outbox_state().records);
    pool.context.ledger.clone().close().await;
    let remembered = remembered.lock().clone();
    (remembered, left, entries)
}

#[tokio::test(start_paused = true)]
async fn each_page_is_committed_before_the_next_where_little_is_remembered() {
    let (remembered, left, entries) = poll_remembering(100).await;
    assert_eq!(remembered, (100..100 + FAILS_AT).collect::<Vec<_>>());
    assert_eq!((left, entries), (100 + FAILS_AT - 1, 14));
}

#[tokio::test(start_paused = true)]
async fn pages_are_committed_together_where_much_is_remembered_and_also_when_the_next_one_fails() {
    let (remembered, left, entries) = poll_remembering(1024).await;
    let mut commits = remembered.clone();
    commits.dedup();
    assert_eq!(commits, [1024, 1028, 1032, 1036], "four pages a commit: {remembered:?}");
    assert_eq!((left, entries), (1024 + FAILS_AT - 1, 14), "and what was read before the failure");
}

#[tokio::test]
async fn an_exported_event_that_a_page_shows_with_two_dates_is_adopted_and_not_counted_again() {
    let anns = AnnsPool::new(joined(NOW), 60).await;
    let ledger = &anns.context.ledger;
    ledger.begin_told(POOL, NOW).await.unwrap();
    let [later, exported] = [100_000, 10_000].map(|offset| AuthEvent {
        id: Some("a".into()),
        creation_date: Some(UnixMillis(NOW.0 + offset)),
        ..AuthEvent::default()
    });
    let arrivals = Arrivals {
        pool: anns.identity.clone(),
        rules: Rules { overlap: Duration::ZERO, settle: Duration::ZERO, followed_since: None },
        queue: true,
        is_polled: true,
        received: NOW,
        events: vec![ExportedArrival {
            user: Arc::new(UserIdentity { username: "ann".into(), sub: None }),
            event: exported.clone(),
            details: ExportDetails::default(),
            live: true,
        }],
    };
    ledger.arrive(arrivals).await.unwrap();
    let answer = move |_| {
        let events = vec![later.clone(), exported.clone()];
        async { Ok(Page { events, next: None, received: UnixMillis(NOW.0 + 200_000), served: None }) }
    };
    for _ in 0..2 {
        anns.poll(Duration::from_hours(1), answer.clone()).await.unwrap();
        assert_eq!(anns.context.ledger.outbox_state().records, 1);
    }
}
