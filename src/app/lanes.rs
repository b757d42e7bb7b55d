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

/// The budgets, by whose quota they are a part of. They outlive the pollers: what was called is called, and what a throttle
/// taught is true, whoever calls next. Clones are the same.
#[derive(Clone)]
pub(super) struct Gates(Arc<Mutex<Budgets>>);

struct Budgets {
    reads_per_second: f64,
    lists_per_second: f64,
    /// For AdminListUserAuthEvents, and for listings.
    gates: HashMap<LaneKey, (Gate, Gate)>,
}

impl Gates {
    pub(super) fn new(reads: Rate, lists_per_second: f64) -> Self {
        let reads_per_second = per_second(reads);
        Self(Arc::new(Mutex::new(Budgets { reads_per_second, lists_per_second, gates: HashMap::new() })))
    }

    /// Changes all of them, from the next call on.
    pub(super) fn set(&self, reads: Rate, lists_per_second: f64) {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (budgets.reads_per_second, budgets.lists_per_second) = (per_second(reads), lists_per_second);
        for (reads, lists) in budgets.gates.values() {
            reads.set_limit(budgets.reads_per_second);
            lists.set_limit(budgets.lists_per_second);
        }
    }

    fn of(&self, key: &LaneKey) -> (Gate, Gate) {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (reads, lists) = (budgets.reads_per_second, budgets.lists_per_second);
        budgets.gates.entry(key.clone()).or_insert_with(|| (Gate::new(reads), Gate::new(lists))).clone()
    }
}

fn per_second(rate: Rate) -> f64 {
    match rate {
        Rate::PerSecond(rate) => rate,
        Rate::ShareOfLimit(share) => share * DEFAULT_READ_LIMIT,
    }
}

/// Every lane there is.
pub(super) struct Lanes<S> {
    gates: Gates,
    lanes: Mutex<HashMap<LaneKey, Lane<S>>>,
}

impl<S> Lanes<S> {
    pub(super) fn new(gates: Gates) -> Arc<Self> {
        Arc::new(Self { gates, lanes: Mutex::default() })
    }

    /// The lane of an account and region; `begin` starts its poller if it is the first time.
    pub(super) fn lane(&self, key: LaneKey, begin: impl FnOnce(Gate, mpsc::Receiver<Message<S>>)) -> Lane<S> {
        let (reads, lists) = self.gates.of(&key);
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes
            .entry(key)
            .or_insert_with(|| {
                let (poller, messages) = mpsc::channel(MESSAGES_MAX);
                begin(reads.clone(), messages);
                Lane { poller, reads, lists }
            })
            .clone()
    }
}
