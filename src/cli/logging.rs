//! The program's own log on stderr: text for people or JSON for machines.
//!
//! Texts from outside cannot control the reader's terminal. The tracing library escapes their control characters when
//! it makes a line. This module replaces characters that change the direction of writing.
//!
//! Libraries log from WARN on. Their INFO is about connections and may contain names that the log must not show.

use std::io::{self, Write};

use cognito_auth_core::printable::is_commanding;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, reload};

use crate::config::{LogConfig, LogFormat};

/// Starts the log on stderr, and returns a function that sets its level. If a log exists already, it stays.
pub fn start(config: &LogConfig) -> impl Fn(Level) + Send + Sync + use<> {
    start_on(config, io::stderr)
}

/// Starts the log on a writer that leads to stderr.
pub(super) fn start_on<W, O>(config: &LogConfig, out: O) -> impl Fn(Level) + Send + Sync + use<W, O>
where
    W: Write + 'static,
    O: Fn() -> W + Send + Sync + 'static,
{
    let (levels, handle) = reload::Layer::new(levels(config.level));
    // A line that cannot be written is lost: reporting that on stderr would panic.
    let layer = fmt::layer().log_internal_errors(false).with_writer(move || Visible(out()));
    let layer = match config.format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Text => {
            layer.with_target(false).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed()
        }
    };
    // A second call, in a process that embeds two, keeps the first log.
    let _ = tracing_subscriber::registry().with(layer.with_filter(levels)).try_init();
    // This fails only if the log is gone, which needs no level then.
    move |level| drop(handle.reload(self::levels(level)))
}

fn levels(level: Level) -> Targets {
    Targets::new()
        .with_default(LevelFilter::WARN.min(LevelFilter::from_level(level)))
        // The SDK warns of every attempt. The exporter logs an error once, by pool and cause.
        .with_target("aws", LevelFilter::ERROR)
        .with_target("cognito_auth_exporter", level)
}

/// Writes lines and replaces characters that control the terminal. The escape sequences of colours, which only the log
/// itself writes, and the ends of lines stay.
struct Visible<W>(W);

impl<W: Write> Write for Visible<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const KEPT: [char; 3] = ['\n', '\t', '\u{1b}'];
        let line = String::from_utf8_lossy(bytes);
        let is_replaced = |char: char| is_commanding(char) && !KEPT.contains(&char);
        if line.contains(is_replaced) {
            self.0.write_all(line.replace(is_replaced, "\u{fffd}").as_bytes())?;
        } else {
            self.0.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_without_changes_of_direction() {
        let mut written = Vec::new();
        Visible(&mut written).write_all("\u{1b}[31mERROR\u{1b}[0m zoë \u{202e}evil\u{9b}\n".as_bytes()).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), "\u{1b}[31mERROR\u{1b}[0m zoë \u{fffd}evil\u{fffd}\n");
    }
}
