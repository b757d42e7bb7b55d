//! The schedule's state of each user: 56 bytes, and four or eight more in the heap of its bucket.

use std::time::Duration;

use super::heap::HeapPositions;
use super::ticks::{NEVER, Ticks};
use super::{ActivityEstimate, Backlog, PoolSlot, UserSlot};

/// The state of a user's slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SlotState {
    /// No user has this slot.
    Vacant,
    /// The user is in its bucket, and in the queues for its look and its backlog.
    Waiting,
    /// The user's turn is under way.
    Busy,
    /// The user left during its turn.
    Gone,
    /// The user's turn failed, and it is not polled until [`ScheduledUser::look`].
    Resting,
}

/// A user as the schedule sees it.
#[derive(Clone, Debug)]
pub(super) struct ScheduledUser {
    /// The beginning of its age: the latest answer, failure or exported event. The activity is that of this time.
    pub(super) polled: Ticks,
    /// When an event in progress needs a look, or when a rest ends; [`NEVER`] if neither.
    pub(super) look: Ticks,
    pub(super) activity: ActivityEstimate,
    pub(super) pool: PoolSlot,
    /// Its number in the queues for backlog, which serve the lowest number first.
    pub(super) ticket: u32,
    /// Its position in the heap of its bucket.
    pub(super) position: u32,
    pub(super) bucket: u8,
    pub(super) state: SlotState,
    /// The time by which exported events moved [`ScheduledUser::polled`] past the latest poll, in the units of
    /// [`heard`](super::heard).
    pub(super) put_off: u8,
    pub(super) flags: UserFlags,
}

/// Facts about a user's past, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct UserFlags(u8);

impl UserFlags {
    /// `polled` is the time of an answer. It is not before the first answer and after a failure.
    pub(super) const ANSWERED: u8 = 1;
    /// Its activity was known when it joined, or it was polled once. Otherwise it is a newcomer.
    pub(super) const TRIED: u8 = 2;
    /// It was known at a time without newcomers, and so is not in the present crowd.
    pub(super) const ESTABLISHED: u8 = 4;
    /// A look is wanted as soon as its turn or rest ends.
    pub(super) const LOOK_AFTER: u8 = 8;
    /// Its latest turn was a look.
    pub(super) const LOOKED: u8 = 16;
    const LIVE_BACKLOG: u8 = 32;
    const HISTORY_BACKLOG: u8 = 64;

    pub(super) fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    pub(super) fn set(&mut self, flag: u8, on: bool) {
        self.0 = if on { self.0 | flag } else { self.0 & !flag };
    }

    /// The open part of the user's history.
    pub(super) fn backlog(self) -> Option<Backlog> {
        match (self.has(Self::LIVE_BACKLOG), self.has(Self::HISTORY_BACKLOG)) {
            (true, _) => Some(Backlog::Live),
            (false, true) => Some(Backlog::History),
            (false, false) => None,
        }
    }

    pub(super) fn set_backlog(&mut self, backlog: Option<Backlog>) {
        self.set(Self::LIVE_BACKLOG, backlog == Some(Backlog::Live));
        self.set(Self::HISTORY_BACKLOG, backlog == Some(Backlog::History));
    }
}

impl ScheduledUser {
    const VACANT: Self = Self {
        polled: 0,
        look: NEVER,
        activity: ActivityEstimate::UNKNOWN,
        pool: PoolSlot(0),
        ticket: 0,
        position: 0,
        bucket: 0,
        state: SlotState::Vacant,
        put_off: 0,
        flags: UserFlags(0),
    };

    pub(super) fn new(pool: PoolSlot, activity: ActivityEstimate, bucket: u8, polled: Ticks) -> Self {
        let flags = UserFlags(if activity.is_known() { UserFlags::TRIED | UserFlags::ESTABLISHED } else { 0 });
        Self { polled, activity, pool, bucket, state: SlotState::Waiting, flags, ..Self::VACANT }
    }

    /// The time since the beginning of its age.
    pub(super) fn silence(&self, now: Ticks) -> Duration {
        Duration::from_nanos(u64::try_from(now - self.polled).unwrap_or(0))
    }

    /// Leaves the user alone for a time after its turn failed.
    pub(super) fn rest(&mut self, pause: Ticks, now: Ticks) {
        self.state = SlotState::Resting;
        // The time until the failure counts as silence, although no answer confirmed it.
        self.activity = self.activity.aged(self.silence(now));
        self.polled = now;
        self.put_off = 0;
        self.flags.set(UserFlags::ANSWERED, false);
        self.look = now.saturating_add(pause);
        self.flags.set_backlog(None);
    }
}

/// All users, each at its slot.
#[derive(Debug, Default)]
pub(super) struct ScheduledUsers {
    slots: Vec<ScheduledUser>,
    len: usize,
}

impl ScheduledUsers {
    /// The number of users for which room is made at once, beside an eighth of the present users. Doubling would waste
    /// up to half of the memory.
    const ROOM: usize = 64;

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All users, with their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (UserSlot, &ScheduledUser)> {
        let slots = (0..).map(UserSlot).zip(&self.slots);
        slots.filter(|(_, user)| user.state != SlotState::Vacant)
    }

    pub(super) fn insert(&mut self, UserSlot(slot): UserSlot, user: ScheduledUser) {
        let missing = (index(slot) + 1).saturating_sub(self.slots.len());
        if missing > self.slots.capacity() - self.slots.len() {
            self.slots.reserve_exact(missing + self.slots.len() / 8 + Self::ROOM);
        }
        self.slots.extend(std::iter::repeat_n(ScheduledUser::VACANT, missing));
        debug_assert_eq!(self.slots[index(slot)].state, SlotState::Vacant, "a slot belongs to one user");
        self.slots[index(slot)] = user;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, slot: UserSlot) -> Option<ScheduledUser> {
        let user = std::mem::replace(self.get_mut(slot)?, ScheduledUser::VACANT);
        self.len -= 1;
        Some(user)
    }

    pub(super) fn get(&self, slot: UserSlot) -> Option<&ScheduledUser> {
        self.slots.get(index(slot.0)).filter(|user| user.state != SlotState::Vacant)
    }

    pub(super) fn get_mut(&mut self, slot: UserSlot) -> Option<&mut ScheduledUser> {
        self.slots.get_mut(index(slot.0)).filter(|user| user.state != SlotState::Vacant)
    }
}

impl HeapPositions for ScheduledUsers {
    fn key(&self, slot: u32) -> i64 {
        self.slots[index(slot)].polled
    }

    fn position(&self, slot: u32) -> u32 {
        self.slots[index(slot)].position
    }

    fn set_position(&mut self, slot: u32, position: u32) {
        self.slots[index(slot)].position = position;
    }
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).expect("a slot fits in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_users_take_less_than_sixty_four_bytes_each() {
        assert_eq!(size_of::<ScheduledUser>(), 56);
        let mut users = ScheduledUsers::default();
        for slot in 0..1_000_000 {
            users.insert(UserSlot(slot), ScheduledUser::new(PoolSlot(0), ActivityEstimate::UNKNOWN, 0, 0));
        }
        assert!(users.slots.capacity() < 1_126_000, "{}", users.slots.capacity());
    }
}
