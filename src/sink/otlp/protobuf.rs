//! Writes log records, and the requests that carry them, as protobuf's bytes.
//!
//! A record is written once, straight from the core's [`Record`], which borrows from its entry. opentelemetry-proto's
//! types own every name and text, and would cost about fifty allocations more.
//!
//! The fields and their numbers are those of `opentelemetry/proto/logs/v1`, `common/v1` and `resource/v1`, in
//! protobuf's encoding (<https://protobuf.dev/programming-guides/encoding/>). The tests compare every byte with
//! opentelemetry-proto's.

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::record::{Pairs, Record, SERVICE_NAME, SERVICE_VERSION, Value};
use prost::encoding::{WireType, encode_varint};
use prost::length_delimiter_len;

/// The capacity for a record, in bytes. Most records have 1,000 to 1,300, so they do not grow while they are written.
const RECORD_CAPACITY: usize = 2048;

/// The most bytes of a length.
const LENGTH_MAX: usize = 10;

/// Writes a record as an element of `ScopeLogs.log_records`, with its tag and length.
pub(super) fn log_record(record: &Record<'_>) -> Box<[u8]> {
    const LOG_RECORDS: u8 = 2;
    const TIME_UNIX_NANO: u8 = 1;
    const SEVERITY_NUMBER: u8 = 2;
    const SEVERITY_TEXT: u8 = 3;
    const BODY: u8 = 5;
    const ATTRIBUTES: u8 = 6;
    const OBSERVED_TIME_UNIX_NANO: u8 = 11;
    const EVENT_NAME: u8 = 12;

    let mut bytes = Vec::with_capacity(RECORD_CAPACITY);
    message(&mut bytes, LOG_RECORDS, |bytes| {
        time(bytes, TIME_UNIX_NANO, record.timestamp);
        number(bytes, SEVERITY_NUMBER, record.severity as i64);
        text(bytes, SEVERITY_TEXT, record.severity.as_str());
        message(bytes, BODY, |bytes| any_value(bytes, &record.body));
        key_values(bytes, ATTRIBUTES, &record.attributes);
        time(bytes, OBSERVED_TIME_UNIX_NANO, Some(record.observed));
        text(bytes, EVENT_NAME, record.event_name);
    });
    // A copy of the right size. A shrunk allocation would leave a hole beside each record of a batch.
    bytes.as_slice().into()
}

/// Writes requests. The parts around their records are written once.
#[derive(Debug)]
pub(super) struct RequestWriter {
    /// `ResourceLogs.resource`, with its tag and length.
    resource: Vec<u8>,
    /// `ScopeLogs.scope`, with its tag and length.
    scope: Vec<u8>,
}

impl RequestWriter {
    /// Makes a writer of requests of a resource with `attributes`.
    pub(super) fn new<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        const RESOURCE: u8 = 1;
        const ATTRIBUTES: u8 = 1;
        const SCOPE: u8 = 1;
        const NAME: u8 = 1;
        const VERSION: u8 = 2;

        let (mut resource, mut scope) = (Vec::new(), Vec::new());
        message(&mut resource, RESOURCE, |bytes| {
            for (name, value) in attributes {
                key_value(bytes, ATTRIBUTES, name, &Value::Text(value.into()));
            }
        });
        message(&mut scope, SCOPE, |bytes| {
            text(bytes, NAME, SERVICE_NAME);
            text(bytes, VERSION, SERVICE_VERSION);
        });
        Self { resource, scope }
    }

    /// Returns the most bytes of a request without its records.
    pub(super) fn overhead_bytes_max(&self) -> usize {
        2 * (1 + LENGTH_MAX) + self.resource.len() + self.scope.len()
    }

    /// Writes an ExportLogsServiceRequest with records of [`log_record`]. Without records it has only the resource,
    /// like the SDK's.
    pub(super) fn request(&self, records: &[&[u8]]) -> Vec<u8> {
        const RESOURCE_LOGS: u8 = 1;
        const SCOPE_LOGS: u8 = 2;

        let records_bytes: usize = records.iter().map(|record| record.len()).sum();
        let mut request = Vec::with_capacity(self.overhead_bytes_max() + records_bytes);
        message(&mut request, RESOURCE_LOGS, |bytes| {
            bytes.extend_from_slice(&self.resource);
            if !records.is_empty() {
                message(bytes, SCOPE_LOGS, |bytes| {
                    bytes.extend_from_slice(&self.scope);
                    records.iter().for_each(|record| bytes.extend_from_slice(record));
                });
            }
        });
        request
    }
}

/// Writes an AnyValue's only field.
fn any_value(bytes: &mut Vec<u8>, value: &Value<'_>) {
    const STRING_VALUE: u8 = 1;
    const BOOL_VALUE: u8 = 2;
    const INT_VALUE: u8 = 3;
    const ARRAY_VALUE: u8 = 5;
    const KVLIST_VALUE: u8 = 6;
    const VALUES: u8 = 1;

    match value {
        Value::Text(it) => text(bytes, STRING_VALUE, it),
        Value::Bool(it) => number(bytes, BOOL_VALUE, (*it).into()),
        Value::Integer(it) => number(bytes, INT_VALUE, *it),
        Value::Texts(texts) => message(bytes, ARRAY_VALUE, |bytes| {
            for it in *texts {
                message(bytes, VALUES, |bytes| text(bytes, STRING_VALUE, it));
            }
        }),
        Value::Map(map) => message(bytes, KVLIST_VALUE, |bytes| key_values(bytes, VALUES, map)),
        Value::Maps(maps) => message(bytes, ARRAY_VALUE, |bytes| {
            for map in maps {
                message(bytes, VALUES, |bytes| {
                    message(bytes, KVLIST_VALUE, |bytes| key_values(bytes, VALUES, map));
                });
            }
        }),
    }
}

/// Writes a repeated KeyValue.
fn key_values(bytes: &mut Vec<u8>, field: u8, pairs: &Pairs<'_>) {
    for (name, value) in pairs {
        key_value(bytes, field, name, value);
    }
}

/// Writes a KeyValue.
fn key_value(bytes: &mut Vec<u8>, field: u8, name: &str, value: &Value<'_>) {
    const KEY: u8 = 1;
    const VALUE: u8 = 2;

    message(bytes, field, |bytes| {
        text(bytes, KEY, name);
        message(bytes, VALUE, |bytes| any_value(bytes, value));
    });
}

/// Writes a nested message. Its length stands in front of its content and is known after it. So the content moves when
/// its length takes more than one byte.
fn message(bytes: &mut Vec<u8>, field: u8, content: impl FnOnce(&mut Vec<u8>)) {
    tag(bytes, field, WireType::LengthDelimited);
    let length_at = bytes.len();
    bytes.push(0);
    let written_at = bytes.len();
    content(bytes);
    let length = bytes.len() - written_at;
    if let Ok(length @ ..0x80) = u8::try_from(length) {
        bytes[length_at] = length;
        return;
    }
    let content_at = length_at + length_delimiter_len(length);
    bytes.resize(content_at + length, 0);
    bytes.copy_within(written_at..written_at + length, content_at);
    encode_varint(length as u64, &mut &mut bytes[length_at..content_at]);
}

fn text(bytes: &mut Vec<u8>, field: u8, text: &str) {
    tag(bytes, field, WireType::LengthDelimited);
    varint(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

fn number(bytes: &mut Vec<u8>, field: u8, number: i64) {
    tag(bytes, field, WireType::Varint);
    varint(bytes, number.cast_unsigned());
}

/// Writes a time in nanoseconds since 1970. A time that 64 bits cannot carry (before 1970, after 2554) is absent.
fn time(bytes: &mut Vec<u8>, field: u8, time: Option<UnixMillis>) {
    let nanos = time.and_then(|UnixMillis(millis)| u64::try_from(millis).ok()?.checked_mul(1_000_000));
    if let Some(nanos) = nanos.filter(|nanos| *nanos > 0) {
        tag(bytes, field, WireType::SixtyFourBit);
        bytes.extend_from_slice(&nanos.to_le_bytes());
    }
}

/// Writes a field's tag. It has one byte, because all field numbers are below 16.
fn tag(bytes: &mut Vec<u8>, field: u8, wire_type: WireType) {
    bytes.push(field << 3 | wire_type as u8);
}

fn varint(bytes: &mut Vec<u8>, number: u64) {
    match u8::try_from(number) {
        Ok(number @ ..0x80) => bytes.push(number),
        _ => encode_varint(number, bytes),
    }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::entry::Entry;
    use cognito_auth_core::event::Word;
    use cognito_auth_core::fixtures::{bare_entry, full_entry};
    use cognito_auth_core::masking::Mode;
    use cognito_auth_core::ocsf::{self, OcsfVersion};
    use cognito_auth_core::record::TimestampSource;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::sink::otlp::over_http_json::SdkRecords;

    const RESOURCE: [(&str, &str); 2] = [("service.name", "mine"), ("service.instance.id", "i")];

    fn request_of(records: &[Record<'_>]) -> Vec<u8> {
        let records: Vec<_> = records.iter().map(log_record).collect();
        let records: Vec<_> = records.iter().map(|record| &record[..]).collect();
        RequestWriter::new(RESOURCE).request(&records)
    }

    /// Sorts what has no order in the SDK's types: a resource's attributes and the members of maps.
    fn sorted(mut request: ExportLogsServiceRequest) -> ExportLogsServiceRequest {
        fn sort(value: &mut AnyValue) {
            match &mut value.value {
                Some(any_value::Value::KvlistValue(list)) => {
                    list.values.sort_by(|a, b| a.key.cmp(&b.key));
                    sort_values(&mut list.values);
                }
                Some(any_value::Value::ArrayValue(list)) => list.values.iter_mut().for_each(sort),
                _ => {}
            }
        }
        fn sort_values(pairs: &mut [KeyValue]) {
            pairs.iter_mut().flat_map(|pair| &mut pair.value).for_each(sort);
        }
        for resource_logs in &mut request.resource_logs {
            resource_logs.resource.as_mut().unwrap().attributes.sort_by(|a, b| a.key.cmp(&b.key));
            for record in resource_logs.scope_logs.iter_mut().flat_map(|scope_logs| &mut scope_logs.log_records) {
                record.body.iter_mut().for_each(sort);
                sort_values(&mut record.attributes);
            }
        }
        request
    }

    /// Checks that the bytes are prost's for their message, and that the message is what the SDK's records become.
    fn assert_is_the_sdks(records: &[Record<'_>]) {
        let written = request_of(records);
        let read = ExportLogsServiceRequest::decode(&*written).unwrap();
        assert!(read.encode_to_vec() == written, "not what prost writes: {read:?}");
        let sdk = SdkRecords::new(RESOURCE);
        let theirs: Vec<_> = records.iter().map(|record| sdk.record(record.clone())).collect();
        assert_eq!(sorted(read), sorted(sdk.request(&theirs.iter().collect::<Vec<_>>())));
    }

    fn records_of(entries: &[Entry]) -> Vec<Record<'_>> {
        let plain = entries.iter().map(|entry| Record::of(entry, TimestampSource::Event));
        let in_ocsf = plain.clone().zip(entries).map(|(record, entry)| {
            let body = ocsf::body(OcsfVersion::V1_9, entry, &record);
            Record { body, ..record }
        });
        plain.clone().chain(in_ocsf).collect()
    }

    #[test]
    fn a_request_is_what_the_sdk_makes_of_the_same_records() {
        assert_is_the_sdks(&[]);
        assert_is_the_sdks(&records_of(&[full_entry(), bare_entry()]));
    }

    /// Covers lengths just below and above one more length byte.
    #[test]
    fn lengths_of_one_to_three_bytes_are_the_sdks() {
        for length in [1, 60, 90, 126, 127, 128, 129, 16_300, 16_383, 16_384, 70_000] {
            let mut entry = full_entry();
            entry.event.context.as_mut().unwrap().device_name = Some("n".repeat(length));
            assert_is_the_sdks(&records_of(&[entry]));
        }
    }

    #[test]
    fn times_that_otlp_cannot_carry_are_absent() {
        for (millis, nanos) in [
            (0, 0),
            (-1, 0),
            (i64::MIN, 0),
            (i64::MAX, 0),
            (18_446_744_073_709, 18_446_744_073_709_000_000),
            (18_446_744_073_710, 0),
            (1, 1_000_000),
        ] {
            let mut entry = full_entry();
            entry.event.creation_date = Some(UnixMillis(millis));
            entry.observed = UnixMillis(millis);
            let records = [Record::of(&entry, TimestampSource::Event)];
            let read = ExportLogsServiceRequest::decode(&*request_of(&records)).unwrap();
            let record = &read.resource_logs[0].scope_logs[0].log_records[0];
            assert_eq!(record.time_unix_nano, nanos, "{millis}");
            assert_eq!(record.observed_time_unix_nano, nanos, "{millis}");
            assert_is_the_sdks(&records);
        }
    }

    #[test]
    fn the_overhead_is_what_a_request_has_beside_its_records_or_a_few_bytes_more() {
        let record = log_record(&Record::of(&full_entry(), TimestampSource::Event));
        let requests = RequestWriter::new(RESOURCE);
        let overhead = requests.overhead_bytes_max();
        for count in [1, 2, 500] {
            let request = requests.request(&vec![&record[..]; count]);
            let beside = request.len() - count * record.len();
            assert!((overhead - 30..=overhead).contains(&beside), "{count}: {beside}");
        }
    }

    proptest! {
        #[test]
        fn any_entry_is_written_as_the_sdk_writes_it(
            texts in proptest::array::uniform8(proptest::option::of(".{0,200}")),
            numbers in (any::<i64>(), any::<i64>(), any::<u32>()),
            history in any::<bool>(),
        ) {
            let [id, event_type, response, level, address, device, city, sub] = texts;
            let mut entry = full_entry();
            entry.event.id = id;
            entry.event.event_type = event_type.map(|text| Word::parse(&text));
            entry.event.response = response.map(|text| Word::parse(&text));
            entry.event.risk.as_mut().unwrap().level = level.map(|text| Word::parse(&text));
            let context = entry.event.context.as_mut().unwrap();
            (context.ip_address, context.device_name, context.city) = (address, device, city);
            entry.user = std::sync::Arc::new(cognito_auth_core::entry::UserIdentity { username: "a".into(), sub });
            (entry.event.creation_date, entry.observed) = (Some(UnixMillis(numbers.0)), UnixMillis(numbers.1));
            entry.revision = numbers.2;
            entry.history = history;
            entry.masked.ip_address = if history { Mode::Hash } else { Mode::Keep };
            assert_is_the_sdks(&records_of(&[entry]));
        }
    }
}
