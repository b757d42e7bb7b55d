//! A pool's listings of users: which there are, and their pages as the source answers them.

use std::fmt;

use crate::call::Operation;
use crate::event::UnixMillis;
use crate::page::PageToken;

/// A user as a listing shows it. Its Debug shows no personal data.
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
    /// Attribute `preferred_username`, which the user can set.
    pub preferred_username: Option<String>,
    /// `UserCreateDate`.
    pub created: Option<UnixMillis>,
    /// `Enabled`.
    pub enabled: bool,
    /// Whether `UserStatus` is EXTERNAL_PROVIDER: a federated user. Threat protection does not cover those.
    pub federated: bool,
}

impl fmt::Debug for ListedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ListedUser(personal data)")
    }
}

/// An email address or telephone number of a user. The user sets it; AWS reports whether it is verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub value: String,
    /// Whether the user has confirmed that messages to it arrive.
    pub is_verified: bool,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(personal data)")
    }
}

/// The names that a pool accepts for sign-in beside username and `sub`, and how it compares names. They are fixed when
/// the pool is created.
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

/// A list of users to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listing {
    /// Every user, or the users that a ListUsers filter selects.
    Users {
        /// Such as `status = "Enabled"` or `email ^= "a"`.
        filter: Option<String>,
    },
    /// A group's members.
    Group(String),
}

/// Shows the operation and the group. The filter is left out, because it may name people.
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
    /// Returns the operation that reads it.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Users { .. } => Operation::ListUsers,
            Self::Group(_) => Operation::ListUsersInGroup,
        }
    }
}

/// One page of a listing, at most 60 users.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserPage {
    /// The users.
    pub users: Vec<ListedUser>,
    /// Token of the next page; None at the end.
    pub next: Option<PageToken>,
}
