//! The pools: their cards, and above many cards a table with a line for each pool, the worst first.

use std::cmp::Reverse;

use cognito_auth_core::event::UnixMillis;
use maud::{Markup, html};

use super::figure::{About, Grouped, ago};
use super::pool_card::{self, share_of_objective, state};
use crate::status::{FindingSeverity, PoolStatus, StatusFinding, StatusReport};

/// The number of pools from which on there is a table. Fewer cards are seen at a glance.
const TABLE_FROM: usize = 4;

/// Renders the pools. Below a table the cards of pools without a finding are folded.
pub(super) fn pools(report: &StatusReport) -> Markup {
    if report.pools.len() < TABLE_FROM {
        return html! { @for pool in &report.pools { (pool_card::render(pool, report, false)) } };
    }
    let pools = worst_first(report);
    html! {
        (table(&pools, report))
        @for pool in &pools { (pool_card::render(pool, report, worst_finding(pool, report).is_none())) }
    }
}

/// The pools by the severity of their findings, then by how late their polls are, then by id.
fn worst_first(report: &StatusReport) -> Vec<&PoolStatus> {
    let mut pools: Vec<_> = report.pools.iter().collect();
    let lateness = |pool: &PoolStatus| share_of_objective(pool, report.now).unwrap_or(0.0);
    let severity = |pool: &PoolStatus| Reverse(worst_finding(pool, report).map(|finding| finding.severity));
    pools.sort_by(|one, other| {
        severity(one).cmp(&severity(other)).then_with(|| lateness(other).total_cmp(&lateness(one)))
    });
    pools
}

/// The worst finding of a pool. Findings come the worst first.
fn worst_finding<'a>(pool: &PoolStatus, report: &'a StatusReport) -> Option<&'a StatusFinding> {
    report.findings.iter().find(|finding| finding.pool.as_ref() == Some(&pool.id))
}

fn table(pools: &[&PoolStatus], report: &StatusReport) -> Markup {
    html! {
        section class="card" aria-labelledby="pools" {
            h2 id="pools" { (Grouped(pools.len() as u64)) " pools, the worst first" }
            div class="scroll" role="region" aria-labelledby="pools" tabindex="0" {
                table {
                    thead {
                        tr {
                            th scope="col" { "Pool" }
                            th scope="col" { "State" }
                            th scope="col" class="number" { "Users" }
                            th scope="col" class="number" { "Oldest poll" }
                            th scope="col" class="number" { "Delay" }
                            th scope="col" class="number" { "Events" }
                            th scope="col" class="number" { "Failed, 1 h" }
                            th scope="col" { "Finding" }
                        }
                    }
                    tbody { @for pool in pools { (row(pool, report, report.now)) } }
                }
            }
        }
    }
}

fn row(pool: &PoolStatus, report: &StatusReport, now: UnixMillis) -> Markup {
    let users = pool.users.map(|users| users.ok + users.missing + users.failing);
    let failed: u64 = pool.last_hour.slots.iter().map(|slot| slot.failed).sum();
    html! {
        tr {
            th scope="row" { a href={ "#" (pool.id) } { (pool.name) } }
            td { (state(pool)) }
            td class="number" { @match users { Some(users) => (Grouped(users)), None => "–" } }
            td class="number" { (ago(pool.oldest_poll, now)) }
            td class="number" {
                @match pool.last_hour.delay_median_seconds { Some(median) => (About(median)), None => "–" }
            }
            td class="number" { (Grouped(pool.events)) }
            td class="number" { (Grouped(failed)) }
            td class="finding" {
                @match worst_finding(pool, report) {
                    None => "–",
                    Some(finding) => {
                        b class=(if finding.severity == FindingSeverity::Error { "bad" } else { "warn" }) {
                            (if finding.severity == FindingSeverity::Error { "Error: " } else { "Warning: " })
                        }
                        (finding.text)
                    }
                }
            }
        }
    }
}
