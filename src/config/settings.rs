//! Settings as written: the merged layers of file and environment, with the origin of each value.
//!
//! figment merges the layers and remembers the layer of each value. Each variable is a layer, so that a mistake can
//! name it. This module does not interpret the values.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::environment::{Environment, POOLS, Variable};
use super::key_path::{KeyPath, Step};
use super::keys::Keys;
use super::mistakes::{ConfigErrors, Mistake, SettingOrigin};
use super::places::{FileText, place_of_offset};

/// The parsed values of a file.
pub(crate) type Values = Dict;

/// The files that are tried when none is named. The first that exists is read.
pub const DEFAULT_FILES: [&str; 2] = ["./config.toml", "/etc/cognito-auth-exporter/config.toml"];

/// Maximum size of a file in bytes: four times the size of a hundred thousand users listed by hand.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The merged layers. They are dropped when the configuration is read.
pub(super) struct Settings {
    layers: Figment,
    /// The merged values.
    pub(super) values: Dict,
    /// The origin of the file, or [`SettingOrigin::Nowhere`] without one.
    pub(super) home: SettingOrigin,
    /// The file.
    written: WrittenFile,
    /// The pools of the environment.
    pools: Option<Value>,
    pub(super) environment: Environment,
    pub(super) known: Keys,
}

impl Settings {
    /// Reads the file and the environment. Mistakes in single variables are returned beside the settings, so that they
    /// can be reported together with those of the rest.
    ///
    /// # Errors
    /// The file or the JSON of the pools cannot be read.
    pub(super) fn gather(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        known: &Keys,
    ) -> Result<(Self, Vec<Mistake>), ConfigErrors> {
        let mut mistakes = Vec::new();
        let environment = Environment::pick(environment, known, &mut mistakes);
        let file = found(file, &DEFAULT_FILES.map(Path::new)).map_err(|mistake| mistakes.push(mistake));
        let pools = pools(&environment).map_err(|mistake| mistakes.push(mistake));
        match (file, pools) {
            (Ok(file), Ok(pools)) => {
                let file = file.unwrap_or_default();
                Ok((Self::merge(file, pools, environment, known.clone()), mistakes))
            }
            _ => Err(ConfigErrors(mistakes)),
        }
    }

    /// Creates settings without file and variables, but with one empty pool, so that reading them requests every key.
    pub(super) fn blank() -> Self {
        let pools = Value::from(vec![Dict::new()]);
        Self::merge(WrittenFile::default(), Some(pools), Environment::default(), Keys::default())
    }

    /// Creates the settings of one file without overrides. The file is not TOML, so its values have no places.
    pub(super) fn of_file(path: PathBuf, values: Dict, known: Keys) -> Self {
        let file = WrittenFile { path: Some(path), values, text: FileText::default() };
        Self::merge(file, None, Environment::default(), known)
    }

    /// Removes the variables in which these mistakes were made.
    pub(super) fn without(self, mistakes: &[Mistake]) -> Self {
        let is_meant =
            |name: &str| mistakes.iter().any(|it| matches!(&it.origin, SettingOrigin::Variable(it) if it == name));
        Self::merge(self.written, self.pools, self.environment.without(is_meant), self.known)
    }

    fn merge(written: WrittenFile, pools: Option<Value>, environment: Environment, known: Keys) -> Self {
        let home = written.path.as_deref().map_or(SettingOrigin::Nowhere, SettingOrigin::file);
        let values = &written.values;
        let overrides: Vec<Layer> = environment
            .overrides()
            // If the file has another value in a section's place, that mistake must be reported, so it is not
            // overridden.
            .filter(|variable| values.get(&variable.section).is_none_or(|section| section.as_dict().is_some()))
            .map(Layer::of_variable)
            .chain(pools.clone().map(Layer::of_pools))
            .collect();
        let file = Layer { origin: home.clone(), values: values.clone() };
        let mut layers = overrides.into_iter().fold(Figment::from(file), Figment::merge);
        // Without a receiver the specification's variables are meant for another program.
        let is_named = |variable: Variable<'_>| variable.key == "endpoint";
        if layers.contains("otlp.endpoint") || environment.otlp_fallbacks().any(is_named) {
            layers = environment.otlp_fallbacks().map(Layer::of_variable).fold(layers, Figment::join);
        }
        // A layer has values in memory, all in the default profile, so merging cannot fail.
        let mut profiles = layers.data().unwrap_or_default();
        let values = profiles.remove(&Profile::Default).unwrap_or_default();
        Self { layers, values, home, written, pools, environment, known }
    }

    /// Returns the origin of a value, without its place in the file.
    pub(super) fn origin(&self, tag: Tag) -> SettingOrigin {
        match self.layers.get_metadata(tag).and_then(|metadata| metadata.source.as_ref()) {
            Some(Source::File(path)) => SettingOrigin::file(path),
            Some(Source::Custom(variable)) => SettingOrigin::Variable(variable.clone()),
            _ => self.home.clone(),
        }
    }

    /// Adds the place of a value to its origin, if that is the file.
    pub(super) fn place_value(&self, origin: SettingOrigin, path: &KeyPath) -> SettingOrigin {
        origin.at(|| self.written.text.of_value(path))
    }

    /// Adds the place of a key to its origin, if that is the file.
    pub(super) fn place_key(&self, origin: SettingOrigin, path: &KeyPath) -> SettingOrigin {
        origin.at(|| self.written.text.of_key(path))
    }

    /// Returns the value at a path.
    pub(super) fn value_at(&self, path: &KeyPath) -> Option<&Value> {
        let (first, rest) = path.steps().split_first()?;
        let Step::Key(section) = first else { return None };
        rest.iter().try_fold(self.values.get(section)?, |value, step| match step {
            Step::Key(key) => value.as_dict()?.get(key),
            Step::Index(index) => value.as_array()?.get(*index),
        })
    }
}

/// A file of settings as it was written; empty without one.
#[derive(Default)]
struct WrittenFile {
    path: Option<PathBuf>,
    values: Dict,
    text: FileText,
}

/// Values of one origin.
struct Layer {
    origin: SettingOrigin,
    values: Dict,
}

impl Layer {
    fn of_pools(pools: Value) -> Self {
        Self { origin: SettingOrigin::Variable(POOLS.to_owned()), values: Dict::from([("pools".to_owned(), pools)]) }
    }

    fn of_variable(variable: Variable<'_>) -> Self {
        Self {
            origin: SettingOrigin::Variable(variable.name.to_owned()),
            values: Dict::from([(variable.section, Dict::from([(variable.key, variable.text.into())]).into())]),
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        match &self.origin {
            SettingOrigin::File { path, .. } => Metadata::from("file", path.as_path()),
            SettingOrigin::Variable(name) => Metadata::from("variable", name.as_str()),
            SettingOrigin::Nowhere => Metadata::named("nothing"),
        }
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

/// Reads the named file, or else the first of the others that exists. A file that exists and cannot be read is a
/// mistake. Skipping it would put another file in its place unnoticed.
fn found(named: Option<&Path>, others: &[&Path]) -> Result<Option<WrittenFile>, Mistake> {
    for &path in named.as_slice().iter().chain(others) {
        match read_text(path) {
            Ok(text) => {
                let values = parse(path, &text)?;
                return Ok(Some(WrittenFile { path: Some(path.to_owned()), values, text: FileText::new(text) }));
            }
            Err(error) if Some(path) != named && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let text = format!("cannot read the configuration: {error}{}", remedy(error.kind()));
                return Err(Mistake { origin: SettingOrigin::file(path), key: String::new(), text });
            }
        }
    }
    Ok(None)
}

/// Returns the end of an error text: what to do about a file that cannot be read.
fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "; name a file that is there, or begin one with config.example.toml",
        io::ErrorKind::PermissionDenied => "; the exporter's user has to be able to read it",
        io::ErrorKind::IsADirectory => "; name a file in it",
        io::ErrorKind::InvalidData => "; save it as UTF-8",
        _ => "",
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let bytes = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes <= FILE_BYTES_MAX) {
        Ok(text)
    } else {
        Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {} MiB", FILE_BYTES_MAX >> 20)))
    }
}

/// Parses TOML. The parser's messages are short, so the error adds what a line may be. It has the place but does not
/// quote the line, which may contain a secret.
fn parse(path: &Path, text: &str) -> Result<Dict, Mistake> {
    const ACCEPTED: &str =
        "each [section] once, [[pools]] for each pool, and lines of key = value, with text in quotes";
    Toml::from_str(text).map_err(|error: <Toml as figment::providers::Format>::Error| {
        let place = place_of_offset(text, error.span().map_or(0, |span| span.start));
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        Mistake {
            origin: SettingOrigin::File { path: path.to_owned(), place },
            key: String::new(),
            text: format!("not TOML: {message}; accepted: {ACCEPTED}"),
        }
    })
}

/// Parses the pools of the environment, which are JSON.
fn pools(environment: &Environment) -> Result<Option<Value>, Mistake> {
    const ACCEPTED: &str = r#"a list of objects, such as [{"id": "eu-west-1_Abc123", "all_users": true}]"#;
    let Some(text) = environment.get(POOLS) else {
        return Ok(None);
    };
    serde_json::from_str(text).map(Some).map_err(|error| Mistake {
        origin: SettingOrigin::Variable(POOLS.to_owned()),
        key: "pools".to_owned(),
        text: format!("pools is not JSON: {error}; accepted: {ACCEPTED}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_that_exists_is_read_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let [missing, first, second] = ["missing", "first", "second"].map(|name| folder.path().join(name));
        std::fs::write(&first, "name = \"first\"").unwrap();
        std::fs::write(&second, "name = \"second\"").unwrap();
        let read =
            |named: Option<&Path>, others: &[&Path]| found(named, others).map(|file| file.and_then(|it| it.path));
        assert_eq!(read(None, &[&missing, &first, &second]), Ok(Some(first.clone())));
        assert_eq!(read(Some(&second), &[&first]), Ok(Some(second.clone())));
        assert_eq!(read(None, &[&missing]), Ok(None));
        assert!(read(Some(&missing), &[&first]).is_err());
        assert!(read(None, &[folder.path(), &first]).is_err(), "a folder in the file's place is passed over");
    }

    #[test]
    fn a_file_without_end_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        File::create(&file).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        let mistake = found(Some(&file), &[]).err().unwrap();
        assert_eq!(mistake.text, "cannot read the configuration: it is larger than 16 MiB");
    }
}
