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

#[tokio::test]
async fn a_journal_that_is_the_output_is_refused_before_any_call() {
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events");
    fs::write(&file, "earlier\n").unwrap();
    fs::hard_link(&file, folder.path().join("same")).unwrap();
    let to_file = ["--output-file", file.to_str().unwrap()];
    let around = Path::new("..").join(folder.path().file_name().unwrap()).join("events");
    for journal in ["events", "events.partial", "same", around.to_str().unwrap()] {
        let (code, _, error) = run(&simulation, &options(&folder.path().join(journal), &to_file)).await;
        assert_eq!(code, 2, "{error}");
        assert!(error.contains("is the output's own file: name another one"), "{error}");
    }
    assert_eq!(asked(&simulation).len(), 0);
    assert_eq!(fs::read_to_string(&file).unwrap(), "earlier\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn names_that_are_refused_for_good_do_not_hold_up_the_end() {
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let (journal, file) = (folder.path().join("journal"), folder.path().join("events"));
    let bad: Vec<_> = (0..12).map(|number| format!("bad-{number}")).collect();
    let refused = AwsError::new("InvalidParameterException", "no such form of a name");
    for name in &bad {
        simulation.world(|world| world.inject(InjectedFault::from(refused.clone()).for_user(name)));
    }
    let mut options: Vec<_> = bad.iter().flat_map(|name| ["--username", name]).collect();
    options.extend(USERS.iter().flat_map(|user| ["--username", user]));
    options.extend(["--output-file", file.to_str().unwrap(), "--resume", journal.to_str().unwrap()]);
    let (code, _, error) = run(&simulation, &options).await;
    assert_eq!(code, 1);
    assert!(error.ends_with("users or groups that could not be read: 12\n"), "{error}");
    assert_eq!(times_printed(&fs::read_to_string(&file).unwrap()), everything_once(&simulation));
    assert!(!journal.exists(), "another run would find the same");
}

#[tokio::test]
async fn users_that_failed_are_tried_after_all_others() {
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let (journal, file) = (folder.path().join("journal"), folder.path().join("events"));
    let to_file = ["--output-file", file.to_str().unwrap()];
    // What meets everybody ends the run, so dan is not read.
    simulation.world(|world| {
        world.inject(InjectedFault::from(AwsError::new("InternalErrorException", "later")).for_user("ada").times(5));
        world.inject(InjectedFault::access_denied().for_user("cyd").times(1));
    });
    let (code, _, error) = run(&simulation, &options(&journal, &to_file)).await;
    assert_eq!(code, 1, "{error}");
    simulation.world(|world| world.calls_mut().clear());
    let (code, _, error) = run(&simulation, &options(&journal, &to_file)).await;
    assert_eq!((code, error.as_str()), (0, ""));
    let mut order = asked(&simulation);
    order.dedup();
    assert_eq!(order, ["cyd", "dan", "ada"]);
    assert_eq!(times_printed(&fs::read_to_string(&file).unwrap()), everything_once(&simulation));
}

#[tokio::test]
async fn events_that_had_to_be_written_twice_are_told() {
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let (journal, file) = (folder.path().join("journal"), folder.path().join("events"));
    let to_file = ["--output-file", file.to_str().unwrap()];
    let refused = AwsError::new("InvalidParameterException", "Invalid pagination token");
    // The second page of bob fails, the others follow, and then its place has expired.
    simulation.world(|world| world.inject(InjectedFault::from(refused.clone()).for_user("bob").after(1).times(1)));
    assert_eq!(run(&simulation, &options(&journal, &to_file)).await.0, 1);
    simulation.world(|world| world.inject(InjectedFault::from(refused).for_user("bob").times(1)));
    let (code, _, error) = run(&simulation, &options(&journal, &to_file)).await;
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("bob: the place where it was interrupted has expired"), "{error}");
    assert!(
        error.ends_with("users of whom events may be there twice: 1 (the same EventId is the same event)\n"),
        "{error}"
    );
    let times = times_printed(&fs::read_to_string(&file).unwrap());
    assert_eq!(times.len(), everything_once(&simulation).len());
    assert_eq!(times.values().filter(|times| **times == 2).count(), 2, "the first page of bob");
    assert!(!journal.exists());
}

#[tokio::test]
async fn a_failed_user_whose_place_expires_is_taken_back_while_nothing_follows() {
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let (journal, file) = (folder.path().join("journal"), folder.path().join("events"));
    let to_file = ["--output-file", file.to_str().unwrap()];
    let refused = AwsError::new("InvalidParameterException", "Invalid pagination token");
    // The second page of dan, the last user, fails.
    simulation.world(|world| world.inject(InjectedFault::from(refused.clone()).for_user("dan").after(1).times(1)));
    assert_eq!(run(&simulation, &options(&journal, &to_file)).await.0, 1);
    simulation.world(|world| world.inject(InjectedFault::from(refused).for_user("dan").times(1)));
    let (code, _, error) = run(&simulation, &options(&journal, &to_file)).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(times_printed(&fs::read_to_string(&file).unwrap()), everything_once(&simulation));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_journals_do_not_share_an_output() {
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let [one, other, file] = ["one", "other", "events"].map(|name| folder.path().join(name));
    let to_file = ["--output-file", file.to_str().unwrap()];
    let first = begun(&simulation, &options(&one, &to_file), 2).await;
    let (code, _, error) = run(&simulation, &options(&other, &to_file)).await;
    assert_eq!(code, 1);
    assert!(error.contains("another run uses the file ") && error.contains("events.partial"), "{error}");
    ended(first, "TERM").await;
    let (code, _, error) = run(&simulation, &options(&other, &to_file)).await;
    assert_eq!(code, 1);
    assert!(error.contains("events.partial is there and does not belong to this journal"), "{error}");
    assert!(!other.exists(), "a journal of nothing is not left");
    let (code, _, error) = run(&simulation, &options(&one, &to_file)).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(times_printed(&fs::read_to_string(&file).unwrap()), everything_once(&simulation));
}

#[tokio::test]
async fn a_journal_that_is_a_pipe_is_refused() {
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (code, _, error) = run(&simulation, &options(&pipe, &[])).await;
    assert_eq!(code, 1);
    assert!(error.contains("is a pipe, not a regular file: name another one"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_around_the_last_move_is_completed_without_a_call() {
    use std::os::unix::fs::MetadataExt as _;
    let simulation = four_users().await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (journal, file) = (at("journal"), at("events"));
    let to_file = ["--output-file", file.to_str().unwrap()];
    ended(begun(&simulation, &options(&journal, &to_file), 2).await, "TERM").await;
    simulation.world(|world| world.calls_mut().clear());
    // What a run notes before it moves the file.
    let partial = fs::metadata(at("events.partial")).unwrap();
    let complete =
        format!("{{\"complete\":{{\"bytes\":{},\"inode\":{},\"failed\":1}}}}\n", partial.len(), partial.ino());
    let mut text = fs::read_to_string(&journal).unwrap();
    text += &complete;
    let events = fs::read_to_string(at("events.partial")).unwrap();
    // Killed before the move, and then after it.
    for _ in 0..2 {
        fs::write(&journal, &text).unwrap();
        let (code, _, error) = run(&simulation, &options(&journal, &to_file)).await;
        assert_eq!(code, 1);
        assert!(error.ends_with("users or groups that could not be read: 1\n"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), events);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "neither journal nor partial file is left");
    }
    assert_eq!(asked(&simulation).len(), 0);
}
