//! `state verify`: reads every record, and reports the damaged ones, each with its consequence and the remedy.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use serde::Serialize;

use super::super::output::TextOrJsonl;
use super::super::progress::Progress;
use super::super::table::cell;
use crate::config::StateConfig;
use crate::control::{CommandOutput, CommandStatus};
use crate::ledger::{Ledger, LedgerError, RecordName};

/// Damaged records that are reported one by one. For a ledger that is damaged all over, more would not help.
const NAMED_MAX: u64 = 1000;

/// Records of a running exporter's ledger between two lines about the progress: about a second's worth.
const RECORDS_BETWEEN_LINES: u64 = 100_000;

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

/// What was read so far.
struct Verification {
    personal: bool,
    /// Records read, by their kind.
    records: BTreeMap<&'static str, u64>,
    damaged: u64,
    /// The first damaged records.
    found: Vec<DamagedRecord>,
}

/// Verifies the ledger of a stopped exporter. It may be too damaged to open.
pub(super) fn verify(
    state: &StateConfig,
    form: TextOrJsonl,
    personal: bool,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    let mut verification = Verification::new(personal);
    let mut progress = Progress::of("records read", None);
    let whole = Ledger::examine(state, |name, wrong| {
        progress.advance(1);
        verification.see(name, wrong);
    });
    drop(progress);
    let whole = match whole {
        Ok(None) => None,
        Ok(Some(error)) | Err(error @ LedgerError::Corrupt { .. }) => Some(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    verification.report(whole, form, output)
}

/// Verifies the ledger of a running exporter, which is sound as a whole because it is open. It reads the records that
/// are there meanwhile. Ends early where `output` cannot be written.
pub(super) fn verify_open(
    ledger: &Ledger,
    form: TextOrJsonl,
    personal: bool,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    let mut verification = Verification::new(personal);
    let mut read = 0_u64;
    let mut written = Ok(());
    ledger.each_record(|name, _, wrong| {
        verification.see(name, wrong);
        read += 1;
        if read.is_multiple_of(RECORDS_BETWEEN_LINES) {
            written = writeln!(output.err, "records read: {read}");
        }
        written.is_ok()
    })?;
    written?;
    verification.report(None, form, output)
}

impl Verification {
    fn new(personal: bool) -> Self {
        let records = RecordName::KINDS.into_iter().map(|kind| (kind, 0)).collect();
        Self { personal, records, damaged: 0, found: Vec::new() }
    }

    /// Takes note of a record and its damage.
    fn see(&mut self, name: Option<RecordName>, wrong: Option<LedgerError>) {
        *self.records.entry(name.as_ref().map_or("unknown", RecordName::kind)).or_default() += 1;
        let problem = match (&name, wrong) {
            (_, Some(LedgerError::Corrupt { problem, .. })) => problem,
            (_, Some(error)) => error.to_string(),
            (None, None) => "no build writes its key".to_owned(),
            (Some(_), None) => return,
        };
        self.damaged += 1;
        if self.damaged <= NAMED_MAX {
            let what_to_do = what_to_do(name.as_ref());
            let name = name.map(|name| shown(name, self.personal));
            self.found.push(DamagedRecord { name, problem, what_to_do });
        }
    }

    /// Prints the result. `whole` is the damage of the ledger as a whole.
    fn report(
        self,
        whole: Option<String>,
        form: TextOrJsonl,
        output: &mut CommandOutput<'_>,
    ) -> anyhow::Result<CommandStatus> {
        let Self { records, damaged, found, .. } = self;
        let summary = Summary { sound: damaged == 0 && whole.is_none(), records, damaged, ledger: whole };
        let mut out = BufWriter::new(&mut *output.out);
        match form {
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
        drop(out);
        if damaged > NAMED_MAX {
            output.say(&format!("{} more damaged records are not named", damaged - NAMED_MAX));
        }
        if let Some(problem) = &summary.ledger {
            output.say(&format!("{problem}; `run` puts a damaged ledger aside, keeps it, and begins a new one"));
        }
        output.say(&match (summary.sound, damaged) {
            (true, _) => "every record is sound".to_owned(),
            (false, damaged) => format!("damaged records: {damaged}"),
        });
        Ok(if summary.sound { CommandStatus::Success } else { CommandStatus::Failure })
    }
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
