//! Sink: writes each record as one line to standard output: as JSON, or for the demo in a form for people.
//!
//! The line is made from the same [`Record`] as the OTLP record, in the same order, with times in RFC 3339. Its body is
//! always the sentence, because people read it; the configured schema concerns the receiver only. A batch is accepted
//! when all of it is written and flushed. Writing runs on a thread of its own, so a slow reader blocks nothing else.

use std::io::Write;
use std::sync::Arc;

use cognito_auth_core::answer::Answer;
use cognito_auth_core::entry::Entry;
use cognito_auth_core::record::{Record, TimestampSource, Value};
use parking_lot::Mutex;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::sink::Sink;

/// Makes the line of a record, with its end.
pub type LineFormat = fn(&Record<'_>) -> Vec<u8>;

/// A sink that prints records to a writer.
pub struct StdoutSink<W = Box<dyn Write + Send>> {
    out: Arc<Mutex<W>>,
    timestamp: TimestampSource,
    format: LineFormat,
}

impl StdoutSink {
    /// Makes a sink that prints JSON to standard output.
    pub fn new(timestamp: TimestampSource) -> Self {
        Self::to(Box::new(std::io::stdout()), timestamp, json_line)
    }
}

impl<W: Write> StdoutSink<W> {
    /// Makes a sink that prints to `out` in a format.
    pub fn to(out: W, timestamp: TimestampSource, format: LineFormat) -> Self {
        Self { out: Arc::new(Mutex::new(out)), timestamp, format }
    }
}

impl<W: Write + Send + 'static> StdoutSink<W> {
    async fn print(&self, text: Vec<u8>) -> std::io::Result<()> {
        let out = Arc::clone(&self.out);
        tokio::task::spawn_blocking(move || {
            let mut out = out.lock();
            out.write_all(&text)?;
            out.flush()
        })
        .await
        .map_err(std::io::Error::other)?
    }
}

impl<W: Write + Send + 'static> Sink for StdoutSink<W> {
    type Record = PrintedRecord;

    fn record(&self, entry: &Entry) -> PrintedRecord {
        PrintedRecord((self.format)(&Record::of(entry, self.timestamp)))
    }

    fn size_of(&self, record: &PrintedRecord) -> usize {
        record.0.len()
    }

    async fn deliver(&mut self, batch: &[PrintedRecord]) -> Answer {
        let lines: Vec<_> = batch.iter().map(|PrintedRecord(line)| &line[..]).collect();
        match self.print(lines.concat()).await {
            Ok(()) => Answer::Accepted { rejected: 0, message: None },
            // A closed pipe stays closed. A full disk may be cleared.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Answer::Refused { message: "standard output was closed by its reader".into() }
            }
            Err(error) => Answer::Retry { after: None, message: format!("standard output: {error}") },
        }
    }
}

/// A record as a line, with its end.
#[derive(Debug)]
pub struct PrintedRecord(Vec<u8>);

/// Makes the line of a record as one JSON object.
pub fn json_line(record: &Record<'_>) -> Vec<u8> {
    let line = serde_json::to_vec(&JsonLine(record));
    let mut line = line.expect("the keys of a record are texts, and writing to a Vec does not fail");
    line.push(b'\n');
    line
}

/// A record that serializes as one JSON object.
struct JsonLine<'a>(&'a Record<'a>);

impl Serialize for JsonLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.0;
        let mut line = serializer.serialize_map(None)?;
        if let Some(timestamp) = record.timestamp {
            line.serialize_entry("timestamp", &timestamp.to_string())?;
        }
        line.serialize_entry("observed_timestamp", &record.observed.to_string())?;
        line.serialize_entry("event_name", record.event_name)?;
        line.serialize_entry("severity_number", &(record.severity as u8))?;
        line.serialize_entry("severity_text", record.severity.as_str())?;
        line.serialize_entry("body", &JsonValue(&record.body))?;
        line.serialize_entry("attributes", &Map(&record.attributes))?;
        line.end()
    }
}

/// Pairs as a JSON object, in their order.
struct Map<'a>(&'a [(&'static str, Value<'a>)]);

impl Serialize for Map<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, JsonValue(value))))
    }
}

/// A value as JSON.
pub struct JsonValue<'a>(pub &'a Value<'a>);

impl Serialize for JsonValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Integer(number) => serializer.serialize_i64(*number),
            Value::Bool(truth) => serializer.serialize_bool(*truth),
            Value::Texts(texts) => serializer.collect_seq(*texts),
            Value::Map(map) => Map(map).serialize(serializer),
            Value::Maps(maps) => serializer.collect_seq(maps.iter().map(|map| Map(map))),
        }
    }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::fixtures::{bare_entry, full_entry};

    use super::*;

    async fn deliver<W: Write + Send + 'static>(sink: &mut StdoutSink<W>, batch: &[Entry]) -> Answer {
        let records: Vec<_> = batch.iter().map(|entry| sink.record(entry)).collect();
        sink.deliver(&records).await
    }

    async fn printed(batch: &[Entry]) -> String {
        let mut sink = StdoutSink::to(Vec::new(), TimestampSource::Event, json_line);
        assert!(matches!(deliver(&mut sink, batch).await, Answer::Accepted { rejected: 0, .. }));
        let text = sink.out.lock().clone();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn each_record_is_one_line_of_json() {
        let text = printed(&[full_entry(), bare_entry()]).await;
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["timestamp"], "2024-08-08T16:54:09.929Z");
        assert_eq!(lines[0]["severity_number"], 17);
        assert_eq!(lines[0]["severity_text"], "ERROR");
        assert_eq!(lines[0]["event_name"], "aws.cognito.auth.sign_in");
        assert_eq!(lines[0]["attributes"]["user.name"], "alice");
        assert_eq!(lines[0]["attributes"]["aws.cognito.event.revision"], 2);
        assert_eq!(lines[0]["attributes"]["aws.cognito.event.history"], false);
        assert_eq!(lines[0]["attributes"]["aws.cognito.challenges"][1]["name"], "Mfa");
        assert!(lines[1].get("timestamp").is_none());
    }

    #[tokio::test]
    async fn a_line_break_in_a_value_does_not_break_the_line() {
        let mut entry = bare_entry();
        entry.event.id = Some("a\nb".into());
        assert_eq!(printed(&[entry]).await.lines().count(), 1);
    }

    struct Failing(std::io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_closed_pipe_needs_a_person_and_a_full_disk_may_pass() {
        let mut closed = StdoutSink::to(Failing(std::io::ErrorKind::BrokenPipe), TimestampSource::Event, json_line);
        assert!(matches!(deliver(&mut closed, &[full_entry()]).await, Answer::Refused { .. }));
        let mut full = StdoutSink::to(Failing(std::io::ErrorKind::StorageFull), TimestampSource::Event, json_line);
        assert!(matches!(deliver(&mut full, &[full_entry()]).await, Answer::Retry { .. }));
    }
}
