//! Pages that are committed together, where the cursor remembers much.

use std::time::Duration;

use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::AuthEvent;
use cognito_auth_core::schedule::PoolSlot;
use cognito_auth_core::walk::Rules;
use parking_lot::Mutex;

use super::*;
use crate::config::StateConfig;
use crate::rate_limiter::RateLimiter;
use crate::source::metered::Metered;
use crate::source::{Listing, PageToken, PoolDescription, UserPage};

const POOL: &str = "eu-west-1_Turn";
const NOW: UnixMillis = UnixMillis(1_795_523_756_000);
const RULES: Rules = Rules { overlap: Duration::from_hours(1), settle: Duration::ZERO, followed_since: None };

/// The number of the call that fails.
const FAILS_AT: usize = 15;

/// A service with pages of one event. It notes at each call how many events the ledger remembers.
struct LongHistory {
    ledger: Ledger,
    remembered: Arc<Mutex<Vec<usize>>>,
}

impl Source for LongHistory {
    async fn page(&self, _: &str, token: Option<&PageToken>, _: u8) -> Result<Page, SourceError> {
        let record = self.ledger.user(POOL, "ann").unwrap().unwrap();
        let calls = {
            let mut remembered = self.remembered.lock();
            remembered.push(record.cursor.remembered());
            remembered.len()
        };
        if calls == FAILS_AT {
            return Err(SourceError::Passing("no answer".into()));
        }
        let place: i64 = token.map_or(0, |token| token.0.parse().unwrap());
        let next = Some(PageToken((place + 1).to_string()));
        Ok(Page { events: vec![event(place)], next, received: NOW, served: None })
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

/// The event with this place in the history.
fn event(place: i64) -> AuthEvent {
    AuthEvent { id: Some(place.to_string()), creation_date: Some(UnixMillis(NOW.0 - place)), ..AuthEvent::default() }
}

/// A user who remembers this many events below the first thousand.
fn remembering(events: i64) -> UserRecord {
    let since = UnixMillis(NOW.0 - 7_200_000);
    let mut cursor = Cursor::new(since, since);
    let known = (1000..1000 + events).map(event).collect();
    let page = Page { events: known, next: None, received: NOW, served: None };
    Walk::begin(&cursor, NOW).take(&mut cursor, &page, &RULES);
    UserRecord { joined: NOW, sub: Some("ann".to_owned()), cursor, activity: None }
}

/// Runs a poll of this user until the service fails. Answers with what the ledger remembered at each call and in the
/// end, and with the number of entries.
async fn poll(record: UserRecord) -> (Vec<usize>, usize, u64) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateConfig {
        path: directory.path().to_owned(),
        cache_bytes: 16 << 20,
        outbox_limit_bytes: 1 << 30,
        quarantine_limit_bytes: 1 << 30,
    };
    let ledger = Ledger::open(&state, NOW).unwrap().ledger;
    ledger.enroll(POOL, vec![("ann".into(), record)]).await.unwrap();
    let identity =
        Arc::new(PoolIdentity { id: POOL.into(), name: POOL.into(), region: "eu-west-1".into(), account_id: None });
    let metrics = Metrics::new(NOW);
    metrics.add_pool(&identity);
    let context = TurnContext {
        ledger: ledger.clone(),
        metrics: metrics.clone(),
        calls: Arc::new(Semaphore::new(1)),
        page_size: 1,
        clock: Clock::system(),
        queue: true,
        outbox_limit_bytes: u64::MAX,
        stop: CancellationToken::new(),
    };
    let remembered = Arc::new(Mutex::new(vec![]));
    let source = LongHistory { ledger: ledger.clone(), remembered: remembered.clone() };
    let (reads, lists) = (RateLimiter::new(1000.0), RateLimiter::new(1000.0));
    let source = Metered::new(source, identity.clone(), metrics, reads, lists);
    let pool = Pool { slot: PoolSlot(0), source, identity, rules: RULES };
    let expected = ExpectedActivity { activity: ActivityEstimate::UNKNOWN, new_events: None };
    let request = TurnRequest { username: "ann".to_owned(), lane: Lane::Poll, expected, start: Instant::now() };
    let turn = run(&context, &pool, &PoolSightings::default(), request).await;
    assert!(matches!(turn, Err(TurnError::Source(SourceError::Passing(_)))), "{turn:?}");
    let left = ledger.user(POOL, "ann").unwrap().unwrap().cursor.remembered();
    let entries = ledger.outbox_state().records;
    ledger.close().await;
    let remembered = remembered.lock().clone();
    (remembered, left, entries)
}

#[tokio::test(start_paused = true)]
async fn each_page_is_committed_before_the_next_where_little_is_remembered() {
    let (remembered, left, entries) = poll(remembering(100)).await;
    assert_eq!(remembered, (100..100 + FAILS_AT).collect::<Vec<_>>());
    assert_eq!((left, entries), (100 + FAILS_AT - 1, 14));
}

#[tokio::test(start_paused = true)]
async fn pages_are_committed_together_where_much_is_remembered_and_also_when_the_next_one_fails() {
    let (remembered, left, entries) = poll(remembering(1024)).await;
    let mut commits = remembered.clone();
    commits.dedup();
    assert_eq!(commits, [1024, 1028, 1032, 1036], "four pages a commit: {remembered:?}");
    assert_eq!((left, entries), (1024 + FAILS_AT - 1, 14), "and what was read before the failure");
}
