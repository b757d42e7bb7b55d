//! Converts entries to OTLP: the SDK's log records, a resource and a scope.
//!
//! The SDK's record type has no constructor, and the documentation of `LogBatch::new` says that it may become private.
//! Only this file uses both. Both transports use opentelemetry-proto's conversion to protobuf, so gRPC and HTTP cannot
//! differ.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use cognito_auth_core::entry::Entry;
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::ocsf;
use cognito_auth_core::record::{Pairs, Record, SERVICE_NAME, SERVICE_VERSION, Severity, TimestampSource, Value};
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity as OtelSeverity};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{LogBatch, SdkLogRecord, SdkLogger, SdkLoggerProvider};
use prost::Message as _;

use crate::config::Schema;

/// Makes the payloads of exports.
#[derive(Debug)]
pub(super) struct Packer {
    /// Makes empty records. It has no processor and emits nothing.
    logger: SdkLogger,
    scope: InstrumentationScope,
    resource: Resource,
    wire_resource: ResourceAttributesWithSchema,
    timestamp: TimestampSource,
    schema: Schema,
}

impl Packer {
    /// Makes a packer. Its resource has the service and its instance, overridden by the operator's attributes.
    pub(super) fn new(
        instance_id: &str,
        operator: &[(String, String)],
        timestamp: TimestampSource,
        schema: Schema,
    ) -> Self {
        let own = [
            ("service.name", SERVICE_NAME),
            ("service.version", SERVICE_VERSION),
            ("service.instance.id", instance_id),
        ];
        let operator = operator.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        // A map, because a resource has each attribute once. The later value wins.
        let attributes: BTreeMap<&str, &str> = own.into_iter().chain(operator).collect();
        let resource = Resource::builder_empty()
            .with_attributes(
                attributes.into_iter().map(|(name, value)| KeyValue::new(name.to_owned(), value.to_owned())),
            )
            .build();
        Self {
            logger: SdkLoggerProvider::builder().build().logger(SERVICE_NAME),
            scope: InstrumentationScope::builder(SERVICE_NAME).with_version(SERVICE_VERSION).build(),
            wire_resource: (&resource).into(),
            resource,
            timestamp,
            schema,
        }
    }

    /// Returns the most bytes of a request without its records. It is the size of a request with one empty record. The
    /// eleven bytes of that record make up for the longer lengths around a large batch.
    pub(super) fn envelope(&self) -> usize {
        let mut nothing = self.logger.create_log_record();
        nothing.set_observed_timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(1));
        self.request(&LogBatch::new(&self.scoped(&[nothing]))).encoded_len()
    }

    /// Returns the resource.
    pub(super) fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Makes the SDK's records of entries.
    pub(super) fn records(&self, entries: &[Entry]) -> Vec<SdkLogRecord> {
        entries.iter().map(|entry| self.record(entry)).collect()
    }

    /// Pairs records with their scope, as [`LogBatch::new`] requires.
    pub(super) fn scoped<'a>(
        &'a self,
        records: &'a [SdkLogRecord],
    ) -> Vec<(&'a SdkLogRecord, &'a InstrumentationScope)> {
        records.iter().map(|record| (record, &self.scope)).collect()
    }

    /// Makes the request for a batch.
    pub(super) fn request(&self, batch: &LogBatch<'_>) -> ExportLogsServiceRequest {
        ExportLogsServiceRequest { resource_logs: group_logs_by_resource_and_scope(batch, &self.wire_resource) }
    }

    /// Makes the record of an entry, independent of the wire format.
    pub(super) fn made<'a>(&self, entry: &'a Entry) -> Record<'a> {
        let mut record = Record::of(entry, self.timestamp);
        if self.schema == Schema::Ocsf {
            record.body = ocsf::body(entry, &record);
        }
        record
    }

    fn record(&self, entry: &Entry) -> SdkLogRecord {
        let made = self.made(entry);
        let mut record = self.logger.create_log_record();
        if let Some(timestamp) = made.timestamp.and_then(system_time) {
            record.set_timestamp(timestamp);
        }
        // The conversion panics without an observed time.
        record.set_observed_timestamp(system_time(made.observed).unwrap_or(SystemTime::UNIX_EPOCH));
        record.set_event_name(made.event_name);
        record.set_severity_number(match made.severity {
            Severity::Info => OtelSeverity::Info,
            Severity::Warn => OtelSeverity::Warn,
            Severity::Error => OtelSeverity::Error,
        });
        record.set_severity_text(made.severity.as_str());
        record.set_body(any_value(made.body));
        record.add_attributes(made.attributes.into_iter().map(|(name, value)| (name, any_value(value))));
        record
    }
}

/// Converts a time if OTLP can carry it: nanoseconds since 1970 in 64 bits, up to the year 2554.
fn system_time(time: UnixMillis) -> Option<SystemTime> {
    let millis = u64::try_from(time.0).ok()?;
    millis.checked_mul(1_000_000)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

fn any_value(value: Value<'_>) -> AnyValue {
    match value {
        Value::Text(text) => AnyValue::from(text.into_owned()),
        Value::Integer(number) => AnyValue::Int(number),
        Value::Bool(truth) => AnyValue::Boolean(truth),
        Value::Texts(texts) => list(texts.iter().map(|text| AnyValue::from(*text))),
        Value::Map(pairs) => map(pairs),
        Value::Maps(maps) => list(maps.into_iter().map(map)),
    }
}

fn list(values: impl Iterator<Item = AnyValue>) -> AnyValue {
    AnyValue::ListAny(Box::new(values.collect()))
}

fn map(pairs: Pairs<'_>) -> AnyValue {
    let map: HashMap<_, _> = pairs.into_iter().map(|(name, value)| (name.into(), any_value(value))).collect();
    AnyValue::Map(Box::new(map))
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::fixtures::{bare_entry, full_entry};

    use super::*;
    use crate::sink::otlp::size;

    fn packed(packer: &Packer, entries: &[Entry]) -> ExportLogsServiceRequest {
        let records = packer.records(entries);
        packer.request(&LogBatch::new(&packer.scoped(&records)))
    }

    #[test]
    fn times_that_otlp_cannot_carry_are_absent_and_nothing_panics() {
        let packer = Packer::new("i", &[], TimestampSource::Event, Schema::Cognito);
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
            let request = packed(&packer, &[entry]);
            let record = &request.resource_logs[0].scope_logs[0].log_records[0];
            assert_eq!(record.time_unix_nano, nanos, "{millis}");
            assert_eq!(record.observed_time_unix_nano, nanos, "{millis}");
        }
    }

    /// Checks records with and without times, in both schemas, with lengths just below and above one more length byte.
    #[test]
    fn a_records_size_is_known_before_it_is_written() {
        for schema in [Schema::Cognito, Schema::Ocsf] {
            let packer = Packer::new("i", &[], TimestampSource::Event, schema);
            for (name, revision) in [(1, 0), (90, 1), (127, 127), (128, 128), (16_383, 70_000), (16_384, u32::MAX)] {
                let mut full = full_entry();
                full.revision = revision;
                full.event.context.as_mut().unwrap().device_name = Some("n".repeat(name));
                for entry in [full, bare_entry()] {
                    let without_time = if entry.event.creation_date.is_none() { 1 + 8 } else { 0 };
                    let record =
                        &packed(&packer, std::slice::from_ref(&entry)).resource_logs[0].scope_logs[0].log_records[0];
                    let written = prost::encoding::message::encoded_len(2, record);
                    assert_eq!(
                        size::record(&packer.made(&entry)),
                        written + without_time,
                        "{schema:?} {name} {revision}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_operators_resource_attributes_win() {
        let operator = [("service.name".to_owned(), "mine".to_owned()), ("cloud.region".to_owned(), "r".to_owned())];
        let packer = Packer::new("instance", &operator, TimestampSource::Event, Schema::Cognito);
        let request = packed(&packer, &[bare_entry()]);
        let resource = request.resource_logs[0].resource.as_ref().unwrap();
        let names: std::collections::BTreeSet<_> = resource.attributes.iter().map(|pair| pair.key.as_str()).collect();
        assert_eq!(
            names.into_iter().collect::<Vec<_>>(),
            ["cloud.region", "service.instance.id", "service.name", "service.version"]
        );
        let name = resource.attributes.iter().find(|pair| pair.key == "service.name").unwrap();
        assert_eq!(name.value, Some(AnyValue::from("mine").into()));
    }
}
