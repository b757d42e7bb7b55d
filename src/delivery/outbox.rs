//! Ports of the delivery task: the outbox that it empties, and the report of what it did.

use std::future::Future;

use cognito_auth_core::entry::Entry;
use cognito_auth_core::entry::OutboxId;
use tokio::sync::watch;

pub use crate::metrics::RequestOutcome;

/// Why an entry cannot be read: what is stored is not what was written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot be read: {0}")]
pub struct Unreadable(pub String);

/// What waits under an id.
pub type Waiting = (OutboxId, Result<Entry, Unreadable>);

/// What has become of entries: they leave the outbox.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settlement {
    /// Acknowledged: to be forgotten.
    pub delivered: Vec<OutboxId>,
    /// Refused for what they are, or unreadable: to be kept in the quarantine as they are, each with the reason.
    pub quarantined: Vec<(OutboxId, String)>,
}

impl Settlement {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.delivered.is_empty() && self.quarantined.is_empty()
    }
}

/// Entries that wait for delivery, on disk.
pub trait Outbox: Send + Sync + 'static {
    /// Why the outbox cannot be read or written.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The oldest durable entries with an id above `after`, at most `limit`, in the order of their ids. One that is damaged
    /// has its place among them.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn read(&self, after: Option<OutboxId>, limit: usize) -> Result<Vec<Waiting>, Self::Error>;

    /// Removes delivered entries and moves the others to the quarantine: one atomic, durable write. The delivery task settles
    /// again what it could not be told was written; an id that is gone is no error.
    ///
    /// # Errors
    /// When the store cannot be written; then nothing was.
    fn settle(&self, settlement: Settlement) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Changes whenever the outbox's durable content, or the quarantine's, may have.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Whether the quarantine has reached its limit: then nothing more may be moved there.
    fn quarantine_full(&self) -> bool;
}

/// Hears what the delivery task does. Nothing here may block.
pub trait DeliveryObserver: Send + 'static {
    /// An OTLP request was answered, or not.
    fn request(&self, outcome: RequestOutcome);
    /// The OTLP receiver took nothing, and why, in its words.
    fn failed(&self, cause: &str);
    /// The OTLP receiver has so many records more, and has refused so many of the same batch.
    fn records(&self, accepted: u64, rejected: u64);
    /// So many records were moved to the quarantine.
    fn quarantined(&self, records: u64);
    /// Whether delivery stands still because the quarantine is full.
    fn quarantine_full(&self, full: bool);
    /// Something was delivered, or there was nothing to deliver.
    fn progress(&self);
}
