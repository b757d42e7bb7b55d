//! Entries for tests.

use std::sync::Arc;

use crate::entry::{Entry, EventSource, PoolIdentity, UserIdentity};
use crate::event::{AuthEvent, Challenge, EventContext, EventFeedback, EventRisk, UnixMillis, Word};
use crate::export::ExportDetails;
use crate::masking::Modes;

/// Makes an entry with every member that Cognito and the listings can give.
pub fn full_entry() -> Entry {
    Entry {
        pool: Arc::new(PoolIdentity {
            id: "eu-west-1_Abc123".into(),
            name: "customers".into(),
            region: "eu-west-1".into(),
            account_id: Some("111122223333".into()),
        }),
        user: Arc::new(UserIdentity { username: "alice".into(), sub: Some("sub-of-alice".into()) }),
        event: AuthEvent {
            id: Some("4ad59ba8-0df1-4b1c-9a3e-3f2b5bf0d5ce".into()),
            event_type: Some(Word::parse("SignIn")),
            creation_date: Some(UnixMillis(1_723_136_049_929)),
            response: Some(Word::parse("Pass")),
            risk: Some(EventRisk {
                decision: Some(Word::parse("AccountTakeover")),
                level: Some(Word::parse("High")),
                compromised_credentials: Some(false),
            }),
            challenges: vec![
                Challenge { name: Some(Word::parse("Password")), response: Some(Word::parse("Success")) },
                Challenge { name: Some(Word::parse("Mfa")), response: None },
            ],
            context: Some(EventContext {
                ip_address: Some("192.0.2.1".into()),
                device_name: Some("Chrome 126, Windows 10".into()),
                timezone: Some("-07:00".into()),
                city: Some("Seattle".into()),
                country: Some("United States".into()),
            }),
            feedback: Some(EventFeedback {
                value: Some(Word::parse("Invalid")),
                provider: Some("Admin".into()),
                date: Some(UnixMillis(1_723_136_100_000)),
            }),
        },
        revision: 2,
        history: false,
        observed: UnixMillis(1_723_136_200_000),
        told_by: EventSource::default(),
        details: ExportDetails::default(),
        masked: Modes::default(),
    }
}

/// Makes an entry of an event without any member.
pub fn bare_entry() -> Entry {
    Entry {
        event: AuthEvent::default(),
        user: Arc::new(UserIdentity { username: "alice".into(), sub: None }),
        pool: Arc::new(PoolIdentity { account_id: None, ..(*full_entry().pool).clone() }),
        revision: 0,
        history: true,
        observed: UnixMillis(5),
        told_by: EventSource::default(),
        details: ExportDetails::default(),
        masked: Modes::default(),
    }
}
