//! The outbox: entries that no receiver has accepted yet, in the order of their numbers.
//!
//! The writer stores neighbours together, in *segments*. One write and one removal then serve many entries. Each entry
//! keeps its own number, checksum and fate:
//!
//! ```text
//! o/<number>   [1][checksum][entry]                    one entry, as the first builds stored every entry
//! o/<first>    [2][checksum][table][entry][entry]...   a segment: sealed entries, each like the one above
//!
//! table        [checksum, 4 bytes][number of entries, 1 byte][row]...
//! row          [the entry's number - first, 1 byte][its length, 4 bytes]
//! ```
//!
//! A settled entry leaves its segment, and the rest is written again under the same key. Damage outside the table costs
//! only the entries that it hits. A segment with a damaged table counts as one damaged entry. A build that knows only
//! the first form finds version 2, and refuses the ledger without touching it.

use std::ops::Range;

use cognito_auth_core::entry::{Entry, OutboxId};
use cognito_auth_core::event::UnixMillis;
use tokio::sync::watch;

use super::envelope::{self, StoredRecord as _};
use super::store::StoreReader as _;
use super::stored_entry::StoredEntry;
use super::writer_state::WriteRequest;
use super::{Ledger, LedgerError, keys};
use crate::delivery::{Outbox, OutboxEntry, Settlement};

/// The most entries of a segment. A page has at most 60.
pub(super) const SEGMENT_ENTRIES_MAX: usize = 64;

/// The most bytes of a segment's entries, unless there is only one. The engine divides a page when it has 17 values,
/// whatever their size, and holds several copies of a page while it changes. Twice as much would take 11 MiB more of
/// memory on catch-up and save no CPU (docs/performance.md).
const SEGMENT_BYTES_MAX: usize = 3 << 10;

/// The version of a segment. A single entry has [`StoredEntry::VERSION`].
const SEGMENT_VERSION: u8 = 2;

/// The bytes of a segment's table before its rows, and of a row.
const TABLE_BYTES: usize = 5;
const ROW_BYTES: usize = 5;

/// The number and size of the entries in the outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OutboxState {
    /// Number of entries.
    pub records: u64,
    /// Their bytes as stored, keys included.
    pub bytes: u64,
    /// When the first of them was observed.
    pub oldest: Option<UnixMillis>,
}

/// A sealed entry and its number.
pub(super) type NumberedEntry<'a> = (u64, &'a [u8]);

impl Ledger {
    /// Returns the number and size of the durable entries in the outbox.
    pub fn outbox_state(&self) -> OutboxState {
        self.0.shared.published.borrow().outbox
    }
}

impl Outbox for Ledger {
    type Error = LedgerError;

    fn read(&self, after: Option<OutboxId>, limit: usize) -> Result<Vec<OutboxEntry>, LedgerError> {
        let first = after.map_or(0, |after| after.0.saturating_add(1));
        let range = keys::outbox_between(earliest_key_of(first), self.0.shared.published.borrow().end);
        let mut bytes = 0;
        let mut read: Vec<OutboxEntry> = Vec::new();
        self.reading(|reader| {
            reader.each_while(range, |key, value| {
                let Some(key) = keys::sequence_of(key) else { return Ok(true) };
                for (number, sealed) in entries_of(key, value)?.into_iter().filter(|(number, _)| *number >= first) {
                    bytes += sealed.len();
                    if read.len() >= limit || (bytes > Self::READ_BYTES_MAX && !read.is_empty()) {
                        return Ok(false);
                    }
                    let mut entry = StoredEntry::examine(sealed)?.map(Entry::from);
                    // Most neighbours are of one pool, and share its identity in memory.
                    if let (Some((_, Ok(before))), Ok(entry)) = (read.last(), &mut entry)
                        && before.pool == entry.pool
                    {
                        entry.pool = before.pool.clone();
                    }
                    read.push((OutboxId(number), entry));
                }
                Ok(true)
            })
        })?;
        Ok(read)
    }

    async fn settle(&self, settlement: Settlement) -> Result<(), LedgerError> {
        self.write(WriteRequest::Settle(settlement)).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.shared.changes.subscribe()
    }

    fn quarantine_full(&self) -> bool {
        self.quarantine_state().1 >= self.0.quarantine_limit_bytes
    }
}

/// Returns the earliest key of a record that may hold the entry with this number.
pub(super) fn earliest_key_of(number: u64) -> u64 {
    number.saturating_sub(SEGMENT_ENTRIES_MAX as u64 - 1)
}

/// Divides sealed entries into records: the range of entries of each.
pub(super) fn divided(entries: &[Vec<u8>]) -> Vec<Range<usize>> {
    let mut records: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (at, entry) in entries.iter().enumerate() {
        bytes += entry.len();
        match records.last_mut() {
            Some(last) if last.len() < SEGMENT_ENTRIES_MAX && bytes <= SEGMENT_BYTES_MAX => last.end = at + 1,
            _ => {
                bytes = entry.len();
                records.push(at..at + 1);
            }
        }
    }
    records
}

/// Makes the record under the key `first`, of at least one entry and numbers in ascending order.
pub(super) fn record_of(first: u64, entries: &[NumberedEntry<'_>]) -> Vec<u8> {
    if let [(number, entry)] = entries
        && *number == first
    {
        return entry.to_vec();
    }
    debug_assert!(entries.len() <= SEGMENT_ENTRIES_MAX, "a segment is bounded");
    let bytes: usize = entries.iter().map(|(_, entry)| ROW_BYTES + entry.len()).sum();
    envelope::sealed(SEGMENT_VERSION, TABLE_BYTES + bytes, |payload| {
        let table_begins = payload.len();
        payload.extend([0; TABLE_BYTES - 1]);
        payload.push(narrow(entries.len()));
        for (number, entry) in entries {
            payload.push(narrow(number.saturating_sub(first)));
            payload.extend(u32::try_from(entry.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
        let checksum = crc32fast::hash(&payload[table_begins + TABLE_BYTES - 1..]);
        payload[table_begins..table_begins + TABLE_BYTES - 1].copy_from_slice(&checksum.to_le_bytes());
        entries.iter().for_each(|(_, entry)| payload.extend_from_slice(entry));
    })
}

/// A number or place in a segment, which is below [`SEGMENT_ENTRIES_MAX`].
fn narrow<N: TryInto<u8>>(number: N) -> u8 {
    number.try_into().unwrap_or(u8::MAX)
}

/// Returns the sealed entries of the record under the key `first`, in order. A record that cannot be divided is one
/// entry, which cannot be read.
///
/// # Errors
/// A newer build has written the record.
pub(super) fn entries_of(first: u64, record: &[u8]) -> Result<Vec<NumberedEntry<'_>>, LedgerError> {
    let segment = match envelope::verify(StoredEntry::WHAT, SEGMENT_VERSION, record) {
        Ok((version, payload)) => (version == SEGMENT_VERSION).then(|| segment(first, payload)).flatten(),
        // The damage may be outside the table.
        Err(LedgerError::Corrupt { .. }) => {
            record.get(envelope::HEADER_BYTES..).and_then(|payload| segment(first, payload))
        }
        Err(error) => return Err(error),
    };
    Ok(segment.unwrap_or_else(|| vec![(first, record)]))
}

/// Divides a segment by its table; None if the table is damaged, or is none that a build has written.
fn segment(first: u64, payload: &[u8]) -> Option<Vec<NumberedEntry<'_>>> {
    let (checksum, table) = payload.split_first_chunk()?;
    let (entries, _) = table.split_first()?;
    let (table, mut sealed) = table.split_at_checked(1 + usize::from(*entries) * ROW_BYTES)?;
    if crc32fast::hash(table) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (rows, _) = table.get(1..)?.as_chunks::<ROW_BYTES>();
    if rows.is_empty() || !rows.is_sorted_by(|[one, ..], [next, ..]| one < next) {
        return None;
    }
    rows.iter()
        .map(|[place, length @ ..]| {
            // Of a segment that was cut short, the last entries are cut.
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?.min(sealed.len());
            let entry;
            (entry, sealed) = sealed.split_at_checked(length)?;
            Some((first.saturating_add((*place).into()), entry))
        })
        .collect()
}

/// Refuses a record that a newer build has written, or that holds an entry of a newer build.
pub(super) fn refuse_newer(first: u64, record: &[u8]) -> Result<(), LedgerError> {
    entries_of(first, record)?.into_iter().try_for_each(|(_, entry)| StoredEntry::refuse_newer(entry))
}

/// Decodes the record under the key `first` and its entries, to find damage.
pub(super) fn check(first: u64, record: &[u8]) -> Result<(), LedgerError> {
    envelope::verify(StoredEntry::WHAT, SEGMENT_VERSION, record)?;
    entries_of(first, record)?.into_iter().try_for_each(|(_, entry)| StoredEntry::open(entry).map(drop))
}

/// Makes the record under the key `first` again, with other bytes for some of its entries.
pub(super) fn rewritten(
    first: u64,
    record: &[u8],
    entry: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, LedgerError> {
    let entries = entries_of(first, record)?.into_iter();
    let entries: Vec<_> =
        entries.map(|(number, sealed)| (number, entry(sealed).unwrap_or_else(|| sealed.to_vec()))).collect();
    let entries: Vec<_> = entries.iter().map(|(number, sealed)| (*number, sealed.as_slice())).collect();
    Ok(record_of(first, &entries))
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::stored_entry::tests::{any_entry, known_entry};

    /// A segment of the known entry under the numbers 7 and 9, as version 2 has it.
    const SEGMENT_2: &str = "\
        02426af305d8b09d8e02002e010000022e010000010d59f4eb0a1065752d776573742d315f476f6c64656e1209637573746f\
        6d6572731a0965752d776573742d31220c3132333435363738393031322a047a6fc3ab322430623065366630632d35613065\
        2d346333392d396135332d3066336535613866376332323ab9010a2437363864333735632d656536632d343335652d613030\
        352d32356334393831353635633312065369676e496e18928cccaea6642207506572686170732a190a0f4163636f756e7454\
        616b656f766572120448696768180132130a0850617373776f72641207537563636573733a320a093139322e302e322e3712\
        164368726f6d65203132362c2057696e646f777320313022046e756c6c2a074972656c616e6442150a0556616c6964120561\
        646d696e18c09ad2aea664400248015080b5deaea664010d59f4eb0a1065752d776573742d315f476f6c64656e1209637573\
        746f6d6572731a0965752d776573742d31220c3132333435363738393031322a047a6fc3ab322430623065366630632d3561\
        30652d346333392d396135332d3066336535613866376332323ab9010a2437363864333735632d656536632d343335652d61\
        3030352d32356334393831353635633312065369676e496e18928cccaea6642207506572686170732a190a0f4163636f756e\
        7454616b656f766572120448696768180132130a0850617373776f72641207537563636573733a320a093139322e302e322e\
        3712164368726f6d65203132362c2057696e646f777320313022046e756c6c2a074972656c616e6442150a0556616c696412\
        0561646d696e18c09ad2aea664400248015080b5deaea664";

    fn numbered<'a>(entries: impl IntoIterator<Item = (&'a u64, &'a Vec<u8>)>) -> Vec<NumberedEntry<'a>> {
        entries.into_iter().map(|(number, entry)| (*number, entry.as_slice())).collect()
    }

    #[test]
    fn a_segment_is_as_it_was_frozen_and_a_build_that_knows_none_refuses_it() {
        let sealed = StoredEntry::from(known_entry()).seal();
        let entries = [(7, sealed.as_slice()), (9, sealed.as_slice())];
        let record = envelope::unhex(SEGMENT_2);
        assert_eq!(entries_of(7, &record), Ok(entries.to_vec()));
        assert_eq!(record_of(7, &entries), record);
        assert_eq!(record[0], SEGMENT_VERSION);
        let (what, found, known) = (StoredEntry::WHAT, 2, 1);
        assert_eq!(StoredEntry::refuse_newer(&record), Err(LedgerError::NewerVersion { what, found, known }));
        assert_eq!(refuse_newer(7, &envelope::in_version(3, &record)).unwrap_err(), {
            let (found, known) = (3, 2);
            LedgerError::NewerVersion { what, found, known }
        });
    }

    #[test]
    fn a_single_entry_is_stored_as_every_build_stores_it() {
        let sealed = StoredEntry::from(known_entry()).seal();
        assert_eq!(record_of(7, &[(7, &sealed)]), sealed);
        assert_eq!(entries_of(7, &sealed), Ok(vec![(7, sealed.as_slice())]));
        // The rest of a segment is not the entry that gives the key its number.
        let rest = record_of(7, &[(8, &sealed)]);
        assert_ne!(rest, sealed);
        assert_eq!(entries_of(7, &rest), Ok(vec![(8, sealed.as_slice())]));
    }

    #[test]
    fn a_segment_has_a_bounded_number_of_entries_and_bytes() {
        let small = vec![vec![0; 10]; 150];
        assert_eq!(divided(&small), [0..64, 64..128, 128..150]);
        let large = [SEGMENT_BYTES_MAX - 10, 10, 1, 3 * SEGMENT_BYTES_MAX, 5].map(|bytes| vec![0; bytes]);
        assert_eq!(divided(&large), [0..2, 2..3, 3..4, 4..5]);
        assert!(divided(&[]).is_empty());
    }

    #[test]
    fn a_flipped_bit_costs_at_most_one_entry_unless_it_is_in_the_table() {
        let sealed: Vec<_> =
            (0..3).map(|revision| StoredEntry::from(Entry { revision, ..known_entry() }).seal()).collect();
        let entries: Vec<_> = (7..).zip(sealed.iter().map(Vec::as_slice)).collect();
        let record = record_of(7, &entries);
        let table = envelope::HEADER_BYTES..envelope::HEADER_BYTES + TABLE_BYTES + 3 * ROW_BYTES;
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(check(7, &damaged).is_err(), "bit {bit}");
            let found = entries_of(7, &damaged).unwrap();
            if table.contains(&(bit / 8)) {
                assert_eq!(found, [(7, damaged.as_slice())]);
                assert!(StoredEntry::examine(&damaged).unwrap().is_err());
            } else {
                assert!(found.iter().map(|(number, _)| *number).eq(7..10));
                let lost = found.iter().filter(|(_, entry)| StoredEntry::examine(entry).unwrap().is_err()).count();
                let sound = found.iter().zip(&entries).filter(|(found, entry)| found == entry).count();
                assert_eq!((lost, sound), if bit / 8 < table.start { (0, 3) } else { (1, 2) }, "bit {bit}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_record_gives_back_its_entries_and_never_another(
            first in 0..u64::MAX / 2,
            entries in btree_map(0..64_u64, any_entry().prop_map(|entry| StoredEntry::from(entry).seal()), 1..5),
            (at, bytes) in (any::<prop::sample::Index>(), vec(any::<u8>(), 0..9)),
        ) {
            let entries: std::collections::BTreeMap<_, _> =
                entries.into_iter().map(|(place, entry)| (first + place, entry)).collect();
            let record = record_of(first, &numbered(&entries));
            prop_assert_eq!(entries_of(first, &record), Ok(numbered(&entries)));
            prop_assert_eq!(check(first, &record), Ok(()));
            prop_assert_eq!(rewritten(first, &record, |_| None), Ok(record.clone()));
            let at = at.index(record.len());
            let end = record.len().min(at + bytes.len());
            let cut = record[..at].to_vec();
            let replaced = [&record[..at], &bytes[..end - at], &record[end..]].concat();
            for damaged in [cut, replaced, bytes] {
                let Ok(found) = entries_of(first, &damaged) else { continue };
                prop_assert!(!found.is_empty());
                for (number, entry) in found {
                    if StoredEntry::examine(entry).is_ok_and(|entry| entry.is_ok()) {
                        prop_assert_eq!(entries.get(&number).map(Vec::as_slice), Some(entry));
                    }
                }
            }
        }
    }
}
