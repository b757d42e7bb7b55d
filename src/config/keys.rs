//! The known keys, and the suggestion for an unknown one.

use std::collections::BTreeSet;

use strsim::levenshtein;

/// Every known key with its path: `poll.page_size`, `pools[].id`.
#[derive(Clone, Default, Debug)]
pub(super) struct Keys(BTreeSet<String>);

/// Maximum length in bytes of a key that gets a suggestion, because a comparison takes the product of both lengths.
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

    /// Returns the key or section that `unknown` most likely means. It is a few typing errors away, or it has the same
    /// name in another section.
    pub(super) fn nearest(&self, unknown: &str) -> Option<&str> {
        if unknown.len() > COMPARED_MAX {
            return None;
        }
        let sections: BTreeSet<&str> = self.0.iter().filter_map(|key| section(key)).collect();
        let keys = self.0.iter().map(String::as_str);
        keys.filter_map(|key| Some((unlikeness(unknown, key)?, key)))
            .chain(sections.into_iter().filter_map(|section| Some((typo(unknown, section)?, section))))
            .min()
            .map(|(_, known)| known)
    }
}

/// Returns the section of a key, without the `[]` that stands for an index.
fn section(key: &str) -> Option<&str> {
    key.rsplit_once('.').map(|(section, _)| section.trim_end_matches("[]"))
}

fn leaf(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, leaf)| leaf)
}

/// How unlikely a meaning is, in ascending order: a typing error is more likely than a key in the wrong section.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Unlikeness {
    Typo(usize),
    Misplaced(usize),
}

/// Returns how unlikely it is that `unknown` means the key `known`. None if it cannot mean it.
fn unlikeness(unknown: &str, known: &str) -> Option<Unlikeness> {
    typo(unknown, known).or_else(|| {
        let is_within = unknown.strip_prefix(known).is_some_and(|rest| rest.starts_with('.'));
        let is_misplaced = is_within || leaf(unknown) == leaf(known);
        is_misplaced.then(|| Unlikeness::Misplaced(levenshtein(unknown, known)))
    })
}

/// Returns the unlikeness of typing errors alone: at most two, or one for every five letters.
fn typo(unknown: &str, known: &str) -> Option<Unlikeness> {
    let errors = levenshtein(unknown, known);
    (errors <= 2.max(unknown.len() / 5) && errors < unknown.len()).then_some(Unlikeness::Typo(errors))
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
}
