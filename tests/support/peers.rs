//! Programs that others wrote, to test against: used where they are installed, and in CI they have to be.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A Python that has `module`: the one that PEERS_PYTHON names, else `python3`. Without one, None and a line that says so;
/// in CI (CI=true) a failure, so that nothing is skipped unseen.
#[expect(clippy::print_stdout, reason = "a skipped test says so where tests speak")]
pub(crate) fn python_with(module: &str) -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var_os("PEERS_PYTHON").unwrap_or_else(|| "python3".into()));
    let has_module = Command::new(&python)
        .args(["-c", &format!("import {module}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if has_module {
        return Some(python);
    }
    let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!is_ci, "{module} has to be installed for {} in CI", python.display());
    println!("skipped: {module} is not installed");
    None
}
