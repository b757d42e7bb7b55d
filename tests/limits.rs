//! A budget that is a share of the account's limit. The built binary runs against an account that reports its limit,
//! one that does not, and an endpoint without that operation. `src/app/limit.rs` tests how the budget follows the limit
//! for hours.

use cognito_auth_simulator::fault::{AwsError, InjectedFault};
use cognito_auth_simulator::quota::{Category, Quotas};
use cognito_auth_simulator::world::{SimulatedPool, World};
use serde_json::Value;

use crate::exporter::Exporter;
use crate::test_env::{TestEnv, is, said};

const POOLS: [&str; 2] = ["eu-west-1_Limit", "eu-west-1_Other"];
const ASK: &str = "GetProvisionedLimit";
const BUDGET: &str = "cognito_exporter_api_budget_requests_per_second";

/// Two pools of an account that may make 200 calls per second.
async fn env(change: impl FnOnce(&mut World)) -> TestEnv {
    let config = POOLS.map(|pool| format!("[[pools]]\nid = {pool:?}\nusernames = [\"ann\"]\n")).concat();
    TestEnv::set(&format!("{config}[poll]\nrequests_per_second = \"20%\"\nmin_interval = \"1s\"\n"), |world| {
        *world.quotas() = Quotas::documented();
        world.quotas().set_limit(Category::UserResourceRead, Some(200));
        for pool in POOLS {
            world.add_pool(SimulatedPool::new(pool));
            world.add_user(pool, "ann");
        }
        change(world);
    })
    .await
}

fn until_budget(exporter: &Exporter, per_second: f64) {
    exporter.until(&format!("a budget of {per_second}"), |scrape| is(scrape, BUDGET, &[], per_second));
}

/// The account's limit in `/status` for both pools, and whether it was read.
fn limit(exporter: &Exporter) -> [(Option<f64>, bool); 2] {
    let status: Value = serde_json::from_str(&exporter.get("/status")).unwrap();
    [0, 1].map(|pool| {
        let pool = &status["pools"][pool];
        (pool["account_limit_requests_per_second"].as_f64(), pool["account_limit_read"].is_string())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_limit_is_a_share_of_what_aws_says() {
    let env = env(|_| {}).await;
    let exporter = env.exporter();
    until_budget(&exporter, 40.0);
    assert_eq!(limit(&exporter), [(Some(200.0), true); 2]);
    assert_eq!(env.simulation.world(|world| world.calls().count(ASK)), 1, "once for the account, not for each pool");
    assert_eq!(said(&exporter.log(), &["the account's limit was read", "limit=200"]).len(), 1);
    let scrape = exporter.scrape();
    let counted = [&*format!("operation=\"{ASK}\""), "outcome=\"ok\""];
    assert!(is(&scrape, "cognito_exporter_api_requests_total", &counted, 1.0));
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_ask_has_a_share_of_the_documented_limit_and_is_told_once() {
    let env = env(|world| _ = world.inject(InjectedFault::access_denied().on(ASK))).await;
    let exporter = env.exporter();
    exporter.until_said("the account's limit cannot be read");
    until_budget(&exporter, 10.0);
    assert_eq!(limit(&exporter), [(Some(50.0), false); 2]);
    let warned = said(&exporter.log(), &["WARN"]);
    assert!(warned.len() == 1 && warned[0].contains("AccessDenied") && warned[0].contains("default"), "{warned:?}");
    for pool in POOLS {
        env.until_polled(pool, "ann", 2).await;
    }
    let scrape = exporter.scrape();
    assert!(is(&scrape, "cognito_exporter_pool_up", &[], 2.0), "it is nobody's trouble: {}", scrape.interesting());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_know_the_question_is_asked_again_and_the_budget_follows_its_answer() {
    let unknown = AwsError::new("UnknownOperationException", "");
    let env = env(|world| _ = world.inject(InjectedFault::from(unknown).on(ASK).times(1))).await;
    let exporter = env.exporter();
    exporter.until_said("the account's limit cannot be read");
    until_budget(&exporter, 10.0);
    until_budget(&exporter, 40.0);
    assert_eq!(limit(&exporter), [(Some(200.0), true); 2]);
    assert_eq!(said(&exporter.log(), &["WARN"]).len(), 1);
    assert!(exporter.stop().success());
}
