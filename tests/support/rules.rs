//! The rules in deploy/prometheus, parsed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A file of rules.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleFile {
    /// In the order of the file.
    pub(crate) groups: Vec<Group>,
}

/// Rules that are evaluated in sequence.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// The group's name.
    pub(crate) name: String,
    /// In the order of the file.
    pub(crate) rules: Vec<Rule>,
}

/// A recording or an alerting rule.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// The series of a recording rule.
    pub(crate) record: Option<String>,
    /// The name of an alerting rule.
    pub(crate) alert: Option<String>,
    /// PromQL.
    pub(crate) expr: String,
    /// How long the expression must hold before the alert fires.
    pub r#for: Option<String>,
    /// The alert's own labels.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// The alert's texts for people.
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The directory of the rules.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus")
}

/// The rules in rules.yml.
pub(crate) fn rules() -> RuleFile {
    serde_saphyr::from_str(&std::fs::read_to_string(folder().join("rules.yml")).unwrap()).unwrap()
}

/// Every rule of every group.
pub(crate) fn all() -> Vec<Rule> {
    rules().groups.into_iter().flat_map(|group| group.rules).collect()
}
