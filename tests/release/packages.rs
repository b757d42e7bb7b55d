//! The archive and the packages for Debian and RPM: the same program, the same files, and scripts that start nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{ARCHITECTURES, Architecture, NAME, Release, VERSION, printed, release, root, run};
use crate::peers;

/// Where a package for Debian puts what a package for RPM puts elsewhere.
const OF_DEBIAN: [(&str, &str); 3] = [
    ("/usr/share/zsh/site-functions/", "/usr/share/zsh/vendor-completions/"),
    ("/usr/share/licenses/cognito-auth-exporter/LICENSE", "/usr/share/doc/cognito-auth-exporter/copyright"),
    ("/usr/share/licenses/cognito-auth-exporter/", "/usr/share/doc/cognito-auth-exporter/"),
];

/// The files below a directory, as paths from there.
fn files_below(directory: &Path) -> BTreeSet<String> {
    let listed = printed(Command::new("find").args([".", "-type", "f", "-printf", "/%P\n"]).current_dir(directory));
    listed.lines().map(str::to_owned).collect()
}

fn deb(release: &Release, architecture: Architecture) -> std::path::PathBuf {
    release.path(&format!("{NAME}_{VERSION}_{}.deb", architecture.debian))
}

fn rpm(release: &Release, architecture: Architecture) -> std::path::PathBuf {
    release.path(&format!("{NAME}-{VERSION}-1.{}.rpm", architecture.name))
}

fn unpack_rpm(package: &Path, into: &Path) {
    // rpm2cpio ends with 1 also after a whole archive; what is missing shows when the files are compared.
    let line = "rpm2cpio \"$0\" | cpio --quiet --extract --make-directories --no-absolute-filenames";
    printed(Command::new("sh").args(["-c", line]).arg(package).current_dir(into));
}

/// Each package holds the program of the archive, which starts there, too.
#[test]
fn both_packages_hold_the_program_of_the_archive_and_the_same_files() {
    let Some(release) = release() else { return };
    for architecture in ARCHITECTURES {
        let (_directory, folder) = release.unpacked(architecture);
        let (of_debian, of_rpm) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        printed(Command::new("dpkg-deb").arg("-x").arg(deb(&release, architecture)).arg(of_debian.path()));
        unpack_rpm(&rpm(&release, architecture), of_rpm.path());

        let program = std::fs::read(folder.join(NAME)).unwrap();
        for root in [of_debian.path(), of_rpm.path()] {
            let installed = root.join("usr/bin").join(NAME);
            assert!(std::fs::read(&installed).unwrap() == program, "{architecture:?}: another program");
            let version = printed(architecture.program(&installed, "http://127.0.0.1:9").arg("--version"));
            assert!(version.contains(VERSION), "{version}");
        }
        let mapped = |path: &String| {
            let rule = OF_DEBIAN.iter().find(|(of_rpm, _)| path.starts_with(of_rpm));
            rule.map_or_else(|| path.clone(), |(of_rpm, of_debian)| path.replacen(of_rpm, of_debian, 1))
        };
        // Debian compresses a changelog, and cargo-deb adds nothing else.
        let debian = files_below(of_debian.path());
        let rpm = files_below(of_rpm.path());
        assert_eq!(rpm.iter().map(mapped).collect::<BTreeSet<_>>(), debian);
        for part in ["man/man1/cognito-auth-exporter.1.gz", "man/man1/cognito-auth-exporter-state-rewind.1.gz"] {
            assert!(rpm.contains(&format!("/usr/share/{part}")), "{part}: {rpm:?}");
        }
        let unit = "usr/lib/systemd/system/cognito-auth-exporter.service";
        let expected = std::fs::read(root().join("deploy/systemd/cognito-auth-exporter.service")).unwrap();
        assert_eq!(std::fs::read(of_rpm.path().join(unit)).unwrap(), expected);
        assert_eq!(std::fs::read(of_debian.path().join(unit)).unwrap(), expected);
    }
}

/// The manual and the completions are those of the program.
#[test]
fn the_archive_has_the_manual_the_completions_and_an_example_that_is_checked() {
    let Some(release) = release() else { return };
    for architecture in ARCHITECTURES {
        let (_directory, folder) = release.unpacked(architecture);
        let command = || architecture.program(&folder.join(NAME), "http://127.0.0.1:9");
        let page = printed(Command::new("gzip").arg("-dc").arg(folder.join("man/cognito-auth-exporter-events.1.gz")));
        assert!(page.contains("page\\-size"), "{page}");
        for (shell, file) in [("bash", "cognito-auth-exporter.bash"), ("zsh", "_cognito-auth-exporter")] {
            let expected = printed(command().args(["completions", shell]));
            assert_eq!(std::fs::read_to_string(folder.join("completions").join(file)).unwrap(), expected);
        }
        let bash = folder.join("completions/cognito-auth-exporter.bash");
        printed(Command::new("bash").arg("-n").arg(bash));
        let shown = printed(command().args(["config", "show", "--config"]).arg(folder.join("config.example.toml")));
        assert!(shown.contains("[[pools]]"), "{shown}");
        for file in ["LICENSE", "README.md", "CHANGELOG.md", "rules.yml", "dashboards", "THIRD-PARTY-LICENSES.txt"] {
            assert!(folder.join(file).exists(), "{file}");
        }
        let closed = printed(Command::new("find").arg(&folder).args(["!", "-perm", "-444"]));
        assert_eq!(closed, "", "not everybody can read this");
    }
}

/// An installation enables and starts nothing. An upgrade restarts what runs, a removal stops it.
#[test]
fn packages_start_nothing_and_restart_what_runs() {
    let Some(release) = release() else { return };
    for architecture in ARCHITECTURES {
        let control = tempfile::tempdir().unwrap();
        printed(Command::new("dpkg-deb").arg("-e").arg(deb(&release, architecture)).arg(control.path()));
        let script = |name: &str| std::fs::read_to_string(control.path().join(name)).unwrap();
        let installed = script("postinst");
        assert!(installed.contains("deb-systemd-invoke try-restart"), "{installed}");
        for started in ["_dh_action=start", "invoke start"] {
            assert!(!installed.contains(started), "{installed}");
        }
        // The script enables only a unit that was enabled before its package was removed.
        let before = installed.split("deb-systemd-helper enable").next().unwrap();
        assert!(before.trim_end().ends_with("# Create new symlinks, if any."), "{installed}");
        assert!(before.contains("--quiet was-enabled"), "{installed}");
        assert!(script("prerm").contains("deb-systemd-invoke stop"), "{}", script("prerm"));
        let field = |name: &str| printed(Command::new("dpkg-deb").arg("-f").arg(deb(&release, architecture)).arg(name));
        assert_eq!(field("Package").trim(), NAME);
        // A tilde makes a pre-release older than its release.
        let version = VERSION.replacen('-', "~", 1);
        assert_eq!(field("Version").trim(), version);
        assert_eq!(field("Architecture").trim(), architecture.debian);
        assert_eq!(field("Depends").trim(), "", "a static program needs nothing");

        let query = |arguments: &[&str]| {
            let mut command = Command::new("rpm");
            printed(command.arg("-qp").args(arguments).arg(rpm(&release, architecture)))
        };
        let scripts = query(&["--scripts"]);
        assert!(scripts.contains("systemctl try-restart") && scripts.contains("disable --now"), "{scripts}");
        assert!(!scripts.contains("systemctl start") && !scripts.contains("enable --now"), "{scripts}");
        assert_eq!(query(&["--queryformat", "%{NAME} %{VERSION} %{ARCH} %{LICENSE}"]), {
            format!("{NAME} {version} {} Apache-2.0", architecture.name)
        });
        let needed = query(&["--requires"]);
        assert!(!needed.contains(".so"), "{needed}");
        assert_eq!(
            (field("Recommends").trim(), query(&["--recommends"]).trim()),
            ("ca-certificates", "ca-certificates")
        );
        // The scripts run without systemd, as in the build of an image. The machine of the test is left alone.
        let root = tempfile::tempdir().unwrap();
        printed(Command::new("dpkg-deb").arg("-x").arg(deb(&release, architecture)).arg(root.path()));
        for (name, arguments) in
            [("postinst", ["configure", ""]), ("prerm", ["remove", ""]), ("postrm", ["remove", ""])]
        {
            if Path::new("/run/systemd/system").exists() {
                continue;
            }
            let mut command = Command::new("sh");
            command.arg(control.path().join(name)).args(arguments);
            command.env("DPKG_MAINTSCRIPT_PACKAGE", NAME).env("DPKG_ROOT", root.path());
            let output = run(&mut command);
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(name != "postinst" || !root.path().join("etc").exists(), "the unit is enabled");
        }
    }
}

/// Cargo resolves the crates of the program. Each is in the bill of materials, and its licence is in the archive.
#[test]
fn the_bill_of_materials_and_the_licences_name_every_crate() {
    let Some(release) = release() else { return };
    let python = peers::python_with("cyclonedx.validation");
    for architecture in ARCHITECTURES {
        let file = release.path(&format!("{NAME}-{VERSION}-{}-linux.cdx.json", architecture.name));
        let text = std::fs::read_to_string(&file).unwrap();
        let bom: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(bom["metadata"]["component"]["name"], NAME);
        assert_eq!(bom["metadata"]["component"]["version"], VERSION);
        let components = bom["components"].as_array().unwrap();
        let crates: BTreeSet<String> = components
            .iter()
            .map(|component| {
                format!("{} v{}", component["name"].as_str().unwrap(), component["version"].as_str().unwrap())
            })
            .collect();
        let target = format!("{}-unknown-linux-gnu", architecture.name);
        let mut tree = Command::new(env!("CARGO"));
        tree.args(["tree", "--locked", "--offline", "--package", NAME, "--edges", "normal", "--prefix", "none"])
            .args(["--target", &target, "--format", "{p}"])
            .current_dir(root());
        let expected: BTreeSet<String> = printed(&mut tree)
            .lines()
            .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
            .filter(|krate| !krate.starts_with(&format!("{NAME} ")))
            .collect();
        assert!(expected.len() > 200, "{expected:?}");
        let missing: Vec<_> = expected.difference(&crates).collect();
        assert!(missing.is_empty(), "{architecture:?}: {missing:?}");
        let named = text.contains(root().to_str().unwrap());
        assert!(!named, "{architecture:?}: a path of the building machine");
        if let Some(python) = &python {
            peers::answer(python, "bom.py", &[], &text);
        }

        let (_directory, folder) = release.unpacked(architecture);
        let licences = std::fs::read_to_string(folder.join("THIRD-PARTY-LICENSES.txt")).unwrap();
        for krate in expected {
            let (name, version) = krate.split_once(" v").unwrap();
            let is_own = name.starts_with("cognito-auth-");
            assert!(is_own || licences.contains(&format!("  {name} {version}")), "{name} {version}");
        }
        assert!(licences.contains("GNU LESSER GENERAL PUBLIC LICENSE"), "of the C library");
    }
}
