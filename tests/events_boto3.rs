//! `events` beside boto3's paginator. Both give the same events in the same order, and each accepts the other's tokens.

use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_exporter::cli::events::{EventsArgs, EventsEnd, PoolTarget, run};
use cognito_auth_exporter::source::cognito::Clients;
use cognito_auth_simulator::fault::{FaultKind, InjectedFault};
use cognito_auth_simulator::paging::{LastToken, TokenStyle};
use cognito_auth_simulator::world::{SimulatedPool, World};
use cognito_auth_simulator::{Options, Simulation};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::histories::events_of_every_shape;
use crate::peers;

const POOL: &str = "eu-west-1_Example";
const USER: &str = "ada";
const NOW: UnixMillis = UnixMillis(1_750_000_000_123);
const EVENTS: i64 = 130;

/// Adds events of every shape, some within the same millisecond. They include the unusual values of the service: City
/// "null", unknown words, missing members.
fn populate(world: &mut World) {
    world.add_pool(SimulatedPool::new(POOL));
    world.add_user(POOL, USER);
    events_of_every_shape(world, POOL, USER, EVENTS, NOW);
}

async fn ada() -> Simulation {
    let simulation = Simulation::start(Options::still(NOW)).await.unwrap();
    simulation.world(populate);
    simulation
}

/// A PaginationConfig.
#[derive(Clone, Debug, Default)]
struct PaginationConfig {
    max_items: Option<u64>,
    page_size: Option<u8>,
    starting_token: Option<String>,
}

/// The result of a request.
#[derive(Clone, PartialEq, Debug)]
struct PaginationResult {
    events: Vec<Value>,
    token: Option<String>,
    failed: bool,
}

#[derive(clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    args: EventsArgs,
}

async fn ours(simulation: &Simulation, asked: &PaginationConfig) -> PaginationResult {
    let mut line = vec!["events".to_owned(), "--user-pool-id".into(), POOL.into(), "--username".into(), USER.into()];
    line.extend(["--requests-per-second".to_owned(), "1000".to_owned()]);
    let options = [
        ("--max-items", asked.max_items.map(|items| items.to_string())),
        ("--page-size", asked.page_size.map(|size| size.to_string())),
        ("--starting-token", asked.starting_token.clone()),
    ];
    for (option, value) in options {
        line.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
    }
    let Ok(CommandLine { args }) = CommandLine::try_parse_from(line) else {
        return PaginationResult { events: vec![], token: None, failed: true };
    };
    let target = PoolTarget::of(&args, || panic!("the arguments name the pool")).unwrap();
    let out = SharedBuffer::default();
    let clients = Clients::simulated(simulation.url());
    let result = run(&args, &target, &clients, Box::new(out.clone())).await;
    let lines = String::from_utf8(std::mem::take(&mut *out.0.lock())).unwrap();
    PaginationResult {
        events: lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        failed: result.is_err(),
        token: match result {
            Ok(EventsEnd::Complete(Some(token))) => Some(token.to_string()),
            _ => None,
        },
    }
}

/// An output that the test reads afterwards.
#[derive(Clone, Default)]
struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

impl Write for SharedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn boto3(python: &Path, simulation: &Simulation, asked: &[PaginationConfig]) -> Vec<PaginationResult> {
    let configs: Vec<Value> = asked
        .iter()
        .map(|asked| {
            let config = json!({
                "MaxItems": asked.max_items, "PageSize": asked.page_size, "StartingToken": asked.starting_token,
            });
            Value::Object(
                config.as_object().unwrap().clone().into_iter().filter(|(_, value)| !value.is_null()).collect(),
            )
        })
        .collect();
    let mut child = peers::boto3_script(python, "boto3_events.py")
        .args([&simulation.url(), POOL, USER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(Value::Array(configs).to_string().as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    told.into_iter()
        .map(|told| PaginationResult {
            events: told["Events"].as_array().unwrap().clone(),
            token: told["NextToken"].as_str().map(str::to_owned),
            failed: !told["Error"].is_null(),
        })
        .collect()
}

/// Asks both programs the same, and returns both results.
async fn both(python: &Path, simulation: &Simulation, asked: &[PaginationConfig]) -> Vec<PaginationResult> {
    let theirs = boto3(python, simulation, asked).await;
    assert_eq!(theirs.len(), asked.len());
    for (asked, theirs) in asked.iter().zip(&theirs) {
        let ours = ours(simulation, asked).await;
        assert!(ours == *theirs, "{asked:?}\nours   {}\ntheirs {}", summary(&ours), summary(theirs));
    }
    theirs
}

fn summary(told: &PaginationResult) -> String {
    let first = told.events.first().map(Value::to_string).unwrap_or_default();
    format!("{} events, token {:?}, failed {}, {first}", told.events.len(), told.token, told.failed)
}

fn every_way_to_ask() -> Vec<PaginationConfig> {
    let mut asked = vec![];
    for page_size in [None, Some(7), Some(60)] {
        for max_items in [None, Some(0), Some(1), Some(59), Some(60), Some(61), Some(126), Some(130), Some(131)] {
            asked.push(PaginationConfig { max_items, page_size, starting_token: None });
        }
    }
    asked
}

#[tokio::test]
async fn both_yield_the_same_however_they_are_cut_and_go_on_with_each_others_tokens() {
    let Some(python) = peers::python_with("boto3") else { return };
    for (style, last) in [(TokenStyle::Key, LastToken::WhenFull), (TokenStyle::Offset, LastToken::Always)] {
        let simulation = ada().await;
        simulation.world(|world| {
            let pool = world.pool_mut(POOL);
            (pool.token_style, pool.last_token) = (style, last);
        });
        let first = every_way_to_ask();
        let begun = both(&python, &simulation, &first).await;
        let whole = begun[0].events.clone();
        assert_eq!(whole.len(), usize::try_from(EVENTS).unwrap());

        let mut second = vec![];
        let mut before = vec![];
        for (asked, begun) in first.iter().zip(&begun).filter(|(_, begun)| begun.token.is_some()) {
            for max_items in [None, Some(5)] {
                second.push(PaginationConfig {
                    max_items,
                    starting_token: begun.token.clone(),
                    page_size: asked.page_size,
                });
                before.push(begun.events.len());
            }
        }
        let gone_on = both(&python, &simulation, &second).await;
        assert!(gone_on.len() > 30);
        for (before, after) in before.into_iter().zip(gone_on) {
            assert!(after.events == whole[before..before + after.events.len()], "{before}");
            assert!(after.token.is_some() || before + after.events.len() == whole.len());
        }
    }
}

#[tokio::test]
async fn both_take_the_same_for_a_token() {
    let Some(python) = peers::python_with("boto3") else { return };
    let simulation = ada().await;
    let page = ours(&simulation, &PaginationConfig { max_items: Some(60), ..PaginationConfig::default() }).await;
    let of_service = ours_service_token(&simulation, page.token.as_deref().unwrap()).await;
    let tokens = [
        of_service.clone(),
        format!("{of_service}___3"),
        format!("{of_service}___x"),
        format!("{of_service}___1___2"),
        "None___5".into(),
        "None".into(),
        "senseless".into(),
        "two words".into(),
        String::new(),
        "eyJOZXh0VG9rZW4iOiBudWxsfQ==".into(), // {"NextToken": null}
        "eyJOZXh0VG9rZW4iOiBudWxsLCAiYm90b190cnVuY2F0ZV9hbW91bnQiOiA5OTl9".into(), // ... 999 events in
        "eyJOZXh0VG9rZW4i\nOiBudWxsfQ==".into(),
        "eyJQYWdpbmF0aW9uVG9rZW4iOiAiYSJ9".into(), // {"PaginationToken": "a"}
        "W10=".into(),                             // []
    ];
    let asked: Vec<PaginationConfig> = tokens
        .into_iter()
        .map(|token| PaginationConfig { starting_token: Some(token), max_items: Some(70), page_size: None })
        .collect();
    let told = both(&python, &simulation, &asked).await;
    let failed: Vec<bool> = told.iter().map(|told| told.failed).collect();
    let (f, t) = (false, true);
    assert_eq!(failed, [f, f, t, t, f, f, t, t, t, f, f, f, t, t]);
}

/// The service's token, taken from the call after resuming.
async fn ours_service_token(simulation: &Simulation, resume: &str) -> String {
    ours(
        simulation,
        &PaginationConfig { starting_token: Some(resume.to_owned()), max_items: Some(1), page_size: None },
    )
    .await;
    simulation.world(|world| world.calls().iter().next_back().unwrap().token.clone().unwrap())
}

#[tokio::test]
async fn both_stop_at_a_token_that_comes_twice() {
    let Some(python) = peers::python_with("boto3") else { return };
    let simulation = ada().await;
    let misled = |simulation: &Simulation| {
        simulation.world(|world| {
            world.remove_all_faults();
            world.inject(InjectedFault::new(FaultKind::RepeatToken).after(1));
        });
    };
    let asked = PaginationConfig { page_size: Some(10), ..PaginationConfig::default() };
    misled(&simulation);
    let theirs = boto3(&python, &simulation, std::slice::from_ref(&asked)).await.remove(0);
    misled(&simulation);
    let ours = ours(&simulation, &asked).await;
    assert!(ours.failed && ours == theirs, "ours {}\ntheirs {}", summary(&ours), summary(&theirs));
    assert_eq!(ours.events.len(), 20);
}
