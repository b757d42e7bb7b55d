//! boto3's paginator as a pure state machine: for each page, the events to yield and the place to continue.
//!
//! The rules and tokens are those of botocore's `paginate.py` (1.44; stable since 2016), for an operation with one
//! token. So a token of this program works in boto3 and the reverse:
//!
//! | after a page | then |
//! |---|---|
//! | more events than are wanted | cut: the token that asked for this page, and how many of its events were yielded |
//! | no NextToken | the end |
//! | exactly as many as are wanted | cut: the NextToken |
//! | the NextToken that asked for this page, and not as a starting token | an error: it would never end |
//! | otherwise | ask with the NextToken |

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde_json::Value;

/// Maximum length of the service's token in characters (API reference).
const SERVICE_TOKEN_CHARS_MAX: usize = 131_072;

/// Maximum size of a starting token in bytes: a token of maximum length with every character escaped for JSON, in
/// base64.
const STARTING_TOKEN_BYTES_MAX: usize = 1 << 21;

/// The keys of a token's JSON.
const NEXT_TOKEN: &str = "NextToken";
const TRUNCATE_AMOUNT: &str = "boto_truncate_amount";

/// The place to begin: before a page of the service, or inside one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StartingToken {
    /// The service's token of the page; None for the first.
    token: Option<String>,
    /// The number of the page's events that were yielded before.
    skip: u64,
}

/// Error of a text that is no starting token. It shows nothing of the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadToken {
    /// Longer than any token.
    #[error("longer than any token")]
    TooLong,
    /// A token of a paginator's form, with other content than this operation's.
    #[error("a paginator's token, but not one of this operation")]
    Foreign,
    /// Neither a paginator's token nor one that the service can have sent.
    #[error("not a token: the service's have 1 to 131,072 characters and no white space")]
    Impossible,
}

impl FromStr for StartingToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        if text.len() > STARTING_TOKEN_BYTES_MAX {
            return Err(BadToken::TooLong);
        }
        let starting = match decode(text) {
            Some(content) => Self::of_paginator(content)?,
            None => Self::of_old_paginator_or_service(text)?,
        };
        let possible = |token: &String| {
            (1..=SERVICE_TOKEN_CHARS_MAX).contains(&token.chars().count()) && !token.contains(char::is_whitespace)
        };
        if starting.token.as_ref().is_none_or(possible) { Ok(starting) } else { Err(BadToken::Impossible) }
    }
}

impl StartingToken {
    /// The place before the page of the service's token.
    pub fn of_service(token: String) -> Self {
        Self { token: Some(token), skip: 0 }
    }

    fn of_paginator(mut content: serde_json::Map<String, Value>) -> Result<Self, BadToken> {
        let skip = match content.remove(TRUNCATE_AMOUNT) {
            None => 0,
            Some(amount) => amount.as_u64().ok_or(BadToken::Foreign)?,
        };
        let token = match content.remove(NEXT_TOKEN) {
            Some(Value::Null) => None,
            Some(Value::String(token)) => sent(token),
            _ => return Err(BadToken::Foreign),
        };
        if content.is_empty() { Ok(Self { token, skip }) } else { Err(BadToken::Foreign) }
    }

    /// `<token>___<yielded>`, as paginators wrote before 2016, or else the service's own.
    fn of_old_paginator_or_service(text: &str) -> Result<Self, BadToken> {
        let parts: Vec<&str> = text.split("___").collect();
        match *parts {
            [token, yielded] => match yielded.trim().parse() {
                Ok(skip) => Ok(Self { token: sent(token.to_owned()), skip }),
                Err(_) => Ok(Self { token: sent(text.to_owned()), skip: 0 }),
            },
            [token] => Ok(Self { token: sent(token.to_owned()), skip: 0 }),
            _ => Err(BadToken::Foreign),
        }
    }
}

/// Returns the token to send. The text `None` stands for no token, because Python wrote it so.
fn sent(token: String) -> Option<String> {
    Some(token).filter(|token| token != "None")
}

/// Decodes a paginator's token, which is a JSON object in base64.
fn decode(text: &str) -> Option<serde_json::Map<String, Value>> {
    match serde_json::from_slice(&lenient_base64(text)?) {
        Ok(Value::Object(content)) => Some(content),
        _ => None,
    }
}

/// Decodes base64 as Python's `b64decode` does. Other characters, such as a line break from a terminal, are skipped.
/// The padding ends the text, and trailing bits are dropped.
fn lenient_base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone),
    );
    let mut digits = Vec::with_capacity(text.len());
    let mut pads = 0;
    for byte in text.bytes() {
        match byte {
            b'=' if digits.len() % 4 >= 2 => {
                pads += 1;
                if digits.len() % 4 + pads >= 4 {
                    return LENIENT.decode(digits).ok();
                }
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => {
                digits.push(byte);
                pads = 0;
            }
            _ => {}
        }
    }
    if digits.len() % 4 == 0 { LENIENT.decode(digits).ok() } else { None }
}

/// The place at which a paginator was cut. Display shows the token for the next paginator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResumeToken {
    token: Option<String>,
    /// The number of the page's events that were yielded; None before the page.
    yielded: Option<u64>,
}

/// Makes the same bytes as botocore's TokenEncoder: base64 of Python's `json.dumps`.
impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_deref().map_or("null".to_owned(), python_json);
        let json = match self.yielded {
            Some(yielded) => format!(r#"{{"{NEXT_TOKEN}": {token}, "{TRUNCATE_AMOUNT}": {yielded}}}"#),
            None => format!(r#"{{"{NEXT_TOKEN}": {token}}}"#),
        };
        f.write_str(&STANDARD.encode(json))
    }
}

/// Writes a JSON text as Python does: everything but printable ASCII is escaped.
fn python_json(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for char in text.chars() {
        match char {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            ' '..='~' => json.push(char),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    json.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    json.push('"');
    json
}

/// The step after a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Then {
    /// Ask for the next page, with [`Pagination::token`].
    Ask,
    /// The history has ended.
    End,
    /// The requested number of events is reached, and there may be more.
    Cut(ResumeToken),
    /// The service sent the same token twice in a row.
    Repeated,
}

/// A pagination that yields a limited number of events.
#[derive(Clone, Debug)]
pub struct Pagination {
    /// The token that asks for the next page.
    token: Option<String>,
    /// Whether `token` came with a page rather than from the caller.
    from_page: bool,
    /// The number of the next page's events that were yielded before.
    skip: u64,
    /// The number of events that may still be yielded; None for all.
    left: Option<u64>,
}

impl Pagination {
    /// Begins at the newest event, or at `starting`.
    pub fn new(starting: Option<StartingToken>, max_items: Option<u64>) -> Self {
        let StartingToken { token, skip } = starting.unwrap_or_default();
        Self { token, from_page: false, skip, left: max_items }
    }

    /// Returns the token that asks for the next page; None for the first page.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Accepts the page that was asked for, and returns the events to yield and the next step. Events that are not
    /// `wanted` are left out and do not count.
    pub fn accept<T>(&mut self, events: Vec<T>, next: Option<String>, wanted: impl Fn(&T) -> bool) -> (Vec<T>, Then) {
        let skipped = usize::try_from(std::mem::take(&mut self.skip)).unwrap_or(usize::MAX);
        let mut yielded = Vec::with_capacity(events.len());
        for (index, event) in events.into_iter().enumerate().skip(skipped) {
            if !wanted(&event) {
                continue;
            }
            if self.left == Some(0) {
                let resume = ResumeToken { token: self.token.take(), yielded: Some(index as u64) };
                return (yielded, Then::Cut(resume));
            }
            self.left = self.left.map(|left| left - 1);
            yielded.push(event);
        }
        let then = match next {
            None => Then::End,
            Some(_) if self.left == Some(0) => Then::Cut(ResumeToken { token: next, yielded: None }),
            Some(_) if self.from_page && self.token == next => Then::Repeated,
            Some(_) => {
                self.token = next;
                self.from_page = true;
                Then::Ask
            }
        };
        (yielded, then)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every event is wanted.
    const ANY: fn(&u32) -> bool = |_| true;

    fn starting(text: &str) -> Result<StartingToken, BadToken> {
        text.parse()
    }

    fn at(token: Option<&str>, skip: u64) -> Result<StartingToken, BadToken> {
        Ok(StartingToken { token: token.map(str::to_owned), skip })
    }

    #[test]
    fn tokens_are_botocores_to_the_byte() {
        // The texts were made with botocore 1.44's TokenEncoder.
        for (token, yielded, text) in [
            (Some("abc"), None, "eyJOZXh0VG9rZW4iOiAiYWJjIn0="),
            (None, Some(0), "eyJOZXh0VG9rZW4iOiBudWxsLCAiYm90b190cnVuY2F0ZV9hbW91bnQiOiAwfQ=="),
            (
                Some("é\"\\\u{7f}😀#"),
                Some(7),
                "eyJOZXh0VG9rZW4iOiAiXHUwMGU5XCJcXFx1MDA3Zlx1ZDgzZFx1ZGUwMCMiLCAiYm90b190cnVuY2F0ZV9hbW91bnQiOiA3fQ==",
            ),
        ] {
            let token = token.map(str::to_owned);
            assert_eq!(ResumeToken { token: token.clone(), yielded }.to_string(), text);
            assert_eq!(starting(text), Ok(StartingToken { token, skip: yielded.unwrap_or(0) }));
        }
    }

    #[test]
    fn every_form_of_token_is_understood_as_botocore_does() {
        let service = "768d375c-ee6c-435e-a005-25c4981565c3#2024-08-08T16:54:09.929Z";
        for (text, expected) in [
            (service, at(Some(service), 0)),
            (&format!("{service}___12"), at(Some(service), 12)),
            ("None___3", at(None, 3)),
            ("a___b", at(Some("a___b"), 0)),
            ("a___-1", at(Some("a___-1"), 0)),
            ("a___b___1", Err(BadToken::Foreign)),
            ("", Err(BadToken::Impossible)),
            ("two words", Err(BadToken::Impossible)),
            ("MTIz", at(Some("MTIz"), 0)), // base64 of the JSON 123
            (&STANDARD.encode(r#"{"NextToken": "None"}"#), at(None, 0)),
            (&STANDARD.encode(r#"{"NextToken": ""}"#), Err(BadToken::Impossible)),
            (&STANDARD.encode("{}"), Err(BadToken::Foreign)),
            (&STANDARD.encode(r#"{"NextToken": 1}"#), Err(BadToken::Foreign)),
            (&STANDARD.encode(r#"{"PaginationToken": "a"}"#), Err(BadToken::Foreign)),
            (&STANDARD.encode(r#"{"NextToken": "a", "boto_truncate_amount": -1}"#), Err(BadToken::Foreign)),
            (&STANDARD.encode(r#"{"NextToken": "a", "boto_truncate_amount": 1.5}"#), Err(BadToken::Foreign)),
            ("eyJOZXh0VG9r\n ZW4iOiAiYWJjIn0=", at(Some("abc"), 0)), // broken by a terminal
        ] {
            assert_eq!(starting(text), expected, "{text:?}");
        }
        assert_eq!(starting(&"x".repeat(SERVICE_TOKEN_CHARS_MAX + 1)), Err(BadToken::Impossible));
        assert_eq!(starting(&"x".repeat(STARTING_TOKEN_BYTES_MAX + 1)), Err(BadToken::TooLong));
    }

    #[test]
    fn a_page_is_cut_in_its_middle_and_gone_on_with_there() {
        let mut first = Pagination::new(None, Some(3));
        assert_eq!(first.accept(vec![0, 1], Some("t".into()), ANY), (vec![0, 1], Then::Ask));
        assert_eq!(first.token(), Some("t"));
        let (events, Then::Cut(resume)) = first.accept(vec![2, 3], Some("u".into()), ANY) else { panic!("not cut") };
        assert_eq!(events, [2]);
        let mut second = Pagination::new(resume.to_string().parse().ok(), None);
        assert_eq!(second.token(), Some("t"));
        assert_eq!(second.accept(vec![2, 3], Some("u".into()), ANY), (vec![3], Then::Ask));
    }

    #[test]
    fn a_page_that_is_wanted_whole_is_cut_behind_it_and_the_last_one_not_at_all() {
        let boundary =
            |next: Option<&str>| Pagination::new(None, Some(2)).accept(vec![0, 1], next.map(str::to_owned), ANY);
        let resume = ResumeToken { token: Some("t".into()), yielded: None };
        assert_eq!(boundary(Some("t")), (vec![0, 1], Then::Cut(resume)));
        assert_eq!(boundary(None), (vec![0, 1], Then::End));
    }

    #[test]
    fn events_that_are_not_wanted_are_neither_yielded_nor_counted() {
        let is_odd = |event: &u32| event % 2 == 1;
        let mut first = Pagination::new(None, Some(2));
        let (events, Then::Cut(resume)) = first.accept(vec![0, 1, 2, 3, 4, 5], Some("t".into()), is_odd) else {
            panic!("not cut")
        };
        assert_eq!(events, [1, 3]);
        let mut second = Pagination::new(resume.to_string().parse().ok(), None);
        assert_eq!(second.accept(vec![0, 1, 2, 3, 4, 5], None, is_odd), (vec![5], Then::End));
    }

    #[test]
    fn a_token_twice_in_a_row_is_an_error_unless_the_caller_gave_the_first() {
        let next = || Some("t".to_owned());
        let mut pagination = Pagination::new("t".parse().ok(), None);
        assert_eq!(pagination.accept(vec![0], next(), ANY).1, Then::Ask);
        assert_eq!(pagination.accept(vec![0], next(), ANY), (vec![0], Then::Repeated));
    }

    #[test]
    fn nothing_wanted_is_a_token_back_to_the_same_place() {
        let mut pagination = Pagination::new("t___2".parse().ok(), Some(0));
        let (events, Then::Cut(resume)) = pagination.accept(vec![0, 1, 2], None, ANY) else { panic!("not cut") };
        assert!(events.is_empty());
        assert_eq!(starting(&resume.to_string()), at(Some("t"), 2));
    }

    /// Paginates over `pages` from `starting`. Returns the yielded events and the place to continue.
    fn paginate(
        pages: &[Vec<u32>],
        starting: Option<StartingToken>,
        max_items: Option<u64>,
    ) -> (Vec<u32>, Option<StartingToken>) {
        let mut pagination = Pagination::new(starting, max_items);
        let mut all = vec![];
        loop {
            let index = pagination.token().map_or(0, |token| token.parse().unwrap());
            let next = (index + 1 < pages.len()).then(|| (index + 1).to_string());
            let (events, then) = pagination.accept(pages[index].clone(), next, ANY);
            all.extend(events);
            match then {
                Then::Ask => {}
                Then::End => return (all, None),
                Then::Cut(resume) => return (all, Some(resume.to_string().parse().unwrap())),
                Then::Repeated => panic!("no token repeats"),
            }
        }
    }

    /// Generates tokens of every form, almost valid ones, and other texts.
    fn any_starting_token() -> impl Strategy<Value = String> {
        let number = prop_oneof![
            (0_u64..6).prop_map(|number| number.to_string()),
            Just(u64::MAX.to_string()),
            Just("18446744073709551616".to_owned()),
            "-?[0-9]{0,3}(\\.[0-9]|e[0-9])?",
        ];
        let value = prop_oneof![
            "\"[ -~&&[^\"\\\\]]{0,12}\"",
            any::<String>().prop_map(|text| python_json(&text)),
            number.clone(),
            Just("null".to_owned()),
            Just("[[{}]]".to_owned()),
            any::<String>(),
        ];
        let key = prop_oneof![3 => Just(NEXT_TOKEN), 2 => Just(TRUNCATE_AMOUNT), 1 => Just("Marker")];
        let member = (key, prop_oneof![value, number.clone()]).prop_map(|(key, value)| format!("\"{key}\": {value}"));
        let object = prop::collection::vec(member, 0..4).prop_map(|members| format!("{{{}}}", members.join(", ")));
        prop_oneof![
            4 => object.prop_map(|json| STANDARD.encode(json)),
            1 => any::<Vec<u8>>().prop_map(|bytes| STANDARD.encode(bytes)),
            1 => "[A-Za-z0-9+/=\\s]{0,40}",
            2 => ("\\S{0,12}", number).prop_map(|(token, number)| format!("{token}___{number}")),
            1 => "(___|None|\\PC){0,8}",
            1 => any::<String>(),
        ]
    }

    proptest! {
        #[test]
        fn however_it_is_cut_every_event_comes_once_and_in_order(
            sizes in prop::collection::vec(0_usize..5, 1..6),
            cuts in prop::collection::vec(1_u64..7, 1..40),
        ) {
            let mut count = 0;
            let pages: Vec<Vec<u32>> = sizes
                .iter()
                .map(|size| (0..*size).map(|_| { count += 1; count }).collect())
                .collect();
            let mut all = vec![];
            let mut place = None;
            for cut in cuts.into_iter().map(Some).chain([None]) {
                let (events, next) = paginate(&pages, place, cut);
                prop_assert!(cut.is_none_or(|cut| events.len() as u64 <= cut));
                all.extend(events);
                match next {
                    None => break,
                    next => place = next,
                }
            }
            prop_assert_eq!(all, pages.concat());
        }

        #[test]
        fn a_tokens_way_out_and_in_changes_nothing(token in "\\S{1,40}", yielded in prop::option::of(0_u64..1000)) {
            let resume = ResumeToken { token: sent(token), yielded };
            let starting = resume.to_string().parse::<StartingToken>();
            prop_assert_eq!(starting, Ok(StartingToken { token: resume.token, skip: yielded.unwrap_or(0) }));
        }

        #[test]
        fn whatever_the_starting_token_it_is_refused_unseen_or_gone_on_with_exactly(
            text in any_starting_token(),
            max_items in prop::option::of(prop_oneof![0_u64..5, Just(u64::MAX)]),
        ) {
            let starting = match starting(&text) {
                Ok(starting) => starting,
                Err(refused) => {
                    let fixed = [BadToken::TooLong, BadToken::Foreign, BadToken::Impossible].map(|bad| bad.to_string());
                    prop_assert!(fixed.contains(&refused.to_string()));
                    return Ok(());
                }
            };
            let mut pagination = Pagination::new(Some(starting.clone()), max_items);
            prop_assert_eq!(pagination.token(), starting.token.as_deref());
            let (events, then) = pagination.accept(vec![0, 1, 2], None, ANY);
            let skipped = usize::try_from(starting.skip).unwrap_or(3).min(3);
            let wanted = max_items.map_or(3, |max| usize::try_from(max).unwrap_or(3).min(3)).min(3 - skipped);
            prop_assert_eq!(&events, &[0, 1, 2][skipped..skipped + wanted]);
            if let Then::Cut(resume) = then {
                let yielded = starting.skip + wanted as u64;
                prop_assert_eq!(resume.to_string().parse(), Ok(StartingToken { skip: yielded, ..starting }));
            } else {
                prop_assert_eq!(skipped + wanted, 3);
            }
        }
    }
}
