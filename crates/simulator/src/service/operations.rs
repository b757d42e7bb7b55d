//! The operations: the quota, the access check and the answer of each.

use std::borrow::Cow;

use cognito_auth_core::event::UnixMillis;
use serde::Deserialize;
use serde_json::json;

use super::rules;
use crate::caller::Caller;
use crate::fault::{AwsError, FaultKind};
use crate::filter::Filter;
use crate::history::HistoryEvent;
use crate::paging::{self, Position};
use crate::quota::Category;
use crate::wire::{self, Object};
use crate::world::{PoolUser, SimulatedPool, World};

/// The members of all known requests; each operation reads its own.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Input {
    pub(super) user_pool_id: Option<String>,
    pub(super) username: Option<String>,
    pub(super) max_results: Option<i64>,
    pub(super) next_token: Option<String>,
    group_name: Option<String>,
    filter: Option<String>,
    pub(super) limit: Option<i64>,
    pub(super) pagination_token: Option<String>,
    attributes_to_get: Option<Vec<String>>,
    limit_definition: Option<LimitDefinition>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct LimitDefinition {
    limit_class: String,
    attributes: std::collections::BTreeMap<String, String>,
}

/// Performs an operation: checks the caller's account, then the quota, then answers.
pub(super) fn perform(
    world: &mut World,
    caller: &Caller,
    operation: &str,
    input: &Input,
    fault: Option<&FaultKind>,
) -> Result<String, AwsError> {
    let category = match operation {
        "AdminListUserAuthEvents" => Category::UserResourceRead,
        "ListUsers" | "ListUsersInGroup" => Category::UserList,
        "DescribeUserPool" | "GetLogDeliveryConfiguration" => Category::UserPoolRead,
        "GetProvisionedLimit" => Category::LimitManagement,
        unknown => {
            return Err(AwsError::new("UnknownOperationException", format!("{unknown} is not simulated")));
        }
    };
    let account = caller_account(world, caller)?;
    use_quota(world, caller, account.as_deref(), input, category)?;
    if category == Category::LimitManagement {
        return provisioned_limit(world, input);
    }
    let pool_id = rules::pool_id("userPoolId", input.user_pool_id.as_deref())?;
    let pool = reachable_pool(world.pool(pool_id), pool_id, caller, account.as_deref())?;
    match operation {
        "DescribeUserPool" => Ok(describe_user_pool(pool)),
        "GetLogDeliveryConfiguration" => Ok(log_delivery_configuration(pool)),
        "ListUsers" => list_users(pool, input, world.now()),
        "ListUsersInGroup" => list_users_in_group(pool, input, world.now()),
        _ => list_user_auth_events(world, pool_id, input, fault),
    }
}

/// The account of a caller's key. A caller without an account may call every account.
pub(super) fn caller_account(world: &World, caller: &Caller) -> Result<Option<String>, AwsError> {
    let Some(key) = &caller.access_key else {
        return Err(AwsError::new("MissingAuthenticationTokenException", "Missing Authentication Token"));
    };
    match world.sessions.get(key) {
        Some(session) if session.expires <= world.now() => {
            Err(AwsError::new("ExpiredTokenException", "The security token included in the request is expired"))
        }
        Some(session) => Ok(session.role_arn.split(':').nth(4).map(str::to_owned)),
        None => Ok(world.home_account.clone()),
    }
}

/// Counts the call against the quota of the pool's account and region.
fn use_quota(
    world: &mut World,
    caller: &Caller,
    account: Option<&str>,
    input: &Input,
    category: Category,
) -> Result<(), AwsError> {
    let pool = input.user_pool_id.as_deref().and_then(|id| world.pool(id));
    let account = pool.map(|pool| pool.account_id.as_str()).or(account).unwrap_or_default();
    let region = pool.map(|pool| pool.region.as_str()).or(caller.region.as_deref()).unwrap_or_default();
    let (account, region, now) = (account.to_owned(), region.to_owned(), world.now());
    if world.quotas().take(&account, &region, category, now) { Ok(()) } else { Err(AwsError::throttled()) }
}

/// Checks that the caller can reach the pool: it exists, in the region of the call, in the caller's account.
fn reachable_pool<'a>(
    pool: Option<&'a SimulatedPool>,
    id: &str,
    caller: &Caller,
    account: Option<&str>,
) -> Result<&'a SimulatedPool, AwsError> {
    pool.filter(|pool| caller.region.as_ref().is_none_or(|region| *region == pool.region))
        .filter(|pool| account.is_none_or(|account| account == pool.account_id))
        .ok_or_else(|| no_pool(id))
}

fn no_pool(id: &str) -> AwsError {
    AwsError::new("ResourceNotFoundException", format!("User pool {id} does not exist."))
}

fn list_user_auth_events(
    world: &mut World,
    pool_id: &str,
    input: &Input,
    fault: Option<&FaultKind>,
) -> Result<String, AwsError> {
    let username = rules::name("username", input.username.as_deref())?;
    let max = rules::page_size("maxResults", input.max_results)?;
    let token = rules::token("nextToken", input.next_token.as_deref())?;
    let now = world.now();
    let (pool, tokens, random) = world.page_parts(pool_id).ok_or_else(|| no_pool(pool_id))?;
    if !pool.keeps_events() {
        return Err(AwsError::new("UserPoolAddOnNotEnabledException", "User pool add-ons are not enabled."));
    }
    let user = pool.user(username).ok_or_else(|| AwsError::new("UserNotFoundException", "User does not exist."))?;
    let (owner, style) = ((pool_id, user.sub.as_str()), pool.token_style);
    let asked_for = match token {
        None => Position::Newest,
        Some(token) => tokens.redeem(style, owner, token, now).ok_or_else(rules::bad_token)?,
    };
    let from = match fault {
        Some(FaultKind::RepeatPage) => &Position::Newest,
        _ => &asked_for,
    };
    let page = paging::page(user.events_oldest_first(), from, max, style, pool.last_token, now);
    let mut next = page.next;
    let mut events: Vec<Cow<'_, str>> = page.events.iter().map(|event| event.json.as_str().into()).collect();
    match fault {
        Some(FaultKind::EmptyPage) => {
            events.clear();
            next = Some(asked_for);
        }
        Some(FaultKind::Shuffle) => random.shuffle(&mut events),
        Some(FaultKind::EmptyEvents(count)) => events = vec![empty_objects(*count).into()],
        Some(FaultKind::EmptyChallenges(count)) => {
            if let Some(newest) = events.first_mut() {
                let members = newest.strip_prefix('{').unwrap_or_default();
                *newest = format!("{{\"ChallengeResponses\":[{}],{members}", empty_objects(*count)).into();
            }
        }
        Some(FaultKind::Huge) => events = page.events.iter().map(|event| inflated(event).into()).collect(),
        _ => {}
    }
    let next = match fault {
        Some(FaultKind::RepeatToken) => token.map(str::to_owned),
        _ => next.map(|position| tokens.issue(style, owner, &position, now, || wire::uuid(random))),
    };
    Ok(events_page(&events, next.as_deref()))
}

/// The elements of a list of `count` empty objects.
fn empty_objects(count: usize) -> String {
    let mut elements = "{},".repeat(count);
    elements.pop();
    elements
}

/// The JSON of an event whose texts are far longer than documented.
fn inflated(stored: &HistoryEvent) -> String {
    const CHARS: usize = 100_000;
    let mut event = stored.parse();
    let mut context = event.context.unwrap_or_default();
    context.device_name = Some("D".repeat(CHARS));
    context.city = Some("ü".repeat(CHARS));
    event.context = Some(context);
    wire::event_json(&event)
}

fn events_page(events: &[Cow<'_, str>], next: Option<&str>) -> String {
    let mut body = String::with_capacity(64 + events.iter().map(|event| event.len() + 1).sum::<usize>());
    let mut page = Object::open(&mut body);
    wire::list(page.key("AuthEvents"), events, |out, event| out.push_str(event));
    page.text("NextToken", next);
    page.close();
    body
}

fn list_users(pool: &SimulatedPool, input: &Input, now: UnixMillis) -> Result<String, AwsError> {
    let limit = rules::page_size("limit", input.limit)?;
    let last = rules::listing_token("paginationToken", input.pagination_token.as_deref())?;
    let filter = match input.filter.as_deref().map(str::trim) {
        None | Some("") => None,
        Some(text) => Some(Filter::parse(text).ok_or_else(|| AwsError::invalid("Error while parsing filter."))?),
    };
    let users = pool.users_after(last).filter(|(_, user)| filter.as_ref().is_none_or(|filter| filter.selects(user)));
    users_page(users, limit, "PaginationToken", input.attributes_to_get.as_deref(), now)
}

fn list_users_in_group(pool: &SimulatedPool, input: &Input, now: UnixMillis) -> Result<String, AwsError> {
    let group = rules::name("groupName", input.group_name.as_deref())?;
    let limit = rules::page_size("limit", input.limit)?;
    let last = rules::listing_token("nextToken", input.next_token.as_deref())?;
    let users = pool
        .members_after(group, last)
        .ok_or_else(|| AwsError::new("ResourceNotFoundException", "Group not found."))?;
    users_page(users, limit, "NextToken", None, now)
}

/// A page of a listing. It has a token exactly when more users follow.
fn users_page<'a>(
    users: impl Iterator<Item = (u64, &'a PoolUser)>,
    limit: usize,
    token_name: &str,
    attributes: Option<&[String]>,
    now: UnixMillis,
) -> Result<String, AwsError> {
    let mut users = users.filter(|(_, user)| user.listed_from <= now);
    let page: Vec<_> = users.by_ref().take(limit).collect();
    // "Amazon Cognito returns an error if not all users in the results have set a value for the attribute you request."
    let lacking = |name: &&String| page.iter().any(|(_, user)| user.attribute(name).is_none());
    if let Some(name) = attributes.unwrap_or_default().iter().find(lacking) {
        let message = format!("One or more requested attributes do not exist: {name}");
        return Err(AwsError::invalid(message));
    }
    let next = users.next().and(page.last()).map(|(last, _)| format!("users-{last}"));
    let mut body = String::with_capacity(64 + 512 * page.len());
    let mut members = Object::open(&mut body);
    members.text(token_name, next.as_deref());
    wire::list(members.key("Users"), page, |out, (_, user)| {
        user_json(out, user, attributes);
    });
    members.close();
    Ok(body)
}

fn user_json(out: &mut String, user: &PoolUser, wanted: Option<&[String]>) {
    let mut members = Object::open(out);
    let attributes =
        user.attributes().filter(|(name, _)| wanted.is_none_or(|wanted| wanted.iter().any(|wanted| wanted == name)));
    wire::list(members.key("Attributes"), attributes, |out, (name, value)| {
        let mut attribute = Object::open(out);
        attribute.text("Name", Some(name));
        attribute.text("Value", Some(value));
        attribute.close();
    });
    members.flag("Enabled", Some(user.enabled));
    members.time("UserCreateDate", Some(user.created));
    members.time("UserLastModifiedDate", Some(user.last_modified));
    members.text("UserStatus", Some(&user.status));
    members.text("Username", Some(&user.username));
    members.close();
}

fn describe_user_pool(pool: &SimulatedPool) -> String {
    let mut described = json!({
        "Arn": pool.arn(),
        "EstimatedNumberOfUsers": pool.users().len(),
        "Id": pool.id,
        "Name": pool.name,
        "UserPoolAddOns": { "AdvancedSecurityMode": pool.threat_protection },
        "UserPoolTier": pool.tier,
    });
    for (member, attributes) in
        [("AliasAttributes", &pool.alias_attributes), ("UsernameAttributes", &pool.username_attributes)]
    {
        if !attributes.is_empty() {
            described[member] = json!(attributes);
        }
    }
    if let Some(case_sensitive) = pool.case_sensitive {
        described["UsernameConfiguration"] = json!({ "CaseSensitive": case_sensitive });
    }
    json!({ "UserPool": described }).to_string()
}

fn log_delivery_configuration(pool: &SimulatedPool) -> String {
    let configurations = pool.export().map(|export| {
        let mut configuration = json!({ "EventSource": "userAuthEvents", "LogLevel": "INFO" });
        let arn = |service: &str, resource: String| {
            let (region, account) = (&pool.region, &pool.account_id);
            format!("arn:{}:{service}:{region}:{account}:{resource}", wire::partition(region))
        };
        if let Some(name) = &export.settings.log_group {
            configuration["CloudWatchLogsConfiguration"] =
                json!({ "LogGroupArn": arn("logs", format!("log-group:{name}")) });
        }
        if let Some(stream) = &export.settings.firehose {
            configuration["FirehoseConfiguration"] =
                json!({ "StreamArn": arn("firehose", format!("deliverystream/{stream}")) });
        }
        configuration
    });
    let configurations: Vec<_> = configurations.into_iter().collect();
    json!({ "LogDeliveryConfiguration": { "LogConfigurations": configurations, "UserPoolId": pool.id } }).to_string()
}

fn provisioned_limit(world: &mut World, input: &Input) -> Result<String, AwsError> {
    let name = input
        .limit_definition
        .as_ref()
        .filter(|definition| definition.limit_class == "API_CATEGORY")
        .and_then(|definition| definition.attributes.get("Category"))
        .ok_or_else(|| AwsError::invalid("A limit definition has the class API_CATEGORY and a Category."))?;
    let (category, limit) = Category::ALL
        .into_iter()
        .find(|category| *category != Category::LogFilter && category.as_str() == name)
        .and_then(|category| Some((category, world.quotas().reported_limit(category)?)))
        .ok_or_else(|| AwsError::new("ResourceNotFoundException", format!("No limit of category {name}.")))?;
    let answer = json!({
        "Limit": {
            "LimitDefinition": { "LimitClass": "API_CATEGORY", "Attributes": { "Category": name } },
            "ProvisionedLimitValue": limit,
            "FreeLimitValue": category.documented_limit(),
        }
    });
    Ok(answer.to_string())
}
