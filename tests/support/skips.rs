//! Skipped tests. Each is recorded with what it needs and how to get it, and `cargo test` ends with the list of all
//! (`crates/skipped-tests`). In CI nothing may be skipped.
//!
//! libtest hides the output of tests that pass, but only what the print macros write. So the first skip for a cause is
//! also shown at once, for runs that do not reach the list, such as `cargo test --test all`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::sync::Mutex;

use skipped_tests::Skip;

/// The causes that this process has shown.
static SHOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Returns whether a test has what it needs. If not, it is recorded as skipped, and in CI (CI=true) it fails, unless
/// `.ci/run` has said that the machine cannot have it (PEERS_ABSENT, with commas between). `remedy` is a command that
/// provides what is missing.
pub(crate) fn unless_there(is_there: bool, what: &str, remedy: &str) -> bool {
    let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    let absent = std::env::var("PEERS_ABSENT").unwrap_or_default();
    let is_excused = absent.split(',').any(|name| name == what);
    assert!(is_there || !is_ci || is_excused, "{what} has to be there in CI: {remedy}");
    if !is_there {
        record(what, remedy);
    }
    is_there
}

/// Records that the calling test is skipped.
pub(crate) fn record(missing: &str, remedy: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped-tests");
    let test = std::thread::current();
    let skip = Skip { test: test.name().unwrap_or("main"), missing, remedy };
    skip.record(&folder, parent_id()).unwrap();
    if SHOWN.lock().unwrap().insert(missing.to_owned()) {
        let line = format!("skipping tests that need {missing}: {remedy}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}

/// The command that installs a program.
pub(crate) fn installing(program: &str) -> String {
    let (apt, brew) = match program {
        "kubectl" | "helm" => ("", "kubernetes-cli helm"),
        "promtool" | "prometheus" => ("prometheus", "prometheus"),
        "prometheus-alertmanager" => ("prometheus-alertmanager", "alertmanager"),
        "libfaketime" => ("faketime", ""),
        "chromium" => ("chromium fonts-dejavu-core", ""),
        "script" => ("bsdutils", ""),
        "systemd-analyze" => ("systemd", ""),
        "strace" => ("strace", ""),
        same => (same, same),
    };
    match (cfg!(target_os = "macos"), apt, brew) {
        (true, _, "") => "runs on Linux only".to_owned(),
        (true, _, formula) => format!("brew install {formula}"),
        (false, "", _) => "put kubectl and helm on the PATH, as .ci/run does in target/kube".to_owned(),
        (false, package, _) => format!("apt-get install {package}"),
    }
}

/// The command that installs the Python packages of the tests.
pub(crate) const PYTHON: &str = "python3 -m venv target/peers && target/peers/bin/pip install -r \
     tests/peers/requirements.txt; then PEERS_PYTHON=$PWD/target/peers/bin/python cargo test";
