//! The followed users of the built binary. It starts with the stored users and follows each listed page at once. It
//! drops a user only after a complete listing without the user.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::calls::Call;
use cognito_auth_simulator::fault::{FaultKind, InjectedFault};
use cognito_auth_simulator::world::{SimulatedPool, World};

use crate::exporter::Exporter;
use crate::test_env::{MINUTE, TestEnv, followed, is, now, said, sign_ins, until_followed};

const POOL: &str = "eu-west-1_Roster";
const LIST: &str = "ListUsers";

/// Fast polling, a listing every ten seconds, and no history.
const QUICK: &str = "[poll]\nrequests_per_second = 800\nmin_interval = \"1s\"\nfirst_run = \"none\"\n\
                     [discovery]\ninterval = \"10s\"\nrequests_per_second = 30\n";

fn everybody() -> String {
    format!("[[pools]]\nid = {POOL:?}\nall_users = true\n{QUICK}")
}

/// Adds a pool of users that were created long before they are followed.
fn pool_of(world: &mut World, users: usize) {
    world.add_pool(SimulatedPool::new(POOL));
    (0..users).for_each(|user| {
        world.add_user_with(POOL, &name(user), |user| user.created = UnixMillis(now().0 - 100 * MINUTE));
    });
}

fn name(user: usize) -> String {
    format!("user-{user:03}")
}

/// Waits until this many live events are counted, and checks that there are no more, and no history.
fn until_counted(exporter: &Exporter, events: usize) {
    let scrape = exporter.until(&format!("{events} events"), |scrape| {
        scrape.sum("cognito_auth_events_total", &[]) > events as f64 - 0.5
    });
    assert!(is(&scrape, "cognito_auth_events_total", &[], events as f64), "{}", scrape.interesting());
    assert!(is(&scrape, "cognito_auth_history_events_total", &[], 0.0), "{}", scrape.interesting());
}

fn listings(world: &World) -> Vec<Call> {
    world.calls().of(LIST).cloned().collect()
}

/// Waits until every user's events were read once more, so that an event counted twice would show.
async fn another_look(env: &TestEnv, users: &BTreeSet<String>) {
    env.forget_calls();
    env.until_all_polled(POOL, users).await;
    env.forget_calls();
    env.until_all_polled(POOL, users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stored_roster_is_polled_while_listing_is_denied_throttled_or_hangs() {
    let env = TestEnv::set(&everybody(), |world| pool_of(world, 3)).await;
    let exporter = env.exporter();
    until_followed(&exporter, 3);
    env.until_all_polled(POOL, &(0..3).map(name).collect()).await;
    assert!(exporter.stop().success());

    let hang = InjectedFault::new(FaultKind::Hang);
    for (round, fault) in (1..).zip([InjectedFault::access_denied(), InjectedFault::throttle(), hang]) {
        env.simulation.world(|world| {
            world.remove_all_faults();
            world.calls_mut().clear();
            world.inject(fault.on(LIST));
            (0..3).for_each(|user| sign_ins(world, POOL, &name(user), 1, now()));
        });
        let exporter = env.exporter();
        // Events during the downtime are live.
        until_counted(&exporter, 3 * round);
        env.until("a listing", |world| world.calls().count(LIST) > 0).await;
        env.until_polled(POOL, &name(0), 2).await;
        assert!(followed(&exporter.scrape(), 3));
        exporter.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_breaks_off_removes_nobody_and_goes_on_where_it_was() {
    const USERS: usize = 150;
    let env = TestEnv::set(&everybody(), |world| pool_of(world, USERS)).await;
    let exporter = env.exporter();
    until_followed(&exporter, USERS);
    // A user on the first page is deleted, and the second page fails twice.
    env.simulation.world(|world| {
        world.calls_mut().clear();
        world.delete_user(POOL, &name(7));
        world.inject(InjectedFault::internal_error().on(LIST).after(1).times(2));
    });
    env.until("a page that fails", |world| listings(world).len() >= 2).await;
    exporter.until("the deleted one, missing and followed", |scrape| {
        is(scrape, "cognito_exporter_users", &["state=\"missing\""], 1.0) && followed(scrape, USERS)
    });
    let of_last_page = |call: &Call| call.token.as_deref() == Some("users-120");
    let last_page_read = Cell::new(false);
    exporter.until("the deleted one, gone", |scrape| {
        let is_read = env.simulation.world(|world| listings(world).iter().any(of_last_page));
        last_page_read.set(last_page_read.get() || is_read);
        assert!(followed(scrape, USERS) || last_page_read.get(), "somebody left before the listing's end");
        followed(scrape, USERS - 1)
    });
    let tokens: Vec<_> =
        env.simulation.world(|world| listings(world).into_iter().map(|call| call.token.unwrap_or_default()).collect());
    assert_eq!(tokens[..5], ["", "users-60", "users-60", "users-60", "users-120"], "each page as often as it failed");
    // The deleted user is not polled any more.
    let others: BTreeSet<_> = (0..USERS).map(name).filter(|other| *other != name(7)).collect();
    another_look(&env, &others).await;
    assert_eq!(env.polled(POOL), others);
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_begins_its_listing_again_and_removes_nobody() {
    const USERS: usize = 130;
    let env = TestEnv::set(&everybody(), |world| {
        pool_of(world, USERS);
        let refused = cognito_auth_simulator::fault::AwsError::new("InvalidParameterException", "Invalid token");
        world.inject(InjectedFault::from(refused).on(LIST).after(2).times(1));
    })
    .await;
    let exporter = env.exporter();
    until_followed(&exporter, USERS);
    let tokens: Vec<_> =
        env.simulation.world(|world| listings(world).into_iter().map(|call| call.token.unwrap_or_default()).collect());
    assert_eq!(tokens[..6], ["", "users-59", "users-119", "", "users-59", "users-119"]);
    assert_eq!(said(&exporter.log(), &["WARN"]), Vec::<String>::new());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_goes_on_who_is_another_begins_anew_and_a_newcomers_events_are_live() {
    let config = format!("[[pools]]\nid = {POOL:?}\ngroups = [\"staff\"]\n{QUICK}");
    let env = TestEnv::set(&config, |world| {
        pool_of(world, 3);
        (0..3).for_each(|user| world.add_to_group(POOL, "staff", &name(user)));
    })
    .await;
    let exporter = env.exporter();
    until_followed(&exporter, 3);
    env.until_all_polled(POOL, &(0..3).map(name).collect()).await;
    env.simulation.world(|world| (0..3).for_each(|user| sign_ins(world, POOL, &name(user), 1, now())));
    until_counted(&exporter, 3);

    // One user leaves the group, another is deleted and its name taken by a new user, and a new user joins.
    env.simulation.world(|world| {
        world.remove_from_group(POOL, "staff", &name(0));
        world.recreate_user(POOL, &name(1));
        world.add_user(POOL, "new");
        for (user, at) in [(name(1), 1), ("new".to_owned(), 2)] {
            world.add_to_group(POOL, "staff", &user);
            let event = world.sign_in(UnixMillis(now().0 + at));
            world.arrive(POOL, &user, &event);
        }
    });
    until_counted(&exporter, 5);
    // The first sign-in of the new user may have been taken under the record of the former user. Then it is known, and
    // not counted again.
    exporter.until("both newcomers, listed", |scrape| {
        is(scrape, "cognito_exporter_discovery_delay_seconds_count", &[], 2.0) && followed(scrape, 3)
    });
    another_look(&env, &[name(1), name(2), "new".into()].into()).await;
    until_counted(&exporter, 5);

    // A user that has left is not polled until it is back, also across a restart.
    env.simulation.world(|world| sign_ins(world, POOL, &name(0), 1, now()));
    env.forget_calls();
    env.until_polled(POOL, "new", 3).await;
    assert!(!env.polled(POOL).contains(&name(0)));
    assert!(exporter.stop().success());
    let exporter = env.exporter();
    env.until_polled(POOL, "new", 2).await;
    assert!(!env.polled(POOL).contains(&name(0)));
    env.simulation.world(|world| world.add_to_group(POOL, "staff", &name(0)));
    until_counted(&exporter, 6);
    another_look(&env, &[name(0), name(1), name(2), "new".into()].into()).await;
    until_counted(&exporter, 6);
    assert_eq!(said(&exporter.log(), &["WARN"]), Vec::<String>::new());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_been_gone_for_long_is_forgotten_and_nobody_else() {
    const DAYS: i64 = 24 * 60 * MINUTE;
    let env = TestEnv::set(&everybody(), |world| pool_of(world, 3)).await;
    let exporter = env.exporter();
    until_followed(&exporter, 3);
    assert!(exporter.stop().success());

    env.simulation.world(|world| (0..2).for_each(|user| world.delete_user(POOL, &name(user))));
    let ledger = env.opened_ledger();
    ledger.mark_gone(POOL, &[name(0)], UnixMillis(now().0 - 31 * DAYS)).await.unwrap();
    ledger.mark_gone(POOL, &[name(1)], UnixMillis(now().0 - 29 * DAYS)).await.unwrap();
    ledger.close().await;
    let exporter = env.exporter();
    until_followed(&exporter, 1);
    exporter.until_said("state of users removed");
    assert!(exporter.stop().success());

    let ledger = env.opened_ledger();
    assert_eq!(ledger.usernames(POOL).collect::<Result<Vec<_>, _>>().unwrap(), [name(1), name(2)]);
    assert_eq!(ledger.followed(POOL).collect::<Result<Vec<_>, _>>().unwrap(), [name(2)]);
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_was_followed_as_given_is_counted_once_when_its_user_is_listed() {
    const ALIAS: &str = "ann@example.com";
    let config = format!("[[pools]]\nid = {POOL:?}\nall_users = true\nusernames = [{ALIAS:?}]\n{QUICK}");
    let env = TestEnv::set(&config, |world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user_with(POOL, "ann", |user| {
            user.set_attribute("email", ALIAS);
            // By her dates she is a new user, all of whose events are live. They would be counted again if her cursor
            // were not kept.
            user.created = UnixMillis(now().0 + 60 * MINUTE);
        });
        world.inject(InjectedFault::access_denied().on(LIST));
    })
    .await;
    let exporter = env.exporter();
    env.until_polled(POOL, ALIAS, 1).await;
    env.simulation.world(|world| {
        (0..3).for_each(|event| sign_ins(world, POOL, "ann", 1, UnixMillis(now().0 + event)));
    });
    until_counted(&exporter, 3);
    env.simulation.world(World::remove_all_faults);
    env.until_polled(POOL, "ann", 2).await;
    env.simulation.world(|world| sign_ins(world, POOL, "ann", 1, now()));
    until_counted(&exporter, 4);
    another_look(&env, &["ann".to_owned()].into()).await;
    assert_eq!(env.polled(POOL), ["ann".to_owned()].into());
    until_counted(&exporter, 4);
    until_followed(&exporter, 1);
    env.until_received(|records| records.len() >= 4).await;
    assert_eq!(env.receiver.records().len(), 4);
    assert!(exporter.stop().success());
    let ledger = env.opened_ledger();
    assert_eq!(ledger.usernames(POOL).collect::<Result<Vec<_>, _>>().unwrap(), ["ann"]);
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_selection_waits_for_its_listing_and_follows_nobody_else() {
    const LIST_GROUP: &str = "ListUsersInGroup";
    let env = TestEnv::set(&everybody(), |world| {
        pool_of(world, 3);
        world.add_to_group(POOL, "staff", &name(1));
    })
    .await;
    let exporter = env.exporter();
    until_followed(&exporter, 3);
    assert!(exporter.stop().success());

    env.reconfigure(&format!("[[pools]]\nid = {POOL:?}\ngroups = [\"staff\"]\n{QUICK}"));
    env.simulation.world(|world| {
        world.calls_mut().clear();
        world.inject(InjectedFault::access_denied().on(LIST_GROUP));
    });
    let exporter = env.exporter();
    env.until("two attempts", |world| world.calls().count(LIST_GROUP) >= 2).await;
    assert_eq!(env.polled(POOL), BTreeSet::new());
    exporter.kill();

    env.simulation.world(|world| {
        world.calls_mut().clear();
        world.remove_all_faults();
    });
    let exporter = env.exporter();
    env.until_polled(POOL, &name(1), 3).await;
    until_followed(&exporter, 1);
    assert_eq!(env.polled(POOL), [name(1)].into());
    exporter.until("a complete round", |scrape| {
        scrape.count("cognito_exporter_discovery_last_success_timestamp_seconds", &[]) > 0
    });
    assert!(exporter.stop().success());
    let ledger = env.opened_ledger();
    assert_eq!(ledger.followed(POOL).collect::<Result<Vec<_>, _>>().unwrap(), [name(1)]);
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_enrolling_and_of_retiring_it_goes_on_from_there() {
    const USERS: usize = 1200;
    let env = TestEnv::set(&everybody(), |world| {
        pool_of(world, USERS);
        world.inject(InjectedFault::new(FaultKind::Hang).on(LIST).after(2));
    })
    .await;
    let exporter = env.exporter();
    until_followed(&exporter, 120);
    exporter.kill();

    // Enrolled users are polled, whether or not the listing completes.
    env.simulation.world(|world| {
        world.calls_mut().clear();
        (0..USERS).for_each(|user| sign_ins(world, POOL, &name(user), 1, now()));
    });
    let exporter = env.exporter();
    until_counted(&exporter, 120);
    assert_eq!(env.polled(POOL), (0..120).map(name).collect());
    env.simulation.world(World::remove_all_faults);
    exporter.kill();
    let exporter = env.exporter();
    until_followed(&exporter, USERS);

    // Most users are deleted, and the exporter dies while it stores this.
    env.simulation.world(|world| (100..USERS).for_each(|user| world.delete_user(POOL, &name(user))));
    exporter.until("some who are gone", |scrape| scrape.sum("cognito_exporter_users", &[]) < USERS as f64 - 0.5);
    exporter.kill();
    env.simulation.world(|world| {
        world.calls_mut().clear();
        (0..100).for_each(|user| sign_ins(world, POOL, &name(user), 1, now()));
    });
    let exporter = env.exporter();
    until_followed(&exporter, 100);
    another_look(&env, &(0..100).map(name).collect()).await;
    assert_eq!(env.polled(POOL), (0..100).map(name).collect());
    // The first 120 users had one event while they were followed, and the remaining 100 another.
    until_counted(&exporter, 220);
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_listed_waits_for_a_complete_round_and_then_is_followed_as_given() {
    let config = format!(
        "[[pools]]\nid = {POOL:?}\ngroups = [\"staff\"]\nusernames = [\"user-001\", \"b@example.com\"]\n{QUICK}"
    );
    let env = TestEnv::set(&config, |world| {
        pool_of(world, 70);
        (2..70).for_each(|user| world.add_to_group(POOL, "staff", &name(user)));
        world.change_user(POOL, &name(69), |user| user.set_attribute("email", "b@example.com"));
        world.inject(InjectedFault::new(FaultKind::Slow(Duration::from_secs(2))).on("ListUsersInGroup").after(1));
    })
    .await;
    let exporter = env.exporter();
    env.until_polled(POOL, &name(2), 1).await;
    until_followed(&exporter, 69);
    assert!(!env.polled(POOL).contains("b@example.com"), "it may be somebody's on the second page, and is");
    env.until_polled(POOL, &name(1), 1).await;
    assert!(exporter.stop().success());
}
