//! The durable totals of one pool, and the text of their labels.
//!
//! A pool has about 430 totals, which are nearly all lines of a scrape. The labels after the pool's are the same in
//! every pool. So their text is rendered once for all pools, and a scrape formats numbers only.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use cognito_auth_core::counters::Series;

use crate::config::ZeroSeries;

use super::family::{Counter, Exposition, Family, FamilyHead};

const EVENTS: Family<Counter, 4> = Family::new(
    "cognito_auth_events_total",
    "Outcomes of auth events; one event adds 1 at first sight and 1 for each revision that changes its outcome.",
    ["user_pool_id", "event_type", "event_response", "risk_decision"],
);
const SUPERSEDED: Family<Counter, 4> = Family::new(
    "cognito_auth_superseded_outcomes_total",
    "Outcomes that a revision left again; final outcomes are events minus these.",
    ["user_pool_id", "event_type", "event_response", "risk_decision"],
);
const UNFINISHED: Family<Counter, 3> = Family::new(
    "cognito_auth_unfinished_events_total",
    "Auth events that were still InProgress when their watch ended.",
    ["user_pool_id", "event_type", "risk_decision"],
);
const RISK: Family<Counter, 5> = Family::new(
    "cognito_auth_risk_events_total",
    "Auth events whose risk decision is AccountTakeover, Block or unknown; again when these labels change.",
    ["user_pool_id", "event_type", "event_response", "risk_level", "risk_decision"],
);
const COMPROMISED: Family<Counter, 3> = Family::new(
    "cognito_auth_compromised_credentials_events_total",
    "Auth events in which compromised credentials were detected.",
    ["user_pool_id", "event_type", "event_response"],
);
const CHALLENGES: Family<Counter, 3> = Family::new(
    "cognito_auth_challenges_total",
    "Challenge responses of auth events, counted when an entry first appears or changes.",
    ["user_pool_id", "challenge_name", "challenge_response"],
);
const FEEDBACK: Family<Counter, 2> = Family::new(
    "cognito_auth_feedback_total",
    "Feedback on auth events, counted when set or changed while the event is watched.",
    ["user_pool_id", "feedback_value"],
);
const HISTORY: Family<Counter, 1> = Family::new(
    "cognito_auth_history_events_total",
    "Auth events from before their user was followed; in no other cognito_auth counter.",
    ["user_pool_id"],
);
/// The series that every pool shows from the start.
static DOCUMENTED: LazyLock<Arc<SeriesTable>> = LazyLock::new(|| Arc::new(SeriesTable::new(Series::documented())));

/// The totals of one pool.
pub(super) struct Totals {
    /// The series. Pools share the table until one of them shows a series that is not documented.
    table: Arc<SeriesTable>,
    /// The total of each line of the table.
    values: Vec<u64>,
}

/// Series with their text.
struct SeriesTable {
    /// The lines in the order of the text format: by family, then by label values.
    lines: Vec<SeriesLine>,
    /// The position of each series in `lines`.
    positions: BTreeMap<Series, usize>,
}

/// A series with its text.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct SeriesLine {
    family: FamilyHead,
    /// The labels after the pool's, with a comma before each. Their values are words, so this text sorts as they do.
    labels: String,
    series: Series,
}

impl Totals {
    /// Makes the totals of a pool: every documented series at 0.
    pub(super) fn new() -> Self {
        Self { table: DOCUMENTED.clone(), values: vec![0; DOCUMENTED.lines.len()] }
    }

    /// Raises a total to this value, if it is larger.
    pub(super) fn raise(&mut self, series: Series, total: u64) {
        let position = self.table.positions.get(&series).copied().unwrap_or_else(|| self.add(series));
        let shown = &mut self.values[position];
        *shown = (*shown).max(total);
    }

    /// Adds a series at 0. Returns its position.
    fn add(&mut self, series: Series) -> usize {
        let table = SeriesTable::new(self.iter().map(|(known, _)| known).chain([series]));
        let position = table.positions[&series];
        self.values.insert(position, 0);
        self.table = Arc::new(table);
        position
    }

    /// Returns every series with its total.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Series, u64)> {
        self.table.lines.iter().map(|line| line.series).zip(self.values.iter().copied())
    }

    /// Adds the totals of the pool `id` to a scrape.
    pub(super) fn put(&self, scrape: &mut Exposition, id: &str, zero_series: ZeroSeries) {
        let pool = HISTORY.labels_text([id]);
        let mut values = self.values.iter().copied();
        for family in self.table.lines.chunk_by(|one, next| one.family == next.family) {
            let lines = family.iter().zip(values.by_ref());
            let shown = lines.filter(|(line, total)| match zero_series {
                ZeroSeries::All => true,
                ZeroSeries::Seen => *total > 0 || self.has_seen_outcome(line.series),
            });
            let labels = shown.map(|(line, total)| (line.labels.as_str(), total));
            scrape.put_counters(family[0].family, &pool, labels);
        }
    }

    /// Whether a series counts superseded outcomes of which some were seen. It is shown beside them, so that the
    /// difference of the two has a value.
    fn has_seen_outcome(&self, series: Series) -> bool {
        let Series::Superseded(outcome) = series else { return false };
        let position = self.table.positions.get(&Series::Events(outcome));
        position.is_some_and(|position| self.values[*position] > 0)
    }
}

impl SeriesTable {
    fn new(series: impl Iterator<Item = Series>) -> Self {
        let mut lines: Vec<SeriesLine> = series.map(SeriesLine::of).collect();
        lines.sort_unstable();
        let positions = lines.iter().enumerate().map(|(position, line)| (line.series, position)).collect();
        Self { lines, positions }
    }
}

impl SeriesLine {
    fn of(series: Series) -> Self {
        match series {
            Series::Events(outcome) => {
                let (event_type, response, decision) = (outcome.event_type, outcome.response, outcome.decision);
                Self::new(series, &EVENTS, [ANY_POOL, event_type.as_str(), response.as_str(), decision.as_str()])
            }
            Series::Superseded(outcome) => {
                let (event_type, response, decision) = (outcome.event_type, outcome.response, outcome.decision);
                Self::new(series, &SUPERSEDED, [ANY_POOL, event_type.as_str(), response.as_str(), decision.as_str()])
            }
            Series::Unfinished { event_type, decision } => {
                Self::new(series, &UNFINISHED, [ANY_POOL, event_type.as_str(), decision.as_str()])
            }
            Series::Risk { event_type, response, level, decision } => Self::new(
                series,
                &RISK,
                [ANY_POOL, event_type.as_str(), response.as_str(), level.as_str(), decision.as_str()],
            ),
            Series::Compromised { event_type, response } => {
                Self::new(series, &COMPROMISED, [ANY_POOL, event_type.as_str(), response.as_str()])
            }
            Series::Challenges { name, response } => {
                Self::new(series, &CHALLENGES, [ANY_POOL, name.as_str(), response.as_str()])
            }
            Series::Feedback { value } => Self::new(series, &FEEDBACK, [ANY_POOL, value.as_str()]),
            Series::History => Self::new(series, &HISTORY, [ANY_POOL]),
        }
    }

    /// Makes the line of a family's series. The first label is the pool's, which is not part of the line.
    fn new<const LABELS: usize>(series: Series, family: &Family<Counter, LABELS>, values: [&str; LABELS]) -> Self {
        let labels = family.labels_text(values).split_off(HISTORY.labels_text([ANY_POOL]).len());
        Self { family: family.head(), labels, series }
    }
}

/// Stands for the pool in the text of labels that all pools share.
const ANY_POOL: &str = "";
