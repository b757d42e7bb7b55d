//! Tokens: where in a user's history a page goes on.
//!
//! The published samples show one kind, a key that needs no memory (`<EventId>#<CreationDate>`). Nothing promises it, so a
//! pool can be told to hand out others, down to the worst that a client has to survive.

use std::collections::HashMap;
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;

use super::world::StoredEvent;

/// The kind of token that a pool hands out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TokenStyle {
    /// `<EventId>#<CreationDate>`, as in the samples: arrivals shift nothing, and it never expires. An id that is not
    /// there (any more) falls back to its time.
    #[default]
    Key,
    /// A word without meaning, remembered for a while and refused afterwards.
    Opaque {
        /// How long it is remembered.
        lifetime: Duration,
    },
    /// A number of events to skip: every arrival shifts the pages.
    Offset,
}

/// Whether the last page carries a token, one that leads to an empty page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LastToken {
    /// Never.
    Never,
    /// When the page is full, like a store that does not look ahead. The samples with one event and a token were asked
    /// for one event, as far as one can tell.
    #[default]
    WhenFull,
    /// Whenever the page holds an event.
    Always,
}

/// Where a page begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Position {
    /// At the newest event.
    Top,
    /// Behind (older than) this one.
    Behind { key: String, time: UnixMillis },
    /// After so many events.
    After(usize),
}

/// Tokens that are remembered at most; beyond, the oldest are forgotten, as if expired.
const REMEMBERED_MAX: usize = 100_000;

/// The opaque tokens that were handed out.
#[derive(Debug, Default)]
pub(super) struct TokenTable {
    remembered: HashMap<String, Remembered>,
}

#[derive(Debug)]
struct Remembered {
    owner: (String, String),
    position: Position,
    expires: UnixMillis,
}

impl TokenTable {
    /// Writes the token that leads to `position` in the history of `owner` (pool, user).
    pub(super) fn issue(
        &mut self,
        style: TokenStyle,
        owner: (&str, &str),
        position: &Position,
        now: UnixMillis,
        random: impl FnOnce() -> String,
    ) -> String {
        match (style, position) {
            // A key that is newer than every event leads to the top.
            (TokenStyle::Key, Position::Top | Position::After(_)) => format!("{}#9999-12-31T23:59:59.999Z", random()),
            (TokenStyle::Key, Position::Behind { key, time }) => format!("{key}#{time}"),
            (TokenStyle::Offset, Position::After(count)) => format!("offset-{count}"),
            (TokenStyle::Offset, Position::Top | Position::Behind { .. }) => "offset-0".to_owned(),
            (TokenStyle::Opaque { lifetime }, _) => {
                if self.remembered.len() >= REMEMBERED_MAX {
                    self.remembered.retain(|_, token| token.expires > now);
                }
                if self.remembered.len() >= REMEMBERED_MAX {
                    self.remembered.clear();
                }
                let token = random();
                let remembered = Remembered {
                    owner: (owner.0.to_owned(), owner.1.to_owned()),
                    position: position.clone(),
                    expires: now.plus(lifetime),
                };
                self.remembered.insert(token.clone(), remembered);
                token
            }
        }
    }

    /// Reads a token; None is one that the service refuses.
    pub(super) fn redeem(
        &self,
        style: TokenStyle,
        owner: (&str, &str),
        token: &str,
        now: UnixMillis,
    ) -> Option<Position> {
        match style {
            TokenStyle::Key => {
                let (key, time) = token.rsplit_once('#')?;
                let time = super::wire::parse_rfc3339(time)?;
                (!key.is_empty()).then(|| Position::Behind { key: key.to_owned(), time })
            }
            TokenStyle::Offset => Some(Position::After(token.strip_prefix("offset-")?.parse().ok()?)),
            TokenStyle::Opaque { .. } => self
                .remembered
                .get(token)
                .filter(|known| known.expires > now && (known.owner.0.as_str(), known.owner.1.as_str()) == owner)
                .map(|known| known.position.clone()),
        }
    }
}

/// A page of a history, and where the next one begins.
#[derive(Debug)]
pub(super) struct Slice<'a> {
    pub(super) events: Vec<&'a StoredEvent>,
    pub(super) next: Option<Position>,
}

/// Cuts a page of at most `max` events (not 0) out of a history that is stored oldest first. Only what is visible exists.
pub(super) fn cut<'a>(
    oldest_first: &'a [StoredEvent],
    from: &Position,
    max: usize,
    style: TokenStyle,
    last: LastToken,
    now: UnixMillis,
) -> Slice<'a> {
    let (end, skip) = match from {
        Position::Top => (oldest_first.len(), 0),
        Position::After(count) => (oldest_first.len(), *count),
        Position::Behind { key, time } => {
            let begin_of_time = oldest_first.partition_point(|event| event.time < *time);
            let end_of_time = oldest_first.partition_point(|event| event.time <= *time);
            let found = (begin_of_time..end_of_time).find(|index| oldest_first[*index].key == *key);
            (found.unwrap_or(end_of_time), 0)
        }
    };
    let mut older = oldest_first[..end].iter().rev().filter(|event| event.visible_at <= now).skip(skip);
    let events: Vec<_> = older.by_ref().take(max).collect();
    let more = match last {
        LastToken::Never => older.next().is_some(),
        LastToken::WhenFull => events.len() == max,
        LastToken::Always => !events.is_empty(),
    };
    let next = events.last().filter(|_| more).map(|event| match style {
        TokenStyle::Offset => Position::After(skip + events.len()),
        TokenStyle::Key | TokenStyle::Opaque { .. } => Position::Behind { key: event.key.clone(), time: event.time },
    });
    Slice { events, next }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn history(times: &[i64]) -> Vec<StoredEvent> {
        let stored = |(index, time): (usize, &i64)| StoredEvent {
            key: format!("event-{index}"),
            time: UnixMillis(*time),
            visible_at: UnixMillis(*time),
            json: "{}".into(),
        };
        times.iter().enumerate().map(stored).collect()
    }

    /// Every key of a history in the order of its pages, each token written and read on the way.
    fn walk(events: &[StoredEvent], max: usize, style: TokenStyle, last: LastToken) -> Vec<Vec<String>> {
        let mut table = TokenTable::default();
        let mut pages = vec![];
        let mut from = Position::Top;
        loop {
            let slice = cut(events, &from, max, style, last, NOW);
            pages.push(slice.events.iter().map(|event| event.key.clone()).collect());
            let Some(next) = slice.next else { return pages };
            let random = || format!("random-{}", pages.len());
            let token = table.issue(style, ("pool", "user"), &next, NOW, random);
            from = table.redeem(style, ("pool", "user"), &token, NOW).unwrap();
        }
    }

    #[test]
    fn every_kind_of_token_walks_to_the_end_and_repeats_nothing() {
        // Three events share a time, across the page's edge.
        let events = history(&[1, 2, 5, 5, 5, 7, 9]);
        let newest_first: Vec<_> = events.iter().rev().map(|event| event.key.clone()).collect();
        let opaque = TokenStyle::Opaque { lifetime: Duration::from_secs(1) };
        for style in [TokenStyle::Key, opaque, TokenStyle::Offset] {
            for last in [LastToken::Never, LastToken::WhenFull, LastToken::Always] {
                for max in 1..=8 {
                    assert_eq!(walk(&events, max, style, last).concat(), newest_first, "{style:?} {last:?} {max}");
                }
            }
        }
    }

    #[test]
    fn a_last_page_may_lead_to_an_empty_one() {
        let events = history(&[1, 2]);
        let pages = |max, last| walk(&events, max, TokenStyle::Key, last).len();
        assert_eq!(pages(2, LastToken::Never), 1);
        assert_eq!(pages(2, LastToken::WhenFull), 2);
        assert_eq!(pages(3, LastToken::WhenFull), 1);
        assert_eq!(pages(3, LastToken::Always), 2);
    }

    #[test]
    fn a_key_whose_event_is_gone_falls_back_to_its_time() {
        let events = history(&[1, 2, 3]);
        let from =
            TokenTable::default().redeem(TokenStyle::Key, ("p", "u"), "gone#1970-01-01T00:00:00.002Z", NOW).unwrap();
        let slice = cut(&events, &from, 60, TokenStyle::Key, LastToken::Never, NOW);
        assert_eq!(slice.events.len(), 2);
    }

    #[test]
    fn arrivals_shift_offsets_and_nothing_else() {
        let mut events = history(&[1, 2, 3, 4]);
        let style = TokenStyle::Offset;
        let first = cut(&events, &Position::Top, 2, style, LastToken::Never, NOW);
        let next = first.next.unwrap();
        events.extend(history(&[10]));
        let second = cut(&events, &next, 2, style, LastToken::Never, NOW);
        assert_eq!(second.events[0].time, UnixMillis(3), "taken before");
    }

    #[test]
    fn an_opaque_token_dies_and_belongs_to_one_user() {
        let style = TokenStyle::Opaque { lifetime: Duration::from_millis(10) };
        let mut table = TokenTable::default();
        let token = table.issue(style, ("p", "u"), &Position::Top, NOW, || "t".into());
        let redeem = |owner, at| table.redeem(style, owner, &token, UnixMillis(at));
        assert_eq!(redeem(("p", "u"), NOW.0 + 9), Some(Position::Top));
        assert_eq!(redeem(("p", "u"), NOW.0 + 10), None);
        assert_eq!(redeem(("p", "other"), NOW.0), None);
    }

    #[test]
    fn garbage_is_refused() {
        let table = TokenTable::default();
        for style in [TokenStyle::Key, TokenStyle::Offset] {
            for token in ["", "x", "#", "#2024-08-08T16:54:09.929Z", "id#yesterday", "offset--1"] {
                assert_eq!(table.redeem(style, ("p", "u"), token, NOW), None, "{token}");
            }
        }
    }

    #[test]
    fn what_is_not_visible_yet_is_on_no_page() {
        let mut events = history(&[1, 2, 3]);
        events[1].visible_at = UnixMillis(NOW.0 + 1);
        assert_eq!(walk(&events, 60, TokenStyle::Key, LastToken::Never), [["event-2", "event-0"]]);
    }
}
