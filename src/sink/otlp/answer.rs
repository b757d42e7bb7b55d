//! Interprets a receiver's answer by the OTLP specification
//! (<https://opentelemetry.io/docs/specs/otlp/#failures>, "OTLP/gRPC Throttling", "OTLP/HTTP Response").
//!
//! Pure: it converts an HTTP or gRPC answer to an [`Answer`]. The specification leaves choices, and these are made
//! here:
//! - Only an answer that looks like an acknowledgement is one. A login page with status 200 has stored no record.
//! - A web page, or a receiver's memory limit, says nothing about the records.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use cognito_auth_core::answer::{Answer, MESSAGE_CHARS_KEPT, NO_ANSWER, NO_OTLP_RESPONSE};
use cognito_auth_core::event::UnixMillis;
use http::header::{CONTENT_TYPE, DATE, HeaderMap, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::config::origin;

/// An HTTP response with the beginning of its body.
#[derive(Clone, Debug)]
pub(super) struct HttpReply {
    /// The local time at which it arrived.
    pub(super) at: UnixMillis,
    /// The status.
    pub(super) status: StatusCode,
    /// The headers.
    pub(super) headers: HeaderMap,
    /// The body, up to the bound.
    pub(super) body: Bytes,
}

/// Interprets an HTTP response. `accept_any_2xx` is the configuration's key.
pub(super) fn of_http(reply: &HttpReply, accept_any_2xx: bool) -> Answer {
    if reply.status.is_success() {
        return of_success(reply, accept_any_2xx);
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
        // Also if a proxy answers so: half a batch may be below its limit.
        413 => Answer::TooLarge { message },
        // A server that sends a web page, or requires TLS, has read no records.
        400 | 422 if !is_html(reply) && !asks_for_tls(reply) => Answer::Invalid { message },
        _ => Answer::Refused { message },
    }
}

/// Returns the target of a redirect without path and query, which may hold secrets.
fn place_of(location: &HeaderValue) -> String {
    let url = location.to_str().ok().and_then(|url| url.parse::<Uri>().ok());
    url.as_ref().and_then(origin).unwrap_or_else(|| "another path".to_owned())
}

/// Interprets an HTTP response that came instead of a gRPC answer. The receiver has not answered, so no record is
/// invalid.
pub(super) fn of_plain_http(reply: &HttpReply) -> Answer {
    match of_http(reply, false) {
        Answer::Invalid { message } => Answer::Refused { message },
        answer => answer,
    }
}

/// Interprets a gRPC answer. `from_receiver` is whether the receiver sent a status other than OK. tonic makes statuses
/// of its own for answers that it cannot read. They have the words and codes that receivers use for requests.
pub(super) fn of_grpc(result: Result<ExportLogsServiceResponse, Status>, from_receiver: bool) -> Answer {
    let status = match result {
        Ok(response) => return accepted(&response),
        Err(status) => status,
    };
    // A status with a source was made on this side, after a connection failed. The receiver has not answered.
    if let Some(source) = status.source() {
        return no_answer(&chain(source));
    }
    let message = bounded(&format!("{:?}: {}", status.code(), status.message()));
    let retry_info = status.get_details_retry_info();
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument if !from_receiver => {
            no_answer(&format!("the receiver's answer cannot be read: {}", status.message()))
        }
        // If the whole batch were sent again, it would block the queue for ever.
        Code::OutOfRange | Code::ResourceExhausted if retry_info.is_none() && is_about_size(status.message()) => {
            Answer::TooLarge { message }
        }
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Answer::Retry { after: retry_info.and_then(|info| info.retry_delay), message },
        Code::InvalidArgument => Answer::Invalid { message },
        _ => Answer::Refused { message },
    }
}

/// Words of gRPC implementations about a message above their size limit, in lower case. "Memory", "quota" and "rate"
/// are not among them, because a smaller message would not help.
const SIZE_WORDS: &[&str] = &[
    // grpc-go, C-core (and what wraps it), grpc-js.
    "message larger than max",
    "message after decompression larger than max",
    "message that decompresses to a size larger than",
    // grpc-java, grpc-dotnet, connect-go.
    "message exceeds maximum size",
    "message exceeds the maximum configured message size",
    "is larger than configured max",
    // tonic, with OUT_OF_RANGE and, of what is compressed, RESOURCE_EXHAUSTED.
    "message length too large",
    "exceeded while decompressing message",
    // Receivers' own words.
    "message too large",
    "message is too large",
    "request too large",
    "request is too large",
    "larger than max",
    "message size exceeds",
    "request size exceeds",
    "payload size exceeds",
    "payload too large",
];

/// Returns whether a receiver's words are about the size of a message.
fn is_about_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    SIZE_WORDS.iter().any(|words| message.contains(words))
}

/// Makes the [`Answer`] for a batch that got no answer.
pub(super) fn no_answer(why: &str) -> Answer {
    let advice = ADVICE.iter().find(|(words, _)| why.contains(words)).map_or("", |(_, advice)| advice);
    Answer::Retry { after: None, message: bounded(&format!("{NO_ANSWER}: {why}{advice}")) }
}

/// The advice after a closed connection, where the receiver gives no reason.
const CLOSED: &str =
    "; if it persists: does the receiver speak gRPC on this port, does it speak TLS, does it require otlp.cert_file?";

/// Advice for library messages that do not give the cause.
const ADVICE: &[(&str, &str)] = &[
    ("invalid peer certificate", "; check otlp.ca_file, the name in otlp.endpoint, and the receiver's certificate"),
    ("CertificateRequired", "; the receiver requires otlp.cert_file and otlp.key_file"),
    ("alert: UnknownCA", "; the receiver does not trust otlp.cert_file"),
    ("alert: DecryptError", "; the receiver does not trust otlp.cert_file"),
    ("alert: BadCertificate", "; the receiver does not trust otlp.cert_file"),
    ("InvalidContentType", "; if the receiver does not speak TLS, otlp.endpoint must begin with http://"),
    ("invalid HTTP version", "; does the receiver speak TLS (https://), or is this its port for gRPC?"),
    ("unexpected message from connection", "; does the receiver speak TLS (https://), or is this its port for gRPC?"),
    (
        "proxy authorization required",
        "; give the proxy its user name and password in HTTPS_PROXY (http://user:password@host)",
    ),
    ("tunnel error", "; check HTTPS_PROXY, or set NO_PROXY to use no proxy"),
    // Messages that may replace the alerts above, or that follow if only one side speaks TLS, after the connection is
    // closed.
    ("stream closed because of a broken pipe", CLOSED),
    ("operation was canceled: connection closed", CLOSED),
    ("frame with invalid size", CLOSED),
    ("onnection reset by peer", CLOSED),
    ("Broken pipe", CLOSED),
];

/// Returns an error and its causes as one line. A cause that only repeats earlier text is left out.
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

/// Cuts a message from outside to a bounded length. [`Answer::redacted`] later removes what must not be shown.
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
enum BodyFormat {
    Protobuf,
    Json,
    Html,
    Other,
}

fn format(reply: &HttpReply) -> BodyFormat {
    let content_type = text_header(&reply.headers, &CONTENT_TYPE).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        _ if is_html(reply) => BodyFormat::Html,
        "application/x-protobuf" | "application/protobuf" => BodyFormat::Protobuf,
        "application/json" => BodyFormat::Json,
        _ => BodyFormat::Other,
    }
}

/// Returns whether the body begins like a TLS server's answer to plain HTTP. Only the beginning counts, because the
/// rest may quote a record.
fn asks_for_tls(reply: &HttpReply) -> bool {
    let words: [&[u8]; 2] = [
        b"Client sent an HTTP request to an HTTPS server",
        b"Bad Request\nThis combination of host and port requires TLS",
    ];
    words.iter().any(|words| reply.body.starts_with(words))
}

/// Returns whether the body is a web page, by its content type or its beginning.
fn is_html(reply: &HttpReply) -> bool {
    let content_type = text_header(&reply.headers, &CONTENT_TYPE).unwrap_or_default().trim().to_ascii_lowercase();
    let begins_as = |words: &[u8]| {
        let body = reply.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&reply.body).trim_ascii_start();
        body.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words))
    };
    let called = content_type.starts_with("text/html") || content_type.starts_with("application/xhtml");
    (called && !reply.body.is_empty()) || begins_as(b"<!doctype html") || begins_as(b"<html")
}

/// Interprets a success. An empty body is an empty response message; Loki answers 204. Any other body must be an OTLP
/// response. JSON is recognised by its content, and protobuf by its content type, because nearly any bytes parse as
/// protobuf.
fn of_success(reply: &HttpReply, accept_any_2xx: bool) -> Answer {
    if reply.body.is_empty() {
        return accepted(&ExportLogsServiceResponse::default());
    }
    let format = format(reply);
    let response = match format {
        BodyFormat::Protobuf => protobuf_response(&reply.body),
        BodyFormat::Json | BodyFormat::Other => json_response(&reply.body),
        BodyFormat::Html => None,
    };
    match response {
        Some(response) => accepted(&response),
        None if accept_any_2xx && format != BodyFormat::Html => accepted(&ExportLogsServiceResponse::default()),
        None => Answer::Refused {
            message: bounded(&format!(
                "{} with {} ({}): {}",
                reply.status,
                if format == BodyFormat::Html { "a web page" } else { NO_OTLP_RESPONSE },
                text_header(&reply.headers, &CONTENT_TYPE).unwrap_or("no content type"),
                body_text(reply)
            )),
        },
    }
}

/// Parses an ExportLogsServiceResponse in protobuf; None for a message with other fields, such as a google.rpc.Status.
fn protobuf_response(body: &[u8]) -> Option<ExportLogsServiceResponse> {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    let mut rest = body;
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest).ok()?;
        skip_field(wire_type, tag, &mut rest, DecodeContext::default()).ok()?;
        if tag != PARTIAL_SUCCESS_TAG {
            return None;
        }
    }
    ExportLogsServiceResponse::decode(body).ok()
}

/// The number of `partial_success`, the only field of ExportLogsServiceResponse.
const PARTIAL_SUCCESS_TAG: u32 = 1;

/// ExportLogsServiceResponse in JSON. As in ProtoJSON, names may be in snake_case, and null means absent. Other members
/// show that it is another message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonResponse<'a> {
    #[serde(borrow, rename = "partialSuccess", alias = "partial_success")]
    partial_success: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonPartialSuccess<'a> {
    /// An int64 is a text in ProtoJSON. Many implementations write a number.
    #[serde(borrow, rename = "rejectedLogRecords", alias = "rejected_log_records")]
    rejected_log_records: Option<&'a RawValue>,
    #[serde(rename = "errorMessage", alias = "error_message")]
    error_message: Option<String>,
}

fn json_response(body: &[u8]) -> Option<ExportLogsServiceResponse> {
    let response: JsonResponse<'_> = json_object(body)?;
    let partial = |raw: &RawValue| {
        let partial: JsonPartialSuccess<'_> = json_object(raw.get().as_bytes())?;
        Some(ExportLogsPartialSuccess {
            rejected_log_records: partial.rejected_log_records.map_or(Some(0), json_integer)?,
            error_message: partial.error_message.unwrap_or_default(),
        })
    };
    Some(ExportLogsServiceResponse {
        partial_success: match response.partial_success {
            Some(raw) => Some(partial(raw)?),
            None => None,
        },
    })
}

/// Parses a JSON object. serde alone would accept an array for a struct, too.
fn json_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<T> {
    text.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(text).ok())?
}

fn json_integer(raw: &RawValue) -> Option<i64> {
    let text = raw.get();
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).parse().ok()
}

/// Returns the status and the message in the body, which is a google.rpc.Status or text.
fn failure_message(reply: &HttpReply) -> String {
    #[derive(Deserialize)]
    struct JsonStatus {
        message: String,
    }
    let message = match format(reply) {
        BodyFormat::Protobuf => tonic_types::pb::Status::decode(&*reply.body).ok().map(|status| status.message),
        BodyFormat::Json => serde_json::from_slice(&reply.body).ok().map(|status: JsonStatus| status.message),
        BodyFormat::Html | BodyFormat::Other => None,
    };
    let message = message.unwrap_or_else(|| body_text(reply));
    if message.trim().is_empty() {
        reply.status.to_string()
    } else {
        bounded(&format!("{}: {}", reply.status, message.trim()))
    }
}

/// Returns the body as text. A web page is reduced roughly to the text that a browser would show.
fn body_text(reply: &HttpReply) -> String {
    let text = String::from_utf8_lossy(&reply.body);
    if !is_html(reply) {
        return text.into_owned();
    }
    // Each piece but the first begins inside a tag.
    let (first, pieces) = text.split_once('<').unwrap_or((&text, ""));
    let shown = pieces.split('<').map(|piece| piece.split_once('>').map_or("", |(_, text)| text));
    std::iter::once(first).chain(shown).flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// Returns the wait in Retry-After: seconds or a date. The wait until a date is computed from the answer's own Date, if
/// there is one, so the two clocks need not agree.
fn retry_after(reply: &HttpReply) -> Option<Duration> {
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

    use tonic_types::ErrorDetails;

    use super::*;

    /// The arrival time of every reply in these tests: Wed, 21 Oct 2015 07:28:00 GMT.
    const AT: UnixMillis = UnixMillis(1_445_412_480_999);

    fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> HttpReply {
        HttpReply {
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

    /// The kind of an answer, without its message.
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
            let answer = of_http(&reply(status, &[], ""), false);
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
            (
                reply(200, JSON, r#"{"partial_success":{"rejected_log_records":"2","error_message":"too old"}}"#),
                taken(2, Some("too old")),
            ),
            (reply(200, JSON, r#"{"partialSuccess":{"rejectedLogRecords":null,"errorMessage":null}}"#), taken(0, None)),
            (reply(200, &[("content-type", "text/plain")], " {}\n"), taken(0, None)),
        ] {
            assert_eq!(of_http(&reply, false), expected, "{reply:?}");
        }
        // A google.rpc.Status, as protobuf.
        let status = tonic_types::pb::Status { code: 0, message: "storage is full".into(), details: vec![] };
        for reply in [
            reply(200, &[], "ok"),
            reply(200, JSON, "[]"),
            reply(200, JSON, "[null]"),
            reply(200, JSON, "\"ok\""),
            reply(200, JSON, "null"),
            reply(200, JSON, r#"{"error":"storage is full"}"#),
            reply(200, JSON, r#"{"status":"login required"}"#),
            reply(200, JSON, r#"{"partialSuccess":{},"status":"error"}"#),
            reply(200, JSON, r#"{"partialSuccess":[3,"too old"]}"#),
            reply(200, JSON, r#"{"partialSuccess":{"rejectedLogRecords":"many"}}"#),
            reply(200, JSON, r#"{"partialSuccess":{"rejectedLogRecords":1.5}}"#),
            reply(200, JSON, r#"{"partialSuccess":{"errorMessage":["too old"]}}"#),
            reply(200, PROTOBUF, "ok"),
            reply(200, PROTOBUF, status.encode_to_vec()),
        ] {
            assert_eq!(class(&of_http(&reply, false)), "refused", "{reply:?}");
            assert!(of_http(&reply, false).remedy().unwrap().contains("otlp.accept_any_2xx"), "{reply:?}");
            assert_eq!(of_http(&reply, true), taken(0, None), "{reply:?}");
        }
        // A web page is never taken.
        for reply in [
            reply(200, &[("content-type", "text/html")], "<html>Please log in</html>"),
            reply(200, &[("content-type", "Text/HTML; charset=utf-8")], "Please log in"),
            reply(200, &[], "\u{feff}\r\n<!DOCTYPE html>\n<html>"),
            reply(200, PROTOBUF, "<html>"),
            reply(200, JSON, "<HTML>"),
        ] {
            for accept_any_2xx in [false, true] {
                let answer = of_http(&reply, accept_any_2xx);
                assert_eq!(class(&answer), "refused", "{reply:?}");
                assert!(!answer.remedy().unwrap().contains("accept_any_2xx"), "{answer:?}");
            }
        }
    }

    #[test]
    fn a_web_page_is_no_verdict_on_records_and_a_port_for_tls_is_named() {
        const HTML: &[(&str, &str)] = &[("content-type", "text/html")];
        const NGINX: &str =
            "<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>\r\n</html>";
        const APACHE: &str = "<!DOCTYPE HTML PUBLIC \"-//IETF//DTD HTML 2.0//EN\">\n<html><head>\n<title>400 Bad Request\
            </title>\n</head><body>\n<h1>Bad Request</h1>\n<p>Your browser sent a request that this server could not \
            understand.<br />\nReason: You're speaking plain HTTP to an SSL-enabled server port.<br /></p></body></html>";
        for (reply, names_tls) in [
            (reply(400, HTML, NGINX), true),
            (reply(400, &[], NGINX), true),
            (reply(400, HTML, APACHE), true),
            (reply(400, &[], "Client sent an HTTP request to an HTTPS server.\n"), true),
            (reply(400, &[], "Bad Request\nThis combination of host and port requires TLS.\n"), true),
            (reply(422, HTML, "<html>no</html>"), false),
            (reply(400, HTML, "<html>no</html>"), false),
        ] {
            let answer = of_http(&reply, false);
            assert_eq!(class(&answer), "refused", "{answer:?}");
            assert_eq!(answer.remedy().unwrap().contains("https://"), names_tls, "{answer:?}");
        }
        // Text that may quote a record does not decide.
        let quoted = reply(400, &[], "no such device: Client sent an HTTP request to an HTTPS server <html>");
        assert_eq!(class(&of_http(&quoted, false)), "invalid");
        // A proxy may answer so, and half the batch may be below its limit.
        assert_eq!(class(&of_http(&reply(413, HTML, "<html>413 Request Entity Too Large</html>"), false)), "too large");
        assert_eq!(class(&of_http(&reply(503, HTML, "<html>503</html>"), false)), "retry");
        // An HTTP response instead of gRPC says nothing about records.
        assert_eq!(class(&of_plain_http(&reply(400, &[], "no"))), "refused");
    }

    #[test]
    fn a_page_shows_as_its_text() {
        let page = "<html><head><title>Log\n in</title></head><body>Who <b>are</b> you?<p>";
        let Answer::Refused { message } = of_http(&reply(403, &[("content-type", "text/html")], page), false) else {
            panic!("403 is refused");
        };
        assert_eq!(message, "403 Forbidden: Log in Who are you?");
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
            let Answer::Retry { after, .. } = of_http(&reply(503, &headers, ""), false) else {
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
            assert_eq!(of_http(&reply, false), Answer::Invalid { message: expected.into() });
        }
    }

    #[test]
    fn a_message_is_bounded() {
        let Answer::Refused { message } = of_http(&reply(500, &[], "é\n".repeat(10_000)), false) else {
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
            let Answer::Refused { message } = of_http(&reply(308, &[("location", location)], ""), false) else {
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
            (Code::ResourceExhausted, "retry"),
            (Code::FailedPrecondition, "refused"),
            (Code::Aborted, "retry"),
            (Code::OutOfRange, "retry"),
            (Code::Unimplemented, "refused"),
            (Code::Internal, "refused"),
            (Code::Unavailable, "retry"),
            (Code::DataLoss, "retry"),
            (Code::Unauthenticated, "refused"),
        ] {
            let answer = of_grpc(Err(Status::new(code, "no")), true);
            assert_eq!(class(&answer), expected, "{code:?}");
        }
    }

    #[test]
    fn only_words_about_a_messages_size_ask_for_less() {
        for (message, expected) in [
            // grpc-go.
            ("grpc: received message larger than max (5308389 vs. 4194304)", "too large"),
            ("grpc: received message after decompression larger than max (5308389 vs. 4194304)", "too large"),
            ("grpc: received message after decompression larger than max 4194304", "too large"),
            // C-core, and grpc-js.
            ("Received message larger than max (5308389 vs. 4194304)", "too large"),
            ("SERVER: Received message larger than max (5308389 vs. 4194304)", "too large"),
            ("Received message that decompresses to a size larger than 4194304", "too large"),
            // grpc-java.
            ("gRPC message exceeds maximum size 4194304: 5118829", "too large"),
            ("Decompressed gRPC message exceeds maximum size 4194304", "too large"),
            // grpc-dotnet, connect-go.
            ("Received message exceeds the maximum configured message size.", "too large"),
            ("message size 5308389 is larger than configured max 4194304", "too large"),
            // tonic.
            ("Error decompressing: size limit, of 4194304 bytes, exceeded while decompressing message", "too large"),
            ("Error, decoded message length too large: found 5308389 bytes, the limit is: 4194304 bytes", "too large"),
            // Pressure.
            ("data refused due to high memory usage", "retry"),
            ("quota exceeded: 4194304 bytes a second", "retry"),
            ("Too many active requests for the connection", "retry"),
            ("sending queue is full", "retry"),
            ("", "retry"),
        ] {
            for code in [Code::ResourceExhausted, Code::OutOfRange] {
                let answer = of_grpc(Err(Status::new(code, message)), true);
                assert_eq!(class(&answer), expected, "{code:?}: {message}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_of_an_answer_is_no_verdict() {
        let unread = "Error, decoded message length too large: found 5308389 bytes, the limit is: 4194304 bytes";
        for code in [Code::OutOfRange, Code::ResourceExhausted, Code::InvalidArgument] {
            let Answer::Retry { message, .. } = of_grpc(Err(Status::new(code, unread)), false) else {
                panic!("{code:?} is tonic's own");
            };
            assert!(
                message.starts_with("no answer: the receiver's answer cannot be read: Error, decoded"),
                "{message}"
            );
        }
    }

    #[test]
    fn retry_info_says_when_and_makes_exhaustion_passing() {
        for code in [Code::Unavailable, Code::ResourceExhausted] {
            for delay in [None, Some(Duration::from_millis(1500))] {
                let status = Status::with_error_details(code, "later", ErrorDetails::with_retry_info(delay));
                let Answer::Retry { after, message } = of_grpc(Err(status), true) else {
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
            let Answer::Retry { message, .. } = of_grpc(Err(status), true) else {
                panic!("a broken connection is to be tried again");
            };
            assert_eq!(message, "no answer: connection reset");
        }
    }

    #[test]
    fn grpc_partial_success_counts() {
        assert_eq!(of_grpc(Ok(partial(3, "too old")), false), taken(3, Some("too old")));
        assert_eq!(of_grpc(Ok(partial(-3, "")), false), taken(0, None));
        assert_eq!(of_grpc(Ok(ExportLogsServiceResponse::default()), false), taken(0, None));
    }
}
