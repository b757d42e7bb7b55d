//! Aligned columns for people. On a terminal they fit its width; elsewhere nothing is cut.

use super::OutputShape;
use super::flat::FlatEvent;
use crate::cli::table::{FittedColumn, cell, cut, fit, line, widen};
use crate::source::cognito::wire::WireEvent;

/// The columns, with the width of most values, so that the pages of a long history stay aligned. On a narrow terminal
/// what identifies an event leaves first, and what says when, who and how it ended stays.
const COLUMNS: [FittedColumn; 11] = [
    FittedColumn { name: "Username", width: 20, width_min: 10, rank: 9 },
    FittedColumn { name: "CreationDate", width: 24, width_min: 24, rank: 10 },
    FittedColumn { name: "EventType", width: 14, width_min: 9, rank: 8 },
    FittedColumn { name: "EventResponse", width: 13, width_min: 10, rank: 7 },
    FittedColumn { name: "RiskDecision", width: 15, width_min: 15, rank: 6 },
    FittedColumn { name: "RiskLevel", width: 9, width_min: 6, rank: 2 },
    FittedColumn { name: "IpAddress", width: 15, width_min: 15, rank: 5 },
    FittedColumn { name: "City", width: 16, width_min: 8, rank: 3 },
    FittedColumn { name: "Country", width: 16, width_min: 8, rank: 1 },
    FittedColumn { name: "DeviceName", width: 24, width_min: 12, rank: 4 },
    FittedColumn { name: "EventId", width: 36, width_min: 36, rank: 0 },
];

/// Encodes rows of a table.
pub(in crate::cli::events) struct TableEncoder {
    /// The places of the shown columns in `COLUMNS`.
    shown: Vec<usize>,
    widths: Vec<usize>,
    left_out: Vec<&'static str>,
    /// Whether the table has to fit a terminal: values are cut, and no column grows.
    is_fitted: bool,
    has_header: bool,
}

impl TableEncoder {
    pub(super) fn new(shape: OutputShape) -> Self {
        let first = usize::from(!shape.several_users);
        let columns = COLUMNS.get(first..).unwrap_or_default();
        let widths = match shape.terminal_columns {
            Some(available) => fit(columns, available),
            None => columns.iter().map(|column| Some(column.width)).collect(),
        };
        let is_shown = |index: &usize| widths.get(*index).is_some_and(Option::is_some);
        let (shown, out): (Vec<_>, Vec<_>) = (0..columns.len()).partition(is_shown);
        Self {
            shown: shown.iter().map(|index| index + first).collect(),
            left_out: out.iter().filter_map(|index| columns.get(*index)).map(|column| column.name).collect(),
            widths: widths.into_iter().flatten().collect(),
            is_fitted: shape.terminal_columns.is_some(),
            has_header: shape.continued,
        }
    }

    /// The columns that the terminal is too narrow for.
    pub(super) fn columns_left_out(&self) -> &[&'static str] {
        &self.left_out
    }

    /// Begins again with the header.
    pub(super) fn begin_again(&mut self) {
        self.has_header = false;
    }

    /// Encodes a page.
    pub(super) fn page(&mut self, username: &str, events: &[WireEvent]) -> Vec<u8> {
        let mut text = String::new();
        let rows: Vec<_> = events.iter().map(|event| self.chosen(row(&FlatEvent::of(username, event)))).collect();
        if !self.is_fitted {
            rows.iter().for_each(|row| widen(&mut self.widths, row));
        }
        let header = (!std::mem::replace(&mut self.has_header, true)).then(|| self.chosen(names()));
        for row in header.into_iter().chain(rows) {
            text.push_str(&line(&row, &self.widths));
            text.push('\n');
        }
        text.into_bytes()
    }

    /// Chooses the shown cells of a row, and cuts them on a terminal.
    fn chosen(&self, row: [String; COLUMNS.len()]) -> Vec<String> {
        let shown = row.into_iter().enumerate().filter(|(index, _)| self.shown.contains(index));
        let cells = shown.map(|(_, cell)| cell).zip(&self.widths);
        cells.map(|(cell, width)| if self.is_fitted { cut(&cell, *width) } else { cell }).collect()
    }
}

fn names() -> [String; COLUMNS.len()] {
    COLUMNS.map(|column| column.name.to_owned())
}

fn row(event: &FlatEvent<'_>) -> [String; COLUMNS.len()] {
    [
        cell(Some(event.username)),
        cell(event.creation_date.map(|time| time.to_string()).as_deref()),
        cell(event.event_type),
        cell(event.event_response),
        cell(event.risk_decision),
        cell(event.risk_level),
        cell(event.ip_address),
        cell(event.city),
        cell(event.country),
        cell(event.device_name),
        cell(event.event_id),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr as _;

    use super::super::tests::{printed, sign_in};
    use super::super::{EventsOutput, OutputShape};
    use super::*;

    #[test]
    fn columns_stay_aligned_over_pages_and_absent_values_are_dashes() {
        let pages = [vec![sign_in("Other, Other")], vec![sign_in("Chrome 126, Windows 10")]];
        let table = printed(EventsOutput::Table, OutputShape::default(), &pages);
        let lines: Vec<&str> = table.lines().collect();
        let column = |line: &str, text: &str| line.find(text).unwrap();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.trim_end() == *line));
        assert_eq!(column(lines[0], "DeviceName"), column(lines[1], "Other, Other"));
        assert_eq!(column(lines[0], "EventId"), column(lines[2], "768d375c"));
        assert!(lines[1].starts_with("2024-08-08T16:54:09.929Z  SignIn          -"));
    }

    #[test]
    fn a_place_that_is_not_known_is_absent() {
        let mut event = sign_in("Chrome");
        event.event_context_data.as_mut().unwrap().city = Some("null".into());
        let table = printed(EventsOutput::Table, OutputShape::default(), &[vec![event]]);
        assert!(!table.contains("null"), "{table}");
    }

    #[test]
    fn a_hostile_device_cannot_drive_the_terminal() {
        let table = printed(EventsOutput::Table, OutputShape::default(), &[vec![sign_in("\u{1b}[2Jgone\nforever")]]);
        assert!(!table.contains('\u{1b}') && table.lines().count() == 2, "{table:?}");
    }

    #[test]
    fn several_users_have_a_column_of_their_names() {
        let several = OutputShape { several_users: true, ..OutputShape::default() };
        let table = printed(EventsOutput::Table, several, &[vec![sign_in("Chrome")]]);
        assert!(table.starts_with("Username") && table.lines().nth(1).unwrap().starts_with("ada "), "{table}");
    }

    #[test]
    fn a_terminal_of_eighty_columns_shows_when_what_and_from_where() {
        let narrow = OutputShape {
            several_users: true,
            to_terminal: true,
            terminal_columns: Some(80),
            ..OutputShape::default()
        };
        let table = printed(EventsOutput::Table, narrow, &[vec![sign_in("Chrome 126, Windows 10 and more")]]);
        assert!(table.lines().all(|line| line.width() <= 80), "{table}");
        let header = table.lines().next().unwrap();
        for name in ["Username", "CreationDate", "EventType", "EventResp"] {
            assert!(header.contains(name), "{header}");
        }
        assert!(TableEncoder::new(narrow).columns_left_out().contains(&"EventId"));
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(device in "\\PC{0,60}", available in 24_usize..260) {
            let shape = OutputShape { to_terminal: true, terminal_columns: Some(available), ..OutputShape::default() };
            let table = printed(EventsOutput::Table, shape, &[vec![sign_in(&device)], vec![sign_in("東京")]]);
            prop_assert!(table.lines().all(|line| line.width() <= available), "{table}");
        }
    }
}
