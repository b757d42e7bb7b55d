//! The log of what was asked, for assertions: who called what, when, and what came of it.

use std::collections::{BTreeMap, VecDeque};

use cognito_auth_core::event::UnixMillis;

use super::fault::{Misfortune, Refusal};

/// One request, answered or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// Such as `AdminListUserAuthEvents`; also one that the simulation does not know.
    pub operation: String,
    /// `UserPoolId`.
    pub pool: Option<String>,
    /// `Username`.
    pub user: Option<String>,
    /// `NextToken` or `PaginationToken`.
    pub token: Option<String>,
    /// `MaxResults` or `Limit`.
    pub max_results: Option<i64>,
    /// The world's time.
    pub at: UnixMillis,
    /// The access key that signed it.
    pub access_key: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was answered, perhaps badly: a fault that spoils an answer's content counts here.
    Answered,
    /// It was refused with the error of this name.
    Refused(String),
    /// No proper answer was given: a reset, a hang, a page of HTML, half an answer.
    Broken,
}

impl Outcome {
    pub(super) fn of(answered: &Result<String, Refusal>, misfortune: Option<&Misfortune>) -> Self {
        use Misfortune::{CutConnection, CutJson, Hang, Html, Reset};
        match (misfortune, answered) {
            (Some(CutConnection | CutJson | Hang | Html(_) | Reset), _) => Self::Broken,
            (_, Err(refusal)) => Self::Refused(refusal.name.clone()),
            (_, Ok(_)) => Self::Answered,
        }
    }
}

/// Calls that are kept at most, the newest; a benchmark makes millions.
const KEPT_MAX: usize = 100_000;

/// The newest calls and the number of all.
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

    /// How many calls of one operation are kept.
    pub fn count(&self, operation: &str) -> usize {
        self.of(operation).count()
    }

    /// How many calls there were since the start, whatever was kept or forgotten.
    pub fn total(&self) -> u64 {
        self.totals.values().sum()
    }

    /// How many of them were calls of one operation.
    pub fn total_of(&self, operation: &str) -> u64 {
        self.totals.get(operation).copied().unwrap_or_default()
    }

    /// Forgets the calls so far.
    pub fn clear(&mut self) {
        self.kept.clear();
    }
}
