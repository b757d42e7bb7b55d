//! The readings of a text: the text itself, and the text with its encoded parts decoded.
//!
//! An error message quotes a value in its own format: JSON, HTML, a URL, a mail, a debugger's escapes, base64. A
//! message may hold several formats, and one within the other. So each decoder is applied to the text and to the
//! results of the others.

use std::borrow::Cow;

/// The number of nested encodings that are decoded: JSON in JSON in a page of HTML.
const DEPTH_MAX: usize = 3;

/// The largest number of readings. The messages of real receivers stay far below it.
const READINGS_MAX: usize = 200;

/// HTML's names of the characters from U+00A0 to U+00FF, in their order
/// (<https://html.spec.whatwg.org/multipage/named-characters.html>).
const LATIN_1: &str = "nbsp iexcl cent pound curren yen brvbar sect uml copy ordf laquo not shy reg macr deg plusmn sup2 \
    sup3 acute micro para middot cedil sup1 ordm raquo frac14 frac12 frac34 iquest Agrave Aacute Acirc Atilde Auml Aring \
    AElig Ccedil Egrave Eacute Ecirc Euml Igrave Iacute Icirc Iuml ETH Ntilde Ograve Oacute Ocirc Otilde Ouml times \
    Oslash Ugrave Uacute Ucirc Uuml Yacute THORN szlig agrave aacute acirc atilde auml aring aelig ccedil egrave eacute \
    ecirc euml igrave iacute icirc iuml eth ntilde ograve oacute ocirc otilde ouml divide oslash ugrave uacute ucirc uuml \
    yacute thorn yuml";

/// HTML's names of the characters that must be escaped.
const ESCAPED: [(&str, char); 5] = [("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("apos", '\'')];

/// All readings of a text, the text itself first; None if there are more than [`READINGS_MAX`].
pub(super) fn readings(text: &str) -> Option<Vec<String>> {
    const DECODERS: [fn(&str) -> String; 9] =
        [backslashes, percents, forms, entities, quoted_printable, base64, hexadecimal, byte_numbers, without_zeros];
    let mut readings = vec![text.to_owned()];
    let mut deeper = 0..1;
    for _ in 0..DEPTH_MAX {
        for index in deeper.clone() {
            for decoder in DECODERS {
                let reading = decoder(&readings[index]);
                if !reading.is_empty() && !readings.contains(&reading) {
                    readings.push(reading);
                }
            }
            if readings.len() > READINGS_MAX {
                return None;
            }
        }
        deeper = deeper.end..readings.len();
    }
    Some(readings)
}

/// The meaning of an encoded character.
enum Decoded {
    Byte(u8),
    Char(char),
    Nothing,
}

/// Decodes every encoded character of a text. `decode` answers for the character at the text's beginning: the number of
/// bytes that it takes, and its meaning.
fn decoded(text: &str, decode: impl Fn(&str) -> Option<(usize, Decoded)>) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let (length, decoded) = decode(rest).unwrap_or((char.len_utf8(), Decoded::Char(char)));
        match decoded {
            Decoded::Byte(byte) => bytes.push(byte),
            Decoded::Char(char) => bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            Decoded::Nothing => {}
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    as_text(&bytes)
}

/// Reads bytes as UTF-8, and those that are not as Latin-1.
fn as_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().copied().map(char::from));
    }
    text
}

/// Decodes the escapes of JSON, C, Rust, Go and Python: `\u00eb`, `\u{eb}`, `\xc3\xab`, `\303\253`, `\"` and others.
fn backslashes(text: &str) -> String {
    decoded(text, |text| {
        let rest = text.strip_prefix('\\')?;
        let kind = rest.chars().next()?;
        let digits = &rest[kind.len_utf8()..];
        if matches!(kind, 'u' | 'x')
            && let Some((inner, _)) = digits.strip_prefix('{').and_then(|digits| digits.split_once('}'))
        {
            return Some(("\\u{}".len() + inner.len(), Decoded::Char(character(inner)?)));
        }
        match kind {
            'u' => {
                let unit = number(digits.get(..4)?, 16)?;
                if let Some(char) = char::from_u32(unit) {
                    return Some((6, Decoded::Char(char)));
                }
                // The first half of a surrogate pair: the second half follows.
                let low = number(digits.get(4..)?.strip_prefix("\\u")?.get(..4)?, 16)?;
                let units = [u16::try_from(unit).ok()?, u16::try_from(low).ok()?];
                let char = char::decode_utf16(units).next()?.ok()?;
                Some((12, Decoded::Char(char)))
            }
            'U' => Some((10, Decoded::Char(character(digits.get(..8)?)?))),
            'x' => Some((4, Decoded::Byte(byte(digits.get(..2)?, 16)?))),
            '0'..='3' if rest.get(..3).is_some_and(|octal| byte(octal, 8).is_some()) => {
                Some((4, Decoded::Byte(byte(&rest[..3], 8)?)))
            }
            'n' | 't' | 'r' | 'f' | 'v' | '0' => Some((2, Decoded::Char(' '))),
            char if !char.is_alphanumeric() => Some((1 + char.len_utf8(), Decoded::Char(char))),
            _ => None,
        }
    })
}

/// Decodes `%C3%AB` and `%u00eb`, as in URLs.
fn percents(text: &str) -> String {
    decoded(text, percent)
}

/// Decodes the same, and `+` as a space, as in HTML forms.
fn forms(text: &str) -> String {
    decoded(text, |text| if text.starts_with('+') { Some((1, Decoded::Char(' '))) } else { percent(text) })
}

fn percent(text: &str) -> Option<(usize, Decoded)> {
    let digits = text.strip_prefix('%')?;
    match digits.strip_prefix('u') {
        Some(digits) => Some((6, Decoded::Char(character(digits.get(..4)?)?))),
        None => Some((3, Decoded::Byte(byte(digits.get(..2)?, 16)?))),
    }
}

/// Decodes `&#235;`, `&#xEB;`, `&euml;` and `&amp;`, as in HTML and XML.
fn entities(text: &str) -> String {
    /// The longest entity is U+10FFFF with some leading zeros.
    const LENGTH_MAX: usize = 16;
    decoded(text, |text| {
        let (name, _) = text.strip_prefix('&')?.split_once(';').filter(|(name, _)| name.len() <= LENGTH_MAX)?;
        let char = match name.strip_prefix('#') {
            Some(number) => match number.strip_prefix(['x', 'X']) {
                Some(hexadecimal) => character(hexadecimal)?,
                None => char::from_u32(self::number(number, 10)?)?,
            },
            None => {
                let escaped = ESCAPED.iter().find(|(known, _)| *known == name).map(|(_, char)| *char);
                let latin = || LATIN_1.split_whitespace().position(|known| known == name);
                escaped.or_else(|| char::from_u32(0xA0 + u32::try_from(latin()?).ok()?))?
            }
        };
        Some((name.len() + 2, Decoded::Char(char)))
    })
}

/// Decodes `=C3=AB`, and joins lines that end in `=`, as in mails.
fn quoted_printable(text: &str) -> String {
    decoded(text, |text| {
        let rest = text.strip_prefix('=')?;
        for line_end in ["\r\n", "\n"] {
            if rest.starts_with(line_end) {
                return Some((1 + line_end.len(), Decoded::Nothing));
            }
        }
        Some((3, Decoded::Byte(byte(rest.get(..2)?, 16)?)))
    })
}

/// Decodes every run of characters that may be base64, in both alphabets and from each possible start.
fn base64(text: &str) -> String {
    fn sextet(char: char) -> Option<u32> {
        Some(match char {
            'A'..='Z' => u32::from(char) - u32::from('A'),
            'a'..='z' => u32::from(char) - u32::from('a') + 26,
            '0'..='9' => u32::from(char) - u32::from('0') + 52,
            '+' | '-' => 62,
            '/' | '_' => 63,
            _ => return None,
        })
    }
    of_runs(text, 6, 4, sextet)
}

/// Decodes every run of hexadecimal digits.
fn hexadecimal(text: &str) -> String {
    of_runs(text, 4, 2, |char| char.to_digit(16))
}

/// Decodes runs of digits of `bits` bits each, from each of the first `starts` digits on.
fn of_runs(text: &str, bits: u32, starts: usize, digit: impl Fn(char) -> Option<u32>) -> String {
    // Wrapped text continues in the next line.
    let text = if text.contains('\n') { Cow::Owned(text.replace(['\r', '\n'], "")) } else { Cow::Borrowed(text) };
    let mut read = String::new();
    for run in text.split(|char| digit(char).is_none()) {
        let digits: Vec<u32> = run.chars().filter_map(&digit).collect();
        for start in 0..starts.min(digits.len().saturating_sub(1)) {
            let (mut bytes, mut held, mut held_bits) = (Vec::new(), 0_u32, 0);
            for digit in &digits[start..] {
                held = (held << bits) + digit;
                held_bits += bits;
                if held_bits >= 8 {
                    held_bits -= 8;
                    bytes.push(u8::try_from(held >> held_bits & 0xff).unwrap_or_default());
                    held &= (1 << held_bits) - 1;
                }
            }
            read.push_str(&as_text(&bytes));
            read.push('\n');
        }
    }
    read
}

/// Decodes bytes that are listed as decimal or hexadecimal numbers: `[122 111]`, `7a:6f`, `0x7a, 0x6f`.
fn byte_numbers(text: &str) -> String {
    /// Shorter lists are dates, times and versions.
    const RUN_MIN: usize = 4;
    let words: Vec<&str> =
        text.split(|char: char| !char.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let decimal = |word: &str| byte(word, 10);
    let hexadecimal = |word: &str| {
        let digits = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")).unwrap_or(word);
        (digits.len() == 2).then(|| byte(digits, 16))?
    };
    let mut read = String::new();
    for value in [&decimal as &dyn Fn(&str) -> Option<u8>, &hexadecimal] {
        for run in words.split(|word| value(word).is_none()).filter(|run| run.len() >= RUN_MIN) {
            let bytes: Vec<u8> = run.iter().filter_map(|word| value(word)).collect();
            read.push_str(&as_text(&bytes));
            read.push('\n');
        }
    }
    read
}

/// Removes zero bytes. What remains is UTF-16 or UTF-32 text of one-byte characters that was read byte by byte.
fn without_zeros(text: &str) -> String {
    if text.contains('\0') { text.replace('\0', "") } else { String::new() }
}

fn number(digits: &str, radix: u32) -> Option<u32> {
    // `from_str_radix` would take a sign.
    digits.chars().all(|char| char.is_digit(radix)).then(|| u32::from_str_radix(digits, radix).ok())?
}

fn byte(digits: &str, radix: u32) -> Option<u8> {
    number(digits, radix).and_then(|number| u8::try_from(number).ok())
}

fn character(hexadecimal: &str) -> Option<char> {
    number(hexadecimal, 16).and_then(char::from_u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_encodings_is_read_as_it_is() {
        let readings = readings("busy!").unwrap();
        assert_eq!(readings[0], "busy!");
    }

    #[test]
    fn three_nested_encodings_are_decoded() {
        for (text, expected) in [("zo%C3%AB", true), ("zo%2525C3%2525AB", true), ("zo%252525C3%252525AB", false)] {
            assert_eq!(readings(text).unwrap().contains(&"zoë".to_owned()), expected, "{text}");
        }
    }

    #[test]
    fn each_encoding_is_decoded() {
        for (decoder, text, expected) in [
            (
                backslashes as fn(&str) -> String,
                r#"\u00eb \ud83d\ude00 \u{eb} \xc3\xab \303\253 \" \\ \q \"#,
                "ë 😀 ë ë ë \" \\ \\q \\",
            ),
            (backslashes, r"\ud83d \u00 \uzzzz \x", r"\ud83d \u00 \uzzzz \x"),
            (backslashes, r"zo\U000000eb", "zoë"),
            (backslashes, r"Ann\nSmith\0\n\t\r\f\v.", "Ann Smith      ."),
            (percents, "%C3%AB %u00eb %zz % %1+1", "ë ë %zz % %1+1"),
            (forms, "a+%EB", "a ë"),
            (entities, "&euml;&#235;&#xEB;&amp;&nbsp;&yuml;&no;&", "ëëë&\u{a0}ÿ&no;&"),
            (quoted_printable, "zo=C3=AB a=\nb a=1", "zoë ab a=1"),
            (hexadecimal, "7a6f", "zo\n\u{a6}\n"),
            (byte_numbers, "got [122 111 195 171] at 10:20:30", "zo\u{eb}\n"),
            (byte_numbers, "7a:6f:c3:ab", "zo\u{eb}\n"),
            (byte_numbers, "0x7a, 0x6f, 0xc3, 0xab", "zo\u{eb}\n"),
            (without_zeros, "z\0o\0", "zo"),
        ] {
            assert_eq!(decoder(text), expected, "{text}");
        }
        assert_eq!(LATIN_1.split_whitespace().count(), 96);
        assert!(base64("em/Dqw==").starts_with("zoë\n"));
        assert!(base64("YWxp\r\nY2U=").starts_with("alice\n"));
    }
}
