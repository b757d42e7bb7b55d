//! The selection of users, the start of their history, the credentials and the rate of calls: the built binary against
//! a simulated Cognito.

use std::collections::BTreeSet;
use std::time::Duration;

use cognito_auth_core::event::{FeedbackValue, UnixMillis};
use cognito_auth_simulator::fault::{FaultKind, InjectedFault};
use cognito_auth_simulator::paging::LastToken;
use cognito_auth_simulator::world::{ACCOUNT_ID, Role, SimulatedPool, World};

use crate::receiver::Received;
use crate::test_env::{MINUTE, READ, TestEnv, all_live, ids, is, now, of, populate, said, sign_ins};

/// Fast polling without history.
const QUICK: &str = "[poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\nfirst_run = \"none\"\n";

const POOL: &str = "eu-west-1_Following";

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().copied().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_added_to_the_file_begins_to_be_followed_and_one_removed_is_not_polled_any_more() {
    let config =
        format!("[[pools]]\nid = {POOL:?}\nusernames = [\"ann\"]\nusernames_file = \"{{directory}}/names\"\n{QUICK}");
    let env = TestEnv::set(&config, |world| {
        world.add_pool(SimulatedPool::new(POOL));
        ["ann", "ben", "cat"].iter().for_each(|name| world.add_user(POOL, name));
    })
    .await;

    // Without the file, the names in the configuration are still followed.
    let exporter = env.exporter();
    env.until_polled(POOL, "ann", 2).await;
    assert_eq!(said(&exporter.log(), &["WARN", "usernames_file cannot be read"]).len(), 1, "{}", exporter.log());

    env.file("names", "# staff\n\n  ben \n");
    env.until_polled(POOL, "ben", 2).await;
    assert_eq!(env.polled(POOL), names(&["ann", "ben"]));

    env.file("names", "cat\nben-who-left\n");
    env.until_polled(POOL, "cat", 1).await;
    exporter.until("who is followed", |scrape| {
        is(scrape, "cognito_exporter_users", &["state=\"ok\""], 2.0)
            && is(scrape, "cognito_exporter_users", &["state=\"missing\""], 1.0)
    });
    // A call that had begun when the name was removed is finished by the next poll of the other users.
    env.until_polled(POOL, "ann", 2).await;
    env.forget_calls();
    env.until_polled(POOL, "ann", 2).await;
    env.until_polled(POOL, "cat", 2).await;
    assert!(!env.polled(POOL).contains("ben"), "{:?}", env.polled(POOL));
    exporter.until_said("configured users not found in the pool");
    assert_eq!(said(&exporter.log(), &["WARN"]).len(), 2, "{}", exporter.log());
    assert!(!exporter.log().contains("ben"), "{}", exporter.log());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_select_users_follows_exactly_those_and_each_once() {
    const GROUPS: &str = "eu-west-1_Groups";
    const FILTER: &str = "eu-west-1_Filter";
    const ALL: &str = "eu-west-1_All";
    const INCLUDED: &str = "eu-west-1_Included";
    const ALIAS: &str = "eu-west-1_Alias";
    let config = format!(
        "[[pools]]\nid = {GROUPS:?}\ngroups = [\"staff\", \"guests\"]\nexclude = [\"dan\"]\n\
         [[pools]]\nid = {FILTER:?}\nfilter = 'email ^= \"a\"'\n\
         [[pools]]\nid = {ALL:?}\nall_users = true\nexclude = [\"ben@example.com\", \"cat\"]\n\
         [[pools]]\nid = {INCLUDED:?}\nall_users = true\ninclude_disabled = true\ninclude_federated = true\n\
         [[pools]]\nid = {ALIAS:?}\nall_users = true\nusernames = [\"ann@example.com\", \"ben\", \"zoe\", \
         \"off@example.com\"]\n\
         {QUICK}"
    );
    let pools = [GROUPS, FILTER, ALL, INCLUDED, ALIAS];
    let env = TestEnv::set(&config, |world| {
        for pool in pools {
            world.add_pool(SimulatedPool::new(pool));
            for name in ["ann", "ben", "cat", "dan", "off", "google_1"] {
                world.add_user_with(pool, name, |user| {
                    user.set_attribute("email", &format!("{name}@example.com"));
                    user.enabled = name != "off";
                    if name == "google_1" {
                        user.status = "EXTERNAL_PROVIDER".to_owned();
                    }
                });
            }
        }
        for (group, name) in
            [("staff", "ann"), ("staff", "ben"), ("staff", "off"), ("guests", "ben"), ("guests", "dan")]
        {
            world.add_to_group(GROUPS, group, name);
        }
        // More users than a page of a listing.
        for more in 0..70 {
            world.add_user_with(FILTER, &format!("more-{more:02}"), |user| {
                user.set_attribute("email", &format!("a{more}@example.com"));
            });
        }
    })
    .await;
    let many: Vec<_> = (0..70).map(|more| format!("more-{more:02}")).collect();
    let expected = [
        (GROUPS, names(&["ann", "ben"]), 0.0),
        (FILTER, many.into_iter().chain(["ann".to_owned()]).collect(), 0.0),
        (ALL, names(&["ann", "dan"]), 0.0),
        (INCLUDED, names(&["ann", "ben", "cat", "dan", "off", "google_1"]), 0.0),
        // A user named in the configuration is followed, also if disabled. "zoe" does not exist.
        (ALIAS, names(&["ann", "ben", "cat", "dan", "off", "zoe"]), 1.0),
    ];
    let exporter = env.exporter();
    exporter.until("who is followed", |scrape| {
        expected.iter().all(|(pool, users, missing)| {
            is(scrape, "cognito_exporter_users", &[&of(pool)], users.len() as f64)
                && is(scrape, "cognito_exporter_users", &[&of(pool), "state=\"missing\""], *missing)
        })
    });
    for (pool, users, _) in &expected {
        env.until_all_polled(pool, users).await;
        assert_eq!(env.polled(pool), *users, "{pool}");
    }

    // New events are live and delivered once, under the username in Cognito.
    let began = now();
    env.simulation.world(|world| {
        for (pool, users, _) in &expected {
            for user in users.iter().filter(|user| *user != "zoe") {
                sign_ins(world, pool, user, 1, UnixMillis(began.0 + 1));
            }
        }
    });
    let followed: usize = expected.iter().map(|(_, users, missing)| users.len() - usize::from(*missing > 0.5)).sum();
    exporter.until("their events", |scrape| is(scrape, "cognito_auth_events_total", &[], followed as f64));
    env.until_received(|records| records.len() >= followed).await;
    let records = env.receiver.records();
    assert_eq!(records.len(), followed);
    let under: BTreeSet<_> = records.iter().map(|record| record.text("user.name").to_owned()).collect();
    assert!(!under.iter().any(|name| name.contains('@')), "{under:?}");
    // The one name that nobody has.
    exporter.until_said("configured users not found in the pool");
    let warned = said(&exporter.log(), &["WARN"]);
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(
        warned[0].contains("configured users not found in the pool") && warned[0].contains("users=1"),
        "{warned:?}"
    );
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_created_after_the_pool_was_first_followed_has_no_history() {
    let config = format!("[[pools]]\nid = {POOL:?}\nall_users = true\n{QUICK}");
    let env = TestEnv::set(&config, |world| {
        world.add_pool(SimulatedPool::new(POOL));
        for name in ["ann", "ben"] {
            world.add_user_with(POOL, name, |user| user.created = UnixMillis(now().0 - 100 * MINUTE));
            sign_ins(world, POOL, name, 5, UnixMillis(now().0 - MINUTE));
        }
    })
    .await;
    let exporter = env.exporter();
    exporter.until("both", |scrape| is(scrape, "cognito_exporter_users", &["state=\"ok\""], 2.0));
    env.until_polled(POOL, "ann", 2).await;
    assert!(exporter.stop().success());
    assert_eq!(env.receiver.records(), []);

    // While the exporter is down, a user signs up and another takes over a name. Their events before they were followed
    // count.
    env.simulation.world(|world| {
        world.add_user(POOL, "new");
        world.recreate_user(POOL, "ben");
        let now = now();
        for (user, at) in [("new", now), ("ben", now), ("ann", now)] {
            (0..3).for_each(|event| {
                let event = world.sign_in(UnixMillis(at.0 + event));
                world.arrive(POOL, user, &event);
            });
        }
    });
    let exporter = env.exporter();
    exporter.until("their events", |scrape| is(scrape, "cognito_auth_events_total", &[], 9.0));
    env.until_polled(POOL, "new", 2).await;
    let scrape = exporter.scrape();
    assert!(is(&scrape, "cognito_auth_events_total", &[], 9.0), "{}", scrape.interesting());
    assert!(is(&scrape, "cognito_auth_history_events_total", &[], 0.0), "{}", scrape.interesting());
    env.until_received(|records| records.len() >= 9).await;
    assert_eq!(env.receiver.records().len(), 9);
    assert!(exporter.stop().success());
}

const THERE: &str = "444455556666";

fn role() -> Role {
    Role { arn: format!("arn:aws:iam::{THERE}:role/reader"), external_id: Some("right".to_owned()) }
}

fn pool_of(account: &str, id: &str) -> SimulatedPool {
    let mut pool = SimulatedPool::new(id);
    account.clone_into(&mut pool.account_id);
    pool
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_of_two_regions_and_two_accounts_are_followed_as_themselves_and_a_wrong_external_id_stops_only_its_own() {
    const HERE: &str = "eu-west-1_Here";
    const OVERSEAS: &str = "us-east-1_Overseas";
    const OTHER: &str = "eu-west-1_Other";
    const WRONG: &str = "eu-west-1_Wrong";
    const WRONG_LISTED: &str = "eu-west-1_WrongListed";
    let arn = role().arn;
    let config = format!(
        "[[pools]]\nid = {HERE:?}\nname = \"shop\"\nall_users = true\n\
         [[pools]]\nid = {OVERSEAS:?}\nall_users = true\n\
         [[pools]]\nid = {OTHER:?}\nall_users = true\nrole_arn = {arn:?}\nexternal_id = \"right\"\n\
         [[pools]]\nid = {WRONG:?}\nusernames = [\"ann\", \"ben\"]\nrole_arn = {arn:?}\nexternal_id = \"wrong\"\n\
         [[pools]]\nid = {WRONG_LISTED:?}\nall_users = true\nrole_arn = {arn:?}\nexternal_id = \"wrong\"\n{QUICK}"
    );
    let well = [(HERE, ACCOUNT_ID, "eu-west-1"), (OVERSEAS, ACCOUNT_ID, "us-east-1"), (OTHER, THERE, "eu-west-1")];
    let env = TestEnv::set(&config, |world| {
        world.home_account = Some(ACCOUNT_ID.to_owned());
        world.add_role(role());
        let ill = [(WRONG, THERE, ""), (WRONG_LISTED, THERE, "")];
        for (pool, account, _) in well.into_iter().chain(ill) {
            world.add_pool(pool_of(account, pool));
            ["ann", "ben"].iter().for_each(|name| world.add_user(pool, name));
        }
    })
    .await;
    let exporter = env.exporter();
    exporter.until("everybody", |scrape| {
        well.iter().all(|(pool, ..)| is(scrape, "cognito_exporter_users", &[&of(pool), "state=\"ok\""], 2.0))
    });
    let began = now();
    env.simulation.world(|world| {
        for (pool, ..) in well {
            ["ann", "ben"].iter().for_each(|name| sign_ins(world, pool, name, 1, UnixMillis(began.0 + 1)));
        }
    });
    let pools = well.map(|(pool, ..)| pool);
    env.conserved(&exporter, &pools).await;

    for record in env.receiver.records() {
        let text = |name: &str| record.text(&format!("aws.cognito.user_pool.{name}")).to_owned();
        let (pool, account, region) = well.into_iter().find(|(pool, ..)| *pool == text("id")).unwrap();
        assert_eq!((text("account_id").as_str(), text("region").as_str()), (account, region));
        assert_eq!(text("name"), if pool == HERE { "shop" } else { pool });
    }
    let scrape = exporter.until("what is up", |scrape| {
        pools.iter().all(|pool| is(scrape, "cognito_exporter_pool_up", &[&of(pool)], 1.0))
            && [WRONG, WRONG_LISTED].iter().all(|pool| is(scrape, "cognito_exporter_pool_up", &[&of(pool)], 0.0))
    });
    for (account, region) in [(ACCOUNT_ID, "eu-west-1"), (ACCOUNT_ID, "us-east-1"), (THERE, "eu-west-1")] {
        let labels = [format!("account_id=\"{account}\""), format!("region=\"{region}\"")];
        let [account, region] = &labels;
        let reads = [account, region, "operation=\"AdminListUserAuthEvents\"", "outcome=\"ok\""];
        assert!(scrape.sum("cognito_exporter_api_requests_total", &reads) > 0.5, "{}", scrape.interesting());
        assert!(is(&scrape, "cognito_exporter_api_budget_requests_per_second", &[account, region], 400.0));
    }
    let as_role = |call: &cognito_auth_simulator::calls::Call| call.access_key.as_deref().unwrap().starts_with("ASIA");
    for call in env.reads(|_| true) {
        assert_eq!(as_role(&call), call.pool.as_deref() == Some(OTHER), "{call:?}");
    }
    for pool in [WRONG, WRONG_LISTED] {
        let lines = said(&exporter.log(), &["WARN", &format!("{pool:?}")]);
        assert_eq!(lines.len(), 1, "{}", exporter.log());
        assert!(lines[0].contains("the role cannot be assumed"), "{lines:?}");
    }
    assert!(exporter.stop().success());
}

/// The highest number of calls within any period of this many seconds.
fn busiest(calls: &[cognito_auth_simulator::calls::Call], seconds: i64) -> usize {
    let at: Vec<i64> = calls.iter().map(|call| call.at.0).collect();
    let from = |begin: &i64| at.iter().filter(|at| (*begin..*begin + seconds * 1000).contains(*at)).count();
    at.iter().map(from).max().unwrap_or_default()
}

fn crowd(world: &mut World, pool: &str, users: usize) {
    world.add_pool(SimulatedPool::new(pool));
    (0..users).for_each(|user| world.add_user(pool, &format!("user-{user}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pools_of_one_account_and_region_share_one_budget() {
    const ONE: &str = "eu-west-1_One";
    const TWO: &str = "eu-west-1_Two";
    const RATE: usize = 10;
    let config = format!(
        "[[pools]]\nid = {ONE:?}\nall_users = true\n[[pools]]\nid = {TWO:?}\nall_users = true\n\
         [poll]\nrequests_per_second = {RATE}\nmin_interval = \"1s\"\nfirst_run = \"none\"\n"
    );
    let env = TestEnv::set(&config, |world| [ONE, TWO].iter().for_each(|pool| crowd(world, pool, 30))).await;
    let exporter = env.exporter();
    env.until("six seconds' calls", |world| world.calls().count(READ) >= 6 * RATE).await;
    let calls = env.reads(|_| true);
    // Over three seconds, so that a short stall of the machine, which bunches calls, does not matter.
    assert!(busiest(&calls, 3) <= 3 * RATE * 12 / 10 + 1, "{}", busiest(&calls, 3));
    for pool in [ONE, TWO] {
        let share = calls.iter().filter(|call| call.pool.as_deref() == Some(pool)).count();
        assert!(share >= RATE, "{share} of {} calls were for {pool}", calls.len());
    }
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_calls_are_in_flight_than_allowed_over_all_accounts_and_regions() {
    const ONE: &str = "eu-west-1_One";
    const TWO: &str = "us-east-1_Two";
    let users: Vec<_> = (0..30).map(|user| format!("user-{user}")).collect();
    let config = format!(
        "[[pools]]\nid = {ONE:?}\nusernames = {users:?}\n[[pools]]\nid = {TWO:?}\nusernames = {users:?}\n\
         [poll]\nrequests_per_second = 400\nconcurrency = 3\nmin_interval = \"1s\"\nfirst_run = \"none\"\n"
    );
    let env = TestEnv::set(&config, |world| {
        [ONE, TWO].iter().for_each(|pool| crowd(world, pool, 30));
        world.inject(InjectedFault::new(FaultKind::Slow(Duration::from_millis(100))).on(READ));
    })
    .await;
    let exporter = env.exporter();
    env.until("sixty calls", |world| world.calls().count(READ) >= 60).await;
    assert_eq!(env.simulation.most_in_flight(), 3);
    for pool in [ONE, TWO] {
        assert!(env.polled(pool).len() > 10, "{:?}", env.polled(pool));
    }
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_had_to_wait_for_others_in_flight_do_not_break_the_budget_afterwards() {
    const STUCK: &str = "eu-west-1_Stuck";
    const WELL: &str = "us-east-1_Well";
    const RATE: usize = 4;
    let names = |count: usize| (0..count).map(|user| format!("user-{user}")).collect::<Vec<_>>();
    let config = format!(
        "[[pools]]\nid = {STUCK:?}\nusernames = {:?}\n[[pools]]\nid = {WELL:?}\nusernames = {:?}\n\
         [poll]\nrequests_per_second = {RATE}\nconcurrency = 8\nmin_interval = \"1s\"\nfirst_run = \"none\"\n\
         timeout = \"5s\"\n",
        names(8),
        names(40),
    );
    let env = TestEnv::set(&config, |world| {
        crowd(world, STUCK, 8);
        crowd(world, WELL, 40);
        world.inject(InjectedFault::new(FaultKind::Hang).on(READ).in_pool(STUCK));
    })
    .await;
    let exporter = env.exporter();
    let of_well = |call: &&cognito_auth_simulator::calls::Call| call.pool.as_deref() == Some(WELL);
    env.until("forty calls", |world| world.calls().of(READ).filter(of_well).count() >= 40).await;
    let calls = env.reads(|call| of_well(&call));
    assert!(busiest(&calls, 2) <= 2 * RATE * 12 / 10 + 2, "{} in two seconds", busiest(&calls, 2));
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn first_run_says_how_much_history_is_wanted_and_followed_since_makes_it_live() {
    const PLAIN: &str = "eu-west-1_Plain";
    const SINCE: &str = "eu-west-1_Since";
    let began = now();
    let ages = [("young", 30 * MINUTE), ("old", 48 * 60 * MINUTE), ("oldest", 600 * 24 * 60 * MINUTE)];
    let followed_since = UnixMillis(began.0 - 40 * 60 * MINUTE);
    // For each pool: live and history.
    for (first_run, plain, since) in [("none", (0, 0), (1, 0)), ("1h", (0, 1), (1, 0)), ("all", (0, 3), (1, 2))] {
        let config = format!(
            "[[pools]]\nid = {PLAIN:?}\nall_users = true\n\
             [[pools]]\nid = {SINCE:?}\nall_users = true\nfollowed_since = \"{followed_since}\"\n{}",
            QUICK.replace("none", first_run)
        );
        let env = TestEnv::set(&config, |world| {
            for pool in [PLAIN, SINCE] {
                world.add_pool(SimulatedPool::new(pool));
                world.add_user_with(pool, "ann", |user| user.created = UnixMillis(began.0 - 700 * 24 * 60 * MINUTE));
                for (_, age) in ages {
                    sign_ins(world, pool, "ann", 1, UnixMillis(began.0 - age));
                }
            }
        })
        .await;
        let exporter = env.exporter();
        exporter.until("both", |scrape| is(scrape, "cognito_exporter_users", &["state=\"ok\""], 2.0));
        for pool in [PLAIN, SINCE] {
            env.until_all_polled(pool, &names(&["ann"])).await;
        }
        env.simulation.world(|world| {
            [PLAIN, SINCE].iter().for_each(|pool| sign_ins(world, pool, "ann", 1, now()));
        });
        let scrape = exporter.until("what is live", |scrape| {
            [(PLAIN, plain), (SINCE, since)]
                .iter()
                .all(|(pool, (live, _))| is(scrape, "cognito_auth_events_total", &[&of(pool)], f64::from(live + 1)))
        });
        for (pool, (live, history)) in [(PLAIN, plain), (SINCE, since)] {
            let told = scrape.sum("cognito_auth_history_events_total", &[&of(pool)]);
            assert!((told - f64::from(history)).abs() < 0.5, "{first_run}: {told} of {history} in {pool}");
            let all = usize::try_from(live + 1 + history).unwrap();
            env.until_received(|records| ids(records, &[pool]).len() >= all).await;
            let records = env.receiver.records();
            let old =
                |record: &&Received| record.attributes["aws.cognito.event.history"] == serde_json::Value::Bool(true);
            let of_pool = || records.iter().filter(|record| record.text("aws.cognito.user_pool.id") == pool);
            assert_eq!(of_pool().count(), all);
            assert_eq!(of_pool().filter(old).count(), usize::try_from(history).unwrap(), "{first_run} {pool}");
        }
        assert!(exporter.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_active_before_a_restart_is_the_first_to_be_asked_after_it() {
    const USERS: usize = 30;
    // A user that is neither first nor last in any order.
    const BUSY: usize = 17;
    let name = |user: usize| format!("user-{user:02}");
    let config = format!("[[pools]]\nid = {POOL:?}\nall_users = true\n{QUICK}");
    let env = TestEnv::set(&config, |world| {
        world.add_pool(SimulatedPool::new(POOL));
        (0..USERS).for_each(|user| world.add_user(POOL, &name(user)));
        sign_ins(world, POOL, &name(BUSY), 20, now());
    })
    .await;
    let exporter = env.exporter();
    env.until_all_polled(POOL, &(0..USERS).map(name).collect()).await;
    // A second poll shows that the results of the first were written.
    env.forget_calls();
    env.until_all_polled(POOL, &(0..USERS).map(name).collect()).await;
    assert!(exporter.stop().success());
    let ledger = env.opened_ledger();
    for user in (0..USERS).map(name) {
        let standing = ledger.standing(POOL, &user).unwrap().unwrap();
        assert!(standing.activity.is_some(), "of {user} something is known, were it that it does nothing");
    }
    ledger.close().await;

    // One call per second, so that the order of calls is exact; and only stored users can be polled.
    env.reconfigure(&config.replace("requests_per_second = 400", "requests_per_second = 1"));
    env.simulation.world(|world| {
        world.inject(InjectedFault::new(FaultKind::Hang).on("ListUsers"));
    });
    env.forget_calls();
    let exporter = env.exporter();
    env.until("a poll", |world| world.calls().count(READ) > 0).await;
    assert_eq!(env.reads(|_| true)[0].user, Some(name(BUSY)));
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_asks_for_little_where_little_is_likely_and_finds_a_burst_all_the_same() {
    let arrive = |world: &mut World, minutes_ago: i64| {
        let event = world.sign_in(UnixMillis(now().0 - minutes_ago * MINUTE));
        world.arrive(POOL, "ann", &event);
    };
    let env = TestEnv::set(&all_live(POOL), |world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ann");
        (1..=150).rev().for_each(|event| arrive(world, 120 * event));
    })
    .await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    let asked = || -> Vec<_> {
        let calls = env.reads(|call| call.pool.as_deref() == Some(POOL));
        calls.iter().map(|call| (call.token.is_some(), call.max_results.unwrap())).collect()
    };
    assert!(asked().iter().all(|call| *call == (false, 8)), "one is remembered, none is likely: {:?}", asked());

    env.forget_calls();
    env.simulation.world(|world| (0..30).for_each(|_| arrive(world, 0)));
    env.until("a full page", |world| world.calls().of(READ).any(|call| call.max_results == Some(60))).await;
    let first_full = asked().iter().position(|call| *call == (false, 60)).unwrap();
    assert!(first_full > 0 && asked()[..first_full].iter().all(|call| *call == (false, 8)), "{:?}", asked());
    env.conserved(&exporter, &[POOL]).await;
    let room = |(token, size): &(bool, i64)| !token && (31..60).contains(size);
    assert!(asked().iter().all(room), "thirty or more are remembered: {:?}", asked());

    // The judgement of events is the same: a revision among the remembered events is seen.
    env.simulation.world(|world| {
        let id = world.history(POOL, "ann")[20].id.clone().unwrap();
        world.feedback(POOL, "ann", &id, FeedbackValue::Invalid, "an administrator");
    });
    env.conserved(&exporter, &[POOL]).await;
    exporter.until("the feedback", |scrape| {
        is(scrape, "cognito_auth_feedback_total", &["feedback_value=\"Invalid\""], 1.0)
    });
    assert!(exporter.stop().success());
}

/// A service may give a token with every page. Then no short page shows the end of a history that lies within the
/// overlap.
#[tokio::test(flavor = "multi_thread")]
async fn where_short_pages_are_never_enough_they_are_given_up_before_they_cost_much() {
    const USERS: usize = 20;
    let env = TestEnv::set(&all_live(POOL), |world| {
        populate(world, POOL, USERS, 3);
        world.pool_mut(POOL).last_token = LastToken::Always;
    })
    .await;
    let exporter = env.exporter();
    let enough = |world: &World| world.calls().count(READ) >= 300;
    env.until("300 calls", enough).await;
    let sizes: Vec<_> = env.reads(|_| true).into_iter().filter_map(|call| call.max_results).collect();
    let short = sizes.iter().filter(|size| **size < 60).count();
    // The allowance is ten, plus a fiftieth of the turns, plus sixteen for turns that run at the same time.
    assert!((5..=10 + sizes.len() / 50 + 16).contains(&short), "{short} of {}", sizes.len());
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
}
