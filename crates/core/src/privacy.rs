//! What becomes of personal data: kept, hashed, truncated or dropped, field by field.
//!
//! Pure. There is one place where an event is made private, [`Privacy::apply`], which every entry passes before it is
//! stored; so outbox, quarantine, records, sinks and bodies have nothing to hide any more. And there is one way in which the
//! ledger calls a user, [`Privacy::ledger_name`]: the username, or where that may not be stored a keyed hash of it.
//!
//! A hash is the first 128 bits of HMAC-SHA-256 in hexadecimal, of the text as Cognito sent it: whoever has the key finds a
//! user's records by `printf %s NAME | openssl dgst -sha256 -mac HMAC -macopt hexkey:...`, and nobody else.
//!
//! What is remembered of events ([`cursor`](crate::cursor)) are unkeyed digests, which stay the same whatever is hidden, so that
//! nothing is counted again when that changes. Personal data goes into them in two places: a feedback's provider, among what may
//! change, and address, device and place of an event that has no EventId. They tell nothing that is not guessed (SECURITY.md).

use std::net::IpAddr;
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::entry::{Entry, UserIdentity};
use crate::event::EventContext;
use crate::masking::{Mode, Modes};

/// A key of hashes. Its Debug shows its name, which tells nothing of it.
#[derive(Clone)]
pub struct HashKey {
    mac: Hmac<Sha256>,
    /// Eight hexadecimal digits by which the ledger tells whose hash it is.
    name: String,
}

impl HashKey {
    /// Bytes that a key has at least: as many as its hash could be guessed by.
    pub const BYTES_MIN: usize = 32;

    /// A key; None if it is too short.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < Self::BYTES_MIN {
            return None;
        }
        let mac = Hmac::new_from_slice(bytes).ok()?;
        let mut key = Self { mac, name: String::new() };
        key.name = key.hash("cognito-auth-exporter: the name of this key").split_off(24);
        Some(key)
    }

    /// The name by which the ledger knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of a text.
    pub fn hash(&self, text: &str) -> String {
        let mut mac = self.mac.clone();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// How the ledger calls what may not be stored. It begins with a space, which no username holds.
    fn ledger_name(&self, text: &str) -> String {
        format!(" {} {}", self.name, self.hash(text))
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HashKey({})", self.name)
    }
}

/// What becomes of personal data. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Privacy {
    modes: Modes,
    key: Option<Arc<HashKey>>,
    /// A key that was used before: who is known by it is recognised.
    former_key: Option<Arc<HashKey>>,
}

impl Privacy {
    /// Modes with the keys that they need; None if they need one and there is none.
    pub fn new(modes: Modes, key: Option<HashKey>, former_key: Option<HashKey>) -> Option<Self> {
        let is_whole = key.is_some() || !modes.need_key();
        is_whole.then(|| Self { modes, key: key.map(Arc::new), former_key: former_key.map(Arc::new) })
    }

    /// The modes.
    pub fn modes(&self) -> Modes {
        self.modes
    }

    /// What a ledger that was made private notes: empty where everything is kept.
    pub fn note(&self) -> String {
        let key = self.key.as_ref().filter(|_| self.modes.need_key());
        match (self.modes.keep_all(), key) {
            (true, _) => String::new(),
            (false, key) => format!("{} {}", self.modes.code(), key.map_or("-", |key| key.name())),
        }
    }

    /// How the ledger calls a user. What is a ledger's name already stays.
    pub fn ledger_name(&self, username: &str) -> String {
        match &self.key {
            Some(key) if self.modes.hides_names() && !is_hidden(username) => key.ledger_name(username),
            _ => username.to_owned(),
        }
    }

    /// How the ledger may have called a user before, under other modes or another key.
    pub fn former_names(&self, username: &str) -> Vec<String> {
        let keys = || [&self.key, &self.former_key].into_iter().flatten();
        if keys().next().is_none() || is_hidden(username) {
            return Vec::new();
        }
        let hidden = keys().map(|key| key.ledger_name(username));
        let now = self.ledger_name(username);
        [username.to_owned()].into_iter().chain(hidden).filter(|name| *name != now).collect()
    }

    /// Whether a stored `sub` (or name) is this one's; one under an unknown key may be anybody's.
    pub fn is_name_of(&self, stored: &str, text: &str) -> bool {
        stored == self.ledger_name(text) || self.former_names(text).iter().any(|name| stored == name)
    }

    /// Whether a hidden name was hidden with a key that is given.
    pub fn knows(&self, name: &str) -> bool {
        let Some(hidden) = name.strip_prefix(' ') else { return true };
        let keys = [&self.key, &self.former_key].into_iter().flatten();
        keys.into_iter().any(|key| hidden.starts_with(key.name()))
    }

    /// Makes an entry private. What was done to it before stays done; done again, nothing changes.
    pub fn apply(&self, mut entry: Entry) -> Entry {
        let (done, wanted) = (entry.masked, self.modes);
        if done == wanted {
            return entry;
        }
        let text = |done: Mode, wanted: Mode, text: Option<String>| match (done, wanted) {
            (_, Mode::Drop) => None,
            (Mode::Keep, Mode::Hash) => text.filter(|text| !text.is_empty()).map(|text| self.hash(&text)),
            _ => text,
        };
        let user = &entry.user;
        if done.username == Mode::Keep && wanted.username != Mode::Keep || wanted.username == Mode::Drop {
            let username = text(done.username, wanted.username, Some(user.username.clone())).unwrap_or_default();
            let sub = user.sub.clone().map(|sub| match sub.strip_prefix(' ') {
                // As the ledger has it: hashed already.
                Some(hidden) => hidden.rsplit(' ').next().unwrap_or_default().to_owned(),
                None => self.hash(&sub),
            });
            entry.user = Arc::new(UserIdentity { username, sub: sub.filter(|_| wanted.username != Mode::Drop) });
            if let Some(feedback) = &mut entry.event.feedback {
                feedback.provider = text(done.username, wanted.username, feedback.provider.take());
            }
        }
        if let Some(context) = entry.event.context.take() {
            let EventContext { ip_address, device_name, timezone, city, country } = context;
            let place = |member| text(done.location, wanted.location, member);
            entry.event.context = Some(EventContext {
                ip_address: match (done.ip_address, wanted.ip_address) {
                    (Mode::Keep, Mode::Truncate) => ip_address.as_deref().and_then(network_of),
                    (done, wanted) => text(done, wanted, ip_address),
                },
                device_name: text(done.device, wanted.device, device_name),
                timezone: place(timezone),
                city: place(city),
                country: place(country),
            });
        }
        let mask = |done: Mode, wanted: Mode| match (done, wanted) {
            (_, Mode::Drop) => Mode::Drop,
            (Mode::Keep, wanted) => wanted,
            (done, _) => done,
        };
        entry.masked = Modes {
            username: mask(done.username, wanted.username),
            ip_address: mask(done.ip_address, wanted.ip_address),
            device: mask(done.device, wanted.device),
            location: mask(done.location, wanted.location),
        };
        entry
    }

    fn hash(&self, text: &str) -> String {
        // Without a key nothing is hashed, see `new`; if it were, better nothing than the text.
        self.key.as_ref().map(|key| key.hash(text)).unwrap_or_default()
    }
}

/// Whether a name is one that only the ledger uses.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with(' ')
}

/// The network of an address: /24 of an IPv4 one, /48 of an IPv6 one. What is no address has none.
fn network_of(address: &str) -> Option<String> {
    let network = match address.parse::<IpAddr>().ok()?.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    };
    Some(network.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{bare_entry, full_entry};

    fn key(byte: u8) -> HashKey {
        HashKey::new(&[byte; 32]).unwrap()
    }

    fn all(mode: Mode) -> Modes {
        Modes { username: mode, ip_address: mode, device: mode, location: mode }
    }

    fn privacy(mode: Mode) -> Privacy {
        Privacy::new(all(mode), Some(key(7)), None).unwrap()
    }

    const PERSONAL: [&str; 8] =
        ["alice", "sub-of-alice", "192.0.2.1", "Chrome 126, Windows 10", "-07:00", "Seattle", "United States", "Admin"];

    /// Every text of an entry.
    fn texts(entry: &Entry) -> Vec<String> {
        let context = entry.event.context.clone().unwrap_or_default();
        let provider = entry.event.feedback.clone().and_then(|feedback| feedback.provider);
        let EventContext { ip_address, device_name, timezone, city, country } = context;
        let user = [Some(entry.user.username.clone()), entry.user.sub.clone(), provider];
        user.into_iter().chain([ip_address, device_name, timezone, city, country]).flatten().collect()
    }

    #[test]
    fn nothing_personal_is_left_of_an_entry_that_is_hashed_or_dropped() {
        for mode in [Mode::Hash, Mode::Drop] {
            let entry = privacy(mode).apply(full_entry());
            let left: Vec<_> = texts(&entry).into_iter().filter(|text| PERSONAL.contains(&text.as_str())).collect();
            assert!(left.is_empty(), "{mode:?}: {left:?}");
            assert_eq!(entry.masked, all(mode));
            assert_eq!(entry.event.id, full_entry().event.id);
        }
        assert_eq!(texts(&privacy(Mode::Drop).apply(full_entry())), [""]);
        let hashed = texts(&privacy(Mode::Hash).apply(full_entry()));
        assert!(hashed.iter().all(|text| text.len() == 32) && hashed.len() == 8, "{hashed:?}");
    }

    #[test]
    fn what_is_done_twice_is_done_once_and_what_was_done_stays_done() {
        for mode in [Mode::Keep, Mode::Hash, Mode::Truncate, Mode::Drop] {
            let once = privacy(mode).apply(full_entry());
            assert_eq!(privacy(mode).apply(once.clone()), once);
            assert_eq!(privacy(Mode::Keep).apply(once.clone()), once);
            assert_eq!(texts(&privacy(Mode::Drop).apply(once)), [""]);
        }
        let hashed = privacy(Mode::Hash).apply(full_entry());
        let other = Privacy::new(all(Mode::Hash), Some(key(8)), Some(key(7))).unwrap();
        assert_eq!(other.apply(hashed.clone()), hashed);
        let bare = privacy(Mode::Hash).apply(bare_entry());
        assert_eq!(bare.event, bare_entry().event);
    }

    #[test]
    fn the_hash_is_what_others_compute() {
        assert_ne!(key(7).hash("alice"), key(8).hash("alice"));
        // RFC 4231, test case 6: a key longer than the block.
        let long = HashKey::new(&[0xaa; 131]).unwrap();
        assert_eq!(
            long.hash("Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f"
        );
    }

    #[test]
    fn an_address_is_truncated_to_its_network_and_anything_else_is_dropped() {
        for (address, network) in [
            ("192.0.2.77", Some("192.0.2.0")),
            ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1::")),
            ("::ffff:192.0.2.77", Some("192.0.2.0")),
            ("not an address", None),
            ("", None),
        ] {
            assert_eq!(network_of(address).as_deref(), network, "{address}");
        }
    }

    #[test]
    fn a_user_is_found_under_every_name_it_was_kept_by() {
        let before = Privacy::new(all(Mode::Hash), Some(key(7)), None).unwrap();
        let now = Privacy::new(all(Mode::Drop), Some(key(8)), Some(key(7))).unwrap();
        let name = now.ledger_name("alice");
        assert!(is_hidden(&name) && !name.contains("alice"));
        assert_eq!(now.ledger_name(&name), name, "it stays what it is");
        assert_eq!(now.former_names("alice"), ["alice".to_owned(), before.ledger_name("alice")]);
        let kept = Privacy::new(Modes::default(), None, Some(key(7))).unwrap();
        assert_eq!(kept.ledger_name("alice"), "alice");
        assert_eq!(kept.former_names("alice"), [before.ledger_name("alice")]);
        assert_eq!(Privacy::default().former_names("alice"), [""; 0]);
        assert!(now.is_name_of(&before.ledger_name("alice"), "alice") && now.is_name_of("alice", "alice"));
        assert!(!now.is_name_of(&before.ledger_name("ben"), "alice"));
        assert!(now.knows(&before.ledger_name("alice")) && now.knows("alice"));
        assert!(!before.knows(&name) && !Privacy::default().knows(&name));
    }

    #[test]
    fn modes_come_back_from_their_number() {
        for code in 0..256 {
            assert_eq!(Modes::from_code(code).code(), code);
        }
        assert!(Modes::from_code(0).keep_all() && !Modes::from_code(0).need_key());
        assert!(Privacy::new(all(Mode::Drop), None, None).is_none(), "users are told apart by a hash");
        let addresses = Modes { ip_address: Mode::Drop, ..Modes::default() };
        assert!(Privacy::new(addresses, None, None).is_some());
    }
}
