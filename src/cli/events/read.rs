//! Reads the histories of users once, one user after the other, and prints them.

use anyhow::anyhow;

use super::paginate::{Pagination, ResumeToken, StartingToken, Then};
use super::resume::{Journal, JournalEntry, UnfinishedUser, UnfinishedUsers, WrittenLines};
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
    /// Users with lines that were written again in this run.
    pub(super) repeated: u64,
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
    /// Users with lines that were written again.
    pub(super) repeated: u64,
}

impl Reading<'_> {
    /// Reads the users at whom an earlier run was interrupted, then the others, and then those who failed before.
    ///
    /// # Errors
    /// The command was stopped, the output was closed or cannot be written, or the pool cannot be read.
    pub(super) async fn run(
        &mut self,
        users: &mut UserStream,
        unfinished: UnfinishedUsers,
    ) -> Result<ReadingResult, Halt> {
        let mut result = ReadingResult::default();
        let mut failures_in_row = 0;
        let mut interrupted = unfinished.interrupted.into_iter();
        let mut failed_before = unfinished.failed.into_iter();
        loop {
            let user = match interrupted.next() {
                Some(user) => user,
                None => match users.next(&self.session.caller).await {
                    Ok(Some(username)) => UnfinishedUser::new(username),
                    Ok(None) => match failed_before.next() {
                        Some(user) => user,
                        None => break,
                    },
                    Err(failed) => {
                        let operation = failed.listing.operation();
                        let error = self.session.of_one_user(failed.error, operation)?;
                        let explained = self.session.explained(&error, operation);
                        self.progress.say(&format!("{}: {explained}", failed.listing));
                        result.failed += 1;
                        result.may_pass += u64::from(!is_final(&error, failed.is_at_start));
                        continue;
                    }
                },
            };
            match self.user(&user).await? {
                UserEnd::Whole => failures_in_row = 0,
                UserEnd::Cut(token) => result.rest = Some(token),
                UserEnd::Failed(error, token) => {
                    result.failed += 1;
                    if !is_final(&error, token.is_none()) {
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
        result.repeated = self.repeated;
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
        let from_bytes = match user.lines {
            WrittenLines::None => Some(self.session.destination.written()),
            WrittenLines::AtEnd { from_bytes } => Some(from_bytes),
            WrittenLines::Among => None,
        };
        if user.token.is_none() && user.lines != WrittenLines::None {
            self.begin_again(user, from_bytes)?;
        }
        let continued = user.token.clone().map(StartingToken::of_service);
        let mut is_continued = continued.is_some();
        let mut pagination = Pagination::new(continued.or(self.args.starting_token.clone()), self.args.max_items);
        loop {
            let (caller, page_size) = (&self.session.caller, self.session.page_size);
            let page = match caller.history(username, pagination.token(), page_size).await {
                Ok(page) => page,
                Err(CallError::Source(SourceError::InvalidParameter(_))) if is_continued => {
                    self.begin_again(user, from_bytes)?;
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

    /// Begins a user again whose place is unknown or is no longer taken by the service. The user's lines are taken back
    /// where that is possible: in a file, at its end, which was `from_bytes` long before.
    fn begin_again(&mut self, user: &UnfinishedUser, from_bytes: Option<u64>) -> anyhow::Result<()> {
        let destination = &self.session.destination;
        let Some(bytes) = from_bytes.filter(|bytes| destination.takes_back() || *bytes == destination.written()) else {
            self.note(&JournalEntry::Repeated { users: 1 })?;
            self.repeated += 1;
            self.progress.say(&format!(
                "{}: the place where it was interrupted has expired; its events are printed again from the newest",
                user.username
            ));
            return Ok(());
        };
        // Noted first: a run that dies in between is cut to this length by the next one.
        let page = JournalEntry::Page { username: user.username.clone(), token: None, from_bytes: Some(bytes), bytes };
        self.note(&page)?;
        if bytes < self.session.destination.written() {
            self.session.destination.take_back(bytes)?;
            if bytes == 0 {
                self.session.encoder.begin_again();
            }
        }
        Ok(())
    }
}

/// Whether the next run would meet an error again: the user or group is not there, or its name is refused. A refused
/// token is not `is_at_start`.
fn is_final(error: &SourceError, is_at_start: bool) -> bool {
    match error {
        SourceError::UserNotFound => true,
        SourceError::InvalidParameter(_) => is_at_start,
        _ => false,
    }
}
