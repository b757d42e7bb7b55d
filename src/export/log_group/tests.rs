//! The reader in virtual time, with a scripted service and a scripted intake.

use std::collections::VecDeque;

use cognito_auth_core::export::DecodedDocument;
use cognito_auth_core::export::log_page::ReadingRange;
use parking_lot::Mutex;

use super::*;
use crate::export::NotTaken;
use crate::source::Refusal;

const POOL: &str = "eu-west-1_Logs";
const GROUP: &str = "/aws/vendedlogs/cognito";
/// The time at which each test starts.
const START: UnixMillis = UnixMillis(1_795_523_756_000);
const OVERLAP: Duration = Duration::from_mins(10);
const INTERVAL: Duration = Duration::from_secs(10);

/// A call, as the service saw it: the seconds since the start, the start and end of the range in seconds from START,
/// and the token.
type Call = (u64, i64, i64, Option<String>);

/// A service that gives its answers one after the other, and empty last pages after them.
struct Service {
    answers: Mutex<VecDeque<Result<LogGroupPage, SourceError>>>,
    calls: Mutex<Vec<Call>>,
    began: Instant,
}

impl LogEvents for Arc<Service> {
    async fn log_events(
        &self,
        range: ReadingRange,
        limit: u16,
        token: Option<&str>,
    ) -> Result<LogGroupPage, SourceError> {
        assert_eq!(limit, LOG_EVENTS_MAX);
        let seconds = |time: UnixMillis| (time.0 - START.0).div_euclid(1000);
        let call = (self.began.elapsed().as_secs(), seconds(range.start), seconds(range.end), token.map(str::to_owned));
        self.calls.lock().push(call);
        self.answers.lock().pop_front().unwrap_or_else(|| Ok(LogGroupPage::default()))
    }
}

/// An intake that refuses as often as it is told, and notes the EventIds that it takes.
#[derive(Default)]
struct Taker {
    refusals: Mutex<VecDeque<NotTaken>>,
    taken: Mutex<Vec<String>>,
}

impl Intake for Taker {
    async fn take(&self, documents: Vec<DecodedDocument>, _: UnixMillis) -> Result<(), NotTaken> {
        if let Some(refusal) = self.refusals.lock().pop_front() {
            return Err(refusal);
        }
        let events = documents.into_iter().flat_map(|document| document.events);
        self.taken.lock().extend(events.filter_map(|event| event.event.id));
        Ok(())
    }
}

/// A disk with one position, and the number of writes that it still refuses.
#[derive(Default)]
struct Disk {
    stored: Mutex<Option<ReadPosition>>,
    is_damaged: Mutex<bool>,
    refusals: Mutex<u32>,
}

impl ReadPositions for Arc<Disk> {
    fn read_position(&self, pool_id: &str) -> Result<Option<ReadPosition>, LedgerError> {
        assert_eq!(pool_id, POOL);
        if *self.is_damaged.lock() {
            let (what, problem) = ("the read position of an export", "its checksum is wrong".into());
            return Err(LedgerError::Corrupt { what, problem });
        }
        Ok(self.stored.lock().clone())
    }

    async fn move_read_position(&self, _: &str, to: ReadPosition) -> Result<(), LedgerError> {
        let mut refusals = self.refusals.lock();
        if *refusals > 0 {
            *refusals -= 1;
            return Err(LedgerError::Storage("no space".into()));
        }
        *self.stored.lock() = Some(to);
        Ok(())
    }
}

/// Everything around a reader. It lives on when the reader dies.
struct TestBench {
    service: Arc<Service>,
    taker: Arc<Taker>,
    disk: Arc<Disk>,
    metrics: Metrics,
    clock: Clock,
    rate_limiter: RateLimiter,
    state: watch::Sender<LogGroupState>,
}

impl TestBench {
    fn new(answers: impl IntoIterator<Item = Result<LogGroupPage, SourceError>>) -> Self {
        let answers = Mutex::new(answers.into_iter().collect());
        Self {
            service: Arc::new(Service { answers, calls: Mutex::default(), began: Instant::now() }),
            taker: Arc::default(),
            disk: Arc::default(),
            metrics: Metrics::new(START),
            clock: Clock::runtime(START),
            rate_limiter: RateLimiter::new(CALLS_PER_SECOND),
            state: watch::Sender::default(),
        }
    }

    /// Has the ledger store a position, this many seconds from START.
    fn stored(self, group: &str, seconds: i64) -> Self {
        let position = UnixMillis(START.0 + seconds * 1000);
        *self.disk.stored.lock() = Some(ReadPosition { log_group: LogGroup::new(group), position });
        self
    }

    fn reader(&self) -> LogGroupReader<Arc<Service>, Taker, Arc<Disk>> {
        let identity = PoolIdentity {
            id: POOL.into(),
            name: POOL.into(),
            region: "eu-west-1".into(),
            account_id: Some("111122223333".into()),
        };
        let settings = LogGroupSettings {
            log_group: LogGroup::new(GROUP),
            read_interval: INTERVAL,
            overlap: OVERLAP,
            first_position: self.clock.now(),
            replay: Duration::from_hours(26),
        };
        let services = LogGroupServices {
            intake: self.taker.clone(),
            positions: self.disk.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            rate_limiter: self.rate_limiter.clone(),
            state: self.state.clone(),
        };
        LogGroupReader::new(self.service.clone(), Arc::new(identity), settings, services)
    }

    /// Lets a reader run for this many seconds, and then die.
    async fn runs(&self, seconds: u64) {
        // Not at a whole second, at which a call would be made or not.
        let life = Duration::from_millis(seconds * 1000 + 500);
        let _over = tokio::time::timeout(life, self.reader().run(CancellationToken::new())).await;
    }

    fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.service.calls.lock())
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.taker.taken.lock())
    }

    /// The stored position, in seconds from START.
    fn position(&self) -> Option<i64> {
        self.disk.stored.lock().as_ref().map(|stored| (stored.position.0 - START.0).div_euclid(1000))
    }

    /// The counted calls, by outcome.
    fn counted(&self, outcome: &str) -> u64 {
        let labels = format!("operation=\"FilterLogEvents\",outcome=\"{outcome}\"}}");
        let metrics = self.metrics.render();
        let line = metrics.lines().find(|line| line.contains(&labels)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// A log event with a record of the export, this many seconds from START.
fn record(event_id: &str, seconds: i64) -> LogMessage {
    let message = format!(
        r#"{{"eventSource":"USER_ACTIVITY","message":{{"eventId":"{event_id}","userName":"ann","userPoolId":"{POOL}",
        "eventType":"SignIn","creationDate":"Fri Nov 27 12:00:00 UTC 2026"}},"logSourceId":{{"userPoolId":"{POOL}"}}}}"#
    );
    LogMessage { id: format!("log-{event_id}"), timestamp: UnixMillis(START.0 + seconds * 1000), message }
}

fn page<const N: usize>(events: [LogMessage; N], next: Option<&str>) -> Result<LogGroupPage, SourceError> {
    Ok(LogGroupPage { served: None, events: events.into(), next: next.map(str::to_owned) })
}

fn denied() -> Result<LogGroupPage, SourceError> {
    Err(SourceError::Caller(Refusal::from("FilterLogEvents: AccessDeniedException: no")))
}

#[tokio::test(start_paused = true)]
async fn a_new_group_is_read_from_now_on_and_each_reading_begins_the_overlap_before_the_position() {
    let bench = TestBench::new([page([record("a", -5)], None), page([record("a", -5), record("b", 3)], None)]);
    bench.runs(0).await;
    assert_eq!(bench.calls(), [(0, -600, 0, None)]);
    assert_eq!(bench.position(), Some(0));
    bench.runs(25).await;
    assert_eq!(bench.calls(), [(1, -600, 1, None), (11, -599, 11, None), (21, -589, 21, None)]);
    assert_eq!(bench.taken(), ["a", "a", "b"], "after a start the overlap is handed in once more");
    assert_eq!(bench.position(), Some(21));
    assert_eq!(bench.counted("ok"), 4);
}

#[tokio::test(start_paused = true)]
async fn a_day_of_downtime_is_read_page_after_page_at_one_call_a_second() {
    let day = 86_400;
    let pages = (1..=5).map(|number| {
        let next = (number < 5).then(|| format!("token-{number}"));
        page([record(&format!("e{number}"), -day + number * 1000)], next.as_deref())
    });
    let bench = TestBench::new(pages).stored(GROUP, -day);
    bench.runs(2).await;
    assert_eq!(
        bench.calls(),
        [
            (0, -day - 600, 0, None),
            (1, -day - 600, 0, Some("token-1".into())),
            (2, -day - 600, 0, Some("token-2".into()))
        ]
    );
    assert_eq!(bench.position(), Some(-day + 2000), "it moves while the reading goes on");
    bench.runs(2).await;
    // The call that it died before has used its second.
    let next = Some((4, -day + 2000 - 600, 4, None));
    assert_eq!(bench.calls().into_iter().next(), next, "it goes on from there after a crash");
}

#[tokio::test(start_paused = true)]
async fn all_readers_of_an_account_and_region_share_one_call_a_second() {
    let bench = TestBench::new([]);
    let readers = [bench.reader(), bench.reader(), bench.reader()];
    let [one, two, three] = readers.map(|reader| reader.run(CancellationToken::new()));
    let together = async { tokio::join!(one, two, three) };
    let _over = tokio::time::timeout(Duration::from_millis(3500), together).await;
    assert_eq!(bench.calls().iter().map(|(at, ..)| *at).collect::<Vec<_>>(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn the_position_waits_for_the_intake_and_what_was_not_taken_is_handed_in_again() {
    let bench = TestBench::new([page([record("a", -5)], None)]).stored(GROUP, -100);
    bench.taker.refusals.lock().extend([
        NotTaken::OutboxFull,
        NotTaken::Ledger("no space".into()),
        NotTaken::OutboxFull,
    ]);
    bench.runs(2).await;
    assert_eq!((bench.taken(), bench.position()), (vec![], Some(-100)), "it died while it waited");
    *bench.service.answers.lock() = [page([record("a", -5)], None)].into();
    bench.runs(10).await;
    assert_eq!((bench.taken(), bench.position()), (vec!["a".to_owned()], Some(2)));
    assert_eq!(bench.calls().len(), 2, "a refused page is not read again by the same process");
}

#[tokio::test(start_paused = true)]
async fn a_position_that_cannot_be_stored_is_stored_with_the_next_reading_and_the_first_one_before_any_call() {
    let bench = TestBench::new([]);
    *bench.disk.refusals.lock() = 2;
    bench.runs(2).await;
    assert_eq!((bench.calls(), bench.position()), (vec![], None));
    bench.runs(0).await;
    assert_eq!(bench.calls().len(), 1);
    *bench.disk.refusals.lock() = 1;
    let before = bench.position();
    bench.runs(0).await;
    assert_eq!(bench.position(), before);
    bench.runs(11).await;
    assert!(bench.position() > before);
}

#[tokio::test(start_paused = true)]
async fn another_group_is_read_from_the_old_position_and_another_spelling_is_no_other_group() {
    let arn = format!("arn:aws:logs:eu-west-1:111122223333:log-group:{GROUP}:*");
    for group in ["/aws/vendedlogs/old", &arn] {
        let bench = TestBench::new([]).stored(group, -50);
        bench.runs(0).await;
        assert_eq!(bench.calls(), [(0, -650, 0, None)], "{group}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_position_begins_the_replay_before_now() {
    let bench = TestBench::new([]);
    *bench.disk.is_damaged.lock() = true;
    bench.runs(0).await;
    assert_eq!(bench.calls(), [(0, -26 * 3600 - 600, 0, None)]);
}

#[tokio::test(start_paused = true)]
async fn empty_pages_with_tokens_are_followed_to_the_end() {
    let bench = TestBench::new([page([], Some("a")), page([], Some("b")), page([record("x", -1)], None)]);
    bench.runs(5).await;
    let tokens: Vec<_> = bench.calls().into_iter().map(|(.., token)| token).collect();
    assert_eq!(tokens, [None, Some("a".into()), Some("b".into())]);
    assert_eq!((bench.taken(), bench.position()), (vec!["x".to_owned()], Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_begins_the_reading_anew_and_is_no_fault() {
    let refused = || Err(SourceError::InvalidParameter("FilterLogEvents: InvalidParameterException: token".into()));
    let bench = TestBench::new([page([record("x", -9)], Some("a")), refused(), page([record("x", -9)], None)]);
    bench.runs(5).await;
    let tokens: Vec<_> = bench.calls().into_iter().map(|(.., token)| token).collect();
    assert_eq!(tokens, [None, Some("a".into()), None]);
    assert_eq!(bench.taken(), ["x"]);
    assert_eq!(bench.state.borrow().standing, LogGroupStanding::Readable);

    let pages = (0..20).flat_map(|number| [page([], Some(&format!("t{number}"))), refused()]);
    let bench = TestBench::new(pages);
    bench.runs(30).await;
    let standing = bench.state.borrow().standing.clone();
    assert!(
        matches!(standing, LogGroupStanding::Unreadable { .. }),
        "a service that refuses every token: {standing:?}"
    );
    assert_eq!(bench.position(), Some(0));
    assert!(bench.calls().len() < 14, "with growing pauses");
}

#[tokio::test(start_paused = true)]
async fn a_throttle_slows_every_reader_down_and_is_no_fault_until_it_lasts() {
    let throttled = || Err(SourceError::Throttled("FilterLogEvents: ThrottlingException".into()));
    let bench = TestBench::new([throttled()]);
    bench.runs(5).await;
    assert_eq!(bench.counted("throttled"), 1);
    assert!(bench.rate_limiter.per_second() < CALLS_PER_SECOND);
    assert_eq!(bench.state.borrow().standing, LogGroupStanding::Readable);

    let bench = TestBench::new((0..50).map(|_| throttled()));
    bench.runs(200).await;
    let standing = bench.state.borrow().standing.clone();
    let LogGroupStanding::Unreadable { since, remedy, .. } = standing else { unreachable!("{standing:?}") };
    assert_eq!(since, START);
    assert!(remedy.contains("5 FilterLogEvents calls/s"), "{remedy}");
    assert!(bench.calls().len() < 16, "it backs off");
}

#[tokio::test(start_paused = true)]
async fn a_denied_group_is_said_at_once_with_its_remedy_and_so_is_the_end() {
    let bench = TestBench::new([denied(), denied(), page([record("a", -1)], None)]).stored(GROUP, -30);
    bench.runs(0).await;
    let state = bench.state.borrow().clone();
    assert_eq!(state.read_until, Some(UnixMillis(START.0 - 30_000)));
    let LogGroupStanding::Unreadable { since, error, remedy } = state.standing else { unreachable!() };
    assert_eq!((since, &*error), (START, "FilterLogEvents: AccessDeniedException: no"));
    assert!(remedy.contains("logs:FilterLogEvents on arn:aws:logs:eu-west-1:*:log-group:/aws/vendedlogs/cognito:*"));
    bench.runs(8).await;
    let state = bench.state.borrow().clone();
    assert_eq!(state.standing, LogGroupStanding::Readable);
    assert!(state.read_until > Some(START), "{state:?}");
    assert_eq!((bench.counted("denied"), bench.taken()), (2, vec!["a".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_reader_wherever_it_waits() {
    let bench = TestBench::new([page([record("a", -1)], None)]);
    bench.taker.refusals.lock().push_back(NotTaken::Stopping);
    let stop = CancellationToken::new();
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.cancel();
    };
    tokio::join!(bench.reader().run(stop.clone()), stopping);
    assert_eq!(bench.taken(), [""; 0]);
}
