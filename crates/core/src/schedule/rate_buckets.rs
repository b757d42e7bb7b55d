//! Users by their rate of events. Each bucket has 1.4 times the rate of the one below it, and holds its longest unseen
//! user first.
//!
//! The worth of a poll changes every second, and differently for each user, so no queue could hold the users in that
//! order. But among users of one rate the longest unseen user is always worth most. So only the first user of each
//! bucket has to be compared.

use super::heap::Heap;
use super::pool_queue::{PoolAccess, PoolQueue};
use super::ticks::{Ticks, seconds};
use super::user::ScheduledUsers;
use super::{PoolSlot, UserSlot};

/// Users that wait for a poll, by rate.
#[derive(Debug)]
pub(super) struct RateBuckets(Vec<RateBucket>);

/// The waiting users of about one rate.
#[derive(Debug)]
struct RateBucket {
    /// √λ, with λ in events per second.
    root: f64,
    queue: PoolQueue<Heap>,
}

impl RateBuckets {
    /// The number of buckets. Each has √2 times the rate of the one below it. So a rate is rounded by at most 19 %,
    /// which costs less than half a percent of the optimum.
    pub(super) const BUCKETS: u8 = 48;

    /// The rate of the lowest bucket, in events per second: one event in 193 days. The highest rate is more than one in
    /// two seconds.
    const LOWEST: f64 = 6e-8;

    /// The bucket for a rate in events per second.
    pub(super) fn bucket(rate: f64) -> u8 {
        let bucket = (2.0 * (rate / Self::LOWEST).log2()).round().clamp(0.0, f64::from(Self::BUCKETS - 1));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the buckets")]
        let bucket = bucket as u8;
        bucket
    }

    /// √λ of a bucket, with λ in events per second.
    pub(super) fn root(bucket: u8) -> f64 {
        (Self::LOWEST * (f64::from(bucket) / 2.0).exp2()).sqrt()
    }

    /// Puts a user into a bucket.
    pub(super) fn put(
        &mut self,
        bucket: u8,
        user: (Ticks, PoolSlot, UserSlot),
        access: PoolAccess,
        users: &mut ScheduledUsers,
    ) {
        self.0[usize::from(bucket)].queue.put(user, access, users);
    }

    /// Removes a user from a bucket.
    pub(super) fn remove(
        &mut self,
        bucket: u8,
        user: (Ticks, PoolSlot, UserSlot),
        access: PoolAccess,
        users: &mut ScheduledUsers,
    ) {
        self.0[usize::from(bucket)].queue.remove(user, access, users);
    }

    /// Changes the access to a pool. One user of each bucket moves at most.
    pub(super) fn set_access(&mut self, pool: PoolSlot, change: (PoolAccess, PoolAccess), users: &ScheduledUsers) {
        self.0.iter_mut().for_each(|bucket| bucket.queue.set_access(pool, change, users));
    }

    /// Has all users of a pool that is not open count as seen at this time, if they were not seen since.
    pub(super) fn seen_until(&mut self, pool: PoolSlot, seen: Ticks) {
        self.0.iter_mut().for_each(|bucket| bucket.queue.raise_floor(pool, seen));
    }

    /// The user that is worth most, and its √λ·age with the age in seconds, which orders users as λ·age²/2 does. Users
    /// seen after `latest` are left out.
    pub(super) fn worthiest(&self, now: Ticks, latest: Ticks, users: &ScheduledUsers) -> Option<(UserSlot, f64)> {
        let firsts = self.0.iter().filter_map(|bucket| Some((bucket.root, bucket.queue.first(users)?)));
        firsts
            .filter(|(_, (polled, _))| *polled <= latest)
            .map(|(root, (polled, user))| (user, root * seconds(now - polled)))
            .max_by(|(_, one), (_, other)| one.total_cmp(other))
    }

    /// The user that was not seen for longest, and when it was seen.
    pub(super) fn oldest(&self, users: &ScheduledUsers) -> Option<(Ticks, UserSlot)> {
        self.0.iter().filter_map(|bucket| bucket.queue.first(users)).min()
    }

    /// When the user that was not seen for longest was seen.
    pub(super) fn oldest_seen(&self) -> Option<Ticks> {
        self.0.iter().filter_map(|bucket| bucket.queue.first_key()).min()
    }

    /// The number of users that would not be polled for their worth within `within` seconds, at this price.
    pub(super) fn sleepers(&self, price: f64, within: f64) -> usize {
        self.0.iter().filter(|bucket| bucket.root * within < price).map(|bucket| bucket.queue.len()).sum()
    }
}

impl Default for RateBuckets {
    fn default() -> Self {
        let buckets =
            (0..Self::BUCKETS).map(|bucket| RateBucket { root: Self::root(bucket), queue: PoolQueue::default() });
        Self(buckets.collect())
    }
}

/// The number of users of each bucket, waiting or not.
#[derive(Debug)]
pub(super) struct Census([u32; RateBuckets::BUCKETS as usize]);

impl Default for Census {
    fn default() -> Self {
        Self([0; RateBuckets::BUCKETS as usize])
    }
}

impl Census {
    pub(super) fn join(&mut self, bucket: u8) {
        self.0[usize::from(bucket)] += 1;
    }

    pub(super) fn leave(&mut self, bucket: u8) {
        self.0[usize::from(bucket)] -= 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(users, more)| *users += more);
    }

    pub(super) fn len(&self) -> f64 {
        self.0.iter().map(|users| f64::from(*users)).sum()
    }

    /// The number of users as an integer.
    pub(super) fn total(&self) -> usize {
        self.0.iter().map(|users| usize::try_from(*users).expect("a u32 fits in memory")).sum()
    }

    /// √λ of each bucket, and its number of users.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (f64, f64)> {
        (0..).zip(self.0).map(|(bucket, users)| (RateBuckets::root(bucket), f64::from(users)))
    }
}
