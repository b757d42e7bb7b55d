//! What the schedule keeps of each user: 56 bytes, and four or eight more for its place on the rate_buckets.

use super::heap::Places;
use super::ticks::{NEVER, Ticks};
use super::{ActivityEstimate, Backlog, PoolSlot, UserSlot};

/// What a user is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Nobody has this slot.
    Vacant,
    /// On its rung, and in the lines for what else it waits for.
    Waiting,
    /// Its turn is under way.
    Busy,
    /// It left during its turn.
    Gone,
    /// It failed, and is left alone until [`User::look`].
    Resting,
}

#[derive(Clone, Debug)]
pub(super) struct User {
    /// When its age began: the latest answer.
    pub(super) polled: Ticks,
    /// When an event in progress wants a look, or a rest is over; [`NEVER`].
    pub(super) look: Ticks,
    pub(super) activity: ActivityEstimate,
    pub(super) pool: PoolSlot,
    /// Its number in the lines for backlog, where who came first is first.
    pub(super) ticket: u32,
    /// Where it stands on its rung.
    pub(super) place: u32,
    pub(super) rung: u8,
    pub(super) state: State,
    pub(super) backlog: Option<Backlog>,
    pub(super) flags: Flags,
}

/// What a user has been through, in a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Flags(u8);

impl Flags {
    /// `polled` is the time of an answer: not before the first, nor after a failure.
    pub(super) const ANSWERED: u8 = 1;
    /// Something was known of it when it joined, or it was asked once. Else it is a newcomer.
    pub(super) const TRIED: u8 = 2;
    /// It was known when no newcomer waited: it is not of the present crowd.
    pub(super) const ESTABLISHED: u8 = 4;

    pub(super) fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    pub(super) fn set(&mut self, flag: u8, on: bool) {
        self.0 = if on { self.0 | flag } else { self.0 & !flag };
    }
}

impl User {
    const VACANT: Self = Self {
        polled: 0,
        look: NEVER,
        activity: ActivityEstimate::UNKNOWN,
        pool: PoolSlot(0),
        ticket: 0,
        place: 0,
        rung: 0,
        state: State::Vacant,
        backlog: None,
        flags: Flags(0),
    };

    pub(super) fn new(pool: PoolSlot, activity: ActivityEstimate, rung: u8, polled: Ticks) -> Self {
        let flags = Flags(if activity.is_known() { Flags::TRIED | Flags::ESTABLISHED } else { 0 });
        Self { polled, activity, pool, rung, state: State::Waiting, flags, ..Self::VACANT }
    }
}

/// All users, each at its slot.
#[derive(Debug, Default)]
pub(super) struct Users {
    slots: Vec<User>,
    len: usize,
}

impl Users {
    /// Users for whom room is made at once, beside an eighth of those there are: doubling would waste up to half.
    const ROOM: usize = 64;

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, UserSlot(slot): UserSlot, user: User) {
        let missing = (index(slot) + 1).saturating_sub(self.slots.len());
        if missing > self.slots.capacity() - self.slots.len() {
            self.slots.reserve_exact(missing + self.slots.len() / 8 + Self::ROOM);
        }
        self.slots.extend(std::iter::repeat_n(User::VACANT, missing));
        debug_assert_eq!(self.slots[index(slot)].state, State::Vacant, "a place is one user's");
        self.slots[index(slot)] = user;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, slot: UserSlot) -> Option<User> {
        let user = std::mem::replace(self.get_mut(slot)?, User::VACANT);
        self.len -= 1;
        Some(user)
    }

    pub(super) fn get(&self, slot: UserSlot) -> Option<&User> {
        self.slots.get(index(slot.0)).filter(|user| user.state != State::Vacant)
    }

    pub(super) fn get_mut(&mut self, slot: UserSlot) -> Option<&mut User> {
        self.slots.get_mut(index(slot.0)).filter(|user| user.state != State::Vacant)
    }
}

impl Places for Users {
    fn key(&self, slot: u32) -> i64 {
        self.slots[index(slot)].polled
    }

    fn place(&self, slot: u32) -> u32 {
        self.slots[index(slot)].place
    }

    fn set_place(&mut self, slot: u32, place: u32) {
        self.slots[index(slot)].place = place;
    }
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).expect("a slot is a place in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_users_take_less_than_sixty_four_bytes_each() {
        assert_eq!(size_of::<User>(), 56);
        let mut users = Users::default();
        for slot in 0..1_000_000 {
            users.insert(UserSlot(slot), User::new(PoolSlot(0), ActivityEstimate::UNKNOWN, 0, 0));
        }
        assert!(users.slots.capacity() < 1_126_000, "{}", users.slots.capacity());
    }
}
