//! `quarantine`: lists, retries or drops the entries that a receiver refused or that cannot be read.
//!
//! It works on the ledger of a stopped exporter, as it is: it makes none, and repairs none. A running exporter lists
//! and retries for it (`running`). It prints personal data only with `--personal`. A receiver's words are printed only
//! if they quote no personal data.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use cognito_auth_core::answer::shown_reason;
use cognito_auth_core::entry::OutboxId;
use serde::Serialize;

use super::ConfigArgs;
use super::output::TableOrJsonl;
use super::running;
use super::state_command::{
    PAGE_RECORDS, RecordPrinter, close_ledger, counted, open_ledger, require_yes, select_named,
};
use super::table::cell;
use crate::config::Config;
use crate::control::{CommandOutput, CommandStatus};
use crate::delivery::Unreadable;
use crate::ledger::{Ledger, Quarantined};
use crate::lifecycle::Clock;

/// The arguments of `quarantine`.
#[derive(Args, Debug)]
pub struct QuarantineArgs {
    #[command(subcommand)]
    action: QuarantineAction,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

#[derive(Subcommand, Debug)]
enum QuarantineAction {
    /// Print the records in quarantine, each with its number, the reason, and the time at which it was put aside.
    ///
    /// It prints no personal data, and withholds a reason in which a receiver quotes some. Exits with 0, also for an
    /// empty quarantine.
    List {
        /// A table for people, or one JSON object a line.
        #[arg(long, value_enum, default_value_t = TableOrJsonl::Table)]
        output: TableOrJsonl,
        /// Also print the username, the IP address and the device.
        #[arg(long)]
        personal: bool,
    },
    /// Put records back into the outbox, to be delivered when the exporter runs.
    ///
    /// They get new numbers and keep their log.record.uid. Counters do not change. If it is interrupted, each record is
    /// in exactly one of the two places. A record that cannot be read stays, and the exit code is 1. If a number is not
    /// in quarantine, it does nothing and exits with 1.
    Retry(RecordSelection),
    /// Remove records from the quarantine. They are never delivered.
    ///
    /// Without --yes it prints what it would do, does nothing, and exits with 2. If a number is not in quarantine, it
    /// does nothing and exits with 1.
    Drop {
        #[command(flatten)]
        selection: RecordSelection,
        /// Really drop them.
        #[arg(long)]
        yes: bool,
    },
}

/// The records to work on.
#[derive(Args, Debug)]
struct RecordSelection {
    /// The records' numbers, as `quarantine list` prints them.
    #[arg(value_name = "NUMBER", required_unless_present = "all", conflicts_with = "all", value_parser = number)]
    numbers: Vec<u64>,
    /// Every record in quarantine.
    #[arg(long)]
    all: bool,
}

/// The records in quarantine by number, and why one cannot be read.
type QuarantinedIds = BTreeMap<OutboxId, Option<Unreadable>>;

impl QuarantineAction {
    /// Whether a running exporter runs it for others: it destroys nothing.
    fn is_harmless(&self) -> bool {
        matches!(self, Self::List { .. } | Self::Retry(_))
    }
}

/// Runs a `quarantine` command, or has the running exporter that uses the ledger run it.
///
/// # Errors
/// There is no ledger, it is in use or damaged, or a number is not in quarantine. Each error says what to do.
pub async fn main(args: QuarantineArgs, config: Config) -> anyhow::Result<ExitCode> {
    let state = config.state.path.clone();
    let ledger = match open_ledger(config, Clock::system().now()).await {
        Err(error) if args.action.is_harmless() => return running::ask_instead(state, error).await,
        opened => opened?,
    };
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let done = run_on(&ledger, &args, &mut CommandOutput { out: &mut out, err: &mut err }).await;
    Ok(close_ledger(ledger, done).await?.into())
}

/// Runs a `quarantine` command that destroys nothing, in a running exporter.
///
/// # Errors
/// The command destroys something, or those of [`main`].
pub(super) async fn run_harmless(
    ledger: &Ledger,
    args: &QuarantineArgs,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    if !args.action.is_harmless() {
        bail!(running::STOP_FIRST);
    }
    run_on(ledger, args, output).await
}

async fn run_on(
    ledger: &Ledger,
    args: &QuarantineArgs,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    match &args.action {
        QuarantineAction::List { output: form, personal } => list(ledger, *form, *personal, output),
        QuarantineAction::Retry(selection) => retry(ledger, selection, output).await,
        QuarantineAction::Drop { selection, yes } => drop_for_good(ledger, selection, *yes, output).await,
    }
}

fn list(
    ledger: &Ledger,
    form: TableOrJsonl,
    personal: bool,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    if ledger.quarantine_state().0 == 0 {
        return Ok(nothing_there(output));
    }
    let mut printer = RecordPrinter::new(form, columns(personal));
    let mut out = BufWriter::new(&mut *output.out);
    each_page(ledger, |page| {
        let rows: Vec<_> = page.into_iter().map(|(id, record)| QuarantinedRow::of(id, record, personal)).collect();
        Ok(printer.print(&rows, |row| row.cells(personal), &mut out)?)
    })?;
    out.flush()?;
    Ok(CommandStatus::Success)
}

async fn retry(
    ledger: &Ledger,
    selection: &RecordSelection,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    let chosen = selection.of(quarantined(ledger)?)?;
    if chosen.is_empty() {
        return Ok(nothing_there(output));
    }
    let readable: Vec<_> = chosen.iter().filter(|(_, unreadable)| unreadable.is_none()).map(|(id, _)| *id).collect();
    ledger.retry(&readable).await.context(INTERRUPTED)?;
    output.say(&format!("back in the outbox: {}", counted(readable.len(), "record")));
    let mut status = CommandStatus::Success;
    for (OutboxId(number), unreadable) in chosen {
        if let Some(unreadable) = unreadable {
            let stays = "it would come straight back and stays in quarantine: drop it";
            output.say(&format!("record {number} {unreadable}; {stays}"));
            status = CommandStatus::Failure;
        }
    }
    Ok(status)
}

async fn drop_for_good(
    ledger: &Ledger,
    selection: &RecordSelection,
    yes: bool,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    let chosen: Vec<_> = selection.of(quarantined(ledger)?)?.into_keys().collect();
    if chosen.is_empty() {
        return Ok(nothing_there(output));
    }
    if !yes {
        let records = counted(chosen.len(), "record");
        return Ok(require_yes(&format!("would drop {records} for good, never delivered")));
    }
    ledger.drop_quarantined(&chosen).await.context(INTERRUPTED)?;
    output.say(&format!("dropped: {}", counted(chosen.len(), "record")));
    Ok(CommandStatus::Success)
}

/// The state after a failure in the middle.
const INTERRUPTED: &str =
    "some of the records may have left the quarantine; `quarantine list` has those that are there";

impl RecordSelection {
    /// Returns the selected records: all records, or all of the named ones.
    fn of(&self, mut quarantined: QuarantinedIds) -> anyhow::Result<QuarantinedIds> {
        if self.all {
            return Ok(quarantined);
        }
        let missing = |absent: &[OutboxId]| {
            let numbers: Vec<_> = absent.iter().map(|OutboxId(number)| number.to_string()).collect();
            anyhow!("not in quarantine: {}; nothing was done (`quarantine list` has the numbers)", numbers.join(", "))
        };
        let ids: Vec<_> = self.numbers.iter().map(|number| OutboxId(*number)).collect();
        let selected = select_named(&ids, |id| Ok(quarantined.contains_key(id)), missing)?;
        quarantined.retain(|id, _| selected.contains(id));
        Ok(quarantined)
    }
}

/// Reads the numbers of all records in quarantine.
fn quarantined(ledger: &Ledger) -> anyhow::Result<QuarantinedIds> {
    let mut ids = QuarantinedIds::new();
    each_page(ledger, |page| {
        ids.extend(page.into_iter().map(|(id, quarantined)| (id, quarantined.entry.err())));
        Ok(())
    })?;
    Ok(ids)
}

/// Reads the quarantine page by page.
fn each_page(
    ledger: &Ledger,
    mut see: impl FnMut(Vec<(OutboxId, Quarantined)>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let page = ledger.read_quarantine(after, PAGE_RECORDS)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        see(page)?;
    }
}

/// The table's columns, with the width that most values need.
const COLUMNS: [(&str, usize); 6] = [
    ("Number", 6),
    ("QuarantinedAt", 24),
    ("UserPoolId", 20),
    ("EventId", 36),
    ("EventType", 14),
    ("CreationDate", 24),
];
const PERSONAL: [(&str, usize); 3] = [("Username", 20), ("IpAddress", 15), ("DeviceName", 24)];
const REASON: (&str, usize) = ("Reason", 0);

/// Returns the table's columns.
fn columns(personal: bool) -> impl Iterator<Item = (&'static str, usize)> {
    let personal = if personal { PERSONAL.as_slice() } else { &[] };
    COLUMNS.into_iter().chain(personal.iter().copied()).chain([REASON])
}

/// A record in quarantine, for people and programs. Members that are not known are absent.
#[derive(Serialize, Default)]
struct QuarantinedRow {
    number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantined_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Why the record cannot be read. The members below are absent then.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    #[serde(flatten)]
    event: Option<EventMembers>,
    #[serde(flatten)]
    personal: Option<PersonalMembers>,
}

/// The members of a record that can be read.
#[derive(Serialize)]
struct EventMembers {
    log_record_uid: String,
    user_pool_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    creation_date: Option<String>,
    revision: u32,
    history: bool,
}

/// The members that `--personal` adds.
#[derive(Serialize)]
struct PersonalMembers {
    username: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_name: Option<String>,
}

impl QuarantinedRow {
    fn of(OutboxId(number): OutboxId, Quarantined { entry, refusal }: Quarantined, personal: bool) -> Self {
        let (quarantined_at, reason) = refusal.map(|refusal| (refusal.at.to_string(), refusal.reason)).unzip();
        let line = Self { number, quarantined_at, reason, ..Self::default() };
        let entry = match entry {
            Ok(entry) => entry,
            Err(unreadable) => return Self { unreadable: Some(unreadable.to_string()), ..line },
        };
        // An earlier version may have stored a reason with personal data, which this version withholds.
        let line = Self { reason: line.reason.map(|reason| shown_reason(&reason, &entry)), ..line };
        let event = EventMembers {
            log_record_uid: entry.uid(),
            user_pool_id: entry.pool.id.clone(),
            event_id: entry.event.id,
            event_type: entry.event.event_type.map(|word| word.as_str().to_owned()),
            creation_date: entry.event.creation_date.map(|date| date.to_string()),
            revision: entry.revision,
            history: entry.history,
        };
        let context = entry.event.context.unwrap_or_default();
        let personal = personal.then(|| PersonalMembers {
            username: entry.user.username.clone(),
            ip_address: context.ip_address,
            device_name: context.device_name,
        });
        Self { event: Some(event), personal, ..line }
    }

    fn cells(&self, personal: bool) -> Vec<String> {
        let event = self.event.as_ref();
        let mut row = vec![
            self.number.to_string(),
            cell(self.quarantined_at.as_deref()),
            cell(event.map(|event| event.user_pool_id.as_str())),
            cell(event.and_then(|event| event.event_id.as_deref())),
            cell(event.and_then(|event| event.event_type.as_deref())),
            cell(event.and_then(|event| event.creation_date.as_deref())),
        ];
        if personal {
            let personal = self.personal.as_ref();
            row.extend([
                cell(personal.map(|personal| personal.username.as_str())),
                cell(personal.and_then(|personal| personal.ip_address.as_deref())),
                cell(personal.and_then(|personal| personal.device_name.as_deref())),
            ]);
        }
        // A record that could not be read in the outbox has the damage as its reason.
        let unreadable = self.unreadable.as_deref().filter(|why| self.reason.as_deref() != Some(why));
        let reasons: Vec<_> = [unreadable, self.reason.as_deref()].into_iter().flatten().collect();
        row.push(cell(Some(&reasons.join("; "))));
        row
    }
}

fn nothing_there(output: &mut CommandOutput<'_>) -> CommandStatus {
    output.say("the quarantine is empty");
    CommandStatus::Success
}

/// Parses a number on the command line.
fn number(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "not a number as `quarantine list` shows them")
}
