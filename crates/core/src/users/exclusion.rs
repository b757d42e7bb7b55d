//! The users that `exclude` leaves out of a pass.
//!
//! Pure. An entry that is a user's username or `sub`, as written, leaves that user out. By any other name (a verified
//! address; a username in another case) an entry leaves its user out only while no other user claims it. When a second
//! user claims it, a user that was left out by it joins again. A name that a user only states leaves no user out.

use std::collections::HashMap;

use super::listing_pass::Wanted;
use super::names::{Claim, NamingRules};
use crate::listing::ListedUser;

/// The entries of `exclude`, with the users that were met under each.
#[derive(Debug)]
pub(super) struct Exclusions {
    rules: NamingRules,
    /// By the entry as the pool compares it.
    entries: HashMap<String, ExcludedName>,
}

#[derive(Debug, Default)]
struct ExcludedName {
    /// Its places in `exclude`, counted from 1.
    positions: Vec<usize>,
    /// Its spellings.
    spellings: Vec<String>,
    /// The username of the user that it names.
    owner: Option<String>,
    /// Whether a second user claims it.
    is_contested: bool,
    /// Whether another user states it.
    is_stated: bool,
    /// The owner, if this entry leaves it out and it is wanted otherwise.
    held: Option<Wanted>,
}

impl Exclusions {
    pub(super) fn new(entries: &[String], rules: NamingRules) -> Self {
        let mut by_key = HashMap::<_, ExcludedName>::with_capacity(entries.len());
        for (index, name) in entries.iter().enumerate() {
            let entry = by_key.entry(rules.key(name).into_owned()).or_default();
            entry.positions.push(index + 1);
            entry.spellings.push(name.clone());
        }
        Self { rules, entries: by_key }
    }

    /// Whether a name is left out that no listing gives.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(&*self.rules.key(name))
    }

    /// Judges a user that was met. `wanted` is how it joins unless it is left out. Answers the users that join: this
    /// user, and users that an entry left out before and that this user claims too.
    pub(super) fn apply(&mut self, user: &ListedUser, wanted: Option<Wanted>) -> Vec<Wanted> {
        if self.entries.is_empty() {
            return wanted.into_iter().collect();
        }
        let Self { rules, entries } = self;
        let mut claims: Vec<(&str, Claim)> = rules.claims(user).collect();
        claims.retain(|(name, _)| entries.contains_key(&*rules.key(name)));
        let is_named_exactly = claims.iter().any(|(name, claim)| {
            let entry = entries.get(&*rules.key(name));
            *claim == Claim::Own && entry.is_some_and(|entry| entry.spellings.iter().any(|spelling| spelling == name))
        });
        let mut is_left_out = is_named_exactly;
        let mut given_back = vec![];
        for (name, claim) in claims {
            let Some(entry) = entries.get_mut(&*rules.key(name)) else { continue };
            let is_owner = entry.owner.as_ref() == Some(&user.username);
            match claim {
                Claim::Possible => {}
                Claim::Stated => entry.is_stated |= !is_named_exactly && !is_owner,
                Claim::Proven | Claim::Own => {
                    if entry.owner.is_none() {
                        entry.owner = Some(user.username.clone());
                    } else if !is_owner {
                        entry.is_contested = true;
                        given_back.extend(entry.held.take());
                    }
                    if !is_named_exactly && !entry.is_contested {
                        is_left_out = true;
                        entry.held.clone_from(&wanted);
                    }
                }
            }
        }
        given_back.retain(|user| !self.is_held(&user.username));
        given_back.extend(wanted.filter(|_| !is_left_out));
        given_back
    }

    /// The places in `exclude` of entries that some user claims and that do not leave it out.
    pub(super) fn contested(&self) -> Vec<usize> {
        let contested = self.entries.values().filter(|entry| entry.is_contested || entry.is_stated);
        let mut positions: Vec<_> = contested.flat_map(|entry| entry.positions.iter().copied()).collect();
        positions.sort_unstable();
        positions
    }

    fn is_held(&self, username: &str) -> bool {
        self.entries.values().any(|entry| entry.held.as_ref().is_some_and(|held| held.username == username))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::{Address, SignInNames};

    const RULES: SignInNames =
        SignInNames { email: true, phone_number: true, preferred_username: true, case_sensitive: false };

    fn user(username: &str, email: &str) -> ListedUser {
        ListedUser {
            username: username.into(),
            sub: Some(format!("sub-of-{username}")),
            email: Some(Address { value: email.into(), is_verified: true }),
            phone_number: None,
            preferred_username: None,
            created: None,
            enabled: true,
            federated: false,
        }
    }

    fn exclusions(entries: &[&str], rules: Option<SignInNames>) -> Exclusions {
        let entries: Vec<_> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        Exclusions::new(&entries, NamingRules::new(rules))
    }

    fn passed(exclusions: &mut Exclusions, user: &ListedUser) -> Vec<String> {
        let passed = exclusions.apply(user, Some(Wanted::as_given(&user.username)));
        passed.into_iter().map(|user| user.username).collect()
    }

    #[test]
    fn who_is_excluded_is_left_out_under_every_name_that_aws_vouches_for() {
        let mut exclusions = exclusions(&["ANN@example.com", "sub-of-ben", "cat", "Dan", "eve"], Some(RULES));
        for name in ["ann", "ben", "cat", "dan"] {
            assert_eq!(passed(&mut exclusions, &user(name, &format!("{name}@example.com"))), Vec::<String>::new());
        }
        let eve = ListedUser { preferred_username: Some("cat".into()), ..user("fay", "fay@example.com") };
        assert_eq!(passed(&mut exclusions, &eve), ["fay"]);
        assert!(exclusions.has("EVE") && !exclusions.has("fay"));
        assert_eq!(exclusions.contested(), [3], "a user states another's name");
    }

    #[test]
    fn an_address_that_two_users_have_excludes_neither_whoever_is_met_first() {
        let mut exclusions = exclusions(&["shared@example.com", "own@example.com"], Some(RULES));
        let (ann, ben) = (user("ann", "shared@example.com"), user("ben", "shared@example.com"));
        assert_eq!(passed(&mut exclusions, &ann), Vec::<String>::new());
        assert_eq!(passed(&mut exclusions, &ben), ["ann", "ben"]);
        assert_eq!(
            (passed(&mut exclusions, &ann), passed(&mut exclusions, &ben)),
            (vec!["ann".into()], vec!["ben".into()])
        );
        assert_eq!(exclusions.contested(), [1]);
    }

    #[test]
    fn who_is_given_back_by_one_entry_stays_out_by_another() {
        let mut exclusions = exclusions(&["shared@example.com", "+15550100"], Some(RULES));
        let phone_number = Some(Address { value: "+15550100".into(), is_verified: true });
        let ann = ListedUser { phone_number, ..user("ann", "shared@example.com") };
        assert_eq!(passed(&mut exclusions, &ann), Vec::<String>::new());
        assert_eq!(passed(&mut exclusions, &user("ben", "shared@example.com")), ["ben"]);
        assert_eq!(passed(&mut exclusions, &ann), Vec::<String>::new());
    }

    #[test]
    fn an_entry_that_is_a_username_as_written_leaves_that_user_out_whoever_claims_it_too() {
        for (entry, first) in [("ann@example.com", vec![]), ("ANN@example.com", vec!["ann@example.com"])] {
            let mut exclusions = exclusions(&[entry], Some(RULES));
            let (ann, ben) = (user("ann@example.com", "other@example.com"), user("ben", "ann@example.com"));
            assert_eq!(passed(&mut exclusions, &ann), Vec::<String>::new());
            assert_eq!(passed(&mut exclusions, &ben), [first.clone(), vec!["ben"]].concat(), "{entry}");
            assert_eq!(passed(&mut exclusions, &ann), first, "{entry}");
        }
    }

    #[test]
    fn who_states_a_name_of_its_own_or_is_left_out_anyway_contests_no_entry() {
        let stating = |name: &str, user| ListedUser { preferred_username: Some(name.to_owned()), ..user };
        let mut exclusions = exclusions(&["ann@example.com", "ben", "cat"], Some(RULES));
        let ann = stating("ann@example.com", user("ann", "ann@example.com"));
        let ben = stating("cat", user("ben", "ben@example.com"));
        for user in [&ann, &ben] {
            assert_eq!(passed(&mut exclusions, user), Vec::<String>::new());
        }
        assert_eq!(exclusions.contested(), [0; 0]);
    }

    #[test]
    fn as_long_as_the_rules_are_unknown_only_usernames_and_subs_exclude_as_written() {
        let mut exclusions = exclusions(&["ann@example.com", "Ben", "sub-of-cat"], None);
        assert_eq!(passed(&mut exclusions, &user("ann", "ann@example.com")), ["ann"]);
        assert_eq!(passed(&mut exclusions, &user("ben", "ben@example.com")), ["ben"]);
        assert_eq!(passed(&mut exclusions, &user("cat", "cat@example.com")), Vec::<String>::new());
    }
}
