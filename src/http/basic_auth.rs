//! Basic authentication by names and bcrypt hashes of passwords.
//!
//! bcrypt is slow on purpose, and Prometheus asks every few seconds. So the result of a comparison is remembered under
//! a keyed digest of name and password. The time of a lookup then reveals nothing, and a memory dump holds no password.
//!
//! One password is compared at a time, so that guessing costs at most one thread. A name that is not listed costs the
//! same comparison as a listed one.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::config::Secret;

/// Maximum number of remembered right passwords, and of wrong ones. A few clients have a few passwords. Guesses
/// displace only other wrong passwords.
const REMEMBERED_MAX: usize = 128;

/// The users, with the passwords that were compared before. Without users every request is allowed.
pub(super) struct BasicAuthUsers {
    hashes: BTreeMap<String, Secret>,
    /// Random, and never stored or shown.
    digest_key: [u8; 32],
    remembered: Mutex<RememberedPasswords>,
    /// Held by the request whose password is compared. A request that waits for it holds one of the connections.
    comparing: Arc<Semaphore>,
}

/// Digests of names and passwords that were compared.
#[derive(Default)]
struct RememberedPasswords {
    right: HashSet<[u8; 32]>,
    wrong: HashSet<[u8; 32]>,
}

impl BasicAuthUsers {
    pub(super) fn new(hashes: BTreeMap<String, Secret>) -> Self {
        let mut digest_key = [0; 32];
        for half in digest_key.chunks_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        Self { hashes, digest_key, remembered: Mutex::default(), comparing: Arc::new(Semaphore::new(1)) }
    }

    /// Returns whether there are users, so that requests need a password.
    pub(super) fn are_listed(&self) -> bool {
        !self.hashes.is_empty()
    }

    /// Returns whether a request's credentials are those of a user.
    pub(super) async fn allow(&self, headers: &HeaderMap) -> bool {
        // A name that is not listed is compared with this hash.
        let Some(decoy) = self.hashes.values().next() else { return true };
        let Some((name, password)) = credentials(headers) else { return false };
        let digest = self.digest(&name, &password);
        if let Some(known) = self.known(&digest) {
            return known;
        }
        let Ok(permit) = self.comparing.clone().acquire_owned().await else { return false };
        // Another request may have brought the same credentials meanwhile.
        if let Some(known) = self.known(&digest) {
            return known;
        }
        let listed = self.hashes.get(&name);
        let hash = listed.unwrap_or(decoy).clone();
        let compared = tokio::task::spawn_blocking(move || {
            // The permit is held here, so that a client that goes away does not let the next comparison run beside this
            // one.
            let _permit = permit;
            bcrypt::verify(&password, hash.reveal()).unwrap_or(false)
        });
        let is_right = compared.await.unwrap_or(false) && listed.is_some();
        self.remember(digest, is_right);
        is_right
    }

    fn digest(&self, name: &str, password: &[u8]) -> [u8; 32] {
        // The key stands before and after the input, so that nothing can be appended. The name's length separates name
        // and password.
        let digest = Sha256::new()
            .chain_update(self.digest_key)
            .chain_update(name.len().to_le_bytes())
            .chain_update(name)
            .chain_update(password)
            .chain_update(self.digest_key);
        digest.finalize().into()
    }

    /// Returns the result of an earlier comparison, if it is remembered.
    fn known(&self, digest: &[u8; 32]) -> Option<bool> {
        let remembered = self.remembered();
        if remembered.right.contains(digest) { Some(true) } else { remembered.wrong.contains(digest).then_some(false) }
    }

    fn remember(&self, digest: [u8; 32], is_right: bool) {
        let mut remembered = self.remembered();
        let digests = if is_right { &mut remembered.right } else { &mut remembered.wrong };
        if digests.len() >= REMEMBERED_MAX {
            digests.clear();
        }
        digests.insert(digest);
    }

    fn remembered(&self) -> MutexGuard<'_, RememberedPasswords> {
        self.remembered.lock()
    }
}

/// Returns name and password of `Authorization: Basic` (RFC 7617).
fn credentials(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let mut name = STANDARD.decode(encoded.trim()).ok()?;
    let colon = name.iter().position(|byte| *byte == b':')?;
    let password = name.split_off(colon + 1);
    name.truncate(colon);
    Some((String::from_utf8(name).ok()?, password))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn users() -> BasicAuthUsers {
        let hash = |password: &str| Secret::new(bcrypt::hash(password, 4).unwrap());
        BasicAuthUsers::new([("ann".to_owned(), hash("right")), ("ben".to_owned(), hash("other"))].into())
    }

    fn basic(text: &str) -> HeaderMap {
        let value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(text))).unwrap();
        [(AUTHORIZATION, value)].into_iter().collect()
    }

    #[tokio::test]
    async fn only_a_listed_name_with_its_own_password_is_allowed_the_first_time_and_the_second() {
        let users = users();
        for _ in 0..2 {
            for (credentials, allowed) in [
                ("ann:right", true),
                ("ben:other", true),
                ("ann:other", false),
                ("ann:", false),
                ("ann", false),
                (":right", false),
                ("cat:right", false),
                ("cat:other", false),
                ("ann:right:", false),
            ] {
                assert_eq!(users.allow(&basic(credentials)).await, allowed, "{credentials}");
            }
            assert!(!users.allow(&HeaderMap::new()).await);
        }
    }

    #[tokio::test]
    async fn what_is_no_basic_authentication_is_refused() {
        for header in ["Basic", "Basic ", "Basic ????", "Bearer YW5uOnJpZ2h0", "YW5uOnJpZ2h0"] {
            let headers = [(AUTHORIZATION, HeaderValue::from_str(header).unwrap())].into_iter().collect();
            assert!(!users().allow(&headers).await, "{header}");
        }
        let lower = [(AUTHORIZATION, HeaderValue::from_static("basic YW5uOnJpZ2h0"))].into_iter().collect();
        assert!(users().allow(&lower).await);
    }

    #[tokio::test]
    async fn a_guesser_fills_no_memory_and_pushes_no_right_password_out() {
        let users = users();
        assert!(users.allow(&basic("ann:right")).await);
        for guess in 0..REMEMBERED_MAX + 10 {
            assert!(!users.allow(&basic(&format!("ann:{guess}"))).await);
        }
        assert!(users.remembered().wrong.len() <= REMEMBERED_MAX);
        assert_eq!(users.remembered().right.len(), 1);
    }

    #[tokio::test]
    async fn where_nobody_is_listed_everybody_may_ask() {
        assert!(BasicAuthUsers::new(BTreeMap::new()).allow(&HeaderMap::new()).await);
    }
}
