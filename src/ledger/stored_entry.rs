//! The stored form of an entry of the outbox or the quarantine: the whole event, with every word as Cognito sent it.

use std::sync::Arc;

use cognito_auth_core::entry::{Entry, EventSource, PoolIdentity, UserIdentity};
use cognito_auth_core::event::{
    AuthEvent, Challenge, EventContext, EventFeedback, EventRisk, UnixMillis, Vocabulary, Word,
};
use cognito_auth_core::export::ExportDetails;
use cognito_auth_core::masking::Modes;

use super::envelope::{self, StoredRecord};
use super::error::LedgerError;

/// An entry of the outbox.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StoredEntry {
    #[prost(string, tag = "1")]
    pool_id: String,
    /// Absent if it equals the id.
    #[prost(string, optional, tag = "2")]
    pool_name: Option<String>,
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
    /// See [`Modes::code`].
    #[prost(uint32, tag = "11")]
    masked: u32,
    /// Present if the export told it.
    #[prost(message, optional, tag = "12")]
    exported: Option<StoredExportDetails>,
}

/// What only the export tells of an event.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredExportDetails {
    #[prost(string, optional, tag = "1")]
    client_id: Option<String>,
    #[prost(string, optional, tag = "2")]
    request_id: Option<String>,
    #[prost(string, optional, tag = "3")]
    idp_name: Option<String>,
}

impl StoredRecord for StoredEntry {
    const WHAT: &'static str = "an entry of the outbox";
}

/// An entry of the quarantine. It has the stored value from the outbox unchanged, so that a value that cannot be read
/// is not lost.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StoredRefusal {
    /// Why it was put aside.
    #[prost(string, tag = "2")]
    pub(super) reason: String,
    /// When it was put aside.
    #[prost(sint64, tag = "3")]
    pub(super) at: i64,
    /// A sealed `StoredEntry`, or damaged bytes. (Tag 1 was the decoded entry.)
    #[prost(bytes = "vec", tag = "4")]
    pub(super) value: Vec<u8>,
}

impl StoredRecord for StoredRefusal {
    const WHAT: &'static str = "an entry of the quarantine";
    const VERSION: u8 = 2;

    fn migrate(version: u8, payload: &[u8]) -> Result<Self, LedgerError> {
        match version {
            1 => Ok(envelope::decode::<StoredRefusal1>(Self::WHAT, payload)?.into()),
            _ => Err(envelope::unknown_version(Self::WHAT, version)),
        }
    }
}

/// Version 1 of [`StoredRefusal`], with the entry decoded.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredRefusal1 {
    #[prost(message, optional, tag = "1")]
    entry: Option<StoredEntry>,
    #[prost(string, tag = "2")]
    reason: String,
    #[prost(sint64, tag = "3")]
    at: i64,
}

impl From<StoredRefusal1> for StoredRefusal {
    fn from(old: StoredRefusal1) -> Self {
        Self { value: old.entry.map(|entry| entry.seal()).unwrap_or_default(), reason: old.reason, at: old.at }
    }
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
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

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredRisk {
    #[prost(string, optional, tag = "1")]
    decision: Option<String>,
    #[prost(string, optional, tag = "2")]
    level: Option<String>,
    #[prost(bool, optional, tag = "3")]
    compromised_credentials: Option<bool>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredChallenge {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    response: Option<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
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

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredFeedback {
    #[prost(string, optional, tag = "1")]
    value: Option<String>,
    #[prost(string, optional, tag = "2")]
    provider: Option<String>,
    #[prost(sint64, optional, tag = "3")]
    date: Option<i64>,
}

impl From<Entry> for StoredEntry {
    fn from(entry: Entry) -> Self {
        let (pool, user) = (&entry.pool, &entry.user);
        Self {
            pool_id: pool.id.clone(),
            pool_name: (pool.name != pool.id).then(|| pool.name.clone()),
            region: pool.region.clone(),
            account_id: pool.account_id.clone(),
            username: user.username.clone(),
            sub: user.sub.clone(),
            event: Some(StoredEvent::from(entry.event)),
            revision: entry.revision,
            history: entry.history,
            observed: entry.observed.0,
            masked: entry.masked.code(),
            exported: (entry.told_by == EventSource::Export).then_some(StoredExportDetails {
                client_id: entry.details.client_id,
                request_id: entry.details.request_id,
                idp_name: entry.details.idp_name,
            }),
        }
    }
}

impl From<StoredEntry> for Entry {
    fn from(stored: StoredEntry) -> Self {
        Self {
            pool: Arc::new(PoolIdentity {
                name: stored.pool_name.unwrap_or_else(|| stored.pool_id.clone()),
                id: stored.pool_id,
                region: stored.region,
                account_id: stored.account_id,
            }),
            user: Arc::new(UserIdentity { username: stored.username, sub: stored.sub }),
            event: stored.event.map(AuthEvent::from).unwrap_or_default(),
            revision: stored.revision,
            history: stored.history,
            observed: UnixMillis(stored.observed),
            masked: Modes::from_code(stored.masked),
            told_by: if stored.exported.is_some() { EventSource::Export } else { EventSource::Poll },
            details: stored.exported.map_or_else(ExportDetails::default, |details| ExportDetails {
                client_id: details.client_id,
                request_id: details.request_id,
                idp_name: details.idp_name,
            }),
        }
    }
}

impl From<AuthEvent> for StoredEvent {
    fn from(event: AuthEvent) -> Self {
        Self {
            id: event.id,
            event_type: text(event.event_type),
            creation_date: event.creation_date.map(|date| date.0),
            response: text(event.response),
            risk: event.risk.map(|risk| StoredRisk {
                decision: text(risk.decision),
                level: text(risk.level),
                compromised_credentials: risk.compromised_credentials,
            }),
            challenges: event
                .challenges
                .into_iter()
                .map(|challenge| StoredChallenge { name: text(challenge.name), response: text(challenge.response) })
                .collect(),
            context: event.context.map(|context| StoredContext {
                ip_address: context.ip_address,
                device_name: context.device_name,
                timezone: context.timezone,
                city: context.city,
                country: context.country,
            }),
            feedback: event.feedback.map(|feedback| StoredFeedback {
                value: text(feedback.value),
                provider: feedback.provider,
                date: feedback.date.map(|date| date.0),
            }),
        }
    }
}

impl From<StoredEvent> for AuthEvent {
    fn from(stored: StoredEvent) -> Self {
        Self {
            id: stored.id,
            event_type: word(stored.event_type),
            creation_date: stored.creation_date.map(UnixMillis),
            response: word(stored.response),
            risk: stored.risk.map(|risk| EventRisk {
                decision: word(risk.decision),
                level: word(risk.level),
                compromised_credentials: risk.compromised_credentials,
            }),
            challenges: stored
                .challenges
                .into_iter()
                .map(|challenge| Challenge { name: word(challenge.name), response: word(challenge.response) })
                .collect(),
            context: stored.context.map(|context| EventContext {
                ip_address: context.ip_address,
                device_name: context.device_name,
                timezone: context.timezone,
                city: context.city,
                country: context.country,
            }),
            feedback: stored.feedback.map(|feedback| EventFeedback {
                value: word(feedback.value),
                provider: feedback.provider,
                date: feedback.date.map(UnixMillis),
            }),
        }
    }
}

fn text<V: Vocabulary>(word: Option<Word<V>>) -> Option<String> {
    word.map(|word| match word {
        Word::Known(known) => known.as_str().to_owned(),
        Word::Other(text) => text.into(),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "taken from a record that is being used up")]
fn word<V: Vocabulary>(text: Option<String>) -> Option<Word<V>> {
    text.as_deref().map(Word::parse)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;

    use super::*;

    /// [`known_entry`] in version 1 of the outbox's record.
    const ENTRY_1: &str = "\
        010d59f4eb0a1065752d776573742d315f476f6c64656e1209637573746f6d6572731a0965752d776573742d31220c313233\
        3435363738393031322a047a6fc3ab322430623065366630632d356130652d346333392d396135332d306633653561386637\
        6332323ab9010a2437363864333735632d656536632d343335652d613030352d32356334393831353635633312065369676e\
        496e18928cccaea6642207506572686170732a190a0f4163636f756e7454616b656f766572120448696768180132130a0850\
        617373776f72641207537563636573733a320a093139322e302e322e3712164368726f6d65203132362c2057696e646f7773\
        20313022046e756c6c2a074972656c616e6442150a0556616c6964120561646d696e18c09ad2aea664400248015080b5deae\
        a664";

    /// The same entry in version 1 of the quarantine's record, put aside for [`REASON`] at [`AT`].
    const REFUSAL_1: &str = "\
        011e7e22500aa9020a1065752d776573742d315f476f6c64656e1209637573746f6d6572731a0965752d776573742d31220c\
        3132333435363738393031322a047a6fc3ab322430623065366630632d356130652d346333392d396135332d306633653561\
        3866376332323ab9010a2437363864333735632d656536632d343335652d613030352d323563343938313536356333120653\
        69676e496e18928cccaea6642207506572686170732a190a0f4163636f756e7454616b656f76657212044869676818013213\
        0a0850617373776f72641207537563636573733a320a093139322e302e322e3712164368726f6d65203132362c2057696e64\
        6f777320313022046e756c6c2a074972656c616e6442150a0556616c6964120561646d696e18c09ad2aea664400248015080\
        b5deaea664121d696e76616c69643a20612074696d65206f66207468652066757475726518b8ccdeaea664";

    /// A record without an entry, which version 1 already called damaged.
    const EMPTY_REFUSAL_1: &str = "0140e1bd8112017818b8ccdeaea664";

    pub(in crate::ledger) const REASON: &str = "invalid: a time of the future";
    pub(in crate::ledger) const AT: UnixMillis = UnixMillis(1_723_136_201_500);

    /// An entry of the quarantine, as the first builds wrote it.
    pub(in crate::ledger) fn refusal_of_version_1() -> Vec<u8> {
        envelope::unhex(REFUSAL_1)
    }

    fn any_word<V: Vocabulary>() -> impl Strategy<Value = Option<Word<V>>> {
        let text = prop_oneof![
            4 => (0..V::ALL.len()).prop_map(|at| V::ALL[at].as_str().to_owned()),
            1 => ".{0,20}",
        ];
        of(text.prop_map(|text| Word::parse(&text)))
    }

    fn any_text() -> impl Strategy<Value = Option<String>> {
        of(prop_oneof![
            8 => ".{0,30}",
            1 => (100_000..200_000_usize).prop_map(|len| "ü".repeat(len)),
        ])
    }

    prop_compose! {
        fn any_event()(
            id in any_text(),
            event_type in any_word(),
            creation_date in of(any::<i64>()),
            response in any_word(),
            risk in of((any_word(), any_word(), of(any::<bool>()))),
            challenges in vec((any_word(), any_word()), 0..4),
            context in of((any_text(), any_text(), any_text(), any_text(), any_text())),
            feedback in of((any_word(), any_text(), of(any::<i64>()))),
        ) -> AuthEvent {
            AuthEvent {
                id,
                event_type,
                creation_date: creation_date.map(UnixMillis),
                response,
                risk: risk.map(|(decision, level, compromised_credentials)| EventRisk {
                    decision,
                    level,
                    compromised_credentials,
                }),
                challenges: challenges.into_iter().map(|(name, response)| Challenge { name, response }).collect(),
                context: context.map(|(ip_address, device_name, timezone, city, country)| EventContext {
                    ip_address,
                    device_name,
                    timezone,
                    city,
                    country,
                }),
                feedback: feedback.map(|(value, provider, date)| EventFeedback {
                    value,
                    provider,
                    date: date.map(UnixMillis),
                }),
            }
        }
    }

    prop_compose! {
        pub(in crate::ledger) fn any_entry()(
            (id, name, region) in (".{0,20}", ".{0,20}", ".{0,20}"),
            account_id in any_text(),
            username in ".{0,30}",
            sub in any_text(),
            event in any_event(),
            revision: u32,
            history: bool,
            observed: i64,
            masked in 0..256_u32,
        ) -> Entry {
            Entry {
                pool: Arc::new(PoolIdentity { id, name, region, account_id }),
                user: Arc::new(UserIdentity { username, sub }),
                event,
                revision,
                history,
                observed: UnixMillis(observed),
                told_by: EventSource::default(),
                details: ExportDetails::default(),
                masked: Modes::from_code(masked),
            }
        }
    }

    /// An entry with a value in every member.
    pub(in crate::ledger) fn known_entry() -> Entry {
        let pool = PoolIdentity {
            id: "eu-west-1_Golden".into(),
            name: "customers".into(),
            region: "eu-west-1".into(),
            account_id: Some("123456789012".into()),
        };
        let user =
            UserIdentity { username: "zo\u{eb}".into(), sub: Some("0b0e6f0c-5a0e-4c39-9a53-0f3e5a8f7c22".into()) };
        let event = AuthEvent {
            id: Some("768d375c-ee6c-435e-a005-25c4981565c3".into()),
            event_type: Some(Word::parse("SignIn")),
            creation_date: Some(UnixMillis(1_723_136_049_929)),
            response: Some(Word::parse("Perhaps")),
            risk: Some(EventRisk {
                decision: Some(Word::parse("AccountTakeover")),
                level: Some(Word::parse("High")),
                compromised_credentials: Some(true),
            }),
            challenges: vec![Challenge { name: Some(Word::parse("Password")), response: Some(Word::parse("Success")) }],
            context: Some(EventContext {
                ip_address: Some("192.0.2.7".into()),
                device_name: Some("Chrome 126, Windows 10".into()),
                timezone: None,
                city: Some("null".into()),
                country: Some("Ireland".into()),
            }),
            feedback: Some(EventFeedback {
                value: Some(Word::parse("Valid")),
                provider: Some("admin".into()),
                date: Some(UnixMillis(1_723_136_100_000)),
            }),
        };
        Entry {
            pool: Arc::new(pool),
            user: Arc::new(user),
            event,
            revision: 2,
            history: true,
            observed: UnixMillis(1_723_136_200_000),
            told_by: EventSource::default(),
            details: ExportDetails::default(),
            masked: Modes::default(),
        }
    }

    #[test]
    fn what_older_builds_have_written_is_read_and_written_as_the_newest() {
        let entry = StoredEntry::from(known_entry());
        assert_eq!(StoredEntry::open(&envelope::unhex(ENTRY_1)), Ok(entry.clone()));

        let refusal = StoredRefusal::open(&refusal_of_version_1()).unwrap();
        assert_eq!(refusal, StoredRefusal { reason: REASON.into(), at: AT.0, value: entry.seal() });
        let newest = refusal.seal();
        assert_eq!(newest[0], 2);
        assert_eq!(StoredRefusal::open(&newest), Ok(refusal));

        let empty = StoredRefusal::open(&envelope::unhex(EMPTY_REFUSAL_1)).unwrap();
        assert_eq!(
            StoredEntry::examine(&empty.value).unwrap().unwrap_err().to_string(),
            "cannot be read: it is cut short"
        );
        for version in [0, 3] {
            let never = envelope::in_version(version, &refusal_of_version_1());
            assert!(StoredRefusal::open(&never).is_err(), "{version}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn an_entry_comes_back_as_it_was(entry in any_entry()) {
            let sealed = StoredEntry::from(entry.clone()).seal();
            prop_assert_eq!(StoredEntry::open(&sealed).map(Entry::from), Ok(entry));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
            for version in [1, 2] {
                let sealed = envelope::in_version(version, &[&[0; 5], &*bytes].concat());
                for bytes in [bytes.as_slice(), &sealed] {
                    let _ = StoredEntry::open(bytes).map(Entry::from);
                    let _ = StoredRefusal::open(bytes);
                }
            }
        }
    }
}
