//! `check`: validates the configuration and tries every dependency, with a remedy for each failure.
//!
//! It changes almost nothing: it creates a missing state directory, sends the receiver an export without records, and
//! makes only reading calls to Cognito. It does not open the ledger, because opening may repair it, and it prints no
//! user's name. Steps run one after the other, and each has its dependency's own timeout.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use cognito_auth_core::answer::Answer;
use cognito_auth_core::budget::DEFAULT_READ_LIMIT;
use cognito_auth_core::export::log_delivery::{DeliveryVerdict, LogDelivery};
use cognito_auth_core::export::log_group::LogGroup;
use cognito_auth_core::export::log_page::ReadingRange;
use cognito_auth_core::printable::printable;
use cognito_auth_core::schedule::{Intervals, assumed_delay};
use cognito_auth_core::shard::Shard;

use super::progress::Progress;
use crate::app::hash_keys::{self, KeyFile};
use crate::config::{Audit, Config, ExportConfig, PoolConfig, Rate, StateConfig};
use crate::export::firehose::{FirehoseError, FirehoseServer};
use crate::http::{HttpServer, Web};
use crate::ledger::Ledger;
use crate::lifecycle::Clock;
use crate::sink::otlp::OtlpSink;
use crate::source::cognito::{Clients, Cognito, Connection, TransportError};
use crate::source::log_events::LogEvents as _;
use crate::source::{Listing, Operation, PoolDescription, Refusal, RefusalCause, Source, SourceError};
use crate::targets::usernames_file;
use cognito_auth_core::users::listing_pass::ListingPass;
use cognito_auth_core::users::names::NamingRules;
use cognito_auth_core::users::selection::Selection;

/// Attributes that a filter may name and that users can write.
const WRITTEN_BY_USERS: [&str; 6] =
    ["email", "phone_number", "name", "given_name", "family_name", "preferred_username"];

/// A name that no user has. The error "user not found" shows that the call is allowed.
const NOBODY: &str = "cognito-auth-exporter-check";

/// How far back `check` looks for log events.
const LOG_EVENTS_SINCE: Duration = Duration::from_hours(24);

/// Maximum time for a file system operation. A file system that hangs cannot hold the state.
const DISK_WAIT_MAX: Duration = Duration::from_secs(10);

/// Prints a line for each step, and counts steps and failures.
#[derive(Default)]
struct CheckReport {
    tried: usize,
    failed: usize,
}

impl CheckReport {
    fn ok(&mut self, what: &str, found: impl Display) {
        self.tried += 1;
        say("ok    ", format_args!("{what}: {found}"));
    }

    fn note(&self, what: &str, found: impl Display) {
        say("note  ", format_args!("{what}: {found}"));
    }

    fn failed(&mut self, what: &str, cause: impl Display, remedy: impl Display) {
        self.tried += 1;
        self.failed += 1;
        say("FAIL  ", format_args!("{what}: {cause}"));
        say("      -> ", format_args!("{remedy}"));
    }

    fn conclude(&self) -> ExitCode {
        match self.failed {
            0 => {
                say("", format_args!("all {} steps succeeded", self.tried));
                ExitCode::SUCCESS
            }
            failed => {
                say("", format_args!("{failed} of {} steps failed", self.tried));
                ExitCode::from(1)
            }
        }
    }
}

/// Prints one line without control characters, because parts of it come from a service, a receiver or a file.
fn say(mark: &str, text: std::fmt::Arguments<'_>) {
    // If stdout cannot be written, the exit code still tells the result.
    let _ = writeln!(io::stdout(), "{mark}{}", printable(&text.to_string()));
}

/// Tries everything that `run` needs. The exit code is 1 if anything failed.
///
/// # Errors
/// None: a failure is a line.
pub async fn check(config: Config) -> anyhow::Result<ExitCode> {
    let mut report = CheckReport::default();
    let pools = config.pools.len();
    report.ok("configuration", format_args!("{pools} pool{}", if pools == 1 { "" } else { "s" }));
    for mistake in &config.set_aside {
        report.note("environment", format_args!("{mistake}; the malformed part is ignored"));
    }
    let state = state(&config.state.path, &mut report).await;
    listen(&config, state, &mut report).await;
    web(&config, &mut report).await;
    firehose(&config, state, &mut report).await;
    hash_keys(&config, &mut report).await;
    receiver(&config, &mut report).await;
    let clients = match Clients::from_environment() {
        Ok(clients) => clients,
        Err(error) => {
            // Without the CA bundle no call to AWS can be tried.
            report.failed("AWS_CA_BUNDLE", format_args!("{:#}", anyhow::Error::from(error)), TransportError::REMEDY);
            return Ok(report.conclude());
        }
    };
    // For each account and region: the users, and the account's limit.
    let mut budgets = BTreeMap::<String, (Following, f64)>::new();
    let mut progress = Progress::beside_output("pools checked", Some(config.pools.len() as u64));
    for pool in &config.pools {
        let source = clients.pool(pool, config.poll.timeout, Clock::system());
        let mut pool = PoolCheck { pool, shard: config.shard, source, report: &mut report };
        let (payer, following) = pool.run(config.poll.timeout, &clients).await;
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
        say_round(&config, &payer, following, limit, &report);
    }
    Ok(report.conclude())
}

#[derive(Clone, Copy, PartialEq)]
enum StateDirUse {
    Created,
    There,
    InUse,
}

async fn state(path: &Path, report: &mut CheckReport) -> Option<StateDirUse> {
    const REMEDY: &str = "state.path must be a directory that the exporter's user can write to, on a disk with room";
    let what = format!("state.path {}", path.display());
    let look = tokio::task::spawn_blocking({
        let path = path.to_owned();
        move || look_at_state(&path)
    });
    match tokio::time::timeout(DISK_WAIT_MAX, look).await {
        Ok(Ok(Ok(state))) => {
            match state {
                StateDirUse::Created => report.ok(&what, "created, and can be written to"),
                StateDirUse::There => report.ok(&what, "can be written to"),
                StateDirUse::InUse => {
                    report.note(&what, "in use by a running exporter; a second one cannot start until that one stops");
                }
            }
            return Some(state);
        }
        Ok(Ok(Err(error))) => report.failed(&what, format_args!("{error:#}"), REMEDY),
        Ok(Err(panic)) => report.failed(&what, panic, "please report this"),
        Err(_) => report.failed(&what, format_args!("no answer within {DISK_WAIT_MAX:?}"), REMEDY),
    }
    None
}

fn look_at_state(path: &Path) -> anyhow::Result<StateDirUse> {
    let was_there = path.is_dir();
    DirBuilder::new().recursive(true).mode(0o700).create(path).context("cannot be created")?;
    Ledger::look_at_directory(&StateConfig { path: path.to_owned(), ..StateConfig::default() })?;
    let write = || {
        let mut trial = tempfile::NamedTempFile::new_in(path)?;
        trial.write_all(b"a file of `check`, which removes it")?;
        trial.as_file().sync_all()
    };
    write().context("cannot be written to")?;
    // The ledger's engine holds a lock on its file while it runs.
    match File::options().read(true).write(true).open(path.join("ledger").join("db")) {
        Ok(ledger) => match ledger.try_lock() {
            Ok(()) => Ok(StateDirUse::There),
            Err(TryLockError::WouldBlock) => Ok(StateDirUse::InUse),
            Err(TryLockError::Error(error)) => Err(error).context("the ledger in it cannot be locked"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(if was_there { StateDirUse::There } else { StateDirUse::Created })
        }
        Err(error) => Err(error).context("the ledger in it cannot be opened"),
    }
}

async fn listen(config: &Config, state: Option<StateDirUse>, report: &mut CheckReport) {
    let what = format!("http.listen {}", config.http.listen);
    match HttpServer::bind(config.http.listen).await {
        Ok(_released_at_once) => report.ok(&what, "free"),
        Err(error) if state == Some(StateDirUse::InUse) && error.source.kind() == io::ErrorKind::AddrInUse => {
            report.note(&what, "in use, most likely by the exporter that has the state");
        }
        Err(error) => {
            report.failed(&what, error.source, "choose an address of this machine and a free port");
        }
    }
}

async fn web(config: &Config, report: &mut CheckReport) {
    let Some(path) = config.http.web_config_file.clone() else { return };
    let what = format!("http.web_config_file {}", path.display());
    let remedy = "the certificates and keys that it names must be there and be readable by the exporter's user";
    match tokio::task::spawn_blocking(move || Web::load(Some(&path))).await {
        Ok(Ok(web)) => report.ok(&what, format_args!("can be served with, over {}", web.scheme())),
        Ok(Err(error)) => report.failed(&what, error, remedy),
        Err(panic) => report.failed(&what, panic, "please report this"),
    }
}

async fn firehose(config: &Config, state: Option<StateDirUse>, report: &mut CheckReport) {
    let Some(firehose) = &config.firehose else { return };
    let what = format!("firehose.listen {}", firehose.listen);
    match FirehoseServer::bind(firehose).await {
        Ok(server) => report.ok(&what, format_args!("free; the keys can be used, over {}", server.scheme())),
        Err(FirehoseError::Bind(error))
            if state == Some(StateDirUse::InUse) && error.source.kind() == io::ErrorKind::AddrInUse =>
        {
            report.note(&what, "in use, most likely by the exporter that has the state");
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            report.failed(&what, format_args!("{error:#}"), "correct what this names");
        }
    }
    if !config.pools.iter().any(|pool| pool.export.as_ref().is_some_and(|export| export.firehose)) {
        report.note(&what, "no pool has export.firehose = true, so nothing is taken there");
    }
}

async fn hash_keys(config: &Config, report: &mut CheckReport) {
    let privacy = &config.privacy;
    let keys = [("hash_key_file", &privacy.hash_key_file), ("former_hash_key_file", &privacy.former_hash_key_file)];
    for (key, path) in keys {
        let Some(path) = path.clone() else { continue };
        let what = format!("privacy.{key} {}", path.display());
        let remedy = "the file must be there, hold a key, and be readable by the exporter's user";
        let read = tokio::task::spawn_blocking(move || hash_keys::read(&path));
        match tokio::time::timeout(DISK_WAIT_MAX, read).await {
            Ok(Ok(Ok(KeyFile { key, is_open }))) => {
                report.ok(&what, format_args!("key {}", key.name()));
                if is_open {
                    report.note(&what, hash_keys::TOO_OPEN);
                }
            }
            Ok(Ok(Err(error))) => report.failed(&what, format_args!("{error:#}"), remedy),
            Ok(Err(panic)) => report.failed(&what, panic, "please report this"),
            Err(_) => report.failed(&what, format_args!("no answer within {DISK_WAIT_MAX:?}"), remedy),
        }
    }
}

async fn receiver(config: &Config, report: &mut CheckReport) {
    let Some(otlp) = &config.otlp else {
        let sinks = if config.stdout_enabled { "records go to stdout only" } else { "only metrics are exported" };
        return report.note("otlp.endpoint", format_args!("none: {sinks}"));
    };
    let by = otlp.proxy().map(|proxy| format!(" by the proxy {proxy}")).unwrap_or_default();
    let what = format!("otlp.endpoint {}{by}", otlp.origin());
    let answer = match OtlpSink::connect(otlp, "check", &Clock::system()) {
        Ok(mut sink) => sink.probe().await,
        Err(error) => {
            let error = anyhow::Error::from(error);
            return report.failed(&what, format_args!("{error:#}"), "correct what this names");
        }
    };
    let remedy = answer.remedy().unwrap_or_default();
    match answer {
        Answer::Accepted { .. } => report.ok(&what, "takes exports"),
        Answer::Retry { message, .. }
        | Answer::Refused { message }
        | Answer::Invalid { message }
        | Answer::TooLarge { message } => report.failed(&what, message, remedy),
    }
}

/// The number of followed users, as far as known.
#[derive(Default, Clone, Copy)]
struct Following {
    users: u64,
    /// Whether a listing has an unknown number of users after its first page.
    or_more: bool,
}

impl Following {
    fn add(&mut self, other: Self) {
        self.users += other.users;
        self.or_more |= other.or_more;
    }
}

/// The steps of one pool.
struct PoolCheck<'a> {
    pool: &'a PoolConfig,
    shard: Shard,
    source: Cognito,
    report: &'a mut CheckReport,
}

impl PoolCheck<'_> {
    /// Runs the steps. Returns the account and region that the pool's calls count for, and the number of users.
    async fn run(&mut self, timeout: Duration, clients: &Clients) -> (String, Following) {
        let by_hand = self.by_hand(timeout).await;
        let unlisted = Following {
            users: by_hand.len() as u64,
            or_more: !Selection::of(&self.pool.selection).listings().is_empty(),
        };
        if !self.credentials().await {
            return (self.payer(None), unlisted); // the other steps would fail for the same reason
        }
        let description = self.describe().await;
        self.filter();
        let following = if self.is_export_alone() {
            let what = self.what("ListUsers and AdminListUserAuthEvents");
            self.report.note(&what, "not called: export.audit is \"off\", so nobody is listed or polled");
            Following::default()
        } else {
            let (somebody, following) = self.listings(&by_hand, &description).await;
            self.events(somebody.as_deref()).await;
            following
        };
        if let Some(export) = &self.pool.export {
            self.log_delivery(export).await;
            self.log_group(export, clients, timeout).await;
        }
        (self.payer(description.account_id), following)
    }

    fn is_export_alone(&self) -> bool {
        self.pool.export.as_ref().is_some_and(|export| export.audit == Audit::Off)
    }

    async fn by_hand(&mut self, timeout: Duration) -> Vec<String> {
        let mut names = self.pool.selection.usernames.clone();
        let Some(path) = &self.pool.selection.usernames_file else { return names };
        let what = self.what(format_args!("usernames_file {}", path.display()));
        let read = tokio::time::timeout(timeout, usernames_file::read(path)).await;
        match read.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}"))) {
            Ok((read, _)) => {
                self.report.ok(&what, format_args!("{} names", read.len()));
                names.extend(read);
            }
            Err(error) => self.report.failed(
                &what,
                error,
                "the file must be there, be text, and be readable by the exporter's user",
            ),
        }
        names
    }

    async fn credentials(&mut self) -> bool {
        let what = match &self.pool.role_arn {
            Some(role) => self.what(format_args!("role_arn {role}")),
            None => self.what("credentials"),
        };
        match self.source.check_credentials().await {
            Ok(access_key) => self.report.ok(&what, format_args!("access key {access_key}")),
            Err(error) => {
                let remedy = error.remedy(Operation::DescribeUserPool, &self.pool.id);
                self.report.failed(&what, error, remedy);
                return false;
            }
        }
        true
    }

    async fn describe(&mut self) -> PoolDescription {
        let what = self.what(Operation::DescribeUserPool);
        match self.source.describe().await {
            Ok(description) => {
                let account = description.account_id.as_deref().unwrap_or("unknown");
                let users = description.estimated_users.unwrap_or_default();
                self.report.ok(&what, format_args!("account {account}, about {users} users"));
                self.plan(&description);
                self.names(NamingRules::new(description.sign_in_names));
                description
            }
            Err(error) => {
                self.fail(&what, Operation::DescribeUserPool, &error);
                self.names(NamingRules::default());
                PoolDescription::default()
            }
        }
    }

    /// Notes that users can leave a filter's selection, if they can.
    fn filter(&self) {
        let attribute = self.pool.selection.filter.as_deref().and_then(|filter| filter.split(['=', '^']).next());
        if let Some(attribute) = attribute.map(str::trim).filter(|attribute| WRITTEN_BY_USERS.contains(attribute)) {
            let what = self.what("filter");
            let found = format_args!(
                "users who change their {attribute} are no longer followed; filter by status, or use groups"
            );
            self.report.note(&what, found);
        }
    }

    /// Notes which names may stand for users in `usernames` and `exclude`.
    fn names(&mut self, rules: NamingRules) {
        let what = self.what("names of users");
        if rules.are_known() {
            return self.report.ok(&what, rules);
        }
        let remedy = format!(
            "allow {} so that the pool's sign-in names count, or list and exclude users by username or sub",
            Operation::DescribeUserPool.iam_action()
        );
        self.report.note(&what, format_args!("{rules}; {remedy}"));
    }

    fn plan(&mut self, description: &PoolDescription) {
        let what = self.what("plan");
        let (tier, mode) = (description.tier.as_deref(), description.threat_protection.as_deref());
        let found = format!("{}, threat protection {}", tier.unwrap_or("unknown"), mode.unwrap_or("unknown"));
        if tier.is_none_or(|tier| tier == "PLUS") && mode != Some("OFF") {
            return self.report.ok(&what, found);
        }
        let cause = RefusalCause::NoThreatProtection;
        let off = SourceError::Pool(Refusal { cause, text: format!("{found}: Cognito keeps no auth events") });
        self.fail(&what, Operation::AdminListUserAuthEvents, &off);
    }

    /// Reads each listing's first page. Returns one of the followed users, and their number.
    async fn listings(&mut self, by_hand: &[String], pool: &PoolDescription) -> (Option<String>, Following) {
        let estimated = pool.estimated_users;
        let selection = Selection::of(&self.pool.selection).in_shard(&self.pool.id, self.shard);
        let mut round = ListingPass::begin(&selection, NamingRules::new(pool.sign_in_names), by_hand.iter().cloned());
        let mut wanted = BTreeSet::new();
        let mut unseen = Following::default();
        for (index, listing) in selection.listings().iter().enumerate() {
            let what = self.what(listing);
            match self.source.users(listing, None).await {
                Ok(page) => {
                    let more = page.next.is_some();
                    let and_more = if more { " and more" } else { "" };
                    self.report.ok(&what, format_args!("{} users{and_more}", page.users.len()));
                    if more && *listing == (Listing::Users { filter: None }) && estimated.is_some() {
                        let unlisted = estimated.unwrap_or_default().saturating_sub(page.users.len() as u64);
                        unseen.users = unlisted.div_ceil(self.shard.count().into());
                    } else {
                        unseen.or_more |= more;
                    }
                    wanted.extend(round.take(index, page).wanted.into_iter().map(|user| user.username));
                }
                Err(error) => {
                    unseen.or_more = true;
                    self.fail(&what, listing.operation(), &error);
                }
            }
        }
        wanted.extend(round.unmet().map(|user| user.username));
        let somebody = wanted.first().cloned();
        (somebody, Following { users: wanted.len() as u64 + unseen.users, ..unseen })
    }

    async fn events(&mut self, somebody: Option<&str>) {
        let operation = Operation::AdminListUserAuthEvents;
        let what = self.what(operation);
        match self.source.page(somebody.unwrap_or(NOBODY), None, 1).await {
            Ok(page) if page.events.is_empty() => {
                self.report.ok(&what, "allowed; the user who was asked for has no events");
            }
            Ok(_) => self.report.ok(&what, "allowed, and there are events"),
            Err(SourceError::UserNotFound) => {
                self.report.ok(&what, "allowed; the user who was asked for does not exist");
            }
            Err(error) => self.fail(&what, operation, &error),
        }
    }

    /// Compares where the pool exports its users' activity with the configuration. The permission is optional, so a
    /// refusal of the caller is a note.
    async fn log_delivery(&mut self, export: &ExportConfig) {
        let operation = Operation::GetLogDeliveryConfiguration;
        let what = self.what(operation);
        let found = match self.source.log_delivery().await {
            Ok(found) => found,
            Err(error @ SourceError::Caller(_)) => {
                let remedy = error.remedy(operation, &self.pool.id);
                let unknown = "whether the pool exports to the configured place is unknown";
                return self.report.note(&what, format_args!("{error}; {unknown}; {remedy}"));
            }
            Err(error) => return self.fail(&what, operation, &error),
        };
        let log_group = export.log_group.as_deref().map(LogGroup::new);
        let verdict = DeliveryVerdict::of(found.as_ref(), log_group.as_ref(), export.firehose);
        let target = found.as_ref().and_then(|found| found.destination.as_ref());
        let target = target.map_or_else(|| "nowhere".to_owned(), ToString::to_string);
        let destination = match &log_group {
            Some(group) => format!("log group {}", group.identifier()),
            None => "a Firehose stream with the exporter's endpoint as its destination".to_owned(),
        };
        let set_up = format!(
            "set the pool's log delivery (SetLogDeliveryConfiguration) for userAuthEvents to level INFO and {destination}"
        );
        match verdict {
            DeliveryVerdict::Matches => {
                self.report.ok(&what, format_args!("userAuthEvents go to {target}, as configured"));
            }
            DeliveryVerdict::BySubscription => self.report.note(
                &what,
                format_args!(
                    "userAuthEvents go to {target}; they get to the Firehose endpoint only if a subscription of the \
                     log group sends them to a Firehose stream"
                ),
            ),
            DeliveryVerdict::Absent => self.report.failed(&what, "the pool exports no userAuthEvents", set_up),
            DeliveryVerdict::Unusable => {
                let level = found.map(|LogDelivery { level, .. }| level).unwrap_or_default();
                self.report.failed(&what, format_args!("userAuthEvents of level {level} go to {target}"), set_up);
            }
            DeliveryVerdict::Elsewhere => {
                let cause = format_args!("userAuthEvents go to {target}, which the configuration does not read");
                let remedy = format!("{set_up}, or correct pools[].export.log_group or pools[].export.firehose");
                self.report.failed(&what, cause, remedy);
            }
        }
    }

    /// Reads a log event, if a log group is to be read.
    async fn log_group(&mut self, export: &ExportConfig, clients: &Clients, timeout: Duration) {
        let Some(log_group) = export.log_group.as_deref().map(LogGroup::new) else { return };
        let (operation, clock) = (Operation::FilterLogEvents, Clock::system());
        let what = self.what(format_args!("{operation} {}", log_group.identifier()));
        let now = clock.now();
        let range = ReadingRange { start: now.minus(LOG_EVENTS_SINCE), end: now };
        let source = clients.log_group(log_group.clone(), Connection::from(self.pool), timeout, clock);
        match source.log_events(range, 1, None).await {
            Ok(page) if !page.events.is_empty() => self.report.ok(&what, "allowed, and there are log events"),
            // An empty page may have a token, and a page behind it may hold some.
            Ok(_) => self.report.ok(&what, "allowed; no log event of the last 24 hours is on the first page"),
            Err(error) => {
                let remedy = error.remedy_for_logs(&log_group, &self.pool.id);
                self.report.failed(&what, error, remedy);
            }
        }
    }

    /// Reads the account's limit. The limit is optional, so an error is a note.
    async fn limit(&mut self) -> Option<f64> {
        let operation = Operation::GetProvisionedLimit;
        let what = self.what(operation);
        match self.source.read_limit().await {
            Ok(limit) => {
                self.report.ok(&what, format_args!("the account's limit is {limit} requests/s"));
                Some(limit)
            }
            Err(error) => {
                let remedy = match &error {
                    SourceError::Caller(_) => error.remedy(operation, &self.pool.id),
                    _ => "write poll.requests_per_second as a number if it stays so".into(),
                };
                let default =
                    format_args!("{error}; the default of {DEFAULT_READ_LIMIT} requests/s is taken; {remedy}");
                self.report.note(&what, default);
                None
            }
        }
    }

    fn what(&self, step: impl Display) -> String {
        format!("pool {} {step}", self.pool.id)
    }

    fn fail(&mut self, what: &str, operation: Operation, error: &SourceError) {
        self.report.failed(what, error, error.remedy(operation, &self.pool.id));
    }

    /// Returns the account and region. If the account is unknown, pools with the same credentials share a budget.
    fn payer(&self, account_id: Option<String>) -> String {
        let PoolConfig { region, profile, role_arn, .. } = self.pool;
        let of_role = || role_arn.as_ref().and_then(|arn| arn.split(':').nth(4)).map(str::to_owned);
        match (account_id.or_else(of_role), profile) {
            (Some(account), _) => format!("account {account} in {region}"),
            (None, Some(profile)) => format!("unknown account of profile {profile} in {region}"),
            (None, None) => format!("unknown account in {region}"),
        }
    }
}

/// Notes the expected time of a round, the requests per second that `poll.max_interval` needs, and the mean delay with
/// this and longer maximum intervals.
fn say_round(config: &Config, payer: &str, following: Following, limit: f64, report: &CheckReport) {
    let per_second = config.shard.part_of(match config.poll.requests_per_second {
        Rate::PerSecond(rate) => rate,
        Rate::ShareOfLimit(share) => share * limit,
    });
    let Following { users, or_more } = following;
    let about = if or_more { "at least" } else { "about" };
    #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
    let calls = users as f64;
    let round = Duration::try_from_secs_f64((calls / per_second).ceil()).unwrap_or(Duration::MAX);
    let max_interval = config.poll.max_interval;
    let needed = (calls / max_interval.as_secs_f64() * 100.0).ceil() / 100.0;
    let what = format!("round of {payer}");
    report.note(
        &what,
        format_args!(
            "{about} {users} users take {} at {per_second} requests/s; a poll.max_interval of {} needs {needed} \
             requests/s",
            humantime::format_duration(round),
            humantime::format_duration(max_interval),
        ),
    );
    let is_spared = |pool: &PoolConfig| pool.export.as_ref().is_some_and(|export| export.audit != Audit::Full);
    if config.pools.iter().all(is_spared) {
        report.note(&what, "this is while the export is down; while it is up, polls audit a sample of the users");
    } else if needed > per_second {
        let remedy = "raise poll.requests_per_second or poll.max_interval, or follow fewer users";
        report.note(&what, format_args!("poll.max_interval cannot be kept: {remedy}"));
    }
    let delay = |max: Duration| {
        let delay = assumed_delay(users, per_second, Intervals { min: config.poll.min_interval, max })?;
        Some(humantime::format_duration(Duration::from_secs(delay.as_secs().max(1))))
    };
    let [twice, four_times] = [2, 4].map(|times| max_interval.saturating_mul(times));
    let (Some(now), Some(at_twice), Some(at_four_times)) = (delay(max_interval), delay(twice), delay(four_times))
    else {
        return;
    };
    report.note(
        &format!("mean delay of {payer}"),
        format_args!(
            "about {now} if most users are quiet; with a poll.max_interval of {} about {at_twice}, with {} about \
             {at_four_times}",
            humantime::format_duration(twice),
            humantime::format_duration(four_times),
        ),
    );
}
