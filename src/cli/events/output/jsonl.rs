//! One JSON object a line, in the API's own names. Where several users may come, `Username` is beside them. On a
//! terminal, characters that would command it are escaped.

use cognito_auth_core::printable::is_commanding;
use serde::Serialize;

use super::OutputShape;
use crate::source::cognito::wire::WireEvent;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NamedEvent<'a> {
    username: &'a str,
    #[serde(flatten)]
    event: &'a WireEvent,
}

/// Encodes lines of JSON.
pub(in crate::cli::events) struct JsonlEncoder {
    /// Where only one user can come, the lines are those of boto3.
    several_users: bool,
    to_terminal: bool,
}

impl JsonlEncoder {
    pub(super) fn new(shape: OutputShape) -> Self {
        Self { several_users: shape.several_users, to_terminal: shape.to_terminal }
    }

    /// Encodes a page.
    ///
    /// # Errors
    /// Those of serde_json; none is known for events.
    pub(super) fn page(&self, username: &str, events: &[WireEvent]) -> anyhow::Result<Vec<u8>> {
        let mut lines = String::new();
        for event in events {
            let line = if self.several_users {
                serde_json::to_string(&NamedEvent { username, event })?
            } else {
                serde_json::to_string(event)?
            };
            lines += &if self.to_terminal { escaped(line) } else { line };
            lines.push('\n');
        }
        Ok(lines.into_bytes())
    }
}

/// Writes the characters that command a terminal in JSON's own escapes. They occur in strings only, so the value stays
/// the same.
fn escaped(json: String) -> String {
    if !json.contains(is_commanding) {
        return json;
    }
    let mut units = [0; 2];
    json.chars().fold(String::new(), |mut text, char| {
        if is_commanding(char) {
            text.extend(char.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            text.push(char);
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{printed, sign_in};
    use super::super::{EventsOutput, OutputShape};

    #[test]
    fn the_username_comes_first_where_several_users_may_come() {
        let alone = printed(EventsOutput::Jsonl, OutputShape::default(), &[vec![sign_in("Chrome")]]);
        let several = OutputShape { several_users: true, ..OutputShape::default() };
        let named = printed(EventsOutput::Jsonl, several, &[vec![sign_in("Chrome")]]);
        assert!(alone.starts_with(r#"{"EventId":"768d375c"#), "{alone}");
        assert_eq!(named, alone.replacen('{', r#"{"Username":"ada","#, 1));
    }
    #[test]
    fn a_terminal_is_not_driven_and_the_value_stays_the_same() {
        let device = "\u{1b}[2J\u{9b}31m\u{202e}nimda\u{7f}\u{2028} 東京 😀";
        let on_terminal = OutputShape { to_terminal: true, ..OutputShape::default() };
        let shown = printed(EventsOutput::Jsonl, on_terminal, &[vec![sign_in(device)]]);
        assert!(shown.contains(r"\u001b[2J\u009b31m\u202enimda\u007f\u2028 東京 😀"), "{shown:?}");
        let plain = printed(EventsOutput::Jsonl, OutputShape::default(), &[vec![sign_in(device)]]);
        assert!(plain.contains("\u{9b}31m\u{202e}nimda\u{7f}\u{2028}"), "a pipe has boto3's own bytes: {plain:?}");
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        assert_eq!(value(&shown), value(&plain));
        assert_eq!(value(&shown)["EventContextData"]["DeviceName"], device);
    }
}
