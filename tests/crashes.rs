//! A crash loses no event and counts none twice. The built binary runs between a simulated Cognito and a real receiver.
//! It dies at every named step, and is killed at random moments.
//!
//! Meanwhile events go on ([`Life`]): history over several pages, arrivals, outcomes, feedback, late arrivals, ties,
//! new users, and records that the receiver refuses. [`TestEnv::conserved_on`] checks the state after any number of
//! deaths. Each outcome is counted as often as the pools hold it, history too. Every revision is delivered, and refused
//! records are in quarantine. Counters that a scrape has seen never go back. Records are repeated at most as often as
//! [`CrashTest::repeats_max`] allows.
//!
//! [`Storm`] has one user with so many events that a commit takes several pages. Here the ledger is opened after every
//! death: the cursor, the counters and the entries must hold the same events.
//!
//! The variable `KILLS` sets the length of the random loops (12 by default; CI runs 100). They print their seed, and
//! `SEED` repeats it as far as timing allows.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cognito_auth_core::counters::Series;
use cognito_auth_core::event::{AuthEvent, FeedbackValue, UnixMillis, Word};
use cognito_auth_exporter::delivery::Outbox as _;
use cognito_auth_exporter::failpoint::Failpoint;
use cognito_auth_simulator::world::{SimulatedPool, World};
use tonic::Code;

use crate::exporter;
use crate::exporter::{Exporter, PATIENCE, Scrape};
use crate::long;
use crate::receiver::{Received, Reply};
use crate::test_env::{self, MINUTE, READ, Terms, TestEnv, now, sign_ins};

const POOLS: [&str; 2] = ["eu-west-1_Crashes", "eu-west-1_CrashesToo"];

/// The records of one export. The number is small, so that there are many batches to die in and few records in flight.
const BATCH_SIZE: usize = 20;

/// The pause between two beats of [`Life`].
const BEAT: Duration = Duration::from_millis(20);

/// The events of a user that can still change. All are on the first page, so each poll sees each change. A change
/// further down is seen minutes later, by a watch or a full reading.
const CHANGEABLE_MAX: usize = 50;

/// The receiver refuses EventIds with this prefix.
const POISON: &str = "poison-";

fn config() -> String {
    let pool = |id: &&str| format!("[[pools]]\nid = {id:?}\nall_users = true\n");
    let pools: String = POOLS.iter().map(pool).collect();
    format!(
        "batch_size = {BATCH_SIZE}\n{pools}\
         [poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\nfirst_run = \"all\"\n\
         [discovery]\ninterval = \"10s\"\nrequests_per_second = 30\n"
    )
}

/// The events in the pools, one beat at a time.
///
/// The test knows beforehand which events are live. History is older than the test. An existing user has new events
/// only after the first poll of this user, when the user is durably followed. A user created later is live from the
/// first event; users are created only once the pool is known to be followed.
struct Life {
    random: fastrand::Rng,
    began: UnixMillis,
    /// The time of the newest event.
    newest: UnixMillis,
    users: Vec<LifeUser>,
    poisons: usize,
}

struct LifeUser {
    pool: &'static str,
    name: String,
    /// Whether new events of this user are live.
    live: bool,
    /// Whether this user has many events at once, none of which changes.
    busy: bool,
    /// The live events: id, time, and whether in progress.
    events: Vec<(String, UnixMillis, bool)>,
}

impl Life {
    /// Creates two pools of users with history. The longest history has six pages.
    fn begin(seed: u64, world: &mut World) -> Self {
        let began = now();
        let mut life = Self { random: fastrand::Rng::with_seed(seed), began, newest: began, users: vec![], poisons: 0 };
        POOLS.iter().for_each(|pool| {
            world.add_pool(SimulatedPool::new(pool));
        });
        for (pool, busy, past) in [(0, false, 0), (0, false, 40), (0, false, 190), (0, true, 130), (0, true, 350)] {
            life.join(world, POOLS[pool], busy, past);
        }
        life.join(world, POOLS[1], false, 10);
        life.join(world, POOLS[1], false, 70);
        life
    }

    /// Adds a user with history that no exporter has seen.
    fn join(&mut self, world: &mut World, pool: &'static str, busy: bool, past: i64) {
        let name = format!("user-{}", self.users.len());
        let long_ago = UnixMillis(self.began.0 - MINUTE);
        world.add_user_with(pool, &name, |user| user.created = long_ago);
        sign_ins(world, pool, &name, past, long_ago);
        self.users.push(LifeUser { pool, name, live: false, busy, events: vec![] });
    }

    /// Adds a user that did not exist before.
    fn sign_up(&mut self, world: &mut World, pool: &'static str) {
        let name = format!("user-{}", self.users.len());
        world.add_user(pool, &name);
        self.users.push(LifeUser { pool, name, live: true, busy: false, events: vec![] });
    }

    /// Makes a random change.
    fn beat(&mut self, world: &mut World) {
        let asked: BTreeSet<(Option<String>, Option<String>)> =
            world.calls().of(READ).map(|call| (call.pool.clone(), call.user.clone())).collect();
        world.calls_mut().clear();
        for user in &mut self.users {
            user.live |= asked.contains(&(Some(user.pool.to_owned()), Some(user.name.clone())));
        }
        let followed = |pool| self.users.iter().any(|user| user.pool == pool && user.live);
        let pool = POOLS[self.random.usize(..POOLS.len())];
        let changeable = self.users.iter().filter(|user| user.is_changeable()).count();
        match self.random.u32(..100) {
            0 => {
                let past = self.random.i64(60..200);
                self.join(world, pool, false, past);
            }
            1..3 => self.poison(world),
            3..9 => self.burst(world),
            9..20 if changeable < 6 && followed(pool) => self.sign_up(world, pool),
            _ => self.change(world),
        }
    }

    /// Adds a sign-in of a random user.
    fn go_on(&mut self, world: &mut World) {
        let event = world.sign_in(self.tick());
        if let Some(user) = self.users.iter().find(|user| user.busy && user.live) {
            world.arrive(user.pool, &user.name, &event);
        }
    }

    /// Adds an event that the receiver will refuse.
    fn poison(&mut self, world: &mut World) {
        let id = format!("{POISON}{}", self.poisons);
        let at = self.tick();
        let event = AuthEvent { id: Some(id), ..world.sign_in(at) };
        // A busy user, because its events have no revisions: a quarantined record would lack them.
        if let Some(user) = self.users.iter().find(|user| user.busy && user.live) {
            world.arrive(user.pool, &user.name, &event);
            self.poisons += 1;
        }
    }

    /// Adds more than a page at once, some of it within one millisecond.
    fn burst(&mut self, world: &mut World) {
        let busy: Vec<usize> = (0..self.users.len()).filter(|&user| self.users[user].busy).collect();
        let user = busy[self.random.usize(..busy.len())];
        if !self.users[user].live {
            return;
        }
        for _ in 0..self.random.usize(1..100) {
            let at = self.tick();
            let mut event = world.sign_in(at);
            event.response = Some(Word::parse(if self.random.bool() { "Pass" } else { "Fail" }));
            world.arrive(self.users[user].pool, &self.users[user].name, &event);
        }
    }

    /// Adds an event, an outcome, feedback, or an event that arrives late.
    fn change(&mut self, world: &mut World) {
        let changeable: Vec<usize> = (0..self.users.len()).filter(|&user| self.users[user].is_changeable()).collect();
        if changeable.is_empty() {
            return;
        }
        let at = self.tick();
        let user = &mut self.users[changeable[self.random.usize(..changeable.len())]];
        let some = (!user.events.is_empty()).then(|| self.random.usize(..user.events.len()));
        match (self.random.u32(..10), some) {
            (0..2, Some(some)) => {
                let (id, ..) = &user.events[some];
                let value = if self.random.bool() { FeedbackValue::Valid } else { FeedbackValue::Invalid };
                world.feedback(user.pool, &user.name, id, value, "an administrator");
            }
            (2..5, Some(some)) => {
                // An event that waits for its outcome.
                let waiting = user.events.iter_mut().skip(some).find(|(.., waits)| *waits);
                if let Some((id, _, waits)) = waiting {
                    *waits = false;
                    let outcome = if self.random.bool() { "Pass" } else { "Fail" };
                    world.revise(user.pool, &user.name, id, |event| event.response = Some(Word::parse(outcome)));
                }
            }
            (5, Some(some)) => {
                let (_, late, _) = user.events[some];
                user.happens(world, late, "Pass");
            }
            (6..8, _) => user.happens(world, at, "InProgress"),
            _ => user.happens(world, at, "Pass"),
        }
    }

    /// The time of the next event: now, and not before any other event.
    fn tick(&mut self) -> UnixMillis {
        self.newest = now().max(UnixMillis(self.newest.0 + i64::from(self.random.bool())));
        self.newest
    }
}

impl LifeUser {
    fn is_changeable(&self) -> bool {
        self.live && !self.busy && self.events.len() < CHANGEABLE_MAX
    }

    fn happens(&mut self, world: &mut World, at: UnixMillis, response: &str) {
        let mut event = world.sign_in(at);
        event.response = Some(Word::parse(response));
        world.arrive(self.pool, &self.name, &event);
        self.events.push((event.id.unwrap(), at, response == "InProgress"));
    }
}

/// The moment at which the process dies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Death {
    /// Before it reports that it runs.
    Starting,
    /// While it runs.
    Running,
    /// After SIGTERM.
    Stopping,
}

/// An environment, the events in it, and what is known of the earlier exporters.
struct CrashTest {
    env: TestEnv,
    life: Life,
    /// The durable counters at the last scrape.
    seen: BTreeMap<String, f64>,
    deaths: BTreeMap<Death, usize>,
    /// The number of records in batches whose answer was lost.
    lost: Arc<AtomicUsize>,
    starts: usize,
    repeats: usize,
}

impl CrashTest {
    /// Sets up the environment. One answer in eight is lost if `answers_are_lost`.
    async fn set(seed: u64, answers_are_lost: bool) -> Self {
        let mut life = None;
        let env = TestEnv::set(&config(), |world| life = Some(Life::begin(seed, world))).await;
        let lost = Arc::new(AtomicUsize::new(0));
        let mut random = fastrand::Rng::with_seed(!seed);
        let losses = lost.clone();
        env.receiver.answer_by(move |records| {
            if records.iter().any(is_poison) {
                Reply::Code(Code::InvalidArgument, "poison")
            } else if answers_are_lost && random.u32(..8) == 0 {
                losses.fetch_add(records.len(), Ordering::Relaxed);
                Reply::Lost
            } else {
                Reply::Ok
            }
        });
        let (seen, deaths) = (BTreeMap::new(), BTreeMap::new());
        Self { env, life: life.unwrap(), seen, deaths, lost, starts: 0, repeats: 0 }
    }

    /// Delivery has one batch in flight, so a death repeats at most one batch. A lost answer repeats its own batch.
    fn repeats_max(&self) -> usize {
        self.deaths.values().sum::<usize>() * BATCH_SIZE + self.lost.load(Ordering::Relaxed)
    }

    /// Makes a change, and checks that no counter went back.
    async fn beat(&mut self, exporter: Option<&Exporter>) {
        self.env.simulation.world(|world| self.life.beat(world));
        if let Some(scrape) = exporter.and_then(Exporter::try_scrape) {
            self.see(&scrape);
        }
        tokio::time::sleep(BEAT).await;
    }

    fn see(&mut self, scrape: &Scrape) {
        for (series, value) in DURABLE.iter().flat_map(|metric| scrape.matching(metric, &[])) {
            let before = self.seen.insert(series.to_owned(), value);
            assert!(before.is_none_or(|before| before <= value), "{series} went back from {before:?} to {value}");
        }
    }

    fn start(&mut self, set: impl FnOnce(&mut Command)) -> Exporter {
        self.starts += 1;
        let mut command = self.env.command();
        set(&mut command);
        Exporter::spawned(command)
    }

    /// Beats until the exporter runs.
    async fn until_running(&mut self, exporter: &mut Exporter) {
        let deadline = Instant::now() + PATIENCE;
        while !exporter.is_running() {
            assert!(exporter.try_ended().is_none(), "it died by itself\n{}", exporter.log());
            assert!(Instant::now() < deadline, "it does not run\n{}", exporter.log());
            self.beat(None).await;
        }
    }

    /// Beats until the exporter has died of itself at this step; SIGTERM comes once it has delivered something, if
    /// `stop`.
    async fn until_dead(&mut self, step: Failpoint, count: u64, stop: bool) {
        let at = format!("{}:{count}", step.name());
        let mut exporter = self.start(|command| {
            command.env("COGNITO_EXPORTER_TEST_STOP_AT", &at);
        });
        let deadline = Instant::now() + PATIENCE;
        let exports_before = self.env.receiver.exports().len();
        let mut stopping = !stop;
        let status = loop {
            if let Some(status) = exporter.try_ended() {
                break status;
            }
            assert!(Instant::now() < deadline, "{at} was not reached\n{}", exporter.log());
            self.beat(Some(&exporter)).await;
            if !stopping && exporter.is_running() && self.env.receiver.exports().len() > exports_before {
                exporter.signal("TERM");
                stopping = true;
            }
        };
        exporter.until_said(&format!("died at {at},"));
        assert_eq!(status.signal(), Some(SIGABRT), "{status}\n{}", exporter.log());
        let death = match (exporter.is_running(), stop) {
            (false, _) => Death::Starting,
            (true, false) => Death::Running,
            (true, true) => Death::Stopping,
        };
        *self.deaths.entry(death).or_default() += 1;
    }

    /// Starts an exporter and kills it at a random moment.
    async fn kill(&mut self, death: Death, start_takes: Duration) {
        for _ in 0..self.life.random.usize(..5) {
            self.beat(None).await;
        }
        let mut exporter = self.start(|_| {});
        let moment = |life: &mut Life, longest: Duration| longest.mul_f64(life.random.f64());
        if death == Death::Starting {
            tokio::time::sleep(moment(&mut self.life, start_takes)).await;
        } else {
            self.until_running(&mut exporter).await;
            for _ in 0..self.life.random.usize(..30) {
                self.beat(Some(&exporter)).await;
            }
            tokio::time::sleep(moment(&mut self.life, BEAT)).await;
            if death == Death::Stopping {
                exporter.signal("TERM");
                tokio::time::sleep(moment(&mut self.life, Duration::from_millis(300))).await;
            }
        }
        exporter.kill();
        *self.deaths.entry(death).or_default() += 1;
    }

    /// Starts an exporter, waits until it is idle, and compares its counts and deliveries with the events.
    async fn conserve(&mut self) {
        let mut exporter = self.start(|_| {});
        self.until_running(&mut exporter).await;
        self.see(&exporter.scrape());
        // A refused record goes to the quarantine once the receiver has accepted another one.
        let deadline = Instant::now() + exporter::PATIENCE;
        let poisons = self.life.poisons as f64;
        while exporter.scrape().sum("cognito_exporter_quarantined_records", &[]) < poisons && Instant::now() < deadline
        {
            self.env.simulation.world(|world| self.life.go_on(world));
            tokio::time::sleep(BEAT).await;
        }
        // Answers are lost until the end, so the bound is known only then.
        let terms = Terms { live_since: self.life.began, repeats_max: usize::MAX, quarantined: self.life.poisons };
        self.repeats = self.env.conserved_on(&exporter, &POOLS, terms).await;
        assert!(self.repeats <= self.repeats_max(), "too many repeats: {}", self.told());
        self.see(&exporter.scrape());
        assert!(exporter.stop().success());
    }

    fn told(&self) -> String {
        format!(
            "{} starts, deaths {:?}, {} repeats of {} allowed, {} users, {} events, {} refused",
            self.starts,
            self.deaths,
            self.repeats,
            self.repeats_max(),
            self.life.users.len(),
            self.env.truth(&POOLS).len(),
            self.life.poisons
        )
    }
}

fn is_poison(record: &Received) -> bool {
    record.text("aws.cognito.event.id").starts_with(POISON)
}

/// Counters that survive a crash.
const DURABLE: [&str; 8] = [
    "cognito_auth_events_total",
    "cognito_auth_superseded_outcomes_total",
    "cognito_auth_unfinished_events_total",
    "cognito_auth_risk_events_total",
    "cognito_auth_compromised_credentials_events_total",
    "cognito_auth_challenges_total",
    "cognito_auth_feedback_total",
    "cognito_auth_history_events_total",
];

/// The signal of a process that aborts itself.
const SIGABRT: i32 = 6;

/// The deaths at one step, one after the other in the same state: how often the step is reached before, and whether
/// only a stop leads there so often.
fn deaths(step: Failpoint) -> &'static [(u64, bool)] {
    const AT_WORK: bool = false;
    const AT_STOP: bool = true;
    match step {
        // Once for each of the two pools, in the first runs.
        Failpoint::PoolRecorded => &[(1, AT_WORK), (1, AT_WORK)],
        // Once for each pool in every run, until the next listing.
        Failpoint::UsersEnrolled | Failpoint::PollerTold => &[(1, AT_WORK), (2, AT_WORK), (1, AT_WORK)],
        Failpoint::PageRead | Failpoint::MetricsShown => &[(1, AT_WORK), (9, AT_WORK), (4, AT_WORK)],
        // The first ones make the store, record the pools, enrol the users.
        Failpoint::LedgerAsked
        | Failpoint::LedgerApplied
        | Failpoint::LedgerFlushed
        | Failpoint::LedgerSynced
        | Failpoint::LedgerPublished
        | Failpoint::LedgerAnswered => &[(1, AT_WORK), (2, AT_WORK), (4, AT_WORK), (9, AT_WORK), (23, AT_WORK)],
        // When a new store is opened, at the first write, as its writes double, every ten seconds, and at the end.
        Failpoint::NoteDrafted | Failpoint::NoteRenamed => &[(1, AT_WORK), (2, AT_STOP), (1, AT_WORK)],
        Failpoint::BatchCollected | Failpoint::BatchAnswered | Failpoint::BatchSettled => {
            &[(1, AT_WORK), (6, AT_WORK), (2, AT_WORK)]
        }
        Failpoint::QuarantineSettled => &[(1, AT_WORK), (2, AT_WORK)],
        Failpoint::LedgerClosed => &[(1, AT_STOP), (1, AT_STOP)],
    }
}

/// The number of scenarios that run at a time. They wait more than they work.
const AT_ONCE: usize = 4;

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build has no failpoints")]
fn a_process_that_dies_at_any_step_loses_no_event_and_repeats_no_count() {
    let steps = std::sync::Mutex::new(Failpoint::ALL.iter().copied());
    let next = || steps.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(step) = next() {
                    // The thread's name makes a failure name its step.
                    let thread = std::thread::Builder::new().name(step.name().to_owned());
                    let played = thread.spawn_scoped(scope, move || {
                        let runtime = tokio::runtime::Runtime::new().unwrap();
                        println!("{}", runtime.block_on(dying_at(step)));
                    });
                    if let Err(panic) = played.unwrap().join() {
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}

async fn dying_at(step: Failpoint) -> String {
    let began = Instant::now();
    let mut play = CrashTest::set(step as u64, false).await;
    let deaths = if long::is_thorough() { deaths(step) } else { &deaths(step)[..1] };
    for (count, stop) in deaths {
        play.until_dead(step, *count, *stop).await;
    }
    play.conserve().await;
    format!("{}: {} in {:?}", step.name(), play.told(), began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_at_random_moments_loses_no_event_and_repeats_no_count() {
    if !long::are_wanted() {
        return;
    }
    killed_at_random(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_mixed_with_lost_answers_lose_no_event_and_repeat_no_count() {
    if !long::are_wanted() {
        return;
    }
    killed_at_random(true).await;
}

/// The number of deaths between two checks of everything.
const DEATHS_PER_LOOK: usize = 6;

#[expect(clippy::print_stdout, reason = "the output shows the seed and the sequence of deaths")]
async fn killed_at_random(answers_are_lost: bool) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (kills, seed) = (number("KILLS").unwrap_or(12), number("SEED").unwrap_or_else(|| fastrand::u64(..1_000_000)));
    // Shown with every failure, like all output of a test.
    println!("SEED={seed} KILLS={kills}");
    let began = Instant::now();
    let mut play = CrashTest::set(seed, answers_are_lost).await;

    let mut exporter = play.start(|_| {});
    play.until_running(&mut exporter).await;
    let start_takes = began.elapsed();
    exporter.kill();
    *play.deaths.entry(Death::Running).or_default() += 1;
    for kill in 1..kills {
        let death = match play.life.random.u32(..10) {
            0..2 => Death::Starting,
            2..4 => Death::Stopping,
            _ => Death::Running,
        };
        play.kill(death, start_takes).await;
        if kill % DEATHS_PER_LOOK as u64 == 0 {
            play.conserve().await;
        }
    }
    play.conserve().await;
    println!("SEED={seed}: {} in {:?}", play.told(), began.elapsed());
}

const STORM_POOL: &str = "eu-west-1_Storm";
const STORM_USER: &str = "user-0";

/// The most events of a page. The number is small, so that a storm has many pages.
const STORM_PAGE: usize = 20;

/// One user with thousands of events in minutes, so that the cursor remembers all of them and a commit takes several
/// pages. Every seventh event is in progress at first.
struct Storm {
    env: TestEnv,
    random: fastrand::Rng,
    newest: UnixMillis,
    /// The events in progress: date and id.
    in_progress: Vec<(UnixMillis, String)>,
    events: usize,
    /// The events in the ledger at the last death.
    taken: usize,
    /// The most whole pages that a death has kept from their commit.
    uncommitted_max: usize,
    deaths: usize,
}

impl Storm {
    /// Sets up an environment with `events` events of the last minutes.
    async fn set(seed: u64, events: usize) -> Self {
        let config = format!("batch_size = {BATCH_SIZE}\n{}page_size = {STORM_PAGE}\n", test_env::all_live(STORM_POOL));
        let env = TestEnv::set(&config, |world| test_env::populate(world, STORM_POOL, 1, 0)).await;
        let newest = UnixMillis(now().0 - 3 * MINUTE);
        let random = fastrand::Rng::with_seed(seed);
        let in_progress = vec![];
        let mut storm = Self { env, random, newest, in_progress, events: 0, taken: 0, uncommitted_max: 0, deaths: 0 };
        storm.burst(events);
        storm
    }

    /// Adds events between the newest one and now. Some are of one millisecond.
    fn burst(&mut self, count: usize) {
        let began = self.newest;
        let passed = now().since(began).as_secs_f64() * 1000.0;
        self.env.simulation.world(|world| {
            for event in 1..=count {
                #[expect(clippy::cast_possible_truncation, reason = "a part of the minutes of a test")]
                let at = UnixMillis(began.0 + (passed * event as f64 / count as f64) as i64);
                let mut event = world.sign_in(at);
                self.events += 1;
                if self.events.is_multiple_of(7) {
                    event.response = Some(Word::parse("InProgress"));
                    self.in_progress.push((at, event.id.clone().unwrap()));
                }
                world.arrive(STORM_POOL, STORM_USER, &event);
                self.newest = at;
            }
        });
    }

    /// Gives an outcome to those events in progress that `wanted` selects.
    fn end(&mut self, wanted: impl Fn(UnixMillis, &str) -> bool) {
        let ending: Vec<_> = self.in_progress.extract_if(.., |(at, id)| wanted(*at, id)).collect();
        self.env.simulation.world(|world| {
            for (_, id) in ending {
                let outcome = if self.random.bool() { "Pass" } else { "Fail" };
                world.revise(STORM_POOL, STORM_USER, &id, |event| event.response = Some(Word::parse(outcome)));
            }
        });
    }

    fn start(&self, set: impl FnOnce(&mut Command)) -> Exporter {
        let mut command = self.env.command();
        set(&mut command);
        self.env.forget_calls();
        Exporter::spawned(command)
    }

    /// Runs an exporter until it dies of itself at this step. Then more events come.
    async fn die_at(&mut self, step: Failpoint, count: u64) {
        let at = format!("{}:{count}", step.name());
        let mut exporter = self.start(|command| {
            command.env("COGNITO_EXPORTER_TEST_STOP_AT", &at);
        });
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = exporter.try_ended() {
                break status;
            }
            assert!(Instant::now() < deadline, "{at} was not reached\n{}", exporter.log());
            tokio::time::sleep(BEAT).await;
        };
        assert_eq!(status.signal(), Some(SIGABRT), "{status}\n{}", exporter.log());
        self.after_death(&at).await;
    }

    /// Runs an exporter until `calls` pages were requested, while events come, and kills it a moment later.
    async fn kill_after(&mut self, calls: usize) {
        let exporter = self.start(|_| {});
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answered = self.env.reads(|_| true).len();
            if answered >= calls {
                break;
            }
            assert!(Instant::now() < deadline, "{calls} calls did not come\n{}", exporter.log());
            if answered > 0 && self.events < STORM_EVENTS_MAX && self.random.u8(..4) == 0 {
                let some = self.random.usize(1..60);
                self.burst(some);
            }
            tokio::time::sleep(Duration::from_millis(self.random.u64(..10))).await;
        }
        exporter.kill();
        self.after_death(&format!("a kill after {calls} calls")).await;
    }

    /// Checks that the cursor, the counters and the entries in the ledger and at the receiver hold the same events.
    /// Then the events in progress that were not taken get their outcome, and more events come.
    async fn after_death(&mut self, death: &str) {
        self.deaths += 1;
        let ledger = self.env.opened_ledger();
        let remembered = ledger.user(STORM_POOL, STORM_USER).unwrap().map_or(0, |user| user.cursor.remembered());
        let counted = Arc::new(AtomicU64::new(0));
        let shown = counted.clone();
        let events = |series: &Series| matches!(series, Series::Events(_));
        let show = move |_: &str, totals: &[(Series, u64)]| {
            let sum: u64 = totals.iter().filter(|(series, _)| events(series)).map(|(_, total)| total).sum();
            shown.fetch_add(sum, Ordering::Relaxed);
        };
        ledger.show_totals(show).await.unwrap();
        let mut ids: BTreeSet<String> =
            self.env.receiver.records().iter().map(|record| record.text("aws.cognito.event.id").to_owned()).collect();
        let mut after = None;
        loop {
            let read = ledger.read(after, 1000).unwrap();
            let Some((last, _)) = read.last() else { break };
            after = Some(*last);
            ids.extend(read.into_iter().map(|(_, entry)| entry.unwrap().event.id.unwrap()));
        }
        ledger.close().await;
        let counted = usize::try_from(counted.load(Ordering::Relaxed)).unwrap();
        let (counts, wanted) = ((remembered, counted, ids.len()), (remembered, remembered, remembered));
        assert_eq!(counts, wanted, "{death}: remembered, counted, and delivered or waiting");
        let pages = self.env.reads(|_| true).len();
        let committed = (remembered - self.taken).div_ceil(STORM_PAGE);
        self.taken = remembered;
        // The first page may have been asked for twice.
        self.uncommitted_max = self.uncommitted_max.max(pages.saturating_sub(committed + 1));
        self.end(|_, id| !ids.contains(id));
        self.burst(12 * STORM_PAGE);
    }

    /// Lets an exporter read everything, ends the newest events in progress, and compares its counts and deliveries
    /// with the events.
    async fn conserve(&mut self) {
        let exporter = self.env.exporter();
        let events = test_env::as_float(self.events);
        exporter.until("all events, counted", |scrape| test_env::is(scrape, "cognito_auth_events_total", &[], events));
        // Every poll shows the events of the first page.
        self.burst(7);
        let mut dates: Vec<_> = self.env.truth(&[STORM_POOL]).iter().filter_map(|event| event.creation_date).collect();
        dates.sort_unstable();
        let first_page = dates[dates.len() - STORM_PAGE / 2];
        let events = test_env::as_float(self.events);
        exporter
            .until("the last events, counted", |scrape| test_env::is(scrape, "cognito_auth_events_total", &[], events));
        self.end(|at, _| at >= first_page);
        let terms = Terms { repeats_max: self.deaths * BATCH_SIZE, ..Terms::default() };
        self.env.conserved_on(&exporter, &[STORM_POOL], terms).await;
        assert!(exporter.stop().success());
    }
}

/// The number of events from which on no more come while a process is waited for. On a busy machine that takes long,
/// and the storm would outgrow what the last process reads in time.
const STORM_EVENTS_MAX: usize = 8000;

/// How often a step is reached in a storm before the process dies there; None if no commit of pages leads there.
fn death_in_storm(step: Failpoint) -> Option<u64> {
    match step {
        Failpoint::PageRead => Some(8),
        Failpoint::LedgerAsked
        | Failpoint::LedgerApplied
        | Failpoint::LedgerFlushed
        | Failpoint::LedgerSynced
        | Failpoint::LedgerPublished
        | Failpoint::LedgerAnswered => Some(4),
        Failpoint::MetricsShown => Some(2),
        Failpoint::BatchCollected | Failpoint::BatchAnswered | Failpoint::BatchSettled => Some(3),
        Failpoint::PoolRecorded
        | Failpoint::UsersEnrolled
        | Failpoint::PollerTold
        | Failpoint::NoteDrafted
        | Failpoint::NoteRenamed
        | Failpoint::QuarantineSettled
        | Failpoint::LedgerClosed => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(debug_assertions), ignore = "a release build has no failpoints")]
async fn a_process_that_dies_at_any_step_of_a_commit_of_several_pages_loses_no_event_and_repeats_no_count() {
    let mut storm = Storm::set(1, 1500).await;
    // A commit takes several pages once the cursor remembers 512 events.
    storm.die_at(Failpoint::PageRead, 70).await;
    assert!(storm.taken > 1000, "{} events were taken", storm.taken);
    storm.uncommitted_max = 0;
    let rounds = if long::is_thorough() { 4 } else { 1 };
    for round in 0..rounds {
        for (step, count) in Failpoint::ALL.iter().filter_map(|step| Some((*step, death_in_storm(*step)?))) {
            // Other rounds reach the step at other pages. A burst has twelve pages.
            storm.die_at(step, count + round).await;
        }
    }
    assert!(storm.uncommitted_max >= 2, "no death came between the pages of a commit");
    storm.conserve().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_while_it_reads_a_storm_loses_no_event_and_repeats_no_count() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("SEED={seed}");
    let mut storm = Storm::set(seed, 1500).await;
    // Each death adds hundreds of events to the one user, so a hundred deaths would take minutes.
    let kills = if long::is_thorough() { number("KILLS").unwrap_or(12).min(12) } else { 4 };
    for _ in 0..kills {
        let calls = storm.random.usize(1..60);
        storm.kill_after(calls).await;
    }
    storm.conserve().await;
}
