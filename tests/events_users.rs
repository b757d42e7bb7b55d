//! `events` over several users: who is read, in what window, with which connection, and at what cost.

use std::fs;
use std::process::Command;
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::fault::InjectedFault;
use cognito_auth_simulator::quota::Category;
use cognito_auth_simulator::world::{Role, SimulatedPool, World};
use cognito_auth_simulator::{Options, Simulation};
use serde_json::Value;

use crate::events::{isolate, make_client, output, said};

pub(crate) const POOL: &str = "eu-west-1_Several1";
const ROLE: &str = "arn:aws:iam::111122223333:role/reader";
const READS: &str = "AdminListUserAuthEvents";

/// A simulated pool with these users, each with an event a minute for so many minutes.
pub(crate) async fn pool_of(users: &[(&str, i64)]) -> Simulation {
    let simulation = Simulation::start(Options::default()).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        for (user, events) in users {
            world.add_user(POOL, user);
            sign_in_every_minute(world, user, *events);
        }
    });
    simulation
}

fn sign_in_every_minute(world: &mut World, user: &str, events: i64) {
    for minutes in 1..=events {
        let event = world.sign_in(UnixMillis(world.now().0 - minutes * 60_000));
        world.arrive(POOL, user, &event);
    }
}

/// `events` as a client of the simulation, at a rate that no test waits for.
pub(crate) fn events(simulation: &Simulation, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cognito-auth-exporter"));
    command.args(["events", "--user-pool-id", POOL]).args(options);
    if !options.contains(&"--requests-per-second") {
        command.args(["--requests-per-second", "500"]);
    }
    isolate(&mut command);
    make_client(&mut command, simulation);
    command
}

pub(crate) async fn run(simulation: &Simulation, options: &[&str]) -> (i32, Vec<String>, String) {
    said(&output(events(simulation, options)).await)
}

fn member(line: &str, name: &str) -> String {
    serde_json::from_str::<Value>(line).unwrap()[name].as_str().unwrap().to_owned()
}

fn usernames(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| member(line, "Username")).collect()
}

/// The users of the calls for events, in order.
pub(crate) fn asked(simulation: &Simulation) -> Vec<String> {
    simulation.world(|world| world.calls().of(READS).map(|call| call.user.clone().unwrap()).collect())
}

#[tokio::test]
async fn several_users_come_one_after_the_other_and_each_line_has_its_username() {
    let simulation = pool_of(&[("ada", 2), ("bob", 1)]).await;
    let (code, lines, error) = run(&simulation, &["--username", "bob", "--username", "ada", "--username", "bob"]).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(usernames(&lines), ["bob", "ada", "ada"]);
    assert_eq!(asked(&simulation), ["bob", "ada"]);
    // A name that is given twice is one user, whose lines are the API's own.
    let (_, alone, _) = run(&simulation, &["--username", "bob", "--username", "bob"]).await;
    assert_eq!(alone.len(), 1);
    assert_eq!(lines[0], alone[0].replacen('{', r#"{"Username":"bob","#, 1));
}

#[tokio::test]
async fn a_user_in_two_groups_and_a_file_is_read_once() {
    let simulation = pool_of(&[("ada", 1), ("bob", 1), ("cyd", 1), ("dan", 1)]).await;
    simulation.world(|world| {
        for (group, user) in [("staff", "ada"), ("staff", "bob"), ("admins", "bob"), ("admins", "cyd")] {
            world.add_to_group(POOL, group, user);
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("names");
    fs::write(&file, "# suspects\nada\n\n").unwrap();
    let file = file.to_str().unwrap();
    let (code, lines, error) =
        run(&simulation, &["--group", "staff", "--group", "admins", "--usernames-file", file]).await;
    assert_eq!((code, error.as_str()), (0, ""));
    let mut names = usernames(&lines);
    assert_eq!(names[0], "ada", "those of the file come first");
    names.sort();
    assert_eq!(names, ["ada", "bob", "cyd"]);
    assert_eq!(asked(&simulation).len(), 3);
    fs::write(file, format!("ada\n{}\n# two names\nada bob\n", "x".repeat(129))).unwrap();
    let (code, lines, error) = run(&simulation, &["--usernames-file", file]).await;
    assert_eq!((code, lines.len()), (2, 0));
    assert!(error.contains("has lines that are no usernames: 2 (") && error.ends_with("see line 2, 4\n"), "{error}");
    let (code, _, error) = run(&simulation, &["--usernames-file", "/nowhere/names"]).await;
    assert_eq!(code, 1);
    assert!(error.contains("--usernames-file /nowhere/names cannot be read"), "{error}");
}

#[tokio::test]
async fn everybody_is_read_from_page_to_page_of_the_listing() {
    let names: Vec<String> = (0..65).map(|user| format!("user-{user}")).collect();
    let users: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let simulation = pool_of(&users).await;
    simulation.world(|world| {
        world.add_user_with(POOL, "google_1", |user| user.status = "EXTERNAL_PROVIDER".into());
    });
    let (code, lines, error) = run(&simulation, &["--all-users"]).await;
    assert_eq!(code, 0, "{error}");
    let mut read = usernames(&lines);
    read.sort();
    let mut expected = names.clone();
    expected.sort();
    assert_eq!(read, expected);
    assert!(error.contains("external providers that were left out: 1 (--include-federated reads them)"), "{error}");
    assert_eq!(simulation.world(|world| world.calls().count("ListUsers")), 2);
}

#[tokio::test]
async fn users_and_groups_that_are_not_there_do_not_stop_the_others() {
    let simulation = pool_of(&[("ada", 1)]).await;
    let options = ["--username", "nobody", "--username", "ada", "--group", "nothing"];
    let (code, lines, error) = run(&simulation, &options).await;
    assert_eq!((code, usernames(&lines)), (1, vec!["ada".to_owned()]));
    assert!(error.contains("nobody: user not found (check the username and its case"), "{error}");
    assert!(error.contains("ListUsersInGroup nothing: ") && error.contains("(check --group)"), "{error}");
    assert!(error.ends_with("users or groups that could not be read: 2\n"), "{error}");
}

#[tokio::test]
async fn what_would_meet_every_user_ends_the_run_at_once() {
    let simulation = pool_of(&[("ada", 1), ("bob", 1)]).await;
    simulation.world(|world| world.inject(InjectedFault::access_denied().on(READS)));
    let (code, lines, error) = run(&simulation, &["--username", "ada", "--username", "bob"]).await;
    assert_eq!((code, lines.len()), (1, 0));
    assert!(error.contains("allow cognito-idp:AdminListUserAuthEvents"), "{error}");
    assert_eq!(asked(&simulation), ["ada"]);
}

#[tokio::test]
async fn the_last_two_hours_cost_one_call_of_a_user_with_a_long_history() {
    let simulation = pool_of(&[("ada", 0)]).await;
    let now = simulation.world(|world| {
        // An event every half hour for twelve days.
        for halves in 0..600 {
            let event = world.sign_in(UnixMillis(world.now().0 - halves * 1_800_000 - 60_000));
            world.arrive(POOL, "ada", &event);
        }
        world.now()
    });
    let (code, lines, error) = run(&simulation, &["--username", "ada", "--since", "2h"]).await;
    assert_eq!((code, lines.len(), error.as_str()), (0, 4, ""));
    assert_eq!(asked(&simulation).len(), 1);
    let since = now.minus(Duration::from_hours(4)).to_string();
    let until = now.minus(Duration::from_hours(3)).to_string();
    let (_, lines, _) = run(&simulation, &["--username", "ada", "--since", &since, "--until", &until]).await;
    let dates: Vec<_> = lines.iter().map(|line| member(line, "CreationDate")).collect();
    assert!(dates.len() == 2 && dates.iter().all(|date| *date >= since && *date < until), "{dates:?}");
    let (code, _, error) = run(&simulation, &["--username", "ada", "--since", "1h", "--until", "2h"]).await;
    assert_eq!(code, 2);
    assert!(error.contains("must be before --until"), "{error}");
    // The number of printed events is bounded, not that of the events that were read.
    let limited = ["--username", "ada", "--until", "3d", "--max-items", "5"];
    let (code, lines, error) = run(&simulation, &limited).await;
    assert_eq!((code, lines.len()), (0, 5));
    assert!(error.starts_with("NextToken: "), "{error}");
}

/// At four calls a second, an account that allows five never throttles: its bucket holds one second.
#[tokio::test]
async fn the_rate_holds_over_users_and_pages() {
    let simulation = pool_of(&[("ada", 5), ("bob", 5), ("cyd", 4)]).await;
    simulation.world(|world| world.quotas().set_limit(Category::UserResourceRead, Some(5)));
    let options = ["--username", "ada", "--username", "bob", "--username", "cyd", "--page-size", "1"];
    let (code, lines, error) = run(&simulation, &[&options[..], &["--requests-per-second", "4"]].concat()).await;
    assert_eq!((code, lines.len(), error.as_str()), (0, 14, ""));
    assert!(asked(&simulation).len() >= 14);
    // The same calls at 500 a second would be throttled.
    let (code, _, error) = run(&simulation, &options).await;
    assert_eq!(code, 0, "{error}");
    assert!(error.contains("Cognito throttles the calls; continuing more slowly"), "{error}");
}

#[tokio::test]
async fn a_pool_of_the_configuration_needs_nothing_but_its_name() {
    let simulation = pool_of(&[("ada", 1)]).await;
    simulation.world(|world| world.add_role(Role { arn: ROLE.into(), external_id: Some("shibboleth".into()) }));
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let text = format!(
        "[[pools]]\nid = {POOL:?}\nname = \"customers\"\nrole_arn = {ROLE:?}\nexternal_id = \"shibboleth\"\n\
         all_users = true\n[[pools]]\nid = \"us-east-1_Staff1\"\nall_users = true\n"
    );
    fs::write(&config, text).unwrap();
    let of = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cognito-auth-exporter"));
        command.args(["events", "--username", "ada", "--config", config.to_str().unwrap()]).args(options);
        isolate(&mut command);
        make_client(&mut command, &simulation);
        command
    };
    for options in [["--pool", "customers"], ["--user-pool-id", POOL]] {
        simulation.world(|world| world.calls_mut().clear());
        let (code, lines, error) = said(&output(of(&options)).await);
        assert_eq!((code, lines.len()), (0, 1), "{error}");
        assert_eq!(simulation.world(|world| world.calls().count("AssumeRole")), 1);
    }
    let (code, _, error) = said(&output(of(&["--pool", "clients"])).await);
    assert_eq!(code, 2);
    let told = format!("the configuration has no pool \"clients\"; it has customers ({POOL}), us-east-1_Staff1");
    assert!(error.contains(&told), "{error}");
    let (code, _, error) = said(&output(of(&[])).await);
    assert_eq!(code, 2);
    assert!(error.contains("choose a pool with --pool"), "{error}");
    fs::write(&config, "[[pools]]\nid = \"nonsense\"\n").unwrap();
    let (code, _, error) = said(&output(of(&["--pool", "customers"])).await);
    assert_eq!(code, 2);
    assert!(error.contains("pools[0].id"), "{error}");
}
