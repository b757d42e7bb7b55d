//! A record as one line for a person at a terminal: time, severity, sentence.

use std::borrow::Cow;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::printable::printable;
use cognito_auth_core::record::{Record, Severity, Value};

/// Makes a line with a coloured severity.
pub(super) fn coloured(record: &Record<'_>) -> Vec<u8> {
    let [faint, reset] = ["\u{1b}[2m", "\u{1b}[0m"];
    let colour = match record.severity {
        Severity::Info => "\u{1b}[32m",
        Severity::Warn => "\u{1b}[33m",
        Severity::Error => "\u{1b}[1;31m",
    };
    let (time, severity, sentence) = members(record);
    format!("{faint}{time}{reset} {colour}{severity:<5}{reset} {sentence}\n").into_bytes()
}

/// Makes a line without colours.
pub(super) fn plain(record: &Record<'_>) -> Vec<u8> {
    let (time, severity, sentence) = members(record);
    format!("{time} {severity:<5} {sentence}\n").into_bytes()
}

fn members<'a>(record: &'a Record<'_>) -> (String, &'static str, Cow<'a, str>) {
    let sentence = match &record.body {
        // Names and devices come from the people who sign in.
        Value::Text(sentence) => printable(sentence),
        // Standard output always has the sentence as its body.
        _ => Cow::Borrowed(record.event_name),
    };
    (time_of_day(record.timestamp.unwrap_or(record.observed)), record.severity.as_str(), sentence)
}

/// The time of day in UTC, to the second. A demo does not last for days.
fn time_of_day(time: UnixMillis) -> String {
    let text = time.to_string();
    let clock = text.split_once('T').and_then(|(_, clock)| clock.split_once('.'));
    clock.map_or(text.clone(), |(clock, _)| format!("{clock}Z"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cognito_auth_core::entry::PoolIdentity;
    use cognito_auth_core::fixtures::full_entry;
    use cognito_auth_core::record::TimestampSource;

    use super::*;

    fn line(make: fn(&Record<'_>) -> Vec<u8>, pool: &str) -> String {
        let mut entry = full_entry();
        entry.pool = Arc::new(PoolIdentity { name: pool.into(), ..PoolIdentity::clone(&entry.pool) });
        String::from_utf8(make(&Record::of(&entry, TimestampSource::Event))).unwrap()
    }

    #[test]
    fn a_line_has_time_severity_and_sentence() {
        let line = line(plain, "customers");
        assert!(line.starts_with("16:54:09Z ERROR Sign-in of alice in customers from 192.0.2.1"), "{line}");
        assert!(line.ends_with(".\n") && line.lines().count() == 1, "{line}");
    }

    #[test]
    fn colours_are_around_the_time_and_the_severity_only() {
        let coloured = line(coloured, "customers");
        let (head, sentence) = coloured.split_once("Sign-in").unwrap();
        assert_eq!(head, "\u{1b}[2m16:54:09Z\u{1b}[0m \u{1b}[1;31mERROR\u{1b}[0m ");
        assert!(!sentence.contains('\u{1b}'), "{sentence:?}");
    }

    #[test]
    fn a_hostile_text_cannot_control_the_terminal() {
        for make in [plain, coloured] {
            let line = line(make, "pool\u{1b}[2J\nforged \u{202e}line");
            assert_eq!(line.lines().count(), 1, "{line:?}");
            assert!(!line.contains("\u{1b}[2J") && !line.contains('\u{202e}'), "{line:?}");
        }
    }
}
