//! The command line for a new user: clear messages on stderr, data on stdout, and meaningful exit codes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use cognito_auth_simulator::fault::InjectedFault;
use cognito_auth_simulator::world::SimulatedPool;
use cognito_auth_simulator::{Options, Simulation};

use crate::exporter;
use crate::exporter::Exporter;
use crate::outputs::{stderr, stdout};
use crate::peers;

const POOL: &str = "eu-west-1_CommandLine";
const NOWHERE: &str = "http://127.0.0.1:9";

fn run(cognito: &str, directory: &std::path::Path, arguments: &[&str]) -> Output {
    exporter::command(cognito).current_dir(directory).args(arguments).output().unwrap()
}

#[test]
fn without_a_configuration_it_says_where_to_begin() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(NOWHERE, directory.path(), &["run"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("pools") && said.contains("config.example.toml") && said.contains("demo"), "{said}");
}

#[test]
fn every_mistake_is_told_at_once_with_key_and_origin() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("config.toml"),
        "[[pools]]\nid = \"nonsense\"\nall_users = true\n[poll]\npage_size = 61\npage_sizes = 1\n",
    )
    .unwrap();
    let output = run(NOWHERE, directory.path(), &["run"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    for key in ["pools[0].id", "poll.page_size", "did you mean poll.page_size?", "config.toml"] {
        assert!(said.contains(key), "{key}: {said}");
    }
}

#[test]
fn help_version_and_unknown_commands_are_as_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let help = run(NOWHERE, directory.path(), &["--help"]);
    assert!(help.status.success());
    for command in
        ["run", "demo", "events", "check", "hash", "quarantine", "idle", "completions", "man", "Exit status", "SIGHUP"]
    {
        assert!(stdout(&help).contains(command), "{command}");
    }
    assert!(stdout(&run(NOWHERE, directory.path(), &["--version"])).contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(run(NOWHERE, directory.path(), &["fly"]).status.code(), Some(2));
}

/// The build script runs before anything is compiled for a target. Cargo names the target's family in a variable.
#[test]
fn a_build_for_windows_says_that_it_is_not_supported() {
    let folder = tempfile::tempdir().unwrap();
    let (script, source) = (folder.path().join("build"), concat!(env!("CARGO_MANIFEST_DIR"), "/build.rs"));
    assert!(Command::new("rustc").args(["--edition=2024", source, "-o"]).arg(&script).status().unwrap().success());
    let says = |unix: Option<&str>| {
        let output = Command::new(&script).env_clear().envs(unix.map(|value| ("CARGO_CFG_UNIX", value))).output();
        stdout(&output.unwrap())
    };
    let refused = says(None);
    assert!(refused.contains("cargo::error=cognito-auth-exporter does not support Windows"), "{refused}");
    assert!(refused.contains("Linux or macOS, or in WSL"), "{refused}");
    assert!(!says(Some("")).contains("cargo::error"));
}

#[test]
fn the_demo_needs_nothing_and_leaves_nothing_behind() {
    let said = demo(&[]);
    assert!(!said.contains("log group"));
    // The log of the end is not that of `run`, whose state stays.
    assert!(said.contains("stopped") && !said.contains("after the next start"), "{said}");
    assert!(said.contains("its state is removed") && said.contains("cognito-auth-exporter check"), "{said}");
}

#[test]
fn the_demo_can_export_its_events_to_a_log_group() {
    assert!(demo(&["--export"]).contains("log group"));
}

/// The demo with a folder of its own for temporary files.
fn demo_command(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cognito-auth-exporter"));
    command.env_clear().env("TMPDIR", temporary);
    command.args(["demo", "--listen", "127.0.0.1:0", "--users", "60"]).args(arguments);
    command
}

/// Runs the demo for five seconds, and looks at its records. Returns what it says.
fn demo(arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let output = demo_command(directory.path(), &["--duration", "5s"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("/metrics"));
    let records: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!records.is_empty());
    assert!(records.iter().all(|record| record["event_name"].as_str().unwrap().starts_with("aws.cognito.auth.")));
    assert!(stderr(&output).contains(&format!("It printed {} records", records.len())), "{}", stderr(&output));
    is_empty(directory.path());
    stderr(&output)
}

fn is_empty(temporary: &Path) {
    assert_eq!(std::fs::read_dir(temporary).unwrap().count(), 0, "nothing stays behind");
}

#[test]
fn the_demo_ends_when_its_reader_does_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut demo = demo_command(directory.path(), &[]);
    let mut demo = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().take(2).all(|line| line.unwrap().starts_with('{')));
    // As `head -2` does.
    drop(lines);
    let ended = demo.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", stderr(&ended));
    assert!(stderr(&ended).contains("because the reader of stdout has closed it"), "{}", stderr(&ended));
    assert!(!stderr(&ended).contains("ERROR"), "{}", stderr(&ended));
    is_empty(directory.path());
}

#[test]
fn the_demo_ends_well_even_if_nobody_reads_its_messages_either() {
    let directory = tempfile::tempdir().unwrap();
    let demo = demo_command(directory.path(), &[]);
    let mut shell = Command::new("sh");
    // The third descriptor leads past the pipe.
    shell.args(["-c", "{ { \"$0\" \"$@\" 2>&1; echo $? >&3; } | head -2 >/dev/null; } 3>&1"]);
    shell.arg(demo.get_program()).args(demo.get_args()).env("TMPDIR", directory.path());
    assert_eq!(stdout(&shell.output().unwrap()), "0\n");
    is_empty(directory.path());
}

#[test]
fn the_quiet_demo_prints_no_records() {
    let directory = tempfile::tempdir().unwrap();
    let output = demo_command(directory.path(), &["--quiet", "--duration", "3s"]).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(stderr(&output).contains("not printed, as --quiet asks"), "{}", stderr(&output));
}

#[test]
fn on_a_terminal_the_demo_prints_sentences_above_its_addresses() {
    if !peers::has("script") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_cognito-auth-exporter");
    let line = format!("{program} demo --listen 127.0.0.1:0 --users 60 --duration 5s");
    let shown = |name: &str, value: &str| {
        let mut command = peers::on_terminal(&line);
        let output = command.env("TMPDIR", directory.path()).env_remove("NO_COLOR").env(name, value).output().unwrap();
        assert!(output.status.success(), "{}", stdout(&output));
        stdout(&output)
    };
    let (coloured, plain, dumb) = (shown("LANG", "C"), shown("NO_COLOR", "1"), shown("TERM", "dumb"));
    for text in [&coloured, &plain, &dumb] {
        assert!(text.contains("Sign-in of ") && text.contains(" in demo from "), "{text}");
        assert!(!text.contains("\"event_name\""), "{text}");
        assert!(text.matches("/metrics  Ctrl-C ends").count() > 1, "the addresses come again: {text}");
        assert!(text.contains("The demo has ended. It printed "), "{text}");
        assert!(!text.contains("after the next start") && !text.contains("is running"), "{text}");
    }
    assert!(coloured.contains("\u{1b}[32mINFO \u{1b}[0m Sign-in of "), "{coloured}");
    assert!(plain.contains("Z INFO  Sign-in of ") && !plain.contains("\u{1b}[32m"), "{plain}");
    assert!(!dumb.contains('\u{1b}'), "{dumb}");
    is_empty(directory.path());
}

async fn world() -> Simulation {
    let simulation = Simulation::start(Options::default()).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "somebody");
    });
    simulation
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_or_a_state_in_use_is_said_with_what_to_do() {
    let simulation = world().await;
    let directory = tempfile::tempdir().unwrap();
    let config = exporter::configure(directory.path(), &format!("[[pools]]\nid = {POOL:?}\nall_users = true\n"));
    let running = Exporter::start(&config, &simulation.url());
    let output = run(&simulation.url(), directory.path(), &["run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another process"), "{}", stderr(&output));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = tempfile::tempdir().unwrap();
    let config = exporter::configure(other.path(), &format!("[[pools]]\nid = {POOL:?}\nall_users = true\n"));
    let listen = format!("listen = \"{}\"", taken.local_addr().unwrap());
    let text = std::fs::read_to_string(&config).unwrap().replace("listen = \"127.0.0.1:0\"", &listen);
    std::fs::write(&config, text).unwrap();
    let output = run(&simulation.url(), other.path(), &["run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&taken.local_addr().unwrap().to_string()), "{}", stderr(&output));
    assert!(running.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_a_success_also_while_nothing_can_be_reached() {
    let directory = tempfile::tempdir().unwrap();
    let text = format!("[[pools]]\nid = {POOL:?}\nall_users = true\n[otlp]\nendpoint = {NOWHERE:?}\n");
    let config = exporter::configure(directory.path(), &text);
    assert!(Exporter::start(&config, NOWHERE).stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tries_everything_and_names_the_remedy() {
    let simulation = world().await;
    let directory = tempfile::tempdir().unwrap();
    exporter::configure(directory.path(), &format!("[[pools]]\nid = {POOL:?}\nall_users = true\n"));
    let good = run(&simulation.url(), directory.path(), &["check"]);
    let said = stdout(&good);
    assert!(good.status.success(), "{said}{}", stderr(&good));
    for step in ["configuration", "state", "http.listen", "otlp", "credentials", "DescribeUserPool", "ListUsers"] {
        assert!(said.contains(step), "{step}: {said}");
    }
    assert!(said.contains("AdminListUserAuthEvents") && said.contains("max_interval"), "{said}");
    assert!(!said.contains("somebody"), "no username: {said}");

    simulation.world(|world| world.inject(InjectedFault::access_denied()));
    let denied = run(&simulation.url(), directory.path(), &["check"]);
    let said = stdout(&denied);
    assert_eq!(denied.status.code(), Some(1), "{said}");
    assert!(said.contains("FAIL") && said.contains("cognito-idp:ListUsers"), "{said}");

    simulation.world(|world| {
        world.remove_all_faults();
        world.pool_mut(POOL).threat_protection = "OFF".into();
    });
    let planless = run(&simulation.url(), directory.path(), &["check"]);
    assert_eq!(planless.status.code(), Some(1), "{}", stdout(&planless));
    assert!(stdout(&planless).to_lowercase().contains("threat protection"), "{}", stdout(&planless));

    let unreachable = run(NOWHERE, directory.path(), &["check"]);
    assert_eq!(unreachable.status.code(), Some(1));
}

#[test]
fn the_policy_in_deploy_is_the_documented_one() {
    let page = include_str!("../docs/permissions-and-cost.md");
    let policy = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(policy, Some(include_str!("../deploy/iam-policy.json")));
}

#[test]
fn shells_and_manuals_say_what_the_help_says() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(NOWHERE, directory.path(), &["completions", shell]);
        assert!(output.status.success());
        let script = stdout(&output);
        assert!(script.contains("quarantine") && script.contains("page-size"), "{script}");
    }
    let script = directory.path().join("complete.bash");
    std::fs::write(&script, stdout(&run(NOWHERE, directory.path(), &["completions", "bash"]))).unwrap();
    assert!(std::process::Command::new("bash").arg("-n").arg(&script).status().unwrap().success());
    let man = stdout(&run(NOWHERE, directory.path(), &["man"]));
    for said in [".TH", "cognito\\-auth\\-exporter", "Exit status", "SIGHUP", "quarantine"] {
        assert!(man.contains(said), "{said}: {man}");
    }
    let man = stdout(&run(NOWHERE, directory.path(), &["man", "events"]));
    assert!(man.contains("page\\-size"), "{man}");
    let unknown = run(NOWHERE, directory.path(), &["man", "nothing"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("there are run, check, config, demo"), "{}", stderr(&unknown));
}

/// What packages install: a page for the program and for each command, in a directory that is there.
#[test]
fn every_page_of_the_manual_is_written_for_packages() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man");
    let into = |path: &Path| run(NOWHERE, directory.path(), &["man", "--output-dir", path.to_str().unwrap()]);
    let refused = into(&pages);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("write the pages into"), "{}", stderr(&refused));
    std::fs::create_dir(&pages).unwrap();
    assert!(into(&pages).status.success());
    for page in ["", "-run", "-events", "-state", "-state-rewind", "-quarantine-drop", "-man"] {
        let text = std::fs::read_to_string(pages.join(format!("cognito-auth-exporter{page}.1"))).unwrap();
        assert!(text.contains(".TH"), "{page}: {text}");
    }
}

#[test]
fn a_web_configuration_with_mistakes_is_bad_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let text = "[[pools]]\nid = \"eu-west-1_Abc123\"\nall_users = true\n[http]\nweb_config_file = \"web.yml\"\n";
    std::fs::write(directory.path().join("config.toml"), text).unwrap();
    std::fs::write(directory.path().join("web.yml"), "basic_auth_users: {ann: secret}\nx: 1\n").unwrap();
    for command in ["run", "check"] {
        let output = run(NOWHERE, directory.path(), &[command]);
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        assert!(said.contains("web.yml: basic_auth_users.ann") && said.contains("there is no key x"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
    std::fs::write(directory.path().join("web.yml"), "tls_server_config: {cert_file: a.pem, key_file: b.pem}\n")
        .unwrap();
    let said = stderr(&run(NOWHERE, directory.path(), &["run"]));
    assert_eq!(said.matches("cert_file: cannot read").count(), 1, "each cause once: {said}");
}
