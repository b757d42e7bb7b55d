//! The metrics of one user pool: its durable totals and the reports of its stages.
//!
//! They are plain data behind one lock. A scrape sees all of a commit's totals or none, so events minus superseded
//! outcomes is right in every scrape. When a pool leaves, all its series are removed.

use std::time::Duration;

use cognito_auth_core::counters::Series;
use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::event::UnixMillis;
use prometheus::Histogram;
use prometheus::core::Metric as _;

use super::calls::UNKNOWN_ACCOUNT;
use super::export::ExportMetrics;
use super::family::{Counter, Distribution, Exposition, Family, Gauge};
use super::labels::{Fetched, LabelValue as _, PerLabel, UserState};
use super::totals::Totals;
use super::{PageEvents, PollForecast, UserCounts};
use crate::config::ZeroSeries;

const DELAY: Family<Distribution, 1> = Family::new(
    "cognito_auth_event_delay_seconds",
    "Time from an auth event's creation date to its first sight, live events.",
    ["user_pool_id"],
);
const FETCHED: Family<Counter, 2> = Family::new(
    "cognito_exporter_fetched_events_total",
    "Events in pages read, by what they turned out to be.",
    ["user_pool_id", "result"],
);
const LATE: Family<Counter, 1> = Family::new(
    "cognito_exporter_late_events_total",
    "Events taken behind the newest known event of their user.",
    ["user_pool_id"],
);
const CUT: Family<Counter, 1> = Family::new(
    "cognito_exporter_cut_events_total",
    "Events in pages read that held more than is exported of one: 16 challenges, and 64 KiB of each text.",
    ["user_pool_id"],
);
const ORDER_VIOLATIONS: Family<Counter, 1> = Family::new(
    "cognito_exporter_order_violations_total",
    "Pages whose events were not newest first.",
    ["user_pool_id"],
);
const UP: Family<Gauge, 1> = Family::new(
    "cognito_exporter_pool_up",
    "Whether the pool answers: 0 while the latest answer was an error of the pool or the caller, or nothing answers.",
    ["user_pool_id"],
);
const INFO: Family<Gauge, 4> = Family::new(
    "cognito_exporter_pool_info",
    "The pool's name, region and account.",
    ["user_pool_id", "user_pool_name", "region", "account_id"],
);
const USERS: Family<Gauge, 2> =
    Family::new("cognito_exporter_users", "Users followed, by state.", ["user_pool_id", "state"]);
const OLDEST_POLL: Family<Gauge, 1> = Family::new(
    "cognito_exporter_oldest_poll_timestamp_seconds",
    "When the least recently polled user was polled or first followed.",
    ["user_pool_id"],
);
const OBJECTIVE: Family<Gauge, 1> = Family::new(
    "cognito_exporter_poll_objective_seconds",
    "The longest time that a user should go without a poll (poll.max_interval).",
    ["user_pool_id"],
);
const ROUND: Family<Gauge, 1> = Family::new(
    "cognito_exporter_round_seconds_estimate",
    "Time to poll every user once at the present budget.",
    ["user_pool_id"],
);
const DELAY_ESTIMATE: Family<Gauge, 1> = Family::new(
    "cognito_exporter_event_delay_seconds_estimate",
    "Mean time from an event to its first sight to expect at the present budget.",
    ["user_pool_id"],
);
const REQUIRED: Family<Gauge, 1> = Family::new(
    "cognito_exporter_required_requests_per_second",
    "The part of the budget that it takes to poll every user once in poll.max_interval.",
    ["user_pool_id"],
);
const DISCOVERY: Family<Gauge, 1> = Family::new(
    "cognito_exporter_discovery_last_success_timestamp_seconds",
    "When the pool's users were last listed to the end.",
    ["user_pool_id"],
);
const MET: Family<Gauge, 1> = Family::new(
    "cognito_exporter_discovery_listed_users",
    "Users met in the present or latest round of listings.",
    ["user_pool_id"],
);
const DISCOVERY_DELAY: Family<Distribution, 1> = Family::new(
    "cognito_exporter_discovery_delay_seconds",
    "Time from a user's creation until it is followed, users created after their pool was first followed.",
    ["user_pool_id"],
);
const CATCHING_UP: Family<Gauge, 1> =
    Family::new("cognito_exporter_catching_up", "Whether backlog or history is being worked off.", ["user_pool_id"]);

/// Upper bounds of the delay buckets. A few seconds is the best case of an active user; a day follows an outage.
pub const DELAY_BOUNDS_SECS: [f64; 12] =
    [5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0];

/// The values of one pool's metrics. A gauge without a value is None and not shown.
pub(super) struct PoolMetrics {
    pub(super) identity: PoolIdentity,
    totals: Totals,
    delay: Histogram,
    fetched: PerLabel<Fetched, u64>,
    late: u64,
    pub(super) cut: u64,
    order_violations: u64,
    pub(super) up: Option<bool>,
    pub(super) users: Option<UserCounts>,
    pub(super) oldest_poll: Option<UnixMillis>,
    pub(super) objective: Option<Duration>,
    pub(super) forecast: PollForecast,
    pub(super) discovery: Option<UnixMillis>,
    pub(super) met: Option<u64>,
    discovery_delay: Histogram,
    pub(super) catching_up: Option<bool>,
    /// None without an export.
    pub(super) export: Option<ExportMetrics>,
}

impl PoolMetrics {
    pub(super) fn new(identity: PoolIdentity) -> Self {
        Self {
            identity,
            totals: Totals::new(),
            delay: Family::distribution(&DELAY_BOUNDS_SECS),
            fetched: PerLabel::new(|| 0),
            late: 0,
            cut: 0,
            order_violations: 0,
            up: None,
            users: None,
            oldest_poll: None,
            objective: None,
            forecast: PollForecast::default(),
            discovery: None,
            met: None,
            discovery_delay: Family::distribution(&DELAY_BOUNDS_SECS),
            catching_up: None,
            export: None,
        }
    }

    /// Raises the totals to these values. No total falls.
    pub(super) fn raise_totals(&mut self, totals: &[(Series, u64)]) {
        totals.iter().for_each(|(series, total)| self.totals.raise(*series, *total));
    }

    pub(super) fn totals(&self) -> impl Iterator<Item = (Series, u64)> {
        self.totals.iter()
    }

    pub(super) fn event_delay(&self, delay: Duration) {
        self.delay.observe(delay.as_secs_f64());
    }

    /// Returns the number of delays in each bucket, and above the last.
    pub(super) fn delays(&self) -> [u64; DELAY_BOUNDS_SECS.len() + 1] {
        let metric = self.delay.metric();
        let histogram = metric.get_histogram();
        let mut up_to = histogram.get_bucket().iter().map(|bucket| bucket.cumulative_count());
        let mut below = 0;
        std::array::from_fn(|_| {
            let count = up_to.next().unwrap_or(histogram.get_sample_count());
            count.saturating_sub(std::mem::replace(&mut below, count))
        })
    }

    pub(super) fn discovery_delay(&self, delay: Duration) {
        self.discovery_delay.observe(delay.as_secs_f64());
    }

    pub(super) fn page_taken(&mut self, events: PageEvents) {
        for (fetched, count) in [
            (Fetched::New, events.new),
            (Fetched::Revision, events.revisions),
            (Fetched::Known, events.known),
            (Fetched::History, events.history),
        ] {
            *self.fetched.of(fetched) += count;
        }
        self.late += events.late;
        self.order_violations += u64::from(events.out_of_order);
    }

    pub(super) fn put(&self, scrape: &mut Exposition, zero_series: ZeroSeries) {
        let id = self.identity.id.as_str();
        self.totals.put(scrape, id, zero_series);
        scrape.put(&DELAY, [id], &self.delay);
        for (result, count) in self.fetched.iter() {
            scrape.put(&FETCHED, [id, result], *count);
        }
        scrape.put(&LATE, [id], self.late);
        scrape.put(&CUT, [id], self.cut);
        scrape.put(&ORDER_VIOLATIONS, [id], self.order_violations);
        let account = self.identity.account_id.as_deref().unwrap_or(UNKNOWN_ACCOUNT);
        scrape.put(&INFO, [id, &self.identity.name, &self.identity.region, account], 1.0);
        scrape.put_known(&UP, [id], self.up.map(f64::from));
        if let Some(users) = self.users {
            for (state, count) in
                [(UserState::Failing, users.failing), (UserState::Missing, users.missing), (UserState::Ok, users.ok)]
            {
                scrape.put(&USERS, [id, state.as_str()], count as f64);
            }
        }
        scrape.put_known(&OLDEST_POLL, [id], self.oldest_poll.map(UnixMillis::as_secs_f64));
        scrape.put_known(&OBJECTIVE, [id], self.objective.as_ref().map(Duration::as_secs_f64));
        let PollForecast { round, event_delay, required_per_second } = &self.forecast;
        scrape.put_known(&ROUND, [id], round.as_ref().map(Duration::as_secs_f64));
        scrape.put_known(&DELAY_ESTIMATE, [id], event_delay.as_ref().map(Duration::as_secs_f64));
        scrape.put_known(&REQUIRED, [id], *required_per_second);
        scrape.put_known(&DISCOVERY, [id], self.discovery.map(UnixMillis::as_secs_f64));
        scrape.put_known(&MET, [id], self.met.map(|met| met as f64));
        scrape.put(&DISCOVERY_DELAY, [id], &self.discovery_delay);
        scrape.put_known(&CATCHING_UP, [id], self.catching_up.map(f64::from));
        if let Some(export) = &self.export {
            export.put(scrape, id);
        }
    }
}
