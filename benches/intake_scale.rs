//! A pool that only its export tells of (`audit = "off"`), with 10 million users. The events of more than a day arrive
//! at a real ledger on the disk, in compressed time. The bench prints events/s, memory and the ledger's size.
//!
//! ```text
//! cargo bench --bench intake_scale -- 2000000   # events a day; 20000000 takes hours
//! HOURS=40 QUEUE=1 cargo bench --bench intake_scale
//! ```
//!
//! Events are remembered for 26 hours (`replay`), so from hour 26 on as many are forgotten as arrive. Every five
//! minutes of the simulated time the bench forgets what the exporter would forget. `QUEUE=1` also queues each event,
//! and settles it as delivery does. docs/scale.md has the results of one run.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

#[path = "whole/process.rs"]
#[allow(dead_code, reason = "shared by benchmarks, each of which uses its own part")]
mod process;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cognito_auth_core::entry::{PoolIdentity, UserIdentity};
use cognito_auth_core::event::{AuthEvent, EventContext, UnixMillis, Word};
use cognito_auth_core::export::ExportDetails;
use cognito_auth_core::walk::Rules;
use cognito_auth_exporter::config::StateConfig;
use cognito_auth_exporter::delivery::{Outbox as _, Settlement};
use cognito_auth_exporter::ledger::{ArrivalKind, Arrivals, ExportedArrival, Ledger};
use fastrand::Rng;
use process::usage;

const POOL: &str = "eu-west-1_Scale";
const USERS: u64 = 10_000_000;
const NOW: UnixMillis = UnixMillis(1_795_523_756_000);
const RULES: Rules = Rules { overlap: Duration::from_hours(1), settle: Duration::from_mins(30), followed_since: None };

/// The default of `pools[].export.replay`.
const REPLAY: Duration = Duration::from_hours(26);

/// How often told events are forgotten.
const PERIOD: Duration = Duration::from_mins(5);
const PERIODS_PER_HOUR: u64 = 12;

/// The events of one write, as the intake writes them.
const ARRIVALS_AT_ONCE: usize = 256;

/// The records of one export.
const DELIVERED_AT_ONCE: usize = 512;

/// The longest time from an event to its arrival.
const DELAY_MAX_MS: i64 = 60_000;

/// The time for the engine to collect garbage at the end.
const SETTLE: Duration = Duration::from_secs(10);

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (hours, queue) = (number("HOURS", 34), number("QUEUE", 0) != 0);
    let asked: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    for per_day in if asked.is_empty() { vec![1_000_000, 2_000_000] } else { asked } {
        runtime.block_on(measure(per_day, hours, queue));
    }
}

async fn measure(per_day: u64, hours: u64, queue: bool) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateConfig { path: directory.path().to_owned(), ..StateConfig::default() };
    let ledger = Ledger::open(&state, NOW).unwrap().ledger;
    ledger.begin_told(POOL, NOW.minus(Duration::from_secs(2))).await.unwrap();
    println!("\n## {per_day} events a day of {USERS} users, {}\n", if queue { "delivered" } else { "without a sink" });
    println!("| hour | remembered events | events/s | CPU us per event | resident MiB | ledger MiB |");
    println!("|---:|---:|---:|---:|---:|---:|");
    let mut random = Rng::with_seed(17);
    let (mut took, mut cpu) = (Duration::ZERO, Duration::ZERO);
    let mut arrived = 0;
    for period in 1..=hours * PERIODS_PER_HOUR {
        let now = NOW.plus(PERIOD * u32::try_from(period).unwrap());
        let events = per_day * period / (24 * PERIODS_PER_HOUR) - per_day * (period - 1) / (24 * PERIODS_PER_HOUR);
        let arrivals = arrivals(events, now, queue, &mut random);
        let (began, cpu_before) = (Instant::now(), own_cpu());
        arrive(&ledger, arrivals).await;
        while ledger.forget_told(POOL, now.minus(REPLAY), true).await.unwrap() {}
        if queue {
            deliver(&ledger).await;
        }
        took += began.elapsed();
        cpu += own_cpu().saturating_sub(cpu_before);
        arrived += events;
        if period % (2 * PERIODS_PER_HOUR) == 0 {
            let hour = period / PERIODS_PER_HOUR;
            let remembered = per_day * hour.min(26) / 24;
            row(&hour.to_string(), remembered, Some((arrived, took, cpu)), directory.path());
            (arrived, took, cpu) = (0, Duration::ZERO, Duration::ZERO);
        }
    }
    let end = NOW.plus(Duration::from_hours(hours + 48));
    while ledger.forget_told(POOL, end, true).await.unwrap() {}
    row("all forgotten", 0, None, directory.path());
    tokio::time::sleep(SETTLE).await;
    row("and 10 s later", 0, None, directory.path());
    ledger.close().await;
    let began = Instant::now();
    let ledger = Ledger::open(&state, NOW).unwrap().ledger;
    row(&format!("opened again in {:.1} s", began.elapsed().as_secs_f64()), 0, None, directory.path());
    ledger.close().await;
}

/// Events that arrive within one period, in the order of their arrival.
fn arrivals(events: u64, now: UnixMillis, queue: bool, random: &mut Rng) -> Vec<Arrivals> {
    let period = i64::try_from(PERIOD.as_millis()).unwrap();
    let mut events: Vec<_> = (0..events).map(|_| random.i64(0..period)).collect();
    events.sort_unstable();
    let mut event = |until_now: i64| {
        let created = UnixMillis((now.0 - period + until_now - random.i64(0..DELAY_MAX_MS)).max(NOW.0 + 1000));
        let username = format!("{:08x}-7b1c-4c6e-9f0a-2c963f66afa6", random.u64(0..USERS));
        ExportedArrival { user: Arc::new(UserIdentity { username, sub: None }), ..sign_in(created, random) }
    };
    let events: Vec<_> = events.into_iter().map(&mut event).collect();
    let mut events = events.into_iter();
    std::iter::from_fn(|| {
        let events: Vec<_> = events.by_ref().take(ARRIVALS_AT_ONCE).collect();
        let (name, region) = (POOL.into(), "eu-west-1".into());
        let pool = Arc::new(PoolIdentity { id: POOL.into(), name, region, account_id: None });
        (!events.is_empty()).then_some(Arrivals { pool, rules: RULES, queue, is_polled: false, received: now, events })
    })
    .collect()
}

/// An event without its user.
fn sign_in(created: UnixMillis, random: &mut Rng) -> ExportedArrival {
    let id = random.u128(..);
    let context = EventContext {
        ip_address: Some("192.0.2.1".to_owned()),
        device_name: Some("Chrome 126, Windows 10".to_owned()),
        city: Some("Seattle".to_owned()),
        country: Some("United States".to_owned()),
        ..EventContext::default()
    };
    let event = AuthEvent {
        id: Some(uuid::Uuid::from_u128(id).to_string()),
        event_type: Some(Word::parse("SignIn")),
        creation_date: Some(created),
        response: Some(Word::parse("Pass")),
        context: Some(context),
        ..AuthEvent::default()
    };
    let details = ExportDetails { client_id: Some("1example23456789".to_owned()), ..ExportDetails::default() };
    let user = Arc::new(UserIdentity { username: String::new(), sub: None });
    ExportedArrival { user, event, details, live: true }
}

/// Has the events arrive, with two writes at a time.
async fn arrive(ledger: &Ledger, arrivals: Vec<Arrivals>) {
    let mut arrivals = arrivals.into_iter();
    while let Some(one) = arrivals.next() {
        let other = async {
            match arrivals.next() {
                Some(other) => ledger.arrive(other).await,
                None => Ok(vec![]),
            }
        };
        let (one, other) = tokio::join!(ledger.arrive(one), other);
        assert!(one.unwrap().iter().chain(&other.unwrap()).all(|result| result.kind == ArrivalKind::New));
    }
}

async fn deliver(ledger: &Ledger) {
    loop {
        let entries = ledger.read(None, DELIVERED_AT_ONCE).unwrap();
        if entries.is_empty() {
            return;
        }
        let delivered = entries.into_iter().map(|(id, _)| id).collect();
        ledger.settle(Settlement { delivered, quarantined: vec![] }).await.unwrap();
    }
}

fn own_cpu() -> Duration {
    usage(std::process::id()).cpu
}

fn size(path: &Path) -> u64 {
    let metadata = std::fs::metadata(path).unwrap();
    if metadata.is_file() {
        return metadata.len();
    }
    std::fs::read_dir(path).unwrap().map(|entry| size(&entry.unwrap().path())).sum()
}

fn row(hour: &str, remembered: u64, work: Option<(u64, Duration, Duration)>, directory: &Path) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (rate, cpu) = work.map_or_else(Default::default, |(events, took, cpu)| {
        let events = events as f64;
        (format!("{:.0}", events / took.as_secs_f64()), format!("{:.1}", cpu.as_secs_f64() * 1e6 / events))
    });
    let resident = mib(usage(std::process::id()).anonymous_bytes);
    println!("| {hour} | {remembered} | {rate} | {cpu} | {resident:.0} | {:.0} |", mib(size(directory)));
}
