//! Which client asks a pool, and as whom: region, profile, role; deadlines; one HTTP client for all.
//!
//! Pools that are asked in the same way share one client, so that STS is asked once for a role and not once for a pool.
//! A client is built at its first call: building one reads the environment and the shared configuration files.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{AppName, BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_cognitoidentityprovider::Client;
use aws_sdk_cognitoidentityprovider::config::retry::RetryConfig;
use aws_sdk_cognitoidentityprovider::config::timeout::TimeoutConfig;
use aws_sdk_cognitoidentityprovider::config::{Builder, SharedHttpClient, StalledStreamProtectionConfig};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::Cognito;
use super::answer::SoundAnswer;
use super::date::PlausibleDate;
use super::transport::{self, TransportError};
use crate::config::PoolConfig;
use crate::lifecycle::Clock;

/// The name of the sessions in which a role is assumed; CloudTrail shows it.
const SESSION_NAME: &str = "cognito-auth-exporter";

/// Where a pool is and as whom it is asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Connection {
    /// AWS region.
    pub region: String,
    /// A profile of the shared configuration files, whatever credentials the environment holds.
    pub profile: Option<String>,
    /// A role to assume.
    pub role_arn: Option<String>,
    /// What the role's owner asks to be told.
    pub external_id: Option<String>,
}

impl From<&PoolConfig> for Connection {
    fn from(pool: &PoolConfig) -> Self {
        Self {
            region: pool.region.clone(),
            profile: pool.profile.clone(),
            role_arn: pool.role_arn.clone(),
            external_id: pool.external_id.clone(),
        }
    }
}

/// Builds the pools' clients.
pub struct Clients {
    origin: Origin,
    attempts: u32,
    http: SharedHttpClient,
    accounts: Mutex<HashMap<(Connection, Duration), Arc<Account>>>,
}

/// Where endpoint and credentials come from.
#[derive(Clone, Debug)]
enum Origin {
    Environment,
    /// A simulation at this URL, which takes any credentials.
    Simulation(String),
}

impl Clients {
    /// Clients as the environment and the shared configuration files have them: AWS's default chain of credentials,
    /// AWS_ENDPOINT_URL and its kin, proxies, AWS_CA_BUNDLE.
    ///
    /// # Errors
    /// AWS_CA_BUNDLE names something that is no bundle of certificates.
    pub fn from_environment() -> Result<Self, TransportError> {
        Ok(Self::new(Origin::Environment, transport::of_environment()?))
    }

    /// Clients of a simulated Cognito (and STS), with credentials that are none.
    pub fn simulated(url: impl Into<String>) -> Self {
        Self::new(Origin::Simulation(url.into()), aws_smithy_http_client::Builder::new().build_http())
    }

    /// Clients of a simulated Cognito that is asked through `http` and needs no network.
    pub fn simulated_through(http: SharedHttpClient) -> Self {
        Self::new(Origin::Simulation("http://cognito.invalid".into()), http)
    }

    fn new(origin: Origin, http: SharedHttpClient) -> Self {
        Self { origin, attempts: 1, http, accounts: Mutex::default() }
    }

    /// Lets the SDK try a call this often, with its own pauses. The exporter wants every throttle at once, and tries
    /// again within its budget; a person who asks for one user's history would rather wait.
    #[must_use]
    pub fn with_attempts(self, attempts: u32) -> Self {
        Self { attempts: attempts.max(1), ..self }
    }

    /// The pool's source. `timeout` is for one attempt of a call, everything included.
    pub fn pool(&self, pool: &PoolConfig, timeout: Duration, clock: Clock) -> Cognito {
        self.connect(&pool.id, Connection::from(pool), timeout, clock)
    }

    /// A pool's source, by the pool's id.
    pub fn connect(&self, pool_id: &str, connection: Connection, timeout: Duration, clock: Clock) -> Cognito {
        let mut accounts = self.accounts.lock();
        let account = accounts.entry((connection, timeout)).or_insert_with_key(|(connection, timeout)| {
            Arc::new(Account {
                origin: self.origin.clone(),
                attempts: self.attempts,
                http: self.http.clone(),
                connection: connection.clone(),
                timeout: *timeout,
                built: OnceCell::new(),
            })
        });
        Cognito { account: account.clone(), pool_id: pool_id.to_owned(), clock, told: Arc::default() }
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// A connection and, after its first call, its client.
pub(super) struct Account {
    origin: Origin,
    attempts: u32,
    http: SharedHttpClient,
    connection: Connection,
    timeout: Duration,
    built: OnceCell<(Client, Credentials)>,
}

/// What gives an account's credentials, and how long that may take.
pub(super) struct Credentials {
    pub(super) provider: Option<SharedCredentialsProvider>,
    pub(super) timeout: Duration,
    /// A role is assumed at an endpoint that is set for every service.
    pub(super) sts_is_redirected: bool,
}

impl Account {
    pub(super) async fn client(&self) -> &Client {
        &self.built().await.0
    }

    pub(super) async fn credentials(&self) -> &Credentials {
        &self.built().await.1
    }

    async fn built(&self) -> &(Client, Credentials) {
        // Boxed, because it is large and needed once: every turn's future would have room for it, and move it along.
        self.built.get_or_init(|| Box::pin(self.build())).await
    }

    async fn build(&self) -> (Client, Credentials) {
        let own = self.own().await;
        let sts_is_redirected = self.connection.role_arn.is_some() && self.redirects_sts(&own);
        let config = self.assumed(own).await;
        let retries = match self.attempts {
            1 => RetryConfig::disabled(),
            attempts => RetryConfig::standard().with_max_attempts(attempts),
        };
        let client = Builder::from(&config)
            .retry_config(retries)
            .timeout_config(self.deadlines(self.attempts))
            .interceptor(SoundAnswer)
            .interceptor(PlausibleDate)
            .build();
        let provider = config.credentials_provider();
        let credentials = Credentials { provider, timeout: self.timeout, sts_is_redirected };
        (Client::from_conf(client), credentials)
    }

    /// The configuration before any role is assumed.
    async fn own(&self) -> SdkConfig {
        match &self.origin {
            Origin::Environment => self.of_environment().load().await,
            Origin::Simulation(url) => self.of_simulation(url),
        }
    }

    fn of_environment(&self) -> ConfigLoader {
        let region = self.region();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(region.clone())
            .http_client(self.http.clone())
            .timeout_config(self.deadlines(1))
            // The deadline of an attempt holds for its body, too.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .app_name(AppName::new(SESSION_NAME).expect("letters and hyphens are an app name"));
        if let Some(profile) = &self.connection.profile {
            // The default chain would prefer the environment's keys, but a profile that was asked for is meant.
            let means = ProviderConfig::default().with_region(Some(region)).with_http_client(self.http.clone());
            let credentials = ProfileFileCredentialsProvider::builder().configure(&means).profile_name(profile);
            loader = loader.profile_name(profile).credentials_provider(credentials.build());
        }
        loader
    }

    /// Without the loader, which would read the machine's profiles and variables: a simulation has nothing to do with them.
    fn of_simulation(&self, url: &str) -> SdkConfig {
        let nobody = aws_credential_types::Credentials::new("AKIASIMULATION", "none", None, None, "simulation");
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(self.region())
            .http_client(self.http.clone())
            .timeout_config(self.deadlines(1))
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .endpoint_url(url)
            .credentials_provider(SharedCredentialsProvider::new(nobody));
        // The system's clock, which assuming a role asks for; the loader would have set it.
        config.set_time_source(Some(Default::default()));
        config.build()
    }

    /// Whether STS is asked where somebody meant Cognito to be: AWS_ENDPOINT_URL and a profile's `endpoint_url` apply to
    /// every service that has none of its own.
    fn redirects_sts(&self, own: &SdkConfig) -> bool {
        let has_its_own = std::env::var_os("AWS_ENDPOINT_URL_STS").is_some_and(|url| !url.is_empty());
        matches!(self.origin, Origin::Environment) && own.endpoint_url().is_some() && !has_its_own
    }

    fn region(&self) -> Region {
        Region::new(self.connection.region.clone())
    }

    /// The configuration as the role, if there is one.
    async fn assumed(&self, config: SdkConfig) -> SdkConfig {
        let Some(role) = &self.connection.role_arn else { return config };
        let mut assume = AssumeRoleProvider::builder(role).configure(&config).session_name(SESSION_NAME);
        if let Some(external_id) = &self.connection.external_id {
            assume = assume.external_id(external_id);
        }
        let provider = SharedCredentialsProvider::new(assume.build().await);
        config.into_builder().credentials_provider(provider).build()
    }

    /// None of these has a default in the SDK that would end a call which hangs.
    fn deadlines(&self, attempts: u32) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.timeout)
            .read_timeout(self.timeout)
            .operation_attempt_timeout(self.timeout)
            // Two attempts' time for the pauses between them.
            .operation_timeout(self.timeout * if attempts == 1 { 1 } else { attempts + 2 })
            .build()
    }
}
