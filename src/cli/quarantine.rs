//! `quarantine`: what a receiver refused, or what cannot be read, is looked at, put back, or dropped.
//!
//! It works on the state of an exporter that is stopped, as it is: it makes no ledger, and repairs none. No personal data is
//! shown unasked, and the reasons are the receiver's own words only where they quote nothing of it.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use cognito_auth_core::answer::shown_reason;
use cognito_auth_core::entry::OutboxId;
use serde::Serialize;

use super::ConfigArgs;
use super::table::{cell, line, widen};
use crate::app::hash_keys;
use crate::config::Config;
use crate::delivery::Unreadable;
use crate::ledger::{Ledger, LedgerError, Quarantined};
use crate::lifecycle::Clock;

/// Records of one reading: memory stays small whatever the quarantine's size.
const AT_ONCE: usize = 512;

/// What to do with the quarantine.
#[derive(Args, Debug)]
pub struct QuarantineArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Print the records in quarantine, each with its number, the reason, and when it came there.
    ///
    /// Without personal data: a reason in which a receiver quotes some is withheld. Exits 0, also for an empty quarantine.
    List {
        /// A table for people, or one JSON object a line.
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Also print the username, the IP address and the device.
        #[arg(long)]
        personal: bool,
    },
    /// Put records back into the outbox, to be delivered when the exporter runs again.
    ///
    /// They get new numbers and keep their log.record.uid; counters are not touched. Interrupted at any moment, each record
    /// is in exactly one of the two places. What cannot be read stays, and makes the exit code 1. If a number is not in
    /// quarantine, nothing is done (exit code 1).
    Retry(Selection),
    /// Forget records for good: they are never delivered.
    ///
    /// Without --yes it says what it would do, does nothing, and exits with 2. If a number is not in quarantine, nothing is
    /// done (exit code 1).
    Drop {
        #[command(flatten)]
        selection: Selection,
        /// Really drop them.
        #[arg(long)]
        yes: bool,
    },
}

/// Form of what is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Output {
    /// Aligned columns.
    Table,
    /// One JSON object a line.
    Json,
}

/// Which records.
#[derive(Args, Debug)]
struct Selection {
    /// The records' numbers, as `quarantine list` has them.
    #[arg(value_name = "NUMBER", required_unless_present = "all", conflicts_with = "all", value_parser = number)]
    numbers: Vec<u64>,
    /// Every record in quarantine.
    #[arg(long)]
    all: bool,
}

/// The quarantine's records by number; why one cannot be read.
type Held = BTreeMap<OutboxId, Option<Unreadable>>;

/// Does what the arguments say.
///
/// # Errors
/// There is no ledger, it is in use or damaged, a number is not in quarantine; each says what to do.
pub async fn main(args: QuarantineArgs, config: Config) -> anyhow::Result<ExitCode> {
    let now = Clock::system().now();
    let privacy = hash_keys::privacy(&config.privacy)?;
    let opening = tokio::task::spawn_blocking(move || Ledger::open_existing(&config.state, &privacy, now));
    let ledger = opening.await.context("open the ledger")?.map_err(|error| match error {
        LedgerError::Corrupt { .. } => {
            anyhow!("{error}; it was left in its place: `run` puts a damaged ledger aside and begins a new one")
        }
        error => error.into(),
    })?;
    let done = match &args.action {
        Action::List { output, personal } => list(&ledger, *output, *personal, &mut BufWriter::new(io::stdout())),
        Action::Retry(selection) => retry(&ledger, selection).await,
        Action::Drop { selection, yes } => drop_for_good(&ledger, selection, *yes).await,
    };
    ledger.close().await;
    done
}

fn list(ledger: &Ledger, output: Output, personal: bool, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    if ledger.quarantine_state().0 == 0 {
        return Ok(nothing_there());
    }
    let mut printer = Printer::new(output, personal);
    let printed = each_page(ledger, |page| Ok(printer.print(page, out)?)).and_then(|()| Ok(out.flush()?));
    match printed {
        // A reader who has seen enough.
        Err(error) if is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        printed => printed.map(|()| ExitCode::SUCCESS),
    }
}

async fn retry(ledger: &Ledger, selection: &Selection) -> anyhow::Result<ExitCode> {
    let chosen = selection.of(held(ledger)?)?;
    if chosen.is_empty() {
        return Ok(nothing_there());
    }
    let readable: Vec<_> = chosen.iter().filter(|(_, unreadable)| unreadable.is_none()).map(|(id, _)| *id).collect();
    ledger.retry(&readable).await.context(INTERRUPTED)?;
    tell(&format!("back in the outbox: {}", records(readable.len())));
    let mut code = ExitCode::SUCCESS;
    for (OutboxId(number), unreadable) in chosen {
        if let Some(unreadable) = unreadable {
            tell(&format!(
                "record {number} {unreadable}; it would come straight back and stays in quarantine: drop it"
            ));
            code = ExitCode::from(1);
        }
    }
    Ok(code)
}

async fn drop_for_good(ledger: &Ledger, selection: &Selection, yes: bool) -> anyhow::Result<ExitCode> {
    let chosen: Vec<_> = selection.of(held(ledger)?)?.into_keys().collect();
    if chosen.is_empty() {
        return Ok(nothing_there());
    }
    if !yes {
        tell(&format!("would drop {} for good, never delivered; nothing was done: add --yes", records(chosen.len())));
        return Ok(ExitCode::from(2));
    }
    ledger.drop_quarantined(&chosen).await.context(INTERRUPTED)?;
    tell(&format!("dropped: {}", records(chosen.len())));
    Ok(ExitCode::SUCCESS)
}

/// What a failure in the middle leaves behind.
const INTERRUPTED: &str =
    "some of the records may have left the quarantine; `quarantine list` has those that are there";

impl Selection {
    /// The records that are meant: all of those that were named, or none.
    fn of(&self, mut held: Held) -> anyhow::Result<Held> {
        if self.all {
            return Ok(held);
        }
        let mut unknown = Vec::new();
        let mut chosen = Held::new();
        for number in &self.numbers {
            match held.remove_entry(&OutboxId(*number)) {
                Some((id, unreadable)) => {
                    chosen.insert(id, unreadable);
                }
                None if chosen.contains_key(&OutboxId(*number)) => {}
                None => unknown.push(number.to_string()),
            }
        }
        if !unknown.is_empty() {
            bail!("not in quarantine: {}; nothing was done (`quarantine list` has the numbers)", unknown.join(", "));
        }
        Ok(chosen)
    }
}

fn held(ledger: &Ledger) -> anyhow::Result<Held> {
    let mut held = Held::new();
    each_page(ledger, |page| {
        held.extend(page.into_iter().map(|(id, quarantined)| (id, quarantined.entry.err())));
        Ok(())
    })?;
    Ok(held)
}

fn each_page(
    ledger: &Ledger,
    mut see: impl FnMut(Vec<(OutboxId, Quarantined)>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let page = ledger.read_quarantine(after, AT_ONCE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        see(page)?;
    }
}

/// Prints the quarantine page by page.
struct Printer {
    output: Output,
    personal: bool,
    widths: Vec<usize>,
    headed: bool,
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

impl Printer {
    fn new(output: Output, personal: bool) -> Self {
        let widths = columns(personal).map(|(_, width)| width).collect();
        Self { output, personal, widths, headed: false }
    }

    /// Prints one page; of a table, also the head before the first.
    fn print(&mut self, page: Vec<(OutboxId, Quarantined)>, out: &mut impl Write) -> io::Result<()> {
        let lines: Vec<_> = page.into_iter().map(|(id, record)| Line::of(id, record, self.personal)).collect();
        if self.output == Output::Json {
            return lines.iter().try_for_each(|line| {
                serde_json::to_writer(&mut *out, line)?;
                out.write_all(b"\n")
            });
        }
        let rows: Vec<_> = lines.iter().map(|line| line.row(self.personal)).collect();
        rows.iter().for_each(|row| widen(&mut self.widths, row));
        if !std::mem::replace(&mut self.headed, true) {
            let head: Vec<_> = columns(self.personal).map(|(name, _)| name.to_owned()).collect();
            writeln!(out, "{}", line(&head, &self.widths))?;
        }
        rows.iter().try_for_each(|row| writeln!(out, "{}", line(row, &self.widths)))
    }
}

fn columns(personal: bool) -> impl Iterator<Item = (&'static str, usize)> {
    let personal = if personal { PERSONAL.as_slice() } else { &[] };
    COLUMNS.into_iter().chain(personal.iter().copied()).chain([REASON])
}

/// A record in quarantine as machines read it. What is not known is absent.
#[derive(Serialize, Default)]
struct Line {
    number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantined_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Why the record cannot be read; the members below are absent then.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    #[serde(flatten)]
    event: Option<EventMembers>,
    #[serde(flatten)]
    personal: Option<PersonalMembers>,
}

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

#[derive(Serialize)]
struct PersonalMembers {
    username: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_name: Option<String>,
}

impl Line {
    fn of(OutboxId(number): OutboxId, Quarantined { entry, refusal }: Quarantined, personal: bool) -> Self {
        let (quarantined_at, reason) = refusal.map(|refusal| (refusal.at.to_string(), refusal.reason)).unzip();
        let line = Self { number, quarantined_at, reason, ..Self::default() };
        let entry = match entry {
            Ok(entry) => entry,
            Err(unreadable) => return Self { unreadable: Some(unreadable.to_string()), ..line },
        };
        // An earlier version may have stored a reason that this one would have withheld.
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

    fn row(&self, personal: bool) -> Vec<String> {
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
        // What lay unread in the outbox has this very reason.
        let unreadable = self.unreadable.as_deref().filter(|why| self.reason.as_deref() != Some(why));
        let reasons: Vec<_> = [unreadable, self.reason.as_deref()].into_iter().flatten().collect();
        row.push(cell(Some(&reasons.join("; "))));
        row
    }
}

fn nothing_there() -> ExitCode {
    tell("the quarantine is empty");
    ExitCode::SUCCESS
}

/// `1 record`, `2 records`.
fn records(count: usize) -> String {
    format!("{count} record{}", if count == 1 { "" } else { "s" })
}

/// Says something to whoever started the program.
fn tell(text: &str) {
    // With nobody to read it there is nothing left to do.
    let _ = writeln!(io::stderr(), "{text}");
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn number(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "not a number as `quarantine list` shows them")
}
