//! The output of the demo: records on stdout, the addresses below them, the log and messages on stderr.
//!
//! On a terminal, records scroll and would carry the addresses away. So a line at the bottom holds them: it is cleared
//! before each output and drawn again below, for the width that the terminal has then. A terminal that cannot move its
//! cursor gets the line again after every few records.
//!
//! If the reader of stdout closes it, as `head` does, nobody sees more records. [`Screen::closed`] tells the demo to
//! end.

use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::super::state_command::say;
use super::event_line;
use crate::sink::stdout::{LineFormat, json_line};

/// Records between two lines of addresses where no line can stay at the bottom: about a screen.
const REPEAT_RECORDS: u64 = 25;

/// The output of the demo. Clones share it.
#[derive(Clone)]
pub(super) struct Screen {
    kind: ScreenKind,
    footer: Footer,
    /// The number of records that were written.
    records: Arc<AtomicU64>,
    closed: CancellationToken,
}

/// The reader of the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ScreenKind {
    Terminal {
        is_coloured: bool,
    },
    Program,
    /// Records are not shown.
    Quiet,
}

/// The addresses below the records.
#[derive(Clone)]
enum Footer {
    /// A line that stays at the bottom.
    Line(ProgressBar),
    /// A line after every few records.
    Repeated(Arc<str>),
    None,
}

impl Screen {
    /// The screen for this process's stdout. The footer shows `addresses`.
    pub(super) fn new(is_quiet: bool, addresses: &str) -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        // A terminal without a name counts as one that only prints.
        let can_move = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        let kind = match (is_quiet, io::stdout().is_terminal()) {
            (true, _) => ScreenKind::Quiet,
            (false, false) => ScreenKind::Program,
            (false, true) => ScreenKind::Terminal { is_coloured: can_move && !is_set("NO_COLOR") },
        };
        let footer = match kind {
            ScreenKind::Terminal { .. } if can_move => Footer::Line(line(addresses)),
            ScreenKind::Terminal { .. } => Footer::Repeated(addresses.into()),
            ScreenKind::Program | ScreenKind::Quiet => Footer::None,
        };
        Self { kind, footer, records: Arc::default(), closed: CancellationToken::new() }
    }

    /// Whether a person reads the records, so that the log is to be silent unless something is wrong.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self.kind, ScreenKind::Terminal { .. })
    }

    /// The form of records on this screen.
    pub(super) fn format(&self) -> LineFormat {
        match self.kind {
            ScreenKind::Terminal { is_coloured: true } => event_line::coloured,
            ScreenKind::Terminal { is_coloured: false } => event_line::plain,
            ScreenKind::Program | ScreenKind::Quiet => json_line,
        }
    }

    /// The number of records that were shown.
    pub(super) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Waits until the reader of stdout has closed it.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Whether the reader of stdout has closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Removes the addresses at the bottom.
    pub(super) fn clear(&self) {
        if let Footer::Line(line) = &self.footer {
            line.finish_and_clear();
        }
    }

    /// Prints a message for people on stderr, above the addresses.
    pub(super) fn say(&self, text: &str) {
        self.above_footer(|| say(text));
    }

    /// A writer of the log: stderr, above the addresses.
    pub(super) fn log(&self) -> LogWriter {
        LogWriter(self.clone())
    }

    /// Writes above the addresses, if they are on the screen.
    fn above_footer<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.footer {
            Footer::Line(line) if !line.is_finished() => line.suspend(write),
            _ => write(),
        }
    }

    /// Writes records. `text` ends with a line end.
    fn print(&self, text: &[u8], out: &mut impl Write) -> io::Result<()> {
        if self.kind == ScreenKind::Quiet || self.is_closed() {
            return Ok(());
        }
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        let written = self.above_footer(|| match &self.footer {
            Footer::Repeated(addresses) => lines.clone().zip(self.records() + 1..).try_for_each(|(line, number)| {
                out.write_all(line)?;
                if number % REPEAT_RECORDS == 0 { writeln!(out, "{addresses}") } else { Ok(()) }
            }),
            _ => out.write_all(text),
        });
        match written.and_then(|()| out.flush()) {
            Ok(()) => {
                self.records.fetch_add(lines.count() as u64, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed.cancel();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn line(addresses: &str) -> ProgressBar {
    let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        line.set_style(style);
    }
    line.set_message(addresses.to_owned());
    line
}

/// The records' writer. It never fails because of a reader that is gone.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.print(bytes, &mut io::stdout().lock())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log's writer.
pub(super) struct LogWriter(Screen);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.above_footer(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(kind: ScreenKind, footer: Footer) -> Screen {
        Screen { kind, footer, records: Arc::default(), closed: CancellationToken::new() }
    }

    #[test]
    fn a_terminal_that_only_prints_gets_the_addresses_again_and_again() {
        let footer = Footer::Repeated("http://127.0.0.1:1/".into());
        let screen = screen(ScreenKind::Terminal { is_coloured: false }, footer);
        let mut out = Vec::new();
        for _ in 0..30 {
            screen.print(b"an event\nanother\n", &mut out).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        assert_eq!((screen.records(), text.matches("http://127.0.0.1:1/").count()), (60, 2), "{text}");
        assert_eq!(text.lines().nth(25), Some("http://127.0.0.1:1/"));
    }

    #[test]
    fn nothing_is_written_quietly() {
        let (screen, mut out) = (screen(ScreenKind::Quiet, Footer::None), Vec::new());
        screen.print(b"a record\n", &mut out).unwrap();
        assert_eq!((out.len(), screen.records()), (0, 0));
    }

    #[test]
    fn a_reader_that_is_gone_is_noticed_and_no_failure() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let screen = screen(ScreenKind::Program, Footer::None);
        screen.print(b"a record\n", &mut Gone).unwrap();
        assert!(screen.is_closed() && screen.records() == 0);
    }
}
