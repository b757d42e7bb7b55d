//! A user pool: its settings, its users with all their names, its groups, and the events of each user.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use cognito_auth_core::event::UnixMillis;

use crate::export::PoolExport;
use crate::history::HistoryEvent;
use crate::paging::{LastToken, TokenStyle};
use crate::wire;

/// The default account of a pool.
pub const ACCOUNT_ID: &str = "111122223333";

/// A user pool.
#[derive(Debug)]
pub struct SimulatedPool {
    /// `Id`, such as `eu-west-1_Example`.
    pub id: String,
    /// `Name`.
    pub name: String,
    /// The part of the id before the underscore.
    pub region: String,
    /// The AWS account, twelve digits.
    pub account_id: String,
    /// `UserPoolTier`: LITE, ESSENTIALS or PLUS.
    pub tier: String,
    /// `AdvancedSecurityMode`: OFF, AUDIT or ENFORCED.
    pub threat_protection: String,
    /// The style of its pagination tokens.
    pub token_style: TokenStyle,
    /// Whether the last page has a token.
    pub last_token: LastToken,
    /// `AliasAttributes`; by default every attribute that can be an alias. Set this and the next two fields before the
    /// first user is added.
    pub alias_attributes: Vec<String>,
    /// `UsernameAttributes`.
    pub username_attributes: Vec<String>,
    /// `UsernameConfiguration.CaseSensitive`. A pool without UsernameConfiguration (None) is case-sensitive.
    pub case_sensitive: Option<bool>,
    /// Its export of user activity.
    pub(super) export: Option<PoolExport>,
    /// Users by ordinal: the order of their creation.
    pub(super) users: BTreeMap<u64, PoolUser>,
    /// From username and `sub` to ordinal.
    names: HashMap<String, u64>,
    /// From alias to ordinal.
    aliases: HashMap<String, u64>,
    pub(super) groups: BTreeMap<String, BTreeSet<u64>>,
    next_user: u64,
}

impl SimulatedPool {
    /// A pool on the Plus plan with threat protection, in the region of its id.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            name: id.to_owned(),
            region: id.split_once('_').map_or(id, |(region, _)| region).to_owned(),
            account_id: ACCOUNT_ID.to_owned(),
            tier: "PLUS".to_owned(),
            threat_protection: "ENFORCED".to_owned(),
            token_style: TokenStyle::default(),
            last_token: LastToken::default(),
            alias_attributes: PoolUser::ALIASES.map(str::to_owned).into(),
            username_attributes: vec![],
            case_sensitive: None,
            export: None,
            users: BTreeMap::new(),
            names: HashMap::new(),
            aliases: HashMap::new(),
            groups: BTreeMap::new(),
            next_user: 0,
        }
    }

    /// `Arn`.
    pub fn arn(&self) -> String {
        let (region, account, id) = (&self.region, &self.account_id, &self.id);
        let partition = wire::partition(region);
        format!("arn:{partition}:cognito-idp:{region}:{account}:userpool/{id}")
    }

    /// Whether threat protection stores the users' events.
    pub fn keeps_events(&self) -> bool {
        self.tier == "PLUS" && self.threat_protection != "OFF"
    }

    /// Its export of user activity: what was sent and lost. [`super::World::export_events`] starts one.
    pub fn export(&self) -> Option<&PoolExport> {
        self.export.as_ref()
    }

    /// Its export of user activity, to change the settings.
    pub fn export_mut(&mut self) -> Option<&mut PoolExport> {
        self.export.as_mut()
    }

    /// The user with this username, sub or alias.
    pub fn user(&self, name: &str) -> Option<&PoolUser> {
        self.users.get(&self.ordinal(name)?)
    }

    /// The users in the order of their creation.
    pub fn users(&self) -> impl ExactSizeIterator<Item = &PoolUser> {
        self.users.values()
    }

    /// The users after the ordinal `last`, with their ordinals.
    pub(crate) fn users_after(&self, last: Option<u64>) -> impl Iterator<Item = (u64, &PoolUser)> {
        let begin = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.users.range((begin, Bound::Unbounded)).map(|(ordinal, user)| (*ordinal, user))
    }

    /// The members of a group after the ordinal `last`; None when the group does not exist.
    pub(crate) fn members_after(
        &self,
        group: &str,
        last: Option<u64>,
    ) -> Option<impl Iterator<Item = (u64, &PoolUser)>> {
        let begin = last.map_or(Bound::Unbounded, Bound::Excluded);
        let members = self.groups.get(group)?.range((begin, Bound::Unbounded));
        Some(members.filter_map(|ordinal| Some((*ordinal, self.users.get(ordinal)?))))
    }

    /// The ordinal of the user with this username, sub or alias.
    pub(super) fn ordinal(&self, name: &str) -> Option<u64> {
        let name = self.folded(name);
        self.names.get(&*name).or_else(|| self.aliases.get(&*name)).copied()
    }

    /// A name in the form in which the pool compares names.
    fn folded<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if self.case_sensitive == Some(false) { name.to_lowercase().into() } else { name.into() }
    }

    /// Whether users can sign in with this attribute.
    fn accepts(&self, attribute: &str) -> bool {
        self.alias_attributes.iter().chain(&self.username_attributes).any(|accepted| accepted == attribute)
    }

    /// Adds a user after all others.
    pub(super) fn add(&mut self, user: PoolUser) {
        let ordinal = self.next_user;
        self.next_user += 1;
        self.index(ordinal, &user);
        self.users.insert(ordinal, user);
    }

    /// Changes a user and updates the index of names.
    pub(super) fn change(&mut self, ordinal: u64, change: impl FnOnce(&mut PoolUser)) {
        if let Some(mut user) = self.users.remove(&ordinal) {
            self.unindex(ordinal, &user);
            change(&mut user);
            self.index(ordinal, &user);
            self.users.insert(ordinal, user);
        }
    }

    /// Deletes a user, its names and its group memberships.
    pub(super) fn remove(&mut self, ordinal: u64) {
        if let Some(user) = self.users.remove(&ordinal) {
            self.unindex(ordinal, &user);
            for members in self.groups.values_mut() {
                members.remove(&ordinal);
            }
        }
    }

    fn index(&mut self, ordinal: u64, user: &PoolUser) {
        for name in [&user.username, &user.sub] {
            self.names.insert(self.folded(name).into_owned(), ordinal);
        }
        let accepted: Vec<_> = user.aliases().filter(|(attribute, _)| self.accepts(attribute)).collect();
        for (_, alias) in accepted {
            self.aliases.insert(self.folded(alias).into_owned(), ordinal);
        }
    }

    fn unindex(&mut self, ordinal: u64, user: &PoolUser) {
        for name in [&user.username, &user.sub] {
            self.names.remove(&*self.folded(name));
        }
        for (_, alias) in user.aliases() {
            let alias = self.folded(alias).into_owned();
            // The user that took the alias last keeps it.
            if self.aliases.get(&alias) == Some(&ordinal) {
                self.aliases.remove(&alias);
            }
        }
    }
}

/// A user of a pool.
#[derive(Clone, Debug)]
pub struct PoolUser {
    /// `Username`.
    pub username: String,
    /// A UUID, unique to this user.
    pub sub: String,
    /// `Enabled`.
    pub enabled: bool,
    /// `UserStatus`, such as CONFIRMED or EXTERNAL_PROVIDER.
    pub status: String,
    /// `UserCreateDate`.
    pub created: UnixMillis,
    /// `UserLastModifiedDate`.
    pub last_modified: UnixMillis,
    /// The time from which listings show the user. Listings are eventually consistent.
    pub listed_from: UnixMillis,
    attributes: Vec<(String, String)>,
    /// Oldest first: most events are appended.
    pub(super) events: Vec<HistoryEvent>,
}

impl PoolUser {
    /// Attributes that can be aliases.
    const ALIASES: [&str; 3] = ["email", "phone_number", "preferred_username"];

    /// The aliases that must be verified.
    const ADDRESSES: [&str; 2] = ["email", "phone_number"];

    pub(crate) fn new(username: &str, sub: &str, now: UnixMillis) -> Self {
        Self {
            username: username.to_owned(),
            sub: sub.to_owned(),
            enabled: true,
            status: "CONFIRMED".to_owned(),
            created: now,
            last_modified: now,
            listed_from: now,
            attributes: vec![],
            events: vec![],
        }
    }

    /// An attribute's value.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        if name == "sub" {
            return Some(&self.sub);
        }
        let found = self.attributes.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Sets an attribute, such as `email`. An address counts as verified unless `email_verified` or
    /// `phone_number_verified` has another value than `true`.
    pub fn set_attribute(&mut self, name: &str, value: &str) {
        self.attributes.retain(|(known, _)| known != name);
        self.attributes.push((name.to_owned(), value.to_owned()));
        let verified = format!("{name}_verified");
        if Self::ADDRESSES.contains(&name) && self.attribute(&verified).is_none() {
            self.attributes.push((verified, "true".to_owned()));
        }
    }

    fn is_verified(&self, name: &str) -> bool {
        !Self::ADDRESSES.contains(&name) || self.attribute(&format!("{name}_verified")) == Some("true")
    }

    /// The attributes, `sub` first.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        let others = self.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        std::iter::once(("sub", self.sub.as_str())).chain(others)
    }

    pub(crate) fn events_oldest_first(&self) -> &[HistoryEvent] {
        &self.events
    }

    /// The possible aliases with their values. Addresses are included only if verified.
    fn aliases(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let verified = Self::ALIASES.into_iter().filter(|name| self.is_verified(name));
        verified.filter_map(|name| Some((name, self.attribute(name)?)))
    }

    pub(super) fn insert(&mut self, event: HistoryEvent) {
        let at = self.events.partition_point(|known| known.time <= event.time);
        self.events.insert(at, event);
    }

    pub(super) fn find(&self, event_id: &str) -> Option<usize> {
        // Most searches are for a recent event.
        self.events.iter().rposition(|event| event.key == event_id)
    }
}
