//! A page of a log group: what FilterLogEvents of CloudWatch Logs answers.
//!
//! The model of the call is at
//! <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html>. Every member of a
//! log event is optional there.

use std::fmt;

use crate::event::UnixMillis;

/// The range of a reading, by the timestamps of the log events. Both ends belong to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadingRange {
    /// `startTime`.
    pub start: UnixMillis,
    /// `endTime`.
    pub end: UnixMillis,
}

/// A page of a reading.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogGroupPage {
    /// The service's time when it answered, if the answer has a date.
    pub served: Option<UnixMillis>,
    /// The log events, oldest first as far as AWS says. There may be none, also where a token follows.
    pub events: Vec<LogMessage>,
    /// The token of the next page; None at the end of the range.
    pub next: Option<String>,
}

/// A log event: one message of a log group.
#[derive(Clone, PartialEq, Eq)]
pub struct LogMessage {
    /// `eventId`, which CloudWatch Logs gives; empty if it is absent.
    pub id: String,
    /// `timestamp`, which the writer of the message gives; [`UnixMillis::MIN`] if it is absent.
    pub timestamp: UnixMillis,
    /// The message: a document ([`decode`](super::decode)).
    pub message: String,
}

/// Shows the length in place of the message, which is personal data.
impl fmt::Debug for LogMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogMessage")
            .field("id", &self.id)
            .field("timestamp", &self.timestamp)
            .field("message", &self.message.len())
            .finish()
    }
}
