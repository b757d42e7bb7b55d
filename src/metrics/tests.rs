use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use cognito_auth_core::event::{EventResponse, EventType, Label, Outcome, RiskDecision};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily, MetricType};

use super::*;

const POOL: &str = "eu-west-1_Abc123";

fn identity() -> PoolIdentity {
    PoolIdentity {
        id: POOL.into(),
        name: "customers \"west\"".into(),
        region: "eu-west-1".into(),
        account_id: Some("123456789012".into()),
    }
}

/// The documented metrics: name, type, labels, and whether the metric is there before the first report.
const DOCUMENTED: &[(&str, &str, &str, bool)] = &[
    ("cognito_auth_challenges_total", "counter", "user_pool_id,challenge_name,challenge_response", true),
    ("cognito_auth_compromised_credentials_events_total", "counter", "user_pool_id,event_type,event_response", true),
    ("cognito_auth_event_delay_seconds", "histogram", "user_pool_id", true),
    ("cognito_auth_events_total", "counter", "user_pool_id,event_type,event_response,risk_decision", true),
    ("cognito_auth_feedback_total", "counter", "user_pool_id,feedback_value", true),
    ("cognito_auth_history_events_total", "counter", "user_pool_id", true),
    (
        "cognito_auth_risk_events_total",
        "counter",
        "user_pool_id,event_type,event_response,risk_level,risk_decision",
        true,
    ),
    ("cognito_auth_superseded_outcomes_total", "counter", "user_pool_id,event_type,event_response,risk_decision", true),
    ("cognito_auth_unfinished_events_total", "counter", "user_pool_id,event_type,risk_decision", true),
    ("cognito_exporter_api_account_limit_read_timestamp_seconds", "gauge", "account_id,region", false),
    ("cognito_exporter_api_account_limit_requests_per_second", "gauge", "account_id,region", false),
    ("cognito_exporter_api_budget_requests_per_second", "gauge", "account_id,region", false),
    ("cognito_exporter_api_request_duration_seconds", "histogram", "region,operation", true),
    ("cognito_exporter_api_requests_total", "counter", "account_id,region,operation,outcome", true),
    ("cognito_exporter_build_info", "gauge", "version,revision", true),
    ("cognito_exporter_catching_up", "gauge", "user_pool_id", false),
    ("cognito_exporter_config_last_reload_success_timestamp_seconds", "gauge", "", true),
    ("cognito_exporter_config_last_reload_successful", "gauge", "", true),
    ("cognito_exporter_cut_events_total", "counter", "user_pool_id", true),
    ("cognito_exporter_discovery_delay_seconds", "histogram", "user_pool_id", true),
    ("cognito_exporter_discovery_last_success_timestamp_seconds", "gauge", "user_pool_id", false),
    ("cognito_exporter_discovery_listed_users", "gauge", "user_pool_id", false),
    ("cognito_exporter_event_delay_seconds_estimate", "gauge", "user_pool_id", false),
    ("cognito_exporter_export_audited_events_total", "counter", "user_pool_id", true),
    ("cognito_exporter_export_delay_seconds", "histogram", "user_pool_id", true),
    ("cognito_exporter_export_missed_events_total", "counter", "user_pool_id", true),
    ("cognito_exporter_export_read_until_timestamp_seconds", "gauge", "user_pool_id", false),
    ("cognito_exporter_export_records_total", "counter", "user_pool_id,result", true),
    ("cognito_exporter_export_up", "gauge", "user_pool_id", false),
    ("cognito_exporter_fetched_events_total", "counter", "user_pool_id,result", true),
    ("cognito_exporter_firehose_requests_total", "counter", "outcome", true),
    ("cognito_exporter_last_progress_timestamp_seconds", "gauge", "stage", false),
    ("cognito_exporter_late_events_total", "counter", "user_pool_id", true),
    ("cognito_exporter_oldest_poll_timestamp_seconds", "gauge", "user_pool_id", false),
    ("cognito_exporter_order_violations_total", "counter", "user_pool_id", true),
    ("cognito_exporter_otlp_records_total", "counter", "outcome", true),
    ("cognito_exporter_otlp_requests_total", "counter", "outcome", true),
    ("cognito_exporter_outbox_bytes", "gauge", "", false),
    ("cognito_exporter_outbox_limit_bytes", "gauge", "", false),
    ("cognito_exporter_outbox_oldest_timestamp_seconds", "gauge", "", false),
    ("cognito_exporter_outbox_records", "gauge", "", false),
    ("cognito_exporter_paused", "gauge", "reason", true),
    ("cognito_exporter_poll_objective_seconds", "gauge", "user_pool_id", false),
    ("cognito_exporter_pool_info", "gauge", "user_pool_id,user_pool_name,region,account_id", true),
    ("cognito_exporter_pool_up", "gauge", "user_pool_id", false),
    ("cognito_exporter_quarantined_records", "gauge", "", false),
    ("cognito_exporter_required_requests_per_second", "gauge", "user_pool_id", false),
    ("cognito_exporter_round_seconds_estimate", "gauge", "user_pool_id", false),
    ("cognito_exporter_shard_info", "gauge", "index,count", true),
    ("cognito_exporter_state_rebuilds_total", "counter", "", true),
    ("cognito_exporter_state_size_bytes", "gauge", "", false),
    ("cognito_exporter_users", "gauge", "user_pool_id,state", false),
];

fn fresh() -> Metrics {
    let metrics = Metrics::new(UnixMillis(1_723_136_049_929));
    metrics.add_pool(&identity());
    metrics.add_export(POOL);
    metrics.add_firehose();
    metrics
}

/// Makes metrics for which everything was reported.
fn told() -> Metrics {
    let metrics = fresh();
    let now = UnixMillis(1_723_136_050_000);
    metrics.event_delay(POOL, Duration::from_secs(7));
    metrics.pool_up(POOL, true);
    metrics.users(POOL, UserCounts { ok: 3, missing: 2, failing: 1 });
    metrics.oldest_poll(POOL, Some(now));
    metrics.poll_objective(POOL, Duration::from_secs(3600));
    metrics.forecast(
        POOL,
        PollForecast {
            round: Some(Duration::from_secs(33 * 60)),
            event_delay: Some(Duration::from_secs(600)),
            required_per_second: Some(2.5),
        },
    );
    metrics.discovery_succeeded(POOL, now);
    metrics.discovery_progress(POOL, 6);
    metrics.discovery_delay(POOL, Duration::from_secs(70));
    metrics.catching_up(POOL, false);
    metrics.export_up(POOL, true);
    metrics.export_delay(POOL, Duration::from_secs(3));
    metrics.export_read_until(POOL, now);
    let took = Duration::from_millis(80);
    metrics.api_request(Some("123456789012"), "eu-west-1", Operation::ListUsers, CallOutcome::Ok, took);
    metrics.api_budget(Some("123456789012"), "eu-west-1", 2.5);
    metrics.api_limit(Some("123456789012"), "eu-west-1", AccountLimit { per_second: 50.0, read: Some(now) });
    metrics.progress(Stage::Poll, now);
    metrics.outbox(OutboxSize { records: 2, bytes: 900, oldest: Some(now) });
    metrics.outbox_limit(1 << 30);
    metrics.quarantined_records(0);
    metrics.state_size(4096);
    metrics
}

/// The parsed exposition: the type of each family and the value of each sample.
struct Exposed {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

fn exposed(metrics: &Metrics) -> Exposed {
    let text = metrics.render();
    let types = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let twice = samples.insert(series.to_owned(), value.parse().unwrap());
        assert_eq!(twice, None, "{series} is there once");
    }
    Exposed { types, samples }
}

impl Exposed {
    /// Returns the label names of a family's samples, in their order, without a histogram's `le`.
    fn labels(&self, family: &str) -> BTreeSet<String> {
        self.of(family)
            .map(|(series, _)| {
                let labels = series.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
                let names: Vec<&str> = labels
                    .split("\",")
                    .filter_map(|pair| pair.split_once('='))
                    .map(|(name, _)| name)
                    .filter(|name| *name != "le")
                    .collect();
                names.join(",")
            })
            .collect()
    }

    fn of<'a>(&'a self, family: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.samples.iter().map(|(series, value)| (series.as_str(), *value)).filter(move |(series, _)| {
            let name = series.split('{').next().unwrap();
            let stem = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|stem| self.types.get(*stem).is_some_and(|kind| kind == "histogram"));
            stem.unwrap_or(name) == family
        })
    }

    fn value(&self, series: &str) -> Option<f64> {
        self.samples.get(series).copied()
    }
}

#[test]
fn names_types_and_labels_are_the_documented_ones() {
    let exposed = exposed(&told());
    for (name, kind, labels, _) in DOCUMENTED {
        assert_eq!(exposed.types.get(*name).map(String::as_str), Some(*kind), "{name}");
        assert_eq!(exposed.labels(name), BTreeSet::from([(*labels).to_owned()]), "{name}");
    }
    let documented: BTreeSet<&str> = DOCUMENTED.iter().map(|(name, ..)| *name).collect();
    assert_eq!(documented.len(), DOCUMENTED.len());
    for name in exposed.types.keys() {
        assert!(documented.contains(name.as_str()) || name.starts_with("process_"), "{name} is not documented");
    }
    if cfg!(target_os = "linux") {
        for name in ["process_start_time_seconds", "process_resident_memory_bytes", "process_open_fds"] {
            assert!(exposed.types.contains_key(name), "{name}");
        }
    }
}

#[test]
fn a_counter_is_there_from_the_start_and_a_gauge_once_it_is_known() {
    let exposed = exposed(&fresh());
    for (name, kind, _, from_the_start) in DOCUMENTED {
        assert_eq!(exposed.types.contains_key(*name), *from_the_start, "{name}");
        assert!(*from_the_start || *kind == "gauge", "{name}");
        if *kind != "gauge" {
            assert!(exposed.of(name).all(|(_, value)| value == 0.0), "{name} starts at 0");
        }
    }
}

/// A label and its values.
type Words = (&'static str, &'static [&'static str]);

/// Returns every combination of the values, as the text format writes it.
fn combinations(name: &str, labels: &[Words]) -> BTreeSet<String> {
    let mut rows = vec![String::new()];
    for (label, words) in labels {
        rows = rows.iter().flat_map(|row| words.iter().map(move |word| format!("{row},{label}=\"{word}\""))).collect();
    }
    rows.iter().map(|row| format!("{name}{{{}}}", &row[1..])).collect()
}

#[test]
fn every_documented_combination_is_there_at_zero() {
    let pool: Words = ("user_pool_id", &[POOL]);
    let event_type: Words =
        ("event_type", &["SignIn", "SignUp", "ForgotPassword", "PasswordChange", "ResendCode", "none"]);
    let response: Words = ("event_response", &["Pass", "Fail", "InProgress", "none"]);
    let decision: Words = ("risk_decision", &["NoRisk", "AccountTakeover", "Block", "none"]);
    let level: Words = ("risk_level", &["Low", "Medium", "High", "none"]);
    let risk: Words = ("risk_decision", &["AccountTakeover", "Block"]);
    let table: &[(&str, &[Words])] = &[
        ("cognito_auth_events_total", &[pool, event_type, response, decision]),
        ("cognito_auth_superseded_outcomes_total", &[pool, event_type, response, decision]),
        ("cognito_auth_unfinished_events_total", &[pool, event_type, decision]),
        ("cognito_auth_risk_events_total", &[pool, event_type, response, level, risk]),
        ("cognito_auth_compromised_credentials_events_total", &[pool, event_type, response]),
        (
            "cognito_auth_challenges_total",
            &[
                pool,
                ("challenge_name", &["Password", "Mfa", "none"]),
                ("challenge_response", &["Success", "Failure", "none"]),
            ],
        ),
        ("cognito_auth_feedback_total", &[pool, ("feedback_value", &["Valid", "Invalid"])]),
        ("cognito_auth_history_events_total", &[pool]),
        ("cognito_exporter_fetched_events_total", &[pool, ("result", &["new", "revision", "known", "history"])]),
        (
            "cognito_exporter_api_requests_total",
            &[
                ("account_id", &["123456789012"]),
                ("region", &["eu-west-1"]),
                (
                    "operation",
                    &[
                        "AdminListUserAuthEvents",
                        "ListUsers",
                        "ListUsersInGroup",
                        "DescribeUserPool",
                        "GetProvisionedLimit",
                        "GetLogDeliveryConfiguration",
                        "FilterLogEvents",
                    ],
                ),
                ("outcome", &["ok", "throttled", "denied", "not_found", "timeout", "error"]),
            ],
        ),
        ("cognito_exporter_otlp_requests_total", &[("outcome", &["ok", "retry", "refused"])]),
        ("cognito_exporter_otlp_records_total", &[("outcome", &["accepted", "rejected", "quarantined"])]),
        ("cognito_exporter_paused", &[("reason", &["outbox_full", "quarantine_full", "state_error"])]),
        (
            "cognito_exporter_export_records_total",
            &[pool, ("result", &["new", "revision", "known", "unselected", "late", "unreadable"])],
        ),
        ("cognito_exporter_export_audited_events_total", &[pool]),
        ("cognito_exporter_export_missed_events_total", &[pool]),
        ("cognito_exporter_firehose_requests_total", &[("outcome", &["ok", "unauthorized", "invalid", "busy"])]),
    ];
    let exposed = exposed(&fresh());
    for (name, labels) in table {
        let there: BTreeSet<String> = exposed.of(name).map(|(series, _)| series.to_owned()).collect();
        let mut documented = combinations(name, labels);
        if *name == "cognito_exporter_export_records_total" {
            documented.insert(format!("{name}{{user_pool_id=\"\",result=\"unreadable\"}}"));
        }
        assert_eq!(there, documented, "{name}");
        assert!(exposed.of(name).all(|(_, value)| value == 0.0), "{name}");
    }
}

const fn signed_in(response: Label<EventResponse>) -> Series {
    Series::Events(Outcome {
        event_type: Label::Known(EventType::SignIn),
        response,
        decision: Label::Known(RiskDecision::NoRisk),
    })
}

fn signed_in_name(response: &str) -> String {
    format!(
        "cognito_auth_events_total{{user_pool_id=\"{POOL}\",event_type=\"SignIn\",event_response=\"{response}\",risk_decision=\"NoRisk\"}}"
    )
}

#[test]
fn totals_are_what_the_ledger_says_and_never_fall() {
    let metrics = fresh();
    let passed = signed_in(Label::Known(EventResponse::Pass));
    let unknown = signed_in(Label::Other);
    metrics.totals(POOL, &[(passed, 40)]);
    metrics.totals(POOL, &[(passed, 42), (unknown, 1)]);
    let exposed_before = exposed(&metrics);
    assert_eq!(exposed_before.value(&signed_in_name("Pass")), Some(42.0));
    assert_eq!(exposed_before.value(&signed_in_name("other")), Some(1.0));
    assert_eq!(exposed_before.value(&signed_in_name("Fail")), Some(0.0));

    // Reported again, and reported late.
    metrics.totals(POOL, &[(passed, 42), (unknown, 1)]);
    metrics.totals(POOL, &[(passed, 41)]);
    let exposed_after = exposed(&metrics);
    assert_eq!(exposed_after.value(&signed_in_name("Pass")), Some(42.0));
    assert_eq!(exposed_after.value(&signed_in_name("other")), Some(1.0));
}

#[test]
fn a_pool_that_leaves_takes_its_series_with_it_and_reports_about_it_do_nothing() {
    let metrics = told();
    metrics.remove_pool(POOL);
    metrics.totals(POOL, &[(signed_in(Label::Absent), 1)]);
    metrics.pool_up(POOL, false);
    assert!(!metrics.render().contains(POOL));
}

#[test]
fn a_pool_without_an_export_shows_nothing_of_one() {
    let metrics = Metrics::new(UnixMillis(0));
    metrics.add_pool(&identity());
    metrics.export_up(POOL, true);
    metrics.export_records(POOL, ExportResult::New, 1);
    metrics.firehose_request(FirehoseOutcome::Ok);
    let shows = |metrics: &Metrics| {
        let text = metrics.render();
        (text.contains("cognito_exporter_export_"), text.contains("cognito_exporter_firehose_"))
    };
    assert_eq!(shows(&metrics), (false, false));
    metrics.add_export(POOL);
    assert_eq!(shows(&metrics), (true, false));
    metrics.add_firehose();
    assert_eq!(shows(&metrics), (true, true));
}

#[test]
fn the_reports_of_an_export_add_up_until_it_leaves() {
    let metrics = fresh();
    for _ in 0..2 {
        metrics.add_export(POOL);
        metrics.add_firehose();
        metrics.export_records(POOL, ExportResult::Known, 3);
        metrics.export_records("", ExportResult::Unreadable, 2);
        metrics.export_audited(POOL, 20, 1);
        metrics.export_up(POOL, false);
        metrics.export_delay(POOL, Duration::from_secs(40));
        metrics.firehose_request(FirehoseOutcome::Busy);
    }
    let exposed_before = exposed(&metrics);
    for (series, value) in [
        ("export_records_total{user_pool_id=\"eu-west-1_Abc123\",result=\"known\"}", 6.0),
        ("export_records_total{user_pool_id=\"\",result=\"unreadable\"}", 4.0),
        ("export_audited_events_total{user_pool_id=\"eu-west-1_Abc123\"}", 40.0),
        ("export_missed_events_total{user_pool_id=\"eu-west-1_Abc123\"}", 2.0),
        ("export_up{user_pool_id=\"eu-west-1_Abc123\"}", 0.0),
        ("export_delay_seconds_bucket{user_pool_id=\"eu-west-1_Abc123\",le=\"30\"}", 0.0),
        ("export_delay_seconds_bucket{user_pool_id=\"eu-west-1_Abc123\",le=\"60\"}", 2.0),
        ("firehose_requests_total{outcome=\"busy\"}", 2.0),
    ] {
        assert_eq!(exposed_before.value(&format!("cognito_exporter_{series}")), Some(value), "{series}");
    }
    metrics.remove_export(POOL);
    let exposed_after = exposed(&metrics);
    assert_eq!(exposed_after.of("cognito_exporter_export_up").count(), 0);
    let records: Vec<_> = exposed_after.of("cognito_exporter_export_records_total").collect();
    assert_eq!(records.len(), 1, "what belongs to no pool stays: {records:?}");
}

#[test]
fn a_pool_added_again_is_renamed_and_keeps_its_totals() {
    let metrics = fresh();
    metrics.totals(POOL, &[(signed_in(Label::Known(EventResponse::Pass)), 1)]);
    metrics.add_pool(&PoolIdentity { name: "customers".into(), ..identity() });
    let exposed = exposed(&metrics);
    assert_eq!(exposed.value(&signed_in_name("Pass")), Some(1.0));
    assert_eq!(
        exposed.of("cognito_exporter_pool_info").map(|(series, _)| series).collect::<Vec<_>>(),
        [format!(
            "cognito_exporter_pool_info{{user_pool_id=\"{POOL}\",user_pool_name=\"customers\",region=\"eu-west-1\",\
             account_id=\"123456789012\"}}"
        )]
    );
}

#[test]
fn where_only_seen_series_are_shown_an_outcome_comes_with_its_superseded_counter() {
    let metrics = fresh();
    let all = exposed(&metrics).of("cognito_auth_events_total").count();
    metrics.zero_series(ZeroSeries::Seen);
    assert_eq!(exposed(&metrics).of("cognito_auth_events_total").count(), 0);
    metrics.totals(POOL, &[(signed_in(Label::Known(EventResponse::Pass)), 2)]);
    let exposed = exposed(&metrics);
    let seen = signed_in_name("Pass");
    assert_eq!(exposed.of("cognito_auth_events_total").collect::<Vec<_>>(), [(seen.as_str(), 2.0)]);
    let superseded = seen.replace("events_total", "superseded_outcomes_total");
    let shown: Vec<_> = exposed.of("cognito_auth_superseded_outcomes_total").collect();
    assert_eq!(shown, [(superseded.as_str(), 0.0)]);
    assert_eq!(exposed.of("cognito_auth_risk_events_total").count(), 0);
    assert!(exposed.of("cognito_exporter_fetched_events_total").count() > 0, "the exporter's own series stay");
    assert!(all > 50, "{all}");
}

#[test]
fn pools_whose_labels_read_the_same_when_run_together_stay_apart() {
    let metrics = Metrics::new(UnixMillis(0));
    for (id, name) in [("r_A", "Bc"), ("r_AB", "c")] {
        metrics.add_pool(&PoolIdentity { id: id.into(), name: name.into(), ..identity() });
    }
    assert_eq!(exposed(&metrics).of("cognito_exporter_pool_info").count(), 2);
}

#[test]
fn delays_fall_into_the_documented_buckets() {
    let metrics = fresh();
    metrics.event_delay(POOL, Duration::from_secs(5));
    metrics.event_delay(POOL, Duration::from_secs(100_000));
    let exposed = exposed(&metrics);
    let buckets: Vec<(f64, f64)> =
        ["5", "15", "30", "60", "120", "300", "600", "1800", "3600", "7200", "21600", "86400"]
            .iter()
            .map(|le| {
                let series = format!("cognito_auth_event_delay_seconds_bucket{{user_pool_id=\"{POOL}\",le=\"{le}\"}}");
                (le.parse().unwrap(), exposed.value(&series).unwrap())
            })
            .collect();
    assert!(buckets.iter().all(|(_, count)| *count == 1.0), "{buckets:?}");
    let all = format!("cognito_auth_event_delay_seconds_bucket{{user_pool_id=\"{POOL}\",le=\"+Inf\"}}");
    assert_eq!(exposed.value(&all), Some(2.0));
}

#[test]
fn a_failed_reload_keeps_the_time_of_the_last_success() {
    let metrics = fresh();
    metrics.config_reloaded(false, UnixMillis(1_800_000_000_000));
    let exposed = exposed(&metrics);
    assert_eq!(exposed.value("cognito_exporter_config_last_reload_successful"), Some(0.0));
    assert_eq!(exposed.value("cognito_exporter_config_last_reload_success_timestamp_seconds"), Some(1_723_136_049.929));
}

#[test]
fn an_empty_outbox_has_no_oldest_record() {
    let metrics = told();
    metrics.outbox(OutboxSize::default());
    let exposed = exposed(&metrics);
    assert_eq!(exposed.value("cognito_exporter_outbox_records"), Some(0.0));
    assert_eq!(exposed.value("cognito_exporter_outbox_oldest_timestamp_seconds"), None);
}

#[test]
fn promtool_finds_nothing_to_say() {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match spawned {
        Ok(promtool) => promtool,
        Err(error) if std::env::var_os("CI").is_none_or(|ci| ci != "true") => {
            eprintln!("skipped: promtool does not start: {error}");
            return;
        }
        Err(error) => panic!("promtool does not start: {error}"),
    };
    let metrics = told();
    let mut input = promtool.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, metrics.render().as_bytes()).unwrap();
    drop(input);
    let output = promtool.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// Gives families to a registry.
struct ParsedFamilies(Vec<MetricFamily>);

impl Collector for ParsedFamilies {
    fn desc(&self) -> Vec<&Desc> {
        vec![]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.clone()
    }
}

/// Reads the labels between the braces, with their escapes.
fn parsed_labels(mut text: &str) -> Vec<proto::LabelPair> {
    let mut labels = vec![];
    while let Some((name, rest)) = text.split_once("=\"") {
        let (mut value, mut rest) = (String::new(), rest.chars());
        loop {
            match rest.next().unwrap() {
                '"' => break,
                '\\' => {
                    let escaped = rest.next().unwrap();
                    value.push(if escaped == 'n' { '\n' } else { escaped });
                }
                plain => value.push(plain),
            }
        }
        let mut label = proto::LabelPair::default();
        label.set_name(name.trim_start_matches(',').to_owned());
        label.set_value(value);
        labels.push(label);
        text = rest.as_str();
    }
    labels
}

/// Reads the text format into the crate's types. It knows what the exporter writes: no timestamps, no summaries.
fn parsed(text: &str) -> Vec<MetricFamily> {
    let mut families: Vec<MetricFamily> = vec![];
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            families.push(family);
            continue;
        }
        let family = families.last_mut().unwrap();
        if let Some(named) = line.strip_prefix("# TYPE ") {
            family.set_field_type(match named.split_once(' ').unwrap().1 {
                "counter" => MetricType::COUNTER,
                "gauge" => MetricType::GAUGE,
                "histogram" => MetricType::HISTOGRAM,
                other => panic!("{other}"),
            });
            continue;
        }
        let (series, number) = line.rsplit_once(' ').unwrap();
        let value: f64 = number.parse().unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut labels = parsed_labels(&labels[..labels.len() - 1]);
        let family_type = family.get_field_type();
        let samples = family.mut_metric();
        if family_type != MetricType::HISTOGRAM {
            let mut sample = proto::Metric::default();
            sample.set_label(labels);
            if family_type == MetricType::COUNTER {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
            } else {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
            }
            samples.push(sample);
            continue;
        }
        let bound = name.ends_with("_bucket").then(|| labels.pop().unwrap());
        if samples.last().is_none_or(|last| last.get_label() != labels) {
            let mut sample = proto::Metric::default();
            sample.set_label(labels);
            sample.set_histogram(proto::Histogram::default());
            samples.push(sample);
        }
        let mut histogram = samples.last().unwrap().get_histogram().clone();
        match bound {
            Some(bound) if bound.value() == "+Inf" => {}
            Some(bound) => {
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(bound.value().parse().unwrap());
                bucket.set_cumulative_count(number.parse().unwrap());
                let mut buckets = histogram.get_bucket().to_vec();
                buckets.push(bucket);
                histogram.set_bucket(buckets);
            }
            None if name.ends_with("_sum") => histogram.set_sample_sum(value),
            None => histogram.set_sample_count(number.parse().unwrap()),
        }
        samples.last_mut().unwrap().set_histogram(histogram);
    }
    families
}

/// The crate's encoder and the sorting of its registry decide what is right, here with everything in reverse order.
#[test]
fn the_text_is_what_the_prometheus_crate_would_write() {
    let metrics = told();
    for (id, name) in [("r_AB", "c\\d\n\"e\""), ("r_A", "Bc"), ("r_A-", "x y"), ("r_A_", "!"), ("r_B", "\\n\\")] {
        metrics.add_pool(&PoolIdentity { id: id.into(), name: name.into(), ..identity() });
        let passed = signed_in(Label::Known(EventResponse::Pass));
        metrics.totals(
            id,
            &[(signed_in(Label::Other), 7), (passed, u64::MAX), (Series::History, 1_723_136_049_929_000_001)],
        );
        metrics.event_delay(id, Duration::from_millis(7123));
        metrics.add_export(id);
        metrics.export_records(id, ExportResult::Late, 2);
        metrics.export_audited(id, 2, 1);
        metrics.users(id, UserCounts { ok: 3, missing: 2, failing: 1 });
        metrics.page_taken(id, PageEvents { new: 1, revisions: 2, known: 3, history: 4, late: 5, out_of_order: true });
    }
    for stage in [Stage::Poll, Stage::Commit, Stage::Deliver] {
        metrics.progress(stage, UnixMillis(1_723_136_050_123));
    }
    let took = Duration::from_millis(33);
    metrics.api_request(None, "eu-west-2", Operation::ListUsers, CallOutcome::Throttled, took);
    metrics.api_budget(Some("1"), "eu-west-2", 1e21);
    metrics.api_budget(Some("2"), "eu-west-2", 1e-9);

    let text = metrics.render();
    let mut families = parsed(&text);
    families.reverse();
    families.iter_mut().for_each(|family| family.mut_metric().reverse());
    let registry = Registry::new();
    registry.register(Box::new(ParsedFamilies(families))).unwrap();
    let expected = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for (line, expected) in text.lines().zip(expected.lines()) {
        assert_eq!(line, expected);
    }
    assert_eq!(text.len(), expected.len());
}
