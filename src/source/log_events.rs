//! Port: reads one page of the log group that receives a pool's export.

use std::future::Future;

use cognito_auth_core::export::log_page::{LogGroupPage, ReadingRange};

use super::SourceError;

/// The most log events that a page may be asked for: FilterLogEvents gives no more.
pub const LOG_EVENTS_MAX: u16 = 10_000;

/// The calls that the exporter makes to one log group.
pub trait LogEvents: Send + Sync + 'static {
    /// Reads one page of at most `limit` log events (1 to [`LOG_EVENTS_MAX`]) of a range. `token` is that of the page
    /// before in the same range. One call: no retry, no paging, no budget. The adapter sets the deadline.
    ///
    /// # Errors
    /// As for [`Source`](super::Source). A refused token is [`SourceError::InvalidParameter`].
    fn log_events(
        &self,
        range: ReadingRange,
        limit: u16,
        token: Option<&str>,
    ) -> impl Future<Output = Result<LogGroupPage, SourceError>> + Send;
}
