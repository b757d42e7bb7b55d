//! The environment variables that are settings: `COGNITO_EXPORTER_<SECTION>__<KEY>`, the pools as JSON, and the
//! variables of the OpenTelemetry specification for an OTLP exporter of logs
//! (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).
//!
//! Values are text, and the key that reads a value interprets it. An empty variable counts as not set, as the
//! OpenTelemetry specification requires.

use std::collections::BTreeMap;
use std::ffi::OsString;

use strsim::levenshtein;

use super::keys::{Keys, UnknownValue};
use super::mistakes::{Mistake, SettingOrigin};
use super::service_links::is_service_link;
use crate::failpoint;

/// The prefix of the exporter's own variables.
pub const ENVIRONMENT_PREFIX: &str = "COGNITO_EXPORTER_";

/// The variable that holds all pools, as a JSON list of objects.
pub(super) const POOLS: &str = "COGNITO_EXPORTER_POOLS";

/// An example of a variable, for error messages.
const EXAMPLE: &str = "COGNITO_EXPORTER_POLL__PAGE_SIZE";

/// The variable of an endpoint to which nothing is appended.
pub(super) const LOGS_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT";
pub(super) const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
pub(super) const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// The variables that hold the name of a StatefulSet's pod: one that the manifest sets from `metadata.name`, and the
/// host's name.
pub(super) const POD_NAMES: [&str; 2] = ["POD_NAME", "HOSTNAME"];

/// The specification's variables for the keys of `otlp`. Those for logs come first and override those for every signal.
const OTLP: [(&str, &str); 16] = [
    (LOGS_ENDPOINT, "endpoint"),
    ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "protocol"),
    ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "headers"),
    ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "compression"),
    ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "timeout"),
    ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "ca_file"),
    ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE", "cert_file"),
    ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", "key_file"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "endpoint"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "protocol"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "headers"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "compression"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "timeout"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca_file"),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "cert_file"),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key_file"),
];

/// Returns the variable that overrides a key: COGNITO_EXPORTER_POLL__PAGE_SIZE for `poll.page_size`, and
/// COGNITO_EXPORTER_POOLS for every key of a pool.
pub fn variable_name(key: &str) -> String {
    if key.starts_with("pools") {
        return POOLS.to_owned();
    }
    format!("{ENVIRONMENT_PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// A variable that sets one key.
#[derive(Clone, Debug)]
pub(super) struct Variable<'a> {
    pub(super) name: &'a str,
    pub(super) section: String,
    pub(super) key: String,
    pub(super) text: String,
}

/// The variables that are settings. None is empty.
#[derive(Default)]
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Picks the variables that are settings. A variable with the prefix that sets no key is a mistake, except those
    /// that Kubernetes makes for a Service.
    pub(super) fn pick(
        all: impl IntoIterator<Item = (OsString, OsString)>,
        known: &Keys,
        mistakes: &mut Vec<Mistake>,
    ) -> Self {
        let mut picked = BTreeMap::new();
        let mut wrong = BTreeMap::new();
        for (name, value) in all {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with(ENVIRONMENT_PREFIX) {
                if value.to_str().is_some_and(|value| is_service_link(&name, value)) || failpoint::is_variable(&name) {
                    continue;
                }
                if let Some(text) = unknown_variable(&name, known) {
                    wrong.insert(name, text);
                    continue;
                }
            } else if let Some(meant) = of_a_long_prefix(&name, known) {
                wrong.insert(name, format!("this variable sets no key; did you mean {meant}?"));
                continue;
            } else if !is_of_the_specification(&name) && !POD_NAMES.contains(&name.as_str()) {
                continue;
            }
            match value.into_string() {
                Ok(text) if text.is_empty() => {}
                Ok(text) => drop(picked.insert(name, text)),
                Err(_) => drop(wrong.insert(name, "the value is not UTF-8; accepted: text".to_owned())),
            }
        }
        mistakes.extend(wrong.into_iter().map(|(name, text)| Mistake {
            key: file_key(&name),
            origin: SettingOrigin::Variable(printable(&name)),
            text,
        }));
        Self(picked)
    }

    /// Removes some variables.
    pub(super) fn without(mut self, is_left_out: impl Fn(&str) -> bool) -> Self {
        self.0.retain(|name, _| !is_left_out(name));
        self
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns the variables that override the file, except that of the pools.
    pub(super) fn overrides(&self) -> impl Iterator<Item = Variable<'_>> {
        self.0.iter().filter_map(|(name, text)| {
            let (section, key) = name.strip_prefix(ENVIRONMENT_PREFIX)?.split_once("__")?;
            Some(Variable {
                name,
                section: section.to_ascii_lowercase(),
                key: key.to_ascii_lowercase(),
                text: text.clone(),
            })
        })
    }

    /// Returns the specification's variables, which apply if neither the file nor an own variable sets the key. Earlier
    /// ones override later ones.
    pub(super) fn otlp_fallbacks(&self) -> impl Iterator<Item = Variable<'_>> {
        OTLP.iter().filter_map(|&(name, key)| {
            let text = self.get(name)?;
            // The specification's timeout is in milliseconds without a unit.
            let in_millis = key == "timeout" && text.bytes().all(|byte| byte.is_ascii_digit());
            Some(Variable {
                name,
                section: "otlp".to_owned(),
                key: key.to_owned(),
                text: if in_millis { format!("{text}ms") } else { text.to_owned() },
            })
        })
    }
}

/// Returns the variable that was meant, if the name has the program's name for a prefix.
fn of_a_long_prefix(name: &str, known: &Keys) -> Option<String> {
    const PROGRAM: &str = "COGNITO_AUTH_EXPORTER_";
    let meant = format!("{ENVIRONMENT_PREFIX}{}", name.strip_prefix(PROGRAM)?);
    unknown_variable(&meant, known).is_none().then_some(meant)
}

fn is_of_the_specification(name: &str) -> bool {
    [SERVICE_NAME, RESOURCE_ATTRIBUTES].contains(&name) || OTLP.iter().any(|(known, _)| *known == name)
}

/// Returns the key that an own variable sets, as a file would write it.
fn file_key(name: &str) -> String {
    let rest = name.strip_prefix(ENVIRONMENT_PREFIX).unwrap_or_default();
    printable(&rest.to_ascii_lowercase().replace("__", "."))
}

/// Returns the mistake in the name of an own variable, if there is one.
fn unknown_variable(name: &str, known: &Keys) -> Option<String> {
    let key = file_key(name);
    if name == POOLS || known.contains(&key) && variable_name(&key) == name {
        return None;
    }
    // Without a double underscore it names no key.
    let what =
        if key.contains('.') { format!("there is no key {key}") } else { "this variable sets no key".to_owned() };
    Some(match meant_variable(name, &key, known) {
        Some(meant) => format!("{what}; did you mean {meant}?"),
        None => format!("{what}; accepted: {ENVIRONMENT_PREFIX}<SECTION>__<KEY>, such as {EXAMPLE}"),
    })
}

/// Returns the variable that an unknown one most likely means. It differs in few letters, whatever the number of
/// underscores. Without such a variable it is that of the key which `key` most likely means.
fn meant_variable(name: &str, key: &str, known: &Keys) -> Option<String> {
    /// Maximum length in bytes of a name that is compared, because a comparison takes the product of both lengths.
    const COMPARED_MAX: usize = 128;
    /// A typing error for this many letters is plausible.
    const LETTERS_PER_ERROR: usize = 4;
    if key.starts_with("pools.") {
        return Some(POOLS.to_owned());
    }
    let letters = |name: &str| name.strip_prefix(ENVIRONMENT_PREFIX).unwrap_or(name).replace("__", "_");
    let written = letters(&name.to_ascii_uppercase());
    let by_letters = known.names().map(variable_name).filter_map(|variable| {
        let errors = levenshtein(&written, &letters(&variable));
        (errors <= written.len() / LETTERS_PER_ERROR).then_some((errors, variable))
    });
    let nearest = by_letters.filter(|_| written.len() <= COMPARED_MAX).min().map(|(_, variable)| variable);
    nearest.or_else(|| {
        let nearest = known.nearest(key, &UnknownValue::Plain).filter(|nearest| known.contains(nearest));
        nearest.map(variable_name)
    })
}

/// Shortens a name and escapes its control characters.
fn printable(name: &str) -> String {
    const CHARACTERS_MAX: usize = 128;
    name.chars().take(CHARACTERS_MAX).flat_map(char::escape_debug).collect()
}
