//! A turn of a user that may have two names. It follows one of them, and drops the pages of the other.
//!
//! [`poller::names`](crate::poller::names) remembers what each name has shown. The ledger decides which name is
//! followed.

use super::{TurnContext, TurnError, UserTurn};
use crate::ledger::{LedgerError, UserRecord};
use crate::poller::names::{self, PoolSightings};
use crate::source::{Page, Source};

/// Reads the record of a user that is followed under this name.
pub(super) async fn followed_record(
    context: &TurnContext,
    pool_id: &str,
    username: &str,
) -> Result<UserRecord, TurnError> {
    let ledger = &context.ledger;
    let record = ledger.user(pool_id, username)?.ok_or(TurnError::NotEnrolled)?;
    if ledger.privacy().modes().hides_names() {
        let standing = ledger.standing(pool_id, username)?;
        if standing.is_some_and(|standing| standing.gone_since.is_some()) {
            return Err(TurnError::Gone(username.to_owned()));
        }
    }
    let Some(twin) = names::twin(ledger, pool_id, username)? else { return Ok(record) };
    if names::is_followed(context, pool_id, &twin.of)? {
        return Err(TurnError::OtherName { username: username.to_owned(), twin, anew: false });
    }
    ledger.part(pool_id, username, &twin.of).await?;
    ledger.user(pool_id, username)?.ok_or(TurnError::NotEnrolled)
}

/// The ledger's name of a user that no listing gives, whose pages are compared with those of other such names. A listed
/// user has one name.
pub(super) async fn name_to_compare(
    context: &TurnContext,
    pool_id: &str,
    username: &str,
    record: &UserRecord,
    sightings: &PoolSightings,
) -> Result<Option<String>, TurnError> {
    if record.sub.is_some() {
        return Ok(None);
    }
    sightings.load(&context.ledger, pool_id).await?;
    Ok(Some(context.ledger.privacy().ledger_name(username)))
}

impl<S: Source> UserTurn<'_, S> {
    /// Compares a page with what other names of the pool have shown. If one has shown an event of it, both are names of
    /// one user: the ledger merges them, and the turn ends without a commit of the page.
    pub(super) async fn compare_with_other_names(&self, page: &Page) -> Result<(), TurnError> {
        let Some(name) = &self.given_name else { return Ok(()) };
        while let Some(first) = self.sightings.show(name, page, &self.record.cursor) {
            match self.context.ledger.merge(&self.pool.identity.id, name, &first, page.received).await {
                Ok(()) => return Err(self.after_merge(name, &first)?),
                // The other name has no record any more.
                Err(LedgerError::NotEnrolled) => self.sightings.forget(&first),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Why the turn ends after its name and the name `first` were merged. The ledger has decided which of them is
    /// followed.
    fn after_merge(&self, name: &str, first: &str) -> Result<TurnError, LedgerError> {
        let pool_id = &self.pool.identity.id;
        let username = self.user.username.clone();
        let twin = self.context.ledger.twin(pool_id, &username)?;
        let (waits, kept) = if twin.is_some() { (name, first) } else { (first, name) };
        self.sightings.merged(self.context, pool_id, waits, kept)?;
        Ok(twin.map_or(TurnError::Joined, |twin| TurnError::OtherName { username, twin, anew: true }))
    }
}
