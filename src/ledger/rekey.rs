//! Rewriting the ledger when the privacy settings have changed. The whole ledger is rewritten before its first use.
//!
//! ```text
//!  kept ------> hashed     the ledger has the names: each user's record moves to the hash at once
//!  hashed ----> kept       the ledger has no names: a record moves when a listing gives the name
//!                          (`Ledger::recognise`)
//!  hashed ----> other key  the same, while the former key is given; without it the ledger is refused, because
//!                          users who are not recognised would start as new users, and be counted again
//! ```
//!
//! Cursors and totals are copied as they are. Only names and entries change. The new store is built beside the old one
//! and replaces it in one step, and the old one is removed with all its data. A process that dies leaves the one or the
//! other (see [`state_dir`](super::state_dir)). A damaged ledger that was moved aside is not rewritten.

use cognito_auth_core::entry::Entry;
use cognito_auth_core::privacy::{self, Privacy};

use super::UserRecord;
use super::engine::{Engine, Reader};
use super::envelope::{PrivacyNote, StoreFormat, StoredRecord as _};
use super::error::LedgerError;
use super::keys;
use super::names::RecordName;
use super::outbox;
use super::state_dir::StateDir;
use super::store::{Change, Store as _, StoreReader as _};
use super::stored_entry::{StoredEntry, StoredRefusal};
use super::stored_user::StoredUser;
use super::told::StoredTold;
use super::writer_state::WriterState;

/// Records of one write. Hashed names come in no order, and the engine's memory grows with random keys.
const AT_ONCE: usize = 100;

/// Rewrites the store if it was stored under other privacy settings.
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
    tracing::info!("the ledger is rewritten, because the privacy settings have changed; this takes a while");
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
    state_dir.note_opened(writer_state.batches, noted.and_then(|noted| noted.time))?;
    Ok((engine, writer_state))
}

/// The records that note the privacy settings. Where names are hashed the format is newer, because an older build would
/// take all users for new ones.
fn notes(privacy: &Privacy) -> Vec<Change> {
    let note = privacy.note();
    let number = if note.is_empty() { StoreFormat::NUMBER_PLAIN } else { StoreFormat::NUMBER };
    let note = (!note.is_empty()).then(|| PrivacyNote { note }.seal());
    vec![(keys::PRIVACY.to_vec(), note), (keys::FORMAT.to_vec(), Some(StoreFormat { number }.seal()))]
}

fn is_empty(reader: &Reader) -> Result<bool, LedgerError> {
    let mut is_empty = true;
    reader.each_while(keys::everything(), |key, _| {
        is_empty &= matches!(
            RecordName::of(key),
            Some(RecordName::Ledger { .. } | RecordName::Pool { .. } | RecordName::ReadPosition { .. })
        );
        Ok(is_empty)
    })?;
    Ok(is_empty)
}

/// Refuses a ledger with names hashed under a key that is not given. Hashed names come first in a pool's range, and
/// those of one key are neighbours, so one read for each key is enough.
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

/// Returns a record as it may be stored. A record that cannot be read is copied as it is.
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
        Some(RecordName::Told { .. }) => {
            (key.to_vec(), Some(StoredTold::without_user(value).unwrap_or_else(|_| value.to_vec())))
        }
        // It has another user's name in it. The first page that both names show makes it again.
        Some(RecordName::OtherName { .. }) => (key.to_vec(), None),
        Some(RecordName::Outbox { number }) => outbox::rewritten(number, value, |sealed| entry(sealed, privacy))
            .map_or_else(|_| as_it_is(), |record| (key.to_vec(), Some(record))),
        Some(RecordName::Quarantine { .. }) => {
            let refusal = StoredRefusal::open(value).ok();
            let private = refusal.and_then(|refusal| {
                // An exported record that cannot be read is no entry. It may name anybody.
                let value = entry(&refusal.value, privacy).or_else(|| (!privacy.modes().keep_all()).then(Vec::new))?;
                Some(StoredRefusal { value, ..refusal }.seal())
            });
            private.map_or_else(as_it_is, |refusal| (key.to_vec(), Some(refusal)))
        }
        _ => as_it_is(),
    }
}

/// Returns an entry as it may be stored; None if it cannot be read.
fn entry(value: &[u8], privacy: &Privacy) -> Option<Vec<u8>> {
    let entry = privacy.apply(Entry::from(StoredEntry::open(value).ok()?));
    Some(StoredEntry::from(entry).seal())
}
