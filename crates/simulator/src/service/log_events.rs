//! FilterLogEvents of CloudWatch Logs: the quota, the access check, the rules for parameters, and the page.
//!
//! A token names its place and its end of life, so no table of tokens is kept. Clients must not read it.

use cognito_auth_core::event::UnixMillis;
use serde::Deserialize;

use super::operations::caller_account;
use crate::caller::Caller;
use crate::fault::{AwsError, FaultKind};
use crate::logs::{LogEvent, LogKey, LogRange, SimulatedLogGroup};
use crate::quota::Category;
use crate::wire::{self, Object};
use crate::world::World;

/// The largest page, and the default.
const LIMIT_MAX: i64 = 10_000;
const GROUP_NAME_CHARS_MAX: usize = 512;
const GROUP_IDENTIFIER_CHARS_MAX: usize = 2048;

/// The members of FilterLogEvents.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct FilterInput {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_stream_names: Option<Vec<String>>,
    log_stream_name_prefix: Option<String>,
    filter_pattern: Option<String>,
    start_time: Option<i64>,
    end_time: Option<i64>,
    pub(super) limit: Option<i64>,
    pub(super) next_token: Option<String>,
}

impl FilterInput {
    /// The log group as the caller names it.
    pub(super) fn group(&self) -> Option<&str> {
        self.log_group_identifier.as_deref().or(self.log_group_name.as_deref())
    }

    /// The log group as the caller names it, if there is exactly one name and its form is right.
    fn checked_group(&self) -> Result<&str, AwsError> {
        let (text, chars_max, signs) = match (&self.log_group_identifier, &self.log_group_name) {
            (Some(identifier), None) => (identifier, GROUP_IDENTIFIER_CHARS_MAX, "_#+=/:,.@-"),
            (None, Some(name)) => (name, GROUP_NAME_CHARS_MAX, "._-/#"),
            _ => {
                let rule = "Exactly one of logGroupName and logGroupIdentifier must be specified";
                return Err(AwsError::invalid(rule));
            }
        };
        let is_well_formed = text.chars().all(|char| char.is_ascii_alphanumeric() || signs.contains(char));
        if text.is_empty() || text.len() > chars_max || !is_well_formed {
            return Err(constraint("logGroup", "Member must satisfy regular expression pattern"));
        }
        Ok(text)
    }

    fn checked_range(&self) -> Result<LogRange, AwsError> {
        let (start, end) = (self.start_time.unwrap_or(0), self.end_time.unwrap_or(i64::MAX));
        if start < 0 || end < 0 {
            return Err(constraint("startTime", "Member must have value greater than or equal to 0"));
        }
        if start > end {
            return Err(AwsError::invalid("startTime must be before endTime"));
        }
        Ok(LogRange { start: UnixMillis(start), end: UnixMillis(end) })
    }

    fn checked_limit(&self) -> Result<usize, AwsError> {
        let limit = self.limit.unwrap_or(LIMIT_MAX);
        usize::try_from(limit)
            .ok()
            .filter(|_| (1..=LIMIT_MAX).contains(&limit))
            .ok_or_else(|| constraint("limit", "Member must have value between 1 and 10000"))
    }

    /// Refuses what the simulation cannot do, so that no caller relies on it.
    fn check_simulated(&self) -> Result<(), AwsError> {
        let has_streams = self.log_stream_names.is_some() || self.log_stream_name_prefix.is_some();
        if has_streams || self.filter_pattern.as_ref().is_some_and(|pattern| !pattern.is_empty()) {
            return Err(AwsError::invalid("a choice of log streams and a filter pattern are not simulated"));
        }
        Ok(())
    }
}

/// Performs an operation: checks the parameters, then the quota, then the log group, then answers.
pub(super) fn perform(
    world: &mut World,
    caller: &Caller,
    operation: &str,
    input: &FilterInput,
    fault: Option<&FaultKind>,
) -> Result<String, AwsError> {
    if operation != "FilterLogEvents" {
        return Err(AwsError::new("UnknownOperationException", format!("{operation} is not simulated")));
    }
    let account = caller_account(world, caller)?;
    let name = input.checked_group()?;
    let (range, limit) = (input.checked_range()?, input.checked_limit()?);
    input.check_simulated()?;
    let now = world.now();
    let found = world.find_log_group(name, caller.region.as_deref(), account.as_deref());
    let (of_account, of_region) = match found {
        Some(group) => (group.account_id.clone(), group.region.clone()),
        None => (account.clone().unwrap_or_default(), caller.region.clone().unwrap_or_default()),
    };
    if !world.quotas().take(&of_account, &of_region, Category::LogFilter, now) {
        return Err(AwsError::throttled_logs());
    }
    let Some((group, random)) = world.log_group_parts(name, caller.region.as_deref(), account.as_deref()) else {
        return Err(AwsError::new("ResourceNotFoundException", "The specified log group does not exist."));
    };
    check_access(group, account.as_deref())?;
    let asked_for = match &input.next_token {
        None => None,
        Some(token) => Some(redeem(token, group, range, now).ok_or_else(bad_token)?),
    };
    let (after, limit) = match fault {
        Some(FaultKind::RepeatPage) => (None, limit),
        Some(FaultKind::EmptyPage) => (asked_for, 0),
        _ => (asked_for, limit),
    };
    let (arn, number, expires) = (group.arn(), group.token_number(), now.plus(group.token_lifetime));
    let page = group.page(range, after, limit, now);
    let mut events: Vec<String> = page.events.iter().map(|(key, event)| event_json(key, event)).collect();
    let next = match fault {
        Some(FaultKind::RepeatToken) => input.next_token.clone(),
        _ => page.next.map(|key| issue(&arn, range, key, expires, number)),
    };
    match fault {
        Some(FaultKind::Shuffle) => random.shuffle(&mut events),
        Some(FaultKind::EmptyEvents(count)) => events = vec!["{}".to_owned(); *count],
        _ => {}
    }
    Ok(page_json(&events, next.as_deref()))
}

/// Checks that the caller's account may read the log group: its own, or one that it monitors.
fn check_access(group: &SimulatedLogGroup, account: Option<&str>) -> Result<(), AwsError> {
    let is_allowed = account.is_none_or(|account| {
        account == group.account_id || group.monitored_by.iter().any(|monitoring| monitoring == account)
    });
    if is_allowed { Ok(()) } else { Err(denied(&group.arn())) }
}

/// AccessDeniedException for a log group.
fn denied(arn: &str) -> AwsError {
    let message = format!(
        "User is not authorized to perform: logs:FilterLogEvents on resource: {arn}:log-stream: because no \
         resource-based policy allows the logs:FilterLogEvents action"
    );
    AwsError::new("AccessDeniedException", message)
}

fn constraint(member: &str, rule: &str) -> AwsError {
    AwsError::invalid(format!("1 validation error detected: Value at '{member}' failed to satisfy constraint: {rule}"))
}

fn bad_token() -> AwsError {
    AwsError::invalid("The specified nextToken is invalid.")
}

/// Issues the token of the page after `key`. It is like no other token because of its number.
fn issue(arn: &str, range: LogRange, key: LogKey, expires: UnixMillis, number: u64) -> String {
    let (timestamp, ingested, last) = (key.0.0, key.1.0, key.2);
    let (start, end, expires) = (range.start.0, range.end.0, expires.0);
    format!("{arn}/{start}/{end}/{timestamp}/{ingested}/{last}/{expires}/{number}")
}

/// Reads a token. None means that the service refuses it: it has expired, or belongs to other parameters.
fn redeem(token: &str, group: &SimulatedLogGroup, range: LogRange, now: UnixMillis) -> Option<LogKey> {
    let mut parts = token.strip_prefix(&group.arn())?.strip_prefix('/')?.split('/');
    let mut time = || parts.next()?.parse().ok().map(UnixMillis);
    let (start, end, timestamp, ingested) = (time()?, time()?, time()?, time()?);
    let last = parts.next()?.parse().ok()?;
    let expires = UnixMillis(parts.next()?.parse().ok()?);
    (LogRange { start, end } == range && expires > now).then_some((timestamp, ingested, last))
}

fn event_json(key: &LogKey, event: &LogEvent) -> String {
    let mut out = String::with_capacity(256 + event.message.len());
    let mut members = Object::open(&mut out);
    // The service's ids have 56 digits.
    members.text("eventId", Some(&format!("{:020}{:016}{:020}", key.0.0.max(0), key.1.0.max(0), key.2)));
    members.integer("ingestionTime", event.ingested.0);
    members.text("logStreamName", Some(&event.stream));
    members.text("message", Some(&event.message));
    members.integer("timestamp", event.timestamp.0);
    members.close();
    out
}

fn page_json(events: &[String], next: Option<&str>) -> String {
    let mut body = String::with_capacity(128 + events.iter().map(|event| event.len() + 1).sum::<usize>());
    let mut page = Object::open(&mut body);
    wire::list(page.key("events"), events, |out, event| out.push_str(event));
    page.text("nextToken", next);
    wire::list(page.key("searchedLogStreams"), [""; 0], |_, _| {});
    page.close();
    body
}
