//! The note on scrapes of `/metrics`. The next process reads it to tell whether somebody scrapes, and so whether
//! polling has to wait for a scrape.

use cognito_auth_core::event::UnixMillis;

use super::envelope::{StoredRecord as _, StoredScrapes};
use super::store::StoreReader as _;
use super::writer_state::WriteRequest;
use super::{Ledger, LedgerError, keys};

/// What is known of scrapes, once a process has waited for one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrapeNote {
    /// A scrape was served then, and perhaps later ones.
    Served(UnixMillis),
    /// None was served since the ledger began.
    NeverServed,
}

impl Ledger {
    /// Reads the note on scrapes; None in a new ledger, or in one of a build without this note.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn scrapes(&self) -> Result<Option<ScrapeNote>, LedgerError> {
        let stored = self.reading(|reader| reader.get(keys::SCRAPES))?;
        let note = |bytes: Vec<u8>| {
            let latest = StoredScrapes::open(&bytes)?.latest;
            Ok(latest.map_or(ScrapeNote::NeverServed, |time| ScrapeNote::Served(UnixMillis(time))))
        };
        stored.map(note).transpose()
    }

    /// Writes the note on scrapes.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn note_scrapes(&self, note: ScrapeNote) -> Result<(), LedgerError> {
        let latest = match note {
            ScrapeNote::Served(time) => Some(time.0),
            ScrapeNote::NeverServed => None,
        };
        let stored = StoredScrapes { latest };
        self.write(WriteRequest::Put(vec![(keys::SCRAPES.to_vec(), Some(stored.seal()))])).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::envelope::unhex;
    use super::*;

    /// Records as the first build with this kind has written them.
    const GOLDEN: [(Option<i64>, &str); 2] =
        [(Some(1_795_523_756_789), "01bf9d17e108ea8bf2d8c168"), (None, "0100000000")];

    #[test]
    fn a_note_that_was_stored_once_is_read_for_ever() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (latest, golden) in GOLDEN {
            let stored = StoredScrapes { latest };
            assert_eq!(hex(&stored.seal()), golden);
            assert_eq!(StoredScrapes::open(&unhex(golden)), Ok(stored));
        }
    }
}
