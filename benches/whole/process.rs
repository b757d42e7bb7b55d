//! The resources that a process has used, as the kernel reports them.

use std::time::Duration;

/// The resources that a process has used so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    /// The processor time of all its threads, including ended ones, in user and kernel mode. The kernel counts it
    /// exactly and shows it in hundredths of a second.
    pub(crate) cpu: Duration,
    /// The most memory that was resident since the program was loaded, in bytes.
    pub(crate) peak_bytes: u64,
    /// The resident memory in bytes now, and the anonymous part of it.
    pub(crate) resident_bytes: u64,
    pub(crate) anonymous_bytes: u64,
}

/// The unit of /proc/PID/stat: the kernel's USER_HZ, which is 100 on every kernel.
const TICK: Duration = Duration::from_millis(10);

/// The usage of a running process.
pub(crate) fn usage(pid: u32) -> Usage {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The fields after the name, which may contain anything: state is the third field, utime and stime are 14 and 15.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u32 = fields[11..=12].iter().map(|ticks| ticks.parse::<u32>().unwrap()).sum();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let bytes = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    Usage {
        cpu: TICK * ticks,
        peak_bytes: bytes("VmHWM:"),
        resident_bytes: bytes("VmRSS:"),
        anonymous_bytes: bytes("RssAnon:"),
    }
}

/// The number of waits of each thread of a running process, by the thread's name and number.
pub(crate) fn waits(pid: u32) -> Vec<(String, u64)> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let waits = threads.filter_map(|thread| {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).ok()?;
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let name = format!("{} {}", value("Name:")?, value("Pid:")?);
        Some((name, value("voluntary_ctxt_switches:")?.parse().ok()?))
    });
    waits.collect()
}
