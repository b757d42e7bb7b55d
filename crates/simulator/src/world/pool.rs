//! A user pool: its settings, its users under all their names, its groups, and the events of each user.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use cognito_auth_core::event::{AuthEvent, UnixMillis};

use super::ACCOUNT_ID;
use crate::paging::{LastToken, TokenStyle};
use crate::wire;

/// A user pool.
#[derive(Debug)]
pub struct Pool {
    /// Such as `eu-west-1_Example`.
    pub id: String,
    /// For people.
    pub name: String,
    /// The id's prefix.
    pub region: String,
    /// Twelve digits.
    pub account_id: String,
    /// `UserPoolTier`: LITE, ESSENTIALS or PLUS.
    pub tier: String,
    /// `AdvancedSecurityMode`: OFF, AUDIT or ENFORCED.
    pub threat_protection: String,
    /// The kind of its tokens.
    pub token_style: TokenStyle,
    /// Whether the last page has one.
    pub last_token: LastToken,
    /// `AliasAttributes`: by default every attribute that can be one. As the next two, to be set before the first user is
    /// there.
    pub alias_attributes: Vec<String>,
    /// `UsernameAttributes`.
    pub username_attributes: Vec<String>,
    /// `UsernameConfiguration.CaseSensitive`; None is a pool without UsernameConfiguration, which is case-sensitive.
    pub case_sensitive: Option<bool>,
    /// Users by the order of their creation.
    pub(super) users: BTreeMap<u64, User>,
    /// Username, and `sub`, to user.
    names: HashMap<String, u64>,
    /// What the pool accepts beside them to user.
    aliases: HashMap<String, u64>,
    pub(super) groups: BTreeMap<String, BTreeSet<u64>>,
    next_user: u64,
}

impl Pool {
    /// A pool on the Plus plan with threat protection, in the region that its id names.
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
            alias_attributes: User::ALIASES.map(str::to_owned).into(),
            username_attributes: vec![],
            case_sensitive: None,
            users: BTreeMap::new(),
            names: HashMap::new(),
            aliases: HashMap::new(),
            groups: BTreeMap::new(),
            next_user: 0,
        }
    }

    /// `Arn`.
    pub fn arn(&self) -> String {
        let partition = match self.region.as_str() {
            region if region.starts_with("cn-") => "aws-cn",
            region if region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        };
        let (region, account, id) = (&self.region, &self.account_id, &self.id);
        format!("arn:{partition}:cognito-idp:{region}:{account}:userpool/{id}")
    }

    /// Whether threat protection keeps its users' events.
    pub fn keeps_events(&self) -> bool {
        self.tier == "PLUS" && self.threat_protection != "OFF"
    }

    /// The user of this name: username, sub, or alias.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(&self.ordinal(name)?)
    }

    /// The users in the order of their creation.
    pub fn users(&self) -> impl ExactSizeIterator<Item = &User> {
        self.users.values()
    }

    /// Users of one listing behind `last` (an ordinal), with their ordinals.
    pub(crate) fn users_behind(&self, last: Option<u64>) -> impl Iterator<Item = (u64, &User)> {
        let begin = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.users.range((begin, Bound::Unbounded)).map(|(ordinal, user)| (*ordinal, user))
    }

    /// Members of a group behind `last`; None when there is no such group.
    pub(crate) fn members_behind(&self, group: &str, last: Option<u64>) -> Option<impl Iterator<Item = (u64, &User)>> {
        let begin = last.map_or(Bound::Unbounded, Bound::Excluded);
        let members = self.groups.get(group)?.range((begin, Bound::Unbounded));
        Some(members.filter_map(|ordinal| Some((*ordinal, self.users.get(ordinal)?))))
    }

    /// The ordinal of the user of this name.
    pub(super) fn ordinal(&self, name: &str) -> Option<u64> {
        let name = self.as_compared(name);
        self.names.get(&*name).or_else(|| self.aliases.get(&*name)).copied()
    }

    /// A name as the pool compares it.
    fn as_compared<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if self.case_sensitive == Some(false) { name.to_lowercase().into() } else { name.into() }
    }

    /// Whether the pool accepts an attribute for sign-in.
    fn accepts(&self, attribute: &str) -> bool {
        self.alias_attributes.iter().chain(&self.username_attributes).any(|accepted| accepted == attribute)
    }

    /// Adds a user behind all others.
    pub(super) fn add(&mut self, user: User) {
        let ordinal = self.next_user;
        self.next_user += 1;
        self.index(ordinal, &user);
        self.users.insert(ordinal, user);
    }

    /// Changes a user; its names follow.
    pub(super) fn change(&mut self, ordinal: u64, change: impl FnOnce(&mut User)) {
        if let Some(mut user) = self.users.remove(&ordinal) {
            self.unindex(ordinal, &user);
            change(&mut user);
            self.index(ordinal, &user);
            self.users.insert(ordinal, user);
        }
    }

    /// Deletes a user and all that was its own.
    pub(super) fn remove(&mut self, ordinal: u64) {
        if let Some(user) = self.users.remove(&ordinal) {
            self.unindex(ordinal, &user);
            for members in self.groups.values_mut() {
                members.remove(&ordinal);
            }
        }
    }

    fn index(&mut self, ordinal: u64, user: &User) {
        for name in [&user.username, &user.sub] {
            self.names.insert(self.as_compared(name).into_owned(), ordinal);
        }
        let accepted: Vec<_> = user.aliases().filter(|(attribute, _)| self.accepts(attribute)).collect();
        for (_, alias) in accepted {
            self.aliases.insert(self.as_compared(alias).into_owned(), ordinal);
        }
    }

    fn unindex(&mut self, ordinal: u64, user: &User) {
        for name in [&user.username, &user.sub] {
            self.names.remove(&*self.as_compared(name));
        }
        for (_, alias) in user.aliases() {
            let alias = self.as_compared(alias).into_owned();
            // An alias goes to whoever took it last.
            if self.aliases.get(&alias) == Some(&ordinal) {
                self.aliases.remove(&alias);
            }
        }
    }
}

/// A user of a pool.
#[derive(Clone, Debug)]
pub struct User {
    /// `Username`.
    pub username: String,
    /// A UUID that no other user ever has.
    pub sub: String,
    /// `Enabled`.
    pub enabled: bool,
    /// `UserStatus`, such as CONFIRMED or EXTERNAL_PROVIDER.
    pub status: String,
    /// `UserCreateDate`.
    pub created: UnixMillis,
    /// `UserLastModifiedDate`.
    pub last_modified: UnixMillis,
    /// When listings begin to show the user; they are only eventually consistent.
    pub listed_from: UnixMillis,
    attributes: Vec<(String, String)>,
    /// Oldest first: events arrive at the cheap end.
    pub(super) events: Vec<StoredEvent>,
}

impl User {
    /// Attributes that are names to sign in with.
    const ALIASES: [&str; 3] = ["email", "phone_number", "preferred_username"];

    /// Those of them that are verified.
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

    /// Sets an attribute, such as `email`. An address is verified unless `email_verified` or `phone_number_verified` says
    /// otherwise.
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

    pub(crate) fn events_oldest_first(&self) -> &[StoredEvent] {
        &self.events
    }

    /// The attributes that a pool may accept for sign-in, with their values: addresses only where they are verified.
    fn aliases(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let verified = Self::ALIASES.into_iter().filter(|name| self.is_verified(name));
        verified.filter_map(|name| Some((name, self.attribute(name)?)))
    }

    pub(super) fn insert(&mut self, event: StoredEvent) {
        let at = self.events.partition_point(|known| known.time <= event.time);
        self.events.insert(at, event);
    }

    pub(super) fn find(&self, event_id: &str) -> Option<usize> {
        // The wanted event is nearly always a recent one.
        self.events.iter().rposition(|event| event.key == event_id)
    }
}

/// An event as it lies in a history.
#[derive(Clone, Debug)]
pub(crate) struct StoredEvent {
    /// Its EventId, or a word of the simulation's own for an event without one.
    pub(crate) key: String,
    /// Its place in the order: CreationDate, or its arrival for an event without one.
    pub(crate) time: UnixMillis,
    pub(crate) visible_at: UnixMillis,
    /// What goes over the wire.
    pub(crate) json: String,
}

impl StoredEvent {
    /// The event that its JSON tells.
    pub(crate) fn read(&self) -> AuthEvent {
        serde_json::from_str(&self.json).map_or_else(|_| AuthEvent::default(), |value| wire::read_event(&value))
    }
}
