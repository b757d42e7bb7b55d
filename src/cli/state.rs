//! `state`: the ledger of an exporter that is stopped is looked at, repaired, taken out and put in.
//!
//! Nothing is made and nothing repaired unasked. What destroys says what it would do, and does it with `--yes`. Names are
//! shown where users are asked for, and nowhere else unasked.

mod look;
mod transfer;
mod verify;

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use cognito_auth_core::event::UnixMillis;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ConfigArgs;
use super::progress::Progress;
use crate::app::hash_keys;
use crate::config::Config;
use crate::ledger::{Ledger, LedgerError};
use crate::lifecycle::Clock;

/// Users that are rewound or forgotten between two steps of the bar.
const AT_ONCE: usize = 1000;

/// What to do with the state.
#[derive(Args, Debug)]
pub struct StateArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Print the pools with what is kept of them; with --user-pool-id that pool's users, by name.
    List {
        /// The pool whose users are listed.
        #[arg(long, value_name = "ID")]
        user_pool_id: Option<String>,
        /// A table for people, or one JSON object a line.
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Print what is kept of the ledger, of a pool, or of a user.
    Show {
        /// The pool.
        #[arg(long, value_name = "ID")]
        user_pool_id: Option<String>,
        /// The user, of that pool.
        #[arg(long, value_name = "NAME", requires = "user_pool_id")]
        username: Option<String>,
        /// Lines for people, or one JSON object.
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Have users' events from a time on logged again when the exporter runs; counters do not move.
    ///
    /// Each comes when its user is polled next, behind what is new, with the same log.record.uid as before where its
    /// revision is still known, else as revision 0. Events older than was wanted (poll.first_run) come too. Interrupted, it
    /// can be asked again. Without --yes it says what it would do, does nothing, and exits with 2.
    #[command(group(ArgGroup::new("users").args(["username", "all"]).required(true)))]
    Rewind {
        #[command(flatten)]
        selection: Selection,
        /// From when on: RFC 3339, such as 2026-01-31T12:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = moment)]
        to: UnixMillis,
        /// Really rewind them.
        #[arg(long)]
        yes: bool,
    },
    /// Remove users, or a whole pool with its totals, from the ledger. What waits for delivery stays.
    ///
    /// For users and pools that are gone. One who is still selected joins anew at the next start: what it did before is
    /// history then, and for users created after the pool was first followed it is counted once more. Without --yes it says
    /// what it would do, does nothing, and exits with 2.
    #[command(group(ArgGroup::new("users").args(["username", "all", "gone"]).required(true)))]
    Forget {
        #[command(flatten)]
        selection: Selection,
        /// Those whom discovery has found gone.
        #[arg(long)]
        gone: bool,
        /// Really forget them.
        #[arg(long)]
        yes: bool,
    },
    /// Read every record, and say which are damaged, what follows from that, and what to do.
    ///
    /// Exits with 1 if any is. Also for a ledger that `run` would not open.
    Verify {
        /// Lines for people, or one JSON object a line.
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Also print the usernames of damaged records.
        #[arg(long)]
        personal: bool,
    },
    /// Print the whole ledger as JSON Lines, personal data included. Damaged records are left out, and make the exit code 1.
    Export,
    /// Put an exported ledger in the place of the one that is there, which is moved aside and kept.
    ///
    /// All of it, or, on a mistake in it or interrupted, nothing. If there is one already, --yes is needed.
    Import {
        /// What `export` has printed; - for stdin.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Really take the place of the ledger that is there.
        #[arg(long)]
        yes: bool,
    },
}

/// Form of what is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For machines.
    Json,
}

/// Which users.
#[derive(Args, Debug)]
struct Selection {
    /// The pool.
    #[arg(long, value_name = "ID")]
    user_pool_id: String,
    /// The user; may be given more than once.
    #[arg(long, value_name = "NAME")]
    username: Vec<String>,
    /// Every user of the pool.
    #[arg(long)]
    all: bool,
}

/// Does what the arguments say.
///
/// # Errors
/// There is no ledger, it is in use or damaged, there is no such pool or user; each says what to do.
pub async fn main(args: StateArgs, config: Config) -> anyhow::Result<ExitCode> {
    let state = config.state.clone();
    match args.action {
        Action::Verify { output, personal } => {
            return blocking(move || verify::verify(&state, output, personal)).await;
        }
        Action::Import { file, yes } => return blocking(move || transfer::import(&state, &file, yes)).await,
        _ => {}
    }
    let now = Clock::system().now();
    let privacy = hash_keys::privacy(&config.privacy)?;
    let opening = move || Ok(Ledger::open_existing(&config.state, &privacy, now)?);
    let ledger = blocking(opening).await.map_err(with_remedy)?;
    let done = match &args.action {
        Action::List { user_pool_id: None, output } => look::list_pools(&ledger, *output),
        Action::List { user_pool_id: Some(pool_id), output } => look::list_users(&ledger, pool_id, *output),
        Action::Show { user_pool_id: Some(pool_id), username: Some(username), output } => {
            look::show_user(&ledger, pool_id, username, *output)
        }
        Action::Show { user_pool_id: Some(pool_id), username: None, output } => {
            look::show_pool(&ledger, pool_id, *output)
        }
        Action::Show { user_pool_id: None, output, .. } => look::show_ledger(&ledger, *output),
        Action::Rewind { selection, to, yes } => rewind(&ledger, selection, *to, *yes).await,
        Action::Forget { selection, gone, yes } => forget(&ledger, selection, *gone, *yes).await,
        Action::Export => transfer::export(&ledger, now),
        Action::Verify { .. } | Action::Import { .. } => Ok(ExitCode::SUCCESS),
    };
    ledger.close().await;
    match done {
        // A reader who has seen enough.
        Err(error) if is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

async fn rewind(ledger: &Ledger, selection: &Selection, to: UnixMillis, yes: bool) -> anyhow::Result<ExitCode> {
    let pool_id = &selection.user_pool_id;
    let users = selection.of(ledger)?;
    let mut progress = Progress::of("users read", Some(users.len() as u64));
    let (mut rewound, mut unreadable) = (Vec::new(), 0);
    for username in users {
        progress.advance(1);
        match ledger.user(pool_id, &username) {
            Ok(Some(mut record)) => rewound.extend(record.cursor.rewind(to).then_some(username)),
            Ok(None) => {}
            Err(LedgerError::Corrupt { .. }) => unreadable += 1,
            Err(error) => return Err(error.into()),
        }
    }
    drop(progress);
    if unreadable > 0 {
        tell(&format!("left out, because their records are damaged: {} (see `state verify`)", users_of(unreadable)));
    }
    let code = if unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) };
    if rewound.is_empty() {
        tell(&format!("nothing was taken since {to}; nothing to do"));
        return Ok(code);
    }
    let what = format!("{} of {pool_id} to {to}: their events since then are logged again", users_of(rewound.len()));
    if !yes {
        return Ok(hesitate(&format!("would rewind {what}, and not counted again")));
    }
    let mut progress = Progress::of("users rewound", Some(rewound.len() as u64));
    for part in rewound.chunks(AT_ONCE) {
        ledger.rewind(pool_id, part, to).await.context("some users may be rewound; ask again to rewind the rest")?;
        progress.advance(part.len() as u64);
    }
    drop(progress);
    tell(&format!("rewound {what} when the exporter runs"));
    Ok(code)
}

async fn forget(ledger: &Ledger, selection: &Selection, gone: bool, yes: bool) -> anyhow::Result<ExitCode> {
    let pool_id = &selection.user_pool_id;
    let gone_ones = ledger.gone(pool_id).map(|user| Ok(user?.0)).collect::<Result<Vec<String>, LedgerError>>()?;
    let users = if gone { gone_ones.clone() } else { selection.of(ledger)? };
    if users.is_empty() && !selection.all {
        tell("nobody is gone; nothing to do");
        return Ok(ExitCode::SUCCESS);
    }
    let gone_ones: HashSet<_> = gone_ones.into_iter().collect();
    let followed = users.iter().filter(|username| !gone_ones.contains(*username)).count();
    let pool = if selection.all { ", and the pool's counters, which begin at 0 if it is followed again" } else { "" };
    let what = format!("{} of {pool_id}{pool}", users_of(users.len()));
    if !yes {
        let still = if followed > 0 {
            format!(
                "; {followed} of them not gone: if still selected, they join anew, and what those did who were created \
                 after the pool was first followed is counted once more"
            )
        } else {
            String::new()
        };
        return Ok(hesitate(&format!("would forget {what}{still}")));
    }
    let mut progress = Progress::of("users forgotten", Some(users.len() as u64));
    const INTERRUPTED: &str = "some may be forgotten; ask again to forget the rest";
    for part in users.chunks(AT_ONCE) {
        ledger.forget(pool_id, part.to_vec()).await.context(INTERRUPTED)?;
        progress.advance(part.len() as u64);
    }
    drop(progress);
    // Last: as long as it is there, all of this can be asked again.
    if selection.all {
        ledger.forget_pool(pool_id).await.context(INTERRUPTED)?;
    }
    tell(&format!("forgotten: {what}"));
    Ok(ExitCode::SUCCESS)
}

impl Selection {
    /// The users who are meant: all of those that were named, or none.
    fn of(&self, ledger: &Ledger) -> anyhow::Result<Vec<String>> {
        pool(ledger, &self.user_pool_id)?;
        if self.all {
            return Ok(ledger.usernames(&self.user_pool_id).collect::<Result<_, _>>()?);
        }
        for username in &self.username {
            match ledger.standing(&self.user_pool_id, username) {
                // What cannot be read is there.
                Ok(Some(_)) | Err(LedgerError::Corrupt { .. }) => {}
                Ok(None) => bail!("nothing is kept of {username:?} in {}; nothing was done", self.user_pool_id),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.username.clone())
    }
}

/// Makes sure that the ledger has the pool.
fn pool(ledger: &Ledger, pool_id: &str) -> anyhow::Result<()> {
    let pools = ledger.pools()?;
    if pools.iter().any(|pool| pool == pool_id) {
        return Ok(());
    }
    bail!("nothing is kept of a pool {pool_id:?}; of these it is: {}", pools.join(", "))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("work on the ledger")?
}

/// A ledger that is damaged as a whole is no matter for these commands.
fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<LedgerError>() {
        Some(LedgerError::Corrupt { .. }) => anyhow!(
            "{error}; it was left in its place: `state verify` reads what can be read, `run` puts a damaged ledger aside \
             and begins a new one"
        ),
        _ => error,
    }
}

fn moment(text: &str) -> Result<UnixMillis, String> {
    let time =
        OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "not RFC 3339, such as 2026-01-31T12:00:00Z".to_owned())?;
    Ok(UnixMillis::from_secs_and_nanos(time.unix_timestamp(), time.nanosecond()))
}

/// `1 user`, `2 users`.
fn users_of(count: usize) -> String {
    format!("{count} user{}", if count == 1 { "" } else { "s" })
}

/// What was asked for has to be asked for again, with `--yes`.
fn hesitate(would: &str) -> ExitCode {
    tell(&format!("{would}; nothing was done: add --yes"));
    ExitCode::from(2)
}

/// Says something to whoever started the program.
fn tell(text: &str) {
    // With nobody to read it there is nothing left to do.
    let _ = writeln!(io::stderr(), "{text}");
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
