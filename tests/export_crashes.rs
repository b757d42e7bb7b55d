//! A crash loses no exported event and counts none twice. The export loses a tenth, repeats a fifth and changes the
//! order; polls find what it loses. Meanwhile the exporter dies at random moments and at every step that an exported
//! event passes, and the receiver loses answers or is busy.
//!
//! The variable `KILLS` sets the number of deaths (12 by default; CI runs 100). The test prints its seed, and `SEED`
//! repeats it as far as timing allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cognito_auth_core::event::{UnixMillis, Word};
use cognito_auth_exporter::failpoint::Failpoint;
use cognito_auth_simulator::export::ExportSettings;
use serde_json::Value;
use tonic::Code;

use crate::export::{KEY, POOL, SAID, STREAM, add_users, by_firehose, deliver_to, faulty, sign_in_all, stream};
use crate::exporter::{Exporter, PATIENCE};
use crate::long;
use crate::receiver::Reply;
use crate::test_env::{Terms, TestEnv, now, until_followed};

const USERS: i64 = 8;

/// The records of one export. The number is small, so that there are many batches to die in and few records in flight.
const BATCH_SIZE: usize = 20;

/// The pause between two beats of [`ExportCrashes`].
const BEAT: Duration = Duration::from_millis(20);

/// The most events of a user. All of them are on the first page, so each poll sees each outcome.
const EVENTS_MAX: usize = 50;

/// The beats after which an exporter is killed that has not come to its step.
const BEATS_TO_A_STEP: u32 = 250;

/// The steps of an exported event, and those of a poll that adopts it.
const STEPS: [Failpoint; 11] = [
    Failpoint::LedgerAsked,
    Failpoint::LedgerApplied,
    Failpoint::LedgerFlushed,
    Failpoint::LedgerSynced,
    Failpoint::LedgerPublished,
    Failpoint::LedgerAnswered,
    Failpoint::BatchCollected,
    Failpoint::BatchAnswered,
    Failpoint::BatchSettled,
    Failpoint::PageRead,
    Failpoint::MetricsShown,
];

/// An environment, and the events in it.
struct ExportCrashes {
    env: TestEnv,
    random: fastrand::Rng,
    began: UnixMillis,
    /// The users that sign in: their numbers, and the number of each one's events.
    users: Vec<(i64, usize)>,
    signed_up: i64,
    /// The users and events that wait for their outcome.
    waiting: Vec<(String, String)>,
    /// The number of records in batches whose answer was lost.
    lost: Arc<AtomicUsize>,
    deaths: usize,
    /// The deaths by themselves, at a step.
    at_steps: usize,
}

impl ExportCrashes {
    async fn set(seed: u64) -> Self {
        let discovery = "[discovery]\ninterval = \"10s\"\nrequests_per_second = 30\n";
        let config = format!("batch_size = {BATCH_SIZE}\n{}{discovery}", by_firehose("full"));
        let env = TestEnv::set(&config, |world| {
            add_users(world, USERS);
            world.add_firehose(stream());
            world.export_events(POOL, faulty(ExportSettings::to_firehose(STREAM)));
        })
        .await;
        env.file("keys", KEY);
        env.simulation.deliver_firehose(STREAM);
        let lost = Arc::new(AtomicUsize::new(0));
        let (losses, mut flaky) = (lost.clone(), fastrand::Rng::with_seed(!seed));
        env.receiver.answer_by(move |records| match flaky.u32(..8) {
            0 => {
                losses.fetch_add(records.len(), Ordering::Relaxed);
                Reply::Lost
            }
            1 => Reply::Code(Code::Unavailable, "busy"),
            _ => Reply::Ok,
        });
        let random = fastrand::Rng::with_seed(seed);
        let users = (0..USERS).map(|number| (number, 0)).collect();
        Self { env, random, began: now(), users, signed_up: USERS, waiting: vec![], lost, deaths: 0, at_steps: 0 }
    }

    /// Makes a random change: a sign-in, or the outcome of one.
    async fn beat(&mut self) {
        let is_outcome = !self.waiting.is_empty() && self.random.u32(..3) == 0;
        if is_outcome {
            let (name, id) = self.waiting.swap_remove(self.random.usize(..self.waiting.len()));
            let outcome = if self.random.bool() { "Pass" } else { "Fail" };
            self.env.simulation.world(|world| {
                world.revise(POOL, &name, &id, |event| event.response = Some(Word::parse(outcome)));
            });
        } else {
            let place = self.random.usize(..self.users.len());
            let (number, events) = &mut self.users[place];
            let name = format!("user-{number}");
            let response = ["Pass", "Fail", "InProgress"][self.random.usize(..3)];
            let id = self.env.simulation.world(|world| {
                let mut sign_in = world.sign_in(now());
                sign_in.response = Some(Word::parse(response));
                world.arrive(POOL, &name, &sign_in);
                sign_in.id.unwrap()
            });
            if response == "InProgress" {
                self.waiting.push((name, id));
            }
            *events += 1;
            if *events == EVENTS_MAX {
                // Another user signs up and takes its place.
                self.signed_up += 1;
                self.users[place] = (self.signed_up - 1, 0);
                self.env.simulation.world(|world| world.add_user(POOL, &format!("user-{}", self.signed_up - 1)));
            }
        }
        tokio::time::sleep(BEAT).await;
    }

    /// Runs an exporter until it dies, at a step or at a random moment. A step that does not come is no fault.
    async fn die(&mut self) {
        let mut command = self.env.command();
        let is_at_step = self.random.u32(..3) > 0;
        if is_at_step {
            let step = STEPS[self.random.usize(..STEPS.len())];
            command.env("COGNITO_EXPORTER_TEST_STOP_AT", format!("{}:{}", step.name(), self.random.u32(1..12)));
        }
        let mut exporter = Exporter::spawned(command);
        let mut beats = if is_at_step { BEATS_TO_A_STEP } else { self.random.u32(1..60) };
        let mut delivers = false;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if exporter.try_ended().is_some() {
                exporter.until_said("died at ");
                self.at_steps += 1;
                break;
            }
            if !delivers && exporter.log().contains(SAID) {
                deliver_to(&self.env, &exporter);
                delivers = true;
            }
            // The beats count from the opening of the endpoint on: a busy machine starts slowly.
            beats -= u32::from(delivers && beats > 0);
            if beats == 0 {
                exporter.kill();
                break;
            }
            assert!(Instant::now() < deadline, "it does not run\n{}", exporter.log());
            self.beat().await;
        }
        self.deaths += 1;
    }

    /// Runs an exporter until every event is counted once and delivered.
    async fn conserve(&mut self) {
        let exporter = self.env.exporter();
        deliver_to(&self.env, &exporter);
        // Answers are lost until the end, so the bound is known only then.
        let terms = Terms { live_since: self.began, repeats_max: usize::MAX, quarantined: 0 };
        let repeats = self.env.conserved_on(&exporter, &[POOL], terms).await;
        let allowed = self.deaths * BATCH_SIZE + self.lost.load(Ordering::Relaxed);
        assert!(repeats <= allowed, "{repeats} repeats, {allowed} allowed");
        assert!(exporter.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exported_events_are_told_once_over_losses_repeats_a_flaky_receiver_and_kills() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let by_default = if long::is_thorough() { 100 } else { 12 };
    let (kills, seed) =
        (number("KILLS").unwrap_or(by_default), number("SEED").unwrap_or_else(|| fastrand::u64(..1_000_000)));
    println!("SEED={seed} KILLS={kills}");
    let mut crashes = ExportCrashes::set(seed).await;
    let exporter = crashes.env.exporter();
    until_followed(&exporter, usize::try_from(USERS).unwrap());
    exporter.kill();
    crashes.deaths += 1;
    for kill in 1..=kills {
        crashes.die().await;
        if kill % 25 == 0 {
            crashes.conserve().await;
        }
    }
    crashes.conserve().await;
    let lost = crashes.env.simulation.world(|world| world.exported(POOL).lost().len());
    println!("{} deaths, {} at a step; {lost} events lost by the export", crashes.deaths, crashes.at_steps);
    assert!(lost > 0, "polls alone tell what the export loses");
}

/// The auditor looks at events that are younger than the export's reading, with this allowance for clocks.
const SKEW: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_of_a_lossy_export_measures_its_loss() {
    if !long::are_wanted() {
        return;
    }
    // Two minutes, so that a busy machine is no reason to miss an event.
    let config = by_firehose("full").replace("[pools.export]\n", "[pools.export]\ngrace = \"2m\"\n");
    let env = TestEnv::set(&config, |world| {
        add_users(world, USERS);
        world.add_firehose(stream());
        world.export_events(POOL, faulty(ExportSettings::to_firehose(STREAM)));
    })
    .await;
    env.file("keys", KEY);
    env.simulation.deliver_firehose(STREAM);
    let exporter = env.exporter();
    deliver_to(&env, &exporter);
    until_followed(&exporter, usize::try_from(USERS).unwrap());
    let audit = || {
        let status: Value = serde_json::from_str(&exporter.get("/status")).unwrap();
        status["pools"][0]["export"].clone()
    };
    let opened = Instant::now();
    while opened.elapsed() < SKEW + Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(audit()["audited"], 0);
    // As many as `/status` looks back, at most.
    let events = USERS * 4 * 6;
    for _ in 0..6 {
        env.simulation.world(|world| sign_in_all(world, USERS, now()));
    }
    let deadline = Instant::now() + Duration::from_mins(3) + PATIENCE;
    while audit()["audited"].as_i64() != Some(events) {
        assert!(Instant::now() < deadline, "{} of {events}\n{}", audit(), exporter.log());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let (audit, lost) = (audit(), env.simulation.world(|world| world.exported(POOL).lost().len()));
    assert_eq!(audit["missed"].as_u64(), u64::try_from(lost).ok(), "{audit}");
    let bound = |place: usize| audit["loss_interval"][place].as_f64().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "a count of a test")]
    let loss = lost as f64 / events as f64;
    assert!(lost > 0 && bound(0) <= loss && loss <= bound(1), "{loss}: {audit}");
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
}
