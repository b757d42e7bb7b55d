//! How large a record is on the wire, without writing it.
//!
//! Protobuf's arithmetic (<https://protobuf.dev/programming-guides/encoding/>) over the fields of `opentelemetry/proto/logs/v1` and
//! `common/v1`: a tag of one byte, as all their numbers are below 16, and before whatever is nested its length.

use cognito_auth_core::record::{Pairs, Record, Value};
use prost::length_delimiter_len;

/// A tag and the 64 bits behind it, as times have.
const FIXED64: usize = 1 + 8;

/// Bytes that a record adds to a request, its own tag and length included, or up to 18 fewer: a time that is not there takes none.
pub(super) fn record(record: &Record<'_>) -> usize {
    let times = 2 * FIXED64;
    let severity = number(record.severity as i64) + nested(record.severity.as_str().len());
    nested(
        times + severity + nested(value(&record.body)) + repeated(&record.attributes) + nested(record.event_name.len()),
    )
}

/// A text, or a message, of so many bytes.
fn nested(bytes: usize) -> usize {
    1 + length_delimiter_len(bytes) + bytes
}

fn number(number: i64) -> usize {
    1 + prost::encoding::encoded_len_varint(number.cast_unsigned())
}

/// Repeated KeyValue.
fn repeated(pairs: &Pairs<'_>) -> usize {
    pairs.iter().map(|(name, it)| nested(nested(name.len()) + nested(value(it)))).sum()
}

/// An AnyValue.
fn value(it: &Value<'_>) -> usize {
    match it {
        Value::Text(text) => nested(text.len()),
        Value::Integer(it) => number(*it),
        Value::Bool(it) => number((*it).into()),
        Value::Texts(texts) => nested(texts.iter().map(|text| nested(nested(text.len()))).sum()),
        Value::Map(pairs) => nested(repeated(pairs)),
        Value::Maps(maps) => nested(maps.iter().map(|pairs| nested(nested(repeated(pairs)))).sum()),
    }
}
