//! Simulated users for the demo: a pool with users that have a history, and in which something happens every second.
//!
//! The population keeps an agenda of actions, each with its due time. An action adds events to the world and plans its
//! consequences: a sign-in plans its second factor, a breach plans the administrator's feedback. Everything follows
//! from the seed and the times that [`Population::tick`] receives. `simulated_user` makes the events.

mod profiles;
mod simulated_user;

use std::collections::BTreeMap;
use std::time::Duration;

use cognito_auth_core::event::{AuthEvent, EventResponse, EventType, FeedbackValue, RiskLevel, UnixMillis, Word};
use fastrand::Rng;
use profiles::pick;
use simulated_user::{AttackOrigin, SimulatedUser};

use super::wire;
use super::world::{SimulatedPool, World};

/// The groups: the first has all users, the second has few.
pub const GROUPS: [&str; 2] = ["customers", "administrators"];

/// Sign-ins per second of all users together. At this rate, ten seconds of the demo show some events of each kind.
const SIGN_INS_PER_SECOND: f64 = 4.0;
/// The mean pauses between errands (events other than sign-ins), between new users, and between attacks.
const ERRAND_PAUSE: Duration = Duration::from_secs(12);
const SIGN_UP_PAUSE: Duration = Duration::from_secs(40);
const ATTACK_PAUSE: Duration = Duration::from_secs(120);
/// The delay before the first attack, short enough for a quick look at the demo.
const FIRST_ATTACK_AFTER: Duration = Duration::from_secs(3);
/// The mean time from a password to the second factor.
const SECOND_FACTOR_AFTER: Duration = Duration::from_secs(2);
/// The most events that a user has at the start: three pages.
const PAST_EVENTS_MAX: usize = 150;
/// Up to this many users have a full history at the start. With more users, each has a shorter history, so that a large
/// demo fits into memory.
const FULL_HISTORY_USERS_MAX: f64 = 1000.0;
/// The age of the oldest event at the start.
const PAST: Duration = Duration::from_secs(60 * 86_400);
/// The most events of one user that are kept, so that a long demo stays small. Cognito deletes events after two years.
const KEPT_EVENTS_MAX: usize = 300;
/// The most users that have signed up. Beyond it, the oldest of them is deleted, which also shows a deletion.
const NEWCOMERS_MAX: usize = 40;
/// The most actions in one tick, for a machine that has slept for hours.
const ACTIONS_PER_TICK_MAX: usize = 10_000;

/// Simulated users and their planned actions.
#[derive(Debug)]
pub struct Population {
    random: Rng,
    initial_users: usize,
    pool: String,
    /// By user number.
    users: BTreeMap<u64, SimulatedUser>,
    next_user: u64,
    /// By due time, then in the order of planning.
    agenda: BTreeMap<(UnixMillis, u64), PlannedAction>,
    next_action: u64,
}

#[derive(Clone, Debug)]
enum PlannedAction {
    /// A sign-in. A regular one plans the next.
    SignIn {
        user: u64,
        regular: bool,
    },
    /// An event in progress gets its final state.
    Finish {
        user: u64,
        event: Box<AuthEvent>,
    },
    /// A random user does something other than signing in.
    Errand,
    SignUp,
    /// A burst of sign-in attempts on some users.
    Attack,
    Attempt {
        user: u64,
        origin: AttackOrigin,
    },
    Feedback {
        user: u64,
        event_id: String,
        value: FeedbackValue,
    },
}

impl Population {
    /// A population of `users` users (at least one), whose behaviour follows from `seed`. It needs a pool: see
    /// [`Population::move_in`].
    pub fn lively(seed: u64, users: usize) -> Self {
        Self {
            random: Rng::with_seed(seed),
            initial_users: users.max(1),
            pool: String::new(),
            users: BTreeMap::new(),
            next_user: 1,
            agenda: BTreeMap::new(),
            next_action: 0,
        }
    }

    /// Adds the users to `pool`, with their history before `now`. Creates the pool if it does not exist.
    pub fn move_in(&mut self, world: &mut World, pool: &str, now: UnixMillis) {
        self.pool = pool.to_owned();
        if world.pool(pool).is_none() {
            world.add_pool(SimulatedPool::new(pool));
        }
        // Few users sign in often, most seldom, and a fifth never.
        let weights: Vec<f64> = (0..self.initial_users)
            .map(|_| if self.chance(0.2) { 0.0 } else { (1.0 - self.random.f64()).powf(-0.8).min(50.0) })
            .collect();
        let total: f64 = weights.iter().sum();
        for weight in weights {
            let sign_ins_per_second = SIGN_INS_PER_SECOND * weight / total;
            let pause = Duration::try_from_secs_f64(1.0 / sign_ins_per_second).ok();
            let user = self.add_user(world, pause, now);
            self.add_history(world, user, weight, now);
            if pause.is_some() {
                self.plan_sign_in(user, now);
            }
        }
        self.plan(now, Duration::ZERO, PlannedAction::Errand);
        self.plan(now, SIGN_UP_PAUSE / 4, PlannedAction::SignUp);
        self.plan(now, FIRST_ATTACK_AFTER, PlannedAction::Attack);
    }

    /// Performs the actions that are due by `now`, each at its own time. Returns the number of actions.
    pub fn tick(&mut self, world: &mut World, now: UnixMillis) -> usize {
        let mut performed = 0;
        while performed < ACTIONS_PER_TICK_MAX {
            match self.agenda.first_entry() {
                Some(first) if first.key().0 <= now => {
                    let ((due, _), action) = first.remove_entry();
                    self.perform(world, action, due);
                    performed += 1;
                }
                _ => break,
            }
        }
        performed
    }

    fn perform(&mut self, world: &mut World, action: PlannedAction, now: UnixMillis) {
        match action {
            PlannedAction::SignIn { user, regular } => {
                self.sign_in(world, user, now);
                if regular {
                    self.plan_sign_in(user, now);
                }
            }
            PlannedAction::Finish { user, event } => self.finish(world, user, *event),
            PlannedAction::Errand => {
                self.errand(world, now);
                self.plan_about(now, ERRAND_PAUSE, PlannedAction::Errand);
            }
            PlannedAction::SignUp => {
                self.sign_up(world, now);
                self.plan_about(now, SIGN_UP_PAUSE, PlannedAction::SignUp);
            }
            PlannedAction::Attack => {
                self.plan_attack(now);
                self.plan_about(now, ATTACK_PAUSE, PlannedAction::Attack);
            }
            PlannedAction::Attempt { user, origin } => self.attempt(world, user, &origin, now),
            PlannedAction::Feedback { user, event_id, value } => {
                if let Some(name) = self.username(world, user)
                    && world.has_event(&self.pool, &name, &event_id)
                {
                    world.feedback(&self.pool, &name, &event_id, value, "Admin");
                }
            }
        }
    }

    /// Adds a user. Without a pause, the user never signs in.
    fn add_user(&mut self, world: &mut World, pause: Option<Duration>, now: UnixMillis) -> u64 {
        let number = self.next_user;
        self.next_user += 1;
        let mut user = SimulatedUser::new(&mut self.random, number, pause);
        // Some of the users without sign-ins are disabled, and some sign in with another provider.
        let is_dormant = pause.is_none();
        let (is_federated, is_disabled) = (is_dormant && self.chance(0.2), is_dormant && self.chance(0.1));
        let is_administrator = self.chance(0.05);
        user.is_federated = is_federated;
        let created = now.minus(PAST).minus(self.about(PAST));
        let sub = wire::uuid(&mut self.random);
        let name = &user.username;
        world.add_user_with(&self.pool, name, |user| {
            user.sub = sub;
            user.created = created;
            user.last_modified = created;
            user.listed_from = created;
            user.enabled = !is_disabled;
            if is_federated {
                user.status = "EXTERNAL_PROVIDER".to_owned();
            }
            user.set_attribute("email", &format!("{name}@example.com"));
        });
        world.add_to_group(&self.pool, GROUPS[0], name);
        if is_administrator {
            world.add_to_group(&self.pool, GROUPS[1], name);
        }
        self.users.insert(number, user);
        number
    }

    /// Adds a user's events before `now`: many for a user that signs in often, few or none for the others.
    fn add_history(&mut self, world: &mut World, user: u64, weight: f64, now: UnixMillis) {
        let Some(user) = self.users.get(&user).filter(|user| !user.is_federated).cloned() else {
            return;
        };
        let share = (FULL_HISTORY_USERS_MAX / self.initial_users as f64).min(1.0);
        let often = share * (weight * 12.0).min(PAST_EVENTS_MAX as f64) / PAST_EVENTS_MAX as f64;
        let sign_ins = (0..PAST_EVENTS_MAX).filter(|_| self.chance(often)).count().max(self.random.usize(..4));
        for _ in 0..sign_ins {
            // The third power makes recent events more frequent than old ones.
            let ago = PAST.mul_f64(self.random.f64().powi(3)) + Duration::from_secs(60);
            let event = user.sign_in(&mut self.random, now.minus(ago));
            world.arrive(&self.pool, &user.username, &event);
        }
    }

    fn sign_in(&mut self, world: &mut World, user: u64, now: UnixMillis) {
        let Some(event) = self.users.get(&user).map(|user| user.sign_in(&mut self.random, now)) else {
            return;
        };
        if event.challenges.len() == 2 {
            self.begin(world, user, event, SECOND_FACTOR_AFTER);
        } else {
            if event.response == Some(Word::Known(EventResponse::Fail)) {
                self.plan_about(now, Duration::from_secs(8), PlannedAction::SignIn { user, regular: false });
            }
            self.add_event(world, user, &event);
        }
    }

    /// A random user resets or changes a password, or asks for a code again.
    fn errand(&mut self, world: &mut World, now: UnixMillis) {
        let numbers: Vec<u64> = self.users.keys().copied().collect();
        let number = *pick(&mut self.random, &numbers);
        let Some(user) = self.users.get(&number).cloned() else {
            return;
        };
        let response = if self.chance(0.1) { EventResponse::Fail } else { EventResponse::Pass };
        let (kind, response) = match self.random.u8(..4) {
            0 => (EventType::ResendCode, EventResponse::Pass),
            1 => (EventType::PasswordChange, response),
            _ => (EventType::ForgotPassword, response),
        };
        let event = user.other_event(&mut self.random, kind, response, now);
        if kind == EventType::ForgotPassword {
            self.begin(world, number, event, Duration::from_secs(30));
        } else {
            self.add_event(world, number, &event);
        }
    }

    /// Adds a user that confirms soon and then signs in often. If there are too many such users, the oldest is deleted.
    fn sign_up(&mut self, world: &mut World, now: UnixMillis) {
        let newcomers: Vec<u64> =
            self.users.iter().filter(|(_, user)| user.is_newcomer).map(|(number, _)| *number).collect();
        if newcomers.len() >= NEWCOMERS_MAX {
            if let Some(name) = self.username(world, newcomers[0]) {
                world.delete_user(&self.pool, &name);
            }
            self.users.remove(&newcomers[0]);
        }
        let number = self.add_user(world, Some(Duration::from_secs(300)), now);
        let Some(user) = self.users.get_mut(&number) else {
            return;
        };
        user.is_newcomer = true;
        let user = user.clone();
        world.change_user(&self.pool, &user.username, |user| {
            user.created = now;
            user.last_modified = now;
            user.listed_from = now;
            user.enabled = true;
            user.status = "UNCONFIRMED".to_owned();
        });
        let event = user.other_event(&mut self.random, EventType::SignUp, EventResponse::Pass, now);
        self.begin(world, number, event, Duration::from_secs(25));
        self.plan_sign_in(number, now.plus(Duration::from_secs(60)));
    }

    /// Plans credential stuffing: three attempts per second for about twenty seconds, on a dozen users from a few
    /// addresses.
    fn plan_attack(&mut self, now: UnixMillis) {
        let numbers: Vec<u64> = self.users.keys().copied().collect();
        let victims: Vec<u64> = (0..12).map(|_| *pick(&mut self.random, &numbers)).collect();
        let origins: Vec<AttackOrigin> = (0..3).map(|_| AttackOrigin::new(&mut self.random)).collect();
        for attempt in 0..60 {
            let origin = pick(&mut self.random, &origins).clone();
            let user = *pick(&mut self.random, &victims);
            let within = Duration::from_millis(attempt * 333 + self.random.u64(..300));
            self.plan(now, within, PlannedAction::Attempt { user, origin });
        }
    }

    fn attempt(&mut self, world: &mut World, user: u64, origin: &AttackOrigin, now: UnixMillis) {
        let event = origin.attempt(&mut self.random, now);
        let is_breach = event.response == Some(Word::Known(EventResponse::Pass));
        let is_doubtful =
            event.risk.as_ref().and_then(|risk| risk.level.clone()) == Some(Word::Known(RiskLevel::Medium));
        self.add_event(world, user, &event);
        if let Some(event_id) = event.id
            && (is_breach || self.chance(0.1))
        {
            let value = FeedbackValue::Invalid;
            self.plan_about(now, Duration::from_secs(30), PlannedAction::Feedback { user, event_id, value });
        } else if is_doubtful && self.chance(0.2) {
            // The user says that the attempt was the user's own.
            self.plan_valid_feedback(world, user, now);
        }
    }

    /// Plans the administrator's feedback that a user's newest event is valid.
    fn plan_valid_feedback(&mut self, world: &World, user: u64, now: UnixMillis) {
        let newest = self
            .username(world, user)
            .and_then(|name| world.history(&self.pool, &name).into_iter().find_map(|event| event.id));
        if let Some(event_id) = newest {
            let value = FeedbackValue::Valid;
            self.plan_about(now, Duration::from_secs(30), PlannedAction::Feedback { user, event_id, value });
        }
    }

    /// Adds an event as InProgress, and usually plans its final state.
    fn begin(&mut self, world: &mut World, user: u64, end: AuthEvent, after: Duration) {
        let mut start = end.clone();
        start.response = Some(Word::Known(EventResponse::InProgress));
        start.challenges.truncate(1);
        self.add_event(world, user, &start);
        let is_abandoned = self.chance(0.04);
        if let (false, Some(at)) = (is_abandoned, end.creation_date) {
            self.plan_about(at, after, PlannedAction::Finish { user, event: Box::new(end) });
        }
    }

    fn finish(&mut self, world: &mut World, user: u64, end: AuthEvent) {
        let Some(name) = self.username(world, user) else {
            return;
        };
        let Some(id) = end.id.clone().filter(|id| world.has_event(&self.pool, &name, id)) else {
            return;
        };
        if end.event_type == Some(Word::Known(EventType::SignUp)) {
            world.change_user(&self.pool, &name, |user| user.status = "CONFIRMED".to_owned());
        }
        world.revise(&self.pool, &name, &id, |event| *event = end);
    }

    /// Adds an event to the world: usually visible at once, sometimes some seconds late.
    fn add_event(&mut self, world: &mut World, user: u64, event: &AuthEvent) {
        let is_federated = self.users.get(&user).is_some_and(|user| user.is_federated);
        let Some(name) = self.username(world, user).filter(|_| !is_federated) else {
            return;
        };
        let delay = if self.chance(0.15) { self.random.u64(1000..8000) } else { 0 };
        let visible_at = event.creation_date.unwrap_or_default().plus(Duration::from_millis(delay));
        world.arrive_late(&self.pool, &name, event, visible_at);
        world.keep_newest(&self.pool, &name, KEPT_EVENTS_MAX);
    }

    /// A user's username; None when the world no longer has the user.
    fn username(&self, world: &World, user: u64) -> Option<String> {
        let name = &self.users.get(&user)?.username;
        world.pool(&self.pool)?.user(name).map(|user| user.username.clone())
    }

    fn plan_sign_in(&mut self, user: u64, now: UnixMillis) {
        if let Some(pause) = self.users.get(&user).map(|user| user.pause) {
            self.plan_about(now, pause, PlannedAction::SignIn { user, regular: true });
        }
    }

    /// Plans an action after a random pause with this mean.
    fn plan_about(&mut self, now: UnixMillis, mean: Duration, action: PlannedAction) {
        let after = self.about(mean);
        self.plan(now, after, action);
    }

    fn plan(&mut self, now: UnixMillis, after: Duration, action: PlannedAction) {
        // The pause is never zero: otherwise an action that plans the next one would keep a tick from ending.
        let due = now.plus(after.max(Duration::from_millis(1)));
        self.agenda.insert((due, self.next_action), action);
        self.next_action += 1;
    }

    /// A random duration with this mean, exponentially distributed as the pauses of independent arrivals are.
    fn about(&mut self, mean: Duration) -> Duration {
        let factor = -(1.0 - self.random.f64()).ln();
        Duration::try_from_secs_f64(mean.as_secs_f64() * factor).unwrap_or(mean)
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.f64() < probability
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cognito_auth_core::event::Vocabulary;

    use super::*;
    use crate::quota::Quotas;
    use crate::world::WorldClock;

    const POOL: &str = "eu-west-1_Demo";
    const START: UnixMillis = UnixMillis(1_750_000_000_000);

    fn moved_in(seed: u64) -> (World, Population) {
        let mut world = World::new(WorldClock::Manual(START), 1, Quotas::unlimited());
        let mut population = Population::lively(seed, 200);
        population.move_in(&mut world, POOL, START);
        (world, population)
    }

    fn live(world: &mut World, population: &mut Population, seconds: u64) {
        for _ in 0..seconds {
            world.advance(Duration::from_secs(1));
            let now = world.now();
            population.tick(world, now);
        }
    }

    fn everything(world: &World) -> Vec<AuthEvent> {
        let names: Vec<_> = world.pool(POOL).unwrap().users().map(|user| user.username.clone()).collect();
        names.iter().flat_map(|name| world.history(POOL, name)).collect()
    }

    fn words<V: Vocabulary>(events: &[AuthEvent], word: impl Fn(&AuthEvent) -> Vec<Option<Word<V>>>) -> bool {
        let seen: BTreeSet<_> = events.iter().flat_map(word).flatten().collect();
        V::ALL.iter().all(|known| seen.contains(&Word::Known(*known)))
    }

    #[test]
    fn everybody_has_a_past_or_a_reason_to_have_none() {
        let (world, _) = moved_in(1);
        let pool = world.pool(POOL).unwrap();
        let lengths: Vec<_> = pool.users().map(|user| world.history(POOL, &user.username).len()).collect();
        assert_eq!(lengths.len(), 200);
        assert!(lengths.iter().any(|length| *length > 60), "more than a page");
        assert!(lengths.contains(&0), "dormant");
        let federated = pool.users().find(|user| user.status == "EXTERNAL_PROVIDER").unwrap();
        assert!(world.history(POOL, &federated.username).is_empty());
        assert!(pool.users().any(|user| !user.enabled));
        assert!(GROUPS.iter().all(|group| pool.members_after(group, None).unwrap().count() > 0));
        assert!(everything(&world).iter().all(|event| event.creation_date.unwrap() < START));
    }

    #[test]
    fn a_minute_is_enough_to_see_something_and_an_hour_to_see_everything() {
        let (mut world, mut population) = moved_in(2);
        let past = everything(&world).len();
        live(&mut world, &mut population, 60);
        let lived = everything(&world).len() - past;
        assert!((60..400).contains(&lived), "{lived}");
        live(&mut world, &mut population, 3540);
        let pool = world.pool(POOL).unwrap();
        let mut federated = pool.users().filter(|user| user.status == "EXTERNAL_PROVIDER");
        assert!(federated.all(|user| world.history(POOL, &user.username).is_empty()));
        let events = everything(&world);
        assert!(words(&events, |event| vec![event.event_type.clone()]));
        assert!(words(&events, |event| vec![event.response.clone()]));
        assert!(words(&events, |event| vec![event.risk.clone().unwrap().decision]));
        assert!(words(&events, |event| vec![event.risk.clone().unwrap().level]));
        assert!(words(&events, |event| vec![event.feedback.clone().and_then(|feedback| feedback.value)]));
        assert!(words(&events, |event| event.challenges.iter().map(|challenge| challenge.name.clone()).collect()));
        assert!(events.iter().any(|event| event.risk.as_ref().unwrap().compromised_credentials == Some(true)));
        let city = |event: &AuthEvent| event.context.clone().unwrap().city;
        assert!(events.iter().any(|event| city(event).as_deref() == Some("null")));
    }

    #[test]
    fn what_was_in_progress_mostly_comes_to_its_end() {
        let (mut world, mut population) = moved_in(3);
        live(&mut world, &mut population, 300);
        let begun: Vec<_> = everything(&world).into_iter().filter(AuthEvent::in_progress).collect();
        assert!(!begun.is_empty());
        live(&mut world, &mut population, 300);
        let later = everything(&world);
        let open = |event: &&AuthEvent| later.iter().any(|later| later.id == event.id && later.in_progress());
        assert!(begun.iter().filter(open).count() < begun.len());
    }

    #[test]
    fn the_same_seed_and_times_make_the_same_life() {
        let lives = [5, 5, 6].map(|seed| {
            let (mut world, mut population) = moved_in(seed);
            live(&mut world, &mut population, 60);
            everything(&world)
        });
        assert!(lives[0] == lives[1]);
        assert!(lives[0] != lives[2]);
    }

    #[test]
    fn a_long_demo_stays_small() {
        let (mut world, mut population) = moved_in(7);
        world.advance(Duration::from_secs(3 * 3600));
        let now = world.now();
        while population.tick(&mut world, now) > 0 {}
        let pool = world.pool(POOL).unwrap();
        assert!(pool.users().len() <= 200 + NEWCOMERS_MAX);
        let longest = pool.users().map(|user| world.history(POOL, &user.username).len()).max();
        assert_eq!(longest, Some(KEPT_EVENTS_MAX));
        assert!(population.agenda.len() < 1000, "{}", population.agenda.len());
    }

    #[test]
    fn a_user_whom_somebody_deletes_is_left_in_peace() {
        let (mut world, mut population) = moved_in(8);
        let names: Vec<_> = population.users.values().map(|user| user.username.clone()).collect();
        names.iter().for_each(|name| world.delete_user(POOL, name));
        live(&mut world, &mut population, 60);
    }
}
