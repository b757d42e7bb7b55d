//! Privacy of every output of the built binary (logs at debug, state files, HTTP, OTLP, stdout, the commands' output):
//! none contains planted personal data. A change of mode or key loses nothing and counts nothing again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use cognito_auth_core::event::{EventContext, FeedbackValue, UnixMillis};
use cognito_auth_core::privacy::HashKey;
use cognito_auth_simulator::world::{SimulatedPool, World};
use tonic::Code;

use crate::exporter::{Exporter, PATIENCE, Scrape};
use crate::folders::copy;
use crate::long;
use crate::outputs::{expecting, json_lines, stderr, stdout};
use crate::peers;
use crate::receiver::{Received, Reply};
use crate::test_env::{MINUTE, TestEnv, as_float, is, now};

const POOL: &str = "eu-west-1_Privacy";
const USERS: usize = 4;
const EVENTS: usize = 15;

/// All users are listed, one is also named, and so is one that does not exist. The users are created before the
/// exporter follows the pool.
const CONFIG: &str = r#"
[[pools]]
id = "eu-west-1_Privacy"
all_users = true
usernames = ["planted-user-0@example.org", "planted-nobody"]
followed_since = "2020-01-01T00:00:00Z"
[poll]
requests_per_second = 400
min_interval = "1s"
max_interval = "10s"
first_run = "none"
[log]
level = "debug"
"#;

/// The personal texts of the planted events. The searching functions add the subs.
const PLANTED: [&str; 8] = [
    "planted-user",
    "planted-nobody",
    "203.0.113.",
    "PlantedDevice",
    "-09:30",
    "Plantedville",
    "Plantania",
    "planted-admin",
];

const KEYS: [&str; 3] =
    ["the first key, of 32 bytes or more", "the second key, of 32 bytes or more", "the third key, of 32 bytes or more"];

fn name(user: usize) -> String {
    format!("planted-user-{user}@example.org")
}

fn populate(world: &mut World) {
    world.add_pool(SimulatedPool::new(POOL));
    for user in 0..USERS {
        world.add_user_with(POOL, &name(user), |user| user.created = UnixMillis(now().0 - 600 * MINUTE));
        for event in 0..EVENTS {
            let at = UnixMillis(now().0 - (1 + i64::try_from(event).unwrap()) * MINUTE);
            let id = format!("event-{user}-{event}");
            let mut sign_in = world.sign_in(at);
            sign_in.id = Some(id.clone());
            sign_in.context = Some(EventContext {
                ip_address: Some(format!("203.0.113.{}", 10 + user)),
                device_name: Some("PlantedDevice 9".into()),
                timezone: Some("-09:30".into()),
                city: Some("Plantedville".into()),
                country: Some("Plantania".into()),
            });
            world.arrive(POOL, &name(user), &sign_in);
            if event == 3 {
                world.feedback(POOL, &name(user), &id, FeedbackValue::Valid, "planted-admin");
            }
        }
    }
}

/// An environment with keys in files.
async fn env() -> TestEnv {
    let env = TestEnv::set(CONFIG, populate).await;
    for (number, key) in KEYS.iter().enumerate() {
        env.file(&format!("key-{number}"), &format!("{key}\n"));
    }
    env
}

/// The configuration with this privacy section; `key-N` are paths.
fn private(env: &TestEnv, section: &str) -> String {
    let mut section = section.to_owned();
    for number in 0..KEYS.len() {
        let name = format!("key-{number}");
        section = section.replace(&format!("\"{name}\""), &format!("{:?}", env.path(&name).to_str().unwrap()));
    }
    format!("{CONFIG}[stdout]\nenabled = true\n[privacy]\n{section}")
}

const ALL_HASHED: &str = "username = \"hash\"\nip_address = \"hash\"\ndevice = \"hash\"\nlocation = \"hash\"\n";
const ALL_DROPPED: &str = "username = \"drop\"\nip_address = \"drop\"\ndevice = \"drop\"\nlocation = \"drop\"\n";

fn subs(env: &TestEnv) -> Vec<String> {
    env.simulation.world(|world| world.pool(POOL).unwrap().users().map(|user| user.sub.clone()).collect())
}

/// Fails if `bytes` contains any of `texts`.
fn clean(bytes: &[u8], texts: &[String], what: &str) {
    for text in texts {
        let found = bytes.windows(text.len()).position(|part| part == text.as_bytes());
        if let Some(at) = found {
            let around =
                String::from_utf8_lossy(&bytes[at.saturating_sub(80)..(at + 120).min(bytes.len())]).into_owned();
            panic!("{text:?} is in {what}: {around}");
        }
    }
}

fn files_of(directory: &Path, see: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files_of(&entry.path(), see),
            kind if kind.is_file() => see(&entry.path()),
            _ => {}
        }
    }
}

fn state_is_clean(env: &TestEnv, texts: &[String]) {
    files_of(&env.state(), &mut |file| clean(&fs::read(file).unwrap(), texts, &file.display().to_string()));
}

/// Starts the exporter with its standard output in a file.
fn started(env: &TestEnv) -> Exporter {
    env.forget_calls();
    let run = env.command();
    let mut command = Command::new("sh");
    command.env_clear().envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.arg("-c").arg(format!("exec \"$0\" \"$@\" >>{}", env.path("stdout").display()));
    command.arg(run.get_program()).args(run.get_args());
    Exporter::started(command)
}

/// Searches everything that an exporter shows while it runs.
fn shows_nothing(exporter: &Exporter, texts: &[String]) {
    for path in ["/", "/status", "/metrics", "/readyz", "/healthz"] {
        clean(exporter.answer(path).as_bytes(), texts, path);
    }
    clean(exporter.log().as_bytes(), texts, "the log");
}

fn counted(scrape: &Scrape) -> bool {
    is(scrape, "cognito_auth_events_total", &[], as_float(USERS * EVENTS))
}

/// Waits until every user was polled since the start of the exporter.
fn everybody_is_polled(env: &TestEnv, exporter: &Exporter) {
    let everybody: BTreeSet<_> = (0..USERS).map(name).collect();
    exporter.until("everybody polled", |scrape| env.polled(POOL).is_superset(&everybody) && counted(scrape));
}

fn is_poison(record: &Received) -> bool {
    record.text("aws.cognito.event.id") == "event-1-5"
}

/// Runs through outage, refusal and delivery, and searches every output.
async fn nothing_planted_is_ever_written(section: &str) -> TestEnv {
    let env = env().await;
    env.reconfigure(&private(&env, section));
    let texts: Vec<String> = PLANTED.iter().map(|&text| text.to_owned()).chain(subs(&env)).collect();

    // The records are in the outbox.
    env.receiver.answer_always(Reply::Code(Code::Unavailable, "later"));
    let exporter = started(&env);
    exporter.until("all counted and waiting", |scrape| {
        counted(scrape) && scrape.sum("cognito_exporter_outbox_records", &[]) > 0.0
    });
    exporter.until("the missing one found missing", |scrape| {
        is(scrape, "cognito_exporter_users", &["state=\"missing\""], 1.0)
    });
    shows_nothing(&exporter, &texts);
    exporter.kill();
    state_is_clean(&env, &texts);

    // Records are in quarantine, delivered, and on stdout.
    env.receiver.answer_by(|records| {
        if records.iter().any(is_poison) { Reply::Code(Code::InvalidArgument, "bad") } else { Reply::Ok }
    });
    let exporter = started(&env);
    exporter.until("one in quarantine and the rest delivered", |scrape| {
        is(scrape, "cognito_exporter_quarantined_records", &[], 1.0)
            && is(scrape, "cognito_exporter_outbox_records", &[], 0.0)
    });
    everybody_is_polled(&env, &exporter);
    // First another name is added, then an error beside the names.
    let more = private(&env, section).replace("\"planted-nobody\"", "\"planted-nobody\", \"planted-user-none\"");
    for (config, told) in [
        (more.clone(), "configuration reloaded"),
        (more.replace("usernames = [", "usernames = [1, "), "configuration reload failed"),
    ] {
        env.reconfigure(&config);
        exporter.signal("HUP");
        exporter.until_said(told);
    }
    exporter.until("the added one found missing", |scrape| {
        is(scrape, "cognito_exporter_users", &["state=\"missing\""], 2.0)
    });
    env.reconfigure(&private(&env, section));
    shows_nothing(&exporter, &texts);
    assert!(exporter.stop().success());
    state_is_clean(&env, &texts);
    clean(format!("{:?}", env.receiver.records()).as_bytes(), &texts, "what was received");
    clean(&fs::read(env.path("stdout")).unwrap(), &texts, "stdout");
    assert!(fs::read_to_string(env.path("stdout")).unwrap().lines().count() >= USERS * EVENTS);

    for arguments in [
        &["quarantine", "list", "--personal", "--output", "json"][..],
        &["state", "list", "--user-pool-id", POOL],
        &["state", "export"],
        &["state", "verify", "--personal"],
    ] {
        let output = env.run(arguments);
        assert!(output.status.success(), "{output:?}");
        clean(&[output.stdout, output.stderr].concat(), &texts, &arguments.join(" "));
    }
    for arguments in [&["check"][..], &["check", "--output", "json"]] {
        let output = env.run(arguments);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("not in the pool: #2 (counting usernames, then usernames_file"), "{said}");
        clean(said.as_bytes(), &texts, &arguments.join(" "));
        clean(&output.stderr, &texts, &arguments.join(" "));
    }
    env
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hashed_is_written_nowhere_and_can_still_be_told_apart() {
    let env = nothing_planted_is_ever_written(&format!("{ALL_HASHED}hash_key_file = \"key-0\"")).await;
    let key = HashKey::new(KEYS[0].as_bytes()).unwrap();
    let records = env.receiver.records();
    let users: BTreeSet<_> = records.iter().map(|record| record.text("user.hash").to_owned()).collect();
    assert_eq!(users, (0..USERS).map(|user| key.hash(&name(user))).collect());
    let addresses: BTreeSet<_> =
        records.iter().map(|record| record.text("aws.cognito.client_address_hash").to_owned()).collect();
    assert_eq!(addresses, (0..USERS).map(|user| key.hash(&format!("203.0.113.{}", 10 + user))).collect());
    for record in &records {
        assert_eq!(record.text("aws.cognito.device.name"), key.hash("PlantedDevice 9"));
        assert_eq!(record.text("geo.locality.name"), key.hash("Plantedville"));
        assert!(!record.text("user.id").is_empty() && record.text("user.name").is_empty());
        assert!(record.body.starts_with("Sign-in of a user in"), "{}", record.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_of_the_key_goes_from_a_name_to_the_records_and_from_a_record_to_the_ledger() {
    let env = env().await;
    env.reconfigure(&private(&env, &format!("{ALL_HASHED}hash_key_file = \"key-0\"")));
    let exporter = started(&env);
    exporter.until("all counted", counted);
    env.until_received(|records| records.len() >= USERS * EVENTS).await;
    // Beside a running exporter: the hash is the one that the user's records carry.
    let hash = |arguments: &[&str]| stdout(&expecting(0, env.run(&[&["hash"], arguments].concat())));
    let of_name = hash(&["--username", &name(1)]);
    let of_address = hash(&["--ip-address", "203.0.113.11"]);
    let (of_name, of_address) = (of_name.trim_end(), of_address.trim_end());
    let records = env.receiver.records();
    let of_user: Vec<_> = records.iter().filter(|record| record.text("user.hash") == of_name).collect();
    assert!(of_user.len() >= EVENTS, "{} of {}", of_user.len(), records.len());
    assert!(of_user.iter().all(|record| record.text("aws.cognito.event.id").starts_with("event-1-")));
    assert!(of_user.iter().all(|record| record.text("aws.cognito.client_address_hash") == of_address));
    assert!(exporter.stop().success());

    // The bare hash finds the user in the ledger, and the user's name shows the hash.
    let hex: String = of_name.to_owned();
    for user in [&hex, &name(1)] {
        let show = ["state", "show", "--user-pool-id", POOL, "--username", user, "--output", "json"];
        let shown = json_lines(&expecting(0, env.run(&show)));
        assert_eq!(shown[0]["user_hash"], *hex, "{shown:?}");
    }
    let rewind = ["state", "rewind", "--user-pool-id", POOL, "--username", &hex, "--to", "2020-01-01T00:00:00Z"];
    assert!(stderr(&expecting(2, env.run(&rewind))).contains("would rewind 1 user"));
    let nobody = ["state", "show", "--user-pool-id", POOL, "--username", "0123456789abcdef0123456789abcdef"];
    assert!(stderr(&expecting(1, env.run(&nobody))).contains("nothing is kept of \"0123456789abcdef"));

    // Several texts: each with its own, in order. The names of a file are those of a pool's usernames_file.
    env.file("names", &format!("# a comment\n{}\n\n{}\n", name(0), name(1)));
    let several = hash(&["--usernames-file", env.path("names").to_str().unwrap(), "--ip-address", "203.0.113.11"]);
    let key = HashKey::new(KEYS[0].as_bytes()).unwrap();
    let expected = [&*name(0), &*name(1), "203.0.113.11"].map(|text| format!("{}  {text}", key.hash(text)));
    assert_eq!(several.lines().collect::<Vec<_>>(), expected);

    // From stdin, and with another key: that of older records. This needs no configuration.
    let other = env.path("key-1");
    let mut piped = Command::new("sh");
    piped.args(["-c", "printf 'ann\\nben\\n' | \"$0\" hash --usernames-file - --key-file \"$1\""]).current_dir("/");
    let piped = piped.arg(env!("CARGO_BIN_EXE_cognito-auth-exporter")).arg(&other).output().unwrap();
    let former = HashKey::new(KEYS[1].as_bytes()).unwrap();
    let expected = ["ann", "ben"].map(|name| format!("{}  {name}", former.hash(name)));
    assert_eq!(stdout(&expecting(0, piped)).lines().collect::<Vec<_>>(), expected);
    let old = hash(&["--key-file", other.to_str().unwrap(), "--username", &name(1)]);
    assert_eq!(old.trim_end(), former.hash(&name(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_records_carry_no_hash_the_command_says_what_they_carry() {
    let env = env().await;
    for (section, arguments, told) in [
        ("", ["hash", "--username", "ann"], "records carry the name itself in user.name"),
        (ALL_DROPPED, ["hash", "--username", "ann"], "records carry neither name nor hash"),
        ("", ["hash", "--ip-address", "192.0.2.1"], "records carry the address itself in client.address"),
        ("ip_address = \"truncate\"\n", ["hash", "--ip-address", "192.0.2.1"], "records carry the network"),
        (ALL_HASHED, ["hash", "--ip-address", "somewhere"], "not an IPv4 or IPv6 address"),
        (ALL_HASHED, ["hash", "--username", "an n"], "no white space"),
    ] {
        env.reconfigure(&private(&env, &format!("{section}hash_key_file = \"key-0\"")));
        let refused = expecting(2, env.run(&arguments));
        assert!(stderr(&refused).contains(told) && refused.stdout.is_empty(), "{told}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_openssl_command_makes_the_same_hash() {
    if !peers::has_that_says("openssl", &["version"]) {
        return;
    }
    let env = env().await;
    env.reconfigure(&private(&env, &format!("{ALL_HASHED}hash_key_file = \"key-0\"")));
    let ours = stdout(&expecting(0, env.run(&["hash", "--username", "alice"])));
    let page = include_str!("../docs/privacy.md");
    let command = page.split("```sh\n").find(|block| block.contains("openssl dgst")).unwrap();
    let command = command.split("\n```").next().unwrap();
    let command = command.replace("/run/secrets/hash-key", env.path("key-0").to_str().unwrap());
    let theirs = Command::new("sh").arg("-c").arg(command).output().unwrap();
    assert_eq!(stdout(&theirs), ours);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_is_written_nowhere() {
    let env = nothing_planted_is_ever_written(&format!("{ALL_DROPPED}hash_key_file = \"key-0\"")).await;
    for record in env.receiver.records() {
        for attribute in ["user.name", "user.hash", "user.id", "client.address", "aws.cognito.client_address_hash"] {
            assert!(!record.attributes.contains_key(attribute), "{attribute}: {record:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_mode_or_key_loses_nothing_and_counts_nothing_again() {
    if !long::are_wanted() {
        return;
    }
    let env = env().await;
    env.receiver.answer_always(Reply::Code(Code::Unavailable, "later"));
    let exporter = env.exporter();
    exporter.until("all counted", counted);
    exporter.until("the feedback counted", |scrape| scrape.sum("cognito_auth_feedback_total", &[]) > 0.0);
    let before = exporter.durable_counters();
    assert!(exporter.stop().success());

    let texts: Vec<String> = PLANTED.iter().map(|&text| text.to_owned()).chain(subs(&env)).collect();
    let steps = [
        format!("{ALL_HASHED}hash_key_file = \"key-0\""),
        format!("{ALL_HASHED}hash_key_file = \"key-1\"\nformer_hash_key_file = \"key-0\""),
        format!("{ALL_HASHED}hash_key_file = \"key-1\""),
        format!("{ALL_DROPPED}hash_key_file = \"key-1\""),
        "former_hash_key_file = \"key-1\"".to_owned(),
        String::new(),
    ];
    for (number, section) in steps.iter().enumerate() {
        env.reconfigure(&private(&env, section));
        let exporter = started(&env);
        everybody_is_polled(&env, &exporter);
        assert_eq!(exporter.durable_counters(), before, "step {number}");
        exporter.until("everybody well", |scrape| {
            is(scrape, "cognito_exporter_users", &["state=\"ok\""], as_float(USERS))
                && is(scrape, "cognito_exporter_users", &["state=\"missing\""], 1.0)
        });
        assert!(exporter.stop().success());
        if number < 4 {
            // This includes earlier content of the store.
            state_is_clean(&env, &texts);
        }
        if number == 2 {
            // With an unknown key, no user could be recognised.
            let other = format!("{ALL_HASHED}hash_key_file = \"key-2\"");
            env.reconfigure(&private(&env, &other));
            for section in [other.as_str(), ""] {
                env.reconfigure(&private(&env, section));
                let refused = env.command().output().unwrap();
                let told = String::from_utf8(refused.stderr).unwrap();
                assert_eq!(refused.status.code(), Some(1), "{told}");
                assert!(told.contains("former_hash_key_file") && told.contains("counted again"), "{told}");
            }
        }
    }

    env.receiver.answer_always(Reply::Ok);
    let exporter = env.exporter();
    exporter.until("everything delivered", |scrape| is(scrape, "cognito_exporter_outbox_records", &[], 0.0));
    assert_eq!(exporter.durable_counters(), before);
    assert!(exporter.stop().success());
    let records = env.receiver.records();
    let ids: BTreeSet<_> = records.iter().map(|record| record.text("aws.cognito.event.id")).collect();
    assert_eq!((ids.len(), records.len()), (USERS * EVENTS, USERS * EVENTS), "each once");
    // Redacted data stays redacted.
    clean(format!("{records:?}").as_bytes(), &texts, "what was received");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_dies_anywhere_leaves_the_one_ledger_or_the_other() {
    let env = env().await;
    let exporter = env.exporter();
    exporter.until("all counted", counted);
    let before = exporter.durable_counters();
    assert!(exporter.stop().success());
    env.reconfigure(&private(&env, &format!("{ALL_HASHED}hash_key_file = \"key-0\"")));
    let original = env.path("original");
    copy(&env.state(), &original);
    if !peers::strace_works() {
        return;
    }
    let mut found = BTreeSet::new();
    for call in 1.. {
        fs::remove_dir_all(env.state()).unwrap();
        copy(&original, &env.state());
        let run = env.command();
        let mut command = Command::new("strace");
        command.env_clear().envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,rename,rmdir", "-e"]);
        command.arg(format!("inject=fsync,rename,rmdir:signal=KILL:when={call}"));
        command.arg(run.get_program()).args(run.get_args());
        let mut exporter = Exporter::spawned(command);
        let deadline = Instant::now() + PATIENCE;
        while !exporter.is_running() && exporter.try_ended().is_none() {
            assert!(Instant::now() < deadline, "neither runs nor ends");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let survived = exporter.is_running();
        if survived {
            // With -D the process is the exporter itself, not its tracer.
            exporter.kill();
            assert!(found.len() > 1, "{found:?}");
            break;
        }
        let export = env.run(&["state", "export"]);
        assert!(export.status.success(), "{export:?}");
        let text = String::from_utf8(export.stdout).unwrap();
        let lines = |kind: &str| text.lines().filter(|line| line.contains(&format!("\"record\":\"{kind}\""))).count();
        let plain =
            text.lines().filter(|line| line.contains("\"record\":\"user\"") && line.contains("planted")).count();
        let users = lines("user");
        assert!(users == USERS + 1 && (plain == 0 || plain == users), "{plain} of {users} by name");
        assert!(lines("total") > 0);
        found.insert(plain);
    }
    assert_eq!(found, [0, USERS + 1].into());
    fs::remove_dir_all(env.state()).unwrap();
    copy(&original, &env.state());
    let exporter = started(&env);
    everybody_is_polled(&env, &exporter);
    assert_eq!(exporter.durable_counters(), before);
    assert!(exporter.stop().success());
    let left: Vec<_> = fs::read_dir(env.state()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| ["lock", "ledger", "last-commit"].contains(&name.to_str().unwrap())), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_leaves_is_not_polled_any_more_though_nobody_has_its_name() {
    let env = env().await;
    let section = format!("{ALL_HASHED}hash_key_file = \"key-0\"\n[discovery]\ninterval = \"10s\"");
    env.reconfigure(&private(&env, &section));
    let exporter = started(&env);
    everybody_is_polled(&env, &exporter);
    env.simulation.world(|world| world.delete_user(POOL, &name(2)));
    exporter.until("it left", |scrape| is(scrape, "cognito_exporter_users", &[], as_float(USERS)));
    assert!(exporter.stop().success());
    let listed = env.run(&["state", "list", "--output", "json"]);
    let pool: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!((&pool["users"], &pool["gone"]), (&USERS.into(), &1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_is_refused_with_what_to_do() {
    let env = env().await;
    env.file("short", "too short");
    for (file, told) in [("short", "holds 9 bytes, and a key has 32 or more"), ("none", "openssl rand")] {
        let path = env.path(file);
        let section = format!("username = \"hash\"\nhash_key_file = {:?}", path.to_str().unwrap());
        env.reconfigure(&format!("{CONFIG}[privacy]\n{section}"));
        let refused = env.command().output().unwrap();
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("privacy.hash_key_file") && stderr.contains(told), "{stderr}");
    }
}
