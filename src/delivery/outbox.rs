//! Ports of the delivery task: the outbox that it empties, and the observer of its work.

use std::future::Future;

use cognito_auth_core::entry::{Entry, OutboxId};
use tokio::sync::watch;

pub use crate::metrics::RequestOutcome;

/// Why an entry cannot be read: the stored bytes are damaged.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot be read: {0}")]
pub struct Unreadable(pub String);

/// An id of the outbox and the entry stored under it.
pub type OutboxEntry = (OutboxId, Result<Entry, Unreadable>);

/// The entries of a batch that leave the outbox, by their fate.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settlement {
    /// Acknowledged entries, to be removed.
    pub delivered: Vec<OutboxId>,
    /// Refused or unreadable entries with the reason, to be moved to the quarantine unchanged.
    pub quarantined: Vec<(OutboxId, String)>,
}

impl Settlement {
    /// Returns whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.delivered.is_empty() && self.quarantined.is_empty()
    }
}

/// Entries that wait for delivery, on disk.
pub trait Outbox: Send + Sync + 'static {
    /// Why the outbox cannot be read or written.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Returns the oldest durable entries with an id above `after`, at most `limit`, in the order of their ids. Damaged
    /// entries are included.
    ///
    /// # Errors
    /// The store cannot be read.
    fn read(&self, after: Option<OutboxId>, limit: usize) -> Result<Vec<OutboxEntry>, Self::Error>;

    /// Removes delivered entries and moves the others to the quarantine, in one atomic, durable write. After an error
    /// the delivery task repeats the settlement, so an id that is gone is not an error.
    ///
    /// # Errors
    /// The store cannot be written. Then nothing was written.
    fn settle(&self, settlement: Settlement) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Returns a version that changes whenever the durable content of the outbox or the quarantine may have changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Returns whether the quarantine has reached its limit. Then nothing more may be moved there.
    fn quarantine_full(&self) -> bool;
}

/// Receives the delivery task's reports. No method may block.
pub trait DeliveryObserver: Send + 'static {
    /// Reports the outcome of an OTLP request.
    fn request(&self, outcome: RequestOutcome);
    /// Reports that a sink accepted nothing, with the reason in its words.
    fn failed(&self, cause: &str);
    /// Reports how many records of a batch the OTLP receiver accepted and rejected.
    fn records(&self, accepted: u64, rejected: u64);
    /// Reports how many records were moved to the quarantine.
    fn quarantined(&self, records: u64);
    /// Reports whether delivery pauses because the quarantine is full.
    fn quarantine_full(&self, full: bool);
    /// Reports that something was delivered, or that there was nothing to deliver.
    fn progress(&self);
}
