//! Programs that others wrote, to test against: used where they are installed, and in CI they have to be.

#![allow(dead_code, reason = "shared by test crates, each of which uses its own part")]

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

/// Whether a program is installed. Without it a line that says so; in CI a failure.
#[expect(clippy::print_stdout, reason = "a skipped test says so where tests speak")]
pub(crate) fn has(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let has = version.is_ok_and(|status| status.success());
    let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(has || !is_ci, "{program} has to be installed in CI");
    if !has {
        println!("skipped: {program} is not installed");
    }
    has
}

/// A library to preload that fakes the time of day. Without it, None and a line that says so; in CI a failure.
#[expect(clippy::print_stdout, reason = "a skipped test says so where tests speak")]
pub(crate) fn faketime() -> Option<PathBuf> {
    let library = |folder: &str| PathBuf::from(folder).join("faketime/libfaketimeMT.so.1");
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let found = folders.into_iter().map(library).find(|library| library.exists());
    let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(found.is_some() || !is_ci, "libfaketime has to be installed in CI");
    if found.is_none() {
        println!("skipped: libfaketime is not installed");
    }
    found
}

/// Whether a program that others wrote is installed. Where it is not, a line says that the test skips; in CI a failure.
#[expect(clippy::print_stdout, reason = "a skipped test says so where tests speak")]
pub(crate) fn has_program(program: &str) -> bool {
    let mut command = Command::new(program);
    let is_there = command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|ended| ended.success());
    let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(is_there || !is_ci, "{program} has to be installed in CI");
    if !is_there {
        println!("skipped: {program} is not installed");
    }
    is_there
}

/// A command line on a terminal of its own, which is what comes out of stdout; for where [`has_program`] finds `script`.
pub(crate) fn on_terminal(line: &str) -> Command {
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", line, "/dev/null"]).stdin(Stdio::null());
    command.envs([("SHELL", "/bin/sh"), ("TERM", "xterm")]);
    command
}
