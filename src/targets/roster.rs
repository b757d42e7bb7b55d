//! Who is wanted of a pool, and what that changes.
//!
//! Pure. Names listed by hand may be aliases (an email address, a `sub`) of users whom a listing names too: a user met under
//! two names is followed once, under the `Username` that Cognito gave.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::config::{FirstRun, PoolConfig};
use crate::cursor::Cursor;
use crate::event::UnixMillis;
use crate::source::{ListedUser, Listing};

/// What is known of a wanted user.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted<'a> {
    /// `sub`, where a listing gave it.
    pub sub: Option<&'a str>,
    /// `UserCreateDate`, where a listing gave it.
    pub created: Option<UnixMillis>,
}

/// The listings that a pool's configuration asks for; none if its users are all named by hand.
pub fn listings(pool: &PoolConfig) -> Vec<Listing> {
    let users = (pool.all_users || pool.filter.is_some()).then(|| Listing::Users { filter: pool.filter.clone() });
    users.into_iter().chain(pool.groups.iter().cloned().map(Listing::Group)).collect()
}

/// Works out who is wanted, by username. `listed` may name a user several times; the first counts.
pub fn wanted<'a>(
    pool: &PoolConfig,
    by_hand: impl IntoIterator<Item = &'a str>,
    listed: impl Iterator<Item = &'a ListedUser> + Clone,
) -> BTreeMap<&'a str, Wanted<'a>> {
    let excluded: HashSet<&str> = pool.exclude.iter().map(String::as_str).collect();
    let mut username_of = HashMap::new();
    for user in listed.clone() {
        for name in names(user) {
            username_of.entry(name).or_insert(user);
        }
    }
    let mut wanted = BTreeMap::new();
    let selected =
        listed.filter(|user| (user.enabled || pool.include_disabled) && (!user.federated || pool.include_federated));
    let named = by_hand.into_iter().map(|name| (name, username_of.get(name).copied()));
    for (name, user) in selected.map(|user| (user.username.as_str(), Some(user))).chain(named) {
        let is_excluded =
            excluded.contains(name) || user.is_some_and(|user| names(user).any(|name| excluded.contains(name)));
        if !is_excluded {
            let known = user.map(|user| Wanted { sub: user.sub.as_deref(), created: user.created });
            wanted.entry(user.map_or(name, |user| user.username.as_str())).or_insert(known.unwrap_or_default());
        }
    }
    wanted
}

/// Characters of a username at most (API reference).
const USERNAME_CHARS_MAX: usize = 128;

/// The usernames in a file's text, one a line, with or without a byte order mark before them; empty lines and lines that
/// begin with `#` are left out, and so is what nobody can be called.
pub fn names_in(text: &str) -> Vec<String> {
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let is_name =
        |line: &&str| !line.is_empty() && !line.starts_with('#') && line.chars().count() <= USERNAME_CHARS_MAX;
    lines.filter(is_name).map(str::to_owned).collect()
}

/// Every name that a user may be called by.
fn names(user: &ListedUser) -> impl Iterator<Item = &str> {
    [user.username.as_str()].into_iter().chain(user.sub.as_deref()).chain(user.aliases.iter().map(String::as_str))
}

/// When a pool's users are live, and how far back their history goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joining {
    /// When the pool was first followed.
    pub pool_followed_since: UnixMillis,
    /// Present while the users of a lost ledger come back: when it was last written.
    pub lost_since: Option<UnixMillis>,
    /// `pools[].followed_since`.
    pub configured_since: Option<UnixMillis>,
    /// `poll.first_run`.
    pub first_run: FirstRun,
}

impl Joining {
    /// The cursor of a user who joins the roster at `now`.
    ///
    /// History is what happened before the user was first on the roster, not before the first poll, which may be hours
    /// later. A user who was created after the pool was first followed has none: all its events are live. While the users of
    /// a lost ledger come back, everybody is taken for one of them.
    pub fn cursor(&self, created: Option<UnixMillis>, now: UnixMillis) -> Cursor {
        if created.is_some_and(|created| created >= self.pool_followed_since) {
            return Cursor::new(UnixMillis::MIN, UnixMillis::MIN);
        }
        let earlier = self.lost_since.into_iter().chain(self.configured_since);
        let live_since = earlier.fold(now, UnixMillis::min);
        let history_from = match self.first_run {
            FirstRun::None => live_since,
            FirstRun::Last(duration) => live_since.minus(duration),
            FirstRun::All => UnixMillis::MIN,
        };
        Cursor::new(live_since, history_from)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn user(username: &str) -> ListedUser {
        ListedUser {
            username: username.into(),
            sub: Some(format!("sub-of-{username}")),
            aliases: vec![format!("{username}@example.com")],
            created: Some(UnixMillis(1000)),
            enabled: true,
            federated: false,
        }
    }

    fn pool() -> PoolConfig {
        PoolConfig {
            id: "eu-west-1_Test".into(),
            name: "test".into(),
            region: "eu-west-1".into(),
            profile: None,
            role_arn: None,
            external_id: None,
            usernames: vec![],
            usernames_file: None,
            groups: vec![],
            all_users: true,
            filter: None,
            exclude: vec![],
            include_disabled: false,
            include_federated: false,
            followed_since: None,
        }
    }

    fn names_of(wanted: &BTreeMap<&str, Wanted<'_>>) -> Vec<String> {
        wanted.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn a_user_met_under_two_names_is_followed_once_under_the_username() {
        let listed = [user("ann"), user("ben")];
        let wanted = wanted(&pool(), ["ann@example.com", "sub-of-ben", "ben", "zoë"], listed.iter());
        assert_eq!(names_of(&wanted), ["ann", "ben", "zoë"]);
        assert_eq!(wanted["ann"].sub, Some("sub-of-ann"));
        assert_eq!(wanted["zoë"], Wanted::default());
    }

    #[test]
    fn who_is_excluded_is_left_out_under_every_name() {
        let listed = [user("ann"), user("ben"), user("cat")];
        let mut pool = pool();
        pool.exclude = vec!["ann@example.com".into(), "sub-of-ben".into(), "dan".into()];
        assert_eq!(names_of(&wanted(&pool, ["ann", "dan"], listed.iter())), ["cat"]);
    }

    #[test]
    fn disabled_and_federated_users_are_left_out_unless_wanted_or_named() {
        let listed = [
            ListedUser { enabled: false, ..user("disabled") },
            ListedUser { federated: true, ..user("federated") },
            ListedUser { enabled: false, ..user("named") },
        ];
        let mut pool = pool();
        assert_eq!(names_of(&wanted(&pool, ["named"], listed.iter())), ["named"]);
        (pool.include_disabled, pool.include_federated) = (true, true);
        assert_eq!(names_of(&wanted(&pool, [], listed.iter())), ["disabled", "federated", "named"]);
    }

    #[test]
    fn a_listing_is_asked_for_only_where_the_configuration_wants_one() {
        let mut pool = pool();
        pool.all_users = false;
        assert_eq!(listings(&pool), []);
        pool.groups = vec!["staff".into()];
        pool.filter = Some("email ^= \"a\"".into());
        assert_eq!(listings(&pool), [Listing::Users { filter: pool.filter.clone() }, Listing::Group("staff".into())]);
    }

    #[test]
    fn a_newcomers_history_is_what_happened_before_it_joined() {
        let now = UnixMillis(10_000_000);
        let joining = |first_run, configured_since| Joining {
            pool_followed_since: UnixMillis(5_000_000),
            lost_since: None,
            configured_since,
            first_run,
        };
        let hour = Duration::from_hours(1);
        let old = Some(UnixMillis(1000));
        assert_eq!(joining(FirstRun::None, None).cursor(old, now), Cursor::new(now, now));
        assert_eq!(joining(FirstRun::Last(hour), None).cursor(old, now), Cursor::new(now, now.minus(hour)));
        assert_eq!(joining(FirstRun::All, None).cursor(None, now), Cursor::new(now, UnixMillis::MIN));
        let since = UnixMillis(7_000_000);
        assert_eq!(joining(FirstRun::None, Some(since)).cursor(old, now), Cursor::new(since, since));
        let newborn = joining(FirstRun::None, None).cursor(Some(UnixMillis(5_000_000)), now);
        assert_eq!(newborn, Cursor::new(UnixMillis::MIN, UnixMillis::MIN), "all its events are live");
    }

    #[test]
    fn after_a_loss_what_happened_since_then_is_live_for_everybody_who_comes_back() {
        let lost = UnixMillis(5_000_000);
        let joining = |configured_since| Joining {
            pool_followed_since: lost,
            lost_since: Some(lost),
            configured_since,
            first_run: FirstRun::Last(Duration::from_secs(1)),
        };
        let (old, now) = (Some(UnixMillis(1000)), UnixMillis(10_000_000));
        assert_eq!(joining(None).cursor(old, now), Cursor::new(lost, UnixMillis(4_999_000)));
        assert_eq!(joining(None).cursor(None, now).live_since(), lost, "a name of whom no listing tells");
        assert_eq!(joining(None).cursor(Some(UnixMillis(5_000_001)), now).live_since(), UnixMillis::MIN);
        let earlier = UnixMillis(3_000_000);
        assert_eq!(joining(Some(earlier)).cursor(old, now).live_since(), earlier);
        assert_eq!(joining(Some(UnixMillis(7_000_000))).cursor(old, now).live_since(), lost);
        let before = UnixMillis(4_000_000);
        assert_eq!(joining(None).cursor(old, before).live_since(), before, "a clock that went back");
    }

    #[test]
    fn a_file_of_names_is_read_as_people_write_it() {
        let text = "\u{feff}ann\r\n# nobody\n\n  ben@example.com  \n\tzoë\r\n#\nlast";
        assert_eq!(names_in(text), ["ann", "ben@example.com", "zoë", "last"]);
        let (longest, too_long) = ("é".repeat(USERNAME_CHARS_MAX), "é".repeat(USERNAME_CHARS_MAX + 1));
        assert_eq!(names_in(&format!("{too_long}\n{longest}")), [longest]);
    }

    proptest! {
        #[test]
        fn whatever_a_file_holds_names_are_names_and_a_file_of_them_is_read_back(
            text in prop_oneof!["(?s).{0,300}", "([a-z#@ \t\r\n\u{feff}\u{85}]|\\PC){0,300}", any::<String>()],
        ) {
            let names = names_in(&text);
            for name in &names {
                prop_assert!((1..=USERNAME_CHARS_MAX).contains(&name.chars().count()));
                prop_assert!(name.trim() == name && !name.starts_with('#') && !name.contains('\n'));
            }
            // A name may begin with a mark that only the first line of a file loses.
            prop_assert_eq!(names_in(&format!("\n{}", names.join("\n"))), names);
        }
    }
}
