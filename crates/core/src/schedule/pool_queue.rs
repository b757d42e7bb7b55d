//! Users in order, pool by pool, so that a closed pool is passed over at once.
//!
//! Each pool keeps its own order; in front stands the first of every open pool. Whoever is first of all is found in one step
//! however many pools there are, and closing a pool of a million users moves one of them.

use std::collections::{BTreeMap, BTreeSet};

use super::heap::{Heap, Places};
use super::{PoolSlot, UserSlot};

/// What keeps one pool's users in order.
pub(super) trait Order<Users> {
    fn put(&mut self, key: i64, user: UserSlot, users: &mut Users);
    fn take(&mut self, key: i64, user: UserSlot, users: &mut Users);
    fn first(&self, users: &Users) -> Option<(i64, UserSlot)>;
}

/// A few users, in any number of lines at once.
pub(super) type Few = BTreeSet<(i64, UserSlot)>;

impl<Users> Order<Users> for Few {
    fn put(&mut self, key: i64, user: UserSlot, _: &mut Users) {
        self.insert((key, user));
    }

    fn take(&mut self, key: i64, user: UserSlot, _: &mut Users) {
        self.remove(&(key, user));
    }

    fn first(&self, _: &Users) -> Option<(i64, UserSlot)> {
        BTreeSet::first(self).copied()
    }
}

impl<Users: Places> Order<Users> for Heap {
    fn put(&mut self, _: i64, user: UserSlot, users: &mut Users) {
        self.push(user.0, users);
    }

    fn take(&mut self, _: i64, user: UserSlot, users: &mut Users) {
        self.remove(user.0, users);
    }

    fn first(&self, users: &Users) -> Option<(i64, UserSlot)> {
        self.first().map(|slot| (users.key(slot), UserSlot(slot)))
    }
}

/// The users of all pools who wait for one thing.
#[derive(Debug)]
pub(super) struct PoolQueue<O> {
    pools: BTreeMap<PoolSlot, O>,
    /// The first of each open pool.
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

    pub(super) fn take<U>(&mut self, (key, pool, user): (i64, PoolSlot, UserSlot), open: bool, users: &mut U)
    where
        O: Order<U>,
    {
        self.len -= 1;
        self.change(pool, open, users, |order, users| order.take(key, user, users));
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

    /// A pool was closed, or opened again.
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

    /// Users of all pools, open or closed.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The key of the first user of an open pool.
    pub(super) fn first_key(&self) -> Option<i64> {
        self.fronts.first().map(|(key, _)| *key)
    }
}
