//! A followed pool, as every stage uses it. It never changes while the pool is followed.

use std::sync::Arc;

use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::schedule::PoolSlot;
use cognito_auth_core::walk::Rules;

use crate::source::metered::Metered;

/// A pool with its source and its rules.
pub struct Pool<S> {
    /// Its place in the schedule.
    pub slot: PoolSlot,
    /// Its identity in records and metrics.
    pub identity: Arc<PoolIdentity>,
    /// The source of its pages.
    pub source: Metered<S>,
    /// The rules for walking its users' histories.
    pub rules: Rules,
    /// Whether the ledger has told events of the pool: its export is read, or was.
    pub has_told: bool,
}
