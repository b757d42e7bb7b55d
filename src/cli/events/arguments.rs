//! The arguments of `events`, and the mistakes that no single argument shows.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args, value_parser};
use cognito_auth_core::budget::RATE_MAX_PER_SECOND;
use cognito_auth_core::event::UnixMillis;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::output::EventsOutput;
use super::paginate::StartingToken;
use super::window::TimeWindow;

/// The service's bounds (API reference, AdminListUserAuthEvents and ListUsersInGroup).
const POOL_ID_CHARS_MAX: usize = 55;
const USERNAME_CHARS_MAX: usize = 128;
const GROUP_CHARS_MAX: usize = 128;

/// The lowest rate that may be set: a call in 100 seconds.
const RATE_MIN_PER_SECOND: f64 = 0.01;

/// Arguments of `events`.
#[derive(Args)]
#[command(group(ArgGroup::new("pool-choice").args(["user_pool_id", "pool", "config"]).required(true).multiple(true)))]
#[command(group(
    ArgGroup::new("users").args(["username", "usernames_file", "group", "all_users"]).required(true).multiple(true)
))]
pub struct EventsArgs {
    /// User pool id, such as eu-west-1_Abc123.
    #[arg(long, value_name = "ID", value_parser = pool_id, conflicts_with = "pool", help_heading = "Pool")]
    pub(super) user_pool_id: Option<String>,
    /// A pool of the configuration, by its name or id: it gives region, role_arn, external_id and profile.
    #[arg(long, value_name = "NAME", help_heading = "Pool")]
    pub(super) pool: Option<String>,
    /// Configuration file with the pool. By default ./config.toml, or else /etc/cognito-auth-exporter/config.toml. If
    /// it has one pool, it needs no --pool.
    #[arg(long, value_name = "FILE", help_heading = "Pool")]
    pub(super) config: Option<PathBuf>,
    /// AWS region. By default that of the configuration, or else the prefix of the pool's id.
    #[arg(long, help_heading = "Pool")]
    pub(super) region: Option<String>,
    /// Profile of the shared AWS configuration files.
    #[arg(long, help_heading = "Pool")]
    pub(super) profile: Option<String>,
    /// Role to assume.
    #[arg(long, value_name = "ARN", help_heading = "Pool")]
    pub(super) role_arn: Option<String>,
    /// External id that the role asks for.
    #[arg(long, value_name = "ID", requires = "role_arn", help_heading = "Pool")]
    pub(super) external_id: Option<String>,

    /// A user: a username, or an alias or sub that Cognito accepts in its place. May be repeated.
    #[arg(long, value_name = "NAME", value_parser = username, help_heading = "Users")]
    pub(super) username: Vec<String>,
    /// Users by name, one a line. Empty lines and lines that begin with # are ignored.
    #[arg(long, value_name = "FILE", help_heading = "Users")]
    pub(super) usernames_file: Option<PathBuf>,
    /// The members of a group. May be repeated.
    #[arg(long, value_name = "GROUP", value_parser = group, help_heading = "Users")]
    pub(super) group: Vec<String>,
    /// Every user of the pool. They come user by user, in no order.
    #[arg(long, conflicts_with_all = ["username", "usernames_file", "group"], help_heading = "Users")]
    pub(super) all_users: bool,
    /// Read listed users of external providers, too. Threat protection does not cover them, so they have no events as a
    /// rule, and each costs a call.
    #[arg(long, help_heading = "Users")]
    pub(super) include_federated: bool,

    /// Only events since a time in RFC 3339, or of an age such as 2h or 3d.
    ///
    /// Events come newest first and without a filter, so a user's history is read down to this time and not further.
    /// For events that are out of order, it is read until a page is an hour older.
    #[arg(long, value_name = "TIME", help_heading = "Time")]
    pub(super) since: Option<Moment>,
    /// Only events before a time in RFC 3339, or of an age. Newer events are read and left out, so they cost calls.
    #[arg(long, value_name = "TIME", help_heading = "Time")]
    pub(super) until: Option<Moment>,
    /// Print new events as they appear, until SIGINT or SIGTERM.
    ///
    /// With --since it prints the events since then first. Events of one poll come oldest first. An event that changes
    /// is printed again. A user is polled at most every 2 s; with many users the rate decides.
    #[arg(
        long,
        help_heading = "Time",
        conflicts_with_all = ["until", "max_items", "starting_token", "resume", "output_file"]
    )]
    pub(super) follow: bool,

    /// Output format.
    #[arg(long, value_enum, default_value_t = EventsOutput::Jsonl, help_heading = "Output")]
    pub(super) output: EventsOutput,
    /// Write the events to a file that appears when it is whole. By default they go to stdout.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(super) output_file: Option<PathBuf>,
    /// Keep a journal in this file, and continue from it if the run was interrupted.
    ///
    /// After a signal no event is printed twice. After a kill -9, --output-file repeats nothing either; stdout repeats
    /// at most a page. The journal is removed when everything is done.
    #[arg(long, value_name = "FILE", help_heading = "Output", conflicts_with_all = ["max_items", "starting_token"])]
    pub(super) resume: Option<PathBuf>,

    /// Calls for events per second, at most. A running exporter has a budget of its own: both together, and the pool's
    /// applications, share the 50 per second that an account allows by default. Throttling makes it slower.
    #[arg(long, value_name = "N", default_value_t = 2.0, value_parser = rate, help_heading = "Calls")]
    pub(super) requests_per_second: f64,
    /// Events per call, 1 to 60. The service's default is 60.
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=60), help_heading = "Calls")]
    pub(super) page_size: Option<u8>,
    /// Print at most this many events of the user, and on stderr the token of the rest as `NextToken: <token>`.
    #[arg(
        long,
        value_name = "N",
        help_heading = "Calls",
        conflicts_with_all = ["usernames_file", "group", "all_users"]
    )]
    pub(super) max_items: Option<u64>,
    /// Continue at this token: one that an earlier call printed, one of boto3's paginator, or the service's own.
    #[arg(
        long,
        value_name = "TOKEN",
        allow_hyphen_values = true,
        help_heading = "Calls",
        conflicts_with_all = ["usernames_file", "group", "all_users"]
    )]
    pub(super) starting_token: Option<StartingToken>,
}

/// Shows no username.
impl fmt::Debug for EventsArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventsArgs").field("user_pool_id", &self.user_pool_id).finish_non_exhaustive()
    }
}

impl EventsArgs {
    /// Whether events of more than one user may come.
    pub(super) fn several_users(&self) -> bool {
        let named: BTreeSet<_> = self.username.iter().collect();
        self.all_users || !self.group.is_empty() || self.usernames_file.is_some() || named.len() > 1
    }

    /// The wanted window, with ages counted from `now`.
    pub(super) fn window(&self, now: UnixMillis) -> TimeWindow {
        let at = |moment: &Option<Moment>| moment.as_ref().map(|moment| moment.at(now));
        TimeWindow { since: at(&self.since), until: at(&self.until) }
    }

    /// A mistake in the combination of arguments, in words that name them.
    pub(super) fn mistake(&self, now: UnixMillis, to_terminal: bool) -> Option<String> {
        let window = self.window(now);
        if let (Some(since), Some(until)) = (window.since, window.until)
            && since >= until
        {
            return Some(format!("--since ({since}) must be before --until ({until})"));
        }
        if self.several_users() && (self.max_items.is_some() || self.starting_token.is_some()) {
            return Some("--max-items and --starting-token are for one user: give one --username".to_owned());
        }
        if self.output.is_binary() {
            if self.follow {
                return Some("--follow prints lines: choose --output jsonl, csv or table".to_owned());
            }
            if self.resume.is_some() {
                return Some(
                    "a Parquet file cannot be continued: choose --output csv or jsonl with --resume, and convert it"
                        .to_owned(),
                );
            }
            if self.output_file.is_none() && to_terminal {
                return Some("Parquet is not for a terminal: add --output-file FILE, or redirect stdout".to_owned());
            }
        }
        None
    }
}

/// A time on the command line, with its text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Moment {
    text: String,
    kind: MomentKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MomentKind {
    Time(UnixMillis),
    Age(Duration),
}

impl Moment {
    /// The time that is meant at `now`.
    pub(super) fn at(&self, now: UnixMillis) -> UnixMillis {
        match self.kind {
            MomentKind::Time(time) => time,
            MomentKind::Age(age) => now.minus(age),
        }
    }
}

/// Shows the text as it was written.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let kind = match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(time) => MomentKind::Time(UnixMillis::from_secs_and_nanos(time.unix_timestamp(), time.nanosecond())),
            Err(_) => MomentKind::Age(humantime::parse_duration(text).map_err(
                |_| "neither a time in RFC 3339, such as 2026-01-31T12:00:00Z, nor an age, such as 2h or 3d",
            )?),
        };
        Ok(Self { text: text.to_owned(), kind })
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

/// Parses a username.
pub(super) fn username(text: &str) -> Result<String, String> {
    if (1..=USERNAME_CHARS_MAX).contains(&text.chars().count()) && !text.contains(char::is_whitespace) {
        Ok(text.to_owned())
    } else {
        Err(format!("a username has 1 to {USERNAME_CHARS_MAX} characters and no white space"))
    }
}

fn group(text: &str) -> Result<String, String> {
    if (1..=GROUP_CHARS_MAX).contains(&text.chars().count()) {
        Ok(text.to_owned())
    } else {
        Err(format!("a group's name has 1 to {GROUP_CHARS_MAX} characters"))
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| (RATE_MIN_PER_SECOND..=RATE_MAX_PER_SECOND).contains(rate))
        .ok_or_else(|| format!("a rate is {RATE_MIN_PER_SECOND} to {RATE_MAX_PER_SECOND} calls per second"))
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

    const POOL: &str = "--user-pool-id eu-west-1_Example";
    const NOW: UnixMillis = UnixMillis(1_795_523_756_000);

    #[test]
    fn bad_usage_is_told_before_any_call() {
        let ada = &format!("{POOL} --username ada");
        let good = [
            ada.clone(),
            format!("{ada} --username bob --since 2h"),
            format!("{POOL} --all-users"),
            "--pool customers --group staff --group admins --usernames-file f".to_owned(),
            format!("--config c.toml {ada}"),
        ];
        for good in good {
            assert!(parse(&good).is_ok(), "{good}");
        }
        for wrong in [
            "--username ada".to_owned(),
            POOL.to_owned(),
            "--user-pool-id Example --username ada".to_owned(),
            format!("--user-pool-id eu-west-1_{} --username ada", "x".repeat(50)),
            format!("{POOL} --username {}", "x".repeat(129)),
            format!("{ada} --page-size 0"),
            format!("{ada} --page-size 61"),
            format!("{ada} --max-items -1"),
            format!("{ada} --output xml"),
            format!("{ada} --starting-token a___b___c"),
            format!("{ada} --external-id x"),
            format!("{ada} --pool customers"),
            format!("{ada} --all-users"),
            format!("{ada} --since yesterday"),
            format!("{ada} --requests-per-second 0"),
            format!("{ada} --requests-per-second nan"),
            format!("{ada} --follow --until 1h"),
            format!("{ada} --follow --resume j"),
            format!("{ada} --max-items 1 --resume j"),
            format!("{POOL} --all-users --max-items 1"),
        ] {
            let error = parse(&wrong).err().unwrap_or_else(|| panic!("{wrong}"));
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn a_services_token_may_begin_with_a_hyphen() {
        let starting = parse(&format!("{POOL} --username ada --starting-token -token-")).ok().unwrap().starting_token;
        assert_eq!(starting, Some("-token-".parse().unwrap()));
    }

    #[test]
    fn a_time_is_a_date_or_an_age() {
        let moment = |text: &str| text.parse::<Moment>().map(|moment| moment.at(NOW));
        assert_eq!(moment("2h"), Ok(NOW.minus(Duration::from_hours(2))));
        assert_eq!(moment("3d"), Ok(NOW.minus(Duration::from_hours(72))));
        assert_eq!(moment("2026-11-24T13:15:56+01:00").unwrap().to_string(), "2026-11-24T12:15:56.000Z");
        assert!(moment("2026-11-24").unwrap_err().contains("2026-01-31T12:00:00Z"));
    }

    #[test]
    fn combinations_that_cannot_be_meant_are_named() {
        let mistake = |rest: &str, to_terminal| {
            parse(&format!("{POOL} --username ada {rest}")).ok().unwrap().mistake(NOW, to_terminal)
        };
        assert_eq!(mistake("--since 2h --until 1h", true), None);
        assert!(mistake("--since 1h --until 2h", true).unwrap().contains("must be before --until"));
        assert!(mistake("--username bob --max-items 1", true).unwrap().contains("one --username"));
        assert_eq!(mistake("--username ada --max-items 1", true), None);
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn parquet_is_a_whole_file_and_not_for_a_terminal() {
        let mistake = |rest: &str, to_terminal| {
            parse(&format!("{POOL} --username ada --output parquet{rest}")).ok().unwrap().mistake(NOW, to_terminal)
        };
        assert!(mistake("", true).unwrap().contains("--output-file"));
        assert_eq!(mistake("", false), None);
        assert_eq!(mistake(" --output-file f", true), None);
        assert!(mistake(" --follow", false).unwrap().contains("--output jsonl"));
        assert!(mistake(" --resume j", false).unwrap().contains("--output csv"));
    }
}
