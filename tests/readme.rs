//! The content of README.md and docs/ is true: configuration, keys, policy, metrics, tests, links.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_exporter::config;
use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_exporter::metrics::Metrics;
use cognito_auth_exporter::source::Operation;
use cognito_auth_simulator::world::SimulatedPool;
use cognito_auth_simulator::{Options, Simulation};
use serde_json::Value;

use crate::exporter;
use crate::exporter::{Exporter, PATIENCE};

const README: &str = include_str!("../README.md");
const FAULTS: &str = include_str!("../docs/faults.md");
const GUARANTEES: &str = include_str!("../docs/guarantees.md");
const METRICS: &str = include_str!("../docs/metrics.md");
const PERMISSIONS: &str = include_str!("../docs/permissions-and-cost.md");
const CONFIGURATION: &str = include_str!("../docs/configuration.md");
const EXAMPLE: &str = include_str!("../config.example.toml");
const SECURITY: &str = include_str!("../SECURITY.md");
const POOL: &str = "eu-west-1_Readme1";

/// A newcomer reads README.md in five minutes. The rest is in docs/.
const README_BYTES_MAX: usize = 8 * 1024;

/// The text of a page's first block in this language.
fn block(page: &'static str, language: &str) -> &'static str {
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

/// The operations that any configuration calls, and one that only a budget as a share of the account's limit calls.
const CALLED: [Operation; 4] = [
    Operation::AdminListUserAuthEvents,
    Operation::ListUsers,
    Operation::ListUsersInGroup,
    Operation::DescribeUserPool,
];
const OPTIONAL: Operation = Operation::GetProvisionedLimit;

/// The operations for a pool whose own export is read.
const FOR_EXPORTS: [Operation; 2] = [Operation::GetLogDeliveryConfiguration, Operation::FilterLogEvents];

#[test]
fn the_configuration_loads_also_with_what_it_shows_commented_out() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    let shown = block(README, "toml");
    for text in [shown.to_owned(), shown.replace("# all_users", "all_users").replace("# role", "role")] {
        std::fs::write(&file, text).unwrap();
        let config = config::load(Some(&file), Vec::<(String, String)>::new()).unwrap();
        assert_eq!(config.pools[0].selection.groups, ["staff"]);
        assert!(config.otlp.is_some());
    }
}

#[test]
fn the_policy_for_an_export_reads_its_log_group_and_its_configuration() {
    let (_, rest) = PERMISSIONS.split_once("## An export's policy\n").unwrap();
    let shown = rest.split_once("```json\n").unwrap().1.split_once("```").unwrap().0;
    let policies: [Value; 2] =
        [shown, include_str!("../deploy/iam-policy-export.json")].map(|text| serde_json::from_str(text).unwrap());
    assert_eq!(policies[0], policies[1]);
    let statements = policies[0]["Statement"].as_array().unwrap();
    let allowed: Vec<_> = statements.iter().map(|statement| statement["Action"].as_str().unwrap()).collect();
    assert_eq!(allowed, ["logs:FilterLogEvents", "cognito-idp:GetLogDeliveryConfiguration"]);
}

#[test]
fn the_policy_allows_exactly_what_is_called() {
    for text in [block(PERMISSIONS, "json"), include_str!("../deploy/iam-policy.json")] {
        let policy: Value = serde_json::from_str(text).unwrap();
        let actions = policy["Statement"][0]["Action"].as_array().unwrap();
        let allowed: BTreeSet<String> = actions.iter().map(|action| action.as_str().unwrap().to_owned()).collect();
        assert_eq!(allowed.len(), actions.len());
        assert_eq!(allowed, CALLED.iter().map(|operation| operation.iam_action()).collect());
        assert_eq!(policy["Statement"][1]["Action"].as_str(), Some(&*OPTIONAL.iam_action()));
        assert_eq!(policy["Statement"].as_array().unwrap().len(), 2);
    }
}

/// The metrics in the table of a section of docs/metrics.md.
fn documented(section: &str) -> BTreeSet<String> {
    let (_, section) = METRICS.split_once(&format!("\n## {section}\n")).unwrap();
    let rows = section.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| `"));
    let quoted = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    quoted.filter(|name| !name.ends_with('*') && !name.contains('.')).map(str::to_owned).collect()
}

/// The metrics in a scrape's TYPE lines, without those of the Prometheus client.
fn exposed(metrics: &str) -> BTreeSet<String> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = types.filter_map(|line| line.split(' ').next());
    names.filter(|name| !name.starts_with("process_")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let simulation = Simulation::start(Options::default()).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ann");
        let event = world.sign_in(Clock::system().now());
        world.arrive(POOL, "ann", &event);
    });
    let directory = tempfile::tempdir().unwrap();
    // The receiver is unreachable, so the metrics of waiting records appear too.
    let text = format!(
        "[[pools]]\nid = {POOL:?}\nall_users = true\n[otlp]\nendpoint = \"http://127.0.0.1:9\"\n\
         [poll]\nrequests_per_second = \"10%\"\n"
    );
    let exporter = Exporter::start(&exporter::configure(directory.path(), &text), &simulation.url());
    let began = Instant::now();
    let metrics = loop {
        let metrics = exporter.get("/metrics");
        if exposed(&metrics) == documented("Names and labels") {
            break metrics;
        }
        let (exposed, documented) = (exposed(&metrics), documented("Names and labels"));
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
    let operations = CALLED.iter().chain([&OPTIONAL]).chain(&FOR_EXPORTS);
    assert_eq!(called, operations.map(|operation| operation.as_str()).collect());
}

#[test]
fn every_metric_of_an_export_is_documented_and_every_documented_one_is_there() {
    let now = UnixMillis(1_723_136_049_929);
    let metrics = Metrics::new(now);
    let identity = PoolIdentity { id: POOL.into(), name: String::new(), region: "eu-west-1".into(), account_id: None };
    metrics.add_pool(&identity);
    let before = exposed(&metrics.render());
    metrics.add_export(POOL);
    metrics.add_firehose();
    metrics.export_up(POOL, true);
    metrics.export_read_until(POOL, now);
    let added: BTreeSet<String> = exposed(&metrics.render()).difference(&before).cloned().collect();
    assert_eq!(added, documented("Metrics of Cognito's own export"));
}

/// Everything between backticks that is a file of the project, or could be the name of a test: words joined by several
/// underscores.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter(|name| name.ends_with(".rs") || (name.matches('_').count() > 4 && !name.starts_with("cognito_")))
}

#[test]
fn every_test_that_is_said_to_show_something_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    for folder in ["tests", "src", "crates"] {
        gather(&root.join(folder), &mut code);
    }
    let said: BTreeSet<&str> = named(GUARANTEES).chain(named(FAULTS)).collect();
    assert!(said.len() > 40, "{said:?}");
    for name in said {
        let is_there = match name.strip_suffix(".rs") {
            Some(_) => root.join(name).exists() || root.join("src").join(name).exists(),
            None => code.contains(&format!("fn {name}(")),
        };
        assert!(is_there, "{name} is named in docs/guarantees.md or docs/faults.md and does not exist");
    }
}

/// Adds the text of every code file below a folder.
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

#[test]
fn the_readme_is_short() {
    assert!(README.len() <= README_BYTES_MAX, "README.md has {} bytes, of {README_BYTES_MAX}", README.len());
}

/// The rows of the reference, as key and default.
fn reference() -> Vec<(&'static str, &'static str)> {
    let rows = CONFIGURATION.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| {
        let (key, rest) = row.split_once("` | ")?;
        Some((key, rest.split_once(" | ")?.0))
    })
    .filter(|(key, _)| key.contains('.'))
    .collect()
}

#[test]
fn the_reference_has_every_key_once_with_the_default_of_the_example() {
    let keys: BTreeSet<String> = reference().into_iter().map(|(key, _)| key.to_owned()).collect();
    assert_eq!(keys.len(), reference().len(), "a key is there twice");
    assert_eq!(keys, config::keys().into_iter().collect());
    for (key, default) in reference() {
        let (section, leaf) = key.rsplit_once('.').unwrap();
        let section = section.strip_suffix("[]").map_or(format!("[{section}]"), |list| format!("[[{list}]]"));
        // A table of a pool follows the pool in the example.
        let section = section.replace("[].", ".");
        let begun = [format!("\n{section}\n"), format!("\n# Example: {section}\n")];
        let (_, rest) = begun.iter().find_map(|begun| EXAMPLE.split_once(begun)).unwrap();
        let own = rest.split("\n[").next().unwrap();
        let shown = own.lines().find_map(|line| line.strip_prefix(&format!("# {leaf} = ")));
        match (default.strip_prefix('`').and_then(|text| text.strip_suffix('`')), shown) {
            (Some(default), Some(shown)) => assert_eq!(default, shown, "{key}"),
            // A default that depends on another key is described in words.
            (None, Some(_)) => assert!(default.starts_with("the "), "{key}: {default}"),
            (None, None) => assert!(["none", "required", "the first start"].contains(&default), "{key}: {default}"),
            (Some(default), None) => panic!("{key}: the example shows no default, the reference {default}"),
        }
    }
}

#[test]
fn every_link_of_the_documents_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<_> = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "ARCHITECTURE.md",
        "deploy/README.md",
        "deploy/helm/cognito-auth-exporter/README.md",
        "dashboards/README.md",
    ]
    .map(|page| root.join(page))
    .into();
    let listed = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    pages.extend(listed.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    let mut links = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            if path.contains("://") {
                continue;
            }
            let file = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(file.exists(), "{}: {target} does not exist", page.display());
            if !anchor.is_empty() {
                let titles = std::fs::read_to_string(&file).unwrap();
                let titles = titles.lines().filter_map(|line| line.strip_prefix('#'));
                let is_there =
                    titles.map(|title| slug(title.trim_start_matches('#').trim())).any(|slug| slug == anchor);
                assert!(is_there, "{}: {target}: there is no such heading", page.display());
            }
            links += 1;
        }
    }
    assert!(links > 60, "only {links} links were found");
}

/// The anchor of a heading.
fn slug(title: &str) -> String {
    let kept = title.to_lowercase().replace(' ', "-");
    kept.chars().filter(|char| char.is_alphanumeric() || matches!(char, '-' | '_')).collect()
}

#[test]
fn every_page_is_in_the_index() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let index = std::fs::read_to_string(docs.join("README.md")).unwrap();
    for entry in std::fs::read_dir(docs).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") && name != "README.md" {
            assert!(index.contains(&format!("]({name})")), "docs/README.md does not name {name}");
        }
    }
}
