//! The words of `--output`, which mean the same in every command.
//!
//! | word | the output |
//! |---|---|
//! | `text` | prose or `name: value` lines for people |
//! | `table` | aligned rows for people, under a header |
//! | `json` | one JSON document |
//! | `jsonl` | one JSON object a line |
//! | `csv` | comma-separated values under a header |
//! | `parquet` | Apache Parquet |
//!
//! A command offers those that suit its data. Words of earlier versions are hidden aliases.

use clap::ValueEnum;

/// The output of a command that prints one thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum TextOrJson {
    /// Lines for people.
    #[value(alias = "table")]
    Text,
    /// One JSON document.
    Json,
}

/// The output of a command that prints rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum TableOrJsonl {
    /// Aligned rows, for people.
    Table,
    /// One JSON object a line.
    #[value(alias = "json")]
    Jsonl,
}

/// The output of a command that prints findings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum TextOrJsonl {
    /// Lines for people.
    #[value(alias = "table")]
    Text,
    /// One JSON object a line.
    #[value(alias = "json")]
    Jsonl,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_an_earlier_version_is_accepted_and_not_shown() {
        assert_eq!(TextOrJson::from_str("table", false), Ok(TextOrJson::Text));
        assert_eq!(TableOrJsonl::from_str("json", false), Ok(TableOrJsonl::Jsonl));
        assert_eq!(TextOrJsonl::from_str("table", false), Ok(TextOrJsonl::Text));
        assert_eq!(TextOrJsonl::from_str("json", false), Ok(TextOrJsonl::Jsonl));
        let shown = |word: Option<clap::builder::PossibleValue>| word.unwrap().get_name().to_owned();
        assert_eq!(shown(TextOrJson::Text.to_possible_value()), "text");
        assert_eq!(shown(TableOrJsonl::Jsonl.to_possible_value()), "jsonl");
    }
}
