//! An event on the wire, and how it becomes the exporter's: the SDK's output, then the [`WireEvent`], then the
//! [`AuthEvent`]. Pure.
//!
//! A [`WireEvent`] has the API's own names and the values as they were sent: City "null" stays "null". The command
//! `events` shows it. The conversion to an [`AuthEvent`] interprets: empty texts become absent, and too long ones are
//! cut. Only this file uses the SDK's event types.

use std::fmt;

use aws_sdk_cognitoidentityprovider::operation::admin_list_user_auth_events::AdminListUserAuthEventsOutput;
use aws_sdk_cognitoidentityprovider::primitives::DateTime;
use aws_sdk_cognitoidentityprovider::types as sdk;
use cognito_auth_core::event::{AuthEvent, Challenge, EventContext, EventFeedback, EventRisk, Facts, UnixMillis};
use cognito_auth_core::member::{self, TEXT_BYTES_MAX, place, text, word};
use serde::{Serialize, Serializer};

/// One answer of AdminListUserAuthEvents. Like every Debug here, its Debug shows no personal data.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct WirePage {
    /// `AuthEvents`, in the order sent.
    pub events: Vec<WireEvent>,
    /// `NextToken`; None if it is empty.
    pub next: Option<String>,
    /// The time at which the service answered, by its own clock: the end of the second that the Date header names.
    pub served: Option<UnixMillis>,
}

impl fmt::Debug for WirePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WirePage({} events)", self.events.len())
    }
}

/// `AuthEventType`. Its serialized form is the API's documented one, with times in RFC 3339. Absent members are left
/// out.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "the members are the API's own")]
pub struct WireEvent {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339")]
    pub creation_date: Option<UnixMillis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_response: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_risk: Option<WireRisk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge_responses: Option<Vec<WireChallenge>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_context_data: Option<WireContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_feedback: Option<WireFeedback>,
}

impl fmt::Debug for WireEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WireEvent(personal data)")
    }
}

/// `EventRiskType`.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "the members are the API's own")]
pub struct WireRisk {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk_decision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk_level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compromised_credentials_detected: Option<bool>,
}

/// `ChallengeResponseType`.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "the members are the API's own")]
pub struct WireChallenge {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge_response: Option<String>,
}

/// `EventContextDataType`.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "the members are the API's own")]
pub struct WireContext {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
}

/// `EventFeedbackType`.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "the members are the API's own")]
pub struct WireFeedback {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feedback_value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339")]
    pub feedback_date: Option<UnixMillis>,
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the member")]
fn rfc3339<S: Serializer>(time: &Option<UnixMillis>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

/// Converts the SDK's time, which is truncated to nanoseconds, to the millisecond that the service sent.
pub(super) fn millis(time: DateTime) -> UnixMillis {
    UnixMillis::from_secs_and_nanos(time.secs(), time.subsec_nanos())
}

/// Gives an enum's word as the service sent it. The SDK keeps unknown words.
macro_rules! word {
    ($member:expr) => {
        $member.map(|word| word.as_str().to_owned())
    };
}

impl From<AdminListUserAuthEventsOutput> for WirePage {
    fn from(answer: AdminListUserAuthEventsOutput) -> Self {
        Self {
            events: answer.auth_events.unwrap_or_default().into_iter().map(WireEvent::from).collect(),
            next: answer.next_token.filter(|token| !token.is_empty()),
            served: None,
        }
    }
}

impl From<sdk::AuthEventType> for WireEvent {
    fn from(event: sdk::AuthEventType) -> Self {
        Self {
            event_id: event.event_id,
            event_type: word!(event.event_type),
            creation_date: event.creation_date.map(millis),
            event_response: word!(event.event_response),
            event_risk: event.event_risk.map(|risk| WireRisk {
                risk_decision: word!(risk.risk_decision),
                risk_level: word!(risk.risk_level),
                compromised_credentials_detected: risk.compromised_credentials_detected,
            }),
            challenge_responses: event.challenge_responses.map(|challenges| {
                challenges
                    .into_iter()
                    .map(|challenge| WireChallenge {
                        challenge_name: word!(challenge.challenge_name),
                        challenge_response: word!(challenge.challenge_response),
                    })
                    .collect()
            }),
            event_context_data: event.event_context_data.map(|context| WireContext {
                ip_address: context.ip_address,
                device_name: context.device_name,
                timezone: context.timezone,
                city: context.city,
                country: context.country,
            }),
            event_feedback: event.event_feedback.map(|feedback| WireFeedback {
                feedback_value: Some(feedback.feedback_value.as_str().to_owned()),
                // The SDK sets an empty provider if none was sent.
                provider: Some(feedback.provider).filter(|provider| !provider.is_empty()),
                feedback_date: feedback.feedback_date.map(millis),
            }),
        }
    }
}

/// Returns whether an event exceeds a limit, so that part of it is cut off.
pub(super) fn exceeds(event: &WireEvent) -> bool {
    let challenges = event.challenge_responses.as_deref().unwrap_or_default();
    let context = event.event_context_data.iter();
    let context = context.flat_map(|it| [&it.ip_address, &it.device_name, &it.timezone, &it.city, &it.country]);
    let risk = event.event_risk.iter().flat_map(|it| [&it.risk_decision, &it.risk_level]);
    let feedback = event.event_feedback.iter().flat_map(|it| [&it.feedback_value, &it.provider]);
    let kept = challenges.iter().take(Facts::CHALLENGES_MAX);
    let kept = kept.flat_map(|it| [&it.challenge_name, &it.challenge_response]);
    let own = [&event.event_id, &event.event_type, &event.event_response].into_iter();
    let mut texts = own.chain(context).chain(risk).chain(feedback).chain(kept).flatten();
    challenges.len() > Facts::CHALLENGES_MAX || texts.any(|text| text.len() > TEXT_BYTES_MAX)
}

impl From<WireEvent> for AuthEvent {
    fn from(event: WireEvent) -> Self {
        Self {
            id: member::event_id(event.event_id),
            event_type: word(event.event_type),
            creation_date: member::creation_date(event.creation_date),
            response: word(event.event_response),
            risk: event.event_risk.map(risk),
            challenges: event
                .challenge_responses
                .into_iter()
                .flatten()
                .take(Facts::CHALLENGES_MAX)
                .map(|challenge| Challenge {
                    name: word(challenge.challenge_name),
                    response: word(challenge.challenge_response),
                })
                .collect(),
            context: event.event_context_data.map(context),
            feedback: event.event_feedback.map(feedback),
        }
    }
}

fn risk(risk: WireRisk) -> EventRisk {
    EventRisk {
        decision: word(risk.risk_decision),
        level: word(risk.risk_level),
        compromised_credentials: risk.compromised_credentials_detected,
    }
}

fn context(context: WireContext) -> EventContext {
    EventContext {
        ip_address: place(context.ip_address),
        device_name: place(context.device_name),
        timezone: place(context.timezone),
        city: place(context.city),
        country: place(context.country),
    }
}

fn feedback(feedback: WireFeedback) -> EventFeedback {
    EventFeedback {
        value: word(feedback.feedback_value),
        provider: text(feedback.provider),
        date: feedback.feedback_date,
    }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::event::{EventResponse, EventType, Word};

    use super::*;

    #[test]
    fn an_event_is_shown_in_the_apis_names_and_only_with_what_was_sent() {
        let event = sdk::AuthEventType::builder()
            .event_id("768d375c-ee6c-435e-a005-25c4981565c3")
            .event_type("SignInAgain".into())
            .creation_date(DateTime::from_secs_f64(1_723_136_049.929))
            .event_risk(sdk::EventRiskType::builder().compromised_credentials_detected(false).build())
            .set_challenge_responses(Some(vec![]))
            .event_context_data(sdk::EventContextDataType::builder().city("null").ip_address("192.0.2.1").build())
            .event_feedback(
                sdk::EventFeedbackType::builder()
                    .feedback_value("Valid".into())
                    .provider("")
                    .feedback_date(DateTime::from_secs(1_723_136_050))
                    .build()
                    .unwrap(),
            )
            .build();
        assert_eq!(
            serde_json::to_string(&WireEvent::from(event)).unwrap(),
            r#"{"EventId":"768d375c-ee6c-435e-a005-25c4981565c3","EventType":"SignInAgain","#.to_owned()
                + r#""CreationDate":"2024-08-08T16:54:09.929Z","EventRisk":{"CompromisedCredentialsDetected":false},"#
                + r#""ChallengeResponses":[],"EventContextData":{"IpAddress":"192.0.2.1","City":"null"},"#
                + r#""EventFeedback":{"FeedbackValue":"Valid","FeedbackDate":"2024-08-08T16:54:10.000Z"}}"#
        );
        assert_eq!(serde_json::to_string(&WireEvent::default()).unwrap(), "{}");
    }

    #[test]
    fn an_empty_token_is_the_end() {
        let page = |token: Option<&str>| {
            AdminListUserAuthEventsOutput::builder().set_next_token(token.map(str::to_owned)).build()
        };
        assert_eq!(WirePage::from(page(Some(""))).next, None);
        assert_eq!(WirePage::from(page(Some("t"))).next.as_deref(), Some("t"));
    }

    #[test]
    fn what_says_nothing_is_absent_and_an_unknown_word_is_kept() {
        let some = |text: &str| Some(text.to_owned());
        let event = AuthEvent::from(WireEvent {
            event_id: some(""),
            event_type: some("SignIn"),
            event_response: some("Maybe"),
            event_context_data: Some(WireContext {
                city: some("null"),
                country: some(""),
                device_name: some("Other, Other"),
                ..WireContext::default()
            }),
            ..WireEvent::default()
        });
        assert_eq!(event.id, None);
        assert_eq!(event.event_type, Some(Word::Known(EventType::SignIn)));
        assert_eq!(event.response, Some(Word::<EventResponse>::Other("Maybe".into())));
        let context = event.context.unwrap();
        assert_eq!((context.city, context.country), (None, None));
        assert_eq!(context.device_name.as_deref(), Some("Other, Other"));
        assert_eq!((event.risk, event.feedback), (None, None));
    }

    #[test]
    fn what_is_more_than_anybody_needs_is_cut_and_known_to_be() {
        let long = |bytes| Some("ü".repeat(bytes / 2));
        let with_device = |device_name| WireEvent {
            event_id: Some("id".into()),
            event_context_data: Some(WireContext { device_name, ..WireContext::default() }),
            ..WireEvent::default()
        };
        for (bytes, kept) in [(TEXT_BYTES_MAX, TEXT_BYTES_MAX), (TEXT_BYTES_MAX + 2, TEXT_BYTES_MAX)] {
            let event = with_device(long(bytes));
            assert_eq!(exceeds(&event), bytes > kept);
            let event = AuthEvent::from(event);
            assert_eq!(event.context.unwrap().device_name.unwrap().len(), kept);
        }
        // No character is cut in half.
        let event = AuthEvent::from(with_device(Some("x".to_owned() + &"ü".repeat(TEXT_BYTES_MAX))));
        assert_eq!(event.context.unwrap().device_name.unwrap().len(), TEXT_BYTES_MAX - 1);
        // Half an id could equal another event's.
        let event = WireEvent { event_id: long(TEXT_BYTES_MAX + 2), ..WireEvent::default() };
        assert!(exceeds(&event) && AuthEvent::from(event).id.is_none());

        let challenged = |count| WireEvent {
            challenge_responses: Some(vec![WireChallenge::default(); count]),
            ..WireEvent::default()
        };
        assert!(!exceeds(&challenged(16)) && exceeds(&challenged(17)));
        assert_eq!(AuthEvent::from(challenged(100_000)).challenges.len(), 16);
    }

    #[test]
    fn a_time_that_cannot_be_meant_is_absent() {
        let created = |millis| {
            AuthEvent::from(WireEvent { creation_date: Some(UnixMillis(millis)), ..WireEvent::default() }).creation_date
        };
        assert_eq!(created(1_723_136_049_929), Some(UnixMillis(1_723_136_049_929)));
        assert_eq!(created(1_723_136_049_929_000), None);
        assert_eq!(created(i64::MAX), None);
    }
}
