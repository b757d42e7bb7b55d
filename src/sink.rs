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

/// How an answer is called that says success and is none that OTLP has.
pub(crate) const NO_OTLP_RESPONSE: &str = "a body that is no OTLP response";

/// What the words begin with of what was not answered.
pub(crate) const NO_ANSWER: &str = "no answer";

/// What servers say, in lower case, to a request without TLS on a port for TLS: nginx, Go's net/http, Tomcat, Apache.
const ASKS_FOR_TLS: &[&str] =
    &["request was sent to https port", "http request to an https", "requires tls", "plain http to an ssl-enabled"];

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
        fn asks_for_tls(message: &str) -> bool {
            let message = message.to_ascii_lowercase();
            ASKS_FOR_TLS.iter().any(|words| message.contains(words))
        }
        Some(match self {
            Self::Accepted { .. } => return None,
            Self::Retry { message, .. } => match code(message) {
                Some("429" | "ResourceExhausted") => {
                    "raise what the receiver allows, or lower otlp.batch_size; until it takes them, records wait in state.path"
                }
                _ => "start the receiver, or correct otlp.endpoint; until it answers, records wait in state.path",
            },
            Self::TooLarge { message } | Self::Invalid { message } | Self::Refused { message } => match code(message) {
                _ if asks_for_tls(message) => "begin otlp.endpoint with https://: the receiver speaks TLS on this port",
                Some("401" | "403" | "407" | "Unauthenticated" | "PermissionDenied") => {
                    "give the receiver the credentials that it wants, in otlp.headers or otlp.headers_file"
                }
                Some(_) if message.contains(NO_OTLP_RESPONSE) => {
                    "check that otlp.endpoint is an OTLP receiver's; if it stores what it answers so to, set \
                     otlp.accept_any_2xx = true"
                }
                Some("413") => "raise the receiver's limit for a request's size, and that of proxies before it",
                Some("400" | "422" | "InvalidArgument") => {
                    "compare what the receiver says with its configuration; refused records wait in state.path"
                }
                Some("500" | "Internal" | "Unknown") => {
                    "look at the receiver's own log; until it takes them, records wait in state.path"
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
            // Our own words of a connection, and an address in them is the receiver's.
            Self::Retry { message, .. } if message.starts_with(NO_ANSWER) => None,
            Self::Retry { message, .. } => Some(message),
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
