//! Pagination of a user's history: pages, and the tokens that lead to the next page.
//!
//! The published samples show one style of token, a key without server state (`<EventId>#<CreationDate>`). AWS does not
//! promise this style, so a pool can use others, including the most difficult ones for a client.

use std::collections::HashMap;
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;

use super::history::HistoryEvent;
use super::wire;

/// The style of a pool's tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TokenStyle {
    /// `<EventId>#<CreationDate>`, as in the samples. New events do not shift the pages, and the token never expires.
    /// If the event no longer exists, the page begins at the token's time.
    #[default]
    Key,
    /// A random text. It is valid for `lifetime` and refused afterwards.
    Opaque {
        /// How long the token is valid.
        lifetime: Duration,
    },
    /// A number of events to skip. Each new event shifts the pages.
    Offset,
}

/// Whether the last page has a token. That token leads to an empty page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LastToken {
    /// Never.
    Never,
    /// When the page is full, like a store that does not look ahead. In the published samples, pages of one event have
    /// a token; the requests apparently asked for one event.
    #[default]
    WhenFull,
    /// When the page contains an event.
    Always,
}

/// The start of a page in a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Position {
    /// At the newest event.
    Newest,
    /// After (older than) this event.
    AfterEvent { key: String, time: UnixMillis },
    /// After this many events.
    AfterCount(usize),
}

/// The most opaque tokens that are remembered. At the limit, the expired tokens are forgotten; if none is expired, all.
const REMEMBERED_MAX: usize = 100_000;

/// The opaque tokens that were issued.
#[derive(Debug, Default)]
pub(super) struct TokenTable {
    remembered: HashMap<String, IssuedToken>,
}

#[derive(Debug)]
struct IssuedToken {
    owner: (String, String),
    position: Position,
    expires: UnixMillis,
}

impl TokenTable {
    /// Issues the token that leads to `position` in the history of `owner` (pool, user).
    pub(super) fn issue(
        &mut self,
        style: TokenStyle,
        owner: (&str, &str),
        position: &Position,
        now: UnixMillis,
        random: impl FnOnce() -> String,
    ) -> String {
        match (style, position) {
            // A key that is newer than every event leads to the first page.
            (TokenStyle::Key, Position::Newest | Position::AfterCount(_)) => {
                format!("{}#9999-12-31T23:59:59.999Z", random())
            }
            (TokenStyle::Key, Position::AfterEvent { key, time }) => format!("{key}#{time}"),
            (TokenStyle::Offset, Position::AfterCount(count)) => format!("offset-{count}"),
            (TokenStyle::Offset, Position::Newest | Position::AfterEvent { .. }) => "offset-0".to_owned(),
            (TokenStyle::Opaque { lifetime }, _) => {
                if self.remembered.len() >= REMEMBERED_MAX {
                    self.remembered.retain(|_, token| token.expires > now);
                }
                if self.remembered.len() >= REMEMBERED_MAX {
                    self.remembered.clear();
                }
                let token = random();
                let remembered = IssuedToken {
                    owner: (owner.0.to_owned(), owner.1.to_owned()),
                    position: position.clone(),
                    expires: now.plus(lifetime),
                };
                self.remembered.insert(token.clone(), remembered);
                token
            }
        }
    }

    /// Reads a token. None means that the service refuses it.
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
                let time = wire::parse_rfc3339(time)?;
                (!key.is_empty()).then(|| Position::AfterEvent { key: key.to_owned(), time })
            }
            TokenStyle::Offset => Some(Position::AfterCount(token.strip_prefix("offset-")?.parse().ok()?)),
            TokenStyle::Opaque { .. } => self
                .remembered
                .get(token)
                .filter(|known| known.expires > now && (known.owner.0.as_str(), known.owner.1.as_str()) == owner)
                .map(|known| known.position.clone()),
        }
    }
}

/// A page of a history, and the start of the next page.
#[derive(Debug)]
pub(super) struct HistoryPage<'a> {
    pub(super) events: Vec<&'a HistoryEvent>,
    pub(super) next: Option<Position>,
}

/// Reads a page of at most `max` events (at least 1) from a history that is stored oldest first. Only events that are
/// visible at `now` count.
pub(super) fn page<'a>(
    oldest_first: &'a [HistoryEvent],
    start: &Position,
    max: usize,
    style: TokenStyle,
    last: LastToken,
    now: UnixMillis,
) -> HistoryPage<'a> {
    let (end, skip) = match start {
        Position::Newest => (oldest_first.len(), 0),
        Position::AfterCount(count) => (oldest_first.len(), *count),
        Position::AfterEvent { key, time } => {
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
        TokenStyle::Offset => Position::AfterCount(skip + events.len()),
        TokenStyle::Key | TokenStyle::Opaque { .. } => {
            Position::AfterEvent { key: event.key.clone(), time: event.time }
        }
    });
    HistoryPage { events, next }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn history(times: &[i64]) -> Vec<HistoryEvent> {
        let stored = |(index, time): (usize, &i64)| HistoryEvent {
            key: format!("event-{index}"),
            time: UnixMillis(*time),
            visible_at: UnixMillis(*time),
            json: "{}".into(),
        };
        times.iter().enumerate().map(stored).collect()
    }

    /// The keys of each page of a history. Each token is issued and redeemed on the way.
    fn walk(events: &[HistoryEvent], max: usize, style: TokenStyle, last: LastToken) -> Vec<Vec<String>> {
        let mut table = TokenTable::default();
        let mut pages = vec![];
        let mut start = Position::Newest;
        loop {
            let page = page(events, &start, max, style, last, NOW);
            pages.push(page.events.iter().map(|event| event.key.clone()).collect());
            let Some(next) = page.next else { return pages };
            let random = || format!("random-{}", pages.len());
            let token = table.issue(style, ("pool", "user"), &next, NOW, random);
            start = table.redeem(style, ("pool", "user"), &token, NOW).unwrap();
        }
    }

    #[test]
    fn every_kind_of_token_walks_to_the_end_and_repeats_nothing() {
        // Three events have the same time, and some page sizes separate them.
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
        let start =
            TokenTable::default().redeem(TokenStyle::Key, ("p", "u"), "gone#1970-01-01T00:00:00.002Z", NOW).unwrap();
        let page = page(&events, &start, 60, TokenStyle::Key, LastToken::Never, NOW);
        assert_eq!(page.events.len(), 2);
    }

    #[test]
    fn arrivals_shift_offsets_and_nothing_else() {
        let mut events = history(&[1, 2, 3, 4]);
        let style = TokenStyle::Offset;
        let first = page(&events, &Position::Newest, 2, style, LastToken::Never, NOW);
        let next = first.next.unwrap();
        events.extend(history(&[10]));
        let second = page(&events, &next, 2, style, LastToken::Never, NOW);
        assert_eq!(second.events[0].time, UnixMillis(3), "taken before");
    }

    #[test]
    fn an_opaque_token_dies_and_belongs_to_one_user() {
        let style = TokenStyle::Opaque { lifetime: Duration::from_millis(10) };
        let mut table = TokenTable::default();
        let token = table.issue(style, ("p", "u"), &Position::Newest, NOW, || "t".into());
        let redeem = |owner, at| table.redeem(style, owner, &token, UnixMillis(at));
        assert_eq!(redeem(("p", "u"), NOW.0 + 9), Some(Position::Newest));
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
