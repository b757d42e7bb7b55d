//! The events that Cognito exports by itself (`SetLogDeliveryConfiguration`, event source `userAuthEvents`).
//!
//! Pure. CloudWatch Logs and Data Firehose deliver *documents*: bytes that hold any number of records, possibly inside
//! a wrapper. [`decode`] reads one document:
//!
//! ```text
//!   document --- gzip? ---> JSON values ---> wrapper? its messages ---> records
//!                                                                       |-- an event of ours -> ExportedEvent
//!                                                                       |-- of another source -> ignored
//!                                                                       '-- anything else    -> UnreadableRecord
//! ```
//!
//! AWS calls the schema "subject to change; some fields might be null". So every scalar may be a text, a number, a
//! boolean, null or absent, and a member of another shape counts as absent. A record is unreadable only if it does not
//! name its pool, user and event: without these it can join no history. An unreadable record costs nothing but itself,
//! and is kept as it came.
//!
//! The documentation is at
//! <https://docs.aws.amazon.com/cognito/latest/developerguide/exporting-quotas-and-usage.html>.

mod date;
mod document;
mod json;
pub mod log_delivery;
pub mod log_group;
pub mod log_page;
pub mod read_plan;
mod record;

pub use self::document::{decode, decode_measured};
use crate::event::AuthEvent;

/// The records of one document.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DecodedDocument {
    /// The events, in the document's order.
    pub events: Vec<ExportedEvent>,
    /// The records that could not be read, in the document's order.
    pub unreadable: Vec<UnreadableRecord>,
    /// The number of records of other event sources, such as `USER_NOTIFICATION`, and of control messages.
    pub ignored: usize,
}

/// One event as the export tells it.
#[derive(Clone, PartialEq, Eq)]
pub struct ExportedEvent {
    /// The user pool.
    pub pool_id: String,
    /// The user's username, as the API takes it.
    pub username: String,
    /// The user's `sub`, where the record has it.
    pub sub: Option<String>,
    /// The event. It has an EventId. Its CreationDate has whole seconds where `date_in_seconds` says so; it has no time
    /// zone.
    pub event: AuthEvent,
    /// Whether the CreationDate was told in whole seconds.
    pub date_in_seconds: bool,
    /// What the API does not tell.
    pub details: ExportDetails,
}

/// Shows the pool and the EventId. The rest may be personal data.
impl std::fmt::Debug for ExportedEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (pool_id, id) = (&self.pool_id, &self.event.id);
        f.debug_struct("ExportedEvent").field("pool_id", pool_id).field("id", id).finish_non_exhaustive()
    }
}

/// What the export tells of an event and the API does not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExportDetails {
    /// The app client (`clientId`).
    pub client_id: Option<String>,
    /// The request that caused the event (`requestId`).
    pub request_id: Option<String>,
    /// The identity provider (`idpName`).
    pub idp_name: Option<String>,
}

/// A record that could not be read, as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct UnreadableRecord {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The user pool, where the record names one.
    pub pool_id: Option<String>,
    /// Why it could not be read.
    pub reason: UnreadableReason,
}

/// Shows the number of bytes in place of the bytes, which may be personal data.
impl std::fmt::Debug for UnreadableRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnreadableRecord")
            .field("bytes", &self.bytes.len())
            .field("pool_id", &self.pool_id)
            .field("reason", &self.reason)
            .finish()
    }
}

/// Why a record could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnreadableReason {
    /// The record came in base64 that cannot be decoded.
    #[error("the base64 is damaged")]
    Base64,
    /// The document is gzip that cannot be inflated.
    #[error("the gzip is damaged")]
    Gzip,
    /// The document inflates to more than the limit.
    #[error("the gzip inflates to more than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The bytes are not JSON.
    #[error("not JSON")]
    NotJson,
    /// The JSON is not a record: no object, or an object without the member.
    #[error("no record: {0} is absent or has another form")]
    Absent(&'static str),
    /// A member cannot be what it should be.
    #[error("{0} is not valid")]
    NotValid(&'static str),
    /// The record names two user pools.
    #[error("the record names two user pools")]
    TwoPools,
}
