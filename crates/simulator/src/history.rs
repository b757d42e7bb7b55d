//! An event in a user's history, as the service stores it.

use cognito_auth_core::event::{AuthEvent, UnixMillis};

use super::wire;

/// A stored event: its JSON, its place in the history, and the time from which clients see it.
#[derive(Clone, Debug)]
pub(super) struct HistoryEvent {
    /// The EventId; a generated id for an event without one.
    pub(super) key: String,
    /// The sort key of the history: CreationDate, or the time of arrival for an event without one.
    pub(super) time: UnixMillis,
    pub(super) visible_at: UnixMillis,
    /// The JSON that clients receive.
    pub(super) json: String,
}

impl HistoryEvent {
    /// Parses the JSON. JSON that is not an event gives an event without members.
    pub(super) fn parse(&self) -> AuthEvent {
        serde_json::from_str(&self.json).map_or_else(|_| AuthEvent::default(), |value| wire::read_event(&value))
    }
}
