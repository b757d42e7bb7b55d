//! The published samples through the built binary: exact to the millisecond, in log records and counters.

use std::path::Path;

use cognito_auth_simulator::{Options, Simulation};
use serde_json::{Value, json};

use crate::exporter;
use crate::exporter::Exporter;
use crate::receiver::{Received, Receiver};

const POOL: &str = "us-west-2_Samples01";

fn of<'a>(records: &'a [Received], user: &str, time: &str) -> &'a Received {
    let found =
        |record: &&Received| record.text("user.name") == user && record.text("aws.cognito.event.creation_date") == time;
    records.iter().find(found).unwrap_or_else(|| panic!("no record of {user} at {time}: {records:#?}"))
}

/// The samples, delivered in a schema by an exporter that still runs.
struct Delivered {
    records: Vec<Received>,
    exporter: Exporter,
    _receiver: Receiver,
    _simulation: Simulation,
    _directory: tempfile::TempDir,
}

async fn deliver(schema: &str) -> Delivered {
    let simulation = Simulation::start(Options::default()).await.unwrap();
    simulation.world(|world| {
        world.load_users_sample(POOL, include_str!("samples/07-aws-cli-list-users.json"));
        world.load_sample(POOL, "testuser", include_str!("samples/01-api-reference-two-events.raw.json"));
        world.load_sample(POOL, "testuser2", include_str!("samples/02-aws-cli-example-inprogress.json"));
        world.load_sample(POOL, "third", include_str!("samples/03-devguide-pass-norisk-no-risklevel.json"));
    });
    let receiver = Receiver::http().await;
    let directory = tempfile::tempdir().unwrap();
    let config = exporter::configure(
        directory.path(),
        &format!(
            "[[pools]]\nid = {POOL:?}\nname = \"samples\"\nall_users = true\n\
             followed_since = \"2024-01-01T00:00:00Z\"\n\
             [otlp]\nendpoint = {:?}\nschema = {schema:?}\n[poll]\nmin_interval = \"1s\"\n",
            receiver.endpoint()
        ),
    );
    let exporter = Exporter::start(&config, &simulation.url());
    let records = receiver.wait_for(4).await;
    assert_eq!(records.len(), 4);
    Delivered { records, exporter, _receiver: receiver, _simulation: simulation, _directory: directory }
}

/// Records in the form of a golden file, without the values that depend on the time of the test.
fn lasting(records: &[Received]) -> Value {
    let mut lasting: Vec<Value> = records
        .iter()
        .map(|record| {
            let mut body = serde_json::from_str(&record.body).unwrap_or_else(|_| json!(record.body));
            if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
                assert_eq!(metadata.remove("processed_time"), Some(json!(record.observed / 1_000_000)));
            }
            json!({
                "timestamp": record.timestamp,
                "event_name": record.event_name,
                "severity": [record.severity_number, record.severity_text],
                "body": body,
                "attributes": record.attributes,
            })
        })
        .collect();
    lasting.sort_by_key(|record| record["timestamp"].as_u64());
    lasting.into()
}

/// Receivers rely on these records. After an intended change: `GOLDEN=write cargo test samples::`.
#[tokio::test(flavor = "multi_thread")]
async fn records_are_in_each_schema_what_the_golden_files_say() {
    for schema in ["cognito", "ocsf", "ocsf-1.9"] {
        let delivered = deliver(schema).await;
        let records = lasting(&delivered.records);
        assert!(delivered.exporter.stop().success());
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{schema}.json"));
        if std::env::var_os("GOLDEN").is_some_and(|word| word == "write") {
            std::fs::write(&file, format!("{records:#}\n")).unwrap();
        }
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(records, golden, "tests/golden/{schema}.json");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_published_samples_come_out_right() {
    let Delivered { records, exporter, _receiver, _simulation, _directory } = deliver("cognito").await;

    let newer = of(&records, "testuser", "2024-08-09T17:03:18.200Z");
    assert_eq!(newer.timestamp, 1_723_222_998_200_000_000);
    assert_eq!(newer.attributes.get("geo.locality.name"), None, "Cognito's City \"null\" is no city");
    assert_eq!((newer.severity_number, newer.severity_text.as_str()), (13, "WARN"));
    assert_eq!(newer.event_name, "aws.cognito.auth.sign_in");
    assert_eq!(newer.text("user.id"), "eaad0219-2117-439f-8d46-4db20e59268f", "the sub that the listing gave");

    let older = of(&records, "testuser", "2024-08-08T16:54:09.929Z");
    assert_eq!(older.timestamp, 1_723_136_049_929_000_000, "not a millisecond less");
    let expected = [
        ("aws.cognito.event.id", json!("768d375c-ee6c-435e-a005-25c4981565c3")),
        ("aws.cognito.event.type", json!("SignIn")),
        ("aws.cognito.event.response", json!("Pass")),
        ("aws.cognito.event.revision", json!(0)),
        ("aws.cognito.event.history", json!(false)),
        ("aws.cognito.risk.decision", json!("AccountTakeover")),
        ("aws.cognito.risk.level", json!("Low")),
        ("aws.cognito.risk.compromised_credentials", json!(false)),
        ("aws.cognito.challenges", json!([{"name": "Password", "response": "Success"}])),
        ("aws.cognito.user_pool.id", json!(POOL)),
        ("aws.cognito.user_pool.name", json!("samples")),
        ("aws.cognito.user_pool.region", json!("us-west-2")),
        ("client.address", json!("192.0.2.99")),
        ("aws.cognito.device.name", json!("Other, Other")),
        ("geo.locality.name", json!("Loughborough")),
        ("aws.cognito.country", json!("United Kingdom")),
        ("geo.country.iso_code", json!("GB")),
    ];
    for (name, value) in expected {
        assert_eq!(older.attributes.get(name), Some(&value), "{name}");
    }
    assert_eq!(older.attributes.get("aws.cognito.timezone"), None);

    let waiting = of(&records, "testuser2", "2024-09-18T21:16:43.495Z");
    assert_eq!(waiting.timestamp, 1_726_694_203_495_000_000);
    let quiet = of(&records, "third", "2024-06-27T17:49:59.139Z");
    assert_eq!(quiet.timestamp, 1_719_510_599_139_000_000);
    assert_eq!((quiet.severity_number, quiet.attributes.get("aws.cognito.risk.level")), (9, None));
    assert_eq!(quiet.attributes.get("aws.cognito.timezone"), Some(&json!("-07:00")));

    let scrape = exporter.until("four events", |scrape| scrape.sum("cognito_auth_events_total", &[]) > 3.5);
    let counted = |metric: &str, labels: &[&str]| scrape.sum(metric, labels).round();
    let (sign_in, pass) = ("event_type=\"SignIn\"", "event_response=\"Pass\"");
    let (takeover, no_risk) = ("risk_decision=\"AccountTakeover\"", "risk_decision=\"NoRisk\"");
    let expected = [
        ("cognito_auth_events_total", vec![sign_in, pass, takeover], 2.0),
        ("cognito_auth_events_total", vec![sign_in, "event_response=\"InProgress\"", takeover], 1.0),
        ("cognito_auth_events_total", vec![sign_in, pass, no_risk], 1.0),
        ("cognito_auth_risk_events_total", vec![pass, "risk_level=\"Medium\"", takeover], 1.0),
        ("cognito_auth_risk_events_total", vec![pass, "risk_level=\"Low\"", takeover], 1.0),
        ("cognito_auth_risk_events_total", vec![], 3.0),
        ("cognito_auth_challenges_total", vec!["challenge_name=\"Password\"", "challenge_response=\"Success\""], 4.0),
        // Two months old and still in progress: it will not be finished.
        ("cognito_auth_unfinished_events_total", vec![sign_in, takeover], 1.0),
        ("cognito_auth_history_events_total", vec![], 0.0),
        ("cognito_auth_superseded_outcomes_total", vec![], 0.0),
        ("cognito_auth_compromised_credentials_events_total", vec![], 0.0),
        ("cognito_auth_event_delay_seconds_count", vec![], 4.0),
    ];
    for (metric, labels, value) in expected {
        assert_eq!(counted(metric, &labels).to_bits(), f64::to_bits(value), "{metric} {labels:?}");
    }
    assert!(exporter.stop().success());
}
