//! A storm on few users does not eat the budget. Everything is in virtual time and seeded: see `support/storm_sim.rs`,
//! and `benches/storm.rs` for the table of docs/scheduling.md.

#[path = "support/storm_sim.rs"]
mod storm_sim;

use std::time::Duration;

use storm_sim::{HOUR, MINUTE, StormTerms, run};

/// A third of the trial: as many events a user, and as many calls for each user.
fn a_third(terms: StormTerms) -> StormTerms {
    StormTerms { users: 20, calls_per_second: 200.0 / 3.0, turns_max: 6, ..terms }
}

#[test]
fn after_restarts_nearly_every_call_is_used_and_most_events_read_are_new() {
    for min_interval in [1, 15] {
        let terms = a_third(StormTerms::trial().after_restarts());
        let figures = run(&StormTerms { min_interval: Duration::from_secs(min_interval), ..terms });
        assert!(figures.unseen_at_first > 7000, "or there is no backlog: {figures:?}");
        assert!(figures.seconds.is_some_and(|seconds| seconds < 30.0), "{figures:?}");
        assert!(figures.used() >= 0.9, "{:.3}: {figures:?}", figures.used());
        assert!(figures.share_new() >= 0.5, "{:.3}: {figures:?}", figures.share_new());
        assert!(figures.open_walks <= 20, "{figures:?}");
    }
}

#[test]
fn without_a_restart_at_least_half_of_the_events_read_are_new_and_none_waits() {
    for (min_interval, share_new, delay_most) in [(1, 0.5, 5_000), (15, 0.9, 30_000)] {
        let terms = a_third(StormTerms::trial());
        let figures = run(&StormTerms { min_interval: Duration::from_secs(min_interval), ..terms });
        assert!(figures.share_new() >= share_new, "{:.3}: {figures:?}", figures.share_new());
        assert!(figures.delay_most <= delay_most, "{figures:?}");
        assert_eq!((figures.unseen, figures.new), (0, 20 * 2000));
    }
}

/// The events of one user who is attacked, in a tenth of the time and at a tenth of the page, so that a debug build
/// reads them in a second.
#[test]
fn one_user_with_very_many_events_costs_at_most_twice_the_calls_of_its_pages() {
    let terms = StormTerms { events: 20_000, page: 12, ..StormTerms::one_user() };
    let figures = run(&terms);
    let pages = figures.new.div_ceil(12);
    assert!(figures.new > 19_000 && figures.unseen < 200, "{figures:?}");
    assert!(figures.calls <= 2 * pages, "{} calls for {pages} pages: {figures:?}", figures.calls);
}

#[test]
fn late_arrivals_and_outcomes_of_a_storm_are_found_and_each_part_is_read_again_once() {
    let terms =
        StormTerms { events: 10_000, page: 12, late: 2, ending: 50, to_the_end: true, ..StormTerms::one_user() };
    let figures = run(&StormTerms { ends: 4 * HOUR, ..terms });
    assert_eq!((figures.unseen, figures.new, figures.outcomes_missing), (0, 10_000, 0), "{figures:?}");
    // The overlap, the time from one re-reading to the next, and the distance of two bookmarks.
    assert!(figures.delay_most <= HOUR + 20 * MINUTE, "{figures:?}");
    assert!(figures.outcome_delay_most <= HOUR + 20 * MINUTE, "{figures:?}");
    // 10,000 events are read once and again once; beyond that go the looks, and the polls of three quiet hours.
    let polls = 4 * 240 * 12;
    assert!(figures.known <= 10_000 * 3 / 2 + polls, "{figures:?}");
}

#[test]
fn the_same_storm_has_the_same_figures() {
    let terms = StormTerms { users: 4, events: 300, lasts: MINUTE, late: 5, ending: 50, ..StormTerms::trial() };
    assert_eq!(format!("{:?}", run(&terms)), format!("{:?}", run(&terms)));
}
