//! Computes the size of an encoded record without encoding it.
//!
//! It follows protobuf's encoding (<https://protobuf.dev/programming-guides/encoding/>) of
//! `opentelemetry/proto/logs/v1` and `common/v1`. A tag has one byte, because all field numbers are below 16. A nested
//! message has its length in front.

use cognito_auth_core::record::{Pairs, Record, Value};
use prost::length_delimiter_len;

/// The bytes of a time: a tag and 64 bits.
const FIXED64: usize = 1 + 8;

/// Returns the bytes that a record adds to a request, with its own tag and length. A record without times has up to 18
/// fewer.
pub(super) fn record(record: &Record<'_>) -> usize {
    let times = 2 * FIXED64;
    let severity = number(record.severity as i64) + nested(record.severity.as_str().len());
    nested(
        times + severity + nested(value(&record.body)) + repeated(&record.attributes) + nested(record.event_name.len()),
    )
}

/// Returns the size of a text or message of so many bytes, with tag and length.
fn nested(bytes: usize) -> usize {
    1 + length_delimiter_len(bytes) + bytes
}

fn number(number: i64) -> usize {
    1 + prost::encoding::encoded_len_varint(number.cast_unsigned())
}

/// Returns the size of a repeated KeyValue.
fn repeated(pairs: &Pairs<'_>) -> usize {
    pairs.iter().map(|(name, it)| nested(nested(name.len()) + nested(value(it)))).sum()
}

/// Returns the size of an AnyValue.
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
