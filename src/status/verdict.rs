//! The verdict of a status report: whether sign-in events flow, and the findings that a person on call needs first.
//!
//! The module is pure: findings follow from the rest of the report. Each finding is one sentence for people, and it
//! says what to look at.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use serde::Serialize;

use super::{PoolStatus, QuotaNeed, StatusReport};

/// Time for a process to get its first answers. After it, missing answers are a finding.
const WARM_UP: Duration = Duration::from_secs(2 * 60);

/// Factor by which a poll may be later than its objective, because a round takes time.
const OBJECTIVE_SLACK: f64 = 1.1;

/// Time for which records may wait while deliveries fail. Shorter failures are no finding.
const WAITING_MAX: Duration = Duration::from_secs(60);

/// What the report says in one sentence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A finding is an error: some events do not flow.
    NotFlowing,
    /// The process starts or stops, or makes no progress.
    NotReady,
    /// Nothing is polled before the first scrape of `/metrics`.
    WaitingForScrape,
    /// Some pools have not answered yet.
    Starting,
    /// Events flow, and some finding is a warning.
    FlowingWithCaveat,
    /// Events flow.
    Flowing,
}

impl Verdict {
    /// Derives the verdict from the rest of a report.
    pub(super) fn of(report: &StatusReport) -> Self {
        let worst = report.findings.iter().map(|finding| finding.severity).max();
        let is_waiting = report.first_scrape.is_some_and(|wait| wait.ended.is_none());
        match worst {
            Some(FindingSeverity::Error) => Self::NotFlowing,
            _ if !report.ready => Self::NotReady,
            _ if is_waiting && report.pools.iter().all(|pool| pool.up.is_none()) => Self::WaitingForScrape,
            _ if report.pools.iter().any(|pool| pool.up.is_none()) => Self::Starting,
            Some(FindingSeverity::Warning) => Self::FlowingWithCaveat,
            None => Self::Flowing,
        }
    }

    /// Returns whether events flow; None if it is too early to tell.
    pub fn flowing(self) -> Option<bool> {
        match self {
            Self::NotFlowing | Self::NotReady => Some(false),
            Self::WaitingForScrape | Self::Starting => None,
            Self::FlowingWithCaveat | Self::Flowing => Some(true),
        }
    }

    /// Says the verdict of this report to people.
    pub(super) fn headline(self, report: &StatusReport) -> String {
        let words = match self {
            Self::NotFlowing => "Sign-in events do not all flow",
            Self::NotReady => "Not ready",
            Self::WaitingForScrape => "Waiting for the first scrape of /metrics",
            Self::Starting => {
                let answered = report.pools.iter().filter(|pool| pool.up.is_some()).count();
                return match report.pools.len() {
                    1 => "Starting: the pool has not answered yet".to_owned(),
                    pools => format!("Starting: {answered} of {pools} pools have answered"),
                };
            }
            Self::FlowingWithCaveat => "Sign-in events flow, with a caveat",
            Self::Flowing => "Sign-in events flow",
        };
        words.to_owned()
    }
}

/// The severity of a finding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingSeverity {
    /// Events flow. A person should look at it within days.
    Warning,
    /// Events do not flow, or will soon stop.
    Error,
}

/// Something that a person should know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StatusFinding {
    /// How severe it is.
    pub severity: FindingSeverity,
    /// The pool that it concerns; null if it concerns all pools.
    pub pool: Option<String>,
    /// One sentence for people.
    pub text: String,
}

/// Returns the findings of a report, the worst first.
pub(super) fn findings(report: &StatusReport) -> Vec<StatusFinding> {
    let mut findings = Vec::new();
    let mut find = |severity, pool: Option<&PoolStatus>, text: String| {
        findings.push(StatusFinding { severity, pool: pool.map(|pool| pool.id.clone()), text });
    };
    if let Some(reason) = report.reason.as_ref().filter(|_| report.now.since(report.started) > WARM_UP) {
        find(FindingSeverity::Error, None, format!("the exporter is not ready: {reason}"));
    }
    for reason in &report.paused {
        find(FindingSeverity::Error, None, paused(reason).to_owned());
    }
    for pool in &report.pools {
        of_pool(pool, report, &mut |severity, text| find(severity, Some(pool), text));
    }
    of_quota(report, &mut |severity, text| find(severity, None, text));
    of_budget(report, &mut |severity, text| find(severity, None, text));
    of_delivery(report, &mut |severity, text| find(severity, None, text));
    if report.quarantined_records.unwrap_or(0) > 0 {
        let text =
            "records that the receiver refused are in quarantine; `cognito-auth-exporter quarantine list` shows why";
        find(FindingSeverity::Warning, None, text.to_owned());
    }
    if report.state.rebuilds > 0 {
        let text = "the ledger was damaged and begun anew when this process started; the log names the files it moved";
        find(FindingSeverity::Warning, None, text.to_owned());
    }
    if !report.config_reload_successful {
        let text = "the changed configuration cannot be used; the previous one stays in force, and the log says why";
        find(FindingSeverity::Warning, None, text.to_owned());
    }
    findings.sort_by_key(|finding| Reverse(finding.severity));
    findings
}

/// When the first polls could be made: at the start, or when the wait for a scrape ended, or will end.
fn polled_since(report: &StatusReport) -> UnixMillis {
    report.first_scrape.map_or(report.started, |wait| wait.ended.unwrap_or(report.now))
}

fn paused(reason: &str) -> &'static str {
    match reason {
        "outbox_full" => "polling pauses because the outbox is full; it continues when the receiver takes records",
        "quarantine_full" => "delivery pauses because the quarantine is full; retry or drop its records",
        _ => "work pauses because the ledger cannot be written; check the disk",
    }
}

fn of_pool(pool: &PoolStatus, report: &StatusReport, find: &mut impl FnMut(FindingSeverity, String)) {
    let users = pool.users.unwrap_or_default();
    match pool.up {
        Some(false) => {
            let reason = pool.reason.as_deref().unwrap_or("the log says why");
            find(FindingSeverity::Error, format!("the pool cannot be read: {reason}"));
            return; // other findings of the pool follow from this one
        }
        None if report.now.since(polled_since(report)) > WARM_UP => {
            find(FindingSeverity::Warning, "the pool has not answered yet".to_owned());
        }
        None | Some(true) => {}
    }
    let is_sampled = pool.export.as_ref().is_some_and(|export| export.sampled);
    if let Some(reason) = pool.export.as_ref().and_then(|export| export.reason.as_ref()) {
        find(FindingSeverity::Warning, format!("polling replaces the export: {reason}"));
    }
    if let (Some(oldest), Some(objective), false) = (pool.oldest_poll, pool.objective_seconds, is_sampled) {
        let age = report.now.since(oldest);
        if age > Duration::from_secs(objective).mul_f64(OBJECTIVE_SLACK) {
            let text = "users wait longer for a poll than poll.max_interval; a larger budget or fewer users help";
            find(FindingSeverity::Warning, text.to_owned());
        }
    }
    if pool.configured_users_missing > 0 {
        let users = pool.configured_users_missing;
        let text = format!("configured users not found in the pool: {users}; `cognito-auth-exporter check` names them");
        find(FindingSeverity::Warning, text);
    }
    if users.failing > 0 {
        find(
            FindingSeverity::Warning,
            format!("{} users cannot be read; Cognito answers calls for them with errors", users.failing),
        );
    }
}

/// Adds one finding for all pools that share a quota.
fn of_quota(report: &StatusReport, find: &mut impl FnMut(FindingSeverity, String)) {
    let throttled = report.pools.iter().filter(|pool| pool.last_hour.throttled > 0);
    let quotas: BTreeSet<_> = throttled.map(|pool| (pool.account_id.as_deref(), pool.region.as_str())).collect();
    for (account, region) in quotas {
        let quota = account.map_or_else(|| region.to_owned(), |account| format!("account {account}, {region}"));
        let text = format!(
            "Cognito throttled calls in the last hour ({quota}): other callers use the same quota, and the exporter \
             calls less often"
        );
        find(FindingSeverity::Warning, text);
    }
}

/// Adds one finding for each budget that cannot keep the objective of its pools.
fn of_budget(report: &StatusReport, find: &mut impl FnMut(FindingSeverity, String)) {
    let mut quotas = BTreeSet::new();
    for pool in &report.pools {
        let Some(need) = report.quota_need(pool).filter(QuotaNeed::is_insufficient) else { continue };
        if quotas.insert((pool.account_id.as_deref(), pool.region.as_str())) {
            let quota = pool.account_id.as_ref().map(|account| format!("account {account}, ")).unwrap_or_default();
            let text = format!(
                "the objective takes {:.1} calls/s and the budget is {:.1} ({quota}{}): raise \
                 poll.requests_per_second or poll.max_interval",
                need.required_per_second, need.budget_per_second, pool.region
            );
            find(FindingSeverity::Warning, text);
        }
    }
}

fn of_delivery(report: &StatusReport, find: &mut impl FnMut(FindingSeverity, String)) {
    let Some(outbox) = &report.outbox else { return };
    let waits = outbox.oldest.is_some_and(|oldest| report.now.since(oldest) > WAITING_MAX);
    let latest = report.delivery.last_errors.first();
    let is_failing = |at: UnixMillis| report.delivery.last_success.is_none_or(|success| success < at);
    if let Some(error) = latest.filter(|error| waits && is_failing(error.last)) {
        find(FindingSeverity::Error, format!("the receiver does not take records: {}", error.cause));
    }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::entry::PoolIdentity;

    use super::*;
    use crate::metrics::{Metrics, OutboxSize, PauseReason, PollForecast, UserCounts};
    use crate::status::StatusBoard;

    const POOL: &str = "eu-west-1_A";
    const START: UnixMillis = UnixMillis(1_723_136_049_929);

    fn world() -> (Metrics, StatusBoard) {
        let (metrics, board) = (Metrics::new(START), StatusBoard::new(START));
        metrics.add_pool(&PoolIdentity {
            id: POOL.into(),
            name: "a".into(),
            region: "eu-west-1".into(),
            account_id: None,
        });
        metrics.pool_up(POOL, true);
        metrics.poll_objective(POOL, Duration::from_secs(3600));
        board.ready();
        (metrics, board)
    }

    fn found(metrics: &Metrics, board: &StatusBoard) -> (bool, Vec<(FindingSeverity, String)>) {
        let report = board.report(metrics, START.plus(Duration::from_hours(2)));
        (report.flowing.unwrap(), report.findings.into_iter().map(|finding| (finding.severity, finding.text)).collect())
    }

    #[test]
    fn all_well_is_said_by_saying_nothing() {
        let (metrics, board) = world();
        metrics.oldest_poll(POOL, Some(START.plus(Duration::from_secs(3700))));
        assert_eq!(found(&metrics, &board), (true, vec![]));
    }

    #[test]
    fn a_budget_below_the_need_of_all_its_pools_is_one_warning() {
        let (metrics, board) = world();
        let other =
            PoolIdentity { id: "eu-west-1_B".into(), name: "b".into(), region: "eu-west-1".into(), account_id: None };
        metrics.add_pool(&other);
        metrics.pool_up(&other.id, true);
        metrics.api_budget(None, "eu-west-1", 5.0);
        for (required, insufficient) in [(2.5, false), (2.6, true)] {
            for pool in [POOL, &other.id] {
                let forecast = PollForecast { required_per_second: Some(required), ..PollForecast::default() };
                metrics.forecast(pool, forecast);
            }
            let text = "the objective takes 5.2 calls/s and the budget is 5.0 (eu-west-1): raise \
                        poll.requests_per_second or poll.max_interval";
            let expected = insufficient.then(|| (FindingSeverity::Warning, text.to_owned()));
            assert_eq!(found(&metrics, &board), (true, expected.into_iter().collect()));
        }
    }

    #[test]
    fn configured_users_that_are_not_in_the_pool_are_a_warning() {
        let (metrics, board) = world();
        board.configured_users_missing(POOL, 2);
        let text = "configured users not found in the pool: 2; `cognito-auth-exporter check` names them";
        assert_eq!(found(&metrics, &board), (true, vec![(FindingSeverity::Warning, text.to_owned())]));
        board.configured_users_missing(POOL, 0);
        assert_eq!(found(&metrics, &board), (true, vec![]));
    }

    #[test]
    fn what_stops_events_is_an_error_and_comes_first() {
        let (metrics, board) = world();
        metrics.users(POOL, UserCounts { ok: 1, missing: 1, failing: 2 });
        metrics.oldest_poll(POOL, Some(START));
        let (flowing, warnings) = found(&metrics, &board);
        assert!(flowing && warnings.iter().all(|(severity, _)| *severity == FindingSeverity::Warning));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        for break_it in [
            (|metrics, board| {
                metrics.pool_up(POOL, false);
                board.pool_error(POOL, "denied", START);
            }) as fn(&Metrics, &StatusBoard),
            |metrics, _| metrics.paused(PauseReason::OutboxFull, true),
            |metrics, board| {
                metrics.outbox(OutboxSize { records: 1, bytes: 1, oldest: Some(START) });
                board.delivery_error("refused", START);
            },
            |_, board| board.stuck("no space"),
        ] {
            let (metrics, board) = world();
            metrics.oldest_poll(POOL, Some(START));
            break_it(&metrics, &board);
            let (flowing, findings) = found(&metrics, &board);
            assert!(!flowing && findings[0].0 == FindingSeverity::Error, "{findings:?}");
        }
    }

    #[test]
    fn a_receiver_that_has_taken_records_since_its_last_error_is_well() {
        let (metrics, board) = world();
        metrics.outbox(OutboxSize { records: 1, bytes: 1, oldest: Some(START) });
        board.delivery_error("refused", START);
        board.delivered(START.plus(Duration::from_secs(1)));
        assert!(found(&metrics, &board).0);
    }

    #[test]
    fn before_every_pool_has_answered_it_is_too_early_to_say_that_events_flow() {
        let (metrics, board) = world();
        let second =
            PoolIdentity { id: "eu-west-1_B".into(), name: "b".into(), region: "eu-west-1".into(), account_id: None };
        metrics.add_pool(&second);
        let report = board.report(&metrics, START.plus(Duration::from_secs(25)));
        assert_eq!((report.verdict, report.flowing), (Verdict::Starting, None));
        assert_eq!(report.verdict.headline(&report), "Starting: 1 of 2 pools have answered");
        metrics.pool_up(&second.id, true);
        let report = board.report(&metrics, START.plus(Duration::from_secs(25)));
        assert_eq!((report.verdict, report.flowing), (Verdict::Flowing, Some(true)));
    }

    #[test]
    fn a_wait_for_a_scrape_is_the_verdict_until_it_ends_and_no_answer_is_missed_meanwhile() {
        let (metrics, board) = (Metrics::new(START), StatusBoard::new(START));
        let pool = PoolIdentity { id: POOL.into(), name: "a".into(), region: "eu-west-1".into(), account_id: None };
        metrics.add_pool(&pool);
        board.ready();
        board.scrape_awaited(START, START.plus(Duration::from_hours(1)));
        let late = board.report(&metrics, START.plus(Duration::from_mins(50)));
        assert_eq!((late.verdict, late.flowing, late.findings.len()), (Verdict::WaitingForScrape, None, 0));
        board.scrape_arrived(START.plus(Duration::from_mins(50)));
        let soon = board.report(&metrics, START.plus(Duration::from_mins(51)));
        assert_eq!((soon.verdict, soon.findings.len()), (Verdict::Starting, 0));
        let never = board.report(&metrics, START.plus(Duration::from_mins(53)));
        assert_eq!((never.verdict, never.findings.len()), (Verdict::Starting, 1));
        board.stuck("no space");
        assert_eq!(board.report(&metrics, START.plus(Duration::from_mins(53))).flowing, Some(false));
    }
}
