//! The reader of settings: a [`SettingsTable`] returns values of the requested shape, and collects every mistake with
//! its key and origin.
//!
//! A table learns its keys from the requests. A key in the settings that was not requested is unknown. So the known
//! keys are always those that are read.

use std::path::Path;

use figment::value::{Dict, Value};

use super::effective::SettingsRecord;
use super::key_path::{KeyPath, is_bare};
use super::keys::{Keys, UnknownValue};
use super::mistakes::{ConfigErrors, Mistake, SettingOrigin};
use super::settings::{Settings, Values};
use super::shapes::{Given, Shape};

/// The results of reading beside the values: mistakes and known keys.
#[derive(Default)]
pub(super) struct SettingsFindings {
    pub(super) mistakes: Vec<Mistake>,
    /// Mistakes in members of the specification's variables. Those members are ignored.
    pub(super) set_aside: Vec<Mistake>,
    /// Every key that was requested.
    pub(super) requested: Keys,
    /// The effective settings, if they were asked for.
    pub(super) record: Option<SettingsRecord>,
}

/// Reads a file of settings that nothing overrides, with the same rules as the configuration. `read` runs first on
/// empty settings, to learn the known keys.
///
/// # Errors
/// All mistakes together.
pub(crate) fn read_file<T>(
    file: &Path,
    values: Values,
    read: impl Fn(&mut SettingsTable<'_>) -> T,
) -> Result<T, ConfigErrors> {
    let mut findings = SettingsFindings::default();
    SettingsTable::read_root(&Settings::blank(), &mut findings, &read);
    let settings = Settings::of_file(file.to_owned(), values, findings.requested);
    let mut findings = SettingsFindings::default();
    let config = SettingsTable::read_root(&settings, &mut findings, &read);
    ConfigErrors::none_or(findings.mistakes).map(|()| config)
}

/// A table of the settings. It may be absent, and then each key in it is absent.
pub(crate) struct SettingsTable<'a> {
    settings: &'a Settings,
    findings: &'a mut SettingsFindings,
    values: Option<&'a Dict>,
    /// The origin of the table, without its place.
    origin: SettingOrigin,
    path: KeyPath,
    requested: Vec<&'static str>,
}

impl<'a> SettingsTable<'a> {
    /// Reads all settings.
    pub(super) fn read_root<T>(
        settings: &'a Settings,
        findings: &'a mut SettingsFindings,
        read: impl FnOnce(&mut SettingsTable<'_>) -> T,
    ) -> T {
        let root = SettingsTable {
            settings,
            findings,
            values: Some(&settings.values),
            origin: settings.home.clone(),
            path: KeyPath::default(),
            requested: Vec::new(),
        };
        root.finish(read)
    }

    pub(super) fn settings(&self) -> &'a Settings {
        self.settings
    }

    /// Reads a table within this one.
    pub(crate) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut SettingsTable<'_>) -> T) -> T {
        self.requested.push(key);
        self.child(self.value(key), self.path.key(key), read)
    }

    /// Reads each table of a list within this one. A list without tables is a mistake, which `missing` explains. An
    /// element that cannot be read is None, so that the others keep their indexes.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        missing: &str,
        mut read: impl FnMut(&mut SettingsTable<'_>) -> Option<T>,
    ) -> Vec<Option<T>> {
        self.requested.push(key);
        let list = self.path.key(key);
        let elements = match self.value(key) {
            None => &[][..],
            Some(Value::Array(_, elements)) => elements,
            Some(other) => {
                let accepted = match self.settings.origin(other.tag()) {
                    SettingOrigin::Variable(_) => "a list of objects".to_owned(),
                    _ => format!("a list of tables, each begun with [[{}]]", list.text()),
                };
                self.refuse(&list, other, &accepted, false);
                return Vec::new();
            }
        };
        // A misspelt key is told by itself.
        if elements.is_empty() && !self.is_misspelt(&list) {
            self.reject(&[key], format!("{} is missing; accepted: {missing}", list.shown()));
        }
        let mut tables = Vec::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            let table = self.child(Some(element), list.element(index), |table| match table.values {
                Some(_) => read(table),
                None => None,
            });
            tables.push(table);
        }
        tables
    }

    fn child<T>(
        &mut self,
        value: Option<&'a Value>,
        path: KeyPath,
        read: impl FnOnce(&mut SettingsTable<'_>) -> T,
    ) -> T {
        let values = value.and_then(|value| self.as_given(value).table());
        if let (Some(value), None) = (value, values) {
            self.refuse(&path, value, "a table", false);
        }
        let child = SettingsTable {
            settings: self.settings,
            findings: self.findings,
            values,
            origin: value.map_or_else(|| self.origin.clone(), |value| self.settings.origin(value.tag())),
            path,
            requested: Vec::new(),
        };
        child.finish(read)
    }

    fn finish<T>(mut self, read: impl FnOnce(&mut SettingsTable<'_>) -> T) -> T {
        let result = read(&mut self);
        for (key, value) in self.values.into_iter().flatten() {
            if !self.requested.contains(&key.as_str()) {
                self.refuse_unknown(key, value);
            }
        }
        result
    }

    /// Reads a value that may be absent.
    pub(crate) fn optional<T: 'static>(&mut self, key: &'static str, shape: &Shape<T>) -> Option<T> {
        let read = self.read(key, shape);
        self.record(key, || read.as_ref().map(|value| shape.write(value)));
        read
    }

    /// Reads a value, or returns `default` if it is absent.
    pub(crate) fn or<T: 'static>(&mut self, key: &'static str, default: T, shape: &Shape<T>) -> T {
        let value = self.read(key, shape).unwrap_or(default);
        self.record(key, || Some(shape.write(&value)));
        value
    }

    fn read<T: 'static>(&mut self, key: &'static str, shape: &Shape<T>) -> Option<T> {
        let given = self.given(key)?;
        let read = shape.read(given);
        if read.is_none() {
            self.refuse(&self.path.key(key), given.value, &shape.accepted, shape.secret);
        }
        read
    }

    /// Records a key with the value in force, if the effective settings were asked for.
    pub(super) fn record(&mut self, key: &'static str, value: impl FnOnce() -> Option<serde_json::Value>) {
        if self.findings.record.is_some() {
            let origin = self.is_set(key).then(|| self.origin_of(key));
            self.record_as(key, value, origin);
        }
    }

    /// Records a key with the value in force and an origin that is not the key's own.
    pub(super) fn record_as(
        &mut self,
        key: &'static str,
        value: impl FnOnce() -> Option<serde_json::Value>,
        origin: Option<SettingOrigin>,
    ) {
        if let Some(record) = &mut self.findings.record {
            record.set(&self.path, key, value(), origin);
        }
    }

    /// Takes note that the table has no effect. Of its defaults, only those of the `kept` keys are effective settings.
    pub(super) fn has_no_effect(&mut self, kept: &[&str]) {
        if let Some(record) = &mut self.findings.record {
            record.remove_defaults(&self.path, kept);
        }
    }

    /// Reads a value that must be present.
    pub(super) fn required<T: 'static>(&mut self, key: &'static str, shape: &Shape<T>) -> Option<T> {
        let value = self.optional(key, shape);
        if !self.is_set(key) {
            let text = format!("{} is missing; accepted: {}", self.shown(key), shape.accepted);
            self.reject(&[key], text);
        }
        value
    }

    /// Reads a list of values. An absent list is empty.
    pub(crate) fn list<T: 'static>(&mut self, key: &'static str, shape: &Shape<T>) -> Vec<T> {
        let read = self.read_list(key, shape);
        self.record(key, || written_list(&read, shape));
        read
    }

    fn read_list<T: 'static>(&mut self, key: &'static str, shape: &Shape<T>) -> Vec<T> {
        let Some(given) = self.given(key) else {
            return Vec::new();
        };
        let path = self.path.key(key);
        let Some(elements) = given.value.as_array() else {
            self.refuse(&path, given.value, &format!("a list in brackets, each {}", shape.accepted), shape.secret);
            return Vec::new();
        };
        let mut read = Vec::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            match shape.read(self.as_given(element)) {
                Some(value) => read.push(value),
                None => self.refuse(&path.element(index), element, &shape.accepted, shape.secret),
            }
        }
        read
    }

    /// Reads a key whose function this version does not have. Only a value that changes nothing is accepted, so that no
    /// setting is ignored silently.
    pub(crate) fn not_yet(&mut self, key: &'static str, accepted: &str, is_harmless: impl FnOnce(Given<'_>) -> bool) {
        let Some(given) = self.given(key) else {
            return;
        };
        if !is_harmless(given) {
            let path = self.shown(key);
            let shown = given.shown();
            let text = format!("{path} is {shown}, which is not available in this version; accepted: {accepted}");
            self.reject(&[key], text);
        }
    }

    /// Returns the value of a key as it was written.
    pub(crate) fn given(&mut self, key: &'static str) -> Option<Given<'a>> {
        self.requested.push(key);
        self.findings.requested.insert(self.path.key(key).pattern().to_owned());
        self.value(key).map(|value| self.as_given(value))
    }

    /// Returns whether a key has a value, right or wrong.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// Returns whether a key is written without a value, or with an empty table or list.
    pub(crate) fn is_blank(&self, key: &str) -> bool {
        self.values.and_then(|values| values.get(key)).is_some_and(|value| match value {
            Value::Empty(..) => true,
            Value::Dict(_, table) => table.is_empty(),
            Value::Array(_, list) => list.is_empty(),
            _ => false,
        })
    }

    /// Returns whether reading a key or one of its elements found a mistake. Checks between keys then skip the key.
    pub(crate) fn is_misread(&self, key: &str) -> bool {
        let path = self.path_of(key);
        let concerns =
            |mistake: &Mistake| mistake.key.strip_prefix(&path).is_some_and(|rest| !rest.starts_with(is_bare));
        self.findings.mistakes.iter().any(concerns)
    }

    /// Returns the origin of a key, or that of the table if the key is not set.
    pub(super) fn origin_of(&self, key: &str) -> SettingOrigin {
        match self.value(key) {
            Some(value) => self.settings.place_value(self.settings.origin(value.tag()), &self.path.key(key)),
            None => self.settings.place_value(self.origin.clone(), &self.path),
        }
    }

    /// Returns whether a key of the table comes from this variable.
    pub(super) fn is_from_variable(&self, key: &str, name: &str) -> bool {
        let is_it = |origin| matches!(origin, SettingOrigin::Variable(variable) if variable == name);
        self.value(key).is_some_and(|value| is_it(self.settings.origin(value.tag())))
    }

    /// Returns whether the table is present. It may be empty.
    pub(crate) fn is_there(&self) -> bool {
        self.values.is_some()
    }

    /// Returns the path of the table.
    pub(super) fn path(&self) -> &KeyPath {
        &self.path
    }

    /// Adds the id of this list element to its path, for people.
    pub(super) fn identify(&mut self, id: &str) {
        self.path.identify(id);
    }

    /// Returns the path of a key, such as `pools[1].usernames`.
    pub(crate) fn path_of(&self, key: &str) -> String {
        self.path.key(key).text().to_owned()
    }

    /// Returns the path of a key for the beginning of a mistake, such as `pools[1] (eu-west-1_Abc123).usernames`.
    pub(super) fn shown(&self, key: &str) -> String {
        self.path.key(key).shown().to_owned()
    }

    /// Returns whether a path has a value.
    pub(super) fn has(&self, path: &KeyPath) -> bool {
        self.settings.value_at(path).is_some()
    }

    /// Notes a mistake about a value anywhere in the settings.
    pub(super) fn reject_at(&mut self, path: &KeyPath, text: String) {
        let origin = self.settings.value_at(path).map_or_else(
            || self.settings.home.clone(),
            |value| self.settings.place_value(self.settings.origin(value.tag()), path),
        );
        self.findings.mistakes.push(Mistake { origin, key: path.text().to_owned(), text });
    }

    /// Notes a mistake about one or more keys. Its origin is that of a key that a variable of the specification sets,
    /// or else that of the first key that is set. So the specification's variable is ignored rather than the exporter's
    /// own setting.
    pub(crate) fn reject(&mut self, keys: &[&str], text: String) {
        let set = || keys.iter().filter(|key| self.is_set(key));
        let foreign = set().find(|key| self.is_of_the_specification(key));
        let Some(key) = foreign.or_else(|| set().chain(keys).next()) else {
            return;
        };
        let (origin, key) = (self.origin_of(key), self.path_of(key));
        self.findings.mistakes.push(Mistake { origin, key, text });
    }

    /// Notes mistakes in members of a key's value, if the value comes from a variable of the specification. The other
    /// members apply. Returns whether it comes from such a variable.
    pub(super) fn set_aside(&mut self, key: &str, wrong: &[String]) -> bool {
        let may_be = self.is_of_the_specification(key);
        if may_be && !wrong.is_empty() {
            let mistake = Mistake { origin: self.origin_of(key), key: self.path_of(key), text: wrong.join(", ") };
            self.findings.set_aside.push(mistake);
        }
        may_be
    }

    fn is_of_the_specification(&self, key: &str) -> bool {
        self.value(key).is_some_and(|value| self.settings.origin(value.tag()).is_of_the_specification())
    }

    /// Notes mistakes in members of a variable that belongs to no key.
    pub(super) fn set_aside_of_variable(&mut self, name: &str, wrong: &[String]) {
        if !wrong.is_empty() {
            let origin = SettingOrigin::Variable(name.to_owned());
            self.findings.set_aside.push(Mistake { origin, key: String::new(), text: wrong.join(", ") });
        }
    }

    /// Notes a mistake about a variable that belongs to no key.
    pub(super) fn reject_variable(&mut self, name: &str, text: String) {
        self.findings.mistakes.push(Mistake {
            origin: SettingOrigin::Variable(name.to_owned()),
            key: String::new(),
            text,
        });
    }

    fn refuse(&mut self, path: &KeyPath, value: &Value, accepted: &str, secret: bool) {
        let given = self.as_given(value);
        let found = match (secret, given.kind()) {
            (true, "text") => "not of the accepted form".to_owned(),
            (true, kind) => kind.to_owned(),
            (false, _) => given.shown(),
        };
        self.findings.mistakes.push(Mistake {
            origin: self.settings.place_value(self.settings.origin(value.tag()), path),
            key: path.text().to_owned(),
            text: format!("{} is {found}; accepted: {accepted}", path.shown()),
        });
    }

    fn refuse_unknown(&mut self, key: &str, value: &Value) {
        let path = self.path.key(key);
        let hint = match self.settings.known.nearest(path.pattern(), &unknown_value(value)) {
            Some(nearest) => format!("did you mean {}?", self.relative(nearest)),
            None => format!("accepted here: {}", self.requested.join(", ")),
        };
        self.findings.mistakes.push(Mistake {
            origin: self.settings.place_key(self.settings.origin(value.tag()), &path),
            text: format!("there is no key {}; {hint}", path.shown()),
            key: path.text().to_owned(),
        });
    }

    /// Returns a known key as this table would write it: with its own index in place of `[]`, and a list of tables in
    /// double brackets.
    fn relative(&self, known: &str) -> String {
        if self.settings.known.is_list(known) {
            return format!("[[{known}]]");
        }
        match known.strip_prefix(self.path.pattern()) {
            Some(rest) => format!("{}{rest}", self.path.text()),
            None => known.to_owned(),
        }
    }

    /// Returns whether an unknown key of the table most likely means this one.
    fn is_misspelt(&self, meant: &KeyPath) -> bool {
        let known = &self.settings.known;
        self.values.into_iter().flatten().any(|(key, value)| {
            let written = self.path.key(key);
            written != *meant
                && !known.has(written.pattern())
                && known.nearest(written.pattern(), &unknown_value(value)) == Some(meant.pattern())
        })
    }

    /// Returns the value of a key. JSON's null counts as absent.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.values?.get(key).filter(|value| !matches!(value, Value::Empty(..)))
    }

    fn as_given(&self, value: &'a Value) -> Given<'a> {
        Given { value, from_variable: matches!(self.settings.origin(value.tag()), SettingOrigin::Variable(_)) }
    }
}

/// Returns the form and the keys of an unknown key's value.
fn unknown_value(value: &Value) -> UnknownValue<'_> {
    let keys = |value| Value::as_dict(value).into_iter().flat_map(Dict::keys).map(String::as_str);
    match value {
        Value::Dict(..) => UnknownValue::Table(keys(value).collect()),
        Value::Array(_, elements) if elements.iter().all(|element| element.as_dict().is_some()) => {
            UnknownValue::Tables(elements.first().into_iter().flat_map(keys).collect())
        }
        _ => UnknownValue::Plain,
    }
}

/// Returns a list as a file would write it; None if it is empty.
fn written_list<T: 'static>(values: &[T], shape: &Shape<T>) -> Option<serde_json::Value> {
    (!values.is_empty()).then(|| values.iter().map(|value| shape.write(value)).collect())
}
