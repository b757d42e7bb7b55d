//! Style that a compiler does not check: which module may know which, and what a file looks like.

use std::fs;
use std::path::{Path, PathBuf};

/// What is pure beside the core: no runtime, no I/O, no clock, no logging, and of this crate only what is pure itself or a port.
const PURE: &[&str] = &[
    "poller/history_progress",
    "poller/health",
    "poller/user_table",
    "poller/twins",
    "sink/otlp/size",
    "targets/exclusion",
    "targets/names",
    "targets/selection",
    "targets/listing_pass",
    "trouble",
];

/// Traits and plain data between the core and the outside; pure but for the futures in their signatures.
const PORTS: &[&str] = &["sink", "source"];

/// What pure code may not name. Of the core the compiler checks the crates, and this list the standard library.
const IMPURE: &[&str] = &[
    "tokio",
    "tracing",
    "hyper",
    "sled",
    "prometheus",
    "aws_",
    "std::fs",
    "TcpStream",
    "UdpSocket",
    "std::env",
    "std::process",
    "SystemTime",
    "Instant::now",
    "println!",
];

/// The adapters, and who besides themselves may know them.
const ADAPTERS: &[(&str, &[&str])] = &[
    ("source::cognito", &["app", "cli"]),
    ("sink::otlp", &["app", "cli"]),
    ("sink::stdout", &["app", "cli"]),
    ("crate::app", &["cli"]),
    ("crate::cli", &[]),
    ("cognito_auth_simulator", &["cli"]),
];

/// Crates that one module keeps to itself.
const KEPT: &[(&str, &str)] = &[
    ("sled::", "ledger"),
    ("prometheus::", "metrics"),
    ("figment::", "config"),
    ("aws_sdk_cognitoidentityprovider", "source"),
];

struct Source {
    /// Path below `src` without `.rs`, such as `sink/otlp`; of the other packages with their folder, such as `crates/core/walk`.
    module: String,
    /// The code in front of the tests, without comments.
    code: String,
    text: String,
}

impl Source {
    fn within(&self, module: &str) -> bool {
        self.module == module || self.module.strip_prefix(module).is_some_and(|rest| rest.starts_with('/'))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![];
    for folder in ["src", "crates/core/src", "crates/simulator/src"] {
        gather(&root.join(folder), &mut files);
    }
    files.sort();
    let sources = files.iter().map(|file| {
        let text = fs::read_to_string(file).unwrap();
        let module = file.strip_prefix(root).unwrap().with_extension("");
        let module = match module.strip_prefix("src") {
            Ok(module) => module.to_owned(),
            Err(_) => module.iter().filter(|folder| *folder != "src").collect(),
        };
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        Source {
            module: module.to_str().unwrap().to_owned(),
            code: code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n"),
            text,
        }
    });
    sources.filter(|source| !source.module.ends_with("/tests")).collect()
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Fails with every finding at once.
fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn every_file_says_what_it_is_and_none_is_called_mod() {
    let mut findings = vec![];
    for Source { module, text, .. } in sources() {
        if !text.starts_with("//! ") {
            findings.push(format!("{module}: does not begin with a `//!` that says what it is"));
        }
        if module == "mod" || module.ends_with("/mod") {
            findings.push(format!("{module}: belongs beside its folder, as foo.rs"));
        }
    }
    none(&findings);
}

#[test]
fn a_lint_is_expected_with_a_reason_and_never_just_allowed() {
    let mut findings = vec![];
    for Source { module, code, .. } in sources() {
        if code.contains("#[allow(") || code.contains("#![allow(") {
            findings.push(format!("{module}: #[expect(.., reason = \"..\")] in place of #[allow(..)]"));
        }
    }
    none(&findings);
}

#[test]
fn the_core_is_pure() {
    let mut findings = vec![];
    for source in sources() {
        let in_core = source.within("crates/core");
        if !in_core && !PURE.contains(&source.module.as_str()) {
            continue;
        }
        for impure in IMPURE {
            if source.code.contains(impure) {
                findings.push(format!("{}: is pure, and names {impure}", source.module));
            }
        }
        for used in source.code.split("crate::").skip(1).filter(|_| !in_core) {
            let used: String = used.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
            if !PURE.contains(&used.as_str()) && !PORTS.contains(&used.as_str()) {
                findings.push(format!("{}: is pure, and knows {used}", source.module));
            }
        }
    }
    none(&findings);
}

#[test]
fn adapters_are_known_to_those_who_put_the_program_together() {
    let mut findings = vec![];
    for source in sources() {
        if ["lib", "main"].contains(&source.module.as_str()) {
            continue;
        }
        for (adapter, knowers) in ADAPTERS {
            let own = adapter.trim_start_matches("crate::").replace("::", "/");
            let known = source.within(&own) || knowers.iter().any(|knower| source.within(knower));
            if source.code.contains(adapter) && !known {
                findings.push(format!("{}: knows {adapter}", source.module));
            }
        }
        for (kept, keeper) in KEPT {
            if source.code.contains(kept) && !source.within(keeper) && !source.within("cli") {
                findings.push(format!("{}: uses {kept}, which {keeper} keeps to itself", source.module));
            }
        }
    }
    none(&findings);
}
