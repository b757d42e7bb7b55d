//! One pass over a pool's listings: it takes pages, answers which users are wanted, and at the end which are not.
//!
//! Pure. Two types for two phases: a [`ListingPass`] that is being read can only say which users are there. Only a
//! [`Complete`] pass, of which every listing came to its end, can say which are not. So a listing that breaks off never
//! removes a user.
//!
//! ```text
//!                       page: wanted users            every listing at its end
//!    ListingPass::begin -----> ListingPass ---------------------------------------> Complete: unwanted users
//!                                 |  ^ broke off: the same page again
//!                                 +--+ token refused or repeated: that listing from its top
//! ```
//!
//! A listing that begins again meets users twice, which does no harm. Users that were met stay met: a user that is
//! deleted meanwhile is found gone by the next pass.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, RandomState};
use std::mem;

use super::exclusion::Exclusions;
use super::names::{Claim, NamingRules};
use super::selection::Selection;
use crate::event::UnixMillis;
use crate::listing::{ListedUser, Listing, UserPage};
use crate::page::PageToken;
use crate::privacy::Privacy;

/// Pages of one listing in a row: sixty million users, while a pool can have 40 million. A longer listing goes in
/// circles.
const PAGES_MAX: u32 = 1_000_000;

/// A wanted user.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `Username`.
    pub username: String,
    /// `sub`, where a listing gave it.
    pub sub: Option<String>,
    /// `UserCreateDate`, where a listing gave it.
    pub created: Option<UnixMillis>,
    /// Names listed by hand that are other names of the user.
    pub aliases: Vec<String>,
}

impl Wanted {
    /// A user of which only the name is known.
    pub fn as_given(name: &str) -> Self {
        Self { username: name.to_owned(), sub: None, created: None, aliases: vec![] }
    }
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wanted(personal data)")
    }
}

/// The result of a listed page.
#[derive(Debug)]
pub struct ListedPage {
    /// The users that join because of this page.
    pub wanted: Vec<Wanted>,
    /// Whether the listing goes in circles; it begins again.
    pub token_repeated: bool,
}

/// Listed users of this shard that are not followed, by the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeftOut {
    /// Disabled users.
    pub disabled: u64,
    /// Users of another identity provider.
    pub federated: u64,
    /// Users that `exclude` names.
    pub excluded: u64,
}

/// How far a listing is read.
#[derive(Debug)]
enum ListingPosition {
    At { token: Option<PageToken>, pages: u32 },
    Ended,
}

impl ListingPosition {
    const TOP: Self = Self::At { token: None, pages: 0 };
}

/// A pass under way.
#[derive(Debug)]
pub struct ListingPass<'a> {
    selection: &'a Selection,
    rules: NamingRules,
    /// In the selection's order.
    positions: Vec<ListingPosition>,
    /// The users of each listing that are left out, in the same order.
    left_out: Vec<LeftOut>,
    /// The names listed by hand, as the pool compares them, with the listed users that were met under each.
    names: HashMap<String, NameByHand>,
    exclusions: Exclusions,
    marks: Marks,
}

/// A name listed by hand.
#[derive(Debug, Default)]
struct NameByHand {
    /// Its first place among the names listed by hand, counted from 1.
    position: usize,
    /// Its spellings; empty where the only one is as the pool compares it.
    spellings: Vec<String>,
    /// The username of the first user that was met and has this name.
    owner: Option<String>,
    /// The username of the first user that was met and only states this name.
    stated_by: Option<String>,
    /// Whether a second user has this name, too.
    is_shared: bool,
    /// Whether a second user claims it in any way.
    is_contested: bool,
    /// Whether it may belong to a listed and wanted user.
    is_possible: bool,
}

impl NameByHand {
    /// All its spellings.
    fn spellings<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let as_key = self.spellings.is_empty().then_some(key);
        as_key.into_iter().chain(self.spellings.iter().map(String::as_str))
    }

    /// The spelling under which it is followed as given.
    fn as_given<'a>(&'a self, key: &'a str) -> &'a str {
        self.spellings.first().map_or(key, String::as_str)
    }

    fn is_unmet(&self) -> bool {
        self.owner.is_none() && self.stated_by.is_none() && !self.is_possible
    }

    fn note_owner(&mut self, username: &str) {
        match &self.owner {
            None => {
                self.owner = Some(username.to_owned());
                self.is_contested |= self.stated_by.as_ref().is_some_and(|stated_by| stated_by != username);
            }
            Some(owner) => self.is_shared |= owner != username,
        }
    }

    fn note_stated(&mut self, username: &str) {
        let others = [&self.owner, &self.stated_by].into_iter().flatten();
        self.is_contested |= others.into_iter().any(|other| other != username);
        self.stated_by.get_or_insert_with(|| username.to_owned());
    }
}

/// The names listed by hand that a listed user has.
#[derive(Default)]
struct Naming {
    is_named: bool,
    /// Other names of the user.
    aliases: Vec<String>,
    /// Keys of names that may be the user's.
    possible: Vec<String>,
}

impl<'a> ListingPass<'a> {
    /// Begins a pass in which no user was met yet. `by_hand` are the names listed by hand.
    pub fn begin(selection: &'a Selection, rules: NamingRules, by_hand: impl IntoIterator<Item = String>) -> Self {
        let mut names = HashMap::<String, NameByHand>::new();
        for (index, name) in by_hand.into_iter().enumerate() {
            let named = names.entry(rules.key(&name).into_owned());
            let is_as_key = *named.key() == name;
            match named {
                Entry::Vacant(place) => {
                    let spellings = if is_as_key { vec![] } else { vec![name] };
                    place.insert(NameByHand { position: index + 1, spellings, ..NameByHand::default() });
                }
                Entry::Occupied(mut place) => {
                    let key = place.key().clone();
                    let named = place.get_mut();
                    if named.spellings(&key).all(|spelling| spelling != name) {
                        let as_key = named.spellings.is_empty().then_some(key);
                        named.spellings.extend(as_key.into_iter().chain([name]));
                    }
                }
            }
        }
        Self {
            selection,
            rules,
            positions: selection.listings().iter().map(|_| ListingPosition::TOP).collect(),
            left_out: vec![LeftOut::default(); selection.listings().len()],
            names,
            exclusions: Exclusions::new(selection.exclude(), rules),
            marks: Marks::default(),
        }
    }

    /// The number of listings.
    pub fn listings(&self) -> usize {
        self.positions.len()
    }

    /// The next page of a listing to read; None at its end.
    pub fn next(&self, listing: usize) -> Option<(&'a Listing, Option<&PageToken>)> {
        match self.positions.get(listing)? {
            ListingPosition::At { token, .. } => Some((self.selection.listings().get(listing)?, token.as_ref())),
            ListingPosition::Ended => None,
        }
    }

    /// Takes a listing's next page.
    pub fn take(&mut self, listing: usize, page: UserPage) -> ListedPage {
        let mut token_repeated = false;
        if let Some(position) = self.positions.get_mut(listing) {
            *position = match (mem::replace(position, ListingPosition::TOP), page.next) {
                (_, None) => ListingPosition::Ended,
                (ListingPosition::At { token, pages }, next) if next != token && pages < PAGES_MAX => {
                    ListingPosition::At { token: next, pages: pages + 1 }
                }
                _ => {
                    token_repeated = true;
                    ListingPosition::TOP
                }
            };
        }
        let mut wanted = vec![];
        for user in &page.users {
            let joining = self.meet(user);
            self.count_left_out(listing, user, &joining);
            wanted.extend(joining);
        }
        if token_repeated {
            self.from_the_top(listing);
        }
        ListedPage { wanted, token_repeated }
    }

    /// Counts a user that was met, if it is left out. `joining` are the users that join because of it.
    fn count_left_out(&mut self, listing: usize, user: &ListedUser, joining: &[Wanted]) {
        let Some(left_out) = self.left_out.get_mut(listing) else { return };
        let (own, given_back): (Vec<_>, Vec<_>) = joining.iter().partition(|joins| joins.username == user.username);
        left_out.excluded = left_out.excluded.saturating_sub(given_back.len() as u64);
        if own.is_empty() && self.selection.is_ours(&user.username) {
            let count = match (user.enabled, user.federated) {
                (false, _) => &mut left_out.disabled,
                (true, true) => &mut left_out.federated,
                (true, false) => &mut left_out.excluded,
            };
            *count += 1;
        }
    }

    /// Begins a listing again, because the token of its next page was refused.
    pub fn from_the_top(&mut self, listing: usize) {
        if let Some(position) = self.positions.get_mut(listing) {
            *position = ListingPosition::TOP;
        }
        if let Some(left_out) = self.left_out.get_mut(listing) {
            *left_out = LeftOut::default();
        }
    }

    /// The wanted names listed by hand under which no user was met so far.
    pub fn unmet(&self) -> impl Iterator<Item = Wanted> {
        let unmet = self.names.iter().filter(|(_, named)| named.is_unmet());
        unmet.filter_map(|(key, named)| self.as_given(key, named))
    }

    /// About how many users were met so far.
    pub fn met(&self) -> usize {
        self.marks.0.len()
    }

    /// Completes the pass if every listing came to its end. `was_listed` says whether a name that is not listed now is
    /// followed as the username of a user that was.
    ///
    /// # Errors
    /// A listing is not at its end; the pass comes back as it is.
    #[expect(clippy::result_large_err, reason = "the pass comes back, once for each time a listing broke off")]
    pub fn complete(mut self, was_listed: impl Fn(&str) -> bool) -> Result<Complete, Self> {
        if !self.positions.iter().all(|position| matches!(position, ListingPosition::Ended)) {
            return Err(self);
        }
        let everybody_is_listed = self.selection.lists_everybody();
        let (mut as_given, mut owners, mut contested) = (vec![], HashMap::new(), vec![]);
        for (key, named) in &self.names {
            let mut is_contested = named.is_contested || named.is_shared;
            match &named.owner {
                Some(owner) if !named.is_shared => {
                    owners.extend(named.spellings(key).map(|name| (name.to_owned(), owner.clone())));
                }
                Some(_) => {}
                // A listing of all users has no such username, so the name can mean no other user.
                None if !named.is_unmet() && everybody_is_listed && !was_listed(named.as_given(key)) => {}
                None => {
                    is_contested |= named.stated_by.is_some();
                    as_given.extend(self.as_given(key, named));
                }
            }
            if is_contested {
                contested.push(named.position);
            }
        }
        contested.sort_unstable();
        as_given.iter().for_each(|user| self.marks.add(&self.selection.privacy().ledger_name(&user.username)));
        self.marks.settle();
        let contested = Contested { by_hand: contested, exclude: self.exclusions.contested() };
        // The members of several groups would count several times.
        let left_out = if let [left_out] = self.left_out[..] { Some(left_out) } else { None };
        Ok(Complete {
            left_out,
            marks: self.marks,
            as_given,
            owners,
            contested,
            privacy: self.selection.privacy().clone(),
        })
    }

    /// The user that is followed by a name listed by hand, unless the name is excluded or another shard's.
    fn as_given(&self, key: &str, named: &NameByHand) -> Option<Wanted> {
        let name = named.as_given(key);
        let is_wanted = !self.exclusions.has(name) && self.selection.is_ours(name);
        is_wanted.then(|| Wanted {
            aliases: named.spellings(key).filter(|spelling| *spelling != name).map(str::to_owned).collect(),
            ..Wanted::as_given(name)
        })
    }

    /// Meets a user. Answers the users that join because of it: the user itself, and users that it ends an exclusion
    /// of.
    fn meet(&mut self, user: &ListedUser) -> Vec<Wanted> {
        let Naming { is_named, aliases, possible } = self.naming(user);
        let is_wanted = self.selection.wants(user, is_named);
        if is_wanted {
            for key in possible {
                self.names.entry(key).and_modify(|named| named.is_possible = true);
            }
        }
        let wanted = is_wanted.then(|| Wanted {
            username: user.username.clone(),
            sub: user.sub.clone(),
            created: user.created,
            aliases,
        });
        let joining = self.exclusions.apply(user, wanted);
        joining.iter().for_each(|user| self.marks.add(&self.selection.privacy().ledger_name(&user.username)));
        joining
    }

    fn naming(&mut self, user: &ListedUser) -> Naming {
        let mut naming = Naming::default();
        // Of several claims to one name only the first counts, which is the strongest.
        let mut claimed: Vec<Cow<'_, str>> = vec![];
        for (name, claim) in self.rules.claims(user) {
            let key = self.rules.key(name);
            let Some(named) = self.names.get_mut(&*key) else { continue };
            if claimed.contains(&key) {
                continue;
            }
            naming.is_named |= claim >= Claim::Stated || self.selection.lists_everybody();
            match claim {
                Claim::Own | Claim::Proven => {
                    named.note_owner(&user.username);
                    // The first user that is met under a name takes its cursor over.
                    if named.owner.as_ref() == Some(&user.username) {
                        let others = named.spellings(&key).filter(|name| *name != user.username);
                        naming.aliases.extend(others.map(str::to_owned));
                    }
                }
                Claim::Stated => named.note_stated(&user.username),
                Claim::Possible => naming.possible.push(key.clone().into_owned()),
            }
            claimed.push(key);
        }
        naming
    }
}

/// A pass of which every listing came to its end.
#[derive(Debug)]
pub struct Complete {
    left_out: Option<LeftOut>,
    marks: Marks,
    as_given: Vec<Wanted>,
    owners: HashMap<String, String>,
    contested: Contested,
    privacy: Privacy,
}

/// The names that more than one user claims, by their places in the configuration, counted from 1. All users that claim
/// one are followed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contested {
    /// Places among the names listed by hand: `usernames`, then those of `usernames_file`.
    pub by_hand: Vec<usize>,
    /// Places in `exclude`.
    pub exclude: Vec<usize>,
}

impl Complete {
    /// Whether a user is wanted, given by its name or by the ledger's name for it. A user is wanted if it was met, or
    /// if it is followed as given.
    pub fn wants(&self, username: &str) -> bool {
        self.marks.hold(&self.privacy.ledger_name(username))
    }

    /// The number of wanted users.
    pub fn len(&self) -> usize {
        self.marks.0.len()
    }

    /// Whether no user is wanted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names listed by hand that are to be followed as given.
    pub fn as_given(&self) -> &[Wanted] {
        &self.as_given
    }

    /// The listed users that are not followed. None without a listing, and with several, which may list a user twice.
    pub fn left_out(&self) -> Option<LeftOut> {
        self.left_out
    }

    /// The names that more than one user claims.
    pub fn contested(&self) -> &Contested {
        &self.contested
    }

    /// The names listed by hand that have one owner, with its username.
    pub fn into_owners(self) -> HashMap<String, String> {
        self.owners
    }
}

/// The users that were met: a hash of the ledger's name for each. Two names with one hash would keep a user that is
/// gone among the followed users until the next start. Among a million users that happens once in thirty million
/// passes.
#[derive(Debug, Default)]
struct Marks(Vec<u64>, RandomState);

impl Marks {
    fn add(&mut self, username: &str) {
        // A member of several groups is met several times. Repetitions are removed before the table grows.
        if self.0.len() == self.0.capacity() {
            self.settle();
            self.0.reserve(self.0.len());
        }
        self.0.push(self.1.hash_one(username));
    }

    fn settle(&mut self) {
        self.0.sort_unstable();
        self.0.dedup();
    }

    /// Only after [`Marks::settle`].
    fn hold(&self, username: &str) -> bool {
        self.0.binary_search(&self.1.hash_one(username)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::listing::{Address, SignInNames};
    use crate::masking::{Mode, Modes};
    use crate::privacy::HashKey;
    use crate::users::selection::SelectionRules;

    const RULES: SignInNames =
        SignInNames { email: true, phone_number: true, preferred_username: true, case_sensitive: true };

    fn begin<'a>(selection: &'a Selection, by_hand: &[&str]) -> ListingPass<'a> {
        ListingPass::begin(selection, NamingRules::new(Some(RULES)), names(by_hand))
    }

    fn completed(pass: ListingPass<'_>) -> Complete {
        pass.complete(|_| false).expect("every listing came to its end")
    }

    fn as_given(pass: &Complete) -> Vec<&str> {
        let mut names: Vec<_> = pass.as_given().iter().map(|user| user.username.as_str()).collect();
        names.sort_unstable();
        names
    }

    fn user(username: &str) -> ListedUser {
        ListedUser {
            username: username.into(),
            sub: Some(format!("sub-of-{username}")),
            email: Some(Address { value: format!("{username}@example.com"), is_verified: true }),
            phone_number: None,
            preferred_username: None,
            created: Some(UnixMillis(1000)),
            enabled: true,
            federated: false,
        }
    }

    fn selection(change: impl FnOnce(&mut SelectionRules)) -> Selection {
        let mut rules = SelectionRules { all_users: true, ..SelectionRules::default() };
        change(&mut rules);
        Selection::of(&rules)
    }

    fn page(users: &[&str], next: Option<&str>) -> UserPage {
        UserPage {
            users: users.iter().map(|name| user(name)).collect(),
            next: next.map(|token| PageToken(token.into())),
        }
    }

    fn names(by_hand: &[&str]) -> Vec<String> {
        by_hand.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_user_met_under_two_names_is_wanted_once_under_the_username() {
        let selection = selection(|_| {});
        let mut pass = begin(&selection, &["ann@example.com", "sub-of-ben", "ben", "zoë"]);
        let wanted = pass.take(0, page(&["ann", "ben", "cat"], None)).wanted;
        assert_eq!(wanted.iter().map(|user| user.username.as_str()).collect::<Vec<_>>(), ["ann", "ben", "cat"]);
        assert_eq!(wanted[0].aliases, ["ann@example.com"]);
        assert_eq!(wanted[1].aliases, ["sub-of-ben"]);
        let pass = completed(pass);
        assert_eq!(as_given(&pass), ["zoë"]);
        assert!(["ann", "ben", "cat", "zoë"].iter().all(|name| pass.wants(name)));
        assert!(["ann@example.com", "sub-of-ben", "dan"].iter().all(|name| !pass.wants(name)));
        assert_eq!(*pass.contested(), Contested::default());
        assert_eq!(pass.into_owners()["ann@example.com"], "ann");
    }

    #[test]
    fn users_that_are_left_out_are_counted_by_the_reason_and_once_after_a_new_beginning() {
        let selection = selection(|rules| rules.exclude = vec!["cat".into()]);
        let disabled = || ListedUser { enabled: false, ..user("ben") };
        let federated = |name: &str| ListedUser { federated: true, ..user(name) };
        let listed = || vec![user("ann"), disabled(), user("cat"), federated("dan"), federated("eve")];
        let mut pass = begin(&selection, &[]);
        pass.take(0, UserPage { users: listed(), next: Some(PageToken("2".into())) });
        pass.from_the_top(0);
        pass.take(0, UserPage { users: listed(), next: None });
        let left_out = LeftOut { disabled: 1, federated: 2, excluded: 1 };
        assert_eq!(completed(pass).left_out(), Some(left_out));
    }

    #[test]
    fn two_who_claim_one_name_are_both_followed_and_told_of() {
        let selection = selection(|rules| rules.include_disabled = false);
        let states = |name: &str| ListedUser { preferred_username: Some(name.into()), ..user("mallory") };
        let verified = |name: &str| Some(Address { value: name.into(), is_verified: true });
        let disabled = |name: &str| ListedUser { enabled: false, email: verified("shared@example.com"), ..user(name) };
        let mut pass = begin(&selection, &["zoë", "ceo", "shared@example.com"]);
        let users = vec![states("ceo"), disabled("ann"), disabled("ben"), user("ceo")];
        let wanted = pass.take(0, UserPage { users, next: None }).wanted;
        let usernames: Vec<_> = wanted.iter().map(|user| (user.username.as_str(), user.aliases.len())).collect();
        assert_eq!(usernames, [("mallory", 0), ("ann", 1), ("ben", 0), ("ceo", 0)]);
        let pass = completed(pass);
        assert_eq!(as_given(&pass), ["zoë"]);
        assert_eq!(*pass.contested(), Contested { by_hand: vec![2, 3], exclude: vec![] });
        let owners = pass.into_owners();
        assert!(owners["ceo"] == "ceo" && !owners.contains_key("shared@example.com"));
    }

    #[test]
    fn a_name_that_two_state_or_one_has_and_another_states_is_told_of_and_one_that_is_met_twice_is_not() {
        let selection = selection(|_| {});
        let states = |name: &str| ListedUser { preferred_username: Some("ceo".into()), ..user(name) };
        for (users, contested) in [
            (vec![states("ann"), states("ann")], vec![]),
            (vec![states("ann"), states("ben")], vec![1]),
            (vec![user("ceo"), states("ann")], vec![1]),
            (vec![states("ann"), user("ceo")], vec![1]),
            (vec![states("ceo"), states("ceo")], vec![]),
        ] {
            let mut pass = begin(&selection, &["ceo"]);
            pass.take(0, UserPage { users, next: None });
            assert_eq!(completed(pass).contested().by_hand, contested);
        }
    }

    #[test]
    fn a_name_that_somebody_only_states_is_followed_too_unless_everybody_is_listed() {
        let states = || ListedUser { preferred_username: Some("ceo".into()), ..user("mallory") };
        let of_group = selection(|rules| (rules.all_users, rules.groups) = (false, vec!["staff".into()]));
        let of_all = selection(|_| {});
        for (selection, was_listed, followed) in [(&of_group, false, 1), (&of_all, true, 1), (&of_all, false, 0)] {
            let mut pass = begin(selection, &["ceo"]);
            let wanted = pass.take(0, UserPage { users: vec![states()], next: None }).wanted;
            assert!(wanted.len() == 1 && wanted[0].aliases.is_empty(), "what is known of the name is not hers");
            let pass = pass.complete(|name| name == "ceo" && was_listed).unwrap();
            assert!(pass.wants("mallory"));
            assert_eq!((pass.as_given().len(), pass.contested().by_hand.len()), (followed, followed));
            assert!(!pass.into_owners().contains_key("ceo"));
        }
    }

    #[test]
    fn spellings_of_one_name_are_one_user_where_case_does_not_matter() {
        let selection = selection(|rules| rules.exclude = vec!["CAT".into()]);
        let rules = NamingRules::new(Some(SignInNames { case_sensitive: false, ..RULES }));
        let by_hand = names(&["Ann", "ANN", "zoe", "Zoe", "cat"]);
        let mut pass = ListingPass::begin(&selection, rules, by_hand);
        let mut aliases: Vec<_> = pass.unmet().map(|user| (user.username, user.aliases)).collect();
        aliases.sort_unstable();
        assert_eq!(aliases, [("Ann".into(), names(&["ANN"])), ("zoe".into(), names(&["Zoe"]))]);
        let wanted = pass.take(0, page(&["ann", "cat"], None)).wanted;
        assert_eq!((wanted.len(), wanted[0].aliases.clone()), (1, names(&["Ann", "ANN"])));
        let pass = completed(pass);
        assert_eq!(as_given(&pass), ["zoe"]);
        assert!(pass.wants("ann") && pass.wants("zoe") && !pass.wants("Ann") && !pass.wants("Zoe"));
    }

    #[test]
    fn while_the_rules_are_unknown_names_are_usernames_and_what_a_full_listing_knows_is_not_asked_for_twice() {
        let of_group = selection(|rules| (rules.all_users, rules.groups) = (false, vec!["staff".into()]));
        let of_all = selection(|_| {});
        let disabled = || ListedUser { enabled: false, ..user("ben") };
        // Where all users are listed, the user that may have a name is followed in its place, as if named by hand.
        for (selection, listed, followed) in
            [(&of_group, 1, vec!["ann@example.com", "ben@example.com"]), (&of_all, 2, vec![])]
        {
            let mut pass =
                ListingPass::begin(selection, NamingRules::default(), names(&["ann@example.com", "ben@example.com"]));
            let wanted = pass.take(0, UserPage { users: vec![user("ann"), disabled()], next: None }).wanted;
            assert!(wanted.len() == listed && wanted.iter().all(|user| user.aliases.is_empty()));
            let pass = completed(pass);
            assert_eq!(as_given(&pass), followed);
            assert_eq!(*pass.contested(), Contested::default());
        }
    }

    #[test]
    fn a_round_is_complete_when_every_listing_came_to_its_end() {
        let selection = selection(|rules| rules.groups = vec!["staff".into()]);
        let mut pass = begin(&selection, &[]);
        assert!(pass.next(0).is_some_and(|(_, token)| token.is_none()));
        pass.take(0, page(&["ann"], Some("2")));
        assert_eq!(pass.next(0).unwrap().1, Some(&PageToken("2".into())));
        pass.take(1, page(&["ben"], None));
        let mut pass = pass.complete(|_| false).expect_err("the first listing has another page");
        assert!(pass.next(1).is_none());
        pass.take(0, page(&[], None));
        let pass = completed(pass);
        assert!(pass.wants("ann") && pass.wants("ben") && pass.len() == 2);
    }

    #[test]
    fn a_listing_that_repeats_its_token_begins_again() {
        let selection = selection(|_| {});
        let mut pass = begin(&selection, &[]);
        assert!(!pass.take(0, page(&["ann"], Some("2"))).token_repeated);
        let taken = pass.take(0, page(&["ben"], Some("2")));
        assert!(taken.token_repeated && taken.wanted.len() == 1);
        assert_eq!(pass.next(0).unwrap().1, None);
        let pass = pass.complete(|_| false).expect_err("it is not at its end");
        assert_eq!(pass.met(), 2);
    }

    #[test]
    fn a_listing_whose_token_is_refused_is_read_from_its_top() {
        let selection = selection(|rules| rules.groups = vec!["staff".into()]);
        let mut pass = begin(&selection, &[]);
        assert_eq!(pass.listings(), 2);
        pass.take(0, page(&["ann"], Some("2")));
        pass.take(1, page(&["ben"], Some("3")));
        pass.from_the_top(0);
        let token = |listing| pass.next(listing).unwrap().1.map(|token| token.0.as_str());
        assert_eq!((token(0), token(1)), (None, Some("3")));
    }

    #[test]
    fn a_listing_of_more_pages_than_a_pool_can_have_goes_in_circles() {
        let selection = selection(|_| {});
        let mut pass = begin(&selection, &[]);
        pass.positions[0] = ListingPosition::At { token: None, pages: PAGES_MAX - 1 };
        assert!(!pass.take(0, page(&["ann"], Some("the last"))).token_repeated);
        assert!(pass.take(0, page(&["ben"], Some("one more"))).token_repeated);
        assert_eq!(pass.next(0).unwrap().1, None);
    }

    #[test]
    fn users_are_met_under_the_names_that_the_ledger_has_for_them() {
        let hashed = Modes { username: Mode::Hash, ..Modes::default() };
        let privacy = Privacy::new(hashed, HashKey::new(&[7; 32]), None).unwrap();
        let selection = selection(|_| {}).named_by(privacy.clone());
        assert_eq!(selection.privacy().modes(), hashed);
        let mut pass = begin(&selection, &["zoë"]);
        pass.take(0, page(&["ann"], None));
        let pass = completed(pass);
        assert!(["ann", "zoë"].iter().all(|name| pass.wants(name) && pass.wants(&privacy.ledger_name(name))));
        assert!(!pass.wants(&privacy.ledger_name("ben")));
    }

    #[test]
    fn a_pass_that_meets_nobody_wants_nobody() {
        let selection = selection(|_| {});
        for (users, is_empty) in [(&[][..], true), (&["ann"], false)] {
            let mut pass = begin(&selection, &[]);
            pass.take(0, page(users, None));
            let pass = completed(pass);
            assert_eq!((pass.is_empty(), pass.len()), (is_empty, users.len()));
        }
    }

    #[test]
    fn a_user_who_is_met_again_and_again_takes_the_memory_of_one() {
        let mut marks = Marks::default();
        (0..10_000).for_each(|time| marks.add(if time % 2 == 0 { "ann" } else { "ben" }));
        assert!(marks.0.capacity() <= 8, "{}", marks.0.capacity());
        (0..1000).for_each(|number: u32| marks.add(&number.to_string()));
        assert!(marks.0.capacity() <= 4096, "{}", marks.0.capacity());
        marks.settle();
        assert_eq!(marks.0.len(), 1002);
    }

    #[test]
    fn without_listings_a_round_is_complete_at_once() {
        let selection = selection(|rules| (rules.all_users, rules.exclude) = (false, vec!["ben".into()]));
        let pass = completed(begin(&selection, &["ann", "ben"]));
        assert!(pass.wants("ann") && !pass.wants("ben"));
        assert_eq!(as_given(&pass), ["ann"]);
    }

    #[derive(Clone, Copy, Debug)]
    enum PageFate {
        Answered,
        BrokeOff,
        Refused,
        Repeated,
    }

    proptest! {
        /// Whatever happens to its pages: at the end exactly the listed users are wanted, and before the end no user
        /// can be missing.
        #[test]
        fn only_who_is_in_no_listing_is_missing_at_the_end(
            listings in prop::collection::vec(prop::collection::vec(prop::collection::vec(0..40_u8, 0..5), 1..5), 0..4),
            fates in prop::collection::vec(prop_oneof![
                4 => Just(PageFate::Answered), 2 => Just(PageFate::BrokeOff), 1 => Just(PageFate::Refused), 1 => Just(PageFate::Repeated)
            ], 0..60),
            by_hand in prop::collection::btree_set(0..60_u8, 0..6),
        ) {
            let name = |user: &u8| format!("user-{user}");
            let alias = |user: &u8| format!("user-{user}@example.com");
            let selection = selection(|rules| {
                rules.all_users = false;
                rules.groups = (0..listings.len()).map(|group| group.to_string()).collect();
            });
            let mut pass = ListingPass::begin(&selection, NamingRules::new(Some(RULES)), by_hand.iter().map(alias));
            let mut fates = fates.into_iter();
            'pass: loop {
                for (index, pages) in listings.iter().enumerate() {
                    while let Some((_, token)) = pass.next(index) {
                        let at = token.map_or(0, |token| token.0.parse::<usize>().unwrap());
                        let next = (at + 1 < pages.len()).then(|| PageToken((at + 1).to_string()));
                        let users = pages[at].iter().map(|user_number| user(&name(user_number))).collect();
                        match fates.next().unwrap_or(PageFate::Answered) {
                            PageFate::Answered => drop(pass.take(index, UserPage { users, next })),
                            PageFate::BrokeOff => break,
                            PageFate::Refused => pass.from_the_top(index),
                            PageFate::Repeated => {
                                let next = token.cloned();
                                let ends = next.is_none();
                                // At the top there is no token to repeat: it would be the end.
                                if !ends {
                                    let taken = pass.take(index, UserPage { users, next });
                                    prop_assert!(taken.token_repeated);
                                }
                            }
                        }
                    }
                }
                let at_end = (0..listings.len()).all(|index| pass.next(index).is_none());
                match pass.complete(|_| false) {
                    Ok(complete) => {
                        prop_assert!(at_end);
                        let listed: BTreeSet<u8> = listings.iter().flatten().flatten().copied().collect();
                        for user in 0..60 {
                            prop_assert_eq!(complete.wants(&name(&user)), listed.contains(&user));
                            let as_given = by_hand.contains(&user) && !listed.contains(&user);
                            prop_assert_eq!(complete.wants(&alias(&user)), as_given);
                        }
                        break 'pass;
                    }
                    Err(unfinished) => {
                        prop_assert!(!at_end);
                        pass = unfinished;
                    }
                }
            }
        }

        #[test]
        fn marks_hold_what_was_added_however_often(added in prop::collection::vec(0..300_u32, 0..600)) {
            let mut marks = Marks::default();
            added.iter().for_each(|name| marks.add(&name.to_string()));
            marks.settle();
            for name in 0..300 {
                prop_assert_eq!(marks.hold(&name.to_string()), added.contains(&name));
            }
        }
    }
}
