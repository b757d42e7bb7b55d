//! The log group of an export, read from a simulated CloudWatch Logs and from moto, which others wrote.
//!
//! | peer | where it departs from AWS's model |
//! |---|---|
//! | moto 5.2.5 | It knows `logGroupName` and not `logGroupIdentifier`, so a group that is named by its ARN is missing. Each log stream is in order, the page as a whole is not. A token that it does not know gives an empty last page in place of an error. A page has no limit in bytes |
//! | ministack 1.5.33 (tried by hand) | It gives no token and ignores one: what does not fit on a page of 10,000 log events is never given. Its ids are UUIDs |

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::export::DecodedDocument;
use cognito_auth_core::export::log_group::LogGroup;
use cognito_auth_core::export::log_page::ReadingRange;
use cognito_auth_exporter::config::StateConfig;
use cognito_auth_exporter::export::log_group::{
    LogGroupReader, LogGroupServices, LogGroupSettings, LogGroupStanding, LogGroupState,
};
use cognito_auth_exporter::export::{Intake, NotTaken};
use cognito_auth_exporter::ledger::Ledger;
use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_exporter::metrics::Metrics;
use cognito_auth_exporter::rate_limiter::RateLimiter;
use cognito_auth_exporter::source::cognito::{Clients, CloudWatchLogs, Connection};
use cognito_auth_exporter::source::log_events::LogEvents as _;
use cognito_auth_exporter::source::{RefusalCause, SourceError};
use cognito_auth_simulator::export::ExportSettings;
use cognito_auth_simulator::fault::InjectedFault;
use cognito_auth_simulator::quota::Quotas;
use cognito_auth_simulator::world::{SimulatedPool, World};
use cognito_auth_simulator::{Options, Simulation};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::peers;

const POOL: &str = "eu-west-1_Logs";
const GROUP: &str = "/aws/vendedlogs/cognito";
const GROUP_ARN: &str = "arn:aws:logs:eu-west-1:111122223333:log-group:/aws/vendedlogs/cognito";
const PATIENCE: Duration = Duration::from_secs(20);
/// The published record of an export, as it is printed.
const SAMPLE: &str = include_str!("samples/05-log-export-userAuthEvents-signup.json");
const SAMPLE_POOL: &str = "us-west-2_EXAMPLE";
const SAMPLE_EVENT: &str = "a1b2c3d4-5678-90ab-cdef-EXAMPLE11111";

/// An intake that keeps what it takes.
#[derive(Default)]
struct Kept {
    documents: Mutex<Vec<DecodedDocument>>,
    changed: Notify,
}

impl Intake for Kept {
    async fn take(&self, documents: Vec<DecodedDocument>, _: UnixMillis) -> Result<(), NotTaken> {
        self.documents.lock().extend(documents);
        self.changed.notify_waiters();
        Ok(())
    }
}

impl Kept {
    /// The EventIds and the number of unreadable records, in the order in which they were taken.
    fn seen(&self) -> (Vec<String>, usize) {
        let documents = self.documents.lock();
        let events = documents.iter().flat_map(|document| &document.events);
        let ids = events.filter_map(|event| event.event.id.clone()).collect();
        (ids, documents.iter().map(|document| document.unreadable.len()).sum())
    }

    /// Waits until this many documents were taken.
    async fn until(&self, count: usize) {
        let taken = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if self.documents.lock().len() >= count {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, taken).await.unwrap_or_else(|_| panic!("{:?} of {count}", self.seen()));
    }
}

fn connection(region: &str) -> Connection {
    Connection { region: region.into(), profile: None, role_arn: None, external_id: None }
}

fn source(url: &str, region: &str, group: &str) -> CloudWatchLogs {
    Clients::simulated(url).log_group(LogGroup::new(group), connection(region), PATIENCE, Clock::system())
}

/// A ledger in a directory, and a reader that reads into `kept`.
struct ReaderEnv {
    ledger: Ledger,
    kept: Arc<Kept>,
    state: watch::Receiver<LogGroupState>,
}

impl ReaderEnv {
    /// Opens the ledger and starts the reader of a pool, which reads every 50 ms. Returns when `until` does. The reader
    /// ends then.
    async fn run(
        directory: &Path,
        source: CloudWatchLogs,
        pool: &str,
        first_position: UnixMillis,
        until: impl AsyncFnOnce(&mut ReaderEnv),
    ) -> Arc<Kept> {
        let clock = Clock::system();
        let state = StateConfig { path: directory.to_owned(), ..StateConfig::default() };
        let ledger = Ledger::open(&state, clock.now()).unwrap().ledger;
        let kept = Arc::<Kept>::default();
        let (sender, receiver) = watch::channel(LogGroupState::default());
        let identity = PoolIdentity {
            id: pool.into(),
            name: pool.into(),
            region: pool.split('_').next().unwrap().into(),
            account_id: None,
        };
        let settings = LogGroupSettings {
            log_group: LogGroup::new(GROUP),
            read_interval: Duration::from_millis(50),
            overlap: Duration::from_mins(10),
            first_position,
            replay: Duration::from_hours(26),
        };
        let services = LogGroupServices {
            intake: kept.clone(),
            positions: ledger.clone(),
            metrics: Metrics::new(clock.now()),
            clock,
            rate_limiter: RateLimiter::new(100.0),
            state: sender,
        };
        let reader = LogGroupReader::new(source, Arc::new(identity), settings, services);
        let mut env = ReaderEnv { ledger, kept, state: receiver };
        tokio::select! {
            () = reader.run(CancellationToken::new()) => unreachable!("nobody stops it"),
            () = until(&mut env) => {}
        }
        env.ledger.close().await;
        env.kept
    }

    /// Waits for a state.
    async fn until_state(&mut self, is_reached: impl FnMut(&LogGroupState) -> bool) -> LogGroupState {
        let reached = tokio::time::timeout(PATIENCE, self.state.wait_for(is_reached)).await;
        reached.unwrap().unwrap().clone()
    }
}

/// A running moto with an empty log group.
struct Moto {
    url: String,
    _process: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Moto {
    /// Starts it, if it is installed.
    async fn start() -> Option<Self> {
        let python = peers::python_with("moto.server")?;
        let mut process = peers::boto3_script(&python, "moto_logs.py")
            .arg(GROUP)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let commands = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut moto = Self { url: String::new(), _process: process, commands, answers };
        moto.url = moto.answer().await["url"].as_str().unwrap().to_owned();
        Some(moto)
    }

    async fn answer(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.answers.next_line()).await.unwrap().unwrap();
        serde_json::from_str(&line.unwrap()).unwrap()
    }

    /// Writes messages with boto3's PutLogEvents, each with its timestamp.
    async fn put(&mut self, stream: &str, events: &[(UnixMillis, &str)]) {
        let events = events.iter().map(|(timestamp, message)| json!({"timestamp": timestamp.0, "message": message}));
        let command = json!({"stream": stream, "events": events.collect::<Vec<_>>()});
        self.commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        assert_eq!(self.answer().await, json!({"rejected": null}));
    }
}

fn seconds_ago(seconds: u64) -> UnixMillis {
    Clock::system().now().minus(Duration::from_secs(seconds))
}

#[tokio::test]
async fn what_boto3_writes_to_moto_is_read_once_and_goes_on_after_a_restart() {
    let Some(mut moto) = Moto::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let first = seconds_ago(60);
    let url = moto.url.clone();
    let source = || source(&url, "us-west-2", GROUP);
    let other = SAMPLE.replace(SAMPLE_EVENT, "second");
    let late = SAMPLE.replace(SAMPLE_EVENT, "late");
    moto.put("one", &[(seconds_ago(20), SAMPLE), (seconds_ago(10), "no record at all")]).await;
    let kept = ReaderEnv::run(directory.path(), source(), SAMPLE_POOL, first, async |env| {
        env.kept.until(2).await;
        moto.put("two", &[(seconds_ago(15), &other)]).await;
        env.kept.until(3).await;
        let is_read = |state: &LogGroupState| state.read_until > Some(first);
        assert_eq!(env.until_state(is_read).await.standing, LogGroupStanding::Readable);
    })
    .await;
    assert_eq!(
        kept.seen(),
        (vec![SAMPLE_EVENT.to_owned(), "second".into()], 1),
        "each once, in any number of readings"
    );
    let event = kept.documents.lock()[0].events[0].clone();
    assert_eq!((&*event.pool_id, &*event.username), (SAMPLE_POOL, "test-user"));
    assert_eq!(event.event.creation_date, Some(UnixMillis(1_721_237_155_000)));

    // Ingested late, and after the last reading: it lies in the overlap.
    moto.put("two", &[(seconds_ago(100), &late)]).await;
    let now = Clock::system().now();
    let kept = ReaderEnv::run(directory.path(), source(), SAMPLE_POOL, now, async |env| env.kept.until(4).await).await;
    let (mut ids, unreadable) = kept.seen();
    ids.sort_unstable();
    assert_eq!((ids, unreadable), (vec![SAMPLE_EVENT.into(), "late".to_owned(), "second".into()], 1));
}

#[tokio::test]
async fn the_pages_of_moto_are_followed_and_a_missing_group_is_named() {
    let Some(mut moto) = Moto::start().await else { return };
    let began = seconds_ago(50);
    let messages: Vec<String> = (0..25).map(|number| format!("message {number}")).collect();
    let events: Vec<_> =
        messages.iter().zip(0..).map(|(text, number)| (began.plus(Duration::from_secs(number)), &**text)).collect();
    moto.put("one", &events).await;
    let range = ReadingRange { start: began, end: began.plus(Duration::from_secs(19)) };
    let source = source(&moto.url, "us-west-2", GROUP);
    let (mut read, mut token, mut pages) = (vec![], None, 0);
    loop {
        let page = source.log_events(range, 7, token.as_deref()).await.unwrap();
        assert!(page.served.is_some() && page.events.iter().all(|event| !event.id.is_empty()));
        read.extend(page.events.into_iter().map(|event| (event.timestamp, event.message)));
        pages += 1;
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    let expected: Vec<_> = events[..20].iter().map(|(timestamp, text)| (*timestamp, (*text).to_owned())).collect();
    assert_eq!((read, pages), (expected, 3), "both ends of the range belong to it");

    let absent = self::source(&moto.url, "us-west-2", "/aws/vendedlogs/absent");
    let absent = absent.log_events(range, 1, None).await.unwrap_err();
    let SourceError::Pool(refusal) = &absent else { panic!("{absent:?}") };
    assert_eq!(refusal.cause, RefusalCause::NoSuchLogGroup);
}

/// A simulation whose pool exports to the log group.
async fn exporting(settings: ExportSettings) -> Simulation {
    let options = Options { quotas: Quotas::unlimited(), ..Options::default() };
    let simulation = Simulation::start(options).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ada");
        world.export_events(POOL, ExportSettings { log_group: Some(GROUP.into()), ..settings });
    });
    simulation
}

/// Lets ada sign in this many times. Returns the number of records that were sent so far.
fn sign_in(world: &mut World, times: usize) -> usize {
    for _ in 0..times {
        let event = world.sign_in(world.now());
        world.arrive(POOL, "ada", &event);
    }
    usize::try_from(world.exported(POOL).records_sent()).unwrap()
}

/// The EventIds of the pool's history, in order.
fn history(simulation: &Simulation) -> Vec<String> {
    let events = simulation.world(|world| world.history(POOL, "ada"));
    let mut ids: Vec<_> = events.into_iter().filter_map(|event| event.id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn part_filled_and_empty_pages_give_every_record_once_and_a_restart_goes_on_at_the_stored_position() {
    let simulation = exporting(ExportSettings { repeated: 0.2, ..ExportSettings::default() }).await;
    let first = Clock::system().now();
    let records = simulation.world(|world| {
        let group = world.log_group_mut(GROUP);
        (group.part_filled, group.empty, group.token_on_last) = (0.6, 0.3, 0.5);
        sign_in(world, 100)
    });
    let directory = tempfile::tempdir().unwrap();
    let reads = |identifier| source(&simulation.url(), "eu-west-1", identifier);
    let kept = ReaderEnv::run(directory.path(), reads(GROUP), POOL, first, async |env| {
        env.kept.until(records).await;
        let more = simulation.world(|world| sign_in(world, 20));
        env.kept.until(more).await;
        let now = Clock::system().now();
        env.until_state(|state| state.read_until >= Some(now)).await;
    })
    .await;
    let (mut ids, unreadable) = kept.seen();
    let records = simulation.world(|world| world.exported(POOL).records_sent());
    assert_eq!((ids.len() as u64, unreadable), (records, 0), "each record once, in any number of readings");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, history(&simulation));

    // The same group by its ARN goes on, and what happened meanwhile is read.
    let records = simulation.world(|world| sign_in(world, 10));
    let later = Clock::system().now().plus(Duration::from_hours(1));
    let kept =
        ReaderEnv::run(directory.path(), reads(GROUP_ARN), POOL, later, async |env| env.kept.until(records).await)
            .await;
    let (mut ids, _) = kept.seen();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, history(&simulation), "the overlap is handed in once more");
}

#[tokio::test]
async fn a_reader_says_that_it_may_not_read_and_goes_on_when_it_may() {
    let simulation = exporting(ExportSettings::default()).await;
    let first = Clock::system().now();
    let records = simulation.world(|world| {
        world.inject(InjectedFault::access_denied().on("FilterLogEvents"));
        sign_in(world, 3)
    });
    let directory = tempfile::tempdir().unwrap();
    let read = source(&simulation.url(), "eu-west-1", GROUP);
    ReaderEnv::run(directory.path(), read, POOL, first, async |env| {
        let is_denied = |state: &LogGroupState| matches!(state.standing, LogGroupStanding::Unreadable { .. });
        let LogGroupStanding::Unreadable { remedy, .. } = env.until_state(is_denied).await.standing else {
            unreachable!("it was waited for")
        };
        let resource = "arn:aws:logs:eu-west-1:*:log-group:/aws/vendedlogs/cognito:*";
        assert_eq!(remedy, format!("allow logs:FilterLogEvents on {resource}"));
        assert_eq!(env.ledger.read_position(POOL).unwrap().unwrap().position, first, "nothing was read");
        simulation.world(World::remove_all_faults);
        env.kept.until(records).await;
        env.until_state(|state| state.standing == LogGroupStanding::Readable).await;
    })
    .await;
}

#[tokio::test]
async fn every_error_of_the_logs_is_cut_by_what_it_means() {
    let simulation = exporting(ExportSettings::default()).await;
    simulation.world(|world| sign_in(world, 3));
    let now = Clock::system().now();
    let range = ReadingRange { start: now.minus(Duration::from_secs(60)), end: now };
    let url = simulation.url();
    let ask = async |identifier: &str, token: Option<&str>| {
        source(&url, "eu-west-1", identifier).log_events(range, 1, token).await
    };
    let page = ask(GROUP_ARN, None).await.unwrap();
    assert_eq!((page.events.len(), page.events[0].id.len()), (1, 56));
    let token = page.next.unwrap();
    assert_eq!(ask(GROUP_ARN, Some(&token)).await.unwrap().events.len(), 1);
    let SourceError::InvalidParameter(text) = ask(GROUP, Some("no-token")).await.unwrap_err() else { panic!() };
    assert!(!text.contains("no-token"), "{text}");
    simulation.world(|world| world.log_group_mut(GROUP).token_lifetime = Duration::ZERO);
    let expired = ask(GROUP, None).await.unwrap().next.unwrap();
    assert!(matches!(ask(GROUP, Some(&expired)).await, Err(SourceError::InvalidParameter(_))));
    let SourceError::Pool(refusal) = ask("/aws/vendedlogs/absent", None).await.unwrap_err() else { panic!() };
    assert_eq!(refusal.cause, RefusalCause::NoSuchLogGroup);
    for (fault, expected) in [
        (InjectedFault::throttle_logs(), "throttled: FilterLogEvents: ThrottlingException: Rate exceeded"),
        (InjectedFault::internal_error(), "FilterLogEvents: InternalErrorException: Something went wrong"),
    ] {
        simulation.world(|world| world.inject(fault.on("FilterLogEvents")));
        assert_eq!(ask(GROUP, None).await.unwrap_err().to_string(), expected);
        simulation.world(World::remove_all_faults);
    }
}
