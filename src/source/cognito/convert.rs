//! What the service's shapes mean to the exporter: texts that say nothing become absent, attributes become a user, an ARN
//! becomes an account. Pure.

use aws_sdk_cognitoidentityprovider::types as sdk;

use super::wire::{WireContext, WireEvent, WireFeedback, WireRisk, millis};
use crate::event::{AuthEvent, Challenge, EventContext, EventFeedback, EventRisk, UnixMillis, Vocabulary, Word};
use crate::source::{ListedUser, PageToken, PoolDescription, UserPage};

/// The attributes that a user may sign in with in place of the username.
const ALIASES: [&str; 3] = ["email", "phone_number", "preferred_username"];

/// The latest time that a CreationDate can mean, 2200-01-01. Milliseconds in the place of seconds would be 50,000 years
/// ahead, and with them the horizon, above everything that is still to come.
const LATEST: UnixMillis = UnixMillis(7_258_118_400_000);

impl From<WireEvent> for AuthEvent {
    fn from(event: WireEvent) -> Self {
        Self {
            id: text(event.event_id),
            event_type: word(event.event_type),
            creation_date: event.creation_date.filter(|time| *time < LATEST),
            response: word(event.event_response),
            risk: event.event_risk.map(risk),
            challenges: event
                .challenge_responses
                .into_iter()
                .flatten()
                .map(|challenge| Challenge {
                    name: word(challenge.challenge_name),
                    response: word(challenge.challenge_response),
                })
                .collect(),
            context: event.event_context_data.map(context),
            feedback: event.event_feedback.map(feedback),
        }
    }
}

fn risk(risk: WireRisk) -> EventRisk {
    EventRisk {
        decision: word(risk.risk_decision),
        level: word(risk.risk_level),
        compromised_credentials: risk.compromised_credentials_detected,
    }
}

fn context(context: WireContext) -> EventContext {
    EventContext {
        ip_address: place(context.ip_address),
        device_name: place(context.device_name),
        timezone: place(context.timezone),
        city: place(context.city),
        country: place(context.country),
    }
}

fn feedback(feedback: WireFeedback) -> EventFeedback {
    EventFeedback {
        value: word(feedback.feedback_value),
        provider: text(feedback.provider),
        date: feedback.feedback_date,
    }
}

/// A text that says something.
fn text(member: Option<String>) -> Option<String> {
    member.filter(|text| !text.is_empty())
}

/// A text about where and with what the user was: Cognito writes the word "null" for a city that it does not know.
fn place(member: Option<String>) -> Option<String> {
    text(member).filter(|text| text != "null")
}

fn word<V: Vocabulary>(member: Option<String>) -> Option<Word<V>> {
    text(member).map(|text| Word::parse(&text))
}

/// A page of a listing. A user without a username, whom nobody could ask about, is left out.
pub(super) fn user_page(users: Option<Vec<sdk::UserType>>, next: Option<String>) -> UserPage {
    UserPage { users: users.into_iter().flatten().filter_map(listed_user).collect(), next: text(next).map(PageToken) }
}

fn listed_user(user: sdk::UserType) -> Option<ListedUser> {
    let mut listed = ListedUser {
        username: text(user.username)?,
        sub: None,
        aliases: vec![],
        created: user.user_create_date.map(millis),
        enabled: user.enabled,
        federated: user.user_status == Some(sdk::UserStatusType::ExternalProvider),
    };
    for attribute in user.attributes.unwrap_or_default() {
        let Some(value) = text(attribute.value) else { continue };
        if attribute.name == "sub" {
            listed.sub = Some(value);
        } else if ALIASES.contains(&attribute.name.as_str()) {
            listed.aliases.push(value);
        }
    }
    Some(listed)
}

/// What is said of a pool.
pub(super) fn pool_description(pool: &sdk::UserPoolType) -> PoolDescription {
    let mode = pool.user_pool_add_ons.as_ref().map(|add_ons| add_ons.advanced_security_mode.as_str().to_owned());
    PoolDescription {
        account_id: pool.arn.as_deref().and_then(account_of),
        tier: pool.user_pool_tier.as_ref().map(|tier| tier.as_str().to_owned()),
        threat_protection: mode,
        estimated_users: u64::try_from(pool.estimated_number_of_users).ok(),
    }
}

/// The account in an ARN such as `arn:aws:cognito-idp:eu-west-1:123456789012:userpool/eu-west-1_Example`.
fn account_of(arn: &str) -> Option<String> {
    let account = arn.split(':').nth(4)?;
    (account.len() == 12 && account.bytes().all(|digit| digit.is_ascii_digit())).then(|| account.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventResponse, EventType};

    #[test]
    fn what_says_nothing_is_absent_and_an_unknown_word_is_kept() {
        let some = |text: &str| Some(text.to_owned());
        let event = AuthEvent::from(WireEvent {
            event_id: some(""),
            event_type: some("SignIn"),
            event_response: some("Maybe"),
            event_context_data: Some(WireContext {
                city: some("null"),
                country: some(""),
                device_name: some("Other, Other"),
                ..WireContext::default()
            }),
            ..WireEvent::default()
        });
        assert_eq!(event.id, None);
        assert_eq!(event.event_type, Some(Word::Known(EventType::SignIn)));
        assert_eq!(event.response, Some(Word::<EventResponse>::Other("Maybe".into())));
        let context = event.context.unwrap();
        assert_eq!((context.city, context.country), (None, None));
        assert_eq!(context.device_name.as_deref(), Some("Other, Other"));
        assert_eq!((event.risk, event.feedback), (None, None));
    }

    #[test]
    fn a_time_that_cannot_be_meant_is_absent() {
        let created = |millis| {
            AuthEvent::from(WireEvent { creation_date: Some(UnixMillis(millis)), ..WireEvent::default() }).creation_date
        };
        assert_eq!(created(1_723_136_049_929), Some(UnixMillis(1_723_136_049_929)));
        assert_eq!(created(1_723_136_049_929_000), None);
        assert_eq!(created(i64::MAX), None);
    }

    #[test]
    fn a_listed_user_is_known_by_sub_and_aliases() {
        let attribute =
            |name: &str, value: &str| sdk::AttributeType::builder().name(name).value(value).build().unwrap();
        let user = sdk::UserType::builder()
            .username("ada")
            .enabled(true)
            .user_status(sdk::UserStatusType::ExternalProvider)
            .attributes(attribute("sub", "0b0e1f5c"))
            .attributes(attribute("email", "ada@example.com"))
            .attributes(attribute("custom:shoe_size", "38"))
            .attributes(attribute("phone_number", ""))
            .build();
        let nameless = sdk::UserType::builder().build();
        let page = user_page(Some(vec![nameless, user]), Some(String::new()));
        let expected = ListedUser {
            username: "ada".into(),
            sub: Some("0b0e1f5c".into()),
            aliases: vec!["ada@example.com".into()],
            created: None,
            enabled: true,
            federated: true,
        };
        assert!(page.users == [expected] && page.next.is_none());
    }

    #[test]
    fn the_account_is_the_arns_or_unknown() {
        let account = |arn: &str| account_of(arn);
        assert_eq!(
            account("arn:aws-cn:cognito-idp:cn-north-1:123456789012:userpool/x").as_deref(),
            Some("123456789012")
        );
        assert_eq!(account("arn:aws:cognito-idp:eu-west-1::userpool/x"), None);
        assert_eq!(account("nonsense"), None);
    }
}
