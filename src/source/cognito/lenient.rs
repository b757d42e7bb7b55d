//! Reads a page that the SDK cannot read, member by member. Pure.
//!
//! The SDK reads a page whole or not at all. One event with a number as its EventId would hide all other events of the
//! page for as long as it is there, which may be two years. Here each event keeps the members that can be read. A
//! member of another type than documented is absent, with everything inside it. An event without any readable member is
//! still an event, and is handled like any event that lacks members.
//!
//! The members that lead to the next page must be sound. A body that is cut off or not JSON, a missing list of events,
//! and a NextToken that is not a text remain errors. A guess there could mistake half a page for the end of a history.

use std::collections::BTreeMap;

use cognito_auth_core::event::UnixMillis;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::wire::{WireChallenge, WireContext, WireEvent, WireFeedback, WirePage, WireRisk};

/// An object's members, not yet parsed. Of two members with one name the last counts.
#[derive(Deserialize, Default)]
#[serde(transparent)]
struct Members<'a>(#[serde(borrow)] BTreeMap<String, &'a RawValue>);

/// Reads the body of an answer; None if it is not a page.
pub(super) fn page(body: &[u8]) -> Option<WirePage> {
    // A broken character damages one text, not the page.
    let text = String::from_utf8_lossy(body);
    let page: Members<'_> = serde_json::from_str(&text).ok()?;
    let events: Vec<&RawValue> = page.sound("AuthEvents")?.unwrap_or_default();
    let next: Option<String> = page.sound("NextToken")?;
    let events = events.into_iter().filter(|event| event.get() != "null").map(event).collect();
    Some(WirePage { events, next: next.filter(|token| !token.is_empty()), served: None })
}

impl<'a> Members<'a> {
    fn of(object: &'a RawValue) -> Self {
        serde_json::from_str(object.get()).unwrap_or_default()
    }

    /// Returns a member that must be valid or absent; None if it is neither.
    fn sound<T: Deserialize<'a>>(&self, name: &str) -> Option<Option<T>> {
        self.0.get(name).map_or(Some(None), |member| serde_json::from_str(member.get()).ok())
    }

    /// Returns a member, if it can be read.
    fn get<T: Deserialize<'a>>(&self, name: &str) -> Option<T> {
        self.sound(name).flatten()
    }

    fn inner(&self, name: &str) -> Option<Members<'a>> {
        self.get(name)
    }

    /// Returns a time, given as seconds since 1970, as documented, or in RFC 3339.
    #[expect(clippy::cast_possible_truncation, reason = "rounded to the millisecond, and saturating where absurd")]
    fn time(&self, name: &str) -> Option<UnixMillis> {
        let seconds: Option<f64> = self.get(name);
        let written = || OffsetDateTime::parse(&self.get::<String>(name)?, &Rfc3339).ok();
        let nanos = |time: OffsetDateTime| UnixMillis::from_secs_and_nanos(time.unix_timestamp(), time.nanosecond());
        seconds.map(|seconds| UnixMillis((seconds * 1000.0).round() as i64)).or_else(|| written().map(nanos))
    }
}

fn event(event: &RawValue) -> WireEvent {
    let members = Members::of(event);
    let challenges: Option<Vec<&RawValue>> = members.get("ChallengeResponses");
    WireEvent {
        event_id: members.get("EventId"),
        event_type: members.get("EventType"),
        creation_date: members.time("CreationDate"),
        event_response: members.get("EventResponse"),
        event_risk: members.inner("EventRisk").map(|risk| WireRisk {
            risk_decision: risk.get("RiskDecision"),
            risk_level: risk.get("RiskLevel"),
            compromised_credentials_detected: risk.get("CompromisedCredentialsDetected"),
        }),
        challenge_responses: challenges.map(|challenges| challenges.into_iter().map(challenge).collect()),
        event_context_data: members.inner("EventContextData").map(|context| WireContext {
            ip_address: context.get("IpAddress"),
            device_name: context.get("DeviceName"),
            timezone: context.get("Timezone"),
            city: context.get("City"),
            country: context.get("Country"),
        }),
        event_feedback: members.inner("EventFeedback").map(|feedback| WireFeedback {
            feedback_value: feedback.get("FeedbackValue"),
            provider: feedback.get("Provider"),
            feedback_date: feedback.time("FeedbackDate"),
        }),
    }
}

fn challenge(challenge: &RawValue) -> WireChallenge {
    let members = Members::of(challenge);
    WireChallenge { challenge_name: members.get("ChallengeName"), challenge_response: members.get("ChallengeResponse") }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::event::AuthEvent;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const SAMPLE: &str = include_str!("../../../tests/samples/01-api-reference-two-events.raw.json");

    fn read(page: &Value) -> Option<WirePage> {
        super::page(page.to_string().as_bytes())
    }

    /// Reads an event with this JSON from between two valid events, and checks that those are read whole.
    fn between_good_ones(json: &str) -> WireEvent {
        let good = |id: &str| format!(r#"{{"EventId":{id:?},"EventType":"SignIn","CreationDate":1.723136049929E9}}"#);
        let text = format!(r#"{{"AuthEvents":[{},{json},{}],"NextToken":"t"}}"#, good("a"), good("b"));
        let page = super::page(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
        let [first, event, last] = page.events.try_into().unwrap();
        for (good, id) in [(first, "a"), (last, "b")] {
            assert_eq!(good.event_id.as_deref(), Some(id));
            assert_eq!(good.creation_date, Some(UnixMillis(1_723_136_049_929)));
        }
        assert_eq!(page.next.as_deref(), Some("t"));
        event
    }

    #[test]
    fn a_member_of_a_wrong_type_is_absent_and_the_rest_of_its_event_is_there() {
        let event = between_good_ones(
            r#"{"EventId":7,"EventType":"SignIn","EventResponse":["Pass"],"CreationDate":"yesterday",
                "EventRisk":[],"ChallengeResponses":[{"ChallengeName":"Mfa","ChallengeResponse":1},7,null],
                "EventContextData":{"City":{},"Country":"Spain"},"EventFeedback":{"Provider":"Admin"}}"#,
        );
        let expected = WireEvent {
            event_type: Some("SignIn".into()),
            challenge_responses: Some(vec![
                WireChallenge { challenge_name: Some("Mfa".into()), challenge_response: None },
                WireChallenge::default(),
                WireChallenge::default(),
            ]),
            event_context_data: Some(WireContext { country: Some("Spain".into()), ..WireContext::default() }),
            event_feedback: Some(WireFeedback { provider: Some("Admin".into()), ..WireFeedback::default() }),
            ..WireEvent::default()
        };
        assert!(event == expected, "{}", serde_json::to_string(&event).unwrap());
        let meant = AuthEvent::from(event);
        assert_eq!(meant.feedback.unwrap().value, None, "no word, and not an empty one");
    }

    #[test]
    fn whatever_stands_in_an_events_place_is_one_event_that_says_nothing() {
        for json in ["{}", "7", "\"text\"", "[]", "[{}]", "true", "{\"EventId\":null}"] {
            assert!(between_good_ones(json) == WireEvent::default(), "{json}");
        }
    }

    #[test]
    fn a_date_in_words_that_are_a_date_is_one() {
        let event = between_good_ones(r#"{"EventId":7,"CreationDate":"2024-06-27T10:49:59.139-07:00"}"#);
        assert_eq!(event.creation_date.unwrap().to_string(), "2024-06-27T17:49:59.139Z");
    }

    #[test]
    fn half_a_character_costs_its_text_and_nothing_else() {
        let event = between_good_ones(r#"{"EventId":"x","EventContextData":{"DeviceName":"\ud83d","City":"Lugo"}}"#);
        assert_eq!(event.event_id.as_deref(), Some("x"));
        let context = event.event_context_data.unwrap();
        assert_eq!((context.device_name, context.city.as_deref()), (None, Some("Lugo")));
        let broken = b"{\"AuthEvents\":[{\"EventId\":\"x\",\"EventType\":\"\xff\"}]}";
        assert_eq!(super::page(broken).unwrap().events[0].event_id.as_deref(), Some("x"));
    }

    #[test]
    fn what_leads_on_has_to_be_sound() {
        let whole = r#"{"AuthEvents":[{"EventId":7}],"NextToken":"t"}"#;
        assert!(super::page(whole.as_bytes()).is_some());
        for cut in 0..whole.len() {
            assert!(super::page(&whole.as_bytes()[..cut]).is_none(), "{}", &whole[..cut]);
        }
        for no_page in [
            json!([]),
            json!(7),
            json!(null),
            json!({ "AuthEvents": {} }),
            json!({ "AuthEvents": "none" }),
            json!({ "AuthEvents": [{ "EventId": 7 }], "NextToken": 7 }),
            json!({ "AuthEvents": [], "NextToken": ["t"] }),
        ] {
            assert!(read(&no_page).is_none(), "{no_page}");
        }
        assert!(super::page(b"<html></html>").is_none());
        assert!(super::page(format!("{whole} and more").as_bytes()).is_none());
    }

    /// Any JSON, not too deep.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("EventId|CreationDate|.{0,4}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Every place in a JSON, as pointers to it.
    fn places(value: &Value, at: &str, places: &mut Vec<String>) {
        places.push(at.to_owned());
        match value {
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, item)| places_in(item, at, &index.to_string(), places));
            }
            Value::Object(members) => members.iter().for_each(|(name, member)| places_in(member, at, name, places)),
            _ => {}
        }
    }

    fn places_in(value: &Value, at: &str, name: &str, found: &mut Vec<String>) {
        places(value, &format!("{at}/{name}"), found);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_page_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = super::page(&bytes);
        }

        #[test]
        fn a_page_of_which_any_bytes_were_changed_gives_no_more_events_than_it_has(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = SAMPLE.as_bytes().to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(page) = super::page(&bytes) {
                let there: Value = serde_json::from_str(&String::from_utf8_lossy(&bytes)).unwrap_or_default();
                let count = there["AuthEvents"].as_array().map(Vec::len);
                prop_assert!(count.is_none_or(|count| page.events.len() <= count));
                page.events.into_iter().for_each(|event| { AuthEvent::from(event).key(); });
            }
        }

        #[test]
        fn any_json_in_any_place_costs_that_place_and_nothing_else(
            at in any::<prop::sample::Index>(),
            json in any_json(),
        ) {
            let before: Value = serde_json::from_str(SAMPLE).unwrap();
            let mut all = vec![];
            places(&before, "", &mut all);
            let place = &all[at.index(all.len())];
            let mut after = before.clone();
            *after.pointer_mut(place).unwrap() = json.clone();
            let whole = read(&before).unwrap();
            let Some(page) = read(&after) else {
                // Only the members that lead to the next page may cost the page.
                prop_assert!(["", "/AuthEvents", "/NextToken"].contains(&place.as_str()), "{place} {json}");
                return Ok(());
            };
            let there = after["AuthEvents"]
                .as_array()
                .map_or(0, |events| events.iter().filter(|event| !event.is_null()).count());
            prop_assert_eq!(page.events.len(), there);
            for (index, event) in whole.events.iter().enumerate() {
                if place.starts_with("/AuthEvents/") && !place.starts_with(&format!("/AuthEvents/{index}")) {
                    prop_assert!(page.events.contains(event), "{place} {json}");
                }
            }
        }
    }
}
