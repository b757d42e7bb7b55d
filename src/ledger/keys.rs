//! The ledger's keys: one ordered map, with a letter for each kind of record.
//!
//! ```text
//! m/<name>               a record of the whole ledger
//! p/<pool>               a pool that is followed
//! t/<pool>/<series>      a total: a durable counter
//! u/<pool>/<username>    a user and its cursor
//! a/<pool>/<username>    a note that this is another name of a followed user; absent for other names
//! g/<pool>/<username>    a note that the user is gone, and since when; absent for followed users
//! r/<pool>               how far the log group of the pool's export was read
//! o/<sequence, 8 bytes>  an entry of the outbox, in the order of delivery
//! q/<sequence, 8 bytes>  an entry of the quarantine, under its number from the outbox
//! c/<pool>               the time from which on the pool's told events are complete; absent without an export
//! e/<pool>/<second, 8 bytes><event, 16 bytes>
//!                        a told event of a pool with an export, in the order of the dates
//! ```
//!
//! A pool id has no `/` (`[\w-]+_[0-9a-zA-Z]+`), a username may have some. The first `/` after the pool id ends it.

use std::ops::Range;

use cognito_auth_core::event::EventKey;

/// The ledger's format.
pub(super) const FORMAT: &[u8] = b"m/format";
/// The instance id.
pub(super) const INSTANCE: &[u8] = b"m/instance";
/// The number of the next entry in the outbox.
pub(super) const SEQUENCE: &[u8] = b"m/sequence";
/// The number of batches that have been written.
pub(super) const GROUPS: &[u8] = b"m/groups";
/// The privacy settings; absent if everything may be stored.
pub(super) const PRIVACY: &[u8] = b"m/privacy";
/// Since when the former ledger is lost, in a ledger that replaced a damaged one. Events since then are live.
pub(super) const LOST_SINCE: &[u8] = b"m/lost-since";

/// When `/metrics` was last scraped, to the hour; absent in a ledger that no wait for a scrape has ended for.
pub(super) const SCRAPES: &[u8] = b"m/scrapes";

pub(super) fn pool(pool_id: &str) -> Vec<u8> {
    [b"p/", pool_id.as_bytes()].concat()
}

/// All pools.
pub(super) fn pools() -> Range<Vec<u8>> {
    prefix(b"p/")
}

pub(super) fn read_position(pool_id: &str) -> Vec<u8> {
    [b"r/", pool_id.as_bytes()].concat()
}

pub(super) fn total(pool_id: &str, series: &str) -> Vec<u8> {
    within(b't', pool_id, series)
}

/// All totals of one pool, or, without a pool, of all pools.
pub(super) fn totals(pool_id: Option<&str>) -> Range<Vec<u8>> {
    pool_id.map_or_else(|| prefix(b"t/"), |pool_id| prefix(&within(b't', pool_id, "")))
}

/// Returns the pool and the series in a total's key.
pub(super) fn total_of(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key).ok()?.strip_prefix("t/")?.split_once('/')
}

pub(super) fn user(pool_id: &str, username: &str) -> Vec<u8> {
    within(b'u', pool_id, username)
}

/// All users of one pool.
pub(super) fn users(pool_id: &str) -> Range<Vec<u8>> {
    prefix(&within(b'u', pool_id, ""))
}

/// The notes on all gone users of one pool.
pub(super) fn gone_users(pool_id: &str) -> Range<Vec<u8>> {
    prefix(&within(b'g', pool_id, ""))
}

/// The key of the note that the user with this key is gone. It is a record of its own, because turns write the user's
/// record and do not know who is gone.
pub(super) fn gone(user: &[u8]) -> Vec<u8> {
    debug_assert!(user.starts_with(b"u/"), "a user's key");
    let mut key = user.to_vec();
    if let Some(kind) = key.first_mut() {
        *kind = b'g';
    }
    key
}

/// The key of the note that this name is another name of a followed user. It is a record of its own, because discovery
/// writes the user's record and does not know of the other name.
pub(super) fn other_name(user: &[u8]) -> Vec<u8> {
    debug_assert!(user.starts_with(b"u/"), "a user's key");
    let mut key = user.to_vec();
    if let Some(kind) = key.first_mut() {
        *kind = b'a';
    }
    key
}

pub(super) fn outbox(sequence: u64) -> Vec<u8> {
    [b"o/".as_slice(), &sequence.to_be_bytes()].concat()
}

pub(super) fn quarantine(sequence: u64) -> Vec<u8> {
    [b"q/".as_slice(), &sequence.to_be_bytes()].concat()
}

/// All records.
pub(super) fn everything() -> Range<Vec<u8>> {
    Vec::new()..vec![0xff]
}

/// The outbox from `first` on, up to `end` exclusive.
pub(super) fn outbox_between(first: u64, end: u64) -> Range<Vec<u8>> {
    outbox(first)..outbox(end.max(first))
}

/// The whole outbox.
pub(super) fn outbox_all() -> Range<Vec<u8>> {
    prefix(b"o/")
}

/// The quarantine from `first` on.
pub(super) fn quarantine_from(first: u64) -> Range<Vec<u8>> {
    quarantine(first)..prefix(b"q/").end
}

/// Returns the number in a key of the outbox or the quarantine.
pub(super) fn sequence_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(2..)?.try_into().ok()?))
}

/// The record that says from when on a pool's told events are complete.
pub(super) fn told_since(pool_id: &str) -> Vec<u8> {
    [b"c/", pool_id.as_bytes()].concat()
}

/// A told event. Seconds before 1970 sort first.
pub(super) fn told(pool_id: &str, second: i64, event: EventKey) -> Vec<u8> {
    let mut key = Vec::new();
    put_told(&mut key, pool_id, second, event);
    key
}

/// Makes the key of a told event in a place that is used again.
pub(super) fn put_told(key: &mut Vec<u8>, pool_id: &str, second: i64, event: EventKey) {
    debug_assert!(!pool_id.contains('/'), "a pool id holds no slash");
    key.clear();
    let parts = [b"e/".as_slice(), pool_id.as_bytes(), b"/", &ordered(second).to_be_bytes(), &event.0];
    key.reserve_exact(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| key.extend_from_slice(part));
}

/// The told events of one pool with dates in seconds above `after`, up to `until` inclusive.
pub(super) fn told_between(pool_id: &str, after: i64, until: i64) -> Range<Vec<u8>> {
    let bound = |second: i64| match second.checked_add(1) {
        Some(next) => [within(b'e', pool_id, "").as_slice(), &ordered(next).to_be_bytes()].concat(),
        None => prefix(&within(b'e', pool_id, "")).end,
    };
    bound(after)..bound(until.max(after))
}

/// All told events of one pool.
pub(super) fn told_all(pool_id: &str) -> Range<Vec<u8>> {
    prefix(&within(b'e', pool_id, ""))
}

/// Returns the pool, the second and the event in the key of a told event.
pub(super) fn told_of(key: &[u8]) -> Option<(&str, i64, EventKey)> {
    let (rest, event) = key.strip_prefix(b"e/")?.split_last_chunk()?;
    let (pool_id, second) = rest.split_last_chunk()?;
    let pool_id = std::str::from_utf8(pool_id.strip_suffix(b"/")?).ok()?;
    let second = (u64::from_be_bytes(*second) ^ SIGN).cast_signed();
    (!pool_id.contains('/')).then_some((pool_id, second, EventKey(*event)))
}

const SIGN: u64 = 1 << 63;

/// A number that sorts like the second.
fn ordered(second: i64) -> u64 {
    second.cast_unsigned() ^ SIGN
}

fn within(kind: u8, pool_id: &str, rest: &str) -> Vec<u8> {
    debug_assert!(!pool_id.contains('/'), "a pool id holds no slash");
    [&[kind, b'/'], pool_id.as_bytes(), b"/", rest.as_bytes()].concat()
}

/// All keys that begin with `prefix`, which ends with an ASCII character.
fn prefix(prefix: &[u8]) -> Range<Vec<u8>> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    prefix.to_vec()..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_username_may_hold_anything_and_stays_in_its_pool() {
        for username in ["", "/", "a/b", "\u{10ffff}", "x\0y", "ü@example.com"] {
            let key = user("eu-west-1_A", username);
            assert!(users("eu-west-1_A").contains(&key));
            assert!(!users("eu-west-1_AB").contains(&key) && !users("eu-west-1_").contains(&key));
            assert!(key.ends_with(username.as_bytes()));
        }
    }

    #[test]
    fn who_is_gone_lies_apart_in_the_same_order() {
        let key = gone(&user("eu-west-1_A", "a/b"));
        assert!(gone_users("eu-west-1_A").contains(&key) && !users("eu-west-1_A").contains(&key));
        assert_eq!(gone_users("eu-west-1_A").start.len(), users("eu-west-1_A").start.len());
    }

    #[test]
    fn a_total_says_whose_it_is() {
        assert_eq!(total_of(&total("eu-west-1_A", "events/a/b")), Some(("eu-west-1_A", "events/a/b")));
        assert_eq!(total_of(&user("eu-west-1_A", "ann")), None);
    }

    #[test]
    fn told_events_are_in_the_order_of_their_seconds_and_stay_in_their_pool() {
        let key = |second| told("eu-west-1_A", second, EventKey([7; 16]));
        let seconds = [i64::MIN, -1, 0, 1, i64::MAX];
        assert!(seconds.map(key).is_sorted());
        for second in seconds {
            assert_eq!(told_of(&key(second)), Some(("eu-west-1_A", second, EventKey([7; 16]))));
            assert!(told_all("eu-west-1_A").contains(&key(second)) && !told_all("eu-west-1_").contains(&key(second)));
        }
        let range = told_between("eu-west-1_A", -1, 1);
        assert_eq!(seconds.map(|second| range.contains(&key(second))), [false, false, true, true, false]);
        assert!(told_between("eu-west-1_A", 1, i64::MAX).contains(&key(i64::MAX)));
        assert!(told_between("eu-west-1_A", i64::MAX, i64::MAX).is_empty());
        assert_eq!(told_of(b"e/short"), None);
    }

    #[test]
    fn the_outbox_is_in_the_order_of_its_numbers() {
        assert!(outbox(255) < outbox(256) && outbox(256) < outbox(u64::MAX));
        assert!(outbox_all().contains(&outbox(0)) && outbox_all().contains(&outbox(u64::MAX)));
        assert!(!outbox_all().contains(&quarantine(0)) && quarantine_from(3).contains(&quarantine(3)));
        assert_eq!(sequence_of(&outbox(7)), Some(7));
        assert_eq!(sequence_of(b"o/short"), None);
        assert!(outbox_between(9, 3).is_empty());
    }
}
