//! The log record of an [`Entry`], independent of the format on the wire.
//!
//! Pure. The OTLP sink and the stdout sink both encode this one value, so they cannot disagree. The names follow the
//! pattern of OpenTelemetry's semantic conventions (<https://opentelemetry.io/docs/specs/semconv/general/naming/>);
//! `aws.cognito.*` is not registered there. A value that Cognito did not send is absent, and never an empty string.

use std::borrow::Cow;

use crate::entry::Entry;
use crate::event::{AuthEvent, EventResponse, EventType, RiskDecision, RiskLevel, UnixMillis, Vocabulary, Word};
use crate::masking::Mode;

pub(crate) mod country;
mod sentence;

/// The name of the instrumentation scope and, unless the operator chose another, of the service.
pub const SERVICE_NAME: &str = "cognito-auth-exporter";
/// The version of the instrumentation scope and of the service.
pub const SERVICE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A record's severity. The values are OpenTelemetry's SeverityNumber
/// (<https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber>).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Nothing out of the ordinary.
    Info = 9,
    /// Threat protection found something.
    Warn = 13,
    /// Threat protection is sure of an attack, and the sign-in may have succeeded all the same.
    Error = 17,
}

impl Severity {
    /// OpenTelemetry's short name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// An attribute's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// A text, never empty.
    Text(Cow<'a, str>),
    /// A whole number.
    Integer(i64),
    /// True or false.
    Bool(bool),
    /// A fixed array of texts.
    Texts(&'static [&'static str]),
    /// A map, each name at most once.
    Map(Pairs<'a>),
    /// An array of maps.
    Maps(Vec<Pairs<'a>>),
}

/// Names and values, in a fixed order.
pub type Pairs<'a> = Vec<(&'static str, Value<'a>)>;

/// The time that an OTLP record carries as its Timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampSource {
    /// The event's CreationDate.
    Event,
    /// The time of reading, for stores that refuse old records.
    Observed,
}

/// A log record before it has a wire format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// The Timestamp, as [`TimestampSource`] says; None where Cognito sent no CreationDate.
    pub timestamp: Option<UnixMillis>,
    /// When the exporter read the event, by the local clock.
    pub observed: UnixMillis,
    /// `aws.cognito.auth.<event type>`.
    pub event_name: &'static str,
    /// The severity, from the findings of threat protection.
    pub severity: Severity,
    /// One sentence for people, or an event in another schema such as OCSF.
    pub body: Value<'a>,
    /// Attributes in a fixed order, each name at most once.
    pub attributes: Pairs<'a>,
}

impl<'a> Record<'a> {
    /// Makes the record of an entry.
    pub fn of(entry: &'a Entry, timestamp: TimestampSource) -> Self {
        Self {
            timestamp: match timestamp {
                TimestampSource::Event => entry.event.creation_date,
                TimestampSource::Observed => Some(entry.observed),
            },
            observed: entry.observed,
            event_name: event_name(entry.event.event_type.as_ref()),
            severity: severity(&entry.event),
            body: Value::Text(sentence::about(entry).into()),
            attributes: attributes(entry),
        }
    }
}

/// The event name of an event type. An absent type, or one that this build does not know, is `other`.
pub fn event_name(event_type: Option<&Word<EventType>>) -> &'static str {
    match event_type {
        Some(Word::Known(EventType::SignIn)) => "aws.cognito.auth.sign_in",
        Some(Word::Known(EventType::SignUp)) => "aws.cognito.auth.sign_up",
        Some(Word::Known(EventType::ForgotPassword)) => "aws.cognito.auth.forgot_password",
        Some(Word::Known(EventType::PasswordChange)) => "aws.cognito.auth.password_change",
        Some(Word::Known(EventType::ResendCode)) => "aws.cognito.auth.resend_code",
        Some(Word::Other(_)) | None => "aws.cognito.auth.other",
    }
}

/// The severity of an event.
///
/// | severity | event |
/// |---|---|
/// | ERROR | of risk level High or with compromised credentials, and not failed |
/// | WARN | any other of risk level High or Medium, or with the decision AccountTakeover or Block |
/// | INFO | all others |
pub fn severity(event: &AuthEvent) -> Severity {
    let risk = event.risk.clone().unwrap_or_default();
    let high = risk.level == Some(Word::Known(RiskLevel::High));
    let compromised = risk.compromised_credentials == Some(true);
    let failed = event.response == Some(Word::Known(EventResponse::Fail));
    let suspected = matches!(risk.decision, Some(Word::Known(RiskDecision::AccountTakeover | RiskDecision::Block)));
    let medium = risk.level == Some(Word::Known(RiskLevel::Medium));
    if (high || compromised) && !failed {
        Severity::Error
    } else if suspected || medium || high {
        Severity::Warn
    } else {
        Severity::Info
    }
}

fn attributes(entry: &Entry) -> Pairs<'_> {
    let event = &entry.event;
    let risk = event.risk.as_ref();
    let context = event.context.as_ref();
    let feedback = event.feedback.as_ref();
    let country = context.and_then(|context| context.country.as_deref());
    let challenges: Vec<_> = event
        .challenges
        .iter()
        .map(|challenge| {
            let name = word(challenge.name.as_ref()).map(|name| ("name", Value::Text(name.into())));
            let response = word(challenge.response.as_ref()).map(|response| ("response", Value::Text(response.into())));
            name.into_iter().chain(response).collect()
        })
        .collect();

    let mut list = Attributes(Vec::with_capacity(32));
    list.owned("log.record.uid", Some(entry.uid()));
    list.text("aws.cognito.user_pool.id", Some(&entry.pool.id));
    list.text("aws.cognito.user_pool.name", Some(&entry.pool.name));
    list.text("aws.cognito.user_pool.region", Some(&entry.pool.region));
    list.text("aws.cognito.user_pool.account_id", entry.pool.account_id.as_deref());
    list.text("aws.cognito.event.id", event.id.as_deref());
    list.text("aws.cognito.event.type", word(event.event_type.as_ref()));
    list.text("aws.cognito.event.response", word(event.response.as_ref()));
    list.owned("aws.cognito.event.creation_date", event.creation_date.map(|date| date.to_string()));
    list.value("aws.cognito.event.revision", Some(Value::Integer(entry.revision.into())));
    list.value("aws.cognito.event.history", Some(Value::Bool(entry.history)));
    list.text("aws.cognito.event.source", Some(entry.told_by.as_str()));
    list.text("aws.cognito.client.id", entry.details.client_id.as_deref());
    list.text("aws.cognito.request.id", entry.details.request_id.as_deref());
    list.text("aws.cognito.idp.name", entry.details.idp_name.as_deref());
    list.text("aws.cognito.risk.decision", risk.and_then(|risk| word(risk.decision.as_ref())));
    list.text("aws.cognito.risk.level", risk.and_then(|risk| word(risk.level.as_ref())));
    list.value(
        "aws.cognito.risk.compromised_credentials",
        risk.and_then(|risk| risk.compromised_credentials).map(Value::Bool),
    );
    list.value("aws.cognito.challenges", Some(challenges).filter(|challenges| !challenges.is_empty()).map(Value::Maps));
    let masked = &entry.masked;
    list.text(if masked.username == Mode::Keep { "user.name" } else { "user.hash" }, Some(&entry.user.username));
    list.text("user.id", entry.user.sub.as_deref());
    let address = if masked.ip_address == Mode::Hash { "aws.cognito.client_address_hash" } else { "client.address" };
    list.text(address, context.and_then(|context| context.ip_address.as_deref()));
    list.text("aws.cognito.device.name", context.and_then(|context| context.device_name.as_deref()));
    list.text("aws.cognito.timezone", context.and_then(|context| context.timezone.as_deref()));
    list.text("geo.locality.name", context.and_then(|context| context.city.as_deref()));
    list.text("aws.cognito.country", country);
    list.text("geo.country.iso_code", country.and_then(country::iso_code));
    list.text("aws.cognito.feedback.value", feedback.and_then(|feedback| word(feedback.value.as_ref())));
    list.text("aws.cognito.feedback.provider", feedback.and_then(|feedback| feedback.provider.as_deref()));
    list.owned("aws.cognito.feedback.date", feedback.and_then(|feedback| feedback.date).map(|date| date.to_string()));
    list.0
}

/// The text of a word; None for an empty one.
fn word<V: Vocabulary>(word: Option<&Word<V>>) -> Option<&str> {
    word.map(Word::as_str).filter(|text| !text.is_empty())
}

/// Attributes under construction. Absent and empty values are left out.
struct Attributes<'a>(Pairs<'a>);

impl<'a> Attributes<'a> {
    fn value(&mut self, name: &'static str, value: Option<Value<'a>>) {
        self.0.extend(value.map(|value| (name, value)));
    }

    fn text(&mut self, name: &'static str, text: Option<&'a str>) {
        let text = text.filter(|text| !text.is_empty());
        self.value(name, text.map(|text| Value::Text(Cow::Borrowed(text))));
    }

    fn owned(&mut self, name: &'static str, text: Option<String>) {
        self.value(name, text.map(|text| Value::Text(Cow::Owned(text))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventContext, EventRisk};
    use crate::fixtures::{bare_entry, full_entry};

    fn text(text: &str) -> Value<'_> {
        Value::Text(text.into())
    }

    #[test]
    fn every_member_of_an_event_has_its_attribute() {
        let entry = full_entry();
        let record = Record::of(&entry, TimestampSource::Event);
        let uid = entry.uid();
        assert_eq!(record.timestamp, Some(UnixMillis(1_723_136_049_929)));
        assert_eq!(record.observed, UnixMillis(1_723_136_200_000));
        assert_eq!(record.event_name, "aws.cognito.auth.sign_in");
        assert_eq!(record.severity, Severity::Error);
        assert_eq!(
            record.attributes,
            vec![
                ("log.record.uid", text(&uid)),
                ("aws.cognito.user_pool.id", text("eu-west-1_Abc123")),
                ("aws.cognito.user_pool.name", text("customers")),
                ("aws.cognito.user_pool.region", text("eu-west-1")),
                ("aws.cognito.user_pool.account_id", text("111122223333")),
                ("aws.cognito.event.id", text("4ad59ba8-0df1-4b1c-9a3e-3f2b5bf0d5ce")),
                ("aws.cognito.event.type", text("SignIn")),
                ("aws.cognito.event.response", text("Pass")),
                ("aws.cognito.event.creation_date", text("2024-08-08T16:54:09.929Z")),
                ("aws.cognito.event.revision", Value::Integer(2)),
                ("aws.cognito.event.history", Value::Bool(false)),
                ("aws.cognito.event.source", text("poll")),
                ("aws.cognito.risk.decision", text("AccountTakeover")),
                ("aws.cognito.risk.level", text("High")),
                ("aws.cognito.risk.compromised_credentials", Value::Bool(false)),
                (
                    "aws.cognito.challenges",
                    Value::Maps(vec![
                        vec![("name", text("Password")), ("response", text("Success"))],
                        vec![("name", text("Mfa"))]
                    ])
                ),
                ("user.name", text("alice")),
                ("user.id", text("sub-of-alice")),
                ("client.address", text("192.0.2.1")),
                ("aws.cognito.device.name", text("Chrome 126, Windows 10")),
                ("aws.cognito.timezone", text("-07:00")),
                ("geo.locality.name", text("Seattle")),
                ("aws.cognito.country", text("United States")),
                ("geo.country.iso_code", text("US")),
                ("aws.cognito.feedback.value", text("Invalid")),
                ("aws.cognito.feedback.provider", text("Admin")),
                ("aws.cognito.feedback.date", text("2024-08-08T16:55:00.000Z")),
            ]
        );
    }

    #[test]
    fn what_cognito_did_not_send_is_absent() {
        let mut entry = bare_entry();
        entry.event.response = Some(Word::parse(""));
        entry.event.context = Some(EventContext { city: Some(String::new()), ..EventContext::default() });
        let record = Record::of(&entry, TimestampSource::Event);
        let names: Vec<_> = record.attributes.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "log.record.uid",
                "aws.cognito.user_pool.id",
                "aws.cognito.user_pool.name",
                "aws.cognito.user_pool.region",
                "aws.cognito.event.revision",
                "aws.cognito.event.history",
                "aws.cognito.event.source",
                "user.name"
            ]
        );
        assert_eq!(record.timestamp, None);
        assert_eq!(record.event_name, "aws.cognito.auth.other");
    }

    #[test]
    fn unknown_words_stand_verbatim_in_the_attributes() {
        let mut entry = bare_entry();
        entry.event.event_type = Some(Word::parse("PasskeyEnrol"));
        entry.event.context = Some(EventContext { country: Some("Atlantis".into()), ..EventContext::default() });
        let record = Record::of(&entry, TimestampSource::Event);
        assert_eq!(record.event_name, "aws.cognito.auth.other");
        assert!(record.attributes.contains(&("aws.cognito.event.type", text("PasskeyEnrol"))));
        assert!(record.attributes.contains(&("aws.cognito.country", text("Atlantis"))));
        assert!(!record.attributes.iter().any(|(name, _)| *name == "geo.country.iso_code"));
    }

    #[test]
    fn the_observed_time_can_stand_for_the_events_own() {
        let entry = full_entry();
        let record = Record::of(&entry, TimestampSource::Observed);
        assert_eq!(record.timestamp, Some(entry.observed));
        assert!(record.attributes.contains(&("aws.cognito.event.creation_date", text("2024-08-08T16:54:09.929Z"))));
    }

    #[test]
    fn severity_follows_the_table() {
        use Severity::{Error, Info, Warn};
        for (response, decision, level, compromised, expected) in [
            ("Pass", "NoRisk", "", false, Info),
            ("Fail", "NoRisk", "", false, Info),
            ("Fail", "NoRisk", "", true, Info),
            ("Pass", "NoRisk", "", true, Error),
            ("InProgress", "NoRisk", "", true, Error),
            ("Pass", "AccountTakeover", "Low", false, Warn),
            ("Pass", "AccountTakeover", "Medium", false, Warn),
            ("Pass", "AccountTakeover", "High", false, Error),
            ("Fail", "AccountTakeover", "High", false, Warn),
            ("Fail", "Block", "High", false, Warn),
            ("InProgress", "Block", "High", false, Error),
            ("Fail", "Block", "", false, Warn),
            ("Pass", "NoRisk", "Medium", false, Warn),
            ("Pass", "NoRisk", "Low", false, Info),
            ("Pass", "Novel", "Novel", false, Info),
        ] {
            let event = AuthEvent {
                response: Some(Word::parse(response)),
                risk: Some(EventRisk {
                    decision: Some(Word::parse(decision)),
                    level: Some(level).filter(|level| !level.is_empty()).map(Word::parse),
                    compromised_credentials: Some(compromised),
                }),
                ..AuthEvent::default()
            };
            assert_eq!(severity(&event), expected, "{response} {decision} {level} {compromised}");
        }
        assert_eq!(severity(&AuthEvent::default()), Info);
    }

    #[test]
    fn each_type_names_its_events_in_snake_case() {
        for known in EventType::ALL {
            let snake = known.as_str().char_indices().fold(String::new(), |mut snake, (at, letter)| {
                if letter.is_ascii_uppercase() && at > 0 {
                    snake.push('_');
                }
                snake.push(letter.to_ascii_lowercase());
                snake
            });
            assert_eq!(event_name(Some(&Word::Known(*known))), format!("aws.cognito.auth.{snake}"));
        }
    }
}
