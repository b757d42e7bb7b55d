//! The simulated Cognito as seen by boto3, a client that shares no code with the exporter's client.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::export::ExportSettings;
use cognito_auth_simulator::fault::InjectedFault;
use cognito_auth_simulator::logs::LogEvent;
use cognito_auth_simulator::world::{Role, SimulatedPool, World};
use cognito_auth_simulator::{Options, Simulation, wire};
use serde_json::{Value, json};

use crate::histories::events_of_every_shape;
use crate::peers;

const POOL: &str = "eu-west-1_Example";
const USER: &str = "ada";
const ROLE: &str = "arn:aws:iam::444455556666:role/reader";
const NOW: UnixMillis = UnixMillis(1_750_000_000_123);

/// Adds 200 events of every shape, some within the same millisecond, and 119 other users.
fn populate(world: &mut World) {
    world.add_pool(SimulatedPool::new(POOL));
    world.add_user(POOL, USER);
    events_of_every_shape(world, POOL, USER, 200, NOW);
    for number in 1..120 {
        let name = format!("user-{number}");
        world.add_user(POOL, &name);
        world.add_to_group(POOL, "everybody", &name);
    }
    world.add_role(Role { arn: ROLE.into(), external_id: Some("shibboleth".into()) });
    world.inject(InjectedFault::throttle().for_user("throttled"));
    world.inject(InjectedFault::internal_error().for_user("failing"));
}

/// The JSON that a script prints.
async fn output_of(python: &Path, script: &str, arguments: &[&str]) -> Value {
    let output = peers::boto3_script(python, script).args(arguments).stdin(Stdio::null()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn boto3_reads_what_the_world_holds() {
    let Some(python) = peers::python_with("boto3") else {
        return;
    };
    let simulation = Simulation::start(Options::still(NOW)).await.unwrap();
    simulation.world(populate);
    let read = output_of(&python, "boto3_simulation.py", &[&simulation.url(), POOL, USER, ROLE, "shibboleth"]).await;

    let events: Vec<_> = read["AuthEvents"].as_array().unwrap().iter().map(wire::read_event).collect();
    assert_eq!(events.len(), 200);
    assert!(events == simulation.world(|world| world.history(POOL, USER)));
    assert_eq!(read["EventPages"], 4);

    let users = read["Users"].as_array().unwrap();
    simulation.world(|world| {
        let expected = world.pool(POOL).unwrap().users();
        assert_eq!(users.len(), expected.len());
        for (user, expected) in users.iter().zip(expected) {
            assert_eq!(user["Username"], expected.username.as_str());
            assert_eq!(wire::read_time(&user["UserCreateDate"]), Some(expected.created));
            assert_eq!(user["Attributes"], json!([{ "Name": "sub", "Value": expected.sub }]));
        }
    });
    assert_eq!((&read["UserPages"], read["Members"].as_array().unwrap().len()), (&json!(5), 119));
    assert_eq!(read["Pool"]["UserPoolAddOns"]["AdvancedSecurityMode"], "ENFORCED");
    assert_eq!(read["RoleArn"], "arn:aws:sts::444455556666:assumed-role/reader/peer");
    assert_eq!(
        read["Errors"],
        json!({
            "unknown user": "UserNotFoundException",
            "unknown pool": "ResourceNotFoundException",
            "page too large": "InvalidParameterException",
            "senseless token": "InvalidParameterException",
            "throttled": "TooManyRequestsException",
            "server error": "InternalErrorException",
            "billable call": "UnknownOperationException",
            "absent group": "ResourceNotFoundException",
            "bad filter": "InvalidParameterException",
            "wrong external id": "AccessDenied",
        })
    );
}

#[tokio::test]
async fn boto3_reads_what_a_pool_exports() {
    const GROUP: &str = "/aws/vendedlogs/cognito";
    const ARN: &str = "arn:aws:logs:eu-west-1:111122223333:log-group:/aws/vendedlogs/cognito";
    let Some(python) = peers::python_with("boto3") else {
        return;
    };
    let simulation = Simulation::start(Options::still(NOW)).await.unwrap();
    let expected: Vec<LogEvent> = simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, USER);
        let seconds = |seconds| Duration::from_secs(seconds);
        let delay = seconds(1)..=seconds(20);
        world.export_events(POOL, ExportSettings { delay, odd: 0.2, ..ExportSettings::to_log_group(GROUP) });
        events_of_every_shape(world, POOL, USER, 200, NOW);
        world.advance(seconds(15));
        let group = world.log_group_mut(GROUP);
        (group.part_filled, group.empty, group.token_on_last) = (0.3, 0.3, 1.0);
        world.inject(InjectedFault::access_denied().in_pool("denied"));
        world.inject(InjectedFault::throttle_logs().in_pool("throttled"));
        world.log_events(GROUP).into_iter().cloned().collect()
    });
    assert!((100..190).contains(&expected.len()), "{}", expected.len());
    let (start, end) = (expected[10].timestamp.0, expected[20].timestamp.0);
    let arguments = [&*simulation.url(), POOL, GROUP, ARN, &start.to_string(), &end.to_string()];
    let read = output_of(&python, "boto3_logs.py", &arguments).await;

    let events = read["Events"].as_array().unwrap();
    assert_eq!(events.len(), expected.len());
    for (event, expected) in events.iter().zip(&expected) {
        assert_eq!(event["message"], expected.message.as_str());
        assert_eq!(event["logStreamName"], expected.stream.as_str());
        assert_eq!(
            (&event["timestamp"], &event["ingestionTime"]),
            (&json!(expected.timestamp.0), &json!(expected.ingested.0))
        );
    }
    assert!(read["Pages"].as_u64().unwrap() > 6, "{}", read["Pages"]);
    let is_in_part = |event: &&Value| (start..=end).contains(&event["timestamp"].as_i64().unwrap());
    let ids: Vec<_> = events.iter().filter(is_in_part).map(|event| event["eventId"].clone()).collect();
    assert!(ids.len() >= 11 && ids.len() < events.len(), "{}", ids.len());
    assert_eq!(read["Part"], json!(ids));
    assert_eq!(read["Delivery"]["LogConfigurations"][0]["CloudWatchLogsConfiguration"]["LogGroupArn"], ARN);
    assert_eq!(
        read["Errors"],
        json!({
            "absent log group": "ResourceNotFoundException",
            "another region": "ResourceNotFoundException",
            "two names": "InvalidParameterException",
            "senseless token": "InvalidParameterException",
            "denied": "AccessDeniedException",
            "throttled": "ThrottlingException",
            "unknown operation": "UnknownOperationException",
        })
    );
}
