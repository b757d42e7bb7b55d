//! Other applications have priority: the built binary against the documented quotas, beside an application that uses
//! most of them. `src/budget/tests.rs` tests the budget over hours in virtual time.

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::calls::{Call, CallResult};
use cognito_auth_simulator::quota::{Category, Quotas};
use cognito_auth_simulator::world::{SimulatedPool, World};

use crate::test_env::{MINUTE, READ, TestEnv, is, now, said, sign_ins};

const POOL: &str = "eu-west-1_Busy";

/// The application's calls, of the account's 50 requests per second.
const OTHERS_PER_SECOND: f64 = 40.0;

/// The remaining calls.
const ALLOWED_PER_SECOND: f64 = 10.0;

/// The seconds in which the exporter adapts, and those in which it is measured.
const LEARNS: i64 = 10;
const MEASURED: i64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_that_may_have_less_than_its_budget_finds_out_uses_it_and_loses_nothing() {
    // More work than the account has calls, with a configured rate of five times the remaining calls.
    let config = format!(
        "[[pools]]\nid = {POOL:?}\nall_users = true\nfollowed_since = \"2020-01-01T00:00:00Z\"\n\
         [poll]\nrequests_per_second = 50\nmin_interval = \"1s\"\nmax_interval = \"10s\"\n"
    );
    let env = TestEnv::set(&config, |world| {
        *world.quotas() = Quotas::documented();
        world.quotas().set_other_calls_per_second(Category::UserResourceRead, OTHERS_PER_SECOND);
        world.add_pool(SimulatedPool::new(POOL));
        for user in 0..60 {
            world.add_user(POOL, &format!("user-{user}"));
            sign_ins(world, POOL, &format!("user-{user}"), 2, UnixMillis(now().0 - MINUTE));
        }
    })
    .await;
    let exporter = env.exporter();
    let span = |world: &World| {
        let mut calls = world.calls().of(READ);
        Some((calls.next()?.at, calls.next_back()?.at))
    };
    env.until("a run long enough", |world| {
        span(world).is_some_and(|(first, last)| last.0 - first.0 >= (LEARNS + MEASURED) * 1000)
    })
    .await;
    let (begin, others_refused) =
        env.simulation.world(|world| (span(world).unwrap().0, world.quotas().other_calls_refused()));
    let measured =
        |call: &Call| ((begin.0 + LEARNS * 1000)..(begin.0 + (LEARNS + MEASURED) * 1000)).contains(&call.at.0);
    let throttled = |call: &&Call| call.outcome == CallResult::Refused("TooManyRequestsException".to_owned());
    let (all, adapted) = (env.reads(|_| true), env.reads(measured));
    let [in_all, after] =
        [&all, &adapted].map(|calls| calls.iter().filter(throttled).count() as f64 / calls.len() as f64);
    let granted = adapted.iter().filter(|call| !throttled(call)).count();
    let used = granted as f64 / MEASURED as f64 / ALLOWED_PER_SECOND;
    println!(
        "throttled {:.1} % of all {} calls and {:.1} % of the {} once adapted; {:.0} % of what is allowed used; \
         {others_refused} of the application's calls refused",
        in_all * 100.0,
        all.len(),
        after * 100.0,
        adapted.len(),
        used * 100.0,
    );
    assert!(in_all < 0.1, "{in_all}");
    assert!(after < 0.05, "{after}");
    // Slightly more than the remaining calls if the bucket was not empty.
    assert!((0.9..1.2).contains(&used), "{used}");

    let scrape = exporter.scrape();
    let budget = scrape.sum("cognito_exporter_api_budget_requests_per_second", &[]);
    assert!(budget < 25.0, "{budget}");
    assert!(is(&scrape, "cognito_exporter_pool_up", &[], 1.0), "throttles are up");
    env.conserved(&exporter, &[POOL]).await;
    let counted = exporter.scrape().sum("cognito_exporter_api_requests_total", &["outcome=\"throttled\""]);
    assert!(counted >= all.iter().filter(throttled).count() as f64);
    assert_eq!(said(&exporter.log(), &["WARN"]), Vec::<String>::new());
    assert_eq!(said(&exporter.log(), &["Cognito throttles calls", "limit=50.0"]).len(), 1, "{}", exporter.log());
    assert!(exporter.stop().success());
}
