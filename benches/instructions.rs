//! Instructions from an answer's bytes to the ledger's batch, and from the outbox to the receiver: `cargo bench
//! --profile test --bench instructions`
//!
//! Times on a shared machine vary by more than a few percent. Instructions under valgrind's callgrind are the same
//! within a tenth of one percent in every run, and do not depend on the processor (valgrind shows every program the
//! same one). The parts in [`path`] are counted and compared with `benches/instructions.toml`. A part that takes 3 %
//! more is an error. After a part takes 3 % less, or a change is worth its cost, write the new counts down: `cargo
//! bench --profile test --bench instructions -- --renew`.
//!
//! The benchmark counts the tests' build, which needs no further build. It does not show the effect of the optimiser.
//! Exports are not compressed, because compression would be most of the count.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints its results, and one that cannot go on fails"
)]

#[path = "instructions/path.rs"]
mod path;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::process::{Command, ExitCode, Stdio};

use figment::Figment;
use figment::providers::{Format as _, Toml};
use path::{EMPTY_POLLS, NEW_EVENTS, Path};
use serde::Deserialize;

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.toml");

/// The percentage that a part may take more. Two runs of one build differ by less than 0.1 %.
const TOLERANCE: f64 = 3.0;

/// The percentage with another compiler than the baseline's, because it generates other instructions.
const TOLERANCE_OF_OTHER_COMPILER: f64 = 10.0;

/// The function where counting begins and ends, and a part's count is written.
const COUNTED: &str = "instructions::path::Path::counted";

/// The work of the ledger's thread before it hands a batch to sled, which is counted too. No name may be the beginning
/// of another: callgrind 3.19 forgets one of them.
const STAGED: &str = "cognito_auth_exporter::ledger::writer_state::WriterState::stage";

/// A part of the path, and the name by which it is recognised.
struct Part {
    name: &'static str,
    each: &'static str,
    of: usize,
}

/// In the order of execution.
const PARTS: [Part; 3] = [
    Part { name: "catch_up", each: "new event", of: NEW_EVENTS },
    Part { name: "poll_in_vain", each: "empty poll", of: EMPTY_POLLS },
    Part { name: "deliver", each: "record", of: NEW_EVENTS },
];

/// The cost of a part.
#[derive(Clone, Copy)]
struct Cost {
    instructions: u64,
    allocations: u64,
}

#[derive(Deserialize)]
struct Baseline {
    compiler: String,
    instructions: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let asked = |option| std::env::args().any(|argument| argument == option);
    if asked("--counted") {
        let path = Path::new();
        path.counted(path.prepare());
        path.counted(path.catch_up());
        path.counted(path.poll_in_vain());
        path.counted(path.deliver());
        return ExitCode::SUCCESS;
    }
    let Some(costs) = count() else {
        println!("valgrind is not installed: nothing is counted");
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    };
    let compiler = compiler();
    if asked("--renew") {
        renew(&compiler, &costs);
    }
    compare(&Figment::from(Toml::file_exact(BASELINE)).extract().unwrap(), &compiler, &costs)
}

/// Runs this program under callgrind; None without valgrind.
fn count() -> Option<Vec<Cost>> {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("callgrind");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.display())]);
    valgrind.args([format!("--toggle-collect={COUNTED}"), format!("--dump-after={COUNTED}")]);
    valgrind.arg(format!("--toggle-collect={STAGED}"));
    // Valgrind runs one thread at a time. sled's threads wait for each other in loops. Such a loop never ends if the
    // looping thread is always chosen.
    valgrind.arg("--fair-sched=yes");
    valgrind.arg(std::env::current_exe().unwrap()).arg("--counted").stderr(Stdio::piped());
    let done = match valgrind.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        done => done.unwrap(),
    };
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let keep = std::env::var_os("CALLGRIND_OUT").map(std::path::PathBuf::from);
    // The first dump is the preparation.
    Some(
        (2..)
            .zip(&PARTS)
            .map(|(dump, part)| {
                let dump = out.with_extension(dump.to_string());
                if let Some(keep) = &keep {
                    fs::copy(&dump, keep.join(part.name)).unwrap();
                }
                cost(&fs::read_to_string(dump).unwrap())
            })
            .collect(),
    )
}

/// Parses callgrind's output: the sum of all instructions, and the calls of the allocator
/// (<https://valgrind.org/docs/manual/cl-format.html>).
fn cost(dump: &str) -> Cost {
    const ALLOCATORS: [&str; 4] = ["malloc", "calloc", "realloc", "posix_memalign"];
    let mut cost = Cost { instructions: 0, allocations: 0 };
    let mut names = HashMap::new();
    let mut called = "";
    for line in dump.lines() {
        if let Some(function) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (id, name) = function.split_once(' ').unwrap_or((function, ""));
            if !name.is_empty() {
                names.insert(id, name);
            }
            called = names[id];
        } else if let Some(calls) = line.strip_prefix("calls=")
            && ALLOCATORS.contains(&called)
        {
            cost.allocations += calls.split(' ').next().unwrap().parse::<u64>().unwrap();
        } else if let Some(total) = line.strip_prefix("totals: ") {
            cost.instructions = total.parse().unwrap();
        }
    }
    cost
}

fn compiler() -> String {
    let told = Command::new("rustc").arg("-vV").output().unwrap().stdout;
    let told = String::from_utf8(told).unwrap();
    let host = told.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    format!("{} for {host}", told.lines().next().unwrap())
}

fn renew(compiler: &str, costs: &[Cost]) {
    let mut text = format!(
        "# Written by `cargo bench --profile test --bench instructions -- --renew`.\ncompiler = {compiler:?}\n\n[instructions]\n"
    );
    for (part, cost) in PARTS.iter().zip(costs) {
        text.push_str(&format!("{} = {}\n", part.name, cost.instructions));
    }
    fs::write(BASELINE, text).unwrap();
}

fn compare(baseline: &Baseline, compiler: &str, costs: &[Cost]) -> ExitCode {
    let tolerance = if baseline.compiler == compiler {
        TOLERANCE
    } else {
        println!("the baseline is of {}, this is {compiler}: renew it\n", baseline.compiler);
        TOLERANCE_OF_OTHER_COMPILER
    };
    let mut result = ExitCode::SUCCESS;
    for (part, cost) in PARTS.iter().zip(costs) {
        let (now, before) = (cost.instructions as f64, baseline.instructions[part.name] as f64);
        let change = (now / before - 1.0) * 100.0;
        let verdict = if change > tolerance {
            result = ExitCode::FAILURE;
            "TOO MANY: find out why; if it is worth it, renew the baseline"
        } else if change < -TOLERANCE {
            "better: renew the baseline, so that it stays so"
        } else {
            "as before"
        };
        let each = |count: u64| count as f64 / part.of as f64;
        println!(
            "{:12} {:>12} instructions ({change:+.2} %), {:>8.0} and {:.1} allocations a {}: {verdict}",
            part.name,
            cost.instructions,
            each(cost.instructions),
            each(cost.allocations),
            part.each
        );
    }
    result
}
