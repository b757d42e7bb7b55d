//! The selection of a pool's users, what meeting a user means, and which of its events are live.
//!
//! Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::cursor::Cursor;
use crate::event::UnixMillis;
use crate::listing::{ListedUser, Listing};
use crate::privacy::Privacy;
use crate::shard::Shard;

/// The keys of `[[pools]]` that select users. Each field has its key's name.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SelectionRules {
    /// Users to follow, each 1 to 128 characters without white space.
    pub usernames: Vec<String>,
    /// File with one username a line, re-read on change.
    pub usernames_file: Option<PathBuf>,
    /// Groups whose members are followed.
    pub groups: Vec<String>,
    /// Whether every user is followed; never with `filter`.
    pub all_users: bool,
    /// ListUsers filter whose users are followed, such as `status = "Enabled"`.
    pub filter: Option<String>,
    /// Users to exclude, however they were selected.
    pub exclude: Vec<String>,
    /// Whether listed users who are disabled are followed.
    pub include_disabled: bool,
    /// Whether listed users of status EXTERNAL_PROVIDER are followed.
    pub include_federated: bool,
}

impl SelectionRules {
    /// Returns whether the rules select any users.
    pub fn select_users(&self) -> bool {
        !self.usernames.is_empty()
            || self.usernames_file.is_some()
            || !self.groups.is_empty()
            || self.all_users
            || self.filter.is_some()
    }
}

/// Shows the number of listed users but no name, and no filter, which may contain an address.
impl std::fmt::Debug for SelectionRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelectionRules")
            .field("usernames", &self.usernames.len())
            .field("usernames_file", &self.usernames_file)
            .field("groups", &self.groups)
            .field("all_users", &self.all_users)
            .field("exclude", &self.exclude.len())
            .field("include_disabled", &self.include_disabled)
            .field("include_federated", &self.include_federated)
            .finish_non_exhaustive()
    }
}

/// The users of a pool that are wanted.
#[derive(Clone, Debug)]
pub struct Selection {
    pool_id: String,
    listings: Vec<Listing>,
    excluded: Vec<String>,
    include_disabled: bool,
    include_federated: bool,
    shard: Shard,
    digest: u64,
    privacy: Privacy,
}

impl Selection {
    /// The selection by these rules, of all shards.
    pub fn of(rules: &SelectionRules) -> Self {
        let users =
            (rules.all_users || rules.filter.is_some()).then(|| Listing::Users { filter: rules.filter.clone() });
        Self {
            pool_id: String::new(),
            listings: users.into_iter().chain(rules.groups.iter().cloned().map(Listing::Group)).collect(),
            excluded: rules.exclude.clone(),
            include_disabled: rules.include_disabled,
            include_federated: rules.include_federated,
            shard: Shard::WHOLE,
            digest: digest(rules),
            privacy: Privacy::default(),
        }
    }

    /// The same selection; users are compared by the names that the ledger has for them.
    pub fn named_by(self, privacy: Privacy) -> Self {
        Self { privacy, ..self }
    }

    /// The privacy settings that give the ledger's names of users.
    pub fn privacy(&self) -> &Privacy {
        &self.privacy
    }

    /// The part of the selection that is in this shard's share of the pool. Another share has another digest, so users
    /// that were stored under it are not trusted.
    #[must_use]
    pub fn in_shard(self, pool_id: &str, shard: Shard) -> Self {
        if shard.is_whole() {
            return self;
        }
        let part = Sha256::new().chain_update(self.digest.to_le_bytes()).chain_update(shard.index().to_le_bytes());
        let digest = first_of(&part.chain_update(shard.count().to_le_bytes()).finalize());
        Self { pool_id: pool_id.to_owned(), shard, digest, ..self }
    }

    /// Whether a user is in the share. Every user that joins is checked here, listed or named by hand. A user outside
    /// is not enrolled, and is gone if it was.
    pub fn is_ours(&self, username: &str) -> bool {
        self.shard.holds(&self.pool_id, username)
    }

    /// Whether the share is all users.
    pub fn is_whole(&self) -> bool {
        self.shard.is_whole()
    }

    /// The listings to read; none if all users are named by hand.
    pub fn listings(&self) -> &[Listing] {
        &self.listings
    }

    /// A digest that differs for every other selection. The names in `usernames_file` are not part of it, because they
    /// change while the process runs.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether one of the listings names every user of the rules.
    pub fn lists_everybody(&self) -> bool {
        self.listings.contains(&Listing::Users { filter: None })
    }

    /// The names to leave out, as written: see `users::exclusion`.
    pub fn exclude(&self) -> &[String] {
        &self.excluded
    }

    /// Whether a listed user is wanted, unless an exclusion leaves it out. A user named by hand is wanted even if it is
    /// disabled or federated.
    pub fn wants(&self, user: &ListedUser, is_named: bool) -> bool {
        let kind = (user.enabled || self.include_disabled) && (!user.federated || self.include_federated);
        (kind || is_named) && self.is_ours(&user.username)
    }
}

/// Digests rules. Every part has its length in front, so that no two selections have the same bytes. Lists are sorted
/// and hold each name once.
fn digest(rules: &SelectionRules) -> u64 {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(&[rules.all_users, rules.include_disabled, rules.include_federated, rules.filter.is_some()].map(u8::from));
    part(rules.filter.as_deref().unwrap_or_default().as_bytes());
    let file = rules.usernames_file.as_ref().map(|path| path.to_string_lossy().into_owned());
    for list in [&rules.usernames, &rules.groups, &rules.exclude, &file.into_iter().collect()] {
        let list: BTreeSet<_> = list.iter().collect();
        part(&(list.len() as u64).to_le_bytes());
        list.into_iter().for_each(|name| part(name.as_bytes()));
    }
    first_of(&hash.finalize())
}

fn first_of(digest: &[u8]) -> u64 {
    digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// The stored facts that tell whether a met user is the same as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EnrolledUser<'a> {
    /// Its `sub`, where a listing gave it.
    pub sub: Option<&'a str>,
    /// Whether it is noted as gone.
    pub gone: bool,
}

/// The meaning of meeting a wanted user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meeting {
    /// The user is followed already.
    Known,
    /// The user is followed already; its `sub` was unknown until now.
    Recognised,
    /// The user was gone and goes on with its cursor.
    Back,
    /// The user was never followed.
    New,
    /// The name belongs to another person now, and nothing stored applies to that person.
    Another,
}

impl Meeting {
    /// Judges by what is stored under the username.
    pub fn of(stored: Option<EnrolledUser<'_>>, sub: Option<&str>) -> Self {
        match stored {
            None => Self::New,
            Some(EnrolledUser { sub: Some(stored), .. }) if sub.is_some_and(|sub| sub != stored) => Self::Another,
            Some(EnrolledUser { gone: true, .. }) => Self::Back,
            Some(EnrolledUser { sub: None, .. }) if sub.is_some() => Self::Recognised,
            Some(_) => Self::Known,
        }
    }
}

/// Longest username, in characters (Cognito API reference, `UsernameType`).
pub const USERNAME_CHARS_MAX: usize = 128;

/// Reads the usernames in a file's text, one on each line, after an optional byte order mark. Empty lines, lines that
/// begin with `#` and names that are too long are left out.
pub fn names_in(text: &str) -> Vec<String> {
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let is_name =
        |line: &&str| !line.is_empty() && !line.starts_with('#') && line.chars().count() <= USERNAME_CHARS_MAX;
    lines.filter(is_name).map(str::to_owned).collect()
}

/// `poll.first_run`: how far back the history of a user that joins is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HistoryDepth {
    /// No history.
    None,
    /// The history of this duration, 1 s to 731 d.
    Last(Duration),
    /// As far as Cognito keeps it: two years.
    All,
}

/// The rules for the cursor of a user that joins: when its events are live, and how far back its history goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JoiningRules {
    /// When the pool was first followed.
    pub pool_followed_since: UnixMillis,
    /// Present while users are enrolled again. For users of a lost ledger it is the time of its last write. For users
    /// of other shards it is the time when this shard began with its present share.
    pub lost_since: Option<UnixMillis>,
    /// `pools[].followed_since`.
    pub configured_since: Option<UnixMillis>,
    /// `poll.first_run`.
    pub history: HistoryDepth,
}

impl JoiningRules {
    /// Whether a user was created after its pool was first followed, and after it came from another shard (`moved_in`).
    pub fn is_newborn(&self, created: Option<UnixMillis>, moved_in: Option<UnixMillis>) -> bool {
        let ours_since = moved_in.map_or(self.pool_followed_since, |moved_in| moved_in.max(self.pool_followed_since));
        created.is_some_and(|created| created >= ours_since)
    }

    /// The cursor of a user that joins the followed users at `now`. `moved_in` is when it came from another shard.
    ///
    /// History is the events before the user joined, and not before its first poll, which may be hours later. A user
    /// that was created after the pool was first followed has no history: all its events are live. While the users of a
    /// lost ledger are enrolled again, every user counts as one of them. Events from before a user came over are
    /// counted by the other shard.
    pub fn cursor(&self, created: Option<UnixMillis>, moved_in: Option<UnixMillis>, now: UnixMillis) -> Cursor {
        if self.is_newborn(created, moved_in) {
            return Cursor::new(UnixMillis::MIN, UnixMillis::MIN);
        }
        let lost_since = self.lost_since.map(|lost| moved_in.map_or(lost, |moved_in| lost.max(moved_in)));
        let earlier = lost_since.into_iter().chain(self.configured_since);
        let live_since = earlier.fold(now, UnixMillis::min);
        let history_from = match self.history {
            HistoryDepth::None => live_since,
            HistoryDepth::Last(duration) => live_since.minus(duration),
            HistoryDepth::All => UnixMillis::MIN,
        };
        Cursor::new(live_since, history_from)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn user(username: &str) -> ListedUser {
        ListedUser {
            username: username.into(),
            sub: Some(format!("sub-of-{username}")),
            email: None,
            phone_number: None,
            preferred_username: None,
            created: Some(UnixMillis(1000)),
            enabled: true,
            federated: false,
        }
    }

    fn rules() -> SelectionRules {
        SelectionRules { all_users: true, ..SelectionRules::default() }
    }

    fn in_shard(index: u32, count: u32) -> Selection {
        Selection::of(&rules()).in_shard("eu-west-1_Test", Shard::new(index, count).unwrap())
    }

    #[test]
    fn disabled_and_federated_users_are_left_out_unless_wanted_or_named() {
        let disabled = ListedUser { enabled: false, ..user("disabled") };
        let federated = ListedUser { federated: true, ..user("federated") };
        let mut rules = rules();
        let selection = Selection::of(&rules);
        assert!(!selection.wants(&disabled, false) && !selection.wants(&federated, false));
        assert!(selection.wants(&disabled, true) && selection.wants(&federated, true));
        (rules.include_disabled, rules.include_federated) = (true, true);
        let selection = Selection::of(&rules);
        assert!(selection.wants(&disabled, false) && selection.wants(&federated, false));
    }

    #[test]
    fn a_listing_is_asked_for_only_where_the_configuration_wants_one() {
        let mut rules = rules();
        rules.all_users = false;
        assert_eq!(Selection::of(&rules).listings(), []);
        rules.groups = vec!["staff".into()];
        rules.filter = Some("email ^= \"a\"".into());
        let listings = [Listing::Users { filter: rules.filter.clone() }, Listing::Group("staff".into())];
        assert_eq!(Selection::of(&rules).listings(), listings);
    }

    #[test]
    fn every_change_of_the_selection_is_another_digest_and_nothing_else_is() {
        assert_eq!(Selection::of(&rules()).digest(), Selection::of(&rules()).digest());
        let changes: [fn(&mut SelectionRules); 12] = [
            |_| {},
            |rules| rules.all_users = false,
            |rules| rules.filter = Some(String::new()),
            |rules| rules.filter = Some("a".into()),
            |rules| rules.groups = vec!["a".into()],
            |rules| rules.usernames = vec!["a".into()],
            |rules| rules.usernames = vec!["a".into(), "b".into()],
            |rules| rules.usernames_file = Some("a".into()),
            |rules| rules.exclude = vec!["a".into()],
            |rules| rules.include_disabled = true,
            |rules| rules.include_federated = true,
            |rules| (rules.usernames, rules.groups) = (vec!["a".into()], vec!["a".into()]),
        ];
        let digests = changes.map(|change| {
            let mut rules = rules();
            change(&mut rules);
            Selection::of(&rules).digest()
        });
        assert_eq!(digests.into_iter().collect::<HashSet<_>>().len(), digests.len());
        let of = |names: [&str; 2]| {
            let mut rules = rules();
            rules.usernames = names.map(str::to_owned).into();
            Selection::of(&rules).digest()
        };
        assert_eq!(of(["a", "b"]), of(["b", "a"]), "their order does not matter");
        let shards = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3)];
        let digests = shards.map(|(index, count)| in_shard(index, count).digest());
        assert_eq!(digests.into_iter().collect::<HashSet<_>>().len(), digests.len());
        assert_eq!(digests[0], Selection::of(&rules()).digest(), "everybody is what it was before there were shards");
    }

    #[test]
    fn a_shard_wants_its_own_and_the_shards_together_want_everybody_once() {
        let shards = [0, 1, 2].map(|index| in_shard(index, 3));
        assert!(Selection::of(&rules()).is_whole() && shards.iter().all(|shard| !shard.is_whole()));
        for number in 0..100 {
            let listed = user(&format!("user-{number}"));
            let wanting: Vec<_> = shards.iter().filter(|shard| shard.wants(&listed, false)).collect();
            assert_eq!(wanting.len(), 1, "{number}");
            assert!(wanting[0].is_ours(&listed.username));
        }
    }

    #[test]
    fn a_user_is_who_it_was_unless_another_has_its_name() {
        let stored = |sub, gone| Some(EnrolledUser { sub, gone });
        for (stored, sub, meeting) in [
            (None, Some("a"), Meeting::New),
            (stored(Some("a"), false), Some("a"), Meeting::Known),
            (stored(Some("a"), false), None, Meeting::Known),
            (stored(None, false), None, Meeting::Known),
            (stored(None, false), Some("a"), Meeting::Recognised),
            (stored(Some("a"), true), Some("a"), Meeting::Back),
            (stored(None, true), Some("a"), Meeting::Back),
            (stored(Some("a"), true), Some("b"), Meeting::Another),
            (stored(Some("a"), false), Some("b"), Meeting::Another),
        ] {
            assert_eq!(Meeting::of(stored, sub), meeting, "{stored:?} {sub:?}");
        }
    }

    #[test]
    fn a_newcomers_history_is_what_happened_before_it_joined() {
        let now = UnixMillis(10_000_000);
        let joining = |history, configured_since| JoiningRules {
            pool_followed_since: UnixMillis(5_000_000),
            lost_since: None,
            configured_since,
            history,
        };
        let hour = Duration::from_hours(1);
        let old = Some(UnixMillis(1000));
        assert_eq!(joining(HistoryDepth::None, None).cursor(old, None, now), Cursor::new(now, now));
        assert_eq!(joining(HistoryDepth::Last(hour), None).cursor(old, None, now), Cursor::new(now, now.minus(hour)));
        assert_eq!(joining(HistoryDepth::All, None).cursor(None, None, now), Cursor::new(now, UnixMillis::MIN));
        let since = UnixMillis(7_000_000);
        assert_eq!(joining(HistoryDepth::None, Some(since)).cursor(old, None, now), Cursor::new(since, since));
        let newborn = joining(HistoryDepth::None, None).cursor(Some(UnixMillis(5_000_000)), None, now);
        assert_eq!(newborn, Cursor::new(UnixMillis::MIN, UnixMillis::MIN), "all its events are live");
    }

    #[test]
    fn after_a_loss_what_happened_since_then_is_live_for_everybody_who_comes_back() {
        let lost = UnixMillis(5_000_000);
        let joining = |configured_since| JoiningRules {
            pool_followed_since: lost,
            lost_since: Some(lost),
            configured_since,
            history: HistoryDepth::Last(Duration::from_secs(1)),
        };
        let (old, now) = (Some(UnixMillis(1000)), UnixMillis(10_000_000));
        assert_eq!(joining(None).cursor(old, None, now), Cursor::new(lost, UnixMillis(4_999_000)));
        assert_eq!(joining(None).cursor(None, None, now).live_since(), lost, "a name of whom no listing tells");
        assert_eq!(joining(None).cursor(Some(UnixMillis(5_000_001)), None, now).live_since(), UnixMillis::MIN);
        let earlier = UnixMillis(3_000_000);
        assert_eq!(joining(Some(earlier)).cursor(old, None, now).live_since(), earlier);
        assert_eq!(joining(Some(UnixMillis(7_000_000))).cursor(old, None, now).live_since(), lost);
        let before = UnixMillis(4_000_000);
        assert_eq!(joining(None).cursor(old, None, before).live_since(), before, "a clock that went back");
    }

    #[test]
    fn what_happened_before_a_user_came_over_is_another_shards_to_count() {
        let (old, moved_in, now) = (UnixMillis(5_000_000), UnixMillis(8_000_000), UnixMillis(10_000_000));
        let joining = |lost_since, configured_since| JoiningRules {
            pool_followed_since: UnixMillis(4_000_000),
            lost_since,
            configured_since,
            history: HistoryDepth::None,
        };
        let live_since =
            |joining: JoiningRules, created| joining.cursor(Some(created), Some(moved_in), now).live_since();
        assert_eq!(live_since(joining(Some(moved_in), None), old), moved_in, "since the start that brought it here");
        let earlier = Some(UnixMillis(6_000_000));
        assert_eq!(live_since(joining(earlier, None), old), moved_in, "not since an earlier loss or change");
        assert_eq!(live_since(joining(None, None), old), now, "long after the change it is anybody");
        assert_eq!(live_since(joining(Some(moved_in), earlier), old), UnixMillis(6_000_000), "unless people say so");
        assert_eq!(live_since(joining(None, None), moved_in), UnixMillis::MIN, "born here");
        assert!(
            !joining(None, None).is_newborn(Some(old), Some(moved_in))
                && joining(None, None).is_newborn(Some(old), None)
        );
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
