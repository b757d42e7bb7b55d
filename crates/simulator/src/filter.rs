//! The `Filter` of ListUsers: one attribute, `=` or `^=`, one quoted value.
//!
//! <https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/API_ListUsers.html>

use super::world::PoolUser;

/// The attributes that a filter can name. Custom attributes are not searchable.
const SEARCHABLE: [&str; 10] = [
    "username",
    "email",
    "phone_number",
    "name",
    "given_name",
    "family_name",
    "preferred_username",
    "cognito:user_status",
    "status",
    "sub",
];

/// A parsed filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Filter {
    attribute: &'static str,
    is_prefix: bool,
    value: String,
}

impl Filter {
    /// Parses a filter. None means that the service refuses it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let at = text.find(['=', '^'])?;
        let (attribute, rest) = text.split_at(at);
        let attribute = SEARCHABLE.into_iter().find(|known| *known == attribute.trim())?;
        let (is_prefix, rest) = match rest.strip_prefix("^=") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix('=')?),
        };
        let quoted = rest.trim().strip_prefix('"')?.strip_suffix('"')?;
        let mut value = String::with_capacity(quoted.len());
        let mut chars = quoted.chars();
        while let Some(char) = chars.next() {
            match char {
                '\\' => value.push(chars.next()?),
                '"' => return None,
                plain => value.push(plain),
            }
        }
        Some(Self { attribute, is_prefix, value })
    }

    /// Whether the filter selects this user.
    pub(super) fn selects(&self, user: &PoolUser) -> bool {
        let fits = |text: &str| match self.is_prefix {
            true => text.starts_with(&self.value),
            false => text == self.value,
        };
        match self.attribute {
            "username" => fits(&user.username),
            "sub" => fits(&user.sub),
            "status" => fits(if user.enabled { "Enabled" } else { "Disabled" }),
            "cognito:user_status" => {
                let (status, value) = (user.status.to_lowercase(), self.value.to_lowercase());
                status == value || self.is_prefix && status.starts_with(&value)
            }
            attribute => user.attribute(attribute).is_some_and(fits),
        }
    }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::event::UnixMillis;

    use super::*;

    fn ada() -> PoolUser {
        let mut user = PoolUser::new("ada", "3b994cfd-0b07-4581-be46-3c82f9a70c90", UnixMillis(0));
        user.set_attribute("email", "ada@example.com");
        user.set_attribute("name", "Ada \"Countess\" Lovelace");
        user
    }

    #[test]
    fn a_filter_selects_by_equality_or_by_its_beginning() {
        for (filter, selected) in [
            (r#"username = "ada""#, true),
            (r#"username="ad""#, false),
            (r#"username ^= "ad""#, true),
            (r#"email ^= "ada@""#, true),
            (r#"name = "Ada \"Countess\" Lovelace""#, true),
            (r#"status = "Enabled""#, true),
            (r#"status = "Disabled""#, false),
            (r#"status = "enabled""#, false),
            (r#"cognito:user_status = "confirmed""#, true),
            (r#"phone_number ^= "+""#, false),
            (r#"sub = "3b994cfd-0b07-4581-be46-3c82f9a70c90""#, true),
        ] {
            assert_eq!(Filter::parse(filter).unwrap().selects(&ada()), selected, "{filter}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in [
            "username",
            r#"username = ada"#,
            r#"custom:team = "a""#,
            r#"username > "a""#,
            r#"username = "a" and status = "Enabled""#,
            r#"username ^ "a""#,
            r#"username = "a\"#,
            r#"username = ""#,
        ] {
            assert_eq!(Filter::parse(text), None, "{text}");
        }
    }
}
