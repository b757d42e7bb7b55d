//! The program's own log on stderr: text for people or JSON for machines.
//!
//! Texts from outside cannot control the reader's terminal, and cannot add a line or a field: the values of fields are
//! quoted where they have spaces or control characters (`LogFields`), and characters that change the direction of
//! writing are replaced (`Visible`).
//!
//! Libraries log from WARN on. Their INFO is about connections and may contain names that the log must not show. Only
//! directives in RUST_LOG that name them change that.

use std::fmt::{self, Debug};
use std::io::{self, Write};

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{ArgAction, Args};
use cognito_auth_core::printable::{is_commanding, printable};
use tracing::field::{Field, Visit};
use tracing::{Level, warn};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, reload};

use crate::config::{LogConfig, LogFormat};

/// The target of the exporter's own lines.
const OWN: &str = "cognito_auth_exporter";

/// The variable that sets the level in many programs in Rust.
const RUST_LOG: &str = "RUST_LOG";

/// Arguments about the program's own log.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct LogArgs {
    /// Level of the program's own log. It overrides RUST_LOG, which overrides log.level of the configuration.
    #[arg(
        long,
        value_name = "LEVEL",
        value_parser = PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"])
            .map(|level| level.parse::<Level>().expect("each of these is a level")),
        conflicts_with = "verbose"
    )]
    log_level: Option<Level>,
    /// Log more: -v is --log-level debug, -vv is --log-level trace.
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

impl LogArgs {
    /// Returns the level that the arguments ask for.
    fn level(self) -> Option<Level> {
        self.log_level.or(match self.verbose {
            0 => None,
            1 => Some(Level::DEBUG),
            _ => Some(Level::TRACE),
        })
    }
}

/// Starts the log on stderr, and returns a function that sets its level as a changed configuration asks. If a log
/// exists already, it stays.
pub fn start(config: &LogConfig, args: &LogArgs) -> impl Fn(Level) + Send + Sync + use<> {
    start_on(config, args, io::stderr)
}

/// Starts the log on a writer that leads to stderr.
pub(super) fn start_on<W, O>(config: &LogConfig, args: &LogArgs, out: O) -> impl Fn(Level) + Send + Sync + use<W, O>
where
    W: Write + 'static,
    O: Fn() -> W + Send + Sync + 'static,
{
    let variable = std::env::var(RUST_LOG).ok().filter(|text| !text.is_empty());
    let (directives, mistake) = match variable.as_deref().map(str::parse).transpose() {
        Ok(directives) => (directives, None),
        Err(mistake) => (None, Some(mistake)),
    };
    let overrides = Overrides { level: args.level(), directives };
    let (levels, handle) = reload::Layer::new(overrides.levels(config.level));
    // A line that cannot be written is lost: reporting that on stderr would panic.
    let layer = tracing_subscriber::fmt::layer().log_internal_errors(false).with_writer(move || Visible(out()));
    let layer = match config.format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Text => layer
            .with_target(false)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .fmt_fields(LogFields)
            .boxed(),
    };
    // A second call, in a process that embeds two, keeps the first log.
    let _ = tracing_subscriber::registry().with(layer.with_filter(levels)).try_init();
    if let Some(error) = mistake {
        warn!(%error, "RUST_LOG cannot be read; ignoring it (accepted: a level, or target=level with commas between)");
    }
    // This fails only if the log is gone, which needs no level then.
    move |level| drop(handle.reload(overrides.levels(level)))
}

/// What overrides the configuration's level.
struct Overrides {
    level: Option<Level>,
    directives: Option<Targets>,
}

impl Overrides {
    /// Returns the levels under this level of the configuration.
    fn levels(&self, configured: Level) -> Targets {
        let own_in = |directives: &Targets| {
            let own = directives.iter().find(|(target, _)| *target == OWN).map(|(_, level)| level);
            own.or(directives.default_level())
        };
        let own = match (self.level, &self.directives) {
            (Some(level), _) => LevelFilter::from_level(level),
            (None, Some(directives)) => own_in(directives).unwrap_or(LevelFilter::from_level(configured)),
            (None, None) => LevelFilter::from_level(configured),
        };
        let named = self.directives.iter().flat_map(Targets::iter);
        Targets::new()
            .with_default(LevelFilter::WARN.min(own))
            // The SDK warns of every attempt. The exporter logs an error once, by pool and cause.
            .with_target("aws", LevelFilter::ERROR.min(own))
            .with_targets(named.map(|(target, level)| (target.to_owned(), level)))
            .with_target(OWN, own)
    }
}

/// Writes a line's message and its fields as `name=value`. A value with spaces is quoted, so that a person and a log
/// shipper see where it ends.
struct LogFields;

impl<'writer> FormatFields<'writer> for LogFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = LogLine { writer, is_begun: false, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

/// A line that is being written.
struct LogLine<'writer> {
    writer: Writer<'writer>,
    is_begun: bool,
    result: fmt::Result,
}

impl LogLine<'_> {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_err() {
            return;
        }
        let space = if std::mem::replace(&mut self.is_begun, true) { " " } else { "" };
        self.result = match field.name() {
            "message" => write!(self.writer, "{space}{value}"),
            name if self.writer.has_ansi_escapes() => write!(self.writer, "{space}\x1b[2m{name}=\x1b[0m{value}"),
            name => write!(self.writer, "{space}{name}={value}"),
        };
    }
}

impl Visit for LogLine<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, format_args!("{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        let needs_quotes = |char: char| char.is_whitespace() || char.is_control() || char == '"';
        if field.name() == "message" {
            self.write(field, format_args!("{}", printable(&text)));
        } else if text.is_empty() || text.contains(needs_quotes) {
            self.write(field, format_args!("{text:?}"));
        } else {
            self.write(field, format_args!("{text}"));
        }
    }
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
    use clap::Parser;
    use tracing::info;

    use super::*;
    use crate::captured_log::CapturedLog;

    fn logged(log: impl FnOnce()) -> String {
        let lines = CapturedLog::default();
        let writer = lines.clone();
        let format = tracing_subscriber::fmt().without_time().with_target(false).with_ansi(false);
        let subscriber = format.fmt_fields(LogFields).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, log);
        lines.text()
    }

    #[test]
    fn values_with_spaces_are_quoted_and_others_are_plain() {
        let line = logged(|| {
            let (cause, listen, none) = ("not authorized", "[::]:10588", Option::<u64>::None);
            info!(%cause, %listen, pool = "a", polls = 3, waiting = none, empty = %"", "a message of words");
        });
        let fields = r#"cause="not authorized" listen=[::]:10588 pool="a" polls=3 empty="""#;
        assert_eq!(line, format!(" INFO a message of words {fields}\n"));
    }

    #[test]
    fn a_text_from_outside_adds_no_line_and_no_field() {
        let line = logged(|| {
            let hostile = "x\nERROR forged level=1 \u{1b}[2J\"";
            info!(cause = %hostile, "refused: {hostile}");
        });
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains(r#"cause="x\nERROR forged level=1 \u{1b}[2J\"""#), "{line}");
        assert!(!line.contains('\u{1b}'), "{line}");
    }

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        log: LogArgs,
    }

    /// The level of the exporter's lines, and whether a line of hyper's is logged at DEBUG.
    fn levels(arguments: &[&str], rust_log: Option<&str>, configured: Level) -> (LevelFilter, bool) {
        let log = CommandLine::parse_from([&["run"], arguments].concat()).log;
        let directives = rust_log.map(|text| text.parse().unwrap());
        let levels = Overrides { level: log.level(), directives }.levels(configured);
        let own = levels.iter().find(|(target, _)| *target == OWN).map(|(_, level)| level).unwrap();
        (own, levels.would_enable("hyper", &Level::DEBUG))
    }

    #[test]
    fn an_argument_overrides_the_variable_and_the_variable_the_configuration() {
        let table = [
            (&[][..], None, LevelFilter::INFO, false),
            (&["-v"], None, LevelFilter::DEBUG, false),
            (&["-vv"], Some("error"), LevelFilter::TRACE, false),
            (&["--log-level", "warn"], Some("debug"), LevelFilter::WARN, false),
            (&[], Some("debug"), LevelFilter::DEBUG, false),
            (&[], Some("off"), LevelFilter::OFF, false),
            (&[], Some("hyper=debug"), LevelFilter::INFO, true),
            (&[], Some("warn,cognito_auth_exporter=trace"), LevelFilter::TRACE, false),
        ];
        for (arguments, rust_log, own, hyper) in table {
            let found = levels(arguments, rust_log, Level::INFO);
            assert_eq!(found, (own, hyper), "{arguments:?} {rust_log:?}");
        }
        assert!(CommandLine::try_parse_from(["run", "-v", "--log-level", "info"]).is_err());
        assert!(CommandLine::try_parse_from(["run", "--log-level", "loud"]).is_err());
    }

    #[test]
    fn a_line_is_written_without_changes_of_direction() {
        let mut written = Vec::new();
        Visible(&mut written).write_all("\u{1b}[31mERROR\u{1b}[0m zoë \u{202e}evil\u{9b}\n".as_bytes()).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), "\u{1b}[31mERROR\u{1b}[0m zoë \u{fffd}evil\u{fffd}\n");
    }
}
