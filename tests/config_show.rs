//! `config show` as an operator sees it: every key with its value in force and its origin, and no secret.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cognito_auth_exporter::config::{self, Config};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::config_example::{KeyRole, example_with};
use crate::exporter;

/// A directory with a configuration.
struct ShowEnv {
    folder: TempDir,
    variables: Vec<(&'static str, &'static str)>,
}

impl ShowEnv {
    fn new(text: &str, variables: &[(&'static str, &'static str)]) -> Self {
        let env = Self { folder: tempfile::tempdir().unwrap(), variables: variables.to_vec() };
        std::fs::write(env.file(), text).unwrap();
        env
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    fn show(&self, arguments: &[&str]) -> Output {
        let mut command: Command = exporter::command("http://127.0.0.1:9");
        command.current_dir(self.folder.path()).args(["config", "show"]).args(arguments);
        command.envs(self.variables.iter().copied()).output().unwrap()
    }

    /// The text of a configuration without mistakes.
    fn text(&self) -> String {
        let output = self.show(&[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The settings of the JSON document.
    fn settings(&self) -> Vec<Value> {
        let output = self.show(&["--output", "json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document["settings"].as_array().unwrap().clone()
    }
}

const CONFIG: &str = r#"
[[pools]]
id = "eu-west-1_Abc123"
usernames = ["alice", "bob"]
external_id = "tenant-7"
role_arn = "arn:aws:iam::111122223333:role/r"

[poll]
requests_per_second = "7%"
max_interval = "90m"

[otlp]
endpoint = "https://collector.example:4318/otlp/hunter2"
headers = { authorization = "Bearer hunter2", x-scope = "hunter2" }
"#;

#[test]
fn every_value_is_shown_with_its_line_its_variable_or_as_a_default() {
    let env = ShowEnv::new(
        CONFIG,
        &[
            ("COGNITO_EXPORTER_POLL__PAGE_SIZE", "30"),
            ("COGNITO_EXPORTER_SHARD__COUNT", "2"),
            ("POD_NAME", "exporter-1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ],
    );
    let text = env.text();
    let table = |name: &str| {
        let begun = text.lines().skip_while(|line| *line != name);
        begun.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        table("[[pools]]"),
        "[[pools]]\n\
         id = \"eu-west-1_Abc123\"                        # ./config.toml, line 3\n\
         name = \"eu-west-1_Abc123\"                      # default\n\
         region = \"eu-west-1\"                           # default\n\
         # profile is not set                           # default\n\
         role_arn = \"arn:aws:iam::111122223333:role/r\"  # ./config.toml, line 6\n\
         external_id = \"***\"                            # ./config.toml, line 5\n\
         usernames = [\"alice\", \"bob\"]                   # ./config.toml, line 4\n\
         # usernames_file is not set                    # default\n\
         # groups is not set                            # default\n\
         all_users = false                              # default\n\
         # filter is not set                            # default\n\
         # exclude is not set                           # default\n\
         include_disabled = false                       # default\n\
         include_federated = false                      # default\n\
         # followed_since is not set                    # default"
    );
    assert_eq!(
        table("[poll]"),
        "[poll]\n\
         requests_per_second = \"7%\"  # ./config.toml, line 9\n\
         concurrency = 16            # default\n\
         page_size = 30              # COGNITO_EXPORTER_POLL__PAGE_SIZE\n\
         min_interval = \"15s\"        # default\n\
         max_interval = \"90m\"        # ./config.toml, line 10\n\
         overlap = \"1h\"              # default\n\
         settle = \"30m\"              # default\n\
         first_run = \"1d\"            # default\n\
         timeout = \"10s\"             # default"
    );
    assert_eq!(
        table("[shard]"),
        "[shard]\n\
         index = 1  # POD_NAME\n\
         count = 2  # COGNITO_EXPORTER_SHARD__COUNT"
    );
    let otlp = table("[otlp]");
    for line in ["endpoint = \"https://collector.example:4318/***\" ", "timeout = \"2500ms\" "] {
        assert!(otlp.lines().any(|shown| shown.starts_with(line)), "{line}:\n{otlp}");
    }
    assert!(otlp.contains("# OTEL_EXPORTER_OTLP_TIMEOUT"), "{otlp}");
}

#[test]
fn secrets_are_in_no_form_of_the_output() {
    let env = ShowEnv::new(CONFIG, &[]);
    let from_variables = ShowEnv::new(
        "[[pools]]\nid = \"eu-west-1_Abc123\"\nall_users = true\n",
        &[
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://collector.example/push?key=hunter2"),
            ("COGNITO_EXPORTER_OTLP__HEADERS", "authorization=Bearer%20hunter2,lone=hunter2"),
            ("HTTPS_PROXY", "http://user:hunter2@proxy.example:3128"),
        ],
    );
    for env in [&env, &from_variables] {
        for arguments in [&[][..], &["--output", "json"]] {
            let output = env.show(arguments);
            assert!(output.status.success(), "{output:?}");
            for stream in [output.stdout, output.stderr] {
                let shown = String::from_utf8(stream).unwrap();
                assert!(!shown.contains("hunter2") && !shown.contains("tenant-7"), "{shown}");
            }
        }
    }
    assert!(env.text().contains("headers = { authorization = \"***\", x-scope = \"***\" }"), "{}", env.text());
    let shown = from_variables.text();
    assert!(shown.contains("endpoint = \"https://collector.example/***\""), "{shown}");
    assert!(shown.contains("# OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"), "{shown}");
}

#[test]
fn names_are_hidden_where_the_configuration_hides_them() {
    let names = "usernames = [\"alice\"]\nexclude = [\"bob\"]\nfilter = 'email = \"carol\"'\n";
    let config =
        format!("[[pools]]\nid = \"eu-west-1_Abc123\"\n{names}[privacy]\nusername = \"hash\"\nhash_key_file = \"k\"");
    let text = ShowEnv::new(&config, &[]).text();
    for name in ["alice", "bob", "carol"] {
        assert!(!text.contains(name), "{text}");
    }
    for key in ["usernames", "exclude", "filter"] {
        assert!(text.contains(&format!("{key} = \"***\" ")), "{text}");
    }
    assert!(ShowEnv::new(&config.replace("\"hash\"", "\"keep\""), &[]).text().contains("[\"alice\"]"));
}

#[test]
fn the_json_has_each_key_with_its_value_and_the_kind_of_its_origin() {
    let env = ShowEnv::new(CONFIG, &[("COGNITO_EXPORTER_POLL__PAGE_SIZE", "30")]);
    let settings = env.settings();
    for expected in [
        json!({"key": "pools[0].id", "value": "eu-west-1_Abc123",
               "origin": {"kind": "file", "path": "./config.toml", "line": 3, "column": 6}}),
        json!({"key": "pools[0].usernames", "value": ["alice", "bob"],
               "origin": {"kind": "file", "path": "./config.toml", "line": 4, "column": 13}}),
        json!({"key": "pools[0].profile", "value": null, "origin": {"kind": "default"}}),
        json!({"key": "poll.concurrency", "value": 16, "origin": {"kind": "default"}}),
        json!({"key": "poll.page_size", "value": 30,
               "origin": {"kind": "variable", "name": "COGNITO_EXPORTER_POLL__PAGE_SIZE"}}),
        json!({"key": "otlp.accept_any_2xx", "value": false, "origin": {"kind": "default"}}),
    ] {
        assert!(settings.contains(&expected), "{expected} is not in {settings:#?}");
    }
}

/// The example with every line uncommented that can be.
fn every_key() -> String {
    let text = example_with(&[KeyRole::Default, KeyRole::Example]);
    // A path is not shown, because it may hold a token.
    assert!(!text.contains("endpoint = \"https://localhost:4318/"), "{text}");
    text
}

#[test]
fn every_key_is_shown_once_and_none_is_hidden_but_headers_and_the_external_id() {
    let env = ShowEnv::new(&every_key(), &[]);
    std::fs::write(env.folder.path().join("web.yml"), "{}\n").unwrap();
    let text = every_key().replace("/etc/cognito-auth-exporter/web.yml", "web.yml");
    std::fs::write(env.file(), text).unwrap();
    let settings = env.settings();
    let keys: Vec<String> =
        settings.iter().map(|setting| setting["key"].as_str().unwrap().replace("[0]", "[]")).collect();
    assert_eq!(keys.iter().cloned().collect::<BTreeSet<_>>(), config::keys().into_iter().collect());
    assert_eq!(keys.len(), config::keys().len(), "a key is shown twice");
    let hidden: Vec<&Value> = settings.iter().filter(|setting| setting["value"].to_string().contains("***")).collect();
    let hidden: Vec<&Value> = hidden.into_iter().map(|setting| &setting["key"]).collect();
    assert_eq!(hidden, ["pools[0].external_id", "otlp.headers"]);
}

#[test]
fn the_shown_text_is_a_configuration_that_means_the_same() {
    let load = |file: &Path| -> Config {
        let mut config = config::load(Some(file), Vec::<(String, String)>::new()).unwrap();
        if let Some(otlp) = &mut config.otlp {
            otlp.headers.clear();
        }
        config.pools.iter_mut().for_each(|pool| pool.external_id = None);
        config
    };
    let minimal = "[[pools]]\nid = \"eu-west-1_Abc123\"\nall_users = true\n[poll]\nrequests_per_second = \"7.5%\"\n";
    for text in [every_key(), minimal.to_owned()] {
        let env = ShowEnv::new(&text.replace("/etc/cognito-auth-exporter/web.yml", "web.yml"), &[]);
        std::fs::write(env.folder.path().join("web.yml"), "{}\n").unwrap();
        let shown = env.folder.path().join("shown.toml");
        // The placeholder is not of the form of an external id.
        std::fs::write(&shown, env.text().replace("external_id = \"***\"", "external_id = \"hidden\"")).unwrap();
        assert_eq!(load(&shown), load(&env.file()), "{}", env.text());
    }
}

#[test]
fn a_table_without_effect_shows_the_key_that_it_lacks() {
    let text = ShowEnv::new("[[pools]]\nid = \"eu-west-1_Abc123\"\nall_users = true\n", &[]).text();
    for lines in ["[otlp]\n# endpoint is not set  # default\n\n", "[firehose]\n# listen is not set  # default\n\n"] {
        assert!(text.contains(lines), "{lines}\n{text}");
    }
    let of_export = "\n# log_group is not set  # default\n# firehose is not set   # default\n";
    assert!(!text.contains("[pools.export]"), "an empty table would be a mistake: {text}");
    assert!(!text.contains(of_export), "{text}");
}

#[test]
fn a_configuration_with_mistakes_is_not_shown_and_the_mistakes_are() {
    let env = ShowEnv::new(&CONFIG.replace("90m", "90"), &[("COGNITO_EXPORTER_POLL_PAGE_SIZE", "1")]);
    for arguments in [&[][..], &["--output", "json"]] {
        let output = env.show(arguments);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]));
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "cognito-auth-exporter: 2 mistakes in the configuration\n\
             COGNITO_EXPORTER_POLL_PAGE_SIZE: this variable sets no key; did you mean COGNITO_EXPORTER_POLL__PAGE_SIZE?\n\
             ./config.toml: line 10, column 16: poll.max_interval is \"90\"; accepted: a duration from \"10s\" to \"30d\"\n"
        );
    }
}
