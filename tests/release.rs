//! The artifacts of a release: a test unpacks each one and runs the program in it.
//!
//! RELEASE_DIST names what `deploy/release/release.sh` has made for both architectures. A release takes many minutes to
//! build, so that `.ci/run` leaves these tests out: the workflows run them where a change touches what is released.

mod packages;
mod published;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::exporter::{self, Exporter};
use crate::skips;
use crate::test_env::{Terms, TestEnv, all_live, counted, go_on, populate};

const NAME: &str = "cognito-auth-exporter";
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command to its end and returns what it prints.
fn printed(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// An architecture of a release.
#[derive(Clone, Copy, Debug)]
struct Architecture {
    /// As Rust and RPM call it.
    name: &'static str,
    /// As Debian and images call it.
    debian: &'static str,
}

const ARCHITECTURES: [Architecture; 2] =
    [Architecture { name: "x86_64", debian: "amd64" }, Architecture { name: "aarch64", debian: "arm64" }];

impl Architecture {
    fn is_native(self) -> bool {
        self.name == std::env::consts::ARCH
    }

    /// A program of this architecture, isolated from the machine and under emulation where it needs one.
    fn program(self, program: &Path, cognito: &str) -> Command {
        if self.is_native() {
            return exporter::isolated(program, cognito);
        }
        let mut command = exporter::isolated(&Path::new("/usr/bin").join(format!("qemu-{}", self.name)), cognito);
        command.arg(program);
        command
    }
}

/// The artifacts of a release.
struct Release {
    folder: PathBuf,
}

impl Release {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The archive of an architecture, unpacked: its temporary directory, and the folder in it.
    fn unpacked(&self, architecture: Architecture) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let stem = format!("{NAME}-{VERSION}-{}-linux", architecture.name);
        let archive = self.path(&format!("{stem}.tar.gz"));
        printed(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(directory.path()));
        let folder = directory.path().join(stem);
        (directory, folder)
    }
}

/// The release under test, or None with the test recorded as skipped.
fn release() -> Option<Release> {
    let folder = std::env::var_os("RELEASE_DIST").map(PathBuf::from);
    let remedy =
        ".ci/release-tools && deploy/release/release.sh --dry-run, then RELEASE_DIST=target/dist cargo test release::";
    skips::unless_there(folder.is_some(), "RELEASE_DIST", remedy);
    folder.map(|folder| Release { folder: root().join(folder) })
}

/// The names and sums in SHA256SUMS.
fn sums(release: &Release) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(release.path("SHA256SUMS")).unwrap();
    let pairs = text.lines().map(|line| line.split_once("  ").unwrap());
    pairs.map(|(sum, name)| (name.to_owned(), sum.to_owned())).collect()
}

#[test]
fn the_sums_are_of_every_artifact() {
    let Some(release) = release() else { return };
    printed(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&release.folder));
    let mut expected =
        vec![format!("{NAME}-{VERSION}-image.tar"), format!("{NAME}-{VERSION}.tgz"), format!("{NAME}.rb")];
    for Architecture { name, debian } in ARCHITECTURES {
        expected.push(format!("{NAME}-{VERSION}-{name}-linux.tar.gz"));
        expected.push(format!("{NAME}-{VERSION}-{name}-linux.cdx.json"));
        expected.push(format!("{NAME}-{VERSION}-1.{name}.rpm"));
        expected.push(format!("{NAME}_{VERSION}_{debian}.deb"));
    }
    expected.sort();
    assert_eq!(sums(&release).into_keys().collect::<Vec<_>>(), expected);
}

/// `check --offline` needs no other machine, and the demo uses every part of the program.
#[test]
fn the_program_of_each_archive_starts_checks_and_runs_the_demo() {
    let Some(release) = release() else { return };
    for architecture in ARCHITECTURES {
        let (_directory, folder) = release.unpacked(architecture);
        let program = folder.join(NAME);
        let command = || architecture.program(&program, "http://127.0.0.1:9");

        assert_eq!(printed(command().arg("--version")).split_whitespace().nth(1), Some(VERSION));
        let config = exporter::configure(&folder, "[[pools]]\nid = \"eu-west-1_Release01\"\nall_users = true\n");
        let checked = printed(command().args(["check", "--offline", "--config"]).arg(&config));
        assert!(checked.contains("ok"), "{checked}");
        let output = run(command().args(["demo", "--duration", "4s", "--listen", "127.0.0.1:0"]));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let records = String::from_utf8(output.stdout).unwrap();
        assert!(records.lines().count() > 100, "{architecture:?}: {} records", records.lines().count());
        for line in records.lines() {
            serde_json::from_str::<Value>(line).unwrap();
        }
    }
}

/// A hundred commits and more, a kill among them. The program that is tested then reads the other's ledger.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_of_each_archives_program_is_whole_after_a_kill() {
    const POOL: &str = "eu-west-1_Release02";
    const USERS: usize = 60;
    const EVENTS: i64 = 3;
    let Some(release) = release() else { return };
    for architecture in ARCHITECTURES {
        let (_directory, folder) = release.unpacked(architecture);
        let program = folder.join(NAME);
        let env = TestEnv::set(&all_live(POOL), |world| populate(world, POOL, USERS, EVENTS)).await;
        let start = || {
            let mut command = architecture.program(&program, &env.simulation.url());
            command.arg("run").arg("--config").arg(env.config());
            Exporter::started(command)
        };
        // Each user has a page with events, and each such page is a commit.
        let exporter = start();
        env.until_polled(POOL, "user-0", 1).await;
        exporter.kill();
        let exporter = start();
        go_on(&env, POOL, USERS);
        // The batch that was on its way at the kill comes again.
        env.conserved_on(&exporter, &[POOL], Terms { repeats_max: 512, ..Terms::default() }).await;
        let total: i64 = counted(&exporter.scrape(), &[POOL]).into_values().sum();
        assert_eq!(usize::try_from(total).unwrap(), env.truth(&[POOL]).len(), "{architecture:?}");
        assert!(total > 100, "{architecture:?}: {total}");
        assert!(exporter.stop().success());
        let verified = env.run(&["state", "verify"]);
        assert!(verified.status.success(), "{architecture:?}: {}", String::from_utf8_lossy(&verified.stderr));
    }
}

/// No library of a machine, no path of the machine that built it, and the list of what it was built from.
#[test]
fn the_programs_of_a_whole_release_are_static_and_auditable() {
    let Some(release) = release() else { return };
    for architecture in ARCHITECTURES {
        let (_directory, folder) = release.unpacked(architecture);
        let program = folder.join(NAME);
        let headers =
            printed(Command::new("readelf").args(["--wide", "--program-headers", "--sections"]).arg(&program));
        assert!(!headers.contains("INTERP"), "{architecture:?} needs a loader");
        assert!(headers.contains(".dep-v0"), "{architecture:?} has no list of dependencies");
        let machine = printed(Command::new("readelf").arg("--file-header").arg(&program));
        let expected = if architecture.name == "x86_64" { "X86-64" } else { "AArch64" };
        assert!(machine.contains(expected), "{machine}");
        let bytes = std::fs::read(&program).unwrap();
        let home = std::env::var("HOME").unwrap();
        let of = |variable: &str, folder: &str| std::env::var(variable).unwrap_or_else(|_| format!("{home}/{folder}"));
        let (cargo, rustup) = (of("CARGO_HOME", ".cargo"), of("RUSTUP_HOME", ".rustup"));
        for path in [root().to_str().unwrap(), &cargo, &rustup] {
            let found = bytes.windows(path.len()).any(|window| window == path.as_bytes());
            assert!(!found, "{architecture:?} contains {path}");
        }
    }
}
