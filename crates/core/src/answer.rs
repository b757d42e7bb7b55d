//! A receiver's answer to a batch, and the part of its words that may be shown.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::entry::Entry;
use crate::printable;
use crate::record::country;
use crate::redact::{self, QuotePosition};

/// The message of an answer that claims success in a form that OTLP does not have.
pub const NO_OTLP_RESPONSE: &str = "a body that is no OTLP response";

/// The words, in lower case, with which nginx, Go's net/http, Tomcat and Apache answer a request without TLS on a port
/// for TLS.
const ASKS_FOR_TLS: &[&str] =
    &["request was sent to https port", "http request to an https", "requires tls", "plain http to an ssl-enabled"];

/// A receiver's answer to one batch. Each variant has another consequence in the delivery task. The rules are those of
/// the OTLP specification (<https://opentelemetry.io/docs/specs/otlp/>, "Failures" and "Retryable Response Codes").
///
/// A message begins with the answer's status, in the exporter's words. The receiver's own words follow after a colon or
/// in parentheses. The message of an acceptance holds only the receiver's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The receiver has accepted the batch. `rejected` of its records were refused and must not be sent again (partial
    /// success).
    Accepted {
        /// The number of records that the receiver refused.
        rejected: u64,
        /// The receiver's reason, or a warning.
        message: Option<String>,
    },
    /// The receiver cannot accept the batch now, or gave no answer. The same batch is sent again, not before `after` if
    /// the receiver named a time.
    Retry {
        /// The wait from RetryInfo or Retry-After.
        after: Option<Duration>,
        /// The failure, for the log.
        message: String,
    },
    /// The batch is too large for the receiver. A smaller one may be accepted.
    TooLarge {
        /// The receiver's reason.
        message: String,
    },
    /// The receiver calls the data invalid. At least one record is the cause.
    Invalid {
        /// The receiver's reason.
        message: String,
    },
    /// No change of the batch can cure this failure: wrong credentials, a wrong path, a web page in place of an answer.
    /// A person must act.
    Refused {
        /// The receiver's reason.
        message: String,
    },
}

impl Answer {
    /// The remedy, in the imperative, for the log and `/status`; None where nothing is to be done.
    pub fn remedy(&self) -> Option<&'static str> {
        /// The first word of a message: an HTTP status, or a gRPC code.
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
                code if matches!(self, Self::TooLarge { .. }) || code == Some("413") => {
                    "raise the receiver's limit for a request's size, and that of proxies before it"
                }
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

    /// The answer with a message that may be shown in the log, in `/status` and in the quarantine. It is one line of at
    /// most [`MESSAGE_CHARS_MAX`] characters. It holds the receiver's own words only if they quote none of the `sent`
    /// entries; otherwise the status alone.
    #[must_use]
    pub fn redacted<'a>(mut self, sent: impl IntoIterator<Item = &'a Entry>) -> Self {
        match &mut self {
            Self::Accepted { message: None, .. } => {}
            Self::Accepted { message: Some(message), .. } => *message = shown("", message, sent),
            Self::Retry { message, .. }
            | Self::TooLarge { message }
            | Self::Invalid { message }
            | Self::Refused { message } => {
                let (status, said) = message.split_at(end_of_status(message));
                *message = shown(status, said, sent);
            }
        }
        self
    }
}

/// The longest message that is shown, in characters, so that it fits a line of the log.
pub const MESSAGE_CHARS_MAX: usize = 300;

/// The longest message that a sink hands over, in characters. It is longer than the shown part, because a value that
/// begins in the shown part must be searched for as a whole, however it is encoded.
pub const MESSAGE_CHARS_KEPT: usize = 2048;

/// The beginning of a message where no answer came. The rest comes from the exporter and its network libraries.
pub const NO_ANSWER: &str = "no answer";

const WITHHELD: &str = "(text withheld: it quotes a record)";

/// The end of a message's status, in bytes. The text after a colon or in parentheses may be the receiver's.
fn end_of_status(message: &str) -> usize {
    [": ", " ("].into_iter().filter_map(|end| message.find(end)).min().unwrap_or(message.len())
}

/// The reason for which an entry is in quarantine, as it may be shown. It is one line of at most [`MESSAGE_CHARS_MAX`]
/// characters, without the receiver's words if they quote the entry.
pub fn shown_reason(reason: &str, entry: &Entry) -> String {
    let (status, said) = reason.split_at(end_of_status(reason));
    shown(status, said, [entry])
}

fn shown<'a>(status: &str, said: &str, sent: impl IntoIterator<Item = &'a Entry>) -> String {
    // Only the shown part is searched, and as much behind it as belongs to a value that begins in the shown part.
    let said: String = said.chars().take(MESSAGE_CHARS_KEPT).collect();
    let position = if status == NO_ANSWER { QuotePosition::Words } else { QuotePosition::Anywhere };
    if !said.is_empty() && quotes_any(&said, position, &sent.into_iter().collect::<Vec<_>>()) {
        return format!("{status} {WITHHELD}").trim_start().to_owned();
    }
    printable::one_line(&format!("{status}{said}"), MESSAGE_CHARS_MAX)
}

fn quotes_any(said: &str, position: QuotePosition, sent: &[&Entry]) -> bool {
    let country = |entry: &Entry| country::iso_code(entry.event.context.as_ref()?.country.as_deref()?);
    let codes: BTreeSet<&str> = sent.iter().filter_map(|entry| country(entry)).collect();
    redact::quotes(said, sent.iter().flat_map(|entry| entry.personal()), position)
        || codes.into_iter().any(|code| redact::holds_code(said, code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::full_entry;

    fn message(answer: Answer) -> String {
        match answer {
            Answer::Accepted { message, .. } => message.unwrap_or_default(),
            Answer::Retry { message, .. }
            | Answer::TooLarge { message }
            | Answer::Invalid { message }
            | Answer::Refused { message } => message,
        }
    }

    #[test]
    fn each_answer_has_the_remedy_of_its_status() {
        let retry = |message: &str| Answer::Retry { after: None, message: message.into() };
        let too_large = |message: &str| Answer::TooLarge { message: message.into() };
        let invalid = |message: &str| Answer::Invalid { message: message.into() };
        let refused = |message: &str| Answer::Refused { message: message.into() };
        for (answers, expected) in [
            (vec![retry("429 Too Many Requests"), retry("ResourceExhausted: full")], "raise what the receiver allows"),
            (vec![retry("503 Service Unavailable"), retry("no answer: timed out")], "start the receiver"),
            (
                vec![too_large("413 Payload Too Large"), too_large("OutOfRange: 4 MiB"), refused("413 Too Large: x")],
                "raise the receiver's limit",
            ),
            (
                vec![invalid("400 Bad Request"), invalid("422 Unprocessable: x"), invalid("InvalidArgument: x")],
                "compare what the receiver says",
            ),
            (
                ["401 Unauthorized", "403 Forbidden", "407 Proxy: x", "Unauthenticated: x", "PermissionDenied: x"]
                    .map(refused)
                    .to_vec(),
                "give the receiver the credentials",
            ),
            (["500 Error", "Internal: x", "Unknown: x"].map(refused).to_vec(), "look at the receiver's own log"),
            (vec![refused("404 Not Found"), refused("Unimplemented: x")], "check the endpoint's port and path"),
            (vec![refused(&format!("200 OK with {NO_OTLP_RESPONSE}: hello"))], "check that otlp.endpoint is"),
            (
                vec![refused("400 Bad Request: The plain HTTP request was sent to HTTPS port")],
                "begin otlp.endpoint with https://",
            ),
        ] {
            for answer in answers {
                let remedy = answer.remedy().unwrap();
                assert!(remedy.starts_with(expected), "{answer:?}: {remedy}");
            }
        }
        assert_eq!(Answer::Accepted { rejected: 1, message: Some("401".into()) }.remedy(), None);
    }

    #[test]
    fn of_a_text_that_quotes_a_record_the_status_is_left() {
        let (ours, said) = ("503 Service Unavailable", "no such label: alice");
        for (answer, expected) in [
            (Answer::Retry { after: None, message: format!("{ours}: {said}") }, "503 Service Unavailable "),
            (
                Answer::Refused { message: format!("200 OK with a body that is no OTLP response (alice): {said}") },
                "200 OK with a body that is no OTLP response ",
            ),
            (Answer::Invalid { message: format!("InvalidArgument: {said}") }, "InvalidArgument "),
            (Answer::TooLarge { message: "OutOfRange: seattle".into() }, "OutOfRange "),
            (Answer::Accepted { rejected: 1, message: Some("192.0.2.1 is blocked".into()) }, ""),
            (Answer::Retry { after: None, message: "no answer: h2 (b\"alice\")".into() }, "no answer "),
            (Answer::Refused { message: "403 Forbidden: US is blocked".into() }, "403 Forbidden "),
        ] {
            assert_eq!(message(answer.redacted([&full_entry()])), format!("{expected}{WITHHELD}"));
        }
    }

    #[test]
    fn a_text_that_quotes_nothing_is_shown_on_one_line() {
        let mut entry = full_entry();
        for (said, expected) in [
            (
                "503 Service Unavailable: the queue\nis full\u{202e}",
                "503 Service Unavailable: the queue is full\u{fffd}",
            ),
            ("no answer: timed out after 10s", "no answer: timed out after 10s"),
            ("503 Service Unavailable", "503 Service Unavailable"),
        ] {
            let answer = Answer::Retry { after: None, message: said.into() };
            assert_eq!(message(answer.redacted([&entry])), expected);
        }
        // The status is the exporter's own text, whatever a user is called. So are a library's words about a
        // connection.
        entry.user = std::sync::Arc::new(crate::entry::UserIdentity { username: "a".into(), sub: None });
        for said in ["503 Service Unavailable", "no answer: connection refused"] {
            let answer = Answer::Retry { after: None, message: said.into() };
            assert_eq!(message(answer.redacted([&entry])), said);
        }
    }

    #[test]
    fn what_is_cut_off_is_withheld_too_where_its_beginning_is_shown() {
        let padding = "x".repeat(MESSAGE_CHARS_MAX - "InvalidArgument: ".len() - 4);
        let answer = Answer::Invalid { message: format!("InvalidArgument: {padding} alice{}", "y".repeat(1_000_000)) };
        assert_eq!(message(answer.redacted([&full_entry()])), format!("InvalidArgument {WITHHELD}"));
        let answer = Answer::Invalid { message: format!("InvalidArgument: {padding}{}", "y".repeat(1_000_000)) };
        assert_eq!(message(answer.redacted([&full_entry()])).chars().count(), MESSAGE_CHARS_MAX);
    }
}
