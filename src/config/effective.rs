//! The effective settings: every key that was read, with the value in force and its origin.
//!
//! The reader records them while it reads, so they are exactly the keys that the configuration consists of. No value is
//! a secret: a shape that reads one writes a placeholder.

use std::collections::HashMap;

use serde_json::Value;

use super::key_path::KeyPath;
use super::mistakes::SettingOrigin;

/// The placeholder of a value that is not shown.
pub const HIDDEN: &str = "***";

/// A key with its value in force.
#[derive(Clone, PartialEq, Debug)]
pub struct EffectiveSetting {
    /// The path of the key, such as `pools[1].usernames`.
    pub path: String,
    /// The line of a file that begins the key's table, such as `[[pools]]`.
    pub header: String,
    /// The path of the key's table, such as `pools[1]`.
    pub table: String,
    /// The key in its table.
    pub key: &'static str,
    /// The value; None if there is none.
    pub value: Option<Value>,
    /// Where it was written; None if it is the default.
    pub origin: Option<SettingOrigin>,
}

/// Records the effective settings in the order in which they are read.
#[derive(Default)]
pub(super) struct SettingsRecord {
    settings: Vec<EffectiveSetting>,
    /// The index of each path in `settings`. A configuration of many pools has many thousand.
    index: HashMap<String, usize>,
}

impl SettingsRecord {
    /// Records a key. A key that was recorded before gets the new value.
    pub(super) fn set(
        &mut self,
        table: &KeyPath,
        key: &'static str,
        value: Option<Value>,
        origin: Option<SettingOrigin>,
    ) {
        let path = table.key(key).text().to_owned();
        if let Some(setting) = self.index.get(&path).and_then(|&index| self.settings.get_mut(index)) {
            (setting.value, setting.origin) = (value, origin);
            return;
        }
        self.index.insert(path.clone(), self.settings.len());
        let (header, table) = (table.header(), table.text().to_owned());
        self.settings.push(EffectiveSetting { path, header, table, key, value, origin });
    }

    /// Removes the defaults of a table that has no effect, except for those of some keys.
    pub(super) fn remove_defaults(&mut self, table: &KeyPath, kept: &[&str]) {
        let stays = |it: &EffectiveSetting| it.table != table.text() || it.origin.is_some() || kept.contains(&it.key);
        self.settings.retain(stays);
        let paths = self.settings.iter().enumerate();
        self.index = paths.map(|(index, setting)| (setting.path.clone(), index)).collect();
    }

    /// Hides the values of these keys in every table.
    pub(super) fn hide(&mut self, keys: &[&str]) {
        let hidden = self.settings.iter_mut().filter(|setting| keys.contains(&setting.key));
        hidden.filter_map(|setting| setting.value.as_mut()).for_each(|value| *value = HIDDEN.into());
    }

    pub(super) fn into_settings(self) -> Vec<EffectiveSetting> {
        self.settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_recorded_again_keeps_its_place_and_gets_the_new_value() {
        let root = KeyPath::default();
        let (firehose, pool) = (root.key("firehose"), root.key("pools").element(0));
        let mut record = SettingsRecord::default();
        record.set(&firehose, "listen", Some("a".into()), None);
        record.set(&pool, "id", Some("b".into()), None);
        record.set(&pool, "name", None, None);
        // The indexes change with this.
        record.remove_defaults(&firehose, &[]);
        record.set(&pool, "id", Some("c".into()), Some(SettingOrigin::Nowhere));
        record.set(&firehose, "listen", Some("d".into()), None);
        let settings = record.into_settings();
        let told: Vec<_> =
            settings.iter().map(|it| (it.path.as_str(), it.value.clone(), it.origin.is_some())).collect();
        let expected = [
            ("pools[0].id", Some("c".into()), true),
            ("pools[0].name", None, false),
            ("firehose.listen", Some("d".into()), false),
        ];
        assert_eq!(told, expected);
    }
}
