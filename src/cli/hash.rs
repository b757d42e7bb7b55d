//! `hash`: prints the hashes that stand for usernames and addresses in records.
//!
//! With `privacy.username = "hash"` a record names its user by `user.hash`. A person with the key finds the records of
//! a user by the hash of the name. The command makes the hash as the exporter does: from the text as it is, without a
//! change of case. It calls no service and opens no ledger, so it works beside a running exporter.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use cognito_auth_core::masking::Mode;
use cognito_auth_core::printable::printable;
use cognito_auth_core::privacy::HashKey;
use cognito_auth_core::users::selection;

use super::state_command::{blocking, is_closed_pipe, say};
use super::{ConfigArgs, complain};
use crate::app::hash_keys::{self, KeyFile};
use crate::config::{Config, ConfigErrors, PrivacyConfig};

/// Bytes of the names that are read at once: half a million names of full length, as in a pool's `usernames_file`.
const NAMES_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Arguments of `hash`.
#[derive(Args)]
#[command(group(
    ArgGroup::new("texts").args(["username", "usernames_file", "ip_address"]).required(true).multiple(true)
))]
pub struct HashArgs {
    /// A username, exactly as Cognito returns it: case matters. May be repeated.
    #[arg(long, value_name = "NAME", value_parser = username)]
    username: Vec<String>,
    /// A file with one username a line, such as a pool's usernames_file; - for stdin.
    #[arg(long, value_name = "FILE")]
    usernames_file: Option<PathBuf>,
    /// A client's address, as Cognito writes it. May be repeated.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    ip_address: Vec<String>,
    /// The file of another key than privacy.hash_key_file, such as the one before a change. Reads no configuration.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

/// Shows no username and no address.
impl fmt::Debug for HashArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashArgs").field("key_file", &self.key_file).finish_non_exhaustive()
    }
}

impl HashArgs {
    /// Loads the configuration, unless another key is named.
    pub(super) fn load(&self) -> Result<Option<Config>, ConfigErrors> {
        if self.key_file.is_some() { Ok(None) } else { self.config.load().map(Some) }
    }

    /// Returns why records carry no such hashes under these settings, if they carry none.
    fn objection(&self, privacy: &PrivacyConfig) -> Option<String> {
        let asks_names = !self.username.is_empty() || self.usernames_file.is_some();
        let modes = privacy.modes;
        let objection = match (asks_names, modes.username, self.ip_address.is_empty(), modes.ip_address) {
            (true, Mode::Keep | Mode::Truncate, _, _) => {
                "privacy.username is \"keep\": records carry the name itself in user.name"
            }
            (true, Mode::Drop, _, _) => "privacy.username is \"drop\": records carry neither name nor hash",
            (_, _, false, Mode::Keep) => {
                "privacy.ip_address is \"keep\": records carry the address itself in client.address"
            }
            (_, _, false, Mode::Truncate) => {
                "privacy.ip_address is \"truncate\": records carry the network in client.address"
            }
            (_, _, false, Mode::Drop) => "privacy.ip_address is \"drop\": records carry neither address nor hash",
            _ => return None,
        };
        Some(format!("{objection}. For records of another time, name their key with --key-file"))
    }
}

/// Prints the hashes: of one text the hash alone, of several each with its text on a line.
///
/// # Errors
/// The key or the names cannot be read, or stdout cannot be written. Each error says what to do.
pub async fn main(args: HashArgs, config: Option<Config>) -> anyhow::Result<ExitCode> {
    if let Some(objection) = config.as_ref().and_then(|config| args.objection(&config.privacy)) {
        complain(&objection);
        return Ok(ExitCode::from(2));
    }
    let configured = config.and_then(|config| config.privacy.hash_key_file);
    blocking(move || {
        let path = args.key_file.or(configured).context("privacy.hash_key_file is needed")?;
        let KeyFile { key, is_open } = hash_keys::read(&path)?;
        if is_open {
            say(&format!("{}: {}", path.display(), hash_keys::TOO_OPEN));
        }
        let mut texts = args.username;
        let is_list = args.usernames_file.is_some();
        if let Some(file) = &args.usernames_file {
            texts.extend(names(file)?);
        }
        texts.extend(args.ip_address);
        match print(&key, &texts, is_list, &mut BufWriter::new(io::stdout().lock())) {
            Err(error) if !is_closed_pipe(&error) => Err(error),
            _ => Ok(ExitCode::SUCCESS),
        }
    })
    .await
}

fn print(key: &HashKey, texts: &[String], is_list: bool, out: &mut impl Write) -> anyhow::Result<()> {
    for text in texts {
        let hash = key.hash(text);
        match texts {
            [_] if !is_list => writeln!(out, "{hash}")?,
            _ => writeln!(out, "{hash}  {}", printable(text))?,
        }
    }
    Ok(out.flush()?)
}

/// Reads the names in a file, or on stdin.
fn names(file: &Path) -> anyhow::Result<Vec<String>> {
    let mut bytes = Vec::new();
    let mut read = |from: &mut dyn io::Read| from.take(NAMES_BYTES_MAX + 1).read_to_end(&mut bytes);
    let read = if file == Path::new("-") {
        read(&mut io::stdin().lock())
    } else {
        File::open(file).and_then(|mut file| read(&mut file))
    };
    let shown = file.display();
    read.with_context(|| format!("cannot read {shown}"))?;
    if bytes.len() as u64 > NAMES_BYTES_MAX {
        bail!("{shown} has more than {NAMES_BYTES_MAX} bytes; split it");
    }
    let text = String::from_utf8(bytes).with_context(|| format!("{shown} is not text"))?;
    Ok(selection::names_in(&text))
}

/// Cognito's usernames have no white space (API reference, AdminGetUser).
fn username(text: &str) -> Result<String, String> {
    if (1..=selection::USERNAME_CHARS_MAX).contains(&text.chars().count()) && !text.contains(char::is_whitespace) {
        Ok(text.to_owned())
    } else {
        Err(format!("a username has 1 to {} characters and no white space", selection::USERNAME_CHARS_MAX))
    }
}

/// An address, in the form in which it was written.
fn address(text: &str) -> Result<String, String> {
    text.parse::<IpAddr>().map(|_| text.to_owned()).map_err(|_| "not an IPv4 or IPv6 address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(texts: &[&str], is_list: bool) -> String {
        let key = HashKey::new(&[7; 32]).unwrap();
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        let mut out = Vec::new();
        print(&key, &texts, is_list, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_text_gives_the_bare_hash_and_several_give_each_with_its_text() {
        let alice = HashKey::new(&[7; 32]).unwrap().hash("alice");
        assert_eq!(printed(&["alice"], false), format!("{alice}\n"));
        assert_eq!(printed(&["alice"], true), format!("{alice}  alice\n"));
        let both = printed(&["alice", "Alice"], false);
        let lines: Vec<_> = both.lines().collect();
        assert_eq!((lines[0], lines.len()), (&*format!("{alice}  alice"), 2));
        assert!(lines[1].ends_with("  Alice") && !lines[1].starts_with(&alice), "case matters: {both}");
    }

    #[test]
    fn a_hostile_name_in_a_file_cannot_control_the_terminal() {
        assert!(!printed(&["\u{1b}[2Jgone"], true).contains('\u{1b}'));
    }
}
