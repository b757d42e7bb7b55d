//! Batches that the receiver does not accept: messages too large, invalid records, TLS errors, more than the outbox
//! holds, and all faults in turn. The built binary runs against a simulated Cognito and a receiver with faults, over
//! gRPC and over HTTP. Each scenario ends with a check that all events are conserved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cognito_auth_core::batch_splitter::{REFUSED_FIRST, SET_ASIDE_MAX};
use cognito_auth_core::event::{AuthEvent, Challenge, Facts, UnixMillis, Word};
use cognito_auth_simulator::world::{SimulatedPool, World};
use serde_json::{Value, json};
use tonic::Code;

use crate::exporter::{Exporter, PATIENCE, Scrape};
use crate::receiver::{Pki, Received, Reply};
use crate::test_env::{MINUTE, Terms, TestEnv, go_on, is, now, populate, said, sign_ins};
use crate::transports::{BEGUN, Came, ENDED, Over, for_each, requests, until_requests};

const POOL: &str = "eu-west-1_Limits";
const USERS: usize = 10;

const EVENTS: &str = "cognito_auth_events_total";
const WAITING: &str = "cognito_exporter_outbox_records";

/// The refusals of each transport.
trait Refusals {
    fn invalid(self, message: &'static str) -> Reply;
    fn too_large(self, message: &'static str) -> Reply;
    fn unavailable(self, message: &'static str) -> Reply;
}

impl Refusals for Over {
    fn invalid(self, message: &'static str) -> Reply {
        match self {
            Self::Grpc => Reply::Code(Code::InvalidArgument, message),
            Self::Http => Reply::Status(400, message),
        }
    }

    /// gRPC for Go and C++ reports a too large message as RESOURCE_EXHAUSTED with such a text.
    fn too_large(self, message: &'static str) -> Reply {
        match self {
            Self::Grpc => Reply::Code(Code::ResourceExhausted, message),
            Self::Http => Reply::Status(413, message),
        }
    }

    fn unavailable(self, message: &'static str) -> Reply {
        match self {
            Self::Grpc => Reply::Code(Code::Unavailable, message),
            Self::Http => Reply::Status(503, message),
        }
    }
}

/// Adds a sign-in whose device name makes its record this large.
fn broad(world: &mut World, user: &str, at: UnixMillis, bytes: usize) {
    let mut event = world.sign_in(at);
    event.context.as_mut().unwrap().device_name = Some("D".repeat(bytes));
    world.arrive(POOL, user, &event);
}

/// Adds a sign-in whose record is larger than a mebibyte, in texts that are exported whole.
fn broadest(world: &mut World, user: &str, at: UnixMillis) {
    let mut event = world.sign_in(at);
    let text = "C".repeat(40_000);
    let challenge = Challenge { name: Some(Word::parse(&text)), response: Some(Word::parse(&text)) };
    event.challenges = vec![challenge; Facts::CHALLENGES_MAX];
    world.arrive(POOL, user, &event);
}

/// Waits until every event is counted, delivered or not.
fn until_counted(env: &TestEnv, exporter: &Exporter) -> Scrape {
    let events = env.truth(&[POOL]).len() as f64;
    exporter.until("every event, counted", |scrape| is(scrape, EVENTS, &[], events))
}

/// The log lines that report that delivery fails.
fn begun(exporter: &Exporter) -> Vec<String> {
    said(&exporter.log(), &[BEGUN])
}

/// The log lines that report that delivery works again.
fn ended(exporter: &Exporter) -> Vec<String> {
    said(&exporter.log(), &["INFO", ENDED])
}

fn status(exporter: &Exporter) -> Value {
    serde_json::from_str(&exporter.get("/status")).unwrap()
}

/// The errors in `/status` with their counts.
fn errors(exporter: &Exporter) -> BTreeMap<String, u64> {
    let status = status(exporter);
    let errors = status["delivery"]["last_errors"].as_array().unwrap().iter();
    errors.map(|error| (error["cause"].as_str().unwrap().to_owned(), error["count"].as_u64().unwrap())).collect()
}

/// Checks the level and the text of the latest reported fault, in the log and in `/status`.
fn told(exporter: &Exporter, level: &str, words: &str) {
    let begun = begun(exporter);
    let last = begun.last().unwrap();
    assert!(last.contains(level) && last.contains(words), "{level} {words}: {begun:?}");
    let errors = errors(exporter);
    assert!(errors.keys().any(|cause| cause.contains(words)), "{words}: {errors:?}");
}

/// Liveness and readiness do not depend on the receiver.
fn stays_live_and_ready(exporter: &Exporter) {
    for path in ["/healthz", "/readyz"] {
        assert_eq!(exporter.ask(path).0, 200, "{}", exporter.answer(path));
    }
}

/// Puts the whole quarantine of a stopped exporter back.
fn retried(env: &TestEnv, records: usize) {
    let output = env.run(&["quarantine", "retry", "--all"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains(&format!("back in the outbox: {records} record")), "{said}");
}

#[test]
fn a_batch_that_is_too_large_is_split_until_it_fits_and_one_line_says_so() {
    for_each(Over::BOTH, async |over| {
        const RECORDS_MAX: usize = 7;
        let env = over.env(None, "", POOL, |world| populate(world, POOL, USERS, 20)).await;
        let judge = move |records: &[Received]| match records.len() {
            ..=RECORDS_MAX => Reply::Ok,
            _ => over.too_large("larger than max"),
        };
        env.receiver.answer_by(judge);
        let exporter = env.exporter();
        env.conserved(&exporter, &[POOL]).await;
        Came { accepted: 200, ..Came::default() }.check(&exporter);
        let scrape = exporter.scrape();
        let refused = env.receiver.exports().iter().filter(|export| export.records > RECORDS_MAX).count();
        assert!(is(&scrape, "cognito_exporter_otlp_requests_total", &["outcome=\"refused\""], refused as f64));
        assert!(refused > 0 && requests(&scrape, "retry") < 0.5, "no wait: {}", scrape.interesting());
        assert!(errors(&exporter).keys().any(|cause| cause.contains("larger than max")), "{:?}", errors(&exporter));
        let split = || said(&exporter.log(), &["WARN", "finds exports too large; they are split", "larger than max"]);
        assert_eq!(split().len(), 1, "{}", exporter.log());

        // The receiver accepts everything again. A page is a batch.
        env.receiver.answer_always(Reply::Ok);
        env.simulation.world(|world| (0..60).for_each(|_| sign_ins(world, POOL, "user-0", 1, now())));
        env.conserved(&exporter, &[POOL]).await;
        assert_eq!(said(&exporter.log(), &["INFO", "takes exports of that size again"]).len(), 1, "{}", exporter.log());
        assert_eq!((split().len(), begun(&exporter).len()), (1, 0), "{}", exporter.log());
        assert!(exporter.stop().success());
    });
}

#[test]
fn what_alone_is_too_large_is_quarantined_and_comes_when_the_limit_is_raised() {
    for_each(Over::BOTH, async |over| {
        const BYTES_MAX: usize = 50_000;
        let env = over
            .env(None, "compression = \"none\"\n", POOL, |world| {
                populate(world, POOL, USERS, 10);
                (0..50).for_each(|_| broad(world, "user-1", UnixMillis(now().0 - MINUTE), 10_000));
                (0..2).for_each(|_| broadest(world, "user-2", UnixMillis(now().0 - MINUTE)));
            })
            .await;
        env.receiver.limit_messages(BYTES_MAX).await;
        let exporter = env.exporter();
        env.conserved_on(&exporter, &[POOL], Terms { quarantined: 2, ..Terms::default() }).await;
        Came { accepted: 150, quarantined: 2, ..Came::default() }.check(&exporter);
        assert!(env.receiver.exports().iter().all(|export| export.bytes <= BYTES_MAX));
        let scrape = exporter.scrape();
        // Closing a connection unread may lose the answer, and then the batch is sent again.
        assert!(requests(&scrape, "refused") > requests(&scrape, "retry"), "{}", scrape.interesting());
        assert!(errors(&exporter).keys().any(|cause| cause.contains("too large")), "{:?}", errors(&exporter));
        let aside = said(&exporter.log(), &["WARN", "records are in quarantine", "too large"]);
        assert!(
            (1..=2).contains(&aside.len()) && begun(&exporter).len() == ended(&exporter).len(),
            "{}",
            exporter.log()
        );
        assert_eq!(said(&exporter.log(), &["WARN", "they are split"]).len(), 1, "{}", exporter.log());
        stays_live_and_ready(&exporter);
        assert!(exporter.stop().success());

        retried(&env, 2);
        env.receiver.limit_messages(usize::MAX).await;
        let exporter = env.exporter();
        env.conserved(&exporter, &[POOL]).await;
        Came { accepted: 2, ..Came::default() }.check(&exporter);
        assert!(exporter.stop().success());
    });
}

#[test]
fn a_receiver_that_refuses_each_record_gets_none_into_quarantine_and_all_of_them_after_its_cure() {
    for_each(Over::BOTH, async |over| {
        let env = over.env(None, "", POOL, |world| populate(world, POOL, USERS, 20)).await;
        env.receiver.answer_always(over.invalid("unknown tenant"));
        let exporter = env.exporter();
        exporter.until("the word of it", |_| !begun(&exporter).is_empty());
        told(&exporter, "ERROR", "unknown tenant");
        assert!(begun(&exporter)[0].contains("it refuses every record"), "{:?}", begun(&exporter));
        let refused = env.receiver.exports().len();
        assert!(refused >= SET_ASIDE_MAX, "{refused}");

        // The counters continue, and the outbox holds all records.
        go_on(&env, POOL, USERS);
        until_counted(&env, &exporter);
        let scrape = exporter.until("the outbox", |scrape| is(scrape, WAITING, &[], 210.0));
        assert!(is(&scrape, "cognito_exporter_quarantined_records", &[], 0.0), "{}", scrape.interesting());
        stays_live_and_ready(&exporter);

        // It keeps trying slowly, and finds that the receiver works.
        env.receiver.answer_always(Reply::Ok);
        env.conserved(&exporter, &[POOL]).await;
        let exports = env.receiver.exports();
        let slowest = exports.windows(2).map(|pair| pair[1].at - pair[0].at).max().unwrap();
        assert!(exports.len() > refused && slowest >= REFUSED_FIRST / 2, "{slowest:?}");
        let scrape = exporter.scrape();
        assert!(requests(&scrape, "refused") >= refused as f64 && requests(&scrape, "retry") < 0.5);
        assert_eq!((begun(&exporter).len(), ended(&exporter).len()), (1, 1), "{}", exporter.log());
        Came { accepted: 210, ..Came::default() }.check(&exporter);
        assert!(exporter.stop().success());
    });
}

/// While nothing can be delivered, every event is counted and waits, and the fault is reported once with this text.
fn waits_and_is_told(env: &TestEnv, exporter: &Exporter, times: usize, words: &str) {
    let before = exporter.scrape();
    go_on(env, POOL, USERS);
    until_counted(env, exporter);
    let scrape = until_requests(exporter, "retry", requests(&before, "retry") + 2.0);
    assert!((requests(&scrape, "ok") - requests(&before, "ok")).abs() < 0.5, "{}", scrape.interesting());
    assert!(requests(&scrape, "refused") < 0.5, "{}", scrape.interesting());
    exporter.until("an outbox of everything", |scrape| {
        (scrape.sum(WAITING, &[]) + env.receiver.records().len() as f64 - scrape.sum(EVENTS, &[])).abs() < 0.5
    });
    told(exporter, "WARN", words);
    assert_eq!(begun(exporter).len(), times, "{}", exporter.log());
    stays_live_and_ready(exporter);
}

#[test]
fn a_certificate_that_does_not_fit_is_named_and_everything_comes_once_it_does() {
    for_each(Over::BOTH, async |over| {
        let (pki, strangers) = (Pki::new(false), Pki::new(false));
        let ca = format!("ca_file = {:?}\n", pki.ca_file());
        let env = over.env(Some(&pki), &ca, POOL, |world| populate(world, POOL, USERS, 5)).await;
        let exporter = env.exporter();
        env.conserved(&exporter, &[POOL]).await;
        let faces = [(Some(&strangers), "check otlp.ca_file"), (None, "otlp.endpoint must begin with http://")];
        for (times, (face, words)) in (1..).zip(faces) {
            env.receiver.restart_as(face).await;
            waits_and_is_told(&env, &exporter, times, words);
            env.receiver.restart_as(Some(&pki)).await;
            env.conserved(&exporter, &[POOL]).await;
            assert_eq!(ended(&exporter).len(), times, "{}", exporter.log());
        }
        assert!(exporter.stop().success());
    });
}

#[test]
fn tls_where_none_is_expected_is_named_and_everything_comes_once_both_agree() {
    for_each(Over::BOTH, async |over| {
        let pki = Pki::new(false);
        let env = over.env(None, "", POOL, |world| populate(world, POOL, USERS, 5)).await;
        env.receiver.restart_as(Some(&pki)).await;
        let exporter = env.exporter();
        waits_and_is_told(&env, &exporter, 1, "TLS");
        env.receiver.restart_as(None).await;
        env.conserved(&exporter, &[POOL]).await;
        assert_eq!((begun(&exporter).len(), ended(&exporter).len()), (1, 1), "{}", exporter.log());
        assert!(exporter.stop().success());
    });
}

#[test]
fn a_client_certificate_that_is_asked_for_is_named_and_everything_comes_once_it_is_given() {
    for_each(Over::BOTH, async |over| {
        let (pki, strangers) = (Pki::new(true), Pki::new(true));
        let ca = format!("ca_file = {:?}\n", pki.ca_file());
        let env = over.env(Some(&pki), &ca, POOL, |world| populate(world, POOL, USERS, 5)).await;
        let exporter_as = |identity: Option<&Pki>| {
            let mut command = env.command();
            if let Some(identity) = identity {
                command.env("COGNITO_EXPORTER_OTLP__CERT_FILE", identity.cert_file());
                command.env("COGNITO_EXPORTER_OTLP__KEY_FILE", identity.key_file());
            }
            Exporter::started(command)
        };
        for (identity, words) in [(None, "otlp.cert_file"), (Some(&strangers), "otlp.cert_file")] {
            let exporter = exporter_as(identity);
            waits_and_is_told(&env, &exporter, 1, words);
            exporter.kill();
        }
        let exporter = exporter_as(Some(&pki));
        env.conserved(&exporter, &[POOL]).await;
        assert_eq!((begun(&exporter).len(), ended(&exporter).len()), (0, 0), "{}", exporter.log());
        assert!(exporter.stop().success());
    });
}

#[test]
fn a_full_outbox_pauses_history_then_polling_and_loses_nothing() {
    for_each(Over::BOTH, async |over| {
        const LIMIT: f64 = 1024.0 * 1024.0;
        const FEW: usize = 4;
        const BYTES: &str = "cognito_exporter_outbox_bytes";
        const HISTORY: &str = "cognito_auth_history_events_total";
        const PAUSED: &str = "cognito_exporter_paused";
        const FULL: &[&str] = &["reason=\"outbox_full\""];
        let live_since = UnixMillis(now().0 / 1000 * 1000 - 60 * MINUTE);
        let history = FEW * 300;
        let env = over
            .env(None, "", POOL, |world| {
                world.add_pool(SimulatedPool::new(POOL));
                for user in 0..FEW {
                    let name = format!("user-{user}");
                    world.add_user(POOL, &name);
                    // More than the outbox holds.
                    for minute in 1..=(history / FEW) as i64 {
                        broad(world, &name, UnixMillis(live_since.0 - minute * MINUTE), 1000);
                    }
                }
            })
            .await;
        env.receiver.stop().await;
        let exporter = || {
            let mut command = env.command();
            command.env("COGNITO_EXPORTER_STATE__OUTBOX_LIMIT", "1MiB");
            // Four concurrent turns may exceed a limit by one page each.
            command.env("COGNITO_EXPORTER_POLL__PAGE_SIZE", "20");
            command.env("COGNITO_EXPORTER_POLL__FIRST_RUN", "all");
            let pools = json!([{"id": POOL, "all_users": true, "followed_since": rfc3339(live_since)}]);
            command.env("COGNITO_EXPORTER_POOLS", pools.to_string());
            Exporter::started(command)
        };
        let first = exporter();
        let live = |each: usize| {
            env.simulation.world(|world| {
                (0..FEW).for_each(|user| (0..each).for_each(|_| broad(world, &format!("user-{user}"), now(), 1000)));
            });
        };

        // Half of the outbox is for live events: they are read, and history waits.
        let mut scrape = first.until("half an outbox", |scrape| scrape.sum(BYTES, &[]) >= LIMIT / 2.0);
        let (deadline, mut alive) = (Instant::now() + PATIENCE, 0);
        loop {
            let before = scrape.sum(HISTORY, &[]);
            live(1);
            alive += FEW;
            scrape = first.until("live events", |scrape| is(scrape, EVENTS, &[], alive as f64));
            if (scrape.sum(HISTORY, &[]) - before).abs() < 0.5 {
                break;
            }
            assert!(Instant::now() < deadline, "history goes on: {}", scrape.interesting());
        }
        assert!(scrape.sum(HISTORY, &[]) < history as f64, "{}", scrape.interesting());
        assert!(is(&scrape, "cognito_exporter_catching_up", &[], 1.0), "{}", scrape.interesting());
        assert!(is(&scrape, PAUSED, &[], 0.0) && scrape.sum(BYTES, &[]) < LIMIT, "{}", scrape.interesting());

        // The whole outbox is full: polling pauses and reports it. So few records remain that there is no second pause.
        let scrape = first
            .until("the gauges", |scrape| is(scrape, WAITING, &[], scrape.sum(HISTORY, &[]) + scrape.sum(EVENTS, &[])));
        let mean = scrape.sum(BYTES, &[]) / scrape.sum(WAITING, &[]);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred")]
        let more = ((LIMIT - scrape.sum(BYTES, &[])) / mean) as usize + 200;
        live(more.div_ceil(FEW));
        let scrape = first.until("the pause", |scrape| is(scrape, PAUSED, FULL, 1.0));
        assert!(scrape.sum(BYTES, &[]) >= LIMIT, "{}", scrape.interesting());
        assert_eq!(status(&first)["paused"], json!(["outbox_full"]));
        let pauses = |exporter: &Exporter| said(&exporter.log(), &["WARN", "outbox_full", "polling pauses"]).len();
        first.until("the word of it", |_| pauses(&first) == 1);
        stays_live_and_ready(&first);
        // The open turns end. Then there is none for as long as an attempt to deliver takes.
        let deadline = Instant::now() + PATIENCE;
        loop {
            env.forget_calls();
            let scrape = until_requests(&first, "retry", requests(&first.scrape(), "retry") + 1.0);
            if env.reads(|_| true).is_empty() {
                assert!(scrape.sum(EVENTS, &[]) < (alive + more) as f64, "{}", scrape.interesting());
                break;
            }
            assert!(Instant::now() < deadline, "it polls on");
        }
        assert_eq!((pauses(&first), begun(&first).len()), (1, 1), "{}", first.log());
        assert!(errors(&first).values().sum::<u64>() >= 2, "{:?}", errors(&first));
        first.kill();

        // Nor does it poll when it starts with a full outbox.
        env.forget_calls();
        let second = exporter();
        second.until("the word of it", |_| pauses(&second) == 1);
        until_requests(&second, "retry", 1.0);
        assert!(env.reads(|_| true).is_empty());
        env.receiver.start().await;
        env.conserved_on(&second, &[POOL], Terms { live_since, ..Terms::default() }).await;
        second.until("no pause", |scrape| {
            is(scrape, PAUSED, &[], 0.0) && is(scrape, "cognito_exporter_catching_up", &[], 0.0)
        });
        assert_eq!(status(&second)["paused"], json!([]));
        assert_eq!(
            (pauses(&second), said(&second.log(), &["INFO", "polling goes on"]).len()),
            (1, 1),
            "{}",
            second.log()
        );
        assert_eq!((begun(&second).len(), ended(&second).len()), (1, 1), "{}", second.log());
        assert!(second.stop().success());
    });
}

fn rfc3339(time: UnixMillis) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp(time.0 / 1000).unwrap();
    time.format(&time::format_description::well_known::Rfc3339).unwrap()
}

/// A random sequence of all answers of a receiver. `SEED` repeats one.
#[test]
fn a_flapping_receiver_gets_everything_and_each_lost_answer_once_more() {
    for_each(Over::BOTH, async |over| {
        const EXPORTS: usize = 100;
        const HANGS_MAX: usize = 2;
        const BATCH: usize = 16;
        const POISONED: usize = 3;
        let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        println!("SEED={seed}");
        let is_poison = |record: &Received| record.text("aws.cognito.event.id").starts_with("poison");
        let env = over
            .env(None, &format!("batch_size = {BATCH}\ntimeout = \"5s\"\n"), POOL, |world| {
                populate(world, POOL, USERS, 60);
                for number in 0..POISONED {
                    let id = Some(format!("poison-{number}"));
                    let event = AuthEvent { id, ..world.sign_in(UnixMillis(now().0 - MINUTE)) };
                    world.arrive(POOL, "user-0", &event);
                }
            })
            .await;
        let lost = Arc::new(AtomicUsize::new(0));
        let losses = lost.clone();
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut exports, mut hangs) = (0, 0);
        env.receiver.answer_by(move |records| {
            exports += 1;
            let poisoned = records.iter().any(is_poison);
            // A failure costs a wait of half a second or more, and a split costs none.
            match if exports > EXPORTS { 0 } else { random.u32(0..100) } {
                97.. if hangs < HANGS_MAX => {
                    hangs += 1;
                    Reply::Hang
                }
                94.. => over.unavailable("restarting"),
                91.. => Reply::Close,
                86.. if !poisoned => {
                    losses.fetch_add(records.len(), Ordering::SeqCst);
                    Reply::Lost
                }
                60.. if records.len() > 1 => over.too_large("larger than max"),
                _ if poisoned => over.invalid("malformed"),
                45.. => Reply::Slow(Duration::from_millis(20)),
                _ => Reply::Ok,
            }
        });
        let exporter = env.exporter();
        // Events continue, and twice the receiver is down altogether.
        let mut outages = [EXPORTS / 3, 2 * EXPORTS / 3].into_iter().peekable();
        let mut cut = 0;
        while env.receiver.exports().len() < EXPORTS {
            go_on(&env, POOL, USERS);
            let seen = env.receiver.exports().len();
            if outages.next_if(|outage| seen > *outage).is_some() {
                env.receiver.stop().await;
                cut += 1;
                let retries = requests(&exporter.scrape(), "retry");
                until_requests(&exporter, "retry", retries + 1.0);
                env.receiver.start().await;
            }
            until_counted(&env, &exporter);
            env.receiver.wait_for_exports(seen + 1).await;
        }
        exporter.until("an empty outbox", |scrape| is(scrape, WAITING, &[], 0.0));
        // The answer that an outage interrupted is lost, too.
        let repeats_max = lost.load(Ordering::SeqCst) + cut * BATCH;
        env.conserved_on(&exporter, &[POOL], Terms { repeats_max, quarantined: POISONED, ..Terms::default() }).await;
        Came { accepted: env.truth(&[POOL]).len() - POISONED, quarantined: POISONED, ..Came::default() }
            .check(&exporter);
        let scrape = exporter.scrape();
        for outcome in ["ok", "retry", "refused"] {
            assert!(requests(&scrape, outcome) > 0.5, "{}", scrape.interesting());
        }
        assert_eq!(begun(&exporter).len(), ended(&exporter).len(), "{}", exporter.log());
        assert!(exporter.stop().success());
    });
}
