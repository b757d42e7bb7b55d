//! `run`: runs the exporter as a daemon.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::anyhow;
use clap::Args;
use tracing::{error, info, warn};

use super::ConfigArgs;
use super::logging::{self, LogArgs};
use super::running;
use crate::app::{App, ConfigFiles, Reloads};
use crate::config::Config;
use crate::lifecycle::{Hangups, RunOutcome, Signals};
use crate::metrics::{REVISION, VERSION};
use crate::source::cognito::{Clients, TransportError};

/// Arguments of `run`.
#[derive(Args, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// Runs until a signal or a fault.
///
/// # Errors
/// The exporter could not be built; the chain says what to do.
pub(super) async fn run(args: RunArgs, files: ConfigFiles, config: Config) -> anyhow::Result<ExitCode> {
    let set_level = Box::new(logging::start(&config.log, &args.log));
    let file = files.in_use().map_or("none, only the environment".into(), Path::to_string_lossy);
    info!(version = VERSION, revision = REVISION, config = %file, "cognito-auth-exporter is starting");
    for mistake in &config.set_aside {
        let (variable, reason) = (mistake.origin.to_string(), mistake.text.as_str());
        warn!(variable, reason, "malformed environment variable; ignoring the malformed part");
    }
    let hangups = Hangups::catch()?;
    let mut signals = Signals::catch()?;
    let clients = clients()?;
    let app = tokio::select! {
        app = App::build(config, clients) => app?,
        signal = signals.next() => {
            info!(signal, "stopped during startup");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let app = app.taking_commands(running::runner).reloading(Reloads {
        hangups,
        files,
        load: Arc::new(move || args.config.load_all()),
        set_level,
    });
    Ok(exit_code(&app.run(async || signals.next().await).await?))
}

/// Returns the exit code: success for a stop as asked, 1 for a second signal or a fault.
pub(super) fn exit_code(outcome: &RunOutcome) -> ExitCode {
    match outcome {
        RunOutcome::Stopped => ExitCode::SUCCESS,
        RunOutcome::Interrupted => ExitCode::from(1),
        RunOutcome::Failed(fault) => {
            error!(%fault, "stopped by an internal fault; please report it");
            ExitCode::from(1)
        }
    }
}

/// Creates the clients for AWS from the environment.
///
/// # Errors
/// The environment's certificates or proxies cannot be used; the text has the remedy.
pub(super) fn clients() -> anyhow::Result<Clients> {
    Clients::from_environment().map_err(|error| anyhow!("{:#}; {}", anyhow!(error), TransportError::REMEDY))
}
