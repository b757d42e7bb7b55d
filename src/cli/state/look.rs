//! `state list` and `state show`: print pools, users and the ledger as a whole.

use std::io::{self, BufWriter, Write};

use anyhow::anyhow;
use cognito_auth_core::counters::Series;
use cognito_auth_core::event::UnixMillis;
use serde::Serialize;

use super::super::output::{TableOrJsonl, TextOrJson};
use super::super::state_command::{PAGE_RECORDS, RecordPrinter};
use super::super::table::cell;
use super::require_pool;
use crate::control::{CommandOutput, CommandStatus};
use crate::ledger::{Ledger, LedgerError, UserRecord};

/// A pool, for people and programs.
#[derive(Serialize)]
struct PoolRow {
    user_pool_id: String,
    followed_since: Option<String>,
    /// Followed users.
    users: u64,
    /// Users who are gone and not forgotten.
    gone: u64,
    /// Counted events.
    events: u64,
    history_events: u64,
}

/// A user, or why its record cannot be read.
#[derive(Serialize)]
struct UserRow {
    username: String,
    /// The `user.hash` of the user's records.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    #[serde(flatten)]
    user: Option<UserMembers>,
}

/// A user's record, for people and programs.
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
    /// Events since then are remembered one by one.
    watermark: String,
    remembered: usize,
    /// Events in progress that wait for their outcome.
    watched: usize,
    /// Parts of the history that are still to be read.
    open_walks: Vec<Stretch>,
    /// The part of the history that is still to be logged again.
    #[serde(skip_serializing_if = "Option::is_none")]
    rewound: Option<Stretch>,
}

/// A part of a history.
#[derive(Serialize)]
struct Stretch {
    from: String,
    to: String,
}

impl PoolRow {
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

impl UserRow {
    /// Reads a user; None if the ledger has no such user.
    fn of(ledger: &Ledger, pool_id: &str, username: String) -> Result<Option<Self>, LedgerError> {
        let read = ledger.user(pool_id, &username).and_then(|user| Ok((user, ledger.standing(pool_id, &username)?)));
        let user_hash = ledger.user_hash(&username);
        match read {
            Ok((Some(record), standing)) => {
                let gone_since = standing.and_then(|standing| standing.gone_since);
                let user = Some(UserMembers::of(&record, gone_since));
                Ok(Some(Self { username, user_hash, unreadable: None, user }))
            }
            Ok((None, _)) => Ok(None),
            Err(LedgerError::Corrupt { problem, .. }) => {
                Ok(Some(Self { username, user_hash, unreadable: Some(problem), user: None }))
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

/// Formats a time. The lowest one stands for the beginning of the history.
fn time(time: UnixMillis) -> String {
    match time {
        UnixMillis::MIN => "ever".to_owned(),
        time => time.to_string(),
    }
}

fn count<T>(mut records: impl Iterator<Item = Result<T, LedgerError>>) -> Result<u64, LedgerError> {
    records.try_fold(0, |count, record| record.map(|_| count + 1))
}

pub(super) fn list_pools(
    ledger: &Ledger,
    form: TableOrJsonl,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    const COLUMNS: [(&str, usize); 6] =
        [("UserPoolId", 20), ("FollowedSince", 24), ("Users", 5), ("Gone", 4), ("Events", 6), ("HistoryEvents", 0)];
    let pools = ledger.pools()?.into_iter().map(|pool_id| Ok(PoolRow::of(ledger, pool_id)?));
    print(pools, &COLUMNS, PoolRow::row, form, output)
}

pub(super) fn list_users(
    ledger: &Ledger,
    pool_id: &str,
    form: TableOrJsonl,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    const COLUMNS: [(&str, usize); 8] = [
        ("Username", 20),
        ("Joined", 24),
        ("LastSeen", 24),
        ("Remembered", 10),
        ("Watched", 7),
        ("OpenWalks", 9),
        ("RewoundTo", 24),
        ("GoneSince", 0),
    ];
    require_pool(ledger, pool_id)?;
    let users = ledger.usernames(pool_id).filter_map(|username| {
        let user = username.and_then(|username| UserRow::of(ledger, pool_id, username));
        Some(user.transpose()?.map_err(anyhow::Error::from))
    });
    print(users, &COLUMNS, UserRow::row, form, output)
}

/// Prints records page by page.
fn print<T: Serialize>(
    mut records: impl Iterator<Item = anyhow::Result<T>>,
    columns: &[(&'static str, usize)],
    row: fn(&T) -> Vec<String>,
    form: TableOrJsonl,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    let mut out = BufWriter::new(&mut *output.out);
    let mut printer = RecordPrinter::new(form, columns.iter().copied());
    loop {
        let page = records.by_ref().take(PAGE_RECORDS).collect::<anyhow::Result<Vec<T>>>()?;
        printer.print(&page, row, &mut out)?;
        if page.len() < PAGE_RECORDS {
            out.flush()?;
            return Ok(CommandStatus::Success);
        }
    }
}

/// The ledger as a whole, for people and programs.
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

pub(super) fn show_ledger(
    ledger: &Ledger,
    form: TextOrJson,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
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
        form,
        output,
    )
}

pub(super) fn show_pool(
    ledger: &Ledger,
    pool_id: &str,
    form: TextOrJson,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    #[derive(Serialize)]
    struct PoolMembers {
        #[serde(flatten)]
        pool: PoolRow,
        /// Totals that are not 0, by the ledger's name of the counter and its labels.
        totals: std::collections::BTreeMap<String, u64>,
    }
    require_pool(ledger, pool_id)?;
    let totals = ledger.totals(pool_id)?.into_iter().map(|(series, total)| (series.to_key(), total)).collect();
    show(&PoolMembers { pool: PoolRow::of(ledger, pool_id.to_owned())?, totals }, form, output)
}

pub(super) fn show_user(
    ledger: &Ledger,
    pool_id: &str,
    username: &str,
    form: TextOrJson,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    require_pool(ledger, pool_id)?;
    let missing = || anyhow!("nothing is kept of {username:?} in {pool_id}");
    let name = ledger.find_user(pool_id, username)?.ok_or_else(missing)?;
    let user = UserRow::of(ledger, pool_id, name)?.ok_or_else(missing)?;
    let code = if user.unreadable.is_some() { CommandStatus::Failure } else { CommandStatus::Success };
    show(&user, form, output)?;
    Ok(code)
}

/// Prints the members of a value: as JSON, or one a line.
fn show(value: &impl Serialize, form: TextOrJson, output: &mut CommandOutput<'_>) -> anyhow::Result<CommandStatus> {
    let value = serde_json::to_value(value)?;
    let mut out = BufWriter::new(&mut *output.out);
    match (&value, form) {
        (serde_json::Value::Object(members), TextOrJson::Text) => {
            for (name, value) in members {
                write_member(&mut out, name, value, 0)?;
            }
        }
        _ => writeln!(out, "{value}")?,
    }
    out.flush()?;
    Ok(CommandStatus::Success)
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
