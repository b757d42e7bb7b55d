//! How far the log groups of the pools' exports were read. The reader moves a position only after what it read is on
//! the disk, so both are separate writes.

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::export::log_group::LogGroup;

use super::envelope::{StoredReadPosition, StoredRecord as _};
use super::store::StoreReader as _;
use super::writer_state::WriteRequest;
use super::{Ledger, LedgerError, keys};

/// The position of a pool's log group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadPosition {
    /// The log group that was read.
    pub log_group: LogGroup,
    /// Everything up to this timestamp was handed in.
    pub position: UnixMillis,
}

impl Ledger {
    /// Reads how far a pool's log group was read; None if none was read.
    ///
    /// # Errors
    /// The ledger has failed, is closed, or the record cannot be read.
    pub fn read_position(&self, pool_id: &str) -> Result<Option<ReadPosition>, LedgerError> {
        let stored = self.reading(|reader| reader.get(&keys::read_position(pool_id)))?;
        let position = |bytes: Vec<u8>| {
            let StoredReadPosition { log_group, position } = StoredReadPosition::open(&bytes)?;
            Ok(ReadPosition { log_group: LogGroup::new(&log_group), position: UnixMillis(position) })
        };
        stored.map(position).transpose()
    }

    /// Writes how far a pool's log group was read. Callers have handed in everything up to there before.
    ///
    /// # Errors
    /// It may not have been written: the ledger has failed or is closed.
    pub async fn move_read_position(&self, pool_id: &str, to: ReadPosition) -> Result<(), LedgerError> {
        let log_group = to.log_group.identifier().to_owned();
        let stored = StoredReadPosition { log_group, position: to.position.0 };
        self.write(WriteRequest::Put(vec![(keys::read_position(pool_id), Some(stored.seal()))])).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::envelope::unhex;
    use super::*;

    /// A record as the first build with this kind has written it.
    const GOLDEN: &str = "013fb2eca80a172f6177732f76656e6465646c6f67732f636f676e69746f10ea8bf2d8c168";

    #[test]
    fn a_position_that_was_stored_once_is_read_for_ever() {
        let log_group = "/aws/vendedlogs/cognito".to_owned();
        let position = StoredReadPosition { log_group, position: 1_795_523_756_789 };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&position.seal()), GOLDEN);
        assert_eq!(StoredReadPosition::open(&unhex(GOLDEN)), Ok(position));
    }
}
