//! A pool's export to a log group, and the log group as a client of FilterLogEvents sees it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::time::Duration;

use cognito_auth_core::event::{AuthEvent, EventResponse, FeedbackValue, UnixMillis, Word};
use cognito_auth_core::export::decode;
use cognito_auth_simulator::export::{ExportSettings, LogTimestamp};
use cognito_auth_simulator::fault::{FaultKind, InjectedFault};
use cognito_auth_simulator::logs::SimulatedLogGroup;
use cognito_auth_simulator::population::Population;
use cognito_auth_simulator::quota::Quotas;
use cognito_auth_simulator::world::{SimulatedPool, World};
use cognito_auth_simulator::{Options, Simulation};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

const POOL: &str = "eu-west-1_Example";
const GROUP: &str = "/aws/vendedlogs/cognito";
const GROUP_ARN: &str = "arn:aws:logs:eu-west-1:111122223333:log-group:/aws/vendedlogs/cognito";
const NOW: UnixMillis = UnixMillis(1_750_000_000_600);

/// A world with a stopped clock, a pool that exports, and a user.
async fn simulation(settings: ExportSettings) -> Simulation {
    let simulation = Simulation::start(Options::still(NOW)).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ada");
        world.export_events(POOL, settings);
    });
    simulation
}

fn to_group() -> ExportSettings {
    ExportSettings::to_log_group(GROUP)
}

/// Adds a sign-in of ada now, and returns it.
fn sign_in(world: &mut World) -> AuthEvent {
    let event = world.sign_in(world.now());
    world.arrive(POOL, "ada", &event);
    event
}

/// Calls an operation of a service in a region.
async fn call_in(region: &str, simulation: &Simulation, target: &str, input: &Value) -> (u16, Value) {
    let stream = tokio::net::TcpStream::connect(simulation.addr()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let credential = format!("AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20250615/{region}/logs/aws4_request");
    let request = hyper::Request::post("/")
        .header("host", "localhost")
        .header("x-amz-target", target)
        .header("authorization", credential)
        .body(Full::new(bytes::Bytes::from(input.to_string())))
        .unwrap();
    let exchange = async {
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        drop(sender);
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    };
    tokio::join!(exchange, connection).0
}

async fn filter(simulation: &Simulation, input: Value) -> (u16, Value) {
    call_in("eu-west-1", simulation, "Logs_20140328.FilterLogEvents", &input).await
}

/// The name of the error that a call is answered with.
async fn error(simulation: &Simulation, input: Value) -> String {
    let (status, answer) = filter(simulation, input).await;
    assert_eq!(status, 400, "{answer}");
    answer["__type"].as_str().unwrap().to_owned()
}

/// Reads every page. Returns the log events, and the number of pages.
async fn read(simulation: &Simulation, mut input: Value) -> (Vec<Value>, usize) {
    let (mut events, mut pages, mut tokens) = (vec![], 0, BTreeSet::new());
    loop {
        let (status, answer) = filter(simulation, input.clone()).await;
        assert_eq!(status, 200, "{answer}");
        pages += 1;
        events.extend(answer["events"].as_array().unwrap().iter().cloned());
        match answer.get("nextToken") {
            Some(token) => {
                assert!(tokens.insert(token.to_string()), "{token} comes again");
                input["nextToken"] = token.clone();
            }
            None => return (events, pages),
        }
    }
}

/// The EventIds of the records in log events.
fn event_ids(events: &[Value]) -> Vec<String> {
    let id = |event: &Value| {
        let document = decode(event["message"].as_str().unwrap().as_bytes(), 1 << 20);
        assert_eq!(document.unreadable, []);
        document.events[0].event.id.clone().unwrap()
    };
    events.iter().map(id).collect()
}

#[tokio::test]
async fn an_event_is_in_the_log_group_after_its_delay_and_its_ingestion() {
    let seconds = |seconds| Duration::from_secs(seconds)..=Duration::from_secs(seconds);
    for timestamp in [LogTimestamp::Sent, LogTimestamp::Created] {
        let settings =
            ExportSettings { delay: seconds(5), ingestion_delay: seconds(2), log_timestamp: timestamp, ..to_group() };
        let simulation = simulation(settings).await;
        let event = simulation.world(sign_in);
        simulation.world(|world| world.advance(Duration::from_millis(6999)));
        assert_eq!(read(&simulation, json!({"logGroupName": GROUP})).await, (vec![], 1));
        simulation.world(|world| world.advance(Duration::from_millis(1)));
        let (events, _) = read(&simulation, json!({"logGroupIdentifier": GROUP_ARN})).await;
        assert_eq!(event_ids(&events), [event.id.unwrap()]);
        let expected = if timestamp == LogTimestamp::Sent { NOW.0 + 5000 } else { NOW.0 };
        assert_eq!(events[0]["timestamp"], expected);
        assert_eq!(events[0]["ingestionTime"], NOW.0 + 7000);
        assert_eq!(events[0]["eventId"].as_str().unwrap().len(), 56);
        let message: Value = serde_json::from_str(events[0]["message"].as_str().unwrap()).unwrap();
        assert_eq!(message["message"]["creationDate"], "Sun Jun 15 15:06:40 UTC 2025");
        assert_eq!(message["message"]["userName"], "ada");
    }
}

#[tokio::test]
async fn a_change_is_sent_again_only_if_the_settings_say_so() {
    for (changes, expected) in [(1.0, vec!["InProgress", "Pass", "Pass"]), (0.0, vec!["InProgress"])] {
        let simulation = simulation(ExportSettings { changes, ..to_group() }).await;
        simulation.world(|world| {
            let mut event = world.sign_in(NOW);
            event.response = Some(Word::Known(EventResponse::InProgress));
            world.arrive(POOL, "ada", &event);
            let id = event.id.unwrap();
            for second in 1..=2 {
                world.set_now(NOW.plus(Duration::from_secs(second)));
                if second == 1 {
                    world.revise(POOL, "ada", &id, |event| event.response = Some(Word::Known(EventResponse::Pass)));
                    world.revise(POOL, "ada", &id, |_| {});
                } else {
                    world.feedback(POOL, "ada", &id, FeedbackValue::Invalid, "Admin");
                }
            }
        });
        let (events, _) = read(&simulation, json!({"logGroupName": GROUP})).await;
        let response = |event: &Value| {
            let record: Value = serde_json::from_str(event["message"].as_str().unwrap()).unwrap();
            record["message"]["eventResponse"].as_str().unwrap().to_owned()
        };
        assert_eq!(events.iter().map(response).collect::<Vec<_>>(), expected);
        simulation.world(|world| assert_eq!(world.exported(POOL).changes_sent(), expected.len() as u64 - 1));
    }
}

#[tokio::test]
async fn what_is_lost_is_known_and_everything_else_arrives() {
    let mut world = World::new(cognito_auth_simulator::world::WorldClock::Manual(NOW), 3, Quotas::unlimited());
    let mut people = Population::lively(3, 200);
    people.move_in(&mut world, POOL, NOW);
    let second = |seconds| Duration::from_secs(seconds);
    world.export_events(
        POOL,
        ExportSettings {
            delay: second(1)..=second(30),
            overtaken: 0.1,
            extra_delay: second(60)..=second(90),
            lost: 0.1,
            repeated: 0.1,
            odd: 0.3,
            ..to_group()
        },
    );
    let past: BTreeSet<String> = ids(&world);
    for _ in 0..120 {
        world.advance(second(1));
        let now = world.now();
        people.tick(&mut world, now);
    }
    world.advance(second(200));
    let happened: BTreeSet<_> = ids(&world).difference(&past).cloned().collect();
    let messages: Vec<_> = world.log_events(GROUP).iter().map(|event| event.message.clone()).collect();
    let export = world.exported(POOL);
    assert_eq!(messages.len() as u64, export.records_sent());
    let mut arrived = BTreeSet::new();
    for message in messages {
        let document = decode(message.as_bytes(), 1 << 20);
        assert_eq!(document.unreadable, [], "{message}");
        arrived.insert(document.events[0].event.id.clone().unwrap());
    }
    assert!(arrived.is_disjoint(export.lost()));
    // A change of an event from before the export is sent, too.
    let newly_arrived: BTreeSet<_> = arrived.difference(&past).cloned().collect();
    assert_eq!(newly_arrived.len() as u64, export.events_sent());
    assert!(export.lost().len() > 10 && newly_arrived.len() > 100);
    let accounted: BTreeSet<_> = newly_arrived.union(export.lost()).cloned().collect();
    assert_eq!(happened.symmetric_difference(&accounted).count(), 0);
}

/// The EventIds of all users.
fn ids(world: &World) -> BTreeSet<String> {
    let users = world.pool(POOL).unwrap().users().map(|user| user.username.clone());
    users.flat_map(|user| world.history(POOL, &user)).filter_map(|event| event.id).collect()
}

#[tokio::test]
async fn a_pool_has_the_same_life_with_and_without_an_export() {
    let simulation = simulation(to_group()).await;
    let plain = Simulation::start(Options::still(NOW)).await.unwrap();
    plain.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ada");
    });
    for _ in 0..10 {
        assert_eq!(simulation.world(sign_in), plain.world(sign_in));
    }
}

#[tokio::test]
async fn without_threat_protection_or_a_log_group_nothing_is_sent() {
    let simulation = simulation(to_group()).await;
    simulation.world(|world| {
        world.pool_mut(POOL).threat_protection = "OFF".into();
        sign_in(world);
        world.pool_mut(POOL).threat_protection = "AUDIT".into();
        world.remove_log_group(GROUP);
        let event = sign_in(world);
        let export = world.exported(POOL);
        assert_eq!((export.records_sent(), export.events_sent()), (0, 0));
        assert_eq!(export.lost().iter().cloned().collect::<Vec<_>>(), [event.id.unwrap()]);
    });
    assert_eq!(error(&simulation, json!({"logGroupName": GROUP})).await, "ResourceNotFoundException");
}

#[tokio::test]
async fn any_text_can_stand_in_a_records_place() {
    let simulation = simulation(to_group()).await;
    simulation.world(|world| world.export_text(POOL, "{\"cut"));
    let (events, _) = read(&simulation, json!({"logGroupName": GROUP})).await;
    assert_eq!(events[0]["message"], "{\"cut");
}

#[tokio::test]
async fn pages_of_every_kind_lead_to_the_end() {
    let simulation = simulation(to_group()).await;
    let expected: Vec<_> = simulation.world(|world| {
        let events: Vec<_> = (0..100)
            .map(|_| {
                world.advance(Duration::from_millis(400));
                sign_in(world).id.unwrap()
            })
            .collect();
        let group = world.log_group_mut(GROUP);
        (group.part_filled, group.empty, group.token_on_last) = (0.3, 0.3, 1.0);
        events
    });
    let (events, pages) = read(&simulation, json!({"logGroupName": GROUP, "limit": 30})).await;
    assert_eq!(event_ids(&events), expected);
    assert!(pages > 5, "{pages}");
    let at = |index: usize| events[index]["timestamp"].clone();
    let range = json!({"logGroupName": GROUP, "startTime": at(10), "endTime": at(20), "limit": 4});
    assert_eq!(event_ids(&read(&simulation, range).await.0), expected[10..=20]);
}

#[tokio::test]
async fn a_token_expires_and_belongs_to_its_parameters() {
    let simulation = simulation(to_group()).await;
    simulation.world(|world| {
        sign_in(world);
        sign_in(world);
        world.log_group_mut(GROUP).token_lifetime = Duration::from_secs(60);
        world.add_log_group(SimulatedLogGroup::new("other", "eu-west-1", "111122223333"));
    });
    let (_, page) = filter(&simulation, json!({"logGroupName": GROUP, "limit": 1, "startTime": 1})).await;
    let with_token = |change: Value| {
        let mut input = json!({"logGroupName": GROUP, "startTime": 1, "nextToken": page["nextToken"]});
        input.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        input
    };
    assert_eq!(filter(&simulation, with_token(json!({}))).await.1["events"].as_array().unwrap().len(), 1);
    for other in [json!({"startTime": 2}), json!({"logGroupName": "other"}), json!({"nextToken": "senseless"})] {
        assert_eq!(error(&simulation, with_token(other)).await, "InvalidParameterException");
    }
    simulation.world(|world| world.advance(Duration::from_secs(60)));
    assert_eq!(error(&simulation, with_token(json!({}))).await, "InvalidParameterException");
}

#[tokio::test]
async fn parameters_keep_the_services_rules() {
    let simulation = simulation(to_group()).await;
    for wrong in [
        json!({}),
        json!({"logGroupName": GROUP, "logGroupIdentifier": GROUP}),
        json!({"logGroupIdentifier": format!("{GROUP_ARN}:*")}),
        json!({"logGroupName": GROUP_ARN}),
        json!({"logGroupName": GROUP, "limit": 0}),
        json!({"logGroupName": GROUP, "limit": 10_001}),
        json!({"logGroupName": GROUP, "startTime": -1}),
        json!({"logGroupName": GROUP, "startTime": 2, "endTime": 1}),
        json!({"logGroupName": GROUP, "filterPattern": "x"}),
    ] {
        assert_eq!(error(&simulation, wrong.clone()).await, "InvalidParameterException", "{wrong}");
    }
    assert_eq!(error(&simulation, json!({"logGroupName": "absent"})).await, "ResourceNotFoundException");
    let elsewhere = json!({"logGroupName": GROUP});
    let (_, answer) = call_in("eu-west-2", &simulation, "Logs_20140328.FilterLogEvents", &elsewhere).await;
    assert_eq!(answer["__type"], "ResourceNotFoundException");
    let (_, answer) = call_in("eu-west-1", &simulation, "Logs_20140328.PutLogEvents", &elsewhere).await;
    assert_eq!(answer["__type"], "UnknownOperationException");
}

#[tokio::test]
async fn an_account_reads_its_own_log_groups_and_those_that_it_monitors() {
    let simulation = simulation(to_group()).await;
    let by_arn = json!({"logGroupIdentifier": GROUP_ARN});
    simulation.world(|world| world.home_account = Some("444455556666".into()));
    assert_eq!(error(&simulation, by_arn.clone()).await, "AccessDeniedException");
    assert_eq!(error(&simulation, json!({"logGroupIdentifier": GROUP})).await, "ResourceNotFoundException");
    simulation.world(|world| world.log_group_mut(GROUP).monitored_by.push("444455556666".into()));
    assert_eq!(filter(&simulation, by_arn.clone()).await.0, 200);
    simulation.world(|world| {
        world.inject(InjectedFault::access_denied().on("FilterLogEvents").in_pool(GROUP_ARN));
    });
    assert_eq!(error(&simulation, by_arn).await, "AccessDeniedException");
}

#[tokio::test]
async fn the_quota_allows_five_calls_a_second_for_all_log_groups() {
    let simulation = simulation(to_group()).await;
    simulation.world(|world| {
        *world.quotas() = Quotas::documented();
        world.add_log_group(SimulatedLogGroup::new("other", "eu-west-1", "111122223333"));
    });
    for name in [GROUP, "other", GROUP, "other", GROUP] {
        assert_eq!(filter(&simulation, json!({"logGroupName": name})).await.0, 200);
    }
    assert_eq!(error(&simulation, json!({"logGroupName": "other"})).await, "ThrottlingException");
    simulation.world(|world| world.advance(Duration::from_secs(1)));
    assert_eq!(filter(&simulation, json!({"logGroupName": GROUP})).await.0, 200);
    simulation.world(|world| assert_eq!(world.calls().count("FilterLogEvents"), 7));
}

#[tokio::test]
async fn faults_of_pages_are_injected_as_for_cognito() {
    let simulation = simulation(to_group()).await;
    simulation.world(|world| (0..3).for_each(|_| drop(sign_in(world))));
    let input = json!({"logGroupName": GROUP, "limit": 2});
    let (_, page) = filter(&simulation, input.clone()).await;
    simulation.world(|world| {
        world.inject(InjectedFault::new(FaultKind::EmptyPage).times(1));
        world.inject(InjectedFault::new(FaultKind::RepeatToken).times(1));
        world.inject(InjectedFault::new(FaultKind::EmptyEvents(3)).times(1));
    });
    let (_, empty) = filter(&simulation, input.clone()).await;
    assert_eq!((empty["events"].as_array().unwrap().len(), empty["nextToken"].is_string()), (0, true));
    let mut next = input.clone();
    next["nextToken"] = page["nextToken"].clone();
    assert_eq!(filter(&simulation, next).await.1["nextToken"], page["nextToken"]);
    assert_eq!(filter(&simulation, input.clone()).await.1["events"], json!([{}, {}, {}]));
    assert_eq!(filter(&simulation, input).await.1["events"], page["events"]);
}

#[tokio::test]
async fn cognito_says_where_a_pool_exports_to() {
    let simulation = simulation(ExportSettings { firehose: Some("stream".into()), ..to_group() }).await;
    let target = "AWSCognitoIdentityProviderService.GetLogDeliveryConfiguration";
    let configured = |pool: &'static str| {
        let simulation = &simulation;
        async move { call_in("eu-west-1", simulation, target, &json!({"UserPoolId": pool})).await.1 }
    };
    let stream = "arn:aws:firehose:eu-west-1:111122223333:deliverystream/stream";
    let expected = json!([{
        "EventSource": "userAuthEvents",
        "LogLevel": "INFO",
        "CloudWatchLogsConfiguration": {"LogGroupArn": GROUP_ARN},
        "FirehoseConfiguration": {"StreamArn": stream},
    }]);
    assert_eq!(configured(POOL).await["LogDeliveryConfiguration"]["LogConfigurations"], expected);
    simulation.world(|world| world.add_pool(SimulatedPool::new("eu-west-1_Plain")).id.clone());
    let plain = configured("eu-west-1_Plain").await;
    assert_eq!(plain, json!({"LogDeliveryConfiguration": {"LogConfigurations": [], "UserPoolId": "eu-west-1_Plain"}}));
    assert_eq!(configured("eu-west-1_Absent").await["__type"], "ResourceNotFoundException");
}
