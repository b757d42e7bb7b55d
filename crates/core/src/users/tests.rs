//! Property tests: one user of a pool writes any text into its attributes, and all other users are followed as before.
//!
//! The model is a pool as AWS has it: usernames and `sub`s are unique, and a user proves only the addresses that are
//! its own.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::listing_pass::ListingPass;
use super::names::NamingRules;
use super::selection::{Selection, SelectionRules};
use crate::listing::{Address, ListedUser, SignInNames, UserPage};
use crate::page::PageToken;

const USERS: usize = 5;

fn username(user: usize) -> String {
    format!("User-{user}")
}

fn sub(user: usize) -> String {
    format!("sub-{user}")
}

fn mailbox(user: usize) -> String {
    format!("user-{user}@example.com")
}

fn number(user: usize) -> String {
    format!("+1555010{user}")
}

/// Every name of the model; two of them belong to no user.
fn vocabulary() -> Vec<String> {
    let of_users = (0..USERS).flat_map(|user| {
        [username(user), username(user).to_lowercase(), sub(user), mailbox(user), number(user), format!("nick-{user}")]
    });
    of_users.chain(["ghost".into(), "ghost@example.com".into()]).collect()
}

/// A user's attributes, and its state that administrators set.
#[derive(Clone, Debug)]
struct ModelUser {
    email: Option<String>,
    phone_number: Option<String>,
    preferred_username: Option<String>,
    enabled: bool,
    federated: bool,
    in_group: bool,
}

#[derive(Clone, Debug)]
struct ModelPool {
    people: Vec<ModelUser>,
    accepted: SignInNames,
}

#[derive(Clone, Debug)]
struct Configured {
    rules_are_known: bool,
    all_users: bool,
    by_hand: BTreeSet<String>,
    exclude: BTreeSet<String>,
    /// The order of the listing, and how many users a page has.
    order: Vec<usize>,
    page: usize,
}

/// The result of a pass.
#[derive(Debug)]
struct PassResult {
    usernames: BTreeSet<usize>,
    as_given: BTreeSet<String>,
    /// Names under which a user was followed, and the user that takes each one's cursor over.
    aliases: BTreeMap<String, usize>,
    owners: BTreeMap<String, String>,
}

impl ModelPool {
    fn listed(&self, user: usize) -> ListedUser {
        let person = &self.people[user];
        let address = |value: &Option<String>, own: String| {
            value.clone().map(|value| Address { is_verified: value == own, value })
        };
        ListedUser {
            username: username(user),
            sub: Some(sub(user)),
            email: address(&person.email, mailbox(user)),
            phone_number: address(&person.phone_number, number(user)),
            preferred_username: person.preferred_username.clone(),
            created: None,
            enabled: person.enabled,
            federated: person.federated,
        }
    }

    /// Whether a name is this user's by what AWS vouches for, under the rules that are known.
    fn is_name_of(&self, name: &str, user: usize, rules: &NamingRules) -> bool {
        let is_same = |other: &str| rules.key(name) == rules.key(other);
        let person = &self.people[user];
        let proves = |is_accepted: bool, value: &Option<String>, own: String| {
            rules.are_known() && is_accepted && !person.federated && *value == Some(own.clone()) && is_same(&own)
        };
        is_same(&username(user))
            || is_same(&sub(user))
            || proves(self.accepted.email, &person.email, mailbox(user))
            || proves(self.accepted.phone_number, &person.phone_number, number(user))
    }

    fn pass(&self, configured: &Configured) -> PassResult {
        let rules = SelectionRules {
            all_users: configured.all_users,
            groups: if configured.all_users { vec![] } else { vec!["staff".into()] },
            exclude: configured.exclude.iter().cloned().collect(),
            ..SelectionRules::default()
        };
        let selection = Selection::of(&rules);
        let mut pass = ListingPass::begin(&selection, self.rules(configured), configured.by_hand.iter().cloned());
        let listed = configured.order.iter().filter(|user| configured.all_users || self.people[**user].in_group);
        let listed: Vec<_> = listed.copied().collect();
        let mut aliases = BTreeMap::new();
        let pages = listed.chunks(configured.page).map(|users| users.iter().map(|user| self.listed(*user)).collect());
        let mut pages: Vec<Vec<_>> = pages.collect();
        let last = pages.pop().unwrap_or_default();
        let number_of = |name: &str| (0..USERS).find(|user| username(*user) == name).unwrap();
        let tokens = (0..pages.len()).map(|page| Some(PageToken(page.to_string())));
        for (users, next) in pages.into_iter().zip(tokens).chain([(last, None)]) {
            for wanted in pass.take(0, UserPage { users, next }).wanted {
                aliases.extend(wanted.aliases.iter().map(|alias| (alias.clone(), number_of(&wanted.username))));
            }
        }
        let complete = pass.complete(|_| false).unwrap();
        PassResult {
            usernames: listed.into_iter().filter(|user| complete.wants(&username(*user))).collect(),
            as_given: complete.as_given().iter().map(|user| user.username.clone()).collect(),
            aliases,
            owners: complete.into_owners().into_iter().collect(),
        }
    }

    fn rules(&self, configured: &Configured) -> NamingRules {
        NamingRules::new(configured.rules_are_known.then_some(self.accepted))
    }
}

impl PassResult {
    /// Whether a user is followed under a name that AWS vouches for.
    fn follows(&self, user: usize, pool: &ModelPool, rules: &NamingRules) -> bool {
        self.usernames.contains(&user) || self.as_given.iter().any(|name| pool.is_name_of(name, user, rules))
    }
}

fn name() -> impl Strategy<Value = String> {
    any::<Index>().prop_map(|index| index.get(&vocabulary()).clone())
}

fn honest(user: usize) -> impl Strategy<Value = ModelUser> {
    (any::<[bool; 3]>(), prop::bool::weighted(0.8), prop::bool::weighted(0.2), any::<bool>()).prop_map(
        move |([email, phone, nick], enabled, federated, in_group)| ModelUser {
            email: email.then(|| mailbox(user)),
            phone_number: phone.then(|| number(user)),
            preferred_username: nick.then(|| format!("nick-{user}")),
            enabled,
            federated,
            in_group,
        },
    )
}

fn pools() -> impl Strategy<Value = ModelPool> {
    let accepted = any::<[bool; 4]>().prop_map(|[email, phone_number, preferred_username, case_sensitive]| {
        SignInNames { email, phone_number, preferred_username, case_sensitive }
    });
    ((0..USERS).map(honest).collect::<Vec<_>>(), accepted).prop_map(|(people, accepted)| ModelPool { people, accepted })
}

fn configurations() -> impl Strategy<Value = Configured> {
    (
        (prop::bool::weighted(0.8), any::<bool>()),
        prop::collection::btree_set(name(), 0..6),
        prop::collection::btree_set(name(), 0..3),
        Just((0..USERS).collect::<Vec<_>>()).prop_shuffle(),
        1..=USERS,
    )
        .prop_map(|((rules_are_known, all_users), by_hand, exclude, order, page)| Configured {
            rules_are_known,
            all_users,
            by_hand,
            exclude,
            order,
            page,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// No other user is missed, doubled, or followed with another's cursor. No user leaves by what it writes itself.
    #[test]
    fn whatever_a_user_writes_everybody_else_is_followed_as_before(
        pool in pools(),
        configured in configurations(),
        rogue in 0..USERS,
        written in prop::array::uniform3(prop::option::weighted(0.8, name())),
    ) {
        let mut attacked = pool.clone();
        let [email, phone_number, preferred_username] = written;
        attacked.people[rogue] = ModelUser { email, phone_number, preferred_username, ..pool.people[rogue].clone() };
        let rules = pool.rules(&configured);
        let (before, after) = (pool.pass(&configured), attacked.pass(&configured));

        for user in (0..USERS).filter(|user| *user != rogue) {
            let follows = before.follows(user, &pool, &rules);
            prop_assert_eq!(follows, after.follows(user, &attacked, &rules), "user {}", user);
            prop_assert_eq!(before.usernames.contains(&user), after.usernames.contains(&user), "user {}", user);
            // Under one name only.
            if after.usernames.contains(&user) {
                for name in &after.as_given {
                    prop_assert!(!attacked.is_name_of(name, user, &rules), "{} is user {}", name, user);
                }
            }
        }
        // The cursor of a name goes over to its user, as before.
        for (name, user) in &after.aliases {
            prop_assert!(attacked.is_name_of(name, *user, &rules), "{} is not user {}", name, user);
            prop_assert!(*user == rogue || before.aliases.get(name) == Some(user));
        }
        for (name, owner) in before.owners.iter().filter(|(_, owner)| **owner != username(rogue)) {
            prop_assert_eq!(after.owners.get(name), Some(owner));
        }
        // A name that is given up belongs to no other user.
        for name in before.as_given.difference(&after.as_given) {
            for user in (0..USERS).filter(|user| *user != rogue) {
                prop_assert!(!attacked.is_name_of(name, user, &rules), "{} is user {}", name, user);
            }
        }
        // Every user is followed that is selected by username, sub or listing, and not excluded by a name that AWS
        // vouches for.
        for user in 0..USERS {
            let person = &attacked.people[user];
            let is_excluded = configured.exclude.iter().any(|name| attacked.is_name_of(name, user, &rules));
            let is_named = configured.by_hand.iter().any(|name| [username(user), sub(user)].contains(name));
            let is_listed = configured.all_users || person.in_group;
            if !is_excluded && (is_named || is_listed && person.enabled && !person.federated) {
                prop_assert!(after.follows(user, &attacked, &rules), "user {}", user);
            }
            if [username(user), sub(user)].iter().any(|name| configured.exclude.contains(name)) {
                prop_assert!(!after.usernames.contains(&user), "user {}", user);
            }
        }
    }
}
