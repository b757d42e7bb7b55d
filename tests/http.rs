//! The HTTP server over real sockets on loopback.

use std::cell::Cell;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Once;
use std::time::Duration;

use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::schedule::PoolSlot;
use cognito_auth_exporter::http::{HttpServer, Router, Scrapes, Web};
use cognito_auth_exporter::lifecycle::{Clock, Duty, Lifecycle, RunOutcome};
use cognito_auth_exporter::metrics::{Metrics, OutboxSize, UserCounts};
use cognito_auth_exporter::status::StatusBoard;
use cognito_auth_exporter::status::user_place::{PlaceError, PlaceQuestion, PlaceSender, QUESTIONS_MAX};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

const POOL: &str = "eu-west-1_Abc123";

/// A server that runs beside the test, as a service of a lifecycle.
struct ServerUnderTest {
    address: SocketAddr,
    router: Router,
    lifecycle: Lifecycle,
}

impl ServerUnderTest {
    async fn new() -> Self {
        let start = UnixMillis(1_723_136_049_929);
        let router = Router {
            metrics: Metrics::new(start),
            board: StatusBoard::new(start),
            scrapes: Scrapes::new(),
            clock: Clock::manual(start.plus(Duration::from_secs(90))),
        };
        router.metrics.add_pool(&PoolIdentity {
            id: POOL.into(),
            name: "<script>alert('customers')</script>".into(),
            region: "eu-west-1".into(),
            account_id: None,
        });
        let server = HttpServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.local_addr().unwrap();
        let lifecycle = Lifecycle::new();
        let stop = lifecycle.stops(Duty::Serve).soft.clone();
        lifecycle.spawn(Duty::Serve, "http", server.serve(router.clone(), stop));
        Self { address, router, lifecycle }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends one request on a new connection and reads until the connection ends.
    async fn ask(&self, method: &str, path: &str, headers: &str) -> HttpReply {
        let mut stream = self.connect().await;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = vec![];
        stream.read_to_end(&mut bytes).await.unwrap();
        HttpReply::parse(&bytes)
    }

    async fn get(&self, path: &str) -> HttpReply {
        self.ask("GET", path, "").await
    }
}

struct HttpReply {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl HttpReply {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let (line, headers) = head.split_once("\r\n").unwrap();
        Self {
            status: line.split(' ').nth(1).unwrap().parse().unwrap(),
            headers: headers.to_ascii_lowercase(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

#[tokio::test]
async fn metrics_come_in_the_text_format_with_its_content_type() {
    let world = ServerUnderTest::new().await;
    let reply = world.get("/metrics").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(reply.header("vary"), Some("accept-encoding"));
    assert_eq!(reply.header("content-encoding"), None);
    assert!(reply.text().contains("# TYPE cognito_auth_events_total counter\n"));
    assert!(reply.text().ends_with('\n'));
}

#[tokio::test]
async fn metrics_are_compressed_for_those_who_ask() {
    let world = ServerUnderTest::new().await;
    let reply = world.ask("GET", "/metrics", "Accept-Encoding: deflate, gzip;q=0.8\r\n").await;
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(reply.body.as_slice()).read_to_string(&mut text).unwrap();
    assert!(text.contains(&format!("cognito_auth_history_events_total{{user_pool_id=\"{POOL}\"}} 0\n")));
    assert!(reply.body.len() * 5 < text.len(), "{} of {}", reply.body.len(), text.len());

    let refused = world.ask("GET", "/metrics", "Accept-Encoding: gzip;q=0\r\n").await;
    assert_eq!(refused.header("content-encoding"), None);
}

#[tokio::test]
async fn readiness_follows_the_board_and_liveness_does_not_mind_starting() {
    let world = ServerUnderTest::new().await;
    world.router.board.starting("opening the ledger");
    let reply = world.get("/readyz").await;
    assert_eq!((reply.status, reply.text()), (503, "opening the ledger\n"));
    for path in ["/healthz", "/livez"] {
        assert_eq!(world.get(path).await.status, 200);
    }
    world.router.board.ready();
    let reply = world.get("/readyz").await;
    assert_eq!((reply.status, reply.text()), (200, "ok\n"));
    world.router.board.stuck("no space left");
    assert_eq!(world.get("/readyz").await.status, 503);
    assert_eq!(world.get("/healthz").await.status, 200, "not before five minutes");
}

#[tokio::test]
async fn the_page_and_the_status_tell_the_same_and_the_page_takes_no_markup_from_elsewhere() {
    let world = ServerUnderTest::new().await;
    let metrics = &world.router.metrics;
    metrics.users(POOL, UserCounts { ok: 1200, missing: 30, failing: 4 });
    metrics.outbox(OutboxSize { records: 17, bytes: 20480, oldest: None });
    world.router.board.pool_error(POOL, "the <b>plan</b> lacks threat protection", UnixMillis(1_723_136_100_000));
    world.router.board.ready();

    let status = world.get("/status").await;
    assert_eq!(status.header("content-type"), Some("application/json"));
    let json: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(json["ready"], true);
    assert_eq!(json["totals"]["users"]["missing"], 30);
    assert_eq!(json["outbox"]["records"], 17);
    assert_eq!(json["pools"][0]["last_errors"][0]["count"], 1);

    let page = world.get("/").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    let html = page.text();
    for shown in ["1,234", "17 records", "20.0 KiB", "up 1 min 30 s", "&lt;b&gt;plan&lt;/b&gt;"] {
        assert!(html.contains(shown), "{shown} in {html}");
    }
    for (count, state) in [(30, "missing"), (4, "failing")] {
        let note =
            html.split(&format!(">{count} <abbr title=\"")).nth(1).unwrap_or_else(|| panic!("{count} in {html}"));
        assert!(note.split("</abbr>").next().unwrap().ends_with(&format!("\">{state}")), "{note}");
    }
    assert!(!html.contains("<script") && !html.contains("<b>plan") && !html.contains("http://"));
}

/// `tests/status.rs` asks a real poller.
#[tokio::test]
async fn a_user_is_shown_to_known_clients_only_and_a_poller_that_does_not_answer_is_told_of() {
    let world = ServerUnderTest::new().await;
    let query = format!("/status?user_pool_id={POOL}&username=ursula");
    for asked in [&query[..], "/status?username=ursula", "/status?user_pool_id="] {
        let refused = world.get(asked).await;
        assert_eq!(refused.status, 403, "{asked}");
        assert!(refused.text().starts_with("the place of a user is personal data"), "{}", refused.text());
    }
    assert_eq!(world.get("/status?still").await.status, 200);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.yml");
    std::fs::write(&file, format!("basic_auth_users:\n  ann: {}\n", bcrypt::hash("right", 4).unwrap())).unwrap();
    let server = HttpServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.local_addr().unwrap();
    let stop = world.lifecycle.stops(Duty::Serve).soft.clone();
    let guarded = server.behind(Web::load(Some(&file)).unwrap()).serve(world.router.clone(), stop);
    world.lifecycle.spawn(Duty::Serve, "guarded http", guarded);
    let world = ServerUnderTest { address, ..world };
    let password = "Authorization: Basic YW5uOnJpZ2h0\r\n";
    let ask = async |path: &str| {
        let reply = world.ask("GET", path, password).await;
        (reply.status, reply.text().to_owned(), reply.header("retry-after").map(str::to_owned))
    };
    assert_eq!(world.get(&query).await.status, 401);
    let (status, said, _) = ask("/status?username=ursula").await;
    assert_eq!((status, said.contains("the query names no user_pool_id; accepted: ")), (400, true), "{said}");
    let (status, said, retry) = ask(&query).await;
    assert_eq!((status, retry.as_deref()), (404, None), "nobody has reported of this pool: {said}");

    let (questions, mut asked) = mpsc::channel(QUESTIONS_MAX);
    world.router.board.answers_places(POOL, PlaceSender::new(PoolSlot(7), questions));
    let poller = async {
        for answer in [Err(PlaceError::NotFollowed), Err(PlaceError::OtherName), Err(PlaceError::Ledger("full".into()))]
        {
            let question: PlaceQuestion = asked.recv().await.unwrap();
            assert_eq!((question.pool, question.username.as_str()), (PoolSlot(7), "ursula"));
            assert!(question.answer.send(answer).is_ok());
        }
        drop(asked.recv().await);
    };
    let client = async {
        let mut replies = vec![];
        for _ in 0..4 {
            let (status, said, retry) = ask(&query).await;
            replies.push((status, retry.is_some(), said.contains("ursula")));
        }
        assert_eq!(replies, [(404, false, false), (404, false, false), (503, true, false), (503, true, false)]);
    };
    tokio::join!(poller, client);
}

#[tokio::test]
async fn head_has_the_headers_of_get_and_no_body() {
    let world = ServerUnderTest::new().await;
    for path in ["/", "/status", "/healthz", "/readyz"] {
        let get = world.get(path).await;
        let head = world.ask("HEAD", path, "").await;
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        assert_eq!(head.header("content-length"), get.header("content-length"), "{path}");
        assert_eq!(get.header("content-length"), Some(get.body.len().to_string().as_str()));
        assert!(head.body.is_empty(), "{path}");
    }
    assert!(world.ask("HEAD", "/metrics", "").await.body.is_empty());
}

#[tokio::test]
async fn another_method_is_told_which_there_are_and_another_path_too() {
    let world = ServerUnderTest::new().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let reply = world.ask(method, "/metrics", "Content-Length: 0\r\n").await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some("get, head")), "{method}");
    }
    for path in ["/metric", "/metrics/", "//", "/../etc/passwd"] {
        let reply = world.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        for there in ["/metrics", "/healthz", "/livez", "/readyz", "/status", "?user_pool_id=ID&username=NAME"] {
            assert!(reply.text().contains(there), "{there}");
        }
    }
    assert_eq!(world.get("/metrics?x=y").await.status, 200);
}

#[tokio::test]
async fn a_scrape_wakes_who_waits_for_one_and_nothing_else_does() {
    let world = ServerUnderTest::new().await;
    let mut scraped = std::pin::pin!(world.router.scrapes.next());
    let mut is_over = || {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        scraped.as_mut().poll(&mut context).is_ready()
    };
    assert_eq!(world.get("/healthz").await.status, 200);
    assert_eq!(world.ask("HEAD", "/metrics", "").await.status, 200);
    assert!(!is_over());
    assert_eq!(world.get("/metrics").await.status, 200);
    assert!(is_over());
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let world = ServerUnderTest::new().await;
    let mut stream = world.connect().await;
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut seen = vec![];
        while !seen.ends_with(b"\r\n\r\nok\n") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "the connection stays open");
        }
    }
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let world = ServerUnderTest::new().await;
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    assert_eq!(world.ask("GET", "/healthz", &long).await.status, 431);
    let many = "X-Many: x\r\n".repeat(200);
    assert_eq!(world.ask("GET", "/healthz", &many).await.status, 431);
}

#[tokio::test]
async fn what_is_not_http_harms_nobody() {
    let world = ServerUnderTest::new().await;
    let mut stream = world.connect().await;
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").await.unwrap();
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(world.get("/healthz").await.status, 200);
}

/// Sends a request on a connection that stays open. Returns whether it was answered.
async fn is_answered(stream: &mut TcpStream) -> bool {
    let mut seen = vec![];
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.is_ok();
    while asked && !seen.ends_with(b"ok\n") {
        if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    asked
}

#[tokio::test]
async fn beyond_the_limit_the_oldest_connection_gives_way_and_no_other() {
    let world = ServerUnderTest::new().await;
    let mut held = vec![];
    for _ in 0..64 {
        let mut stream = world.connect().await;
        assert!(is_answered(&mut stream).await);
        held.push(stream);
    }
    assert_eq!(world.get("/metrics").await.status, 200);
    assert!(!is_answered(&mut held[0]).await, "it gave way");
    for stream in &mut held[1..] {
        assert!(is_answered(stream).await, "without a pause for the others to run into their time");
    }
}

/// The test above shows that the metrics need not wait until the time of these requests is over.
#[tokio::test]
async fn a_crowd_that_never_finishes_its_requests_keeps_nobody_from_the_metrics() {
    let world = ServerUnderTest::new().await;
    let mut crowd = vec![];
    for number in 0..300 {
        let mut stream = world.connect().await;
        let beginning = &b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"[..number % 40];
        // The server may have closed the connection.
        let _ = stream.write_all(beginning).await;
        crowd.push(stream);
        if number % 100 == 99 {
            assert_eq!(world.get("/metrics").await.status, 200, "beside {number} others");
        }
    }
}

#[tokio::test]
async fn the_server_serves_while_work_drains_and_ends_cleanly_after_it() {
    let world = ServerUnderTest::new().await;
    let (finish, finished) = oneshot::channel::<()>();
    let draining = world.lifecycle.stops(Duty::Deliver).soft.clone();
    let drain = draining.clone();
    world.lifecycle.spawn(Duty::Deliver, "delivery", async move {
        drain.cancelled().await;
        let _ = finished.await;
    });
    let idle = world.connect().await;
    let (signal, mut signals) = mpsc::channel(1);
    signal.send("SIGTERM").await.unwrap();
    let next_signal = async || match signals.recv().await {
        Some(name) => name,
        None => std::future::pending().await,
    };
    let run = world.lifecycle.run(next_signal, || world.router.board.stopping(), async {});
    let watch = async {
        draining.cancelled().await;
        let reply = world.get("/readyz").await;
        assert_eq!((reply.status, reply.text()), (503, "stopping\n"));
        assert_eq!(world.get("/metrics").await.status, 200);
        finish.send(()).unwrap();
    };
    let (outcome, ()) = tokio::join!(run, watch);
    assert_eq!(outcome, RunOutcome::Stopped);
    assert!(TcpStream::connect(world.address).await.is_err(), "the port is free again");
    drop(idle);
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let world = ServerUnderTest::new().await;
    let error = HttpServer::bind(world.address).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on {} (http.listen): another program listens there; stop it, or choose another port",
            world.address
        )
    );
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_is_cut() {
    let world = ServerUnderTest::new().await;
    let mut stream = world.connect().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").await.unwrap();
    let mut answer = vec![];
    // The runtime's clock is paused and advances by itself: ten seconds pass as soon as every task waits.
    let began = tokio::time::Instant::now();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_go_of_a_client_that_does_not_finish_its_request() {
    let world = ServerUnderTest::new().await;
    let server = HttpServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut slow = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
    let stop = CancellationToken::new();
    let client = async {
        slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal").await.unwrap();
        let mut seen = vec![];
        while !seen.ends_with(b"ok\n") {
            assert_ne!(slow.read_buf(&mut seen).await.unwrap(), 0);
        }
        stop.cancel();
        tokio::time::Instant::now()
    };
    let ((), stopped) = tokio::join!(server.serve(world.router.clone(), stop.clone()), client);
    assert!(stopped.elapsed() < Duration::from_secs(3), "{:?}", stopped.elapsed());
}

/// Parts of requests and whole requests, in any order: pipelined, cut off, smuggled, or not HTTP.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let pieces: [&[u8]; 24] = [
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HEAD / HTTP/1.0\r\n\r\n",
        b"GET ",
        b"POST /status HTTP/1.1\r\n",
        b"/metrics?a=%zz&&= ",
        b"http://[::1]:99999999/metrics ",
        b"* ",
        b"HTTP/1.1\r\n",
        b"HTTP/9.9\r\n",
        b"HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"Host: x\r\n",
        b"Content-Length: 18446744073709551616\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"Accept-Encoding: gzip;q=nan, *;q=-0, ;;q\r\n",
        b"ffffffffffffffff\r\n",
        b"0\r\n\r\n",
        b" folded: \xff\x00\r\n",
        b"\r\n",
        b"\n\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ];
    let piece = prop_oneof![
        6 => proptest::sample::select(pieces.to_vec()).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..64),
        1 => (0_usize..40_000).prop_map(|long| [b"X-Long: ", "x".repeat(long).as_bytes(), b"\r\n"].concat()),
        1 => (0_usize..400).prop_map(|many| b"X: y\r\n".repeat(many)),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A panic in a connection would end only that connection, so the test counts panics.
    #[test]
    fn whatever_is_sent_is_answered_in_http_or_not_at_all_and_the_next_is_served(bytes in any_bytes()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let panics = panics_within(|| runtime.block_on(async {
            let world = ServerUnderTest::new().await;
            let mut stream = world.connect().await;
            let answer = tokio::time::timeout(PATIENCE, async {
                // The server may have closed the connection already.
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                let mut answer = vec![];
                let _ = stream.read_to_end(&mut answer).await;
                answer
            });
            let answer = answer.await.expect("a connection whose client has said all ends");
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{answer:?}");
            assert_eq!(world.get("/metrics").await.status, 200);
        }));
        prop_assert_eq!(panics, 0);
    }
}

/// Longer than anything takes, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// The number of panics of this thread, caught or not.
fn panics_within(work: impl FnOnce()) -> usize {
    thread_local!(static PANICS: Cell<usize> = const { Cell::new(0) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            told(panic);
        }));
    });
    PANICS.set(0);
    work();
    PANICS.get()
}
