//! The slots of connections. They limit the number of connections, and the time in which a client reads its response.
//! They choose the connection that is cut for a new one.
//!
//! ```text
//! waiting --a request is admitted--> responding --its response is there--> writing --all of it is written--> waiting
//! ```
//!
//! A connection is *waiting* while the server owes it no response. That is during the handshake, an incomplete head or
//! the comparison of a password, and while it is idle. When all slots are taken, a new connection gets the slot of
//!
//! 1. the connection that has been waiting for the longest time, if that is at least [`WAITING_MIN`];
//! 2. otherwise the connection whose client has read nothing for the longest time, if that is at least [`STALLED_MIN`];
//! 3. otherwise none. The new connection waits until a slot is free: a client that reads its response is not cut.
//!
//! So a client that opens connections or does not read cannot keep other clients out for long. A new connection has
//! time to send its request, and the 1024 connections of the system's queue are admitted within four seconds.
//!
//! [`ConnectionTable`] has the rules and takes the time as an argument. A [`ConnectionSlot`] is one connection's
//! handle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::scrapes::PendingScrape;

/// Maximum number of connections. A pair of Prometheus servers, the probes and a few people need ten.
const CONNECTIONS_MAX: usize = 64;

/// Maximum bytes of responses that wait to be read. A body that several clients share counts once. Above it the client
/// that has read nothing for the longest time is cut. It is room for ten responses of a deployment with 200 pools.
const UNREAD_BYTES_MAX: usize = 64 << 20;

/// Maximum time for writing a response. Prometheus gives up after 10 s by default.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// A waiting connection may be cut for a new one after this time. It suffices for a handshake and a request over a
/// distant network.
const WAITING_MIN: Duration = Duration::from_millis(250);

/// A client that has read nothing of its response for this time may be cut for a new connection. It equals
/// [`WAITING_MIN`], so that clients that do not read block others no longer than clients that send no request.
const STALLED_MIN: Duration = Duration::from_millis(250);

/// The connection slots of a server. Clones share them.
#[derive(Clone, Default)]
pub(super) struct ConnectionSlots(Arc<SharedConnections>);

#[derive(Default)]
struct SharedConnections {
    table: Mutex<ConnectionTable>,
    /// Notified when a connection changes its phase or ends.
    changed: Notify,
}

/// The slot of one connection. Dropping it frees the slot.
pub(crate) struct ConnectionSlot {
    number: u64,
    slots: ConnectionSlots,
    cut: CancellationToken,
    /// Whether a response was made before all of its request was read.
    has_unread: AtomicBool,
}

impl ConnectionSlots {
    /// Admits a new connection to a slot.
    ///
    /// # Errors
    /// No slot is free, and none can be freed before the returned time unless a connection [changes](Self::changed).
    pub(super) fn admit(&self) -> Result<Arc<ConnectionSlot>, Instant> {
        let (number, cut) = self.table().admit(Instant::now())?;
        Ok(Arc::new(ConnectionSlot { number, slots: self.clone(), cut, has_unread: AtomicBool::new(false) }))
    }

    /// Resolves when a connection changes its phase or ends.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Returns whether a client is being served, so that [`Self::cut_overdue`] has to be called later.
    pub(super) fn are_busy(&self) -> bool {
        self.table().slots.values().any(|connection| connection.phase != ConnectionPhase::Waiting)
    }

    /// Cuts the connections whose responses have not been read in time.
    pub(super) fn cut_overdue(&self) {
        self.table().cut_overdue(Instant::now());
    }

    fn table(&self) -> MutexGuard<'_, ConnectionTable> {
        self.0.table.lock()
    }
}

impl ConnectionSlot {
    /// Resolves when the connection has to end.
    pub(super) async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// Reports that a request was admitted.
    pub(crate) fn responding(&self) {
        self.update(|table, number| table.set_phase(number, ConnectionPhase::Responding, Instant::now()));
    }

    /// Reports that the response is made before all of its request is read. The connection then ends with the response.
    pub(crate) fn leave_unread(&self) {
        self.has_unread.store(true, Ordering::Relaxed);
    }

    /// Returns whether a response was made before all of its request was read.
    pub(super) fn has_unread(&self) -> bool {
        self.has_unread.load(Ordering::Relaxed)
    }

    /// Reports that the response with this body is ready.
    pub(super) fn writing(&self, body: Bytes, scrape: Option<PendingScrape>) {
        self.update(|table, number| table.writing(number, body, scrape, Instant::now()));
    }

    /// Reports that the client has read some bytes.
    pub(super) fn progressed(&self) {
        self.slots.table().progressed(self.number, Instant::now());
    }

    /// Reports that the connection has the whole body, a part of which may still be unwritten.
    pub(super) fn body_taken(&self) {
        self.slots.table().body_taken(self.number);
    }

    /// Reports that the connection has written everything that it had.
    pub(super) fn flushed(&self) {
        let mut scrape = None;
        self.update(|table, number| scrape = table.flushed(number, Instant::now()));
        if let Some(scrape) = scrape {
            scrape.served();
        }
    }

    fn update(&self, update: impl FnOnce(&mut ConnectionTable, u64)) {
        update(&mut self.slots.table(), self.number);
        self.slots.0.changed.notify_one();
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.update(|table, number| table.leave(number));
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ConnectionPhase {
    Waiting,
    Responding,
    Writing {
        /// When the client last read some bytes.
        progressed: Instant,
        /// Whether the connection has the whole body, a part of which may still be unwritten.
        is_taken: bool,
    },
}

struct ConnectionState {
    phase: ConnectionPhase,
    since: Instant,
    body: Bytes,
    scrape: Option<PendingScrape>,
    cut: CancellationToken,
}

/// The connections that have a slot, by number.
#[derive(Default)]
struct ConnectionTable {
    slots: BTreeMap<u64, ConnectionState>,
    next: u64,
}

impl ConnectionTable {
    fn admit(&mut self, now: Instant) -> Result<(u64, CancellationToken), Instant> {
        if self.slots.len() >= CONNECTIONS_MAX {
            let (from, number) = self.next_to_cut(now).ok_or(now + WRITE_MAX)?;
            if from > now {
                return Err(from);
            }
            self.cut(number);
        }
        let (number, cut) = (self.next, CancellationToken::new());
        self.next += 1;
        let connection = ConnectionState {
            phase: ConnectionPhase::Waiting,
            since: now,
            body: Bytes::new(),
            scrape: None,
            cut: cut.clone(),
        };
        self.slots.insert(number, connection);
        Ok((number, cut))
    }

    /// Returns the connection that is cut next for a new one, and the time from which it may be cut.
    fn next_to_cut(&self, now: Instant) -> Option<(Instant, u64)> {
        let waiting = self.slots.iter().filter(|(_, connection)| connection.phase == ConnectionPhase::Waiting);
        let waiting = waiting.map(|(number, connection)| (connection.since + WAITING_MIN, *number)).min();
        let stalled = self.slowest(|_| true).map(|(progressed, number)| (progressed + STALLED_MIN, number));
        match (waiting, stalled) {
            (Some(waiting), Some(stalled)) if waiting.0 > now && stalled.0 < waiting.0 => Some(stalled),
            (waiting, stalled) => waiting.or(stalled),
        }
    }

    /// Returns the connection whose client has read nothing of its response for the longest time.
    fn slowest(&self, counts: impl Fn(&ConnectionState) -> bool) -> Option<(Instant, u64)> {
        let writing = self.slots.iter().filter_map(|(number, connection)| match connection.phase {
            ConnectionPhase::Writing { progressed, .. } if counts(connection) => Some((progressed, *number)),
            _ => None,
        });
        writing.min()
    }

    fn cut(&mut self, number: u64) {
        if let Some(connection) = self.slots.remove(&number) {
            connection.cut.cancel();
        }
    }

    fn set_phase(&mut self, number: u64, phase: ConnectionPhase, now: Instant) {
        if let Some(connection) = self.slots.get_mut(&number) {
            (connection.phase, connection.since, connection.body, connection.scrape) = (phase, now, Bytes::new(), None);
        }
    }

    fn writing(&mut self, number: u64, body: Bytes, scrape: Option<PendingScrape>, now: Instant) {
        self.set_phase(number, ConnectionPhase::Writing { progressed: now, is_taken: false }, now);
        let own_body = body.as_ptr();
        if let Some(connection) = self.slots.get_mut(&number) {
            (connection.body, connection.scrape) = (body, scrape);
        }
        while self.unread_bytes() > UNREAD_BYTES_MAX
            && let Some((_, slowest)) = self.slowest(|connection| connection.body.as_ptr() != own_body)
        {
            self.cut(slowest);
        }
    }

    /// Returns the memory that unread bodies hold, in bytes. A body that several clients share counts once.
    fn unread_bytes(&self) -> usize {
        let bodies: BTreeMap<*const u8, usize> =
            self.slots.values().map(|connection| (connection.body.as_ptr(), connection.body.len())).collect();
        bodies.values().sum()
    }

    fn progressed(&mut self, number: u64, now: Instant) {
        if let Some(ConnectionState { phase: ConnectionPhase::Writing { progressed, .. }, .. }) =
            self.slots.get_mut(&number)
        {
            *progressed = now;
        }
    }

    fn body_taken(&mut self, number: u64) {
        if let Some(ConnectionState { phase: ConnectionPhase::Writing { is_taken, .. }, .. }) =
            self.slots.get_mut(&number)
        {
            *is_taken = true;
        }
    }

    fn flushed(&mut self, number: u64, now: Instant) -> Option<PendingScrape> {
        let connection = self.slots.get_mut(&number)?;
        let ConnectionPhase::Writing { is_taken: true, .. } = connection.phase else { return None };
        let scrape = connection.scrape.take();
        self.set_phase(number, ConnectionPhase::Waiting, now);
        scrape
    }

    fn cut_overdue(&mut self, now: Instant) {
        let is_overdue = |connection: &ConnectionState| {
            matches!(connection.phase, ConnectionPhase::Writing { .. })
                && now.saturating_duration_since(connection.since) >= WRITE_MAX
        };
        let overdue: Vec<u64> =
            self.slots.iter().filter(|(_, connection)| is_overdue(connection)).map(|(number, _)| *number).collect();
        overdue.into_iter().for_each(|number| self.cut(number));
    }

    fn leave(&mut self, number: u64) {
        self.slots.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns a full table, whose connections were admitted at intervals of a second, and the time of the last.
    fn full(begin: Instant) -> (ConnectionTable, Instant) {
        let mut table = ConnectionTable::default();
        let mut now = begin;
        for _ in 0..CONNECTIONS_MAX {
            now += SECOND;
            table.admit(now).unwrap();
        }
        (table, now)
    }

    fn write(table: &mut ConnectionTable, number: u64, body: &Bytes, now: Instant) {
        table.set_phase(number, ConnectionPhase::Responding, now);
        table.writing(number, body.clone(), None, now);
    }

    fn numbers(table: &ConnectionTable) -> Vec<u64> {
        table.slots.keys().copied().collect()
    }

    #[test]
    fn the_one_that_waits_for_the_longest_time_gives_way_and_is_told() {
        let (mut table, mut now) = full(Instant::now());
        let first = table.slots[&0].cut.clone();
        now += WAITING_MIN;
        table.admit(now).unwrap();
        assert!(first.is_cancelled() && !table.slots.contains_key(&0));
        assert_eq!(table.slots.len(), CONNECTIONS_MAX);
        // The next connection was served meanwhile, so it has not waited for long.
        write(&mut table, 1, &Bytes::from_static(b"x"), now + SECOND);
        table.body_taken(1);
        table.flushed(1, now + SECOND);
        table.admit(now + SECOND).unwrap();
        assert!(table.slots.contains_key(&1) && !table.slots.contains_key(&2));
    }

    #[test]
    fn a_connection_that_is_being_served_is_not_cut_and_the_newcomer_waits() {
        let (mut table, now) = full(Instant::now());
        numbers(&table).into_iter().for_each(|number| table.set_phase(number, ConnectionPhase::Responding, now));
        assert!(table.admit(now + WRITE_MAX * 2).is_err(), "it may take long to find a response");
        let body = Bytes::from_static(b"x");
        numbers(&table).into_iter().for_each(|number| table.writing(number, body.clone(), None, now));
        assert_eq!(table.admit(now + STALLED_MIN / 2).unwrap_err(), now + STALLED_MIN);
        let later = now + STALLED_MIN;
        numbers(&table).into_iter().filter(|number| *number != 7).for_each(|number| table.progressed(number, later));
        table.admit(later).unwrap();
        assert!(!table.slots.contains_key(&7), "its client takes nothing");
        assert_eq!(table.admit(later).unwrap_err(), later + WAITING_MIN, "the newcomer has time for its request");
        assert!(table.admit(later + WAITING_MIN).is_ok(), "and then gives way");
    }

    #[test]
    fn a_connection_that_waits_goes_before_one_that_is_being_served_however_slowly() {
        let (mut table, now) = full(Instant::now());
        write(&mut table, 7, &Bytes::from_static(b"x"), now - STALLED_MIN);
        table.admit(now).unwrap();
        assert!(table.slots.contains_key(&7) && !table.slots.contains_key(&0));
    }

    #[test]
    fn a_response_that_is_read_slowly_ends_in_time() {
        let (mut table, now) = full(Instant::now());
        write(&mut table, 3, &Bytes::from_static(b"x"), now);
        table.progressed(3, now + WRITE_MAX - SECOND);
        table.cut_overdue(now + WRITE_MAX - SECOND);
        assert!(table.slots.contains_key(&3));
        table.cut_overdue(now + WRITE_MAX);
        assert!(!table.slots.contains_key(&3));
        assert_eq!(table.slots.len(), CONNECTIONS_MAX - 1, "nobody who waits is overdue");
    }

    #[test]
    fn bodies_are_counted_once_and_the_slowest_is_cut_for_what_is_too_much() {
        let (mut table, now) = full(Instant::now());
        let half = Bytes::from(vec![0; UNREAD_BYTES_MAX / 2]);
        (0..20).for_each(|number| write(&mut table, number, &half, now));
        assert_eq!(table.unread_bytes(), half.len());
        let other = Bytes::from(vec![0; UNREAD_BYTES_MAX / 2]);
        write(&mut table, 30, &other, now + SECOND);
        assert_eq!(table.slots.len(), CONNECTIONS_MAX);
        let one_more = Bytes::from_static(b"x");
        write(&mut table, 31, &one_more, now + SECOND * 2);
        assert!(numbers(&table).iter().all(|number| *number >= 20), "those who wait for the first body");
        assert!(table.slots.contains_key(&30) && table.slots.contains_key(&31));
        let huge = Bytes::from(vec![0; UNREAD_BYTES_MAX + 1]);
        write(&mut table, 32, &huge, now + SECOND * 3);
        assert!(table.slots.contains_key(&32), "one body alone may be larger");
    }

    #[test]
    fn clients_of_one_body_are_not_cut_for_each_other() {
        let (mut table, now) = full(Instant::now());
        let huge = Bytes::from(vec![0; UNREAD_BYTES_MAX + 1]);
        (0..20).for_each(|number| write(&mut table, number, &huge, now));
        assert_eq!(table.slots.len(), CONNECTIONS_MAX);
    }

    #[test]
    fn a_response_is_out_when_its_body_was_taken_and_everything_is_flushed() {
        let (mut table, now) = full(Instant::now());
        write(&mut table, 5, &Bytes::from_static(b"x"), now);
        table.flushed(5, now);
        assert_ne!(table.slots[&5].phase, ConnectionPhase::Waiting, "only the head is out");
        table.body_taken(5);
        table.flushed(5, now);
        assert_eq!(table.slots[&5].phase, ConnectionPhase::Waiting);
        assert!(table.slots[&5].body.is_empty());
    }
}
