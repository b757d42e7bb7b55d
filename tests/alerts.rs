//! The alerting rules: their annotations, their unit tests, that each unit test can fail, and that the mixin renders them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::rules::{self, Rule, RuleFile};
use crate::{long, peers};
use serde::Deserialize;

const RUNBOOKS: &str = include_str!("../docs/runbooks.md");

/// The files of unit tests that promtool runs against the rules.
const TESTS: [&str; 7] =
    ["security.yml", "baselines.yml", "health.yml", "following.yml", "state.yml", "export.yml", "clusters.yml"];

/// Alerts on events of a pool. They must see the first event of all.
const OF_EVENTS: [&str; 5] = [
    "CognitoAccountTakeover",
    "CognitoBlockedByThreatProtection",
    "CognitoCompromisedCredentials",
    "CognitoSignInFailureBurst",
    "CognitoSecondFactorsUnfinished",
];

/// Alerts that tell of no instance, or that also fire when nothing reports under the new name.
const OF_NO_INSTANCE: [&str; 4] =
    ["CognitoExporterGone", "CognitoShardMissing", "CognitoVolumeFilling", "CognitoCertificateExpiring"];

/// The alerting rules by name. An alert with several severities has a rule for each.
fn alerts() -> BTreeMap<String, Vec<Rule>> {
    let mut alerts: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    for rule in rules::all() {
        if let Some(name) = rule.alert.clone() {
            alerts.entry(name).or_default().push(rule);
        }
    }
    alerts
}

/// A Python that can render the mixin, and a command for it.
fn render(arguments: &[&Path]) -> Option<Command> {
    let mut command = Command::new(peers::python_with("rjsonnet")?);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/mixin/render.py")).args(arguments);
    Some(command)
}

/// Runs promtool. The error is its output.
fn promtool(arguments: &[&str], directory: &Path) -> Result<(), String> {
    let output = Command::new("promtool").args(arguments).current_dir(directory).output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    if output.status.success() { Ok(()) } else { Err(said) }
}

#[test]
fn the_rules_are_sound_and_their_unit_tests_hold() {
    if !peers::has("promtool") || !long::are_wanted() {
        return;
    }
    promtool(&["check", "rules", "rules.yml"], &rules::folder()).unwrap();
    // In parallel, because each run takes some seconds.
    std::thread::scope(|scope| {
        for file in TESTS {
            scope.spawn(move || {
                let outcome = promtool(&["test", "rules", file], &rules::folder().join("tests"));
                assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
            });
        }
    });
}

#[test]
fn the_operators_rules_are_the_plain_ones() {
    #[derive(Deserialize)]
    struct PrometheusRule {
        kind: String,
        spec: RuleFile,
    }
    let of_operator = fs::read_to_string(rules::folder().join("prometheusrule.yaml")).unwrap();
    let parsed: PrometheusRule = serde_saphyr::from_str(&of_operator).unwrap();
    assert_eq!(parsed.kind, "PrometheusRule");
    assert_eq!(parsed.spec, rules::rules());
}

#[test]
fn the_rules_are_what_the_mixin_renders() {
    let Some(mut command) = render(&[Path::new("--check")]) else { return };
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Other labels, a selector, other severities and limits, no dashboards, a pool that only audits.
#[test]
fn a_mixin_with_other_values_holds_its_unit_tests() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/mixin/tests");
    let directory = tempfile::tempdir().unwrap();
    let config = tests.join("configured.jsonnet");
    let arguments = [Path::new("--config"), &config, Path::new("--output"), directory.path()];
    let (Some(mut command), true) = (render(&arguments), peers::has("promtool")) else { return };
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let folder = directory.path().join("deploy/prometheus");
    fs::copy(tests.join("configured.yml"), folder.join("configured.yml")).unwrap();
    promtool(&["check", "rules", "rules.yml"], &folder).unwrap();
    promtool(&["test", "rules", "configured.yml"], &folder).unwrap();
    let rules = fs::read_to_string(folder.join("rules.yml")).unwrap();
    assert!(!rules.contains("example.com"), "every link follows its setting");
    let dashboard = fs::read_to_string(directory.path().join("dashboards/exporter-health.json")).unwrap();
    assert!(dashboard.contains("k8s_cluster=~\\\"$cluster\\\""), "the dashboards follow the label of the cluster");
    assert!(!dashboard.contains("{cluster=~"), "no query is left with the default label");
}

#[test]
fn every_alert_says_what_it_is_and_has_a_runbook() {
    for (name, rule) in
        alerts().into_iter().flat_map(|(name, rules)| rules.into_iter().map(move |rule| (name.clone(), rule)))
    {
        let annotations: Vec<_> = rule.annotations.keys().collect();
        assert_eq!(annotations, ["dashboard_url", "description", "runbook_url", "summary"], "{name}");
        assert!(["critical", "warning"].contains(&rule.labels["severity"].as_str()), "{name}");
        assert!(
            rule.annotations["runbook_url"].ends_with(&format!("/docs/runbooks.md#{}", name.to_lowercase())),
            "{name}"
        );
        let section = RUNBOOKS.split("\n## ").find(|section| section.starts_with(&format!("{name}\n")));
        let section = section.unwrap_or_else(|| panic!("docs/runbooks.md has no section {name}"));
        for part in ["**Means:**", "**Look:**", "**Do:**"] {
            assert!(section.contains(part), "{name}: its section has no {part}");
        }
    }
    let sections = RUNBOOKS.lines().filter_map(|line| line.strip_prefix("## Cognito")).count();
    assert_eq!(sections, alerts().len(), "a section for each alert, and none for an alert that is not there");
}

/// A file of unit tests: the head that names the rules, and the name and text of each test.
fn unit_tests(file: &str) -> (String, Vec<(String, String)>) {
    let text = fs::read_to_string(rules::folder().join("tests").join(file)).unwrap();
    let mut parts = text.split("\n  - name: ");
    let head = parts.next().unwrap().to_owned();
    let test = |part: &str| {
        let name = part.lines().next().unwrap().trim_matches('"').to_owned();
        (name, format!("\n  - name: {part}"))
    };
    (head, parts.map(test).collect())
}

#[test]
fn every_alert_has_unit_tests_of_every_kind() {
    let names: Vec<String> = TESTS.iter().flat_map(|file| unit_tests(file).1).map(|(name, _)| name).collect();
    let alerts = alerts();
    for name in &names {
        let (alert, _) = name.split_once(": ").unwrap();
        assert!(alerts.contains_key(alert), "{name} is of no alert");
    }
    for alert in alerts.keys() {
        let of_alert = |kind: &str| -> String {
            let prefix = format!("{alert}: {kind} ");
            let cases = names.iter().filter_map(|name| name.strip_prefix(&prefix)).collect::<Vec<_>>();
            assert!(!cases.is_empty(), "{alert} has no test that it {kind}");
            cases.join("; ")
        };
        let (fires, does_not) = (of_alert("fires"), of_alert("does not fire"));
        assert!(does_not.contains("restart"), "{alert} is not tested with a restart");
        if !OF_NO_INSTANCE.contains(&alert.as_str()) {
            assert!(fires.contains("instance label"), "{alert} is not tested to fire under a new instance label");
        }
        if OF_EVENTS.contains(&alert.as_str()) {
            assert!(fires.contains("very first"), "{alert} is not tested with the very first event");
            assert!(does_not.contains("history") || alert == "CognitoBlockedByThreatProtection", "{alert}: no history");
        }
    }
}

/// An alert with a warning and a page is tested with both.
#[test]
fn every_severity_of_an_alert_is_tested_to_fire() {
    let tests: Vec<_> = TESTS.iter().flat_map(|file| unit_tests(file).1).collect();
    for (alert, rules) in alerts() {
        let prefix = format!("{alert}: fires ");
        let fires: String =
            tests.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, text)| text.as_str()).collect();
        for rule in rules {
            let severity = &rule.labels["severity"];
            let named = [format!("severity: {severity}"), format!("severity=\"{severity}\"")];
            assert!(named.iter().any(|named| fires.contains(named)), "{alert} is not tested to fire as {severity}");
        }
    }
}

/// Replaces each alert by one that never fires and by one that always fires. Its unit tests have to notice both.
#[test]
fn unit_tests_notice_a_rule_that_never_fires_or_always_does() {
    if !peers::has("promtool") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let files: Vec<_> = TESTS.map(unit_tests).into();
    for (alert, rules) in alerts() {
        let of_alert = |kind: &str| -> String {
            let prefix = format!("{alert}: {kind} ");
            let (head, tests) =
                files.iter().find(|(_, tests)| tests.iter().any(|(name, _)| name.starts_with(&prefix))).unwrap();
            let wanted = tests.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, text)| text.as_str());
            format!("{}{}", head.replace("../rules.yml", "rules.yml"), wanted.collect::<String>())
        };
        for (kind, expr) in [("fires", "vector(0) > 1"), ("does not fire", "vector(1)")] {
            let mutants: Vec<_> = rules
                .iter()
                .map(|rule| format!("{{alert: {alert}, expr: {expr:?}, labels: {:?}}}", rule.labels))
                .collect();
            let group = format!("groups: [{{name: mutants, rules: [{}]}}]\n", mutants.join(", "));
            fs::write(directory.path().join("rules.yml"), group).unwrap();
            fs::write(directory.path().join("tests.yml"), of_alert(kind)).unwrap();
            let outcome = promtool(&["test", "rules", "tests.yml"], directory.path());
            assert!(outcome.is_err(), "the tests that {alert} {kind} pass with {expr}");
            assert!(outcome.unwrap_err().contains("exp"), "they fail for another reason");
        }
    }
}
