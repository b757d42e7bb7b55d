//! Apache Parquet: a column for each member, with the API's names and proper types.
//!
//! Rows are collected to row groups. The file ends with a footer, so it is whole only after [`ParquetEncoder::finish`].

use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::parser::parse_message_type;

use super::flat::FlatEvent;
use crate::source::cognito::wire::WireEvent;

/// The columns. `ChallengeResponses` is a list as JSON.
const SCHEMA: &str = "message AuthEvents {
    REQUIRED BINARY Username (UTF8);
    OPTIONAL INT64 CreationDate (TIMESTAMP(MILLIS, true));
    OPTIONAL BINARY EventType (UTF8);
    OPTIONAL BINARY EventResponse (UTF8);
    OPTIONAL BINARY RiskDecision (UTF8);
    OPTIONAL BINARY RiskLevel (UTF8);
    OPTIONAL BOOLEAN CompromisedCredentialsDetected;
    OPTIONAL BINARY ChallengeResponses (UTF8);
    OPTIONAL BINARY IpAddress (UTF8);
    OPTIONAL BINARY DeviceName (UTF8);
    OPTIONAL BINARY Timezone (UTF8);
    OPTIONAL BINARY City (UTF8);
    OPTIONAL BINARY Country (UTF8);
    OPTIONAL BINARY FeedbackValue (UTF8);
    OPTIONAL BINARY FeedbackProvider (UTF8);
    OPTIONAL INT64 FeedbackDate (TIMESTAMP(MILLIS, true));
    OPTIONAL BINARY EventId (UTF8);
}";

/// Rows of a row group. An event has about half a kilobyte, so a group takes 16 MB of memory. Readers skip groups of
/// this size efficiently.
const GROUP_ROWS: usize = 32_768;

/// Encodes a Parquet file.
pub(in crate::cli::events) struct ParquetEncoder {
    writer: SerializedFileWriter<Vec<u8>>,
    rows: Vec<(String, WireEvent)>,
    group_rows: usize,
}

impl ParquetEncoder {
    /// Begins a file.
    ///
    /// # Errors
    /// The library refuses the schema.
    pub(super) fn new() -> anyhow::Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
        let writer = SerializedFileWriter::new(vec![], schema, properties)?;
        Ok(Self { writer, rows: vec![], group_rows: GROUP_ROWS })
    }

    /// Takes a page. Returns bytes when a row group is full.
    ///
    /// # Errors
    /// The library fails.
    pub(super) fn page(&mut self, username: &str, events: &[WireEvent]) -> anyhow::Result<Vec<u8>> {
        self.rows.extend(events.iter().map(|event| (username.to_owned(), event.clone())));
        if self.rows.len() >= self.group_rows {
            self.write_group()?;
            self.writer.flush()?;
        }
        Ok(std::mem::take(self.writer.inner_mut()))
    }

    /// Writes the last row group and the footer.
    ///
    /// # Errors
    /// The library fails.
    pub(super) fn finish(&mut self) -> anyhow::Result<Vec<u8>> {
        if !self.rows.is_empty() {
            self.write_group()?;
        }
        self.writer.finish()?;
        Ok(std::mem::take(self.writer.inner_mut()))
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let rows = std::mem::take(&mut self.rows);
        let rows: Vec<_> = rows.iter().map(|(username, event)| FlatEvent::of(username, event)).collect();
        let mut group = self.writer.next_row_group()?;
        required_texts(&mut group, rows.iter().map(|row| row.username))?;
        column::<Int64Type>(&mut group, rows.iter().map(|row| row.creation_date.map(|time| time.0)))?;
        texts(&mut group, rows.iter().map(|row| row.event_type))?;
        texts(&mut group, rows.iter().map(|row| row.event_response))?;
        texts(&mut group, rows.iter().map(|row| row.risk_decision))?;
        texts(&mut group, rows.iter().map(|row| row.risk_level))?;
        column::<BoolType>(&mut group, rows.iter().map(|row| row.compromised_credentials_detected))?;
        texts(&mut group, rows.iter().map(|row| row.challenge_responses.as_deref()))?;
        texts(&mut group, rows.iter().map(|row| row.ip_address))?;
        texts(&mut group, rows.iter().map(|row| row.device_name))?;
        texts(&mut group, rows.iter().map(|row| row.timezone))?;
        texts(&mut group, rows.iter().map(|row| row.city))?;
        texts(&mut group, rows.iter().map(|row| row.country))?;
        texts(&mut group, rows.iter().map(|row| row.feedback_value))?;
        texts(&mut group, rows.iter().map(|row| row.feedback_provider))?;
        column::<Int64Type>(&mut group, rows.iter().map(|row| row.feedback_date.map(|time| time.0)))?;
        texts(&mut group, rows.iter().map(|row| row.event_id))?;
        group.close()?;
        Ok(())
    }
}

type Group<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

fn texts<'a>(group: &mut Group<'_>, values: impl Iterator<Item = Option<&'a str>>) -> Result<(), ParquetError> {
    column::<ByteArrayType>(group, values.map(|value| value.map(ByteArray::from)))
}

fn required_texts<'a>(group: &mut Group<'_>, values: impl Iterator<Item = &'a str>) -> Result<(), ParquetError> {
    let values: Vec<_> = values.map(ByteArray::from).collect();
    write::<ByteArrayType>(group, &values, None)
}

/// Writes the next column. Absent values have the definition level 0 and take no place among the values.
fn column<T: DataType>(group: &mut Group<'_>, values: impl Iterator<Item = Option<T::T>>) -> Result<(), ParquetError> {
    let values: Vec<_> = values.collect();
    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let present: Vec<_> = values.into_iter().flatten().collect();
    write::<T>(group, &present, Some(&levels))
}

fn write<T: DataType>(group: &mut Group<'_>, values: &[T::T], levels: Option<&[i16]>) -> Result<(), ParquetError> {
    let next = group.next_column()?;
    let mut column = next.ok_or_else(|| ParquetError::General("more columns than the schema has".into()))?;
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use ::parquet::basic::{LogicalType, TimeUnit};
    use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
    use ::parquet::record::Field;
    use bytes::Bytes;

    use super::super::tests::{encoded, sign_in};
    use super::super::{EventsOutput, OutputShape};
    use super::*;

    fn read(bytes: Vec<u8>) -> (SerializedFileReader<Bytes>, Vec<Vec<(String, Field)>>) {
        let reader = SerializedFileReader::new(Bytes::from(bytes)).unwrap();
        let rows = reader.get_row_iter(None).unwrap();
        let rows = rows.map(|row| row.unwrap().get_column_iter().cloned_pairs()).collect();
        (reader, rows)
    }

    trait ClonedPairs {
        fn cloned_pairs(self) -> Vec<(String, Field)>;
    }

    impl<'a, I: Iterator<Item = (&'a String, &'a Field)>> ClonedPairs for I {
        fn cloned_pairs(self) -> Vec<(String, Field)> {
            self.map(|(name, field)| (name.clone(), field.clone())).collect()
        }
    }

    #[test]
    fn times_are_utc_milliseconds_and_absent_values_are_null() {
        let bytes = encoded(EventsOutput::Parquet, OutputShape::default(), &[vec![sign_in("Chrome")], vec![]]);
        let (reader, rows) = read(bytes);
        let row: std::collections::HashMap<_, _> = rows[0].iter().cloned().collect();
        assert_eq!(rows.len(), 1);
        assert_eq!(row["Username"], Field::Str("ada".into()));
        assert_eq!(row["CreationDate"], Field::TimestampMillis(1_723_136_049_929));
        assert_eq!(row["CompromisedCredentialsDetected"], Field::Bool(false));
        assert_eq!(row["DeviceName"], Field::Str("Chrome".into()));
        assert_eq!(row["City"], Field::Null);
        let schema = reader.metadata().file_metadata().schema_descr();
        let time = schema.columns().iter().find(|column| column.name() == "CreationDate").unwrap();
        let is_utc = LogicalType::timestamp(true, TimeUnit::MILLIS);
        assert_eq!(time.logical_type_ref(), Some(&is_utc));
    }

    #[test]
    fn a_file_of_several_row_groups_has_every_row_in_order() {
        let mut encoder = ParquetEncoder { group_rows: 5, ..ParquetEncoder::new().unwrap() };
        let mut bytes = vec![];
        for page in 0..6 {
            let events: Vec<_> = (0..3).map(|event| sign_in(&format!("{}", page * 3 + event))).collect();
            bytes.extend(encoder.page("ada", &events).unwrap());
        }
        bytes.extend(encoder.finish().unwrap());
        let (reader, rows) = read(bytes);
        assert_eq!(reader.metadata().num_row_groups(), 3);
        let devices: Vec<_> = rows.iter().map(|row| row[9].1.clone()).collect();
        assert_eq!(devices, (0..18).map(|event| Field::Str(event.to_string())).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_without_events_can_be_read() {
        assert!(read(encoded(EventsOutput::Parquet, OutputShape::default(), &[])).1.is_empty());
    }
}
