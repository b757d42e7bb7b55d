//! `completions` and `man`: completion scripts and manual pages, from the same source as `--help`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use super::{Arguments, complain};

/// The program's name on the command line.
const NAME: &str = "cognito-auth-exporter";

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// The command; without one, the page of the program.
    command: Option<String>,
    /// Write the pages of the program and of every command into this directory, for packages.
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "command")]
    output_dir: Option<PathBuf>,
}

/// Prints the completion script of a shell.
///
/// # Errors
/// Stdout cannot be written.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), NAME, &mut script);
    print(&script)
}

/// Prints a page for `man -l -`, or writes all pages.
///
/// # Errors
/// Stdout or the directory cannot be written.
pub fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    if let Some(directory) = &args.output_dir {
        clap_mangen::generate_to(Arguments::command(), directory)
            .with_context(|| format!("write the pages into {}", directory.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut whole = Arguments::command();
    whole.build();
    let command: Command = match &args.command {
        None => whole,
        Some(name) => {
            let Some(found) = whole.find_subcommand(name) else {
                let known: Vec<_> = whole.get_subcommands().map(Command::get_name).collect();
                complain(&format!("there is no command {name:?}; there are {}", known.join(", ")));
                return Ok(ExitCode::from(2));
            };
            found.clone()
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).context("render the page")?;
    print(&page)
}

fn print(text: &[u8]) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(text).context("write to stdout")?;
    Ok(ExitCode::SUCCESS)
}
