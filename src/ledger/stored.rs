//! What the ledger's values look like on disk: versioned, checksummed Protocol Buffers.
//!
//! ```text
//! value = version (1 byte) | CRC-32 of the payload (4 bytes, big endian) | payload
//! ```
//!
//! The messages here are the stored form and nothing else; the core's types know nothing of it. Fields may be added to a
//! message; a change that an older build would misread takes another version. Words are kept as they came, labels by
//! [`Label::code`].

use std::sync::Arc;

use prost::Message;

use crate::cursor::{Cursor, LastSeen, OpenWalk, Sighting, Watch};
use crate::entry::{Entry, PoolIdentity, UserIdentity};
use crate::event::{
    AuthEvent, Challenge, EventContext, EventFeedback, EventKey, EventRisk, Facts, Label, MutableDigest, UnixMillis,
    Vocabulary, Word,
};
use crate::ledger::{PoolRecord, UserRecord};
use crate::source::PageToken;

/// The version that this build writes, of every kind of record.
const VERSION: u8 = 1;

/// Why a value cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StoredError {
    #[error("written by a newer build (version {0}; this build reads up to {VERSION})")]
    Newer(u8),
    #[error("damaged: {0}")]
    Damaged(&'static str),
}

/// Wraps a message into a value.
pub(super) fn seal(message: &impl Message) -> Vec<u8> {
    let payload = message.encode_to_vec();
    let mut value = Vec::with_capacity(payload.len() + 5);
    value.push(VERSION);
    value.extend(crc32fast::hash(&payload).to_be_bytes());
    value.extend(payload);
    value
}

/// Reads the message of a value.
pub(super) fn open<M: Message + Default>(value: &[u8]) -> Result<M, StoredError> {
    let (&version, rest) = value.split_first().ok_or(StoredError::Damaged("empty"))?;
    if version > VERSION {
        return Err(StoredError::Newer(version));
    }
    let (checksum, payload) = rest.split_first_chunk::<4>().ok_or(StoredError::Damaged("too short"))?;
    if crc32fast::hash(payload) != u32::from_be_bytes(*checksum) {
        return Err(StoredError::Damaged("its checksum does not match"));
    }
    M::decode(payload).map_err(|_| StoredError::Damaged("it cannot be decoded"))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredPool {
    #[prost(sint64, tag = "1")]
    followed_since: i64,
}

impl From<&PoolRecord> for StoredPool {
    fn from(record: &PoolRecord) -> Self {
        Self { followed_since: record.followed_since.0 }
    }
}

impl From<StoredPool> for PoolRecord {
    fn from(stored: StoredPool) -> Self {
        Self { followed_since: UnixMillis(stored.followed_since) }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredText {
    #[prost(string, tag = "1")]
    pub(super) text: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct StoredTotal {
    #[prost(uint64, tag = "1")]
    pub(super) total: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredUser {
    #[prost(sint64, tag = "1")]
    joined: i64,
    #[prost(string, optional, tag = "2")]
    sub: Option<String>,
    #[prost(message, optional, tag = "3")]
    cursor: Option<StoredCursor>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredCursor {
    #[prost(sint64, tag = "1")]
    live_since: i64,
    #[prost(sint64, optional, tag = "2")]
    last_seen_time: Option<i64>,
    #[prost(string, optional, tag = "3")]
    last_seen_id: Option<String>,
    #[prost(sint64, tag = "4")]
    horizon: i64,
    #[prost(sint64, tag = "5")]
    reread_at: i64,
    #[prost(message, repeated, tag = "6")]
    seen: Vec<StoredSighting>,
    #[prost(message, repeated, tag = "7")]
    undated: Vec<StoredSighting>,
    #[prost(message, repeated, tag = "8")]
    open: Vec<StoredOpenWalk>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredSighting {
    /// Milliseconds after the sighting before it (the first: after the epoch), so that most take few bytes.
    #[prost(sint64, tag = "1")]
    time_step: i64,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(fixed64, tag = "3")]
    digest: u64,
    #[prost(uint32, tag = "4")]
    revision: u32,
    #[prost(bool, tag = "5")]
    history: bool,
    /// event_type, response, decision, level, feedback: a code of at most 15 in four bits each.
    #[prost(uint32, tag = "6")]
    labels: u32,
    #[prost(bool, tag = "7")]
    compromised: bool,
    /// Name and response of each challenge, four bits each.
    #[prost(bytes = "vec", tag = "8")]
    challenges: Vec<u8>,
    #[prost(message, optional, tag = "9")]
    watch: Option<StoredWatch>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredWatch {
    #[prost(sint64, tag = "1")]
    until: i64,
    #[prost(sint64, tag = "2")]
    next_look: i64,
    #[prost(uint32, tag = "3")]
    last_looks: u32,
}

#[derive(Clone, PartialEq, Message)]
struct StoredOpenWalk {
    #[prost(string, optional, tag = "1")]
    token: Option<String>,
    #[prost(sint64, tag = "2")]
    foot: i64,
    #[prost(sint64, tag = "3")]
    end: i64,
}

impl From<&UserRecord> for StoredUser {
    fn from(record: &UserRecord) -> Self {
        let cursor = &record.cursor;
        let mut previous = 0_i64;
        let seen = cursor.seen.iter().map(|((time, key), sighting)| {
            let step = time.0.wrapping_sub(std::mem::replace(&mut previous, time.0));
            stored_sighting(step, *key, sighting)
        });
        Self {
            joined: record.joined.0,
            sub: record.sub.clone(),
            cursor: Some(StoredCursor {
                live_since: cursor.live_since.0,
                last_seen_time: cursor.last_seen.as_ref().map(|last| last.time.0),
                last_seen_id: cursor.last_seen.as_ref().and_then(|last| last.id.clone()),
                horizon: cursor.horizon.0,
                reread_at: cursor.reread_at.0,
                seen: seen.collect(),
                undated: cursor.undated.iter().map(|(key, sighting)| stored_sighting(0, *key, sighting)).collect(),
                open: cursor
                    .open
                    .iter()
                    .map(|open| StoredOpenWalk {
                        token: open.token.as_ref().map(|token| token.0.clone()),
                        foot: open.foot.0,
                        end: open.end.0,
                    })
                    .collect(),
            }),
        }
    }
}

impl TryFrom<StoredUser> for UserRecord {
    type Error = StoredError;

    fn try_from(stored: StoredUser) -> Result<Self, StoredError> {
        let cursor = stored.cursor.ok_or(StoredError::Damaged("a user without a cursor"))?;
        let mut time = 0_i64;
        let mut seen = std::collections::BTreeMap::new();
        for sighting in cursor.seen {
            time = time.wrapping_add(sighting.time_step);
            let (key, sighting) = read_sighting(sighting)?;
            seen.insert((UnixMillis(time), key), sighting);
        }
        Ok(Self {
            joined: UnixMillis(stored.joined),
            sub: stored.sub,
            cursor: Cursor {
                live_since: UnixMillis(cursor.live_since),
                last_seen: cursor
                    .last_seen_time
                    .map(|time| LastSeen { time: UnixMillis(time), id: cursor.last_seen_id }),
                horizon: UnixMillis(cursor.horizon),
                reread_at: UnixMillis(cursor.reread_at),
                seen,
                undated: cursor.undated.into_iter().map(read_sighting).collect::<Result<_, _>>()?,
                open: cursor
                    .open
                    .into_iter()
                    .map(|open| OpenWalk {
                        token: open.token.map(PageToken),
                        foot: UnixMillis(open.foot),
                        end: UnixMillis(open.end),
                    })
                    .collect(),
            },
        })
    }
}

fn stored_sighting(time_step: i64, key: EventKey, sighting: &Sighting) -> StoredSighting {
    let facts = &sighting.facts;
    let codes = [
        facts.event_type.code(),
        facts.response.code(),
        facts.decision.code(),
        facts.level.code(),
        facts.feedback.code(),
    ];
    StoredSighting {
        time_step,
        key: key.0.to_vec(),
        digest: sighting.digest.0,
        revision: sighting.revision,
        history: !sighting.live,
        labels: codes.iter().rev().fold(0, |labels, code| labels << 4 | (code & 15)),
        compromised: facts.compromised,
        challenges: facts.challenges.iter().map(|(name, response)| pack(*name, *response)).collect(),
        watch: sighting.watch.map(|watch| StoredWatch {
            until: watch.until.0,
            next_look: watch.next_look.0,
            last_looks: watch.last_looks,
        }),
    }
}

fn read_sighting(stored: StoredSighting) -> Result<(EventKey, Sighting), StoredError> {
    let key = stored.key.try_into().map_err(|_| StoredError::Damaged("an event key of another length"))?;
    let code = |place: u32| stored.labels >> (4 * place) & 15;
    let sighting = Sighting {
        digest: MutableDigest(stored.digest),
        revision: stored.revision,
        live: !stored.history,
        facts: Facts {
            event_type: Label::from_code(code(0)),
            response: Label::from_code(code(1)),
            decision: Label::from_code(code(2)),
            level: Label::from_code(code(3)),
            feedback: Label::from_code(code(4)),
            compromised: stored.compromised,
            challenges: stored
                .challenges
                .iter()
                .map(|packed| (Label::from_code(u32::from(packed >> 4)), Label::from_code(u32::from(packed & 15))))
                .collect(),
        },
        watch: stored.watch.map(|watch| Watch {
            until: UnixMillis(watch.until),
            next_look: UnixMillis(watch.next_look),
            last_looks: watch.last_looks,
        }),
    };
    Ok((EventKey(key), sighting))
}

/// Two labels in one byte: no vocabulary has more than 14 words.
fn pack<A: Vocabulary, B: Vocabulary>(first: Label<A>, second: Label<B>) -> u8 {
    let [.., code] = ((first.code() & 15) << 4 | (second.code() & 15)).to_be_bytes();
    code
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredEntry {
    #[prost(string, tag = "1")]
    pool_id: String,
    #[prost(string, tag = "2")]
    pool_name: String,
    #[prost(string, tag = "3")]
    region: String,
    #[prost(string, optional, tag = "4")]
    account_id: Option<String>,
    #[prost(string, tag = "5")]
    username: String,
    #[prost(string, optional, tag = "6")]
    sub: Option<String>,
    #[prost(message, optional, tag = "7")]
    event: Option<StoredEvent>,
    #[prost(uint32, tag = "8")]
    revision: u32,
    #[prost(bool, tag = "9")]
    history: bool,
    #[prost(sint64, tag = "10")]
    pub(super) observed: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredRefusal {
    #[prost(message, optional, tag = "1")]
    pub(super) entry: Option<StoredEntry>,
    #[prost(string, tag = "2")]
    pub(super) reason: String,
}

#[derive(Clone, PartialEq, Message)]
struct StoredEvent {
    #[prost(string, optional, tag = "1")]
    id: Option<String>,
    #[prost(string, optional, tag = "2")]
    event_type: Option<String>,
    #[prost(sint64, optional, tag = "3")]
    creation_date: Option<i64>,
    #[prost(string, optional, tag = "4")]
    response: Option<String>,
    #[prost(message, optional, tag = "5")]
    risk: Option<StoredRisk>,
    #[prost(message, repeated, tag = "6")]
    challenges: Vec<StoredChallenge>,
    #[prost(message, optional, tag = "7")]
    context: Option<StoredContext>,
    #[prost(message, optional, tag = "8")]
    feedback: Option<StoredFeedback>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredRisk {
    #[prost(string, optional, tag = "1")]
    decision: Option<String>,
    #[prost(string, optional, tag = "2")]
    level: Option<String>,
    #[prost(bool, optional, tag = "3")]
    compromised_credentials: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredChallenge {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    response: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredContext {
    #[prost(string, optional, tag = "1")]
    ip_address: Option<String>,
    #[prost(string, optional, tag = "2")]
    device_name: Option<String>,
    #[prost(string, optional, tag = "3")]
    timezone: Option<String>,
    #[prost(string, optional, tag = "4")]
    city: Option<String>,
    #[prost(string, optional, tag = "5")]
    country: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredFeedback {
    #[prost(string, optional, tag = "1")]
    value: Option<String>,
    #[prost(string, optional, tag = "2")]
    provider: Option<String>,
    #[prost(sint64, optional, tag = "3")]
    date: Option<i64>,
}

fn text<V: Vocabulary>(word: Option<&Word<V>>) -> Option<String> {
    word.map(|word| word.as_str().to_owned())
}

fn word<V: Vocabulary>(text: Option<&String>) -> Option<Word<V>> {
    text.map(|text| Word::parse(text))
}

impl From<&Entry> for StoredEntry {
    fn from(entry: &Entry) -> Self {
        let event = &entry.event;
        Self {
            pool_id: entry.pool.id.clone(),
            pool_name: entry.pool.name.clone(),
            region: entry.pool.region.clone(),
            account_id: entry.pool.account_id.clone(),
            username: entry.user.username.clone(),
            sub: entry.user.sub.clone(),
            event: Some(StoredEvent {
                id: event.id.clone(),
                event_type: text(event.event_type.as_ref()),
                creation_date: event.creation_date.map(|time| time.0),
                response: text(event.response.as_ref()),
                risk: event.risk.as_ref().map(|risk| StoredRisk {
                    decision: text(risk.decision.as_ref()),
                    level: text(risk.level.as_ref()),
                    compromised_credentials: risk.compromised_credentials,
                }),
                challenges: event
                    .challenges
                    .iter()
                    .map(|challenge| StoredChallenge {
                        name: text(challenge.name.as_ref()),
                        response: text(challenge.response.as_ref()),
                    })
                    .collect(),
                context: event.context.as_ref().map(|context| StoredContext {
                    ip_address: context.ip_address.clone(),
                    device_name: context.device_name.clone(),
                    timezone: context.timezone.clone(),
                    city: context.city.clone(),
                    country: context.country.clone(),
                }),
                feedback: event.feedback.as_ref().map(|feedback| StoredFeedback {
                    value: text(feedback.value.as_ref()),
                    provider: feedback.provider.clone(),
                    date: feedback.date.map(|time| time.0),
                }),
            }),
            revision: entry.revision,
            history: entry.history,
            observed: entry.observed.0,
        }
    }
}

impl TryFrom<StoredEntry> for Entry {
    type Error = StoredError;

    fn try_from(stored: StoredEntry) -> Result<Self, StoredError> {
        let event = stored.event.ok_or(StoredError::Damaged("an entry without an event"))?;
        Ok(Self {
            pool: Arc::new(PoolIdentity {
                id: stored.pool_id,
                name: stored.pool_name,
                region: stored.region,
                account_id: stored.account_id,
            }),
            user: Arc::new(UserIdentity { username: stored.username, sub: stored.sub }),
            event: AuthEvent {
                id: event.id,
                event_type: word(event.event_type.as_ref()),
                creation_date: event.creation_date.map(UnixMillis),
                response: word(event.response.as_ref()),
                risk: event.risk.map(|risk| EventRisk {
                    decision: word(risk.decision.as_ref()),
                    level: word(risk.level.as_ref()),
                    compromised_credentials: risk.compromised_credentials,
                }),
                challenges: event
                    .challenges
                    .into_iter()
                    .map(|challenge| Challenge {
                        name: word(challenge.name.as_ref()),
                        response: word(challenge.response.as_ref()),
                    })
                    .collect(),
                context: event.context.map(|context| EventContext {
                    ip_address: context.ip_address,
                    device_name: context.device_name,
                    timezone: context.timezone,
                    city: context.city,
                    country: context.country,
                }),
                feedback: event.feedback.map(|feedback| EventFeedback {
                    value: word(feedback.value.as_ref()),
                    provider: feedback.provider,
                    date: feedback.date.map(UnixMillis),
                }),
            },
            revision: stored.revision,
            history: stored.history,
            observed: UnixMillis(stored.observed),
        })
    }
}
