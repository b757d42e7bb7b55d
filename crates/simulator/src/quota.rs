//! The request-rate quotas of an account, as AWS counts them.
//!
//! Each account, region and category has one bucket. All pools share it, and so do the calls of other applications. The
//! time is an argument. <https://docs.aws.amazon.com/cognito/latest/developerguide/quotas.html>

use std::collections::BTreeMap;

use cognito_auth_core::event::UnixMillis;

/// A category of operations with a common limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Category {
    /// AdminListUserAuthEvents, and calls of applications that end users wait for.
    UserResourceRead,
    /// ListUsers and ListUsersInGroup.
    UserList,
    /// DescribeUserPool.
    UserPoolRead,
    /// GetProvisionedLimit.
    LimitManagement,
    /// FilterLogEvents of CloudWatch Logs, also for people and tools that search logs.
    LogFilter,
}

impl Category {
    /// All simulated categories.
    pub const ALL: [Self; 5] =
        [Self::UserResourceRead, Self::UserList, Self::UserPoolRead, Self::LimitManagement, Self::LogFilter];

    /// The category's name in GetProvisionedLimit, which knows Cognito's categories only.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserResourceRead => "UserResourceRead",
            Self::UserList => "UserList",
            Self::UserPoolRead => "UserPoolRead",
            Self::LimitManagement => "LimitManagement",
            Self::LogFilter => "FilterLogEvents",
        }
    }

    /// The documented default, in requests per second.
    pub fn documented_limit(self) -> u32 {
        match self {
            Self::UserResourceRead => 50,
            Self::UserList => 30,
            Self::UserPoolRead => 15,
            Self::LimitManagement => 1,
            Self::LogFilter => 5,
        }
    }
}

/// The limits, and the use of each.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    /// Requests per second. A category without an entry is unlimited.
    limits: BTreeMap<Category, u32>,
    /// The limit that GetProvisionedLimit reports, where it differs from `limits`.
    reported: BTreeMap<Category, i64>,
    /// Requests per second of other applications, in every account and region.
    others: BTreeMap<Category, f64>,
    buckets: BTreeMap<(String, String, Category), QuotaBucket>,
}

/// The longest past for which the calls of other applications are simulated, in milliseconds. A bucket is full again
/// after a second, so older calls make no difference.
const PLAYBACK_MS_MAX: i64 = 10_000;

/// A token bucket. Its capacity is the calls of one second, and it refills at the rate of the limit.
#[derive(Clone, Copy, Debug)]
struct QuotaBucket {
    left: f64,
    at_ms: f64,
    next_other_at_ms: f64,
    others_refused: u64,
}

impl QuotaBucket {
    fn full(limit: f64, now: UnixMillis) -> Self {
        Self { left: limit, at_ms: now.0 as f64, next_other_at_ms: now.0 as f64, others_refused: 0 }
    }

    fn refill(&mut self, limit: f64, now_ms: f64) {
        self.left = (self.left + limit * (now_ms - self.at_ms).max(0.0) / 1000.0).min(limit);
        self.at_ms = self.at_ms.max(now_ms);
    }

    fn take(&mut self) -> bool {
        // The tolerance makes many small refills add up to a whole call.
        let granted = self.left >= 1.0 - 1e-6;
        if granted {
            self.left -= 1.0;
        }
        granted
    }

    /// Takes the calls that other applications have made until `now_ms`, one by one.
    fn take_other_calls(&mut self, limit: f64, others: f64, now_ms: f64) {
        if others <= 0.0 {
            self.next_other_at_ms = now_ms;
            return;
        }
        self.next_other_at_ms = self.next_other_at_ms.max(now_ms - PLAYBACK_MS_MAX as f64);
        while self.next_other_at_ms <= now_ms {
            self.refill(limit, self.next_other_at_ms);
            if !self.take() {
                self.others_refused += 1;
            }
            self.next_other_at_ms += 1000.0 / others;
        }
    }
}

impl Quotas {
    /// The documented limits, without other applications.
    pub fn documented() -> Self {
        Self { limits: Category::ALL.map(|category| (category, category.documented_limit())).into(), ..Self::default() }
    }

    /// No limits.
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// A category's limit in requests per second. None is unlimited.
    pub fn limit(&self, category: Category) -> Option<u32> {
        self.limits.get(&category).copied()
    }

    /// Sets a category's limit, in requests per second, in every account. None is unlimited.
    pub fn set_limit(&mut self, category: Category, requests_per_second: Option<u32>) {
        match requests_per_second {
            Some(limit) => self.limits.insert(category, limit),
            None => self.limits.remove(&category),
        };
    }

    /// Sets the limit that GetProvisionedLimit reports. The enforced limit stays.
    pub fn report_limit(&mut self, category: Category, requests_per_second: i64) {
        self.reported.insert(category, requests_per_second);
    }

    /// The limit that GetProvisionedLimit reports. None for a category without a limit.
    pub fn reported_limit(&self, category: Category) -> Option<i64> {
        self.reported.get(&category).copied().or_else(|| self.limit(category).map(i64::from))
    }

    /// Sets the calls of other applications in a category, in requests per second. They are evenly spaced, and are
    /// refused when the bucket is empty.
    pub fn set_other_calls_per_second(&mut self, category: Category, requests_per_second: f64) {
        self.others.insert(category, requests_per_second.max(0.0));
    }

    /// The number of refused calls of other applications so far. This is the harm that an exporter can do.
    pub fn other_calls_refused(&self) -> u64 {
        self.buckets.values().map(|bucket| bucket.others_refused).sum()
    }

    /// Takes one call from its bucket. False means that the call is refused.
    pub fn take(&mut self, account_id: &str, region: &str, category: Category, now: UnixMillis) -> bool {
        let Some(limit) = self.limit(category).map(f64::from) else {
            return true;
        };
        let others = self.others.get(&category).copied().unwrap_or(0.0);
        let bucket = self
            .buckets
            .entry((account_id.to_owned(), region.to_owned(), category))
            .or_insert_with(|| QuotaBucket::full(limit, now));
        bucket.take_other_calls(limit, others, now.0 as f64);
        bucket.refill(limit, now.0 as f64);
        bucket.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of granted calls of `asked` calls per second, evenly spaced, for ten seconds.
    fn granted(quotas: &mut Quotas, account: &str, asked: i64) -> usize {
        (0..asked * 10)
            .filter(|call| {
                let now = UnixMillis(call * 1000 / asked);
                quotas.take(account, "eu-west-1", Category::UserResourceRead, now)
            })
            .count()
    }

    #[test]
    fn the_limit_is_never_in_the_way_of_those_who_keep_it() {
        assert_eq!(granted(&mut Quotas::documented(), "1", 50), 500);
    }

    #[test]
    fn whoever_exceeds_the_limit_gets_the_limit_and_one_burst() {
        let calls = granted(&mut Quotas::documented(), "1", 200);
        assert!((500..=550).contains(&calls), "{calls}");
    }

    #[test]
    fn accounts_do_not_share_a_bucket_and_pools_of_one_do() {
        let mut quotas = Quotas::documented();
        let now = UnixMillis(0);
        let mut take = |account: &str| quotas.take(account, "eu-west-1", Category::UserPoolRead, now);
        assert!((0..15).all(|_| take("1")));
        assert!(!take("1"));
        assert!(take("2"));
    }

    #[test]
    fn the_application_loses_calls_exactly_when_somebody_takes_its_share() {
        for (asked, harmful) in [(5, false), (50, true)] {
            let mut quotas = Quotas::documented();
            quotas.set_other_calls_per_second(Category::UserResourceRead, 45.0);
            let granted = granted(&mut quotas, "1", asked);
            assert_eq!(quotas.other_calls_refused() > 0, harmful, "{asked}/s, {granted} granted");
        }
    }

    #[test]
    fn a_clock_that_goes_back_refills_nothing() {
        let mut quotas = Quotas::documented();
        assert!((0..15).all(|_| quotas.take("1", "r", Category::UserPoolRead, UnixMillis(5000))));
        assert!(!quotas.take("1", "r", Category::UserPoolRead, UnixMillis(1000)));
        assert!(!quotas.take("1", "r", Category::UserPoolRead, UnixMillis(5000)));
    }
}
