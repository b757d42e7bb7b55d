//! The record that the export writes for an event.
//!
//! It has the form of AWS's published sample: every scalar is a text, an absent member is an empty text, and the date
//! has whole seconds. [`make_odd`] gives it another form.

use cognito_auth_core::event::{AuthEvent, RiskDecision, UnixMillis, Vocabulary, Word};
use fastrand::Rng;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

/// An event on its way into the export.
#[derive(Clone, Debug)]
pub struct ExportRecord<'a> {
    /// The user pool.
    pub pool_id: &'a str,
    /// The username of the event's user.
    pub username: &'a str,
    /// The user's `sub`.
    pub sub: &'a str,
    /// The event.
    pub event: &'a AuthEvent,
    /// `eventSource`: "USER_ACTIVITY" in AWS's documentation, "USER_AUTH_EVENTS" in logs of real pools.
    pub source: &'a str,
    /// When Cognito sends the record.
    pub sent: UnixMillis,
}

impl ExportRecord<'_> {
    /// The record's JSON.
    pub fn to_json(&self) -> Value {
        let event = self.event;
        let risk = event.risk.clone().unwrap_or_default();
        let context = event.context.clone().unwrap_or_default();
        let feedback = event.feedback.as_ref();
        let decision = match &risk.decision {
            Some(Word::Known(RiskDecision::NoRisk)) => "PASS",
            decision => word(decision.as_ref()),
        };
        let challenges = event.challenges.iter().map(|challenge| {
            json!({
                "challengeName": word(challenge.name.as_ref()),
                "challengeResponse": word(challenge.response.as_ref()),
            })
        });
        json!({
            "eventTimestamp": self.sent.0.to_string(),
            "eventSource": self.source,
            "logLevel": "INFO",
            "message": {
                "version": "1",
                "eventId": event.id.as_deref().unwrap_or_default(),
                "eventType": word(event.event_type.as_ref()),
                "userSub": self.sub,
                "userName": self.username,
                "userPoolId": self.pool_id,
                "clientId": "1example23456789",
                "creationDate": event.creation_date.map(date).unwrap_or_default(),
                "eventResponse": word(event.response.as_ref()),
                "riskLevel": word(risk.level.as_ref()),
                "riskDecision": decision,
                "challenges": challenges.collect::<Vec<_>>(),
                "deviceName": context.device_name.unwrap_or_default(),
                "ipAddress": context.ip_address.unwrap_or_default(),
                "requestId": "",
                "idpName": "",
                "compromisedCredentialDetected": risk.compromised_credentials.unwrap_or(false).to_string(),
                "city": context.city.unwrap_or_default(),
                "country": context.country.unwrap_or_default(),
                "eventFeedbackValue": word(feedback.and_then(|feedback| feedback.value.as_ref())),
                "eventFeedbackDate": feedback.and_then(|feedback| feedback.date).map(date).unwrap_or_default(),
                "eventFeedbackProvider": feedback.and_then(|feedback| feedback.provider.as_deref()).unwrap_or_default(),
                "hasContextData": event.context.is_some().to_string(),
            },
            "logSourceId": {"userPoolId": self.pool_id},
        })
    }
}

/// Changes a record to a form that "some fields might be null" and "subject to change" allow. It still tells the same
/// event. An absent member is null or left out, and flags and numbers are no texts. Challenges have the API's names,
/// one of the two pool ids may be missing, and one member is unknown.
pub(super) fn make_odd(record: &mut Value, random: &mut Rng) {
    if let Some(number) = record["eventTimestamp"].as_str().and_then(|text| text.parse::<i64>().ok()) {
        record["eventTimestamp"] = json!(number);
    }
    if random.bool() {
        record["logSourceId"] = Value::Null;
    }
    let Some(message) = record["message"].as_object_mut() else {
        return;
    };
    let odd: Map<String, Value> = std::mem::take(message)
        .into_iter()
        .filter_map(|(name, value)| odd_member(&name, value, random).map(|value| (name, value)))
        .collect();
    *message = odd;
    message.insert("unheardOf".to_owned(), json!({"of": [1]}));
}

/// A member in its odd form; None if it is left out.
fn odd_member(name: &str, value: Value, random: &mut Rng) -> Option<Value> {
    match (name, value) {
        ("challenges", Value::Array(challenges)) => Some(if challenges.is_empty() {
            Value::Null
        } else {
            challenges
                .iter()
                .map(|challenge| {
                    json!({
                        "ChallengeName": challenge["challengeName"],
                        "ChallengeResponse": challenge["challengeResponse"],
                    })
                })
                .collect()
        }),
        ("version", _) => Some(json!(1)),
        ("compromisedCredentialDetected" | "hasContextData", value) => Some(json!(value == "true")),
        (_, Value::String(text)) if text.is_empty() => random.bool().then_some(Value::Null),
        (_, value) => Some(value),
    }
}

fn word<V: Vocabulary>(word: Option<&Word<V>>) -> &str {
    word.map(Word::as_str).unwrap_or_default()
}

/// A date as the export writes it, such as `Wed Jul 17 17:25:55 UTC 2024`.
fn date(time: UnixMillis) -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] = format_description!(
        version = 2,
        "[weekday repr:short] [month repr:short] [day] [hour]:[minute]:[second] UTC [year]"
    );
    let date = OffsetDateTime::from_unix_timestamp(time.0.div_euclid(1000)).ok();
    date.and_then(|date| date.format(FORMAT).ok()).unwrap_or_default()
}
