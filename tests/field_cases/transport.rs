//! The connection to the receiver: certificates, proxies, variables for other programs, and texts that quote records.

use std::process::Output;
use std::sync::{Arc, Mutex};

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::world::{SimulatedPool, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

use crate::exporter::{self, Exporter};
use crate::receiver::{Pki, Receiver, Reply};
use crate::test_env::{MINUTE, TestEnv, all_live, now, said};

const POOL: &str = "eu-west-1_Transport";

/// The user of the quoted record.
const USER: &str = "zoë.ünal@example.com";

/// The parts of the record that no output may contain, plain and as JSON or a URL may encode them.
const QUOTED: [&str; 10] = [
    "zoë",
    "zo\\u00eb",
    "zo%C3%AB",
    "203.0.113.77",
    "Zweibrücken",
    "Zweibr",
    "Telephone of",
    "Absurdistan",
    "-11:37",
    "em/Dqy",
];

/// Adds a user with one event. Each personal member is a text that occurs nowhere else.
fn populate(world: &mut World) {
    world.add_pool(SimulatedPool::new(POOL));
    world.add_user(POOL, USER);
    arrive(world, USER);
}

fn arrive(world: &mut World, user: &str) {
    let mut event = world.sign_in(UnixMillis(now().0 - MINUTE));
    let context = event.context.as_mut().unwrap();
    context.ip_address = Some("203.0.113.77".into());
    context.device_name = Some("Telephone of Zoë".into());
    context.city = Some("Zweibrücken".into());
    context.country = Some("Absurdistan".into());
    context.timezone = Some("-11:37".into());
    world.arrive(POOL, user, &event);
}

/// A text with the lifetime of the test.
fn leaked(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// The ways in which receivers quote a record.
fn quotations() -> Vec<&'static str> {
    vec![
        "user.name zoë.ünal@example.com of Zweibrücken, Absurdistan, at 203.0.113.77 (-11:37) with Telephone of Zoë",
        r#"{"error":"no such label: zo\u00eb.\u00fcnal@example.com"}"#,
        // The value is where a long text is cut.
        leaked(format!("{}zoë.ünal@example.com{}", "x".repeat(250), "y".repeat(500))),
        "/push?user=zo%C3%AB.%C3%BCnal%40example.com",
        "payload: em/Dqy7DvG5hbEBleGFtcGxlLmNvbQ==",
        "Zweibr&uuml;cken is blocked",
    ]
}

fn shows_nothing(of: &str, text: &str) {
    for word in QUOTED {
        assert!(!text.to_lowercase().contains(&word.to_lowercase()), "{of} shows {word}:\n{text}");
    }
}

/// From reports about log stores that repeat the refused line in their error, also in a 503 or a 429 of a gateway. The
/// error was in the exporter's log and on its page, with the user's name and city.
#[tokio::test(flavor = "multi_thread")]
async fn a_receivers_text_that_quotes_a_record_is_shown_nowhere_at_any_answer() {
    let grpc = |text| [Reply::Code(Code::Unavailable, text), Reply::Code(Code::ResourceExhausted, text)];
    let http = |text| [Reply::Status(503, text), Reply::Status(429, text)];
    let last = "Telephone of Zoë has no access";
    for (over_grpc, last) in [(true, Reply::Code(Code::Unauthenticated, last)), (false, Reply::Status(401, last))] {
        for quotations in quotations().chunks(2) {
            let (receiver, protocol) =
                if over_grpc { (Receiver::grpc().await, "grpc") } else { (Receiver::http().await, "http/protobuf") };
            for (quotation, index) in quotations.iter().zip(0..) {
                let replies = if over_grpc { grpc(quotation) } else { http(quotation) };
                // RESOURCE_EXHAUSTED may mean the record's size, which another test covers.
                receiver.answer_next(replies[if over_grpc { 0 } else { index % 2 }].clone());
            }
            receiver.answer_always(last.clone());
            let env = TestEnv::set_for(receiver, protocol, &all_live(POOL), populate).await;
            let exporter = env.exporter();
            env.receiver.wait_for_exports(quotations.len() + 1).await;
            exporter.until_said(if over_grpc { "Unauthenticated" } else { "401 Unauthorized" });
            for path in ["/status", "/"] {
                shows_nothing(path, &exporter.get(path));
            }
            shows_nothing("the log", &exporter.log());
            assert!(exporter.log().contains("text withheld"), "{}", exporter.log());
        }
    }
}

/// From the same reports: the stored reason of a refused record named the user.
#[tokio::test(flavor = "multi_thread")]
async fn the_reason_of_a_quarantined_record_quotes_nothing_of_it() {
    let env = TestEnv::set(&all_live(POOL), |world| {
        populate(world);
        world.add_user(POOL, "other");
    })
    .await;
    let quotations = quotations();
    env.receiver.answer_by(move |records| {
        let is_guilty = records.iter().any(|record| record.text("user.name") == USER);
        if is_guilty { Reply::Code(Code::InvalidArgument, quotations[1]) } else { Reply::Ok }
    });
    let exporter = env.exporter();
    env.receiver.wait_for_exports(1).await;
    // The receiver accepts another record, so the refusal concerns this one.
    env.simulation.world(|world| arrive(world, "other"));
    exporter.until("one in quarantine", |scrape| scrape.sum("cognito_exporter_quarantined_records", &[]) > 0.5);
    shows_nothing("the log", &exporter.log());
    assert!(exporter.stop().success());
    for output in ["json", "table"] {
        let listed = text(&env.run(&["quarantine", "list", "--output", output]));
        assert!(listed.contains("InvalidArgument (text withheld"), "{listed}");
        shows_nothing("quarantine list", &listed);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap() + std::str::from_utf8(&output.stderr).unwrap()
}

/// An environment whose receiver uses TLS and requires a client certificate. The exporter's files are beside its
/// configuration.
async fn secured(over_grpc: bool, pki: &Pki) -> TestEnv {
    let (receiver, protocol) = if over_grpc {
        (Receiver::grpc_tls(pki).await, "grpc")
    } else {
        (Receiver::http_tls(pki).await, "http/protobuf")
    };
    let files =
        "ca_file = \"{directory}/ca.pem\"\ncert_file = \"{directory}/tls.crt\"\nkey_file = \"{directory}/tls.key\"\n";
    let env = TestEnv::set_for(receiver, protocol, &format!("{files}{}", all_live(POOL)), populate).await;
    provide(&env, pki);
    env
}

/// Replaces the exporter's certificate files, one after the other.
fn provide(env: &TestEnv, pki: &Pki) {
    for (name, from) in [("ca.pem", pki.ca_file()), ("tls.crt", pki.cert_file()), ("tls.key", pki.key_file())] {
        env.file(name, &std::fs::read_to_string(from).unwrap());
    }
}

/// From reports about clients that read their certificate once. It is renewed every day, and from some hour on the
/// receiver refuses the old one until a restart of the client.
#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificate_files_are_used_without_a_restart() {
    for over_grpc in [true, false] {
        let (before, after) = (Pki::new(true), Pki::new(true));
        let env = secured(over_grpc, &before).await;
        let exporter = env.exporter();
        env.receiver.wait_for(1).await;
        // Everything is replaced: authority, server certificate, client certificate.
        env.receiver.restart_as(Some(&after)).await;
        env.simulation.world(|world| arrive(world, USER));
        exporter.until_said("takes no records");
        provide(&env, &after);
        env.until_received(|records| records.len() >= 2).await;
        exporter.until_said("have changed; new connections use them");
        assert!(exporter.stop().success());
    }
}

/// From the same reports, where the renewal wrote an invalid certificate file: the client stopped.
#[tokio::test(flavor = "multi_thread")]
async fn unusable_certificate_files_are_told_once_and_the_last_ones_stay() {
    for over_grpc in [true, false] {
        let pki = Pki::new(true);
        let env = secured(over_grpc, &pki).await;
        let exporter = env.exporter();
        env.receiver.wait_for(1).await;
        env.file("tls.crt", "renewal failed");
        let told = || said(&exporter.log(), &["ERROR", "cannot be used", "otlp.cert_file"]).len();
        // The files are read before each export, and each event is one export.
        for record in 2.. {
            env.simulation.world(|world| arrive(world, USER));
            env.receiver.wait_for(record).await;
            if told() > 0 {
                break;
            }
        }
        provide(&env, &pki);
        let is_over = || exporter.log().contains("can be used again");
        while !is_over() {
            let records = env.receiver.records().len();
            env.simulation.world(|world| arrive(world, USER));
            env.receiver.wait_for(records + 1).await;
        }
        assert_eq!(told(), 1, "{}", exporter.log());
        assert!(exporter.stop().success());
    }
}

/// From reports about pods whose platform sets OTEL_* variables for every program. One variable that this program could
/// not parse made it restart in a loop.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_variables_of_the_specification_are_left_out_with_a_warning_each() {
    const VARIABLES: [(&str, &str); 9] = [
        ("OTEL_RESOURCE_ATTRIBUTES", "team=50%off,lone,deployment.environment.name=test"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nonexistent/ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/nonexistent/tls.crt"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/nonexistent/tls.key"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "ten"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "1h"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-good=1,lone,s%zz=hunter2,x y=2"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier/pigeon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
    ];
    for protocol in ["grpc", "http/protobuf"] {
        let receiver = if protocol == "grpc" { Receiver::grpc().await } else { Receiver::http().await };
        let env = TestEnv::set_for(receiver, protocol, &all_live(POOL), populate).await;
        let mut command = env.command();
        command.envs(VARIABLES);
        let exporter = Exporter::started(command);
        let records = env.receiver.wait_for(1).await;
        assert_eq!(records[0].resource["deployment.environment.name"], "test");
        assert!(!records[0].resource.contains_key("team"));
        assert_eq!(env.receiver.exports()[0].headers["x-good"], "1");
        let log = exporter.log();
        for (variable, _) in VARIABLES {
            let is_asked_for = variable != "OTEL_EXPORTER_OTLP_PROTOCOL";
            let told = said(&log, &["WARN", "malformed environment variable", &format!("variable={variable:?}")]);
            assert_eq!(told.len(), usize::from(is_asked_for), "{variable}: {log}");
        }
        assert!(!log.contains("hunter2"), "{log}");
        assert!(exporter.stop().success());
    }
}

/// The exporter's own file is still strict, and so is an endpoint: without one no record would be sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_endpoint_and_a_malformed_file_end_the_start() {
    let env = TestEnv::set(&all_live(POOL), populate).await;
    for (file, variable) in [
        ("[otlp]\nendpoint = \"http://localhost:1\"\ntimeout = \"ten\"\n", ("OTEL_EXPORTER_OTLP_TIMEOUT", "20")),
        ("", ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317")),
    ] {
        let config = exporter::configure(&env.path("."), &format!("{file}{}", all_live(POOL)));
        let mut command = exporter::command(&env.simulation.url());
        let output = command.args(["run", "--config"]).arg(config).env(variable.0, variable.1).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    }
}

/// A proxy on loopback that keeps the head of each request.
struct LoopbackProxy {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl LoopbackProxy {
    #[expect(clippy::disallowed_methods, reason = "a test's proxy; the test's runtime ends it")]
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://user:hunter2@{}", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = heads.clone();
        tokio::task::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::task::spawn(relay(client, kept.clone()));
            }
        });
        Self { url, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// Forwards one connection: a tunnel, or requests with absolute URLs, all to one target.
async fn relay(mut client: TcpStream, heads: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut read = Vec::new();
    while !read.windows(4).any(|end| end == b"\r\n\r\n") {
        read.push(client.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&read).into_owned();
    heads.lock().unwrap().push(head.clone());
    let target = head.split(' ').nth(1)?.to_owned();
    let is_tunnel = head.starts_with("CONNECT ");
    let authority = if is_tunnel { target } else { target.split('/').nth(2)?.to_owned() };
    let mut server = TcpStream::connect(authority).await.ok()?;
    if is_tunnel {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok()?;
    } else {
        server.write_all(&read).await.ok()?;
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}

/// From reports about networks that allow outgoing connections only through a proxy: AWS was reached through it, and
/// the receiver was not.
#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_is_reached_through_the_environments_proxy() {
    let pki = Pki::new(false);
    for (protocol, is_secure, variable, begins) in [
        ("grpc", true, "HTTPS_PROXY", "CONNECT localhost:"),
        ("http/protobuf", true, "https_proxy", "CONNECT localhost:"),
        ("grpc", false, "HTTP_PROXY", "CONNECT localhost:"),
        ("http/json", false, "ALL_PROXY", "POST http://localhost:"),
    ] {
        let receiver = match (protocol, is_secure) {
            ("grpc", true) => Receiver::grpc_tls(&pki).await,
            ("grpc", false) => Receiver::grpc().await,
            (_, true) => Receiver::http_tls(&pki).await,
            (_, false) => Receiver::http().await,
        };
        let proxy = LoopbackProxy::start().await;
        let ca = if is_secure { format!("ca_file = {:?}\n", pki.ca_file()) } else { String::new() };
        let env = TestEnv::set_for(receiver, protocol, &format!("{ca}{}", all_live(POOL)), populate).await;
        // The simulated Cognito is at this address, and the receiver at a host name.
        let start = |no_proxy: &str| {
            let mut command = env.command();
            command.env(variable, &proxy.url).env("NO_PROXY", no_proxy);
            Exporter::started(command)
        };
        let exporter = start("127.0.0.1");
        env.receiver.wait_for(1).await;
        let heads = proxy.heads();
        assert!(heads[0].starts_with(begins), "{protocol}: {heads:?}");
        let authorization = "proxy-authorization: basic dxnlcjpodw50zxiy";
        assert!(heads[0].to_lowercase().contains(authorization), "{protocol}: {heads:?}");
        let log = exporter.log();
        assert!(log.contains("proxy=\"http://127.0.0.1:") && !log.contains("hunter2"), "{log}");
        assert!(exporter.stop().success());

        // NO_PROXY alone decides which hosts bypass the proxy, loopback or not.
        let spared = start("127.0.0.1, localhost");
        env.simulation.world(|world| arrive(world, USER));
        env.receiver.wait_for(2).await;
        assert_eq!(proxy.heads().len(), heads.len(), "{protocol}: {:?}", proxy.heads());
        assert!(spared.stop().success());
    }
}

/// From the reports about certificates, where a connection that stays open for days kept the old one in use.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_former_certificate_are_left() {
    for over_grpc in [true, false] {
        let pki = Pki::new(true);
        let env = secured(over_grpc, &pki).await;
        // Each connection is a tunnel, and so can be counted.
        let proxy = LoopbackProxy::start().await;
        let mut command = env.command();
        command.env("HTTPS_PROXY", &proxy.url);
        let exporter = Exporter::started(command);
        env.receiver.wait_for(1).await;
        assert_eq!(proxy.heads().len(), 1);
        let certificate = std::fs::read_to_string(pki.cert_file()).unwrap();
        env.file("tls.crt", &format!("renewed\n{certificate}"));
        let changed = || exporter.log().contains("have changed; new connections use them");
        while !changed() {
            let records = env.receiver.records().len();
            env.simulation.world(|world| arrive(world, USER));
            env.receiver.wait_for(records + 1).await;
        }
        let records = env.receiver.records().len();
        env.simulation.world(|world| arrive(world, USER));
        env.receiver.wait_for(records + 1).await;
        assert_eq!(proxy.heads().len(), 2, "{}", exporter.log());
        assert!(exporter.stop().success());
    }
}

/// From reports about receivers whose URL contains a token that was printed into a pipeline's public log; and from
/// attacks on terminals through names that a service repeats.
#[tokio::test(flavor = "multi_thread")]
async fn check_prints_no_token_of_a_url_and_nothing_that_commands_a_terminal() {
    let env = TestEnv::set_for(Receiver::http().await, "http/protobuf", &all_live(POOL), |world| {
        populate(world);
        world.pool_mut(POOL).tier = "PL\u{1b}[2J\u{202e}US".into();
    })
    .await;
    let endpoint = env.receiver.endpoint();
    for answer in [
        Reply::Ok,
        Reply::Status(503, "busy \u{1b}[2J\u{202e}"),
        Reply::Raw { status: 302, headers: vec![("location", "https://login.example/s3cret?token=s3cret")], body: "" },
    ] {
        env.receiver.answer_always(answer);
        let mut command = exporter::command(&env.simulation.url());
        command.arg("check").arg("--config").arg(env.config());
        command.env("COGNITO_EXPORTER_OTLP__ENDPOINT", format!("{endpoint}/push/s3cret"));
        let checked = text(&command.output().unwrap());
        assert!(checked.contains(&format!("otlp.endpoint {endpoint}: ")), "{checked}");
        assert!(!checked.contains("s3cret"), "{checked}");
        assert!(!checked.contains(['\u{1b}', '\u{202e}']), "{checked:?}");
        assert!(checked.contains("PL\u{fffd}[2J\u{fffd}US"), "{checked}");
    }
}
