//! Who is left out of a round by `exclude`, and who is not after all.
//!
//! Pure. An entry that is a user's username or `sub`, as written, leaves that user out. By any other name (a verified
//! address; a username in another case) an entry leaves its user out only while nobody else claims it: who was left out
//! before another claimant was met is given back. What a user merely states leaves nobody out.

use std::collections::HashMap;

use super::listing_pass::Wanted;
use super::names::{Claim, NamingRules};
use crate::source::ListedUser;

/// The entries of `exclude` and who was met under each.
#[derive(Debug)]
pub(super) struct Exclusions {
    rules: NamingRules,
    /// By the entry as the pool compares it.
    entries: HashMap<String, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Its places in `exclude`, counted from 1.
    positions: Vec<usize>,
    /// How it is written.
    spellings: Vec<String>,
    /// The username of whom it names.
    owner: Option<String>,
    /// Whether a second user claims it, or states it.
    is_contested: bool,
    is_stated: bool,
    /// The owner, if it is left out by this entry and wanted otherwise.
    held: Option<Wanted>,
}

impl Exclusions {
    pub(super) fn new(entries: &[String], rules: NamingRules) -> Self {
        let mut by_key = HashMap::<_, Entry>::with_capacity(entries.len());
        for (index, name) in entries.iter().enumerate() {
            let entry = by_key.entry(rules.key(name).into_owned()).or_default();
            entry.positions.push(index + 1);
            entry.spellings.push(name.clone());
        }
        Self { rules, entries: by_key }
    }

    /// Whether a name that no listing knows is left out.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(&*self.rules.key(name))
    }

    /// Judges a user who was met; `wanted` is what it is among the followed users unless it is left out. Answers who is to join: this
    /// one, and whoever was left out before by an entry that this one claims too.
    pub(super) fn pass(&mut self, user: &ListedUser, wanted: Option<Wanted>) -> Vec<Wanted> {
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

    /// Places in `exclude` of the entries that leave not everybody out who claims them.
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
    use crate::source::{Address, SignInNames};

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
        let passed = exclusions.pass(user, Some(Wanted::as_given(&user.username)));
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
        assert_eq!(exclusions.contested(), [3], "somebody states another's name");
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
    fn as_long_as_the_rules_are_unknown_only_usernames_and_subs_exclude_as_written() {
        let mut exclusions = exclusions(&["ann@example.com", "Ben", "sub-of-cat"], None);
        assert_eq!(passed(&mut exclusions, &user("ann", "ann@example.com")), ["ann"]);
        assert_eq!(passed(&mut exclusions, &user("ben", "ben@example.com")), ["ben"]);
        assert_eq!(passed(&mut exclusions, &user("cat", "cat@example.com")), Vec::<String>::new());
    }
}
