//! The running pollers, one for each account and region. The first pool that is ready starts its poller.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cognito_auth_core::budget::DEFAULT_READ_LIMIT;
use cognito_auth_core::entry::PoolIdentity;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::config::{Config, PoolConfig, Rate};
use crate::export::log_group;
use crate::poller::PollerMessage;
use crate::rate_limiter::RateLimiter;

/// Messages that may wait for a poller. One message has hundreds of users, so a few messages are enough.
const MESSAGES_MAX: usize = 64;

/// The quota that a call counts in: an account's in a region. While the account is not known, pools with the same
/// credentials share one budget, which is never above their quota.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct QuotaGroupKey {
    payer: Payer,
    region: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Payer {
    Account(String),
    Profile(Option<String>),
}

impl QuotaGroupKey {
    pub(super) fn of(identity: &PoolIdentity, config: &PoolConfig) -> Self {
        let payer = match &identity.account_id {
            Some(account) => Payer::Account(account.clone()),
            None => Payer::Profile(config.profile.clone()),
        };
        Self { payer, region: identity.region.clone() }
    }
}

/// The poller and the budgets of one account and region.
pub(super) struct QuotaGroup<S> {
    pub(super) poller: mpsc::Sender<PollerMessage<S>>,
    /// The budget for AdminListUserAuthEvents.
    pub(super) reads: RateLimiter,
    /// The budget for listings.
    pub(super) lists: RateLimiter,
    /// Whether a watch keeps the first budget at its share of the account's limit.
    is_watched: Arc<AtomicBool>,
}

impl<S> QuotaGroup<S> {
    /// Returns whether the account's limit is not yet watched, and marks it as watched.
    pub(super) fn begin_watch(&self) -> bool {
        !self.is_watched.swap(true, Ordering::Relaxed)
    }
}

impl<S> Clone for QuotaGroup<S> {
    fn clone(&self) -> Self {
        Self {
            poller: self.poller.clone(),
            reads: self.reads.clone(),
            lists: self.lists.clone(),
            is_watched: self.is_watched.clone(),
        }
    }
}

/// The budgets of every quota. They outlive the pollers, because calls that were made and throttles that were met count
/// for the next poller, too. Clones share them.
#[derive(Clone)]
pub(super) struct RateLimiters(Arc<Mutex<Budgets>>);

struct Budgets {
    rates: CallRates,
    rate_limiters: HashMap<QuotaGroupKey, GroupLimiters>,
}

/// Calls per second of one quota group.
#[derive(Clone, Copy, PartialEq, Debug)]
struct CallRates {
    /// AdminListUserAuthEvents.
    reads: f64,
    /// Listings.
    lists: f64,
    /// FilterLogEvents.
    logs: f64,
}

/// The rate limiters of one quota group.
#[derive(Clone)]
struct GroupLimiters {
    reads: RateLimiter,
    lists: RateLimiter,
    logs: RateLimiter,
}

impl RateLimiters {
    pub(super) fn new(config: &Config) -> Self {
        Self(Arc::new(Mutex::new(Budgets { rates: rates(config), rate_limiters: HashMap::new() })))
    }

    /// Changes all budgets from the next call on, where the configuration differs. While the share of the account's
    /// limit stays the same, the limit that AWS last gave stays, too.
    pub(super) fn change(&self, before: &Config, after: &Config) {
        let mut budgets = self.0.lock();
        budgets.rates = rates(after);
        let rates = budgets.rates;
        for limiters in budgets.rate_limiters.values() {
            if before.poll.requests_per_second != after.poll.requests_per_second {
                limiters.reads.set_limit(rates.reads);
            }
            limiters.lists.set_limit(rates.lists);
        }
    }

    fn of(&self, key: &QuotaGroupKey) -> GroupLimiters {
        let mut budgets = self.0.lock();
        let CallRates { reads, lists, logs } = budgets.rates;
        let new = || GroupLimiters {
            reads: RateLimiter::new(reads),
            lists: RateLimiter::new(lists),
            logs: RateLimiter::new(logs),
        };
        budgets.rate_limiters.entry(key.clone()).or_insert_with(new).clone()
    }
}

/// Calls per second for histories, listings and log groups. The rates are for the whole deployment, and an instance has
/// its shard's part of them.
fn rates(config: &Config) -> CallRates {
    let reads_per_second = match config.poll.requests_per_second {
        Rate::PerSecond(rate) => rate,
        // Until AWS says what the limit is.
        Rate::ShareOfLimit(share) => share * DEFAULT_READ_LIMIT,
    };
    let [reads, lists, logs] = [reads_per_second, config.discovery.requests_per_second, log_group::CALLS_PER_SECOND]
        .map(|rate| config.shard.part_of(rate));
    CallRates { reads, lists, logs }
}

/// The quota groups in use.
pub(super) struct QuotaGroups<S> {
    rate_limiters: RateLimiters,
    groups: Mutex<HashMap<QuotaGroupKey, QuotaGroup<S>>>,
}

impl<S> QuotaGroups<S> {
    pub(super) fn new(rate_limiters: RateLimiters) -> Arc<Self> {
        Arc::new(Self { rate_limiters, groups: Mutex::default() })
    }

    /// The rate limiter for reading log groups. It needs no poller, because a pool may have an export alone.
    pub(super) fn log_reads(&self, key: &QuotaGroupKey) -> RateLimiter {
        self.rate_limiters.of(key).logs
    }

    /// The group of an account and region; `begin` starts its poller if it is the first time.
    pub(super) fn group(
        &self,
        key: QuotaGroupKey,
        begin: impl FnOnce(RateLimiter, mpsc::Receiver<PollerMessage<S>>),
    ) -> QuotaGroup<S> {
        let GroupLimiters { reads, lists, .. } = self.rate_limiters.of(&key);
        let mut groups = self.groups.lock();
        groups
            .entry(key)
            .or_insert_with(|| {
                let (poller, messages) = mpsc::channel(MESSAGES_MAX);
                begin(reads.clone(), messages);
                QuotaGroup { poller, reads, lists, is_watched: Arc::default() }
            })
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cognito_auth_core::shard::Shard;
    use tokio::time::Instant;

    use super::*;
    use crate::source::cognito::Cognito;

    fn config(shard: Shard) -> Config {
        Config { shard, ..Config::for_pools(vec![]) }
    }

    fn identity(account: Option<&str>, pool: &PoolConfig) -> PoolIdentity {
        PoolIdentity {
            id: pool.id.clone(),
            name: pool.name.clone(),
            region: pool.region.clone(),
            account_id: account.map(str::to_owned),
        }
    }

    fn group(groups: &QuotaGroups<Cognito>, account: Option<&str>, pool: &PoolConfig) -> QuotaGroup<Cognito> {
        groups.group(QuotaGroupKey::of(&identity(account, pool), pool), |_, _| {})
    }

    #[tokio::test(start_paused = true)]
    async fn pools_of_one_account_and_region_share_one_budget_and_nobody_else_does() {
        let groups = QuotaGroups::new(RateLimiters::new(&config(Shard::WHOLE)));
        let [one, two, elsewhere] = ["eu-west-1_A", "eu-west-1_B", "eu-west-2_C"].map(PoolConfig::new);
        let profile = PoolConfig { profile: Some("audit".into()), ..PoolConfig::new("eu-west-1_D") };
        let known = [(Some("1"), &one), (Some("2"), &one), (Some("1"), &elsewhere), (None, &one), (None, &profile)];
        let others = known.map(|(account, pool)| group(&groups, account, pool));
        let [first, ..] = &others;
        let second = group(&groups, Some("1"), &two);
        assert!(first.begin_watch() && !second.begin_watch(), "one of them asks for the limit");
        let ten = [first, &second].repeat(5);
        let began = Instant::now();
        for group in ten {
            group.reads.acquire().await;
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(1700), "ten calls at 5/s over both pools, one after the other: {took:?}");
        assert!(others[1..].iter().all(|other| other.reads.next_at() <= Instant::now() && other.begin_watch()));
        let log_reads =
            known.map(|(account, pool)| groups.log_reads(&QuotaGroupKey::of(&identity(account, pool), pool)));
        let began = Instant::now();
        let second = groups.log_reads(&QuotaGroupKey::of(&identity(Some("1"), &two), &two));
        for rate_limiter in [&log_reads[0], &second, &log_reads[0]] {
            rate_limiter.acquire().await;
        }
        assert!(began.elapsed() >= Duration::from_millis(1900), "three reads of log groups at 1/s over both pools");
        assert!(log_reads[1..].iter().all(|other| other.next_at() <= Instant::now()));
    }

    #[test]
    fn a_shard_has_its_part_of_every_rate() {
        let mut config = config(Shard::new(1, 4).unwrap());
        assert_eq!(rates(&config), CallRates { reads: 1.25, lists: 1.25, logs: 0.25 });
        config.poll.requests_per_second = Rate::ShareOfLimit(0.2);
        assert_eq!(
            rates(&config),
            CallRates { reads: 2.5, lists: 1.25, logs: 0.25 },
            "of the documented limit, until AWS has said what it is"
        );
    }
}
