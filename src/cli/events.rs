//! `events`: prints one user's auth events, newest first, as the service sends them.
//!
//! It yields the same events in the same order as boto3's paginator of AdminListUserAuthEvents for the same MaxItems,
//! PageSize and StartingToken. The tokens are those of boto3, so either program can continue the work of the other.

mod output;
pub mod paginate;

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum, value_parser};

use self::output::EventsPrinter;
use self::paginate::{Pagination, StartingToken, Then};
use super::progress::Progress;
use super::run::clients;
use crate::lifecycle::Clock;
use crate::source::cognito::{Clients, Cognito, Connection};
use crate::source::{Operation, SourceError};

/// Timeout of one attempt of a call.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of attempts of a call, the same as boto3's.
const ATTEMPTS: u32 = 5;

/// The service's bounds (API reference, AdminListUserAuthEvents).
const POOL_ID_CHARS_MAX: usize = 55;
const USERNAME_CHARS_MAX: usize = 128;

/// Arguments of `events`.
#[derive(Args)]
pub struct EventsArgs {
    /// User pool id, such as eu-west-1_Abc123.
    #[arg(long, value_name = "ID", value_parser = pool_id)]
    user_pool_id: String,
    /// The user: a username, or an alias or sub that Cognito accepts in its place.
    #[arg(long, value_name = "NAME", value_parser = username)]
    username: String,
    /// Events per call, 1 to 60. The service's default is 60.
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=60))]
    page_size: Option<u8>,
    /// Print at most this many events, and on stderr the token of the rest as `NextToken: <token>`.
    #[arg(long, value_name = "N")]
    max_items: Option<u64>,
    /// Continue at this token: one that an earlier call printed, one of boto3's paginator, or the service's own.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    starting_token: Option<StartingToken>,
    /// Output format: one JSON object a line, or a table for people.
    #[arg(long, value_enum, default_value_t = EventsOutput::Jsonl)]
    output: EventsOutput,
    /// AWS region. By default the prefix of the pool's id.
    #[arg(long)]
    region: Option<String>,
    /// Profile of the shared AWS configuration files.
    #[arg(long)]
    profile: Option<String>,
    /// Role to assume.
    #[arg(long, value_name = "ARN")]
    role_arn: Option<String>,
    /// External id that the role asks for.
    #[arg(long, value_name = "ID", requires = "role_arn")]
    external_id: Option<String>,
}

/// The output format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum EventsOutput {
    /// One JSON object a line, in the API's own field names.
    Jsonl,
    /// Aligned columns.
    Table,
}

/// Shows no username.
impl fmt::Debug for EventsArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventsArgs").field("user_pool_id", &self.user_pool_id).finish_non_exhaustive()
    }
}

impl EventsArgs {
    /// Connects to the user's pool.
    pub fn source(&self, clients: &Clients) -> Cognito {
        let region = match (&self.region, self.user_pool_id.split_once('_')) {
            (Some(region), _) => region.clone(),
            (None, Some((region, _))) => region.to_owned(),
            (None, None) => String::new(),
        };
        let connection = Connection {
            region,
            profile: self.profile.clone(),
            role_arn: self.role_arn.clone(),
            external_id: self.external_id.clone(),
        };
        clients.connect(&self.user_pool_id, connection, TIMEOUT, Clock::system())
    }
}

/// Prints the events on stdout and messages on stderr.
///
/// # Errors
/// A call failed; the text has the remedy. Or stdout cannot be written.
pub async fn main(args: EventsArgs) -> anyhow::Result<ExitCode> {
    let source = args.source(&clients()?.with_attempts(ATTEMPTS));
    run(&args, &source, &mut BufWriter::new(io::stdout()), &mut io::stderr()).await?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the events page by page. If the reader of `out` closes it, this ends without an error.
///
/// # Errors
/// Those of [`main`].
pub async fn run(
    args: &EventsArgs,
    source: &Cognito,
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<()> {
    let mut printer = EventsPrinter::new(args.output);
    let mut pagination = Pagination::new(args.starting_token.clone(), args.max_items);
    let mut progress = Progress::beside_output("events read", None);
    loop {
        let page = source.history(&args.username, pagination.token(), args.page_size).await.map_err(|error| {
            let remedy = match (&error, &args.starting_token) {
                (SourceError::InvalidParameter(_), Some(_)) => {
                    "check --starting-token: a token belongs to one pool and user, and it may expire".to_owned()
                }
                _ => error.remedy(Operation::AdminListUserAuthEvents, &args.user_pool_id),
            };
            anyhow!("{error} ({remedy})")
        })?;
        let (events, then) = pagination.accept(page.events, page.next);
        match printer.print(&events, out).and_then(|()| out.flush()) {
            Err(closed) if closed.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("write to stdout")?,
        }
        progress.advance(events.len() as u64);
        match then {
            Then::Ask => {}
            Then::End => return Ok(()),
            Then::Cut(token) => {
                drop(progress); // clears the bar's line
                return writeln!(err, "NextToken: {token}").context("write to stderr");
            }
            Then::Repeated => bail!("the service sent the same NextToken twice, so the listing would never end"),
        }
    }
}

fn pool_id(text: &str) -> Result<String, String> {
    let well_formed = text.split_once('_').is_some_and(|(region, id)| {
        let in_region = |char: char| char.is_ascii_alphanumeric() || char == '-';
        !region.is_empty()
            && region.chars().all(in_region)
            && !id.is_empty()
            && id.chars().all(|char| char.is_ascii_alphanumeric())
    });
    if well_formed && text.len() <= POOL_ID_CHARS_MAX {
        Ok(text.to_owned())
    } else {
        Err("a user pool id is a region, an underscore, letters and digits, such as eu-west-1_Abc123".to_owned())
    }
}

fn username(text: &str) -> Result<String, String> {
    if (1..=USERNAME_CHARS_MAX).contains(&text.chars().count()) && !text.contains(char::is_whitespace) {
        Ok(text.to_owned())
    } else {
        Err(format!("a username has 1 to {USERNAME_CHARS_MAX} characters and no white space"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct EventsCommandLine {
        #[command(flatten)]
        args: EventsArgs,
    }

    fn parse(line: &str) -> Result<EventsArgs, clap::Error> {
        EventsCommandLine::try_parse_from(format!("events {line}").split(' ')).map(|line| line.args)
    }

    #[test]
    fn bad_usage_is_told_before_any_call() {
        let ada = "--user-pool-id eu-west-1_Example --username ada";
        assert!(parse(ada).is_ok());
        for wrong in [
            "--username ada".to_owned(),
            "--user-pool-id eu-west-1_Example".to_owned(),
            "--user-pool-id Example --username ada".to_owned(),
            format!("--user-pool-id eu-west-1_{} --username ada", "x".repeat(50)),
            format!("--user-pool-id eu-west-1_Example --username {}", "x".repeat(129)),
            format!("{ada} --page-size 0"),
            format!("{ada} --page-size 61"),
            format!("{ada} --max-items -1"),
            format!("{ada} --output xml"),
            format!("{ada} --starting-token a___b___c"),
            format!("{ada} --external-id x"),
        ] {
            let error = parse(&wrong).err().unwrap();
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn a_services_token_may_begin_with_a_hyphen() {
        let line = "--user-pool-id eu-west-1_Example --username ada --starting-token -token-";
        let starting = parse(line).ok().unwrap().starting_token;
        assert_eq!(starting, Some("-token-".parse().unwrap()));
    }
}
