//! Port: sends a batch of entries to a receiver and returns its answer.
//!
//! A sink does not retry and keeps no entries. The delivery task decides what follows from the answer.

use std::future::Future;

use cognito_auth_core::answer::Answer;
use cognito_auth_core::entry::Entry;

pub mod otlp;
pub mod stdout;

/// A receiver of log records.
pub trait Sink: Send + 'static {
    /// A log record in the form that the sink sends. It is made once, however often it is sent.
    type Record: Send + Sync;

    /// Makes the record of an entry.
    fn record(&self, entry: &Entry) -> Self::Record;

    /// Returns the bytes of `record` in an encoded batch, before compression. The bound of a batch is computed from
    /// these.
    fn size_of(&self, record: &Self::Record) -> usize;

    /// Tries once to deliver `batch` (never empty). Returns within the sink's own timeout.
    fn deliver(&mut self, batch: &[Self::Record]) -> impl Future<Output = Answer> + Send;
}
