//! Users by their rate of events: a rung for each 1.4 times the rate below it, and on every rung the longest unseen first.
//!
//! What polling a user is worth changes with every second, in another measure for everybody, so no queue could hold them in
//! order. But among users of one rate the longest unseen is always the worthiest: the first of each rung are all that has to
//! be compared.

use super::heap::Heap;
use super::pool_queue::PoolQueue;
use super::ticks::{Ticks, seconds};
use super::user::Users;
use super::{PoolSlot, UserSlot};

/// Everybody who waits for a poll.
#[derive(Debug)]
pub(super) struct RateBuckets(Vec<Rung>);

#[derive(Debug)]
struct Rung {
    /// √λ, in events per second.
    root: f64,
    line: PoolQueue<Heap>,
}

impl RateBuckets {
    /// Each for √2 times the rate: a rate is taken to 19 %, which costs less than half a percent of the optimum.
    pub(super) const RUNGS: u8 = 48;

    /// Rate of the lowest rung: one event in 193 days. The highest is more than one in two seconds.
    const LOWEST: f64 = 6e-8;

    /// The rung for a rate in events per second.
    pub(super) fn rung(rate: f64) -> u8 {
        let rung = (2.0 * (rate / Self::LOWEST).log2()).round().clamp(0.0, f64::from(Self::RUNGS - 1));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the rungs")]
        let rung = rung as u8;
        rung
    }

    /// √λ of a rung, in events per second.
    pub(super) fn root(rung: u8) -> f64 {
        (Self::LOWEST * (f64::from(rung) / 2.0).exp2()).sqrt()
    }

    /// Puts a user on a rung.
    pub(super) fn put(&mut self, rung: u8, user: (Ticks, PoolSlot, UserSlot), open: bool, users: &mut Users) {
        self.0[usize::from(rung)].line.put(user, open, users);
    }

    /// Takes it off again.
    pub(super) fn take(&mut self, rung: u8, user: (Ticks, PoolSlot, UserSlot), open: bool, users: &mut Users) {
        self.0[usize::from(rung)].line.take(user, open, users);
    }

    /// A pool was closed, or opened again.
    pub(super) fn set_open(&mut self, pool: PoolSlot, open: bool, users: &Users) {
        self.0.iter_mut().for_each(|rung| rung.line.set_open(pool, open, users));
    }

    /// Who gathers most delay, and √λ times its age in seconds: which orders users as λ·age²/2 does. Nobody seen after
    /// `latest`.
    pub(super) fn worthiest(&self, now: Ticks, latest: Ticks, users: &Users) -> Option<(UserSlot, f64)> {
        let firsts = self.0.iter().filter_map(|rung| Some((rung.root, rung.line.first(users)?)));
        firsts
            .filter(|(_, (polled, _))| *polled <= latest)
            .map(|(root, (polled, user))| (user, root * seconds(now - polled)))
            .max_by(|(_, one), (_, other)| one.total_cmp(other))
    }

    /// Who was not seen for longest, and when it was.
    pub(super) fn oldest(&self, users: &Users) -> Option<(Ticks, UserSlot)> {
        self.0.iter().filter_map(|rung| rung.line.first(users)).min()
    }

    /// When the oldest was seen.
    pub(super) fn oldest_seen(&self) -> Option<Ticks> {
        self.0.iter().filter_map(|rung| rung.line.first_key()).min()
    }

    /// How many would not be polled within so many seconds at this price, which is a worth.
    pub(super) fn sleepers(&self, price: f64, within: f64) -> usize {
        self.0.iter().filter(|rung| rung.root * within < price).map(|rung| rung.line.len()).sum()
    }
}

impl Default for RateBuckets {
    fn default() -> Self {
        let rungs = (0..Self::RUNGS).map(|rung| Rung { root: Self::root(rung), line: PoolQueue::default() });
        Self(rungs.collect())
    }
}

/// How many users belong on each rung, waiting or not.
#[derive(Debug)]
pub(super) struct Census([u32; RateBuckets::RUNGS as usize]);

impl Default for Census {
    fn default() -> Self {
        Self([0; RateBuckets::RUNGS as usize])
    }
}

impl Census {
    pub(super) fn join(&mut self, rung: u8) {
        self.0[usize::from(rung)] += 1;
    }

    pub(super) fn leave(&mut self, rung: u8) {
        self.0[usize::from(rung)] -= 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(users, more)| *users += more);
    }

    pub(super) fn len(&self) -> f64 {
        self.0.iter().map(|users| f64::from(*users)).sum()
    }

    /// √λ of each rung, and its users.
    pub(super) fn rungs(&self) -> impl Iterator<Item = (f64, f64)> {
        (0..).zip(self.0).map(|(rung, users)| (RateBuckets::root(rung), f64::from(users)))
    }
}
