//! The commands and manifests of the pages about deploying do what the pages say.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::json;

use super::{KUSTOMIZATIONS, helm, kustomize_directory, of_kind, read, root, succeeded, text, tools, with_values};
use crate::exporter;
use crate::peers;

/// The pages with commands for an operator.
const PAGES: [&str; 7] = [
    "docs/installation.md",
    "docs/kubernetes.md",
    "docs/backup.md",
    "docs/secrets.md",
    "docs/upgrading.md",
    "deploy/README.md",
    "deploy/helm/cognito-auth-exporter/README.md",
];

/// The blocks of code in one language on a page, without their indentation.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = read(page);
    let mut blocks: Vec<String> = Vec::new();
    let mut indentation = None;
    for line in text.lines() {
        let trimmed = line.trim_start();
        match indentation {
            None if trimmed == format!("```{language}") => {
                indentation = Some(line.len() - trimmed.len());
                blocks.push(String::new());
            }
            Some(_) if trimmed == "```" => indentation = None,
            Some(indent) => {
                let block = blocks.last_mut().unwrap();
                block.push_str(line.get(indent..).unwrap_or_default());
                block.push('\n');
            }
            None => {}
        }
    }
    blocks
}

/// Every line of the shell blocks of the pages, with continued lines joined.
fn commands() -> Vec<String> {
    let blocks = PAGES.iter().flat_map(|page| blocks(page, "sh"));
    let joined = blocks.map(|block| block.replace("\\\n", " "));
    let lines = joined.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.map(|line| line.split(" # ").next().unwrap().trim().to_owned()).collect()
}

#[test]
fn the_commands_of_the_documents_render_what_kubernetes_takes() {
    let Some(tools) = tools() else { return };
    let (mut rendered, mut applied) = (BTreeMap::new(), 0);
    for command in commands() {
        let words: Vec<&str> = command.split_whitespace().collect();
        let after = |flag: &str| words.iter().position(|word| *word == flag).map(|at| words[at + 1]);
        if let Some(path) = after("-k") {
            let path = path.strip_prefix("deploy/kubernetes/").unwrap();
            assert!(KUSTOMIZATIONS.contains(&path), "{command}");
            applied += 1;
        }
        if let ["helm", "upgrade", rest @ ..] = words.as_slice() {
            // A release that exists has its configuration already.
            let is_new = rest.contains(&"--install");
            assert!(is_new || rest.contains(&"--reset-then-reuse-values"), "{command}");
            let options = ["--install", "--create-namespace", "--reset-then-reuse-values"];
            let rest: Vec<&str> = rest.iter().copied().filter(|word| !options.contains(word)).collect();
            let arguments = [&["template"], rest.as_slice()].concat();
            let output = if is_new { helm(&arguments) } else { helm(&with_values(&arguments, &[])) };
            rendered.insert(command.clone(), text(output));
        }
        for file in words.iter().filter(|word| word.starts_with("deploy/")) {
            assert!(root().join(file).exists(), "{command}: {file}");
        }
    }
    assert!(applied >= 4 && rendered.len() >= 7, "{applied} {rendered:?}");
    succeeded("validation", tools.validate(&json!(tools.documents_of(&rendered))));
}

/// The commands that the pages run in a pod, with a state that is not there: they fail at work, and none at its usage.
#[test]
fn the_commands_for_a_pod_are_ones_that_the_exporter_has() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[[pools]]\nid = \"eu-west-1_Example01\"\nall_users = true\n";
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    let mut tried = BTreeSet::new();
    for command in commands() {
        let Some((_, line)) = command.split_once("/usr/bin/cognito-auth-exporter ") else { continue };
        let line = line.split(['>', '<']).next().unwrap();
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let output = exporter::command("http://127.0.0.1:9")
            .args(&arguments)
            .current_dir(folder.path())
            .env("COGNITO_EXPORTER_STATE__PATH", folder.path().join("state"))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        tried.insert(arguments.join(" "));
    }
    let expected = [
        "quarantine list",
        "quarantine retry --all",
        "state export",
        "state import --yes -",
        "state show",
        "state verify",
    ];
    assert_eq!(tried, expected.map(str::to_owned).into());
}

#[test]
fn the_manifests_of_the_pages_are_what_kubernetes_takes() {
    let Some(tools) = tools() else { return };
    let mut kinds = BTreeSet::new();
    for page in PAGES {
        for block in blocks(page, "yaml") {
            for document in tools.documents(&block) {
                let Some(version) = document["apiVersion"].as_str() else { continue };
                kinds.insert(document["kind"].as_str().unwrap().to_owned());
                // A snapshot is of an extension, whose schema is not here.
                if document["kind"] == "Kustomization" {
                    let policy = patched(&block);
                    let documents = tools.documents(&policy);
                    succeeded(page, tools.validate(&json!({ "patched": documents })));
                    let policy = of_kind(&documents, "NetworkPolicy")[0];
                    assert_eq!(policy["spec"]["egress"].as_array().unwrap().len(), 7, "{policy}");
                } else if version != "snapshot.storage.k8s.io/v1" {
                    succeeded(page, tools.validate(&json!({ "manifest": [document] })));
                }
            }
        }
    }
    assert_eq!(kinds, ["Kustomization", "PersistentVolumeClaim", "VolumeSnapshot"].map(str::to_owned).into());
}

/// What a kustomization of a page makes of the base.
fn patched(kustomization: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    let copied = Command::new("cp").arg("-r").arg(root().join("deploy/kubernetes/base")).arg(&base).status().unwrap();
    assert!(copied.success());
    let overlay = folder.path().join("overlay");
    std::fs::create_dir(&overlay).unwrap();
    let text = kustomization.replace("../../base", "../base");
    std::fs::write(overlay.join("kustomization.yaml"), text).unwrap();
    kustomize_directory(&overlay)
}

/// A restored claim is found by the StatefulSet's pod, and can be mounted as the one before.
#[test]
fn a_restored_claim_is_the_one_that_the_pod_looks_for() {
    let Some(tools) = tools() else { return };
    let claim = blocks("docs/backup.md", "yaml").into_iter().find(|block| block.contains("PersistentVolumeClaim"));
    let claim = tools.documents(&claim.unwrap()).remove(0);
    let workload = of_kind(&tools.all["base"], "StatefulSet")[0];
    let template = &workload["spec"]["volumeClaimTemplates"][0];
    let name = format!(
        "{}-{}-0",
        template["metadata"]["name"].as_str().unwrap(),
        workload["metadata"]["name"].as_str().unwrap()
    );
    assert_eq!(claim["metadata"]["name"], name);
    for key in ["accessModes", "resources"] {
        assert_eq!(claim["spec"][key], template["spec"][key], "{key}");
    }
}

/// Some builds of promtool know no Kubernetes. So it checks the configuration with other targets.
#[test]
fn prometheus_would_take_the_scrape_configuration() {
    if !peers::has("promtool") {
        return;
    }
    let block = blocks("docs/kubernetes.md", "yaml").into_iter().find(|block| block.starts_with("scrape_configs:"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    let block = block.unwrap();
    let (head, rest) = block.split_once("    kubernetes_sd_configs:\n").unwrap();
    let (targets, relabeling) = rest.split_once("    relabel_configs:\n").unwrap();
    assert!(targets.contains("role: pod"), "{targets}");
    let text =
        format!("{head}    static_configs: [{{targets: [\"127.0.0.1:10588\"]}}]\n    relabel_configs:\n{relabeling}");
    std::fs::write(&file, text).unwrap();
    let checked = Command::new("promtool").args(["check", "config"]).arg(file).output().unwrap();
    succeeded("promtool", checked);
}

/// The pages are for an operator who has this version, and every `kubectl` command names the namespace of the others.
#[test]
fn every_command_names_its_namespace() {
    let cluster_wide = ["create namespace", "label namespace", "taint nodes", "apply -f"];
    for command in commands().iter().filter(|command| command.starts_with("kubectl ")) {
        let has_none = cluster_wide.iter().any(|verb| command.contains(verb));
        assert!(has_none || command.contains("-n cognito-auth-exporter"), "{command}");
    }
}
