//! The share of the users that an instance polls, and the shares that a ledger had before.
//!
//! Pure. Every instance lists all users and keeps those that the jump consistent hash gives it (Lamping and Veach, "A
//! Fast, Minimal Memory, Consistent Hash Algorithm", 2014, <https://arxiv.org/abs/1406.2294>). The shares are even.
//! When the count grows from m to n, m/n of the users stay where they were, and the others move to the new shards. No
//! user moves between old shards. The key is a SHA-256 of pool and username, so it is the same in every build and on
//! every machine.
//!
//! A shard knows nothing about the others. When the count changes, it needs only the shares that its own ledger had
//! ([`Shares`]). They tell for every user since when that user has been in this ledger's share without a break.
//!
//! ```text
//!   ledger of shard 1     of 3         of 2         of 3
//!   user a                ours -------------------------->   always ours: its cursor goes on
//!   user b                ours         others'      ours ->   since the last change: its stored cursor is stale
//!   user c                others'      ours ------------->   since the first change: another shard had it before
//! ```

use sha2::{Digest as _, Sha256};

use crate::event::UnixMillis;

/// The largest number of shards. At this number a shard of the default budget makes one call in three minutes.
pub const COUNT_MAX: u32 = 1000;

/// The number of changes of a ledger's share that are remembered. A user that was in another share only before these
/// counts as never moved. By then its stored cursor is forgotten (`discovery.forget_after`).
const REMEMBERED_MAX: usize = 32;

/// One share of the users: `index` of `count`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// The share of a single instance: all users.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Makes share `index` of `count`; None unless `index` is below `count`, and `count` is at most [`COUNT_MAX`].
    pub fn new(index: u32, count: u32) -> Option<Self> {
        (index < count && count <= COUNT_MAX).then_some(Self { index, count })
    }

    /// The share's number, from 0 to `count` - 1.
    pub fn index(self) -> u32 {
        self.index
    }

    /// The number of shares, from 1 to [`COUNT_MAX`].
    pub fn count(self) -> u32 {
        self.count
    }

    /// Whether the share holds all users.
    pub fn is_whole(self) -> bool {
        self.count == 1
    }

    /// Whether a user is in the share.
    pub fn holds(self, pool_id: &str, username: &str) -> bool {
        self.is_whole() || self.holds_key(key(pool_id, username))
    }

    fn holds_key(self, key: u64) -> bool {
        jump(key, self.count) == self.index
    }

    /// The share's part of a rate for the whole deployment, in the same unit.
    pub fn part_of(self, per_second: f64) -> f64 {
        per_second / f64::from(self.count)
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.index, self.count)
    }
}

/// The number at the end of a StatefulSet pod's name, such as 2 of `exporter-2`: digits behind the last hyphen, without
/// leading zeros. None for any other name.
pub fn index_in(pod_name: &str) -> Option<u32> {
    let (name, ordinal) = pod_name.rsplit_once('-')?;
    let is_canonical = ordinal == "0" || !ordinal.starts_with('0');
    let is_number = ordinal.bytes().all(|byte| byte.is_ascii_digit());
    if name.is_empty() || !is_canonical || !is_number { None } else { ordinal.parse().ok() }
}

/// The key of a user. A pool id contains no zero byte, so no two users hash the same text.
fn key(pool_id: &str, username: &str) -> u64 {
    let digest = Sha256::new().chain_update(pool_id).chain_update([0]).chain_update(username).finalize();
    digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// The paper's function, word for word. As the count grows, the key jumps from share to share; the answer is the last
/// one below `count`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "31 bits of the key in a float, and a bucket that is compared with the count before it is used"
)]
fn jump(mut key: u64, count: u32) -> u32 {
    let (mut bucket, mut next) = (0, 0);
    while next < u64::from(count) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1_u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as u64;
    }
    bucket as u32
}

/// The shares that a ledger had of a pool, the present one last, each with the time of the process start that began it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shares(Vec<(Shard, UnixMillis)>);

impl Shares {
    /// Begins with the share of a pool that is followed from `since` on.
    pub fn begun(shard: Shard, since: UnixMillis) -> Self {
        Self(vec![(shard, since)])
    }

    /// Restores the stored shares; None if there are none.
    pub fn remembered(shares: Vec<(Shard, UnixMillis)>) -> Option<Self> {
        (!shares.is_empty()).then_some(Self(shares))
    }

    /// The shares to store, oldest first.
    pub fn as_slice(&self) -> &[(Shard, UnixMillis)] {
        &self.0
    }

    /// Accounts for the share at a process start. Answers whether it differs from the latest one.
    pub fn go_on_with(&mut self, shard: Shard, now: UnixMillis) -> bool {
        let Some(&(latest, since)) = self.0.last() else { return false };
        if latest == shard {
            return false;
        }
        if self.0.len() == REMEMBERED_MAX {
            self.0.remove(0);
        }
        // A clock that went back must not put the change before the one that it follows.
        self.0.push((shard, now.max(since)));
        true
    }

    /// The time of the change since which a user has been in this ledger's share without a break. None if it has been
    /// there for as long as the ledger remembers.
    pub fn moved_in(&self, pool_id: &str, username: &str) -> Option<UnixMillis> {
        if let [(shard, since)] = self.0.as_slice() {
            return (!shard.holds(pool_id, username)).then_some(*since);
        }
        let key = key(pool_id, username);
        let earlier = self.0.iter().rposition(|(shard, _)| !shard.holds_key(key))?;
        // For a user who is not in the present share either, the latest change counts.
        self.0.get(earlier + 1).or(self.0.last()).map(|(_, since)| *since)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POOL: &str = "eu-west-1_Shards";

    fn home(username: &str, count: u32) -> u32 {
        let holding: Vec<_> =
            (0..count).filter(|index| Shard::new(*index, count).unwrap().holds(POOL, username)).collect();
        assert_eq!(holding.len(), 1, "{username} is in one share of {count}: {holding:?}");
        holding[0]
    }

    #[test]
    fn a_users_share_is_the_same_in_every_build() {
        let homes = ["ann", "ben", "cat", "dan", "eve", "zoë"].map(|name| [2, 3, 10].map(|count| home(name, count)));
        let relied_on = [[0, 2, 4], [1, 1, 6], [1, 2, 7], [1, 1, 1], [0, 0, 9], [1, 2, 6]];
        assert_eq!(homes, relied_on, "ledgers and running deployments rely on these: never change them");
    }

    #[test]
    fn the_same_name_in_another_pool_is_another_user() {
        let shard = Shard::new(0, 2).unwrap();
        let pools: Vec<_> = (0..64).map(|pool| shard.holds(&format!("eu-west-1_{pool}"), "ann")).collect();
        assert!(pools.contains(&true) && pools.contains(&false));
    }

    #[test]
    fn a_pods_name_ends_in_its_number() {
        for (name, index) in [
            ("exporter-0", Some(0)),
            ("cognito-auth-exporter-12", Some(12)),
            ("exporter", None),
            ("exporter-", None),
            ("-1", None),
            ("exporter-01", None),
            ("exporter-+1", None),
            ("exporter-7d4b9c-x2x1z", None),
            ("exporter-99999999999", None),
            ("exporter-1.example", None),
        ] {
            assert_eq!(index_in(name), index, "{name}");
        }
    }

    #[test]
    fn a_share_is_one_of_those_there_are() {
        assert_eq!(Shard::new(0, 1), Some(Shard::WHOLE));
        assert_eq!(Shard::new(0, 0).or(Shard::new(2, 2)).or(Shard::new(0, COUNT_MAX + 1)), None);
        assert!((Shard::new(1, 4).unwrap().part_of(5.0) - 1.25).abs() < 1e-12);
    }

    #[test]
    fn a_user_is_this_ledgers_since_the_latest_change_that_gave_it_back() {
        let name = (0..).map(|number| format!("user-{number}")).find(|name| home(name, 2) == 0 && home(name, 3) == 2);
        let moving = name.unwrap();
        let stays = (0..).map(|number| format!("user-{number}")).find(|name| home(name, 3) == 0).unwrap();
        let share = |index, count| Shard::new(index, count).unwrap();
        let mut shares = Shares::begun(share(0, 2), UnixMillis(10));
        assert_eq!(shares.moved_in(POOL, &moving), None);
        assert!(!shares.go_on_with(share(0, 2), UnixMillis(15)), "a restart is no change");
        assert!(shares.go_on_with(share(0, 3), UnixMillis(20)));
        assert_eq!(shares.moved_in(POOL, &moving), Some(UnixMillis(20)), "it is gone");
        assert!(shares.go_on_with(share(0, 2), UnixMillis(30)) && shares.go_on_with(Shard::WHOLE, UnixMillis(25)));
        assert_eq!(shares.moved_in(POOL, &moving), Some(UnixMillis(30)), "others had it until then");
        assert_eq!(shares.moved_in(POOL, &stays), None, "always ours");
        assert_eq!(shares.as_slice()[3], (Shard::WHOLE, UnixMillis(30)), "a clock that went back");
        for change in 0..100 {
            shares.go_on_with(share(0, 2 + change % 2), UnixMillis(100 + i64::from(change)));
        }
        assert_eq!(shares.as_slice().len(), REMEMBERED_MAX);
        assert_eq!(shares.moved_in(POOL, &stays), None);
        assert!(shares.moved_in(POOL, &moving).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_user_is_in_exactly_one_share_and_moves_only_to_a_new_one(
            username in "\\PC{1,20}",
            (few, many) in (1_u32..40).prop_flat_map(|few| (Just(few), few..60)),
        ) {
            let (before, after) = (home(&username, few), home(&username, many));
            prop_assert!(after == before || after >= few, "from {before} of {few} to {after} of {many}");
        }

        #[test]
        fn shares_are_even_and_a_change_moves_as_few_as_can_be(seed in any::<u32>(), count in 1_u32..20) {
            const USERS: u32 = 3000;
            let keys: Vec<_> = (0..USERS).map(|user| key(POOL, &format!("{seed}-{user}"))).collect();
            let mut shares = vec![0_u32; count as usize];
            keys.iter().for_each(|key| shares[jump(*key, count) as usize] += 1);
            let within = |counted: u32, probability: f64| {
                let mean = f64::from(USERS) * probability;
                // Six standard deviations of a fair draw.
                (f64::from(counted) - mean).abs() <= 6.0 * (mean * (1.0 - probability)).sqrt() + 1.0
            };
            prop_assert!(shares.iter().all(|users| within(*users, 1.0 / f64::from(count))), "{shares:?}");
            let moved = keys.iter().filter(|key| jump(**key, count) != jump(**key, count + 1)).count();
            let moved = u32::try_from(moved).unwrap();
            prop_assert!(within(moved, 1.0 / f64::from(count + 1)), "{moved} of {USERS} move from {count}");
        }
    }
}
