//! A batch of records as they came in base64, and their decoding.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cognito_auth_core::export::{DecodedDocument, UnreadableReason, UnreadableRecord, decode_measured};

use super::request::RECORD_BYTES_MAX;

/// Records that wait for decoding.
#[derive(Default)]
pub(super) struct RecordBatch {
    records: VecDeque<RawRecord>,
    bytes: usize,
}

/// The data of a record.
enum RawRecord {
    /// A document for the decoder.
    Document(Vec<u8>),
    /// A text that is no base64. The record is unreadable, and the others are not affected.
    NotBase64(Vec<u8>),
}

impl RecordBatch {
    /// Adds a record in base64. Returns its size in bytes, before base64.
    pub(super) fn add(&mut self, data: &str) -> usize {
        if let Ok(document) = STANDARD.decode(data) {
            let bytes = document.len();
            self.bytes += bytes;
            self.records.push_back(RawRecord::Document(document));
            return bytes;
        }
        self.bytes += data.len();
        self.records.push_back(RawRecord::NotBase64(data.as_bytes().to_vec()));
        // Damage must not make the largest record too large, which would cost the others.
        (data.len() / 4 * 3).min(RECORD_BYTES_MAX)
    }

    /// Returns whether no record is left.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the size of the records that were added, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Decodes records, in their order, until they have `bytes_max` bytes after inflation or none is left. One document
    /// may inflate to `document_bytes_max`, and all together to `inflated_bytes_left`, which this reduces.
    pub(super) fn decode(
        &mut self,
        bytes_max: usize,
        document_bytes_max: usize,
        inflated_bytes_left: &mut usize,
    ) -> Vec<DecodedDocument> {
        let (mut documents, mut decoded_bytes) = (Vec::new(), 0);
        while decoded_bytes < bytes_max
            && let Some(record) = self.records.pop_front()
        {
            let document = match record {
                RawRecord::Document(document) => {
                    let limit = document_bytes_max.min(*inflated_bytes_left);
                    let (decoded, bytes) = decode_measured(&document, limit);
                    *inflated_bytes_left = inflated_bytes_left.saturating_sub(bytes);
                    decoded_bytes += bytes;
                    decoded
                }
                RawRecord::NotBase64(bytes) => {
                    decoded_bytes += bytes.len();
                    let record = UnreadableRecord { bytes, pool_id: None, reason: UnreadableReason::Base64 };
                    DecodedDocument { unreadable: vec![record], ..DecodedDocument::default() }
                }
            };
            documents.push(document);
        }
        documents
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_is_no_base64_is_unreadable_as_it_came_and_the_rest_is_not_affected() {
        let mut batch = RecordBatch::default();
        let bytes: usize = ["eyJ4Ijox", "%%%", "eyJ4IjoxfQ", ""].iter().map(|data| batch.add(data)).sum();
        assert_eq!((bytes, batch.bytes()), (6 + 6, 6 + 3 + 10));
        let documents = batch.decode(usize::MAX, 100, &mut 100);
        let unreadable: Vec<_> = documents.iter().flat_map(|document| &document.unreadable).collect();
        let shown: Vec<_> = unreadable.iter().map(|record| (&*record.bytes, record.reason.clone())).collect();
        assert_eq!(
            shown,
            [
                (&b"{\"x\":1"[..], UnreadableReason::NotJson),
                (b"%%%", UnreadableReason::Base64),
                (b"eyJ4IjoxfQ", UnreadableReason::Base64),
            ]
        );
        assert!(batch.is_empty());
    }

    #[test]
    fn records_that_inflate_are_decoded_in_parts_and_within_the_limit_of_all() {
        let mut batch = RecordBatch::default();
        let control = format!("{{\"messageType\":\"CONTROL_MESSAGE\",\"x\":\"{}\"}}", "x".repeat(960));
        let data = STANDARD.encode(gzip(control.as_bytes()));
        (0..10).for_each(|_| {
            batch.add(&data);
        });
        let (mut left, mut ignored, mut too_large, mut parts) = (5 * control.len() + 10, 0, 0, 0);
        while !batch.is_empty() {
            let documents = batch.decode(2 * control.len(), 2 * control.len(), &mut left);
            ignored += documents.iter().map(|document| document.ignored).sum::<usize>();
            too_large += documents.iter().map(|document| document.unreadable.len()).sum::<usize>();
            parts += 1;
        }
        assert_eq!((ignored, too_large), (5, 5));
        assert!(parts >= 3, "{parts}");
    }
}
