//! How a record lies in the store: `[version, 1 byte][CRC-32 of the payload, 4 bytes][payload, protobuf]`.
//!
//! Protobuf grows compatibly: a member that this build does not know is skipped. The version is for the day when that is
//! not enough. A newer one is refused, never guessed at; the checksum tells damage from bugs.

use super::error::LedgerError;

/// A kind of record.
pub(super) trait Record: prost::Message + Default {
    /// What errors call it; says nothing of whose it is.
    const WHAT: &'static str;
    /// The version that this build writes, and the newest that it reads.
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
        header[1..].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
        bytes
    }

    /// Reads what `seal` wrote.
    fn open(bytes: &[u8]) -> Result<Self, LedgerError> {
        let payload = Self::verify(bytes)?;
        Self::decode(payload).map_err(|error| LedgerError::corrupt(Self::WHAT, error.to_string()))
    }

    /// Checks version and checksum without reading the record; answers its payload.
    fn verify(bytes: &[u8]) -> Result<&[u8], LedgerError> {
        let Some(([version, checksum @ ..], payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(LedgerError::corrupt(Self::WHAT, "it is cut short"));
        };
        // The version first: a newer one may have another checksum.
        if *version > Self::VERSION {
            return Err(LedgerError::NewerVersion {
                what: Self::WHAT,
                found: (*version).into(),
                known: Self::VERSION.into(),
            });
        }
        if *version == 0 {
            return Err(LedgerError::corrupt(Self::WHAT, "it has version 0, which never was"));
        }
        if crc32fast::hash(payload) != u32::from_le_bytes(*checksum) {
            return Err(LedgerError::corrupt(Self::WHAT, "its checksum is wrong"));
        }
        Ok(payload)
    }
}

const HEADER_BYTES: usize = 5;

/// The ledger's format, raised when keys or their meaning change.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Format {
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
}

impl Format {
    /// The format of this build.
    pub(super) const NUMBER: u32 = 1;
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

/// When a pool was first followed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Pool {
    #[prost(sint64, tag = "1")]
    pub(super) followed_since: i64,
    #[prost(sint64, optional, tag = "2")]
    pub(super) lost_since: Option<i64>,
}

impl Record for Pool {
    const WHAT: &'static str = "a pool";
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
        let mut newer = Count { value: 300 }.seal();
        newer[0] = 2;
        let refused = Count::open(&newer).unwrap_err();
        assert_eq!(refused, LedgerError::NewerVersion { what: "a total", found: 2, known: 1 });
        assert!(refused.to_string().contains("a total in the ledger has version 2"));
    }
}
