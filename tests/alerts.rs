//! The alerting rules: their annotations, their unit tests, and that each unit test can fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::rules::{self, Rule, RuleFile};
use crate::{long, peers};
use serde::Deserialize;

const RUNBOOKS: &str = include_str!("../docs/runbooks.md");

/// The files of unit tests that promtool runs against the rules.
const TESTS: [&str; 4] = ["security.yml", "baselines.yml", "health.yml", "export.yml"];

/// Alerts on events of a pool. They must see the first event of all.
const OF_EVENTS: [&str; 5] = [
    "CognitoAccountTakeover",
    "CognitoBlockedByThreatProtection",
    "CognitoCompromisedCredentials",
    "CognitoSignInFailureBurst",
    "CognitoSecondFactorsUnfinished",
];

/// The alerting rules by name.
fn alerts() -> BTreeMap<String, Rule> {
    rules::all().into_iter().filter_map(|rule| Some((rule.alert.clone()?, rule))).collect()
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

    // The comments must agree too: they tell readers to change both files together.
    let plain = fs::read_to_string(rules::folder().join("rules.yml")).unwrap();
    let (_, plain) = plain.split_once("\ngroups:\n").unwrap();
    let indented: Vec<String> =
        plain.lines().map(|line| if line.is_empty() { String::new() } else { format!("  {line}") }).collect();
    let (_, spec) = of_operator.split_once("\n  groups:\n").unwrap();
    assert_eq!(spec.lines().collect::<Vec<_>>(), indented);
}

#[test]
fn every_alert_says_what_it_is_and_has_a_runbook() {
    for (name, rule) in alerts() {
        assert_eq!(rule.annotations.keys().collect::<Vec<_>>(), ["description", "runbook_url", "summary"], "{name}");
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
        // These alerts also fire when nothing reports under the new name.
        if !["CognitoExporterGone", "CognitoShardMissing"].contains(&alert.as_str()) {
            assert!(fires.contains("instance label"), "{alert} is not tested to fire under a new instance label");
        }
        if OF_EVENTS.contains(&alert.as_str()) {
            assert!(fires.contains("very first"), "{alert} is not tested with the very first event");
            assert!(does_not.contains("history") || alert == "CognitoBlockedByThreatProtection", "{alert}: no history");
        }
    }
}

/// Replaces each rule by one that never fires and by one that always fires. The rule's unit tests have to notice both.
#[test]
fn unit_tests_notice_a_rule_that_never_fires_or_always_does() {
    if !peers::has("promtool") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let files: Vec<_> = TESTS.map(unit_tests).into();
    for alert in alerts().keys() {
        let of_alert = |kind: &str| -> String {
            let prefix = format!("{alert}: {kind} ");
            let (head, tests) =
                files.iter().find(|(_, tests)| tests.iter().any(|(name, _)| name.starts_with(&prefix))).unwrap();
            let wanted = tests.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, text)| text.as_str());
            format!("{}{}", head.replace("../rules.yml", "rules.yml"), wanted.collect::<String>())
        };
        for (kind, expr) in [("fires", "vector(0) > 1"), ("does not fire", "vector(1)")] {
            let rule = format!("groups: [{{name: mutant, rules: [{{alert: {alert}, expr: {expr:?}}}]}}]\n");
            fs::write(directory.path().join("rules.yml"), rule).unwrap();
            fs::write(directory.path().join("tests.yml"), of_alert(kind)).unwrap();
            let outcome = promtool(&["test", "rules", "tests.yml"], directory.path());
            assert!(outcome.is_err(), "the tests that {alert} {kind} pass with {expr}");
            assert!(outcome.unwrap_err().contains("exp"), "they fail for another reason");
        }
    }
}
