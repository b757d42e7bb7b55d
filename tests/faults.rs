//! Failures stay where they are, and bad input loses nothing: the built binary against a simulated Cognito that errs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/exporter.rs"]
mod exporter;
#[path = "support/receiver.rs"]
mod receiver;
#[path = "support/stage.rs"]
mod stage;

use std::time::Duration;

use cognito_auth_exporter::event::{AuthEvent, UnixMillis, Word};
use cognito_auth_exporter::simulate::fault::{Fault, Misfortune, Refusal};
use cognito_auth_exporter::simulate::paging::{LastToken, TokenStyle};
use cognito_auth_exporter::simulate::world::{Pool, World};
use exporter::Exporter;
use receiver::Received;
use serde_json::Value;
use stage::{MINUTE, READ, Stage, is, now, of, said, sign_ins};

/// Quick, and everything is live.
const QUICK: &str = "[poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\n\
                     first_run = \"none\"\ntimeout = \"1s\"\n";

/// A configuration that follows all users of these pools, as if it always had.
fn following(pools: &[&str]) -> String {
    let pool =
        |id: &&str| format!("[[pools]]\nid = {id:?}\nall_users = true\nfollowed_since = \"2020-01-01T00:00:00Z\"\n");
    pools.iter().map(pool).chain([QUICK.to_owned()]).collect()
}

/// A pool of `users` users with `events` events each.
fn populate(world: &mut World, pool: &str, users: usize, events: i64) {
    world.add_pool(Pool::new(pool));
    for user in 0..users {
        let name = format!("user-{user}");
        world.add_user(pool, &name);
        sign_ins(world, pool, &name, events, UnixMillis(now().0 - MINUTE));
    }
}

/// Something new happens to everybody.
fn go_on(stage: &Stage, pools: &[&str]) {
    stage.simulation.world(|world| {
        for pool in pools {
            let names: Vec<_> = world.pool(pool).unwrap().users().map(|user| user.username.clone()).collect();
            names.iter().for_each(|name| sign_ins(world, pool, name, 1, now()));
        }
    });
}

fn begun(exporter: &Exporter, pool: &str) -> usize {
    said(&exporter.log(), &["WARN", "cannot be polled", &format!("pool={pool:?}")]).len()
}

fn ended(exporter: &Exporter, pool: &str) -> usize {
    said(&exporter.log(), &["INFO", "can be polled again", &format!("pool={pool:?}")]).len()
}

const WELL: &str = "eu-west-1_Well";

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_in_any_way_is_told_once_stops_nobody_else_and_loses_nothing() {
    let ill = [
        ("eu-west-1_Error", Fault::internal_error()),
        ("eu-west-1_Reset", Misfortune::Reset.into()),
        ("eu-west-1_CutJson", Misfortune::CutJson.into()),
        ("eu-west-1_CutAnswer", Misfortune::CutConnection.into()),
        ("eu-west-1_BadGateway", Misfortune::Html(502).into()),
        ("eu-west-1_Portal", Misfortune::Html(200).into()),
        ("eu-west-1_Hang", Misfortune::Hang.into()),
    ];
    let ill_pools: Vec<_> = ill.iter().map(|(pool, _)| *pool).collect();
    let pools: Vec<_> = ill_pools.iter().copied().chain([WELL]).collect();
    let stage = Stage::set(&following(&pools), |world| {
        pools.iter().for_each(|pool| populate(world, pool, 6, 3));
        for (pool, fault) in ill {
            world.inject(fault.on(READ).in_pool(pool));
        }
    })
    .await;
    let exporter = stage.exporter();
    stage.conserved(&exporter, &[WELL]).await;
    exporter.until("every trouble told", |_| ill_pools.iter().all(|pool| begun(&exporter, pool) > 0));
    go_on(&stage, &pools);
    stage.conserved(&exporter, &[WELL]).await;
    let scrape = exporter.scrape();
    for pool in &ill_pools {
        assert!(is(&scrape, "cognito_auth_events_total", &[&of(pool)], 0.0), "{}", scrape.interesting());
        assert_eq!(ended(&exporter, pool), 0, "{}", exporter.log());
    }

    stage.simulation.world(World::cure_all);
    stage.conserved(&exporter, &pools).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_or_a_caller_that_is_refused_is_down_and_told_once_until_it_is_cured() {
    let ill = ["eu-west-1_NoPlus", "eu-west-1_Denied", "eu-west-1_Expired"];
    let [no_plus, denied, expired] = ill;
    let pools = [no_plus, denied, expired, WELL];
    let stage = Stage::set(&following(&pools), |world| {
        // More users than calls in flight: a burst of refusals is one.
        pools.iter().for_each(|pool| populate(world, pool, 20, 2));
        world.pool_mut(no_plus).tier = "ESSENTIALS".to_owned();
        world.inject(Fault::access_denied().on(READ).in_pool(denied));
        world.inject(Fault::expired_token().on(READ).in_pool(expired));
    })
    .await;
    let exporter = stage.exporter();
    exporter.until("who is down", |scrape| {
        let up = |pool: &str, up: f64| is(scrape, "cognito_exporter_pool_up", &[&of(pool)], up);
        up(WELL, 1.0) && ill.iter().all(|pool| up(pool, 0.0))
    });
    stage.conserved(&exporter, &[WELL]).await;
    for pool in ill {
        assert_eq!(begun(&exporter, pool), 1, "{}", exporter.log());
        let asked = stage.reads(|call| call.pool.as_deref() == Some(pool)).len();
        assert!(asked <= 20, "{asked} calls for a pool that refuses");
    }

    go_on(&stage, &pools);
    stage.simulation.world(|world| {
        world.cure_all();
        world.pool_mut(no_plus).tier = "PLUS".to_owned();
    });
    stage.conserved(&exporter, &pools).await;
    exporter.until("all up", |scrape| is(scrape, "cognito_exporter_pool_up", &[], 4.0));
    for pool in ill {
        assert_eq!((begun(&exporter, pool), ended(&exporter, pool)), (1, 1), "{}", exporter.log());
    }
    assert_eq!(said(&exporter.log(), &["WARN"]).len(), ill.len(), "{}", exporter.log());
    assert!(!exporter.log().contains("user-"), "{}", exporter.log());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_missing_or_cannot_be_read_concerns_nobody_else() {
    let config = format!(
        "[[pools]]\nid = {WELL:?}\nusernames = [\"user-0\", \"user-1\", \"user-2\", \"user-gone\"]\n\
         followed_since = \"2020-01-01T00:00:00Z\"\n{QUICK}"
    );
    let stage = Stage::set(&config, |world| {
        populate(world, WELL, 3, 5);
        // Wrong types, as if the service had changed them.
        for json in [r#"{"EventId":"wrong","CreationDate":"yesterday"}"#, r#"{"EventId":7}"#, r#"{"EventRisk":[]}"#] {
            world.arrive_raw(WELL, "user-1", json);
        }
    })
    .await;
    let exporter = stage.exporter();
    let users = |counts: [f64; 3]| {
        move |scrape: &exporter::Scrape| {
            ["ok", "failing", "missing"]
                .iter()
                .zip(counts)
                .all(|(state, count)| is(scrape, "cognito_exporter_users", &[&format!("state=\"{state}\"")], count))
        }
    };
    exporter.until("who fails", users([2.0, 1.0, 1.0]));
    exporter.until("the others' events", |scrape| is(scrape, "cognito_auth_events_total", &[], 10.0));
    assert!(is(&exporter.scrape(), "cognito_exporter_pool_up", &[], 1.0));

    // Somebody signs up under the missing name; the history becomes readable.
    stage.simulation.world(|world| {
        world.add_user(WELL, "user-gone");
        sign_ins(world, WELL, "user-gone", 1, now());
        world.keep_newest(WELL, "user-1", 0);
        sign_ins(world, WELL, "user-1", 5, UnixMillis(now().0 - MINUTE));
    });
    stage.conserved(&exporter, &[WELL]).await;
    exporter.until("everybody well", users([4.0, 0.0, 0.0]));
    assert_eq!(said(&exporter.log(), &["WARN"]), Vec::<String>::new());
    assert!(!exporter.log().contains("user-"), "{}", exporter.log());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_halves_the_budget_which_recovers_and_nothing_is_lost() {
    const BUDGET: &str = "cognito_exporter_api_budget_requests_per_second";
    let stage = Stage::set(&following(&[WELL]), |world| {
        populate(world, WELL, 10, 150);
        world.inject(Fault::throttle().on(READ).after(20).times(3));
    })
    .await;
    let exporter = stage.exporter();
    let budget = |scrape: &exporter::Scrape| scrape.sum(BUDGET, &[]);
    let low =
        budget(&exporter.until("a lower budget", |scrape| scrape.count(BUDGET, &[]) > 0 && budget(scrape) < 330.0));
    exporter.until("a higher one", |scrape| budget(scrape) > low);
    stage.conserved(&exporter, &[WELL]).await;
    let scrape = exporter.scrape();
    assert!(is(&scrape, "cognito_exporter_api_requests_total", &["outcome=\"throttled\""], 3.0));
    assert!(is(&scrape, "cognito_exporter_pool_up", &[], 1.0), "throttles are up");
    assert_eq!(said(&exporter.log(), &["WARN"]), Vec::<String>::new());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_tokens_of_every_bad_kind_cost_time_and_no_event() {
    let opaque = |lifetime| TokenStyle::Opaque { lifetime };
    let (dying, offsets, always) = ("eu-west-1_Dying", "eu-west-1_Offsets", "eu-west-1_Always");
    let same_token = "eu-west-1_SameToken";
    let spoilt = [
        ("eu-west-1_SamePage", Misfortune::RepeatPage),
        ("eu-west-1_Empty", Misfortune::EmptyPage),
        ("eu-west-1_Shuffled", Misfortune::Shuffle),
    ];
    let pools: Vec<_> = spoilt.iter().map(|(pool, _)| *pool).chain([dying, offsets, always, same_token]).collect();
    let stage = Stage::set(&following(&pools), |world| {
        pools.iter().for_each(|pool| populate(world, pool, 3, 200));
        // A token that is dead when it is used: nobody gets further than the first page.
        world.pool_mut(dying).token_style = opaque(Duration::ZERO);
        world.pool_mut(offsets).token_style = TokenStyle::Offset;
        world.pool_mut(always).last_token = LastToken::Always;
        for user in ["user-0", "user-1", "user-2"] {
            // On the second page: the first without a token would be a history that ends there.
            let second_page = Fault::new(Misfortune::RepeatToken).on(READ).in_pool(same_token).for_user(user);
            world.inject(second_page.after(1).times(1));
        }
        for (pool, misfortune) in spoilt.clone() {
            world.inject(Fault::new(misfortune).on(READ).in_pool(pool).with_probability(0.5));
        }
    })
    .await;
    let exporter = stage.exporter();
    // Arrivals between the pages: offsets shift, walks meet what they have taken.
    for _ in 0..3 {
        go_on(&stage, &pools);
        stage.forget_calls();
        let everybody = (0..3).map(|user| format!("user-{user}")).collect();
        for pool in &pools {
            stage.until_all_polled(pool, &everybody).await;
        }
    }
    let refused = |call: &cognito_auth_exporter::simulate::calls::Call| {
        call.pool.as_deref() == Some(dying) && call.token.is_some()
    };
    stage.until("a dead token", |world| world.calls().of(READ).any(refused)).await;
    stage.simulation.world(|world| {
        world.cure_all();
        world.pool_mut(dying).token_style = opaque(Duration::from_mins(5));
    });
    go_on(&stage, &pools);
    stage.conserved(&exporter, &pools).await;
    exporter.until("no backlog", |scrape| is(scrape, "cognito_exporter_catching_up", &[], 0.0));
    for pool in &pools {
        assert_eq!(begun(&exporter, pool), ended(&exporter, pool), "{pool}\n{}", exporter.log());
    }
    assert!(!exporter.log().contains("user-"), "{}", exporter.log());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_event_holds_it_is_delivered_as_it_is_and_counted_under_a_known_label() {
    let strange = ["zoë", "日本語・ユーザー", "a\"b\\c{}", "🦀"];
    let stage = Stage::set(&following(&[WELL]), |world| {
        world.add_pool(Pool::new(WELL));
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
    let exporter = stage.exporter();
    stage.conserved(&exporter, &[WELL]).await;

    let records = stage.receiver.records();
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
    assert_eq!(one("huge").text("aws.cognito.device.name").len(), 1 << 20);
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
    assert_eq!(said(&exporter.log(), &["WARN"]), Vec::<String>::new());
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_breaks_off_is_begun_again_and_told_once() {
    let stage = Stage::set(&following(&[WELL]), |world| {
        populate(world, WELL, 65, 1);
        // The first page comes, the second does not.
        world.inject(Fault::internal_error().on("ListUsers").after(1).times(1));
        world.inject(Fault::from(Refusal::throttled()).on("ListUsers").times(1));
    })
    .await;
    let exporter = stage.exporter();
    stage.conserved(&exporter, &[WELL]).await;
    exporter.until("everybody", |scrape| is(scrape, "cognito_exporter_users", &["state=\"ok\""], 65.0));
    assert_eq!(said(&exporter.log(), &["WARN", "users cannot be listed"]).len(), 1, "{}", exporter.log());
    assert_eq!(said(&exporter.log(), &["INFO", "users can be listed again"]).len(), 1, "{}", exporter.log());
    assert!(exporter.stop().success());
}
