//! Reads one record: the members of a JSON object become an event.

use std::borrow::Cow;

use super::json::Json;
use super::{ExportDetails, ExportedEvent, UnreadableReason, date};
use crate::event::{AuthEvent, Challenge, EventContext, EventFeedback, EventRisk, Facts, RiskDecision, Word};
use crate::member::{self, place, text, word};

/// The names of the event source: the documentation's, and the one in logs of real pools.
const SOURCES: [&str; 2] = ["USER_ACTIVITY", "USER_AUTH_EVENTS"];

/// The export's word for NoRisk.
const PASS: &str = "PASS";

/// The most characters of a username and of a user pool id, by the API's model.
const USERNAME_CHARS_MAX: usize = 128;
const POOL_ID_CHARS_MAX: usize = 55;

/// Reads a record. None if it is another event source's.
///
/// # Errors
/// The record does not name its pool, user and event. The pool's id comes with the reason, where it is known.
pub(super) fn read(record: &Json<'_>) -> Result<Option<ExportedEvent>, (Option<String>, UnreadableReason)> {
    let Some(message) = record.get("message").filter(|message| message.is_object()) else {
        return if is_of_another_source(record) {
            Ok(None)
        } else {
            Err((pool_id(record, &Json::Null).ok(), UnreadableReason::Absent("message")))
        };
    };
    // AWS may rename the source again. A record that has an event is ours, whatever its source is called.
    let has_event = scalar(message, "eventId").is_some() && scalar(message, "eventType").is_some();
    if is_of_another_source(record) && !has_event {
        return Ok(None);
    }
    let pool_id = pool_id(record, message).map_err(|reason| (None, reason))?;
    match named_event(message) {
        Ok((username, event, date_in_seconds)) => Ok(Some(ExportedEvent {
            pool_id,
            username,
            sub: text(scalar(message, "userSub")),
            event,
            date_in_seconds,
            details: ExportDetails {
                client_id: text(scalar(message, "clientId")),
                request_id: text(scalar(message, "requestId")),
                idp_name: text(scalar(message, "idpName")),
            },
        })),
        Err(reason) => Err((Some(pool_id), reason)),
    }
}

fn is_of_another_source(record: &Json<'_>) -> bool {
    scalar(record, "eventSource").is_some_and(|source| !SOURCES.contains(&&*source))
}

/// The user pool of a record, which names it in two places.
fn pool_id(record: &Json<'_>, message: &Json<'_>) -> Result<String, UnreadableReason> {
    let outer = record.get("logSourceId").and_then(|source| scalar(source, "userPoolId"));
    let pool_id = match (scalar(message, "userPoolId"), outer) {
        (Some(inner), Some(outer)) if inner != outer => return Err(UnreadableReason::TwoPools),
        (Some(pool_id), _) | (None, Some(pool_id)) => pool_id.into_owned(),
        (None, None) => return Err(UnreadableReason::Absent("userPoolId")),
    };
    if is_pool_id(&pool_id) { Ok(pool_id) } else { Err(UnreadableReason::NotValid("userPoolId")) }
}

/// Whether a text is a user pool id: `[\w-]+_[0-9a-zA-Z]+`, at most 55 characters (the API's model).
fn is_pool_id(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    text.len() <= POOL_ID_CHARS_MAX
        && text.rsplit_once('_').is_some_and(|(region, name)| {
            !region.is_empty()
                && !name.is_empty()
                && region.bytes().all(is_word)
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
}

/// The user's name, the event, and whether its date has whole seconds only.
fn named_event(message: &Json<'_>) -> Result<(String, AuthEvent, bool), UnreadableReason> {
    let username = scalar(message, "userName").ok_or(UnreadableReason::Absent("userName"))?;
    if username.chars().nth(USERNAME_CHARS_MAX).is_some() || username.chars().any(char::is_whitespace) {
        return Err(UnreadableReason::NotValid("userName"));
    }
    let username = username.into_owned();
    let id = scalar(message, "eventId").map(Cow::into_owned).ok_or(UnreadableReason::Absent("eventId"))?;
    let id = member::event_id(Some(id)).ok_or(UnreadableReason::NotValid("eventId"))?;
    let date = scalar(message, "creationDate").and_then(|text| date::parse(&text));
    let event = AuthEvent {
        id: Some(id),
        event_type: word(scalar(message, "eventType")),
        creation_date: member::creation_date(date.as_ref().map(|date| date.time)),
        response: word(scalar(message, "eventResponse")),
        risk: risk(message),
        challenges: challenges(message),
        context: context(message),
        feedback: feedback(message),
    };
    Ok((username, event, date.is_some_and(|date| date.in_seconds)))
}

fn risk(message: &Json<'_>) -> Option<EventRisk> {
    let decision = match scalar(message, "riskDecision") {
        Some(decision) if decision == PASS => Some(Word::Known(RiskDecision::NoRisk)),
        decision => word(decision),
    };
    let risk = EventRisk {
        decision,
        level: word(scalar(message, "riskLevel")),
        compromised_credentials: scalar(message, "compromisedCredentialDetected").and_then(|text| text.parse().ok()),
    };
    (risk != EventRisk::default()).then_some(risk)
}

/// The challenges. The names of their members are unpublished: the API's are taken, in both ways of writing.
fn challenges(message: &Json<'_>) -> Vec<Challenge> {
    let challenges = message.get("challenges").and_then(Json::as_array).unwrap_or_default();
    challenges
        .iter()
        .take(Facts::CHALLENGES_MAX)
        .map(|challenge| Challenge {
            name: word(scalar(challenge, "challengeName").or_else(|| scalar(challenge, "ChallengeName"))),
            response: word(scalar(challenge, "challengeResponse").or_else(|| scalar(challenge, "ChallengeResponse"))),
        })
        .collect()
}

fn context(message: &Json<'_>) -> Option<EventContext> {
    let context = EventContext {
        ip_address: place(scalar(message, "ipAddress")),
        device_name: place(scalar(message, "deviceName")),
        timezone: None,
        city: place(scalar(message, "city")),
        country: place(scalar(message, "country")),
    };
    (context != EventContext::default()).then_some(context)
}

fn feedback(message: &Json<'_>) -> Option<EventFeedback> {
    let feedback = EventFeedback {
        value: word(scalar(message, "eventFeedbackValue")),
        provider: text(scalar(message, "eventFeedbackProvider")),
        date: scalar(message, "eventFeedbackDate").and_then(|text| date::parse(&text)).map(|date| date.time),
    };
    (feedback.value.is_some() || feedback.provider.is_some() || feedback.date.is_some()).then_some(feedback)
}

/// A scalar member as text. None if it is absent, null, empty, an object or an array.
fn scalar<'a>(object: &'a Json<'_>, name: &str) -> Option<Cow<'a, str>> {
    let text = match object.get(name)? {
        Json::Text(text) => Cow::Borrowed(&**text),
        Json::Number(number) => Cow::Owned(number.to_string()),
        Json::Flag(flag) => Cow::Borrowed(if *flag { "true" } else { "false" }),
        Json::Null | Json::Array(_) | Json::Object(_) => return None,
    };
    (!text.is_empty()).then_some(text)
}
