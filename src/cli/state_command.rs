//! The parts that `state` and `quarantine` share: opening the ledger of a stopped exporter, selecting records by name,
//! asking for `--yes`, and printing.
//!
//! Data goes to stdout, everything else to stderr.

use std::io::{self, Write};

use anyhow::{Context as _, anyhow};
use cognito_auth_core::event::UnixMillis;
use serde::Serialize;

use super::output::TableOrJsonl;
use super::table::{line, widen};
use crate::app::hash_keys;
use crate::config::Config;
use crate::control::CommandStatus;
use crate::ledger::{Ledger, LedgerError};

/// Records of one page: memory stays small for a ledger of any size, and a page's column widths are known before it is
/// printed.
pub(super) const PAGE_RECORDS: usize = 512;

/// Opens the ledger of a stopped exporter as it is: makes none, and repairs none.
///
/// # Errors
/// There is no ledger, it is in use, or it is damaged. Each error says what to do.
pub(super) async fn open_ledger(config: Config, now: UnixMillis) -> anyhow::Result<Ledger> {
    let privacy = hash_keys::privacy(&config.privacy)?;
    let opened = blocking(move || Ok(Ledger::open_existing(&config.state, &privacy, now))).await?;
    opened.map_err(|error| match error {
        LedgerError::Corrupt { .. } => anyhow!(
            "{error}; it was left in its place: `state verify` reads what can be read, `run` puts a damaged ledger \
             aside and begins a new one"
        ),
        error => error.into(),
    })
}

/// Runs work that blocks on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("work on the ledger")?
}

/// Closes the ledger after a command. A closed output, such as that of `head`, counts as success.
pub(super) async fn close_ledger(ledger: Ledger, done: anyhow::Result<CommandStatus>) -> anyhow::Result<CommandStatus> {
    ledger.close().await;
    match done {
        Err(error) if is_closed_pipe(&error) => Ok(CommandStatus::Success),
        done => done,
    }
}

/// Selects records by name: all of `named`, or none if one of them is missing.
///
/// # Errors
/// `missing` makes the error from the names that are not there.
pub(super) fn select_named<T: Clone>(
    named: &[T],
    is_there: impl Fn(&T) -> anyhow::Result<bool>,
    missing: impl FnOnce(&[T]) -> anyhow::Error,
) -> anyhow::Result<Vec<T>> {
    let mut absent = Vec::new();
    for name in named {
        if !is_there(name)? {
            absent.push(name.clone());
        }
    }
    if absent.is_empty() { Ok(named.to_vec()) } else { Err(missing(&absent)) }
}

/// Says what a command would do with `--yes`, and returns the exit code of a command that did nothing without it.
pub(super) fn require_yes(would: &str) -> CommandStatus {
    say(&format!("{would}; nothing was done: add --yes"));
    CommandStatus::Usage
}

/// Writes a line to stderr.
pub(super) fn say(text: &str) {
    // If stderr is closed, nothing can be done about it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Formats a number of things: `1 user`, `2 users`.
pub(super) fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// Whether an error says that the reader of the output has closed it.
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints records page by page: as rows of a table, or as JSON, one object a line.
pub(super) struct RecordPrinter {
    format: TableOrJsonl,
    header: Vec<String>,
    /// The widths of the columns, which grow with the values.
    widths: Vec<usize>,
    has_header: bool,
}

impl RecordPrinter {
    /// Makes a printer for a table with these columns, each with the width that most values need.
    pub(super) fn new(format: TableOrJsonl, columns: impl IntoIterator<Item = (&'static str, usize)>) -> Self {
        let (header, widths) = columns.into_iter().map(|(name, width)| (name.to_owned(), width)).unzip();
        Self { format, header, widths, has_header: false }
    }

    /// Prints a page. The first page of a table begins with the header.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub(super) fn print<T: Serialize>(
        &mut self,
        page: &[T],
        row: impl Fn(&T) -> Vec<String>,
        out: &mut impl Write,
    ) -> io::Result<()> {
        if self.format == TableOrJsonl::Jsonl {
            return page.iter().try_for_each(|record| {
                serde_json::to_writer(&mut *out, record)?;
                out.write_all(b"\n")
            });
        }
        let rows: Vec<_> = page.iter().map(row).collect();
        rows.iter().for_each(|row| widen(&mut self.widths, row));
        if !std::mem::replace(&mut self.has_header, true) {
            writeln!(out, "{}", line(&self.header, &self.widths))?;
        }
        rows.iter().try_for_each(|row| writeln!(out, "{}", line(row, &self.widths)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct NamedRecord {
        name: String,
    }

    fn printed(format: TableOrJsonl, pages: &[&[&str]]) -> String {
        let mut printer = RecordPrinter::new(format, [("Name", 6), ("Length", 0)]);
        let mut out = vec![];
        for page in pages {
            let page: Vec<_> = page.iter().map(|name| NamedRecord { name: (*name).to_owned() }).collect();
            let row = |named: &NamedRecord| vec![named.name.clone(), named.name.len().to_string()];
            printer.print(&page, row, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_has_one_header_and_columns_that_grow_with_the_values() {
        let table = printed(TableOrJsonl::Table, &[&["ann"], &["benjamin"]]);
        assert_eq!(table, "Name    Length\nann     3\nbenjamin  8\n");
        assert_eq!(printed(TableOrJsonl::Table, &[&[]]), "Name    Length\n");
    }

    #[test]
    fn json_has_one_object_a_line_and_no_header() {
        assert_eq!(printed(TableOrJsonl::Jsonl, &[&["ann"], &["ben"]]), "{\"name\":\"ann\"}\n{\"name\":\"ben\"}\n");
        assert_eq!(printed(TableOrJsonl::Jsonl, &[&[]]), "");
    }

    #[test]
    fn all_named_records_are_selected_or_none() {
        let select = |named: &[u32]| select_named(named, |number| Ok(*number < 5), |absent| anyhow!("{absent:?}"));
        assert_eq!(select(&[3, 1]).unwrap(), [3, 1]);
        assert_eq!(select(&[3, 7, 9]).unwrap_err().to_string(), "[7, 9]");
    }

    #[test]
    fn a_closed_output_is_recognised_below_its_context() {
        let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("print");
        assert!(is_closed_pipe(&closed));
        assert!(!is_closed_pipe(&io::Error::from(io::ErrorKind::StorageFull).into()));
    }
}
