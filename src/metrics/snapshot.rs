//! Snapshots of the values behind the metrics, for `/status`, which so always agrees with `/metrics`.

use std::collections::BTreeMap;
use std::time::Duration;

use cognito_auth_core::call::{CallOutcome, Operation};
use cognito_auth_core::counters::Series;
use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::{EventResponse, EventType, Label, UnixMillis};
use cognito_auth_core::shard::Shard;

use super::calls::AccountLimit;
use super::labels::{LabelValue as _, RecordOutcome};
use super::pool::{DELAY_BOUNDS_SECS, PoolMetrics};
use super::{Metrics, OutboxSize, PollForecast, UserCounts};

/// A snapshot of one pool. A value that was not reported yet is None.
#[derive(Clone, PartialEq, Debug)]
pub struct PoolSnapshot {
    /// The pool.
    pub identity: PoolIdentity,
    /// Whether it answers.
    pub up: Option<bool>,
    /// The numbers of its users by state.
    pub users: Option<UserCounts>,
    /// The time at which its least recently polled user was polled or joined.
    pub oldest_poll: Option<UnixMillis>,
    /// The longest time that a user should go without a poll.
    pub objective: Option<Duration>,
    /// The forecast at the present budget.
    pub forecast: PollForecast,
    /// The time at which its users were last listed to the end.
    pub discovery: Option<UnixMillis>,
    /// Whether backlog or history is being worked off.
    pub catching_up: Option<bool>,
    /// The present budget of its account and region, in requests per second. Other pools may share it.
    pub budget_per_second: Option<f64>,
    /// The limit of its account and region, if the budget is a share of it.
    pub limit: Option<AccountLimit>,
    /// The number of live events: outcomes minus superseded outcomes.
    pub events: u64,
    /// The number of live events that threat protection acted on.
    pub risk_events: u64,
    /// The number of events from before their user was followed.
    pub history_events: u64,
    /// The live events of each event type that has any, by the present outcome, in the order of the API's words.
    pub event_types: Vec<EventTypeCounts>,
    /// The counters, for a comparison of two times.
    pub counts: PoolCounters,
}

/// The live events of one event type, by their present outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct EventTypeCounts {
    /// The EventType, in the words of the label `event_type`.
    pub event_type: &'static str,
    /// `Pass`.
    pub passed: u64,
    /// `Fail`.
    pub failed: u64,
    /// `InProgress`, also if the outcome was never seen.
    pub in_progress: u64,
    /// Events with another outcome, or without one.
    pub other: u64,
}

impl EventTypeCounts {
    /// The number of events of the type.
    pub fn events(&self) -> u64 {
        self.passed + self.failed + self.in_progress + self.other
    }
}

/// Counters of one pool and of its account and region. Each only grows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PoolCounters {
    /// Live outcomes `Pass`.
    pub passed: u64,
    /// Live outcomes `Fail`.
    pub failed: u64,
    /// Events that threat protection acted on.
    pub risk: u64,
    /// Calls for histories by all pools of the account and region.
    pub calls: u64,
    /// Throttled calls among them.
    pub throttled: u64,
    /// Live events by their delay: one number for each of [`DELAY_BOUNDS_SECS`], and one for longer delays.
    pub delays: [u64; DELAY_BOUNDS_SECS.len() + 1],
}

/// A snapshot of the exporter as a whole.
#[derive(Clone, PartialEq, Debug)]
pub struct ExporterSnapshot {
    /// The size of the outbox; None without a sink.
    pub outbox: Option<OutboxSize>,
    /// The size of the outbox at which polling pauses.
    pub outbox_limit_bytes: Option<u64>,
    /// The number of records in the quarantine.
    pub quarantined: Option<u64>,
    /// The reasons why work pauses, in the words of `cognito_exporter_paused`; empty if it does not pause.
    pub paused: Vec<&'static str>,
    /// The stages and the time at which each last finished work, or found none to do.
    pub progress: Vec<(&'static str, UnixMillis)>,
    /// The ledger's size on disk.
    pub state_size_bytes: Option<u64>,
    /// The number of times that a corrupt ledger was begun anew.
    pub state_rebuilds: u64,
    /// Whether the latest attempt to load the configuration succeeded.
    pub reload_successful: bool,
    /// The time of that attempt.
    pub reload_tried: UnixMillis,
    /// The share of the users that is followed.
    pub shard: Shard,
}

/// Counters of the work that was done, over all pools. Each only grows, except where a pool leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WorkCounters {
    /// Calls for histories.
    pub calls: u64,
    /// The throttled ones among them.
    pub throttled: u64,
    /// New events, history included, from polls and exports.
    pub new_events: u64,
    /// Records that the receiver accepted.
    pub delivered: u64,
}

impl WorkCounters {
    /// Returns the work since an earlier time.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            throttled: self.throttled.saturating_sub(earlier.throttled),
            new_events: self.new_events.saturating_sub(earlier.new_events),
            delivered: self.delivered.saturating_sub(earlier.delivered),
        }
    }
}

impl Metrics {
    /// Returns the counters of the work that was done.
    pub fn work_done(&self) -> WorkCounters {
        let pools = self.pools();
        let new_events = pools.iter().map(|pool| pool.events + pool.history_events).sum();
        let (mut all_calls, mut throttled) = (0, 0);
        for account in self.values.calls.lock().accounts.values_mut() {
            let outcomes = account.requests.of(Operation::AdminListUserAuthEvents);
            all_calls += outcomes.iter().map(|(_, count)| count).sum::<u64>();
            throttled += *outcomes.of(CallOutcome::Throttled);
        }
        let delivered = *self.exporter().otlp_records.of(RecordOutcome::Accepted);
        WorkCounters { calls: all_calls, throttled, new_events, delivered }
    }

    /// Returns a snapshot of every pool, in ascending order of their ids.
    pub fn pools(&self) -> Vec<PoolSnapshot> {
        let pools: Vec<_> = self.values.pools.lock().values().cloned().collect();
        let mut snapshots: Vec<PoolSnapshot> = pools.iter().map(|pool| snapshot(&pool.lock())).collect();
        let mut calls = self.values.calls.lock();
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

    /// Returns a snapshot of the exporter.
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
            reload_tried: exporter.reload_tried,
            shard: exporter.shard,
        }
    }
}

fn snapshot(pool: &PoolMetrics) -> PoolSnapshot {
    let (mut met, mut left, mut risk_events, mut history_events) = (0, 0, 0, 0);
    let (mut outcomes, mut superseded) = (BTreeMap::new(), BTreeMap::new());
    let mut counts = PoolCounters { delays: pool.delays(), ..PoolCounters::default() };
    // Most of the documented series never move.
    for (series, total) in pool.totals().filter(|(_, total)| *total > 0) {
        match series {
            Series::Events(outcome) => {
                met += total;
                *outcomes.entry((outcome.event_type, outcome.response)).or_insert(0) += total;
                match outcome.response.as_str() {
                    "Pass" => counts.passed += total,
                    "Fail" => counts.failed += total,
                    _ => {}
                }
            }
            Series::Superseded(outcome) => {
                left += total;
                *superseded.entry((outcome.event_type, outcome.response)).or_insert(0) += total;
            }
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
        event_types: event_types(&outcomes, &superseded),
        counts: PoolCounters { risk: risk_events, ..counts },
    }
}

/// Totals by event type and outcome.
type OutcomeTotals = BTreeMap<(Label<EventType>, Label<EventResponse>), u64>;

/// Computes the events of each type by their present outcome: those that reached it less those that left it.
fn event_types(reached: &OutcomeTotals, left: &OutcomeTotals) -> Vec<EventTypeCounts> {
    let mut types: BTreeMap<Label<EventType>, EventTypeCounts> = BTreeMap::new();
    for (outcome @ (event_type, response), total) in reached {
        let present = total.saturating_sub(left.get(outcome).copied().unwrap_or(0));
        let name = event_type.as_str();
        let counts = types.entry(*event_type).or_insert(EventTypeCounts {
            event_type: name,
            passed: 0,
            failed: 0,
            in_progress: 0,
            other: 0,
        });
        *match response {
            Label::Known(EventResponse::Pass) => &mut counts.passed,
            Label::Known(EventResponse::Fail) => &mut counts.failed,
            Label::Known(EventResponse::InProgress) => &mut counts.in_progress,
            _ => &mut counts.other,
        } += present;
    }
    types.into_values().filter(|counts| counts.events() > 0).collect()
}
