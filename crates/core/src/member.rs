//! Members of answers and records from outside: empty texts are absent, long texts are cut, impossible times are
//! absent.
//!
//! Pure. AWS writes every text of an event, but users choose some of them. So each text has a bound here, before it is
//! kept anywhere.

use std::borrow::Cow;

use crate::event::{UnixMillis, Vocabulary, Word};

/// The first time that is too late for a CreationDate, 2200-01-01. Milliseconds sent as seconds would be 50,000 years
/// ahead. Such a date is absent, because every receiver would refuse it.
pub const LATEST: UnixMillis = UnixMillis(7_258_118_400_000);

/// The most bytes of a text that are kept; the rest is cut off. Cognito's texts have some dozens. A record whose texts
/// all have this length stays below the limit of receivers (1 MiB).
pub const TEXT_BYTES_MAX: usize = 64 << 10;

/// Returns a text that is not empty.
pub fn said(member: Option<String>) -> Option<String> {
    member.filter(|text| !text.is_empty())
}

/// Returns a text that is not empty, cut to [`TEXT_BYTES_MAX`].
pub fn text<'a>(member: Option<impl Into<Cow<'a, str>>>) -> Option<String> {
    let text = member?.into();
    match cut(&text) {
        "" => None,
        cut if cut.len() < text.len() => Some(cut.to_owned()),
        _ => Some(text.into_owned()),
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// Returns an EventId. One that is too long is absent, because half an id could equal another event's.
pub fn event_id(member: Option<String>) -> Option<String> {
    said(member).filter(|id| id.len() <= TEXT_BYTES_MAX)
}

/// Returns a text about the user's place or device. Cognito writes the word "null" for an unknown city.
pub fn place<'a>(member: Option<impl Into<Cow<'a, str>>>) -> Option<String> {
    text(member).filter(|text| text != "null")
}

/// Returns a word of the API.
pub fn word<'a, V: Vocabulary>(member: Option<impl Into<Cow<'a, str>>>) -> Option<Word<V>> {
    let text = member?.into();
    (!text.is_empty()).then(|| Word::parse(cut(&text)))
}

/// Returns a CreationDate that can be meant.
pub fn creation_date(member: Option<UnixMillis>) -> Option<UnixMillis> {
    member.filter(|time| *time < LATEST)
}
