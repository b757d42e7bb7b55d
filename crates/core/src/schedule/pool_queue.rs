//! Users in order, pool by pool, so that a closed pool is skipped at once.
//!
//! Each pool keeps its own order, and the first users of the open pools form a second order. So the first user of all
//! is found in one step, however many pools there are. Closing a pool of a million users moves one of them.

use std::collections::{BTreeMap, BTreeSet};

use super::heap::{Heap, HeapPositions};
use super::{PoolSlot, UserSlot};

/// A collection that keeps one pool's users in order, least key first.
pub(super) trait Order<U> {
    fn put(&mut self, key: i64, user: UserSlot, users: &mut U);
    fn remove(&mut self, key: i64, user: UserSlot, users: &mut U);
    fn first(&self, users: &U) -> Option<(i64, UserSlot)>;
}

/// An order for a few users, each of which may be in several queues at once.
pub(super) type Few = BTreeSet<(i64, UserSlot)>;

impl<U> Order<U> for Few {
    fn put(&mut self, key: i64, user: UserSlot, _: &mut U) {
        self.insert((key, user));
    }

    fn remove(&mut self, key: i64, user: UserSlot, _: &mut U) {
        self.remove(&(key, user));
    }

    fn first(&self, _: &U) -> Option<(i64, UserSlot)> {
        BTreeSet::first(self).copied()
    }
}

impl<U: HeapPositions> Order<U> for Heap {
    fn put(&mut self, _: i64, user: UserSlot, users: &mut U) {
        self.push(user.0, users);
    }

    fn remove(&mut self, _: i64, user: UserSlot, users: &mut U) {
        self.remove(user.0, users);
    }

    fn first(&self, users: &U) -> Option<(i64, UserSlot)> {
        self.first().map(|slot| (users.key(slot), UserSlot(slot)))
    }
}

/// The users of all pools that wait for one kind of turn.
#[derive(Debug)]
pub(super) struct PoolQueue<O> {
    pools: BTreeMap<PoolSlot, O>,
    /// The key of the first user of each open pool.
    fronts: BTreeSet<(i64, PoolSlot)>,
    len: usize,
}

impl<O> Default for PoolQueue<O> {
    fn default() -> Self {
        Self { pools: BTreeMap::new(), fronts: BTreeSet::new(), len: 0 }
    }
}

impl<O: Default> PoolQueue<O> {
    pub(super) fn put<U>(&mut self, (key, pool, user): (i64, PoolSlot, UserSlot), open: bool, users: &mut U)
    where
        O: Order<U>,
    {
        self.len += 1;
        self.change(pool, open, users, |order, users| order.put(key, user, users));
    }

    pub(super) fn remove<U>(&mut self, (key, pool, user): (i64, PoolSlot, UserSlot), open: bool, users: &mut U)
    where
        O: Order<U>,
    {
        self.len -= 1;
        self.change(pool, open, users, |order, users| order.remove(key, user, users));
    }

    fn change<U>(&mut self, pool: PoolSlot, open: bool, users: &mut U, change: impl FnOnce(&mut O, &mut U))
    where
        O: Order<U>,
    {
        let order = self.pools.entry(pool).or_default();
        let before = order.first(users);
        change(order, users);
        let after = order.first(users);
        if open && before != after {
            before.map(|(key, _)| self.fronts.remove(&(key, pool)));
            after.map(|(key, _)| self.fronts.insert((key, pool)));
        }
    }

    /// Closes a pool, or opens it again.
    pub(super) fn set_open<U>(&mut self, pool: PoolSlot, open: bool, users: &U)
    where
        O: Order<U>,
    {
        if let Some((key, _)) = self.pools.get(&pool).and_then(|order| order.first(users)) {
            if open {
                self.fronts.insert((key, pool))
            } else {
                self.fronts.remove(&(key, pool))
            };
        }
    }

    /// The first user of an open pool, and its key.
    pub(super) fn first<U>(&self, users: &U) -> Option<(i64, UserSlot)>
    where
        O: Order<U>,
    {
        let (_, pool) = self.fronts.first()?;
        self.pools.get(pool)?.first(users)
    }

    /// The number of users of all pools, open or closed.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The key of the first user of an open pool.
    pub(super) fn first_key(&self) -> Option<i64> {
        self.fronts.first().map(|(key, _)| *key)
    }
}
