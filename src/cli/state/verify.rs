//! `state verify`: reads every record, and reports the damaged ones, each with its consequence and the remedy.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::super::output::TextOrJsonl;
use super::super::progress::Progress;
use super::super::state_command::say;
use super::super::table::cell;
use crate::config::StateConfig;
use crate::ledger::{Ledger, LedgerError, RecordName};

/// Damaged records that are reported one by one. For a ledger that is damaged all over, more would not help.
const NAMED_MAX: u64 = 1000;

/// A damaged record, for people and programs.
#[derive(Serialize)]
struct DamagedRecord {
    #[serde(flatten)]
    name: Option<RecordName>,
    problem: String,
    what_to_do: &'static str,
}

/// The result for the whole ledger.
#[derive(Serialize)]
struct Summary {
    /// Records read, by their kind.
    records: BTreeMap<&'static str, u64>,
    damaged: u64,
    /// The damage of the ledger as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    ledger: Option<String>,
    sound: bool,
}

pub(super) fn verify(state: &StateConfig, output: TextOrJsonl, personal: bool) -> anyhow::Result<ExitCode> {
    let mut records: BTreeMap<_, _> = RecordName::KINDS.into_iter().map(|kind| (kind, 0)).collect();
    let mut damaged = 0;
    let mut found = Vec::new();
    let mut progress = Progress::of("records read", None);
    let whole = Ledger::examine(state, |name, wrong| {
        progress.advance(1);
        *records.entry(name.as_ref().map_or("unknown", RecordName::kind)).or_default() += 1;
        let problem = match (&name, wrong) {
            (_, Some(LedgerError::Corrupt { problem, .. })) => problem,
            (_, Some(error)) => error.to_string(),
            (None, None) => "no build writes its key".to_owned(),
            (Some(_), None) => return,
        };
        damaged += 1;
        if damaged <= NAMED_MAX {
            let what_to_do = what_to_do(name.as_ref());
            found.push(DamagedRecord { name: name.map(|name| shown(name, personal)), problem, what_to_do });
        }
    });
    drop(progress);
    let whole = match whole {
        Ok(None) => None,
        Ok(Some(error)) | Err(error @ LedgerError::Corrupt { .. }) => Some(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let summary = Summary { sound: damaged == 0 && whole.is_none(), records, damaged, ledger: whole };
    let mut out = BufWriter::new(io::stdout().lock());
    match output {
        TextOrJsonl::Jsonl => {
            for found in &found {
                writeln!(out, "{}", serde_json::to_string(found)?)?;
            }
            writeln!(out, "{}", serde_json::to_string(&summary)?)?;
        }
        TextOrJsonl::Text => {
            for found in &found {
                let DamagedRecord { name, problem, what_to_do } = found;
                writeln!(out, "damaged: {}: {}: {what_to_do}", described(name.as_ref()), cell(Some(problem)))?;
            }
            for (kind, count) in &summary.records {
                writeln!(out, "{kind:<13}  {count}")?;
            }
        }
    }
    out.flush()?;
    if damaged > NAMED_MAX {
        say(&format!("{} more damaged records are not named", damaged - NAMED_MAX));
    }
    if let Some(problem) = &summary.ledger {
        say(&format!("{problem}; `run` puts a damaged ledger aside, keeps it, and begins a new one"));
    }
    say(&match (summary.sound, damaged) {
        (true, _) => "every record is sound".to_owned(),
        (false, damaged) => format!("damaged records: {damaged}"),
    });
    Ok(if summary.sound { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Returns the consequence of the damage, and the remedy.
fn what_to_do(name: Option<&RecordName>) -> &'static str {
    match name {
        None => "it is never read",
        Some(RecordName::Ledger { .. } | RecordName::Pool { .. } | RecordName::Total { .. }) => {
            "`run` puts the ledger aside and begins a new one; better: `state import` what was exported before"
        }
        Some(RecordName::User { .. }) => {
            "the user is not polled; `state forget` lets the user join again (see its --help), `state verify \
             --personal` prints the name"
        }
        Some(RecordName::Gone { .. } | RecordName::OtherName { .. }) => "`state forget` the user",
        Some(RecordName::ToldSince { .. } | RecordName::Told { .. }) => "its event counts as told; nothing is needed",
        Some(RecordName::ReadPosition { .. }) => {
            "`run` reads the log group again, from `export.replay` before its start"
        }
        Some(RecordName::Outbox { .. }) => "`run` puts it into quarantine and delivers the rest",
        Some(RecordName::Quarantine { .. }) => "`quarantine drop` it",
    }
}

/// Returns a record's name without the username, unless `--personal` was given.
fn shown(name: RecordName, personal: bool) -> RecordName {
    let hidden = || "(personal)".to_owned();
    match name {
        RecordName::User { user_pool_id, .. } if !personal => RecordName::User { user_pool_id, username: hidden() },
        RecordName::Gone { user_pool_id, .. } if !personal => RecordName::Gone { user_pool_id, username: hidden() },
        RecordName::OtherName { user_pool_id, .. } if !personal => {
            RecordName::OtherName { user_pool_id, username: hidden() }
        }
        name => name,
    }
}

/// Describes a record for people.
fn described(name: Option<&RecordName>) -> String {
    match name {
        None => "a record of unknown kind".to_owned(),
        Some(RecordName::Ledger { name }) => format!("the ledger's {name}"),
        Some(RecordName::Pool { user_pool_id }) => format!("pool {user_pool_id}"),
        Some(RecordName::Total { user_pool_id, series }) => format!("total {series} of {user_pool_id}"),
        Some(RecordName::User { user_pool_id, username }) => format!("user {} of {user_pool_id}", cell(Some(username))),
        Some(RecordName::Gone { user_pool_id, username }) => {
            format!("note that {} of {user_pool_id} is gone", cell(Some(username)))
        }
        Some(RecordName::OtherName { user_pool_id, username }) => {
            format!("note that {} of {user_pool_id} is another name of a user", cell(Some(username)))
        }
        Some(RecordName::ToldSince { user_pool_id }) => format!("time of the told events of {user_pool_id}"),
        Some(RecordName::Told { user_pool_id, second, event }) => {
            format!("told event {event} of second {second} of {user_pool_id}")
        }
        Some(RecordName::ReadPosition { user_pool_id }) => format!("read position of {user_pool_id}"),
        Some(RecordName::Outbox { number }) => format!("outbox entry {number}"),
        Some(RecordName::Quarantine { number }) => format!("quarantined entry {number}"),
    }
}
