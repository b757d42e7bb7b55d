//! Style that a compiler does not check: the allowed imports between modules, and the form of a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Pure modules outside the core: no runtime, no I/O, no clock, no logging. Of this crate they import only pure modules
/// and ports.
const PURE: &[&str] = &[
    "export/log_group/health",
    "poller/history_progress",
    "poller/health",
    "poller/user_table",
    "sink/otlp/protobuf",
    "trouble",
];

/// Traits and plain data between the core and the outside. They are pure except for the futures in their signatures.
const PORTS: &[&str] = &["sink", "source", "source/log_events"];

/// Names that pure code may not use. In the core the compiler checks the crates, and this list the standard library.
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

/// The adapters, and the modules that may import each of them.
const ADAPTERS: &[(&str, &[&str])] = &[
    ("source::cognito", &["app", "cli"]),
    ("sink::otlp", &["app", "cli"]),
    ("sink::stdout", &["app", "cli"]),
    ("export::firehose", &["app", "cli"]),
    ("crate::app", &["cli"]),
    ("crate::cli", &[]),
    ("cognito_auth_simulator", &["cli"]),
];

/// Crates that only one module may use.
const KEPT: &[(&str, &str)] = &[
    ("sled::", "ledger/engine"),
    ("prometheus::", "metrics"),
    ("figment::", "config"),
    ("aws_sdk_cognitoidentityprovider", "source"),
    ("aws_sdk_cloudwatchlogs", "source"),
];

struct SourceFile {
    /// The path below `src` without `.rs`, such as `sink/otlp`. For the other packages it includes the folder, such as
    /// `crates/core/walk`.
    module: String,
    /// The code before the tests, without comments.
    code: String,
    text: String,
}

impl SourceFile {
    fn within(&self, module: &str) -> bool {
        self.module == module || self.module.strip_prefix(module).is_some_and(|rest| rest.starts_with('/'))
    }
}

fn sources() -> Vec<SourceFile> {
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
        SourceFile {
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

/// Fails with all findings at once.
fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn every_file_says_what_it_is_and_none_is_called_mod() {
    let mut findings = vec![];
    for SourceFile { module, text, .. } in sources() {
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
    for SourceFile { module, code, .. } in sources() {
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

/// The unit of a file in the order of imports: itself for a pure module or a port, its folder for everything else.
fn unit(module: &str) -> String {
    if PURE.contains(&module) || PORTS.contains(&module) {
        return module.to_owned();
    }
    format!("{}/..", module.split('/').next().unwrap_or(module))
}

#[test]
fn modules_import_one_another_in_no_circle() {
    let sources = sources();
    let mut findings = vec![];
    for package in ["", "crates/core/", "crates/simulator/"] {
        let of_package = sources.iter().filter(|source| package.is_empty() != source.module.starts_with("crates/"));
        let files: BTreeMap<&str, &SourceFile> =
            of_package.filter_map(|source| Some((source.module.strip_prefix(package)?, source))).collect();
        let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (module, source) in files.iter().filter(|(module, _)| !["lib", "main"].contains(*module)) {
            for used in source.code.split("crate::").skip(1) {
                let names = used.split(|char: char| !char.is_alphanumeric() && !"_:".contains(char)).next();
                let mut path = names.unwrap_or_default().trim_end_matches(':').replace("::", "/");
                // The file is named by the beginning of the path: the rest is an item.
                while !files.contains_key(&*path) && path.contains('/') {
                    path.truncate(path.rfind('/').unwrap_or_default());
                }
                if files.contains_key(&*path) && unit(&path) != unit(module) {
                    imports.entry(unit(module)).or_default().insert(unit(&path));
                }
            }
        }
        // Removes what imports nothing that is left, and what nothing that is left imports. Circles remain.
        while let Some(outside) = imports.keys().find(|unit| {
            let imports_others = imports[*unit].iter().any(|used| imports.contains_key(used));
            !imports_others || !imports.values().any(|used| used.contains(*unit))
        }) {
            let outside = outside.clone();
            imports.remove(&outside);
        }
        for (unit, used) in &imports {
            let used: Vec<_> = used.iter().filter(|used| imports.contains_key(*used)).map(String::as_str).collect();
            findings.push(format!("{package}{unit}: is in a circle, by importing {}", used.join(", ")));
        }
    }
    none(&findings);
}

/// The longest line of prose: what two windows beside one another show.
const COLUMNS_MAX: usize = 120;

#[test]
fn prose_in_documents_wraps() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut findings = vec![];
    for folder in ["", "docs", "deploy", "deploy/helm/cognito-auth-exporter", "dashboards"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let mut in_code = false;
            for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                in_code ^= line.trim_start().starts_with("```");
                let is_table = line.trim_start().starts_with('|');
                if !in_code && !is_table && line.chars().count() > COLUMNS_MAX {
                    findings.push(format!("{}:{}: wrap at {COLUMNS_MAX} columns", path.display(), number + 1));
                }
            }
        }
    }
    none(&findings);
}

#[test]
fn comments_wrap() {
    let mut findings = vec![];
    for SourceFile { module, text, .. } in sources() {
        for (number, line) in text.lines().enumerate() {
            // A row of a table stays on one line.
            let is_prose = line.trim_start().starts_with("//") && !line.contains('|');
            if is_prose && line.chars().count() > COLUMNS_MAX {
                findings.push(format!("{module}:{}: wrap at {COLUMNS_MAX} columns", number + 1));
            }
        }
    }
    none(&findings);
}
