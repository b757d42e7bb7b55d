//! deploy/compose and the image that it builds: valid, pinned, the same on amd64 and arm64, and nothing lost that
//! should last. No test starts a container.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::exporter;
use crate::peers;
use crate::receiver;

const FOLDER: &str = "deploy/compose";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The file as a parser of the Compose Specification reads it, and the Python interpreter that has the parser.
fn compose() -> Option<(PathBuf, Value)> {
    let python = peers::python_with("yaml, compose_spec")?;
    let compose = peers::answer(&python, "compose.py", &[], &read("deploy/compose/compose.yaml"));
    Some((python, compose))
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// The mounts of a service: what is mounted, and where.
fn mounts(service: &Value) -> impl Iterator<Item = (&str, &str)> {
    items(service, "volumes").map(|volume| volume.as_str().unwrap()).map(|volume| {
        let (source, rest) = volume.split_once(':').unwrap();
        (source, rest.trim_end_matches(":ro"))
    })
}

fn services(compose: &Value) -> impl Iterator<Item = (&String, &Value)> {
    compose["services"].as_object().unwrap().iter()
}

#[test]
fn the_file_is_of_the_compose_specification() {
    let Some((python, compose)) = compose() else { return };
    assert_eq!(services(&compose).count(), 6);
    let right = read("deploy/compose/compose.yaml");
    for (there, wrong, said) in [
        ("read_only: true", "read_only: perhaps", "expected a boolean"),
        ("read_only: true", "readonly: true", "does not start with \"x-\""),
        ("stop_grace_period: 30s", "stop_grace_period: long", "duration `long`"),
        ("cap_drop: [\"ALL\"]", "cap_drop: ALL", "expected a set"),
        ("127.0.0.1:9090:9090", "127.0.0.1:web:9090", "error parsing `web`"),
    ] {
        assert!(right.contains(there), "{there}");
        let refusal = peers::refusal(&python, "compose.py", &[], &right.replacen(there, wrong, 1));
        assert!(refusal.contains(said), "{wrong}: {refusal}");
    }
}

/// A digest of an index stands for each platform of the tag, so amd64 and arm64 start alike.
#[test]
fn every_image_is_pinned_by_tag_and_digest_and_no_service_names_a_platform() {
    let Some((_, compose)) = compose() else { return };
    let is_pinned = |image: &str| {
        let Some((name, digest)) = image.split_once("@sha256:") else { return false };
        let tag = name.rsplit_once(':').map(|(_, tag)| tag);
        let is_hexadecimal = digest.chars().all(|char| matches!(char, '0'..='9' | 'a'..='f'));
        tag.is_some_and(|tag| tag.starts_with(|char: char| char.is_ascii_digit() || char == 'v'))
            && digest.len() == 64
            && is_hexadecimal
    };
    let mut digests = BTreeSet::new();
    for (name, service) in services(&compose) {
        assert!(service["platform"].is_null(), "{name}");
        let image = match service.get("build") {
            Some(build) => {
                let default = build["args"]["RUST_IMAGE"].as_str().unwrap();
                default.strip_prefix("${RUST_IMAGE:-").and_then(|image| image.strip_suffix('}')).unwrap()
            }
            None => service["image"].as_str().unwrap(),
        };
        assert!(is_pinned(image), "{name}: {image}");
        digests.insert(image);
    }
    assert_eq!(digests.len(), 6, "{digests:?}");
}

#[test]
fn compose_mounts_what_is_there_and_publishes_on_this_machine_only() {
    let Some((_, compose)) = compose() else { return };
    let mut files = 0;
    for (name, service) in services(&compose) {
        for (source, _) in mounts(service).filter(|(source, _)| source.starts_with('.')) {
            assert!(root().join(FOLDER).join(source).exists(), "{name} mounts {source}");
            files += 1;
        }
        for port in items(service, "ports") {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name} is published to everybody");
        }
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        for other in items(service, "depends_on") {
            assert!(compose["services"].get(other.as_str().unwrap()).is_some(), "{name} waits for {other}");
        }
    }
    assert!(files > 6, "{files}");
}

/// Each program that stores something has a volume, and is told to store it there.
#[test]
fn what_should_last_is_in_a_volume() {
    let Some((python, compose)) = compose() else { return };
    let declared: BTreeSet<&String> = compose["volumes"].as_object().unwrap().keys().collect();
    let mut mounted = BTreeSet::new();
    for (name, service) in services(&compose) {
        for (source, target) in mounts(service).filter(|(source, _)| !source.starts_with('.')) {
            assert_eq!(source, name);
            let command = service["command"].to_string();
            let stores_there = match source {
                "prometheus" => command.contains(&format!("\"--storage.tsdb.path={target}\"")),
                "alertmanager" => command.contains(&format!("\"--storage.path={target}\"")),
                "loki" => {
                    let loki =
                        peers::answer(&python, "manifests.py", &["documents"], &read("deploy/compose/loki.yaml"));
                    let common = &loki[0]["common"];
                    let files = &common["storage"]["filesystem"];
                    [&common["path_prefix"], &files["chunks_directory"], &files["rules_directory"]]
                        .iter()
                        .all(|path| path.as_str().unwrap().starts_with(target))
                }
                // Its default.
                "grafana" => target == "/var/lib/grafana",
                other => panic!("{other} stores nothing that is known of"),
            };
            assert!(stores_there, "{source} does not store in {target}");
            mounted.insert(source.to_owned());
        }
    }
    assert_eq!(mounted.iter().collect::<BTreeSet<_>>(), declared);
    assert_eq!(mounted.len(), 4);
}

/// The addresses between the services: names of services, and ports that these listen on.
#[test]
fn every_service_is_asked_for_by_its_name_and_port() {
    let Some((python, compose)) = compose() else { return };
    let documents = |path: &str| peers::answer(&python, "manifests.py", &["documents"], &read(path))[0].clone();
    let collector = documents("deploy/compose/otel-collector.yaml");
    assert_eq!(collector["exporters"]["otlp_http"]["endpoint"], "http://loki:3100/otlp");
    // A queue in memory would acknowledge what a restart loses.
    assert_eq!(collector["exporters"]["otlp_http"]["sending_queue"], json!({ "enabled": false }));
    assert_eq!(collector["service"]["pipelines"]["logs"]["exporters"], json!(["otlp_http"]));
    assert_eq!(documents("deploy/compose/loki.yaml")["server"]["http_listen_port"], 3100);
    let exporter = &compose["services"]["exporter"]["command"];
    assert_eq!(exporter[4], "http://otel-collector:4318");
    assert_eq!(collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"], "0.0.0.0:4318");
    let prometheus = documents("deploy/compose/prometheus.yml");
    assert_eq!(prometheus["scrape_configs"][0]["static_configs"][0]["targets"], json!(["exporter:10588"]));
    assert_eq!(
        prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"],
        json!(["alertmanager:9093"])
    );
    let sources = documents("deploy/compose/grafana/datasources/datasources.yaml");
    let urls: Vec<&Value> = items(&sources, "datasources").map(|source| &source["url"]).collect();
    assert_eq!(urls, ["http://prometheus:9090", "http://loki:3100"]);
    let dashboards = documents("deploy/compose/grafana/dashboards/dashboards.yaml");
    let folder = dashboards["providers"][0]["options"]["path"].as_str().unwrap();
    assert!(mounts(&compose["services"]["grafana"]).any(|mount| mount == ("../../dashboards", folder)));
    if peers::has("promtool") {
        let file = root().join(FOLDER).join("prometheus.yml");
        let output = Command::new("promtool").args(["check", "config", "--syntax-only"]).arg(file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// cargo finds each package in what docker sends to the build.
#[test]
fn the_image_is_built_from_all_that_cargo_needs() {
    let context = tempfile::tempdir().unwrap();
    let mut lines = read("deploy/Dockerfile.dockerignore").lines().map(str::to_owned).collect::<Vec<_>>();
    lines.retain(|line| !line.starts_with('#'));
    assert_eq!(lines.remove(0), "*");
    for line in lines {
        let path = line.strip_prefix('!').unwrap();
        let target = context.path().join(path);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let status = Command::new("cp").arg("-r").arg(root().join(path)).arg(&target).status().unwrap();
        assert!(status.success(), "{path}");
    }
    for script in ["cross.sh", "layout.sh", "static.sh"] {
        assert!(context.path().join("deploy").join(script).exists(), "{script}");
    }
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--no-deps", "--format-version", "1"])
        .current_dir(context.path())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let is_built = |target: &&Value| ["lib", "bin"].iter().any(|kind| target["kind"].to_string().contains(kind));
    let mut targets = 0;
    for target in items(&metadata, "packages").flat_map(|package| items(package, "targets")).filter(is_built) {
        assert!(Path::new(target["src_path"].as_str().unwrap()).exists(), "{target}");
        targets += 1;
    }
    assert_eq!(targets, 5, "four libraries and the binary");
}

/// Docker names the platform; the script that builds knows both, and no other.
#[test]
fn the_image_can_be_built_for_either_platform() {
    let dockerfile = read("deploy/Dockerfile");
    let built: Vec<&str> = dockerfile.lines().filter(|line| !line.starts_with('#')).collect();
    for script in ["deploy/cross.sh", "deploy/static.sh"] {
        assert!(built.iter().any(|line| line.contains(&format!("RUN {script} \"${{TARGETARCH}}\""))), "{script}");
        let output = Command::new(root().join(script)).arg("riscv64").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("riscv64 is no architecture that is built; there are amd64 and arm64"), "{said}");
    }
    assert!(!built.iter().any(|line| line.contains("x86_64") || line.contains("aarch64")), "{built:?}");
}

/// Compose starts the demo with a receiver.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_delivers_to_the_receiver_that_it_is_told_of() {
    let receiver = receiver::Receiver::http().await;
    let mut command = exporter::command("http://127.0.0.1:9");
    command.args(["demo", "--listen", "127.0.0.1:0", "--users", "20", "--otlp-endpoint", &receiver.endpoint()]);
    let exporter = exporter::Exporter::started(command);
    exporter.until("a delivery", |scrape| scrape.sum("cognito_exporter_otlp_records_total", &["accepted"]) > 0.0);
    assert!(!receiver.records().is_empty());
}
