//! Reads the histories of users once, one user after the other, and prints them.

use anyhow::anyhow;

use super::paginate::{Pagination, ResumeToken, StartingToken, Then};
use super::resume::{Journal, JournalEntry, UnfinishedUser};
use super::session::{Halt, Session};
use super::users::UserStream;
use super::window::TimeWindow;
use super::{CallError, EventsArgs};
use crate::cli::progress::Progress;
use crate::source::{Operation, SourceError};

/// Users that fail one after the other before the command gives up: then the pool or the network is at fault.
const FAILURES_IN_ROW_MAX: u32 = 10;

/// How a reading ended.
#[derive(Debug, Default)]
pub(super) struct ReadingResult {
    /// The place where `--max-items` cut it.
    pub(super) rest: Option<ResumeToken>,
    /// Users and listings that could not be read.
    pub(super) failed: u64,
    /// Those of them that another run may be able to read.
    pub(super) may_pass: u64,
}

/// How a user's reading ended.
enum UserEnd {
    Whole,
    Cut(ResumeToken),
    /// It cannot be read on from this token.
    Failed(SourceError, Option<String>),
}

/// A reading under way.
pub(super) struct Reading<'a> {
    pub(super) session: &'a mut Session,
    pub(super) args: &'a EventsArgs,
    pub(super) window: TimeWindow,
    pub(super) journal: Option<&'a mut Journal>,
    pub(super) progress: Progress,
    pub(super) several_users: bool,
}

impl Reading<'_> {
    /// Reads the users that an earlier run left unfinished, and then the others.
    ///
    /// # Errors
    /// The command was stopped, the output was closed or cannot be written, or the pool cannot be read.
    pub(super) async fn run(
        &mut self,
        users: &mut UserStream,
        unfinished: Vec<UnfinishedUser>,
    ) -> Result<ReadingResult, Halt> {
        let mut result = ReadingResult::default();
        let mut failures_in_row = 0;
        let mut unfinished = unfinished.into_iter();
        loop {
            let user = match unfinished.next() {
                Some(user) => user,
                None => match users.next(&self.session.caller).await {
                    Ok(Some(username)) => UnfinishedUser { username, token: None, from_bytes: None },
                    Ok(None) => break,
                    Err(failed) => {
                        let operation = failed.listing.operation();
                        let error = self.session.of_one_user(failed.error, operation)?;
                        let explained = self.session.explained(&error, operation);
                        self.progress.say(&format!("{}: {explained}", failed.listing));
                        (result.failed, result.may_pass) = (result.failed + 1, result.may_pass + 1);
                        continue;
                    }
                },
            };
            match self.user(&user).await? {
                UserEnd::Whole => failures_in_row = 0,
                UserEnd::Cut(token) => result.rest = Some(token),
                UserEnd::Failed(error, token) => {
                    result.failed += 1;
                    let may_pass = error != SourceError::UserNotFound;
                    if may_pass {
                        result.may_pass += 1;
                        failures_in_row += 1;
                    }
                    self.failed(&user.username, &error, token)?;
                    if failures_in_row >= FAILURES_IN_ROW_MAX {
                        return Err(Halt::Failed(anyhow!("{failures_in_row} users in a row could not be read")));
                    }
                }
            }
            if self.several_users {
                self.progress.advance(1);
            }
        }
        Ok(result)
    }

    /// Reports a user that cannot be read. Where only one user is read, that is the end.
    fn failed(&mut self, username: &str, error: &SourceError, token: Option<String>) -> Result<(), Halt> {
        let explained = match (error, &self.args.starting_token) {
            (SourceError::InvalidParameter(_), Some(_)) => {
                format!("{error} (check --starting-token: a token belongs to one pool and user, and it may expire)")
            }
            _ => self.session.explained(error, Operation::AdminListUserAuthEvents),
        };
        if let Some(journal) = &mut self.journal {
            journal.add(&JournalEntry::Failed { username: username.to_owned(), token })?;
        }
        if !self.several_users {
            return Err(Halt::Failed(anyhow!(explained)));
        }
        self.progress.say(&format!("{username}: {explained}"));
        Ok(())
    }

    /// Reads one user's history, from where it was left.
    async fn user(&mut self, user: &UnfinishedUser) -> Result<UserEnd, Halt> {
        let username = &user.username;
        let mut from_bytes = user.from_bytes.unwrap_or_else(|| self.session.destination.written());
        let continued = user.token.clone().map(StartingToken::of_service);
        let mut is_continued = continued.is_some();
        let mut pagination = Pagination::new(continued.or(self.args.starting_token.clone()), self.args.max_items);
        loop {
            let (caller, page_size) = (&self.session.caller, self.session.page_size);
            let page = match caller.history(username, pagination.token(), page_size).await {
                Ok(page) => page,
                Err(CallError::Source(SourceError::InvalidParameter(_))) if is_continued => {
                    from_bytes = self.begin_again(user)?;
                    is_continued = false;
                    pagination = Pagination::new(None, None);
                    continue;
                }
                Err(error) => {
                    let error = self.session.of_one_user(error, Operation::AdminListUserAuthEvents)?;
                    return Ok(UserEnd::Failed(error, pagination.token().map(str::to_owned)));
                }
            };
            is_continued = false;
            let is_last = self.window.ends_at(page.events.iter().map(|event| event.creation_date));
            let next = page.next.filter(|_| !is_last);
            let (events, then) = pagination.accept(page.events, next, |event| self.window.holds(event.creation_date));
            self.session.print(username, &events).await?;
            if !self.several_users {
                self.progress.advance(events.len() as u64);
            }
            match then {
                Then::Ask => {
                    let token = pagination.token().map(str::to_owned);
                    let bytes = self.session.destination.written();
                    self.note(&JournalEntry::Page { username: username.clone(), token, from_bytes, bytes })?;
                }
                Then::End => {
                    self.note(&JournalEntry::done(username, self.session.destination.written()))?;
                    return Ok(UserEnd::Whole);
                }
                Then::Cut(token) => return Ok(UserEnd::Cut(token)),
                Then::Repeated => {
                    let text = "the service sent the same NextToken twice, so the listing would never end";
                    return Ok(UserEnd::Failed(SourceError::Passing(text.into()), None));
                }
            }
        }
    }

    fn note(&mut self, entry: &JournalEntry) -> anyhow::Result<()> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.add(entry))
    }

    /// Begins a user again whose place the service no longer takes. It takes the user's bytes back, where that is
    /// possible. Returns the length of the output before the user.
    fn begin_again(&mut self, user: &UnfinishedUser) -> anyhow::Result<u64> {
        let destination = &self.session.destination;
        let bytes = user.from_bytes.filter(|_| destination.takes_back()).unwrap_or_else(|| destination.written());
        // Noted first: a run that dies in between is cut to this length by the next one.
        self.note(&JournalEntry::Page { username: user.username.clone(), token: None, from_bytes: bytes, bytes })?;
        if bytes < self.session.destination.written() {
            self.session.destination.take_back(bytes)?;
            if bytes == 0 {
                self.session.encoder.begin_again();
            }
        } else {
            self.progress.say(&format!(
                "{}: the place where it was interrupted has expired; its events are printed again from the newest",
                user.username
            ));
        }
        Ok(bytes)
    }
}
