//! `check`: validates the configuration and tries every dependency, with a remedy for each failure.
//!
//! It changes almost nothing: it creates a missing state directory, sends the receiver an export without records, and
//! makes only reading calls to Cognito. It does not open the ledger, because opening may repair it. It prints no user's
//! name, except names listed by hand that are not in the pool, unless `privacy.username` hides names. Steps run one
//! after the other, and each has its dependency's own timeout.

mod local;
mod names_by_hand;
mod pool_check;
mod report;
mod round;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use cognito_auth_core::answer::Answer;
use cognito_auth_core::budget::DEFAULT_READ_LIMIT;

use self::pool_check::PoolCheck;
use self::report::CheckReport;
use self::round::{Following, report_round};
use super::ConfigArgs;
use super::output::TextOrJson;
use super::progress::Progress;
use crate::config::{Audit, Config, ConfigErrors, OtlpConfig, PoolConfig, Rate};
use crate::lifecycle::Clock;
use crate::sink::otlp::OtlpSink;
use crate::source::cognito::{Clients, TransportError};

/// Why a step was skipped.
const OFFLINE: &str = "not tried, because of --offline";

/// The arguments of `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Try only what needs no other machine: the configuration, the files that it names, the state directory, and the
    /// addresses to listen on. The skipped steps are listed.
    #[arg(long)]
    offline: bool,
    /// Lines for people, or one JSON document.
    #[arg(long, value_enum, default_value_t = TextOrJson::Text)]
    output: TextOrJson,
}

/// Reports the mistakes of a configuration that cannot be used. People read them on stderr.
pub(super) fn report_mistakes(args: &CheckArgs, errors: &ConfigErrors) {
    report::mistakes(args.output, errors);
}

/// Tries everything that `run` needs. The exit code is 1 if anything failed.
///
/// # Errors
/// None: a failure is a step.
pub(super) async fn check(args: &CheckArgs, config: Config) -> anyhow::Result<ExitCode> {
    let mut report = CheckReport::new(args.output);
    let pools = config.pools.len();
    report.ok("configuration", format_args!("{pools} pool{}", if pools == 1 { "" } else { "s" }));
    for mistake in &config.set_aside {
        report.note("environment", format_args!("{mistake}; the malformed part is ignored"));
    }
    let state = local::state(&config.state.path, &mut report).await;
    local::listen(&config, state, &mut report).await;
    local::web(&config, &mut report).await;
    local::firehose(&config, state, &mut report).await;
    local::hash_keys(&config, &mut report).await;
    receiver(&config, args.offline, &mut report).await;
    match Clients::from_environment() {
        Ok(clients) => pools_of(&config, &clients, args.offline, &mut report).await,
        // Without the CA bundle no call to AWS can be tried.
        Err(error) => {
            let error = anyhow::Error::from(error);
            report.failed("AWS_CA_BUNDLE", format_args!("{error:#}"), TransportError::REMEDY);
        }
    }
    Ok(report.conclude())
}

/// Tries the pools, and reports how long a round over their users takes.
async fn pools_of(config: &Config, clients: &Clients, is_offline: bool, report: &mut CheckReport) {
    // For each account and region: the users, and the account's limit.
    let mut budgets = BTreeMap::<String, (Following, f64)>::new();
    let mut progress = Progress::beside_output("pools checked", Some(config.pools.len() as u64));
    for pool in &config.pools {
        let source = clients.pool(pool, config.poll.timeout, Clock::system());
        let requests_per_second = requests_per_second(config, DEFAULT_READ_LIMIT);
        let hides_names = config.privacy.modes.hides_names();
        let shard = config.shard;
        let mut pool = PoolCheck { pool, shard, requests_per_second, hides_names, source, report: &mut *report };
        if is_offline {
            pool.run_offline(config.poll.timeout).await;
            continue;
        }
        let (payer, following) = pool.run(config.poll.timeout, clients).await;
        let limit = match config.poll.requests_per_second {
            Rate::ShareOfLimit(_) if !budgets.contains_key(&payer) => pool.limit().await,
            _ => None,
        };
        let budget = budgets.entry(payer).or_insert((Following::default(), limit.unwrap_or(DEFAULT_READ_LIMIT)));
        budget.0.add(following);
        progress.advance(1);
    }
    drop(progress);
    // Where only exports are read, there is no round.
    let is_alone = |pool: &PoolConfig| pool.export.as_ref().is_some_and(|export| export.audit == Audit::Off);
    budgets.retain(|_, _| !config.pools.iter().all(is_alone));
    for (payer, (following, limit)) in budgets {
        report_round(config, &payer, following, limit, report);
    }
}

/// Returns this instance's budget for AdminListUserAuthEvents under an account's limit.
fn requests_per_second(config: &Config, limit: f64) -> f64 {
    config.shard.part_of(match config.poll.requests_per_second {
        Rate::PerSecond(rate) => rate,
        Rate::ShareOfLimit(share) => share * limit,
    })
}

async fn receiver(config: &Config, is_offline: bool, report: &mut CheckReport) {
    let Some(otlp) = &config.otlp else {
        let sinks = if config.stdout_enabled { "records go to stdout only" } else { "only metrics are exported" };
        return report.note("otlp.endpoint", format_args!("none: {sinks}"));
    };
    let by = otlp.proxy().map(|proxy| format!(" by the proxy {proxy}")).unwrap_or_default();
    let what = format!("otlp.endpoint {}{by}", otlp.origin());
    let mut sink = match OtlpSink::connect(otlp, "check", &Clock::system()) {
        Ok(sink) => sink,
        Err(error) => {
            let error = anyhow::Error::from(error);
            return report.failed(&what, format_args!("{error:#}"), "correct what this names");
        }
    };
    if is_offline {
        let OtlpConfig { headers_file, ca_file, cert_file, key_file, .. } = otlp;
        if [headers_file, ca_file, cert_file, key_file].iter().any(|file| file.is_some()) {
            report.ok("files of otlp", "can be used");
        }
        return report.skipped(&what, OFFLINE);
    }
    let answer = sink.probe().await;
    let remedy = answer.remedy().unwrap_or_default();
    match answer {
        Answer::Accepted { .. } => report.ok(&what, "takes exports"),
        Answer::Retry { message, .. }
        | Answer::Refused { message }
        | Answer::Invalid { message }
        | Answer::TooLarge { message } => report.failed(&what, message, remedy),
    }
}
