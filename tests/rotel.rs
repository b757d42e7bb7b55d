//! A third-party receiver: rotel accepts the records of the built binary over gRPC and HTTP, and prints them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cognito_auth_core::event::{UnixMillis, Word};
use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_simulator::world::SimulatedPool;
use cognito_auth_simulator::{Options, Simulation};

use crate::exporter;
use crate::exporter::Exporter;
use crate::peers;

const POOL: &str = "eu-west-1_Rotel0001";

/// A running rotel that prints every record it receives. Dropping it ends it.
struct Rotel {
    child: Child,
    output: PathBuf,
    grpc: u16,
    http: u16,
}

impl Drop for Rotel {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Rotel {
    fn start(python: &Path, directory: &Path) -> Self {
        let found = Command::new(python)
            .args(["-c", "import rotel, os; print(os.path.join(os.path.dirname(rotel.__file__), 'rotel-agent'))"])
            .output()
            .unwrap();
        let program = String::from_utf8(found.stdout).unwrap();
        let (grpc, http) = (free_port(), free_port());
        let output = directory.join("rotel.log");
        let log = std::fs::File::create(&output).unwrap();
        let child = Command::new(program.trim())
            .args(["start", "--exporter", "blackhole", "--debug-log", "logs", "--debug-log-verbosity", "detailed"])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, output, grpc, http }
    }

    /// Waits until its output contains every one of `texts`.
    fn until_it_says(&self, texts: &[String]) -> String {
        let deadline = Instant::now() + exporter::PATIENCE;
        loop {
            let said = std::fs::read_to_string(&self.output).unwrap();
            if texts.iter().all(|text| said.contains(text)) {
                return said;
            }
            assert!(Instant::now() < deadline, "rotel did not receive everything:\n{said}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A port that was free a moment ago. rotel does not report a port that it has chosen.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn rotel_takes_every_event(protocol: &str, endpoint: impl Fn(&Rotel) -> String) {
    let Some(python) = peers::python_with("rotel") else { return };
    let directory = tempfile::tempdir().unwrap();
    let rotel = Rotel::start(&python, directory.path());
    let simulation = Simulation::start(Options::default()).await.unwrap();
    let now = Clock::system().now();
    let mut ids = vec![];
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "zoë");
        for event in 0..70 {
            let mut event = world.sign_in(UnixMillis(now.0 - 1000 * event));
            event.event_type = Some(Word::parse("ForgotPassword"));
            world.arrive(POOL, "zoë", &event);
            ids.push(event.id.unwrap());
        }
    });
    let text = format!(
        "[[pools]]\nid = {POOL:?}\nusernames = [\"zoë\"]\n[otlp]\nendpoint = {:?}\nprotocol = {protocol:?}\n[poll]\nmin_interval = \"1s\"\n",
        endpoint(&rotel)
    );
    let config = exporter::configure(directory.path(), &text);
    let exporter = Exporter::start(&config, &simulation.url());
    let said = rotel.until_it_says(&ids);
    for expected in ["aws.cognito.auth.forgot_password", "zoë", "cognito-auth-exporter", "geo.country.iso_code"] {
        assert!(said.contains(expected), "{expected} is missing:\n{said}");
    }
    let scrape = exporter.until("an empty outbox", |scrape| {
        scrape.sum("cognito_exporter_otlp_records_total", &["outcome=\"accepted\""]) > 69.5
            && scrape.sum("cognito_exporter_outbox_records", &[]) < 0.5
    });
    assert!(scrape.sum("cognito_exporter_otlp_records_total", &["outcome=\"rejected\""]) < 0.5);
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn rotel_takes_every_event_over_grpc() {
    rotel_takes_every_event("grpc", |rotel| format!("http://127.0.0.1:{}", rotel.grpc)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotel_takes_every_event_over_http_protobuf() {
    rotel_takes_every_event("http/protobuf", |rotel| format!("http://127.0.0.1:{}", rotel.http)).await;
}
