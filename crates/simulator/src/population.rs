//! Lively users for the demo: a pool full of people with a past, and a present in which something happens every second.
//!
//! An agenda of deeds, each with the time at which it falls due: a deed makes events and puts what follows from it on the
//! agenda (a sign-in its second factor, a breach the administrator's feedback). Everything follows from the seed and the
//! times that [`Population::tick`] is given. What an event of somebody's looks like is in `person`.

mod profiles;
mod simulated_user;

use std::collections::BTreeMap;
use std::time::Duration;

use cognito_auth_core::event::{AuthEvent, EventResponse, EventType, FeedbackValue, RiskLevel, UnixMillis, Word};
use fastrand::Rng;
use profiles::pick;
use simulated_user::{Origin, SimulatedUser};

use super::wire;
use super::world::{Pool, World};

/// The group that everybody is in, and the one that few are in.
pub const GROUPS: [&str; 2] = ["customers", "administrators"];

/// Sign-ins of all users together, per second: a demo that is looked at for ten seconds shows some of each kind.
const SIGN_INS_PER_SECOND: f64 = 4.0;
/// Mean pauses between what users do beside signing in, between new users, and between attacks.
const ERRAND_PAUSE: Duration = Duration::from_secs(12);
const SIGN_UP_PAUSE: Duration = Duration::from_secs(40);
const ATTACK_PAUSE: Duration = Duration::from_secs(120);
/// The first attack, soon enough for somebody who only has a look.
const FIRST_ATTACK_AFTER: Duration = Duration::from_secs(3);
/// Mean time from a password to the second factor.
const SECOND_FACTOR_AFTER: Duration = Duration::from_secs(2);
/// The longest past that a user starts with: three pages.
const PAST_EVENTS_MAX: usize = 150;
/// Users who remember their whole past; among more, each remembers less, so that a large demo fits into memory.
const REMEMBERING_MAX: f64 = 1000.0;
/// How far the past reaches back.
const PAST: Duration = Duration::from_secs(60 * 86_400);
/// Events of one user that are kept, so that a demo left running stays small. A real history is cut after two years.
const KEPT_EVENTS_MAX: usize = 300;
/// Users who signed up and are still there; beyond, the first of them is deleted. Deletion is life, too.
const NEWCOMERS_MAX: usize = 40;
/// Deeds in one tick, for a machine that wakes up after a night.
const DEEDS_PER_TICK_MAX: usize = 10_000;

/// People and what they are going to do.
#[derive(Debug)]
pub struct Population {
    random: Rng,
    residents: usize,
    pool: String,
    people: BTreeMap<u64, SimulatedUser>,
    next_user: u64,
    /// By time, then in the order of being put there.
    agenda: BTreeMap<(UnixMillis, u64), Deed>,
    next_deed: u64,
}

#[derive(Clone, Debug)]
enum Deed {
    /// A visit; a usual one is followed by the next.
    SignIn {
        person: u64,
        usual: bool,
    },
    /// What has begun comes to its end: the event as it is then.
    Finish {
        person: u64,
        event: Box<AuthEvent>,
    },
    /// Somebody does something beside signing in.
    Errand,
    SignUp,
    /// A burst of attempts on some users.
    Attack,
    Attempt {
        person: u64,
        origin: Origin,
    },
    Feedback {
        person: u64,
        event_id: String,
        value: FeedbackValue,
    },
}

impl Population {
    /// A population of `users` (at least one), whose life follows from `seed`. It lives nowhere until it moves in.
    pub fn lively(seed: u64, users: usize) -> Self {
        Self {
            random: Rng::with_seed(seed),
            residents: users.max(1),
            pool: String::new(),
            people: BTreeMap::new(),
            next_user: 1,
            agenda: BTreeMap::new(),
            next_deed: 0,
        }
    }

    /// Moves into `pool`, which is created if it is not there, with everybody's past before `now`.
    pub fn move_in(&mut self, world: &mut World, pool: &str, now: UnixMillis) {
        self.pool = pool.to_owned();
        if world.pool(pool).is_none() {
            world.add_pool(Pool::new(pool));
        }
        // Few visit often and most seldom, with a fifth who never come any more.
        let weights: Vec<f64> = (0..self.residents)
            .map(|_| if self.chance(0.2) { 0.0 } else { (1.0 - self.random.f64()).powf(-0.8).min(50.0) })
            .collect();
        let total: f64 = weights.iter().sum();
        for weight in weights {
            let visits_per_second = SIGN_INS_PER_SECOND * weight / total;
            let pause = Duration::try_from_secs_f64(1.0 / visits_per_second).ok();
            let person = self.settle(world, pause, now);
            self.remember(world, person, weight, now);
            if pause.is_some() {
                self.plan_visit(person, now);
            }
        }
        self.plan(now, Duration::ZERO, Deed::Errand);
        self.plan(now, SIGN_UP_PAUSE / 4, Deed::SignUp);
        self.plan(now, FIRST_ATTACK_AFTER, Deed::Attack);
    }

    /// Lets everything happen that has fallen due by `now`, each deed at its own time. Returns how many deeds it was.
    pub fn tick(&mut self, world: &mut World, now: UnixMillis) -> usize {
        let mut done = 0;
        while done < DEEDS_PER_TICK_MAX {
            match self.agenda.first_entry() {
                Some(first) if first.key().0 <= now => {
                    let ((due, _), deed) = first.remove_entry();
                    self.perform(world, deed, due);
                    done += 1;
                }
                _ => break,
            }
        }
        done
    }

    fn perform(&mut self, world: &mut World, deed: Deed, now: UnixMillis) {
        match deed {
            Deed::SignIn { person, usual } => {
                self.sign_in(world, person, now);
                if usual {
                    self.plan_visit(person, now);
                }
            }
            Deed::Finish { person, event } => self.finish(world, person, *event),
            Deed::Errand => {
                self.errand(world, now);
                self.plan_about(now, ERRAND_PAUSE, Deed::Errand);
            }
            Deed::SignUp => {
                self.sign_up(world, now);
                self.plan_about(now, SIGN_UP_PAUSE, Deed::SignUp);
            }
            Deed::Attack => {
                self.attack(now);
                self.plan_about(now, ATTACK_PAUSE, Deed::Attack);
            }
            Deed::Attempt { person, origin } => self.attempt(world, person, &origin, now),
            Deed::Feedback { person, event_id, value } => {
                if let Some(name) = self.name_of(world, person)
                    && world.has_event(&self.pool, &name, &event_id)
                {
                    world.feedback(&self.pool, &name, &event_id, value, "Admin");
                }
            }
        }
    }

    /// Somebody gets a home, a device and an account. Without a pause, they never sign in again.
    fn settle(&mut self, world: &mut World, pause: Option<Duration>, now: UnixMillis) -> u64 {
        let number = self.next_user;
        self.next_user += 1;
        let mut person = SimulatedUser::new(&mut self.random, number, pause);
        // Those who never come: some because they may not, some because they sign in elsewhere.
        let is_dormant = pause.is_none();
        let (is_federated, is_disabled) = (is_dormant && self.chance(0.2), is_dormant && self.chance(0.1));
        let is_administrator = self.chance(0.05);
        person.is_federated = is_federated;
        let created = now.minus(PAST).minus(self.about(PAST));
        let sub = wire::uuid(&mut self.random);
        let name = &person.username;
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
        self.people.insert(number, person);
        number
    }

    /// A past of many events for those who come often, of few or none for those who do not.
    fn remember(&mut self, world: &mut World, person: u64, weight: f64, now: UnixMillis) {
        let Some(resident) = self.people.get(&person).filter(|person| !person.is_federated).cloned() else {
            return;
        };
        let share = (REMEMBERING_MAX / self.residents as f64).min(1.0);
        let often = share * (weight * 12.0).min(PAST_EVENTS_MAX as f64) / PAST_EVENTS_MAX as f64;
        let visits = (0..PAST_EVENTS_MAX).filter(|_| self.chance(often)).count().max(self.random.usize(..4));
        for _ in 0..visits {
            // Denser towards now, as a life is remembered.
            let ago = PAST.mul_f64(self.random.f64().powi(3)) + Duration::from_secs(60);
            let event = resident.sign_in(&mut self.random, now.minus(ago));
            world.arrive(&self.pool, &resident.username, &event);
        }
    }

    fn sign_in(&mut self, world: &mut World, person: u64, now: UnixMillis) {
        let Some(event) = self.people.get(&person).map(|resident| resident.sign_in(&mut self.random, now)) else {
            return;
        };
        if event.challenges.len() == 2 {
            self.begin(world, person, event, SECOND_FACTOR_AFTER);
        } else {
            if event.response == Some(Word::Known(EventResponse::Fail)) {
                self.plan_about(now, Duration::from_secs(8), Deed::SignIn { person, usual: false });
            }
            self.tell(world, person, &event);
        }
    }

    /// Resetting or changing a password, or asking for a code again.
    fn errand(&mut self, world: &mut World, now: UnixMillis) {
        let everybody: Vec<u64> = self.people.keys().copied().collect();
        let person = *pick(&mut self.random, &everybody);
        let Some(resident) = self.people.get(&person).cloned() else {
            return;
        };
        let outcome = if self.chance(0.1) { EventResponse::Fail } else { EventResponse::Pass };
        let (kind, outcome) = match self.random.u8(..4) {
            0 => (EventType::ResendCode, EventResponse::Pass),
            1 => (EventType::PasswordChange, outcome),
            _ => (EventType::ForgotPassword, outcome),
        };
        let event = resident.act(&mut self.random, kind, outcome, now);
        if kind == EventType::ForgotPassword {
            self.begin(world, person, event, Duration::from_secs(30));
        } else {
            self.tell(world, person, &event);
        }
    }

    /// A new user, who confirms soon and then comes often; when there are too many, the first of them is deleted.
    fn sign_up(&mut self, world: &mut World, now: UnixMillis) {
        let newcomers: Vec<u64> =
            self.people.iter().filter(|(_, person)| person.is_newcomer).map(|(number, _)| *number).collect();
        if newcomers.len() >= NEWCOMERS_MAX {
            if let Some(name) = self.name_of(world, newcomers[0]) {
                world.delete_user(&self.pool, &name);
            }
            self.people.remove(&newcomers[0]);
        }
        let number = self.settle(world, Some(Duration::from_secs(300)), now);
        let Some(person) = self.people.get_mut(&number) else {
            return;
        };
        person.is_newcomer = true;
        let person = person.clone();
        world.change_user(&self.pool, &person.username, |user| {
            user.created = now;
            user.last_modified = now;
            user.listed_from = now;
            user.enabled = true;
            user.status = "UNCONFIRMED".to_owned();
        });
        let event = person.act(&mut self.random, EventType::SignUp, EventResponse::Pass, now);
        self.begin(world, number, event, Duration::from_secs(25));
        self.plan_visit(number, now.plus(Duration::from_secs(60)));
    }

    /// Credential stuffing: for about twenty seconds, three attempts a second on a dozen users from a few addresses.
    fn attack(&mut self, now: UnixMillis) {
        let everybody: Vec<u64> = self.people.keys().copied().collect();
        let victims: Vec<u64> = (0..12).map(|_| *pick(&mut self.random, &everybody)).collect();
        let origins: Vec<Origin> = (0..3).map(|_| Origin::new(&mut self.random)).collect();
        for attempt in 0..60 {
            let origin = pick(&mut self.random, &origins).clone();
            let person = *pick(&mut self.random, &victims);
            let within = Duration::from_millis(attempt * 333 + self.random.u64(..300));
            self.plan(now, within, Deed::Attempt { person, origin });
        }
    }

    fn attempt(&mut self, world: &mut World, person: u64, origin: &Origin, now: UnixMillis) {
        let event = origin.attempt(&mut self.random, now);
        let is_breach = event.response == Some(Word::Known(EventResponse::Pass));
        let is_doubtful =
            event.risk.as_ref().and_then(|risk| risk.level.clone()) == Some(Word::Known(RiskLevel::Medium));
        self.tell(world, person, &event);
        if let Some(event_id) = event.id
            && (is_breach || self.chance(0.1))
        {
            let value = FeedbackValue::Invalid;
            self.plan_about(now, Duration::from_secs(30), Deed::Feedback { person, event_id, value });
        } else if is_doubtful && self.chance(0.2) {
            // It was the user after all, says the user.
            self.vouch(world, person, now);
        }
    }

    /// An administrator finds a user's newest event to be in order.
    fn vouch(&mut self, world: &World, person: u64, now: UnixMillis) {
        let newest = self
            .name_of(world, person)
            .and_then(|name| world.history(&self.pool, &name).into_iter().find_map(|event| event.id));
        if let Some(event_id) = newest {
            let value = FeedbackValue::Valid;
            self.plan_about(now, Duration::from_secs(30), Deed::Feedback { person, event_id, value });
        }
    }

    /// An event that is seen InProgress first, and mostly comes to its end after a while.
    fn begin(&mut self, world: &mut World, person: u64, end: AuthEvent, after: Duration) {
        let mut start = end.clone();
        start.response = Some(Word::Known(EventResponse::InProgress));
        start.challenges.truncate(1);
        self.tell(world, person, &start);
        let is_abandoned = self.chance(0.04);
        if let (false, Some(at)) = (is_abandoned, end.creation_date) {
            self.plan_about(at, after, Deed::Finish { person, event: Box::new(end) });
        }
    }

    fn finish(&mut self, world: &mut World, person: u64, end: AuthEvent) {
        let Some(name) = self.name_of(world, person) else {
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

    /// The event comes into the history: mostly at once, sometimes some seconds late.
    fn tell(&mut self, world: &mut World, person: u64, event: &AuthEvent) {
        let is_federated = self.people.get(&person).is_some_and(|person| person.is_federated);
        let Some(name) = self.name_of(world, person).filter(|_| !is_federated) else {
            return;
        };
        let delay = if self.chance(0.15) { self.random.u64(1000..8000) } else { 0 };
        let visible_at = event.creation_date.unwrap_or_default().plus(Duration::from_millis(delay));
        world.arrive_late(&self.pool, &name, event, visible_at);
        world.keep_newest(&self.pool, &name, KEPT_EVENTS_MAX);
    }

    /// A person's username, while the world has the user.
    fn name_of(&self, world: &World, person: u64) -> Option<String> {
        let name = &self.people.get(&person)?.username;
        world.pool(&self.pool)?.user(name).map(|user| user.username.clone())
    }

    fn plan_visit(&mut self, person: u64, now: UnixMillis) {
        if let Some(pause) = self.people.get(&person).map(|person| person.pause) {
            self.plan_about(now, pause, Deed::SignIn { person, usual: true });
        }
    }

    /// After a pause of about this length: exponential, as independent arrivals are.
    fn plan_about(&mut self, now: UnixMillis, mean: Duration, deed: Deed) {
        let after = self.about(mean);
        self.plan(now, after, deed);
    }

    fn plan(&mut self, now: UnixMillis, after: Duration, deed: Deed) {
        // Never at once: a tick that makes its own work would not end.
        let due = now.plus(after.max(Duration::from_millis(1)));
        self.agenda.insert((due, self.next_deed), deed);
        self.next_deed += 1;
    }

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
    use crate::world::Clock;

    const POOL: &str = "eu-west-1_Demo";
    const START: UnixMillis = UnixMillis(1_750_000_000_000);

    fn moved_in(seed: u64) -> (World, Population) {
        let mut world = World::new(Clock::Manual(START), 1, Quotas::unlimited());
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
        assert!(GROUPS.iter().all(|group| pool.members_behind(group, None).unwrap().count() > 0));
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
        let names: Vec<_> = population.people.values().map(|person| person.username.clone()).collect();
        names.iter().for_each(|name| world.delete_user(POOL, name));
        live(&mut world, &mut population, 60);
    }
}
