//! What the chart refuses to change under pods that run. Helm asks a Kubernetes API on loopback, which has one workload.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::{CHART, NAME, root, tools, with_values};

const NAMESPACE: &str = "identity";

/// The kinds of objects that the chart makes by default, by the path of their group and version.
const KINDS: [(&str, &[&str]); 4] = [
    ("/api/v1", &["ConfigMap", "PersistentVolumeClaim", "Pod", "Service", "ServiceAccount"]),
    ("/apis/apps/v1", &["Deployment", "StatefulSet"]),
    ("/apis/networking.k8s.io/v1", &["NetworkPolicy"]),
    ("/apis/policy/v1", &["PodDisruptionBudget"]),
];

fn resources(path: &str, kinds: &[&str]) -> Value {
    let group_version = path.trim_start_matches("/apis/").trim_start_matches("/api/");
    let resources: Vec<Value> = kinds
        .iter()
        .map(|kind| {
            let name = format!("{}s", kind.to_lowercase());
            json!({ "kind": kind, "name": name, "singularName": "", "namespaced": true, "verbs": ["get"] })
        })
        .collect();
    json!({ "kind": "APIResourceList", "groupVersion": group_version, "resources": resources })
}

/// Answers as a cluster with this workload, for as long as the test's process runs.
fn cluster_with(workload: &Value) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let workload = workload.clone();
    std::thread::spawn(move || {
        // A thread for each connection, because a client may open one that it does not use.
        for connection in listener.incoming().map_while(Result::ok) {
            let workload = workload.clone();
            std::thread::spawn(move || answer(&connection, &workload));
        }
    });
    address
}

/// Answers one request. Helm asks for the version, for the kinds of objects, and for the objects that templates look up.
fn answer(connection: &TcpStream, workload: &Value) {
    let mut lines = BufReader::new(connection).lines();
    // A client that connects and asks nothing is answered nothing.
    let Some(Ok(request)) = lines.next() else { return };
    lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
    let path = request.split([' ', '?']).nth(1).unwrap_or_default();
    let own = format!(
        "/apis/apps/v1/namespaces/{NAMESPACE}/{}s/{NAME}",
        workload["kind"].as_str().unwrap_or_default().to_lowercase()
    );
    let body = match path {
        "/version" => json!({ "major": "1", "minor": "31", "gitVersion": "v1.31.0" }),
        "/api" => json!({ "kind": "APIVersions", "versions": ["v1"] }),
        "/apis" => {
            let groups = KINDS.iter().filter_map(|(path, _)| path.strip_prefix("/apis/")?.strip_suffix("/v1"));
            let groups: Vec<Value> = groups
                .map(|name| {
                    let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
                    json!({ "name": name, "versions": [version], "preferredVersion": version })
                })
                .collect();
            json!({ "kind": "APIGroupList", "groups": groups })
        }
        path if path == own => workload.clone(),
        path => match KINDS.iter().find(|(known, _)| *known == path) {
            Some((_, kinds)) => resources(path, kinds),
            None => json!({ "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404 }),
        },
    };
    let status = if body["code"] == 404 { "404 Not Found" } else { "200 OK" };
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    // A client that has gone needs no answer.
    let mut reply = connection;
    let _ = reply.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes());
}

/// A workload as a cluster has it: what it should run, and what runs.
fn workload(kind: &str, replicas: u32, running: u32, count: Option<&str>) -> Value {
    let count = count.map(|count| json!({ "name": "COGNITO_EXPORTER_SHARD__COUNT", "value": count }));
    let env: Vec<Value> = count.into_iter().collect();
    json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": { "name": NAME, "namespace": NAMESPACE },
        "spec": { "replicas": replicas, "template": { "spec": { "containers": [{ "name": "exporter", "env": env }] } } },
        "status": { "replicas": running },
    })
}

/// Renders the chart as an upgrade in a cluster with this workload.
fn upgrade(home: &Path, workload: &Value, values: &[&str]) -> Output {
    let address = cluster_with(workload);
    let kubeconfig = home.join("kubeconfig");
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "it", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "it", "user": {} }],
        "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
        "current-context": "it",
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let arguments = ["template", NAME, CHART, "--namespace", NAMESPACE, "--is-upgrade", "--dry-run=server"];
    Command::new("helm")
        .args(with_values(&arguments, values))
        .arg("--disable-openapi-validation")
        .current_dir(root())
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", home)
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("HELM_NAMESPACE")
        .output()
        .unwrap()
}

#[test]
fn the_number_of_shards_is_not_changed_while_pods_run() {
    if tools().is_none() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    for (live, values, said) in [
        (workload("StatefulSet", 1, 1, None), &["shards=3"][..], Some("shards is 3 now, and pods run (1)")),
        (workload("StatefulSet", 3, 3, Some("3")), &["shards=1"], Some("share the users among 3")),
        (workload("StatefulSet", 3, 3, Some("3")), &["shards=2", "stopped=true"], Some("stopped=true; then wait")),
        // The last pods still end.
        (workload("StatefulSet", 0, 2, Some("3")), &["shards=2"], Some("pods run (2)")),
        // The pods are about to start.
        (workload("StatefulSet", 1, 0, None), &["shards=2"], Some("pods run (1)")),
        (
            workload("StatefulSet", 1, 1, None),
            &["kind=Deployment"],
            Some("The StatefulSet cognito-auth-exporter still"),
        ),
        (workload("Deployment", 1, 1, None), &[], Some("and kind is StatefulSet now")),
        (workload("StatefulSet", 1, 1, None), &[], None),
        (workload("StatefulSet", 3, 3, Some("3")), &["shards=3"], None),
        (workload("StatefulSet", 3, 3, Some("3")), &["shards=3", "stopped=true"], None),
        (workload("StatefulSet", 0, 0, Some("3")), &["shards=2"], None),
        (workload("StatefulSet", 0, 0, None), &["kind=Deployment"], None),
        (json!({}), &["shards=3"], None),
    ] {
        let output = upgrade(home.path(), &live, values);
        let stderr = String::from_utf8_lossy(&output.stderr);
        match said {
            Some(said) => assert!(!output.status.success() && stderr.contains(said), "{live} {values:?}: {stderr}"),
            None => assert!(output.status.success(), "{live} {values:?}: {stderr}"),
        }
    }
}
