//! Enrolment of users: writes the users that join into the ledger, then reports them.
//!
//! Every step can be done again. If the process dies between the write and the report, the next start reads the user
//! from the ledger.

mod stored;

use std::collections::HashMap;
use std::sync::Arc;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::schedule::ActivityEstimate;
use cognito_auth_core::shard::Shares;

use super::pool_users::{NAMES_AT_ONCE, PoolUsers, UnreadableUsers};
use super::user_change::FollowedUsers;
use crate::failpoint::{self, Failpoint};
use crate::ledger::{LedgerError, UserRecord, UserStanding};
use crate::metrics::Metrics;
use cognito_auth_core::users::listing_pass::{Complete, Wanted};
use cognito_auth_core::users::selection::{EnrolledUser, HistoryDepth, JoiningRules, Meeting, Selection};

/// Enrols the users of one pool.
pub(super) struct Enrolment<F> {
    users: Arc<PoolUsers<F>>,
    metrics: Metrics,
    newcomers: NewcomerRules,
    /// Whether any user is followed.
    any_followed: bool,
    /// Whether a user may be followed that a listing gave. An unknown name may be an alias of such a user.
    any_listed: bool,
    /// Names listed by hand, and the username of each one's user in the latest complete pass.
    owners: HashMap<String, String>,
    unreadable: UnreadableUsers,
    changes: UserChangeCounts,
}

/// Users that joined and left since the counts were last read.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct UserChangeCounts {
    pub(super) joined: usize,
    pub(super) left: usize,
}

/// The rules for a user that joins: the record that it begins with.
pub(super) struct NewcomerRules {
    pub(super) pool_id: String,
    pub(super) joining: JoiningRules,
    pub(super) shares: Shares,
}

impl NewcomerRules {
    /// Since when this shard has had a user without a break; None: since before the ledger remembers.
    fn moved_in(&self, username: &str) -> Option<UnixMillis> {
        self.shares.moved_in(&self.pool_id, username)
    }

    fn record(&self, user: &Wanted, now: UnixMillis) -> UserRecord {
        let moved_in = self.moved_in(&user.username);
        UserRecord {
            // An earlier time than the change of the shard, from a clock that went back, would make the record seem
            // outdated for ever.
            joined: moved_in.map_or(now, |moved_in| now.max(moved_in)),
            sub: user.sub.clone(),
            cursor: self.joining.cursor(user.created, moved_in, now),
            activity: None,
        }
    }

    /// When a user was created, if that was while this exporter followed its pool.
    fn born(&self, user: &Wanted) -> Option<UnixMillis> {
        user.created.filter(|_| self.joining.is_newborn(user.created, self.moved_in(&user.username)))
    }

    /// Whether another shard has followed a user since this ledger stored it.
    fn is_outdated(&self, username: &str, standing: &UserStanding) -> bool {
        self.moved_in(username).is_some_and(|moved_in| standing.joined < moved_in)
    }
}

/// The consequences of a chunk of users, gathered before they are written and reported.
#[derive(Default)]
struct EnrolmentBatch {
    /// Users that the poller follows from now on.
    names: Vec<(String, ActivityEstimate)>,
    records: Vec<(String, UserRecord)>,
    /// How many names belong to another person now.
    replaced: usize,
    /// How many users came from another shard and had an outdated record here.
    came_over: usize,
    /// Creation times of users that were created since the pool is followed.
    born: Vec<UnixMillis>,
}

impl<F: FollowedUsers> Enrolment<F> {
    pub(super) fn new(users: Arc<PoolUsers<F>>, metrics: Metrics, newcomers: NewcomerRules) -> Self {
        Self {
            users,
            metrics,
            newcomers,
            any_followed: false,
            any_listed: false,
            owners: HashMap::new(),
            unreadable: UnreadableUsers::default(),
            changes: UserChangeCounts::default(),
        }
    }

    /// Whether any user is followed.
    pub(super) fn any_followed(&self) -> bool {
        self.any_followed
    }

    /// Whether a user may be followed that a listing gave.
    pub(super) fn any_listed(&self) -> bool {
        self.any_listed
    }

    /// Changes how far back the history of users goes that join from now on.
    pub(super) fn set_history(&mut self, history: HistoryDepth) {
        self.newcomers.joining.history = history;
    }

    /// Answers how many users joined and left since the latest call.
    pub(super) fn take_changes(&mut self) -> UserChangeCounts {
        std::mem::take(&mut self.changes)
    }

    /// Logs users that are left out because their records cannot be read.
    pub(super) fn log_unreadable(&mut self) {
        self.unreadable.log(&self.users.pool_id);
    }

    /// Enrols the users of a listed page.
    pub(super) async fn join_listed(&mut self, wanted: &[Wanted]) {
        self.any_listed |= !wanted.is_empty();
        self.join(wanted).await;
    }

    /// Enrols users, and tries until the ledger has them. A user that is enrolled already costs one read.
    pub(super) async fn join(&mut self, wanted: &[Wanted]) {
        for part in wanted.chunks(NAMES_AT_ONCE) {
            while let Err(error) = self.enrol(part).await {
                self.users.wait_for_ledger(&error).await;
            }
        }
        self.any_followed |= !wanted.is_empty();
    }

    /// Writes and reports one chunk of users.
    async fn enrol(&mut self, wanted: &[Wanted]) -> Result<(), LedgerError> {
        let batch = self.judge_all(wanted).await?;
        let joined = batch.records.len();
        if joined > 0 {
            self.users.ledger.enroll(&self.users.pool_id, batch.records).await?;
        }
        failpoint::reached(Failpoint::UsersEnrolled);
        if !batch.names.is_empty() {
            self.users.report_joined(batch.names).await;
        }
        failpoint::reached(Failpoint::PollerTold);
        self.changes.joined += joined + batch.replaced + batch.came_over;
        self.changes.left += batch.replaced;
        self.show_delays(&batch.born);
        Ok(())
    }

    /// Judges a chunk of users. A user whose record cannot be read is left out.
    async fn judge_all(&mut self, wanted: &[Wanted]) -> Result<EnrolmentBatch, LedgerError> {
        let mut batch = EnrolmentBatch::default();
        for user in wanted {
            match self.judge(user, &mut batch).await {
                Ok(activity) => {
                    self.unreadable.remove(&user.username);
                    batch.names.push((user.username.clone(), activity));
                }
                Err(error) if UnreadableUsers::is_unreadable(&error) => self.unreadable.add(&user.username, error),
                Err(error) => return Err(error),
            }
        }
        Ok(batch)
    }

    /// Judges one user by what is stored, and answers its activity. Changes of another name or another person are
    /// written and reported at once, because a repetition would not find them again. A user that is reported to leave
    /// before it joins is polled at once.
    async fn judge(&self, user: &Wanted, batch: &mut EnrolmentBatch) -> Result<ActivityEstimate, LedgerError> {
        if self.come_over(user).await? {
            batch.came_over += 1;
            batch.born.extend(self.newcomers.born(user));
        }
        self.merge_aliases(user).await?;
        let standing = self.users.standing(&user.username)?;
        match Meeting::of(standing.as_ref().map(enrolled), self.stored_sub(user).as_deref()) {
            Meeting::Known => Ok(self.users.activity(standing.as_ref())),
            Meeting::Recognised | Meeting::Back => {
                if let Some(mut record) = self.users.ledger.user(&self.users.pool_id, &user.username)? {
                    record.sub = user.sub.clone().or(record.sub);
                    batch.records.push((user.username.clone(), record));
                }
                Ok(self.users.activity(standing.as_ref()))
            }
            Meeting::New => {
                batch.records.push((user.username.clone(), self.newcomers.record(user, self.users.clock.now())));
                batch.born.extend(self.newcomers.born(user));
                Ok(ActivityEstimate::UNKNOWN)
            }
            Meeting::Another => {
                self.replace(user, user.created).await?;
                batch.replaced += 1;
                batch.born.extend(self.newcomers.born(user));
                Ok(ActivityEstimate::UNKNOWN)
            }
        }
    }

    /// Starts a user from scratch that comes from another shard, before anything else is joined to its record: that
    /// shard has counted events since. The record is found first, under any name that the ledger had for the user.
    /// Answers whether it was outdated.
    async fn come_over(&self, user: &Wanted) -> Result<bool, LedgerError> {
        self.users.ledger.recognise(&self.users.pool_id, &user.username, user.sub.as_deref()).await?;
        let standing = self.users.standing(&user.username)?;
        if !standing.is_some_and(|standing| self.newcomers.is_outdated(&user.username, &standing)) {
            return Ok(false);
        }
        self.replace(user, self.newcomers.moved_in(&user.username)).await?;
        Ok(true)
    }

    /// Replaces a stored user by one that starts from scratch; events count from `since` on.
    async fn replace(&self, user: &Wanted, since: Option<UnixMillis>) -> Result<(), LedgerError> {
        let record = self.newcomers.record(user, self.users.clock.now());
        let since = since.unwrap_or(UnixMillis::MIN);
        self.users.ledger.replace_user(&self.users.pool_id, &user.username, record, since).await?;
        self.users.report_left(vec![user.username.clone()]).await;
        Ok(())
    }

    /// Hands over the cursors of names under which a listed user was followed until now.
    async fn merge_aliases(&self, user: &Wanted) -> Result<(), LedgerError> {
        let (ledger, pool_id) = (&self.users.ledger, &self.users.pool_id);
        for alias in &user.aliases {
            ledger.recognise(pool_id, alias, user.sub.as_deref()).await?;
            if self.is_followed_as(alias, user)? {
                let record = self.newcomers.record(user, self.users.clock.now());
                ledger.merge_user(pool_id, alias, &user.username, record).await?;
                self.users.report_left(vec![alias.clone()]).await;
            }
        }
        Ok(())
    }

    /// Whether a listed user was followed under an alias, as it was given. The record under that name may also belong
    /// to another listed user that has it as its username.
    fn is_followed_as(&self, alias: &str, user: &Wanted) -> Result<bool, LedgerError> {
        let standing = self.users.standing(alias)?;
        Ok(standing.is_some_and(|standing| {
            let is_same = standing.sub.is_none() || standing.sub == self.stored_sub(user);
            is_same && !self.newcomers.is_outdated(alias, &standing)
        }))
    }

    /// A user's `sub` as the ledger stores it.
    fn stored_sub(&self, user: &Wanted) -> Option<String> {
        user.sub.as_deref().map(|sub| self.users.ledger.privacy().ledger_name(sub))
    }

    /// Shows how long users waited for their enrolment. After a loss every user is new to the ledger and no user is new
    /// to the pool, so nothing is shown.
    fn show_delays(&self, born: &[UnixMillis]) {
        if self.newcomers.joining.lost_since.is_none() {
            let joined_at = self.users.clock.now();
            let delays = born.iter().map(|created| joined_at.since(*created));
            delays.for_each(|delay| self.metrics.discovery_delay(&self.users.pool_id, delay));
        }
    }

    /// Whether a name is followed as the username of a user that a listing has named.
    pub(super) fn was_listed(&self, name: &str) -> bool {
        // A record that cannot be read now is not given up.
        self.users.standing(name).map_or(true, |standing| {
            standing.is_some_and(|standing| standing.sub.is_some() && standing.gone_since.is_none())
        })
    }

    /// Enrols the names of a complete pass that are followed as given: names listed by hand that are no alias of a
    /// listed user.
    pub(super) async fn join_as_given(&mut self, complete: &Complete, selection: &Selection) {
        for Wanted { username: name, .. } in complete.as_given() {
            // The user that had this name in the pass before, and is no longer listed, goes on under the name.
            if let Some(before) = self.owners.get(name)
                && selection.is_ours(before)
                && !complete.wants(before)
                && let Err(error) = self.carry_back(before, name).await
            {
                self.unreadable.add(name, error);
            }
        }
        let readable = complete.as_given().iter().filter(|user| !self.unreadable.contains(&user.username));
        let as_given: Vec<_> = readable.cloned().collect();
        self.join(&as_given).await;
    }

    /// Lets a user go on under a name listed by hand. It fails only if a record cannot be read.
    async fn carry_back(&self, username: &str, name: &str) -> Result<(), LedgerError> {
        while let Err(error) = self.merge_back(username, &Wanted::as_given(name)).await {
            if UnreadableUsers::is_unreadable(&error) {
                return Err(error);
            }
            self.users.wait_for_ledger(&error).await;
        }
        self.users.report_left(vec![username.to_owned()]).await;
        Ok(())
    }

    async fn merge_back(&self, username: &str, given: &Wanted) -> Result<(), LedgerError> {
        self.come_over(given).await?;
        let record = self.newcomers.record(given, self.users.clock.now());
        self.users.ledger.merge_user(&self.users.pool_id, username, &given.username, record).await
    }

    /// Ends the time after a loss: every user that could have been followed before it is enrolled again, so users that
    /// join from now on are new.
    pub(super) fn end_loss(&mut self) {
        self.newcomers.joining.lost_since = None;
    }

    /// Takes note of a complete pass, whose users are all enrolled.
    pub(super) fn pass_completed(&mut self, complete: &Complete) {
        self.any_followed = !complete.is_empty();
        self.unreadable.retain(|username| complete.wants(username));
    }

    /// Keeps the owners of names listed by hand for the next pass.
    pub(super) fn keep_owners(&mut self, owners: HashMap<String, String>) {
        self.owners = owners;
    }
}

fn enrolled(standing: &UserStanding) -> EnrolledUser<'_> {
    EnrolledUser { sub: standing.sub.as_deref(), gone: standing.gone_since.is_some() }
}
