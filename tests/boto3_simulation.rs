//! The simulated Cognito as seen by boto3, a client that shares no code with the exporter's client.

use std::process::Stdio;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::fault::InjectedFault;
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

#[tokio::test]
async fn boto3_reads_what_the_world_holds() {
    let Some(python) = peers::python_with("boto3") else {
        return;
    };
    let simulation = Simulation::start(Options::still(NOW)).await.unwrap();
    simulation.world(populate);
    let output = peers::boto3_script(&python, "boto3_simulation.py")
        .args([&simulation.url(), POOL, USER, ROLE, "shibboleth"])
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();

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
