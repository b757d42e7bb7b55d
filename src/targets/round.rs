//! One round of a pool's listings: pages in, who is wanted out, and at the end of them all who is not.
//!
//! Pure. Two types for two phases: a [`Round`] that is being read can only say who is there; only a [`Complete`] one, of
//! which every listing came to its end, can say who is not. So whatever breaks off, in whatever order, removes nobody.
//!
//! ```text
//!                page: who is wanted            every listing at its end
//!    Round::begin -----> Round ---------------------------------------> Complete: who is not
//!                        |  ^ broke off: the same page again
//!                        +--+ token refused or repeated: that listing from its top
//! ```
//!
//! A listing that begins again meets users twice, which does no harm; what it met before stays met. Whoever is deleted
//! meanwhile is found gone by the next round.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::mem;

use super::roster::{self, Selection};
use crate::event::UnixMillis;
use crate::privacy::Privacy;
use crate::source::{ListedUser, Listing, PageToken, UserPage};

/// Pages of one listing in a row: sixty million users, more than a pool can have (40 million). A listing that is longer
/// goes in circles.
const PAGES_MAX: u32 = 1_000_000;

/// A listed user who is wanted.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `Username`.
    pub username: String,
    /// `sub`, where a listing gave it.
    pub sub: Option<String>,
    /// `UserCreateDate`, where a listing gave it.
    pub created: Option<UnixMillis>,
    /// Names listed by hand that are others of its names.
    pub aliases: Vec<String>,
}

impl Wanted {
    /// Somebody of whom nothing but the name is known.
    pub fn as_given(name: &str) -> Self {
        Self { username: name.to_owned(), sub: None, created: None, aliases: vec![] }
    }
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wanted(personal data)")
    }
}

/// What a page brought.
#[derive(Debug)]
pub struct Taken {
    /// Who of it is wanted.
    pub wanted: Vec<Wanted>,
    /// Whether the listing goes in circles; it begins again.
    pub token_repeated: bool,
}

/// Where a listing stands.
#[derive(Debug)]
enum Place {
    At { token: Option<PageToken>, pages: u32 },
    Ended,
}

impl Place {
    const TOP: Self = Self::At { token: None, pages: 0 };
}

/// A round under way.
#[derive(Debug)]
pub struct Round<'a> {
    selection: &'a Selection,
    /// In the selection's order.
    places: Vec<Place>,
    /// The names listed by hand, and who of the listed was first met under each.
    names: HashMap<String, Option<String>>,
    marks: Marks,
}

impl<'a> Round<'a> {
    /// A round in which nobody was met yet.
    pub fn begin(selection: &'a Selection, by_hand: impl IntoIterator<Item = String>) -> Self {
        Self {
            selection,
            places: selection.listings().iter().map(|_| Place::TOP).collect(),
            names: by_hand.into_iter().map(|name| (name, None)).collect(),
            marks: Marks::default(),
        }
    }

    /// How many listings there are.
    pub fn listings(&self) -> usize {
        self.places.len()
    }

    /// The page of a listing that is to be read next; None when it has come to its end.
    pub fn next(&self, listing: usize) -> Option<(&'a Listing, Option<&PageToken>)> {
        match self.places.get(listing)? {
            Place::At { token, .. } => Some((self.selection.listings().get(listing)?, token.as_ref())),
            Place::Ended => None,
        }
    }

    /// Takes a listing's next page.
    pub fn take(&mut self, listing: usize, page: UserPage) -> Taken {
        let mut token_repeated = false;
        if let Some(place) = self.places.get_mut(listing) {
            *place = match (mem::replace(place, Place::TOP), page.next) {
                (_, None) => Place::Ended,
                (Place::At { token, pages }, next) if next != token && pages < PAGES_MAX => {
                    Place::At { token: next, pages: pages + 1 }
                }
                _ => {
                    token_repeated = true;
                    Place::TOP
                }
            };
        }
        Taken { wanted: page.users.into_iter().filter_map(|user| self.meet(user)).collect(), token_repeated }
    }

    /// The token of a listing's next page was refused: it begins again.
    pub fn from_the_top(&mut self, listing: usize) {
        if let Some(place) = self.places.get_mut(listing) {
            *place = Place::TOP;
        }
    }

    /// Names listed by hand under which nobody was met so far, and who are wanted.
    pub fn unmet(&self) -> impl Iterator<Item = &str> {
        unmet(&self.names, self.selection)
    }

    /// How many users were met so far, about.
    pub fn met(&self) -> usize {
        self.marks.0.len()
    }

    /// The round, complete, if every listing came to its end; else as it is.
    ///
    /// # Errors
    /// A listing is not at its end.
    pub fn complete(self) -> Result<Complete, Self> {
        if !self.places.iter().all(|place| matches!(place, Place::Ended)) {
            return Err(self);
        }
        let Self { selection, names, mut marks, .. } = self;
        let unmet: Vec<String> = unmet(&names, selection).map(str::to_owned).collect();
        unmet.iter().for_each(|name| marks.add(&selection.privacy().ledger_name(name)));
        marks.settle();
        let aliases = names.into_iter().filter_map(|(name, met)| Some((name, met?))).collect();
        Ok(Complete { marks, unmet, aliases, privacy: selection.privacy().clone() })
    }

    fn meet(&mut self, user: ListedUser) -> Option<Wanted> {
        let mut aliases = vec![];
        let mut is_named = false;
        for name in roster::names(&user) {
            // The first who is met under a name has it.
            if let Some(named) = self.names.get_mut(name)
                && *named.get_or_insert_with(|| user.username.clone()) == user.username
            {
                is_named = true;
                if name != user.username && !aliases.iter().any(|alias| alias == name) {
                    aliases.push(name.to_owned());
                }
            }
        }
        self.selection.wants(&user, is_named).then(|| {
            self.marks.add(&self.selection.privacy().ledger_name(&user.username));
            Wanted { username: user.username, sub: user.sub, created: user.created, aliases }
        })
    }
}

fn unmet<'a>(names: &'a HashMap<String, Option<String>>, selection: &Selection) -> impl Iterator<Item = &'a str> {
    let unmet = names.iter().filter(|(_, met)| met.is_none()).map(|(name, _)| name.as_str());
    unmet.filter(|name| selection.wants_name(name))
}

/// A round of which every listing came to its end.
#[derive(Debug)]
pub struct Complete {
    marks: Marks,
    unmet: Vec<String>,
    aliases: HashMap<String, String>,
    privacy: Privacy,
}

impl Complete {
    /// Whether a user, by its name or the ledger's name for it, is wanted: met, or named by hand and no other name of
    /// anybody's.
    pub fn wants(&self, username: &str) -> bool {
        self.marks.hold(&self.privacy.ledger_name(username))
    }

    /// How many are wanted.
    pub fn len(&self) -> usize {
        self.marks.0.len()
    }

    /// Whether nobody is wanted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names listed by hand that are to be followed as given.
    pub fn as_given(&self) -> &[String] {
        &self.unmet
    }

    /// Names listed by hand, and the username of whom each belongs to.
    pub fn into_aliases(self) -> HashMap<String, String> {
        self.aliases
    }
}

/// Who was met: a hash of the ledger's name for each. Two names with one hash would keep somebody on the roster who is gone, until the
/// next start; among a million users that is one case in thirty million rounds.
#[derive(Debug, Default)]
struct Marks(Vec<u64>, RandomState);

impl Marks {
    fn add(&mut self, username: &str) {
        // Members of several groups are met several times: thrown out before the table grows.
        if self.0.len() == self.0.capacity() && !self.0.is_empty() {
            self.settle();
            if self.0.len() > self.0.capacity() / 2 {
                self.0.reserve(self.0.len());
            }
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
    use crate::config::PoolConfig;

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

    fn selection(change: impl FnOnce(&mut PoolConfig)) -> Selection {
        let mut pool = PoolConfig::new("eu-west-1_Test");
        pool.all_users = true;
        change(&mut pool);
        Selection::of(&pool)
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
        let mut round = Round::begin(&selection, names(&["ann@example.com", "sub-of-ben", "ben", "zoë"]));
        let wanted = round.take(0, page(&["ann", "ben", "cat"], None)).wanted;
        assert_eq!(wanted.iter().map(|user| user.username.as_str()).collect::<Vec<_>>(), ["ann", "ben", "cat"]);
        assert_eq!(wanted[0].aliases, ["ann@example.com"]);
        assert_eq!(wanted[1].aliases, ["sub-of-ben"]);
        let round = round.complete().unwrap();
        assert_eq!(round.as_given(), ["zoë"]);
        assert!(["ann", "ben", "cat", "zoë"].iter().all(|name| round.wants(name)));
        assert!(["ann@example.com", "sub-of-ben", "dan"].iter().all(|name| !round.wants(name)));
        assert_eq!(round.into_aliases()["ann@example.com"], "ann");
    }

    #[test]
    fn a_name_that_two_users_have_belongs_to_the_first() {
        let selection = selection(|pool| pool.include_disabled = false);
        let mut round = Round::begin(&selection, names(&["shared"]));
        let with_name = |name: &str, enabled| ListedUser { aliases: vec!["shared".into()], enabled, ..user(name) };
        let users = vec![with_name("ann", false), with_name("ben", false), user("shared")];
        let wanted = round.take(0, UserPage { users, next: None }).wanted;
        let usernames: Vec<_> = wanted.iter().map(|user| (user.username.as_str(), user.aliases.len())).collect();
        assert_eq!(usernames, [("ann", 1), ("shared", 0)]);
    }

    #[test]
    fn a_round_is_complete_when_every_listing_came_to_its_end() {
        let selection = selection(|pool| pool.groups = vec!["staff".into()]);
        let mut round = Round::begin(&selection, []);
        assert!(round.next(0).is_some_and(|(_, token)| token.is_none()));
        round.take(0, page(&["ann"], Some("2")));
        assert_eq!(round.next(0).unwrap().1, Some(&PageToken("2".into())));
        round.take(1, page(&["ben"], None));
        let mut round = round.complete().expect_err("the first listing has another page");
        assert!(round.next(1).is_none());
        round.take(0, page(&[], None));
        let round = round.complete().unwrap();
        assert!(round.wants("ann") && round.wants("ben") && round.len() == 2);
    }

    #[test]
    fn a_listing_that_repeats_its_token_begins_again() {
        let selection = selection(|_| {});
        let mut round = Round::begin(&selection, []);
        assert!(!round.take(0, page(&["ann"], Some("2"))).token_repeated);
        let taken = round.take(0, page(&["ben"], Some("2")));
        assert!(taken.token_repeated && taken.wanted.len() == 1);
        assert_eq!(round.next(0).unwrap().1, None);
        let round = round.complete().expect_err("it has come to no end");
        assert_eq!(round.met(), 2);
    }

    #[test]
    fn without_listings_a_round_is_complete_at_once() {
        let selection = selection(|pool| (pool.all_users, pool.exclude) = (false, vec!["ben".into()]));
        let round = Round::begin(&selection, names(&["ann", "ben"])).complete().unwrap();
        assert!(round.wants("ann") && !round.wants("ben"));
        assert_eq!(round.as_given(), ["ann"]);
    }

    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Answered,
        BrokeOff,
        Refused,
        Repeated,
    }

    proptest! {
        /// Whatever befalls its pages: everybody who is listed is wanted in the end, nobody else is, and before the end nobody
        /// can be missing.
        #[test]
        fn only_who_is_in_no_listing_is_missing_at_the_end(
            listings in prop::collection::vec(prop::collection::vec(prop::collection::vec(0..40_u8, 0..5), 1..5), 0..4),
            fates in prop::collection::vec(prop_oneof![
                4 => Just(Fate::Answered), 2 => Just(Fate::BrokeOff), 1 => Just(Fate::Refused), 1 => Just(Fate::Repeated)
            ], 0..60),
            by_hand in prop::collection::btree_set(0..60_u8, 0..6),
        ) {
            let name = |user: &u8| format!("user-{user}");
            let alias = |user: &u8| format!("user-{user}@example.com");
            let selection = selection(|pool| {
                pool.all_users = false;
                pool.groups = (0..listings.len()).map(|group| group.to_string()).collect();
            });
            let mut round = Round::begin(&selection, by_hand.iter().map(alias));
            let mut fates = fates.into_iter();
            'round: loop {
                for (index, pages) in listings.iter().enumerate() {
                    while let Some((_, token)) = round.next(index) {
                        let at = token.map_or(0, |token| token.0.parse::<usize>().unwrap());
                        let next = (at + 1 < pages.len()).then(|| PageToken((at + 1).to_string()));
                        let users = pages[at].iter().map(|user_number| user(&name(user_number))).collect();
                        match fates.next().unwrap_or(Fate::Answered) {
                            Fate::Answered => drop(round.take(index, UserPage { users, next })),
                            Fate::BrokeOff => break,
                            Fate::Refused => round.from_the_top(index),
                            Fate::Repeated => {
                                let next = token.cloned();
                                let ends = next.is_none();
                                // At the top there is no token to repeat: it would be the end.
                                if !ends {
                                    let taken = round.take(index, UserPage { users, next });
                                    prop_assert!(taken.token_repeated);
                                }
                            }
                        }
                    }
                }
                let at_end = (0..listings.len()).all(|index| round.next(index).is_none());
                match round.complete() {
                    Ok(complete) => {
                        prop_assert!(at_end);
                        let listed: BTreeSet<u8> = listings.iter().flatten().flatten().copied().collect();
                        for user in 0..60 {
                            prop_assert_eq!(complete.wants(&name(&user)), listed.contains(&user));
                            let as_given = by_hand.contains(&user) && !listed.contains(&user);
                            prop_assert_eq!(complete.wants(&alias(&user)), as_given);
                        }
                        break 'round;
                    }
                    Err(unfinished) => {
                        prop_assert!(!at_end);
                        round = unfinished;
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
