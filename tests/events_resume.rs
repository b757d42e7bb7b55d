//! `events --resume` with the built binary: interrupted by a signal, by kill -9 and by errors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use cognito_auth_simulator::Simulation;
use cognito_auth_simulator::fault::{AwsError, InjectedFault};
use serde_json::Value;

use crate::events_users::{POOL, asked, events, pool_of, run};
use crate::outputs::{stderr, stdout};

const READS: &str = "AdminListUserAuthEvents";
const USERS: [&str; 4] = ["ada", "bob", "cyd", "dan"];
const EVENTS: i64 = 5;

/// Four users with five events each, read two events at a time: three calls a user.
async fn four_users() -> Simulation {
    pool_of(&USERS.map(|user| (user, EVENTS))).await
}

fn options<'a>(journal: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut options: Vec<_> = USERS.iter().flat_map(|user| ["--username", user]).collect();
    options.extend(["--page-size", "2", "--resume", journal.to_str().unwrap()]);
    options.extend(more);
    options
}

/// Starts a run that makes so few calls that it can be interrupted, and waits until it has made this many.
async fn begun(simulation: &Simulation, options: &[&str], calls: usize) -> Child {
    let slowly = [options, &["--requests-per-second", "5"]].concat();
    let child = events(simulation, &slowly).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    simulation.until(|world| world.calls().count(READS) >= calls).await;
    child
}

async fn ended(child: Child, signal: &str) -> Output {
    assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

/// How often each event was printed.
fn times_printed(text: &str) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        *times.entry(event["EventId"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    times
}

/// The sorted ids of the events in a CSV file, which has one header.
fn csv_ids(file: &Path) -> Vec<String> {
    let csv = fs::read_to_string(file).unwrap();
    assert!(csv.starts_with("Username,") && csv.matches("Username,").count() == 1, "one header");
    let mut ids: Vec<_> = csv.lines().skip(1).map(|line| line.rsplit(',').next().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn everything_once(simulation: &Simulation) -> BTreeMap<String, usize> {
    let ids = simulation.world(|world| {
        USERS.map(|user| world.history(POOL, user)).concat().into_iter().map(|event| event.id.unwrap()).collect()
    });
    let ids: Vec<String> = ids;
    ids.into_iter().map(|id| (id, 1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_signal_nothing_is_printed_twice_and_nothing_is_left_out() {
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let mut text = String::new();
    for (signal, calls) in [("TERM", 2), ("INT", 7)] {
        let output = ended(begun(&simulation, &options(&journal, &[]), calls).await, signal).await;
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("interrupted; run the same command again to continue"), "{}", stderr(&output));
        assert!(journal.exists());
        text += &stdout(&output);
    }
    let (code, lines, error) = run(&simulation, &options(&journal, &[])).await;
    assert_eq!((code, error.as_str()), (0, ""));
    text += &lines.join("\n");
    assert_eq!(times_printed(&text), everything_once(&simulation));
    assert!(!journal.exists(), "a journal ends with its run");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_a_file_has_every_event_once() {
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let (journal, file) = (folder.path().join("journal"), folder.path().join("events.csv"));
    let to_file = ["--output", "csv", "--output-file", file.to_str().unwrap()];
    for calls in [3, 6, 9] {
        drop(ended(begun(&simulation, &options(&journal, &to_file), calls).await, "KILL").await);
        assert!(!file.exists());
    }
    let (code, _, error) = run(&simulation, &options(&journal, &to_file)).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(csv_ids(&file), everything_once(&simulation).into_keys().collect::<Vec<_>>());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_commands_journal_is_refused_by_what_differs() {
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    ended(begun(&simulation, &options(&journal, &["--since", "2h"]), 2).await, "TERM").await;
    let before = fs::read(&journal).unwrap();
    let (code, lines, error) = run(&simulation, &options(&journal, &["--since", "3h"])).await;
    assert_eq!((code, lines.len()), (1, 0));
    assert!(
        error.contains(r#"begun with other arguments: --since was "2h" and is "3h"; use those, or remove it"#),
        "{error}"
    );
    assert_eq!(fs::read(&journal).unwrap(), before);
}

#[tokio::test]
async fn a_user_that_failed_is_tried_again_alone() {
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let (journal, file) = (folder.path().join("journal"), folder.path().join("events"));
    let to_file = ["--output-file", file.to_str().unwrap()];
    let refused = AwsError::new("InvalidParameterException", "try another user");
    // The second page of bob fails.
    simulation.world(|world| world.inject(InjectedFault::from(refused).for_user("bob").after(1).times(1)));
    let (code, _, error) = run(&simulation, &options(&journal, &to_file)).await;
    assert_eq!(code, 1);
    assert!(error.contains("bob: ") && error.contains("run the same command again to try them again"), "{error}");
    assert!(error.contains("the events so far are in ") && error.contains("events.partial"), "{error}");
    simulation.world(|world| world.calls_mut().clear());
    let (code, _, error) = run(&simulation, &options(&journal, &to_file)).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(asked(&simulation), ["bob", "bob"], "from the page that failed");
    assert_eq!(times_printed(&fs::read_to_string(&file).unwrap()), everything_once(&simulation));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_has_expired_is_read_again_and_taken_back_from_a_file() {
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let (journal, file) = (folder.path().join("journal"), folder.path().join("events"));
    let to_file = ["--output", "csv", "--output-file", file.to_str().unwrap()];
    ended(begun(&simulation, &options(&journal, &to_file), 2).await, "TERM").await;
    let expired = AwsError::new("InvalidParameterException", "Invalid pagination token");
    simulation.world(|world| {
        world.calls_mut().clear();
        world.inject(InjectedFault::from(expired).times(1));
    });
    let (code, _, error) = run(&simulation, &options(&journal, &to_file)).await;
    assert_eq!((code, error.as_str()), (0, ""));
    let tokens: Vec<_> =
        simulation.world(|world| world.calls().of(READS).take(2).map(|call| call.token.clone()).collect());
    assert!(tokens[0].is_some() && tokens[1].is_none(), "{tokens:?}");
    assert_eq!(csv_ids(&file), everything_once(&simulation).into_keys().collect::<Vec<_>>());
}
