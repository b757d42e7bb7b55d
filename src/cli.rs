//! The commands.
//!
//! Messages for people go to stderr, data to stdout. Exit 0 on success, 1 on a failure at work, 2 on bad usage or
//! configuration.

pub mod check;
pub mod demo;
pub mod events;
pub mod logging;
mod long_work;
mod progress;
pub mod quarantine;
pub mod run;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigErrors, Origin};

/// Exports Amazon Cognito's user auth events as OTLP log records and Prometheus counters.
///
/// New here? `cognito-auth-exporter demo` shows everything without an AWS account.
#[derive(Parser, Debug)]
#[command(name = "cognito-auth-exporter", version, propagate_version = true, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the exporter until it is stopped (SIGTERM or SIGINT).
    Run(ConfigArgs),
    /// Validate the configuration and try every dependency for real, one line each with what to do.
    Check(ConfigArgs),
    /// Show the whole thing with no AWS account: a simulated Cognito on loopback with lively users.
    Demo(demo::DemoArgs),
    /// Print one user's auth events, newest first, one a line.
    Events(events::EventsArgs),
    /// Look at the records that the receiver refused or that cannot be read, put them back, or drop them.
    ///
    /// Works on the state of an exporter that is stopped, and changes nothing but what it is asked for.
    Quarantine(quarantine::QuarantineArgs),
}

/// Where the configuration is.
#[derive(Args, Debug)]
struct ConfigArgs {
    /// Configuration file. Without it: ./config.toml if there, then /etc/cognito-auth-exporter/config.toml; the
    /// environment alone (COGNITO_EXPORTER_...) will do.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

impl Arguments {
    /// Does what the command line asks.
    pub async fn execute(self) -> ExitCode {
        let result = match self.command {
            Command::Run(args) => match args.load() {
                Ok(config) => run::run(config).await,
                Err(errors) => return bad_configuration(&errors),
            },
            Command::Check(args) => match args.load() {
                Ok(config) => check::check(config).await,
                Err(errors) => return bad_configuration(&errors),
            },
            Command::Demo(args) => demo::demo(&args).await,
            Command::Events(args) => events::main(args).await,
            Command::Quarantine(args) => match args.config.load() {
                Ok(config) => quarantine::main(args, config).await,
                Err(errors) => return bad_configuration(&errors),
            },
        };
        result.unwrap_or_else(|error| {
            complain(&format!("{error:#}"));
            ExitCode::from(1)
        })
    }
}

impl ConfigArgs {
    fn load(&self) -> Result<Config, ConfigErrors> {
        crate::config::load(self.config.as_deref(), std::env::vars_os())
    }
}

/// Every mistake a line, and for somebody who has no configuration at all where to begin.
fn bad_configuration(errors: &ConfigErrors) -> ExitCode {
    let mistakes = errors.mistakes();
    match mistakes {
        [one] => complain(&one.to_string()),
        many => complain(&format!("{} mistakes in the configuration\n{errors}", many.len())),
    }
    if mistakes.iter().any(|mistake| mistake.origin == Origin::Nowhere) {
        complain("begin with config.example.toml, which has every key; `cognito-auth-exporter demo` needs none");
    }
    ExitCode::from(2)
}

/// Says what went wrong to whoever started the program.
fn complain(text: &str) {
    use std::io::Write as _;
    // With nobody to read it there is nothing left to do.
    let _ = writeln!(std::io::stderr(), "cognito-auth-exporter: {text}");
}
