//! The status page: the status report for people, as one page without scripts and without resources from elsewhere.
//!
//! It answers first whether sign-in events flow, and then gives the evidence: a card for each pool, and one for
//! delivery. Many pools have a table above their cards, the worst first. A fault is shown by a word and a colour, never
//! by a colour alone, and a red or orange number has its reason below it.

mod chart;
mod delivery_card;
mod figure;
mod overview;
mod pool_card;
mod terms;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cognito_auth_core::event::UnixMillis;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use self::figure::{Grouped, ShownDuration, ShownTime, ago, plural};
use crate::status::{ErrorStatus, FindingSeverity, StatusFinding, StatusReport, Verdict};

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
                    p {
                        (report.version) (revision(report.revision)) " · up "
                        (ShownDuration(now.since(report.started))) " · " (configuration(report)) " · " (ShownTime(now))
                    }
                    nav aria-label="Elsewhere" {
                        @if let Some(url) = &report.links.dashboard_url { a href=(url) rel="noreferrer" { "dashboard" } }
                        @if let Some(url) = &report.links.runbook_url { a href=(url) rel="noreferrer" { "runbook" } }
                        a href="#terms" { "words" }
                        a href="metrics" { "metrics" }
                        a href="status" { "JSON" }
                        @if still { a href="?" { "refresh by itself" } } @else { a href="?still" { "stand still" } }
                    }
                }
                main {
                    (verdict(report))
                    (overview::pools(report))
                    (delivery_card::render(report))
                    (terms::glossary())
                }
            }
        }
    };
    page.into_string()
}

/// Renders the commit that was built, if it is known, as Git abbreviates it.
fn revision(revision: &str) -> Markup {
    let short: String = revision.chars().take(8).collect();
    html! { @if revision != "unknown" { " (" span title=(revision) { (short) } ")" } }
}

/// Renders when the configuration was last loaded, or that it could not be.
fn configuration(report: &StatusReport) -> Markup {
    let loaded = ago(Some(report.config_loaded), report.now);
    html! {
        @if report.config_reload_successful { "configuration loaded " (loaded) }
        @else { b class="warn" { "configuration reload failed " (loaded) } }
    }
}

fn verdict(report: &StatusReport) -> Markup {
    let now = report.now;
    let class = match report.verdict {
        Verdict::NotFlowing => "bad",
        Verdict::NotReady | Verdict::WaitingForScrape | Verdict::Starting | Verdict::FlowingWithCaveat => "warn",
        Verdict::Flowing => "good",
    };
    let awaited = report.first_scrape.filter(|_| report.verdict == Verdict::WaitingForScrape);
    let totals = &report.totals;
    html! {
        section class={ "verdict " (class) } aria-labelledby="verdict" {
            (sign(class))
            h2 id="verdict" class=(class) { (report.headline) }
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

/// Renders the latest errors, folded.
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
