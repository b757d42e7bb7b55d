//! The users that a pool's configuration selects, when users choose their own attributes.

use std::collections::BTreeSet;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::fault::InjectedFault;
use cognito_auth_simulator::world::{PoolUser, SimulatedPool, World};

use crate::exporter::Exporter;
use crate::test_env::{MINUTE, TestEnv, is, now, said, sign_ins, until_followed};

const POOL: &str = "eu-west-1_Names1";
const DESCRIBE: &str = "DescribeUserPool";

/// Fast polling, a listing every ten seconds, and no history.
const QUICK: &str = "[poll]\nrequests_per_second = 800\nmin_interval = \"1s\"\nfirst_run = \"none\"\n\
                     [discovery]\ninterval = \"10s\"\nrequests_per_second = 30\n";

fn config(pool: &str) -> String {
    format!("[[pools]]\nid = {POOL:?}\n{pool}\n{QUICK}")
}

/// A pool that accepts these attributes for sign-in.
fn pool(world: &mut World, accepted: &[&str], case_sensitive: Option<bool>) {
    let mut pool = SimulatedPool::new(POOL);
    pool.alias_attributes = accepted.iter().map(|attribute| (*attribute).to_owned()).collect();
    pool.case_sensitive = case_sensitive;
    world.add_pool(pool);
}

/// Adds a user that was created long before it is followed.
fn add(world: &mut World, username: &str, change: impl FnOnce(&mut PoolUser)) {
    world.add_user_with(POOL, username, |user| {
        user.created = UnixMillis(now().0 - 100 * MINUTE);
        change(user);
    });
}

fn sign_in(env: &TestEnv, users: &[&str]) {
    env.simulation.world(|world| users.iter().for_each(|user| sign_ins(world, POOL, user, 1, now())));
}

/// The users in the ledger of a stopped exporter.
async fn stored(env: &TestEnv) -> Vec<String> {
    let ledger = env.opened_ledger();
    let usernames = ledger.usernames(POOL).collect::<Result<_, _>>().unwrap();
    ledger.close().await;
    usernames
}

/// Waits until this many live events are counted and every user is read again. Checks that there are no more.
async fn until_counted(env: &TestEnv, exporter: &Exporter, events: usize, users: &[&str]) {
    exporter.until(&format!("{events} events"), |scrape| {
        scrape.sum("cognito_auth_events_total", &[]) > events as f64 - 0.5
    });
    let users: BTreeSet<_> = users.iter().map(|user| (*user).to_owned()).collect();
    for _ in 0..2 {
        env.forget_calls();
        env.until_all_polled(POOL, &users).await;
    }
    let scrape = exporter.scrape();
    assert!(is(&scrape, "cognito_auth_events_total", &[], events as f64), "{}", scrape.interesting());
}

/// Waits until a listing that begins after this call has been read and applied.
async fn another_round(env: &TestEnv, operation: &str) {
    let listings = |world: &World| world.calls().total_of(operation);
    let before = env.simulation.world(|world| listings(world));
    env.until("two more listings", |world| listings(world) >= before + 2).await;
}

/// An attack: a user writes the username that the administrator excludes into an attribute of its own.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_leaves_the_roster_by_writing_an_excluded_name_into_an_attribute() {
    for accepted in [&[][..], &["preferred_username"]] {
        let env = TestEnv::set(&config("all_users = true\nexclude = [\"synthetic-monitoring\"]"), |world| {
            pool(world, accepted, None);
            add(world, "synthetic-monitoring", |_| {});
            add(world, "mallory", |user| user.set_attribute("preferred_username", "synthetic-monitoring"));
        })
        .await;
        let exporter = env.exporter();
        env.until_polled(POOL, "mallory", 1).await;
        sign_in(&env, &["mallory"]);
        until_counted(&env, &exporter, 1, &["mallory"]).await;
        assert_eq!(env.polled(POOL), ["mallory".to_owned()].into());
        // A user that can sign in with another's name is logged; a user that only has the name in an attribute is not.
        if accepted.is_empty() {
            assert_eq!(said(&exporter.log(), &["WARN"]), Vec::<String>::new());
        } else {
            exporter.until_said("several users claim a configured name");
        }
        assert!(exporter.stop().success());
    }
}

/// An attack: a listed user takes the name of a user that is configured by name and in no listing.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_name_another_takes_is_followed_on_and_so_is_the_other() {
    let env = TestEnv::set(&config("usernames = [\"ceo\"]\ngroups = [\"staff\"]"), |world| {
        pool(world, &["preferred_username"], None);
        ["ceo", "mallory", "ann"].iter().for_each(|name| add(world, name, |_| {}));
        ["mallory", "ann"].iter().for_each(|name| world.add_to_group(POOL, "staff", name));
    })
    .await;
    let exporter = env.exporter();
    env.until_polled(POOL, "ceo", 1).await;
    until_followed(&exporter, 3);
    sign_in(&env, &["ceo", "mallory"]);
    until_counted(&env, &exporter, 2, &["ceo", "mallory", "ann"]).await;

    env.simulation.world(|world| {
        world.change_user(POOL, "mallory", |user| user.set_attribute("preferred_username", "ceo"));
    });
    another_round(&env, "ListUsersInGroup").await;
    sign_in(&env, &["ceo", "mallory"]);
    until_counted(&env, &exporter, 4, &["ceo", "mallory", "ann"]).await;
    another_round(&env, "ListUsersInGroup").await;
    let warnings = said(&exporter.log(), &["WARN"]);
    assert!(warnings.len() == 1 && warnings[0].contains("several users claim a configured name"), "{warnings:?}");
    assert!(!warnings[0].contains("ceo") && !warnings[0].contains("mallory"), "{warnings:?}");
    until_followed(&exporter, 3);

    // The attacker leaves the listing, and the other user is still followed.
    env.simulation.world(|world| world.remove_from_group(POOL, "staff", "mallory"));
    until_followed(&exporter, 2);
    sign_in(&env, &["ceo"]);
    until_counted(&env, &exporter, 5, &["ceo", "ann"]).await;
    exporter.until_said("no configured name is claimed by several users any more");
    assert!(exporter.stop().success());
}

/// A kind of report: a name whose case differs from the directory's is polled as a second user with the same history.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_another_case_is_the_same_user_where_the_pool_ignores_case() {
    let env = TestEnv::set(&config("usernames = [\"Alice\"]\ngroups = [\"staff\"]"), |world| {
        pool(world, &[], Some(false));
        ["alice", "bob"].iter().for_each(|name| {
            add(world, name, |_| {});
            world.add_to_group(POOL, "staff", name);
        });
    })
    .await;
    let exporter = env.exporter();
    env.until_polled(POOL, "alice", 1).await;
    another_round(&env, "ListUsersInGroup").await;
    sign_in(&env, &["alice"]);
    until_counted(&env, &exporter, 1, &["alice", "bob"]).await;
    until_followed(&exporter, 2);
    assert_eq!(env.polled(POOL), ["alice".to_owned(), "bob".to_owned()].into());
    env.until_received(|records| !records.is_empty()).await;
    assert_eq!(env.receiver.records().len(), 1);
    assert!(exporter.stop().success());
}

/// The counterpart: where names are case-sensitive, `Alice` and `alice` are two users.
#[tokio::test(flavor = "multi_thread")]
async fn names_in_two_cases_are_two_users_where_the_pool_tells_them_apart() {
    let env = TestEnv::set(&config("usernames = [\"Alice\"]\ngroups = [\"staff\"]\nexclude = [\"BOB\"]"), |world| {
        pool(world, &[], None);
        ["alice", "Alice", "bob"].iter().for_each(|name| add(world, name, |_| {}));
        ["alice", "bob"].iter().for_each(|name| world.add_to_group(POOL, "staff", name));
    })
    .await;
    let exporter = env.exporter();
    env.until_polled(POOL, "Alice", 1).await;
    until_followed(&exporter, 3);
    sign_in(&env, &["alice", "Alice", "bob"]);
    until_counted(&env, &exporter, 3, &["alice", "Alice", "bob"]).await;
    assert!(exporter.stop().success());
}

/// A kind of report: an exclusion by an address in another case is ignored, and the monitoring account fills the
/// counters.
#[tokio::test(flavor = "multi_thread")]
async fn a_verified_sign_in_address_excludes_its_user_as_the_pool_compares_it() {
    let env = TestEnv::set(&config("all_users = true\nexclude = [\"Synthetic@Example.com\"]"), |world| {
        pool(world, &["email"], Some(false));
        add(world, "0b0e1f5c", |user| user.set_attribute("email", "synthetic@example.com"));
        add(world, "ann", |_| {});
        // An unverified address: any user could write it.
        add(world, "mallory", |user| {
            user.set_attribute("email_verified", "false");
            user.set_attribute("email", "synthetic@example.com");
        });
    })
    .await;
    let exporter = env.exporter();
    until_followed(&exporter, 2);
    sign_in(&env, &["0b0e1f5c", "ann", "mallory"]);
    until_counted(&env, &exporter, 2, &["ann", "mallory"]).await;
    assert_eq!(env.polled(POOL), ["ann".to_owned(), "mallory".to_owned()].into());
    assert_eq!(said(&exporter.log(), &["WARN"]), Vec::<String>::new());
    assert!(exporter.stop().success());
}

/// An attack, or two stale pages: two users have one excluded address. Both must still be followed.
#[tokio::test(flavor = "multi_thread")]
async fn an_excluded_address_that_two_users_have_excludes_neither() {
    let env = TestEnv::set(&config("all_users = true\nexclude = [\"shared@example.com\"]"), |world| {
        pool(world, &["email"], None);
        ["ann", "ben"].iter().for_each(|name| {
            add(world, name, |user| user.set_attribute("email", "shared@example.com"));
        });
    })
    .await;
    let exporter = env.exporter();
    until_followed(&exporter, 2);
    sign_in(&env, &["ann", "ben"]);
    until_counted(&env, &exporter, 2, &["ann", "ben"]).await;
    exporter.until_said("several users claim a configured name");
    assert!(exporter.stop().success());
}

/// A kind of report: a role without DescribeUserPool. Names are compared as written until the permission is granted.
/// Then the two names of one user become one.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_learnt_later_join_what_was_followed_under_each() {
    let settings = "usernames = [\"Ann@example.com\"]\ngroups = [\"staff\"]";
    let env = TestEnv::set(&config(settings), |world| {
        pool(world, &["email"], Some(false));
        add(world, "ann", |user| user.set_attribute("email", "ann@example.com"));
        world.add_to_group(POOL, "staff", "ann");
        world.inject(InjectedFault::access_denied().on(DESCRIBE));
    })
    .await;
    let exporter = env.exporter();
    until_followed(&exporter, 2);
    env.until_polled(POOL, "Ann@example.com", 1).await;
    exporter.until_said("only usernames and subs name its users");
    let asked = env.simulation.world(|world| world.calls().count(DESCRIBE));
    another_round(&env, "ListUsersInGroup").await;
    assert_eq!(env.simulation.world(|world| world.calls().total_of(DESCRIBE)), asked as u64, "no call a round");

    // The permission is granted. A change of the configuration makes the exporter ask again.
    env.simulation.world(World::remove_all_faults);
    env.reconfigure(&config(settings).replace("interval = \"10s\"", "interval = \"11s\""));
    exporter.until_said("sign-in names of the pool known");
    until_followed(&exporter, 1);
    sign_in(&env, &["ann"]);
    until_counted(&env, &exporter, 1, &["ann"]).await;
    assert_eq!(env.polled(POOL), ["ann".to_owned()].into());

    // The answer is kept: a later denial neither drops nor doubles a user.
    env.simulation.world(|world| world.inject(InjectedFault::access_denied().on(DESCRIBE)));
    env.reconfigure(&config(settings));
    another_round(&env, "ListUsersInGroup").await;
    sign_in(&env, &["ann"]);
    until_counted(&env, &exporter, 2, &["ann"]).await;
    until_followed(&exporter, 1);
    assert!(exporter.stop().success());
    assert_eq!(stored(&env).await, ["ann"]);
}

/// The same where nothing could be listed: events counted under the configured name are not counted again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_counted_under_a_name_is_not_counted_again_when_its_user_is_found() {
    let settings = "usernames = [\"ANN\"]\nall_users = true";
    let env = TestEnv::set(&config(settings), |world| {
        pool(world, &[], Some(false));
        world.add_user_with(POOL, "ann", |user| {
            // For a new user, all of her events would be live.
            user.created = UnixMillis(now().0 + 60 * MINUTE);
        });
        world.inject(InjectedFault::access_denied().on("ListUsers"));
    })
    .await;
    let exporter = env.exporter();
    env.until_polled(POOL, "ANN", 1).await;
    sign_in(&env, &["ann"]);
    until_counted(&env, &exporter, 1, &["ANN"]).await;
    env.simulation.world(World::remove_all_faults);
    env.until_polled(POOL, "ann", 2).await;
    sign_in(&env, &["ann"]);
    until_counted(&env, &exporter, 2, &["ann"]).await;
    until_followed(&exporter, 1);
    assert!(exporter.stop().success());
    assert_eq!(stored(&env).await, ["ann"]);
}

/// Names are compared before they are hashed.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_compared_in_clear_where_the_ledger_knows_hashes() {
    let key = "0123456789abcdef".repeat(4);
    let settings = "usernames = [\"Alice\"]\ngroups = [\"staff\"]\nexclude = [\"Bob@Example.com\"]";
    let privacy = "[privacy]\nusername = \"hash\"\nhash_key_file = \"{directory}/key\"\n";
    let env = TestEnv::set(&format!("{}{privacy}", config(settings)), |world| {
        pool(world, &["email"], Some(false));
        add(world, "alice", |_| {});
        add(world, "bob", |user| user.set_attribute("email", "bob@example.com"));
        ["alice", "bob"].iter().for_each(|name| world.add_to_group(POOL, "staff", name));
    })
    .await;
    env.file("key", &key);
    let exporter = env.exporter();
    env.until_polled(POOL, "alice", 1).await;
    another_round(&env, "ListUsersInGroup").await;
    sign_in(&env, &["alice", "bob"]);
    until_counted(&env, &exporter, 1, &["alice"]).await;
    until_followed(&exporter, 1);
    assert!(exporter.stop().success());
}
