//! `status` and the place of a user, with the built binary: behind TLS and a password, with hashed names, and where
//! the server knows no clients.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use cognito_auth_core::event::{EventResponse, UnixMillis, Word};
use cognito_auth_core::privacy::HashKey;
use cognito_auth_simulator::world::SimulatedPool;
use cognito_auth_simulator::{Options, Simulation};
use serde_json::Value;

use crate::exporter;
use crate::exporter::{Exporter, PATIENCE};
use crate::outputs::{expecting, stderr, stdout};
use crate::web;

const POOL: &str = "eu-west-1_Status";
const PASSWORD: &str = "s:cret ü";
const MINUTE: i64 = 60_000;

/// The exporter's configuration, below `[http]`.
const CONFIG: &str = "\
web_config_file = \"web.yml\"
[[pools]]
id = \"eu-west-1_Status\"
usernames = [\"ursula\", \"zoë+x@example.com\", \"nobody\"]
[poll]
requests_per_second = 100
min_interval = \"1s\"
max_interval = \"1m\"
";

/// A pool in which ursula signs in at present, and zoë has signed in before.
async fn simulation() -> Simulation {
    let simulation = Simulation::start(Options::default()).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        let now = world.now();
        for name in ["ursula", "zoë+x@example.com"] {
            world.add_user_with(POOL, name, |user| user.created = UnixMillis(now.0 - 600 * MINUTE));
            let mut event = world.sign_in(UnixMillis(now.0 - 2 * MINUTE));
            if name == "ursula" {
                event.response = Some(Word::Known(EventResponse::InProgress));
            }
            world.arrive(POOL, name, &event);
        }
    });
    simulation
}

/// An exporter behind TLS and a password, in a folder with the authority's certificate.
struct GuardedExporter {
    folder: tempfile::TempDir,
    exporter: Exporter,
    _simulation: Simulation,
}

impl GuardedExporter {
    async fn new(further: &str) -> Self {
        let folder = web::folder();
        let users = format!("basic_auth_users:\n  operator: {}\n", bcrypt::hash(PASSWORD, 4).unwrap());
        std::fs::write(folder.path().join("web.yml"), format!("{}{users}", web::TLS)).unwrap();
        std::fs::write(folder.path().join("password"), format!("{PASSWORD}\n")).unwrap();
        let simulation = simulation().await;
        let config = exporter::configure(folder.path(), &format!("{CONFIG}{further}"));
        let web_file = folder.path().join("web.yml");
        let text = std::fs::read_to_string(&config).unwrap().replace("\"web.yml\"", &format!("{web_file:?}"));
        std::fs::write(&config, text).unwrap();
        let exporter = Exporter::start(&config, &simulation.url());
        Self { folder, exporter, _simulation: simulation }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.exporter.address().port())
    }

    /// Runs `status` with user and password.
    fn status(&self, arguments: &[&str]) -> Output {
        let access = ["--ca-file", "ca.pem", "--auth-user", "operator", "--auth-password-file", "password"];
        status(self.folder.path(), &[&["--url", &self.url()], &access[..], arguments].concat())
    }

    /// The place of a user as JSON, once `condition` holds.
    fn place(&self, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.status(&["--user-pool-id", POOL, "--username", name, "--output", "json"]);
            let place = serde_json::from_str(&stdout(&output)).unwrap_or(Value::Null);
            if condition(&place) {
                return place;
            }
            assert!(Instant::now() < deadline, "{place}\n{}\n{}", stderr(&output), self.exporter.log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

fn status(folder: &Path, arguments: &[&str]) -> Output {
    exporter::command("http://127.0.0.1:9").current_dir(folder).arg("status").args(arguments).output().unwrap()
}

fn at(place: &Value, member: &str) -> UnixMillis {
    let text = place[member].as_str().unwrap_or_else(|| panic!("{member} in {place}"));
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).unwrap();
    UnixMillis(i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_a_user_is_told_behind_a_password_and_over_tls() {
    let world = GuardedExporter::new("").await;
    let ursula = world.place("ursula", |place| place["watched_events"] == 1 && place["last_poll"].is_string());
    assert_eq!((&ursula["user_pool_id"], &ursula["username"]), (&POOL.into(), &"ursula".into()), "{ursula}");
    assert_eq!(
        (&ursula["state"], &ursula["failures"], &ursula["catching_up"]),
        (&"ok".into(), &0.into(), &Value::Null),
        "{ursula}"
    );
    // The simulated sign-in is of two minutes ago, and is watched for half an hour.
    let watched = &ursula["watched"][0];
    assert_eq!(watched["event_type"], "SignIn");
    // The times of the service and of this machine may differ by the second that its Date header rounds to.
    let watch = at(watched, "watched_until").0 - at(watched, "created").0;
    assert!((watch - 30 * MINUTE).abs() < MINUTE, "{ursula}");
    assert!(
        at(&ursula, "last_poll") <= at(&ursula, "now")
            && at(&ursula, "next_poll").0 < at(&ursula, "now").0 + 2 * MINUTE,
        "{ursula}"
    );
    assert!(ursula["events_per_day_estimate"].as_f64().unwrap() > 0.0, "{ursula}");
    let interval = ursula["interval_seconds_estimate"].as_f64().unwrap();
    assert!(
        (1.0..=60.0).contains(&interval) && ursula["polls_per_day_estimate"].as_f64().unwrap() >= 1440.0,
        "{ursula}"
    );

    let zoe = world.place("zoë+x@example.com", |place| !place["last_event"].is_null());
    assert_eq!((&zoe["username"], &zoe["watched_events"]), (&"zoë+x@example.com".into(), &0.into()), "{zoe}");
    let nobody = world.place("nobody", |place| place["state"] == "missing" && place["next"] == "retry");
    assert!(nobody["failures"].as_u64() > Some(0), "{nobody}");

    let told = expecting(0, world.status(&["--user-pool-id", POOL, "--username", "ursula"]));
    for fact in
        ["ursula in eu-west-1_Status\n", "state         ok\n", "1 event in progress\n", "SignIn of 20", "times a day"]
    {
        assert!(stdout(&told).contains(fact), "{fact}: {}", stdout(&told));
    }
    let missing = expecting(1, world.status(&["--user-pool-id", POOL, "--username", "nobody"]));
    assert!(stdout(&missing).contains("state         missing, "), "{}", stdout(&missing));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verdict_is_told_with_an_exit_status_and_a_refusal_with_what_to_do() {
    let world = GuardedExporter::new("").await;
    world.place("nobody", |place| place["state"] == "missing");
    let deadline = Instant::now() + PATIENCE;
    // Before the pool has answered, it is too early to tell. The numbers of users follow within a second.
    let told = loop {
        let told = world.status(&[]);
        let (is_success, told) = (told.status.success(), stdout(&told));
        if is_success && told.contains("3 in 1 pool, 0 down\n") {
            break told;
        }
        assert!(Instant::now() < deadline, "{told}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert!(told.starts_with("Sign-in events flow"), "{told}");
    let json: Value = serde_json::from_slice(&expecting(0, world.status(&["--output", "json"])).stdout).unwrap();
    assert_eq!(json["flowing"], true);

    let url = world.url();
    let refused = |arguments: &[&str]| {
        let output = status(world.folder.path(), &[&["--url", &url][..], arguments].concat());
        stderr(&expecting(1, output))
    };
    let asks = "asks for a password: --auth-user NAME and --auth-password-file FILE";
    assert!(refused(&["--ca-file", "ca.pem"]).contains(asks));
    let wrong = refused(&["--ca-file", "ca.pem", "--auth-user", "operator", "--auth-password-file", "ca.pem"]);
    assert!(wrong.contains("refuses this user or password: check --auth-user"), "{wrong}");
    let unknown = refused(&["--ca-file", "other-ca.pem"]);
    assert!(unknown.contains("cannot reach the exporter at https://localhost"), "{unknown}");
    assert!(refused(&["--auth-user", "operator"]).contains("or the variable COGNITO_AUTH_STATUS_PASSWORD"));
    let absent = world.status(&["--user-pool-id", POOL, "--username", "eve"]);
    assert!(stderr(&expecting(1, absent)).contains("404 Not Found: this user is not followed here"));
    let elsewhere = world.status(&["--user-pool-id", "eu-west-1_Other", "--username", "ursula"]);
    assert!(stderr(&expecting(1, elsewhere)).contains("404 Not Found: no such user pool is configured here"));

    let mut with_variable = exporter::command("http://127.0.0.1:9");
    with_variable.current_dir(world.folder.path()).env("COGNITO_AUTH_STATUS_PASSWORD", PASSWORD);
    with_variable.args(["status", "--url", &url, "--ca-file", "ca.pem", "--auth-user", "operator"]);
    expecting(0, with_variable.output().unwrap());
    let mut with_input = Command::new("sh");
    let script = format!(
        "cat password | {} status --url {url} --ca-file ca.pem --auth-user operator --auth-password-file -",
        env!("CARGO_BIN_EXE_cognito-auth-exporter")
    );
    with_input.current_dir(world.folder.path()).args(["-c", &script]).stdin(Stdio::null());
    expecting(0, with_input.output().unwrap());
    drop(world.exporter);
    assert!(refused(&["--ca-file", "ca.pem"]).contains("is it running there? --url names another"));
}

/// A user is asked for by name also where nothing else shows it: the answer has what the log records have.
#[tokio::test(flavor = "multi_thread")]
async fn where_records_have_no_names_the_answer_has_none() {
    const KEY: &str = "the key of this test, of 32 bytes or more";
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), KEY).unwrap();
    let section =
        |mode: &str| format!("[privacy]\nusername = \"{mode}\"\nhash_key_file = {:?}\n", key.path().to_str().unwrap());
    for (mode, expected) in
        [("hash", Value::from(HashKey::new(KEY.as_bytes()).unwrap().hash("ursula"))), ("drop", Value::Null)]
    {
        let world = GuardedExporter::new(&section(mode)).await;
        let place = world.place("ursula", |place| place["watched_events"] == 1);
        assert_eq!((&place["user_hash"], &place["username"]), (&expected, &Value::Null), "{mode}: {place}");
        assert!(!place.to_string().contains("ursula"), "{place}");
        assert!(!world.exporter.log().contains("ursula"), "{}", world.exporter.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_authentication_tells_the_verdict_and_of_no_user() {
    let simulation = simulation().await;
    let folder = tempfile::tempdir().unwrap();
    let config = exporter::configure(folder.path(), &CONFIG.replace("web_config_file = \"web.yml\"\n", ""));
    let exporter = Exporter::start(&config, &simulation.url());
    let query = format!("/status?user_pool_id={POOL}&username=ursula");
    let (code, said) = exporter.ask(&query);
    assert_eq!(code, 403);
    assert!(said.contains("personal data") && said.contains("basic_auth_users") && !said.contains("ursula"), "{said}");
    assert_eq!(exporter.ask("/status?x=y").0, 200);
    let url = format!("http://{}", exporter.address());
    let refused = expecting(1, status(folder.path(), &["--url", &url, "--user-pool-id", POOL, "--username", "ursula"]));
    assert!(stderr(&refused).contains("403 Forbidden: the place of a user is personal data"), "{}", stderr(&refused));
}

#[test]
fn the_address_is_that_of_the_configuration_and_a_password_in_the_url_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let none = stderr(&expecting(1, status(folder.path(), &["--url", "localhost:1"])));
    assert!(none.contains("accepted: scheme, host and port, such as http://localhost:10588"), "{none}");
    for url in ["http://ursula:secret@localhost:1", "http://ursula:secret word@localhost:1", "ursula:secret@localhost"]
    {
        let secret = stderr(&expecting(1, status(folder.path(), &["--url", url])));
        assert!(!secret.contains("secret") && !secret.contains("ursula"), "{secret}");
        assert!(secret.contains("--auth-user and --auth-password-file"), "{secret}");
    }
    let token = stderr(&expecting(1, status(folder.path(), &["--url", "http://localhost:1/?token=secret"])));
    assert!(!token.contains("=secret") && token.contains("--url holds a query or fragment"), "{token}");
    expecting(2, status(folder.path(), &["--username", "ursula"]));
    // Port 9 on loopback refuses connections.
    std::fs::write(
        folder.path().join("config.toml"),
        "[[pools]]\nid = \"eu-west-1_A\"\nall_users = true\n[http]\nlisten = \"[::]:9\"\n",
    )
    .unwrap();
    let configured = expecting(1, status(folder.path(), &[]));
    assert!(stderr(&configured).contains("cannot reach the exporter at http://localhost:9"), "{}", stderr(&configured));
    std::fs::write(folder.path().join("config.toml"), "[http]\nlisten = 7\n").unwrap();
    expecting(2, status(folder.path(), &[]));
}
