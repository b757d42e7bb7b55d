//! The dashboards and rules use metrics and labels that the built binary exports, and a real Prometheus answers their
//! queries.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_simulator::export::ExportSettings;
use cognito_auth_simulator::population::Population;
use cognito_auth_simulator::quota::Quotas;
use cognito_auth_simulator::{Options, Simulation};
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

use crate::exporter;
use crate::exporter::{Exporter, PATIENCE};
use crate::peers;
use crate::prometheus::Server;
use crate::rules;

const POOL: &str = "eu-west-1_Dashboard";

const DASHBOARDS: [&str; 2] = ["sign-in-security.json", "exporter-health.json"];

/// Labels that Prometheus adds to each scraped series, some of them in Kubernetes or with several clusters only.
const OF_PROMETHEUS: [&str; 5] = ["job", "instance", "pod", "namespace", "cluster"];

/// Metrics of other programs and of Prometheus itself, and their labels.
const OF_OTHERS: [&str; 5] = [
    "ALERTS",
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    "probe_ssl_earliest_cert_expiry",
    "certmanager_certificate_expiration_timestamp_seconds",
];
const LABELS_OF_OTHERS: [&str; 5] = ["alertname", "alertstate", "severity", "persistentvolumeclaim", "name"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards")
}

fn dashboard(file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join(file)).unwrap()).unwrap()
}

/// The panels outside and inside of rows.
fn panels(dashboard: &Value) -> Vec<Value> {
    let all = dashboard["panels"].as_array().unwrap();
    let inside = all.iter().filter_map(|panel| panel["panels"].as_array()).flatten();
    all.iter().filter(|panel| panel["type"] != "row").chain(inside).cloned().collect()
}

/// Every query of a kind, with its panel.
fn queries(kind: &str) -> Vec<(String, String)> {
    let mut queries = vec![];
    for panel in DASHBOARDS.iter().flat_map(|file| panels(&dashboard(file))) {
        for target in panel["targets"].as_array().unwrap() {
            if target["datasource"]["type"] == kind {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                queries.push((text(&panel["title"]), text(&target["expr"])));
            }
        }
    }
    queries
}

/// A query as Grafana would send it, with intervals for a few seconds of scrapes.
fn interpolated(expr: &str) -> String {
    let expr = expr.replace("$__rate_interval", "10s").replace("$__range", "5m");
    ["$cluster", "$namespace", "$job", "$pool"].iter().fold(expr, |expr, variable| expr.replace(variable, ".*"))
}

/// The width of a title on a screen of 1,280 pixels, and the room for it: a column has 50 of them, and the margins and the
/// panel's icons take 60.
fn title_fits(title: &str, columns: u64) -> bool {
    const PIXELS_OF_TWO_CHARACTERS: u64 = 15;
    title.chars().count() as u64 * PIXELS_OF_TWO_CHARACTERS <= 2 * (50 * columns - 60)
}

#[test]
fn every_panel_can_be_read_and_every_dashboard_can_be_used() {
    let mut uids = BTreeSet::new();
    for file in DASHBOARDS {
        let dashboard = dashboard(file);
        assert!(uids.insert(dashboard["uid"].as_str().unwrap().to_owned()), "{file} has a uid of its own");
        let variables: Vec<_> =
            dashboard["templating"]["list"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        for name in ["datasource", "logs", "service_name", "cluster", "namespace", "job", "pool"] {
            assert!(variables.iter().any(|variable| *variable == name), "{file} has no variable {name}");
        }
        let panels = panels(&dashboard);
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{file}: ids are unique");
        for panel in &panels {
            let title = panel["title"].as_str().unwrap();
            assert!(panel["description"].as_str().unwrap().len() > 10, "{file}: {title} does not say what it shows");
            assert!(["${datasource}", "${logs}"].contains(&panel["datasource"]["uid"].as_str().unwrap()), "{title}");
            let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{title} does not fit");
            assert!(title_fits(title, place("w")), "{title}: the title does not fit");
        }
        let rows = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] == "row");
        let closed: Vec<_> = rows.map(|row| row["collapsed"].as_bool().unwrap()).collect();
        assert!(closed.len() > 3 && !closed[0] && closed[1..].iter().all(|closed| *closed), "{file}: {closed:?}");
        let marks = dashboard["annotations"]["list"].as_array().unwrap().iter();
        let marks: Vec<_> = marks.map(|mark| mark["name"].as_str().unwrap()).collect();
        assert_eq!(marks, ["Restart", "Ledger rebuilt", "Paused"], "{file}");
    }
    let linked = panels(&dashboard(DASHBOARDS[0]));
    let linked =
        linked.iter().filter(|panel| panel["links"][0]["url"].as_str().is_some_and(|url| url.starts_with("/explore?")));
    assert!(linked.count() > 10, "what is about events links to their records");
}

/// Red beside green tells nothing to one man in twelve.
#[test]
fn no_colour_is_red_or_green() {
    for file in DASHBOARDS {
        let text = std::fs::read_to_string(folder().join(file)).unwrap();
        for colour in ["red", "green"] {
            assert!(!text.contains(&format!("\"{colour}\"")), "{file} has {colour}");
        }
    }
}

/// A pool is shown by its name, and queried by its id.
#[test]
fn pools_are_chosen_and_shown_by_their_names() {
    for file in DASHBOARDS {
        let dashboard = dashboard(file);
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let pool = variables.iter().find(|variable| variable["name"] == "pool").unwrap();
        assert!(pool["query"]["query"].as_str().unwrap().starts_with("query_result("), "{file}");
        let regex = pool["regex"].as_str().unwrap();
        assert!(regex.contains("user_pool_name=\"(?<text>") && regex.contains("user_pool_id=\"(?<value>"), "{regex}");
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().unwrap() {
                let legend = target["legendFormat"].as_str().unwrap();
                // The alerts' row has no join: an alert may be about no pool.
                assert!(!legend.contains("user_pool_id") || legend.contains("alertname"), "{file}: {legend}");
            }
        }
    }
}

/// A condition on the range shown is asked once, not at each step.
#[test]
fn no_query_asks_for_the_whole_range_at_each_step() {
    for file in DASHBOARDS {
        for panel in panels(&dashboard(file)) {
            for target in panel["targets"].as_array().unwrap() {
                let (expr, is_range) = (target["expr"].as_str().unwrap(), target["range"] == true);
                let at_each_step = expr.matches("[$__range]").count() - expr.matches("[$__range] @ end()").count();
                assert!(!is_range || at_each_step == 0, "{}: {expr}", panel["title"]);
            }
        }
    }
}

#[test]
fn the_dashboards_are_what_their_generator_writes() {
    let Some(python) = peers::python_with("json") else { return };
    let output = Command::new(python).arg(folder().join("generate.py")).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_dashboards_have_no_field_that_grafana_does_not_know() {
    let Some(python) = peers::python_with("grafana_foundation_sdk") else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/grafana_dashboards.py");
    let output = Command::new(python).arg(script).args(DASHBOARDS.map(|file| folder().join(file))).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The metrics and labels in a query.
#[derive(Default)]
struct QueryNames {
    metrics: BTreeSet<String>,
    /// Labels matched, by metric.
    matched: Vec<(String, String)>,
    /// Labels that results are grouped or joined by.
    grouped: BTreeSet<String>,
}

impl QueryNames {
    fn selector(&mut self, selector: &VectorSelector) {
        let name = selector.name.clone().expect("a query names its metric");
        let matchers = selector.matchers.matchers.iter();
        self.matched.extend(matchers.map(|matcher| (name.clone(), matcher.name.clone())));
        self.metrics.insert(name);
    }

    fn modifier(&mut self, modifier: Option<&LabelModifier>) {
        self.grouped.extend(modifier.into_iter().flat_map(|modifier| modifier.labels().labels.clone()));
    }
}

impl ExprVisitor for QueryNames {
    type Error = Infallible;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, Infallible> {
        match expr {
            Expr::VectorSelector(selector) => self.selector(selector),
            Expr::MatrixSelector(matrix) => self.selector(&matrix.vs),
            Expr::Aggregate(aggregate) => self.modifier(aggregate.modifier.as_ref()),
            Expr::Binary(binary) => {
                if let Some(modifier) = &binary.modifier {
                    self.modifier(modifier.matching.as_ref());
                    self.grouped.extend(modifier.card.labels().into_iter().flat_map(|labels| labels.labels.clone()));
                }
            }
            // The walk does not go into a function's arguments.
            Expr::Call(call) => {
                for argument in &call.args.args {
                    walk_expr(self, argument)?;
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

/// Tables that give the last pool an export by both ways, which show the metrics of an export. Polling goes on in full.
pub(crate) fn export_tables(directory: &Path) -> String {
    let keys = directory.join("firehose-keys");
    std::fs::write(&keys, "a key that no stream has, of 32 bytes or more\n").unwrap();
    format!(
        "[pools.export]\nlog_group = \"/aws/vendedlogs/cognito/of-a-test\"\nread_interval = \"1s\"\nfirehose = true\n\
         audit = \"full\"\n[firehose]\nlisten = \"127.0.0.1:0\"\naccess_keys_file = {keys:?}\n"
    )
}

/// An exporter with as many series as possible: an active pool with an export, and a receiver that is unreachable.
async fn busy_exporter(directory: &Path) -> (Simulation, Exporter) {
    let simulation = Simulation::start(Options { quotas: Quotas::unlimited(), ..Options::default() }).await.unwrap();
    let mut people = Population::lively(1, 60);
    simulation.world(|world| people.move_in(world, POOL, Clock::system().now()));
    simulation.enliven(people, Duration::from_millis(200));
    let group = ExportSettings::to_log_group("/aws/vendedlogs/cognito/of-a-test");
    simulation.world(|world| world.export_events(POOL, group));
    let export = export_tables(directory);
    let text = format!(
        "[[pools]]\nid = {POOL:?}\nall_users = true\n{export}[poll]\nrequests_per_second = 40\nmin_interval = \"1s\"\n\
         first_run = \"1h\"\n[otlp]\nendpoint = \"http://127.0.0.1:9\"\n"
    );
    let exporter = Exporter::start(&exporter::configure(directory, &text), &simulation.url());
    exporter.until("everything it shows", |scrape| {
        let shown = |metric: &str| scrape.count(metric, &[]) > 0;
        shown("cognito_exporter_outbox_oldest_timestamp_seconds")
            && shown("cognito_exporter_discovery_last_success_timestamp_seconds")
            && shown("cognito_exporter_pool_up")
            && shown("cognito_exporter_export_read_until_timestamp_seconds")
            && scrape.sum("cognito_auth_events_total", &[]) > 0.5
    });
    (simulation, exporter)
}

/// Each exported metric with its labels, read from the text format.
fn shown(exporter: &Exporter) -> BTreeMap<String, BTreeSet<String>> {
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in exporter.get("/metrics").lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let names = labels.split("\",").filter_map(|pair| pair.split_once('=')).map(|(name, _)| name.to_owned());
        shown.entry(name.to_owned()).or_default().extend(names);
    }
    shown
}

/// The queries of marks in all panels.
fn annotations() -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of_file = |file: &&str| dashboard(file)["annotations"]["list"].as_array().unwrap().clone();
    DASHBOARDS.iter().flat_map(of_file).map(|mark| (text(&mark["name"]), text(&mark["expr"]))).collect()
}

/// Every PromQL query, with its place: rules, panels, variables, annotations, the README.
fn asked() -> Vec<(String, String)> {
    let of_rules = rules::all().into_iter().map(|rule| (rule.alert.or(rule.record).unwrap(), rule.expr));
    let of_variables = DASHBOARDS.iter().flat_map(|file| {
        let variables = dashboard(file)["templating"]["list"].as_array().unwrap().clone();
        variables.into_iter().filter_map(|variable| {
            // label_values(metric, label) counts as grouping by the label.
            let query = variable["query"]["query"].as_str()?;
            if let Some(expr) = query.strip_prefix("query_result(") {
                return Some((query.to_owned(), expr.strip_suffix(')')?.to_owned()));
            }
            let (metric, of) = query.strip_prefix("label_values(")?.trim_end_matches(')').rsplit_once(", ")?;
            Some((query.to_owned(), format!("group by ({of}) ({metric})")))
        })
    });
    let readme = ("the README's first alert".to_owned(), readme_alert());
    of_rules.chain(queries("prometheus")).chain(of_variables).chain(annotations()).chain([readme]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_names_only_metrics_and_labels_that_the_binary_shows() {
    let asked = asked();
    assert!(asked.len() > 80, "{}", asked.len());
    let named: Vec<(String, QueryNames)> = asked
        .into_iter()
        .map(|(who, expr)| {
            let parsed = parser::parse(&interpolated(&expr)).unwrap_or_else(|error| panic!("{who}: {error}: {expr}"));
            let mut named = QueryNames::default();
            walk_expr(&mut named, &parsed).unwrap();
            (who, named)
        })
        .collect();
    let recorded: BTreeSet<_> = rules::all().into_iter().filter_map(|rule| rule.record).collect();

    let directory = tempfile::tempdir().unwrap();
    let (_simulation, exporter) = busy_exporter(directory.path()).await;
    let metrics: BTreeSet<&String> = named.iter().flat_map(|(_, named)| &named.metrics).collect();
    let deadline = Instant::now() + PATIENCE;
    let shown = loop {
        let shown = shown(&exporter);
        let missing = |metric: &&&String| {
            let is_ours = !OF_OTHERS.contains(&metric.as_str());
            is_ours && !shown.contains_key(**metric) && !recorded.contains(**metric)
        };
        let missing: Vec<_> = metrics.iter().filter(missing).collect();
        if missing.is_empty() {
            break shown;
        }
        assert!(Instant::now() < deadline, "asked for, and there is none: {missing:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };

    let every_label: BTreeSet<_> = shown.values().flatten().map(String::as_str).chain(OF_PROMETHEUS).collect();
    for (who, named) in named {
        for (metric, name) in named.matched.iter().filter(|(metric, _)| !OF_OTHERS.contains(&metric.as_str())) {
            let has_label = |labels: &BTreeSet<String>| labels.contains(name) || OF_PROMETHEUS.contains(&name.as_str());
            // A recorded metric has the labels of the metrics in its expression.
            let is_there = shown.get(metric).map_or(every_label.contains(name.as_str()), has_label);
            assert!(is_there, "{who}: {metric} has no label {name}");
        }
        for name in &named.grouped {
            // The rule that groups by `shards` creates this label.
            let is_known = every_label.contains(name.as_str()) || LABELS_OF_OTHERS.contains(&name.as_str());
            assert!(is_known || name == "shards", "{who}: nothing has a label {name}");
        }
    }
}

fn readme_alert() -> String {
    let readme = include_str!("../README.md");
    let expr = readme.lines().find_map(|line| line.trim().strip_prefix("expr: "));
    expr.unwrap().to_owned()
}

/// The part of a query that has a result within the first minute, without the condition that data existed before. None
/// for a comparison with yesterday, for alerts, and for a condition inside of parentheses.
fn answered_at_once(expr: &str) -> Option<&str> {
    let part = expr.split(" and sum by ").next()?;
    let part = part.strip_suffix(" > 0").unwrap_or(part);
    let is_whole = part.matches('(').count() == part.matches(')').count();
    (is_whole && !part.contains("_avg1d") && !part.contains("ALERTS")).then_some(part)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_answers_every_query_of_the_dashboards_and_evaluates_every_rule() {
    if !peers::has("prometheus") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (_simulation, exporter) = busy_exporter(directory.path()).await;
    let rules = rules::folder().join("rules.yml");
    let prometheus = Server::prometheus(directory.path(), &[exporter.listens().unwrap()], &[&rules], None);
    prometheus.until("pool:cognito_sign_ins:increase10m > 0");
    for (title, expr) in queries("prometheus").into_iter().chain(annotations()) {
        let expr = interpolated(&expr);
        prometheus.query(&expr).unwrap_or_else(|error| panic!("{title}: {error}: {expr}"));
        if let Some(part) = answered_at_once(&expr).filter(|_| !["Ledger rebuilt", "Paused"].contains(&title.as_str()))
        {
            println!("{title}: {} series", prometheus.until(part).len());
        }
    }
    for rule in rules::all() {
        prometheus.query(&rule.expr).unwrap_or_else(|error| panic!("{error}: {}", rule.expr));
    }
}

/// OTEL_SERVICE_NAME sets the name of the service. With a name other than the default, the panels of the logs were once
/// blank.
#[test]
fn the_service_of_the_logs_can_be_chosen_and_is_ours_by_default() {
    for file in DASHBOARDS {
        let dashboard = dashboard(file);
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let service = variables.iter().find(|variable| variable["name"] == "service_name").unwrap();
        assert_eq!((&service["type"], &service["query"]), (&"textbox".into(), &env!("CARGO_PKG_NAME").into()));
        assert_eq!(service["current"]["value"], env!("CARGO_PKG_NAME"));
        let text = std::fs::read_to_string(folder().join(file)).unwrap();
        assert!(!text.contains("service_name=\\\""), "{file} has a fixed service");
    }
    for (title, expr) in queries("loki") {
        assert!(expr.contains("{service_name=~\"$service_name\"}"), "{title}: {expr}");
    }
}

/// LogQL filters and groups by attributes of a record, under the names that Loki gives them.
#[test]
fn every_query_of_logs_names_attributes_that_records_have() {
    let page = include_str!("../docs/log-records.md");
    let (_, section) = page.split_once("\n## Log records\n").unwrap();
    let mut documented = BTreeSet::from(["service_name".to_owned(), "severity_text".to_owned()]);
    for row in section.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| `")) {
        let cell = row.split('|').nth(1).unwrap();
        let mut stem = "";
        for name in cell.split('`').skip(1).step_by(2) {
            // `.level` continues the name before it.
            let full = if name.starts_with('.') { format!("{stem}{name}") } else { name.to_owned() };
            if !name.starts_with('.') {
                stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
            }
            documented.insert(full.replace('.', "_"));
        }
    }
    // The hashed attributes, which privacy settings put in place of the plain ones.
    documented.extend(["user_hash", "aws_cognito_client_address_hash"].map(str::to_owned));
    let asked = queries("loki");
    assert!(asked.len() > 5);
    for (title, expr) in asked {
        assert!(expr.contains("$pool"), "{title} is about all pools");
        let words = expr.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
        for word in words.filter(|word| {
            ["aws_", "user_", "client_", "geo_", "severity_"].iter().any(|start| word.starts_with(start))
        }) {
            assert!(documented.contains(word), "{title}: a record has no {word}");
        }
    }
}
