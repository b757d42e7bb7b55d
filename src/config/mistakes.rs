//! Mistakes in the settings, each with the place where it was made.

use std::fmt;
use std::path::{Path, PathBuf};

use super::places::FilePlace;

/// Where a setting was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SettingOrigin {
    /// In this file.
    File {
        /// The path of the file.
        path: PathBuf,
        /// The place in the file, if it is known.
        place: Option<FilePlace>,
    },
    /// In this environment variable.
    Variable(String),
    /// Nowhere: there is no file, and no variable sets it.
    Nowhere,
}

impl SettingOrigin {
    /// A file, without a place in it.
    pub(super) fn file(path: &Path) -> Self {
        Self::File { path: path.to_owned(), place: None }
    }

    /// Adds the place, if this is a file.
    pub(super) fn at(self, found: impl FnOnce() -> Option<FilePlace>) -> Self {
        match self {
            Self::File { path, .. } => Self::File { path, place: found() },
            other => other,
        }
    }

    /// Returns whether this is a variable of the OpenTelemetry specification, which may be meant for other programs of
    /// the same environment. An endpoint does not count: if a mistake in it were ignored, nothing would be delivered,
    /// and the operator would not notice.
    pub(super) fn is_of_the_specification(&self) -> bool {
        matches!(self, Self::Variable(name) if name.starts_with("OTEL_") && !name.ends_with("_ENDPOINT"))
    }
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, place: None } => write!(f, "{}", path.display()),
            Self::File { path, place: Some(place) } => write!(f, "{}: {place}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Nowhere => f.write_str("no configuration file"),
        }
    }
}

/// A mistake in the settings. Display shows it on one line: the origin, the mistake, and what would be accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Where it was made.
    pub origin: SettingOrigin,
    /// The key, such as `pools[1].usernames_file`; empty if the mistake is not about one key.
    pub key: String,
    /// The mistake and what would be accepted, in one line that names the key.
    pub text: String,
}

impl Mistake {
    /// Returns whether the mistake was made in a variable of the OpenTelemetry specification.
    pub(super) fn is_of_the_specification(&self) -> bool {
        self.origin.is_of_the_specification()
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// All mistakes in the settings, at least one. Display shows one mistake a line, in the order of the keys in
/// `config.example.toml`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors(pub(super) Vec<Mistake>);

impl ConfigErrors {
    /// The mistakes.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.0
    }

    /// Creates an error with one mistake about a whole file.
    pub(crate) fn of_file(file: &Path, text: String) -> Self {
        Self(vec![Mistake { origin: SettingOrigin::file(file), key: String::new(), text }])
    }

    /// Returns an error if there are mistakes.
    pub(super) fn none_or(mistakes: Vec<Mistake>) -> Result<(), Self> {
        if mistakes.is_empty() { Ok(()) } else { Err(Self(mistakes)) }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
