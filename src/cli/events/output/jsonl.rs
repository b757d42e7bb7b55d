//! One JSON object a line, in the API's own names. Where several users may come, `Username` is beside them.

use serde::Serialize;

use crate::source::cognito::wire::WireEvent;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NamedEvent<'a> {
    username: &'a str,
    #[serde(flatten)]
    event: &'a WireEvent,
}

/// Encodes a page. `username` is None where only one user can come: the lines are then those of boto3.
pub(super) fn page(username: Option<&str>, events: &[WireEvent]) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![];
    for event in events {
        match username {
            Some(username) => serde_json::to_writer(&mut bytes, &NamedEvent { username, event })?,
            None => serde_json::to_writer(&mut bytes, event)?,
        }
        bytes.push(b'\n');
    }
    Ok(bytes)
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
}
