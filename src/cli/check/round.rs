//! The notes of `check` about a budget: the time of a round over the users, and the mean delay of their events.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use cognito_auth_core::schedule::{Intervals, assumed_delay};
use cognito_auth_core::sizing::{Deployment, EventSource, fitting_max_interval};

use super::report::CheckReport;
use crate::config::{Audit, Config, PoolConfig};

/// Events of a user in a day, for the estimate of sizes: the assumption of docs/sizing.md. Without an export it changes
/// none of the figures.
const EVENTS_PER_USER_AND_DAY: f64 = 1.0;

/// The number of followed users, as far as known.
#[derive(Default, Clone, Copy)]
pub(super) struct Following {
    pub(super) users: u64,
    /// Whether a listing has an unknown number of users after its first page.
    pub(super) or_more: bool,
}

impl Following {
    pub(super) fn add(&mut self, other: Self) {
        self.users += other.users;
        self.or_more |= other.or_more;
    }
}

/// What following this many users takes, in one line: the row of docs/sizing.md for this configuration.
struct Sizing {
    users: u64,
    per_second: f64,
    intervals: Intervals,
}

impl Display for Sizing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const MIB: f64 = 1024.0 * 1024.0;
        let Self { users, per_second, intervals } = *self;
        let estimate = Deployment {
            users,
            source: EventSource::Polling,
            per_second,
            intervals,
            events_per_user_and_day: EVENTS_PER_USER_AND_DAY,
        }
        .estimate();
        write!(
            f,
            "about {:.0} MiB of memory and {:.1} GiB of disk; {:.1} million CloudTrail events a month, ${:.0} in each \
             trail but the first",
            estimate.memory_bytes / MIB,
            estimate.volume_bytes / MIB / 1024.0,
            estimate.trail_events_per_month() / 1e6,
            estimate.trail_dollars_per_month(),
        )?;
        let fitting = fitting_max_interval(users, per_second);
        if fitting > intervals.max {
            write!(f, "; a poll.max_interval of {} fits these users", humantime::format_duration(fitting))?;
        }
        Ok(())
    }
}

/// Notes the expected time of a round, the requests per second that `poll.max_interval` needs, and the mean delay with
/// this and longer maximum intervals.
pub(super) fn report_round(config: &Config, payer: &str, following: Following, limit: f64, report: &mut CheckReport) {
    let per_second = super::requests_per_second(config, limit);
    let Following { users, or_more } = following;
    let about = if or_more { "at least" } else { "about" };
    #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
    let calls = users as f64;
    let round = Duration::try_from_secs_f64((calls / per_second).ceil()).unwrap_or(Duration::MAX);
    let max_interval = config.poll.max_interval;
    let needed = (calls / max_interval.as_secs_f64() * 100.0).ceil() / 100.0;
    let what = format!("round of {payer}");
    report.note(
        &what,
        format_args!(
            "{about} {users} users take {} at {per_second} requests/s; a poll.max_interval of {} needs {needed} \
             requests/s",
            humantime::format_duration(round),
            humantime::format_duration(max_interval),
        ),
    );
    let is_spared = |pool: &PoolConfig| pool.export.as_ref().is_some_and(|export| export.audit != Audit::Full);
    if config.pools.iter().all(is_spared) {
        report.note(&what, "this is while the export is down; while it is up, polls audit a sample of the users");
    } else if needed > per_second {
        let remedy = "raise poll.requests_per_second or poll.max_interval, or follow fewer users";
        report.note(&what, format_args!("poll.max_interval cannot be kept: {remedy}"));
    }
    if !config.pools.iter().all(is_spared) {
        let intervals = Intervals { min: config.poll.min_interval, max: max_interval };
        report.note(format!("sizing of {payer}"), Sizing { users, per_second, intervals });
    }
    let delay = |max: Duration| {
        let delay = assumed_delay(users, per_second, Intervals { min: config.poll.min_interval, max })?;
        Some(humantime::format_duration(Duration::from_secs(delay.as_secs().max(1))))
    };
    let [twice, four_times] = [2, 4].map(|times| max_interval.saturating_mul(times));
    let (Some(now), Some(at_twice), Some(at_four_times)) = (delay(max_interval), delay(twice), delay(four_times))
    else {
        return;
    };
    report.note(
        format!("mean delay of {payer}"),
        format_args!(
            "about {now} if most users are quiet; with a poll.max_interval of {} about {at_twice}, with {} about \
             {at_four_times}",
            humantime::format_duration(twice),
            humantime::format_duration(four_times),
        ),
    );
}
