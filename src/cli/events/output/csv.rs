//! Comma-separated values, one event a row, safe to open in a spreadsheet.
//!
//! A spreadsheet takes a value that begins with `=`, `+`, `-` or `@` for a formula. The user who signs in chooses the
//! device's name, so such a value could attack the program that opens the file. It therefore gets a `'` in front.
//!
//! In many countries a spreadsheet separates by `;`, and so it divides a value of this file into cells. A quote does
//! not help, because it is not at the beginning of a cell then. So a `'` also comes behind each `;`, tab and line break
//! that a formula follows. A `'` that is in such a place gets one more. So a program restores every value: it removes
//! one `'` from the beginning, and one behind each `;`, tab and line break.
//!
//! A telephone number (`+` and digits) stays as it is, because it does nothing and many usernames are one.

use std::borrow::Cow;

use ::csv::{Writer, WriterBuilder};
use cognito_auth_core::printable::printable;

use super::OutputShape;
use super::flat::FlatEvent;
use crate::source::cognito::wire::WireEvent;

/// The columns: always all of them, so that every file can be read alike.
const COLUMNS: [&str; 17] = [
    "Username",
    "CreationDate",
    "EventType",
    "EventResponse",
    "RiskDecision",
    "RiskLevel",
    "CompromisedCredentialsDetected",
    "ChallengeResponses",
    "IpAddress",
    "DeviceName",
    "Timezone",
    "City",
    "Country",
    "FeedbackValue",
    "FeedbackProvider",
    "FeedbackDate",
    "EventId",
];

/// The first characters that make a spreadsheet read a formula, with the wide forms that some accept.
const OF_A_FORMULA: [char; 10] = ['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠'];

/// What ends a cell inside a value, where a spreadsheet does not separate by commas.
const CELL_ENDS: [char; 4] = [';', '\t', '\r', '\n'];

/// The mark in front of what a spreadsheet must not compute.
const MARK: &str = "'";

/// Encodes rows of CSV.
pub(in crate::cli::events) struct CsvEncoder {
    has_header: bool,
    to_terminal: bool,
}

impl CsvEncoder {
    pub(super) fn new(shape: OutputShape) -> Self {
        Self { has_header: shape.continued, to_terminal: shape.to_terminal }
    }

    /// Begins again with the header.
    pub(super) fn begin_again(&mut self) {
        self.has_header = false;
    }

    /// Encodes a page.
    ///
    /// # Errors
    /// Those of the csv crate; none is known for rows in memory.
    pub(super) fn page(&mut self, username: &str, events: &[WireEvent]) -> anyhow::Result<Vec<u8>> {
        let mut rows = WriterBuilder::new().from_writer(vec![]);
        if !std::mem::replace(&mut self.has_header, true) {
            rows.write_record(COLUMNS)?;
        }
        for event in events {
            self.row(&FlatEvent::of(username, event), &mut rows)?;
        }
        Ok(rows.into_inner().map_err(|error| error.into_error())?)
    }

    fn row(&self, event: &FlatEvent<'_>, rows: &mut Writer<Vec<u8>>) -> anyhow::Result<()> {
        let time = |time: Option<cognito_auth_core::event::UnixMillis>| time.map(|time| time.to_string());
        let compromised = event.compromised_credentials_detected.map(|found| found.to_string());
        let row: [Option<Cow<'_, str>>; COLUMNS.len()] = [
            Some(event.username.into()),
            time(event.creation_date).map(Cow::from),
            event.event_type.map(Cow::from),
            event.event_response.map(Cow::from),
            event.risk_decision.map(Cow::from),
            event.risk_level.map(Cow::from),
            compromised.map(Cow::from),
            event.challenge_responses.as_deref().map(Cow::from),
            event.ip_address.map(Cow::from),
            event.device_name.map(Cow::from),
            event.timezone.map(Cow::from),
            event.city.map(Cow::from),
            event.country.map(Cow::from),
            event.feedback_value.map(Cow::from),
            event.feedback_provider.map(Cow::from),
            time(event.feedback_date).map(Cow::from),
            event.event_id.map(Cow::from),
        ];
        for value in row {
            let value = value.unwrap_or_default();
            let harmless = harmless(&value);
            if self.to_terminal {
                rows.write_field(printable(&harmless).as_bytes())?;
            } else {
                rows.write_field(harmless.as_bytes())?;
            }
        }
        // Ends the row.
        rows.write_record(None::<&[u8]>)?;
        Ok(())
    }
}

/// Marks what a spreadsheet would compute.
fn harmless(value: &str) -> Cow<'_, str> {
    let pieces = || value.split_inclusive(CELL_ENDS).enumerate();
    if !pieces().any(|(index, piece)| needs_mark(index, piece)) {
        return value.into();
    }
    let mark = |(index, piece)| [if needs_mark(index, piece) { MARK } else { "" }, piece];
    pieces().flat_map(mark).collect::<String>().into()
}

/// Whether a piece of a value needs the mark: what may be a cell, with the character that ends it. A quote inside a
/// value is written twice, and a cell that begins so begins with what follows.
fn needs_mark(index: usize, piece: &str) -> bool {
    let is_computed = piece.starts_with(OF_A_FORMULA) && !is_number(piece.trim_end_matches(CELL_ENDS));
    piece.starts_with(MARK) || is_computed || (index > 0 && piece.starts_with('"'))
}

/// Whether a value is a sign and digits: a telephone number or a number. A spreadsheet computes nothing from it.
fn is_number(value: &str) -> bool {
    let digits = value.strip_prefix(['+', '-']).unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{printed, sign_in};
    use super::super::{EventsOutput, OutputShape};
    use super::*;

    #[test]
    fn every_file_has_the_same_columns_and_absent_values_are_empty() {
        let csv = printed(EventsOutput::Csv, OutputShape::default(), &[vec![sign_in("Chrome 126, Windows")]]);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0].split(',').collect::<Vec<_>>(), COLUMNS);
        let row = r#"ada,2024-08-08T16:54:09.929Z,SignIn,,,,false,,,"Chrome 126, Windows",,,,,,,768d375c-"#;
        assert!(lines[1].starts_with(row), "{}", lines[1]);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_device_named_like_a_formula_is_a_text() {
        for (device, shown) in [
            (r#"=HYPERLINK("http://evil.example","ok")"#, r#""'=HYPERLINK(""http://evil.example"",""ok"")""#),
            ("@SUM(1)", "'@SUM(1)"),
            ("-2+3", "'-2+3"),
            ("＝1", "'＝1"),
            ("+15550100", "+15550100"),
            ("'tis", "''tis"),
            ("a;=cmd|' /C calc'!A1;b", "a;'=cmd|' /C calc'!A1;b"),
            ("a\t@SUM(1)", "a\t'@SUM(1)"),
            ("a\n=1+1", "\"a\n'=1+1\""),
            ("a;\"=1+1\"", "\"a;'\"\"=1+1\"\"\""),
            ("a;+15550100;'b", "a;+15550100;''b"),
            ("Mozilla/5.0 (X11; Linux)", "Mozilla/5.0 (X11; Linux)"),
            ("Chrome", "Chrome"),
        ] {
            let csv = printed(EventsOutput::Csv, OutputShape::default(), &[vec![sign_in(device)]]);
            assert!(csv.contains(&format!(",{shown},")), "{device}: {csv}");
        }
    }

    #[test]
    fn a_terminal_is_not_driven() {
        let on_terminal = OutputShape { to_terminal: true, ..OutputShape::default() };
        let csv = printed(EventsOutput::Csv, on_terminal, &[vec![sign_in("\u{1b}[2Jgone\u{9b}31m")]]);
        assert!(!csv.contains(['\u{1b}', '\u{9b}']), "{csv:?}");
    }

    proptest! {
        #[test]
        fn no_value_is_computed_and_every_value_can_be_read_back(value in "[=+\\-@'\t\r＝a1,; \"\n]{0,8}|\\PC{0,12}") {
            let csv = printed(EventsOutput::Csv, OutputShape::default(), &[vec![sign_in(&value)]]);
            let mut rows = ::csv::Reader::from_reader(csv.as_bytes());
            let row = rows.records().next().unwrap().unwrap();
            let shown = row[9].to_owned();
            for cell in shown.split(CELL_ENDS) {
                let cell = cell.trim_start_matches('"');
                prop_assert!(!cell.starts_with(OF_A_FORMULA) || is_number(cell) || shown.starts_with('"'), "{shown:?}");
            }
            let pieces = shown.split_inclusive(CELL_ENDS);
            let restored: String = pieces.map(|piece| piece.strip_prefix(MARK).unwrap_or(piece)).collect();
            prop_assert_eq!(restored, value);
        }
    }
}
