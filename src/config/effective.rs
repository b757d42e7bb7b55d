//! The effective settings: every key that was read, with the value in force and its origin.
//!
//! The reader records them while it reads, so they are exactly the keys that the configuration consists of. No value is
//! a secret: a shape that reads one writes a placeholder.

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
pub(super) struct SettingsRecord(Vec<EffectiveSetting>);

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
        match self.0.iter_mut().rev().find(|setting| setting.path == path) {
            Some(setting) => (setting.value, setting.origin) = (value, origin),
            None => self.0.push(EffectiveSetting {
                path,
                header: table.header(),
                table: table.text().to_owned(),
                key,
                value,
                origin,
            }),
        }
    }

    /// Removes the defaults of a table that has no effect, except for those of some keys.
    pub(super) fn remove_defaults(&mut self, table: &KeyPath, kept: &[&str]) {
        let stays = |it: &EffectiveSetting| it.table != table.text() || it.origin.is_some() || kept.contains(&it.key);
        self.0.retain(stays);
    }

    /// Hides the values of these keys in every table.
    pub(super) fn hide(&mut self, keys: &[&str]) {
        let hidden = self.0.iter_mut().filter(|setting| keys.contains(&setting.key));
        hidden.filter_map(|setting| setting.value.as_mut()).for_each(|value| *value = HIDDEN.into());
    }

    pub(super) fn into_settings(self) -> Vec<EffectiveSetting> {
        self.0
    }
}
