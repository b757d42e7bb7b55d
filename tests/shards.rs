//! Several instances of the built binary, each with its share of one pool's users. Together they follow each user once
//! and count each event once. When their number changes, the counts are exactly those of docs/sizing.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::shard::Shard;
use cognito_auth_simulator::fault::{FaultKind, InjectedFault};
use cognito_auth_simulator::world::{SimulatedPool, World};
use serde_json::Value;

use crate::exporter::{Exporter, PATIENCE};
use crate::test_env::{MINUTE, TestEnv, is, now, said, sign_ins};

const POOL: &str = "eu-west-1_Shards";
const EVENTS: &str = "cognito_auth_events_total";
const HISTORY: &str = "cognito_auth_history_events_total";

/// The number of users at the start.
const USERS: usize = 48;

/// The configuration of each of this many shards, with further lines for its pool or further sections. The rates are
/// the total of all shards.
fn config(shards: u32, more: &str) -> String {
    format!(
        "[poll]\nrequests_per_second = 600\nmin_interval = \"1s\"\nfirst_run = \"1h\"\n\
         [discovery]\ninterval = \"10s\"\nrequests_per_second = 30\n[shard]\ncount = {shards}\n\
         [[pools]]\nid = {POOL:?}\nall_users = true\n{more}\n"
    )
}

fn name(user: usize) -> String {
    format!("user-{user:02}")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter's value, of a few hundred")]
fn count(value: f64) -> usize {
    value.round() as usize
}

fn home(user: &str, shards: u32) -> u32 {
    (0..shards).find(|index| Shard::new(*index, shards).unwrap().holds(POOL, user)).unwrap()
}

/// A deployment of some shards, and all users of its pool.
struct Deployment<'a> {
    env: &'a TestEnv,
    shards: Vec<Exporter>,
    users: BTreeSet<String>,
}

impl<'a> Deployment<'a> {
    /// Starts this many shards, each with a state and a key of its own, and waits until each follows its share.
    fn start(env: &'a TestEnv, count: u32, more: &str, users: &BTreeSet<String>) -> Self {
        Self::start_while(env, count, more, users, |_| {})
    }

    /// The same, with an action after the start, which most likely precedes the first listing.
    fn start_while(
        env: &'a TestEnv,
        count: u32,
        more: &str,
        users: &BTreeSet<String>,
        happens: impl FnOnce(&Self),
    ) -> Self {
        env.reconfigure(&config(count, more));
        let slow = InjectedFault::new(FaultKind::Slow(Duration::from_secs(2))).on("ListUsers");
        let slow = env.simulation.world(|world| world.inject(slow));
        let shards = (0..count).map(|index| {
            let mut command = env.command();
            command.env("COGNITO_EXPORTER_STATE__PATH", env.path(&format!("state-{index}")));
            command.env("AWS_ACCESS_KEY_ID", format!("key-of-{index}"));
            // Each way in which Kubernetes can pass the index.
            match index {
                0 => command.env("POD_NAME", "exporter-0").env("HOSTNAME", "another-7"),
                1 => command.env("HOSTNAME", "exporter-1"),
                _ => command.env("COGNITO_EXPORTER_SHARD__INDEX", format!("exporter-{index}")),
            };
            Exporter::started(command)
        });
        let started = Self { env, shards: shards.collect(), users: users.clone() };
        happens(&started);
        env.simulation.world(|world| world.remove_fault(slow));
        for (index, shard) in (0..).zip(&started.shards) {
            let own = users.iter().filter(|user| home(user, count) == index).count();
            shard.until(&format!("{own} followed by {index}"), |scrape| {
                is(scrape, "cognito_exporter_users", &[], own as f64)
                    && scrape.count("cognito_exporter_discovery_last_success_timestamp_seconds", &[]) > 0
            });
        }
        started
    }

    /// Adds a sign-in of every user, now.
    fn everybody_signs_in(&self) {
        self.env.simulation.world(|world| self.users.iter().for_each(|user| sign_ins(world, POOL, user, 1, now())));
    }

    /// The sum of a counter over all shards.
    fn sum(&self, metric: &str) -> f64 {
        self.shards.iter().map(|shard| shard.scrape().sum(metric, &[])).sum()
    }

    /// Waits until this many live and historical events are counted. After two more polls of every user, checks that
    /// there are no more.
    async fn counted(&self, live: usize, history: usize) {
        let deadline = Instant::now() + PATIENCE;
        let reached = |metric: &str, events: usize| self.sum(metric) > events as f64 - 0.5;
        while !(reached(EVENTS, live) && reached(HISTORY, history)) {
            let sums = [EVENTS, HISTORY].map(|metric| self.sum(metric));
            assert!(Instant::now() < deadline, "{sums:?}, not {live} and {history}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for _ in 0..2 {
            self.env.forget_calls();
            self.env.until_all_polled(POOL, &self.users).await;
        }
        let sums = [EVENTS, HISTORY].map(|metric| count(self.sum(metric)));
        assert_eq!(sums, [live, history], "live and history");
    }

    /// Checks that only the shard of each user polls it.
    fn everybody_is_polled_by_one(&self) {
        let mut askers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for call in self.env.reads(|call| call.pool.as_deref() == Some(POOL)) {
            askers.entry(call.user.unwrap()).or_default().insert(call.access_key.unwrap());
        }
        let count = u32::try_from(self.shards.len()).unwrap();
        let own = |user: &String| (user.clone(), BTreeSet::from([format!("key-of-{}", home(user, count))]));
        assert_eq!(askers, self.users.iter().map(own).collect());
    }

    /// Stops all shards, and checks that they logged no warning.
    fn stop(self) {
        for shard in self.shards {
            assert_eq!(said(&shard.log(), &["WARN"]), Vec::<String>::new());
            assert!(shard.stop().success());
        }
    }
}

fn populate(world: &mut World) -> BTreeSet<String> {
    world.add_pool(SimulatedPool::new(POOL));
    let users: BTreeSet<_> = (0..USERS).map(name).collect();
    for user in &users {
        world.add_user_with(POOL, user, |user| user.created = UnixMillis(now().0 - 1000 * MINUTE));
    }
    users
}

/// The number of users in one share of this many.
fn share(users: &BTreeSet<String>, index: u32, count: u32) -> usize {
    users.iter().filter(|user| home(user, count) == index).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_count_every_event_once_and_a_change_leaves_uncounted_what_nobody_saw_and_repeats_nothing() {
    changes_count_nothing_twice(["", "", ""]).await;
}

/// A moved user is recognised by its stored record, which is under a name of another key until then.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_repeats_nothing_of_users_known_by_hashes_under_a_key_that_changes_with_it() {
    let hashed = "[privacy]\nusername = \"hash\"\nhash_key_file = \"{directory}/key-";
    let first = format!("{hashed}0\"");
    let second = format!("{hashed}1\"\nformer_hash_key_file = \"{{directory}}/key-0\"");
    changes_count_nothing_twice([&first, &second, &second]).await;
}

/// Two shards become three and then two again, with `more` configuration each time.
async fn changes_count_nothing_twice(more: [&str; 3]) {
    let mut users = BTreeSet::new();
    let env = TestEnv::set(&config(2, ""), |world| users = populate(world)).await;
    for key in 0..2 {
        let file = format!("key-{key}");
        env.file(&file, &key.to_string().repeat(32));
        fs::set_permissions(env.path(&file), Permissions::from_mode(0o600)).unwrap();
    }
    let moved = share(&users, 2, 3);
    assert!(moved > 0 && share(&users, 0, 2) > 0 && share(&users, 1, 2) > 0);

    // Two shards.
    let two = Deployment::start(&env, 2, more[0], &users);
    two.everybody_signs_in();
    two.counted(USERS, 0).await;
    two.everybody_is_polled_by_one();
    for (index, shard) in (0..).zip(&two.shards) {
        let labels = [&*format!("index=\"{index}\""), "count=\"2\""];
        assert!(is(&shard.scrape(), "cognito_exporter_shard_info", &labels, 1.0));
        let status: Value = serde_json::from_str(&shard.get("/status")).unwrap();
        assert_eq!(status["shard"], serde_json::json!({"index": index, "count": 2}));
        let budget = shard.scrape().sum("cognito_exporter_api_budget_requests_per_second", &[]);
        assert!((budget - 300.0).abs() < 1e-6, "half of the rate: {budget}");
    }
    two.stop();

    // Every user signs in while nothing runs. The events of a user that stays with its ledger are counted. A user that
    // moves has them in the history, with the events that the former shard counted.
    env.simulation.world(|world| users.iter().for_each(|user| sign_ins(world, POOL, user, 1, now())));
    // From the start on every event is counted, also before its user is listed.
    let three = Deployment::start_while(&env, 3, more[1], &users, Deployment::everybody_signs_in);
    let (mut live, mut history) = (USERS + (USERS - moved) + USERS, 2 * moved);
    three.counted(live, history).await;
    three.everybody_is_polled_by_one();
    // Events of a user that is created here are counted, too.
    let newborn = (0..).map(|number| format!("newborn-{number}")).find(|user| home(user, 3) == 2).unwrap();
    env.simulation.world(|world| world.add_user(POOL, &newborn));
    users.insert(newborn);
    let three = Deployment { users: users.clone(), ..three };
    three.everybody_signs_in();
    live += USERS + 1;
    three.counted(live, history).await;
    let of_third = three.shards[2].scrape();
    three.stop();

    // Two again, with their former ledgers. The events that the third shard counted are history now, and are not counted
    // again. That holds for users that the first two knew before and for the new user.
    let two = Deployment::start_while(&env, 2, more[2], &users, Deployment::everybody_signs_in);
    live -= count(of_third.sum(EVENTS, &[]));
    live += USERS + 1;
    history = history - count(of_third.sum(HISTORY, &[])) + 4 * moved + 1;
    two.counted(live, history).await;
    two.everybody_signs_in();
    two.counted(live + USERS + 1, history).await;
    two.everybody_is_polled_by_one();
    two.stop();

    // Each repeated record has the same uid.
    let uids: BTreeSet<_> = env.receiver.records().iter().map(|record| record.uid().to_owned()).collect();
    assert_eq!(uids.len(), env.truth(&[POOL]).len());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_followed_since_a_change_loses_nothing_and_repeats_what_movers_did_since_then() {
    let mut users = BTreeSet::new();
    let env = TestEnv::set(&config(2, ""), |world| users = populate(world)).await;
    let moved = share(&users, 2, 3);
    let two = Deployment::start(&env, 2, "", &users);
    two.everybody_signs_in();
    two.counted(USERS, 0).await;
    let since = UnixMillis(now().0 + 1);
    env.until("the next millisecond", |_| now() > since).await;
    two.everybody_signs_in();
    two.counted(2 * USERS, 0).await;
    two.stop();

    env.simulation.world(|world| users.iter().for_each(|user| sign_ins(world, POOL, user, 1, now())));
    let since = format!("followed_since = \"{since}\"");
    let three = Deployment::start(&env, 3, &since, &users);
    // Events of the downtime are counted. Events of moved users between `since` and the stop are counted again.
    three.counted(3 * USERS + moved, moved).await;
    three.stop();

    // `since` may stay in the configuration: a restart repeats nothing.
    let three = Deployment::start(&env, 3, &since, &users);
    three.everybody_signs_in();
    three.counted(4 * USERS + moved, moved).await;
    three.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_may_be_an_alias_waits_until_every_shard_has_met_everybody() {
    let alias = (0..).map(|number| format!("alias-{number}@example.com")).find(|alias| home(alias, 2) == 0).unwrap();
    let user = (0..).map(|number| format!("person-{number}")).find(|user| home(user, 2) == 1).unwrap();
    let env = TestEnv::set("", |world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user_with(POOL, &user, |user| user.set_attribute("email", &alias));
        world.add_to_group(POOL, "staff", &user);
    })
    .await;
    let pools = format!(r#"[{{"id": "{POOL}", "groups": ["staff"], "usernames": ["{alias}"]}}]"#);
    env.reconfigure(&config(2, ""));
    let denied = env.simulation.world(|world| world.inject(InjectedFault::access_denied().on("ListUsersInGroup")));
    let shards = [0, 1].map(|index| {
        let mut command = env.command();
        command.env("COGNITO_EXPORTER_STATE__PATH", env.path(&format!("state-{index}")));
        command.env("COGNITO_EXPORTER_POOLS", &pools).env("COGNITO_EXPORTER_SHARD__INDEX", index.to_string());
        command.env("AWS_ACCESS_KEY_ID", format!("key-of-{index}"));
        Exporter::started(command)
    });
    let attempts = |world: &World, key: String| {
        world.calls().of("ListUsersInGroup").filter(|call| call.access_key.as_ref() == Some(&key)).count()
    };
    env.until("two attempts each", |world| [0, 1].iter().all(|index| attempts(world, format!("key-of-{index}")) >= 2))
        .await;
    assert_eq!(env.polled(POOL), BTreeSet::new());
    env.simulation.world(|world| world.remove_fault(denied));
    env.until_polled(POOL, &user, 2).await;
    assert_eq!(env.polled(POOL), BTreeSet::from([user]));
    for shard in shards {
        assert!(shard.stop().success());
    }
}
