//! The request-rate quotas of an account: one bucket per (account, region, category), shared by all pools and with the
//! application's own calls, as AWS counts them.
//!
//! Pure: the time is an argument. <https://docs.aws.amazon.com/cognito/latest/developerguide/quotas.html>

use std::collections::BTreeMap;

use cognito_auth_core::event::UnixMillis;

/// A category of operations that share one limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Category {
    /// AdminListUserAuthEvents, and calls that end users wait for.
    UserResourceRead,
    /// ListUsers and ListUsersInGroup.
    UserList,
    /// DescribeUserPool.
    UserPoolRead,
    /// GetProvisionedLimit.
    LimitManagement,
}

impl Category {
    /// Every category that is simulated.
    pub const ALL: [Self; 4] = [Self::UserResourceRead, Self::UserList, Self::UserPoolRead, Self::LimitManagement];

    /// The category's name in GetProvisionedLimit.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserResourceRead => "UserResourceRead",
            Self::UserList => "UserList",
            Self::UserPoolRead => "UserPoolRead",
            Self::LimitManagement => "LimitManagement",
        }
    }

    /// The documented default, in requests per second.
    pub fn documented_limit(self) -> u32 {
        match self {
            Self::UserResourceRead => 50,
            Self::UserList => 30,
            Self::UserPoolRead => 15,
            Self::LimitManagement => 1,
        }
    }
}

/// The limits and how far they are used.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    /// Requests per second; a category that is missing is unlimited.
    limits: BTreeMap<Category, u32>,
    /// What GetProvisionedLimit says of a category in place of its limit.
    reported: BTreeMap<Category, i64>,
    /// Requests per second that the application itself makes, in every account and region.
    others: BTreeMap<Category, f64>,
    buckets: BTreeMap<(String, String, Category), Bucket>,
}

/// How much of the past the application's calls are played back for, in milliseconds, when nobody asked for longer. A
/// bucket forgets within a second.
const PLAYBACK_MS_MAX: i64 = 10_000;

/// A second's worth of calls, refilled at the limit's rate.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at_ms: f64,
    next_other_at_ms: f64,
    others_refused: u64,
}

impl Bucket {
    fn full(limit: f64, now: UnixMillis) -> Self {
        Self { left: limit, at_ms: now.0 as f64, next_other_at_ms: now.0 as f64, others_refused: 0 }
    }

    fn refill(&mut self, limit: f64, now_ms: f64) {
        self.left = (self.left + limit * (now_ms - self.at_ms).max(0.0) / 1000.0).min(limit);
        self.at_ms = self.at_ms.max(now_ms);
    }

    fn take(&mut self) -> bool {
        // Many small refills must add up to a whole call.
        let granted = self.left >= 1.0 - 1e-6;
        if granted {
            self.left -= 1.0;
        }
        granted
    }

    /// Lets the application make the calls that fell due until `now_ms`, one by one.
    fn let_others_call(&mut self, limit: f64, others: f64, now_ms: f64) {
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
    /// The documented limits, with nobody else calling.
    pub fn documented() -> Self {
        Self { limits: Category::ALL.map(|category| (category, category.documented_limit())).into(), ..Self::default() }
    }

    /// No limits.
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// A category's limit in requests per second; None is unlimited.
    pub fn limit(&self, category: Category) -> Option<u32> {
        self.limits.get(&category).copied()
    }

    /// Changes a category's limit, in requests per second, in every account; None is unlimited.
    pub fn set_limit(&mut self, category: Category, requests_per_second: Option<u32>) {
        match requests_per_second {
            Some(limit) => self.limits.insert(category, limit),
            None => self.limits.remove(&category),
        };
    }

    /// Has GetProvisionedLimit say this of a category, whatever is enforced.
    pub fn report_limit(&mut self, category: Category, requests_per_second: i64) {
        self.reported.insert(category, requests_per_second);
    }

    /// What GetProvisionedLimit says of a category; None for one that has no limit.
    pub fn reported_limit(&self, category: Category) -> Option<i64> {
        self.reported.get(&category).copied().or_else(|| self.limit(category).map(i64::from))
    }

    /// Sets what the application itself calls in a category, in requests per second. It takes its calls as they come and
    /// is refused like anybody when the bucket is empty.
    pub fn set_other_calls_per_second(&mut self, category: Category, requests_per_second: f64) {
        self.others.insert(category, requests_per_second.max(0.0));
    }

    /// How many of the application's own calls were refused so far: the harm that an exporter can do.
    pub fn other_calls_refused(&self) -> u64 {
        self.buckets.values().map(|bucket| bucket.others_refused).sum()
    }

    /// Takes one call out of its bucket; false when the call is to be refused.
    pub fn take(&mut self, account_id: &str, region: &str, category: Category, now: UnixMillis) -> bool {
        let Some(limit) = self.limit(category).map(f64::from) else {
            return true;
        };
        let others = self.others.get(&category).copied().unwrap_or(0.0);
        let bucket = self
            .buckets
            .entry((account_id.to_owned(), region.to_owned(), category))
            .or_insert_with(|| Bucket::full(limit, now));
        bucket.let_others_call(limit, others, now.0 as f64);
        bucket.refill(limit, now.0 as f64);
        bucket.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls granted when `asked` per second are made, evenly, for ten seconds.
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
