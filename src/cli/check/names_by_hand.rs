//! Whether the names listed by hand are in the pool.
//!
//! The operator wrote the names, so a report may show those that are missing. Where `privacy.username` hides names, it
//! shows their places instead.
//!
//! A name is tried by the call that polls it, AdminListUserAuthEvents, so no further permission is needed. The calls
//! keep the configured budget. Of many names a sample is tried, so that `check` ends soon.

use std::time::Duration;

use crate::source::{Source, SourceError};

/// Maximum number of names that are tried: 20 seconds at the default budget.
const TRIED_MAX: u32 = 100;

/// Maximum time for the trials. A smaller budget tries fewer names.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Maximum number of names that a report holds.
const NAMES_SHOWN: usize = 5;

/// The remedy for names that are not in the pool.
pub(super) const REMEDY: &str =
    "correct or remove them in usernames or usernames_file; the step \"names of users\" says which names count";

/// The result of the trials.
#[derive(Default)]
pub(super) struct NameTrials {
    /// How many names were to be tried.
    to_try: usize,
    tried: usize,
    /// The tried names that are not in the pool.
    missing: Vec<ListedName>,
    /// The error that ended the trials early.
    pub(super) stopped_by: Option<SourceError>,
}

/// A name listed by hand.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ListedName {
    /// Its place among `usernames` and then those of `usernames_file`, counted from 1.
    pub(super) place: usize,
    pub(super) name: String,
}

/// Tries names in their order, at most so many as the budget allows within a short time.
pub(super) async fn try_names(source: &impl Source, names: &[ListedName], requests_per_second: f64) -> NameTrials {
    let mut trials = NameTrials { to_try: names.len(), ..NameTrials::default() };
    let pause = Duration::try_from_secs_f64(1.0 / requests_per_second).unwrap_or(TIME_MAX);
    for listed in sample(names, trials_max(requests_per_second)) {
        tokio::time::sleep(pause).await;
        match source.page(&listed.name, None, 1).await {
            Ok(_) => {}
            // The service refuses some texts as names.
            Err(SourceError::UserNotFound | SourceError::InvalidParameter(_)) => trials.missing.push(listed.clone()),
            Err(error) => {
                trials.stopped_by = Some(error);
                break;
            }
        }
        trials.tried += 1;
    }
    trials
}

impl NameTrials {
    /// Describes the result for `by_hand` names. Missing names are shown as places if names are `hidden`.
    ///
    /// # Errors
    /// Names are not in the pool.
    pub(super) fn finding(&self, by_hand: usize, hidden: bool) -> Result<String, String> {
        let Self { to_try, tried, missing, .. } = self;
        let is_sample = tried < to_try;
        let of_sample = if is_sample { format!("; {tried} of {to_try} names were tried") } else { String::new() };
        if missing.is_empty() {
            return Ok(match (is_sample, by_hand) {
                (false, 1) => "the name is in the pool".to_owned(),
                (false, _) => format!("all {by_hand} names are in the pool"),
                (true, _) => format!("no name was found missing{of_sample}"),
            });
        }
        let show =
            |ListedName { place, name }: &ListedName| if hidden { format!("#{place}") } else { format!("{name:?}") };
        let shown: Vec<String> = missing.iter().take(NAMES_SHOWN).map(show).collect();
        let more = match missing.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let places = " (counting usernames, then usernames_file; privacy.username hides the names)";
        let places = if hidden { places } else { "" };
        Err(format!("not in the pool: {}{more}{places}{of_sample}", shown.join(", ")))
    }
}

/// Returns how many names a budget allows to try.
fn trials_max(requests_per_second: f64) -> usize {
    let affordable = |count: &u32| f64::from(*count) <= requests_per_second * TIME_MAX.as_secs_f64();
    (1..=TRIED_MAX).take_while(affordable).count().max(1)
}

/// Returns at most so many names, evenly spread over the list.
fn sample<T>(names: &[T], most: usize) -> impl Iterator<Item = &T> {
    names.iter().step_by(names.len().div_ceil(most).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_names_are_tried_as_the_budget_allows_soon() {
        for (rate, most) in [(0.01, 1), (0.1, 3), (1.0, 30), (5.0, 100), (1000.0, 100)] {
            assert_eq!(trials_max(rate), most, "{rate}");
        }
    }

    #[test]
    fn a_sample_is_spread_over_the_list() {
        let names: Vec<usize> = (0..250).collect();
        let sampled: Vec<usize> = sample(&names, 100).copied().collect();
        assert_eq!((sampled.len(), sampled.first(), sampled.last()), (84, Some(&0), Some(&249)));
        assert_eq!(sample(&names, 250).count(), 250);
        assert_eq!(sample::<usize>(&[], 100).count(), 0);
    }

    #[test]
    fn a_handful_of_names_is_shown_and_then_a_count() {
        let trials = |missing: usize, tried: usize, to_try: usize| NameTrials {
            to_try,
            tried,
            missing: (0..missing).map(|place| ListedName { place, name: format!("user-{place}") }).collect(),
            stopped_by: None,
        };
        for (trials, by_hand, said) in [
            (trials(0, 1, 1), 1, Ok("the name is in the pool")),
            (trials(0, 0, 0), 3, Ok("all 3 names are in the pool")),
            (trials(0, 100, 250), 300, Ok("no name was found missing; 100 of 250 names were tried")),
            (trials(2, 2, 2), 3, Err("not in the pool: \"user-0\", \"user-1\"")),
            (
                trials(7, 100, 250),
                250,
                Err("not in the pool: \"user-0\", \"user-1\", \"user-2\", \"user-3\", \"user-4\" and 2 more; 100 of \
                     250 names were tried"),
            ),
        ] {
            let found = trials.finding(by_hand, false);
            assert_eq!(found.as_deref().map_err(String::as_str), said);
        }
        let hidden =
            "not in the pool: #0, #1 (counting usernames, then usernames_file; privacy.username hides the names)";
        assert_eq!(trials(2, 2, 2).finding(3, true), Err(hidden.to_owned()));
    }
}
