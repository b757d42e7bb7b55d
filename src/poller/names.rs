//! Names listed by hand that no listing gives: finds two that are one user's, and checks names that wait.
//!
//! The rules are in [`twins`](cognito_auth_core::users::twins). This module asks the ledger and the service.

use std::collections::BTreeSet;
use std::sync::Arc;

use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::event::AuthEvent;
use cognito_auth_core::users::twins::NameSightings;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::turn::{TurnContext, TurnError, unless_stopped};
use crate::ledger::{Ledger, LedgerError, Twin};
use crate::pool::Pool;
use crate::source::{Page, Source, SourceError};

/// The newest events that the names of a pool have shown which no listing gives. The first turn of such a name reads
/// them from the ledger, and every turn updates them. Clones share them.
#[derive(Clone, Default)]
pub struct PoolSightings(Arc<(OnceCell<()>, Mutex<NameSightings>)>);

impl PoolSightings {
    /// Names that are read from the ledger before other tasks run.
    const NAMES_AT_ONCE: usize = 500;

    /// Forgets what a name has shown, by the ledger's name for it.
    pub(super) fn forget(&self, name: &str) {
        self.with(|sightings| sightings.forget(name));
    }

    /// Loads what is stored, once; later calls wait for the first.
    pub(super) async fn load(&self, ledger: &Ledger, pool_id: &str) -> Result<(), LedgerError> {
        let (read, _) = &*self.0;
        let read_all = async || {
            // Gone names count, too: their users may be followed under other names now.
            for (number, name) in ledger.usernames(pool_id).enumerate() {
                let name = match name {
                    Err(LedgerError::Corrupt { .. }) => continue,
                    name => name?,
                };
                if number % Self::NAMES_AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
                // A user whose record cannot be read has no turn.
                let Ok(Some(standing)) = ledger.standing(pool_id, &name) else { continue };
                if standing.sub.is_none()
                    && twin(ledger, pool_id, &name)?.is_none()
                    && let Ok(Some(record)) = ledger.user(pool_id, &name)
                {
                    self.with(|sightings| sightings.replace(&name, record.cursor.newest()));
                }
            }
            Ok(())
        };
        read.get_or_try_init(read_all).await.copied()
    }

    /// Answers another name that has shown an event of this page, if there is one. Otherwise it notes the newest events
    /// of the cursor, which has the page's. Both happen in one step, so that of two pages under way one is first.
    pub(super) fn show(&self, name: &str, page: &Page, cursor: &Cursor) -> Option<Arc<str>> {
        self.with(|sightings| {
            let other = sightings.other_name(name, &page.events);
            if other.is_none() {
                sightings.replace(name, cursor.newest());
            }
            other
        })
    }

    /// Takes note that two names were merged: `waits` is no longer followed, `kept` is.
    pub(super) fn merged(
        &self,
        context: &TurnContext,
        pool_id: &str,
        waits: &str,
        kept: &str,
    ) -> Result<(), LedgerError> {
        let record = context.ledger.user(pool_id, kept)?;
        self.with(|sightings| {
            sightings.forget(waits);
            record.iter().for_each(|record| sightings.replace(kept, record.cursor.newest()));
        });
        Ok(())
    }

    fn with<T>(&self, act: impl FnOnce(&mut NameSightings) -> T) -> T {
        let (_, sightings) = &*self.0;
        act(&mut sightings.lock())
    }
}

/// Checks whether a name that waits is still another name of `of`, which was polled just now: whether it shows an event
/// that the cursor of `of` remembers. If not, the ledger notes that the name is followed again.
///
/// # Errors
/// The service gave no page, the ledger failed, or the process stops.
pub async fn is_still<S: Source>(
    context: &TurnContext,
    pool: &Pool<S>,
    of: &str,
    name: &str,
) -> Result<bool, TurnError> {
    let pool_id = &pool.identity.id;
    unless_stopped(context, pool.source.reads().acquire()).await?;
    let page = match unless_stopped(context, pool.source.page(name, None, context.page_size)).await? {
        Ok(page) => page,
        // No user has the name at present.
        Err(SourceError::UserNotFound) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let known: BTreeSet<_> = context
        .ledger
        .user(pool_id, of)?
        .into_iter()
        .flat_map(|record| record.cursor.newest().collect::<Vec<_>>())
        .collect();
    let is_shown = |event: &AuthEvent| event.id.is_some() && known.contains(&event.key());
    let is_still = page.events.is_empty() || page.events.iter().any(is_shown);
    if is_still {
        context.ledger.still_merged(pool_id, name, Twin { of: of.to_owned(), seen: page.received }).await?;
    } else {
        context.ledger.part(pool_id, name, of).await?;
    }
    Ok(is_still)
}

/// The user of which a name is another name. A note that cannot be read counts as none: the next page that both names
/// show makes another note.
pub(super) fn twin(ledger: &Ledger, pool_id: &str, name: &str) -> Result<Option<Twin>, LedgerError> {
    match ledger.twin(pool_id, name) {
        Err(LedgerError::Corrupt { .. }) => Ok(None),
        twin => twin,
    }
}

/// Whether a user is followed, by the ledger's name for it.
pub(super) fn is_followed(context: &TurnContext, pool_id: &str, name: &str) -> Result<bool, LedgerError> {
    Ok(context.ledger.standing(pool_id, name)?.is_some_and(|standing| standing.gone_since.is_none()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use cognito_auth_core::entry::PoolIdentity;
    use cognito_auth_core::event::UnixMillis;
    use cognito_auth_core::schedule::{ActivityEstimate, Lane, PoolSlot};
    use cognito_auth_core::walk::Rules;
    use tokio::sync::Semaphore;
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::StateConfig;
    use crate::ledger::UserRecord;
    use crate::lifecycle::Clock;
    use crate::metrics::Metrics;
    use crate::poller::turn::{ExpectedActivity, TurnRequest, run};
    use crate::rate_limiter::RateLimiter;
    use crate::source::metered::Metered;
    use crate::source::{Listing, PageToken, PoolDescription, UserPage};

    const POOL: &str = "eu-west-1_Names";
    const START: i64 = 1_795_523_756_000;
    const MINUTE: i64 = 60_000;

    /// A service with the histories by name, and the time.
    #[derive(Clone, Default)]
    struct Service(Arc<Mutex<(Histories, i64)>>);

    type Histories = HashMap<String, Vec<AuthEvent>>;

    impl Service {
        /// Adds an event to the history of a name, at a minute.
        fn event(&self, name: &str, id: &str, minute: i64) {
            let (histories, now) = &mut *self.0.lock();
            *now = START + minute * MINUTE;
            let event =
                AuthEvent { id: Some(id.into()), creation_date: Some(UnixMillis(*now)), ..AuthEvent::default() };
            histories.entry(name.to_owned()).or_default().insert(0, event);
        }
    }

    impl Source for Service {
        async fn page(&self, name: &str, _: Option<&PageToken>, _: u8) -> Result<Page, SourceError> {
            let (histories, now) = &*self.0.lock();
            let events = histories.get(name).cloned().ok_or(SourceError::UserNotFound)?;
            Ok(Page { events, next: None, received: UnixMillis(*now), served: None })
        }

        async fn users(&self, _: &Listing, _: Option<&PageToken>) -> Result<UserPage, SourceError> {
            unreachable!("nobody is listed")
        }

        async fn describe(&self) -> Result<PoolDescription, SourceError> {
            unreachable!("nothing is described")
        }

        fn events_cut(&self) -> u64 {
            0
        }

        async fn read_limit(&self) -> Result<f64, SourceError> {
            unreachable!("no limit is asked for")
        }
    }

    struct TestPool {
        context: TurnContext,
        pool: Pool<Service>,
        sightings: PoolSightings,
        _directory: tempfile::TempDir,
    }

    impl TestPool {
        async fn new(service: &Service, names: &[&str]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let state = StateConfig { path: directory.path().to_owned(), ..StateConfig::default() };
            let ledger = Ledger::open(&state, UnixMillis(START)).unwrap().ledger;
            let record = |live_since: i64| UserRecord {
                joined: UnixMillis(live_since),
                sub: None,
                cursor: Cursor::new(UnixMillis(live_since), UnixMillis(live_since)),
                activity: None,
            };
            let users = (START..).zip(names).map(|(since, name)| ((*name).to_owned(), record(since))).collect();
            ledger.enroll(POOL, users).await.unwrap();
            let identity =
                Arc::new(PoolIdentity { id: POOL.into(), name: POOL.into(), region: "r".into(), account_id: None });
            let metrics = Metrics::new(UnixMillis(START));
            metrics.add_pool(&identity);
            let source = Metered::new(
                service.clone(),
                identity.clone(),
                metrics.clone(),
                RateLimiter::new(1000.0),
                RateLimiter::new(1000.0),
            );
            let rules = Rules { overlap: Duration::from_secs(600), settle: Duration::ZERO, followed_since: None };
            let context = TurnContext {
                ledger,
                metrics,
                calls: Arc::new(Semaphore::new(1)),
                page_size: 60,
                clock: Clock::manual(UnixMillis(START)),
                queue: true,
                outbox_limit_bytes: u64::MAX,
                stop: CancellationToken::new(),
            };
            let pool = Pool { slot: PoolSlot(0), identity, source, rules, has_told: false };
            Self { context, pool, sightings: PoolSightings::default(), _directory: directory }
        }

        /// Polls a name; answers whether it waits as another name of a user.
        async fn poll(&self, name: &str) -> bool {
            let request = TurnRequest {
                username: name.to_owned(),
                lane: Lane::Poll,
                expected: ExpectedActivity { activity: ActivityEstimate::UNKNOWN, new_events: None },
                start: Instant::now(),
            };
            match run(&self.context, &self.pool, &self.sightings, request).await {
                Ok(_) | Err(TurnError::Joined) => false,
                Err(TurnError::OtherName { .. }) => true,
                Err(error) => panic!("{name}: {error}"),
            }
        }

        /// Events taken so far: each is queued once.
        fn taken(&self) -> u64 {
            self.context.ledger.outbox_state().records
        }
    }

    #[tokio::test]
    async fn a_name_that_is_moved_to_another_user_is_followed_from_the_move_on() {
        let service = Service::default();
        let test_pool = TestPool::new(&service, &["ann", "ann@example.com"]).await;
        for name in ["ann", "ann@example.com"] {
            service.event(name, "1", 1);
        }
        assert!(!test_pool.poll("ann").await && test_pool.poll("ann@example.com").await);
        assert_eq!(test_pool.taken(), 1);
        let test_pool = TestPool { sightings: PoolSightings::default(), ..test_pool };
        assert!(test_pool.poll("ann@example.com").await, "it is known after a restart");
        let look = async || is_still(&test_pool.context, &test_pool.pool, "ann", "ann@example.com").await.unwrap();
        assert!(look().await);
        // The address belongs to another user now, with an event that is older than the latest check.
        service.0.lock().0.remove("ann@example.com");
        assert!(look().await, "no user has it");
        service.event("ann@example.com", "old", 0);
        service.event("ann@example.com", "2", 5);
        service.event("ann", "3", 6);
        assert!(!test_pool.poll("ann").await && !look().await);
        assert!(!test_pool.poll("ann@example.com").await && !test_pool.poll("ann").await);
        assert_eq!(test_pool.taken(), 3, "1, 2 and 3");
        service.event("ann@example.com", "4", 7);
        assert!(!test_pool.poll("ann@example.com").await);
        assert_eq!(test_pool.taken(), 4);
    }

    #[tokio::test]
    async fn a_user_goes_on_under_the_name_that_is_left_and_nothing_is_taken_again() {
        let service = Service::default();
        let test_pool = TestPool::new(&service, &["ann", "ann@example.com"]).await;
        let both = |id: &str, minute: i64| ["ann", "ann@example.com"].map(|name| service.event(name, id, minute));
        both("1", 1);
        assert!(!test_pool.poll("ann").await && test_pool.poll("ann@example.com").await);
        // Events that the cursor forgets one by one, and an event that was not read.
        both("2", 30);
        assert!(!test_pool.poll("ann").await);
        both("3", 60);
        assert!(!test_pool.poll("ann").await);
        both("4", 61);
        test_pool.context.ledger.mark_gone(POOL, &["ann".to_owned()], UnixMillis(START)).await.unwrap();
        // Once to find out that the gone user was the same, once to read on.
        assert!(!test_pool.poll("ann@example.com").await && !test_pool.poll("ann@example.com").await);
        assert_eq!(test_pool.taken(), 4);
    }

    #[tokio::test]
    async fn a_user_who_comes_back_under_another_name_is_known_by_what_the_name_that_left_has_taken() {
        let service = Service::default();
        let test_pool = TestPool::new(&service, &["ann", "ann@example.com"]).await;
        let both = |id: &str, minute: i64| ["ann", "ann@example.com"].map(|name| service.event(name, id, minute));
        let gone = async |name: &str| {
            test_pool.context.ledger.mark_gone(POOL, &[name.to_owned()], UnixMillis(START)).await.unwrap();
        };
        both("1", 1);
        assert!(!test_pool.poll("ann").await);
        gone("ann").await;
        for (id, minute) in [("2", 30), ("3", 60)] {
            assert!(!test_pool.poll("ann@example.com").await && !test_pool.poll("ann@example.com").await);
            both(id, minute);
        }
        assert!(!test_pool.poll("ann@example.com").await);
        // And back, at the same moment: the record of this name is old by now.
        let ann = test_pool.context.ledger.user(POOL, "ann").unwrap().unwrap();
        test_pool.context.ledger.enroll(POOL, vec![("ann".to_owned(), ann)]).await.unwrap();
        gone("ann@example.com").await;
        assert!(!test_pool.poll("ann").await && !test_pool.poll("ann").await);
        assert_eq!(test_pool.taken(), 3);
    }

    #[tokio::test]
    async fn the_name_that_is_followed_for_longer_stays_and_knows_what_the_other_has_taken() {
        let service = Service::default();
        let test_pool = TestPool::new(&service, &["ann", "ann@example.com"]).await;
        for name in ["ann", "ann@example.com"] {
            service.event(name, "1", 1);
        }
        assert!(!test_pool.poll("ann@example.com").await, "it is the first to show it");
        assert!(!test_pool.poll("ann").await, "and the younger");
        assert!(!test_pool.poll("ann").await && test_pool.poll("ann@example.com").await);
        assert_eq!(test_pool.taken(), 1);
    }
}
