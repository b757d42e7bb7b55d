//! `events` as its user sees it: the built program, its exit codes, its output on stdout and stderr, and its
//! credentials.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Output, Stdio};

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::fault::InjectedFault;
use cognito_auth_simulator::world::{Role, SimulatedPool};
use cognito_auth_simulator::{Options, Simulation};

use crate::peers;

const POOL: &str = "eu-west-1_Example";
const USER: &str = "ada-lovelace";
const ROLE: &str = "arn:aws:iam::444455556666:role/reader";

/// A simulated user with this many events, a minute apart.
async fn ada(events: i64) -> Simulation {
    let simulation = Simulation::start(Options::default()).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, USER);
        for minutes in 1..=events {
            let event = world.sign_in(UnixMillis(world.now().0 - minutes * 60_000));
            world.arrive(POOL, USER, &event);
        }
        world.add_role(Role { arn: ROLE.into(), external_id: Some("shibboleth".into()) });
    });
    simulation
}

/// The program with an environment of its own, without credentials and endpoint.
fn bare(options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cognito-auth-exporter"));
    command.args(["events", "--user-pool-id", POOL, "--username", USER]).args(options);
    isolate(&mut command);
    command
}

/// Takes the machine's environment away from a command.
pub(crate) fn isolate(command: &mut Command) {
    command
        .env_clear()
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .stdin(Stdio::null());
}

/// The program as a client of the simulation.
fn events(simulation: &Simulation, options: &[&str]) -> Command {
    let mut command = bare(options);
    make_client(&mut command, simulation);
    command
}

/// Makes a command a client of the simulation.
pub(crate) fn make_client(command: &mut Command, simulation: &Simulation) {
    command
        .env("AWS_ENDPOINT_URL", simulation.url())
        .env("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
        .env("AWS_SECRET_ACCESS_KEY", "not-a-secret");
}

/// Runs a command to its end.
pub(crate) async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The exit code, the lines on stdout, and the text on stderr.
pub(crate) fn said(output: &Output) -> (i32, Vec<String>, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout).lines().map(str::to_owned).collect(), text(&output.stderr))
}

#[tokio::test]
async fn one_event_a_line_newest_first_and_a_token_where_it_was_cut() {
    let simulation = ada(5).await;
    let (code, lines, error) = said(&output(events(&simulation, &["--page-size", "2", "--max-items", "3"])).await);
    assert_eq!((code, lines.len()), (0, 3), "{error}");
    let token = error.trim_end().strip_prefix("NextToken: ").unwrap();
    let (code, rest, error) = said(&output(events(&simulation, &["--starting-token", token])).await);
    assert_eq!((code, error.as_str()), (0, ""));
    let ids: Vec<String> = lines
        .iter()
        .chain(&rest)
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["EventId"].as_str().unwrap().to_owned())
        .collect();
    let history = simulation.world(|world| world.history(POOL, USER));
    assert_eq!(ids, history.into_iter().map(|event| event.id.unwrap()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_table_has_a_head_and_a_row_for_each_event() {
    let simulation = ada(2).await;
    let (code, lines, error) = said(&output(events(&simulation, &["--output", "table"])).await);
    assert_eq!((code, lines.len(), error.as_str()), (0, 3, ""));
    assert!(lines[0].starts_with("CreationDate") && lines[0].ends_with("EventId"));
}

#[tokio::test]
async fn a_reader_who_has_seen_enough_ends_it_quietly() {
    let simulation = ada(2000).await;
    let mut child =
        events(&simulation, &["--page-size", "10"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        (child.wait().unwrap().code(), error)
    });
    assert_eq!(ended.await.unwrap(), (Some(0), String::new()));
    assert!(simulation.world(|world| world.calls().total()) < 200);
}

#[tokio::test]
async fn a_bar_shows_on_a_terminal_alone_and_not_where_events_are_printed() {
    if !peers::has("script") {
        return;
    }
    let simulation = ada(150).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events");
    let on_terminal = |rest: &str| {
        let line = format!(
            "{:?} events --user-pool-id {POOL} --username {USER}{rest}",
            env!("CARGO_BIN_EXE_cognito-auth-exporter")
        );
        let mut command = peers::on_terminal(&line);
        isolate(&mut command);
        command.envs([("PATH", "/usr/bin:/bin"), ("SHELL", "/bin/sh"), ("TERM", "xterm")]);
        make_client(&mut command, &simulation);
        command
    };
    // Into a file: the progress bar, and the same events as without a terminal.
    let (code, shown, _) = said(&output(on_terminal(&format!(" >{file:?}"))).await);
    assert!(code == 0 && shown.concat().contains("events read"), "{shown:?}");
    let plain = events(&simulation, &[]);
    let (code, lines, error) = said(&output(plain).await);
    assert_eq!((code, lines.len(), error.as_str()), (0, 150, ""));
    assert_eq!(fs::read_to_string(&file).unwrap().lines().collect::<Vec<_>>(), lines);
    // To the terminal, or to a program that may write to it: no progress bar between the events.
    for rest in ["", " | cat"] {
        let (code, shown, _) = said(&output(on_terminal(rest)).await);
        assert_eq!((code, shown), (0, lines.clone()));
    }
    // Without a terminal there is no bar, wherever the events go.
    let mut to_file = events(&simulation, &[]);
    to_file.stdout(fs::File::create(&file).unwrap()).stderr(Stdio::piped());
    let ended =
        tokio::task::spawn_blocking(move || to_file.spawn().unwrap().wait_with_output().unwrap()).await.unwrap();
    assert_eq!(said(&ended), (0, vec![], String::new()));
}

#[tokio::test]
async fn a_failure_says_what_to_do_and_a_wrong_argument_is_another_exit_code() {
    let simulation = ada(1).await;
    for (fault, told) in [
        (
            InjectedFault::access_denied(),
            "allow cognito-idp:AdminListUserAuthEvents on arn:aws:cognito-idp:eu-west-1:*:",
        ),
        (InjectedFault::expired_token(), "renew the credentials"),
    ] {
        simulation.world(|world| {
            world.remove_all_faults();
            world.inject(fault);
        });
        let (code, lines, error) = said(&output(events(&simulation, &[])).await);
        assert_eq!((code, lines.len()), (1, 0));
        assert!(error.contains(told), "{error}");
    }
    let (code, _, error) = said(&output(events(&simulation, &["--page-size", "61"])).await);
    assert_eq!(code, 2);
    assert!(error.contains("--page-size"), "{error}");
}

#[tokio::test]
async fn a_throttle_is_waited_out() {
    let simulation = ada(1).await;
    simulation.world(|world| world.inject(InjectedFault::throttle().times(1)));
    let (code, lines, error) = said(&output(events(&simulation, &[])).await);
    assert_eq!((code, lines.len()), (0, 1), "{error}");
}

#[tokio::test]
async fn without_credentials_it_says_so_and_not_that_a_dispatch_failed() {
    let simulation = ada(1).await;
    let mut command = bare(&[]);
    command.env("AWS_ENDPOINT_URL", simulation.url());
    let (code, _, error) = said(&output(command).await);
    assert_eq!(code, 1);
    assert!(error.contains("no AWS credentials found") && error.contains("give the exporter credentials"), "{error}");
    assert!(!error.contains("dispatch"), "{error}");
    assert_eq!(simulation.world(|world| world.calls().total()), 0);
}

#[tokio::test]
async fn a_profile_that_is_asked_for_wins_over_the_environments_keys() {
    let simulation = ada(1).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    fs::write(&file, "[audit]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = not-a-secret\n").unwrap();
    let mut command = events(&simulation, &["--profile", "audit"]);
    command.env("AWS_SHARED_CREDENTIALS_FILE", &file);
    assert_eq!(said(&output(command).await).0, 0);
    let mut command = events(&simulation, &["--profile", "absent"]);
    command.env("AWS_SHARED_CREDENTIALS_FILE", &file);
    let (code, _, error) = said(&output(command).await);
    assert_eq!(code, 1);
    assert!(error.contains("absent"), "{error}");
    let keys: Vec<_> = simulation.world(|world| world.calls().iter().map(|call| call.access_key.clone()).collect());
    assert_eq!(keys, [Some("AKIAPROFILE".to_owned())]);
}

#[tokio::test]
async fn a_role_is_assumed_with_its_external_id_and_the_services_own_endpoints_are_honoured() {
    let (cognito, sts) = (ada(1).await, ada(0).await);
    cognito.world(|world| world.pool_mut(POOL).account_id = "444455556666".into());
    let options = ["--role-arn", ROLE, "--external-id", "shibboleth"];
    let mut command = events(&cognito, &options);
    command
        .env_remove("AWS_ENDPOINT_URL")
        .env("AWS_ENDPOINT_URL_COGNITO_IDENTITY_PROVIDER", cognito.url())
        .env("AWS_ENDPOINT_URL_STS", sts.url());
    let (code, _, error) = said(&output(command).await);
    let asked = |simulation: &Simulation| {
        simulation.world(|world| world.calls().iter().map(|call| call.operation.clone()).collect::<Vec<_>>())
    };
    assert_eq!(asked(&sts), ["AssumeRole"]);
    assert_eq!(asked(&cognito), ["AdminListUserAuthEvents"]);
    assert_eq!(code, 0, "{error}");
}
