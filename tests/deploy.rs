//! The files in deploy/ are valid for Kubernetes, Helm, AWS, systemd and the exporter. The real programs render them,
//! the real schemas check them, and the real configuration loads them.

mod change;
mod chart;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use cognito_auth_exporter::config::{self, Config};
use serde_json::{Value, json};

use crate::peers;

const CHART: &str = "deploy/helm/cognito-auth-exporter";
const NAME: &str = "cognito-auth-exporter";
const STATE: &str = "/var/lib/cognito-auth-exporter";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Every directory for `kubectl apply -k`.
const KUSTOMIZATIONS: [&str; 8] = [
    "base",
    "overlays/deployment",
    "overlays/eks",
    "overlays/firehose",
    "overlays/maintenance",
    "overlays/sharded",
    "overlays/sidecar",
    "overlays/tls",
];

/// The configuration of the base, for which the chart has no default.
const CONFIG: &str = "config=@deploy/kubernetes/base/config.toml";

/// Keys for Firehose, while one replaces the other.
const ACCESS_KEYS: [&str; 2] = [
    "firehose.accessKeys[0]=0123456789abcdef0123456789abcdef",
    "firehose.accessKeys[1]=fedcba9876543210fedcba9876543210",
];

/// A kustomization, and the values with which the chart gives the same documents.
const TWINS: [(&str, &[&str]); 7] = [
    ("base", &[]),
    ("overlays/deployment", &["kind=Deployment"]),
    (
        "overlays/eks",
        &[
            "serviceMonitor.enabled=true",
            "serviceAccount.annotations.eks\\.amazonaws\\.com/role-arn=arn:aws:iam::123456789012:role/cognito-auth-exporter",
        ],
    ),
    (
        "overlays/firehose",
        &[
            "config=@deploy/kubernetes/overlays/firehose/config.toml",
            "firehose.enabled=true",
            "firehose.existingSecret=cognito-auth-exporter-firehose",
            "firehose.ingress.className=nginx",
            "firehose.ingress.host=firehose.example.com",
            "firehose.ingress.tlsSecret=firehose-tls",
        ],
    ),
    ("overlays/maintenance", &["maintenance.enabled=true"]),
    ("overlays/sharded", &["shards=3"]),
    (
        "overlays/tls",
        &[
            "web.existingSecret=cognito-auth-exporter-web",
            "web.certificateSecret=cognito-auth-exporter-tls",
            "serviceMonitor.enabled=true",
            "serviceMonitor.tlsConfig.ca.secret.name=cognito-auth-exporter-tls",
            "serviceMonitor.tlsConfig.ca.secret.key=ca.crt",
            "serviceMonitor.tlsConfig.serverName=cognito-auth-exporter.cognito-auth-exporter.svc",
        ],
    ),
];

/// Values for the settings that the twins leave out. The second has them for everything that the chart's test uses.
const FURTHER_VALUES: [&[&str]; 4] = [
    &["podMonitor.enabled=true", "podMonitor.labels.release=prometheus", "image.tag=1.2.3", "podLabels.team=identity"],
    &[
        "kind=Deployment",
        "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "imagePullSecrets[0].name=pull",
        "networkPolicy.enabled=false",
        "serviceAccount.create=false",
        "serviceAccount.name=own",
        "persistence.storageClassName=gp3",
        "nodeSelector.zone=a",
        "tolerations[0].key=monitoring",
        "tolerations[0].operator=Exists",
        "priorityClassName=monitoring",
        "runtimeClassName=gvisor",
        "dnsPolicy=ClusterFirst",
        "dnsConfig.options[0].name=ndots",
        "hostAliases[0].ip=10.0.0.1",
        "hostAliases[0].hostnames[0]=collector.example.com",
        "podAnnotations.sidecar\\.istio\\.io/inject=false",
        "extraEnv[0].name=COGNITO_EXPORTER_LOG__LEVEL",
        "extraEnv[0].value=debug",
        "extraVolumes[0].name=secrets",
        "extraVolumes[0].secret.secretName=otlp-headers",
        "extraVolumeMounts[0].name=secrets",
        "extraVolumeMounts[0].mountPath=/run/secrets/otlp",
        "firehose.enabled=true",
        "firehose.existingSecret=own-keys",
        "firehose.ingress.enabled=false",
    ],
    &[
        "firehose.enabled=true",
        ACCESS_KEYS[0],
        ACCESS_KEYS[1],
        "firehose.ingress.className=alb",
        "firehose.ingress.host=firehose.example.com",
        "firehose.ingress.annotations.alb\\.ingress\\.kubernetes\\.io/scheme=internet-facing",
        "firehose.ingress.annotations.alb\\.ingress\\.kubernetes\\.io/healthcheck-path=/readyz",
        "firehose.networkPolicyFrom[0].ipBlock.cidr=10.0.0.0/16",
    ],
    &["kind=Deployment", "firehose.enabled=true", ACCESS_KEYS[0], "firehose.ingress.enabled=false"],
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// kubectl, helm, and a Python with Kubernetes' schemas; and all documents.
struct Tools {
    python: PathBuf,
    /// Every way to deploy: its name and its documents.
    all: BTreeMap<String, Vec<Value>>,
}

/// Rendered once.
static TOOLS: LazyLock<Option<Tools>> = LazyLock::new(Tools::render);

impl Tools {
    /// A Python with the schemas, if the other programs are there, too.
    fn find_python() -> Option<PathBuf> {
        let has_both =
            peers::has_that_says("kubectl", &["version", "--client"]) && peers::has_that_says("helm", &["version"]);
        has_both.then(|| peers::python_with("kubernetes_validate, yaml, cloudcoil.models.prometheus_operator"))?
    }

    fn render() -> Option<Self> {
        let python = Self::find_python()?;
        let kustomized = KUSTOMIZATIONS.iter().map(|path| ((*path).to_owned(), kustomize(path)));
        let values = TWINS.iter().map(|(_, values)| *values).chain(FURTHER_VALUES).chain(chart::VALUES);
        let templated = values.map(|values| (chart_with(values), text(template(NAME, values))));
        let texts: BTreeMap<String, String> = kustomized.chain(templated).collect();
        let mut tools = Self { python, all: BTreeMap::new() };
        tools.all = tools.documents_of(&texts);
        assert!(tools.all.values().all(|documents| documents.len() > 3));
        Some(tools)
    }

    fn python(&self, command: &str, input: &str) -> Output {
        peer(&self.python, command, input)
    }

    /// The documents of several texts, each text by its name.
    fn documents_of(&self, texts: &BTreeMap<String, String>) -> BTreeMap<String, Vec<Value>> {
        let rendered = succeeded("rendered", self.python("rendered", &json!(texts).to_string()));
        serde_json::from_slice(&rendered.stdout).unwrap()
    }

    fn documents(&self, yaml: &str) -> Vec<Value> {
        serde_json::from_slice(&succeeded("documents", self.python("documents", yaml)).stdout).unwrap()
    }

    /// Validates documents as the API server would.
    fn validate(&self, documents: &Value) -> Output {
        self.python("validate", &documents.to_string())
    }
}

/// The tools. Without them, None, and the calling test is recorded as skipped.
fn tools() -> Option<&'static Tools> {
    let tools = TOOLS.as_ref();
    if tools.is_none() {
        Tools::find_python();
    }
    tools
}

fn chart_with(values: &[&str]) -> String {
    format!("chart {values:?}")
}

fn peer(python: &Path, command: &str, input: &str) -> Output {
    let script = root().join("tests/peers/manifests.py");
    let mut child = Command::new(python)
        .arg(script)
        .arg(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program reads all of its input before it writes.
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn succeeded(what: &str, output: Output) -> Output {
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(output: Output) -> String {
    String::from_utf8(succeeded("rendering", output).stdout).unwrap()
}

fn kustomize(path: &str) -> String {
    kustomize_directory(&root().join("deploy/kubernetes").join(path))
}

fn kustomize_directory(directory: &Path) -> String {
    text(Command::new("kubectl").arg("kustomize").arg(directory).output().unwrap())
}

/// Runs helm without the user's settings, from the repository's root.
fn helm<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Output {
    Command::new("helm").args(arguments).current_dir(root()).env_remove("HELM_NAMESPACE").output().unwrap()
}

fn template(release: &str, values: &[&str]) -> Output {
    helm(&with_values(&["template", release, CHART], values))
}

/// Arguments with values: `key=@file` is the content of a file. Without a configuration among them, the base's.
fn with_values(arguments: &[&str], values: &[&str]) -> Vec<String> {
    let has_config = values.iter().any(|value| ["config=", "existingConfig"].iter().any(|key| value.starts_with(key)));
    let values: Vec<&str> = (!has_config).then_some(CONFIG).into_iter().chain(values.iter().copied()).collect();
    let of_value = |value: &&str| match value.split_once("=@") {
        Some((key, file)) => ["--set-file".to_owned(), format!("{key}={file}")],
        None if value.contains("=[") => ["--set-json".to_owned(), (*value).to_owned()],
        None => ["--set".to_owned(), (*value).to_owned()],
    };
    arguments.iter().map(|argument| (*argument).to_owned()).chain(values.iter().flat_map(of_value)).collect()
}

/// The pod in a document, if it has one.
fn pod(document: &Value) -> Option<&Value> {
    match document["kind"].as_str().unwrap() {
        "Deployment" | "StatefulSet" => Some(&document["spec"]["template"]["spec"]),
        "Pod" => Some(&document["spec"]),
        _ => None,
    }
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    items(pod, "initContainers").chain(items(pod, "containers"))
}

/// The container that runs the exporter as a daemon, or that waits in its place during maintenance.
fn daemon(pod: &Value) -> Option<&Value> {
    containers(pod).find(|container| ["run", "idle"].iter().any(|command| container["args"][0] == *command))
}

fn is_idle(daemon: &Value) -> bool {
    daemon["args"][0] == "idle"
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

/// The only workload: the one that runs the daemon.
fn workload(documents: &[Value]) -> &Value {
    let mut running = documents.iter().filter(|document| pod(document).and_then(daemon).is_some());
    let workload = running.next().unwrap();
    assert_eq!(running.next(), None);
    workload
}

fn variable<'a>(container: &'a Value, name: &str) -> Option<&'a Value> {
    items(container, "env").find(|variable| variable["name"] == name)
}

#[test]
fn every_kustomization_is_tested() {
    let overlays = std::fs::read_dir(root().join("deploy/kubernetes/overlays")).unwrap();
    let there: BTreeSet<String> =
        overlays.map(|entry| format!("overlays/{}", entry.unwrap().file_name().to_str().unwrap())).collect();
    let tested: BTreeSet<String> = KUSTOMIZATIONS[1..].iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(there, tested);
}

#[test]
fn kubernetes_would_take_every_document() {
    let Some(tools) = tools() else { return };
    succeeded("validation", tools.validate(&json!(tools.all)));
}

#[test]
fn what_kubernetes_would_refuse_is_found() {
    let Some(tools) = tools() else { return };
    let rendered = kustomize("overlays/eks");
    let wrongs = [
        ("replicas: 1", "replicas: one"),
        ("enableServiceLinks: false", "enableServiceLink: false"),
        ("interval: 30s", "every: 30s"),
        ("kind: ServiceMonitor", "kind: ServicesMonitor"),
    ];
    let documents = wrongs.map(|(right, wrong)| {
        assert_eq!(rendered.matches(right).count(), 1, "{right}");
        (wrong, tools.documents(&rendered.replace(right, wrong)))
    });
    let output = tools.validate(&json!(BTreeMap::from(documents)));
    let refusals = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for (_, wrong) in wrongs {
        assert!(refusals.contains(&format!("{wrong}: ")), "{wrong} is taken: {refusals}");
    }
}

/// The restricted profile (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>), and stricter
/// settings.
#[test]
fn every_pod_is_restricted() {
    let Some(tools) = tools() else { return };
    for (what, documents) in &tools.all {
        let pods: Vec<&Value> = documents.iter().filter_map(pod).collect();
        assert!(!pods.is_empty(), "{what}");
        for pod in pods {
            assert_eq!(pod["enableServiceLinks"], false, "{what}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{what}");
            let security = &pod["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{what}");
            let id = if what.contains("runAsUser=null") { Value::Null } else { json!(65532) };
            assert_eq!((&security["runAsUser"], &security["fsGroup"]), (&id, &id), "{what}");
            assert_eq!(security["seccompProfile"], json!({ "type": "RuntimeDefault" }), "{what}");
            for key in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(pod[key].is_null(), "{what}: {key}");
            }
            for volume in items(pod, "volumes") {
                let allowed = ["configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected"];
                assert!(allowed.iter().any(|kind| !volume[kind].is_null()), "{what}: {volume}");
            }
            for container in containers(pod) {
                let expected = json!({
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                });
                assert_eq!(container["securityContext"], expected, "{what}");
                let resources = &container["resources"];
                let [cpu, memory, limit] = ["/requests/cpu", "/requests/memory", "/limits/memory"];
                for bound in [cpu, memory, limit] {
                    assert!(resources.pointer(bound).is_some(), "{what}: {bound}");
                }
            }
        }
    }
}

#[test]
fn the_daemon_is_probed_where_it_answers_and_has_time_to_stop() {
    let Some(tools) = tools() else { return };
    for (what, documents) in &tools.all {
        let pod = pod(workload(documents)).unwrap();
        let daemon = daemon(pod).unwrap();
        // The exporter drains for up to 20 s.
        assert!(pod["terminationGracePeriodSeconds"].as_i64().unwrap() > 20, "{what}");
        for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
            let is_without = is_idle(daemon) || what == "overlays/sidecar" && probe == "readinessProbe";
            let handler = match variable(daemon, "COGNITO_EXPORTER_HTTP__WEB_CONFIG_FILE") {
                _ if is_without || what.contains(&format!("{probe}=null")) => Value::Null,
                Some(_) => json!({ "path": path, "port": "metrics", "scheme": "HTTPS" }),
                None => json!({ "path": path, "port": "metrics" }),
            };
            if daemon[probe]["tcpSocket"].is_null() {
                assert_eq!(daemon[probe]["httpGet"], handler, "{what}");
            }
        }
        for scraped in documents.iter().filter(|document| document["kind"].as_str().unwrap().ends_with("Monitor")) {
            let endpoints = items(&scraped["spec"], "endpoints").chain(items(&scraped["spec"], "podMetricsEndpoints"));
            let endpoints: Vec<_> = endpoints.collect();
            assert_eq!(endpoints.iter().map(|endpoint| &endpoint["port"]).collect::<Vec<_>>(), ["metrics"], "{what}");
            let scheme = &daemon["startupProbe"]["httpGet"]["scheme"];
            let same = scheme.as_str().map(str::to_lowercase);
            assert!(endpoints[0]["scheme"].as_str() == same.as_deref() || scheme.is_null(), "{what}");
        }
    }
}

#[test]
fn there_is_never_a_second_pod_beside_the_first() {
    let Some(tools) = tools() else { return };
    for (what, documents) in &tools.all {
        let workload = workload(documents);
        let daemon = daemon(pod(workload).unwrap()).unwrap();
        let count = variable(daemon, "COGNITO_EXPORTER_SHARD__COUNT");
        let count = count.map_or(1, |count| count["value"].as_str().unwrap().parse().unwrap());
        let replicas = workload["spec"]["replicas"].as_u64().unwrap();
        assert_eq!(replicas, if what.contains("stopped=true") { 0 } else { count }, "{what}");
        assert_eq!(of_kind(documents, "PodDisruptionBudget").len(), usize::from(count > 1), "{what}");
        let own_name = json!({ "fieldRef": { "fieldPath": "metadata.name" } });
        assert_eq!(variable(daemon, "POD_NAME").map(|name| &name["valueFrom"]), (count > 1).then_some(&own_name));

        let spec = &workload["spec"];
        let claims: Vec<&Value> = items(spec, "volumeClaimTemplates").map(|claim| &claim["spec"]).collect();
        if workload["kind"] == "Deployment" {
            assert_eq!(spec["strategy"], json!({ "type": "Recreate" }), "{what}");
            assert_eq!(count, 1, "{what}");
        } else {
            // In any order: neither waits for another shard, and a pod that is not ready blocks no rollout.
            assert_eq!(spec["podManagementPolicy"], "Parallel", "{what}");
        }
        let claims: Vec<&Value> = claims
            .into_iter()
            .chain(of_kind(documents, "PersistentVolumeClaim").iter().map(|claim| &claim["spec"]))
            .collect();
        let has_another = ["existingClaim", "persistence.enabled=false"].iter().any(|value| what.contains(value));
        assert_eq!(claims.len(), usize::from(!has_another), "{what}");
        for claim in claims {
            assert_eq!(claim["accessModes"], json!(["ReadWriteOncePod"]), "{what}");
        }
        let state = items(daemon, "volumeMounts").find(|mount| mount["mountPath"] == STATE).unwrap();
        assert_eq!(state["name"], "state", "{what}");
    }
}

/// The configuration that a daemon would load: the file from the mounted ConfigMap, and the variables.
fn load(what: &str, documents: &[Value]) -> Config {
    let pod = pod(workload(documents)).unwrap();
    let daemon = daemon(pod).unwrap();
    let mount = items(daemon, "volumeMounts").find(|mount| mount["mountPath"] == "/etc/cognito-auth-exporter").unwrap();
    let volume = items(pod, "volumes").find(|volume| volume["name"] == mount["name"]).unwrap();
    let maps = of_kind(documents, "ConfigMap");
    let map = maps.iter().find(|map| map["metadata"]["name"] == volume["configMap"]["name"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, map["data"]["config.toml"].as_str().unwrap()).unwrap();
    let literal =
        |variable: &Value| Some((variable["name"].as_str()?.to_owned(), variable["value"].as_str()?.to_owned()));
    let variables: Vec<_> = items(daemon, "env").filter_map(literal).collect();
    let pod_name = variable(daemon, "POD_NAME").map(|_| ("POD_NAME".to_owned(), format!("{NAME}-2")));
    config::load(Some(&file), variables.into_iter().chain(pod_name)).unwrap_or_else(|errors| panic!("{what}: {errors}"))
}

#[test]
fn the_exporter_would_take_every_configuration() {
    let Some(tools) = tools() else { return };
    for (what, documents) in &tools.all {
        let config = load(what, documents);
        assert_eq!(config.state.path, Path::new(STATE), "{what}");
        assert!(config.otlp.is_some(), "{what}");
        let replicas = workload(documents)["spec"]["replicas"].as_u64().unwrap();
        if replicas > 0 {
            assert_eq!(u64::from(config.shard.count()), replicas, "{what}");
        }
        // `load` makes it the third pod, if there is one.
        assert_eq!(config.shard.index(), if config.shard.count() > 1 { 2 } else { 0 }, "{what}");
        let daemon = daemon(pod(workload(documents)).unwrap()).unwrap();
        let firehose = config.firehose.map(|firehose| ("firehose", firehose.listen.port()));
        let expected: Vec<Value> = [("metrics", config.http.listen.port())]
            .into_iter()
            .chain(firehose)
            .map(|(name, port)| json!({ "name": name, "containerPort": port }))
            .collect();
        let ports: Vec<Value> = items(daemon, "ports")
            .map(|port| json!({ "name": port["name"], "containerPort": port["containerPort"] }))
            .collect();
        assert_eq!(ports, expected, "{what}");
    }
}

/// Data Firehose reaches a ready pod and nothing but its endpoint, and a key that changes reaches the exporter.
#[test]
fn the_endpoint_for_firehose_has_a_service_keys_from_a_secret_and_a_way_in() {
    let Some(tools) = tools() else { return };
    let (mut endpoints, mut ingresses, mut secrets) = (0, 0, 0);
    for (what, documents) in &tools.all {
        let Some(firehose) = load(what, documents).firehose else {
            assert!(of_kind(documents, "Ingress").is_empty(), "{what}");
            continue;
        };
        endpoints += 1;
        assert_eq!(workload(documents)["spec"]["replicas"], 1, "{what}");
        let pod = pod(workload(documents)).unwrap();
        let keys = firehose.access_keys_file.as_path();
        let mount = items(daemon(pod).unwrap(), "volumeMounts")
            .find(|mount| Some(Path::new(mount["mountPath"].as_str().unwrap())) == keys.parent())
            .unwrap();
        assert_eq!((&mount["readOnly"], &mount["subPath"]), (&json!(true), &Value::Null), "{what}");
        let volume = items(pod, "volumes").find(|volume| volume["name"] == mount["name"]).unwrap();
        let name = volume["secret"]["secretName"].as_str().unwrap();
        for secret in of_kind(documents, "Secret") {
            assert_eq!(secret["metadata"]["name"], name, "{what}");
            let text = secret["stringData"][keys.file_name().unwrap().to_str().unwrap()].as_str().unwrap();
            let given = ACCESS_KEYS.iter().filter(|key| what.contains(*key)).map(|key| key.split_once('=').unwrap().1);
            assert_eq!(text.lines().collect::<Vec<_>>(), given.collect::<Vec<_>>(), "{what}");
            secrets += 1;
        }

        let services = of_kind(documents, "Service");
        let service = services.iter().find(|service| service["spec"]["clusterIP"].is_null()).unwrap();
        assert_eq!(services.len(), 2, "{what}");
        assert!(service["spec"]["publishNotReadyAddresses"].is_null(), "{what}");
        let labels = &workload(documents)["spec"]["template"]["metadata"]["labels"];
        assert!(service["spec"]["selector"].as_object().unwrap().iter().all(|(key, value)| labels[key] == *value));
        let port = json!({ "name": "firehose", "port": firehose.listen.port(), "targetPort": "firehose" });
        assert_eq!(service["spec"]["ports"], json!([port]), "{what}");
        for ingress in of_kind(documents, "Ingress") {
            let backend = &ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
            assert_eq!(
                *backend,
                json!({ "name": service["metadata"]["name"], "port": { "name": "firehose" } }),
                "{what}"
            );
            // A proxy's 413 would lose records.
            assert!(ingress["metadata"]["annotations"].to_string().contains("proxy-body-size\":\"128m"), "{what}");
            ingresses += 1;
        }
        for policy in of_kind(documents, "NetworkPolicy") {
            let numbered = |port: u16| {
                items(&policy["spec"], "ingress").filter(|rule| rule["ports"][0]["port"] == port).collect::<Vec<_>>()
            };
            assert_eq!(numbered(10588).len(), 1, "{what}");
            // Without an Ingress, the chart opens the endpoint only to those whom its values name.
            let has_ingress = !of_kind(documents, "Ingress").is_empty();
            assert!((usize::from(has_ingress)..=1).contains(&numbered(10589).len()), "{what}");
            let is_open = |rule: &Value| items(rule, "from").count() == 0;
            assert!(!numbered(10589).into_iter().any(is_open), "{what}: everybody may reach the endpoint");
        }
    }
    assert_eq!((endpoints, ingresses, secrets), (5, 3, 2));
}

/// A document without the additions of either tool.
fn normalised(mut document: Value) -> Value {
    const HELMS: [&str; 4] =
        ["app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"];
    fn visit(value: &mut Value) {
        match value {
            Value::Object(map) => {
                HELMS.iter().for_each(|label| drop(map.remove(*label)));
                map.values_mut().for_each(visit);
                for key in ["checksum/config", "helm.sh/resource-policy"] {
                    map.remove(key);
                }
                // The default of Kubernetes.
                if map.get("imagePullPolicy") == Some(&json!("IfNotPresent")) {
                    map.remove("imagePullPolicy");
                }
                map.retain(|key, value| !(key == "annotations" && value.as_object().is_some_and(|map| map.is_empty())));
            }
            Value::Array(list) => list.iter_mut().for_each(visit),
            _ => {}
        }
    }
    visit(&mut document);
    document
}

/// Documents by kind and name, without the chart's own test.
fn by_name(documents: &[Value]) -> BTreeMap<String, Value> {
    let parts = documents.iter().filter(|document| document["kind"] != "Pod").cloned().map(normalised);
    parts.map(|document| (format!("{} {}", document["kind"], document["metadata"]["name"]), document)).collect()
}

#[test]
fn the_chart_gives_what_kustomize_gives() {
    let Some(tools) = tools() else { return };
    for (path, values) in TWINS {
        let kustomized = by_name(&tools.all[path]);
        let templated = by_name(&tools.all[&chart_with(values)]);
        assert_eq!(kustomized.keys().collect::<Vec<_>>(), templated.keys().collect::<Vec<_>>(), "{path}");
        for (name, document) in &kustomized {
            let (left, right) = (&templated[name], document);
            assert_eq!(left, right, "{path}: {name} of the chart, and of Kustomize");
        }
    }
}

#[test]
fn the_chart_passes_its_linter() {
    let Some(_tools) = tools() else { return };
    for values in TWINS.iter().map(|(_, values)| *values).chain(FURTHER_VALUES) {
        succeeded("helm lint", helm(&with_values(&["lint", "--strict", CHART], values)));
    }
}

#[test]
fn the_chart_refuses_values_that_are_wrong() {
    let Some(_tools) = tools() else { return };
    for (values, said) in [
        (&["replicas=2"][..], "replicas"),
        (&["config="], "There is no configuration, and so no pool to follow"),
        (&[CONFIG, "existingConfigMap=own"], "not several"),
        (&["kind=DaemonSet"], "/kind"),
        (&["shards=0"], "/shards"),
        (&["shards=3", "kind=Deployment"], "/shards"),
        (&["image.digest=latest"], "/image/digest"),
        (&["persistence.size=lots"], "/persistence/size"),
        (&["serviceMonitor.enabled=true", "podMonitor.enabled=true"], "'not' failed"),
        (&["firehose.enabled=true", ACCESS_KEYS[0], "firehose.ingress.host=a.example.com", "shards=2"], "/shards"),
        (&["firehose.enabled=true", "firehose.ingress.host=a.example.com"], "/firehose"),
        (&["firehose.enabled=true", ACCESS_KEYS[0]], "/firehose/ingress/host"),
        (&["firehose.accessKeys[0]=short"], "/firehose/accessKeys/0"),
        (&["firehose.listen=:10589"], "listen"),
        (&["shards=2", "persistence.existingClaim=own"], "/shards"),
        (&["terminationGracePeriodSeconds=20"], "/terminationGracePeriodSeconds"),
        (&["web.basicAuth.enabled=true"], "/web/existingSecret"),
        (
            &["web.existingSecret=web", "web.basicAuth.enabled=true", "serviceMonitor.enabled=true"],
            "/web/basicAuth/existingSecret",
        ),
        (&["persistence.size=0.0Gi"], "/persistence/size"),
        (&["networkPolicy.dns.ports[0]=dns"], "/networkPolicy/dns/ports/0"),
    ] {
        let output = template(NAME, values);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(said), "{values:?}: {stderr}");
    }
}

/// The chart's test runs `check` with the same configuration, user and volumes as the daemon.
#[test]
fn helm_test_checks_what_the_daemon_would_use() {
    let Some(tools) = tools() else { return };
    let documents = &tools.all[&chart_with(FURTHER_VALUES[1])];
    let check = of_kind(documents, "Pod")[0];
    assert_eq!(check["metadata"]["annotations"]["helm.sh/hook"], "test");
    let daemons = pod(workload(documents)).unwrap();
    let (container, daemon) = (&check["spec"]["containers"][0], daemon(daemons).unwrap());
    assert_eq!(container["args"], json!(["check"]));
    assert_eq!(check["metadata"]["annotations"]["sidecar.istio.io/inject"], "false");
    // It runs where the daemon runs, and finds what the daemon finds.
    for key in ["nodeSelector", "tolerations", "priorityClassName", "runtimeClassName", "dnsConfig", "hostAliases"] {
        assert!(!check["spec"][key].is_null(), "{key}");
        assert_eq!(check["spec"][key], daemons[key], "{key}");
    }
    for key in ["image", "env", "volumeMounts"] {
        assert_eq!(container[key], daemon[key], "{key}");
    }
    // No selector of the daemon's pods selects it.
    let service = of_kind(documents, "Service")[0];
    assert_ne!(
        check["metadata"]["labels"]["app.kubernetes.io/name"],
        service["spec"]["selector"]["app.kubernetes.io/name"]
    );
}

/// The blocks of a Terraform file.
fn terraform(python: &Path, path: &str) -> Value {
    serde_json::from_slice(&succeeded("hcl", peer(python, "hcl", &read(path))).stdout).unwrap()
}

/// The CloudFormation template in a file.
fn cloudformation(python: &Path, path: &str) -> Value {
    let documents = succeeded("yaml", peer(python, "documents", &read(path)));
    let documents: Vec<Value> = serde_json::from_slice(&documents.stdout).unwrap();
    documents.into_iter().next().unwrap()
}

/// The only block of this type and name, such as a resource.
fn block<'a>(terraform: &'a Value, kind: &str, labels: &[&str]) -> &'a Value {
    let found: Vec<_> = items(terraform, kind)
        .filter_map(|block| labels.iter().try_fold(block, |block, label| block.get(label)))
        .collect();
    assert_eq!(found.len(), 1, "{kind} {labels:?}");
    found[0]
}

/// Both forms let Cognito export the events of sign-ins, to a log group that the exporter can read.
#[test]
fn cloudformation_and_terraform_export_to_the_same_log_group() {
    let Some(python) = peers::python_with("yaml, hcl2") else { return };
    let template = cloudformation(&python, "deploy/export/log-group/cloudformation.yaml");
    let delivery = &template["Resources"]["Delivery"]["Properties"]["LogConfigurations"][0];
    assert_eq!((&delivery["EventSource"], &delivery["LogLevel"]), (&json!("userAuthEvents"), &json!("INFO")));
    let group = &template["Resources"]["LogGroup"]["Properties"];
    assert!(group["LogGroupName"].to_string().contains("/aws/vendedlogs/cognito/${UserPoolId}"));
    // Cognito delivers to no group with a key of KMS.
    assert!(group["KmsKeyId"].is_null());

    let terraform = terraform(&python, "deploy/export/log-group/terraform/main.tf");
    let delivery = block(&terraform, "resource", &["aws_cognito_log_delivery_configuration", "export"]);
    let delivery = &delivery["log_configurations"][0];
    assert_eq!((&delivery["event_source"], &delivery["log_level"]), (&json!("userAuthEvents"), &json!("INFO")));
    let other = block(&terraform, "resource", &["aws_cloudwatch_log_group", "export"]);
    assert!(other["name"].to_string().contains("/aws/vendedlogs/cognito/${var.user_pool_id}"));
    assert!(other["kms_key_id"].is_null());
    assert_eq!(other["log_group_class"], group["LogGroupClass"]);
    let days = &template["Parameters"]["RetentionDays"]["Default"];
    assert_eq!(block(&terraform, "variable", &["retention_days"])["default"], *days);
}

/// Both templates hide the access key, and keep what the endpoint refuses in a private bucket.
#[test]
fn cloudformation_and_terraform_make_the_same_stream() {
    let Some(python) = peers::python_with("yaml, hcl2") else { return };
    let template = cloudformation(&python, "deploy/export/firehose/cloudformation.yaml");
    let resources = &template["Resources"];
    let terraform = terraform(&python, "deploy/export/firehose/terraform/main.tf");
    let resource = |kind: &str, name: &str| block(&terraform, "resource", &[kind, name]);

    let stream = &resources["Stream"]["Properties"];
    let endpoint = &stream["HttpEndpointDestinationConfiguration"];
    let other = resource("aws_kinesis_firehose_delivery_stream", "export");
    let other_endpoint = &other["http_endpoint_configuration"][0];
    assert_eq!(endpoint["RequestConfiguration"]["ContentEncoding"], "GZIP");
    assert_eq!(other_endpoint["request_configuration"][0]["content_encoding"], "GZIP");
    assert_eq!(
        (&endpoint["S3BackupMode"], &other_endpoint["s3_backup_mode"]),
        (&json!("FailedDataOnly"), &json!("FailedDataOnly"))
    );
    assert_eq!(other_endpoint["buffering_size"], endpoint["BufferingHints"]["SizeInMBs"]);
    assert_eq!(endpoint["EndpointConfiguration"]["AccessKey"], json!({ "Ref": "AccessKey" }));
    assert_eq!(template["Parameters"]["AccessKey"]["NoEcho"], true);
    assert_eq!(other_endpoint["access_key"], "var.access_key");
    assert_eq!(block(&terraform, "variable", &["access_key"])["sensitive"], true);
    for (parameter, variable) in
        [("BufferSeconds", "buffer_seconds"), ("RetrySeconds", "retry_seconds"), ("BackupDays", "backup_days")]
    {
        let default = &template["Parameters"][parameter]["Default"];
        assert_eq!(block(&terraform, "variable", &[variable])["default"], *default);
    }
    assert_eq!(stream["Tags"], json!([{ "Key": "LogDeliveryEnabled", "Value": "true" }]));
    assert_eq!(other["tags"], json!({ "LogDeliveryEnabled": "true" }));

    let delivery = &resources["Delivery"]["Properties"]["LogConfigurations"][0];
    assert_eq!((&delivery["EventSource"], &delivery["LogLevel"]), (&json!("userAuthEvents"), &json!("INFO")));
    let delivery = &resource("aws_cognito_log_delivery_configuration", "export")["log_configurations"][0];
    assert_eq!((&delivery["event_source"], &delivery["log_level"]), (&json!("userAuthEvents"), &json!("INFO")));

    let backup = &resources["Backup"];
    assert_eq!((&backup["DeletionPolicy"], &backup["UpdateReplacePolicy"]), (&json!("Retain"), &json!("Retain")));
    let blocked = backup["Properties"]["PublicAccessBlockConfiguration"].as_object().unwrap();
    let other_blocked = resource("aws_s3_bucket_public_access_block", "backup").as_object().unwrap();
    let are_true = |map: &serde_json::Map<String, Value>| map.values().filter(|value| **value == json!(true)).count();
    assert_eq!((are_true(blocked), are_true(other_blocked)), (4, 4));
    assert!(backup["Properties"]["BucketEncryption"].to_string().contains("AES256"));
    assert!(resource("aws_s3_bucket_server_side_encryption_configuration", "backup").to_string().contains("AES256"));
    assert_eq!(
        backup["Properties"]["LifecycleConfiguration"]["Rules"][0]["ExpirationInDays"],
        json!({ "Ref": "BackupDays" })
    );
    let rule = &resource("aws_s3_bucket_lifecycle_configuration", "backup")["rule"][0];
    assert_eq!(rule["expiration"][0]["days"], "var.backup_days");

    let actions = |statements: &Value| -> Vec<Value> {
        statements.as_array().unwrap().iter().map(|statement| statement["Action"].clone()).collect()
    };
    let allowed = actions(&resources["Policy"]["Properties"]["PolicyDocument"]["Statement"]);
    assert_eq!(actions(&resource("aws_iam_role_policy", "firehose")["policy"]["Statement"]), allowed);
    let trust = &resources["Role"]["Properties"]["AssumeRolePolicyDocument"]["Statement"][0];
    let other_trust = &resource("aws_iam_role", "firehose")["assume_role_policy"]["Statement"][0];
    assert_eq!((&trust["Principal"], &trust["Action"]), (&other_trust["Principal"], &other_trust["Action"]));
}

#[test]
fn systemd_would_take_the_unit_and_finds_it_hardened() {
    if !peers::has("systemd-analyze") {
        return;
    }
    let unit = read("deploy/systemd/cognito-auth-exporter.service");
    let binary = env!("CARGO_BIN_EXE_cognito-auth-exporter");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cognito-auth-exporter.service");
    std::fs::write(&file, unit.replace("/usr/bin/cognito-auth-exporter", binary)).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains(NAME)).collect();
    assert!(ours.is_empty(), "{said}");
    // `systemctl reload` sends the signal on which `run` reads its configuration again.
    assert!(unit.lines().any(|line| line == "ExecReload=/bin/kill -HUP $MAINPID"), "{unit}");
    let arguments = ["security", "--offline=true", "--threshold=15", "--no-pager"];
    let secured = Command::new("systemd-analyze").args(arguments).arg(&file).output().unwrap();
    assert!(secured.status.success(), "{}", String::from_utf8_lossy(&secured.stdout));
}

#[test]
fn the_image_is_what_the_manifests_expect() {
    let dockerfile = read("deploy/Dockerfile");
    let (_, last) = dockerfile.split_once("\nFROM scratch\n").unwrap();
    for line in
        ["USER 65532:65532", &format!("ENV COGNITO_EXPORTER_STATE__PATH={STATE}"), "EXPOSE 10588", "CMD [\"run\"]"]
    {
        assert!(last.lines().any(|it| it == line), "{line}");
    }
    assert!(last.contains(&format!("org.opencontainers.image.version={VERSION:?}")), "{last}");
    let image = format!("{NAME}:{VERSION}");
    for path in [
        "deploy/Dockerfile",
        "deploy/image.sh",
        "deploy/kubernetes/base/statefulset.yaml",
        "deploy/kubernetes/overlays/sidecar/application.yaml",
        "deploy/compose/compose.yaml",
    ] {
        assert!(read(path).contains(&image), "{path} does not name {image}");
    }
    assert!(read(&format!("{CHART}/Chart.yaml")).contains(&format!("appVersion: {VERSION:?}")));
}

#[test]
fn hadolint_finds_nothing_in_the_dockerfile() {
    let Some(hadolint) = peers::of_packages("hadolint", "--version") else { return };
    let output = Command::new(hadolint).arg(root().join("deploy/Dockerfile")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
