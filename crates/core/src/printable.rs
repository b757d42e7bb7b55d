//! Texts from outside as they may be shown: without characters that move the reader's cursor or turn its line around.
//!
//! A device's name comes from whoever signed in, a tier from a service, an error from a receiver. A terminal obeys control
//! characters, and a bidirectional override makes a line read as another one.

use std::borrow::Cow;

/// Stands for a character that is not shown.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// A text with every character replaced that is not to be seen but to be obeyed. One line becomes one line.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_commanding) {
        text.chars().map(|char| if is_commanding(char) { REPLACEMENT } else { char }).collect()
    } else {
        Cow::Borrowed(text)
    }
}

/// The same with white space in place of control characters, without any at the ends, and not longer than `chars_max`: a
/// message of several lines as one.
pub fn one_line(text: &str, chars_max: usize) -> String {
    let line = text.trim().chars().take(chars_max);
    line.map(|char| {
        if char.is_control() {
            ' '
        } else if is_commanding(char) {
            REPLACEMENT
        } else {
            char
        }
    })
    .collect()
}

/// Whether a character is a command: a control character, a line's or paragraph's end, or one that changes the direction of
/// writing (Unicode's `Bidi_Control`).
pub fn is_commanding(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}' | '\u{2029}') || is_direction(char)
}

/// Whether a character is not seen, between letters that are: of no width, or a change of direction.
pub fn is_unseen(char: char) -> bool {
    is_direction(char) || matches!(char, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

fn is_direction(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_replaced_and_everything_else_is_shown() {
        for (text, expected) in [
            ("PLUS", "PLUS"),
            ("Zoë 東京 עברית 😀", "Zoë 東京 עברית 😀"),
            ("\u{1b}[2Jgone", "\u{fffd}[2Jgone"),
            ("\u{9b}31m", "\u{fffd}31m"),
            ("a\nb\tc\u{7f}", "a\u{fffd}b\u{fffd}c\u{fffd}"),
            ("user\u{202e}nimda\u{2066}", "user\u{fffd}nimda\u{fffd}"),
            ("a\u{2028}b", "a\u{fffd}b"),
        ] {
            assert_eq!(printable(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_message_becomes_one_line_that_is_not_too_long() {
        assert_eq!(one_line(" bad\r\nrecord\u{202e}\n", 300), "bad  record\u{fffd}");
        assert_eq!(one_line("éé", 1), "é");
    }
}
