//! One sighting of an event on its way out: what a log record is made of.
//!
//! The walk makes entries, the ledger keeps them in its outbox (or quarantine), the delivery task hands them to a sink. An entry
//! is complete: nothing has to be looked up to deliver it, even after its pool has left the configuration.

use std::sync::Arc;

use crate::event::{AuthEvent, EventContext, UnixMillis};
use crate::masking::Modes;

/// The pool that an event belongs to, as its records name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolIdentity {
    /// User pool id, such as `eu-west-1_Abc123`.
    pub id: String,
    /// The operator's name for it; the id where none was given.
    pub name: String,
    /// AWS region.
    pub region: String,
    /// Twelve digits, where known.
    pub account_id: Option<String>,
}

/// A user as records name it. Its Debug shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct UserIdentity {
    /// The username that is followed; hashed or empty where the entry's modes say so.
    pub username: String,
    /// The user's `sub`, where a listing gave it.
    pub sub: Option<String>,
}

impl std::fmt::Debug for UserIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserIdentity(personal data)")
    }
}

/// An entry's place in the outbox. Entries become visible in the order of their ids, and an id is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OutboxId(pub u64);

/// One sighting of an event: the first, or a revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The event's pool.
    pub pool: Arc<PoolIdentity>,
    /// The event's user.
    pub user: Arc<UserIdentity>,
    /// The event as it was seen.
    pub event: AuthEvent,
    /// 0 at first sight, one more at each revision.
    pub revision: u32,
    /// Whether the event happened before its user was followed.
    pub history: bool,
    /// When the page was received.
    pub observed: UnixMillis,
    /// What has been done to its personal data.
    pub masked: Modes,
}

impl Entry {
    /// What of it may be personal, as it would be quoted by somebody to whom it was sent.
    pub fn personal(&self) -> impl Iterator<Item = &str> {
        let user = [Some(&self.user.username), self.user.sub.as_ref()];
        let context = self.event.context.as_ref().map(|context| {
            let EventContext { ip_address, device_name, timezone, city, country } = context;
            [ip_address, device_name, timezone, city, country].map(Option::as_ref)
        });
        let provider = self.event.feedback.as_ref().and_then(|feedback| feedback.provider.as_ref());
        let values = user.into_iter().chain(context.into_iter().flatten()).chain([provider]);
        values.flatten().map(String::as_str)
    }

    /// `log.record.uid`: the same for every delivery of this sighting, another for every other sighting.
    pub fn uid(&self) -> String {
        let digest = self.event.mutable_digest();
        match &self.event.id {
            Some(id) => format!("{id}.{}.{digest}", self.revision),
            None => format!("{}.{}.{digest}", self.event.key(), self.revision),
        }
    }
}
