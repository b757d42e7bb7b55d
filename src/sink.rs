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
    /// Tries once to deliver `batch` (never empty). Returns within the sink's own timeout.
    fn deliver(&mut self, batch: &[Entry]) -> impl Future<Output = Answer> + Send;

    /// Returns the bytes of `entry` in an encoded batch, before compression. The bound of a batch is computed from
    /// these.
    fn size_of(&self, entry: &Entry) -> usize;
}
