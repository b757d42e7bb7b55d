//! The names of the ledger's records outside it: in exports, and in reports of damage.
//!
//! A name has the same information as the record's key, in a form for people and files.

use cognito_auth_core::event::EventKey;
use serde::{Deserialize, Serialize};

use super::UserRecord;
use super::envelope::{
    Count, Gone, Instance, LostSince, OtherName, PrivacyNote, StoreFormat, StoredPool, StoredReadPosition,
    StoredRecord as _, StoredScrapes, ToldSince,
};
use super::error::LedgerError;
use super::keys;
use super::outbox;
use super::quarantine;
use super::stored_user::StoredUser;
use super::told::StoredTold;

/// The name of a record of the ledger.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum RecordName {
    /// A record of the whole ledger.
    Ledger {
        /// `format`, `instance`, `sequence`, `groups`, `lost-since`, `privacy` or `scrapes`.
        name: String,
    },
    /// A pool that is followed.
    Pool {
        /// Its id.
        user_pool_id: String,
    },
    /// A durable counter.
    Total {
        /// The pool's id.
        user_pool_id: String,
        /// The counter and its labels, as the ledger writes them.
        series: String,
    },
    /// A user and its cursor.
    User {
        /// The pool's id.
        user_pool_id: String,
        /// The user.
        username: String,
    },
    /// A note that a user is gone.
    Gone {
        /// The pool's id.
        user_pool_id: String,
        /// The user.
        username: String,
    },
    /// A note that a name is another name of a followed user.
    OtherName {
        /// The pool's id.
        user_pool_id: String,
        /// The other name.
        username: String,
    },
    /// How far the log group of a pool's export was read.
    ReadPosition {
        /// The pool's id.
        user_pool_id: String,
    },
    /// An entry of the outbox, or a segment of entries.
    Outbox {
        /// The number of the first entry, which is its place in the order.
        number: u64,
    },
    /// The time from which on a pool's told events are complete.
    ToldSince {
        /// The pool's id.
        user_pool_id: String,
    },
    /// A told event of a pool with an export.
    Told {
        /// The pool's id.
        user_pool_id: String,
        /// The second of its date, since 1970.
        second: i64,
        /// The digest of its EventId: 32 hexadecimal digits.
        event: String,
    },
    /// An entry of the quarantine.
    Quarantine {
        /// Its number.
        number: u64,
    },
}

/// The keys of the records of the whole ledger.
const OF_THE_LEDGER: [&[u8]; 7] =
    [keys::FORMAT, keys::INSTANCE, keys::SEQUENCE, keys::GROUPS, keys::LOST_SINCE, keys::PRIVACY, keys::SCRAPES];

impl RecordName {
    /// The kinds of records.
    pub const KINDS: [&'static str; 11] = [
        "ledger",
        "pool",
        "total",
        "user",
        "gone",
        "other_name",
        "told_since",
        "told",
        "read_position",
        "outbox",
        "quarantine",
    ];

    /// Returns the record's kind, one of [`RecordName::KINDS`].
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ledger { .. } => "ledger",
            Self::Pool { .. } => "pool",
            Self::Total { .. } => "total",
            Self::User { .. } => "user",
            Self::Gone { .. } => "gone",
            Self::OtherName { .. } => "other_name",
            Self::ToldSince { .. } => "told_since",
            Self::Told { .. } => "told",
            Self::ReadPosition { .. } => "read_position",
            Self::Outbox { .. } => "outbox",
            Self::Quarantine { .. } => "quarantine",
        }
    }

    /// Returns the name of the record with this key; None for a key that no build writes.
    pub(super) fn of(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_at_checked(2)?;
        let text = || std::str::from_utf8(rest).ok().map(str::to_owned);
        let pair = || text()?.split_once('/').map(|(pool, rest)| (pool.to_owned(), rest.to_owned()));
        Some(match kind {
            b"m/" if OF_THE_LEDGER.contains(&key) => Self::Ledger { name: text()? },
            b"p/" => Self::Pool { user_pool_id: text()? },
            b"t/" => pair().map(|(user_pool_id, series)| Self::Total { user_pool_id, series })?,
            b"u/" => pair().map(|(user_pool_id, username)| Self::User { user_pool_id, username })?,
            b"a/" => pair().map(|(user_pool_id, username)| Self::OtherName { user_pool_id, username })?,
            b"g/" => pair().map(|(user_pool_id, username)| Self::Gone { user_pool_id, username })?,
            b"c/" => Self::ToldSince { user_pool_id: text()? },
            b"e/" => keys::told_of(key).map(|(pool_id, second, event)| Self::Told {
                user_pool_id: pool_id.to_owned(),
                second,
                event: event.to_string(),
            })?,
            b"r/" => Self::ReadPosition { user_pool_id: text()? },
            b"o/" => Self::Outbox { number: keys::sequence_of(key)? },
            b"q/" => Self::Quarantine { number: keys::sequence_of(key)? },
            _ => return None,
        })
    }

    /// Returns the key of the record with this name; None for a name that no build gives.
    pub(super) fn key(&self) -> Option<Vec<u8>> {
        let key = match self {
            Self::Ledger { name } => [b"m/", name.as_bytes()].concat(),
            Self::Pool { user_pool_id } => keys::pool(user_pool_id),
            Self::Total { user_pool_id, series } => [b"t/", user_pool_id.as_bytes(), b"/", series.as_bytes()].concat(),
            Self::User { user_pool_id, username } => {
                [b"u/", user_pool_id.as_bytes(), b"/", username.as_bytes()].concat()
            }
            Self::Gone { user_pool_id, username } => {
                [b"g/", user_pool_id.as_bytes(), b"/", username.as_bytes()].concat()
            }
            Self::OtherName { user_pool_id, username } => {
                [b"a/", user_pool_id.as_bytes(), b"/", username.as_bytes()].concat()
            }
            Self::ToldSince { user_pool_id } => keys::told_since(user_pool_id),
            Self::Told { user_pool_id, second, event } => {
                let digest = u128::from_str_radix(event, 16).ok()?;
                keys::told(user_pool_id, *second, EventKey(digest.to_be_bytes()))
            }
            Self::ReadPosition { user_pool_id } => keys::read_position(user_pool_id),
            Self::Outbox { number } => keys::outbox(*number),
            Self::Quarantine { number } => keys::quarantine(*number),
        };
        // A pool id with a slash would make another record's key.
        (Self::of(&key).as_ref() == Some(self)).then_some(key)
    }

    /// Decodes a whole record, to find damage.
    ///
    /// # Errors
    /// The record is damaged, or a newer build has written it.
    pub(super) fn check(&self, value: &[u8]) -> Result<(), LedgerError> {
        match self {
            Self::Ledger { name } => match name.as_str() {
                "format" => match StoreFormat::open(value)?.number {
                    known if known <= StoreFormat::NUMBER => Ok(()),
                    found => {
                        Err(LedgerError::NewerVersion { what: StoreFormat::WHAT, found, known: StoreFormat::NUMBER })
                    }
                },
                "instance" => Instance::open(value).map(drop),
                "lost-since" => LostSince::open(value).map(drop),
                "privacy" => PrivacyNote::open(value).map(drop),
                "scrapes" => StoredScrapes::open(value).map(drop),
                _ => Count::open(value).map(drop),
            },
            Self::Pool { .. } => StoredPool::open(value).map(drop),
            Self::Total { .. } => Count::open(value).map(drop),
            Self::User { .. } => UserRecord::try_from(StoredUser::open(value)?).map(drop),
            Self::Gone { .. } => Gone::open(value).map(drop),
            Self::OtherName { .. } => OtherName::open(value).map(drop),
            Self::ToldSince { .. } => ToldSince::open(value).map(drop),
            Self::Told { .. } => StoredTold::check(value),
            Self::ReadPosition { .. } => StoredReadPosition::open(value).map(drop),
            Self::Outbox { number } => outbox::check(*number, value),
            Self::Quarantine { .. } => quarantine::check(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_key_say_the_same() {
        for key in [
            keys::FORMAT.to_vec(),
            keys::GROUPS.to_vec(),
            keys::SCRAPES.to_vec(),
            keys::pool("eu-west-1_A"),
            keys::total("eu-west-1_A", "events/a/b"),
            keys::user("eu-west-1_A", "a/b"),
            keys::gone(&keys::user("eu-west-1_A", "ü")),
            keys::other_name(&keys::user("eu-west-1_A", "ü/b")),
            keys::told_since("eu-west-1_A"),
            keys::told("eu-west-1_A", -7, EventKey([3; 16])),
            keys::read_position("eu-west-1_A"),
            keys::outbox(7),
            keys::quarantine(u64::MAX),
        ] {
            let name = RecordName::of(&key).unwrap();
            assert_eq!(name.key(), Some(key));
            let text = serde_json::to_string(&name).unwrap();
            assert_eq!(serde_json::from_str::<RecordName>(&text).unwrap(), name);
            assert!(text.contains(&format!("\"record\":\"{}\"", name.kind())), "{text}");
        }
    }

    #[test]
    fn what_no_build_writes_has_no_name_and_no_key() {
        for key in [&b"x/1"[..], b"o/short", b"u/no-user", b"m/other", b""] {
            assert_eq!(RecordName::of(key), None, "{key:?}");
        }
        assert_eq!(RecordName::Ledger { name: "other".into() }.key(), None);
        assert_eq!(RecordName::User { user_pool_id: "a/b".into(), username: "c".into() }.key(), None);
    }
}
