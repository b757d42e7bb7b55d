//! What a receiver's answer means, as the OTLP specification has it
//! (<https://opentelemetry.io/docs/specs/otlp/#failures>, "OTLP/gRPC Throttling", "OTLP/HTTP Response").
//!
//! Pure: an answer in, an [`Answer`] out. The transports only carry. Where the specification leaves a choice, nothing is
//! taken for an acknowledgement that does not look like one: a login page with status 200 has stored no record.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, HeaderMap, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message as _;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::config::origin;
use crate::event::UnixMillis;
use crate::sink::{Answer, MESSAGE_CHARS_KEPT};

/// An HTTP response, read as far as its bound.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// When it came, by our clock.
    pub(super) at: UnixMillis,
    /// The status.
    pub(super) status: StatusCode,
    /// The headers.
    pub(super) headers: HeaderMap,
    /// The body's beginning.
    pub(super) body: Bytes,
}

/// Judges an HTTP response.
pub(super) fn of_http(reply: &Reply) -> Answer {
    if reply.status.is_success() {
        return of_success(reply);
    }
    let message = match reply.headers.get(LOCATION).filter(|_| reply.status.is_redirection()) {
        Some(location) => bounded(&format!(
            "{}: redirects are not followed; the receiver points to {}",
            reply.status,
            place_of(location)
        )),
        None => failure_message(reply),
    };
    match reply.status.as_u16() {
        429 | 502 | 503 | 504 => Answer::Retry { after: retry_after(reply), message },
        413 => Answer::TooLarge { message },
        400 | 422 => Answer::Invalid { message },
        _ => Answer::Refused { message },
    }
}

/// Where a redirect points to, without path and query: they may hold what is secret.
fn place_of(location: &HeaderValue) -> String {
    let url = location.to_str().ok().and_then(|url| url.parse::<Uri>().ok());
    url.as_ref().and_then(origin).unwrap_or_else(|| "another path".to_owned())
}

/// Judges a gRPC answer.
pub(super) fn of_grpc(result: Result<ExportLogsServiceResponse, Status>) -> Answer {
    let status = match result {
        Ok(response) => return accepted(&response),
        Err(status) => status,
    };
    // A status with a source was made on this side, of a connection that broke or never was: nothing was answered.
    if let Some(source) = status.source() {
        return no_answer(&chain(source));
    }
    let message = bounded(&format!("{:?}: {}", status.code(), status.message()));
    let retry_info = status.get_details_retry_info();
    match status.code() {
        // How a receiver that is built on tonic names its limit. Sent again whole, the batch would be in the way for ever. (Our
        // own limit for answers reads the same: half a batch has half an answer.)
        Code::OutOfRange if status.message().contains("message length too large") => Answer::TooLarge { message },
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Answer::Retry { after: retry_info.and_then(|info| info.retry_delay), message },
        Code::ResourceExhausted => match retry_info {
            Some(info) => Answer::Retry { after: info.retry_delay, message },
            None => Answer::TooLarge { message },
        },
        Code::InvalidArgument => Answer::Invalid { message },
        _ => Answer::Refused { message },
    }
}

/// The answer to a batch that got none.
pub(super) fn no_answer(why: &str) -> Answer {
    let advice = ADVICE.iter().find(|(words, _)| why.contains(words)).map_or("", |(_, advice)| advice);
    Answer::Retry { after: None, message: bounded(&format!("no answer: {why}{advice}")) }
}

/// A receiver that closes connections says no more.
const CLOSED: &str =
    "; if it goes on: does the receiver speak gRPC on this port, does it speak TLS, does it ask for otlp.cert_file?";

/// What to look at where a library's words do not say it.
const ADVICE: &[(&str, &str)] = &[
    ("invalid peer certificate", "; look at otlp.ca_file, the name in otlp.endpoint, and the receiver's certificate"),
    ("CertificateRequired", "; the receiver asks for otlp.cert_file and otlp.key_file"),
    ("alert: UnknownCA", "; the receiver does not trust otlp.cert_file"),
    ("alert: DecryptError", "; the receiver does not trust otlp.cert_file"),
    ("alert: BadCertificate", "; the receiver does not trust otlp.cert_file"),
    ("InvalidContentType", "; if the receiver speaks no TLS, otlp.endpoint begins with http://"),
    ("invalid HTTP version", "; does the receiver speak TLS (https://), or is this its port for gRPC?"),
    ("unexpected message from connection", "; does the receiver speak TLS (https://), or is this its port for gRPC?"),
    (
        "proxy authorization required",
        "; give the proxy its user name and password in HTTPS_PROXY (http://user:password@host)",
    ),
    ("tunnel error", "; look at HTTPS_PROXY, and at NO_PROXY if no proxy is meant"),
    // What may be left of the alerts above, or of TLS that one side does not speak, once the connection is closed.
    ("stream closed because of a broken pipe", CLOSED),
    ("operation was canceled: connection closed", CLOSED),
    ("frame with invalid size", CLOSED),
    ("onnection reset by peer", CLOSED),
    ("Broken pipe", CLOSED),
];

/// An error and its causes, as one line. A cause that only repeats what was said is left out.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

/// Cuts a message from outside to what is looked at. [`Answer::impersonal`] makes of it what is shown.
pub(super) fn bounded(message: &str) -> String {
    message.trim().chars().take(MESSAGE_CHARS_KEPT).collect()
}

fn accepted(response: &ExportLogsServiceResponse) -> Answer {
    let partial = response.partial_success.clone().unwrap_or_default();
    Answer::Accepted {
        rejected: u64::try_from(partial.rejected_log_records).unwrap_or(0),
        message: Some(bounded(&partial.error_message)).filter(|message| !message.is_empty()),
    }
}

/// The body's format, by its content type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Protobuf,
    Json,
    Other,
}

fn format(headers: &HeaderMap) -> Format {
    let content_type = text_header(headers, &CONTENT_TYPE).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/x-protobuf") {
        Format::Protobuf
    } else if media_type.eq_ignore_ascii_case("application/json") {
        Format::Json
    } else {
        Format::Other
    }
}

/// An empty body is an empty response message; Loki answers 204. Anything else must be what its content type says.
fn of_success(reply: &Reply) -> Answer {
    if reply.body.is_empty() {
        return accepted(&ExportLogsServiceResponse::default());
    }
    let response = match format(&reply.headers) {
        Format::Protobuf => ExportLogsServiceResponse::decode(&*reply.body).ok(),
        Format::Json => serde_json::from_slice::<JsonResponse>(&reply.body).ok().map(JsonResponse::into),
        Format::Other => None,
    };
    match response {
        Some(response) => accepted(&response),
        None => Answer::Refused {
            message: bounded(&format!(
                "{} with a body that is no OTLP response ({}): {}",
                reply.status,
                text_header(&reply.headers, &CONTENT_TYPE).unwrap_or("no content type"),
                String::from_utf8_lossy(&reply.body)
            )),
        },
    }
}

/// ExportLogsServiceResponse in JSON. int64 may come as a number or, as ProtoJSON writes it, as a string.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonResponse {
    partial_success: Option<JsonPartialSuccess>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct JsonPartialSuccess {
    rejected_log_records: Option<JsonInteger>,
    error_message: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonInteger {
    Number(i64),
    Text(String),
}

impl From<JsonResponse> for ExportLogsServiceResponse {
    fn from(response: JsonResponse) -> Self {
        use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;
        Self {
            partial_success: response.partial_success.map(|partial| ExportLogsPartialSuccess {
                rejected_log_records: match partial.rejected_log_records {
                    Some(JsonInteger::Number(number)) => number,
                    Some(JsonInteger::Text(text)) => text.parse().unwrap_or(0),
                    None => 0,
                },
                error_message: partial.error_message.unwrap_or_default(),
            }),
        }
    }
}

/// The status and what the body says: a google.rpc.Status, or text.
fn failure_message(reply: &Reply) -> String {
    #[derive(Deserialize)]
    struct JsonStatus {
        message: String,
    }
    let said = match format(&reply.headers) {
        Format::Protobuf => tonic_types::pb::Status::decode(&*reply.body).ok().map(|status| status.message),
        Format::Json => serde_json::from_slice(&reply.body).ok().map(|status: JsonStatus| status.message),
        Format::Other => None,
    };
    let said = said.unwrap_or_else(|| String::from_utf8_lossy(&reply.body).into_owned());
    if said.trim().is_empty() {
        reply.status.to_string()
    } else {
        bounded(&format!("{}: {}", reply.status, said.trim()))
    }
}

/// Retry-After: seconds, or a date, which is reckoned from the answer's own Date, if it has one, so that no clocks need to
/// agree.
fn retry_after(reply: &Reply) -> Option<Duration> {
    let value = text_header(&reply.headers, &RETRY_AFTER)?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = http_date(value)?;
    let now = text_header(&reply.headers, &DATE)
        .and_then(http_date)
        .or_else(|| OffsetDateTime::from_unix_timestamp(reply.at.0 / 1000).ok())?;
    Some((until - now).try_into().unwrap_or(Duration::ZERO))
}

fn http_date(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc2822).ok()
}

fn text_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;
    use tonic_types::ErrorDetails;

    use super::*;

    /// When every reply of these tests comes: Wed, 21 Oct 2015 07:28:00 GMT.
    const AT: UnixMillis = UnixMillis(1_445_412_480_999);

    fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        Reply {
            at: AT,
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect(),
            body: body.into(),
        }
    }

    fn partial(rejected: i64, message: &str) -> ExportLogsServiceResponse {
        ExportLogsServiceResponse {
            partial_success: Some(ExportLogsPartialSuccess {
                rejected_log_records: rejected,
                error_message: message.into(),
            }),
        }
    }

    fn taken(rejected: u64, message: Option<&str>) -> Answer {
        Answer::Accepted { rejected, message: message.map(Into::into) }
    }

    /// An answer without its message.
    fn class(answer: &Answer) -> &'static str {
        match answer {
            Answer::Accepted { .. } => "accepted",
            Answer::Retry { .. } => "retry",
            Answer::TooLarge { .. } => "too large",
            Answer::Invalid { .. } => "invalid",
            Answer::Refused { .. } => "refused",
        }
    }

    #[test]
    fn http_statuses_follow_the_table() {
        for (status, expected) in [
            (301, "refused"),
            (400, "invalid"),
            (401, "refused"),
            (403, "refused"),
            (404, "refused"),
            (405, "refused"),
            (408, "refused"),
            (413, "too large"),
            (415, "refused"),
            (422, "invalid"),
            (429, "retry"),
            (500, "refused"),
            (501, "refused"),
            (502, "retry"),
            (503, "retry"),
            (504, "retry"),
            (507, "refused"),
        ] {
            let answer = of_http(&reply(status, &[], ""));
            assert_eq!(class(&answer), expected, "{status}");
        }
    }

    #[test]
    fn a_success_is_one_only_if_it_looks_like_one() {
        const PROTOBUF: &[(&str, &str)] = &[("content-type", "application/x-protobuf")];
        const JSON: &[(&str, &str)] = &[("content-type", "application/json; charset=utf-8")];
        let protobuf = partial(3, "too old").encode_to_vec();
        for (reply, expected) in [
            (reply(200, PROTOBUF, ""), taken(0, None)),
            (reply(204, &[], ""), taken(0, None)),
            (reply(202, JSON, "{}"), taken(0, None)),
            (reply(200, PROTOBUF, protobuf), taken(3, Some("too old"))),
            (
                reply(200, JSON, r#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}"#),
                taken(3, Some("too old")),
            ),
            (reply(200, JSON, r#"{"partialSuccess":{"rejectedLogRecords":2}}"#), taken(2, None)),
            (reply(200, JSON, r#"{"partialSuccess":null}"#), taken(0, None)),
            (reply(200, JSON, r#"{"partialSuccess":{"errorMessage":"slow down"}}"#), taken(0, Some("slow down"))),
        ] {
            assert_eq!(of_http(&reply), expected, "{reply:?}");
        }
        for reply in [
            reply(200, &[("content-type", "text/html")], "<html>Please log in</html>"),
            reply(200, &[], "ok"),
            reply(200, PROTOBUF, "<html>"),
            reply(200, JSON, "<html>"),
            reply(200, JSON, "[]"),
            reply(200, JSON, "\"ok\""),
        ] {
            assert_eq!(class(&of_http(&reply)), "refused", "{reply:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // The receiver's clock is a year behind ours.
        const DATE: (&str, &str) = ("date", "Tue, 21 Oct 2014 07:28:00 GMT");
        for (headers, expected) in [
            (vec![("retry-after", "7")], Some(7)),
            (vec![("retry-after", " 0 ")], Some(0)),
            (vec![("retry-after", "-1")], None),
            (vec![("retry-after", "soon")], None),
            (vec![], None),
            (vec![("retry-after", "7.5")], None),
            (vec![("retry-after", "99999999999999999999")], None),
            (vec![("retry-after", "18446744073709551615")], Some(u64::MAX)),
            (vec![DATE, ("retry-after", "Tue, 21 Oct 2014 07:30:05 GMT")], Some(125)),
            (vec![DATE, ("retry-after", "Tue, 21 Oct 2014 07:20:00 GMT")], Some(0)),
            (vec![DATE, ("retry-after", "Tue, 21 Oct 9999 07:20:00 GMT")], Some(251_982_229_920)),
            (vec![DATE, ("retry-after", "Tue, 32 Oct 2014 07:20:00 GMT")], None),
            (vec![("retry-after", "Wed, 21 Oct 2015 07:30:05 GMT")], Some(125)),
            (vec![("date", "today"), ("retry-after", "Wed, 21 Oct 2015 07:30:05 GMT")], Some(125)),
        ] {
            let Answer::Retry { after, .. } = of_http(&reply(503, &headers, "")) else {
                panic!("503 is to be retried");
            };
            assert_eq!(after, expected.map(Duration::from_secs), "{headers:?}");
        }
    }

    #[test]
    fn a_failure_says_what_the_receiver_said() {
        let status = tonic_types::pb::Status { code: 3, message: "bad record".into(), details: vec![] };
        for (reply, expected) in [
            (
                reply(400, &[("content-type", "application/x-protobuf")], status.encode_to_vec()),
                "400 Bad Request: bad record",
            ),
            (
                reply(400, &[("content-type", "application/json")], r#"{"code":3,"message":"bad record"}"#),
                "400 Bad Request: bad record",
            ),
            (reply(400, &[("content-type", "text/plain")], "bad record\n"), "400 Bad Request: bad record"),
            (reply(400, &[("content-type", "application/json")], "[]"), "400 Bad Request: []"),
            (reply(400, &[], ""), "400 Bad Request"),
        ] {
            assert_eq!(of_http(&reply), Answer::Invalid { message: expected.into() });
        }
    }

    #[test]
    fn a_message_is_bounded() {
        let Answer::Refused { message } = of_http(&reply(500, &[], "é\n".repeat(10_000))) else {
            panic!("500 is refused");
        };
        assert_eq!(message.chars().count(), MESSAGE_CHARS_KEPT);
    }

    #[test]
    fn a_redirect_says_where_to() {
        for (location, place) in [
            ("https://logs.example:4318/v1/logs?token=secret", "https://logs.example:4318"),
            ("https://user:secret@logs.example/", "https://logs.example"),
            ("/login?next=secret", "another path"),
            ("é", "another path"),
        ] {
            let Answer::Refused { message } = of_http(&reply(308, &[("location", location)], "")) else {
                panic!("308 is refused");
            };
            assert!(message.ends_with(&format!("points to {place}")), "{message}");
        }
    }

    #[test]
    fn grpc_codes_follow_the_table() {
        for (code, expected) in [
            (Code::Cancelled, "retry"),
            (Code::Unknown, "refused"),
            (Code::InvalidArgument, "invalid"),
            (Code::DeadlineExceeded, "retry"),
            (Code::NotFound, "refused"),
            (Code::AlreadyExists, "refused"),
            (Code::PermissionDenied, "refused"),
            (Code::ResourceExhausted, "too large"),
            (Code::FailedPrecondition, "refused"),
            (Code::Aborted, "retry"),
            (Code::OutOfRange, "retry"),
            (Code::Unimplemented, "refused"),
            (Code::Internal, "refused"),
            (Code::Unavailable, "retry"),
            (Code::DataLoss, "retry"),
            (Code::Unauthenticated, "refused"),
        ] {
            let answer = of_grpc(Err(Status::new(code, "no")));
            assert_eq!(class(&answer), expected, "{code:?}");
        }
    }

    #[test]
    fn retry_info_says_when_and_makes_exhaustion_passing() {
        for code in [Code::Unavailable, Code::ResourceExhausted] {
            for delay in [None, Some(Duration::from_millis(1500))] {
                let status = Status::with_error_details(code, "later", ErrorDetails::with_retry_info(delay));
                let Answer::Retry { after, message } = of_grpc(Err(status)) else {
                    panic!("{code:?} with RetryInfo is to be retried");
                };
                assert_eq!(after, delay);
                assert_eq!(message, format!("{code:?}: later"));
            }
        }
    }

    #[test]
    fn a_broken_connection_is_no_answer_whatever_its_code() {
        for code in [Code::Unknown, Code::Internal, Code::ResourceExhausted] {
            let mut status = Status::new(code, "transport error");
            status.set_source(Arc::new(std::io::Error::other("connection reset")));
            let Answer::Retry { message, .. } = of_grpc(Err(status)) else {
                panic!("a broken connection is to be tried again");
            };
            assert_eq!(message, "no answer: connection reset");
        }
    }

    #[test]
    fn grpc_partial_success_counts() {
        assert_eq!(of_grpc(Ok(partial(3, "too old"))), taken(3, Some("too old")));
        assert_eq!(of_grpc(Ok(partial(-3, ""))), taken(0, None));
        assert_eq!(of_grpc(Ok(ExportLogsServiceResponse::default())), taken(0, None));
    }
}
