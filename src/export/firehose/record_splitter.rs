//! Takes the records out of a request's JSON while it arrives, without holding it.
//!
//! ```text
//! {"requestId": "ed4a..", "timestamp": 1578, "records": [ {"data": "eyJl.."}, {"data": "eyJl.."} ]}
//! '------------------------------------------------------ '---- record ----'  '---- record ----' -'
//!  skeleton: {"requestId": "ed4a..", "timestamp": 1578, "records": [ {}, {} ]}
//! ```
//!
//! The splitter follows texts, objects and arrays, and understands nothing else of JSON. serde_json reads each record,
//! and at the end the skeleton. So everything is checked, and only a record and the skeleton are held.

use std::borrow::Cow;

use serde::Deserialize;

use super::answer::InvalidRequest;

/// Maximum size of a record's JSON: the base64 of 1,024,000 bytes, and 200,000 bytes for escapes and other members.
const RECORD_JSON_BYTES_MAX: usize = 3 << 19;

/// Maximum size of the skeleton: 6 bytes for each of 10,000 records, and 64 KiB for other members.
const SKELETON_BYTES_MAX: usize = 128 << 10;

/// Splits the JSON of one request.
pub(super) struct RecordSplitter {
    /// The id that the request has to have.
    request_id: String,
    /// The JSON outside the records. Each record is `{}`, and white space is one space.
    skeleton: Vec<u8>,
    /// The record that is being read.
    record: Vec<u8>,
    /// The number of records that have begun.
    records: usize,
    /// The number of open objects and arrays.
    depth: usize,
    position: JsonPosition,
    text: TextPosition,
}

/// Where the next byte stands, as to records.
#[derive(Clone, Copy, PartialEq, Eq)]
enum JsonPosition {
    Outside,
    /// In the array `records`, between records.
    InRecords,
    InRecord,
}

/// Where the next byte stands, as to a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TextPosition {
    Outside,
    Inside,
    /// Behind a backslash.
    Escaped,
}

/// A record. Other members than these are ignored.
#[derive(Deserialize)]
struct FirehoseRecord<'a> {
    #[serde(borrow)]
    data: Cow<'a, str>,
}

/// The skeleton at the end.
#[derive(Deserialize)]
struct Skeleton<'a> {
    #[serde(borrow, rename = "requestId")]
    request_id: Cow<'a, str>,
    records: Vec<RecordPlace>,
}

/// The skeleton when the records begin.
#[derive(Deserialize)]
struct SkeletonStart<'a> {
    #[serde(borrow, rename = "requestId")]
    request_id: Option<Cow<'a, str>>,
}

/// The place of a record in the skeleton.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordPlace {}

impl RecordSplitter {
    /// Makes a splitter for a request that has to have this id.
    pub(super) fn new(request_id: &str) -> Self {
        Self {
            request_id: request_id.to_owned(),
            skeleton: Vec::new(),
            record: Vec::new(),
            records: 0,
            depth: 0,
            position: JsonPosition::Outside,
            text: TextPosition::Outside,
        }
    }

    /// Takes the next bytes of the JSON. Calls `each` with the data of each record that they complete.
    ///
    /// # Errors
    /// The JSON is no delivery or is too large, or `each` failed.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&str) -> Result<(), InvalidRequest>,
    ) -> Result<(), InvalidRequest> {
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            let length = match self.text {
                TextPosition::Escaped => {
                    self.text = TextPosition::Inside;
                    1
                }
                TextPosition::Inside => match end_of_text(rest) {
                    Some(place) => {
                        let is_end = rest.get(place) == Some(&b'"');
                        self.text = if is_end { TextPosition::Outside } else { TextPosition::Escaped };
                        place + 1
                    }
                    None => rest.len(),
                },
                TextPosition::Outside if is_space(*first) => {
                    let spaces = rest.iter().take_while(|byte| is_space(**byte)).count();
                    rest = rest.get(spaces..).unwrap_or_default();
                    if self.held().last() != Some(&b' ') {
                        self.hold(b" ")?;
                    }
                    continue;
                }
                TextPosition::Outside if is_bracket(*first) => {
                    rest = rest.get(1..).unwrap_or_default();
                    self.take_bracket(*first, &mut each)?;
                    continue;
                }
                TextPosition::Outside => {
                    rest.iter().take_while(|byte| !is_space(**byte) && !is_bracket(**byte)).count()
                }
            };
            let (piece, behind) = rest.split_at(length);
            self.hold(piece)?;
            rest = behind;
        }
        Ok(())
    }

    /// Takes a byte outside texts that begins or ends something.
    fn take_bracket(
        &mut self,
        byte: u8,
        each: &mut impl FnMut(&str) -> Result<(), InvalidRequest>,
    ) -> Result<(), InvalidRequest> {
        match byte {
            b'"' => self.text = TextPosition::Inside,
            b'{' if self.position == JsonPosition::InRecords && self.depth == 2 => {
                self.hold(b"{}")?;
                self.position = JsonPosition::InRecord;
                self.records += 1;
                self.record.clear();
                self.depth += 1;
            }
            b'[' if self.position == JsonPosition::Outside && self.depth == 1 && self.is_behind_records() => {
                self.hold(b"[")?;
                self.check_start()?;
                self.position = JsonPosition::InRecords;
                self.depth += 1;
                return Ok(());
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.checked_sub(1).ok_or(InvalidRequest::NoDelivery)?;
                if self.depth == 2 && self.position == JsonPosition::InRecord {
                    self.hold(&[byte])?;
                    self.position = JsonPosition::InRecords;
                    let record: FirehoseRecord<'_> =
                        serde_json::from_slice(&self.record).map_err(|_| InvalidRequest::NoDelivery)?;
                    return each(&record.data);
                }
                if self.depth == 1 && self.position == JsonPosition::InRecords {
                    self.position = JsonPosition::Outside;
                }
            }
            _ => {}
        }
        self.hold(&[byte])
    }

    /// Checks what stood outside the records.
    ///
    /// # Errors
    /// The JSON is no delivery, or has another request id.
    pub(super) fn finish(self) -> Result<(), InvalidRequest> {
        // serde would also read an array as a structure.
        if !self.skeleton.trim_ascii_start().starts_with(b"{") {
            return Err(InvalidRequest::NoDelivery);
        }
        let skeleton: Skeleton<'_> = serde_json::from_slice(&self.skeleton).map_err(|_| InvalidRequest::NoDelivery)?;
        if skeleton.records.len() != self.records {
            return Err(InvalidRequest::NoDelivery);
        }
        if skeleton.request_id != self.request_id { Err(InvalidRequest::OtherRequestId) } else { Ok(()) }
    }

    /// Checks what stands before the records, so that a request of another id is refused before records are taken.
    fn check_start(&self) -> Result<(), InvalidRequest> {
        let start = [&self.skeleton, &b"]}"[..]].concat();
        let start: SkeletonStart<'_> = serde_json::from_slice(&start).map_err(|_| InvalidRequest::NoDelivery)?;
        match start.request_id {
            Some(id) if id != self.request_id => Err(InvalidRequest::OtherRequestId),
            _ => Ok(()),
        }
    }

    /// Returns whether the skeleton ends with the key `records` and a colon.
    fn is_behind_records(&self) -> bool {
        let key = self.skeleton.trim_ascii_end().strip_suffix(b":");
        let before = key.and_then(|key| key.trim_ascii_end().strip_suffix(b"\"records\""));
        // A backslash before the first quotation mark would make it a part of a longer key.
        before.and_then(<[u8]>::last).is_some_and(|last| matches!(last, b'{' | b',' | b' '))
    }

    fn held(&self) -> &[u8] {
        if self.position == JsonPosition::InRecord { &self.record } else { &self.skeleton }
    }

    /// Appends bytes to the record or the skeleton.
    fn hold(&mut self, bytes: &[u8]) -> Result<(), InvalidRequest> {
        let (held, bytes_max, error) = if self.position == JsonPosition::InRecord {
            (&mut self.record, RECORD_JSON_BYTES_MAX, InvalidRequest::RecordTooLarge)
        } else {
            (&mut self.skeleton, SKELETON_BYTES_MAX, InvalidRequest::NoDelivery)
        };
        if held.len() + bytes.len() > bytes_max {
            return Err(error);
        }
        held.extend_from_slice(bytes);
        Ok(())
    }
}

/// The place of the next byte that a text may end with. Most of a request is texts, and a block of bytes is compared at
/// a time.
fn end_of_text(bytes: &[u8]) -> Option<usize> {
    const BLOCK_BYTES: usize = 32;
    let is_end = |byte: &u8| matches!(byte, b'"' | b'\\');
    let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
    let free = blocks.iter().take_while(|block| !block.iter().fold(false, |found, byte| found | is_end(byte))).count();
    let begin = free * BLOCK_BYTES;
    Some(begin + bytes.get(begin..)?.iter().position(is_end)?)
}

/// Whether a byte outside texts begins or ends a text, an object or an array.
fn is_bracket(byte: u8) -> bool {
    matches!(byte, b'"' | b'{' | b'}' | b'[' | b']')
}

/// Whether a byte outside texts is white space of JSON.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Splits JSON that arrives in pieces of this size.
    fn split(json: &[u8], piece: usize) -> Result<Vec<String>, InvalidRequest> {
        let mut splitter = RecordSplitter::new("an id");
        let mut records = vec![];
        for piece in json.chunks(piece) {
            splitter.push(piece, |data| {
                records.push(data.to_owned());
                Ok(())
            })?;
        }
        splitter.finish().map(|()| records)
    }

    #[test]
    fn records_are_found_wherever_they_stand_and_however_they_are_written() {
        for (json, records) in [
            (r#"{"requestId":"an id","timestamp":1,"records":[{"data":"a"},{"data":"b"}]}"#, &["a", "b"][..]),
            (r#"{"records":[{"data":"a"}],"requestId":"an id"}"#, &["a"]),
            (r#"{"requestId":"an id","records":[]}"#, &[]),
            (
                " {\n \"requestId\" : \"an id\" ,\r\n\t\"records\" : [ { \"data\" : \"a\" } , {\"data\":\"b\"} ] } \n",
                &["a", "b"],
            ),
            (r#"{"requestId":"\u0061n id","records":[{"data":"a\/\u0062\"]}"}]}"#, &["a/b\"]}"]),
            (r#"{"requestId":"an id","records":[{"x":{"y":[{}]},"data":"a","z":"}{"}]}"#, &["a"]),
            (
                r#"{"x":{"records":[{"data":"x"}]},"y":[{"data":"y"}],"requestId":"an id","records":[{"data":"a"}]}"#,
                &["a"],
            ),
            (r#"{"\"records":[{"data":"x"}],"requestId":"an id","x":"records","records":[{"data":"a"}]}"#, &["a"]),
        ] {
            for piece in [1, 2, 7, json.len()] {
                assert_eq!(
                    split(json.as_bytes(), piece).as_deref(),
                    Ok(&records.iter().map(|data| (*data).to_owned()).collect::<Vec<_>>()[..]),
                    "{json}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_delivery_is_refused() {
        for json in [
            "",
            " ",
            "{",
            "}",
            "null",
            "[]",
            r#"["an id",[]]"#,
            r#"{"requestId":"an id"}"#,
            r#"{"records":[]}"#,
            r#"{"requestId":"an id","records":[]"#,
            r#"{"requestId":"an id","records":[]]"#,
            r#"{"requestId":"an id","records":[]}}"#,
            r#"{"requestId":"an id","records":[]} x"#,
            r#"{"requestId":"an id","records":null}"#,
            r#"{"requestId":"an id","records":{}}"#,
            r#"{"requestId":"an id","records":[[]]}"#,
            r#"{"requestId":"an id","records":[1]}"#,
            r#"{"requestId":"an id","records":["a"]}"#,
            r#"{"requestId":"an id","records":[{}]}"#,
            r#"{"requestId":"an id","records":[{"data":null}]}"#,
            r#"{"requestId":"an id","records":[{"data":"a"},]}"#,
            r#"{"requestId":"an id","records":[{"data":"a"}{"data":"b"}]}"#,
            r#"{"requestId":"an id","records":[{"data":"a"]]}"#,
            r#"{"requestId":"an id","records":[{"data":"a"}],"records":[]}"#,
            r#"{"requestId":"an id","requestId":"an id","records":[]}"#,
            r#"{"requestId":"an id","r\u0065cords":[{"data":"a"}]}"#,
            r#"{"requestId":7,"records":[]}"#,
            r#"{"requestId":"an id" "records":[]}"#,
            r#"{"requestId":"an id","timestamp":1 2,"records":[]}"#,
        ] {
            for piece in [1, json.len().max(1)] {
                assert_eq!(split(json.as_bytes(), piece), Err(InvalidRequest::NoDelivery), "{json}");
            }
        }
    }

    #[test]
    fn another_request_id_is_noticed_before_the_records_if_it_stands_before_them() {
        let early = br#"{"requestId":"other","records":["#;
        let pushed = RecordSplitter::new("an id").push(early, |_| Ok(()));
        assert_eq!(pushed, Err(InvalidRequest::OtherRequestId));
        let late = br#"{"records":[],"requestId":"other"}"#;
        assert_eq!(split(late, 5), Err(InvalidRequest::OtherRequestId));
    }

    #[test]
    fn what_never_ends_is_given_up() {
        let text = [b'a'; 1 << 10];
        for (start, error) in [
            (&br#"{"requestId":"an id","records":[{"data":""#[..], InvalidRequest::RecordTooLarge),
            (br#"{"requestId":""#, InvalidRequest::NoDelivery),
        ] {
            let mut splitter = RecordSplitter::new("an id");
            splitter.push(start, |_| Ok(())).unwrap();
            let pushed = (0..4096).try_for_each(|_| splitter.push(&text, |_| Ok(())));
            assert_eq!(pushed, Err(error));
        }
        let mut splitter = RecordSplitter::new("an id");
        (0..4096).for_each(|_| splitter.push(&[b' '; 1 << 10], |_| Ok(())).unwrap());
        assert_eq!(splitter.skeleton.len(), 1, "white space costs nothing");
    }

    /// Any JSON value, small.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[\"\\\\{}\\[\\]:, a-c\u{e9}\n]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[\"\\\\{}a-c]{0,3}|data|records|requestId", inner, 0..4)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_delivery_is_split_as_a_whole_parse_would(
            data in prop::collection::vec("[\"\\\\{}a-c/\u{e9}]{0,6}", 0..6),
            more in prop::collection::hash_map("[\"\\\\{}a-c]{0,3}", value(), 0..4),
            extra in value(),
            is_pretty: bool,
            piece in 1_usize..40,
        ) {
            let records: Vec<Value> = data.iter().map(|data| json!({ "data": data, "more": extra })).collect();
            let mut delivery = json!({ "requestId": "an id", "records": records });
            delivery.as_object_mut().unwrap().extend(more);
            let text = if is_pretty { format!("{delivery:#}") } else { delivery.to_string() };
            prop_assert_eq!(split(text.as_bytes(), piece), Ok(data));
        }

        #[test]
        fn a_value_that_is_no_delivery_is_not_taken_for_one(value in value(), piece in 1_usize..40) {
            let text = value.to_string();
            let is_delivery = value["requestId"].is_string() && value["records"].is_array();
            prop_assert!(is_delivery || split(text.as_bytes(), piece).is_err(), "{}", text);
        }

        #[test]
        fn a_change_of_a_byte_never_panics_and_what_is_accepted_is_json(
            place in 0_usize..70,
            byte: u8,
            piece in 1_usize..40,
        ) {
            let mut json = br#"{"requestId":"an id","timestamp":1,"records":[{"data":"a"},{"data":"b"}]}"#.to_vec();
            json[place] = byte;
            let accepted = split(&json, piece).is_ok();
            prop_assert!(!accepted || serde_json::from_slice::<Value>(&json).is_ok());
        }
    }
}
