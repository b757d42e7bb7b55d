//! Reads a document: inflates it, takes its JSON values apart, and opens the wrapper of a subscription.

use std::io::Read as _;

use super::json::Json;
use super::{DecodedDocument, UnreadableReason, UnreadableRecord, record};
use flate2::read::MultiGzDecoder;

/// The first bytes of gzip (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Reads every record of a document: a log event's message, or the data of a Firehose record. A document in gzip may
/// inflate to `inflated_bytes_max`.
///
/// A record that cannot be read is in [`DecodedDocument::unreadable`], with its bytes. The others are not affected.
pub fn decode(document: &[u8], inflated_bytes_max: usize) -> DecodedDocument {
    decode_measured(document, inflated_bytes_max).0
}

/// Does the same as [`decode`], and also returns the number of bytes that were read, after inflation. By it a caller
/// bounds what the documents of a request may inflate to together.
pub fn decode_measured(document: &[u8], inflated_bytes_max: usize) -> (DecodedDocument, usize) {
    let mut decoded = DecodedDocument::default();
    if !document.starts_with(&GZIP) {
        decoded.take_values(document, Depth::Document);
        return (decoded, document.len());
    }
    let bytes = match inflate(document, inflated_bytes_max) {
        Ok(inflated) => {
            decoded.take_values(&inflated, Depth::Document);
            inflated.len()
        }
        Err(reason) => {
            decoded.take_unreadable(document, None, reason);
            inflated_bytes_max
        }
    };
    (decoded, bytes)
}

fn inflate(document: &[u8], limit: usize) -> Result<Vec<u8>, UnreadableReason> {
    let mut inflated = Vec::new();
    let bytes_max = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let read = MultiGzDecoder::new(document).take(bytes_max).read_to_end(&mut inflated);
    if inflated.len() > limit {
        return Err(UnreadableReason::TooLarge { limit });
    }
    read.map_err(|_| UnreadableReason::Gzip)?;
    Ok(inflated)
}

/// Where a value stands. A wrapper inside a wrapper is no record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Document,
    Message,
}

impl DecodedDocument {
    /// Takes concatenated JSON values. After bytes that are not JSON it goes on at the next line that begins with an
    /// object, so that they cost themselves only.
    fn take_values(&mut self, bytes: &[u8], depth: Depth) {
        let mut rest = bytes;
        while !rest.trim_ascii_start().is_empty() {
            rest = rest.trim_ascii_start();
            let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Json<'_>>();
            let end = match values.next() {
                Some(Ok(value)) => {
                    let end = values.byte_offset();
                    self.take_value(&value, rest.get(..end).unwrap_or(rest), depth);
                    end
                }
                _ => {
                    let end = next_object(rest);
                    let bytes = rest.get(..end).unwrap_or(rest);
                    self.take_unreadable(bytes.trim_ascii_end(), None, UnreadableReason::NotJson);
                    end
                }
            };
            rest = rest.get(end..).unwrap_or_default();
        }
    }

    fn take_value(&mut self, value: &Json<'_>, bytes: &[u8], depth: Depth) {
        match value.get("messageType").and_then(Json::as_text) {
            Some("CONTROL_MESSAGE") => self.ignored += 1,
            Some("DATA_MESSAGE") if depth == Depth::Document => self.take_log_events(value, bytes),
            _ => match record::read(value) {
                Ok(Some(event)) => self.events.push(event),
                Ok(None) => self.ignored += 1,
                Err((pool_id, reason)) => self.take_unreadable(bytes, pool_id, reason),
            },
        }
    }

    /// Takes the messages of a CloudWatch Logs subscription.
    fn take_log_events(&mut self, wrapper: &Json<'_>, bytes: &[u8]) {
        let Some(log_events) = wrapper.get("logEvents").and_then(Json::as_array) else {
            return self.take_unreadable(bytes, None, UnreadableReason::Absent("logEvents"));
        };
        for log_event in log_events {
            match log_event.get("message").and_then(Json::as_text) {
                Some(message) => self.take_values(message.as_bytes(), Depth::Message),
                None => {
                    let bytes = log_event.to_value().to_string().into_bytes();
                    self.take_unreadable(&bytes, None, UnreadableReason::Absent("logEvents.message"));
                }
            }
        }
    }

    fn take_unreadable(&mut self, bytes: &[u8], pool_id: Option<String>, reason: UnreadableReason) {
        self.unreadable.push(UnreadableRecord { bytes: bytes.to_vec(), pool_id, reason });
    }
}

/// The position of the next line that begins with an object, or the end.
fn next_object(bytes: &[u8]) -> usize {
    bytes.windows(2).position(|pair| pair == b"\n{").map_or(bytes.len(), |newline| newline + 1)
}
