//! The form of a command's result that is one document.

use clap::ValueEnum;

/// The form of a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum DocumentFormat {
    /// Lines for people.
    Text,
    /// One JSON document, for programs.
    Json,
}
