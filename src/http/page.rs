//! The status page: the status report for people, as one page without scripts and without resources from elsewhere.
//!
//! It answers first whether sign-in events flow, and then gives the evidence: a card for each pool, and one for
//! delivery. A fault is shown by a word and a colour, never by a colour alone.

mod chart;

use std::fmt::{self, Display, Formatter, Write as _};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cognito_auth_core::event::UnixMillis;
use maud::{DOCTYPE, Markup, PreEscaped, Render, display, html};
use sha2::{Digest as _, Sha256};

use crate::status::{
    ErrorStatus, ExportStatus, FindingSeverity, HistoryWalks, OutboxStatus, PoolStatus, StatusFinding, StatusReport,
    Verdict,
};

/// Time between two refreshes of an open page, in seconds.
const REFRESH_SECS: u64 = 15;

const STYLE: &str = include_str!("page/style.css");

/// The content security policy: the page may use its own style and nothing else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
});

/// Returns the page's content security policy.
pub(super) fn policy() -> &'static str {
    &POLICY
}

/// Renders the page. A `still` page does not refresh itself.
pub(super) fn render(report: &StatusReport, still: bool) -> String {
    let now = report.now;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { @if report.flowing == Some(false) { "(!) " } "cognito-auth-exporter" }
                meta name="viewport" content="width=device-width,initial-scale=1";
                @if !still { meta http-equiv="refresh" content=(REFRESH_SECS); }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "cognito-auth-exporter" }
                    p { (report.version) " · up " (ShownDuration(now.since(report.started))) " · " (ShownTime(now)) }
                    nav aria-label="Elsewhere" {
                        a href="metrics" { "metrics" }
                        a href="status" { "JSON" }
                        @if still { a href="?" { "refresh by itself" } } @else { a href="?still" { "stand still" } }
                    }
                }
                main {
                    (verdict(report))
                    @for pool in &report.pools { (pool_card(pool, now)) }
                    (delivery_card(report))
                }
            }
        }
    };
    page.into_string()
}

fn verdict(report: &StatusReport) -> Markup {
    let now = report.now;
    let class = match report.verdict {
        Verdict::NotFlowing => "bad",
        Verdict::NotReady | Verdict::WaitingForScrape | Verdict::Starting | Verdict::FlowingWithCaveat => "warn",
        Verdict::Flowing => "good",
    };
    let words = report.verdict.headline(report);
    let awaited = report.first_scrape.filter(|_| report.verdict == Verdict::WaitingForScrape);
    let totals = &report.totals;
    html! {
        section class={ "verdict " (class) } aria-labelledby="verdict" {
            (sign(class))
            h2 id="verdict" class=(class) { (words) }
            p {
                (Grouped(totals.users.ok + totals.users.missing + totals.users.failing)) " users in "
                (Grouped(totals.pools)) " pool" (plural(totals.pools)) "; " (Grouped(totals.events)) " events and "
                (Grouped(totals.risk_events)) " threats counted"
                @if totals.history_events > 0 { ", " (Grouped(totals.history_events)) " of history" }
                @if let Some(reason) = &report.reason { "; not ready: " (reason) }
            }
            @if let Some(wait) = awaited {
                p {
                    "Prometheus has to see each counter before it rises. Polling begins with the scrape, or in "
                    (ShownDuration(wait.until.since(now))) " (" code { "http.first_scrape_wait" } ")."
                }
            }
            @if !report.findings.is_empty() {
                ul { @for finding in &report.findings { (finding_item(finding, report)) } }
            }
        }
    }
}

fn finding_item(finding: &StatusFinding, report: &StatusReport) -> Markup {
    let (class, word) = match finding.severity {
        FindingSeverity::Error => ("bad", "Error"),
        FindingSeverity::Warning => ("warn", "Warning"),
    };
    let pool = finding.pool.as_ref().and_then(|id| report.pools.iter().find(|pool| pool.id == *id));
    html! {
        li {
            b class=(class) { (word) ":" } " "
            @if let Some(pool) = pool { b { (pool.name) } ": " }
            (finding.text)
        }
    }
}

fn pool_card(pool: &PoolStatus, now: UnixMillis) -> Markup {
    let (class, word) = match pool.up {
        None => ("warn", "not asked yet"),
        Some(true) => ("good", "up"),
        Some(false) => ("bad", "down"),
    };
    html! {
        section class="card" {
            h2 {
                (pool.name) " "
                span class={ "chip " (class) } { (word) } " "
                small {
                    (pool.id) ", " (pool.region)
                    @if let Some(account) = &pool.account_id { ", account " (account) }
                }
            }
            @if let Some(reason) = &pool.reason { p class="why bad" { (reason) } }
            dl { (pool_figures(pool, now)) }
            (chart::outcomes(&pool.last_hour))
            (last_errors(&pool.last_errors, now))
        }
    }
}

fn pool_figures(pool: &PoolStatus, now: UnixMillis) -> Markup {
    html! {
        (users_figure(pool))
        (oldest_poll_figure(pool, now))
        (budget_figure(pool))
        (delay_figure(pool))
        (events_figure(pool))
        @if let Some(export) = &pool.export { (export_figure(export, pool.users.is_some())) }
        (backlog_figure(pool, now))
    }
}

fn users_figure(pool: &PoolStatus) -> Markup {
    let Some(users) = pool.users else { return figure("Users followed", "–", []) };
    let missing = (users.missing > 0).then(|| note("", format!("{} missing", Grouped(users.missing))));
    let failing = (users.failing > 0).then(|| note("bad", format!("{} failing", Grouped(users.failing))));
    let all = users.ok + users.missing + users.failing;
    figure("Users followed", display(Grouped(all)), missing.into_iter().chain(failing))
}

fn oldest_poll_figure(pool: &PoolStatus, now: UnixMillis) -> Markup {
    let objective = pool.objective_seconds.map(Duration::from_secs);
    let used = match (pool.oldest_poll, objective.filter(|objective| !objective.is_zero())) {
        (Some(oldest), Some(objective)) => Some(now.since(oldest).div_duration_f64(objective)),
        _ => None,
    };
    html! {
        div {
            dt { "Oldest poll" }
            dd { (ago(pool.oldest_poll, now)) }
            @if let Some(used) = used { (chart::bar(used)) }
            (notes(objective.map(|objective| note("", format!("objective {}", ShownDuration(objective))))))
        }
    }
}

fn budget_figure(pool: &PoolStatus) -> Markup {
    let seconds = |secs| ShownDuration(Duration::from_secs(secs));
    let hour = &pool.last_hour;
    let round = pool.round_seconds_estimate.map(|secs| note("", format!("a round takes {}", seconds(secs))));
    let Some(budget) = pool.budget_requests_per_second else { return figure("Budget", "–", round) };
    let throttled = (hour.throttled > 0)
        .then(|| note("warn", format!("{} of {} calls throttled", Grouped(hour.throttled), Grouped(hour.calls))));
    let required = pool.required_requests_per_second.map(|calls| note("", format!("the objective takes {calls:.1}/s")));
    figure("Budget", format!("{budget:.1}/s"), throttled.into_iter().chain(required).chain(round))
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
    let threats = note("", format!("{} threats", Grouped(pool.risk_events)));
    let history = (pool.history_events > 0).then(|| note("", format!("{} of history", Grouped(pool.history_events))));
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

fn delivery_card(report: &StatusReport) -> Markup {
    html! {
        section class="card" {
            h2 { "Delivery and state" }
            dl { (delivery_figures(report)) }
            (last_errors(&report.delivery.last_errors, report.now))
        }
    }
}

fn delivery_figures(report: &StatusReport) -> Markup {
    let now = report.now;
    let refused = |records: u64| (records > 0).then(|| note("warn", "refused by the receiver"));
    let rebuilds = report.state.rebuilds;
    let rebuilt = (rebuilds > 0).then(|| note("warn", format!("begun anew {rebuilds} time{}", plural(rebuilds))));
    html! {
        @match &report.outbox {
            None => (figure("Records", "none", [note("", "no sink: only metrics are exported")])),
            Some(outbox) => {
                (outbox_figure(outbox))
                (figure("Oldest record", ago(outbox.oldest, now), []))
                (figure("Last acknowledged", ago(report.delivery.last_success, now), []))
            }
        }
        @if let Some(records) = report.quarantined_records {
            (figure("Quarantine", display(Grouped(records)), refused(records)))
        }
        @for (stage, time) in &report.progress {
            @let work = if *stage == "deliver" { "delivery" } else { stage };
            (figure(&format!("Last {work}"), ago(Some(time.0), now), []))
        }
        @if let Some(size) = report.state.size_bytes { (figure("Ledger", bytes(size), rebuilt)) }
    }
}

fn outbox_figure(outbox: &OutboxStatus) -> Markup {
    #[expect(clippy::cast_precision_loss, reason = "a share for a bar")]
    let share = |limit: u64| outbox.bytes as f64 / limit as f64;
    let limit = outbox.limit_bytes.filter(|limit| *limit > 0);
    html! {
        div {
            dt { "Waiting" }
            dd { (Grouped(outbox.records)) " records" }
            @if let Some(limit) = limit {
                (chart::bar(share(limit)))
                (notes([note("", format!("{} of {}", bytes(outbox.bytes), bytes(limit)))]))
            } @else {
                (notes([note("", bytes(outbox.bytes))]))
            }
        }
    }
}

fn last_errors(errors: &[ErrorStatus], now: UnixMillis) -> Markup {
    html! {
        @if let Some(latest) = errors.first() {
            details {
                summary { "Last errors, the latest " (ago(Some(latest.last), now)) }
                ol {
                    @for error in errors {
                        li {
                            (error.cause)
                            small {
                                (ago(Some(error.last), now)) ", " (Grouped(error.count)) " time" (plural(error.count))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A small text below the value of a figure. The class is empty, "warn" or "bad".
struct FigureNote {
    class: &'static str,
    text: Markup,
}

fn note(class: &'static str, text: impl Render) -> FigureNote {
    FigureNote { class, text: text.render() }
}

/// Renders a figure: its name, its value, and the notes below it.
fn figure(name: &str, value: impl Render, beside: impl IntoIterator<Item = FigureNote>) -> Markup {
    html! {
        div { dt { (name) } dd { (value) } (notes(beside)) }
    }
}

fn notes(notes: impl IntoIterator<Item = FigureNote>) -> Markup {
    html! {
        @for FigureNote { class, text } in notes {
            dd class=[Some(class).filter(|class| !class.is_empty())] { (text) }
        }
    }
}

/// Renders how long ago a time was.
fn ago(time: Option<UnixMillis>, now: UnixMillis) -> Markup {
    html! {
        @match time {
            None => "–",
            Some(time) => time datetime=(time) { (ShownDuration(now.since(time))) " ago" },
        }
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

/// Renders the sign of a verdict: a check mark, a warning triangle or a cross.
fn sign(class: &str) -> Markup {
    html! {
        svg class=(class) viewBox="0 0 24 24" aria-hidden="true" {
            @if class == "warn" {
                path d="M12 2.5l10.5 18.5h-21z" fill="currentColor" opacity=".15" {}
                path d="M12 9v5.5M12 17.6v.4" fill="none" stroke="currentColor" stroke-width="2.4"
                    stroke-linecap="round" {}
            } @else {
                circle cx="12" cy="12" r="11" fill="currentColor" opacity=".15" {}
                @if class == "good" {
                    path d="M6.5 12.5l3.7 3.7 7.3-8" fill="none" stroke="currentColor" stroke-width="2.4"
                        stroke-linecap="round" stroke-linejoin="round" {}
                } @else {
                    path d="M8 8l8 8M16 8l-8 8" fill="none" stroke="currentColor" stroke-width="2.4"
                        stroke-linecap="round" {}
                }
            }
        }
    }
}

/// A whole number with separated thousands.
struct Grouped(u64);

impl Display for Grouped {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                f.write_char(',')?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}

/// A date and time to the second.
struct ShownTime(UnixMillis);

impl Display for ShownTime {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match text.split_once('T') {
            Some((date, time)) => write!(f, "{date} {} UTC", time.get(..8).unwrap_or(time)),
            None => f.write_str(&text),
        }
    }
}

/// An estimate in seconds.
struct About(f64);

impl Display for About {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 < 10.0 { write!(f, "{:.1} s", self.0) } else { ShownDuration(Duration::from_secs_f64(self.0)).fmt(f) }
    }
}

/// A duration in its two largest units.
struct ShownDuration(Duration);

impl Display for ShownDuration {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
        let (two, first, second) = match (days, hours, minutes) {
            (0, 0, 0) => return write!(f, "{secs} s"),
            (0, 0, 10..) => return write!(f, "{minutes} min"),
            (0, 0, _) => ((minutes, secs % 60), "min", "s"),
            (0, _, _) => ((hours, minutes), "h", "min"),
            _ => ((days, hours), "d", "h"),
        };
        match two {
            (whole, 0) => write!(f, "{whole} {first}"),
            (whole, rest) => write!(f, "{whole} {first} {rest} {second}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        let table = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (3_599, "59 min"),
            (3_600, "1 h"),
            (3_660, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ];
        for (secs, text) in table {
            assert_eq!(ShownDuration(Duration::from_secs(secs)).to_string(), text);
        }
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(Grouped(number).to_string(), text);
        }
    }
}
