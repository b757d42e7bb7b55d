//! The whole path of a high-risk sign-in: simulated Cognito, the built binary, a real Prometheus with the published
//! rules, a real Alertmanager, and its webhook. The defaults that matter are kept: the exporter waits for its first
//! scrape.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_simulator::world::SimulatedPool;
use cognito_auth_simulator::{Options, Simulation};
use serde_json::Value;

use crate::exporter;
use crate::exporter::{Exporter, PATIENCE};
use crate::histories::taken_over;
use crate::peers;
use crate::prometheus::Server;
use crate::rules;

const POOL: &str = "eu-west-1_Alerting1";

/// The webhook of Alertmanager: an HTTP server that passes on every notification.
fn webhook() -> (SocketAddr, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) <= 2 {
                    break;
                }
                if let Some(announced) = line.to_lowercase().strip_prefix("content-length:") {
                    length = announced.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                continue;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            if tell.send(serde_json::from_slice(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    (address, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_very_first_high_risk_sign_in_is_told_to_somebody_and_history_is_not() {
    if !["prometheus", "prometheus-alertmanager"].into_iter().all(peers::has) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let simulation = Simulation::start(Options::default()).await.unwrap();
    let now = Clock::system().now();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ann");
        // Taken over an hour before the user was followed.
        let event = taken_over(world, now.minus(Duration::from_secs(3600)));
        world.arrive(POOL, "ann", &event);
    });
    let text = format!(
        "[[pools]]\nid = {POOL:?}\nusernames = [\"ann\"]\n[poll]\nmin_interval = \"1s\"\nmax_interval = \"10s\"\n"
    );
    let config = exporter::configure(directory.path(), &text);
    // This restores the default wait for a scrape. Without it, the first event could precede the first scraped zero.
    let text = std::fs::read_to_string(&config).unwrap().replace("first_scrape_wait = \"0s\"\n", "");
    std::fs::write(&config, text).unwrap();

    let (woken, notifications) = webhook();
    let alertmanager = Server::alertmanager(directory.path(), woken);
    let exporter = Exporter::start(&config, &simulation.url());
    let rules = rules::folder().join("rules.yml");
    let target = exporter.listens().unwrap();
    let prometheus = Server::prometheus(directory.path(), &[target], &[&rules], Some(alertmanager.address()));

    // History is read, counted as history and evaluated, and it causes no alert.
    prometheus.until("cognito_auth_history_events_total == 1");
    prometheus.until("pool_index:cognito_high_risk_takeovers:total == 0");
    assert_eq!(prometheus.query("ALERTS{alertname=\"CognitoAccountTakeover\"}").unwrap(), Vec::<Value>::new());

    let began = Instant::now();
    simulation.world(|world| {
        let event = taken_over(world, Clock::system().now());
        world.arrive(POOL, "ann", &event);
    });
    let alert = loop {
        let left = PATIENCE.saturating_sub(began.elapsed());
        let notification =
            notifications.recv_timeout(left).unwrap_or_else(|_| panic!("nobody was told\n{}", exporter.log()));
        let alerts = notification["alerts"].as_array().unwrap();
        if let Some(alert) = alerts.iter().find(|alert| alert["labels"]["alertname"] == "CognitoAccountTakeover") {
            break alert.clone();
        }
    };
    println!("from the sign-in to the webhook: {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(alert["status"], "firing");
    assert_eq!(alert["labels"]["user_pool_id"], POOL);
    // One is a warning; five in ten minutes wake somebody.
    assert_eq!(alert["labels"]["severity"], "warning");
    assert!(alert["annotations"]["summary"].as_str().unwrap().contains(POOL), "{alert}");
    assert!(alert["annotations"]["runbook_url"].as_str().unwrap().ends_with("#cognitoaccounttakeover"), "{alert}");
    // The alert names no user; the logs do.
    assert!(!alert.to_string().contains("ann\""), "{alert}");
    exporter.until("one takeover", |scrape| {
        (scrape.sum("cognito_auth_risk_events_total", &["risk_level=\"High\""]) - 1.0).abs() < 0.5
    });
    assert!(exporter.stop().success());
}
