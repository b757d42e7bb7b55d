//! config.example.toml is the reference of all keys. It loads, has every key and no unknown key, and shows the true
//! defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cognito_auth_exporter::config::{self, Config, ConfigErrors};

const EXAMPLE: &str = include_str!("../config.example.toml");

/// How a line of the example shows its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum KeyRole {
    Set,
    Default,
    Example,
}

/// Reads a line `key = value`, with or without a comment sign.
fn setting(line: &str) -> Option<(KeyRole, &str)> {
    let (role, rest) = [("# Example: ", KeyRole::Example), ("# ", KeyRole::Default)]
        .into_iter()
        .find_map(|(sign, role)| Some((role, line.strip_prefix(sign)?)))
        .unwrap_or((KeyRole::Set, line));
    let (key, _) = rest.split_once(" = ")?;
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    is_key.then_some((role, rest))
}

/// A line that begins a table, with the name of the table: `pools[]`, `pools[].export`, `poll`.
fn header(line: &str) -> Option<(KeyRole, String)> {
    let (role, rest) = match line.strip_prefix("# Example: ") {
        Some(rest) => (KeyRole::Example, rest),
        None => (KeyRole::Set, line),
    };
    let name = rest.strip_prefix('[')?.strip_suffix(']')?;
    let section = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(list) => format!("{list}[]"),
        // A table of the last pool.
        None => name.replace("pools.", "pools[]."),
    };
    Some((role, section))
}

/// A line of the example.
struct Line {
    text: &'static str,
    /// The line without a comment sign, and its role, if it is a key or begins a table. In a table that is an example,
    /// the defaults are, too.
    setting: Option<(KeyRole, &'static str)>,
    /// The key, such as `pools[].id`.
    key: Option<String>,
}

/// The lines of the example.
fn lines() -> Vec<Line> {
    let mut table = (KeyRole::Set, String::new());
    let lines = EXAMPLE.lines().map(|text| {
        if let Some(begun) = header(text) {
            let setting = Some((begun.0, text.strip_prefix("# Example: ").unwrap_or(text)));
            table = begun;
            return Line { text, setting, key: None };
        }
        let Some((role, rest)) = setting(text).filter(|_| !table.1.is_empty()) else {
            return Line { text, setting: None, key: None };
        };
        let (key, _) = rest.split_once(" = ").unwrap();
        let role = if table.0 == KeyRole::Example { KeyRole::Example } else { role };
        Line { text, setting: Some((role, rest)), key: Some(format!("{}.{key}", table.1)) }
    });
    lines.collect()
}

/// The example with the lines of these roles uncommented.
pub(crate) fn example_with(roles: &[KeyRole]) -> String {
    let lines = lines().into_iter().map(|line| match line.setting {
        Some((role, rest)) if roles.contains(&role) => rest,
        _ => line.text,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every key in the example, with its role.
fn mentioned() -> Vec<(String, KeyRole)> {
    lines().into_iter().filter_map(|line| Some((line.key?, line.setting?.0))).collect()
}

fn load(text: &str) -> Result<Config, ConfigErrors> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    config::load(Some(&file), BTreeMap::<String, String>::new())
}

#[test]
fn the_example_loads_as_it_stands() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    let config = config::load(Some(&path), BTreeMap::<String, String>::new()).unwrap();
    let mut pool = config::PoolConfig::new("eu-west-1_Abc123");
    pool.selection.usernames = vec!["alice".to_owned(), "bob".to_owned()];
    assert_eq!(config, Config::for_pools(vec![pool]));
}

#[test]
fn the_example_mentions_every_key_once_and_no_other() {
    let keys: Vec<String> = mentioned().into_iter().map(|(key, _)| key).collect();
    let distinct: BTreeSet<&String> = keys.iter().collect();
    assert_eq!(keys.len(), distinct.len(), "a key is mentioned twice");
    let known = config::keys();
    assert_eq!(distinct, known.iter().collect());
}

#[test]
fn the_defaults_that_the_example_shows_are_the_defaults() {
    assert_eq!(load(&example_with(&[KeyRole::Default])), load(EXAMPLE));
}

#[test]
fn the_defaults_of_a_receiver_are_what_the_example_shows() {
    let endpoint = "[otlp]\nendpoint = \"http://localhost:4318\"";
    let silent = load(&EXAMPLE.replace("[otlp]", endpoint)).unwrap();
    let explicit = load(&example_with(&[KeyRole::Default]).replace("[otlp]", endpoint)).unwrap();
    assert_eq!(silent, explicit);
    assert_eq!(silent.otlp, Some(config::OtlpConfig::new("http://localhost:4318")));
}

#[test]
fn the_defaults_of_an_export_are_what_the_example_shows() {
    let with = |uncommented: &dyn Fn(&Line) -> bool| {
        let lines = lines().into_iter().map(|line| match line.setting {
            Some((_, rest)) if uncommented(&line) => rest,
            _ => line.text,
        });
        let begun = "# Example: [pools.export]";
        let source = "[pools.export]\nlog_group = \"of-a-test\"";
        load(&lines.collect::<Vec<_>>().join("\n").replace(begun, source)).unwrap()
    };
    let is_default = |line: &Line| {
        line.key.as_ref().is_some_and(|key| key.starts_with("pools[].export.")) && !line.text.contains("Example: ")
    };
    let silent = with(&|_| false);
    assert_eq!(silent, with(&is_default));
    assert_eq!(lines().iter().filter(|line| is_default(line)).count(), 7);
    let export = config::ExportConfig { log_group: Some("of-a-test".to_owned()), ..Default::default() };
    assert_eq!(silent.pools[0].export, Some(export));
}

#[test]
fn the_examples_load_all_together() {
    let config = load(&example_with(&[KeyRole::Default, KeyRole::Example])).unwrap();
    let pool = &config.pools[0];
    assert_eq!(pool.external_id.as_deref(), Some("0123456789"));
    assert_eq!(pool.selection.filter.as_deref(), Some("status = \"Enabled\""));
    assert_eq!(pool.followed_since.unwrap().to_string(), "2026-01-31T12:00:00.000Z");
    let otlp = config.otlp.unwrap();
    assert_eq!(otlp.headers[0].1.reveal(), "Bearer example");
    assert_eq!(otlp.key_file, Some(PathBuf::from("/etc/ssl/otlp-client.key")));
}

/// Errors are promised to come in the order of the example.
#[test]
fn mistakes_come_in_the_order_of_the_example() {
    let broken = example_with(&[KeyRole::Default]);
    let broken = broken.lines().map(|line| match setting(line) {
        Some((KeyRole::Set, rest)) if !rest.starts_with("id = ") => {
            let (key, _) = rest.split_once(" = ").unwrap();
            format!("{key} = {{ wrong = true }}")
        }
        _ => line.to_owned(),
    });
    let errors = load(&broken.collect::<Vec<_>>().join("\n")).unwrap_err();
    let in_order: Vec<String> = mentioned()
        .into_iter()
        .filter(|(key, role)| matches!(role, KeyRole::Set | KeyRole::Default) && key != "pools[].id")
        .map(|(key, _)| key.replace("[]", "[0]"))
        .collect();
    let told: Vec<&str> = errors.mistakes().iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(told, in_order);
}

/// The error for a value of the wrong type, for each key.
fn wrong_types() -> impl Iterator<Item = (String, String)> {
    config::keys().into_iter().map(|key| {
        let (section, leaf) = key.rsplit_once('.').unwrap();
        let text = match section.strip_suffix("[]") {
            Some(list) => format!("[[{list}]]\n{leaf} = {{ wrong = true }}"),
            None if section.starts_with("pools[].") => {
                format!("[[pools]]\n[{}]\n{leaf} = {{ wrong = [true] }}", section.replace("[]", ""))
            }
            None => format!("[{section}]\n{leaf} = {{ wrong = [true] }}"),
        };
        let errors = load(&text).unwrap_err();
        let path = key.replace("[]", "[0]");
        let told = errors.mistakes().iter().find(|mistake| mistake.key.starts_with(&path));
        let told = told.unwrap_or_else(|| panic!("nothing is told of {key}: {errors}"));
        (key, told.text.clone())
    })
}

#[test]
fn every_key_refuses_a_wrong_type_and_says_what_it_accepts() {
    for (key, text) in wrong_types() {
        assert!(text.contains("; accepted: "), "{key}: {text}");
    }
}

#[test]
fn the_example_says_the_range_of_every_key_that_has_one() {
    let mut ranges = 0;
    for (key, text) in wrong_types() {
        let words: Vec<&str> = text.split_whitespace().map(|word| word.trim_matches(['"', ','])).collect();
        for range in words.windows(4).filter(|words| words[0] == "from" && words[2] == "to") {
            let (_, leaf) = key.rsplit_once('.').unwrap();
            let section = key.split(['.', '[']).next().unwrap();
            let rest = &EXAMPLE[EXAMPLE.find(&format!("[{section}]")).unwrap()..];
            let paragraph = rest.split("\n\n").find(|paragraph| paragraph.contains(&format!("\n# {leaf} = ")));
            let paragraph = paragraph.unwrap_or_else(|| panic!("{key} stands in no paragraph"));
            let said = format!("{} to {}", range[1], range[3]);
            let is_said = paragraph.replace("\n# ", " ").contains(&said);
            assert!(is_said, "{key}: the range {said} is not in\n{paragraph}");
            ranges += 1;
        }
    }
    assert!(ranges > 15, "only {ranges} ranges were found");
}
