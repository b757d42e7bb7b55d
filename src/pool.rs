//! A followed pool: what every stage needs to know of it. Never changes while the pool is followed.

use std::sync::Arc;

use cognito_auth_core::entry::PoolIdentity;
use cognito_auth_core::schedule::PoolSlot;
use cognito_auth_core::walk::Rules;

use crate::source::metered::Metered;

/// A pool with its source and its rules.
pub struct Pool<S> {
    /// Its place in the schedule.
    pub slot: PoolSlot,
    /// What records and metrics call it.
    pub identity: Arc<PoolIdentity>,
    /// Where its pages come from.
    pub source: Metered<S>,
    /// How its users are walked.
    pub rules: Rules,
}
