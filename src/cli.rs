//! The commands.
//!
//! Messages for people go to stderr, data to stdout. The exit status is 0 on success, 1 on a failure at work, and 2 on
//! bad usage or configuration. The doc comments of commands and arguments are their help, manual and completion texts.

pub mod check;
pub mod config_show;
pub mod demo;
pub mod events;
pub mod hash;
mod idle;
pub mod logging;
mod output;
pub mod pages;
mod progress;
pub mod quarantine;
pub mod run;
mod running;
pub mod state;
mod state_command;
pub mod status;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use cognito_auth_core::printable::printable;

use crate::app::ConfigFiles;
use crate::config::{Config, ConfigErrors, SettingOrigin};

/// The text behind the options in `--help` and the manual.
const MORE: &str = "\
Exit status:
  0  success; `run` and `demo`: stopped as asked
  1  a failure at work: a dependency failed in `check`, a call was refused, a state directory is in use; `status`:
     events do not flow
  2  bad usage or configuration; every mistake is listed with its key and where it was written

Signals of `run`:
  SIGTERM, SIGINT  stop polling, deliver records for up to 20 s, exit; a second signal exits at once
  SIGHUP           reload the configuration; all of it comes into force, or nothing

Files:
  ./config.toml, /etc/cognito-auth-exporter/config.toml  the configuration, unless --config names another file
  <state.path>/ledger                                    the durable state: cursors, totals, undelivered records

Environment:
  COGNITO_EXPORTER_<SECTION>__<KEY>  overrides a key of the file, such as COGNITO_EXPORTER_POLL__TIMEOUT=5s
  COGNITO_EXPORTER_POOLS             the pools as JSON, in place of the file's
  RUST_LOG                           the level of `run`'s log, in place of log.level; or directives, such as
                                     warn,cognito_auth_exporter=debug
  OTEL_EXPORTER_OTLP_*               apply where [otlp] is silent; malformed parts are ignored with a warning
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY  the proxies for AWS and for the receiver
  COGNITO_AUTH_STATUS_PASSWORD       the password of `status`, unless it is in a file
  AWS_*                              as in every AWS SDK

Data goes to stdout, everything else to stderr.

Begin with: cognito-auth-exporter demo
            cognito-auth-exporter check --config config.toml";

/// Exports Amazon Cognito's user auth events as OTLP log records and Prometheus counters.
///
/// It walks every followed user's sign-in history, counts each outcome exactly once, and delivers each event at least
/// once. New here? `cognito-auth-exporter demo` shows everything without an AWS account.
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
    Run(run::RunArgs),
    /// Validate the configuration and try every dependency, with one line each and a remedy for each failure.
    Check(check::CheckArgs),
    /// Show the configuration in force, and where each value comes from.
    Config(config_show::ConfigCommandArgs),
    /// Run the exporter without an AWS account, against a simulated Cognito on loopback.
    Demo(demo::DemoArgs),
    /// Print users' auth events: a history, the last hours of a group, or new events as they appear.
    ///
    /// One user's events come newest first, one a line, as the API sends them. Several users come one after the other.
    ///
    /// Examples:
    ///   events --user-pool-id eu-west-1_Abc123 --username ada
    ///   events --pool customers --all-users --since 2h --output csv --output-file events.csv
    ///   events --pool customers --group admins --follow --output table
    #[command(verbatim_doc_comment)]
    Events(Box<events::EventsArgs>),
    /// Print the hashes by which records name users and addresses, where privacy hides these.
    ///
    /// Examples:
    ///   hash --username alice
    ///   cut -f1 users.tsv | cognito-auth-exporter hash --usernames-file -
    #[command(verbatim_doc_comment)]
    Hash(hash::HashArgs),
    /// Show, retry or drop the records that the receiver refused or that cannot be read.
    ///
    /// A running exporter lists and retries; `drop` works on the state of a stopped one. They change only what they are
    /// asked to change.
    Quarantine(quarantine::QuarantineArgs),
    /// Show, verify, export or import the stored state, and rewind or forget users.
    ///
    /// A running exporter lists, shows and verifies; the others work on the state of a stopped one. They change only
    /// what they are asked to change.
    State(state::StateArgs),
    /// Ask a running exporter whether sign-in events flow, or for the place of one user.
    ///
    /// The exit status is 0 if they flow, and 1 if they do not or if nobody answers.
    Status(status::StatusArgs),
    /// Wait for SIGTERM without running the exporter, so that a container lives while commands work on its state.
    ///
    /// It reads no configuration and opens no state. In Kubernetes, `kubectl exec` runs the commands beside it.
    Idle,
    /// Print the completion script of a shell.
    ///
    /// Example: cognito-auth-exporter completions bash >/etc/bash_completion.d/cognito-auth-exporter
    Completions(pages::CompletionsArgs),
    /// Print the manual page of the program or of one command.
    ///
    /// Example: cognito-auth-exporter man | man -l -
    Man(pages::ManArgs),
}

/// The argument that names the configuration.
#[derive(Args, Debug)]
struct ConfigArgs {
    /// Configuration file. By default ./config.toml, or else /etc/cognito-auth-exporter/config.toml. The environment
    /// alone (COGNITO_EXPORTER_...) suffices, too.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

impl Arguments {
    /// Executes the command.
    pub async fn execute(self) -> ExitCode {
        let result = match self.command {
            Command::Run(args) => {
                // The files are looked at before they are read, so that a write in between counts as a change.
                let files = ConfigFiles::stamped(args.config.config.as_deref());
                match args.config.load_all() {
                    Ok(config) => run::run(args, files, config).await,
                    Err(errors) => return bad_configuration(&errors),
                }
            }
            Command::Check(args) => match args.config.load_all() {
                Ok(config) => check::check(&args, config).await,
                Err(errors) => {
                    check::report_mistakes(&args, &errors);
                    return bad_configuration(&errors);
                }
            },
            Command::Config(args) => match args.load() {
                Ok((config, settings)) => config_show::main(&args, &config, &settings),
                Err(errors) => return bad_configuration(&errors),
            },
            Command::Demo(args) => demo::demo(&args).await,
            Command::Events(args) => events::main(*args).await,
            Command::Hash(args) => match args.load() {
                Ok(config) => hash::main(args, config).await,
                Err(errors) => return bad_configuration(&errors),
            },
            Command::Quarantine(args) => match args.config.load() {
                Ok(config) => quarantine::main(args, config).await,
                Err(errors) => return bad_configuration(&errors),
            },
            Command::State(args) => match args.config.load() {
                Ok(config) => state::main(args, config).await,
                Err(errors) => return bad_configuration(&errors),
            },
            Command::Status(args) => match args.exporter_url() {
                Ok(url) => status::main(args, &url).await,
                Err(errors) => return bad_configuration(&errors),
            },
            Command::Idle => idle::idle().await,
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

    /// Loads the configuration and checks the web configuration that it names. The server loads the latter again.
    fn load_all(&self) -> Result<Config, ConfigErrors> {
        let config = self.load()?;
        check_web_config(&config)?;
        Ok(config)
    }
}

/// Checks the web configuration that a configuration names.
fn check_web_config(config: &Config) -> Result<(), ConfigErrors> {
    config.http.web_config_file.as_deref().map(crate::http::load_web_config).transpose().map(drop)
}

/// Prints every mistake on a line, and a hint if there is no configuration at all.
fn bad_configuration(errors: &ConfigErrors) -> ExitCode {
    let mistakes = errors.mistakes();
    match mistakes {
        [one] => complain(&one.to_string()),
        many => complain(&format!("{} mistakes in the configuration\n{errors}", many.len())),
    }
    if mistakes.iter().any(|mistake| mistake.origin == SettingOrigin::Nowhere) {
        complain("begin with config.example.toml, which has every key, or try `cognito-auth-exporter demo`");
    }
    ExitCode::from(2)
}

/// Prints a message for people on stderr.
fn complain(text: &str) {
    use std::io::Write as _;
    // If stderr cannot be written, there is no other place for the message.
    let _ = writeln!(std::io::stderr(), "{}", complaint(text));
}

/// Makes a message for people of a text.
fn complaint(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    format!("cognito-auth-exporter: {}", lines.join("\n"))
}
