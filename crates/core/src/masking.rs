//! What becomes of each kind of personal data.

/// What becomes of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// As Cognito sends it.
    #[default]
    Keep,
    /// A keyed hash of it.
    Hash,
    /// Its network: /24 of an IPv4 address, /48 of an IPv6 one.
    Truncate,
    /// Nothing.
    Drop,
}

/// A mode for each kind of personal data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Modes {
    /// Username, sub, and the provider of a feedback.
    pub username: Mode,
    /// IpAddress.
    pub ip_address: Mode,
    /// DeviceName.
    pub device: Mode,
    /// City, country and time zone.
    pub location: Mode,
}

impl Modes {
    /// A small number that stands for them in stored records; 0 is to keep everything.
    pub fn code(self) -> u32 {
        let modes = [self.username, self.ip_address, self.device, self.location];
        modes.into_iter().rev().fold(0, |code, mode| code << 2 | mode as u32)
    }

    /// The modes that a number stands for.
    pub fn from_code(code: u32) -> Self {
        let mode = |place: u32| match code >> (2 * place) & 3 {
            0 => Mode::Keep,
            1 => Mode::Hash,
            2 => Mode::Truncate,
            _ => Mode::Drop,
        };
        Self { username: mode(0), ip_address: mode(1), device: mode(2), location: mode(3) }
    }

    /// Whether nothing is changed.
    pub fn keep_all(self) -> bool {
        self == Self::default()
    }

    /// Whether a key is needed. A username that is dropped from records is hashed in the ledger, where users are told apart.
    pub fn need_key(self) -> bool {
        self.hides_names() || [self.ip_address, self.device, self.location].contains(&Mode::Hash)
    }

    /// Whether usernames may not be stored.
    pub fn hides_names(self) -> bool {
        matches!(self.username, Mode::Hash | Mode::Drop)
    }
}
