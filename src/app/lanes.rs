//! The pollers that run, one for each account and region, begun when their first pool is ready.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::budget::DEFAULT_READ_LIMIT;
use crate::config::{PoolConfig, Rate};
use crate::entry::PoolIdentity;
use crate::gate::Gate;
use crate::poller::Message;

/// Messages to a poller that may wait. Discovery sends users in thousands, so this is plenty.
const MESSAGES_MAX: usize = 64;

/// Whose quota a call counts in: an account's in a region. While the account is not known, pools that call with the same
/// credentials share, which is never more than they may.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct LaneKey {
    payer: Payer,
    region: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Payer {
    Account(String),
    Profile(Option<String>),
}

impl LaneKey {
    pub(super) fn of(identity: &PoolIdentity, config: &PoolConfig) -> Self {
        let payer = match &identity.account_id {
            Some(account) => Payer::Account(account.clone()),
            None => Payer::Profile(config.profile.clone()),
        };
        Self { payer, region: identity.region.clone() }
    }
}

/// What a pool needs of its account and region.
pub(super) struct Lane<S> {
    pub(super) poller: mpsc::Sender<Message<S>>,
    /// The budget for AdminListUserAuthEvents.
    pub(super) reads: Gate,
    /// The budget for listings.
    pub(super) lists: Gate,
}

impl<S> Clone for Lane<S> {
    fn clone(&self) -> Self {
        Self { poller: self.poller.clone(), reads: self.reads.clone(), lists: self.lists.clone() }
    }
}

/// Every lane there is.
pub(super) struct Lanes<S> {
    reads_per_second: f64,
    lists_per_second: f64,
    lanes: Mutex<HashMap<LaneKey, Lane<S>>>,
}

impl<S> Lanes<S> {
    pub(super) fn new(reads: Rate, lists_per_second: f64) -> Arc<Self> {
        let reads_per_second = match reads {
            Rate::PerSecond(rate) => rate,
            Rate::ShareOfLimit(share) => share * DEFAULT_READ_LIMIT,
        };
        Arc::new(Self { reads_per_second, lists_per_second, lanes: Mutex::default() })
    }

    /// The lane of an account and region; `begin` starts its poller if it is the first time.
    pub(super) fn lane(&self, key: LaneKey, begin: impl FnOnce(Gate, mpsc::Receiver<Message<S>>)) -> Lane<S> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes
            .entry(key)
            .or_insert_with(|| {
                let (poller, messages) = mpsc::channel(MESSAGES_MAX);
                let reads = Gate::new(self.reads_per_second);
                begin(reads.clone(), messages);
                Lane { poller, reads, lists: Gate::new(self.lists_per_second) }
            })
            .clone()
    }
}
