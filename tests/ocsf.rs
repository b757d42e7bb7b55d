//! OCSF bodies against the published schemas of all versions. Whatever Cognito sends, the OCSF event is valid.

use std::sync::Arc;

use cognito_auth_core::entry::{Entry, PoolIdentity, UserIdentity};
use cognito_auth_core::event::{
    AuthEvent, Challenge, ChallengeName, EventContext, EventResponse, EventRisk, EventType, RiskDecision, RiskLevel,
    UnixMillis, Vocabulary, Word,
};
use cognito_auth_core::fixtures::full_entry;
use cognito_auth_core::masking::{Mode, Modes};
use cognito_auth_core::ocsf::{self, OcsfVersion};
use cognito_auth_core::privacy::{HashKey, Privacy};
use cognito_auth_core::record::{Record, TimestampSource};
use cognito_auth_exporter::sink::stdout::JsonValue;
use serde_json::{Map, Value, json};

const VERSIONS: [OcsfVersion; 2] = [OcsfVersion::V1_8, OcsfVersion::V1_9];

/// The two classes and the objects in bodies, each with all its attributes. The file names its source.
fn schema(version: OcsfVersion) -> Value {
    let text = match version {
        OcsfVersion::V1_8 => include_str!("ocsf-1.8.0.json"),
        OcsfVersion::V1_9 => include_str!("ocsf-1.9.0.json"),
    };
    serde_json::from_str(text).unwrap()
}

/// A word of every kind: none, empty, each documented one, and an unknown one.
fn words<V: Vocabulary>() -> Vec<Option<Word<V>>> {
    let known = V::ALL.iter().map(|known| Some(Word::Known(*known)));
    known.chain([None, Some(Word::parse("")), Some(Word::parse("Novel"))]).collect()
}

fn entry(event: AuthEvent) -> Entry {
    Entry { event, ..full_entry() }
}

fn full_event() -> AuthEvent {
    AuthEvent { challenges: challenges(&[Some("Password"), Some("Mfa")]), ..full_entry().event }
}

fn challenges(names: &[Option<&str>]) -> Vec<Challenge> {
    let challenge = |name: &Option<&str>| Challenge {
        name: name.map(Word::<ChallengeName>::parse),
        response: Some(Word::parse("Success")),
    };
    names.iter().map(challenge).collect()
}

fn body_in(version: OcsfVersion, entry: &Entry) -> Value {
    let record = Record::of(entry, TimestampSource::Event);
    serde_json::to_value(JsonValue(&ocsf::body(version, entry, &record))).unwrap()
}

/// A body for tests of what is in every version the same, as `the_versions_differ_only_in_changes_to_a_user` shows.
fn body(entry: &Entry) -> Value {
    body_in(OcsfVersion::V1_8, entry)
}

/// The faults of an event by the definition of its class.
fn faults(schema: &Value, event: &Value) -> Vec<String> {
    let class = &schema["classes"][event["class_uid"].to_string()];
    if class.is_null() {
        return vec![format!("class_uid is {}", event["class_uid"])];
    }
    let mut faults = Vec::new();
    examine(schema, class, event, "", &mut faults);
    let type_uid = event["class_uid"].as_i64().zip(event["activity_id"].as_i64()).map(|(class, id)| class * 100 + id);
    if event["type_uid"].as_i64() != type_uid {
        faults.push(format!("type_uid is {}", event["type_uid"]));
    }
    if event["metadata"]["version"] != schema["version"] {
        faults.push("metadata.version is another".to_owned());
    }
    faults
}

fn examine(schema: &Value, definition: &Value, object: &Value, at: &str, faults: &mut Vec<String>) {
    let Some(object) = object.as_object() else {
        faults.push(format!("{at} is no object"));
        return;
    };
    let attributes = definition["attributes"].as_object().unwrap();
    for (name, attribute) in attributes {
        if attribute["required"] == true && !object.contains_key(name) {
            faults.push(format!("{at}{name} is required"));
        }
    }
    if let Some(choice) = definition["constraints"]["at_least_one"].as_array()
        && !choice.iter().any(|name| object.contains_key(name.as_str().unwrap()))
    {
        faults.push(format!("{at} has none of {choice:?}"));
    }
    for (name, value) in object {
        let path = format!("{at}{name}");
        let Some(attribute) = attributes.get(name) else {
            faults.push(format!("{path} is not in the schema"));
            continue;
        };
        let of_array = value.as_array().filter(|_| attribute["array"] == true);
        for value in of_array.map_or(std::slice::from_ref(value), Vec::as_slice) {
            let kind = attribute["type"].as_str().unwrap();
            let is_right = match kind {
                "integer_t" | "long_t" | "timestamp_t" => value.is_i64(),
                "boolean_t" => value.is_boolean(),
                "string_t" | "username_t" => value.as_str().is_some_and(|text| !text.is_empty()),
                "ip_t" => value.as_str().is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok()),
                "object" => value.is_object(),
                _ => {
                    examine(schema, &schema["objects"][kind], value, &format!("{path}."), faults);
                    true
                }
            };
            if !is_right {
                faults.push(format!("{path} is {value}, no {kind}"));
            }
        }
        examine_enumeration(attribute, object, value, &path, faults);
    }
}

/// A number is one of the enumeration's, and its sibling has the caption. Beside 99 ("Other") the sibling has the
/// source's word.
fn examine_enumeration(
    attribute: &Value,
    object: &Map<String, Value>,
    value: &Value,
    path: &str,
    faults: &mut Vec<String>,
) {
    let Some(captions) = attribute["enum"].as_object() else { return };
    let caption = captions.get(&value.to_string());
    let sibling = attribute["sibling"].as_str().and_then(|sibling| object.get(sibling));
    if caption.is_none() {
        faults.push(format!("{path} is {value}, which is not one of {captions:?}"));
    } else if *value == 99 && sibling.is_none() {
        faults.push(format!("{path} is 99, and nothing says what"));
    } else if *value != 99 && sibling != caption {
        faults.push(format!("{path} is {value}, but is called {sibling:?}"));
    }
}

/// An event of every combination of type, response and risk, in full and otherwise empty.
fn events() -> Vec<AuthEvent> {
    let mut events = Vec::new();
    for event_type in words::<EventType>() {
        for response in words::<EventResponse>() {
            for decision in words::<RiskDecision>() {
                for level in words::<RiskLevel>() {
                    let risk = EventRisk { decision: decision.clone(), level, compromised_credentials: Some(true) };
                    for rest in [full_event(), AuthEvent::default()] {
                        let (event_type, response) = (event_type.clone(), response.clone());
                        events.push(AuthEvent { event_type, response, risk: Some(risk.clone()), ..rest });
                    }
                }
            }
        }
    }
    assert_eq!(events.len(), 8 * 6 * 6 * 6 * 2);
    events
}

#[test]
fn whatever_cognito_tells_the_event_is_a_valid_one() {
    for version in VERSIONS {
        let schema = schema(version);
        for event in events() {
            let body = body_in(version, &entry(event.clone()));
            assert_eq!(faults(&schema, &body), [""; 0], "{event:?}: {body:#}");
        }
    }
}

/// A search that does not ask for the class of a change, or for its activity by number, is the same in both versions.
#[test]
fn the_versions_differ_only_in_changes_to_a_user() {
    for event in events() {
        let event_type = event.event_type.clone();
        let entry = entry(event);
        let [mut older, newer] = VERSIONS.map(|version| body_in(version, &entry));
        let is_change = matches!(event_type, Some(Word::Known(known)) if known != EventType::SignIn);
        assert_eq!(older["class_uid"] == 3001, is_change, "{event_type:?}");
        if is_change {
            let activity = match (older["activity_id"].as_i64(), event_type) {
                (Some(3), Some(Word::Known(EventType::PasswordChange))) => 8,
                (Some(4), Some(Word::Known(EventType::ForgotPassword))) => 9,
                (Some(same), Some(Word::Known(EventType::SignUp | EventType::ResendCode))) => same,
                unexpected => panic!("{unexpected:?}"),
            };
            older["class_uid"] = json!(3007);
            older["class_name"] = json!("User Management");
            older["activity_id"] = json!(activity);
            older["type_uid"] = json!(300_700 + activity);
            older["type_name"] =
                json!(older["type_name"].as_str().unwrap().replace("Account Change", "User Management"));
        }
        older["metadata"]["version"] = json!("1.9.0");
        assert_eq!(older, newer);
    }
}

#[test]
fn an_event_is_valid_whatever_of_it_is_absent() {
    let context = |change: fn(&mut EventContext)| {
        let mut event = full_event();
        change(event.context.as_mut().unwrap());
        event
    };
    let mut entries: Vec<Entry> = [
        AuthEvent::default(),
        context(|context| context.ip_address = None),
        context(|context| context.ip_address = Some("192.0.2.0/24".into())),
        context(|context| context.ip_address = Some("2001:db8::1".into())),
        context(|context| (context.city, context.country) = (None, None)),
        context(|context| context.country = Some("Atlantis".into())),
        AuthEvent { challenges: challenges(&[None, Some(""), Some("Novel")]), ..full_event() },
        AuthEvent { creation_date: Some(UnixMillis(i64::MIN)), ..full_event() },
    ]
    .map(entry)
    .into();
    let mut nobody = entry(full_event());
    nobody.user = Arc::new(UserIdentity { username: String::new(), sub: None });
    nobody.pool = Arc::new(PoolIdentity { account_id: None, ..(*nobody.pool).clone() });
    entries.push(nobody);
    for version in VERSIONS {
        let schema = schema(version);
        for entry in &entries {
            let body = body_in(version, entry);
            assert_eq!(faults(&schema, &body), [""; 0], "{body:#}");
        }
    }
}

/// In each mode, alone and with all others dropped, the event is valid and contains nothing that privacy hides.
#[test]
fn an_event_is_valid_and_tells_only_what_privacy_allows() {
    let schema = schema(OcsfVersion::V1_8);
    let modes = [Mode::Keep, Mode::Hash, Mode::Truncate, Mode::Drop];
    let key = || HashKey::new(&[7; 32]).unwrap();
    let mut examined = 0;
    for rest in [Mode::Keep, Mode::Drop] {
        let rest = Modes { username: rest, ip_address: rest, device: rest, location: rest };
        for mode in modes {
            for (modes, personal) in [
                (Modes { username: mode, ..rest }, &["alice", "Admin"][..]),
                (Modes { ip_address: mode, ..rest }, &["192.0.2.1"]),
                (Modes { device: mode, ..rest }, &["Chrome"]),
                (Modes { location: mode, ..rest }, &["Seattle", "United States", "US", "-07:00"]),
            ] {
                let private = Privacy::new(modes, Some(key()), None).unwrap().apply(entry(full_event()));
                let body = body(&private);
                assert_eq!(faults(&schema, &body), [""; 0], "{modes:?}: {body:#}");
                let (mut told, text) = (Vec::new(), body.to_string());
                leaves(&body, &mut told);
                let hides = |mode| matches!(mode, Mode::Hash | Mode::Drop);
                for word in personal.iter().filter(|_| hides(mode)) {
                    assert!(!told.contains(&json!(word)) && (*word == "US" || !text.contains(word)), "{word}: {text}");
                }
                if modes.ip_address == Mode::Truncate {
                    assert_eq!(body["src_endpoint"]["ip"], "192.0.2.0");
                    assert!(!text.contains("192.0.2.1"), "{text}");
                }
                examined += 1;
            }
        }
    }
    assert_eq!(examined, 2 * 4 * 4);
    // A hash appears where the schema has a place for it.
    let all = Modes { username: Mode::Hash, ip_address: Mode::Hash, device: Mode::Hash, location: Mode::Hash };
    let hashed = body(&Privacy::new(all, Some(key()), None).unwrap().apply(entry(full_event())));
    assert_eq!(hashed["user"]["name"], key().hash("alice"));
    assert_eq!(hashed["user"]["uid"], key().hash("sub-of-alice"));
    assert_eq!(hashed["src_endpoint"]["uid"], key().hash("192.0.2.1"));
    assert_eq!(hashed["src_endpoint"]["location"]["city"], key().hash("Seattle"));
    assert_eq!(hashed["unmapped"]["aws.cognito.device.name"], key().hash("Chrome 126, Windows 10"));
}

#[test]
fn a_broken_event_is_found_out() {
    let schema = schema(OcsfVersion::V1_8);
    let whole = body(&entry(full_event()));
    for (pointer, value, fault) in [
        ("/class_uid", json!(3003), "class_uid is 3003"),
        ("/activity_id", json!(7), "activity_id is 7, but is called"),
        ("/activity_id", json!(55), "activity_id is 55, which is not one of"),
        ("/type_uid", json!(300_202), "type_uid is 300202"),
        ("/time", json!("today"), "time is \"today\", no timestamp_t"),
        ("/user", json!({"uid_alt": "x"}), "user. has none of"),
        ("/src_endpoint/ip", json!("here"), "src_endpoint.ip is \"here\", no ip_t"),
        ("/src_endpoint/location", json!({}), "src_endpoint.location. has none of"),
        ("/metadata/product", json!({"name": ""}), "metadata.product.name is \"\", no string_t"),
        ("/metadata", json!({"version": "1.8.0"}), "metadata.product is required"),
        ("/auth_factors", json!([{"factor_type_id": 99}]), "auth_factors.factor_type_id is 99, and nothing says what"),
        ("/cloud", json!({"provider": "AWS", "weather": "rain"}), "cloud.weather is not in the schema"),
    ] {
        let mut broken = whole.clone();
        *broken.pointer_mut(pointer).unwrap() = value;
        let faults = faults(&schema, &broken);
        assert!(faults.iter().any(|found| found.starts_with(fault)), "{fault}: {faults:?}");
    }
}

/// Each version's schema accepts only its own events. So the validity of all events says something of each version.
#[test]
fn an_event_of_one_version_is_not_valid_in_the_other() {
    for event_type in [EventType::SignIn, EventType::SignUp] {
        let entry = entry(AuthEvent { event_type: Some(Word::Known(event_type)), ..full_event() });
        for (of, other) in [(OcsfVersion::V1_8, OcsfVersion::V1_9), (OcsfVersion::V1_9, OcsfVersion::V1_8)] {
            assert_ne!(faults(&schema(other), &body_in(of, &entry)), [""; 0], "{event_type:?} {of:?}");
        }
    }
}

/// The table of the documentation is the expectation.
#[test]
fn each_type_has_in_each_version_the_documented_class_and_activity() {
    let page = include_str!("../docs/log-records.md");
    let rows: Vec<[&str; 3]> = page
        .lines()
        .skip_while(|line| *line != "| event type | `schema = \"ocsf\"` | `schema = \"ocsf-1.9\"` |")
        .skip(2)
        .map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|row| row.split(" | ").collect::<Vec<_>>().try_into().unwrap())
        .collect();
    let mut documented = Vec::new();
    for [event_type, older, newer] in rows {
        let event_type = match event_type {
            "none" => None,
            "any other word" => Some("PasskeyEnrol"),
            word => Some(word),
        };
        documented.extend(event_type.map(Word::<EventType>::parse));
        for (version, cell) in VERSIONS.into_iter().zip([older, newer]) {
            let event = AuthEvent { event_type: event_type.map(Word::parse), ..full_event() };
            let body = body_in(version, &entry(event));
            let [class, activity] = ["class_uid", "activity_id"].map(|name| body[name].as_i64().unwrap());
            let (class_name, type_uid) = (body["class_name"].as_str().unwrap(), class * 100 + activity);
            let caption = body["type_name"].as_str().unwrap().strip_prefix(class_name).unwrap();
            assert_eq!(format!("{class_name} ({class}){caption} ({activity})"), cell, "{event_type:?}");
            assert_eq!(body["type_uid"], type_uid);
            assert_eq!(body.get("auth_factors").is_some(), class == 3002, "a factor is of an authentication");
        }
    }
    let known = EventType::ALL.iter().map(|known| Word::Known(*known));
    assert_eq!(documented, known.chain([Word::parse("PasskeyEnrol")]).collect::<Vec<_>>());
}

#[test]
fn each_type_has_its_class_and_activity() {
    for (event_type, types, names, activity) in [
        (Some("SignIn"), [300_201, 300_201], ["Authentication: Logon"; 2], "Logon"),
        (Some("SignUp"), [300_101, 300_701], ["Account Change: Create", "User Management: Create"], "Create"),
        (
            Some("PasswordChange"),
            [300_103, 300_708],
            ["Account Change: Password Change", "User Management: Password Change"],
            "Password Change",
        ),
        (
            Some("ForgotPassword"),
            [300_104, 300_709],
            ["Account Change: Password Reset", "User Management: Password Reset"],
            "Password Reset",
        ),
        (Some("ResendCode"), [300_199, 300_799], ["Account Change: Other", "User Management: Other"], "ResendCode"),
        (Some("PasskeyEnrol"), [300_299, 300_299], ["Authentication: Other"; 2], "PasskeyEnrol"),
        (None, [300_200, 300_200], ["Authentication: Unknown"; 2], "Unknown"),
    ] {
        for (version, (type_uid, name)) in VERSIONS.into_iter().zip(types.into_iter().zip(names)) {
            let event = AuthEvent { event_type: event_type.map(Word::parse), ..full_event() };
            let body = body_in(version, &entry(event));
            assert_eq!(body["type_uid"], type_uid, "{event_type:?} {version:?}");
            assert_eq!(body["type_name"], name);
            assert_eq!(body["activity_name"], activity);
            assert_eq!(body.get("service").is_some(), body["class_uid"] == 3002, "a service is of an authentication");
        }
    }
}

#[test]
fn every_attribute_of_a_record_has_its_place() {
    let entry = entry(full_event());
    let metadata = json!({
        "version": "1.9.0", "profiles": ["cloud", "security_control"],
        "product": {"name": "Amazon Cognito", "vendor_name": "AWS"},
        "uid": entry.uid(), "original_event_uid": "4ad59ba8-0df1-4b1c-9a3e-3f2b5bf0d5ce", "event_code": "SignIn",
        "original_time": "2024-08-08T16:54:09.929Z", "processed_time": 1_723_136_200_000_i64,
        "log_provider": "cognito-auth-exporter", "log_source": "eu-west-1_Abc123", "log_name": "customers",
    });
    let user = json!({
        "name": "alice", "uid": "sub-of-alice",
        "account": {"type_id": 99, "type": "Cognito user pool", "uid": "eu-west-1_Abc123", "name": "customers"},
    });
    let unmapped = json!({
        "aws.cognito.event.revision": 2, "aws.cognito.event.history": false, "aws.cognito.event.source": "poll",
        "aws.cognito.risk.decision": "AccountTakeover", "aws.cognito.risk.compromised_credentials": false,
        "aws.cognito.challenges": [
            {"name": "Password", "response": "Success"},
            {"name": "Mfa", "response": "Success"},
        ],
        "aws.cognito.device.name": "Chrome 126, Windows 10",
        "aws.cognito.timezone": "-07:00", "aws.cognito.country": "United States",
        "aws.cognito.feedback.value": "Invalid", "aws.cognito.feedback.provider": "Admin",
        "aws.cognito.feedback.date": "2024-08-08T16:55:00.000Z",
    });
    let expected = json!({
        "category_uid": 3, "category_name": "Identity & Access Management",
        "class_uid": 3002, "class_name": "Authentication",
        "activity_id": 1, "activity_name": "Logon",
        "type_uid": 300_201, "type_name": "Authentication: Logon",
        "severity_id": 4, "severity": "High", "is_alert": true,
        "status_id": 1, "status": "Success", "status_code": "Pass",
        "disposition_id": 15, "disposition": "Detected", "action_id": 3, "action": "Observed",
        "risk_level_id": 3, "risk_level": "High",
        "time": 1_723_136_049_929_i64,
        "message": "Sign-in of alice in customers from 192.0.2.1 (Seattle, United States) passed, account takeover \
                    suspected (risk High).",
        "metadata": metadata,
        "cloud": {"provider": "AWS", "region": "eu-west-1", "account": {"uid": "111122223333"}},
        "user": user,
        "src_endpoint": {"ip": "192.0.2.1", "location": {"city": "Seattle", "country": "US"}},
        "service": {"name": "customers", "uid": "eu-west-1_Abc123"},
        "is_mfa": true,
        "auth_factors": [
            {"factor_type_id": 11, "factor_type": "Password"},
            {"factor_type_id": 99, "factor_type": "Mfa"},
        ],
        "unmapped": unmapped,
    });
    assert_eq!(body_in(OcsfVersion::V1_9, &entry), expected);
}

#[test]
fn severity_and_alert_are_the_records() {
    for (level, decision, severity_id, is_alert) in [
        ("Low", "NoRisk", 1, false),
        ("Medium", "NoRisk", 3, true),
        ("Low", "Block", 3, true),
        ("High", "Block", 4, true),
    ] {
        let (level, decision) = (Some(Word::parse(level)), Some(Word::parse(decision)));
        let risk = Some(EventRisk { decision, level, compromised_credentials: None });
        let body = body(&entry(AuthEvent { risk, ..full_event() }));
        assert_eq!((&body["severity_id"], &body["is_alert"]), (&json!(severity_id), &json!(is_alert)));
    }
}

#[test]
fn outcome_and_risk_have_their_numbers_and_a_novel_word_is_other() {
    for (response, status) in [
        ("Pass", (1, "Success")),
        ("Fail", (2, "Failure")),
        ("InProgress", (99, "InProgress")),
        ("Novel", (99, "Novel")),
    ] {
        let body = body(&entry(AuthEvent { response: Some(Word::parse(response)), ..full_event() }));
        assert_eq!((&body["status_id"], &body["status"]), (&json!(status.0), &json!(status.1)));
    }
    assert_eq!(body(&entry(AuthEvent::default()))["status_id"], 0);
    for (decision, level, disposition, action, risk) in [
        ("NoRisk", None, json!(16), json!(3), Value::Null),
        ("AccountTakeover", Some("Low"), json!(15), json!(3), json!(1)),
        ("AccountTakeover", Some("Medium"), json!(15), json!(3), json!(2)),
        ("Block", Some("High"), json!(2), json!(2), json!(3)),
        ("Novel", Some("Novel"), json!(99), json!(99), json!(99)),
        ("", Some(""), Value::Null, Value::Null, Value::Null),
    ] {
        let risk_of = EventRisk {
            decision: Some(Word::parse(decision)),
            level: level.map(Word::parse),
            compromised_credentials: None,
        };
        let body = body(&entry(AuthEvent { risk: Some(risk_of), ..full_event() }));
        assert_eq!(
            [&body["disposition_id"], &body["action_id"], &body["risk_level_id"]],
            [&disposition, &action, &risk]
        );
    }
}

#[test]
fn a_second_factor_is_told_only_where_it_is_known() {
    for (names, is_mfa) in [
        (&[][..], Value::Null),
        (&[Some("Password")], json!(false)),
        (&[Some("Password"), Some("Mfa")], json!(true)),
        (&[Some("Password"), Some("Novel")], Value::Null),
        (&[None], Value::Null),
    ] {
        let body = body(&entry(AuthEvent { challenges: challenges(names), ..full_event() }));
        assert_eq!(body["is_mfa"], is_mfa, "{names:?}");
    }
}

/// Every text, number and boolean in a value.
fn leaves(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| leaves(value, found)),
        Value::Object(map) => map.values().for_each(|value| leaves(value, found)),
        leaf => found.push(leaf.clone()),
    }
}

#[test]
fn nothing_of_a_records_attributes_is_lost() {
    let entry = entry(full_event());
    let (mut told, mut attributes) = (Vec::new(), Vec::new());
    leaves(&body(&entry), &mut told);
    for (_, value) in &Record::of(&entry, TimestampSource::Event).attributes {
        leaves(&serde_json::to_value(JsonValue(value)).unwrap(), &mut attributes);
    }
    let lost: Vec<_> = attributes.iter().filter(|value| !told.contains(value)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn the_time_is_the_events_own_or_else_when_it_was_seen() {
    let own = body(&entry(full_event()));
    assert_eq!(
        (&own["time"], &own["metadata"]["original_time"]),
        (&json!(1_723_136_049_929_i64), &json!("2024-08-08T16:54:09.929Z"))
    );
    let seen = body(&entry(AuthEvent::default()));
    assert_eq!((&seen["time"], &seen["metadata"]["original_time"]), (&json!(1_723_136_200_000_i64), &Value::Null));
}
