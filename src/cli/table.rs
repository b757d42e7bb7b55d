//! Tables for people: aligned columns, each as wide as its longest value so far, or fitted to a terminal.
//!
//! Widths are counted in the columns of a terminal, because a letter of Chinese or an emoji takes two.

use cognito_auth_core::printable::printable;
use unicode_width::UnicodeWidthStr as _;

/// Maximum width of a column. A longer value shifts only the rest of its line.
const WIDTH_MAX: usize = 48;

/// The space between two columns.
const GAP: usize = 2;

/// The mark at the end of a value that was cut.
const CUT: char = '…';

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
        *width = cell.width().min(WIDTH_MAX).max(*width);
    }
}

/// Formats a row without white space at its end.
pub(super) fn line(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width()) + GAP));
    }
    line.truncate(line.trim_end().len());
    line
}

/// A column of a table that is fitted to a terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct FittedColumn {
    /// The title.
    pub(super) name: &'static str,
    /// The width that most values need.
    pub(super) width: usize,
    /// The width below which the column says too little.
    pub(super) width_min: usize,
    /// The order of leaving columns out: the lowest rank leaves first.
    pub(super) rank: u8,
}

/// Fits columns to a terminal: first they shrink, the widest first, and then columns are left out. Returns the width of
/// each column, and None for one that is left out. One column always stays.
pub(super) fn fit(columns: &[FittedColumn], available: usize) -> Vec<Option<usize>> {
    let mut widths: Vec<_> = columns.iter().map(|column| Some(column.width)).collect();
    let mut minima: Vec<_> = columns.iter().map(|column| Some(column.width_min.min(column.width))).collect();
    while total(&minima) > available && minima.iter().flatten().count() > 1 {
        let shown = columns.iter().enumerate().filter(|(index, _)| minima[*index].is_some());
        let Some((first, _)) = shown.min_by_key(|(_, column)| column.rank) else { break };
        (minima[first], widths[first]) = (None, None);
    }
    while total(&widths) > available {
        let can_shrink = |index: &usize| widths[*index].zip(minima[*index]).is_some_and(|(width, min)| width > min);
        let Some(widest) = (0..widths.len()).filter(can_shrink).max_by_key(|index| widths[*index]) else { break };
        widths[widest] = widths[widest].map(|width| width - 1);
    }
    widths
}

fn total(widths: &[Option<usize>]) -> usize {
    let shown = widths.iter().flatten();
    shown.clone().sum::<usize>() + GAP * shown.count().saturating_sub(1)
}

/// Cuts a value to a width. A value that was cut ends with a mark.
pub(super) fn cut(cell: &str, width: usize) -> String {
    if cell.width() <= width {
        return cell.to_owned();
    }
    let mut text = String::new();
    for char in cell.chars() {
        text.push(char);
        // The text is measured and not the letter, because a mark can widen the letter before it.
        if text.width() >= width {
            text.pop();
            break;
        }
    }
    text.push(CUT);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<String> {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|value| cell(Some(value))).collect()).collect();
        let mut widths = vec![0; rows[0].len()];
        rows.iter().for_each(|row| widen(&mut widths, row));
        rows.iter().map(|row| line(row, &widths)).collect()
    }

    #[test]
    fn wide_letters_take_two_columns_and_marks_take_none() {
        assert_eq!(
            rows(&[&["東京", "Japan"], &["Zu\u{308}rich", "CH"], &["😀", ""]]),
            ["東京    Japan", "Zu\u{308}rich  CH", "😀      -"]
        );
    }

    #[test]
    fn a_value_is_cut_at_whole_letters_with_a_mark() {
        for (value, width, expected) in [
            ("Chrome 126", 10, "Chrome 126"),
            ("Chrome 126", 9, "Chrome 1…"),
            ("東京都", 5, "東京…"),
            ("東京都", 4, "東…"),
            ("東京都", 1, "…"),
        ] {
            assert_eq!(cut(value, width), expected);
        }
    }

    fn column(name: &'static str, width: usize, width_min: usize, rank: u8) -> FittedColumn {
        FittedColumn { name, width, width_min, rank }
    }

    #[test]
    fn columns_shrink_before_one_is_left_out() {
        let columns = [column("time", 24, 24, 9), column("device", 24, 10, 2), column("id", 36, 36, 1)];
        assert_eq!(fit(&columns, 88), [Some(24), Some(24), Some(36)]);
        assert_eq!(fit(&columns, 80), [Some(24), Some(16), Some(36)]);
        assert_eq!(fit(&columns, 73), [Some(24), Some(24), None]);
        assert_eq!(fit(&columns, 40), [Some(24), Some(14), None]);
        assert_eq!(fit(&columns, 10), [Some(24), None, None]);
    }

    proptest! {
        #[test]
        fn a_fitted_table_never_exceeds_the_terminal_and_wastes_nothing(
            columns in prop::collection::vec((1_usize..40, 1_usize..40, 0_u8..10), 1..12),
            available in 0_usize..300,
        ) {
            let columns: Vec<_> =
                columns.into_iter().map(|(width, min, rank)| column("c", width, min.min(width), rank)).collect();
            let widths = fit(&columns, available);
            let shown = widths.iter().flatten().count();
            prop_assert!(shown >= 1);
            prop_assert!(total(&widths) <= available || shown == 1);
            for (width, column) in widths.iter().zip(&columns) {
                prop_assert!(width.is_none_or(|width| (column.width_min..=column.width).contains(&width)));
            }
            // A column is narrower than its values only if there is no space left.
            let mut both = widths.iter().zip(&columns);
            let is_any_narrow = both.any(|(width, column)| width.is_some_and(|width| width < column.width));
            prop_assert!(!is_any_narrow || total(&widths) >= available);
            // No column that is left out outranks one that is shown.
            let ranks = |is_shown: bool| {
                let of = widths.iter().zip(&columns).filter(move |(width, _)| width.is_some() == is_shown);
                of.map(|(_, column)| column.rank)
            };
            prop_assert!(ranks(false).max() <= ranks(true).min());
        }

        #[test]
        fn a_cut_value_fits_whatever_its_letters(text in "\\PC{0,40}", width in 1_usize..30) {
            let cut = cut(&cell(Some(&text)), width);
            prop_assert!(cut.width() <= width, "{cut:?}");
        }
    }
}
