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

/// What it says when it runs, and where it listens.
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
    /// Starts `run` on a configuration, against a Cognito at `cognito`, and waits until it says where it listens.
    pub fn start(config: &Path, cognito: &str) -> Self {
        let mut command = command(cognito);
        command.arg("run").arg("--config").arg(config);
        Self::started(command)
    }

    /// Starts a command that is `run` in one way or another (with more environment, under another program) and waits until
    /// it says where it listens.
    pub fn started(command: Command) -> Self {
        let exporter = Self::spawned(command);
        exporter.log.wait_for(RUNNING);
        exporter
    }

    /// Starts a command and does not wait: it may die before it listens.
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

    /// Waits until it says this.
    pub fn until_said(&self, text: &str) {
        self.log.wait_for(text);
    }

    /// Where it listens, once it says so.
    pub fn listens(&self) -> Option<SocketAddr> {
        let said = self.log.find(RUNNING)?;
        let listen = said.split("listen=").nth(1).and_then(|rest| rest.split_whitespace().next());
        Some(listen.unwrap().parse().unwrap())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listens().unwrap()
    }

    /// Whether it has said that it runs.
    pub fn is_running(&self) -> bool {
        self.listens().is_some()
    }

    /// Reads `/metrics`.
    pub fn scrape(&self) -> Scrape {
        Scrape::parse(&self.get("/metrics"))
    }

    /// Reads `/metrics` of an exporter that may not listen yet, or die over it: the whole text or nothing.
    pub fn try_scrape(&self) -> Option<Scrape> {
        let answer = request(self.listens()?, "/metrics").ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let announced =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        (announced == Some(body.len())).then(|| Scrape::parse(body))
    }

    /// Reads a path's body.
    pub fn get(&self, path: &str) -> String {
        self.ask(path).1
    }

    /// Reads a path's status and body.
    pub fn ask(&self, path: &str) -> (u16, String) {
        let answer = self.answer(path);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Reads all that a path answers, from the status line on.
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

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; answers how it ended.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap().success());
    }

    /// Waits until it has ended, however it does.
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

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    pub fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Resident memory in bytes, as the kernel says.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("status", "VmRSS:")
    }

    /// Memory in bytes that is no file's: what the program has asked for and touched.
    pub fn anonymous_bytes(&self) -> u64 {
        self.memory("smaps_rollup", "Anonymous:")
    }

    fn memory(&self, file: &str, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
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

/// Renderings that clients share are no older than this when they are asked for (`AGE_MAX`).
const AGE_MAX: Duration = Duration::from_secs(1);

/// Asks for a path; answers head and body, which show what there is now or later: an answer that was gathered for another
/// client is asked for again.
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

/// The binary with an environment of its own.
pub fn command(cognito: &str) -> Command {
    isolated(Path::new(env!("CARGO_BIN_EXE_cognito-auth-exporter")), cognito)
}

/// A program with an environment of its own: nothing of the machine's, nothing that leaves it.
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

/// The value of a label in a series as the text writes it; empty if it is not there.
pub fn label<'a>(series: &'a str, name: &str) -> &'a str {
    let value = series.split_once(&format!("{name}=\"")).map(|(_, rest)| rest);
    value.and_then(|rest| rest.split_once('"')).map_or("", |(value, _)| value)
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

    /// A metric's series that hold every one of `labels`, with their values.
    pub fn matching(&self, metric: &str, labels: &[&str]) -> impl Iterator<Item = (&str, f64)> {
        self.0
            .iter()
            .filter(move |(series, _)| {
                let (name, rest) = series.split_once('{').unwrap_or((series, ""));
                name == metric && labels.iter().all(|label| rest.contains(label))
            })
            .map(|(series, value)| (series.as_str(), *value))
    }

    /// What is not 0, for a failing test's message.
    pub fn interesting(&self) -> String {
        let lines = self.0.iter().filter(|(series, value)| **value != 0.0 && !series.contains("bucket"));
        lines.map(|(series, value)| format!("{series} {value}")).collect::<Vec<_>>().join("\n")
    }
}
