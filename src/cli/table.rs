//! Aligned columns for people, in pages: a column is as wide as its values so far.

use std::fmt::Write as _;

use cognito_auth_core::printable::printable;

/// The longest that a column gets, in characters; longer values stick out of their line alone.
const WIDTH_MAX: usize = 48;

/// A value as people see it.
pub(super) fn cell(value: Option<&str>) -> String {
    match value {
        None | Some("") => "-".to_owned(),
        Some(value) => printable(value).into_owned(),
    }
}

/// Makes room for a row.
pub(super) fn widen(widths: &mut [usize], row: &[String]) {
    for (width, cell) in widths.iter_mut().zip(row) {
        *width = cell.chars().count().min(WIDTH_MAX).max(*width);
    }
}

/// A row, without white space at its end.
pub(super) fn line(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let _ = write!(line, "{cell:<width$}  "); // a String takes everything
    }
    line.truncate(line.trim_end().len());
    line
}
