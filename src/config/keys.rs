//! The keys that exist, and the one that a mistyped key was meant to be.

use std::collections::BTreeSet;

/// Every key that is ever read, dotted: `poll.page_size`, `pools[].id`.
#[derive(Clone, Default, Debug)]
pub(super) struct Keys(BTreeSet<String>);

/// Longest key that a suggestion is sought for, in bytes: comparing takes the product of both lengths.
const COMPARED_MAX: usize = 64;

impl Keys {
    pub(super) fn insert(&mut self, key: String) {
        self.0.insert(key);
    }

    pub(super) fn into_names(self) -> Vec<String> {
        self.0.into_iter().collect()
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.0.contains(key)
    }

    /// The key or section that `unknown` was most likely meant to be: a slip of the pen away, or of the same name in
    /// another section.
    pub(super) fn nearest(&self, unknown: &str) -> Option<&str> {
        if unknown.len() > COMPARED_MAX {
            return None;
        }
        let sections: BTreeSet<&str> = self.0.iter().filter_map(|key| section(key)).collect();
        let keys = self.0.iter().map(String::as_str);
        keys.filter_map(|key| Some((unlikeness(unknown, key)?, key)))
            .chain(sections.into_iter().filter_map(|section| Some((slip(unknown, section)?, section))))
            .min()
            .map(|(_, known)| known)
    }
}

/// The section of a key; `[]`, which stands for an index, is no part of its name.
fn section(key: &str) -> Option<&str> {
    key.rsplit_once('.').map(|(section, _)| section.trim_end_matches("[]"))
}

fn leaf(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, leaf)| leaf)
}

/// How unlikely a meaning is, the least first: a slip of the pen comes before a misplaced key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Unlikeness {
    Slip(usize),
    Misplaced(usize),
}

/// How unlikely it is that `unknown` was meant to be the key `known`; None where it is out of the question.
fn unlikeness(unknown: &str, known: &str) -> Option<Unlikeness> {
    slip(unknown, known).or_else(|| {
        let is_within = unknown.strip_prefix(known).is_some_and(|rest| rest.starts_with('.'));
        let is_misplaced = is_within || leaf(unknown) == leaf(known);
        is_misplaced.then(|| Unlikeness::Misplaced(edit_distance(unknown, known)))
    })
}

/// The same where only the pen may have slipped: twice, or once every five letters.
fn slip(unknown: &str, known: &str) -> Option<Unlikeness> {
    let slips = edit_distance(unknown, known);
    (slips <= 2.max(unknown.len() / 5) && slips < unknown.len()).then_some(Unlikeness::Slip(slips))
}

/// Levenshtein's distance in bytes: how many insertions, removals and replacements lie between two texts.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte_a) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, byte_b) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(byte_a != byte_b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let names = ["log.level", "otlp.headers", "otlp.timeout", "poll.overlap", "poll.timeout", "pools[].id"];
        Keys(names.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn a_slip_of_the_pen_is_understood() {
        for (written, meant) in [
            ("log.levle", "log.level"),
            ("poll.overlaps", "poll.overlap"),
            ("pol.overlap", "poll.overlap"),
            ("pool", "poll"),
            ("pools.id", "pools[].id"),
        ] {
            assert_eq!(keys().nearest(written), Some(meant), "{written}");
        }
    }

    #[test]
    fn a_key_in_the_wrong_section_is_found_in_the_right_one() {
        assert_eq!(keys().nearest("overlap"), Some("poll.overlap"));
        assert_eq!(keys().nearest("otlp.headers.authorization"), Some("otlp.headers"));
    }

    #[test]
    fn what_resembles_nothing_gets_no_suggestion() {
        assert_eq!(keys().nearest("tracing.sampler"), None);
        assert_eq!(keys().nearest(""), None);
        assert_eq!(keys().nearest(&"x".repeat(1_000_000)), None);
    }

    #[test]
    fn edit_distances_are_levenshteins() {
        for (a, b, distance) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2)] {
            assert_eq!(edit_distance(a, b), distance);
            assert_eq!(edit_distance(b, a), distance);
        }
    }
}
