//! Real Prometheus and Alertmanager servers on loopback, each on a port that the system chose.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::exporter::PATIENCE;

/// The pause between two requests while waiting for an answer.
const PAUSE: Duration = Duration::from_millis(100);

/// A server of the Prometheus family, which logs its listen address. Dropping it kills it.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// A Prometheus that scrapes `targets` (as `job`), evaluates these rule files every second, and sends alerts to
    /// `alertmanager`.
    pub(crate) fn prometheus(
        directory: &Path,
        targets: &[SocketAddr],
        rules: &[&Path],
        alertmanager: Option<SocketAddr>,
    ) -> Self {
        let quoted: Vec<_> = targets.iter().map(|target| format!("{:?}", target.to_string())).collect();
        let mut config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: {rules:?}\nscrape_configs:\n  \
             - job_name: cognito-auth-exporter\n    static_configs: [{{targets: [{}]}}]\n",
            quoted.join(", ")
        );
        if let Some(alertmanager) = alertmanager {
            writeln!(config, "alerting: {{alertmanagers: [{{static_configs: [{{targets: [\"{alertmanager}\"]}}]}}]}}")
                .unwrap();
        }
        Self::prometheus_with(directory, &config)
    }

    /// A Prometheus with its own configuration. Paths in it are relative to the directory.
    pub(crate) fn prometheus_with(directory: &Path, config: &str) -> Self {
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("prometheus").display()));
        let server = Self::started(command);
        // It listens before it can answer.
        let deadline = Instant::now() + PATIENCE;
        while !get(server.address, "/-/ready").contains("is Ready") {
            assert!(Instant::now() < deadline, "Prometheus does not become ready");
            std::thread::sleep(PAUSE);
        }
        server
    }

    /// An Alertmanager that notifies a webhook of every alert at once.
    pub(crate) fn alertmanager(directory: &Path, webhook: SocketAddr) -> Self {
        let file = directory.join("alertmanager.yml");
        let config = format!(
            "route: {{receiver: people, group_wait: 0s, group_interval: 1s}}\n\
             receivers: [{{name: people, webhook_configs: [{{url: \"http://{webhook}/\"}}]}}]\n"
        );
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("prometheus-alertmanager");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.path={}", directory.join("alertmanager").display()));
        command.arg("--cluster.listen-address=");
        Self::started(command)
    }

    fn started(mut command: Command) -> Self {
        let mut child = command
            .arg("--web.listen-address=127.0.0.1:0")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tell, told) = mpsc::channel();
        // Reads the output until it ends, so that the server never waits for a reader.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let listens = where_it_listens(&told).unwrap_or_else(|said| {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it does not say where it listens:\n{said}")
        });
        Self { child, address: listens }
    }

    /// The listen address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The result of an instant query now, in the form of the HTTP API: a list of `metric` and `value`.
    pub(crate) fn query(&self, expr: &str) -> Result<Vec<Value>, String> {
        let mut path = "/api/v1/query?query=".to_owned();
        for byte in expr.bytes() {
            if byte.is_ascii_alphanumeric() {
                path.push(char::from(byte));
            } else {
                write!(path, "%{byte:02X}").unwrap();
            }
        }
        let answer = self.ask(&path);
        if answer["status"] != "success" {
            return Err(answer["error"].as_str().unwrap_or("no error is named").to_owned());
        }
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// The health of its first target, and the last error.
    pub(crate) fn target(&self) -> Option<(String, String)> {
        let answer = self.ask("/api/v1/targets");
        let target = &answer["data"]["activeTargets"][0];
        Some((target["health"].as_str()?.to_owned(), target["lastError"].as_str()?.to_owned()))
    }

    fn ask(&self, path: &str) -> Value {
        serde_json::from_str(&get(self.address, path)).unwrap()
    }

    /// Queries until the result is not empty.
    pub(crate) fn until(&self, expr: &str) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let result = self.query(expr).unwrap();
            if !result.is_empty() {
                return result;
            }
            assert!(Instant::now() < deadline, "Prometheus has nothing for {expr}");
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the line with the listen address. The error is all other output.
fn where_it_listens(told: &mpsc::Receiver<String>) -> Result<SocketAddr, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut said = String::new();
    while let Ok(line) = told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if line.contains("msg=\"Listening on\"") {
            let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
            return Ok(address.unwrap().parse().unwrap());
        }
        writeln!(said, "{line}").unwrap();
    }
    Err(said)
}

/// HTTP/1.0, so that the body is not chunked.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: prometheus\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}
