//! The image, the chart and the formula of a release, and the step that publishes them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{ARCHITECTURES, Architecture, NAME, Release, VERSION, printed, release, root, run, sums};
use crate::{exporter, peers, skips};

fn image(release: &Release) -> String {
    format!("oci-archive:{}:{VERSION}", release.path(&format!("{NAME}-{VERSION}-image.tar")).display())
}

/// A JSON document that skopeo prints.
fn inspected(arguments: &[&str], image: &str) -> Value {
    let text = printed(Command::new("skopeo").arg("inspect").args(arguments).arg(image));
    serde_json::from_str(&text).unwrap()
}

/// The image's root directory for an architecture.
fn root_of_image(release: &Release, architecture: Architecture) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let layers = directory.path().join("layers");
    let mut copy = Command::new("skopeo");
    copy.args(["--override-arch", architecture.debian, "copy", "--quiet", &image(release)]);
    printed(copy.arg(format!("dir:{}", layers.display())));
    let manifest: Value = serde_json::from_slice(&std::fs::read(layers.join("manifest.json")).unwrap()).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        printed(Command::new("tar").arg("-xf").arg(layers.join(digest)).arg("-C").arg(directory.path()));
    }
    std::fs::remove_dir_all(layers).unwrap();
    directory
}

#[test]
fn the_image_of_each_platform_holds_its_program_and_nothing_that_runs_beside_it() {
    let Some(release) = release() else { return };
    let index = inspected(&["--raw"], &image(&release));
    let platforms: BTreeSet<&str> = index["manifests"].as_array().unwrap().iter().map(platform).collect();
    assert_eq!(platforms, ARCHITECTURES.iter().map(|architecture| architecture.debian).collect());
    for architecture in ARCHITECTURES {
        let directory = root_of_image(&release, architecture);
        let files =
            printed(Command::new("find").args([".", "-type", "f", "-printf", "%P %m\n"]).current_dir(&directory));
        let files: BTreeSet<&str> = files.lines().collect();
        let program = format!("usr/bin/{NAME}");
        let expected = [format!("{program} 755"), "etc/ssl/certs/ca-certificates.crt 644".to_owned()];
        assert_eq!(files, expected.iter().map(String::as_str).collect());
        let mut command = architecture.program(&directory.path().join(&program), "http://127.0.0.1:9");
        assert!(printed(command.arg("--version")).contains(VERSION));
        let (_directory, folder) = release.unpacked(architecture);
        let of_archive = std::fs::read(folder.join(NAME)).unwrap();
        assert!(std::fs::read(directory.path().join(&program)).unwrap() == of_archive, "another program");

        let mut config = Command::new("skopeo");
        config.args(["--override-arch", architecture.debian, "inspect", "--config", &image(&release)]);
        let config: Value = serde_json::from_str(&printed(&mut config)).unwrap();
        assert_eq!(config["architecture"], architecture.debian);
        let config = &config["config"];
        assert_eq!(config["User"], "65532:65532");
        assert_eq!(config["Entrypoint"][0], format!("/{program}"));
        let label =
            |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap_or_default();
        assert_eq!((label("version"), label("licenses")), (VERSION, "Apache-2.0"));
        assert!(label("revision").len() == 12 && label("source").starts_with("https://"), "{}", config["Labels"]);
        // The owner of the state directory is the image's user, also on the disk of a node.
        let state = directory.path().join("var/lib/cognito-auth-exporter");
        let owner = printed(Command::new("stat").args(["-c", "%u %a"]).arg(state));
        assert_eq!(owner.trim(), "65532 700");
    }
}

fn platform(manifest: &Value) -> &str {
    manifest["platform"]["architecture"].as_str().unwrap()
}

/// The program in the image runs as Kubernetes runs it: with its root directory, as its user, with no other file.
#[test]
fn the_static_program_runs_in_the_images_root_as_the_images_user() {
    let Some(release) = release() else { return };
    let architecture = ARCHITECTURES.into_iter().find(|architecture| architecture.is_native()).unwrap();
    let directory = root_of_image(&release, architecture);
    // The devices that it reads, which every container has.
    let devices = directory.path().join("dev");
    std::fs::create_dir_all(&devices).unwrap();
    for (device, minor) in [("random", "8"), ("urandom", "9")] {
        printed(Command::new("mknod").args(["-m", "666"]).arg(devices.join(device)).args(["c", "1", minor]));
    }
    let mut command = exporter::isolated(Path::new("/usr/sbin/chroot"), "http://127.0.0.1:9");
    command.arg("--userspec=65532:65532").arg(directory.path()).arg(format!("/usr/bin/{NAME}"));
    let output = run(command.args(["demo", "--duration", "3s", "--listen", "127.0.0.1:0"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(output.stdout).unwrap().lines().count() > 100);
}

/// A chart that is pulled needs no further value for its image.
#[test]
fn the_chart_names_the_image_of_the_release() {
    let Some(release) = release() else { return };
    if !peers::has_that_says("helm", &["version"]) {
        return;
    }
    let chart = release.path(&format!("{NAME}-{VERSION}.tgz"));
    let config = root().join("deploy/kubernetes/base/config.toml");
    let mut template = Command::new("helm");
    template.arg("template").arg("x").arg(&chart).arg("--set-file").arg(format!("config={}", config.display()));
    let rendered = printed(&mut template);
    let images: BTreeSet<&str> = rendered
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image: "))
        .map(|image| image.trim_matches('"'))
        .collect();
    assert_eq!(images.len(), 1, "{images:?}");
    let image = images.first().unwrap();
    assert!(image.ends_with(&format!("/{NAME}:{VERSION}")) && image.contains('.'), "{image}");
    assert_eq!(image.to_lowercase(), **image, "registries refuse capitals");
    printed(
        Command::new("helm")
            .args(["lint", "--strict", "--set-file"])
            .arg(format!("config={}", config.display()))
            .arg(&chart),
    );
}

/// Ruby reads the formula, with a stand-in for Homebrew's words: the archives of the release by their sums.
#[test]
fn the_formula_names_the_archives_by_their_sums() {
    let Some(release) = release() else { return };
    if !peers::has("ruby") {
        return;
    }
    let formula = release.path(&format!("{NAME}.rb"));
    let words = root().join("tests/peers/formula.rb");
    let read = printed(Command::new("ruby").arg(words).arg(&formula));
    let read: Value = serde_json::from_str(&read).unwrap();
    assert_eq!(read["version"], VERSION);
    let sums = sums(&release);
    for architecture in ARCHITECTURES {
        let archive = &read["linux"][architecture.name];
        let name = format!("{NAME}-{VERSION}-{}-linux.tar.gz", architecture.name);
        assert!(
            archive["url"].as_str().unwrap().ends_with(&format!("/releases/download/v{VERSION}/{name}")),
            "{archive}"
        );
        assert_eq!(archive["sha256"].as_str(), sums.get(&name).map(String::as_str));
    }
    assert!(read["macos"]["url"].as_str().unwrap().ends_with(".git"), "{read}");
    assert_eq!(read["macos"]["tag"], format!("v{VERSION}"));
}

/// A registry of the real kind on loopback. Dropping it ends it.
struct Registry {
    process: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Debian's registry cannot choose a free port by itself.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = directory.path().join("config.yml");
        let storage = directory.path().join("storage");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{free}\"}}\n",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        let process = command.arg("serve").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let registry = Self { process, address: free.to_string(), _directory: directory };
        let deadline = std::time::Instant::now() + exporter::PATIENCE;
        while std::net::TcpStream::connect(free).is_err() {
            assert!(std::time::Instant::now() < deadline, "the registry does not start");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The dry run of `publish` pushes to a registry on this machine. Image and chart come back as they were.
#[test]
fn the_image_and_the_chart_are_pushed_whole_and_the_rest_is_printed() {
    let Some(release) = release() else { return };
    if !skips::unless_there(run_quietly("docker-registry", "--version"), "docker-registry", ".ci/release-tools") {
        return;
    }
    let registry = Registry::start();
    let copy = copied(&release);
    let mut script = Command::new(root().join("deploy/release/release.sh"));
    script.args(["publish", "--dry-run"]).env("DIST", copy.path()).env("REGISTRY", &registry.address);
    let output = run(&mut script);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    let digest = std::fs::read_to_string(copy.path().join("image.digest")).unwrap();
    let digest = digest.trim();
    let mut references = vec![format!(":{VERSION}"), format!("@{digest}")];
    // A pre-release moves no name.
    if !VERSION.contains('-') {
        references.extend([":latest".to_owned(), format!(":{}", VERSION.rsplit_once('.').unwrap().0)]);
    }
    for reference in references {
        let pushed = format!("docker://{}/{NAME}{reference}", registry.address);
        let index = inspected(&["--tls-verify=false", "--raw"], &pushed);
        let platforms: BTreeSet<&str> = index["manifests"].as_array().unwrap().iter().map(platform).collect();
        assert_eq!(platforms, ARCHITECTURES.iter().map(|architecture| architecture.debian).collect());
    }
    let pulled = tempfile::tempdir().unwrap();
    let mut pull = Command::new("helm");
    pull.args(["pull", "--plain-http", "--version", VERSION, &format!("oci://{}/charts/{NAME}", registry.address)]);
    printed(pull.arg("--destination").arg(pulled.path()));
    let chart = format!("{NAME}-{VERSION}.tgz");
    assert!(std::fs::read(pulled.path().join(&chart)).unwrap() == std::fs::read(copy.path().join(&chart)).unwrap());

    // The dry run prints the commands that only the workflow can run.
    for command in [
        "cosign sign-blob --yes --bundle".to_owned(),
        format!("cosign sign --yes --recursive {}/{NAME}@{digest}", registry.address),
        format!("cosign sign --yes {}/charts/{NAME}@sha256:", registry.address),
        "cosign attest --yes --type cyclonedx".to_owned(),
        format!("gh release create v{VERSION}"),
        format!("gh release edit v{VERSION}"),
    ] {
        assert!(said.contains(&format!("would run: {command}")), "{command}: {said}");
    }
    for name in sums(&release).keys() {
        assert!(said.contains(name.as_str()), "{name} is no file of the release");
    }
}

/// A copy of the artifacts, beside which a step may write.
fn copied(release: &Release) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    printed(Command::new("cp").arg("-r").arg(format!("{}/.", release.folder.display())).arg(copy.path()));
    copy
}

fn run_quietly(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Nothing is published from a tree without a home, or to a registry elsewhere.
#[test]
fn the_dry_run_reaches_no_registry_elsewhere_and_a_project_without_a_home_publishes_nothing() {
    let Some(release) = release() else { return };
    let copy = copied(&release);
    let mut script = Command::new(root().join("deploy/release/release.sh"));
    script.args(["publish", "--dry-run"]).env("DIST", copy.path()).env("REGISTRY", "registry.example.com/Identity");
    let output = run(&mut script);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("would run: skopeo copy") && said.contains("would run: helm push"), "{said}");
    assert!(said.contains(&format!("docker://registry.example.com/identity/{NAME}:{VERSION}")), "{said}");
    let mut script = Command::new(root().join("deploy/release/release.sh"));
    // In two parts, so that the command that names the owner everywhere leaves this test alone.
    let homeless = concat!("https://github.com/OWN", "ER/cognito-auth-exporter");
    script.arg("publish").env("DIST", &release.folder).env("REPOSITORY", homeless).env("REGISTRY", "127.0.0.1:9");
    let output = run(&mut script);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("the project has no home yet: set REPOSITORY"), "{said}");
}
