//! The query of `/status` that names a user: `user_pool_id` and `username`.

use std::borrow::Cow;

/// Bounds of the API (AdminListUserAuthEvents), in characters.
const POOL_ID_CHARS_MAX: usize = 55;
const USERNAME_CHARS_MAX: usize = 128;

const POOL: &str = "user_pool_id";
const USER: &str = "username";

/// A user that a request asks for.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct UserQuery {
    pub(super) user_pool_id: String,
    pub(super) username: String,
}

/// Shows no username.
impl std::fmt::Debug for UserQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserQuery").field(POOL, &self.user_pool_id).finish_non_exhaustive()
    }
}

/// A mistake in such a query. Repeats nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum QueryMistake {
    #[error("the query names no {0}; accepted: user_pool_id=ID&username=NAME, each once")]
    Missing(&'static str),
    #[error("the query names {0} twice; accepted: user_pool_id=ID&username=NAME, each once")]
    Twice(&'static str),
    #[error("{0} is longer than Cognito's are; accepted: 1 to {1} characters")]
    TooLong(&'static str, usize),
}

impl UserQuery {
    /// Returns whether a query asks for a user.
    pub(super) fn is_in(query: Option<&str>) -> bool {
        pairs(query).any(|(key, _)| key == POOL || key == USER)
    }

    /// Reads the query. Other keys are ignored.
    ///
    /// # Errors
    /// One of the two is not there, is there twice, is empty or too long.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, QueryMistake> {
        let one = |wanted: &'static str, chars_max: usize| {
            let mut values = pairs(query).filter(|(key, value)| key == wanted && !value.is_empty());
            let (_, value) = values.next().ok_or(QueryMistake::Missing(wanted))?;
            match values.next() {
                Some(_) => Err(QueryMistake::Twice(wanted)),
                None if value.chars().count() > chars_max => Err(QueryMistake::TooLong(wanted, chars_max)),
                None => Ok(value.into_owned()),
            }
        };
        Ok(Self { user_pool_id: one(POOL, POOL_ID_CHARS_MAX)?, username: one(USER, USERNAME_CHARS_MAX)? })
    }
}

fn pairs(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_by_both_parts_once() {
        let parse = |query| UserQuery::parse(Some(query)).map(|user| (user.user_pool_id, user.username));
        let parts = |pool: &str, user: &str| Ok((pool.to_owned(), user.to_owned()));
        assert_eq!(parse("user_pool_id=eu-west-1_A&username=ann"), parts("eu-west-1_A", "ann"));
        assert_eq!(parse("username=zo%C3%AB%2Bx+y&x=1&user_pool_id=p"), parts("p", "zoë+x y"));
        assert_eq!(parse("username=ann"), Err(QueryMistake::Missing(POOL)));
        assert_eq!(parse("user_pool_id=p&username="), Err(QueryMistake::Missing(USER)));
        assert_eq!(parse("user_pool_id=p&username=a&username=b"), Err(QueryMistake::Twice(USER)));
        let long = format!("user_pool_id=p&username={}", "é".repeat(129));
        assert_eq!(parse(&long), Err(QueryMistake::TooLong(USER, USERNAME_CHARS_MAX)));
        assert!(parse(&long.replace("éé", "é")).is_ok());
        assert!(
            UserQuery::is_in(Some("username=")) && !UserQuery::is_in(Some("still&user=x")) && !UserQuery::is_in(None)
        );
    }
}
