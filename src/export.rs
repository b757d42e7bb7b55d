//! Port: where the records of Cognito's own export go once they are decoded.
//!
//! Two sources deliver them: `log_group` reads a log group of CloudWatch Logs, and `firehose` is an endpoint for Data
//! Firehose. Both decode documents ([`cognito_auth_core::export`]) and hand them to an [`Intake`], which joins each
//! event to its user's history. An event is taken when `take` answers Ok: then it is on the disk.

pub mod firehose;
pub mod intake;
pub mod log_group;

use std::future::Future;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::export::DecodedDocument;

use crate::ledger::LedgerError;

/// Takes the records of an export.
pub trait Intake: Send + Sync + 'static {
    /// Takes the records of documents that were received at `received`, by the local clock. When this answers Ok, every
    /// event is on the disk, and every unreadable record is in the quarantine. After an error some may be: the caller
    /// hands in the same documents again, and what was taken is known then.
    ///
    /// # Errors
    /// Nothing can be taken at present. The caller tries again later.
    fn take(
        &self,
        documents: Vec<DecodedDocument>,
        received: UnixMillis,
    ) -> impl Future<Output = Result<(), NotTaken>> + Send;
}

/// Why exported records cannot be taken at present.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotTaken {
    /// The outbox is full: `state.outbox_limit` bytes wait for delivery.
    #[error("the outbox is full")]
    OutboxFull,
    /// The ledger has failed and is being opened again, or is closed.
    #[error("{0}")]
    Ledger(String),
    /// A pool of these records is not ready yet: it was not described, or its counters were not scraped.
    #[error("pool {0} is not ready")]
    NotReady(String),
    /// The process stops.
    #[error("the process stops")]
    Stopping,
}

impl From<LedgerError> for NotTaken {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error.to_string())
    }
}
