//! The state of the simulation: pools, users, groups, roles, and every user's events. Tests and the demo change it
//! here.
//!
//! It does no I/O, except that [`WorldClock`] may read the machine's clock: the simulation does not share a clock with
//! the exporter. Events are stored as the JSON that clients receive. A client does not see an event before the event's
//! `visible_at` by the world's time. A method panics when its pool, user or event does not exist: that is a mistake in
//! the test.

mod exports;
mod pool;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use cognito_auth_core::event::{
    AuthEvent, Challenge, ChallengeName, ChallengeResponse, EventContext, EventFeedback, EventResponse, EventRisk,
    EventType, FeedbackValue, RiskDecision, UnixMillis, Word,
};
pub use pool::{ACCOUNT_ID, PoolUser, SimulatedPool};
use serde_json::Value;

use super::calls::CallLog;
use super::export::Occasion;
use super::fault::{FaultId, FaultKind, InjectedFault, InjectedFaults};
use super::firehose::FirehoseStream;
use super::history::HistoryEvent;
use super::logs::SimulatedLogGroup;
use super::paging::TokenTable;
use super::quota::Quotas;
use super::wire;

/// The source of the world's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WorldClock {
    /// The machine's clock.
    Real,
    /// The machine's clock plus this many milliseconds.
    Ahead(i64),
    /// A stopped clock, which tests move.
    Manual(UnixMillis),
}

impl WorldClock {
    #[expect(
        clippy::disallowed_methods,
        clippy::cast_possible_truncation,
        reason = "the service has its own clock, on which the exporter must not rely; milliseconds fit"
    )]
    fn now(self) -> UnixMillis {
        match self {
            Self::Manual(now) => now,
            Self::Ahead(by) => UnixMillis(Self::Real.now().0.saturating_add(by)),
            Self::Real => UnixMillis(
                std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .map_or(0, |since| since.as_millis() as i64),
            ),
        }
    }
}

/// A role that callers can assume through STS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    /// Such as `arn:aws:iam::444455556666:role/reader`. Its credentials are valid in the account of this ARN.
    pub arn: String,
    /// The ExternalId that AssumeRole requires.
    pub external_id: Option<String>,
}

/// Credentials that STS issued.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Session {
    pub(super) role_arn: String,
    pub(super) session_name: String,
    pub(super) expires: UnixMillis,
}

/// The complete state of the simulation.
#[derive(Debug)]
pub struct World {
    /// The account of callers with plain keys. If set, such a caller does not find pools of other accounts, as on AWS.
    /// If not set, plain keys may call every account. Credentials of a role are always limited to the role's account.
    pub home_account: Option<String>,
    /// Whether error names have the form `prefix#Name`.
    pub prefixed_errors: bool,
    /// How far the Date header of responses is ahead of the world's time, in milliseconds. None leaves the header out.
    pub date_header: Option<i64>,
    clock: WorldClock,
    seed: u64,
    random: fastrand::Rng,
    pools: BTreeMap<String, SimulatedPool>,
    /// By ARN.
    log_groups: BTreeMap<String, SimulatedLogGroup>,
    /// By name.
    streams: BTreeMap<String, FirehoseStream>,
    pub(super) roles: Vec<Role>,
    pub(super) sessions: HashMap<String, Session>,
    tokens: TokenTable,
    quotas: Quotas,
    faults: InjectedFaults,
    calls: CallLog,
}

impl World {
    /// An empty world.
    pub fn new(clock: WorldClock, seed: u64, quotas: Quotas) -> Self {
        Self {
            home_account: None,
            prefixed_errors: false,
            date_header: Some(0),
            clock,
            seed,
            random: fastrand::Rng::with_seed(seed),
            pools: BTreeMap::new(),
            log_groups: BTreeMap::new(),
            streams: BTreeMap::new(),
            roles: vec![],
            sessions: HashMap::new(),
            tokens: TokenTable::default(),
            quotas,
            faults: InjectedFaults::default(),
            calls: CallLog::default(),
        }
    }

    /// The world's time.
    pub fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    /// The time for the Date header of a response.
    pub(super) fn date_header_time(&self) -> Option<UnixMillis> {
        Some(UnixMillis(self.now().0.saturating_add(self.date_header?)))
    }

    /// Sets the clock to run this many milliseconds ahead of the machine's.
    pub fn set_ahead(&mut self, by: i64) {
        self.clock = WorldClock::Ahead(by);
    }

    /// Stops the clock at `now`.
    pub fn set_now(&mut self, now: UnixMillis) {
        self.clock = WorldClock::Manual(now);
    }

    /// Moves the clock forward and stops it there.
    pub fn advance(&mut self, by: Duration) {
        self.set_now(self.now().plus(by));
    }

    /// Adds a pool. It replaces a pool with the same id.
    pub fn add_pool(&mut self, pool: SimulatedPool) -> &mut SimulatedPool {
        let id = pool.id.clone();
        self.pools.insert(id.clone(), pool);
        self.pool_mut(&id)
    }

    /// The pool with this id.
    pub fn pool(&self, id: &str) -> Option<&SimulatedPool> {
        self.pools.get(id)
    }

    /// All pools.
    pub fn pools(&self) -> impl ExactSizeIterator<Item = &SimulatedPool> {
        self.pools.values()
    }

    /// The pool with this id, to change it.
    ///
    /// # Panics
    /// When the pool does not exist.
    #[track_caller]
    pub fn pool_mut(&mut self, id: &str) -> &mut SimulatedPool {
        match self.pools.get_mut(id) {
            Some(pool) => pool,
            None => panic!("the simulation has no pool {id}"),
        }
    }

    /// Removes a pool with its users and events.
    pub fn remove_pool(&mut self, id: &str) {
        self.pools.remove(id);
    }

    /// Adds a confirmed, enabled user with the creation date of now.
    ///
    /// # Panics
    /// When the pool does not exist, or has a user with this username.
    #[track_caller]
    pub fn add_user(&mut self, pool: &str, username: &str) {
        self.add_user_with(pool, username, |_| {});
    }

    /// Adds a user and applies `change` to it.
    ///
    /// # Panics
    /// When the pool does not exist, or has a user with this username.
    #[track_caller]
    pub fn add_user_with(&mut self, pool: &str, username: &str, change: impl FnOnce(&mut PoolUser)) {
        let mut user = PoolUser::new(username, &self.new_id(), self.now());
        change(&mut user);
        let pool = self.pool_mut(pool);
        let is_free = pool.user(username).is_none_or(|user| user.username != username);
        assert!(is_free, "the pool has a user {username}");
        pool.add(user);
    }

    /// Changes a user's attributes, state or dates.
    ///
    /// # Panics
    /// When the pool or the user does not exist.
    #[track_caller]
    pub fn change_user(&mut self, pool: &str, name: &str, change: impl FnOnce(&mut PoolUser)) {
        let now = self.now();
        let (ordinal, user) = self.user_mut(pool, name);
        user.last_modified = now;
        self.pool_mut(pool).change(ordinal, change);
    }

    /// Deletes a user with its events and group memberships.
    ///
    /// # Panics
    /// When the pool or the user does not exist.
    #[track_caller]
    pub fn delete_user(&mut self, pool: &str, name: &str) {
        let (ordinal, _) = self.user_mut(pool, name);
        self.pool_mut(pool).remove(ordinal);
    }

    /// Deletes a user and creates another with the same username: new sub, no events, no groups.
    ///
    /// # Panics
    /// When the pool or the user does not exist.
    #[track_caller]
    pub fn recreate_user(&mut self, pool: &str, name: &str) {
        self.delete_user(pool, name);
        self.add_user(pool, name);
    }

    /// Adds a user to a group. Creates the group if it does not exist.
    ///
    /// # Panics
    /// When the pool or the user does not exist.
    #[track_caller]
    pub fn add_to_group(&mut self, pool: &str, group: &str, name: &str) {
        let (ordinal, _) = self.user_mut(pool, name);
        let groups = &mut self.pool_mut(pool).groups;
        groups.entry(group.to_owned()).or_default().insert(ordinal);
    }

    /// Adds an empty group.
    ///
    /// # Panics
    /// When the pool does not exist.
    #[track_caller]
    pub fn add_group(&mut self, pool: &str, group: &str) {
        self.pool_mut(pool).groups.entry(group.to_owned()).or_default();
    }

    /// Removes a user from a group.
    ///
    /// # Panics
    /// When the pool or the user does not exist.
    #[track_caller]
    pub fn remove_from_group(&mut self, pool: &str, group: &str, name: &str) {
        let (ordinal, _) = self.user_mut(pool, name);
        if let Some(members) = self.pool_mut(pool).groups.get_mut(group) {
            members.remove(&ordinal);
        }
    }

    /// A new UUIDv4 from the world's random numbers.
    pub fn new_id(&mut self) -> String {
        wire::uuid(&mut self.random)
    }

    /// The world's random numbers, which follow from its seed.
    pub(super) fn random(&mut self) -> &mut fastrand::Rng {
        &mut self.random
    }

    /// A successful sign-in without risk, with a new id. Most events look like this, and tests change it as needed.
    pub fn sign_in(&mut self, at: UnixMillis) -> AuthEvent {
        AuthEvent {
            id: Some(self.new_id()),
            event_type: Some(Word::Known(EventType::SignIn)),
            creation_date: Some(at),
            response: Some(Word::Known(EventResponse::Pass)),
            risk: Some(EventRisk {
                decision: Some(Word::Known(RiskDecision::NoRisk)),
                level: None,
                compromised_credentials: Some(false),
            }),
            challenges: vec![Challenge {
                name: Some(Word::Known(ChallengeName::Password)),
                response: Some(Word::Known(ChallengeResponse::Success)),
            }],
            context: Some(EventContext {
                ip_address: Some("192.0.2.1".to_owned()),
                device_name: Some("Chrome 126, Windows 10".to_owned()),
                timezone: Some("-07:00".to_owned()),
                city: Some("Seattle".to_owned()),
                country: Some("United States".to_owned()),
            }),
            feedback: None,
        }
    }

    /// Adds an event that clients see at once. Its place in the history follows from its CreationDate.
    ///
    /// # Panics
    /// When the pool or the user does not exist.
    #[track_caller]
    pub fn arrive(&mut self, pool: &str, name: &str, event: &AuthEvent) {
        self.arrive_late(pool, name, event, UnixMillis::MIN);
    }

    /// Adds an event that clients of Cognito see from `visible_at` on. An export sends it without waiting for that.
    ///
    /// # Panics
    /// When the pool or the user does not exist.
    #[track_caller]
    pub fn arrive_late(&mut self, pool: &str, name: &str, event: &AuthEvent, visible_at: UnixMillis) {
        let stored = HistoryEvent {
            key: event.id.clone().unwrap_or_else(|| self.new_id()),
            time: event.creation_date.unwrap_or_else(|| self.now()),
            visible_at,
            json: wire::event_json(event),
        };
        self.user_mut(pool, name).1.insert(stored);
        self.export(pool, name, event, Occasion::New);
    }

    /// Adds any JSON as an event: unknown members, wrong types, or no object at all. Its place in the history follows
    /// from its CreationDate, or from its arrival if it has none. It is not exported.
    ///
    /// # Panics
    /// When the pool or the user does not exist, or the text is not JSON.
    #[track_caller]
    pub fn arrive_raw(&mut self, pool: &str, name: &str, json: &str) {
        let value: Value = serde_json::from_str(json).expect("a raw event is JSON");
        let event = wire::read_event(&value);
        let stored = HistoryEvent {
            key: event.id.unwrap_or_else(|| self.new_id()),
            time: event.creation_date.unwrap_or_else(|| self.now()),
            visible_at: UnixMillis::MIN,
            json: json.to_owned(),
        };
        self.user_mut(pool, name).1.insert(stored);
    }

    /// Changes an event in place, as Cognito does when a sign-in continues.
    ///
    /// # Panics
    /// When the pool, the user or the event does not exist.
    #[track_caller]
    pub fn revise(&mut self, pool: &str, name: &str, event_id: &str, change: impl FnOnce(&mut AuthEvent)) {
        let user = self.user_mut(pool, name).1;
        let Some(index) = user.find(event_id) else {
            panic!("the simulation has no event {event_id}");
        };
        let before = user.events[index].parse();
        let mut event = before.clone();
        change(&mut event);
        user.events[index].json = wire::event_json(&event);
        if event != before {
            self.export(pool, name, &event, Occasion::Changed);
        }
    }

    /// Sets the feedback of an event, dated now.
    ///
    /// # Panics
    /// When the pool, the user or the event does not exist.
    #[track_caller]
    pub fn feedback(&mut self, pool: &str, name: &str, event_id: &str, value: FeedbackValue, provider: &str) {
        let now = self.now();
        self.revise(pool, name, event_id, |event| {
            event.feedback = Some(EventFeedback {
                value: Some(Word::Known(value)),
                provider: Some(provider.to_owned()),
                date: Some(now),
            });
        });
    }

    /// Removes an event, as Cognito does after two years.
    ///
    /// # Panics
    /// When the pool or the user does not exist.
    #[track_caller]
    pub fn expire_event(&mut self, pool: &str, name: &str, event_id: &str) {
        self.user_mut(pool, name).1.events.retain(|event| event.key != event_id);
    }

    /// Removes all events of a user except the newest `count`.
    ///
    /// # Panics
    /// When the pool or the user does not exist.
    #[track_caller]
    pub fn keep_newest(&mut self, pool: &str, name: &str, count: usize) {
        let events = &mut self.user_mut(pool, name).1.events;
        events.drain(..events.len().saturating_sub(count));
    }

    /// Whether a user's history contains this event, visible or not.
    pub fn has_event(&self, pool: &str, name: &str, event_id: &str) -> bool {
        let user = self.pool(pool).and_then(|pool| pool.user(name));
        user.is_some_and(|user| user.find(event_id).is_some())
    }

    /// The part of a user's history that is visible now, newest first.
    ///
    /// # Panics
    /// When the pool or the user does not exist.
    #[track_caller]
    pub fn history(&self, pool: &str, name: &str) -> Vec<AuthEvent> {
        let now = self.now();
        let Some(user) = self.pool(pool).and_then(|pool| pool.user(name)) else {
            panic!("the simulation has no user {name} in pool {pool}");
        };
        let visible = user.events.iter().rev().filter(|event| event.visible_at <= now);
        visible.map(HistoryEvent::parse).collect()
    }

    /// Adds the events of a published page to a user's history. Creates the pool and the user if they do not exist.
    ///
    /// # Panics
    /// When the text is not a page of events.
    #[track_caller]
    pub fn load_sample(&mut self, pool: &str, name: &str, json: &str) {
        let page: Value = serde_json::from_str(json).expect("a sample is JSON");
        let events = page["AuthEvents"].as_array().expect("a sample has AuthEvents");
        self.ensure_pool(pool);
        if self.pool_mut(pool).user(name).is_none() {
            self.add_user(pool, name);
        }
        // Oldest first, so that events of one millisecond keep the page's order.
        for event in events.iter().rev() {
            self.arrive(pool, name, &wire::read_event(event));
        }
    }

    /// Adds the users of a published page of ListUsers. Creates the pool if it does not exist.
    ///
    /// # Panics
    /// When the text is not a page of users.
    #[track_caller]
    pub fn load_users_sample(&mut self, pool: &str, json: &str) {
        let page: Value = serde_json::from_str(json).expect("a sample is JSON");
        self.ensure_pool(pool);
        for listed in page["Users"].as_array().expect("a sample has Users") {
            let username = listed["Username"].as_str().expect("a listed user has a Username");
            self.add_user_with(pool, username, |user| {
                user.enabled = listed["Enabled"].as_bool().unwrap_or(user.enabled);
                user.created = wire::read_time(&listed["UserCreateDate"]).unwrap_or(user.created);
                user.last_modified = wire::read_time(&listed["UserLastModifiedDate"]).unwrap_or(user.last_modified);
                if let Some(status) = listed["UserStatus"].as_str() {
                    user.status = status.to_owned();
                }
                for attribute in listed["Attributes"].as_array().into_iter().flatten() {
                    match (attribute["Name"].as_str(), attribute["Value"].as_str()) {
                        (Some("sub"), Some(sub)) => user.sub = sub.to_owned(),
                        (Some(name), Some(value)) => user.set_attribute(name, value),
                        _ => {}
                    }
                }
            });
        }
    }

    /// Adds a role.
    pub fn add_role(&mut self, role: Role) {
        self.roles.push(role);
    }

    /// Injects a fault.
    pub fn inject(&mut self, fault: impl Into<InjectedFault>) -> FaultId {
        self.faults.inject(fault.into())
    }

    /// Removes a fault.
    pub fn remove_fault(&mut self, id: FaultId) {
        self.faults.remove(id);
    }

    /// Removes all faults.
    pub fn remove_all_faults(&mut self) {
        self.faults.remove_all();
    }

    /// Borrows together what a page of events needs: the pool, the issued tokens, and the random numbers.
    pub(super) fn page_parts(&mut self, pool: &str) -> Option<(&SimulatedPool, &mut TokenTable, &mut fastrand::Rng)> {
        Some((self.pools.get(pool)?, &mut self.tokens, &mut self.random))
    }

    /// The fault that applies to this call, if any. Counts it as applied.
    pub(super) fn fault_for_call(
        &mut self,
        operation: &str,
        pool: Option<&str>,
        user: Option<&str>,
    ) -> Option<FaultKind> {
        self.faults.fault_for_call(operation, pool, user, &mut self.random)
    }

    /// The quotas of all accounts, to read or change.
    pub fn quotas(&mut self) -> &mut Quotas {
        &mut self.quotas
    }

    /// The log of calls.
    pub fn calls(&self) -> &CallLog {
        &self.calls
    }

    /// The log of calls, to clear it.
    pub fn calls_mut(&mut self) -> &mut CallLog {
        &mut self.calls
    }

    fn ensure_pool(&mut self, id: &str) {
        if !self.pools.contains_key(id) {
            self.add_pool(SimulatedPool::new(id));
        }
    }

    #[track_caller]
    fn user_mut(&mut self, pool: &str, name: &str) -> (u64, &mut PoolUser) {
        let found = self.pool_mut(pool);
        let ordinal = found.ordinal(name);
        match ordinal.and_then(|ordinal| Some((ordinal, found.users.get_mut(&ordinal)?))) {
            Some(found) => found,
            None => panic!("the simulation has no user {name} in pool {pool}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = "eu-west-1_Example";
    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn world() -> World {
        let mut world = World::new(WorldClock::Manual(NOW), 7, Quotas::unlimited());
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ada");
        world
    }

    fn ids(events: &[AuthEvent]) -> Vec<Option<String>> {
        events.iter().map(|event| event.id.clone()).collect()
    }

    #[test]
    fn a_history_is_newest_first_however_it_arrived() {
        let mut world = world();
        let events: Vec<_> = [3, 1, 2].map(|second| world.sign_in(UnixMillis(second))).into();
        for event in &events {
            world.arrive(POOL, "ada", event);
        }
        let newest_first = [&events[0], &events[2], &events[1]].map(Clone::clone);
        assert_eq!(world.history(POOL, "ada"), newest_first);
    }

    #[test]
    fn a_late_event_is_seen_from_its_moment_on_in_its_place() {
        let mut world = world();
        let (late, newest) = (world.sign_in(UnixMillis(1)), world.sign_in(UnixMillis(2)));
        world.arrive_late(POOL, "ada", &late, NOW.plus(Duration::from_secs(5)));
        world.arrive(POOL, "ada", &newest);
        assert_eq!(world.history(POOL, "ada").len(), 1);
        world.advance(Duration::from_secs(5));
        assert_eq!(ids(&world.history(POOL, "ada")), [newest.id, late.id]);
    }

    #[test]
    fn a_revision_changes_the_event_and_nothing_else() {
        let mut world = world();
        let mut event = world.sign_in(NOW);
        event.context = None;
        world.arrive(POOL, "ada", &event);
        let id = event.id.clone().unwrap();
        world.revise(POOL, "ada", &id, |event| event.response = Some(Word::parse("Fail")));
        world.feedback(POOL, "ada", &id, FeedbackValue::Invalid, "Admin");
        event.response = Some(Word::parse("Fail"));
        event.feedback = Some(EventFeedback {
            value: Some(Word::parse("Invalid")),
            provider: Some("Admin".into()),
            date: Some(NOW),
        });
        assert_eq!(world.history(POOL, "ada"), [event]);
    }

    #[test]
    fn a_recreated_user_has_another_sub_and_no_past() {
        let mut world = world();
        world.add_to_group(POOL, "admins", "ada");
        let event = world.sign_in(NOW);
        world.arrive(POOL, "ada", &event);
        let sub = world.pool(POOL).unwrap().user("ada").unwrap().sub.clone();
        world.recreate_user(POOL, "ada");
        assert!(world.history(POOL, "ada").is_empty());
        let pool = world.pool(POOL).unwrap();
        assert_ne!(pool.user("ada").unwrap().sub, sub);
        assert!(pool.user(&sub).is_none());
        assert_eq!(pool.members_after("admins", None).unwrap().count(), 0);
    }

    #[test]
    fn a_user_is_found_under_every_name() {
        let mut world = world();
        world.change_user(POOL, "ada", |user| user.set_attribute("email", "ada@example.com"));
        let pool = world.pool(POOL).unwrap();
        let sub = pool.user("ada@example.com").unwrap().sub.clone();
        assert_eq!(pool.user(&sub).unwrap().username, "ada");
        world.change_user(POOL, "ada", |user| user.set_attribute("email", "countess@example.com"));
        let pool = world.pool(POOL).unwrap();
        assert!(pool.user("ada@example.com").is_none());
        assert!(pool.user("countess@example.com").is_some());
    }

    #[test]
    fn an_alias_is_a_name_only_where_the_pool_accepts_it_and_an_address_only_if_verified() {
        let mut world = world();
        let mut pool = SimulatedPool::new("eu-west-1_Plain");
        (pool.alias_attributes, pool.case_sensitive) = (vec!["email".into()], Some(false));
        world.add_pool(pool);
        world.add_user_with("eu-west-1_Plain", "Ada", |user| user.set_attribute("email", "Ada@example.com"));
        world.add_user_with("eu-west-1_Plain", "eve", |user| {
            user.set_attribute("email_verified", "false");
            user.set_attribute("email", "ada@example.com");
            user.set_attribute("preferred_username", "root");
        });
        let pool = world.pool("eu-west-1_Plain").unwrap();
        let username = |name: &str| pool.user(name).map(|user| user.username.as_str());
        assert_eq!(username("ada@EXAMPLE.com"), Some("Ada"));
        assert_eq!((username("ADA"), username("root")), (Some("Ada"), None));
    }

    #[test]
    fn the_same_seed_makes_the_same_world() {
        let (mut one, mut two) = (world(), world());
        assert_eq!(one.new_id(), two.new_id());
        let id: uuid::Uuid = one.new_id().parse().unwrap();
        assert_eq!(id.get_version_num(), 4);
    }

    #[test]
    fn any_json_can_stand_in_an_events_place() {
        let mut world = world();
        world.arrive_raw(POOL, "ada", r#"{"EventId":"x","New":{"a":1},"EventRisk":7}"#);
        world.arrive_raw(POOL, "ada", "null");
        assert_eq!(world.history(POOL, "ada").len(), 2);
    }

    #[test]
    fn an_arn_names_its_partition() {
        assert_eq!(
            SimulatedPool::new("cn-north-1_Abc").arn(),
            "arn:aws-cn:cognito-idp:cn-north-1:111122223333:userpool/cn-north-1_Abc"
        );
    }
}
