//! The AWS adapter against the simulated Cognito, and against a raw socket for answers that Cognito never gives.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use cognito_auth_core::event::{UnixMillis, Word};
use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_exporter::source::cognito::{Clients, Cognito, Connection};
use cognito_auth_exporter::source::{
    CallOutcome, Listing, Operation, PageToken, PoolDescription, RefusalCause, SignInNames, Source as _, SourceError,
};
use cognito_auth_simulator::fault::{AwsError, FaultKind, InjectedFault};
use cognito_auth_simulator::world::{Role, SimulatedPool};
use cognito_auth_simulator::{Options, Simulation};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const POOL: &str = "eu-west-1_Example";
const USER: &str = "ada-lovelace";
const NOW: UnixMillis = UnixMillis(1_750_000_000_000);
const PATIENCE: Duration = Duration::from_secs(20);
/// The timeout of calls that are expected to time out.
const IMPATIENCE: Duration = Duration::from_millis(200);

fn here() -> Connection {
    Connection { region: "eu-west-1".into(), profile: None, role_arn: None, external_id: None }
}

fn source(url: &str, timeout: Duration) -> Cognito {
    Clients::simulated(url).connect(POOL, here(), timeout, Clock::manual(NOW))
}

async fn ada() -> (Simulation, Cognito) {
    let simulation = Simulation::start(Options::still(NOW)).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.add_user(POOL, USER);
    });
    let source = source(&simulation.url(), PATIENCE);
    (simulation, source)
}

/// The future is moved into each future around it and into the task, for every turn.
#[test]
fn the_future_of_a_call_is_small() {
    let source = source("http://cognito.invalid", PATIENCE);
    let bytes = size_of_val(&source.page(USER, None, 60));
    assert!(bytes < 8 << 10, "{bytes} bytes");
}

/// The kind of an error, as a word.
fn kind(error: &SourceError) -> String {
    match error {
        SourceError::Throttled(_) => "throttled".into(),
        SourceError::UserNotFound => "user".into(),
        SourceError::InvalidParameter(_) => "parameter".into(),
        SourceError::Pool(refusal) => format!("pool {:?}", refusal.cause),
        SourceError::Caller(refusal) => format!("caller {:?}", refusal.cause),
        SourceError::Timeout(_) => "timeout".into(),
        SourceError::Passing(_) => "passing".into(),
    }
}

/// Answers every connection with `response`, until dropped. With `trickling`, the response never ends.
struct Responder {
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Responder {
    #[expect(clippy::disallowed_methods, reason = "a test's server; the guard aborts it")]
    async fn start(response: Vec<u8>, trickling: bool) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 16_384];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&response).await;
                while trickling && stream.write_all(b" ").await.is_ok() {
                    tokio::time::sleep(IMPATIENCE / 10).await;
                }
            }
        });
        Self { url, task }
    }

    async fn json(status: &str, headers: &str, body: &str) -> Self {
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.1\r\n{headers}");
        let text = format!("{head}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        Self::start(text.into_bytes(), false).await
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_published_page_becomes_events_exact_to_the_millisecond() {
    let (simulation, source) = ada().await;
    let sample = include_str!("samples/01-api-reference-two-events.raw.json");
    simulation.world(|world| world.load_sample(POOL, USER, sample));
    let page = source.page(USER, None, 1).await.unwrap();
    assert_eq!(page.received, NOW);
    let event = &page.events[0];
    assert_eq!(event.id.as_deref(), Some("7875548a-bd00-490a-93b8-fa36fe42a3e0"));
    assert_eq!(event.creation_date, Some(UnixMillis(1_723_222_998_200)));
    assert_eq!(event.event_type.as_ref().map(Word::as_str), Some("SignIn"));
    assert_eq!(event.risk.as_ref().unwrap().compromised_credentials, Some(false));
    let context = event.context.as_ref().unwrap();
    assert_eq!((context.city.as_deref(), context.country.as_deref()), (None, Some("United States")));

    let page = source.page(USER, page.next.as_ref(), 1).await.unwrap();
    assert_eq!(page.events[0].creation_date, Some(UnixMillis(1_723_136_049_929)));
    let asked: Vec<_> = simulation.world(|world| world.calls().iter().map(|call| call.max_results).collect());
    assert_eq!(asked, [Some(1), Some(1)]);
}

#[tokio::test]
async fn words_that_nobody_documented_are_kept() {
    let (simulation, source) = ada().await;
    simulation.world(|world| {
        let event =
            r#"{"EventType":"Überraschung","EventResponse":"","ChallengeResponses":[{}],"EventContextData":{}}"#;
        world.arrive_raw(POOL, USER, event);
        world.arrive_raw(POOL, USER, "{}");
    });
    let page = source.page(USER, None, 60).await.unwrap();
    let event = page.events.iter().find(|event| event.event_type.is_some()).unwrap();
    assert_eq!(event.event_type.as_ref().map(Word::as_str), Some("Überraschung"));
    assert_eq!((&event.response, event.challenges.len()), (&None, 1));
    assert_eq!(page.events.len(), 2);
}

#[tokio::test]
async fn every_error_of_the_service_is_cut_by_what_it_means() {
    let (simulation, source) = ada().await;
    for prefixed in [false, true] {
        for (name, status, expected, outcome) in [
            ("TooManyRequestsException", 400, "throttled", CallOutcome::Throttled),
            ("UserNotFoundException", 400, "user", CallOutcome::NotFound),
            ("UserPoolAddOnNotEnabledException", 400, "pool NoThreatProtection", CallOutcome::Denied),
            ("OperationNotEnabledException", 400, "pool NotEnabled", CallOutcome::Denied),
            ("ResourceNotFoundException", 400, "pool NoSuchPool", CallOutcome::NotFound),
            ("NotAuthorizedException", 400, "caller NotAllowed", CallOutcome::Denied),
            ("AccessDeniedException", 400, "caller NotAllowed", CallOutcome::Denied),
            ("ExpiredTokenException", 400, "caller BadCredentials", CallOutcome::Denied),
            ("UnrecognizedClientException", 400, "caller BadCredentials", CallOutcome::Denied),
            ("InvalidSignatureException", 400, "caller BadCredentials", CallOutcome::Denied),
            ("MissingAuthenticationToken", 403, "caller BadCredentials", CallOutcome::Denied),
            ("InvalidParameterException", 400, "parameter", CallOutcome::Error),
            ("InternalErrorException", 500, "passing", CallOutcome::Error),
            ("ServiceUnavailable", 503, "passing", CallOutcome::Error),
        ] {
            simulation.world(|world| {
                world.prefixed_errors = prefixed;
                let refusal = AwsError { status, ..AwsError::new(name, format!("Not for {USER}")) };
                world.inject(InjectedFault::from(refusal).times(1));
            });
            let error = source.page(USER, None, 60).await.unwrap_err();
            assert_eq!((kind(&error).as_str(), error.outcome()), (expected, outcome), "{name}");
            assert!(!format!("{error} {error:?}").contains(USER), "{error}");
            assert!(expected == "user" || error.to_string().contains(name), "{error}");
        }
    }
}

#[tokio::test]
async fn an_error_is_known_by_its_body_or_its_header_alone() {
    for (status, header, body, expected) in [
        (
            "400 Bad Request",
            "",
            r#"{"__type":"com.amazonaws.cognitoidp#AccessDeniedException","Message":"no"}"#,
            "caller NotAllowed",
        ),
        (
            "400 Bad Request",
            "x-amzn-errortype: TooManyRequestsException:http://internal.amazon.com/coral/\r\n",
            "",
            "throttled",
        ),
        ("403 Forbidden", "", "{}", "caller Other"),
        ("429 Too Many Requests", "", "", "throttled"),
        ("503 Service Unavailable", "", "", "passing"),
        ("407 Proxy Authentication Required", "", "<html>", "caller Other"),
        ("200 OK", "", "", "passing"),
        ("200 OK", "", "{}", "none"),
        ("200 OK", "", "[]", "passing"),
        ("200 OK", "", r#"{"AuthEvents":[{"CreationDate":"yesterday"}]"#, "passing"),
        ("200 OK", "", r#"{"AuthEvents":[{"CreationDate":"yesterday"}],"NextToken":7}"#, "passing"),
        ("500 Internal Server Error", "", r#"{"AuthEvents":[{"CreationDate":"yesterday"}]}"#, "passing"),
    ] {
        let responder = Responder::json(status, header, body).await;
        let answer = source(&responder.url, PATIENCE).page(USER, None, 60).await;
        let found = answer.map_or_else(|error| kind(&error), |_| "none".to_owned());
        assert_eq!(found, expected, "{status} {header}{body}");
    }
}

#[tokio::test]
async fn a_page_with_a_malformed_event_is_a_page() {
    let good = r#"{"EventId":"good","EventType":"SignIn","CreationDate":1.723136049929E9}"#;
    for (malformed, id) in [
        (r#"{"CreationDate":"yesterday","EventId":"date"}"#, Some("date")),
        (r#"{"EventId":7}"#, None),
        (r#"{"EventId":"risk","EventRisk":[]}"#, Some("risk")),
        (r#"{"EventId":"feedback","EventFeedback":{"Provider":"Admin"}}"#, Some("feedback")),
        (r#"{"EventId":"challenge","ChallengeResponses":[null]}"#, Some("challenge")),
        (r#"{"EventId":"half","EventContextData":{"City":"\ud83d"}}"#, Some("half")),
        ("7", None),
        // Well-formed but incomplete: the SDK fills in the missing members.
        (r#"{"EventId":"empty","EventFeedback":{"FeedbackValue":"Valid"}}"#, Some("empty")),
    ] {
        let page = format!(r#"{{"AuthEvents":[{malformed},{good}],"NextToken":"older"}}"#);
        let responder = Responder::json("200 OK", "", &page).await;
        let page = source(&responder.url, PATIENCE).page(USER, None, 60).await.unwrap();
        let ids: Vec<_> = page.events.iter().map(|event| event.id.as_deref()).collect();
        assert_eq!(ids, [id, Some("good")], "{malformed}");
        assert_eq!(page.events[1].creation_date, Some(UnixMillis(1_723_136_049_929)));
        assert_eq!(page.next, Some(PageToken("older".into())));
        if let Some(feedback) = &page.events[0].feedback {
            assert!(feedback.value.as_ref().is_none_or(|value| !value.as_str().is_empty()), "{malformed}");
            assert!(feedback.provider.as_ref().is_none_or(|provider| !provider.is_empty()), "{malformed}");
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_of_cognitos_passes() {
    let (simulation, source) = ada().await;
    for fault in
        [FaultKind::Reset, FaultKind::CutJson, FaultKind::CutConnection, FaultKind::Html(502), FaultKind::Html(200)]
    {
        simulation.world(|world| {
            let event = world.sign_in(NOW);
            world.arrive(POOL, USER, &event);
            world.inject(InjectedFault::new(fault.clone()).times(1));
        });
        let error = source.page(USER, None, 60).await.unwrap_err();
        assert_eq!(kind(&error), "passing", "{fault:?}: {error}");
        assert!(error.to_string().starts_with("AdminListUserAuthEvents: "), "{error}");
        assert!(!error.to_string().contains('<') && !error.to_string().contains("EventId"), "{error}");
    }
}

#[tokio::test]
async fn a_call_that_hangs_or_trickles_ends_in_time() {
    let simulation = Simulation::start(Options::still(NOW)).await.unwrap();
    simulation.world(|world| {
        world.add_pool(SimulatedPool::new(POOL));
        world.inject(FaultKind::Hang)
    });
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".to_vec();
    let trickle = Responder::start(head, true).await;
    for url in [&simulation.url(), &trickle.url] {
        let source = source(url, IMPATIENCE);
        let answer = tokio::time::timeout(PATIENCE, source.page(USER, None, 60)).await;
        let error = answer.expect("the call has a deadline of its own").unwrap_err();
        assert_eq!((kind(&error).as_str(), error.outcome()), ("timeout", CallOutcome::Timeout), "{error}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_not_read_to_the_end() {
    let mut answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"NextToken\":\"".to_vec();
    answer.resize(40 << 20, b'x');
    let responder = Responder::start(answer, false).await;
    let error = source(&responder.url, PATIENCE).page(USER, None, 60).await.unwrap_err();
    assert_eq!(kind(&error), "passing");
    assert!(error.to_string().ends_with("answer exceeds 32 MiB"), "{error}");
}

#[tokio::test]
async fn an_answer_that_exceeds_cognitos_bounds_is_refused_whole_and_one_within_them_is_not() {
    let list = |element: &str, count: usize| vec![element; count].join(",");
    let events = |event: &str, count| format!(r#"{{"AuthEvents":[{}],"NextToken":"older"}}"#, list(event, count));
    let users = |count| format!(r#"{{"Users":[{}],"PaginationToken":"t"}}"#, list(r#"{"Username":"ann"}"#, count));
    let challenged = |count| events(&format!(r#"{{"ChallengeResponses":[{}]}}"#, list("{}", count)), 60);
    let deep = format!(r#"{{"AuthEvents":[{}{}]}}"#, "[".repeat(300), "]".repeat(300));
    let padded = |page: String| " ".repeat(70_000) + &page;
    let refused = "AdminListUserAuthEvents: answer exceeds ";
    for (answer, expected) in [
        (events("{}", 60), None),
        (padded(events("{}", 60)), None),
        (events("{}", 61), Some("the 60 events of a page")),
        (events("7", 61), Some("the 60 events of a page")),
        (events("{}", 100_000), Some("32768 values")),
        (challenged(16), None),
        (challenged(200), None),
        (challenged(1_000), Some("32768 values")),
        (padded(deep), Some("a depth of 64")),
    ] {
        let responder = Responder::json("200 OK", "", &answer).await;
        let told = source(&responder.url, PATIENCE).page(USER, None, 60).await;
        let told = told.map(|page| assert_eq!((page.events.len(), page.next.is_some()), (60, true)));
        assert_eq!(told, expected.map_or(Ok(()), |bound| Err(SourceError::Passing(format!("{refused}{bound}")))));
    }
    for (count, is_sound) in [(60, true), (61, false)] {
        let responder = Responder::json("200 OK", "", &users(count)).await;
        let listing = Listing::Users { filter: None };
        let told = source(&responder.url, PATIENCE).users(&listing, None).await;
        assert_eq!(told.as_ref().map(|page| page.users.len()).ok(), is_sound.then_some(60), "{told:?}");
        assert!(told.is_ok() || told.unwrap_err().to_string() == "ListUsers: answer exceeds the 60 users of a page");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_named_by_its_cause() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let error = source(&format!("http://{free}"), PATIENCE).describe().await.unwrap_err();
    assert_eq!(kind(&error), "passing");
    assert!(error.to_string().contains("onnection refused"), "{error}");
}

#[tokio::test]
async fn nothing_is_tried_twice() {
    let (simulation, source) = ada().await;
    simulation.world(|world| world.inject(InjectedFault::throttle()));
    source.page(USER, None, 60).await.unwrap_err();
    assert_eq!(simulation.world(|world| world.calls().total()), 1);
    let patient = Clients::simulated(simulation.url()).with_attempts(3);
    simulation.world(|world| {
        world.remove_all_faults();
        world.inject(InjectedFault::throttle().times(1));
    });
    patient.connect(POOL, here(), PATIENCE, Clock::manual(NOW)).page(USER, None, 60).await.unwrap();
    assert_eq!(simulation.world(|world| world.calls().total()), 3);
}

#[tokio::test]
async fn a_token_that_the_service_refuses_is_a_parameter_refused() {
    let (_simulation, source) = ada().await;
    let token = PageToken("secret-token".into());
    let error = source.page(USER, Some(&token), 60).await.unwrap_err();
    assert_eq!(kind(&error), "parameter");
    assert!(!error.to_string().contains("secret-token"), "{error}");
}

#[tokio::test]
async fn a_pool_without_threat_protection_and_one_that_is_not_there_are_told_apart() {
    let (simulation, source) = ada().await;
    simulation.world(|world| world.pool_mut(POOL).threat_protection = "OFF".into());
    let error = source.page(USER, None, 60).await.unwrap_err();
    assert_eq!(kind(&error), "pool NoThreatProtection");
    simulation.world(|world| world.remove_pool(POOL));
    let error = source.describe().await.unwrap_err();
    assert_eq!(kind(&error), "pool NoSuchPool");
}

#[tokio::test]
async fn users_are_listed_whole_by_filter_and_by_group() {
    let (simulation, source) = ada().await;
    simulation.world(|world| {
        world.load_users_sample(POOL, include_str!("samples/07-aws-cli-list-users.json"));
        world.add_user_with(POOL, "federated", |user| user.status = "EXTERNAL_PROVIDER".into());
        world.add_user_with(POOL, "disabled", |user| user.enabled = false);
        for number in 0..100 {
            world.add_user(POOL, &format!("member-{number}"));
            world.add_to_group(POOL, "members", &format!("member-{number}"));
        }
    });
    let all = async |listing: Listing| {
        let (mut users, mut token, mut pages) = (vec![], None, 0);
        loop {
            let page = source.users(&listing, token.as_ref()).await.unwrap();
            users.extend(page.users);
            pages += 1;
            match page.next {
                None => return (users, pages),
                next => token = next,
            }
        }
    };
    let (users, pages) = all(Listing::Users { filter: None }).await;
    assert_eq!((users.len(), pages), (105, 2));
    let user = |name: &str| users.iter().find(|user| user.username == name).unwrap();
    let listed = user("testuser");
    assert_eq!(listed.sub.as_deref(), Some("eaad0219-2117-439f-8d46-4db20e59268f"));
    assert_eq!(listed.email.as_ref().unwrap().value, "testuser@example.com");
    assert_eq!(listed.created, Some(UnixMillis(1_682_955_829_578)));
    assert!(listed.enabled && !listed.federated);
    assert!(user("federated").federated && !user("disabled").enabled);

    let (members, pages) = all(Listing::Group("members".into())).await;
    assert_eq!((members.len(), pages), (100, 2));
    let (found, _) = all(Listing::Users { filter: Some(r#"username = "testuser2""#.into()) }).await;
    assert_eq!(found.len(), 1);

    let absent = source.users(&Listing::Group("absent".into()), None).await.unwrap_err();
    assert_eq!(kind(&absent), "parameter", "{absent}");
    let senseless = source.users(&Listing::Users { filter: Some("email > 1".into()) }, None).await.unwrap_err();
    assert_eq!(kind(&senseless), "parameter", "{senseless}");
}

#[tokio::test]
async fn a_pool_is_described() {
    let (simulation, source) = ada().await;
    let account = simulation.world(|world| world.pool(POOL).unwrap().account_id.clone());
    assert_eq!(
        source.describe().await.unwrap(),
        PoolDescription {
            account_id: Some(account),
            tier: Some("PLUS".into()),
            threat_protection: Some("ENFORCED".into()),
            estimated_users: Some(1),
            sign_in_names: Some(SignInNames {
                email: true,
                phone_number: true,
                preferred_username: true,
                case_sensitive: true
            }),
        }
    );
    simulation.world(|world| {
        let pool = world.pool_mut(POOL);
        (pool.alias_attributes, pool.username_attributes) = (vec![], vec!["email".into()]);
        pool.case_sensitive = Some(false);
    });
    let by_email = SignInNames { email: true, phone_number: false, preferred_username: false, case_sensitive: false };
    assert_eq!(source.describe().await.unwrap().sign_in_names, Some(by_email));
}

#[tokio::test]
async fn a_role_is_assumed_once_for_all_its_pools_and_again_for_another_external_id() {
    const ROLE: &str = "arn:aws:iam::444455556666:role/reader";
    const POOLS: [&str; 3] = ["eu-west-1_One", "eu-west-1_Two", "eu-west-1_Three"];
    // In real time, because the SDK uses the machine's clock to check whether a session has expired.
    let simulation = Simulation::start(Options::default()).await.unwrap();
    simulation.world(|world| {
        for pool in POOLS {
            world.add_pool(SimulatedPool::new(pool)).account_id = "444455556666".into();
        }
        world.add_role(Role { arn: ROLE.into(), external_id: Some("shibboleth".into()) });
    });
    let clients = Clients::simulated(simulation.url());
    let connection =
        |external_id: &str| Connection { role_arn: Some(ROLE.into()), external_id: Some(external_id.into()), ..here() };
    let assumed = || simulation.world(|world| world.calls().count("AssumeRole"));
    let sources = POOLS.map(|pool| clients.connect(pool, connection("shibboleth"), PATIENCE, Clock::system()));
    let [one, two, three] = &sources;
    let (one_answer, two_answer, three_answer) = tokio::join!(one.describe(), two.describe(), three.describe());
    assert!(one_answer.is_ok() && two_answer.is_ok() && three_answer.is_ok());
    one.describe().await.unwrap();
    assert_eq!(assumed(), 1);
    let keys: Vec<_> = simulation
        .world(|world| world.calls().of("DescribeUserPool").map(|call| call.access_key.clone().unwrap()).collect());
    assert!(keys.len() == 4 && keys.iter().all(|key| key.starts_with("ASIA")));
    assert!(one.check_credentials().await.unwrap().starts_with("ASIA"));

    let wrong = clients.connect(POOLS[0], connection("wrong"), PATIENCE, Clock::system());
    for error in [wrong.describe().await.unwrap_err(), wrong.check_credentials().await.unwrap_err()] {
        let SourceError::Caller(refusal) = &error else { panic!("{error:?}") };
        assert_eq!(refusal.cause, RefusalCause::RoleNotAssumable);
        assert!(refusal.text.contains("the role cannot be assumed: AccessDenied: "), "{error}");
        assert!(!refusal.text.contains("wrong"), "{error}");
    }
}

/// The longest names that AWS allows leave the action in the text.
#[tokio::test]
async fn a_role_that_is_refused_for_the_tags_of_pod_identity_has_a_remedy_of_its_own() {
    let (simulation, _) = ada().await;
    let role = Connection { role_arn: Some("arn:aws:iam::444455556666:role/reader".into()), ..here() };
    let source = Clients::simulated(simulation.url()).connect(POOL, role, PATIENCE, Clock::system());
    let (hub, session) = ("h".repeat(64), "s".repeat(64));
    let message = format!(
        "User: arn:aws:sts::123456789012:assumed-role/{hub}/{session} is not authorized to perform: sts:TagSession on \
         resource: arn:aws:iam::444455556666:role/reader"
    );
    simulation.world(|world| {
        let denied = AwsError { status: 403, ..AwsError::new("AccessDenied", message) };
        world.inject(InjectedFault::from(denied).on("AssumeRole"));
    });
    let error = source.check_credentials().await.unwrap_err();
    let remedy = error.remedy(Operation::DescribeUserPool, POOL);
    assert!(remedy.starts_with("allow sts:TagSession beside sts:AssumeRole"), "{error}: {remedy}");
}

#[tokio::test]
async fn an_sts_that_fails_for_now_is_no_refusal() {
    let (simulation, _) = ada().await;
    let role = Connection { role_arn: Some("arn:aws:iam::444455556666:role/reader".into()), ..here() };
    let source = Clients::simulated(simulation.url()).connect(POOL, role, PATIENCE, Clock::system());
    simulation.world(|world| {
        let unavailable = AwsError { status: 503, ..AwsError::new("ServiceUnavailable", "later") };
        world.inject(InjectedFault::from(unavailable).on("AssumeRole"));
    });
    let error = source.describe().await.unwrap_err();
    assert_eq!(kind(&error), "passing", "{error}");
}

#[tokio::test]
async fn only_calls_that_cost_nobody_are_ever_made() {
    let (simulation, source) = ada().await;
    source.describe().await.unwrap();
    source.users(&Listing::Users { filter: None }, None).await.unwrap();
    source.page(USER, None, 60).await.unwrap();
    let made: Vec<_> = simulation.world(|world| world.calls().iter().map(|call| call.operation.clone()).collect());
    assert_eq!(made, ["DescribeUserPool", "ListUsers", "AdminListUserAuthEvents"]);
}
