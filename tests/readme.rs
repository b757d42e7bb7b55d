//! What the README shows is what there is: its configuration, its policy, its metrics.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/exporter.rs"]
mod exporter;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use cognito_auth_exporter::config;
use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_exporter::simulate::world::Pool;
use cognito_auth_exporter::simulate::{Options, Simulation};
use cognito_auth_exporter::source::Operation;
use exporter::{Exporter, PATIENCE};
use serde_json::Value;

const README: &str = include_str!("../README.md");
const FAULTS: &str = include_str!("../docs/faults.md");
const SECURITY: &str = include_str!("../SECURITY.md");
const POOL: &str = "eu-west-1_Readme1";

/// The text of the first block in this language.
fn block(language: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

/// What is called in any configuration, and what only a budget that is a share of the account's limit calls.
const CALLED: [Operation; 4] = [
    Operation::AdminListUserAuthEvents,
    Operation::ListUsers,
    Operation::ListUsersInGroup,
    Operation::DescribeUserPool,
];
const OPTIONAL: Operation = Operation::GetProvisionedLimit;

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
    for text in [block("json"), include_str!("../deploy/iam-policy.json")] {
        let policy: Value = serde_json::from_str(text).unwrap();
        let actions = policy["Statement"][0]["Action"].as_array().unwrap();
        let allowed: BTreeSet<String> = actions.iter().map(|action| action.as_str().unwrap().to_owned()).collect();
        assert_eq!(allowed.len(), actions.len());
        assert_eq!(allowed, CALLED.iter().map(|operation| operation.iam_action()).collect());
        assert_eq!(policy["Statement"][1]["Action"].as_str(), Some(&*OPTIONAL.iam_action()));
        assert_eq!(policy["Statement"].as_array().unwrap().len(), 2);
    }
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
    assert_eq!(called, CALLED.iter().chain([&OPTIONAL]).map(|operation| operation.as_str()).collect());
}

/// Everything between backticks that is a file of ours, or could be the name of a test: words joined by many underscores.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter(|name| name.ends_with(".rs") || (name.matches('_').count() > 4 && !name.starts_with("cognito_")))
}

#[test]
fn every_test_that_is_said_to_show_something_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    for folder in ["tests", "src"] {
        gather(&root.join(folder), &mut code);
    }
    let said: BTreeSet<&str> = named(README).chain(named(FAULTS)).collect();
    assert!(said.len() > 40, "{said:?}");
    for name in said {
        let is_there = match name.strip_suffix(".rs") {
            Some(_) => root.join(name).exists() || root.join("src").join(name).exists(),
            None => code.contains(&format!("fn {name}(")),
        };
        assert!(is_there, "{name} is named in README.md or docs/faults.md and does not exist");
    }
}

/// The text of every file of code below a folder.
fn gather(folder: &Path, code: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_limit_that_security_md_names_is_in_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (_, section) = SECURITY.split_once("\n## Limits on every input\n").unwrap();
    let mut limits = 0;
    for row in section.split("\n## ").next().unwrap().lines().filter(|row| row.starts_with("| ")) {
        let place = row.trim_end_matches(" |").rsplit_once("| ").unwrap().1;
        let quoted: Vec<&str> = place.split('`').skip(1).step_by(2).collect();
        let [file, name, value] = quoted[..] else { continue };
        let code = std::fs::read_to_string(root.join(file)).unwrap();
        let is_it = |line: &&str| line.contains(&format!("const {name}: ")) && line.ends_with(&format!("= {value};"));
        assert_eq!(code.lines().filter(is_it).count(), 1, "{row}");
        limits += 1;
    }
    assert!(limits > 15, "only {limits} limits were found");
}
