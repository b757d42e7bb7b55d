//! The card of one pool: its figures, its charts, its events by type, and its latest errors.

use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use maud::{Markup, display, html};

use super::figure::{About, FigureNote, Grouped, ShownDuration, ago, figure, note, notes, plural};
use super::terms::{named, term};
use super::{chart, last_errors};
use crate::metrics::EventTypeCounts;
use crate::status::{ExportStatus, HistoryWalks, LeftOutStatus, PoolStatus, StatusReport};

/// The share of the objective from which on a poll is late. A round takes nearly the whole objective by design.
const LATE: f64 = 1.0;

/// The share from which on the verdict has a finding.
const TOO_LATE: f64 = 1.1;

/// Renders a card. A folded card shows its head only.
pub(super) fn render(pool: &PoolStatus, report: &StatusReport, is_folded: bool) -> Markup {
    let head = html! {
        (pool.name) " " (state(pool)) " "
        small {
            (pool.id) ", " (pool.region)
            @if let Some(account) = &pool.account_id { ", account " (account) }
        }
    };
    let rest = html! {
        // The target is inside, because browsers unfold what holds the target of a link.
        div id=(pool.id) {
            @if let Some(reason) = &pool.reason { p class="why bad" { (reason) } }
            dl { (figures(pool, report)) }
            div class="charts" { (chart::hour(&pool.last_hour)) (chart::day(&pool.last_day)) }
            (event_types(&pool.event_types))
            (last_errors(&pool.last_errors, report.now))
        }
    };
    html! {
        @if is_folded {
            details class="card" { summary { h2 { (head) } } (rest) }
        } @else {
            section class="card" { h2 { (head) } (rest) }
        }
    }
}

/// Renders whether the pool answers, as a word in a colour.
pub(super) fn state(pool: &PoolStatus) -> Markup {
    let (class, word) = match pool.up {
        None => ("warn", "not asked yet"),
        Some(true) => ("good", "up"),
        Some(false) => ("bad", "down"),
    };
    html! { span class={ "chip " (class) } { (word) } }
}

/// How long ago the least recently polled user was polled, as a share of the objective.
pub(super) fn share_of_objective(pool: &PoolStatus, now: UnixMillis) -> Option<f64> {
    let objective = Duration::from_secs(pool.objective_seconds?);
    let is_meant = !objective.is_zero() && !pool.is_sampled();
    is_meant.then(|| now.since(pool.oldest_poll.unwrap_or(now)).div_duration_f64(objective))
}

fn figures(pool: &PoolStatus, report: &StatusReport) -> Markup {
    html! {
        (users_figure(pool))
        (oldest_poll_figure(pool, report))
        (budget_figure(pool, report))
        (delay_figure(pool))
        (events_figure(pool))
        @if let Some(export) = &pool.export { (export_figure(export, pool.users.is_some())) }
        (backlog_figure(pool, report.now))
    }
}

fn users_figure(pool: &PoolStatus) -> Markup {
    let Some(users) = pool.users else { return figure("Users followed", "–", []) };
    let missing = (users.missing > 0).then(|| note("", html! { (Grouped(users.missing)) " " (term("missing")) }));
    let failing = (users.failing > 0).then(|| {
        let text =
            html! { (Grouped(users.failing)) " " (term("failing")) ": Cognito answers calls for them with errors" };
        note("bad", text)
    });
    let left_out = pool.users_left_out.and_then(left_out);
    let all = users.ok + users.missing + users.failing;
    figure("Users followed", display(Grouped(all)), missing.into_iter().chain(failing).chain(left_out))
}

/// How many listed users are not followed, and why.
fn left_out(left_out: LeftOutStatus) -> Option<FigureNote> {
    let LeftOutStatus { disabled, federated, excluded } = left_out;
    let all = disabled + federated + excluded;
    let reasons = [(disabled, "disabled"), (federated, "federated"), (excluded, "excluded")];
    let reasons: Vec<_> = reasons
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{} {why}", Grouped(*count)))
        .collect();
    (all > 0).then(|| note("", html! { (Grouped(all)) " " (term("left out")) ": " (reasons.join(", ")) }))
}

fn oldest_poll_figure(pool: &PoolStatus, report: &StatusReport) -> Markup {
    let used = share_of_objective(pool, report.now);
    let class = match used {
        Some(TOO_LATE..) => "bad",
        Some(LATE..) => "warn",
        _ => "",
    };
    let reason = (!class.is_empty()).then(|| note(class, format!("late: {}", why_late(pool, report))));
    let objective = pool
        .objective_seconds
        .map(|secs| note("", html! { (term("objective")) " " (ShownDuration(Duration::from_secs(secs))) }));
    html! {
        div {
            dt { (named("Oldest poll")) }
            dd { (ago(pool.oldest_poll, report.now)) }
            @if let Some(used) = used { (chart::bar(used, class)) }
            (notes(reason.into_iter().chain(objective)))
        }
    }
}

/// Why users wait for longer than the objective.
fn why_late(pool: &PoolStatus, report: &StatusReport) -> String {
    let need = report.quota_need(pool).filter(|need| need.is_insufficient());
    if !report.paused.is_empty() {
        "polling pauses".to_owned()
    } else if pool.up == Some(false) {
        "the pool does not answer".to_owned()
    } else if let Some(need) = need {
        format!(
            "{:.1}/s would keep the objective, and the budget is {:.1}/s",
            need.required_per_second, need.budget_per_second
        )
    } else if pool.last_hour.throttled > 0 {
        "Cognito throttles the calls".to_owned()
    } else if pool.backlog_walks > 0 {
        "the backlog takes calls".to_owned()
    } else {
        "polls have fallen behind, as after a start or a pause".to_owned()
    }
}

fn budget_figure(pool: &PoolStatus, report: &StatusReport) -> Markup {
    let hour = &pool.last_hour;
    let round = pool
        .round_seconds_estimate
        .map(|secs| note("", html! { "a " (term("round")) " takes " (ShownDuration(Duration::from_secs(secs))) }));
    let Some(budget) = pool.budget_requests_per_second else { return figure("Budget", "–", round) };
    let throttled = (hour.throttled > 0).then(|| {
        let (throttled, calls) = (Grouped(hour.throttled), Grouped(hour.calls));
        note("warn", format!("{throttled} of {calls} calls throttled: others use the quota, too"))
    });
    let required = pool.required_requests_per_second.map(|calls| {
        match report.quota_need(pool).filter(|need| need.is_insufficient()) {
            // Several pools may share the budget.
            Some(need) => note("warn", format!("too little: the objective takes {:.1}/s", need.required_per_second)),
            None => note("", html! { "the " (term("objective")) " takes " (format!("{calls:.1}")) "/s" }),
        }
    });
    figure("Budget", format!("{budget:.1}/s"), required.into_iter().chain(throttled).chain(round))
}

fn delay_figure(pool: &PoolStatus) -> Markup {
    let hour = &pool.last_hour;
    let expected = pool.event_delay_seconds_estimate.map(Duration::from_secs);
    let expected = expected.map(|delay| note("", format!("{} to expect on average", ShownDuration(delay))));
    match hour.delay_median_seconds {
        None => {
            let none = note("", "no live event in the last hour");
            figure("Delay", "–", std::iter::once(none).chain(expected))
        }
        Some(median) => {
            let p95 = hour.delay_p95_seconds.map(|secs| note("", format!("95 % within {}", About(secs))));
            figure("Delay, median", display(About(median)), p95.into_iter().chain(expected))
        }
    }
}

fn events_figure(pool: &PoolStatus) -> Markup {
    let threats = note("", html! { (Grouped(pool.risk_events)) " " (term("threats")) });
    let history =
        (pool.history_events > 0).then(|| note("", html! { (Grouped(pool.history_events)) " of " (term("history")) }));
    figure("Live events", display(Grouped(pool.events)), std::iter::once(threats).chain(history))
}

fn export_figure(export: &ExportStatus, is_polled: bool) -> Markup {
    let [least, most] = export.loss_interval.map(|share| 100.0 * share);
    let loss = export.loss.map(|loss| {
        let text = format!("{:.1} % lost ({least:.1} to {most:.1} %, of {})", 100.0 * loss, Grouped(export.audited));
        note("", text)
    });
    let loss = loss.or_else(|| Some(note("", "no event audited yet")));
    let delay = export.delay_seconds.map(|seconds| note("", format!("{} to arrive on average", About(seconds))));
    let polls = match (is_polled, export.sampled) {
        (false, _) => "nothing is polled; losses are unknown",
        (true, true) => "polls audit a sample",
        (true, false) => "every user is polled",
    };
    let polls = note("", polls);
    let down = export.reason.as_ref().map(|reason| note("warn", reason));
    let standing = if export.up { "up" } else { "down" };
    figure("Export", standing, down.into_iter().chain(delay).chain(loss).chain([polls]))
}

fn backlog_figure(pool: &PoolStatus, now: UnixMillis) -> Markup {
    let listed = pool.discovery_last_success.map(|time| note("", html! { "listed " (ago(Some(time), now)) }));
    let HistoryWalks { users_done, users, seconds_left_estimate } = pool.history_walks;
    let walked = (users_done < users).then(|| {
        let left = seconds_left_estimate.map(|secs| format!(", {} left", ShownDuration(Duration::from_secs(secs))));
        note("", format!("history of {} of {} walked{}", Grouped(users_done), Grouped(users), left.unwrap_or_default()))
    });
    match (pool.catching_up, pool.backlog_walks) {
        (None, _) => figure("Backlog", "–", listed),
        (Some(_), 0) => figure("Backlog", "none", listed),
        (Some(_), walks) => {
            let users = note("", format!("user{} with more to read", plural(walks)));
            figure("Backlog", display(Grouped(walks)), std::iter::once(users).chain(walked).chain(listed))
        }
    }
}

/// The columns of the events of a type.
const OUTCOMES: [&str; 5] = ["Passed", "Failed", "In progress", "Other", "All"];

/// The numbers of those columns.
fn by_outcome(counts: &EventTypeCounts) -> [u64; OUTCOMES.len()] {
    [counts.passed, counts.failed, counts.in_progress, counts.other, counts.events()]
}

/// Renders the live events by their type: the sums in a line, and a table by outcome below it.
fn event_types(types: &[EventTypeCounts]) -> Markup {
    let sums: Vec<_> =
        types.iter().map(|counts| format!("{} {}", Grouped(counts.events()), counts.event_type)).collect();
    html! {
        @if !types.is_empty() {
            details {
                summary { "By event type: " (sums.join(", ")) }
                div class="scroll" role="region" aria-label="Live events by type and outcome" tabindex="0" {
                    table {
                        thead {
                            tr {
                                th scope="col" { "Event type" }
                                @for column in OUTCOMES {
                                    th scope="col" class="number" { (column) }
                                }
                            }
                        }
                        tbody {
                            @for counts in types {
                                tr {
                                    th scope="row" { (counts.event_type) }
                                    @for count in by_outcome(counts) { td class="number" { (Grouped(count)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
