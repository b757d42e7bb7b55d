//! `state list` and `state show`.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::anyhow;
use cognito_auth_core::counters::Series;
use cognito_auth_core::event::UnixMillis;
use serde::Serialize;

use super::super::table::{cell, line, widen};
use super::{Output, pool};
use crate::ledger::{Ledger, LedgerError, UserRecord};

/// Rows whose widths are known before the first of them is printed.
const AT_ONCE: usize = 512;

#[derive(Serialize)]
struct PoolLine {
    user_pool_id: String,
    followed_since: Option<String>,
    /// Those who are followed.
    users: u64,
    /// Those who are gone and not forgotten.
    gone: u64,
    /// Counted events.
    events: u64,
    history_events: u64,
}

#[derive(Serialize)]
struct UserLine {
    username: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    #[serde(flatten)]
    user: Option<UserMembers>,
}

/// What is kept of a user, for people and machines.
#[derive(Serialize)]
struct UserMembers {
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    joined: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gone_since: Option<String>,
    /// Events since then are live.
    live_since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<String>,
    /// From here on events are remembered one by one.
    watermark: String,
    remembered: usize,
    /// Events in progress that wait for their outcome.
    watched: usize,
    /// Stretches that are still to be taken.
    open_walks: Vec<Stretch>,
    /// What is left to be logged again.
    #[serde(skip_serializing_if = "Option::is_none")]
    rewound: Option<Stretch>,
}

#[derive(Serialize)]
struct Stretch {
    from: String,
    to: String,
}

impl PoolLine {
    fn of(ledger: &Ledger, pool_id: String) -> Result<Self, LedgerError> {
        let totals = ledger.totals(&pool_id)?;
        let sum = |wanted: fn(&Series) -> bool| {
            totals.iter().filter(|(series, _)| wanted(series)).map(|(_, total)| total).sum()
        };
        Ok(Self {
            followed_since: ledger.pool(&pool_id)?.map(|record| record.followed_since.to_string()),
            users: count(ledger.followed(&pool_id))?,
            gone: count(ledger.gone(&pool_id))?,
            events: sum(|series| matches!(series, Series::Events(_))),
            history_events: sum(|series| *series == Series::History),
            user_pool_id: pool_id,
        })
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.user_pool_id.clone(),
            cell(self.followed_since.as_deref()),
            self.users.to_string(),
            self.gone.to_string(),
            self.events.to_string(),
            self.history_events.to_string(),
        ]
    }
}

impl UserLine {
    /// None if there is nobody of this name.
    fn of(ledger: &Ledger, pool_id: &str, username: String) -> Result<Option<Self>, LedgerError> {
        let read = ledger.user(pool_id, &username).and_then(|user| Ok((user, ledger.standing(pool_id, &username)?)));
        match read {
            Ok((Some(record), standing)) => {
                let gone_since = standing.and_then(|standing| standing.gone_since);
                Ok(Some(Self { username, unreadable: None, user: Some(UserMembers::of(&record, gone_since)) }))
            }
            Ok((None, _)) => Ok(None),
            Err(LedgerError::Corrupt { problem, .. }) => {
                Ok(Some(Self { username, unreadable: Some(problem), user: None }))
            }
            Err(error) => Err(error),
        }
    }

    fn row(&self) -> Vec<String> {
        let Some(user) = &self.user else {
            let unreadable = self.unreadable.as_ref().map(|why| format!("cannot be read: {why}"));
            return vec![cell(Some(&self.username)), cell(unreadable.as_deref())];
        };
        vec![
            cell(Some(&self.username)),
            cell(Some(&user.joined)),
            cell(user.last_seen.as_deref()),
            user.remembered.to_string(),
            user.watched.to_string(),
            user.open_walks.len().to_string(),
            cell(user.rewound.as_ref().map(|stretch| stretch.from.as_str())),
            cell(user.gone_since.as_deref()),
        ]
    }
}

impl UserMembers {
    fn of(record: &UserRecord, gone_since: Option<UnixMillis>) -> Self {
        let cursor = &record.cursor;
        let stretch =
            |walk: &cognito_auth_core::cursor::OpenWalk| Stretch { from: time(walk.end), to: time(walk.lower_edge) };
        Self {
            sub: record.sub.clone(),
            joined: time(record.joined),
            gone_since: gone_since.map(time),
            live_since: time(cursor.live_since()),
            last_seen: cursor.last_seen().map(|last| time(last.time)),
            watermark: time(cursor.watermark()),
            remembered: cursor.remembered(),
            watched: cursor.watched(),
            open_walks: cursor.open_walks().iter().map(stretch).collect(),
            rewound: cursor.redelivery().map(stretch),
        }
    }
}

/// The ends of the range stand for the beginning and the end of time.
fn time(time: UnixMillis) -> String {
    match time {
        UnixMillis::MIN => "ever".to_owned(),
        time => time.to_string(),
    }
}

fn count<T>(mut records: impl Iterator<Item = Result<T, LedgerError>>) -> Result<u64, LedgerError> {
    records.try_fold(0, |count, record| record.map(|_| count + 1))
}

pub(super) fn list_pools(ledger: &Ledger, output: Output) -> anyhow::Result<ExitCode> {
    let lines = ledger.pools()?.into_iter().map(|pool_id| Ok(PoolLine::of(ledger, pool_id)?));
    let columns = ["UserPoolId", "FollowedSince", "Users", "Gone", "Events", "HistoryEvents"];
    print(lines, &columns, &[20, 24, 5, 4, 6, 0], PoolLine::row, output)
}

pub(super) fn list_users(ledger: &Ledger, pool_id: &str, output: Output) -> anyhow::Result<ExitCode> {
    pool(ledger, pool_id)?;
    let lines = ledger.usernames(pool_id).filter_map(|username| {
        let line = username.and_then(|username| UserLine::of(ledger, pool_id, username));
        Some(line.transpose()?.map_err(anyhow::Error::from))
    });
    let columns = ["Username", "Joined", "LastSeen", "Remembered", "Watched", "OpenWalks", "RewoundTo", "GoneSince"];
    print(lines, &columns, &[20, 24, 24, 10, 7, 9, 24, 0], UserLine::row, output)
}

fn print<T: Serialize>(
    mut lines: impl Iterator<Item = anyhow::Result<T>>,
    columns: &[&str],
    widths: &[usize],
    row: fn(&T) -> Vec<String>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut widths = widths.to_vec();
    let mut headed = false;
    loop {
        let page = lines.by_ref().take(AT_ONCE).collect::<anyhow::Result<Vec<T>>>()?;
        if output == Output::Json {
            for line in &page {
                serde_json::to_writer(&mut out, line).map_err(io::Error::from)?;
                out.write_all(b"\n")?;
            }
        } else {
            let rows: Vec<_> = page.iter().map(row).collect();
            rows.iter().for_each(|row| widen(&mut widths, row));
            if !std::mem::replace(&mut headed, true) {
                let head: Vec<_> = columns.iter().map(|name| (*name).to_owned()).collect();
                writeln!(out, "{}", line(&head, &widths))?;
            }
            rows.iter().try_for_each(|row| writeln!(out, "{}", line(row, &widths)))?;
        }
        if page.len() < AT_ONCE {
            out.flush()?;
            return Ok(ExitCode::SUCCESS);
        }
    }
}

#[derive(Serialize)]
struct LedgerMembers {
    instance_id: String,
    size_bytes: u64,
    pools: usize,
    outbox_records: u64,
    outbox_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    outbox_oldest: Option<String>,
    quarantined_records: u64,
    quarantined_bytes: u64,
}

pub(super) fn show_ledger(ledger: &Ledger, output: Output) -> anyhow::Result<ExitCode> {
    let outbox = ledger.outbox_state();
    let (quarantined_records, quarantined_bytes) = ledger.quarantine_state();
    show(
        &LedgerMembers {
            instance_id: ledger.instance_id().to_owned(),
            size_bytes: ledger.size_bytes(),
            pools: ledger.pools()?.len(),
            outbox_records: outbox.records,
            outbox_bytes: outbox.bytes,
            outbox_oldest: outbox.oldest.map(time),
            quarantined_records,
            quarantined_bytes,
        },
        output,
    )
}

pub(super) fn show_pool(ledger: &Ledger, pool_id: &str, output: Output) -> anyhow::Result<ExitCode> {
    #[derive(Serialize)]
    struct Shown {
        #[serde(flatten)]
        pool: PoolLine,
        /// By the ledger's own name of each counter and its labels; those that are 0 are left out.
        totals: std::collections::BTreeMap<String, u64>,
    }
    pool(ledger, pool_id)?;
    let totals = ledger.totals(pool_id)?.into_iter().map(|(series, total)| (series.to_key(), total)).collect();
    show(&Shown { pool: PoolLine::of(ledger, pool_id.to_owned())?, totals }, output)
}

pub(super) fn show_user(ledger: &Ledger, pool_id: &str, username: &str, output: Output) -> anyhow::Result<ExitCode> {
    pool(ledger, pool_id)?;
    let user = UserLine::of(ledger, pool_id, username.to_owned())?
        .ok_or_else(|| anyhow!("nothing is kept of {username:?} in {pool_id}"))?;
    let code = if user.unreadable.is_some() { ExitCode::from(1) } else { ExitCode::SUCCESS };
    show(&user, output)?;
    Ok(code)
}

/// Prints the members of a value: as JSON, or each on a line of its own.
fn show(value: &impl Serialize, output: Output) -> anyhow::Result<ExitCode> {
    let value = serde_json::to_value(value)?;
    let mut out = BufWriter::new(io::stdout().lock());
    match (&value, output) {
        (serde_json::Value::Object(members), Output::Table) => {
            for (name, value) in members {
                write_member(&mut out, name, value, 0)?;
            }
        }
        _ => writeln!(out, "{value}")?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn write_member(out: &mut impl Write, name: &str, value: &serde_json::Value, depth: usize) -> io::Result<()> {
    use serde_json::Value;
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(members) if !members.is_empty() => {
            writeln!(out, "{indent}{}", cell(Some(name)))?;
            members.iter().try_for_each(|(name, value)| write_member(out, name, value, depth + 1))
        }
        Value::Array(values) if !values.is_empty() => {
            values.iter().try_for_each(|value| write_member(out, name, value, depth))
        }
        Value::String(text) => writeln!(out, "{indent}{}: {}", cell(Some(name)), cell(Some(text))),
        Value::Object(_) | Value::Array(_) | Value::Null => writeln!(out, "{indent}{}: -", cell(Some(name))),
        other => writeln!(out, "{indent}{}: {other}", cell(Some(name))),
    }
}
