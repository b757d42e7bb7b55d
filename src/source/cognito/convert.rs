//! Converts the service's shapes to the exporter's types: empty texts become absent, attributes become a user, and an
//! ARN becomes an account id. Pure.

use aws_sdk_cognitoidentityprovider::types as sdk;
use cognito_auth_core::event::{
    AuthEvent, Challenge, EventContext, EventFeedback, EventRisk, Facts, UnixMillis, Vocabulary, Word,
};

use super::wire::{WireContext, WireEvent, WireFeedback, WireRisk, millis};
use crate::source::{Address, ListedUser, PageToken, PoolDescription, SignInNames, UserPage};

/// The first time that is too late for a CreationDate, 2200-01-01. Milliseconds sent as seconds would be 50,000 years
/// ahead. Such a date is absent, because every receiver would refuse it.
const LATEST: UnixMillis = UnixMillis(7_258_118_400_000);

/// The most bytes of a text that are kept; the rest is cut off. Cognito's texts have some dozens. A record whose texts
/// all have this length stays below the limit of receivers (1 MiB).
const TEXT_BYTES_MAX: usize = 64 << 10;

/// Returns whether an event exceeds a limit, so that part of it is cut off.
pub(super) fn exceeds(event: &WireEvent) -> bool {
    let challenges = event.challenge_responses.as_deref().unwrap_or_default();
    let context = event.event_context_data.iter();
    let context = context.flat_map(|it| [&it.ip_address, &it.device_name, &it.timezone, &it.city, &it.country]);
    let risk = event.event_risk.iter().flat_map(|it| [&it.risk_decision, &it.risk_level]);
    let feedback = event.event_feedback.iter().flat_map(|it| [&it.feedback_value, &it.provider]);
    let kept = challenges.iter().take(Facts::CHALLENGES_MAX);
    let kept = kept.flat_map(|it| [&it.challenge_name, &it.challenge_response]);
    let own = [&event.event_id, &event.event_type, &event.event_response].into_iter();
    let mut texts = own.chain(context).chain(risk).chain(feedback).chain(kept).flatten();
    challenges.len() > Facts::CHALLENGES_MAX || texts.any(|text| text.len() > TEXT_BYTES_MAX)
}

impl From<WireEvent> for AuthEvent {
    fn from(event: WireEvent) -> Self {
        Self {
            // Half an id could equal another event's.
            id: said(event.event_id).filter(|id| id.len() <= TEXT_BYTES_MAX),
            event_type: word(event.event_type),
            creation_date: event.creation_date.filter(|time| *time < LATEST),
            response: word(event.event_response),
            risk: event.event_risk.map(risk),
            challenges: event
                .challenge_responses
                .into_iter()
                .flatten()
                .take(Facts::CHALLENGES_MAX)
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

/// Returns a text that is not empty.
fn said(member: Option<String>) -> Option<String> {
    member.filter(|text| !text.is_empty())
}

/// Returns a text that is not empty, cut to [`TEXT_BYTES_MAX`].
fn text(member: Option<String>) -> Option<String> {
    let mut text = said(member)?;
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.shrink_to_fit();
    }
    Some(text)
}

/// Returns a text about the user's place or device. Cognito writes the word "null" for an unknown city.
fn place(member: Option<String>) -> Option<String> {
    text(member).filter(|text| text != "null")
}

fn word<V: Vocabulary>(member: Option<String>) -> Option<Word<V>> {
    text(member).map(|text| Word::parse(&text))
}

/// Converts a page of a listing. A user without a username is left out, because no call could name it.
pub(super) fn user_page(users: Option<Vec<sdk::UserType>>, next: Option<String>) -> UserPage {
    UserPage { users: users.into_iter().flatten().filter_map(listed_user).collect(), next: said(next).map(PageToken) }
}

fn listed_user(user: sdk::UserType) -> Option<ListedUser> {
    let mut listed = ListedUser {
        username: said(user.username)?,
        sub: None,
        email: None,
        phone_number: None,
        preferred_username: None,
        created: user.user_create_date.map(millis),
        enabled: user.enabled,
        federated: user.user_status == Some(sdk::UserStatusType::ExternalProvider),
    };
    let (mut email, mut phone_number) = ((None, false), (None, false));
    for attribute in user.attributes.unwrap_or_default() {
        let Some(value) = said(attribute.value) else { continue };
        match attribute.name.as_str() {
            "sub" => listed.sub = Some(value),
            "email" => email.0 = Some(value),
            "email_verified" => email.1 = value == "true",
            "phone_number" => phone_number.0 = Some(value),
            "phone_number_verified" => phone_number.1 = value == "true",
            "preferred_username" => listed.preferred_username = Some(value),
            _ => {}
        }
    }
    let address = |(value, is_verified): (Option<String>, bool)| value.map(|value| Address { value, is_verified });
    (listed.email, listed.phone_number) = (address(email), address(phone_number));
    Some(listed)
}

/// Converts the description of a pool.
pub(super) fn pool_description(pool: &sdk::UserPoolType) -> PoolDescription {
    let mode = pool.user_pool_add_ons.as_ref().map(|add_ons| add_ons.advanced_security_mode.as_str().to_owned());
    PoolDescription {
        account_id: pool.arn.as_deref().and_then(account_of),
        tier: pool.user_pool_tier.as_ref().map(|tier| tier.as_str().to_owned()),
        threat_protection: mode,
        estimated_users: u64::try_from(pool.estimated_number_of_users).ok(),
        sign_in_names: Some(sign_in_names(pool)),
    }
}

fn sign_in_names(pool: &sdk::UserPoolType) -> SignInNames {
    use sdk::{AliasAttributeType as Alias, UsernameAttributeType as InPlace};
    let (aliases, in_place) = (pool.alias_attributes(), pool.username_attributes());
    SignInNames {
        email: aliases.contains(&Alias::Email) || in_place.contains(&InPlace::Email),
        phone_number: aliases.contains(&Alias::PhoneNumber) || in_place.contains(&InPlace::PhoneNumber),
        preferred_username: aliases.contains(&Alias::PreferredUsername),
        // AWS's model requires the member. The SDK reads a missing one as false.
        case_sensitive: pool.username_configuration().is_none_or(|configuration| configuration.case_sensitive()),
    }
}

/// Returns the account in an ARN such as `arn:aws:cognito-idp:eu-west-1:123456789012:userpool/eu-west-1_Example`.
fn account_of(arn: &str) -> Option<String> {
    let account = arn.split(':').nth(4)?;
    (account.len() == 12 && account.bytes().all(|digit| digit.is_ascii_digit())).then(|| account.to_owned())
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::event::{EventResponse, EventType};

    use super::*;

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
    fn what_is_more_than_anybody_needs_is_cut_and_known_to_be() {
        let long = |bytes| Some("ü".repeat(bytes / 2));
        let with_device = |device_name| WireEvent {
            event_id: Some("id".into()),
            event_context_data: Some(WireContext { device_name, ..WireContext::default() }),
            ..WireEvent::default()
        };
        for (bytes, kept) in [(TEXT_BYTES_MAX, TEXT_BYTES_MAX), (TEXT_BYTES_MAX + 2, TEXT_BYTES_MAX)] {
            let event = with_device(long(bytes));
            assert_eq!(exceeds(&event), bytes > kept);
            let event = AuthEvent::from(event);
            assert_eq!(event.context.unwrap().device_name.unwrap().len(), kept);
        }
        // No character is cut in half.
        let event = AuthEvent::from(with_device(Some("x".to_owned() + &"ü".repeat(TEXT_BYTES_MAX))));
        assert_eq!(event.context.unwrap().device_name.unwrap().len(), TEXT_BYTES_MAX - 1);
        // Half an id could equal another event's.
        let event = WireEvent { event_id: long(TEXT_BYTES_MAX + 2), ..WireEvent::default() };
        assert!(exceeds(&event) && AuthEvent::from(event).id.is_none());

        let challenged = |count| WireEvent {
            challenge_responses: Some(vec![super::super::wire::WireChallenge::default(); count]),
            ..WireEvent::default()
        };
        assert!(!exceeds(&challenged(16)) && exceeds(&challenged(17)));
        assert_eq!(AuthEvent::from(challenged(100_000)).challenges.len(), 16);
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
    fn a_listed_user_has_a_sub_and_addresses_that_are_verified_only_where_it_says_so() {
        let attribute =
            |name: &str, value: &str| sdk::AttributeType::builder().name(name).value(value).build().unwrap();
        let user = sdk::UserType::builder()
            .username("ada")
            .enabled(true)
            .user_status(sdk::UserStatusType::ExternalProvider)
            .attributes(attribute("sub", "0b0e1f5c"))
            .attributes(attribute("email", "ada@example.com"))
            .attributes(attribute("custom:shoe_size", "38"))
            .attributes(attribute("email_verified", "true"))
            .attributes(attribute("phone_number", "+15550100"))
            .attributes(attribute("preferred_username", ""))
            .build();
        let nameless = sdk::UserType::builder().build();
        let page = user_page(Some(vec![nameless, user]), Some(String::new()));
        let expected = ListedUser {
            username: "ada".into(),
            sub: Some("0b0e1f5c".into()),
            email: Some(Address { value: "ada@example.com".into(), is_verified: true }),
            phone_number: Some(Address { value: "+15550100".into(), is_verified: false }),
            preferred_username: None,
            created: None,
            enabled: true,
            federated: true,
        };
        assert!(page.users == [expected] && page.next.is_none());
    }

    #[test]
    fn a_pool_says_which_attributes_are_names_and_is_case_sensitive_unless_it_says_otherwise() {
        let pool = sdk::UserPoolType::builder();
        let plain = SignInNames { email: false, phone_number: false, preferred_username: false, case_sensitive: true };
        assert_eq!(sign_in_names(&pool.clone().build()), plain);
        let by_email = pool.clone().username_attributes(sdk::UsernameAttributeType::Email);
        assert_eq!(sign_in_names(&by_email.build()), SignInNames { email: true, ..plain });
        let insensitive = sdk::UsernameConfigurationType::builder().case_sensitive(false).build().unwrap();
        let by_aliases = pool
            .alias_attributes(sdk::AliasAttributeType::PhoneNumber)
            .alias_attributes(sdk::AliasAttributeType::PreferredUsername)
            .alias_attributes("a new one".into())
            .username_configuration(insensitive);
        let expected =
            SignInNames { email: false, phone_number: true, preferred_username: true, case_sensitive: false };
        assert_eq!(sign_in_names(&by_aliases.build()), expected);
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
