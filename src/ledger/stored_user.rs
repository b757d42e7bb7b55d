//! The stored form of a user and its cursor. It is compact: there may be a million users, and an attack fills a cursor
//! with thousands of sightings. A sighting takes about 40 bytes, of which 24 are digests.
//!
//! Each time is stored as the difference to a time before it, zigzag-encoded and of variable length. Differences wrap,
//! so that every time can be restored. Labels are packed, five bits each.
//!
//! | version | what is new in it |
//! |---|---|
//! | 1 | |
//! | 2 | the activity |
//! | 3 | an event is remembered once, with all its dates and former states; versions 1 and 2 may have it once for each date |

use std::collections::{BTreeMap, VecDeque};

use cognito_auth_core::cursor::{Bookmark, Cursor, Dates, LastSeen, OpenWalk, Sighting, Watch};
use cognito_auth_core::event::{EventKey, Facts, Label, MutableDigest, UnixMillis, Vocabulary};

use super::envelope::{self, StoredRecord};
use super::error::LedgerError;
use super::{ActivityAt, UserRecord, UserStanding};
use crate::source::PageToken;

/// A user's record. Times are differences to the time that their comment names.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StoredUser {
    #[prost(sint64, tag = "1")]
    joined: i64,
    #[prost(string, optional, tag = "2")]
    sub: Option<String>,
    /// Less `joined`.
    #[prost(sint64, tag = "3")]
    live_since: i64,
    /// Less `live_since`.
    #[prost(sint64, tag = "4")]
    watermark: i64,
    /// Less `watermark`.
    #[prost(sint64, tag = "5")]
    reread_at: i64,
    #[prost(message, optional, tag = "6")]
    last_seen: Option<StoredLastSeen>,
    /// In order of their newest dates.
    #[prost(message, repeated, tag = "7")]
    seen: Vec<StoredSighting>,
    /// Events shown without a date, in the order in which they were first seen.
    #[prost(message, repeated, tag = "8")]
    undated: Vec<StoredSighting>,
    #[prost(message, repeated, tag = "9")]
    open: Vec<StoredWalk>,
    #[prost(message, optional, tag = "10")]
    activity: Option<StoredActivity>,
    /// Places from which a deep overlap can be read again. A build that does not know this member drops it, and reads
    /// such an overlap from the top.
    #[prost(message, repeated, tag = "11")]
    bookmarks: Vec<StoredBookmark>,
    /// Less the watermark.
    #[prost(sint64, optional, tag = "12")]
    looks_from: Option<i64>,
    /// Not among the open walks: a build that does not know this member drops it, and counts nothing again.
    #[prost(message, optional, tag = "15")]
    redelivery: Option<StoredWalk>,
}

impl StoredRecord for StoredUser {
    const WHAT: &'static str = "a user";
    const VERSION: u8 = 3;

    fn migrate(version: u8, payload: &[u8]) -> Result<Self, LedgerError> {
        match version {
            // Members that they do not have are absent. An event that they hold twice becomes one in
            // `UserRecord::try_from`.
            1 | 2 => envelope::decode(Self::WHAT, payload),
            _ => Err(envelope::unknown_version(Self::WHAT, version)),
        }
    }
}

impl StoredUser {
    /// Decodes a user's standing without the cursor. The result has no `gone_since`, which another record has.
    pub(super) fn standing(bytes: &[u8]) -> Result<UserStanding, LedgerError> {
        let (_version, payload) = Self::verify(bytes)?;
        let StoredUserHead { joined, sub, live_since, activity } = envelope::decode(Self::WHAT, payload)?;
        let joined = UnixMillis(joined);
        Ok(UserStanding {
            sub,
            joined,
            gone_since: None,
            live_since: plus(live_since, joined),
            activity: activity.and_then(|activity| activity.activity(joined)),
        })
    }
}

/// The members of a [`StoredUser`] that make a [`UserStanding`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredUserHead {
    #[prost(sint64, tag = "1")]
    joined: i64,
    #[prost(string, optional, tag = "2")]
    sub: Option<String>,
    /// Less `joined`.
    #[prost(sint64, tag = "3")]
    live_since: i64,
    #[prost(message, optional, tag = "10")]
    activity: Option<StoredActivity>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredActivity {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
    /// Less `joined`.
    #[prost(sint64, tag = "2")]
    at: i64,
}

impl StoredActivity {
    fn of(activity: &ActivityAt, joined: UnixMillis) -> Self {
        Self { bytes: activity.bytes.to_vec(), at: less(activity.at, joined) }
    }

    /// Returns the estimate; None for bytes that no build has written. The next poll makes a new estimate.
    fn activity(self, joined: UnixMillis) -> Option<ActivityAt> {
        Some(ActivityAt { bytes: self.bytes.try_into().ok()?, at: plus(self.at, joined) })
    }
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredLastSeen {
    /// Less the watermark.
    #[prost(sint64, tag = "1")]
    time: i64,
    #[prost(string, optional, tag = "2")]
    id: Option<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StoredSighting {
    /// Its newest date less that of the sighting before, or, for the first, less the watermark. 0 for an undated event.
    #[prost(sint64, tag = "1")]
    time: i64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) key: Vec<u8>,
    #[prost(fixed64, tag = "3")]
    digest: u64,
    #[prost(uint32, tag = "4")]
    revision: u32,
    /// See [`pack`].
    #[prost(uint32, tag = "5")]
    facts: u32,
    /// Pairs of label codes.
    #[prost(bytes = "vec", tag = "6")]
    challenges: Vec<u8>,
    #[prost(message, optional, tag = "7")]
    watch: Option<StoredWatch>,
    /// Its oldest date less its newest.
    #[prost(sint64, tag = "8")]
    oldest: i64,
    /// Eight bytes for each.
    #[prost(bytes = "vec", tag = "9")]
    former: Vec<u8>,
    /// For an undated event that was also shown with a date: its newest date less the watermark.
    #[prost(sint64, optional, tag = "10")]
    dated: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct StoredWatch {
    /// Less the event's time.
    #[prost(sint64, tag = "1")]
    until: i64,
    /// Less the event's time.
    #[prost(sint64, tag = "2")]
    next_look: i64,
    #[prost(uint32, tag = "3")]
    last_looks: u32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredWalk {
    #[prost(string, optional, tag = "1")]
    token: Option<String>,
    /// Less the watermark.
    #[prost(sint64, tag = "2")]
    lower_edge: i64,
    /// Less the lower edge.
    #[prost(sint64, tag = "3")]
    end: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredBookmark {
    #[prost(string, tag = "1")]
    token: String,
    /// Less the watermark.
    #[prost(sint64, tag = "2")]
    time: i64,
}

impl From<&UserRecord> for StoredUser {
    fn from(record: &UserRecord) -> Self {
        let cursor = &record.cursor;
        let mut before = cursor.watermark;
        let mut seen: Vec<_> = cursor
            .seen
            .iter()
            .filter(|(key, _)| !cursor.undated.contains(key))
            .map(|(key, sighting)| (sighting.dates.map_or(UNDATED, |dates| dates.newest), key, sighting))
            .collect();
        seen.sort_by_key(|(time, ..)| *time);
        Self {
            joined: record.joined.0,
            sub: record.sub.clone(),
            live_since: less(cursor.live_since, record.joined),
            watermark: less(cursor.watermark, cursor.live_since),
            reread_at: less(cursor.reread_at, cursor.watermark),
            last_seen: cursor
                .last_seen
                .as_ref()
                .map(|last| StoredLastSeen { time: less(last.time, cursor.watermark), id: last.id.clone() }),
            seen: seen
                .into_iter()
                .map(|(time, key, sighting)| {
                    let stored =
                        StoredSighting { time: less(time, before), ..StoredSighting::of(*key, sighting, time) };
                    before = time;
                    stored
                })
                .collect(),
            undated: cursor
                .undated
                .iter()
                .filter_map(|key| Some((key, cursor.seen.get(key)?)))
                .map(|(key, sighting)| {
                    let newest = sighting.dates.map(|dates| dates.newest);
                    let dated = newest.map(|newest| less(newest, cursor.watermark));
                    StoredSighting { dated, ..StoredSighting::of(*key, sighting, newest.unwrap_or(UNDATED)) }
                })
                .collect(),
            open: cursor.open.iter().map(|walk| StoredWalk::of(walk, cursor.watermark)).collect(),
            activity: record.activity.as_ref().map(|activity| StoredActivity::of(activity, record.joined)),
            bookmarks: cursor
                .bookmarks
                .iter()
                .map(|bookmark| StoredBookmark {
                    token: bookmark.token.0.clone(),
                    time: less(bookmark.time, cursor.watermark),
                })
                .collect(),
            looks_from: (cursor.looks_from != UnixMillis::MIN).then(|| less(cursor.looks_from, cursor.watermark)),
            redelivery: cursor.redelivery.as_ref().map(|walk| StoredWalk::of(walk, cursor.watermark)),
        }
    }
}

impl TryFrom<StoredUser> for UserRecord {
    type Error = LedgerError;

    fn try_from(stored: StoredUser) -> Result<Self, LedgerError> {
        let joined = UnixMillis(stored.joined);
        let live_since = plus(stored.live_since, joined);
        let watermark = plus(stored.watermark, live_since);
        let mut seen = BTreeMap::new();
        let mut remember = |key: EventKey, sighting: Sighting| {
            // Older versions stored an event once for each of its dates.
            let sighting = match seen.remove(&key) {
                Some(before) => Sighting::merged_with(before, sighting),
                None => sighting,
            };
            seen.insert(key, sighting);
        };
        let mut before = watermark;
        for sighting in stored.seen {
            before = plus(sighting.time, before);
            let (key, sighting) = sighting.sighting(Some(before))?;
            remember(key, sighting);
        }
        let mut undated = VecDeque::new();
        for sighting in stored.undated {
            let newest = sighting.dated.map(|dated| plus(dated, watermark));
            let (key, sighting) = sighting.sighting(newest)?;
            remember(key, sighting);
            if !undated.contains(&key) {
                undated.push_back(key);
            }
        }
        let open = stored.open.into_iter().map(|walk| walk.walk(watermark)).collect();
        Ok(Self {
            joined,
            sub: stored.sub,
            activity: stored.activity.and_then(|activity| activity.activity(joined)),
            cursor: Cursor {
                live_since,
                last_seen: stored.last_seen.map(|last| LastSeen { time: plus(last.time, watermark), id: last.id }),
                watermark,
                reread_at: plus(stored.reread_at, watermark),
                looks_from: stored.looks_from.map_or(UnixMillis::MIN, |from| plus(from, watermark)),
                bookmarks: stored
                    .bookmarks
                    .into_iter()
                    .map(|bookmark| Bookmark { token: PageToken(bookmark.token), time: plus(bookmark.time, watermark) })
                    .collect(),
                seen,
                undated,
                open,
                redelivery: stored.redelivery.map(|walk| walk.walk(watermark)),
            },
        })
    }
}

impl StoredWalk {
    fn of(walk: &OpenWalk, watermark: UnixMillis) -> Self {
        Self {
            token: walk.token.as_ref().map(|token| token.0.clone()),
            lower_edge: less(walk.lower_edge, watermark),
            end: less(walk.end, walk.lower_edge),
        }
    }

    fn walk(self, watermark: UnixMillis) -> OpenWalk {
        let lower_edge = plus(self.lower_edge, watermark);
        OpenWalk { token: self.token.map(PageToken), lower_edge, end: plus(self.end, lower_edge) }
    }
}

impl StoredSighting {
    /// Makes the stored form without the newest date. `time` is that date, or [`UNDATED`].
    pub(super) fn of(key: EventKey, sighting: &Sighting, time: UnixMillis) -> Self {
        let code = |code: u32| u8::try_from(code).unwrap_or(OTHER);
        Self {
            time: 0,
            key: key.0.to_vec(),
            digest: sighting.digest.0,
            revision: sighting.revision,
            facts: pack(sighting.live, &sighting.facts),
            challenges: sighting
                .facts
                .challenges
                .iter()
                .flat_map(|(name, response)| [code(name.code()), code(response.code())])
                .collect(),
            watch: sighting.watch.map(|watch| StoredWatch {
                until: less(watch.until, time),
                next_look: less(watch.next_look, time),
                last_looks: watch.last_looks,
            }),
            oldest: sighting.dates.map_or(0, |dates| less(dates.oldest, dates.newest)),
            former: sighting.former.iter().flat_map(|digest| digest.0.to_be_bytes()).collect(),
            dated: None,
        }
    }

    /// Restores the sighting of an event with this newest date.
    pub(super) fn sighting(self, newest: Option<UnixMillis>) -> Result<(EventKey, Sighting), LedgerError> {
        let time = newest.unwrap_or(UNDATED);
        let Ok(key) = self.key.try_into() else {
            return Err(LedgerError::corrupt(StoredUser::WHAT, "an event's key has not 16 bytes"));
        };
        let (pairs, []) = self.challenges.as_chunks() else {
            return Err(LedgerError::corrupt(StoredUser::WHAT, "a challenge has no response"));
        };
        let (former, []) = self.former.as_chunks() else {
            return Err(LedgerError::corrupt(StoredUser::WHAT, "a former state has not 8 bytes"));
        };
        let (live, mut facts) = unpack(self.facts);
        facts.challenges = pairs
            .iter()
            .map(|&[name, response]| (Label::from_code(name.into()), Label::from_code(response.into())))
            .collect();
        let sighting = Sighting {
            dates: newest.map(|newest| Dates { oldest: plus(self.oldest, newest), newest }),
            digest: MutableDigest(self.digest),
            former: former.iter().map(|digest| MutableDigest(u64::from_be_bytes(*digest))).collect(),
            revision: self.revision,
            live,
            facts,
            watch: self.watch.map(|watch| Watch {
                until: plus(watch.until, time),
                next_look: plus(watch.next_look, time),
                last_looks: watch.last_looks,
            }),
        };
        Ok((EventKey(key), sighting))
    }
}

/// The base of times for an undated event.
pub(super) const UNDATED: UnixMillis = UnixMillis(0);

const LABEL_BITS: u32 = 5;

/// The code of [`Label::Other`], also for a label whose code does not fit into five bits.
const OTHER: u8 = 1;

/// Packs facts. From the lowest bit: live, compromised, then five bits each for EventType, EventResponse, RiskDecision,
/// RiskLevel and FeedbackValue.
fn pack(live: bool, facts: &Facts) -> u32 {
    let label = |code: u32| if code < 1 << LABEL_BITS { code } else { OTHER.into() };
    let labels = [
        facts.feedback.code(),
        facts.level.code(),
        facts.decision.code(),
        facts.response.code(),
        facts.event_type.code(),
    ];
    let labels = labels.into_iter().fold(0, |packed, code| packed << LABEL_BITS | label(code));
    labels << 2 | u32::from(facts.compromised) << 1 | u32::from(live)
}

/// Returns whether the event is live, and its facts without the challenges.
fn unpack(packed: u32) -> (bool, Facts) {
    fn label<V: Vocabulary>(packed: u32, place: u32) -> Label<V> {
        Label::from_code(packed >> (2 + LABEL_BITS * place) & ((1 << LABEL_BITS) - 1))
    }
    let facts = Facts {
        event_type: label(packed, 0),
        response: label(packed, 1),
        decision: label(packed, 2),
        level: label(packed, 3),
        compromised: packed & 2 != 0,
        challenges: vec![],
        feedback: label(packed, 4),
    };
    (packed & 1 != 0, facts)
}

fn less(time: UnixMillis, base: UnixMillis) -> i64 {
    time.0.wrapping_sub(base.0)
}

fn plus(difference: i64, base: UnixMillis) -> UnixMillis {
    UnixMillis(base.0.wrapping_add(difference))
}

#[cfg(test)]
pub(super) mod tests {
    use cognito_auth_core::event::{ChallengeName, EventResponse, EventType, FeedbackValue, RiskDecision, RiskLevel};
    use proptest::collection::{btree_map, vec};
    use proptest::option::of;
    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = UnixMillis> {
        prop_oneof![
            4 => 1_600_000_000_000..1_900_000_000_000_i64,
            1 => any::<i64>(),
            1 => prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0)],
        ]
        .prop_map(UnixMillis)
    }

    fn label<V: Vocabulary>() -> impl Strategy<Value = Label<V>> {
        let words = u32::try_from(V::ALL.len()).unwrap();
        (0..words + 2).prop_map(Label::from_code)
    }

    fn facts() -> impl Strategy<Value = Facts> {
        let challenges = vec((label::<ChallengeName>(), label()), 0..4);
        (label(), label(), label(), label(), any::<bool>(), challenges, label()).prop_map(
            |(event_type, response, decision, level, compromised, challenges, feedback)| Facts {
                event_type,
                response,
                decision,
                level,
                compromised,
                challenges,
                feedback,
            },
        )
    }

    fn watch() -> impl Strategy<Value = Watch> {
        (time(), time(), any::<u32>()).prop_map(|(until, next_look, last_looks)| Watch { until, next_look, last_looks })
    }

    fn sighting() -> impl Strategy<Value = Sighting> {
        let dates = (time(), time()).prop_map(|(one, other)| Dates { oldest: one.min(other), newest: one.max(other) });
        let former = vec(any::<u64>().prop_map(MutableDigest), 0..3);
        (dates, any::<u64>(), former, any::<u32>(), any::<bool>(), facts(), of(watch())).prop_map(
            |(dates, digest, former, revision, live, facts, watch)| Sighting {
                dates: Some(dates),
                digest: MutableDigest(digest),
                former,
                revision,
                live,
                facts,
                watch,
            },
        )
    }

    fn key() -> impl Strategy<Value = EventKey> {
        any::<[u8; 16]>().prop_map(EventKey)
    }

    fn walk() -> impl Strategy<Value = OpenWalk> {
        (of(".{0,40}"), time(), time()).prop_map(|(token, lower_edge, end)| OpenWalk {
            token: token.map(PageToken),
            lower_edge,
            end,
        })
    }

    pub(in crate::ledger) fn record() -> impl Strategy<Value = UserRecord> {
        let last_seen = of((time(), of(".{0,40}")).prop_map(|(time, id)| LastSeen { time, id }));
        let cursor = (
            time(),
            last_seen,
            time(),
            time(),
            btree_map(key(), (sighting(), prop_oneof![4 => Just(0), 1 => Just(1), 1 => Just(2)]), 0..8),
            vec(walk(), 0..3),
            of(walk()),
        )
            .prop_map(|(live_since, last_seen, watermark, reread_at, seen, open, redelivery)| {
                let bookmarks = open
                    .iter()
                    .filter_map(|walk: &OpenWalk| Some(Bookmark { token: walk.token.clone()?, time: walk.lower_edge }));
                let (bookmarks, looks_from) = (bookmarks.collect(), live_since);
                let fresh = Cursor::new(live_since, watermark);
                let mut cursor = Cursor { last_seen, bookmarks, looks_from, open, redelivery, ..fresh };
                (cursor.watermark, cursor.reread_at) = (watermark, reread_at);
                // Shown with dates, without a date, or both.
                for (key, (mut sighting, without)) in seen.into_iter().rev() {
                    if without > 0 {
                        cursor.undated.push_back(key);
                    }
                    if without > 1 {
                        sighting.dates = None;
                    }
                    cursor.seen.insert(key, sighting);
                }
                cursor
            });
        let activity = of((any::<[u8; 12]>(), time()).prop_map(|(bytes, at)| ActivityAt { bytes, at }));
        (time(), of(".{0,40}"), cursor, activity).prop_map(|(joined, sub, cursor, activity)| UserRecord {
            joined,
            sub,
            cursor,
            activity,
        })
    }

    fn opened(bytes: &[u8]) -> Result<UserRecord, LedgerError> {
        StoredUser::open(bytes)?.try_into()
    }

    proptest! {
        #[test]
        fn a_user_comes_back_as_it_was(record in record()) {
            prop_assert_eq!(opened(&StoredUser::from(&record).seal()), Ok(record));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
            let _ = opened(&bytes);
            // The same bytes in a valid envelope.
            for version in [1, 2, 3] {
                let _ = opened(&envelope::in_version(version, &[&[0; 5], &*bytes].concat()));
            }
        }

        #[test]
        fn a_damaged_payload_never_panics(record in record(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut payload = prost::Message::encode_to_vec(&StoredUser::from(&record));
            if !payload.is_empty() {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            if let Ok(stored) = <StoredUser as prost::Message>::decode(payload.as_slice()) {
                let _ = UserRecord::try_from(stored);
            }
        }
    }

    #[test]
    fn every_vocabulary_fits_the_bits_it_is_given() {
        let words = [
            EventType::ALL.len(),
            EventResponse::ALL.len(),
            RiskDecision::ALL.len(),
            RiskLevel::ALL.len(),
            FeedbackValue::ALL.len(),
        ];
        assert!(words.into_iter().all(|words| words + 2 <= 1 << LABEL_BITS));
    }

    /// A user with sign-ins `spacing_ms` apart, which passed after a password and a second factor.
    fn busy(sightings: u32, spacing_ms: i64) -> UserRecord {
        let start = 1_764_000_000_000;
        let mut cursor = Cursor::new(UnixMillis(start - 86_400_000), UnixMillis(start - 172_800_000));
        cursor.watermark = UnixMillis(start);
        cursor.reread_at = UnixMillis(start + 3_000_000);
        for number in 0..sightings {
            let time = UnixMillis(start + i64::from(number) * spacing_ms);
            cursor.last_seen = Some(LastSeen { time, id: Some("4b1f6f0c-5a0e-4c39-9a53-0f3e5a8f7c11".into()) });
            let success = (Label::from_code(2), Label::from_code(2));
            cursor.seen.insert(
                EventKey(u128::from(number).to_be_bytes()),
                Sighting {
                    dates: Some(Dates::of(time)),
                    former: vec![],
                    digest: MutableDigest(u64::MAX - u64::from(number)),
                    revision: 1,
                    live: true,
                    facts: Facts {
                        event_type: Label::Known(EventType::SignIn),
                        response: Label::Known(EventResponse::Pass),
                        decision: Label::Known(RiskDecision::NoRisk),
                        level: Label::Absent,
                        compromised: false,
                        challenges: vec![success, success],
                        feedback: Label::Absent,
                    },
                    watch: None,
                },
            );
        }
        UserRecord {
            joined: UnixMillis(start - 86_400_000),
            sub: Some("0b0e6f0c-5a0e-4c39-9a53-0f3e5a8f7c22".into()),
            cursor,
            activity: Some(ActivityAt { bytes: [0x42; 12], at: UnixMillis(start) }),
        }
    }

    #[test]
    fn a_typical_user_is_small_and_an_attacked_one_bearable() {
        let typical = StoredUser::from(&busy(3, 400_000)).seal().len();
        let attacked = StoredUser::from(&busy(3600, 1000)).seal().len();
        assert!(typical < 300, "{typical} bytes with sub");
        assert!(attacked < 3600 * 48, "{attacked} bytes");
        // A commit writes all of it: docs/scheduling.md.
        let per_event =
            [100, 1000, 10_000].map(|events| StoredUser::from(&busy(events, 1000)).seal().len() / events as usize);
        assert!(per_event.iter().all(|bytes| (43..=48).contains(bytes)), "{per_event:?} bytes");
    }

    /// A record in version 1: [`busy`] with one watched sign-in, an event without a date, and an open walk.
    const USER_1: &str = "\
        0126b54bde0880b08c97d666122430623065366630632d356130652d346333392d396135332d3066336535613866376332322080f0b252\
        28809bee023226122434623166366630632d356130652d346333392d396135332d3066336535613866376331313a331210000000000000\
        0000000000000000000019ffffffffffffffff20012889423204020202023a0b0880dddb0110c0a9071801422612100000000000000000\
        000000000000000019ffffffffffffffff20012889423204020202024a0a0a026f6e108f4e18bf3e";

    /// A record in version 2: [`busy`] with one sign-in, an event without a date, an open walk, and a redelivery. The
    /// sign-in came again with a date 3 s later and its outcome.
    const USER_2: &str = "\
        0201d02e860880b08c97d666122430623065366630632d356130652d346333392d396135332d3066336535613866376332322080f0b252\
        28809bee023226122434623166366630632d356130652d346333392d396135332d3066336535613866376331313a311210000000000000\
        000000000000000000001907000000000000002889443204020202023a0b0880dddb0110c0a90718013a2908f02e121000000000000000\
        00000000000000000019ffffffffffffffff2001288942320402020202422612100909090909090909090909090909090919ffffffffff\
        ffffff20012889423204020202024a0a0a026f6e108f4e18bf3e52130a0c4242424242424242424242421080f0b2527a0418cf8c01";

    /// The same user in the present version.
    const USER_3: &str = "\
        032aeca90a0880b08c97d666122430623065366630632d356130652d346333392d396135332d3066336535613866376332322080f0b252\
        28809bee023226122434623166366630632d356130652d346333392d396135332d3066336535613866376331313a3608f02e1210000000\
        0000000000000000000000000019ffffffffffffffff200128894232040202020240ef2e4a080000000000000007422612100909090909\
        090909090909090909090919ffffffffffffffff20012889423204020202024a0a0a026f6e108f4e18bf3e52130a0c4242424242424242\
        424242421080f0b2527a0418cf8c01";

    /// The user of [`USER_3`] with bookmarks and the time of its next deep look. A build that does not know these
    /// members reads the record as that of [`USER_3`].
    const USER_3_DEEP: &str = "\
        03f4497e410880b08c97d666122430623065366630632d356130652d346333392d396135332d3066336535613866376332322080f0b252\
        28809bee023226122434623166366630632d356130652d346333392d396135332d3066336535613866376331313a3608f02e1210000000\
        0000000000000000000000000019ffffffffffffffff200128894232040202020240ef2e4a080000000000000007422612100909090909\
        090909090909090909090919ffffffffffffffff20012889423204020202024a0a0a026f6e108f4e18bf3e52130a0c4242424242424242\
        424242421080f0b2525a090a0361233110e0a7125a090a0362233210c0cf2460d086037a0418cf8c01";

    #[test]
    fn bookmarks_are_stored_and_a_build_that_does_not_know_them_reads_the_rest() {
        let mut user = moved();
        let start = user.cursor.watermark;
        let place = |token: &str, after| Bookmark { token: PageToken(token.into()), time: UnixMillis(start.0 + after) };
        user.cursor.bookmarks = vec![place("a#1", 150_000), place("b#2", 300_000)];
        user.cursor.looks_from = UnixMillis(start.0 + 25_000);
        let stored = StoredUser::from(&user).seal();
        assert_eq!(stored, envelope::unhex(USER_3_DEEP));
        assert_eq!(opened(&stored), Ok(user));
        assert_eq!(opened(&envelope::unhex(USER_3)), Ok(moved()), "a record of a build that did not know them");
    }

    /// The user of [`USER_2`]: its sign-in is one event, with both dates and both states.
    fn moved() -> UserRecord {
        let mut user = busy(1, 0);
        let (key, sighting) = user.cursor.seen.pop_first().unwrap();
        let start = sighting.dates.unwrap().oldest;
        user.cursor.undated.push_back(EventKey([9; 16]));
        user.cursor.seen.insert(EventKey([9; 16]), Sighting { dates: None, ..sighting.clone() });
        let dates = Some(Dates { oldest: start, newest: UnixMillis(start.0 + 3000) });
        user.cursor.seen.insert(key, Sighting { dates, former: vec![MutableDigest(7)], ..sighting });
        let (lower_edge, end) = (UnixMillis(start.0 - 5000), UnixMillis(start.0 - 9000));
        user.cursor.open.push(OpenWalk { token: Some(PageToken("on".into())), lower_edge, end });
        user.cursor.redelivery = Some(OpenWalk { token: None, lower_edge: start, end });
        user
    }

    #[test]
    fn what_an_older_build_has_written_is_read_and_written_as_the_newest() {
        let mut user = UserRecord { activity: None, ..busy(1, 0) };
        let (key, mut sighting) = user.cursor.seen.pop_first().unwrap();
        let start = sighting.dates.unwrap().newest;
        // The record has one event twice, with a date and without.
        user.cursor.undated.push_back(key);
        let (until, next_look) = (UnixMillis(start.0 + 1_800_000), UnixMillis(start.0 + 60_000));
        sighting.watch = Some(Watch { until, next_look, last_looks: 1 });
        user.cursor.seen.insert(key, sighting);
        let (lower_edge, end) = (UnixMillis(start.0 - 5000), UnixMillis(start.0 - 9000));
        user.cursor.open.push(OpenWalk { token: Some(PageToken("on".into())), lower_edge, end });

        let stored = envelope::unhex(USER_1);
        assert_eq!(opened(&stored), Ok(user.clone()));
        let standing = StoredUser::standing(&stored).unwrap();
        assert_eq!((standing.joined, standing.sub, standing.activity), (user.joined, user.sub.clone(), None));

        assert_eq!(opened(&envelope::unhex(USER_2)), Ok(moved()), "one event with two dates");
        let newest = StoredUser::from(&moved()).seal();
        assert_eq!(newest, envelope::unhex(USER_3));
        assert_eq!((newest[0], opened(&newest)), (3, Ok(moved())));
        for version in [0, 4] {
            assert!(opened(&envelope::in_version(version, &newest)).is_err(), "{version}");
        }
        let refused = StoredUser::standing(&envelope::in_version(4, &newest));
        assert!(matches!(refused, Err(LedgerError::NewerVersion { found: 4, known: 3, .. })), "{refused:?}");
    }
}
