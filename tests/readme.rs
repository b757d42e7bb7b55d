//! What the README shows is what there is: its configuration, its policy, its metrics.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/exporter.rs"]
mod exporter;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cognito_auth_exporter::config;
use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_exporter::simulate::world::Pool;
use cognito_auth_exporter::simulate::{Options, Simulation};
use cognito_auth_exporter::source::Operation;
use exporter::{Exporter, PATIENCE};
use serde_json::Value;

const README: &str = include_str!("../README.md");
const POOL: &str = "eu-west-1_Readme1";

/// The text of the first block in this language.
fn block(language: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

fn operations() -> [Operation; 4] {
    [Operation::AdminListUserAuthEvents, Operation::ListUsers, Operation::ListUsersInGroup, Operation::DescribeUserPool]
}

#[test]
fn the_configuration_loads_also_with_what_it_shows_commented_out() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    for text in [block("toml").to_owned(), block("toml").replace("# all_users", "all_users").replace("# role", "role")]
    {
        std::fs::write(&file, text).unwrap();
        let config = config::load(Some(&file), Vec::<(String, String)>::new()).unwrap();
        assert_eq!(config.pools[0].groups, ["staff"]);
        assert!(config.otlp.is_some());
    }
}

#[test]
fn the_policy_allows_exactly_what_is_called() {
    let policy: Value = serde_json::from_str(block("json")).unwrap();
    let actions = policy["Statement"][0]["Action"].as_array().unwrap();
    let allowed: BTreeSet<String> = actions.iter().map(|action| action.as_str().unwrap().to_owned()).collect();
    assert_eq!(allowed.len(), actions.len());
    assert_eq!(allowed, operations().iter().map(|operation| operation.iam_action()).collect());
}

/// Metrics that the README's table names.
fn documented() -> BTreeSet<String> {
    let (_, section) = README.split_once("\n## Metrics\n").unwrap();
    let rows = section.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| `"));
    let quoted = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    quoted.filter(|name| !name.ends_with('*')).map(str::to_owned).collect()
}

/// Metrics that a scrape's TYPE lines name, without the Prometheus client's own.
fn exposed(metrics: &str) -> BTreeSet<String> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = types.filter_map(|line| line.split(' ').next());
    names.filter(|name| !name.starts_with("process_")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let simulation = Simulation::start(Options::default()).await.unwrap();
    simulation.world(|world| {
        world.add_pool(Pool::new(POOL));
        world.add_user(POOL, "ann");
        let event = world.sign_in(Clock::system().now());
        world.arrive(POOL, "ann", &event);
    });
    let directory = tempfile::tempdir().unwrap();
    // Nobody takes the records: that something waits is shown, too.
    let text = format!("[[pools]]\nid = {POOL:?}\nall_users = true\n[otlp]\nendpoint = \"http://127.0.0.1:9\"\n");
    let exporter = Exporter::start(&exporter::configure(directory.path(), &text), &simulation.url());
    let began = Instant::now();
    let metrics = loop {
        let metrics = exporter.get("/metrics");
        if exposed(&metrics) == documented() {
            break metrics;
        }
        let (exposed, documented) = (exposed(&metrics), documented());
        assert!(
            began.elapsed() < PATIENCE / 2,
            "documented, not there: {:?}\nthere, not documented: {:?}",
            documented.difference(&exposed).collect::<Vec<_>>(),
            exposed.difference(&documented).collect::<Vec<_>>()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(metrics.contains("\nprocess_"), "{metrics}");
    let called: BTreeSet<&str> =
        metrics.lines().filter_map(|line| line.split("operation=\"").nth(1)?.split('"').next()).collect();
    assert_eq!(called, operations().iter().map(|operation| operation.as_str()).collect());
}
