//! A small disk for a test, which can be full, and failing system calls: real faults for the state directory.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::skips;

/// Longer than any wait of a test, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// The privilege that a [`Disk`] needs, and how to have it.
pub(crate) const MOUNT: &str = "the privilege to mount a tmpfs";
pub(crate) const AS_ROOT: &str = "run cargo test as root on Linux";

/// A tmpfs of a few MiB, unmounted when dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts a tmpfs at `path`, which is created. Without the privilege, returns None and records a skip; in CI
    /// it fails.
    pub(crate) fn mount(path: &Path, mib: u32) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0700"), "tmpfs"])
            .arg(path)
            .stderr(Stdio::null())
            .status();
        let is_mounted = mount.is_ok_and(|status| status.success());
        skips::unless_there(is_mounted, MOUNT, AS_ROOT).then(|| Self(path.to_owned()))
    }

    /// Fills it completely.
    pub(crate) fn fill(&self) {
        let mut filler = fs::File::create(self.0.join("filler")).unwrap();
        let full = loop {
            if let Err(error) = filler.write_all(&[0x5a; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }

    /// Frees the space.
    pub(crate) fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }

    /// Makes it read-only, or writable again. The kernel refuses the former while a file is open for writing.
    pub(crate) fn make_read_only(&self, read_only: bool) {
        let options = if read_only { "remount,ro" } else { "remount,rw" };
        let remount = Command::new("mount").args(["-o", options]).arg(&self.0).status().unwrap();
        assert!(remount.success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A lazy unmount, because a process that is being killed may still have open files.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A process under strace, which makes some of its system calls fail or logs them. Dropping it detaches strace.
pub(crate) struct Tracer(Child);

impl Tracer {
    /// Attaches to a process and all its threads. Without strace, returns None and records a skip; in CI it fails.
    pub(crate) fn attach(pid: u32, arguments: &[&str]) -> Option<Self> {
        if !has_strace() {
            return None;
        }
        let tracer = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string()])
            .args(arguments)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let tracer = Self(tracer);
        let deadline = Instant::now() + PATIENCE;
        while !is_traced(pid) {
            assert!(Instant::now() < deadline, "strace did not attach");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(tracer)
    }
}

/// Whether every thread of a process is traced.
fn is_traced(pid: u32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
        // A thread that has just ended counts as traced.
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        status.lines().all(|line| line.strip_prefix("TracerPid:").is_none_or(|tracer| tracer.trim() != "0"))
    })
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // On SIGTERM strace detaches. If it were killed, the process could die with it.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// Whether strace is installed.
pub(crate) fn has_strace() -> bool {
    let version = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    skips::unless_there(version.is_ok_and(|status| status.success()), "strace", &skips::installing("strace"))
}
