//! Events and times in the JSON of the wire.
//!
//! Clients must read what the service sends. So members have the order of the published samples, and times are Java's
//! `Double.toString` of seconds (`1.723136049929E9`).

use std::fmt::Write as _;

use cognito_auth_core::event::{
    AuthEvent, Challenge, EventContext, EventFeedback, EventRisk, UnixMillis, Vocabulary, Word,
};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Writes an event as the service does, without the members that are None.
pub fn event_json(event: &AuthEvent) -> String {
    // The published events have 300 to 450 bytes.
    let mut out = String::with_capacity(512);
    let mut members = Object::open(&mut out);
    let challenges = members.key("ChallengeResponses");
    list(challenges, &event.challenges, |out, challenge| {
        let mut members = Object::open(out);
        members.word("ChallengeName", challenge.name.as_ref());
        members.word("ChallengeResponse", challenge.response.as_ref());
        members.close();
    });
    members.time("CreationDate", event.creation_date);
    if let Some(context) = &event.context {
        let mut inner = Object::open(members.key("EventContextData"));
        inner.text("City", context.city.as_deref());
        inner.text("Country", context.country.as_deref());
        inner.text("DeviceName", context.device_name.as_deref());
        inner.text("IpAddress", context.ip_address.as_deref());
        inner.text("Timezone", context.timezone.as_deref());
        inner.close();
    }
    if let Some(feedback) = &event.feedback {
        let mut inner = Object::open(members.key("EventFeedback"));
        inner.time("FeedbackDate", feedback.date);
        inner.word("FeedbackValue", feedback.value.as_ref());
        inner.text("Provider", feedback.provider.as_deref());
        inner.close();
    }
    members.text("EventId", event.id.as_deref());
    members.word("EventResponse", event.response.as_ref());
    if let Some(risk) = &event.risk {
        let mut inner = Object::open(members.key("EventRisk"));
        inner.flag("CompromisedCredentialsDetected", risk.compromised_credentials);
        inner.word("RiskDecision", risk.decision.as_ref());
        inner.word("RiskLevel", risk.level.as_ref());
        inner.close();
    }
    members.word("EventType", event.event_type.as_ref());
    members.close();
    out
}

/// Reads an event as [`event_json`] or a published sample has it. A member of an undocumented type becomes None.
pub fn read_event(event: &Value) -> AuthEvent {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    AuthEvent {
        id: text(event, "EventId"),
        event_type: word(event, "EventType"),
        creation_date: event.get("CreationDate").and_then(read_time),
        response: word(event, "EventResponse"),
        risk: event.get("EventRisk").map(|risk| EventRisk {
            decision: word(risk, "RiskDecision"),
            level: word(risk, "RiskLevel"),
            compromised_credentials: risk.get("CompromisedCredentialsDetected").and_then(Value::as_bool),
        }),
        challenges: event
            .get("ChallengeResponses")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|challenge| Challenge {
                name: word(challenge, "ChallengeName"),
                response: word(challenge, "ChallengeResponse"),
            })
            .collect(),
        context: event.get("EventContextData").map(|context| EventContext {
            ip_address: text(context, "IpAddress"),
            device_name: text(context, "DeviceName"),
            timezone: text(context, "Timezone"),
            city: text(context, "City"),
            country: text(context, "Country"),
        }),
        feedback: event.get("EventFeedback").map(|feedback| EventFeedback {
            value: word(feedback, "FeedbackValue"),
            provider: text(feedback, "Provider"),
            date: feedback.get("FeedbackDate").and_then(read_time),
        }),
    }
}

/// Reads a time: seconds as on the wire, or RFC 3339 as in the output of the AWS CLI.
#[expect(clippy::cast_possible_truncation, reason = "the value is rounded, and the cast saturates")]
pub fn read_time(value: &Value) -> Option<UnixMillis> {
    match value {
        Value::Number(seconds) => Some(UnixMillis((seconds.as_f64()? * 1000.0).round() as i64)),
        Value::String(text) => parse_rfc3339(text),
        _ => None,
    }
}

/// A random UUIDv4, for EventIds, subs and request ids.
pub(super) fn uuid(random: &mut fastrand::Rng) -> String {
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// Reads RFC 3339, rounded down to the millisecond.
pub(super) fn parse_rfc3339(text: &str) -> Option<UnixMillis> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(UnixMillis)
}

/// Writes a time in the form of the `Date` header (RFC 9110, section 5.6.7).
pub(super) fn http_date(at: UnixMillis) -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1000))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .format(FORMAT)
        .unwrap_or_default()
}

/// The partition of a region, as ARNs name it.
pub(super) fn partition(region: &str) -> &'static str {
    match region {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

fn word<V: Vocabulary>(value: &Value, name: &str) -> Option<Word<V>> {
    value.get(name).and_then(Value::as_str).map(Word::parse)
}

/// Writes a JSON list.
pub(super) fn list<T>(out: &mut String, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut String, T)) {
    out.push('[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

/// Writes a JSON string with its quotes.
pub(super) fn string(out: &mut String, text: &str) {
    write!(out, "{}", Value::from(text)).expect("writing to a String cannot fail");
}

/// Writes a time as Java's `Double.toString` of its seconds. From ten million seconds (April 1970) on it is scientific.
fn seconds(out: &mut String, time: UnixMillis) {
    const SCIENTIFIC_FROM_MS: u64 = 10_000_000_000;
    let sign = if time.0 < 0 { "-" } else { "" };
    let millis = time.0.unsigned_abs();
    let written = if millis < SCIENTIFIC_FROM_MS {
        let fraction = format!("{:03}", millis % 1000);
        write!(out, "{sign}{}.{}", millis / 1000, significant(&fraction))
    } else {
        let digits = millis.to_string();
        let (first, rest) = digits.split_at(1);
        // Three digits are milliseconds, and one digit is before the point.
        write!(out, "{sign}{first}.{}E{}", significant(rest), digits.len() - 4)
    };
    written.expect("writing to a String cannot fail");
}

/// The digits after a decimal point without trailing zeros; at least one digit.
fn significant(digits: &str) -> &str {
    let trimmed = digits.trim_end_matches('0');
    if trimmed.is_empty() { "0" } else { trimmed }
}

/// Writes a JSON object, member by member.
pub(super) struct Object<'a> {
    out: &'a mut String,
    empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn open(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, empty: true }
    }

    /// Writes a member's name. The caller writes its value next.
    pub(super) fn key(&mut self, name: &str) -> &mut String {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        write!(self.out, "\"{name}\":").expect("writing to a String cannot fail");
        self.out
    }

    pub(super) fn text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            string(self.key(name), text);
        }
    }

    pub(super) fn flag(&mut self, name: &str, flag: Option<bool>) {
        if let Some(flag) = flag {
            self.key(name).push_str(if flag { "true" } else { "false" });
        }
    }

    pub(super) fn time(&mut self, name: &str, time: Option<UnixMillis>) {
        if let Some(time) = time {
            seconds(self.key(name), time);
        }
    }

    pub(super) fn integer(&mut self, name: &str, number: i64) {
        write!(self.key(name), "{number}").expect("writing to a String cannot fail");
    }

    fn word<V: Vocabulary>(&mut self, name: &str, word: Option<&Word<V>>) {
        self.text(name, word.map(Word::as_str));
    }

    pub(super) fn close(self) {
        self.out.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds_of(millis: i64) -> String {
        let mut out = String::new();
        seconds(&mut out, UnixMillis(millis));
        out
    }

    #[test]
    fn times_are_written_as_the_samples_have_them() {
        for (millis, written) in [
            (1_723_136_049_929, "1.723136049929E9"),
            (1_723_222_998_200, "1.7232229982E9"),
            (1_700_000_000_000, "1.7E9"),
            (1_000_000_000_000, "1.0E9"),
            (10_000_000_000, "1.0E7"),
            (9_999_999_999, "9999999.999"),
            (0, "0.0"),
            (-1_500, "-1.5"),
        ] {
            assert_eq!(seconds_of(millis), written);
        }
    }

    proptest! {
        #[test]
        fn every_time_of_this_age_is_read_as_it_was_written(millis in -1_000_000_000_000..5_000_000_000_000_i64) {
            let value: Value = serde_json::from_str(&seconds_of(millis)).unwrap();
            prop_assert_eq!(read_time(&value), Some(UnixMillis(millis)));
        }
    }

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let event = AuthEvent {
            id: Some("768d375c-ee6c-435e-a005-25c4981565c3".into()),
            event_type: Some(Word::parse("Sign\"In\u{0}ü")),
            creation_date: Some(UnixMillis(1_723_136_049_929)),
            response: Some(Word::parse("Pass")),
            risk: Some(EventRisk {
                decision: Some(Word::parse("NoRisk")),
                level: None,
                compromised_credentials: Some(false),
            }),
            challenges: vec![Challenge { name: Some(Word::parse("Mfa")), response: None }],
            context: Some(EventContext { city: Some("null".into()), ..EventContext::default() }),
            feedback: Some(EventFeedback {
                value: Some(Word::parse("Invalid")),
                provider: Some("Admin".into()),
                date: Some(UnixMillis(1_723_136_050_000)),
            }),
        };
        for event in [event, AuthEvent::default()] {
            let value: Value = serde_json::from_str(&event_json(&event)).unwrap();
            assert_eq!(read_event(&value), event);
        }
    }

    #[test]
    fn the_cli_rendering_of_a_time_is_the_same_instant() {
        let value = Value::from("2024-06-27T10:49:59.139000-07:00");
        assert_eq!(read_time(&value).unwrap().to_string(), "2024-06-27T17:49:59.139Z");
    }

    #[test]
    fn the_date_header_has_its_one_form() {
        assert_eq!(http_date(UnixMillis(784_111_777_999)), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
