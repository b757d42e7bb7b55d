//! The users that `events` reads: those named by hand first, then those of the listings, page by page.
//!
//! Of a user that was given, a digest is kept and not the name, so a pool of any size fits into memory: 16 bytes a
//! user. It makes a user that is listed twice come once.

use std::collections::{HashSet, VecDeque};

use cognito_auth_core::listing::Listing;
use sha2::{Digest as _, Sha256};

use super::arguments::username;
use super::caller::{CallError, Caller};
use crate::source::{ListedUser, PageToken, SourceError};

/// A user's identity: 128 bits of a SHA-256 of the name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct UserKey(pub(super) [u8; 16]);

impl UserKey {
    /// The key of a name.
    pub(super) fn of(username: &str) -> Self {
        let digest = Sha256::digest(username.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        Self(key)
    }
}

/// Which users are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct UserSelection {
    /// Names given by hand.
    pub(super) names: Vec<String>,
    /// Listings to read.
    pub(super) listings: Vec<Listing>,
    /// Whether listed users of external providers are wanted.
    pub(super) include_federated: bool,
}

/// Reads the names in the text of a file, one on each line, by the rules of `--username`. Empty lines and lines that
/// begin with # are ignored, and so are a byte order mark and white space around a name.
///
/// # Errors
/// The numbers of the lines that are no usernames.
pub(super) fn names_in(text: &str) -> Result<Vec<String>, Vec<usize>> {
    let (mut names, mut refused) = (vec![], vec![]);
    for (index, line) in text.trim_start_matches('\u{feff}').lines().map(str::trim).enumerate() {
        match username(line) {
            _ if line.is_empty() || line.starts_with('#') => {}
            Ok(name) => names.push(name),
            Err(_) => refused.push(index + 1),
        }
    }
    if refused.is_empty() { Ok(names) } else { Err(refused) }
}

/// A listing that cannot be read on.
#[derive(Debug)]
pub(super) struct FailedListing {
    pub(super) listing: Listing,
    pub(super) error: CallError,
    /// Whether its first page was asked for.
    pub(super) is_at_start: bool,
}

/// Gives one user after the other.
pub(super) struct UserStream {
    selection: UserSelection,
    named: VecDeque<String>,
    listings: VecDeque<Listing>,
    page: VecDeque<ListedUser>,
    token: Option<PageToken>,
    /// Users that were given, or that are not to be given.
    given: HashSet<UserKey>,
    federated_left_out: u64,
}

impl UserStream {
    /// Makes a stream without the users `done`.
    pub(super) fn new(selection: UserSelection, done: HashSet<UserKey>) -> Self {
        let (named, listings) = (selection.names.clone().into(), selection.listings.clone().into());
        let page = VecDeque::new();
        Self { selection, named, listings, page, token: None, given: done, federated_left_out: 0 }
    }

    /// Begins the listings again, for users that joined since. Users that were given do not come again.
    pub(super) fn list_again(&mut self) {
        self.listings = self.selection.listings.clone().into();
        (self.page, self.token, self.federated_left_out) = (VecDeque::new(), None, 0);
    }

    /// Whether there are listings, which may name other users later.
    pub(super) fn has_listings(&self) -> bool {
        !self.selection.listings.is_empty()
    }

    /// The number of listed users of external providers that were left out.
    pub(super) fn federated_left_out(&self) -> u64 {
        self.federated_left_out
    }

    /// Returns the next user; None at the end.
    ///
    /// # Errors
    /// A listing cannot be read on. The next call continues with the next listing.
    pub(super) async fn next(&mut self, caller: &Caller) -> Result<Option<String>, FailedListing> {
        loop {
            if let Some(name) = self.named.pop_front() {
                if self.given.insert(UserKey::of(&name)) {
                    return Ok(Some(name));
                }
                continue;
            }
            while let Some(user) = self.page.pop_front() {
                if user.federated && !self.selection.include_federated {
                    self.federated_left_out += 1;
                } else if self.given.insert(UserKey::of(&user.username)) {
                    return Ok(Some(user.username));
                }
            }
            let Some(listing) = self.listings.front() else { return Ok(None) };
            match caller.users(listing, self.token.as_ref()).await {
                Ok(page) if page.next.is_some() && page.next == self.token => {
                    let repeated = SourceError::Passing(format!("{listing}: the service sent the same token twice"));
                    return Err(self.failed(CallError::Source(repeated)));
                }
                Ok(page) => {
                    self.page = page.users.into();
                    self.token = page.next;
                    if self.token.is_none() {
                        self.listings.pop_front();
                    }
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// Leaves the present listing.
    fn failed(&mut self, error: CallError) -> FailedListing {
        let is_at_start = self.token.take().is_none();
        let listing = self.listings.pop_front().unwrap_or(Listing::Users { filter: None });
        FailedListing { listing, error, is_at_start }
    }
}
