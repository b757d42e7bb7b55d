//! Requests of Data Firehose to an exporter that takes a pool's events from its export only, as fast as they are
//! answered.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::export::ExportRecord;
use cognito_auth_simulator::world::World;
use serde_json::json;

use crate::cast::{Contender, Field, Start, Variant, name, own_cpu};
use crate::exporter::{Exporter, Scrape};
use crate::process::usage;

/// The records of a request: 0.5 MB before base64.
pub(crate) const REQUEST_RECORDS: usize = 500;

/// The connections on which requests are sent. Each waits for the answer before it sends the next one.
const CONNECTIONS: usize = 4;

/// The users of the events. Few of them have two.
const USERS: usize = 10_000_000;

/// The rate at which the events' dates advance.
const EVENTS_PER_SECOND: i64 = 20_000;

/// How far the first date is ahead. An exporter that starts later would find the events late.
const AHEAD_MS: i64 = 3_600_000;

/// The pause after which a request that was not answered 200 is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

const ACCESS_KEY: &str = "a key of this benchmark";
const STREAM: &str = "arn:aws:firehose:eu-west-1:111122223333:deliverystream/cognito";

/// A request, from its first line to its last byte.
type Request = Vec<u8>;

/// One time through all requests.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) events: usize,
    /// From the first request until every request was answered 200.
    pub(crate) answered: Duration,
    /// From the first request until the receiver has acknowledged every new event.
    pub(crate) delivered: Duration,
    /// The exporter's processor time.
    pub(crate) cpu: Duration,
    /// The processor time of this process, which sends the requests and receives the records.
    pub(crate) field_cpu: Duration,
    /// The most memory of the exporter so far.
    pub(crate) peak_bytes: u64,
    /// Requests that were answered otherwise than 200, and sent again.
    pub(crate) repeated: usize,
}

impl Pass {
    pub(crate) fn cpu_micros_per_event(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.events as f64
    }
}

/// The exporter with an endpoint for Data Firehose and without polling. `keys` is a file for the access key.
pub(crate) fn contender(pool: &str, keys: &Path) -> Contender {
    std::fs::write(keys, ACCESS_KEY).unwrap();
    let config = format!(
        "[[pools]]\nid = {pool:?}\nall_users = true\n[pools.export]\naudit = \"off\"\nfirehose = true\n\
         [poll]\n[firehose]\nlisten = \"127.0.0.1:0\"\naccess_keys_file = {keys:?}\n"
    );
    Contender::Exporter { config, variant: Variant::default() }
}

/// Makes the requests that deliver this many events of a pool, one event a record.
pub(crate) fn requests(world: &mut World, pool: &str, events: usize) -> Vec<Request> {
    let now = world.now();
    let begin = now.0 + AHEAD_MS;
    let mut record = |number: usize| {
        let created = UnixMillis(begin + number as i64 * 1000 / EVENTS_PER_SECOND);
        let (username, sub, event) = (name(number % USERS), world.new_id(), world.sign_in(created));
        let (sub, source) = (sub.as_str(), "USER_AUTH_EVENTS");
        let record = ExportRecord { pool_id: pool, username: &username, sub, event: &event, source, sent: now };
        STANDARD.encode(record.to_json().to_string())
    };
    let mut request = |first: usize| {
        let id = format!("{first:08x}-0000-4000-8000-000000000000");
        let records = (first..events.min(first + REQUEST_RECORDS)).map(|number| json!({"data": record(number)}));
        let records: Vec<_> = records.collect();
        let body = json!({"requestId": id, "timestamp": now.0, "records": records}).to_string();
        let bytes = body.len();
        format!(
            "POST / HTTP/1.1\r\nhost: exporter\r\ncontent-type: application/json\r\ncontent-length: {bytes}\r\n\
             x-amz-firehose-protocol-version: 1.0\r\nx-amz-firehose-request-id: {id}\r\n\
             x-amz-firehose-source-arn: {STREAM}\r\nx-amz-firehose-access-key: {ACCESS_KEY}\r\n\r\n{body}"
        )
        .into_bytes()
    };
    (0..events).step_by(REQUEST_RECORDS).map(&mut request).collect()
}

/// Sends all requests twice to an exporter that knows none of the events: the passes with new and with known events.
pub(crate) fn run(field: &Field, contender: &Contender, requests: &[Request], events: usize) -> [Pass; 2] {
    let env = field.env(contender, Start::Anew);
    let exporter = env.exporter(field);
    let endpoint = endpoint(&exporter);
    let before = field.records();
    let passes = [(); 2].map(|()| pass(field, &exporter, endpoint, requests, (events, before + events)));
    let taken = |result: &str| {
        let result = format!("result=\"{result}\"");
        move |scrape: &Scrape| scrape.sum("cognito_exporter_export_records_total", &[&result])
    };
    let scrape = exporter.until("everything counted", |scrape| {
        (scrape.sum("cognito_auth_events_total", &[]) - events as f64).abs() < 0.5
            && scrape.sum("cognito_exporter_outbox_records", &[]) < 0.5
    });
    assert!((taken("new")(&scrape) - events as f64).abs() < 0.5, "every event is new once");
    assert!((taken("known")(&scrape) - events as f64).abs() < 0.5, "and known once");
    assert_eq!(field.records(), before + events, "and delivered once");
    assert!(exporter.stop().success());
    passes
}

fn pass(
    field: &Field,
    exporter: &Exporter,
    endpoint: SocketAddr,
    requests: &[Request],
    (events, records): (usize, usize),
) -> Pass {
    let (before, field_before, began) = (usage(exporter.pid()).cpu, own_cpu(), Instant::now());
    let (answered, repeated) = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..CONNECTIONS)
            .map(|first| scope.spawn(move || send(endpoint, requests.iter().skip(first).step_by(CONNECTIONS))))
            .collect();
        let repeated = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
        (began.elapsed(), repeated)
    });
    field.until("everything delivered", |field| field.records() >= records);
    let delivered = began.elapsed();
    // The settlement of the last batch.
    std::thread::sleep(Duration::from_millis(500));
    let after = usage(exporter.pid());
    Pass {
        events,
        answered,
        delivered,
        cpu: after.cpu.saturating_sub(before),
        field_cpu: own_cpu().saturating_sub(field_before),
        peak_bytes: after.peak_bytes,
        repeated,
    }
}

/// Sends requests on one connection, each until it is answered 200. Returns how often one was sent again.
fn send<'a>(endpoint: SocketAddr, requests: impl Iterator<Item = &'a Request>) -> usize {
    let mut connection = BufReader::new(TcpStream::connect(endpoint).unwrap());
    let mut repeated = 0;
    for request in requests {
        loop {
            connection.get_mut().write_all(request).unwrap();
            if answer(&mut connection) == 200 {
                break;
            }
            repeated += 1;
            std::thread::sleep(AGAIN_AFTER);
            connection = BufReader::new(TcpStream::connect(endpoint).unwrap());
        }
    }
    repeated
}

/// Reads an answer. Returns its status.
fn answer(connection: &mut BufReader<TcpStream>) -> u16 {
    let (mut status, mut length) = (0, 0);
    for number in 0.. {
        let mut line = String::new();
        connection.read_line(&mut line).unwrap();
        match line.trim_end().split_once([' ', ':']) {
            Some((_, rest)) if number == 0 => status = rest[..3].parse().unwrap(),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap();
            }
            Some(_) => {}
            None => break,
        }
    }
    connection.read_exact(&mut vec![0; length]).unwrap();
    status
}

/// The address of an exporter's endpoint for Data Firehose.
fn endpoint(exporter: &Exporter) -> SocketAddr {
    const SAID: &str = "Data Firehose can deliver";
    exporter.until_said(SAID);
    let log = exporter.log();
    let line = log.lines().find(|line| line.contains(SAID)).unwrap();
    let listen = line.split("listen=").nth(1).and_then(|rest| rest.split_whitespace().next());
    listen.unwrap().parse().unwrap()
}
