//! `idle`: waits for a signal and touches nothing.
//!
//! A container needs a process, and the image has no other program that could wait. While `idle` runs, `kubectl exec`
//! runs the commands of `state` and `quarantine` in the pod, with its volume, user and configuration.

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
