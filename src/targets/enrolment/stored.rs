//! The start of a pool: reports the users that the ledger has, before any listing has answered.

use std::collections::HashSet;

use cognito_auth_core::privacy;
use cognito_auth_core::schedule::ActivityEstimate;
use tracing::info;

use super::Enrolment;
use crate::ledger::LedgerError;
use crate::targets::pool_users::{NAMES_AT_ONCE, UnreadableUsers};
use crate::targets::user_change::FollowedUsers;
use cognito_auth_core::users::selection::Selection;

/// A stored user at the start.
enum StoredAtStart {
    /// It is followed.
    Followed(String, ActivityEstimate),
    /// It joins only when a listing gives its name.
    Waits,
    /// The ledger cannot be read further.
    Unread,
}

impl<F: FollowedUsers> Enrolment<F> {
    /// Reports the stored users. `by_hand` are the names of `usernames`.
    pub(in crate::targets) async fn continue_with_stored(&mut self, selection: &Selection, by_hand: &[String]) {
        let mut followed = 0;
        let mut names = Vec::new();
        let by_hand_stored: HashSet<_> =
            by_hand.iter().map(|name| self.users.ledger.privacy().ledger_name(name)).collect();
        for username in self.users.ledger.followed(&self.users.pool_id) {
            match self.stored_user(username, selection, &by_hand_stored) {
                StoredAtStart::Followed(username, activity) => names.push((username, activity)),
                StoredAtStart::Waits => {}
                // The remaining users join when they are listed.
                StoredAtStart::Unread => break,
            }
            if names.len() >= NAMES_AT_ONCE {
                followed += names.len();
                self.users.report_joined(std::mem::take(&mut names)).await;
                tokio::task::yield_now().await;
            }
        }
        names.extend(self.hashed_by_hand(selection, by_hand).await);
        followed += names.len();
        self.users.report_joined(names).await;
        self.any_followed = followed > 0;
        if followed > 0 {
            info!(pool = self.users.pool_id, followed, "continuing with the stored users");
        }
        self.log_unreadable();
    }

    fn stored_user(
        &mut self,
        username: Result<String, LedgerError>,
        selection: &Selection,
        by_hand_stored: &HashSet<String>,
    ) -> StoredAtStart {
        let Ok(username) = username else { return StoredAtStart::Unread };
        // Cognito cannot be asked by a hash.
        let is_hidden = privacy::is_hidden(&username);
        if !is_hidden && !selection.is_ours(&username) {
            return StoredAtStart::Waits;
        }
        self.any_listed |= !by_hand_stored.contains(&username);
        if is_hidden {
            return StoredAtStart::Waits;
        }
        match self.users.standing(&username) {
            Ok(standing) => StoredAtStart::Followed(username, self.users.activity(standing.as_ref())),
            Err(error) if UnreadableUsers::is_unreadable(&error) => {
                self.unreadable.add(&username, error);
                StoredAtStart::Waits
            }
            Err(_) => StoredAtStart::Unread,
        }
    }

    /// The names listed by hand that are followed and stored as a hash.
    async fn hashed_by_hand(&mut self, selection: &Selection, by_hand: &[String]) -> Vec<(String, ActivityEstimate)> {
        let users = self.users.clone();
        let mut names = Vec::new();
        if !users.ledger.privacy().modes().hides_names() {
            return names;
        }
        for username in by_hand {
            let recognised = users.ledger.recognise(&users.pool_id, username, None).await;
            match recognised.and_then(|()| users.standing(username)) {
                Ok(Some(standing)) if standing.gone_since.is_none() && selection.is_ours(username) => {
                    names.push((username.clone(), users.activity(Some(&standing))));
                }
                Err(error) if UnreadableUsers::is_unreadable(&error) => self.unreadable.add(username, error),
                // A user that could not be read joins in the first pass.
                Ok(_) | Err(_) => {}
            }
        }
        names
    }
}
