//! Third-party programs to test against. They are used if installed; in CI they must be.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::skips;

/// The Python interpreter: the one in PEERS_PYTHON, else `python3`.
fn python() -> PathBuf {
    PathBuf::from(std::env::var_os("PEERS_PYTHON").unwrap_or_else(|| "python3".into()))
}

/// The Python interpreter, if it has `module`.
pub(crate) fn python_with(module: &str) -> Option<PathBuf> {
    let python = python();
    let has_module = Command::new(&python)
        .args(["-c", &format!("import {module}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let what = format!("the Python module {module}");
    skips::unless_there(has_module, &what, skips::PYTHON).then_some(python)
}

/// A program that comes as a Python package, beside the interpreter. The option is that for its version.
pub(crate) fn of_packages(program: &str, version: &str) -> Option<PathBuf> {
    let beside = python().with_file_name(program);
    let answer = Command::new(&beside).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    skips::unless_there(answer.is_ok_and(|status| status.success()), program, skips::PYTHON).then_some(beside)
}

/// Whether a program is installed, that is, prints its version.
pub(crate) fn has(program: &str) -> bool {
    has_that_says(program, &["--version"])
}

/// The same for a program with another option for its version.
pub(crate) fn has_that_says(program: &str, version: &[&str]) -> bool {
    let answer = Command::new(program).args(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    skips::unless_there(answer.is_ok_and(|status| status.success()), program, &skips::installing(program))
}

/// Whether strace can trace here.
pub(crate) fn strace_works() -> bool {
    has_that_says("strace", &["-qq", "-o", "/dev/null", "true"])
}

/// A command that runs a script of `tests/peers` with keys that any simulation accepts, and no settings of the machine.
pub(crate) fn boto3_script(python: &Path, script: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(python);
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script))
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("AWS_PROFILE")
        .env_remove("AWS_SESSION_TOKEN");
    command
}

/// What a script of `tests/peers` writes as JSON after it has read all of its input.
pub(crate) fn answer(python: &Path, script: &str, arguments: &[&str], input: &str) -> Value {
    let output = fed(python, script, arguments, input);
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What such a script writes on stderr about an input that it refuses.
pub(crate) fn refusal(python: &Path, script: &str, arguments: &[&str], input: &str) -> String {
    let output = fed(python, script, arguments, input);
    assert!(!output.status.success(), "{script} takes {input}");
    String::from_utf8(output.stderr).unwrap()
}

fn fed(python: &Path, script: &str, arguments: &[&str], input: &str) -> Output {
    let mut command = boto3_script(python, script);
    let piped = command.as_std_mut().args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A library to preload that changes the time of day.
pub(crate) fn faketime() -> Option<PathBuf> {
    let library = |folder: &str| PathBuf::from(folder).join("faketime/libfaketimeMT.so.1");
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let found = folders.into_iter().map(library).find(|library| library.exists());
    skips::unless_there(found.is_some(), "libfaketime", &skips::installing("libfaketime"));
    found
}

/// A command line on a terminal of its own, whose output goes to stdout. Needs `script`: see [`has`].
pub(crate) fn on_terminal(line: &str) -> Command {
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", line, "/dev/null"]).stdin(Stdio::null());
    command.envs([("SHELL", "/bin/sh"), ("TERM", "xterm")]);
    command
}
