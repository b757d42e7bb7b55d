//! The envelope of stored records: `[version, 1 byte][CRC-32, 4 bytes][payload, protobuf]`. The checksum covers the
//! payload, and from version 2 on the version, too.
//!
//! Protobuf grows compatibly: a build skips members that it does not know. A change beyond that raises the version. A
//! record of an older version is migrated when it is read, and has the newest version when it is written next. A record
//! of a newer version is refused.
//!
//! The header never changes, so that a newer record with a correct checksum differs from a damaged one. Changing the
//! header would need a new [`StoreFormat`].

use super::error::LedgerError;
use crate::delivery::Unreadable;

/// A kind of stored record.
pub(super) trait StoredRecord: prost::Message + Default {
    /// The kind's name in errors, without a user's name.
    const WHAT: &'static str;
    /// The version that this build writes, and the newest that it reads. Raising it needs a new arm in
    /// [`StoredRecord::migrate`].
    const VERSION: u8 = 1;

    /// Encodes the record with its header.
    fn seal(&self) -> Vec<u8> {
        sealed(Self::VERSION, self.encoded_len(), |bytes| {
            // A Vec grows, so the encoder cannot run out of room.
            let encoded = self.encode(bytes);
            debug_assert!(encoded.is_ok());
        })
    }

    /// Decodes a record that this build or an older one has sealed.
    fn open(bytes: &[u8]) -> Result<Self, LedgerError> {
        match Self::verify(bytes)? {
            (version, payload) if version == Self::VERSION => decode(Self::WHAT, payload),
            (version, payload) => Self::migrate(version, payload),
        }
    }

    /// Decodes the payload of an older version.
    fn migrate(version: u8, _payload: &[u8]) -> Result<Self, LedgerError> {
        Err(unknown_version(Self::WHAT, version))
    }

    /// Decodes a record like `open`, but returns damage as a value: the damage of such a record affects no other
    /// record.
    fn examine(bytes: &[u8]) -> Result<Result<Self, Unreadable>, LedgerError> {
        match Self::open(bytes) {
            Ok(record) => Ok(Ok(record)),
            Err(LedgerError::Corrupt { problem, .. }) => Ok(Err(Unreadable(problem))),
            Err(error) => Err(error),
        }
    }

    /// Refuses a record that a newer build has written. Damage is no error here: `examine` finds it later.
    fn refuse_newer(bytes: &[u8]) -> Result<(), LedgerError> {
        match Self::verify(bytes) {
            Ok(_) | Err(LedgerError::Corrupt { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Checks checksum and version without decoding the record. Returns its version and payload.
    fn verify(bytes: &[u8]) -> Result<(u8, &[u8]), LedgerError> {
        verify(Self::WHAT, Self::VERSION, bytes)
    }
}

/// Makes a record: the header, and the payload that `write` appends, of about this many bytes.
pub(super) fn sealed(version: u8, payload_bytes: usize, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload_bytes);
    bytes.push(version);
    bytes.extend([0; HEADER_BYTES - 1]);
    write(&mut bytes);
    let (header, payload) = bytes.split_at_mut(HEADER_BYTES);
    header[1..].copy_from_slice(&checksum_of(version, payload).to_le_bytes());
    bytes
}

/// Checks the checksum of a record, and that its version is at most `known`. Returns its version and payload.
pub(super) fn verify<'a>(what: &'static str, known: u8, bytes: &'a [u8]) -> Result<(u8, &'a [u8]), LedgerError> {
    let Some(([version, checksum @ ..], payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(LedgerError::corrupt(what, "it is cut short"));
    };
    // The checksum comes first, because a damaged record may seem to have any version.
    if checksum_of(*version, payload) != u32::from_le_bytes(*checksum) {
        return Err(LedgerError::corrupt(what, "its checksum is wrong"));
    }
    if *version > known {
        return Err(LedgerError::NewerVersion { what, found: (*version).into(), known: known.into() });
    }
    Ok((*version, payload))
}

/// Computes the checksum of a record. Version 1 does not cover the version byte. From version 2 on, a damaged version
/// byte is found as damage.
fn checksum_of(version: u8, payload: &[u8]) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    if version > 1 {
        checksum.update(&[version]);
    }
    checksum.update(payload);
    checksum.finalize()
}

/// Seals a sealed record again, as a build of another version would.
#[cfg(test)]
pub(super) fn in_version(version: u8, record: &[u8]) -> Vec<u8> {
    let payload = &record[HEADER_BYTES..];
    [&[version], &checksum_of(version, payload).to_le_bytes()[..], payload].concat()
}

/// Decodes hexadecimal digits: tests keep records of older builds in this form.
#[cfg(test)]
pub(super) fn unhex(digits: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Makes the error that `migrate` returns for a version that no build has written.
pub(super) fn unknown_version(what: &'static str, version: u8) -> LedgerError {
    LedgerError::corrupt(what, format!("it has version {version}, which no build has written"))
}

/// Decodes a payload whose checksum is correct.
pub(super) fn decode<M: prost::Message + Default>(what: &'static str, payload: &[u8]) -> Result<M, LedgerError> {
    M::decode(payload).map_err(|error| LedgerError::corrupt(what, error.to_string()))
}

/// The bytes of the header.
pub(super) const HEADER_BYTES: usize = 5;

/// The ledger's format, raised when keys or their meaning change.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StoreFormat {
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
}

impl StoreFormat {
    /// The newest format of this build, in which users may be known by hashes.
    pub(super) const NUMBER: u32 = 2;
    /// The format in which users are known by their names.
    pub(super) const NUMBER_PLAIN: u32 = 1;
}

impl StoredRecord for StoreFormat {
    const WHAT: &'static str = "the format";
}

/// The UUID of this installation.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Instance {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

impl StoredRecord for Instance {
    const WHAT: &'static str = "the instance id";
}

/// A number: a total, the outbox's next sequence number, or the number of batches.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Count {
    #[prost(uint64, tag = "1")]
    pub(super) value: u64,
}

impl StoredRecord for Count {
    const WHAT: &'static str = "a total";
}

/// The privacy settings of the ledger, as [`Privacy::note`](cognito_auth_core::privacy::Privacy::note) writes them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct PrivacyNote {
    #[prost(string, tag = "1")]
    pub(super) note: String,
}

impl StoredRecord for PrivacyNote {
    const WHAT: &'static str = "the note on privacy";
}

/// A pool that is followed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StoredPool {
    #[prost(sint64, tag = "1")]
    pub(super) followed_since: i64,
    #[prost(sint64, optional, tag = "2")]
    pub(super) lost_since: Option<i64>,
    #[prost(fixed64, optional, tag = "3")]
    pub(super) selection: Option<u64>,
    /// Empty in records of builds without shards.
    #[prost(message, repeated, tag = "4")]
    pub(super) shares: Vec<Share>,
}

/// A share of the pool's users that the ledger had, and since when.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Share {
    #[prost(uint32, tag = "1")]
    pub(super) index: u32,
    #[prost(uint32, tag = "2")]
    pub(super) count: u32,
    #[prost(sint64, tag = "3")]
    pub(super) since: i64,
}

impl StoredRecord for StoredPool {
    const WHAT: &'static str = "a pool";
}

/// How far the log group of a pool's export was read.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StoredReadPosition {
    /// The name or ARN of the log group.
    #[prost(string, tag = "1")]
    pub(super) log_group: String,
    /// Milliseconds since the epoch, by the timestamps of the log events.
    #[prost(sint64, tag = "2")]
    pub(super) position: i64,
}

impl StoredRecord for StoredReadPosition {
    const WHAT: &'static str = "the read position of an export";
}

/// The note that a user is gone, and since when.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Gone {
    #[prost(sint64, tag = "1")]
    pub(super) since: i64,
}

impl StoredRecord for Gone {
    const WHAT: &'static str = "a user who is gone";
}

/// The note that a name is another name of a followed user.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct OtherName {
    /// The name under which the user is followed, as the ledger has it.
    #[prost(string, tag = "1")]
    pub(super) of: String,
    /// When both names last showed the same history.
    #[prost(sint64, tag = "2")]
    pub(super) seen: i64,
}

impl StoredRecord for OtherName {
    const WHAT: &'static str = "another name of a user";
}

/// When the former ledger, which was lost, was last written.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct LostSince {
    #[prost(sint64, tag = "1")]
    pub(super) time: i64,
}

impl StoredRecord for LostSince {
    const WHAT: &'static str = "the time of a loss";
}

/// What is known of scrapes of `/metrics`, by earlier processes too.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StoredScrapes {
    /// Milliseconds since the epoch; absent if none was ever served.
    #[prost(sint64, optional, tag = "1")]
    pub(super) latest: Option<i64>,
}

impl StoredRecord for StoredScrapes {
    const WHAT: &'static str = "the note on scrapes";
}

/// The second from which on a pool's told events are complete.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct ToldSince {
    #[prost(sint64, tag = "1")]
    pub(super) second: i64,
    /// Whether no poll reads the pool, so that old events are forgotten that no cursor has.
    #[prost(bool, tag = "2")]
    pub(super) unpolled: bool,
}

impl StoredRecord for ToldSince {
    const WHAT: &'static str = "the time of the first told event";
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
        assert!(
            Count::open(&oldest).unwrap_err().to_string().ends_with("it has version 0, which no build has written")
        );
    }
}
