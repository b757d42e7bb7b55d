//! The user-activity export of the simulated Cognito (`SetLogDeliveryConfiguration`, event source `userAuthEvents`).
//!
//! AWS documents the form of a record, and that the export is best effort. It does not document how late records are,
//! whether Cognito sends the changes of an event, or how many events it loses. [`ExportSettings`] has a setting for
//! each, so that tests can cover every possibility.
//!
//! `record` writes the record of an event. `pool_export` decides what a pool sends, and when. The world hands the
//! records to a log group and to a Firehose stream.

mod pool_export;
mod record;

use std::ops::RangeInclusive;
use std::time::Duration;

pub use pool_export::PoolExport;
pub(crate) use pool_export::{ExportedUser, Occasion, SentRecord};
pub use record::ExportRecord;

/// How a pool exports its events. Shares are from 0 to 1. By default every event and every change of an event is sent
/// at once, to nowhere.
#[derive(Clone, PartialEq, Debug)]
pub struct ExportSettings {
    /// The name of the log group that receives the records, in the pool's account and region.
    pub log_group: Option<String>,
    /// The name of the Firehose stream that receives the records. In reality a pool has one destination, and a stream
    /// beside a log group is fed by a subscription of the log group.
    pub firehose: Option<String>,
    /// The time from an event, or from a change of it, until its record is sent. Each record has its own.
    pub delay: RangeInclusive<Duration>,
    /// The share of records that take `extra_delay` longer, so that later records overtake them.
    pub overtaken: f64,
    /// The additional delay of these records.
    pub extra_delay: RangeInclusive<Duration>,
    /// The share of events that are lost: neither the event nor a change of it is sent.
    pub lost: f64,
    /// The share of records that are sent twice. The second has its own delay.
    pub repeated: f64,
    /// The share of changes that are sent: an outcome, or feedback. Whether Cognito sends any is unknown.
    pub changes: f64,
    /// The records' `eventSource`.
    pub source: ExportSource,
    /// How a date in milliseconds becomes whole seconds.
    pub dates: DateRounding,
    /// The share of records in an odd form: null in place of an empty text, numbers and flags in place of texts.
    pub odd: f64,
    /// The `timestamp` of the log event.
    pub log_timestamp: LogTimestamp,
    /// The time from the sending of a record until its ingestion by CloudWatch Logs.
    pub ingestion_delay: RangeInclusive<Duration>,
}

impl Default for ExportSettings {
    fn default() -> Self {
        let at_once = Duration::ZERO..=Duration::ZERO;
        Self {
            log_group: None,
            firehose: None,
            delay: at_once.clone(),
            overtaken: 0.0,
            extra_delay: at_once.clone(),
            lost: 0.0,
            repeated: 0.0,
            changes: 1.0,
            source: ExportSource::default(),
            dates: DateRounding::default(),
            odd: 0.0,
            log_timestamp: LogTimestamp::default(),
            ingestion_delay: at_once,
        }
    }
}

impl ExportSettings {
    /// Settings of an export to a log group.
    pub fn to_log_group(name: &str) -> Self {
        Self { log_group: Some(name.to_owned()), ..Self::default() }
    }

    /// Settings of an export to a Firehose stream.
    pub fn to_firehose(stream: &str) -> Self {
        Self { firehose: Some(stream.to_owned()), ..Self::default() }
    }
}

/// The word in `eventSource`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ExportSource {
    /// `USER_ACTIVITY`, as in the documentation.
    #[default]
    Documented,
    /// `USER_AUTH_EVENTS`, as in logs of real pools.
    Seen,
    /// Either word, at random.
    Both,
}

/// How a date in milliseconds becomes whole seconds. Which one Cognito does is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DateRounding {
    /// The milliseconds are cut off.
    #[default]
    Truncated,
    /// The date is the nearest second.
    Nearest,
}

/// The `timestamp` of a record's log event. Which one Cognito takes is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogTimestamp {
    /// The time at which the record is sent.
    #[default]
    Sent,
    /// The event's CreationDate. The delay of the export then looks like a late ingestion.
    Created,
}
