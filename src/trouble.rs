//! The kinds of lasting trouble with a pool, so that each is logged once.
//!
//! Pure. The poller, discovery and the watch over the account's limit compare kinds to log a fault when it begins,
//! changes and ends.

use crate::source::{RefusalCause, SourceError};

/// The kind of trouble that an error belongs to. Another text of the same kind (other sizes, other times, a reset after
/// a timeout) is not logged again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// The pool refuses.
    Pool(RefusalCause),
    /// The caller is refused.
    Caller(RefusalCause),
    /// A parameter is refused.
    Parameter,
    /// There is no proper answer.
    Unanswered,
}

impl Trouble {
    /// Returns the kind of an error; None for one that concerns neither the pool nor the caller nor the connection.
    pub(crate) fn of(error: &SourceError) -> Option<Self> {
        match error {
            SourceError::Pool(refusal) => Some(Self::Pool(refusal.cause)),
            SourceError::Caller(refusal) => Some(Self::Caller(refusal.cause)),
            SourceError::InvalidParameter(_) => Some(Self::Parameter),
            SourceError::Timeout(_) | SourceError::Passing(_) => Some(Self::Unanswered),
            SourceError::Throttled(_) | SourceError::UserNotFound => None,
        }
    }

    /// Whether every operation on the pool meets it, so that one log line for all operations is enough.
    pub(crate) fn meets_every_call(self) -> bool {
        use RefusalCause::{
            BadCredentials, ClockSkew, CredentialsSource, LoginOver, NoCredentials, NoSuchPool, RoleNotAssumable,
            StsRedirected,
        };
        match self {
            Self::Pool(cause) => cause == NoSuchPool,
            Self::Caller(cause) => matches!(
                cause,
                NoCredentials
                    | CredentialsSource
                    | LoginOver
                    | BadCredentials
                    | ClockSkew
                    | RoleNotAssumable
                    | StsRedirected
            ),
            Self::Parameter | Self::Unanswered => false,
        }
    }
}
