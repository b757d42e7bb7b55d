//! The commands.
//!
//! Messages for people go to stderr, data to stdout. Exit 0 on success, 1 on a failure at work, 2 on bad usage or
//! configuration. What a command says of itself here is its help, its manual and what shells complete.

pub mod check;
pub mod demo;
pub mod events;
pub mod logging;
pub mod pages;
mod progress;
pub mod quarantine;
pub mod run;
pub mod state;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use cognito_auth_core::printable::printable;

use crate::app::ConfigFiles;
use crate::config::{Config, ConfigErrors, SettingOrigin};

/// What `--help` and the manual say behind the options.
const MORE: &str = "\
Exit status:
  0  success; `run` and `demo`: stopped as asked
  1  a failure at work: a dependency of `check` is not as it has to be, a call was refused, a state directory is in use
  2  bad usage or configuration; every mistake is listed with its key and where it was written

Signals of `run`:
  SIGTERM, SIGINT  stop polling, deliver what can be delivered within 20 s, exit; a second one exits at once
  SIGHUP           read the configuration again and bring all of it into force, or nothing

Files:
  ./config.toml, /etc/cognito-auth-exporter/config.toml  the configuration, where --config names no other
  <state.path>/ledger                                    everything that must survive: cursors, totals, records that wait

Environment:
  COGNITO_EXPORTER_<SECTION>__<KEY>  overrides a key of the file, such as COGNITO_EXPORTER_POLL__TIMEOUT=5s
  COGNITO_EXPORTER_POOLS             the pools as JSON, in place of the file's
  OTEL_EXPORTER_OTLP_*               apply where [otlp] is silent; what is malformed is left out with a warning
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY  the way to AWS and to the receiver
  AWS_*                              as in every AWS SDK

Data goes to stdout, everything else to stderr.

Begin with: cognito-auth-exporter demo
            cognito-auth-exporter check --config config.toml";

/// Exports Amazon Cognito's user auth events as OTLP log records and Prometheus counters.
///
/// It walks every followed user's sign-in history, counts each outcome exactly once, and delivers each event at least once.
/// New here? `cognito-auth-exporter demo` shows everything without an AWS account.
#[derive(Parser, Debug)]
#[command(
    name = "cognito-auth-exporter",
    version,
    propagate_version = true,
    max_term_width = 110,
    after_long_help = MORE,
    after_help = "More, with exit status, signals, files and variables: --help"
)]
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
    /// Look at the stored state, rewind or forget users, verify it, take it out and put it in.
    ///
    /// Works on the state of an exporter that is stopped, and changes nothing but what it is asked for.
    State(state::StateArgs),
    /// Print what a shell reads to complete this command line.
    ///
    /// Such as: cognito-auth-exporter completions bash >/etc/bash_completion.d/cognito-auth-exporter
    Completions(pages::CompletionsArgs),
    /// Print the manual page of the whole, or of one command.
    ///
    /// Such as: cognito-auth-exporter man | man -l -
    Man(pages::ManArgs),
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
            Command::Run(args) => {
                // Before it is read: what is written meanwhile is a change.
                let files = ConfigFiles::look(args.config.as_deref());
                match args.load_all() {
                    Ok(config) => run::run(args, files, config).await,
                    Err(errors) => return bad_configuration(&errors),
                }
            }
            Command::Check(args) => match args.load_all() {
                Ok(config) => check::check(config).await,
                Err(errors) => return bad_configuration(&errors),
            },
            Command::Demo(args) => demo::demo(&args).await,
            Command::Events(args) => events::main(args).await,
            Command::Quarantine(args) => match args.config.load() {
                Ok(config) => quarantine::main(args, config).await,
                Err(errors) => return bad_configuration(&errors),
            },
            Command::State(args) => match args.config.load() {
                Ok(config) => state::main(args, config).await,
                Err(errors) => return bad_configuration(&errors),
            },
            Command::Completions(args) => pages::completions(&args),
            Command::Man(args) => pages::man(&args),
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

    /// The same with the web configuration that it names, which is read again by whoever serves with it.
    fn load_all(&self) -> Result<Config, ConfigErrors> {
        let config = self.load()?;
        config.http.web_config_file.as_deref().map(crate::config::load_web).transpose()?;
        Ok(config)
    }
}

/// Every mistake a line, and for somebody who has no configuration at all where to begin.
fn bad_configuration(errors: &ConfigErrors) -> ExitCode {
    let mistakes = errors.mistakes();
    match mistakes {
        [one] => complain(&one.to_string()),
        many => complain(&format!("{} mistakes in the configuration\n{errors}", many.len())),
    }
    if mistakes.iter().any(|mistake| mistake.origin == SettingOrigin::Nowhere) {
        complain("begin with config.example.toml, which has every key; `cognito-auth-exporter demo` needs none");
    }
    ExitCode::from(2)
}

/// Says what went wrong to whoever started the program.
fn complain(text: &str) {
    use std::io::Write as _;
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    // With nobody to read it there is nothing left to do.
    let _ = writeln!(std::io::stderr(), "cognito-auth-exporter: {}", lines.join("\n"));
}
