//! A uniform random sample of a pool's users, polled at a rate of its own.
//!
//! A pool whose events arrive by Cognito's export needs no polls to find them, only to learn what the export loses. So
//! its users are drawn at random: each once in a cycle, in an order that no user's events influence. A cycle is drawn
//! without replacement from the users that the pool had at its beginning. A user that joins later had its first poll,
//! and comes in the next cycle. Nothing here is random by itself: the caller gives a seed.

use super::ticks::{Ticks, seconds};
use super::user::{ScheduledUser, ScheduledUsers};
use super::{PoolSlot, UserSlot};

/// How the users of a pool are polled.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum PollMode {
    /// Every user is polled, as its events are worth it.
    Full,
    /// Its events arrive otherwise. These users are polled: newcomers once, those with a look due or with backlog, and
    /// a uniform random sample of all.
    Sample {
        /// The users of the sample per second; above 0.
        per_second: f64,
        /// Any number. It gives the order of the sample.
        seed: u64,
    },
}

/// The sample of one pool.
#[derive(Debug)]
pub(super) struct Sample {
    /// The time between two polls of the sample.
    interval: Ticks,
    /// When the next user of the sample is due.
    pub(super) due: Ticks,
    /// The users that have not come in this cycle.
    to_come: Vec<UserSlot>,
    random: u64,
}

impl Sample {
    /// The number of users of which one decision draws at most. Users that are polled anyway are passed over. Where
    /// these are most users, as at a first start, the sample gets along with fewer polls.
    const DRAWN_MAX: usize = 64;

    /// The longest interval between two polls of a sample, in seconds: ten years.
    const INTERVAL_MAX: f64 = 3.2e8;

    pub(super) fn new(per_second: f64, seed: u64, now: Ticks) -> Self {
        Self { interval: Self::interval(per_second), due: now, to_come: vec![], random: seed }
    }

    /// Changes the rate. The cycle goes on.
    pub(super) fn set_rate(&mut self, per_second: f64, now: Ticks) {
        self.interval = Self::interval(per_second);
        self.due = self.due.min(now + self.interval);
    }

    fn interval(per_second: f64) -> Ticks {
        let nanos = (1.0 / per_second).clamp(1e-6, Self::INTERVAL_MAX) * 1e9;
        #[expect(clippy::cast_possible_truncation, reason = "clamped to ten years")]
        let nanos = nanos as Ticks;
        nanos
    }

    /// The users of the sample per second.
    pub(super) fn per_second(&self) -> f64 {
        1.0 / seconds(self.interval)
    }

    /// Draws the next user of `pool` that `may_come`, and sets the time of the next draw.
    pub(super) fn draw(
        &mut self,
        pool: PoolSlot,
        users: &ScheduledUsers,
        now: Ticks,
        may_come: impl Fn(&ScheduledUser) -> bool,
    ) -> Option<UserSlot> {
        // One poll that comes late is made up for. More would be a burst after a pause.
        self.due = (self.due + self.interval).max(now - self.interval);
        if self.to_come.is_empty() {
            self.to_come.extend(users.iter().filter(|(_, user)| user.pool == pool).map(|(slot, _)| slot));
        }
        for _ in 0..Self::DRAWN_MAX.min(self.to_come.len()) {
            let place = self.below(self.to_come.len());
            let slot = self.to_come.swap_remove(place);
            if users.get(slot).is_some_and(|user| user.pool == pool && may_come(user)) {
                return Some(slot);
            }
        }
        None
    }

    /// Passes over a poll, because no user may come.
    pub(super) fn skip(&mut self, now: Ticks) {
        self.due = now + self.interval;
    }

    /// A random number below `end`, which is above 0. (SplitMix64; Steele, Lea and Flood, OOPSLA 2014.)
    fn below(&mut self, end: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let random = mixed ^ (mixed >> 31);
        // The high half of the product with a number below 2^32 is uniform to one part in 2^32.
        let below = (u128::from(random) * end as u128) >> 64;
        usize::try_from(below).expect("below a usize")
    }
}

#[cfg(test)]
mod tests;
