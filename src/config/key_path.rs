//! The path of a key or table in the settings, such as `pools[1].usernames`.
//!
//! A path has three texts. [`KeyPath::text`] is for programs. [`KeyPath::shown`] is for people: beside the index of a
//! list element it has the element's id, because nobody counts tables. [`KeyPath::pattern`] has no indexes, and names
//! the known key.

/// A step from a table or list to one of its values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// To the value of this key.
    Key(String),
    /// To this element.
    Index(usize),
}

/// The path of a key or table; empty at the root.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct KeyPath {
    steps: Vec<Step>,
    text: String,
    shown: String,
    pattern: String,
}

impl KeyPath {
    /// Returns the path of a key in this table.
    pub(super) fn key(&self, key: &str) -> Self {
        let mut steps = self.steps.clone();
        steps.push(Step::Key(key.to_owned()));
        let [text, shown, pattern] = [&self.text, &self.shown, &self.pattern].map(|path| join(path, key));
        Self { steps, text, shown, pattern }
    }

    /// Returns the path of an element of this list.
    pub(super) fn element(&self, index: usize) -> Self {
        let mut steps = self.steps.clone();
        steps.push(Step::Index(index));
        Self {
            steps,
            text: format!("{}[{index}]", self.text),
            shown: format!("{}[{index}]", self.shown),
            pattern: format!("{}[]", self.pattern),
        }
    }

    /// Adds the id of the element for people: `pools[1] (eu-west-1_Abc123)`.
    pub(super) fn identify(&mut self, id: &str) {
        self.shown = format!("{} ({id})", self.text);
    }

    /// Returns the path for programs: `pools[1].usernames`.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the path for people: `pools[1] (eu-west-1_Abc123).usernames`.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Returns the path without indexes: `pools[].usernames`.
    pub(super) fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Returns the steps from the root.
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the line that begins this table in a TOML file: `[poll]`, `[[pools]]`, `[pools.export]`.
    pub(super) fn header(&self) -> String {
        let names = self.pattern.replace("[]", "");
        if matches!(self.steps.last(), Some(Step::Index(_))) { format!("[[{names}]]") } else { format!("[{names}]") }
    }
}

/// Appends a key to a path. A key that TOML would quote is quoted and shortened.
fn join(path: &str, key: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    let key = if !key.is_empty() && key.len() <= CHARACTERS_MAX && key.chars().all(is_bare) {
        key.to_owned()
    } else {
        format!("{:?}", key.chars().take(CHARACTERS_MAX).collect::<String>())
    };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// Returns whether TOML allows a character in an unquoted key.
pub(super) fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_text_for_programs_one_for_people_and_one_without_indexes() {
        let mut pool = KeyPath::default().key("pools").element(1);
        assert_eq!((pool.text(), pool.shown(), pool.pattern()), ("pools[1]", "pools[1]", "pools[]"));
        pool.identify("eu-west-1_Abc123");
        let key = pool.key("export").key("a b");
        assert_eq!(key.text(), "pools[1].export.\"a b\"");
        assert_eq!(key.shown(), "pools[1] (eu-west-1_Abc123).export.\"a b\"");
        assert_eq!(key.pattern(), "pools[].export.\"a b\"");
    }

    #[test]
    fn a_table_has_the_header_that_a_file_writes() {
        let pool = KeyPath::default().key("pools").element(0);
        assert_eq!(pool.header(), "[[pools]]");
        assert_eq!(pool.key("export").header(), "[pools.export]");
        assert_eq!(KeyPath::default().key("poll").header(), "[poll]");
    }
}
