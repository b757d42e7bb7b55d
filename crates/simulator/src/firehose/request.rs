//! A request of a Firehose stream to its endpoint, and what an answer means.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cognito_auth_core::event::UnixMillis;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::FirehoseSettings;

/// The largest answer that is read, in bytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The form of a Firehose record's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordForm {
    /// One exported record: Cognito writes to the stream.
    Single,
    /// Up to this many exported records one after another, without a separator.
    Concatenated(usize),
    /// Up to this many exported records as the log events of a CloudWatch Logs subscription, in gzip.
    Subscription(usize),
}

/// A request.
#[derive(Debug)]
pub(crate) struct DeliveryRequest {
    pub(crate) id: String,
    /// The names and values of the headers, without those that HTTP itself needs.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

/// The meaning of an answer to the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EndpointAnswer {
    /// A success.
    Accepted,
    /// Status 413, which is final.
    TooLarge,
    /// Anything else. It is retried.
    NotAccepted { status: Option<u16>, fault: String },
}

impl EndpointAnswer {
    /// No answer at all.
    pub(crate) fn none(fault: impl Into<String>) -> Self {
        Self::NotAccepted { status: None, fault: fault.into() }
    }

    /// Reads an answer to the request `id`. `header` finds a header by its lower-case name.
    pub(crate) fn read<'a>(id: &str, status: u16, header: impl Fn(&str) -> Option<&'a str>, body: &[u8]) -> Self {
        match status {
            200 => match fault_of_success(id, header, body) {
                None => Self::Accepted,
                Some(fault) => Self::NotAccepted { status: Some(200), fault },
            },
            413 => Self::TooLarge,
            status => {
                let message = serde_json::from_slice::<Value>(body).ok();
                let message = message.and_then(|body| Some(body.get("errorMessage")?.as_str()?.to_owned()));
                Self::NotAccepted { status: Some(status), fault: message.unwrap_or_else(|| format!("status {status}")) }
            }
        }
    }
}

/// Why an answer with status 200 is no success; None if it is one.
fn fault_of_success<'a>(id: &str, header: impl Fn(&str) -> Option<&'a str>, body: &[u8]) -> Option<String> {
    let media_type = header("content-type").and_then(|value| value.split(';').next()).map(str::trim);
    if !media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json")) {
        return Some(format!("Content-Type is {media_type:?}"));
    }
    if let Some(encoding) = header("content-encoding") {
        return Some(format!("Content-Encoding is {encoding}"));
    }
    if header("content-length") != Some(&body.len().to_string()) {
        return Some("Content-Length is absent or wrong".to_owned());
    }
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return Some("the body is not JSON".to_owned());
    };
    if answer.get("requestId").and_then(Value::as_str) != Some(id) {
        return Some("requestId is not that of the request".to_owned());
    }
    if answer.get("timestamp").and_then(Value::as_u64).is_none() {
        return Some("timestamp is not a number of milliseconds".to_owned());
    }
    None
}

impl DeliveryRequest {
    /// Makes the request of the stream `arn` that delivers `records`.
    pub(crate) fn new(
        settings: &FirehoseSettings,
        arn: String,
        id: String,
        records: &[String],
        now: UnixMillis,
    ) -> Self {
        let data = data(records, settings.form, now);
        let records: Vec<_> = data.iter().map(|data| json!({ "data": STANDARD.encode(data) })).collect();
        let body = json!({ "requestId": id, "timestamp": now.0, "records": records }).to_string().into_bytes();
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("user-agent", "Amazon Kinesis Data Firehose Agent/1.0".to_owned()),
            ("x-amz-firehose-protocol-version", "1.0".to_owned()),
            ("x-amz-firehose-request-id", id.clone()),
            ("x-amz-firehose-source-arn", arn),
            ("x-amz-firehose-access-key", settings.access_key.clone()),
        ];
        if let Some(attributes) = &settings.common_attributes {
            headers.push(("x-amz-firehose-common-attributes", attributes.clone()));
        }
        if settings.gzip {
            headers.push(("content-encoding", "gzip".to_owned()));
        }
        Self { id, headers, body: if settings.gzip { compressed(&body) } else { body } }
    }
}

/// The data of the Firehose records that hold these exported records.
fn data(records: &[String], form: RecordForm, now: UnixMillis) -> Vec<Vec<u8>> {
    match form {
        RecordForm::Single => records.iter().map(|record| record.clone().into_bytes()).collect(),
        RecordForm::Concatenated(count) => {
            records.chunks(count.max(1)).map(|records| records.concat().into_bytes()).collect()
        }
        RecordForm::Subscription(count) => records
            .chunks(count.max(1))
            .map(|records| {
                let log_events = records.iter().enumerate().map(
                    |(index, record)| json!({ "id": format!("{index:056}"), "timestamp": now.0, "message": record }),
                );
                let wrapper = json!({
                    "messageType": "DATA_MESSAGE",
                    "owner": "111122223333",
                    "logGroup": "/aws/vendedlogs/cognito",
                    "logStream": "cognito",
                    "subscriptionFilters": ["to-firehose"],
                    "logEvents": log_events.collect::<Vec<_>>(),
                });
                compressed(wrapper.to_string().as_bytes())
            })
            .collect(),
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to a Vec cannot fail")
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::export::decode;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_750_000_000_000);

    fn answer(status: u16, headers: &[(&str, &'static str)], body: &str) -> EndpointAnswer {
        let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        EndpointAnswer::read("id-1", status, header, body.as_bytes())
    }

    #[test]
    fn a_success_is_exactly_what_the_documentation_says() {
        let body = r#"{"requestId":"id-1","timestamp":1578090903599}"#;
        let headers = [("content-type", "application/json"), ("content-length", "46")];
        assert_eq!(answer(200, &headers, body), EndpointAnswer::Accepted);
        let refused = |headers: &[(&str, &'static str)], body: &str| {
            let answer = answer(200, headers, body);
            assert!(matches!(answer, EndpointAnswer::NotAccepted { status: Some(200), .. }), "{answer:?}");
        };
        refused(&headers[..1], body);
        refused(&headers[1..], body);
        refused(&[("content-type", "text/plain"), headers[1]], body);
        refused(&[headers[0], headers[1], ("content-encoding", "gzip")], body);
        refused(&headers, &body.replace("id-1", "id-2"));
        refused(&headers, &body.replace("1578090903599", "\"578090903599"));
        refused(&[headers[0], ("content-length", "2")], "{}");
        assert_eq!(answer(413, &[], ""), EndpointAnswer::TooLarge);
        assert_eq!(
            answer(503, &[], r#"{"errorMessage":"busy"}"#),
            EndpointAnswer::NotAccepted { status: Some(503), fault: "busy".into() }
        );
        assert_eq!(
            answer(201, &headers, body),
            EndpointAnswer::NotAccepted { status: Some(201), fault: "status 201".into() }
        );
    }

    #[test]
    fn the_data_of_every_form_holds_every_record() {
        let record = |number: u32| json!({"message": {"eventId": number}}).to_string();
        let records: Vec<_> = (0..5).map(record).collect();
        for (form, expected) in
            [(RecordForm::Single, 5), (RecordForm::Concatenated(2), 3), (RecordForm::Subscription(3), 2)]
        {
            let data = data(&records, form, NOW);
            assert_eq!(data.len(), expected);
            let read: usize = data.iter().map(|data| decode(data, 1 << 20).unreadable.len()).sum();
            assert_eq!(read, 5, "{form:?}");
        }
    }
}
