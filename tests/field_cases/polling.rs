//! Calls and users: one user under two names, a pool that refuses while another is throttled, an absurd limit, and many
//! new users.

use std::collections::BTreeSet;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_exporter::failpoint::Failpoint;
use cognito_auth_simulator::fault::{AwsError, InjectedFault};
use cognito_auth_simulator::quota::{Category, Quotas};
use cognito_auth_simulator::world::SimulatedPool;

use crate::exporter::Exporter;
use crate::receiver::Received;
use crate::test_env::{MINUTE, READ, TestEnv, is, now, of, said, sign_ins};

const BUDGET: &str = "cognito_exporter_api_budget_requests_per_second";
const UP: &str = "cognito_exporter_pool_up";
const EVENTS: &str = "cognito_auth_events_total";
const USERS: &str = "cognito_exporter_users";
const TWICE: &str = "eu-west-1_Twice";

/// A reported limit of 2^31 - 1 requests/s. Proxies and emulators send this number for "unlimited".
#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_an_absurd_limit_is_a_rate_that_could_be_configured() {
    const POOL: &str = "eu-west-1_Unlimited";
    let config = format!("[[pools]]\nid = {POOL:?}\nusernames = [\"ann\"]\n[poll]\nrequests_per_second = \"20%\"\n");
    for (reported, budget, told) in [
        (i64::from(i32::MAX), 1000.0, "the account's limit is implausible"),
        (1 << 31, 10.0, "the account's limit cannot be read"),
        (0, 10.0, "the account's limit cannot be read"),
        (-5, 10.0, "the account's limit cannot be read"),
    ] {
        let env = TestEnv::set(&config, |world| {
            *world.quotas() = Quotas::documented();
            world.quotas().report_limit(Category::UserResourceRead, reported);
            world.add_pool(SimulatedPool::new(POOL));
            world.add_user(POOL, "ann");
        })
        .await;
        let exporter = env.exporter();
        exporter.until_said(told);
        exporter.until(&format!("a budget of {budget}"), |scrape| is(scrape, BUDGET, &[], budget));
        assert_eq!(said(&exporter.log(), &["WARN"]).len(), 1, "{}", exporter.log());
        assert!(exporter.stop().success());
    }
}

/// Public reports about exporters that take any answer as a sign of health: a pool without the Plus plan beside one
/// that works, in an account that is throttled later. Both pools have missing users.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_refuses_stays_down_while_its_account_is_throttled() {
    const REFUSES: &str = "eu-west-1_NoPlus";
    const BUSY: &str = "eu-west-1_Busy";
    let config = format!(
        "[[pools]]\nid = {REFUSES:?}\nusernames = [\"ann\", \"ben\"]\n\
         [[pools]]\nid = {BUSY:?}\nusernames = [\"cat\", \"nobody\"]\n\
         [poll]\nrequests_per_second = 200\nmin_interval = \"1s\"\nmax_interval = \"10s\"\n"
    );
    let env = TestEnv::set(&config, |world| {
        world.add_pool(SimulatedPool::new(REFUSES));
        world.add_user(REFUSES, "ann");
        world.add_user(REFUSES, "ben");
        world.add_pool(SimulatedPool::new(BUSY));
        world.add_user(BUSY, "cat");
        let plan = AwsError::new("UserPoolAddOnNotEnabledException", "User pool add-on is not enabled.");
        world.inject(InjectedFault::from(plan).on(READ).in_pool(REFUSES));
    })
    .await;
    let exporter = env.exporter();
    exporter.until_said("the pool cannot be polled");
    exporter.until("one pool up, one down", |scrape| {
        is(scrape, UP, &[&of(REFUSES)], 0.0) && is(scrape, UP, &[&of(BUSY)], 1.0)
    });
    // Faults apply in the order of injection. So the pool's next probe is throttled like every other call.
    env.simulation.world(|world| {
        world.remove_all_faults();
        world.inject(InjectedFault::throttle().on(READ));
        world.calls_mut().clear();
    });
    env.until_polled(REFUSES, "ann", 0).await;
    env.until("a throttled probe of the pool that refuses", |world| {
        world.calls().of(READ).any(|call| call.pool.as_deref() == Some(REFUSES))
    })
    .await;
    // Two consecutive scrapes: the second contains the answer to the probe.
    exporter.until("the throttle, counted", |scrape| {
        scrape.sum("cognito_exporter_api_requests_total", &["outcome=\"throttled\""]) > 1.5
    });
    let calls = env.reads(|_| true).len();
    env.until("more calls", |world| world.calls().of(READ).count() > calls + 1).await;
    let scrape = exporter.scrape();
    assert!(is(&scrape, UP, &[&of(REFUSES)], 0.0), "{}", scrape.interesting());
    assert!(is(&scrape, UP, &[&of(BUSY)], 1.0), "{}", scrape.interesting());
    assert_eq!(said(&exporter.log(), &["can be polled again"]), Vec::<String>::new());
    let status: serde_json::Value = serde_json::from_str(&exporter.get("/status")).unwrap();
    assert!(status["findings"].to_string().contains("add-on"), "{}", status["findings"]);
    assert!(exporter.stop().success());
}

/// A configuration of `alice` and `ben`, the first under two names.
fn twice(names: &[&str]) -> String {
    format!(
        "[[pools]]\nid = {TWICE:?}\nusernames = {names:?}\nfollowed_since = \"2020-01-01T00:00:00Z\"\n\
         [poll]\nrequests_per_second = 200\nmin_interval = \"1s\"\nmax_interval = \"10s\"\nfirst_run = \"all\"\n"
    )
}

/// Waits until the events of `names` are counted and delivered, each once except for repeats after a crash, and these
/// users are followed.
async fn each_once(env: &TestEnv, exporter: &Exporter, names: &[&str], repeats_max: usize) {
    let there: BTreeSet<_> = env.simulation.world(|world| {
        let events = names.iter().flat_map(|name| world.history(TWICE, name));
        events.map(|event| event.id.unwrap()).collect()
    });
    let count = there.len() as f64;
    exporter.until("every event, counted", |scrape| scrape.sum(EVENTS, &[]) > count - 0.5);
    exporter.until("each user once", |scrape| is(scrape, USERS, &[], names.len() as f64));
    env.until_received(|records| records.len() >= there.len()).await;
    // Every followed user is polled twice more, and nothing changes.
    let calls = env.reads(|_| true).len();
    env.until("more polls", |world| world.calls().of(READ).count() >= calls + 3 * names.len()).await;
    let scrape = exporter.scrape();
    assert!(is(&scrape, EVENTS, &[], count), "{count} events: {}", scrape.interesting());
    assert!(is(&scrape, "cognito_auth_history_events_total", &[], 0.0), "{}", scrape.interesting());
    let records = env.receiver.records();
    let uids: BTreeSet<_> = records.iter().map(Received::uid).collect();
    assert_eq!(uids.len(), there.len());
    assert!(records.len() <= there.len() + repeats_max, "{} records of {} events", records.len(), there.len());
}

/// Public reports about lists with each user's name and email address, without the permission to list users. Cognito
/// accepts either as the Username.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_listed_by_hand_under_two_names_is_followed_and_counted_once() {
    let names = ["alice", "alice@example.com", "ben"];
    let env = TestEnv::set(&twice(&names), |world| {
        world.add_pool(SimulatedPool::new(TWICE));
        world.add_user_with(TWICE, "alice", |user| user.set_attribute("email", "alice@example.com"));
        world.add_user(TWICE, "ben");
        // More than a page, and more events than are remembered one by one.
        sign_ins(world, TWICE, "alice", 150, UnixMillis(now().0 - MINUTE));
        sign_ins(world, TWICE, "ben", 2, UnixMillis(now().0 - MINUTE));
    })
    .await;
    let exporter = env.exporter();
    each_once(&env, &exporter, &["alice", "ben"], 0).await;
    let told = said(&exporter.log(), &["configured names belong to users who are followed under another name"]);
    assert!(told.len() == 1 && told[0].contains("names=1"), "{told:?}");
    assert!(!exporter.log().contains("alice"), "{}", exporter.log());
    exporter.kill();
    // The events during the downtime are more than a page.
    env.simulation.world(|world| {
        for event in 0..100 {
            let event = world.sign_in(UnixMillis(now().0 - event * 100));
            world.arrive(TWICE, "alice", &event);
        }
    });
    let exporter = env.exporter();
    each_once(&env, &exporter, &["alice", "ben"], 0).await;
    assert_eq!(said(&exporter.log(), &["configured names"]), Vec::<String>::new(), "it was known");
    // Either name alone is enough to keep the user.
    for left in ["alice", "alice@example.com"] {
        let reloads = || said(&exporter.log(), &["configuration reload"]).len();
        let before = reloads();
        env.reconfigure(&twice(&[left, "ben"]));
        exporter.signal("HUP");
        exporter.until("a reload", |_| reloads() > before);
        env.until_polled(TWICE, left, 2).await;
        env.simulation.world(|world| sign_ins(world, TWICE, "alice", 1, now()));
        each_once(&env, &exporter, &["alice", "ben"], 0).await;
    }
    assert!(exporter.stop().success());
}

/// The same with a death at each step of the writes that join the two names.
#[tokio::test(flavor = "multi_thread")]
async fn two_names_of_a_user_are_one_wherever_the_process_dies() {
    for (step, counts) in
        [(Failpoint::PageRead, 2..=2), (Failpoint::LedgerApplied, 3..=5), (Failpoint::LedgerAnswered, 3..=5)]
    {
        for count in counts {
            let env = TestEnv::set(&twice(&["alice", "alice@example.com"]), |world| {
                world.add_pool(SimulatedPool::new(TWICE));
                world.add_user_with(TWICE, "alice", |user| user.set_attribute("email", "alice@example.com"));
                sign_ins(world, TWICE, "alice", 3, UnixMillis(now().0 - MINUTE));
            })
            .await;
            let mut command = env.command();
            command.env("COGNITO_EXPORTER_TEST_STOP_AT", format!("{}:{count}", step.name()));
            let mut dying = Exporter::spawned(command);
            assert!(!dying.ended().success());
            let exporter = env.exporter();
            each_once(&env, &exporter, &["alice"], 3).await;
            assert!(exporter.stop().success());
        }
    }
}
