//! The configuration as a user sees it: the values that load, and the exact messages for those that do not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::masking::{Mode, Modes};
use cognito_auth_core::ocsf::OcsfVersion;
use cognito_auth_core::record::TimestampSource;
use cognito_auth_core::shard::Shard;
use cognito_auth_core::users::selection::{HistoryDepth, SelectionRules};
use cognito_auth_exporter::config::{
    self, Compression, Config, ConfigErrors, LogFormat, OtlpConfig, OtlpProtocol, PoolConfig, Rate, Schema,
    SettingOrigin,
};
use proptest::prelude::*;

const POOL: &str = "[[pools]]\nid = \"eu-west-1_Abc123\"\nusernames = [\"alice\"]\n";
const POOLS_JSON: &str = r#"[{"id": "eu-west-1_Abc123", "usernames": ["alice"]}]"#;

/// Loads `text` as a file, with these environment variables. Error messages call the file `config.toml`. Places in the
/// file and the id of the pool are left out: tests of their own are about these.
fn load_with(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    load_file(text, environment).map_err(|errors| {
        let told = errors.mistakes().iter().map(|mistake| {
            let text = mistake.text.replace(" (eu-west-1_Abc123)", "");
            match &mistake.origin {
                SettingOrigin::File { .. } => format!("config.toml: {text}"),
                origin => format!("{origin}: {text}"),
            }
        });
        told.collect::<Vec<_>>().join("\n")
    })
}

/// The whole error for `text` as a file `config.toml`, with these environment variables.
fn told(text: &str, environment: &[(&str, &str)]) -> String {
    let told = load_file(text, environment).unwrap_err().to_string();
    let lines = told.lines().map(|line| match line.split_once("/config.toml: ") {
        Some((_folder, rest)) => format!("config.toml: {rest}"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn load_file(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    config::load(Some(&file), environment.iter().copied())
}

fn load(text: &str) -> Result<Config, String> {
    load_with(text, &[])
}

/// The error for these lines after a valid pool.
fn wrong(lines: &str) -> String {
    load(&format!("{POOL}{lines}")).unwrap_err()
}

/// The error for these lines in a pool with the given id.
fn wrong_pool(lines: &str) -> String {
    load(&format!("[[pools]]\nid = \"eu-west-1_Abc123\"\n{lines}")).unwrap_err()
}

/// The receiver that these lines and variables configure.
fn otlp(lines: &str, environment: &[(&str, &str)]) -> Option<OtlpConfig> {
    load_with(&format!("{POOL}[otlp]\n{lines}"), environment).unwrap().otlp
}

#[test]
fn mistakes_are_told_at_once_each_with_its_place_its_key_and_its_pool() {
    let text = r#"
        [[pools]]
        id = "eu-west-1_Abc123"
        all_users = true
        filter = 'status = "Enabled"'

        [[pools]]
        id = "nonsense"
        usernames_file = 7

        [poll]
        page_sizes = 61
        overlap = "8d"
    "#;
    let environment = [("COGNITO_EXPORTER_POLL__CONCURRENCY", "many")];
    assert_eq!(
        told(text, &environment),
        "config.toml: line 4, column 21: pools[0] (eu-west-1_Abc123).all_users is true beside pools[0].filter; accepted: \
         one of them\n\
         config.toml: line 8, column 14: pools[1].id is \"nonsense\"; accepted: a user pool id, such as \
         \"eu-west-1_Abc123\"\n\
         config.toml: line 9, column 26: pools[1].usernames_file is 7; accepted: a path\n\
         COGNITO_EXPORTER_POLL__CONCURRENCY: poll.concurrency is \"many\"; accepted: a whole number from 1 to 1000\n\
         config.toml: line 13, column 19: poll.overlap is \"8d\"; accepted: a duration from \"0s\" to \"7d\"\n\
         config.toml: line 12, column 9: there is no key poll.page_sizes; did you mean poll.page_size?"
    );
}

#[test]
fn a_mistake_in_the_file_has_the_place_of_the_value_the_key_or_the_table() {
    let pool = "[[pools]]\nid = \"eu-west-1_Abc123\"\n";
    for (lines, expected) in [
        // A value.
        ("usernames = [\"a\",\n  \"b c\"]", "line 4, column 3: pools[0] (eu-west-1_Abc123).usernames[1] is not"),
        ("all_users = true\npoll.page_size = 0", "line 4, column 1: there is no key pools[0] (eu-west-1_Abc123).poll;"),
        ("all_users = true\n[poll]\n  page_size = 0", "line 5, column 15: poll.page_size is 0; "),
        ("all_users = true\n[poll]\npage_size = 'é' # x", "line 5, column 13: poll.page_size is \"é\"; "),
        (
            "all_users = true\n[otlp]\nheaders = { a = 1 }\nendpoint = 'http://a'",
            "line 5, column 11: otlp.headers.a is",
        ),
        // A key.
        ("all_users = true\n[log]\n colour = 1", "line 5, column 2: there is no key log.colour; "),
        ("all_users = true\n[tracing]\nsampler = 1", "line 4, column 2: there is no key tracing; "),
        // A table in which something is missing.
        ("", "line 1, column 1: pools[0] (eu-west-1_Abc123) selects nobody; "),
        ("all_users = true\n[[pools]]\nall_users = true", "line 4, column 1: pools[1].id is missing; "),
        (
            "all_users = true\n[pools.export]\naudit = 'off'",
            "line 4, column 1: pools[0] (eu-west-1_Abc123).export names no",
        ),
        ("all_users = true\n[firehose]\nlisten = '[::]:1'", "line 4, column 1: firehose.access_keys_file is missing; "),
        // A contradiction.
        (
            "all_users = true\n[[pools]]\nid = \"eu-west-1_Abc123\"\nall_users = true",
            "line 5, column 6: pools[1] (eu-west-1_Abc123).id is the same as pools[0].id; ",
        ),
        ("all_users = true\n[poll]\nmin_interval = '1d'", "line 5, column 16: poll.min_interval (1day) is longer "),
    ] {
        let told = told(&format!("{pool}{lines}\n"), &[]);
        assert!(told.starts_with(&format!("config.toml: {expected}")), "{lines}:\n{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn a_mistake_in_a_variable_has_no_place_in_the_file() {
    let file = format!("{POOL}[poll]\npage_size = 0\n");
    let variable = ("COGNITO_EXPORTER_POLL__PAGE_SIZE", "99");
    assert_eq!(
        told(&file, &[variable]),
        "COGNITO_EXPORTER_POLL__PAGE_SIZE: poll.page_size is \"99\"; accepted: a whole number from 1 to 60"
    );
    let pools = r#"[{"id": "eu-west-1_Abc123"}]"#;
    assert_eq!(
        told(&file, &[("COGNITO_EXPORTER_POOLS", pools), variable]).lines().next().unwrap(),
        "COGNITO_EXPORTER_POOLS: pools[0] (eu-west-1_Abc123) selects nobody; accepted: at least one of usernames, \
         usernames_file, groups, all_users, filter"
    );
}

/// A hundred thousand mistakes in one line are told in the time that one takes, and not in its square.
#[test]
fn very_many_mistakes_in_one_line_have_their_places() {
    let names = "\"a b\",".repeat(100_000);
    let text = format!("[[pools]]\nid = \"eu-west-1_Abc123\"\nusernames = [{names}]\n");
    let errors = load_file(&text, &[]).unwrap_err();
    assert_eq!(errors.mistakes().len(), 100_000);
    let last = errors.mistakes().last().unwrap().origin.to_string();
    assert!(
        last.ends_with(&format!("config.toml: line 3, column {}", "usernames = [".len() + 6 * 99_999 + 1)),
        "{last}"
    );
}

#[test]
fn a_mistake_names_its_key_and_origin_for_programs_too() {
    let errors = config::load(None, [("COGNITO_EXPORTER_POOLS", "[{}]")]).unwrap_err();
    let keys: Vec<&str> = errors.mistakes().iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(keys, ["pools[0].id", "pools[0].usernames"]);
    let variable = SettingOrigin::Variable("COGNITO_EXPORTER_POOLS".to_owned());
    assert!(errors.mistakes().iter().all(|mistake| mistake.origin == variable));
}

// Sources of settings.

#[test]
fn the_environment_alone_will_do() {
    let environment = [
        ("COGNITO_EXPORTER_POOLS", POOLS_JSON),
        ("COGNITO_EXPORTER_POLL__REQUESTS_PER_SECOND", "20%"),
        ("COGNITO_EXPORTER_POLL__PAGE_SIZE", "30"),
        ("COGNITO_EXPORTER_POLL__FIRST_RUN", "all"),
        ("COGNITO_EXPORTER_DISCOVERY__REQUESTS_PER_SECOND", "2"),
        ("COGNITO_EXPORTER_STATE__CACHE", "128MiB"),
        ("COGNITO_EXPORTER_STDOUT__ENABLED", "true"),
        ("COGNITO_EXPORTER_HTTP__LISTEN", "127.0.0.1:0"),
        ("COGNITO_EXPORTER_LOG__FORMAT", "json"),
        ("COGNITO_EXPORTER_SHARD__INDEX", "0"),
    ];
    let config = config::load(None, environment).unwrap();
    let mut pool = PoolConfig::new("eu-west-1_Abc123");
    pool.selection.usernames = vec!["alice".to_owned()];
    let mut expected = Config::for_pools(vec![pool]);
    expected.poll.requests_per_second = Rate::ShareOfLimit(0.2);
    expected.poll.page_size = 30;
    expected.poll.first_run = HistoryDepth::All;
    expected.discovery.requests_per_second = 2.0;
    expected.state.cache_bytes = 128 << 20;
    expected.stdout_enabled = true;
    expected.http.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    expected.log.format = LogFormat::Json;
    assert_eq!(config, expected);
}

#[test]
fn a_variable_overrides_its_key_and_leaves_the_others() {
    let text = format!("{POOL}[poll]\npage_size = 10\nconcurrency = 3");
    let config = load_with(&text, &[("COGNITO_EXPORTER_POLL__PAGE_SIZE", "20")]).unwrap();
    assert_eq!((config.poll.page_size, config.poll.concurrency), (20, 3));
}

#[test]
fn pools_in_the_environment_replace_the_files_as_a_whole() {
    let pools = r#"[{"id": "us-east-1_A", "all_users": true, "name": null}, {"id": "us-east-1_B", "groups": ["g"]}]"#;
    let config = load_with(POOL, &[("COGNITO_EXPORTER_POOLS", pools)]).unwrap();
    let ids: Vec<&str> = config.pools.iter().map(|pool| pool.id.as_str()).collect();
    assert_eq!(ids, ["us-east-1_A", "us-east-1_B"]);
    assert_eq!(config.pools[0].name, "us-east-1_A");
}

#[test]
fn digits_stay_text_where_text_is_meant() {
    let pools = r#"[{"id": "eu-west-1_123", "usernames": ["007"],
        "role_arn": "arn:aws:iam::000000000042:role/r", "external_id": "0123"}]"#;
    let environment = [
        ("COGNITO_EXPORTER_POOLS", pools),
        ("COGNITO_EXPORTER_STATE__PATH", "0042"),
        ("COGNITO_EXPORTER_OTLP__ENDPOINT", "http://localhost"),
        ("COGNITO_EXPORTER_OTLP__HEADERS", "x-key=0099"),
    ];
    let config = config::load(None, environment).unwrap();
    assert_eq!(config.pools[0].external_id.as_deref(), Some("0123"));
    assert_eq!(config.pools[0].selection.usernames, ["007"]);
    assert_eq!(config.state.path, PathBuf::from("0042"));
    assert_eq!(config.otlp.unwrap().headers[0].1.reveal(), "0099");
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let text = format!("{POOL}[poll]\npage_size = 10");
    let environment = [("COGNITO_EXPORTER_POLL__PAGE_SIZE", ""), ("COGNITO_EXPORTER_POOLS", "")];
    assert_eq!(load_with(&text, &environment), load(&text));
}

#[test]
fn variables_that_kubernetes_makes_for_a_service_are_not_ours() {
    let environment = [
        ("COGNITO_EXPORTER_SERVICE_HOST", "10.0.0.1"),
        ("COGNITO_EXPORTER_SERVICE_PORT_METRICS", "10588"),
        ("COGNITO_EXPORTER_PORT", "tcp://10.0.0.1:10588"),
        ("COGNITO_EXPORTER_PORT_10588_TCP_ADDR", "10.0.0.1"),
        ("COGNITO_EXPORTER_POOLS_SERVICE_HOST", "10.0.0.2"),
        ("COGNITO_EXPORTER_METRICS_PORT_80_TCP", "tcp://10.0.0.3:80"),
        ("HOME", "/root"),
        ("__", "_"),
    ];
    assert_eq!(load_with(POOL, &environment), load(POOL));
}

#[test]
fn a_variable_with_our_prefix_that_sets_no_key_is_a_mistake_and_the_nearest_is_told() {
    for (name, told) in [
        (
            "COGNITO_EXPORTER_POLL_PAGE_SIZE",
            "this variable sets no key; did you mean COGNITO_EXPORTER_POLL__PAGE_SIZE?",
        ),
        (
            "COGNITO_AUTH_EXPORTER_POLL__PAGE_SIZE",
            "this variable sets no key; did you mean COGNITO_EXPORTER_POLL__PAGE_SIZE?",
        ),
        ("COGNITO_EXPORTER_PAGE_SIZE", "this variable sets no key; did you mean COGNITO_EXPORTER_POLL__PAGE_SIZE?"),
        ("COGNITO_EXPORTER_LOG_LEVLE", "this variable sets no key; did you mean COGNITO_EXPORTER_LOG__LEVEL?"),
        ("COGNITO_EXPORTER_POOL", "this variable sets no key; did you mean COGNITO_EXPORTER_POOLS?"),
        ("COGNITO_EXPORTER_pools", "this variable sets no key; did you mean COGNITO_EXPORTER_POOLS?"),
        (
            "COGNITO_EXPORTER_OTLP_EXPORT_ENDPOINT",
            "this variable sets no key; accepted: COGNITO_EXPORTER_<SECTION>__<KEY>, such as \
             COGNITO_EXPORTER_POLL__PAGE_SIZE",
        ),
        (
            "COGNITO_EXPORTER_HTTP_PORT",
            "this variable sets no key; accepted: COGNITO_EXPORTER_<SECTION>__<KEY>, such as \
             COGNITO_EXPORTER_POLL__PAGE_SIZE",
        ),
        (
            "COGNITO_EXPORTER_POLL__PAGESIZE",
            "there is no key poll.pagesize; did you mean COGNITO_EXPORTER_POLL__PAGE_SIZE?",
        ),
        (
            "COGNITO_EXPORTER_POL__PAGE_SIZE",
            "there is no key pol.page_size; did you mean COGNITO_EXPORTER_POLL__PAGE_SIZE?",
        ),
        (
            "COGNITO_EXPORTER_poll__page_size",
            "there is no key poll.page_size; did you mean COGNITO_EXPORTER_POLL__PAGE_SIZE?",
        ),
        (
            "COGNITO_EXPORTER_OTLP__HEADERS__AUTHORIZATION",
            "there is no key otlp.headers.authorization; did you mean COGNITO_EXPORTER_OTLP__HEADERS?",
        ),
        ("COGNITO_EXPORTER_POOLS__ID", "there is no key pools.id; did you mean COGNITO_EXPORTER_POOLS?"),
        (
            "COGNITO_EXPORTER_TRACING__SAMPLER",
            "there is no key tracing.sampler; accepted: COGNITO_EXPORTER_<SECTION>__<KEY>, such as \
             COGNITO_EXPORTER_POLL__PAGE_SIZE",
        ),
    ] {
        for value in ["1", ""] {
            assert_eq!(load_with(POOL, &[(name, value)]).unwrap_err(), format!("{name}: {told}"));
        }
    }
}

#[test]
fn a_section_that_is_none_is_told_even_where_a_variable_would_cover_it() {
    let text = format!("poll = 3\n{POOL}");
    assert_eq!(
        load_with(&text, &[("COGNITO_EXPORTER_POLL__PAGE_SIZE", "20")]).unwrap_err(),
        "config.toml: poll is 3; accepted: a table"
    );
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let errors = config::load(Some(Path::new("/nonexistent/config.toml")), [("A", "b")]).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "/nonexistent/config.toml: cannot read the configuration: No such file or directory (os error 2); \
         name a file that is there, or begin one with config.example.toml"
    );
    let errors = config::load(Some(Path::new("/")), [("A", "b")]).unwrap_err();
    assert_eq!(errors.to_string(), "/: cannot read the configuration: Is a directory (os error 21); name a file in it");
}

#[test]
fn a_file_that_is_not_toml_is_told_with_its_place_and_without_its_text() {
    assert_eq!(
        told("[otlp]\nheaders = { authorization = \"Bearer hunter2 }\n", &[]),
        "config.toml: line 2, column 46: not TOML: invalid basic string; accepted: each [section] once, [[pools]] for \
         each pool, and lines of key = value, with text in quotes"
    );
    assert_eq!(
        told("[poll]\n[poll]\n", &[]),
        "config.toml: line 2, column 1: not TOML: invalid table header, duplicate key `poll` in document root; \
         accepted: each [section] once, [[pools]] for each pool, and lines of key = value, with text in quotes"
    );
}

#[test]
fn a_broken_file_does_not_hide_what_is_wrong_with_variables() {
    let environment = [("COGNITO_EXPORTER_LOG__COLOUR", "red"), ("COGNITO_EXPORTER_POOLS", "[")];
    assert_eq!(
        told("=", &environment),
        "COGNITO_EXPORTER_LOG__COLOUR: there is no key log.colour; accepted: COGNITO_EXPORTER_<SECTION>__<KEY>, such \
         as COGNITO_EXPORTER_POLL__PAGE_SIZE\n\
         config.toml: line 1, column 1: not TOML: invalid key; accepted: each [section] once, [[pools]] for each pool, \
         and lines of key = value, with text in quotes\n\
         COGNITO_EXPORTER_POOLS: pools is not JSON: EOF while parsing a list at line 1 column 1; accepted: a list of \
         objects, such as [{\"id\": \"eu-west-1_Abc123\", \"all_users\": true}]"
    );
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_told_and_a_foreign_one_ignored() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = || OsString::from_vec(vec![0xff]);
    let environment = [
        (OsString::from("COGNITO_EXPORTER_POOLS"), OsString::from(POOLS_JSON)),
        (OsString::from("COGNITO_EXPORTER_STATE__PATH"), bytes()),
        (OsString::from("PATH"), bytes()),
        (bytes(), bytes()),
    ];
    assert_eq!(
        config::load(None, environment).unwrap_err().to_string(),
        "COGNITO_EXPORTER_STATE__PATH: the value is not UTF-8; accepted: text"
    );
}

// General errors.

#[test]
fn unknown_keys_are_told_with_what_was_meant() {
    for (lines, told) in [
        ("[poll]\noverlaps = 1", "there is no key poll.overlaps; did you mean poll.overlap?"),
        ("[pol]\noverlap = 1", "there is no key pol; did you mean poll?"),
        ("[otlp]\noverlap = 1", "there is no key otlp.overlap; did you mean poll.overlap?"),
        ("[log]\ncolour = 1", "there is no key log.colour; accepted here: level, format"),
        ("usernamse = 1", "there is no key pools[0].usernamse; did you mean pools[0].usernames?"),
        ("[log]\n\"a\\nb\" = 1", "there is no key log.\"a\\nb\"; accepted here: level, format"),
        (
            "[tracing]\nsampler = 1",
            "there is no key tracing; accepted here: pools, poll, discovery, state, otlp, stdout, http, firehose, metrics, log, privacy, \
             shard",
        ),
    ] {
        assert_eq!(wrong(lines), format!("config.toml: {told}"), "{lines}");
    }
}

#[test]
fn a_misspelt_section_is_told_by_the_name_that_its_keys_have() {
    let keys = "id = \"eu-west-1_Abc123\"\nall_users = true\n";
    for (text, expected) in [
        (format!("[[pool]]\n{keys}"), "config.toml: line 1, column 3: there is no key pool; did you mean [[pools]]?"),
        (format!("[pool]\n{keys}"), "config.toml: line 1, column 2: there is no key pool; did you mean [[pools]]?"),
        (format!("[[Pools]]\n{keys}"), "config.toml: line 1, column 3: there is no key Pools; did you mean [[pools]]?"),
        (
            format!("{POOL}[pool]\npage_size = 1"),
            "config.toml: line 4, column 2: there is no key pool; did you mean poll?",
        ),
        (
            format!("{POOL}[pools.exports]\nfirehose = true"),
            "config.toml: line 4, column 8: there is no key pools[0] (eu-west-1_Abc123).exports; did you mean \
             pools[0].export?",
        ),
    ] {
        assert_eq!(told(&text, &[]), expected, "{text}");
    }
}

#[test]
fn values_of_the_wrong_type_or_out_of_range_are_told_with_what_is_accepted() {
    for (lines, told) in [
        ("[poll]\npage_size = 61", "poll.page_size is 61; accepted: a whole number from 1 to 60"),
        ("[poll]\npage_size = \"60\"", "poll.page_size is \"60\"; accepted: a whole number from 1 to 60"),
        ("[poll]\npage_size = 6.0", "poll.page_size is 6.0; accepted: a whole number from 1 to 60"),
        ("[poll]\npage_size = 2026-01-01", "poll.page_size is 2026-01-01; accepted: a whole number from 1 to 60"),
        ("[poll]\nconcurrency = [1]", "poll.concurrency is a list; accepted: a whole number from 1 to 1000"),
        (
            "[poll]\nrequests_per_second = 0",
            "poll.requests_per_second is 0; accepted: a number from 0.01 to 1000, or a percentage up to \"100%\"",
        ),
        (
            "[poll]\nrequests_per_second = \"5\"",
            "poll.requests_per_second is \"5\"; accepted: a number from 0.01 to 1000, or a percentage up to \"100%\"",
        ),
        (
            "[poll]\nrequests_per_second = nan",
            "poll.requests_per_second is NaN; accepted: a number from 0.01 to 1000, or a percentage up to \"100%\"",
        ),
        (
            "[poll]\nfirst_run = \"some\"",
            "poll.first_run is \"some\"; accepted: \"none\", \"all\", or a duration from \"1s\" to \"731d\"",
        ),
        ("[poll]\ntimeout = 10", "poll.timeout is 10; accepted: a duration from \"1s\" to \"60s\""),
        ("[state]\ncache = \"1GB of it\"", "state.cache is \"1GB of it\"; accepted: a size from \"8MiB\" to \"64GiB\""),
        ("[stdout]\nenabled = 1", "stdout.enabled is 1; accepted: true or false"),
        (
            "[http]\nlisten = \":10588\"",
            "http.listen is \":10588\"; accepted: an IP address and port, such as \"[::]:10588\" or \
             \"127.0.0.1:10588\"",
        ),
        (
            "[log]\nlevel = \"loud\"",
            "log.level is \"loud\"; accepted: \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
        ),
        ("[state]\npath = \"\"", "state.path is \"\"; accepted: a path"),
        ("[[state]]\npath = \"a\"", "state is a list; accepted: a table"),
    ] {
        assert_eq!(wrong(lines), format!("config.toml: {told}"), "{lines}");
    }
}

#[test]
fn a_date_is_neither_a_table_nor_a_list_of_headers() {
    assert_eq!(
        wrong("[otlp]\nheaders = 2026-01-31"),
        "config.toml: otlp.headers is a date; accepted: a table of texts, such as { authorization = \"Bearer ...\" }"
    );
    assert_eq!(load("pools = [2026-01-31]").unwrap_err(), "config.toml: pools[0] is 2026-01-31; accepted: a table");
    assert_eq!(
        load(&format!("poll = 2026-01-31\n{POOL}")).unwrap_err(),
        "config.toml: poll is 2026-01-31; accepted: a table"
    );
}

#[test]
fn intervals_that_contradict_each_other_are_told_where_they_were_set() {
    assert_eq!(
        wrong("[poll]\nmin_interval = \"2h\""),
        "config.toml: poll.min_interval (2h) is longer than poll.max_interval (1h); accepted: one that is at most as \
         long"
    );
    assert_eq!(
        load_with(POOL, &[("COGNITO_EXPORTER_POLL__MAX_INTERVAL", "10s")]).unwrap_err(),
        "COGNITO_EXPORTER_POLL__MAX_INTERVAL: poll.min_interval (15s) is longer than poll.max_interval (10s); \
         accepted: one that is at most as long"
    );
}

#[test]
fn one_mistake_does_not_lead_to_another() {
    assert_eq!(
        wrong("[poll]\nmin_interval = \"soon\"\nmax_interval = \"10s\""),
        "config.toml: poll.min_interval is \"soon\"; accepted: a duration from \"1s\" to \"1d\""
    );
    assert_eq!(wrong_pool("usernames_file = 1"), "config.toml: pools[0].usernames_file is 1; accepted: a path");
    assert_eq!(load("pools = [1]").unwrap_err(), "config.toml: pools[0] is 1; accepted: a table");
    assert_eq!(
        load("pools = 1").unwrap_err(),
        "config.toml: pools is 1; accepted: a list of tables, each begun with [[pools]]"
    );
}

#[test]
fn what_says_the_defaults_says_nothing() {
    let harmless = "[privacy]\nusername = \"keep\"\n[shard]\nindex = 0\ncount = 1\n[otlp]\nschema = \"cognito\"";
    assert_eq!(load(&format!("{POOL}{harmless}")), load(POOL));
}

// Privacy.

#[test]
fn what_becomes_of_personal_data_is_read_and_contradictions_are_told() {
    for (lines, told) in [
        (
            "username = \"hash\"",
            "privacy.username is \"hash\", without privacy.hash_key_file; accepted: a file with a key of 32 bytes or \
             more",
        ),
        (
            "username = \"drop\"",
            "privacy.username is \"drop\", and the ledger tells users apart by a hash, without privacy.hash_key_file; \
             accepted: a file with a key of 32 bytes or more",
        ),
        (
            "location = \"hash\"",
            "privacy.location is \"hash\", without privacy.hash_key_file; accepted: a file with a key of 32 bytes or \
             more",
        ),
        ("device = \"truncate\"", "privacy.device is \"truncate\"; accepted: \"keep\", \"hash\", \"drop\""),
        ("ip_address = 1", "privacy.ip_address is 1; accepted: \"keep\", \"hash\", \"truncate\", \"drop\""),
        (
            "hash_key_file = \"k\"\nformer_hash_key_file = \"k\"",
            "privacy.former_hash_key_file is privacy.hash_key_file; accepted: the key that was used before",
        ),
    ] {
        assert_eq!(wrong(&format!("[privacy]\n{lines}")), format!("config.toml: {told}"), "{lines}");
    }
    let text = "[privacy]\nusername = \"hash\"\nip_address = \"truncate\"\nlocation = \"drop\"\nhash_key_file = \"k\"";
    let privacy = load(&format!("{POOL}{text}")).unwrap().privacy;
    let modes = Modes { username: Mode::Hash, ip_address: Mode::Truncate, device: Mode::Keep, location: Mode::Drop };
    assert_eq!((privacy.modes, privacy.hash_key_file), (modes, Some("k".into())));
}

// Shards.

#[test]
fn a_shards_index_is_a_number_or_a_pods_name_and_without_either_the_name_of_this_pod() {
    const COUNT: (&str, &str) = ("COGNITO_EXPORTER_SHARD__COUNT", "3");
    const INDEX: &str = "COGNITO_EXPORTER_SHARD__INDEX";
    for (environment, index) in [
        (&[COUNT, (INDEX, "2"), ("POD_NAME", "exporter-1")][..], 2),
        (&[COUNT, (INDEX, "exporter-2"), ("POD_NAME", "exporter-1")], 2),
        (&[COUNT, ("POD_NAME", "exporter-1"), ("HOSTNAME", "exporter-2")], 1),
        (&[COUNT, ("POD_NAME", "exporter"), ("HOSTNAME", "exporter-2")], 2),
        (&[COUNT, ("POD_NAME", ""), ("HOSTNAME", "exporter-2")], 2),
    ] {
        let config = load_with(POOL, environment).unwrap();
        assert_eq!(Some(config.shard), Shard::new(index, 3), "{environment:?}");
    }
    let config = load(&format!("{POOL}[shard]\nindex = \"exporter-1\"\ncount = 2")).unwrap();
    assert_eq!(Some(config.shard), Shard::new(1, 2));
    let alone = load_with(POOL, &[("HOSTNAME", "exporter-7"), ("POD_NAME", "exporter-7")]).unwrap();
    assert_eq!(alone.shard, Shard::WHOLE, "whoever is alone has no need of a number");
}

#[test]
fn a_shard_that_cannot_be_is_a_mistake() {
    const ACCEPTED: &str = "accepted: a number from 0 to 1, or a pod's name that ends in one, such as \"exporter-0\"";
    const SHAPE: &str =
        "accepted: a whole number from 0 to 999, or a pod's name that ends in one, such as \"exporter-0\"";
    for (lines, told) in [
        ("[shard]\nindex = 2\ncount = 2", format!("shard.index is 2 of a shard.count of 2; {ACCEPTED}")),
        ("[shard]\nindex = \"exporter-7\"\ncount = 2", format!("shard.index is 7 of a shard.count of 2; {ACCEPTED}")),
        ("[shard]\nindex = \"exporter\"\ncount = 2", format!("shard.index is \"exporter\"; {SHAPE}")),
        ("[shard]\nindex = -1\ncount = 2", format!("shard.index is -1; {SHAPE}")),
        ("[shard]\ncount = 0", "shard.count is 0; accepted: a whole number from 1 to 1000".to_owned()),
        (
            "[shard]\ncount = 2",
            format!("shard.index is missing, and neither POD_NAME nor HOSTNAME ends in a number; {ACCEPTED}"),
        ),
    ] {
        assert_eq!(wrong(lines), format!("config.toml: {told}"), "{lines}");
    }
    assert_eq!(
        wrong("[shard]\nindex = 1"),
        "config.toml: shard.index is 1 of a shard.count of 1; accepted: 0, or a pod's name that ends in it, such as \
         \"exporter-0\""
    );
    assert_eq!(
        load_with(&format!("{POOL}[shard]\ncount = 2"), &[("POD_NAME", "exporter-2")]).unwrap_err(),
        format!("POD_NAME: the pod's name makes shard.index 2 of a shard.count of 2; {ACCEPTED}")
    );
}

// Pools.

#[test]
fn a_configuration_without_pools_is_a_mistake() {
    let told = "pools is missing; accepted: a [[pools]] table or more, such as in config.example.toml, or JSON in \
                COGNITO_EXPORTER_POOLS";
    assert_eq!(load("").unwrap_err(), format!("config.toml: {told}"));
    assert_eq!(load("pools = []").unwrap_err(), format!("config.toml: {told}"));
    let nothing: [(&str, &str); 0] = [];
    assert_eq!(
        config::load(None, nothing).unwrap_err().to_string(),
        "no configuration file: pools is missing; accepted: a [[pools]] table or more in ./config.toml or \
         /etc/cognito-auth-exporter/config.toml, or JSON in COGNITO_EXPORTER_POOLS"
    );
    assert_eq!(
        load("[pools]\nid = \"eu-west-1_Abc123\"").unwrap_err(),
        "config.toml: pools is a table; accepted: a list of tables, each begun with [[pools]]"
    );
    assert_eq!(
        load_with("", &[("COGNITO_EXPORTER_POOLS", "{}")]).unwrap_err(),
        "COGNITO_EXPORTER_POOLS: pools is a table; accepted: a list of objects"
    );
}

#[test]
fn a_pool_is_read_with_all_its_keys() {
    let text = r#"
        [[pools]]
        id = "local_Abc"
        name = "customers, live"
        region = "eu-central-1"
        profile = "audit"
        role_arn = "arn:aws-us-gov:iam::123456789012:role/path/to/exporter"
        external_id = "0123"
        usernames = ["alice", "bob@example.com"]
        usernames_file = "users.txt"
        groups = ["admins"]
        filter = 'email ^= "a"'
        exclude = ["robot"]
        include_disabled = true
        include_federated = true
        followed_since = 2026-01-31T12:00:00.250+01:00
    "#;
    let expected = PoolConfig {
        id: "local_Abc".to_owned(),
        name: "customers, live".to_owned(),
        region: "eu-central-1".to_owned(),
        profile: Some("audit".to_owned()),
        role_arn: Some("arn:aws-us-gov:iam::123456789012:role/path/to/exporter".to_owned()),
        external_id: Some("0123".to_owned()),
        selection: SelectionRules {
            usernames: vec!["alice".to_owned(), "bob@example.com".to_owned()],
            usernames_file: Some(PathBuf::from("users.txt")),
            groups: vec!["admins".to_owned()],
            all_users: false,
            filter: Some("email ^= \"a\"".to_owned()),
            exclude: vec!["robot".to_owned()],
            include_disabled: true,
            include_federated: true,
        },
        followed_since: Some(UnixMillis(1_769_857_200_250)),
        export: None,
    };
    assert_eq!(load(text).unwrap().pools, [expected]);
}

#[test]
fn the_region_is_what_the_id_begins_with() {
    for (id, region) in [("eu-west-1_Abc123", "eu-west-1"), ("us-gov-west-1_x", "us-gov-west-1")] {
        let config = load(&format!("[[pools]]\nid = \"{id}\"\nall_users = true")).unwrap();
        assert_eq!((config.pools[0].region.as_str(), config.pools[0].name.as_str()), (region, id));
    }
}

#[test]
fn pool_ids_are_of_the_services_form() {
    let too_long = format!("eu-west-1_{}", "x".repeat(46));
    for id in
        ["", "_", "eu-west-1", "eu-west-1_", "_Abc", "eu west 1_Abc", "eu-west-1_Ab-c", "eu-west-1_Äbc", &too_long]
    {
        assert_eq!(
            load(&format!("[[pools]]\nid = \"{id}\"\nall_users = true")).unwrap_err(),
            format!("config.toml: pools[0].id is \"{id}\"; accepted: a user pool id, such as \"eu-west-1_Abc123\"")
        );
    }
}

#[test]
fn a_pools_mistakes_are_told() {
    let all = "all_users = true\n";
    for (lines, told) in [
        ("", "pools[0] selects nobody; accepted: at least one of usernames, usernames_file, groups, all_users, filter"),
        (
            "usernames = []",
            "pools[0] selects nobody; accepted: at least one of usernames, usernames_file, groups, all_users, filter",
        ),
        (
            "all_users = false",
            "pools[0] selects nobody; accepted: at least one of usernames, usernames_file, groups, all_users, filter",
        ),
        (
            "usernames = \"alice\"",
            "pools[0].usernames is not of the accepted form; accepted: a list in brackets, each 1 to 128 characters \
             without white space",
        ),
        (
            "usernames = [\"alice\", \"bob smith\"]",
            "pools[0].usernames[1] is not of the accepted form; accepted: 1 to 128 characters without white space",
        ),
        ("usernames = [7]", "pools[0].usernames[0] is a number; accepted: 1 to 128 characters without white space"),
        ("groups = [\"\"]", "pools[0].groups[0] is \"\"; accepted: 1 to 128 characters without white space"),
        (
            "filter = \"status: Enabled\"",
            "pools[0].filter is not of the accepted form; accepted: a filter of ListUsers, such as 'status = \
             \"Enabled\"' or 'email ^= \"a\"', 256 characters at most",
        ),
        (
            "usernames = [\"alice\"]\nexclude = [\"bob\", \"alice\"]",
            "pools[0].exclude[1] is also in pools[0].usernames; accepted: one of them",
        ),
        (
            &format!("{all}filter = 'status = \"Enabled\"'"),
            "pools[0].all_users is true beside pools[0].filter; accepted: one of them",
        ),
        (
            &format!("{all}external_id = \"0123\""),
            "pools[0].external_id is given without pools[0].role_arn; accepted: both, or neither",
        ),
        (&format!("{all}name = \" \""), "pools[0].name is \" \"; accepted: 1 to 128 characters on one line"),
        (
            &format!("{all}region = \"Ireland\""),
            "pools[0].region is \"Ireland\"; accepted: a region, such as \"eu-west-1\"",
        ),
        (
            &format!("{all}role_arn = \"arn:aws:iam::1234:role/r\""),
            "pools[0].role_arn is \"arn:aws:iam::1234:role/r\"; accepted: a role's ARN, such as \
             \"arn:aws:iam::123456789012:role/exporter\"",
        ),
        (
            &format!("{all}role_arn = \"arn:aws:iam::123456789012:user/u\""),
            "pools[0].role_arn is \"arn:aws:iam::123456789012:user/u\"; accepted: a role's ARN, such as \
             \"arn:aws:iam::123456789012:role/exporter\"",
        ),
        (
            &format!("{all}followed_since = 2026-01-31"),
            "pools[0].followed_since is 2026-01-31; accepted: a time in RFC 3339, such as \"2026-01-31T12:00:00Z\"",
        ),
    ] {
        assert_eq!(wrong_pool(lines), format!("config.toml: {told}"), "{lines}");
    }
    assert_eq!(
        load("[[pools]]\nid = \"My_Pool\"\nall_users = true").unwrap_err(),
        "config.toml: pools[0] (My_Pool).id does not begin with a region; accepted: such an id, or one with pools[0].region"
    );
    assert_eq!(
        load(&format!("{POOL}{POOL}")).unwrap_err(),
        "config.toml: pools[1].id is the same as pools[0].id; accepted: each pool once"
    );
}

// Exports.

#[test]
fn an_export_that_names_no_source_or_has_too_large_a_sample_is_a_mistake() {
    let all = "all_users = true\n[pools.export]\n";
    let no_source = "config.toml: pools[0].export names no source; accepted: pools[0].export.log_group, or \
                     pools[0].export.firehose = true";
    for lines in ["", "firehose = false\n", "audit = \"full\"\n"] {
        assert_eq!(wrong_pool(&format!("{all}{lines}")), no_source, "{lines}");
    }
    let none = r#"[{"id": "eu-west-1_Abc123", "all_users": true, "export": {}}]"#;
    assert_eq!(
        load_with("", &[("COGNITO_EXPORTER_POOLS", none)]).unwrap_err(),
        no_source.replace("config.toml", "COGNITO_EXPORTER_POOLS")
    );
    assert!(load_with("", &[("COGNITO_EXPORTER_POOLS", &none.replace("{}", "null"))]).is_ok());

    let export = format!("{all}log_group = \"g\"\naudit_requests_per_second = 6\n");
    assert_eq!(
        wrong_pool(&export),
        "config.toml: pools[0].export.audit_requests_per_second is 6, above poll.requests_per_second, of which it is a \
         part; accepted: at most 5"
    );
    let pool = "[[pools]]\nid = \"eu-west-1_Abc123\"\n";
    for budget in ["6", "\"10%\""] {
        assert!(load(&format!("{pool}{export}[poll]\nrequests_per_second = {budget}")).is_ok(), "{budget}");
    }
    assert!(load(&format!("{pool}{export}audit = \"full\"\n")).is_ok(), "there is no sample");
    // The default is no mistake of the operator's.
    let lowered = format!("{pool}{all}log_group = \"g\"\n[poll]\nrequests_per_second = 0.1");
    assert!(load(&lowered).is_ok());
}

// OTLP.

#[test]
fn without_an_endpoint_there_is_no_otlp() {
    assert_eq!(otlp("batch_size = 1", &[("OTEL_EXPORTER_OTLP_TIMEOUT", "nonsense")]), None);
    assert_eq!(otlp("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), None);
}

#[test]
fn a_receiver_is_read_with_all_its_keys() {
    let lines = r#"
        endpoint = "https://collector:4317"
        protocol = "grpc"
        headers = { Authorization = "Bearer hunter2", x-scope-orgid = "7" }
        headers_file = "headers"
        compression = "none"
        timeout = "5s"
        ca_file = "ca.pem"
        cert_file = "cert.pem"
        key_file = "key.pem"
        accept_any_2xx = true
        batch_size = 100
        batch_delay = "200ms"
        timestamp = "observed"
        schema = "ocsf"
    "#;
    let otlp = otlp(lines, &[]).unwrap();
    let headers: Vec<(&str, &str)> = otlp.headers.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
    assert_eq!(headers, [("authorization", "Bearer hunter2"), ("x-scope-orgid", "7")]);
    let mut expected = OtlpConfig::new("https://collector:4317");
    expected.protocol = OtlpProtocol::Grpc;
    expected.headers.clone_from(&otlp.headers);
    expected.headers_file = Some(PathBuf::from("headers"));
    expected.compression = Compression::None;
    expected.timeout = Duration::from_secs(5);
    expected.ca_file = Some(PathBuf::from("ca.pem"));
    expected.cert_file = Some(PathBuf::from("cert.pem"));
    expected.key_file = Some(PathBuf::from("key.pem"));
    expected.accept_any_2xx = true;
    expected.batch_size = 100;
    expected.batch_delay = Duration::from_millis(200);
    expected.timestamp = TimestampSource::Observed;
    expected.schema = Schema::Ocsf(OcsfVersion::V1_8);
    assert_eq!(otlp, expected);
    assert!(!format!("{otlp:?}").contains("hunter2"));
}

/// "ocsf" keeps its version, because receivers rely on it. A version has a word of its own, and no other word passes.
#[test]
fn each_schema_has_its_word() {
    let endpoint = "endpoint = \"http://collector:4318\"";
    assert_eq!(otlp(endpoint, &[]).unwrap().schema, Schema::Cognito);
    for (word, schema) in [
        ("cognito", Schema::Cognito),
        ("ocsf", Schema::Ocsf(OcsfVersion::V1_8)),
        ("ocsf-1.9", Schema::Ocsf(OcsfVersion::V1_9)),
    ] {
        assert_eq!(otlp(&format!("{endpoint}\nschema = {word:?}"), &[]).unwrap().schema, schema, "{word}");
    }
    for word in ["ocsf-1.8", "ocsf-1.9.0", "OCSF"] {
        assert_eq!(
            load(&format!("{POOL}[otlp]\n{endpoint}\nschema = {word:?}")).unwrap_err(),
            format!("config.toml: otlp.schema is {word:?}; accepted: \"cognito\", \"ocsf\", \"ocsf-1.9\"")
        );
    }
}

#[test]
fn the_specifications_variables_apply_where_the_rest_is_silent() {
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://general:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-general=1"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "cert.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem"),
        ("OTEL_SDK_DISABLED", "true"),
    ];
    let general = otlp("", &environment).unwrap();
    assert_eq!((general.endpoint.as_str(), general.endpoint_is_exact), ("https://general:4318", false));
    assert_eq!((general.protocol, general.compression), (OtlpProtocol::HttpJson, Compression::None));
    assert_eq!(general.timeout, Duration::from_millis(2500));
    assert_eq!(general.headers[0].0, "x-general");
    let files = [general.ca_file, general.cert_file, general.key_file];
    assert_eq!(files, ["ca.pem", "cert.pem", "key.pem"].map(|file| Some(PathBuf::from(file))));

    let mut environment = environment.to_vec();
    environment.extend([
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://logs:4318/push?tenant=7"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "authorization=Basic%20dTpw=="),
        ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "3000"),
        ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "logs-ca.pem"),
    ]);
    let logs = otlp("", &environment).unwrap();
    assert_eq!((logs.endpoint.as_str(), logs.endpoint_is_exact), ("https://logs:4318/push?tenant=7", true));
    assert_eq!((logs.protocol, logs.compression), (OtlpProtocol::HttpProtobuf, Compression::Gzip));
    assert_eq!(logs.timeout, Duration::from_secs(3));
    assert_eq!(logs.headers.len(), 1);
    assert_eq!((logs.headers[0].0.as_str(), logs.headers[0].1.reveal()), ("authorization", "Basic dTpw=="));
    assert_eq!(logs.ca_file, Some(PathBuf::from("logs-ca.pem")));
    assert_eq!(logs.key_file, Some(PathBuf::from("key.pem")));

    let file = "endpoint = \"https://file\"\nheaders = { x-file = \"1\" }\ntimeout = \"4s\"";
    environment.push(("COGNITO_EXPORTER_OTLP__TIMEOUT", "5s"));
    let from_file = otlp(file, &environment).unwrap();
    assert_eq!((from_file.endpoint.as_str(), from_file.endpoint_is_exact), ("https://file", false));
    assert_eq!(from_file.headers[0].0, "x-file");
    assert_eq!(from_file.headers.len(), 1);
    assert_eq!(from_file.timeout, Duration::from_secs(5));
}

#[test]
fn the_resource_takes_its_attributes_from_the_environment() {
    let endpoint = "endpoint = \"http://localhost\"";
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,cloud.region=eu%2Dwest%2D1,k=1,k=2");
    let pairs = |environment: &[(&str, &str)]| otlp(endpoint, environment).unwrap().resource_attributes;
    let owned =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
    assert_eq!(pairs(&[]), []);
    assert_eq!(pairs(&[attributes]), owned(&[("service.name", "a"), ("cloud.region", "eu-west-1"), ("k", "2")]));
    assert_eq!(
        pairs(&[attributes, ("OTEL_SERVICE_NAME", "b")]),
        owned(&[("cloud.region", "eu-west-1"), ("k", "2"), ("service.name", "b")])
    );
}

#[test]
fn a_receivers_mistakes_are_told() {
    let http = "endpoint = \"http://localhost\"\n";
    let https = "endpoint = \"https://localhost\"\n";
    for (lines, told) in [
        (
            format!("{http}ca_file = \"ca\""),
            "otlp.ca_file is given, but otlp.endpoint has no TLS; accepted: an endpoint with https://",
        ),
        (
            format!("{https}cert_file = \"c\""),
            "otlp.cert_file is given without otlp.key_file; accepted: both, or neither",
        ),
        (
            format!("{https}key_file = \"k\""),
            "otlp.key_file is given without otlp.cert_file; accepted: both, or neither",
        ),
        (
            format!("{http}protocol = \"http\""),
            "otlp.protocol is \"http\"; accepted: \"grpc\", \"http/protobuf\", \"http/json\"",
        ),
        (format!("{http}batch_size = 10001"), "otlp.batch_size is 10001; accepted: a whole number from 1 to 10000"),
        ("timeout = \"0s\"".to_owned(), "otlp.timeout is \"0s\"; accepted: a duration from \"100ms\" to \"5m\""),
    ] {
        assert_eq!(wrong(&format!("[otlp]\n{lines}")), format!("config.toml: {told}"), "{lines}");
    }
}

/// The warnings about ignored variables of the specification, one per line, and the configuration.
fn set_aside(lines: &str, environment: &[(&str, &str)]) -> (String, OtlpConfig) {
    let config = load_with(&format!("{POOL}[otlp]\n{lines}"), environment).unwrap();
    let told: Vec<_> = config.set_aside.iter().map(ToString::to_string).collect();
    (told.join("\n"), config.otlp.unwrap())
}

#[test]
fn what_is_wrong_with_the_specifications_variables_is_set_aside() {
    let http = "endpoint = \"http://localhost\"";
    for (lines, environment, told) in [
        (
            http,
            &[("OTEL_EXPORTER_OTLP_TIMEOUT", "0")][..],
            "OTEL_EXPORTER_OTLP_TIMEOUT: otlp.timeout is \"0ms\"; accepted: a duration from \"100ms\" to \"5m\"",
        ),
        (
            http,
            &[("OTEL_RESOURCE_ATTRIBUTES", "a=1,b")],
            "OTEL_RESOURCE_ATTRIBUTES: pair 2 has no \"=\"; accepted: key=value pairs separated by commas, with \
             percent-encoded values",
        ),
        (
            http,
            &[("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem")],
            "OTEL_EXPORTER_OTLP_CERTIFICATE: otlp.ca_file is given, but otlp.endpoint has no TLS; accepted: an \
             endpoint with https://",
        ),
        (
            "endpoint = \"https://localhost\"",
            &[("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem")],
            "OTEL_EXPORTER_OTLP_CLIENT_KEY: otlp.key_file is given without otlp.cert_file; accepted: both, or neither",
        ),
        (
            "endpoint = \"http://localhost/otlp\"",
            &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
            "OTEL_EXPORTER_OTLP_PROTOCOL: otlp.endpoint has a path, which gRPC has none of; accepted: scheme, host and \
             port",
        ),
    ] {
        let (aside, otlp) = set_aside(lines, environment);
        assert_eq!(aside, told, "{environment:?}");
        assert_eq!((otlp.timeout, otlp.protocol), (Duration::from_secs(10), OtlpProtocol::HttpProtobuf));
        assert_eq!((otlp.ca_file, otlp.cert_file, otlp.key_file), (None, None, None));
    }
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "x-a=1,lone,X-A=2,x y=3,x-b=4");
    let (aside, otlp) =
        set_aside(http, &[headers, ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "ten"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500")]);
    assert_eq!(aside.lines().count(), 2, "{aside}");
    let names: Vec<_> = otlp.headers.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
    assert_eq!(names, [("x-a", "1"), ("x-b", "4")]);
    assert_eq!(
        otlp.timeout,
        Duration::from_millis(2500),
        "the variable for every signal counts where that for logs cannot"
    );
    // Variables of this program alone are still strict.
    for variable in ["COGNITO_EXPORTER_OTLP__TIMEOUT", "COGNITO_EXPORTER_OTLP__HEADERS"] {
        assert!(load_with(&format!("{POOL}[otlp]\n{http}"), &[(variable, "ten")]).is_err(), "{variable}");
    }
    assert!(load_with(POOL, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317")]).is_err());
}

#[test]
fn a_base_url_has_no_path_that_every_request_would_fail_for() {
    let appended = "otlp.endpoint ends in /v1/logs, which is appended to it; accepted: what is before that";
    let none = "otlp.endpoint has a path, which gRPC has none of; accepted: scheme, host and port";
    for (url, protocol, told) in [
        ("http://localhost:4318/v1/logs", "http/protobuf", appended),
        ("http://localhost:4318/otlp/v1/logs/", "http/json", appended),
        ("http://localhost:4317/v1/logs", "grpc", none),
        ("http://localhost:4317/otlp", "grpc", none),
    ] {
        let lines = format!("[otlp]\nendpoint = \"{url}\"\nprotocol = \"{protocol}\"");
        assert_eq!(wrong(&lines), format!("config.toml: {told}"), "{url}");
    }
    for (url, protocol) in [("http://localhost:4318/otlp", "http/protobuf"), ("http://localhost:4317/", "grpc")] {
        otlp(&format!("endpoint = \"{url}\"\nprotocol = \"{protocol}\""), &[]).unwrap();
    }
    let exact = [("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://localhost:4318/v1/logs?key=7")];
    let exact = otlp("", &exact).unwrap();
    assert_eq!((exact.endpoint_is_exact, exact.origin().as_str()), (true, "http://localhost:4318"));
}

#[test]
fn an_endpoint_is_a_plain_url() {
    for url in [
        "",
        "localhost:4318",
        "ftp://localhost",
        "http://",
        "http:///v1/logs",
        "https://user:hunter2@host",
        "http://host:port",
        "http://host:99999",
        "http://host:",
        "http://host?q=hunter2",
        "http://host#hunter2",
        "http://ho st",
        "/v1/logs",
    ] {
        assert_eq!(
            wrong(&format!("[otlp]\nendpoint = \"{url}\"")),
            "config.toml: otlp.endpoint is not of the accepted form; accepted: an http:// or https:// URL without user \
             name, password, query or fragment, such as \"http://localhost:4318\"",
            "{url}"
        );
    }
    for url in ["http://localhost", "http://localhost:4318/", "https://[::1]:4318/base", "http://10.0.0.1:4317"] {
        assert_eq!(otlp(&format!("endpoint = \"{url}\""), &[]).unwrap().endpoint, url);
    }
}

/// Whatever is wrong around a secret, no message contains its value.
#[test]
fn secrets_are_never_echoed() {
    let endpoint = "endpoint = \"http://localhost\"\n";
    let in_file = [
        (
            "headers = \"authorization=hunter2\"",
            "otlp.headers is text; accepted: a table of texts, such as { authorization = \"Bearer ...\" }",
        ),
        (
            "headers = [\"hunter2\"]",
            "otlp.headers is a list; accepted: a table of texts, such as { authorization = \"Bearer ...\" }",
        ),
        (
            "headers = { x-key = 42424242 }",
            "otlp.headers.x-key is not of the accepted form; accepted: text of visible ASCII characters",
        ),
        (
            "headers = { x-key = \"hunter2\\n\" }",
            "otlp.headers.x-key is not of the accepted form; accepted: text of visible ASCII characters",
        ),
        (
            "headers = { \"Bearer hunter2\" = \"\" }",
            "otlp.headers: name 1 is no header name; accepted: letters, digits and -_.",
        ),
        (
            "headers = { X-Key = \"hunter2\", x-key = \"hunter2\" }",
            "otlp.headers.x-key is given twice; accepted: each header once",
        ),
    ];
    for (lines, told) in in_file {
        assert_eq!(wrong(&format!("[otlp]\n{endpoint}{lines}")), format!("config.toml: {told}"));
    }
    let in_variable = [
        (
            "hunter2",
            "otlp.headers is not of the accepted form: pair 1 has no \"=\"; accepted: key=value pairs separated by \
             commas, with percent-encoded values",
        ),
        ("Bearer hunter2=", "otlp.headers: name 1 is no header name; accepted: letters, digits and -_."),
        (
            "a=hunter2%0A",
            "otlp.headers: header 1 is not of the accepted form; accepted: text of visible ASCII characters",
        ),
    ];
    for (value, told) in in_variable {
        let text = format!("{POOL}[otlp]\n{endpoint}");
        let name = "COGNITO_EXPORTER_OTLP__HEADERS";
        assert_eq!(load_with(&text, &[(name, value)]).unwrap_err(), format!("{name}: {told}"));
        let name = "OTEL_EXPORTER_OTLP_HEADERS";
        assert_eq!(load_with(&text, &[(name, value)]).unwrap().set_aside[0].to_string(), format!("{name}: {told}"));
    }
    let role = "all_users = true\nrole_arn = \"arn:aws:iam::123456789012:role/r\"\n";
    for value in ["\"hunter2 hunter2\"", "42424242", "[\"hunter2\"]", "{ a = \"hunter2\" }"] {
        let told = wrong_pool(&format!("{role}external_id = {value}"));
        assert!(told.contains("pools[0].external_id is "), "{told}");
        assert!(!told.contains("hunter2") && !told.contains("42424242"), "{told}");
    }
}

#[test]
fn a_pool_shows_nobody_in_its_debug() {
    let config = load(
        "[[pools]]\nid = \"eu-west-1_A\"\nusernames = [\"alice\"]\nexclude = [\"bob\"]\nfilter = 'email = \"carol\"'",
    )
    .unwrap();
    let shown = format!("{config:?}");
    assert!(!["alice", "bob", "carol"].iter().any(|name| shown.contains(name)), "{shown}");
}

// Arbitrary input.

/// A key that exists or nearly exists.
fn any_key() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(config::keys());
    prop_oneof![8 => known, 1 => "[a-z_]{0,8}\\.[a-z_]{0,8}", 1 => "\\PC{0,12}"]
}

/// A value as in TOML, JSON or an environment variable, or an invalid one.
fn any_value() -> impl Strategy<Value = String> {
    let likely = [
        "0",
        "1",
        "-1",
        "5.0",
        "1e400",
        "nan",
        "99999999999999999999",
        "true",
        "\"\"",
        "\"10s\"",
        "\"1GiB\"",
        "\"none\"",
        "\"20%\"",
        "\"http://[::1]:4318\"",
        "\"http://a:b@c\"",
        "\"eu-west-1_A\"",
        "[]",
        "[\"a\"]",
        "[[]]",
        "{}",
        "{ a = \"b\" }",
        "2026-01-31",
        "2026-01-31T12:00:00Z",
        "[{\"id\":\"eu-west-1_A\",\"all_users\":true}]",
        "[null]",
        "null",
        "a=b,c=%41",
        "%",
        "\"keep\"",
    ];
    prop_oneof![
        6 => proptest::sample::select(likely.to_vec()).prop_map(str::to_owned),
        1 => "\\PC{0,16}",
        1 => "\"[ -~&&[^\"\\\\]]{0,16}\"",
        // Durations and sizes, or nearly.
        2 => "\"-?[0-9]{0,24}\\.?[0-9]{0,3} ?[a-zA-Zµ]{0,6}( ?[0-9]{1,20}[smhdwy])?\"",
    ]
}

/// Pools as JSON, or nearly.
fn any_pools() -> impl Strategy<Value = String> {
    let of_pool = proptest::sample::select(config::keys())
        .prop_filter_map("of a pool", |key| key.strip_prefix("pools[].").map(str::to_owned));
    let value = prop_oneof![any_value(), Just("true".to_owned()), Just("[\"a\", 1, {\"b\": null}]".to_owned())];
    let member = (of_pool, value).prop_map(|(key, value)| format!("\"{key}\": {value}"));
    proptest::collection::vec(member, 0..5)
        .prop_map(|members| format!("[{{\"id\": \"eu-west-1_A\", \"all_users\": true}}, {{{}}}]", members.join(", ")))
}

fn any_file() -> impl Strategy<Value = String> {
    let settings = proptest::collection::vec((any_key(), any_value()), 0..8).prop_map(|settings| {
        let lines = settings.iter().map(|(key, value)| match key.split_once("[].") {
            Some((list, key)) => format!("[[{list}]]\n{key} = {value}\n"),
            None => match key.split_once('.') {
                Some((section, key)) => format!("[{section}]\n{key} = {value}\n"),
                None => format!("{key} = {value}\n"),
            },
        });
        lines.collect::<String>()
    });
    prop_oneof![4 => settings, 1 => "(?s).{0,200}", 1 => Just(include_str!("../config.example.toml").to_owned())]
}

fn any_environment() -> impl Strategy<Value = BTreeMap<String, String>> {
    let specification = ["ENDPOINT", "LOGS_ENDPOINT", "HEADERS", "TIMEOUT", "LOGS_PROTOCOL", "CERTIFICATE"];
    let name = prop_oneof![
        6 => any_key().prop_map(|key| config::variable_name(&key)),
        2 => proptest::sample::select(specification.to_vec()).prop_map(|name| format!("OTEL_EXPORTER_OTLP_{name}")),
        1 => Just("OTEL_RESOURCE_ATTRIBUTES".to_owned()),
        2 => Just("COGNITO_EXPORTER_POOLS".to_owned()),
        1 => "COGNITO_EXPORTER_[A-Z_]{0,12}",
        1 => "\\PC{0,12}",
    ];
    let value = prop_oneof![
        4 => any_value(),
        1 => any_value().prop_map(|value| value.replace('"', "")),
        1 => any_pools(),
    ];
    proptest::collection::btree_map(name, value, 0..6)
}

proptest! {
    // Set PROPTEST_CASES for more cases.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(512),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_written_loads_or_is_told(text in any_file(), environment in any_environment()) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        match config::load(Some(&file), environment) {
            Ok(config) => {
                prop_assert!(!config.pools.is_empty());
                prop_assert!(config.pools.iter().all(|pool| pool.selection.select_users()));
                prop_assert!(config.poll.min_interval <= config.poll.max_interval);
                prop_assert!((1..=60).contains(&config.poll.page_size));
            }
            Err(errors) => {
                prop_assert!(!errors.mistakes().is_empty());
                let told = errors.to_string();
                prop_assert_eq!(told.lines().count(), errors.mistakes().len(), "{}", told);
                prop_assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{:?}", told);
                // Whatever the file holds, a mistake in it has a place.
                let is_placed = |mistake: &config::Mistake| {
                    !matches!(mistake.origin, SettingOrigin::File { place: None, .. }) || mistake.key == "pools"
                };
                prop_assert!(errors.mistakes().iter().all(is_placed), "{}", told);
            }
        }
    }

    #[test]
    fn a_secret_is_never_echoed(secret in "[a-zA-Z0-9]{12,24}", before in "[ -~]{0,4}", after in "(?s).{0,4}") {
        let value = format!("{before}{secret}{after}");
        let in_file = format!("{POOL}[otlp]\nheaders = {{ authorization = {value} }}\n[poll]\npage_size = 0");
        let in_variable = format!("authorization={value}");
        let environment = [
            ("COGNITO_EXPORTER_OTLP__ENDPOINT", "http://localhost"),
            ("COGNITO_EXPORTER_OTLP__HEADERS", &in_variable),
        ];
        let role = "\nrole_arn = \"arn:aws:iam::123456789012:role/r\"";
        let in_pool = load(&format!("{POOL}{role}\nexternal_id = {value}\n[poll]\npage_size = 0"));
        let pools = format!("[{{\"id\": \"eu-west-1_A\", \"external_id\": \"{value}\", \"page_size\": 0}}]");
        let in_pools = load_with("", &[("COGNITO_EXPORTER_POOLS", &pools)]);
        for result in [load(&in_file), load_with(POOL, &environment), load_with("", &environment), in_pool, in_pools] {
            let shown = format!("{result:?}");
            prop_assert!(!shown.contains(&secret), "{}", shown);
        }
    }
}
