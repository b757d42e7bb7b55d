//! The answers of the endpoint: the status and the JSON that Firehose requires, and what is wrong with a request.
//!
//! Success is exactly 200, `Content-Type: application/json`, a Content-Length, and a body with the request's id and a
//! time. The `errorMessage` of other answers is one of the texts here. It quotes nothing of the request, because
//! Firehose writes it to its own log.

use cognito_auth_core::event::UnixMillis;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::super::NotTaken;
use crate::http::{MemoryBody, MemoryResponse};
use crate::metrics::FirehoseOutcome;

/// The header that holds the request's id.
const REQUEST_ID: &str = "x-amz-firehose-request-id";

/// Maximum size of a request's id in bytes. Firehose's have 36.
const REQUEST_ID_BYTES_MAX: usize = 256;

/// Why a request is not answered 200.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum FirehoseFault {
    /// 401.
    #[error("the access key is wrong or missing")]
    Unauthorized,
    /// 400.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// 503.
    #[error(transparent)]
    Busy(#[from] BusyCause),
}

/// A mistake in a request: it is malformed or oversized.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum InvalidRequest {
    #[error("the method is not POST")]
    Method,
    #[error("X-Amz-Firehose-Request-Id is missing or is no request id")]
    NoRequestId,
    #[error("X-Amz-Firehose-Protocol-Version is not 1.0")]
    Version,
    #[error("Content-Encoding is neither gzip nor identity")]
    Encoding,
    #[error("the requestId of the body differs from X-Amz-Firehose-Request-Id")]
    OtherRequestId,
    #[error("the body is no JSON of a Data Firehose delivery")]
    NoDelivery,
    #[error("the gzip of the body is damaged")]
    Gzip,
    #[error("the body is larger than 88 MiB")]
    BodyTooLarge,
    #[error("the body has more than 10000 records")]
    TooManyRecords,
    #[error("a record is larger than 1024000 bytes")]
    RecordTooLarge,
    #[error("the records are larger than 64 MiB together")]
    RecordsTooLarge,
    #[error("the body did not arrive in time")]
    BodyTooSlow,
    #[error("the body ended early")]
    BodyBroken,
}

/// Why the records of a request cannot be taken at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum BusyCause {
    #[error("too many requests at a time")]
    TooManyRequests,
    #[error("the outbox is full")]
    OutboxFull,
    #[error("the ledger cannot be written")]
    Ledger,
    #[error("a user pool of the records is not ready yet")]
    NotReady,
    #[error("the exporter stops")]
    Stopping,
    #[error("the records could not be written in time")]
    TooSlow,
    #[error("the records could not be decoded because of an error in the exporter")]
    Failed,
}

impl From<NotTaken> for BusyCause {
    fn from(not_taken: NotTaken) -> Self {
        match not_taken {
            NotTaken::OutboxFull => Self::OutboxFull,
            NotTaken::Ledger(_) => Self::Ledger,
            NotTaken::NotReady(_) => Self::NotReady,
            NotTaken::Stopping => Self::Stopping,
        }
    }
}

impl FirehoseFault {
    fn status(self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the outcome that the metrics count.
    pub(super) fn outcome(self) -> FirehoseOutcome {
        match self {
            Self::Unauthorized => FirehoseOutcome::Unauthorized,
            Self::Invalid(_) => FirehoseOutcome::Invalid,
            Self::Busy(_) => FirehoseOutcome::Busy,
        }
    }
}

/// Returns the id of a request, if it has a valid one.
pub(super) fn request_id(headers: &HeaderMap) -> Option<&str> {
    let mut ids = headers.get_all(REQUEST_ID).iter();
    let (Some(id), None) = (ids.next(), ids.next()) else { return None };
    id.to_str().ok().filter(|id| !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX)
}

/// Makes the response to the request with this id. The connection ends with it unless the request was read to its end.
pub(super) fn response(
    request_id: Option<&str>,
    now: UnixMillis,
    answered: Result<(), FirehoseFault>,
    is_read: bool,
) -> MemoryResponse {
    let mut answer = serde_json::json!({ "requestId": request_id.unwrap_or_default(), "timestamp": now.0 });
    let mut status = StatusCode::OK;
    if let Err(fault) = answered {
        answer["errorMessage"] = fault.to_string().into();
        status = fault.status();
    }
    let mut response = MemoryResponse::new(MemoryBody::new(answer.to_string().into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if !is_read {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::super::request::{BODY_BYTES_MAX, RECORD_BYTES_MAX, RECORDS_BYTES_MAX, RECORDS_MAX};
    use super::*;

    #[test]
    fn the_texts_name_the_limits_that_hold() {
        for (invalid, limit) in [
            (InvalidRequest::BodyTooLarge, format!("{} MiB", BODY_BYTES_MAX >> 20)),
            (InvalidRequest::TooManyRecords, format!("{RECORDS_MAX} records")),
            (InvalidRequest::RecordTooLarge, format!("{RECORD_BYTES_MAX} bytes")),
            (InvalidRequest::RecordsTooLarge, format!("{} MiB", RECORDS_BYTES_MAX >> 20)),
        ] {
            assert!(invalid.to_string().contains(&limit), "{invalid}");
        }
    }
}
