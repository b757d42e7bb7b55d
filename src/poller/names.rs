//! Names listed by hand that no listing gives: what the pool's have shown, so that two of one user are found out, and the
//! looks at those that wait. The rules are in [`twins`](super::twins); this asks the ledger and the service.

use std::collections::BTreeSet;
use std::sync::Arc;

use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::event::AuthEvent;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::turn::{Means, TurnError, unless_stopped};
use super::twins::Shown;
use crate::ledger::{Ledger, LedgerError, Twin};
use crate::pool::Pool;
use crate::source::{Page, Source, SourceError};

/// What the names of a pool have shown that no listing gives: read from the ledger by the first turn of one of them, and kept
/// up to date by their turns. Clones are the same.
#[derive(Clone, Default)]
pub struct Names(Arc<(OnceCell<()>, Mutex<Shown>)>);

impl Names {
    /// Names that are read from the ledger before others have their turn.
    const AT_ONCE: usize = 500;

    /// Forgets what a name has shown that the ledger does not know any more, by the ledger's name for it.
    pub(super) fn forget(&self, name: &str) {
        self.shown(|shown| shown.forget(name));
    }

    /// Waits until everything is known that is stored.
    pub(super) async fn known(&self, ledger: &Ledger, pool_id: &str) -> Result<(), LedgerError> {
        let (read, _) = &*self.0;
        let read_all = async || {
            // Those who are gone too: their user may be followed under another name now.
            for (number, name) in ledger.usernames(pool_id).enumerate() {
                let name = match name {
                    Err(LedgerError::Corrupt { .. }) => continue,
                    name => name?,
                };
                if number % Self::AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
                // A record that cannot be read is nobody's who has a turn.
                let Ok(Some(standing)) = ledger.standing(pool_id, &name) else { continue };
                if standing.sub.is_none()
                    && twin(ledger, pool_id, &name)?.is_none()
                    && let Ok(Some(record)) = ledger.user(pool_id, &name)
                {
                    self.shown(|shown| shown.take(&name, record.cursor.newest()));
                }
            }
            Ok(())
        };
        read.get_or_try_init(read_all).await.copied()
    }

    /// Notes what a page of a name shows, and what its cursor knows with it, unless another name has shown some of it: that one.
    /// In one step, so that of two pages under way one is first.
    pub(super) fn show(&self, name: &str, page: &Page, cursor: &Cursor) -> Option<Arc<str>> {
        self.shown(|shown| {
            let other = shown.other_name(name, &page.events);
            if other.is_none() {
                shown.take(name, cursor.newest());
            }
            other
        })
    }

    /// One of two names is followed from now on.
    pub(super) fn merged(&self, means: &Means, pool_id: &str, (waits, kept): (&str, &str)) -> Result<(), LedgerError> {
        let record = means.ledger.user(pool_id, kept)?;
        self.shown(|shown| {
            shown.forget(waits);
            record.iter().for_each(|record| shown.take(kept, record.cursor.newest()));
        });
        Ok(())
    }

    fn shown<T>(&self, use_it: impl FnOnce(&mut Shown) -> T) -> T {
        let (_, shown) = &*self.0;
        use_it(&mut shown.lock())
    }
}

/// Whether a name that waits still is another name of `of`, who was polled just now: whether it shows an event that is
/// remembered there. If it is not, it is to be followed again, and the ledger has it so.
pub async fn is_still<S: Source>(means: &Means, pool: &Pool<S>, of: &str, name: &str) -> Result<bool, TurnError> {
    let pool_id = &pool.identity.id;
    unless_stopped(means, pool.source.reads().acquire()).await?;
    let page = match unless_stopped(means, pool.source.page(name, None, means.page_size)).await? {
        Ok(page) => page,
        // It is nobody's name at present.
        Err(SourceError::UserNotFound) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let known: BTreeSet<_> = means
        .ledger
        .user(pool_id, of)?
        .into_iter()
        .flat_map(|record| record.cursor.newest().collect::<Vec<_>>())
        .collect();
    let is_shown = |event: &AuthEvent| event.id.is_some() && known.contains(&event.key());
    let is_still = page.events.is_empty() || page.events.iter().any(is_shown);
    if is_still {
        means.ledger.still_merged(pool_id, name, Twin { of: of.to_owned(), seen: page.received }).await?;
    } else {
        means.ledger.part(pool_id, name, of).await?;
    }
    Ok(is_still)
}

/// Whose other name a name is. A note that cannot be read says nothing: the next page that both show makes another.
pub(super) fn twin(ledger: &Ledger, pool_id: &str, name: &str) -> Result<Option<Twin>, LedgerError> {
    match ledger.twin(pool_id, name) {
        Err(LedgerError::Corrupt { .. }) => Ok(None),
        twin => twin,
    }
}

/// Whether the user whom the ledger calls so is followed.
pub(super) fn is_followed(means: &Means, pool_id: &str, name: &str) -> Result<bool, LedgerError> {
    Ok(means.ledger.standing(pool_id, name)?.is_some_and(|standing| standing.gone_since.is_none()))
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
    use crate::poller::turn::{Known, take};
    use crate::rate_limiter::RateLimiter;
    use crate::source::metered::Metered;
    use crate::source::{Listing, PageToken, PoolDescription, UserPage};

    const POOL: &str = "eu-west-1_Names";
    const START: i64 = 1_795_523_756_000;
    const MINUTE: i64 = 60_000;

    /// The histories, by the names that they have, and the time.
    #[derive(Clone, Default)]
    struct Service(Arc<Mutex<(Histories, i64)>>);

    type Histories = HashMap<String, Vec<AuthEvent>>;

    impl Service {
        /// Something happens to the user who has this name, at a minute.
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

    struct Scene {
        means: Means,
        pool: Pool<Service>,
        names: Names,
        _directory: tempfile::TempDir,
    }

    impl Scene {
        async fn set(service: &Service, names: &[&str]) -> Self {
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
            let means = Means {
                ledger,
                metrics,
                calls: Arc::new(Semaphore::new(1)),
                page_size: 60,
                clock: Clock::manual(UnixMillis(START)),
                queue: true,
                outbox_limit_bytes: u64::MAX,
                stop: CancellationToken::new(),
            };
            let pool = Pool { slot: PoolSlot(0), identity, source, rules };
            Self { means, pool, names: Names::default(), _directory: directory }
        }

        /// Polls a name; answers whether it waits as another name of somebody.
        async fn poll(&self, name: &str) -> bool {
            let known = Known { activity: ActivityEstimate::UNKNOWN, expected: None };
            let polled =
                take(&self.means, &self.pool, name.to_owned(), Lane::Poll, known, &self.names, Instant::now()).await;
            match polled {
                Ok(_) | Err(TurnError::Joined) => false,
                Err(TurnError::OtherName { .. }) => true,
                Err(error) => panic!("{name}: {error}"),
            }
        }

        /// Events taken so far: each is queued once.
        fn taken(&self) -> u64 {
            self.means.ledger.outbox_state().records
        }
    }

    #[tokio::test]
    async fn a_name_that_is_moved_to_another_user_is_followed_from_the_move_on() {
        let service = Service::default();
        let scene = Scene::set(&service, &["ann", "ann@example.com"]).await;
        for name in ["ann", "ann@example.com"] {
            service.event(name, "1", 1);
        }
        assert!(!scene.poll("ann").await && scene.poll("ann@example.com").await);
        assert_eq!(scene.taken(), 1);
        let names = Names::default();
        let scene = Scene { names, ..scene };
        assert!(scene.poll("ann@example.com").await, "it is known after a restart");
        let look = async || is_still(&scene.means, &scene.pool, "ann", "ann@example.com").await.unwrap();
        assert!(look().await);
        // The address is another user's now, of whom something is older than the latest look.
        service.0.lock().0.remove("ann@example.com");
        assert!(look().await, "it is nobody's");
        service.event("ann@example.com", "old", 0);
        service.event("ann@example.com", "2", 5);
        service.event("ann", "3", 6);
        assert!(!scene.poll("ann").await && !look().await);
        assert!(!scene.poll("ann@example.com").await && !scene.poll("ann").await);
        assert_eq!(scene.taken(), 3, "1, 2 and 3");
        service.event("ann@example.com", "4", 7);
        assert!(!scene.poll("ann@example.com").await);
        assert_eq!(scene.taken(), 4);
    }

    #[tokio::test]
    async fn a_user_goes_on_under_the_name_that_is_left_and_nothing_is_taken_again() {
        let service = Service::default();
        let scene = Scene::set(&service, &["ann", "ann@example.com"]).await;
        let both = |id: &str, minute: i64| ["ann", "ann@example.com"].map(|name| service.event(name, id, minute));
        both("1", 1);
        assert!(!scene.poll("ann").await && scene.poll("ann@example.com").await);
        // What is forgotten one by one by now, and what nobody has read.
        both("2", 30);
        assert!(!scene.poll("ann").await);
        both("3", 60);
        assert!(!scene.poll("ann").await);
        both("4", 61);
        scene.means.ledger.mark_gone(POOL, &["ann".to_owned()], UnixMillis(START)).await.unwrap();
        // Once to find out that the gone user was the same, once to read on.
        assert!(!scene.poll("ann@example.com").await && !scene.poll("ann@example.com").await);
        assert_eq!(scene.taken(), 4);
    }

    #[tokio::test]
    async fn a_user_who_comes_back_under_another_name_is_known_by_what_the_name_that_left_has_taken() {
        let service = Service::default();
        let scene = Scene::set(&service, &["ann", "ann@example.com"]).await;
        let both = |id: &str, minute: i64| ["ann", "ann@example.com"].map(|name| service.event(name, id, minute));
        let gone = async |name: &str| {
            scene.means.ledger.mark_gone(POOL, &[name.to_owned()], UnixMillis(START)).await.unwrap();
        };
        both("1", 1);
        assert!(!scene.poll("ann").await);
        gone("ann").await;
        for (id, minute) in [("2", 30), ("3", 60)] {
            assert!(!scene.poll("ann@example.com").await && !scene.poll("ann@example.com").await);
            both(id, minute);
        }
        assert!(!scene.poll("ann@example.com").await);
        // And back, at the same moment: the record of this name is old by now.
        let ann = scene.means.ledger.user(POOL, "ann").unwrap().unwrap();
        scene.means.ledger.enroll(POOL, vec![("ann".to_owned(), ann)]).await.unwrap();
        gone("ann@example.com").await;
        assert!(!scene.poll("ann").await && !scene.poll("ann").await);
        assert_eq!(scene.taken(), 3);
    }

    #[tokio::test]
    async fn the_name_that_is_followed_for_longer_stays_and_knows_what_the_other_has_taken() {
        let service = Service::default();
        let scene = Scene::set(&service, &["ann", "ann@example.com"]).await;
        for name in ["ann", "ann@example.com"] {
            service.event(name, "1", 1);
        }
        assert!(!scene.poll("ann@example.com").await, "it is the first to show it");
        assert!(!scene.poll("ann").await, "and the younger");
        assert!(!scene.poll("ann").await && scene.poll("ann@example.com").await);
        assert_eq!(scene.taken(), 1);
    }
}
