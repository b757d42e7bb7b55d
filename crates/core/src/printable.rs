//! Removes control characters and changes of writing direction from texts that come from outside.
//!
//! A device's name comes from the person who signs in, a tier from a service, an error from a receiver. A terminal
//! obeys control characters, and a bidirectional override makes a line read as another one.

use std::borrow::Cow;

/// The replacement of a character that is not shown.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Replaces every character of a text that [is a command](is_commanding). Line breaks are replaced, too.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_commanding) {
        text.chars().map(|char| if is_commanding(char) { REPLACEMENT } else { char }).collect()
    } else {
        Cow::Borrowed(text)
    }
}

/// Makes one line of a message of several lines, of at most `chars_max` characters. White space replaces control
/// characters, and is trimmed at both ends.
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

/// Whether a character is a command: a control character, the end of a line or paragraph, or a change of the writing
/// direction (Unicode's `Bidi_Control`).
pub fn is_commanding(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}' | '\u{2029}') || is_direction(char)
}

/// Whether a character is invisible between letters: one of no width, or a change of the writing direction.
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
