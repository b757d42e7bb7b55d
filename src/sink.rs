//! Port: delivers a batch of entries to a receiver and says what the receiver answered.
//!
//! A sink neither retries nor forgets: it tries once and reports. What follows from the answer is the delivery task's business.

use std::future::Future;

use cognito_auth_core::answer::Answer;
use cognito_auth_core::entry::Entry;

pub mod otlp;
pub mod stdout;

/// A receiver of log records.
pub trait Sink: Send + 'static {
    /// Tries once to deliver `batch` (never empty). Returns within the sink's own timeout and keeps nothing of the batch.
    fn deliver(&mut self, batch: &[Entry]) -> impl Future<Output = Answer> + Send;

    /// Bytes that `entry` takes in an encoded batch, before compression: what a batch's bound is reckoned with.
    fn size_of(&self, entry: &Entry) -> usize;
}
