//! A record's body as an event of the Open Cybersecurity Schema Framework (OCSF), for SIEMs that read only that schema.
//!
//! Pure. All values come from the record's attributes and the entry's words, so a body tells neither more nor less than
//! its record. An attribute that is absent there is absent here. An attribute without a place in the schema stands
//! under its own name in `unmapped`. The profiles `cloud` and `security_control` are applied. The profile `osint` is
//! not, because Cognito has no data for it. There is no `actor` either: Cognito names the account that was used, not
//! the person who used it.
//!
//! A body has the terms of one [`OcsfVersion`]. `Terms` lists everything that differs between versions.

use std::net::IpAddr;

use crate::entry::Entry;
use crate::event::{
    Challenge, ChallengeName, EventResponse, EventType, RiskDecision, RiskLevel, UnixMillis, Vocabulary, Word,
};
use crate::record::{Pairs, Record, SERVICE_NAME, Severity, Value};

/// A version of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OcsfVersion {
    /// 1.8.0: <https://schema.ocsf.io/1.8.0/>.
    V1_8,
    /// 1.9.0: <https://schema.ocsf.io/1.9.0/>. It deprecates Account Change in favour of User Management.
    V1_9,
}

impl OcsfVersion {
    fn terms(self) -> Terms {
        match self {
            Self::V1_8 => Terms {
                version: "1.8.0",
                user_change: (3001, "Account Change"),
                password_change: (3, "Password Change"),
                password_reset: (4, "Password Reset"),
            },
            Self::V1_9 => Terms {
                version: "1.9.0",
                user_change: (3007, "User Management"),
                password_change: (8, "Password Change"),
                password_reset: (9, "Password Reset"),
            },
        }
    }
}

/// All terms that differ between versions. The other terms of an event are in every version the same.
struct Terms {
    /// The value of `metadata.version`.
    version: &'static str,
    /// The class of changes to a user.
    user_change: OcsfEnum<'static>,
    /// The activity of a changed password, in that class.
    password_change: OcsfEnum<'static>,
    /// The activity of a forgotten password, in that class.
    password_reset: OcsfEnum<'static>,
}

const PROFILES: &[&str] = &["cloud", "security_control"];

/// A value of an OCSF enumeration: its number and its caption. The caption of [`OTHER`] is Cognito's own word.
type OcsfEnum<'a> = (i64, &'a str);

const UNKNOWN: OcsfEnum<'static> = (0, "Unknown");
const OTHER: i64 = 99;

const CATEGORY: OcsfEnum<'static> = (3, "Identity & Access Management");
const AUTHENTICATION: OcsfEnum<'static> = (3002, "Authentication");

/// Makes the OCSF event of a record. `record` must be the record of `entry`.
pub fn body<'a>(version: OcsfVersion, entry: &'a Entry, record: &Record<'a>) -> Value<'a> {
    let terms = version.terms();
    let event = &entry.event;
    let risk = event.risk.as_ref();
    let (class, activity) = kind(&terms, event.event_type.as_ref());
    let (severity, is_alert) = severity(record.severity);
    let UnixMillis(observed) = entry.observed;
    let mut body = OcsfBody(Vec::new());

    body.name("category_uid", "category_name", Some(CATEGORY));
    body.name("class_uid", "class_name", Some(class));
    body.name("activity_id", "activity_name", Some(activity));
    body.set("type_uid", Value::Integer(class.0 * 100 + activity.0));
    let activity_caption = if activity.0 == OTHER { "Other" } else { activity.1 };
    body.set("type_name", Value::Text(format!("{}: {activity_caption}", class.1).into()));
    body.name("severity_id", "severity", Some(severity));
    body.name("status_id", "status", Some(named(event.response.as_ref(), status).unwrap_or(UNKNOWN)));
    // The schema wants a time; without the event's own, metadata.original_time is absent.
    body.set("time", Value::Integer(event.creation_date.map_or(observed, |UnixMillis(date)| date)));
    body.set("message", record.body.clone());

    body.text("metadata.version", terms.version);
    body.set("metadata.profiles", Value::Texts(PROFILES));
    body.text("metadata.product.name", "Amazon Cognito");
    body.text("metadata.product.vendor_name", "AWS");
    body.text("metadata.log_provider", SERVICE_NAME);
    body.set("metadata.processed_time", Value::Integer(observed));
    body.text("cloud.provider", "AWS");
    // Every user has an account in the pool, even where the name is dropped.
    body.name("user.account.type_id", "user.account.type", Some((OTHER, "Cognito user pool")));

    let decision = risk.and_then(|risk| named(risk.decision.as_ref(), disposition));
    body.name("disposition_id", "disposition", decision);
    body.name("action_id", "action", decision.map(action));
    body.id("risk_level_id", risk.and_then(|risk| named(risk.level.as_ref(), risk_level)));
    body.set("is_alert", Value::Bool(is_alert));

    if class == AUTHENTICATION {
        body.text("service.name", &entry.pool.name);
        body.text("service.uid", &entry.pool.id);
        if let Some(is_mfa) = is_mfa(&event.challenges) {
            body.set("is_mfa", Value::Bool(is_mfa));
        }
        if !event.challenges.is_empty() {
            body.set("auth_factors", Value::Maps(event.challenges.iter().map(factor).collect()));
        }
    }

    let has_endpoint = record.attributes.iter().any(|(name, _)| ENDPOINTS.contains(name));
    let mut unmapped = Vec::new();
    for (name, value) in &record.attributes {
        let places = places(name, value, has_endpoint);
        if places.is_empty() {
            unmapped.push((*name, value.clone()));
        }
        for path in places {
            body.set(path, value.clone());
        }
    }
    body.set("unmapped", Value::Map(unmapped));
    Value::Map(body.0)
}

/// The attributes that identify an endpoint. The schema has no endpoint with a location only.
const ENDPOINTS: [&str; 2] = ["client.address", "aws.cognito.client_address_hash"];

/// The paths at which an attribute stands in the event. An attribute without a path goes to `unmapped`.
fn places(attribute: &str, value: &Value<'_>, has_endpoint: bool) -> &'static [&'static str] {
    match attribute {
        "log.record.uid" => &["metadata.uid"],
        "aws.cognito.user_pool.id" => &["user.account.uid", "metadata.log_source"],
        "aws.cognito.user_pool.name" => &["user.account.name", "metadata.log_name"],
        "aws.cognito.user_pool.region" => &["cloud.region"],
        "aws.cognito.user_pool.account_id" => &["cloud.account.uid"],
        "aws.cognito.event.id" => &["metadata.original_event_uid"],
        "aws.cognito.event.type" => &["metadata.event_code"],
        "aws.cognito.event.response" => &["status_code"],
        "aws.cognito.event.creation_date" => &["metadata.original_time"],
        "aws.cognito.risk.level" => &["risk_level"],
        "user.name" | "user.hash" => &["user.name"],
        "user.id" => &["user.uid"],
        "client.address" if is_address(value) => &["src_endpoint.ip"],
        "client.address" | "aws.cognito.client_address_hash" => &["src_endpoint.uid"],
        "geo.locality.name" if has_endpoint => &["src_endpoint.location.city"],
        "geo.country.iso_code" if has_endpoint => &["src_endpoint.location.country"],
        _ => &[],
    }
}

/// Whether a value is an IP address. The schema's `ip` accepts nothing else, not even a network.
fn is_address(value: &Value<'_>) -> bool {
    matches!(value, Value::Text(text) if text.parse::<IpAddr>().is_ok())
}

/// Class and activity of an event type. A type that this build does not know is an authentication event, as Cognito
/// calls all of them.
fn kind<'a>(terms: &Terms, event_type: Option<&'a Word<EventType>>) -> (OcsfEnum<'static>, OcsfEnum<'a>) {
    let class = match event_type {
        Some(Word::Known(EventType::SignIn) | Word::Other(_)) | None => AUTHENTICATION,
        Some(Word::Known(_)) => terms.user_change,
    };
    let activity = named(event_type, |known| match known {
        EventType::SignIn => (1, "Logon"),
        EventType::SignUp => (1, "Create"),
        EventType::PasswordChange => terms.password_change,
        EventType::ForgotPassword => terms.password_reset,
        EventType::ResendCode => (OTHER, known.as_str()),
    });
    (class, activity.unwrap_or(UNKNOWN))
}

/// The OCSF severity of a record, and whether it is an alert.
fn severity(severity: Severity) -> (OcsfEnum<'static>, bool) {
    match severity {
        Severity::Info => ((1, "Informational"), false),
        Severity::Warn => ((3, "Medium"), true),
        Severity::Error => ((4, "High"), true),
    }
}

fn status(response: EventResponse) -> OcsfEnum<'static> {
    match response {
        EventResponse::Pass => (1, "Success"),
        EventResponse::Fail => (2, "Failure"),
        // Not `UNKNOWN`: the event is known to be undecided.
        EventResponse::InProgress => (OTHER, response.as_str()),
    }
}

/// The reaction of threat protection. After a suspected takeover Cognito does not say whether a challenge or a mail
/// followed.
fn disposition(decision: RiskDecision) -> OcsfEnum<'static> {
    match decision {
        RiskDecision::NoRisk => (16, "No Action"),
        RiskDecision::AccountTakeover => (15, "Detected"),
        RiskDecision::Block => (2, "Blocked"),
    }
}

/// The action that belongs to a disposition of [`disposition`]. NoRisk is not "Allowed", because the password may be
/// wrong.
fn action((disposition, caption): OcsfEnum<'_>) -> OcsfEnum<'_> {
    match disposition {
        2 => (2, "Denied"),
        15 | 16 => (3, "Observed"),
        _ => (OTHER, caption),
    }
}

fn risk_level(level: RiskLevel) -> OcsfEnum<'static> {
    match level {
        RiskLevel::Low => (1, "Low"),
        RiskLevel::Medium => (2, "Medium"),
        RiskLevel::High => (3, "High"),
    }
}

/// Whether a second factor was asked for. None where there are no challenges, or where an unknown one may be a second
/// factor.
fn is_mfa(challenges: &[Challenge]) -> Option<bool> {
    let named = |name| move |challenge: &Challenge| challenge.name == Some(Word::Known(name));
    if challenges.iter().any(named(ChallengeName::Mfa)) {
        Some(true)
    } else {
        let is_told = !challenges.is_empty() && challenges.iter().all(named(ChallengeName::Password));
        is_told.then_some(false)
    }
}

fn factor(challenge: &Challenge) -> Pairs<'_> {
    let factor = named(challenge.name.as_ref(), |name| match name {
        ChallengeName::Password => (11, "Password"),
        // Cognito does not say whether the code came by message or from a generator.
        ChallengeName::Mfa => (OTHER, name.as_str()),
    });
    let mut pairs = OcsfBody(Vec::new());
    pairs.name("factor_type_id", "factor_type", Some(factor.unwrap_or(UNKNOWN)));
    pairs.0
}

/// The number and caption of a word. An empty word has none.
fn named<V: Vocabulary>(word: Option<&Word<V>>, known: impl Fn(V) -> OcsfEnum<'static>) -> Option<OcsfEnum<'_>> {
    match word? {
        Word::Known(word) => Some(known(*word)),
        Word::Other(text) if text.is_empty() => None,
        Word::Other(text) => Some((OTHER, text)),
    }
}

/// An OCSF event under construction: maps within maps.
struct OcsfBody<'a>(Pairs<'a>);

impl<'a> OcsfBody<'a> {
    /// Sets the value at a path such as `metadata.uid`.
    fn set(&mut self, path: &'static str, value: Value<'a>) {
        set(&mut self.0, path, value);
    }

    fn text(&mut self, path: &'static str, text: &'a str) {
        self.set(path, Value::Text(text.into()));
    }

    fn id(&mut self, path: &'static str, named: Option<OcsfEnum<'a>>) {
        if let Some((id, _)) = named {
            self.set(path, Value::Integer(id));
        }
    }

    fn name(&mut self, id: &'static str, caption: &'static str, named: Option<OcsfEnum<'a>>) {
        self.id(id, named);
        if let Some((_, text)) = named {
            self.text(caption, text);
        }
    }
}

fn set<'a>(map: &mut Pairs<'a>, path: &'static str, value: Value<'a>) {
    let Some((first, rest)) = path.split_once('.') else {
        map.push((path, value));
        return;
    };
    match map.iter_mut().find(|(name, _)| *name == first) {
        Some((_, Value::Map(inner))) => set(inner, rest, value),
        _ => {
            let mut inner = Vec::new();
            set(&mut inner, rest, value);
            map.push((first, Value::Map(inner)));
        }
    }
}
