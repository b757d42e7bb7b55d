//! The simulated Cognito as seen by the real AWS client.

use std::time::Duration;

use aws_sdk_cognitoidentityprovider::Client;
use aws_sdk_cognitoidentityprovider::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_cognitoidentityprovider::operation::RequestId as _;
use aws_sdk_cognitoidentityprovider::operation::admin_list_user_auth_events::{
    AdminListUserAuthEventsError, AdminListUserAuthEventsOutput,
};
use aws_sdk_cognitoidentityprovider::types::AuthEventType;
use cognito_auth_core::event::{AuthEvent, UnixMillis, Word};
use cognito_auth_simulator::calls::CallResult;
use cognito_auth_simulator::fault::{FaultKind, InjectedFault};
use cognito_auth_simulator::paging::{LastToken, TokenStyle};
use cognito_auth_simulator::population::Population;
use cognito_auth_simulator::quota::{Category, Quotas};
use cognito_auth_simulator::world::{Role, SimulatedPool};
use cognito_auth_simulator::{Options, Simulation};

use crate::cognito;

const POOL: &str = "eu-west-1_Example";
const NOW: UnixMillis = UnixMillis(1_750_000_000_000);

/// A world with a stopped clock, one pool and one user, and a client for it.
async fn ada() -> (Simulation, Client) {
    let simulation = Simulation::start(Options::still(NOW)).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ada");
    });
    let client = cognito::client(&simulation.url(), "eu-west-1", "AKIAEXAMPLE");
    (simulation, client)
}

/// Adds `count` events of ada, one per second, up to now.
fn live_through(simulation: &Simulation, count: i64) {
    simulation.world(|world| {
        for second in 0..count {
            let event = world.sign_in(UnixMillis(NOW.0 - 1000 * second - 71));
            world.arrive(POOL, "ada", &event);
        }
    });
}

type PageResult = Result<AdminListUserAuthEventsOutput, SdkError<AdminListUserAuthEventsError>>;

async fn page(client: &Client, token: Option<&str>) -> PageResult {
    let call = client.admin_list_user_auth_events().user_pool_id(POOL).username("ada");
    call.set_next_token(token.map(str::to_owned)).send().await
}

/// The error's name, also for errors without a type in the SDK.
async fn error_of(client: &Client, token: Option<&str>) -> String {
    page(client, token).await.unwrap_err().code().unwrap_or("none").to_owned()
}

fn ids(events: &[AuthEventType]) -> Vec<String> {
    events.iter().map(|event| event.event_id().unwrap().to_owned()).collect()
}

fn history_ids(simulation: &Simulation) -> Vec<String> {
    let history = simulation.world(|world| world.history(POOL, "ada"));
    history.into_iter().map(|event| event.id.unwrap()).collect()
}

async fn walk(client: &Client) -> Vec<Vec<String>> {
    let mut pages = vec![];
    let mut token = None;
    loop {
        let output = page(client, token.as_deref()).await.unwrap();
        pages.push(ids(output.auth_events()));
        token = output.next_token().map(str::to_owned);
        if token.is_none() {
            return pages;
        }
    }
}

#[tokio::test]
async fn every_kind_of_token_pages_to_the_end() {
    let opaque = TokenStyle::Opaque { lifetime: Duration::from_secs(60) };
    for style in [TokenStyle::Key, opaque, TokenStyle::Offset] {
        for (last_token, pages_expected) in [(LastToken::Never, 2), (LastToken::WhenFull, 3), (LastToken::Always, 3)] {
            let (simulation, client) = ada().await;
            simulation.world(|world| {
                let pool = world.pool_mut(POOL);
                pool.token_style = style;
                pool.last_token = last_token;
            });
            live_through(&simulation, 120);
            let pages = walk(&client).await;
            assert_eq!(pages.len(), pages_expected, "{style:?} {last_token:?}");
            assert_eq!(pages.concat(), history_ids(&simulation));
            simulation.stop().await;
        }
    }
}

#[tokio::test]
async fn a_token_looks_like_the_samples() {
    let (simulation, client) = ada().await;
    live_through(&simulation, 61);
    let first = page(&client, None).await.unwrap();
    let last = first.auth_events().last().unwrap();
    let expected = format!("{}#2025-06-15T15:05:40.929Z", last.event_id().unwrap());
    assert_eq!(first.next_token(), Some(expected.as_str()));
}

#[tokio::test]
async fn an_expired_or_senseless_token_is_an_invalid_parameter() {
    let (simulation, client) = ada().await;
    live_through(&simulation, 61);
    assert_eq!(error_of(&client, Some("senseless")).await, "InvalidParameterException");
    simulation.world(|world| {
        world.pool_mut(POOL).token_style = TokenStyle::Opaque { lifetime: Duration::from_secs(60) };
    });
    let token = page(&client, None).await.unwrap().next_token().unwrap().to_owned();
    assert!(page(&client, Some(&token)).await.is_ok());
    simulation.world(|world| world.advance(Duration::from_secs(60)));
    let error = page(&client, Some(&token)).await.unwrap_err().into_service_error();
    assert!(error.is_invalid_parameter_exception(), "{error:?}");
}

#[tokio::test]
async fn the_published_samples_come_out_exact_to_the_millisecond() {
    let simulation = Simulation::start(Options::still(NOW)).await.unwrap();
    let samples = [
        include_str!("samples/01-api-reference-two-events.raw.json"),
        include_str!("samples/02-aws-cli-example-inprogress.json"),
        include_str!("samples/03-devguide-pass-norisk-no-risklevel.json"),
    ];
    simulation.world(|world| {
        for sample in samples {
            world.load_sample(POOL, "ada", sample);
        }
    });
    let client = cognito::client(&simulation.url(), "eu-west-1", "AKIAEXAMPLE");
    let events = page(&client, None).await.unwrap().auth_events.unwrap();
    let millis: Vec<_> = events
        .iter()
        .map(|event| {
            let date = event.creation_date().unwrap();
            UnixMillis::from_secs_and_nanos(date.secs(), date.subsec_nanos()).0
        })
        .collect();
    assert_eq!(millis, [1_726_694_203_495, 1_723_222_998_200, 1_723_136_049_929, 1_719_510_599_139]);
    let context = events[1].event_context_data().unwrap();
    assert_eq!(context.city(), Some("null"));
    assert_eq!(context.device_name(), None);
    assert_eq!(events[0].event_response().unwrap().as_str(), "InProgress");
    assert_eq!(events[2].event_risk().unwrap().risk_level().unwrap().as_str(), "Low");
    assert_eq!(events[3].event_risk().unwrap().risk_level(), None);
    assert_eq!(events[3].event_context_data().unwrap().timezone(), Some("-07:00"));
}

#[tokio::test]
async fn an_omitted_member_is_absent_and_an_unknown_word_arrives_verbatim() {
    let (simulation, client) = ada().await;
    simulation.world(|world| {
        let bare = AuthEvent { event_type: Some(Word::parse("Teleport")), ..AuthEvent::default() };
        world.arrive(POOL, "ada", &bare);
        world.arrive_raw(POOL, "ada", r#"{"EventId":"x","CreationDate":1.5,"Unheard":{"of":[1]}}"#);
    });
    let events = page(&client, None).await.unwrap().auth_events.unwrap();
    assert_eq!(events[0].event_type().unwrap().as_str(), "Teleport");
    assert_eq!((events[0].event_id(), events[0].creation_date()), (None, None));
    assert_eq!(events[1].event_id(), Some("x"));
}

#[tokio::test]
async fn page_sizes_and_parameters_keep_the_services_rules() {
    let (simulation, client) = ada().await;
    live_through(&simulation, 70);
    let sized = |size: i32| {
        let call = client.admin_list_user_auth_events().user_pool_id(POOL).username("ada");
        call.max_results(size).send()
    };
    assert_eq!(sized(0).await.unwrap().auth_events().len(), 60);
    assert_eq!(sized(7).await.unwrap().auth_events().len(), 7);
    for size in [-1, 61] {
        let error = sized(size).await.unwrap_err().into_service_error();
        assert!(error.is_invalid_parameter_exception(), "{size}: {error:?}");
    }
    let call = client.admin_list_user_auth_events().user_pool_id("no-pool").username("ada");
    let error = call.send().await.unwrap_err().into_service_error();
    assert!(error.is_invalid_parameter_exception(), "{error:?}");
}

#[tokio::test]
async fn what_is_missing_is_told_apart() {
    let (simulation, client) = ada().await;
    let ask = |pool: &str, user: &str| {
        let call = client.admin_list_user_auth_events().user_pool_id(pool).username(user);
        call.send()
    };
    let error = ask(POOL, "nobody").await.unwrap_err().into_service_error();
    assert!(error.is_user_not_found_exception(), "{error:?}");
    let error = ask("eu-west-1_Nowhere", "ada").await.unwrap_err().into_service_error();
    assert!(error.is_resource_not_found_exception(), "{error:?}");
    simulation.world(|world| world.pool_mut(POOL).threat_protection = "OFF".into());
    let error = ask(POOL, "ada").await.unwrap_err().into_service_error();
    assert!(error.is_user_pool_add_on_not_enabled_exception(), "{error:?}");
    let elsewhere = cognito::client(&simulation.url(), "us-east-1", "AKIAEXAMPLE");
    assert_eq!(error_of(&elsewhere, None).await, "ResourceNotFoundException");
}

#[tokio::test]
async fn a_user_answers_to_sub_and_alias() {
    let (simulation, client) = ada().await;
    live_through(&simulation, 1);
    let sub = simulation.world(|world| {
        world.change_user(POOL, "ada", |user| user.set_attribute("email", "ada@example.com"));
        world.pool(POOL).unwrap().user("ada").unwrap().sub.clone()
    });
    for name in [sub.as_str(), "ada@example.com"] {
        let call = client.admin_list_user_auth_events().user_pool_id(POOL).username(name);
        assert_eq!(call.send().await.unwrap().auth_events().len(), 1);
    }
}

#[tokio::test]
async fn the_quota_throttles_and_the_client_has_a_type_for_it() {
    let simulation = Simulation::start(Options { quotas: Quotas::documented(), ..Options::still(NOW) }).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, "ada");
    });
    let client = cognito::client(&simulation.url(), "eu-west-1", "AKIAEXAMPLE");
    for prefixed in [false, true] {
        simulation.world(|world| {
            world.prefixed_errors = prefixed;
            world.advance(Duration::from_secs(1));
        });
        for call in 0..50 {
            assert!(page(&client, None).await.is_ok(), "call {call}");
        }
        let error = page(&client, None).await.unwrap_err().into_service_error();
        assert!(error.is_too_many_requests_exception(), "{error:?}");
        assert_eq!(error.message(), Some("Rate exceeded"));
    }
}

#[tokio::test]
async fn users_are_listed_page_by_page_and_by_filter() {
    let (simulation, client) = ada().await;
    simulation.world(|world| {
        for number in 0..130 {
            world.add_user_with(POOL, &format!("user-{number:03}"), |user| {
                user.enabled = number % 10 != 0;
                user.set_attribute("email", &format!("user-{number:03}@example.com"));
            });
        }
    });
    let listed = |filter: Option<&'static str>, limit: Option<i32>| {
        let client = &client;
        async move {
            let mut names = vec![];
            let mut pages = client
                .list_users()
                .user_pool_id(POOL)
                .set_filter(filter.map(str::to_owned))
                .set_limit(limit)
                .into_paginator()
                .send();
            while let Some(page) = pages.next().await {
                names.extend(page.unwrap().users.unwrap().into_iter().map(|user| user.username.unwrap()));
            }
            names
        }
    };
    let all = listed(None, Some(60)).await;
    assert_eq!((all.len(), all[0].as_str(), all[130].as_str()), (131, "ada", "user-129"));
    assert_eq!(simulation.world(|world| world.calls().count("ListUsers")), 3);
    assert_eq!(listed(Some(r#"status = "Disabled""#), Some(5)).await.len(), 13);
    assert_eq!(listed(Some(r#"email ^= "user-00""#), None).await.len(), 10);
    let refused = client.list_users().user_pool_id(POOL).filter("email > 1").send().await;
    assert!(refused.unwrap_err().into_service_error().is_invalid_parameter_exception());
}

#[tokio::test]
async fn a_listing_gives_the_attributes_that_were_asked_for_or_fails() {
    let (simulation, client) = ada().await;
    simulation.world(|world| world.load_users_sample(POOL, include_str!("samples/07-aws-cli-list-users.json")));
    let ask = |attribute: &str, filter: &str| {
        let call = client.list_users().user_pool_id(POOL).filter(filter);
        call.attributes_to_get(attribute).send()
    };
    let users = ask("email", r#"username ^= "testuser""#).await.unwrap().users.unwrap();
    let attributes: Vec<_> = users.iter().flat_map(|user| user.attributes()).map(|a| a.value().unwrap()).collect();
    assert_eq!(attributes, ["testuser@example.com", "testuser2@example.com"]);
    let created = users[0].user_create_date().unwrap();
    let created = UnixMillis::from_secs_and_nanos(created.secs(), created.subsec_nanos());
    assert_eq!(created, UnixMillis(1_682_955_829_578));
    assert_eq!(users[1].user_status().unwrap().as_str(), "UNCONFIRMED");
    assert!(ask("email", "").await.unwrap_err().into_service_error().is_invalid_parameter_exception());
    assert_eq!(ask("sub", "").await.unwrap().users().len(), 3);
}

#[tokio::test]
async fn a_group_lists_its_members_and_an_absent_one_is_not_found() {
    let (simulation, client) = ada().await;
    simulation.world(|world| {
        for number in 0..5 {
            world.add_user(POOL, &format!("user-{number}"));
            world.add_to_group(POOL, "admins", &format!("user-{number}"));
        }
        world.remove_from_group(POOL, "admins", "user-4");
        world.add_group(POOL, "empty");
    });
    let ask = |group: &str, token: Option<String>| {
        let call = client.list_users_in_group().user_pool_id(POOL).group_name(group);
        call.limit(3).set_next_token(token).send()
    };
    let first = ask("admins", None).await.unwrap();
    let second = ask("admins", first.next_token.clone()).await.unwrap();
    assert_eq!((first.users().len(), second.users().len(), second.next_token()), (3, 1, None));
    assert!(ask("empty", None).await.unwrap().users().is_empty());
    let error = ask("absent", None).await.unwrap_err().into_service_error();
    assert!(error.is_resource_not_found_exception(), "{error:?}");
}

#[tokio::test]
async fn a_pool_describes_itself_and_its_accounts_limits() {
    let (_simulation, client) = ada().await;
    let pool = client.describe_user_pool().user_pool_id(POOL).send().await.unwrap().user_pool.unwrap();
    assert_eq!(pool.arn(), Some("arn:aws:cognito-idp:eu-west-1:111122223333:userpool/eu-west-1_Example"));
    assert_eq!(pool.user_pool_tier().unwrap().as_str(), "PLUS");
    let mode = pool.user_pool_add_ons().unwrap().advanced_security_mode();
    assert_eq!(mode.as_str(), "ENFORCED");
    assert_eq!(pool.estimated_number_of_users(), 1);
}

#[tokio::test]
async fn the_present_limit_of_a_category_can_be_read() {
    use aws_sdk_cognitoidentityprovider::types::{LimitClass, LimitDefinitionType};
    let (simulation, client) = ada().await;
    simulation.world(|world| world.quotas().set_limit(Category::UserResourceRead, Some(120)));
    let definition = LimitDefinitionType::builder()
        .limit_class(LimitClass::ApiCategory)
        .attributes("Category", "UserResourceRead")
        .build()
        .unwrap();
    let limit = client.get_provisioned_limit().limit_definition(definition).send().await.unwrap().limit.unwrap();
    assert_eq!((limit.provisioned_limit_value(), limit.free_limit_value()), (120, 50));
}

#[tokio::test]
async fn a_call_that_makes_users_billable_is_refused_and_remembered() {
    let (simulation, client) = ada().await;
    let refused = client.admin_get_user().user_pool_id(POOL).username("ada").send().await;
    assert_eq!(refused.unwrap_err().code(), Some("UnknownOperationException"));
    simulation.world(|world| {
        let call = world.calls().of("AdminGetUser").next().unwrap();
        assert_eq!((call.user.as_deref(), call.access_key.as_deref()), (Some("ada"), Some("AKIAEXAMPLE")));
        assert_eq!(call.outcome, CallResult::Refused("UnknownOperationException".into()));
    });
}

#[tokio::test]
async fn every_misfortune_reaches_the_client_and_passes() {
    let (simulation, client) = ada().await;
    live_through(&simulation, 3);
    for (fault, name) in [
        (InjectedFault::throttle(), "TooManyRequestsException"),
        (InjectedFault::internal_error(), "InternalErrorException"),
        (InjectedFault::access_denied(), "AccessDeniedException"),
        (InjectedFault::expired_token(), "ExpiredTokenException"),
        (InjectedFault::unrecognized_client(), "UnrecognizedClientException"),
    ] {
        simulation.world(|world| world.inject(fault.times(1)));
        assert_eq!(error_of(&client, None).await, name);
    }
    for fault in
        [FaultKind::Reset, FaultKind::CutJson, FaultKind::CutConnection, FaultKind::Html(502), FaultKind::Html(200)]
    {
        simulation.world(|world| world.inject(InjectedFault::new(fault.clone()).times(1)));
        let error = page(&client, None).await.unwrap_err();
        assert!(!matches!(error, SdkError::TimeoutError(_)), "{fault:?}: {error:?}");
    }
    simulation.world(|world| world.inject(InjectedFault::new(FaultKind::Slow(Duration::from_millis(1))).times(1)));
    assert_eq!(page(&client, None).await.unwrap().auth_events().len(), 3);
}

#[tokio::test]
async fn a_hanging_answer_ends_with_the_clients_patience_or_the_simulation() {
    let (simulation, client) = ada().await;
    simulation.world(|world| world.inject(FaultKind::Hang));
    // The client gives up once its call has arrived: a limit of time could end before.
    tokio::select! {
        answer = page(&client, None) => panic!("a hanging call was answered: {answer:?}"),
        () = simulation.until(|world| world.calls().total() == 1) => {}
    }
    let hanging = page(&client, None);
    let stopped = async {
        simulation.until(|world| world.calls().total() == 2).await;
        simulation.stop().await;
    };
    let (answer, ()) = tokio::join!(hanging, stopped);
    assert!(answer.is_err());
}

#[tokio::test]
async fn pages_can_mislead() {
    let (simulation, client) = ada().await;
    live_through(&simulation, 150);
    let all = history_ids(&simulation);
    let misled = async |fault: FaultKind, token: Option<String>| {
        simulation.world(|world| world.inject(InjectedFault::new(fault).times(1)));
        let output = page(&client, token.as_deref()).await.unwrap();
        (ids(output.auth_events()), output.next_token().map(str::to_owned))
    };
    let first = page(&client, None).await.unwrap();
    let token = first.next_token().map(str::to_owned);

    let (none, again) = misled(FaultKind::EmptyPage, None).await;
    assert!(none.is_empty());
    assert_eq!(ids(page(&client, again.as_deref()).await.unwrap().auth_events()), all[..60]);
    let (none, again) = misled(FaultKind::EmptyPage, token.clone()).await;
    assert!(none.is_empty());
    assert_eq!(ids(page(&client, again.as_deref()).await.unwrap().auth_events()), all[60..120]);

    let (events, same) = misled(FaultKind::RepeatToken, token.clone()).await;
    assert_eq!((events.as_slice(), &same), (&all[60..120], &token));
    let (events, next) = misled(FaultKind::RepeatPage, token.clone()).await;
    assert_eq!((events.as_slice(), &next), (&all[..60], &token));

    let (mut events, next) = misled(FaultKind::Shuffle, None).await;
    assert_ne!(events, all[..60]);
    events.sort_unstable();
    let mut sorted = all[..60].to_vec();
    sorted.sort_unstable();
    assert_eq!((events, &next), (sorted, &token));

    simulation.world(|world| world.inject(InjectedFault::new(FaultKind::Huge).times(1)));
    let huge = page(&client, None).await.unwrap();
    let device = huge.auth_events()[0].event_context_data().unwrap().device_name().unwrap();
    assert_eq!(device.len(), 100_000);
}

#[tokio::test]
async fn the_simulation_can_be_waited_for_and_counts_what_is_in_flight() {
    let (simulation, client) = ada().await;
    let asked = async {
        page(&client, None).await.unwrap();
        page(&client, None).await.unwrap();
    };
    let seen = simulation.until(|world| world.calls().count("AdminListUserAuthEvents") == 2);
    tokio::join!(asked, seen);
    assert_eq!(simulation.most_in_flight(), 1);
}

#[tokio::test]
async fn a_population_lives_in_the_world_as_its_time_goes_on() {
    let (simulation, client) = ada().await;
    let mut population = Population::lively(1, 20);
    simulation.world(|world| {
        let now = world.now();
        population.move_in(world, POOL, now);
    });
    let users = client.list_users().user_pool_id(POOL).send().await.unwrap();
    assert_eq!(users.users().len(), 21);
    simulation.enliven(population, Duration::from_millis(1));
    simulation.world(|world| world.advance(Duration::from_secs(60)));
    // Within sixty seconds a user signs up.
    simulation.until(|world| world.pool(POOL).unwrap().users().len() > 21).await;
    simulation.stop().await;
}

#[tokio::test]
async fn answers_carry_a_request_id_and_the_worlds_date() {
    use aws_smithy_runtime_api::http::Response;
    let (_simulation, client) = ada().await;
    assert!(page(&client, None).await.unwrap().request_id().is_some());
    let error = client.admin_list_user_auth_events().user_pool_id(POOL).username("nobody");
    let SdkError::ServiceError(error) = error.send().await.unwrap_err() else {
        panic!("an error of the service");
    };
    let raw: &Response = error.raw();
    assert_eq!(raw.headers().get("date"), Some("Sun, 15 Jun 2025 15:06:40 GMT"));
}

const ROLE: &str = "arn:aws:iam::444455556666:role/reader";

/// A client with the credentials of [`ROLE`].
async fn assumed(simulation: &Simulation, external_id: &str) -> Client {
    // Region and credentials are given, so that the SDK does not look for them on the machine.
    let sdk = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .endpoint_url(simulation.url())
        .region(aws_config::Region::new("eu-west-1"))
        .credentials_provider(aws_credential_types::Credentials::new(
            "AKIAEXAMPLE",
            "not-a-secret",
            None,
            None,
            "tests",
        ))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .retry_config(aws_config::retry::RetryConfig::disabled())
        .load()
        .await;
    let provider = aws_config::sts::AssumeRoleProvider::builder(ROLE)
        .configure(&sdk)
        .external_id(external_id)
        .session_name("tests")
        .build()
        .await;
    let config = aws_sdk_cognitoidentityprovider::config::Builder::from(&sdk).credentials_provider(provider).build();
    Client::from_conf(config)
}

#[tokio::test]
async fn a_role_opens_the_pools_of_its_account_and_no_others() {
    // The real clock: credentials have a real expiry, which the client compares with its own clock.
    let simulation = Simulation::start(Options::default()).await.unwrap();
    simulation.world(|world| {
        world.home_account = Some("111122223333".into());
        world.add_role(Role { arn: ROLE.into(), external_id: Some("shibboleth".into()) });
        let pool = world.add_pool(SimulatedPool::new(POOL));
        pool.account_id = "444455556666".into();
        world.add_user(POOL, "ada");
    });
    let plain = cognito::client(&simulation.url(), "eu-west-1", "AKIAEXAMPLE");
    assert_eq!(error_of(&plain, None).await, "ResourceNotFoundException");

    let wrong = assumed(&simulation, "wrong").await;
    assert!(page(&wrong, None).await.is_err());
    let denied = simulation.world(|world| world.calls().of("AssumeRole").next().unwrap().outcome.clone());
    assert_eq!(denied, CallResult::Refused("AccessDenied".into()));

    let right = assumed(&simulation, "shibboleth").await;
    assert!(page(&right, None).await.is_ok());
    simulation.world(|world| {
        let call = world.calls().of("AdminListUserAuthEvents").next_back().unwrap();
        assert!(call.access_key.as_deref().unwrap().starts_with("ASIA"));
        world.pool_mut(POOL).account_id = "111122223333".into();
    });
    assert_eq!(error_of(&right, None).await, "ResourceNotFoundException");
    simulation.world(|world| world.advance(Duration::from_secs(3601)));
    assert_eq!(error_of(&right, None).await, "ExpiredTokenException");
}
