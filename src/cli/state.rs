//! `state`: looks at the ledger of a stopped exporter, changes its users, verifies, exports and imports it. A running
//! exporter looks and verifies for it (`running`).
//!
//! No command makes or repairs a ledger that it was not asked to. A command that destroys data says what it would do,
//! and does it only with `--yes`. Usernames are printed only where users are asked for, or with `--personal`.

mod look;
mod transfer;
mod verify;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::{ArgGroup, Args, Subcommand};
use cognito_auth_core::event::UnixMillis;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ConfigArgs;
use super::output::{TableOrJsonl, TextOrJson, TextOrJsonl};
use super::progress::Progress;
use super::running;
use super::state_command::{blocking, close_ledger, counted, open_ledger, require_yes, say, select_named};
use crate::config::Config;
use crate::control::{CommandOutput, CommandStatus};
use crate::ledger::{Ledger, LedgerError};
use crate::lifecycle::Clock;

/// Users that are rewound or forgotten between two steps of the progress bar.
const USERS_AT_ONCE: usize = 1000;

/// The arguments of `state`.
#[derive(Args, Debug)]
pub struct StateArgs {
    #[command(subcommand)]
    action: StateAction,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

#[derive(Subcommand, Debug)]
enum StateAction {
    /// Print the pools, or with --user-pool-id that pool's users by name.
    List {
        /// Print the users of this pool.
        #[arg(long, value_name = "ID")]
        user_pool_id: Option<String>,
        /// A table for people, or one JSON object a line.
        #[arg(long, value_enum, default_value_t = TableOrJsonl::Table)]
        output: TableOrJsonl,
    },
    /// Print the state of the ledger, of a pool, or of a user.
    Show {
        /// The pool.
        #[arg(long, value_name = "ID")]
        user_pool_id: Option<String>,
        /// A user of that pool: the username, or the user.hash of a record.
        #[arg(long, value_name = "NAME", requires = "user_pool_id")]
        username: Option<String>,
        /// Lines for people, or one JSON object.
        #[arg(long, value_enum, default_value_t = TextOrJson::Text)]
        output: TextOrJson,
    },
    /// Have users' events since a time logged again when the exporter runs. Counters do not change.
    ///
    /// A user's events are logged at the next poll, after new events. They have the same log.record.uid as before if
    /// their revision is still known, else that of revision 0. Events that poll.first_run had left out are logged, too.
    /// If it is interrupted, it can be repeated. Without --yes it prints what it would do, does nothing, and exits with
    /// 2.
    #[command(group(ArgGroup::new("users").args(["username", "all"]).required(true)))]
    Rewind {
        #[command(flatten)]
        selection: UserSelection,
        /// The time, in RFC 3339, such as 2026-01-31T12:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = moment)]
        to: UnixMillis,
        /// Really rewind them.
        #[arg(long)]
        yes: bool,
    },
    /// Remove users, or a whole pool with its totals, from the ledger. Entries in the outbox stay.
    ///
    /// For users and pools that are gone. A user who is still selected joins again at the next start, and earlier
    /// events are history then. If the user was created after the pool was first followed, they are counted again.
    /// Without --yes it prints what it would do, does nothing, and exits with 2.
    #[command(group(ArgGroup::new("users").args(["username", "all", "gone"]).required(true)))]
    Forget {
        #[command(flatten)]
        selection: UserSelection,
        /// All users whom discovery has found gone.
        #[arg(long)]
        gone: bool,
        /// Really forget them.
        #[arg(long)]
        yes: bool,
    },
    /// Read every record, and print the damaged ones, each with its consequence and the remedy.
    ///
    /// Exits with 1 if a record is damaged. It also reads a ledger that `run` would not open.
    Verify {
        /// Lines for people, or one JSON object a line.
        #[arg(long, value_enum, default_value_t = TextOrJsonl::Text)]
        output: TextOrJsonl,
        /// Also print the usernames of damaged records.
        #[arg(long)]
        personal: bool,
    },
    /// Print the whole ledger as JSON Lines, with personal data. Leaves out damaged records, and then exits with 1.
    Export,
    /// Import an exported ledger. A ledger that is there is moved aside and kept.
    ///
    /// It imports the whole export, or nothing if the export is damaged or the command is interrupted. If there is a
    /// ledger, it needs --yes.
    Import {
        /// The output of `export`; - for stdin.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Really replace the ledger that is there.
        #[arg(long)]
        yes: bool,
    },
}

/// The users to work on.
#[derive(Args, Debug)]
struct UserSelection {
    /// The pool.
    #[arg(long, value_name = "ID")]
    user_pool_id: String,
    /// The user: the username, or the user.hash of a record. May be repeated.
    #[arg(long, value_name = "NAME")]
    username: Vec<String>,
    /// Every user of the pool.
    #[arg(long)]
    all: bool,
}

impl StateAction {
    /// Whether a running exporter runs it for others: it only looks.
    fn is_harmless(&self) -> bool {
        matches!(self, Self::List { .. } | Self::Show { .. } | Self::Verify { .. })
    }
}

/// Runs a `state` command, or has the running exporter that uses the ledger run it.
///
/// # Errors
/// There is no ledger, it is in use or damaged, or there is no such pool or user. Each error says what to do.
pub async fn main(args: StateArgs, config: Config) -> anyhow::Result<ExitCode> {
    let state = config.state.clone();
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let mut output = CommandOutput { out: &mut out, err: &mut err };
    let done = match &args.action {
        StateAction::Verify { output: form, personal } => {
            let (state, form, personal) = (state.clone(), *form, *personal);
            blocking(move || {
                let (mut out, mut err) = (io::stdout(), io::stderr());
                verify::verify(&state, form, personal, &mut CommandOutput { out: &mut out, err: &mut err })
            })
            .await
        }
        StateAction::Import { file, yes } => {
            let (state, file, yes) = (state.clone(), file.clone(), *yes);
            blocking(move || transfer::import(&state, &file, yes)).await
        }
        _ => on_stopped(&args.action, config, &mut output).await,
    };
    match done {
        Err(error) if args.action.is_harmless() => running::ask_instead(state.path, error).await,
        done => Ok(done?.into()),
    }
}

/// Runs a command that opens the ledger.
async fn on_stopped(
    action: &StateAction,
    config: Config,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    let now = Clock::system().now();
    let ledger = open_ledger(config, now).await?;
    let done = match action {
        StateAction::Rewind { selection, to, yes } => rewind(&ledger, selection, *to, *yes).await,
        StateAction::Forget { selection, gone, yes } => forget(&ledger, selection, *gone, *yes).await,
        StateAction::Export => transfer::export(&ledger, now),
        looking => look(&ledger, looking, output),
    };
    close_ledger(ledger, done).await
}

/// Runs a `state` command that only looks, in a running exporter.
///
/// # Errors
/// The command does more than look, or there is no such pool or user.
pub(super) fn run_harmless(
    ledger: &Ledger,
    args: &StateArgs,
    output: &mut CommandOutput<'_>,
) -> anyhow::Result<CommandStatus> {
    match &args.action {
        StateAction::Verify { output: form, personal } => verify::verify_open(ledger, *form, *personal, output),
        action => look(ledger, action, output),
    }
}

fn look(ledger: &Ledger, action: &StateAction, output: &mut CommandOutput<'_>) -> anyhow::Result<CommandStatus> {
    match action {
        StateAction::List { user_pool_id: None, output: form } => look::list_pools(ledger, *form, output),
        StateAction::List { user_pool_id: Some(pool_id), output: form } => {
            look::list_users(ledger, pool_id, *form, output)
        }
        StateAction::Show { user_pool_id: Some(pool_id), username: Some(username), output: form } => {
            look::show_user(ledger, pool_id, username, *form, output)
        }
        StateAction::Show { user_pool_id: Some(pool_id), username: None, output: form } => {
            look::show_pool(ledger, pool_id, *form, output)
        }
        StateAction::Show { user_pool_id: None, output: form, .. } => look::show_ledger(ledger, *form, output),
        _ => bail!(running::STOP_FIRST),
    }
}

async fn rewind(
    ledger: &Ledger,
    selection: &UserSelection,
    to: UnixMillis,
    yes: bool,
) -> anyhow::Result<CommandStatus> {
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
        say(&format!(
            "left out, because their records are damaged: {} (see `state verify`)",
            counted(unreadable, "user")
        ));
    }
    let code = if unreadable == 0 { CommandStatus::Success } else { CommandStatus::Failure };
    if rewound.is_empty() {
        say(&format!("no events were taken since {to}; nothing to do"));
        return Ok(code);
    }
    let what =
        format!("{} of {pool_id} to {to}: their events since then are logged again", counted(rewound.len(), "user"));
    if !yes {
        return Ok(require_yes(&format!("would rewind {what}, and not counted again")));
    }
    let mut progress = Progress::of("users rewound", Some(rewound.len() as u64));
    for part in rewound.chunks(USERS_AT_ONCE) {
        ledger
            .rewind(pool_id, part, to)
            .await
            .context("some users may be rewound; repeat the command to rewind the rest")?;
        progress.advance(part.len() as u64);
    }
    drop(progress);
    say(&format!("rewound {what} when the exporter runs"));
    Ok(code)
}

async fn forget(ledger: &Ledger, selection: &UserSelection, gone: bool, yes: bool) -> anyhow::Result<CommandStatus> {
    let pool_id = &selection.user_pool_id;
    let gone_ones = ledger.gone(pool_id).map(|user| Ok(user?.0)).collect::<Result<Vec<String>, LedgerError>>()?;
    let users = if gone { gone_ones.clone() } else { selection.of(ledger)? };
    if users.is_empty() && !selection.all {
        say("no user is gone; nothing to do");
        return Ok(CommandStatus::Success);
    }
    let gone_ones: HashSet<_> = gone_ones.into_iter().collect();
    let followed = users.iter().filter(|username| !gone_ones.contains(*username)).count();
    let pool = if selection.all { ", and the pool's counters, which begin at 0 if it is followed again" } else { "" };
    let what = format!("{} of {pool_id}{pool}", counted(users.len(), "user"));
    if !yes {
        let still = if followed > 0 {
            format!(
                "; {followed} of them are not gone: if they are still selected, they join again, and the events of \
                 those created after the pool was first followed are counted again"
            )
        } else {
            String::new()
        };
        return Ok(require_yes(&format!("would forget {what}{still}")));
    }
    let mut progress = Progress::of("users forgotten", Some(users.len() as u64));
    const INTERRUPTED: &str = "some users may be forgotten; repeat the command to forget the rest";
    for part in users.chunks(USERS_AT_ONCE) {
        ledger.forget(pool_id, part.to_vec()).await.context(INTERRUPTED)?;
        progress.advance(part.len() as u64);
    }
    drop(progress);
    // Last: while the pool has its record, the command can be repeated.
    if selection.all {
        ledger.forget_pool(pool_id).await.context(INTERRUPTED)?;
    }
    say(&format!("forgotten: {what}"));
    Ok(CommandStatus::Success)
}

impl UserSelection {
    /// Returns the selected users: all users, or all of the named ones.
    fn of(&self, ledger: &Ledger) -> anyhow::Result<Vec<String>> {
        let pool_id = &self.user_pool_id;
        require_pool(ledger, pool_id)?;
        if self.all {
            return Ok(ledger.usernames(pool_id).collect::<Result<_, _>>()?);
        }
        let is_there = |username: &String| match ledger.standing(pool_id, username) {
            // A damaged record is there, too.
            Ok(Some(_)) | Err(LedgerError::Corrupt { .. }) => Ok(true),
            Ok(None) => Ok(false),
            Err(error) => Err(error.into()),
        };
        let missing = |absent: &[String]| {
            let first = absent.first().map_or("", String::as_str);
            anyhow!("nothing is kept of {first:?} in {pool_id}; nothing was done")
        };
        let found = |text: &String| Ok(ledger.find_user(pool_id, text)?.unwrap_or_else(|| text.clone()));
        let names = self.username.iter().map(found).collect::<Result<Vec<_>, LedgerError>>()?;
        select_named(&names, is_there, missing)
    }
}

/// Checks that the ledger has the pool.
fn require_pool(ledger: &Ledger, pool_id: &str) -> anyhow::Result<()> {
    let pools = ledger.pools()?;
    if pools.iter().any(|pool| pool == pool_id) {
        return Ok(());
    }
    bail!("nothing is kept of a pool {pool_id:?}; the ledger has: {}", pools.join(", "))
}

/// Parses a time on the command line.
fn moment(text: &str) -> Result<UnixMillis, String> {
    let time =
        OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "not RFC 3339, such as 2026-01-31T12:00:00Z".to_owned())?;
    Ok(UnixMillis::from_secs_and_nanos(time.unix_timestamp(), time.nanosecond()))
}
