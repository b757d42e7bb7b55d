//! The places of keys and values in a TOML file, by line and column.
//!
//! figment, which merges the layers of settings, does not keep places. So `toml_edit`, the parser that figment uses,
//! parses the text a second time, when a place is asked for. A file without mistakes costs nothing.

use std::cell::OnceCell;
use std::fmt;

use toml_edit::{ImDocument, Item, Table, Value};

use super::key_path::{KeyPath, Step};

/// Longest line in bytes whose columns are counted in characters. Columns of a longer line are counted in bytes,
/// because a list of all users may be one line, with a mistake in each name.
const CHARACTERS_COUNTED_MAX: usize = 4096;

/// A place in a file. Lines and columns begin at 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilePlace {
    /// The line.
    pub line: usize,
    /// The column, in characters; in bytes in a very long line.
    pub column: usize,
}

impl fmt::Display for FilePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// The text of a file, and the places in it.
#[derive(Default)]
pub(super) struct FileText {
    text: String,
    parsed: OnceCell<Option<ParsedText>>,
}

struct ParsedText {
    document: ImDocument<String>,
    lines: LineStarts,
}

impl FileText {
    pub(super) fn new(text: String) -> Self {
        Self { text, parsed: OnceCell::new() }
    }

    /// Returns the place of a value, or of the header of a table.
    pub(super) fn of_value(&self, path: &KeyPath) -> Option<FilePlace> {
        let (parsed, node) = self.find(path)?;
        parsed.place(node.value_starts()?)
    }

    /// Returns the place of a key.
    pub(super) fn of_key(&self, path: &KeyPath) -> Option<FilePlace> {
        let (parsed, node) = self.find(path)?;
        parsed.place(node.key_starts().or(node.value_starts())?)
    }

    fn find(&self, path: &KeyPath) -> Option<(&ParsedText, Node<'_>)> {
        let parse = || {
            let document = ImDocument::parse(self.text.clone()).ok()?;
            Some(ParsedText { document, lines: LineStarts::of(&self.text) })
        };
        let parsed = self.parsed.get_or_init(parse).as_ref()?;
        let root = Node { key_starts: None, found: Found::Item(parsed.document.as_item()) };
        let node = path.steps().iter().try_fold(root, |node, step| node.step(step))?;
        Some((parsed, node))
    }
}

impl ParsedText {
    fn place(&self, offset: usize) -> Option<FilePlace> {
        self.lines.place(self.document.raw(), offset)
    }
}

/// A part of the document, and where its key starts.
struct Node<'a> {
    key_starts: Option<usize>,
    found: Found<'a>,
}

enum Found<'a> {
    Item(&'a Item),
    Table(&'a Table),
    Value(&'a Value),
}

impl<'a> Node<'a> {
    fn step(self, step: &Step) -> Option<Self> {
        match step {
            Step::Key(key) => {
                let (key, item) = match self.found {
                    Found::Item(item) => item.as_table_like()?.get_key_value(key)?,
                    Found::Table(table) => table.get_key_value(key)?,
                    Found::Value(value) => value.as_inline_table()?.get_key_value(key)?,
                };
                Some(Self { key_starts: key.span().map(|span| span.start), found: Found::Item(item) })
            }
            Step::Index(index) => {
                let found = match self.found {
                    Found::Item(Item::ArrayOfTables(tables)) => Found::Table(tables.get(*index)?),
                    Found::Item(item) => Found::Value(item.as_array()?.get(*index)?),
                    Found::Value(value) => Found::Value(value.as_array()?.get(*index)?),
                    Found::Table(_) => return None,
                };
                Some(Self { key_starts: None, found })
            }
        }
    }

    fn key_starts(&self) -> Option<usize> {
        self.key_starts
    }

    /// Returns where the value starts. A table that no header begins starts with its key.
    fn value_starts(&self) -> Option<usize> {
        let span = match self.found {
            Found::Item(item) => item.span(),
            Found::Table(table) => table.span(),
            Found::Value(value) => value.span(),
        };
        span.map(|span| span.start).or(self.key_starts)
    }
}

/// The offset at which each line starts.
struct LineStarts(Vec<usize>);

impl LineStarts {
    fn of(text: &str) -> Self {
        let after = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset + 1);
        Self(std::iter::once(0).chain(after).collect())
    }

    fn place(&self, text: &str, offset: usize) -> Option<FilePlace> {
        let line = self.0.partition_point(|start| *start <= offset);
        let before = text.get(*self.0.get(line.checked_sub(1)?)?..offset)?;
        let is_short = before.len() <= CHARACTERS_COUNTED_MAX;
        let column = 1 + if is_short { before.chars().count() } else { before.len() };
        Some(FilePlace { line, column })
    }
}

/// Returns the place of an offset in bytes.
pub(super) fn place_of_offset(text: &str, offset: usize) -> Option<FilePlace> {
    LineStarts::of(text).place(text, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "'é' = 1\nlist = [1,\n  2]\n[[pools]]\nid = 'a'\n[[pools]]\nid = 'b'\n[pools.export]\n  grace = 1\n\
                        [otlp]\nheaders = { a = 1, b = 2 }\nx.y = 3\n";

    fn place(line: usize, column: usize) -> Option<FilePlace> {
        Some(FilePlace { line, column })
    }

    #[test]
    fn every_value_and_every_key_has_a_place() {
        let (file, root) = (FileText::new(TEXT.to_owned()), KeyPath::default());
        let pool = root.key("pools").element(1);
        for (path, of_key, of_value) in [
            (root.key("é"), place(1, 1), place(1, 7)),
            (root.key("list").element(1), place(3, 3), place(3, 3)),
            (pool.clone(), place(6, 1), place(6, 1)),
            (pool.key("id"), place(7, 1), place(7, 6)),
            (pool.key("export"), place(8, 8), place(8, 1)),
            (pool.key("export").key("grace"), place(9, 3), place(9, 11)),
            (root.key("otlp").key("headers").key("b"), place(11, 20), place(11, 24)),
            (root.key("otlp").key("x"), place(12, 1), place(12, 1)),
            (root.key("otlp").key("x").key("y"), place(12, 3), place(12, 7)),
            (root.key("pools").element(2), None, None),
            (root.key("none"), None, None),
        ] {
            assert_eq!((file.of_key(&path), file.of_value(&path)), (of_key, of_value), "{path:?}");
        }
    }

    #[test]
    fn a_text_that_is_not_toml_has_no_places() {
        assert_eq!(FileText::new("=".to_owned()).of_key(&KeyPath::default().key("a")), None);
    }

    #[test]
    fn a_column_of_a_very_long_line_is_in_bytes() {
        let text = format!("\n{}x", "é".repeat(CHARACTERS_COUNTED_MAX));
        assert_eq!(place_of_offset(&text, text.len() - 1), place(2, 2 * CHARACTERS_COUNTED_MAX + 1));
        assert_eq!(place_of_offset("\néx", 3), place(2, 2));
    }
}
