//! The ledger's keys: one tree, a letter for each kind of record.
//!
//! ```text
//! m/<name>                      what the ledger is: its instance id
//! p/<pool id>                   a pool, and since when it is followed
//! u/<pool id>/<username>        a user's cursor; a pool id holds no slash, a username may
//! t/<pool id>/<series>          a durable total
//! o/<id, 8 bytes>               an entry that waits for delivery, oldest first
//! q/<id, 8 bytes>               an entry that the receiver refused
//! ```

use crate::courier::OutboxId;

/// Every entry that waits.
pub(super) const OUTBOX: &[u8] = b"o/";
/// Every entry that was refused.
pub(super) const QUARANTINE: &[u8] = b"q/";
/// The instance id.
pub(super) const INSTANCE: &[u8] = b"m/instance";
/// Every total of every pool.
pub(super) const TOTALS: &[u8] = b"t/";

pub(super) fn pool(pool: &str) -> Vec<u8> {
    [b"p/", pool.as_bytes()].concat()
}

/// The keys of every user of a pool.
pub(super) fn users(pool: &str) -> Vec<u8> {
    [b"u/", pool.as_bytes(), b"/"].concat()
}

pub(super) fn user(pool: &str, username: &str) -> Vec<u8> {
    [&users(pool), username.as_bytes()].concat()
}

pub(super) fn total(pool: &str, series: &str) -> Vec<u8> {
    [TOTALS, pool.as_bytes(), b"/", series.as_bytes()].concat()
}

/// Pool and series of a total's key.
pub(super) fn parse_total(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key.strip_prefix(TOTALS)?).ok()?.split_once('/')
}

pub(super) fn outbox(id: OutboxId) -> Vec<u8> {
    [OUTBOX, &id.0.to_be_bytes()].concat()
}

pub(super) fn quarantine(id: OutboxId) -> Vec<u8> {
    [QUARANTINE, &id.0.to_be_bytes()].concat()
}

/// The id in a key of the outbox or the quarantine.
pub(super) fn parse_id(key: &[u8]) -> Option<OutboxId> {
    let id = key.strip_prefix(OUTBOX).or_else(|| key.strip_prefix(QUARANTINE))?;
    Some(OutboxId(u64::from_be_bytes(id.try_into().ok()?)))
}
