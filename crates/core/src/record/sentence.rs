//! A record's body: one sentence that describes the event for a person. Machines read the attributes.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::entry::Entry;
use crate::event::{AuthEvent, EventResponse, EventRisk, EventType, RiskDecision, Word};
use crate::masking::{Mode, Modes};

/// Describes an entry: event type, user, pool, origin, outcome, and the findings of threat protection.
pub(super) fn about(entry: &Entry) -> String {
    let mut sentence = format!(
        "{} of {} in {}{} {}",
        deed(&entry.event),
        if entry.masked.username == Mode::Keep { &entry.user.username } else { "a user" },
        entry.pool.name,
        origin(&entry.event, entry.masked),
        ending(&entry.event)
    );
    if let Some(risk) = &entry.event.risk {
        for finding in findings(risk) {
            // Writing to a String does not fail.
            let _ = write!(sentence, ", {finding}");
        }
    }
    sentence.push('.');
    sentence
}

fn deed(event: &AuthEvent) -> Cow<'_, str> {
    match &event.event_type {
        Some(Word::Known(EventType::SignIn)) => "Sign-in".into(),
        Some(Word::Known(EventType::SignUp)) => "Sign-up".into(),
        Some(Word::Known(EventType::ForgotPassword)) => "Password reset".into(),
        Some(Word::Known(EventType::PasswordChange)) => "Password change".into(),
        Some(Word::Known(EventType::ResendCode)) => "Code resend".into(),
        Some(Word::Other(word)) => format!("{word} event").into(),
        None => "Event".into(),
    }
}

/// The origin, as far as it is known: ` from 192.0.2.1 (Seattle, United States)`.
fn origin(event: &AuthEvent, masked: Modes) -> String {
    fn known(text: Option<&String>) -> Option<&str> {
        text.map(String::as_str).filter(|text| !text.is_empty())
    }
    let Some(context) = &event.context else {
        return String::new();
    };
    let place: Vec<_> = [&context.city, &context.country].into_iter().filter_map(|it| known(it.as_ref())).collect();
    // A hash means nothing to a person.
    let place = if masked.location == Mode::Hash { String::new() } else { place.join(", ") };
    let address = known(context.ip_address.as_ref()).filter(|_| masked.ip_address != Mode::Hash);
    match (address, place.is_empty()) {
        (Some(address), false) => format!(" from {address} ({place})"),
        (Some(address), true) => format!(" from {address}"),
        (None, false) => format!(" from {place}"),
        (None, true) => String::new(),
    }
}

fn ending(event: &AuthEvent) -> Cow<'_, str> {
    match &event.response {
        Some(Word::Known(EventResponse::Pass)) => "passed".into(),
        Some(Word::Known(EventResponse::Fail)) => "failed".into(),
        Some(Word::Known(EventResponse::InProgress)) => "is in progress".into(),
        Some(Word::Other(word)) => format!("ended with {word}").into(),
        None => "was recorded".into(),
    }
}

fn findings(risk: &EventRisk) -> Vec<Cow<'_, str>> {
    let level = risk.level.as_ref().map(Word::as_str);
    let decision = match &risk.decision {
        Some(Word::Known(RiskDecision::NoRisk)) | None => None,
        Some(Word::Known(RiskDecision::AccountTakeover)) => Some("account takeover suspected"),
        Some(Word::Known(RiskDecision::Block)) => Some("blocked by threat protection"),
        Some(Word::Other(word)) => Some(&**word),
    };
    let decision = match (decision, level) {
        (Some(decision), Some(level)) => Some(format!("{decision} (risk {level})").into()),
        (Some(decision), None) => Some(decision.into()),
        (None, Some(level)) => Some(format!("risk {level}").into()),
        (None, None) => None,
    };
    let compromised =
        (risk.compromised_credentials == Some(true)).then_some("credentials known to be compromised".into());
    decision.into_iter().chain(compromised).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventContext;
    use crate::fixtures::{bare_entry, full_entry};

    #[test]
    fn the_sentence_tells_all_that_is_known() {
        assert_eq!(
            about(&full_entry()),
            "Sign-in of alice in customers from 192.0.2.1 (Seattle, United States) passed, account takeover suspected (risk High)."
        );
    }

    #[test]
    fn the_sentence_of_an_event_without_members_is_still_one() {
        assert_eq!(about(&bare_entry()), "Event of alice in customers was recorded.");
    }

    #[test]
    fn unknown_words_and_lone_findings_read_well() {
        let mut entry = bare_entry();
        entry.event.event_type = Some(Word::parse("Passkey"));
        entry.event.response = Some(Word::parse("Abandoned"));
        entry.event.context = Some(EventContext { country: Some("Chile".into()), ..EventContext::default() });
        entry.event.risk =
            Some(EventRisk { decision: None, level: Some(Word::parse("Low")), compromised_credentials: Some(true) });
        assert_eq!(
            about(&entry),
            "Passkey event of alice in customers from Chile ended with Abandoned, risk Low, credentials known to be compromised."
        );
    }
}
