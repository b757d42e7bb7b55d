//! The durable counters: their series, and by how much each sighting of an event moves them.
//!
//! Pure. Each outcome is counted exactly once. [`pages`] computes a page's deltas, and the ledger writes them in the
//! same atomic write as the cursor. A total belongs to a pool, whose id is kept beside the series. The metrics show the
//! totals, and the ledger keeps them under [`Series::to_key`].
//!
//! ```text
//! sighting of a live event    events superseded  risk events              compromised     challenges     feedback
//! first                       +1 new             +1 if risky              +1 if true      +1 each entry  +1 if set
//! revision, outcome changed   +1 new +1 old      +1 if risky and changed  +1 if now true  +1 each added  +1 if changed
//! revision, outcome as before                    +1 if risky and changed  +1 if now true  +1 each added  +1 if changed
//! ```
//!
//! A risk event has changed if its outcome or its risk level has. An event of history moves one counter, once. A watch
//! that ends on an event still in progress counts the event as unfinished.

use crate::event::{
    ChallengeName, ChallengeResponse, EventResponse, EventType, Facts, FeedbackValue, Label, Outcome, RiskDecision,
    RiskLevel, Vocabulary,
};
use crate::walk::{Finding, Taken};

/// One durable counter of a pool with its labels, in the order of the metrics' documentation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Series {
    /// `cognito_auth_events_total`: outcomes that events reached.
    Events(Outcome),
    /// `cognito_auth_superseded_outcomes_total`: outcomes that a revision replaced.
    Superseded(Outcome),
    /// `cognito_auth_unfinished_events_total`: events still in progress when their watch ended.
    Unfinished {
        /// EventType.
        event_type: Label<EventType>,
        /// RiskDecision.
        decision: Label<RiskDecision>,
    },
    /// `cognito_auth_risk_events_total`: events that threat protection acted on.
    Risk {
        /// EventType.
        event_type: Label<EventType>,
        /// EventResponse.
        response: Label<EventResponse>,
        /// RiskLevel.
        level: Label<RiskLevel>,
        /// RiskDecision; never NoRisk, never absent.
        decision: Label<RiskDecision>,
    },
    /// `cognito_auth_compromised_credentials_events_total`: events with credentials known to be compromised.
    Compromised {
        /// EventType.
        event_type: Label<EventType>,
        /// EventResponse when the credentials were first found compromised.
        response: Label<EventResponse>,
    },
    /// `cognito_auth_challenges_total`: answered or pending challenges of events.
    Challenges {
        /// ChallengeName.
        name: Label<ChallengeName>,
        /// ChallengeResponse.
        response: Label<ChallengeResponse>,
    },
    /// `cognito_auth_feedback_total`: feedback that was set or changed.
    Feedback {
        /// FeedbackValue; never absent.
        value: Label<FeedbackValue>,
    },
    /// `cognito_auth_history_events_total`: events from before their user was followed.
    History,
}

/// Series and the numbers by which they move. Each series is named once, in ascending order, with a number of 1 or
/// more.
pub type Deltas = Vec<(Series, u64)>;

/// Computes the deltas of pages: those of their findings, and of the watches that ended on them.
pub fn pages<'a>(pages: impl Iterator<Item = &'a Taken>) -> Deltas {
    add_up(pages.flat_map(|taken| {
        // The walk names only live events as unfinished.
        let unfinished = taken.unfinished.iter().flat_map(|facts| unfinished(facts, true));
        taken.findings.iter().flat_map(found).chain(unfinished)
    }))
}

/// Computes the deltas of one finding.
pub fn found(finding: &Finding) -> Deltas {
    match &finding.before {
        None => first_sight(&finding.facts, finding.live),
        Some(before) => revision(before, &finding.facts, finding.live),
    }
}

/// Computes the deltas of an event's first sight. `live` is false for history.
fn first_sight(facts: &Facts, live: bool) -> Deltas {
    if !live {
        return sum([Series::History]);
    }
    let seen = [Series::Events(facts.outcome())]
        .into_iter()
        .chain(risk(facts))
        .chain(facts.compromised.then(|| compromised(facts)))
        .chain(facts.challenges.iter().map(challenge))
        .chain(feedback(facts));
    sum(seen)
}

/// Computes the deltas of a revision from `before` to `after`. A revision of history moves nothing.
fn revision(before: &Facts, after: &Facts, live: bool) -> Deltas {
    if !live {
        return Deltas::new();
    }
    let outcome = (before.outcome() != after.outcome())
        .then(|| [Series::Events(after.outcome()), Series::Superseded(before.outcome())]);
    let changed = outcome
        .into_iter()
        .flatten()
        .chain(risk(after).filter(|_| risk_tuple(before) != risk_tuple(after)))
        .chain((after.compromised && !before.compromised).then(|| compromised(after)))
        .chain(added_challenges(before, after))
        .chain(feedback(after).filter(|_| before.feedback != after.feedback));
    sum(changed)
}

/// Computes the deltas of a watch that ends. There are none unless the event is live and still in progress.
fn unfinished(facts: &Facts, live: bool) -> Deltas {
    sum(still_in_progress(facts).filter(|_| live))
}

fn risk_tuple(facts: &Facts) -> (Outcome, Label<RiskLevel>) {
    (facts.outcome(), facts.level)
}

fn risk(facts: &Facts) -> Option<Series> {
    is_risk(facts.decision).then_some(Series::Risk {
        event_type: facts.event_type,
        response: facts.response,
        level: facts.level,
        decision: facts.decision,
    })
}

/// Whether threat protection acted. A decision that this build does not know counts, because it may be the gravest of
/// all.
fn is_risk(decision: Label<RiskDecision>) -> bool {
    match decision {
        Label::Known(RiskDecision::AccountTakeover | RiskDecision::Block) | Label::Other => true,
        Label::Known(RiskDecision::NoRisk) | Label::Absent => false,
    }
}

fn compromised(facts: &Facts) -> Series {
    Series::Compromised { event_type: facts.event_type, response: facts.response }
}

fn challenge(&(name, response): &(Label<ChallengeName>, Label<ChallengeResponse>)) -> Series {
    Series::Challenges { name, response }
}

/// The entries of `after` that `before` lacks, as multisets. The order of the entries means nothing. A second equal
/// entry is an entry of its own, and an entry that changed is one that was added.
fn added_challenges(before: &Facts, after: &Facts) -> impl Iterator<Item = Series> {
    let mut known = before.challenges.clone();
    after
        .challenges
        .iter()
        .filter(move |entry| match known.iter().position(|old| old == *entry) {
            Some(position) => {
                known.swap_remove(position);
                false
            }
            None => true,
        })
        .map(challenge)
}

fn feedback(facts: &Facts) -> Option<Series> {
    (facts.feedback != Label::Absent).then_some(Series::Feedback { value: facts.feedback })
}

fn still_in_progress(facts: &Facts) -> Option<Series> {
    (facts.response == Label::Known(EventResponse::InProgress))
        .then_some(Series::Unfinished { event_type: facts.event_type, decision: facts.decision })
}

/// Adds up movements by 1.
fn sum(moved: impl IntoIterator<Item = Series>) -> Deltas {
    add_up(moved.into_iter().map(|series| (series, 1)))
}

/// Adds up movements: each series once, in ascending order.
fn add_up(moved: impl IntoIterator<Item = (Series, u64)>) -> Deltas {
    let mut deltas = Deltas::new();
    for (series, by) in moved {
        match deltas.iter_mut().find(|(known, _)| *known == series) {
            Some((_, total)) => *total += by,
            None => deltas.push((series, by)),
        }
    }
    deltas.sort_unstable();
    deltas
}

impl Series {
    /// Every series that documented events can move, in ascending order within each counter. All of them exist at 0
    /// from the start. A series with the label `other` appears when the API sends a word that this build does not know.
    pub fn documented() -> impl Iterator<Item = Self> {
        let outcomes = || {
            Label::documented().flat_map(|event_type| {
                Label::documented().flat_map(move |response| {
                    Label::documented().map(move |decision| Outcome { event_type, response, decision })
                })
            })
        };
        let unfinished = Label::documented()
            .flat_map(|event_type| Label::documented().map(move |decision| Self::Unfinished { event_type, decision }));
        let risks = || Label::documented().filter(|decision| is_risk(*decision));
        let risk = Label::documented().flat_map(move |event_type| {
            Label::documented().flat_map(move |response| {
                Label::documented().flat_map(move |level| {
                    risks().map(move |decision| Self::Risk { event_type, response, level, decision })
                })
            })
        });
        let compromised = Label::documented()
            .flat_map(|event_type| Label::documented().map(move |response| Self::Compromised { event_type, response }));
        let challenges = Label::documented()
            .flat_map(|name| Label::documented().map(move |response| Self::Challenges { name, response }));
        let feedback =
            Label::documented().filter(|value| *value != Label::Absent).map(|value| Self::Feedback { value });
        outcomes()
            .map(Self::Events)
            .chain(outcomes().map(Self::Superseded))
            .chain(unfinished)
            .chain(risk)
            .chain(compromised)
            .chain(challenges)
            .chain(feedback)
            .chain([Self::History])
    }

    /// The series as text for storage, such as `events/SignIn/Pass/NoRisk`. It never changes.
    pub fn to_key(&self) -> String {
        match *self {
            Self::Events(outcome) => outcome_key("events", outcome),
            Self::Superseded(outcome) => outcome_key("superseded", outcome),
            Self::Unfinished { event_type, decision } => {
                ["unfinished", event_type.as_str(), decision.as_str()].join("/")
            }
            Self::Risk { event_type, response, level, decision } => {
                ["risk", event_type.as_str(), response.as_str(), level.as_str(), decision.as_str()].join("/")
            }
            Self::Compromised { event_type, response } => {
                ["compromised", event_type.as_str(), response.as_str()].join("/")
            }
            Self::Challenges { name, response } => ["challenges", name.as_str(), response.as_str()].join("/"),
            Self::Feedback { value } => ["feedback", value.as_str()].join("/"),
            Self::History => "history".to_owned(),
        }
    }

    /// Reads a stored key. None for a key that this build does not know, such as one with a newer build's word. Its
    /// total must stay where it is, for the build that knows it.
    pub fn from_key(key: &str) -> Option<Self> {
        let parts: Vec<&str> = key.split('/').collect();
        let series = match *parts.as_slice() {
            ["events", event_type, response, decision] => Self::Events(outcome(event_type, response, decision)?),
            ["superseded", event_type, response, decision] => {
                Self::Superseded(outcome(event_type, response, decision)?)
            }
            ["unfinished", event_type, decision] => {
                Self::Unfinished { event_type: label(event_type)?, decision: label(decision)? }
            }
            ["risk", event_type, response, level, decision] => Self::Risk {
                event_type: label(event_type)?,
                response: label(response)?,
                level: label(level)?,
                decision: label(decision)?,
            },
            ["compromised", event_type, response] => {
                Self::Compromised { event_type: label(event_type)?, response: label(response)? }
            }
            ["challenges", name, response] => Self::Challenges { name: label(name)?, response: label(response)? },
            ["feedback", value] => Self::Feedback { value: label(value)? },
            ["history"] => Self::History,
            _ => return None,
        };
        Some(series)
    }
}

fn outcome_key(counter: &str, outcome: Outcome) -> String {
    [counter, outcome.event_type.as_str(), outcome.response.as_str(), outcome.decision.as_str()].join("/")
}

fn outcome(event_type: &str, response: &str, decision: &str) -> Option<Outcome> {
    Some(Outcome { event_type: label(event_type)?, response: label(response)?, decision: label(decision)? })
}

fn label<V: Vocabulary>(text: &str) -> Option<Label<V>> {
    Label::documented().chain([Label::Other]).find(|label| label.as_str() == text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::event::AuthEvent;
    use crate::walk::Next;

    /// Facts from words in the order type, response, decision, level: `facts("SignIn Pass NoRisk none")`.
    fn facts(words: &str) -> Facts {
        let words: Vec<&str> = words.split(' ').collect();
        let &[event_type, response, decision, level] = words.as_slice() else { panic!("four words") };
        Facts {
            event_type: label(event_type).unwrap(),
            response: label(response).unwrap(),
            decision: label(decision).unwrap(),
            level: label(level).unwrap(),
            compromised: false,
            challenges: vec![],
            feedback: Label::Absent,
        }
    }

    fn with(mut facts: Facts, change: impl FnOnce(&mut Facts)) -> Facts {
        change(&mut facts);
        facts
    }

    const PASSWORD_PASSED: (Label<ChallengeName>, Label<ChallengeResponse>) =
        (Label::Known(ChallengeName::Password), Label::Known(ChallengeResponse::Success));
    const MFA_ASKED: (Label<ChallengeName>, Label<ChallengeResponse>) =
        (Label::Known(ChallengeName::Mfa), Label::Absent);
    const MFA_PASSED: (Label<ChallengeName>, Label<ChallengeResponse>) =
        (Label::Known(ChallengeName::Mfa), Label::Known(ChallengeResponse::Success));
    const VALID: Label<FeedbackValue> = Label::Known(FeedbackValue::Valid);
    const INVALID: Label<FeedbackValue> = Label::Known(FeedbackValue::Invalid);

    /// A page with these live findings, each with the facts before it.
    fn page_of(findings: &[(Option<&str>, &str)], unfinished: &[&str]) -> Taken {
        let finding = |(before, after): &(Option<&str>, &str)| Finding {
            event: AuthEvent::default(),
            revision: u32::from(before.is_some()),
            live: true,
            facts: facts(after),
            before: before.map(facts),
            late: false,
        };
        Taken {
            findings: findings.iter().map(finding).collect(),
            again: vec![],
            told: vec![],
            unfinished: unfinished.iter().map(|words| facts(words)).collect(),
            known: 0,
            out_of_order: false,
            token_repeated: false,
            cursor_changed: true,
            next: Next::Page,
        }
    }

    #[test]
    fn pages_of_one_commit_move_each_series_by_their_sum() {
        const WAITS: &str = "SignIn InProgress NoRisk none";
        const PASSED: &str = "SignIn Pass NoRisk none";
        let first = page_of(&[(None, WAITS), (None, PASSED)], &[]);
        let second = page_of(&[(Some(WAITS), PASSED)], &[WAITS]);
        let one_by_one = [first_sight(&facts(WAITS), true), first_sight(&facts(PASSED), true)];
        let revised = [revision(&facts(WAITS), &facts(PASSED), true), unfinished(&facts(WAITS), true)];
        let sum = add_up(one_by_one.into_iter().chain(revised).flatten());
        assert_eq!(pages([&first, &second].into_iter()), sum);
        assert!(sum.iter().any(|(_, count)| *count == 2), "two sign-ins passed");
        assert_eq!(pages(std::iter::empty()), Deltas::new());
    }

    fn told(deltas: &Deltas) -> String {
        let told: Vec<String> = deltas
            .iter()
            .map(|(series, count)| match count {
                1 => series.to_key(),
                _ => format!("{count} x {}", series.to_key()),
            })
            .collect();
        told.join(", ")
    }

    #[test]
    fn the_first_sight_of_a_live_event() {
        let table = [
            (facts("SignIn Pass NoRisk none"), "events/SignIn/Pass/NoRisk"),
            (facts("none none none none"), "events/none/none/none"),
            (facts("SignIn InProgress NoRisk none"), "events/SignIn/InProgress/NoRisk"),
            (facts("SignIn Fail Block High"), "events/SignIn/Fail/Block, risk/SignIn/Fail/High/Block"),
            (
                facts("SignIn Pass AccountTakeover none"),
                "events/SignIn/Pass/AccountTakeover, risk/SignIn/Pass/none/AccountTakeover",
            ),
            (facts("other other other other"), "events/other/other/other, risk/other/other/other/other"),
            (
                facts("SignIn Pass NoRisk High"), // a level alone is not a decision
                "events/SignIn/Pass/NoRisk",
            ),
            (
                with(facts("SignUp Pass NoRisk none"), |facts| facts.compromised = true),
                "events/SignUp/Pass/NoRisk, compromised/SignUp/Pass",
            ),
            (
                with(facts("SignIn Pass NoRisk none"), |facts| {
                    facts.challenges = vec![MFA_PASSED, PASSWORD_PASSED, MFA_PASSED];
                }),
                "events/SignIn/Pass/NoRisk, challenges/Password/Success, 2 x challenges/Mfa/Success",
            ),
            (
                with(facts("SignIn Pass NoRisk none"), |facts| facts.feedback = INVALID),
                "events/SignIn/Pass/NoRisk, feedback/Invalid",
            ),
        ];
        for (facts, expected) in table {
            assert_eq!(told(&first_sight(&facts, true)), expected);
        }
    }

    #[test]
    fn a_revision() {
        let begun = facts("SignIn InProgress NoRisk none");
        let passed = facts("SignIn Pass NoRisk none");
        let risky = facts("SignIn Pass AccountTakeover Low");
        let compromised = with(passed.clone(), |facts| facts.compromised = true);
        let challenged = with(begun.clone(), |facts| {
            facts.challenges = vec![PASSWORD_PASSED, MFA_ASKED];
        });
        let fed_back = |value| with(passed.clone(), |facts| facts.feedback = value);
        let table = [
            (&passed, passed.clone(), ""),
            (&begun, passed.clone(), "events/SignIn/Pass/NoRisk, superseded/SignIn/InProgress/NoRisk"),
            // Outcome and risk move together, or the risk alone.
            (
                &begun,
                risky.clone(),
                "events/SignIn/Pass/AccountTakeover, superseded/SignIn/InProgress/NoRisk, \
                 risk/SignIn/Pass/Low/AccountTakeover",
            ),
            (&risky, facts("SignIn Pass AccountTakeover High"), "risk/SignIn/Pass/High/AccountTakeover"),
            (&risky, passed.clone(), "events/SignIn/Pass/NoRisk, superseded/SignIn/Pass/AccountTakeover"),
            (&passed, facts("SignIn Pass NoRisk Low"), ""),
            (
                &begun,
                facts("SignIn InProgress other none"),
                "events/SignIn/InProgress/other, superseded/SignIn/InProgress/NoRisk, risk/SignIn/InProgress/none/other",
            ),
            // Compromised credentials count when they are first found.
            (&passed, compromised.clone(), "compromised/SignIn/Pass"),
            (&compromised, compromised.clone(), ""),
            (&compromised, passed.clone(), ""),
            (
                &with(begun.clone(), |facts| facts.compromised = true),
                compromised.clone(),
                "events/SignIn/Pass/NoRisk, superseded/SignIn/InProgress/NoRisk",
            ),
            // A challenge that changed is a new one. One that moved, stayed or vanished is not.
            (
                &challenged,
                with(challenged.clone(), |facts| {
                    facts.challenges = vec![MFA_PASSED, PASSWORD_PASSED];
                }),
                "challenges/Mfa/Success",
            ),
            (
                &challenged,
                with(challenged.clone(), |facts| facts.challenges.push(PASSWORD_PASSED)),
                "challenges/Password/Success",
            ),
            (&challenged, with(challenged.clone(), |facts| facts.challenges.reverse()), ""),
            (&challenged, begun.clone(), ""),
            // Feedback counts when set or changed.
            (&passed, fed_back(VALID), "feedback/Valid"),
            (&passed, fed_back(Label::Other), "feedback/other"),
            (&fed_back(VALID), fed_back(INVALID), "feedback/Invalid"),
            (&fed_back(VALID), fed_back(VALID), ""),
            (&fed_back(VALID), passed.clone(), ""),
        ];
        for (before, after, expected) in table {
            assert_eq!(told(&revision(before, &after, true)), expected, "{before:?} -> {after:?}");
            assert_eq!(revision(before, &after, false), [], "history");
        }
    }

    #[test]
    fn history_moves_one_counter_once() {
        let grave = with(facts("SignIn InProgress Block High"), |facts| {
            facts.compromised = true;
            facts.challenges = vec![PASSWORD_PASSED];
            facts.feedback = VALID;
        });
        assert_eq!(told(&first_sight(&grave, false)), "history");
        assert_eq!(unfinished(&grave, false), []);
    }

    #[test]
    fn only_an_event_in_progress_is_unfinished() {
        let begun = facts("SignUp InProgress none none");
        assert_eq!(told(&unfinished(&begun, true)), "unfinished/SignUp/none");
        let ended = facts("SignUp Fail none none");
        assert_eq!(unfinished(&ended, true), []);
    }

    #[test]
    fn the_documented_series_are_all_there_once_and_without_other() {
        let mut documented: Vec<Series> = Series::documented().collect();
        let of = |counter: &str| {
            documented.iter().filter(|series| series.to_key().split('/').next() == Some(counter)).count()
        };
        // Words of each label and `none`: type 6, response 4, decision 4, level 4, challenge 3, its response 3.
        assert_eq!(of("events"), 6 * 4 * 4);
        assert_eq!(of("superseded"), 6 * 4 * 4);
        assert_eq!(of("unfinished"), 6 * 4);
        assert_eq!(of("risk"), 6 * 4 * 4 * 2);
        assert_eq!(of("compromised"), 6 * 4);
        assert_eq!(of("challenges"), 3 * 3);
        assert_eq!(of("feedback"), 2);
        assert_eq!(of("history"), 1);
        assert!(!documented.iter().any(|series| series.to_key().contains("other")));
        let count = documented.len();
        documented.sort();
        documented.dedup();
        assert_eq!(documented.len(), count);
    }

    #[test]
    fn a_key_of_no_known_series_is_none() {
        for key in [
            "",
            "events",
            "events/SignIn/Pass",
            "events/SignIn/Pass/NoRisk/High",
            "events/SignIn/Pass/Quarantine",
            "events/signin/Pass/NoRisk",
            "history/",
            "logins/SignIn",
        ] {
            assert_eq!(Series::from_key(key), None, "{key}");
        }
    }

    fn any_label<V: Vocabulary>() -> impl Strategy<Value = Label<V>> {
        proptest::sample::select(Label::<V>::documented().chain([Label::Other]).collect::<Vec<_>>())
    }

    fn any_facts() -> impl Strategy<Value = Facts> {
        (
            (any_label(), any_label(), any_label(), any_label()),
            any::<bool>(),
            proptest::collection::vec((any_label(), any_label()), 0..5),
            any_label(),
        )
            .prop_map(|((event_type, response, decision, level), compromised, challenges, feedback)| Facts {
                event_type,
                response,
                decision,
                level,
                compromised,
                challenges,
                feedback,
            })
    }

    proptest! {
        #[test]
        fn every_series_survives_its_key(facts in any_facts(), value in any_label()) {
            let Facts { event_type, response, decision, level, .. } = facts;
            for series in first_sight(&facts, true).into_iter().map(|(series, _)| series).chain([
                Series::Superseded(facts.outcome()),
                Series::Unfinished { event_type, decision },
                Series::Risk { event_type, response, level, decision },
                Series::Feedback { value },
            ]).chain(Series::documented()) {
                prop_assert_eq!(Series::from_key(&series.to_key()), Some(series));
            }
        }

        /// Whatever happens to events, outcomes reached less outcomes replaced are the present outcomes.
        #[test]
        fn events_less_superseded_are_the_final_outcomes(
            lives in proptest::collection::vec(proptest::collection::vec(any_facts(), 1..6), 1..5)
        ) {
            let mut totals = BTreeMap::<Series, u64>::new();
            let mut standing = BTreeMap::<Outcome, u64>::new();
            for sightings in &lives {
                let mut moved = first_sight(&sightings[0], true);
                for pair in sightings.windows(2) {
                    moved.extend(revision(&pair[0], &pair[1], true));
                }
                for (series, by) in moved {
                    *totals.entry(series).or_default() += by;
                }
                *standing.entry(sightings[sightings.len() - 1].outcome()).or_default() += 1;
            }
            let total = |series| totals.get(&series).copied().unwrap_or(0);
            for outcome in lives.iter().flatten().map(Facts::outcome) {
                prop_assert_eq!(
                    total(Series::Events(outcome)) - total(Series::Superseded(outcome)),
                    standing.get(&outcome).copied().unwrap_or(0)
                );
            }
        }

        #[test]
        fn deltas_name_each_series_once_in_order_and_a_revision_to_the_same_moves_nothing(
            before in any_facts(), after in any_facts()
        ) {
            for deltas in [first_sight(&before, true), revision(&before, &after, true)] {
                prop_assert!(deltas.windows(2).all(|pair| pair[0].0 < pair[1].0));
                prop_assert!(deltas.iter().all(|(_, by)| *by >= 1));
            }
            prop_assert_eq!(revision(&before, &before, true), vec![]);
        }
    }
}
