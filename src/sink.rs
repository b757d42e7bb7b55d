//! Port: delivers a batch of entries to a receiver and says what the receiver answered.
//!
//! A sink neither retries nor forgets: it tries once and reports. What follows from the answer is the courier's business.

use std::future::Future;
use std::time::Duration;

use crate::entry::Entry;
use crate::personal;

mod country;
mod ocsf;
pub mod otlp;
pub mod record;
pub mod stdout;

/// What a receiver said to one batch. Cut by what the courier does next; the rules are the OTLP specification's
/// (<https://opentelemetry.io/docs/specs/otlp/>, "Failures" and "Retryable Response Codes").
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The receiver has the batch. `rejected` of its records were refused and are not to be sent again (partial success).
    Accepted {
        /// Records that the receiver refused.
        rejected: u64,
        /// What the receiver said of them, or any warning it gave.
        message: Option<String>,
    },
    /// The receiver cannot take it now, or gave no answer: the same batch again, not before `after` if the receiver named a time.
    Retry {
        /// RetryInfo or Retry-After.
        after: Option<Duration>,
        /// What happened, for the log.
        message: String,
    },
    /// The batch is too large for the receiver: smaller ones may pass.
    TooLarge {
        /// What the receiver said.
        message: String,
    },
    /// The receiver calls the data invalid: at least one record is guilty.
    Invalid {
        /// What the receiver said.
        message: String,
    },
    /// Something that no change of the batch can cure (credentials, path, a page in place of an answer): a person must act.
    Refused {
        /// What the receiver said.
        message: String,
    },
}

impl Answer {
    /// What a person can do about it, in the imperative; None where nothing is to be done.
    pub fn remedy(&self) -> Option<&'static str> {
        /// What an answer's words begin with: a status of HTTP, or a code of gRPC.
        fn code(message: &str) -> Option<&str> {
            message.split([' ', ':']).next()
        }
        Some(match self {
            Self::Accepted { .. } => return None,
            Self::Retry { message, .. } => match code(message) {
                Some("429" | "ResourceExhausted") => {
                    "raise what the receiver allows; until it takes them, records wait in state.path"
                }
                _ => "start the receiver, or correct otlp.endpoint; until it answers, records wait in state.path",
            },
            Self::TooLarge { message } | Self::Invalid { message } | Self::Refused { message } => match code(message) {
                Some("401" | "403" | "407" | "Unauthenticated" | "PermissionDenied") => {
                    "give the receiver the credentials that it wants, in otlp.headers or otlp.headers_file"
                }
                _ => "check the endpoint's port and path, and otlp.protocol: something else answers there",
            },
        })
    }

    /// The answer without what it quotes of the entries that were sent, as far as that may be personal: what a receiver says goes
    /// to the log, to `/status` and into the quarantine.
    #[must_use]
    pub fn impersonal(mut self, sent: &[Entry]) -> Self {
        let said = match &mut self {
            Self::Accepted { message, .. } => message.as_mut(),
            // Mostly our own words of a connection, and an address in them is the receiver's.
            Self::Retry { .. } => None,
            Self::TooLarge { message } | Self::Invalid { message } | Self::Refused { message } => Some(message),
        };
        if let Some(said) = said {
            *said = personal::without(said, sent.iter().flat_map(Entry::personal));
        }
        self
    }
}

/// A receiver of log records.
pub trait Sink: Send + 'static {
    /// Tries once to deliver `batch` (never empty). Returns within the sink's own timeout and keeps nothing of the batch.
    fn deliver(&mut self, batch: &[Entry]) -> impl Future<Output = Answer> + Send;

    /// Bytes that `entry` takes in an encoded batch, before compression: what a batch's bound is reckoned with.
    fn size_of(&self, entry: &Entry) -> usize;
}
