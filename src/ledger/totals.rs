//! The durable counters of all pools, as the writer keeps them in memory, and those that a batch raises.
//!
//! A series becomes text only in the store's keys. After a write, the writer shows the numbers that it has written.

use std::collections::{BTreeMap, BTreeSet};

use cognito_auth_core::counters::{Deltas, Series};

use super::engine::Reader;
use super::envelope::{Count, StoredRecord as _};
use super::error::LedgerError;
use super::keys;
use super::store::{Change, StoreReader as _};
use super::writer_state::WriteBatch;

/// The totals of every pool.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Totals {
    pools: BTreeMap<String, BTreeMap<Series, u64>>,
    /// The keys of series that only another build knows. Their totals stay as they are.
    unknown: BTreeSet<Vec<u8>>,
}

impl Totals {
    /// Reads the totals of a store.
    pub(super) fn read(reader: &Reader) -> Result<Self, LedgerError> {
        let mut totals = Self::default();
        reader.each(keys::totals(None), |key, value| {
            let total = Count::open(value)?.value;
            let known = keys::total_of(key).and_then(|(pool_id, series)| Some((pool_id, Series::from_key(series)?)));
            match known {
                Some((pool_id, series)) => {
                    totals.pools.entry(pool_id.to_owned()).or_default().insert(series, total);
                }
                None => {
                    totals.unknown.insert(key.to_vec());
                }
            }
            Ok(())
        })?;
        Ok(totals)
    }

    /// Raises a pool's totals in memory, and in the batch that is being collected.
    pub(super) fn raise(&mut self, pool_id: String, deltas: &Deltas, batch: &mut WriteBatch) {
        if deltas.is_empty() {
            return;
        }
        let totals = self.pools.entry(pool_id.clone()).or_default();
        let raised = batch.raised.0.entry(pool_id).or_default();
        for (series, delta) in deltas {
            let total = totals.entry(*series).or_default();
            *total = total.saturating_add(*delta);
            raised.insert(*series, *total);
        }
    }

    /// Removes a pool's totals, also those that the batch raises.
    pub(super) fn forget(&mut self, pool_id: &str, batch: &mut WriteBatch) {
        batch.raised.0.remove(pool_id);
        let known = self.pools.remove(pool_id).unwrap_or_default();
        let known = known.into_keys().map(|series| keys::total(pool_id, &series.to_key()));
        let unknown = self.unknown.extract_if(keys::totals(Some(pool_id)), |_| true);
        batch.changes.extend(known.chain(unknown).map(|key| (key, None)));
    }

    /// Calls `show` with the totals of each pool.
    pub(super) fn each(&self, mut show: impl FnMut(&str, &[(Series, u64)])) {
        for (pool_id, totals) in &self.pools {
            show(pool_id, &pairs(totals));
        }
    }
}

/// The totals that a batch raises, by pool, with their new values.
#[derive(Default)]
pub(super) struct RaisedTotals(BTreeMap<String, BTreeMap<Series, u64>>);

impl RaisedTotals {
    /// Returns the changes of the store: one for each total, however many commits of the batch raise it.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> {
        let totals = self.0.iter().flat_map(|(pool_id, totals)| totals.iter().map(move |total| (pool_id, total)));
        totals.map(|(pool_id, (series, total))| {
            (keys::total(pool_id, &series.to_key()), Some(Count { value: *total }.seal()))
        })
    }

    /// Calls `show` with the totals of each pool, once they are on the disk.
    pub(super) fn each(&self, mut show: impl FnMut(&str, &[(Series, u64)])) {
        for (pool_id, totals) in &self.0 {
            show(pool_id, &pairs(totals));
        }
    }
}

fn pairs(totals: &BTreeMap<Series, u64>) -> Vec<(Series, u64)> {
    totals.iter().map(|(series, total)| (*series, *total)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::engine::Engine;
    use crate::ledger::store::Store as _;

    const POOL: &str = "eu-west-1_A";
    const OTHER: &str = "eu-west-1_AB";

    fn shown(each: impl FnOnce(&mut dyn FnMut(&str, &[(Series, u64)]))) -> Vec<(String, Vec<(Series, u64)>)> {
        let mut shown = vec![];
        each(&mut |pool_id, totals| shown.push((pool_id.to_owned(), totals.to_vec())));
        shown
    }

    #[test]
    fn a_total_is_written_once_a_batch_and_one_of_another_build_stays_until_its_pool_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let mut engine = Engine::open(directory.path(), 1 << 20).unwrap();
        let unknown = keys::total(POOL, "events/Teleport/Pass/NoRisk");
        engine.write(vec![(unknown.clone(), Some(Count { value: 7 }.seal()))]).unwrap();
        let mut totals = Totals::read(engine.reader()).unwrap();
        assert_eq!(shown(|show| totals.each(show)), [], "a series that only another build knows is not shown");

        let mut batch = WriteBatch::default();
        for (pool_id, by) in [(POOL, 2), (OTHER, 1), (POOL, 3)] {
            totals.raise(pool_id.to_owned(), &vec![(Series::History, by)], &mut batch);
        }
        let raised = [(POOL.to_owned(), vec![(Series::History, 5)]), (OTHER.to_owned(), vec![(Series::History, 1)])];
        assert_eq!(shown(|show| batch.raised.each(show)), raised);
        assert_eq!(batch.raised.changes().count(), 2);
        engine.write(batch.raised.changes().collect()).unwrap();
        assert_eq!(Totals::read(engine.reader()).unwrap(), totals);

        let mut batch = WriteBatch::default();
        totals.raise(POOL.to_owned(), &vec![(Series::History, 1)], &mut batch);
        totals.forget(POOL, &mut batch);
        batch.changes.extend(batch.raised.changes());
        engine.write(batch.changes).unwrap();
        assert_eq!(engine.reader().get(&unknown), Ok(None));
        assert_eq!(Totals::read(engine.reader()).unwrap(), totals);
        assert_eq!(shown(|show| totals.each(show)), [(OTHER.to_owned(), vec![(Series::History, 1)])]);
    }
}
