//! The dates of exported records.
//!
//! | text | source |
//! |---|---|
//! | `Wed Jul 17 17:25:55 UTC 2024` | the published sample: whole seconds |
//! | `2024-07-17T17:25:55.123Z` | RFC 3339; not seen, and cheap to read |
//! | `1721237155123`, `1721237155` | milliseconds or seconds since the epoch, like `eventTimestamp`; not seen |

use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::event::UnixMillis;

/// The form of the published sample, without the zone.
const SAMPLE: &[BorrowedFormatItem<'_>] =
    format_description!(version = 2, "[weekday repr:short] [month repr:short] [day] [hour]:[minute]:[second] [year]");

/// The names of the zone of the published form. A name of another zone is ambiguous, so its date is unreadable.
const UTC: [&str; 2] = [" UTC ", " GMT "];

/// A number from here on counts milliseconds: as seconds it would be the year 5138.
const SECONDS_MAX: i64 = 100_000_000_000;

/// A date, and whether it has whole seconds only.
pub(super) struct ExportedDate {
    pub(super) time: UnixMillis,
    pub(super) in_seconds: bool,
}

/// Reads a date. None if it has none of the known forms.
pub(super) fn parse(text: &str) -> Option<ExportedDate> {
    if let Ok(number) = text.parse::<i64>() {
        let in_seconds = (-SECONDS_MAX..SECONDS_MAX).contains(&number);
        let millis = if in_seconds { number.saturating_mul(1000) } else { number };
        return Some(ExportedDate { time: UnixMillis(millis), in_seconds });
    }
    if let Some(zone) = UTC.iter().find(|zone| text.contains(**zone)) {
        let time = PrimitiveDateTime::parse(&text.replacen(zone, " ", 1), SAMPLE).ok()?;
        return Some(ExportedDate { time: millis(time.assume_utc()), in_seconds: true });
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(ExportedDate { time: millis(time), in_seconds: !text.contains('.') })
}

fn millis(time: OffsetDateTime) -> UnixMillis {
    let millis = time.unix_timestamp_nanos().div_euclid(1_000_000);
    UnixMillis(i64::try_from(millis).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_date_is_read() {
        for (text, millis, in_seconds) in [
            ("Wed Jul 17 17:25:55 UTC 2024", 1_721_237_155_000, true),
            ("Wed Jul 17 17:25:55 GMT 2024", 1_721_237_155_000, true),
            ("Thu Feb 29 00:00:00 UTC 2024", 1_709_164_800_000, true),
            ("2024-07-17T17:25:55Z", 1_721_237_155_000, true),
            ("2024-07-17T19:25:55.123+02:00", 1_721_237_155_123, false),
            ("1721237155123", 1_721_237_155_123, false),
            ("1721237155", 1_721_237_155_000, true),
        ] {
            let date = parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((date.time, date.in_seconds), (UnixMillis(millis), in_seconds), "{text}");
        }
    }

    #[test]
    fn another_zone_and_any_other_text_are_no_date() {
        for text in ["Wed Jul 17 17:25:55 PDT 2024", "Wed Jul 32 17:25:55 UTC 2024", "yesterday", "", " UTC ", "1e12"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
