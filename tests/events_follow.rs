//! `events --follow` with the built binary: what is new is printed once, and a signal ends it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use cognito_auth_core::event::{EventResponse, UnixMillis, Word};
use cognito_auth_simulator::Simulation;
use cognito_auth_simulator::calls::CallResult;
use cognito_auth_simulator::fault::InjectedFault;
use cognito_auth_simulator::world::World;
use serde_json::Value;

use crate::events_users::{POOL, asked, events, pool_of, run};

/// A follower whose lines the test reads.
struct Following {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Following {
    fn start(simulation: &Simulation, options: &[&str]) -> Self {
        let mut command = events(simulation, &[&["--follow"], options].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Waits for the next line.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        tokio::task::block_in_place(|| self.lines.read_line(&mut line)).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Ends it with this signal. Returns the exit code, the lines that were not read, and the text on stderr.
    fn end(mut self, signal: &str) -> (Option<i32>, String, String) {
        let killed = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let (mut rest, mut error) = (String::new(), String::new());
        tokio::task::block_in_place(|| {
            self.lines.read_to_string(&mut rest).unwrap();
            self.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        });
        (self.child.wait().unwrap().code(), rest, error)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// A sign-in so many seconds ago with this response. Returns its id.
fn sign_in(world: &mut World, user: &str, seconds_ago: i64, response: EventResponse) -> String {
    let mut event = world.sign_in(UnixMillis(world.now().0 - seconds_ago * 1000));
    event.response = Some(Word::Known(response));
    world.arrive(POOL, user, &event);
    event.id.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn new_events_come_once_oldest_first_and_a_revision_again() {
    let simulation = pool_of(&[("ada", 3), ("bob", 3)]).await;
    let mut following = Following::start(&simulation, &["--username", "ada", "--username", "bob"]);
    // The events from before are known after the first poll of both.
    simulation.until(|world| world.calls().count("AdminListUserAuthEvents") >= 3).await;
    let (older, newer) = simulation.world(|world| {
        // The older one arrives late: its date is before the start.
        let newer = sign_in(world, "ada", 0, EventResponse::InProgress);
        (sign_in(world, "ada", 90, EventResponse::Pass), newer)
    });
    let (first, second) = (following.next(), following.next());
    assert_eq!((first["EventId"].as_str(), second["EventId"].as_str()), (Some(&*older), Some(&*newer)));
    assert_eq!((&first["Username"], &second["EventResponse"]), (&"ada".into(), &"InProgress".into()));
    simulation.world(|world| {
        world.revise(POOL, "ada", &newer, |event| event.response = Some(Word::Known(EventResponse::Pass)));
    });
    let revised = following.next();
    assert_eq!((revised["EventId"].as_str(), &revised["EventResponse"]), (Some(&*newer), &"Pass".into()));
    let of_bob = simulation.world(|world| sign_in(world, "bob", 0, EventResponse::Fail));
    assert_eq!(following.next()["EventId"].as_str(), Some(&*of_bob));
    let (code, rest, error) = following.end("TERM");
    assert_eq!((code, rest.as_str()), (Some(0), ""));
    assert!(error.contains("following 2 users; each is polled about every 2s"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_since_the_events_from_then_on_come_first() {
    let simulation = pool_of(&[("ada", 200)]).await;
    let mut following = Following::start(&simulation, &["--username", "ada", "--since", "150m"]);
    let dates: Vec<String> = (0..149).map(|_| following.next()["CreationDate"].as_str().unwrap().to_owned()).collect();
    assert!(dates.is_sorted(), "oldest first");
    let new = simulation.world(|world| sign_in(world, "ada", 0, EventResponse::Pass));
    let last = loop {
        // The 150th event may be inside the window or not: time goes by.
        let line = following.next();
        if line["CreationDate"].as_str() > dates.last().map(String::as_str) {
            break line;
        }
    };
    assert!(last.get("Username").is_none(), "one user's lines are the API's");
    let (code, rest, _) = following.end("INT");
    let all = format!("{last}{rest}");
    assert_eq!(code, Some(0));
    assert_eq!(all.matches(&new).count(), 1, "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_is_told_once_and_following_goes_on() {
    let simulation = pool_of(&[("ada", 1), ("bob", 1)]).await;
    let mut following =
        Following::start(&simulation, &["--username", "ada", "--username", "nobody", "--username", "bob"]);
    simulation.until(|world| world.calls().count("AdminListUserAuthEvents") >= 4).await;
    simulation.world(|world| {
        world.inject(InjectedFault::throttle().times(2));
        world.delete_user(POOL, "bob");
    });
    let gone = CallResult::Refused("UserNotFoundException".into());
    let is_told =
        |world: &World| world.calls().iter().any(|call| call.user.as_deref() == Some("bob") && call.outcome == gone);
    simulation.until(is_told).await;
    let new = simulation.world(|world| sign_in(world, "ada", 0, EventResponse::Pass));
    assert_eq!(following.next()["EventId"].as_str(), Some(&*new));
    let (code, _, error) = following.end("TERM");
    assert_eq!(code, Some(0));
    for told in ["nobody: user not found", "bob: user not found", "no longer followed", "Cognito throttles"] {
        assert!(error.contains(told), "{told}: {error}");
    }
    assert_eq!(asked(&simulation).iter().filter(|user| *user == "nobody").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_leaves_ends_it_although_nothing_is_new() {
    let simulation = pool_of(&[("ada", 1)]).await;
    let mut child = events(&simulation, &["--follow", "--username", "ada"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    simulation.until(|world| world.calls().total() >= 1).await;
    drop(child.stdout.take());
    assert_eq!(tokio::task::block_in_place(|| child.wait()).unwrap().code(), Some(0));
}

#[tokio::test]
async fn when_nobody_can_be_followed_it_ends_and_says_why() {
    let simulation = pool_of(&[("ada", 1)]).await;
    let (code, _, error) = run(&simulation, &["--follow", "--username", "nobody"]).await;
    assert_eq!(code, 1);
    assert!(error.contains("user not found") && error.contains("none of the users can be followed"), "{error}");
    simulation.world(|world| world.inject(InjectedFault::access_denied()));
    let (code, _, error) = run(&simulation, &["--follow", "--all-users"]).await;
    assert_eq!(code, 1);
    assert!(error.contains("allow cognito-idp:ListUsers"), "{error}");
}
