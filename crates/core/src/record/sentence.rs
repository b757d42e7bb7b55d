//! A record's body: one sentence that describes the event for a person. Machines read the attributes.

use crate::entry::Entry;
use crate::event::{AuthEvent, EventResponse, EventRisk, EventType, RiskDecision, Word};
use crate::masking::{Mode, Modes};

/// The room for a sentence, in bytes. Most have 80 to 130.
const SENTENCE_CAPACITY: usize = 160;

/// Describes an entry: event type, user, pool, origin, outcome, and the findings of threat protection.
pub(super) fn about(entry: &Entry) -> String {
    let mut sentence = Sentence(String::with_capacity(SENTENCE_CAPACITY));
    sentence.deed(&entry.event);
    let user = if entry.masked.username == Mode::Keep { &entry.user.username } else { "a user" };
    sentence.say([" of ", user, " in ", &entry.pool.name]);
    sentence.origin(&entry.event, entry.masked);
    sentence.ending(&entry.event);
    if let Some(risk) = &entry.event.risk {
        sentence.findings(risk);
    }
    sentence.say(["."]);
    sentence.0
}

/// A sentence under construction. It is written in place, because every record has one.
struct Sentence(String);

impl Sentence {
    fn say<const N: usize>(&mut self, words: [&str; N]) {
        self.0.extend(words);
    }

    fn deed(&mut self, event: &AuthEvent) {
        match &event.event_type {
            Some(Word::Known(EventType::SignIn)) => self.say(["Sign-in"]),
            Some(Word::Known(EventType::SignUp)) => self.say(["Sign-up"]),
            Some(Word::Known(EventType::ForgotPassword)) => self.say(["Password reset"]),
            Some(Word::Known(EventType::PasswordChange)) => self.say(["Password change"]),
            Some(Word::Known(EventType::ResendCode)) => self.say(["Code resend"]),
            Some(Word::Other(word)) => self.say([word, " event"]),
            None => self.say(["Event"]),
        }
    }

    /// The origin, as far as it is known: ` from 192.0.2.1 (Seattle, United States)`.
    fn origin(&mut self, event: &AuthEvent, masked: Modes) {
        fn known(text: Option<&String>) -> Option<&str> {
            text.map(String::as_str).filter(|text| !text.is_empty())
        }
        let Some(context) = &event.context else { return };
        // A hash means nothing to a person.
        let is_placed = masked.location != Mode::Hash;
        let city = known(context.city.as_ref()).filter(|_| is_placed);
        let country = known(context.country.as_ref()).filter(|_| is_placed);
        let address = known(context.ip_address.as_ref()).filter(|_| masked.ip_address != Mode::Hash);
        let [before, after] = match address {
            Some(address) => {
                self.say([" from ", address]);
                [" (", ")"]
            }
            None => [" from ", ""],
        };
        match (city, country) {
            (Some(city), Some(country)) => self.say([before, city, ", ", country, after]),
            (Some(place), None) | (None, Some(place)) => self.say([before, place, after]),
            (None, None) => {}
        }
    }

    fn ending(&mut self, event: &AuthEvent) {
        match &event.response {
            Some(Word::Known(EventResponse::Pass)) => self.say([" passed"]),
            Some(Word::Known(EventResponse::Fail)) => self.say([" failed"]),
            Some(Word::Known(EventResponse::InProgress)) => self.say([" is in progress"]),
            Some(Word::Other(word)) => self.say([" ended with ", word]),
            None => self.say([" was recorded"]),
        }
    }

    fn findings(&mut self, risk: &EventRisk) {
        let level = risk.level.as_ref().map(Word::as_str);
        let decision = match &risk.decision {
            Some(Word::Known(RiskDecision::NoRisk)) | None => None,
            Some(Word::Known(RiskDecision::AccountTakeover)) => Some("account takeover suspected"),
            Some(Word::Known(RiskDecision::Block)) => Some("blocked by threat protection"),
            Some(Word::Other(word)) => Some(&**word),
        };
        match (decision, level) {
            (Some(decision), Some(level)) => self.say([", ", decision, " (risk ", level, ")"]),
            (Some(decision), None) => self.say([", ", decision]),
            (None, Some(level)) => self.say([", risk ", level]),
            (None, None) => {}
        }
        if risk.compromised_credentials == Some(true) {
            self.say([", credentials known to be compromised"]);
        }
    }
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
