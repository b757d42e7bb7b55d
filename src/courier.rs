//! (see the map in lib.rs)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OutboxId(pub u64);
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settlement {
    pub delivered: Vec<OutboxId>,
    pub quarantined: Vec<(OutboxId, String)>,
}
