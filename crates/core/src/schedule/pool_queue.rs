//! Users in order, pool by pool, so that a closed pool is skipped at once.
//!
//! Each pool keeps its own order, and the first users of the open pools form a second order. So the first user of all
//! is found in one step, however many pools there are. Closing a pool of a million users moves one of them, and so does
//! leaving it out. A pool may have a *floor*: lower keys count as the floor. This changes the keys of all its users at
//! once and keeps their order.

use std::collections::{BTreeMap, BTreeSet};

use super::heap::{Heap, HeapPositions};
use super::{PoolSlot, UserSlot};

/// A collection that keeps one pool's users in order, least key first.
pub(super) trait Order<U> {
    fn put(&mut self, key: i64, user: UserSlot, users: &mut U);
    fn remove(&mut self, key: i64, user: UserSlot, users: &mut U);
    fn first(&self, users: &U) -> Option<(i64, UserSlot)>;
    fn len(&self) -> usize;
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

    fn len(&self) -> usize {
        BTreeSet::len(self)
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

    fn len(&self) -> usize {
        self.len()
    }
}

/// How a queue treats a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PoolAccess {
    /// Its users may be chosen.
    Open,
    /// Its users wait, because the pool is held back.
    Closed,
    /// Its users are not this queue's to choose. They do not count.
    LeftOut,
}

/// The users of all pools that wait for one kind of turn.
#[derive(Debug)]
pub(super) struct PoolQueue<O> {
    pools: BTreeMap<PoolSlot, PoolOrder<O>>,
    /// The key of the first user of each open pool.
    fronts: BTreeSet<(i64, PoolSlot)>,
    len: usize,
}

/// One pool's users, and the least key that they can have.
#[derive(Debug)]
struct PoolOrder<O> {
    order: O,
    floor: i64,
}

impl<O: Default> Default for PoolOrder<O> {
    fn default() -> Self {
        Self { order: O::default(), floor: i64::MIN }
    }
}

impl<O> PoolOrder<O> {
    fn first<U>(&self, users: &U) -> Option<(i64, UserSlot)>
    where
        O: Order<U>,
    {
        self.order.first(users).map(|(key, user)| (key.max(self.floor), user))
    }
}

impl<O> Default for PoolQueue<O> {
    fn default() -> Self {
        Self { pools: BTreeMap::new(), fronts: BTreeSet::new(), len: 0 }
    }
}

impl<O: Default> PoolQueue<O> {
    pub(super) fn put<U>(&mut self, (key, pool, user): (i64, PoolSlot, UserSlot), access: PoolAccess, users: &mut U)
    where
        O: Order<U>,
    {
        self.len += usize::from(access != PoolAccess::LeftOut);
        self.change(pool, access, users, |order, users| order.put(key, user, users));
    }

    pub(super) fn remove<U>(&mut self, (key, pool, user): (i64, PoolSlot, UserSlot), access: PoolAccess, users: &mut U)
    where
        O: Order<U>,
    {
        self.len -= usize::from(access != PoolAccess::LeftOut);
        self.change(pool, access, users, |order, users| order.remove(key, user, users));
    }

    fn change<U>(&mut self, pool: PoolSlot, access: PoolAccess, users: &mut U, change: impl FnOnce(&mut O, &mut U))
    where
        O: Order<U>,
    {
        let pool_order = self.pools.entry(pool).or_default();
        let before = pool_order.first(users);
        change(&mut pool_order.order, users);
        let after = pool_order.first(users);
        if access == PoolAccess::Open && before != after {
            before.map(|(key, _)| self.fronts.remove(&(key, pool)));
            after.map(|(key, _)| self.fronts.insert((key, pool)));
        }
    }

    /// Changes the access to a pool. One user moves at most, however many the pool has.
    pub(super) fn set_access<U>(&mut self, pool: PoolSlot, (from, to): (PoolAccess, PoolAccess), users: &U)
    where
        O: Order<U>,
    {
        let Some(pool_order) = self.pools.get(&pool) else { return };
        if from == PoolAccess::LeftOut {
            self.len += pool_order.order.len();
        }
        if to == PoolAccess::LeftOut {
            self.len -= pool_order.order.len();
        }
        if let Some((key, _)) = pool_order.first(users) {
            self.fronts.remove(&(key, pool));
            if to == PoolAccess::Open {
                self.fronts.insert((key, pool));
            }
        }
    }

    /// Has the present users of a pool that is not open count with this key, if theirs is lower.
    pub(super) fn raise_floor(&mut self, pool: PoolSlot, floor: i64) {
        if let Some(pool_order) = self.pools.get_mut(&pool) {
            pool_order.floor = pool_order.floor.max(floor);
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

    /// The number of users of all pools that are not left out.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The key of the first user of an open pool.
    pub(super) fn first_key(&self) -> Option<i64> {
        self.fronts.first().map(|(key, _)| *key)
    }
}
