//! TLS and authentication as real clients use them: curl and Prometheus against the server, while its certificates and
//! users change.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cognito_auth_core::event::UnixMillis;
use cognito_auth_exporter::http::{ClientAuth, HttpServer, Pem, Router, Scrapes, Web, WebConfig, load_web_config};
use cognito_auth_exporter::lifecycle::{Clock, Duty, Lifecycle};
use cognito_auth_exporter::metrics::Metrics;
use cognito_auth_exporter::status::StatusBoard;
use cognito_auth_simulator::world::SimulatedPool;
use cognito_auth_simulator::{Options, Simulation};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::exporter;
use crate::exporter::{Exporter, PATIENCE};
use crate::peers;
use crate::prometheus::Server;

/// The lowest bcrypt cost.
const COST: u32 = 4;

pub(crate) const TLS: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";

/// A folder with an authority `ca.pem`, a server certificate for `localhost`, a client certificate, and one of another
/// authority.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let issuer = authority(folder.path(), "ca.pem");
    issue(&issuer, folder.path(), "server", "localhost");
    issue(&issuer, folder.path(), "client", "prometheus");
    let other = authority(folder.path(), "other-ca.pem");
    issue(&other, folder.path(), "stranger", "prometheus");
    folder
}

fn authority(folder: &Path, name: &str) -> Issuer<'static, KeyPair> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    std::fs::write(folder.join(name), params.self_signed(&key).unwrap().pem()).unwrap();
    Issuer::new(params, key)
}

fn issue(issuer: &Issuer<'static, KeyPair>, folder: &Path, file: &str, name: &str) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, issuer).unwrap();
    std::fs::write(folder.join(format!("{file}.pem")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
}

fn users(pairs: &[(&str, &str)]) -> String {
    let hash = |password: &str| bcrypt::hash(password, COST).unwrap();
    let lines: String = pairs.iter().map(|(name, password)| format!("  {name}: {}\n", hash(password))).collect();
    format!("basic_auth_users:\n{lines}")
}

/// A server that runs beside the test.
struct WebServer {
    address: SocketAddr,
    folder: TempDir,
    web: Web,
    lifecycle: Lifecycle,
}

impl WebServer {
    async fn new(text: &str) -> Self {
        Self::within(folder(), text).await
    }

    async fn within(folder: TempDir, text: &str) -> Self {
        let file = folder.path().join("web.yml");
        std::fs::write(&file, text).unwrap();
        let start = UnixMillis(1_723_136_049_929);
        let router = Router {
            metrics: Metrics::new(start),
            board: StatusBoard::new(start),
            scrapes: Scrapes::new(),
            clock: Clock::manual(start),
        };
        router.board.ready();
        let web = Web::load(Some(&file)).unwrap();
        let server = HttpServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().behind(web.clone());
        let address = server.local_addr().unwrap();
        let lifecycle = Lifecycle::new();
        let stop = lifecycle.stops(Duty::Serve).soft.clone();
        lifecycle.spawn(Duty::Serve, "http", server.serve(router, stop.clone()));
        lifecycle.spawn(Duty::Serve, "web configuration", web.clone().keep(stop));
        Self { address, folder, web, lifecycle }
    }

    /// Requests a path with curl. Returns the status (000 without a connection), and head and body.
    fn curl(&self, scheme: &str, path: &str, arguments: &[&str]) -> (String, String) {
        let port = self.address.port();
        let output = Command::new("curl")
            .current_dir(self.folder.path())
            .args(["--silent", "--include", "--max-time", "60", "--noproxy", "*", "--cacert", "ca.pem"])
            .args(["--connect-to", &format!("localhost:{port}:127.0.0.1:{port}"), "--write-out", "\n%{http_code}"])
            .args(arguments)
            .arg(format!("{scheme}://localhost:{port}{path}"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (answer, status) = text.rsplit_once('\n').unwrap();
        (status.to_owned(), answer.to_owned())
    }

    fn status(&self, arguments: &[&str]) -> String {
        self.curl("https", "/metrics", arguments).0
    }

    /// Waits until a request with these arguments has this status.
    async fn until(&self, status: &str, arguments: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        while self.status(arguments) != status {
            assert!(Instant::now() < deadline, "{status} did not come: {}", self.status(arguments));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.path().join(file), text).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_served_over_tls_by_who_the_certificate_says() {
    if !peers::has("curl") {
        return;
    }
    let world = WebServer::new(TLS).await;
    let (status, answer) = world.curl("https", "/metrics", &[]);
    assert_eq!(status, "200", "{answer}");
    assert!(answer.contains("cognito_exporter_build_info"));
    assert_eq!(world.status(&["--tls-max", "1.2"]), "200");
    assert_eq!(world.status(&["--tlsv1.3"]), "200");
    assert_eq!(world.status(&["--cacert", "other-ca.pem"]), "000");
    let (status, answer) = world.curl("http", "/metrics", &[]);
    assert_eq!(status, "400");
    assert!(answer.contains("this port speaks TLS: use https://"), "{answer}");
    assert_eq!(world.web.scheme(), "https");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_ciphers_are_those_that_were_chosen() {
    if !peers::has("curl") {
        return;
    }
    let world = WebServer::new(&format!("{TLS}  min_version: TLS13\n  curve_preferences: [CurveP256]\n")).await;
    assert_eq!(world.status(&[]), "200");
    assert_eq!(world.status(&["--tls-max", "1.2"]), "000");
    assert_eq!(world.status(&["--curves", "X25519"]), "000");
    let one = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
    let world = WebServer::new(&format!("{TLS}  max_version: TLS12\n  cipher_suites: [{one}]\n")).await;
    assert_eq!(world.status(&["--ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384"]), "200");
    assert_eq!(world.status(&["--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"]), "000");
    assert_eq!(world.status(&["--tlsv1.3"]), "000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_of_our_authority_is_sent_away() {
    if !peers::has("curl") {
        return;
    }
    let ours = ["--cert", "client.pem", "--key", "client.key"];
    let strange = ["--cert", "stranger.pem", "--key", "stranger.key"];
    let asked = |kind: &str| format!("{TLS}  client_auth_type: {kind}\n  client_ca_file: ca.pem\n");
    let world = WebServer::new(&asked("RequireAndVerifyClientCert")).await;
    assert_eq!([world.status(&ours), world.status(&strange), world.status(&[])], ["200", "000", "000"]);
    let world = WebServer::new(&asked("VerifyClientCertIfGiven")).await;
    assert_eq!([world.status(&ours), world.status(&strange), world.status(&[])], ["200", "000", "200"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_asks_for_a_password_and_headers_go_with_every_answer() {
    if !peers::has("curl") {
        return;
    }
    let headers = "http_server_config:\n  http2: false\n  headers:\n    Strict-Transport-Security: max-age=60\n    \
                   X-Frame-Options: deny\n    Content-Security-Policy: \"\"\n";
    let world =
        WebServer::new(&format!("{TLS}{headers}{}", users(&[("prometheus", "s:cret ü"), ("ann", "her own")]))).await;
    for path in ["/", "/status", "/metrics", "/livez", "/healthz", "/readyz", "/nothing"] {
        let (status, answer) = world.curl("https", path, &[]);
        assert_eq!(status, "401", "{path}");
        assert!(answer.to_lowercase().contains("www-authenticate: basic realm="), "{answer}");
        assert!(answer.ends_with("unauthorized\n"), "nothing but that: {answer}");
        let (status, answer) = world.curl("https", path, &["--user", "prometheus:s:cret ü"]);
        assert_eq!(status, if path == "/nothing" { "404" } else { "200" }, "{path}");
        assert!(answer.to_lowercase().contains("strict-transport-security: max-age=60"), "{answer}");
        assert!(answer.to_lowercase().contains("x-frame-options: deny"), "{answer}");
        assert_eq!(answer.to_lowercase().contains("content-security-policy: default-src 'none'"), path == "/");
    }
    for wrong in ["prometheus:secret", "ann:s:cret ü", "nobody:her own", "prometheus:"] {
        assert_eq!(world.status(&["--user", wrong]), "401", "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_and_another_password_come_into_force_and_broken_files_do_not() {
    if !peers::has("curl") {
        return;
    }
    let world = WebServer::new(&format!("{TLS}{}", users(&[("ann", "first")]))).await;
    assert_eq!(world.status(&["--user", "ann:first"]), "200");
    let issuer = authority(world.folder.path(), "new-ca.pem");
    issue(&issuer, world.folder.path(), "server", "localhost");
    let new = ["--user", "ann:first", "--cacert", "new-ca.pem"];
    world.until("200", &new).await;
    assert_eq!(world.status(&["--user", "ann:first"]), "000", "the old authority's certificate is gone");
    world.write("web.yml", &format!("{TLS}{}", users(&[("ann", "second")])));
    world.until("401", &new).await;
    let new = ["--user", "ann:second", "--cacert", "new-ca.pem"];
    assert_eq!(world.status(&new), "200");
    let key = std::fs::read_to_string(world.folder.path().join("server.key")).unwrap();
    world.write("server.key", "no key");
    world.web.reload_changed();
    assert_eq!(world.status(&new), "200", "what was in force stays");
    world.write("server.key", &key);
    world.write("web.yml", "tls_server_conf: {}\n");
    world.web.reload_changed();
    assert_eq!(world.status(&new), "200", "what was in force stays");
    world.write("web.yml", &format!("{TLS}{}", users(&[("ann", "third")])));
    world.until("200", &["--user", "ann:third", "--cacert", "new-ca.pem"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_no_longer_ask_may_not_on_an_open_connection_either() {
    let folder = folder();
    let world = WebServer::within(folder, &users(&[("ann", "first")])).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let mut ask = async || {
        use tokio::io::AsyncWriteExt as _;
        let ask = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic YW5uOmZpcnN0\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut answer = vec![];
        while !answer.ends_with(b"ok\n") && !answer.ends_with(b"unauthorized\n") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
        answer.starts_with(b"HTTP/1.1 200")
    };
    assert!(ask().await);
    world.write("web.yml", &users(&[("ann", "second")]));
    world.web.reload_changed();
    assert!(!ask().await);
}

#[tokio::test]
async fn a_reload_never_removes_tls_client_certificates_or_passwords() {
    let asked = |kind: &str| format!("{TLS}  client_auth_type: {kind}\n  client_ca_file: ca.pem\n");
    let (required, users) = (asked("RequireAndVerifyClientCert"), users(&[("ann", "first")]));
    let whole = format!("{required}{users}");
    let folder = folder();
    let file = folder.path().join("web.yml");
    let load = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Web::load(Some(&file)).unwrap()
    };
    for (from, to, removed) in [
        (&whole, &required, "basic_auth_users "),
        (&whole, &users, "tls_server_config, tls_server_config.client_auth_type "),
        (&whole, &format!("{TLS}{users}"), "tls_server_config.client_auth_type "),
        (&required, &asked("VerifyClientCertIfGiven"), "tls_server_config.client_auth_type "),
        (&users, &"{}\n".to_owned(), "basic_auth_users "),
    ] {
        let refused = load(from).allows(&load(to)).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("{removed}would be removed")), "{refused}");
        assert!(refused.contains("restart the exporter"), "{refused}");
        assert!(load(to).allows(&load(from)).is_ok(), "more protection is always welcome");
    }
    assert!(load(&whole).allows(&Web::default()).is_err());
    // An automatic reload does the same.
    let web = load(&whole);
    std::fs::write(&file, "{}\n").unwrap();
    web.reload_changed();
    assert_eq!(web.scheme(), "https");
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_without_a_password_use_up_nobodys_requests() {
    if !peers::has("curl") {
        return;
    }
    let world =
        WebServer::new(&format!("rate_limit:\n  interval: 1h\n  burst: 2\n{}", users(&[("ann", "first")]))).await;
    let status = |arguments: &[&str]| world.curl("http", "/metrics", arguments).0;
    (0..3).for_each(|_| assert_eq!(status(&["--user", "ann:wrong"]), "401"));
    (0..3).for_each(|_| assert_eq!(status(&[]), "401"));
    let right = ["--user", "ann:first"];
    assert_eq!([status(&right), status(&right), status(&right)], ["200", "200", "429"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_never_finishes_its_handshakes_keeps_nobody_from_the_metrics() {
    if !peers::has("curl") {
        return;
    }
    let world = WebServer::new(TLS).await;
    let mut crowd = vec![];
    for number in 0..300_usize {
        let stream = TcpStream::connect(world.address).await.unwrap();
        let _ = stream.try_write(&b"\x16\x03\x01\x02\x00\x01\x00"[..number % 8]);
        crowd.push(stream);
        if number % 100 == 99 {
            assert_eq!(world.status(&[]), "200", "beside {number} others");
        }
    }
}

/// The runtime's clock is paused and advances by itself as soon as every task waits, also while the kernel carries bytes.
/// So the time until the server ends the handshake is not measured, only that it does.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_never_ends_is_cut() {
    let world = WebServer::new(TLS).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let mut answer = vec![];
    let cut = tokio::time::timeout(Duration::from_hours(24), stream.read_to_end(&mut answer));
    assert!(cut.await.is_ok(), "it is not cut within a day");
    drop(world.lifecycle);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_the_limit_are_told_to_wait() {
    if !peers::has("curl") {
        return;
    }
    let world = WebServer::new("rate_limit:\n  interval: 1h\n  burst: 2\n").await;
    let status = || world.curl("http", "/metrics", &[]).0;
    assert_eq!([status(), status(), status()], ["200", "200", "429"]);
}

/// Waits until the condition holds for the target in Prometheus.
fn until(prometheus: &Server, what: &str, is_so: impl Fn(&str, &str) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let target = prometheus.target();
        if target.as_ref().is_some_and(|(health, error)| is_so(health, error)) {
            return;
        }
        assert!(Instant::now() < deadline, "{what} did not come: {target:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_the_built_exporter_with_a_certificate_and_a_password() {
    if !peers::has("curl") || !peers::has("prometheus") {
        return;
    }
    let folder = folder();
    let asked = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";
    let web = format!("{TLS}{asked}{}", users(&[("prometheus", "secret")]));
    std::fs::write(folder.path().join("web.yml"), web).unwrap();
    let simulation = Simulation::start(Options::default()).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new("eu-west-1_Web1"));
    });
    let text = "[[pools]]\nid = \"eu-west-1_Web1\"\nall_users = true\n";
    let config = exporter::configure(folder.path(), text);
    let web_config_file = format!("[http]\nweb_config_file = {:?}\n", folder.path().join("web.yml"));
    let text = std::fs::read_to_string(&config).unwrap().replace("[http]\n", &web_config_file);
    std::fs::write(&config, text).unwrap();
    let exporter = Exporter::start(&config, &simulation.url());
    let target = format!(
        "  scheme: https\n  static_configs: [{{targets: ['{}']}}]\n  \
         tls_config: {{ca_file: ca.pem, cert_file: client.pem, key_file: client.key, server_name: localhost}}\n",
        exporter.address()
    );
    let with_password = |password: &str| {
        let auth = format!("  basic_auth: {{username: prometheus, password: {password}}}\n");
        let config = format!("global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: exporter\n{target}{auth}");
        Server::prometheus_with(folder.path(), &config)
    };
    until(&with_password("secret"), "a scrape", |health, _| health == "up");
    until(&with_password("wrong"), "a refusal", |health, error| health == "down" && error.contains("401"));
    assert!(!exporter.log().contains("secret"));
}

/// The error for a web configuration.
fn wrong(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.yml");
    std::fs::write(&file, text).unwrap();
    let errors = load_web_config(&file).unwrap_err().to_string();
    errors.replace(&format!("{}: ", file.display()), "")
}

#[test]
fn a_web_configuration_says_what_it_means() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.yml");
    std::fs::write(&file, "{}\n").unwrap();
    assert_eq!(load_web_config(&file).unwrap(), WebConfig::default());
    let whole = format!(
        "{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: /etc/ca.pem\n  min_version: TLS12\n  \
         cipher_suites:\n  - TLS_AES_128_GCM_SHA256\n  - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n{}rate_limit:\n  \
         interval: \"1s\"\n  burst: 20\n",
        users(&[("alice", "a"), ("bob", "b")])
    );
    std::fs::write(&file, whole).unwrap();
    let web = load_web_config(&file).unwrap();
    let tls = web.tls.unwrap();
    assert_eq!(tls.cert, Pem::File(folder.path().join("server.pem")));
    assert_eq!(tls.client_ca, Some(Pem::File("/etc/ca.pem".into())));
    assert_eq!(tls.client_auth, ClientAuth::Required);
    assert_eq!(tls.cipher_suites.len(), 1, "TLS 1.3 is always there");
    assert!(web.users.keys().eq(["alice", "bob"]));
    assert!(!format!("{:?}", web.users).contains("$2"), "no hash is shown");
    assert_eq!(web.rate_limit.unwrap().burst, 20);
}

#[test]
fn what_is_wrong_with_a_web_configuration_is_said_without_its_secrets() {
    for (text, told) in [
        ("tls_server_conf: {}", "there is no key tls_server_conf; did you mean tls_server_config?"),
        (
            "tls_server_config: {cert_file: a}",
            "tls_server_config.key_file is missing; accepted: a path, or PEM in tls_server_config.key",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequestClientCert}",
            "tls_server_config.client_auth_type is \"RequestClientCert\"; accepted: \"NoClientCert\", \
             \"VerifyClientCertIfGiven\", \"RequireAndVerifyClientCert\"",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}",
            "tls_server_config.client_ca_file is given, but clients are not asked for certificates; accepted: \
             tls_server_config.client_auth_type = RequireAndVerifyClientCert beside it",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_allowed_sans: [x]}",
            "tls_server_config.client_allowed_sans is a list, which is not available in this version; accepted: an \
             authority of its own for those who may ask",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: b, min_version: TLS10}",
            "tls_server_config.min_version is \"TLS10\"; accepted: \"TLS12\", \"TLS13\"",
        ),
        (
            "tls_server_config: {cert: sEcReT, key_file: b}",
            "tls_server_config.cert is not of the accepted form; accepted: text in PEM format",
        ),
        (
            "basic_auth_users: {ann: sEcReT}",
            "basic_auth_users.ann is not a bcrypt hash of cost 4 to 16; accepted: what `htpasswd -nBC 10 ann` prints \
             behind the colon",
        ),
        (
            "basic_auth_users: [sEcReT]",
            "basic_auth_users is a list; accepted: names, each with the bcrypt hash of a password",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: allow}}",
            "http_server_config.headers.X-Frame-Options is \"allow\"; accepted: deny, sameorigin",
        ),
        (
            "rate_limit: {interval: 1s}",
            "rate_limit.burst is missing or 0, which lets no request pass; accepted: 1 to 1000000",
        ),
        (
            "# nothing\n",
            "the web configuration is empty; accepted: TLS, users or limits in it, or `{}` for plain HTTP to everybody",
        ),
        (
            "basic_auth_users: {}",
            "basic_auth_users is empty, which would let everybody in; accepted: what it should hold, or no such key",
        ),
        (
            "basic_auth_users:\n  a: sEcReT\n  a: sEcReT\n",
            "line 3, column 3: a key is there twice; accepted: each key once",
        ),
        (
            "basic_auth_users: 'sEcReT",
            "line 1, column 19: not a YAML mapping; accepted: the format of the Prometheus exporter-toolkit's web \
             configuration",
        ),
    ] {
        assert_eq!(wrong(text), told, "{text}");
    }
    let costly = format!("basic_auth_users: {{ann: {}}}", bcrypt::hash("a", COST).unwrap().replace("$04$", "$31$"));
    assert!(wrong(&costly).contains("cost 4 to 16"));
    assert_eq!(wrong("a: 1\nb: 2").lines().count(), 2, "all at once");
}

#[test]
fn certificates_that_cannot_be_served_with_are_named() {
    let folder = folder();
    let file = folder.path().join("web.yml");
    for (text, told) in [
        ("tls_server_config: {cert_file: none.pem, key_file: server.key}", "tls_server_config.cert_file: cannot read"),
        (
            "tls_server_config: {cert_file: server.key, key_file: server.key}",
            "tls_server_config.cert_file must hold certificates in PEM format",
        ),
        (
            "tls_server_config: {cert_file: server.pem, key_file: server.pem}",
            "tls_server_config.key_file must hold an unencrypted private key in PEM format",
        ),
        (
            "tls_server_config: {cert_file: server.pem, key_file: client.key}",
            "tls_server_config.key_file is not the key of tls_server_config.cert_file's first certificate",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = Web::load(Some(&file)).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: ", file.display())) && error.contains(told), "{error}");
    }
}
