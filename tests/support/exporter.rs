//! The built binary as a process: started, scraped, stopped, killed.

#![allow(dead_code, unreachable_pub, reason = "shared by test crates, each of which uses its own part")]
#![expect(clippy::unwrap_used, reason = "a test that cannot start its exporter fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Longer than any wait of a test, unless something is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The log line with the listen address, at the end of the start.
const RUNNING: &str = "is running";

/// A running exporter. Dropping it kills it.
pub struct Exporter {
    child: Child,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Exporter {
    /// Starts `run` with a configuration, against a Cognito at `cognito`, and waits until it listens.
    pub fn start(config: &Path, cognito: &str) -> Self {
        let mut command = command(cognito);
        command.arg("run").arg("--config").arg(config);
        Self::started(command)
    }

    /// Starts a command that runs the exporter (with more environment, or under another program), and waits until it
    /// listens.
    pub fn started(command: Command) -> Self {
        let exporter = Self::spawned(command);
        exporter.log.wait_for(RUNNING);
        exporter
    }

    /// Starts a command without waiting: it may die before it listens.
    pub fn spawned(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let reader = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                reader.lines.lock().unwrap().push(line);
                reader.grown.notify_all();
            }
        });
        Self { child, log }
    }

    /// Waits until its log contains this text.
    pub fn until_said(&self, text: &str) {
        self.log.wait_for(text);
    }

    /// The listen address, once it is logged.
    pub fn listens(&self) -> Option<SocketAddr> {
        let said = self.log.find(RUNNING)?;
        let listen = said.split("listen=").nth(1).and_then(|rest| rest.split_whitespace().next());
        Some(listen.unwrap().parse().unwrap())
    }

    /// The listen address.
    pub fn address(&self) -> SocketAddr {
        self.listens().unwrap()
    }

    /// Whether it has logged that it runs.
    pub fn is_running(&self) -> bool {
        self.listens().is_some()
    }

    /// Reads `/metrics`.
    pub fn scrape(&self) -> Scrape {
        Scrape::parse(&self.get("/metrics"))
    }

    /// Reads `/metrics` of an exporter that may not listen yet or may die meanwhile: the whole text or None.
    pub fn try_scrape(&self) -> Option<Scrape> {
        let answer = request(self.listens()?, "/metrics").ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let announced =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        (announced == Some(body.len())).then(|| Scrape::parse(body))
    }

    /// The body of a path.
    pub fn get(&self, path: &str) -> String {
        self.ask(path).1
    }

    /// The lines of `/metrics` that show durable counters.
    pub fn durable_counters(&self) -> BTreeSet<String> {
        let metrics = self.get("/metrics");
        let durable = metrics.lines().filter(|line| line.starts_with("cognito_auth_") && line.contains("_total{"));
        durable.map(str::to_owned).collect()
    }

    /// The status and body of a path.
    pub fn ask(&self, path: &str) -> (u16, String) {
        let answer = self.answer(path);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The whole answer of a path, including the status line.
    pub fn answer(&self, path: &str) -> String {
        request(self.listens().unwrap(), path).unwrap()
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

    /// Kills it with SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it with SIGTERM. Returns its exit status.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap().success());
    }

    /// Waits until it has ended, for whatever reason.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.try_ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The resident memory in bytes, as the kernel reports it.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("status", "VmRSS:")
    }

    /// The anonymous resident memory in bytes, which the program has allocated and used.
    pub fn anonymous_bytes(&self) -> u64 {
        self.memory("smaps_rollup", "Anonymous:")
    }

    fn memory(&self, file: &str, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Its log so far.
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

/// The oldest rendering that the server shares between clients (`AGE_MAX`).
const AGE_MAX: Duration = Duration::from_secs(1);

/// Requests a path and returns head and body. An answer that was rendered earlier for another client is requested
/// again, so the result is as of now or later.
fn request(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let began = Instant::now();
    loop {
        let asked = Instant::now();
        let answer = request_once(address, path)?;
        let head = answer.split("\r\n\r\n").next().unwrap_or_default();
        let is_shared = head.lines().any(|line| line.to_lowercase().starts_with("age:"));
        if !is_shared || asked.duration_since(began) > AGE_MAX {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn request_once(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: exporter\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Log {
    fn find(&self, text: &str) -> Option<String> {
        self.lines.lock().unwrap().iter().find(|line| line.contains(text)).cloned()
    }

    fn wait_for(&self, text: &str) {
        let lines = self.lines.lock().unwrap();
        let is_unsaid = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(text));
        let (lines, waited) = self.grown.wait_timeout_while(lines, PATIENCE, is_unsaid).unwrap();
        assert!(!waited.timed_out(), "{text:?} was not said:\n{}", lines.join("\n"));
    }
}

/// The binary in an isolated environment.
pub fn command(cognito: &str) -> Command {
    isolated(Path::new(env!("CARGO_BIN_EXE_cognito-auth-exporter")), cognito)
}

/// A program in an isolated environment: no settings of the machine, and no connection to other machines.
pub fn isolated(program: &Path, cognito: &str) -> Command {
    let mut command = Command::new(program);
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

/// The value of a label in a series of the text format; empty if it has no such label.
pub fn label<'a>(series: &'a str, name: &str) -> &'a str {
    let value = series.split_once(&format!("{name}=\"")).map(|(_, rest)| rest);
    value.and_then(|rest| rest.split_once('"')).map_or("", |(value, _)| value)
}

/// The values in `/metrics`, by series as in the text format.
#[derive(Clone, Debug)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Self(samples.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect())
    }

    /// The sum of the series of a metric with all of `labels`, such as `event_type="SignIn"`.
    pub fn sum(&self, metric: &str, labels: &[&str]) -> f64 {
        self.matching(metric, labels).map(|(_, value)| value).sum()
    }

    /// The number of series of a metric with all of `labels`.
    pub fn count(&self, metric: &str, labels: &[&str]) -> usize {
        self.matching(metric, labels).count()
    }

    /// The series of a metric with all of `labels`, with their values.
    pub fn matching(&self, metric: &str, labels: &[&str]) -> impl Iterator<Item = (&str, f64)> {
        self.0
            .iter()
            .filter(move |(series, _)| {
                let (name, rest) = series.split_once('{').unwrap_or((series, ""));
                name == metric && labels.iter().all(|label| rest.contains(label))
            })
            .map(|(series, value)| (series.as_str(), *value))
    }

    /// The values other than 0, for the message of a failing test.
    pub fn interesting(&self) -> String {
        let lines = self.0.iter().filter(|(series, value)| **value != 0.0 && !series.contains("bucket"));
        lines.map(|(series, value)| format!("{series} {value}")).collect::<Vec<_>>().join("\n")
    }
}
