//! `idle`: waits for a signal and touches nothing.
//!
//! A container needs a process. In a pod whose exporter is stopped this is it, so that `kubectl exec` can run the
//! commands of `state` and `quarantine` beside it, with the pod's volume, user and configuration. The image has no
//! other program that could wait.

use std::process::ExitCode;

use super::state_command::say;
use crate::lifecycle::Signals;

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// The system refuses a handler for the signals.
pub(super) async fn idle() -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    say("idle: no exporter runs here, and commands may work on the state; SIGTERM ends this");
    signals.next().await;
    Ok(ExitCode::SUCCESS)
}
