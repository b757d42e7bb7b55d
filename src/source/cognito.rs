//! The AWS adapter: one user pool through Amazon's own SDK.
//!
//! One method, one call: what the service says goes through [`wire`] (the SDK's shapes as plain values) and `convert`
//! (what they mean), what goes wrong through `errors`. A page that the SDK cannot read goes through `lenient` instead;
//! `answer` keeps from the SDK what is too much. Which client makes the call, and as whom, is [`Clients`]'s business, how it
//! gets there `transport`'s. No call made here turns a user into a billable one: AdminGetUser, which would, is never called.

mod answer;
mod clients;
mod convert;
mod date;
mod errors;
mod lenient;
mod transport;
pub mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_sdk_cognitoidentityprovider::Client;
use aws_sdk_cognitoidentityprovider::config::http::HttpResponse;
use aws_sdk_cognitoidentityprovider::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_cognitoidentityprovider::types::{LimitClass, LimitDefinitionType};
use tracing::{debug, warn};

use self::clients::{Account, Credentials};
pub use self::clients::{Clients, Connection};
use self::date::DateOfAnswer;
use self::errors::Situation;
pub use self::transport::TransportError;
use self::wire::WirePage;
use super::{Listing, Operation, Page, PageToken, PoolDescription, Source, SourceError, UserPage};
use crate::lifecycle::Clock;

/// Users on a page of a listing, the most that ListUsers and ListUsersInGroup give.
const LISTING_PAGE: i32 = 60;

/// The same, where they are counted. More are refused whole: a listing that is short of some would have them leave.
const USERS_MAX: usize = 60;

/// Events on a page of a history, the most that AdminListUserAuthEvents gives. More are no page of Cognito's: it is refused
/// whole, since its token leads on below all of it, and what was left out would never be seen again.
const EVENTS_MAX: usize = 60;

/// The quota category of AdminListUserAuthEvents
/// (<https://docs.aws.amazon.com/cognito/latest/developerguide/quotas.html>).
const READ_CATEGORY: &str = "UserResourceRead";

const MALFORMED: &str = "an event is not as documented: what can be read of it is exported, the rest is left out";

const EXCESS: &str = "an event holds more than is exported of it: 16 challenges, and 64 KiB of each text";

/// Which faults of a pool's pages people were told of.
#[derive(Default)]
struct Told {
    of_malformed: AtomicBool,
    of_excess: AtomicBool,
    /// Events that were cut, once for each time that they were read.
    cut: AtomicU64,
}

/// One user pool, asked through the SDK. Clones share everything.
#[derive(Clone)]
pub struct Cognito {
    account: Arc<Account>,
    pool_id: String,
    clock: Clock,
    /// What people were told of its pages.
    told: Arc<Told>,
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
        let call = self.client().await.admin_list_user_auth_events().user_pool_id(&self.pool_id).username(username);
        let date = DateOfAnswer::default();
        let call = call.set_next_token(token.map(str::to_owned)).set_max_results(max_results.map(i32::from));
        // Boxed, because it is large: every turn's future would have room for it, and move it along.
        let answer = Box::pin(call.customize().interceptor(date.clone()).send()).await;
        let personal = [username, token.unwrap_or_default()];
        let operation = Operation::AdminListUserAuthEvents;
        let page: WirePage = match answer {
            Ok(page) => page.into(),
            Err(error) => match errors::unreadable_answer(&error).and_then(lenient::page) {
                Some(page) => {
                    self.tell(&self.told.of_malformed, MALFORMED);
                    page
                }
                None => return Err(errors::source_error(self.situation().await, operation, &error, &personal)),
            },
        };
        if page.events.len() > EVENTS_MAX {
            return Err(errors::too_many(operation, "events", EVENTS_MAX));
        }
        let cut = page.events.iter().filter(|event| convert::exceeds(event)).count();
        if cut > 0 {
            self.told.cut.fetch_add(cut as u64, Ordering::Relaxed);
            self.tell(&self.told.of_excess, EXCESS);
        }
        Ok(WirePage { served: date.get(), ..page })
    }

    /// One line for each pool and fault. There is none for the end: it comes when the last of such events has expired.
    fn tell(&self, told: &AtomicBool, what: &str) {
        if told.swap(true, Ordering::Relaxed) {
            debug!(pool = self.pool_id, "{what}");
        } else {
            warn!(pool = self.pool_id, "{what}");
        }
    }

    /// Gets credentials as a call would, past every cache, and gives their access key id, which is no secret.
    ///
    /// # Errors
    /// There are none ([`SourceError::Caller`]), or they could not be got now.
    pub async fn check_credentials(&self) -> Result<String, SourceError> {
        let Credentials { provider, timeout, .. } = self.account.credentials().await;
        errors::credentials(self.situation().await, *timeout, provider).await
    }

    /// How a call is made now.
    async fn situation(&self) -> Situation {
        Situation { now: self.clock.now(), sts_is_redirected: self.account.credentials().await.sts_is_redirected }
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

    async fn client(&self) -> &Client {
        self.account.client().await
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
        let client = self.client().await;
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
        Ok(convert::user_page(users, next))
    }

    async fn describe(&self) -> Result<PoolDescription, SourceError> {
        let answer = self.client().await.describe_user_pool().user_pool_id(&self.pool_id).send().await;
        match answer {
            Ok(answer) => Ok(answer.user_pool.map(|pool| convert::pool_description(&pool)).unwrap_or_default()),
            Err(error) => Err(errors::source_error(self.situation().await, Operation::DescribeUserPool, &error, &[])),
        }
    }

    fn events_cut(&self) -> u64 {
        self.told.cut.load(Ordering::Relaxed)
    }

    async fn read_limit(&self) -> Result<f64, SourceError> {
        let definition = LimitDefinitionType::builder()
            .limit_class(LimitClass::ApiCategory)
            .attributes("Category", READ_CATEGORY)
            .build()
            .expect("class and attributes are all that a definition asks for");
        let answer = self.client().await.get_provisioned_limit().limit_definition(definition).send().await;
        match answer {
            // What is missing in the answer reads as 0, and no account has that limit.
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
