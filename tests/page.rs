//! The status page in a browser: chromium blocks nothing, nothing is wider than a telephone, and every text is readable
//! in light and dark mode.
//!
//! `SCREENSHOTS=docs/images cargo test page::` draws the pictures of the documentation.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cognito_auth_core::counters::Series;
use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::{AuthEvent, UnixMillis, Word};
use cognito_auth_core::users::listing_pass::LeftOut;
use cognito_auth_exporter::http::{HttpServer, Router, Scrapes};
use cognito_auth_exporter::lifecycle::{Clock, Duty, Lifecycle};
use cognito_auth_exporter::metrics::{Metrics, OutboxSize, PauseReason, PollForecast, Stage, UserCounts};
use cognito_auth_exporter::source::{CallOutcome, Operation};
use cognito_auth_exporter::status::StatusBoard;

use crate::peers;

/// Two window sizes: a desktop's and a telephone's.
const DESK: (u32, u32) = (1280, 1840);
const PHONE: (u32, u32) = (390, 3060);

/// The pools of a large deployment, beside the three of [`Day::Troubled`].
const OTHER_POOLS: u32 = 47;

fn other_pool(number: u32) -> String {
    format!("eu-central-1_Brand{number}")
}

/// The largest page of fifty pools, in bytes.
const PAGE_BYTES_MAX: usize = 640 * 1024;

/// The start of the last hour.
const START: UnixMillis = UnixMillis(1_795_600_800_000);

/// An exporter after a day with many events.
struct BusyExporter {
    address: SocketAddr,
    router: Router,
    _lifecycle: Lifecycle,
}

fn outcome(event_type: &str, response: &str) -> Series {
    let event = AuthEvent {
        event_type: Some(Word::parse(event_type)),
        response: Some(Word::parse(response)),
        ..AuthEvent::default()
    };
    Series::Events(event.facts().outcome())
}

fn risk() -> Series {
    let found = |series: &Series| matches!(series, Series::Risk { .. });
    Series::documented().find(found).unwrap()
}

/// The day of an exporter.
#[derive(Clone, Copy, PartialEq)]
enum Day {
    /// Two pools, and nothing to mend.
    Well,
    /// Three pools: one is attacked and late, one is down.
    Troubled,
    /// The same with fifty pools.
    TroubledAmongMany,
}

impl BusyExporter {
    async fn new(day: Day) -> Self {
        let clock = Clock::manual(START);
        let router = Router {
            metrics: Metrics::new(START),
            board: StatusBoard::new(UnixMillis(START.0 - 3 * 24 * 3_600_000)),
            scrapes: Scrapes::new(),
            clock: clock.clone(),
        };
        live_a_day(&router, day);
        let server = HttpServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.local_addr().unwrap();
        let lifecycle = Lifecycle::new();
        let stop = lifecycle.stops(Duty::Serve).soft.clone();
        lifecycle.spawn(Duty::Serve, "http", server.serve(router.clone(), stop));
        Self { address, router, _lifecycle: lifecycle }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn live_a_day(router: &Router, day: Day) {
    let Router { metrics, board, clock, .. } = router;
    let with_trouble = day != Day::Well;
    if day == Day::TroubledAmongMany {
        for number in 1..=OTHER_POOLS {
            let id = other_pool(number);
            let account_id = Some(format!("2109876543{number:02}"));
            metrics.add_pool(&PoolIdentity {
                id: id.clone(),
                name: format!("brand-{number}"),
                region: "eu-central-1".into(),
                account_id: account_id.clone(),
            });
            metrics.poll_objective(&id, Duration::from_secs(3600));
            metrics.pool_up(&id, true);
            metrics.users(&id, UserCounts { ok: 900 + u64::from(number) * 37, missing: 0, failing: 0 });
            metrics.oldest_poll(&id, Some(START.plus(Duration::from_secs(u64::from(number) * 30))));
            metrics.api_budget(account_id.as_deref(), "eu-central-1", 5.0);
        }
    }
    let mut pools = vec![("eu-west-1_Customers", "customers"), ("eu-west-1_Partners", "partners")];
    if with_trouble {
        pools.push(("us-east-1_Staff", "staff"));
    }
    for (id, name) in &pools {
        metrics.add_pool(&PoolIdentity {
            id: (*id).into(),
            name: (*name).into(),
            region: id.split('_').next().unwrap().into(),
            account_id: (*name != "staff").then(|| "123456789012".into()),
        });
        metrics.poll_objective(id, Duration::from_secs(3600));
    }
    // The 23 hours before the last, with a calm night, up to the totals at its beginning.
    let grown = |step: u64| step * 2 + step.saturating_sub(150) * 6 + step.saturating_sub(220) * 16;
    let steps = 23 * 12_u64;
    for step in 0..=steps {
        let now = UnixMillis(START.0 - 23 * 3_600_000).plus(Duration::from_secs(step * 300));
        for ((id, _), [passed, failed, risks]) in pools.iter().zip([[48_211, 3_102, 41], [9_127, 611, 3]]) {
            let so_far = |total: u64| total * grown(step) / grown(steps);
            let signed_in = [("Pass", passed), ("Fail", failed)]
                .map(|(response, total)| (outcome("SignIn", response), so_far(total)));
            metrics.totals(id, &[(risk(), so_far(risks))]);
            metrics.totals(id, &signed_in);
        }
        board.note_counts(metrics, now);
    }
    let mut totals = [[48_211_u64, 3_102, 41], [9_127, 611, 3]];
    let call = |outcome, calls: u64| {
        for _ in 0..calls {
            let took = Duration::from_millis(60);
            metrics.api_request(Some("123456789012"), "eu-west-1", Operation::AdminListUserAuthEvents, outcome, took);
        }
    };
    for tick in 0..=720_u64 {
        let now = START.plus(Duration::from_secs(tick * 5));
        clock.set(now);
        // A morning with growing traffic and a password attack in the middle.
        let wave = 4 + tick / 120 + (tick * 7919 % 11) / 3;
        let attack = if with_trouble && (330..390).contains(&tick) { 9 + tick % 7 } else { 0 };
        let [customers, partners] = &mut totals;
        *customers = [customers[0] + wave, customers[1] + wave / 5 + attack, customers[2] + attack / 12];
        *partners = [partners[0] + wave / 4, partners[1] + u64::from(tick % 9 == 0), partners[2]];
        for ((id, _), [passed, failed, risks]) in pools.iter().zip(totals) {
            metrics.totals(
                id,
                &[(outcome("SignIn", "Pass"), passed), (outcome("SignIn", "Fail"), failed), (risk(), risks)],
            );
            let others = [
                (outcome("SignUp", "Pass"), 412),
                (outcome("SignUp", "InProgress"), 37),
                (outcome("ForgotPassword", "Pass"), 95),
            ];
            metrics.totals(id, &others);
            metrics.event_delay(id, Duration::from_secs(4 + tick % 40));
        }
        // The other pools of a large deployment.
        if day == Day::TroubledAmongMany && tick % 30 == 0 {
            for number in 1..=OTHER_POOLS {
                let passed = 4_000 + u64::from(number) * (91 + tick / 6) + wave;
                metrics.totals(
                    &other_pool(number),
                    &[(outcome("SignIn", "Pass"), passed), (outcome("SignIn", "Fail"), passed / 20)],
                );
            }
        }
        call(CallOutcome::Ok, 25);
        if with_trouble && (500..520).contains(&tick) {
            call(CallOutcome::Throttled, 1);
        }
        board.note_counts(metrics, now);
    }
    let now = clock.now();
    let ago = |seconds| now.minus(Duration::from_secs(seconds));
    for (index, (id, _)) in pools[..2].iter().enumerate() {
        metrics.pool_up(id, true);
        let ok = [18_412, 1_270][index];
        metrics.users(id, UserCounts { ok, missing: [12, 0][index], failing: 0 });
        metrics.oldest_poll(id, Some(ago(if with_trouble && index == 0 { 4_400 } else { 1_900 })));
        metrics.forecast(
            id,
            PollForecast {
                round: Some(Duration::from_secs(3_936)),
                event_delay: Some(Duration::from_secs(41)),
                required_per_second: Some([if with_trouble { 5.1 } else { 3.9 }, 0.4][index]),
            },
        );
        metrics.discovery_succeeded(id, ago(420));
        metrics.catching_up(id, index == 0);
    }
    board.backlog_walks(pools[0].0, 3);
    metrics.api_budget(Some("123456789012"), "eu-west-1", if with_trouble { 3.6 } else { 5.0 });
    for env in [Stage::Poll, Stage::Commit, Stage::Deliver] {
        metrics.progress(env, ago(1));
    }
    metrics.outbox_limit(1 << 30);
    metrics.quarantined_records(0);
    metrics.state_size(87 << 20);
    board.ready();
    metrics.outbox(OutboxSize { records: 37, bytes: 41 << 10, oldest: Some(ago(1)) });
    board.delivered(ago(1));
    if with_trouble {
        let (staff, users) = (pools[2].0, UserCounts { ok: 312, missing: 0, failing: 0 });
        metrics.pool_up(staff, false);
        metrics.users(staff, users);
        metrics.oldest_poll(staff, Some(ago(2_760)));
        let denied = "AdminListUserAuthEvents: AccessDeniedException: the caller may not do this in this pool";
        (0..14).for_each(|minute| board.pool_error(staff, denied, ago(1_000 - minute * 60)));
        board.delivery_error("503 Service Unavailable: <html>upstream</html>", ago(95));
        metrics.outbox(OutboxSize { records: 18_204, bytes: 412 << 20, oldest: Some(ago(1_260)) });
        metrics.paused(PauseReason::OutboxFull, false);
        board.delivery_error("connection refused", ago(0));
    }
}

/// Runs chromium with an empty profile. Returns its output and its errors.
fn chromium(size: (u32, u32), dark: bool, arguments: &[&str]) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    // This sets the page's preferred colour scheme. It does not filter the colours.
    let scheme = format!("--blink-settings=preferredColorScheme={}", u32::from(!dark));
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={},{}", size.0, size.1))
        .arg(scheme)
        .args(arguments)
        .env("HOME", profile.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    assert!(output.status.success(), "{}", text(output.stderr));
    (text(output.stdout), text(output.stderr))
}

/// The width and height in the header of a PNG.
fn png_size(file: &Path) -> (u32, u32) {
    let bytes = std::fs::read(file).unwrap();
    assert!(bytes.starts_with(b"\x89PNG"));
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_the_page_and_finds_nothing_to_refuse() {
    if !peers::has("chromium") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("SCREENSHOTS");
    let folder = kept.as_deref().map_or(folder.path(), Path::new);
    for (name, day, size, dark) in [
        ("status-light.png", Day::Troubled, DESK, false),
        ("status-dark.png", Day::Troubled, DESK, true),
        ("status-phone.png", Day::Troubled, PHONE, false),
        ("status-well.png", Day::Well, (DESK.0, 1200), false),
        ("status-many.png", Day::TroubledAmongMany, (DESK.0, 900), false),
    ] {
        let world = BusyExporter::new(day).await;
        let file = folder.join(name);
        let shot = format!("--screenshot={}", file.display());
        let (_, said) = chromium(size, dark, &[&shot, &world.url("/?still")]);
        for refusal in ["Refused", "violates", "CONSOLE", "ERR_"] {
            assert!(!said.contains(refusal), "{said}");
        }
        assert_eq!(png_size(&file), size, "{name}");
        let bytes = std::fs::metadata(&file).unwrap().len();
        assert!((10_000..400_000).contains(&bytes), "{name} has {bytes} bytes");
        assert!(world.router.board.is_ready().is_ok());
    }
}

/// Measurements in the browser: the width by which the page exceeds its window, and texts of too little contrast with
/// their background (WCAG 2.2, 1.4.3: 4.5 to 1).
const MEASURE: &str = r#"<script>
const rgb = text => (text.match(/[\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length == 3 || c[3] > 0) return c; } return [255, 255, 255]; };
const faint = [...document.querySelectorAll("body *")].filter(e => !e.closest("script,style"))
  .filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
  .map(e => { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
  return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.textContent.trim()]; }).filter(([ratio]) => ratio < 4.5);
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
parent.postMessage({ over: document.documentElement.scrollWidth - innerWidth, dark, faint }, "*");
</script>"#;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_cut_off_on_a_telephone_and_every_word_can_be_read_in_the_light_and_in_the_dark() {
    if !peers::has("chromium") {
        return;
    }
    for day in [Day::Troubled, Day::TroubledAmongMany] {
        let page = page(&BusyExporter::new(day).await).await;
        // What is folded is measured, too.
        measure(&page.replace("<details", "<details open"));
    }
}

fn measure(page: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    std::fs::write(&file, page.replace("</body>", &format!("{MEASURE}</body>"))).unwrap();
    // A window is at least 500 pixels wide. So the page is measured in a frame.
    let frame = folder.path().join("frame.html");
    for (width, dark) in [(360, false), (360, true), (1200, false)] {
        let listen = "onmessage = event => document.body.textContent = `measured ${JSON.stringify(event.data)} so far`";
        let text =
            format!("<script>{listen}</script><iframe src=\"page.html\" width=\"{width}\" height=\"800\"></iframe>");
        std::fs::write(&frame, text).unwrap();
        let (dom, said) = chromium(DESK, dark, &["--dump-dom", &format!("file://{}", frame.display())]);
        let measured = dom.rsplit("measured ").next().and_then(|rest| rest.split_once(" so far"));
        let (measured, _) = measured.unwrap_or_else(|| panic!("{dom}\n{said}"));
        assert_eq!(measured, format!("{{\"over\":0,\"dark\":{dark},\"faint\":[]}}"), "{width} wide");
    }
}

#[tokio::test]
async fn a_red_number_has_its_reason_in_words_and_a_word_its_meaning() {
    let page = page(&BusyExporter::new(Day::Troubled).await).await;
    for reason in [
        "late: 5.5/s would keep the objective, and the budget is 3.6/s",
        "too little: the objective takes 5.5/s",
        "throttled: others use the quota, too",
        "since then: connection refused",
    ] {
        assert!(page.contains(reason), "{reason}: {page}");
    }
    // Every coloured bar and value is followed by a note of the same colour.
    for (class, number) in [("bad", 1), ("warn", 0)] {
        let bars: Vec<_> = page.split(&format!("<svg class=\"bar {class}\"")).skip(1).collect();
        assert_eq!(bars.len(), number, "{class}");
        let note = format!("</svg></dd><dd class=\"{class}\">");
        assert!(bars.iter().all(|rest| rest.split("<div>").next().unwrap().contains(&note)), "{bars:?}");
    }
    assert!(page.contains("Active users are polled more often.\">round</abbr>"), "{page}");
    assert!(page.contains("<dt>round</dt><dd>The time to poll every user once"), "without a mouse: {page}");
    assert!(page.contains(" SignIn, 449 SignUp, 95 ForgotPassword</summary>"), "{page}");
    let row = page.split("<th scope=\"row\">SignUp</th>").nth(1).and_then(|rest| rest.split("</tr>").next()).unwrap();
    assert_eq!(row, [412, 0, 37, 0, 449].map(|count| format!("<td class=\"number\">{count}</td>")).concat());
    for title in ["Last hour: ", "Last 24 hours: "] {
        assert_eq!(page.matches(&format!("aria-label=\"{title}")).count(), 2, "one for each pool with events");
    }
    assert_eq!(page.matches("<th").count(), page.matches("<th scope=").count() + page.matches("<thead").count());
    assert!(!page.contains("<script"));
}

#[tokio::test]
async fn many_pools_have_a_table_with_the_worst_first_and_the_cards_of_healthy_pools_are_folded() {
    let page = page(&BusyExporter::new(Day::TroubledAmongMany).await).await;
    let table = page.split("50 pools, the worst first").nth(1).and_then(|rest| rest.split("</table>").next()).unwrap();
    let links: Vec<_> = table.split("<a href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(links.len(), 50);
    let expected = ["us-east-1_Staff", "eu-west-1_Customers", "eu-central-1_Brand1", "eu-central-1_Brand2"];
    assert_eq!(links[..4], expected, "an error, a warning, and then by the oldest poll");
    assert!(table.contains("Error: ") && table.contains("Warning: "), "{table}");
    for pool in &links {
        assert_eq!(page.matches(&format!("id=\"{pool}\"")).count(), 1, "{pool} is linked to");
    }
    let folded = page.matches("<details class=\"card\"><summary><h2>").count();
    assert_eq!(folded, 48);
    assert!(page.len() < PAGE_BYTES_MAX, "{} bytes", page.len());
}

#[tokio::test]
async fn a_page_without_a_fault_shows_no_fault_and_contradicts_itself_nowhere() {
    let world = BusyExporter::new(Day::Well).await;
    world.router.board.left_out("eu-west-1_Customers", Some(LeftOut { disabled: 7, federated: 15, excluded: 0 }));
    let page = page(&world).await;
    for class in ["\"bad\"", "\"warn\"", " bad\"", " warn\""] {
        assert!(!page.contains(class), "{class}: {page}");
    }
    assert!(page.contains("left out</abbr>: 7 disabled, 15 federated"), "{page}");
    assert!(page.contains("configuration loaded <time"), "{page}");
    assert!(!page.contains("Last delivery"), "a stage that had nothing to do has not delivered: {page}");
}

/// The page's text, over a socket.
async fn page(world: &BusyExporter) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    stream.write_all(b"GET /?still HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}
