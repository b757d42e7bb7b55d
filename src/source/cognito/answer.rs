//! Refuses an oversized or empty answer before the SDK reads it.
//!
//! The SDK reads a body whole and makes a value of each element, so 33 MB of `{},` would become gigabytes of events.
//! Here the body is measured while it arrives. An answer that exceeds a bound is refused whole, as if it had not
//! arrived. No cursor moves past its events, and the next poll asks for the same page again.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_sdk_cognitoidentityprovider::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextMut,
};
use aws_sdk_cognitoidentityprovider::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// The most bytes that an answer may have. A page of 60 events has about 27 KB. A page of 60 users with 50 attributes
/// of 2,048 characters each would have 6 MB. Sixteen calls in flight (`poll.concurrency`) with the largest answer must
/// fit into memory.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// The most values (members, elements) that an answer of Cognito may have. An object and the comma behind it count as
/// two. A page of 60 events has at most 4,200, and a page of 60 users with 72 attributes each has 14,000. In the SDK's
/// shapes a value takes up to a kilobyte.
const ANSWER_VALUES_MAX: usize = 32_768;

/// The most values that a page of a log group may have. The largest, of 10,000 log events, has 60,000. In the SDK's
/// shapes a log event takes 120 bytes beside its texts.
const LOG_PAGE_VALUES_MAX: usize = 131_072;

/// The most levels of nesting that an answer may have. Cognito's answers have at most 5.
const ANSWER_DEPTH_MAX: usize = 64;

/// Bytes up to which an answer with an announced length is not measured: it cannot hold too many values.
const SMALL_BYTES: u64 = 64 << 10;

const _: () = assert!(SMALL_BYTES / 2 <= ANSWER_VALUES_MAX as u64, "a value and its separator take two bytes");

/// Refuses an answer that does not end, that holds too much, or that has no body. The SDK would read an empty body as
/// an empty page without a token, which means the end of a history or of a log group.
#[derive(Debug)]
pub(super) struct SoundAnswer(pub(super) AnswerBound);

/// The service whose answers are bounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum AnswerBound {
    /// Cognito.
    #[default]
    Cognito,
    /// CloudWatch Logs, whose pages hold more values.
    LogPage,
}

impl AnswerBound {
    fn values_max(self) -> usize {
        match self {
            Self::Cognito => ANSWER_VALUES_MAX,
            Self::LogPage => LOG_PAGE_VALUES_MAX,
        }
    }
}

#[dyn_dispatch_hint]
impl Intercept for SoundAnswer {
    fn name(&self) -> &'static str {
        "SoundAnswer"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response_mut().body_mut();
        if body.content_length().is_none_or(|bytes| bytes > SMALL_BYTES) {
            let whole = std::mem::replace(body, SdkBody::taken());
            let scan = JsonScan { bound: self.0, ..JsonScan::default() };
            *body = SdkBody::from_body_1_x(MeasuredBody { whole, scan });
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        match response.body().bytes() {
            Some([]) if response.status().is_success() => Err("an answer without a body".into()),
            _ => Ok(()),
        }
    }
}

/// The bound that an answer exceeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Excess {
    Bytes,
    Values(usize),
    Depth,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes => write!(f, "answer exceeds {} MiB", ANSWER_BYTES_MAX >> 20),
            Self::Values(max) => write!(f, "answer exceeds {max} values"),
            Self::Depth => write!(f, "answer exceeds a depth of {ANSWER_DEPTH_MAX}"),
        }
    }
}

impl std::error::Error for Excess {}

/// A body that fails where it exceeds a bound.
struct MeasuredBody {
    whole: SdkBody,
    scan: JsonScan,
}

impl Body for MeasuredBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.whole).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(excess) = self.scan.read(data)
        {
            return Poll::Ready(Some(Err(excess.into())));
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.whole)
    }
}

/// Measures JSON that arrives in pieces, without keeping any of it. It measures other text, too: a parser never makes
/// more values of the pieces than were counted.
#[derive(Clone, Default, Debug)]
struct JsonScan {
    bound: AnswerBound,
    bytes: usize,
    values: usize,
    depth: usize,
    in_text: bool,
    is_escaped: bool,
}

impl JsonScan {
    fn read(&mut self, piece: &[u8]) -> Result<(), Excess> {
        self.bytes = self.bytes.saturating_add(piece.len());
        if self.bytes > ANSWER_BYTES_MAX {
            return Err(Excess::Bytes);
        }
        for byte in piece {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_text => self.is_escaped = true,
                b'"' => self.in_text = !self.in_text,
                _ if self.in_text => {}
                b'{' | b'[' => {
                    self.depth += 1;
                    self.values += 1;
                    if self.depth > ANSWER_DEPTH_MAX {
                        return Err(Excess::Depth);
                    }
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b',' => self.values += 1,
                _ => {}
            }
        }
        let values_max = self.bound.values_max();
        if self.values > values_max { Err(Excess::Values(values_max)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scanned(pieces: &[&[u8]]) -> (Result<(), Excess>, JsonScan) {
        let mut scan = JsonScan::default();
        let result = pieces.iter().try_for_each(|piece| scan.read(piece));
        (result, scan)
    }

    #[test]
    fn what_cognito_may_send_is_within_the_bounds() {
        let text = format!("\"{}\"", "\u{fc}\\\"{[,".repeat(5_000));
        let challenges = vec![r#"{"ChallengeName":"Password","ChallengeResponse":"Success"}"#; 16].join(",");
        let event = format!(
            r#"{{"EventId":{text},"EventType":{text},"CreationDate":1.7E9,"EventResponse":{text},
            "EventRisk":{{"RiskDecision":{text},"RiskLevel":{text},"CompromisedCredentialsDetected":false}},
            "ChallengeResponses":[{challenges}],"EventContextData":{{"IpAddress":{text},"DeviceName":{text},
            "Timezone":{text},"City":{text},"Country":{text}}},
            "EventFeedback":{{"FeedbackValue":{text},"Provider":{text},"FeedbackDate":1.7E9}}}}"#
        );
        let page = format!(r#"{{"AuthEvents":[{}],"NextToken":{text}}}"#, vec![event; 60].join(","));
        let (result, scan) = scanned(&[page.as_bytes()]);
        assert_eq!(result, Ok(()));
        assert!(scan.values < 4_200, "{}", scan.values);

        let attributes = vec![r#"{"Name":"custom:shoe_size","Value":"38"}"#; 72].join(",");
        let user = format!(
            r#"{{"Username":"ada","Attributes":[{attributes}],"UserCreateDate":1,"UserLastModifiedDate":1,
            "Enabled":true,"UserStatus":"CONFIRMED","MFAOptions":[{{"DeliveryMedium":"SMS","AttributeName":"p"}}]}}"#
        );
        let page = format!(r#"{{"Users":[{}],"PaginationToken":"t"}}"#, vec![user; 60].join(","));
        let (result, scan) = scanned(&[page.as_bytes()]);
        assert_eq!(result, Ok(()));
        assert!(scan.values < 14_000, "{}", scan.values);
    }

    #[test]
    fn what_exceeds_a_bound_is_known_by_it_before_it_is_whole() {
        let events = "{},".repeat(20_000);
        let challenges = r#"{"AuthEvents":[{"ChallengeResponses":["#.to_owned() + &"{},".repeat(20_000);
        for (piece, excess) in [
            (events.as_str(), Excess::Values(ANSWER_VALUES_MAX)),
            (challenges.as_str(), Excess::Values(ANSWER_VALUES_MAX)),
            (&"[".repeat(100), Excess::Depth),
            (&"{\"a\":".repeat(100), Excess::Depth),
        ] {
            assert_eq!(scanned(&[piece.as_bytes()]).0, Err(excess));
        }
        let piece = vec![b'x'; 1 << 20];
        let mut scan = JsonScan::default();
        assert_eq!((0..32).try_for_each(|_| scan.read(&piece)), Ok(()));
        assert_eq!(scan.read(b"x"), Err(Excess::Bytes));
    }

    proptest! {
        #[test]
        fn how_an_answer_is_cut_into_pieces_changes_nothing(
            text in r#"[\[\]{}",:\\a1 ]{0,60}"#,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = vec![];
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                pieces.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            let (whole, cut) = (scanned(&[text.as_bytes()]), scanned(&pieces));
            prop_assert_eq!(whole.0, cut.0);
            prop_assert_eq!(format!("{:?}", whole.1), format!("{:?}", cut.1));
        }

        #[test]
        fn a_parser_finds_no_more_values_than_were_counted(json in any_json()) {
            let (_, scan) = scanned(&[json.to_string().as_bytes()]);
            prop_assert!(values(&json) <= scan.values + 1, "{json}");
        }
    }

    fn values(json: &serde_json::Value) -> usize {
        1 + match json {
            serde_json::Value::Array(items) => items.iter().map(values).sum(),
            serde_json::Value::Object(members) => members.values().map(values).sum(),
            _ => 0,
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![Just(serde_json::Value::Null), ".{0,6}".prop_map(serde_json::Value::from)];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..5)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }
}
