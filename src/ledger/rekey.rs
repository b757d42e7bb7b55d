//! A change of what may be stored: the ledger is made private anew, whole, before anybody uses it.
//!
//! ```text
//!  kept ------> hashed     names are in the ledger: each user goes on under its hash, at once
//!  hashed ----> kept       names are not: each goes on under its name when a listing gives it, see `Ledger::recognise`
//!  hashed ----> other key  the same, as long as the former key is given; without it the ledger is refused, because users
//!                          who are not recognised would begin anew, and be counted again
//! ```
//!
//! Cursors and totals are copied as they are; only names and entries change. The new store is built beside the old one, takes
//! its place in one step, and the old one is removed with all that it held: a process that dies leaves the one or the other
//! (see [`state_dir`](super::state_dir)). What lies in a damaged ledger that was moved aside stays as it was.

use cognito_auth_core::entry::Entry;
use cognito_auth_core::privacy::{self, Privacy};

use super::UserRecord;
use super::engine::{Change, Engine, Reader};
use super::envelope::{Format, PrivacyNote, Record as _};
use super::error::LedgerError;
use super::keys;
use super::names::RecordName;
use super::state_dir::StateDir;
use super::stored_entry::{StoredEntry, StoredRefusal};
use super::stored_user::StoredUser;
use super::writer_state::WriterState;

/// Records of one write: hashed names come in no order, and the engine's memory grows with random keys.
const AT_ONCE: usize = 100;

/// Makes the store private as it is to be, if it is not.
pub(super) fn make_private(
    state_dir: &mut StateDir,
    mut engine: Engine,
    writer_state: WriterState,
    privacy: &Privacy,
) -> Result<(Engine, WriterState), LedgerError> {
    let reader = engine.reader();
    refuse_unknown_keys(reader, privacy)?;
    let noted = reader.get(keys::PRIVACY)?.map(|note| PrivacyNote::open(&note)).transpose()?.unwrap_or_default().note;
    if noted == privacy.note() {
        return Ok((engine, writer_state));
    }
    if is_empty(reader)? {
        engine.write(notes(privacy))?;
        return Ok((engine, writer_state));
    }
    tracing::info!("the ledger is made private anew, because the settings have changed; this takes a while");
    let mut private = state_dir.begin_import()?;
    let mut changes = Vec::new();
    reader.each(keys::everything(), |key, value| {
        changes.push(made_private(key, value, privacy));
        if changes.len() >= AT_ONCE {
            private.write(std::mem::take(&mut changes))?;
        }
        Ok(())
    })?;
    changes.extend(notes(privacy));
    private.write(changes)?;
    let noted = state_dir.last_commit();
    drop((private, engine, writer_state));
    state_dir.complete_private()?;
    let (engine, writer_state) = state_dir.open_existing()?;
    state_dir.note_opened(writer_state.groups, noted.and_then(|noted| noted.time))?;
    Ok((engine, writer_state))
}

/// What the ledger says of its privacy. Where names are hidden, an older build would take everybody for new.
fn notes(privacy: &Privacy) -> Vec<Change> {
    let note = privacy.note();
    let number = if note.is_empty() { Format::NUMBER_PLAIN } else { Format::NUMBER };
    let note = (!note.is_empty()).then(|| PrivacyNote { note }.seal());
    vec![(keys::PRIVACY.to_vec(), note), (keys::FORMAT.to_vec(), Some(Format { number }.seal()))]
}

fn is_empty(reader: &Reader) -> Result<bool, LedgerError> {
    let mut is_empty = true;
    reader.each_while(keys::everything(), |key, _| {
        is_empty &= matches!(RecordName::of(key), Some(RecordName::Ledger { .. } | RecordName::Pool { .. }));
        Ok(is_empty)
    })?;
    Ok(is_empty)
}

/// Hidden names lie in front of a pool's others, and those of one key together: one look for each key.
fn refuse_unknown_keys(reader: &Reader, privacy: &Privacy) -> Result<(), LedgerError> {
    for pool in reader.keys(keys::pools(), usize::MAX)? {
        let Some(RecordName::Pool { user_pool_id }) = RecordName::of(&pool) else { continue };
        let mut range = keys::users(&user_pool_id);
        while let Some(RecordName::User { username, .. }) =
            reader.keys(range.clone(), 1)?.first().and_then(|key| RecordName::of(key))
        {
            let Some((key_name, _)) = username.trim_start_matches(' ').split_once(' ') else { break };
            if !privacy::is_hidden(&username) {
                break;
            }
            if !privacy.knows(&username) {
                return Err(LedgerError::UnknownKey { key: key_name.to_owned() });
            }
            range.start = keys::user(&user_pool_id, &format!(" {key_name}!"));
        }
    }
    Ok(())
}

/// A record as it may be stored. What cannot be read stays as it lies: it is nobody's to change.
fn made_private(key: &[u8], value: &[u8], privacy: &Privacy) -> Change {
    let as_it_is = || (key.to_vec(), Some(value.to_vec()));
    match RecordName::of(key) {
        Some(RecordName::User { user_pool_id, username }) => {
            let key = keys::user(&user_pool_id, &privacy.ledger_name(&username));
            let record = StoredUser::open(value).and_then(UserRecord::try_from);
            let private = record.map(|mut record| {
                record.sub = record.sub.map(|sub| privacy.ledger_name(&sub));
                StoredUser::from(&record).seal()
            });
            (key, Some(private.unwrap_or_else(|_| value.to_vec())))
        }
        Some(RecordName::Gone { user_pool_id, username }) => {
            (keys::gone(&keys::user(&user_pool_id, &privacy.ledger_name(&username))), Some(value.to_vec()))
        }
        // It says another user's name. It is found out again by the first page that both names show.
        Some(RecordName::OtherName { .. }) => (key.to_vec(), None),
        Some(RecordName::Outbox { .. }) => {
            entry(value, privacy).map_or_else(as_it_is, |entry| (key.to_vec(), Some(entry)))
        }
        Some(RecordName::Quarantine { .. }) => {
            let refusal = StoredRefusal::open(value).ok();
            let private = refusal.and_then(|refusal| {
                let value = entry(&refusal.value, privacy)?;
                Some(StoredRefusal { value, ..refusal }.seal())
            });
            private.map_or_else(as_it_is, |refusal| (key.to_vec(), Some(refusal)))
        }
        _ => as_it_is(),
    }
}

fn entry(value: &[u8], privacy: &Privacy) -> Option<Vec<u8>> {
    let entry = privacy.apply(Entry::from(StoredEntry::open(value).ok()?));
    Some(StoredEntry::from(entry).seal())
}
