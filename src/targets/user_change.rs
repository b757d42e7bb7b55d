//! The port through which discovery reports which users to follow.
//!
//! The application translates a [`UserChange`] for the poller, so discovery and the poller do not know each other.

use std::future::Future;

use cognito_auth_core::arrival::HeardEvent;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::schedule::ActivityEstimate;

use crate::source::SourceError;

/// A change of a pool's followed users.
#[derive(Debug)]
pub enum UserChange {
    /// These users are followed from now on; their records are in the ledger. Each has an estimate of its activity.
    Joined(Vec<(String, ActivityEstimate)>),
    /// These users are no longer followed. A user that leaves and joins again is polled at once.
    Left(Vec<String>),
    /// The export has told events of these users.
    Heard(Vec<HeardEvent>),
    /// Exported events of these users wait for their outcome: a poll must look for each at this time.
    Waiting(Vec<(String, UnixMillis)>),
    /// So many of the followed users are names listed by hand that no listing gives. They may not be in the pool.
    AsGiven(u64),
    /// A pool without followed users was listed, with this result. No poll can say whether such a pool answers.
    Listed(Result<(), SourceError>),
}

/// Receives the changes of one pool's followed users, in order.
pub trait FollowedUsers: Send + Sync + 'static {
    /// Applies a change.
    fn apply(&self, change: UserChange) -> impl Future<Output = ()> + Send;
}
