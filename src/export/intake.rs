//! The intake of exported records: each event joins its user's history.
//!
//! ```text
//!  documents --> by pool --> selected? --> Ledger::arrive --> metrics, and what was heard of users
//!                   |            '-- no: counted as unselected
//!                   '-- unreadable: to the quarantine, as it came
//! ```
//!
//! | the process dies | then |
//! |---|---|
//! | before a write of `arrive` | the source delivers the record again, and the event is new |
//! | after it, before `take` answers | the source delivers the record again, and the event is known |
//! | before the poller has heard of an event | a look at it waits for the user's next poll |
//!
//! An attacker writes the names of users and devices, and their number. Names select nobody: a user is selected by what
//! discovery has enrolled, or because the pool follows everybody.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::arrival::HeardEvent;
use cognito_auth_core::entry::{PoolIdentity, UserIdentity};
use cognito_auth_core::event::{EventKey, Facts, Label, RiskLevel, UnixMillis};
use cognito_auth_core::export::{DecodedDocument, ExportedEvent, UnreadableRecord};
use cognito_auth_core::shard::Shard;
use cognito_auth_core::walk::Rules;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use super::{Intake, NotTaken};
use crate::ledger::{ArrivalKind, ArrivalResult, Arrivals, ExportedArrival, Ledger, LedgerError};
use crate::metrics::{ExportResult, Metrics};
use crate::targets::user_change::{FollowedUsers, UserChange};

/// The parts of the program that the intake uses.
pub struct IntakeServices {
    /// The store.
    pub ledger: Ledger,
    /// Receives numbers.
    pub metrics: Metrics,
    /// Whether records are queued: there is a sink.
    pub queue: bool,
    /// Bytes in the outbox above which nothing is taken.
    pub outbox_limit_bytes: u64,
    /// Cancelled when the process stops.
    pub stop: CancellationToken,
}

/// A pool whose exported events are taken.
pub struct IntakePool<F> {
    /// Its identity in records and metrics.
    pub identity: Arc<PoolIdentity>,
    /// The rules for watching its events.
    pub rules: Rules,
    /// Whose events are taken.
    pub selected: SelectedUsers,
    /// Events of users without a record are live from this time on: since when the pool is followed.
    pub followed_since: UnixMillis,
    /// Hears of users; None where nothing is polled.
    pub followed: Option<F>,
}

/// The users whose exported events are taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SelectedUsers {
    /// Those that discovery has enrolled.
    Enrolled,
    /// Everybody of a shard but these names, and those that discovery has found gone.
    Everybody {
        /// Names that are left out.
        exclude: HashSet<String>,
        /// The share of the users.
        shard: Shard,
    },
}

/// The configured pools with an export. None: not ready yet.
type IntakePools<F> = BTreeMap<String, Option<Arc<IntakePool<F>>>>;

/// Takes exported records for all pools. Clones share the pools.
pub struct ExportIntake<F> {
    services: Arc<IntakeServices>,
    pools: Arc<RwLock<IntakePools<F>>>,
}

impl<F> Clone for ExportIntake<F> {
    fn clone(&self) -> Self {
        Self { services: self.services.clone(), pools: self.pools.clone() }
    }
}

/// Whether an event is taken, and since when events of its user are live.
enum Standing {
    Selected { live_since: UnixMillis, sub: Option<String> },
    Unselected,
}

impl<F: FollowedUsers> ExportIntake<F> {
    /// The largest number of events in one write. It bounds the writer's batch.
    const ARRIVALS_AT_ONCE: usize = 256;

    /// Makes an intake without pools.
    pub fn new(services: IntakeServices) -> Self {
        Self { services: Arc::new(services), pools: Arc::default() }
    }

    /// Refuses the events of a pool until it is added. Without this they would count as those of an unknown pool, and
    /// be lost.
    pub fn expect_pool(&self, pool_id: &str) {
        self.pools.write().insert(pool_id.to_owned(), None);
    }

    /// Takes the events of a pool from now on. Answers the pool, for [`ExportIntake::pause_pool`].
    pub fn add_pool(&self, pool: IntakePool<F>) -> Arc<IntakePool<F>> {
        let pool = Arc::new(pool);
        self.pools.write().insert(pool.identity.id.clone(), Some(pool.clone()));
        pool
    }

    /// Refuses the events of a pool again until it is added, unless it was added anew or removed since.
    pub fn pause_pool(&self, pool: &Arc<IntakePool<F>>) {
        if let Some(place) = self.pools.write().get_mut(&pool.identity.id) {
            place.take_if(|present| Arc::ptr_eq(present, pool));
        }
    }

    /// Takes no more events of a pool.
    pub fn remove_pool(&self, pool_id: &str) {
        self.pools.write().remove(pool_id);
    }

    /// Returns a pool; None for one whose export is not configured.
    fn pool(&self, pool_id: &str) -> Result<Option<Arc<IntakePool<F>>>, NotTaken> {
        match self.pools.read().get(pool_id) {
            Some(Some(pool)) => Ok(Some(pool.clone())),
            Some(None) => Err(NotTaken::NotReady(pool_id.to_owned())),
            None => Ok(None),
        }
    }

    /// Answers why nothing can be taken at present.
    fn refusal(&self) -> Option<NotTaken> {
        let ledger = &self.services.ledger;
        if self.services.stop.is_cancelled() {
            return Some(NotTaken::Stopping);
        }
        if let Some(failure) = ledger.failure() {
            return Some(NotTaken::Ledger(failure));
        }
        (ledger.outbox_state().bytes >= self.services.outbox_limit_bytes).then_some(NotTaken::OutboxFull)
    }

    async fn take_events(
        &self,
        pool_id: &str,
        events: Vec<ExportedEvent>,
        received: UnixMillis,
    ) -> Result<(), NotTaken> {
        let metrics = &self.services.metrics;
        let Some(pool) = self.pool(pool_id)? else {
            metrics.export_records("", ExportResult::Unselected, count(events.len()));
            return Ok(());
        };
        let (mut selected, mut unselected) = (Vec::new(), 0);
        for event in events {
            match self.standing(&pool, &event)? {
                Standing::Selected { live_since, sub } => selected.push(arrival(event, live_since, sub)),
                Standing::Unselected => unselected += 1,
            }
        }
        metrics.export_records(pool_id, ExportResult::Unselected, unselected);
        let mut selected = selected.into_iter();
        loop {
            let part: Vec<_> = selected.by_ref().take(Self::ARRIVALS_AT_ONCE).collect();
            if part.is_empty() {
                return Ok(());
            }
            self.take_part(&pool, part, received).await?;
        }
    }

    async fn take_part(
        &self,
        pool: &IntakePool<F>,
        events: Vec<ExportedArrival>,
        received: UnixMillis,
    ) -> Result<(), LedgerError> {
        let heard: Vec<_> = events.iter().map(Heard::of).collect();
        let arrivals = Arrivals {
            pool: pool.identity.clone(),
            rules: pool.rules,
            queue: self.services.queue,
            is_polled: pool.followed.is_some(),
            received,
            events,
        };
        let results = self.services.ledger.arrive(arrivals).await?;
        self.report(&pool.identity.id, &heard, &results, received);
        if let Some(followed) = &pool.followed {
            let heard = heard.into_iter().zip(results).filter_map(|(heard, result)| heard.event(result));
            let heard: Vec<_> = heard.collect();
            if !heard.is_empty() {
                followed.apply(UserChange::Heard(heard)).await;
            }
        }
        Ok(())
    }

    fn report(&self, pool_id: &str, heard: &[Heard], results: &[ArrivalResult], received: UnixMillis) {
        let metrics = &self.services.metrics;
        for kind in [ArrivalKind::New, ArrivalKind::Revision, ArrivalKind::Known, ArrivalKind::Late] {
            let of_kind = results.iter().filter(|result| result.kind == kind).count();
            metrics.export_records(pool_id, export_result(kind), count(of_kind));
        }
        for (heard, result) in heard.iter().zip(results) {
            let Some(created) = heard.created else { continue };
            let delay = received.since(created);
            if result.is_first_export {
                metrics.export_delay(pool_id, delay);
            }
            if result.kind == ArrivalKind::New && result.live {
                metrics.event_delay(pool_id, delay);
            }
        }
    }

    fn standing(&self, pool: &IntakePool<F>, event: &ExportedEvent) -> Result<Standing, LedgerError> {
        let (ledger, pool_id, username) = (&self.services.ledger, &pool.identity.id, event.username.as_str());
        if let SelectedUsers::Everybody { exclude, shard } = &pool.selected {
            let is_excluded = exclude.contains(username) || event.sub.as_ref().is_some_and(|sub| exclude.contains(sub));
            if is_excluded || !shard.holds(pool_id, username) {
                return Ok(Standing::Unselected);
            }
            if pool.followed.is_none() {
                return Ok(Standing::Selected { live_since: pool.followed_since, sub: None });
            }
        }
        let unknown = match pool.selected {
            SelectedUsers::Enrolled => Standing::Unselected,
            SelectedUsers::Everybody { .. } => Standing::Selected { live_since: pool.followed_since, sub: None },
        };
        Ok(match ledger.standing(pool_id, username)? {
            None => unknown,
            Some(standing) if standing.gone_since.is_some() => Standing::Unselected,
            Some(standing) => {
                let followed_since = pool.rules.followed_since.unwrap_or(UnixMillis::MAX);
                Standing::Selected { live_since: standing.live_since.min(followed_since), sub: standing.sub }
            }
        })
    }

    async fn keep_unreadable(&self, records: Vec<UnreadableRecord>) -> Result<(), LedgerError> {
        for record in records {
            let is_known = |pool_id: &&str| self.pools.read().contains_key(*pool_id);
            let pool_id = record.pool_id.as_deref().filter(is_known).unwrap_or_default();
            self.services.metrics.export_records(pool_id, ExportResult::Unreadable, 1);
            self.services.ledger.quarantine_exported(&record.reason.to_string(), record.bytes).await?;
        }
        Ok(())
    }
}

impl<F: FollowedUsers> Intake for ExportIntake<F> {
    async fn take(&self, documents: Vec<DecodedDocument>, received: UnixMillis) -> Result<(), NotTaken> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let mut by_pool: BTreeMap<String, Vec<ExportedEvent>> = BTreeMap::new();
        let mut unreadable = Vec::new();
        for document in documents {
            for event in document.events {
                match by_pool.get_mut(&event.pool_id) {
                    Some(events) => events.push(event),
                    None => {
                        by_pool.insert(event.pool_id.clone(), vec![event]);
                    }
                }
            }
            unreadable.extend(document.unreadable);
        }
        for (pool_id, events) in by_pool {
            self.take_events(&pool_id, events, received).await?;
        }
        Ok(self.keep_unreadable(unreadable).await?)
    }
}

/// What is heard of a user from an event, before the ledger says what the event was.
struct Heard {
    user: Arc<UserIdentity>,
    key: EventKey,
    created: Option<UnixMillis>,
    high_risk: bool,
}

impl Heard {
    fn of(arrival: &ExportedArrival) -> Self {
        let Facts { compromised, level, .. } = arrival.event.facts();
        Self {
            user: arrival.user.clone(),
            key: arrival.event.key(),
            created: arrival.event.creation_date,
            high_risk: compromised || level == Label::Known(RiskLevel::High),
        }
    }

    /// None for an event that told nothing: neither to the schedule nor to the auditor.
    fn event(self, result: ArrivalResult) -> Option<HeardEvent> {
        let is_new = result.kind == ArrivalKind::New;
        (is_new || result.is_first_export).then_some(HeardEvent {
            username: self.user.username.clone(),
            key: self.key,
            created: self.created,
            high_risk: self.high_risk,
            is_new,
            next_look: result.next_look,
        })
    }
}

fn arrival(exported: ExportedEvent, live_since: UnixMillis, sub: Option<String>) -> ExportedArrival {
    /// The export cuts a date to its second, so the event may be that much younger.
    const CUT_MAX: Duration = Rules::REST_OF_THE_SECOND;
    let ExportedEvent { username, event, details, date_in_seconds, sub: exported_sub, .. } = exported;
    let latest = event.creation_date.map(|date| if date_in_seconds { date.plus(CUT_MAX) } else { date });
    ExportedArrival {
        live: latest.is_none_or(|date| date >= live_since),
        user: Arc::new(UserIdentity { username, sub: sub.or(exported_sub) }),
        event,
        details,
    }
}

fn export_result(kind: ArrivalKind) -> ExportResult {
    match kind {
        ArrivalKind::New => ExportResult::New,
        ArrivalKind::Revision => ExportResult::Revision,
        ArrivalKind::Known => ExportResult::Known,
        ArrivalKind::Late => ExportResult::Late,
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StateConfig;

    const POOL: &str = "eu-west-1_Intake";

    #[derive(Clone)]
    struct Nobody;

    impl FollowedUsers for Nobody {
        async fn apply(&self, _: UserChange) {}
    }

    fn pool() -> IntakePool<Nobody> {
        let identity =
            PoolIdentity { id: POOL.into(), name: POOL.into(), region: "eu-west-1".into(), account_id: None };
        IntakePool {
            identity: Arc::new(identity),
            rules: Rules { overlap: Duration::ZERO, settle: Duration::ZERO, followed_since: None },
            selected: SelectedUsers::Enrolled,
            followed_since: UnixMillis(0),
            followed: None,
        }
    }

    #[tokio::test]
    async fn a_pool_that_ends_late_pauses_neither_its_successor_nor_a_pool_that_was_removed() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateConfig { path: directory.path().to_owned(), ..StateConfig::default() };
        let ledger = Ledger::open(&state, UnixMillis(0)).unwrap().ledger;
        let services = IntakeServices {
            ledger: ledger.clone(),
            metrics: Metrics::new(UnixMillis(0)),
            queue: false,
            outbox_limit_bytes: 1,
            stop: CancellationToken::new(),
        };
        let intake = ExportIntake::new(services);
        let first = intake.add_pool(pool());
        let second = intake.add_pool(pool());
        intake.pause_pool(&first);
        assert!(intake.pool(POOL).is_ok_and(|pool| pool.is_some()));
        intake.pause_pool(&second);
        assert!(intake.pool(POOL).is_err(), "not ready");
        intake.remove_pool(POOL);
        intake.pause_pool(&second);
        assert!(intake.pool(POOL).is_ok_and(|pool| pool.is_none()), "unknown");
        ledger.close().await;
    }
}
