//! A heap of users that knows where each of them stands, so that anybody can be taken out.
//!
//! Eight to twelve bytes a user, a third of what a `BTreeSet` takes: there may be a million users. The keys and the places are kept
//! with the users, behind [`Places`].

/// What a heap asks of those who stand in it.
pub(super) trait Places {
    /// What the heap is ordered by; ties go by slot, so that a run can be repeated.
    fn key(&self, slot: u32) -> i64;
    /// Where the user stands in its heap.
    fn place(&self, slot: u32) -> u32;
    /// The user stands here now.
    fn set_place(&mut self, slot: u32, place: u32);
}

/// A binary heap of slots, least key first.
#[derive(Debug, Default)]
pub(super) struct Heap(Vec<u32>);

impl Heap {
    pub(super) fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    pub(super) fn push(&mut self, slot: u32, users: &mut impl Places) {
        self.0.push(slot);
        self.rise(self.0.len() - 1, users);
    }

    /// Takes out a user who stands in this heap.
    pub(super) fn remove(&mut self, slot: u32, users: &mut impl Places) {
        let place = index(users.place(slot));
        debug_assert_eq!(self.0.get(place), Some(&slot), "a user stands where it was put");
        self.0.swap_remove(place);
        if place < self.0.len() {
            let place = self.rise(place, users);
            self.sink(place, users);
        }
        // A rung that was crowded once would keep its room for ever, and a user visits many rungs.
        if self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(self.0.len() * 2);
        }
    }

    /// Moves the user at `place` up to where it belongs and answers where that is.
    fn rise(&mut self, mut place: usize, users: &mut impl Places) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if !self.before(place, parent, users) {
                break;
            }
            self.0.swap(place, parent);
            self.settle(place, users);
            place = parent;
        }
        self.settle(place, users);
        place
    }

    fn sink(&mut self, mut place: usize, users: &mut impl Places) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let Some(_) = self.0.get(left) else { break };
            let child = if right < self.0.len() && self.before(right, left, users) { right } else { left };
            if !self.before(child, place, users) {
                break;
            }
            self.0.swap(place, child);
            self.settle(place, users);
            place = child;
        }
        self.settle(place, users);
    }

    fn before(&self, one: usize, other: usize, users: &impl Places) -> bool {
        let (one, other) = (self.0[one], self.0[other]);
        (users.key(one), one) < (users.key(other), other)
    }

    fn settle(&self, place: usize, users: &mut impl Places) {
        users.set_place(self.0[place], u32::try_from(place).expect("no more places than slots, which are u32"));
    }
}

fn index(place: u32) -> usize {
    usize::try_from(place).expect("a place was a usize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct TestUsers {
        keys: Vec<i64>,
        places: Vec<u32>,
    }

    impl Places for TestUsers {
        fn key(&self, slot: u32) -> i64 {
            self.keys[index(slot)]
        }
        fn place(&self, slot: u32) -> u32 {
            self.places[index(slot)]
        }
        fn set_place(&mut self, slot: u32, place: u32) {
            self.places[index(slot)] = place;
        }
    }

    #[test]
    fn the_first_is_always_the_least_whoever_leaves() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut users = TestUsers { keys: (0..500).map(|_| random.i64(0..100)).collect(), places: vec![0; 500] };
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
