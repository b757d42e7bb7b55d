//! Commands on the state of a running exporter: how a command asks for it, and what the exporter runs.
//!
//! Those that only look, and those that bring a record back for delivery, need no stop. The exporter runs them on its
//! own ledger. It parses the command line itself, so both sides have the same commands, and it ignores `--config`.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::anyhow;
use clap::Parser as _;

use super::state_command::{blocking, is_closed_pipe};
use super::{Arguments, Command, quarantine, state};
use crate::control::{self, CommandOutput, CommandStatus, ControlError, RunCommand};
use crate::ledger::{Ledger, LedgerError};

/// The refusal of every other command.
pub(super) const STOP_FIRST: &str = "a running exporter runs only `quarantine list`, `quarantine retry`, `state list`, \
     `state show` and `state verify`; stop it for the others";

/// Has the exporter run the command of this process, if it has the ledger that could not be opened.
///
/// # Errors
/// `unopened`, if no exporter answers or if the ledger could not be opened for another reason.
pub(super) async fn ask_instead(state: PathBuf, unopened: anyhow::Error) -> anyhow::Result<ExitCode> {
    if !matches!(unopened.downcast_ref(), Some(LedgerError::Locked(_))) {
        return Err(unopened);
    }
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let answered = blocking(move || {
        let (mut out, mut err) = (io::stdout(), io::stderr());
        Ok(control::request(&state, arguments, &mut CommandOutput { out: &mut out, err: &mut err })?)
    });
    match answered.await {
        Ok(Some(code)) => Ok(ExitCode::from(code)),
        Ok(None) => Err(unopened),
        Err(error) if is_closed_output(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

/// Whether the reader of the output has closed it. A broken connection to the exporter is another matter.
fn is_closed_output(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ControlError::Print(closed)) if closed.kind() == io::ErrorKind::BrokenPipe)
}

/// What a running exporter runs on its ledger for others.
pub(super) fn runner(ledger: Ledger) -> RunCommand {
    let runtime = tokio::runtime::Handle::current();
    Arc::new(move |arguments, mut output| {
        let name = std::iter::once("cognito-auth-exporter".to_owned());
        let done = match Arguments::try_parse_from(name.chain(arguments)).map(|parsed| parsed.command) {
            Ok(Command::Quarantine(args)) => runtime.block_on(quarantine::run_harmless(&ledger, &args, &mut output)),
            Ok(Command::State(args)) => state::run_harmless(&ledger, &args, &mut output),
            Ok(_) | Err(_) => Err(anyhow!(STOP_FIRST)),
        };
        done.unwrap_or_else(|error| {
            if !is_closed_pipe(&error) {
                output.say(&super::complaint(&format!("{error:#}")));
            }
            CommandStatus::Failure
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_closed_output_ends_well_and_not_a_broken_connection() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_closed_output(&ControlError::Print(broken()).into()));
        assert!(!is_closed_output(&ControlError::Connection(broken()).into()));
        assert!(!is_closed_output(&ControlError::Print(io::ErrorKind::StorageFull.into()).into()));
    }
}
