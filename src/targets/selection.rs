//! Who is wanted of a pool, what meeting a user means, and what of its events is live.
//!
//! Pure.

use std::collections::BTreeSet;

use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::privacy::Privacy;
use cognito_auth_core::shard::Shard;
use sha2::{Digest as _, Sha256};

use crate::config::{FirstRun, PoolConfig};
use crate::source::{ListedUser, Listing};

/// Whom a pool's configuration selects.
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
    /// The selection of a pool.
    pub fn of(pool: &PoolConfig) -> Self {
        let users = (pool.all_users || pool.filter.is_some()).then(|| Listing::Users { filter: pool.filter.clone() });
        Self {
            pool_id: pool.id.clone(),
            listings: users.into_iter().chain(pool.groups.iter().cloned().map(Listing::Group)).collect(),
            excluded: pool.exclude.clone(),
            include_disabled: pool.include_disabled,
            include_federated: pool.include_federated,
            shard: Shard::WHOLE,
            digest: digest(pool),
            privacy: Privacy::default(),
        }
    }

    /// The same, of users who are told apart by the ledger's names for them.
    pub fn named_by(self, privacy: Privacy) -> Self {
        Self { privacy, ..self }
    }

    /// What the ledger calls users.
    pub fn privacy(&self) -> &Privacy {
        &self.privacy
    }

    /// Of the selection, those who are in this share. A list of users that was stored under another share is another selection's.
    #[must_use]
    pub fn in_shard(self, shard: Shard) -> Self {
        if shard.is_whole() {
            return self;
        }
        let part = Sha256::new().chain_update(self.digest.to_le_bytes()).chain_update(shard.index().to_le_bytes());
        let digest = first_of(&part.chain_update(shard.count().to_le_bytes()).finalize());
        Self { shard, digest, ..self }
    }

    /// Whether a user is in the share: every newcomer passes here, listed or named; who does not is not enrolled, and is gone
    /// if it was.
    pub fn is_ours(&self, username: &str) -> bool {
        self.shard.holds(&self.pool_id, username)
    }

    /// Whether the share is everybody.
    pub fn is_whole(&self) -> bool {
        self.shard.is_whole()
    }

    /// What has to be listed; nothing if all users are named by hand.
    pub fn listings(&self) -> &[Listing] {
        &self.listings
    }

    /// The same for the same selection. The names in `usernames_file` are not part of it: they change while the process runs.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether one of the listings names every user of the pool.
    pub fn lists_everybody(&self) -> bool {
        self.listings.contains(&Listing::Users { filter: None })
    }

    /// Whom to leave out, as written: see `targets::exclusion`.
    pub fn exclude(&self) -> &[String] {
        &self.excluded
    }

    /// Whether a listed user is wanted who is not left out by name. Who is named by hand is wanted also if disabled or
    /// federated.
    pub fn wants(&self, user: &ListedUser, is_named: bool) -> bool {
        let kind = (user.enabled || self.include_disabled) && (!user.federated || self.include_federated);
        (kind || is_named) && self.is_ours(&user.username)
    }
}

/// Every part with its length in front, so that no two selections read the same; lists in order, each name once.
fn digest(pool: &PoolConfig) -> u64 {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(&[pool.all_users, pool.include_disabled, pool.include_federated, pool.filter.is_some()].map(u8::from));
    part(pool.filter.as_deref().unwrap_or_default().as_bytes());
    let file = pool.usernames_file.as_ref().map(|path| path.to_string_lossy().into_owned());
    for list in [&pool.usernames, &pool.groups, &pool.exclude, &file.into_iter().collect()] {
        let list: BTreeSet<_> = list.iter().collect();
        part(&(list.len() as u64).to_le_bytes());
        list.into_iter().for_each(|name| part(name.as_bytes()));
    }
    first_of(&hash.finalize())
}

fn first_of(digest: &[u8]) -> u64 {
    digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// What is stored of a user's place among the followed users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored<'a> {
    /// Its `sub`, where a listing gave it.
    pub sub: Option<&'a str>,
    /// Whether it is noted as gone.
    pub gone: bool,
}

/// What it means that a wanted user was met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meeting {
    /// Followed already, as it was.
    Known,
    /// Known, but not by its `sub` until now.
    Recognised,
    /// It was gone, and goes on where it was.
    Back,
    /// Never followed.
    New,
    /// Another person has the name now: nothing of the former one is known of it.
    Another,
}

impl Meeting {
    /// Judges by what is stored under the username.
    pub fn of(stored: Option<Stored<'_>>, sub: Option<&str>) -> Self {
        match stored {
            None => Self::New,
            Some(Stored { sub: Some(stored), .. }) if sub.is_some_and(|sub| sub != stored) => Self::Another,
            Some(Stored { gone: true, .. }) => Self::Back,
            Some(Stored { sub: None, .. }) if sub.is_some() => Self::Recognised,
            Some(_) => Self::Known,
        }
    }
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

/// When a pool's users are live, and how far back their history goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joining {
    /// When the pool was first followed.
    pub pool_followed_since: UnixMillis,
    /// Present while the users of a lost ledger come back (when it was last written), or those of other shards come over
    /// (when this one began with its present share).
    pub lost_since: Option<UnixMillis>,
    /// `pools[].followed_since`.
    pub configured_since: Option<UnixMillis>,
    /// `poll.first_run`.
    pub first_run: FirstRun,
}

impl Joining {
    /// Whether a user was created after its pool was first followed, and after it came over from another shard (`moved_in`).
    pub fn is_newborn(&self, created: Option<UnixMillis>, moved_in: Option<UnixMillis>) -> bool {
        let ours_since = moved_in.map_or(self.pool_followed_since, |moved_in| moved_in.max(self.pool_followed_since));
        created.is_some_and(|created| created >= ours_since)
    }

    /// The cursor of a user who joins the followed users at `now`, after it came over from another shard if `moved_in` says so.
    ///
    /// History is what happened before the user was first among the followed users, not before the first poll, which may be hours
    /// later. A user who was created after the pool was first followed has none: all its events are live. While the users of
    /// a lost ledger come back, everybody is taken for one of them. What happened before a user came over is another shard's
    /// to count.
    pub fn cursor(&self, created: Option<UnixMillis>, moved_in: Option<UnixMillis>, now: UnixMillis) -> Cursor {
        if self.is_newborn(created, moved_in) {
            return Cursor::new(UnixMillis::MIN, UnixMillis::MIN);
        }
        let lost_since = self.lost_since.map(|lost| moved_in.map_or(lost, |moved_in| lost.max(moved_in)));
        let earlier = lost_since.into_iter().chain(self.configured_since);
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
    use std::collections::HashSet;
    use std::time::Duration;

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

    #[test]
    fn disabled_and_federated_users_are_left_out_unless_wanted_or_named() {
        let disabled = ListedUser { enabled: false, ..user("disabled") };
        let federated = ListedUser { federated: true, ..user("federated") };
        let mut pool = pool();
        let selection = Selection::of(&pool);
        assert!(!selection.wants(&disabled, false) && !selection.wants(&federated, false));
        assert!(selection.wants(&disabled, true) && selection.wants(&federated, true));
        (pool.include_disabled, pool.include_federated) = (true, true);
        let selection = Selection::of(&pool);
        assert!(selection.wants(&disabled, false) && selection.wants(&federated, false));
    }

    #[test]
    fn a_listing_is_asked_for_only_where_the_configuration_wants_one() {
        let mut pool = pool();
        pool.all_users = false;
        assert_eq!(Selection::of(&pool).listings(), []);
        pool.groups = vec!["staff".into()];
        pool.filter = Some("email ^= \"a\"".into());
        let listings = [Listing::Users { filter: pool.filter.clone() }, Listing::Group("staff".into())];
        assert_eq!(Selection::of(&pool).listings(), listings);
    }

    #[test]
    fn every_change_of_the_selection_is_another_digest_and_nothing_else_is() {
        let mut same = pool();
        (same.name, same.followed_since) = ("renamed".into(), Some(UnixMillis(1)));
        assert_eq!(Selection::of(&same).digest(), Selection::of(&pool()).digest());
        let changes: [fn(&mut PoolConfig); 12] = [
            |_| {},
            |pool| pool.all_users = false,
            |pool| pool.filter = Some(String::new()),
            |pool| pool.filter = Some("a".into()),
            |pool| pool.groups = vec!["a".into()],
            |pool| pool.usernames = vec!["a".into()],
            |pool| pool.usernames = vec!["a".into(), "b".into()],
            |pool| pool.usernames_file = Some("a".into()),
            |pool| pool.exclude = vec!["a".into()],
            |pool| pool.include_disabled = true,
            |pool| pool.include_federated = true,
            |pool| (pool.usernames, pool.groups) = (vec!["a".into()], vec!["a".into()]),
        ];
        let digests = changes.map(|change| {
            let mut pool = pool();
            change(&mut pool);
            Selection::of(&pool).digest()
        });
        assert_eq!(digests.into_iter().collect::<HashSet<_>>().len(), digests.len());
        let of = |names: [&str; 2]| {
            let mut pool = pool();
            pool.usernames = names.map(str::to_owned).into();
            Selection::of(&pool).digest()
        };
        assert_eq!(of(["a", "b"]), of(["b", "a"]), "their order does not matter");
        let shards = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3)];
        let digests =
            shards.map(|(index, count)| Selection::of(&pool()).in_shard(Shard::new(index, count).unwrap()).digest());
        assert_eq!(digests.into_iter().collect::<HashSet<_>>().len(), digests.len());
        assert_eq!(digests[0], Selection::of(&pool()).digest(), "everybody is what it was before there were shards");
    }

    #[test]
    fn a_shard_wants_its_own_and_the_shards_together_want_everybody_once() {
        let shards = [0, 1, 2].map(|index| Selection::of(&pool()).in_shard(Shard::new(index, 3).unwrap()));
        for number in 0..100 {
            let listed = user(&format!("user-{number}"));
            let wanting: Vec<_> = shards.iter().filter(|shard| shard.wants(&listed, false)).collect();
            assert_eq!(wanting.len(), 1, "{number}");
            assert!(wanting[0].is_ours(&listed.username));
        }
    }

    #[test]
    fn a_user_is_who_it_was_unless_another_has_its_name() {
        let stored = |sub, gone| Some(Stored { sub, gone });
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
        let joining = |first_run, configured_since| Joining {
            pool_followed_since: UnixMillis(5_000_000),
            lost_since: None,
            configured_since,
            first_run,
        };
        let hour = Duration::from_hours(1);
        let old = Some(UnixMillis(1000));
        assert_eq!(joining(FirstRun::None, None).cursor(old, None, now), Cursor::new(now, now));
        assert_eq!(joining(FirstRun::Last(hour), None).cursor(old, None, now), Cursor::new(now, now.minus(hour)));
        assert_eq!(joining(FirstRun::All, None).cursor(None, None, now), Cursor::new(now, UnixMillis::MIN));
        let since = UnixMillis(7_000_000);
        assert_eq!(joining(FirstRun::None, Some(since)).cursor(old, None, now), Cursor::new(since, since));
        let newborn = joining(FirstRun::None, None).cursor(Some(UnixMillis(5_000_000)), None, now);
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
        let joining = |lost_since, configured_since| Joining {
            pool_followed_since: UnixMillis(4_000_000),
            lost_since,
            configured_since,
            first_run: FirstRun::None,
        };
        let live_since = |joining: Joining, created| joining.cursor(Some(created), Some(moved_in), now).live_since();
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
