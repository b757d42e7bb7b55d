//! The rules in deploy/prometheus, read.

#![allow(dead_code, unreachable_pub, reason = "shared by test crates, each of which uses its own part")]
#![expect(clippy::unwrap_used, reason = "rules that cannot be read are what a test is to find")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A file of rules.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    /// In their order.
    pub groups: Vec<Group>,
}

/// Rules that are evaluated one after the other.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// What it is called.
    pub name: String,
    /// In their order.
    pub rules: Vec<Rule>,
}

/// A recording or an alerting rule.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The series that it records.
    pub record: Option<String>,
    /// The alert that it raises.
    pub alert: Option<String>,
    /// PromQL.
    pub expr: String,
    /// How long it holds before it fires.
    pub r#for: Option<String>,
    /// The alert's own labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What people are told.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// Where they lie.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus")
}

/// The plain rules.
pub fn rules() -> RuleFile {
    serde_saphyr::from_str(&std::fs::read_to_string(folder().join("rules.yml")).unwrap()).unwrap()
}

/// Every rule of every group.
pub fn all() -> Vec<Rule> {
    rules().groups.into_iter().flat_map(|group| group.rules).collect()
}
