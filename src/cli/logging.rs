//! The program's own log: on stderr, text for people or JSON for machines.
//!
//! Libraries speak up from WARN only: their INFO is about connections, and may name what ours must not.

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, reload};

use crate::config::{LogConfig, LogFormat};

/// Starts the log; answers what sets its level. Does nothing if there is one already.
pub fn start(config: &LogConfig) -> impl Fn(Level) + Send + Sync + use<> {
    let (levels, handle) = reload::Layer::new(levels(config.level));
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = match config.format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Text => {
            layer.with_target(false).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed()
        }
    };
    // A second call, in a process that embeds two, keeps the first log.
    let _ = tracing_subscriber::registry().with(layer.with_filter(levels)).try_init();
    // Fails only for a log that is gone, and then nobody reads it.
    move |level| drop(handle.reload(self::levels(level)))
}

fn levels(level: Level) -> Targets {
    Targets::new()
        .with_default(LevelFilter::WARN.min(LevelFilter::from_level(level)))
        // The SDK warns of every attempt; ours are told once, by pool and cause.
        .with_target("aws", LevelFilter::ERROR)
        .with_target("cognito_auth_exporter", level)
}
