//! Records the tests that a run of `cargo test` skips, and makes the report at its end.
//!
//! libtest hides the output of tests that pass, so a skipped test adds a line to a file. The file's name is the process
//! number of the running cargo, which is the parent of every test program. So a report has the skips of its own run
//! only. `tests/report.rs` is the last program, because cargo runs packages in the order of their names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

/// Age above which a file is of an earlier run with the same process number. No run takes so long.
const AGE_MAX: Duration = Duration::from_secs(6 * 60 * 60);

/// The name of the thread of a test if only one test runs at a time.
const MAIN_THREAD: &str = "main";

/// A skipped test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skip<'a> {
    /// The name of the test.
    pub test: &'a str,
    /// The program or privilege that the test needs.
    pub missing: &'a str,
    /// A command that provides it.
    pub remedy: &'a str,
}

impl Skip<'_> {
    /// Adds the skip to the file of a run.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(self, folder: &Path, run: u32) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = OpenOptions::new().append(true).create(true).open(folder.join(run.to_string()))?;
        // One write, because several tests run at a time.
        file.write_all(format!("{}\t{}\t{}\n", self.test, self.missing, self.remedy).as_bytes())
    }
}

/// Takes the report of a run: what was missing, for how many tests, and the commands. None if the run skipped nothing.
/// Removes the file of the run, and the files that earlier runs have left.
pub fn take_report(folder: &Path, run: u32) -> Option<String> {
    let mut skips = String::new();
    for file in fs::read_dir(folder).ok()?.flatten() {
        let is_own = file.file_name().to_str() == Some(&run.to_string());
        let modified = file.metadata().and_then(|metadata| metadata.modified());
        let is_recent = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < AGE_MAX));
        if is_own && is_recent {
            skips = fs::read_to_string(file.path()).unwrap_or_default();
        }
        if is_own || !is_recent {
            // A file that cannot be removed is too old for a later report.
            let _ = fs::remove_file(file.path());
        }
    }
    (!skips.is_empty()).then(|| report(&skips))
}

/// The skips with one cause.
#[derive(Default)]
struct Cause<'a> {
    remedy: &'a str,
    tests: BTreeSet<&'a str>,
    /// Skips of tests without a thread of their own.
    unnamed: usize,
}

impl Cause<'_> {
    fn count(&self) -> usize {
        self.tests.len() + self.unnamed
    }
}

fn report(skips: &str) -> String {
    let mut causes: BTreeMap<&str, Cause<'_>> = BTreeMap::new();
    for line in skips.lines() {
        let mut members = line.split('\t');
        let (Some(test), Some(missing), Some(remedy)) = (members.next(), members.next(), members.next()) else {
            continue;
        };
        let cause = causes.entry(missing).or_default();
        cause.remedy = remedy;
        if test == MAIN_THREAD {
            cause.unnamed += 1;
        } else {
            cause.tests.insert(test);
        }
    }
    let total = causes.values().map(Cause::count).sum();
    let width = causes.keys().map(|missing| missing.chars().count()).max().unwrap_or_default();
    let mut report = format!("\nskipped: {}, which need\n", tests(total));
    for (missing, cause) in &causes {
        report.push_str(&format!("  {missing:<width$}  {:>9}  {}\n", tests(cause.count()), cause.remedy));
    }
    report
}

fn tests(count: usize) -> String {
    format!("{count} test{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(folder: &Path, run: u32, test: &str, missing: &str) {
        let remedy = format!("apt-get install {missing}");
        Skip { test, missing, remedy: &remedy }.record(folder, run).unwrap();
    }

    #[test]
    fn a_report_has_each_cause_with_the_number_of_its_tests_and_the_command() {
        let folder = tempfile::tempdir().unwrap();
        for (test, missing) in [("web::a", "curl"), ("web::b", "curl"), ("web::b", "curl"), ("alerts::c", "promtool")] {
            skip(folder.path(), 7, test, missing);
        }
        let expected = "\nskipped: 3 tests, which need\n  \
                        curl        2 tests  apt-get install curl\n  \
                        promtool     1 test  apt-get install promtool\n";
        assert_eq!(take_report(folder.path(), 7).as_deref(), Some(expected));
    }

    #[test]
    fn tests_that_run_one_at_a_time_have_no_name_and_count_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        skip(folder.path(), 7, MAIN_THREAD, "curl");
        skip(folder.path(), 7, MAIN_THREAD, "curl");
        assert!(take_report(folder.path(), 7).unwrap().contains("skipped: 2 tests"));
    }

    #[test]
    fn a_report_has_its_own_run_only_and_is_given_once() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(take_report(&folder.path().join("none"), 7), None);
        skip(folder.path(), 6, "web::a", "curl");
        assert_eq!(take_report(folder.path(), 7), None);
        assert!(take_report(folder.path(), 6).is_some());
        assert_eq!(take_report(folder.path(), 6), None);
    }

    #[test]
    fn a_file_that_an_earlier_run_left_under_the_same_number_is_no_part_of_a_report() {
        let folder = tempfile::tempdir().unwrap();
        skip(folder.path(), 7, "web::a", "curl");
        skip(folder.path(), 8, "web::a", "curl");
        for run in ["7", "8"] {
            let file = fs::File::options().append(true).open(folder.path().join(run)).unwrap();
            let written = file.metadata().unwrap().modified().unwrap();
            file.set_modified(written - AGE_MAX).unwrap();
        }
        assert_eq!(take_report(folder.path(), 7), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "old files are removed");
    }
}
