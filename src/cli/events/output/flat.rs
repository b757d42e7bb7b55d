//! An event as one row: a column for each member of the API, however deep it lies.

use cognito_auth_core::event::UnixMillis;

use crate::source::cognito::wire::{WireEvent, WireFeedback};

/// The members of an event beside one another. Absent members are None, and values are as the service sent them.
pub(super) struct FlatEvent<'a> {
    pub(super) username: &'a str,
    pub(super) event_id: Option<&'a str>,
    pub(super) event_type: Option<&'a str>,
    pub(super) creation_date: Option<UnixMillis>,
    pub(super) event_response: Option<&'a str>,
    pub(super) risk_decision: Option<&'a str>,
    pub(super) risk_level: Option<&'a str>,
    pub(super) compromised_credentials_detected: Option<bool>,
    /// The list as JSON, in the API's form.
    pub(super) challenge_responses: Option<String>,
    pub(super) ip_address: Option<&'a str>,
    pub(super) device_name: Option<&'a str>,
    pub(super) timezone: Option<&'a str>,
    pub(super) city: Option<&'a str>,
    pub(super) country: Option<&'a str>,
    pub(super) feedback_value: Option<&'a str>,
    pub(super) feedback_provider: Option<&'a str>,
    pub(super) feedback_date: Option<UnixMillis>,
}

impl<'a> FlatEvent<'a> {
    /// Flattens an event of a user.
    pub(super) fn of(username: &'a str, event: &'a WireEvent) -> Self {
        let risk = event.event_risk.as_ref();
        let context = event.event_context_data.as_ref();
        let feedback = event.event_feedback.as_ref();
        let in_feedback =
            |member: fn(&WireFeedback) -> &Option<String>| feedback.and_then(|feedback| member(feedback).as_deref());
        Self {
            username,
            event_id: event.event_id.as_deref(),
            event_type: event.event_type.as_deref(),
            creation_date: event.creation_date,
            event_response: event.event_response.as_deref(),
            risk_decision: risk.and_then(|risk| risk.risk_decision.as_deref()),
            risk_level: risk.and_then(|risk| risk.risk_level.as_deref()),
            compromised_credentials_detected: risk.and_then(|risk| risk.compromised_credentials_detected),
            // Texts in a list always have a JSON form.
            challenge_responses: event.challenge_responses.as_ref().and_then(|list| serde_json::to_string(list).ok()),
            ip_address: context.and_then(|context| context.ip_address.as_deref()),
            device_name: context.and_then(|context| context.device_name.as_deref()),
            timezone: context.and_then(|context| context.timezone.as_deref()),
            city: context.and_then(|context| context.city.as_deref()).filter(is_place),
            country: context.and_then(|context| context.country.as_deref()).filter(is_place),
            feedback_value: in_feedback(|feedback| &feedback.feedback_value),
            feedback_provider: in_feedback(|feedback| &feedback.provider),
            feedback_date: feedback.and_then(|feedback| feedback.feedback_date),
        }
    }
}

/// Whether the service names a place: it sends the text `null` where it knows none.
fn is_place(name: &&str) -> bool {
    *name != "null"
}
