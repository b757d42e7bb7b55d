//! The journal of a run that can be resumed: what was begun with which arguments, and how far it came.
//!
//! The journal is a file of lines. A line is added after its page was written, so the journal never knows of more than
//! the output has:
//!
//! ```text
//!   page -> output -> journal -> page -> output -> journal
//!                 ^                            ^
//!                 +- killed here: the output has a page more than the journal; a file is cut, a stream repeats it
//! ```
//!
//! The last entry says that everything was written. A run that finds it has only to move the file to its place.
//!
//! A line that was torn by a kill has no line break at its end and is ignored. So each line counts whole or not at all,
//! and adding one costs the same for every number of users.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use cognito_auth_core::event::UnixMillis;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::files;
use super::users::UserKey;
use super::window::TimeWindow;

/// The version of the format.
const VERSION: u32 = 1;

/// Maximum size of a journal in bytes. A user who is done takes 60 bytes, and a page that is not the last takes its
/// token, of a few hundred.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;

/// The arguments of a run, as far as they decide its output.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct RunArguments {
    version: u32,
    /// The arguments that decide the output, by name. Names of users are digests.
    arguments: BTreeMap<String, String>,
    /// The window, with ages counted from the first run.
    since_ms: Option<i64>,
    until_ms: Option<i64>,
}

impl RunArguments {
    pub(super) fn new(arguments: BTreeMap<String, String>, window: TimeWindow) -> Self {
        let millis = |time: Option<UnixMillis>| time.map(|time| time.0);
        Self { version: VERSION, arguments, since_ms: millis(window.since), until_ms: millis(window.until) }
    }

    /// The window of the first run.
    pub(super) fn window(&self) -> TimeWindow {
        TimeWindow { since: self.since_ms.map(UnixMillis), until: self.until_ms.map(UnixMillis) }
    }

    /// The arguments that differ, in words.
    fn differences(&self, other: &Self) -> Vec<String> {
        let names: std::collections::BTreeSet<_> = self.arguments.keys().chain(other.arguments.keys()).collect();
        let shown = |value: Option<&String>| value.map_or("absent".to_owned(), |value| format!("{value:?}"));
        let differs = names.into_iter().filter(|name| self.arguments.get(*name) != other.arguments.get(*name));
        differs
            .map(|name| {
                let (was, is) = (shown(self.arguments.get(name)), shown(other.arguments.get(name)));
                format!("--{name} was {was} and is {is}")
            })
            .collect()
    }
}

/// A line of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JournalEntry {
    /// The first line.
    Begun(RunArguments),
    /// The file of the incomplete run was made for this journal.
    FileMade {},
    /// A page was written, and the user's history goes on at `token`. `from_bytes` is the length of the output before
    /// the user; None if lines of others are among the user's.
    Page { username: String, token: Option<String>, from_bytes: Option<u64>, bytes: u64 },
    /// The user's whole history was written.
    Done { user: String, bytes: u64 },
    /// The user could not be read on from `token`. The next run tries again.
    Failed { username: String, token: Option<String> },
    /// Lines of so many users are written again, and the earlier ones cannot be taken back.
    Repeated { users: u64 },
    /// Everything was written. The file, of this inode, only has to be moved to its place.
    Complete { bytes: u64, inode: Option<u64>, failed: u64 },
}

impl JournalEntry {
    /// The entry of a user who is done.
    pub(super) fn done(username: &str, bytes: u64) -> Self {
        Self::Done { user: STANDARD_NO_PAD.encode(UserKey::of(username).0), bytes }
    }
}

/// Where the lines of an unfinished user are in the output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WrittenLines {
    None,
    /// At its end, from this length on: they can be taken back.
    AtEnd {
        from_bytes: u64,
    },
    /// Before lines of others, or among them.
    Among,
}

/// A user whose history was not written as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct UnfinishedUser {
    pub(super) username: String,
    /// Where the rest begins; None for the newest event.
    pub(super) token: Option<String>,
    pub(super) lines: WrittenLines,
}

impl UnfinishedUser {
    /// Makes a user of whom nothing was read.
    pub(super) fn new(username: String) -> Self {
        Self { username, token: None, lines: WrittenLines::None }
    }
}

/// The users that a run left unfinished, in the order of their turns.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct UnfinishedUsers {
    /// Those who were interrupted. The one whose lines can be taken back comes first, before further lines follow.
    pub(super) interrupted: Vec<UnfinishedUser>,
    /// Those who failed. They come after all others, whom they must not hold up.
    pub(super) failed: Vec<UnfinishedUser>,
}

/// An unfinished user, as the journal's entries left it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct UserState {
    username: String,
    token: Option<String>,
    has_lines: bool,
    has_failed: bool,
    /// The number of the entry, for the order.
    entry: u64,
}

/// The end of an output that only had to be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CompleteOutput {
    pub(super) bytes: u64,
    pub(super) inode: Option<u64>,
    /// Users and listings that could not be read.
    pub(super) failed: u64,
}

/// How far a run came.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct JournalState {
    pub(super) done: HashSet<UserKey>,
    unfinished: HashMap<UserKey, UserState>,
    /// The unfinished user whose lines end the output, and the length of the output before them.
    last: Option<(UserKey, u64)>,
    entries: u64,
    /// The length of the output.
    pub(super) bytes: u64,
    /// Whether the file of the incomplete run is that of this journal.
    pub(super) has_file: bool,
    /// Users with lines that were written twice.
    pub(super) repeated: u64,
    pub(super) complete: Option<CompleteOutput>,
}

impl JournalState {
    /// Adds what an entry says. Returns None for an entry that makes no sense.
    fn apply(&mut self, entry: JournalEntry) -> Option<()> {
        self.entries += 1;
        match entry {
            JournalEntry::Begun(_) => return None,
            JournalEntry::FileMade {} => self.has_file = true,
            JournalEntry::Page { username, token, from_bytes, bytes } => {
                let key = UserKey::of(&username);
                let has_lines = from_bytes.is_none_or(|from_bytes| from_bytes < bytes);
                self.put(key, UserState { username, token, has_lines, has_failed: false, entry: self.entries });
                self.last = from_bytes.map(|from_bytes| (key, from_bytes));
                self.wrote(bytes);
            }
            JournalEntry::Done { user, bytes } => {
                let key = UserKey(STANDARD_NO_PAD.decode(user).ok()?.try_into().ok()?);
                self.unfinished.remove(&key);
                self.done.insert(key);
                self.last = None;
                self.wrote(bytes);
            }
            // Nothing was written, so the last lines stay the last.
            JournalEntry::Failed { username, token } => {
                let key = UserKey::of(&username);
                let has_lines = self.unfinished.get(&key).is_some_and(|user| user.has_lines);
                self.put(key, UserState { username, token, has_lines, has_failed: true, entry: self.entries });
            }
            JournalEntry::Repeated { users } => self.repeated += users,
            JournalEntry::Complete { bytes, inode, failed } => {
                self.complete = Some(CompleteOutput { bytes, inode, failed });
            }
        }
        Some(())
    }

    fn put(&mut self, key: UserKey, user: UserState) {
        self.unfinished.insert(key, user);
    }

    fn wrote(&mut self, bytes: u64) {
        (self.bytes, self.has_file) = (bytes, true);
    }

    /// The keys of the unfinished users.
    pub(super) fn unfinished_keys(&self) -> impl Iterator<Item = UserKey> {
        self.unfinished.keys().copied()
    }

    /// The unfinished users, in the order of their turns.
    pub(super) fn unfinished(&self) -> UnfinishedUsers {
        let mut users: Vec<_> = self.unfinished.iter().collect();
        users.sort_by_key(|(_, user)| user.entry);
        let mut unfinished = UnfinishedUsers::default();
        for (key, user) in users {
            let lines = match self.last {
                _ if !user.has_lines => WrittenLines::None,
                Some((last, from_bytes)) if last == *key => WrittenLines::AtEnd { from_bytes },
                _ => WrittenLines::Among,
            };
            let known = UnfinishedUser { username: user.username.clone(), token: user.token.clone(), lines };
            if matches!(lines, WrittenLines::AtEnd { .. }) {
                unfinished.interrupted.insert(0, known);
            } else if user.has_failed {
                unfinished.failed.push(known);
            } else {
                unfinished.interrupted.push(known);
            }
        }
        unfinished
    }
}

/// A text that is no journal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("it is not a journal of `events`")]
    Foreign,
    #[error("it was written by another version of the exporter")]
    OtherVersion,
    #[error("line {0} is damaged")]
    Damaged(usize),
}

/// Reads a journal: the arguments, how far the run came, and the number of bytes in whole lines.
pub(super) fn read(bytes: &[u8]) -> Result<(RunArguments, JournalState, usize), JournalError> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let mut lines = bytes.get(..whole).unwrap_or_default().split_inclusive(|byte| *byte == b'\n');
    let begun = lines.next().and_then(|line| serde_json::from_slice(line).ok());
    let Some(JournalEntry::Begun(arguments)) = begun else { return Err(JournalError::Foreign) };
    if arguments.version != VERSION {
        return Err(JournalError::OtherVersion);
    }
    let mut state = JournalState::default();
    for (index, line) in lines.enumerate() {
        let entry = serde_json::from_slice(line).ok();
        entry.and_then(|entry| state.apply(entry)).ok_or(JournalError::Damaged(index + 2))?;
    }
    Ok((arguments, state, whole))
}

/// A journal on the disk. It is locked while it is open.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Begins a journal, or opens the one that is there. Returns the window of its first run, and how far it came.
    ///
    /// # Errors
    /// The journal was begun with other arguments, is no journal, is in use, or cannot be read or written.
    pub(super) fn open(path: &Path, arguments: RunArguments) -> anyhow::Result<(Self, TimeWindow, JournalState)> {
        let shown = path.display();
        let Some(file) = files::open(path, OpenOptions::new().read(true).append(true), "journal")? else {
            let window = arguments.window();
            return Ok((Self::begin(path, arguments)?, window, JournalState::default()));
        };
        let mut bytes = Vec::new();
        let read_in = (&file).take(JOURNAL_BYTES_MAX + 1).read_to_end(&mut bytes);
        read_in.with_context(|| format!("read the journal {shown}"))?;
        if bytes.len() as u64 > JOURNAL_BYTES_MAX {
            bail!("the journal {shown} is larger than {} MiB", JOURNAL_BYTES_MAX >> 20);
        }
        let (begun, state, whole) = match read(&bytes) {
            Ok(found) => found,
            Err(error) => bail!("the journal {shown} cannot be used: {error}; name another file, or remove it"),
        };
        let differences = begun.differences(&arguments);
        if !differences.is_empty() {
            bail!(
                "the journal {shown} was begun with other arguments: {}; use those, or remove it to begin anew",
                differences.join("; ")
            );
        }
        file.set_len(whole as u64).with_context(|| format!("write the journal {shown}"))?;
        Ok((Self { file, path: path.to_owned() }, begun.window(), state))
    }

    fn begin(path: &Path, arguments: RunArguments) -> anyhow::Result<Self> {
        let write = || format!("write the journal {}", path.display());
        let mut file = NamedTempFile::new_in(files::folder(path)).with_context(write)?;
        files::lock(file.as_file(), path, "journal")?;
        file.write_all(&line(&JournalEntry::Begun(arguments))?).with_context(write)?;
        file.as_file().sync_all().with_context(write)?;
        let file = file.persist_noclobber(path).map_err(|error| error.error).with_context(write)?;
        files::sync_folder(path).with_context(write)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Adds an entry. It is on the disk when this returns.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(super) fn add(&mut self, entry: &JournalEntry) -> anyhow::Result<()> {
        let added = self.file.write_all(&line(entry)?).and_then(|()| self.file.sync_data());
        added.with_context(|| format!("write the journal {}", self.path.display()))
    }

    /// Removes the journal of a run that is complete.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        std::fs::remove_file(&self.path).with_context(|| format!("remove the journal {}", self.path.display()))
    }
}

fn line(entry: &JournalEntry) -> anyhow::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arguments(pairs: &[(&str, &str)]) -> RunArguments {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        RunArguments::new(pairs.collect(), TimeWindow { since: Some(UnixMillis(7)), until: None })
    }

    #[test]
    fn other_arguments_are_refused_by_name_and_the_window_stays_that_of_the_first_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        drop(Journal::open(&path, arguments(&[("group", "staff"), ("since", "2h")])).unwrap());
        let later = RunArguments { since_ms: Some(99), ..arguments(&[("group", "staff"), ("since", "2h")]) };
        let (journal, window, state) = Journal::open(&path, later.clone()).unwrap();
        assert_eq!((window.since, state), (Some(UnixMillis(7)), JournalState::default()));
        let busy = Journal::open(&path, later).err().unwrap().to_string();
        assert!(busy.contains("another run uses"), "{busy}");
        drop(journal);
        let other = arguments(&[("group", "admins"), ("output", "csv"), ("since", "2h")]);
        let refused = Journal::open(&path, other).err().unwrap().to_string();
        let told = r#"--group was "staff" and is "admins"; --output was absent and is "csv"; use those, or remove it"#;
        assert!(refused.contains(told), "{refused}");
    }

    #[test]
    fn a_file_that_is_no_journal_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        for (text, told) in [("dear diary\n", "not a journal"), ("{\"begun\":{\"version\":9}}\n", "not a journal")] {
            std::fs::write(&path, text).unwrap();
            let refused = Journal::open(&path, arguments(&[])).err().unwrap().to_string();
            assert!(refused.contains(told) && refused.contains("name another file"), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let mut text = line(&JournalEntry::Begun(arguments(&[]))).unwrap();
        text.extend(b"{\"done\":{\"user\":\"?\",\"bytes\":1}}\n");
        assert_eq!(read(&text).unwrap_err(), JournalError::Damaged(2));
    }

    fn page(username: &str, token: &str, from_bytes: Option<u64>, bytes: u64) -> JournalEntry {
        JournalEntry::Page { username: username.into(), token: Some(token.into()), from_bytes, bytes }
    }

    fn failed(username: &str, token: Option<&str>) -> JournalEntry {
        JournalEntry::Failed { username: username.into(), token: token.map(str::to_owned) }
    }

    fn after(entries: Vec<JournalEntry>) -> JournalState {
        let mut state = JournalState::default();
        entries.into_iter().for_each(|entry| state.apply(entry).unwrap());
        state
    }

    #[test]
    fn a_failed_user_is_tried_again_where_it_failed_and_after_all_others() {
        let user = |username: &str, token: Option<&str>, lines| UnfinishedUser {
            username: username.into(),
            token: token.map(str::to_owned),
            lines,
        };
        // Its lines are the last ones, also after others failed who have none.
        let failed_alone = vec![page("ada", "t", Some(10), 20), failed("ada", Some("t")), failed("eve", None)];
        let unfinished = after(failed_alone.clone()).unfinished();
        assert_eq!(unfinished.interrupted, [user("ada", Some("t"), WrittenLines::AtEnd { from_bytes: 10 })]);
        assert_eq!(unfinished.failed, [user("eve", None, WrittenLines::None)]);
        // Then lines of others follow.
        let mut entries = failed_alone;
        entries.extend([JournalEntry::done("bob", 30), page("cyd", "u", Some(30), 40)]);
        let state = after(entries.clone());
        let unfinished = state.unfinished();
        assert_eq!(unfinished.interrupted, [user("cyd", Some("u"), WrittenLines::AtEnd { from_bytes: 30 })]);
        let among = user("ada", Some("t"), WrittenLines::Among);
        assert_eq!(unfinished.failed, [among, user("eve", None, WrittenLines::None)]);
        assert_eq!((state.bytes, state.done.len()), (40, 1));
        entries.extend([JournalEntry::done("ada", 50), JournalEntry::done("cyd", 60), JournalEntry::done("eve", 60)]);
        assert_eq!(after(entries).unfinished(), UnfinishedUsers::default());
    }

    #[test]
    fn lines_that_were_written_in_two_places_cannot_be_taken_back() {
        let state =
            after(vec![page("ada", "t", Some(0), 20), JournalEntry::done("bob", 30), page("ada", "u", None, 40)]);
        assert_eq!(state.unfinished().interrupted[0].lines, WrittenLines::Among);
    }

    #[test]
    fn a_journal_of_many_failed_users_is_read_in_one_pass() {
        let mut text = line(&JournalEntry::Begun(arguments(&[]))).unwrap();
        for user in 0..100_000 {
            text.extend(line(&failed(&user.to_string(), None)).unwrap());
        }
        let (_, state, _) = read(&text).unwrap();
        let failed = state.unfinished().failed;
        assert_eq!(failed.len(), 100_000);
        assert!(failed.iter().zip(0..).all(|(user, number): (_, u32)| user.username == number.to_string()));
    }

    #[test]
    fn a_complete_output_is_known_with_its_failures() {
        let state =
            after(vec![JournalEntry::FileMade {}, JournalEntry::Complete { bytes: 9, inode: Some(7), failed: 2 }]);
        assert!(state.has_file);
        assert_eq!(state.complete, Some(CompleteOutput { bytes: 9, inode: Some(7), failed: 2 }));
    }

    #[test]
    fn a_journal_is_a_regular_file_and_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &path).unwrap();
        let refused = format!("{:#}", Journal::open(&path, arguments(&[])).err().unwrap());
        let told = format!("the journal {} is a link, not a regular file: name another one", path.display());
        assert_eq!(refused, told);
    }

    fn any_entry() -> impl Strategy<Value = JournalEntry> {
        let (token, bytes) = (prop::option::of("[a-z#\"\n]{1,8}"), 0_u64..1_000);
        prop_oneof![
            ("[a-c]", token.clone(), bytes.clone()).prop_map(|(username, token, bytes)| {
                JournalEntry::Page { username, token, from_bytes: Some(0), bytes }
            }),
            ("[a-c]", bytes).prop_map(|(username, bytes)| JournalEntry::done(&username, bytes)),
            ("[a-c]", token).prop_map(|(username, token)| JournalEntry::Failed { username, token }),
        ]
    }

    /// A run over users' pages that dies after this many steps: a step is a page in the output, or its journal line.
    /// Returns whether it came to its end.
    fn run(users: &[u8], output: &mut Vec<u8>, journal: &mut Vec<u8>, mut steps: usize, is_file: bool) -> bool {
        let (_, state, _) = read(journal).unwrap();
        if is_file {
            output.truncate(usize::try_from(state.bytes).unwrap());
        }
        let mut written = state.bytes;
        for (user, pages) in (0_u8..).zip(users) {
            let username = user.to_string();
            if state.done.contains(&UserKey::of(&username)) {
                continue;
            }
            let begun = state.unfinished.get(&UserKey::of(&username));
            let first = begun.and_then(|begun| begun.token.as_ref()).map_or(0_u8, |token| token.parse().unwrap());
            for page in first..*pages {
                if steps == 0 {
                    return false;
                }
                output.extend([user, page]);
                written += 2;
                if steps == 1 {
                    return false;
                }
                steps -= 2;
                let entry = if page + 1 == *pages {
                    JournalEntry::done(&username, written)
                } else {
                    let token = Some((page + 1).to_string());
                    JournalEntry::Page { username: username.clone(), token, from_bytes: Some(0), bytes: written }
                };
                journal.extend(line(&entry).unwrap());
            }
        }
        true
    }

    proptest! {
        #[test]
        fn wherever_a_journal_is_cut_it_says_what_its_whole_lines_say(
            entries in prop::collection::vec(any_entry(), 0..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut text = line(&JournalEntry::Begun(arguments(&[("pool", "p")]))).unwrap();
            let begun = text.len();
            let mut states = vec![(begun, JournalState::default())];
            for entry in entries {
                text.extend(line(&entry).unwrap());
                let mut state = states.last().unwrap().1.clone();
                state.apply(entry).unwrap();
                states.push((text.len(), state));
            }
            let cut = begun + cut.index(text.len() - begun + 1);
            let (_, state, whole) = read(&text[..cut]).unwrap();
            let expected = states.iter().rev().find(|(length, _)| *length <= cut).unwrap();
            prop_assert_eq!((whole, &state), (expected.0, &expected.1));
        }

        #[test]
        fn a_file_has_every_page_once_and_a_stream_repeats_a_page_only_after_a_kill_between_page_and_journal(
            users in prop::collection::vec(1_u8..4, 0..5),
            kills in prop::collection::vec(0_usize..8, 0..6),
            is_file in any::<bool>(),
        ) {
            let mut output = vec![];
            let mut journal = line(&JournalEntry::Begun(arguments(&[]))).unwrap();
            let mut unlucky = 0;
            for steps in kills {
                if run(&users, &mut output, &mut journal, steps, is_file) {
                    break;
                }
                unlucky += steps % 2;
            }
            prop_assert!(run(&users, &mut output, &mut journal, usize::MAX - 1, is_file));
            let pages_of = |(user, pages): (u8, &u8)| (0..*pages).flat_map(move |page| [user, page]).collect::<Vec<_>>();
            let all = (0_u8..).zip(&users).flat_map(pages_of).collect::<Vec<_>>();
            if is_file {
                prop_assert_eq!(output, all);
            } else {
                prop_assert!(output.len() <= all.len() + 2 * unlucky);
                let mut pages: Vec<_> = output.chunks(2).collect();
                pages.dedup();
                prop_assert_eq!(pages.concat(), all);
            }
        }
    }
}
