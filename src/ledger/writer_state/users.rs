//! How requests change the records of users.
//!
//! A change that must not be overwritten by a turn in progress gives the record a later time of joining. The turn's
//! commit is then refused as `NotEnrolled`, and its pages are read again.

use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::event::UnixMillis;

use super::WriteBatch;
use crate::ledger::UserRecord;
use crate::ledger::engine::Reader;
use crate::ledger::envelope::{OtherName, StoredRecord as _};
use crate::ledger::error::LedgerError;
use crate::ledger::keys;
use crate::ledger::names::RecordName;
use crate::ledger::store::Change;
use crate::ledger::stored_user::StoredUser;

/// Writes users as followed. A user who is enrolled with the same time of joining keeps the stored cursor: the given
/// one may be older than the last page's.
pub(super) fn enroll(
    users: Vec<(Vec<u8>, UserRecord)>,
    reader: &Reader,
    batch: &mut WriteBatch,
) -> Result<(), LedgerError> {
    let mut changes = Vec::new();
    for (key, mut record) in users {
        // A page of the same user may be in this batch.
        if let Some(stored) = user(&key, reader, batch)?
            && stored.joined == record.joined
        {
            (record.cursor, record.activity) = (stored.cursor, stored.activity);
        }
        remove_gone_note(&key, reader, batch, &mut changes)?;
        changes.push(written(key, &record));
    }
    batch.changes.extend(changes);
    Ok(())
}

/// Gives the name to another person. Events of the new person's history that were taken under the former record are
/// known to the new cursor: they were counted.
pub(super) fn replace_user(
    key: Vec<u8>,
    mut record: UserRecord,
    since: UnixMillis,
    reader: &Reader,
    batch: &mut WriteBatch,
) -> Result<(), LedgerError> {
    if let Some(before) = user(&key, reader, batch)? {
        record.joined = record.joined.max(later(before.joined));
        record.cursor = record.cursor.succeeding(before.cursor, since);
    }
    let mut changes = vec![(keys::other_name(&key), None)];
    remove_gone_note(&key, reader, batch, &mut changes)?;
    changes.push(written(key, &record));
    batch.changes.extend(changes);
    Ok(())
}

/// Moves a user to another name, with everything that is known under both names.
pub(super) fn merge_user(
    from: &[u8],
    (to, mut record): (Vec<u8>, UserRecord),
    reader: &Reader,
    batch: &mut WriteBatch,
) -> Result<(), LedgerError> {
    let Some(carried) = user(from, reader, batch)? else { return Ok(()) };
    match user(&to, reader, batch)? {
        Some(there) => {
            record.joined = record.joined.max(later(there.joined));
            record.cursor = there.cursor.joined_by(carried.cursor);
        }
        // The given time of joining stays: with an older one the user would seem to be another shard's.
        None => record.cursor = carried.cursor,
    }
    record.sub = record.sub.or(carried.sub);
    record.activity = carried.activity;
    let mut changes = vec![(from.to_vec(), None), (keys::other_name(from), None), (keys::other_name(&to), None)];
    remove_gone_note(from, reader, batch, &mut changes)?;
    remove_gone_note(&to, reader, batch, &mut changes)?;
    changes.push(written(to, &record));
    batch.changes.extend(changes);
    Ok(())
}

/// Notes that one of two names is another name of the other's user, and joins what both remember.
///
/// - If `first` is gone, `one` is followed with the cursor that has seen more.
/// - Else the name that has been followed for longer is followed, or `first` if both are as old. The other record stays
///   as it is, because its events were counted.
pub(super) fn merge(
    one: Vec<u8>,
    first: Vec<u8>,
    seen: UnixMillis,
    reader: &Reader,
    batch: &mut WriteBatch,
) -> Result<(), LedgerError> {
    let is_there = |note: Vec<u8>| batch.stored(&note, reader).map(|note| note.is_some());
    if is_there(keys::gone(&one))? || is_there(keys::other_name(&first))? {
        return Err(LedgerError::NotEnrolled);
    }
    let enrolled = |key: &[u8]| user(key, reader, batch)?.ok_or(LedgerError::NotEnrolled);
    if is_there(keys::gone(&first))? {
        let (mut record, gone) = (enrolled(&one)?, enrolled(&first)?);
        let newest = |cursor: &Cursor| cursor.last_seen().map(|last| last.time);
        let (mut base, other) = (gone.cursor, record.cursor);
        if newest(&base) > newest(&other) {
            base.remember_with(&other);
            record.cursor = base;
        } else {
            record.cursor = other;
            record.cursor.remember_with(&base);
        }
        record.joined = later(record.joined);
        batch.changes.push(written(one, &record));
        return Ok(());
    }
    let [one, first] = [(enrolled(&one)?, one), (enrolled(&first)?, first)];
    let ((mut other, other_key), (mut kept, kept_key)) =
        if one.0.cursor.live_since() < first.0.cursor.live_since() { (first, one) } else { (one, first) };
    let Some(RecordName::User { username: of, .. }) = RecordName::of(&kept_key) else {
        return Err(LedgerError::NotEnrolled);
    };
    kept.cursor.remember_with(&other.cursor);
    for record in [&mut kept, &mut other] {
        record.joined = later(record.joined);
    }
    batch.changes.extend([
        (keys::other_name(&kept_key), None),
        (keys::other_name(&other_key), Some(OtherName { of, seen: seen.0 }.seal())),
        written(kept_key, &kept),
        written(other_key, &other),
    ]);
    Ok(())
}

/// Updates the note that a name is another name of `of`, if there is such a note.
pub(super) fn still_merged(
    user: &[u8],
    of: String,
    seen: UnixMillis,
    reader: &Reader,
    batch: &mut WriteBatch,
) -> Result<(), LedgerError> {
    let note = keys::other_name(user);
    let noted = batch.stored(&note, reader)?.map(|noted| OtherName::open(&noted)).transpose()?;
    if noted.is_some_and(|noted| noted.of == of) {
        batch.changes.push((note, Some(OtherName { of, seen: seen.0 }.seal())));
    }
    Ok(())
}

/// Has a name followed again that was another name of `of`.
///
/// - If `of` is followed, the name is another user's now. Its events are live since both names last showed one history.
/// - If `of` is gone, the user is followed under this name, with everything that is known under `of`.
pub(super) fn part(key: Vec<u8>, of: &[u8], reader: &Reader, batch: &mut WriteBatch) -> Result<(), LedgerError> {
    let note = keys::other_name(&key);
    let Some(stored) = batch.stored(&note, reader)? else { return Ok(()) };
    let seen = UnixMillis(OtherName::open(&stored)?.seen);
    let mut changes = vec![(note, None)];
    if let Some(mut record) = user(&key, reader, batch)? {
        let is_followed = batch.stored(&keys::gone(of), reader)?.is_none();
        let known = user(of, reader, batch)?.filter(|_| !is_followed);
        record.cursor = known.map_or_else(|| Cursor::new(seen, seen), |known| known.cursor);
        record.joined = later(record.joined);
        changes.push(written(key, &record));
    }
    batch.changes.extend(changes);
    Ok(())
}

/// Has events since `from` logged again. Skips users without a record.
pub(super) fn rewind(
    users: Vec<Vec<u8>>,
    from: UnixMillis,
    reader: &Reader,
    batch: &mut WriteBatch,
) -> Result<(), LedgerError> {
    let mut changes = Vec::new();
    for key in users {
        let Some(mut record) = user(&key, reader, batch)? else { continue };
        if record.cursor.rewind(from) {
            changes.push(written(key, &record));
        }
    }
    batch.changes.extend(changes);
    Ok(())
}

/// Moves a user to the present name in the ledger. A user who is gone stays gone.
pub(super) fn rename(
    from: Vec<u8>,
    (key, record): (Vec<u8>, Box<UserRecord>),
    reader: &Reader,
    batch: &mut WriteBatch,
) -> Result<(), LedgerError> {
    let gone = keys::gone(&from);
    if let Some(note) = batch.stored(&gone, reader)? {
        batch.changes.extend([(gone, None), (keys::gone(&key), Some(note))]);
    }
    batch.changes.extend([(keys::other_name(&from), None), (from, None), written(key, &record)]);
    Ok(())
}

/// Reads a user as it will be once the batch is written.
fn user(key: &[u8], reader: &Reader, batch: &WriteBatch) -> Result<Option<UserRecord>, LedgerError> {
    batch.stored(key, reader)?.map(|stored| StoredUser::open(&stored)?.try_into()).transpose()
}

/// The change that writes a user's record.
fn written(key: Vec<u8>, record: &UserRecord) -> Change {
    (key, Some(StoredUser::from(record).seal()))
}

/// A later time of joining, so that commits of turns in progress are refused.
fn later(joined: UnixMillis) -> UnixMillis {
    UnixMillis(joined.0.saturating_add(1))
}

/// Removes the note that a user is gone, if there is one.
fn remove_gone_note(
    user: &[u8],
    reader: &Reader,
    batch: &WriteBatch,
    changes: &mut Vec<Change>,
) -> Result<(), LedgerError> {
    let gone = keys::gone(user);
    if batch.stored(&gone, reader)?.is_some() {
        changes.push((gone, None));
    }
    Ok(())
}
