//! Faults affect only the pools and users that they concern, and bad input loses nothing. The built binary runs against
//! a simulated Cognito with faults.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use cognito_auth_core::event::{AuthEvent, UnixMillis, Word};
use cognito_auth_simulator::fault::{AwsError, FaultKind, InjectedFault};
use cognito_auth_simulator::paging::{LastToken, TokenStyle};
use cognito_auth_simulator::world::{SimulatedPool, World};
use serde_json::Value;

use crate::exporter;
use crate::exporter::{Exporter, Scrape};
use crate::long;
use crate::receiver::Received;
use crate::test_env::{MINUTE, READ, TestEnv, is, now, of, populate, said, sign_ins};

/// Fast polling, and all events are live.
const QUICK: &str = "[poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\n\
                     first_run = \"none\"\ntimeout = \"1s\"\n";

/// A configuration that follows all users of these pools, as if from the beginning.
fn following(pools: &[&str]) -> String {
    let pool =
        |id: &&str| format!("[[pools]]\nid = {id:?}\nall_users = true\nfollowed_since = \"2020-01-01T00:00:00Z\"\n");
    pools.iter().map(pool).chain([QUICK.to_owned()]).collect()
}

/// Adds a new event for every user.
fn go_on(env: &TestEnv, pools: &[&str]) {
    env.simulation.world(|world| {
        for pool in pools {
            let names: Vec<_> = world.pool(pool).unwrap().users().map(|user| user.username.clone()).collect();
            names.iter().for_each(|name| sign_ins(world, pool, name, 1, now()));
        }
    });
}

fn begun(exporter: &Exporter, pool: &str) -> usize {
    said(&exporter.log(), &["WARN", "cannot be polled", &format!("pool={pool:?}"), "remedy="]).len()
}

fn ended(exporter: &Exporter, pool: &str) -> usize {
    said(&exporter.log(), &["INFO", "can be polled again", &format!("pool={pool:?}")]).len()
}

const WELL: &str = "eu-west-1_Well";

/// The entry of a pool in `/status`.
fn status(exporter: &Exporter, pool: &str) -> Value {
    let status: Value = serde_json::from_str(&exporter.get("/status")).unwrap();
    status["pools"].as_array().unwrap().iter().find(|known| known["id"] == pool).unwrap().clone()
}

/// Whether the latest error of a pool in `/status` contains `words`, with plausible times.
fn told_of(exporter: &Exporter, pool: &str, words: &str) -> bool {
    let status = status(exporter, pool);
    let Some(latest) = status["last_errors"].as_array().unwrap().first() else { return false };
    // RFC 3339 times in UTC sort as text.
    let [first, last] = ["first", "last"].map(|time| latest[time].as_str().unwrap().to_owned());
    let hour_ago = UnixMillis(now().0 - 60 * MINUTE).to_string();
    assert!(hour_ago < first && first <= last && last <= now().to_string(), "{latest}");
    assert!(latest["count"].as_u64().unwrap() > 0 && !latest["cause"].as_str().unwrap().contains("user-"), "{latest}");
    latest["cause"].as_str().unwrap().contains(words)
}

/// The number of users of a pool in each state: ok, missing, failing.
fn states(scrape: &Scrape, pool: &str) -> [f64; 3] {
    ["ok", "missing", "failing"]
        .map(|state| scrape.sum("cognito_exporter_users", &[&of(pool), &format!("state={state:?}")]))
}

/// Whether a pool is reported as up; None if nothing is reported.
fn up(scrape: &Scrape, pool: &str) -> Option<bool> {
    let labels: &[&str] = &[&of(pool)];
    (scrape.count("cognito_exporter_pool_up", labels) > 0).then(|| is(scrape, "cognito_exporter_pool_up", labels, 1.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_in_any_way_is_told_once_stops_nobody_else_and_loses_nothing() {
    let ill = [
        ("eu-west-1_Error", InjectedFault::internal_error(), "InternalErrorException"),
        ("eu-west-1_Reset", FaultKind::Reset.into(), "connection"),
        ("eu-west-1_CutJson", FaultKind::CutJson.into(), "cannot be read (status 200, application/x-amz-json-1.1, "),
        ("eu-west-1_CutAnswer", FaultKind::CutConnection.into(), "AdminListUserAuthEvents: "),
        ("eu-west-1_BadGateway", FaultKind::Html(502).into(), "status 502, text/html"),
        ("eu-west-1_Portal", FaultKind::Html(200).into(), "status 200, text/html"),
        ("eu-west-1_Hang", FaultKind::Hang.into(), "timed out"),
    ];
    let causes = ill.clone().map(|(pool, _, cause)| (pool, cause));
    let ill_pools = causes.map(|(pool, _)| pool);
    let pools: Vec<_> = ill_pools.iter().copied().chain([WELL]).collect();
    let env = TestEnv::set(&following(&pools), |world| {
        pools.iter().for_each(|pool| populate(world, pool, 6, 3));
        for (pool, fault, _) in ill {
            world.inject(fault.on(READ).in_pool(pool));
        }
    })
    .await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[WELL]).await;
    exporter.until("every trouble told", |_| ill_pools.iter().all(|pool| begun(&exporter, pool) > 0));
    go_on(&env, &pools);
    env.conserved(&exporter, &[WELL]).await;
    let scrape = exporter.scrape();
    for pool in &ill_pools {
        assert!(is(&scrape, "cognito_auth_events_total", &[&of(pool)], 0.0), "{}", scrape.interesting());
        assert_eq!(ended(&exporter, pool), 0, "{}", exporter.log());
        assert!((states(&scrape, pool).iter().sum::<f64>() - 6.0).abs() < 0.5, "each user in one state");
    }
    for (pool, cause) in causes {
        assert!(told_of(&exporter, pool, cause), "{pool}: {}", status(&exporter, pool));
    }
    assert_eq!(status(&exporter, WELL)["last_errors"], Value::Array(vec![]));
    assert_eq!((up(&scrape, WELL), states(&scrape, WELL)), (Some(true), [6.0, 0.0, 0.0]));

    env.simulation.world(World::remove_all_faults);
    env.conserved(&exporter, &pools).await;
    exporter.until("everybody well", |scrape| {
        is(scrape, "cognito_exporter_users", &["state=\"ok\""], 6.0 * pools.len() as f64)
            && is(scrape, "cognito_exporter_pool_up", &[], pools.len() as f64)
    });
    for pool in &ill_pools {
        assert_eq!((begun(&exporter, pool), ended(&exporter, pool)), (1, 1), "{pool}\n{}", exporter.log());
    }
    assert_eq!(said(&exporter.log(), &["WARN"]).len(), ill_pools.len(), "{}", exporter.log());
    assert!(!exporter.log().contains("user-"), "{}", exporter.log());
    assert!(exporter.stop().success());
}

/// A forwarder to an endpoint. When closed, it refuses connections and resets the open ones.
struct Way {
    at: SocketAddr,
    to: SocketAddr,
    open: Option<tokio::task::JoinHandle<()>>,
}

impl Way {
    /// Creates a closed forwarder. Its port is bound once, so that no other process gets it.
    fn to(endpoint: SocketAddr) -> Self {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self { at: free.local_addr().unwrap(), to: endpoint, open: None }
    }

    fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    #[expect(clippy::disallowed_methods, reason = "a test's proxy; closing it aborts it")]
    async fn open(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.at).unwrap();
        let (listener, to) = (socket.listen(1024).unwrap(), self.to);
        self.open = Some(tokio::spawn(async move {
            // The connections end with the task that owns them.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let mut to = tokio::net::TcpStream::connect(to).await.unwrap();
                    // Either end may already be closed.
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        }));
    }

    async fn close(&mut self) {
        let open = self.open.take().unwrap();
        open.abort();
        let _ = open.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_connections_is_down_after_a_minute_and_up_with_its_first_answer() {
    if !long::are_wanted() {
        return;
    }
    let pools = ["eu-west-1_One", "eu-west-1_Two"];
    let populated = async || {
        TestEnv::set(&following(&pools), |world| {
            pools.iter().for_each(|pool| populate(world, pool, 8, 2));
        })
        .await
    };
    // One exporter finds the endpoint closed when it starts, and the other loses it.
    let (early, late) = (populated().await, populated().await);
    let (mut early_way, mut late_way) = (Way::to(early.simulation.addr()), Way::to(late.simulation.addr()));
    late_way.open().await;
    let by_way_of = |env: &TestEnv, url: &str| Exporter::started(env.command_against(url));
    let (early_one, late_one) = (by_way_of(&early, &early_way.url()), by_way_of(&late, &late_way.url()));
    late.conserved(&late_one, &pools).await;
    late_way.close().await;
    let closed = Instant::now();
    go_on(&late, &pools);
    for (exporter, begins) in [(&early_one, "cannot be reached yet"), (&late_one, "cannot be polled")] {
        for pool in pools {
            // A longer deadline than usual: a pool may be reported as down only after a minute.
            let deadline = closed + exporter::PATIENCE + Duration::from_mins(1);
            while up(&exporter.scrape(), pool) != Some(false) {
                assert!(Instant::now() < deadline, "{pool} is not down\n{}", exporter.log());
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert!(told_of(exporter, pool, "onnection refused"), "{}", status(exporter, pool));
            assert_eq!(said(&exporter.log(), &["WARN", begins, pool]).len(), 1, "{}", exporter.log());
        }
        assert_eq!(said(&exporter.log(), &["WARN"]).len(), pools.len(), "{}", exporter.log());
    }
    assert!(closed.elapsed() >= Duration::from_secs(55), "not before: {:?}", closed.elapsed());

    early_way.open().await;
    late_way.open().await;
    for (env, exporter) in [(&early, &early_one), (&late, &late_one)] {
        env.conserved(exporter, &pools).await;
        exporter.until("up", |scrape| is(scrape, "cognito_exporter_pool_up", &[], 2.0));
    }
    let scrape = early_one.scrape();
    let described = |labels: &[&str]| {
        let labels = [labels, &["operation=\"DescribeUserPool\""]].concat();
        scrape.sum("cognito_exporter_api_requests_total", &labels)
    };
    assert!(described(&["outcome=\"error\"", "account_id=\"unknown\""]) > 1.5, "{}", scrape.interesting());
    assert!((described(&["outcome=\"ok\""]) - 2.0).abs() < 0.5, "{}", scrape.interesting());
    for pool in pools {
        assert_eq!((begun(&late_one, pool), ended(&late_one, pool)), (1, 1), "{}", late_one.log());
        assert_eq!(said(&early_one.log(), &["INFO", "can be reached", pool]).len(), 1, "{}", early_one.log());
    }
    assert!(early_one.stop().success() && late_one.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_or_a_caller_that_is_refused_is_down_and_told_once_until_it_is_cured() {
    let ill = ["eu-west-1_NoPlus", "eu-west-1_Denied", "eu-west-1_Expired"];
    let [no_plus, denied, expired] = ill;
    let unknown = "eu-west-1_Unknown";
    let pools = [no_plus, denied, expired, WELL];
    let everyone = [no_plus, denied, expired, unknown, WELL];
    let env = TestEnv::set(&following(&everyone), |world| {
        // There are more users than concurrent calls, because a burst of refusals counts as one.
        pools.iter().for_each(|pool| populate(world, pool, 20, 2));
        world.pool_mut(no_plus).tier = "ESSENTIALS".to_owned();
        world.inject(InjectedFault::access_denied().on(READ).in_pool(denied));
        world.inject(InjectedFault::expired_token().on(READ).in_pool(expired));
    })
    .await;
    let exporter = env.exporter();
    exporter.until("who is down", |scrape| {
        up(scrape, WELL) == Some(true)
            && ill.iter().chain([&unknown]).all(|pool| up(scrape, pool) == Some(false))
            && states(scrape, WELL) == [20.0, 0.0, 0.0]
    });
    env.conserved(&exporter, &[WELL]).await;
    for (pool, cause) in [
        (no_plus, "UserPoolAddOnNotEnabledException"),
        (denied, "AccessDeniedException"),
        (expired, "ExpiredTokenException"),
        (unknown, "ResourceNotFoundException"),
    ] {
        assert!(told_of(&exporter, pool, cause), "{pool}: {}", status(&exporter, pool));
        assert_eq!(status(&exporter, pool)["up"], Value::Bool(false));
    }
    // The users are not marked as failing.
    assert!(ill.iter().all(|pool| states(&exporter.scrape(), pool) == [20.0, 0.0, 0.0]));
    for pool in ill {
        assert_eq!(begun(&exporter, pool), 1, "{}", exporter.log());
        let asked = env.reads(|call| call.pool.as_deref() == Some(pool)).len();
        assert!(asked <= 20, "{asked} calls for a pool that refuses");
    }

    go_on(&env, &pools);
    env.simulation.world(|world| {
        world.remove_all_faults();
        world.pool_mut(no_plus).tier = "PLUS".to_owned();
        populate(world, unknown, 20, 2);
    });
    env.conserved(&exporter, &everyone).await;
    exporter.until("all up", |scrape| is(scrape, "cognito_exporter_pool_up", &[], 5.0));
    for pool in ill {
        assert_eq!((begun(&exporter, pool), ended(&exporter, pool)), (1, 1), "{}", exporter.log());
    }
    let of_unknown = format!("pool={unknown:?}");
    for (level, words) in [("WARN", "users cannot be listed"), ("INFO", "users can be listed again")] {
        assert_eq!(said(&exporter.log(), &[level, words, &of_unknown]).len(), 1, "{}", exporter.log());
    }
    assert_eq!(said(&exporter.log(), &["WARN"]).len(), ill.len() + 1, "{}", exporter.log());
    assert!(!exporter.log().contains("user-"), "{}", exporter.log());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_missing_or_cannot_be_read_concerns_nobody_else() {
    let config = format!(
        "[[pools]]\nid = {WELL:?}\nusernames = [\"user-0\", \"user-1\", \"user-2\", \"user-gone\"]\n\
         followed_since = \"2020-01-01T00:00:00Z\"\n{QUICK}"
    );
    let env = TestEnv::set(&config, |world| {
        populate(world, WELL, 3, 5);
        world.inject(InjectedFault::from(FaultKind::CutJson).on(READ).for_user("user-1"));
    })
    .await;
    let exporter = env.exporter();
    exporter.until("who fails", |scrape| states(scrape, WELL) == [2.0, 1.0, 1.0]);
    exporter.until("the others' events", |scrape| is(scrape, "cognito_auth_events_total", &[], 10.0));
    assert_eq!(up(&exporter.scrape(), WELL), Some(true));
    exporter.until_said("configured users not found in the pool");
    let status: serde_json::Value = serde_json::from_str(&exporter.get("/status")).unwrap();
    assert_eq!(status["pools"][0]["configured_users_missing"], 1);
    let finding = "configured users not found in the pool: 1; `cognito-auth-exporter check` names them";
    let findings = status["findings"].as_array().unwrap();
    assert!(findings.iter().any(|it| it["text"] == finding), "{findings:?}");

    // A user signs up with the missing name, and the unreadable history becomes readable.
    env.simulation.world(|world| {
        world.add_user(WELL, "user-gone");
        sign_ins(world, WELL, "user-gone", 1, now());
        world.remove_all_faults();
    });
    env.conserved(&exporter, &[WELL]).await;
    exporter.until("everybody well", |scrape| states(scrape, WELL) == [4.0, 0.0, 0.0]);
    exporter.until_said("all followed users found in the pool");
    assert_eq!(said(&exporter.log(), &["WARN", "configured users not found in the pool", "users=1"]).len(), 1);
    assert_eq!(said(&exporter.log(), &["WARN"]).len(), 1);
    assert!(!exporter.log().contains("user-"), "{}", exporter.log());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_event_blocks_nobody_and_what_can_be_read_of_it_is_delivered() {
    let malformed = [
        r#"{"EventId":"date","EventType":"SignIn","EventResponse":"Pass","CreationDate":"yesterday"}"#,
        r#"{"EventId":"risk","EventResponse":"Pass","EventRisk":[]}"#,
        r#"{"EventId":"feedback","EventResponse":"Pass","EventFeedback":{"FeedbackDate":1.7E9}}"#,
    ];
    let env = TestEnv::set(&following(&[WELL]), |world| {
        populate(world, WELL, 3, 5);
        // The user's history has several pages, with such events on the first and on the last.
        sign_ins(world, WELL, "user-1", 150, UnixMillis(now().0 - 10 * MINUTE));
        for json in malformed {
            world.arrive_raw(WELL, "user-1", json);
        }
        let long_ago = UnixMillis(now().0 - 1000 * MINUTE);
        let without_id = format!(
            r#"{{"EventId":7,"EventType":"SignIn","EventResponse":"Pass","CreationDate":{}}}"#,
            long_ago.0 as f64 / 1000.0
        );
        world.arrive_raw(WELL, "user-1", &without_id);
    })
    .await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[WELL]).await;
    // Polling goes on while these events exist, and another one arrives.
    go_on(&env, &[WELL]);
    env.simulation
        .world(|world| world.arrive_raw(WELL, "user-2", r#"{"EventId":"null","EventResponse":null,"EventType":[]}"#));
    env.conserved(&exporter, &[WELL]).await;
    let scrape = exporter.scrape();
    assert_eq!((states(&scrape, WELL), up(&scrape, WELL)), ([3.0, 0.0, 0.0], Some(true)));
    let records = env.receiver.records();
    let one = |id: &str| records.iter().find(|record| record.text("aws.cognito.event.id") == id).unwrap();
    assert_eq!((one("date").text("aws.cognito.event.type"), one("date").timestamp), ("SignIn", 0));
    assert!(!one("risk").attributes.keys().any(|name| name.starts_with("aws.cognito.risk")));
    assert!(!one("feedback").attributes.contains_key("aws.cognito.feedback.value"), "no empty word");
    assert!(!one("null").attributes.contains_key("aws.cognito.event.type"));
    let without_id: Vec<_> =
        records.iter().filter(|record| !record.attributes.contains_key("aws.cognito.event.id")).collect();
    assert_eq!(without_id.len(), 1, "known by its digest");
    assert_eq!(said(&exporter.log(), &["WARN"]).len(), 1, "{}", exporter.log());
    assert_eq!(said(&exporter.log(), &["WARN", "not as documented", WELL]).len(), 1, "{}", exporter.log());
    assert!(!exporter.log().contains("user-"), "{}", exporter.log());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_lowers_the_budget_which_recovers_and_nothing_is_lost() {
    const BUDGET: &str = "cognito_exporter_api_budget_requests_per_second";
    let env = TestEnv::set(&following(&[WELL]).replace("timeout = \"1s\"", "timeout = \"30s\""), |world| {
        populate(world, WELL, 10, 150);
        // Only one: after a second one the ceiling would stay low for longer than the test waits.
        world.inject(InjectedFault::throttle().on(READ).after(20).with_probability(0.2).times(1));
    })
    .await;
    let exporter = env.exporter();
    let budget = |scrape: &Scrape| scrape.sum(BUDGET, &[]);
    // The budget's own tests check how fast it recovers.
    exporter.until("a lower budget", |scrape| scrape.count(BUDGET, &[]) > 0 && budget(scrape) < 385.0);
    exporter.until("nearly all of it again", |scrape| budget(scrape) > 370.0);
    env.conserved(&exporter, &[WELL]).await;
    let scrape = exporter.scrape();
    assert!(scrape.sum("cognito_exporter_api_requests_total", &["outcome=\"throttled\""]) > 0.5);
    assert!(is(&scrape, "cognito_exporter_pool_up", &[], 1.0), "throttles are up");
    assert_eq!(said(&exporter.log(), &["WARN"]), Vec::<String>::new());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_tokens_of_every_bad_kind_cost_time_and_no_event() {
    let opaque = |lifetime| TokenStyle::Opaque { lifetime };
    let (dying, offsets, always) = ("eu-west-1_Dying", "eu-west-1_Offsets", "eu-west-1_Always");
    let (same_token, same_page) = ("eu-west-1_SameToken", "eu-west-1_SamePage");
    let spoilt = [
        (same_page, FaultKind::RepeatPage),
        ("eu-west-1_Empty", FaultKind::EmptyPage),
        ("eu-west-1_Shuffled", FaultKind::Shuffle),
    ];
    let pools: Vec<_> = spoilt.iter().map(|(pool, _)| *pool).chain([dying, offsets, always, same_token]).collect();
    let env = TestEnv::set(&following(&pools), |world| {
        pools.iter().for_each(|pool| populate(world, pool, 3, 200));
        // Each token has expired when it is used, so no walk gets beyond the first page.
        world.pool_mut(dying).token_style = opaque(Duration::ZERO);
        world.pool_mut(offsets).token_style = TokenStyle::Offset;
        world.pool_mut(always).last_token = LastToken::Always;
        for user in ["user-0", "user-1", "user-2"] {
            // Only on the second page: a first page without a token would end the history.
            let second_page = InjectedFault::new(FaultKind::RepeatToken).on(READ).in_pool(same_token).for_user(user);
            world.inject(second_page.after(1).times(1));
            // Once for certain, in addition to the random faults.
            let second_page = InjectedFault::new(FaultKind::RepeatPage).on(READ).in_pool(same_page).for_user(user);
            world.inject(second_page.after(1).times(1));
        }
        for (pool, fault) in spoilt.clone() {
            world.inject(InjectedFault::new(fault).on(READ).in_pool(pool).with_probability(0.5));
        }
    })
    .await;
    let exporter = env.exporter();
    // New events arrive between the pages, so offsets shift and walks meet known events.
    for _ in 0..3 {
        go_on(&env, &pools);
        env.forget_calls();
        let everybody = (0..3).map(|user| format!("user-{user}")).collect();
        for pool in &pools {
            env.until_all_polled(pool, &everybody).await;
        }
    }
    let refused =
        |call: &cognito_auth_simulator::calls::Call| call.pool.as_deref() == Some(dying) && call.token.is_some();
    env.until("a dead token", |world| world.calls().of(READ).any(refused)).await;
    let out_of_order =
        |scrape: &Scrape, pool: &str| scrape.sum("cognito_exporter_order_violations_total", &[&of(pool)]) > 0.5;
    exporter.until("pages out of order", |scrape| {
        out_of_order(scrape, same_page) && out_of_order(scrape, "eu-west-1_Shuffled")
    });
    env.simulation.world(|world| {
        world.remove_all_faults();
        world.pool_mut(dying).token_style = opaque(Duration::from_mins(5));
    });
    go_on(&env, &pools);
    env.conserved(&exporter, &pools).await;
    let scrape = exporter.until("no backlog", |scrape| is(scrape, "cognito_exporter_catching_up", &[], 0.0));
    let counted = |metric: &str, pool: &str| scrape.sum(metric, &[&of(pool)]);
    for pool in [dying, always, same_token] {
        assert!(counted("cognito_exporter_order_violations_total", pool) < 0.5, "{pool} {}", scrape.interesting());
    }
    for pool in &pools {
        // All events arrived in order. Events that a walk met on its way down were not late.
        assert!(counted("cognito_exporter_late_events_total", pool) < 0.5, "{pool} {}", scrape.interesting());
    }
    for pool in &pools {
        assert_eq!(begun(&exporter, pool), ended(&exporter, pool), "{pool}\n{}", exporter.log());
    }
    assert!(!exporter.log().contains("user-"), "{}", exporter.log());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_event_holds_it_is_delivered_as_it_is_and_counted_under_a_known_label() {
    let strange = ["zoë", "日本語・ユーザー", "a\"b\\c{}", "🦀"];
    let env = TestEnv::set(&following(&[WELL]), |world| {
        world.add_pool(SimulatedPool::new(WELL));
        strange.iter().chain(&["words", "huge", "moment", "bare"]).for_each(|name| world.add_user(WELL, name));
        let at = UnixMillis(now().0 - MINUTE);
        for name in strange {
            let mut event = world.sign_in(at);
            let context = event.context.as_mut().unwrap();
            (context.city, context.device_name) =
                (Some("Zürich 🏔 \"quoted\"".into()), Some("\u{0}\n\t\u{202e}".into()));
            world.arrive(WELL, name, &event);
        }
        let mut words = AuthEvent { id: Some("unknown-words".into()), ..world.sign_in(at) };
        words.event_type = Some(Word::parse("Teleport"));
        words.response = Some(Word::parse("Perhaps"));
        words.risk.as_mut().unwrap().decision = Some(Word::parse("Shrug"));
        words.context.as_mut().unwrap().city = Some("null".into());
        world.arrive(WELL, "words", &words);
        let mut huge = AuthEvent { id: Some("huge".into()), ..world.sign_in(at) };
        huge.context.as_mut().unwrap().device_name = Some("D".repeat(1 << 20));
        world.arrive(WELL, "huge", &huge);
        for _ in 0..500 {
            let event = world.sign_in(at);
            world.arrive(WELL, "moment", &event);
        }
        let undated = AuthEvent { id: Some("undated".into()), creation_date: None, ..world.sign_in(at) };
        let nameless = AuthEvent { id: None, ..world.sign_in(at) };
        [undated, nameless].iter().for_each(|event| world.arrive(WELL, "bare", event));
        world.arrive_raw(WELL, "bare", "{}");
        world.arrive_raw(WELL, "bare", r#"{"EventId":"new-members","Moon":{"phase":[1,2]},"EventResponse":"Pass"}"#);
    })
    .await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[WELL]).await;

    let records = env.receiver.records();
    let one =
        |id: &str| -> &Received { records.iter().find(|record| record.text("aws.cognito.event.id") == id).unwrap() };
    let words = one("unknown-words");
    assert_eq!(words.text("aws.cognito.event.type"), "Teleport");
    assert_eq!(words.text("aws.cognito.event.response"), "Perhaps");
    assert_eq!(words.text("aws.cognito.risk.decision"), "Shrug");
    assert_eq!(words.event_name, "aws.cognito.auth.other");
    assert_eq!(words.attributes.get("geo.locality.name"), None);
    let labels = ["event_type=\"other\"", "event_response=\"other\"", "risk_decision=\"other\""];
    let scrape = exporter.scrape();
    assert!(is(&scrape, "cognito_auth_events_total", &labels, 1.0), "{}", scrape.interesting());
    // The exception is the device name, which is cut and reported.
    assert_eq!(one("huge").text("aws.cognito.device.name").len(), 64 << 10);
    assert_eq!(one("undated").timestamp, 0);
    assert_eq!(one("undated").attributes["aws.cognito.event.history"], Value::Bool(false));
    assert_eq!(one("new-members").text("aws.cognito.event.response"), "Pass");
    let nameless: Vec<_> =
        records.iter().filter(|record| !record.attributes.contains_key("aws.cognito.event.id")).collect();
    assert_eq!(nameless.len(), 2, "no EventId");
    assert_ne!(nameless[0].uid(), nameless[1].uid());
    for name in strange {
        let of_user: Vec<_> = records.iter().filter(|record| record.text("user.name") == name).collect();
        assert_eq!(of_user.len(), 1, "{name}");
        assert_eq!(of_user[0].text("geo.locality.name"), "Zürich 🏔 \"quoted\"");
        assert_eq!(of_user[0].text("aws.cognito.device.name"), "\u{0}\n\t\u{202e}");
        assert!(!exporter.log().contains(name), "{}", exporter.log());
    }
    assert_eq!(records.iter().filter(|record| record.text("user.name") == "moment").count(), 500);
    let delays = scrape.sum("cognito_auth_event_delay_seconds_count", &[]);
    assert!((delays - (records.len() - 3) as f64).abs() < 0.5, "{delays} delays: none of the three without a date");
    assert_eq!(said(&exporter.log(), &["WARN"]), said(&exporter.log(), &["WARN", "more than is exported of it"]));
    assert_eq!(said(&exporter.log(), &["WARN"]).len(), 1, "{}", exporter.log());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_breaks_off_is_begun_again_and_told_once() {
    let env = TestEnv::set(&following(&[WELL]), |world| {
        populate(world, WELL, 65, 1);
        // The first page is answered and the second is not.
        world.inject(InjectedFault::internal_error().on("ListUsers").after(1).times(1));
        world.inject(InjectedFault::from(AwsError::throttled()).on("ListUsers").times(1));
    })
    .await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[WELL]).await;
    exporter.until("everybody", |scrape| is(scrape, "cognito_exporter_users", &["state=\"ok\""], 65.0));
    assert_eq!(said(&exporter.log(), &["WARN", "users cannot be listed", "remedy="]).len(), 1, "{}", exporter.log());
    assert_eq!(said(&exporter.log(), &["INFO", "users can be listed again"]).len(), 1, "{}", exporter.log());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_becomes_visible_behind_the_newest_is_delivered_once_and_counted_as_late() {
    let env = TestEnv::set(&following(&[WELL]), |world| populate(world, WELL, 2, 3)).await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[WELL]).await;
    assert!(is(&exporter.scrape(), "cognito_exporter_late_events_total", &[], 0.0));
    env.simulation.world(|world| {
        let late = world.sign_in(UnixMillis(now().0 - 30 * MINUTE));
        world.arrive(WELL, "user-0", &late);
        // Two events of one millisecond, one of which is late.
        let same = world.history(WELL, "user-1")[0].creation_date.unwrap();
        let newest = world.sign_in(same);
        world.arrive(WELL, "user-1", &newest);
    });
    env.conserved(&exporter, &[WELL]).await;
    let scrape = exporter.scrape();
    assert!(is(&scrape, "cognito_exporter_late_events_total", &[&of(WELL)], 1.0), "{}", scrape.interesting());
    assert!(is(&scrape, "cognito_exporter_order_violations_total", &[&of(WELL)], 0.0), "{}", scrape.interesting());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_another_person_has_now_keeps_neither_ones_events_back_and_counts_none_twice() {
    let by_hand = "eu-west-1_ByHand";
    let config = format!(
        "[[pools]]\nid = {by_hand:?}\nusernames = [\"ben\"]\nfollowed_since = \"2020-01-01T00:00:00Z\"\n\
         [discovery]\ninterval = \"10s\"\n{}",
        following(&[WELL])
    );
    let env = TestEnv::set(&config, |world| {
        for pool in [WELL, by_hand] {
            world.add_pool(SimulatedPool::new(pool));
            world.add_user(pool, "ben");
            sign_ins(world, pool, "ben", 70, UnixMillis(now().0 - 10_000));
        }
    })
    .await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[WELL, by_hand]).await;
    let sub = |world: &World| world.pool(WELL).unwrap().user("ben").unwrap().sub.clone();
    let (first, second) = env.simulation.world(|world| {
        let first = sub(world);
        // The user that takes over the name is polled before a listing shows that the user is another.
        world.inject(InjectedFault::internal_error().on("ListUsers"));
        for pool in [WELL, by_hand] {
            world.recreate_user(pool, "ben");
            for at in [now(), now()] {
                let event = world.sign_in(at);
                world.arrive(pool, "ben", &event);
            }
        }
        (first, sub(world))
    });
    assert_ne!(first, second);
    exporter.until("the second one's events", |scrape| is(scrape, "cognito_auth_events_total", &[], 144.0));

    env.simulation.world(World::remove_all_faults);
    let changes = said(&exporter.log(), &["followed users changed"]).len();
    exporter.until("the listing", |_| said(&exporter.log(), &["followed users changed"]).len() > changes);
    env.simulation.world(|world| {
        for pool in [WELL, by_hand] {
            sign_ins(world, pool, "ben", 1, now());
        }
    });
    let mut exporter = exporter;
    for restarts in 0..2 {
        if restarts > 0 {
            exporter.kill();
            exporter = env.exporter();
        }
        exporter.until("an event more each", |scrape| is(scrape, "cognito_auth_events_total", &[], 146.0));
        env.until_polled(WELL, "ben", 3).await;
        env.until_polled(by_hand, "ben", 3).await;
        let scrape = exporter.scrape();
        assert!(is(&scrape, "cognito_auth_events_total", &[], 146.0), "{}", scrape.interesting());
        assert!(is(&scrape, "cognito_auth_history_events_total", &[], 0.0), "{}", scrape.interesting());
    }
    env.until_received(|records| records.len() >= 146).await;
    let records = env.receiver.records();
    assert_eq!(records.iter().map(Received::uid).collect::<std::collections::BTreeSet<_>>().len(), 146);
    let newest = env.simulation.world(|world| world.history(WELL, "ben")[0].id.clone().unwrap());
    let newest = records.iter().find(|record| record.text("aws.cognito.event.id") == newest).unwrap();
    assert_eq!(newest.text("user.id"), second, "the first one's state is replaced");
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_vanish_in_mid_walk_or_are_disabled_lose_nothing_that_can_still_be_read() {
    let config = format!("[discovery]\ninterval = \"10s\"\n{}", following(&[WELL]));
    let env = TestEnv::set(&config, |world| {
        populate(world, WELL, 3, 150);
        // The second page reports the user as not found: eventually consistent, or deleted and created again.
        let not_found = AwsError::new("UserNotFoundException", "User does not exist.");
        world.inject(InjectedFault::from(not_found).on(READ).for_user("user-0").after(1).times(1));
    })
    .await;
    let exporter = env.exporter();
    exporter.until("a user missed", |scrape| states(scrape, WELL) == [2.0, 1.0, 0.0]);
    env.conserved(&exporter, &[WELL]).await;

    // Disabled users are no longer followed. Their events of the meantime are found when they are enabled again.
    env.simulation.world(|world| world.change_user(WELL, "user-1", |user| user.enabled = false));
    exporter.until("one less", |scrape| states(scrape, WELL) == [2.0, 0.0, 0.0]);
    go_on(&env, &[WELL]);
    env.simulation.world(|world| world.change_user(WELL, "user-1", |user| user.enabled = true));
    env.conserved(&exporter, &[WELL]).await;
    exporter.until("everybody", |scrape| states(scrape, WELL) == [3.0, 0.0, 0.0]);

    // Users are deleted, one of them in the middle of a long walk. No other user is affected.
    env.simulation.world(|world| {
        sign_ins(world, WELL, "user-2", 50, now());
        world.delete_user(WELL, "user-2");
    });
    exporter.until("the followed users", |scrape| states(scrape, WELL) == [2.0, 0.0, 0.0]);
    go_on(&env, &[WELL]);
    let counted = 3 * 150 + 3 + 2;
    exporter.until("the others' events", |scrape| is(scrape, "cognito_auth_events_total", &[], f64::from(counted)));
    assert_eq!(said(&exporter.log(), &["WARN"]), Vec::<String>::new());
    assert!(!exporter.log().contains("user-"), "{}", exporter.log());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_leaves_and_comes_back_while_a_call_is_under_way_is_not_asked_twice_at_once() {
    const SLOW: Duration = Duration::from_secs(20);
    let config = format!(
        "[[pools]]\nid = {WELL:?}\nusernames_file = \"{{directory}}/names\"\n\
         followed_since = \"2020-01-01T00:00:00Z\"\n{}",
        QUICK.replace("\"1s\"\n", "\"60s\"\n").replace("min_interval = \"60s\"", "min_interval = \"1s\"")
    );
    let env = TestEnv::set(&config, |world| populate(world, WELL, 2, 3)).await;
    env.file("names", "user-0\nuser-1\n");
    let exporter = env.exporter();
    env.conserved(&exporter, &[WELL]).await;
    // The answer with the event takes so long that the file can change twice and is read each time.
    env.simulation.world(|world| {
        world.inject(InjectedFault::new(FaultKind::Slow(SLOW)).on(READ).for_user("user-0").times(1));
        sign_ins(world, WELL, "user-0", 1, now());
        world.calls_mut().clear();
    });
    env.until_all_polled(WELL, &["user-0".to_owned()].into()).await;
    let asked = now();
    for (names, change) in [("user-1\n", "left=1"), ("user-0\nuser-1\n", "joined=1 left=0")] {
        env.file("names", names);
        exporter.until(change, |_| said(&exporter.log(), &["followed users changed"]).last().unwrap().contains(change));
    }
    env.conserved(&exporter, &[WELL]).await;
    env.until("the slow answer", |world| world.now() > asked.plus(SLOW + Duration::from_secs(2))).await;
    env.conserved(&exporter, &[WELL]).await;
    assert!(exporter.stop().success());
}
