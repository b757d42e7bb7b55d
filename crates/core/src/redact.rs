//! Finds personal data in texts for people. A receiver's error message may quote the records that it was sent.

use std::collections::BTreeSet;
use std::net::IpAddr;

mod encodings;

/// The number of characters at a value's beginning that count as a quotation. Some receivers cut their quotations.
const QUOTATION_CHARS: usize = 8;

/// The least number of bytes of a value's ASCII part that counts as a quotation.
const PART_BYTES_MIN: usize = 4;

/// Where a value must stand in a text to count as a quotation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QuotePosition {
    /// Anywhere, also within a word.
    Anywhere,
    /// As words of their own. This is for the exporter's own texts, which rarely contain another program's. A user
    /// called `a` must not hide that a connection was refused.
    Words,
}

/// Whether a text contains a word, as a whole word and in any case. `user` is not found in `username`.
pub fn holds_word(text: &str, word: &str) -> bool {
    is_in(&text.to_lowercase(), &word.to_lowercase(), QuotePosition::Words, QuotePosition::Words)
}

/// Whether a text quotes one of these values, whole or by its beginning. Case does not matter, and every encoding that
/// a receiver may use is decoded. A text with too many possible readings counts as a quotation.
pub fn quotes<'a>(text: &str, values: impl IntoIterator<Item = &'a str>, position: QuotePosition) -> bool {
    let Some(readings) = encodings::readings(text) else {
        return true;
    };
    let addresses: BTreeSet<IpAddr> = readings.iter().flat_map(|reading| addresses(reading)).collect();
    let folded: Vec<String> = readings.iter().map(|reading| folded(reading)).collect();
    let values: BTreeSet<&str> = values.into_iter().collect();
    values.into_iter().any(|value| {
        value.parse::<IpAddr>().is_ok_and(|address| addresses.contains(&address.to_canonical()))
            || quotable_parts(value)
                .iter()
                .any(|(quotation, end)| folded.iter().any(|text| is_in(text, quotation, position, *end)))
    })
}

/// Whether a text contains this code, in the same case and as a word of its own.
pub fn holds_code(text: &str, code: &str) -> bool {
    encodings::readings(text)
        .is_none_or(|texts| texts.iter().any(|text| is_in(text, code, QuotePosition::Words, QuotePosition::Words)))
}

/// The parts of a value that count as quotations, and for each whether a word must end at its end.
fn quotable_parts(value: &str) -> Vec<(String, QuotePosition)> {
    let value = folded(value);
    let value = value.trim();
    let begin = |text: &str| match text.char_indices().nth(QUOTATION_CHARS) {
        Some((end, _)) => (text[..end].to_owned(), QuotePosition::Anywhere),
        None => (text.to_owned(), QuotePosition::Words),
    };
    let mut quotable_parts = vec![begin(value)];
    if !value.is_ascii() {
        // Only the ASCII parts survive where another character set was assumed.
        let parts = value.split(|char: char| !char.is_ascii()).filter(|part| part.len() >= PART_BYTES_MIN);
        quotable_parts.extend(parts.map(|part| (begin(part).0, QuotePosition::Anywhere)));
    }
    quotable_parts.retain(|(quotation, _)| !quotation.is_empty());
    quotable_parts
}

/// A text for comparison: case is folded, runs of white space become one space, and invisible characters are removed.
fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for char in text.chars().filter(|char| !crate::printable::is_unseen(*char)) {
        if char.is_whitespace() || char.is_control() {
            if !folded.ends_with(' ') {
                folded.push(' ');
            }
        } else {
            folded.extend(char.to_uppercase().flat_map(char::to_lowercase));
        }
    }
    folded
}

/// The network addresses in a text, however they are spelled.
fn addresses(text: &str) -> impl Iterator<Item = IpAddr> {
    let words = text.split(|char: char| !char.is_ascii_hexdigit() && !matches!(char, ':' | '.'));
    words
        .filter_map(|word| word.trim_end_matches(['.', ':']).parse::<IpAddr>().ok())
        .map(|address| address.to_canonical())
}

fn is_in(text: &str, part: &str, begins: QuotePosition, ends: QuotePosition) -> bool {
    let inside = |edge: Option<char>| edge.is_some_and(char::is_alphanumeric);
    text.match_indices(part).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + part.len()..]);
        begins == QuotePosition::Anywhere
            || (!part.is_empty()
                && !inside(before.chars().next_back())
                && (ends == QuotePosition::Anywhere || !inside(after.chars().next())))
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use base64::Engine as _;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_word_is_found_whole_and_in_any_case() {
        for (text, word, expected) in [
            ("bad user.name \"Ann\"!", "ann", true),
            ("annual planning", "ann", false),
            ("joann is planning", "ann", false),
            ("of ann@example.com", "ann@example.com", true),
            ("nothing", "", false),
            ("ÜNAL", "ünal", true),
        ] {
            assert_eq!(holds_word(text, word), expected, "{text}");
        }
    }

    #[test]
    fn a_value_is_found_however_it_is_written() {
        for (text, value) in [
            ("no such label: zoë", "Zoë"),
            (r#"{"user":"zo\u00eb"}"#, "zoë"),
            (r#""{\"user\":\"zo\\u00eb\"}""#, "zoë"),
            ("zo%C3%AB", "zoë"),
            ("zo%25C3%25AB", "zoë"),
            ("zo%EB", "zoë"),
            ("Chrome+126,+Windows", "Chrome 126, Windows 10"),
            ("zo&euml;, zo&#235;", "zoë"),
            ("zo&#xEB;", "zoë"),
            ("zo=C3=AB", "zoë"),
            ("user al=\r\nice", "alice"),
            (r"zo\303\253", "zoë"),
            (r"zo\xc3\xab", "zoë"),
            ("token em/DqyB6b8Or", "zoë"),
            ("7a6fc3ab", "zoë"),
            ("alice@ex... is too long", "alice@example.com"),
            ("Saint-Ã‰tienne", "Saint-Étienne"),
            ("Saint-?tienne", "Saint-Étienne"),
            ("?abel", "Çabel"),
            ("from 2001:0db8:0:0::1", "2001:db8::1"),
            ("from [::ffff:203.0.113.9]:443", "203.0.113.9"),
            ("al\u{200b}ice", "alice"),
            ("STRASSE", "straße"),
            ("offset -07:00", "-07:00"),
        ] {
            assert!(quotes(text, [value], QuotePosition::Anywhere), "{text:?} quotes {value:?}");
        }
        for (text, value) in [
            ("service unavailable", "alice"),
            ("100% of the queue=full & waiting", "alice"),
            ("from 198.51.100.10", "203.0.113.2"),
            ("?abe", "Çabe"),
            ("nothing", ""),
            ("nothing", " "),
        ] {
            assert!(!quotes(text, [value], QuotePosition::Anywhere), "{text:?} quotes {value:?}");
        }
    }

    #[test]
    fn white_space_and_control_characters_between_two_words_are_one_space() {
        for text in ["Ann  Smith", "Ann\t\r\n Smith", "Ann\u{1}\u{2}Smith", "Ann \u{1}Smith"] {
            assert_eq!(folded(text), "ann smith", "{text:?}");
            assert!(quotes(text, ["Ann Smith"], QuotePosition::Anywhere), "{text:?}");
        }
    }

    #[test]
    fn our_own_words_are_searched_for_whole_words() {
        assert!(!quotes("tcp connect error: connection refused", ["a", "conn"], QuotePosition::Words));
        assert!(quotes("connection error received: (b\"alice\")", ["alice"], QuotePosition::Words));
        assert!(quotes(
            "connection error received: (b\"alice@example.co\")",
            ["alice@example.com"],
            QuotePosition::Words
        ));
    }

    #[test]
    fn a_code_is_found_as_it_is_written() {
        assert!(holds_code("country US is blocked", "US"));
        assert!(!holds_code("busy, and so are USERS", "US"));
        assert!(!holds_code("tell us", "US"));
    }

    /// The encodings in which receivers quote a value.
    #[derive(Clone, Copy, Debug)]
    enum QuoteEncoding {
        Plain,
        Upper,
        Json,
        JsonAscii,
        Percent,
        PercentAll,
        Form,
        Entities,
        EntitiesAll,
        QuotedPrintable,
        Base64,
        Base64Url,
        Hex,
        Rust,
        Octal,
    }

    fn write(value: &str, how: QuoteEncoding) -> String {
        let bytes = |one: fn(&mut String, u8), spared: fn(u8) -> bool| {
            value.bytes().fold(String::new(), |mut text, byte| {
                if spared(byte) {
                    text.push(char::from(byte));
                } else {
                    one(&mut text, byte);
                }
                text
            })
        };
        match how {
            QuoteEncoding::Plain => value.to_owned(),
            QuoteEncoding::Upper => value.to_uppercase(),
            QuoteEncoding::Json => serde_json::to_string(value).unwrap(),
            QuoteEncoding::JsonAscii => value.encode_utf16().fold(String::new(), |mut text, unit| {
                let _ = write!(text, "\\u{unit:04x}");
                text
            }),
            QuoteEncoding::Percent => {
                bytes(|text, byte| text.push_str(&format!("%{byte:02X}")), |byte| byte.is_ascii_alphanumeric())
            }
            QuoteEncoding::PercentAll => bytes(|text, byte| text.push_str(&format!("%{byte:02x}")), |_| false),
            QuoteEncoding::Form => bytes(
                |text, byte| text.push_str(&format!("%{byte:02X}")),
                |byte| byte.is_ascii_alphanumeric() || byte == b' ',
            )
            .replace(' ', "+"),
            QuoteEncoding::Entities => {
                value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
            }
            QuoteEncoding::EntitiesAll => value.chars().fold(String::new(), |mut text, char| {
                let _ = write!(text, "&#{};", u32::from(char));
                text
            }),
            QuoteEncoding::QuotedPrintable => bytes(
                |text, byte| text.push_str(&format!("={byte:02X}")),
                |byte| byte.is_ascii_graphic() && byte != b'=',
            ),
            QuoteEncoding::Base64 => BASE64_STANDARD.encode(value),
            QuoteEncoding::Base64Url => BASE64_URL_SAFE_NO_PAD.encode(value),
            QuoteEncoding::Hex => bytes(|text, byte| text.push_str(&format!("{byte:02x}")), |_| false),
            QuoteEncoding::Rust => format!("{value:?}"),
            QuoteEncoding::Octal => bytes(|text, byte| text.push_str(&format!("\\{byte:03o}")), |_| false),
        }
    }

    fn written() -> impl Strategy<Value = QuoteEncoding> {
        use QuoteEncoding::*;
        prop::sample::select(vec![
            Plain,
            Upper,
            Json,
            JsonAscii,
            Percent,
            PercentAll,
            Form,
            Entities,
            EntitiesAll,
            QuotedPrintable,
            Base64,
            Base64Url,
            Hex,
            Rust,
            Octal,
        ])
    }

    proptest! {
        #[test]
        fn a_quoted_value_is_found_in_every_encoding(
            value in "[a-zA-Z0-9@._+ëÉßжמ東-][ -~ëÉßжמ東]{0,20}[a-zA-Z0-9ëÉж東]",
            before in "[ -~]{0,20}",
            after in "[ -~]{0,20}",
            how in written(),
        ) {
            let text = format!("{before}\"{}\"{after}", write(&value, how));
            prop_assert!(quotes(&text, [value.as_str()], QuotePosition::Anywhere), "{} quotes {} as {:?}", text, value, how);
        }

        #[test]
        fn a_value_that_is_encoded_twice_is_found(
            value in "[a-zA-Zë]{3,20}",
            first in written(),
            second in written(),
        ) {
            // Base64 in capital letters cannot be decoded.
            prop_assume!(!matches!(second, QuoteEncoding::Upper));
            let text = write(&write(&value, first), second);
            prop_assert!(quotes(&text, [value.as_str()], QuotePosition::Anywhere), "{} quotes {}", text, value);
        }

        #[test]
        fn whatever_is_said_a_value_in_it_is_found(text in any::<String>(), from in 0_usize..20, chars in 1_usize..20) {
            let value: String = text.chars().skip(from).take(chars).collect();
            let expected = !folded(&value).trim().is_empty();
            prop_assert_eq!(quotes(&text, [value.as_str()], QuotePosition::Anywhere) || !expected, true);
        }
    }
}
