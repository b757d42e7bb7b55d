//! A heap of users that knows the position of each, so that any user can be removed.
//!
//! There may be a million users. A heap takes eight to twelve bytes for each, a third of what a `BTreeSet` takes. The
//! keys and the positions are kept with the users, behind [`HeapPositions`].

/// The keys and positions of the users in a heap.
pub(super) trait HeapPositions {
    /// The key that the heap is ordered by. Equal keys are ordered by slot, so that a run can be repeated.
    fn key(&self, slot: u32) -> i64;
    /// The user's position in its heap.
    fn position(&self, slot: u32) -> u32;
    /// Notes the user's new position in its heap.
    fn set_position(&mut self, slot: u32, position: u32);
}

/// A binary heap of slots, least key first.
#[derive(Debug, Default)]
pub(super) struct Heap(Vec<u32>);

impl Heap {
    pub(super) fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, slot: u32, users: &mut impl HeapPositions) {
        self.0.push(slot);
        self.rise(self.0.len() - 1, users);
    }

    /// Removes a user that is in this heap.
    pub(super) fn remove(&mut self, slot: u32, users: &mut impl HeapPositions) {
        let position = index(users.position(slot));
        debug_assert_eq!(self.0.get(position), Some(&slot), "the heap holds the user at its position");
        self.0.swap_remove(position);
        if position < self.0.len() {
            let position = self.rise(position, users);
            self.sink(position, users);
        }
        // A bucket that was crowded once would otherwise keep its memory, and a user visits many buckets.
        if self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(self.0.len() * 2);
        }
    }

    /// Moves the user at `position` up to where it belongs. Answers with the new position.
    fn rise(&mut self, mut position: usize, users: &mut impl HeapPositions) -> usize {
        while position > 0 {
            let parent = (position - 1) / 2;
            if !self.before(position, parent, users) {
                break;
            }
            self.0.swap(position, parent);
            self.settle(position, users);
            position = parent;
        }
        self.settle(position, users);
        position
    }

    fn sink(&mut self, mut position: usize, users: &mut impl HeapPositions) {
        loop {
            let (left, right) = (2 * position + 1, 2 * position + 2);
            let Some(_) = self.0.get(left) else { break };
            let child = if right < self.0.len() && self.before(right, left, users) { right } else { left };
            if !self.before(child, position, users) {
                break;
            }
            self.0.swap(position, child);
            self.settle(position, users);
            position = child;
        }
        self.settle(position, users);
    }

    fn before(&self, one: usize, other: usize, users: &impl HeapPositions) -> bool {
        let (one, other) = (self.0[one], self.0[other]);
        (users.key(one), one) < (users.key(other), other)
    }

    fn settle(&self, position: usize, users: &mut impl HeapPositions) {
        users.set_position(
            self.0[position],
            u32::try_from(position).expect("no more positions than slots, which are u32"),
        );
    }
}

fn index(position: u32) -> usize {
    usize::try_from(position).expect("a position was a usize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct TestUsers {
        keys: Vec<i64>,
        positions: Vec<u32>,
    }

    impl HeapPositions for TestUsers {
        fn key(&self, slot: u32) -> i64 {
            self.keys[index(slot)]
        }
        fn position(&self, slot: u32) -> u32 {
            self.positions[index(slot)]
        }
        fn set_position(&mut self, slot: u32, position: u32) {
            self.positions[index(slot)] = position;
        }
    }

    #[test]
    fn the_first_is_always_the_least_whoever_leaves() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut users = TestUsers { keys: (0..500).map(|_| random.i64(0..100)).collect(), positions: vec![0; 500] };
        let mut heap = Heap::default();
        let mut inside = std::collections::BTreeSet::new();
        for _ in 0..20_000 {
            let slot = random.u32(0..500);
            if inside.remove(&(users.keys[index(slot)], slot)) {
                heap.remove(slot, &mut users);
            } else {
                users.keys[index(slot)] = random.i64(0..100);
                inside.insert((users.keys[index(slot)], slot));
                heap.push(slot, &mut users);
            }
            assert_eq!(heap.first(), inside.first().map(|(_, slot)| *slot));
        }
    }
}
