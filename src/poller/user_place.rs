//! Answers questions for the place of one user. The table of users and the schedule give a part at once. The rest is a
//! reading of the ledger, which the one that asked performs.

use std::time::Instant as StdInstant;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::masking::Mode;
use cognito_auth_core::privacy::Privacy;
use cognito_auth_core::schedule::{Backlog, NextTurn, UserPlan};
use tokio::time::Instant;

use super::Poller;
use super::user_table::{UserHealth, UserView};
use crate::ledger::UserRecord;
use crate::source::Source;
use crate::status::user_place::{
    CatchingUp, NextPollReason, PlaceError, PlaceQuestion, PlaceReading, PlaceState, UserPlace, WATCHED_MAX,
    WatchedEvent,
};

/// A day in seconds.
const DAY: f64 = 86_400.0;

impl<S: Source> Poller<S> {
    /// Answers a question. The one that asked may be gone.
    pub(super) fn answer(&self, question: PlaceQuestion) {
        let PlaceQuestion { pool, username, answer } = question;
        let place = self.pools.get(&pool).ok_or(PlaceError::NotPolled).and_then(|polled| {
            let slot = self.users.slot(pool, &username).ok_or(if polled.twins.holds(&username) {
                PlaceError::OtherName
            } else {
                PlaceError::NotFollowed
            })?;
            let clock = self.audit_clock();
            let plan = self.schedule.plan(slot, clock.now);
            let (view, plan) = self.users.view(slot).zip(plan).ok_or(PlaceError::NotFollowed)?;
            Ok(self.reading(polled.id().to_owned(), username, view, plan))
        });
        let _gone = answer.send(place);
    }

    /// The rest of the answer, which reads the ledger.
    fn reading(&self, pool_id: String, username: String, view: UserView, plan: UserPlan) -> PlaceReading {
        let ledger = self.context.ledger.clone();
        let (now, wall) = (Instant::now().into_std(), self.context.clock.now());
        Box::new(move || {
            let record = ledger.user(&pool_id, &username).map_err(|error| PlaceError::Ledger(error.to_string()))?;
            let (username, user_hash) = shown_name(ledger.privacy(), username);
            let (next, next_poll) = next_turn(plan.next, now, wall);
            let interval = plan.interval.map(|interval| interval.as_secs_f64());
            let place = UserPlace {
                user_pool_id: pool_id,
                username,
                user_hash,
                now: wall,
                state: match view.health {
                    UserHealth::Ok => PlaceState::Ok,
                    UserHealth::Missing => PlaceState::Missing,
                    UserHealth::Failing => PlaceState::Failing,
                },
                failures: view.failures,
                joined: None,
                live_since: None,
                last_poll: view.polled,
                next,
                next_poll,
                interval_seconds_estimate: plan.interval.map(|interval| interval.as_secs()),
                polls_per_day_estimate: interval.map(|seconds| DAY / seconds.max(f64::EPSILON)),
                events_per_day_estimate: plan.events_per_day,
                catching_up: plan.backlog.map(|backlog| match backlog {
                    Backlog::Live => CatchingUp::Live,
                    Backlog::History => CatchingUp::History,
                }),
                last_event: None,
                watched_events: 0,
                watched: Vec::new(),
            };
            Ok(record.map_or(place.clone(), |record| of_record(place, &record)))
        })
    }
}

/// Adds what the ledger has of the user.
fn of_record(place: UserPlace, record: &UserRecord) -> UserPlace {
    let cursor = &record.cursor;
    let mut watched: Vec<_> = cursor
        .watched_events()
        .map(|(sighting, watch)| WatchedEvent {
            event_type: sighting.facts.event_type.as_str(),
            created: sighting.dates.map(|dates| dates.newest),
            next_look: watch.next_look,
            watched_until: watch.until,
        })
        .collect();
    let watched_events = watched.len();
    watched.sort_unstable_by_key(|event| (event.watched_until, event.created));
    watched.truncate(WATCHED_MAX);
    UserPlace {
        joined: Some(record.joined),
        live_since: Some(cursor.live_since()),
        last_event: cursor.last_seen().map(|last| last.time),
        watched_events,
        watched,
        ..place
    }
}

/// The name and the hash that may be shown: those of the user's log records.
fn shown_name(privacy: &Privacy, username: String) -> (Option<String>, Option<String>) {
    match privacy.modes().username {
        Mode::Keep => (Some(username), None),
        // The ledger's name ends with the hash.
        Mode::Hash => (None, privacy.ledger_name(&username).rsplit(' ').next().map(str::to_owned)),
        Mode::Drop | Mode::Truncate => (None, None),
    }
}

/// The reason and the time of the next turn.
fn next_turn(next: NextTurn, now: StdInstant, wall: UnixMillis) -> (NextPollReason, Option<UnixMillis>) {
    let at = |at: StdInstant| match at.checked_duration_since(now) {
        Some(later) => wall.plus(later),
        None => wall.minus(now.duration_since(at)),
    };
    match next {
        NextTurn::UnderWay => (NextPollReason::UnderWay, Some(wall)),
        NextTurn::First => (NextPollReason::First, Some(wall)),
        NextTurn::Poll(due) => (NextPollReason::Poll, Some(at(due))),
        NextTurn::Look(due) => (NextPollReason::Look, Some(at(due))),
        NextTurn::Backlog => (NextPollReason::Backlog, Some(wall)),
        NextTurn::Retry(due) => (NextPollReason::Retry, Some(at(due))),
        NextTurn::PoolHeld(until) => (NextPollReason::PoolHeld, until.map(at)),
        NextTurn::Sample => (NextPollReason::Sample, None),
    }
}
