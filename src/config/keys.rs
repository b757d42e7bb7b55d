//! The known keys, and the suggestion for an unknown one.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use strsim::levenshtein;

/// Every known key with its path: `poll.page_size`, `pools[].id`.
#[derive(Clone, Default, Debug)]
pub(super) struct Keys(BTreeSet<String>);

/// Maximum length in bytes of a key that gets a suggestion, because a comparison takes the product of both lengths.
const COMPARED_MAX: usize = 64;

/// The value of an unknown key, as far as it tells what the key means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum UnknownValue<'a> {
    /// A value that is no table.
    Plain,
    /// A table with these keys.
    Table(Vec<&'a str>),
    /// A list of tables with these keys.
    Tables(Vec<&'a str>),
}

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

    /// Returns the names of all keys.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Returns whether this is a key or a section.
    pub(super) fn has(&self, name: &str) -> bool {
        self.contains(name) || self.names().filter_map(section).any(|section| section == name)
    }

    /// Returns whether a key is a list of tables.
    pub(super) fn is_list(&self, key: &str) -> bool {
        self.names().any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with("[].")))
    }

    /// Returns the key or section that `unknown` most likely means. It is a few typing errors away, or it has the same
    /// name in another section. Of two sections that are equally near, it is the one that has more of the value's keys.
    pub(super) fn nearest(&self, unknown: &str, value: &UnknownValue<'_>) -> Option<&str> {
        if unknown.len() > COMPARED_MAX {
            return None;
        }
        let sections: BTreeSet<&str> = self.names().filter_map(section).collect();
        let sections = sections.into_iter().filter(|section| match value {
            UnknownValue::Tables(_) => self.is_list(section),
            _ => true,
        });
        let of_section = |section| Some((typo(unknown, section)?, Reverse(self.shared(section, value)), section));
        self.names()
            .filter_map(|key| Some((unlikeness(unknown, key)?, Reverse(0), key)))
            .chain(sections.filter_map(of_section))
            .min()
            .map(|(_, _, known)| known)
    }

    /// Returns how many keys of a value a section has.
    fn shared(&self, section: &str, value: &UnknownValue<'_>) -> usize {
        let (UnknownValue::Table(keys) | UnknownValue::Tables(keys)) = value else { return 0 };
        let is_of_section =
            |key: &&&str| [".", "[]."].iter().any(|between| self.contains(&format!("{section}{between}{key}")));
        keys.iter().filter(is_of_section).count()
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
            assert_eq!(keys().nearest(written, &UnknownValue::Plain), Some(meant), "{written}");
        }
    }

    #[test]
    fn a_key_in_the_wrong_section_is_found_in_the_right_one() {
        assert_eq!(keys().nearest("overlap", &UnknownValue::Plain), Some("poll.overlap"));
        assert_eq!(keys().nearest("otlp.headers.authorization", &UnknownValue::Plain), Some("otlp.headers"));
    }

    #[test]
    fn the_keys_of_a_table_tell_which_of_two_sections_is_meant() {
        for (value, meant) in [
            (UnknownValue::Table(vec!["overlap", "id"]), "poll"),
            (UnknownValue::Table(vec!["id"]), "pools"),
            (UnknownValue::Tables(vec!["id"]), "pools"),
            (UnknownValue::Tables(vec![]), "pools"),
        ] {
            assert_eq!(keys().nearest("pool", &value), Some(meant), "{value:?}");
        }
        assert!(keys().is_list("pools") && !keys().is_list("poll") && !keys().is_list("pool"));
    }

    #[test]
    fn what_resembles_nothing_gets_no_suggestion() {
        assert_eq!(keys().nearest("tracing.sampler", &UnknownValue::Plain), None);
        assert_eq!(keys().nearest("", &UnknownValue::Plain), None);
        assert_eq!(keys().nearest(&"x".repeat(1_000_000), &UnknownValue::Plain), None);
    }
}
