//! `key=value` pairs in an environment variable, the OpenTelemetry specification's form of headers and resource
//! attributes: separated by commas, with percent-encoded values (W3C Baggage without properties).

/// The accepted form, for error messages.
pub(super) const ACCEPTED: &str = "key=value pairs separated by commas, with percent-encoded values";

/// Parses the pairs in their order. White space around keys and values and empty pairs are ignored. The error of a
/// malformed pair shows none of its content, which may be secret.
pub(super) fn parse_each(text: &str) -> impl Iterator<Item = Result<(String, String), String>> {
    text.split(',')
        .map(str::trim)
        .enumerate()
        .filter(|(_, pair)| !pair.is_empty())
        .map(|(index, pair)| parse_pair(pair).map_err(|wrong| format!("pair {} {wrong}", index + 1)))
}

fn parse_pair(pair: &str) -> Result<(String, String), &'static str> {
    let (key, value) = pair.split_once('=').ok_or("has no \"=\"")?;
    let decode = |text: &str| percent_decode(text.trim()).ok_or("has a \"%\" that does not begin an encoded character");
    let key = decode(key)?;
    if key.is_empty() {
        return Err("has no key");
    }
    Ok((key, decode(value)?))
}

/// Decodes `%41` to `A`. None if two hexadecimal digits are missing or the result is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let hexadecimal = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hexadecimal(bytes.next())? << 4 | hexadecimal(bytes.next())?,
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
        parse_each(text).collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn pairs_are_split_trimmed_and_decoded() {
        for (text, pairs) in [
            ("", owned(&[])),
            (" , ,", owned(&[])),
            ("a=1", owned(&[("a", "1")])),
            (" a = 1 ,b=2,", owned(&[("a", "1"), ("b", "2")])),
            ("authorization=Basic%20dTpw==", owned(&[("authorization", "Basic dTpw==")])),
            ("a%2Cb=%C3%A9%2c", owned(&[("a,b", "é,")])),
            ("a=", owned(&[("a", "")])),
        ] {
            assert_eq!(parse(text), Ok(pairs), "{text}");
        }
    }

    #[test]
    fn a_bad_pair_is_numbered_and_not_shown() {
        for (text, wrong) in [
            ("Bearer hunter2", "pair 1 has no \"=\""),
            ("a=1,=hunter2", "pair 2 has no key"),
            ("a=hunter%2", "pair 1 has a \"%\" that does not begin an encoded character"),
            ("a=hunter%zz", "pair 1 has a \"%\" that does not begin an encoded character"),
            ("a=hunter%FF", "pair 1 has a \"%\" that does not begin an encoded character"),
        ] {
            assert_eq!(parse(text), Err(wrong.to_owned()), "{text}");
        }
    }
}
