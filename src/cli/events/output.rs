//! Events as bytes: each page in the chosen form, ready to be written.
//!
//! An encoder does no I/O. So the writer of the bytes knows their number, which a resumed run relies on.

mod csv;
mod flat;
mod jsonl;
#[cfg(feature = "parquet")]
mod parquet;
mod table;

use clap::ValueEnum;

use self::csv::CsvEncoder;
use self::jsonl::JsonlEncoder;
#[cfg(feature = "parquet")]
use self::parquet::ParquetEncoder;
use self::table::TableEncoder;
use crate::source::cognito::wire::WireEvent;

/// The output format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum EventsOutput {
    /// One JSON object a line, in the API's own field names.
    Jsonl,
    /// Comma-separated values with a header, safe to open in a spreadsheet.
    Csv,
    /// Aligned columns. On a terminal they fit its width.
    Table,
    /// Apache Parquet, with typed columns.
    #[cfg(feature = "parquet")]
    Parquet,
}

impl EventsOutput {
    /// The format's word on the command line.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Table => "table",
            #[cfg(feature = "parquet")]
            Self::Parquet => "parquet",
        }
    }

    /// Whether the output is for programs alone, and would disturb a terminal.
    pub(super) fn is_binary(self) -> bool {
        #[cfg(feature = "parquet")]
        let is_binary = self == Self::Parquet;
        #[cfg(not(feature = "parquet"))]
        let is_binary = false;
        is_binary
    }
}

/// Where an output goes, as far as its form depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct OutputShape {
    /// Whether events of several users may come, so that each event names its user.
    pub(super) several_users: bool,
    /// Whether the output goes to a terminal.
    pub(super) to_terminal: bool,
    /// The columns of that terminal, where they are known.
    pub(super) terminal_columns: Option<usize>,
    /// Whether the output continues one that has its header already.
    pub(super) continued: bool,
}

/// Turns pages of events into bytes.
pub(super) enum EventsEncoder {
    Jsonl(JsonlEncoder),
    Csv(CsvEncoder),
    Table(TableEncoder),
    #[cfg(feature = "parquet")]
    Parquet(Box<ParquetEncoder>),
}

impl EventsEncoder {
    /// Makes the encoder of a format.
    ///
    /// # Errors
    /// The format's library refuses its settings.
    pub(super) fn new(output: EventsOutput, shape: OutputShape) -> anyhow::Result<Self> {
        Ok(match output {
            EventsOutput::Jsonl => Self::Jsonl(JsonlEncoder::new(shape)),
            EventsOutput::Csv => Self::Csv(CsvEncoder::new(shape)),
            EventsOutput::Table => Self::Table(TableEncoder::new(shape)),
            #[cfg(feature = "parquet")]
            EventsOutput::Parquet => Self::Parquet(Box::new(ParquetEncoder::new()?)),
        })
    }

    /// Encodes a page of a user's events. A header comes before the first page.
    ///
    /// # Errors
    /// The format's library fails.
    pub(super) fn page(&mut self, username: &str, events: &[WireEvent]) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Jsonl(jsonl) => jsonl.page(username, events),
            Self::Csv(csv) => csv.page(username, events),
            Self::Table(table) => Ok(table.page(username, events)),
            #[cfg(feature = "parquet")]
            Self::Parquet(parquet) => parquet.page(username, events),
        }
    }

    /// Encodes what comes behind the last page.
    ///
    /// # Errors
    /// The format's library fails.
    pub(super) fn finish(&mut self) -> anyhow::Result<Vec<u8>> {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(parquet) => parquet.finish(),
            _ => Ok(vec![]),
        }
    }

    /// Begins again with the header, after everything that was written is taken back.
    pub(super) fn begin_again(&mut self) {
        match self {
            Self::Csv(csv) => csv.begin_again(),
            Self::Table(table) => table.begin_again(),
            _ => {}
        }
    }

    /// The columns that a terminal is too narrow for.
    pub(super) fn columns_left_out(&self) -> &[&'static str] {
        match self {
            Self::Table(table) => table.columns_left_out(),
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::event::UnixMillis;

    use super::*;
    use crate::source::cognito::wire::{WireContext, WireRisk};

    /// Encodes pages of events of the user ada.
    pub(super) fn encoded(output: EventsOutput, shape: OutputShape, pages: &[Vec<WireEvent>]) -> Vec<u8> {
        let mut encoder = EventsEncoder::new(output, shape).unwrap();
        let mut bytes = vec![];
        for page in pages {
            bytes.extend(encoder.page("ada", page).unwrap());
        }
        bytes.extend(encoder.finish().unwrap());
        bytes
    }

    /// The same as text.
    pub(super) fn printed(output: EventsOutput, shape: OutputShape, pages: &[Vec<WireEvent>]) -> String {
        String::from_utf8(encoded(output, shape, pages)).unwrap()
    }

    pub(super) fn sign_in(device: &str) -> WireEvent {
        WireEvent {
            event_id: Some("768d375c-ee6c-435e-a005-25c4981565c3".into()),
            creation_date: Some(UnixMillis(1_723_136_049_929)),
            event_type: Some("SignIn".into()),
            event_risk: Some(WireRisk { compromised_credentials_detected: Some(false), ..WireRisk::default() }),
            event_context_data: Some(WireContext { device_name: Some(device.into()), ..WireContext::default() }),
            ..WireEvent::default()
        }
    }

    #[test]
    fn without_events_there_is_nothing_but_a_header() {
        let shape = OutputShape::default();
        assert_eq!(printed(EventsOutput::Table, shape, &[vec![]]).lines().count(), 1);
        assert_eq!(printed(EventsOutput::Csv, shape, &[vec![]]).lines().count(), 1);
        assert_eq!(printed(EventsOutput::Jsonl, shape, &[vec![]]), "");
        let continued = OutputShape { continued: true, ..shape };
        assert_eq!(printed(EventsOutput::Table, continued, &[vec![]]), "");
        assert_eq!(printed(EventsOutput::Csv, continued, &[vec![]]), "");
    }
}
