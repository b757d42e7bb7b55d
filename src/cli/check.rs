//! `check`: the configuration and every dependency, tried for real; each failure with what to do about it.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::{Config, PoolConfig, Rate};
use crate::http::HttpServer;
use crate::ledger::{Ledger, LedgerError};
use crate::lifecycle::Clock;
use crate::sink::Answer;
use crate::sink::otlp::OtlpSink;
use crate::source::cognito::{Clients, Cognito};
use crate::source::{Listing, Operation, Source, SourceError};
use crate::targets::roster;

/// A name that nobody has: being told so shows that asking is allowed.
const NOBODY: &str = "cognito-auth-exporter-check";

/// What was tried, a line each.
#[derive(Default)]
struct Findings {
    failed: usize,
}

impl Findings {
    fn ok(&self, what: &str, found: impl Display) {
        say(format_args!("ok    {what}: {found}"));
    }

    fn note(&self, what: &str, found: impl Display) {
        say(format_args!("note  {what}: {found}"));
    }

    fn failed(&mut self, what: &str, cause: impl Display, remedy: impl Display) {
        self.failed += 1;
        say(format_args!("FAIL  {what}: {cause}\n      -> {remedy}"));
    }
}

fn say(line: std::fmt::Arguments<'_>) {
    // With nobody to read it there is only the exit code left.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Tries everything that `run` will need. Exit code 1 if anything failed.
///
/// # Errors
/// There are none: a failure is a line.
pub async fn check(config: Config) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    findings.ok("configuration", format_args!("{} pools", config.pools.len()));
    state(&config, &mut findings).await;
    listen(&config, &mut findings).await;
    receiver(&config, &mut findings).await;
    let clients = Clients::from_environment();
    let mut users = 0;
    for pool in &config.pools {
        let source = clients.pool(pool, config.poll.timeout, Clock::system());
        users += check_pool(pool, &source, &mut findings).await;
    }
    say_round(&config, users, &findings);
    Ok(if findings.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn state(config: &Config, findings: &mut Findings) {
    let what = format!("state {}", config.state.path.display());
    let (settings, now) = (config.state.clone(), Clock::system().now());
    match tokio::task::spawn_blocking(move || Ledger::open(&settings, now)).await {
        Ok(Ok(opened)) => {
            findings.ok(&what, format_args!("can be written, {} bytes", opened.ledger.size_bytes()));
            opened.ledger.close().await;
        }
        Ok(Err(LedgerError::Locked(_))) => findings.note(&what, "in use, by an exporter that runs already"),
        Ok(Err(error)) => findings.failed(
            &what,
            &error,
            "state.path must be on a disk that has room and can be written by the user that runs the exporter",
        ),
        Err(panic) => findings.failed(&what, panic, "please report this"),
    }
}

async fn listen(config: &Config, findings: &mut Findings) {
    match HttpServer::bind(config.http.listen).await {
        Ok(_released_at_once) => findings.ok("http.listen", config.http.listen),
        Err(error) => findings.failed("http.listen", &error, "stop what listens there, or set another http.listen"),
    }
}

async fn receiver(config: &Config, findings: &mut Findings) {
    let Some(otlp) = &config.otlp else {
        let sinks = if config.stdout_enabled { "records go to stdout only" } else { "only metrics are exported" };
        return findings.note("otlp", format_args!("no otlp.endpoint: {sinks}"));
    };
    let what = format!("otlp.endpoint {}", otlp.endpoint);
    let answer = match OtlpSink::connect(otlp, "check") {
        Ok(mut sink) => sink.probe().await,
        Err(error) => return findings.failed(&what, format_args!("{:#}", anyhow::Error::from(error)), "see above"),
    };
    match answer {
        Answer::Accepted { .. } => findings.ok(&what, "took an export of no records"),
        Answer::Retry { message, .. } => {
            findings.failed(
                &what,
                message,
                "is the receiver up, and reachable from here? Nothing is lost while it is not",
            );
        }
        Answer::Refused { message } | Answer::Invalid { message } | Answer::TooLarge { message } => {
            findings.failed(&what, message, "look at otlp.protocol, otlp.headers and the endpoint's path");
        }
    }
}

/// Tries everything of one pool; answers about how many users would be followed.
async fn check_pool(pool: &PoolConfig, source: &Cognito, findings: &mut Findings) -> u64 {
    let what = |step: &dyn Display| format!("pool {} {step}", pool.id);
    let fail = |findings: &mut Findings, operation: Operation, error: SourceError| {
        findings.failed(&what(&operation), &error, error.remedy(operation, &pool.id));
    };
    match source.check_credentials().await {
        Ok(access_key) => findings.ok(&what(&"credentials"), format_args!("access key {access_key}")),
        Err(error) => {
            let remedy = error.remedy(Operation::DescribeUserPool, &pool.id);
            findings.failed(&what(&"credentials"), &error, remedy);
            return 0; // everything else would only say the same
        }
    }
    let mut estimated = 0;
    match source.describe().await {
        Ok(description) => {
            let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".into());
            estimated = description.estimated_users.unwrap_or_default();
            findings.ok(
                &what(&Operation::DescribeUserPool),
                format_args!(
                    "account {}, plan {}, threat protection {}, about {estimated} users",
                    or_unknown(description.account_id),
                    or_unknown(description.tier),
                    or_unknown(description.threat_protection),
                ),
            );
        }
        Err(error) => fail(findings, Operation::DescribeUserPool, error),
    }
    let mut somebody = pool.usernames.first().cloned();
    let mut listed = 0;
    for listing in roster::listings(pool) {
        let operation = listing.operation();
        match source.users(&listing, None).await {
            Ok(page) => {
                let more = if page.next.is_some() { " and more" } else { "" };
                findings.ok(&what(&operation), format_args!("{} users{more}", page.users.len()));
                listed += match (&listing, page.next.is_some()) {
                    (Listing::Users { filter: None }, _) => estimated.max(page.users.len() as u64),
                    _ => page.users.len() as u64,
                };
                somebody = somebody.or_else(|| page.users.first().map(|user| user.username.clone()));
            }
            Err(error) => fail(findings, operation, error),
        }
    }
    let mut by_hand = pool.usernames.len() as u64;
    if let Some(path) = &pool.usernames_file {
        match tokio::fs::read_to_string(path).await {
            Ok(text) => {
                let names = roster::names_in(&text);
                findings.ok(&what(&"usernames_file"), format_args!("{} names", names.len()));
                by_hand += names.len() as u64;
                somebody = somebody.or_else(|| names.first().cloned());
            }
            Err(error) => findings.failed(
                &what(&"usernames_file"),
                format_args!("{}: {error}", path.display()),
                "the file must be there and readable by the user that runs the exporter",
            ),
        }
    }
    match source.page(somebody.as_deref().unwrap_or(NOBODY), None, 1).await {
        Ok(page) => {
            let found = if page.events.is_empty() { "allowed; that user has no events" } else { "events can be read" };
            findings.ok(&what(&Operation::AdminListUserAuthEvents), found);
        }
        Err(SourceError::UserNotFound) => {
            findings
                .ok(&what(&Operation::AdminListUserAuthEvents), "allowed; the user that was asked for is not there");
        }
        Err(error) => fail(findings, Operation::AdminListUserAuthEvents, error),
    }
    listed + by_hand
}

/// Says how long a round will take, and what `poll.max_interval` would need.
fn say_round(config: &Config, users: u64, findings: &Findings) {
    let per_second = match config.poll.requests_per_second {
        Rate::PerSecond(rate) => rate,
        Rate::ShareOfLimit(share) => share * crate::budget::DEFAULT_READ_LIMIT,
    };
    // An estimate for people; beyond four billion users it is off.
    let users = f64::from(u32::try_from(users).unwrap_or(u32::MAX));
    let round = Duration::from_secs(Duration::from_secs_f64((users / per_second).min(1e9)).as_secs() + 1);
    let needed = users / config.poll.max_interval.as_secs_f64();
    findings.note(
        "round",
        format_args!(
            "about {users} users take {} at {per_second} requests/s for each account and region; a max_interval of {} needs {needed:.2}",
            humantime::format_duration(round),
            humantime::format_duration(config.poll.max_interval),
        ),
    );
    if needed > per_second {
        findings.note(
            "round",
            "the objective poll.max_interval cannot be met: raise poll.requests_per_second or follow fewer users",
        );
    }
}
