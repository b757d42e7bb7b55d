//! Basic authentication: who may ask, by name and the bcrypt hash of a password.
//!
//! bcrypt is slow on purpose, and Prometheus asks every few seconds. So what was compared once is remembered, as a keyed
//! digest: what is looked up then tells nothing by the time it takes, and a memory dump holds no password. One password is
//! compared at a time, so that guessing costs one thread and no more. A name that is not listed costs the comparison
//! that a listed one costs.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::config::Secret;

/// Comparisons remembered of each kind; a few clients have a few passwords. A guesser pushes out wrong ones alone.
const REMEMBERED_MAX: usize = 128;

/// The users, and what is known of passwords that were tried. Nobody listed: everybody may ask.
pub(super) struct BasicAuthUsers {
    hashes: BTreeMap<String, Secret>,
    /// Made anew by each process, and told to nobody.
    digest_key: [u8; 32],
    seen: Mutex<RememberedPasswords>,
    /// Who compares; whoever waits for it holds one of the few connections.
    comparing: Arc<Semaphore>,
}

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
        Self { hashes, digest_key, seen: Mutex::default(), comparing: Arc::new(Semaphore::new(1)) }
    }

    /// Whether somebody has to be somebody.
    pub(super) fn are_listed(&self) -> bool {
        !self.hashes.is_empty()
    }

    /// Whether a request's credentials allow it.
    pub(super) async fn allow(&self, headers: &HeaderMap) -> bool {
        // Whose hash a name that is not listed is compared with.
        let Some(nobodys) = self.hashes.values().next() else { return true };
        let Some((name, password)) = credentials(headers) else { return false };
        let digest = self.digest(&name, &password);
        if let Some(known) = self.seen(&digest) {
            return known;
        }
        let Ok(turn) = self.comparing.clone().acquire_owned().await else { return false };
        // Others may have brought the same, and have waited less.
        if let Some(known) = self.seen(&digest) {
            return known;
        }
        let listed = self.hashes.get(&name);
        let hash = listed.unwrap_or(nobodys).clone();
        let compared = tokio::task::spawn_blocking(move || {
            // Held here: a client that goes away does not let the next one's comparison run beside this one.
            let _turn = turn;
            bcrypt::verify(&password, hash.reveal()).unwrap_or(false)
        });
        let is_right = compared.await.unwrap_or(false) && listed.is_some();
        self.remember(digest, is_right);
        is_right
    }

    fn digest(&self, name: &str, password: &[u8]) -> [u8; 32] {
        // The key in front and behind, and the name's length: nothing can be appended, or moved from name to password.
        let digest = Sha256::new()
            .chain_update(self.digest_key)
            .chain_update(name.len().to_le_bytes())
            .chain_update(name)
            .chain_update(password)
            .chain_update(self.digest_key);
        digest.finalize().into()
    }

    fn seen(&self, digest: &[u8; 32]) -> Option<bool> {
        let seen = self.lock();
        if seen.right.contains(digest) { Some(true) } else { seen.wrong.contains(digest).then_some(false) }
    }

    fn remember(&self, digest: [u8; 32], is_right: bool) {
        let mut seen = self.lock();
        let seen = if is_right { &mut seen.right } else { &mut seen.wrong };
        if seen.len() >= REMEMBERED_MAX {
            seen.clear();
        }
        seen.insert(digest);
    }

    fn lock(&self) -> MutexGuard<'_, RememberedPasswords> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Name and password of `Authorization: Basic` (RFC 7617).
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
        assert!(users.lock().wrong.len() <= REMEMBERED_MAX);
        assert_eq!(users.lock().right.len(), 1);
    }

    #[tokio::test]
    async fn where_nobody_is_listed_everybody_may_ask() {
        assert!(BasicAuthUsers::new(BTreeMap::new()).allow(&HeaderMap::new()).await);
    }
}
