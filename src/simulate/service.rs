//! The answers: one request and the world in, one reply out. Cognito's AWS JSON 1.1; STS's queries go on to `sts`.
//!
//! Pure, but that it changes the world: calls are logged, quotas used, faults spent, tokens remembered.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::calls::{Call, Outcome};
use super::fault::{Misfortune, Refusal};
use super::filter::Filter;
use super::paging::{self, Position};
use super::quota::Category;
use super::wire::{self, Object};
use super::world::{Pool, User, World};
use crate::event::UnixMillis;

/// Results on a page at most, and when nothing is asked for.
const PAGE_MAX: usize = 60;

/// Members of the service's rules (API reference): a pool id has at most 55 characters, a username 128, a token 131,072.
const POOL_ID_CHARS_MAX: usize = 55;
const USERNAME_CHARS_MAX: usize = 128;
const TOKEN_CHARS_MAX: usize = 131_072;

/// What the service looks at in a request.
pub(super) struct Request<'a> {
    /// `X-Amz-Target`; STS has none.
    pub(super) target: Option<&'a str>,
    pub(super) authorization: Option<&'a str>,
    pub(super) body: &'a [u8],
}

/// A response, and how it is to be delivered.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) error_type: Option<String>,
    pub(super) request_id: String,
    pub(super) at: UnixMillis,
    pub(super) body: String,
    pub(super) delivery: Delivery,
}

/// How a reply reaches the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Delivery {
    Whole,
    After(Duration),
    CutShort,
    Reset,
    Never,
}

/// Who calls, by the `Authorization` header. The signature is not verified.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Caller {
    pub(super) access_key: Option<String>,
    pub(super) region: Option<String>,
}

impl Caller {
    /// Reads `AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/<service>/aws4_request, ...`.
    pub(super) fn read(authorization: Option<&str>) -> Self {
        let scope = authorization
            .and_then(|header| header.split_once("Credential="))
            .map_or("", |(_, rest)| rest.split([',', ' ']).next().unwrap_or(""));
        let mut parts = scope.split('/').filter(|part| !part.is_empty());
        Self { access_key: parts.next().map(str::to_owned), region: parts.nth(1).map(str::to_owned) }
    }
}

/// The members of every request that is understood; each operation looks at its own.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Input {
    user_pool_id: Option<String>,
    username: Option<String>,
    max_results: Option<i64>,
    next_token: Option<String>,
    group_name: Option<String>,
    filter: Option<String>,
    limit: Option<i64>,
    pagination_token: Option<String>,
    attributes_to_get: Option<Vec<String>>,
    limit_definition: Option<LimitDefinition>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct LimitDefinition {
    limit_class: String,
    attributes: std::collections::BTreeMap<String, String>,
}

/// Answers a request.
pub(super) fn answer(world: &mut World, request: &Request<'_>) -> Reply {
    let caller = Caller::read(request.authorization);
    let Some(target) = request.target else {
        return super::sts::answer(world, &caller, request.body);
    };
    let operation = target.rsplit('.').next().unwrap_or(target).to_owned();
    let input = serde_json::from_slice::<Input>(request.body);
    let mut call = Call {
        operation,
        pool: None,
        user: None,
        token: None,
        max_results: None,
        at: world.now(),
        access_key: caller.access_key.clone(),
        outcome: Outcome::Answered,
    };
    let mut delivery = Delivery::Whole;
    let answered = match input {
        Err(error) => Err(Refusal::new("SerializationException", error.to_string())),
        Ok(input) => {
            call.pool = input.user_pool_id.clone();
            call.user = input.username.clone();
            call.token = input.next_token.clone().or_else(|| input.pagination_token.clone());
            call.max_results = input.max_results.or(input.limit);
            let misfortune = world.strike(&call.operation, call.pool.as_deref(), call.user.as_deref());
            delivery = misfortune.as_ref().map_or(Delivery::Whole, delivery_of);
            match misfortune {
                Some(Misfortune::Refuse(refusal)) => Err(refusal),
                Some(Misfortune::Html(status)) => {
                    call.outcome = Outcome::Broken;
                    world.calls_mut().push(call);
                    return html(world, status);
                }
                misfortune => perform(world, &caller, &call.operation, &input, misfortune.as_ref()).map(|mut body| {
                    if misfortune == Some(Misfortune::CutJson) {
                        body.truncate(body.floor_char_boundary(body.len() / 2));
                    }
                    body
                }),
            }
        }
    };
    call.outcome = match (&answered, delivery) {
        (_, Delivery::Reset | Delivery::Never | Delivery::CutShort) => Outcome::Broken,
        (Err(refusal), _) => Outcome::Refused(refusal.name.clone()),
        (Ok(_), _) => Outcome::Answered,
    };
    world.calls_mut().push(call);
    Reply { delivery, ..reply(world, answered) }
}

fn delivery_of(misfortune: &Misfortune) -> Delivery {
    match misfortune {
        Misfortune::Reset => Delivery::Reset,
        Misfortune::Hang => Delivery::Never,
        Misfortune::Slow(delay) => Delivery::After(*delay),
        Misfortune::CutConnection => Delivery::CutShort,
        _ => Delivery::Whole,
    }
}

fn reply(world: &mut World, answered: Result<String, Refusal>) -> Reply {
    let mut reply = Reply {
        status: 200,
        content_type: "application/x-amz-json-1.1",
        error_type: None,
        request_id: world.new_id(),
        at: world.now(),
        body: String::new(),
        delivery: Delivery::Whole,
    };
    match answered {
        Ok(body) => reply.body = body,
        Err(Refusal { status, name, message }) => {
            reply.status = status;
            let prefix = if world.prefixed_errors { "com.amazonaws.cognito.identity.idp.model#" } else { "" };
            reply.body = json!({ "__type": format!("{prefix}{name}"), "message": message }).to_string();
            reply.error_type =
                Some(format!("{name}:http://internal.amazon.com/coral/com.amazonaws.cognito.identity.idp.model/"));
        }
    }
    reply
}

fn html(world: &mut World, status: u16) -> Reply {
    Reply {
        status,
        content_type: "text/html",
        body: "<html><head><title>A page</title></head><body><h1>Not what you asked for</h1></body></html>".to_owned(),
        ..reply(world, Ok(String::new()))
    }
}

/// Performs an operation: who may, then what the quota allows, then what was asked.
fn perform(
    world: &mut World,
    caller: &Caller,
    operation: &str,
    input: &Input,
    misfortune: Option<&Misfortune>,
) -> Result<String, Refusal> {
    let category = match operation {
        "AdminListUserAuthEvents" => Category::UserResourceRead,
        "ListUsers" | "ListUsersInGroup" => Category::UserList,
        "DescribeUserPool" => Category::UserPoolRead,
        "GetProvisionedLimit" => Category::LimitManagement,
        unknown => {
            return Err(Refusal::new("UnknownOperationException", format!("{unknown} is not simulated")));
        }
    };
    let account = caller_account(world, caller)?;
    spend(world, caller, account.as_deref(), input, category)?;
    if category == Category::LimitManagement {
        return provisioned_limit(world, input);
    }
    let pool_id = text("userPoolId", input.user_pool_id.as_deref(), POOL_ID_CHARS_MAX, is_pool_id)?;
    let pool = reachable(world.pool(pool_id), pool_id, caller, account.as_deref())?;
    match operation {
        "DescribeUserPool" => Ok(describe_user_pool(pool)),
        "ListUsers" => list_users(pool, input, world.now()),
        "ListUsersInGroup" => list_users_in_group(pool, input, world.now()),
        _ => list_user_auth_events(world, pool_id, input, misfortune),
    }
}

/// The account that a caller's key belongs to; None may call everywhere.
fn caller_account(world: &World, caller: &Caller) -> Result<Option<String>, Refusal> {
    let Some(key) = &caller.access_key else {
        return Err(Refusal::new("MissingAuthenticationTokenException", "Missing Authentication Token"));
    };
    match world.sessions.get(key) {
        Some(session) if session.expires <= world.now() => {
            Err(Refusal::new("ExpiredTokenException", "The security token included in the request is expired"))
        }
        Some(session) => Ok(session.role_arn.split(':').nth(4).map(str::to_owned)),
        None => Ok(world.home_account.clone()),
    }
}

/// Takes the call out of the quota of the pool's account and region.
fn spend(
    world: &mut World,
    caller: &Caller,
    account: Option<&str>,
    input: &Input,
    category: Category,
) -> Result<(), Refusal> {
    let pool = input.user_pool_id.as_deref().and_then(|id| world.pool(id));
    let account = pool.map(|pool| pool.account_id.as_str()).or(account).unwrap_or_default();
    let region = pool.map(|pool| pool.region.as_str()).or(caller.region.as_deref()).unwrap_or_default();
    let (account, region, now) = (account.to_owned(), region.to_owned(), world.now());
    if world.quotas().take(&account, &region, category, now) { Ok(()) } else { Err(Refusal::throttled()) }
}

/// A pool that this caller can reach: there, in the region that was called, and of the caller's account.
fn reachable<'a>(
    pool: Option<&'a Pool>,
    id: &str,
    caller: &Caller,
    account: Option<&str>,
) -> Result<&'a Pool, Refusal> {
    pool.filter(|pool| caller.region.as_ref().is_none_or(|region| *region == pool.region))
        .filter(|pool| account.is_none_or(|account| account == pool.account_id))
        .ok_or_else(|| Refusal::new("ResourceNotFoundException", format!("User pool {id} does not exist.")))
}

fn list_user_auth_events(
    world: &mut World,
    pool_id: &str,
    input: &Input,
    misfortune: Option<&Misfortune>,
) -> Result<String, Refusal> {
    let username = text("username", input.username.as_deref(), USERNAME_CHARS_MAX, is_not_blank)?;
    let max = page_size("maxResults", input.max_results)?;
    let token = optional_token("nextToken", input.next_token.as_deref())?;
    let now = world.now();
    // Taken out for the length of the call, because issuing a token changes it while the pool is being read.
    let mut tokens = std::mem::take(&mut world.tokens);
    let mut random = world.random().fork();
    let answered = world.pool(pool_id).map_or_else(
        || Err(Refusal::new("ResourceNotFoundException", format!("User pool {pool_id} does not exist."))),
        |pool| {
            if !pool.keeps_events() {
                return Err(Refusal::new("UserPoolAddOnNotEnabledException", "User pool add-ons are not enabled."));
            }
            let user =
                pool.user(username).ok_or_else(|| Refusal::new("UserNotFoundException", "User does not exist."))?;
            let owner = (pool_id, user.sub.as_str());
            let style = pool.token_style;
            let from = match token {
                None => Position::Top,
                Some(token) => tokens
                    .redeem(style, owner, token, now)
                    .ok_or_else(|| Refusal::invalid("Invalid pagination token"))?,
            };
            let begin = if misfortune == Some(&Misfortune::RepeatPage) { &Position::Top } else { &from };
            let slice = paging::cut(user.events_oldest_first(), begin, max, style, pool.last_token, now);
            let mut events: Vec<String> = slice.events.iter().map(|event| event.json.clone()).collect();
            let mut next = slice.next;
            match misfortune {
                Some(Misfortune::EmptyPage) => {
                    events.clear();
                    next = Some(from);
                }
                Some(Misfortune::Shuffle) => random.shuffle(&mut events),
                Some(Misfortune::Huge) => {
                    for (event, stored) in events.iter_mut().zip(&slice.events) {
                        *event = inflated(stored);
                    }
                }
                _ => {}
            }
            let next = match (misfortune, next) {
                (Some(Misfortune::RepeatToken), _) => token.map(str::to_owned),
                (_, next) => next.map(|position| {
                    let random = || uuid_text(&mut random);
                    tokens.issue(style, owner, &position, now, random)
                }),
            };
            Ok(events_page(&events, next.as_deref()))
        },
    );
    world.tokens = tokens;
    answered
}

fn uuid_text(random: &mut fastrand::Rng) -> String {
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// An event with texts far beyond the documented lengths.
fn inflated(stored: &super::world::StoredEvent) -> String {
    const CHARS: usize = 100_000;
    let mut event = stored.read();
    let mut context = event.context.unwrap_or_default();
    context.device_name = Some("D".repeat(CHARS));
    context.city = Some("ü".repeat(CHARS));
    event.context = Some(context);
    wire::event_json(&event)
}

fn events_page(events: &[String], next: Option<&str>) -> String {
    let mut body = String::with_capacity(64 + events.iter().map(|event| event.len() + 1).sum::<usize>());
    let mut page = Object::open(&mut body);
    wire::list(page.key("AuthEvents"), events, |out, event| out.push_str(event));
    page.text("NextToken", next);
    page.close();
    body
}

fn list_users(pool: &Pool, input: &Input, now: UnixMillis) -> Result<String, Refusal> {
    let limit = page_size("limit", input.limit)?;
    let last = listing_token("paginationToken", input.pagination_token.as_deref())?;
    let filter = match input.filter.as_deref().map(str::trim) {
        None | Some("") => None,
        Some(text) => Some(Filter::parse(text).ok_or_else(|| Refusal::invalid("Error while parsing filter."))?),
    };
    let users = pool.users_behind(last).filter(|(_, user)| filter.as_ref().is_none_or(|filter| filter.selects(user)));
    users_page(users, limit, "PaginationToken", input.attributes_to_get.as_deref(), now)
}

fn list_users_in_group(pool: &Pool, input: &Input, now: UnixMillis) -> Result<String, Refusal> {
    let group = text("groupName", input.group_name.as_deref(), USERNAME_CHARS_MAX, is_not_blank)?;
    let limit = page_size("limit", input.limit)?;
    let last = listing_token("nextToken", input.next_token.as_deref())?;
    let users = pool
        .members_behind(group, last)
        .ok_or_else(|| Refusal::new("ResourceNotFoundException", "Group not found."))?;
    users_page(users, limit, "NextToken", None, now)
}

/// A page of a listing, with a token exactly when there are more.
fn users_page<'a>(
    users: impl Iterator<Item = (u64, &'a User)>,
    limit: usize,
    token_name: &str,
    attributes: Option<&[String]>,
    now: UnixMillis,
) -> Result<String, Refusal> {
    let mut users = users.filter(|(_, user)| user.listed_from <= now);
    let page: Vec<_> = users.by_ref().take(limit).collect();
    // "Amazon Cognito returns an error if not all users in the results have set a value for the attribute you request."
    let lacking = |name: &&String| page.iter().any(|(_, user)| user.attribute(name).is_none());
    if let Some(name) = attributes.unwrap_or_default().iter().find(lacking) {
        let message = format!("One or more requested attributes do not exist: {name}");
        return Err(Refusal::invalid(message));
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

fn user_json(out: &mut String, user: &User, wanted: Option<&[String]>) {
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

fn describe_user_pool(pool: &Pool) -> String {
    json!({
        "UserPool": {
            "Arn": pool.arn(),
            "EstimatedNumberOfUsers": pool.users().len(),
            "Id": pool.id,
            "Name": pool.name,
            "UserPoolAddOns": { "AdvancedSecurityMode": pool.threat_protection },
            "UserPoolTier": pool.tier,
        }
    })
    .to_string()
}

fn provisioned_limit(world: &mut World, input: &Input) -> Result<String, Refusal> {
    let name = input
        .limit_definition
        .as_ref()
        .filter(|definition| definition.limit_class == "API_CATEGORY")
        .and_then(|definition| definition.attributes.get("Category"))
        .ok_or_else(|| Refusal::invalid("A limit definition has the class API_CATEGORY and a Category."))?;
    let (category, limit) = Category::ALL
        .into_iter()
        .find(|category| category.as_str() == name)
        .and_then(|category| Some((category, world.quotas().limit(category)?)))
        .ok_or_else(|| Refusal::new("ResourceNotFoundException", format!("No limit of category {name}.")))?;
    let answer: Value = json!({
        "Limit": {
            "LimitDefinition": { "LimitClass": "API_CATEGORY", "Attributes": { "Category": name } },
            "ProvisionedLimitValue": limit,
            "FreeLimitValue": category.documented_limit(),
        }
    });
    Ok(answer.to_string())
}

fn constraint(member: &str, rule: &str) -> Refusal {
    Refusal::invalid(format!("1 validation error detected: Value at '{member}' failed to satisfy constraint: {rule}"))
}

/// A required text, within its length and of its form.
fn text<'a>(
    member: &str,
    value: Option<&'a str>,
    chars_max: usize,
    is_well_formed: impl Fn(&str) -> bool,
) -> Result<&'a str, Refusal> {
    let value = value.ok_or_else(|| constraint(member, "Member must not be null"))?;
    let chars = value.chars().count();
    if chars == 0 {
        Err(constraint(member, "Member must have length greater than or equal to 1"))
    } else if chars > chars_max {
        let rule = format!("Member must have length less than or equal to {chars_max}");
        Err(constraint(member, &rule))
    } else if !is_well_formed(value) {
        Err(constraint(member, "Member must satisfy regular expression pattern"))
    } else {
        Ok(value)
    }
}

/// `[\w-]+_[0-9a-zA-Z]+`
fn is_pool_id(text: &str) -> bool {
    text.rsplit_once('_').is_some_and(|(region, rest)| {
        let word = |char: char| char.is_ascii_alphanumeric() || "_-".contains(char);
        !region.is_empty()
            && region.chars().all(word)
            && !rest.is_empty()
            && rest.chars().all(|char| char.is_ascii_alphanumeric())
    })
}

/// `\S+`; usernames and group names have a longer rule to the same effect.
fn is_not_blank(text: &str) -> bool {
    !text.contains(char::is_whitespace)
}

fn optional_token<'a>(member: &str, token: Option<&'a str>) -> Result<Option<&'a str>, Refusal> {
    token.map(|token| text(member, Some(token), TOKEN_CHARS_MAX, is_not_blank)).transpose()
}

fn listing_token(member: &str, token: Option<&str>) -> Result<Option<u64>, Refusal> {
    let Some(token) = optional_token(member, token)? else {
        return Ok(None);
    };
    let last = token.strip_prefix("users-").and_then(|last| last.parse().ok());
    last.map(Some).ok_or_else(|| Refusal::invalid("Invalid pagination token"))
}

/// 0 to 60, where 0 and nothing mean 60.
fn page_size(member: &str, asked: Option<i64>) -> Result<usize, Refusal> {
    match asked {
        None | Some(0) => Ok(PAGE_MAX),
        Some(asked) if asked < 0 => Err(constraint(member, "Member must have value greater than or equal to 0")),
        Some(asked) => usize::try_from(asked)
            .ok()
            .filter(|asked| *asked <= PAGE_MAX)
            .ok_or_else(|| constraint(member, "Member must have value less than or equal to 60")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_read_from_the_signature() {
        let header = "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20240808/eu-west-1/cognito-idp/aws4_request, SignedHeaders=host, Signature=0";
        let caller = Caller::read(Some(header));
        assert_eq!(caller.access_key.as_deref(), Some("AKIAEXAMPLE"));
        assert_eq!(caller.region.as_deref(), Some("eu-west-1"));
        assert_eq!(Caller::read(Some("Bearer x")), Caller::default());
    }

    #[test]
    fn the_services_rules_for_parameters_are_kept() {
        assert!(is_pool_id("eu-west-1_Example") && is_pool_id("a_b_9"));
        assert!(!is_pool_id("eu-west-1") && !is_pool_id("_x") && !is_pool_id("a_") && !is_pool_id("a_b-c"));
        assert_eq!(page_size("m", Some(0)), Ok(60));
        assert_eq!(page_size("m", Some(60)), Ok(60));
        assert!(page_size("m", Some(61)).is_err() && page_size("m", Some(-1)).is_err());
        assert!(text("username", Some("a b"), 128, is_not_blank).is_err());
        assert!(text("username", Some(&"ü".repeat(128)), 128, is_not_blank).is_ok());
        assert!(text("username", Some(&"ü".repeat(129)), 128, is_not_blank).is_err());
    }
}
