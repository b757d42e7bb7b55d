//! The modes of personal data: kept, hashed, truncated or dropped.

/// The treatment of a field with personal data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// The field stays as Cognito sends it.
    #[default]
    Keep,
    /// A keyed hash replaces the value.
    Hash,
    /// The network replaces an address: /24 of an IPv4 address, /48 of an IPv6 address.
    Truncate,
    /// The field is removed.
    Drop,
}

/// A mode for each kind of personal data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Modes {
    /// The username, the `sub`, and the provider of feedback.
    pub username: Mode,
    /// The client's IpAddress.
    pub ip_address: Mode,
    /// The DeviceName.
    pub device: Mode,
    /// The City, the Country and the Timezone.
    pub location: Mode,
}

impl Modes {
    /// The number that stands for the modes in stored records, from 0 to 255: two bits for each field. 0 keeps
    /// everything.
    pub fn code(self) -> u32 {
        let modes = [self.username, self.ip_address, self.device, self.location];
        modes.into_iter().rev().fold(0, |code, mode| (code << 2) + mode as u32)
    }

    /// The modes that a stored number stands for. Bits beyond the lowest eight are ignored.
    pub fn from_code(code: u32) -> Self {
        let mode = |place: u32| match code >> (2 * place) & 3 {
            0 => Mode::Keep,
            1 => Mode::Hash,
            2 => Mode::Truncate,
            _ => Mode::Drop,
        };
        Self { username: mode(0), ip_address: mode(1), device: mode(2), location: mode(3) }
    }

    /// Whether every field is kept.
    pub fn keep_all(self) -> bool {
        self == Self::default()
    }

    /// Whether a key is needed. A username that is dropped from records is hashed in the ledger, which has to tell
    /// users apart.
    pub fn need_key(self) -> bool {
        self.hides_names() || [self.ip_address, self.device, self.location].contains(&Mode::Hash)
    }

    /// Whether usernames must not be stored.
    pub fn hides_names(self) -> bool {
        matches!(self.username, Mode::Hash | Mode::Drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_numbers_keep_their_meaning() {
        let mixed =
            Modes { username: Mode::Hash, ip_address: Mode::Truncate, device: Mode::Drop, location: Mode::Keep };
        for (modes, code) in [
            (Modes::default(), 0),
            (Modes { username: Mode::Hash, ..Modes::default() }, 1),
            (Modes { ip_address: Mode::Hash, ..Modes::default() }, 1 << 2),
            (Modes { device: Mode::Hash, ..Modes::default() }, 1 << 4),
            (Modes { location: Mode::Drop, ..Modes::default() }, 3 << 6),
            (mixed, 0b00_11_10_01),
        ] {
            assert_eq!(modes.code(), code, "{modes:?}");
            assert_eq!(Modes::from_code(code), modes);
            assert_eq!(Modes::from_code(code | 1 << 8), modes, "further bits mean nothing");
        }
    }

    #[test]
    fn a_hash_and_a_hidden_username_need_a_key() {
        use Mode::{Drop, Hash, Keep, Truncate};
        for (username, other, hides_names, need_key) in [
            (Keep, Keep, false, false),
            (Keep, Truncate, false, false),
            (Keep, Drop, false, false),
            (Keep, Hash, false, true),
            (Truncate, Keep, false, false),
            (Hash, Keep, true, true),
            (Drop, Keep, true, true),
        ] {
            let keep = Modes { username, ..Modes::default() };
            for modes in [
                Modes { ip_address: other, ..keep },
                Modes { device: other, ..keep },
                Modes { location: other, ..keep },
            ] {
                assert_eq!((modes.hides_names(), modes.need_key()), (hides_names, need_key), "{modes:?}");
                assert_eq!(modes.keep_all(), username == Keep && other == Keep, "{modes:?}");
            }
        }
    }
}
