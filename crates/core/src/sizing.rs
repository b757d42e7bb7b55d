//! Estimates what a deployment takes: calls, delays, memory, volume and money.
//!
//! Pure. The delays are those of the schedule's own forecast. Each other figure is a measurement of docs/scale.md or a
//! price of docs/permissions-and-cost.md, with its place beside it. docs/sizing.md shows the results, and
//! `tests/sizing.rs` compares the page with this module.

use std::time::Duration;

use crate::budget::DEFAULT_READ_LIMIT;
use crate::schedule::{AssumedDelays, Intervals, assumed_delays};

/// Where the events of a deployment come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventSource {
    /// Polls alone.
    Polling,
    /// Cognito's own export, with polls of a sample (`export.audit = "sample"`).
    Both,
    /// Cognito's own export alone (`export.audit = "off"`).
    Export,
}

/// What to estimate for. All users of a pool are followed (`all_users`), and the other settings have their defaults.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Deployment {
    /// The number of followed users.
    pub users: u64,
    /// Where their events come from.
    pub source: EventSource,
    /// `poll.requests_per_second`. It has no effect on [`EventSource::Export`].
    pub per_second: f64,
    /// `poll.min_interval` and `poll.max_interval`.
    pub intervals: Intervals,
    /// The mean number of events of a user in a day.
    pub events_per_user_and_day: f64,
}

/// What a deployment takes. Months have 30 days.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Estimate {
    /// The calls to AdminListUserAuthEvents per second.
    pub polls_per_second: f64,
    /// The calls to ListUsers per second, on average.
    pub listings_per_second: f64,
    /// The time of one poll of each user; for [`EventSource::Both`] that of a cycle of the sample. None without polls.
    pub round: Option<Duration>,
    /// The mean delays of what polls find, if most users are quiet. None where the export tells the events, whose delay
    /// AWS does not document.
    pub delays: Option<AssumedDelays>,
    /// The memory of the process in bytes.
    pub memory_bytes: f64,
    /// The size of the state directory in bytes, with the outbox and the quarantine at their limits.
    pub volume_bytes: f64,
}

const MIB: f64 = 1024.0 * 1024.0;
const SECONDS_PER_DAY: f64 = 86_400.0;
const DAYS_PER_MONTH: f64 = 30.0;

/// The users of a page of ListUsers.
const USERS_PER_PAGE: f64 = 60.0;

/// `discovery.requests_per_second` and `discovery.interval`, the pause between two listings: their defaults.
const LISTING_PER_SECOND: f64 = 5.0;
const LISTING_PAUSE: Duration = Duration::from_mins(10);

/// The default of `export.audit_requests_per_second`.
const AUDIT_PER_SECOND: f64 = 0.2;

/// The time in which a sample is to come to each user. A told event stays in the ledger until a poll has shown it
/// (`told`), so a longer cycle takes a larger volume.
const AUDIT_CYCLE_MAX: Duration = Duration::from_hours(7 * 24);

/// The share of events that are in progress when the export tells them, so that a poll looks at them. The share of the
/// benchmark in docs/scheduling.md.
const LOOKS_PER_EVENT: f64 = 0.2;

/// The default of `export.replay`: how long told events are remembered at least.
const REPLAY: Duration = Duration::from_hours(26);

/// The defaults of `state.outbox_limit` and `state.quarantine_limit`.
const QUEUES_BYTES: f64 = (1024.0 + 100.0) * MIB;

/// The pages of the binary (docs/sizing.md: 14 to 19 MiB).
const BINARY_BYTES: f64 = 19.0 * MIB;

/// A measurement that grows with the number of users: bytes at 10,000 users, and bytes for each further user up to
/// 100,000 and beyond. The largest of the three runs in docs/scale.md.
struct Growth {
    at_10_000: f64,
    to_100_000: f64,
    beyond: f64,
}

/// Anonymous memory, after listing or after a warm start.
const MEMORY: Growth = Growth { at_10_000: 32.5 * MIB, to_100_000: 535.0, beyond: 287.0 };

/// The ledger on disk.
const LEDGER: Growth = Growth { at_10_000: 6.0 * MIB, to_100_000: 430.0, beyond: 338.0 };

impl Growth {
    fn at(&self, users: f64) -> f64 {
        let first = (users - 10_000.0).clamp(0.0, 90_000.0);
        let further = (users - 100_000.0).max(0.0);
        self.at_10_000 + first * self.to_100_000 + further * self.beyond
    }
}

/// Resident memory of an export alone: at no events, and for each remembered event. From the last two rows of 20
/// million events a day in docs/scale.md.
const TOLD_MEMORY_AT_NONE: f64 = 117.0 * MIB;
const TOLD_MEMORY_PER_EVENT: f64 = 19.35;

/// The ledger for each remembered event, where the events also go through the outbox (docs/scale.md).
const TOLD_LEDGER_PER_EVENT: f64 = 545.0;

/// The price of 100,000 management events in each trail but the first, in dollars (docs/permissions-and-cost.md).
const TRAIL_DOLLARS_PER_100_000: f64 = 2.0;

/// The price of one request per second above the account's default limit, in dollars a month
/// (docs/choosing-a-source.md).
const QUOTA_DOLLARS_PER_REQUEST: f64 = 20.0;

/// The default of `poll.max_interval`.
const MAX_INTERVAL: Duration = Duration::from_hours(1);

/// The largest value of `poll.max_interval`.
const MAX_INTERVAL_MOST: Duration = Duration::from_hours(30 * 24);

/// The default suffices while this many rounds fit into it. Then a longer interval shortens the mean delay by less than
/// a fifth.
const ROUNDS_IN_DEFAULT: f64 = 1.5;

/// The number of rounds that a longer interval has. Then the polls of quiet users take half of the budget. The schedule
/// keeps this interval by itself where the configured one is out of reach (docs/scheduling.md, *The kept interval*).
const ROUNDS: f64 = 2.0;

/// Returns the `poll.max_interval` that fits this number of users and this budget, in whole hours.
pub fn fitting_max_interval(users: u64, per_second: f64) -> Duration {
    let round = real(users) / per_second;
    if round * ROUNDS_IN_DEFAULT <= MAX_INTERVAL.as_secs_f64() {
        return MAX_INTERVAL;
    }
    let hours = (round * ROUNDS / 3600.0).ceil();
    seconds(hours * 3600.0).clamp(MAX_INTERVAL, MAX_INTERVAL_MOST)
}

/// Returns the budget with which a round takes no longer than `interval`, in calls per second.
pub fn budget_for(users: u64, interval: Duration) -> f64 {
    real(users) / interval.as_secs_f64()
}

/// Returns the price of a quota that allows this many calls per second, in dollars a month. The calls of the
/// application come on top.
pub fn quota_dollars_per_month(per_second: f64) -> f64 {
    (per_second - DEFAULT_READ_LIMIT).max(0.0) * QUOTA_DOLLARS_PER_REQUEST
}

/// Returns the `export.audit_requests_per_second` with which a sample comes to each user within a week, at least the
/// default.
pub fn fitting_audit_per_second(users: u64) -> f64 {
    budget_for(users, AUDIT_CYCLE_MAX).max(AUDIT_PER_SECOND)
}

impl Deployment {
    /// Estimates what the deployment takes.
    pub fn estimate(&self) -> Estimate {
        let users = real(self.users);
        let events_per_second = users * self.events_per_user_and_day / SECONDS_PER_DAY;
        let audits = fitting_audit_per_second(self.users);
        let polls_per_second = match self.source {
            EventSource::Polling => self.per_second.min(users / self.intervals.min.as_secs_f64()),
            EventSource::Both => (audits + events_per_second * LOOKS_PER_EVENT).min(self.per_second),
            EventSource::Export => 0.0,
        };
        let round = match self.source {
            EventSource::Polling => Some(users / self.per_second),
            EventSource::Both => Some(users / audits),
            EventSource::Export => None,
        };
        // A told event waits for its user's turn in the sample, which is half a cycle away on average.
        let remembered_seconds = match self.source {
            EventSource::Polling => 0.0,
            EventSource::Both => REPLAY.as_secs_f64() + round.unwrap_or_default() / 2.0,
            EventSource::Export => REPLAY.as_secs_f64(),
        };
        let told = events_per_second * remembered_seconds;
        let (memory, ledger) = match self.source {
            EventSource::Export => (TOLD_MEMORY_AT_NONE, 0.0),
            _ => (MEMORY.at(users) + BINARY_BYTES, LEDGER.at(users)),
        };
        Estimate {
            polls_per_second,
            listings_per_second: if self.source == EventSource::Export { 0.0 } else { listings(users) },
            round: round.map(seconds),
            delays: match self.source {
                EventSource::Polling => assumed_delays(self.users, self.per_second, self.intervals),
                EventSource::Both | EventSource::Export => None,
            },
            memory_bytes: memory + told * TOLD_MEMORY_PER_EVENT,
            volume_bytes: ledger + told * TOLD_LEDGER_PER_EVENT + QUEUES_BYTES,
        }
    }
}

impl Estimate {
    /// Returns the management events that CloudTrail records in a month: every call to Cognito.
    pub fn trail_events_per_month(&self) -> f64 {
        (self.polls_per_second + self.listings_per_second) * SECONDS_PER_DAY * DAYS_PER_MONTH
    }

    /// Returns the price of these events in each trail but the first, in dollars a month.
    pub fn trail_dollars_per_month(&self) -> f64 {
        self.trail_events_per_month() / 100_000.0 * TRAIL_DOLLARS_PER_100_000
    }
}

/// The calls to ListUsers per second: a listing, and a pause.
fn listings(users: f64) -> f64 {
    let pages = (users / USERS_PER_PAGE).ceil();
    pages / (pages / LISTING_PER_SECOND + LISTING_PAUSE.as_secs_f64())
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn real(users: u64) -> f64 {
    users as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(users: u64, source: EventSource, per_second: f64) -> Deployment {
        let intervals = Intervals { min: Duration::from_secs(15), max: fitting_max_interval(users, per_second) };
        Deployment { users, source, per_second, intervals, events_per_user_and_day: 2.0 }
    }

    fn mib(bytes: f64) -> f64 {
        bytes / MIB
    }

    #[test]
    fn an_hour_fits_few_users_and_two_rounds_fit_many() {
        let hours = |users, per_second| fitting_max_interval(users, per_second).as_secs_f64() / 3600.0;
        for (users, per_second, expected) in [
            (0, 5.0, 1.0),
            (1000, 5.0, 1.0),
            (12_000, 5.0, 1.0),
            (12_001, 5.0, 2.0),
            (100_000, 10.0, 6.0),
            (200_000, 5.0, 23.0),
            (200_000, 10.0, 12.0),
            (200_000, 25.0, 5.0),
            (1_000_000, 25.0, 23.0),
            (u64::MAX, 0.1, 720.0),
        ] {
            assert!((hours(users, per_second) - expected).abs() < 1e-9, "{users} at {per_second}");
        }
    }

    /// The reasons for the two factors.
    #[test]
    fn a_longer_interval_than_fits_gains_little() {
        let delay = |users, hours: f64| {
            let intervals = Intervals { min: Duration::from_secs(15), max: seconds(hours * 3600.0) };
            assumed_delays(users, 5.0, intervals).unwrap().of_events.as_secs_f64()
        };
        // A round of 12,000 users takes 40 minutes, and one of 180,000 ten hours.
        assert!(delay(12_000, 4.0 / 3.0) > delay(12_000, 1.0) * 0.8);
        assert!(delay(180_000, 20.0) < delay(180_000, 10.0) * 0.4, "half of the round's interval is too short");
        assert!(delay(180_000, 30.0) > delay(180_000, 20.0) * 0.85);
        // What is out of reach is two rounds anyway.
        assert!((delay(180_000, 1.0) / delay(180_000, 20.0) - 1.0).abs() < 0.001);
    }

    /// The figures of docs/scale.md.
    #[test]
    fn memory_and_volume_are_what_was_measured() {
        for (users, memory, ledger) in [(10_000, 32.5, 6.0), (100_000, 74.8, 42.9), (1_000_000, 300.7, 332.7)] {
            let found = deployment(users, EventSource::Polling, 5.0).estimate();
            let (anonymous, stored) = (mib(found.memory_bytes - BINARY_BYTES), mib(found.volume_bytes - QUEUES_BYTES));
            assert!((1.0..1.1).contains(&(anonymous / memory)), "{users}: {anonymous} MiB");
            assert!((0.99..1.01).contains(&(stored / ledger)), "{users}: {stored} MiB");
        }
        // 20 million events a day.
        let found = deployment(10_000_000, EventSource::Export, 5.0).estimate();
        assert!((510.0..530.0).contains(&mib(found.memory_bytes)), "{}", mib(found.memory_bytes));
        let ledger = mib(found.volume_bytes - QUEUES_BYTES) / 1024.0;
        assert!((10.9..11.1).contains(&ledger), "{ledger} GiB");
    }

    #[test]
    fn few_users_are_polled_no_more_often_than_min_interval() {
        let found = deployment(30, EventSource::Polling, 5.0).estimate();
        assert!((found.polls_per_second - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_sample_takes_a_week_at_most_and_the_budget_bounds_its_looks() {
        let cycle = |users| deployment(users, EventSource::Both, 25.0).estimate().round.unwrap().as_secs() / 3600;
        assert_eq!([10_000, 100_000, 1_000_000].map(cycle), [13, 138, 168]);
        let polls = |users| deployment(users, EventSource::Both, 25.0).estimate().polls_per_second;
        // 2.3 events/s, a fifth of which need a look.
        assert!((polls(100_000) - 0.663).abs() < 0.001, "{}", polls(100_000));
        assert!((polls(10_000_000) - 25.0).abs() < 1e-9);
    }

    #[test]
    fn an_export_alone_makes_no_call_to_cognito() {
        let found = deployment(1_000_000, EventSource::Export, 5.0).estimate();
        assert!(found.trail_events_per_month().abs() < 1e-9 && found.round.is_none() && found.delays.is_none());
    }

    #[test]
    fn trails_and_quotas_have_the_documented_prices() {
        // 10 calls/s are 864,000 events a day.
        let found = Estimate {
            polls_per_second: 10.0,
            listings_per_second: 0.0,
            ..deployment(1, EventSource::Export, 5.0).estimate()
        };
        assert!((found.trail_events_per_month() - 30.0 * 864_000.0).abs() < 1.0);
        assert!((found.trail_dollars_per_month() - 518.4).abs() < 0.1);
        assert_eq!([40.0, 50.0, 51.0, 100.0].map(quota_dollars_per_month), [0.0, 0.0, 20.0, 1000.0]);
        assert!((budget_for(200_000, Duration::from_hours(1)) - 55.56).abs() < 0.01);
    }

    #[test]
    fn a_listing_of_many_users_takes_the_whole_rate_of_listings() {
        assert!((listings(1000.0) - 17.0 / 603.4).abs() < 1e-9);
        assert!((4.9..5.0).contains(&listings(1e8)));
    }
}
