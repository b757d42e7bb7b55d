//! The decoder of exported records: the published sample, every dress in which a record may come, and bad records among
//! good ones.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;

use cognito_auth_core::event::{
    AuthEvent, Challenge, EventContext, EventFeedback, EventRisk, RiskDecision, UnixMillis, Word,
};
use cognito_auth_core::export::{DecodedDocument, ExportedEvent, UnreadableReason, decode};
use cognito_auth_simulator::export::ExportRecord;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

const POOL: &str = "us-west-2_EXAMPLE";
const LIMIT: usize = 1 << 20;

/// AWS's published record.
const PUBLISHED: &str = r#"{"eventTimestamp": "1687297330677", "eventSource": "USER_ACTIVITY", "logLevel": "INFO",
    "message": {"version": "1", "eventId": "a1b2c3d4-5678-90ab-cdef-EXAMPLE11111", "eventType": "SignUp",
    "userSub": "a1b2c3d4-5678-90ab-cdef-EXAMPLE22222", "userName": "test-user", "userPoolId": "us-west-2_EXAMPLE",
    "clientId": "1example23456789", "creationDate": "Wed Jul 17 17:25:55 UTC 2024", "eventResponse": "InProgress",
    "riskLevel": "", "riskDecision": "PASS", "challenges": [], "deviceName": "Other, Other",
    "ipAddress": "192.0.2.1", "requestId": "a1b2c3d4-5678-90ab-cdef-EXAMPLE33333", "idpName": "",
    "compromisedCredentialDetected": "false", "city": "Seattle", "country": "United States",
    "eventFeedbackValue": "", "eventFeedbackDate": "", "eventFeedbackProvider": "", "hasContextData": "true"},
    "logSourceId": {"userPoolId": "us-west-2_EXAMPLE"}}"#;

fn published() -> Value {
    serde_json::from_str(PUBLISHED).unwrap()
}

/// The published record with another value of one of its message's members.
fn with(member: &str, value: Value) -> Value {
    let mut record = published();
    record["message"][member] = value;
    record
}

fn decoded(document: &str) -> DecodedDocument {
    decode(document.as_bytes(), LIMIT)
}

fn only_event(record: &Value) -> ExportedEvent {
    let document = decoded(&record.to_string());
    assert_eq!((document.events.len(), document.unreadable.len()), (1, 0), "{record}");
    document.events.into_iter().next().unwrap()
}

fn only_reason(document: &str) -> UnreadableReason {
    let document = decoded(document);
    assert_eq!((document.events.len(), document.unreadable.len()), (0, 1));
    document.unreadable.into_iter().next().unwrap().reason
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A message of a CloudWatch Logs subscription.
fn wrapper(messages: &[String]) -> Value {
    let events = messages.iter().map(|message| json!({"id": "1", "timestamp": 1, "message": message}));
    json!({
        "messageType": "DATA_MESSAGE", "owner": "123456789012", "logGroup": "/aws/vendedlogs/cognito",
        "logStream": "s", "subscriptionFilters": ["f"], "logEvents": events.collect::<Vec<_>>(),
    })
}

#[test]
fn the_published_record_becomes_an_event_with_the_apis_words() {
    let exported = only_event(&published());
    assert_eq!((exported.pool_id.as_str(), exported.username.as_str()), (POOL, "test-user"));
    assert_eq!(exported.sub.as_deref(), Some("a1b2c3d4-5678-90ab-cdef-EXAMPLE22222"));
    assert!(exported.date_in_seconds);
    let details = (exported.details.client_id, exported.details.request_id, exported.details.idp_name);
    let expected = ("1example23456789".to_owned(), "a1b2c3d4-5678-90ab-cdef-EXAMPLE33333".to_owned());
    assert_eq!(details, (Some(expected.0), Some(expected.1), None));
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        exported.event,
        AuthEvent {
            id: text("a1b2c3d4-5678-90ab-cdef-EXAMPLE11111"),
            event_type: Some(Word::parse("SignUp")),
            creation_date: Some(UnixMillis(1_721_237_155_000)),
            response: Some(Word::parse("InProgress")),
            risk: Some(EventRisk {
                decision: Some(Word::Known(RiskDecision::NoRisk)),
                level: None,
                compromised_credentials: Some(false),
            }),
            challenges: vec![],
            context: Some(EventContext {
                ip_address: text("192.0.2.1"),
                device_name: text("Other, Other"),
                timezone: None,
                city: text("Seattle"),
                country: text("United States"),
            }),
            feedback: None,
        }
    );
}

#[test]
fn both_names_of_the_source_and_an_unknown_one_around_an_event_are_ours() {
    for source in ["USER_ACTIVITY", "USER_AUTH_EVENTS", "USER_AUTHENTICATION"] {
        let mut record = published();
        record["eventSource"] = json!(source);
        assert_eq!(only_event(&record).event, only_event(&published()).event);
    }
    let notification = json!({"eventSource": "USER_NOTIFICATION", "message": {"details": "SMS failure"}});
    let document = decoded(&notification.to_string());
    assert_eq!((document.events.len(), document.unreadable.len(), document.ignored), (0, 0, 1));
}

#[test]
fn unknown_words_are_kept_verbatim() {
    let exported = only_event(&with("riskDecision", json!("SUSPICIOUS")));
    assert_eq!(exported.event.risk.unwrap().decision, Some(Word::Other("SUSPICIOUS".into())));
    let exported = only_event(&with("eventType", json!("PasskeySignIn")));
    assert_eq!(exported.event.event_type, Some(Word::Other("PasskeySignIn".into())));
}

#[test]
fn challenges_are_read_in_both_ways_of_writing() {
    let both = json!([
        {"challengeName": "Password", "challengeResponse": "Success"},
        {"ChallengeName": "Mfa", "ChallengeResponse": "Failure"},
    ]);
    let challenges = only_event(&with("challenges", both)).event.challenges;
    let expected = [("Password", "Success"), ("Mfa", "Failure")];
    let expected = expected
        .map(|(name, response)| Challenge { name: Some(Word::parse(name)), response: Some(Word::parse(response)) });
    assert_eq!(challenges, expected);
}

#[test]
fn a_record_that_does_not_name_its_pool_user_and_event_is_unreadable() {
    let reason = |member, value| only_reason(&with(member, value).to_string());
    assert_eq!(reason("eventId", json!("")), UnreadableReason::Absent("eventId"));
    assert_eq!(reason("eventId", json!("x".repeat(70_000))), UnreadableReason::NotValid("eventId"));
    assert_eq!(reason("userName", json!(null)), UnreadableReason::Absent("userName"));
    assert_eq!(reason("userName", json!("two words")), UnreadableReason::NotValid("userName"));
    assert_eq!(reason("userName", json!("ü".repeat(129))), UnreadableReason::NotValid("userName"));
    assert_eq!(only_event(&with("userName", json!("ü".repeat(128)))).username.chars().count(), 128);
    assert_eq!(reason("userPoolId", json!("us-west-2_OTHER")), UnreadableReason::TwoPools);
    for pool_id in ["us-west-2", "_A", "us-west-2_", "us west-2_A", "us-west-2_Ä", &"a".repeat(60)] {
        let mut record = with("userPoolId", json!(pool_id));
        record["logSourceId"] = json!(null);
        assert_eq!(only_reason(&record.to_string()), UnreadableReason::NotValid("userPoolId"), "{pool_id}");
    }
    let mut record = with("userPoolId", json!(""));
    record["logSourceId"] = json!({});
    assert_eq!(only_reason(&record.to_string()), UnreadableReason::Absent("userPoolId"));
    assert_eq!(only_reason(r#"{"eventSource": "USER_ACTIVITY"}"#), UnreadableReason::Absent("message"));
    assert_eq!(only_reason("[1, 2]"), UnreadableReason::Absent("message"));
}

#[test]
fn one_pool_name_is_enough() {
    assert_eq!(only_event(&with("userPoolId", json!(""))).pool_id, POOL);
    let mut record = published();
    record["logSourceId"] = json!({});
    assert_eq!(only_event(&record).pool_id, POOL);
}

#[test]
fn a_date_that_cannot_be_read_is_absent_and_the_event_is_kept() {
    for date in ["", "Wed Jul 17 17:25:55 PDT 2024", "soon", "99999999999999999"] {
        let exported = only_event(&with("creationDate", json!(date)));
        assert_eq!((exported.event.creation_date, exported.event.id.is_some()), (None, true), "{date}");
    }
    let exported = only_event(&with("creationDate", json!(1_721_237_155_123_i64)));
    assert_eq!(exported.event.creation_date, Some(UnixMillis(1_721_237_155_123)));
    assert!(!exported.date_in_seconds);
}

#[test]
fn bytes_that_are_no_json_cost_themselves_only() {
    let good = published().to_string();
    let document = decoded(&format!("{good}{good}\n{{\"eventId\": \nnonsense\n{good}\n42\n{good} trailing"));
    assert_eq!(document.events.len(), 4);
    let unreadable: Vec<_> = document.unreadable.iter().map(|record| record.bytes.as_slice()).collect();
    assert_eq!(unreadable, [b"{\"eventId\": \nnonsense".as_slice(), b"42", b"trailing"]);
}

#[test]
fn a_wrapper_holds_messages_and_a_control_message_none() {
    let good = published().to_string();
    let document = decoded(&wrapper(&[good.clone(), "{}".into(), format!("{good}{good}")]).to_string());
    assert_eq!((document.events.len(), document.unreadable.len()), (3, 1));
    let control = json!({"messageType": "CONTROL_MESSAGE", "logEvents": [{"message": "CWL CONTROL MESSAGE"}]});
    let document = decoded(&control.to_string());
    assert_eq!((document.events.len(), document.unreadable.len(), document.ignored), (0, 0, 1));
    // A wrapper is not opened inside a wrapper.
    let nested = wrapper(&[wrapper(&[good]).to_string()]).to_string();
    assert_eq!(only_reason(&nested), UnreadableReason::Absent("message"));
    assert_eq!(only_reason(r#"{"messageType": "DATA_MESSAGE"}"#), UnreadableReason::Absent("logEvents"));
}

#[test]
fn gzip_is_inflated_up_to_the_limit() {
    let good = published().to_string();
    let compressed = gzip(good.as_bytes());
    assert_eq!(decode(&compressed, good.len()).events.len(), 1);
    let document = decode(&compressed, good.len() - 1);
    assert_eq!(
        document.unreadable.first().map(|record| &record.reason),
        Some(&UnreadableReason::TooLarge { limit: good.len() - 1 })
    );
    assert_eq!(document.unreadable.first().map(|record| &record.bytes), Some(&compressed));
    let document = decode(compressed.get(..40).unwrap(), LIMIT);
    assert_eq!(document.unreadable.first().map(|record| &record.reason), Some(&UnreadableReason::Gzip));
    // Members of gzip may be concatenated, too.
    let twice = [gzip(good.as_bytes()), gzip(good.as_bytes())].concat();
    assert_eq!(decode(&twice, LIMIT).events.len(), 2);
}

#[test]
fn a_debug_text_shows_no_personal_data() {
    let document = decoded(&format!("{}{{\"secret\": \"alice\"}}", published()));
    let text = format!("{document:?}");
    for personal in ["test-user", "192.0.2.1", "Seattle", "alice", "EXAMPLE22222"] {
        assert!(!text.contains(personal), "{personal} in {text}");
    }
}

fn a_word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["SignIn", "Pass", "InProgress", "High", "Block", "Password", "New Word"])
}

fn an_event() -> impl Strategy<Value = AuthEvent> {
    let risk = (option::of(a_word()), option::of(a_word()), any::<bool>());
    let challenges = vec((a_word(), a_word()), 0..3);
    let context = option::of(("[a-z0-9.:]{1,12}", option::of("[A-Z][a-z ,\"\\\\]{0,9}")));
    let feedback = option::of((a_word(), 0..4_000_000_i64));
    ("[0-9a-f-]{1,36}", a_word(), a_word(), 0..4_000_000_000_i64, (risk, challenges, context, feedback)).prop_map(
        |(id, event_type, response, seconds, (risk, challenges, context, feedback))| AuthEvent {
            id: Some(id),
            event_type: Some(Word::parse(event_type)),
            creation_date: Some(UnixMillis(seconds * 1000 + 999)),
            response: Some(Word::parse(response)),
            risk: Some(EventRisk {
                decision: risk.0.map(Word::parse),
                level: risk.1.map(Word::parse),
                compromised_credentials: Some(risk.2),
            }),
            challenges: challenges
                .into_iter()
                .map(|(name, response)| Challenge {
                    name: Some(Word::parse(name)),
                    response: Some(Word::parse(response)),
                })
                .collect(),
            context: context.map(|(address, device)| EventContext {
                ip_address: Some(address),
                device_name: device,
                ..EventContext::default()
            }),
            feedback: feedback.map(|(value, seconds)| EventFeedback {
                value: Some(Word::parse(value)),
                provider: Some("Admin".into()),
                date: Some(UnixMillis(seconds * 1000)),
            }),
        },
    )
}

/// A JSON value of any shape.
fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    scalar.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map("[a-zA-Z]{0,10}", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The ways in which the records of a document may be put together.
#[derive(Clone, Copy, Debug)]
enum Dress {
    Lines,
    Concatenated,
    Wrapped,
    WrappedInGzip,
}

fn dressed(records: &[Value], dress: Dress) -> Vec<u8> {
    let texts: Vec<String> = records.iter().map(Value::to_string).collect();
    match dress {
        Dress::Lines => texts.join("\n").into_bytes(),
        Dress::Concatenated => texts.concat().into_bytes(),
        Dress::Wrapped => wrapper(&texts).to_string().into_bytes(),
        Dress::WrappedInGzip => gzip(wrapper(&texts).to_string().as_bytes()),
    }
}

fn a_dress() -> impl Strategy<Value = Dress> {
    prop::sample::select(vec![Dress::Lines, Dress::Concatenated, Dress::Wrapped, Dress::WrappedInGzip])
}

proptest! {
    #[test]
    fn every_event_is_read_as_the_api_tells_it_but_in_whole_seconds(
        events in vec(an_event(), 0..6),
        dress in a_dress(),
        source in prop::sample::select(vec!["USER_ACTIVITY", "USER_AUTH_EVENTS"]),
    ) {
        let record = |event| {
            let record = ExportRecord { pool_id: POOL, username: "alice", sub: "s", event, source, sent: UnixMillis(0) };
            record.to_json()
        };
        let document = decode(&dressed(&events.iter().map(record).collect::<Vec<_>>(), dress), LIMIT);
        prop_assert_eq!(&document.unreadable, &[]);
        let in_seconds = |event: AuthEvent| AuthEvent {
            creation_date: event.creation_date.map(|date| UnixMillis(date.0 - 999)),
            ..event
        };
        let read: Vec<_> = document.events.into_iter().map(|exported| exported.event).collect();
        prop_assert_eq!(read, events.into_iter().map(in_seconds).collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_panic_and_none_are_dropped_silently(bytes in vec(any::<u8>(), 0..200)) {
        let document = decode(&bytes, LIMIT);
        prop_assert!(bytes.trim_ascii().is_empty() || document != DecodedDocument::default());
    }

    #[test]
    fn a_member_of_any_shape_spoils_no_other_record(
        member in prop::sample::select(published()["message"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()),
        value in any_json(),
        dress in a_dress(),
    ) {
        let document = decode(&dressed(&[published(), with(&member, value), published()], dress), LIMIT);
        prop_assert_eq!(document.events.len() + document.unreadable.len(), 3);
        prop_assert!(document.events.len() >= 2);
    }
}
