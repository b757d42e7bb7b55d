//! The followed users of a pool, as discovery sees them: passes each change on to the pool's poller.

use cognito_auth_core::schedule::PoolSlot;
use tokio::sync::mpsc;

use crate::poller::PollerMessage;
use crate::source::Source;
use crate::targets::user_change::{FollowedUsers, UserChange};

/// Sends the changes of one pool's users to its poller.
pub(super) struct PollerUsers<S> {
    pub(super) slot: PoolSlot,
    pub(super) poller: mpsc::Sender<PollerMessage<S>>,
}

impl<S> Clone for PollerUsers<S> {
    fn clone(&self) -> Self {
        Self { slot: self.slot, poller: self.poller.clone() }
    }
}

impl<S: Source> FollowedUsers for PollerUsers<S> {
    async fn apply(&self, change: UserChange) {
        let message = match change {
            UserChange::Joined(users) => PollerMessage::Joined(self.slot, users),
            UserChange::Left(usernames) => PollerMessage::Left(self.slot, usernames),
            UserChange::Heard(events) => PollerMessage::Heard(self.slot, events),
            UserChange::Waiting(users) => PollerMessage::Waiting(self.slot, users),
            UserChange::AsGiven(users) => PollerMessage::AsGiven(self.slot, users),
            UserChange::Listed(result) => PollerMessage::Listed(self.slot, result),
        };
        // Only a poller that stops closes its queue, and then the followed users are of no further use.
        let _ = self.poller.send(message).await;
    }
}
