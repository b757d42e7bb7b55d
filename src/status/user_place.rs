//! The place of one user in the exporter's work: when it was polled, when it is polled next, and what is watched.
//!
//! A pool's poller owns its users, so the poller answers. Questions wait in a short queue of their own, and the poller
//! takes one between two turns. A question costs it a look at one user. It answers with a [`PlaceReading`], which reads
//! the ledger on a thread of the one that asked.

use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::schedule::PoolSlot;
use serde::{Serialize, Serializer};
use tokio::sync::{mpsc, oneshot};

use super::{optional_time, time};

/// Maximum time for an answer. A poller answers within milliseconds, and the ledger's disk may be slow.
pub const PLACE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Questions that may wait for one poller. Further ones wait with their connections, of which there are few.
pub const QUESTIONS_MAX: usize = 4;

/// Maximum number of watched events that an answer names.
pub const WATCHED_MAX: usize = 100;

/// The part of an answer that reads the ledger, for a thread that may block.
pub type PlaceReading = Box<dyn FnOnce() -> Result<UserPlace, PlaceError> + Send>;

/// A question to a poller for the place of a user.
pub struct PlaceQuestion {
    /// The pool.
    pub pool: PoolSlot,
    /// The user's name, as calls for it have it.
    pub username: String,
    /// Takes the answer. The one that asked may be gone.
    pub answer: oneshot::Sender<Result<PlaceReading, PlaceError>>,
}

/// Asks the poller of one pool.
#[derive(Clone, Debug)]
pub struct PlaceSender {
    pool: PoolSlot,
    questions: mpsc::Sender<PlaceQuestion>,
}

impl PlaceSender {
    /// Sends the questions for a pool to its poller.
    pub fn new(pool: PoolSlot, questions: mpsc::Sender<PlaceQuestion>) -> Self {
        Self { pool, questions }
    }

    pub(super) async fn ask(&self, username: &str) -> Result<UserPlace, PlaceError> {
        let (answer, answered) = oneshot::channel();
        let question = PlaceQuestion { pool: self.pool, username: username.to_owned(), answer };
        let asked = async {
            self.questions.send(question).await.map_err(|_| PlaceError::NotPolled)?;
            let reading = answered.await.map_err(|_| PlaceError::NotPolled)??;
            let read = tokio::task::spawn_blocking(reading).await;
            read.unwrap_or_else(|panic| Err(PlaceError::Ledger(panic.to_string())))
        };
        tokio::time::timeout(PLACE_WAIT_MAX, asked).await.unwrap_or(Err(PlaceError::Busy))
    }
}

/// Why there is no place to show. Names no user.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlaceError {
    /// No pool with this id is configured.
    #[error("no such user pool is configured here; /status lists the pools")]
    NoSuchPool,
    /// The pool is not polled: it was not reached yet, or its events come from its export alone.
    #[error(
        "nobody polls this user pool: it was not reached yet, or its events come from its export alone; /status says \
         which"
    )]
    NotPolled,
    /// The pool does not follow such a user.
    #[error(
        "this user is not followed here: the pool has no such username, or the configuration leaves the user out \
         (exclude, disabled, federated, another shard); where records have a hash, ask by the username itself"
    )]
    NotFollowed,
    /// The name is another name of a followed user.
    #[error("this is another name of a user that is followed under its username; ask for that")]
    OtherName,
    /// There was no answer in time.
    #[error("the poller did not answer within 5 seconds; ask again")]
    Busy,
    /// The ledger cannot be read.
    #[error("the user's record cannot be read at present: {0}")]
    Ledger(String),
}

/// The place of one user. Times are RFC 3339 in UTC; unknown values are null.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct UserPlace {
    /// User pool id.
    pub user_pool_id: String,
    /// The username; absent where `privacy.username` hides it from the records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The record's `user.hash`, where `privacy.username` is "hash".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_hash: Option<String>,
    /// When this was said.
    #[serde(serialize_with = "time")]
    pub now: UnixMillis,
    /// The state by the latest answers: "ok", "missing" or "failing".
    pub state: PlaceState,
    /// Failures in a row.
    pub failures: u8,
    /// When the user was first followed. Null while the ledger has no record.
    #[serde(serialize_with = "optional_time")]
    pub joined: Option<UnixMillis>,
    /// Older events are history.
    #[serde(serialize_with = "optional_time")]
    pub live_since: Option<UnixMillis>,
    /// When the user was last polled, to a second; null if not since the start of the process.
    #[serde(serialize_with = "optional_time")]
    pub last_poll: Option<UnixMillis>,
    /// The reason of the next turn.
    pub next: NextPollReason,
    /// When the next turn is expected; null where that is not known. A time that has passed means: as soon as the
    /// budget allows.
    #[serde(serialize_with = "optional_time")]
    pub next_poll: Option<UnixMillis>,
    /// The time between two polls at the present budget.
    pub interval_seconds_estimate: Option<u64>,
    /// How often the user is polled in a day at the present budget.
    #[serde(serialize_with = "optional_rounded")]
    pub polls_per_day_estimate: Option<f64>,
    /// Events to expect in a day.
    #[serde(serialize_with = "optional_rounded")]
    pub events_per_day_estimate: Option<f64>,
    /// The part of the events that is still to be read: "live" events, "history" only, or null.
    pub catching_up: Option<CatchingUp>,
    /// The creation of the newest event that was read.
    #[serde(serialize_with = "optional_time")]
    pub last_event: Option<UnixMillis>,
    /// The number of events in progress that are watched for their outcome.
    pub watched_events: usize,
    /// The first of them, by the end of their watch.
    pub watched: Vec<WatchedEvent>,
}

/// The state of a user by its latest answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaceState {
    /// Cognito answers calls for the user.
    Ok,
    /// Cognito does not know the user.
    Missing,
    /// Cognito answers calls for the user with errors.
    Failing,
}

/// Why a user has its next turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NextPollReason {
    /// A turn is under way.
    UnderWay,
    /// The user was not polled before, and waits for a free call.
    First,
    /// The user's own poll.
    Poll,
    /// A look at an event in progress.
    Look,
    /// A part of the user's events is still to be read.
    Backlog,
    /// A turn failed, and the user is left alone until then.
    Retry,
    /// The pool is in trouble, and one user at a time probes it.
    PoolHeld,
    /// The export tells the events. A random sample polls the pool, and the time of this user's poll is not known.
    Sample,
}

/// The part of a user's events that is still to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CatchingUp {
    /// Live events.
    Live,
    /// Events from before the user was followed.
    History,
}

/// An event in progress that is watched for its outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct WatchedEvent {
    /// The EventType, in the words of the metrics' labels.
    pub event_type: &'static str,
    /// Its creation.
    #[serde(serialize_with = "optional_time")]
    pub created: Option<UnixMillis>,
    /// When it is read again.
    #[serde(serialize_with = "time")]
    pub next_look: UnixMillis,
    /// The end of the watch.
    #[serde(serialize_with = "time")]
    pub watched_until: UnixMillis,
}

/// Writes an estimate with two decimals.
fn optional_rounded<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) => serializer.serialize_f64((number * 100.0).round() / 100.0),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::StatusBoard;

    #[tokio::test(start_paused = true)]
    async fn a_poller_that_does_not_answer_holds_nobody_up() {
        let board = StatusBoard::new(UnixMillis(0));
        assert_eq!(board.user_place("eu-west-1_A", "ann").await, Err(PlaceError::NoSuchPool));
        board.backlog_walks("eu-west-1_A", 0);
        assert_eq!(board.user_place("eu-west-1_A", "ann").await, Err(PlaceError::NotPolled));
        let (questions, mut asked) = mpsc::channel(QUESTIONS_MAX);
        board.answers_places("eu-west-1_A", PlaceSender::new(PoolSlot(3), questions));
        assert_eq!(board.user_place("eu-west-1_A", "ann").await, Err(PlaceError::Busy));
        let question = asked.recv().await.unwrap();
        assert_eq!((question.pool, question.username.as_str()), (PoolSlot(3), "ann"));
        drop(asked);
        assert_eq!(board.user_place("eu-west-1_A", "ann").await, Err(PlaceError::NotPolled));
        board.answers_no_places("eu-west-1_A");
        assert_eq!(board.user_place("eu-west-1_A", "ann").await, Err(PlaceError::NotPolled));
    }
}
