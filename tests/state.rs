//! The state commands from a user's side. The built binary works on the ledger of a stopped exporter, between runs
//! against a simulated Cognito, and is killed at every write.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::world::{SimulatedPool, World};

use crate::exporter;
use crate::exporter::Scrape;
use crate::folders::{copy, inventory};
use crate::outputs::{expecting, json_lines, stderr, stdout};
use crate::peers;
use crate::receiver;
use crate::store;
use crate::test_env::{MINUTE, TestEnv, as_float, is, now, sign_ins};

const POOL: &str = "eu-west-1_State";

/// Fast polling. Events before the test are history, of which a part is exported.
const CONFIG: &str = r#"
[[pools]]
id = "eu-west-1_State"
all_users = true
[poll]
requests_per_second = 400
min_interval = "1s"
max_interval = "10s"
first_run = "2h"
"#;

const HOUR: i64 = 60 * MINUTE;

/// A configuration in which all events are live.
fn live() -> String {
    CONFIG.replace("all_users", "followed_since = \"2020-01-01T00:00:00Z\"\nall_users")
}

/// Users with `events` events each, a minute apart.
fn populate(world: &mut World, users: usize, events: i64) {
    world.add_pool(SimulatedPool::new(POOL));
    for user in 0..users {
        let name = format!("user-{user}");
        world.add_user_with(POOL, &name, |user| user.created = UnixMillis(now().0 - 30 * HOUR));
        sign_ins(world, POOL, &name, events, UnixMillis(now().0 - MINUTE));
    }
}

fn says(output: &Output, words: &[&str]) {
    words.iter().for_each(|word| assert!(stderr(output).contains(word), "{word:?}: {}", stderr(output)));
}

fn state(env: &TestEnv, arguments: &[&str]) -> Output {
    env.run(&[&["state"], arguments].concat())
}

/// In a pod in maintenance, where `idle` is the process of the container.
#[tokio::test(flavor = "multi_thread")]
async fn beside_idle_the_commands_have_the_state_and_a_signal_ends_it() {
    let env = TestEnv::set(&live(), |world| populate(world, 2, 3)).await;
    let exporter = env.exporter();
    exporter.until("the events", |scrape| scrape.sum("cognito_auth_events_total", &[]) >= 6.0);
    exporter.stop();
    let mut command = exporter::command(&env.simulation.url());
    command.arg("idle");
    let mut waiting = exporter::Exporter::spawned(command);
    waiting.until_said("commands may work on the state");
    for action in ["show", "verify", "export"] {
        let output = state(&env, &[action]);
        assert!(output.status.success() && !stdout(&output).is_empty(), "{action}: {}", stderr(&output));
    }
    assert_eq!(waiting.try_ended(), None);
    waiting.signal("TERM");
    assert!(waiting.ended().success());
}

fn idle(scrape: &Scrape) -> bool {
    is(scrape, "cognito_exporter_outbox_records", &[], 0.0) && is(scrape, "cognito_exporter_catching_up", &[], 0.0)
}

/// Runs until this many events are counted, live and history, and delivered. Returns the counters.
fn run_until_counted(env: &TestEnv, live: f64, history: f64) -> BTreeSet<String> {
    let exporter = env.exporter();
    exporter.until("all counted and delivered", |scrape| {
        is(scrape, "cognito_auth_events_total", &[], live)
            && is(scrape, "cognito_auth_history_events_total", &[], history)
            && idle(scrape)
    });
    let counted = exporter.durable_counters();
    assert!(exporter.stop().success());
    counted
}

/// How often each event was delivered, by its id.
fn times_received(env: &TestEnv) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for record in env.receiver.records() {
        *times.entry(record.text("aws.cognito.event.id").to_owned()).or_default() += 1;
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_delivers_again_and_counts_nothing_again() {
    let env = TestEnv::set(&live(), |world| populate(world, 3, 200)).await;
    // More than an overlap and more than a page. The older part is not remembered event by event.
    let before = run_until_counted(&env, 600.0, 0.0);
    assert!(times_received(&env).values().all(|times| *times == 1));

    let to = UnixMillis(now().0 - 150 * MINUTE);
    let to_text = to.to_string();
    let ask = ["rewind", "--user-pool-id", POOL, "--username", "user-0", "--username", "user-1", "--to", &to_text];
    let hesitant = expecting(2, state(&env, &ask));
    says(&hesitant, &["would rewind 2 users", &to_text, "nothing was done: add --yes"]);
    let shown = json_lines(&expecting(0, state(&env, &["list", "--user-pool-id", POOL, "--output", "json"])));
    assert!(shown.iter().all(|user| user["rewound"].is_null()), "{shown:?}");
    let asked = [&ask[..], &["--yes"]].concat();
    says(&expecting(0, state(&env, &asked)), &["rewound 2 users"]);
    expecting(0, state(&env, &asked));
    let shown = json_lines(&expecting(0, state(&env, &["list", "--user-pool-id", POOL, "--output", "json"])));
    let rewound = shown.iter().filter(|user| user["rewound"]["from"] == to_text.as_str());
    assert_eq!(rewound.count(), 2, "{shown:?}");

    let mut expected = BTreeMap::new();
    for user in ["user-0", "user-1", "user-2"] {
        for event in env.simulation.world(|world| world.history(POOL, user)) {
            let again = user != "user-2" && event.creation_date.unwrap() >= to;
            expected.insert(event.id.unwrap(), if again { 2 } else { 1 });
        }
    }
    // A new event within the rewound time is counted once.
    let old: BTreeSet<_> = expected.keys().cloned().collect();
    env.simulation.world(|world| sign_ins(world, POOL, "user-0", 5, UnixMillis(now().0 - 2 * MINUTE)));
    let new = env.simulation.world(|world| world.history(POOL, "user-0"));
    // It is delivered first by the poll that takes it, and again by the walk over the rewound time.
    expected.extend(new.into_iter().map(|event| event.id.unwrap()).filter(|id| !old.contains(id)).map(|id| (id, 2)));
    let coming = expected.values().sum::<usize>() - 600;
    assert!((250..=310).contains(&coming), "{coming}");

    let exporter = env.exporter();
    let scrape = exporter.until("the new ones counted, and the old ones delivered again", |scrape| {
        is(scrape, "cognito_auth_events_total", &[], 605.0)
            && scrape.sum("cognito_exporter_otlp_records_total", &["outcome=\"accepted\""]) >= as_float(coming)
            && idle(scrape)
    });
    let accepted = ["outcome=\"accepted\""];
    assert!(
        is(&scrape, "cognito_exporter_otlp_records_total", &accepted, as_float(coming)),
        "{}",
        scrape.interesting()
    );
    assert!(is(&scrape, "cognito_exporter_fetched_events_total", &["result=\"new\""], 5.0), "{}", scrape.interesting());
    assert_eq!(times_received(&env), expected);
    assert!(exporter.stop().success());
    // An event that is remembered or was never revised gives the same record again.
    let uids: BTreeSet<_> = env.receiver.records().iter().map(|record| record.uid().to_owned()).collect();
    assert_eq!(uids.len(), expected.len());
    let show = ["show", "--user-pool-id", POOL, "--username", "user-0", "--output", "json"];
    let shown = json_lines(&expecting(0, state(&env, &show)));
    assert!(shown[0]["rewound"].is_null(), "{shown:?}");
    assert!(before.len() > 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_nobody_wanted_is_logged_by_a_rewind_and_never_counted() {
    let env = TestEnv::set(CONFIG, |world| populate(world, 2, 200)).await;
    let exporter = env.exporter();
    let scrape = exporter.until("the history that is wanted", |scrape| {
        scrape.sum("cognito_auth_history_events_total", &[]) >= 200.0 && idle(scrape)
    });
    let wanted = scrape.sum("cognito_auth_history_events_total", &[]);
    assert!(wanted < 300.0, "two hours of two users, not {wanted}");
    assert!(exporter.stop().success());
    expecting(0, state(&env, &["rewind", "--user-pool-id", POOL, "--all", "--to", "2020-01-01T00:00:00Z", "--yes"]));
    let exporter = env.exporter();
    let accepted = ["outcome=\"accepted\""];
    let scrape = exporter.until("all of it delivered", |scrape| {
        is(scrape, "cognito_exporter_otlp_records_total", &accepted, 400.0) && idle(scrape)
    });
    assert!(is(&scrape, "cognito_auth_history_events_total", &[], wanted), "{}", scrape.interesting());
    assert!(is(&scrape, "cognito_auth_events_total", &[], 0.0), "{}", scrape.interesting());
    let new = env.receiver.records().len() - 400;
    assert_eq!(as_float(new), wanted);
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_shown_and_what_is_forgotten_is_gone() {
    let env = TestEnv::set(&live(), |world| populate(world, 4, 10)).await;
    let exporter = env.exporter();
    exporter.until("all counted", |scrape| is(scrape, "cognito_auth_events_total", &[], 40.0) && idle(scrape));
    let held = expecting(1, state(&env, &["forget", "--user-pool-id", POOL, "--all"]));
    says(&held, &["in use by another process: stop that one"]);
    assert!(exporter.stop().success());

    let table = stdout(&expecting(0, state(&env, &["list"])));
    assert!(table.lines().count() == 2 && table.starts_with("UserPoolId") && table.contains(POOL), "{table}");
    assert!(!table.contains("user-"), "no names unasked: {table}");
    let pools = json_lines(&expecting(0, state(&env, &["list", "--output", "json"])));
    assert_eq!((&pools[0]["users"], &pools[0]["gone"], &pools[0]["events"]), (&4.into(), &0.into(), &40.into()));
    let users = stdout(&expecting(0, state(&env, &["list", "--user-pool-id", POOL])));
    assert_eq!(users.lines().filter(|line| line.starts_with("user-")).count(), 4, "{users}");
    let ledger = stdout(&expecting(0, state(&env, &["show"])));
    assert!(ledger.contains("outbox_records: 0") && ledger.contains("instance_id: "), "{ledger}");
    let pool = json_lines(&expecting(0, state(&env, &["show", "--user-pool-id", POOL, "--output", "json"])));
    let events = pool[0]["totals"].as_object().unwrap().iter().filter(|(series, _)| series.starts_with("events"));
    assert_eq!(events.map(|(_, total)| total.as_u64().unwrap()).sum::<u64>(), 40, "{pool:?}");
    let user = stdout(&expecting(0, state(&env, &["show", "--user-pool-id", POOL, "--username", "user-1"])));
    assert!(user.contains("username: user-1") && user.contains("remembered: 10"), "{user}");

    for (arguments, words) in [
        (&["show", "--user-pool-id", "eu-west-1_Other"][..], &["nothing is kept of a pool", POOL][..]),
        (&["show", "--user-pool-id", POOL, "--username", "nobody"], &["nothing is kept of \"nobody\""]),
        (
            &["forget", "--user-pool-id", POOL, "--username", "user-0", "--username", "nobody", "--yes"],
            &["nothing is kept of \"nobody\"", "nothing was done"],
        ),
    ] {
        says(&expecting(1, state(&env, arguments)), words);
    }
    for arguments in [
        &["rewind", "--user-pool-id", POOL, "--all", "--to", "yesterday"][..],
        &["rewind", "--user-pool-id", POOL, "--to", "2026-01-01T00:00:00Z"],
        &["forget", "--user-pool-id", POOL, "--all", "--gone"],
        &["show", "--username", "ann"],
        &[],
    ] {
        expecting(2, state(&env, arguments));
    }

    says(&expecting(0, state(&env, &["forget", "--user-pool-id", POOL, "--gone", "--yes"])), &["no user is gone"]);
    let one = ["forget", "--user-pool-id", POOL, "--username", "user-3"];
    says(&expecting(2, state(&env, &one)), &["would forget 1 user", "1 of them are not gone", "counted again"]);
    expecting(0, state(&env, &[&one[..], &["--yes"]].concat()));
    let pools = json_lines(&expecting(0, state(&env, &["list", "--output", "json"])));
    assert_eq!((&pools[0]["users"], &pools[0]["events"]), (&3.into(), &40.into()), "totals stay");
    let all = ["forget", "--user-pool-id", POOL, "--all"];
    says(&expecting(2, state(&env, &all)), &["would forget 3 users", "the pool's counters"]);
    expecting(0, state(&env, &[&all[..], &["--yes"]].concat()));
    assert!(json_lines(&expecting(0, state(&env, &["list", "--output", "json"]))).is_empty());
    says(&expecting(0, state(&env, &["verify"])), &["every record is sound"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_what_is_damaged_and_what_to_do_and_the_rest_is_sound() {
    let env = TestEnv::set(&live(), |world| populate(world, 3, 10)).await;
    run_until_counted(&env, 30.0, 0.0);
    let sound = json_lines(&expecting(0, state(&env, &["verify", "--output", "json"])));
    assert_eq!((&sound[0]["sound"], &sound[0]["records"]["user"]), (&true.into(), &3.into()), "{sound:?}");

    damage(&env, |key| key.ends_with(b"user-1"));
    let found = expecting(1, state(&env, &["verify"]));
    let text = stdout(&found);
    assert!(text.contains("damaged: user (personal)") && text.contains("`state forget`"), "{text}");
    assert!(!text.contains("user-1"), "{text}");
    says(&found, &["damaged records: 1"]);
    let found = json_lines(&expecting(1, state(&env, &["verify", "--output", "json", "--personal"])));
    assert_eq!((&found[0]["record"], &found[0]["username"]), (&"user".into(), &"user-1".into()), "{found:?}");
    assert_eq!(found[0]["problem"], "its checksum is wrong");
    let rewound = expecting(
        1,
        state(&env, &["rewind", "--user-pool-id", POOL, "--all", "--to", "2020-01-01T00:00:00Z", "--yes"]),
    );
    says(&rewound, &["left out, because their records are damaged: 1 user", "rewound 2 users"]);
    let exported = expecting(1, state(&env, &["export"]));
    says(&exported, &["left out, because they are damaged: 1 records"]);
    expecting(0, state(&env, &["forget", "--user-pool-id", POOL, "--username", "user-1", "--yes"]));
    expecting(0, state(&env, &["verify"]));

    // The totals: the other commands refuse the ledger, but it can still be read.
    damage(&env, |key| key.starts_with(b"t/"));
    says(&expecting(1, state(&env, &["list"])), &["the ledger is damaged", "left in its place", "state verify"]);
    let found = expecting(1, state(&env, &["verify"]));
    assert!(stdout(&found).contains("damaged: total events"), "{}", stdout(&found));
    says(&found, &["the ledger is damaged: a total", "puts a damaged ledger aside"]);
}

/// Flips a bit of every record whose key is selected.
fn damage(env: &TestEnv, wanted: impl Fn(&[u8]) -> bool) {
    let store = store::open(&env.ledger());
    for (key, value) in store.iter().map(Result::unwrap).filter(|(key, _)| wanted(key)).collect::<Vec<_>>() {
        let mut value = value.to_vec();
        *value.last_mut().unwrap() ^= 1;
        store.insert(key, value).unwrap();
    }
    store.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bar_shows_on_a_terminal_unless_more_is_printed_there_meanwhile() {
    if !peers::has("script") {
        return;
    }
    let env = TestEnv::set(&live(), |world| populate(world, 1, 3)).await;
    run_until_counted(&env, 3.0, 0.0);
    let (program, config, file) = (env!("CARGO_BIN_EXE_cognito-auth-exporter"), env.config(), env.path("export"));
    let rewind = format!("rewind --user-pool-id {POOL} --all --to 2020-01-01T00:00:00Z");
    for (action, bar, shows) in [
        ("verify", "records read", true),
        (&rewind, "users read", true),
        (&format!("export >{file:?}"), "records exported", true),
        ("export", "records exported", false),
    ] {
        let line = format!("{program:?} state --config {config:?} {action}");
        let shown = stdout(&peers::on_terminal(&line).output().unwrap());
        assert_eq!(shown.contains(bar), shows, "{action}: {shown:?}");
    }
    let quiet = expecting(0, state(&env, &["verify"]));
    assert_eq!(stderr(&quiet), "every record is sound\n");
}

/// An export without the line with its time.
fn exported(env: &TestEnv) -> Vec<String> {
    let output = expecting(0, state(env, &["export"]));
    stdout(&output).lines().skip(1).filter(|line| line.starts_with("{\"record\":")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_imported_elsewhere_and_goes_on_without_counting_again() {
    let env = TestEnv::set(&live(), |world| populate(world, 3, 100)).await;
    // Some of the records wait for delivery.
    env.receiver.answer_always(receiver::Reply::Code(tonic::Code::Unavailable, "later"));
    let exporter = env.exporter();
    exporter.until("all counted", |scrape| {
        is(scrape, "cognito_auth_events_total", &[], 300.0)
            && is(scrape, "cognito_exporter_outbox_records", &[], 300.0)
            && is(scrape, "cognito_exporter_catching_up", &[], 0.0)
    });
    let before = exporter.durable_counters();
    assert!(exporter.stop().success());
    let output = expecting(0, state(&env, &["export"]));
    says(&output, &["exported: ", "personal data"]);
    let text = stdout(&output);
    env.file("export.jsonl", &text);
    let records = exported(&env);
    let path = env.path("export.jsonl");
    let path = path.to_str().unwrap();

    // An incomplete or foreign file changes nothing.
    let half: String = text.lines().take(5).map(|line| format!("{line}\n")).collect();
    let other = text.replacen("\"value\":\"A", "\"value\":\"B", 1);
    let newer = text.replacen("\"version\":1", "\"version\":2", 1);
    let changed = text.replacen("\"number\":0,", "\"number\":7000,", 1);
    for (text, words) in [
        (half.as_str(), &["nothing was imported", "cut short"][..]),
        (&other, &["nothing was imported", "line 2 of the export"]),
        (&changed, &["nothing was imported", "its checksum does not match"]),
        (&newer, &["version 2", "run the newer build again"]),
        ("", &["is no export"]),
        ("{}\n", &["is no export"]),
    ] {
        env.file("bad.jsonl", text);
        let refused = expecting(1, state(&env, &["import", env.path("bad.jsonl").to_str().unwrap(), "--yes"]));
        says(&refused, words);
        assert_eq!(exported(&env), records);
        assert_eq!(inventory(&env.state()), ["last-commit", "ledger", "lock"].map(str::to_owned).into());
    }

    let hesitant = expecting(2, state(&env, &["import", path]));
    says(&hesitant, &["would replace the ledger in", "by the export of version", "add --yes"]);
    let replaced = expecting(0, state(&env, &["import", path, "--yes"]));
    says(&replaced, &["imported: ", "ledger.replaced-1"]);
    assert_eq!(exported(&env), records);
    // On another disk nothing needs confirmation.
    fs::remove_dir_all(env.state()).unwrap();
    expecting(0, state(&env, &["import", path]));
    assert_eq!(exported(&env), records);

    env.receiver.answer_always(receiver::Reply::Ok);
    let exporter = env.exporter();
    exporter.until("what waited delivered", |scrape| {
        is(scrape, "cognito_exporter_otlp_records_total", &["outcome=\"accepted\""], 300.0) && idle(scrape)
    });
    // Every user has been polled again.
    env.forget_calls();
    exporter.until("everybody polled", |_| env.polled(POOL).len() == 3);
    assert_eq!(exporter.durable_counters(), before);
    assert!(exporter.stop().success());
}

/// Runs a state command repeatedly on copies of the same state. Each run dies one step later, until the command
/// succeeds. `check` receives the export after each death. `die` makes the command that dies at its n-th step.
fn dying_everywhere(env: &TestEnv, arguments: &[&str], die: impl Fn(u32) -> Command, mut check: impl FnMut(&[String])) {
    let original = env.path("original");
    copy(&env.state(), &original);
    for step in 1.. {
        fs::remove_dir_all(env.state()).unwrap();
        copy(&original, &env.state());
        let output = die(step).arg("state").args(arguments).arg("--config").arg(env.config()).output().unwrap();
        let has_died = output.status.signal().is_some();
        check(&exported(env));
        if !has_died {
            expecting(0, output);
            assert!(step > 3, "it died {step} times");
            break;
        }
        // A repeated command succeeds, or finds that the work is done.
        let again = state(env, arguments);
        assert!(again.status.success() || stderr(&again).contains("nothing is kept of a pool"), "{again:?}");
    }
    expecting(0, state(env, &["verify"]));
    fs::remove_dir_all(&original).unwrap();
}

/// Killed at its n-th write, sync or rename.
fn killed(call: u32) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fsync,rename", "-e"]);
    command.arg(format!("inject=pwrite64,fsync,rename:signal=KILL:when={call}"));
    command.arg(env!("CARGO_BIN_EXE_cognito-auth-exporter"));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_killed_anywhere_leaves_the_one_ledger_or_the_other() {
    if !peers::strace_works() {
        return;
    }
    let env = TestEnv::set(&live(), |world| populate(world, 3, 20)).await;
    run_until_counted(&env, 60.0, 0.0);
    let old = exported(&env);
    env.file("export.jsonl", &stdout(&expecting(0, state(&env, &["export"]))));
    expecting(0, state(&env, &["forget", "--user-pool-id", POOL, "--username", "user-1", "--yes"]));
    let new = exported(&env);
    let path = env.path("export.jsonl");
    let mut found = BTreeSet::new();
    dying_everywhere(&env, &["import", path.to_str().unwrap(), "--yes"], killed, |exported| {
        assert!(exported == old || exported == new, "{exported:?}");
        found.insert(exported == old);
    });
    assert_eq!(found.len(), 2);
    assert_eq!(exported(&env), old);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_or_a_forgetting_that_dies_anywhere_is_done_for_whole_users() {
    // Enough for three writes.
    let env = TestEnv::set(&live(), |world| populate(world, 250, 1)).await;
    run_until_counted(&env, 250.0, 0.0);
    let listed = |exported: &[String]| exported.iter().filter(|line| line.contains("\"record\":\"user\"")).count();
    let totals = |exported: &[String]| exported.iter().any(|line| line.contains("\"record\":\"total\""));
    let original = env.path("before");
    copy(&env.state(), &original);
    let (mut rewound, mut left) = (BTreeSet::new(), BTreeSet::new());
    for step in ["ledger-applied", "ledger-synced"] {
        let die = |count| {
            let mut command = exporter::command("http://127.0.0.1:9");
            command.env("COGNITO_EXPORTER_TEST_STOP_AT", format!("{step}:{count}"));
            command
        };
        let rewind = ["rewind", "--user-pool-id", POOL, "--all", "--to", "2020-01-01T00:00:00Z", "--yes"];
        dying_everywhere(&env, &rewind, die, |exported| {
            assert_eq!(listed(exported), 250);
            let users = json_lines(&expecting(0, state(&env, &["list", "--user-pool-id", POOL, "--output", "json"])));
            rewound.insert(users.iter().filter(|user| !user["rewound"].is_null()).count());
        });
        dying_everywhere(&env, &["forget", "--user-pool-id", POOL, "--all", "--yes"], die, |exported| {
            left.insert((listed(exported), totals(exported)));
        });
        fs::remove_dir_all(env.state()).unwrap();
        copy(&original, &env.state());
    }
    assert_eq!(rewound, [0, 100, 200, 250].into());
    // The pool is removed last: while it exists, the command can be repeated.
    assert_eq!(left, [(0, false), (0, true), (50, true), (100, true), (150, true), (200, true), (250, true)].into());
}
