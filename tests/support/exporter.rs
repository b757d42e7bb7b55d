//! The built binary as a process: started, scraped, stopped, killed.

#![allow(dead_code, unreachable_pub, reason = "shared by test crates, each of which uses its own part")]
#![expect(clippy::unwrap_used, reason = "a test that cannot start its exporter is to fail")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Nothing a test waits for takes this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running exporter. Dropping it kills it.
pub struct Exporter {
    child: Child,
    listen: SocketAddr,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Exporter {
    /// Starts `run` on a configuration, against a Cognito at `cognito`, and waits until it says where it listens.
    pub fn start(config: &Path, cognito: &str) -> Self {
        Self::start_in(config, cognito, &[])
    }

    /// The same with some more variables in its environment.
    pub fn start_in(config: &Path, cognito: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = command(cognito)
            .envs(environment.iter().copied())
            .arg("run")
            .arg("--config")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let reader = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                reader.lines.lock().unwrap().push(line);
                reader.grown.notify_all();
            }
        });
        let said = log.wait_for("is running");
        let listen = said.split("listen=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        Self { listen: listen.parse().unwrap(), child, log }
    }

    /// Reads `/metrics`.
    pub fn scrape(&self) -> Scrape {
        Scrape::parse(&self.get("/metrics"))
    }

    /// Reads a path's body.
    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.listen).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: exporter\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Scrapes until the condition holds.
    pub fn until(&self, what: &str, condition: impl Fn(&Scrape) -> bool) -> Scrape {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let scrape = self.scrape();
            if condition(&scrape) {
                return scrape;
            }
            assert!(Instant::now() < deadline, "{what} did not come\n{}\n{}", self.log(), scrape.interesting());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; answers how it ended.
    pub fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().unwrap().success());
        self.child.wait().unwrap()
    }

    /// Resident memory in bytes, as the kernel says.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Everything it has said so far.
    pub fn log(&self) -> String {
        self.log.lines.lock().unwrap().join("\n")
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Log {
    fn wait_for(&self, text: &str) -> String {
        let lines = self.lines.lock().unwrap();
        let found = |lines: &Vec<String>| lines.iter().find(|line| line.contains(text)).cloned();
        let (lines, _) = self.grown.wait_timeout_while(lines, PATIENCE, |lines| found(lines).is_none()).unwrap();
        found(&lines).unwrap_or_else(|| panic!("{text:?} was not said:\n{}", lines.join("\n")))
    }
}

/// The binary with an environment of its own: nothing of the machine's, nothing that leaves it.
pub fn command(cognito: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cognito-auth-exporter"));
    command
        .env_clear()
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ACCESS_KEY_ID", "dummy")
        .env("AWS_SECRET_ACCESS_KEY", "dummy")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_ENDPOINT_URL", cognito);
    command
}

/// Writes a configuration into a directory: the state beside it, a free port, no wait for a scrape.
pub fn configure(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("config.toml");
    let state = directory.join("state");
    let common = format!(
        "[state]\npath = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\nfirst_scrape_wait = \"0s\"\n",
        state.to_str().unwrap()
    );
    std::fs::write(&path, format!("{common}{text}")).unwrap();
    path
}

/// What `/metrics` said: value by series, a series as the text writes it.
#[derive(Clone, Debug)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Self(samples.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect())
    }

    /// The sum of a metric's series that hold every one of `labels`, such as `event_type="SignIn"`.
    pub fn sum(&self, metric: &str, labels: &[&str]) -> f64 {
        self.matching(metric, labels).map(|(_, value)| value).sum()
    }

    /// How many series of a metric hold every one of `labels`.
    pub fn count(&self, metric: &str, labels: &[&str]) -> usize {
        self.matching(metric, labels).count()
    }

    fn matching(&self, metric: &str, labels: &[&str]) -> impl Iterator<Item = (&String, f64)> {
        self.0
            .iter()
            .filter(move |(series, _)| {
                let (name, rest) = series.split_once('{').unwrap_or((series, ""));
                name == metric && labels.iter().all(|label| rest.contains(label))
            })
            .map(|(series, value)| (series, *value))
    }

    /// What is not 0, for a failing test's message.
    pub fn interesting(&self) -> String {
        let lines = self.0.iter().filter(|(series, value)| **value != 0.0 && !series.contains("bucket"));
        lines.map(|(series, value)| format!("{series} {value}")).collect::<Vec<_>>().join("\n")
    }
}
