//! The rules in deploy/prometheus, read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A file of rules.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleFile {
    /// In their order.
    pub(crate) groups: Vec<Group>,
}

/// Rules that are evaluated one after the other.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// What it is called.
    pub(crate) name: String,
    /// In their order.
    pub(crate) rules: Vec<Rule>,
}

/// A recording or an alerting rule.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// The series that it records.
    pub(crate) record: Option<String>,
    /// The alert that it raises.
    pub(crate) alert: Option<String>,
    /// PromQL.
    pub(crate) expr: String,
    /// How long it holds before it fires.
    pub r#for: Option<String>,
    /// The alert's own labels.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// What people are told.
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Where they lie.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus")
}

/// The plain rules.
pub(crate) fn rules() -> RuleFile {
    serde_saphyr::from_str(&std::fs::read_to_string(folder().join("rules.yml")).unwrap()).unwrap()
}

/// Every rule of every group.
pub(crate) fn all() -> Vec<Rule> {
    rules().groups.into_iter().flat_map(|group| group.rules).collect()
}
