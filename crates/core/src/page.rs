//! One page of one user's history, as the source answers it.

use crate::event::{AuthEvent, UnixMillis};

/// Cognito's `NextToken`: opaque, 1 to 131,072 characters
/// (<https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/API_AdminListUserAuthEvents.html>).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageToken(pub String);

/// One answer of `AdminListUserAuthEvents`.
#[derive(Clone, PartialEq, Debug)]
pub struct Page {
    /// The events, newest first as far as the service keeps that order (it promises none).
    pub events: Vec<AuthEvent>,
    /// The token of the page with older events; None at the end of the history.
    pub next: Option<PageToken>,
    /// When the page was received, by the local clock, which may be wrong by any time.
    pub received: UnixMillis,
    /// When the service answered, by its own clock, where the answer says so.
    pub served: Option<UnixMillis>,
}

impl Page {
    /// The time of reading, to compare the events' dates with. It is the service's own time where that is known,
    /// because the service dates the events too.
    pub fn read_at(&self) -> UnixMillis {
        self.served.unwrap_or(self.received)
    }
}
