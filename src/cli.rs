//! The commands.
//!
//! Messages for people go to stderr, data to stdout. Exit 0 on success, 1 on a failure at work, 2 on bad usage or
//! configuration.

pub mod check;
pub mod demo;
pub mod events;
pub mod logging;
pub mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigErrors};

/// Exports Amazon Cognito's user auth events as OTLP log records and Prometheus counters.
///
/// New here? `cognito-auth-exporter demo` shows everything without an AWS account.
#[derive(Parser, Debug)]
#[command(name = "cognito-auth-exporter", version, max_term_width = 110)]
pub struct Arguments {
    /// Configuration file. Without it: ./config.toml if there, then /etc/cognito-auth-exporter/config.toml; the
    /// environment alone (COGNITO_EXPORTER_...) will do.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the exporter until it is stopped (SIGTERM or SIGINT).
    Run,
    /// Show the whole thing with no AWS account: a simulated Cognito on loopback with lively users.
    Demo(demo::DemoArgs),
    /// Print one user's auth events, newest first, one a line.
    Events(events::EventsArgs),
    /// Validate the configuration and try every dependency for real.
    Check,
}

impl Arguments {
    /// Does what the command line asks.
    pub async fn execute(self) -> ExitCode {
        let result = match self.command {
            Command::Run => match self.load() {
                Ok(config) => run::run(config).await,
                Err(errors) => return bad_configuration(&errors),
            },
            Command::Check => match self.load() {
                Ok(config) => check::check(config).await,
                Err(errors) => return bad_configuration(&errors),
            },
            Command::Demo(args) => demo::demo(&args).await,
            Command::Events(args) => events::main(args).await,
        };
        result.unwrap_or_else(|error| {
            complain(&format!("{error:#}"));
            ExitCode::from(1)
        })
    }

    fn load(&self) -> Result<Config, ConfigErrors> {
        crate::config::load(self.config.as_deref(), std::env::vars_os())
    }
}

fn bad_configuration(errors: &ConfigErrors) -> ExitCode {
    complain(&errors.to_string());
    ExitCode::from(2)
}

/// Says what went wrong to whoever started the program.
fn complain(text: &str) {
    use std::io::Write as _;
    // With nobody to read it there is nothing left to do.
    let _ = writeln!(std::io::stderr(), "cognito-auth-exporter: {text}");
}
