//! The names of a user: how they are compared, and how far AWS vouches for each.
//!
//! Pure. Only AWS identifies a user. Users write their own attributes, so an attribute may add a user to the followed
//! users. Only a name that AWS vouches for may remove one:
//!
//! | name in the listing | claim | follows its user by hand | excludes its user | replaces a name followed as given |
//! |---|---|---|---|---|
//! | username (as the pool compares names), `sub` | own | yes | yes | yes |
//! | verified email or telephone number, accepted for sign-in | proven | yes | unless another user claims it too | yes |
//! | preferred_username, accepted for sign-in; such an address of a federated user | stated | yes | no | after a listing of everybody |
//! | any of these while the pool's sign-in names are unknown | possible | no | no | after a listing of everybody |
//! | everything else | none | no | no | no |
//!
//! A federated user signs in elsewhere, and its provider says what is verified. No pool prevents a user from choosing
//! another user's username as preferred_username.

use std::borrow::Cow;

use crate::listing::{Address, ListedUser, SignInNames};

/// How far AWS vouches for a name of a user; the weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Claim {
    /// It may be a name of the user; the pool's sign-in names are unknown.
    Possible,
    /// The user states it in an attribute that the pool accepts.
    Stated,
    /// AWS has verified it, and gives it to one user at a time.
    Proven,
    /// It is the username or `sub`.
    Own,
}

/// The names that a pool accepts for its users.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NamingRules(Option<SignInNames>);

impl NamingRules {
    /// The rules of a pool. If its sign-in names are unknown, only usernames and `sub`s count, as written.
    pub fn new(accepted: Option<SignInNames>) -> Self {
        Self(accepted)
    }

    /// Whether the pool's sign-in names are known.
    pub fn are_known(&self) -> bool {
        self.0.is_some()
    }

    /// A name as the pool compares it. Two names with the same key are one name.
    pub fn key<'a>(&self, name: &'a str) -> Cow<'a, str> {
        match self.0 {
            // Most names are in lower case already.
            Some(SignInNames { case_sensitive: false, .. }) if name.chars().any(|char| !is_lower(char)) => {
                name.to_lowercase().into()
            }
            _ => name.into(),
        }
    }

    /// The names of a user, the strongest claims first.
    pub fn claims<'a>(&self, user: &'a ListedUser) -> impl Iterator<Item = (&'a str, Claim)> + use<'a> {
        let rules = self.0;
        let own = [Some(user.username.as_str()), user.sub.as_deref()];
        let address = |address: &'a Option<Address>, is_accepted: fn(&SignInNames) -> bool| {
            let address = address.as_ref()?;
            let claim = match &rules {
                None => Claim::Possible,
                Some(rules) if !address.is_verified || !is_accepted(rules) => return None,
                Some(_) if user.federated => Claim::Stated,
                Some(_) => Claim::Proven,
            };
            Some((address.value.as_str(), claim))
        };
        let chosen = user.preferred_username.as_deref().and_then(|name| match &rules {
            None => Some((name, Claim::Possible)),
            Some(rules) => rules.preferred_username.then_some((name, Claim::Stated)),
        });
        let others = [
            address(&user.email, |rules| rules.email),
            address(&user.phone_number, |rules| rules.phone_number),
            chosen,
        ];
        own.into_iter().flatten().map(|name| (name, Claim::Own)).chain(others.into_iter().flatten())
    }
}

fn is_lower(char: char) -> bool {
    char.is_ascii() && !char.is_ascii_uppercase()
}

/// For people: `usernames and subs, verified email addresses; case does not matter`.
impl std::fmt::Display for NamingRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("usernames and subs")?;
        let Some(rules) = self.0 else { return f.write_str(" only, as written") };
        let accepted = [
            (rules.email, "verified email addresses"),
            (rules.phone_number, "verified telephone numbers"),
            (rules.preferred_username, "preferred_username"),
        ];
        accepted.iter().filter(|(is_accepted, _)| *is_accepted).try_for_each(|(_, what)| write!(f, ", {what}"))?;
        f.write_str(if rules.case_sensitive { "; case matters" } else { "; case does not matter" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: SignInNames =
        SignInNames { email: true, phone_number: true, preferred_username: true, case_sensitive: true };

    fn ann() -> ListedUser {
        let address = |value: &str, is_verified| Some(Address { value: value.into(), is_verified });
        ListedUser {
            username: "ann".into(),
            sub: Some("sub-of-ann".into()),
            email: address("ann@example.com", true),
            phone_number: address("+15550100", false),
            preferred_username: Some("annie".into()),
            created: None,
            enabled: true,
            federated: false,
        }
    }

    fn claims(rules: Option<SignInNames>, user: &ListedUser) -> Vec<(&str, Claim)> {
        NamingRules::new(rules).claims(user).collect()
    }

    #[test]
    fn an_attribute_names_a_user_only_where_the_pool_accepts_it_and_an_address_only_if_verified() {
        let ann = ann();
        let own = [("ann", Claim::Own), ("sub-of-ann", Claim::Own)];
        let with = |more: &[(&'static str, Claim)]| [own.as_slice(), more].concat();
        let proven = ("ann@example.com", Claim::Proven);
        assert_eq!(claims(Some(EVERYTHING), &ann), with(&[proven, ("annie", Claim::Stated)]));
        let without_email = SignInNames { email: false, ..EVERYTHING };
        assert_eq!(claims(Some(without_email), &ann), with(&[("annie", Claim::Stated)]));
        let without_choice = SignInNames { preferred_username: false, ..EVERYTHING };
        assert_eq!(claims(Some(without_choice), &ann), with(&[proven]));
        let federated = ListedUser { federated: true, ..ann.clone() };
        assert_eq!(claims(Some(without_choice), &federated), with(&[("ann@example.com", Claim::Stated)]));
        let possible = ["ann@example.com", "+15550100", "annie"].map(|name| (name, Claim::Possible));
        assert_eq!(claims(None, &ann), with(&possible));
    }

    #[test]
    fn case_matters_unless_the_pool_is_known_to_ignore_it() {
        let key = |case_sensitive, name| {
            NamingRules::new(Some(SignInNames { case_sensitive, ..EVERYTHING })).key(name).into_owned()
        };
        assert_eq!((key(true, "Ann"), key(false, "Ann")), ("Ann".into(), "ann".into()));
        assert_eq!((key(false, "ann"), key(false, "ZOË")), ("ann".into(), "zoë".into()));
        assert_eq!(NamingRules::default().key("Ann"), "Ann");
        let ignores_case = NamingRules::new(Some(SignInNames { case_sensitive: false, ..EVERYTHING }));
        assert!(matches!(ignores_case.key("ann-1@example.com"), Cow::Borrowed(_)), "most names need no copy");
    }

    #[test]
    fn a_pools_rules_are_known_when_it_was_described() {
        assert!(NamingRules::new(Some(EVERYTHING)).are_known() && !NamingRules::new(None).are_known());
    }

    #[test]
    fn people_are_told_what_names_users() {
        assert_eq!(NamingRules::default().to_string(), "usernames and subs only, as written");
        let rules = SignInNames { phone_number: false, case_sensitive: false, ..EVERYTHING };
        assert_eq!(
            NamingRules::new(Some(rules)).to_string(),
            "usernames and subs, verified email addresses, preferred_username; case does not matter"
        );
    }
}
