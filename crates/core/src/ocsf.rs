//! A record's body as an event of the Open Cybersecurity Schema Framework, for SIEMs that read nothing else.
//!
//! Pure. Everything comes from the record's own attributes and the entry's words, so that a body tells neither more nor
//! less than its record: what is absent there is absent here, and an attribute that the schema has no place for stands
//! under its own name in `unmapped`. The profiles `cloud` and `security_control` are applied, `osint` is not: Cognito
//! knows nothing of it. There is no `actor` either, because Cognito does not say who acted, only in whose name.

use std::net::IpAddr;

use crate::entry::Entry;
use crate::event::{
    Challenge, ChallengeName, EventResponse, EventType, RiskDecision, RiskLevel, UnixMillis, Vocabulary, Word,
};
use crate::record::{Pairs, Record, SERVICE_NAME, Severity, Value};

/// The schema's version: <https://schema.ocsf.io/1.8.0/>. Its successor renames Account Change, so it is a step of its own.
const VERSION: &str = "1.8.0";

const PROFILES: &[&str] = &["cloud", "security_control"];

/// An enumeration's number and its caption; the caption of [`OTHER`] is the source's own word.
type Named<'a> = (i64, &'a str);

const UNKNOWN: Named<'static> = (0, "Unknown");
const OTHER: i64 = 99;

const CATEGORY: Named<'static> = (3, "Identity & Access Management");
const ACCOUNT_CHANGE: Named<'static> = (3001, "Account Change");
const AUTHENTICATION: Named<'static> = (3002, "Authentication");

/// The event that a record tells of.
pub fn body<'a>(entry: &'a Entry, record: &Record<'a>) -> Value<'a> {
    let event = &entry.event;
    let risk = event.risk.as_ref();
    let (class, activity) = kind(event.event_type.as_ref());
    let (severity, is_alert) = severity(record.severity);
    let UnixMillis(observed) = entry.observed;
    let mut body = Body(Vec::new());

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

    body.text("metadata.version", VERSION);
    body.set("metadata.profiles", Value::Texts(PROFILES));
    body.text("metadata.product.name", "Amazon Cognito");
    body.text("metadata.product.vendor_name", "AWS");
    body.text("metadata.log_provider", SERVICE_NAME);
    body.set("metadata.processed_time", Value::Integer(observed));
    body.text("cloud.provider", "AWS");
    // Where it is known whose pool it is, it is so of its account, too: a user has one even when the name is dropped.
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

/// What an endpoint is known by. The schema has none that is known by its location only.
const ENDPOINTS: [&str; 2] = ["client.address", "aws.cognito.client_address_hash"];

/// Where an attribute stands in the event; nowhere: in `unmapped`.
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

/// The schema's `ip` takes an address only, not a network nor whatever else may come.
fn is_address(value: &Value<'_>) -> bool {
    matches!(value, Value::Text(text) if text.parse::<IpAddr>().is_ok())
}

/// Class and activity. A type that this build does not know is an authentication event: the service's name for them all.
fn kind(event_type: Option<&Word<EventType>>) -> (Named<'static>, Named<'_>) {
    let class = match event_type {
        Some(Word::Known(EventType::SignIn) | Word::Other(_)) | None => AUTHENTICATION,
        Some(Word::Known(_)) => ACCOUNT_CHANGE,
    };
    let activity = named(event_type, |known| match known {
        EventType::SignIn => (1, "Logon"),
        EventType::SignUp => (1, "Create"),
        EventType::PasswordChange => (3, "Password Change"),
        EventType::ForgotPassword => (4, "Password Reset"),
        EventType::ResendCode => (OTHER, known.as_str()),
    });
    (class, activity.unwrap_or(UNKNOWN))
}

/// How much the record matters, and whether somebody should look.
fn severity(severity: Severity) -> (Named<'static>, bool) {
    match severity {
        Severity::Info => ((1, "Informational"), false),
        Severity::Warn => ((3, "Medium"), true),
        Severity::Error => ((4, "High"), true),
    }
}

fn status(response: EventResponse) -> Named<'static> {
    match response {
        EventResponse::Pass => (1, "Success"),
        EventResponse::Fail => (2, "Failure"),
        // Not unknown: known to be undecided.
        EventResponse::InProgress => (OTHER, response.as_str()),
    }
}

/// What threat protection did. It finds a takeover without saying what follows: a challenge, a mail, or nothing.
fn disposition(decision: RiskDecision) -> Named<'static> {
    match decision {
        RiskDecision::NoRisk => (16, "No Action"),
        RiskDecision::AccountTakeover => (15, "Detected"),
        RiskDecision::Block => (2, "Blocked"),
    }
}

/// The action that a disposition of [`disposition`] is of. NoRisk is no permission: the password may be wrong.
fn action((disposition, caption): Named<'_>) -> Named<'_> {
    match disposition {
        2 => (2, "Denied"),
        15 | 16 => (3, "Observed"),
        _ => (OTHER, caption),
    }
}

fn risk_level(level: RiskLevel) -> Named<'static> {
    match level {
        RiskLevel::Low => (1, "Low"),
        RiskLevel::Medium => (2, "Medium"),
        RiskLevel::High => (3, "High"),
    }
}

/// Whether a second factor was asked for; None where challenges are absent, or one of them may have been it.
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
        // By message or by generator: Cognito does not say.
        ChallengeName::Mfa => (OTHER, name.as_str()),
    });
    let mut pairs = Body(Vec::new());
    pairs.name("factor_type_id", "factor_type", Some(factor.unwrap_or(UNKNOWN)));
    pairs.0
}

/// The number and caption of a word; an empty one is none.
fn named<V: Vocabulary>(word: Option<&Word<V>>, known: impl Fn(V) -> Named<'static>) -> Option<Named<'_>> {
    match word? {
        Word::Known(word) => Some(known(*word)),
        Word::Other(text) if text.is_empty() => None,
        Word::Other(text) => Some((OTHER, text)),
    }
}

/// Maps within maps, under construction.
struct Body<'a>(Pairs<'a>);

impl<'a> Body<'a> {
    /// Sets what is at a path such as `metadata.uid`.
    fn set(&mut self, path: &'static str, value: Value<'a>) {
        set(&mut self.0, path, value);
    }

    fn text(&mut self, path: &'static str, text: &'a str) {
        self.set(path, Value::Text(text.into()));
    }

    fn id(&mut self, path: &'static str, named: Option<Named<'a>>) {
        if let Some((id, _)) = named {
            self.set(path, Value::Integer(id));
        }
    }

    fn name(&mut self, id: &'static str, caption: &'static str, named: Option<Named<'a>>) {
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
