//! Converts what the service says of users and of the pool: attributes become a user, and an ARN becomes an account
//! id. Pure.

use aws_sdk_cognitoidentityprovider::types as sdk;

use cognito_auth_core::export::log_delivery::{DeliveryTarget, LogDelivery};
use cognito_auth_core::member::said;

use super::wire::millis;
use crate::source::{Address, ListedUser, PageToken, PoolDescription, SignInNames, UserPage};

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

/// Converts the log delivery of a pool to that of its `userAuthEvents`; None if these are not delivered.
pub(super) fn log_delivery(found: sdk::LogDeliveryConfigurationType) -> Option<LogDelivery> {
    let of_users = |delivery: &sdk::LogConfigurationType| delivery.event_source == sdk::EventSourceName::UserAuthEvents;
    let found = found.log_configurations.into_iter().find(of_users)?;
    let group = found.cloud_watch_logs_configuration.and_then(|logs| said(logs.log_group_arn));
    let stream = found.firehose_configuration.and_then(|firehose| said(firehose.stream_arn));
    let bucket = found.s3_configuration.and_then(|s3| said(s3.bucket_arn));
    let destination = group.map(DeliveryTarget::LogGroup).or(stream.map(DeliveryTarget::Firehose));
    let destination = destination.or(bucket.map(DeliveryTarget::Bucket));
    Some(LogDelivery { level: found.log_level.as_str().to_owned(), destination })
}

/// Returns the account in an ARN such as `arn:aws:cognito-idp:eu-west-1:123456789012:userpool/eu-west-1_Example`.
fn account_of(arn: &str) -> Option<String> {
    let account = arn.split(':').nth(4)?;
    (account.len() == 12 && account.bytes().all(|digit| digit.is_ascii_digit())).then(|| account.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn of_a_pools_log_deliveries_that_of_the_users_activity_counts() {
        let delivery = |source: sdk::EventSourceName, level: sdk::LogLevel, group: Option<&str>| {
            let logs = sdk::CloudWatchLogsConfigurationType::builder().set_log_group_arn(group.map(str::to_owned));
            let delivery = sdk::LogConfigurationType::builder().event_source(source).log_level(level);
            delivery.cloud_watch_logs_configuration(logs.build()).build().unwrap()
        };
        let of = |deliveries: Vec<sdk::LogConfigurationType>| {
            let found = sdk::LogDeliveryConfigurationType::builder().user_pool_id("eu-west-1_Example");
            log_delivery(found.set_log_configurations(Some(deliveries)).build().unwrap())
        };
        let messages = delivery(sdk::EventSourceName::UserNotification, sdk::LogLevel::Error, Some("messages"));
        assert_eq!(of(vec![]), None);
        assert_eq!(of(vec![messages.clone()]), None);
        let activity = delivery(sdk::EventSourceName::UserAuthEvents, sdk::LogLevel::Info, Some("activity"));
        let expected =
            LogDelivery { level: "INFO".into(), destination: Some(DeliveryTarget::LogGroup("activity".into())) };
        assert_eq!(of(vec![messages, activity]), Some(expected));
        let nowhere = delivery(sdk::EventSourceName::UserAuthEvents, sdk::LogLevel::Info, None);
        assert_eq!(of(vec![nowhere]).unwrap().destination, None);
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
