//! The AWS adapter: calls one user pool through Amazon's own SDK.
//!
//! One method makes one call:
//! - [`wire`] converts an answer with events, and `directory` one about users or the pool.
//! - `lenient` reads a page that the SDK cannot read.
//! - `errors` turns the SDK's errors into the port's.
//! - `answer` refuses an oversized or empty answer before the SDK reads it.
//! - [`CloudWatchLogs`] reads the log group that receives a pool's export.
//! - [`Clients`] chooses the client and its credentials, and `transport` the certificates and proxies.
//!
//! No call makes a user billable: AdminGetUser would, and is never called.

mod answer;
mod clients;
mod date;
mod directory;
mod errors;
mod lenient;
mod log_events;
mod transport;
pub mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_sdk_cognitoidentityprovider::Client;
use aws_sdk_cognitoidentityprovider::config::http::HttpResponse;
use aws_sdk_cognitoidentityprovider::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_cognitoidentityprovider::types::{LimitClass, LimitDefinitionType};
use cognito_auth_core::export::log_delivery::LogDelivery;
use tracing::{debug, warn};

use self::clients::{AwsClient, Credentials};
pub use self::clients::{Clients, Connection};
use self::date::DateOfAnswer;
use self::errors::Situation;
pub use self::log_events::CloudWatchLogs;
pub use self::transport::TransportError;
use self::wire::WirePage;
use super::{Listing, Operation, Page, PageToken, PoolDescription, Source, SourceError, UserPage};
use crate::lifecycle::Clock;

/// Users on a page of a listing, the most that ListUsers and ListUsersInGroup give.
const LISTING_PAGE: i32 = 60;

/// The same number, for comparison with a length. A larger page is refused whole. If it were shortened, the users left
/// out would seem to have left the pool.
const USERS_MAX: usize = 60;

/// Events on a page of a history, the most that AdminListUserAuthEvents gives. A larger page is refused whole. Its
/// token continues below all of its events, so events that were left out would never be read again.
const EVENTS_MAX: usize = 60;

/// The quota category of AdminListUserAuthEvents
/// (<https://docs.aws.amazon.com/cognito/latest/developerguide/quotas.html>).
const READ_CATEGORY: &str = "UserResourceRead";

const MALFORMED: &str = "an event is not as documented: what can be read of it is exported, the rest is left out";

const EXCESS: &str = "an event holds more than is exported of it: 16 challenges, and 64 KiB of each text";

/// The faults of a pool's pages that were logged, and the number of events cut.
#[derive(Default)]
struct PageWarnings {
    malformed_logged: AtomicBool,
    excess_logged: AtomicBool,
    /// Events that were cut. An event counts each time it is read.
    events_cut: AtomicU64,
}

/// One user pool, asked through the SDK. Clones share everything.
#[derive(Clone)]
pub struct Cognito {
    client: Arc<AwsClient>,
    pool_id: String,
    clock: Clock,
    warnings: Arc<PageWarnings>,
}

impl Cognito {
    /// Reads one page of a user's history as the service sent it. Without `max_results` the service chooses (60).
    ///
    /// # Errors
    /// Those of [`Source::page`].
    pub async fn history(
        &self,
        username: &str,
        token: Option<&str>,
        max_results: Option<u8>,
    ) -> Result<WirePage, SourceError> {
        let call = self.sdk_client().await.admin_list_user_auth_events().user_pool_id(&self.pool_id).username(username);
        let date = DateOfAnswer::default();
        let call = call.set_next_token(token.map(str::to_owned)).set_max_results(max_results.map(i32::from));
        // Boxed, because it is large: otherwise every turn's future would hold it and move it.
        let answer = Box::pin(call.customize().interceptor(date.clone()).send()).await;
        let personal = [username, token.unwrap_or_default()];
        let operation = Operation::AdminListUserAuthEvents;
        let page: WirePage = match answer {
            Ok(page) => page.into(),
            Err(error) => match errors::unreadable_answer(&error).and_then(lenient::page) {
                Some(page) => {
                    self.warn_once(&self.warnings.malformed_logged, MALFORMED);
                    page
                }
                None => return Err(errors::source_error(self.situation().await, operation, &error, &personal)),
            },
        };
        if page.events.len() > EVENTS_MAX {
            return Err(errors::too_many(operation, "events", EVENTS_MAX));
        }
        let cut = page.events.iter().filter(|event| wire::exceeds(event)).count();
        if cut > 0 {
            self.warnings.events_cut.fetch_add(cut as u64, Ordering::Relaxed);
            self.warn_once(&self.warnings.excess_logged, EXCESS);
        }
        Ok(WirePage { served: date.get(), ..page })
    }

    /// Logs one warning for each pool and fault. The end is not logged: it comes when the last such event expires.
    fn warn_once(&self, logged: &AtomicBool, message: &str) {
        if logged.swap(true, Ordering::Relaxed) {
            debug!(pool = self.pool_id, "{message}");
        } else {
            warn!(pool = self.pool_id, "{message}");
        }
    }

    /// Gets credentials as a call would, without any cache, and returns their access key id, which is not secret.
    ///
    /// # Errors
    /// There are no credentials ([`SourceError::Caller`]), or they could not be loaded now.
    pub async fn check_credentials(&self) -> Result<String, SourceError> {
        let Credentials { provider, timeout, .. } = self.client.credentials().await;
        errors::credentials(self.situation().await, *timeout, provider).await
    }

    /// Reads where the pool exports `userAuthEvents`; None if it does not export them.
    ///
    /// # Errors
    /// Those of [`Source::describe`].
    pub async fn log_delivery(&self) -> Result<Option<LogDelivery>, SourceError> {
        let call = self.sdk_client().await.get_log_delivery_configuration().user_pool_id(&self.pool_id);
        match call.send().await {
            Ok(answer) => Ok(answer.log_delivery_configuration.and_then(directory::log_delivery)),
            Err(error) => {
                let operation = Operation::GetLogDeliveryConfiguration;
                Err(errors::source_error(self.situation().await, operation, &error, &[]))
            }
        }
    }

    /// Returns the circumstances of a call that is made now.
    async fn situation(&self) -> Situation {
        Situation { now: self.clock.now(), sts_is_redirected: self.client.credentials().await.sts_is_redirected }
    }

    async fn listing_error<E>(
        &self,
        listing: &Listing,
        error: &SdkError<E, HttpResponse>,
        token: Option<&str>,
    ) -> SourceError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        errors::listing_error(self.situation().await, listing, error, token)
    }

    async fn sdk_client(&self) -> &Client {
        self.client.sdk_client().await
    }
}

impl fmt::Debug for Cognito {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cognito").field("pool_id", &self.pool_id).finish_non_exhaustive()
    }
}

impl Source for Cognito {
    async fn page(&self, username: &str, token: Option<&PageToken>, max_results: u8) -> Result<Page, SourceError> {
        let page = self.history(username, token.map(|token| token.0.as_str()), Some(max_results)).await?;
        Ok(Page {
            received: self.clock.now(),
            served: page.served,
            events: page.events.into_iter().map(Into::into).collect(),
            next: page.next.map(PageToken),
        })
    }

    async fn users(&self, listing: &Listing, token: Option<&PageToken>) -> Result<UserPage, SourceError> {
        let token = token.map(|token| token.0.clone());
        let client = self.sdk_client().await;
        let (users, next) = match listing {
            Listing::Users { filter } => {
                let call = client.list_users().user_pool_id(&self.pool_id).limit(LISTING_PAGE);
                let answer = call.set_filter(filter.clone()).set_pagination_token(token.clone()).send().await;
                match answer {
                    Ok(page) => (page.users, page.pagination_token),
                    Err(error) => return Err(self.listing_error(listing, &error, token.as_deref()).await),
                }
            }
            Listing::Group(group) => {
                let call = client.list_users_in_group().user_pool_id(&self.pool_id).group_name(group);
                let answer = call.limit(LISTING_PAGE).set_next_token(token.clone()).send().await;
                match answer {
                    Ok(page) => (page.users, page.next_token),
                    Err(error) => return Err(self.listing_error(listing, &error, token.as_deref()).await),
                }
            }
        };
        if users.as_ref().is_some_and(|users| users.len() > USERS_MAX) {
            return Err(errors::too_many(listing.operation(), "users", USERS_MAX));
        }
        Ok(directory::user_page(users, next))
    }

    async fn describe(&self) -> Result<PoolDescription, SourceError> {
        let answer = self.sdk_client().await.describe_user_pool().user_pool_id(&self.pool_id).send().await;
        match answer {
            Ok(answer) => Ok(answer.user_pool.map(|pool| directory::pool_description(&pool)).unwrap_or_default()),
            Err(error) => Err(errors::source_error(self.situation().await, Operation::DescribeUserPool, &error, &[])),
        }
    }

    fn events_cut(&self) -> u64 {
        self.warnings.events_cut.load(Ordering::Relaxed)
    }

    async fn read_limit(&self) -> Result<f64, SourceError> {
        let definition = LimitDefinitionType::builder()
            .limit_class(LimitClass::ApiCategory)
            .attributes("Category", READ_CATEGORY)
            .build()
            .expect("a definition requires only class and attributes");
        let answer = self.sdk_client().await.get_provisioned_limit().limit_definition(definition).send().await;
        match answer {
            // The SDK reads a missing member as 0, and no account has that limit.
            Ok(answer) => match answer.limit().map(|limit| limit.provisioned_limit_value()) {
                Some(limit) if limit > 0 => Ok(f64::from(limit)),
                limit => {
                    let operation = Operation::GetProvisionedLimit;
                    let named = limit.map_or_else(String::new, |limit| format!(" but {limit}"));
                    Err(SourceError::Passing(format!("{operation}: the answer names no limit{named}")))
                }
            },
            Err(error) => {
                Err(errors::source_error(self.situation().await, Operation::GetProvisionedLimit, &error, &[]))
            }
        }
    }
}
