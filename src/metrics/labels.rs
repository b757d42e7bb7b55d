//! The label values of the exporter's own metrics: closed lists, so that outside data cannot create series.

use cognito_auth_core::call::{CallOutcome, Operation};

/// A closed list of label values.
pub trait LabelValue: Copy + PartialEq + 'static {
    /// Every value. Each has its series at 0 from the start.
    const ALL: &'static [Self];
    /// Returns the value as it is shown.
    fn as_str(self) -> &'static str;
}

macro_rules! label_value {
    ($name:ident { $($value:ident = $text:literal),+ $(,)? }) => {
        impl LabelValue for $name {
            const ALL: &'static [Self] = &[$(Self::$value),+];
            fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text),+ }
            }
        }
    };
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[$value_doc])* $value),+ }

        label_value! { $name { $($value = $text),+ } }
    };
}

label_value! { CallOutcome {
    Ok = "ok",
    Throttled = "throttled",
    Denied = "denied",
    NotFound = "not_found",
    Timeout = "timeout",
    Error = "error",
} }

label_value! { Operation {
    AdminListUserAuthEvents = "AdminListUserAuthEvents",
    ListUsers = "ListUsers",
    ListUsersInGroup = "ListUsersInGroup",
    DescribeUserPool = "DescribeUserPool",
    GetProvisionedLimit = "GetProvisionedLimit",
    GetLogDeliveryConfiguration = "GetLogDeliveryConfiguration",
    FilterLogEvents = "FilterLogEvents",
} }

label_value! {
    /// The kind of an event of a page: `result` of `cognito_exporter_fetched_events_total`.
    pub enum Fetched {
        /// A live event, seen for the first time.
        New = "new",
        /// An event seen before with another mutable part.
        Revision = "revision",
        /// An event seen before, unchanged.
        Known = "known",
        /// An event seen for the first time, from before its user was followed.
        History = "history",
    }
}

label_value! {
    /// What a record of a pool's export is: `result` of `cognito_exporter_export_records_total`.
    pub enum ExportResult {
        /// An event that neither source has told before.
        New = "new",
        /// An event told before with another mutable part.
        Revision = "revision",
        /// An event told before, unchanged.
        Known = "known",
        /// An event of a user who is not selected.
        Unselected = "unselected",
        /// An event that is too old to know whether it was told before.
        Late = "late",
        /// A record that cannot be read. It is in the quarantine.
        Unreadable = "unreadable",
    }
}

label_value! {
    /// The answer to a request of Data Firehose: `outcome` of `cognito_exporter_firehose_requests_total`.
    pub enum FirehoseOutcome {
        /// The records are on the disk.
        Ok = "ok",
        /// The access key is wrong or missing.
        Unauthorized = "unauthorized",
        /// The request is malformed or oversized.
        Invalid = "invalid",
        /// The records cannot be taken at present.
        Busy = "busy",
    }
}

label_value! {
    /// A part of the flow that must keep moving: `stage` of `cognito_exporter_last_progress_timestamp_seconds`.
    pub enum Stage {
        /// Asking Cognito.
        Poll = "poll",
        /// Writing the ledger.
        Commit = "commit",
        /// Emptying the outbox; not in use without a sink.
        Deliver = "deliver",
    }
}

label_value! {
    /// The state of a user: `state` of `cognito_exporter_users`.
    pub enum UserState {
        /// The latest answer was a page.
        Ok = "ok",
        /// Cognito does not know the user.
        Missing = "missing",
        /// The latest answers were errors about this user.
        Failing = "failing",
    }
}

label_value! {
    /// The receiver's answer to one batch: `outcome` of `cognito_exporter_otlp_requests_total`.
    pub enum RequestOutcome {
        /// Accepted, at least in part.
        Ok = "ok",
        /// To be sent again.
        Retry = "retry",
        /// Refused in a way that only a person can fix, or for its content.
        Refused = "refused",
    }
}

label_value! {
    /// The fate of a record: `outcome` of `cognito_exporter_otlp_records_total`.
    pub enum RecordOutcome {
        /// The receiver accepted it.
        Accepted = "accepted",
        /// The receiver rejected it in a partial success. It is lost.
        Rejected = "rejected",
        /// The receiver refused it as invalid, and it is kept in the quarantine.
        Quarantined = "quarantined",
    }
}

label_value! {
    /// Why polling or delivery pauses: `reason` of `cognito_exporter_paused`.
    pub enum PauseReason {
        /// The outbox has reached its limit: polling pauses.
        OutboxFull = "outbox_full",
        /// The quarantine has reached its limit: delivery pauses.
        QuarantineFull = "quarantine_full",
        /// The ledger cannot be written.
        StateError = "state_error",
    }
}

/// One `T` for each value of a label, in ascending order of the values' texts.
#[derive(Clone, Debug)]
pub(super) struct PerLabel<L, T>(Vec<(L, T)>);

impl<L: LabelValue, T> PerLabel<L, T> {
    pub(super) fn new(mut make: impl FnMut() -> T) -> Self {
        let mut values: Vec<(L, T)> = L::ALL.iter().map(|label| (*label, make())).collect();
        values.sort_unstable_by_key(|(label, _)| label.as_str());
        Self(values)
    }

    pub(super) fn of(&mut self, label: L) -> &mut T {
        let value = self.0.iter_mut().find(|(known, _)| *known == label);
        &mut value.expect("ALL is made by the macro that makes the type, or matches it exhaustively").1
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        self.0.iter().map(|(label, value)| (label.as_str(), value))
    }
}
