//! The tables of docs/sizing.md are those of the core's module `sizing`.

use std::path::Path;
use std::time::Duration;

use cognito_auth_core::schedule::Intervals;
use cognito_auth_core::sizing::{
    Deployment, EventSource, budget_for, fitting_audit_per_second, fitting_max_interval, quota_dollars_per_month,
};

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sizing.md")).unwrap()
}

/// The rows of the table: users, and the budget of polls and of both.
const SIZES: [(u64, f64, f64); 5] = [
    (10_000, 5.0, 5.0),
    (100_000, 10.0, 10.0),
    (200_000, 10.0, 10.0),
    (1_000_000, 25.0, 25.0),
    (10_000_000, 25.0, 75.0),
];

/// As in docs/choosing-a-source.md.
const EVENTS_PER_USER_AND_DAY: f64 = 2.0;

const MIB: f64 = 1024.0 * 1024.0;

/// A number with commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Two digits, or all digits of a whole number.
fn short(number: f64) -> String {
    if number >= 9.95 { format!("{number:.0}") } else { format!("{number:.1}").trim_end_matches(".0").to_owned() }
}

fn millions(number: f64) -> String {
    if number < 1.0 { "0".to_owned() } else { format!("{} million", short(number / 1e6)) }
}

fn dollars(amount: f64) -> String {
    if amount < 1.0 { "$0".to_owned() } else { format!("${}", grouped(whole(amount))) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded, and never negative")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        _ if seconds < 90.0 * 60.0 => format!("{} min", short(seconds / 60.0)),
        _ if seconds < 36.0 * 3600.0 => format!("{} h", short(seconds / 3600.0)),
        _ => format!("{} d", short(seconds / 86_400.0)),
    }
}

fn bytes(bytes: f64) -> String {
    let mib = bytes / MIB;
    if mib < 1000.0 { format!("{mib:.0} MiB") } else { format!("{} GiB", short(mib / 1024.0)) }
}

fn row(users: u64, source: EventSource, per_second: f64) -> String {
    let max = fitting_max_interval(users, per_second);
    let intervals = Intervals { min: Duration::from_secs(15), max };
    let events_per_user_and_day = EVENTS_PER_USER_AND_DAY;
    let deployment = Deployment { users, source, per_second, intervals, events_per_user_and_day };
    let found = deployment.estimate();
    let budget = match source {
        EventSource::Polling => short(per_second),
        EventSource::Both => format!("{}, sample {}", short(per_second), short(fitting_audit_per_second(users))),
        EventSource::Export => "none".to_owned(),
    };
    let name = match source {
        EventSource::Polling => "polling",
        EventSource::Both => "both",
        EventSource::Export => "export",
    };
    let max_interval =
        if source == EventSource::Export { "none".to_owned() } else { format!("{}h", max.as_secs() / 3600) };
    let delays = found.delays.map_or("as the export | as the export | as the export".to_owned(), |delays| {
        [delays.of_events, delays.of_active_user, delays.of_idle_user].map(duration).join(" | ")
    });
    let quota = if source == EventSource::Export { 0.0 } else { quota_dollars_per_month(per_second) };
    let cells = [
        grouped(users),
        name.to_owned(),
        budget,
        max_interval,
        short(found.polls_per_second),
        short(found.listings_per_second),
        found.round.map_or("none".to_owned(), duration),
        delays,
        bytes(found.memory_bytes),
        bytes(found.volume_bytes),
        millions(found.trail_events_per_month()),
        dollars(found.trail_dollars_per_month()),
        dollars(quota),
    ];
    format!("| {} |", cells.join(" | "))
}

/// The rows of the first table after a heading.
fn rows(heading: &str) -> Vec<String> {
    let page = page();
    let (_, section) = page.split_once(&format!("\n{heading}\n")).unwrap();
    let table = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    table.skip(2).map(str::to_owned).collect()
}

#[test]
fn the_table_of_ten_thousand_to_ten_million_users_is_what_the_module_estimates() {
    let estimated: Vec<String> = SIZES
        .iter()
        .flat_map(|(users, polling, both)| {
            let sources = [(EventSource::Polling, *polling), (EventSource::Both, *both), (EventSource::Export, 0.0)];
            sources.map(|(source, per_second)| row(*users, source, per_second.max(1.0)))
        })
        .collect();
    assert_eq!(rows("## From 10 thousand to 10 million users"), estimated, "\n{}\n", estimated.join("\n"));
}

#[test]
fn the_table_of_maximum_intervals_is_what_the_module_estimates() {
    let users = [10_000, 50_000, 100_000, 200_000, 500_000, 1_000_000];
    let estimated = users.map(|users| {
        let fitting = [5.0, 10.0, 25.0]
            .map(|per_second| format!("`\"{}h\"`", fitting_max_interval(users, per_second).as_secs() / 3600));
        let hourly = budget_for(users, Duration::from_hours(1));
        let price = dollars(quota_dollars_per_month(hourly));
        format!("| {} | {} | {} | {price} |", grouped(users), fitting.join(" | "), short(hourly))
    });
    assert_eq!(rows("## Choose max_interval"), estimated, "\n{}\n", estimated.join("\n"));
}

#[test]
fn the_example_of_two_hundred_thousand_users_is_what_the_module_estimates() {
    let delay = |hours: u64| {
        let intervals = Intervals { min: Duration::from_secs(15), max: Duration::from_hours(hours) };
        let source = EventSource::Polling;
        let events_per_user_and_day = EVENTS_PER_USER_AND_DAY;
        let deployment = Deployment { users: 200_000, source, per_second: 10.0, intervals, events_per_user_and_day };
        let delays = deployment.estimate().delays.unwrap();
        [delays.of_events, delays.of_active_user, delays.of_idle_user].map(duration)
    };
    let estimated = [1, 6, 8, 12, 18, 24].map(|hours| format!("| `\"{hours}h\"` | {} |", delay(hours).join(" | ")));
    assert_eq!(rows("### 200,000 users at 10 calls/s"), estimated, "\n{}\n", estimated.join("\n"));
}
