//! `--follow`: polls the users in turn and prints what is new, until a stop.
//!
//! The rate decides how often a user is polled. A single user is polled at most every [`PAUSE`], because its events
//! take longer than that to become visible.

mod memory;

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::anyhow;
use cognito_auth_core::event::{AuthEvent, UnixMillis};
use tokio::time::Instant;

use self::memory::{EventStanding, UserMemory};
use super::super::complain;
use super::caller::CallError;
use super::session::{Halt, Session, concerns_everybody};
use super::users::UserStream;
use super::window::TimeWindow;
use crate::lifecycle::Clock;
use crate::source::cognito::wire::WireEvent;
use crate::source::{Operation, SourceError};

/// The shortest time between two polls of a user.
const PAUSE: Duration = Duration::from_secs(2);

/// The pause after an error that meets every user, such as credentials that expired.
const TROUBLE_PAUSE: Duration = Duration::from_secs(30);

/// The time between two listings, the default of `discovery.interval`.
const LISTING_INTERVAL: Duration = Duration::from_mins(10);

/// Maximum number of pages of one poll. It bounds the memory for `--since` a long time ago: 12,000 events.
const PAGES_MAX: usize = 200;

/// A user that is followed.
struct FollowedUser {
    username: String,
    memory: UserMemory,
    /// The earliest time of the next poll.
    due: Instant,
    /// Whether the latest poll failed.
    is_failing: bool,
}

/// Follows the users.
pub(super) struct Follower<'a> {
    session: &'a mut Session,
    since: Option<UnixMillis>,
    clock: Clock,
    requests_per_second: f64,
    /// Whether the pool has answered for a user.
    has_answered: bool,
    /// Whether a user or a listing is left out because of an error.
    has_failed: bool,
}

impl<'a> Follower<'a> {
    /// Makes a follower that prints events since a time, or else those from now on.
    pub(super) fn new(
        session: &'a mut Session,
        since: Option<UnixMillis>,
        clock: Clock,
        requests_per_second: f64,
    ) -> Self {
        Self { session, since, clock, requests_per_second, has_answered: false, has_failed: false }
    }

    /// Polls until the command is stopped.
    ///
    /// # Errors
    /// Always: the command was stopped, the output was closed, or no user can be followed.
    pub(super) async fn run(&mut self, users: &mut UserStream) -> Result<(), Halt> {
        let start = self.clock.now();
        let memory = match self.since {
            Some(since) => UserMemory::since(since),
            None => UserMemory::from_now(start),
        };
        let mut queue = VecDeque::new();
        let (mut is_listing, mut list_again_at, mut has_told_count) = (true, None::<Instant>, false);
        loop {
            if list_again_at.take_if(|at| Instant::now() >= *at).is_some() {
                users.list_again();
                is_listing = true;
            }
            let listed = if is_listing { self.listed(users).await? } else { None };
            if is_listing && listed.is_none() {
                is_listing = false;
                list_again_at = users.has_listings().then(|| Instant::now() + LISTING_INTERVAL);
                if !std::mem::replace(&mut has_told_count, true) {
                    self.tell_count(queue.len())?;
                }
            }
            let mut user = match (listed, queue.pop_front(), list_again_at) {
                (Some(username), front, _) => {
                    front.into_iter().for_each(|front| queue.push_front(front));
                    FollowedUser { username, memory: memory.clone(), due: Instant::now(), is_failing: false }
                }
                (None, Some(user), _) => user,
                (None, None, Some(at)) => {
                    self.pause_until(at).await?;
                    continue;
                }
                (None, None, None) => return Err(Halt::Failed(anyhow!("none of the users can be followed"))),
            };
            self.pause_until(user.due).await?;
            if self.turn(&mut user).await? {
                queue.push_back(user);
            }
        }
    }

    async fn pause_until(&self, time: Instant) -> Result<(), Halt> {
        self.session.caller.pause_until(time).await.map_err(|_| Halt::Stopped)
    }

    /// Says how many users are followed, and how often each is polled.
    fn tell_count(&self, count: usize) -> Result<(), Halt> {
        if count == 0 && self.has_failed {
            return Err(Halt::Failed(anyhow!("none of the users can be followed")));
        }
        let round = Duration::from_secs_f64((count as f64 / self.requests_per_second).min(1e6)).max(PAUSE);
        let round = humantime::format_duration(Duration::from_secs(round.as_secs()));
        let plural = if count == 1 { "" } else { "s" };
        complain(&format!("following {count} user{plural}; each is polled about every {round}"));
        Ok(())
    }

    /// Returns the next user of the listings. A listing that fails is told and left.
    async fn listed(&mut self, users: &mut UserStream) -> Result<Option<String>, Halt> {
        loop {
            match users.next(&self.session.caller).await {
                Ok(listed) => return Ok(listed),
                Err(failed) => {
                    let operation = failed.listing.operation();
                    match failed.error {
                        CallError::Source(error) if !concerns_everybody(&error) || self.has_answered => {
                            complain(&format!("{}: {}", failed.listing, self.session.explained(&error, operation)));
                            self.has_failed = true;
                        }
                        error => drop(self.session.of_one_user(error, operation)?),
                    }
                }
            }
        }
    }

    /// Polls a user once. Returns whether it stays followed.
    async fn turn(&mut self, user: &mut FollowedUser) -> Result<bool, Halt> {
        let began = Instant::now();
        user.due = began + PAUSE;
        match self.poll(user).await {
            Ok(()) => {
                self.has_answered = true;
                if std::mem::take(&mut user.is_failing) {
                    complain(&format!("{}: polled again", user.username));
                }
                Ok(true)
            }
            Err(PollError::Halt(halt)) => Err(halt),
            Err(PollError::Call(CallError::Stopped)) => Err(Halt::Stopped),
            Err(PollError::Call(CallError::Source(error))) => {
                let explained = self.session.explained(&error, Operation::AdminListUserAuthEvents);
                if error == SourceError::UserNotFound {
                    complain(&format!("{}: {explained}; no longer followed", user.username));
                    (self.has_answered, self.has_failed) = (true, true);
                    return Ok(false);
                }
                if concerns_everybody(&error) && !self.has_answered {
                    return Err(Halt::Failed(anyhow!(explained)));
                }
                if !std::mem::replace(&mut user.is_failing, true) {
                    complain(&format!("{}: {explained}; trying again", user.username));
                }
                if concerns_everybody(&error) {
                    self.pause_until(Instant::now() + TROUBLE_PAUSE).await?;
                }
                Ok(true)
            }
        }
    }

    /// Reads a user's newest pages and prints what is new in them, oldest first. It remembers them only when all of
    /// them are printed.
    async fn poll(&mut self, user: &mut FollowedUser) -> Result<(), PollError> {
        let mut memory = user.memory.clone();
        let window = TimeWindow { since: Some(memory.reads_since()), until: None };
        let (mut token, mut found) = (None, Vec::<WireEvent>::new());
        for _ in 0..PAGES_MAX {
            let (caller, page_size) = (&self.session.caller, self.session.page_size);
            let page = caller.history(&user.username, token.as_deref(), page_size).await.map_err(PollError::Call)?;
            let read_at = page.served.unwrap_or_else(|| self.clock.now());
            let is_last = window.ends_at(page.events.iter().map(|event| event.creation_date));
            for event in page.events {
                match memory.see(&AuthEvent::from(event.clone()), read_at) {
                    EventStanding::New | EventStanding::Revised => found.push(event),
                    EventStanding::Known | EventStanding::Old => {}
                }
            }
            let is_repeated = page.next.is_some() && page.next == token;
            token = page.next.filter(|_| !is_last && !is_repeated);
            if token.is_none() {
                break;
            }
        }
        if token.is_some() {
            complain(&format!("{}: more than {PAGES_MAX} pages are new; the oldest are left out", user.username));
        }
        memory.end_poll(self.clock.now());
        found.reverse();
        found.sort_by_key(|event| event.creation_date.unwrap_or(UnixMillis::MAX));
        if !found.is_empty() {
            self.session.print(&user.username, &found).await.map_err(PollError::Halt)?;
        }
        user.memory = memory;
        Ok(())
    }
}

/// Why a poll did not come to its end.
enum PollError {
    Call(CallError),
    Halt(Halt),
}
