//! The exporter's own HTTP server with unusual clients and broken configuration files.

use std::collections::{BTreeSet, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cognito_auth_simulator::world::SimulatedPool;

use crate::exporter::{Exporter, PATIENCE};
use crate::test_env::{TestEnv, said};

/// The number of pools. Many pools make large answers.
const POOLS: usize = 200;

/// The number of scrapes beside the crowd.
const SCRAPES: usize = 8;
/// Requests of a scrape until it has to have got through.
const SCRAPE_TRIES: usize = 5;

const PASSWORD: &str = "basic_auth_users:\n  ann: ";

async fn env(pools: usize) -> TestEnv {
    let ids: Vec<String> = (0..pools).map(|number| format!("eu-west-1_Serving{number:03}")).collect();
    let config: String = ids.iter().map(|id| format!("[[pools]]\nid = {id:?}\nusernames = [\"ann\"]\n")).collect();
    let config = format!("{config}[poll]\nrequests_per_second = 70\nmin_interval = \"1s\"\nfirst_run = \"none\"\n");
    TestEnv::set(&config, |world| {
        for id in &ids {
            world.add_pool(SimulatedPool::new(id));
            world.add_user(id, "ann");
        }
    })
    .await
}

/// Starts an exporter, and waits until it shows every pool.
fn with_all_pools(env: &TestEnv) -> Exporter {
    let exporter = env.exporter();
    exporter.until("all pools", |scrape| scrape.count("cognito_auth_history_events_total", &[]) == POOLS);
    exporter
}

/// Sends a request on a new connection.
fn send(address: SocketAddr, path: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: exporter\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

/// Requests a path and reads the whole answer; None if the connection ends before.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut answer = String::new();
    send(address, path).ok()?.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    (head.starts_with("HTTP/1.1 200") && length == Some(body.len())).then(|| body.to_owned())
}

/// Waits until a condition holds.
fn until(what: &str, exporter: &Exporter, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come\n{}", exporter.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Writes this text to the file, and waits until the running exporter logs something about it.
fn rewrite(env: &TestEnv, exporter: &Exporter, text: &str) {
    let told = || said(&exporter.log(), &["web configuration"]).len();
    let before = told();
    // Not in one step: a full disk and some editors leave a part of the file.
    std::fs::write(env.path("web.yml"), text).unwrap();
    until("a word about the file", exporter, || told() > before);
}

/// Reports about exporters with this file format: an editor, a template without values or a full disk leaves the file
/// of passwords empty, and the following reload admits everyone.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_passwords_that_becomes_empty_lets_nobody_in() {
    let env = env(1).await;
    let good = format!("{PASSWORD}{}\n", bcrypt::hash("secret", 4).unwrap());
    std::fs::write(env.path("web.yml"), &good).unwrap();
    let config = std::fs::read_to_string(env.config()).unwrap();
    let named = config.replace("[http]\n", &format!("[http]\nweb_config_file = {:?}\n", env.path("web.yml")));
    std::fs::write(env.config(), &named).unwrap();
    let exporter = env.exporter();
    assert_eq!(exporter.ask("/metrics").0, 401);
    for broken in ["", "basic_auth_users:\n", "{}\n"] {
        rewrite(&env, &exporter, broken);
        assert_eq!(exporter.ask("/metrics").0, 401, "after {broken:?}\n{}", exporter.log());
    }
    let told = said(&exporter.log(), &["ERROR", "web configuration", "restart"]);
    assert!(told.iter().any(|line| line.contains("basic_auth_users")), "{}", exporter.log());
    // The key that names the file is removed, with the same result.
    std::fs::write(env.config(), &config).unwrap();
    exporter.signal("HUP");
    until("a reload that failed", &exporter, || {
        let failed = said(&exporter.log(), &["ERROR", "configuration reload failed; keeping the current one"]);
        failed.iter().any(|line| !line.contains("web configuration reload failed"))
    });
    assert_eq!(exporter.ask("/metrics").0, 401);
    std::fs::write(env.config(), &named).unwrap();
    rewrite(&env, &exporter, &good.replace("ann", "ben"));
    assert_eq!(exporter.ask("/metrics").0, 401);
    // A restart applies the removal of the passwords.
    assert!(exporter.stop().success());
    std::fs::write(env.path("web.yml"), "{}\n").unwrap();
    assert_eq!(env.exporter().ask("/metrics").0, 200);
}

/// The same at a start: the file for the passwords exists and is empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_an_empty_file_of_passwords_is_refused() {
    let env = env(1).await;
    for (text, told) in [
        ("", "is empty"),
        ("# to be filled in\n", "is empty"),
        ("basic_auth_users:\n", "basic_auth_users"),
        ("tls_server_config:\n", "tls_server_config"),
    ] {
        std::fs::write(env.path("web.yml"), text).unwrap();
        let mut command = env.command();
        command.env("COGNITO_EXPORTER_HTTP__WEB_CONFIG_FILE", env.path("web.yml"));
        command.stderr(std::process::Stdio::piped());
        let mut exporter = Exporter::spawned(command);
        until("an end, or a port", &exporter, || exporter.is_running() || !exporter.log().is_empty());
        assert!(!exporter.is_running(), "{text:?}");
        assert_eq!(exporter.ended().code(), Some(2), "{text:?}\n{}", exporter.log());
        until("a reason", &exporter, || exporter.log().contains(told));
    }
}

/// Many open dashboards, or an anonymous visitor in a loop: the page is rendered anew for each, and polling slows.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_the_status_page_is_answered_from_few_renderings() {
    let env = env(POOLS).await;
    let exporter = with_all_pools(&env);
    let address = exporter.address();
    let ask = |requests: usize| -> Vec<String> {
        let bodies = (0..requests).map(|_| get(address, "/status").expect("an answer"));
        // Each rendering contains its time.
        bodies.map(|body| body.split("\"now\": ").nth(1).unwrap().lines().next().unwrap().to_owned()).collect()
    };
    let crowd: Vec<String> = std::thread::scope(|scope| {
        let visitors: Vec<_> = (0..16).map(|_| scope.spawn(|| ask(20))).collect();
        visitors.into_iter().flat_map(|visitor| visitor.join().unwrap()).collect()
    });
    let renderings: BTreeSet<&String> = crowd.iter().collect();
    assert!(renderings.len() * 4 <= crowd.len(), "{} renderings for {} answers", renderings.len(), crowd.len());
}

/// A scanner that opens and closes connections displaces the scrapes.
#[tokio::test(flavor = "multi_thread")]
async fn every_scrape_gets_through_beside_connections_that_come_and_go() {
    let env = env(POOLS).await;
    let exporter = with_all_pools(&env);
    let address = exporter.address();
    let (over, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
    // 200 connections in all: three times as many as there are places. A displaced one is opened again.
    let come_and_go = |which: usize| {
        let mut held = VecDeque::new();
        while !over.load(Ordering::Relaxed) {
            if held.len() >= 25 {
                let mut oldest: TcpStream = held.pop_front().unwrap();
                oldest.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                let _ = oldest.read(&mut [0]);
            }
            let Ok(mut stream) = TcpStream::connect(address) else { continue };
            opened.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(&b"GET /metrics HTTP/1.1\r\nHost: scanner\r\n"[..which % 30]);
            held.push_back(stream);
        }
    };
    let through = std::thread::scope(|scope| {
        (0..8).for_each(|which| {
            scope.spawn(move || come_and_go(which));
        });
        until("a crowd", &exporter, || opened.load(Ordering::Relaxed) > 200);
        // On a busy machine a request may be cut before it is read; then the next scrape has to get through.
        let gets_through = || (0..SCRAPE_TRIES).any(|_| get(address, "/metrics").is_some());
        let through = (0..SCRAPES).filter(|_| gets_through()).count();
        over.store(true, Ordering::Relaxed);
        through
    });
    assert_eq!(through, SCRAPES, "beside {} connections", opened.load(Ordering::Relaxed));
}

/// Clients that request the largest page and do not read it: each has its own copy in memory.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_share_what_they_wait_for() {
    if !crate::long::are_wanted() {
        return;
    }
    if !std::path::Path::new("/proc/self/status").exists() {
        return;
    }
    let env = env(POOLS).await;
    let exporter = with_all_pools(&env);
    let address = exporter.address();
    let body = get(address, "/metrics").unwrap().len() as u64;
    let before = exporter.resident_bytes();
    let mut crowd = vec![];
    for _ in 0..64 {
        let mut stream = send(address, "/metrics").unwrap();
        // The server has begun to answer, and the client reads no more.
        let _ = stream.read_exact(&mut [0; 64]);
        crowd.push(stream);
    }
    let grown = exporter.resident_bytes().saturating_sub(before);
    // Half of the memory that one copy for each client would take. The bound for waiting data is 64 MiB. The rest is
    // unexplained, and was as much again on a busy machine.
    assert!(grown < 64 * body / 2, "{grown} bytes for 64 clients; a body has {body}");
    // They displace no other client.
    assert!(get(address, "/metrics").is_some());
    drop(crowd);
}

/// A cluster with IPv6 alone, and one with both: probes and scrapes use either.
#[tokio::test(flavor = "multi_thread")]
async fn every_address_is_of_both_families_and_one_address_is_that_one_alone() {
    let has_ipv6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let families = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let env = env(1).await;
    for (listen, reached) in [("[::]:0", [true, has_ipv6]), ("127.0.0.1:0", [true, false])] {
        let mut command = env.command();
        command.env("COGNITO_EXPORTER_HTTP__LISTEN", listen);
        let exporter = Exporter::started(command);
        let port = exporter.address().port();
        for (ip, is_reached) in families.into_iter().zip(reached) {
            assert_eq!(get(SocketAddr::new(ip, port), "/livez").is_some(), is_reached, "{ip} of {listen}");
        }
    }
}
