//! `status`: asks a running exporter whether sign-in events flow, or for the place of one user.
//!
//! It reads `/status` over HTTP, so it needs the exporter's address and, behind authentication, a user of its web
//! configuration. It opens no state directory and makes no other call.

mod client;

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use cognito_auth_core::printable::{is_commanding, printable};
use http::StatusCode;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::client::{Access, StatusClient};
use super::ConfigArgs;
use super::output::TextOrJson;
use super::state_command;
use crate::config::{ConfigErrors, SettingOrigin};

/// The URL without a configuration: the default address of `http.listen`.
const DEFAULT_URL: &str = "http://localhost:10588";

/// Width of the names beside the values.
const NAMES: usize = 14;

/// The arguments of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// URL of the exporter. By default http.listen of the configuration on this machine, with https where its web
    /// configuration has TLS; without a configuration http://localhost:10588.
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    user: UserArgs,
    /// Lines for people, or the exporter's JSON.
    #[arg(long, value_enum, default_value_t = TextOrJson::Text)]
    output: TextOrJson,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    config: ConfigArgs,
}

/// The user to ask for.
#[derive(Args)]
struct UserArgs {
    /// The pool of --username.
    #[arg(long, value_name = "ID", requires = "username")]
    user_pool_id: Option<String>,
    /// Tell the place of this user: the username as the pool has it, also where records have its hash. The exporter
    /// answers only behind authentication.
    #[arg(long, value_name = "NAME", requires = "user_pool_id")]
    username: Option<String>,
}

/// Shows no username.
impl std::fmt::Debug for UserArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserArgs").field("user_pool_id", &self.user_pool_id).finish_non_exhaustive()
    }
}

impl StatusArgs {
    /// Returns the URL of the exporter, from the configuration unless it is given.
    ///
    /// # Errors
    /// There is a configuration, and it has mistakes.
    pub(super) fn exporter_url(&self) -> Result<String, ConfigErrors> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let config = match self.config.load() {
            Ok(config) => config,
            Err(errors) if errors.mistakes().iter().all(|mistake| mistake.origin == SettingOrigin::Nowhere) => {
                return Ok(DEFAULT_URL.to_owned());
            }
            Err(errors) => return Err(errors),
        };
        let web = config.http.web_config_file.as_deref().map(crate::http::load_web_config).transpose()?;
        let scheme = if web.is_some_and(|web| web.tls.is_some()) { "https" } else { "http" };
        Ok(format!("{scheme}://{}", reachable(config.http.listen)))
    }
}

/// The host and port by which this machine reaches a server that listens there.
fn reachable(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() { format!("localhost:{}", listen.port()) } else { listen.to_string() }
}

/// Prints the verdict, or the place of a user. The exit status is 0 if events flow, of the user or at all.
///
/// # Errors
/// The exporter cannot be reached, or refuses the request; the text says what to do.
pub(super) async fn main(args: StatusArgs, url: &str) -> anyhow::Result<ExitCode> {
    let client = StatusClient::new(url, &args.access)?;
    let url = client.origin();
    let user = args.user.user_pool_id.as_deref().zip(args.user.username.as_deref());
    let (status, body) = client.get(user).await?;
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED if args.access.has_user() => bail!(
            "{url} refuses this user or password: check --auth-user and the password against basic_auth_users of the \
             exporter's web configuration"
        ),
        StatusCode::UNAUTHORIZED => bail!(
            "{url} asks for a password: --auth-user NAME and --auth-password-file FILE, a user of the exporter's web \
             configuration"
        ),
        _ => bail!("{url} answers {status}: {}", String::from_utf8_lossy(&body).lines().next().unwrap_or_default()),
    }
    let report: Value = serde_json::from_slice(&body)
        .with_context(|| format!("{url} is not this exporter: /status there is not JSON"))?;
    let (text, is_well) = match user {
        Some((pool, name)) => (place(&report, pool, name), report["state"] == "ok"),
        None => (verdict(&report, url), report["flowing"] == true),
    };
    let mut out = io::stdout().lock();
    let written = match args.output {
        TextOrJson::Json if out.is_terminal() => writeln!(out, "{}", escaped(&String::from_utf8_lossy(&body))),
        TextOrJson::Json => out.write_all(&body).and_then(|()| out.write_all(b"\n")),
        TextOrJson::Text => out.write_all(text.as_bytes()),
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error).context("write to stdout"),
        _ => {}
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The verdict of a report in a few lines.
fn verdict(report: &Value, url: &str) -> String {
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let words = printable(report["headline"].as_str().unwrap_or("no verdict: the exporter is of another version"));
    let totals = &report["totals"];
    let users: u64 =
        ["ok", "missing", "failing"].iter().map(|state| number(&totals["users"][state])).fold(0, u64::saturating_add);
    let mut lines = vec![
        words.into_owned(),
        line("exporter", &format!("{} at {url}, up {}", text(&report["version"]), span(report, "started"))),
        line(
            "users",
            &format!("{users} in {}, {} down", counted(&totals["pools"], "pool"), number(&totals["pools_down"])),
        ),
        line("events", &format!("{}, {}", number(&totals["events"]), counted(&totals["risk_events"], "threat"))),
    ];
    if let Some(outbox) = report.get("outbox").filter(|outbox| !outbox.is_null()) {
        lines.push(line("waiting", &counted(&outbox["records"], "record")));
    }
    if let Some(reason) = report["reason"].as_str() {
        lines.push(line("reason", &printable(reason)));
    }
    let pools = report["pools"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |id: &str| {
        let named = pools.iter().find(|pool| pool["id"] == id).and_then(|pool| pool["name"].as_str());
        printable(named.unwrap_or(id)).into_owned()
    };
    for finding in findings {
        let pool = finding["pool"].as_str().map(|id| format!("{}: ", name(id))).unwrap_or_default();
        lines.push(line(&text(&finding["severity"]), &format!("{pool}{}", text(&finding["text"]))));
    }
    lines.join("\n") + "\n"
}

/// The place of a user, one fact a line.
fn place(place: &Value, pool: &str, name: &str) -> String {
    let estimate = |member: &str, unit: &str| {
        place[member].as_f64().map_or_else(|| "unknown".to_owned(), |rate| format!("about {} {unit}", rounded(rate)))
    };
    let polled = match place["interval_seconds_estimate"].as_u64() {
        None => "-".to_owned(),
        Some(seconds) => {
            let every = shown(Duration::from_secs(seconds));
            format!("every {every}, {}", estimate("polls_per_day_estimate", "times a day"))
        }
    };
    let still = match place["catching_up"].as_str() {
        None => "nothing",
        Some("live") => "live events",
        Some(_) => "history",
    };
    let failures = number(&place["failures"]);
    let failed = if failures > 0 { format!(", {failures} failures in a row") } else { String::new() };
    let never = if place["last_poll"].is_null() { "not since the start of the exporter" } else { "" };
    let mut lines = vec![
        format!("{} in {}", printable(name), printable(pool)),
        line("state", &format!("{}{failed}", text(&place["state"]))),
        line("last poll", &format!("{never}{}", moment(place, "last_poll"))),
        line("next poll", &next_poll(place)),
        line("polled", &polled),
        line("events", &estimate("events_per_day_estimate", "a day")),
        line("still to read", still),
        line("newest event", &or_none(moment(place, "last_event"))),
        line("live since", &or_none(moment(place, "live_since"))),
        line("watched", &format!("{} in progress", counted(&place["watched_events"], "event"))),
    ];
    let watched = place["watched"].as_array().map(Vec::as_slice).unwrap_or_default();
    lines.extend(watched.iter().map(|event| {
        let (kind, created) = (text(&event["event_type"]), text(&event["created"]));
        line("", &format!("{kind} of {created}, watched until {}", text(&event["watched_until"])))
    }));
    lines.join("\n") + "\n"
}

/// When and why the user has its next turn.
fn next_poll(place: &Value) -> String {
    let reason = match place["next"].as_str().unwrap_or_default() {
        "under_way" => return "under way".to_owned(),
        "sample" => return "not known: the export tells the events, and polls read a random sample".to_owned(),
        "first" => "its first, as soon as the budget allows",
        "backlog" => "to read on, as soon as the budget allows",
        "look" => "to look for the outcome of an event in progress",
        "retry" => "after a failure",
        "pool_held" => "when the pool is out of trouble",
        _ => "its turn",
    };
    let due = moment(place, "next_poll");
    if due.is_empty() { reason.to_owned() } else { format!("{due} ({reason})") }
}

fn line(name: &str, value: &str) -> String {
    format!("  {name:<NAMES$}{value}")
}

fn or_none(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn counted(value: &Value, thing: &str) -> String {
    state_command::counted(usize::try_from(number(value)).unwrap_or(usize::MAX), thing)
}

/// A text of the exporter, safe for a terminal.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| "-".to_owned(), |text| printable(text).into_owned())
}

/// A JSON document for a terminal, with commands to it as escape sequences. JSON has them in texts only, except for the
/// end of a line and the tab.
fn escaped(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '\n' | '\t' => shown.push(char),
            // JSON allows this one between values, where an escape sequence would not be JSON.
            '\r' => shown.push(' '),
            _ if is_commanding(char) => {
                let _ = write!(shown, "\\u{:04x}", u32::from(char)); // writing into a String does not fail
            }
            _ => shown.push(char),
        }
    }
    shown
}

/// A rate in as many digits as an estimate has.
fn rounded(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn parsed(value: &Value) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(value.as_str()?, &Rfc3339).ok()
}

/// The time from a member of the report to the report.
fn span(report: &Value, since: &str) -> String {
    let span = parsed(&report["now"]).zip(parsed(&report[since])).map(|(now, since)| now - since);
    span.map_or_else(|| "-".to_owned(), |span| shown(span.unsigned_abs()))
}

/// A time of the answer, and how far it is from the answer's own time. Empty if it is null.
fn moment(answer: &Value, member: &str) -> String {
    let Some((at, now)) = parsed(&answer[member]).zip(parsed(&answer["now"])) else { return String::new() };
    let distance = shown((at - now).unsigned_abs());
    let beside = if at > now { format!("in {distance}") } else { format!("{distance} ago") };
    format!("{}, {beside}", text(&answer[member]))
}

/// A duration in whole seconds, without the small units of a long one.
fn shown(span: Duration) -> String {
    let unit = match span.as_secs() {
        0..600 => 1,
        600..86_400 => 60,
        _ => 3_600,
    };
    humantime::format_duration(Duration::from_secs(span.as_secs() / unit * unit)).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_verdict_is_told_in_a_few_lines() {
        let report = json!({
            "headline": "Sign-in events flow, with a caveat",
            "flowing": true, "ready": true, "reason": null, "version": "0.1.0",
            "started": "2026-11-30T08:00:00.000Z", "now": "2026-11-30T09:30:10.000Z",
            "totals": {"pools": 2, "pools_down": 0, "users": {"ok": 7, "missing": 1, "failing": 0}, "events": 5,
                       "risk_events": 1},
            "outbox": {"records": 3},
            "pools": [{"id": "eu-west-1_A", "name": "customers"}],
            "findings": [{"severity": "warning", "pool": "eu-west-1_A", "text": "users wait"}],
        });
        let expected = "\
Sign-in events flow, with a caveat
  exporter      0.1.0 at http://h:1, up 1h 30m
  users         8 in 2 pools, 0 down
  events        5, 1 threat
  waiting       3 records
  warning       customers: users wait
";
        assert_eq!(verdict(&report, "http://h:1"), expected);
        let waiting = json!({"headline": "Waiting for the first scrape of /metrics", "flowing": null, "ready": true});
        assert!(verdict(&waiting, "u").starts_with("Waiting for the first scrape of /metrics\n"));
        let stuck =
            json!({"headline": "Not ready", "flowing": false, "ready": false, "reason": "stuck: no\u{1b}space"});
        let stuck = verdict(&stuck, "u");
        assert!(stuck.starts_with("Not ready\n") && stuck.contains("reason        stuck: no"), "{stuck}");
    }

    #[test]
    fn numbers_that_no_exporter_has_are_told_without_an_overflow() {
        let users = json!({"ok": u64::MAX, "missing": u64::MAX, "failing": 1});
        let report = json!({"headline": "Not ready", "totals": {"pools": 1, "users": users}});
        assert!(verdict(&report, "u").contains(&format!("{} in 1 pool", u64::MAX)));
    }

    #[test]
    fn json_on_a_terminal_has_the_same_values_and_no_command_to_the_terminal() {
        let value = json!({"a": "del\u{7f} csi\u{9b}31m rtl\u{202e} line\u{2028} tab\t é 😀", "b": [1, "\u{1b}[2J"]});
        let body = serde_json::to_string_pretty(&value).unwrap().replace('\n', "\r\n\t");
        let shown = escaped(&body);
        assert!(shown.contains("del\\u007f csi\\u009b31m rtl\\u202e line\\u2028 tab\\t é 😀"), "{shown}");
        assert!(!shown.chars().any(|char| is_commanding(char) && !"\n\t".contains(char)), "{shown:?}");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
    }

    #[test]
    fn the_place_of_a_user_is_told_one_fact_a_line() {
        let answer = json!({
            "now": "2026-11-30T09:30:00.000Z", "state": "ok", "failures": 0,
            "last_poll": "2026-11-30T09:29:18.000Z", "next": "look", "next_poll": "2026-11-30T09:31:00.000Z",
            "interval_seconds_estimate": 700, "polls_per_day_estimate": 123.43, "events_per_day_estimate": 4.26,
            "catching_up": null, "last_event": null, "live_since": "2026-11-29T09:30:00.000Z", "watched_events": 1,
            "watched": [{"event_type": "SignIn", "created": "2026-11-30T09:29:00.000Z",
                         "watched_until": "2026-11-30T09:59:00.000Z"}],
        });
        let expected = "\
ann in eu-west-1_A
  state         ok
  last poll     2026-11-30T09:29:18.000Z, 42s ago
  next poll     2026-11-30T09:31:00.000Z, in 1m (to look for the outcome of an event in progress)
  polled        every 11m, about 123 times a day
  events        about 4.3 a day
  still to read nothing
  newest event  -
  live since    2026-11-29T09:30:00.000Z, 1day ago
  watched       1 event in progress
                SignIn of 2026-11-30T09:29:00.000Z, watched until 2026-11-30T09:59:00.000Z
";
        assert_eq!(place(&answer, "eu-west-1_A", "ann"), expected);
    }

    #[test]
    fn an_address_that_means_every_address_is_asked_for_on_this_machine() {
        for (listen, expected) in [
            ("[::]:10588", "localhost:10588"),
            ("0.0.0.0:1", "localhost:1"),
            ("127.0.0.1:2", "127.0.0.1:2"),
            ("[::1]:3", "[::1]:3"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), expected);
        }
    }
}
