//! The places of connections: how many there are, which connection gives way when all are taken, and how long an answer
//! may take to be read.
//!
//! ```text
//! waiting --a request is admitted--> answering --its answer is there--> writing --all of it is written--> waiting
//! ```
//!
//! A connection is *waiting* while it owes nothing: a handshake, a head that is not complete, a password that is compared,
//! an idle connection. When all places are taken, a newcomer gets the place of
//!
//! 1. the connection that has been waiting for the longest time, [`HEAD_MIN`] at least; where there is none,
//! 2. the connection whose client has taken nothing of its answer for the longest time, [`STALLED_MIN`] at least;
//! 3. otherwise none: a client that is being answered is not cut, and the newcomer waits until a place is free.
//!
//! So a client that opens connections, or does not read, keeps nobody out for long: a newcomer has time to send its request,
//! and the 1024 connections that may wait in the system's queue have their turn within four seconds. The rules are [`ConnectionTable`]'s, which takes
//! the time as an argument; a [`ConnectionSlot`] is one connection's share in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::scrapes::PendingScrape;

/// Connections at a time. A pair of Prometheus servers, the probes and a few people need ten.
const CONNECTIONS_MAX: usize = 64;

/// Bytes of answers that wait to be read, each body counted once however many clients wait for it. Beyond it the client that
/// has taken nothing for the longest time is cut. Ten answers of a deployment with 200 pools.
const UNREAD_BYTES_MAX: usize = 64 << 20;

/// How long an answer may take to be written. Prometheus gives up after 10 s, unless it is told to wait for longer.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// A connection that waits may be cut for a newcomer after this long: time for a handshake and a request from far away.
const HEAD_MIN: Duration = Duration::from_millis(250);

/// A client that has taken nothing of its answer for this long may be cut for a newcomer. As short as [`HEAD_MIN`], so that
/// clients that do not read keep nobody out for longer than clients that do not ask.
const STALLED_MIN: Duration = Duration::from_millis(250);

/// The places of a server. Clones share them.
#[derive(Clone, Default)]
pub(super) struct ConnectionSlots(Arc<SharedConnections>);

#[derive(Default)]
struct SharedConnections {
    table: Mutex<ConnectionTable>,
    /// A connection is doing something else now.
    changed: Notify,
}

/// The place of one connection. It is free again when the last clone of it is gone.
pub(super) struct ConnectionSlot {
    number: u64,
    places: ConnectionSlots,
    cut: CancellationToken,
}

impl ConnectionSlots {
    /// A place for a newcomer.
    ///
    /// # Errors
    /// None is free, nor can be made free before this time unless a connection [changes](Self::changed).
    pub(super) fn enter(&self) -> Result<Arc<ConnectionSlot>, Instant> {
        let (number, cut) = self.table().enter(Instant::now())?;
        Ok(Arc::new(ConnectionSlot { number, places: self.clone(), cut }))
    }

    /// Resolves when a connection does something else than it did.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Whether a client is being answered, so that [`Self::cut_overdue`] may find something later.
    pub(super) fn are_busy(&self) -> bool {
        self.table().places.values().any(|held| held.doing != Doing::Waiting)
    }

    /// Cuts the connections whose answers have not been read in time.
    pub(super) fn cut_overdue(&self) {
        self.table().cut_overdue(Instant::now());
    }

    fn table(&self) -> MutexGuard<'_, ConnectionTable> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionSlot {
    /// Resolves when the connection has to end.
    pub(super) async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// A request was admitted.
    pub(super) fn answering(&self) {
        self.tell(|table, number| table.become_(number, Doing::Answering, Instant::now()));
    }

    /// The answer is there, and its body is this.
    pub(super) fn writing(&self, body: Bytes, seen: Option<PendingScrape>) {
        self.tell(|table, number| table.writing(number, body, seen, Instant::now()));
    }

    /// The client has taken some bytes.
    pub(super) fn moved(&self) {
        self.places.table().moved(self.number, Instant::now());
    }

    /// The connection has taken the whole body, to write it.
    pub(super) fn body_taken(&self) {
        self.places.table().body_taken(self.number);
    }

    /// Everything that the connection had to write is written.
    pub(super) fn flushed(&self) {
        let mut seen = None;
        self.tell(|table, number| seen = table.flushed(number, Instant::now()));
        if let Some(seen) = seen {
            seen.answered();
        }
    }

    fn tell(&self, what: impl FnOnce(&mut ConnectionTable, u64)) {
        what(&mut self.places.table(), self.number);
        self.places.0.changed.notify_one();
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.tell(|table, number| table.leave(number));
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    Waiting,
    Answering,
    Writing {
        /// When the client last took some bytes.
        moved: Instant,
        /// The connection has the whole body, in part still to be written.
        is_taken: bool,
    },
}

struct ConnectionState {
    doing: Doing,
    since: Instant,
    body: Bytes,
    seen: Option<PendingScrape>,
    cut: CancellationToken,
}

/// Who has a place, and what for.
#[derive(Default)]
struct ConnectionTable {
    places: BTreeMap<u64, ConnectionState>,
    next: u64,
}

impl ConnectionTable {
    fn enter(&mut self, now: Instant) -> Result<(u64, CancellationToken), Instant> {
        if self.places.len() >= CONNECTIONS_MAX {
            let (from, number) = self.next_to_give_way(now).ok_or(now + WRITE_MAX)?;
            if from > now {
                return Err(from);
            }
            self.cut(number);
        }
        let (number, cut) = (self.next, CancellationToken::new());
        self.next += 1;
        let held =
            ConnectionState { doing: Doing::Waiting, since: now, body: Bytes::new(), seen: None, cut: cut.clone() };
        self.places.insert(number, held);
        Ok((number, cut))
    }

    /// Who gives way next, and from when on.
    fn next_to_give_way(&self, now: Instant) -> Option<(Instant, u64)> {
        let waiting = self.places.iter().filter(|(_, held)| held.doing == Doing::Waiting);
        let waiting = waiting.map(|(number, held)| (held.since + HEAD_MIN, *number)).min();
        let stalled = self.slowest(|_| true).map(|(moved, number)| (moved + STALLED_MIN, number));
        match (waiting, stalled) {
            (Some(waiting), Some(stalled)) if waiting.0 > now && stalled.0 < waiting.0 => Some(stalled),
            (waiting, stalled) => waiting.or(stalled),
        }
    }

    /// Of those whose answers are being written, the one whose client has taken nothing for the longest time.
    fn slowest(&self, counts: impl Fn(&ConnectionState) -> bool) -> Option<(Instant, u64)> {
        let writing = self.places.iter().filter_map(|(number, held)| match held.doing {
            Doing::Writing { moved, .. } if counts(held) => Some((moved, *number)),
            _ => None,
        });
        writing.min()
    }

    fn cut(&mut self, number: u64) {
        if let Some(held) = self.places.remove(&number) {
            held.cut.cancel();
        }
    }

    fn become_(&mut self, number: u64, doing: Doing, now: Instant) {
        if let Some(held) = self.places.get_mut(&number) {
            (held.doing, held.since, held.body, held.seen) = (doing, now, Bytes::new(), None);
        }
    }

    fn writing(&mut self, number: u64, body: Bytes, seen: Option<PendingScrape>, now: Instant) {
        self.become_(number, Doing::Writing { moved: now, is_taken: false }, now);
        let own = body.as_ptr();
        if let Some(held) = self.places.get_mut(&number) {
            (held.body, held.seen) = (body, seen);
        }
        while self.unread_bytes() > UNREAD_BYTES_MAX
            && let Some((_, slowest)) = self.slowest(|held| held.body.as_ptr() != own)
        {
            self.cut(slowest);
        }
    }

    /// What the bodies that are being written hold of the memory: one that several clients wait for is there once.
    fn unread_bytes(&self) -> usize {
        let bodies: BTreeMap<*const u8, usize> =
            self.places.values().map(|held| (held.body.as_ptr(), held.body.len())).collect();
        bodies.values().sum()
    }

    fn moved(&mut self, number: u64, now: Instant) {
        if let Some(ConnectionState { doing: Doing::Writing { moved, .. }, .. }) = self.places.get_mut(&number) {
            *moved = now;
        }
    }

    fn body_taken(&mut self, number: u64) {
        if let Some(ConnectionState { doing: Doing::Writing { is_taken, .. }, .. }) = self.places.get_mut(&number) {
            *is_taken = true;
        }
    }

    fn flushed(&mut self, number: u64, now: Instant) -> Option<PendingScrape> {
        let held = self.places.get_mut(&number)?;
        let Doing::Writing { is_taken: true, .. } = held.doing else { return None };
        let seen = held.seen.take();
        self.become_(number, Doing::Waiting, now);
        seen
    }

    fn cut_overdue(&mut self, now: Instant) {
        let is_overdue = |held: &ConnectionState| {
            matches!(held.doing, Doing::Writing { .. }) && now.saturating_duration_since(held.since) >= WRITE_MAX
        };
        let overdue: Vec<u64> =
            self.places.iter().filter(|(_, held)| is_overdue(held)).map(|(number, _)| *number).collect();
        overdue.into_iter().for_each(|number| self.cut(number));
    }

    fn leave(&mut self, number: u64) {
        self.places.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A full table, its connections entered one second after the other; the time of the last.
    fn full(begin: Instant) -> (ConnectionTable, Instant) {
        let mut table = ConnectionTable::default();
        let mut now = begin;
        for _ in 0..CONNECTIONS_MAX {
            now += SECOND;
            table.enter(now).unwrap();
        }
        (table, now)
    }

    fn write(table: &mut ConnectionTable, number: u64, body: &Bytes, now: Instant) {
        table.become_(number, Doing::Answering, now);
        table.writing(number, body.clone(), None, now);
    }

    fn numbers(table: &ConnectionTable) -> Vec<u64> {
        table.places.keys().copied().collect()
    }

    #[test]
    fn the_one_that_waits_for_the_longest_time_gives_way_and_is_told() {
        let (mut table, mut now) = full(Instant::now());
        let first = table.places[&0].cut.clone();
        now += HEAD_MIN;
        table.enter(now).unwrap();
        assert!(first.is_cancelled() && !table.places.contains_key(&0));
        assert_eq!(table.places.len(), CONNECTIONS_MAX);
        // The next one has been answered meanwhile, so it has not waited for long.
        write(&mut table, 1, &Bytes::from_static(b"x"), now + SECOND);
        table.body_taken(1);
        table.flushed(1, now + SECOND);
        table.enter(now + SECOND).unwrap();
        assert!(table.places.contains_key(&1) && !table.places.contains_key(&2));
    }

    #[test]
    fn a_connection_that_is_being_answered_is_not_cut_and_the_newcomer_waits() {
        let (mut table, now) = full(Instant::now());
        numbers(&table).into_iter().for_each(|number| table.become_(number, Doing::Answering, now));
        assert!(table.enter(now + WRITE_MAX * 2).is_err(), "it may take long to find an answer");
        let body = Bytes::from_static(b"x");
        numbers(&table).into_iter().for_each(|number| table.writing(number, body.clone(), None, now));
        assert_eq!(table.enter(now + STALLED_MIN / 2).unwrap_err(), now + STALLED_MIN);
        let later = now + STALLED_MIN;
        numbers(&table).into_iter().filter(|number| *number != 7).for_each(|number| table.moved(number, later));
        table.enter(later).unwrap();
        assert!(!table.places.contains_key(&7), "its client takes nothing");
        assert_eq!(table.enter(later).unwrap_err(), later + HEAD_MIN, "the newcomer has time for its request");
        assert!(table.enter(later + HEAD_MIN).is_ok(), "and then gives way");
    }

    #[test]
    fn a_connection_that_waits_goes_before_one_that_is_being_answered_however_slowly() {
        let (mut table, now) = full(Instant::now());
        write(&mut table, 7, &Bytes::from_static(b"x"), now - STALLED_MIN);
        table.enter(now).unwrap();
        assert!(table.places.contains_key(&7) && !table.places.contains_key(&0));
    }

    #[test]
    fn an_answer_that_is_read_slowly_ends_in_time() {
        let (mut table, now) = full(Instant::now());
        write(&mut table, 3, &Bytes::from_static(b"x"), now);
        table.moved(3, now + WRITE_MAX - SECOND);
        table.cut_overdue(now + WRITE_MAX - SECOND);
        assert!(table.places.contains_key(&3));
        table.cut_overdue(now + WRITE_MAX);
        assert!(!table.places.contains_key(&3));
        assert_eq!(table.places.len(), CONNECTIONS_MAX - 1, "nobody who waits is overdue");
    }

    #[test]
    fn bodies_are_counted_once_and_the_slowest_is_cut_for_what_is_too_much() {
        let (mut table, now) = full(Instant::now());
        let half = Bytes::from(vec![0; UNREAD_BYTES_MAX / 2]);
        (0..20).for_each(|number| write(&mut table, number, &half, now));
        assert_eq!(table.unread_bytes(), half.len());
        let other = Bytes::from(vec![0; UNREAD_BYTES_MAX / 2]);
        write(&mut table, 30, &other, now + SECOND);
        assert_eq!(table.places.len(), CONNECTIONS_MAX);
        let one_more = Bytes::from_static(b"x");
        write(&mut table, 31, &one_more, now + SECOND * 2);
        assert!(numbers(&table).iter().all(|number| *number >= 20), "those who wait for the first body");
        assert!(table.places.contains_key(&30) && table.places.contains_key(&31));
        let huge = Bytes::from(vec![0; UNREAD_BYTES_MAX + 1]);
        write(&mut table, 32, &huge, now + SECOND * 3);
        assert!(table.places.contains_key(&32), "one body alone may be larger");
    }

    #[test]
    fn clients_of_one_body_are_not_cut_for_each_other() {
        let (mut table, now) = full(Instant::now());
        let huge = Bytes::from(vec![0; UNREAD_BYTES_MAX + 1]);
        (0..20).for_each(|number| write(&mut table, number, &huge, now));
        assert_eq!(table.places.len(), CONNECTIONS_MAX);
    }

    #[test]
    fn an_answer_is_out_when_its_body_was_taken_and_everything_is_flushed() {
        let (mut table, now) = full(Instant::now());
        write(&mut table, 5, &Bytes::from_static(b"x"), now);
        table.flushed(5, now);
        assert_ne!(table.places[&5].doing, Doing::Waiting, "only the head is out");
        table.body_taken(5);
        table.flushed(5, now);
        assert_eq!(table.places[&5].doing, Doing::Waiting);
        assert!(table.places[&5].body.is_empty());
    }
}
