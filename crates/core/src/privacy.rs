//! Applies the privacy settings: each field with personal data is kept, hashed, truncated or dropped.
//!
//! Pure. [`Privacy::apply`] is the only function that makes an event private, and every entry passes it before it is
//! stored. So outbox, quarantine, records, sinks and bodies have nothing to hide any more. [`Privacy::ledger_name`] is
//! the only name of a user in the ledger: the username, or a keyed hash where the username must not be stored.
//!
//! A hash is the first 128 bits of HMAC-SHA-256, in hexadecimal, of the text as Cognito sent it. With the key, and only
//! with it, an operator finds a user's records: `printf %s NAME | openssl dgst -sha256 -mac HMAC -macopt hexkey:...`.
//!
//! The [`cursor`](crate::cursor) remembers unkeyed digests of events. They do not depend on the settings, so a change
//! of these counts no event again. Personal data goes into the digests in two places: the provider of feedback, and the
//! address, device and location of an event without an EventId. From a digest such data can only be guessed
//! (SECURITY.md).

use std::net::IpAddr;
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::entry::{Entry, UserIdentity};
use crate::event::EventContext;
use crate::masking::{Mode, Modes};

/// The digits of hashes.
const HEX_DIGITS: &[u8] = b"0123456789abcdef";

/// A key for hashes. Its Debug shows only its name, which reveals nothing of the key.
#[derive(Clone)]
pub struct HashKey {
    mac: Hmac<Sha256>,
    /// Eight hexadecimal digits that tell the ledger which key a hash was made with.
    name: String,
}

impl HashKey {
    /// The least number of bytes of a key: the length of a SHA-256 hash. RFC 2104 (section 3) discourages shorter keys.
    pub const BYTES_MIN: usize = 32;

    /// The number of hexadecimal digits of a hash: 128 bits.
    pub const HASH_DIGITS: usize = 32;

    /// Makes a key; None if it has fewer than [`HashKey::BYTES_MIN`] bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < Self::BYTES_MIN {
            return None;
        }
        let mac = Hmac::new_from_slice(bytes).ok()?;
        let mut key = Self { mac, name: String::new() };
        key.name = key.hash("cognito-auth-exporter: the name of this key").split_off(24);
        Some(key)
    }

    /// The name of the key in the ledger: eight hexadecimal digits.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of a text: 32 hexadecimal digits.
    pub fn hash(&self, text: &str) -> String {
        let mut mac = self.mac.clone();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().iter().take(Self::HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The ledger's name for a text that must not be stored. It begins with a space, which no username contains.
    fn ledger_name(&self, text: &str) -> String {
        format!(" {} {}", self.name, self.hash(text))
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HashKey({})", self.name)
    }
}

/// The privacy settings: modes and keys. Clones share the keys.
#[derive(Clone, Debug, Default)]
pub struct Privacy {
    modes: Modes,
    key: Option<Arc<HashKey>>,
    /// A key that was used before, to recognise users that were stored with it.
    former_key: Option<Arc<HashKey>>,
}

impl Privacy {
    /// Joins modes and keys; None if the modes need a key and there is none.
    pub fn new(modes: Modes, key: Option<HashKey>, former_key: Option<HashKey>) -> Option<Self> {
        let is_whole = key.is_some() || !modes.need_key();
        is_whole.then(|| Self { modes, key: key.map(Arc::new), former_key: former_key.map(Arc::new) })
    }

    /// The modes.
    pub fn modes(&self) -> Modes {
        self.modes
    }

    /// The ledger's note of the settings that it was stored under; empty where everything is kept.
    pub fn note(&self) -> String {
        let key = self.key.as_ref().filter(|_| self.modes.need_key());
        match (self.modes.keep_all(), key) {
            (true, _) => String::new(),
            (false, key) => format!("{} {}", self.modes.code(), key.map_or("-", |key| key.name())),
        }
    }

    /// The ledger's name of a user. A text that already is such a name stays as it is.
    pub fn ledger_name(&self, username: &str) -> String {
        match &self.key {
            Some(key) if self.modes.hides_names() && !is_hidden(username) => key.ledger_name(username),
            _ => username.to_owned(),
        }
    }

    /// The `user.hash` of a user's records, from the username or from the ledger's name of the user. None if records
    /// carry no hash.
    pub fn user_hash(&self, name: &str) -> Option<String> {
        let key = self.key.as_ref().filter(|_| self.modes.username == Mode::Hash)?;
        match name.strip_prefix(' ') {
            Some(hidden) => hidden.split_once(' ').map(|(_, hash)| hash.to_owned()),
            None => Some(key.hash(name)),
        }
    }

    /// The names by which the ledger may know the user of a record with this `user.hash`. Empty if the text is no hash,
    /// or if the ledger knows users by name.
    pub fn names_of_hash(&self, hash: &str) -> Vec<String> {
        let is_hash = hash.len() == HashKey::HASH_DIGITS && hash.bytes().all(|byte| HEX_DIGITS.contains(&byte));
        let keys = [&self.key, &self.former_key].into_iter().flatten();
        let keys = keys.filter(|_| is_hash && self.modes.hides_names());
        keys.map(|key| format!(" {} {hash}", key.name)).collect()
    }

    /// The names that the ledger may have given a user before, under other modes or another key.
    pub fn former_names(&self, username: &str) -> Vec<String> {
        if is_hidden(username) {
            return Vec::new();
        }
        let hidden = [&self.key, &self.former_key].into_iter().flatten().map(|key| key.ledger_name(username));
        let now = self.ledger_name(username);
        [username.to_owned()].into_iter().chain(hidden).filter(|name| *name != now).collect()
    }

    /// Whether a stored `sub` (or name) stands for this text. A name that was made with an unknown key never does.
    pub fn is_name_of(&self, stored: &str, text: &str) -> bool {
        stored == self.ledger_name(text) || self.former_names(text).iter().any(|name| stored == name)
    }

    /// Whether a name is plain, or was hidden with one of the present keys.
    pub fn knows(&self, name: &str) -> bool {
        let Some(hidden) = name.strip_prefix(' ') else { return true };
        let keys = [&self.key, &self.former_key].into_iter().flatten();
        keys.into_iter().any(|key| hidden.starts_with(key.name()))
    }

    /// Makes an entry private. A field that was hidden before stays hidden. Applying the same settings again changes
    /// nothing.
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
                // The ledger's form, which is hashed already.
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
        // `new` excludes modes that hash without a key. An empty text is safer than the plain one.
        self.key.as_ref().map(|key| key.hash(text)).unwrap_or_default()
    }
}

/// Whether a name is a hidden one, as only the ledger uses it.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with(' ')
}

/// The network of an address: /24 of an IPv4 address, /48 of an IPv6 address. None for a text that is no address.
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
        let names = Privacy::new(Modes { username: Mode::Hash, ..Modes::default() }, Some(key(7)), None).unwrap();
        let once = names.apply(full_entry());
        assert_eq!(privacy(Mode::Hash).apply(once.clone()).user, once.user, "other fields are hashed later");
        let bare = privacy(Mode::Hash).apply(bare_entry());
        assert_eq!(bare.event, bare_entry().event);
    }

    #[test]
    fn a_key_has_thirty_two_bytes_or_more_and_a_name_that_ledgers_rely_on() {
        assert!(HashKey::new(&[7; 31]).is_none() && HashKey::new(&[7; 32]).is_some());
        assert_eq!(key(7).name(), "a86dadea");
        assert_eq!(format!("{:?}", key(7)), "HashKey(a86dadea)");
        assert_eq!(privacy(Mode::Hash).ledger_name("alice"), " a86dadea 6a8851c590ddeb5a2ea0a50374798bce");
    }

    #[test]
    fn a_ledgers_note_names_the_modes_and_the_key_that_they_need() {
        let addresses = Modes { ip_address: Mode::Drop, ..Modes::default() };
        for (modes, note) in [
            (Modes::default(), String::new()),
            (addresses, "12 -".to_owned()),
            (Modes { device: Mode::Hash, ..addresses }, format!("28 {}", key(7).name())),
            (all(Mode::Drop), format!("255 {}", key(7).name())),
        ] {
            assert_eq!(Privacy::new(modes, Some(key(7)), Some(key(8))).unwrap().note(), note);
        }
        assert_eq!(Privacy::new(addresses, None, None).unwrap().note(), "12 -");
    }

    #[test]
    fn each_mode_concerns_its_own_fields() {
        let hashed = |text| Some(key(7).hash(text));
        let apply = |modes| Privacy::new(modes, Some(key(7)), None).unwrap().apply(full_entry());
        let plain = full_entry();

        let entry = apply(Modes { username: Mode::Hash, ..Modes::default() });
        assert_eq!((Some(&entry.user.username), &entry.user.sub), (hashed("alice").as_ref(), &hashed("sub-of-alice")));
        assert_eq!(entry.event.feedback.unwrap().provider, hashed("Admin"));
        assert_eq!(entry.event.context, plain.event.context);

        let entry = apply(Modes { ip_address: Mode::Truncate, ..Modes::default() });
        assert_eq!(entry.event.context.unwrap().ip_address.as_deref(), Some("192.0.2.0"));
        assert_eq!((entry.user, entry.event.feedback), (plain.user, plain.event.feedback));

        let context = apply(Modes { device: Mode::Hash, location: Mode::Drop, ..Modes::default() }).event.context;
        let expected = EventContext {
            device_name: hashed("Chrome 126, Windows 10"),
            timezone: None,
            city: None,
            country: None,
            ..plain.event.context.unwrap()
        };
        assert_eq!(context, Some(expected));
    }

    #[test]
    fn an_empty_text_has_no_hash_and_a_hidden_sub_keeps_its_own() {
        let mut entry = full_entry();
        entry.user = Arc::new(UserIdentity { username: String::new(), sub: Some(" 0123abcd fedc".into()) });
        entry.event.context = Some(EventContext { city: Some(String::new()), ..EventContext::default() });
        let entry = privacy(Mode::Hash).apply(entry);
        assert_eq!((entry.user.username.as_str(), entry.user.sub.as_deref()), ("", Some("fedc")));
        assert_eq!(entry.event.context, Some(EventContext::default()));
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
        assert_eq!(now.former_names(&name), [""; 0], "a hidden name stands for itself");
        assert_eq!((now.modes(), before.modes()), (all(Mode::Drop), all(Mode::Hash)));
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
    fn a_records_hash_leads_to_the_user_in_the_ledger_and_back() {
        let now = Privacy::new(all(Mode::Hash), Some(key(8)), Some(key(7))).unwrap();
        let (of_alice, before) = (key(8).hash("alice"), key(7).hash("alice"));
        let apply = now.apply(full_entry());
        assert_eq!(apply.user.username, of_alice, "what a record carries");
        assert_eq!(now.user_hash("alice").as_ref(), Some(&of_alice));
        assert_eq!(now.user_hash(&now.ledger_name("alice")).as_ref(), Some(&of_alice));
        assert_eq!(now.names_of_hash(&of_alice)[0], now.ledger_name("alice"));
        assert!(now.names_of_hash(&before).contains(&privacy(Mode::Hash).ledger_name("alice")));
        for no_hash in ["alice", "", &of_alice.to_uppercase(), &of_alice[1..], &now.ledger_name("alice")] {
            assert_eq!(now.names_of_hash(no_hash), [""; 0], "{no_hash:?}");
        }
        let kept = Privacy::new(Modes::default(), Some(key(8)), None).unwrap();
        assert_eq!((kept.user_hash("alice"), kept.names_of_hash(&of_alice)), (None, vec![]));
        assert_eq!(privacy(Mode::Drop).user_hash("alice"), None);
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
