//! Reads a log group of CloudWatch Logs through the SDK, with the connection of its pool.

use std::fmt;
use std::sync::Arc;

use aws_sdk_cloudwatchlogs::types::FilteredLogEvent;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::export::log_group::LogGroup;
use cognito_auth_core::export::log_page::{LogGroupPage, LogMessage, ReadingRange};

use super::clients::AwsClient;
use super::date::DateOfAnswer;
use super::errors::{self, Situation};
use crate::lifecycle::Clock;
use crate::source::log_events::{LOG_EVENTS_MAX, LogEvents};
use crate::source::{Operation, SourceError};

/// One log group, asked through the SDK.
#[derive(Clone)]
pub struct CloudWatchLogs {
    client: Arc<AwsClient>,
    log_group: LogGroup,
    clock: Clock,
}

impl CloudWatchLogs {
    pub(super) fn new(client: Arc<AwsClient>, log_group: LogGroup, clock: Clock) -> Self {
        Self { client, log_group, clock }
    }
}

impl fmt::Debug for CloudWatchLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudWatchLogs").field("log_group", &self.log_group).finish_non_exhaustive()
    }
}

impl LogEvents for CloudWatchLogs {
    async fn log_events(
        &self,
        range: ReadingRange,
        limit: u16,
        token: Option<&str>,
    ) -> Result<LogGroupPage, SourceError> {
        let operation = Operation::FilterLogEvents;
        let client = self.client.logs_client().await;
        let date = DateOfAnswer::default();
        let call = client.filter_log_events();
        // AWS takes a name as either member. moto knows only the first.
        let call = match self.log_group.is_arn() {
            false => call.log_group_name(self.log_group.name()),
            true => call.log_group_identifier(self.log_group.identifier()),
        };
        let call = call
            .start_time(range.start.0.max(0))
            .end_time(range.end.0.max(0))
            .limit(limit.into())
            .set_next_token(token.map(str::to_owned));
        // Boxed, because it is large: otherwise the reader's future would hold it and move it.
        let answer = Box::pin(call.customize().interceptor(date.clone()).send()).await;
        let page = match answer {
            Ok(page) => page,
            Err(error) => {
                let sts_is_redirected = self.client.credentials().await.sts_is_redirected;
                let situation = Situation { now: self.clock.now(), sts_is_redirected };
                return Err(errors::source_error(situation, operation, &error, &[token.unwrap_or_default()]));
            }
        };
        let events = page.events.unwrap_or_default();
        if events.len() > LOG_EVENTS_MAX.into() {
            return Err(errors::too_many(operation, "log events", LOG_EVENTS_MAX.into()));
        }
        Ok(LogGroupPage {
            served: date.get(),
            events: events.into_iter().map(log_event).collect(),
            next: page.next_token.filter(|token| !token.is_empty()),
        })
    }
}

fn log_event(event: FilteredLogEvent) -> LogMessage {
    LogMessage {
        id: event.event_id.unwrap_or_default(),
        timestamp: event.timestamp.map_or(UnixMillis::MIN, UnixMillis),
        message: event.message.unwrap_or_default(),
    }
}
