//! `config show`: prints the effective configuration, each value with its origin.
//!
//! The text is a TOML file whose comments are the origins. If nothing is hidden, the exporter loads the same
//! configuration from it. Secrets are not printed, so neither form can give one away.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use cognito_auth_core::printable::printable;
use serde::Serialize;
use serde_json::Value;

use super::ConfigArgs;
use super::output::TextOrJson;
use super::state_command::say;
use crate::config::{Config, ConfigErrors, EffectiveSetting, FilePlace, SettingOrigin};

/// Maximum width in characters of the column with the values. The origin of a longer value is on the line before it.
const VALUE_WIDTH_MAX: usize = 72;

/// The arguments of `config`.
#[derive(Args, Debug)]
pub struct ConfigCommandArgs {
    #[command(subcommand)]
    action: ConfigAction,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

#[derive(Subcommand, Debug)]
enum ConfigAction {
    /// Print every key with its value in force, and where that was written: in which line, in which variable, or
    /// nowhere (default). Values that may be secrets are hidden.
    Show {
        /// A TOML file for people, with the origins as comments, or one JSON document.
        #[arg(long, value_enum, default_value_t = TextOrJson::Text)]
        output: TextOrJson,
    },
}

/// Prints the effective configuration.
///
/// # Errors
/// Stdout cannot be written.
pub(super) fn main(
    args: &ConfigCommandArgs,
    config: &Config,
    settings: &[EffectiveSetting],
) -> anyhow::Result<ExitCode> {
    let ConfigAction::Show { output } = args.action;
    for mistake in &config.set_aside {
        say(&printable(&format!("{mistake}; the malformed part is ignored")));
    }
    let shown = match output {
        TextOrJson::Text => toml(settings),
        TextOrJson::Json => {
            let settings = settings.iter().map(ShownSetting::of).collect();
            serde_json::to_string_pretty(&ShownConfig { settings })? + "\n"
        }
    };
    match io::stdout().write_all(shown.as_bytes()) {
        // The reader, such as `head`, has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => written.context("print the configuration").map(|()| ExitCode::SUCCESS),
    }
}

impl ConfigCommandArgs {
    /// Loads the configuration and checks the web configuration that it names, as `run` does.
    ///
    /// # Errors
    /// All mistakes together.
    pub(super) fn load(&self) -> Result<(Config, Vec<EffectiveSetting>), ConfigErrors> {
        let loaded = crate::config::load_effective(self.config.config.as_deref(), std::env::vars_os())?;
        super::check_web_config(&loaded.0)?;
        Ok(loaded)
    }
}

/// The JSON document.
#[derive(Serialize)]
struct ShownConfig<'a> {
    settings: Vec<ShownSetting<'a>>,
}

#[derive(Serialize)]
struct ShownSetting<'a> {
    key: &'a str,
    /// Null if there is none.
    value: Option<&'a Value>,
    origin: ShownOrigin<'a>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum ShownOrigin<'a> {
    Default,
    File { path: String, line: Option<usize>, column: Option<usize> },
    Variable { name: &'a str },
}

impl<'a> ShownSetting<'a> {
    fn of(setting: &'a EffectiveSetting) -> Self {
        let origin = match &setting.origin {
            Some(SettingOrigin::File { path, place }) => ShownOrigin::File {
                path: path.display().to_string(),
                line: place.map(|place| place.line),
                column: place.map(|place| place.column),
            },
            Some(SettingOrigin::Variable(name)) => ShownOrigin::Variable { name },
            None | Some(SettingOrigin::Nowhere) => ShownOrigin::Default,
        };
        Self { key: &setting.path, value: setting.value.as_ref(), origin }
    }
}

/// Returns the settings as a TOML file with their origins as comments.
fn toml(settings: &[EffectiveSetting]) -> String {
    let lines: Vec<String> = settings.iter().map(assignment).collect();
    let mut widths = BTreeMap::<&str, usize>::new();
    for (setting, line) in settings.iter().zip(&lines) {
        let length = line.chars().count();
        let width = widths.entry(&setting.table).or_default();
        *width = (*width).max(if length <= VALUE_WIDTH_MAX { length } else { 0 });
    }
    let (mut text, mut table) = (String::new(), None);
    for (setting, line) in settings.iter().zip(&lines) {
        if table != Some(&setting.table) {
            let gap = if table.is_some() { "\n" } else { "" };
            let _ = writeln!(text, "{gap}{}", setting.header); // writing into a String does not fail
            table = Some(&setting.table);
        }
        let width = widths.get(setting.table.as_str()).copied().unwrap_or_default();
        let origin = printable(&origin(setting)).into_owned();
        let _ = if line.chars().count() <= VALUE_WIDTH_MAX {
            writeln!(text, "{line:<width$}  # {origin}")
        } else {
            writeln!(text, "# {origin}\n{line}")
        };
    }
    text
}

/// Returns `key = value`, or a comment if there is no value.
fn assignment(setting: &EffectiveSetting) -> String {
    match &setting.value {
        Some(value) => format!("{} = {}", setting.key, toml_value(value)),
        None => format!("# {} is not set", setting.key),
    }
}

fn origin(setting: &EffectiveSetting) -> String {
    match &setting.origin {
        None | Some(SettingOrigin::Nowhere) => "default".to_owned(),
        Some(SettingOrigin::File { path, place: Some(FilePlace { line, .. }) }) => {
            format!("{}, line {line}", path.display())
        }
        Some(origin) => origin.to_string(),
    }
}

/// Returns a value as TOML writes it.
fn toml_value(value: &Value) -> String {
    let list = |values: Vec<String>| values.join(", ");
    match value {
        Value::String(text) => toml_text(text),
        Value::Array(values) => format!("[{}]", list(values.iter().map(toml_value).collect())),
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| format!("{} = {}", toml_key(key), toml_value(value));
            format!("{{ {} }}", list(members.iter().map(member).collect()))
        }
        // TOML writes numbers and flags as JSON does.
        Value::Number(_) | Value::Bool(_) | Value::Null => value.to_string(),
    }
}

fn toml_key(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(is_bare) { key.to_owned() } else { toml_text(key) }
}

/// Returns a text in quotes. TOML has JSON's escapes, and forbids one more character. Characters that would command a
/// terminal are escaped, too.
fn toml_text(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    let is_plain = |c: char| printable(c.encode_utf8(&mut [0; 4])).starts_with(c);
    let escaped = quoted.chars().map(|c| if is_plain(c) { c.to_string() } else { format!("\\U{:08X}", u32::from(c)) });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    fn setting(
        table: &str,
        key: &'static str,
        value: Option<Value>,
        origin: Option<SettingOrigin>,
    ) -> EffectiveSetting {
        EffectiveSetting {
            path: format!("{table}.{key}"),
            header: format!("[{table}]"),
            table: table.to_owned(),
            key,
            value,
            origin,
        }
    }

    #[test]
    fn the_text_is_a_file_with_aligned_origins() {
        let place = Some(FilePlace { line: 7, column: 3 });
        let settings = [
            setting("a", "x", Some(json!(1)), Some(SettingOrigin::File { path: PathBuf::from("c.toml"), place })),
            setting("a", "names", Some(json!(["b", "c"])), None),
            setting("a", "none", None, None),
            setting("b", "long", Some(json!("y".repeat(80))), Some(SettingOrigin::Variable("V".to_owned()))),
        ];
        let long = "y".repeat(80);
        let expected = format!(
            "[a]\nx = 1               # c.toml, line 7\nnames = [\"b\", \"c\"]  # default\n# none is not set   # default\n\n\
             [b]\n# V\nlong = \"{long}\"\n"
        );
        assert_eq!(toml(&settings), expected);
    }

    #[test]
    fn every_value_is_written_as_toml_reads_it() {
        for value in [
            json!("a \"b\" \\ \n \u{7f} \u{202e} é \u{1}"),
            json!([true, 5.0, 0.01, 60, -1]),
            json!({ "a-b": "***", "x y": "z" }),
            json!([]),
        ] {
            let text = format!("value = {}", toml_value(&value));
            assert!(!text.contains(['\n', '\u{7f}', '\u{202e}']), "{text:?}");
            let read: toml_edit::ImDocument<_> = toml_edit::ImDocument::parse(text.as_str()).unwrap();
            assert_eq!(read.as_table().get("value").map(json_of), Some(value), "{text}");
        }
    }

    fn json_of(item: &toml_edit::Item) -> Value {
        fn of(value: &toml_edit::Value) -> Value {
            match value {
                toml_edit::Value::String(text) => json!(text.value()),
                toml_edit::Value::Integer(number) => json!(number.value()),
                toml_edit::Value::Float(number) => json!(number.value()),
                toml_edit::Value::Boolean(flag) => json!(flag.value()),
                toml_edit::Value::Array(values) => values.iter().map(of).collect(),
                toml_edit::Value::InlineTable(table) => {
                    table.iter().map(|(key, value)| (key.to_owned(), of(value))).collect()
                }
                toml_edit::Value::Datetime(_) => Value::Null,
            }
        }
        item.as_value().map_or(Value::Null, of)
    }
}
