//! The users in the ledger: their cursors, whether they are followed or gone, and names that are one user's.
//!
//! Callers use a user's name. The ledger stores the name that [`Privacy::ledger_name`] gives it.
//!
//! [`Privacy::ledger_name`]: cognito_auth_core::privacy::Privacy::ledger_name

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::schedule::ActivityEstimate;

use super::envelope::{Gone, OtherName, StoredRecord as _};
use super::store::StoreReader as _;
use super::stored_user::StoredUser;
use super::writer::BATCH_PLACES_MAX;
use super::writer_state::WriteRequest;
use super::{Ledger, LedgerError, keys};

/// A user's record.
#[derive(Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// When the user joined the followed users.
    pub joined: UnixMillis,
    /// The user's `sub`, where a listing gave it.
    pub sub: Option<String>,
    /// The state of the user's history.
    pub cursor: Cursor,
    /// How active the user was when the cursor was written; None before the first estimate.
    pub activity: Option<ActivityAt>,
}

impl fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserRecord").field("joined", &self.joined).field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

/// A user's record without the cursor, and whether the user is gone.
#[derive(Clone, PartialEq, Eq)]
pub struct UserStanding {
    /// The user's `sub`, where a listing gave it.
    pub sub: Option<String>,
    /// When the user joined the followed users.
    pub joined: UnixMillis,
    /// Since when the user is gone; None for a followed user.
    pub gone_since: Option<UnixMillis>,
    /// Since when the user's events are live.
    pub live_since: UnixMillis,
    /// How active the user was; None before the first estimate.
    pub activity: Option<ActivityAt>,
}

impl fmt::Debug for UserStanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("UserStanding");
        shown.field("joined", &self.joined).field("gone_since", &self.gone_since).finish_non_exhaustive()
    }
}

/// The followed name of a user, for another name of the same user.
#[derive(Clone, PartialEq, Eq)]
pub struct Twin {
    /// The name under which the user is followed, as the ledger stores it.
    pub of: String,
    /// When both names last showed the same history.
    pub seen: UnixMillis,
}

impl fmt::Debug for Twin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Twin").field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// A user's activity estimate at a moment, in its stored form. It is written only with pages that brought something:
/// a poll that finds nothing shows only silence, which [`ActivityAt::aged`] accounts for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActivityAt {
    pub(super) bytes: [u8; ActivityEstimate::STORED],
    pub(super) at: UnixMillis,
}

impl ActivityAt {
    /// Makes the stored form of an estimate.
    pub fn new(activity: ActivityEstimate, at: UnixMillis) -> Self {
        Self { bytes: activity.to_bytes(), at }
    }

    /// Returns the estimate at `now`, if nothing has happened since.
    pub fn aged(&self, now: UnixMillis) -> ActivityEstimate {
        ActivityEstimate::from_bytes(self.bytes).aged(now.since(self.at))
    }
}

/// Reads of users.
impl Ledger {
    /// Reads a user's record.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn user(&self, pool_id: &str, username: &str) -> Result<Option<UserRecord>, LedgerError> {
        let stored = self.reading(|reader| reader.get(&self.user_key(pool_id, username)))?;
        stored.map(|bytes| StoredUser::open(&bytes)?.try_into()).transpose()
    }

    /// Finds a user by the username, by the ledger's name for it, or by the `user.hash` of a record. Returns a name
    /// that the other functions take; None if there is no such user.
    ///
    /// # Errors
    /// The ledger has failed or is closed.
    pub fn find_user(&self, pool_id: &str, text: &str) -> Result<Option<String>, LedgerError> {
        let names = std::iter::once(text.to_owned()).chain(self.0.privacy.names_of_hash(text));
        for name in names {
            if self.reading(|reader| reader.get(&self.user_key(pool_id, &name)))?.is_some() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Returns the `user.hash` of a user's records; None if records carry no hash.
    pub fn user_hash(&self, username: &str) -> Option<String> {
        self.0.privacy.user_hash(username)
    }

    /// Reads a user's standing. It does not decode the cursor.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn standing(&self, pool_id: &str, username: &str) -> Result<Option<UserStanding>, LedgerError> {
        let key = self.user_key(pool_id, username);
        let Some(user) = self.reading(|reader| reader.get(&key))? else { return Ok(None) };
        let gone = self.reading(|reader| reader.get(&keys::gone(&key)))?;
        let standing = StoredUser::standing(&user)?;
        let gone = gone.map(|gone| Gone::open(&gone)).transpose()?;
        Ok(Some(UserStanding { gone_since: gone.map(|gone| UnixMillis(gone.since)), ..standing }))
    }

    /// Reads the followed name of the user that also has this name; None if this name is not noted as another name.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn twin(&self, pool_id: &str, username: &str) -> Result<Option<Twin>, LedgerError> {
        let note = self.reading(|reader| reader.get(&keys::other_name(&self.user_key(pool_id, username))))?;
        let twin =
            |note: Vec<u8>| OtherName::open(&note).map(|OtherName { of, seen }| Twin { of, seen: UnixMillis(seen) });
        note.map(twin).transpose()
    }

    /// Reads the names of a pool's users, followed or gone, as the ledger stores them and in order. It reads a few at a
    /// time, each as it is then.
    pub fn usernames(&self, pool_id: &str) -> impl Iterator<Item = Result<String, LedgerError>> + use<> {
        Usernames::within(self, keys::users(pool_id))
    }

    /// Reads the names of a pool's followed users: [`Ledger::usernames`] without the users who are gone.
    pub fn followed(&self, pool_id: &str) -> impl Iterator<Item = Result<String, LedgerError>> + use<> {
        let users = Usernames::within(self, keys::users(pool_id));
        let mut gone = Usernames::within(self, keys::gone_users(pool_id)).peekable();
        users.filter(move |user| {
            let Ok(user) = user else { return true };
            // Both are in order. A note that cannot be read counts as absent: the next listing pass finds the user
            // gone.
            while gone.next_if(|gone| gone.as_ref().is_ok_and(|gone| gone < user)).is_some() {}
            gone.next_if(|gone| gone.as_ref() == Ok(user)).is_none()
        })
    }

    /// Reads the users who are gone and not forgotten, in order, and since when each is gone.
    pub fn gone(&self, pool_id: &str) -> impl Iterator<Item = Result<(String, UnixMillis), LedgerError>> + use<> {
        let (ledger, pool_id) = (self.clone(), pool_id.to_owned());
        Usernames::within(self, keys::gone_users(&pool_id)).filter_map(move |username| {
            let since = |username: String| {
                let gone = ledger.reading(|reader| reader.get(&keys::gone(&keys::user(&pool_id, &username))))?;
                gone.map(|gone| Ok((username, UnixMillis(Gone::open(&gone)?.since)))).transpose()
            };
            username.and_then(since).transpose()
        })
    }
}

/// Changes of users.
impl Ledger {
    /// Adds users to the followed users, also users who were gone. A user who is enrolled with the same time of joining
    /// keeps the stored cursor, which may be newer than the given one. So this may run beside the user's own commits.
    ///
    /// # Errors
    /// Some may not have been written: the ledger has failed or is closed.
    pub async fn enroll(&self, pool_id: &str, users: Vec<(String, UserRecord)>) -> Result<(), LedgerError> {
        let mut users =
            users.into_iter().map(|(username, record)| (self.user_key(pool_id, &username), self.private(record)));
        loop {
            let part: Vec<_> = users.by_ref().take(BATCH_PLACES_MAX).collect();
            if part.is_empty() {
                return Ok(());
            }
            self.write(WriteRequest::Enroll(part)).await?;
        }
    }

    /// Gives a user's name to another person, whose history began at `since`. The record is a new one, but for the part
    /// of that history that was already taken. Commits of pages that were read for the former person are refused.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn replace_user(
        &self,
        pool_id: &str,
        username: &str,
        record: UserRecord,
        since: UnixMillis,
    ) -> Result<(), LedgerError> {
        let user = (self.user_key(pool_id, username), Box::new(self.private(record)));
        self.write(WriteRequest::ReplaceUser { user, since }).await
    }

    /// Moves a user to another name and joins what is known under both, in one atomic write. `record` is for a name
    /// `to` that has no record yet. Nothing happens if no user has the name `from`.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn merge_user(&self, pool_id: &str, from: &str, to: &str, record: UserRecord) -> Result<(), LedgerError> {
        let (from, to) = (self.user_key(pool_id, from), self.user_key(pool_id, to));
        self.write(WriteRequest::MergeUser { from, to: (to, Box::new(self.private(record))) }).await
    }

    /// Has two names of one user followed under one of them, in one atomic write: under the name that has been followed
    /// for longer, or else under `first`. `seen` is when both showed the same event. If `first` is gone, `name` is
    /// followed, with everything that is known of the user.
    ///
    /// # Errors
    /// `NotEnrolled`: nothing was written, because `name` is not followed or `first` has no record. Any other error: it
    /// may not have been written, because the ledger has failed or is closed.
    pub async fn merge(&self, pool_id: &str, name: &str, first: &str, seen: UnixMillis) -> Result<(), LedgerError> {
        let keys = [name, first].map(|name| self.user_key(pool_id, name));
        self.write(WriteRequest::Merge { keys, seen }).await
    }

    /// Updates the note that two names are one user's, if there is such a note.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn still_merged(&self, pool_id: &str, name: &str, twin: Twin) -> Result<(), LedgerError> {
        let (user, of) = (self.user_key(pool_id, name), self.0.privacy.ledger_name(&twin.of));
        self.write(WriteRequest::StillMerged { user, of, seen: twin.seen }).await
    }

    /// Has a name followed again that was noted as another name of `of`. While `of` is followed, the name is another
    /// user's now, and that user's events are live since both names last showed one history. If `of` is gone, the user
    /// is followed under `name`, with everything that is known.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn part(&self, pool_id: &str, name: &str, of: &str) -> Result<(), LedgerError> {
        let (user, of) = (self.user_key(pool_id, name), self.user_key(pool_id, of));
        self.write(WriteRequest::Part { user, of }).await
    }

    /// Notes that users are gone. Their records stay until they are forgotten.
    ///
    /// # Errors
    /// Some may not have been noted: the ledger has failed or is closed.
    pub async fn mark_gone(&self, pool_id: &str, usernames: &[String], since: UnixMillis) -> Result<(), LedgerError> {
        for part in usernames.chunks(BATCH_PLACES_MAX) {
            let gone = || Some(Gone { since: since.0 }.seal());
            let marks = part.iter().map(|username| (keys::gone(&self.user_key(pool_id, username)), gone()));
            self.write(WriteRequest::Put(marks.collect())).await?;
        }
        Ok(())
    }

    /// Removes users and their cursors. The totals stay.
    ///
    /// # Errors
    /// Some may still be there: the ledger has failed or is closed.
    pub async fn forget(&self, pool_id: &str, usernames: Vec<String>) -> Result<(), LedgerError> {
        // A user has two or three records here: few have a note as another name.
        for part in usernames.chunks(BATCH_PLACES_MAX / 2) {
            let users = part.iter().map(|username| self.user_key(pool_id, username));
            let removed =
                users.flat_map(|user| [(keys::gone(&user), None), (keys::other_name(&user), None), (user, None)]);
            self.write(WriteRequest::Put(removed.collect())).await?;
        }
        Ok(())
    }

    /// Has the events that were taken since `from` logged again, and not counted again. A repeated call changes
    /// nothing. Skips users without a record.
    ///
    /// # Errors
    /// One of the records cannot be read, or the ledger has failed or is closed. Users before it may be rewound.
    pub async fn rewind(&self, pool_id: &str, usernames: &[String], from: UnixMillis) -> Result<(), LedgerError> {
        for part in usernames.chunks(BATCH_PLACES_MAX) {
            let users = part.iter().map(|username| self.user_key(pool_id, username)).collect();
            self.write(WriteRequest::Rewind { users, from }).await?;
        }
        Ok(())
    }

    /// Moves a record that was stored under other privacy settings to the user's present name in the ledger, in one
    /// atomic write. `sub` is the listing's. A stored `sub` of another person stays, so that discovery notices that
    /// person.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed; or the record cannot be read.
    pub async fn recognise(&self, pool_id: &str, username: &str, sub: Option<&str>) -> Result<(), LedgerError> {
        let privacy = &self.0.privacy;
        let former_names = privacy.former_names(username);
        let key = self.user_key(pool_id, username);
        if former_names.is_empty() || self.reading(|reader| reader.get(&key))?.is_some() {
            return Ok(());
        }
        for name in former_names {
            let from = keys::user(pool_id, &name);
            let Some(stored) = self.reading(|reader| reader.get(&from))? else { continue };
            let mut record = UserRecord::try_from(StoredUser::open(&stored)?)?;
            if let (Some(stored), Some(sub)) = (&record.sub, sub)
                && privacy.is_name_of(stored, sub)
            {
                record.sub = Some(privacy.ledger_name(sub));
            }
            return self.write(WriteRequest::Rename { from, to: (key, Box::new(record)) }).await;
        }
        Ok(())
    }

    /// Returns the key of a user's record, by the user's name or by the ledger's name for it.
    pub(super) fn user_key(&self, pool_id: &str, username: &str) -> Vec<u8> {
        keys::user(pool_id, &self.0.privacy.ledger_name(username))
    }

    /// Returns a record as it may be stored.
    fn private(&self, mut record: UserRecord) -> UserRecord {
        record.sub = record.sub.map(|sub| self.0.privacy.ledger_name(&sub));
        record
    }
}

/// Reads a pool's usernames a few at a time, so that no reader holds the store for long.
struct Usernames {
    ledger: Ledger,
    /// Bytes of a key in front of the username.
    skipped: usize,
    left: Option<Range<Vec<u8>>>,
    read: VecDeque<Vec<u8>>,
}

impl Usernames {
    /// Names that one call reads.
    const AT_ONCE: usize = 512;

    /// Reads a range of keys. It begins with the key of an empty username.
    fn within(ledger: &Ledger, range: Range<Vec<u8>>) -> Self {
        Self { ledger: ledger.clone(), skipped: range.start.len(), left: Some(range), read: VecDeque::new() }
    }

    fn read_on(&mut self) -> Result<(), LedgerError> {
        let Some(range) = self.left.take() else { return Ok(()) };
        let end = range.end.clone();
        self.read = self.ledger.reading(|reader| reader.keys(range, Self::AT_ONCE))?.into();
        if self.read.len() == Self::AT_ONCE
            && let Some(last) = self.read.back()
        {
            // The smallest key behind the last one.
            self.left = Some([last.as_slice(), &[0]].concat()..end);
        }
        Ok(())
    }
}

impl Iterator for Usernames {
    type Item = Result<String, LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read.is_empty()
            && let Err(error) = self.read_on()
        {
            return Some(Err(error));
        }
        let key = self.read.pop_front()?;
        let username = String::from_utf8(key.get(self.skipped..).unwrap_or_default().to_vec());
        Some(username.map_err(|_| LedgerError::corrupt(StoredUser::WHAT, "a username is not UTF-8")))
    }
}
