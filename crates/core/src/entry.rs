//! One sighting of an event, as it is stored for delivery. A log record is made of it.
//!
//! The turn makes entries of a page's findings. The ledger keeps them in its outbox (or quarantine), and the delivery
//! task hands them to a sink. An entry is complete: its delivery needs nothing else, even after its pool has left the
//! configuration.

use std::sync::Arc;

use crate::event::{AuthEvent, EventContext, UnixMillis};
use crate::export::ExportDetails;
use crate::masking::Modes;
use crate::walk::Finding;

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

/// The user that an event belongs to, as its records name it. Its Debug shows no personal data.
#[derive(Clone, PartialEq, Eq)]
pub struct UserIdentity {
    /// The username that is polled; hashed or empty where the entry's modes say so.
    pub username: String,
    /// The user's `sub`, where a listing gave it.
    pub sub: Option<String>,
}

impl std::fmt::Debug for UserIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserIdentity(personal data)")
    }
}

/// The source of a sighting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EventSource {
    /// A poll of the user's history.
    #[default]
    Poll,
    /// Cognito's own export.
    Export,
}

impl EventSource {
    /// The word for it in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Export => "export",
        }
    }
}

/// An entry's number in the outbox. Entries become visible in the order of their ids, and an id is never used again.
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
    /// 0 at first sight, then 1 more for each revision.
    pub revision: u32,
    /// Whether the event happened before its user was followed.
    pub history: bool,
    /// When the page or the exported record was received, by the local clock.
    pub observed: UnixMillis,
    /// Who told this sighting.
    pub told_by: EventSource,
    /// What only the export tells.
    pub details: ExportDetails,
    /// The modes that were applied to its personal data.
    pub masked: Modes,
}

impl Entry {
    /// Makes the entry of a finding. It hides nothing: [`Privacy::apply`](crate::privacy::Privacy::apply) does.
    pub fn of(finding: Finding, pool: &Arc<PoolIdentity>, user: &Arc<UserIdentity>, observed: UnixMillis) -> Self {
        Self {
            pool: pool.clone(),
            user: user.clone(),
            event: finding.event,
            revision: finding.revision,
            history: !finding.live,
            observed,
            told_by: EventSource::Poll,
            details: ExportDetails::default(),
            masked: Modes::default(),
        }
    }

    /// Makes the entry of an exported event in this revision, live or not. It hides nothing.
    pub fn exported(
        event: AuthEvent,
        (revision, live): (u32, bool),
        pool: &Arc<PoolIdentity>,
        user: &Arc<UserIdentity>,
        observed: UnixMillis,
    ) -> Self {
        Self {
            pool: pool.clone(),
            user: user.clone(),
            event,
            revision,
            history: !live,
            observed,
            told_by: EventSource::Export,
            details: ExportDetails::default(),
            masked: Modes::default(),
        }
    }

    /// The values that may be personal data, as a receiver's error message could quote them.
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

#[cfg(test)]
mod tests {
    use crate::fixtures::{bare_entry, full_entry};

    #[test]
    fn a_uid_is_the_events_id_or_key_the_revision_and_the_digest() {
        assert_eq!(full_entry().uid(), "4ad59ba8-0df1-4b1c-9a3e-3f2b5bf0d5ce.2.b1fea028ec2a5ff2");
        assert_eq!(bare_entry().uid(), "af5570f5a1810b7af78caf4bc70a660f.0.df3f619804a92fdb");
    }

    #[test]
    fn every_personal_value_is_named() {
        let entry = full_entry();
        let values: Vec<_> = entry.personal().collect();
        let location = ["-07:00", "Seattle", "United States"];
        let others = ["alice", "sub-of-alice", "192.0.2.1", "Chrome 126, Windows 10"];
        assert_eq!(values, [others.as_slice(), &location, &["Admin"]].concat());
    }
}
