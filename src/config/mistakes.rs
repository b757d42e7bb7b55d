//! What is wrong with the settings: each mistake with where it was made, all of them together.

use std::fmt;
use std::path::PathBuf;

/// Where a setting was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SettingOrigin {
    /// In this file.
    File(PathBuf),
    /// In this environment variable.
    Variable(String),
    /// Nowhere: there is no file, and no variable speaks of it.
    Nowhere,
}

impl SettingOrigin {
    /// Whether this is a variable of the OpenTelemetry specification's, which other programs of the same environment may be
    /// meant by. A mistake in an endpoint is not set aside: nothing would be delivered, and nobody would notice.
    pub(super) fn is_of_the_specification(&self) -> bool {
        matches!(self, Self::Variable(name) if name.starts_with("OTEL_") && !name.ends_with("_ENDPOINT"))
    }
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Nowhere => f.write_str("no configuration file"),
        }
    }
}

/// One thing that is wrong. Shows itself on one line: the origin, then what is wrong and what would be accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Where it was made.
    pub origin: SettingOrigin,
    /// The key, such as `pools[1].usernames_file`; empty where the mistake is not about one key.
    pub key: String,
    /// What is wrong and what would be accepted, in one line that names the key.
    pub text: String,
}

impl Mistake {
    /// Whether it was made in such a variable.
    pub(super) fn is_of_the_specification(&self) -> bool {
        self.origin.is_of_the_specification()
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// Everything that is wrong with the settings; at least one mistake. Shows one mistake a line, in the order in which
/// `config.example.toml` has the keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors(pub(super) Vec<Mistake>);

impl ConfigErrors {
    /// The mistakes.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.0
    }

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
