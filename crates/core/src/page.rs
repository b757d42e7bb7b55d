//! One page of one user's history, as the source answers it.

use crate::event::{AuthEvent, UnixMillis};

/// Cognito's `NextToken`: opaque, 1 to 131,072 characters, never made up by us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageToken(pub String);

/// One answer of `AdminListUserAuthEvents`.
#[derive(Clone, PartialEq, Debug)]
pub struct Page {
    /// The events, newest first as far as the service keeps that order (it promises none).
    pub events: Vec<AuthEvent>,
    /// Where older events go on; None at the end of the history.
    pub next: Option<PageToken>,
    /// When the page was received, by the local clock, which may be wrong by any time.
    pub received: UnixMillis,
    /// When the service answered, by its own clock, where the answer says so.
    pub served: Option<UnixMillis>,
}

impl Page {
    /// The time of reading, to hold against the events' dates: the service's, which dates them too, where it is known.
    pub fn read_at(&self) -> UnixMillis {
        self.served.unwrap_or(self.received)
    }
}
