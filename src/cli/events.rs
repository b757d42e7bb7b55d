//! `events`: prints the auth events of users, newest first, as the service sends them.
//!
//! For one user it yields the same events in the same order as boto3's paginator of AdminListUserAuthEvents for the
//! same MaxItems, PageSize and StartingToken. The tokens are those of boto3, so either program can continue the work of
//! the other. The parts:
//!
//! - `arguments`, `connection`, `users` and `window` say what is wanted: of which pool, users and time.
//! - `caller` makes every call, within the rate.
//! - `read` reads histories once, with `paginate` and `resume`; `follow` waits for new events.
//! - `output` makes bytes of events, and `destination` writes them to an `output_place`; `files` opens what a
//!   run owns.

mod arguments;
mod caller;
mod connection;
mod destination;
mod files;
mod follow;
mod output;
mod output_place;
pub mod paginate;
mod read;
mod resume;
mod session;
mod users;
mod window;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use cognito_auth_core::listing::Listing;
use sha2::{Digest as _, Sha256};
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

pub use self::arguments::EventsArgs;
use self::caller::{CallError, Caller};
pub use self::connection::{PoolTarget, PoolTargetError};
use self::destination::Destination;
use self::follow::Follower;
use self::output::{EventsEncoder, OutputShape};
use self::output_place::OutputPlace;
use self::paginate::ResumeToken;
use self::read::Reading;
use self::resume::{Journal, JournalEntry, JournalState, RunArguments};
use self::session::{Halt, Session};
use self::users::{UserSelection, UserStream};
use self::window::TimeWindow;
use super::progress::Progress;
use super::run::clients;
use super::{bad_configuration, complain};
use crate::lifecycle::{Clock, Signals};
use crate::source::cognito::Clients;
use crate::targets::usernames_file;

/// The longest wait for a page that is being written when a signal comes. A reader that does not read could hold it up
/// for ever.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Maximum number of line numbers in a message.
const LINES_SHOWN: usize = 10;

/// A mistake in the arguments that only files show. The command ends as with any other wrong usage.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
struct BadUsage(String);

/// How the command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventsEnd {
    /// Everything was printed. With a token, the rest begins there.
    Complete(Option<ResumeToken>),
    /// The reader of the output has closed it.
    Closed,
    /// It was stopped before it was complete.
    Stopped,
}

/// Prints the events on stdout and messages on stderr.
///
/// # Errors
/// The events cannot be read or written; the text says what to do.
pub async fn main(args: EventsArgs) -> anyhow::Result<ExitCode> {
    match print_events(&args).await {
        Err(error) if error.is::<BadUsage>() => Ok(bad_usage(&error.to_string())),
        ended => ended,
    }
}

async fn print_events(args: &EventsArgs) -> anyhow::Result<ExitCode> {
    let load = || crate::config::load(args.config.as_deref(), std::env::vars_os());
    let target = match PoolTarget::of(args, load) {
        Ok(target) => target,
        Err(PoolTargetError::Config(errors)) => return Ok(bad_configuration(&errors)),
        Err(PoolTargetError::NoSuchPool(text)) => return Ok(bad_usage(&text)),
    };
    let to_terminal = args.output_file.is_none() && io::stdout().is_terminal();
    if let Some(mistake) = args.mistake(Clock::system().now(), to_terminal) {
        return Ok(bad_usage(&mistake));
    }
    let stop = CancellationToken::new();
    // Without anything to put in order, a signal ends the process at once, as it does with any filter.
    let signals =
        if args.follow || args.resume.is_some() || args.output_file.is_some() { Some(Signals::catch()?) } else { None };
    let shape = OutputShape { to_terminal, terminal_columns: terminal_columns(to_terminal), ..OutputShape::default() };
    let clients = clients()?;
    let work = run_on(args, &target, &clients, Box::new(io::stdout()), shape, &stop);
    let end = match signals {
        None => work.await?,
        Some(mut signals) => {
            let mut work = std::pin::pin!(work);
            tokio::select! {
                end = &mut work => end?,
                () = reader_is_gone(), if args.follow => EventsEnd::Closed,
                _ = signals.next() => {
                    stop.cancel();
                    tokio::time::timeout(STOP_PATIENCE, work).await.unwrap_or(Ok(EventsEnd::Stopped))?
                }
            }
        }
    };
    match end {
        EventsEnd::Complete(None) | EventsEnd::Closed => Ok(ExitCode::SUCCESS),
        EventsEnd::Complete(Some(token)) => {
            writeln!(io::stderr(), "NextToken: {token}").context("write to stderr")?;
            Ok(ExitCode::SUCCESS)
        }
        EventsEnd::Stopped if args.follow => Ok(ExitCode::SUCCESS),
        EventsEnd::Stopped => {
            let then = match (&args.resume, &args.output_file) {
                (Some(_), _) => "run the same command again to continue",
                (None, Some(_)) => "nothing was written; --resume would let it continue",
                (None, None) => "--resume would let it continue",
            };
            complain(&format!("interrupted; {then}"));
            Ok(ExitCode::from(1))
        }
    }
}

/// Prints the events on `out`, or into the file of the arguments.
///
/// # Errors
/// Those of [`main`].
pub async fn run(
    args: &EventsArgs,
    target: &PoolTarget,
    clients: &Clients,
    out: Box<dyn Write + Send>,
) -> anyhow::Result<EventsEnd> {
    // Boxed, because it is large: a caller's future would hold all of it.
    Box::pin(run_on(args, target, clients, out, OutputShape::default(), &CancellationToken::new())).await
}

async fn run_on(
    args: &EventsArgs,
    target: &PoolTarget,
    clients: &Clients,
    out: Box<dyn Write + Send>,
    shape: OutputShape,
    stop: &CancellationToken,
) -> anyhow::Result<EventsEnd> {
    let clock = Clock::system();
    let window = args.window(clock.now());
    let (selection, names_digest) = selection(args).await?;
    let place = args.output_file.as_deref().map(OutputPlace::of).transpose()?;
    if let (Some(place), Some(journal)) = (&place, &args.resume)
        && place.holds(journal)
    {
        bail!(BadUsage(format!("--resume {} is the output's own file: name another one", journal.display())));
    }
    let (mut journal, window, state) = match &args.resume {
        None => (None, window, JournalState::default()),
        Some(path) => {
            let arguments = RunArguments::new(decisive(args, &target.id, names_digest), window);
            let (journal, window, state) = Journal::open(path, arguments)?;
            (Some(journal), window, state)
        }
    };
    if let Some(complete) = state.complete {
        if let Some(place) = place {
            Destination::complete_earlier(place, complete.inode, complete.bytes)?;
        }
        journal.map_or(Ok(()), Journal::remove)?;
        tell_flaws(complete.failed, state.repeated)?;
        return Ok(EventsEnd::Complete(None));
    }
    let destination = match (place, &mut journal) {
        (None, _) => Destination::stream(out, state.bytes),
        (Some(place), None) => Destination::file(place)?,
        (Some(place), Some(opened)) => match Destination::continued_file(place, state.has_file, state.bytes) {
            Ok(destination) => {
                if !state.has_file {
                    opened.add(&JournalEntry::FileMade {})?;
                }
                destination
            }
            Err(error) => {
                // A journal of nothing would only be in the way of the corrected command.
                if state == JournalState::default() {
                    journal.map_or(Ok(()), Journal::remove)?;
                }
                return Err(error);
            }
        },
    };
    let shape = OutputShape { several_users: args.several_users(), continued: state.bytes > 0, ..shape };
    let caller = Caller::new(target.connect(clients), args.requests_per_second, stop.clone());
    let encoder = EventsEncoder::new(args.output, shape)?;
    if !encoder.columns_left_out().is_empty() {
        complain(&format!("the terminal is too narrow for: {}", encoder.columns_left_out().join(", ")));
    }
    let mut session = Session { pool_id: target.id.clone(), caller, encoder, destination, page_size: args.page_size };
    let done = if args.follow {
        let mut users = UserStream::new(selection, HashSet::new());
        let mut follower = Follower::new(&mut session, window.since, clock, args.requests_per_second);
        follower.run(&mut users).await.map(|()| EventsEnd::Stopped)
    } else {
        read_once(session, args, window, selection, journal, state).await
    };
    match done {
        Ok(end) => Ok(end),
        Err(Halt::Stopped) => Ok(EventsEnd::Stopped),
        Err(Halt::Closed) => Ok(EventsEnd::Closed),
        Err(Halt::Failed(error)) => Err(error),
    }
}

/// Reads all users, and completes the output.
async fn read_once(
    mut session: Session,
    args: &EventsArgs,
    window: TimeWindow,
    selection: UserSelection,
    mut journal: Option<Journal>,
    state: JournalState,
) -> Result<EventsEnd, Halt> {
    let several_users = args.several_users();
    let progress = progress(args, &selection, &session.caller, &state).await;
    let unfinished = state.unfinished();
    let mut given = state.done.clone();
    given.extend(state.unfinished_keys());
    let mut users = UserStream::new(selection, given);
    let journal_of_reading = journal.as_mut();
    let mut reading = Reading {
        session: &mut session,
        args,
        window,
        journal: journal_of_reading,
        progress,
        several_users,
        repeated: 0,
    };
    let result = reading.run(&mut users, unfinished).await?;
    drop(reading); // clears the bar's line
    if users.federated_left_out() > 0 {
        complain(&format!(
            "users of external providers that were left out: {} (--include-federated reads them)",
            users.federated_left_out()
        ));
    }
    if result.may_pass > 0 && journal.is_some() {
        let partial = session.destination.partial();
        let so_far = partial.map_or(String::new(), |file| format!("; the events so far are in {}", file.display()));
        let failed = result.failed;
        return Err(Halt::Failed(anyhow!(
            "users or groups that could not be read: {failed}; run the same command again to try them again{so_far}"
        )));
    }
    session.finish().await?;
    let inode = session.destination.sync()?;
    if let Some(journal) = &mut journal {
        let bytes = session.destination.written();
        journal.add(&JournalEntry::Complete { bytes, inode, failed: result.failed })?;
    }
    session.destination.complete()?;
    journal.map_or(Ok(()), Journal::remove)?;
    tell_flaws(result.failed, state.repeated + result.repeated)?;
    Ok(EventsEnd::Complete(result.rest))
}

/// Ends a complete output with an error, if it lacks users or has lines twice.
fn tell_flaws(failed: u64, repeated: u64) -> anyhow::Result<()> {
    let failed = (failed > 0).then(|| format!("users or groups that could not be read: {failed}"));
    let repeated = (repeated > 0)
        .then(|| format!("users of whom events may be there twice: {repeated} (the same EventId is the same event)"));
    let told: Vec<_> = failed.into_iter().chain(repeated).collect();
    if told.is_empty() { Ok(()) } else { Err(anyhow!(told.join("; "))) }
}

/// The users that the arguments select, and a digest of the names given by hand.
async fn selection(args: &EventsArgs) -> anyhow::Result<(UserSelection, String)> {
    let mut names = args.username.clone();
    if let Some(path) = &args.usernames_file {
        let text = usernames_file::read_text(path).await;
        let text = text.map_err(|cause| anyhow!("--usernames-file {} cannot be read: {cause}", path.display()))?;
        match users::names_in(&text) {
            Ok(listed) => names.extend(listed),
            Err(lines) => bail!(BadUsage(no_usernames(path, &lines))),
        }
    }
    let mut digest = Sha256::new();
    for name in &names {
        digest.update(name.as_bytes());
        digest.update(b"\n");
    }
    let digest = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let groups = args.group.iter().map(|group| Listing::Group(group.clone()));
    let everybody = args.all_users.then_some(Listing::Users { filter: None });
    let listings = groups.chain(everybody).collect();
    Ok((UserSelection { names, listings, include_federated: args.include_federated }, digest))
}

/// What is said of the lines of a file that are no usernames.
fn no_usernames(path: &Path, lines: &[usize]) -> String {
    let shown: Vec<_> = lines.iter().take(LINES_SHOWN).map(ToString::to_string).collect();
    let more = lines.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "--usernames-file {} has lines that are no usernames: {} (a username has 1 to 128 characters and no white \
         space); see line {}{more}",
        path.display(),
        lines.len(),
        shown.join(", ")
    )
}

/// The arguments that decide what a run prints, for its journal.
fn decisive(args: &EventsArgs, pool_id: &str, names_digest: String) -> BTreeMap<String, String> {
    let mut arguments = BTreeMap::from([
        ("user-pool-id".to_owned(), pool_id.to_owned()),
        ("output".to_owned(), args.output.word().to_owned()),
    ]);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            arguments.insert(name.to_owned(), value);
        }
    };
    let has_names = !args.username.is_empty() || args.usernames_file.is_some();
    add("username", has_names.then_some(names_digest));
    add("group", (!args.group.is_empty()).then(|| args.group.join(", ")));
    add("all-users", args.all_users.then(|| "yes".to_owned()));
    add("include-federated", args.include_federated.then(|| "yes".to_owned()));
    add("since", args.since.as_ref().map(ToString::to_string));
    add("until", args.until.as_ref().map(ToString::to_string));
    add("output-file", args.output_file.as_ref().map(|path| path.display().to_string()));
    arguments
}

/// The progress: of users where several are read, else of events. The number of users is that of the names, and the
/// service's estimate for all users.
async fn progress(args: &EventsArgs, selection: &UserSelection, caller: &Caller, state: &JournalState) -> Progress {
    if !args.several_users() {
        return Progress::beside_output("events read", None);
    }
    let total = match (args.all_users, selection.listings.is_empty()) {
        (true, _) => caller.estimated_users().await,
        (false, true) => Some(selection.names.len() as u64),
        // The service does not say how many members a group has.
        (false, false) => None,
    };
    let total = total.map(|total| total.saturating_sub(state.done.len() as u64));
    Progress::beside_file("users read", total, args.output_file.is_some())
}

/// Waits until the reader of a pipe has closed stdout. A follower that has nothing to print would not notice by itself.
async fn reader_is_gone() {
    if let Some(pipe) = stdout_pipe()
        && pipe.ready(Interest::ERROR).await.is_ok_and(|ready| ready.is_error())
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// Stdout, if it is a pipe. It is never written to, so it need not be in non-blocking mode.
fn stdout_pipe() -> Option<pipe::Sender> {
    let out = File::from(io::stdout().as_fd().try_clone_to_owned().ok()?);
    let is_pipe = out.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
    is_pipe.then(|| pipe::Sender::from_file_unchecked(out).ok()).flatten()
}

/// The width of the terminal that stdout is, where it is known.
fn terminal_columns(to_terminal: bool) -> Option<usize> {
    let size = to_terminal.then(|| rustix::termios::tcgetwinsize(io::stdout()).ok()).flatten()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

fn bad_usage(text: &str) -> ExitCode {
    complain(text);
    ExitCode::from(2)
}
