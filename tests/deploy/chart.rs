//! The values of the chart: what each of them does, and that defaults, schema, templates and README agree on them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::{Value, json};

use super::{
    CHART, CONFIG, NAME, Tools, chart_with, containers, daemon, helm, items, of_kind, peer, pod, read, root, succeeded,
    template, text, tools, variable, with_values, workload,
};
use crate::peers;

/// Values for clusters of others. They meet every rule for a deployment, as the twins do.
pub(super) const VALUES: [&[&str]; 7] = [EVERYTHING, OPENSHIFT, STOPPED, TRIAL, OWN_CLAIM, SINGLE, PASSWORDS];

/// Settings of a large platform.
const EVERYTHING: &[&str] = &[
    "shards=3",
    "global.imageRegistry=registry.example.com",
    "global.imagePullSecrets[0]=pull",
    "image.registry=other.example.com",
    "commonLabels.cost-centre=4711",
    "extraArgs={--config,/etc/cognito-auth-exporter/config.toml}",
    "envFrom[0].secretRef.name=variables",
    "initContainers=[{\"name\": \"wait\", \"image\": \"registry.example.com/wait:1\", \"securityContext\": \
     {\"allowPrivilegeEscalation\": false, \"readOnlyRootFilesystem\": true, \"capabilities\": {\"drop\": [\"ALL\"]}}, \
     \"resources\": {\"requests\": {\"cpu\": \"1m\", \"memory\": \"1Mi\"}, \"limits\": {\"memory\": \"1Mi\"}}}]",
    "podAnnotations.prometheus\\.io/port=10588",
    "podAnnotations.sidecar\\.istio\\.io/inject=false",
    "serviceAccount.annotations.example\\.com/revision=1234567",
    "service.annotations.example\\.com/team=identity",
    "terminationGracePeriodSeconds=60",
    "persistence.size=1.5Ti",
    "persistence.storageClassName=-",
    "persistence.selector.matchLabels.for=cognito",
    "persistence.annotations.example\\.com/backup=true",
    "serviceMonitor.enabled=true",
    "serviceMonitor.namespace=monitoring",
    "serviceMonitor.scrapeTimeout=20s",
    "serviceMonitor.relabelings[0].targetLabel=cluster",
    "serviceMonitor.relabelings[0].replacement=eu-1",
    "serviceMonitor.metricRelabelings[0].action=drop",
    "serviceMonitor.metricRelabelings[0].regex=process_.*",
    "serviceMonitor.metricRelabelings[0].sourceLabels[0]=__name__",
    "prometheusRule.enabled=true",
    "prometheusRule.labels.release=prometheus",
    "prometheusRule.grafanaUrl=https://grafana.example.com",
    "dashboards.enabled=true",
    "dashboards.annotations.grafana_folder=Identity",
    "extraObjects=[{\"apiVersion\": \"v1\", \"kind\": \"LimitRange\", \"metadata\": {\"name\": \"{{ .Release.Name }}\"}, \
     \"spec\": {\"limits\": [{\"type\": \"Pod\"}]}}]",
];

const OPENSHIFT: &[&str] =
    &["podSecurityContext.runAsUser=null", "podSecurityContext.runAsGroup=null", "podSecurityContext.fsGroup=null"];
const STOPPED: &[&str] = &["stopped=true", "shards=3"];
const TRIAL: &[&str] = &["persistence.enabled=false", "livenessProbe=null", "persistence.size=10G"];
const OWN_CLAIM: &[&str] = &["persistence.existingClaim=own"];
const SINGLE: &[&str] = &["kind=Deployment", "podMonitor.enabled=true", "fullnameOverride=exporter"];
const PASSWORDS: &[&str] = &[
    "web.existingSecret=web",
    "web.basicAuth.enabled=true",
    "web.basicAuth.existingSecret=scrape",
    "serviceMonitor.enabled=true",
];

/// The documents of the chart with these values.
fn documents(tools: &Tools, values: &[&str]) -> Vec<Value> {
    tools.documents(&text(template(NAME, values)))
}

#[test]
fn the_settings_of_a_platform_reach_the_objects() {
    let Some(tools) = tools() else { return };
    let documents = &tools.all[&chart_with(EVERYTHING)];
    let workload = workload(documents);
    let spec = pod(workload).unwrap();
    let daemon = daemon(spec).unwrap();
    assert_eq!(daemon["image"], format!("registry.example.com/{NAME}:{}", super::VERSION));
    assert_eq!(spec["imagePullSecrets"], json!([{ "name": "pull" }]));
    assert_eq!(daemon["args"], json!(["run", "--config", "/etc/cognito-auth-exporter/config.toml"]));
    assert_eq!(daemon["envFrom"], json!([{ "secretRef": { "name": "variables" } }]));
    assert_eq!(spec["terminationGracePeriodSeconds"], 60);
    assert_eq!(containers(spec).count(), 2);
    for document in documents.iter().filter(|document| document["kind"] != "LimitRange") {
        assert_eq!(document["metadata"]["labels"]["cost-centre"], "4711", "{}", document["kind"]);
        assert!(document["spec"]["selector"].to_string().find("cost-centre").is_none());
    }
    // Kubernetes takes texts only.
    let annotations = &workload["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(*annotations, json!({ "prometheus.io/port": "10588", "sidecar.istio.io/inject": "false" }));
    assert_eq!(of_kind(documents, "ServiceAccount")[0]["metadata"]["annotations"]["example.com/revision"], "1234567");

    let claim = &workload["spec"]["volumeClaimTemplates"][0];
    assert_eq!(claim["metadata"]["annotations"], json!({ "example.com/backup": "true" }));
    let expected = json!({
        "accessModes": ["ReadWriteOncePod"],
        "storageClassName": "",
        "selector": { "matchLabels": { "for": "cognito" } },
        "resources": { "requests": { "storage": "1.5Ti" } },
    });
    assert_eq!(claim["spec"], expected);

    let monitor = of_kind(documents, "ServiceMonitor")[0];
    assert_eq!(monitor["metadata"]["namespace"], "monitoring");
    assert_eq!(monitor["spec"]["namespaceSelector"], json!({ "matchNames": ["default"] }));
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!(endpoint["scrapeTimeout"], "20s");
    assert_eq!(endpoint["relabelings"][1], json!({ "targetLabel": "cluster", "replacement": "eu-1" }));
    assert_eq!(endpoint["metricRelabelings"][0]["action"], "drop");
    assert_eq!(of_kind(documents, "LimitRange")[0]["metadata"]["name"], NAME);
}

/// The ports of a policy's rules, each with its peers.
fn rules(policy: &Value, direction: &str) -> Vec<(Vec<u64>, Value)> {
    items(&policy["spec"], direction)
        .map(|rule| (items(rule, "ports").map(|port| port["port"].as_u64().unwrap()).collect(), rule.clone()))
        .map(|(ports, mut rule)| (ports, rule[if direction == "egress" { "to" } else { "from" }].take()))
        .collect()
}

fn block(cidr: &str) -> Value {
    json!({ "ipBlock": { "cidr": cidr } })
}

#[test]
fn a_network_policy_names_ports_by_number_and_every_address_of_pod_identity() {
    let Some(tools) = tools() else { return };
    let mut policies = 0;
    for (what, documents) in &tools.all {
        for policy in of_kind(documents, "NetworkPolicy") {
            let egress = rules(policy, "egress");
            assert_eq!(rules(policy, "ingress")[0].0, [10588], "{what}");
            assert_eq!(egress[0], (vec![53, 53, 5353, 5353], Value::Null), "{what}");
            assert_eq!(egress[1], (vec![443], Value::Null), "{what}");
            let agents = json!([block("169.254.170.23/32"), block("fd00:ec2::23/128")]);
            assert_eq!(egress[2], (vec![80], agents), "{what}");
            assert_eq!(egress[3], (vec![4317, 4318], json!([{ "namespaceSelector": {} }])), "{what}");
            assert_eq!(egress.len(), 4, "{what}");
            policies += 1;
        }
    }
    assert!(policies > 10, "{policies}");
}

#[test]
fn a_network_policy_lets_through_what_a_cluster_needs() {
    let Some(tools) = tools() else { return };
    let documents = documents(
        tools,
        &[
            "networkPolicy.monitoringNamespaces={monitoring,agents}",
            "networkPolicy.monitoringFrom[0].ipBlock.cidr=10.0.0.0/16",
            "networkPolicy.dns.ports={53}",
            "networkPolicy.dns.to[0].ipBlock.cidr=169.254.20.10/32",
            "networkPolicy.aws.to[0].ipBlock.cidr=10.9.0.0/24",
            "networkPolicy.podIdentity=false",
            "networkPolicy.imds=true",
            "networkPolicy.otlp.ports={4318}",
            "networkPolicy.otlp.to=[{\"ipBlock\": {\"cidr\": \"10.0.0.0/16\"}}]",
            "networkPolicy.extraEgress=[{\"ports\": [{\"port\": 3128}]}]",
            "networkPolicy.extraIngress=[{\"ports\": [{\"port\": 15020}]}]",
            "firehose.enabled=true",
            "firehose.existingSecret=keys",
            "firehose.ingress.host=firehose.example.com",
            "firehose.ingress.namespace=traefik",
        ],
    );
    succeeded("validation", tools.validate(&json!({ "chart": documents })));
    let policy = of_kind(&documents, "NetworkPolicy")[0];
    let namespace =
        |name: &str| json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } } });
    let scrapes = json!([namespace("monitoring"), namespace("agents"), block("10.0.0.0/16")]);
    let expected = [(vec![10588], scrapes), (vec![10589], json!([namespace("traefik")])), (vec![15020], Value::Null)];
    assert_eq!(rules(policy, "ingress"), expected);
    let expected = [
        (vec![53, 53], json!([block("169.254.20.10/32")])),
        (vec![443], json!([block("10.9.0.0/24")])),
        (vec![80], json!([block("169.254.169.254/32"), block("fd00:ec2::254/128")])),
        (vec![4318], json!([block("10.0.0.0/16")])),
        (vec![3128], Value::Null),
    ];
    assert_eq!(rules(policy, "egress"), expected);
    // Policy agents of EKS that fail at IPv6 in an IPv4 cluster.
    let documents = self::documents(tools, &["networkPolicy.ipv6=false", "networkPolicy.imds=true"]);
    assert!(!of_kind(&documents, "NetworkPolicy")[0].to_string().contains("fd00"));
}

#[test]
fn a_network_policy_has_no_rule_without_ports_and_opens_the_endpoint_to_nobody_without_an_ingress() {
    let Some(tools) = tools() else { return };
    let without = |values: &[&str]| {
        let documents = documents(tools, values);
        succeeded("validation", tools.validate(&json!({ "chart": documents })));
        of_kind(&documents, "NetworkPolicy")[0].clone()
    };
    for (null, absent) in [("networkPolicy.aws.ports=null", 443), ("networkPolicy.dns.ports=null", 53)] {
        let policy = without(&[null, "networkPolicy.podIdentity=false"]);
        let egress = rules(&policy, "egress");
        assert_eq!(egress.len(), 2, "{null}: {policy}");
        assert!(egress.iter().all(|(ports, _)| !ports.is_empty() && !ports.contains(&absent)), "{null}: {policy}");
    }
    let firehose = ["firehose.enabled=true", "firehose.existingSecret=keys", "firehose.ingress.enabled=false"];
    let policy = without(&firehose);
    assert_eq!(rules(&policy, "ingress").len(), 1, "{policy}");
    let from = "firehose.networkPolicyFrom[0].ipBlock.cidr=10.0.0.0/16";
    let policy = without(&[&firehose[..], &[from]].concat());
    assert_eq!(rules(&policy, "ingress")[1], (vec![10589], json!([block("10.0.0.0/16")])));
}

/// The value that sets all of it.
#[test]
fn a_secret_for_the_web_sets_mount_variable_probes_and_monitor() {
    let Some(tools) = tools() else { return };
    for (values, files, ca) in [
        (&["web.existingSecret=web"][..], json!([{ "secret": { "name": "web" } }]), "web"),
        (
            &["web.existingSecret=web", "web.certificateSecret=tls"],
            json!([{ "secret": { "name": "web" } }, { "secret": { "name": "tls" } }]),
            "tls",
        ),
    ] {
        for monitor in ["serviceMonitor.enabled=true", "podMonitor.enabled=true"] {
            let documents = documents(tools, &[values, &[monitor]].concat());
            succeeded("validation", tools.validate(&json!({ "chart": documents })));
            let spec = pod(workload(&documents)).unwrap();
            let check = &of_kind(&documents, "Pod")[0]["spec"];
            for (pod, container) in [(spec, daemon(spec).unwrap()), (check, &check["containers"][0])] {
                let file = variable(container, "COGNITO_EXPORTER_HTTP__WEB_CONFIG_FILE").unwrap();
                assert_eq!(file["value"], "/run/secrets/web/web.yml");
                let mount = items(container, "volumeMounts").find(|mount| mount["name"] == "web").unwrap();
                assert_eq!(*mount, json!({ "name": "web", "mountPath": "/run/secrets/web", "readOnly": true }));
                let volume = items(pod, "volumes").find(|volume| volume["name"] == "web").unwrap();
                assert_eq!(volume["projected"], json!({ "defaultMode": 0o440, "sources": files }));
            }
            for (probe, path) in
                [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
            {
                let expected = json!({ "path": path, "port": "metrics", "scheme": "HTTPS" });
                assert_eq!(daemon(spec).unwrap()[probe]["httpGet"], expected);
            }
            let endpoint = endpoint(&documents);
            assert_eq!(endpoint["scheme"], "https");
            let expected = json!({
                "ca": { "secret": { "name": ca, "key": "ca.crt" } },
                "serverName": "cognito-auth-exporter.default.svc",
            });
            assert_eq!(endpoint["tlsConfig"], expected);
            assert!(endpoint["basicAuth"].is_null());
        }
    }
    // Passwords without TLS, as behind a mesh.
    let documents = documents(tools, &[PASSWORDS, &["web.tls=false"]].concat());
    assert_eq!((&endpoint(&documents)["scheme"], &endpoint(&documents)["tlsConfig"]), (&Value::Null, &Value::Null));
    assert_eq!(endpoint(&documents)["basicAuth"]["username"], json!({ "name": "scrape", "key": "username" }));
}

/// The only endpoint of the only monitor.
fn endpoint(documents: &[Value]) -> &Value {
    let monitors = [("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")];
    let found: Vec<_> = monitors
        .into_iter()
        .flat_map(|(kind, key)| of_kind(documents, kind).into_iter().flat_map(move |one| items(&one["spec"], key)))
        .collect();
    assert_eq!(found.len(), 1);
    found[0]
}

/// Kubernetes has no password for a probe, and no certificate.
#[test]
fn with_passwords_or_client_certificates_a_probe_only_connects() {
    let Some(tools) = tools() else { return };
    let certificates = ["web.existingSecret=web", "web.clientCertificates=true"];
    for values in [PASSWORDS, &certificates] {
        let documents = documents(tools, values);
        let daemon = daemon(pod(workload(&documents)).unwrap()).unwrap();
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert_eq!(daemon[probe]["tcpSocket"], json!({ "port": "metrics" }), "{values:?}");
            assert!(daemon[probe]["httpGet"].is_null(), "{values:?}");
        }
        // The hashes are in the pod, the password is not.
        assert!(!workload(&documents).to_string().contains("scrape"), "{values:?}");
    }
    // A probe that says what it asks stays as it is.
    let own = ["livenessProbe.httpGet.path=/healthz", "livenessProbe.httpGet.port=metrics"];
    let documents = documents(tools, &[PASSWORDS, &own].concat());
    let daemon = daemon(pod(workload(&documents)).unwrap()).unwrap();
    assert_eq!(daemon["livenessProbe"]["httpGet"], json!({ "path": "/healthz", "port": "metrics" }));
    assert!(daemon["livenessProbe"]["tcpSocket"].is_null());
    assert_eq!(daemon["livenessProbe"]["failureThreshold"], 4);
}

/// A counter of a pod that was restarted goes on as the same series.
#[test]
fn the_instance_of_a_scrape_stays_the_same_over_restarts() {
    let Some(tools) = tools() else { return };
    let mut monitors = 0;
    for (what, documents) in &tools.all {
        if documents.iter().any(|document| document["kind"].as_str().unwrap().ends_with("Monitor")) {
            // A pod of a StatefulSet has a name that stays. One of a Deployment is the only one.
            let expected = if workload(documents)["kind"] == "StatefulSet" {
                json!({ "sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance" })
            } else {
                let name = if what.contains("fullnameOverride=exporter") { "exporter" } else { NAME };
                json!({ "targetLabel": "instance", "replacement": name })
            };
            assert_eq!(endpoint(documents)["relabelings"][0], expected, "{what}");
            monitors += 1;
        }
    }
    assert!(monitors >= 7, "{monitors}");
}

/// A pod that is restarted for every edit would make the reload pointless, and one that mounts a single file would never
/// see an edit.
#[test]
fn a_changed_configuration_reaches_the_pod_that_runs() {
    let Some(tools) = tools() else { return };
    for (what, documents) in &tools.all {
        let workload = workload(documents);
        assert!(!workload.to_string().contains("checksum/"), "{what}");
        for container in containers(pod(workload).unwrap()) {
            assert!(items(container, "volumeMounts").all(|mount| mount["subPath"].is_null()), "{what}");
        }
        for map in of_kind(documents, "ConfigMap").iter().filter(|map| !map["data"]["config.toml"].is_null()) {
            let name = if what.contains("fullnameOverride=exporter") { "exporter" } else { NAME };
            assert_eq!(map["metadata"]["name"], name, "{what}: the name changes with the content");
        }
    }
    let template = |values: &[&str]| {
        let documents = documents(tools, &[&["configReload=false"], values].concat());
        workload(&documents)["spec"]["template"].clone()
    };
    let other = ["config=@deploy/kubernetes/overlays/firehose/config.toml"];
    assert_ne!(template(&[]), template(&other));
    assert_eq!(template(&[]), template(&[CONFIG]));
}

#[test]
fn the_configuration_can_be_a_config_map_or_a_secret_of_ones_own() {
    let Some(tools) = tools() else { return };
    for (value, source) in [
        ("existingConfigMap=own", json!({ "name": "config", "configMap": { "name": "own" } })),
        (
            "existingConfigSecret=own",
            json!({ "name": "config", "secret": { "secretName": "own", "defaultMode": 0o440 } }),
        ),
    ] {
        let documents = documents(tools, &[value]);
        succeeded("validation", tools.validate(&json!({ "chart": documents })));
        assert!(of_kind(&documents, "ConfigMap").is_empty());
        for pod in documents.iter().filter_map(pod) {
            assert_eq!(pod["volumes"][0], source);
        }
    }
}

/// The alerts of `deploy/prometheus`, whatever they are.
#[test]
fn the_chart_ships_the_rules_and_the_dashboards_as_they_are() {
    let Some(tools) = tools() else { return };
    let rules = tools.documents(&read("deploy/prometheus/rules.yml")).remove(0);
    let documents = &tools.all[&chart_with(EVERYTHING)];
    let rule = of_kind(documents, "PrometheusRule")[0];
    assert_eq!(rule["spec"], rules);
    assert_eq!(rule["metadata"]["labels"]["release"], "prometheus");
    let mut shipped = BTreeSet::new();
    for map in of_kind(documents, "ConfigMap").iter().filter(|map| map["data"]["config.toml"].is_null()) {
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
        assert_eq!(map["metadata"]["annotations"]["grafana_folder"], "Identity");
        for (file, text) in map["data"].as_object().unwrap() {
            assert_eq!(text.as_str().unwrap().trim_end(), read(&format!("dashboards/{file}")).trim_end());
            shipped.insert(file.clone());
        }
    }
    let there = std::fs::read_dir(root().join("dashboards")).unwrap();
    let there = there.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(shipped, there.filter(|name| name.ends_with(".json")).collect());
}

#[test]
fn alerts_can_be_left_out_and_have_labels_and_runbooks_of_ones_own() {
    let Some(tools) = tools() else { return };
    let alerts = |documents: &[Value]| -> Vec<Value> {
        let groups = items(&of_kind(documents, "PrometheusRule")[0]["spec"], "groups").cloned().collect::<Vec<_>>();
        groups.iter().flat_map(|group| items(group, "rules")).filter(|rule| !rule["alert"].is_null()).cloned().collect()
    };
    let all = alerts(&tools.all[&chart_with(EVERYTHING)]);
    let left_out = all[0]["alert"].as_str().unwrap();
    let page = "https://git.example.org/docs/runbooks.md";
    let values = [
        "prometheusRule.enabled=true".to_owned(),
        "prometheusRule.alertLabels.team=7".to_owned(),
        format!("prometheusRule.runbookUrl={page}"),
        format!("prometheusRule.disabledAlerts[0]={left_out}"),
    ];
    let rendered = documents(tools, &values.each_ref().map(String::as_str));
    succeeded("validation", tools.validate(&json!({ "chart": rendered })));
    let chosen = alerts(&rendered);
    // An alert may have a rule for each of its severities.
    let kept: Vec<_> = all.iter().filter(|alert| alert["alert"] != left_out).collect();
    assert!(kept.len() < all.len());
    assert_eq!(chosen.len(), kept.len());
    for (alert, before) in chosen.iter().zip(kept) {
        assert_eq!(alert["labels"]["team"], "7");
        assert_eq!(alert["labels"]["severity"], before["labels"]["severity"]);
        let anchor = before["annotations"]["runbook_url"].as_str().unwrap().split_once('#').unwrap().1;
        assert_eq!(alert["annotations"]["runbook_url"], format!("{page}#{anchor}"));
        assert_eq!(alert["annotations"].get("dashboard_url"), None, "no link to the example's Grafana");
    }
    let grafana = ["prometheusRule.enabled=true", "prometheusRule.grafanaUrl=https://grafana.example.org/"];
    for alert in alerts(&documents(tools, &grafana)) {
        let url = alert["annotations"]["dashboard_url"].as_str().unwrap();
        assert!(url.starts_with("https://grafana.example.org/d/cognito-"), "{url}");
    }
}

/// A chart with this one as its dependency.
fn umbrella(values: &str, set: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    file(
        "Chart.yaml",
        "apiVersion: v2\nname: platform\nversion: 1.0.0\ndependencies:\n  - name: cognito-auth-exporter\n    version: \
         \">=0.0.0-0\"\n    condition: cognito-auth-exporter.enabled\n",
    );
    file("values.yaml", values);
    let charts = folder.path().join("charts");
    std::fs::create_dir(&charts).unwrap();
    // Copied, because helm takes no link to a directory as a dependency.
    let copied = Command::new("cp").arg("-r").arg(root().join(CHART)).arg(charts.join(NAME)).status().unwrap();
    assert!(copied.success());
    let path = folder.path().to_str().unwrap();
    let set: Vec<&str> = set.iter().flat_map(|value| ["--set", value]).collect();
    text(helm(&[&["template", "release", path], set.as_slice()].concat()))
}

#[test]
fn a_chart_with_this_one_as_a_dependency_configures_it_and_switches_it_off() {
    let Some(tools) = tools() else { return };
    let values = "\
global:
  imageRegistry: registry.example.com
  team: identity
tags:
  any: true
cognito-auth-exporter:
  enabled: true
  config: |
    [[pools]]
    id = \"eu-west-1_Example01\"
  podSecurityContext:
    runAsUser: null
";
    let documents = tools.documents(&umbrella(values, &[]));
    succeeded("validation", tools.validate(&json!({ "umbrella": documents })));
    let workload = workload(&documents);
    assert_eq!(workload["metadata"]["name"], "release-cognito-auth-exporter");
    let image = daemon(pod(workload).unwrap()).unwrap()["image"].as_str().unwrap();
    assert!(image.starts_with("registry.example.com/cognito-auth-exporter:"), "{image}");
    assert_eq!(umbrella(values, &["cognito-auth-exporter.enabled=false"]).trim(), "");
    // And without a condition.
    assert_eq!(text(helm(&["template", NAME, CHART, "--set", "enabled=false"])).trim(), "");
}

/// A label takes no plus, which a version of a chart may have.
#[test]
fn a_version_with_build_metadata_makes_a_label() {
    let Some(tools) = tools() else { return };
    let folder = tempfile::tempdir().unwrap();
    let packed = ["package", CHART, "--version", "1.2.3+4", "--destination", folder.path().to_str().unwrap()];
    succeeded("helm package", helm(&packed));
    let archive = folder.path().join(format!("{NAME}-1.2.3+4.tgz"));
    let rendered = text(helm(&with_values(&["template", NAME, archive.to_str().unwrap()], &[])));
    for document in tools.documents(&rendered).iter().filter(|document| document["kind"] != "Pod") {
        assert_eq!(document["metadata"]["labels"]["helm.sh/chart"], "cognito-auth-exporter-1.2.3_4");
    }
}

/// The paths of all values: of the defaults, or of the schema. A map that is Kubernetes' own is one value.
fn paths(value: &Value, of: &impl Fn(&Value) -> Option<serde_json::Map<String, Value>>, prefix: &str) -> Vec<String> {
    let Some(map) = of(value).filter(|map| !map.is_empty()) else { return vec![prefix.to_owned()] };
    map.iter()
        .flat_map(|(key, value)| {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            paths(value, of, &path)
        })
        .collect()
}

#[test]
fn every_value_has_a_default_a_schema_and_a_use() {
    let Some(tools) = tools() else { return };
    let defaults = tools.documents(&read(&format!("{CHART}/values.yaml"))).remove(0);
    let schema: Value = serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).unwrap();
    let resolved = |value: &Value| match value["$ref"].as_str() {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap().clone(),
        None => value.clone(),
    };
    let of_schema: BTreeSet<String> =
        paths(&schema, &|value| resolved(value)["properties"].as_object().cloned(), "").into_iter().collect();
    let with_defaults: BTreeSet<String> = paths(&defaults, &|value| value.as_object().cloned(), "")
        .into_iter()
        // A map of Kubernetes has keys of its own.
        .map(|path| of_schema.iter().find(|known| path.starts_with(&format!("{known}."))).unwrap_or(&path).clone())
        .collect();
    // The parts of a resources map.
    let of_schema: BTreeSet<String> = of_schema.into_iter().filter(|path| path != "resources.claims").collect();
    assert_eq!(with_defaults, of_schema);

    let mut templates = String::new();
    for entry in std::fs::read_dir(root().join(CHART).join("templates")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            templates += &std::fs::read_to_string(path).unwrap();
        }
    }
    for used in templates.split("Values.").skip(1) {
        let path: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '.').collect();
        let pointer = format!("/{}", path.trim_end_matches('.').replace('.', "/"));
        assert!(defaults.pointer(&pointer).is_some(), "a template uses {path}, which has no default");
    }
    for key in defaults.as_object().unwrap().keys() {
        let is_used = templates.contains(&format!("Values.{key}")) || templates.contains(&format!("\"{key}\""));
        assert!(is_used, "no template uses {key}");
    }
}

#[test]
fn the_readme_and_the_files_of_the_chart_are_fresh() {
    let Some(python) = peers::python_with("yaml") else { return };
    let output = Command::new(python).arg(root().join("deploy/helm/generate.py")).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every example of the chart's README, with the configuration that its text names.
#[test]
fn the_examples_of_the_readme_render_what_kubernetes_takes() {
    let Some(tools) = tools() else { return };
    let folder = tempfile::tempdir().unwrap();
    let page = read(&format!("{CHART}/README.md"));
    let mut examples = BTreeMap::new();
    for example in page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
        let file = folder.path().join("values.yaml");
        std::fs::write(&file, example).unwrap();
        let arguments = ["template", NAME, CHART, "--values", file.to_str().unwrap()];
        examples.insert(example.to_owned(), text(helm(&with_values(&arguments, &[]))));
    }
    let examples = tools.documents_of(&examples);
    assert!(examples.len() >= 7 && examples.values().all(|documents| documents.len() > 5), "{examples:?}");
    succeeded("validation", tools.validate(&json!(examples)));
}

/// The notes say what to do next, and what does not work as one would think.
#[test]
fn the_notes_fit_the_values() {
    let Some(_tools) = tools() else { return };
    let notes = |values: &[&str]| {
        let arguments = ["install", NAME, CHART, "--namespace", "identity", "--dry-run=client"];
        let text = text(helm(&with_values(&arguments, values)));
        text.split_once("NOTES:\n").unwrap().1.to_owned()
    };
    for (values, said, unsaid) in [
        (&[][..], "helm -n identity test cognito-auth-exporter", "WARNING"),
        (&["shards=3"], "as 3 instances", "as 1 instance"),
        (TRIAL, "Every restart resets the counters", "only connect"),
        (PASSWORDS, "Kubernetes has no password for them", "WARNING"),
        (STOPPED, "go on with stopped=false", "rollout"),
        (
            &["maintenance.enabled=true"],
            "kubectl -n identity exec cognito-auth-exporter-0 -c exporter -- /usr/bin/cognito-auth-exporter quarantine list",
            "rollout",
        ),
        (&["configReload=false"], "A change of `config` restarts the pods.", "within about two minutes"),
    ] {
        let notes = notes(values);
        assert!(notes.contains(said) && !notes.contains(unsaid), "{values:?}: {notes}");
    }
}

/// A maintenance that polled, or was ended by a probe, would be none.
#[test]
fn in_maintenance_the_pods_have_the_volume_and_no_exporter() {
    let Some(tools) = tools() else { return };
    let values = ["maintenance.enabled=true", "shards=2", "extraArgs={--config,/etc/x.toml}"];
    let documents = documents(tools, &values);
    succeeded("validation", tools.validate(&json!({ "chart": documents })));
    let workload = workload(&documents);
    let daemon = daemon(pod(workload).unwrap()).unwrap();
    assert_eq!((&daemon["args"], &workload["spec"]["replicas"]), (&json!(["idle"]), &json!(2)));
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(daemon[probe].is_null(), "{probe}");
    }
    let running = self::documents(tools, &["shards=2"]);
    let of_daemon = super::daemon(pod(super::workload(&running)).unwrap()).unwrap();
    for key in ["env", "volumeMounts", "image", "securityContext", "resources"] {
        assert_eq!(daemon[key], of_daemon[key], "{key}");
    }
    for key in ["volumeClaimTemplates", "selector", "serviceName"] {
        assert_eq!(workload["spec"][key], super::workload(&running)["spec"][key], "{key}");
    }
}

/// The peer reads what the chart's test gives it, so a mistake in the test is seen.
#[test]
fn a_value_that_is_no_text_would_be_refused_in_an_annotation() {
    let Some(tools) = tools() else { return };
    let rendered = text(template(NAME, &["podAnnotations.example\\.com/port=10588"]));
    let wrong = rendered.replace("example.com/port: \"10588\"", "example.com/port: 10588");
    assert_ne!(rendered, wrong);
    let documents = tools.documents(&wrong);
    assert!(!peer(&tools.python, "validate", &json!({ "chart": documents }).to_string()).status.success());
}
