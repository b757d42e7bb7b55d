//! The state directory: permissions, links, and damage at unlucky moments.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::disk;
use crate::exporter::{Exporter, PATIENCE};
use crate::folders::copy;
use crate::skips;
use crate::test_env::{TestEnv, all_live, go_on, is, populate, said, sign_ins};

const POOL: &str = "eu-west-1_State";
const USERS: usize = 4;

/// A user and group that do not exist on this machine, as in the image.
const NOBODY: u32 = 65532;

async fn set() -> TestEnv {
    TestEnv::set(&all_live(POOL), |world| populate(world, POOL, USERS, 10)).await
}

fn change_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o777
}

/// Every path below a directory, without following links.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut paths = vec![];
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            paths.extend(tree(&path));
        }
        paths.push(path);
    }
    paths
}

/// Starts an exporter that is expected to refuse to run, and returns its output.
fn refused(env: &TestEnv) -> String {
    let mut exporter = Exporter::spawned(env.command());
    let status = exporter.ended();
    assert_eq!(status.code(), Some(1), "{}", exporter.log());
    let deadline = Instant::now() + PATIENCE;
    while !exporter.log().contains("will not use") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    exporter.log()
}

fn is_root() -> bool {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !is_root {
        skips::record("the privilege to give files to others", disk::AS_ROOT);
    }
    is_root
}

/// From audits of daemons whose data directory an installer or a volume made with mode 0755 or 0777.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_was_open_to_others_becomes_the_exporters_alone() {
    for (open, level) in [(0o755, "INFO"), (0o777, "WARN"), (0o770, "WARN")] {
        let env = set().await;
        fs::create_dir(env.state()).unwrap();
        change_mode(&env.state(), open);
        // A file of another program keeps its permissions.
        fs::write(env.state().join("notes.txt"), "somebody's").unwrap();
        change_mode(&env.state().join("notes.txt"), 0o644);
        let exporter = env.exporter();
        env.conserved(&exporter, &[POOL]).await;
        let log = exporter.log();
        assert_eq!(said(&log, &[level, "the state directory was open to other users"]).len(), 1, "{log}");
        assert!(exporter.stop().success());
        assert_eq!(mode(&env.state()), 0o700);
        for path in tree(&env.state()) {
            let open_to_others = mode(&path) & 0o077 != 0;
            assert_eq!(open_to_others, path.ends_with("notes.txt"), "{} is {:o}", path.display(), mode(&path));
        }
        // The change is logged once.
        let exporter = env.exporter();
        env.conserved(&exporter, &[POOL]).await;
        assert_eq!(said(&exporter.log(), &["was open to other users"]).len(), 0, "{}", exporter.log());
        assert!(exporter.stop().success());
    }
}

/// From attacks on files that a privileged process writes under a predictable name. A link in that place makes it
/// overwrite another file, or use a ledger of another user.
#[tokio::test(flavor = "multi_thread")]
async fn no_link_in_the_state_directory_is_followed() {
    let files = ["lock", "probe", "last-commit", "last-commit.new", "lost-since", "lost-since.new"];
    let directories = [
        "ledger",
        "ledger.importing",
        "ledger.imported",
        "ledger.private",
        "ledger.outdated",
        "ledger.corrupt-20261124T120000Z",
        "ledger.replaced-1",
        "ledger/blobs",
    ];
    let of_the_store = ["ledger/db", "ledger/conf", "ledger/snap.0000000000000001"];
    let env = set().await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
    let keep = env.path("keep");
    let (victim, bait) = (env.path("victim"), env.path("bait"));
    fs::write(&victim, "somebody's").unwrap();
    fs::create_dir(&bait).unwrap();
    fs::write(bait.join("db"), "").unwrap();
    for name in files.iter().chain(&of_the_store).chain(&directories) {
        let place = env.state().join(name);
        let was_there = place.exists();
        if was_there {
            fs::rename(&place, &keep).unwrap();
        }
        symlink(if directories.contains(name) { &bait } else { &victim }, &place).unwrap();
        let log = refused(&env);
        let told = said(&log, &[&format!("will not use {}", place.display()), "symbolic link", "remove it"]);
        assert_eq!(told.len(), 1, "{log}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "somebody's", "{name}");
        assert_eq!(tree(&bait), [bait.join("db")], "{name}");
        assert!(fs::symlink_metadata(&place).unwrap().is_symlink(), "{name}");
        fs::remove_file(&place).unwrap();
        if was_there {
            fs::rename(&keep, &place).unwrap();
        }
    }
    let exporter = env.exporter();
    go_on(&env, POOL, USERS);
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
}

/// From the same attacks: a complete ledger of another user under the name of an imported one.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_somebody_else_has_put_there_takes_nobodys_place() {
    if !is_root() {
        return;
    }
    let env = set().await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
    let planted = env.state().join("ledger.imported");
    change_mode(&env.state(), 0o777);
    fs::create_dir(&planted).unwrap();
    fs::copy(env.ledger().join("db"), planted.join("db")).unwrap();
    chown(&planted, Some(NOBODY), None).unwrap();
    let log = refused(&env);
    assert_eq!(said(&log, &["will not use", "ledger.imported", "belongs to user 65532"]).len(), 1, "{log}");
    assert!(planted.exists() && !env.state().join("ledger.replaced-1").exists());
    // The directory itself belongs to another user.
    fs::remove_dir_all(&planted).unwrap();
    chown(env.state(), Some(NOBODY), None).unwrap();
    let log = refused(&env);
    assert_eq!(said(&log, &["will not use", "belongs to user 65532", "chown"]).len(), 1, "{log}");
    chown(env.state(), Some(0), None).unwrap();
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
}

/// From Kubernetes: a volume with `fsGroup` belongs to root, has mode 2775, and has one of the pod's groups. The
/// volumes of some provisioners belong to root and are writable for everyone.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_root_is_used_and_a_warning_says_when_others_may_write_to_it() {
    if !is_root() {
        return;
    }
    let env = set().await;
    // A directory where other users can reach the program and the configuration.
    let program = env.path("exporter");
    fs::copy(env!("CARGO_BIN_EXE_cognito-auth-exporter"), &program).unwrap();
    for path in [env.path(""), program.clone(), env.config().to_owned()] {
        change_mode(&path, 0o755);
    }
    let command = || {
        let mut command = crate::exporter::isolated(&program, &env.simulation.url());
        command.arg("run").arg("--config").arg(env.config()).uid(NOBODY).gid(NOBODY);
        command
    };
    fs::create_dir(env.state()).unwrap();
    chown(env.state(), Some(0), Some(NOBODY)).unwrap();
    for round in 0..2 {
        change_mode(&env.state(), 0o2775);
        let exporter = Exporter::started(command());
        go_on(&env, POOL, USERS);
        env.conserved(&exporter, &[POOL]).await;
        assert!(exporter.stop().success());
        assert_eq!(fs::metadata(env.state()).unwrap().mode() & 0o7777, 0o2775);
        assert_eq!(mode(&env.ledger()), 0o700);
        if round == 0 {
            // The kubelet leaves it like this at the next mount, under another user of the same group.
            for path in tree(&env.state()) {
                change_mode(&path, if path.is_dir() { 0o2770 } else { 0o660 });
                chown(&path, Some(NOBODY - 1), Some(NOBODY)).unwrap();
            }
            change_mode(&env.ledger(), 0o2770);
            chown(env.ledger(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    for (open, group) in [(0o777, 0), (0o1777, 0), (0o2777, NOBODY)] {
        chown(env.state(), Some(0), Some(group)).unwrap();
        change_mode(&env.state(), open);
        for path in tree(&env.state()) {
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let exporter = Exporter::started(command());
        go_on(&env, POOL, USERS);
        env.conserved(&exporter, &[POOL]).await;
        let log = exporter.log();
        assert_eq!(said(&log, &["WARN", "others can write to it", "a directory below it"]).len(), 1, "{log}");
        assert!(exporter.stop().success());
    }
    // A ledger that another user has put there is not the exporter's.
    chown(env.ledger(), Some(NOBODY - 1), Some(NOBODY)).unwrap();
    let mut exporter = Exporter::spawned(command());
    assert_eq!(exporter.ended().code(), Some(1));
    exporter.until_said("will not use");
}

/// From disks that fail early, and from volumes that are detached during writes: a ledger is damaged within its first
/// seconds, before the note beside it was renewed. It was taken for a new one, and all events for history.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_damaged_in_its_first_seconds_is_rebuilt_and_said_to_be() {
    // Only the ledger's own record of its start makes an event live.
    let config = format!(
        "[[pools]]\nid = {POOL:?}\nall_users = true\n[discovery]\ninterval = \"10s\"\n[poll]\n\
         requests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\nfirst_run = \"none\"\n"
    );
    let env = TestEnv::set(&config, |world| populate(world, POOL, USERS, 0)).await;
    let exporter = env.exporter();
    // No event happens before every user is followed, so all events are live.
    exporter.until("everybody", |scrape| is(scrape, "cognito_exporter_users", &["state=\"ok\""], USERS as f64));
    env.simulation.world(|world| {
        let now = crate::test_env::now();
        (0..USERS).for_each(|user| sign_ins(world, POOL, &format!("user-{user}"), 1, now));
    });
    let live = USERS as f64;
    exporter.until("what is live", |scrape| is(scrape, "cognito_auth_events_total", &[], live));
    exporter.kill();
    let (whole, db) = (env.path("whole"), env.ledger().join("db"));
    copy(&env.state(), &whole);
    let bytes = fs::read(&db).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let mut rebuilt = 0;
    for part in 0..10 {
        fs::remove_dir_all(env.state()).unwrap();
        copy(&whole, &env.state());
        fs::write(&db, &bytes[..used * part / 10]).unwrap();
        let exporter = env.exporter();
        exporter.until("everybody", |scrape| is(scrape, "cognito_exporter_users", &["state=\"ok\""], USERS as f64));
        let scrape = exporter.scrape();
        let told = said(&exporter.log(), &["ERROR", "the ledger was damaged", "moved_to="]).len();
        // Either nothing was lost, or the loss is logged and the counters begin at 0.
        let expected = if told == 0 { live } else { 0.0 };
        assert!(is(&scrape, "cognito_auth_events_total", &[], expected), "{part}: {}", scrape.interesting());
        assert!(is(&scrape, "cognito_exporter_state_rebuilds_total", &[], told as f64), "{part}: {}", exporter.log());
        rebuilt += told;
        assert!(exporter.stop().success());
    }
    assert!(rebuilt >= 5, "{rebuilt}");
}

/// From hosts that lost power right after the first start: the engine never syncs its configuration file.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_configuration_file_of_the_engine_is_put_aside_and_costs_nothing() {
    let env = set().await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
    let conf = env.ledger().join("conf");
    let sound = fs::read(&conf).unwrap();
    let mut flipped = sound.clone();
    flipped[15] ^= 1;
    let damaged = [
        vec![],
        sound[..6].to_vec(),
        sound[..sound.len() / 2].to_vec(),
        vec![0; sound.len()],
        vec![0xa5; 4096],
        b"no configuration, but text of some length".to_vec(),
        flipped,
    ];
    for (case, bytes) in damaged.iter().enumerate() {
        fs::write(&conf, bytes).unwrap();
        go_on(&env, POOL, USERS);
        let exporter = env.exporter();
        env.conserved(&exporter, &[POOL]).await;
        assert!(is(&exporter.scrape(), "cognito_exporter_state_rebuilds_total", &[], 0.0), "{case}");
        let log = exporter.log();
        assert_eq!(said(&log, &["WARN", "configuration file was damaged"]).len(), 1, "{case}: {log}");
        assert!(exporter.stop().success());
        assert!(fs::read(&conf).unwrap() == sound, "{case}");
    }
    // A file that another engine has written, with a valid checksum, is left as it is.
    let text = String::from_utf8(sound[..sound.len() - 4].to_vec()).unwrap().replace("0.34", "0.99");
    let other = [text.as_bytes(), &crc32fast::hash(text.as_bytes()).to_le_bytes()].concat();
    fs::write(&conf, &other).unwrap();
    let mut exporter = Exporter::spawned(env.command());
    assert_eq!(exporter.ended().code(), Some(1));
    assert!(fs::read(&conf).unwrap() == other);
    let aside = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("ledger.corrupt");
    assert!(!tree(&env.state()).iter().any(aside));
    fs::write(&conf, &sound).unwrap();
    go_on(&env, POOL, USERS);
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    assert!(exporter.stop().success());
}
