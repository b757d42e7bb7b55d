//! The followed users and their state: a table for a million users.
//!
//! Pure. Memory bounds how many users one process can follow. So a user is a row of 24 bytes, and all names lie in one
//! byte buffer. The index from name to row holds only the row's number. A user with a name of 36 bytes takes about 75
//! bytes. Numbers for people are kept up to date rather than counted. The states are counters, and the least recently
//! polled user is the head of a list, to the end of which every poll moves its user.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::schedule::{PoolSlot, UserSlot};
use hashbrown::HashTable;

/// Failures in a row after which a user counts as failing: a single one may be chance.
const FAILING_AFTER: u8 = 3;

/// No row.
const NONE: u32 = u32::MAX;

/// The numbers of a pool's users by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolCounts {
    /// Users whose latest answer was a page.
    pub ok: u64,
    /// Users that the service does not know.
    pub missing: u64,
    /// Users whose latest answers were errors that concern them alone.
    pub failing: u64,
    /// Users with backlog.
    pub catching_up: u64,
    /// Users whose history is not read to its end, or that were not read yet.
    pub unwalked: u64,
    /// When the least recently polled user was polled, or joined.
    pub oldest: Option<UnixMillis>,
}

/// The parts of a user's events that are still to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Left {
    /// Whether backlog or history is to be read.
    pub catching_up: bool,
    /// Whether a part of its history is to be read.
    pub unwalked: bool,
}

/// The state of a user, by its latest answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UserHealth {
    /// The latest answer was a page.
    Ok,
    /// The service does not know the user.
    Missing,
    /// The latest answers were errors that concern the user alone.
    Failing,
}

/// A look at one user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserView {
    /// The state by the latest answers.
    pub health: UserHealth,
    /// Failures in a row.
    pub failures: u8,
    /// When the user was last polled from the top, in whole seconds. None if it was not since it joined.
    pub polled: Option<UnixMillis>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    /// The place of its name in the name buffer.
    name: u32,
    /// When it was polled or joined, in whole seconds.
    polled_secs: u32,
    /// Neighbours in its pool's list, the least recently polled first. In a free row, `after` is the next free one.
    before: u32,
    after: u32,
    pool: u32,
    failures: u8,
    flags: u8,
}

impl Row {
    const MISSING: u8 = 1;
    const CATCHING_UP: u8 = 2;
    /// A turn of the user is under way.
    const BUSY: u8 = 4;
    /// The user has left while its turn was under way. The row is freed only when the turn has ended; otherwise the end
    /// would count for another user that has the row then.
    const LEFT: u8 = 8;
    /// The user has left and is back. It joins when that turn has ended, because two turns at once would take an event
    /// twice.
    const BACK: u8 = 16;
    /// A part of the user's history is to be read, or it was not read yet.
    const UNWALKED: u8 = 32;
    /// The user was polled since it joined.
    const POLLED: u8 = 64;

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn set(&mut self, flag: u8, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }

    fn state(self) -> UserHealth {
        if self.has(Self::MISSING) {
            UserHealth::Missing
        } else if self.failures >= FAILING_AFTER {
            UserHealth::Failing
        } else {
            UserHealth::Ok
        }
    }
}

/// Whether a user is still there when its turn has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AfterTurn {
    /// The user is still there, in this pool.
    Stays(PoolSlot),
    /// The user has left meanwhile.
    Left,
    /// The user has left meanwhile and is back: now it may join.
    Back(PoolSlot, String),
}

/// The counts of a pool, and both ends of its list.
#[derive(Debug)]
struct PoolRows {
    counts: PoolCounts,
    first: u32,
    last: u32,
}

/// The table of all followed users.
#[derive(Debug)]
pub struct UserTable {
    rows: Vec<Row>,
    free: u32,
    len: usize,
    by_name: HashTable<u32>,
    /// Rows of users that have left while their turns are under way: never more than there are turns.
    leaving: Vec<u32>,
    hasher: RandomState,
    names: PackedNames,
    pools: HashMap<PoolSlot, PoolRows>,
}

impl Default for UserTable {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            free: NONE,
            len: 0,
            by_name: HashTable::new(),
            leaving: Vec::new(),
            hasher: RandomState::new(),
            names: PackedNames::default(),
            pools: HashMap::new(),
        }
    }
}

impl UserTable {
    /// The number of users.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no user.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a user. Answers None for a user that is there, or that will be when its earlier turn has ended.
    pub fn join(&mut self, pool: PoolSlot, username: &str, now: UnixMillis) -> Option<UserSlot> {
        if self.find(pool, username).is_some() {
            return None;
        }
        if let Some(row) = self.find_leaving(pool, username) {
            row.set(Row::BACK, true);
            return None;
        }
        let name = self.names.keep(username)?;
        let row =
            Row { name, polled_secs: seconds(now), before: NONE, after: NONE, pool: pool.0, failures: 0, flags: 0 };
        let slot = if self.free == NONE {
            let slot = u32::try_from(self.rows.len()).ok().filter(|slot| *slot != NONE)?;
            self.rows.push(row);
            slot
        } else {
            let slot = self.free;
            self.free = self.rows[slot as usize].after;
            self.rows[slot as usize] = row;
            slot
        };
        let (rows, names, hasher) = (&self.rows, &self.names, &self.hasher);
        let hash = |slot: &u32| {
            let row = rows[*slot as usize];
            hasher.hash_one((row.pool, names.get(row.name)))
        };
        self.by_name.insert_unique(hash(&slot), slot, hash);
        self.len += 1;
        self.link_last(slot);
        *self.state_count(slot) += 1;
        self.note_left(slot, Left { unwalked: true, ..Left::default() });
        Some(UserSlot(slot))
    }

    /// Removes a user. Answers None for a user that is not there.
    pub fn leave(&mut self, pool: PoolSlot, username: &str) -> Option<UserSlot> {
        if let Some(row) = self.find_leaving(pool, username) {
            row.set(Row::BACK, false);
        }
        let slot = self.find(pool, username)?;
        let hash = self.hasher.hash_one((pool.0, username));
        if let Ok(entry) = self.by_name.find_entry(hash, |found| *found == slot) {
            entry.remove();
        }
        *self.state_count(slot) -= 1;
        self.note_left(slot, Left::default());
        self.unlink(slot);
        self.len -= 1;
        let row = &mut self.rows[slot as usize];
        if row.has(Row::BUSY) {
            row.set(Row::LEFT, true);
            self.leaving.push(slot);
        } else {
            self.release(slot);
        }
        Some(UserSlot(slot))
    }

    /// The slot of a user.
    pub fn slot(&self, pool: PoolSlot, username: &str) -> Option<UserSlot> {
        self.find(pool, username).map(UserSlot)
    }

    /// A look at one user. None for a slot without one.
    pub fn view(&self, slot: UserSlot) -> Option<UserView> {
        let row = self.rows.get(slot.0 as usize).filter(|row| row.name != NONE && !row.has(Row::LEFT))?;
        let polled = row.has(Row::POLLED).then(|| millis(row.polled_secs));
        Some(UserView { health: row.state(), failures: row.failures, polled })
    }

    /// The names of a pool's users.
    pub fn names_of(&self, pool: PoolSlot) -> Vec<String> {
        let first = self.pools.get(&pool).map_or(NONE, |pool| pool.first);
        let rows = std::iter::successors(self.rows.get(first as usize), |row| self.rows.get(row.after as usize));
        rows.map(|row| self.names.get(row.name).to_owned()).collect()
    }

    /// Begins a user's turn, of which it has one at a time; answers its pool and name.
    pub fn begin(&mut self, slot: UserSlot) -> Option<(PoolSlot, String)> {
        let row = self.rows.get_mut(slot.0 as usize).filter(|row| row.name != NONE && !row.has(Row::LEFT))?;
        row.set(Row::BUSY, true);
        Some((PoolSlot(row.pool), self.names.get(row.name).to_owned()))
    }

    /// Ends a user's turn.
    pub fn ended(&mut self, slot: UserSlot) -> AfterTurn {
        let row = self.rows.get_mut(slot.0 as usize).filter(|row| row.has(Row::BUSY));
        let Some(row) = row else { return AfterTurn::Left };
        row.set(Row::BUSY, false);
        let (row, pool) = (*row, PoolSlot(row.pool));
        if !row.has(Row::LEFT) {
            return AfterTurn::Stays(pool);
        }
        let back = row.has(Row::BACK).then(|| self.names.get(row.name).to_owned());
        self.leaving.retain(|leaving| *leaving != slot.0);
        self.release(slot.0);
        back.map_or(AfterTurn::Left, |username| AfterTurn::Back(pool, username))
    }

    /// Takes note that the service answered for a user. `polled` is when it was polled from the top.
    pub fn answered(&mut self, slot: UserSlot, polled: Option<UnixMillis>, left: Left) {
        self.note_state(slot.0, |row| {
            row.failures = 0;
            row.set(Row::MISSING, false);
        });
        self.note_left(slot.0, left);
        polled.into_iter().for_each(|now| self.polled(slot.0, now));
    }

    /// Takes note that a user itself could not be read; answers how often in a row. A missing user counts as polled.
    pub fn failed(&mut self, slot: UserSlot, missing_at: Option<UnixMillis>) -> u8 {
        self.note_state(slot.0, |row| {
            row.failures = row.failures.saturating_add(1);
            row.set(Row::MISSING, missing_at.is_some());
        });
        if let Some(now) = missing_at {
            let catching_up = self.rows[slot.0 as usize].has(Row::CATCHING_UP);
            self.note_left(slot.0, Left { catching_up, unwalked: false });
            self.polled(slot.0, now);
        }
        self.rows[slot.0 as usize].failures
    }

    /// Takes note that no user was waiting for a poll before `now`.
    pub fn none_waited(&mut self, now: UnixMillis) {
        self.rows.iter_mut().for_each(|row| row.polled_secs = seconds(now));
    }

    /// The counts of a pool.
    pub fn counts(&self, pool: PoolSlot) -> PoolCounts {
        let Some(pool) = self.pools.get(&pool) else { return PoolCounts::default() };
        let oldest = self.rows.get(pool.first as usize).map(|row| row.polled_secs);
        PoolCounts { oldest: oldest.map(millis), ..pool.counts }
    }

    fn find(&self, pool: PoolSlot, username: &str) -> Option<u32> {
        let hash = self.hasher.hash_one((pool.0, username));
        self.by_name.find(hash, |slot| self.is(*slot, pool, username)).copied()
    }

    fn find_leaving(&mut self, pool: PoolSlot, username: &str) -> Option<&mut Row> {
        let slot = self.leaving.iter().copied().find(|slot| self.is(*slot, pool, username))?;
        self.rows.get_mut(slot as usize)
    }

    fn is(&self, slot: u32, pool: PoolSlot, username: &str) -> bool {
        let row = self.rows[slot as usize];
        row.pool == pool.0 && self.names.get(row.name) == username
    }

    fn release(&mut self, slot: u32) {
        let row = &mut self.rows[slot as usize];
        self.names.forget(row.name);
        row.name = NONE;
        row.flags = 0;
        row.after = self.free;
        self.free = slot;
        if self.names.is_mostly_holes() {
            self.names.compact(self.rows.iter_mut().map(|row| &mut row.name).filter(|name| **name != NONE));
        }
    }

    fn pool(&mut self, slot: u32) -> &mut PoolRows {
        let pool = PoolSlot(self.rows[slot as usize].pool);
        self.pools.entry(pool).or_insert_with(|| PoolRows { counts: PoolCounts::default(), first: NONE, last: NONE })
    }

    /// The counter of a user's state.
    fn state_count(&mut self, slot: u32) -> &mut u64 {
        let state = self.rows[slot as usize].state();
        let counts = &mut self.pool(slot).counts;
        match state {
            UserHealth::Ok => &mut counts.ok,
            UserHealth::Missing => &mut counts.missing,
            UserHealth::Failing => &mut counts.failing,
        }
    }

    fn note_state(&mut self, slot: u32, change: impl FnOnce(&mut Row)) {
        *self.state_count(slot) -= 1;
        change(&mut self.rows[slot as usize]);
        *self.state_count(slot) += 1;
    }

    fn note_left(&mut self, slot: u32, left: Left) {
        let row = &mut self.rows[slot as usize];
        let before = Left { catching_up: row.has(Row::CATCHING_UP), unwalked: row.has(Row::UNWALKED) };
        row.set(Row::CATCHING_UP, left.catching_up);
        row.set(Row::UNWALKED, left.unwalked);
        let counts = &mut self.pool(slot).counts;
        counts.catching_up = counts.catching_up - u64::from(before.catching_up) + u64::from(left.catching_up);
        counts.unwalked = counts.unwalked - u64::from(before.unwalked) + u64::from(left.unwalked);
    }

    fn polled(&mut self, slot: u32, now: UnixMillis) {
        self.unlink(slot);
        let row = &mut self.rows[slot as usize];
        row.polled_secs = seconds(now);
        row.set(Row::POLLED, true);
        self.link_last(slot);
    }

    fn link_last(&mut self, slot: u32) {
        let last = std::mem::replace(&mut self.pool(slot).last, slot);
        let row = &mut self.rows[slot as usize];
        (row.before, row.after) = (last, NONE);
        match self.rows.get_mut(last as usize) {
            Some(last) => last.after = slot,
            None => self.pool(slot).first = slot,
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Row { before, after, .. } = self.rows[slot as usize];
        match self.rows.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.pool(slot).first = after,
        }
        match self.rows.get_mut(after as usize) {
            Some(after) => after.before = before,
            None => self.pool(slot).last = before,
        }
    }
}

fn seconds(time: UnixMillis) -> u32 {
    u32::try_from(time.0.max(0) / 1000).unwrap_or(u32::MAX)
}

fn millis(secs: u32) -> UnixMillis {
    UnixMillis(0).plus(Duration::from_secs(secs.into()))
}

/// All names in one buffer, each behind its length. Names of users that left stay as holes until half of the buffer is
/// holes.
#[derive(Debug, Default)]
struct PackedNames {
    bytes: Vec<u8>,
    holes: usize,
}

impl PackedNames {
    const LENGTH_BYTES: usize = 2;

    /// Bytes of holes below which copying does not pay.
    const HOLES_MIN: usize = 64 * 1024;

    /// Adds a name. Answers None if 4 GiB are full, or if the name has 64 KiB, which no username has.
    fn keep(&mut self, name: &str) -> Option<u32> {
        let at = u32::try_from(self.bytes.len()).ok().filter(|at| *at != NONE)?;
        self.bytes.extend(u16::try_from(name.len()).ok()?.to_le_bytes());
        self.bytes.extend(name.as_bytes());
        Some(at)
    }

    fn get(&self, at: u32) -> &str {
        let (begin, len) = (at as usize + Self::LENGTH_BYTES, self.length(at));
        let name = self.bytes.get(begin..begin + len).map(std::str::from_utf8);
        debug_assert!(matches!(name, Some(Ok(_))), "a name lies at {at}");
        name.and_then(Result::ok).unwrap_or_default()
    }

    fn length(&self, at: u32) -> usize {
        let length = self.bytes.get(at as usize..).and_then(|rest| rest.first_chunk());
        length.map_or(0, |length| u16::from_le_bytes(*length).into())
    }

    fn forget(&mut self, at: u32) {
        self.holes += Self::LENGTH_BYTES + self.length(at);
    }

    fn is_mostly_holes(&self) -> bool {
        self.holes > Self::HOLES_MIN && self.holes > self.bytes.len() / 2
    }

    /// Moves the names in use together.
    fn compact<'a>(&mut self, places: impl Iterator<Item = &'a mut u32>) {
        let mut packed = Self { bytes: Vec::with_capacity(self.bytes.len() - self.holes), holes: 0 };
        for place in places {
            let moved = packed.keep(self.get(*place));
            debug_assert!(moved.is_some(), "fewer bytes than before");
            *place = moved.unwrap_or(*place);
        }
        *self = packed;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const POOL: PoolSlot = PoolSlot(0);
    const OTHER: PoolSlot = PoolSlot(7);

    fn at(secs: i64) -> UnixMillis {
        UnixMillis(secs * 1000)
    }

    #[test]
    fn a_view_tells_the_latest_poll_and_the_state_of_a_user_that_is_there() {
        let mut users = UserTable::default();
        let ann = users.join(POOL, "ann", at(1)).unwrap();
        let view = |users: &UserTable| users.view(ann).unwrap();
        assert_eq!(view(&users), UserView { health: UserHealth::Ok, failures: 0, polled: None });
        users.answered(ann, Some(at(5)), Left::default());
        assert_eq!(view(&users).polled, Some(at(5)));
        (0..FAILING_AFTER).for_each(|_| _ = users.failed(ann, None));
        let failing = UserView { health: UserHealth::Failing, failures: FAILING_AFTER, polled: Some(at(5)) };
        assert_eq!(view(&users), failing);
        users.failed(ann, Some(at(9)));
        assert_eq!((view(&users).health, view(&users).polled), (UserHealth::Missing, Some(at(9))));
        users.leave(POOL, "ann");
        assert_eq!((users.view(ann), users.view(UserSlot(70))), (None, None));
    }

    #[test]
    fn a_name_is_there_once_in_each_pool() {
        let mut users = UserTable::default();
        let ann = users.join(POOL, "ann", at(1)).unwrap();
        assert_eq!(users.join(POOL, "ann", at(2)), None);
        let other = users.join(OTHER, "ann", at(3)).unwrap();
        assert_eq!(users.begin(ann), Some((POOL, "ann".into())));
        assert_eq!(users.begin(other), Some((OTHER, "ann".into())));
        assert_eq!(users.leave(POOL, "ann"), Some(ann));
        assert_eq!((users.len(), users.leave(POOL, "ann"), users.begin(ann)), (1, None, None));
        assert_eq!(users.counts(POOL), PoolCounts::default());
    }

    #[test]
    fn a_place_is_not_given_away_while_its_turn_is_under_way() {
        let mut users = UserTable::default();
        let ann = users.join(POOL, "ann", at(1)).unwrap();
        users.begin(ann);
        users.leave(POOL, "ann");
        assert_ne!(users.join(POOL, "ben", at(2)).unwrap(), ann);
        assert_eq!((users.begin(ann), users.ended(ann)), (None, AfterTurn::Left));
        assert_eq!(users.join(POOL, "cleo", at(3)), Some(ann), "and now it is");
    }

    #[test]
    fn who_is_back_joins_when_the_turn_of_when_it_left_has_ended() {
        let mut users = UserTable::default();
        let ann = users.join(POOL, "ann", at(1)).unwrap();
        for stays in [true, false] {
            users.begin(ann);
            users.leave(POOL, "ann");
            assert_eq!(users.join(POOL, "ann", at(2)), None, "two turns at once");
            assert!(users.join(OTHER, "ann", at(2)).is_some_and(|slot| users.leave(OTHER, "ann") == Some(slot)));
            if !stays {
                assert_eq!((users.leave(POOL, "ann"), users.len()), (None, 0));
                assert_eq!(users.ended(ann), AfterTurn::Left);
                continue;
            }
            assert_eq!(users.ended(ann), AfterTurn::Back(POOL, "ann".into()));
            assert_eq!(users.join(POOL, "ann", at(3)), Some(ann));
        }
    }

    #[test]
    fn a_row_is_small() {
        assert_eq!(size_of::<Row>(), 24);
    }

    #[derive(Clone, Debug)]
    enum TableStep {
        Join(u8, u8),
        Leave(u8, u8),
        Begin(u8, u8),
        End(u8, u8),
        Answered(u8, u8, bool, Left),
        Failed(u8, u8, bool),
        NoneWaited,
    }

    fn left() -> impl Strategy<Value = Left> {
        any::<(bool, bool)>().prop_map(|(catching_up, unwalked)| Left { catching_up, unwalked })
    }

    fn step() -> impl Strategy<Value = TableStep> {
        let who = || (0..2_u8, 0..12_u8);
        prop_oneof![
            4 => who().prop_map(|(pool, name)| TableStep::Join(pool, name)),
            2 => who().prop_map(|(pool, name)| TableStep::Leave(pool, name)),
            2 => who().prop_map(|(pool, name)| TableStep::Begin(pool, name)),
            2 => who().prop_map(|(pool, name)| TableStep::End(pool, name)),
            4 => (who(), any::<bool>(), left()).prop_map(|((p, n), polled, left)| TableStep::Answered(p, n, polled, left)),
            3 => (who(), any::<bool>()).prop_map(|((pool, name), missing)| TableStep::Failed(pool, name, missing)),
            1 => Just(TableStep::NoneWaited),
        ]
    }

    #[derive(Clone, Copy)]
    struct TableUser {
        slot: UserSlot,
        polled: i64,
        failures: u8,
        missing: bool,
        left: Left,
        busy: bool,
    }

    impl TableUser {
        fn joined(slot: UserSlot, polled: i64) -> Self {
            Self {
                slot,
                polled,
                failures: 0,
                missing: false,
                left: Left { catching_up: false, unwalked: true },
                busy: false,
            }
        }
    }

    proptest! {
        /// A plain map gives the same answers after every step.
        #[test]
        fn what_is_kept_up_to_date_is_what_counting_would_say(steps in prop::collection::vec(step(), 0..200)) {
            let mut users = UserTable::default();
            let mut model: BTreeMap<(u8, u8), TableUser> = BTreeMap::new();
            // Users that have left while a turn was under way: the row, and whether the user is back.
            let mut leaving: BTreeMap<(u8, u8), (UserSlot, bool)> = BTreeMap::new();
            let name = |name: u8| format!("{}-{name}", "x".repeat(usize::from(name) * 3));
            for (time, step) in (1..).zip(steps) {
                match step {
                    TableStep::Join(pool, user) => {
                        let slot = users.join(PoolSlot(pool.into()), &name(user), at(time));
                        let is_there = model.contains_key(&(pool, user)) || leaving.contains_key(&(pool, user));
                        prop_assert_eq!(slot.is_none(), is_there);
                        leaving.entry((pool, user)).and_modify(|(_, back)| *back = true);
                        if let Some(slot) = slot {
                            prop_assert!(leaving.values().all(|(leaving, _)| *leaving != slot));
                            model.insert((pool, user), TableUser::joined(slot, time));
                        }
                    }
                    TableStep::Leave(pool, user) => {
                        let left = users.leave(PoolSlot(pool.into()), &name(user));
                        leaving.entry((pool, user)).and_modify(|(_, back)| *back = false);
                        let known = model.remove(&(pool, user));
                        prop_assert_eq!(left, known.map(|known| known.slot));
                        if let Some(TableUser { slot, busy: true, .. }) = known {
                            leaving.insert((pool, user), (slot, false));
                        }
                    }
                    TableStep::Begin(pool, user) => if let Some(known) = model.get_mut(&(pool, user)) {
                        prop_assert_eq!(users.begin(known.slot), Some((PoolSlot(pool.into()), name(user))));
                        known.busy = true;
                    },
                    TableStep::End(pool, user) => {
                        let of = PoolSlot(pool.into());
                        if let Some((slot, back)) = leaving.remove(&(pool, user)) {
                            let after = if back { AfterTurn::Back(of, name(user)) } else { AfterTurn::Left };
                            prop_assert_eq!(users.ended(slot), after);
                        } else if let Some(known) = model.get_mut(&(pool, user)).filter(|known| known.busy) {
                            prop_assert_eq!(users.ended(known.slot), AfterTurn::Stays(of));
                            known.busy = false;
                        }
                    }
                    TableStep::Answered(pool, user, polled, left) => if let Some(known) = model.get_mut(&(pool, user)) {
                        users.answered(known.slot, polled.then(|| at(time)), left);
                        let polled = if polled { time } else { known.polled };
                        *known = TableUser { polled, failures: 0, missing: false, left, ..*known };
                    },
                    TableStep::Failed(pool, user, missing) => if let Some(known) = model.get_mut(&(pool, user)) {
                        users.failed(known.slot, missing.then(|| at(time)));
                        known.failures += 1;
                        known.missing = missing;
                        if missing {
                            known.polled = time;
                            known.left.unwalked = false;
                        }
                    },
                    TableStep::NoneWaited => {
                        users.none_waited(at(time));
                        model.values_mut().for_each(|known| known.polled = time);
                    }
                }
                prop_assert_eq!(users.len(), model.len());
                for pool in 0..2_u8 {
                    let of_pool: Vec<_> = model.iter().filter(|((of, _), _)| *of == pool).map(|(_, known)| known).collect();
                    let count = |wanted: &dyn Fn(&TableUser) -> bool| of_pool.iter().filter(|known| wanted(known)).count() as u64;
                    let failing = |known: &TableUser| !known.missing && known.failures >= FAILING_AFTER;
                    let counted = PoolCounts {
                        ok: count(&|known| !known.missing && !failing(known)),
                        missing: count(&|known| known.missing),
                        failing: count(&failing),
                        catching_up: count(&|known| known.left.catching_up),
                        unwalked: count(&|known| known.left.unwalked),
                        oldest: of_pool.iter().map(|known| at(known.polled)).min(),
                    };
                    prop_assert_eq!(users.counts(PoolSlot(pool.into())), counted);
                }
            }
        }

        #[test]
        fn names_survive_the_packing(kept in prop::collection::vec("[a-zé]{0,40}", 1..40)) {
            let mut names = PackedNames::default();
            let mut places: Vec<_> = kept.iter().map(|name| names.keep(name).unwrap()).collect();
            let gone = names.keep("gone").unwrap();
            names.forget(gone);
            names.compact(places.iter_mut());
            prop_assert_eq!(places.iter().map(|place| names.get(*place).to_owned()).collect::<Vec<_>>(), kept);
        }
    }
}
