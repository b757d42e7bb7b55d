//! How a record lies in the store: `[version, 1 byte][CRC-32, 4 bytes][payload, protobuf]`. The checksum is of the payload,
//! and from version 2 on of version and payload.
//!
//! Protobuf grows compatibly: a member that this build does not know is skipped. The version is for the day when that is
//! not enough: an older record is migrated when it is read, and written as the newest the next time; a newer one is
//! refused, never guessed at.
//!
//! The header is the same for ever, so that a newer record, whose checksum is right, can be told from a damaged one. To
//! change it is to change the ledger's [`Format`].

use super::error::LedgerError;
use crate::delivery::Unreadable;

/// A kind of record.
pub(super) trait Record: prost::Message + Default {
    /// What errors call it; says nothing of whose it is.
    const WHAT: &'static str;
    /// The version that this build writes, and the newest that it reads. Whoever raises it writes [`Record::migrate`].
    const VERSION: u8 = 1;

    /// The record as it is stored.
    fn seal(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.encoded_len());
        bytes.push(Self::VERSION);
        bytes.extend([0; HEADER_BYTES - 1]);
        // Into a Vec, which grows: cannot run out of room.
        let encoded = self.encode(&mut bytes);
        debug_assert!(encoded.is_ok());
        let (header, payload) = bytes.split_at_mut(HEADER_BYTES);
        header[1..].copy_from_slice(&checksum_of(Self::VERSION, payload).to_le_bytes());
        bytes
    }

    /// Reads what `seal` wrote, in this build or in an older one.
    fn open(bytes: &[u8]) -> Result<Self, LedgerError> {
        match Self::verify(bytes)? {
            (version, payload) if version == Self::VERSION => decode(Self::WHAT, payload),
            (version, payload) => Self::migrate(version, payload),
        }
    }

    /// Reads the payload of an older version. A record that has had some has an arm for each.
    fn migrate(version: u8, _payload: &[u8]) -> Result<Self, LedgerError> {
        Err(never_was(Self::WHAT, version))
    }

    /// Like `open`, with damage as a finding: for records whose damage concerns nothing else.
    fn examine(bytes: &[u8]) -> Result<Result<Self, Unreadable>, LedgerError> {
        match Self::open(bytes) {
            Ok(record) => Ok(Ok(record)),
            Err(LedgerError::Corrupt { problem, .. }) => Ok(Err(Unreadable(problem))),
            Err(error) => Err(error),
        }
    }

    /// Refuses what a newer build has written, and leaves damage to whoever examines the record.
    fn refuse_newer(bytes: &[u8]) -> Result<(), LedgerError> {
        match Self::verify(bytes) {
            Ok(_) | Err(LedgerError::Corrupt { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Checks checksum and version without reading the record; answers its version and payload.
    fn verify(bytes: &[u8]) -> Result<(u8, &[u8]), LedgerError> {
        let Some(([version, checksum @ ..], payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(LedgerError::corrupt(Self::WHAT, "it is cut short"));
        };
        // The checksum first: a damaged record may seem to have any version.
        if checksum_of(*version, payload) != u32::from_le_bytes(*checksum) {
            return Err(LedgerError::corrupt(Self::WHAT, "its checksum is wrong"));
        }
        if *version > Self::VERSION {
            return Err(LedgerError::NewerVersion {
                what: Self::WHAT,
                found: (*version).into(),
                known: Self::VERSION.into(),
            });
        }
        Ok((*version, payload))
    }
}

/// Version 1 left itself out of the checksum; from version 2 on a damaged version is damage, and not another version.
fn checksum_of(version: u8, payload: &[u8]) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    if version > 1 {
        checksum.update(&[version]);
    }
    checksum.update(payload);
    checksum.finalize()
}

/// The record as a build of another version would have written it.
#[cfg(test)]
pub(super) fn in_version(version: u8, record: &[u8]) -> Vec<u8> {
    let payload = &record[HEADER_BYTES..];
    [&[version], &checksum_of(version, payload).to_le_bytes()[..], payload].concat()
}

/// A record of which a test holds what an older build wrote.
#[cfg(test)]
pub(super) fn unhex(digits: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// What `migrate` answers to a version that no build has written.
pub(super) fn never_was(what: &'static str, version: u8) -> LedgerError {
    LedgerError::corrupt(what, format!("it has version {version}, which never was"))
}

/// Reads a payload whose checksum is right.
pub(super) fn decode<M: prost::Message + Default>(what: &'static str, payload: &[u8]) -> Result<M, LedgerError> {
    M::decode(payload).map_err(|error| LedgerError::corrupt(what, error.to_string()))
}

const HEADER_BYTES: usize = 5;

/// The ledger's format, raised when keys or their meaning change.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Format {
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
}

impl Format {
    /// The newest format of this build, in which users may be known by hashes.
    pub(super) const NUMBER: u32 = 2;
    /// The format in which users are known by their names.
    pub(super) const NUMBER_PLAIN: u32 = 1;
}

impl Record for Format {
    const WHAT: &'static str = "the format";
}

/// The UUID that names this installation.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Instance {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

impl Record for Instance {
    const WHAT: &'static str = "the instance id";
}

/// A number: a total, or the outbox's next sequence number.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Count {
    #[prost(uint64, tag = "1")]
    pub(super) value: u64,
}

impl Record for Count {
    const WHAT: &'static str = "a total";
}

/// What may be stored of users, as [`Privacy::note`](cognito_auth_core::privacy::Privacy::note) says it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct PrivacyNote {
    #[prost(string, tag = "1")]
    pub(super) note: String,
}

impl Record for PrivacyNote {
    const WHAT: &'static str = "the note on privacy";
}

/// When a pool was first followed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Pool {
    #[prost(sint64, tag = "1")]
    pub(super) followed_since: i64,
    #[prost(sint64, optional, tag = "2")]
    pub(super) lost_since: Option<i64>,
    #[prost(fixed64, optional, tag = "3")]
    pub(super) selection: Option<u64>,
    /// Empty in the record of a build that knew no shards.
    #[prost(message, repeated, tag = "4")]
    pub(super) shares: Vec<Share>,
}

/// A share of the users that the ledger had, and since when.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Share {
    #[prost(uint32, tag = "1")]
    pub(super) index: u32,
    #[prost(uint32, tag = "2")]
    pub(super) count: u32,
    #[prost(sint64, tag = "3")]
    pub(super) since: i64,
}

impl Record for Pool {
    const WHAT: &'static str = "a pool";
}

/// Since when a user is gone.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Gone {
    #[prost(sint64, tag = "1")]
    pub(super) since: i64,
}

impl Record for Gone {
    const WHAT: &'static str = "a user who is gone";
}

/// Whose other name a name is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct OtherName {
    /// The name under which the user is followed, as the ledger has it.
    #[prost(string, tag = "1")]
    pub(super) of: String,
    /// When both names showed the same history last.
    #[prost(sint64, tag = "2")]
    pub(super) seen: i64,
}

impl Record for OtherName {
    const WHAT: &'static str = "another name of a user";
}

/// When the ledger that was here before last wrote something.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct LostSince {
    #[prost(sint64, tag = "1")]
    pub(super) time: i64,
}

impl Record for LostSince {
    const WHAT: &'static str = "the time of a loss";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was() {
        let sealed = Count { value: 300 }.seal();
        assert_eq!(Count::open(&sealed), Ok(Count { value: 300 }));
        assert_eq!(sealed.len(), HEADER_BYTES + 3);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sealed = Count { value: 300 }.seal();
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Count::open(&damaged).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(matches!(Count::open(&sealed[..len]), Err(LedgerError::Corrupt { what: "a total", .. })));
        }
    }

    #[test]
    fn a_newer_version_is_named_and_refused() {
        let newer = in_version(2, &Count { value: 300 }.seal());
        let refused = Count::open(&newer).unwrap_err();
        assert_eq!(refused, LedgerError::NewerVersion { what: "a total", found: 2, known: 1 });
        assert!(refused.to_string().contains("a total in the ledger has version 2"));
        assert_eq!(Count::refuse_newer(&newer), Err(refused.clone()));
        assert_eq!(Count::examine(&newer), Err(refused));
    }

    #[test]
    fn damage_is_not_taken_for_a_newer_version() {
        let garbage = [0xa5; 40];
        assert_eq!(Count::refuse_newer(&garbage), Ok(()));
        let found = Count::examine(&garbage).unwrap().unwrap_err();
        assert_eq!(found.to_string(), "cannot be read: its checksum is wrong");
        let mut oldest = Count { value: 300 }.seal();
        oldest[0] = 0;
        assert!(Count::open(&oldest).unwrap_err().to_string().ends_with("it has version 0, which never was"));
    }
}
