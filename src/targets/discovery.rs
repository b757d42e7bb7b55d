//! Keeps the followed users of a pool: begins with the stored one, reads the listings and the file of names, enrols, retires, forgets.
//!
//! The shell around [`ListingPass`]: it asks for pages, writes what they mean into the ledger, then tells the poller. Every step
//! is written before the next, and each can be done again: a process that dies between two finds stored users that are true as
//! far as it goes, and its next round does the rest.
//!
//! | dies | then |
//! |---|---|
//! | between two pages | those enrolled are polled from the next start on, the others when they are listed again |
//! | after some of those who are gone were noted | the next complete round notes the rest |
//! | under a changed selection, before its first round is complete | nobody is polled at start who has not been listed again |

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::privacy;
use cognito_auth_core::schedule::ActivityEstimate;
use cognito_auth_core::shard::Shard;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::listing_pass::{Complete, Contested, ListingPass, Wanted};
use super::names::NamingRules;
use super::selection::{Joining, Meeting, Selection, Stored};
use super::usernames_file;
use crate::config::{FirstRun, PoolConfig};
use crate::failpoint::{self, Failpoint};
use crate::ledger::{Ledger, LedgerError, PoolRecord, Standing, UserRecord};
use crate::lifecycle::Clock;
use crate::metrics::Metrics;
use crate::poller::Message;
use crate::poller::health::Trouble;
use crate::pool::Pool;
use crate::source::{Listing, Source, SourceError};
use crate::status::StatusBoard;

/// How often the file of usernames is looked at for a change.
const FILE_LOOK_EVERY: Duration = Duration::from_secs(5);

/// Pause after a listing that broke off, and while the ledger cannot be written; the former is doubled up to
/// `discovery.interval` while nothing is read.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Throttles of one page in a row, each of which has slowed the rate_limiter down, after which it counts as broken off.
const THROTTLES_MAX: u32 = 8;

/// Names that are read from the ledger, told to the poller, or noted at once: a few milliseconds of work, and then others
/// have their turn.
const AT_ONCE: usize = 500;

/// How often it is looked for users to forget: `discovery.forget_after` is a day at least.
const FORGET_EVERY: Duration = Duration::from_hours(1);

/// How often it is asked what names the users of a pool that refuses to be described. Once it has said so it is not asked
/// again: a pool keeps that from its creation on.
const NAMES_EVERY: Duration = Duration::from_hours(1);

/// Places of contested names that one line of the log holds.
const PLACES_TOLD: usize = 10;

/// The followed users of one pool.
pub struct Discovery<S> {
    /// The pool as configured.
    pub config: PoolConfig,
    /// `shard`.
    pub shard: Shard,
    /// The pool as followed.
    pub pool: Arc<Pool<S>>,
    /// The pool as stored.
    pub record: PoolRecord,
    /// What names its users, as far as it has said so.
    pub rules: NamingRules,
    /// What makes a newcomer's events live or history.
    pub joining: Joining,
    /// `discovery.interval`.
    pub interval: Duration,
    /// `discovery.forget_after`.
    pub forget_after: Duration,
    /// Where the followed users is stored.
    pub ledger: Ledger,
    /// Where success is shown.
    pub metrics: Metrics,
    /// Where trouble is shown.
    pub status: StatusBoard,
    /// The time of joining and leaving.
    pub clock: Clock,
    /// Whom to tell.
    pub poller: mpsc::Sender<Message<S>>,
    /// What is asked for from the next round on.
    pub wishes: watch::Receiver<Wishes>,
}

/// What may change while a pool is followed.
#[derive(Clone, PartialEq, Debug)]
pub struct Wishes {
    /// Whom to follow; everything else of the pool stays.
    pub config: PoolConfig,
    /// `discovery.interval`.
    pub interval: Duration,
    /// `discovery.forget_after`.
    pub forget_after: Duration,
    /// `poll.first_run`, for those who join.
    pub first_run: FirstRun,
}

/// What has been learnt so far.
#[derive(Default)]
struct Known {
    /// The names of `usernames_file`, as last read.
    in_file: Vec<String>,
    file_content: Option<usernames_file::Content>,
    file_trouble: Option<String>,
    /// What people were told of.
    listing_trouble: Option<Trouble>,
    /// Whether anybody is followed.
    anybody: bool,
    /// Whether anybody may be followed whom a listing gave: a name that is not known may be an alias of theirs.
    anybody_listed: bool,
    /// Names listed by hand, and the username of whose each was in the last complete round.
    owners: HashMap<String, String>,
    /// Names that several users claim, as people were told.
    contested: Contested,
    /// When it was last asked what names users, if the pool refuses to be described.
    asked_for_names: Option<Instant>,
    /// Who joined and left since people were told.
    joined: usize,
    left: usize,
    forgot: Option<Instant>,
    /// Who is left out because of a record that cannot be read.
    unreadable: BTreeSet<String>,
    /// The latest reason, and of how many users people were told.
    unreadable_because: Option<LedgerError>,
    unreadable_told: usize,
}

impl Known {
    /// Leaves a user out whose record cannot be read: it stays as it is, for a build that can, and concerns nobody else.
    fn leave_out(&mut self, username: &str, error: LedgerError) {
        self.unreadable.insert(username.to_owned());
        self.unreadable_because = Some(error);
    }
}

/// What a chunk of users means, gathered before it is written and told.
#[derive(Default)]
struct Enrolment {
    /// Whom the poller follows from now on.
    names: Vec<(String, ActivityEstimate)>,
    records: Vec<(String, UserRecord)>,
    /// How many names are another person's now.
    succeeded: usize,
    /// How many came over from another shard, of whom something out of date was stored.
    came_over: usize,
    /// When those were created who were created since the pool is followed.
    born: Vec<UnixMillis>,
}

impl<S: Source> Discovery<S> {
    /// Keeps the followed users until the soft stop.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(mut self) {
        let mut selection = self.selection();
        // It was asked just now.
        let mut known = Known { asked_for_names: Some(Instant::now()), ..Known::default() };
        self.begin(&selection, &mut known).await;
        loop {
            if self.wishes.has_changed().unwrap_or(false) {
                selection = self.change(&selection, &mut known).await;
            }
            self.read_names(&mut known).await;
            self.learn_rules(&mut known).await;
            let by_hand = self.config.usernames.iter().chain(&known.in_file).cloned();
            let round = ListingPass::begin(&selection, self.rules, by_hand);
            let may_remove = known.file_trouble.is_none();
            if let Some(complete) = self.read_to_its_end(&selection, round, &mut known).await {
                self.settle(complete, may_remove, &selection, &mut known).await;
                self.forget(&mut known).await;
                self.pause(self.interval, &mut known).await;
            }
        }
    }

    /// Asks again what names the pool's users, if it has not said so yet. Others' calls come first: one call an hour.
    async fn learn_rules(&mut self, known: &mut Known) {
        if self.rules.are_known() || known.asked_for_names.is_some_and(|asked| asked.elapsed() < NAMES_EVERY) {
            return;
        }
        known.asked_for_names = Some(Instant::now());
        match self.pool.source.describe().await {
            Ok(description) => {
                self.rules = NamingRules::new(description.sign_in_names);
                if self.rules.are_known() {
                    info!(pool = self.pool.identity.id, names = %self.rules, "it is known what names users");
                }
            }
            // People were told when the pool began to be followed; what every call meets is told by the others.
            Err(error) => debug!(pool = self.pool.identity.id, %error, "it is still not known what names users"),
        }
    }

    /// Whom the wishes of now select, of this shard's users.
    fn selection(&self) -> Selection {
        Selection::of(&self.config).named_by(self.ledger.privacy().clone()).in_shard(self.shard)
    }

    /// Begins with the stored users, if it was made by this selection; else notes that it cannot be trusted any more.
    async fn begin(&mut self, selection: &Selection, known: &mut Known) {
        if self.record.selection == Some(selection.digest()) {
            return self.follow_the_stored(selection, known).await;
        }
        // Whoever is there was enrolled under another selection. Where nobody is, what follows is all of this one.
        let is_empty = self.ledger.followed(&self.pool.identity.id).next().is_none();
        self.record.selection = is_empty.then(|| selection.digest());
        self.write_record().await;
    }

    /// Takes other wishes up, between two rounds. Nobody leaves by it: the next complete round says who is gone.
    async fn change(&mut self, before: &Selection, known: &mut Known) -> Selection {
        let wishes = self.wishes.borrow_and_update().clone();
        (self.interval, self.forget_after) = (wishes.interval, wishes.forget_after);
        self.joining.first_run = wishes.first_run;
        if wishes.config.usernames_file != self.config.usernames_file {
            (known.in_file, known.file_content, known.file_trouble) = (Vec::new(), None, None);
        }
        self.config = wishes.config;
        // Whoever changed the configuration may have changed the role.
        known.asked_for_names = None;
        let selection = self.selection();
        if selection.digest() != before.digest() {
            // Until then a process that starts does not trust what it finds.
            self.record.selection = None;
            self.write_record().await;
        }
        selection
    }

    async fn follow_the_stored(&self, selection: &Selection, known: &mut Known) {
        let (mut followed, mut unread) = (0, false);
        let mut names = Vec::new();
        let by_hand: HashSet<_> =
            self.config.usernames.iter().map(|name| self.ledger.privacy().ledger_name(name)).collect();
        for username in self.ledger.followed(&self.pool.identity.id) {
            match username {
                // Nobody can be asked about by a hash: who has one joins when a listing gives the name.
                Ok(username) if privacy::is_hidden(&username) => {
                    known.anybody_listed |= !by_hand.contains(&username);
                }
                Ok(username) if !selection.is_ours(&username) => {}
                Ok(username) => {
                    known.anybody_listed |= !by_hand.contains(&username);
                    match self.ledger.standing(&self.pool.identity.id, &username) {
                        Err(error) if is_unreadable(&error) => known.leave_out(&username, error),
                        Err(_) => unread = true,
                        Ok(standing) => names.push((username, self.activity(standing.as_ref()))),
                    }
                }
                Err(_) => unread = true,
            }
            if names.len() >= AT_ONCE {
                followed += names.len();
                self.tell(Message::Joined(self.pool.slot, std::mem::take(&mut names))).await;
                tokio::task::yield_now().await;
            }
            // The rest joins when it is listed.
            if unread {
                break;
            }
        }
        names.extend(self.known_by_hand(selection, known).await);
        followed += names.len();
        self.tell(Message::Joined(self.pool.slot, names)).await;
        known.anybody = followed > 0;
        if followed > 0 {
            info!(pool = self.pool.identity.id, followed, "continuing with the stored users");
        }
        self.tell_of_unreadable(known);
    }

    /// Those listed by hand who are followed and known by a hash.
    async fn known_by_hand(&self, selection: &Selection, known: &mut Known) -> Vec<(String, ActivityEstimate)> {
        let (pool_id, mut names) = (&self.pool.identity.id, Vec::new());
        if self.ledger.privacy().modes().hides_names() {
            for username in &self.config.usernames {
                let recognised = self.ledger.recognise(pool_id, username, None).await;
                match recognised.and_then(|()| self.ledger.standing(pool_id, username)) {
                    Ok(Some(standing)) if standing.gone_since.is_none() && selection.is_ours(username) => {
                        names.push((username.clone(), self.activity(Some(&standing))));
                    }
                    Err(error) if is_unreadable(&error) => known.leave_out(username, error),
                    // Who could not be read joins with the first round.
                    Ok(_) | Err(_) => {}
                }
            }
        }
        names
    }

    /// Reads every listing to its end, however often one breaks off; None if the file of names has changed meanwhile, and
    /// the round is to begin again.
    async fn read_to_its_end(
        &mut self,
        selection: &Selection,
        mut round: ListingPass<'_>,
        known: &mut Known,
    ) -> Option<Complete> {
        let mut retry_after = RETRY_AFTER;
        loop {
            let met = round.met();
            let result = self.read_on(&mut round, known).await;
            self.tell_how_it_went(round.listings() > 0, known, result).await;
            if round.met() > met {
                retry_after = RETRY_AFTER;
            }
            round = match round.complete(|name| self.was_listed(name)) {
                Ok(complete) => return Some(complete),
                Err(unfinished) => unfinished,
            };
            // Whose alias a name is may be known to another shard: each of them has to have met everybody.
            if !known.anybody_listed && selection.is_whole() {
                let as_given: Vec<_> = round.unmet().collect();
                self.join(&as_given, known).await;
            }
            self.tell_of_changes(round.met(), known);
            self.forget(known).await;
            if self.pause(retry_after.min(self.interval), known).await {
                return None;
            }
            retry_after *= 2;
        }
    }

    /// Reads on in every listing that has not come to its end. One that breaks off leaves the others their turn; the first
    /// error is told.
    async fn read_on(&mut self, round: &mut ListingPass<'_>, known: &mut Known) -> Result<(), (Listing, SourceError)> {
        let mut result = Ok(());
        for listing in 0..round.listings() {
            let read = self.read_listing(listing, round, known).await;
            result = result.and(read);
        }
        result
    }

    async fn read_listing(
        &mut self,
        index: usize,
        round: &mut ListingPass<'_>,
        known: &mut Known,
    ) -> Result<(), (Listing, SourceError)> {
        let (mut throttles, mut refusals) = (0, 0);
        while let Some((listing, token)) = round.next(index) {
            self.pool.source.lists().acquire().await;
            match self.pool.source.users(listing, token).await {
                Ok(page) => {
                    throttles = 0;
                    let taken = round.take(index, page);
                    known.anybody_listed |= !taken.wanted.is_empty();
                    self.join(&taken.wanted, known).await;
                    self.metrics.discovery_progress(&self.pool.identity.id, round.met() as u64);
                    if taken.token_repeated {
                        let error = SourceError::Passing("the service repeated its listing token".into());
                        return Err((listing.clone(), error));
                    }
                }
                // The rate_limiter has slowed down; the same page again.
                Err(SourceError::Throttled(_)) if throttles < THROTTLES_MAX => throttles += 1,
                // Refused or expired: from the top, once before people hear of it.
                Err(SourceError::InvalidParameter(_)) if token.is_some() && refusals == 0 => {
                    refusals += 1;
                    round.from_the_top(index);
                }
                Err(error) => {
                    if matches!(error, SourceError::InvalidParameter(_)) {
                        round.from_the_top(index);
                    }
                    return Err((listing.clone(), error));
                }
            }
        }
        Ok(())
    }

    /// Has users followed: in the ledger first, then at the poller. Known ones cost a look.
    async fn join(&self, wanted: &[Wanted], known: &mut Known) {
        for part in wanted.chunks(AT_ONCE) {
            while let Err(error) = self.enroll(part, known).await {
                debug!(pool = self.pool.identity.id, %error, "followed users not stored; retrying");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
        known.anybody |= !wanted.is_empty();
    }

    async fn enroll(&self, wanted: &[Wanted], known: &mut Known) -> Result<(), LedgerError> {
        let pool_id = &self.pool.identity.id;
        let mut enrolment = Enrolment::default();
        for user in wanted {
            match self.meet(user, &mut enrolment).await {
                Ok(activity) => {
                    known.unreadable.remove(&user.username);
                    enrolment.names.push((user.username.clone(), activity));
                }
                Err(error) if is_unreadable(&error) => known.leave_out(&user.username, error),
                Err(error) => return Err(error),
            }
        }
        let Enrolment { names, records, succeeded, came_over, born } = enrolment;
        let joined = records.len();
        if joined > 0 {
            self.ledger.enroll(pool_id, records).await?;
        }
        failpoint::reached(Failpoint::UsersEnrolled);
        if !names.is_empty() {
            self.tell(Message::Joined(self.pool.slot, names)).await;
        }
        failpoint::reached(Failpoint::PollerTold);
        known.joined += joined + succeeded + came_over;
        known.left += succeeded;
        // After a loss everybody is new to the ledger, and nobody to the pool.
        if self.joining.lost_since.is_none() {
            let joined_at = self.clock.now();
            born.into_iter().for_each(|created| self.metrics.discovery_delay(pool_id, joined_at.since(created)));
        }
        Ok(())
    }

    /// Finds out what it means that a user was met. What concerns another name or another person is written and told at
    /// once: done again, it would not be found any more. Who is told to leave before it joins is polled at once. Answers
    /// what is known of the user's activity.
    async fn meet(&self, user: &Wanted, enrolment: &mut Enrolment) -> Result<ActivityEstimate, LedgerError> {
        let pool_id = &self.pool.identity.id;
        let now = self.clock.now();
        let moved_in = self.record.shares.moved_in(pool_id, &user.username);
        if self.come_over(user).await? {
            enrolment.came_over += 1;
            enrolment.born.extend(user.created.filter(|_| self.joining.is_newborn(user.created, moved_in)));
        }
        for alias in &user.aliases {
            self.ledger.recognise(pool_id, alias, user.sub.as_deref()).await?;
            if self.is_followed_as(alias, user)? {
                self.ledger.merge_user(pool_id, alias, &user.username, self.newcomer(user, now)).await?;
                self.tell(Message::Left(self.pool.slot, vec![alias.clone()])).await;
            }
        }
        let standing = self.ledger.standing(pool_id, &user.username)?;
        match Meeting::of(standing.as_ref().map(stored), self.sub_of(user).as_deref()) {
            Meeting::Known => return Ok(self.activity(standing.as_ref())),
            Meeting::Recognised | Meeting::Back => {
                if let Some(mut record) = self.ledger.user(pool_id, &user.username)? {
                    record.sub = user.sub.clone().or(record.sub);
                    enrolment.records.push((user.username.clone(), record));
                }
                return Ok(self.activity(standing.as_ref()));
            }
            Meeting::New => enrolment.records.push((user.username.clone(), self.newcomer(user, now))),
            Meeting::Another => {
                let since = user.created.unwrap_or(UnixMillis::MIN);
                self.ledger.replace_user(pool_id, &user.username, self.newcomer(user, now), since).await?;
                self.tell(Message::Left(self.pool.slot, vec![user.username.clone()])).await;
                enrolment.succeeded += 1;
            }
        }
        enrolment.born.extend(user.created.filter(|_| self.joining.is_newborn(user.created, moved_in)));
        Ok(ActivityEstimate::UNKNOWN)
    }

    /// Has a user begin anew that comes over from another shard, which has counted its events since what is stored of it here:
    /// before anything else is joined to that. Answers whether it does. What is stored is found first, under whatever name the
    /// ledger had for the user until now.
    async fn come_over(&self, user: &Wanted) -> Result<bool, LedgerError> {
        let pool_id = &self.pool.identity.id;
        self.ledger.recognise(pool_id, &user.username, user.sub.as_deref()).await?;
        let standing = self.ledger.standing(pool_id, &user.username)?;
        if !standing.is_some_and(|standing| self.is_outdated(&user.username, &standing)) {
            return Ok(false);
        }
        let since = self.record.shares.moved_in(pool_id, &user.username).unwrap_or(UnixMillis::MIN);
        self.ledger.replace_user(pool_id, &user.username, self.newcomer(user, self.clock.now()), since).await?;
        self.tell(Message::Left(self.pool.slot, vec![user.username.clone()])).await;
        Ok(true)
    }

    /// Whether another shard has followed a user since what is stored of it here.
    fn is_outdated(&self, username: &str, standing: &Standing) -> bool {
        let moved_in = self.record.shares.moved_in(&self.pool.identity.id, username);
        moved_in.is_some_and(|moved_in| standing.joined < moved_in)
    }

    /// What is known of a user's activity at present.
    fn activity(&self, standing: Option<&Standing>) -> ActivityEstimate {
        let activity = standing.and_then(|standing| standing.activity);
        activity.map_or(ActivityEstimate::UNKNOWN, |activity| activity.aged(self.clock.now()))
    }

    /// Whether a listed user was followed under an alias, as it was given. What lies under the name may also be another
    /// listed user, whose username it is.
    fn is_followed_as(&self, alias: &str, user: &Wanted) -> Result<bool, LedgerError> {
        let standing = self.ledger.standing(&self.pool.identity.id, alias)?;
        Ok(standing.is_some_and(|standing| {
            (standing.sub.is_none() || standing.sub == self.sub_of(user)) && !self.is_outdated(alias, &standing)
        }))
    }

    /// A user's `sub` as the ledger has it.
    fn sub_of(&self, user: &Wanted) -> Option<String> {
        user.sub.as_deref().map(|sub| self.ledger.privacy().ledger_name(sub))
    }

    fn newcomer(&self, user: &Wanted, now: UnixMillis) -> UserRecord {
        let moved_in = self.record.shares.moved_in(&self.pool.identity.id, &user.username);
        UserRecord {
            // Not before the change that brought it here, whatever the clock says: it would seem out of date for ever.
            joined: moved_in.map_or(now, |moved_in| now.max(moved_in)),
            sub: user.sub.clone(),
            cursor: self.joining.cursor(user.created, moved_in, now),
            activity: None,
        }
    }

    /// Draws the conclusions of a complete round: names that are nobody's alias are followed as given, and who was not met
    /// is gone.
    async fn settle(&mut self, complete: Complete, may_remove: bool, selection: &Selection, known: &mut Known) {
        for Wanted { username: name, .. } in complete.as_given() {
            // Whose name it was before, and who is listed no more, goes on under it.
            if let Some(before) = known.owners.get(name)
                && selection.is_ours(before)
                && !complete.wants(before)
                && let Err(error) = self.carry_back(before, name).await
            {
                known.leave_out(name, error);
            }
        }
        let readable = complete.as_given().iter().filter(|user| !known.unreadable.contains(&user.username));
        let as_given: Vec<_> = readable.cloned().collect();
        self.join(&as_given, known).await;
        if may_remove {
            while let Err(error) = self.retire(&complete, known).await {
                debug!(pool = self.pool.identity.id, %error, "followed users not stored; retrying");
                tokio::time::sleep(RETRY_AFTER).await;
            }
            // After a loss, everybody who could have been followed before it is enrolled again: who joins from now on is new.
            self.joining.lost_since = None;
            let record = PoolRecord { lost_since: None, selection: Some(selection.digest()), ..self.record.clone() };
            if record != self.record {
                self.record = record;
                self.write_record().await;
            }
        }
        known.anybody = !complete.is_empty();
        known.unreadable.retain(|username| complete.wants(username));
        self.tell_of_changes(complete.len(), known);
        self.metrics.discovery_succeeded(&self.pool.identity.id, self.clock.now());
        self.tell_of_contested(complete.contested(), known);
        known.owners = complete.into_owners();
    }

    /// Whether a name is followed as the username of somebody whom a listing has named.
    fn was_listed(&self, name: &str) -> bool {
        let standing = self.ledger.standing(&self.pool.identity.id, name);
        // What cannot be read now is not given up.
        standing.map_or(true, |standing| {
            standing.is_some_and(|standing| standing.sub.is_some() && standing.gone_since.is_none())
        })
    }

    /// Lets a user go on under a name listed by hand; fails only if a record cannot be read.
    async fn carry_back(&self, username: &str, name: &str) -> Result<(), LedgerError> {
        let pool_id = &self.pool.identity.id;
        let given = Wanted::as_given(name);
        let carried = async || {
            self.come_over(&given).await?;
            self.ledger.merge_user(pool_id, username, name, self.newcomer(&given, self.clock.now())).await
        };
        while let Err(error) = carried().await {
            if is_unreadable(&error) {
                return Err(error);
            }
            debug!(pool = pool_id, %error, "followed users not stored; retrying");
            tokio::time::sleep(RETRY_AFTER).await;
        }
        self.tell(Message::Left(self.pool.slot, vec![username.to_owned()])).await;
        Ok(())
    }

    /// Notes everybody as gone who is on the stored users and not wanted any more.
    async fn retire(&self, complete: &Complete, known: &mut Known) -> Result<(), LedgerError> {
        let pool_id = &self.pool.identity.id;
        let mut followed = self.ledger.followed(pool_id);
        loop {
            let part = followed.by_ref().take(AT_ONCE).collect::<Result<Vec<_>, _>>()?;
            if part.is_empty() {
                return Ok(());
            }
            let gone: Vec<String> = part.into_iter().filter(|username| !complete.wants(username)).collect();
            if !gone.is_empty() {
                self.ledger.mark_gone(pool_id, &gone, self.clock.now()).await?;
                known.left += gone.len();
                // The poller knows nobody by a hash; there it is found by the next turn.
                let named = gone.into_iter().filter(|name| !privacy::is_hidden(name)).collect();
                self.tell(Message::Left(self.pool.slot, named)).await;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Removes the state of those who have been gone for long enough. What fails is done another time.
    async fn forget(&self, known: &mut Known) {
        if known.forgot.is_some_and(|at| at.elapsed() < FORGET_EVERY) {
            return;
        }
        known.forgot = Some(Instant::now());
        let pool_id = &self.pool.identity.id;
        let now = self.clock.now();
        let mut gone = self.ledger.gone(pool_id).map_while(Result::ok).peekable();
        let mut forgotten = 0;
        while gone.peek().is_some() {
            let part = gone.by_ref().take(AT_ONCE).filter(|(_, since)| now.since(*since) >= self.forget_after);
            let names: Vec<_> = part.map(|(username, _)| username).collect();
            let count = names.len();
            if count > 0 && self.ledger.forget(pool_id, names).await.is_ok() {
                forgotten += count;
            }
            tokio::task::yield_now().await;
        }
        if forgotten > 0 {
            info!(pool = pool_id, forgotten, "the state of users who have been gone for long is removed");
        }
    }

    async fn write_record(&self) {
        while let Err(error) = self.ledger.follow_pool(&self.pool.identity.id, self.record.clone()).await {
            debug!(pool = self.pool.identity.id, %error, "the pool's record waits for the ledger");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Waits; answers at once, and true, when the file of names has changed, or what is asked for.
    async fn pause(&self, pause: Duration, known: &mut Known) -> bool {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            tokio::time::sleep_until(until.min(Instant::now() + FILE_LOOK_EVERY)).await;
            if self.wishes.has_changed().unwrap_or(false) || self.read_names(known).await {
                return true;
            }
        }
        false
    }

    /// Reads the file of names, if there is one; answers whether they may have changed.
    async fn read_names(&self, known: &mut Known) -> bool {
        let Some(path) = &self.config.usernames_file else { return false };
        match usernames_file::read_if_changed(path, known.file_content).await {
            Ok(None) => false,
            Ok(Some((names, content))) => {
                known.file_content = Some(content);
                known.file_trouble = None;
                known.in_file = names;
                true
            }
            Err(cause) => {
                // Said once for each state of the file; the names read before stay.
                if known.file_trouble.as_ref() != Some(&cause) {
                    warn!(
                        pool = self.pool.identity.id,
                        file = %path.display(),
                        cause,
                        remedy = "it has to be there, be text, and be readable by the exporter's user",
                        "usernames_file cannot be read; the names read before stay followed"
                    );
                    known.file_trouble = Some(cause);
                    // When it can be read again it counts as changed, whatever it holds.
                    known.file_content = None;
                }
                false
            }
        }
    }

    async fn tell(&self, message: Message<S>) {
        // Only a stopping poller closes its queue, and then the followed users does not matter any more.
        let _ = self.poller.send(message).await;
    }

    fn tell_of_changes(&self, met: usize, known: &mut Known) {
        let (joined, left) = (std::mem::take(&mut known.joined), std::mem::take(&mut known.left));
        if joined + left > 0 {
            info!(pool = self.pool.identity.id, joined, left, met, "followed users changed");
        }
        self.tell_of_unreadable(known);
    }

    /// Tells when names begin and cease to be claimed by several users, by their places: a log holds no names.
    fn tell_of_contested(&self, contested: &Contested, known: &mut Known) {
        let pool = &self.pool.identity.id;
        for (key, before, now) in [
            ("usernames", &known.contested.by_hand, &contested.by_hand),
            ("exclude", &known.contested.exclude, &contested.exclude),
        ] {
            if now.iter().any(|place| !before.contains(place)) {
                let places: Vec<_> = now.iter().take(PLACES_TOLD).map(usize::to_string).collect();
                warn!(
                    pool,
                    key,
                    names = now.len(),
                    places = places.join(" "),
                    remedy = "write the user's sub in place of the name",
                    "several users claim a configured name; all of them are followed"
                );
            } else if now.is_empty() && !before.is_empty() {
                info!(pool, key, "no configured name is claimed by several users any more");
            }
        }
        known.contested.clone_from(contested);
    }

    fn tell_of_unreadable(&self, known: &mut Known) {
        let users = known.unreadable.len();
        if let Some(error) = &known.unreadable_because
            && users > 0
            && users != known.unreadable_told
        {
            warn!(pool = self.pool.identity.id, users, %error, "records of users cannot be read; these users are left out");
        }
        known.unreadable_told = users;
    }

    /// Tells how the listings went.
    async fn tell_how_it_went(&self, any_listing: bool, known: &mut Known, result: Result<(), (Listing, SourceError)>) {
        let pool = &self.pool.identity.id;
        let has_users = known.anybody || !self.config.usernames.is_empty() || !known.in_file.is_empty();
        let trouble = result.as_ref().err().map(|(_, error)| Trouble::of(error).unwrap_or(Trouble::Unanswered));
        // What the polls meet too is theirs to tell: one line for one cause.
        let trouble = trouble.filter(|trouble| !(has_users && trouble.meets_every_call()));
        match &result {
            Err((listing, error)) if trouble.is_some() && trouble != known.listing_trouble => {
                let remedy = error.remedy(listing.operation(), pool);
                warn!(pool, %listing, cause = %error, remedy, "users cannot be listed; those known stay followed");
            }
            Ok(()) if known.listing_trouble.is_some() => info!(pool, "users can be listed again"),
            _ => {}
        }
        known.listing_trouble = trouble;
        if let Err((_, error)) = &result {
            self.status.pool_error(pool, &error.to_string(), self.clock.now());
        }
        if !has_users && any_listing {
            self.tell(Message::Listed(self.pool.slot, result.map_err(|(_, error)| error))).await;
        }
    }
}

fn stored(standing: &Standing) -> Stored<'_> {
    Stored { sub: standing.sub.as_deref(), gone: standing.gone_since.is_some() }
}

/// Whether it is the record that cannot be read, and not the ledger.
fn is_unreadable(error: &LedgerError) -> bool {
    matches!(error, LedgerError::Corrupt { .. } | LedgerError::NewerVersion { .. })
}
