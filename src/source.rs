//! Port: one page of one user's history, and the lists of users; what can go wrong, cut by what it means for the caller.

pub mod cognito;
pub mod metered;
mod remedy;

use std::fmt;
use std::future::Future;

use cognito_auth_core::event::UnixMillis;
pub use cognito_auth_core::page::{Page, PageToken};

/// Why a call gave nothing. The texts name operation and cause, never a user; they are fit for the log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SourceError {
    /// Too many requests: the whole account and region must slow down.
    #[error("throttled: {0}")]
    Throttled(String),
    /// The user is gone, or never was: concerns this user only.
    #[error("user not found")]
    UserNotFound,
    /// The parameters were refused: a token that expired, or a username that the service does not accept.
    #[error("parameters refused: {0}")]
    InvalidParameter(String),
    /// The pool cannot answer for anyone: no threat protection, or no such pool.
    #[error("{0}")]
    Pool(Refusal),
    /// The caller may not, or its credentials are missing, wrong or expired.
    #[error("{0}")]
    Caller(Refusal),
    /// No answer in time.
    #[error("timed out: {0}")]
    Timeout(String),
    /// Passing: a server error, a reset, an unreachable endpoint, an answer that cannot be read.
    #[error("{0}")]
    Passing(String),
}

impl SourceError {
    /// How a call that failed so is counted.
    pub fn outcome(&self) -> CallOutcome {
        match self {
            Self::Throttled(_) => CallOutcome::Throttled,
            Self::UserNotFound | Self::Pool(Refusal { cause: RefusalCause::NoSuchPool, .. }) => CallOutcome::NotFound,
            Self::Pool(_) | Self::Caller(_) => CallOutcome::Denied,
            Self::Timeout(_) => CallOutcome::Timeout,
            Self::InvalidParameter(_) | Self::Passing(_) => CallOutcome::Error,
        }
    }
}

/// A refusal that does not pass by itself: a person must act.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What is refused, as far as known: what the person must do follows from it.
    pub cause: RefusalCause,
    /// Operation and cause, fit for the log.
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A refusal of which only the text is known.
impl From<&str> for Refusal {
    fn from(text: &str) -> Self {
        Self { cause: RefusalCause::Other, text: text.to_owned() }
    }
}

/// Why a pool or the service refuses, for as long as nobody changes anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RefusalCause {
    /// The pool does not exist in this account and region.
    NoSuchPool,
    /// The pool keeps no auth events: not on the Plus plan, or threat protection is off.
    NoThreatProtection,
    /// The pool's configuration does not allow the operation.
    NotEnabled,
    /// There are no credentials to call with.
    NoCredentials,
    /// What is configured to give credentials does not give them.
    CredentialsSource,
    /// The login to IAM Identity Center that a profile uses is over.
    LoginOver,
    /// The credentials are wrong, unknown or expired.
    BadCredentials,
    /// The calls are signed by a clock that is wrong.
    ClockSkew,
    /// STS is asked at an endpoint that is set for every service.
    StsRedirected,
    /// The configured role may not be assumed with these credentials.
    RoleNotAssumable,
    /// The caller is known and may not do this.
    NotAllowed,
    /// None of these.
    Other,
}

/// The `outcome` label of `cognito_exporter_api_requests_total`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CallOutcome {
    /// An answer.
    Ok,
    /// TooManyRequestsException.
    Throttled,
    /// The caller or the pool's plan was refused.
    Denied,
    /// UserNotFoundException or ResourceNotFoundException.
    NotFound,
    /// No answer in time.
    Timeout,
    /// Everything else.
    Error,
}

/// The operations that the exporter calls; none of them makes a user billable (AdminGetUser would, and is never called).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// One user's history. Quota category UserResourceRead.
    AdminListUserAuthEvents,
    /// Every user. Quota category UserList.
    ListUsers,
    /// A group's members. Quota category UserList.
    ListUsersInGroup,
    /// The pool's ARN, plan and sign-in names. Quota category UserPoolRead.
    DescribeUserPool,
    /// What the account may call. Quota category LimitManagement.
    GetProvisionedLimit,
}

impl Operation {
    /// The operation's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AdminListUserAuthEvents => "AdminListUserAuthEvents",
            Self::ListUsers => "ListUsers",
            Self::ListUsersInGroup => "ListUsersInGroup",
            Self::DescribeUserPool => "DescribeUserPool",
            Self::GetProvisionedLimit => "GetProvisionedLimit",
        }
    }

    /// The IAM action that allows it, such as `cognito-idp:ListUsers`.
    pub fn iam_action(self) -> String {
        format!("cognito-idp:{}", self.as_str())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The operation, and of which group; a filter may name people.
impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = self.operation();
        match self {
            Self::Users { .. } => write!(f, "{operation}"),
            Self::Group(group) => write!(f, "{operation} {group}"),
        }
    }
}

impl Listing {
    /// The operation that reads it.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Users { .. } => Operation::ListUsers,
            Self::Group(_) => Operation::ListUsersInGroup,
        }
    }
}

/// A user as a listing tells it. Its Debug shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct ListedUser {
    /// `Username`.
    pub username: String,
    /// Attribute `sub`.
    pub sub: Option<String>,
    /// Attributes `email` and `email_verified`.
    pub email: Option<Address>,
    /// Attributes `phone_number` and `phone_number_verified`.
    pub phone_number: Option<Address>,
    /// Attribute `preferred_username`, which the user writes.
    pub preferred_username: Option<String>,
    /// `UserCreateDate`.
    pub created: Option<UnixMillis>,
    /// `Enabled`.
    pub enabled: bool,
    /// Whether `UserStatus` is EXTERNAL_PROVIDER: a federated user, whom threat protection does not cover.
    pub federated: bool,
}

impl fmt::Debug for ListedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ListedUser(personal data)")
    }
}

/// An email address or telephone number of a user. The user writes it; AWS says whether it is verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub value: String,
    /// Whether the user has shown that messages to it arrive.
    pub is_verified: bool,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(personal data)")
    }
}

/// The names that a pool accepts for sign-in beside username and `sub`, and how it compares names. A pool keeps them from
/// its creation on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignInNames {
    /// Whether `email` is in UsernameAttributes or AliasAttributes.
    pub email: bool,
    /// Whether `phone_number` is in UsernameAttributes or AliasAttributes.
    pub phone_number: bool,
    /// Whether `preferred_username` is in AliasAttributes.
    pub preferred_username: bool,
    /// `UsernameConfiguration.CaseSensitive`; true where it is absent.
    pub case_sensitive: bool,
}

/// What to list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listing {
    /// Every user, or those that a ListUsers filter selects.
    Users {
        /// Such as `status = "Enabled"` or `email ^= "a"`.
        filter: Option<String>,
    },
    /// A group's members.
    Group(String),
}

/// One page of a listing, at most 60 users.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserPage {
    /// The users.
    pub users: Vec<ListedUser>,
    /// Where the listing goes on; None at its end.
    pub next: Option<PageToken>,
}

/// What DescribeUserPool says of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PoolDescription {
    /// From the pool's ARN.
    pub account_id: Option<String>,
    /// `UserPoolTier`, such as PLUS.
    pub tier: Option<String>,
    /// `UserPoolAddOns.AdvancedSecurityMode`: OFF, AUDIT or ENFORCED.
    pub threat_protection: Option<String>,
    /// `EstimatedNumberOfUsers`.
    pub estimated_users: Option<u64>,
    /// `UsernameAttributes`, `AliasAttributes` and `UsernameConfiguration`; None where the answer describes no pool.
    pub sign_in_names: Option<SignInNames>,
}

/// One user pool, as the exporter asks it. Every method is one call: no retry, no paging, no budget; the deadline is the
/// adapter's.
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

    /// Reads what the pool's account may call in the pool's region in the quota category UserResourceRead, in requests per
    /// second (above 0): the category of [`Source::page`].
    fn read_limit(&self) -> impl Future<Output = Result<f64, SourceError>> + Send;

    /// How often so far an event of a page was cut to what is kept of one.
    fn events_cut(&self) -> u64;
}
