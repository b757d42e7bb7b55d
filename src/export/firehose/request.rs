//! A request of Firehose: the rules for its head, and the reading of its body as it arrives.

use std::io::Write as _;

use flate2::write::MultiGzDecoder;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, Method, request};

use super::answer::{InvalidRequest, request_id};
use super::record_batch::RecordBatch;
use super::record_splitter::RecordSplitter;

/// The header that holds the version of the protocol, and the only version that there is.
const PROTOCOL_VERSION: (&str, &str) = ("x-amz-firehose-protocol-version", "1.0");

/// Maximum number of records of a request, by Firehose's contract.
pub(super) const RECORDS_MAX: usize = 10_000;

/// Maximum size of a record in bytes, before base64, by Firehose's contract.
pub(super) const RECORD_BYTES_MAX: usize = 1_024_000;

/// Maximum size of a request's records in bytes, before base64, by Firehose's contract.
pub(super) const RECORDS_BYTES_MAX: usize = 64 << 20;

/// Maximum size of a body in bytes, as it arrives and also inflated. The records have 64 MiB, of which base64 makes
/// 85.4 MiB. The rest is 270 bytes of JSON for each of 10,000 records.
pub(super) const BODY_BYTES_MAX: usize = 88 << 20;

/// Maximum size of a piece that is read at once, in bytes: a connection's buffer.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// The same for a body in gzip. A kilobyte inflates to a megabyte at most.
const GZIP_PIECE_BYTES_MAX: usize = 1 << 10;

/// The head of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RequestHead<'a> {
    request_id: &'a str,
    is_gzip: bool,
}

impl<'a> RequestHead<'a> {
    /// Reads the head of a request.
    ///
    /// # Errors
    /// The request is none of Firehose, or none that this version understands.
    pub(super) fn read(parts: &'a request::Parts) -> Result<Self, InvalidRequest> {
        if parts.method != Method::POST {
            return Err(InvalidRequest::Method);
        }
        let request_id = request_id(&parts.headers).ok_or(InvalidRequest::NoRequestId)?;
        let (header, version) = PROTOCOL_VERSION;
        if parts.headers.get(header).is_none_or(|value| value != version) {
            return Err(InvalidRequest::Version);
        }
        Ok(Self { request_id, is_gzip: is_gzip(&parts.headers)? })
    }
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, InvalidRequest> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(false) };
    let is = |name: &str| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(name.as_bytes());
    match (is("gzip"), is("identity"), codings.next()) {
        (true, _, None) => Ok(true),
        (_, true, None) => Ok(false),
        _ => Err(InvalidRequest::Encoding),
    }
}

/// Reads the body of a request. Holds one batch of its records.
pub(super) struct RequestReader {
    /// The decoder of a body in gzip, with the bytes that it has inflated.
    gzip: Option<MultiGzDecoder<Vec<u8>>>,
    splitter: RecordSplitter,
    records: RecordCounts,
    body_bytes: usize,
    inflated_bytes: usize,
}

/// The records that were read: those of the batch, and how many there were before.
#[derive(Default)]
struct RecordCounts {
    batch: RecordBatch,
    records: usize,
    bytes: usize,
}

impl RequestReader {
    pub(super) fn new(head: RequestHead<'_>) -> Self {
        Self {
            gzip: head.is_gzip.then(|| MultiGzDecoder::new(Vec::new())),
            splitter: RecordSplitter::new(head.request_id),
            records: RecordCounts::default(),
            body_bytes: 0,
            inflated_bytes: 0,
        }
    }

    /// Returns the maximum size of a piece, in bytes.
    pub(super) fn piece_bytes_max(&self) -> usize {
        if self.gzip.is_some() { GZIP_PIECE_BYTES_MAX } else { PIECE_BYTES_MAX }
    }

    /// Reads the next piece of the body.
    ///
    /// # Errors
    /// The body is malformed or oversized.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), InvalidRequest> {
        self.body_bytes += piece.len();
        if self.body_bytes > BODY_BYTES_MAX {
            return Err(InvalidRequest::BodyTooLarge);
        }
        match &mut self.gzip {
            None => self.splitter.push(piece, |data| self.records.add(data)),
            Some(gzip) => {
                gzip.write_all(piece).map_err(|_| InvalidRequest::Gzip)?;
                let inflated = std::mem::take(gzip.get_mut());
                self.push_inflated(&inflated)
            }
        }
    }

    fn push_inflated(&mut self, inflated: &[u8]) -> Result<(), InvalidRequest> {
        self.inflated_bytes += inflated.len();
        if self.inflated_bytes > BODY_BYTES_MAX {
            return Err(InvalidRequest::BodyTooLarge);
        }
        self.splitter.push(inflated, |data| self.records.add(data))
    }

    /// Returns the size of the batch's records, in bytes.
    pub(super) fn batch_bytes(&self) -> usize {
        self.records.batch.bytes()
    }

    /// Returns the batch, and begins another.
    pub(super) fn take_batch(&mut self) -> RecordBatch {
        std::mem::take(&mut self.records.batch)
    }

    /// Ends the body, and returns the last batch.
    ///
    /// # Errors
    /// The body is malformed or has not ended.
    pub(super) fn finish(mut self) -> Result<RecordBatch, InvalidRequest> {
        if let Some(gzip) = self.gzip.take() {
            let inflated = gzip.finish().map_err(|_| InvalidRequest::Gzip)?;
            self.push_inflated(&inflated)?;
        }
        self.splitter.finish()?;
        Ok(self.records.batch)
    }
}

impl RecordCounts {
    fn add(&mut self, data: &str) -> Result<(), InvalidRequest> {
        if self.records == RECORDS_MAX {
            return Err(InvalidRequest::TooManyRecords);
        }
        self.records += 1;
        let bytes = self.batch.add(data);
        self.bytes += bytes;
        if bytes > RECORD_BYTES_MAX {
            return Err(InvalidRequest::RecordTooLarge);
        }
        if self.bytes > RECORDS_BYTES_MAX { Err(InvalidRequest::RecordsTooLarge) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn parts(method: Method, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const ID: (&str, &str) = ("X-Amz-Firehose-Request-Id", "an id");
    const VERSION: (&str, &str) = ("X-Amz-Firehose-Protocol-Version", "1.0");
    const HEAD: RequestHead<'_> = RequestHead { request_id: "an id", is_gzip: false };

    #[test]
    fn a_head_says_what_the_contract_asks_for() {
        let long = "x".repeat(257);
        for (method, headers, read) in [
            (Method::POST, &[ID, VERSION][..], Ok(HEAD)),
            (Method::POST, &[ID, VERSION, ("Content-Encoding", "identity")], Ok(HEAD)),
            (Method::POST, &[ID, VERSION, ("Content-Encoding", "GZip")], Ok(RequestHead { is_gzip: true, ..HEAD })),
            (Method::POST, &[ID, VERSION, ("Content-Encoding", "br")], Err(InvalidRequest::Encoding)),
            (Method::POST, &[ID, VERSION, ("Content-Encoding", "gzip, gzip")], Err(InvalidRequest::Encoding)),
            (Method::POST, &[VERSION], Err(InvalidRequest::NoRequestId)),
            (Method::POST, &[ID, ID, VERSION], Err(InvalidRequest::NoRequestId)),
            (Method::POST, &[(ID.0, ""), VERSION], Err(InvalidRequest::NoRequestId)),
            (Method::POST, &[(ID.0, &long), VERSION], Err(InvalidRequest::NoRequestId)),
            (Method::POST, &[ID], Err(InvalidRequest::Version)),
            (Method::POST, &[ID, (VERSION.0, "2.0")], Err(InvalidRequest::Version)),
            (Method::GET, &[ID, VERSION], Err(InvalidRequest::Method)),
        ] {
            assert_eq!(RequestHead::read(&parts(method, headers)), read, "{headers:?}");
        }
    }

    /// A body with these records.
    fn body<'a>(records: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
        let records: Vec<String> = records.into_iter().map(|data| format!("{{\"data\":\"{data}\"}}")).collect();
        format!("{{\"requestId\":\"an id\",\"timestamp\":1,\"records\":[{}]}}", records.join(",")).into_bytes()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Reads a body to its end. Returns the number of its records.
    fn read(head: RequestHead<'_>, body: &[u8]) -> Result<usize, InvalidRequest> {
        read_on(RequestReader::new(head), body)
    }

    /// Reads the rest of a body, after what the reader has counted.
    fn read_on(mut reader: RequestReader, body: &[u8]) -> Result<usize, InvalidRequest> {
        let count = |mut batch: RecordBatch| batch.decode(usize::MAX, 0, &mut 0).len();
        let mut records = 0;
        for piece in body.chunks(reader.piece_bytes_max()) {
            reader.push(piece)?;
            records += count(reader.take_batch());
        }
        Ok(records + count(reader.finish()?))
    }

    #[test]
    fn limits_are_those_of_the_contract_and_no_byte_less() {
        let largest = STANDARD.encode(vec![b' '; RECORD_BYTES_MAX]);
        let larger = STANDARD.encode(vec![b' '; RECORD_BYTES_MAX + 1]);
        assert_eq!(read(HEAD, &body([&*largest])), Ok(1));
        assert_eq!(read(HEAD, &body([&*larger])), Err(InvalidRequest::RecordTooLarge));
        let damaged = largest.replacen('I', "%", 1);
        assert_eq!(read(HEAD, &body([&*damaged, "IA=="])), Ok(2), "damage costs nothing but the record");
        assert_eq!(read(HEAD, &body(std::iter::repeat_n("IA==", RECORDS_MAX))), Ok(RECORDS_MAX));
        let more = body(std::iter::repeat_n("IA==", RECORDS_MAX + 1));
        assert_eq!(read(HEAD, &more), Err(InvalidRequest::TooManyRecords));
        let after = |bytes| {
            let mut reader = RequestReader::new(HEAD);
            reader.records.bytes = bytes;
            read_on(reader, &body([&*largest]))
        };
        assert_eq!(after(RECORDS_BYTES_MAX - RECORD_BYTES_MAX), Ok(1));
        assert_eq!(after(RECORDS_BYTES_MAX - RECORD_BYTES_MAX + 1), Err(InvalidRequest::RecordsTooLarge));
    }

    #[test]
    fn the_largest_delivery_of_many_records_fits_into_the_largest_body() {
        let data = STANDARD.encode(vec![b' '; RECORDS_BYTES_MAX / RECORDS_MAX]);
        let record = format!("    {{\n      \"data\": \"{data}\"\n    }}");
        let records = vec![record; RECORDS_MAX].join(",\n");
        let pretty = format!("{{\n  \"requestId\": \"an id\",\n  \"records\": [\n{records}\n  ]\n}}\n");
        assert!(pretty.len() < BODY_BYTES_MAX, "{} bytes", pretty.len());
    }

    #[test]
    fn gzip_is_inflated_piece_by_piece_up_to_the_limit() {
        let head = RequestHead { is_gzip: true, ..HEAD };
        let json = body(["IA==", "IA=="]);
        let compressed = gzip(&json);
        assert_eq!(read(head, &compressed), Ok(2));
        let (one, other) = json.split_at(30);
        assert_eq!(read(head, &[gzip(one), gzip(other)].concat()), Ok(2), "two members");
        for damaged in [&compressed[..compressed.len() - 1], &compressed[..5], &json, b""] {
            assert_eq!(read(head, damaged), Err(InvalidRequest::Gzip));
        }
    }

    #[test]
    fn a_body_is_bounded_as_it_arrives_and_inflated() {
        let (json, head) = (body(["IA=="]), RequestHead { is_gzip: true, ..HEAD });
        let (compressed, all_but) = (gzip(&json), |bytes: &[u8]| BODY_BYTES_MAX - bytes.len());
        for (more, read) in [(0, Ok(1)), (1, Err(InvalidRequest::BodyTooLarge))] {
            let reader = RequestReader { body_bytes: all_but(&json) + more, ..RequestReader::new(HEAD) };
            assert_eq!(read_on(reader, &json), read);
            let reader = RequestReader { body_bytes: all_but(&compressed) + more, ..RequestReader::new(head) };
            assert_eq!(read_on(reader, &compressed), read);
            let reader = RequestReader { inflated_bytes: all_but(&json) + more, ..RequestReader::new(head) };
            assert_eq!(read_on(reader, &compressed), read);
        }
        let bomb = gzip(&vec![b' '; 4 << 20]);
        let most = bomb.chunks(GZIP_PIECE_BYTES_MAX).fold(RequestReader::new(head), |mut reader, piece| {
            let before = reader.inflated_bytes;
            reader.push(piece).unwrap();
            assert!(reader.inflated_bytes - before < 2 << 20, "a piece inflates to a megabyte");
            reader
        });
        assert!(most.inflated_bytes > 3 << 20);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(is_gzip: bool, bytes: Vec<u8>) {
            let head = RequestHead { is_gzip, ..HEAD };
            prop_assert!(read(head, &bytes).is_err());
            prop_assert!(read(head, &gzip(&bytes)).is_err());
        }
    }
}
