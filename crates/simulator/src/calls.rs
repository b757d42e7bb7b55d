//! The log of calls, for assertions in tests: operation, caller, time and result of each call.

use std::collections::{BTreeMap, VecDeque};

use cognito_auth_core::event::UnixMillis;

use super::fault::{AwsError, FaultKind};

/// One call, answered or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The operation, such as `AdminListUserAuthEvents`. It can be one that the simulation does not know.
    pub operation: String,
    /// `UserPoolId`; for CloudWatch Logs the log group, by the name or ARN of the call.
    pub pool: Option<String>,
    /// `Username`.
    pub user: Option<String>,
    /// `NextToken` or `PaginationToken`; `nextToken` for CloudWatch Logs.
    pub token: Option<String>,
    /// `MaxResults` or `Limit`.
    pub max_results: Option<i64>,
    /// The time of the call, by the world's clock.
    pub at: UnixMillis,
    /// The access key of the signature.
    pub access_key: Option<String>,
    /// The result.
    pub outcome: CallResult,
}

/// The result of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CallResult {
    /// It was answered. This includes answers whose content a fault has changed.
    Answered,
    /// It was answered with the error of this name.
    Refused(String),
    /// It was not answered properly: reset, hang, HTML, or half an answer.
    Broken,
}

impl CallResult {
    pub(super) fn of(answered: &Result<String, AwsError>, fault: Option<&FaultKind>) -> Self {
        use FaultKind::{CutConnection, CutJson, Hang, Html, Reset};
        match (fault, answered) {
            (Some(CutConnection | CutJson | Hang | Html(_) | Reset), _) => Self::Broken,
            (_, Err(error)) => Self::Refused(error.name.clone()),
            (_, Ok(_)) => Self::Answered,
        }
    }
}

/// The most calls that are kept, the newest ones. A benchmark makes millions of calls.
const KEPT_MAX: usize = 100_000;

/// The newest calls, and the number of all calls.
#[derive(Debug, Default)]
pub struct CallLog {
    kept: VecDeque<Call>,
    totals: BTreeMap<String, u64>,
}

impl CallLog {
    pub(super) fn push(&mut self, call: Call) {
        if self.kept.len() >= KEPT_MAX {
            self.kept.pop_front();
        }
        match self.totals.get_mut(&call.operation) {
            Some(total) => *total += 1,
            None => drop(self.totals.insert(call.operation.clone(), 1)),
        }
        self.kept.push_back(call);
    }

    /// The calls, oldest first; at most the newest 100,000.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Call> {
        self.kept.iter()
    }

    /// The calls of one operation.
    pub fn of<'a>(&'a self, operation: &'a str) -> impl DoubleEndedIterator<Item = &'a Call> {
        self.iter().filter(move |call| call.operation == operation)
    }

    /// The number of kept calls of one operation.
    pub fn count(&self, operation: &str) -> usize {
        self.of(operation).count()
    }

    /// The number of calls since the start, kept or not.
    pub fn total(&self) -> u64 {
        self.totals.values().sum()
    }

    /// The number of calls of one operation since the start, kept or not.
    pub fn total_of(&self, operation: &str) -> u64 {
        self.totals.get(operation).copied().unwrap_or_default()
    }

    /// Removes the kept calls. The totals stay.
    pub fn clear(&mut self) {
        self.kept.clear();
    }
}
