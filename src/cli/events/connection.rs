//! Which pool is read, and with which connection: from the arguments, or from the configuration of the exporter.
//!
//! An argument wins over the configuration. An external id belongs to its role, so the configuration's is not used with
//! another role.

use std::time::Duration;

use super::EventsArgs;
use crate::config::{Config, ConfigErrors, PoolConfig};
use crate::lifecycle::Clock;
use crate::source::cognito::{Clients, Cognito, Connection};

/// Timeout of one attempt of a call.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A pool and how to call it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolTarget {
    /// User pool id.
    pub id: String,
    connection: Connection,
}

/// Why the pool is not known.
#[derive(Debug, thiserror::Error)]
pub enum PoolTargetError {
    /// The configuration has mistakes.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The configuration does not have the pool. The text says which it has.
    #[error("{0}")]
    NoSuchPool(String),
}

impl PoolTarget {
    /// Finds the pool of the arguments. `load` loads the configuration, and is called only where that is needed.
    ///
    /// # Errors
    /// The configuration cannot be loaded, or it does not have the pool.
    pub fn of(args: &EventsArgs, load: impl FnOnce() -> Result<Config, ConfigErrors>) -> Result<Self, PoolTargetError> {
        let configured = if args.pool.is_some() || args.config.is_some() {
            Some(choose(load()?, args.pool.as_deref().or(args.user_pool_id.as_deref()))?)
        } else {
            None
        };
        let pool = configured.unwrap_or_else(|| PoolConfig::new(args.user_pool_id.clone().unwrap_or_default()));
        let external_id = match &args.role_arn {
            Some(_) => args.external_id.clone(),
            None => pool.external_id,
        };
        let connection = Connection {
            region: args.region.clone().unwrap_or(pool.region),
            profile: args.profile.clone().or(pool.profile),
            role_arn: args.role_arn.clone().or(pool.role_arn),
            external_id,
        };
        Ok(Self { id: pool.id, connection })
    }

    /// Makes the pool's source.
    pub fn connect(&self, clients: &Clients) -> Cognito {
        clients.connect(&self.id, self.connection.clone(), TIMEOUT, Clock::system())
    }
}

/// Chooses a pool by name or id. Without either, the only one.
fn choose(config: Config, wanted: Option<&str>) -> Result<PoolConfig, PoolTargetError> {
    let pools = config.pools;
    let names: Vec<_> = pools
        .iter()
        .map(|pool| if pool.name == pool.id { pool.id.clone() } else { format!("{} ({})", pool.name, pool.id) })
        .collect();
    let names = names.join(", ");
    let Some(wanted) = wanted else {
        return match <[PoolConfig; 1]>::try_from(pools) {
            Ok([pool]) => Ok(pool),
            Err(_) => {
                Err(PoolTargetError::NoSuchPool(format!("choose a pool with --pool; the configuration has {names}")))
            }
        };
    };
    let mut named: Vec<_> = pools.into_iter().filter(|pool| pool.id == wanted || pool.name == wanted).collect();
    match (named.pop(), named.is_empty()) {
        (Some(pool), true) => Ok(pool),
        (Some(_), false) => Err(PoolTargetError::NoSuchPool(format!(
            "several pools are called {wanted:?}: choose one by its id; the configuration has {names}"
        ))),
        (None, _) => {
            Err(PoolTargetError::NoSuchPool(format!("the configuration has no pool {wanted:?}; it has {names}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct EventsCommandLine {
        #[command(flatten)]
        args: EventsArgs,
    }

    fn target(line: &str, pools: Vec<PoolConfig>) -> Result<PoolTarget, String> {
        let line = format!("events --username ada {line}");
        let args = EventsCommandLine::try_parse_from(line.split(' ')).ok().unwrap().args;
        PoolTarget::of(&args, || Ok(Config::for_pools(pools))).map_err(|error| error.to_string())
    }

    fn customers() -> PoolConfig {
        PoolConfig {
            name: "customers".into(),
            region: "eu-central-1".into(),
            role_arn: Some("arn:aws:iam::1:role/reader".into()),
            external_id: Some("shibboleth".into()),
            ..PoolConfig::new("eu-west-1_Customers")
        }
    }

    fn staff() -> PoolConfig {
        PoolConfig { profile: Some("staff".into()), ..PoolConfig::new("us-east-1_Staff") }
    }

    #[test]
    fn a_pool_of_the_configuration_is_found_by_name_or_id_with_its_connection() {
        for line in ["--pool customers", "--pool eu-west-1_Customers", "--config c --user-pool-id eu-west-1_Customers"]
        {
            let target = target(line, vec![staff(), customers()]).unwrap();
            let expected = PoolTarget { id: "eu-west-1_Customers".into(), connection: Connection::from(&customers()) };
            assert_eq!(target, expected, "{line}");
        }
        assert_eq!(target("--config c", vec![staff()]).unwrap().id, "us-east-1_Staff");
        // Without a configuration the id is enough.
        let alone = target("--user-pool-id ap-south-1_Other", vec![]).unwrap();
        assert_eq!(alone.connection, Connection::from(&PoolConfig::new("ap-south-1_Other")));
    }

    #[test]
    fn an_argument_wins_and_an_external_id_stays_with_its_role() {
        let line = "--pool customers --region eu-north-1 --profile mine";
        let connection = target(line, vec![customers()]).unwrap().connection;
        assert_eq!((connection.region.as_str(), connection.profile.as_deref()), ("eu-north-1", Some("mine")));
        assert_eq!(connection.external_id.as_deref(), Some("shibboleth"));
        let other_role = target("--pool customers --role-arn r", vec![customers()]).unwrap().connection;
        assert_eq!((other_role.role_arn.as_deref(), other_role.external_id), (Some("r"), None));
    }

    #[test]
    fn a_pool_that_is_not_there_is_told_with_those_that_are() {
        let error = target("--pool clients", vec![staff(), customers()]).unwrap_err();
        let pools = "us-east-1_Staff, customers (eu-west-1_Customers)";
        assert_eq!(error, format!("the configuration has no pool \"clients\"; it has {pools}"));
        let error = target("--config c", vec![staff(), customers()]).unwrap_err();
        assert_eq!(error, format!("choose a pool with --pool; the configuration has {pools}"));
        let twins = vec![customers(), PoolConfig { name: "customers".into(), ..staff() }];
        assert!(target("--pool customers", twins).unwrap_err().contains("choose one by its id"));
    }
}
