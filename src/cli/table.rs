//! Tables for people: aligned columns, each as wide as its longest value so far.

use std::fmt::Write as _;

use cognito_auth_core::printable::printable;

/// Maximum width of a column in characters. A longer value shifts only the rest of its line.
const WIDTH_MAX: usize = 48;

/// Formats a value for people.
pub(super) fn cell(value: Option<&str>) -> String {
    match value {
        None | Some("") => "-".to_owned(),
        Some(value) => printable(value).into_owned(),
    }
}

/// Widens the columns for a row.
pub(super) fn widen(widths: &mut [usize], row: &[String]) {
    for (width, cell) in widths.iter_mut().zip(row) {
        *width = cell.chars().count().min(WIDTH_MAX).max(*width);
    }
}

/// Formats a row without white space at its end.
pub(super) fn line(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let _ = write!(line, "{cell:<width$}  "); // writing into a String does not fail
    }
    line.truncate(line.trim_end().len());
    line
}
