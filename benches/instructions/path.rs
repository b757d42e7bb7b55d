//! The path of an event, on one thread, under a fixed load: a function for each counted part.
//!
//! The pages are real JSON for the SDK's own decoder. There is no socket and no TLS, and the clock is stopped. The
//! ledger is a real one. It writes in a thread of its own, of which only the filling of a batch is counted: sled's work
//! differs from run to run. The receiver is a thread that is not counted.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::shared::IntoShared as _;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::{
    AuthEvent, Challenge, EventContext, EventRisk, EventType, UnixMillis, Vocabulary, Word,
};
use cognito_auth_core::schedule::{ActivityEstimate, Lane, PoolSlot};
use cognito_auth_core::walk::Rules;
use cognito_auth_exporter::config::{Compression, OtlpConfig, StateConfig};
use cognito_auth_exporter::delivery::{BatchLimits, Delivery, DeliveryObserver, RequestOutcome};
use cognito_auth_exporter::ledger::{Ledger, UserRecord};
use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_exporter::metrics::Metrics;
use cognito_auth_exporter::poller::names::PoolSightings;
use cognito_auth_exporter::poller::turn::{self, ExpectedActivity, TurnContext, TurnRequest};
use cognito_auth_exporter::pool::Pool;
use cognito_auth_exporter::rate_limiter::RateLimiter;
use cognito_auth_exporter::sink::otlp::OtlpSink;
use cognito_auth_exporter::source::cognito::{Clients, Cognito, Connection};
use cognito_auth_exporter::source::metered::Metered;
use cognito_auth_simulator::wire::event_json;
use http::StatusCode;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const POOL: &str = "eu-west-1_Counted1";
const REGION: &str = "eu-west-1";
const NOW: UnixMillis = UnixMillis(1_795_523_756_000);
const MINUTE: i64 = 60_000;

/// Users, each with the same history of two pages.
const USERS: usize = 20;
/// Events of a history, 20 minutes apart. A few are within the overlap.
const EVENTS: usize = 120;
/// Polls of each user that find nothing.
const ROUNDS: usize = 5;

/// The longest wait for an answer: valgrind is slow.
const PATIENCE: Duration = Duration::from_mins(10);

/// New events that the schedule expects of each user: a round of 20 minutes at about an event per hour.
const EXPECTED: f64 = 0.3;

/// The number of events that are taken and delivered.
pub(crate) const NEW_EVENTS: usize = USERS * EVENTS;
/// The number of polls without a new event.
pub(crate) const EMPTY_POLLS: usize = USERS * ROUNDS;

/// The program's parts on the path, assembled for one thread.
pub(crate) struct Path {
    runtime: Runtime,
    context: TurnContext,
    pool: Pool<Cognito>,
    /// The receiver's URL.
    receiver: String,
    _directory: tempfile::TempDir,
}

impl Path {
    /// Opens a ledger and puts the parts together.
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let state = StateConfig { path: directory.path().to_owned(), ..StateConfig::default() };
        let ledger = Ledger::open(&state, NOW).unwrap().ledger;
        let identity = Arc::new(PoolIdentity {
            id: POOL.into(),
            name: "customers".into(),
            region: REGION.into(),
            account_id: Some("111122223333".into()),
        });
        let metrics = Metrics::new(NOW);
        metrics.add_pool(&identity);
        let clock = Clock::manual(NOW);
        let connection = Connection { region: REGION.into(), profile: None, role_arn: None, external_id: None };
        let clients = Clients::simulated_through(HistoryService::of_everybody().into_shared());
        let source = clients.connect(POOL, connection, PATIENCE, clock.clone());
        let unlimited = || RateLimiter::new(1e9);
        let pool = Pool {
            slot: PoolSlot(0),
            source: Metered::new(source, identity.clone(), metrics.clone(), unlimited(), unlimited()),
            identity,
            rules: Rules { overlap: Duration::from_hours(1), settle: Duration::from_mins(30), followed_since: None },
            has_told: false,
        };
        let context = TurnContext {
            ledger,
            metrics,
            calls: Arc::new(Semaphore::new(16)),
            page_size: 60,
            clock,
            queue: true,
            outbox_limit_bytes: u64::MAX,
            stop: CancellationToken::new(),
        };
        Self { runtime, context, pool, receiver: accept_everything(), _directory: directory }
    }

    /// Runs a part of the work. Valgrind counts this function.
    #[inline(never)]
    pub(crate) fn counted(&self, part: impl Future<Output = ()>) {
        self.runtime.block_on(part);
    }

    /// Enrols all users. One extra user takes the whole path first, so that one-time work is done.
    pub(crate) async fn prepare(&self) {
        let (ledger, metrics) = (&self.context.ledger, self.context.metrics.clone());
        ledger.show_totals(move |pool_id, totals| metrics.totals(pool_id, totals)).await.unwrap();
        let record = || UserRecord {
            joined: UnixMillis(0),
            sub: Some("0b0e1f5c-5a0e-4c39-9a53-0f3e5a8f7cc2".into()),
            cursor: Cursor::new(UnixMillis(0), UnixMillis(0)),
            activity: None,
        };
        ledger.enroll(POOL, (0..=USERS).map(|user| (username(user), record())).collect()).await.unwrap();
        self.take_history(USERS).await;
        self.poll(USERS).await;
        self.deliver().await;
    }

    /// Reads the history of all users: from pages to turns, from turns to the outbox.
    pub(crate) async fn catch_up(&self) {
        for user in 0..USERS {
            self.take_history(user).await;
        }
    }

    /// Polls all users repeatedly, without new events.
    pub(crate) async fn poll_in_vain(&self) {
        for user in (0..USERS).cycle().take(EMPTY_POLLS) {
            self.poll(user).await;
        }
    }

    /// Delivers the outbox to the receiver, as the delivery task does at a stop: all records.
    pub(crate) async fn deliver(&self) {
        let ledger = &self.context.ledger;
        let config =
            OtlpConfig { timeout: PATIENCE, compression: Compression::None, ..OtlpConfig::new(&self.receiver) };
        let receiver = OtlpSink::connect(&config, ledger.instance_id(), &self.context.clock).unwrap();
        let limits = BatchLimits { records: config.batch_size, delay: Duration::ZERO };
        let delivery = Delivery::new(ledger.clone(), None::<OtlpSink>, Some(receiver), Quiet, limits);
        let drain = CancellationToken::new();
        drain.cancel();
        delivery.run(drain, CancellationToken::new()).await;
        assert_eq!(ledger.outbox_state().records, 0, "all is delivered");
    }

    /// A first poll, and then the rest of the history as backlog.
    async fn take_history(&self, user: usize) {
        let waiting = || self.context.ledger.outbox_state().records;
        let before = waiting();
        for lane in [Lane::Poll, Lane::Backlog] {
            self.turn(user, lane, ExpectedActivity { activity: ActivityEstimate::UNKNOWN, new_events: None }).await;
        }
        assert_eq!(waiting() - before, EVENTS as u64, "all is new");
    }

    async fn poll(&self, user: usize) {
        let before = self.context.ledger.outbox_state();
        let known = self.context.ledger.standing(POOL, &username(user)).unwrap().unwrap().activity.unwrap();
        let expected = ExpectedActivity { activity: known.aged(NOW), new_events: Some(EXPECTED) };
        self.turn(user, Lane::Poll, expected).await;
        assert_eq!(self.context.ledger.outbox_state(), before, "nothing is new");
    }

    async fn turn(&self, user: usize, lane: Lane, expected: ExpectedActivity) {
        let request = TurnRequest { username: username(user), lane, expected, start: Instant::now() };
        turn::run(&self.context, &self.pool, &PoolSightings::default(), request).await.unwrap();
    }
}

fn username(user: usize) -> String {
    format!("c0ffee00-1111-4222-8333-{user:012}")
}

/// A Cognito in which every user has the same history, as an HTTP client of the SDK. A page is rendered at its first
/// request.
#[derive(Clone, Debug)]
struct HistoryService {
    /// Newest first.
    events: Arc<[String]>,
    pages: Arc<Mutex<HashMap<(usize, usize), Bytes>>>,
}

impl HistoryService {
    fn of_everybody() -> Self {
        let events = (0..EVENTS).map(|number| event_json(&event(number))).collect();
        Self { events, pages: Arc::default() }
    }

    fn page(&self, from: usize, at_most: usize) -> Bytes {
        let render = || {
            let to = (from + at_most).min(EVENTS);
            let next = if to < EVENTS { format!(r#","NextToken":"{to}""#) } else { String::new() };
            format!(r#"{{"AuthEvents":[{}]{next}}}"#, self.events[from..to].join(",")).into()
        };
        self.pages.lock().unwrap().entry((from, at_most)).or_insert_with(render).clone()
    }
}

impl HttpConnector for HistoryService {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let body = std::str::from_utf8(request.body().bytes().unwrap()).unwrap();
        let number = |member: &str| -> Option<usize> {
            let (_, value) = body.split_once(member)?;
            let digits = value.trim_start_matches('"');
            digits[..digits.find(|char: char| !char.is_ascii_digit())?].parse().ok()
        };
        let page = self.page(number(r#""NextToken":"#).unwrap_or(0), number(r#""MaxResults":"#).unwrap());
        let mut response = HttpResponse::new(StatusCode::OK.into(), SdkBody::from(page));
        response.headers_mut().insert("content-type", "application/x-amz-json-1.1");
        HttpConnectorFuture::ready(Ok(response))
    }
}

impl HttpClient for HistoryService {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        self.clone().into_shared()
    }
}

/// An event of a history; the newest has number 0. Most pass without risk, some fail, few are suspicious.
fn event(number: usize) -> AuthEvent {
    fn word<V: Vocabulary>(text: &str) -> Option<Word<V>> {
        Some(Word::parse(text))
    }
    let suspicious = number % 20 == 7;
    let step = |name, response| Challenge { name: word(name), response: word(response) };
    let passed = if number % 6 == 5 { "Fail" } else { "Pass" };
    AuthEvent {
        id: Some(format!("768d375c-ee6c-435e-a005-{number:012x}")),
        event_type: Some(Word::Known(if number % 30 == 29 { EventType::ForgotPassword } else { EventType::SignIn })),
        creation_date: Some(UnixMillis(NOW.0 - (5 + 20 * i64::try_from(number).unwrap()) * MINUTE)),
        response: word(passed),
        risk: Some(EventRisk {
            decision: word(if suspicious { "AccountTakeover" } else { "NoRisk" }),
            level: if suspicious { word("Medium") } else { None },
            compromised_credentials: Some(false),
        }),
        challenges: vec![
            step("Password", "Success"),
            step("Mfa", if passed == "Pass" { "Success" } else { "Failure" }),
        ],
        context: Some(EventContext {
            ip_address: Some(format!("192.0.2.{number}")),
            device_name: Some("Chrome 126, Windows 10".into()),
            timezone: Some("-07:00".into()),
            city: Some(if number.is_multiple_of(3) { "null" } else { "Seattle" }.into()),
            country: Some("United States".into()),
        }),
        feedback: None,
    }
}

/// A receiver in its own thread that reads requests and accepts their records. Returns its URL.
fn accept_everything() -> String {
    fn serve(connection: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(connection);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                let read = reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().ok()?;
                }
                if read == "\r\n".len() {
                    break;
                }
            }
            reader.read_exact(&mut vec![0; length]).ok()?;
            let mut writer = connection;
            writer
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
                .ok()?;
        }
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        listener.incoming().flatten().for_each(|connection| {
            let _closed = serve(&connection);
        });
    });
    url
}

/// Ignores the reports of the delivery task.
struct Quiet;

impl DeliveryObserver for Quiet {
    fn request(&self, _: RequestOutcome) {}
    fn failed(&self, cause: &str) {
        panic!("the receiver takes everything: {cause}");
    }
    fn records(&self, _: u64, _: u64) {}
    fn quarantined(&self, _: u64) {}
    fn quarantine_full(&self, _: bool) {}
    fn progress(&self) {}
}
