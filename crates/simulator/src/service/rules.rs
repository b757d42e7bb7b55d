//! The service's rules for parameters, and the errors for invalid ones.
//!
//! <https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/API_AdminListUserAuthEvents.html>

use crate::fault::AwsError;

/// The largest page, and the default.
const PAGE_MAX: usize = 60;
const POOL_ID_CHARS_MAX: usize = 55;
const NAME_CHARS_MAX: usize = 128;
const TOKEN_CHARS_MAX: usize = 131_072;

fn constraint(member: &str, rule: &str) -> AwsError {
    AwsError::invalid(format!("1 validation error detected: Value at '{member}' failed to satisfy constraint: {rule}"))
}

/// The error for a token that was never issued or has expired.
pub(super) fn bad_token() -> AwsError {
    AwsError::invalid("Invalid pagination token")
}

/// Checks a required pool id.
pub(super) fn pool_id<'a>(member: &str, id: Option<&'a str>) -> Result<&'a str, AwsError> {
    text(member, id, POOL_ID_CHARS_MAX, is_pool_id)
}

/// Checks a required name of a user or group.
pub(super) fn name<'a>(member: &str, name: Option<&'a str>) -> Result<&'a str, AwsError> {
    text(member, name, NAME_CHARS_MAX, is_not_blank)
}

/// Checks a required text: its length and its form.
fn text<'a>(
    member: &str,
    value: Option<&'a str>,
    chars_max: usize,
    is_well_formed: impl Fn(&str) -> bool,
) -> Result<&'a str, AwsError> {
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

/// `\S+`. The documented patterns of usernames and group names are longer and have the same effect.
fn is_not_blank(text: &str) -> bool {
    !text.contains(char::is_whitespace)
}

/// Checks an optional token.
pub(super) fn token<'a>(member: &str, token: Option<&'a str>) -> Result<Option<&'a str>, AwsError> {
    token.map(|token| text(member, Some(token), TOKEN_CHARS_MAX, is_not_blank)).transpose()
}

/// Reads the token of a listing: the ordinal of the last user of the page before.
pub(super) fn listing_token(member: &str, token: Option<&str>) -> Result<Option<u64>, AwsError> {
    let Some(given) = self::token(member, token)? else {
        return Ok(None);
    };
    let last = given.strip_prefix("users-").and_then(|last| last.parse().ok());
    last.map(Some).ok_or_else(bad_token)
}

/// Checks the size of a page: 0 to 60. 0 and None mean 60.
pub(super) fn page_size(member: &str, asked: Option<i64>) -> Result<usize, AwsError> {
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
