//! .github/workflows and the scripts that they start: valid, pinned by commit, with the fewest permissions, and without
//! other people's text in a script. The scripts of single steps run here. No test asks GitHub.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::peers;

const FOLDER: &str = ".github/workflows";
const CI: &str = ".github/workflows/ci.yml";
const RELEASE: &str = ".github/workflows/release.yml";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Variables for git, which otherwise takes the machine's settings.
const GIT_WITHOUT_SETTINGS: [(&str, &str); 2] = [("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

struct Workflow {
    path: String,
    text: String,
    yaml: Value,
}

impl Workflow {
    fn read(path: &str) -> Self {
        let text = read(path);
        let yaml = serde_saphyr::from_str(&text).unwrap();
        Self { path: path.to_owned(), text, yaml }
    }

    fn jobs(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.yaml["jobs"].as_object().unwrap().iter()
    }

    /// Each step with the name of its job.
    fn steps(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.jobs().flat_map(|(name, job)| items(job, "steps").map(move |step| (name, step)))
    }

    /// The scripts that the steps run.
    fn scripts(&self) -> impl Iterator<Item = &str> {
        self.steps().filter_map(|(_, step)| step["run"].as_str())
    }

    /// The script of a step.
    fn script(&self, job: &str, step: &str) -> &str {
        let (_, found) = self.steps().find(|(of, it)| *of == job && it["name"] == step).unwrap();
        found["run"].as_str().unwrap()
    }
}

fn workflows() -> Vec<Workflow> {
    let entries = std::fs::read_dir(root().join(FOLDER)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let workflows: Vec<_> = names.iter().map(|name| Workflow::read(&format!("{FOLDER}/{name}"))).collect();
    for known in [CI, RELEASE] {
        assert!(workflows.iter().any(|workflow| workflow.path == known), "{names:?}");
    }
    workflows
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn is_hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.chars().all(|char| matches!(char, '0'..='9' | 'a'..='f'))
}

/// The output of a program, from both streams.
fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|stream| String::from_utf8_lossy(stream)).concat()
}

/// Runs a step's script as GitHub does.
fn run(script: &str, folder: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new("bash");
    command.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script]).current_dir(folder);
    command.envs(variables.iter().copied()).env("CARGO_NET_OFFLINE", "true");
    command.envs(GIT_WITHOUT_SETTINGS).output().unwrap()
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=Test", "-c", "user.email=test@example.com"]).args(arguments);
    let output = command.current_dir(folder).envs(GIT_WITHOUT_SETTINGS).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A copy of release.yml with this error in it.
fn with_error(folder: &Path, there: &str, wrong: &str) -> PathBuf {
    let right = read(RELEASE);
    assert!(right.contains(there), "{there}");
    let file = folder.join("release.yml");
    std::fs::write(&file, right.replacen(there, wrong, 1)).unwrap();
    file
}

#[test]
fn actionlint_finds_nothing_in_the_workflows() {
    let Some(actionlint) = peers::of_packages("actionlint", "-version") else { return };
    let Some(shellcheck) = peers::of_packages("shellcheck", "--version") else { return };
    let lint = |file: &Path| {
        let mut command = Command::new(&actionlint);
        command.current_dir(root()).args(["-no-color", "-pyflakes="]).arg("-shellcheck").arg(&shellcheck);
        command.arg(file).output().unwrap()
    };
    for workflow in workflows() {
        let output = lint(Path::new(&workflow.path));
        assert!(output.status.success(), "{}", said(&output));
    }
    let folder = tempfile::tempdir().unwrap();
    for (there, wrong, found) in [
        ("needs: [checks, build]", "needs: [checks, biuld]", "\"biuld\" which does not exist"),
        ("if [ \"$TAG\"", "if [ $TAG", "SC2086"),
        ("release.sh publish", "release.sh publish ${{ github.head_ref }}", "potentially untrusted"),
    ] {
        let output = lint(&with_error(folder.path(), there, wrong));
        assert!(!output.status.success() && said(&output).contains(found), "{wrong}: {}", said(&output));
    }
}

#[test]
fn zizmor_finds_nothing_in_the_workflows() {
    let Some(zizmor) = peers::of_packages("zizmor", "--version") else { return };
    let audit = |path: &Path| {
        let mut command = Command::new(&zizmor);
        command.args(["--offline", "--quiet", "--color", "never", "--persona", "pedantic", "--no-config"]);
        command.current_dir(root()).arg(path).output().unwrap()
    };
    let output = audit(Path::new(FOLDER));
    assert!(output.status.success(), "{}", said(&output));
    let folder = tempfile::tempdir().unwrap();
    for (there, wrong, found) in [
        ("release.sh publish", "release.sh publish ${{ github.head_ref }}", "template-injection"),
        ("cosign-installer@", "cosign-installer@v4 # ", "unpinned-uses"),
    ] {
        let output = audit(&with_error(folder.path(), there, wrong));
        assert!(!output.status.success() && said(&output).contains(found), "{wrong}: {}", said(&output));
    }
}

/// The shell scripts of a folder and of those in it.
fn shell_scripts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            shell_scripts(&path, found);
        } else {
            let bytes = std::fs::read(&path).unwrap();
            let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
            if first.starts_with(b"#!") && first.ends_with(b"sh") {
                found.push(path);
            }
        }
    }
}

#[test]
fn shellcheck_finds_nothing_in_the_scripts() {
    let Some(shellcheck) = peers::of_packages("shellcheck", "--version") else { return };
    let mut scripts = vec![];
    for folder in [".ci", "deploy"] {
        shell_scripts(&root().join(folder), &mut scripts);
    }
    for known in [".ci/run", ".ci/release-tools", "deploy/release/release.sh", "deploy/image.sh", "deploy/layout.sh"] {
        assert!(scripts.contains(&root().join(known)), "{known}: {scripts:?}");
    }
    let output = Command::new(shellcheck).arg("--color=never").args(&scripts).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

/// A tag can be moved to other code, a commit cannot. One action has one commit everywhere.
#[test]
fn every_action_is_pinned_by_its_commit_and_names_its_version() {
    let is_version = |text: &str| {
        let numbers = text.strip_prefix('v').unwrap_or_default();
        numbers.split('.').count() == 3 && numbers.split('.').all(|number| number.parse::<u32>().is_ok())
    };
    let mut pins: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Workflow { path, text, yaml } in workflows() {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let uses: Vec<&str> = lines.filter_map(|line| line.split_once("uses: ")).map(|(_, used)| used).collect();
        let jobs = || yaml["jobs"].as_object().unwrap().values();
        let in_jobs = jobs().filter(|job| !job["uses"].is_null()).count();
        let in_steps = jobs().flat_map(|job| items(job, "steps")).filter(|step| !step["uses"].is_null()).count();
        assert_eq!(uses.len(), in_jobs + in_steps, "{path}");
        for used in uses {
            if let Some(own) = used.strip_prefix("./") {
                let file = own.split(' ').next().unwrap();
                assert!(root().join(file).is_file(), "{path}: {file}");
                continue;
            }
            let (action, pin) = used.split_once('@').unwrap();
            let (commit, version) = pin.split_once(" # ").unwrap_or((pin, ""));
            assert!(is_hexadecimal(commit, 40) && is_version(version), "{path}: {used}");
            pins.entry(action.to_owned()).or_default().insert(pin.to_owned());
        }
    }
    for (action, pins) in pins {
        assert_eq!(pins.len(), 1, "{action}: {pins:?}");
    }
}

/// One compiler builds the tests, the release and the image.
#[test]
fn every_container_is_one_image_pinned_by_tag_and_digest() {
    let workflows = workflows();
    let containers = workflows.iter().flat_map(Workflow::jobs).filter(|(_, job)| !job["container"].is_null());
    let images: BTreeSet<&str> = containers.map(|(_, job)| job["container"]["image"].as_str().unwrap()).collect();
    let [image] = images.iter().collect::<Vec<_>>()[..] else { panic!("{images:?}") };
    let (tag, digest) = image.split_once("@sha256:").unwrap();
    assert!(is_hexadecimal(digest, 64), "{image}");
    let rust = tag.strip_prefix("rust:").unwrap().strip_suffix("-bookworm").unwrap();
    assert!(read("deploy/compose/compose.yaml").contains(&format!("rust:{rust}-slim-bookworm@")), "{rust}");
}

#[test]
fn the_workflows_start_scripts_that_are_there() {
    let mut named = BTreeSet::new();
    for workflow in workflows() {
        for word in workflow.scripts().flat_map(|script| script.split_whitespace()) {
            if !["./", ".ci/", "deploy/", "tests/", ".github/"].iter().any(|folder| word.starts_with(folder)) {
                continue;
            }
            let metadata = std::fs::metadata(root().join(word));
            let metadata = metadata.unwrap_or_else(|error| panic!("{}: {word}: {error}", workflow.path));
            let is_script = word.starts_with(".ci/") || word.ends_with(".sh");
            assert!(!is_script || metadata.permissions().mode() & 0o111 == 0o111, "{word} cannot be executed");
            named.insert(word.to_owned());
        }
    }
    for expected in [".ci/release-tools", ".ci/run", "deploy/release/release.sh"] {
        assert!(named.contains(expected), "{expected}: {named:?}");
    }
}

#[test]
fn only_the_jobs_that_publish_may_write() {
    let mut written = BTreeSet::new();
    for workflow in workflows() {
        assert_eq!(workflow.yaml["permissions"], json!({ "contents": "read" }), "{}", workflow.path);
        for (name, job) in workflow.jobs() {
            let permissions = &job["permissions"];
            assert!(permissions.is_null() || permissions.is_object(), "{name}: {permissions}");
            for (scope, access) in permissions.as_object().into_iter().flatten() {
                if access != "read" {
                    written.insert(format!("{} {name} {scope}", workflow.path));
                }
            }
        }
    }
    // crates.io takes the token of an identity, and no secret.
    let expected =
        ["crates id-token", "publish attestations", "publish contents", "publish id-token", "publish packages"];
    assert_eq!(written, BTreeSet::from(expected.map(|expected| format!("{RELEASE} {expected}"))));
}

/// Maintainers approve the environment, and the secrets are in it. The workflow of a pull request has neither.
#[test]
fn what_writes_anywhere_is_approved_first() {
    let mut approved = BTreeSet::new();
    for workflow in workflows() {
        for (name, job) in workflow.jobs() {
            if job["environment"].is_null() {
                let job = job.to_string();
                assert!(!job.contains("secrets") && !job.contains("github.token"), "{}: {job}", workflow.path);
            } else {
                assert_eq!(job["environment"], "release", "{}: {name}", workflow.path);
                approved.insert(name.clone());
            }
        }
    }
    assert_eq!(approved, BTreeSet::from(["crates", "publish", "tap"].map(str::to_owned)));
    assert_eq!(Workflow::read(RELEASE).yaml["on"], json!({ "push": { "tags": ["v*"] } }));
    let ci = Workflow::read(CI);
    let triggers: BTreeSet<&str> = ci.yaml["on"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(triggers, BTreeSet::from(["merge_group", "pull_request", "push", "schedule", "workflow_call"]));
}

/// An expression in a script is text that becomes code. A variable of the environment stays text.
#[test]
fn no_script_holds_an_expression() {
    let mut scripts = 0;
    for workflow in workflows() {
        for script in workflow.scripts() {
            assert!(!script.contains("${{"), "{}: {script}", workflow.path);
            scripts += 1;
        }
    }
    assert!(scripts > 10, "{scripts}");
}

#[test]
fn no_checkout_keeps_its_token_and_every_job_ends() {
    for workflow in workflows() {
        for (job, step) in workflow.steps() {
            if step["uses"].as_str().is_some_and(|used| used.starts_with("actions/checkout@")) {
                assert_eq!(step["with"]["persist-credentials"], false, "{}: {job}", workflow.path);
            }
        }
        for (name, job) in workflow.jobs().filter(|(_, job)| job["uses"].is_null()) {
            assert!(job["timeout-minutes"].as_u64().is_some_and(|minutes| minutes <= 90), "{}: {name}", workflow.path);
        }
    }
}

#[test]
fn a_release_is_checked_built_and_published_in_this_order() {
    let release = Workflow::read(RELEASE);
    let jobs = &release.yaml["jobs"];
    assert_eq!(jobs["checks"]["uses"], format!("./{CI}"));
    assert_eq!(jobs["publish"]["needs"], json!(["checks", "build"]));
    assert_eq!(jobs["tap"]["needs"], "publish");
    assert_eq!(jobs["crates"]["needs"], json!(["publish", "packages"]));
    // A job that can sign as this workflow compiles nothing: a build script of a dependency would run beside the token.
    for (name, step) in release.steps().filter(|(name, _)| !jobs[*name]["permissions"]["id-token"].is_null()) {
        let script = step["run"].as_str().unwrap_or_default();
        let compiles = ["cargo build", "cargo test", "cargo install", "cargo package", ".ci/", "release.sh build"];
        assert!(!compiles.iter().any(|command| script.contains(command)), "{name}: {script}");
        assert!(!script.contains("cargo publish") || script.contains("--no-verify"), "{name}: {script}");
    }
    assert!(!release.text.contains("cache@"), "a release is built from what the tag holds");
    let ci = Workflow::read(CI);
    let checks = &ci.yaml["jobs"]["checks"];
    assert!(checks["if"].is_null() && items(checks, "steps").any(|step| step["run"] == "bash .ci/run"));

    let steps: Vec<&Value> = items(&jobs["publish"], "steps").collect();
    let place = |name: &str| steps.iter().position(|step| step["name"] == name).unwrap();
    let order = [
        "The files are those that were built",
        "Attest the files' provenance",
        "Sign and publish",
        "The image that was pushed",
        "Attest the image's provenance",
    ]
    .map(place);
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn one_line_says_where_a_release_goes() {
    let mut places = vec![];
    for Workflow { path, text, .. } in workflows() {
        let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        places.extend(code.filter(|line| line.contains("ghcr.io")).map(|line| format!("{path}: {line}")));
    }
    assert_eq!(places, [format!("{RELEASE}:   REGISTRY: ghcr.io/${{{{ github.repository_owner }}}}")]);
}

#[test]
fn a_tag_that_is_not_the_version_is_refused() {
    let release = Workflow::read(RELEASE);
    let script = release.script("build", "The tag is the version of Cargo.toml");
    let right = format!("v{VERSION}");
    let output = run(script, root(), &[("TAG", right.as_str())]);
    assert!(output.status.success(), "{}", said(&output));
    let candidate = format!("v{VERSION}-rc.1");
    for wrong in ["v99.0.0", VERSION, candidate.as_str(), "v"] {
        let output = run(script, root(), &[("TAG", wrong)]);
        let expected =
            format!("the tag is {wrong}, and the version in Cargo.toml is {VERSION}: the tag has to be {right}");
        assert!(!output.status.success() && said(&output).contains(&expected), "{wrong}: {}", said(&output));
    }
}

#[test]
fn a_change_of_what_is_released_makes_a_release_that_is_not_published() {
    if !peers::has("git") {
        return;
    }
    let ci = Workflow::read(CI);
    let script = ci.script("changes", "Whether it changes what is released");
    let folder = tempfile::tempdir().unwrap();
    let (at, output) = (folder.path(), folder.path().join(".git/output"));
    git(at, &["init", "--quiet"]);
    git(at, &["commit", "--quiet", "--allow-empty", "--message", "first"]);
    for (file, touches) in [
        ("src/main.rs", false),
        ("deploy/release/release.sh", true),
        ("docs/faq.md", false),
        ("Cargo.lock", true),
        ("crates/core/Cargo.toml", true),
        (".ci/run", false),
        (".ci/release-tools", true),
        (".ci/kube", true),
        ("tests/release/packages.rs", true),
        ("tests/peers/formula.rb", true),
        (CI, true),
        (RELEASE, true),
    ] {
        std::fs::create_dir_all(at.join(file).parent().unwrap()).unwrap();
        std::fs::write(at.join(file), file).unwrap();
        git(at, &["add", "--all"]);
        git(at, &["commit", "--quiet", "--message", file]);
        std::fs::write(&output, "").unwrap();
        let ran = run(script, at, &[("GITHUB_OUTPUT", output.to_str().unwrap())]);
        assert!(ran.status.success(), "{}", said(&ran));
        assert_eq!(std::fs::read_to_string(&output).unwrap(), format!("release={touches}\n"), "{file}");
    }
}

/// A registry takes lower case alone. The attestation has to name what was pushed.
#[test]
fn the_attestation_names_the_image_in_lower_case() {
    let release = Workflow::read(RELEASE);
    let script = release.script("publish", "The image that was pushed");
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    std::fs::create_dir_all(folder.path().join("target/dist")).unwrap();
    std::fs::write(folder.path().join("target/dist/image.digest"), "sha256:0123\n").unwrap();
    let variables = [("REGISTRY", "ghcr.io/Some-Body"), ("GITHUB_OUTPUT", output.to_str().unwrap())];
    let ran = run(script, folder.path(), &variables);
    assert!(ran.status.success(), "{}", said(&ran));
    let expected = "name=ghcr.io/some-body/cognito-auth-exporter\ndigest=sha256:0123\n";
    assert_eq!(std::fs::read_to_string(output).unwrap(), expected);
}

#[test]
fn the_tap_gets_the_formula_once() {
    if !peers::has("git") {
        return;
    }
    let release = Workflow::read(RELEASE);
    let script = release.script("tap", "Push the formula");
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    git(at, &["init", "--quiet", "--bare", "--initial-branch", "main", "origin"]);
    git(at, &["clone", "--quiet", "origin", "tap"]);
    git(&at.join("tap"), &["symbolic-ref", "HEAD", "refs/heads/main"]);
    git(&at.join("tap"), &["commit", "--quiet", "--allow-empty", "--message", "first"]);
    git(&at.join("tap"), &["push", "--quiet", "origin", "HEAD:main"]);
    std::fs::create_dir(at.join("dist")).unwrap();
    let (one, two) = ("  version \"1.9.0\"\n", "  version \"1.10.0\"\n");
    for (formula, tag, commits) in [(one, "v1.9.0", 2), (one, "v1.9.0", 2), (two, "v1.10.0", 3)] {
        std::fs::write(at.join("dist/cognito-auth-exporter.rb"), formula).unwrap();
        let ran = run(script, at, &[("TAG", tag), ("TAP_TOKEN", "unused")]);
        assert!(ran.status.success(), "{}", said(&ran));
        let log = git(&at.join("origin"), &["log", "--format=%s", "main"]);
        assert_eq!(log.lines().count(), commits, "{log}");
        assert!(log.starts_with(&format!("cognito-auth-exporter {}\n", tag.trim_start_matches('v'))), "{log}");
        assert_eq!(git(&at.join("origin"), &["show", "main:Formula/cognito-auth-exporter.rb"]), formula);
    }
    // A patch of an older version is no reason to go back.
    std::fs::write(at.join("dist/cognito-auth-exporter.rb"), one).unwrap();
    let ran = run(script, at, &[("TAG", "v1.9.1"), ("TAP_TOKEN", "unused")]);
    assert!(ran.status.success() && said(&ran).contains("the tap has 1.10.0, which is newer"), "{}", said(&ran));
    assert_eq!(git(&at.join("origin"), &["show", "main:Formula/cognito-auth-exporter.rb"]), two);
}
