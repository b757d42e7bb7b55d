//! One EventId is one event, and no date is trusted.

use cognito_auth_core::event::{AuthEvent, UnixMillis, Word};

use crate::exporter::{Exporter, Scrape};
use crate::histories::taken_over;
use crate::test_env::{MINUTE, TestEnv, all_live, go_on, is, now, populate};

const POOL: &str = "eu-west-1_History";
const USER: &str = "user-0";

fn id_of(event: &AuthEvent) -> String {
    event.id.clone().unwrap()
}

/// The number of delivered records of an event.
fn records_of(env: &TestEnv, id: &str) -> usize {
    env.receiver.records().iter().filter(|record| record.text("aws.cognito.event.id") == id).count()
}

fn events_total(scrape: &Scrape) -> f64 {
    scrape.sum("cognito_auth_events_total", &[])
}

/// Waits until this many events are counted and all their records are delivered. Checks that nothing changes over three
/// more polls.
async fn settled(env: &TestEnv, exporter: &Exporter, events: f64) -> Scrape {
    exporter.until("every event, counted", |scrape| events_total(scrape) >= events);
    env.until_polled(POOL, USER, 4).await;
    let scrape = exporter.scrape();
    assert!(is(&scrape, "cognito_auth_events_total", &[], events), "{}", scrape.interesting());
    scrape
}

/// From a report about another kind of collector: one record with a time in the future moved its position ahead, and
/// nothing was collected until then. An attacker's sign-ins would be missed for as long.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_dated_three_hours_ahead_hides_no_takeover() {
    let env = TestEnv::set(&all_live(POOL), |world| populate(world, POOL, 1, 1)).await;
    let exporter = env.exporter();
    settled(&env, &exporter, 1.0).await;
    env.simulation.world(|world| {
        let event = world.sign_in(UnixMillis(now().0 + 180 * MINUTE));
        world.arrive(POOL, USER, &event);
    });
    settled(&env, &exporter, 2.0).await;
    env.simulation.world(|world| {
        for second in 0..5 {
            let event = taken_over(world, UnixMillis(now().0 - second * 1000));
            world.arrive(POOL, USER, &event);
        }
    });
    settled(&env, &exporter, 7.0).await;
    env.conserved(&exporter, &[POOL]).await;
}

/// From a report about pages that overlap: an entry was listed twice, before and after a change, and the client
/// exported it again at every poll.
#[tokio::test(flavor = "multi_thread")]
async fn one_id_in_two_states_on_a_page_is_at_most_two_records_and_then_silence() {
    let env = TestEnv::set(&all_live(POOL), |world| populate(world, POOL, 1, 1)).await;
    let exporter = env.exporter();
    let id = env.simulation.world(|world| {
        let passed = world.sign_in(now());
        let mut waits = passed.clone();
        waits.response = Some(Word::parse("InProgress"));
        world.arrive(POOL, USER, &waits);
        world.arrive(POOL, USER, &passed);
        id_of(&passed)
    });
    env.until_received(|records| records.iter().any(|record| record.text("aws.cognito.event.id") == id)).await;
    env.until_polled(POOL, USER, 6).await;
    // The records of those polls are delivered before the next event.
    go_on(&env, POOL, 1);
    env.until_received(|records| records.len() >= 3).await;
    let scrape = exporter.scrape();
    let superseded = scrape.sum("cognito_auth_superseded_outcomes_total", &[]);
    assert!((events_total(&scrape) - superseded - 3.0).abs() < 0.5, "{}", scrape.interesting());
    assert!(superseded < 1.5, "{}", scrape.interesting());
    assert!(records_of(&env, &id) <= 2);
}

/// From published samples in which the dates of one event differ by seconds between two sources. The date does not
/// identify an event.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_comes_with_a_moved_date_is_a_revision() {
    let env = TestEnv::set(&all_live(POOL), |world| populate(world, POOL, 1, 1)).await;
    let exporter = env.exporter();
    let mut event = env.simulation.world(|world| {
        let mut event = world.sign_in(now());
        event.response = Some(Word::parse("InProgress"));
        world.arrive(POOL, USER, &event);
        event
    });
    let id = id_of(&event);
    settled(&env, &exporter, 2.0).await;
    event.response = Some(Word::parse("Pass"));
    event.creation_date = event.creation_date.map(|date| UnixMillis(date.0 + 3000));
    env.simulation.world(|world| {
        world.expire_event(POOL, USER, &id);
        world.arrive(POOL, USER, &event);
    });
    let scrape = settled(&env, &exporter, 3.0).await;
    assert!(is(&scrape, "cognito_auth_superseded_outcomes_total", &[], 1.0), "{}", scrape.interesting());
    env.conserved(&exporter, &[POOL]).await;
}

/// From reports about clocks that are never set: the exporter's clock is five hours wrong, ahead or behind, from its
/// first start on. Here the service's clock is moved instead, which has the same effect. Its answers carry its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_hours_wrong_from_the_first_start_on_loses_and_repeats_nothing() {
    for hours in [-5, 5] {
        // Only the exporter's clock tells since when the users are followed.
        let config = all_live(POOL).replace("followed_since = \"2020-01-01T00:00:00Z\"\n", "");
        let env = TestEnv::set(&config, |world| {
            world.set_ahead(hours * 60 * MINUTE);
            populate(world, POOL, 1, 0);
            world.change_user(POOL, USER, |user| user.created = UnixMillis(user.created.0 - 100 * 24 * 60 * MINUTE));
        })
        .await;
        let happens = |ahead: i64| {
            env.simulation.world(|world| {
                let event = world.sign_in(UnixMillis(world.now().0 + ahead));
                world.arrive(POOL, USER, &event);
            });
        };
        let exporter = env.exporter();
        env.until_polled(POOL, USER, 2).await;
        for round in 1..=3 {
            happens(180 * MINUTE);
            happens(0);
            settled(&env, &exporter, f64::from(2 * round)).await;
        }
        exporter.kill();
        let exporter = env.exporter();
        happens(0);
        settled(&env, &exporter, 7.0).await;
        env.conserved(&exporter, &[POOL]).await;
    }
}

/// The same with a proxy that removes the Date header, and with a Date header that is two days behind, beside a right
/// clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_date_header_that_is_missing_or_behind_repeats_nothing() {
    for header in [None, Some(-2 * 24 * 60 * MINUTE)] {
        let env = TestEnv::set(&all_live(POOL), |world| populate(world, POOL, 1, 70)).await;
        env.simulation.world(|world| world.date_header = header);
        let exporter = env.exporter();
        settled(&env, &exporter, 70.0).await;
        go_on(&env, POOL, 1);
        settled(&env, &exporter, 71.0).await;
        env.simulation.world(|world| world.date_header = Some(0));
        go_on(&env, POOL, 1);
        settled(&env, &exporter, 72.0).await;
        env.conserved(&exporter, &[POOL]).await;
    }
}
