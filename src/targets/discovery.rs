//! Keeps a pool's roster: lists users, reads the file of names, enrols newcomers, tells the poller.
//!
//! Only a listing that came to its end changes who was listed; one that broke off is begun again and meanwhile removes nobody.
//! A newcomer is in the ledger before it is polled: the time of its joining decides what is history, and must survive.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::roster::{self, Joining};
use crate::config::PoolConfig;
use crate::entry::UserIdentity;
use crate::ledger::{Ledger, LedgerError, PoolRecord, UserRecord};
use crate::lifecycle::Clock;
use crate::metrics::Metrics;
use crate::poller::Message;
use crate::poller::health::Trouble;
use crate::pool::Pool;
use crate::source::{ListedUser, Listing, Source, SourceError};
use crate::status::StatusBoard;
use crate::stop_point::{self, Step};

/// How often the file of usernames is looked at for a change.
const FILE_LOOK_EVERY: Duration = Duration::from_secs(5);

/// Pause after a listing that broke off; doubled up to `discovery.interval`.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Newcomers written to the ledger and told to the poller at once.
const ENROL_AT_ONCE: usize = 1000;

/// Bytes of a file of usernames: half a million names of full length.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Users of one listing: as many as a pool may have (quota "users per user pool"). More never end.
const LISTED_MAX: usize = 40_000_000;

/// The roster of one pool.
pub struct Discovery<S> {
    /// The pool as configured.
    pub config: PoolConfig,
    /// The pool as followed.
    pub pool: Arc<Pool<S>>,
    /// What makes a newcomer's events live or history.
    pub joining: Joining,
    /// `discovery.interval`.
    pub interval: Duration,
    /// Where newcomers are written.
    pub ledger: Ledger,
    /// Where success is shown.
    pub metrics: Metrics,
    /// Where trouble is shown.
    pub status: StatusBoard,
    /// The time of joining.
    pub clock: Clock,
    /// Whom to tell.
    pub poller: mpsc::Sender<Message<S>>,
}

/// What has been learnt so far.
#[derive(Default)]
struct Known {
    /// The names of `usernames_file`, as last read.
    in_file: Vec<String>,
    file_changed: Option<SystemTime>,
    /// By listing, in the configuration's order.
    listed: Vec<Vec<ListedUser>>,
    /// Who is followed, with the `sub` that a listing gave.
    roster: BTreeMap<String, Option<String>>,
    /// How many users are left out because their records cannot be read.
    unreadable: usize,
    file_trouble: Option<String>,
    /// What people were told of.
    listing_trouble: Option<Trouble>,
}

impl<S: Source> Discovery<S> {
    /// Keeps the roster until the soft stop.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(mut self) {
        let listings = roster::listings(&self.config);
        let mut known = Known::default();
        let mut retry_after = RETRY_AFTER;
        loop {
            self.read_names(&mut known).await;
            let listed = self.list(&listings, &mut known).await;
            let is_complete = listed.is_ok() && known.file_trouble.is_none();
            let again_in = match listed {
                Ok(()) => {
                    self.listed(&listings, &mut known, Ok(())).await;
                    self.metrics.discovery_succeeded(&self.pool.identity.id, self.clock.now());
                    retry_after = RETRY_AFTER;
                    self.interval
                }
                Err(error) => {
                    self.listed(&listings, &mut known, Err(error)).await;
                    let pause = retry_after.min(self.interval);
                    retry_after = pause * 2;
                    pause
                }
            };
            self.update_until_done(&mut known).await;
            if is_complete {
                self.lost_users_are_back().await;
            }
            let listing_due = Instant::now() + again_in;
            while Instant::now() < listing_due {
                tokio::time::sleep_until(listing_due.min(Instant::now() + FILE_LOOK_EVERY)).await;
                if self.read_names(&mut known).await {
                    self.update_until_done(&mut known).await;
                }
            }
        }
    }

    /// Reads every listing. One that breaks off leaves what it gave before, and the others their say; the first error is
    /// told.
    async fn list(&self, listings: &[Listing], known: &mut Known) -> Result<(), SourceError> {
        let mut result = Ok(());
        known.listed.resize_with(listings.len(), Vec::new);
        for (listing, listed) in listings.iter().zip(&mut known.listed) {
            match self.read_to_its_end(listing).await {
                Ok(users) => *listed = users,
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    async fn read_to_its_end(&self, listing: &Listing) -> Result<Vec<ListedUser>, SourceError> {
        let mut listed = Vec::new();
        let mut token = None;
        loop {
            self.pool.source.lists().pass().await;
            let page = match self.pool.source.users(listing, token.as_ref()).await {
                // The gate has slowed down; the same page again.
                Err(SourceError::Throttled(_)) => continue,
                page => page?,
            };
            listed.extend(page.users);
            if page.next.is_none() {
                return Ok(listed);
            }
            if page.next == token {
                return Err(SourceError::Passing("the service repeated its listing token".into()));
            }
            if listed.len() > LISTED_MAX {
                return Err(SourceError::Passing("the service lists more users than a pool can have".into()));
            }
            token = page.next;
        }
    }

    /// Reads the file of names, if there is one; answers whether they may have changed.
    async fn read_names(&self, known: &mut Known) -> bool {
        let Some(path) = &self.config.usernames_file else { return false };
        match read_if_changed(path, known.file_changed).await {
            Ok(None) => false,
            Ok(Some((names, changed))) => {
                known.file_changed = changed;
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
                        "usernames_file cannot be read; the names read before stay followed"
                    );
                    known.file_trouble = Some(cause);
                }
                false
            }
        }
    }

    async fn update_until_done(&self, known: &mut Known) {
        while let Err(error) = self.update(known).await {
            debug!(pool = self.pool.identity.id, %error, "the roster waits for the ledger");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// After a loss, everybody who could have been followed before it is enrolled again: who joins from now on is new.
    async fn lost_users_are_back(&mut self) {
        if self.joining.lost_since.take().is_some() {
            let record = PoolRecord { followed_since: self.joining.pool_followed_since, lost_since: None };
            while let Err(error) = self.ledger.follow_pool(&self.pool.identity.id, record.clone()).await {
                debug!(pool = self.pool.identity.id, %error, "the pool's record waits for the ledger");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }

    /// Brings the roster in line with who is wanted.
    async fn update(&self, known: &mut Known) -> Result<(), LedgerError> {
        let by_hand = self.config.usernames.iter().chain(&known.in_file).map(String::as_str);
        let wanted = roster::wanted(&self.config, by_hand, known.listed.iter().flatten());
        let newcomers: Vec<_> = wanted
            .iter()
            .filter(|(username, user)| {
                known.roster.get(**username).is_none_or(|sub| user.sub.is_some() && sub.as_deref() != user.sub)
            })
            .map(|(username, user)| (*username, *user))
            .collect();
        let gone: Vec<String> =
            known.roster.keys().filter(|username| !wanted.contains_key(username.as_str())).cloned().collect();
        let (mut joined, left) = (0, gone.len());
        let mut unreadable = (0, None);

        for users in newcomers.chunks(ENROL_AT_ONCE) {
            let mut records = Vec::new();
            let mut readable = Vec::new();
            for (username, user) in users {
                let stored = match self.ledger.user(&self.pool.identity.id, username) {
                    // It stays as it is, for a build that can read it, and concerns nobody else.
                    Err(error @ (LedgerError::Corrupt { .. } | LedgerError::NewerVersion { .. })) => {
                        unreadable = (unreadable.0 + 1, Some(error));
                        continue;
                    }
                    stored => stored?,
                };
                readable.push((username, user));
                records.extend(self.record(stored, *user).map(|record| ((*username).to_owned(), record)));
            }
            self.ledger.enroll(&self.pool.identity.id, records).await?;
            stop_point::reached(Step::UsersEnrolled);
            joined += readable.len();
            let identities = readable
                .iter()
                .map(|(username, user)| UserIdentity {
                    username: (**username).to_owned(),
                    sub: user.sub.map(str::to_owned),
                })
                .collect();
            self.tell(Message::Joined(self.pool.slot, identities)).await;
            stop_point::reached(Step::PollerTold);
            let entries = readable.iter().map(|(name, user)| ((**name).to_owned(), user.sub.map(str::to_owned)));
            known.roster.extend(entries);
        }
        gone.iter().for_each(|username| {
            known.roster.remove(username);
        });
        if left > 0 {
            self.tell(Message::Left(self.pool.slot, gone)).await;
        }
        let pool = &self.pool.identity.id;
        if let (users, Some(error)) = &unreadable
            && known.unreadable != *users
        {
            warn!(pool, users, %error, "records of users cannot be read; these users are left out");
        }
        known.unreadable = unreadable.0;
        if joined + left > 0 {
            info!(pool = self.pool.identity.id, joined, left, followed = known.roster.len(), "the roster has changed");
        }
        Ok(())
    }

    /// What is to be written of a user who joins: nothing if it is known.
    ///
    /// A name that another person has now (another `sub`) keeps its cursor. Whoever has it now was polled under it before a
    /// listing told, and a cursor begun anew would count those events again; and nothing of theirs can be taken for known
    /// of the one before, because all of it came later, above the horizon, and EventIds are never used twice. What was
    /// watched of the one before will not be met again, and ends with its watch.
    fn record(&self, stored: Option<UserRecord>, user: roster::Wanted<'_>) -> Option<UserRecord> {
        let sub = user.sub.map(str::to_owned);
        match stored {
            Some(stored) => (sub.is_some() && stored.sub != sub).then_some(UserRecord { sub, ..stored }),
            None => {
                let now = self.clock.now();
                Some(UserRecord { joined: now, sub, cursor: self.joining.cursor(user.created, now) })
            }
        }
    }

    async fn tell(&self, message: Message<S>) {
        // Only a stopping poller closes its queue, and then the roster does not matter any more.
        let _ = self.poller.send(message).await;
    }

    /// Tells how the listings went.
    async fn listed(&self, listings: &[Listing], known: &mut Known, result: Result<(), SourceError>) {
        let pool = &self.pool.identity.id;
        let has_users = !(known.roster.is_empty() && self.config.usernames.is_empty() && known.in_file.is_empty());
        let trouble = result.as_ref().err().map(|error| Trouble::of(error).unwrap_or(Trouble::Unanswered));
        // What the polls meet too is theirs to tell: one line for one cause.
        let trouble = trouble.filter(|trouble| !(has_users && trouble.meets_every_call()));
        match &result {
            Err(error) if trouble.is_some() && trouble != known.listing_trouble => {
                warn!(pool, cause = %error, "users cannot be listed; those known stay followed");
            }
            Ok(()) if known.listing_trouble.is_some() => info!(pool, "users can be listed again"),
            _ => {}
        }
        known.listing_trouble = trouble;
        if let Err(error) = &result {
            self.status.pool_error(pool, &error.to_string(), self.clock.now());
        }
        if !has_users && !listings.is_empty() {
            self.tell(Message::Listed(self.pool.slot, result)).await;
        }
    }
}

type Names = (Vec<String>, Option<SystemTime>);

/// Reads a file of usernames if it is another than the one changed at `known`.
async fn read_if_changed(path: &Path, known: Option<SystemTime>) -> Result<Option<Names>, String> {
    let metadata = tokio::fs::metadata(path).await.map_err(|error| error.to_string())?;
    let changed = metadata.modified().ok();
    if known.is_some() && changed == known {
        return Ok(None);
    }
    if !metadata.is_file() {
        // A pipe could wait for ever, and a device never end.
        return Err("it is not a regular file".to_owned());
    }
    let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
    let mut text = String::new();
    // It may be growing.
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).await;
    if metadata.len().max(read.map_err(|error| error.to_string())? as u64) > FILE_BYTES_MAX {
        return Err(format!("it is too large; at most {FILE_BYTES_MAX} bytes are read"));
    }
    Ok(Some((roster::names_in(&text), changed)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_file_of_names_is_read_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("names");
        std::fs::write(&path, "ann\nben\n").unwrap();
        let (names, changed) = read_if_changed(&path, None).await.unwrap().unwrap();
        assert_eq!(names, ["ann", "ben"]);
        assert_eq!(read_if_changed(&path, changed).await, Ok(None));
    }

    #[tokio::test]
    async fn what_is_no_file_of_names_is_told_and_neither_waited_for_nor_read_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, large) = (folder.path().join("pipe"), folder.path().join("large"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [folder.path(), &pipe, Path::new("/dev/zero")] {
            assert_eq!(read_if_changed(path, None).await, Err("it is not a regular file".to_owned()), "{path:?}");
        }
        std::fs::File::create(&large).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        let told = read_if_changed(&large, None).await.unwrap_err();
        assert_eq!(told, "it is too large; at most 67108864 bytes are read");
        std::fs::write(&large, b"ann\xff\n").unwrap();
        assert_eq!(
            read_if_changed(&large, None).await,
            Err("invalid utf-8 sequence of 1 bytes from index 3".to_owned())
        );
    }
}
