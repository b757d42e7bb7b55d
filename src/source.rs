//! Port: reads one page of a user's history or of a list of users. Its errors are divided by what the caller can do.

pub mod cognito;
pub mod log_events;
pub mod metered;
mod remedy;

use std::fmt;
use std::future::Future;

pub use cognito_auth_core::call::{CallOutcome, Operation};
pub use cognito_auth_core::listing::{Address, ListedUser, Listing, SignInNames, UserPage};
pub use cognito_auth_core::page::{Page, PageToken};

/// Why a call failed. The texts name the operation and the cause, never a user, so they can be logged.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SourceError {
    /// Too many requests: every pool of the account and region must slow down.
    #[error("throttled: {0}")]
    Throttled(String),
    /// The user was deleted or never existed. This concerns this user only.
    #[error("user not found")]
    UserNotFound,
    /// The parameters were refused: an expired token, or a username that the service does not accept.
    #[error("parameters refused: {0}")]
    InvalidParameter(String),
    /// The pool cannot answer for any user: it has no threat protection, or does not exist.
    #[error("{0}")]
    Pool(Refusal),
    /// The caller is not allowed to, or its credentials are missing, wrong or expired.
    #[error("{0}")]
    Caller(Refusal),
    /// No answer in time.
    #[error("timed out: {0}")]
    Timeout(String),
    /// A failure that may pass: a server error, a reset, an unreachable endpoint, or an unreadable answer.
    #[error("{0}")]
    Passing(String),
}

impl SourceError {
    /// Returns the outcome under which a call with this error is counted.
    pub fn outcome(&self) -> CallOutcome {
        match self {
            Self::Throttled(_) => CallOutcome::Throttled,
            Self::UserNotFound => CallOutcome::NotFound,
            Self::Pool(Refusal { cause: RefusalCause::NoSuchPool | RefusalCause::NoSuchLogGroup, .. }) => {
                CallOutcome::NotFound
            }
            Self::Pool(_) | Self::Caller(_) => CallOutcome::Denied,
            Self::Timeout(_) => CallOutcome::Timeout,
            Self::InvalidParameter(_) | Self::Passing(_) => CallOutcome::Error,
        }
    }
}

/// A refusal that lasts until a person acts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The cause, as far as it is known. The remedy follows from it.
    pub cause: RefusalCause,
    /// The operation and the cause, as text for the log.
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Makes a refusal with a text and no known cause.
impl From<&str> for Refusal {
    fn from(text: &str) -> Self {
        Self { cause: RefusalCause::Other, text: text.to_owned() }
    }
}

/// Why a pool or the service refuses a call until its setup changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RefusalCause {
    /// The pool does not exist in this account and region.
    NoSuchPool,
    /// The log group does not exist in this account and region.
    NoSuchLogGroup,
    /// The pool keeps no auth events: not on the Plus plan, or threat protection is off.
    NoThreatProtection,
    /// The pool's configuration does not allow the operation.
    NotEnabled,
    /// No credentials were found.
    NoCredentials,
    /// The configured source of credentials does not provide any.
    CredentialsSource,
    /// The IAM Identity Center login of the profile has expired.
    LoginOver,
    /// The credentials are wrong, unknown or expired.
    BadCredentials,
    /// The calls are signed with the time of a wrong clock.
    ClockSkew,
    /// STS is called at an endpoint that is set for every service.
    StsRedirected,
    /// These credentials are not allowed to assume the configured role.
    RoleNotAssumable,
    /// The caller is known but not allowed to make the call.
    NotAllowed,
    /// None of these.
    Other,
}

/// The answer of DescribeUserPool about a pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PoolDescription {
    /// The account id in the pool's ARN.
    pub account_id: Option<String>,
    /// `UserPoolTier`, such as PLUS.
    pub tier: Option<String>,
    /// `UserPoolAddOns.AdvancedSecurityMode`: OFF, AUDIT or ENFORCED.
    pub threat_protection: Option<String>,
    /// `EstimatedNumberOfUsers`.
    pub estimated_users: Option<u64>,
    /// `UsernameAttributes`, `AliasAttributes` and `UsernameConfiguration`; None if the answer describes no pool.
    pub sign_in_names: Option<SignInNames>,
}

/// The calls that the exporter makes to one user pool. Every method is one call: no retry, no paging, no budget. The
/// adapter sets the deadline.
pub trait Source: Send + Sync + 'static {
    /// Reads one page of a user's history, newest events first. `max_results` is 1 to 60.
    fn page(
        &self,
        username: &str,
        token: Option<&PageToken>,
        max_results: u8,
    ) -> impl Future<Output = Result<Page, SourceError>> + Send;

    /// Reads one page of a listing.
    fn users(
        &self,
        listing: &Listing,
        token: Option<&PageToken>,
    ) -> impl Future<Output = Result<UserPage, SourceError>> + Send;

    /// Reads the pool's ARN, plan and sign-in names.
    fn describe(&self) -> impl Future<Output = Result<PoolDescription, SourceError>> + Send;

    /// Reads the account's limit in the pool's region for the quota category UserResourceRead, in requests per second
    /// (above 0). [`Source::page`] belongs to that category.
    fn read_limit(&self) -> impl Future<Output = Result<f64, SourceError>> + Send;

    /// Returns how many events of pages were cut to the exported size so far. An event counts each time it is read.
    fn events_cut(&self) -> u64;
}
