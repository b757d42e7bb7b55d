//! The parts that reading and following share: the calls, the output, and the ways in which the command ends.

use std::io;

use anyhow::Context as _;

use super::caller::{CallError, Caller, with_remedy};
use super::destination::Destination;
use super::output::EventsEncoder;
use crate::source::cognito::wire::WireEvent;
use crate::source::{Operation, SourceError};

/// Why the command ends before its work is done.
#[derive(Debug)]
pub(super) enum Halt {
    /// It was stopped.
    Stopped,
    /// The reader of the output has closed it.
    Closed,
    /// It cannot continue.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The calls to one pool, and the output.
pub(super) struct Session {
    pub(super) pool_id: String,
    pub(super) caller: Caller,
    pub(super) encoder: EventsEncoder,
    pub(super) destination: Destination,
    pub(super) page_size: Option<u8>,
}

impl Session {
    /// Prints events of a user.
    pub(super) async fn print(&mut self, username: &str, events: &[WireEvent]) -> Result<(), Halt> {
        let bytes = self.encoder.page(username, events)?;
        self.write(bytes).await
    }

    /// Prints what comes behind the last page.
    pub(super) async fn finish(&mut self) -> Result<(), Halt> {
        let bytes = self.encoder.finish()?;
        self.write(bytes).await
    }

    async fn write(&mut self, bytes: Vec<u8>) -> Result<(), Halt> {
        match self.destination.write(bytes).await {
            Err(closed) if closed.kind() == io::ErrorKind::BrokenPipe => Err(Halt::Closed),
            written => Ok(written.context("write the events")?),
        }
    }

    /// An error with what to do about it.
    pub(super) fn explained(&self, error: &SourceError, operation: Operation) -> String {
        with_remedy(error, operation, &self.pool_id)
    }

    /// Divides the errors of a call: those that concern one user or listing are returned, the others end the command.
    pub(super) fn of_one_user(&self, error: CallError, operation: Operation) -> Result<SourceError, Halt> {
        match error {
            CallError::Stopped => Err(Halt::Stopped),
            CallError::Source(error) if concerns_everybody(&error) => {
                Err(Halt::Failed(anyhow::anyhow!(self.explained(&error, operation))))
            }
            CallError::Source(error) => Ok(error),
        }
    }
}

/// Whether an error would meet every user of the pool.
pub(super) fn concerns_everybody(error: &SourceError) -> bool {
    matches!(error, SourceError::Pool(_) | SourceError::Caller(_))
}
