//! The configuration as discovery needs it, in plain values.

use crate::config::{Config, PoolConfig};
use crate::targets::discovery::DiscoverySettings;
use crate::targets::selection::SelectionRules;

/// The settings of a pool's discovery.
pub(super) fn discovery_settings(config: &Config, pool: &PoolConfig) -> DiscoverySettings {
    DiscoverySettings {
        selection: selection_rules(pool),
        shard: config.shard,
        interval: config.discovery.interval,
        forget_after: config.discovery.forget_after,
        history: config.poll.first_run,
    }
}

/// The rules that select a pool's users.
pub(crate) fn selection_rules(pool: &PoolConfig) -> SelectionRules {
    SelectionRules {
        pool_id: pool.id.clone(),
        usernames: pool.usernames.clone(),
        usernames_file: pool.usernames_file.clone(),
        groups: pool.groups.clone(),
        all_users: pool.all_users,
        filter: pool.filter.clone(),
        exclude: pool.exclude.clone(),
        include_disabled: pool.include_disabled,
        include_federated: pool.include_federated,
    }
}
