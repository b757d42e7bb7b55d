//! Builds the SDK clients of pools: region, profile, role and deadlines, over one shared HTTP client.
//!
//! Pools with the same connection share one client, so STS is called once for a role and not once for each pool. A
//! client is built at its first call, because building one reads the environment and the shared configuration files.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
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
use cognito_auth_core::export::log_group::LogGroup;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::Cognito;
use super::answer::{AnswerBound, SoundAnswer};
use super::date::PlausibleDate;
use super::log_events::CloudWatchLogs;
use super::transport::{self, TransportError};
use crate::config::PoolConfig;
use crate::lifecycle::Clock;

/// The session name under which a role is assumed. CloudTrail shows it.
const SESSION_NAME: &str = "cognito-auth-exporter";

/// The region of a pool and the credentials to call it with.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Connection {
    /// AWS region.
    pub region: String,
    /// A profile of the shared configuration files. It wins over credentials in the environment.
    pub profile: Option<String>,
    /// A role to assume.
    pub role_arn: Option<String>,
    /// The external id that the role's trust policy requires.
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
    origin: ClientOrigin,
    attempts: u32,
    http: SharedHttpClient,
    clients: Mutex<HashMap<(Connection, Duration), Arc<AwsClient>>>,
}

/// Where the endpoint and the credentials come from.
#[derive(Clone, Debug)]
enum ClientOrigin {
    Environment,
    /// A simulation at this URL. It accepts any credentials.
    Simulation(String),
}

impl Clients {
    /// Makes clients that follow the environment and the shared configuration files: AWS's default chain of
    /// credentials, AWS_ENDPOINT_URL and the other endpoint variables, proxies, and AWS_CA_BUNDLE.
    ///
    /// # Errors
    /// The file in AWS_CA_BUNDLE is not a bundle of certificates.
    pub fn from_environment() -> Result<Self, TransportError> {
        Ok(Self::new(ClientOrigin::Environment, transport::from_environment()?))
    }

    /// Makes clients of a simulated Cognito and STS, with invented credentials.
    pub fn simulated(url: impl Into<String>) -> Self {
        Self::new(ClientOrigin::Simulation(url.into()), aws_smithy_http_client::Builder::new().build_http())
    }

    /// Makes clients of a simulated Cognito that is called through `http`, without a network.
    pub fn simulated_through(http: SharedHttpClient) -> Self {
        Self::new(ClientOrigin::Simulation("http://cognito.invalid".into()), http)
    }

    fn new(origin: ClientOrigin, http: SharedHttpClient) -> Self {
        Self { origin, attempts: 1, http, clients: Mutex::default() }
    }

    /// Lets the SDK try a call this many times, with its own pauses. The program does not use this: it must see every
    /// throttle at once and retries within its budget. Tests compare both.
    #[must_use]
    pub fn with_attempts(self, attempts: u32) -> Self {
        Self { attempts: attempts.max(1), ..self }
    }

    /// Makes the pool's source. `timeout` bounds one attempt of a call, with everything in it.
    pub fn pool(&self, pool: &PoolConfig, timeout: Duration, clock: Clock) -> Cognito {
        self.connect(&pool.id, Connection::from(pool), timeout, clock)
    }

    /// Makes the source of the pool with this id.
    pub fn connect(&self, pool_id: &str, connection: Connection, timeout: Duration, clock: Clock) -> Cognito {
        let client = self.client(connection, timeout);
        Cognito { client, pool_id: pool_id.to_owned(), clock, warnings: Arc::default() }
    }

    /// Makes the reader of a log group, with the connection of a pool. `timeout` bounds one call.
    pub fn log_group(
        &self,
        log_group: LogGroup,
        connection: Connection,
        timeout: Duration,
        clock: Clock,
    ) -> CloudWatchLogs {
        CloudWatchLogs::new(self.client(connection, timeout), log_group, clock)
    }

    fn client(&self, connection: Connection, timeout: Duration) -> Arc<AwsClient> {
        let mut clients = self.clients.lock();
        let client = clients.entry((connection, timeout)).or_insert_with_key(|(connection, timeout)| {
            Arc::new(AwsClient {
                origin: self.origin.clone(),
                attempts: self.attempts,
                http: self.http.clone(),
                connection: connection.clone(),
                timeout: *timeout,
                built: OnceCell::new(),
            })
        });
        client.clone()
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// A connection and, after its first call, its SDK clients.
pub(super) struct AwsClient {
    origin: ClientOrigin,
    attempts: u32,
    http: SharedHttpClient,
    connection: Connection,
    timeout: Duration,
    built: OnceCell<BuiltClient>,
}

/// The SDK clients of a connection. They share the configuration, and so the credentials.
struct BuiltClient {
    cognito: Client,
    /// Built for pools whose log group is read.
    logs: OnceLock<aws_sdk_cloudwatchlogs::Client>,
    config: SdkConfig,
    credentials: Credentials,
}

/// The provider of a client's credentials, and its deadline.
pub(super) struct Credentials {
    pub(super) provider: Option<SharedCredentialsProvider>,
    pub(super) timeout: Duration,
    /// Whether a role is assumed at an endpoint that is set for every service.
    pub(super) sts_is_redirected: bool,
}

impl AwsClient {
    pub(super) async fn sdk_client(&self) -> &Client {
        &self.built().await.cognito
    }

    /// The client of CloudWatch Logs, with the same region, credentials, deadlines and HTTP client.
    pub(super) async fn logs_client(&self) -> &aws_sdk_cloudwatchlogs::Client {
        let built = self.built().await;
        built.logs.get_or_init(|| {
            let client = aws_sdk_cloudwatchlogs::config::Builder::from(&built.config)
                .retry_config(self.retries())
                .timeout_config(self.deadlines(self.attempts))
                .interceptor(SoundAnswer(AnswerBound::LogPage))
                .interceptor(PlausibleDate)
                .build();
            aws_sdk_cloudwatchlogs::Client::from_conf(client)
        })
    }

    pub(super) async fn credentials(&self) -> &Credentials {
        &self.built().await.credentials
    }

    async fn built(&self) -> &BuiltClient {
        // Boxed, because it is large and needed once: otherwise every turn's future would hold it and move it.
        self.built.get_or_init(|| Box::pin(self.build())).await
    }

    async fn build(&self) -> BuiltClient {
        let own = self.own().await;
        let sts_is_redirected = self.connection.role_arn.is_some() && self.redirects_sts(&own);
        let config = self.assumed(own).await;
        let client = Builder::from(&config)
            .retry_config(self.retries())
            .timeout_config(self.deadlines(self.attempts))
            .interceptor(SoundAnswer(AnswerBound::Cognito))
            .interceptor(PlausibleDate)
            .build();
        let provider = config.credentials_provider();
        let credentials = Credentials { provider, timeout: self.timeout, sts_is_redirected };
        BuiltClient { cognito: Client::from_conf(client), logs: OnceLock::new(), config, credentials }
    }

    fn retries(&self) -> RetryConfig {
        match self.attempts {
            1 => RetryConfig::disabled(),
            attempts => RetryConfig::standard().with_max_attempts(attempts),
        }
    }

    /// The configuration before any role is assumed.
    async fn own(&self) -> SdkConfig {
        match &self.origin {
            ClientOrigin::Environment => self.of_environment().load().await,
            ClientOrigin::Simulation(url) => self.of_simulation(url),
        }
    }

    fn of_environment(&self) -> ConfigLoader {
        let region = self.region();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(region.clone())
            .http_client(self.http.clone())
            .timeout_config(self.deadlines(1))
            // The deadline of an attempt covers its body, too.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .app_name(AppName::new(SESSION_NAME).expect("letters and hyphens are an app name"));
        if let Some(profile) = &self.connection.profile {
            // The default chain would prefer the environment's keys over the configured profile.
            let means = ProviderConfig::default().with_region(Some(region)).with_http_client(self.http.clone());
            let credentials = ProfileFileCredentialsProvider::builder().configure(&means).profile_name(profile);
            loader = loader.profile_name(profile).credentials_provider(credentials.build());
        }
        loader
    }

    /// Builds the configuration for a simulation without the loader, which would read the machine's profiles and
    /// variables.
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
        // Assuming a role requires a time source. The loader would have set the system's clock.
        config.set_time_source(Some(Default::default()));
        config.build()
    }

    /// Returns whether calls to STS go to an endpoint that was meant for Cognito. AWS_ENDPOINT_URL and a profile's
    /// `endpoint_url` apply to every service without an endpoint of its own.
    fn redirects_sts(&self, own: &SdkConfig) -> bool {
        let has_its_own = std::env::var_os("AWS_ENDPOINT_URL_STS").is_some_and(|url| !url.is_empty());
        matches!(self.origin, ClientOrigin::Environment) && own.endpoint_url().is_some() && !has_its_own
    }

    fn region(&self) -> Region {
        Region::new(self.connection.region.clone())
    }

    /// Returns the configuration with the role's credentials, if there is a role.
    async fn assumed(&self, config: SdkConfig) -> SdkConfig {
        let Some(role) = &self.connection.role_arn else { return config };
        let mut assume = AssumeRoleProvider::builder(role).configure(&config).session_name(SESSION_NAME);
        if let Some(external_id) = &self.connection.external_id {
            assume = assume.external_id(external_id);
        }
        let provider = SharedCredentialsProvider::new(assume.build().await);
        config.into_builder().credentials_provider(provider).build()
    }

    /// Returns the timeouts of a call. By default the SDK would let a call hang.
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
