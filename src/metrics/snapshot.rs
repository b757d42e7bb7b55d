//! The values behind the metrics as plain data, for `/status`: what it shows cannot disagree with `/metrics`.

use std::time::Duration;

use cognito_auth_core::counters::Series;
use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::shard::Shard;

use super::calls::AccountLimit;
use super::labels::LabelValue as _;
use super::pool::{DELAY_BOUNDS_SECS, Pool};
use super::{Metrics, OutboxSize, PollForecast, UserCounts, lock};
use crate::source::{CallOutcome, Operation};

/// One pool. What has not been reported yet is None.
#[derive(Clone, PartialEq, Debug)]
pub struct PoolSnapshot {
    /// Which pool.
    pub identity: PoolIdentity,
    /// Whether it answers.
    pub up: Option<bool>,
    /// Its users by state.
    pub users: Option<UserCounts>,
    /// When its least recently polled user was polled or joined.
    pub oldest_poll: Option<UnixMillis>,
    /// The longest time that a user should go without a poll.
    pub objective: Option<Duration>,
    /// What the present budget gives.
    pub forecast: PollForecast,
    /// When its users were last listed to the end.
    pub discovery: Option<UnixMillis>,
    /// Whether backlog or history is being worked off.
    pub catching_up: Option<bool>,
    /// The present budget of its account and region, in requests per second; other pools may share it.
    pub budget_per_second: Option<f64>,
    /// The account's own limit there, where the budget is a share of it.
    pub limit: Option<AccountLimit>,
    /// Live events: outcomes less those superseded.
    pub events: u64,
    /// Live events that threat protection acted on.
    pub risk_events: u64,
    /// Events from before their user was followed.
    pub history_events: u64,
    /// What has ever been counted, for whoever compares two moments.
    pub counts: Counts,
}

/// Counters of one pool and of its account and region; each only grows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Live outcomes `Pass`.
    pub passed: u64,
    /// Live outcomes `Fail`.
    pub failed: u64,
    /// Events that threat protection acted on.
    pub risk: u64,
    /// Calls for histories, of all pools of the account and region.
    pub calls: u64,
    /// Those of them that were throttled.
    pub throttled: u64,
    /// Live events by their delay: as many as [`DELAY_BOUNDS_SECS`], and one for those above.
    pub delays: [u64; DELAY_BOUNDS_SECS.len() + 1],
}

/// The exporter as a whole.
#[derive(Clone, PartialEq, Debug)]
pub struct ExporterSnapshot {
    /// What waits for delivery; None without a sink.
    pub outbox: Option<OutboxSize>,
    /// At this size polling pauses.
    pub outbox_limit_bytes: Option<u64>,
    /// Records kept aside.
    pub quarantined: Option<u64>,
    /// Why work pauses, in the words of `cognito_exporter_paused`; empty while it does not.
    pub paused: Vec<&'static str>,
    /// Which stage last finished work, or found none to do, and when.
    pub progress: Vec<(&'static str, UnixMillis)>,
    /// The ledger's size on disk.
    pub state_size_bytes: Option<u64>,
    /// Times that a corrupt ledger was begun anew.
    pub state_rebuilds: u64,
    /// Whether the latest attempt to load the configuration succeeded.
    pub reload_successful: bool,
    /// Whose users are followed.
    pub shard: Shard,
}

impl Metrics {
    /// The pools at present, in ascending order of their ids.
    pub fn pools(&self) -> Vec<PoolSnapshot> {
        let pools: Vec<_> = lock(&self.shown.pools).values().cloned().collect();
        let mut snapshots: Vec<PoolSnapshot> = pools.iter().map(|pool| snapshot(&lock(pool))).collect();
        let mut calls = lock(&self.shown.calls);
        for pool in &mut snapshots {
            let account = calls.account(pool.identity.account_id.as_deref(), &pool.identity.region);
            pool.budget_per_second = account.budget_per_second;
            let outcomes = account.requests.of(Operation::AdminListUserAuthEvents);
            pool.counts.calls = outcomes.iter().map(|(_, count)| count).sum();
            pool.counts.throttled = *outcomes.of(CallOutcome::Throttled);
            pool.limit = account.limit;
        }
        snapshots
    }

    /// The exporter at present.
    pub fn exporter_now(&self) -> ExporterSnapshot {
        let exporter = self.exporter();
        ExporterSnapshot {
            outbox: exporter.outbox,
            outbox_limit_bytes: exporter.outbox_limit_bytes,
            quarantined: exporter.quarantined,
            paused: exporter.paused.iter().filter(|(_, paused)| **paused).map(|(reason, _)| reason).collect(),
            progress: exporter.progress.iter().map(|(stage, time)| (stage.as_str(), *time)).collect(),
            state_size_bytes: exporter.state_size_bytes,
            state_rebuilds: exporter.state_rebuilds,
            reload_successful: exporter.reload_successful,
            shard: exporter.shard,
        }
    }
}

fn snapshot(pool: &Pool) -> PoolSnapshot {
    let (mut met, mut left, mut risk_events, mut history_events) = (0, 0, 0, 0);
    let mut counts = Counts { delays: pool.delays(), ..Counts::default() };
    for (series, total) in pool.totals() {
        match series {
            Series::Events(outcome) => {
                met += total;
                match outcome.response.as_str() {
                    "Pass" => counts.passed += total,
                    "Fail" => counts.failed += total,
                    _ => {}
                }
            }
            Series::Superseded(_) => left += total,
            Series::Risk { .. } => risk_events += total,
            Series::History => history_events += total,
            Series::Unfinished { .. }
            | Series::Compromised { .. }
            | Series::Challenges { .. }
            | Series::Feedback { .. } => {}
        }
    }
    PoolSnapshot {
        identity: pool.identity.clone(),
        up: pool.up,
        users: pool.users,
        oldest_poll: pool.oldest_poll,
        objective: pool.objective,
        forecast: pool.forecast,
        discovery: pool.discovery,
        catching_up: pool.catching_up,
        budget_per_second: None,
        limit: None,
        events: u64::saturating_sub(met, left),
        risk_events,
        history_events,
        counts: Counts { risk: risk_events, ..counts },
    }
}
